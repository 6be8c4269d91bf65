/* session_rig_world.c - the nodes of the rig, who knows whom, and the sessions of its users. */
#include "session_rig_private.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/hash.h"

/* ---- models ---- */

static const uint32_t plain_layers[] = {0, 1, 2};
static const struct kvf_group_spec plain_group = {.kind = KVF_PAGED,
	.dtype = KVF_FP16,
	.n_layers = 3,
	.layers = plain_layers,
	.n_parts = 2,
	.parts = {{4, 16}, {4, 16}}};
static const struct kvf_model plain_model = {"rig", "", 1, &plain_group};

static const uint32_t paged_layers[] = {0, 2}, window_layers[] = {1}, state_layers[] = {3};
static const struct kvf_group_spec mixed_groups[RIG_GROUPS] = {
	{.kind = KVF_PAGED,
		.dtype = KVF_FP16,
		.n_layers = 2,
		.layers = paged_layers,
		.n_parts = 2,
		.parts = {{4, 16}, {4, 16}}},
	{.kind = KVF_WINDOW,
		.dtype = KVF_FP16,
		.window_tokens = 8,
		.n_layers = 1,
		.layers = window_layers,
		.n_parts = 2,
		.parts = {{4, 16}, {4, 16}}},
	{.kind = KVF_STATE,
		.dtype = KVF_FP16,
		.n_layers = 1,
		.layers = state_layers,
		.n_parts = 2,
		.parts = {{4, 24}, {8, 8}}},
};
static const struct kvf_model mixed_model = {"rig-mixed", "", RIG_GROUPS, mixed_groups};

/* ---- nodes ---- */

static void open_core(struct rig_node *node)
{
	struct rig *rig = node->rig;
	struct kvfi_input self = {.kind = KVFI_IN_SELF};
	struct kvfi_sink sink;

	rig_sink_fill(node, &sink);
	assert_int_equal(kvfi_core_open(&rig->config, &sink, &node->core), KVF_OK);
	self.u.self.instance = rig->instances[node->decode];
	self.u.self.layout = node->layout;
	self.u.self.rank = node->rank;
	rig_step(rig, node, &self);
}

static void open_node(struct rig *rig, uint32_t index)
{
	struct rig_node *node = &rig->nodes[index];
	bool decode = index >= rig->n_prefill;
	struct kvf_layout_options options = {decode ? KVF_LAYER_NHD : KVF_BLOCK_MAJOR, RIG_TPB,
		RIG_MAX_SESSIONS * RIG_MAX_BLOCKS, RIG_MAX_SESSIONS};

	node->rig = rig;
	node->index = index;
	node->decode = decode;
	node->rank = decode ? index - rig->n_prefill : index;
	assert_int_equal(kvf_layout_new(rig->model, rig->instances[decode], node->rank, &options,
				 &node->layout, &node->memory_bytes),
		KVF_OK);
	node->memory = malloc(node->memory_bytes);
	assert_non_null(node->memory);
	kvf_layout_move(node->layout, (uint64_t)(uintptr_t)node->memory);
	if (decode)
		assert_int_equal(kvf_layout_set_aux(node->layout, RIG_MAX_SESSIONS, RIG_AUX_BYTES,
					 (uint64_t)(uintptr_t)node->aux),
			KVF_OK);
	open_core(node);
}

struct kvfi_core_config rig_config(void)
{
	return (struct kvfi_core_config){.max_peers = RIG_MAX_PEERS,
		.max_sessions = RIG_MAX_SESSIONS,
		.max_links = RIG_MAX_LINKS,
		.max_deliveries = 64,
		.max_block_ids = 16384,
		.connect_timeout_ns = 20 * KVFI_NS_PER_S,
		.transfer_timeout_ns = 20 * KVFI_NS_PER_S};
}

void rig_open(struct rig *rig, const struct rig_setup *setup)
{
	memset(rig, 0, sizeof(*rig));
	rig->seed = rig->random = setup->seed;
	rig->now_ns = KVFI_NS_PER_S;
	rig->faults = setup->faults;
	rig->config = setup->config.max_sessions > 0 ? setup->config : rig_config();
	rig->model = setup->mixed ? &mixed_model : &plain_model;
	rig->max_posts = RIG_MAX_POSTS;
	assert_int_equal(
		kvf_instance_new(rig->model, &setup->prefill, KVF_PREFILL, 1, &rig->instances[0]), KVF_OK);
	assert_int_equal(
		kvf_instance_new(rig->model, &setup->decode, KVF_DECODE, 2, &rig->instances[1]), KVF_OK);
	rig->n_prefill = rig->instances[0]->n_ranks;
	rig->n_nodes = rig->n_prefill + rig->instances[1]->n_ranks;
	assert_true(rig->n_nodes <= RIG_MAX_NODES);
	for (uint32_t i = 0; i < rig->n_nodes; i++)
		open_node(rig, i);
}

static void close_core(struct rig_node *node)
{
	kvfi_core_close(node->core);
	for (uint32_t p = 0; p < node->n_peers; p++) {
		kvf_plan_free(node->peers[p].plans[0]);
		kvf_plan_free(node->peers[p].plans[1]);
	}
	node->n_peers = 0;
}

void rig_close(struct rig *rig)
{
	for (uint32_t i = 0; i < rig->n_events; i++)
		if (rig->events[i].kind == RIG_MESSAGE)
			kvfi_msg_fini(&rig->events[i].msg);
	free(rig->events);
	for (uint32_t i = 0; i < rig->n_nodes; i++) {
		close_core(&rig->nodes[i]);
		kvf_layout_free(rig->nodes[i].layout);
		free(rig->nodes[i].memory);
	}
	kvf_instance_free(rig->instances[0]);
	kvf_instance_free(rig->instances[1]);
}

/* ---- peers ---- */

static bool slot_is_named(const struct rig_node *node, uint32_t slot)
{
	for (uint32_t i = 0; i < RIG_MAX_POSTS; i++)
		if (node->posts[i].used && node->posts[i].peer_slot == slot)
			return true;
	return !kvfi_core_peer_free(node->core, slot);
}

/* As an agent does: one that is over and that nothing names is taken again. */
static uint32_t take_slot(struct rig_node *node)
{
	uint32_t slot = 0;

	while (slot < node->n_peers && (node->peers[slot].up || slot_is_named(node, slot)))
		slot++;
	assert_true(slot < RIG_MAX_PEERS);
	if (slot == node->n_peers) {
		node->n_peers++;
	} else {
		kvf_plan_free(node->peers[slot].plans[0]);
		kvf_plan_free(node->peers[slot].plans[1]);
	}
	return slot;
}

static uint32_t add_peer(struct rig_node *node, struct rig_node *other)
{
	struct rig *rig = node->rig;
	struct rig_node *prefill = node->decode ? other : node, *decode = node->decode ? node : other;
	uint32_t slot = take_slot(node), n_dps = rig->instances[other->decode]->dp, kept = 0;
	struct rig_peer *peer = &node->peers[slot];

	peer->used = true;
	peer->life++;
	peer->node = other->index;
	for (int r = 0; r < 2; r++)
		assert_int_equal(kvf_plan_new(rig->instances[0], prefill->layout, rig->instances[1],
					 decode->layout, (enum kvf_replica)r, &peer->plans[r]),
			KVF_OK);
	for (uint32_t dp = 0; dp < n_dps; dp++) {
		struct kvf_pair all[RIG_MAX_NODES * RIG_MAX_NODES];
		uint32_t n, start = kept;

		assert_int_equal(kvf_pairs(rig->instances[0], rig->instances[1],
					 node->decode ? dp : kvfi_rank_dp(rig->instances[0], node->rank),
					 node->decode ? kvfi_rank_dp(rig->instances[1], node->rank) : dp, all,
					 RIG_MAX_NODES * RIG_MAX_NODES, &n),
			KVF_OK);
		for (uint32_t i = 0; i < n; i++)
			if ((node->decode ? all[i].dst : all[i].src) == node->rank)
				peer->pairs[kept++] = all[i];
		peer->by_dp[dp] = (struct kvfi_pair_list){kept - start, &peer->pairs[start]};
	}
	return slot;
}

static void tell_up(struct rig_node *node, uint32_t slot)
{
	struct rig *rig = node->rig;
	const struct rig_peer *peer = &node->peers[slot];
	struct rig_node *other = &rig->nodes[peer->node];
	struct kvfi_input input = {.kind = KVFI_IN_PEER_UP, .peer = slot};

	input.u.peer_up = (struct kvfi_peer_up){.instance = rig->instances[other->decode],
		.rank = other->rank,
		.receiver_applied = rig->faults.receiver_applied,
		.plans = {peer->plans[0], peer->plans[1]},
		.digests = {1000, 1001},
		.n_dps = rig->instances[other->decode]->dp,
		.by_dp = peer->by_dp};
	if (node->decode)
		input.u.peer_up.digests[0] += rig->wrong_digest;
	rig_step(rig, node, &input);
}

void rig_connect(struct rig *rig, uint32_t a, uint32_t b)
{
	uint32_t slot_a = add_peer(&rig->nodes[a], &rig->nodes[b]);
	uint32_t slot_b = add_peer(&rig->nodes[b], &rig->nodes[a]);

	rig->nodes[a].peers[slot_a].slot_there = slot_b;
	rig->nodes[b].peers[slot_b].slot_there = slot_a;
	rig->nodes[a].peers[slot_a].up = rig->nodes[b].peers[slot_b].up = true;
	tell_up(&rig->nodes[a], slot_a);
	tell_up(&rig->nodes[b], slot_b);
}

void rig_connect_all(struct rig *rig)
{
	for (uint32_t p = 0; p < rig->n_prefill; p++)
		for (uint32_t d = rig->n_prefill; d < rig->n_nodes; d++)
			rig_connect(rig, p, d);
}

bool rig_is_connected(const struct rig *rig, uint32_t node, uint32_t other)
{
	for (uint32_t slot = 0; slot < rig->nodes[node].n_peers; slot++)
		if (rig->nodes[node].peers[slot].up && rig->nodes[node].peers[slot].node == other)
			return true;
	return false;
}

uint32_t rig_peer_slot(const struct rig *rig, uint32_t node, uint32_t other)
{
	for (uint32_t slot = 0; slot < rig->nodes[node].n_peers; slot++)
		if (rig->nodes[node].peers[slot].up && rig->nodes[node].peers[slot].node == other)
			return slot;
	fail_msg("node %u has no peer %u", node, other);
	return 0;
}

void rig_tell_down(struct rig *rig, struct rig_node *node, uint32_t slot, enum kvf_status status)
{
	struct kvfi_input input = {.kind = KVFI_IN_PEER_DOWN, .peer = slot};

	node->peers[slot].up = node->peers[slot].dropping = false;
	for (uint32_t i = 0; i < RIG_MAX_POSTS; i++)
		if (node->posts[i].used && node->posts[i].peer_slot == slot)
			node->posts[i].broken = true;
	input.u.peer_down = (struct kvfi_in_peer_down){.status = status,
		.instance_id = rig->instances[!node->decode]->id,
		.rank = rig->nodes[node->peers[slot].node].rank,
		.reason = "the rig took it down"};
	rig_step(rig, node, &input);
}

void rig_lose_peer(struct rig *rig, uint32_t node, uint32_t other, enum kvf_status status)
{
	for (uint32_t slot = 0; slot < rig->nodes[node].n_peers; slot++)
		if (rig->nodes[node].peers[slot].up && rig->nodes[node].peers[slot].node == other)
			rig_tell_down(rig, &rig->nodes[node], slot, status);
}

void rig_disconnect(struct rig *rig, uint32_t a, uint32_t b, enum kvf_status status)
{
	rig_lose_peer(rig, a, b, status);
	rig_lose_peer(rig, b, a, status);
}

/* What stopped inside a lease is gone with its process, and that is known. */
static void exit_held(struct rig_node *node, struct rig_post *post)
{
	struct rig_node *receiver = &node->rig->nodes[node->peers[post->peer_slot].node];
	struct rig_grant *grant = &receiver->grants[post->lease_link];

	post->held = false;
	if (!grant->used || grant->generation != post->held_generation || grant->fenced)
		return;
	grant->inside--;
	grant->exited = true;
	rig_maybe_quiet(receiver, post->lease_link);
}

/* Pieces that the dead process has stored will "leave" as they were to; what it would still have stored never comes. */
void rig_restart(struct rig *rig, uint32_t index)
{
	struct rig_node *node = &rig->nodes[index];

	for (uint32_t other = 0; other < rig->n_nodes; other++)
		for (uint32_t slot = 0; slot < rig->nodes[other].n_peers; slot++)
			if (rig->nodes[other].peers[slot].up && rig->nodes[other].peers[slot].node == index)
				rig_tell_down(rig, &rig->nodes[other], slot, KVF_PEER_LOST);
	close_core(node);
	node->life++;
	for (uint32_t i = 0; i < RIG_MAX_PEERS; i++)
		node->peers[i].up = false;
	for (uint32_t i = 0; i < RIG_MAX_POSTS; i++) {
		if (node->posts[i].used && node->posts[i].held)
			exit_held(node, &node->posts[i]);
		node->posts[i].used = false;
	}
	for (uint32_t i = 0; i < RIG_MAX_LINKS; i++)
		node->grants[i] = (struct rig_grant){.generation = node->grants[i].generation};
	memset(node->sessions, 0, sizeof(node->sessions));
	open_core(node);
}

/* ---- sessions ---- */

static void name_blocks(struct rig_node *node, struct rig_session *session, uint32_t slot)
{
	uint64_t prompt_len = session->ask.prompt_len;
	uint32_t total = (uint32_t)((prompt_len + RIG_TPB - 1) / RIG_TPB);
	uint32_t stale = prompt_len + 1 > 8 ? (uint32_t)(prompt_len + 1 - 8) / RIG_TPB : 0;

	assert_true(total <= RIG_MAX_BLOCKS);
	for (uint32_t g = 0; g < node->layout->n_groups; g++) {
		struct rig_ids *list = &session->groups[g];

		if (node->layout->groups[g].kind == KVF_STATE) {
			*list = (struct rig_ids){.ids = {(int32_t)slot}, .n = 1};
			continue;
		}
		list->first_block = node->layout->groups[g].kind == KVF_WINDOW ? stale : 0;
		if (g == 0 && node->decode)
			list->first_block = session->ask.skip < total ? session->ask.skip : total;
		list->n = total - list->first_block;
		for (uint32_t i = 0; i < list->n; i++)
			list->ids[i] = (int32_t)(slot * RIG_MAX_BLOCKS +
						 (list->first_block + i) * 3 % RIG_MAX_BLOCKS);
	}
}

static struct rig_session *new_session(
	struct rig *rig, uint32_t index, uint32_t slot, const struct rig_ask *ask)
{
	struct rig_node *node = &rig->nodes[index];
	struct rig_session *session = &node->sessions[slot];
	uint32_t without = node->decode ? ask->hole : ask->drop_page;

	assert_true(slot < RIG_MAX_SESSIONS && (!session->open || session->closed));
	memset(session, 0, sizeof(*session));
	session->open = true;
	session->ask = *ask;
	name_blocks(node, session, slot);
	if (without > 0)
		session->groups[0].ids[without - 1] = -1;
	(void)rig_rows(node, session, node->decode ? RIG_CANARY : RIG_FILL, KVFI_NONE);
	return session;
}

void rig_tx_open(struct rig *rig, uint32_t node, uint32_t slot, const struct rig_ask *ask)
{
	struct kvfi_input input = {.kind = KVFI_IN_TX_OPEN, .session = slot};

	(void)new_session(rig, node, slot, ask);
	input.u.tx_open = (struct kvfi_in_tx_open){.request_id = ask->request_id,
		.attempt = ask->attempt,
		.prompt_len = ask->prompt_len,
		.expires_ns = 600 * KVFI_NS_PER_S};
	rig_step(rig, &rig->nodes[node], &input);
}

static bool holds(const struct rig_node *node, uint32_t layer_start, uint32_t layer_end)
{
	for (uint32_t g = 0; g < node->layout->n_groups; g++)
		for (uint32_t i = 0; i < node->layout->groups[g].n_layers; i++)
			if (node->layout->groups[g].layers[i] >= layer_start &&
				node->layout->groups[g].layers[i] < layer_end)
				return true;
	return false;
}

static void cut_slice(const struct rig_node *node, struct rig_session *session, uint32_t chunk,
	uint32_t layer_start, uint32_t layer_end)
{
	const struct rig_ask *ask = &session->ask;
	uint32_t chunks = ask->chunks > 0 ? ask->chunks : 1;
	struct kvfi_tx_slice *slice = &session->tx_slices[session->n_tx_slices];
	uint64_t start = ask->prompt_len * chunk / chunks, end = ask->prompt_len * (chunk + 1) / chunks;
	bool ends = chunk + 1 == chunks;

	memset(slice, 0, sizeof(*slice));
	slice->shape = (struct kvfi_shape){.prompt_len = ask->prompt_len,
		.token_start = start,
		.token_end = end,
		.layer_start = layer_start,
		.layer_end = layer_end,
		.first = chunk == 0,
		.last = ends};
	slice->number = session->n_tx_slices++;
	for (uint32_t g = 0; g < node->layout->n_groups; g++) {
		const struct rig_ids *list = &session->groups[g];
		bool whole = node->layout->groups[g].kind != KVF_PAGED;
		uint32_t from = whole ? 0 : (uint32_t)(start / RIG_TPB);
		uint32_t to = whole ? (ends ? list->n : 0) : ends ? list->n : (uint32_t)(end / RIG_TPB);

		if (from < to)
			slice->lists[g] = (struct kvfi_ids){list->ids + from, to - from};
	}
}

static void cut_slices(const struct rig_node *node, struct rig_session *session)
{
	uint32_t chunks = session->ask.chunks > 0 ? session->ask.chunks : 1;

	for (uint32_t c = 0; c < chunks; c++) {
		if (!session->ask.layer_wise) {
			cut_slice(node, session, c, 0, 0);
			continue;
		}
		if (holds(node, 0, 1))
			cut_slice(node, session, c, 0, 1);
		if (holds(node, 1, KVF_MAX_LAYERS))
			cut_slice(node, session, c, 1, KVF_MAX_LAYERS);
	}
	session->tx_slices[session->n_tx_slices - 1].last = true;
}

void rig_tx_send_some(struct rig *rig, uint32_t node, uint32_t slot, uint32_t from, uint32_t to)
{
	struct rig_session *session = &rig->nodes[node].sessions[slot];

	if (session->n_tx_slices == 0)
		cut_slices(&rig->nodes[node], session);
	for (uint32_t i = from; i < to && i < session->n_tx_slices; i++) {
		struct kvfi_input input = {.kind = KVFI_IN_TX_SEND, .session = slot};

		input.u.slice = &session->tx_slices[i];
		rig_step(rig, &rig->nodes[node], &input);
	}
}

void rig_tx_aux(struct rig *rig, uint32_t node, uint32_t slot, uint32_t len_bytes)
{
	static const unsigned char much[2 * RIG_AUX_BYTES];
	struct kvfi_input input = {.kind = KVFI_IN_TX_AUX, .session = slot};

	input.u.aux = (struct kvfi_in_aux){
		len_bytes <= RIG_AUX_BYTES ? (const unsigned char *)rig_aux_text : much, len_bytes};
	rig_step(rig, &rig->nodes[node], &input);
}

void rig_tx_send(struct rig *rig, uint32_t node, uint32_t slot)
{
	rig_tx_send_some(rig, node, slot, 0, 16);
	if (rig->nodes[node].sessions[slot].ask.aux)
		rig_tx_aux(rig, node, slot, RIG_AUX_BYTES);
}

void rig_rx_open(struct rig *rig, uint32_t node, uint32_t slot, const struct rig_ask *ask)
{
	struct rig_session *session = new_session(rig, node, slot, ask);
	struct kvfi_input input = {.kind = KVFI_IN_RX_OPEN, .session = slot};

	memset(rig->nodes[node].aux[slot], 0, RIG_AUX_BYTES);
	input.u.rx_open = (struct kvfi_in_rx_open){.instance_id = 1,
		.request_id = ask->request_id,
		.attempt = ask->attempt,
		.dp_index = ask->dp_index,
		.prompt_len = ask->prompt_len,
		.aux_slot = ask->aux ? slot : KVF_NO_AUX};
	for (uint32_t g = 0; g < rig->nodes[node].layout->n_groups; g++)
		input.u.rx_open.lists[g] = (struct kvfi_ids){session->groups[g].ids, session->groups[g].n};
	rig_step(rig, &rig->nodes[node], &input);
}

void rig_hold(struct rig *rig, uint32_t node, const struct rig_ask *ask, uint64_t life_ns)
{
	struct kvfi_input input = {.kind = KVFI_IN_HOLD,
		.u.hold = {.instance_id = 1,
			.request_id = ask->request_id,
			.attempt = ask->attempt,
			.dp_index = ask->dp_index,
			.expires_ns = life_ns}};

	rig_step(rig, &rig->nodes[node], &input);
}

void rig_close_session(struct rig *rig, uint32_t node, uint32_t slot)
{
	struct kvfi_input input = {.kind = KVFI_IN_SESSION_CLOSE, .session = slot};

	assert_true(rig->nodes[node].sessions[slot].released);
	rig->nodes[node].sessions[slot].closed = true;
	rig_step(rig, &rig->nodes[node], &input);
}

void rig_close_all_released(struct rig *rig)
{
	for (uint32_t n = 0; n < rig->n_nodes; n++)
		for (uint32_t s = 0; s < RIG_MAX_SESSIONS; s++)
			if (rig->nodes[n].sessions[s].released && !rig->nodes[n].sessions[s].closed)
				rig_close_session(rig, n, s);
}

void rig_call_off(struct rig *rig, uint32_t node, uint32_t slot)
{
	struct rig_session *session = &rig->nodes[node].sessions[slot];

	if (!session->advertised)
		session->called_off = true;
}

void rig_cancel(struct rig *rig, uint32_t node, uint32_t slot, const char *reason)
{
	struct kvfi_input input = {.kind = KVFI_IN_CANCEL,
		.session = slot,
		.u.cancel = {.status = KVF_CANCELLED, .reason = reason}};

	rig_call_off(rig, node, slot);
	rig_step(rig, &rig->nodes[node], &input);
}

void rig_end_all(struct rig *rig, uint32_t node)
{
	struct kvfi_input end = {.kind = KVFI_IN_END_ALL, .u.end_status = KVF_CANCELLED};

	rig_step(rig, &rig->nodes[node], &end);
}

/* ---- checks ---- */

void rig_check_canaries(struct rig *rig)
{
	for (uint32_t n = rig->n_prefill; n < rig->n_nodes; n++)
		for (uint32_t s = 0; s < RIG_MAX_SESSIONS; s++)
			if (rig->nodes[n].sessions[s].released)
				assert_true(rig_rows(&rig->nodes[n], &rig->nodes[n].sessions[s],
					RIG_CHECK_CANARY, KVFI_NONE));
}

void rig_check_empty(struct rig *rig, uint32_t node)
{
	struct kvfi_core_usage usage;

	kvfi_core_usage(rig->nodes[node].core, &usage);
	assert_int_equal(usage.sessions, 0);
	assert_int_equal(usage.links, 0);
	assert_int_equal(usage.deliveries, 0);
	assert_int_equal(usage.arrivals, 0);
	assert_int_equal(usage.block_ids, 0);
	assert_int_equal(usage.id_extents, 1);
	assert_int_equal(usage.timers, 0);
	assert_int_equal(usage.ready, 0);
	assert_int_equal(usage.hashed, 0);
	for (uint32_t i = 0; i < RIG_MAX_POSTS; i++)
		assert_false(rig->nodes[node].posts[i].used);
	for (uint32_t i = 0; i < RIG_MAX_LINKS; i++)
		assert_false(rig->nodes[node].grants[i].used);
}
