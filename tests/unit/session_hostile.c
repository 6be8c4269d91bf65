/* session_hostile.c - messages that a peer may send but should not: whatever they say, at most its own sessions fail, by name. */
#include "session_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"

#define SECOND KVFI_NS_PER_S
#define BYTES  (3 * 2 * 4 * 24 * 16) /* of 24 tokens of the plain model */

static void inject(struct rig *rig, uint32_t node, uint32_t from, const struct kvfi_msg *msg)
{
	rig_inject(rig, node, rig_peer_slot(rig, node, from), msg);
}

static struct kvfi_msg result_msg(const struct rig_ask *ask, uint32_t slice, uint32_t last, uint64_t bytes)
{
	struct kvfi_msg msg = scene_msg(KVFI_MSG_RESULT, ask, 1);

	msg.u.result = (struct kvfi_msg_result){.kind = KVFI_RESULT_KV,
		.slice = slice,
		.last = last,
		.bytes = bytes,
		.layer_end = KVF_MAX_LAYERS,
		.n_ranges = bytes > 0 ? 1 : 0,
		.ranges = {{0, 0, 24}}};
	return msg;
}

/* ---- to a decode rank ---- */

struct bad_result {
	const char *what;
	enum kvf_status status;
	struct kvfi_msg_result result;
};

static void results_that_do_not_fit_fail_the_session_by_name(void **state)
{
	const struct bad_result bad[] = {
		{"bytes", KVF_COVERAGE,
			{.bytes = BYTES - 1,
				.last = 1,
				.layer_end = 3,
				.n_ranges = 1,
				.ranges = {{0, 0, 24}}}},
		{"more than was asked for", KVF_OUT_OF_RANGE,
			{.bytes = BYTES, .last = 1, .layer_end = 3, .n_ranges = 1, .ranges = {{0, 0, 28}}}},
		{"a group there is not", KVF_OUT_OF_RANGE,
			{.bytes = BYTES, .last = 1, .layer_end = 3, .n_ranges = 1, .ranges = {{7, 0, 24}}}},
		{"a cut block", KVF_OUT_OF_RANGE,
			{.bytes = BYTES / 24, .layer_end = 3, .n_ranges = 1, .ranges = {{0, 0, 1}}}},
		{"one range twice", KVF_OUT_OF_RANGE,
			{.bytes = BYTES * 2,
				.last = 1,
				.layer_end = 3,
				.n_ranges = 2,
				.ranges = {{0, 0, 24}, {0, 0, 24}}}},
		{"no layers", KVF_EINVAL,
			{.bytes = BYTES,
				.last = 1,
				.layer_start = 2,
				.layer_end = 2,
				.n_ranges = 1,
				.ranges = {{0, 0, 24}}}},
		{"half of it", KVF_COVERAGE,
			{.bytes = BYTES / 2,
				.last = 1,
				.layer_end = 3,
				.n_ranges = 1,
				.ranges = {{0, 12, 24}}}},
		{"nothing, for want of one page", KVF_COVERAGE,
			{.last = 1, .layer_end = 3, .dropped_tokens = 23}},
		{"nothing", KVF_COVERAGE, {.last = 1, .layer_end = 3}},
		{"ranges without bytes", KVF_COVERAGE,
			{.layer_end = 3, .n_ranges = 1, .ranges = {{0, 0, 24}}}},
	};
	struct rig_ask ask = scene_ask();

	(void)state;
	for (uint32_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct kvfi_msg msg = result_msg(&ask, 0, 0, 0);
		struct rig rig;

		scene_open(&rig, &(struct scene){0});
		rig.hostile = true;
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		msg.u.result = bad[i].result;
		msg.u.result.kind = KVFI_RESULT_KV;
		inject(&rig, 1, 0, &msg);
		if (scene_session(&rig, 1, 0)->status != bad[i].status)
			fail_msg("%s: %s", bad[i].what, kvf_status_name(scene_session(&rig, 1, 0)->status));
		rig_run_for(&rig, SECOND);
		scene_expect(&rig, 0, 0, KVF_CANCELLED);
		scene_close(&rig);
	}
}

/* It would be counted for the other peer, whose bytes are not here. */
static void a_second_last_result_completes_nothing(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_msg first = result_msg(&ask, 0, 1, BYTES / 2), second = result_msg(&ask, 1, 1, 0);
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 2});
	rig.hostile = true;
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_run_for(&rig, SECOND);
	inject(&rig, 2, 0, &first);
	inject(&rig, 2, 0, &first);
	assert_false(scene_session(&rig, 2, 0)->outcome);
	inject(&rig, 2, 0, &second);
	assert_int_equal(scene_session(&rig, 2, 0)->status, KVF_COVERAGE);
	scene_close(&rig);
}

static void results_without_permission_touch_nothing(void **state)
{
	struct rig_ask ask = scene_ask();
	struct scene_loss loss = {.type = KVFI_MSG_ACK};
	struct kvfi_msg kv = result_msg(&ask, 0, 1, BYTES), aux = kv, unknown = kv, far = kv;
	struct rig rig;

	(void)state;
	aux.u.result = (struct kvfi_msg_result){
		.kind = KVFI_RESULT_AUX, .last = 1, .aux_bytes = 5, .aux = (const unsigned char *)"stale"};
	scene_open(&rig, &(struct scene){.prefill_tp = 2, .prefill_dp = 2});
	ask.dp_index = KVF_DP_UNKNOWN;
	ask.aux = true;
	scene_open_rx(&rig, 0, &ask);
	rig_run_for(&rig, SECOND);
	inject(&rig, 2, 0, &aux); /* an invitation gave no permission, not for aux either */
	inject(&rig, 2, 0, &kv);
	assert_int_equal(rig.nodes[2].aux[0][0], 0);
	scene_lose(&rig, &loss);
	unknown.header.epoch = 77;
	inject(&rig, 2, 0, &unknown);
	assert_int_equal(loss.last.u.ack.verdict, KVFI_VERDICT_UNKNOWN);
	rig_tx_open(&rig, 1, 0, &ask);
	rig_run_for(&rig, SECOND);
	far.u.result.slice = UINT32_MAX;
	inject(&rig, 2, 1, &far); /* not its turn */
	assert_false(scene_session(&rig, 2, 0)->outcome);
	rig_tx_send(&rig, 1, 0);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 2, 0, KVF_OK);
	scene_expect(&rig, 1, 0, KVF_OK);
	scene_close(&rig);
}

static void aux_data_that_nobody_expects_are_refused(void **state)
{
	static const unsigned char much[RIG_AUX_BYTES + 1];
	struct rig_ask ask = scene_ask();

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		struct kvfi_msg aux = scene_msg(KVFI_MSG_RESULT, &ask, 1);
		struct rig rig;

		aux.u.result = (struct kvfi_msg_result){
			.kind = KVFI_RESULT_AUX, .slice = KVFI_AUX_SLICE, .last = 1, .aux = much};
		aux.u.result.aux_bytes = i == 0 ? RIG_AUX_BYTES + 1 : 8;
		scene_open(&rig, &(struct scene){.prefill_tp = 2});
		ask.aux = i < 2;
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		inject(&rig, 2, 1, &aux); /* rank 1 owes none */
		if (i < 2) {
			assert_int_equal(scene_session(&rig, 2, 0)->status, KVF_AUX_REFUSED);
		} else { /* no slot was named: answered, and that is all */
			scene_send_tx(&rig, 0);
			rig_run_for(&rig, SECOND);
			scene_expect_all(&rig, 0, KVF_OK);
		}
		scene_close(&rig);
	}
}

static void claims_for_others_fail_the_session_by_name(void **state)
{
	struct rig_ask ask = scene_ask();

	(void)state;
	for (uint32_t dp = 0; dp < 3; dp++) {
		struct kvfi_msg claim = scene_msg(KVFI_MSG_CLAIM, &ask, 1);
		struct rig rig;

		scene_open(&rig, &(struct scene){.prefill_tp = 2, .prefill_dp = 2});
		ask.dp_index = KVF_DP_UNKNOWN;
		scene_open_rx(&rig, 0, &ask);
		rig_run_for(&rig, SECOND);
		claim.u.claim.dp_index = dp == 2 ? KVF_MAX_RANKS - 1 : dp;
		inject(&rig, 2, 0, &claim);
		inject(&rig, 2, 0, &claim);
		if (dp == 0)
			assert_false(scene_session(&rig, 2, 0)->outcome);
		else
			assert_int_equal(scene_session(&rig, 2, 0)->status, KVF_DP_CONFLICT);
		scene_close(&rig);
	}
}

/* A word about a slice of the session that had this link before. */
static void a_late_word_of_a_stream_reaches_no_other_session(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_input done = {.kind = KVFI_IN_RX_DONE};
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.receiver_applied = true});
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_run_for(&rig, SECOND);
	for (uint32_t link = 0; link < RIG_MAX_LINKS; link++) {
		done.u.done = (struct kvfi_in_done){
			.id = link, .epoch = 99, .status = KVF_STREAM_BROKEN, .bytes = BYTES};
		rig_step(&rig, &rig.nodes[1], &done);
	}
	assert_false(scene_session(&rig, 1, 0)->outcome);
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	scene_close(&rig);
}

/* ---- to a prefill rank ---- */

static void requests_that_do_not_fit_are_refused_by_name_and_leave_nothing(void **state)
{
	struct rig_ask ask = scene_ask();
	struct scene_loss loss = {.type = KVFI_MSG_RESULT};
	const enum kvf_status expected[] = {KVF_OUT_OF_RANGE, KVF_OUT_OF_RANGE, KVF_DIGEST_MISMATCH, KVF_BUSY,
		KVF_OUT_OF_RANGE, KVF_STALE_EPOCH};
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.decode_tp = 2, .decode_dp = 2});
	scene_lose(&rig, &loss);
	for (uint32_t i = 0; i < 6; i++) {
		struct kvfi_id_run run;
		struct kvfi_msg msg = scene_request(&ask, i == 5 ? 0 : 10 + i, &run);
		struct kvfi_msg_request *request = &msg.u.request;

		if (i == 0)
			request->dp_index = 1;
		if (i == 1)
			request->dp_rank = KVF_MAX_RANKS - 1;
		if (i == 2)
			request->digest++;
		if (i == 3) { /* two thousand million ids in one run */
			run = (struct kvfi_id_run){-1, 2000000000};
			request->groups[0].n_ids = run.count;
		}
		if (i == 4)
			request->dp_rank = 1; /* of another decode rank */
		inject(&rig, 0, 1, &msg);
		assert_int_equal(loss.seen, i + 1);
		assert_int_equal(loss.last.u.result.status, expected[i]);
		assert_true(loss.last.u.result.last == 1 && loss.last.u.result.reason[0] != '\0');
		rig_check_empty(&rig, 0);
	}
	scene_close(&rig);
}

/* Groups that the model does not have, ids that no pool has, more ids than the prompt has blocks. */
static void block_lists_that_do_not_fit_fail_the_session(void **state)
{
	struct rig_ask ask = scene_ask();

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		struct kvfi_id_run run;
		struct kvfi_msg msg = scene_request(&ask, 10, &run);
		struct rig rig;

		scene_open(&rig, &(struct scene){0});
		if (i == 0)
			msg.u.request.groups[0].group = KVF_MAX_GROUPS - 1;
		if (i == 1)
			run.start = INT32_MAX - 6;
		if (i == 2)
			msg.u.request.groups[0].n_ids = run.count = 2000;
		inject(&rig, 0, 1, &msg);
		scene_open_tx(&rig, 0, &ask);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, SECOND);
		assert_true(scene_session(&rig, 0, 0)->outcome);
		if (i > 0)
			assert_int_equal(scene_session(&rig, 0, 0)->status, KVF_BLOCK_LIST);
		else /* nothing was asked for in the only group there is, and the receiver knows of no such epoch */
			assert_int_equal(scene_session(&rig, 0, 0)->status, KVF_UNCONFIRMED);
		scene_close(&rig);
	}
}

static void acks_that_make_no_sense_are_dropped_or_end_that_session_alone(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_msg ack = scene_msg(KVFI_MSG_ACK, &ask, 1);
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.decode_tp = 2});
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_run_for(&rig, SECOND);
	for (uint32_t i = 0; i < 8; i++) { /* never sent */
		ack.u.ack = (struct kvfi_msg_ack){.kind = 1 + i % 2,
			.slice = i % 2 != 0 ? KVFI_AUX_SLICE : i / 2 % 2,
			.verdict = i / 4};
		inject(&rig, 0, 1, &ack);
	}
	assert_false(scene_session(&rig, 0, 0)->outcome);
	rig.hold_posts = true;
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	for (uint32_t i = 0; i < 8; i++) { /* not sent yet */
		ack.u.ack = (struct kvfi_msg_ack){.kind = 1 + i % 2,
			.slice = i % 2 != 0 ? KVFI_AUX_SLICE : i / 2 % 2,
			.verdict = i / 4};
		inject(&rig, 0, 1, &ack);
	}
	assert_false(scene_session(&rig, 0, 0)->outcome);
	rig.hold_posts = false;
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	scene_close(&rig);
}

/* Where this agent reads the stream itself, its own reads decide, not the writer's word. */
static void a_quiet_that_comes_while_bytes_are_read_releases_nothing(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_msg quiet = scene_msg(KVFI_MSG_QUIET, &ask, 1);
	struct rig rig;
	uint32_t link = 0;

	(void)state;
	scene_open(&rig, &(struct scene){.receiver_applied = true});
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	scene_send_tx(&rig, 0);
	while (!rig.nodes[1].grants[link].used)
		link++;
	while (rig.nodes[1].grants[link].inside == 0)
		rig_run_for(&rig, 500);
	rig_cancel(&rig, 1, 0, NULL);
	inject(&rig, 1, 0, &quiet);
	assert_false(scene_session(&rig, 1, 0)->released);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 1, 0, KVF_CANCELLED);
	assert_int_equal(scene_session(&rig, 1, 0)->stats.proofs[KVF_PROOF_LOCAL_EPOCH], 1);
	scene_close(&rig);
}

/* A receiver asks again, and what it said about its first epoch comes late. */
static void words_about_an_older_epoch_touch_nothing(void **state)
{
	const enum kvfi_msg_type types[] = {KVFI_MSG_CANCEL, KVFI_MSG_ACK, KVFI_MSG_GO};
	struct rig_ask ask = scene_ask();
	struct kvfi_id_run run;
	struct kvfi_msg msg;
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	for (uint64_t epoch = 5; epoch <= 9; epoch += 4) {
		msg = scene_request(&ask, epoch, &run);
		inject(&rig, 0, 1, &msg);
	}
	for (uint32_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		msg = scene_msg(types[i], &ask, 5);
		if (types[i] == KVFI_MSG_ACK)
			msg.u.ack =
				(struct kvfi_msg_ack){KVFI_RESULT_KV, 0, KVFI_VERDICT_FAILED, KVF_EINTERNAL};
		inject(&rig, 0, 1, &msg);
	}
	scene_open_tx(&rig, 0, &ask);
	assert_int_equal(scene_session(&rig, 0, 0)->state, KVF_STATE_READY);
	assert_false(scene_session(&rig, 0, 0)->outcome);
	rig_lose_peer(&rig, 0, 1, KVF_PEER_LOST);
	scene_close(&rig);
}

/* Taken at its word, it would send an "ok, last" to the other receiver, whose bytes are still on their way. */
static void a_failure_that_says_ok_is_a_failure_to_everybody(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_msg ack = scene_msg(KVFI_MSG_ACK, &ask, 1);
	struct scene_loss loss = {.type = KVFI_MSG_ACK, .all = true};
	struct rig rig;

	(void)state;
	ack.u.ack = (struct kvfi_msg_ack){.kind = KVFI_RESULT_KV, .verdict = KVFI_VERDICT_FAILED};
	scene_open(&rig, &(struct scene){.decode_tp = 2});
	ask.chunks = 2;
	scene_lose(&rig, &loss);
	rig_rx_open(&rig, 1, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_tx_send_some(&rig, 0, 0, 0, 1);
	rig_run_for(&rig, SECOND);
	rig_rx_open(&rig, 2, 0, &ask);
	rig.hold_posts = true;
	rig_run_for(&rig, 200000);
	inject(&rig, 0, 1, &ack);
	assert_int_equal(scene_session(&rig, 0, 0)->status, KVF_PROTOCOL);
	rig.drop = NULL;
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 0, 0, KVF_PROTOCOL);
	scene_expect(&rig, 2, 0, KVF_PROTOCOL);
	scene_close(&rig);
}

static void a_go_that_comes_twice_or_for_others_changes_nothing(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_msg go = scene_msg(KVFI_MSG_GO, &ask, 1);
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 2, .prefill_dp = 2});
	go.u.go = (struct kvfi_msg_go){.dp_index = 1, .lease_slot = UINT32_MAX, .lease_generation = 1};
	inject(&rig, 0, 2, &go); /* of nothing */
	ask.dp_index = KVF_DP_UNKNOWN;
	scene_open_rx(&rig, 0, &ask);
	rig_run_for(&rig, SECOND);
	inject(&rig, 0, 2, &go); /* of the other group */
	rig_tx_open(&rig, 0, 0, &ask);
	rig_run_for(&rig, SECOND);
	go.u.go.dp_index = 0;
	inject(&rig, 0, 2, &go); /* again, with another lease */
	rig_tx_send(&rig, 0, 0);
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 0, 0, KVF_OK);
	scene_expect(&rig, 2, 0, KVF_OK);
	scene_close(&rig);
}

/* Each kind of message to the side that sends it: the ids that a decode rank knows of are not those of a prefill rank. */
static void messages_for_the_other_role_are_dropped(void **state)
{
	const enum kvfi_msg_type types[] = {KVFI_MSG_REQUEST, KVFI_MSG_GO, KVFI_MSG_ACK, KVFI_MSG_CANCEL,
		KVFI_MSG_REQUEST_OK, KVFI_MSG_CLAIM, KVFI_MSG_RESULT, KVFI_MSG_QUIET, KVFI_MSG_PING};
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_run_for(&rig, SECOND);
	for (uint32_t i = 0; i < 9; i++) {
		uint32_t node = i < 4 ? 1 : 0;
		struct kvfi_id_run run;
		struct kvfi_msg msg = i == 0 ? scene_request(&ask, 1, &run) : scene_msg(types[i], &ask, 1);

		if (types[i] == KVFI_MSG_RESULT || types[i] == KVFI_MSG_ACK)
			msg.u.result.kind = KVFI_RESULT_KV;
		msg.header.request_id = 1; /* as the decode rank's (epoch, peer) */
		msg.header.attempt = rig_peer_slot(&rig, 1, 0);
		inject(&rig, node, 1 - node, &msg);
		msg.header.request_id = ask.request_id;
		msg.header.attempt = 0;
		inject(&rig, node, 1 - node, &msg);
	}
	scene_send_tx(&rig, 0);
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	assert_int_equal(kvfi_core_counters(rig.nodes[0].core)->unexpected_messages, 10);
	assert_int_equal(kvfi_core_counters(rig.nodes[1].core)->unexpected_messages, 8);
	scene_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(results_that_do_not_fit_fail_the_session_by_name),
		cmocka_unit_test(a_second_last_result_completes_nothing),
		cmocka_unit_test(results_without_permission_touch_nothing),
		cmocka_unit_test(aux_data_that_nobody_expects_are_refused),
		cmocka_unit_test(claims_for_others_fail_the_session_by_name),
		cmocka_unit_test(a_late_word_of_a_stream_reaches_no_other_session),
		cmocka_unit_test(requests_that_do_not_fit_are_refused_by_name_and_leave_nothing),
		cmocka_unit_test(block_lists_that_do_not_fit_fail_the_session),
		cmocka_unit_test(acks_that_make_no_sense_are_dropped_or_end_that_session_alone),
		cmocka_unit_test(a_quiet_that_comes_while_bytes_are_read_releases_nothing),
		cmocka_unit_test(words_about_an_older_epoch_touch_nothing),
		cmocka_unit_test(a_failure_that_says_ok_is_a_failure_to_everybody),
		cmocka_unit_test(a_go_that_comes_twice_or_for_others_changes_nothing),
		cmocka_unit_test(messages_for_the_other_role_are_dropped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
