/* plan.c - making a plan: checks, then cut, then nests, group by group.
 *
 * A plan is immutable once made; any thread may read it. It keeps no pointer into the instances or layouts it
 * was made from.
 */
#include "geometry/plan.h"

#include <stdlib.h>
#include <string.h>
#include "base/status.h"
#include "geometry/overlap.h"

static enum kvf_status check_held(
	const struct kvf_instance *instance, const struct kvf_layout *layout, uint32_t g)
{
	const struct kvf_rank_group *map = &instance->ranks[layout->rank].groups[g];
	const struct kvf_group *group = &layout->groups[g];

	if (group->n_layers != map->n_layers)
		return kvfi_fail(KVF_EINVAL, "group %u: layers: the layout has %u, the instance map %u", g,
			group->n_layers, map->n_layers);
	for (uint32_t i = 0; i < group->n_layers; i++)
		if (group->layers[i] != map->layers[i])
			return kvfi_fail(KVF_EINVAL,
				"group %u: layers[%u]: the layout has %u, the instance map %u", g, i,
				group->layers[i], map->layers[i]);
	for (uint32_t p = 0; p < group->n_parts; p++)
		if (group->parts[p].head_start != map->head_start[p] ||
			group->parts[p].head_count != map->head_count[p])
			return kvfi_fail(KVF_EINVAL,
				"group %u: part %u: heads: the layout has %u from %u, the instance map %u "
				"from %u",
				g, p, group->parts[p].head_count, group->parts[p].head_start,
				map->head_count[p], map->head_start[p]);
	return KVF_OK;
}

/* Does a layout say what its rank's entry in the instance map says? */
static enum kvf_status check_side(
	const struct kvf_instance *instance, const struct kvf_layout *layout, enum kvf_role role)
{
	enum kvf_status status = kvfi_instance_check(instance);

	if (status == KVF_OK)
		status = kvfi_layout_fields_check(layout);
	if (status != KVF_OK)
		return status;
	if (instance->role != role)
		return kvfi_fail(KVF_EINVAL, "role: %d, expected %d", (int)instance->role, (int)role);
	if (layout->rank >= instance->n_ranks)
		return kvfi_fail(
			KVF_EINVAL, "rank: %u, the instance has %u ranks", layout->rank, instance->n_ranks);
	if (layout->n_groups != instance->n_groups)
		return kvfi_fail(KVF_EINVAL, "n_groups: the layout has %u, the instance map %u",
			layout->n_groups, instance->n_groups);
	for (uint32_t g = 0; status == KVF_OK && g < layout->n_groups; g++)
		status = check_held(instance, layout, g);
	return status;
}

static enum kvf_status check_pair(const struct kvf_instance *prefill, const struct kvf_layout *src,
	const struct kvf_instance *decode, const struct kvf_layout *dst)
{
	enum kvf_status status = check_side(prefill, src, KVF_PREFILL);

	if (status != KVF_OK)
		return kvfi_fail_prefix(status, "prefill");
	status = check_side(decode, dst, KVF_DECODE);
	if (status != KVF_OK)
		return kvfi_fail_prefix(status, "decode");
	return kvf_pair_compatible(prefill, src, decode, dst, NULL);
}

static void shape_group(const struct kvf_rank *rank, uint32_t cp, const struct kvf_group *src,
	const struct kvf_group *dst, struct kvfi_plan_group *group)
{
	bool thinned = src->kind != KVF_STATE;

	group->kind = src->kind;
	group->window_tokens = src->window_tokens;
	group->src_tokens = src->tokens_per_block;
	group->dst_tokens = dst->tokens_per_block;
	group->src_blocks = src->blocks;
	group->dst_blocks = dst->blocks;
	group->cp = thinned ? cp : 1;
	group->cp_rank = thinned ? rank->cp : 0;
}

static enum kvf_status build_group(const struct kvfi_pair_ask *ask, uint32_t g, const struct kvf_layout *src,
	const struct kvf_layout *dst, struct kvfi_plan_group *group)
{
	const struct kvf_instance *decode = ask->sides.dst;
	struct kvfi_cut cut;
	enum kvf_status status = kvfi_cut_group(ask, g, &cut);

	shape_group(&decode->ranks[ask->dst], decode->cp, &src->groups[g], &dst->groups[g], group);
	if (status == KVF_OK)
		status = kvfi_nests_build(&cut, &src->groups[g], &dst->groups[g], group);
	kvfi_cut_fini(&cut);
	return status;
}

enum kvf_status kvf_plan_new(const struct kvf_instance *prefill, const struct kvf_layout *src,
	const struct kvf_instance *decode, const struct kvf_layout *dst, enum kvf_replica replica,
	kvf_plan **plan_out)
{
	enum kvf_status status = check_pair(prefill, src, decode, dst);
	struct kvfi_pair_ask ask = {.sides = {prefill, decode}, .replica = replica};
	struct kvf_plan *plan;

	if (status != KVF_OK)
		return status;
	if (replica != KVF_REPLICA_ELECT && replica != KVF_REPLICA_STRIPE)
		return kvfi_fail(KVF_EINVAL, "replica: %d is none", (int)replica);
	plan = calloc(1, sizeof(*plan));
	if (!plan)
		return kvfi_fail(KVF_ENOMEM, "plan: out of memory");
	ask.src = src->rank;
	ask.dst = dst->rank;
	plan->digest = kvfi_pair_digest(prefill, src, decode, dst, replica);
	plan->n_groups = src->n_groups;
	for (uint32_t g = 0; status == KVF_OK && g < plan->n_groups; g++) {
		status = build_group(&ask, g, src, dst, &plan->groups[g]);
		if (status == KVF_EINVAL)
			status = kvfi_fail_prefix(status, "group %u", g);
	}
	if (status == KVF_OK)
		status = kvfi_public_nests_build(plan);
	if (status != KVF_OK) {
		kvf_plan_free(plan);
		return status;
	}
	*plan_out = plan;
	return KVF_OK;
}

void kvf_plan_free(kvf_plan *plan)
{
	if (!plan)
		return;
	for (uint32_t g = 0; g < plan->n_groups; g++) {
		free(plan->groups[g].layers);
		free(plan->groups[g].layer_before);
		free(plan->groups[g].nests);
	}
	free(plan->public_nests);
	free(plan);
}

uint64_t kvf_plan_digest(const kvf_plan *plan)
{
	return plan->digest;
}

uint32_t kvf_plan_layers(const kvf_plan *plan, uint32_t group, const uint32_t **layers_out)
{
	if (group >= plan->n_groups) {
		*layers_out = NULL;
		return 0;
	}
	*layers_out = plan->groups[group].layers;
	return plan->groups[group].n_layers;
}

static uint32_t first_at_least(const uint32_t *layers, uint32_t n, uint32_t bound)
{
	uint32_t lo = 0, hi = n;

	while (lo < hi) {
		uint32_t middle = lo + (hi - lo) / 2;

		if (layers[middle] < bound)
			lo = middle + 1;
		else
			hi = middle;
	}
	return lo;
}

void kvfi_plan_clip_layers(
	const struct kvfi_plan_group *group, uint32_t start, uint32_t end, uint32_t *lo_out, uint32_t *hi_out)
{
	uint32_t lo = first_at_least(group->layers, group->n_layers, start);
	uint32_t hi = first_at_least(group->layers, group->n_layers, end);

	*lo_out = lo;
	*hi_out = hi < lo ? lo : hi;
}
