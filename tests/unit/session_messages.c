/* session_messages.c - the session core, one behaviour at a time: orders, repetition, claims, and what is told once. */
#include "session_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"

#define SECOND KVFI_NS_PER_S

/* ---- orders ---- */

static void send_before_request_and_request_before_send_complete(void **state)
{
	struct rig_ask ask = scene_ask();

	(void)state;
	for (int receive_first = 0; receive_first < 2; receive_first++) {
		struct rig rig;

		scene_open(&rig, &(struct scene){.prefill_tp = 2, .decode_tp = 2});
		if (receive_first)
			scene_open_rx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		scene_open_tx(&rig, 0, &ask);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, SECOND);
		if (!receive_first)
			scene_open_rx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 0, KVF_OK);
		scene_close(&rig);
	}
}

/* RESULTs by slice, to one node. */
struct result_count {
	uint32_t to, kv[16], aux, failed, other;
};

static bool count_results(struct rig *rig, uint32_t from, uint32_t to, const struct kvfi_msg *msg)
{
	struct result_count *count = rig->drop_argument;

	(void)from;
	if (msg->header.type != KVFI_MSG_RESULT || to != count->to)
		return false;
	if (msg->u.result.status != KVF_OK)
		count->failed++;
	else if (msg->u.result.kind == KVFI_RESULT_AUX)
		count->aux++;
	else if (msg->u.result.slice < 16)
		count->kv[msg->u.result.slice]++;
	else
		count->other++;
	return false;
}

static void a_late_request_is_sent_every_slice_in_order_once(void **state)
{
	struct rig_ask ask = scene_ask();
	struct result_count count = {.to = 2};
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.decode_tp = 2});
	ask.chunks = 6;
	ask.aux = true;
	rig.drop = count_results;
	rig.drop_argument = &count;
	scene_open_tx(&rig, 0, &ask);
	rig_rx_open(&rig, 1, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 1, 0, KVF_OK);
	assert_false(scene_session(&rig, 0, 0)->ready);
	assert_int_equal(scene_session(&rig, 0, 0)->slices, 0);
	rig_rx_open(&rig, 2, 0, &ask);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	for (uint32_t i = 0; i < 16; i++)
		assert_int_equal(count.kv[i], i < 6);
	assert_int_equal(count.aux, 1);
	assert_int_equal(count.failed + count.other, 0);
	scene_close(&rig);
}

/* The rig expects SLICE events in order, from 0. */
static void t_p24_every_slice_has_its_own_event_and_result(void **state)
{
	struct rig_ask ask = scene_ask();
	struct result_count count = {.to = 1};
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.mixed = true});
	ask.chunks = 3;
	ask.layer_wise = true;
	rig.drop = count_results;
	rig.drop_argument = &count;
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	assert_int_equal(scene_session(&rig, 0, 0)->slices, 6);
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(count.kv[i], 1);
	scene_close(&rig);
}

/* Pitfall 22: of two replicas one owes the bytes; both answer. */
static void t_p22_of_replicas_one_writes_and_every_one_answers(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;
	uint64_t sent = 0;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 7, .decode_tp = 1}); /* 7 ranks hold 4 heads */
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	for (uint32_t n = 0; n < 7; n++)
		sent += scene_session(&rig, n, 0)->stats.bytes;
	assert_int_equal(scene_session(&rig, 7, 0)->stats.peers, 7);
	assert_int_equal(sent, scene_session(&rig, 7, 0)->stats.bytes);
	assert_int_equal(sent, 3 * 2 * 4 * 24 * 16);
	scene_close(&rig);
}

/* ---- losses ---- */

static void t_p07_two_lost_messages_of_any_kind_delay_and_end_nothing(void **state)
{
	const enum kvfi_msg_type types[] = {KVFI_MSG_REQUEST, KVFI_MSG_REQUEST_OK, KVFI_MSG_CLAIM,
		KVFI_MSG_GO, KVFI_MSG_RESULT, KVFI_MSG_ACK};
	struct rig_ask ask = scene_ask();

	(void)state;
	ask.dp_index = KVF_DP_UNKNOWN;
	ask.aux = true;
	for (uint32_t i = 0; i < 12; i++) {
		struct scene_loss loss = {.type = types[i / 2], .first = 2};
		struct rig rig;

		scene_open(&rig,
			&(struct scene){.prefill_tp = 2, .prefill_dp = 2, .receiver_applied = i % 2 == 0});
		scene_lose(&rig, &loss);
		scene_open_rx(&rig, 0, &ask);
		rig_tx_open(&rig, 1, 0, &ask);
		rig_tx_send(&rig, 1, 0);
		rig_run_for(&rig, 5 * SECOND);
		assert_true(loss.seen >= 2);
		scene_expect_all(&rig, 0, KVF_OK);
		assert_int_equal(scene_session(&rig, 1, 0)->ready, 1);
		assert_int_equal(scene_session(&rig, 1, 0)->slices, 1);
		scene_close(&rig);
	}
}

static void t_p07_lost_cancels_and_quiets_are_said_again(void **state)
{
	const enum kvfi_msg_type types[] = {KVFI_MSG_CANCEL, KVFI_MSG_QUIET};
	struct rig_ask ask = scene_ask();

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		struct scene_loss loss = {.type = types[i], .first = 3};
		struct rig rig;

		scene_open(&rig, &(struct scene){.prefill_tp = 2});
		scene_lose(&rig, &loss);
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		rig_end_all(&rig, 2);
		rig_run_for(&rig, 5 * SECOND);
		assert_true(loss.seen > 3);
		scene_expect_all(&rig, 0, KVF_CANCELLED);
		scene_close(&rig);
	}
}

/* The RESULT is here, its bytes are on their way over another channel. */
static void t_p45_a_result_that_overtakes_its_bytes_waits_for_them(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_msg msg = scene_msg(KVFI_MSG_RESULT, &ask, 1);
	struct kvfi_msg_result *result = &msg.u.result;
	struct rig rig;

	(void)state;
	*result = (struct kvfi_msg_result){.kind = KVFI_RESULT_KV,
		.last = 1,
		.bytes = 3 * 2 * 4 * 24 * 16,
		.layer_end = KVF_MAX_LAYERS,
		.n_ranges = 1,
		.ranges = {{0, 0, 24}}};
	scene_open(&rig, &(struct scene){.receiver_applied = true});
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig.hold_posts = true;
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	rig_inject(&rig, 1, rig_peer_slot(&rig, 1, 0), &msg);
	rig_run_for(&rig, SECOND);
	assert_false(scene_session(&rig, 1, 0)->outcome);
	assert_int_equal(scene_session(&rig, 1, 0)->state, KVF_STATE_TRANSFERRING);
	rig.hold_posts = false;
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK); /* with every byte: the rig looks */
	scene_close(&rig);
}

/* ---- claims ---- */

static void of_two_groups_that_claim_the_first_wins_and_the_other_is_cancelled(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 4, .prefill_dp = 2});
	ask.dp_index = KVF_DP_UNKNOWN;
	scene_open_rx(&rig, 0, &ask);
	rig_run_for(&rig, SECOND);
	for (uint32_t n = 2; n < 6; n++)
		rig_tx_open(&rig, n % 4, 0, &ask); /* group 1 is first, by much */
	rig_run_for(&rig, SECOND);
	for (uint32_t n = 0; n < 4; n++)
		rig_tx_send(&rig, n, 0);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 2, 0, KVF_OK);
	scene_expect(&rig, 3, 0, KVF_OK);
	scene_expect(&rig, 0, 0, KVF_CANCELLED);
	scene_expect(&rig, 1, 0, KVF_CANCELLED);
	scene_expect(&rig, 4, 0, KVF_OK);
	assert_int_equal(scene_session(&rig, 4, 0)->stats.peers, 2);
	scene_close(&rig);
}

/* Ranks of the groups that were not chosen need not even be there; and after the choice nobody is waited for in vain. */
static void a_claim_ends_the_wait_for_ranks_of_other_groups(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 2, .prefill_dp = 2, .unconnected = true});
	rig_connect(&rig, 0, 2);
	ask.dp_index = KVF_DP_UNKNOWN;
	scene_open_rx(&rig, 0, &ask);
	rig_tx_open(&rig, 0, 0, &ask);
	rig_run_for(&rig, SECOND);
	assert_int_equal(scene_session(&rig, 2, 0)->state, KVF_STATE_READY);
	rig_run_for(&rig, 60 * SECOND); /* longer than the connect timeout: prefill is slow */
	assert_false(scene_session(&rig, 2, 0)->outcome);
	rig_tx_send(&rig, 0, 0);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 0, 0, KVF_OK);
	scene_expect(&rig, 2, 0, KVF_OK);
	scene_close(&rig);
}

/* Pitfall 31: not being chosen is no cancel of what comes later under that id. */
static void t_p31_a_group_that_was_not_chosen_serves_the_same_id_later(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 2, .prefill_dp = 2});
	ask.dp_index = KVF_DP_UNKNOWN;
	for (uint32_t i = 0; i < 4; i++) {
		uint32_t node = i % 2;

		if (i >= 2)
			rig_tx_open(&rig, node, 0, &ask);
		scene_open_rx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		if (i < 2)
			rig_tx_open(&rig, node, 0, &ask);
		rig_tx_send(&rig, node, 0);
		rig_run_for(&rig, SECOND);
		scene_expect(&rig, node, 0, KVF_OK);
		scene_expect(&rig, 2, 0, KVF_OK);
		rig_close_all_released(&rig);
	}
	scene_close(&rig);
}

/* ---- who may ask ---- */

static void a_second_decode_group_is_refused_by_name(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.decode_tp = 2, .decode_dp = 2});
	scene_open_tx(&rig, 0, &ask);
	rig_rx_open(&rig, 1, 0, &ask);
	rig_run_for(&rig, SECOND);
	rig_rx_open(&rig, 2, 0, &ask);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 2, 0, KVF_DUPLICATE);
	assert_non_null(strstr(scene_session(&rig, 2, 0)->error, "bound to another"));
	assert_false(scene_session(&rig, 0, 0)->outcome);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 0, 0, KVF_OK);
	scene_expect(&rig, 1, 0, KVF_OK);
	scene_close(&rig);
}

static void t_p46_prompts_that_differ_fail_both_sides_by_name(void **state)
{
	struct rig_ask ask = scene_ask(), other = ask;
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.decode_tp = 2});
	other.prompt_len = 23;
	scene_open_rx(&rig, 0,
		&ask); /* parked: two REQUESTs, of which the first ends the tx; the other one must not stay */
	rig_run_for(&rig, SECOND);
	scene_open_tx(&rig, 0, &other);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_PROMPT_MISMATCH);
	for (uint32_t n = 0; n < 3; n++) {
		assert_non_null(strstr(scene_session(&rig, n, 0)->error, "prefill has 23"));
		assert_non_null(strstr(scene_session(&rig, n, 0)->error, "asks for 24"));
	}
	scene_close(&rig);
}

static void digests_that_differ_fail_both_sides_by_name(void **state)
{
	struct rig_ask ask = scene_ask();

	(void)state;
	for (int tx_first = 0; tx_first < 2; tx_first++) {
		struct rig rig;

		scene_open(&rig, &(struct scene){.unconnected = true});
		rig.wrong_digest = 5;
		rig_connect_all(&rig);
		if (tx_first)
			scene_open_tx(&rig, 0, &ask);
		scene_open_rx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		if (!tx_first)
			scene_open_tx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 0, KVF_DIGEST_MISMATCH);
		assert_non_null(strstr(scene_session(&rig, 1, 0)->error,
			"prefill has 00000000000003e8, decode has 00000000000003ed"));
		scene_close(&rig);
	}
}

static void a_peer_that_does_not_fit_fails_the_next_request_at_once(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 2});
	rig_disconnect(&rig, 1, 2, KVF_INCOMPATIBLE);
	scene_open_rx(&rig, 0, &ask);
	assert_true(scene_session(&rig, 2, 0)->outcome); /* in the same step */
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 2, 0, KVF_INCOMPATIBLE);
	scene_close(&rig);
}

/* ---- parked and remembered ---- */

static void a_parked_request_that_waited_too_long_is_told_busy(void **state)
{
	struct rig_ask ask = scene_ask();
	struct scene_loss loss = {.type = KVFI_MSG_RESULT};
	struct kvfi_id_run run;
	struct kvfi_msg msg = scene_request(&ask, 9, &run);
	struct kvfi_core_usage usage;
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	scene_lose(&rig, &loss);
	msg.u.request.time_left_ns = SECOND;
	rig_inject(&rig, 0, rig_peer_slot(&rig, 0, 1), &msg);
	kvfi_core_usage(rig.nodes[0].core, &usage);
	assert_int_equal(usage.links, 1);
	assert_int_equal(usage.block_ids, 6);
	rig_run_for(&rig, SECOND - 1);
	assert_int_equal(loss.seen, 0);
	rig_run_for(&rig, SECOND);
	assert_int_equal(loss.seen, 1);
	assert_int_equal(loss.last.u.result.status, KVF_BUSY);
	assert_true(loss.last.u.result.last);
	rig_check_empty(&rig, 0);
	rig_inject(&rig, 0, rig_peer_slot(&rig, 0, 1),
		&msg); /* again: answered the same way, without a record of its own */
	assert_int_equal(loss.seen, 2);
	assert_int_equal(loss.last.u.result.status, KVF_BUSY);
	rig_check_empty(&rig, 0);
	scene_close(&rig);
}

static void a_request_for_a_tx_that_has_failed_is_told_so(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.decode_tp = 2});
	scene_open_tx(&rig, 0, &ask);
	rig_end_all(&rig, 0);
	rig_rx_open(&rig, 1, 0, &ask); /* its session is still there */
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 1, 0, KVF_CANCELLED);
	rig_close_session(&rig, 0, 0);
	rig_rx_open(&rig, 2, 0, &ask); /* only the record is */
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 2, 0, KVF_CANCELLED);
	scene_close(&rig);
}

static void a_cancel_before_its_request_ends_the_tx_that_would_wait_for_it(void **state)
{
	struct rig_ask ask = scene_ask();

	(void)state;
	for (int tx_first = 0; tx_first < 2; tx_first++) {
		struct scene_loss loss = {.type = KVFI_MSG_REQUEST, .all = true};
		struct kvfi_id_run run;
		struct kvfi_msg late;
		struct rig rig;

		scene_open(&rig, &(struct scene){0});
		scene_lose(&rig, &loss);
		if (tx_first)
			scene_open_tx(&rig, 0, &ask);
		scene_open_rx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		rig_end_all(&rig, 1);
		rig_run_for(&rig, SECOND);
		if (!tx_first)
			scene_open_tx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 0, KVF_CANCELLED);
		late = scene_request(&ask, 1, &run); /* and when it comes after all, nothing is kept of it */
		rig_inject(&rig, 0, rig_peer_slot(&rig, 0, 1), &late);
		rig_close_all_released(&rig);
		rig_check_empty(&rig, 0);
		scene_close(&rig);
	}
}

/* Pitfall 31, 50: what was called off does not kill what is asked anew. */
static void t_p50_a_receiver_that_asks_again_is_served(void **state)
{
	struct rig_ask ask = scene_ask();

	(void)state;
	for (uint32_t same_attempt = 0; same_attempt < 2; same_attempt++) {
		struct rig rig;

		scene_open(&rig, &(struct scene){.decode_tp = 2});
		ask.attempt = 0;
		scene_open_rx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		rig_end_all(&rig, 2); /* one of the two gives up, before prefill has begun */
		rig_end_all(&rig, 1);
		rig_run_for(&rig, SECOND);
		rig_close_all_released(&rig);
		ask.attempt = 1 - same_attempt;
		scene_open_rx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		scene_open_tx(&rig, 0, &ask);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 0, KVF_OK);
		scene_close(&rig);
	}
}

/* Small requests at a high rate: before a RESULT is repeated, many times max_sessions others have come and gone. */
static void t_p07_a_repeated_result_finds_its_session_remembered_after_many_others(void **state)
{
	struct scene_loss loss = {.type = KVFI_MSG_ACK, .first = 1};
	struct kvfi_core_config config = rig_config();
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	config.max_sessions = 4;
	scene_open(&rig, &(struct scene){.config = config});
	scene_lose(&rig, &loss);
	for (uint32_t i = 0; i < 9; i++) { /* all before the first repetition, after 50 ms */
		uint32_t slot = i == 0 ? 0 : 1;

		ask.request_id = SCENE_ID + i;
		scene_open_rx(&rig, slot, &ask);
		scene_open_tx(&rig, slot, &ask);
		scene_send_tx(&rig, slot);
		rig_run_for(&rig, 5 * KVFI_NS_PER_MS);
		scene_expect(&rig, 1, slot, KVF_OK);
		if (i == 0)
			assert_false(scene_session(&rig, 0, slot)->outcome);
		rig_close_all_released(&rig);
	}
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 0, 0, KVF_OK);
	scene_close(&rig);
}

/* Pitfall 31: memory of what ended is a ring; thousands of endings leave nothing behind, and ids may come again. */
static void t_p31_memory_of_what_ended_is_bounded(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_core_config config = rig_config();
	struct rig rig;

	(void)state;
	config.max_sessions = config.max_links = 4;
	scene_open(&rig, &(struct scene){.config = config});
	for (uint32_t i = 0; i < 500; i++) {
		ask.attempt = i / 50;
		ask.request_id = SCENE_ID + i % 50;
		if (i % 3 != 2)
			scene_open_rx(&rig, 0, &ask);
		if (i % 2 == 0)
			rig_run_for(&rig, 100000);
		if (i % 3 != 1)
			scene_open_tx(&rig, 0, &ask);
		rig_run_for(&rig, 100000);
		rig_end_all(&rig, i % 2);
		rig_end_all(&rig, 1 - i % 2);
		rig_run_for(&rig, SECOND);
		rig_close_all_released(&rig);
		rig_check_empty(&rig, 0);
		rig_check_empty(&rig, 1);
	}
	ask.request_id = SCENE_ID + 3;
	ask.attempt = 0;
	scene_open_tx(&rig, 0, &ask);
	scene_open_rx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	scene_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(send_before_request_and_request_before_send_complete),
		cmocka_unit_test(a_late_request_is_sent_every_slice_in_order_once),
		cmocka_unit_test(t_p24_every_slice_has_its_own_event_and_result),
		cmocka_unit_test(t_p22_of_replicas_one_writes_and_every_one_answers),
		cmocka_unit_test(t_p07_two_lost_messages_of_any_kind_delay_and_end_nothing),
		cmocka_unit_test(t_p07_lost_cancels_and_quiets_are_said_again),
		cmocka_unit_test(t_p45_a_result_that_overtakes_its_bytes_waits_for_them),
		cmocka_unit_test(of_two_groups_that_claim_the_first_wins_and_the_other_is_cancelled),
		cmocka_unit_test(a_claim_ends_the_wait_for_ranks_of_other_groups),
		cmocka_unit_test(t_p31_a_group_that_was_not_chosen_serves_the_same_id_later),
		cmocka_unit_test(a_second_decode_group_is_refused_by_name),
		cmocka_unit_test(t_p46_prompts_that_differ_fail_both_sides_by_name),
		cmocka_unit_test(digests_that_differ_fail_both_sides_by_name),
		cmocka_unit_test(a_peer_that_does_not_fit_fails_the_next_request_at_once),
		cmocka_unit_test(a_parked_request_that_waited_too_long_is_told_busy),
		cmocka_unit_test(a_request_for_a_tx_that_has_failed_is_told_so),
		cmocka_unit_test(a_cancel_before_its_request_ends_the_tx_that_would_wait_for_it),
		cmocka_unit_test(t_p50_a_receiver_that_asks_again_is_served),
		cmocka_unit_test(t_p07_a_repeated_result_finds_its_session_remembered_after_many_others),
		cmocka_unit_test(t_p31_memory_of_what_ended_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
