/* session_lies.c - messages of every kind, invented by seed, in the middle of honest sessions: nothing asserts, everything ends,
 * no table keeps anything.
 *
 * Argument: a seed, to replay one case.
 */
#include "../sanitized.h"
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

static uint64_t only_seed, running_seed;

static void inject(struct rig *rig, uint32_t node, uint32_t from, const struct kvfi_msg *msg)
{
	rig_inject(rig, node, rig_peer_slot(rig, node, from), msg);
}

static uint64_t some(struct rig *rig, uint64_t usual)
{
	const uint64_t odd[] = {0, 1, 2, 3, 4, 24, BYTES, UINT32_MAX - 1};

	return rig_random(rig, 3) > 0 ? usual : odd[rig_random(rig, 8)];
}

static void draw_body(struct rig *rig, struct kvfi_msg *msg)
{
	static const unsigned char aux[RIG_AUX_BYTES * 2];
	const enum kvf_status statuses[] = {KVF_OK, KVF_OK, KVF_CANCELLED, KVF_EIO, KVF_BUSY};
	enum kvf_status status = statuses[rig_random(rig, 5)];

	switch (msg->header.type) {
	case KVFI_MSG_CLAIM:
		msg->u.claim.dp_index = (uint32_t)rig_random(rig, 3);
		return;
	case KVFI_MSG_GO:
		msg->u.go.dp_index = (uint32_t)rig_random(rig, 2);
		msg->u.go.lease_slot = (uint32_t)some(rig, rig_random(rig, 8));
		msg->u.go.lease_generation = (uint32_t)some(rig, 1);
		return;
	case KVFI_MSG_RESULT:
		msg->u.result = (struct kvfi_msg_result){
			.kind = rig_random(rig, 4) > 0 ? KVFI_RESULT_KV : KVFI_RESULT_AUX,
			.slice = (uint32_t)some(rig, rig_random(rig, 4)),
			.last = (uint32_t)rig_random(rig, 2),
			.status = status,
			.bytes = some(rig, rig_random(rig, 2) * BYTES),
			.layer_start = (uint32_t)rig_random(rig, 2),
			.layer_end = 1 + (uint32_t)rig_random(rig, 3),
			.n_ranges = (uint32_t)rig_random(rig, 3),
			.dropped_tokens = rig_random(rig, 8) == 0 ? UINT64_MAX : 0,
			.ranges = {{0, rig_random(rig, 3) * 4, 12 + rig_random(rig, 4) * 4},
				{(uint32_t)rig_random(rig, 8), 24, 28}},
			.aux = aux};
		msg->u.result.aux_bytes =
			msg->u.result.kind == KVFI_RESULT_AUX ? (uint32_t)rig_random(rig, 128) : 0;
		return;
	case KVFI_MSG_ACK:
		msg->u.ack = (struct kvfi_msg_ack){
			.kind = rig_random(rig, 4) > 0 ? KVFI_RESULT_KV : KVFI_RESULT_AUX,
			.slice = (uint32_t)some(rig, rig_random(rig, 4)),
			.verdict = (enum kvfi_verdict)rig_random(rig, 3),
			.status = status};
		return;
	case KVFI_MSG_CANCEL:
		msg->u.cancel.status = status;
		return;
	default:
		return;
	}
}

static void lie(struct rig *rig)
{
	uint32_t node = (uint32_t)rig_random(rig, rig->n_nodes);
	bool to_decode = node >= rig->n_prefill;
	uint32_t from = to_decode ? (uint32_t)rig_random(rig, rig->n_prefill)
	                          : rig->n_prefill + (uint32_t)rig_random(rig, rig->n_nodes - rig->n_prefill);
	struct rig_ask ask = scene_ask();
	struct kvfi_id_run run;
	struct kvfi_msg msg;
	enum kvfi_msg_type type = KVFI_MSG_REQUEST + (enum kvfi_msg_type)rig_random(rig, 8);
	uint64_t epoch = some(rig, 1 + rig_random(rig, 6));

	ask.request_id += rig_random(rig, 6);
	ask.attempt = (uint32_t)some(rig, 0);
	if (type == KVFI_MSG_REQUEST) {
		msg = scene_request(&ask, epoch, &run);
		msg.u.request.prompt_len = some(rig, 24);
		msg.u.request.dp_index = (uint32_t)rig_random(rig, 2) == 0 ? KVF_DP_UNKNOWN : 0;
		msg.u.request.lease_slot = (uint32_t)some(rig, rig_random(rig, 8));
		msg.u.request.lease_generation = 1;
		msg.u.request.time_left_ns = some(rig, 0);
		run.start = (int32_t)rig_random(rig, 600) - 1;
	} else {
		msg = scene_msg(type, &ask, epoch);
		draw_body(rig, &msg);
	}
	inject(rig, node, from, &msg);
}

static void run_lies(uint64_t seed)
{
	struct rig rig = {.random = seed};
	struct kvfi_core_config config = rig_config();
	struct scene scene = {.prefill_tp = 1 + (uint32_t)rig_random(&rig, 2) * 3,
		.decode_tp = 1 + (uint32_t)rig_random(&rig, 2),
		.receiver_applied = rig_random(&rig, 2) == 0};

	scene.prefill_dp = scene.prefill_tp == 4 ? 1 + (uint32_t)rig_random(&rig, 2) : 1;
	if (rig_random(&rig, 2) == 0) {
		config.max_links = 12;
		config.max_deliveries = 4;
		config.max_block_ids = 100;
	}
	config.verify = rig_random(&rig, 3) == 0 ? KVF_VERIFY_SUM : KVF_VERIFY_NONE;
	scene.config = config;
	scene_open(&rig, &scene);
	rig.random = seed;
	rig.hostile = true;
	for (uint32_t slot = 0; slot < 6; slot++) {
		struct rig_ask ask = scene_ask();

		ask.request_id += slot;
		ask.chunks = 1 + (uint32_t)rig_random(&rig, 3);
		ask.aux = rig_random(&rig, 2) == 0;
		ask.dp_index = rig_random(&rig, 2) == 0 ? KVF_DP_UNKNOWN : 0;
		if (rig_random(&rig, 4) > 0)
			scene_open_rx(&rig, slot, &ask);
		for (uint32_t i = 0; i < 12; i++) {
			lie(&rig);
			rig_run_for(&rig, rig_random(&rig, 30000));
		}
		if (rig_random(&rig, 4) > 0) {
			scene_open_tx(&rig, slot, &ask);
			scene_send_tx(&rig, slot);
		}
	}
	rig_run_for(&rig, 5 * SECOND);
	/* REQUESTs that were invented wait for ever: as long as the one that has sent them is there. */
	for (uint32_t p = 0; p < rig.n_prefill; p++)
		for (uint32_t d = rig.n_prefill; d < rig.n_nodes; d++)
			rig_disconnect(&rig, p, d, KVF_PEER_LOST);
	scene_close(&rig);
}

static void lies_of_every_kind_end_sessions_and_leave_nothing_behind(void **state)
{
	const uint64_t n = only_seed != 0 ? 2000 : CASES(2000);

	(void)state;
	for (uint64_t seed = 1; seed <= n; seed++) {
		if (only_seed != 0 && seed != only_seed)
			continue;
		running_seed = seed;
		run_lies(seed);
	}
	running_seed = 0;
}

static int tell_seed(void **state)
{
	(void)state;
	if (running_seed != 0)
		print_error("failing case: unit_session_lies %llu\n", (unsigned long long)running_seed);
	running_seed = 0;
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(
			lies_of_every_kind_end_sessions_and_leave_nothing_behind, tell_seed),
	};

	if (argc > 1)
		only_seed = strtoull(argv[1], NULL, 10);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
