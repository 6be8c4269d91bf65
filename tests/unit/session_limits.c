/* session_limits.c - the session core, one behaviour at a time: the connect deadline, sums, full tables. */
#include "session_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"

#define SECOND KVFI_NS_PER_S

/* ---- deadlines ---- */

static void requests_that_nobody_answers_end_with_the_connect_timeout(void **state)
{
	struct scene_loss loss = {.type = KVFI_MSG_REQUEST, .all = true};
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 2, .unconnected = true});
	scene_open_rx(&rig, 0, &ask); /* nobody is there at all */
	rig_run_for(&rig, 21 * SECOND);
	scene_expect(&rig, 2, 0, KVF_UNREACHABLE);
	assert_non_null(strstr(scene_session(&rig, 2, 0)->error, "instance 1 is not connected"));
	rig_connect(&rig, 0, 2);
	scene_open_rx(&rig, 1, &ask); /* one of two */
	rig_run_for(&rig, 21 * SECOND);
	scene_expect(&rig, 2, 1, KVF_UNREACHABLE);
	assert_non_null(strstr(scene_session(&rig, 2, 1)->error, "1 of 2 prefill ranks"));
	rig_connect(&rig, 1, 2);
	scene_lose(&rig, &loss);
	ask.request_id++;
	scene_open_rx(&rig, 2, &ask); /* both, and neither answers */
	rig_run_for(&rig, 21 * SECOND);
	scene_expect(&rig, 2, 2, KVF_UNREACHABLE);
	assert_non_null(strstr(scene_session(&rig, 2, 2)->error, "2 of 2 prefill ranks"));
	scene_close(&rig);
}

/* Pitfall 13: the loop was away past the deadline, and what came in time waits in its inbox. */
static void t_p13_what_waits_is_taken_before_a_deadline_is_judged(void **state)
{
	struct scene_loss loss = {.type = KVFI_MSG_RESULT, .all = true};
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){0});
	ask.chunks = 2;
	scene_open_rx(&rig, 0, &ask);
	scene_open_tx(&rig, 0, &ask);
	rig_tx_send_some(&rig, 0, 0, 0, 1);
	rig_run_for(&rig, 100 * KVFI_NS_PER_MS);
	assert_int_equal(scene_session(&rig, 1, 0)->state, KVF_STATE_TRANSFERRING);
	scene_lose(&rig, &loss);
	rig_tx_send_some(&rig, 0, 0, 1, 2);
	rig_run_for(&rig, 40 * KVFI_NS_PER_MS);
	assert_true(loss.seen > 0 && loss.last.u.result.last);
	rig.drop = NULL;
	rig.now_ns += 30 * SECOND;
	rig_inject(&rig, 1, rig_peer_slot(&rig, 1, 0), &loss.last);
	scene_expect(&rig, 1, 0, KVF_OK);
	scene_close(&rig);
}

/* ---- sums ---- */

static void sums_that_differ_fail_both_sides_by_name(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_core_config config = rig_config();

	(void)state;
	config.verify = KVF_VERIFY_SUM;
	for (uint32_t i = 0; i < 4; i++) {
		struct rig rig;

		scene_open(
			&rig, &(struct scene){.config = config, .receiver_applied = i % 2, .prefill_tp = 2});
		rig.wrong_sums = i >= 2;
		scene_open_rx(&rig, 0, &ask);
		scene_open_tx(&rig, 0, &ask);
		scene_send_tx(&rig, 0);
		rig_run_for(&rig, SECOND);
		scene_expect(&rig, 2, 0, i >= 2 ? KVF_SUM_MISMATCH : KVF_OK);
		if (i >= 2)
			assert_non_null(strstr(scene_session(&rig, 2, 0)->error, "sum: the sender has"));
		for (uint32_t n = 0; n < 2 && i >= 2; n++)
			assert_true(scene_session(&rig, n, 0)->status != KVF_OK);
		scene_close(&rig);
	}
}

/* ---- full tables ---- */

static void sixteen_deliveries_serve_forty_links_in_turn(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_core_config config = rig_config();
	uint64_t first_ns = UINT64_MAX, last_ns = 0;
	struct rig rig;

	(void)state;
	config.max_deliveries = 16;
	scene_open(&rig, &(struct scene){.config = config, .decode_tp = 2});
	ask.chunks = 6;
	ask.aux = true;
	for (uint32_t slot = 0; slot < 20; slot++) {
		ask.request_id++;
		scene_open_rx(&rig, slot, &ask);
		scene_open_tx(&rig, slot, &ask);
	}
	rig_run_for(&rig, SECOND);
	for (uint32_t slot = 0; slot < 20; slot++)
		scene_send_tx(&rig, slot);
	rig_run_for(&rig, 10 * SECOND);
	for (uint32_t slot = 0; slot < 20; slot++) {
		uint64_t at_ns = scene_session(&rig, 0, slot)->stats.first_byte_ns;

		scene_expect_all(&rig, slot, KVF_OK);
		first_ns = at_ns < first_ns ? at_ns : first_ns;
		last_ns = at_ns > last_ns ? at_ns : last_ns;
	}
	/* Everybody has begun before anybody was served completely. */
	for (uint32_t slot = 0; slot < 20; slot++)
		assert_true(scene_session(&rig, 0, slot)->stats.outcome_ns > last_ns);
	scene_close(&rig);
}

static void full_tables_refuse_by_name_and_free_themselves(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_core_config config = rig_config();
	struct scene_loss loss = {.type = KVFI_MSG_RESULT};
	struct kvfi_id_run run;
	struct kvfi_msg msg;
	struct rig rig;

	(void)state;
	config.max_links = 2;
	config.max_block_ids = 10;
	scene_open(&rig, &(struct scene){.config = config});
	for (uint32_t slot = 0; slot < 3; slot++) {
		ask.request_id = SCENE_ID + slot;
		ask.prompt_len = 12;
		scene_open_rx(&rig, slot, &ask);
	}
	rig_run_for(&rig, SECOND);
	scene_expect(&rig, 1, 2, KVF_EFULL);
	assert_non_null(strstr(scene_session(&rig, 1, 2)->error, "max_links: all 2 are in use"));
	scene_lose(&rig, &loss);
	msg = scene_request(&ask, 50, &run); /* the prefill side has two parked as well */
	rig_inject(&rig, 0, rig_peer_slot(&rig, 0, 1), &msg);
	assert_int_equal(loss.seen, 1);
	assert_int_equal(loss.last.u.result.status, KVF_BUSY);
	for (uint32_t slot = 0; slot < 2; slot++) {
		ask.request_id = SCENE_ID + slot;
		rig_tx_open(&rig, 0, slot, &ask);
		rig_tx_send(&rig, 0, slot);
	}
	rig_run_for(&rig, SECOND);
	scene_expect_all(&rig, 0, KVF_OK);
	scene_expect_all(&rig, 1, KVF_OK);
	rig_close_all_released(&rig);
	rig_check_empty(&rig, 0);
	rig_check_empty(&rig, 1);
	ask.prompt_len = 41; /* 11 blocks, and there is room for the ids of 10 */
	msg = scene_request(&ask, 51, &run);
	rig_inject(&rig, 0, rig_peer_slot(&rig, 0, 1), &msg);
	assert_int_equal(loss.last.u.result.status, KVF_BUSY);
	rig_check_empty(&rig, 0);
	scene_close(&rig);
}

/* What was cancelled is remembered in a ring; what falls out of it stays cancelled. */
static void a_cancelled_epoch_that_was_forgotten_is_not_served(void **state)
{
	struct rig_ask ask = scene_ask();
	struct kvfi_core_config config = rig_config();
	struct scene_loss loss = {.type = KVFI_MSG_RESULT};
	struct kvfi_msg msg;
	struct kvfi_id_run run;
	struct rig rig;

	(void)state;
	config.max_links = 4;
	scene_open(&rig, &(struct scene){.config = config});
	scene_lose(&rig, &loss);
	for (uint64_t epoch = 5; epoch < 10; epoch++) {
		ask.request_id = SCENE_ID + epoch;
		msg = scene_msg(KVFI_MSG_CANCEL, &ask, epoch);
		rig_inject(&rig, 0, rig_peer_slot(&rig, 0, 1), &msg);
	}
	ask.request_id = SCENE_ID + 5;
	msg = scene_request(&ask, 5, &run); /* it comes late */
	rig_inject(&rig, 0, rig_peer_slot(&rig, 0, 1), &msg);
	assert_int_equal(loss.seen, 1);
	assert_int_equal(loss.last.u.result.status, KVF_STALE_EPOCH);
	rig_check_empty(&rig, 0);
	msg = scene_request(&ask, 10, &run); /* another one */
	rig_inject(&rig, 0, rig_peer_slot(&rig, 0, 1), &msg);
	assert_int_equal(loss.seen, 1);
	rig_lose_peer(&rig, 0, 1, KVF_PEER_LOST);
	scene_close(&rig);
}

/* Its receiver has released its blocks by the refusal: serving a late copy of the REQUEST would write into them. */
static void t_p04_a_request_that_was_refused_is_not_served_when_it_comes_again(void **state)
{
	struct rig_ask first = scene_ask(), second = scene_ask();
	struct kvfi_core_config config = rig_config();
	struct scene_loss loss = {.type = KVFI_MSG_RESULT, .all = true};
	struct kvfi_id_run run;
	struct kvfi_msg msg;
	struct rig rig;
	uint32_t peer;

	(void)state;
	config.max_links = 1;
	scene_open(&rig, &(struct scene){.config = config});
	peer = rig_peer_slot(&rig, 0, 1);
	scene_lose(&rig, &loss);
	msg = scene_request(&first, 50, &run);
	rig_inject(&rig, 0, peer, &msg); /* parked: it has the only link */
	second.request_id++;
	msg = scene_request(&second, 51, &run);
	rig_inject(&rig, 0, peer, &msg);
	assert_int_equal(loss.seen, 1);
	assert_int_equal(loss.last.u.result.status, KVF_BUSY);
	msg = scene_msg(KVFI_MSG_CANCEL, &first, 50);
	msg.u.cancel.status = KVF_CANCELLED;
	rig_inject(&rig, 0, peer, &msg);
	rig_tx_open(&rig, 0, 0, &second); /* now there is room, and a tx */
	rig_tx_send(&rig, 0, 0);
	msg = scene_request(&second, 51, &run);
	rig_inject(&rig, 0, peer, &msg);
	assert_int_equal(loss.seen, 2);
	assert_int_equal(loss.last.u.result.status,
		KVF_STALE_EPOCH); /* the memory of one link holds one end, and then a floor */
	assert_int_equal(scene_session(&rig, 0, 0)->ready, 0);
	scene_close(&rig);
}

static void a_grant_that_cannot_be_made_fails_by_name(void **state)
{
	struct rig_ask ask = scene_ask();
	struct rig rig;

	(void)state;
	scene_open(&rig, &(struct scene){.prefill_tp = 2});
	rig.no_grant = KVF_EFULL;
	scene_open_rx(&rig, 0, &ask);
	scene_expect(&rig, 2, 0, KVF_EFULL);
	rig.no_grant = KVF_OK;
	ask.dp_index = KVF_DP_UNKNOWN;
	scene_open_rx(&rig, 1, &ask);
	rig_run_for(&rig, SECOND);
	scene_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_that_nobody_answers_end_with_the_connect_timeout),
		cmocka_unit_test(t_p13_what_waits_is_taken_before_a_deadline_is_judged),
		cmocka_unit_test(sums_that_differ_fail_both_sides_by_name),
		cmocka_unit_test(sixteen_deliveries_serve_forty_links_in_turn),
		cmocka_unit_test(full_tables_refuse_by_name_and_free_themselves),
		cmocka_unit_test(a_cancelled_epoch_that_was_forgotten_is_not_served),
		cmocka_unit_test(t_p04_a_request_that_was_refused_is_not_served_when_it_comes_again),
		cmocka_unit_test(a_grant_that_cannot_be_made_fails_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
