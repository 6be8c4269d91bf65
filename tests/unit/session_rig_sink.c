/* session_rig_sink.c - what a core decides, done by the rig: messages into the network, posts and grants into tables, events checked. */
#include "session_rig_private.h"

#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "base/status.h"

static void sink_send(void *self, uint32_t peer, struct kvfi_msg *msg)
{
	struct rig_node *node = self;
	struct rig *rig = node->rig;
	const struct rig_peer *to = &node->peers[peer];
	uint32_t copies = 1;

	assert_true(peer < node->n_peers);
	rig->messages++;
	if (!to->up)
		return;
	if (rig->drop != NULL && rig->drop(rig, node->index, to->node, msg))
		return;
	if (rig_random(rig, 1000) < rig->faults.lose)
		return;
	copies += rig_random(rig, 1000) < rig->faults.repeat;
	for (uint32_t i = 0; i < copies; i++) {
		struct rig_event *event = rig_schedule(
			rig, RIG_MESSAGE, to->node, 5000 + rig_random(rig, rig->faults.delay_ns + 1));

		event->peer_slot = to->slot_there;
		event->peer_life = rig->nodes[to->node].peers[to->slot_there].life;
		assert_int_equal(kvfi_msg_dup(msg, &event->msg), KVF_OK);
		event->refused = rig->change != NULL && !rig->change(rig, &event->msg);
	}
}

/* Nothing leaves before the word says so. */
static void rig_check_advertised(const struct rig_node *node, uint64_t request_id, uint32_t attempt)
{
	for (uint32_t i = 0; i < RIG_MAX_SESSIONS; i++) {
		const struct rig_session *session = &node->sessions[i];

		if (session->open && !session->released && session->ask.request_id == request_id &&
			session->ask.attempt == attempt)
			assert_true(session->advertised);
	}
}

static enum kvf_status sink_post(void *self, const struct kvfi_core_post *post)
{
	struct rig_node *node = self;
	struct rig_post *slot = NULL;
	uint32_t life;

	rig_check_advertised(node, post->request_id, post->attempt);
	if (post->lease_slot >= RIG_MAX_LINKS)
		return kvfi_fail(KVF_PROTOCOL, "lease slot %u", post->lease_slot);
	for (uint32_t i = 0; i < node->rig->max_posts && slot == NULL; i++)
		if (!node->posts[i].used)
			slot = &node->posts[i];
	if (slot == NULL)
		return KVF_EFULL;
	life = slot->life + 1;
	*slot = (struct rig_post){.used = true,
		.life = life,
		.delivery = post->delivery,
		.peer_slot = post->peer,
		.lease_link = post->lease_slot,
		.lease_generation = post->lease_generation,
		.epoch = post->epoch,
		.slice = post->slice,
		.sum = post->sum,
		.bound = post->bound,
		.bytes = post->bound->bytes};
	/* The rig copies in pieces from the bound; the pieces are counted in canonical bytes. */
	rig_schedule(node->rig, RIG_POST, node->index, 1000 + rig_random(node->rig, 20000))->index =
		(uint32_t)(slot - node->posts);
	return KVF_OK;
}

static void sink_post_cancel(void *self, uint32_t delivery, uint32_t peer)
{
	struct rig_node *node = self;
	bool found = false;

	for (uint32_t i = 0; i < RIG_MAX_POSTS; i++)
		if (node->posts[i].used && node->posts[i].delivery == delivery &&
			node->posts[i].peer_slot == peer)
			found = node->posts[i].cancelled = true;
	assert_true(found);
}

static enum kvf_status sink_grant(void *self, const struct kvfi_core_grant *grant, uint32_t *lease_slot_out,
	uint32_t *lease_generation_out)
{
	struct rig_node *node = self;
	struct rig_grant *slot = &node->grants[grant->link];

	if (node->rig->no_grant != KVF_OK)
		return node->rig->no_grant;
	assert_true(grant->link < RIG_MAX_LINKS && !slot->used && slot->inside == 0);
	rig_check_advertised(node, grant->request_id, grant->attempt);
	slot->used = true;
	slot->revoked = slot->told = slot->fenced = slot->exited = false;
	slot->generation++;
	slot->epoch = grant->epoch;
	slot->peer = grant->peer;
	slot->prompt_len = grant->prompt_len;
	slot->plan = grant->plan;
	slot->dst = grant->dst;
	*lease_slot_out = grant->link;
	*lease_generation_out = slot->generation;
	return KVF_OK;
}

void rig_maybe_quiet(struct rig_node *node, uint32_t link)
{
	struct rig_grant *grant = &node->grants[link];

	if (!grant->used || !grant->revoked || grant->inside > 0 || grant->told)
		return;
	grant->told = true;
	rig_schedule(node->rig, RIG_QUIET, node->index, rig_random(node->rig, 2000))->index = link;
}

static void sink_revoke(void *self, uint32_t link, uint32_t peer)
{
	struct rig_node *node = self;

	assert_true(node->grants[link].used && !node->grants[link].revoked);
	assert_int_equal(node->grants[link].peer, peer);
	node->grants[link].revoked = true;
	rig_maybe_quiet(node, link);
}

static void sink_release(void *self, uint32_t link, uint32_t peer)
{
	struct rig_node *node = self;

	assert_true(node->grants[link].used);
	assert_int_equal(node->grants[link].peer, peer);
	/* The promise of every proof: nobody is inside. A writer's word is one, so a writer may lie. */
	if (!node->rig->hostile && !node->grants[link].fenced)
		assert_int_equal(node->grants[link].inside, 0);
	node->grants[link].inside = 0;
	node->grants[link].used = false;
	node->grants[link].revoked = true;
}

uint64_t rig_sum(const struct kvfi_bound *bound, enum kvfi_walk_mode mode)
{
	struct kvfi_walk walk;
	struct kvfi_strip strip;
	uint64_t sum = 0;

	kvfi_walk_init(&walk, bound, mode, 0, bound->units);
	while (kvfi_walk_next(&walk, 1u << 20, &strip)) {
		for (uint64_t i = 0; i < strip.count * strip.len; i++) {
			uint64_t run = i / strip.len, byte = i % strip.len;
			uint64_t base = mode == KVFI_WALK_SRC ? strip.src + run * (uint64_t)strip.src_stride
			                                      : strip.dst + run * (uint64_t)strip.dst_stride;
			uint64_t pos = strip.pos + run * (uint64_t)strip.pos_stride + byte;

			sum += *(const unsigned char *)(uintptr_t)(base + byte) * (2 * pos + 1);
		}
	}
	return sum;
}

static void sink_sum(void *self, uint32_t link, const struct kvfi_bound *bound)
{
	struct rig_node *node = self;
	struct rig_event *event =
		rig_schedule(node->rig, RIG_SUM, node->index, 1000 + rig_random(node->rig, 50000));

	assert_false(node->rig->faults.receiver_applied);
	event->index = link;
	event->bound = bound;
}

static void sink_store_aux(void *self, uint32_t aux_slot, const void *data, uint32_t len_bytes)
{
	struct rig_node *node = self;

	assert_true(aux_slot < RIG_MAX_SESSIONS && len_bytes <= RIG_AUX_BYTES);
	memcpy(node->aux[aux_slot], data, len_bytes);
}

static void on_released(struct rig_node *node, struct rig_session *session)
{
	uint32_t slot = (uint32_t)(session - node->sessions);

	if (node->rig->hostile)
		return;
	if (node->decode && session->status == KVF_OK && session->ask.drop_page == 0)
		assert_true(rig_rows(node, session, RIG_CHECK, KVFI_NONE));
	if (node->decode && session->status == KVF_OK && session->ask.aux && session->stats.peers > 0)
		assert_string_equal((const char *)node->aux[slot], rig_aux_text);
	(void)rig_rows(node, session, RIG_CANARY, KVFI_NONE);
}

/* What a failed session calls good is good. */
static void check_good(struct rig_node *node, const struct rig_session *session)
{
	for (uint32_t e = 0; node->decode && e < session->groups[0].n; e++)
		if ((uint64_t)(session->groups[0].first_block + e + 1) * RIG_TPB <= session->good_end[0])
			assert_true(rig_rows(node, session, RIG_CHECK, e));
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
		assert_false(session->outcome);
		break;
	case KVF_EVENT_SLICE:
		assert_int_equal(event->slice, session->slices++); /* in order, each once */
		assert_false(session->outcome);
		break;
	case KVF_EVENT_OUTCOME:
		assert_false(session->outcome);
		session->outcome = true;
		session->status = event->status;
		assert_true((event->status == KVF_OK) == (event->error[0] == '\0'));
		memcpy(session->good_end, event->good_end, sizeof(session->good_end));
		(void)snprintf(session->error, sizeof(session->error), "%s", event->error);
		if (event->status != KVF_OK && !node->rig->hostile)
			check_good(node, session);
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

static void sink_state(void *self, uint32_t slot, enum kvf_session_state state)
{
	struct rig_session *session = &((struct rig_node *)self)->sessions[slot];

	/* Forward only, and nothing follows ERROR or CANCELLED. */
	assert_true(session->state >= KVF_STATE_INIT);
	assert_true(state < KVF_STATE_INIT || state > session->state);
	session->state = state;
}

static uint64_t sink_stamp(void *self)
{
	return ((struct rig_node *)self)->rig->now_ns;
}

static bool sink_advertise(void *self, uint32_t slot)
{
	struct rig_session *session = &((struct rig_node *)self)->sessions[slot];

	assert_false(session->advertised); /* asked once */
	session->advertised = !session->called_off;
	return session->advertised;
}

static uint64_t sink_post_moved(void *self, uint32_t delivery, uint32_t peer)
{
	struct rig_node *node = self;

	for (uint32_t i = 0; i < RIG_MAX_POSTS; i++)
		if (node->posts[i].used && node->posts[i].delivery == delivery &&
			node->posts[i].peer_slot == peer)
			return node->posts[i].moved;
	fail_msg("no post of delivery %u", delivery);
	return 0;
}

static uint64_t sink_grant_moved(void *self, uint32_t link, uint32_t peer)
{
	struct rig_node *node = self;

	assert_true(node->grants[link].used && node->grants[link].peer == peer);
	return node->grants[link].pieces;
}

static void sink_fence(void *self, uint32_t peer)
{
	struct rig_node *node = self;

	node->rig->fenced++;
	if (!node->rig->fences)
		return;
	for (uint32_t link = 0; link < RIG_MAX_LINKS; link++) {
		struct rig_grant *grant = &node->grants[link];

		if (!grant->used || !grant->revoked || grant->told || grant->peer != peer)
			continue;
		grant->fenced = grant->told = true;
		rig_schedule(node->rig, RIG_QUIET, node->index, rig_random(node->rig, 2000))->index = link;
	}
}

static void sink_drop(void *self, uint32_t peer, const char *reason)
{
	struct rig_node *node = self;

	assert_true(node->peers[peer].up && !node->peers[peer].dropping);
	assert_string_not_equal(reason, "");
	node->peers[peer].dropping = true; /* the core must not be called now */
	node->rig->dropped++;
}

void rig_sink_fill(struct rig_node *node, struct kvfi_sink *sink)
{
	*sink = (struct kvfi_sink){.self = node,
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
		.stamp = sink_stamp,
		.post_moved = sink_post_moved,
		.grant_moved = sink_grant_moved,
		.fence = sink_fence,
		.drop = sink_drop,
		.advertise = sink_advertise};
}
