/* instance_check.c - field-by-field checks of an instance map that came from outside.
 *
 * After KVF_OK every other file of geometry may index the map without further thought: every coordinate is in
 * range and taken once, every layer list ascends below KVF_MAX_LAYERS, no head interval wraps. Allocates one
 * bitmap; any thread.
 */
#include "geometry/instance_check.h"

#include <stdlib.h>
#include "base/checked.h"
#include "base/status.h"
#include "geometry/geometry.h"
#include "geometry/limits.h"
#include "geometry/model.h"

enum kvf_status kvfi_sizes_check(const struct kvf_instance *instance, uint64_t *n_ranks_out)
{
	const struct {
		const char *name;
		uint32_t value;
	} sizes[] = {{"tp", instance->tp}, {"pp", instance->pp}, {"cp", instance->cp}, {"dp", instance->dp}};
	uint64_t n_ranks;

	if (instance->role != KVF_PREFILL && instance->role != KVF_DECODE)
		return kvfi_fail(
			KVF_EINVAL, "role: %d is neither prefill (1) nor decode (2)", (int)instance->role);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		if (sizes[i].value == 0 || sizes[i].value > KVF_MAX_RANKS)
			return kvfi_fail(KVF_EINVAL, "%s: %u, must be 1 to %u", sizes[i].name, sizes[i].value,
				KVF_MAX_RANKS);
	}
	n_ranks = (uint64_t)instance->tp * instance->pp * instance->cp;
	if (n_ranks > KVF_MAX_RANKS)
		return kvfi_fail(KVF_EINVAL, "tp * pp * cp: %llu ranks, at most %u",
			(unsigned long long)n_ranks, KVF_MAX_RANKS);
	if (instance->tp % instance->dp != 0)
		return kvfi_fail(KVF_EINVAL, "dp: %u does not divide tp %u", instance->dp, instance->tp);
	if (instance->role == KVF_PREFILL && instance->cp != 1)
		return kvfi_fail(KVF_EINVAL, "cp: %u on prefill, must be 1", instance->cp);
	*n_ranks_out = n_ranks;
	return KVF_OK;
}

static enum kvf_status check_rank_group(const struct kvf_rank_group *group, uint32_t rank, uint32_t g)
{
	enum kvf_status status = kvfi_layers_check(g, group->layers, group->n_layers);

	if (status != KVF_OK)
		return kvfi_fail_prefix(status, "rank %u", rank);
	for (uint32_t p = 0; p < KVF_MAX_PARTS; p++) {
		uint64_t end = (uint64_t)group->head_start[p] + group->head_count[p];

		if (end > KVFI_MAX_HEADS)
			return kvfi_fail(KVF_EINVAL,
				"rank %u: group %u: part %u: heads end at %llu, at most %u", rank, g, p,
				(unsigned long long)end, KVFI_MAX_HEADS);
	}
	return KVF_OK;
}

static enum kvf_status check_rank(const struct kvf_instance *instance, uint32_t i, uint8_t *taken)
{
	const struct kvf_rank *rank = &instance->ranks[i];
	uint64_t place;
	enum kvf_status status = kvfi_name_check("endpoint", rank->endpoint);

	if (status != KVF_OK)
		return kvfi_fail_prefix(status, "rank %u", i);
	if (rank->tp >= instance->tp || rank->pp >= instance->pp || rank->cp >= instance->cp)
		return kvfi_fail(KVF_EINVAL, "rank %u: tp %u, pp %u, cp %u outside tp %u, pp %u, cp %u", i,
			rank->tp, rank->pp, rank->cp, instance->tp, instance->pp, instance->cp);
	place = ((uint64_t)rank->pp * instance->cp + rank->cp) * instance->tp + rank->tp;
	if (taken[place])
		return kvfi_fail(KVF_EINVAL, "rank %u: tp %u, pp %u, cp %u is taken by another rank", i,
			rank->tp, rank->pp, rank->cp);
	taken[place] = 1;
	if (!rank->groups)
		return kvfi_fail(KVF_EINVAL, "rank %u: groups: missing", i);
	for (uint32_t g = 0; status == KVF_OK && g < instance->n_groups; g++)
		status = check_rank_group(&rank->groups[g], i, g);
	return status;
}

enum kvf_status kvfi_instance_check(const struct kvf_instance *instance)
{
	uint64_t n_ranks = 0;
	uint8_t *taken;
	enum kvf_status status;

	if (!instance)
		return kvfi_fail(KVF_EINVAL, "instance: missing");
	status = kvfi_sizes_check(instance, &n_ranks);
	if (status != KVF_OK)
		return status;
	if (instance->n_groups == 0 || instance->n_groups > KVF_MAX_GROUPS)
		return kvfi_fail(
			KVF_EINVAL, "n_groups: %u, must be 1 to %u", instance->n_groups, KVF_MAX_GROUPS);
	if (instance->n_ranks != n_ranks || !instance->ranks)
		return kvfi_fail(KVF_EINVAL, "n_ranks: %u, tp * pp * cp is %llu", instance->n_ranks,
			(unsigned long long)n_ranks);
	taken = calloc(n_ranks, 1);
	if (!taken)
		return kvfi_fail(KVF_ENOMEM, "instance check: out of memory");
	for (uint32_t i = 0; status == KVF_OK && i < instance->n_ranks; i++)
		status = check_rank(instance, i, taken);
	free(taken);
	return status;
}
