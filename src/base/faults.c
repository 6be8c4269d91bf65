/* faults.c - see faults.h. Pure. */
#include "base/faults.h"

#include <string.h>
#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"

static const char *const names[KVFI_HARMS] = {
	"late", "hold", "full", "fail", "break", "drop", "repeat", "damage", "doubt"};

/* A decimal number of 0 to 1 with digits and one point alone: strtod would take a locale's comma, hex and infinity. */
static bool parse_rate(const char *at, size_t len, uint32_t *rate_out)
{
	uint32_t rate = 0, unit = KVFI_HARM_ONE;
	bool point = false;

	for (size_t i = 0; i < len; i++) {
		if (at[i] == '.' && !point && len > 1) {
			point = true;
			continue;
		}
		if (at[i] < '0' || at[i] > '9' || (!point && i > 0))
			return false;
		if (point)
			unit /= 10;
		rate += (uint32_t)(at[i] - '0') * unit;
	}
	*rate_out = rate;
	return len > 0 && rate <= KVFI_HARM_ONE;
}

static bool parse_number(const char *at, size_t len, uint64_t *number_out)
{
	uint64_t number = 0;

	for (size_t i = 0; i < len; i++) {
		if (at[i] < '0' || at[i] > '9' || number > (UINT64_MAX - 9) / 10)
			return false;
		number = number * 10 + (uint64_t)(at[i] - '0');
	}
	*number_out = number;
	return len > 0;
}

/* A word that stands in the text before `at` too. */
static bool given_before(const char *text, const char *at, size_t name_len)
{
	for (const char *word = text; word < at; word += strcspn(word, ",") + 1)
		if (strncmp(word, at, name_len) == 0 && word[name_len] == '=')
			return true;
	return false;
}

static enum kvf_status parse_word(const char *at, size_t len, struct kvfi_faults *faults)
{
	const char *equals = memchr(at, '=', len);
	size_t name_len = equals != NULL ? (size_t)(equals - at) : len;
	const char *value = equals != NULL ? equals + 1 : "";
	size_t value_len = equals != NULL ? len - name_len - 1 : 0;
	uint64_t within_ms;

	if (name_len == 4 && memcmp(at, "seed", 4) == 0) {
		if (parse_number(value, value_len, &faults->seed))
			return KVF_OK;
		return kvfi_fail(KVF_EINVAL, "faults: seed: \"%.*s\" is no number", (int)value_len, value);
	}
	if (name_len == 6 && memcmp(at, "within", 6) == 0) {
		if (!parse_number(value, value_len, &within_ms) || within_ms < 1 || within_ms > 60000)
			return kvfi_fail(KVF_EINVAL, "faults: within: \"%.*s\" is not in 1..60000 ms",
				(int)value_len, value);
		faults->within_ns = within_ms * KVFI_NS_PER_MS;
		return KVF_OK;
	}
	for (uint32_t i = 0; i < KVFI_HARMS; i++) {
		if (strlen(names[i]) != name_len || memcmp(names[i], at, name_len) != 0)
			continue;
		if (parse_rate(value, value_len, &faults->rates[i]))
			return KVF_OK;
		return kvfi_fail(KVF_EINVAL, "faults: %s: \"%.*s\" is not a rate of 0 to 1", names[i],
			(int)value_len, value);
	}
	return kvfi_fail(KVF_EINVAL,
		"faults: \"%.*s\" is none of seed, within, late, hold, full, fail, break, drop, repeat, "
		"damage, doubt",
		(int)name_len, at);
}

enum kvf_status kvfi_faults_parse(const char *text, struct kvfi_faults *faults_out)
{
	struct kvfi_faults faults = {.seed = 1, .within_ns = 10 * KVFI_NS_PER_MS};

	for (const char *at = text; *at != '\0';) {
		size_t len = strcspn(at, ",");
		enum kvf_status status = parse_word(at, len, &faults);

		if (status != KVF_OK)
			return status;
		if (given_before(text, at, strcspn(at, "=")))
			return kvfi_fail(
				KVF_EINVAL, "faults: \"%.*s\" is given twice", (int)strcspn(at, "="), at);
		at += len;
		if (*at == ',' && *++at == '\0')
			return kvfi_fail(KVF_EINVAL, "faults: \"%s\" ends with a comma", text);
	}
	*faults_out = faults;
	return KVF_OK;
}

uint64_t kvfi_dice_draw(struct kvfi_dice *dice)
{
	return kvfi_hash_u64(dice->faults.seed ^ dice->salt, ++dice->drawn);
}

bool kvfi_dice_strike(struct kvfi_dice *dice, enum kvfi_harm harm)
{
	uint64_t drawn = kvfi_dice_draw(dice);

	return dice->faults.rates[harm] > 0 && drawn % KVFI_HARM_ONE < dice->faults.rates[harm];
}

uint64_t kvfi_dice_due_ns(struct kvfi_dice *dice, uint64_t now_ns)
{
	return now_ns + 1 + kvfi_dice_draw(dice) % dice->faults.within_ns;
}
