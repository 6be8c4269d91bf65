/* peers.c - the slots of peers: calling, losing, forgetting, and their timers.
 *
 * A slot serves one connection (incarnation, link) and is never used for another before the core names it no more; what was lost is called
 * again in a new slot. A decode agent goes on calling what it was told to connect to, every second, for as long as it lives; a prefill agent only
 * answers. The number of PEER events that wait is bounded; a user who does not poll misses changes, but never the last one of a peer.
 */
#include "agent/agent.h"
#include "agent/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/status.h"

#define CALL_AGAIN_NS (UINT64_C(1) * KVFI_NS_PER_S)

uint32_t kvfi_peer_by_incarnation(const kvf_agent *agent, uint64_t incarnation, uint64_t link)
{
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		const struct agent_peer *peer = &agent->peers[i];

		if (peer->state != PEER_FREE && peer->incarnation == incarnation && peer->link == link)
			return i;
	}
	return KVFI_NONE;
}

uint32_t kvfi_peer_of_instance(const kvf_agent *agent, uint64_t instance_id)
{
	for (uint32_t i = 0; i < agent->options.max_peers; i++)
		if (agent->peers[i].state == PEER_UP && agent->peers[i].hello.instance->id == instance_id)
			return i;
	return KVFI_NONE;
}

bool kvfi_way_is_used(const kvf_agent *agent, uint32_t way)
{
	for (uint32_t i = 0; i < agent->options.max_peers; i++)
		if (agent->peers[i].state != PEER_FREE && agent->peers[i].way == way)
			return true;
	return kvfi_groups_use_way(agent, way);
}

uint32_t kvfi_peer_by_way(kvf_agent *agent, uint32_t way, uint64_t incarnation, uint64_t link)
{
	const struct agent_peer *peer = &agent->peers[agent->way_peers[way]];

	if (peer->state == PEER_FREE || peer->incarnation != incarnation || peer->link != link) {
		uint32_t slot = kvfi_peer_by_incarnation(agent, incarnation, link);

		if (slot == KVFI_NONE)
			return KVFI_NONE;
		agent->way_peers[way] = slot;
	}
	return agent->way_peers[way];
}

/* Not when another connection of the same peer uses it. */
static void forget_way(kvf_agent *agent, struct agent_peer *of)
{
	uint32_t way = of->way;

	of->way = KVFI_NO_WAY;
	if (way != KVFI_NO_WAY && !kvfi_way_is_used(agent, way))
		kvfi_control_of(agent)->forget(agent->control, way);
}

static void drop_hello(struct agent_peer *peer)
{
	kvf_instance_free(peer->hello.instance);
	kvf_layout_free(peer->hello.layout);
	peer->hello.instance = NULL;
	peer->hello.layout = NULL;
}

static void forget_untold(kvf_agent *agent, struct agent_peer *peer)
{
	if (peer->untold)
		(void)atomic_fetch_sub(&agent->untold, 1);
	peer->untold = false;
}

static void free_slot(kvf_agent *agent, struct agent_peer *peer)
{
	atomic_store(&agent->known[peer - agent->peers].id, 0);
	kvfi_path_free(peer);
	drop_hello(peer);
	forget_way(agent, peer);
	forget_untold(agent, peer);
	peer->state = PEER_FREE;
}

/* Is there no connection, and does nobody wait to hear of it? */
static bool is_gone(const struct agent_peer *peer)
{
	return peer->state == PEER_DOWN || peer->state == PEER_REFUSED ||
	       (peer->state == PEER_CALLING && peer->status != KVF_EAGAIN);
}

/* The next one that is free, or that is over and that the core names no more. */
static struct agent_peer *take_next(kvf_agent *agent, bool also_called)
{
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		uint32_t slot = (agent->next_peer + i) % agent->options.max_peers;
		struct agent_peer *peer = &agent->peers[slot];
		bool over = peer->state == PEER_DOWN && !peer->recall;

		over = (over || (also_called && is_gone(peer))) && kvfi_core_peer_free(agent->core, slot);
		if (peer->state != PEER_FREE && !over)
			continue;
		if (over)
			free_slot(agent, peer);
		agent->next_peer = slot + 1;
		return peer;
	}
	return NULL;
}

/* When the table is full, what does not answer any more is given up for what is asked for now: instances come and go. */
static struct agent_peer *find_slot(kvf_agent *agent)
{
	struct agent_peer *peer = take_next(agent, false);

	return peer != NULL ? peer : take_next(agent, true);
}

void kvfi_peer_draw_link(struct agent_peer *peer)
{
	if (!kvfi_random(&peer->link, sizeof(peer->link)) || peer->link == 0)
		peer->link = kvfi_clock_ns();
}

struct agent_peer *kvfi_peer_new(kvf_agent *agent, enum peer_state state, uint32_t *slot_out)
{
	struct agent_peer *peer = find_slot(agent);
	uint32_t generation;

	if (peer == NULL) {
		(void)kvfi_fail(KVF_EFULL, "max_peers: all %u are in use", agent->options.max_peers);
		return NULL;
	}
	generation = peer->generation + 1;
	memset(peer, 0, sizeof(*peer));
	peer->generation = generation;
	peer->state = state;
	peer->status = KVF_EAGAIN;
	peer->way = KVFI_NO_WAY;
	peer->wanted_rank = KVFI_NONE;
	peer->next_ns = peer->deadline_ns = KVFI_NEVER;
	kvfi_peer_draw_link(peer);
	*slot_out = (uint32_t)(peer - agent->peers);
	return peer;
}

/* So many may wait. One that finds no room is told when there is some, as it is then: changes in between are left out, the last one never. */
static void tell_user(kvf_agent *agent, uint32_t slot)
{
	struct agent_peer *peer = &agent->peers[slot];
	struct event_item item = {.slot = slot, .event = {.type = KVF_EVENT_PEER, .status = peer->status}};

	if (atomic_fetch_add(&agent->peer_events, 1) >= KVFI_PEER_EVENTS * agent->options.max_peers) {
		(void)atomic_fetch_sub(&agent->peer_events, 1);
		if (!peer->untold)
			(void)atomic_fetch_add(&agent->untold, 1);
		peer->untold = true;
		return;
	}
	forget_untold(agent, peer);
	item.event.peer.bits = (uint64_t)peer->generation << 32 | (slot + 1);
	kvfi_event_put(agent, &item);
}

void kvfi_peers_tell(kvf_agent *agent)
{
	if (atomic_load(&agent->peer_events) >= KVFI_PEER_EVENTS * agent->options.max_peers)
		return;
	for (uint32_t i = 0; i < agent->options.max_peers; i++)
		if (agent->peers[i].untold)
			tell_user(agent, i);
}

void kvfi_peer_status(kvf_agent *agent, uint32_t slot, enum kvf_status status, const char *reason)
{
	struct agent_peer *peer = &agent->peers[slot];

	agent->peers_changed = true;
	if (peer->status == status)
		return;
	peer->status = status;
	if (reason != peer->reason)
		(void)snprintf(
			peer->reason, sizeof(peer->reason), "%.*s", (int)sizeof(peer->reason) - 1, reason);
	tell_user(agent, slot);
}

static void tell_core_down(kvf_agent *agent, uint32_t slot, enum kvf_status status, const char *reason)
{
	struct agent_peer *peer = &agent->peers[slot];
	struct kvfi_input input = {.kind = KVFI_IN_PEER_DOWN, .peer = slot};

	input.u.peer_down.status = status;
	input.u.peer_down.reason = reason;
	input.u.peer_down.instance_id =
		peer->hello.instance != NULL ? peer->hello.instance->id : peer->wanted_instance;
	input.u.peer_down.rank = peer->hello.layout != NULL ? peer->hello.layout->rank : peer->wanted_rank;
	input.u.peer_down.again = peer->attempted && !peer->in_core;
	peer->in_core = false;
	kvfi_owner_step(agent, &input);
}

/* Not up, and asked again every second. */
void kvfi_peer_refused(kvf_agent *agent, uint32_t slot, enum kvf_status status, const char *reason)
{
	struct agent_peer *peer = &agent->peers[slot];
	bool news = peer->status != status;

	peer->state = PEER_REFUSED;
	peer->deadline_ns = KVFI_NEVER;
	peer->next_ns = kvfi_clock_ns() + CALL_AGAIN_NS;
	kvfi_peers_due(agent, peer->next_ns);
	kvfi_peer_status(agent, slot, status, reason);
	if (news)
		tell_core_down(agent, slot, status, peer->reason);
}

void kvfi_peer_lost(kvf_agent *agent, uint32_t slot, enum kvf_status status, const char *reason)
{
	struct agent_peer *peer = &agent->peers[slot];
	char kept[sizeof(peer->reason)];

	if (peer->state == PEER_DOWN || peer->state == PEER_FREE)
		return;
	(void)snprintf(kept, sizeof(kept), "%s", reason);
	agent->peer_losses += peer->state == PEER_UP;
	agent->peers_changed = true;
	peer->state = PEER_DOWN;
	peer->deadline_ns = KVFI_NEVER;
	for (uint32_t i = 0; i < agent->n_transports; i++)
		if ((peer->tried & (1u << i)) != 0)
			agent->transports[i].ops->disconnect(agent->transports[i].self, slot);
	kvfi_peer_status(agent, slot, status, kept);
	tell_core_down(agent, slot, status, kept);
	forget_way(agent, peer);
	peer->recall = peer->endpoint[0] != '\0';
	peer->next_ns = kvfi_clock_ns() + CALL_AGAIN_NS;
	kvfi_peers_due(agent, peer->next_ns);
}

/* Whatever comes under its link later is answered: barred (see hello.c). */
void kvfi_peers_drop(kvf_agent *agent)
{
	for (uint32_t i = 0; agent->n_dropping > 0 && i < agent->options.max_peers; i++) {
		struct agent_peer *peer = &agent->peers[i];

		if (!peer->dropping)
			continue;
		peer->dropping = false;
		agent->n_dropping--;
		peer->barred = true;
		kvfi_peer_lost(agent, i, KVF_PEER_LOST, peer->reason);
	}
}

/* ---- decode: calling ---- */

static bool known_endpoint(const kvf_agent *agent, const char *endpoint)
{
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		const struct agent_peer *peer = &agent->peers[i];

		if (peer->state != PEER_FREE && peer->state != PEER_DOWN &&
			strcmp(peer->endpoint, endpoint) == 0)
			return true;
	}
	return false;
}

void kvfi_peer_hurry(kvf_agent *agent, struct agent_peer *peer)
{
	if (agent->options.connect_timeout_ns > 0)
		peer->deadline_ns = kvfi_clock_ns() + agent->options.connect_timeout_ns;
	kvfi_peers_due(agent, peer->deadline_ns);
}

enum kvf_status kvfi_peer_call(kvf_agent *agent, const char *endpoint, uint64_t instance_id, uint32_t rank)
{
	struct agent_peer *peer;
	enum kvf_status status;
	uint32_t slot, way;

	if (known_endpoint(agent, endpoint))
		return KVF_OK;
	status = kvfi_control_of(agent)->connect(agent->control, endpoint, &way);
	if (status != KVF_OK)
		return status;
	peer = kvfi_peer_new(agent, PEER_CALLING, &slot);
	if (peer == NULL) {
		kvfi_control_of(agent)->forget(agent->control, way);
		return KVF_EFULL;
	}
	(void)snprintf(peer->endpoint, sizeof(peer->endpoint), "%s", endpoint);
	peer->way = way;
	peer->wanted_instance = instance_id;
	peer->wanted_rank = rank;
	kvfi_peer_hurry(agent, peer);
	kvfi_hello_send(agent, slot);
	return KVF_OK;
}

/* ---- timers ---- */

static void deadline_passed(kvf_agent *agent, uint32_t slot)
{
	struct agent_peer *peer = &agent->peers[slot];
	char why[320];

	peer->deadline_ns = KVFI_NEVER;
	if (peer->state == PEER_CALLING) {
		(void)snprintf(why, sizeof(why), "%s did not answer in time", peer->endpoint);
		kvfi_peer_status(agent, slot, KVF_UNREACHABLE, why);
		tell_core_down(agent, slot, KVF_UNREACHABLE, peer->reason);
	} else if (peer->state == PEER_CONNECTING) {
		peer->attempted = false; /* it had all the time there is */
		(void)snprintf(why, sizeof(why), "%s%sthe data path was not made in time", peer->reason,
			peer->reason[0] != '\0' ? "; " : "");
		kvfi_peer_lost(agent, slot, KVF_UNREACHABLE, why);
	}
}

static void note_was_up(kvf_agent *agent, const char *endpoint, bool was_up)
{
	for (uint32_t i = 0; was_up && i < agent->options.max_peers; i++) {
		struct agent_peer *peer = &agent->peers[i];

		if (peer->state != PEER_FREE && peer->state != PEER_DOWN &&
			strcmp(peer->endpoint, endpoint) == 0)
			peer->was_up = true;
	}
	agent->peers_changed = true;
}

/* In a new slot: this one waits for its proofs, or is the one that is taken. */
static void call_again(kvf_agent *agent, struct agent_peer *peer, uint64_t now_ns)
{
	char endpoint[KVFI_ENDPOINT_BYTES];
	bool was_up;
	uint64_t instance_id =
		peer->hello.instance != NULL ? peer->hello.instance->id : peer->wanted_instance;
	uint32_t rank = peer->hello.layout != NULL ? peer->hello.layout->rank : peer->wanted_rank;

	memcpy(endpoint, peer->endpoint, sizeof(endpoint));
	was_up = peer->was_up; /* its slot may be the one that is taken */
	peer->recall = false;
	if (kvfi_peer_call(agent, endpoint, instance_id, rank) == KVF_OK) {
		note_was_up(agent, endpoint, was_up);
		return;
	}
	peer->recall = true; /* no slot is free yet */
	peer->next_ns = now_ns + CALL_AGAIN_NS;
	kvfi_peers_due(agent, peer->next_ns);
}

/* Every turn asks for the time; only when one has come all peers are looked at. */
void kvfi_peers_due(kvf_agent *agent, uint64_t at_ns)
{
	if (at_ns < agent->peers_due_ns)
		agent->peers_due_ns = at_ns;
}

/* Each peer that is up has a time of its own to be asked at; they are looked at together, a little later. */
static uint64_t next_due_ns(const kvf_agent *agent, uint64_t now_ns)
{
	const uint64_t soonest_ns = now_ns + agent->options.ping_ns / 16;
	uint64_t up_ns = KVFI_NEVER, next_ns = KVFI_NEVER;

	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		const struct agent_peer *peer = &agent->peers[i];

		if (peer->recall)
			next_ns = peer->next_ns < next_ns ? peer->next_ns : next_ns;
		if (peer->state == PEER_FREE || peer->state == PEER_DOWN)
			continue;
		next_ns = peer->deadline_ns < next_ns ? peer->deadline_ns : next_ns;
		if (peer->state == PEER_UP && kvfi_liveness_next_ns(agent, peer) < up_ns)
			up_ns = kvfi_liveness_next_ns(agent, peer);
		if (peer->state == PEER_CALLING || peer->state == PEER_REFUSED)
			next_ns = peer->next_ns < next_ns ? peer->next_ns : next_ns;
	}
	if (up_ns < soonest_ns)
		up_ns = soonest_ns;
	return up_ns < next_ns ? up_ns : next_ns;
}

void kvfi_peers_tick(kvf_agent *agent, uint64_t now_ns)
{
	if (now_ns < agent->peers_due_ns)
		return;
	kvfi_liveness_slept(agent, agent->peers_due_ns, now_ns);
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		struct agent_peer *peer = &agent->peers[i];

		if (peer->recall && peer->next_ns <= now_ns)
			call_again(agent, peer, now_ns);
		if (peer->state == PEER_FREE || peer->state == PEER_DOWN)
			continue;
		if (peer->deadline_ns <= now_ns)
			deadline_passed(agent, i);
		if ((peer->state == PEER_CALLING || peer->state == PEER_REFUSED) && peer->next_ns <= now_ns)
			kvfi_hello_send(agent, i);
		if (peer->state == PEER_UP)
			kvfi_liveness_look(agent, i, now_ns);
	}
	agent->peers_due_ns = next_due_ns(agent, now_ns);
}

void kvfi_peers_fini(kvf_agent *agent)
{
	for (uint32_t i = 0; agent->peers != NULL && i < agent->options.max_peers; i++) {
		kvfi_path_free(&agent->peers[i]);
		drop_hello(&agent->peers[i]);
	}
}
