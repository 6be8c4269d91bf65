/* executor_rounds.c - the rounds of a group: every tick takes part, a rank that stops stops no other, and what a broken group is told by. */
#include "executor_ranks.h"

/* ---- rounds ---- */

static void t_p14_every_tick_takes_part_also_with_nothing_to_say(void **state)
{
	struct kvf_guard_health health;

	(void)state;
	tick_all(101);
	for (uint32_t i = 0; i < RANKS; i++) {
		RIG_WORKS(kvf_guard_health(rigs[i].guard, &health));
		assert_in_range(health.round, 100, 101);
		assert_true(health.healthy);
	}
}

/* One rank stands still: the ticks of the others go on, their own memory is freed, and they are unhealthy when the round is too old. When it comes
 * back, so do they. */
static void t_p47_a_rank_that_stops_stops_no_other(void **state)
{
	struct kvf_guard_health health;

	(void)state;
	add_all(1);
	tick_all(2);
	for (uint32_t i = 0; i < RANKS; i++)
		rig_end(&rigs[i], 1, KVF_OK);
	rig_terminate(&rigs[1], 1);
	for (int n = 0; n < 600; n++) {
		rig_now_ns += RIG_S / 10;
		for (uint32_t i = 0; i < RANKS - 1; i++)
			rig_tick(&rigs[i]);
	}
	assert_true(rig_was_freed(&rigs[1], 1));
	expect_nothing();
	RIG_WORKS(kvf_guard_health(rigs[0].guard, &health));
	assert_true(health.healthy);
	rig_now_ns += 1 * RIG_S;
	for (uint32_t i = 0; i < RANKS - 1; i++) {
		rig_tick(&rigs[i]);
		RIG_WORKS(kvf_guard_health(rigs[i].guard, &health));
		assert_int_equal(health.healthy, 0);
		assert_int_equal(health.reason, KVF_GUARD_GROUP);
		assert_non_null(strstr(health.text, "group"));
		assert_non_null(strstr(health.text, "rank 3"));
		assert_true(health.round_open_ns > 60 * RIG_S);
	}
	tick_all(3);
	for (uint32_t i = 0; i < RANKS; i++) {
		if (i != 1)
			rig_expect(&rigs[i], KVF_GUARD_COMPLETED, 1, KVF_OK);
		RIG_WORKS(kvf_guard_health(rigs[i].guard, &health));
		assert_true(health.healthy);
		assert_int_equal(kvf_guard_wants_shutdown(rigs[i].guard), 0);
	}
}

/* All others have ended the open round, and told of their ends in the next one: this rank can end both in one tick, if it is asked to. */
static int tick_of_the_last(uint64_t id, uint32_t at_least)
{
	add_all(id);
	tick_all(2);
	for (uint32_t i = 0; i < RANKS; i++)
		rig_end(&rigs[i], id, KVF_OK);
	for (uint32_t i = 0; i < RANKS - 1; i++)
		rig_tick(&rigs[i]);
	return kvf_guard_tick(rigs[RANKS - 1].guard, at_least);
}

static void at_least_looks_a_second_time(void **state)
{
	(void)state;
	assert_int_equal(tick_of_the_last(1, 0), 0);
	tick_all(3);
	expect_all(KVF_GUARD_COMPLETED, 1, KVF_OK);
	assert_int_equal(tick_of_the_last(2, 1), 1);
}

static void blocks_that_are_freed_together_wait_for_all(void **state)
{
	(void)state;
	for (uint64_t id = 1; id <= 3; id++)
		add_all(id);
	for (uint32_t i = 0; i < RANKS; i++)
		for (uint64_t id = 3; id >= 1; id--)
			rig_outcome(&rigs[i], id, KVF_OK);
	tick_all(3);
	for (uint32_t i = 0; i < RANKS; i++)
		for (uint64_t n = 0; n < 3; n++)
			rig_terminate(&rigs[i], 1 + (n + i) % 3);
	for (uint32_t i = 0; i < RANKS; i++) {
		tick_all(3);
		for (uint32_t r = 0; r < RANKS; r++)
			assert_int_equal(rigs[r].n_freed, 0);
		for (uint64_t id = 1; id <= 3; id++)
			rig_release(&rigs[i], id);
	}
	tick_all(3);
	for (uint32_t i = 0; i < RANKS; i++) {
		assert_int_equal(rigs[i].n_freed, 3);
		for (uint64_t n = 0; n < 3; n++)
			assert_int_equal(rigs[i].freed[n].request_id, n + 1);
	}
}

/* ---- groups that fail ---- */

struct broken {
	struct kvf_guard_group inner;
	enum kvf_status post_status, test_status;
	bool garbage;
};

static enum kvf_status broken_post(void *self, uint64_t round, const void *bytes, uint32_t len_bytes)
{
	struct broken *broken = self;

	if (broken->post_status != KVF_OK)
		return kvf_fail(broken->post_status, "the wire is cut");
	return broken->inner.post(
		broken->inner.self, round, bytes, broken->garbage ? len_bytes - 1 : len_bytes);
}

static enum kvf_status broken_test(void *self, uint64_t round, struct kvf_group_part *parts_out)
{
	struct broken *broken = self;

	if (broken->test_status != KVF_OK)
		return kvf_fail(broken->test_status, "rank 2 is gone");
	return broken->inner.test(broken->inner.self, round, parts_out);
}

static struct broken broken;

static void open_broken(void)
{
	struct kvf_guard_options options = rig_options(&rigs[0]);
	struct kvf_guard_group group;

	rig_close(&rigs[0]);
	broken = (struct broken){.inner = member(0)};
	group = broken.inner;
	group.self = &broken;
	group.post = broken_post;
	group.test = broken_test;
	options.group = &group;
	rig_open(&rigs[0], &options);
}

static void expect_group(const char *word)
{
	struct kvf_guard_health health;

	RIG_WORKS(kvf_guard_health(rigs[0].guard, &health));
	assert_int_equal(health.healthy, word == NULL);
	if (word != NULL && (health.reason != KVF_GUARD_GROUP || strstr(health.text, word) == NULL))
		fail_msg("\"%s\" does not name \"%s\"", health.text, word);
}

static void t_p47_a_lost_rank_leaves_the_round_open_and_the_ticks_go_on(void **state)
{
	(void)state;
	open_broken();
	add_all(1);
	tick_all(3);
	broken.test_status = KVF_PEER_LOST;
	for (uint32_t i = 0; i < RANKS; i++)
		rig_end(&rigs[i], 1, KVF_OK);
	rig_terminate(&rigs[0], 1);
	for (int n = 0; n < 1000; n++)
		rig_tick(&rigs[0]);
	expect_group("rank 2 is gone");
	assert_true(rig_was_freed(&rigs[0], 1)); /* its own memory is quiet */
	assert_int_equal(kvf_guard_wants_shutdown(rigs[0].guard), 0);
	rig_now_ns += 120 * RIG_S;
	rig_tick(&rigs[0]);
	assert_int_equal(kvf_guard_wants_shutdown(rigs[0].guard), 1);
	assert_int_equal(kvf_guard_wants_shutdown(rigs[0].guard), 0);
}

static void a_post_that_finds_no_room_is_posted_later(void **state)
{
	(void)state;
	open_broken();
	broken.post_status = KVF_EFULL;
	tick_all(5);
	expect_group(NULL);
	broken.post_status = KVF_OK;
	add_all(1);
	for (uint32_t i = 0; i < RANKS; i++)
		rig_end(&rigs[i], 1, KVF_OK);
	tick_all(5);
	expect_all(KVF_GUARD_COMPLETED, 1, KVF_OK);
	broken.post_status = KVF_EIO;
	tick_all(2);
	expect_group("the wire is cut");
	broken.post_status = KVF_OK;
	tick_all(3);
	expect_group(NULL);
}

static void a_rank_that_says_something_else_is_told(void **state)
{
	struct kvf_guard_health health;

	(void)state;
	open_broken();
	add_all(1);
	for (uint32_t i = 0; i < RANKS; i++)
		rig_end(&rigs[i], 1, KVF_OK);
	broken.garbage = true;
	tick_all(5);
	expect_nothing();
	expect_group("rank 0");
	RIG_WORKS(kvf_guard_health(rigs[3].guard, &health));
	assert_int_equal(health.reason, KVF_GUARD_GROUP);
	broken.garbage = false;
	tick_all(5);
	expect_all(KVF_GUARD_COMPLETED, 1, KVF_OK);
	expect_group(NULL);
}

static void ranks_with_other_options_are_told(void **state)
{
	struct kvf_guard_health health;

	(void)state;
	rig_close(&rigs[3]);
	open_rank(3, true);
	tick_all(3);
	for (uint32_t i = 0; i < RANKS; i++) {
		RIG_WORKS(kvf_guard_health(rigs[i].guard, &health));
		assert_non_null(strstr(health.text, i == 3 ? "rank 0 is no guard, or has other options"
							   : "rank 3 is no guard, or has other options"));
	}
}

static void a_group_that_cannot_hold_the_requests_is_refused(void **state)
{
	struct kvf_guard_options options = rig_options(&rigs[0]);
	struct kvf_guard_group group = member(0);
	const struct kvfi_guard_agent agent = {.self = NULL};
	kvf_guard *guard;

	(void)state;
	options.group = &group;
	options.max_requests = 65;
	RIG_REFUSES(KVF_EINVAL, kvfi_guard_open_on(&agent, &options, &guard),
		"max_bytes: 1040, 65 requests need 1056");
	options.max_requests = 64;
	group.rank = 4;
	RIG_REFUSES(KVF_EINVAL, kvfi_guard_open_on(&agent, &options, &guard), "rank: 4");
	group.rank = 0;
	group.n_ranks = 0;
	RIG_REFUSES(KVF_EINVAL, kvfi_guard_open_on(&agent, &options, &guard), "n_ranks: 0");
}

int main(void)
{
#define OVER(test)     cmocka_unit_test_setup_teardown(test, open_ranks, close_ranks)
#define TOGETHER(test) cmocka_unit_test_setup_teardown(test, open_together, close_ranks)
	const struct CMUnitTest tests[] = {
		OVER(t_p14_every_tick_takes_part_also_with_nothing_to_say),
		OVER(t_p47_a_rank_that_stops_stops_no_other),
		OVER(at_least_looks_a_second_time),
		TOGETHER(blocks_that_are_freed_together_wait_for_all),
		OVER(t_p47_a_lost_rank_leaves_the_round_open_and_the_ticks_go_on),
		OVER(a_post_that_finds_no_room_is_posted_later),
		OVER(a_rank_that_says_something_else_is_told),
		OVER(ranks_with_other_options_are_told),
		OVER(a_group_that_cannot_hold_the_requests_is_refused),
	};

	return cmocka_run_group_tests_name("executor_rounds", tests, NULL, NULL);
}
