/* geometry_scenario.c - see geometry_scenario.h.
 *
 * Sizes are small so that every corner is near: a few layers, heads, tokens per block of 1 to 8, rows of 1 to 9 bytes. What is
 * drawn: both splits (TP, PP, attention-DP, CP on decode, rank order, stages, sometimes heads unlike any default), up to three
 * groups of every kind, layers that only one side has, memory orders regular and not, what is cached, evicted or without a
 * page, chunks and layer ranges.
 */
#include "geometry_scenario.h"
#include "geometry_support.h"

#include <stdlib.h>
#include <string.h>

uint64_t random_u64(struct random *random)
{
	uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint32_t random_in(struct random *random, uint32_t low, uint32_t high)
{
	return low + (uint32_t)(random_u64(random) % (high - low + 1));
}

bool random_one_in(struct random *random, uint32_t n)
{
	return random_in(random, 1, n) == 1;
}

static void shuffle(struct random *random, int32_t *values, uint32_t n)
{
	for (uint32_t i = n; i > 1; i--) {
		uint32_t j = random_in(random, 0, i - 1);
		int32_t value = values[i - 1];

		values[i - 1] = values[j];
		values[j] = value;
	}
}

uint8_t scenario_content(uint64_t seed, const struct oracle_cell *cell, uint64_t byte)
{
	struct random random = {seed ^ (uint64_t)cell->group << 56 ^ (uint64_t)cell->layer << 44 ^
				(uint64_t)cell->part << 40 ^ (uint64_t)cell->head << 28 ^ cell->token << 8 ^
				byte};

	return (uint8_t)random_u64(&random);
}

/* ------------------------------------------------------------------ models */

static void draw_group(struct random *random, struct kvf_group_spec *group)
{
	static const enum kvf_group_kind kinds[] = {
		KVF_PAGED, KVF_PAGED, KVF_PAGED, KVF_WINDOW, KVF_STATE, KVF_REPLICATED};
	uint32_t heads = random_in(random, 1, 8), row = random_in(random, 1, 9);
	bool alike;

	*group = (struct kvf_group_spec){.kind = kinds[random_in(random, 0, 5)], .dtype = KVF_INT8};
	group->n_parts = group->kind == KVF_STATE ? random_in(random, 1, 4) : random_in(random, 1, 2);
	if (group->kind == KVF_WINDOW)
		group->window_tokens = random_in(random, 1, 24);
	if (random_one_in(random, 5)) {
		heads = 1; /* MLA */
		group->n_parts = 1;
	}
	alike = !random_one_in(random, group->kind == KVF_STATE ? 2 : 12);
	for (uint32_t p = 0; p < group->n_parts; p++) {
		if (!alike) {
			heads = random_in(random, 1, 12);
			row = random_in(random, 1, 9);
		}
		group->parts[p] = (struct kvf_part_spec){heads, row};
	}
}

/* Each global layer goes to one group, sometimes to two (an indexer beside K and V). */
static void draw_layers(
	struct random *random, struct scenario_side *side, uint32_t n_groups, uint32_t n_layers)
{
	uint32_t spacing = random_in(random, 1, 3);

	for (uint32_t i = 0; i < n_layers; i++) {
		uint32_t home = i < n_groups ? i : random_in(random, 0, n_groups - 1);

		for (uint32_t g = 0; g < n_groups; g++)
			if (g == home || random_one_in(random, 6))
				side->layers[g][side->groups[g].n_layers++] = i * spacing;
	}
}

static void finish_model(struct scenario_side *side, uint32_t n_groups)
{
	for (uint32_t g = 0; g < n_groups; g++)
		side->groups[g].layers = side->layers[g];
	side->model = (struct kvf_model){
		.name = "random", .revision = "r", .n_groups = n_groups, .groups = side->groups};
}

/* The other side has the same model, but for a layer now and then that only one of them runs. */
static void draw_models(struct scenario *scenario)
{
	struct random *random = &scenario->random;
	struct scenario_side *prefill = &scenario->prefill, *decode = &scenario->decode;
	struct scenario_side *shorter = random_one_in(random, 2) ? prefill : decode;

	scenario->n_groups = random_in(random, 1, 3);
	for (uint32_t g = 0; g < scenario->n_groups; g++)
		draw_group(random, &prefill->groups[g]);
	draw_layers(random, prefill, scenario->n_groups, random_in(random, scenario->n_groups, 6));
	memcpy(decode->groups, prefill->groups, sizeof(decode->groups));
	memcpy(decode->layers, prefill->layers, sizeof(decode->layers));
	for (uint32_t g = 0; g < scenario->n_groups; g++) {
		if (shorter->groups[g].n_layers > 1 && random_one_in(random, 8))
			shorter->groups[g].n_layers--;
	}
	finish_model(prefill, scenario->n_groups);
	finish_model(decode, scenario->n_groups);
}

/* --------------------------------------------------------------- instances */

static uint32_t count_layers(const struct scenario_side *side)
{
	bool seen[KVF_MAX_LAYERS] = {false};
	uint32_t n = 0;

	for (uint32_t g = 0; g < side->model.n_groups; g++) {
		for (uint32_t i = 0; i < side->groups[g].n_layers; i++) {
			n += !seen[side->layers[g][i]];
			seen[side->layers[g][i]] = true;
		}
	}
	return n;
}

static void draw_stages(struct random *random, uint32_t *stages, uint32_t pp, uint32_t n_layers)
{
	for (uint32_t i = 0; i < pp; i++)
		stages[i] = 1;
	for (uint32_t i = pp; i < n_layers; i++)
		stages[random_in(random, 0, pp - 1)]++;
}

/* Heads that no default split gives: every rank of an attention group a random interval, together all heads. */
static void scatter_heads(struct random *random, struct scenario_side *side)
{
	for (uint32_t r = 0; r < side->instance->n_ranks; r++) {
		const struct kvf_rank *rank = &side->instance->ranks[r];
		uint32_t width = side->instance->tp / side->instance->dp;

		for (uint32_t g = 0; g < side->model.n_groups; g++) {
			struct kvf_rank_group *held = (struct kvf_rank_group *)(uintptr_t)&rank->groups[g];

			for (uint32_t p = 0; p < side->groups[g].n_parts; p++) {
				uint32_t heads = side->groups[g].parts[p].heads;
				uint32_t start = random_in(random, 0, heads - 1);
				uint32_t count = random_in(random, 1, heads - start);

				/* The first rank of each group sometimes holds all, so that most cells have a holder. */
				held->head_start[p] = rank->tp % width == 0 ? 0 : start;
				held->head_count[p] = rank->tp % width == 0 ? heads : count;
			}
		}
	}
}

static void draw_instance(struct scenario *scenario, struct scenario_side *side, enum kvf_role role)
{
	static const char *const orders[] = {NULL, "pp:cp:tp", "tp:pp:cp", "cp:tp:pp", "tp:cp:pp"};
	static const uint32_t sizes[] = {1, 1, 2, 2, 3, 4, 4, 5, 6, 8};
	struct random *random = &scenario->random;
	uint32_t n_layers = count_layers(side), stages[8];
	struct kvf_parallel parallel = {.tp = sizes[random_in(random, 0, 9)], .cp = 1, .dp = 1};

	parallel.pp = random_in(random, 1, n_layers < 3 ? n_layers : 3);
	if (role == KVF_DECODE && random_one_in(random, 4))
		parallel.cp = random_in(random, 2, 3);
	while (parallel.tp * parallel.pp * parallel.cp > SCENARIO_MAX_RANKS)
		parallel.tp--;
	if (random_one_in(random, 3))
		parallel.dp = random_in(random, 1, parallel.tp);
	while (parallel.tp % parallel.dp != 0)
		parallel.dp--;
	draw_stages(random, stages, parallel.pp, n_layers);
	parallel.stages = random_one_in(random, 2) ? stages : NULL;
	parallel.rank_order = orders[random_in(random, 0, 4)];
	side->instance = make_instance(&side->model, role, &parallel);
	if (random_one_in(random, 12))
		scatter_heads(random, side);
	assert_int_equal(kvfi_instance_check(side->instance), KVF_OK);
}

/* ----------------------------------------------------------------- layouts */

/* Strides of an irregular part: the three axes in any order, with gaps. Returns the bytes of one (layer, part). */
static uint64_t draw_strides(struct random *random, const struct kvf_group *group, struct kvf_part *part)
{
	uint64_t *strides[3] = {&part->token_stride, &part->head_stride, &part->block_stride};
	uint64_t counts[3] = {group->tokens_per_block, part->head_count, group->blocks};
	int32_t order[3] = {0, 1, 2};
	uint64_t span = part->row_bytes + random_in(random, 0, 2);

	shuffle(random, order, 3);
	for (uint32_t i = 0; i < 3; i++) {
		*strides[order[i]] = span;
		span = span * counts[order[i]] + (random_one_in(random, 3) ? random_in(random, 0, 5) : 0);
	}
	return span;
}

static bool parts_alike(const struct kvf_group *group)
{
	const struct kvf_part *first = &group->parts[0];

	for (uint32_t p = 1; p < group->n_parts; p++)
		if (group->parts[p].heads != first->heads ||
			group->parts[p].head_start != first->head_start ||
			group->parts[p].head_count != first->head_count ||
			group->parts[p].row_bytes != first->row_bytes)
			return false;
	return true;
}

/* Every (layer, part) in a pool of its own, the pools in any order with gaps between them. */
static uint64_t scatter_pools(struct random *random, struct kvf_layout *layout)
{
	uint64_t used = random_in(random, 0, 64);

	for (uint32_t g = 0; g < layout->n_groups; g++) {
		struct kvf_group *group = (struct kvf_group *)(uintptr_t)&layout->groups[g];
		uint64_t *bases = (uint64_t *)(uintptr_t)group->bases;
		int32_t order[256];
		uint64_t spans[KVF_MAX_PARTS];
		uint32_t n = group->n_layers * group->n_parts;

		for (uint32_t p = 0; p < group->n_parts; p++)
			spans[p] = draw_strides(random, group, &group->parts[p]);
		if (parts_alike(group) && random_one_in(random, 2)) {
			for (uint32_t p = 1; p < group->n_parts; p++) {
				group->parts[p] = group->parts[0];
				spans[p] = spans[0];
			}
		}
		for (uint32_t i = 0; i < n; i++)
			order[i] = (int32_t)i;
		if (random_one_in(random, 2))
			shuffle(random, order, n);
		for (uint32_t i = 0; i < n; i++) {
			bases[order[i]] = used;
			used += spans[(uint32_t)order[i] % group->n_parts] +
			        (random_one_in(random, 3) ? random_in(random, 0, 16) : 0);
		}
	}
	return used;
}

static void draw_layouts(struct scenario *scenario, struct scenario_side *side, uint32_t tpb)
{
	struct random *random = &scenario->random;
	uint32_t blocks = (uint32_t)((scenario->prompt_len + tpb - 1) / tpb) + random_in(random, 0, 3);
	uint32_t order = random_in(random, 1, 4);

	for (uint32_t r = 0; r < side->instance->n_ranks; r++) {
		struct kvf_layout_options options = {
			order == 4 ? KVF_LAYER_HND : (enum kvf_memory_order)order, tpb, blocks,
			random_in(random, 1, 3)};
		uint64_t bytes;

		assert_int_equal(
			kvf_layout_new(&side->model, side->instance, r, &options, &side->layouts[r], &bytes),
			KVF_OK);
		if (order == 4)
			bytes = scatter_pools(random, side->layouts[r]);
		side->memory_bytes[r] = bytes;
		side->memory[r] = malloc(bytes + 1);
		assert_non_null(side->memory[r]);
		for (uint64_t i = 0; i < bytes; i++)
			side->memory[r][i] = (uint8_t)(i * 37 + r);
		kvf_layout_move(side->layouts[r], (uint64_t)(uintptr_t)side->memory[r]);
	}
}

/* ------------------------------------------------------------------- lists */

static uint32_t prompt_blocks(const struct scenario *scenario, const struct kvf_group *group)
{
	if (group->kind == KVF_STATE)
		return 1;
	return (uint32_t)((scenario->prompt_len + group->tokens_per_block - 1) / group->tokens_per_block);
}

static void draw_ids(
	struct random *random, const struct kvf_group *group, struct scenario_list *list, uint32_t n)
{
	int32_t all[SCENARIO_MAX_BLOCKS + 8];

	for (uint32_t i = 0; i < group->blocks; i++)
		all[i] = (int32_t)i;
	if (!random_one_in(random, 3))
		shuffle(random, all, group->blocks);
	memcpy(list->ids, all, n * sizeof(*all));
	list->n = n;
}

/* Which blocks have no page is the same on all source ranks, as it is a fact of the request. */
static void draw_sources(struct scenario *scenario)
{
	struct random *random = &scenario->random;
	bool missing[KVF_MAX_GROUPS][SCENARIO_MAX_BLOCKS] = {{false}};
	bool holes = random_one_in(random, 6);

	for (uint32_t g = 0; g < scenario->n_groups; g++) {
		const struct kvf_group *group = &scenario->prefill.layouts[0]->groups[g];
		uint32_t n = prompt_blocks(scenario, group);

		scenario->evicted[g] = random_one_in(random, 6) ? random_in(random, 0, n) : 0;
		if (group->kind == KVF_STATE)
			scenario->evicted[g] = 0;
		for (uint32_t i = 0; i < n; i++)
			missing[g][i] = holes && random_one_in(random, 8);
	}
	for (uint32_t r = 0; r < scenario->prefill.instance->n_ranks; r++) {
		for (uint32_t g = 0; g < scenario->n_groups; g++) {
			const struct kvf_group *group = &scenario->prefill.layouts[r]->groups[g];
			struct scenario_list *list = &scenario->src_blocks[r][g];

			draw_ids(random, group, list, prompt_blocks(scenario, group));
			for (uint32_t i = 0; i < list->n; i++)
				if (missing[g][i])
					list->ids[i] = -1;
		}
	}
}

/* Blocks of the prompt that this destination keeps. */
static uint32_t kept_blocks(const struct scenario *scenario, uint32_t rank, const struct kvf_group *group)
{
	const struct kvf_instance *decode = scenario->decode.instance;
	uint32_t n = 0;

	if (group->kind == KVF_STATE)
		return 1;
	for (uint32_t b = 0; b < prompt_blocks(scenario, group); b++)
		n += b % decode->cp == decode->ranks[rank].cp;
	return n;
}

/* Mostly what the source still has; now and then more, which is an error outside windows. */
static uint32_t draw_dst_length(struct scenario *scenario, uint32_t rank, uint32_t g)
{
	struct random *random = &scenario->random;
	const struct kvf_group *src = &scenario->prefill.layouts[0]->groups[g];
	const struct kvf_group *dst = &scenario->decode.layouts[rank]->groups[g];
	uint32_t kept = kept_blocks(scenario, rank, dst);
	uint32_t n = random_one_in(random, 3) ? random_in(random, 0, kept) : kept;

	if (dst->kind == KVF_PAGED || dst->kind == KVF_REPLICATED) {
		uint32_t evicted_tokens = scenario->evicted[g] * src->tokens_per_block;
		uint32_t blocks = (evicted_tokens + dst->tokens_per_block - 1) / dst->tokens_per_block;
		uint32_t total = prompt_blocks(scenario, dst), most = 0;

		for (uint32_t b = blocks; b < total; b++)
			most += b % scenario->decode.instance->cp ==
			        scenario->decode.instance->ranks[rank].cp;
		if (n > most && !random_one_in(random, 12))
			n = most;
	}
	return n;
}

static void draw_destinations(struct scenario *scenario)
{
	struct random *random = &scenario->random;
	bool holes = random_one_in(random, 6);

	for (uint32_t r = 0; r < scenario->decode.instance->n_ranks; r++) {
		for (uint32_t g = 0; g < scenario->n_groups; g++) {
			const struct kvf_group *group = &scenario->decode.layouts[r]->groups[g];
			struct scenario_list *list = &scenario->dst_lists[r][g];

			draw_ids(random, group, list, draw_dst_length(scenario, r, g));
			for (uint32_t i = 0; holes && i < list->n; i++)
				if (random_one_in(random, 8))
					list->ids[i] = -1 - (int32_t)random_in(random, 0, 5);
		}
	}
}

/* ------------------------------------------------------------------ slices */

/* The blocks of one source rank that a slice names: the slice's, less what is evicted. */
static struct kvfi_ids slice_list(
	const struct scenario *scenario, uint32_t rank, uint32_t g, const struct kvfi_shape *shape)
{
	const struct kvf_group *group = &scenario->prefill.layouts[rank]->groups[g];
	const struct scenario_list *all = &scenario->src_blocks[rank][g];
	uint32_t tpb = group->tokens_per_block, first, end;
	bool ends = shape->token_end == shape->prompt_len;

	if (group->kind == KVF_STATE || group->kind == KVF_WINDOW) {
		first = 0;
		end = ends ? all->n : 0;
	} else {
		first = shape->first ? 0 : (uint32_t)(shape->token_start / tpb);
		end = ends ? all->n : (uint32_t)(shape->token_end / tpb);
	}
	if (first < scenario->evicted[g])
		first = scenario->evicted[g];
	return first < end ? (struct kvfi_ids){all->ids + first, end - first}
	                   : (struct kvfi_ids){all->ids, 0};
}

static void add_slice(struct scenario *scenario, const struct kvfi_shape *shape)
{
	struct scenario_slice *slice = &scenario->slices[scenario->n_slices++];

	slice->shape = *shape;
	for (uint32_t r = 0; r < scenario->prefill.instance->n_ranks; r++)
		for (uint32_t g = 0; g < scenario->n_groups; g++)
			slice->lists[r][g] = slice_list(scenario, r, g, shape);
}

/* One range of tokens, whole or by layer ranges. */
static void add_chunk(struct scenario *scenario, struct kvfi_shape shape, bool last)
{
	struct random *random = &scenario->random;

	if (random_one_in(random, 3)) {
		shape.layer_start = 0;
		shape.layer_end = random_in(random, 1, 9);
		add_slice(scenario, &shape);
		shape.layer_start = shape.layer_end;
		shape.layer_end = KVF_MAX_LAYERS;
	}
	shape.last = last;
	add_slice(scenario, &shape);
}

static void draw_slices(struct scenario *scenario)
{
	struct random *random = &scenario->random;
	uint32_t n = random_one_in(random, 2) ? 1 : random_in(random, 2, 5);
	uint64_t start =
		random_one_in(random, 4) ? random_in(random, 0, (uint32_t)scenario->prompt_len - 1) : 0;
	bool first = true;

	while (start < scenario->prompt_len) {
		uint64_t left = scenario->prompt_len - start;
		struct kvfi_shape shape = {.prompt_len = scenario->prompt_len,
			.token_start = start,
			.token_end = start + left,
			.first = first};

		if (n-- > 1)
			shape.token_end = start + random_in(random, 1, (uint32_t)left);
		else
			n = 1;
		add_chunk(scenario, shape, shape.token_end == scenario->prompt_len);
		start = shape.token_end;
		first = false;
	}
}

/* ----------------------------------------------------------------- content */

static bool source_lists(const struct scenario *scenario, uint32_t group, uint64_t block)
{
	const struct scenario_list *list = &scenario->src_blocks[0][group];

	return block < list->n && block >= scenario->evicted[group] && list->ids[block] >= 0;
}

bool scenario_source_has(const struct scenario *scenario, uint32_t group, uint64_t token)
{
	return source_lists(
		scenario, group, token / scenario->prefill.layouts[0]->groups[group].tokens_per_block);
}

static void fill_cell(struct scenario *scenario, uint32_t rank, struct oracle_cell cell, int32_t id)
{
	const struct kvf_layout *layout = scenario->prefill.layouts[rank];
	uint8_t *row = (uint8_t *)(uintptr_t)oracle_address(layout, &cell, id);

	for (uint64_t i = 0; i < layout->groups[cell.group].parts[cell.part].row_bytes; i++)
		row[i] = scenario_content(scenario->seed, &cell, i);
}

static void fill_block(struct scenario *scenario, uint32_t rank, uint32_t g, uint32_t block)
{
	const struct kvf_group *group = &scenario->prefill.layouts[rank]->groups[g];
	int32_t id = scenario->src_blocks[rank][g].ids[block];

	if (id < 0)
		return;
	for (uint32_t l = 0; l < group->n_layers; l++)
		for (uint32_t p = 0; p < group->n_parts; p++)
			for (uint32_t h = 0; h < group->parts[p].head_count; h++)
				for (uint32_t t = 0; t < group->tokens_per_block; t++)
					fill_cell(scenario, rank,
						(struct oracle_cell){g, group->layers[l], p,
							group->parts[p].head_start + h,
							(uint64_t)block * group->tokens_per_block + t},
						id);
}

static void fill_sources(struct scenario *scenario)
{
	for (uint32_t r = 0; r < scenario->prefill.instance->n_ranks; r++)
		for (uint32_t g = 0; g < scenario->n_groups; g++)
			for (uint32_t b = 0; b < scenario->src_blocks[r][g].n; b++)
				fill_block(scenario, r, g, b);
}

void scenario_init(struct scenario *scenario, uint64_t seed)
{
	static const uint32_t sizes[] = {1, 2, 3, 4, 5, 8};
	struct random *random = &scenario->random;
	uint32_t src_tpb, dst_tpb;

	memset(scenario, 0, sizeof(*scenario));
	scenario->seed = seed;
	random->state = seed;
	draw_models(scenario);
	draw_instance(scenario, &scenario->prefill, KVF_PREFILL);
	draw_instance(scenario, &scenario->decode, KVF_DECODE);
	scenario->prompt_len = random_in(random, 1, 32);
	scenario->src_dp = random_in(random, 0, scenario->prefill.instance->dp - 1);
	scenario->replica = random_one_in(random, 4) ? KVF_REPLICA_STRIPE : KVF_REPLICA_ELECT;
	src_tpb = dst_tpb = sizes[random_in(random, 0, 5)];
	if (scenario->decode.instance->cp == 1 && random_one_in(random, 2))
		dst_tpb = sizes[random_in(random, 0, 5)];
	draw_layouts(scenario, &scenario->prefill, src_tpb);
	draw_layouts(scenario, &scenario->decode, dst_tpb);
	draw_sources(scenario);
	draw_destinations(scenario);
	draw_slices(scenario);
	fill_sources(scenario);
}

static void side_fini(struct scenario_side *side)
{
	for (uint32_t r = 0; r < side->instance->n_ranks; r++) {
		kvf_layout_free(side->layouts[r]);
		free(side->memory[r]);
	}
	kvf_instance_free(side->instance);
}

void scenario_fini(struct scenario *scenario)
{
	side_fini(&scenario->prefill);
	side_fini(&scenario->decode);
}
