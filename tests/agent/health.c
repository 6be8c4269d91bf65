/* health.c - kvf_health of real agents: what it says at rest, under load from another thread, and after a loss. Arguments: transport, control. */
#include "attempt.h"

#include <pthread.h>
#include <stdatomic.h>
#include "solo.h"

static const char *transport = "loop", *control = "inproc";
static struct solo prefill, decode;

static void open_prefill(void)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, control, transport);

	spec.listen = solo_endpoint(control, "prefill");
	solo_open(&prefill, &spec);
}

static int open_pair(void **state)
{
	(void)state;
	solo_open_pair(control, transport, &prefill, &decode);
	return 0;
}

static int close_pair(void **state)
{
	(void)state;
	solo_close_pair(&prefill, &decode);
	return 0;
}

static void an_agent_at_rest_is_healthy(void **state)
{
	struct kvf_health health;

	(void)state;
	REFUSES(KVF_EINVAL, kvf_health(NULL, &health), "agent");
	REFUSES(KVF_EINVAL, kvf_health(decode.agent, NULL), "health_out");
	health = solo_health(&decode);
	assert_int_equal(health.healthy, 1);
	assert_int_equal(health.reason, KVF_HEALTH_OK);
	assert_string_equal(health.text, "");
	assert_int_equal(health.in_flight + health.quarantined + health.stuck + health.lost_peers, 0);
	assert_int_equal(health.stuck_budget, 16);
	assert_int_equal(health.progress_timeout_ns, UINT64_C(60000000000));
	assert_int_equal(health.since_progress_ns, 0);
	assert_true(health.snapshot_ns > 0);
}

struct reader {
	pthread_t thread;
	_Atomic bool stop;
	uint64_t snapshots;
	bool torn;
};

static void *read_on(void *argument)
{
	struct reader *reader = argument;
	uint64_t last_ns = 0;

	while (!atomic_load(&reader->stop)) {
		struct kvf_health health;

		if (kvf_health(decode.agent, &health) != KVF_OK)
			reader->torn = true;
		reader->torn = reader->torn || health.snapshot_ns < last_ns || health.healthy != 1 ||
		               health.stuck_budget != 16 || health.text[0] != '\0';
		last_ns = health.snapshot_ns;
		reader->snapshots++;
	}
	return NULL;
}

static void snapshots_are_whole_and_never_older_than_the_last_from_any_thread(void **state)
{
	struct solo *all[] = {&prefill, &decode};
	struct reader readers[2];

	(void)state;
	memset(readers, 0, sizeof(readers));
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&readers[i].thread, NULL, read_on, &readers[i]), 0);
	for (uint64_t id = 1; id <= 50; id++)
		solo_move(all, 2, &prefill, &decode, id);
	for (int i = 0; i < 2; i++) {
		atomic_store(&readers[i].stop, true);
		assert_int_equal(pthread_join(readers[i].thread, NULL), 0);
		assert_false(readers[i].torn);
		assert_true(readers[i].snapshots > 0);
	}
	assert_int_equal(solo_health(&decode).in_flight, 0);
	assert_int_equal(solo_health(&decode).quarantined, 0);
}

/* Polls until the decode side says so; at most 20 s. */
static void until_lost_peers(struct solo *const *all, uint32_t n, uint32_t lost)
{
	uint64_t end_ns = attempt_now_ns() + UINT64_C(20000000000);

	while (solo_health(&decode).lost_peers != lost) {
		for (uint32_t i = 0; i < n; i++)
			solo_poll(all[i]);
		if (attempt_now_ns() > end_ns)
			fail_msg("%u peers are lost, not %u", solo_health(&decode).lost_peers, lost);
		attempt_breathe();
	}
}

/* Turns the decode agent and takes no event of it. */
static void until_turned(uint32_t lost)
{
	uint64_t end_ns = attempt_now_ns() + UINT64_C(20000000000);

	while (solo_health(&decode).lost_peers != lost) {
		assert_int_equal(kvf_poll(decode.agent, NULL, 0), 0);
		if (prefill.agent != NULL)
			solo_poll(&prefill);
		if (attempt_now_ns() > end_ns)
			fail_msg("%u peers are lost, not %u", solo_health(&decode).lost_peers, lost);
		attempt_breathe();
	}
}

static void peers_that_were_up_and_are_wanted_are_counted_as_lost(void **state)
{
	struct solo *all[] = {&decode, &prefill};

	(void)state;
	solo_close(&prefill);
	until_lost_peers(all, 1, 1);
	assert_int_equal(solo_health(&decode).peer_losses, 1);
	/* A peer that is away is no illness of this agent. */
	assert_int_equal(solo_health(&decode).healthy, 1);
	open_prefill();
	until_lost_peers(all, 2, 0);
	assert_int_equal(solo_health(&decode).peer_losses, 1);
	solo_move(all, 2, &prefill, &decode, 1);
}

/* The ring of a user who does not poll fills up; what it missed is told when there is room, as it is then. */
static void the_last_change_of_a_peer_is_always_told(void **state)
{
	struct solo *all[] = {&decode, &prefill};
	struct kvf_event event = {0}, last = {0};

	(void)state;
	if (strcmp(transport, "loop") !=
		0) /* with a thread of its own the test cannot say what it has seen */
		skip();
	for (int i = 0; i < 4; i++) {
		solo_close(&prefill);
		until_turned(1);
		open_prefill();
		until_turned(0);
	}
	while (kvf_poll(decode.agent, &event, 1) == 1)
		last = event;
	assert_int_equal(last.type, KVF_EVENT_PEER);
	assert_int_equal(last.status, KVF_OK);
	solo_move(all, 2, &prefill, &decode, 1);
}

static void short_progress(struct kvf_options *options)
{
	options->progress_timeout_ns = UINT64_C(50000000);
}

static int open_impatient(void **state)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, control, transport);
	struct solo *all[] = {&prefill, &decode};

	(void)state;
	spec.listen = solo_endpoint(control, "prefill");
	spec.tune = short_progress;
	solo_open(&prefill, &spec);
	spec = solo_spec(KVF_DECODE, control, transport);
	solo_open(&decode, &spec);
	assert_int_equal(solo_connect(all, 2, &decode, prefill.endpoint, NULL), KVF_OK);
	return 0;
}

/* Nobody takes a turn of the agent, so nobody but the reader can see that nothing moves. */
static void t_p42_an_agent_that_takes_no_turns_is_not_green(void **state)
{
	struct solo *all[] = {&prefill, &decode};
	uint64_t end_ns = attempt_now_ns() + UINT64_C(20000000000);
	struct kvf_health health;
	kvf_session tx, rx;

	(void)state;
	if (strcmp(transport, "loop") != 0) /* it takes its turns by itself */
		skip();
	rx = solo_rx(&decode, prefill.instance->id, 1, 64, 0);
	tx = solo_tx(&prefill, 1, 64, 0);
	/* Until the ACK, which the other one takes a turn for. */
	while (solo_health(&prefill).in_flight == 0) {
		solo_poll(&decode);
		solo_poll(&prefill);
		if (attempt_now_ns() > end_ns)
			fail_msg("nothing came into flight");
	}
	do {
		attempt_breathe();
		health = solo_health(&prefill);
	} while (health.healthy != 0 && attempt_now_ns() < end_ns);
	assert_int_equal(health.reason, KVF_HEALTH_WEDGED);
	assert_non_null(strstr(health.text, "the agent's last turn was"));
	assert_true(health.since_progress_ns >= UINT64_C(50000000));
	assert_int_equal(solo_finish(all, 2, &decode, rx, NULL), KVF_OK);
	assert_int_equal(solo_finish(all, 2, &prefill, tx, NULL), KVF_OK);
	assert_int_equal(solo_health(&prefill).healthy, 1);
}

static void one_peer(struct kvf_options *options)
{
	options->max_peers = 1;
}

static int open_narrow(void **state)
{
	struct solo_spec spec = solo_spec(KVF_DECODE, control, transport);
	struct solo *all[] = {&prefill, &decode};

	(void)state;
	open_prefill();
	spec.tune = one_peer;
	solo_open(&decode, &spec);
	assert_int_equal(solo_connect(all, 2, &decode, prefill.endpoint, NULL), KVF_OK);
	return 0;
}

int main(int argc, char **argv)
{
#define BESIDE(test) cmocka_unit_test_setup_teardown(test, open_pair, close_pair)
	const struct CMUnitTest tests[] = {
		BESIDE(an_agent_at_rest_is_healthy),
		BESIDE(snapshots_are_whole_and_never_older_than_the_last_from_any_thread),
		BESIDE(peers_that_were_up_and_are_wanted_are_counted_as_lost),
		cmocka_unit_test_setup_teardown(
			the_last_change_of_a_peer_is_always_told, open_narrow, close_pair),
		cmocka_unit_test_setup_teardown(
			t_p42_an_agent_that_takes_no_turns_is_not_green, open_impatient, close_pair),
	};

	if (argc > 1)
		transport = argv[1];
	if (argc > 2)
		control = argv[2];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
