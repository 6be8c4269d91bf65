/* silence.c - agents that stop, past every deadline, and go on: the other side loses them with a clear status; when they go on they learn that, their
 * old sessions fail too, and new requests work. Nobody is told and nobody is restarted. An agent that is not polled, and has no thread, is
 * one that is stopped. Arguments: transport, control. */
#include "attempt.h"

#include "solo.h"

#define PREFILL_ID 71u
#define MS         UINT64_C(1000000)

static const char *transport = "loop", *control = "inproc";
static struct solo prefill, decode;

static void impatient(struct kvf_options *options)
{
	options->ping_ns = 50 * MS;
	options->silence_timeout_ns = 400 * MS;
	options->quiet_timeout_ns = 200 * MS;
}

/* Threads have to share the processors with other tests. */
static void patient(struct kvf_options *options)
{
	options->ping_ns = 50 * MS;
	options->silence_timeout_ns = 1200 * MS;
}

static void open_both(bool own_thread)
{
	struct solo_spec of_prefill = solo_spec(KVF_PREFILL, control, transport);
	struct solo_spec of_decode = solo_spec(KVF_DECODE, control, transport);
	struct solo *all[] = {&prefill, &decode};

	of_prefill.listen = solo_endpoint(control, "prefill");
	of_prefill.tune = of_decode.tune = own_thread ? patient : impatient;
	of_prefill.own_thread = of_decode.own_thread = own_thread;
	solo_open(&prefill, &of_prefill);
	solo_open(&decode, &of_decode);
	assert_int_equal(solo_connect(all, 2, &decode, prefill.endpoint, NULL), KVF_OK);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_PEER, (kvf_session){0});
}

static int open_stopped(void **state)
{
	(void)state;
	open_both(false);
	return 0;
}

static int open_threads(void **state)
{
	(void)state;
	open_both(true);
	return 0;
}

static int close_pair(void **state)
{
	(void)state;
	solo_close(&decode);
	solo_close(&prefill);
	solo_directory_remove();
	return 0;
}

static void poll_for(struct solo *const *all, uint32_t n, uint64_t ns)
{
	uint64_t end_ns = attempt_now_ns() + ns;

	while (attempt_now_ns() < end_ns) {
		for (uint32_t i = 0; i < n; i++)
			solo_poll(all[i]);
		attempt_breathe();
	}
}

/* Half of it is there, and it goes no further. */
static void begin(kvf_session *from, kvf_session *to, uint64_t id)
{
	struct solo *all[] = {&prefill, &decode};

	*to = solo_rx(&decode, PREFILL_ID, id, 64, 0);
	*from = solo_tx_open(&prefill, id, 64);
	solo_send(&prefill, *from, 0, 32, 64, 0);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_SLICE, *from);
}

/* While `stopped` does not run, `other` loses it; then it goes on, and both find each other again. */
static void stop_and_go_on(struct solo *stopped, struct solo *other, kvf_session there, kvf_session here)
{
	struct solo *alone[] = {other}, *both[] = {stopped, other};
	const kvf_session none = {0};
	char text[256];

	assert_int_equal(solo_next(alone, 1, other, KVF_EVENT_PEER, none).status, KVF_PEER_LOST);
	assert_int_equal(solo_finish(alone, 1, other, here, text), KVF_PEER_LOST);
	assert_non_null(strstr(text, "it said nothing for 4"));
	poll_for(alone, 1, 1500 * MS); /* past every deadline, and calling it meanwhile */
	assert_int_equal(solo_health(other).quarantined, 0);
	assert_int_equal(solo_next(both, 2, stopped, KVF_EVENT_PEER, none).status, KVF_PEER_LOST);
	assert_int_equal(solo_finish(both, 2, stopped, there, text), KVF_PEER_LOST);
	assert_int_equal(solo_next(both, 2, stopped, KVF_EVENT_PEER, none).status, KVF_OK);
	if (solo_next(both, 2, other, KVF_EVENT_PEER, none).status != KVF_OK) /* it had given up calling */
		assert_int_equal(solo_next(both, 2, other, KVF_EVENT_PEER, none).status, KVF_OK);
	for (uint64_t id = 100; id < 110; id++)
		solo_move(both, 2, &prefill, &decode, id);
	assert_int_equal(solo_health(other).peer_losses, 1);
	assert_int_equal(solo_health(other).healthy, 1);
	assert_int_equal(solo_health(stopped).healthy, 1);
}

/* Pitfall 39: stopped, not dead. */
static void t_p39_a_stopped_prefill_agent_is_lost_and_comes_back_by_itself(void **state)
{
	kvf_session from, to;

	(void)state;
	begin(&from, &to, 1);
	stop_and_go_on(&prefill, &decode, from, to);
}

static void t_p39_a_stopped_decode_agent_is_lost_and_comes_back_by_itself(void **state)
{
	kvf_session from, to;

	(void)state;
	begin(&from, &to, 1);
	stop_and_go_on(&decode, &prefill, to, from);
}

/* Time in which an agent itself did not run is nobody's silence. */
static void agents_that_were_both_stopped_lose_nobody(void **state)
{
	struct solo *both[] = {&prefill, &decode};
	kvf_session from, to;

	(void)state;
	begin(&from, &to, 1);
	poll_for(both, 0, 1500 * MS);
	solo_send(&prefill, from, 32, 64, 64, 0);
	assert_int_equal(solo_finish(both, 2, &decode, to, NULL), KVF_OK);
	assert_int_equal(solo_finish(both, 2, &prefill, from, NULL), KVF_OK);
	assert_int_equal(solo_health(&decode).peer_losses + solo_health(&prefill).peer_losses, 0);
}

/* PONG does not depend on the user: nobody polls the prefill agent. */
static void an_agent_whose_user_does_not_poll_stays_up(void **state)
{
	struct solo *alone[] = {&decode}, *both[] = {&prefill, &decode};

	(void)state;
	poll_for(alone, 1, 2500 * MS);
	solo_move(both, 2, &prefill, &decode, 1);
	assert_int_equal(solo_health(&decode).peer_losses + solo_health(&prefill).peer_losses, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			t_p39_a_stopped_prefill_agent_is_lost_and_comes_back_by_itself, open_stopped,
			close_pair),
		cmocka_unit_test_setup_teardown(t_p39_a_stopped_decode_agent_is_lost_and_comes_back_by_itself,
			open_stopped, close_pair),
		cmocka_unit_test_setup_teardown(
			agents_that_were_both_stopped_lose_nobody, open_stopped, close_pair),
		cmocka_unit_test_setup_teardown(
			an_agent_whose_user_does_not_poll_stays_up, open_threads, close_pair),
	};

	if (argc > 1)
		transport = argv[1];
	if (argc > 2)
		control = argv[2];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
