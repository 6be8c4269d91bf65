/* executor_guard.c - a guard of one rank: results, deadlines, deferred freeing, responses, over an agent that does what it is told. */
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

/* ---- results and freeing ---- */

static void a_request_is_told_once_and_freed_once(void **state)
{
	(void)state;
	rig_add(&rig, 7);
	rig_tick(&rig);
	rig_expect_nothing(&rig);
	assert_int_equal(kvf_guard_can_terminate(rig.guard, 7, 0), 0);
	rig_end(&rig, 7, KVF_OK);
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_COMPLETED, 7, KVF_OK);
	assert_int_equal(kvf_guard_can_terminate(rig.guard, 7, 0), 1);
	rig_tick(&rig);
	assert_int_equal(rig.closes[7], 1); /* good: nothing more can be asked of it but its numbers */
	assert_int_equal(rig.n_freed, 0);   /* the engine decodes from these blocks */
	rig_terminate(&rig, 7);
	assert_true(rig_was_freed(&rig, 7));
	for (int i = 0; i < 10; i++)
		rig_tick(&rig);
	rig_expect_nothing(&rig);
	assert_int_equal(rig.n_freed, 1);
	assert_int_equal(rig.cancels[7], 0);
	RIG_REFUSES(KVF_ENOTFOUND, kvf_guard_terminate(rig.guard, 7, 0), "7");
}

/* A prefill rank has done with the request when its last slice is queued; the transfer goes on. */
static void t_p01_what_was_terminated_in_flight_is_freed_on_an_idle_tick(void **state)
{
	(void)state;
	rig_add(&rig, 1);
	rig_terminate(&rig, 1);
	for (int i = 0; i < 100; i++)
		rig_tick(&rig); /* nothing is running, nothing is scheduled */
	assert_int_equal(rig.n_freed, 0);
	rig_outcome(&rig, 1, KVF_OK);
	rig_tick(&rig);
	assert_int_equal(rig.n_freed, 0);
	rig_release(&rig, 1);
	rig_tick(&rig);
	assert_true(rig_was_freed(&rig, 1));
	assert_int_equal(rig.closes[1], 1);
	assert_int_equal(rig.cancels[1], 0); /* terminating cancels nothing */
}

static void t_p02_asking_for_more_never_waits_and_gives_nothing_unready(void **state)
{
	struct kvf_guard_result results[8];

	(void)state;
	for (uint64_t id = 1; id <= 5; id++)
		rig_add(&rig, id);
	assert_int_equal(kvf_guard_tick(rig.guard, 5), 0);
	rig_end(&rig, 3, KVF_OK);
	assert_int_equal(kvf_guard_tick(rig.guard, 5), 1);
	assert_int_equal(kvf_guard_poll(rig.guard, results, 8), 1);
	assert_int_equal(results[0].request_id, 3);
	assert_int_equal(rig.waits, 0);
}

static void t_p03_nothing_is_told_of_a_request_that_was_terminated(void **state)
{
	struct kvf_guard_result results[4];

	(void)state;
	for (uint64_t id = 1; id <= 3; id++) {
		rig_add(&rig, id);
		rig_end(&rig, id, KVF_OK);
	}
	assert_int_equal(kvf_guard_tick(rig.guard, 0), 3);
	rig_terminate(&rig, 2); /* its object is gone from here on */
	assert_true(rig_was_freed(&rig, 2));
	assert_int_equal(kvf_guard_tick(rig.guard, 0), 2);
	assert_int_equal(kvf_guard_poll(rig.guard, results, 4), 2);
	assert_int_equal(results[0].request_id, 1);
	assert_int_equal(results[1].request_id, 3);
	rig_add(&rig, 4);
	rig_end(&rig, 4, KVF_OK);
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_COMPLETED, 4, KVF_OK);
}

static void t_p04_an_error_frees_nothing(void **state)
{
	struct kvf_guard_result result;

	(void)state;
	rig_add(&rig, 4);
	rig_outcome(&rig, 4, KVF_PEER_LOST);
	rig.states[4] = KVF_STATE_ERROR;
	rig_tick(&rig);
	result = rig_take(&rig);
	assert_int_equal(result.kind, KVF_GUARD_FAILED);
	assert_int_equal(result.status, KVF_PEER_LOST);
	assert_true(result.session.bits == rig_session(4, 0).bits); /* its error can be asked */
	assert_int_equal(kvf_guard_can_terminate(rig.guard, 4, 0), 0);
	rig_terminate(&rig, 4);
	for (int i = 0; i < 100; i++)
		rig_tick(&rig);
	assert_int_equal(rig.n_freed, 0);
	assert_int_equal(rig.closes[4], 0);
	rig_release(&rig, 4);
	rig_tick(&rig);
	assert_true(rig_was_freed(&rig, 4));
	assert_int_equal(rig.closes[4], 1);
}

static void t_p06_the_first_end_stays(void **state)
{
	static const enum kvf_status ends[] = {KVF_PEER_LOST, KVF_CANCELLED, KVF_OK};

	(void)state;
	for (uint64_t id = 0; id < 3; id++) {
		rig_add(&rig, id);
		rig_outcome(&rig, id, ends[id]);
		rig_outcome(&rig, id, KVF_OK); /* as no agent should */
		rig_outcome(&rig, id, KVF_STREAM_BROKEN);
		rig_tick(&rig);
		rig_outcome(&rig, id, KVF_OK);
		rig_tick(&rig);
	}
	rig_expect(&rig, KVF_GUARD_FAILED, 0, KVF_PEER_LOST);
	rig_expect(&rig, KVF_GUARD_CANCELLED, 1, KVF_CANCELLED);
	rig_expect(&rig, KVF_GUARD_COMPLETED, 2, KVF_OK);
	rig_expect_nothing(&rig);
}

/* All KV has arrived, the aux data have not: there is no OUTCOME, and nothing is over. */
static void t_p25_kv_done_is_not_done(void **state)
{
	(void)state;
	rig_add(&rig, 5);
	rig_event(&rig, KVF_EVENT_SLICE, 5, KVF_OK);
	rig.states[5] = KVF_STATE_KV_TRANSFERRED;
	for (int i = 0; i < 10; i++)
		rig_tick(&rig);
	rig_expect_nothing(&rig);
	assert_int_equal(kvf_guard_can_terminate(rig.guard, 5, 0), 0);
	rig_end(&rig, 5, KVF_AUX_REFUSED);
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_FAILED, 5, KVF_AUX_REFUSED);
}

static void ready_is_told_once_and_before_the_end(void **state)
{
	(void)state;
	rig_add(&rig, 1);
	rig_add(&rig, 2);
	rig_event(&rig, KVF_EVENT_READY, 1, KVF_OK);
	rig_event(&rig, KVF_EVENT_READY, 1, KVF_OK);
	rig_tick(&rig);
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_READY, 1, KVF_OK);
	rig_expect_nothing(&rig);
	rig_event(&rig, KVF_EVENT_READY, 2, KVF_OK);
	rig_end(&rig, 2, KVF_TX_ENDED); /* both in one tick: what counts is the end */
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_FAILED, 2, KVF_TX_ENDED);
	rig_expect_nothing(&rig);
}

static void a_call_that_was_refused_is_a_request_that_failed(void **state)
{
	const struct kvf_guard_request none = {.request_id = 9};
	const struct kvf_guard_request refused = {
		.request_id = 9, .refused = KVF_EFULL, .user = (void *)(uintptr_t)9};

	(void)state;
	RIG_REFUSES(KVF_EINVAL, kvf_guard_add(rig.guard, &none), "9");
	RIG_WORKS(kvf_guard_add(rig.guard, &refused));
	assert_int_equal(kvf_guard_can_terminate(rig.guard, 9, 0), 1);
	assert_int_equal(kvf_guard_cancel(rig.guard, 9, 0, "late"), KVF_CANCEL_ALREADY_COMPLETE);
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_CANCELLED, 9, KVF_CANCELLED);
	rig_terminate(&rig, 9);
	assert_true(rig_was_freed(&rig, 9));
	rig_tick(&rig);
	RIG_WORKS(kvf_guard_add(rig.guard, &refused));
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_FAILED, 9, KVF_EFULL);
}

static void a_session_whose_close_finds_no_room_is_closed_later(void **state)
{
	(void)state;
	rig_add(&rig, 1);
	rig_end(&rig, 1, KVF_OK);
	rig.refuse_closes = 3;
	rig_tick(&rig);
	rig_terminate(&rig, 1);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(rig.closes[1], 0);
		rig_tick(&rig);
	}
	rig_tick(&rig);
	assert_int_equal(rig.closes[1], 1);
	assert_int_equal(rig.n_freed, 1);
}

/* ---- cancel ---- */

static void a_cancel_is_told_once_and_frees_at_release_alone(void **state)
{
	(void)state;
	rig_add(&rig, 1);
	assert_int_equal(kvf_guard_cancel(rig.guard, 1, 0, "gone"), KVF_CANCEL_REQUESTED_IN_FLIGHT);
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_CANCELLED, 1, KVF_CANCELLED);
	assert_true(rig.cancels[1] >= 1);
	rig_terminate(&rig, 1);
	rig_outcome(&rig, 1, KVF_OK); /* it had arrived meanwhile */
	rig_tick(&rig);
	rig_expect_nothing(&rig);
	assert_int_equal(rig.n_freed, 0);
	rig_release(&rig, 1);
	rig_tick(&rig);
	assert_true(rig_was_freed(&rig, 1));
}

static void t_p31_a_cancel_of_an_unknown_request_kills_no_later_one(void **state)
{
	(void)state;
	for (uint64_t id = 0; id < 1000; id++)
		assert_int_equal(kvf_guard_cancel(rig.guard, id, 0, "early"), KVF_CANCEL_NOT_FOUND);
	for (uint64_t id = 0; id < 64; id++) {
		rig_add(&rig, id);
		rig_end(&rig, id, KVF_OK);
	}
	rig_tick(&rig);
	for (uint64_t id = 0; id < 64; id++) {
		rig_expect(&rig, KVF_GUARD_COMPLETED, id, KVF_OK);
		rig_terminate(&rig, id);
		assert_int_equal(kvf_guard_cancel(rig.guard, id, 0, "late"), KVF_CANCEL_REQUESTED_IN_FLIGHT);
	}
	rig_tick(&rig);
	for (uint64_t id = 0; id < 64; id++)
		assert_int_equal(kvf_guard_cancel(rig.guard, id, 0, "later"), KVF_CANCEL_NOT_FOUND);
}

/* A retry has the id of the request that failed, and nothing else of it; nor has one whose id is the same in its low bits. */
static void t_p50_attempts_and_t_p43_long_ids_are_requests_of_their_own(void **state)
{
	static const uint64_t ids[] = {
		0x123, 0x123 + (UINT64_C(1) << 12), 0x123 + (UINT64_C(1) << 32), UINT64_MAX};

	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		for (uint32_t attempt = 0; attempt < 3; attempt++) {
			const struct kvf_guard_request request = {.request_id = ids[i],
				.attempt = attempt,
				.session = {1 + i * 3 + attempt},
				.user = (void *)(uintptr_t)ids[i]};

			RIG_WORKS(kvf_guard_add(rig.guard, &request));
			RIG_REFUSES(KVF_DUPLICATE, kvf_guard_add(rig.guard, &request), "attempt");
		}
	}
	assert_int_equal(kvf_guard_cancel(rig.guard, 0x123, 1, "gone"), KVF_CANCEL_REQUESTED_IN_FLIGHT);
	rig_tick(&rig);
	assert_int_equal(rig.n_results, 1);
	assert_true(rig.results[0].request_id == 0x123 && rig.results[0].attempt == 1);
}

/* ---- events, responses ---- */

static void events_of_others_are_handed_on(void **state)
{
	struct kvf_guard_options options = rig_options(&rig);
	struct kvf_guard_health health;
	struct kvf_event event;

	(void)state;
	rig_close(&rig);
	options.max_events = 4;
	rig_open(&rig, &options);
	rig_add(&rig, 1);
	rig_event(&rig, KVF_EVENT_PEER, 0, KVF_PEER_LOST);
	rig_event(&rig, KVF_EVENT_SLICE, 1, KVF_OK);
	rig_event(&rig, KVF_EVENT_OUTCOME, 77, KVF_OK); /* never added */
	rig_tick(&rig);
	assert_int_equal(kvf_guard_event(rig.guard, &event), 1);
	assert_int_equal(event.type, KVF_EVENT_PEER);
	assert_int_equal(event.status, KVF_PEER_LOST);
	assert_int_equal(kvf_guard_event(rig.guard, &event), 1);
	assert_int_equal(event.type, KVF_EVENT_SLICE);
	assert_int_equal(kvf_guard_event(rig.guard, &event), 1);
	assert_int_equal(event.request_id, 77);
	assert_int_equal(kvf_guard_event(rig.guard, &event), 0);
	for (uint64_t i = 0; i < 7; i++)
		rig_event(&rig, KVF_EVENT_SLICE, 100 + i, KVF_OK);
	rig_tick(&rig);
	RIG_WORKS(kvf_guard_health(rig.guard, &health));
	assert_int_equal(health.events_dropped, 3);
	for (uint64_t i = 3; i < 7; i++) {
		assert_int_equal(kvf_guard_event(rig.guard, &event), 1);
		assert_int_equal(event.request_id, 100 + i);
	}
}

struct flushed {
	uint32_t calls, n;
	uint64_t ids[8];
	enum kvf_status status;
};

static enum kvf_status flush(void *self, const struct kvf_guard_response *responses, uint32_t n)
{
	struct flushed *flushed = self;

	flushed->calls++;
	flushed->n = n;
	for (uint32_t i = 0; i < n; i++)
		flushed->ids[i] = responses[i].request_id;
	return flushed->status;
}

static void respond(uint64_t id)
{
	const struct kvf_guard_response response = {.request_id = id, .status = KVF_OK, .payload = &rig};

	RIG_WORKS(kvf_guard_respond(rig.guard, &response));
}

static void responses_wait_for_the_flush(void **state)
{
	struct flushed flushed = {0};

	(void)state;
	RIG_WORKS(kvf_guard_flush(rig.guard, flush, &flushed));
	assert_int_equal(flushed.calls, 0); /* nothing to send: no call */
	respond(5);
	respond(6);
	flushed.status = KVF_EIO;
	assert_int_equal(kvf_guard_flush(rig.guard, flush, &flushed), KVF_EIO);
	flushed.status = KVF_OK;
	RIG_WORKS(kvf_guard_flush(rig.guard, flush, &flushed)); /* they were kept */
	assert_int_equal(flushed.n, 2);
	assert_true(flushed.ids[0] == 5 && flushed.ids[1] == 6);
	RIG_WORKS(kvf_guard_flush(rig.guard, flush, &flushed));
	assert_int_equal(flushed.calls, 2);
}

/* Whether a rank has something to send must not decide whether it takes part. */
static void t_p14_with_attention_dp_an_empty_flush_is_entered_too(void **state)
{
	struct kvf_guard_options options = rig_options(&rig);
	struct flushed flushed = {0};

	(void)state;
	rig_close(&rig);
	options.attention_dp = 1;
	rig_open(&rig, &options);
	for (uint32_t i = 0; i < 10; i++) {
		if (i == 4)
			respond(i);
		RIG_WORKS(kvf_guard_flush(rig.guard, flush, &flushed));
		assert_int_equal(flushed.calls, i + 1);
		assert_int_equal(flushed.n, i == 4);
	}
}

static void responses_are_bounded(void **state)
{
	struct kvf_guard_options options = rig_options(&rig);
	const struct kvf_guard_response response = {.request_id = 1};

	(void)state;
	rig_close(&rig);
	options.max_responses = 3;
	rig_open(&rig, &options);
	for (uint64_t i = 0; i < 3; i++)
		respond(i);
	RIG_REFUSES(KVF_EFULL, kvf_guard_respond(rig.guard, &response), "max_responses");
}

/* ---- bounds, misuse ---- */

static void tables_are_bounded_and_places_come_back(void **state)
{
	const struct kvf_guard_request one_more = {.request_id = 999, .session = {1}};

	(void)state;
	for (uint64_t round = 0; round < 20; round++) {
		for (uint64_t id = 0; id < 64; id++)
			rig_add(&rig, round * 64 % 960 + id);
		RIG_REFUSES(KVF_EFULL, kvf_guard_add(rig.guard, &one_more), "max_requests: all 64");
		for (uint64_t id = 0; id < 64; id++)
			rig_end(&rig, round * 64 % 960 + id, id % 3 ? KVF_OK : KVF_STREAM_BROKEN);
		rig_tick(&rig);
		assert_int_equal(rig.n_results, 64);
		rig.n_results = 0;
		for (uint64_t id = 64; id-- > 0;)
			rig_terminate(&rig, round * 64 % 960 + id);
		assert_int_equal(rig.n_freed, 64);
		rig.n_freed = 0;
		rig_tick(&rig);
	}
}

/* An engine that polls no results fills the table, and loses none. */
static void results_wait_for_as_long_as_it_takes(void **state)
{
	struct kvf_guard_result result;

	(void)state;
	for (uint64_t id = 0; id < 64; id++) {
		rig_add(&rig, id);
		rig_event(&rig, KVF_EVENT_READY, id, KVF_OK);
	}
	assert_int_equal(kvf_guard_tick(rig.guard, 0), 64);
	for (uint64_t id = 0; id < 64; id++)
		rig_end(&rig, id, KVF_OK);
	for (int i = 0; i < 10; i++)
		assert_int_equal(kvf_guard_tick(rig.guard, 0), 128);
	for (uint64_t i = 0; i < 128; i++) {
		assert_int_equal(kvf_guard_poll(rig.guard, &result, 1), 1);
		assert_int_equal(result.request_id, i % 64);
		assert_int_equal(result.kind, i < 64 ? KVF_GUARD_READY : KVF_GUARD_COMPLETED);
	}
	assert_int_equal(kvf_guard_poll(rig.guard, &result, 1), 0);
}

static void call_back(struct rig *from)
{
	const struct kvf_guard_request request = {.request_id = 500, .session = {1}};
	const struct kvf_guard_response response = {.request_id = 1};
	struct kvf_guard_result result;
	struct flushed flushed = {0};

	assert_int_equal(kvf_guard_tick(from->guard, 0), KVF_EBUSY);
	assert_int_equal(kvf_guard_poll(from->guard, &result, 1), KVF_EBUSY);
	RIG_REFUSES(KVF_EBUSY, kvf_guard_add(from->guard, &request), "called by");
	RIG_REFUSES(KVF_EBUSY, kvf_guard_terminate(from->guard, 2, 0), "called by");
	RIG_REFUSES(KVF_EBUSY, kvf_guard_respond(from->guard, &response), "called by");
	RIG_REFUSES(KVF_EBUSY, kvf_guard_flush(from->guard, flush, &flushed), "called by");
	RIG_REFUSES(KVF_EBUSY, kvf_guard_drain_released(from->guard, 0), "called by");
	RIG_REFUSES(KVF_EBUSY, kvf_guard_drain_results(from->guard, 0, 0), "called by");
	assert_int_equal(kvf_guard_cancel(from->guard, 2, 0, "x"), KVF_CANCEL_NOT_CANCELLABLE);
}

static void the_engines_functions_may_not_call_back(void **state)
{
	(void)state;
	rig.on_free = call_back;
	rig_add(&rig, 1);
	rig_add(&rig, 2);
	rig_end(&rig, 1, KVF_OK);
	rig_end(&rig, 2, KVF_OK);
	rig_terminate(&rig, 1);
	rig_tick(&rig);
	assert_int_equal(rig.n_freed, 1);
	rig_terminate(&rig, 2);
	assert_int_equal(rig.n_freed, 2);
}

static void options_that_make_no_sense_are_refused(void **state)
{
	const struct kvfi_guard_agent agent = {.self = NULL};
	struct kvf_guard_group group = {.n_ranks = 2};
	struct kvf_guard_options options;
	kvf_guard *guard = (kvf_guard *)&rig;

	(void)state;
#define WRONG(change, word)                                                                                  \
	options = rig_options(&rig);                                                                         \
	change;                                                                                              \
	RIG_REFUSES(KVF_EINVAL, kvfi_guard_open_on(&agent, &options, &guard), (word))
	WRONG(options.struct_bytes = 8, "struct_bytes: 8");
	WRONG(options.max_requests = 0, "max_requests: 0");
	WRONG(options.max_requests = 65537, "max_requests: 65537");
	WRONG(options.max_responses = 0, "max_responses: 0");
	WRONG(options.max_events = 0, "max_events: 0");
	WRONG(options.attention_dp = 2, "attention_dp: 2");
	WRONG(options.free_together = 2, "free_together: 2");
	WRONG(options.free_together = 1, "free_together: 1");
	WRONG(options.free_request = NULL, "free_request");
	WRONG(options.group = &group, "post");
	RIG_REFUSES(KVF_EINVAL, kvf_guard_open(NULL, &options, &guard), "agent");
	assert_true(guard == (kvf_guard *)&rig);
	assert_true(
		kvf_guard_group_bytes(64) == 16 + 64 * 16 && kvf_guard_group_bytes(UINT32_MAX) == UINT32_MAX);
}

static void an_agent_that_fails_is_told(void **state)
{
	(void)state;
	rig_add(&rig, 1);
	rig.poll_status = KVF_EINTERNAL;
	assert_int_equal(kvf_guard_tick(rig.guard, 0), KVF_EINTERNAL);
	assert_int_equal(kvf_guard_drain_released(rig.guard, RIG_S), KVF_EINTERNAL);
	rig.poll_status = KVF_OK;
	rig_end(&rig, 1, KVF_OK);
	rig_tick(&rig);
	rig_expect(&rig, KVF_GUARD_COMPLETED, 1, KVF_OK);
}

static void close_counts_what_it_leaves(void **state)
{
	struct rig other;
	uint32_t left = 77;

	(void)state;
	kvf_guard_close(NULL, &left);
	assert_int_equal(left, 0);
	rig_open_plain(&other);
	for (uint64_t id = 1; id <= 3; id++)
		rig_add(&other, id);
	rig_end(&other, 1, KVF_OK);
	rig_terminate(&other, 1);
	rig_terminate(&other, 2);
	rig_tick(&other);
	kvf_guard_close(other.guard, &left);
	assert_int_equal(left, 2);
	assert_int_equal(other.n_freed, 1);
}

int main(void)
{
#define OVER(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)
	const struct CMUnitTest tests[] = {
		OVER(a_request_is_told_once_and_freed_once),
		OVER(t_p01_what_was_terminated_in_flight_is_freed_on_an_idle_tick),
		OVER(t_p02_asking_for_more_never_waits_and_gives_nothing_unready),
		OVER(t_p03_nothing_is_told_of_a_request_that_was_terminated),
		OVER(t_p04_an_error_frees_nothing),
		OVER(t_p06_the_first_end_stays),
		OVER(t_p25_kv_done_is_not_done),
		OVER(ready_is_told_once_and_before_the_end),
		OVER(a_call_that_was_refused_is_a_request_that_failed),
		OVER(a_session_whose_close_finds_no_room_is_closed_later),
		OVER(a_cancel_is_told_once_and_frees_at_release_alone),
		OVER(t_p31_a_cancel_of_an_unknown_request_kills_no_later_one),
		OVER(t_p50_attempts_and_t_p43_long_ids_are_requests_of_their_own),
		OVER(events_of_others_are_handed_on),
		OVER(responses_wait_for_the_flush),
		OVER(t_p14_with_attention_dp_an_empty_flush_is_entered_too),
		OVER(responses_are_bounded),
		OVER(tables_are_bounded_and_places_come_back),
		OVER(results_wait_for_as_long_as_it_takes),
		OVER(the_engines_functions_may_not_call_back),
		OVER(options_that_make_no_sense_are_refused),
		OVER(an_agent_that_fails_is_told),
		OVER(close_counts_what_it_leaves),
	};

	return cmocka_run_group_tests_name("executor_guard", tests, NULL, NULL);
}
