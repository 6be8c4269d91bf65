/* base_faults.c - which harm is wanted: what is read, what is refused, how often it strikes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "base/clock.h"
#include "base/faults.h"

static void words_and_rates_are_read(void **state)
{
	struct kvfi_faults faults;

	(void)state;
	assert_int_equal(kvfi_faults_parse("", &faults), KVF_OK);
	assert_int_equal(faults.within_ns, 10 * KVFI_NS_PER_MS);
	for (int i = 0; i < KVFI_HARMS; i++)
		assert_int_equal(faults.rates[i], 0);
	assert_int_equal(
		kvfi_faults_parse("seed=7,within=20,drop=0.25,late=1,doubt=.5,fail=0", &faults), KVF_OK);
	assert_int_equal(faults.seed, 7);
	assert_int_equal(faults.within_ns, 20 * KVFI_NS_PER_MS);
	assert_int_equal(faults.rates[KVFI_HARM_DROP], KVFI_HARM_ONE / 4);
	assert_int_equal(faults.rates[KVFI_HARM_LATE], KVFI_HARM_ONE);
	assert_int_equal(faults.rates[KVFI_HARM_DOUBT], KVFI_HARM_ONE / 2);
	assert_int_equal(faults.rates[KVFI_HARM_FAIL], 0);
}

static void what_makes_no_sense_is_named(void **state)
{
	static const struct {
		const char *text, *says;
	} wrongs[] = {
		{"drop", "faults: drop: \"\" is not a rate"},
		{"drop=", "faults: drop: \"\" is not a rate"},
		{"drop=2", "faults: drop: \"2\" is not a rate"},
		{"drop=1.5", "faults: drop: \"1.5\" is not a rate"},
		{"drop=-0.1", "faults: drop: \"-0.1\" is not a rate"},
		{"drop=0.1.2", "faults: drop: \"0.1.2\" is not a rate"},
		{"drop=.", "faults: drop: \".\" is not a rate"},
		{"drop=1e-3", "faults: drop: \"1e-3\" is not a rate"},
		{"drop=0.1,", "ends with a comma"},
		{"drop=0.1,late=1,drop=0.1", "faults: \"drop\" is given twice"},
		{"drop=0.1,,late=1", "faults: \"\" is none of"},
		{"lose=0.1", "faults: \"lose\" is none of"},
		{"seed=x", "faults: seed: \"x\" is no number"},
		{"within=0", "faults: within: \"0\" is not in 1..60000"},
		{"within=60001", "faults: within: \"60001\" is not in 1..60000"},
	};
	struct kvfi_faults faults = {.seed = 99};

	(void)state;
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		assert_int_equal(kvfi_faults_parse(wrongs[i].text, &faults), KVF_EINVAL);
		if (strstr(kvf_error(), wrongs[i].says) == NULL)
			fail_msg("%s: \"%s\" does not say \"%s\"", wrongs[i].text, kvf_error(),
				wrongs[i].says);
		assert_int_equal(faults.seed, 99);
	}
}

static void a_rate_is_how_often_it_strikes(void **state)
{
	struct kvfi_dice dice = {.salt = 5}, same;
	uint32_t n = 0;

	(void)state;
	assert_int_equal(kvfi_faults_parse("seed=3,drop=0.1,late=1", &dice.faults), KVF_OK);
	same = dice;
	for (uint64_t i = 0; i < 10000; i++) {
		n += kvfi_dice_strike(&dice, KVFI_HARM_DROP);
		assert_true(kvfi_dice_strike(&dice, KVFI_HARM_LATE));
		assert_false(kvfi_dice_strike(&dice, KVFI_HARM_FAIL));
		for (int k = 0; k < 3; k++)
			(void)kvfi_dice_draw(&same);
		assert_int_equal(kvfi_dice_draw(&dice), kvfi_dice_draw(&same));
	}
	assert_in_range(n, 850, 1150);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_and_rates_are_read),
		cmocka_unit_test(what_makes_no_sense_is_named),
		cmocka_unit_test(a_rate_is_how_often_it_strikes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
