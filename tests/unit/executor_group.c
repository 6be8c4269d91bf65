/* executor_group.c - guards of the ranks of a group: the same ids, the same ends, the same order, whoever is slow, silent or gone. */
#include "executor_ranks.h"

#include "base/alloc.h"

/* ---- what is decided ---- */

static void completed_is_completed_on_all_ranks(void **state)
{
	(void)state;
	add_all(1);
	for (uint32_t i = 0; i < RANKS; i++) {
		tick_all(3);
		expect_nothing();
		rig_end(&rigs[i], 1, KVF_OK);
	}
	tick_all(3);
	expect_all(KVF_GUARD_COMPLETED, 1, KVF_OK);
	tick_all(3);
	expect_nothing();
}

/* Every set of ends that two ranks can have, the other two still moving: cancelled over failed over completed, and completed alone is no end. */
static void cancelled_over_failed_over_completed(void **state)
{
	static const enum kvf_status ends[] = {KVF_OK, KVF_STREAM_BROKEN, KVF_CANCELLED};

	(void)state;
	for (uint32_t a = 0; a < 3; a++) {
		for (uint32_t b = 0; b < 3; b++) {
			const uint64_t id = 10 + a * 3 + b;
			const uint32_t worst = a > b ? a : b;

			add_all(id);
			rig_outcome(&rigs[1], id, ends[a]);
			rig_outcome(&rigs[3], id, ends[b]);
			tick_all(3);
			if (worst == 0) {
				expect_nothing();
				rig_end(&rigs[0], id, KVF_OK);
				rig_end(&rigs[2], id, KVF_OK);
				tick_all(3);
				expect_all(KVF_GUARD_COMPLETED, id, KVF_OK);
			} else {
				expect_all(
					worst == 1 ? KVF_GUARD_FAILED : KVF_GUARD_CANCELLED, id, ends[worst]);
				assert_true(rigs[0].cancels[id] > 0 && rigs[2].cancels[id] > 0);
			}
			tick_all(2);
			expect_nothing();
		}
	}
}

static void the_first_rank_that_failed_says_why(void **state)
{
	(void)state;
	add_all(1);
	rig_outcome(&rigs[3], 1, KVF_PEER_LOST);
	rig_outcome(&rigs[2], 1, KVF_SUM_MISMATCH);
	tick_all(3);
	expect_all(KVF_GUARD_FAILED, 1, KVF_SUM_MISMATCH);
}

static void a_cancel_on_one_rank_cancels_on_all(void **state)
{
	(void)state;
	add_all(1);
	assert_int_equal(
		kvf_guard_cancel(rigs[2].guard, 1, 0, "the client has gone"), KVF_CANCEL_REQUESTED_IN_FLIGHT);
	rig_expect_nothing(&rigs[2]); /* not before the others */
	tick_all(3);
	expect_all(KVF_GUARD_CANCELLED, 1, KVF_CANCELLED);
	for (uint32_t i = 0; i < RANKS; i++) {
		assert_true(rigs[i].cancels[1] > 0);
		rig_terminate(&rigs[i], 1);
	}
	tick_all(3);
	for (uint32_t i = 0; i < RANKS; i++) {
		assert_int_equal(rigs[i].n_freed, 0);
		rig_end(&rigs[i], 1, KVF_CANCELLED);
	}
	tick_all(1);
	for (uint32_t i = 0; i < RANKS; i++)
		assert_true(rig_was_freed(&rigs[i], 1));
	expect_nothing();
}

/* A late success of the rank that was slow changes nothing; nor is the failure told again. */
static void t_p06_what_was_decided_stays(void **state)
{
	(void)state;
	add_all(1);
	rig_outcome(&rigs[0], 1, KVF_PEER_LOST);
	tick_all(3);
	expect_all(KVF_GUARD_FAILED, 1, KVF_PEER_LOST);
	for (uint32_t i = 1; i < RANKS; i++)
		rig_end(&rigs[i], 1, KVF_OK);
	tick_all(3);
	expect_nothing();
}

static void ready_is_ready_everywhere(void **state)
{
	(void)state;
	add_all(1);
	add_all(2);
	for (uint32_t i = 0; i < RANKS; i++) {
		tick_all(2);
		expect_nothing();
		rig_event(&rigs[i], KVF_EVENT_READY, 2, KVF_OK);
	}
	tick_all(2);
	expect_all(KVF_GUARD_READY, 2, KVF_OK);
	for (uint32_t i = 0; i < RANKS - 1; i++)
		rig_event(&rigs[i], KVF_EVENT_READY, 1, KVF_OK);
	for (int n = 0; n < 10; n++)
		for (uint32_t i = 0; i < RANKS; i++)
			assert_int_equal(kvf_guard_tick(rigs[i].guard, 5),
				0); /* asking for more gives no unready one */
}

/* A rank that has not added a request yet does not know it: nobody acts before it does. */
static void t_p14_nobody_acts_on_a_request_that_a_rank_does_not_have_yet(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < RANKS - 1; i++) {
		rig_add(&rigs[i], 1);
		rig_end(&rigs[i], 1, i == 0 ? KVF_PEER_LOST : KVF_OK);
	}
	tick_all(10);
	expect_nothing();
	rig_add(&rigs[RANKS - 1], 1);
	tick_all(3);
	expect_all(KVF_GUARD_FAILED, 1, KVF_PEER_LOST);
}

/* The client is answered at once by the rank whose time is over; what all do follows in the group's order. */
static void t_p05_a_timeout_is_told_at_once_and_acted_on_together(void **state)
{
	struct kvf_guard_result result;

	(void)state;
	for (uint32_t i = 0; i < RANKS; i++) {
		rig_add_with(&rigs[i], 1, i == 0 ? 1 * RIG_S : 0, 0);
		rig_add(&rigs[i], 2);
	}
	tick_all(2);
	rig_now_ns += 1 * RIG_S;
	rig_tick(&rigs[0]);
	rig_expect(&rigs[0], KVF_GUARD_EXPIRED, 1, KVF_TIMED_OUT);
	tick_all(3);
	result = rig_take(&rigs[0]);
	assert_true(
		result.kind == KVF_GUARD_FAILED && result.status == KVF_TIMED_OUT && result.answered == 1);
	for (uint32_t i = 1; i < RANKS; i++) {
		result = rig_take(&rigs[i]);
		assert_true(result.kind == KVF_GUARD_FAILED && result.status == KVF_TIMED_OUT &&
			    result.answered == 0);
		assert_true(rigs[i].cancels[1] > 0);
		assert_int_equal(rigs[i].cancels[2], 0);
	}
	tick_all(3);
	expect_nothing();
}

/* ---- any order of events ---- */

struct plan {
	enum kvf_status ends[RANKS];
	uint32_t at[RANKS], added_at[RANKS]; /* ticks */
};

static uint64_t seed_state;

static uint32_t draw(uint32_t n)
{
	seed_state = seed_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(seed_state >> 33) % n;
}

static void draw_plan(struct plan *plan)
{
	const bool good = draw(2) == 0;

	for (uint32_t i = 0; i < RANKS; i++) {
		plan->ends[i] = good || draw(3) != 0 ? KVF_OK
		                : draw(2) == 0       ? KVF_STREAM_BROKEN
		                                     : KVF_CANCELLED;
		plan->added_at[i] = draw(20);
		plan->at[i] = plan->added_at[i] + draw(60);
	}
}

static enum kvf_guard_kind end_of(const struct plan *plan)
{
	enum kvf_guard_kind kind = KVF_GUARD_COMPLETED;

	for (uint32_t i = 0; i < RANKS; i++) {
		if (plan->ends[i] == KVF_CANCELLED)
			kind = KVF_GUARD_CANCELLED;
		else if (plan->ends[i] != KVF_OK && kind == KVF_GUARD_COMPLETED)
			kind = KVF_GUARD_FAILED;
	}
	return kind;
}

#define REQUESTS 40u

static void play(uint32_t rank, const struct plan *plans, uint32_t tick, uint32_t *terminated)
{
	for (uint64_t id = 0; id < REQUESTS; id++) {
		if (plans[id].added_at[rank] == tick)
			rig_add(&rigs[rank], id);
		if (plans[id].at[rank] == tick)
			rig_end(&rigs[rank], id, plans[id].ends[rank]);
	}
	if (draw(3) != 0)
		rig_tick(&rigs[rank]); /* ranks are not in step */
	for (; *terminated < rigs[rank].n_results; ++*terminated)
		rig_terminate(&rigs[rank], rigs[rank].results[*terminated].request_id);
}

/* The order of decisions follows from the reports: each rank tells the same list, and of each request the end that its ranks had. Ends that were
 * decided early may hide a later worse one, so a bad end is compared as bad. */
static void check_lists(const struct plan *plans, uint64_t seed)
{
	for (uint32_t i = 0; i < RANKS; i++) {
		if (rigs[i].n_results != REQUESTS)
			fail_msg("seed %llu: rank %u told %u of %u", (unsigned long long)seed, i,
				rigs[i].n_results, REQUESTS);
		for (uint32_t r = 0; r < REQUESTS; r++) {
			const struct kvf_guard_result *a = &rigs[0].results[r], *b = &rigs[i].results[r];
			const enum kvf_guard_kind end = end_of(&plans[b->request_id]);

			if (a->request_id != b->request_id || a->kind != b->kind || a->status != b->status)
				fail_msg("seed %llu: place %u: rank 0 has request %llu, rank %u has %llu",
					(unsigned long long)seed, r, (unsigned long long)a->request_id, i,
					(unsigned long long)b->request_id);
			assert_int_equal(b->kind == KVF_GUARD_COMPLETED, end == KVF_GUARD_COMPLETED);
			assert_true(end != KVF_GUARD_FAILED || b->kind == KVF_GUARD_FAILED);
		}
	}
}

static void run_seed(uint64_t seed, bool free_together)
{
	struct plan plans[REQUESTS];
	uint32_t terminated[RANKS] = {0};

	seed_state = seed;
	(void)open_all(free_together);
	for (uint32_t i = 0; i < REQUESTS; i++)
		draw_plan(&plans[i]);
	for (uint32_t tick = 0; tick < 80; tick++)
		for (uint32_t n = 0, first = draw(RANKS); n < RANKS; n++)
			play((first + n) % RANKS, plans, tick, &terminated[(first + n) % RANKS]);
	for (uint32_t tick = 80; tick < 200; tick++)
		for (uint32_t i = 0; i < RANKS; i++)
			play(i, plans, tick, &terminated[i]);
	check_lists(plans, seed);
	for (uint32_t i = 0; i < RANKS; i++) {
		struct kvf_guard_health health;

		assert_int_equal(rigs[i].n_freed, REQUESTS);
		for (uint32_t r = 0; free_together && r < REQUESTS; r++)
			assert_true(rigs[i].freed[r].request_id == rigs[0].freed[r].request_id);
		RIG_WORKS(kvf_guard_health(rigs[i].guard, &health));
		assert_int_equal(health.requests, 0);
		assert_int_equal(health.undecided, 0);
		assert_int_equal(health.deferred, 0);
	}
	(void)close_ranks(NULL);
}

static void t_p14_all_ranks_act_on_the_same_ids_in_the_same_order(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 200; seed++)
		run_seed(seed, seed % 2 == 0);
}

static void a_guard_opens_whole_or_not_at_all(void **state)
{
	const struct kvfi_guard_agent agent = {.now_ns = rigs[0].guard->agent.now_ns};
	struct kvf_guard_options options = rig_options(&rigs[0]);
	struct kvf_guard_group group = member(0);
	kvf_guard *guard = NULL;
	enum kvf_status status;
	uint64_t n = 0;

	(void)state;
	options.group = &group;
	do {
		kvfi_alloc_fail_at(++n);
		status = kvfi_guard_open_on(&agent, &options, &guard);
		kvfi_alloc_fail_at(0);
		assert_int_equal(status == KVF_OK, guard != NULL);
		assert_true(status == KVF_OK || status == KVF_ENOMEM);
	} while (status != KVF_OK);
	assert_in_range(n, 8, 20);
	kvf_guard_close(guard, NULL);
}

int main(void)
{
#define OVER(test) cmocka_unit_test_setup_teardown(test, open_ranks, close_ranks)
	const struct CMUnitTest tests[] = {
		OVER(completed_is_completed_on_all_ranks),
		OVER(cancelled_over_failed_over_completed),
		OVER(the_first_rank_that_failed_says_why),
		OVER(a_cancel_on_one_rank_cancels_on_all),
		OVER(t_p06_what_was_decided_stays),
		OVER(ready_is_ready_everywhere),
		OVER(t_p14_nobody_acts_on_a_request_that_a_rank_does_not_have_yet),
		OVER(a_guard_opens_whole_or_not_at_all),
		OVER(t_p05_a_timeout_is_told_at_once_and_acted_on_together),
		cmocka_unit_test(t_p14_all_ranks_act_on_the_same_ids_in_the_same_order),
	};

	return cmocka_run_group_tests_name("executor_group", tests, NULL, NULL);
}
