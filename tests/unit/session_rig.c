/* session_rig.c - see session_rig.h: virtual time, the network, and the posts that copy. */
#include "session_rig_private.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/hash.h"
#include "wire/frame.h"

uint64_t rig_random(struct rig *rig, uint64_t below)
{
	rig->random += UINT64_C(0x9e3779b97f4a7c15);
	return below == 0 ? 0 : kvfi_mix64(rig->random) % below;
}

struct rig_event *rig_schedule(struct rig *rig, enum rig_kind kind, uint32_t node, uint64_t after_ns)
{
	struct rig_event *event;

	if (rig->n_events == rig->max_events) {
		rig->max_events = rig->max_events == 0 ? 64 : rig->max_events * 2;
		rig->events = realloc(rig->events, rig->max_events * sizeof(*rig->events));
		assert_non_null(rig->events);
	}
	event = &rig->events[rig->n_events++];
	memset(event, 0, offsetof(struct rig_event, msg));
	event->kind = kind;
	event->at_ns = rig->now_ns + after_ns;
	event->sequence = rig->sequence++;
	event->node = node;
	event->life = rig->nodes[node].life;
	return event;
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
		.sum = post->sum && status == KVF_OK ? rig_sum(post->bound, KVFI_WALK_SRC) : 0,
		.first_ns = node->rig->now_ns,
		.last_ns = node->rig->now_ns,
		.reason = ""};
	if (node->rig->wrong_sums)
		input.u.done.sum++;
	rig_step(node->rig, node, &input);
}

static void rx_done(struct rig_node *receiver, const struct rig_post *post, enum kvf_status status)
{
	struct kvfi_input input = {.kind = KVFI_IN_RX_DONE};
	struct rig_grant *grant = &receiver->grants[post->lease_link];
	const struct kvfi_bound *bound = post->bound;
	struct kvfi_range ranges[KVFI_MAX_RANGES];
	struct kvfi_bound here;

	for (uint32_t i = 0; i < bound->n_ranges; i++)
		ranges[i] = bound->ranges[i].range;
	input.u.done = (struct kvfi_in_done){.id = post->lease_link,
		.epoch = grant->epoch,
		.status = status,
		.slice = post->slice,
		.bytes = post->bytes,
		.first_ns = receiver->rig->now_ns,
		.last_ns = receiver->rig->now_ns,
		.ranges_hash =
			kvfi_ranges_hash(bound->layer_start, bound->layer_end, ranges, bound->n_ranges),
		.reason = ""};
	if (post->sum && status == KVF_OK) {
		assert_int_equal(kvfi_bind_ranges(grant->plan, grant->prompt_len, bound->layer_start,
					 bound->layer_end, ranges, bound->n_ranges, grant->dst, &here),
			KVF_OK);
		input.u.done.sum = rig_sum(&here, KVFI_WALK_DST);
	}
	rig_step(receiver->rig, receiver, &input);
}

/* One piece: enter, store; it leaves later. */
static void copy_piece(struct rig_post *post, uint64_t left)
{
	struct kvfi_walk walk;
	struct kvfi_strip strip;

	kvfi_walk_init(&walk, post->bound, KVFI_WALK_BOTH, 0, post->bound->units);
	kvfi_walk_seek(&walk, post->moved);
	while (left > 0 && kvfi_walk_next(&walk, left, &strip)) {
		for (uint64_t i = 0; i < strip.count; i++)
			memcpy((void *)(uintptr_t)(strip.dst + i * (uint64_t)strip.dst_stride),
				(const void *)(uintptr_t)(strip.src + i * (uint64_t)strip.src_stride),
				strip.len);
		post->moved += strip.len * strip.count;
		left -= strip.len * strip.count;
	}
}

static bool grant_serves(
	const struct rig_node *node, const struct rig_grant *grant, const struct rig_post *post)
{
	/* A lease word knows its generation; frames name the epoch too. */
	return grant->used && !grant->revoked && grant->generation == post->lease_generation &&
	       (!node->rig->faults.receiver_applied || grant->epoch == post->epoch);
}

static void post_after(struct rig_node *node, uint32_t index, uint64_t ns)
{
	rig_schedule(node->rig, RIG_POST, node->index, ns)->index = index;
}

static void post_again(struct rig_node *node, uint32_t index)
{
	post_after(node, index, 1000 + rig_random(node->rig, 20000));
}

static void post_piece(struct rig_node *node, struct rig_node *receiver, uint32_t index)
{
	struct rig_post *post = &node->posts[index];
	struct rig_grant *grant = &receiver->grants[post->lease_link];
	struct rig_event *leave;

	grant->inside++;
	grant->pieces++;
	post->inside++;
	if (rig_random(node->rig, 1000) < node->rig->hold_inside) {
		copy_piece(post, 48);
		post->held = true;
		post->held_generation = grant->generation;
		return;
	}
	copy_piece(post, 96);
	leave = rig_schedule(node->rig, RIG_LEAVE, receiver->index, 500 + rig_random(node->rig, 30000));
	leave->index = post->lease_link;
	leave->generation = grant->generation;
	leave->sender = node->index;
	leave->sender_life = post->life;
	leave->post = index;
	if (node->rig->piece_ns > 0)
		post_after(node, index, node->rig->piece_ns);
	else
		post_again(node, index);
}

/* It was stopped inside; a page that was taken from it meanwhile is its own. A grant that is not there any more had a proof without it. */
static void go_on(struct rig_node *node, struct rig_post *post)
{
	struct rig_node *receiver = &node->rig->nodes[node->peers[post->peer_slot].node];
	struct rig_grant *grant = &receiver->grants[post->lease_link];
	bool same = grant->used && grant->generation == post->held_generation;

	post->held = false;
	post->inside--;
	post_again(node, (uint32_t)(post - node->posts));
	if (!same || grant->fenced)
		return;
	copy_piece(post, 48);
	grant->inside--;
	rig_maybe_quiet(receiver, post->lease_link);
}

void rig_continue(struct rig *rig, uint32_t node)
{
	for (uint32_t i = 0; i < RIG_MAX_POSTS; i++)
		if (rig->nodes[node].posts[i].used && rig->nodes[node].posts[i].held)
			go_on(&rig->nodes[node], &rig->nodes[node].posts[i]);
}

static void run_post(struct rig *rig, struct rig_node *node, uint32_t index)
{
	struct rig_post *post = &node->posts[index];
	struct rig_node *receiver = &rig->nodes[node->peers[post->peer_slot].node];
	bool served;

	if (!post->used)
		return;
	served = grant_serves(node, &receiver->grants[post->lease_link], post);
	/* Its worker has not left: a post is not over before. */
	if (post->inside > 0)
		post_again(node, index);
	else if (rig->hold_posts && post->moved >= rig->hold_after && !post->broken && !post->cancelled &&
		 served)
		post_after(node, index, KVFI_NS_PER_MS);
	else if (post->broken)
		post_done(node, post, KVF_PEER_LOST);
	else if (post->cancelled || !served)
		post_done(node, post, KVF_CANCELLED);
	else if (post->moved < post->bytes)
		post_piece(node, receiver, index);
	else {
		if (rig->faults.receiver_applied)
			rx_done(receiver, post, KVF_OK);
		post_done(node, post, KVF_OK);
	}
}

static void run_leave(struct rig *rig, const struct rig_event *event)
{
	struct rig_node *node = &rig->nodes[event->node];
	struct rig_post *post = &rig->nodes[event->sender].posts[event->post];
	struct rig_grant *grant = &node->grants[event->index];

	if (post->used && post->life == event->sender_life)
		post->inside--;
	if (node->life != event->life)
		return; /* of memory that went with its process */
	if (rig->hostile && (grant->generation != event->generation || grant->inside == 0))
		return;
	assert_int_equal(grant->generation,
		event->generation); /* a slot is not granted again while somebody is inside */
	assert_true(grant->inside > 0);
	grant->inside--;
	rig_maybe_quiet(node, event->index);
}

/* ---- time ---- */

void rig_step(struct rig *rig, struct rig_node *node, const struct kvfi_input *input)
{
	kvfi_core_step(node->core, input, rig->now_ns);
	for (uint32_t slot = 0; slot < node->n_peers; slot++)
		if (node->peers[slot].dropping)
			rig_disconnect(rig, node->index, node->peers[slot].node, KVF_PEER_LOST);
}

static void deliver(struct rig *rig, uint32_t node, uint32_t peer_slot, const struct kvfi_msg *msg)
{
	struct kvfi_input input = {.kind = KVFI_IN_MESSAGE, .peer = peer_slot, .u.msg = msg};

	assert_int_equal(kvfi_msg_check(msg, KVF_PROTOCOL), KVF_OK);
	rig_step(rig, &rig->nodes[node], &input);
}

static void seal_result(struct kvfi_msg *msg)
{
	struct kvfi_msg_result *result = &msg->u.result;

	if (result->aux_bytes > 0)
		result->sum = kvfi_msg_aux_sum(result->aux, result->aux_bytes);
	result->seal = kvfi_msg_seal(msg);
}

void rig_inject(struct rig *rig, uint32_t node, uint32_t peer_slot, const struct kvfi_msg *msg)
{
	struct kvfi_msg sealed = *msg;

	if (msg->header.type == KVFI_MSG_REQUEST)
		sealed.u.request.seal = kvfi_msg_seal(msg);
	else if (msg->header.type == KVFI_MSG_RESULT)
		seal_result(&sealed);
	else if (msg->header.type == KVFI_MSG_GO)
		sealed.u.go.seal = kvfi_msg_seal(msg);
	deliver(rig, node, peer_slot, &sealed);
}

/* A peer that says what cannot be is a peer no more, until it connects anew. */
static void connect_anew(struct rig *rig, uint32_t node, uint32_t other)
{
	rig_disconnect(rig, node, other, KVF_PROTOCOL);
	if (rig->nodes[node].decode)
		rig_connect(rig, other, node);
	else
		rig_connect(rig, node, other);
}

static void run_message(struct rig *rig, struct rig_event *event)
{
	struct rig_node *node = &rig->nodes[event->node];
	const struct rig_peer *peer = &node->peers[event->peer_slot];

	if (node->life == event->life && peer->up && peer->life == event->peer_life && event->refused)
		connect_anew(rig, event->node, peer->node);
	else if (node->life == event->life && peer->up && peer->life == event->peer_life)
		deliver(rig, event->node, event->peer_slot, &event->msg);
	kvfi_msg_fini(&event->msg);
}

static void run_sum(struct rig *rig, struct rig_event *event)
{
	struct kvfi_input input = {.kind = KVFI_IN_SUMMED};

	input.u.summed.link = event->index;
	input.u.summed.sum = rig_sum(event->bound, KVFI_WALK_DST);
	rig_step(rig, &rig->nodes[event->node], &input);
}

static void run_quiet(struct rig *rig, const struct rig_event *event)
{
	struct rig_node *node = &rig->nodes[event->node];
	struct kvfi_input input = {.kind = KVFI_IN_PROOF, .u.proof = {event->index, KVF_PROOF_LEASE}};

	if (rig->faults.receiver_applied)
		input.u.proof.proof = KVF_PROOF_LOCAL_EPOCH;
	else if (node->grants[event->index].fenced)
		input.u.proof.proof = KVF_PROOF_FENCED;
	else if (node->grants[event->index].exited)
		input.u.proof.proof = KVF_PROOF_PROCESS_EXIT;
	if (node->grants[event->index].used && node->grants[event->index].told)
		rig_step(rig, node, &input);
}

static void run_event(struct rig *rig, struct rig_event *event)
{
	bool current = rig->nodes[event->node].life == event->life;

	if (event->kind == RIG_MESSAGE)
		run_message(rig, event);
	else if (event->kind == RIG_LEAVE)
		run_leave(rig, event);
	else if (current && event->kind == RIG_POST)
		run_post(rig, &rig->nodes[event->node], event->index);
	else if (current && event->kind == RIG_QUIET)
		run_quiet(rig, event);
	else if (current && event->kind == RIG_SUM)
		run_sum(rig, event);
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
		uint64_t next_ns = event_ns < deadline_ns ? event_ns : deadline_ns;
		struct rig_event event;

		if (next_ns > until_ns || next_ns == KVFI_NEVER)
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

void rig_run_for(struct rig *rig, uint64_t ns)
{
	rig_run(rig, rig->now_ns + ns);
}
