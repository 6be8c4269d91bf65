/* bind.c - from block lists to ranges of tokens with their block ids: the sender's and the receiver's side.
 *
 * Both sides compute the same ranges from the same numbers: the sender aligns its slice with the receiver's
 * list, the receiver checks the ranges that the sender names against its own list. Negative ids split ranges;
 * nothing is trimmed at the tail but what has no block on one side. Linear in the ids that a slice uses,
 * allocates nothing; the ids stay the callers'. Any thread.
 */
#include <string.h>
#include "base/status.h"
#include "geometry/align.h"
#include "geometry/limits.h"

/* The ids of one side: block j of the pair has ids[j * step + shift]. ids NULL: not known. */
struct side {
	const char *name;
	const int32_t *ids;
	uint64_t step;
	int64_t shift;
	uint32_t tpb, blocks;
};

/* What two lists agree on: tokens [first, end). */
struct aligned {
	uint32_t group;
	struct side src, dst;
	uint64_t first, end;
};

static const int32_t *id_at(const struct side *side, uint64_t block)
{
	return &side->ids[(int64_t)(block * side->step) + side->shift];
}

enum kvf_status kvfi_shape_check(const struct kvfi_shape *shape)
{
	if (shape->prompt_len == 0 || shape->prompt_len > KVF_MAX_TOKENS)
		return kvfi_fail(KVF_EINVAL, "prompt_len: %llu, must be 1 to %llu",
			(unsigned long long)shape->prompt_len, (unsigned long long)KVF_MAX_TOKENS);
	if (shape->token_start >= shape->token_end || shape->token_end > shape->prompt_len)
		return kvfi_fail(KVF_EINVAL, "token_start, token_end: [%llu, %llu) of a prompt of %llu",
			(unsigned long long)shape->token_start, (unsigned long long)shape->token_end,
			(unsigned long long)shape->prompt_len);
	if ((shape->layer_start != 0 || shape->layer_end != 0) &&
		(shape->layer_start >= shape->layer_end || shape->layer_end > KVF_MAX_LAYERS))
		return kvfi_fail(KVF_EINVAL, "layer_start, layer_end: [%u, %u), ids are below %u",
			shape->layer_start, shape->layer_end, KVF_MAX_LAYERS);
	return KVF_OK;
}

static void bound_init(
	struct kvfi_bound *bound, const kvf_plan *plan, uint32_t layer_start, uint32_t layer_end)
{
	bool all = layer_start == 0 && layer_end == 0;

	bound->plan = plan;
	bound->layer_start = layer_start;
	bound->layer_end = all ? KVF_MAX_LAYERS : layer_end;
	bound->n_ranges = 0;
	bound->bytes = 0;
	bound->units = 0;
	bound->dropped_tokens = 0;
}

static void bound_finish(struct kvfi_bound *bound)
{
	bound->units = kvfi_div_up(bound->bytes, KVFI_UNIT_BYTES);
}

/* Layers of the group that the slice names and this source owes; false if there are none. */
static bool clip(const struct kvfi_bound *bound, uint32_t g, uint32_t *lo_out, uint32_t *hi_out)
{
	kvfi_plan_clip_layers(&bound->plan->groups[g], bound->layer_start, bound->layer_end, lo_out, hi_out);
	return *lo_out < *hi_out;
}

static enum kvf_status add_range(
	struct kvfi_bound *bound, const struct aligned *at, uint64_t first, uint64_t end)
{
	const struct kvfi_plan_group *group = &bound->plan->groups[at->group];
	struct kvfi_bound_range *range;

	if (bound->n_ranges == KVFI_MAX_RANGES)
		return kvfi_fail(KVF_BLOCK_LIST, "group %u: more than %u separate ranges of tokens",
			at->group, KVFI_MAX_RANGES);
	range = &bound->ranges[bound->n_ranges++];
	*range = (struct kvfi_bound_range){
		.range = {.group = at->group, .token_first = first, .token_end = end},
		.pos_first = bound->bytes};
	(void)clip(bound, at->group, &range->layer_lo, &range->layer_hi);
	if (at->src.ids)
		range->src_ids = id_at(&at->src, first / at->src.tpb);
	if (at->dst.ids)
		range->dst_ids = id_at(&at->dst, first / at->dst.tpb);
	range->bytes_per_token = kvfi_layer_bytes(group, range->layer_lo, range->layer_hi);
	range->bytes = range->bytes_per_token * (end - first);
	bound->bytes += range->bytes;
	return KVF_OK;
}

/* Looks at the ids of the blocks that hold [first, end). */
static enum kvf_status scan_ids(
	const struct side *side, uint32_t g, uint64_t first, uint64_t end, bool *negative_out)
{
	uint64_t last = kvfi_div_up(end, side->tpb);

	*negative_out = false;
	for (uint64_t block = first / side->tpb; side->ids && block < last; block++) {
		int32_t id = *id_at(side, block);

		if (id >= 0 && (uint32_t)id >= side->blocks)
			return kvfi_fail(KVF_BLOCK_LIST,
				"group %u: block %llu of %s has id %d, it has %u blocks", g,
				(unsigned long long)block, side->name, id, side->blocks);
		*negative_out |= id < 0;
	}
	return KVF_OK;
}

static bool has_page(const struct side *side, uint64_t token)
{
	return !side->ids || *id_at(side, token / side->tpb) >= 0;
}

static uint64_t next_boundary(const struct aligned *at, uint64_t token)
{
	uint64_t src = (token / at->src.tpb + 1) * at->src.tpb, dst = (token / at->dst.tpb + 1) * at->dst.tpb;

	return kvfi_min_u64(at->end, kvfi_min_u64(src, dst));
}

/* Ranges around the blocks that have no page on one side. */
static enum kvf_status add_split(struct kvfi_bound *bound, const struct aligned *at)
{
	uint64_t first = at->first, token = at->first;
	enum kvf_status status = KVF_OK;

	while (status == KVF_OK && token < at->end) {
		uint64_t next = next_boundary(at, token);
		bool src = has_page(&at->src, token), dst = has_page(&at->dst, token);

		if (!src || !dst) {
			if (first < token)
				status = add_range(bound, at, first, token);
			if (dst)
				bound->dropped_tokens += next - token;
			first = next;
		}
		token = next;
	}
	if (status == KVF_OK && first < at->end)
		status = add_range(bound, at, first, at->end);
	return status;
}

static enum kvf_status add_aligned(struct kvfi_bound *bound, const struct aligned *at)
{
	bool src_negative = false, dst_negative = false;
	enum kvf_status status = scan_ids(&at->src, at->group, at->first, at->end, &src_negative);

	if (status == KVF_OK)
		status = scan_ids(&at->dst, at->group, at->first, at->end, &dst_negative);
	if (status != KVF_OK)
		return status;
	return src_negative || dst_negative ? add_split(bound, at) : add_range(bound, at, at->first, at->end);
}

/* The destination's list of the whole prompt: where it starts and ends. */
static enum kvf_status place_dst(const struct kvfi_plan_group *group, uint32_t g, uint64_t prompt_len,
	const struct kvfi_ids *list, struct aligned *at)
{
	uint64_t total = kvfi_total_blocks(group, prompt_len, group->dst_tokens);
	uint64_t stale = kvfi_stale_tokens(group, prompt_len, group->dst_tokens);

	if (list->n > total)
		return kvfi_fail(KVF_BLOCK_LIST, "group %u: decode names %u blocks, the prompt has %llu", g,
			list->n, (unsigned long long)total);
	at->group = g;
	at->dst = (struct side){.name = "decode",
		.ids = list->ids,
		.step = 1,
		.shift = -(int64_t)(total - list->n),
		.tpb = group->dst_tokens,
		.blocks = group->dst_blocks};
	at->src = (struct side){
		.name = "prefill", .step = group->cp, .tpb = group->src_tokens, .blocks = group->src_blocks};
	at->first = kvfi_max_u64(stale, (total - list->n) * group->dst_tokens);
	at->end = kvfi_min_u64(
		total * group->dst_tokens, kvfi_end_tokens(group, prompt_len, group->src_tokens));
	return KVF_OK;
}

/* Groups that move as a whole, with the slice that ends the prompt. */
static bool moves_whole(enum kvf_group_kind kind)
{
	return kind == KVF_WINDOW || kind == KVF_STATE;
}

void kvfi_slice_blocks(enum kvf_group_kind kind, uint32_t tpb, const struct kvfi_shape *shape,
	uint64_t *first_out, uint64_t *end_out)
{
	bool ends_prompt = shape->token_end == shape->prompt_len;

	if (kind == KVF_STATE) {
		*first_out = 0;
		*end_out = ends_prompt ? 1 : 0;
	} else if (kind == KVF_WINDOW) {
		*first_out = 0;
		*end_out = ends_prompt ? kvfi_div_up(shape->prompt_len, tpb) : 0;
	} else {
		*first_out = shape->first ? 0 : shape->token_start / tpb;
		*end_out = ends_prompt || shape->last ? kvfi_div_up(shape->token_end, tpb)
		                                      : shape->token_end / tpb;
		if (*end_out < *first_out)
			*end_out = *first_out;
	}
}

/* Puts the sender's slice on top of what place_dst found; afterwards first >= end means that nothing moves.
 */
static enum kvf_status place_src(const struct kvfi_plan_group *group, const struct kvfi_shape *shape,
	const struct kvfi_ids *list, struct aligned *at)
{
	uint64_t chunk_first, chunk_end, start, wanted;

	kvfi_slice_blocks(group->kind, group->src_tokens, shape, &chunk_first, &chunk_end);
	if (list->n > chunk_end - chunk_first)
		return kvfi_fail(KVF_BLOCK_LIST, "group %u: prefill names %u blocks, the slice has %llu",
			at->group, list->n, (unsigned long long)(chunk_end - chunk_first));
	at->src.ids = list->ids;
	at->src.shift = (int64_t)group->cp_rank - (int64_t)(chunk_end - list->n);
	start = kvfi_max_u64(kvfi_stale_tokens(group, shape->prompt_len, group->src_tokens),
		kvfi_thin(group, chunk_end - list->n) * group->src_tokens);
	wanted = kvfi_max_u64(at->first, kvfi_thin(group, chunk_first) * group->src_tokens);
	at->end = kvfi_min_u64(at->end, kvfi_thin(group, chunk_end) * group->src_tokens);
	at->first = kvfi_max_u64(start, wanted);
	if (wanted < at->end && wanted < start && group->kind != KVF_WINDOW)
		return kvfi_fail(KVF_BLOCK_LIST,
			"group %u: decode starts at token %llu, prefill only at %llu", at->group,
			(unsigned long long)wanted, (unsigned long long)start);
	return KVF_OK;
}

enum kvf_status kvfi_bind(const kvf_plan *plan, const struct kvfi_shape *shape, const struct kvfi_ids *src,
	const struct kvfi_ids *dst, struct kvfi_bound *bound_out)
{
	enum kvf_status status = kvfi_shape_check(shape);

	if (status != KVF_OK)
		return status;
	bound_init(bound_out, plan, shape->layer_start, shape->layer_end);
	for (uint32_t g = 0; status == KVF_OK && g < plan->n_groups; g++) {
		const struct kvfi_plan_group *group = &plan->groups[g];
		bool ends_prompt = shape->token_end == shape->prompt_len;
		struct aligned at;
		uint32_t lo, hi;

		if (!clip(bound_out, g, &lo, &hi) || (moves_whole(group->kind) && !ends_prompt))
			continue;
		status = place_dst(group, g, shape->prompt_len, &dst[g], &at);
		if (status == KVF_OK)
			status = place_src(group, shape, &src[g], &at);
		if (status == KVF_OK && at.first < at.end)
			status = add_aligned(bound_out, &at);
	}
	bound_finish(bound_out);
	return status;
}

/* Is a token a boundary between blocks on either side? */
static bool on_boundary(const struct aligned *at, uint64_t token)
{
	return token % at->src.tpb == 0 || token % at->dst.tpb == 0;
}

/* One range that the sender named, against what the own list asks for. */
static enum kvf_status check_range(const struct kvfi_range *range, const struct aligned *at)
{
	bool negative = false;
	enum kvf_status status;

	if (range->token_first >= range->token_end || range->token_first < at->first ||
		range->token_end > at->end)
		return kvfi_fail(KVF_OUT_OF_RANGE, "group %u: tokens [%llu, %llu), asked for [%llu, %llu)",
			range->group, (unsigned long long)range->token_first,
			(unsigned long long)range->token_end, (unsigned long long)at->first,
			(unsigned long long)at->end);
	if (!on_boundary(at, range->token_first) || !on_boundary(at, range->token_end))
		return kvfi_fail(KVF_OUT_OF_RANGE,
			"group %u: tokens [%llu, %llu) cut blocks of %u and of %u tokens", range->group,
			(unsigned long long)range->token_first, (unsigned long long)range->token_end,
			at->src.tpb, at->dst.tpb);
	status = scan_ids(&at->dst, range->group, range->token_first, range->token_end, &negative);
	if (status == KVF_OK && negative)
		status = kvfi_fail(KVF_OUT_OF_RANGE,
			"group %u: tokens [%llu, %llu) include blocks without a page", range->group,
			(unsigned long long)range->token_first, (unsigned long long)range->token_end);
	return status;
}

/* Ranges come in ascending order and do not overlap. */
static enum kvf_status check_order(const struct kvfi_range *before, const struct kvfi_range *range)
{
	if (!before || range->group > before->group ||
		(range->group == before->group && range->token_first >= before->token_end))
		return KVF_OK;
	return kvfi_fail(KVF_OUT_OF_RANGE,
		"group %u: tokens from %llu after group %u up to %llu: repeated or out of order",
		range->group, (unsigned long long)range->token_first, before->group,
		(unsigned long long)before->token_end);
}

static enum kvf_status check_ask(
	uint64_t prompt_len, uint32_t layer_start, uint32_t layer_end, uint32_t n_ranges)
{
	struct kvfi_shape shape = {.prompt_len = prompt_len,
		.token_end = prompt_len,
		.layer_start = layer_start,
		.layer_end = layer_end};

	if (n_ranges > KVFI_MAX_RANGES)
		return kvfi_fail(KVF_OUT_OF_RANGE, "%u ranges, at most %u", n_ranges, KVFI_MAX_RANGES);
	return kvfi_shape_check(&shape);
}

static enum kvf_status bind_range(struct kvfi_bound *bound, uint64_t prompt_len,
	const struct kvfi_range *range, const struct kvfi_ids *dst)
{
	struct aligned at;
	uint32_t lo, hi;
	enum kvf_status status;

	if (range->group >= bound->plan->n_groups || !clip(bound, range->group, &lo, &hi))
		return kvfi_fail(KVF_OUT_OF_RANGE,
			"group %u: this source owes nothing of it in layers [%u, %u)", range->group,
			bound->layer_start, bound->layer_end);
	status = place_dst(
		&bound->plan->groups[range->group], range->group, prompt_len, &dst[range->group], &at);
	if (status == KVF_OK)
		status = check_range(range, &at);
	return status == KVF_OK ? add_range(bound, &at, range->token_first, range->token_end) : status;
}

enum kvf_status kvfi_bind_ranges(const kvf_plan *plan, uint64_t prompt_len, uint32_t layer_start,
	uint32_t layer_end, const struct kvfi_range *ranges, uint32_t n_ranges, const struct kvfi_ids *dst,
	struct kvfi_bound *bound_out)
{
	enum kvf_status status = check_ask(prompt_len, layer_start, layer_end, n_ranges);

	if (status != KVF_OK)
		return status;
	bound_init(bound_out, plan, layer_start, layer_end);
	for (uint32_t i = 0; status == KVF_OK && i < n_ranges; i++) {
		status = check_order(i > 0 ? &ranges[i - 1] : NULL, &ranges[i]);
		if (status == KVF_OK)
			status = bind_range(bound_out, prompt_len, &ranges[i], dst);
	}
	bound_finish(bound_out);
	return status;
}

enum kvf_status kvfi_expected_ranges(
	const kvf_plan *plan, uint64_t prompt_len, const struct kvfi_ids *dst, struct kvfi_bound *bound_out)
{
	enum kvf_status status = check_ask(prompt_len, 0, 0, 0);

	if (status != KVF_OK)
		return status;
	bound_init(bound_out, plan, 0, 0);
	for (uint32_t g = 0; status == KVF_OK && g < plan->n_groups; g++) {
		const struct kvfi_plan_group *group = &plan->groups[g];
		struct aligned at;
		uint32_t lo, hi;

		if (!clip(bound_out, g, &lo, &hi))
			continue;
		status = place_dst(group, g, prompt_len, &dst[g], &at);
		if (status != KVF_OK)
			break;
		at.first = kvfi_max_u64(at.first, kvfi_stale_tokens(group, prompt_len, group->src_tokens));
		if (at.first < at.end)
			status = add_aligned(bound_out, &at);
	}
	bound_finish(bound_out);
	return status;
}
