/* session_deadlines.c - the session core, one behaviour at a time: queue, transfer and stall deadlines, what a hold does to them, and requests that
 * wait for their tx. */
#include "session_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"

#define SECOND KVFI_NS_PER_S

static struct scene with_deadlines(void)
{
	struct scene scene = {.config = rig_config()};

	scene.config.queue_timeout_ns = 30 * SECOND;
	scene.config.transfer_timeout_ns = 20 * SECOND;
	scene.config.stall_timeout_ns = 5 * SECOND;
	scene.config.quiet_timeout_ns = 5 * SECOND;
	return scene;
}

static void expect_sentence(struct rig *rig, uint32_t node, uint32_t slot, const char *part)
{
	if (strstr(scene_session(rig, node, slot)->error, part) == NULL)
		fail_msg("node %u: \"%s\" does not say \"%s\"", node, scene_session(rig, node, slot)->error,
			part);
}

static void expect_going(struct rig *rig, uint32_t slot)
{
	for (uint32_t n = 0; n < rig->n_nodes; n++)
		if (scene_session(rig, n, slot)->open && scene_session(rig, n, slot)->outcome)
			fail_msg("node %u: %s", n, scene_session(rig, n, slot)->error);
}

/* ---- queue ---- */

static void t_p10_a_tx_that_nobody_asks_for_ends_and_is_free_at_once(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &scene);
	scene_open_tx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, 30 * SECOND - 1);
	expect_going(&rig, 0);
	rig_run_for(&rig, 1);
	scene_expect(&rig, 0, 0, KVF_TIMED_OUT);
	expect_sentence(&rig, 0, 0, "not every receiver has asked: queue_timeout of 30000 ms passed");
	assert_int_equal(scene_session(&rig, 0, 0)->stats.proofs[KVF_PROOF_NEVER_ADVERTISED], 1);
	scene_close(&rig);
}

/* Pitfalls 1, 8, 10: no new work, no message, nothing but time. */
static void t_p08_an_rx_whose_tx_never_comes_ends_on_both_sides(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &scene);
	scene_open_rx(&rig, 0, &ask);
	rig_run_for(&rig, 30 * SECOND - 1);
	expect_going(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 1, 0, KVF_TIMED_OUT);
	expect_sentence(&rig, 1, 0, "no slice began: queue_timeout of 30000 ms passed");
	rig_close_all_released(&rig);
	rig_check_empty(&rig, 0); /* nothing is parked for it any more */
	scene_close(&rig);
}

static void the_queue_deadline_starts_anew_between_slices(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &scene);
	ask.chunks = 3;
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	for (uint32_t slice = 0; slice < 2; slice++) {
		rig_run_for(&rig, 25 * SECOND);
		rig_tx_send_some(&rig, 0, 0, slice, slice + 1);
	}
	rig_run_for(&rig, 29 * SECOND);
	expect_going(&rig, 0);
	rig_run_for(&rig, 2 * SECOND);
	/* Either side may be the first to see it; the other one is told. */
	for (uint32_t n = 0; n < 2; n++)
		assert_true(scene_session(&rig, n, 0)->released);
	assert_true(scene_session(&rig, 0, 0)->status == KVF_TIMED_OUT ||
		    scene_session(&rig, 1, 0)->status == KVF_TIMED_OUT);
	assert_int_equal(scene_session(&rig, 1, 0)->good_end[0], 16);
	scene_close(&rig);
}

static void waiting_for_aux_is_waiting(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	for (uint32_t late = 0; late < 2; late++) {
		scene_open(&rig, &scene);
		ask.aux = true;
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		rig_run_for(&rig, 25 * SECOND);
		rig_tx_send_some(&rig, 0, 0, 0, 16);
		rig_run_for(&rig, 29 * SECOND);
		expect_going(&rig, 0);
		if (late == 0)
			rig_tx_aux(&rig, 0, 0, RIG_AUX_BYTES);
		rig_run_for(&rig, 2 * SECOND);
		if (late == 0)
			scene_expect_all(&rig, 0, KVF_OK);
		else
			expect_sentence(&rig, 0, 0, "queue_timeout of 30000 ms");
		scene_close(&rig);
	}
}

/* ---- transfer and stall ---- */

/* A burst waits for its turn for longer than a transfer may take. */
static void t_p09_posts_that_wait_in_a_queue_have_not_begun(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &scene);
	rig.hold_posts = true; /* nobody takes them up */
	for (uint32_t slot = 0; slot < 6; slot++) {
		ask.request_id = SCENE_ID + slot;
		scene_open_rx(&rig, slot, &ask);
		scene_open_tx(&rig, slot, &ask);
		scene_send_tx(&rig, slot);
	}
	rig_run_for(&rig, 29 * SECOND);
	rig.hold_posts = false;
	rig_run_for(&rig, SECOND / 2);
	for (uint32_t slot = 0; slot < 6; slot++)
		scene_expect_all(&rig, slot, KVF_OK);
	scene_close(&rig);
}

static void a_slice_that_stops_moving_stalls(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	for (uint32_t applied = 0; applied < 2; applied++) {
		scene.receiver_applied = applied == 1;
		scene_open(&rig, &scene);
		rig.hold_posts = true;
		rig.hold_after = 200;
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		rig_run_for(&rig, 12 * SECOND);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, 5 * SECOND - 1);
		expect_going(&rig, 0);
		rig_run_for(&rig, 2 * SECOND + 1); /* looked at four times in each stall deadline */
		for (uint32_t n = 0; n < 2; n++)
			assert_true(scene_session(&rig, n, 0)->released);
		expect_sentence(&rig, 0, 0, "stall_timeout of 5000 ms passed");
		scene_close(&rig);
	}
}

static void a_slow_transfer_does_not_stall_and_ends_with_its_own_deadline(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	for (uint32_t off = 0; off < 2; off++) {
		scene.config.transfer_timeout_ns = off == 1 ? 0 : 20 * SECOND;
		scene_open(&rig, &scene);
		rig.piece_ns = 3 * SECOND; /* 4608 bytes in pieces of 96: 144 s */
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, 20 * SECOND - 1);
		expect_going(&rig, 0);
		rig_run_for(&rig, 300 * SECOND);
		if (off == 1) {
			scene_expect_all(&rig, 0, KVF_OK);
		} else {
			scene_expect(&rig, 0, 0, KVF_TIMED_OUT);
			expect_sentence(&rig, 0, 0, "transfer_timeout of 20000 ms passed");
		}
		scene_close(&rig);
	}
}

/* What has come before the tick that judges is in time, however late the tick. */
static void t_p13_completions_are_drained_before_a_deadline_is_judged(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct scene_loss loss = {.type = KVFI_MSG_RESULT, .all = true};
	const struct kvfi_input tick = {.kind = KVFI_IN_TICK};
	struct rig rig;

	(void)state;
	scene_open(&rig, &scene);
	scene_lose(&rig, &loss);
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	assert_true(loss.seen > 0);
	rig.now_ns += 100 * SECOND; /* the agent got no turn for so long; everything of it is due */
	rig_inject(&rig, 1, rig_peer_slot(&rig, 1, 0), &loss.last);
	rig_step(&rig, &rig.nodes[1], &tick);
	scene_expect(&rig, 1, 0, KVF_OK);
	rig.drop = NULL;
	scene_close(&rig);
}

static void t_p33_zero_is_off_and_huge_is_never(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	for (uint32_t huge = 0; huge < 2; huge++) {
		struct scene scene = {.config = rig_config()};

		scene.config.queue_timeout_ns = scene.config.transfer_timeout_ns = huge == 1 ? UINT64_MAX : 0;
		scene.config.stall_timeout_ns = scene.config.connect_timeout_ns = huge == 1 ? UINT64_MAX : 0;
		scene_open(&rig, &scene);
		scene_open_rx(&rig, 0, &ask);
		rig_run_for(&rig, 1000000 * SECOND);
		scene_open_tx(&rig, 0, &ask);
		rig_run_for(&rig, 1000000 * SECOND);
		expect_going(&rig, 0);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 0, KVF_OK);
		scene_close(&rig);
	}
}

/* ---- requests that wait for their tx ---- */

static void parked_requests_end_by_themselves(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct scene_loss loss = {.type = KVFI_MSG_CANCEL, .all = true};
	struct rig rig;

	(void)state;
	scene_open(&rig, &scene);
	scene_lose(&rig, &loss); /* its receiver cannot say that it has given up */
	scene_open_rx(&rig, 0, &ask);
	rig_run_for(&rig, 35 * SECOND);
	scene_expect(&rig, 1, 0, KVF_TIMED_OUT);
	assert_true(loss.seen > 0);
	rig_check_empty(&rig, 0);
	scene_close(&rig);
}

static void one_peer_does_not_park_in_all_the_room_there_is(void **state)
{
	struct scene scene = {.decode_tp = 2, .config = rig_config()};
	struct rig_ask ask = scene_ask();
	struct kvfi_id_run run;
	struct kvfi_msg msg;
	struct rig rig;
	uint32_t refused = 0;

	(void)state;
	scene.config.max_links = 8;
	scene_open(&rig, &scene);
	for (uint32_t i = 0; i < 8; i++) {
		struct scene_loss loss = {.type = KVFI_MSG_RESULT};

		ask.request_id = 1000 + i;
		scene_lose(&rig, &loss);
		msg = scene_request(&ask, 50 + i, &run);
		rig_inject(&rig, 0, rig_peer_slot(&rig, 0, 1), &msg);
		if (loss.seen > 0)
			assert_int_equal(loss.last.u.result.status, KVF_BUSY);
		refused += loss.seen;
	}
	assert_int_equal(refused, 2);
	assert_int_equal(kvfi_core_counters(rig.nodes[0].core)->parked_full, 2);
	rig.drop = NULL;
	ask.request_id = SCENE_ID;
	rig_rx_open(&rig, 2, 0, &ask); /* another one is parked all the same, */
	rig_run_for(&rig, SECOND);
	assert_int_equal(kvfi_core_counters(rig.nodes[0].core)->parked_full, 2);
	ask.request_id = 1000;
	rig_tx_open(&rig, 0, 1, &ask); /* and one that is taken up makes room */
	msg = scene_request(&ask, 70, &run);
	msg.header.request_id = 2000;
	rig_inject(&rig, 0, rig_peer_slot(&rig, 0, 1), &msg);
	assert_int_equal(kvfi_core_counters(rig.nodes[0].core)->parked_full, 2);
	rig_disconnect(&rig, 0, 1, KVF_PEER_LOST);
	scene_close(&rig);
}

/* ---- holds ---- */

static void a_hold_rests_the_queue_deadline_until_five_seconds_after_its_last_word(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene.prefill_tp = 2;
	scene_open(&rig, &scene);
	scene_open_tx(&rig, 0, &ask);
	rig_run_for(&rig, 10 * SECOND);
	rig_hold(&rig, 2, &ask, 600 * SECOND);
	rig_run_for(&rig, 100 * SECOND);
	expect_going(&rig, 0);
	rig_hold(&rig, 2, &ask, 0); /* 20 s are left of the queue deadline, and at most 5 of the last word */
	rig_run_for(&rig, 23 * SECOND);
	expect_going(&rig, 0);
	rig_run_for(&rig, 3 * SECOND);
	for (uint32_t n = 0; n < 2; n++)
		scene_expect(&rig, n, 0, KVF_TIMED_OUT);
	assert_int_equal(rig.nodes[2].core != NULL, 1);
	scene_close(&rig);
}

static void a_held_request_is_received_and_the_hold_ends(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct scene_loss loss = {.type = KVFI_MSG_HOLD};
	struct rig rig;
	uint32_t told;

	(void)state;
	scene_open(&rig, &scene);
	scene_lose(&rig, &loss);
	rig_hold(&rig, 1, &ask, 600 * SECOND); /* before there is a tx at all */
	rig_run_for(&rig, 3 * SECOND);
	scene_open_tx(&rig, 0, &ask);
	rig_run_for(&rig, 100 * SECOND);
	told = loss.seen;
	assert_in_range(told, 100, 105); /* every second */
	scene_open_rx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, 10 * SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	assert_int_equal(loss.seen, told);
	scene_close(&rig);
}

static void holds_expire_and_are_bounded(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct scene_loss loss = {.type = KVFI_MSG_HOLD};
	struct rig rig;

	(void)state;
	scene.config.max_sessions = 4;
	scene_open(&rig, &scene);
	scene_lose(&rig, &loss);
	for (uint32_t i = 0; i < 6; i++) { /* the two that expire first make room */
		ask.request_id = 500 + i;
		rig_hold(&rig, 1, &ask, (i + 1) * 10 * SECOND);
	}
	assert_int_equal(loss.seen, 6);
	rig_run_for(&rig, 2 * SECOND);
	assert_int_equal(loss.seen, 6 + 2 * 4);
	rig_run_for(&rig, 60 * SECOND);
	loss.seen = 0;
	rig_run_for(&rig, 10 * SECOND);
	assert_int_equal(loss.seen, 0);
	scene_close(&rig);
}

/* With attention-DP: to the ranks of the group that the ticket names, or to all. */
static void holds_go_to_the_ranks_that_will_be_asked(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct scene_loss loss = {.type = KVFI_MSG_HOLD};
	struct rig rig;

	(void)state;
	scene.prefill_tp = scene.prefill_dp = 2;
	scene_open(&rig, &scene);
	scene_lose(&rig, &loss);
	ask.dp_index = 1;
	rig_hold(&rig, 2, &ask, SECOND / 2);
	assert_int_equal(loss.seen, 1);
	ask.request_id++;
	ask.dp_index = KVF_DP_UNKNOWN;
	rig_hold(&rig, 2, &ask, SECOND / 2);
	assert_int_equal(loss.seen, 3);
	rig_run_for(&rig, 5 * SECOND);
	scene_close(&rig);
}

/* On a receiver-applied path a RESULT may overtake the stream: from then on the session waits for its bytes, and it has just begun to. */
static void t_p13_the_queue_deadline_begins_anew_with_a_result_that_is_ahead_of_its_bytes(void **state)
{
	struct scene scene = with_deadlines();
	struct rig_ask ask = scene_ask();
	struct kvfi_msg result = scene_msg(KVFI_MSG_RESULT, &ask, 1);
	struct rig rig;

	(void)state;
	scene.receiver_applied = true;
	scene.config.transfer_timeout_ns = scene.config.stall_timeout_ns = 0;
	for (uint32_t come = 0; come < 2; come++) {
		scene_open(&rig, &scene);
		rig.hold_posts = true;
		rig.hold_after = 200;
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, 40 * SECOND); /* it moves, as far as anybody can tell */
		expect_going(&rig, 0);
		result.u.result = (struct kvfi_msg_result){.kind = KVFI_RESULT_KV,
			.last = 1,
			.bytes = rig.nodes[0].posts[0].bytes,
			.layer_end = KVF_MAX_LAYERS,
			.n_ranges = 1,
			.ranges = {{0, 0, 24}}};
		rig_inject(&rig, 1, rig_peer_slot(&rig, 1, 0), &result);
		rig_run_for(&rig, 29 * SECOND);
		expect_going(&rig, 0);
		rig.hold_posts = come == 0;
		rig_run_for(&rig, 9 * SECOND);
		if (come == 1)
			scene_expect_all(&rig, 0, KVF_OK);
		else
			expect_sentence(&rig, 1, 0, "queue_timeout of 30000 ms");
		scene_close(&rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_p10_a_tx_that_nobody_asks_for_ends_and_is_free_at_once),
		cmocka_unit_test(t_p08_an_rx_whose_tx_never_comes_ends_on_both_sides),
		cmocka_unit_test(the_queue_deadline_starts_anew_between_slices),
		cmocka_unit_test(waiting_for_aux_is_waiting),
		cmocka_unit_test(t_p09_posts_that_wait_in_a_queue_have_not_begun),
		cmocka_unit_test(a_slice_that_stops_moving_stalls),
		cmocka_unit_test(a_slow_transfer_does_not_stall_and_ends_with_its_own_deadline),
		cmocka_unit_test(t_p13_completions_are_drained_before_a_deadline_is_judged),
		cmocka_unit_test(
			t_p13_the_queue_deadline_begins_anew_with_a_result_that_is_ahead_of_its_bytes),
		cmocka_unit_test(t_p33_zero_is_off_and_huge_is_never),
		cmocka_unit_test(parked_requests_end_by_themselves),
		cmocka_unit_test(one_peer_does_not_park_in_all_the_room_there_is),
		cmocka_unit_test(a_hold_rests_the_queue_deadline_until_five_seconds_after_its_last_word),
		cmocka_unit_test(a_held_request_is_received_and_the_hold_ends),
		cmocka_unit_test(holds_expire_and_are_bounded),
		cmocka_unit_test(holds_go_to_the_ranks_that_will_be_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
