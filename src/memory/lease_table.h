/* lease_table.h - the lease words that one receiving agent shows to one writing agent.
 *
 * Shared: the words lie in a memfd, sealed against shrinking and growing, that the writer maps (shm). Private: in this process's
 * memory (loop, where both ends are in it). Behind the n words lies the connection's gate. A slot serves one generation at a time; generations of a slot ascend and are never
 * reused; a slot that was given back while a worker is counted inside is skipped until that worker has left.
 * The words can be changed by the writer at any time: nothing here trusts them further than the writer could harm itself.
 * Owner thread only, but for the operations of lease.h on the words.
 */
#ifndef KVFI_MEMORY_LEASE_TABLE_H
#define KVFI_MEMORY_LEASE_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"
#include "memory/lease.h"

struct kvfi_lease_slot {
	uint32_t generation; /* last one granted; 0: none yet */
	uint32_t next;       /* in the queue of free slots */
	bool taken;
};

struct kvfi_lease_table {
	struct kvfi_lease *words;
	struct kvfi_gate *gate; /* behind the words */
	struct kvfi_lease_slot *slots;
	uint32_t n;
	uint32_t free_first, free_last; /* queue, so that a slot rests as long as possible */
	int fd;                         /* of the memfd; -1: private */
	uint64_t mapped_bytes;
};

static inline uint64_t kvfi_lease_table_bytes(uint32_t n)
{
	return n * sizeof(struct kvfi_lease) + sizeof(struct kvfi_gate);
}

static inline struct kvfi_gate *kvfi_lease_table_gate(struct kvfi_lease *words, uint32_t n)
{
	return (struct kvfi_gate *)(void *)(words + n);
}

KVF_MUST_CHECK enum kvf_status kvfi_lease_table_init(struct kvfi_lease_table *table, uint32_t n, bool shared);
void kvfi_lease_table_fini(struct kvfi_lease_table *table);
/* A slot opened for a new generation. KVF_EFULL when none is free and empty. */
KVF_MUST_CHECK enum kvf_status kvfi_lease_table_take(
	struct kvfi_lease_table *table, uint32_t *slot_out, uint32_t *generation_out);
/* Revokes the slot and gives it back; it is granted again only when nobody is counted inside. */
void kvfi_lease_table_put(struct kvfi_lease_table *table, uint32_t slot);

#endif
