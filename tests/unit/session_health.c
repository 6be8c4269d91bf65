/* session_health.c - the session core: what is in flight, and what is well. Virtual time; writers that stop inside a lease. */
#include "session_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"

#define SECOND KVFI_NS_PER_S

/* Pitfall 42: a worker that is wedged is seen, on both sides. */
static void t_p42_nothing_moves_while_work_is_in_flight_is_unhealthy(void **state)
{
	struct rig rig;
	struct kvf_health health;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(0)});
	scene_begin_and_stop(&rig, 0, 77); /* half a chunk came, and then no more */
	for (uint32_t n = 0; n < 2; n++)
		assert_int_equal(scene_health(&rig, n).in_flight, 1);
	rig_run_for(&rig, 58 * SECOND);
	assert_true(scene_health(&rig, 0).healthy && scene_health(&rig, 1).healthy);
	rig_run_for(&rig, 3 * SECOND);
	health = scene_health(&rig, 0);
	assert_int_equal(health.reason, KVF_HEALTH_WEDGED);
	assert_string_equal(health.text,
		"1 in flight and nothing moved for 60 s (deadline 60 s); request 77 with decode rank 0");
	assert_int_equal(scene_health(&rig, 1).reason, KVF_HEALTH_WEDGED);
	assert_non_null(strstr(scene_health(&rig, 1).text, "prefill rank 0"));
	rig_continue(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	for (uint32_t n = 0; n < 2; n++) {
		assert_true(scene_health(&rig, n).healthy);
		assert_int_equal(scene_health(&rig, n).in_flight, 0);
		assert_int_equal(scene_health(&rig, n).since_progress_ns, 0);
	}
	scene_close(&rig);
}

/* Pitfall 11: each chunk takes ten seconds, all of it minutes. */
static void t_p11_slow_but_moving_is_healthy(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(0)});
	scene_open_tx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	scene_open_rx(&rig, 0, &ask);
	rig.hold_inside = 1000;
	for (uint32_t i = 0; i < 12; i++) {
		rig_run_for(&rig, 10 * SECOND);
		assert_int_equal(scene_health(&rig, 0).in_flight, 1);
		assert_int_equal(scene_health(&rig, 1).in_flight, 1);
		assert_true(scene_health(&rig, 0).healthy && scene_health(&rig, 1).healthy);
		rig_continue(&rig, 0);
	}
	rig.hold_inside = 0;
	rig_continue(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	scene_close(&rig);
}

/* Pitfall 12: the time of the last movement is that of the first session after a rest. */
static void t_p12_the_first_transfer_after_a_quiet_hour_is_healthy(void **state)
{
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(0)});
	for (uint32_t i = 0; i < 2; i++) {
		scene_begin_and_stop(&rig, i, 1 + i);
		assert_true(scene_health(&rig, 0).healthy && scene_health(&rig, 1).healthy);
		assert_true(scene_health(&rig, 0).since_progress_ns <= SECOND);
		rig_continue(&rig, 0);
		rig_run_for(&rig, 3600 * SECOND);
		scene_expect_all(&rig, i, KVF_OK);
	}
	scene_close(&rig);
}

/* Whoever waits for the other side to begin is not in flight: not a receiver without its tx, not a tx without slices or receivers. */
static void waiting_for_the_other_side_is_not_in_flight(void **state)
{
	struct kvfi_core_config config = scene_ladder_config(0);
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	config.queue_timeout_ns = 0;
	scene_open(&rig, &(struct scene){.config = config});
	scene_open_rx(&rig, 0, &ask);
	rig_run_for(&rig, 100 * SECOND);
	assert_int_equal(scene_health(&rig, 1).in_flight, 0);
	assert_true(scene_health(&rig, 1).healthy);
	scene_open_tx(&rig, 0, &ask);
	rig_run_for(&rig, 100 * SECOND);
	assert_int_equal(scene_health(&rig, 0).in_flight, 0);
	assert_true(scene_health(&rig, 0).healthy);
	ask.request_id++;
	scene_open_tx(&rig, 1, &ask);
	scene_send_tx(&rig, 1);
	rig_run_for(&rig, 100 * SECOND);
	assert_int_equal(scene_health(&rig, 0).in_flight, 0);
	scene_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_p42_nothing_moves_while_work_is_in_flight_is_unhealthy),
		cmocka_unit_test(t_p11_slow_but_moving_is_healthy),
		cmocka_unit_test(t_p12_the_first_transfer_after_a_quiet_hour_is_healthy),
		cmocka_unit_test(waiting_for_the_other_side_is_not_in_flight),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
