/* session_rig.c - see session_rig.h. */
#include "session_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/hash.h"

#define CANARY 0xc7

enum rig_kind {
	RIG_MESSAGE = 1,
	RIG_POST = 2,  /* a post does its next piece */
	RIG_LEAVE = 3, /* a piece of a post has landed */
	RIG_TICK = 4,
	RIG_QUIET = 5
};

struct rig_event {
	enum rig_kind kind;
	uint64_t at_ns, sequence;
	uint32_t node, peer_slot, index, post;
	uint64_t life;
	struct kvfi_msg msg;
};

uint64_t rig_random(struct rig *rig, uint64_t below)
{
	rig->random += UINT64_C(0x9e3779b97f4a7c15);
	return below == 0 ? 0 : kvfi_mix64(rig->random) % below;
}

static struct rig_event *schedule(struct rig *rig, enum rig_kind kind, uint32_t node, uint64_t after_ns)
{
	struct rig_event *event;

	if (rig->n_events == rig->max_events) {
		rig->max_events = rig->max_events == 0 ? 256 : rig->max_events * 2;
		rig->events = realloc(rig->events, rig->max_events * sizeof(*rig->events));
		assert_non_null(rig->events);
	}
	event = &rig->events[rig->n_events++];
	memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->at_ns = rig->now_ns + after_ns;
	event->sequence = rig->sequence++;
	event->node = node;
	return event;
}

/* ---- content ---- */

static unsigned char content(
	uint64_t request, uint32_t layer, uint32_t part, uint32_t head, uint64_t token, uint64_t byte)
{
	uint64_t hash = kvfi_hash_u64(kvfi_hash_u64(request, layer * 16 + part), token * 64 + head);

	return (unsigned char)(kvfi_hash_u64(hash, byte) >> 32);
}

typedef bool (*row_function)(unsigned char *row, uint64_t bytes, const uint64_t *who);

/* who: request, layer, part, head, token. Stops at the first false. */
static bool each_row(const struct rig_node *node, const struct rig_session *session, row_function function)
{
	const struct kvf_group *group = &node->layout->groups[0];

	for (uint32_t b = 0; b < session->n_ids; b++) {
		for (uint32_t l = 0; l < group->n_layers; l++) {
			for (uint32_t p = 0; p < group->n_parts; p++) {
				const struct kvf_part *part = &group->parts[p];

				for (uint32_t i = 0; i < part->head_count * RIG_TPB; i++) {
					uint32_t h = i / RIG_TPB, t = i % RIG_TPB;
					uint64_t who[5] = {session->request_id, group->layers[l], p,
						part->head_start + h, (uint64_t)b * RIG_TPB + t};
					uint64_t address = group->bases[l * group->n_parts + p] +
					                   (uint64_t)session->ids[b] * part->block_stride +
					                   h * part->head_stride + t * part->token_stride;

					if (!function((unsigned char *)(uintptr_t)address, part->row_bytes,
						    who))
						return false;
				}
			}
		}
	}
	return true;
}

static bool fill_row(unsigned char *row, uint64_t bytes, const uint64_t *who)
{
	for (uint64_t i = 0; i < bytes; i++)
		row[i] = content(who[0], (uint32_t)who[1], (uint32_t)who[2], (uint32_t)who[3], who[4], i);
	return true;
}

static bool check_row(unsigned char *row, uint64_t bytes, const uint64_t *who)
{
	for (uint64_t i = 0; i < bytes; i++)
		if (row[i] !=
			content(who[0], (uint32_t)who[1], (uint32_t)who[2], (uint32_t)who[3], who[4], i))
			return false;
	return true;
}

static bool canary_row(unsigned char *row, uint64_t bytes, const uint64_t *who)
{
	(void)who;
	memset(row, CANARY, bytes);
	return true;
}

static bool check_canary_row(unsigned char *row, uint64_t bytes, const uint64_t *who)
{
	(void)who;
	for (uint64_t i = 0; i < bytes; i++)
		if (row[i] != CANARY)
			return false;
	return true;
}

/* ---- the sink ---- */

static void sink_send(void *self, uint32_t peer, struct kvfi_msg *msg)
{
	struct rig_node *node = self;
	struct rig *rig = node->rig;
	uint32_t copies = 1;

	assert_true(peer < node->n_peers);
	rig->messages++;
	if (!node->peers[peer].up)
		return;
	if (rig->drop != NULL && rig->drop(rig, node->index, node->peers[peer].node, msg))
		return;
	if (rig_random(rig, 1000) < rig->faults.lose)
		return;
	copies += rig_random(rig, 1000) < rig->faults.repeat;
	for (uint32_t i = 0; i < copies; i++) {
		struct rig_event *event = schedule(rig, RIG_MESSAGE, node->peers[peer].node,
			5000 + rig_random(rig, rig->faults.delay_ns + 1));

		event->peer_slot = node->peers[peer].slot_there;
		assert_int_equal(kvfi_msg_dup(msg, &event->msg), KVF_OK);
	}
}

static struct rig_grant *grant_of(struct rig_post *post, struct rig_node *sender)
{
	struct rig_node *receiver = &sender->rig->nodes[sender->peers[post->peer_slot].node];

	return &receiver->grants[post->lease_link];
}

static enum kvf_status sink_post(void *self, const struct kvfi_core_post *post)
{
	struct rig_node *node = self;
	struct rig_post *slot = NULL;

	for (uint32_t i = 0; i < 128 && slot == NULL; i++)
		if (!node->posts[i].used)
			slot = &node->posts[i];
	if (slot == NULL)
		return KVF_EFULL;
	*slot = (struct rig_post){.used = true,
		.delivery = post->delivery,
		.peer_slot = post->peer,
		.lease_link = post->lease_slot,
		.lease_generation = post->lease_generation,
		.epoch = post->epoch,
		.slice = post->slice,
		.bound = post->bound,
		.bytes = post->bound->bytes};
	/* The rig copies in pieces from the bound; the pieces are counted in canonical bytes. */
	schedule(node->rig, RIG_POST, node->index, 1000 + rig_random(node->rig, 20000))->index =
		(uint32_t)(slot - node->posts);
	return KVF_OK;
}

static void sink_post_cancel(void *self, uint32_t delivery, uint32_t peer)
{
	struct rig_node *node = self;

	(void)peer;
	for (uint32_t i = 0; i < 128; i++)
		if (node->posts[i].used && node->posts[i].delivery == delivery)
			node->posts[i].cancelled = true;
}

static enum kvf_status sink_grant(void *self, const struct kvfi_core_grant *grant, uint32_t *lease_slot_out,
	uint32_t *lease_generation_out)
{
	struct rig_node *node = self;
	struct rig_grant *slot = &node->grants[grant->link];

	assert_true(grant->link < 256 && !slot->used && slot->inside == 0);
	slot->used = true;
	slot->revoked = slot->told = false;
	slot->generation++;
	slot->epoch = grant->epoch;
	slot->peer = grant->peer;
	*lease_slot_out = grant->link;
	*lease_generation_out = slot->generation;
	return KVF_OK;
}

static void maybe_quiet(struct rig_node *node, uint32_t link)
{
	struct rig_grant *grant = &node->grants[link];

	if (!grant->used || !grant->revoked || grant->inside > 0 || grant->told)
		return;
	grant->told = true;
	schedule(node->rig, RIG_QUIET, node->index, rig_random(node->rig, 2000))->index = link;
}

static void sink_revoke(void *self, uint32_t link, uint32_t peer)
{
	struct rig_node *node = self;

	(void)peer;
	assert_true(node->grants[link].used && !node->grants[link].revoked);
	node->grants[link].revoked = true;
	maybe_quiet(node, link);
}

static void sink_release(void *self, uint32_t link, uint32_t peer)
{
	struct rig_node *node = self;

	(void)peer;
	assert_true(node->grants[link].used);
	/* The promise of every proof: nobody is inside. */
	assert_int_equal(node->grants[link].inside, 0);
	node->grants[link].used = false;
	node->grants[link].revoked = true;
}

static void sink_sum(void *self, uint32_t link, const struct kvfi_bound *bound)
{
	(void)self;
	(void)link;
	(void)bound;
	fail_msg("no sums were asked for");
}

static void sink_store_aux(void *self, uint32_t aux_slot, const void *data, uint32_t len_bytes)
{
	struct rig_node *node = self;

	memcpy(node->aux[aux_slot], data, len_bytes);
}

static void on_released(struct rig_node *node, struct rig_session *session)
{
	if (!node->decode)
		return;
	if (session->status == KVF_OK)
		assert_true(each_row(node, session, check_row));
	(void)each_row(node, session, canary_row);
}

static void sink_event(void *self, const struct kvfi_core_event *event)
{
	struct rig_node *node = self;
	struct rig_session *session = &node->sessions[event->session];

	assert_true(session->open && !session->closed);
	session->stats = *event->stats;
	switch (event->type) {
	case KVF_EVENT_READY:
		assert_int_equal(session->ready++, 0);
		break;
	case KVF_EVENT_SLICE:
		session->slices++;
		break;
	case KVF_EVENT_OUTCOME:
		assert_false(session->outcome);
		session->outcome = true;
		session->status = event->status;
		memcpy(session->good_end, event->good_end, sizeof(session->good_end));
		(void)snprintf(session->error, sizeof(session->error), "%s", event->error);
		break;
	case KVF_EVENT_RELEASED:
		assert_true(session->outcome && !session->released);
		session->released = true;
		on_released(node, session);
		break;
	default:
		fail_msg("unknown event");
	}
}

static void sink_state(void *self, uint32_t session, enum kvf_session_state state)
{
	(void)self;
	(void)session;
	(void)state;
}

static uint64_t sink_stamp(void *self)
{
	return ((struct rig_node *)self)->rig->now_ns;
}

/* ---- open ---- */

static const uint32_t rig_layers[] = {0, 1, 2};
static const struct kvf_group_spec rig_group = {.kind = KVF_PAGED,
	.dtype = KVF_FP16,
	.n_layers = 3,
	.layers = rig_layers,
	.n_parts = 2,
	.parts = {{4, 16}, {4, 16}}};
static const struct kvf_model rig_model = {"rig", "", 1, &rig_group};

static void open_node(
	struct rig *rig, uint32_t index, bool decode, uint32_t rank, const struct kvfi_core_config *config)
{
	struct rig_node *node = &rig->nodes[index];
	struct kvf_layout_options options = {
		decode ? KVF_LAYER_NHD : KVF_BLOCK_MAJOR, RIG_TPB, RIG_BLOCKS, 1};
	struct kvfi_sink sink = {.self = node,
		.send = sink_send,
		.post = sink_post,
		.post_cancel = sink_post_cancel,
		.grant = sink_grant,
		.revoke = sink_revoke,
		.release = sink_release,
		.sum = sink_sum,
		.store_aux = sink_store_aux,
		.event = sink_event,
		.state = sink_state,
		.stamp = sink_stamp};
	struct kvfi_input self = {.kind = KVFI_IN_SELF};

	node->rig = rig;
	node->index = index;
	node->decode = decode;
	node->rank = rank;
	assert_int_equal(kvf_layout_new(&rig_model, rig->instances[decode], rank, &options, &node->layout,
				 &node->memory_bytes),
		KVF_OK);
	node->memory = malloc(node->memory_bytes);
	assert_non_null(node->memory);
	memset(node->memory, CANARY, node->memory_bytes);
	kvf_layout_move(node->layout, (uint64_t)(uintptr_t)node->memory);
	if (decode)
		assert_int_equal(
			kvf_layout_set_aux(node->layout, 4, 64, (uint64_t)(uintptr_t)node->aux), KVF_OK);
	assert_int_equal(kvfi_core_open(config, &sink, &node->core), KVF_OK);
	self.u.self.instance = rig->instances[decode];
	self.u.self.layout = node->layout;
	self.u.self.rank = rank;
	kvfi_core_step(node->core, &self, rig->now_ns);
}

void rig_open_config(struct rig *rig, uint64_t seed, const struct kvf_parallel *prefill,
	const struct kvf_parallel *decode, const struct rig_faults *faults,
	const struct kvfi_core_config *config)
{
	memset(rig, 0, sizeof(*rig));
	rig->seed = rig->random = seed;
	rig->now_ns = KVFI_NS_PER_S;
	rig->faults = *faults;
	assert_int_equal(kvf_instance_new(&rig_model, prefill, KVF_PREFILL, 1, &rig->instances[0]), KVF_OK);
	assert_int_equal(kvf_instance_new(&rig_model, decode, KVF_DECODE, 2, &rig->instances[1]), KVF_OK);
	rig->n_prefill = rig->instances[0]->n_ranks;
	rig->n_nodes = rig->n_prefill + rig->instances[1]->n_ranks;
	assert_true(rig->n_nodes <= RIG_MAX_NODES);
	for (uint32_t i = 0; i < rig->n_nodes; i++)
		open_node(rig, i, i >= rig->n_prefill, i >= rig->n_prefill ? i - rig->n_prefill : i, config);
}

void rig_open(struct rig *rig, uint64_t seed, const struct kvf_parallel *prefill,
	const struct kvf_parallel *decode, const struct rig_faults *faults)
{
	const struct kvfi_core_config config = {.max_peers = RIG_MAX_PEERS,
		.max_sessions = RIG_MAX_SESSIONS,
		.max_links = 256,
		.max_deliveries = 64,
		.max_block_ids = 16384,
		.connect_timeout_ns = 20 * KVFI_NS_PER_S,
		.transfer_timeout_ns = 20 * KVFI_NS_PER_S};

	rig_open_config(rig, seed, prefill, decode, faults, &config);
}

void rig_close(struct rig *rig)
{
	for (uint32_t i = 0; i < rig->n_events; i++)
		if (rig->events[i].kind == RIG_MESSAGE)
			kvfi_msg_fini(&rig->events[i].msg);
	free(rig->events);
	for (uint32_t i = 0; i < rig->n_nodes; i++) {
		struct rig_node *node = &rig->nodes[i];

		kvfi_core_close(node->core);
		for (uint32_t p = 0; p < node->n_peers; p++) {
			kvf_plan_free(node->peers[p].plans[0]);
			kvf_plan_free(node->peers[p].plans[1]);
		}
		kvf_layout_free(node->layout);
		free(node->memory);
	}
	kvf_instance_free(rig->instances[0]);
	kvf_instance_free(rig->instances[1]);
}

/* ---- peers ---- */

static uint32_t add_peer(struct rig_node *node, struct rig_node *other)
{
	struct rig *rig = node->rig;
	struct rig_node *prefill = node->decode ? other : node, *decode = node->decode ? node : other;
	uint32_t slot = node->n_peers++;
	uint32_t n_dps = rig->instances[other->decode]->dp, kept = 0;

	assert_true(slot < RIG_MAX_PEERS);
	node->peers[slot].used = true;
	node->peers[slot].node = other->index;
	for (int r = 0; r < 2; r++) {
		assert_int_equal(kvf_plan_new(rig->instances[0], prefill->layout, rig->instances[1],
					 decode->layout, (enum kvf_replica)r, &node->peers[slot].plans[r]),
			KVF_OK);
		node->peers[slot].digests[r] = 1000 + (uint64_t)r;
	}
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
				node->peers[slot].pairs[kept++] = all[i];
		node->peers[slot].by_dp[dp] =
			(struct kvfi_pair_list){kept - start, &node->peers[slot].pairs[start]};
	}
	return slot;
}

static void tell_up(struct rig_node *node, uint32_t slot)
{
	struct rig *rig = node->rig;
	struct rig_node *other = &rig->nodes[node->peers[slot].node];
	struct kvfi_input input = {.kind = KVFI_IN_PEER_UP, .peer = slot};

	input.u.peer_up = (struct kvfi_peer_up){.instance = rig->instances[other->decode],
		.rank = other->rank,
		.receiver_applied = rig->faults.receiver_applied,
		.plans = {node->peers[slot].plans[0], node->peers[slot].plans[1]},
		.digests = {node->peers[slot].digests[0], node->peers[slot].digests[1]},
		.n_dps = rig->instances[other->decode]->dp,
		.by_dp = node->peers[slot].by_dp};
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

static void tell_down(struct rig *rig, struct rig_node *node, uint32_t slot, enum kvf_status status)
{
	struct kvfi_input input = {.kind = KVFI_IN_PEER_DOWN, .peer = slot};

	node->peers[slot].up = false;
	for (uint32_t i = 0; i < 128; i++)
		if (node->posts[i].used && node->posts[i].peer_slot == slot)
			node->posts[i].broken = true;
	input.u.peer_down = (struct kvfi_in_peer_down){.status = status,
		.instance_id = rig->instances[!node->decode]->id,
		.rank = rig->nodes[node->peers[slot].node].rank,
		.reason = "the rig took it down"};
	rig_step(rig, node, &input);
}

void rig_disconnect(struct rig *rig, uint32_t a, uint32_t b, enum kvf_status status)
{
	for (uint32_t slot = 0; slot < rig->nodes[a].n_peers; slot++) {
		struct rig_node *node = &rig->nodes[a];
		uint32_t there = node->peers[slot].slot_there;

		if (node->peers[slot].node != b || !node->peers[slot].up)
			continue;
		tell_down(rig, node, slot, status);
		tell_down(rig, &rig->nodes[b], there, status);
	}
}

/* ---- posts ---- */

static void post_done(struct rig_node *node, struct rig_post *post, enum kvf_status status)
{
	struct kvfi_input input = {.kind = KVFI_IN_TX_DONE};

	post->used = false;
	input.u.done = (struct kvfi_in_done){.id = post->delivery,
		.status = status,
		.bytes = status == KVF_OK ? post->bytes : post->moved,
		.runs = 1,
		.first_ns = node->rig->now_ns,
		.last_ns = node->rig->now_ns,
		.reason = ""};
	rig_step(node->rig, node, &input);
}

static void rx_done(
	struct rig_node *receiver, uint32_t link, const struct rig_post *post, enum kvf_status status)
{
	struct kvfi_input input = {.kind = KVFI_IN_RX_DONE};
	struct kvfi_range ranges[KVFI_MAX_RANGES];

	for (uint32_t i = 0; i < post->bound->n_ranges; i++)
		ranges[i] = post->bound->ranges[i].range;
	input.u.done = (struct kvfi_in_done){.id = link,
		.status = status,
		.slice = post->slice,
		.bytes = post->bytes,
		.first_ns = receiver->rig->now_ns,
		.last_ns = receiver->rig->now_ns,
		.ranges_hash = kvfi_ranges_hash(
			post->bound->layer_start, post->bound->layer_end, ranges, post->bound->n_ranges),
		.reason = ""};
	rig_step(receiver->rig, receiver, &input);
}

/* One piece: enter, store; it leaves later. */
static void copy_piece(struct rig_post *post, struct rig_grant *grant)
{
	struct kvfi_walk walk;
	struct kvfi_strip strip;
	uint64_t left = 96;

	kvfi_walk_init(&walk, post->bound, KVFI_WALK_BOTH, 0, post->bound->units);
	kvfi_walk_seek(&walk, post->moved);
	grant->inside++;
	while (left > 0 && kvfi_walk_next(&walk, left, &strip)) {
		for (uint64_t i = 0; i < strip.count; i++)
			memcpy((void *)(uintptr_t)(strip.dst + i * (uint64_t)strip.dst_stride),
				(const void *)(uintptr_t)(strip.src + i * (uint64_t)strip.src_stride),
				strip.len);
		post->moved += strip.len * strip.count;
		left -= strip.len * strip.count;
	}
}

static bool grant_serves(const struct rig_grant *grant, const struct rig_post *post)
{
	return grant->used && !grant->revoked && grant->generation == post->lease_generation &&
	       grant->epoch == post->epoch;
}

static void run_post(struct rig *rig, struct rig_node *node, uint32_t index)
{
	struct rig_post *post = &node->posts[index];
	struct rig_grant *grant = grant_of(post, node);
	struct rig_node *receiver = &rig->nodes[node->peers[post->peer_slot].node];
	uint32_t link = post->lease_link;

	if (!post->used)
		return;
	if (post->inside > 0) { /* its worker has not left: a post is not over before */
		schedule(rig, RIG_POST, node->index, 1000 + rig_random(rig, 20000))->index = index;
		return;
	}
	if (post->broken) {
		post_done(node, post, KVF_PEER_LOST);
		return;
	}
	if (post->cancelled || !grant_serves(grant, post)) {
		post_done(node, post, KVF_CANCELLED);
		return;
	}
	if (post->moved < post->bytes) {
		struct rig_event *leave;

		copy_piece(post, grant);
		post->inside++;
		leave = schedule(rig, RIG_LEAVE, receiver->index, 500 + rig_random(rig, 30000));
		leave->index = link;
		leave->life = grant->generation;
		leave->peer_slot = node->index;
		leave->post = index;
		schedule(rig, RIG_POST, node->index, 1000 + rig_random(rig, 20000))->index = index;
		return;
	}
	if (rig->faults.receiver_applied)
		rx_done(receiver, link, post, KVF_OK);
	post_done(node, post, KVF_OK);
}

static void run_leave(struct rig_node *node, const struct rig_event *event)
{
	uint32_t link = event->index;
	struct rig_grant *grant = &node->grants[link];

	node->rig->nodes[event->peer_slot].posts[event->post].inside--;
	assert_int_equal(
		grant->generation, event->life); /* a slot is not granted again while somebody is inside */
	assert_true(grant->inside > 0);
	grant->inside--;
	maybe_quiet(node, link);
}

/* ---- time ---- */

void rig_step(struct rig *rig, struct rig_node *node, const struct kvfi_input *input)
{
	kvfi_core_step(node->core, input, rig->now_ns);
}

static void run_event(struct rig *rig, struct rig_event *event)
{
	struct rig_node *node = &rig->nodes[event->node];
	struct kvfi_input input = {.kind = KVFI_IN_QUIET};

	switch (event->kind) {
	case RIG_MESSAGE:
		if (node->peers[event->peer_slot].up)
			rig_inject(rig, event->node, event->peer_slot, &event->msg);
		kvfi_msg_fini(&event->msg);
		break;
	case RIG_POST:
		run_post(rig, node, event->index);
		break;
	case RIG_LEAVE:
		run_leave(node, event);
		break;
	case RIG_QUIET:
		if (node->grants[event->index].used && node->grants[event->index].revoked) {
			input.u.quiet_link = event->index;
			rig_step(rig, node, &input);
		}
		break;
	case RIG_TICK:
		break;
	}
}

static int first_event(const struct rig *rig)
{
	int first = -1;

	for (uint32_t i = 0; i < rig->n_events; i++)
		if (first < 0 || rig->events[i].at_ns < rig->events[first].at_ns ||
			(rig->events[i].at_ns == rig->events[first].at_ns &&
				rig->events[i].sequence < rig->events[first].sequence))
			first = (int)i;
	return first;
}

static uint64_t next_deadline(const struct rig *rig)
{
	uint64_t next_ns = KVFI_NEVER;

	for (uint32_t i = 0; i < rig->n_nodes; i++)
		if (kvfi_core_next_ns(rig->nodes[i].core) < next_ns)
			next_ns = kvfi_core_next_ns(rig->nodes[i].core);
	return next_ns;
}

static void tick_all(struct rig *rig)
{
	const struct kvfi_input tick = {.kind = KVFI_IN_TICK};

	for (uint32_t i = 0; i < rig->n_nodes; i++)
		if (kvfi_core_next_ns(rig->nodes[i].core) <= rig->now_ns)
			rig_step(rig, &rig->nodes[i], &tick);
}

void rig_run(struct rig *rig, uint64_t until_ns)
{
	for (;;) {
		int first = first_event(rig);
		uint64_t event_ns = first < 0 ? KVFI_NEVER : rig->events[first].at_ns;
		uint64_t deadline_ns = next_deadline(rig);
		struct rig_event event;

		if ((event_ns < deadline_ns ? event_ns : deadline_ns) > until_ns)
			break;
		if (deadline_ns < event_ns) {
			rig->now_ns = deadline_ns > rig->now_ns ? deadline_ns : rig->now_ns;
			tick_all(rig);
			continue;
		}
		event = rig->events[first];
		rig->events[first] = rig->events[--rig->n_events];
		rig->now_ns = event_ns;
		run_event(rig, &event);
	}
	if (until_ns != KVFI_NEVER && rig->now_ns < until_ns)
		rig->now_ns = until_ns;
}

/* ---- sessions ---- */

static struct rig_session *new_session(
	struct rig *rig, uint32_t node, uint32_t slot, uint64_t request_id, uint64_t prompt_len)
{
	struct rig_session *session = &rig->nodes[node].sessions[slot];
	uint32_t n = (uint32_t)((prompt_len + RIG_TPB - 1) / RIG_TPB);

	memset(session, 0, sizeof(*session));
	session->open = true;
	session->request_id = request_id;
	session->prompt_len = prompt_len;
	/* Blocks are taken in turn, 8 places per slot of the pool. */
	session->n_ids = n;
	for (uint32_t i = 0; i < n; i++)
		session->ids[i] = (int32_t)((slot * 8 + i * 3 % 8 + (i / 8) * 8) % RIG_BLOCKS);
	return session;
}

void rig_tx_open(struct rig *rig, uint32_t node, uint32_t slot, uint64_t request_id, uint64_t prompt_len)
{
	struct rig_session *session = new_session(rig, node, slot, request_id, prompt_len);
	struct kvfi_input input = {.kind = KVFI_IN_TX_OPEN, .session = slot};

	(void)each_row(&rig->nodes[node], session, fill_row);
	input.u.tx_open = (struct kvfi_in_tx_open){
		.request_id = request_id, .prompt_len = prompt_len, .expires_ns = 600 * KVFI_NS_PER_S};
	rig_step(rig, &rig->nodes[node], &input);
}

void rig_tx_send(struct rig *rig, uint32_t node, uint32_t slot, uint32_t chunks, bool aux)
{
	struct rig_session *session = &rig->nodes[node].sessions[slot];
	static const char text[] = "first token 42";

	for (uint32_t c = 0; c < chunks; c++) {
		struct kvfi_tx_slice *slice = &session->tx_slices[c];
		struct kvfi_input input = {.kind = KVFI_IN_TX_SEND, .session = slot};
		uint64_t start = session->prompt_len * c / chunks,
			 end = session->prompt_len * (c + 1) / chunks;
		uint64_t from = start / RIG_TPB, to = c + 1 == chunks ? session->n_ids : end / RIG_TPB;

		memset(slice, 0, sizeof(*slice));
		slice->shape = (struct kvfi_shape){.prompt_len = session->prompt_len,
			.token_start = start,
			.token_end = end,
			.first = c == 0,
			.last = c + 1 == chunks};
		slice->lists[0] = (struct kvfi_ids){session->ids + from, (uint32_t)(to - from)};
		slice->number = c;
		slice->last = c + 1 == chunks;
		input.u.slice = slice;
		rig_step(rig, &rig->nodes[node], &input);
	}
	if (aux) {
		struct kvfi_input input = {.kind = KVFI_IN_TX_AUX, .session = slot};

		input.u.aux = (struct kvfi_in_aux){(const unsigned char *)text, sizeof(text)};
		rig_step(rig, &rig->nodes[node], &input);
	}
}

void rig_rx_open(struct rig *rig, uint32_t node, uint32_t slot, uint64_t request_id, uint64_t prompt_len,
	uint32_t dp_index, bool aux)
{
	struct rig_session *session = new_session(rig, node, slot, request_id, prompt_len);
	struct kvfi_input input = {.kind = KVFI_IN_RX_OPEN, .session = slot};

	input.u.rx_open = (struct kvfi_in_rx_open){.instance_id = 1,
		.request_id = request_id,
		.dp_index = dp_index,
		.prompt_len = prompt_len,
		.aux_slot = aux ? slot % 4 : KVF_NO_AUX};
	input.u.rx_open.lists[0] = (struct kvfi_ids){session->ids, session->n_ids};
	rig_step(rig, &rig->nodes[node], &input);
}

void rig_close_session(struct rig *rig, uint32_t node, uint32_t slot)
{
	struct kvfi_input input = {.kind = KVFI_IN_SESSION_CLOSE, .session = slot};

	assert_true(rig->nodes[node].sessions[slot].released);
	rig->nodes[node].sessions[slot].closed = true;
	rig_step(rig, &rig->nodes[node], &input);
}

void rig_check_canaries(struct rig *rig)
{
	for (uint32_t i = rig->n_prefill; i < rig->n_nodes; i++)
		for (uint32_t s = 0; s < RIG_MAX_SESSIONS; s++)
			if (rig->nodes[i].sessions[s].released)
				assert_true(each_row(
					&rig->nodes[i], &rig->nodes[i].sessions[s], check_canary_row));
}

void rig_msg_header(const struct rig *rig, struct kvfi_msg *msg, enum kvfi_msg_type type, uint64_t request_id,
	uint64_t epoch)
{
	(void)rig;
	memset(msg, 0, sizeof(*msg));
	msg->header.type = type;
	msg->header.instance_id = 1;
	msg->header.request_id = request_id;
	msg->header.epoch = epoch;
}

void rig_inject(struct rig *rig, uint32_t node, uint32_t peer_slot, const struct kvfi_msg *msg)
{
	struct kvfi_input input = {.kind = KVFI_IN_MESSAGE, .peer = peer_slot, .u.msg = msg};

	rig_step(rig, &rig->nodes[node], &input);
}
