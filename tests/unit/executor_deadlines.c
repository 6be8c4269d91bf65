/* executor_deadlines.c - a guard's deadlines, and the drains that wait, in virtual time. */
#include "executor_rig.h"

static struct rig rig;

static int open_rig(void **state)
{
	(void)state;
	rig_open_plain(&rig);
	return 0;
}

static int close_rig(void **state)
{
	(void)state;
	rig_close(&rig);
	return 0;
}

/* ---- deadlines ---- */

static void t_p05_a_timeout_is_about_one_request(void **state)
{
	(void)state;
	rig_add_with(&rig, 1, 1 * RIG_S, 0);
	rig_add_with(&rig, 2, 0, 0);
	rig_add_with(&rig, 3, 100 * RIG_S, 0);
	rig_now_ns += 2 * RIG_S;
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_FAILED, 1, KVF_TIMED_OUT);
	rig_expect_nothing(&rig);
	assert_true(rig.cancels[1] >= 1);
	assert_int_equal(rig.cancels[2] + rig.cancels[3], 0);
	rig_terminate(&rig, 1);
	rig_tick(&rig);
	assert_int_equal(rig.n_freed, 0); /* its memory follows its proof */
	assert_int_equal(kvf_guard_wants_shutdown(rig.guard), 0);
	rig_end(&rig, 1, KVF_CANCELLED);
	rig_end(&rig, 2, KVF_OK);
	rig_end(&rig, 3, KVF_OK);
	rig_tick(&rig);
	assert_true(rig_was_freed(&rig, 1));
	rig_expect(&rig, KVF_GUARD_COMPLETED, 2, KVF_OK);
	rig_expect(&rig, KVF_GUARD_COMPLETED, 3, KVF_OK);
}

static void t_p08_deadlines_are_judged_on_idle_ticks(void **state)
{
	(void)state;
	rig_add_with(&rig, 1, 1 * RIG_S, 0);
	for (int i = 0; i < 10; i++) {
		rig_tick(&rig); /* no event, no batch, nothing else in the guard */
		rig_expect_nothing(&rig);
		rig_now_ns += RIG_S / 10 - 1;
	}
	rig_now_ns += 100;
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_FAILED, 1, KVF_TIMED_OUT);
}

/* Fifty requests, one transfer at a time, 0.9 s each, 1 s allowed. */
static void t_p09_time_in_the_queue_is_no_time_of_the_transfer(void **state)
{
	(void)state;
	for (uint64_t id = 1; id <= 50; id++)
		rig_add_with(&rig, id, 0, 1 * RIG_S);
	for (uint64_t id = 1; id <= 50; id++) {
		rig.states[id] = KVF_STATE_TRANSFERRING;
		rig_tick(&rig);
		rig_expect_nothing(&rig);
		rig_now_ns += 9 * RIG_S / 10;
		rig_tick(&rig);
		rig_expect_nothing(&rig);
		rig.states[id] = KVF_STATE_KV_TRANSFERRED;
		rig_end(&rig, id, KVF_OK);
		rig_tick(&rig);
		rig_expect(&rig, KVF_GUARD_COMPLETED, id, KVF_OK);
	}
	rig_add_with(&rig, 60, 0, 1 * RIG_S);
	rig.states[60] = KVF_STATE_TRANSFERRING;
	rig_tick(&rig);
	rig_now_ns += 1 * RIG_S;
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_FAILED, 60, KVF_TIMED_OUT);
}

static void t_p10_a_request_that_never_starts_has_a_deadline(void **state)
{
	(void)state;
	rig_add_with(&rig, 1, 5 * RIG_S, 1 * RIG_S);
	rig_now_ns += 4 * RIG_S;
	rig_tick(&rig);
	rig_expect_nothing(&rig);
	rig_now_ns += 1 * RIG_S;
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_FAILED, 1, KVF_TIMED_OUT);
}

/* The loop was away for a minute; when it comes back, what has ended has ended, however many events stand before it. */
static void t_p13_an_end_that_has_come_is_no_timeout(void **state)
{
	(void)state;
	rig_add_with(&rig, 1, 1 * RIG_S, 0);
	for (uint32_t i = 0; i < RIG_MAX_EVENTS - 2; i++)
		rig_event(&rig, KVF_EVENT_PEER, 0, KVF_OK);
	rig_end(&rig, 1, KVF_OK);
	rig_now_ns += 60 * RIG_S;
	for (int i = 0; i < 10 && rig.n_results == 0; i++)
		rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_COMPLETED, 1, KVF_OK);
}

static void t_p33_a_timeout_of_0_is_off(void **state)
{
	(void)state;
	rig_add_with(&rig, 1, 0, 0);
	rig_add_with(&rig, 2, UINT64_MAX, UINT64_MAX);
	rig.states[1] = rig.states[2] = KVF_STATE_TRANSFERRING;
	for (int i = 0; i < 100; i++) {
		rig_now_ns += 86400 * RIG_S;
		rig_tick(&rig);
	}
	rig_expect_nothing(&rig);
}

/* ---- drains ---- */

static void finish_one(struct rig *of)
{
	static const enum kvf_status ends[] = {KVF_OK, KVF_CANCELLED, KVF_PEER_LOST};

	if (of->waits <= 3)
		rig_end(of, of->waits, ends[of->waits - 1]);
}

static void drains_wait_with_a_bound(void **state)
{
	const uint64_t start_ns = rig_now_ns;

	(void)state;
	for (uint64_t id = 1; id <= 4; id++)
		rig_add(&rig, id);
	rig_terminate(&rig, 1);
	rig.on_wait = finish_one;
	RIG_WORKS(kvf_guard_drain_results(rig.guard, 2, 100 * RIG_S)); /* of 1 nothing is told */
	assert_int_equal(rig.waits, 3);
	RIG_REFUSES(KVF_TIMED_OUT, kvf_guard_drain_results(rig.guard, 3, 1 * RIG_S), "2 results, 3");
	RIG_REFUSES(KVF_TIMED_OUT, kvf_guard_drain_released(rig.guard, 1 * RIG_S), "1 requests");
	assert_true(rig_now_ns - start_ns >= 2 * RIG_S && rig_now_ns - start_ns < 3 * RIG_S);
	assert_true(rig_was_freed(&rig, 1));
	rig_end(&rig, 4, KVF_OK);
	RIG_WORKS(kvf_guard_drain_released(rig.guard, 0));
}

int main(void)
{
#define OVER(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)
	const struct CMUnitTest tests[] = {
		OVER(t_p05_a_timeout_is_about_one_request),
		OVER(t_p08_deadlines_are_judged_on_idle_ticks),
		OVER(t_p09_time_in_the_queue_is_no_time_of_the_transfer),
		OVER(t_p10_a_request_that_never_starts_has_a_deadline),
		OVER(t_p13_an_end_that_has_come_is_no_timeout),
		OVER(t_p33_a_timeout_of_0_is_off),
		OVER(drains_wait_with_a_bound),
	};

	return cmocka_run_group_tests_name("executor_deadlines", tests, NULL, NULL);
}
