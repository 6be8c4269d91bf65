/* session_cancel.c - the session core, one behaviour at a time: cancel from either side, before and after anything left, and races. */
#include "session_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"

#define SECOND KVFI_NS_PER_S

static void expect_sentence(struct rig *rig, uint32_t node, uint32_t slot, const char *part)
{
	if (strstr(scene_session(rig, node, slot)->error, part) == NULL)
		fail_msg("node %u: \"%s\" does not say \"%s\"", node, scene_session(rig, node, slot)->error,
			part);
}

static uint32_t proofs(struct rig *rig, uint32_t node, uint32_t slot, enum kvf_proof proof)
{
	return scene_session(rig, node, slot)->stats.proofs[proof];
}

/* ---- before anything was advertised ---- */

static void what_was_not_advertised_is_free_in_the_same_step(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.unconnected = true});
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_cancel(&rig, 0, 0, NULL);
	scene_expect(&rig, 0, 0, KVF_CANCELLED);
	rig_cancel(&rig, 1, 0, "the client is gone");
	scene_expect(&rig, 1, 0, KVF_CANCELLED);
	for (uint32_t n = 0; n < 2; n++) {
		assert_int_equal(proofs(&rig, n, 0, KVF_PROOF_NEVER_ADVERTISED), 1);
		assert_int_equal(scene_session(&rig, n, 0)->state, KVF_STATE_CANCELLED);
		assert_false(scene_session(&rig, n, 0)->advertised);
	}
	expect_sentence(&rig, 0, 0, "cancelled by the prefill side");
	expect_sentence(&rig, 1, 0, "cancelled by the decode side: the client is gone");
	rig_connect_all(&rig);
	assert_int_equal(rig.messages, 0);
	scene_close(&rig);
}

/* The user has been told that its memory is free; the word is on its way to the core. Nothing leaves in between. */
static void nothing_leaves_once_the_word_says_cancelled(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.unconnected = true});
	scene_open_rx(&rig, 0, &ask);
	rig_call_off(&rig, 1, 0);
	rig_connect_all(&rig); /* now it would be asked for */
	rig_run_for(&rig, SECOND);
	assert_int_equal(rig.messages, 0);
	assert_false(scene_session(&rig, 1, 0)->outcome);
	rig_cancel(&rig, 1, 0, NULL);
	scene_expect(&rig, 1, 0, KVF_CANCELLED);
	assert_int_equal(proofs(&rig, 1, 0, KVF_PROOF_NEVER_ADVERTISED), 1);
	scene_close(&rig);
}

static void no_byte_is_posted_once_the_word_says_cancelled(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_run_for(&rig, SECOND);
	rig_call_off(&rig, 0, 0);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	assert_int_equal(scene_session(&rig, 0, 0)->stats.bytes, 0);
	assert_false(scene_session(&rig, 0, 0)->outcome || scene_session(&rig, 1, 0)->outcome);
	rig_cancel(&rig, 0, 0, NULL);
	scene_expect(&rig, 0, 0, KVF_CANCELLED);
	assert_int_equal(proofs(&rig, 0, 0, KVF_PROOF_NEVER_ADVERTISED), 1);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 1, 0, KVF_CANCELLED); /* and its receiver is told */
	scene_close(&rig);
}

/* There was nothing to move, so nothing was advertised; the caller was told that it is cancelled, and so it is. */
static void what_was_called_off_does_not_complete_without_bytes(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	scene_open_tx(&rig, 0, &ask);
	ask.skip = 6; /* the receiver has all blocks already */
	scene_open_rx(&rig, 0, &ask);
	rig_run_for(&rig, SECOND);
	rig_call_off(&rig, 0, 0);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	assert_false(scene_session(&rig, 0, 0)->outcome);
	rig_cancel(&rig, 0, 0, NULL);
	scene_expect(&rig, 0, 0, KVF_CANCELLED);
	scene_close(&rig);
}

/* An invitation gives nobody the power to write. */
static void an_invitation_is_called_off_without_waiting(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 2, .prefill_dp = 2});
	ask.dp_index = KVF_DP_UNKNOWN;
	scene_open_rx(&rig, 0, &ask);
	rig_run_for(&rig, SECOND);
	assert_false(scene_session(&rig, 2, 0)->advertised);
	rig_cancel(&rig, 2, 0, NULL);
	scene_expect(&rig, 2, 0, KVF_CANCELLED);
	assert_int_equal(proofs(&rig, 2, 0, KVF_PROOF_NEVER_ADVERTISED), 2);
	rig_run_for(&rig, SECOND);
	rig_tx_open(&rig, 0, 0, &ask); /* whoever would claim it now hears that it is not wanted */
	scene_expect(&rig, 0, 0, KVF_CANCELLED);
	scene_close(&rig);
}

/* ---- in flight ---- */

static void t_p30_a_cancel_reaches_the_other_side_with_its_reason(void **state)
{
	struct rig_ask ask = scene_ask();

	(void)state;
	for (uint32_t by = 0; by < 6; by++) { /* either rank of either side, both kinds of paths */
		struct rig rig;

		scene_open(&rig, &(struct scene){.prefill_tp = 2, .receiver_applied = by >= 3});
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		rig.hold_posts = true;
		rig.hold_after = 200;
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, SECOND);
		rig_cancel(&rig, by % 3, 0, "a better offer");
		assert_true(scene_session(&rig, by % 3, 0)->outcome); /* at once */
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 0, KVF_CANCELLED);
		for (uint32_t n = 0; n < 3; n++)
			expect_sentence(&rig, n, 0, "a better offer");
		scene_close(&rig);
	}
}

static void t_p06_a_cancel_and_a_completion_have_one_winner(void **state)
{
	struct rig_ask ask = scene_ask();
	uint32_t completed = 0, cancelled = 0;

	(void)state;
	for (uint64_t after_ns = 0; after_ns < 4000000; after_ns += 17000) {
		struct rig rig;
		uint32_t node = (uint32_t)(after_ns / 17000 % 2);

		scene_open(&rig, &(struct scene){0});
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, after_ns);
		rig_cancel(&rig, node, 0, "racing");
		rig_cancel(&rig, node, 0, "asked twice");
		rig_run_for(&rig, SECOND);
		for (uint32_t n = 0; n < 2; n++) {
			const struct rig_session *session = scene_session(&rig, n, 0);

			assert_true(session->released);
			assert_true(session->status == KVF_OK || session->status == KVF_CANCELLED);
			assert_int_equal(session->state == KVF_STATE_CANCELLED, session->status != KVF_OK);
			completed += session->status == KVF_OK;
			cancelled += session->status != KVF_OK;
		}
		scene_close(&rig);
	}
	assert_true(completed > 0 && cancelled > 0);
}

/* Whoever cancels late changes nothing, and the other side neither. */
static void a_cancel_of_what_is_over_changes_nothing(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;
	uint64_t messages;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	messages = rig.messages;
	rig_cancel(&rig, 0, 0, NULL);
	rig_cancel(&rig, 1, 0, NULL);
	rig_run_for(&rig, 10 * SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	assert_int_equal(rig.messages, messages);
	scene_close(&rig);
}

/* Between slices and while the aux data are to come nothing moves, and all is permitted. */
static void cancels_between_slices_and_before_aux(void **state)
{
	struct rig_ask ask = scene_ask();

	(void)state;
	for (uint32_t by = 0; by < 4; by++) {
		struct rig rig;

		scene_open(&rig, &(struct scene){0});
		ask.chunks = 3;
		ask.aux = true;
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		rig_tx_send_some(&rig, 0, 0, 0, by < 2 ? 1 : 3);
		rig_run_for(&rig, SECOND);
		rig_cancel(&rig, by % 2, 0, NULL);
		rig_run_for(&rig, SECOND);
		scene_expect_all(&rig, 0, KVF_CANCELLED);
		assert_int_equal(scene_session(&rig, 1, 0)->good_end[0], by < 2 ? 8 : 24);
		scene_close(&rig);
	}
}

static void long_reasons_are_cut_and_carried(void **state)
{
	struct rig_ask ask = scene_ask();
	char reason[256];
	struct rig rig;

	(void)state;
	memset(reason, 'x', sizeof(reason) - 1);
	reason[sizeof(reason) - 1] = '\0';
	scene_open(&rig, &(struct scene){0});
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_run_for(&rig, SECOND);
	rig_cancel(&rig, 1, 0, reason);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_CANCELLED);
	expect_sentence(&rig, 0, 0, "decode side: xxxxx");
	scene_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_not_advertised_is_free_in_the_same_step),
		cmocka_unit_test(nothing_leaves_once_the_word_says_cancelled),
		cmocka_unit_test(no_byte_is_posted_once_the_word_says_cancelled),
		cmocka_unit_test(what_was_called_off_does_not_complete_without_bytes),
		cmocka_unit_test(an_invitation_is_called_off_without_waiting),
		cmocka_unit_test(t_p30_a_cancel_reaches_the_other_side_with_its_reason),
		cmocka_unit_test(t_p06_a_cancel_and_a_completion_have_one_winner),
		cmocka_unit_test(a_cancel_of_what_is_over_changes_nothing),
		cmocka_unit_test(cancels_between_slices_and_before_aux),
		cmocka_unit_test(long_reasons_are_cut_and_carried),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
