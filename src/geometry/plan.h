/* plan.h - the inside of a plan; for the files of src/geometry alone.
 *
 * A plan keeps, per group, one list of nests in canonical order. A nest is a dense box of the cut (layers x
 * parts x heads, all tokens) whose origin moves by constant strides on both sides. From a nest, a walk mode
 * and a number of tokens kvfi_nest_loops makes the loops that are really run; merging happens there, because
 * it depends on the tokens.
 */
#ifndef KVFI_GEOMETRY_PLAN_H
#define KVFI_GEOMETRY_PLAN_H

#include <stdint.h>
#include "geometry/cut.h"
#include "geometry/geometry.h"

enum kvfi_axis {
	KVFI_LAYERS = 0,
	KVFI_PARTS = 1,
	KVFI_HEADS = 2,
	KVFI_TOKENS = 3,
	KVFI_N_AXES = 4
};

struct kvfi_step {
	uint64_t src, dst; /* bytes, modulo 2^64: pools may lie in any order */
};

struct kvfi_nest {
	uint32_t layer_first, n_layers; /* indices into the group's layers; a nest of several layers holds all
					   their boxes */
	uint32_t part_first, n_parts;
	uint32_t head_start, n_heads;
	uint64_t row_bytes;
	uint64_t before;         /* bytes per token of the nests before it in the group */
	uint64_t layer_bytes;    /* bytes per token of one of its layers: n_parts * n_heads * row_bytes */
	struct kvfi_step origin; /* address of its first row in block 0 */
	struct kvfi_step block;  /* block strides */
	struct kvfi_step step[KVFI_N_AXES];
};

struct kvfi_plan_group {
	enum kvf_group_kind kind;
	uint32_t window_tokens;
	uint32_t src_tokens, dst_tokens; /* per block */
	uint32_t src_blocks, dst_blocks; /* valid ids are below */
	uint32_t cp,
		cp_rank; /* the source list is thinned to blocks b with b mod cp == cp_rank; state: 1, 0 */
	uint32_t n_layers;
	uint32_t *layers;       /* global ids, ascending */
	uint64_t *layer_before; /* n_layers + 1: bytes per token of the layers before */
	uint32_t n_nests, max_nests;
	struct kvfi_nest *nests;
};

struct kvf_plan {
	uint64_t digest;
	uint32_t n_groups;
	struct kvfi_plan_group groups[KVF_MAX_GROUPS];
	uint32_t n_public, max_public;
	struct kvf_nest *public_nests;
};

/* Bytes per token of the layers [lo, hi) of a group. */
static inline uint64_t kvfi_layer_bytes(const struct kvfi_plan_group *group, uint32_t lo, uint32_t hi)
{
	return group->layer_before[hi] - group->layer_before[lo];
}

/* Indices of the group's layers inside the global layers [start, end). */
void kvfi_plan_clip_layers(const struct kvfi_plan_group *group, uint32_t start, uint32_t end,
	uint32_t *lo_out, uint32_t *hi_out);

/* Builds layers and nests of a group from its cut. KVF_ENOMEM, or KVF_EINVAL when it is absurdly large. */
KVF_MUST_CHECK enum kvf_status kvfi_nests_build(const struct kvfi_cut *cut, const struct kvf_group *src,
	const struct kvf_group *dst, struct kvfi_plan_group *group);
/* The nests of the first destination block, merged, as the public header describes them. */
KVF_MUST_CHECK enum kvf_status kvfi_public_nests_build(struct kvf_plan *plan);

/* Which part of a nest to loop over, and how. */
struct kvfi_loops_ask {
	enum kvfi_walk_mode mode;
	uint32_t n_layers;     /* of the nest, after clipping */
	uint64_t tokens;       /* of the piece; 0: leave the token axis out (the walk runs it itself) */
	uint64_t block_tokens; /* of the destination block, cut to the range: canonical positions count these
				*/
};

void kvfi_nest_loops(
	const struct kvfi_nest *nest, const struct kvfi_loops_ask *ask, struct kvfi_loops *loops_out);

#endif
