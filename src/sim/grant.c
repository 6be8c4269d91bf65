/* grant.c - permissions to write into a node, their proofs, and the fence. Receiver's side of the simulated transports.
 *
 * proof() names what the personality can know: its own reads (applied), the lease word, a fence that is up, the end of the process (leased), nothing
 * (card). A fence takes its time, in which the writer may still store; the connection is over at once.
 */
#include "sim/transport.h"

#include "base/assert.h"
#include "base/status.h"

static void tell_oracle(const struct sim_transport *self, const struct kvfi_rx_grant *rx)
{
	uint32_t request = sim_request_find(self->node->world, rx->request_id, rx->attempt);

	KVFI_ASSERT(request != SIM_NONE);
	self->node->sessions[request].epoch = rx->epoch;
}

enum kvf_status sim_grant_open(struct kvfi_transport *transport, const struct kvfi_rx_grant *rx,
	uint32_t *lease_slot_out, uint32_t *lease_generation_out)
{
	struct sim_transport *self = sim_transport_of(transport);
	struct sim_grant *grant = &self->grants[rx->id];
	struct sim_link *link = self->peers[rx->peer].link;
	enum kvf_status status;
	uint32_t generation = grant->generation;

	KVFI_ASSERT(!grant->used);
	sim_turn_is_here(self->node);
	if (link == NULL || self->peers[rx->peer].side != SIM_RECEIVER)
		return kvfi_fail(KVF_PEER_LOST, "the peer is not connected");
	*lease_slot_out = rx->id;
	*lease_generation_out = generation + 1;
	if (self->personality == SIM_LEASED) {
		status = kvfi_lease_table_take(&link->leases, lease_slot_out, lease_generation_out);
		if (status != KVF_OK)
			return status;
	}
	*grant = (struct sim_grant){.used = true,
		.link = link,
		.rx = *rx,
		.slot = *lease_slot_out,
		.generation = *lease_generation_out};
	tell_oracle(self, rx);
	return KVF_OK;
}

void sim_grant_revoke(struct kvfi_transport *transport, uint32_t grant_id)
{
	struct sim_transport *self = sim_transport_of(transport);
	struct sim_grant *grant = &self->grants[grant_id];

	KVFI_ASSERT(grant->used);
	grant->revoked = true;
	if (self->personality == SIM_LEASED)
		kvfi_lease_revoke(&grant->link->leases.words[grant->slot]);
	else if (self->personality == SIM_APPLIED)
		sim_stream_revoked(grant->link, grant_id);
}

/* The process that writes has ended, and this kernel says so. */
static bool writer_has_left(const struct sim_link *link)
{
	const struct sim_end *end = &link->ends[SIM_SENDER];
	const struct sim_node *node = &link->world->nodes[end->node];

	return link->world->has_exit && (!node->alive || node->life != end->life);
}

static enum kvf_proof proof_of(const struct sim_transport *self, const struct sim_grant *grant)
{
	const struct sim_link *link = grant->link;

	if (!grant->revoked)
		return KVF_PROOF_NONE;
	if (self->personality == SIM_APPLIED)
		return grant->storing ? KVF_PROOF_NONE : KVF_PROOF_LOCAL_EPOCH;
	if (self->personality == SIM_CARD)
		return KVF_PROOF_NONE;
	if (kvfi_lease_quiet(&link->leases.words[grant->slot]))
		return KVF_PROOF_LEASE;
	if (link->fenced)
		return KVF_PROOF_FENCED;
	return writer_has_left(link) ? KVF_PROOF_PROCESS_EXIT : KVF_PROOF_NONE;
}

enum kvf_proof sim_grant_proof(struct kvfi_transport *transport, uint32_t grant_id)
{
	const struct sim_transport *self = sim_transport_of(transport);

	KVFI_ASSERT(self->grants[grant_id].used);
	return proof_of(self, &self->grants[grant_id]);
}

void sim_grant_release(struct kvfi_transport *transport, uint32_t grant_id)
{
	struct sim_transport *self = sim_transport_of(transport);
	struct sim_grant *grant = &self->grants[grant_id];

	if (!grant->used)
		return;
	if (self->personality == SIM_LEASED)
		kvfi_lease_table_put(&grant->link->leases, grant->slot);
	else if (self->personality == SIM_APPLIED)
		sim_stream_revoked(grant->link, grant_id);
	grant->used = false;
}

/* From here on what the writer stores goes into a sink. */
static void fence_is_up(struct sim_world *world, struct sim_event *event)
{
	struct sim_link *link = event->payload;

	link->fenced = true;
	sim_trace(world, event->node, "has fenced %s", world->nodes[link->ends[SIM_SENDER].node].name);
}

static void fence_link(struct sim_transport *self, struct sim_link *link)
{
	struct sim_world *world = self->node->world;
	struct sim_event *event;

	if (link->fencing)
		return;
	link->fencing = true;
	sim_link_break(link, KVF_PEER_LOST, "fenced: the peer does not leave its lease");
	event = sim_at(world, world->now_ns + 1000 + sim_below(&world->store, 300000), fence_is_up);
	event->payload = link;
	event->node = self->node->index;
	event->life = self->node->life;
	event->on_cpu = true;
}

enum kvf_status sim_fence(struct kvfi_transport *transport, uint32_t peer)
{
	struct sim_transport *self = sim_transport_of(transport);
	enum kvf_status status = KVF_OK;

	if (self->personality == SIM_APPLIED)
		return KVF_OK;
	for (uint32_t i = 0; i < self->env.max_grants; i++) {
		const struct sim_grant *grant = &self->grants[i];

		if (!grant->used || grant->rx.peer != peer || !grant->revoked ||
			proof_of(self, grant) != KVF_PROOF_NONE)
			continue;
		if (self->personality == SIM_LEASED && self->node->world->has_fence)
			fence_link(self, grant->link);
		else
			status = kvfi_fail(KVF_EUNSUPPORTED, "no fence here");
	}
	return status;
}

uint64_t sim_grant_moved(struct kvfi_transport *transport, uint32_t grant_id)
{
	return sim_transport_of(transport)->grants[grant_id].moved;
}

bool sim_never_provable(struct sim_node *node, uint32_t request)
{
	const struct sim_request *who = &node->world->requests[request];

	for (int kind = SIM_LEASED; kind <= SIM_CARD; kind++) {
		struct sim_transport *self = node->transports[kind];

		for (uint32_t i = 0; i < self->env.max_grants; i++) {
			const struct sim_grant *grant = &self->grants[i];
			const struct sim_end *end;

			if (!grant->used || grant->rx.request_id != who->id ||
				grant->rx.attempt != who->attempt)
				continue;
			end = &grant->link->ends[SIM_SENDER];
			if (kind == SIM_CARD && (grant->link->broken || end->transport == NULL ||
							grant->link->ends[SIM_RECEIVER].transport == NULL))
				return true; /* no QUIET can come over it any more */
			if (kind == SIM_LEASED && end->transport == NULL &&
				proof_of(self, grant) == KVF_PROOF_NONE)
				return true; /* died inside a lease, and the kernel helps with nothing */
		}
	}
	return false;
}
