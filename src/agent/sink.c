/* sink.c - what the core decides, done: messages out, posts, grants, events.
 *
 * Owner thread. Nothing here calls the core. Hot messages to a peer whose transport has a socket of its own go there, all else over the control
 * channel; both may lose them, and the core repeats.
 */
#include "agent/agent.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/clock.h"
#include "base/status.h"
#include "wire/codec.h"

static bool send_hot(kvf_agent *agent, uint32_t slot, const struct kvfi_msg *msg)
{
	struct agent_peer *peer = &agent->peers[slot];
	const struct agent_transport *transport = &agent->transports[peer->transport];
	unsigned char frame[KVFI_HOT_FRAME_MAX];
	size_t len;

	if (peer->state != PEER_UP || transport->ops->send_frame == NULL ||
		!kvfi_msg_may_ride(msg->header.type))
		return false; /* one that does not fit goes the other way too */
	return kvfi_msg_encode(msg, frame, sizeof(frame), &len) == KVF_OK &&
	       transport->ops->send_frame(transport->self, slot, frame, len);
}

void kvfi_peer_send(kvf_agent *agent, uint32_t slot, struct kvfi_msg *msg)
{
	struct agent_peer *peer = &agent->peers[slot];
	const struct kvfi_control_ops *ops = kvfi_control_of(agent);

	msg->header.from = agent->incarnation;
	msg->header.to = peer->incarnation;
	msg->header.link = peer->link;
	if (send_hot(agent, slot, msg) || peer->way == KVFI_NO_WAY)
		return;
	(void)ops->send(agent->control, peer->way, msg);
	agent->sent = true;
}

static void sink_send(void *self, uint32_t peer, struct kvfi_msg *msg)
{
	kvfi_peer_send(self, peer, msg);
}

static const struct agent_transport *transport_of(const kvf_agent *agent, uint32_t peer)
{
	return &agent->transports[agent->peers[peer].transport];
}

/* Where a grant is kept: also after its peer was lost and has come back another way. */
static const struct agent_transport *grantor_of(const kvf_agent *agent, uint32_t link)
{
	return &agent->transports[agent->granted_by[link]];
}

static enum kvf_status sink_post(void *self, const struct kvfi_core_post *post)
{
	const struct agent_transport *transport = transport_of(self, post->peer);
	struct kvfi_tx_post tx = {.id = post->delivery,
		.peer = post->peer,
		.request_id = post->request_id,
		.attempt = post->attempt,
		.epoch = post->epoch,
		.slice = post->slice,
		.lease_slot = post->lease_slot,
		.lease_generation = post->lease_generation,
		.sum = post->sum,
		.bound = post->bound};

	return transport->ops->post(transport->self, &tx);
}

static void sink_post_cancel(void *self, uint32_t delivery, uint32_t peer)
{
	const struct agent_transport *transport = transport_of(self, peer);

	transport->ops->cancel(transport->self, delivery);
}

static enum kvf_status sink_grant(void *self, const struct kvfi_core_grant *grant, uint32_t *lease_slot_out,
	uint32_t *lease_generation_out)
{
	const struct agent_transport *transport = transport_of(self, grant->peer);
	struct kvfi_rx_grant rx = {.id = grant->link,
		.peer = grant->peer,
		.request_id = grant->request_id,
		.attempt = grant->attempt,
		.epoch = grant->epoch,
		.prompt_len = grant->prompt_len,
		.plan = grant->plan,
		.dst = grant->dst,
		.sum = grant->sum};

	((kvf_agent *)self)->granted_by[grant->link] = (uint8_t)transport->index;
	return transport->ops->grant(transport->self, &rx, lease_slot_out, lease_generation_out);
}

static void sink_revoke(void *self, uint32_t link, uint32_t peer)
{
	kvf_agent *agent = self;
	const struct agent_transport *transport = grantor_of(agent, link);

	transport->ops->revoke(transport->self, link);
	KVFI_ASSERT(agent->n_watches < agent->options.max_links);
	agent->watches[agent->n_watches++] = (struct watch){link, peer};
}

static void unwatch(kvf_agent *agent, uint32_t link)
{
	for (uint32_t i = 0; i < agent->n_watches; i++) {
		if (agent->watches[i].link == link) {
			agent->watches[i] = agent->watches[--agent->n_watches];
			return;
		}
	}
}

static void sink_release(void *self, uint32_t link, uint32_t peer)
{
	const struct agent_transport *transport = grantor_of(self, link);

	(void)peer;
	unwatch(self, link);
	transport->ops->release(transport->self, link);
}

/* Revoked grants: has the last store left?  The core may release others while it is told, so the list is walked from its end. */
void kvfi_watches_look(kvf_agent *agent)
{
	for (uint32_t i = agent->n_watches; i-- > 0;) {
		struct watch watch;
		struct kvfi_input input = {.kind = KVFI_IN_PROOF};

		if (i >= agent->n_watches)
			continue;
		watch = agent->watches[i];
		input.u.proof.link = watch.link;
		input.u.proof.proof = grantor_of(agent, watch.link)
		                              ->ops->proof(grantor_of(agent, watch.link)->self, watch.link);
		if (input.u.proof.proof == KVF_PROOF_NONE)
			continue;
		agent->watches[i] = agent->watches[--agent->n_watches];
		kvfi_owner_step(agent, &input);
	}
}

static uint64_t sink_post_moved(void *self, uint32_t delivery, uint32_t peer)
{
	const struct agent_transport *transport = transport_of(self, peer);

	return transport->ops->post_moved(transport->self, delivery);
}

static uint64_t sink_grant_moved(void *self, uint32_t link, uint32_t peer)
{
	const struct agent_transport *transport = grantor_of(self, link);

	(void)peer;
	return transport->ops->grant_moved(transport->self, link);
}

/* ---- the ladder's steps ---- */

/* Its proof, if it can give one, comes through the watches. Of every transport, because the grants that want it may be of an earlier connection; those
 * that have none take nothing. */
static void sink_fence(void *self, uint32_t peer)
{
	const kvf_agent *agent = self;

	for (uint32_t i = 0; i < agent->n_transports; i++) {
		const struct agent_transport *transport = &agent->transports[i];
		enum kvf_status ignored = transport->ops->fence(transport->self, peer);

		(void)ignored; /* not here: the ladder's next step comes in its time */
	}
}

/* Done when the core has come to the end of its step. */
static void sink_drop(void *self, uint32_t slot, const char *reason)
{
	kvf_agent *agent = self;
	struct agent_peer *peer = &agent->peers[slot];

	if (peer->dropping)
		return;
	peer->dropping = true;
	(void)snprintf(peer->reason, sizeof(peer->reason), "%s", reason);
	agent->n_dropping++;
}

static void sink_sum(void *self, uint32_t link, const struct kvfi_bound *bound)
{
	kvfi_sum_start(self, link, bound);
}

static void sink_store_aux(void *self, uint32_t aux_slot, const void *data, uint32_t len_bytes)
{
	const kvf_agent *agent = self;

	memcpy((void *)(uintptr_t)agent->layout->aux_bases[aux_slot], data, len_bytes);
}

/* ---- events ---- */

void kvfi_event_put(kvf_agent *agent, const struct event_item *item)
{
	struct event_ring *ring = &agent->events;
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

	/* The ring has room for every event that a table entry can have waiting. */
	KVFI_ASSERT(tail - atomic_load(&ring->head) < ring->max);
	ring->items[tail % ring->max] = *item;
	atomic_store(&ring->tail, tail + 1);
	agent->told = true;
	if (!agent->in_turn || item->event.type == KVF_EVENT_OUTCOME)
		kvfi_events_signal(agent);
}

/* At once for an OUTCOME, which somebody waits for; else once for all events of a round, when the copying and the messages are done that a
 * woken user would compete with. One that is awake has taken them by then. */
void kvfi_events_signal(kvf_agent *agent)
{
	struct event_ring *ring = &agent->events;
	uint64_t one = 1;

	if (!agent->told)
		return;
	agent->told = false;
	if (atomic_load(&ring->tail) != atomic_load(&ring->head) && !atomic_exchange(&ring->signalled, true))
		(void)!write(ring->event_fd, &one, sizeof(one));
}

static void sink_event(void *self, const struct kvfi_core_event *event)
{
	kvf_agent *agent = self;
	const struct front_session *front = &agent->sessions[event->session];
	struct event_item item = {.slot = event->session};

	item.event.type = event->type;
	item.event.status = event->status;
	item.event.session = kvfi_front_handle(agent, event->session);
	item.event.request_id = front->request_id;
	item.event.attempt = front->attempt;
	item.event.slice = event->slice;
	item.stats = *event->stats;
	memcpy(item.good_end, event->good_end, sizeof(item.good_end));
	(void)snprintf(item.error, sizeof(item.error), "%s", event->error);
	/* Before the event can be polled: the slot may be another session's right after. */
	if (event->type == KVF_EVENT_OUTCOME)
		kvfi_cancels_outcome(&agent->cancels, event->session);
	else if (event->type == KVF_EVENT_RELEASED)
		kvfi_cancels_released(&agent->cancels, event->session);
	kvfi_event_put(agent, &item);
	if (event->type == KVF_EVENT_RELEASED)
		(void)atomic_fetch_sub(&agent->unreleased, 1);
}

static void sink_state(void *self, uint32_t session, enum kvf_session_state state)
{
	kvf_agent *agent = self;

	uint64_t generation = atomic_load(&agent->states[session]) & ~(uint64_t)UINT32_MAX;

	atomic_store(&agent->states[session], generation | (uint32_t)state);
}

static uint64_t sink_stamp(void *self)
{
	(void)self;
	return kvfi_clock_ns();
}

static bool sink_advertise(void *self, uint32_t session)
{
	kvf_agent *agent = self;

	return kvfi_cancels_advertise(&agent->cancels, session);
}

void kvfi_sink_fill(kvf_agent *agent, struct kvfi_sink *sink_out)
{
	*sink_out = (struct kvfi_sink){.self = agent,
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
