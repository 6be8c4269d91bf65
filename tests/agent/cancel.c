/* cancel.c - kvf_cancel and kvf_cancel_request: every row of the table in docs/safety.md, from this thread and from others, on both sides; storms.
 * Arguments: the transport, the control channel. */
#include "attempt.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include "solo.h"

#define PREFILL_ID 71u
#define BIG_BLOCKS 512u /* of 128 KiB: 64 MiB */
#define BIG_TOKENS (BIG_BLOCKS * 8u)

static const char *transport = "loop", *control = "inproc";
static struct solo prefill, decode;
static struct solo *all[] = {&prefill, &decode};

static const char *endpoint(void)
{
	static char text[200];

	(void)snprintf(text, sizeof(text),
		strcmp(control, "zmq") == 0 ? "ipc://%s/cancel" : "inproc://%s/cancel", solo_directory());
	return text;
}

static void open_sides(uint32_t blocks)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, control, transport);

	spec.listen = endpoint();
	spec.layout.blocks = blocks;
	solo_open(&prefill, &spec);
	spec = solo_spec(KVF_DECODE, control, transport);
	spec.layout.blocks = blocks;
	solo_open(&decode, &spec);
}

static void connect_sides(void)
{
	assert_int_equal(solo_connect(all, 2, &decode, prefill.endpoint, NULL), KVF_OK);
}

static int open_apart(void **state)
{
	(void)state;
	open_sides(16);
	return 0;
}

static int open_pair(void **state)
{
	(void)state;
	open_sides(16);
	connect_sides();
	return 0;
}

static int open_big(void **state)
{
	(void)state;
	open_sides(BIG_BLOCKS);
	connect_sides();
	return 0;
}

static int close_sides(void **state)
{
	(void)state;
	solo_close(&decode);
	solo_close(&prefill);
	solo_directory_remove();
	return 0;
}

static struct kvf_session_stats finish(
	struct solo *who, kvf_session session, enum kvf_status status, char *text)
{
	struct kvf_session_stats stats;

	assert_int_equal(solo_next(all, 2, who, KVF_EVENT_OUTCOME, session).status, status);
	(void)solo_next(all, 2, who, KVF_EVENT_RELEASED, session);
	WORKS(kvf_session_stats(who->agent, session, &stats));
	if (text != NULL)
		WORKS(kvf_session_error(who->agent, session, text, 256));
	WORKS(kvf_session_close(who->agent, session));
	return stats;
}

/* ---- another thread ---- */

struct other {
	kvf_agent *agent;
	kvf_session session;
	enum kvf_cancel_result result;
};

static void *cancel_there(void *argument)
{
	struct other *other = argument;

	other->result = kvf_cancel(other->agent, other->session, "from another thread");
	return NULL;
}

/* From this thread and from another one: the same answer. */
static void expect_result(struct solo *who, kvf_session session, enum kvf_cancel_result wanted)
{
	struct other other = {.agent = who->agent, .session = session};
	enum kvf_cancel_result here;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, cancel_there, &other), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	here = kvf_cancel(who->agent, session, NULL);
	assert_string_equal(kvf_cancel_result_name(other.result), kvf_cancel_result_name(wanted));
	/* Its owner may have been quicker than the second call. */
	if (here != wanted)
		assert_int_equal(here, KVF_CANCEL_ALREADY_COMPLETE);
}

/* ---- the rows ---- */

static void t_row_1_a_handle_that_was_never_issued(void **state)
{
	kvf_session session = solo_tx_open(&prefill, 1, 64);

	(void)state;
	assert_int_equal(kvf_cancel(NULL, session, NULL), KVF_CANCEL_NOT_CANCELLABLE);
	expect_result(&prefill, (kvf_session){0}, KVF_CANCEL_NOT_CANCELLABLE);
	expect_result(
		&prefill, (kvf_session){session.bits + (UINT64_C(2) << 32)}, KVF_CANCEL_NOT_CANCELLABLE);
	expect_result(
		&prefill, (kvf_session){session.bits + (UINT64_C(1) << 32)}, KVF_CANCEL_NOT_CANCELLABLE);
	expect_result(&prefill, (kvf_session){session.bits + 64}, KVF_CANCEL_NOT_CANCELLABLE);
	expect_result(&prefill, (kvf_session){UINT64_MAX}, KVF_CANCEL_NOT_CANCELLABLE);
	expect_result(&decode, session, KVF_CANCEL_NOT_CANCELLABLE); /* another agent's */
	expect_result(&prefill, session, KVF_CANCEL_BEFORE_ADVERTISE);
	(void)finish(&prefill, session, KVF_CANCELLED, NULL);
}

static void t_row_2_before_anything_was_advertised(void **state)
{
	kvf_session to = solo_rx(&decode, PREFILL_ID, 1, 64, 0), from = solo_tx(&prefill, 1, 64, 0);
	char text[256];

	(void)state;
	expect_result(&decode, to, KVF_CANCEL_BEFORE_ADVERTISE);
	expect_result(&prefill, from, KVF_CANCEL_BEFORE_ADVERTISE);
	assert_int_equal(finish(&decode, to, KVF_CANCELLED, text).proofs[KVF_PROOF_NEVER_ADVERTISED], 1);
	assert_non_null(strstr(text, "from another thread"));
	assert_int_equal(finish(&prefill, from, KVF_CANCELLED, text).proofs[KVF_PROOF_NEVER_ADVERTISED], 1);
	assert_non_null(strstr(text, "from another thread"));
}

static void t_row_3_what_is_over_and_its_slot_of_another(void **state)
{
	kvf_session to = solo_rx(&decode, PREFILL_ID, 1, 64, 0), from = solo_tx(&prefill, 1, 64, 0), next;

	(void)state;
	(void)solo_next(all, 2, &decode, KVF_EVENT_RELEASED, to);
	expect_result(&decode, to, KVF_CANCEL_ALREADY_COMPLETE);
	assert_int_equal(finish(&prefill, from, KVF_OK, NULL).proofs[KVF_PROOF_COMPLETED], 1);
	WORKS(kvf_session_close(decode.agent, to));
	expect_result(&decode, to, KVF_CANCEL_ALREADY_COMPLETE); /* stale, and once issued */
	next = solo_rx(&decode, PREFILL_ID, 2, 64, 0);           /* the same slot */
	assert_int_equal((uint32_t)next.bits, (uint32_t)to.bits);
	expect_result(&decode, to, KVF_CANCEL_ALREADY_COMPLETE);
	from = solo_tx(&prefill, 2, 64, 0);
	(void)finish(&decode, next, KVF_OK, NULL);
	(void)finish(&prefill, from, KVF_OK, NULL);
}

/* Asked for, and nobody sends: the REQUEST is parked at the other side. */
static void t_row_4_a_parked_request_and_its_memory_there(void **state)
{
	enum kvf_session_state ready = KVF_STATE_INIT;
	kvf_session to = solo_rx(&decode, PREFILL_ID, 1, 64, 0), from;
	struct kvf_session_stats stats;
	struct kvf_tx_params again = {.request_id = 1, .attempt = 1, .prompt_len = 64};
	char text[256];

	(void)state;
	while (ready != KVF_STATE_READY) {
		solo_poll(&prefill);
		solo_poll(&decode);
		WORKS(kvf_session_state(decode.agent, to, &ready));
	}
	expect_result(&decode, to, KVF_CANCEL_REQUESTED_IN_FLIGHT);
	stats = finish(&decode, to, KVF_CANCELLED, text);
	assert_int_equal(stats.proofs[KVF_PROOF_NEVER_ADVERTISED], 0);
	assert_int_equal(stats.proofs[KVF_PROOF_LEASE] + stats.proofs[KVF_PROOF_LOCAL_EPOCH] +
				 stats.proofs[KVF_PROOF_WRITER_QUIET],
		1);
	/* The cancel reaches a tx that is opened after it, and not the next attempt (pitfall 50). */
	for (int i = 0; i < 50; i++) {
		solo_poll(&prefill);
		solo_poll(&decode);
		attempt_breathe();
	}
	from = solo_tx_open(&prefill, 1, 64);
	(void)finish(&prefill, from, KVF_CANCELLED, text);
	assert_non_null(strstr(text, "has given up"));
	WORKS(kvf_tx_open(prefill.agent, &again, &from));
	assert_int_equal(kvf_cancel(prefill.agent, from, NULL), KVF_CANCEL_BEFORE_ADVERTISE);
	(void)finish(&prefill, from, KVF_CANCELLED, NULL);
}

static void t_row_5_requests_by_their_id(void **state)
{
	kvf_session from = solo_tx_open(&prefill, 7, 64);
	enum kvf_cancel_result result;

	(void)state;
	assert_int_equal(kvf_cancel_request(NULL, 7, 0, NULL), KVF_CANCEL_NOT_CANCELLABLE);
	assert_int_equal(kvf_cancel_request(prefill.agent, 8, 0, NULL), KVF_CANCEL_NOT_FOUND);
	assert_int_equal(kvf_cancel_request(prefill.agent, 7, 1, NULL), KVF_CANCEL_NOT_FOUND);
	assert_int_equal(kvf_cancel_request(prefill.agent, 7, 0, "by id"), KVF_CANCEL_BEFORE_ADVERTISE);
	result = kvf_cancel_request(prefill.agent, 7, 0, NULL);
	assert_true(result == KVF_CANCEL_BEFORE_ADVERTISE || result == KVF_CANCEL_ALREADY_COMPLETE);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_RELEASED, from);
	assert_int_equal(kvf_cancel_request(prefill.agent, 7, 0, NULL), KVF_CANCEL_ALREADY_COMPLETE);
	WORKS(kvf_session_close(prefill.agent, from));
	assert_int_equal(kvf_cancel_request(prefill.agent, 7, 0, NULL), KVF_CANCEL_ALREADY_COMPLETE);
	for (uint64_t id = 100; id < 164; id++) { /* as many as there are sessions: it is forgotten */
		from = solo_tx_open(&prefill, id, 64);
		assert_int_equal(kvf_cancel(prefill.agent, from, NULL), KVF_CANCEL_BEFORE_ADVERTISE);
		(void)finish(&prefill, from, KVF_CANCELLED, NULL);
	}
	assert_int_equal(kvf_cancel_request(prefill.agent, 7, 0, NULL), KVF_CANCEL_NOT_FOUND);
	assert_int_equal(kvf_cancel_request(prefill.agent, 163, 0, NULL), KVF_CANCEL_ALREADY_COMPLETE);
}

static void t_results_have_names_and_safety(void **state)
{
	(void)state;
	for (int i = -1; i < 9; i++) {
		enum kvf_cancel_result result = (enum kvf_cancel_result)i;
		bool safe = result == KVF_CANCEL_BEFORE_ADVERTISE || result == KVF_CANCEL_ALREADY_COMPLETE ||
		            result == KVF_CANCEL_NOT_FOUND;

		assert_int_equal(kvf_cancel_is_safe(result), safe);
		assert_int_equal(strcmp(kvf_cancel_result_name(result), "unknown") == 0, i < 1 || i > 6);
	}
}

/* ---- while bytes move ---- */

static void check_after_release(const struct solo *who, kvf_session session)
{
	unsigned char *copy = malloc(who->memory_bytes);

	assert_non_null(copy);
	(void)solo_next(all, 2, &decode, KVF_EVENT_RELEASED, session);
	memset(who->memory, 0x5a, who->memory_bytes);
	memset(copy, 0x5a, who->memory_bytes);
	for (int i = 0; i < 200; i++) { /* nothing lands any more */
		solo_poll(&prefill);
		solo_poll(&decode);
		attempt_breathe();
	}
	assert_memory_equal(who->memory, copy, who->memory_bytes);
	free(copy);
}

/* 64 MiB may be there before the word of the cancel is: then it says so. */
static void expect_either(struct solo *who, kvf_session session)
{
	enum kvf_status status = solo_next(all, 2, who, KVF_EVENT_OUTCOME, session).status;
	char text[256];

	WORKS(kvf_session_error(who->agent, session, text, sizeof(text)));
	if (status != KVF_CANCELLED && status != KVF_OK)
		fail_msg("%s: %s", kvf_status_name(status), text);
}

static void cancel_moving(uint64_t id, bool by_decode)
{
	kvf_session to = solo_rx(&decode, PREFILL_ID, id, BIG_TOKENS, 0),
		    from = solo_tx_open(&prefill, id, BIG_TOKENS);
	struct solo *who = by_decode ? &decode : &prefill;
	enum kvf_session_state state = KVF_STATE_INIT;

	solo_send(&prefill, from, 0, 8, BIG_TOKENS, 0);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_SLICE, from);
	solo_send(&prefill, from, 8, BIG_TOKENS, BIG_TOKENS, 0);
	while (state < KVF_STATE_TRANSFERRING && state >= KVF_STATE_INIT) {
		WORKS(kvf_session_state(prefill.agent, from, &state));
		solo_poll(&prefill);
		solo_poll(&decode);
	}
	assert_int_not_equal(kvf_cancel(who->agent, by_decode ? to : from, "not wanted any more"),
		KVF_CANCEL_BEFORE_ADVERTISE);
	check_after_release(&decode, to);
	expect_either(&decode, to);
	expect_either(&prefill, from);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_RELEASED, from);
	WORKS(kvf_session_close(decode.agent, to));
	WORKS(kvf_session_close(prefill.agent, from));
}

static void t_p30_a_cancel_from_either_end_stops_both(void **state)
{
	(void)state;
	for (uint64_t id = 0; id < 4; id++)
		cancel_moving(id, id % 2 == 0);
}

/* ---- storms ---- */

#define STORM_THREADS  3
#define STORM_SESSIONS 400u
#define STORM_SLOTS    8u

struct storm {
	struct solo *who;
	_Atomic uint64_t handles[STORM_SLOTS], ids[STORM_SLOTS];
	_Atomic uint32_t before[STORM_SESSIONS + 1]; /* by id: cancels that won against the advertising */
	_Atomic bool stop;
};

static struct storm storm;

static void *cancel_all(void *argument)
{
	uint64_t random = (uint64_t)(uintptr_t)argument;

	while (!atomic_load(&storm.stop)) {
		uint32_t at;
		uint64_t bits, id;

		random = random * 6364136223846793005u + 1442695040888963407u;
		at = (uint32_t)(random >> 33) % STORM_SLOTS;
		id = atomic_load(&storm.ids[at]);
		bits = atomic_load(&storm.handles[at]);
		if (id == 0 || random >> 62 != 0)
			attempt_breathe();
		else if ((random >> 40) % 2 == 0)
			(void)kvf_cancel_request(storm.who->agent, id, 0, "by id, in a storm");
		else if (kvf_cancel(storm.who->agent, (kvf_session){bits}, "in a storm") ==
				 KVF_CANCEL_BEFORE_ADVERTISE &&
			 atomic_load(&storm.ids[at]) == id && atomic_load(&storm.handles[at]) == bits)
			(void)atomic_fetch_add(&storm.before[id], 1);
	}
	return NULL;
}

static void end_one(uint32_t at, kvf_session *to, kvf_session *from)
{
	struct solo *other = storm.who == &decode ? &prefill : &decode;
	uint64_t id = atomic_load(&storm.ids[at]);
	kvf_session mine = storm.who == &decode ? *to : *from, theirs = storm.who == &decode ? *from : *to;
	enum kvf_status status = solo_next(all, 2, storm.who, KVF_EVENT_OUTCOME, mine).status;

	(void)solo_next(all, 2, storm.who, KVF_EVENT_RELEASED, mine);
	assert_true(status == KVF_OK || status == KVF_CANCELLED);
	if (atomic_load(&storm.before[id]) > 0)
		assert_int_equal(status, KVF_CANCELLED); /* its memory was free to be used: nothing moved */
	atomic_store(&storm.ids[at], 0);
	if (status == KVF_CANCELLED && storm.who == &decode)
		(void)kvf_cancel(other->agent, theirs, NULL); /* it may never have heard of it */
	else if (status == KVF_CANCELLED)
		(void)kvf_cancel(other->agent, theirs, NULL);
	(void)solo_finish(all, 2, other, theirs, NULL);
	WORKS(kvf_session_close(storm.who->agent, mine));
}

static void run_storm(struct solo *who)
{
	kvf_session to[STORM_SLOTS], from[STORM_SLOTS];
	pthread_t threads[STORM_THREADS];

	memset(&storm, 0, sizeof(storm));
	storm.who = who;
	for (uintptr_t i = 0; i < STORM_THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, cancel_all, (void *)(i + 1)), 0);
	for (uint32_t id = 1; id <= STORM_SESSIONS; id++) {
		uint32_t at = id % STORM_SLOTS;

		if (id > STORM_SLOTS)
			end_one(at, &to[at], &from[at]);
		to[at] = solo_rx(&decode, PREFILL_ID, id, 8, (int32_t)at);
		if (who == &decode)
			atomic_store(&storm.handles[at], to[at].bits);
		from[at] = solo_tx(&prefill, id, 8, (int32_t)at);
		if (who == &prefill)
			atomic_store(&storm.handles[at], from[at].bits);
		atomic_store(&storm.ids[at], id);
	}
	for (uint32_t id = STORM_SESSIONS + 1; id <= STORM_SESSIONS + STORM_SLOTS; id++)
		end_one(id % STORM_SLOTS, &to[id % STORM_SLOTS], &from[id % STORM_SLOTS]);
	atomic_store(&storm.stop, true);
	for (int i = 0; i < STORM_THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	solo_move(all, 2, &prefill, &decode, 9000);
}

static void t_storms_of_cancels_by_other_threads(void **state)
{
	(void)state;
	run_storm(&decode);
	run_storm(&prefill);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			t_row_1_a_handle_that_was_never_issued, open_apart, close_sides),
		cmocka_unit_test_setup_teardown(
			t_row_2_before_anything_was_advertised, open_apart, close_sides),
		cmocka_unit_test_setup_teardown(
			t_row_3_what_is_over_and_its_slot_of_another, open_pair, close_sides),
		cmocka_unit_test_setup_teardown(
			t_row_4_a_parked_request_and_its_memory_there, open_pair, close_sides),
		cmocka_unit_test_setup_teardown(t_row_5_requests_by_their_id, open_apart, close_sides),
		cmocka_unit_test(t_results_have_names_and_safety),
		cmocka_unit_test_setup_teardown(
			t_p30_a_cancel_from_either_end_stops_both, open_big, close_sides),
		cmocka_unit_test_setup_teardown(t_storms_of_cancels_by_other_threads, open_pair, close_sides),
	};

	if (argc > 1)
		transport = argv[1];
	if (argc > 2)
		control = argv[2];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
