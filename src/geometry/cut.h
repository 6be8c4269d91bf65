/* cut.h - what one source rank owns for one destination rank: a sorted list of boxes (layer, part, head
 * interval). */
#ifndef KVFI_GEOMETRY_CUT_H
#define KVFI_GEOMETRY_CUT_H

#include <stdbool.h>
#include <stdint.h>
#include "geometry/pairing.h"
#include "kvferry/kvferry.h"

struct kvfi_box {
	uint32_t part;
	uint32_t head_start, head_end; /* global, half-open, never empty */
};

struct kvfi_cut_layer {
	uint32_t layer;                /* global id */
	uint32_t src_index, dst_index; /* among the layers that each rank holds */
	uint32_t box_first,
		n_boxes; /* in (part, head) order; consecutive layers that own the same share them */
};

/* One group. Layers ascend and each owns at least one box. */
struct kvfi_cut {
	uint32_t n_layers, max_layers;
	struct kvfi_cut_layer *layers;
	uint32_t n_boxes, max_boxes;
	struct kvfi_box *boxes;
};

struct kvfi_pair_ask {
	struct kvfi_sides sides;
	uint32_t src, dst;
	enum kvf_replica replica;
};

/* kvfi_cut_group - the cut of group g into *cut (fini it afterwards, also after a failure).
 * Elect: owner = candidates[DP index of dst modulo their number]. Stripe: candidate i of k owns layers
 * [floor(i*n/k), floor((i+1)*n/k)) of the n layers with the same holders. Where no holder is paired, the
 * nearest one (lowest rank of equals) owns. KVF_ENOMEM alone.
 */
KVF_MUST_CHECK enum kvf_status kvfi_cut_group(
	const struct kvfi_pair_ask *ask, uint32_t g, struct kvfi_cut *cut);
void kvfi_cut_fini(struct kvfi_cut *cut);

#endif
