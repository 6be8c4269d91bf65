/* align.h - the token arithmetic of block lists (mapping.md, "Block lists").
 *
 * Tokens here are tokens of the blocks that a pair really exchanges: under CP those of the subsequence of
 * blocks b with b mod cp == cp_rank, so that its jth block holds tokens [j*tpb, (j+1)*tpb).
 */
#ifndef KVFI_GEOMETRY_ALIGN_H
#define KVFI_GEOMETRY_ALIGN_H

#include <stdint.h>
#include "base/checked.h"
#include "geometry/plan.h"

/* How many of the first `blocks` blocks belong to this pair. */
static inline uint64_t kvfi_thin(const struct kvfi_plan_group *group, uint64_t blocks)
{
	if (group->cp == 1)
		return blocks;
	return blocks > group->cp_rank ? (blocks - group->cp_rank - 1) / group->cp + 1 : 0;
}

/* Blocks of this side that hold the prompt. */
static inline uint64_t kvfi_total_blocks(
	const struct kvfi_plan_group *group, uint64_t prompt_len, uint32_t tpb)
{
	if (group->kind == KVF_STATE)
		return 1;
	return kvfi_thin(group, kvfi_div_up(prompt_len, tpb));
}

/* First token behind the last block of this side. */
static inline uint64_t kvfi_end_tokens(const struct kvfi_plan_group *group, uint64_t prompt_len, uint32_t tpb)
{
	return kvfi_total_blocks(group, prompt_len, tpb) * tpb;
}

/* First token that a windowed group still keeps, rounded down to a block; 0 in other groups. */
static inline uint64_t kvfi_stale_tokens(
	const struct kvfi_plan_group *group, uint64_t prompt_len, uint32_t tpb)
{
	if (group->kind != KVF_WINDOW || prompt_len + 1 <= group->window_tokens)
		return 0;
	return kvfi_thin(group, (prompt_len + 1 - group->window_tokens) / tpb) * tpb;
}

/* Prompt length, token bounds and layer bounds make sense; KVF_EINVAL else. */
KVF_MUST_CHECK enum kvf_status kvfi_shape_check(const struct kvfi_shape *shape);

/* Blocks [first, end) of one side that a slice is made of. A slice that ends the prompt rounds up whether or
 * not it is the last: layer-wise sending has several of them. Window and state groups move whole with such a
 * slice, else not at all. */
void kvfi_slice_blocks(enum kvf_group_kind kind, uint32_t tpb, const struct kvfi_shape *shape,
	uint64_t *first_out, uint64_t *end_out);

#endif
