/* session_ladder.c - the session core: quarantine and the recovery ladder. Virtual time; writers that stop inside a lease. */
#include "session_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"

#define SECOND KVFI_NS_PER_S
#define MS     KVFI_NS_PER_MS

static bool has_released(struct rig *rig, uint32_t node, uint32_t slot)
{
	assert_true(scene_session(rig, node, slot)->outcome);
	return scene_session(rig, node, slot)->released;
}

static uint32_t proofs(struct rig *rig, uint32_t node, uint32_t slot, enum kvf_proof proof)
{
	return scene_session(rig, node, slot)->stats.proofs[proof];
}

/* ---- the steps ---- */

static void a_writer_that_stopped_is_fenced_after_the_quiet_deadline_and_dropped(void **state)
{
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(0)});
	rig.fences = true;
	scene_begin_and_stop(&rig, 0, 1);
	rig_end_all(&rig, 1);
	rig_run_for(&rig, 5 * SECOND - MS);
	assert_false(has_released(&rig, 1, 0));
	assert_int_equal(rig.fenced, 0);
	assert_int_equal(scene_health(&rig, 1).quarantined, 1);
	assert_true(scene_health(&rig, 1).healthy);
	rig_run_for(&rig, 2 * MS);
	assert_true(has_released(&rig, 1, 0));
	assert_int_equal(rig.fenced, 1);
	assert_int_equal(rig.dropped, 1); /* nothing can arrive from it any more: it must come anew */
	assert_int_equal(proofs(&rig, 1, 0, KVF_PROOF_FENCED), 1);
	assert_int_equal(scene_health(&rig, 1).quarantined, 0);
	assert_int_equal(scene_health(&rig, 1).ladder_fence, 1);
	assert_int_equal(scene_health(&rig, 1).ladder_drop, 0);
	assert_int_equal(scene_health(&rig, 1).recovered, 1);
	rig_continue(&rig, 0); /* what it still had to store does not land */
	rig_run_for(&rig, SECOND);
	scene_close(&rig);
}

/* Each step in its time, and none before the one before had its own; then only the proof helps, and it does. */
static void t_p48_without_a_fence_it_is_dropped_then_stuck_and_recovers_with_its_proof(void **state)
{
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(1)});
	scene_begin_and_stop(&rig, 0, 1);
	rig_end_all(&rig, 1);
	rig_run_for(&rig, 5 * SECOND + 49 * MS);
	assert_int_equal(rig.fenced, 1);
	assert_int_equal(rig.dropped, 0);
	rig_run_for(&rig, 2 * MS);
	assert_int_equal(rig.dropped, 1);
	assert_int_equal(scene_health(&rig, 1).stuck, 0);
	rig_run_for(&rig, SECOND);
	assert_int_equal(scene_health(&rig, 1).stuck, 1);
	assert_int_equal(scene_health(&rig, 1).ladder_stuck, 1);
	rig_run_for(&rig, 3600 * SECOND);
	assert_int_equal(
		scene_health(&rig, 1).healthy, 1); /* one is within the budget, for as long as it likes */
	assert_true(scene_health(&rig, 1).oldest_quarantine_ns > 3600 * SECOND);
	assert_false(has_released(&rig, 1, 0));
	rig_continue(&rig, 0);
	rig_run_for(&rig, SECOND);
	assert_true(has_released(&rig, 1, 0));
	assert_int_equal(proofs(&rig, 1, 0, KVF_PROOF_LEASE), 1);
	assert_int_equal(scene_health(&rig, 1).stuck, 0);
	assert_int_equal(scene_health(&rig, 1).recovered, 1);
	scene_close(&rig);
}

/* Pitfall 1, 8: no work comes any more; time alone drives it. And past the budget the agent is unhealthy, by name, until proofs come. */
static void t_p01_stuck_beyond_the_budget_is_unhealthy_and_health_comes_back(void **state)
{
	struct kvf_health health;
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(1)});
	scene_begin_and_stop(&rig, 0, 41);
	scene_begin_and_stop(&rig, 1, 42);
	rig_end_all(&rig, 1);
	rig_run_for(&rig, 7 * SECOND);
	health = scene_health(&rig, 1);
	assert_int_equal(health.healthy, 0);
	assert_int_equal(health.reason, KVF_HEALTH_STUCK);
	assert_string_equal(health.text,
		"2 sessions are stuck, the budget is 1; request 41 has no proof from "
		"prefill rank 0 for 7 s");
	assert_int_equal(rig.dropped, 1); /* one peer */
	rig_continue(&rig, 0);
	rig_run_for(&rig, SECOND);
	health = scene_health(&rig, 1);
	assert_int_equal(health.healthy, 1);
	assert_string_equal(health.text, "");
	assert_int_equal(health.oldest_quarantine_ns, 0);
	assert_int_equal(health.quarantined_bytes, 0);
	scene_close(&rig);
}

/* Pitfall 8, 1: not a message comes, not a call is made: every step is taken, because time passes. */
static bool lose_all(struct rig *rig, uint32_t from, uint32_t to, const struct kvfi_msg *msg)
{
	(void)rig;
	(void)from;
	(void)to;
	(void)msg;
	return true;
}

static void t_p08_the_ladder_needs_no_work_and_no_message(void **state)
{
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(0)});
	scene_begin_and_stop(&rig, 0, 1);
	rig.drop = lose_all;
	rig_end_all(&rig, 1);
	rig_run_for(&rig, 7 * SECOND);
	assert_int_equal(scene_health(&rig, 1).ladder_fence, 1);
	assert_int_equal(scene_health(&rig, 1).ladder_drop, 1);
	assert_int_equal(scene_health(&rig, 1).ladder_stuck, 1);
	assert_int_equal(scene_health(&rig, 1).healthy, 0);
	rig.drop = NULL;
	rig_continue(&rig, 0);
	scene_close(&rig);
}

static void a_quiet_deadline_of_zero_is_no_ladder(void **state)
{
	struct kvfi_core_config config = scene_ladder_config(0);
	struct rig rig;

	(void)state;
	config.quiet_timeout_ns = 0;
	scene_open(&rig, &(struct scene){.config = config});
	rig.fences = true;
	scene_begin_and_stop(&rig, 0, 1);
	rig_end_all(&rig, 1);
	rig_run_for(&rig, 3600 * SECOND);
	assert_false(has_released(&rig, 1, 0));
	assert_int_equal(rig.fenced + rig.dropped, 0);
	assert_int_equal(scene_health(&rig, 1).quarantined, 1);
	assert_int_equal(scene_health(&rig, 1).ladder_quiet, 0);
	rig_continue(&rig, 0);
	scene_close(&rig);
}

static void the_ladder_of_a_lost_peer_begins_at_the_fence(void **state)
{
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(0)});
	rig.fences = true;
	scene_begin_and_stop(&rig, 0, 1);
	rig_lose_peer(&rig, 1, 0, KVF_PEER_LOST);
	assert_int_equal(scene_session(&rig, 1, 0)->status, KVF_PEER_LOST);
	rig_run_for(&rig, 10 * MS);
	assert_true(has_released(&rig, 1, 0));
	assert_int_equal(proofs(&rig, 1, 0, KVF_PROOF_FENCED), 1);
	assert_int_equal(rig.dropped, 0); /* there is nothing to drop */
	rig_lose_peer(&rig, 0, 1, KVF_PEER_LOST);
	rig_continue(&rig, 0);
	scene_close(&rig);
}

/* In quarantine already, and then the peer is lost: nobody is left to be asked. */
static void losing_the_peer_ends_the_wait_for_its_quiet(void **state)
{
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(0)});
	rig.fences = true;
	scene_begin_and_stop(&rig, 0, 1);
	rig_end_all(&rig, 1);
	rig_run_for(&rig, SECOND);
	assert_false(has_released(&rig, 1, 0));
	rig_lose_peer(&rig, 1, 0, KVF_PEER_LOST);
	rig_run_for(&rig, 10 * MS);
	assert_true(has_released(&rig, 1, 0));
	rig_lose_peer(&rig, 0, 1, KVF_PEER_LOST);
	rig_continue(&rig, 0);
	scene_close(&rig);
}

/* The process ends: its writer's exit is the proof, no step is taken for it. */
static void the_exit_of_a_writer_that_stopped_releases(void **state)
{
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(0)});
	scene_begin_and_stop(&rig, 0, 1);
	rig_end_all(&rig, 1);
	rig_run_for(&rig, SECOND);
	rig_restart(&rig, 0);
	rig_run_for(&rig, SECOND);
	assert_true(has_released(&rig, 1, 0));
	assert_int_equal(proofs(&rig, 1, 0, KVF_PROOF_PROCESS_EXIT), 1);
	assert_int_equal(scene_health(&rig, 1).stuck, 0);
	scene_close(&rig);
}

/* A sending session knows no fence: the receiver is dropped, which ends its posts. */
static void a_post_that_does_not_end_drops_its_receiver(void **state)
{
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(0)});
	scene_begin_and_stop(&rig, 0, 1);
	rig_end_all(&rig, 0);
	rig_run_for(&rig, 5 * SECOND + 49 * MS);
	assert_false(has_released(&rig, 0, 0));
	assert_int_equal(rig.dropped, 0);
	rig_run_for(&rig, 2 * MS);
	assert_int_equal(rig.dropped, 1);
	rig_run_for(&rig, 2 * SECOND);
	assert_int_equal(scene_health(&rig, 0).reason, KVF_HEALTH_STUCK);
	assert_non_null(strstr(scene_health(&rig, 0).text, "decode rank 0"));
	assert_int_equal(scene_health(&rig, 0).quarantined_bytes,
		6 * 4 * 3 * 2 * 4 * 16); /* blocks, tokens, layers, parts, heads, row */
	rig_continue(&rig, 0);
	rig_run_for(&rig, SECOND);
	assert_true(has_released(&rig, 0, 0));
	assert_int_equal(proofs(&rig, 0, 0, KVF_PROOF_LOCAL_IDLE), 1);
	scene_close(&rig);
}

/* Pitfall 29: of two writers one stops. It alone is fenced and dropped; the other one goes on with other requests. */
static void t_p29_one_writer_is_dropped_and_the_other_serves(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 2, .prefill_dp = 2, .config = scene_ladder_config(0)});
	rig_tx_open(&rig, 0, 0, &ask);
	rig_tx_send(&rig, 0, 0);
	rig_rx_open(&rig, 2, 0, &ask);
	rig.hold_inside = 1000;
	rig_run_for(&rig, SECOND);
	rig.hold_inside = 0;
	rig_end_all(&rig, 2);
	rig_run_for(&rig, 10 * SECOND);
	assert_int_equal(rig.dropped, 1);
	ask.request_id++;
	ask.dp_index = 1;
	rig_tx_open(&rig, 1, 1, &ask);
	rig_tx_send(&rig, 1, 1);
	rig_rx_open(&rig, 2, 1, &ask);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 2, 1, KVF_OK);
	assert_false(has_released(&rig, 2, 0));
	rig_continue(&rig, 0);
	rig_run_for(&rig, SECOND);
	assert_true(has_released(&rig, 2, 0));
	scene_close(&rig);
}

/* Pitfall 5: what one request comes to is its own: others of the same peer go on, through its timeout, its quarantine and its proof. */
static void t_p05_a_request_that_times_out_takes_no_other_with_it(void **state)
{
	struct kvfi_core_config config = scene_ladder_config(0);
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	config.stall_timeout_ns = 2 * SECOND;
	scene_open(&rig, &(struct scene){.config = config});
	scene_begin_and_stop(&rig, 0, 1);
	ask.request_id = 2;
	rig_rx_open(&rig, 1, 1, &ask); /* waits for its tx */
	rig_run_for(&rig, 2 * SECOND);
	assert_int_equal(scene_session(&rig, 1, 0)->status, KVF_TIMED_OUT);
	assert_int_equal(scene_health(&rig, 1).quarantined, 1);
	for (uint32_t i = 1; i < 20; i++) {
		ask.request_id = 1 + i;
		if (i > 1)
			rig_rx_open(&rig, 1, i, &ask);
		rig_tx_open(&rig, 0, i, &ask);
		rig_tx_send(&rig, 0, i);
		rig_run_for(&rig, 100 * MS);
		scene_expect(&rig, 1, i, KVF_OK);
		scene_expect(&rig, 0, i, KVF_OK);
	}
	rig_continue(&rig, 0);
	rig_run_for(&rig, SECOND);
	assert_true(has_released(&rig, 1, 0));
	assert_int_equal(rig.fenced + rig.dropped, 0);
	scene_close(&rig);
}

/* Sessions that were alive when their peer is dropped fail at once, with a status that says so. */
static void what_else_that_peer_served_fails_when_it_is_dropped(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(0)});
	scene_begin_and_stop(&rig, 0, 1);
	rig_end_all(&rig, 1);
	ask.request_id = 2;
	rig_rx_open(&rig, 1, 1, &ask); /* waits for its tx */
	rig_run_for(&rig, 6 * SECOND);
	assert_int_equal(scene_session(&rig, 1, 1)->status, KVF_PEER_LOST);
	assert_true(scene_session(&rig, 1, 1)->released);
	rig_continue(&rig, 0);
	scene_close(&rig);
}

/* With an unknown DP index all groups were invited; one that is lost leaves the request to the other one. */
static void a_lost_group_leaves_an_invitation_to_the_others(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 4, .prefill_dp = 2, .config = scene_ladder_config(0)});
	ask.dp_index = KVF_DP_UNKNOWN;
	rig_rx_open(&rig, 4, 0, &ask);
	rig_run_for(&rig, SECOND);
	rig_disconnect(&rig, 0, 4, KVF_PEER_LOST); /* a rank of group 0 */
	assert_false(scene_session(&rig, 4, 0)->outcome);
	for (uint32_t n = 2; n < 4; n++) {
		rig_tx_open(&rig, n, 0, &ask);
		rig_tx_send(&rig, n, 0);
	}
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 4, 0, KVF_OK);
	ask.request_id++;
	rig_rx_open(&rig, 4, 1, &ask);
	rig_run_for(&rig, SECOND);
	rig_disconnect(&rig, 2, 4,
		KVF_PEER_LOST); /* and now the other one: what is left waits for the first to come back */
	assert_false(scene_session(&rig, 4, 1)->outcome);
	rig_disconnect(&rig, 1, 4, KVF_PEER_LOST);
	assert_int_equal(scene_session(&rig, 4, 1)->status, KVF_PEER_LOST);
	scene_close(&rig);
}

/* Pitfall 39: a receiver that says nothing keeps some deliveries, and leaves as many for the others. */
static void t_p39_a_receiver_that_stopped_does_not_starve_the_others(void **state)
{
	struct kvfi_core_config config = scene_ladder_config(16);
	struct scene_loss loss = {.type = KVFI_MSG_ACK, .all = true};
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	config.max_deliveries = 16;
	config.queue_timeout_ns = 0;
	scene_open(&rig, &(struct scene){.decode_tp = 2, .decode_dp = 2, .config = config});
	scene_lose(&rig, &loss); /* nothing is acknowledged */
	for (uint32_t i = 0; i < 30; i++) {
		ask.request_id = 100 + i;
		rig_tx_open(&rig, 0, i, &ask);
		rig_tx_send(&rig, 0, i);
		rig_rx_open(&rig, 1, i, &ask);
	}
	rig_run_for(&rig, SECOND);
	rig.drop = NULL;
	rig_lose_peer(&rig, 1, 0, KVF_PEER_LOST); /* it hears nothing more, and the sender does not know */
	for (uint32_t i = 30; i < 60; i++) {
		ask.request_id = 100 + i;
		rig_tx_open(&rig, 0, i, &ask);
		rig_tx_send(&rig, 0, i);
		rig_rx_open(&rig, 2, i, &ask);
	}
	rig_run_for(&rig, 10 * SECOND);
	for (uint32_t i = 30; i < 60; i++)
		scene_expect(&rig, 0, i, KVF_OK);
	assert_false(scene_session(&rig, 0, 29)->outcome);
	rig_lose_peer(&rig, 0, 1, KVF_PEER_LOST);
	scene_close(&rig);
}

/* A data path that could not be made this time: whoever waits for it goes on waiting. */
static void a_peer_that_is_tried_again_fails_nobody(void **state)
{
	struct kvfi_input down = {.kind = KVFI_IN_PEER_DOWN, .peer = 5};
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.unconnected = true, .config = scene_ladder_config(0)});
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	down.u.peer_down = (struct kvfi_in_peer_down){
		.status = KVF_UNREACHABLE, .instance_id = 1, .again = true, .reason = "tcp: refused"};
	rig_step(&rig, &rig.nodes[1], &down);
	assert_false(scene_session(&rig, 1, 0)->outcome);
	rig_connect_all(&rig);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	rig_disconnect(&rig, 0, 1, KVF_PEER_LOST);
	rig_step(&rig, &rig.nodes[1], &down);
	ask.request_id++;
	rig_rx_open(&rig, 1, 1, &ask);
	rig_run_for(&rig, 60 * SECOND);
	assert_int_equal(scene_session(&rig, 1, 1)->status, KVF_UNREACHABLE);
	assert_non_null(strstr(scene_session(&rig, 1, 1)->error, "passed: "));
	scene_close(&rig);
}

/* ---- quarantine ---- */

static void quarantine_counts_sessions_bytes_and_the_oldest_age(void **state)
{
	struct rig rig;
	struct kvf_health health;

	(void)state;
	scene_open(&rig, &(struct scene){.config = scene_ladder_config(16)});
	scene_begin_and_stop(&rig, 0, 1);
	rig_end_all(&rig, 1);
	rig_run_for(&rig, SECOND);
	scene_begin_and_stop(&rig, 1, 2); /* takes a second */
	rig_end_all(&rig, 1);
	health = scene_health(&rig, 1);
	assert_int_equal(health.quarantined, 2);
	assert_int_equal(health.quarantined_bytes, 2 * 6 * 4 * 3 * 2 * 4 * 16);
	assert_int_equal(health.oldest_quarantine_ns, 2 * SECOND);
	assert_int_equal(health.ladder_quiet, 2);
	rig_continue(&rig, 0);
	rig_run_for(&rig, SECOND);
	health = scene_health(&rig, 1);
	assert_int_equal(health.quarantined, 0);
	assert_int_equal(health.recovered, 0); /* no step was needed */
	scene_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_writer_that_stopped_is_fenced_after_the_quiet_deadline_and_dropped),
		cmocka_unit_test(t_p48_without_a_fence_it_is_dropped_then_stuck_and_recovers_with_its_proof),
		cmocka_unit_test(t_p01_stuck_beyond_the_budget_is_unhealthy_and_health_comes_back),
		cmocka_unit_test(t_p08_the_ladder_needs_no_work_and_no_message),
		cmocka_unit_test(a_quiet_deadline_of_zero_is_no_ladder),
		cmocka_unit_test(the_ladder_of_a_lost_peer_begins_at_the_fence),
		cmocka_unit_test(losing_the_peer_ends_the_wait_for_its_quiet),
		cmocka_unit_test(the_exit_of_a_writer_that_stopped_releases),
		cmocka_unit_test(a_post_that_does_not_end_drops_its_receiver),
		cmocka_unit_test(t_p29_one_writer_is_dropped_and_the_other_serves),
		cmocka_unit_test(t_p05_a_request_that_times_out_takes_no_other_with_it),
		cmocka_unit_test(what_else_that_peer_served_fails_when_it_is_dropped),
		cmocka_unit_test(a_lost_group_leaves_an_invitation_to_the_others),
		cmocka_unit_test(t_p39_a_receiver_that_stopped_does_not_starve_the_others),
		cmocka_unit_test(a_peer_that_is_tried_again_fails_nobody),
		cmocka_unit_test(quarantine_counts_sessions_bytes_and_the_oldest_age),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
