/* pairing.c - which ranks are paired: their unit intervals meet and they hold a layer of the same group.
 *
 * Source rank r of G_s covers [r/G_s, (r+1)/G_s), destination q of G_d likewise; the CP coordinate plays no
 * part. Pure; allocates nothing; any thread.
 */
#include "geometry/pairing.h"

#include "geometry/geometry.h"

static uint32_t group_width(const struct kvf_instance *instance)
{
	return instance->tp / instance->dp;
}

static uint32_t place_in_group(const struct kvf_instance *instance, uint32_t rank)
{
	return instance->ranks[rank].tp % group_width(instance);
}

bool kvfi_intervals_meet(const struct kvfi_sides *sides, uint32_t src, uint32_t dst)
{
	uint64_t src_width = group_width(sides->src), dst_width = group_width(sides->dst);
	uint64_t r = place_in_group(sides->src, src), q = place_in_group(sides->dst, dst);

	return r * dst_width < (q + 1) * src_width && q * src_width < (r + 1) * dst_width;
}

static bool lists_meet(const struct kvf_rank_group *a, const struct kvf_rank_group *b)
{
	uint32_t i = 0, j = 0;

	while (i < a->n_layers && j < b->n_layers) {
		if (a->layers[i] == b->layers[j])
			return true;
		if (a->layers[i] < b->layers[j])
			i++;
		else
			j++;
	}
	return false;
}

bool kvfi_layers_meet(const struct kvfi_sides *sides, uint32_t src, uint32_t dst)
{
	for (uint32_t g = 0; g < sides->src->n_groups && g < sides->dst->n_groups; g++)
		if (lists_meet(&sides->src->ranks[src].groups[g], &sides->dst->ranks[dst].groups[g]))
			return true;
	return false;
}

bool kvfi_ranks_paired(const struct kvfi_sides *sides, uint32_t src, uint32_t dst)
{
	return kvfi_intervals_meet(sides, src, dst) && kvfi_layers_meet(sides, src, dst);
}

uint64_t kvfi_rank_distance(const struct kvfi_sides *sides, uint32_t src, uint32_t dst)
{
	uint64_t a = (2 * (uint64_t)place_in_group(sides->src, src) + 1) * group_width(sides->dst);
	uint64_t b = (2 * (uint64_t)place_in_group(sides->dst, dst) + 1) * group_width(sides->src);

	return a > b ? a - b : b - a;
}

uint32_t kvfi_candidates(const struct kvfi_sides *sides, uint32_t src_dp, uint32_t dst, bool all,
	struct kvfi_candidate *candidates)
{
	uint32_t n = 0;

	for (uint32_t src = 0; src < sides->src->n_ranks; src++) {
		bool paired;

		if (kvfi_rank_dp(sides->src, src) != src_dp)
			continue;
		if (!all && !kvfi_intervals_meet(sides, src, dst))
			continue;
		paired = kvfi_ranks_paired(sides, src, dst);
		if (paired || all)
			candidates[n++] = (struct kvfi_candidate){.rank = src, .paired = paired};
	}
	return n;
}
