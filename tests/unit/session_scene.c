/* session_scene.c - see session_scene.h. */
#include "session_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"

void scene_open(struct rig *rig, const struct scene *scene)
{
	struct rig_setup setup = {.seed = 7,
		.prefill = {scene->prefill_tp > 0 ? scene->prefill_tp : 1, 1, 1,
			scene->prefill_dp > 0 ? scene->prefill_dp : 1, NULL, NULL},
		.decode = {scene->decode_tp > 0 ? scene->decode_tp : 1, 1, 1,
			scene->decode_dp > 0 ? scene->decode_dp : 1, NULL, NULL},
		.mixed = scene->mixed,
		.config = scene->config};

	setup.faults.receiver_applied = scene->receiver_applied;
	rig_open(rig, &setup);
	if (!scene->unconnected)
		rig_connect_all(rig);
}

void scene_close(struct rig *rig)
{
	rig->drop = NULL;
	rig->hold_posts = false;
	for (uint32_t n = 0; n < rig->n_nodes; n++)
		rig_end_all(rig, n);
	rig_run_for(rig, 60 * KVFI_NS_PER_S);
	for (uint32_t n = 0; n < rig->n_nodes; n++)
		for (uint32_t s = 0; s < RIG_MAX_SESSIONS; s++)
			if (rig->nodes[n].sessions[s].open)
				assert_true(rig->nodes[n].sessions[s].released);
	if (!rig->hostile)
		rig_check_canaries(rig);
	rig_close_all_released(rig);
	for (uint32_t n = 0; n < rig->n_nodes; n++)
		rig_check_empty(rig, n);
	rig_close(rig);
}

struct rig_ask scene_ask(void)
{
	return (struct rig_ask){.request_id = SCENE_ID, .prompt_len = 24, .chunks = 1};
}

struct rig_session *scene_session(struct rig *rig, uint32_t node, uint32_t slot)
{
	return &rig->nodes[node].sessions[slot];
}

uint32_t scene_decode(const struct rig *rig, uint32_t rank)
{
	return rig->n_prefill + rank;
}

void scene_open_tx(struct rig *rig, uint32_t slot, const struct rig_ask *ask)
{
	for (uint32_t n = 0; n < rig->n_prefill; n++)
		rig_tx_open(rig, n, slot, ask);
}

void scene_send_tx(struct rig *rig, uint32_t slot)
{
	for (uint32_t n = 0; n < rig->n_prefill; n++)
		rig_tx_send(rig, n, slot);
}

void scene_open_rx(struct rig *rig, uint32_t slot, const struct rig_ask *ask)
{
	for (uint32_t n = rig->n_prefill; n < rig->n_nodes; n++)
		rig_rx_open(rig, n, slot, ask);
}

void scene_expect(struct rig *rig, uint32_t node, uint32_t slot, enum kvf_status status)
{
	const struct rig_session *session = scene_session(rig, node, slot);

	if (!session->outcome || session->status != status)
		fail_msg("node %u slot %u: outcome %d, %s (%s), expected %s", node, slot, session->outcome,
			kvf_status_name(session->status), session->error, kvf_status_name(status));
	if (!session->released)
		fail_msg("node %u slot %u is not released", node, slot);
}

void scene_expect_all(struct rig *rig, uint32_t slot, enum kvf_status status)
{
	for (uint32_t n = 0; n < rig->n_nodes; n++)
		if (scene_session(rig, n, slot)->open)
			scene_expect(rig, n, slot, status);
}

static bool lose(struct rig *rig, uint32_t from, uint32_t to, const struct kvfi_msg *msg)
{
	struct scene_loss *loss = rig->drop_argument;

	(void)from;
	(void)to;
	if (msg->header.type != loss->type)
		return false;
	loss->last = *msg;
	return loss->seen++ < loss->first || loss->all;
}

void scene_lose(struct rig *rig, struct scene_loss *loss)
{
	rig->drop = lose;
	rig->drop_argument = loss;
}

struct kvfi_msg scene_msg(enum kvfi_msg_type type, const struct rig_ask *ask, uint64_t epoch)
{
	struct kvfi_msg msg;

	memset(&msg, 0, sizeof(msg));
	msg.header.type = type;
	msg.header.instance_id = 1;
	msg.header.request_id = ask->request_id;
	msg.header.attempt = ask->attempt;
	msg.header.epoch = epoch;
	return msg;
}

struct kvfi_msg scene_request(const struct rig_ask *ask, uint64_t epoch, struct kvfi_id_run *run)
{
	struct kvfi_msg msg = scene_msg(KVFI_MSG_REQUEST, ask, epoch);
	struct kvfi_msg_request *request = &msg.u.request;

	*run = (struct kvfi_id_run){0, (uint32_t)(ask->prompt_len + RIG_TPB - 1) / RIG_TPB};
	request->prompt_len = ask->prompt_len;
	request->dp_index = ask->dp_index;
	request->aux_slot = KVF_NO_AUX;
	request->digest = 1000;
	request->n_groups = 1;
	request->groups[0] = (struct kvfi_request_group){
		.n_ids = run->count, .tokens_per_block = RIG_TPB, .n_runs = 1, .runs = run};
	return msg;
}

/* ---- the ladder ---- */

struct kvfi_core_config scene_ladder_config(uint32_t budget)
{
	struct kvfi_core_config config = rig_config();

	config.quiet_timeout_ns = 5 * KVFI_NS_PER_S;
	config.progress_timeout_ns = 60 * KVFI_NS_PER_S;
	config.transfer_timeout_ns = 0;
	config.stuck_budget = budget;
	return config;
}

struct kvf_health scene_health(struct rig *rig, uint32_t node)
{
	struct kvf_health health;

	kvfi_core_health(rig->nodes[node].core, rig->now_ns, &health);
	return health;
}

/* A request whose writer has stopped in the middle of its first chunk. */
void scene_begin_and_stop(struct rig *rig, uint32_t slot, uint64_t request_id)
{
	struct rig_ask ask = scene_ask();

	ask.request_id = request_id;
	scene_open_tx(rig, slot, &ask);
	scene_send_tx(rig, slot);
	scene_open_rx(rig, slot, &ask);
	rig->hold_inside = 1000;
	rig_run_for(rig, KVFI_NS_PER_S);
	rig->hold_inside = 0;
	assert_false(scene_session(rig, 1, slot)->outcome);
}
