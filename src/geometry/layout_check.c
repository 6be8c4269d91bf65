/* layout_check.c - the checks of a layout's fields. Where its cells lie is checked in overlap.c.
 *
 * After KVF_OK the other files of geometry may compute any address of the layout without overflow.
 * Pure; any thread.
 */
#include "base/checked.h"
#include "base/status.h"
#include "geometry/geometry.h"
#include "geometry/limits.h"
#include "geometry/model.h"
#include "geometry/overlap.h"

static enum kvf_status check_heads(const struct kvf_part *part, uint32_t g, uint32_t p)
{
	uint64_t end = (uint64_t)part->head_start + part->head_count;

	if (end > part->heads)
		return kvfi_fail(KVF_EINVAL, "group %u: part %u: heads: [%u, %llu) of %u", g, p,
			part->head_start, (unsigned long long)end, part->heads);
	return KVF_OK;
}

static bool reach_overflows(uint64_t count, uint64_t stride, uint64_t *sum)
{
	uint64_t product;

	if (count <= 1)
		return false;
	return kvfi_mul_overflows(count - 1, stride, &product) || kvfi_add_overflows(*sum, product, sum);
}

/* Every (layer, part) must lie below 2^64. */
static enum kvf_status check_reach(const struct kvf_group *group, uint32_t g, uint32_t p)
{
	const struct kvf_part *part = &group->parts[p];
	uint64_t span = part->row_bytes, end;

	if (reach_overflows(group->blocks, part->block_stride, &span) ||
		reach_overflows(part->head_count, part->head_stride, &span) ||
		reach_overflows(group->tokens_per_block, part->token_stride, &span) ||
		span > KVFI_MAX_SPAN_BYTES)
		return kvfi_fail(KVF_EINVAL,
			"group %u: part %u: strides: block %llu, head %llu, token %llu overflow", g, p,
			(unsigned long long)part->block_stride, (unsigned long long)part->head_stride,
			(unsigned long long)part->token_stride);
	for (uint32_t i = 0; i < group->n_layers; i++) {
		uint64_t base = group->bases[(size_t)i * group->n_parts + p];

		if (kvfi_add_overflows(base, span, &end))
			return kvfi_fail(KVF_EINVAL,
				"group %u: layer %u: part %u: base: %#llx plus %llu bytes overflows", g,
				group->layers[i], p, (unsigned long long)base, (unsigned long long)span);
	}
	return KVF_OK;
}

static enum kvf_status check_blocks(const struct kvf_group *group, uint32_t g)
{
	if (group->tokens_per_block == 0 || group->tokens_per_block > KVFI_MAX_TOKENS_PER_BLOCK)
		return kvfi_fail(KVF_EINVAL, "group %u: tokens_per_block: %u, must be 1 to %u", g,
			group->tokens_per_block, KVFI_MAX_TOKENS_PER_BLOCK);
	if (group->kind == KVF_STATE && group->tokens_per_block != 1)
		return kvfi_fail(KVF_EINVAL, "group %u: tokens_per_block: %u for kind state, must be 1", g,
			group->tokens_per_block);
	if (group->blocks == 0 || group->blocks >= KVFI_MAX_BLOCKS)
		return kvfi_fail(KVF_EINVAL, "group %u: blocks: %u, must be 1 to %u", g, group->blocks,
			KVFI_MAX_BLOCKS - 1);
	return KVF_OK;
}

static enum kvf_status check_group(const struct kvf_group *group, uint32_t g)
{
	enum kvf_status status = kvfi_kind_check(g, group->kind, group->dtype, group->window_tokens);

	if (status == KVF_OK)
		status = check_blocks(group, g);
	if (status == KVF_OK)
		status = kvfi_layers_check(g, group->layers, group->n_layers);
	if (status == KVF_OK && (group->n_parts == 0 || group->n_parts > KVF_MAX_PARTS))
		status = kvfi_fail(KVF_EINVAL, "group %u: n_parts: %u, must be 1 to %u", g, group->n_parts,
			KVF_MAX_PARTS);
	if (status == KVF_OK && group->n_layers != 0 && !group->bases)
		status = kvfi_fail(KVF_EINVAL, "group %u: bases: missing", g);
	for (uint32_t p = 0; status == KVF_OK && p < group->n_parts; p++) {
		status = kvfi_part_check(g, p, group->parts[p].heads, group->parts[p].row_bytes);
		if (status == KVF_OK)
			status = check_heads(&group->parts[p], g, p);
		if (status == KVF_OK)
			status = check_reach(group, g, p);
	}
	return status;
}

static enum kvf_status check_aux(const struct kvf_layout *layout)
{
	if (layout->n_aux > KVFI_MAX_AUX)
		return kvfi_fail(KVF_EINVAL, "n_aux: %u, at most %u", layout->n_aux, KVFI_MAX_AUX);
	if (layout->n_aux != 0 && (!layout->aux_bytes || !layout->aux_bases))
		return kvfi_fail(KVF_EINVAL, "aux: sizes or bases missing");
	for (uint32_t i = 0; i < layout->n_aux; i++) {
		uint64_t end;

		if (layout->aux_bytes[i] > KVF_MAX_AUX_BYTES)
			return kvfi_fail(KVF_EINVAL, "aux slot %u: %u bytes, at most %u", i,
				layout->aux_bytes[i], KVF_MAX_AUX_BYTES);
		if (kvfi_add_overflows(layout->aux_bases[i], layout->aux_bytes[i], &end))
			return kvfi_fail(KVF_EINVAL, "aux slot %u: base: %#llx plus %u bytes overflows", i,
				(unsigned long long)layout->aux_bases[i], layout->aux_bytes[i]);
	}
	return KVF_OK;
}

enum kvf_status kvfi_layout_fields_check(const struct kvf_layout *layout)
{
	enum kvf_status status;

	if (!layout)
		return kvfi_fail(KVF_EINVAL, "layout: missing");
	status = kvfi_name_check("model", layout->model);
	if (status == KVF_OK)
		status = kvfi_name_check("revision", layout->revision);
	if (status != KVF_OK)
		return status;
	if (layout->n_groups == 0 || layout->n_groups > KVF_MAX_GROUPS || !layout->groups)
		return kvfi_fail(
			KVF_EINVAL, "n_groups: %u, must be 1 to %u", layout->n_groups, KVF_MAX_GROUPS);
	for (uint32_t g = 0; status == KVF_OK && g < layout->n_groups; g++)
		status = check_group(&layout->groups[g], g);
	return status == KVF_OK ? check_aux(layout) : status;
}

enum kvf_status kvf_layout_check(const struct kvf_layout *layout)
{
	enum kvf_status status = kvfi_layout_fields_check(layout);

	return status == KVF_OK ? kvfi_layout_overlap_check(layout) : status;
}
