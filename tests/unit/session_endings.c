/* session_endings.c - the session core, one behaviour at a time: outcomes, releases and their proofs, deadlines, full tables. */
#include "session_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"

#define SECOND KVFI_NS_PER_S

/* ---- outcomes ---- */

static void t_p25_kv_that_is_done_waits_for_aux(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 2});
	ask.aux = true;
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	for (uint32_t n = 0; n < 2; n++)
		rig_tx_send_some(&rig, n, 0, 0, 16);
	rig_run_for(&rig, 60 * SECOND);
	/* Of the two prefill ranks one owes the aux data; the other one has said that it does not, and is done. */
	assert_int_equal(scene_session(&rig, 2, 0)->state, KVF_STATE_KV_TRANSFERRED);
	assert_false(scene_session(&rig, 2, 0)->outcome);
	assert_false(scene_session(&rig, 0, 0)->outcome && scene_session(&rig, 1, 0)->outcome);
	for (uint32_t n = 0; n < 2; n++)
		if (!scene_session(&rig, n, 0)->outcome)
			rig_tx_aux(&rig, n, 0, RIG_AUX_BYTES);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	assert_int_equal(scene_session(&rig, 2, 0)->state, KVF_STATE_FULLY_TRANSFERRED);
	scene_close(&rig);
}

static void aux_that_does_not_fit_fails_both_sides_by_name(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	ask.aux = true;
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_tx_send_some(&rig, 0, 0, 0, 16);
	rig_tx_aux(&rig, 0, 0, RIG_AUX_BYTES + 1);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_AUX_REFUSED);
	assert_non_null(strstr(scene_session(&rig, 1, 0)->error, "65 bytes were given, the slot has 64"));
	scene_close(&rig);
}

static void aux_that_never_comes_ends_with_the_tx(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	ask.aux = true;
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_tx_send_some(&rig, 0, 0, 0, 16);
	rig_run_for(&rig, SECOND);
	rig_end_all(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_CANCELLED);
	assert_int_equal(scene_session(&rig, 1, 0)->good_end[0], 24); /* all its blocks are good */
	scene_close(&rig);
}

static void t_p30_a_failure_on_either_side_is_told_to_the_other(void **state)
{
	struct rig_ask ask = scene_ask();

	(void)state;
	for (uint32_t ends = 0; ends < 4; ends++) { /* each of the four ranks in turn */
		struct rig rig;

		scene_open(&rig, &(struct scene){.prefill_tp = 2, .decode_tp = 1 + ends % 2});
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		rig.hold_posts = true;
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, SECOND);
		rig_end_all(&rig, ends % rig.n_nodes);
		rig_run_for(&rig, 3 * SECOND);
		for (uint32_t n = 0; n < rig.n_nodes; n++) /* TP2 to TP2 pairs rank by rank */
			if (rig.n_nodes == 3 || n % 2 == ends % 2)
				scene_expect(&rig, n, 0, KVF_CANCELLED);
		scene_close(&rig);
	}
}

static void t_p06_a_late_success_does_not_overwrite_a_failure(void **state)
{
	struct rig_ask ask = scene_ask();
	struct scene_loss loss = {.type = KVFI_MSG_RESULT, .all = true};
	struct kvfi_msg result;
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	scene_lose(&rig, &loss);
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	result = loss.last;
	assert_int_equal(result.u.result.status, KVF_OK);
	rig_end_all(&rig, 1);
	rig_inject(&rig, 1, rig_peer_slot(&rig, 1, 0), &result);
	rig_inject(&rig, 1, rig_peer_slot(&rig, 1, 0), &result);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_CANCELLED);
	assert_int_equal(scene_session(&rig, 1, 0)->state, KVF_STATE_CANCELLED);
	rig_inject(&rig, 1, rig_peer_slot(&rig, 1, 0), &result);
	scene_expect_all(&rig, 0, KVF_CANCELLED);
	scene_close(&rig);
}

static void t_p15_success_and_failure_are_the_same_message(void **state)
{
	struct rig_ask ask = scene_ask();
	struct scene_loss loss = {.type = KVFI_MSG_RESULT};
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	scene_lose(&rig, &loss);
	ask.chunks = 2;
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_tx_send_some(&rig, 0, 0, 0, 1);
	rig_run_for(&rig, SECOND);
	assert_int_equal(loss.seen, 1);
	assert_int_equal(loss.last.u.result.status, KVF_OK);
	rig_end_all(&rig, 0);
	rig_run_for(&rig, SECOND);
	assert_int_equal(loss.seen, 2);
	assert_int_equal(loss.last.u.result.kind, KVFI_RESULT_KV);
	assert_int_equal(loss.last.u.result.slice, 1);
	assert_int_equal(loss.last.u.result.last, 1);
	assert_int_equal(loss.last.u.result.status, KVF_CANCELLED);
	scene_expect_all(&rig, 0, KVF_CANCELLED);
	scene_close(&rig);
}

static void blocks_of_slices_that_came_are_good_when_the_rest_fails(void **state)
{
	const uint64_t good[] = {8, 16, 0, 8};
	struct rig_ask ask = scene_ask();

	(void)state;
	/* Slices of 8 tokens; layer-wise ones are good when their last layer is. */
	for (uint32_t i = 0; i < 4; i++) {
		struct rig rig;

		scene_open(&rig, &(struct scene){0});
		ask.chunks = 3;
		ask.layer_wise = i >= 2;
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		rig_tx_send_some(&rig, 0, 0, 0, i >= 2 ? i - 1 + (i == 3 ? 1 : 0) : i + 1);
		rig_run_for(&rig, SECOND);
		rig_end_all(&rig, 1);
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 0, KVF_CANCELLED);
		assert_int_equal(
			scene_session(&rig, 1, 0)->good_end[0], good[i]); /* and the rig has looked */
		scene_close(&rig);
	}
}

/* The source has no page for block 1: complete, as far as it can be; but what follows a hole is not called good. */
static void blocks_that_the_source_has_not_are_not_called_good(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	ask.chunks = 3;
	ask.drop_page = 4;
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_tx_send_some(&rig, 0, 0, 0, 2);
	rig_run_for(&rig, SECOND);
	rig_end_all(&rig, 1);
	rig_run_for(&rig, SECOND);
	assert_int_equal(scene_session(&rig, 1, 0)->good_end[0], 8);
	rig_close_all_released(&rig);
	ask.attempt = 1;
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	scene_close(&rig);
}

static void layer_wise_slices_with_holes_complete(void **state)
{
	struct rig_ask ask = scene_ask();

	(void)state;
	ask.chunks = 2;
	ask.layer_wise = true;
	for (uint32_t hole = 1; hole <= 6; hole++) {
		struct rig rig;

		scene_open(&rig, &(struct scene){.mixed = true});
		ask.hole = hole;
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 0, KVF_OK);
		scene_close(&rig);
	}
}

static void a_windowed_source_may_begin_later(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig_ids *window;
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.mixed = true});
	scene_open_tx(&rig, 0, &ask);
	window = &scene_session(&rig, 0, 0)->groups[1];
	assert_int_equal(window->n, 2); /* of 8 tokens */
	window->ids[0] = window->ids[1];
	window->n = 1;
	ask.drop_page = 1; /* so that the rig does not ask for all bytes */
	scene_open_rx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	scene_close(&rig);
}

static void a_rank_that_nobody_owes_anything_is_done_at_once(void **state)
{
	struct kvfi_pair_list nobody = {0, NULL};
	struct kvfi_input up = {.kind = KVFI_IN_PEER_UP};
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.unconnected = true});
	up.u.peer_up =
		(struct kvfi_peer_up){.instance = rig.instances[0], .rank = 0, .n_dps = 1, .by_dp = &nobody};
	rig_step(&rig, &rig.nodes[1], &up);
	ask.drop_page = 1; /* so that the rig does not ask for bytes */
	scene_open_rx(&rig, 0, &ask);
	assert_int_equal(scene_session(&rig, 1, 0)->status, KVF_OK);
	assert_true(scene_session(&rig, 1, 0)->released);
	assert_int_equal(scene_session(&rig, 1, 0)->state, KVF_STATE_FULLY_TRANSFERRED);
	scene_close(&rig);
}

/* ---- releases ---- */

static bool inside(const struct rig *rig, uint32_t node)
{
	for (uint32_t i = 0; i < RIG_MAX_LINKS; i++)
		if (rig->nodes[node].grants[i].inside > 0)
			return true;
	return false;
}

static void t_p29_a_failure_of_one_peer_does_not_release_what_another_writes(void **state)
{
	struct rig_ask ask = scene_ask();

	(void)state;
	for (uint32_t applied = 0; applied < 2; applied++) {
		struct kvfi_msg failed = scene_msg(KVFI_MSG_RESULT, &ask, 1);
		struct rig rig;

		failed.u.result = (struct kvfi_msg_result){.kind = KVFI_RESULT_KV,
			.last = 1,
			.status = KVF_EIO,
			.reason = "its disk is on fire"};
		scene_open(&rig, &(struct scene){.prefill_tp = 2, .receiver_applied = applied});
		scene_open_rx(&rig, 0, &ask);
		rig_tx_open(&rig, 1, 0, &ask);
		rig_tx_send(&rig, 1, 0);
		while (!inside(&rig, 2))
			rig_run_for(&rig, 100);
		rig_inject(&rig, 2, rig_peer_slot(&rig, 2, 0), &failed);
		assert_int_equal(scene_session(&rig, 2, 0)->status, KVF_EIO);
		assert_non_null(strstr(scene_session(&rig, 2, 0)->error, "on fire"));
		while (inside(&rig, 2)) {
			assert_false(scene_session(&rig, 2, 0)->released);
			rig_run_for(&rig, 100);
		}
		rig_run_for(&rig, SECOND);
		scene_expect(&rig, 2, 0, KVF_EIO);
		scene_expect(&rig, 1, 0, KVF_CANCELLED);
		assert_int_equal(
			scene_session(&rig, 2, 0)
					->stats
					.proofs[applied ? KVF_PROOF_LOCAL_EPOCH : KVF_PROOF_WRITER_QUIET] +
				scene_session(&rig, 2, 0)->stats.proofs[KVF_PROOF_LEASE],
			2);
		rig_tx_open(&rig, 0, 0, &ask); /* where the REQUEST still waits */
		scene_close(&rig);
	}
}

static void t_p40_a_restarted_peer_fails_its_old_sessions_and_serves_new_ones(void **state)
{
	struct rig_ask ask = scene_ask(), next = ask;

	(void)state;
	next.request_id++;
	for (uint32_t restarted = 0; restarted < 2; restarted++) {
		struct rig rig;

		scene_open(&rig, &(struct scene){0});
		rig.hold_posts = true;
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, SECOND);
		rig_restart(&rig, restarted);
		assert_int_equal(scene_session(&rig, 1 - restarted, 0)->status, KVF_PEER_LOST);
		rig.hold_posts = false;
		rig_connect(&rig, 0, 1);
		scene_open_rx(&rig, 1, &next);
		scene_open_tx(&rig, 1, &next);
		scene_send_tx(&rig, 1);
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 1, KVF_OK);
		scene_expect(&rig, 1 - restarted, 0, KVF_PEER_LOST);
		/* And the same request again, as its next attempt. */
		ask.attempt++;
		rig_close_all_released(&rig);
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 0, KVF_OK);
		scene_close(&rig);
	}
}

/* Its link goes on saying CANCEL while the slot, the blocks and the id are in use again. */
static void a_slot_is_used_again_while_its_old_cancel_is_not_answered(void **state)
{
	struct scene_loss loss = {.type = KVFI_MSG_QUIET, .all = true};
	struct rig_ask ask = scene_ask();
	struct kvfi_core_usage usage;

	(void)state;
	for (uint32_t begun = 0; begun < 2; begun++) {
		struct rig rig;

		scene_open(&rig, &(struct scene){0});
		scene_lose(&rig, &loss);
		ask.chunks = 3;
		ask.attempt = 0;
		scene_open_rx(&rig, 0, &ask);
		if (begun) {
			scene_open_tx(&rig, 0, &ask);
			rig_tx_send_some(&rig, 0, 0, 0, 1);
		}
		rig_run_for(&rig, SECOND);
		rig_end_all(&rig, 1);
		rig_run_for(&rig, SECOND);
		rig_close_all_released(&rig);
		kvfi_core_usage(rig.nodes[1].core, &usage);
		assert_int_equal(usage.links, 1);
		assert_int_equal(usage.sessions, 0);
		ask.attempt = 1;
		scene_open_rx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		scene_open_tx(&rig, 0, &ask);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 0, KVF_OK);
		scene_close(&rig);
	}
}

/* Pitfall 43: ids that agree in their low bits are different requests. */
static void t_p43_whole_ids_are_compared(void **state)
{
	struct rig_ask one = scene_ask(), other = one;
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	other.request_id = one.request_id ^ (UINT64_C(1) << 63);
	scene_open_rx(&rig, 0, &one);
	scene_open_tx(&rig, 0, &other);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	assert_false(scene_session(&rig, 0, 0)->outcome || scene_session(&rig, 1, 0)->outcome);
	scene_open_rx(&rig, 1, &other);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 0, 0, KVF_OK);
	scene_expect(&rig, 1, 1, KVF_OK);
	assert_false(scene_session(&rig, 1, 0)->outcome);
	scene_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_p25_kv_that_is_done_waits_for_aux),
		cmocka_unit_test(aux_that_does_not_fit_fails_both_sides_by_name),
		cmocka_unit_test(aux_that_never_comes_ends_with_the_tx),
		cmocka_unit_test(t_p30_a_failure_on_either_side_is_told_to_the_other),
		cmocka_unit_test(t_p06_a_late_success_does_not_overwrite_a_failure),
		cmocka_unit_test(t_p15_success_and_failure_are_the_same_message),
		cmocka_unit_test(blocks_of_slices_that_came_are_good_when_the_rest_fails),
		cmocka_unit_test(blocks_that_the_source_has_not_are_not_called_good),
		cmocka_unit_test(layer_wise_slices_with_holes_complete),
		cmocka_unit_test(a_windowed_source_may_begin_later),
		cmocka_unit_test(a_rank_that_nobody_owes_anything_is_done_at_once),
		cmocka_unit_test(t_p29_a_failure_of_one_peer_does_not_release_what_another_writes),
		cmocka_unit_test(t_p40_a_restarted_peer_fails_its_old_sessions_and_serves_new_ones),
		cmocka_unit_test(a_slot_is_used_again_while_its_old_cancel_is_not_answered),
		cmocka_unit_test(t_p43_whole_ids_are_compared),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
