/* store.h - what one-sided transports share: windows into a peer's memory, and storing a bound into them under its lease.
 *
 * A window is a range of addresses of this process behind which lies one region of the peer. A store is one worker's part of a post:
 * it walks a piece of the bound and copies it, at most KVFI_CHUNK_BYTES between lease enter and leave.
 */
#ifndef KVFI_TRANSPORT_STORE_H
#define KVFI_TRANSPORT_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "geometry/geometry.h"
#include "memory/lease.h"

struct kvfi_window {
	uint32_t region;     /* the peer's index */
	uint64_t start, end; /* equal: gone */
};

/* Entries below n do not change while a store may look at them. */
struct kvfi_windows {
	_Atomic uint32_t n;
	struct kvfi_window *table;
};

/* Replaces the bases of a peer's wire layout by addresses of this process. KVF_OUT_OF_RANGE, and nothing is changed, when a cell lies
 * outside what the peer shared. */
KVF_MUST_CHECK enum kvf_status kvfi_windows_map(
	const struct kvfi_windows *windows, struct kvf_layout *layout);

/* What all workers of one post have in common. */
struct kvfi_store_target {
	const struct kvfi_bound *bound;
	const struct kvfi_windows *windows;
	struct kvfi_lease *lease;
	uint32_t generation;
	uint32_t n_pieces; /* how many independent pieces the bound is cut into */
	bool sum;          /* walk in canonical order and sum what moves */
	bool bulk;         /* large enough to go past the cache */
};

struct kvfi_store {
	const struct kvfi_store_target *target;
	struct kvfi_walk walk;
	struct kvfi_strip strip; /* the next one to copy, if has_strip */
	bool has_strip;
	uint64_t left; /* bytes of the piece behind the strip; unknown (UINT64_MAX) in merged walks */
	struct kvfi_window window;  /* of the last strip; looked up again in every chunk */
	uint64_t bytes, runs, sum;  /* over all pieces of this store */
	uint64_t first_ns, last_ns; /* 0: nothing was stored */
};

enum kvfi_store_result {
	KVFI_STORE_MORE = 0,    /* a chunk was stored */
	KVFI_STORE_END = 1,     /* nothing is left of this piece */
	KVFI_STORE_REVOKED = 2, /* the lease forbids it; nothing was stored */
	KVFI_STORE_OUTSIDE = 3  /* the next strip lies in no window (any more); it was not stored */
};

/* Pieces and copy mode of a target whose other fields are set. */
void kvfi_store_target_cut(struct kvfi_store_target *target);
/* Begin piece 0 .. n_pieces-1; the counts go on. A new store is zeroed by its owner. */
void kvfi_store_begin(struct kvfi_store *store, const struct kvfi_store_target *target, uint32_t piece);
/* Store one chunk, fenced. */
enum kvfi_store_result kvfi_store_chunk(struct kvfi_store *store);
/* What a post ends with after its last chunk gave this, and the sentence for it ("" for KVF_OK). */
enum kvf_status kvfi_store_status(enum kvfi_store_result result);
const char *kvfi_store_reason(enum kvf_status status);

#endif
