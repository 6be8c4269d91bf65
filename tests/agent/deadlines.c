/* deadlines.c - every deadline of struct kvf_options arrives where it is judged, and kvf_hold keeps a request; agents over loop, in virtual time. */
#include "attempt.h"

#include <stdlib.h>
#include "base/clock.h"
#include "solo.h"

#define PREFILL_ID 71u
#define MS         UINT64_C(1000000)
#define BIG_BLOCKS 64u /* of 128 KiB */
#define BIG_TOKENS (BIG_BLOCKS * 8u)

static struct solo prefill, decode;
static uint64_t virtual_ns;

static uint64_t read_virtual(void *self)
{
	return *(uint64_t *)self;
}

/* Milliseconds of virtual time; who is NULL: both get their turns. */
static void run(uint64_t ms, struct solo *who)
{
	for (uint64_t i = 0; i < ms; i++) {
		virtual_ns += MS;
		if (who != &prefill)
			solo_poll(&decode);
		if (who != &decode)
			solo_poll(&prefill);
	}
}

static void tune(struct kvf_options *options)
{
	options->queue_timeout_ns = 3000 * MS;
	options->transfer_timeout_ns = 800 * MS;
	options->stall_timeout_ns = 400 * MS;
	options->silence_timeout_ns = 0;
	options->max_sessions = 4;
}

static void tune_without_stall(struct kvf_options *options)
{
	tune(options);
	options->stall_timeout_ns = 0;
}

static void tune_for_ever(struct kvf_options *options)
{
	options->connect_timeout_ns = options->queue_timeout_ns = UINT64_MAX;
	options->transfer_timeout_ns = options->stall_timeout_ns = UINT64_MAX;
	options->quiet_timeout_ns = options->progress_timeout_ns = UINT64_MAX;
	options->silence_timeout_ns = UINT64_MAX;
	options->ping_ns = UINT64_MAX - 1;
}

static void open_sides(void (*how)(struct kvf_options *options))
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, "inproc", "loop");
	static char listen[100];

	virtual_ns = 1000 * 1000 * MS;
	(void)snprintf(listen, sizeof(listen), "inproc://%s/deadlines", solo_directory());
	spec.listen = listen;
	spec.layout.blocks = BIG_BLOCKS;
	spec.tune = how;
	solo_open(&prefill, &spec);
	spec = solo_spec(KVF_DECODE, "inproc", "loop");
	spec.layout.blocks = BIG_BLOCKS;
	spec.tune = how;
	solo_open(&decode, &spec);
	WORKS(kvf_connect(decode.agent, prefill.endpoint));
	run(100, NULL);
}

static int open_pair(void **state)
{
	(void)state;
	open_sides(tune);
	return 0;
}

static int open_without_stall(void **state)
{
	(void)state;
	open_sides(tune_without_stall);
	return 0;
}

static int open_for_ever(void **state)
{
	(void)state;
	open_sides(tune_for_ever);
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

static bool has_ended(const struct solo *who, kvf_session session)
{
	for (uint32_t i = 0; i < who->n_log; i++)
		if (who->log[i].type == KVF_EVENT_OUTCOME && who->log[i].session.bits == session.bits)
			return true;
	return false;
}

static void expect_end(struct solo *who, kvf_session session, enum kvf_status status, const char *part)
{
	struct solo *all[] = {&prefill, &decode};
	char text[256];

	assert_true(has_ended(who, session));
	run(50, NULL);
	assert_int_equal(solo_finish(all, 2, who, session, text), status);
	if (strstr(text, part) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", text, part);
}

/* ---- deadlines ---- */

static void t_p10_a_session_that_never_begins_ends_with_its_queue_deadline(void **state)
{
	kvf_session to = solo_rx(&decode, PREFILL_ID, 1, 64, 0), from = solo_tx(&prefill, 2, 64, 0);

	(void)state;
	run(2990, NULL);
	assert_false(has_ended(&decode, to) || has_ended(&prefill, from));
	run(20, NULL);
	expect_end(&decode, to, KVF_TIMED_OUT, "queue_timeout of 3000 ms");
	expect_end(&prefill, from, KVF_TIMED_OUT, "queue_timeout of 3000 ms");
}

static void t_p08_a_stall_is_seen_on_an_idle_agent(void **state)
{
	kvf_session to = solo_rx(&decode, PREFILL_ID, 1, BIG_TOKENS, 0), from;

	(void)state;
	run(10, NULL);
	from = solo_tx(&prefill, 1, BIG_TOKENS, 0);
	run(3, NULL); /* it has begun */
	run(390, &decode);
	assert_false(has_ended(&decode, to));
	run(200, &decode); /* the other side is stopped, and nothing else is to do here */
	expect_end(&decode, to, KVF_TIMED_OUT, "stall_timeout of 400 ms");
	expect_end(&prefill, from, KVF_CANCELLED, "stall_timeout of 400 ms");
}

static void t_a_transfer_that_takes_too_long_ends(void **state)
{
	kvf_session to = solo_rx(&decode, PREFILL_ID, 1, BIG_TOKENS, 0), from;

	(void)state;
	run(10, NULL);
	from = solo_tx(&prefill, 1, BIG_TOKENS, 0);
	run(3, NULL);
	run(790, &decode);
	assert_false(has_ended(&decode, to));
	run(210, &decode);
	expect_end(&decode, to, KVF_TIMED_OUT, "transfer_timeout of 800 ms");
	run(10, NULL);
	expect_end(&prefill, from, KVF_CANCELLED, "transfer_timeout of 800 ms");
}

static void t_p33_the_longest_deadlines_never_come(void **state)
{
	kvf_session to = solo_rx(&decode, PREFILL_ID, 1, 64, 0), from;

	(void)state;
	run(100, NULL);
	virtual_ns += 1000000 * 1000 * MS; /* eleven days */
	run(100, NULL);
	assert_false(has_ended(&decode, to));
	from = solo_tx(&prefill, 1, 64, 0);
	run(100, NULL);
	expect_end(&decode, to, KVF_OK, "");
	expect_end(&prefill, from, KVF_OK, "");
	to = solo_rx(&decode, PREFILL_ID, 2, 64, 0);
	run(100, NULL);
	assert_int_equal(kvf_cancel(decode.agent, to, NULL), KVF_CANCEL_REQUESTED_IN_FLIGHT);
	run(100, NULL);
	expect_end(&decode, to, KVF_CANCELLED, "cancelled");
}

/* ---- holds ---- */

struct ticket {
	unsigned char bytes[KVF_TICKET_MAX_BYTES];
	size_t len;
};

static struct ticket ticket_of(uint64_t id, uint64_t life_ns)
{
	struct kvf_tx_params params = {.request_id = id, .prompt_len = 64, .expires_ns = life_ns};
	struct ticket ticket;

	WORKS(kvf_ticket_new(prefill.agent, &params, ticket.bytes, sizeof(ticket.bytes), &ticket.len));
	return ticket;
}

static void t_a_held_request_waits_and_is_received(void **state)
{
	struct ticket ticket = ticket_of(1, 0);
	kvf_session from = solo_tx_open(&prefill, 1, 64), to;

	(void)state;
	run(1000, NULL);
	WORKS(kvf_hold(decode.agent, ticket.bytes, ticket.len));
	run(30000, NULL); /* ten queue deadlines */
	assert_false(has_ended(&prefill, from));
	to = solo_rx_ticket(&decode, ticket.bytes, ticket.len, 64, 0);
	solo_send(&prefill, from, 0, 64, 64, 0);
	run(100, NULL);
	expect_end(&decode, to, KVF_OK, "");
	expect_end(&prefill, from, KVF_OK, "");
	REFUSES(KVF_ENOTFOUND, kvf_hold_drop(decode.agent, ticket.bytes, ticket.len), "is not held");
}

static void t_a_dropped_hold_lets_the_deadline_run(void **state)
{
	struct ticket ticket = ticket_of(1, 0);
	kvf_session from = solo_tx_open(&prefill, 1, 64);

	(void)state;
	WORKS(kvf_hold(decode.agent, ticket.bytes, ticket.len));
	WORKS(kvf_hold(decode.agent, ticket.bytes, ticket.len)); /* twice is once */
	run(10000, NULL);
	WORKS(kvf_hold_drop(decode.agent, ticket.bytes, ticket.len));
	run(6900, NULL); /* at least 4 s of the last word are left, and 3 of the deadline */
	assert_false(has_ended(&prefill, from));
	run(1200, NULL);
	expect_end(&prefill, from, KVF_TIMED_OUT, "queue_timeout of 3000 ms");
	REFUSES(KVF_ENOTFOUND, kvf_hold_drop(decode.agent, ticket.bytes, ticket.len), "request 1");
}

static void t_holds_are_checked_bounded_and_expire(void **state)
{
	struct ticket tickets[5], bad = ticket_of(9, 0), old = ticket_of(10, 1000 * MS);
	kvf_session from;

	(void)state;
	bad.bytes[bad.len / 2] ^= 1;
	REFUSES(KVF_EINVAL, kvf_hold(NULL, bad.bytes, bad.len), "agent");
	REFUSES(KVF_EINVAL, kvf_hold(decode.agent, NULL, 0), "ticket");
	REFUSES(KVF_EINVAL, kvf_hold_drop(decode.agent, NULL, 0), "ticket");
	REFUSES(KVF_EINVAL, kvf_hold(prefill.agent, old.bytes, old.len), "role");
	REFUSES(KVF_EINVAL, kvf_hold_drop(prefill.agent, old.bytes, old.len), "role");
	REFUSES(KVF_ETICKET, kvf_hold(decode.agent, bad.bytes, bad.len), "ticket");
	REFUSES(KVF_ETICKET, kvf_hold_drop(decode.agent, bad.bytes, bad.len), "ticket");
	virtual_ns += 62000 * MS; /* and the tolerance of a minute */
	REFUSES(KVF_ETICKET, kvf_hold(decode.agent, old.bytes, old.len), "expired");
	for (uint64_t i = 0; i < 5; i++)
		tickets[i] = ticket_of(20 + i, i == 0 ? 1000 * MS : 0);
	for (uint32_t i = 0; i < 4; i++)
		WORKS(kvf_hold(decode.agent, tickets[i].bytes, tickets[i].len));
	REFUSES(KVF_EFULL, kvf_hold(decode.agent, tickets[4].bytes, tickets[4].len), "max_sessions");
	WORKS(kvf_hold(decode.agent, tickets[3].bytes, tickets[3].len));
	run(61500, NULL); /* the first one has expired */
	WORKS(kvf_hold(decode.agent, tickets[4].bytes, tickets[4].len));
	REFUSES(KVF_ENOTFOUND, kvf_hold_drop(decode.agent, tickets[0].bytes, tickets[0].len), "request 20");
	from = solo_tx_open(&prefill, 20, 64); /* and holds nothing any more */
	run(3100, NULL);
	expect_end(&prefill, from, KVF_TIMED_OUT, "queue_timeout");
}

/* ---- waits ---- */

static int open_in_real_time(void **state)
{
	kvfi_clock_set(NULL);
	return open_pair(state);
}

static void drain_events(void)
{
	struct kvf_event event;

	while (kvf_poll(prefill.agent, &event, 1) > 0)
		;
}

static void t_waits_say_whether_it_came(void **state)
{
	kvf_session from = solo_tx_open(&prefill, 1, 64);

	(void)state;
	drain_events();
	REFUSES(KVF_TIMED_OUT, kvf_wait(prefill.agent, 0), "no event");
	REFUSES(KVF_TIMED_OUT, kvf_wait(prefill.agent, 20 * MS), "20 ms");
	REFUSES(KVF_TIMED_OUT, kvf_drain(prefill.agent, 20 * MS), "1 sessions are not released");
	assert_int_equal(kvf_cancel(prefill.agent, from, NULL), KVF_CANCEL_BEFORE_ADVERTISE);
	WORKS(kvf_wait(prefill.agent, UINT64_MAX)); /* a cancel wakes who waits */
	WORKS(kvf_drain(prefill.agent, UINT64_MAX));
	assert_int_equal(kvf_cancel(prefill.agent, from, NULL), KVF_CANCEL_ALREADY_COMPLETE);
}

static int set_clock(void **state)
{
	static const struct kvfi_clock_source clock = {&virtual_ns, read_virtual, read_virtual};

	(void)state;
	kvfi_clock_set(&clock);
	return 0;
}

static int reset_clock(void **state)
{
	(void)state;
	kvfi_clock_set(NULL);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			t_p10_a_session_that_never_begins_ends_with_its_queue_deadline, open_pair,
			close_sides),
		cmocka_unit_test_setup_teardown(
			t_p08_a_stall_is_seen_on_an_idle_agent, open_pair, close_sides),
		cmocka_unit_test_setup_teardown(
			t_a_transfer_that_takes_too_long_ends, open_without_stall, close_sides),
		cmocka_unit_test_setup_teardown(
			t_a_held_request_waits_and_is_received, open_pair, close_sides),
		cmocka_unit_test_setup_teardown(
			t_a_dropped_hold_lets_the_deadline_run, open_pair, close_sides),
		cmocka_unit_test_setup_teardown(
			t_holds_are_checked_bounded_and_expire, open_pair, close_sides),
		cmocka_unit_test_setup_teardown(t_waits_say_whether_it_came, open_in_real_time, close_sides),
		cmocka_unit_test_setup_teardown(
			t_p33_the_longest_deadlines_never_come, open_for_ever, close_sides),
	};

	return cmocka_run_group_tests(tests, set_clock, reset_clock);
}
