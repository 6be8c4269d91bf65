/* lists.c - an agent's own block lists against its own layout, before anything is asked or sent. Pure; any
 * thread. */
#include "base/status.h"
#include "geometry/align.h"

/* Does the group hold a layer of [start, end)? 0, 0: any. */
static bool holds_any(const struct kvf_group *group, uint32_t start, uint32_t end)
{
	if (start == 0 && end == 0)
		return group->n_layers != 0;
	for (uint32_t i = 0; i < group->n_layers; i++)
		if (group->layers[i] >= start && group->layers[i] < end)
			return true;
	return false;
}

static enum kvf_status check_ids(const struct kvf_group *group, uint32_t g, const struct kvfi_ids *list)
{
	for (uint32_t i = 0; i < list->n; i++)
		if (list->ids[i] >= 0 && (uint32_t)list->ids[i] >= group->blocks)
			return kvfi_fail(KVF_EINVAL, "group %u: ids[%u]: %d, the layout has %u blocks", g, i,
				list->ids[i], group->blocks);
	return KVF_OK;
}

static enum kvf_status check_list(const struct kvf_group *group, uint32_t g, const struct kvfi_shape *shape,
	const struct kvfi_ids *list, const struct kvfi_plan_group *thinning)
{
	uint64_t first, end, most;

	if (!list->ids)
		return kvfi_fail(KVF_EINVAL, "group %u: ids: missing, n is %u", g, list->n);
	if (!holds_any(group, shape->layer_start, shape->layer_end))
		return kvfi_fail(KVF_EINVAL,
			"group %u: %u blocks, but this rank holds none of its layers in [%u, %u)", g, list->n,
			shape->layer_start, shape->layer_end);
	kvfi_slice_blocks(group->kind, group->tokens_per_block, shape, &first, &end);
	most = kvfi_thin(thinning, end) - kvfi_thin(thinning, first);
	if (list->n > most && end == 0)
		return kvfi_fail(KVF_EINVAL,
			"group %u: it moves with the slice that ends at prompt_len %llu, not at %llu", g,
			(unsigned long long)shape->prompt_len, (unsigned long long)shape->token_end);
	if (list->n > most)
		return kvfi_fail(KVF_EINVAL, "group %u: %u ids, the slice has %llu blocks", g, list->n,
			(unsigned long long)most);
	return check_ids(group, g, list);
}

enum kvf_status kvfi_check_lists(const struct kvf_layout *own, const struct kvfi_shape *shape,
	const struct kvfi_ids *lists, uint32_t cp, uint32_t cp_rank)
{
	enum kvf_status status = kvfi_shape_check(shape);

	for (uint32_t g = 0; status == KVF_OK && g < own->n_groups; g++) {
		bool thinned = own->groups[g].kind != KVF_STATE;
		struct kvfi_plan_group thinning = {.cp = thinned ? cp : 1, .cp_rank = thinned ? cp_rank : 0};

		if (lists[g].n != 0)
			status = check_list(&own->groups[g], g, shape, &lists[g], &thinning);
	}
	return status;
}

uint64_t kvfi_blocks_bytes(const struct kvf_group *group, uint64_t n_blocks)
{
	uint64_t block_bytes = 0;

	for (uint32_t p = 0; p < group->n_parts; p++)
		block_bytes += (uint64_t)group->parts[p].head_count * group->parts[p].row_bytes;
	return block_bytes * group->tokens_per_block * group->n_layers * n_blocks;
}
