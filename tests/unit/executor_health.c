/* executor_health.c - when a guard is unhealthy, and when it asks for shutdown. */
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

static struct kvf_guard_health health_of(void)
{
	struct kvf_guard_health health;

	RIG_WORKS(kvf_guard_health(rig.guard, &health));
	return health;
}

static void tick_for(uint64_t duration_ns)
{
	const uint64_t end_ns = rig_now_ns + duration_ns;

	while (rig_now_ns < end_ns) {
		rig_now_ns += RIG_S;
		rig_tick(&rig);
	}
}

static void make_unhealthy(const char *text)
{
	rig.health.healthy = 0;
	rig.health.reason = KVF_HEALTH_WEDGED;
	(void)snprintf(rig.health.text, sizeof(rig.health.text), "%s", text);
}

static void shutdown_is_asked_for_once_after_the_grace(void **state)
{
	(void)state;
	tick_for(10 * RIG_S);
	make_unhealthy("wedged: 3 sessions");
	tick_for(120 * RIG_S); /* twice the progress timeout of 60 s */
	assert_int_equal(kvf_guard_wants_shutdown(rig.guard), 0);
	assert_int_equal(health_of().reason, KVF_GUARD_AGENT);
	assert_non_null(strstr(health_of().text, "wedged: 3 sessions"));
	assert_true(health_of().grace_ns == 120 * RIG_S);
	tick_for(2 * RIG_S);
	assert_int_equal(kvf_guard_wants_shutdown(rig.guard), 1);
	tick_for(1000 * RIG_S);
	assert_int_equal(kvf_guard_wants_shutdown(rig.guard), 0);
}

static void recovery_resets_the_grace(void **state)
{
	(void)state;
	for (int i = 0; i < 5; i++) {
		make_unhealthy("wedged");
		tick_for(119 * RIG_S);
		rig.health.healthy = 1;
		tick_for(1 * RIG_S);
		assert_int_equal(kvf_guard_wants_shutdown(rig.guard), 0);
		assert_true(health_of().healthy && health_of().unhealthy_ns == 0);
	}
	make_unhealthy("wedged");
	tick_for(130 * RIG_S); /* it would ask now */
	rig.health.healthy = 1;
	tick_for(1 * RIG_S); /* but it has recovered before anybody looked */
	assert_int_equal(kvf_guard_wants_shutdown(rig.guard), 0);
	make_unhealthy("wedged again");
	tick_for(130 * RIG_S);
	assert_int_equal(kvf_guard_wants_shutdown(rig.guard), 1);
}

static void without_a_progress_timeout_the_grace_is_two_minutes(void **state)
{
	struct kvf_guard_options options = rig_options(&rig);

	(void)state;
	rig.health.progress_timeout_ns = 0;
	rig_tick(&rig);
	assert_true(health_of().grace_ns == 120 * RIG_S);
	rig.health.progress_timeout_ns = 10 * RIG_S;
	rig_tick(&rig);
	assert_true(health_of().grace_ns == 20 * RIG_S);
	rig_close(&rig);
	options.grace_ns = 3 * RIG_S;
	rig_open(&rig, &options);
	make_unhealthy("stuck");
	tick_for(4 * RIG_S);
	assert_int_equal(kvf_guard_wants_shutdown(rig.guard), 1);
}

/* The loop hangs in something else, and with it every request. Only somebody else can see that. */
static void t_p42_a_loop_that_stands_still_is_no_green_page(void **state)
{
	(void)state;
	rig_tick(&rig);
	rig_now_ns += 60 * RIG_S;
	assert_true(health_of().healthy);
	rig_now_ns += 1;
	assert_int_equal(health_of().healthy, 0);
	assert_int_equal(health_of().reason, KVF_GUARD_LOOP);
	assert_non_null(strstr(health_of().text, "loop"));
	rig_tick(&rig);
	assert_true(health_of().healthy);
}

/* Also when the agent has become unhealthy since the last tick. */
static void the_agents_health_is_asked_anew(void **state)
{
	(void)state;
	rig_tick(&rig);
	make_unhealthy("stuck: 17 of 16");
	assert_int_equal(health_of().healthy, 0);
	assert_non_null(strstr(health_of().text, "stuck: 17 of 16"));
}

static void t_p48_a_quarantined_session_on_an_idle_agent_is_healthy(void **state)
{
	(void)state;
	rig_add(&rig, 1);
	rig_outcome(&rig, 1, KVF_TIMED_OUT);
	rig_tick(&rig);
	rig_terminate(&rig, 1);
	rig.health.quarantined = 1;
	rig.health.stuck = 1;
	rig.health.oldest_quarantine_ns = 3600 * RIG_S;
	tick_for(3600 * RIG_S);
	assert_true(health_of().healthy);
	assert_int_equal(health_of().deferred, 1);
	assert_int_equal(kvf_guard_wants_shutdown(rig.guard), 0);
	assert_int_equal(rig.n_freed, 0);
}

static void t_p05_timeouts_never_ask_for_shutdown(void **state)
{
	(void)state;
	for (uint64_t id = 0; id < 64; id++)
		rig_add_with(&rig, id, RIG_S, 0);
	tick_for(1000 * RIG_S);
	assert_int_equal(rig.n_results, 64);
	assert_true(health_of().healthy);
	assert_int_equal(kvf_guard_wants_shutdown(rig.guard), 0);
}

static void t_p11_slow_transfers_never_ask_for_shutdown(void **state)
{
	(void)state;
	rig_add(&rig, 1);
	rig.states[1] = KVF_STATE_TRANSFERRING;
	rig.health.in_flight = 1;
	rig.health.since_progress_ns = 59 * RIG_S;
	tick_for(3600 * RIG_S);
	assert_int_equal(kvf_guard_wants_shutdown(rig.guard), 0);
}

static void counts_are_those_of_the_last_tick(void **state)
{
	struct kvf_guard_health health;

	(void)state;
	for (uint64_t id = 1; id <= 5; id++)
		rig_add(&rig, id);
	rig_end(&rig, 1, KVF_OK);
	rig_terminate(&rig, 2);
	rig_tick(&rig);
	health = health_of();
	assert_int_equal(health.requests, 5);
	assert_int_equal(health.undecided, 4);
	assert_int_equal(health.deferred, 1);
	assert_int_equal(health.round, 0);
	RIG_REFUSES(KVF_EINVAL, kvf_guard_health(NULL, &health), "guard");
}

int main(void)
{
#define OVER(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)
	const struct CMUnitTest tests[] = {
		OVER(shutdown_is_asked_for_once_after_the_grace),
		OVER(recovery_resets_the_grace),
		OVER(without_a_progress_timeout_the_grace_is_two_minutes),
		OVER(t_p42_a_loop_that_stands_still_is_no_green_page),
		OVER(the_agents_health_is_asked_anew),
		OVER(t_p48_a_quarantined_session_on_an_idle_agent_is_healthy),
		OVER(t_p05_timeouts_never_ask_for_shutdown),
		OVER(t_p11_slow_transfers_never_ask_for_shutdown),
		OVER(counts_are_those_of_the_last_tick),
	};

	return cmocka_run_group_tests_name("executor_health", tests, NULL, NULL);
}
