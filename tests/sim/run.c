/* run.c - kvf_sim_run as a program uses it: what it refuses, and that a run leaves nothing behind that the next one could see. */
#include "kvferry/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static void options_that_make_no_sense_are_refused_by_name(void **state)
{
	struct kvf_sim_options options;
	struct kvf_sim_report report;

	(void)state;
	assert_int_equal(kvf_sim_run(NULL, &report), KVF_EINVAL);
	kvf_sim_options_init(&options);
	assert_int_equal(kvf_sim_run(&options, NULL), KVF_EINVAL);
	options.max_ranks = 1;
	assert_int_equal(kvf_sim_run(&options, &report), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "max_ranks: 1"));
	kvf_sim_options_init(&options);
	options.faults = KVF_SIM_ALL_FAULTS + 1;
	assert_int_equal(kvf_sim_run(&options, &report), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "faults"));
	kvf_sim_options_init(&options);
	options.struct_bytes--;
	assert_int_equal(kvf_sim_run(&options, &report), KVF_EINVAL);
}

static void every_fault_has_a_name_of_its_own(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < KVF_SIM_FAULTS; i++)
		for (uint32_t j = 0; j < i; j++)
			assert_string_not_equal(kvf_sim_fault_name(i), kvf_sim_fault_name(j));
	assert_null(kvf_sim_fault_name(KVF_SIM_FAULTS));
}

static struct kvf_sim_report run(uint64_t seed)
{
	struct kvf_sim_options options;
	struct kvf_sim_report report;

	kvf_sim_options_init(&options);
	options.seed = seed;
	assert_int_equal(kvf_sim_run(&options, &report), KVF_OK);
	if (report.failed)
		fail_msg("seed %llu: %s", (unsigned long long)seed, report.failure);
	return report;
}

/* The whole report, its hash of everything that happened included, though another run was in between. */
static void a_seed_is_the_same_run_in_the_same_process(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct kvf_sim_report first = run(seed), other = run(seed + 100), again = run(seed);

		assert_memory_equal(&first, &again, sizeof(first));
		assert_true(first.hash != other.hash);
		assert_true(first.sessions > 0 && first.events > 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_that_make_no_sense_are_refused_by_name),
		cmocka_unit_test(every_fault_has_a_name_of_its_own),
		cmocka_unit_test(a_seed_is_the_same_run_in_the_same_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
