/* lease.h - the lease word: a receiver's permission to write, and its proof of quiet.
 *
 * One 64-bit word per (receive session, writing agent), in a small table per peer: in a memfd that the writer maps (shm), or in
 * private memory where the receiving agent applies the bytes itself (loop, tcp). This file alone touches a word.
 *
 *   bits 63..48 chunks done | 47..16 generation | 15 revoked | 14..0 workers inside
 *
 * Chunks done is topmost so that its wrap carries nowhere. Every operation is sequentially consistent. A writer copies at most
 * KVFI_CHUNK_BYTES between enter and leave. Revoked and nobody inside, seen once after revoke: no write of this generation is
 * in flight and none will follow, because enter demands not revoked.
 */
#ifndef KVFI_MEMORY_LEASE_H
#define KVFI_MEMORY_LEASE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define KVFI_CHUNK_BYTES (UINT64_C(256) * 1024)

struct kvfi_lease {
	_Atomic uint64_t word;
};

#define KVFI_LEASE_REVOKED (UINT64_C(1) << 15)
#define KVFI_LEASE_INSIDE  (KVFI_LEASE_REVOKED - 1)
#define KVFI_LEASE_CHUNK   (UINT64_C(1) << 48)

static inline uint32_t kvfi_lease_generation_of(uint64_t word)
{
	return (uint32_t)(word >> 16);
}

/* Receiver: open the word for a new generation. False while a worker of the last one is counted inside: choose another slot. */
static inline bool kvfi_lease_grant(struct kvfi_lease *lease, uint32_t generation)
{
	uint64_t old = atomic_load(&lease->word);

	if ((old & KVFI_LEASE_INSIDE) != 0)
		return false;
	return atomic_compare_exchange_strong(&lease->word, &old, (uint64_t)generation << 16);
}

/* Writer: may this generation write one more chunk?  True must be paired with leave. */
static inline bool kvfi_lease_enter(struct kvfi_lease *lease, uint32_t generation)
{
	uint64_t old = atomic_load(&lease->word);

	do {
		if (kvfi_lease_generation_of(old) != generation || (old & KVFI_LEASE_REVOKED) != 0)
			return false;
		if ((old & KVFI_LEASE_INSIDE) == KVFI_LEASE_INSIDE)
			return false;
	} while (!atomic_compare_exchange_weak(&lease->word, &old, old + 1));
	return true;
}

/* Writer: the chunk is done and its stores are ordered before this. Changes nothing if the generation is another one. */
static inline void kvfi_lease_leave(struct kvfi_lease *lease, uint32_t generation)
{
	uint64_t old = atomic_load(&lease->word);

	do {
		if (kvfi_lease_generation_of(old) != generation || (old & KVFI_LEASE_INSIDE) == 0)
			return;
	} while (!atomic_compare_exchange_weak(&lease->word, &old, old - 1 + KVFI_LEASE_CHUNK));
}

/* Receiver: no enter succeeds from here on. */
static inline void kvfi_lease_revoke(struct kvfi_lease *lease)
{
	atomic_fetch_or(&lease->word, KVFI_LEASE_REVOKED);
}

/* Receiver: revoked, and no worker inside. */
static inline bool kvfi_lease_quiet(const struct kvfi_lease *lease)
{
	uint64_t word = atomic_load(&lease->word);

	return (word & KVFI_LEASE_REVOKED) != 0 && (word & KVFI_LEASE_INSIDE) == 0;
}

/* Is it revoked?  For writers that wait inside long loops. */
static inline bool kvfi_lease_revoked(const struct kvfi_lease *lease, uint32_t generation)
{
	uint64_t word = atomic_load(&lease->word);

	return kvfi_lease_generation_of(word) != generation || (word & KVFI_LEASE_REVOKED) != 0;
}

/* The gate of a connection: one more word that a receiver and a writer share (shm), about the writer's mappings of the receiver's memory.
 * The receiver says FENCING before it takes them away by their addresses, FENCED when it has done so; the writer says SHUT when no store
 * through them is in flight and none will follow. Bits are only ever added, so whoever comes second sees it: a receiver that finds SHUT
 * leaves the addresses alone, a writer that finds FENCING without FENCED does not give them back. */
struct kvfi_gate {
	_Atomic uint64_t word;
};

#define KVFI_GATE_FENCING UINT64_C(1)
#define KVFI_GATE_FENCED  UINT64_C(2)
#define KVFI_GATE_SHUT    UINT64_C(4)

/* What was said before. */
static inline uint64_t kvfi_gate_say(struct kvfi_gate *gate, uint64_t bit)
{
	return atomic_fetch_or(&gate->word, bit);
}

static inline bool kvfi_gate_said(const struct kvfi_gate *gate, uint64_t bit)
{
	return (atomic_load(&gate->word) & bit) != 0;
}

/* Chunks done in this generation, modulo 2^16: progress, seen from the receiver. */
static inline uint16_t kvfi_lease_chunks(const struct kvfi_lease *lease)
{
	return (uint16_t)(atomic_load(&lease->word) >> 48);
}

#endif
