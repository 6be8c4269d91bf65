/* events.c - kvf_fd, kvf_wait, kvf_drain, and the room of events: an engine's own loop, with and without a progress thread. Arguments: the
 * transport, the control channel. */
#include "attempt.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include "solo.h"

#define PREFILL_ID 71u
#define AT_ONCE    512u

static const char *transport = "loop", *control = "inproc";
static struct solo prefill, decode;
static bool own_thread;

static void big_tables(struct kvf_options *options)
{
	options->max_sessions = 1024;
	options->max_links = 1024;
	options->max_slices = 4096;
	options->connect_timeout_ns = 300000000;
}

static const char *endpoint(void)
{
	static char text[200];

	(void)snprintf(text, sizeof(text),
		strcmp(control, "zmq") == 0 ? "ipc://%s/events" : "inproc://%s/events", solo_directory());
	return text;
}

/* Blocks of 4 KiB, enough for AT_ONCE requests at once. */
static struct solo_spec spec_of(enum kvf_role role)
{
	static struct kvf_group_spec small;
	struct solo_spec spec = solo_spec(role, control, transport);

	small = *spec.model.groups;
	small.parts[0].row_bytes = small.parts[1].row_bytes = 16;
	spec.model.groups = &small;
	spec.layout.blocks = 8 * AT_ONCE;
	return spec;
}

static void open_sides(bool threads)
{
	struct solo_spec spec = spec_of(KVF_PREFILL);

	own_thread = threads;
	spec.own_thread = threads;
	spec.tune = big_tables;
	spec.listen = endpoint();
	solo_open(&prefill, &spec);
	spec = spec_of(KVF_DECODE);
	spec.own_thread = threads;
	spec.tune = big_tables;
	solo_open(&decode, &spec);
}

static int open_driven(void **state)
{
	(void)state;
	open_sides(false);
	return 0;
}

static int open_threaded(void **state)
{
	(void)state;
	open_sides(true);
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

static bool readable(kvf_agent *agent, int timeout_ms)
{
	struct pollfd fd = {.fd = kvf_fd(agent), .events = POLLIN};

	return poll(&fd, 1, timeout_ms) == 1;
}

/* An engine's loop: sleeps in poll() on both descriptors, calls kvf_poll on those that are readable. Until `who` told that event. */
static uint32_t turns;

static struct kvf_event looped(struct solo *who, enum kvf_event_type type, kvf_session session)
{
	uint64_t end_ns = attempt_now_ns() + UINT64_C(20000000000);

	for (;;) {
		struct pollfd fds[2] = {{.fd = kvf_fd(prefill.agent), .events = POLLIN},
			{.fd = kvf_fd(decode.agent), .events = POLLIN}};

		for (uint32_t i = 0; i < who->n_log; i++) {
			if (who->log[i].type == type && who->log[i].session.bits == session.bits)
				return solo_next(&who, 0, who, type, session);
		}
		if (poll(fds, 2, 20000) == 0)
			fail_msg("slept for 20 s: a descriptor did not wake the loop");
		assert_true(attempt_now_ns() < end_ns);
		turns++;
		if (fds[0].revents != 0)
			solo_poll(&prefill);
		if (fds[1].revents != 0)
			solo_poll(&decode);
	}
}

static void move_looped(uint64_t id)
{
	kvf_session to = solo_rx(&decode, PREFILL_ID, id, 64, 0), from = solo_tx(&prefill, id, 64, 4);

	assert_int_equal(looped(&decode, KVF_EVENT_OUTCOME, to).status, KVF_OK);
	(void)looped(&decode, KVF_EVENT_RELEASED, to);
	assert_int_equal(looped(&prefill, KVF_EVENT_OUTCOME, from).status, KVF_OK);
	(void)looped(&prefill, KVF_EVENT_RELEASED, from);
	WORKS(kvf_session_close(decode.agent, to));
	WORKS(kvf_session_close(prefill.agent, from));
}

static void t_a_loop_that_sleeps_in_poll(void **state)
{
	(void)state;
	WORKS(kvf_connect(decode.agent, prefill.endpoint));
	assert_int_equal(looped(&decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	for (uint64_t id = 1; id <= 20; id++)
		move_looped(id);
}

static long used_us(const struct rusage *before, const struct rusage *after)
{
	return (after->ru_utime.tv_sec - before->ru_utime.tv_sec + after->ru_stime.tv_sec -
		       before->ru_stime.tv_sec) *
	               1000000 +
	       after->ru_utime.tv_usec - before->ru_utime.tv_usec + after->ru_stime.tv_usec -
	       before->ru_stime.tv_usec;
}

static void t_an_idle_loop_sleeps(void **state)
{
	struct rusage before, after;
	uint64_t end_ns;

	(void)state;
	WORKS(kvf_connect(decode.agent, prefill.endpoint));
	assert_int_equal(looped(&decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	move_looped(1);
	turns = 0;
	assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
	end_ns = attempt_now_ns() + 500000000;
	while (attempt_now_ns() < end_ns) { /* half a second of nothing to do */
		struct pollfd fds[2] = {{.fd = kvf_fd(prefill.agent), .events = POLLIN},
			{.fd = kvf_fd(decode.agent), .events = POLLIN}};

		if (poll(fds, 2, 100) > 0)
			turns++;
		solo_poll(&prefill);
		solo_poll(&decode);
	}
	assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
	assert_true(turns < 50); /* a busy loop has thousands */
	assert_true(used_us(&before, &after) < 250000);
}

/* Nobody answers: the repetitions and the deadline wake a loop that does nothing but sleep. */
static void t_deadlines_wake_the_loop(void **state)
{
	kvf_session session;

	(void)state;
	session = solo_rx(&decode, PREFILL_ID, 1, 64, 0); /* no peer at all */
	assert_int_equal(looped(&decode, KVF_EVENT_OUTCOME, session).status, KVF_UNREACHABLE);
	WORKS(kvf_connect(
		decode.agent, strcmp(control, "zmq") == 0 ? "ipc:///tmp/kvft-nobody" : "inproc://nobody"));
	assert_int_equal(looped(&decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_UNREACHABLE);
}

static void t_the_descriptor_says_what_poll_would(void **state)
{
	struct kvf_event event;
	uint32_t n = 0;

	(void)state;
	if (own_thread) {
		assert_false(readable(decode.agent, 0));
		assert_int_equal(kvf_poll(decode.agent, &event, 1), 0);
	}
	WORKS(kvf_connect(decode.agent, prefill.endpoint));
	assert_int_equal(looped(&decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	for (uint64_t id = 1; id <= 3; id++) { /* each: OUTCOME and RELEASED on the decode side */
		(void)solo_rx(&decode, PREFILL_ID, id, 64, (int32_t)id * 8);
		(void)solo_tx(&prefill, id, 64, 0);
	}
	while (n < 6) {
		solo_poll(&prefill);
		if (!readable(decode.agent, own_thread ? 20000 : 0)) {
			assert_int_equal(kvf_poll(decode.agent, NULL, 0), 0);
			continue;
		}
		if (kvf_poll(decode.agent, &event, 1) == 1)
			n++;
		else
			assert_false(own_thread); /* readable and nothing there */
	}
	if (own_thread) {
		assert_false(readable(decode.agent, 0));
		assert_int_equal(kvf_poll(decode.agent, &event, 1), 0);
	}
}

static void t_an_event_that_is_left_keeps_it_readable(void **state)
{
	struct kvf_event event;
	kvf_session session;

	(void)state;
	session = solo_rx(&decode, PREFILL_ID, 1, 64, 0); /* fails in 300 ms: two events */
	WORKS(kvf_wait(decode.agent, UINT64_C(20000000000)));
	assert_int_equal(kvf_poll(decode.agent, &event, 1), 1);
	assert_int_equal(event.type, KVF_EVENT_OUTCOME);
	WORKS(kvf_wait(decode.agent, UINT64_C(20000000000)));
	assert_true(readable(decode.agent, 0));
	assert_int_equal(kvf_poll(decode.agent, NULL, 0), 0); /* takes nothing */
	assert_true(readable(decode.agent, 0));
	assert_int_equal(kvf_poll(decode.agent, &event, 1), 1);
	assert_int_equal(event.type, KVF_EVENT_RELEASED);
	WORKS(kvf_session_close(decode.agent, session));
}

static void t_waits_end_in_time(void **state)
{
	uint64_t start_ns = attempt_now_ns();
	kvf_session session;

	(void)state;
	REFUSES(KVF_TIMED_OUT, kvf_wait(decode.agent, 0), "");
	REFUSES(KVF_TIMED_OUT, kvf_wait(decode.agent, 20000000), "20 ms");
	assert_true(attempt_now_ns() - start_ns >= 20000000);
	WORKS(kvf_drain(decode.agent, 0)); /* nothing is open */
	session = solo_rx(&decode, PREFILL_ID, 1, 64, 0);
	REFUSES(KVF_TIMED_OUT, kvf_drain(decode.agent, 1000000), "1 session");
	WORKS(kvf_drain(decode.agent, UINT64_MAX)); /* its deadline ends it */
	WORKS(kvf_drain(decode.agent, 0));
	WORKS(kvf_wait(decode.agent, UINT64_MAX)); /* its events are queued still */
	assert_int_equal(solo_finish((struct solo *[]){&decode}, 1, &decode, session, NULL), KVF_UNREACHABLE);
}

/* Slept through, not spun through, with an event in the queue all the time. */
static void t_draining_does_not_spin(void **state)
{
	struct rusage before, after;
	kvf_session sessions[2];

	(void)state;
	WORKS(kvf_connect(decode.agent, prefill.endpoint));
	assert_int_equal(looped(&decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	sessions[0] = solo_rx(&decode, PREFILL_ID + 9, 1, 64, 0); /* of an instance that never comes */
	WORKS(kvf_wait(decode.agent, UINT64_C(20000000000)));
	sessions[1] = solo_rx(&decode, PREFILL_ID + 9, 2, 64, 0);
	assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
	WORKS(kvf_drain(decode.agent, UINT64_C(20000000000)));
	assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
	assert_true(used_us(&before, &after) < 150000); /* of 300 ms */
	(void)sessions;
}

/* Fills every table, never polls, and loses nothing. */
static void t_events_have_room(void **state)
{
	enum {
		ROUNDS = 4
	};
	static kvf_session from[AT_ONCE], to[AT_ONCE];
	struct solo *all[] = {&decode, &prefill};

	(void)state;
	assert_int_equal(solo_connect(all, 2, &decode, prefill.endpoint, NULL), KVF_OK);
	for (uint64_t round = 0; round < ROUNDS; round++) {
		uint32_t seen[2][8] = {{0}};

		for (uint64_t i = 0; i < AT_ONCE; i++) {
			from[i] = solo_tx_open(&prefill, round * AT_ONCE + i, 64);
			for (uint64_t s = 0; s < 4; s++)
				solo_send(&prefill, from[i], s * 16, s * 16 + 16, 64, 0);
			to[i] = solo_rx(&decode, PREFILL_ID, round * AT_ONCE + i, 64, (int32_t)i * 8);
			if (!own_thread) { /* it moves on when it is polled; nothing is taken */
				(void)kvf_poll(decode.agent, NULL, 0);
				(void)kvf_poll(prefill.agent, NULL, 0);
			}
		}
		for (int side = 0; side < 2; side++) {
			if (own_thread)
				WORKS(kvf_drain(all[side]->agent, UINT64_C(60000000000)));
		}
		for (uint32_t done = 0; done < 2 * AT_ONCE;) {
			for (int side = 0; side < 2; side++) {
				struct kvf_event events[16];
				int n = kvf_poll(all[side]->agent, events, 16);

				for (int i = 0; i < n; i++) {
					seen[side][events[i].type]++;
					if (events[i].type == KVF_EVENT_OUTCOME)
						assert_int_equal(events[i].status, KVF_OK);
					done += events[i].type == KVF_EVENT_RELEASED;
				}
			}
		}
		for (int side = 0; side < 2; side++) {
			assert_int_equal(seen[side][KVF_EVENT_OUTCOME], AT_ONCE);
			assert_int_equal(seen[side][KVF_EVENT_RELEASED], AT_ONCE);
		}
		assert_int_equal(seen[1][KVF_EVENT_READY], AT_ONCE);
		assert_int_equal(seen[1][KVF_EVENT_SLICE], 4 * AT_ONCE);
		for (uint64_t i = 0; i < AT_ONCE; i++) {
			WORKS(kvf_session_close(prefill.agent, from[i]));
			WORKS(kvf_session_close(decode.agent, to[i]));
		}
	}
}

static void *drive(void *argument)
{
	(void)argument;
	move_looped(2);
	return NULL;
}

static void t_the_polling_thread_may_change(void **state)
{
	pthread_t thread;

	(void)state;
	WORKS(kvf_connect(decode.agent, prefill.endpoint));
	assert_int_equal(looped(&decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	move_looped(1);
	assert_int_equal(pthread_create(&thread, NULL, drive, NULL), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	move_looped(3);
}

int main(int argc, char **argv)
{
#define DRIVEN(test)                                                                                         \
	{                                                                                                    \
#test " (driven)", test, open_driven, close_sides, NULL                                      \
	}
#define THREADED(test)                                                                                       \
	{                                                                                                    \
#test " (threaded)", test, open_threaded, close_sides, NULL                                  \
	}
#define BOTH(test) DRIVEN(test), THREADED(test)
	const struct CMUnitTest tests[] = {
		BOTH(t_a_loop_that_sleeps_in_poll),
		BOTH(t_an_idle_loop_sleeps),
		BOTH(t_deadlines_wake_the_loop),
		BOTH(t_the_descriptor_says_what_poll_would),
		BOTH(t_an_event_that_is_left_keeps_it_readable),
		BOTH(t_waits_end_in_time),
		BOTH(t_draining_does_not_spin),
		BOTH(t_events_have_room),
		BOTH(t_the_polling_thread_may_change),
	};

	if (argc > 1)
		transport = argv[1];
	if (argc > 2)
		control = argv[2];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
