/* replay_geometry.c - block counts, moved tokens and expected bytes of a request.
 *
 * Guarantees: no allocation, no state; any thread. Formulas are those of the block lists of the mapping
 * (docs/architecture.md): stale blocks come from the whole prompt, both lists are cut at the head to the
 * later of the two starts, and what moves ends with the shorter of the two last blocks.
 */
#include "cli/replay_geometry.h"

static uint64_t div_up(uint64_t a, uint64_t b)
{
	return a / b + (a % b != 0);
}

struct replay_blocks replay_blocks_of(
	const struct kvf_group_spec *group, uint32_t tokens_per_block, uint64_t prompt_tokens)
{
	struct replay_blocks blocks = {0, 1};
	if (group->kind == KVF_STATE)
		return blocks;
	blocks.total = div_up(prompt_tokens, tokens_per_block);
	if (group->kind == KVF_WINDOW && prompt_tokens + 1 > group->window_tokens)
		blocks.first = (prompt_tokens + 1 - group->window_tokens) / tokens_per_block;
	return blocks;
}

uint64_t replay_cp_first(uint64_t first, uint32_t c, uint32_t n)
{
	return first + (c + n - first % n) % n;
}

uint64_t replay_cp_count(uint64_t first, uint64_t total, uint32_t c, uint32_t n)
{
	uint64_t begin = replay_cp_first(first, c, n);
	return begin < total ? div_up(total - begin, n) : 0;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

struct replay_tokens replay_moved(
	const struct replay_setup *setup, uint32_t group, uint64_t prompt_tokens, uint64_t reused)
{
	const struct kvf_group_spec *spec = &setup->model.kvf.groups[group];
	uint64_t src_tpb = setup->sides[REPLAY_PREFILL].tokens_per_block;
	uint64_t dst_tpb = setup->sides[REPLAY_DECODE].tokens_per_block;
	if (spec->kind == KVF_STATE)
		return (struct replay_tokens){0, 1};

	struct replay_blocks src = replay_blocks_of(spec, (uint32_t)src_tpb, prompt_tokens);
	struct replay_blocks dst = replay_blocks_of(spec, (uint32_t)dst_tpb, prompt_tokens);
	struct replay_tokens moved;
	moved.begin = max_u64(max_u64(src.first * src_tpb, dst.first * dst_tpb), reused * dst_tpb);
	uint64_t src_end = src.total * src_tpb, dst_end = dst.total * dst_tpb;
	moved.end = src_end < dst_end ? src_end : dst_end;
	if (moved.begin > moved.end)
		moved.begin = moved.end;
	return moved;
}

/* Tokens of [begin, end) in the blocks that cp rank c of n holds. */
static uint64_t cp_tokens(struct replay_tokens moved, uint32_t tpb, uint32_t c, uint32_t n)
{
	if (n == 1)
		return moved.end - moved.begin;
	uint64_t first = moved.begin / tpb, total = div_up(moved.end, tpb);
	return replay_cp_count(first, total, c, n) * tpb; /* equal block sizes under cp: whole blocks move */
}

uint64_t replay_expected_bytes(const struct replay_setup *setup, uint32_t decode_rank, uint32_t group,
	uint64_t prompt_tokens, uint64_t reused)
{
	const struct replay_side *side = &setup->sides[REPLAY_DECODE];
	const struct kvf_group_spec *spec = &setup->model.kvf.groups[group];
	const struct kvf_rank_group *held = &side->instance->ranks[decode_rank].groups[group];
	uint64_t row_bytes = 0;
	for (uint32_t part = 0; part < spec->n_parts; part++)
		row_bytes += held->head_count[part] * spec->parts[part].row_bytes;

	struct replay_tokens moved = replay_moved(setup, group, prompt_tokens, reused);
	uint64_t tokens = 1;
	if (spec->kind != KVF_STATE)
		tokens =
			cp_tokens(moved, side->tokens_per_block, replay_rank_cp(side, decode_rank), side->cp);
	return held->n_layers * row_bytes * tokens;
}

uint64_t replay_list_blocks(
	const struct replay_setup *setup, uint32_t side, uint32_t group, uint64_t prompt_tokens)
{
	const struct kvf_group_spec *spec = &setup->model.kvf.groups[group];
	struct replay_blocks blocks =
		replay_blocks_of(spec, setup->sides[side].tokens_per_block, prompt_tokens);
	if (spec->kind == KVF_STATE)
		return 1;
	return div_up(blocks.total - blocks.first, setup->sides[side].cp);
}
