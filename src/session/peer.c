/* peer.c - peers come and go.
 *
 * A peer slot is the agent's. Up: its data path works, plans are made. Down: whatever the reason, every session with it fails at once; what
 * its old process may still write is another matter, which the proofs of each link answer. A refusal is remembered in the slot until the
 * agent brings the peer up again, so that the next request fails fast.
 */
#include "session/state.h"

#include <stdio.h>
#include "base/assert.h"

/* The slot that is up, if one is: what was lost has a slot of its own until nothing names it. */
struct peer *peer_find(struct kvfi_core *core, uint64_t instance_id, uint32_t rank)
{
	struct peer *found = NULL;

	for (uint32_t i = 0; i < core->config.max_peers; i++) {
		struct peer *peer = &core->peers[i];

		if (!peer->known || peer->instance_id != instance_id || peer->rank != rank)
			continue;
		if (peer->up)
			return peer;
		found = peer;
	}
	return found;
}

const struct peer *peer_of_instance(const struct kvfi_core *core, uint64_t instance_id)
{
	const struct peer *found = NULL;

	for (uint32_t i = 0; i < core->config.max_peers; i++) {
		const struct peer *peer = &core->peers[i];

		if (!peer->known || peer->instance_id != instance_id)
			continue;
		if (peer->up)
			return peer;
		found = peer;
	}
	return found;
}

/* A session that waits for this rank: for its map, or for its data path. */
static void session_peer_up(struct kvfi_core *core, struct session *session, uint32_t slot)
{
	const struct peer *peer = &core->peers[slot];

	if (!session->resolved) {
		rx_resolve(core, session);
		return;
	}
	kvfi_list_for_each (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);

		if (link->peer == KVFI_NONE && link->rank == peer->rank) {
			rx_peer_up(core, link, slot); /* may end the session, and this list with it */
			return;
		}
	}
}

void peer_up(struct kvfi_core *core, uint32_t slot, const struct kvfi_peer_up *info)
{
	struct peer *peer = &core->peers[slot];

	KVFI_ASSERT(slot < core->config.max_peers && !peer->up);
	peer->known = peer->up = true;
	peer->down_status = KVF_OK;
	peer->instance_id = info->instance->id;
	peer->rank = info->rank;
	peer->info = *info;
	peer->life = ++core->next_life;
	peer->floor = 0;
	peer->dropped = false;
	kvfi_list_for_each_safe (at, &core->live) {
		struct session *session = kvfi_container_of(at, struct session, node);

		if (session->kind == SESSION_RX && session->instance_id == peer->instance_id &&
			!session->outcome_told)
			session_peer_up(core, session, slot);
	}
}

/* A link of either kind whose peer is gone. */
static void link_lost(struct kvfi_core *core, struct link *link, const struct kvfi_in_peer_down *down)
{
	struct session *session = link_session(core, link);

	link->peer_gone = true;
	if (session != NULL && !session->outcome_told && session->kind == SESSION_RX &&
		rx_forgo_group(core, session, link->rank))
		return;
	if (session != NULL && !session->outcome_told)
		session_fail(core, session, down->status, "rank %u of instance %llu: %s", link->rank,
			(unsigned long long)core->peers[link->peer].instance_id, down->reason);
	if (link->kind == LINK_FREE)
		return; /* its session was released with the failure, and the link with it */
	ladder_lost(core, link);
	if (link->kind == LINK_TX) {
		tx_link_stop(core, link);
		if (link->posted == 0)
			tx_link_over(core, link);
		return;
	}
	link->cancelling = false;
	wake_never(core, &link->wake);
	if (link->proof != KVF_PROOF_NONE)
		rx_link_over(core, link);
}

/* Sessions that wait for this rank to be connected at all. */
static void fail_waiting(
	struct kvfi_core *core, const struct peer *peer, const struct kvfi_in_peer_down *down)
{
	kvfi_list_for_each_safe (at, &core->live) {
		struct session *session = kvfi_container_of(at, struct session, node);
		bool waits = session->kind == SESSION_RX && session->instance_id == peer->instance_id &&
		             !session->resolved && peer_of_instance(core, peer->instance_id) == peer;

		if (session->kind != SESSION_RX || session->instance_id != peer->instance_id ||
			session->outcome_told)
			continue;
		kvfi_list_for_each (inner, &session->links) {
			struct link *link = kvfi_container_of(inner, struct link, in_session);

			waits = waits || (link->peer == KVFI_NONE && link->rank == peer->rank);
		}
		if (waits && peer->rank != KVFI_NONE && rx_forgo_group(core, session, peer->rank))
			continue;
		if (waits && peer->rank == KVFI_NONE)
			session_fail(core, session, down->status, "instance %llu: %s",
				(unsigned long long)peer->instance_id, down->reason);
		else if (waits)
			session_fail(core, session, down->status, "rank %u of instance %llu: %s", peer->rank,
				(unsigned long long)peer->instance_id, down->reason);
	}
}

void peer_down(struct kvfi_core *core, uint32_t slot, const struct kvfi_in_peer_down *down)
{
	struct peer *peer = &core->peers[slot];

	KVFI_ASSERT(slot < core->config.max_peers);
	if (down->instance_id != 0) {
		peer->known = true;
		peer->instance_id = down->instance_id;
		peer->rank = down->rank;
	}
	peer->up = false;
	peer->down_status = down->status;
	(void)snprintf(peer->down_reason, sizeof(peer->down_reason), "%s", down->reason);
	kvfi_list_for_each_safe (at, &peer->links) {
		struct link *link = kvfi_container_of(at, struct link, in_peer);

		if (!link->peer_gone)
			link_lost(core, link, down);
	}
	if (peer->known && !down->again)
		fail_waiting(core, peer, down);
}
