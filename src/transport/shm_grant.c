/* shm_grant.c - grants: a lease word each, and three ways to know that a revoked one is quiet.
 *
 * The writer's workers have left (lease), its process has ended (process-exit), or its mappings were taken from it (fenced). A grant holds its
 * link, and with it the words, the pidfd and the fence that a proof needs, whatever becomes of the connection. Owner thread.
 */
#include "transport/shm.h"

#include "base/assert.h"
#include "base/status.h"

enum kvf_status kvfi_shm_grant(struct kvfi_transport *transport, const struct kvfi_rx_grant *rx,
	uint32_t *lease_slot_out, uint32_t *lease_generation_out)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	struct shm_link *link;
	enum kvf_status status;

	KVFI_ASSERT(rx->id < self->env.max_grants && rx->peer < self->env.max_peers);
	if (self->grants[rx->id].link != NULL)
		return kvfi_fail(KVF_EBUSY, "shm: grant %u is not released", rx->id);
	link = self->peers[rx->peer];
	if (link == NULL || link->sender || link->state != SHM_UP)
		return kvfi_fail(KVF_PEER_LOST, "shm: the peer is not connected");
	status = kvfi_lease_table_take(&link->leases, lease_slot_out, lease_generation_out);
	if (status != KVF_OK)
		return status;
	self->grants[rx->id] = (struct shm_grant){.link = kvfi_shm_link_get(link), .slot = *lease_slot_out};
	return KVF_OK;
}

static struct kvfi_lease *lease_of(struct kvfi_transport *transport, uint32_t grant_id)
{
	struct shm_transport *self = kvfi_shm_self(transport);

	KVFI_ASSERT(grant_id < self->env.max_grants && self->grants[grant_id].link != NULL);
	return &self->grants[grant_id].link->leases.words[self->grants[grant_id].slot];
}

void kvfi_shm_revoke(struct kvfi_transport *transport, uint32_t grant_id)
{
	kvfi_lease_revoke(lease_of(transport, grant_id));
	kvfi_shm_self(transport)->grants[grant_id].revoked = true;
}

enum kvf_proof kvfi_shm_proof(struct kvfi_transport *transport, uint32_t grant_id)
{
	const struct kvfi_lease *lease = lease_of(transport, grant_id);
	const struct shm_grant *grant = &kvfi_shm_self(transport)->grants[grant_id];

	if (!grant->revoked)
		return KVF_PROOF_NONE;
	if (grant->link->exited)
		return KVF_PROOF_PROCESS_EXIT; /* what it left in the word says nothing any more */
	if (kvfi_lease_quiet(lease))
		return KVF_PROOF_LEASE;
	if (kvfi_shm_has_exited(grant->link))
		return KVF_PROOF_PROCESS_EXIT;
	return kvfi_shm_is_fenced(grant->link) ? KVF_PROOF_FENCED : KVF_PROOF_NONE;
}

uint64_t kvfi_shm_grant_moved(struct kvfi_transport *transport, uint32_t grant_id)
{
	return kvfi_lease_chunks(lease_of(transport, grant_id));
}

void kvfi_shm_release(struct kvfi_transport *transport, uint32_t grant_id)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	struct shm_grant *grant;

	KVFI_ASSERT(grant_id < self->env.max_grants);
	grant = &self->grants[grant_id];
	if (grant->link == NULL)
		return;
	kvfi_lease_table_put(&grant->link->leases, grant->slot);
	kvfi_shm_link_put(grant->link);
	grant->link = NULL;
}
