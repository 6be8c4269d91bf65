/* chaos.c - --chaos as text, histograms and series: values that are known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "cli/chaos_result.h"
#include "cli/chaos_shared.h"
#include "cli/chaos_spec.h"

static void a_full_spec_is_read(void **state)
{
	struct chaos_spec spec;
	struct reason why;
	(void)state;
	assert_true(
		chaos_spec_parse("kill=0.01,stop=.5,restart,cancel=1e-1,timeout=0,refuse=0.25", &spec, &why));
	assert_true(spec.on && spec.restart);
	assert_true(spec.kill == 0.01 && spec.stop == 0.5 && spec.cancel == 0.1 && spec.timeout == 0 &&
		    spec.refuse == 0.25);
	assert_true(chaos_spec_parse(NULL, &spec, &why));
	assert_false(spec.on);
}

static void bad_specs_are_refused_with_field_and_value(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{"", "'' is none of kill=P, stop=P, restart, cancel=P, timeout=P, refuse=P"},
		{"kill=0.1,", "'' is none of"},
		{"kill=1.5", "kill: '1.5' is not a probability from 0 to 1"},
		{"stop=-0.1", "stop: '-0.1' is not"},
		{"cancel=nan", "cancel: 'nan' is not"},
		{"cancel=0x1", "cancel: '0x1' is not"},
		{"cancel=1e-999999999x", "is not a probability"},
		{"timeout=", "timeout: '' is not"},
		{"refuse", "refuse: needs a probability, as in refuse=0.1"},
		{"kill=0.1,kill=0.2", "kill is given twice"},
		{"kill=0.1,restart=1", "restart: '1': it takes no value"},
		{"restart,cancel=0.1", "restart: nothing is killed"},
		{"cancle=0.1", "did you mean 'cancel'?"},
		{"cancel=0.6,timeout=0.3,refuse=0.2",
			"cancel 0.6, timeout 0.3 and refuse 0.2 sum to more than 1"},
		{"kill=0.6,stop=0.6,restart", "kill 0.6 and stop 0.6 sum to more than 1"},
		{"kill =0.1", "'kill ' is none of"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct chaos_spec spec = {.kill = 7};
		struct reason why = {""};
		assert_false(chaos_spec_parse(bad[i].text, &spec, &why));
		assert_non_null(strstr(why.text, "--chaos: "));
		if (!strstr(why.text, bad[i].says))
			fail_msg("'%s' says: %s", bad[i].text, why.text);
		assert_true(spec.kill == 7); /* outputs are written only on success */
	}
}

static void the_calm_part_is_a_twentieth_and_never_empty(void **state)
{
	(void)state;
	assert_int_equal(chaos_calm_from(1), 0);
	assert_int_equal(chaos_calm_from(20), 19);
	assert_int_equal(chaos_calm_from(21), 19);
	assert_int_equal(chaos_calm_from(2000), 1900);
}

static void a_histogram_is_exact_to_a_sixteenth(void **state)
{
	struct chaos_histogram *histogram = calloc(1, sizeof(*histogram));
	(void)state;
	assert_non_null(histogram);
	assert_int_equal(chaos_histogram_at(histogram, 0.5), 0);
	for (uint64_t i = 1; i <= 100000; i++)
		chaos_histogram_add(histogram, i * 1000);
	static const double shares[] = {0.001, 0.5, 0.9, 0.99, 0.999};
	for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
		double expected = shares[i] * 100000 * 1000;
		double found = (double)chaos_histogram_at(histogram, shares[i]);
		assert_true(found >= expected && found <= expected * (1 + 1.0 / 16));
	}
	assert_int_equal(chaos_histogram_at(histogram, 1), 100000 * 1000);
	assert_int_equal(histogram->most, 100000 * 1000);
	chaos_histogram_add(histogram, 0);
	chaos_histogram_add(histogram, 15);
	chaos_histogram_add(histogram, 16);
	chaos_histogram_add(histogram, UINT64_MAX);
	assert_int_equal(chaos_histogram_at(histogram, 1), UINT64_MAX);
	free(histogram);
}

static void histograms_add_up(void **state)
{
	struct chaos_histogram *both = calloc(2, sizeof(*both));
	(void)state;
	assert_non_null(both);
	chaos_histogram_add(&both[0], 5);
	chaos_histogram_add(&both[1], 9);
	chaos_histogram_merge(&both[0], &both[1]);
	assert_int_equal(both[0].n, 2);
	assert_int_equal(both[0].most, 9);
	assert_int_equal(chaos_histogram_at(&both[0], 0.5), 5);
	free(both);
}

static void a_series_keeps_its_peaks_in_fixed_room(void **state)
{
	struct chaos_series series = {0};
	(void)state;
	for (uint32_t i = 0; i < 1000; i++)
		chaos_series_add(&series, i == 777 ? 9 : 1);
	assert_true(series.n <= CHAOS_SERIES && series.n >= CHAOS_SERIES / 2);
	assert_int_equal(series.highest, 9);
	assert_int_equal(series.samples, 1000);
	assert_int_equal(series.sum, 1008);
	assert_int_equal(series.most[777 / series.per_point], 9);
	for (uint32_t i = 0; i < series.n; i++)
		assert_int_equal(series.most[i], i == 777 / series.per_point ? 9 : 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_spec_is_read),
		cmocka_unit_test(bad_specs_are_refused_with_field_and_value),
		cmocka_unit_test(the_calm_part_is_a_twentieth_and_never_empty),
		cmocka_unit_test(a_histogram_is_exact_to_a_sixteenth),
		cmocka_unit_test(histograms_add_up),
		cmocka_unit_test(a_series_keeps_its_peaks_in_fixed_room),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
