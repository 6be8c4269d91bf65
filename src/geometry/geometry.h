/* geometry.h - what the rest of the library asks of geometry: binding a slice to a plan, and walking it.
 *
 * Pure. Plans are made at connect time (they allocate); everything declared here allocates nothing.
 * The addresses that a walk yields are those of the layouts that the plan was made from: the agent makes plans from
 * layouts whose bases are addresses in this process (own memory, or a peer's memory mapped here).
 */
#ifndef KVFI_GEOMETRY_GEOMETRY_H
#define KVFI_GEOMETRY_GEOMETRY_H

#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"

#define KVFI_PLAN_VERSION 1u              /* of pairing, owners, canonical order and digest */
#define KVFI_UNIT_BYTES   UINT64_C(65536) /* of a bound, in the order of a merged walk: shares for workers */
/* token ranges of one slice, over all groups: >1 per group only where ids are negative */
#define KVFI_MAX_RANGES 64u

/* In the wire form of a layout aux slots have no address of their own (aux data travel inside RESULTs): they lie one after the
 * other from here, where no region is. */
#define KVFI_AUX_NOWHERE (UINT64_C(0xffff) << 48)

/* Deep copies, one allocation each; free with kvf_instance_free / kvf_layout_free. NULL when out of memory. */
struct kvf_instance *kvfi_instance_copy(const struct kvf_instance *instance);
struct kvf_layout *kvfi_layout_copy(const struct kvf_layout *layout);
/* Field-by-field checks of an instance map that came from outside; KVF_EINVAL with the field in kvf_error(). */
KVF_MUST_CHECK enum kvf_status kvfi_instance_check(const struct kvf_instance *instance);
/* Hash of everything but the endpoints; equal maps, equal hash. */
uint64_t kvfi_instance_hash(const struct kvf_instance *instance);
/* Smallest and one past the largest address that the cells of group g, entry (layer index, part) touch. False if it has no cells. */
bool kvfi_layout_extent(const struct kvf_layout *layout, uint32_t group, uint32_t layer_index, uint32_t part,
	uint64_t *start_out, uint64_t *end_out);

/* Digest of a pair: both layouts as given (the agent gives them with region-relative bases) and KVFI_PLAN_VERSION. */
uint64_t kvfi_pair_digest(const struct kvf_instance *prefill, const struct kvf_layout *src,
	const struct kvf_instance *decode, const struct kvf_layout *dst, enum kvf_replica replica);

/* DP index of a rank of an instance. */
uint32_t kvfi_rank_dp(const struct kvf_instance *instance, uint32_t rank);

/* A slice as its sender names it. */
struct kvfi_shape {
	uint64_t prompt_len;
	uint64_t token_start, token_end;
	uint32_t layer_start, layer_end; /* 0,0 = all */
	/* first: starts at block 0 whatever token_start; last: rounds the end up */
	bool first, last;
};

struct kvfi_ids {
	const int32_t *ids;
	uint32_t n;
};

/* Tokens [token_first, token_end) of one group. State groups: [0, 1). Never empty. */
struct kvfi_range {
	uint32_t group;
	uint64_t token_first, token_end;
};

/* A range with the ids of the blocks that hold it; src_ids[0] is the block that holds token_first, likewise dst_ids.
 * Under CP tokens count those of the pair's own blocks (the jth block b with b mod cp == cp_rank holds tokens
 * [j*tpb, (j+1)*tpb)), and of src_ids every cp-th entry is used; state groups are not thinned, every CP rank gets the
 * slot. NULL where that side is not known (the receiver does not know src_ids; walk with KVFI_WALK_DST then). */
struct kvfi_bound_range {
	struct kvfi_range range;
	uint32_t layer_lo,
		layer_hi; /* indices into the group's layers of this plan, half-open, never empty */
	const int32_t *src_ids, *dst_ids;
	uint64_t bytes_per_token;
	uint64_t pos_first; /* canonical position of its first byte */
	uint64_t bytes;
};

/* One slice for one pair, ready to walk. Points into the plan and into the callers' id lists; copy freely while those live. */
struct kvfi_bound {
	const kvf_plan *plan;
	uint32_t layer_start, layer_end; /* global, half-open, explicit (never 0,0) */
	uint32_t n_ranges;
	uint64_t bytes;
	uint64_t units; /* of KVFI_UNIT_BYTES, the last one may be shorter; see kvfi_walk_init */
	/* tokens left out because the source has no page (negative id) where the destination has one */
	uint64_t dropped_tokens;
	struct kvfi_bound_range ranges[KVFI_MAX_RANGES];
};

/* kvfi_bind - sender's side: align, chunk-project and cut both sides' lists (mapping.md, "Block lists").
 * src[g]: list of the slice as given to kvf_tx_send; dst[g]: list of the whole prompt from the REQUEST; g = 0 .. n_groups-1 of the model.
 * Linear in the number of ids, allocates nothing.
 * Errors: KVF_BLOCK_LIST with group and values in kvf_error(): a list longer than its total, an id >= blocks of its side,
 * a destination that starts earlier than the source outside a windowed group. bytes 0 with KVF_OK is legal: nothing to move.
 * After an error *bound_out is scratch.
 */
KVF_MUST_CHECK enum kvf_status kvfi_bind(const kvf_plan *plan, const struct kvfi_shape *shape,
	const struct kvfi_ids *src, const struct kvfi_ids *dst, struct kvfi_bound *bound_out);

/* kvfi_bind_ranges - receiver's side: the ranges as the sender named them, the own lists for the whole prompt.
 * Errors: KVF_OUT_OF_RANGE when a range leaves what the lists ask for, is cut inside a block of both sides, or repeats another one.
 */
KVF_MUST_CHECK enum kvf_status kvfi_bind_ranges(const kvf_plan *plan, uint64_t prompt_len,
	uint32_t layer_start, uint32_t layer_end, const struct kvfi_range *ranges, uint32_t n_ranges,
	const struct kvfi_ids *dst, struct kvfi_bound *bound_out);

/* kvfi_expected_ranges - receiver's side: what must have arrived from this source when every slice is in, if the source has
 * everything, all layers. One or more ranges per group (several where own ids are negative), their bytes in bound_out->bytes.
 * A windowed group is asked for from its stale() on; there a source may still start later, which is no error (mapping.md).
 */
KVF_MUST_CHECK enum kvf_status kvfi_expected_ranges(
	const kvf_plan *plan, uint64_t prompt_len, const struct kvfi_ids *dst, struct kvfi_bound *bound_out);

/* kvfi_check_lists - own lists of a whole prompt (rx) or of a slice (tx) against the own layout, before anything is asked or sent.
 * KVF_EINVAL names group, index and value: id out of range, too many ids, group unknown, layers not held.
 */
KVF_MUST_CHECK enum kvf_status kvfi_check_lists(const struct kvf_layout *own, const struct kvfi_shape *shape,
	const struct kvfi_ids *lists, uint32_t cp, uint32_t cp_rank);

/* Bytes of that many blocks, in all layers that this rank holds of the group. */
uint64_t kvfi_blocks_bytes(const struct kvf_group *group, uint64_t n_blocks);

/* Canonical order: (group, range, destination block cut to its range, layer, part, head, token), by bytes. Both sides name the
 * same ranges, so both count the same positions.
 *
 * A strip: count runs of len bytes; run i at src + i*src_stride, dst + i*dst_stride, canonical position pos + i*pos_stride.
 * The side that is not walked is 0. In a merged walk (KVFI_WALK_MERGED) a run may be several rows that are not neighbours in
 * canonical order; pos then belongs to its first byte only. */
struct kvfi_strip {
	uint64_t src, dst, pos;
	uint64_t len;
	uint64_t count;
	int64_t src_stride, dst_stride, pos_stride;
};

enum kvfi_walk_mode {
	KVFI_WALK_MERGED = 0, /* both addresses, longest runs, any order: for direct copies */
	KVFI_WALK_BOTH = 1,   /* both addresses, canonical order */
	KVFI_WALK_SRC = 2,    /* source addresses only, canonical order, merged by the source alone */
	KVFI_WALK_DST = 3 /* destination addresses only, canonical order, merged by the destination alone */
};

/* The loops of one nest, slowest first: runs of `run` bytes. Strides are modulo 2^64. */
struct kvfi_walk_loop {
	uint64_t count, src, dst, pos;
};
struct kvfi_loops {
	uint64_t run;
	uint32_t n;
	struct kvfi_walk_loop loop[4];
};

/* State of a walk; plain memory, no clean-up. Fields are geometry's own. */
struct kvfi_walk {
	const struct kvfi_bound *bound;
	enum kvfi_walk_mode mode;
	bool loaded;    /* the fields below are those of pos */
	bool segmented; /* a canonical block over several source blocks: the token axis runs outside the loops */
	uint64_t pos, end; /* bytes, in the walk's own order */
	uint32_t range, nest;
	/* The piece: a destination block cut to its range, or (merged) what it shares with one source block. */
	uint64_t piece_first, piece_tokens;
	uint64_t block_first, block_tokens;
	uint64_t src_block, dst_block; /* ids, of the piece's first token */
	struct kvfi_loops loops;
	uint64_t index[4];
	uint64_t token, strip_tokens; /* segmented: the current strip, from piece_first on */
	/* Of the current point of the outer loops. */
	uint64_t point_src, point_dst, point_at;
	/* The rest of the current strip. */
	uint64_t src, dst, at;
	uint64_t step_src, step_dst, step_at;
	uint64_t run, left, skip;
};

/* kvfi_walk_init - walk the units [unit_begin, unit_end) of a bound. Units cut a slice into independent shares for several workers:
 * unit u is bytes [u, u+1) * KVFI_UNIT_BYTES in the order of the merged walk, so a share may begin and end inside a run.
 * Canonical walks take 0, bound->units. */
void kvfi_walk_init(struct kvfi_walk *walk, const struct kvfi_bound *bound, enum kvfi_walk_mode mode,
	uint64_t unit_begin, uint64_t unit_end);
/* Continue a canonical walk at a byte position in [0, bytes]. */
void kvfi_walk_seek(struct kvfi_walk *walk, uint64_t pos);
/* kvfi_walk_next - the next strip, of at most max_bytes in all (runs longer than that are cut); false at the end.
 * Under 5 ns a run for plain loops. max_bytes >= 1. */
bool kvfi_walk_next(struct kvfi_walk *walk, uint64_t max_bytes, struct kvfi_strip *strip_out);

#endif
