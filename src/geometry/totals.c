/* totals.c - what a plan amounts to, for people: the public nests, totals of a request, the runs of the first
 * block.
 *
 * All three describe the merged walk. Nothing here is on the path of a transfer. Any thread.
 */
#include <stdlib.h>
#include <string.h>
#include "base/checked.h"
#include "base/status.h"
#include "geometry/align.h"
#include "geometry/plan.h"

/* Tokens [first, end) fall into pieces: what one source block and one destination block share. */
static uint64_t piece_end(const struct kvfi_plan_group *group, uint64_t token, uint64_t end)
{
	uint64_t src_end = (token / group->src_tokens + 1) * group->src_tokens;
	uint64_t dst_end = (token / group->dst_tokens + 1) * group->dst_tokens;

	return kvfi_min_u64(end, kvfi_min_u64(src_end, dst_end));
}

static enum kvf_status add_public(struct kvf_plan *plan, const struct kvf_nest *nest)
{
	if (plan->n_public == plan->max_public) {
		uint32_t wanted = plan->max_public == 0 ? 8 : plan->max_public * 2;
		struct kvf_nest *bigger = realloc(plan->public_nests, wanted * sizeof(*bigger));

		if (!bigger)
			return kvfi_fail(KVF_ENOMEM, "plan: out of memory");
		plan->public_nests = bigger;
		plan->max_public = wanted;
	}
	plan->public_nests[plan->n_public++] = *nest;
	return KVF_OK;
}

/* One nest over `tokens` tokens that begin at `token` of the first destination block. */
static struct kvf_nest describe(uint32_t g, const struct kvfi_plan_group *group, const struct kvfi_nest *nest,
	uint64_t token, uint64_t tokens)
{
	struct kvfi_loops_ask ask = {.mode = KVFI_WALK_MERGED,
		.n_layers = nest->n_layers,
		.tokens = tokens,
		.block_tokens = group->dst_tokens};
	struct kvfi_loops loops;
	struct kvf_nest out = {.group = g,
		.part_first = nest->part_first,
		.n_parts = nest->n_parts,
		.layer_first = nest->layer_first,
		.n_layers = nest->n_layers,
		.head_start = nest->head_start,
		.head_end = nest->head_start + nest->n_heads};

	kvfi_nest_loops(nest, &ask, &loops);
	out.run_bytes = loops.run;
	out.src_offset = nest->origin.src + token % group->src_tokens * nest->step[KVFI_TOKENS].src;
	out.dst_offset = nest->origin.dst + token * nest->step[KVFI_TOKENS].dst;
	out.n_loops = loops.n;
	for (uint32_t i = 0; i < loops.n; i++)
		out.loops[i] = (struct kvf_loop){.count = loops.loop[i].count,
			.src_stride = (int64_t)loops.loop[i].src,
			.dst_stride = (int64_t)loops.loop[i].dst};
	return out;
}

/* The first destination block begins with a source block: its pieces have at most two lengths, the first and
 * the last. */
static enum kvf_status add_group_nests(struct kvf_plan *plan, uint32_t g)
{
	const struct kvfi_plan_group *group = &plan->groups[g];
	uint64_t first = piece_end(group, 0, group->dst_tokens);
	uint64_t last = group->dst_tokens % first == 0 ? first : group->dst_tokens % first;
	enum kvf_status status = KVF_OK;

	for (uint32_t i = 0; status == KVF_OK && i < group->n_nests; i++) {
		struct kvf_nest nest = describe(g, group, &group->nests[i], 0, first);

		status = add_public(plan, &nest);
		if (status == KVF_OK && last != first) {
			nest = describe(g, group, &group->nests[i], group->dst_tokens - last, last);
			status = add_public(plan, &nest);
		}
	}
	return status;
}

enum kvf_status kvfi_public_nests_build(struct kvf_plan *plan)
{
	enum kvf_status status = KVF_OK;

	for (uint32_t g = 0; status == KVF_OK && g < plan->n_groups; g++)
		status = add_group_nests(plan, g);
	return status;
}

uint32_t kvf_plan_nests(const kvf_plan *plan, const struct kvf_nest **nests_out)
{
	*nests_out = plan->public_nests;
	return plan->n_public;
}

/* Adds what `times` pieces of `tokens` tokens move. */
static void count_pieces(
	const struct kvfi_plan_group *group, uint64_t tokens, uint64_t times, struct kvf_plan_totals *totals)
{
	for (uint32_t i = 0; i < group->n_nests; i++) {
		const struct kvfi_nest *nest = &group->nests[i];
		struct kvfi_loops_ask ask = {.mode = KVFI_WALK_MERGED,
			.n_layers = nest->n_layers,
			.tokens = tokens,
			.block_tokens = tokens};
		uint64_t bytes = nest->n_layers * nest->layer_bytes * tokens;
		struct kvfi_loops loops;

		kvfi_nest_loops(nest, &ask, &loops);
		totals->bytes += bytes * times;
		totals->runs += bytes / loops.run * times;
		totals->run_bytes_max = kvfi_max_u64(totals->run_bytes_max, loops.run);
		totals->run_bytes_min = totals->run_bytes_min == 0
		                                ? loops.run
		                                : kvfi_min_u64(totals->run_bytes_min, loops.run);
	}
}

static void count_span(const struct kvfi_plan_group *group, uint64_t first, uint64_t end, uint64_t times,
	struct kvf_plan_totals *totals)
{
	uint64_t length = 0, n = 0;

	for (uint64_t token = first; token < end;) {
		uint64_t next = piece_end(group, token, end);

		if (next - token != length && n != 0) {
			count_pieces(group, length, n * times, totals);
			n = 0;
		}
		length = next - token;
		n++;
		token = next;
	}
	if (n != 0)
		count_pieces(group, length, n * times, totals);
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
	while (b != 0) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

/* The pieces repeat every lcm(src_tokens, dst_tokens) tokens, from whatever boundary one starts at. */
static void count_group(
	const struct kvfi_plan_group *group, uint64_t prompt_tokens, struct kvf_plan_totals *totals)
{
	uint64_t period = group->src_tokens / gcd(group->src_tokens, group->dst_tokens) * group->dst_tokens;
	uint64_t first = kvfi_max_u64(kvfi_stale_tokens(group, prompt_tokens, group->src_tokens),
		kvfi_stale_tokens(group, prompt_tokens, group->dst_tokens));
	uint64_t end = kvfi_min_u64(kvfi_end_tokens(group, prompt_tokens, group->src_tokens),
		kvfi_end_tokens(group, prompt_tokens, group->dst_tokens));
	uint64_t periods;

	if (first >= end)
		return;
	periods = (end - first) / period;
	if (periods != 0)
		count_span(group, first, first + period, periods, totals);
	count_span(group, first + periods * period, end, 1, totals);
}

enum kvf_status kvf_plan_totals(
	const kvf_plan *plan, uint64_t prompt_tokens, struct kvf_plan_totals *totals_out)
{
	struct kvf_plan_totals totals = {0};

	if (prompt_tokens == 0 || prompt_tokens > KVF_MAX_TOKENS)
		return kvfi_fail(KVF_EINVAL, "prompt_tokens: %llu, must be 1 to %llu",
			(unsigned long long)prompt_tokens, (unsigned long long)KVF_MAX_TOKENS);
	for (uint32_t g = 0; g < plan->n_groups; g++)
		count_group(&plan->groups[g], prompt_tokens, &totals);
	*totals_out = totals;
	return KVF_OK;
}

struct run_list {
	struct kvf_run *runs;
	uint64_t max, n;
};

static void add_run(struct run_list *list, const struct kvf_run *run)
{
	if (list->n < list->max)
		list->runs[list->n] = *run;
	list->n++;
}

/* The (layer, part) whose cells a run of this nest begins with, from its canonical position inside the nest.
 */
static void name_run(
	const struct kvfi_plan_group *group, const struct kvfi_nest *nest, uint64_t pos, struct kvf_run *run)
{
	uint64_t layer_bytes = nest->layer_bytes * group->dst_tokens;
	uint64_t part_bytes = (uint64_t)nest->n_heads * nest->row_bytes * group->dst_tokens;

	run->layer = group->layers[nest->layer_first + pos / layer_bytes];
	run->part = nest->part_first + (uint32_t)(pos % layer_bytes / part_bytes);
}

static void list_nest(uint32_t g, const struct kvfi_plan_group *group, const struct kvfi_nest *nest,
	uint64_t token, uint64_t tokens, struct run_list *list)
{
	struct kvfi_loops_ask ask = {.mode = KVFI_WALK_MERGED,
		.n_layers = nest->n_layers,
		.tokens = tokens,
		.block_tokens = group->dst_tokens};
	struct kvfi_loops loops;
	uint64_t n;

	kvfi_nest_loops(nest, &ask, &loops);
	n = nest->n_layers * nest->layer_bytes * tokens / loops.run;
	for (uint64_t i = 0; i < n; i++) {
		struct kvf_run run = {.group = g, .len_bytes = loops.run};
		uint64_t rest = i, pos = 0;

		run.src_offset = nest->origin.src + token % group->src_tokens * nest->step[KVFI_TOKENS].src;
		run.dst_offset = nest->origin.dst + token * nest->step[KVFI_TOKENS].dst;
		for (uint32_t l = loops.n; l-- > 0;) {
			uint64_t at = rest % loops.loop[l].count;

			rest /= loops.loop[l].count;
			run.src_offset += at * loops.loop[l].src;
			run.dst_offset += at * loops.loop[l].dst;
			pos += at * loops.loop[l].pos;
		}
		name_run(group, nest, pos, &run);
		add_run(list, &run);
	}
}

enum kvf_status kvf_plan_block0_runs(
	const kvf_plan *plan, struct kvf_run *runs, uint64_t max, uint64_t *n_out)
{
	struct run_list list = {.runs = runs, .max = max};

	for (uint32_t g = 0; g < plan->n_groups; g++) {
		const struct kvfi_plan_group *group = &plan->groups[g];

		for (uint64_t token = 0; token < group->dst_tokens;) {
			uint64_t next = piece_end(group, token, group->dst_tokens);

			for (uint32_t i = 0; i < group->n_nests; i++)
				list_nest(g, group, &group->nests[i], token, next - token, &list);
			token = next;
		}
	}
	*n_out = list.n;
	return KVF_OK;
}
