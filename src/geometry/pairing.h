/* pairing.h - who is paired with whom, and who of several holders sends; from the two instance maps alone. */
#ifndef KVFI_GEOMETRY_PAIRING_H
#define KVFI_GEOMETRY_PAIRING_H

#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"

/* One direction of two instances. */
struct kvfi_sides {
	const struct kvf_instance *src; /* prefill */
	const struct kvf_instance *dst; /* decode */
};

/* A source rank as a candidate for one destination. */
struct kvfi_candidate {
	uint32_t rank;
	bool paired;
};

bool kvfi_intervals_meet(const struct kvfi_sides *sides, uint32_t src, uint32_t dst);
/* Do the two ranks hold a layer of the same group? */
bool kvfi_layers_meet(const struct kvfi_sides *sides, uint32_t src, uint32_t dst);
/* By intervals and layers; see kvfi_candidates for the holders that count as paired for want of another. */
bool kvfi_ranks_paired(const struct kvfi_sides *sides, uint32_t src, uint32_t dst);
/* How far the middles of their unit intervals lie apart, in units that compare among sources of one
 * destination. */
uint64_t kvfi_rank_distance(const struct kvfi_sides *sides, uint32_t src, uint32_t dst);

/* Source ranks of DP index src_dp, in rank order: those paired with dst, or all of them with `paired` told.
 * Room for src->n_ranks; returns their number. */
uint32_t kvfi_candidates(const struct kvfi_sides *sides, uint32_t src_dp, uint32_t dst, bool all,
	struct kvfi_candidate *candidates);

#endif
