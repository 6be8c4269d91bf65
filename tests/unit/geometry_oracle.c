/* geometry_oracle.c - see geometry_oracle.h. Every function is a transcription of a sentence of the design. */
#include "geometry_oracle.h"

/* ------------------------------------------------------------------ ranks */

static uint32_t width(const struct kvf_instance *instance)
{
	return instance->tp / instance->dp;
}

static uint32_t place(const struct kvf_instance *instance, uint32_t rank)
{
	return instance->ranks[rank].tp % width(instance);
}

static uint32_t dp_of(const struct kvf_instance *instance, uint32_t rank)
{
	return instance->ranks[rank].tp / width(instance);
}

bool oracle_in_dp(const struct oracle *oracle, uint32_t src)
{
	return dp_of(oracle->prefill, src) == oracle->src_dp;
}

static bool holds_layer(const struct kvf_instance *instance, uint32_t rank, uint32_t group, uint32_t layer)
{
	const struct kvf_rank_group *held = &instance->ranks[rank].groups[group];

	for (uint32_t i = 0; i < held->n_layers; i++)
		if (held->layers[i] == layer)
			return true;
	return false;
}

bool oracle_holds(const struct kvf_instance *instance, uint32_t rank, const struct oracle_cell *cell)
{
	const struct kvf_rank_group *held = &instance->ranks[rank].groups[cell->group];
	uint32_t first = held->head_start[cell->part], end = first + held->head_count[cell->part];

	return holds_layer(instance, rank, cell->group, cell->layer) && first <= cell->head &&
	       cell->head < end;
}

/* Do [r/a, (r+1)/a) and [q/b, (q+1)/b) intersect? On a ruler of a*b marks. */
static bool units_meet(const struct oracle *oracle, uint32_t src, uint32_t dst)
{
	uint32_t a = width(oracle->prefill), b = width(oracle->decode);
	uint32_t r = place(oracle->prefill, src), q = place(oracle->decode, dst);

	for (uint32_t mark = 0; mark < a * b; mark++)
		if (mark / b == r && mark / a == q)
			return true;
	return false;
}

static bool share_a_layer(const struct oracle *oracle, uint32_t src, uint32_t dst)
{
	for (uint32_t g = 0; g < oracle->prefill->n_groups; g++) {
		const struct kvf_rank_group *held = &oracle->prefill->ranks[src].groups[g];

		for (uint32_t i = 0; i < held->n_layers; i++)
			if (holds_layer(oracle->decode, dst, g, held->layers[i]))
				return true;
	}
	return false;
}

static uint32_t distance(const struct oracle *oracle, uint32_t src, uint32_t dst)
{
	uint32_t a = width(oracle->prefill), b = width(oracle->decode);
	int64_t middle_src = (int64_t)(2 * place(oracle->prefill, src) + 1) * b;
	int64_t middle_dst = (int64_t)(2 * place(oracle->decode, dst) + 1) * a;

	return (uint32_t)(middle_src > middle_dst ? middle_src - middle_dst : middle_dst - middle_src);
}

static bool is_candidate(
	const struct oracle *oracle, uint32_t src, uint32_t dst, const struct oracle_cell *cell)
{
	return oracle_in_dp(oracle, src) && oracle_holds(oracle->prefill, src, cell) &&
	       units_meet(oracle, src, dst);
}

/* Are two layers held by the same paired ranks? */
static bool same_holders(const struct oracle *oracle, uint32_t dst, uint32_t group, uint32_t a, uint32_t b)
{
	for (uint32_t s = 0; s < oracle->prefill->n_ranks; s++)
		if (oracle_in_dp(oracle, s) && units_meet(oracle, s, dst) &&
			holds_layer(oracle->prefill, s, group, a) !=
				holds_layer(oracle->prefill, s, group, b))
			return false;
	return true;
}

/* Which of k candidates sends this layer in stripe mode. */
static uint32_t stripe_index(
	const struct oracle *oracle, uint32_t dst, const struct oracle_cell *cell, uint32_t k)
{
	const struct kvf_rank_group *wanted = &oracle->decode->ranks[dst].groups[cell->group];
	uint32_t n = 0, nth = 0;

	for (uint32_t i = 0; i < wanted->n_layers; i++) {
		if (!same_holders(oracle, dst, cell->group, wanted->layers[i], cell->layer))
			continue;
		if (wanted->layers[i] < cell->layer)
			nth++;
		n++;
	}
	for (uint32_t i = 0; i < k; i++)
		if (i * n / k <= nth && nth < (i + 1) * n / k)
			return i;
	return UINT32_MAX;
}

uint32_t oracle_owner(const struct oracle *oracle, uint32_t dst, const struct oracle_cell *cell)
{
	uint32_t n = 0, wanted, best = UINT32_MAX;

	for (uint32_t s = 0; s < oracle->prefill->n_ranks; s++)
		n += is_candidate(oracle, s, dst, cell);
	if (n != 0) {
		wanted = oracle->replica == KVF_REPLICA_STRIPE ? stripe_index(oracle, dst, cell, n)
		                                               : dp_of(oracle->decode, dst) % n;
		for (uint32_t s = 0; s < oracle->prefill->n_ranks; s++)
			if (is_candidate(oracle, s, dst, cell) && wanted-- == 0)
				return s;
	}
	for (uint32_t s = 0; s < oracle->prefill->n_ranks; s++) {
		if (!oracle_in_dp(oracle, s) || !oracle_holds(oracle->prefill, s, cell))
			continue;
		if (best == UINT32_MAX || distance(oracle, s, dst) < distance(oracle, best, dst))
			best = s;
	}
	return best;
}

bool oracle_owes(const struct oracle *oracle, uint32_t src, uint32_t dst)
{
	const struct oracle elect = {
		.prefill = oracle->prefill, .decode = oracle->decode, .src_dp = oracle->src_dp};

	for (uint32_t g = 0; g < oracle->decode->n_groups; g++) {
		const struct kvf_rank_group *held = &oracle->decode->ranks[dst].groups[g];

		for (uint32_t i = 0; i < held->n_layers; i++) {
			for (uint32_t p = 0; p < KVF_MAX_PARTS; p++) {
				for (uint32_t h = 0; h < held->head_count[p]; h++) {
					struct oracle_cell cell = {
						g, held->layers[i], p, held->head_start[p] + h, 0};

					if (oracle_owner(&elect, dst, &cell) == src)
						return true;
				}
			}
		}
	}
	return false;
}

bool oracle_paired(const struct oracle *oracle, uint32_t src, uint32_t dst)
{
	if (!oracle_in_dp(oracle, src))
		return false;
	return (units_meet(oracle, src, dst) && share_a_layer(oracle, src, dst)) ||
	       oracle_owes(oracle, src, dst);
}

bool oracle_sends_aux(const struct oracle *oracle, uint32_t src, uint32_t dst)
{
	uint32_t ratio = width(oracle->prefill) / width(oracle->decode);
	uint32_t first_stage = UINT32_MAX, lowest = UINT32_MAX;

	if (ratio == 0)
		ratio = 1;
	for (uint32_t s = 0; s < oracle->prefill->n_ranks; s++)
		if (oracle_paired(oracle, s, dst) && oracle->prefill->ranks[s].pp < first_stage)
			first_stage = oracle->prefill->ranks[s].pp;
	for (uint32_t s = 0; s < oracle->prefill->n_ranks && lowest == UINT32_MAX; s++)
		if (oracle_paired(oracle, s, dst) && oracle->prefill->ranks[s].pp == first_stage &&
			place(oracle->prefill, s) % ratio == 0)
			lowest = s;
	/* Only maps unlike any default split leave nobody: then the lowest of the stage. */
	for (uint32_t s = 0; s < oracle->prefill->n_ranks && lowest == UINT32_MAX; s++)
		if (oracle_paired(oracle, s, dst) && oracle->prefill->ranks[s].pp == first_stage)
			lowest = s;
	return lowest == src;
}

/* ------------------------------------------------------------------ cells */

uint64_t oracle_address(const struct kvf_layout *layout, const struct oracle_cell *cell, int32_t id)
{
	const struct kvf_group *group = &layout->groups[cell->group];
	const struct kvf_part *part = &group->parts[cell->part];
	uint32_t index = 0;

	while (group->layers[index] != cell->layer)
		index++;
	return group->bases[index * group->n_parts + cell->part] + (uint64_t)id * part->block_stride +
	       (uint64_t)(cell->head - part->head_start) * part->head_stride +
	       cell->token % group->tokens_per_block * part->token_stride;
}

/* ------------------------------------------------------------------ lists */

static uint64_t blocks_of(uint64_t tokens, uint32_t tpb, bool up)
{
	return up && tokens % tpb != 0 ? tokens / tpb + 1 : tokens / tpb;
}

bool oracle_stale(const struct oracle *oracle, const struct kvf_group *group, uint64_t token)
{
	int64_t kept_from = (int64_t)oracle->prompt_len + 1 - (int64_t)group->window_tokens;

	if (group->kind != KVF_WINDOW || kept_from <= 0)
		return false;
	return token / group->tokens_per_block < (uint64_t)kept_from / group->tokens_per_block;
}

/* Global block numbers that this destination keeps, in order; a list is the suffix of them. */
static bool dst_keeps(
	const struct oracle *oracle, uint32_t dst, const struct kvf_group *group, uint64_t block)
{
	return group->kind == KVF_STATE || block % oracle->decode->cp == oracle->decode->ranks[dst].cp;
}

bool oracle_dst_names(const struct oracle *oracle, uint32_t dst, uint32_t group, const struct kvfi_ids *list,
	uint64_t token, int32_t *id_out)
{
	const struct kvf_group *in = &oracle->dst[dst]->groups[group];
	uint64_t total =
		in->kind == KVF_STATE ? 1 : blocks_of(oracle->prompt_len, in->tokens_per_block, true);
	uint64_t block = token / in->tokens_per_block, from_end = 0;

	if (block >= total || !dst_keeps(oracle, dst, in, block) || oracle_stale(oracle, in, token))
		return false;
	for (uint64_t b = block + 1; b < total; b++)
		from_end += dst_keeps(oracle, dst, in, b);
	if (from_end >= list->n)
		return false;
	*id_out = list->ids[list->n - 1 - from_end];
	return true;
}

/* Blocks of the source that the slice is made of. */
static void slice_blocks(const struct oracle *oracle, const struct kvf_group *group,
	const struct oracle_slice *slice, uint64_t *first_out, uint64_t *end_out)
{
	uint32_t tpb = group->tokens_per_block;
	bool ends = slice->token_end == oracle->prompt_len;

	if (group->kind == KVF_STATE || group->kind == KVF_WINDOW) {
		*first_out = 0;
		*end_out = !ends                      ? 0
		           : group->kind == KVF_STATE ? 1
		                                      : blocks_of(oracle->prompt_len, tpb, true);
		return;
	}
	*first_out = slice->first ? 0 : blocks_of(slice->token_start, tpb, false);
	*end_out = blocks_of(slice->token_end, tpb, ends);
}

enum source_answer {
	SOURCE_HAS,
	SOURCE_HAS_NOT,
	SOURCE_MISSES
};

/* Does the slice carry this token, and in which block? SOURCE_MISSES: it should, but its list does not reach back so far. */
static enum source_answer source_names(const struct oracle *oracle, uint32_t src, uint32_t g,
	const struct oracle_slice *slice, uint64_t token, int32_t *id_out)
{
	const struct kvf_group *group = &oracle->src[src]->groups[g];
	uint64_t block = token / group->tokens_per_block, first, end;

	slice_blocks(oracle, group, slice, &first, &end);
	if (block < first || block >= end || oracle_stale(oracle, group, token))
		return SOURCE_HAS_NOT;
	if (end - block > slice->src[g].n)
		return group->kind == KVF_WINDOW ? SOURCE_HAS_NOT : SOURCE_MISSES;
	*id_out = slice->src[g].ids[slice->src[g].n - (end - block)];
	return *id_out < 0 ? SOURCE_HAS_NOT : SOURCE_HAS;
}

struct collect {
	const struct oracle *oracle;
	uint32_t src, dst;
	const struct oracle_slice *slice;
	struct oracle_row *rows;
	size_t max, n;
	bool misses;
};

/* Do both lists name this token, with pages? */
static bool names_token(
	struct collect *to, uint32_t g, uint64_t token, int32_t *src_id_out, int32_t *dst_id_out)
{
	enum source_answer answer;

	if (!oracle_dst_names(to->oracle, to->dst, g, &to->slice->dst[g], token, dst_id_out))
		return false;
	answer = source_names(to->oracle, to->src, g, to->slice, token, src_id_out);
	to->misses |= answer == SOURCE_MISSES;
	return answer == SOURCE_HAS && *dst_id_out >= 0;
}

static void collect_cell(struct collect *to, struct oracle_cell cell)
{
	int32_t src_id = 0, dst_id = 0;

	(void)names_token(to, cell.group, cell.token, &src_id, &dst_id);
	if (to->n < to->max)
		to->rows[to->n] = (struct oracle_row){.cell = cell,
			.src = oracle_address(to->oracle->src[to->src], &cell, src_id),
			.dst = oracle_address(to->oracle->dst[to->dst], &cell, dst_id),
			.bytes = to->oracle->src[to->src]->groups[cell.group].parts[cell.part].row_bytes};
	to->n++;
}

/* Tokens [first, end) of one destination block: (layer, part, head, token). */
static void collect_tokens(struct collect *to, uint32_t g, uint64_t first, uint64_t end, const bool *owned)
{
	const struct kvf_group *group = &to->oracle->dst[to->dst]->groups[g];

	for (uint32_t i = 0; i < group->n_layers; i++) {
		for (uint32_t p = 0; p < group->n_parts; p++) {
			for (uint32_t h = 0; h < group->parts[p].head_count; h++) {
				uint32_t head = group->parts[p].head_start + h;

				if (!*owned++)
					continue;
				for (uint64_t token = first; token < end; token++)
					collect_cell(to,
						(struct oracle_cell){g, group->layers[i], p, head, token});
			}
		}
	}
}

/* A block is cut to the ranges of tokens that both sides name: a hole inside it makes two. */
static void collect_block(struct collect *to, uint32_t g, uint64_t block, const bool *owned)
{
	uint32_t tpb = to->oracle->dst[to->dst]->groups[g].tokens_per_block;
	uint64_t token = block * tpb, end = token + tpb;
	int32_t src_id, dst_id;

	while (token < end) {
		uint64_t first = token;

		while (token < end && names_token(to, g, token, &src_id, &dst_id))
			token++;
		collect_tokens(to, g, first, token, owned);
		token += token < end;
	}
}

/* For every (layer, part, head) of the group: does the slice name the layer and the source own it? */
static bool find_owned(const struct collect *to, uint32_t g, bool *owned)
{
	bool any = false;

	const struct kvf_group *group = &to->oracle->dst[to->dst]->groups[g];

	for (uint32_t i = 0; i < group->n_layers; i++) {
		bool named =
			group->layers[i] >= to->slice->layer_start && group->layers[i] < to->slice->layer_end;

		for (uint32_t p = 0; p < group->n_parts; p++) {
			for (uint32_t h = 0; h < group->parts[p].head_count; h++) {
				struct oracle_cell cell = {
					g, group->layers[i], p, group->parts[p].head_start + h, 0};

				*owned = named && oracle_owner(to->oracle, to->dst, &cell) == to->src;
				any |= *owned++;
			}
		}
	}
	return any;
}

size_t oracle_rows(const struct oracle *oracle, uint32_t src, uint32_t dst, const struct oracle_slice *slice,
	struct oracle_row *rows, size_t max)
{
	struct collect to = {
		.oracle = oracle, .src = src, .dst = dst, .slice = slice, .rows = rows, .max = max};

	for (uint32_t g = 0; g < oracle->decode->n_groups; g++) {
		const struct kvf_group *group = &oracle->dst[dst]->groups[g];
		uint64_t total = group->kind == KVF_STATE
		                         ? 1
		                         : blocks_of(oracle->prompt_len, group->tokens_per_block, true);
		bool owned[ORACLE_MAX_CELLS];

		if (!find_owned(&to, g, owned))
			continue;
		for (uint64_t block = 0; block < total; block++)
			collect_block(&to, g, block, owned);
	}
	return to.misses ? SIZE_MAX : to.n;
}
