/* pairs.c - who talks to whom for one request, from the two instance maps alone.
 *
 * One destination at a time: its paired sources, then, only where those leave a hole in what it holds, the
 * nearest holders that count as paired, then who sends aux. Scratch is allocated and freed here; any thread.
 */
#include <stdlib.h>
#include <string.h>
#include "base/status.h"
#include "geometry/cut.h"
#include "geometry/geometry.h"

struct pair_list {
	struct kvf_pair *pairs;
	uint32_t n, max;
};

struct scratch {
	struct kvfi_sides sides;
	uint32_t src_dp;
	uint32_t n_candidates;
	struct kvfi_candidate *candidates; /* every source rank of the DP index */
	uint32_t n_paired;
	uint32_t *paired; /* of them: by intervals and layers */
	struct pair_list list;
};

static bool add_pair(struct pair_list *list, const struct kvf_pair *pair)
{
	if (list->n == list->max) {
		uint32_t wanted = list->max == 0 ? 64 : list->max * 2;
		struct kvf_pair *bigger = realloc(list->pairs, wanted * sizeof(*bigger));

		if (!bigger)
			return false;
		list->pairs = bigger;
		list->max = wanted;
	}
	list->pairs[list->n++] = *pair;
	return true;
}

static enum kvf_status owes(const struct scratch *scratch, uint32_t src, uint32_t dst, bool *kv_out)
{
	struct kvfi_pair_ask ask = {
		.sides = scratch->sides, .src = src, .dst = dst, .replica = KVF_REPLICA_ELECT};
	enum kvf_status status = KVF_OK;
	bool kv = false;

	for (uint32_t g = 0; status == KVF_OK && !kv && g < ask.sides.src->n_groups; g++) {
		struct kvfi_cut cut;

		status = kvfi_cut_group(&ask, g, &cut);
		kv = status == KVF_OK && cut.n_layers > 0;
		kvfi_cut_fini(&cut);
	}
	*kv_out = kv;
	return status;
}

static bool holds_layer(const struct kvf_rank_group *held, uint32_t layer)
{
	uint32_t lo = 0, hi = held->n_layers;

	while (lo < hi) {
		uint32_t middle = lo + (hi - lo) / 2;

		if (held->layers[middle] < layer)
			lo = middle + 1;
		else
			hi = middle;
	}
	return lo < held->n_layers && held->layers[lo] == layer;
}

/* One part of one layer that a destination holds. */
struct wanted {
	uint32_t group, layer, part;
	uint32_t start, end; /* heads */
};

static bool reaches(const struct scratch *scratch, const struct kvfi_candidate *candidate,
	const struct wanted *wanted, uint32_t *end_out)
{
	const struct kvf_rank_group *held = &scratch->sides.src->ranks[candidate->rank].groups[wanted->group];

	*end_out = held->head_start[wanted->part] + held->head_count[wanted->part];
	return held->head_start[wanted->part] < wanted->end && wanted->start < *end_out &&
	       holds_layer(held, wanted->layer);
}

/* Moves wanted->start behind the heads that paired sources hold from there on without a gap. */
static void cover(const struct scratch *scratch, struct wanted *wanted)
{
	bool grew = true;

	while (grew && wanted->start < wanted->end) {
		grew = false;
		for (uint32_t i = 0; i < scratch->n_paired; i++) {
			const struct kvfi_candidate *candidate = &scratch->candidates[scratch->paired[i]];
			const struct kvf_rank *rank = &scratch->sides.src->ranks[candidate->rank];
			uint32_t end;

			if (!reaches(scratch, candidate, wanted, &end) ||
				rank->groups[wanted->group].head_start[wanted->part] > wanted->start)
				continue;
			wanted->start = end;
			grew = true;
		}
	}
}

/* Is there a head that no paired source holds in this layer and another source may? */
static bool is_hole(const struct scratch *scratch, struct wanted *wanted)
{
	uint32_t end;

	cover(scratch, wanted);
	if (wanted->start >= wanted->end)
		return false;
	for (uint32_t i = 0; i < scratch->n_candidates; i++)
		if (!scratch->candidates[i].paired && reaches(scratch, &scratch->candidates[i], wanted, &end))
			return true;
	return false;
}

/* Does dst hold a cell that no paired source holds, but another does? */
static bool has_hole(const struct scratch *scratch, uint32_t dst)
{
	for (uint32_t g = 0; g < scratch->sides.dst->n_groups; g++) {
		const struct kvf_rank_group *held = &scratch->sides.dst->ranks[dst].groups[g];

		for (uint32_t i = 0; i < held->n_layers; i++) {
			for (uint32_t p = 0; p < KVF_MAX_PARTS; p++) {
				struct wanted wanted = {g, held->layers[i], p, held->head_start[p],
					held->head_start[p] + held->head_count[p]};

				if (is_hole(scratch, &wanted))
					return true;
			}
		}
	}
	return false;
}

/* Aux comes from the lowest source of the first stage whose place in its group is a multiple of G_s div G_d.
 */
static void elect_aux(const struct scratch *scratch, struct kvf_pair *pairs, uint32_t n)
{
	const struct kvf_instance *src = scratch->sides.src, *dst = scratch->sides.dst;
	uint32_t src_width = src->tp / src->dp, dst_width = dst->tp / dst->dp;
	uint32_t ratio = src_width / dst_width == 0 ? 1 : src_width / dst_width;
	struct kvf_pair *best = NULL;

	for (uint32_t i = 0; i < n; i++) {
		const struct kvf_rank *rank = &src->ranks[pairs[i].src];
		const struct kvf_rank *chosen = best ? &src->ranks[best->src] : NULL;
		bool fits = rank->tp % src_width % ratio == 0;

		if (!chosen || rank->pp < chosen->pp ||
			(rank->pp == chosen->pp && fits && chosen->tp % src_width % ratio != 0))
			best = &pairs[i];
	}
	if (best)
		best->aux = 1;
}

static void find_candidates(struct scratch *scratch, uint32_t dst)
{
	scratch->n_candidates =
		kvfi_candidates(&scratch->sides, scratch->src_dp, dst, true, scratch->candidates);
	scratch->n_paired = 0;
	for (uint32_t i = 0; i < scratch->n_candidates; i++)
		if (scratch->candidates[i].paired)
			scratch->paired[scratch->n_paired++] = i;
}

static enum kvf_status pair_destination(struct scratch *scratch, uint32_t dst)
{
	uint32_t first = scratch->list.n;
	bool hole;

	find_candidates(scratch, dst);
	hole = has_hole(scratch, dst);
	for (uint32_t i = 0; i < scratch->n_candidates; i++) {
		const struct kvfi_candidate *candidate = &scratch->candidates[i];
		struct kvf_pair pair = {.src = candidate->rank, .dst = dst};
		enum kvf_status status;
		bool kv = false;

		if (!candidate->paired && !hole)
			continue;
		status = owes(scratch, candidate->rank, dst, &kv);
		if (status != KVF_OK)
			return status;
		pair.kv = kv;
		if ((candidate->paired || kv) && !add_pair(&scratch->list, &pair))
			return kvfi_fail(KVF_ENOMEM, "pairs: out of memory");
	}
	elect_aux(scratch, scratch->list.pairs + first, scratch->list.n - first);
	return KVF_OK;
}

static int by_src_dst(const void *left, const void *right)
{
	const struct kvf_pair *a = left, *b = right;

	if (a->src != b->src)
		return a->src < b->src ? -1 : 1;
	return a->dst < b->dst ? -1 : a->dst > b->dst;
}

static enum kvf_status check_asked(const struct kvf_instance *prefill, const struct kvf_instance *decode,
	uint32_t src_dp, uint32_t dst_dp)
{
	enum kvf_status status = kvfi_instance_check(prefill);

	if (status != KVF_OK)
		return kvfi_fail_prefix(status, "prefill");
	status = kvfi_instance_check(decode);
	if (status != KVF_OK)
		return kvfi_fail_prefix(status, "decode");
	if (prefill->role != KVF_PREFILL || decode->role != KVF_DECODE)
		return kvfi_fail(KVF_EINVAL, "role: %d and %d, expected prefill (1) and decode (2)",
			(int)prefill->role, (int)decode->role);
	if (prefill->n_groups != decode->n_groups)
		return kvfi_fail(KVF_EINVAL, "n_groups: prefill has %u, decode has %u", prefill->n_groups,
			decode->n_groups);
	if (src_dp >= prefill->dp)
		return kvfi_fail(KVF_EINVAL, "src_dp: %u, prefill has dp %u", src_dp, prefill->dp);
	if (dst_dp != KVF_DP_UNKNOWN && dst_dp >= decode->dp)
		return kvfi_fail(KVF_EINVAL, "dst_dp: %u, decode has dp %u", dst_dp, decode->dp);
	return KVF_OK;
}

enum kvf_status kvf_pairs(const struct kvf_instance *prefill, const struct kvf_instance *decode,
	uint32_t src_dp, uint32_t dst_dp, struct kvf_pair *pairs, uint32_t max, uint32_t *n_out)
{
	struct scratch scratch = {.sides = {prefill, decode}, .src_dp = src_dp};
	enum kvf_status status = check_asked(prefill, decode, src_dp, dst_dp);

	if (status != KVF_OK)
		return status;
	scratch.candidates = malloc(prefill->n_ranks * sizeof(*scratch.candidates));
	scratch.paired = malloc(prefill->n_ranks * sizeof(*scratch.paired));
	if (!scratch.candidates || !scratch.paired)
		status = kvfi_fail(KVF_ENOMEM, "pairs: out of memory");
	for (uint32_t dst = 0; status == KVF_OK && dst < decode->n_ranks; dst++)
		if (dst_dp == KVF_DP_UNKNOWN || kvfi_rank_dp(decode, dst) == dst_dp)
			status = pair_destination(&scratch, dst);
	if (status == KVF_OK) {
		uint32_t n = scratch.list.n < max ? scratch.list.n : max;

		if (scratch.list.n != 0)
			qsort(scratch.list.pairs, scratch.list.n, sizeof(*scratch.list.pairs), by_src_dst);
		if (n != 0)
			memcpy(pairs, scratch.list.pairs, n * sizeof(*pairs));
		*n_out = scratch.list.n;
	}
	free(scratch.list.pairs);
	free(scratch.paired);
	free(scratch.candidates);
	return status;
}
