/* walk.c - walking a bound slice as strips of runs.
 *
 * A walk is a position in its own order of bytes. Canonical walks (BOTH, SRC, DST) go range by range,
 * destination block by destination block, nest by nest; the merged walk cuts the ranges into pieces that lie
 * in one block on both sides, and its loops may be interchanged, but each nest still covers the same bytes,
 * so that the two orders have their nests in the same places. Any position can be found from its number
 * alone: that is what seek and the shares of workers use.
 *
 * A canonical block that spans several source blocks is "segmented": the loops run over (layer, part, head),
 * and the tokens below each point are cut into strips, one per source block.
 *
 * Allocates nothing, touches no memory but the walk, the plan and the block ids. One thread per walk.
 */
#include <string.h>
#include "base/assert.h"
#include "base/checked.h"
#include "geometry/plan.h"

static const struct kvfi_bound_range *range_of(const struct kvfi_walk *walk)
{
	return &walk->bound->ranges[walk->range];
}

static const struct kvfi_plan_group *group_of(const struct kvfi_walk *walk)
{
	return &walk->bound->plan->groups[range_of(walk)->range.group];
}

static uint64_t src_id(const struct kvfi_walk *walk, uint64_t token)
{
	const struct kvfi_plan_group *group = group_of(walk);
	const struct kvfi_bound_range *range = range_of(walk);
	uint64_t nth = token / group->src_tokens - range->range.token_first / group->src_tokens;

	return (uint64_t)(uint32_t)range->src_ids[nth * group->cp];
}

static uint64_t dst_id(const struct kvfi_walk *walk, uint64_t token)
{
	const struct kvfi_plan_group *group = group_of(walk);
	const struct kvfi_bound_range *range = range_of(walk);

	return (uint64_t)(uint32_t)
	        range->dst_ids[token / group->dst_tokens - range->range.token_first / group->dst_tokens];
}

/* The piece that holds this token of the walk's range. */
static void enter_piece(struct kvfi_walk *walk, uint64_t token)
{
	const struct kvfi_plan_group *group = group_of(walk);
	const struct kvfi_range *range = &range_of(walk)->range;
	uint64_t src_first = token / group->src_tokens * group->src_tokens;
	uint64_t dst_first = token / group->dst_tokens * group->dst_tokens;
	uint64_t first = kvfi_max_u64(range->token_first, dst_first);
	uint64_t end = kvfi_min_u64(range->token_end, dst_first + group->dst_tokens);

	walk->block_first = first;
	walk->block_tokens = end - first;
	if (walk->mode == KVFI_WALK_MERGED) {
		first = kvfi_max_u64(first, src_first);
		end = kvfi_min_u64(end, src_first + group->src_tokens);
	}
	walk->piece_first = first;
	walk->piece_tokens = end - first;
	walk->segmented = (walk->mode == KVFI_WALK_BOTH || walk->mode == KVFI_WALK_SRC) &&
	                  first / group->src_tokens != (end - 1) / group->src_tokens;
	walk->src_block = walk->mode == KVFI_WALK_DST ? 0 : src_id(walk, first);
	walk->dst_block = walk->mode == KVFI_WALK_SRC ? 0 : dst_id(walk, first);
}

/* Layers of a nest that the slice names; lo < hi. */
static void clip_nest(
	const struct kvfi_walk *walk, const struct kvfi_nest *nest, uint32_t *lo_out, uint32_t *hi_out)
{
	const struct kvfi_bound_range *range = range_of(walk);
	uint32_t end = nest->layer_first + nest->n_layers;

	*lo_out = nest->layer_first > range->layer_lo ? nest->layer_first : range->layer_lo;
	*hi_out = end < range->layer_hi ? end : range->layer_hi;
}

/* Bytes per token between the first named layer of the group and what this nest has of the named ones. */
static uint64_t nest_before(const struct kvfi_walk *walk, const struct kvfi_nest *nest)
{
	uint64_t named = group_of(walk)->layer_before[range_of(walk)->layer_lo];

	return nest->before > named ? nest->before - named : 0;
}

/* The strip of tokens at walk->token below the current point of a segmented block. */
static void begin_segment(struct kvfi_walk *walk, const struct kvfi_nest *nest)
{
	const struct kvfi_plan_group *group = group_of(walk);
	const struct kvfi_step *step = &nest->step[KVFI_TOKENS];
	uint64_t token = walk->piece_first + walk->token;
	uint64_t in_block = token % group->src_tokens;
	bool dense =
		step->src == nest->row_bytes && (walk->mode == KVFI_WALK_SRC || step->dst == nest->row_bytes);

	walk->strip_tokens = kvfi_min_u64(walk->piece_tokens - walk->token, group->src_tokens - in_block);
	walk->src = walk->point_src + src_id(walk, token) * nest->block.src + in_block * step->src;
	walk->dst = walk->point_dst + walk->token * step->dst;
	walk->run = dense ? walk->strip_tokens * nest->row_bytes : nest->row_bytes;
	walk->left = dense ? 1 : walk->strip_tokens;
	walk->step_src = step->src;
	walk->step_dst = step->dst;
	walk->skip = 0;
}

/* The innermost loop from the current point of the outer ones. */
static void begin_loop(struct kvfi_walk *walk)
{
	const struct kvfi_walk_loop *inner = walk->loops.n == 0 ? NULL : &walk->loops.loop[walk->loops.n - 1];

	walk->src = walk->point_src;
	walk->dst = walk->point_dst;
	walk->at = walk->point_at;
	walk->run = walk->loops.run;
	walk->left = inner ? inner->count : 1;
	walk->step_src = inner ? inner->src : 0;
	walk->step_dst = inner ? inner->dst : 0;
	walk->step_at = inner ? inner->pos : 0;
	walk->skip = 0;
}

static const struct kvfi_nest *nest_of(const struct kvfi_walk *walk)
{
	return &group_of(walk)->nests[walk->nest];
}

static void begin_strip(struct kvfi_walk *walk)
{
	if (walk->segmented)
		begin_segment(walk, nest_of(walk));
	else
		begin_loop(walk);
}

/* Loops and first point of nest n in the current piece. */
static void enter_nest(struct kvfi_walk *walk, uint32_t n)
{
	const struct kvfi_plan_group *group = group_of(walk);
	const struct kvfi_bound_range *range = range_of(walk);
	const struct kvfi_nest *nest = &group->nests[n];
	const struct kvfi_step *token = &nest->step[KVFI_TOKENS];
	struct kvfi_loops_ask ask = {.mode = walk->mode,
		.tokens = walk->segmented ? 0 : walk->piece_tokens,
		.block_tokens = walk->block_tokens};
	uint32_t lo, hi;

	clip_nest(walk, nest, &lo, &hi);
	ask.n_layers = hi - lo;
	kvfi_nest_loops(nest, &ask, &walk->loops);
	walk->nest = n;
	memset(walk->index, 0, sizeof(walk->index));
	walk->token = 0;
	walk->point_src = nest->origin.src + (lo - nest->layer_first) * nest->step[KVFI_LAYERS].src;
	walk->point_dst = nest->origin.dst + (lo - nest->layer_first) * nest->step[KVFI_LAYERS].dst +
	                  walk->dst_block * nest->block.dst +
	                  walk->piece_first % group->dst_tokens * token->dst;
	if (!walk->segmented)
		walk->point_src += walk->src_block * nest->block.src +
		                   walk->piece_first % group->src_tokens * token->src;
	walk->point_at = range->pos_first +
	                 range->bytes_per_token * (walk->block_first - range->range.token_first) +
	                 nest_before(walk, nest) * walk->block_tokens +
	                 (walk->piece_first - walk->block_first) * nest->row_bytes;
}

/* The nest of the group that holds byte-per-token number `place`. */
static uint32_t find_nest(const struct kvfi_plan_group *group, uint64_t place)
{
	uint32_t lo = 0, hi = group->n_nests;

	while (hi - lo > 1) {
		uint32_t middle = lo + (hi - lo) / 2;

		if (group->nests[middle].before <= place)
			lo = middle;
		else
			hi = middle;
	}
	return lo;
}

/* Moves from the first byte of a nest to its byte number `offset`. */
static void enter_offset(struct kvfi_walk *walk, uint64_t offset)
{
	const struct kvfi_nest *nest = nest_of(walk);
	uint64_t leaf = walk->segmented ? walk->piece_tokens * nest->row_bytes : walk->loops.run;
	uint64_t point = offset / leaf, inside = offset % leaf;
	uint32_t n_outer = walk->segmented || walk->loops.n == 0 ? walk->loops.n : walk->loops.n - 1;
	uint64_t inner = 0;

	if (n_outer < walk->loops.n) {
		inner = point % walk->loops.loop[n_outer].count;
		point /= walk->loops.loop[n_outer].count;
	}
	for (uint32_t i = n_outer; i-- > 0;) {
		const struct kvfi_walk_loop *loop = &walk->loops.loop[i];

		walk->index[i] = point % loop->count;
		point /= loop->count;
		walk->point_src += walk->index[i] * loop->src;
		walk->point_dst += walk->index[i] * loop->dst;
		walk->point_at += walk->index[i] * loop->pos;
	}
	if (walk->segmented) {
		uint64_t token = inside / nest->row_bytes, in_block;

		in_block = (walk->piece_first + token) % group_of(walk)->src_tokens;
		walk->token = token - kvfi_min_u64(token, in_block);
		inside -= walk->token * nest->row_bytes;
		begin_strip(walk);
		inner = inside / walk->run;
		inside %= walk->run;
	} else {
		begin_strip(walk);
	}
	walk->src += inner * walk->step_src;
	walk->dst += inner * walk->step_dst;
	walk->at += inner * walk->step_at;
	walk->left -= inner;
	walk->skip = inside;
}

/* Finds everything from walk->pos alone. */
static void load(struct kvfi_walk *walk)
{
	const struct kvfi_bound *bound = walk->bound;
	const struct kvfi_bound_range *range;
	const struct kvfi_plan_group *group;
	const struct kvfi_nest *nest;
	uint64_t offset, named;

	walk->range = 0;
	while (walk->range + 1 < bound->n_ranges && bound->ranges[walk->range + 1].pos_first <= walk->pos)
		walk->range++;
	range = range_of(walk);
	group = group_of(walk);
	offset = walk->pos - range->pos_first;
	enter_piece(walk, range->range.token_first + offset / range->bytes_per_token);
	offset -= (walk->piece_first - range->range.token_first) * range->bytes_per_token;
	named = group->layer_before[range->layer_lo];
	nest = &group->nests[find_nest(group, named + offset / walk->piece_tokens)];
	enter_nest(walk, (uint32_t)(nest - group->nests));
	enter_offset(walk, offset - nest_before(walk, nest) * walk->piece_tokens);
	walk->loaded = true;
}

/* The next piece; the walk is not at its end. */
static void next_piece(struct kvfi_walk *walk)
{
	const struct kvfi_bound_range *range = range_of(walk);
	uint64_t token = walk->piece_first + walk->piece_tokens;

	if (token == range->range.token_end) {
		walk->range++;
		KVFI_ASSERT(walk->range < walk->bound->n_ranges);
		range = range_of(walk);
		token = range->range.token_first;
	}
	enter_piece(walk, token);
	enter_nest(walk, find_nest(group_of(walk), group_of(walk)->layer_before[range->layer_lo]));
}

static void next_nest(struct kvfi_walk *walk)
{
	const struct kvfi_plan_group *group = group_of(walk);
	uint32_t next = walk->nest + 1;

	if (next < group->n_nests && group->nests[next].layer_first < range_of(walk)->layer_hi)
		enter_nest(walk, next);
	else
		next_piece(walk);
}

/* The next point of the outer loops, in this nest or the next. */
static void next_point(struct kvfi_walk *walk)
{
	uint32_t n_outer = walk->segmented || walk->loops.n == 0 ? walk->loops.n : walk->loops.n - 1;

	for (uint32_t i = n_outer; i-- > 0;) {
		const struct kvfi_walk_loop *loop = &walk->loops.loop[i];
		uint64_t back = walk->index[i];

		if (++walk->index[i] < loop->count) {
			walk->point_src += loop->src;
			walk->point_dst += loop->dst;
			walk->point_at += loop->pos;
			return;
		}
		walk->index[i] = 0;
		walk->point_src -= back * loop->src;
		walk->point_dst -= back * loop->dst;
		walk->point_at -= back * loop->pos;
	}
	next_nest(walk);
}

static void next_strip(struct kvfi_walk *walk)
{
	if (walk->segmented) {
		walk->token += walk->strip_tokens;
		if (walk->token < walk->piece_tokens) {
			begin_strip(walk);
			return;
		}
		walk->token = 0;
	}
	next_point(walk);
	begin_strip(walk);
}

void kvfi_walk_init(struct kvfi_walk *walk, const struct kvfi_bound *bound, enum kvfi_walk_mode mode,
	uint64_t unit_begin, uint64_t unit_end)
{
	memset(walk, 0, sizeof(*walk));
	walk->bound = bound;
	walk->mode = mode;
	walk->pos = unit_begin < bound->units ? unit_begin * KVFI_UNIT_BYTES : bound->bytes;
	walk->end = unit_end < bound->units ? unit_end * KVFI_UNIT_BYTES : bound->bytes;
}

void kvfi_walk_seek(struct kvfi_walk *walk, uint64_t pos)
{
	KVFI_ASSERT(pos <= walk->bound->bytes);
	walk->pos = pos;
	walk->loaded = false;
}

/* Gives out part of the current run. */
static uint64_t take_part(struct kvfi_walk *walk, uint64_t room, struct kvfi_strip *strip)
{
	uint64_t len = kvfi_min_u64(walk->run - walk->skip, room);

	strip->len = len;
	strip->count = 1;
	strip->src += walk->skip;
	strip->dst += walk->skip;
	strip->pos += walk->mode == KVFI_WALK_MERGED ? walk->skip : 0;
	walk->skip += len;
	return len;
}

/* Gives out whole runs. */
static uint64_t take_runs(struct kvfi_walk *walk, uint64_t room, struct kvfi_strip *strip)
{
	uint64_t all = walk->left * walk->run;

	strip->len = walk->run;
	strip->count = all <= room ? walk->left : room / walk->run;
	return strip->count * walk->run;
}

bool kvfi_walk_next(struct kvfi_walk *walk, uint64_t max_bytes, struct kvfi_strip *strip_out)
{
	bool merged = walk->mode == KVFI_WALK_MERGED;
	uint64_t room, taken, runs;

	if (walk->pos >= walk->end)
		return false;
	if (!walk->loaded)
		load(walk);
	else if (walk->left == 0)
		next_strip(walk);
	room = kvfi_min_u64(max_bytes, walk->end - walk->pos);
	*strip_out = (struct kvfi_strip){.src = walk->src,
		.dst = walk->dst,
		.pos = merged ? walk->at : walk->pos,
		.src_stride = (int64_t)walk->step_src,
		.dst_stride = (int64_t)walk->step_dst,
		.pos_stride = (int64_t)(merged ? walk->step_at : walk->run)};
	if (walk->skip != 0 || room < walk->run) {
		taken = take_part(walk, room, strip_out);
		runs = walk->skip == walk->run;
	} else {
		taken = take_runs(walk, room, strip_out);
		runs = strip_out->count;
	}
	if (runs != 0) {
		walk->src += runs * walk->step_src;
		walk->dst += runs * walk->step_dst;
		walk->at += runs * walk->step_at;
		walk->left -= runs;
		walk->skip = 0;
	}
	walk->pos += taken;
	if (walk->mode == KVFI_WALK_DST)
		strip_out->src = 0;
	if (walk->mode == KVFI_WALK_SRC)
		strip_out->dst = 0;
	return true;
}
