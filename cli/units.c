/* units.c - strict parsing and short printing of numbers, sizes and durations.
 *
 * A quantity is read as an exact decimal, mantissa / 10^decimals, and scaled by its unit in 128 bits, so 1.5GB is exactly
 * 1500000000 and 0.3B is refused rather than rounded. Pure; any thread.
 */
#include "cli/units.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct unit {
	const char *name;
	uint64_t scale;
};

static const struct unit size_units[] = {
	{"B", 1},
	{"kB", UINT64_C(1000)},
	{"MB", UINT64_C(1000000)},
	{"GB", UINT64_C(1000000000)},
	{"TB", UINT64_C(1000000000000)},
	{"KiB", UINT64_C(1) << 10},
	{"MiB", UINT64_C(1) << 20},
	{"GiB", UINT64_C(1) << 30},
	{"TiB", UINT64_C(1) << 40},
};

static const struct unit duration_units[] = {
	{"ns", 1},
	{"us", UINT64_C(1000)},
	{"ms", UINT64_C(1000000)},
	{"s", UINT64_C(1000000000)},
	{"m", UINT64_C(60000000000)},
	{"h", UINT64_C(3600000000000)},
};

/* An exact decimal: digits[.digits]; rest_out points behind it. */
struct decimal {
	uint64_t mantissa;
	uint64_t divisor; /* power of ten */
	const char *rest;
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool decimal_parse(const char *text, struct decimal *out)
{
	const char *at = text;
	bool fraction = false;

	*out = (struct decimal){0, 1, text};
	if (!is_digit(*at))
		return false;
	for (; is_digit(*at) || (*at == '.' && !fraction); at++) {
		if (*at == '.') {
			if (!is_digit(at[1]))
				return false;
			fraction = true;
			continue;
		}
		if (__builtin_mul_overflow(out->mantissa, UINT64_C(10), &out->mantissa) ||
			__builtin_add_overflow(out->mantissa, (uint64_t)(*at - '0'), &out->mantissa) ||
			out->divisor > UINT64_C(1000000000000))
			return false;
		out->divisor *= fraction ? 10 : 1;
	}
	out->rest = at;
	return true;
}

bool units_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *out, struct reason *why)
{
	uint64_t value = 0;
	const char *at = text;

	for (; is_digit(*at); at++) {
		if (__builtin_mul_overflow(value, UINT64_C(10), &value) ||
			__builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
			goto range;
	}
	if (at == text || *at)
		return reason_set(why, "'%.64s' is not a whole number", text);
	if (value < min || value > max)
		goto range;
	*out = value;
	return true;
range:
	if (max == UINT64_MAX)
		return reason_set(why, "'%.64s' is out of range; allowed: %" PRIu64 " and more", text, min);
	return reason_set(why, "'%.64s' is out of range; allowed: %" PRIu64 " to %" PRIu64, text, min, max);
}

static const struct unit *unit_find(const struct unit *units, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++) {
		if (!strcasecmp(units[i].name, name))
			return &units[i];
	}
	return NULL;
}

/* mantissa / divisor * scale, if that is whole and fits. */
static bool decimal_scale(const struct decimal *decimal, uint64_t scale, uint64_t *out)
{
	unsigned __int128 scaled = (unsigned __int128)decimal->mantissa * scale;

	if (scaled % decimal->divisor || scaled / decimal->divisor > UINT64_MAX)
		return false;
	*out = (uint64_t)(scaled / decimal->divisor);
	return true;
}

bool units_parse_size(const char *text, uint64_t min, uint64_t max, uint64_t *out_bytes, struct reason *why)
{
	static const size_t n = sizeof size_units / sizeof size_units[0];
	struct decimal decimal;
	const struct unit *unit;
	uint64_t value;
	char low[32], high[32];

	if (!decimal_parse(text, &decimal))
		return reason_set(why, "'%.64s' is not a size; write it like 4096, 256MiB or 1.5GB", text);
	unit = unit_find(size_units, n, *decimal.rest ? decimal.rest : "B");
	if (!unit)
		return reason_set(
			why, "'%.64s' has no known unit; units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB", text);
	if (!decimal_scale(&decimal, unit->scale, &value))
		return reason_set(why, "'%.64s' is not a whole number of bytes below 2^64", text);
	if (value < min || value > max)
		return reason_set(why, "'%.64s' is out of range; allowed: %s%s%s", text,
			units_format_bytes(min, low), max == UINT64_MAX ? " and more" : " to ",
			max == UINT64_MAX ? "" : units_format_bytes(max, high));
	*out_bytes = value;
	return true;
}

bool units_parse_duration(
	const char *text, uint64_t min_ns, uint64_t max_ns, uint64_t *out_ns, struct reason *why)
{
	static const size_t n = sizeof duration_units / sizeof duration_units[0];
	struct decimal decimal;
	const struct unit *unit;
	uint64_t value;
	char low[32], high[32];

	if (!decimal_parse(text, &decimal))
		return reason_set(why, "'%.64s' is not a duration; write it like 60s, 1.5ms or 0", text);
	unit = unit_find(duration_units, n, decimal.rest);
	if (!unit && !*decimal.rest && decimal.mantissa == 0)
		unit = &duration_units[0];
	if (!unit)
		return reason_set(why, "'%.64s' has no known unit; units: ns, us, ms, s, m, h", text);
	if (!decimal_scale(&decimal, unit->scale, &value))
		return reason_set(why, "'%.64s' is not a whole number of nanoseconds below 2^64", text);
	if (value < min_ns || value > max_ns)
		return reason_set(why, "'%.64s' is out of range; allowed: %s%s%s", text,
			units_format_duration(min_ns, low), max_ns == UINT64_MAX ? " and more" : " to ",
			max_ns == UINT64_MAX ? "" : units_format_duration(max_ns, high));
	*out_ns = value;
	return true;
}

/* Three significant digits and the largest unit that keeps the number at one or more; units step times as large as the one before. */
static char *format_scaled(
	uint64_t number, double step, const char *const *names, uint32_t last, char buffer[32])
{
	double value = (double)number, limit = step == 1024 ? 1023.995 : 999.95;
	uint32_t unit = 0;

	while (value >= limit && unit < last) {
		value /= step;
		unit++;
	}
	if (unit == 0)
		(void)snprintf(buffer, 32, "%" PRIu64 " %s", number, names[0]);
	else
		(void)snprintf(buffer, 32,
			value < 10    ? "%.2f %s"
			: value < 100 ? "%.1f %s"
				      : "%.0f %s",
			value, names[unit]);
	return buffer;
}

char *units_format_bytes(uint64_t bytes, char buffer[32])
{
	static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};

	return format_scaled(bytes, 1024, names, 6, buffer);
}

char *units_format_duration(uint64_t duration_ns, char buffer[32])
{
	static const char *const names[] = {"ns", "us", "ms", "s"};

	return format_scaled(duration_ns, 1000, names, 3, buffer);
}

char *units_format_count(uint64_t count, char buffer[32])
{
	char digits[24];
	size_t len = (size_t)snprintf(digits, sizeof digits, "%" PRIu64, count), used = 0;

	for (size_t i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			buffer[used++] = ',';
		buffer[used++] = digits[i];
	}
	buffer[used] = '\0';
	return buffer;
}
