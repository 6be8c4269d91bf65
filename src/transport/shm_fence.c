/* shm_fence.c - the receiver's half of a fence: taking from one writer the power to store, though it does not answer.
 *
 * The writer's userfaultfd (shm_sink.c) acts on the writer's address space: protecting the addresses that MAPPED told of makes the kernel hold
 * every store through them, also one to a page that was never touched. Other writers of the same regions have mappings of their own and go on.
 * A fence is a proof when every region that this connection has shared was protected, or is known to be mapped no more.
 *
 * Guarantees: a fenced connection is over first (KVFI_DONE_BROKEN), and no address of it is touched after its writer said SHUT (lease.h). The
 * descriptor of a fenced link stays open, over disconnect() and close(), until the writer has said SHUT or its process has ended: closing the
 * last one lifts the protection, and the store that it held lands.
 *
 * Protecting takes about 65 ms per GiB in pages of 4 KiB, so a copy worker does it; the rest is the owner's.
 */
#include "transport/shm.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/status.h"

#define TRIES 100 /* while the writer's address space is changing */

static struct shm_link *link_of(struct kvfi_job *job)
{
	return (struct shm_link *)(void *)((char *)job - offsetof(struct shm_link, fence_job));
}

enum kvf_status kvfi_shm_placed(struct shm_link *link, const struct shm_mapped *mapped)
{
	if (mapped->index >= link->transport->max_regions || mapped->len_bytes == 0)
		return kvfi_fail(KVF_PROTOCOL, "shm: region %u of %llu bytes, which we do not share",
			mapped->index, (unsigned long long)mapped->len_bytes);
	if (link->announce[mapped->index] == SHM_TOLD && link->told[mapped->index] == mapped->generation)
		link->places[mapped->index] = (struct shm_place){mapped->address, mapped->len_bytes};
	return KVF_OK;
}

/* ---- protecting, on a copy worker */

/* ENOENT: not mapped there (any more); its sink is. ESRCH: the process is gone. Nothing can be stored through either. */
static bool protect(int fence_fd, const struct shm_place *place)
{
	struct uffdio_writeprotect range = {.range = {.start = place->address, .len = place->len_bytes},
		.mode = UFFDIO_WRITEPROTECT_MODE_WP};

	for (int i = 0; i < TRIES; i++) {
		if (ioctl(fence_fd, UFFDIO_WRITEPROTECT, &range) == 0 || errno == ENOENT || errno == ESRCH)
			return true;
		if (errno != EAGAIN)
			return false;
		(void)sched_yield();
	}
	return false;
}

static void run_fence(struct kvfi_job *job)
{
	struct shm_link *link = link_of(job);
	struct shm_transport *self = link->transport;
	bool all = true;

	for (uint32_t i = 0; i < self->max_regions; i++) {
		if (link->announce[i] == SHM_TOLD && !protect(link->fence_fd, &link->places[i]))
			all = false;
	}
	(void)kvfi_gate_say(link->leases.gate, KVFI_GATE_FENCED);
	atomic_store(&link->fence, all ? SHM_FENCE_DONE : SHM_FENCE_FAILED);
	kvfi_shm_link_put(link);
	kvfi_shm_wake(self);
	kvfi_shm_work_ended(self);
}

/* ---- deciding, owner thread */

static enum kvf_status may_fence(const struct shm_link *link)
{
	if (link->fence_fd < 0)
		return kvfi_fail(KVF_EUNSUPPORTED, "shm: the writer has no userfaultfd for its mappings");
	if (atomic_load(&link->fence) == SHM_FENCE_FAILED)
		return kvfi_fail(KVF_EUNSUPPORTED, "shm: the writer's mappings cannot be protected");
	for (uint32_t i = 0; i < link->transport->max_regions; i++) {
		if (link->announce[i] == SHM_TOLD && link->places[i].len_bytes == 0)
			return kvfi_fail(
				KVF_EUNSUPPORTED, "shm: the writer has not said where region %u is", i);
	}
	return KVF_OK;
}

static enum kvf_status fence_link(struct shm_link *link)
{
	struct shm_transport *self = link->transport;
	enum kvf_status status;

	if (kvfi_shm_is_fenced(link) || atomic_load(&link->fence) == SHM_FENCE_RUNS)
		return KVF_OK;
	status = may_fence(link);
	if (status != KVF_OK)
		return status;
	kvfi_shm_link_broken(link, KVF_PEER_LOST, "fenced: the peer does not leave its lease");
	atomic_store(&link->fence, SHM_FENCE_RUNS);
	link->next_fenced = self->fenced;
	self->fenced = kvfi_shm_link_get(link);
	kvfi_shm_arm_timer(self);
	if ((kvfi_gate_say(link->leases.gate, KVFI_GATE_FENCING) & KVFI_GATE_SHUT) != 0) {
		atomic_store(&link->fence, SHM_FENCE_DONE);
		return KVF_OK;
	}
	link->fence_job = (struct kvfi_job){.run = run_fence};
	kvfi_shm_work_began(self);
	(void)kvfi_shm_link_get(link);
	self->env.submit(self->env.self, &link->fence_job);
	return KVF_OK;
}

/* Each connection of that peer, the current one or an earlier one, whose writer may be inside a revoked grant. */
enum kvf_status kvfi_shm_fence(struct kvfi_transport *transport, uint32_t peer)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	enum kvf_status status = KVF_OK;

	KVFI_ASSERT(peer < self->env.max_peers);
	for (uint32_t i = 0; i < self->env.max_grants; i++) {
		const struct shm_grant *grant = &self->grants[i];
		enum kvf_status one = KVF_OK;

		if (grant->link != NULL && grant->link->peer == peer && grant->revoked &&
			kvfi_shm_proof(transport, i) == KVF_PROOF_NONE)
			one = fence_link(grant->link);
		if (status == KVF_OK)
			status = one;
	}
	return status;
}

bool kvfi_shm_is_fenced(const struct shm_link *link)
{
	return atomic_load(&link->fence) == SHM_FENCE_DONE;
}

/* May its descriptor be closed? */
static bool is_over(struct shm_link *link)
{
	bool gone = kvfi_gate_said(link->leases.gate, KVFI_GATE_SHUT) || kvfi_shm_has_exited(link);

	return gone && atomic_load(&link->fence) != SHM_FENCE_RUNS;
}

void kvfi_shm_fence_sweep(struct shm_transport *self, bool last)
{
	struct shm_link **at = &self->fenced;

	while (*at != NULL) {
		struct shm_link *link = *at;
		bool over = is_over(link);

		if (!over && !last) {
			at = &link->next_fenced;
			continue;
		}
		*at = link->next_fenced;
		if (!over)
			link->fence_fd = -1; /* left open on purpose, until this process ends */
		kvfi_shm_link_put(link);
	}
}
