/* geometry_property.c - random worlds against the oracle.
 *
 * For every world: every pair is planned, every slice bound and walked; what arrives is compared with the oracle byte by byte,
 * and with the content that the cell must have. A failure prints the seed and the command that replays it alone.
 */
#include "../sanitized.h"
#include "geometry_scenario.h"
#include "geometry_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORLDS   CASES(4000u) /* some 75,000 layout pairs */
#define MAX_ROWS 65536u
#define WHOLE    UINT32_MAX /* strips of a walk */

static uint64_t current_seed;

#define CHECK(condition, ...)                                                                                \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			failed(#condition, __LINE__, __VA_ARGS__);                                           \
	} while (0)

__attribute__((format(printf, 3, 4))) static void failed(
	const char *condition, int line, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	(void)vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	print_error("line %d: %s: %s (kvf_error: %s)\n", line, condition, text, kvf_error());
	print_error("replay: KVFERRY_SEED=%#llx build/tests/unit/unit_geometry_property\n",
		(unsigned long long)current_seed);
	fail();
}

/* One (src, dst) of a world in work. */
struct pair_work {
	struct scenario *scenario;
	struct oracle *oracle;
	struct random *random;
	uint32_t src, dst;
	kvf_plan *plan;
	struct kvfi_ids dst_lists[KVF_MAX_GROUPS];
	struct oracle_row *rows;
	size_t n_rows;
	uint64_t bytes;   /* of the slice in work, by the oracle */
	uint8_t *arrived; /* per byte of the destination's memory */
};

static uint64_t random_limit(struct random *random)
{
	switch (random_in(random, 0, 3)) {
	case 0:
		return random_in(random, 1, 16);
	case 1:
		return random_in(random, 1, 512);
	default:
		return UINT64_MAX;
	}
}

static uint64_t dst_index(const struct pair_work *work, uint64_t address)
{
	uint64_t index = address - (uint64_t)(uintptr_t)work->scenario->decode.memory[work->dst];

	CHECK(index < work->scenario->decode.memory_bytes[work->dst], "destination address outside the pool");
	return index;
}

/* Copies what the merged walk says into the destination, counting arrivals. Returns the number of bytes and runs. */
static uint64_t copy_share(struct pair_work *work, struct kvfi_walk *walk, uint64_t limit, uint64_t *runs)
{
	struct kvfi_strip strip;
	uint64_t bytes = 0;

	while (kvfi_walk_next(walk, limit, &strip)) {
		CHECK(strip.len > 0 && strip.count > 0, "an empty strip");
		CHECK(strip.len * strip.count <= limit, "%llu bytes over the limit",
			(unsigned long long)strip.len);
		for (uint64_t i = 0; i < strip.count; i++) {
			uint64_t src = strip.src + i * (uint64_t)strip.src_stride;
			uint64_t dst = strip.dst + i * (uint64_t)strip.dst_stride;

			(void)dst_index(work, dst);
			(void)dst_index(work, dst + strip.len - 1);
			memcpy((void *)(uintptr_t)dst, (const void *)(uintptr_t)src, strip.len);
			for (uint64_t b = 0; b < strip.len; b++)
				work->arrived[dst_index(work, dst + b)]++;
		}
		bytes += strip.len * strip.count;
		*runs += strip.count;
	}
	return bytes;
}

/* KVFI_UNIT_BYTES is larger than these worlds: shares are cut at any byte by hand. */
static void check_merged(struct pair_work *work, const struct kvfi_bound *bound)
{
	uint64_t at = 0, bytes = 0, runs = 0;

	while (at < bound->bytes) {
		uint64_t end = random_one_in(work->random, 2)
		                       ? bound->bytes
		                       : at + 1 + random_u64(work->random) % (bound->bytes - at);
		struct kvfi_walk walk;

		kvfi_walk_init(&walk, bound, KVFI_WALK_MERGED, 0, bound->units);
		walk.pos = at;
		walk.end = end;
		bytes += copy_share(work, &walk, random_limit(work->random), &runs);
		at = end;
	}
	CHECK(bytes == work->bytes, "merged walk moves %llu bytes, expected %llu", (unsigned long long)bytes,
		(unsigned long long)work->bytes);
}

/* Where the oracle has canonical position pos: row index and byte in it; row_at is the position of row *row. */
static void oracle_seek(const struct pair_work *work, uint64_t pos, size_t *row, uint64_t *row_at)
{
	if (pos < *row_at) {
		*row = 0;
		*row_at = 0;
	}
	while (pos >= *row_at + work->rows[*row].bytes) {
		*row_at += work->rows[*row].bytes;
		(*row)++;
	}
}

/* A canonical walk from pos on, byte by byte, for at most `steps` strips. */
static void check_canonical(struct pair_work *work, const struct kvfi_bound *bound, enum kvfi_walk_mode mode,
	uint64_t pos, uint32_t steps)
{
	uint64_t row_at = 0, limit = random_limit(work->random);
	bool whole = steps == WHOLE;
	struct kvfi_strip strip;
	struct kvfi_walk walk;
	size_t row = 0;

	kvfi_walk_init(&walk, bound, mode, 0, bound->units);
	if (pos != 0 || random_one_in(work->random, 2))
		kvfi_walk_seek(&walk, pos);
	while (steps-- > 0 && kvfi_walk_next(&walk, limit, &strip)) {
		CHECK(strip.pos == pos, "mode %d: strip at %llu, expected %llu", (int)mode,
			(unsigned long long)strip.pos, (unsigned long long)pos);
		CHECK(strip.count == 1 || strip.pos_stride == (int64_t)strip.len,
			"canonical runs follow each other");
		for (uint64_t i = 0; i < strip.count * strip.len; i++, pos++) {
			uint64_t run = i / strip.len, byte = i % strip.len;

			CHECK(pos < work->bytes, "mode %d: beyond the end", (int)mode);
			oracle_seek(work, pos, &row, &row_at);
			if (mode != KVFI_WALK_DST)
				CHECK(strip.src + run * (uint64_t)strip.src_stride + byte ==
						work->rows[row].src + (pos - row_at),
					"mode %d: source of position %llu", (int)mode,
					(unsigned long long)pos);
			if (mode != KVFI_WALK_SRC)
				CHECK(strip.dst + run * (uint64_t)strip.dst_stride + byte ==
						work->rows[row].dst + (pos - row_at),
					"mode %d: destination of position %llu", (int)mode,
					(unsigned long long)pos);
		}
	}
	CHECK(!whole || pos == work->bytes, "mode %d ends at %llu of %llu", (int)mode,
		(unsigned long long)pos, (unsigned long long)work->bytes);
}

static void check_all_canonical(
	struct pair_work *work, const struct kvfi_bound *bound, enum kvfi_walk_mode mode)
{
	check_canonical(work, bound, mode, 0, WHOLE);
	for (uint32_t i = 0; i < 3 && work->bytes > 0; i++)
		check_canonical(work, bound, mode, random_u64(work->random) % (work->bytes + 1), 4);
}

/* Positions that the merged walk names belong to the cells that it names. */
static void check_merged_positions(struct pair_work *work, const struct kvfi_bound *bound)
{
	uint64_t row_at = 0;
	struct kvfi_strip strip;
	struct kvfi_walk walk;
	size_t row = 0;

	kvfi_walk_init(&walk, bound, KVFI_WALK_MERGED, 0, bound->units);
	while (kvfi_walk_next(&walk, UINT64_MAX, &strip)) {
		for (uint64_t i = 0; i < strip.count; i++) {
			oracle_seek(work, strip.pos + i * (uint64_t)strip.pos_stride, &row, &row_at);
			CHECK(strip.dst + i * (uint64_t)strip.dst_stride ==
					work->rows[row].dst + strip.pos + i * (uint64_t)strip.pos_stride -
						row_at,
				"position of a merged run");
		}
	}
}

/* The receiver finds the same bytes from the ranges that the sender names. */
static void check_receiver(
	struct pair_work *work, const struct kvfi_bound *sent, const struct kvfi_shape *shape)
{
	struct kvfi_range ranges[KVFI_MAX_RANGES];
	struct kvfi_bound bound;
	enum kvf_status status;

	for (uint32_t i = 0; i < sent->n_ranges; i++)
		ranges[i] = sent->ranges[i].range;
	status = kvfi_bind_ranges(work->plan, shape->prompt_len, shape->layer_start, shape->layer_end, ranges,
		sent->n_ranges, work->dst_lists, &bound);
	CHECK(status == KVF_OK, "receiver refuses the sender's ranges");
	CHECK(bound.bytes == sent->bytes, "receiver counts %llu bytes, sender %llu",
		(unsigned long long)bound.bytes, (unsigned long long)sent->bytes);
	check_all_canonical(work, &bound, KVFI_WALK_DST);
}

static void check_slice(
	struct pair_work *work, const struct scenario_slice *slice, uint64_t *sent_bytes, bool *refused)
{
	bool all = slice->shape.layer_end == 0;
	struct oracle_slice asked = {.token_start = slice->shape.token_start,
		.token_end = slice->shape.token_end,
		.layer_start = slice->shape.layer_start,
		.layer_end = all ? KVF_MAX_LAYERS : slice->shape.layer_end,
		.first = slice->shape.first,
		.last = slice->shape.last,
		.src = slice->lists[work->src],
		.dst = work->dst_lists};
	struct kvfi_bound bound;
	enum kvf_status status =
		kvfi_bind(work->plan, &slice->shape, slice->lists[work->src], work->dst_lists, &bound);

	work->n_rows = oracle_rows(work->oracle, work->src, work->dst, &asked, work->rows, MAX_ROWS);
	if (work->n_rows == SIZE_MAX) {
		CHECK(status == KVF_BLOCK_LIST, "expected a refusal, got %s", kvf_status_name(status));
		*refused = true;
		return;
	}
	CHECK(status == KVF_OK, "bind: %s", kvf_status_name(status));
	CHECK(work->n_rows <= MAX_ROWS, "a world too large");
	work->bytes = 0;
	for (size_t i = 0; i < work->n_rows; i++)
		work->bytes += work->rows[i].bytes;
	CHECK(bound.bytes == work->bytes, "bound %llu bytes, expected %llu", (unsigned long long)bound.bytes,
		(unsigned long long)work->bytes);
	check_merged(work, &bound);
	check_merged_positions(work, &bound);
	check_all_canonical(work, &bound, KVFI_WALK_BOTH);
	check_all_canonical(work, &bound, KVFI_WALK_SRC);
	check_receiver(work, &bound, &slice->shape);
	*sent_bytes += bound.bytes;
}

/* What must arrive is what was sent, unless the source had less than everything. */
static void check_required(struct pair_work *work, uint64_t sent_bytes)
{
	const struct scenario *scenario = work->scenario;
	struct kvfi_bound bound;
	bool complete = true;

	CHECK(kvfi_expected_ranges(work->plan, scenario->prompt_len, work->dst_lists, &bound) == KVF_OK,
		"expected");
	for (uint32_t g = 0; g < scenario->n_groups; g++) {
		const struct scenario_list *list = &scenario->src_blocks[work->src][g];

		complete = complete &&
		           (scenario->evicted[g] == 0 || scenario->decode.groups[g].kind != KVF_WINDOW);
		for (uint32_t i = 0; i < list->n; i++)
			complete = complete && list->ids[i] >= 0;
	}
	CHECK(sent_bytes <= bound.bytes, "more bytes sent than expected");
	if (complete)
		CHECK(sent_bytes == bound.bytes, "%llu bytes sent, expected %llu",
			(unsigned long long)sent_bytes, (unsigned long long)bound.bytes);
}

/* Totals are those of full lists on both sides, nothing cut. */
static void check_totals(struct pair_work *work)
{
	struct scenario *scenario = work->scenario;
	static const int32_t zeros[2 * SCENARIO_MAX_BLOCKS];
	struct kvfi_shape shape = {.prompt_len = scenario->prompt_len,
		.token_end = scenario->prompt_len,
		.first = true,
		.last = true};
	struct kvfi_ids src[KVF_MAX_GROUPS], dst[KVF_MAX_GROUPS];
	struct kvf_plan_totals totals;
	uint64_t bytes = 0, runs = 0;
	struct kvfi_strip strip;
	struct kvfi_bound bound;
	struct kvfi_walk walk;

	for (uint32_t g = 0; g < scenario->n_groups; g++) {
		const struct kvf_group *to = &scenario->decode.layouts[work->dst]->groups[g];
		uint32_t total =
			(uint32_t)((scenario->prompt_len + to->tokens_per_block - 1) / to->tokens_per_block);
		uint32_t cp = scenario->decode.instance->cp,
			 c = scenario->decode.instance->ranks[work->dst].cp;

		src[g] = (struct kvfi_ids){zeros, scenario->src_blocks[work->src][g].n};
		dst[g] = (struct kvfi_ids){zeros, to->kind == KVF_STATE ? 1 : (total + cp - 1 - c) / cp};
	}
	CHECK(kvfi_bind(work->plan, &shape, src, dst, &bound) == KVF_OK, "bind of full lists");
	kvfi_walk_init(&walk, &bound, KVFI_WALK_MERGED, 0, bound.units);
	while (kvfi_walk_next(&walk, UINT64_MAX, &strip)) {
		bytes += strip.len * strip.count;
		runs += strip.count;
	}
	CHECK(kvf_plan_totals(work->plan, scenario->prompt_len, &totals) == KVF_OK, "totals");
	CHECK(totals.bytes == bytes && totals.runs == runs,
		"totals: %llu bytes, %llu runs; walked %llu, %llu", (unsigned long long)totals.bytes,
		(unsigned long long)totals.runs, (unsigned long long)bytes, (unsigned long long)runs);
}

static void init_pair(struct pair_work *work)
{
	struct scenario *scenario = work->scenario;
	const struct kvf_layout *src = scenario->prefill.layouts[work->src],
				*dst = scenario->decode.layouts[work->dst];
	enum kvf_status status = kvf_plan_new(scenario->prefill.instance, src, scenario->decode.instance, dst,
		scenario->replica, &work->plan);

	CHECK(status == KVF_OK, "plan of %u to %u: %s", work->src, work->dst, kvf_status_name(status));
	CHECK(kvf_plan_digest(work->plan) == kvfi_pair_digest(scenario->prefill.instance, src,
						     scenario->decode.instance, dst, scenario->replica),
		"digest");
}

static void check_pair(struct pair_work *work, bool *refused)
{
	uint64_t sent_bytes = 0;
	bool refused_here = false;

	init_pair(work);
	for (uint32_t i = 0; i < work->scenario->n_slices; i++)
		check_slice(work, &work->scenario->slices[i], &sent_bytes, &refused_here);
	if (!refused_here)
		check_required(work, sent_bytes);
	check_totals(work);
	*refused |= refused_here;
	kvf_plan_free(work->plan);
}

/* Every byte of the destination's memory: arrived once and right, or not touched. */
static void check_memory(const struct pair_work *work, const uint8_t *before, bool refused)
{
	struct scenario *scenario = work->scenario;
	const struct kvf_layout *layout = scenario->decode.layouts[work->dst];
	uint8_t *memory = scenario->decode.memory[work->dst],
		*owed = calloc(1, scenario->decode.memory_bytes[work->dst] + 1);

	assert_non_null(owed);
	for (uint32_t g = 0; g < layout->n_groups; g++) {
		const struct kvf_group *group = &layout->groups[g];
		uint64_t tokens = (uint64_t)group->blocks * group->tokens_per_block;

		for (uint32_t i = 0; i < group->n_layers * group->n_parts; i++) {
			uint32_t p = i % group->n_parts;

			for (uint64_t n = 0; n < group->parts[p].head_count * tokens; n++) {
				struct oracle_cell cell = {g, group->layers[i / group->n_parts], p,
					group->parts[p].head_start + (uint32_t)(n / tokens), n % tokens};
				uint32_t owner = oracle_owner(work->oracle, work->dst, &cell);
				int32_t id = -1;
				uint64_t at;

				if (owner == UINT32_MAX || !scenario_source_has(scenario, g, cell.token) ||
					oracle_stale(work->oracle, &scenario->prefill.layouts[0]->groups[g],
						cell.token) ||
					!oracle_dst_names(work->oracle, work->dst, g, &work->dst_lists[g],
						cell.token, &id) ||
					id < 0)
					continue;
				at = dst_index(work, oracle_address(layout, &cell, id));
				for (uint64_t b = 0; b < group->parts[p].row_bytes; b++) {
					owed[at + b]++;
					CHECK(refused || memory[at + b] ==
								 scenario_content(scenario->seed, &cell, b),
						"content of group %u, layer %u, part %u, head %u, token %llu",
						g, cell.layer, p, cell.head, (unsigned long long)cell.token);
				}
			}
		}
	}
	for (uint64_t i = 0; i < scenario->decode.memory_bytes[work->dst]; i++) {
		CHECK(work->arrived[i] <= owed[i], "byte %llu arrived %u times, owed %u",
			(unsigned long long)i, work->arrived[i], owed[i]);
		CHECK(refused || work->arrived[i] == owed[i], "byte %llu arrived %u times, owed %u",
			(unsigned long long)i, work->arrived[i], owed[i]);
		CHECK(work->arrived[i] != 0 || memory[i] == before[i], "byte %llu was touched",
			(unsigned long long)i);
	}
	free(owed);
}

static void check_destination(struct pair_work *work, const struct kvf_pair *pairs, uint32_t n_pairs)
{
	struct scenario *scenario = work->scenario;
	uint64_t bytes = scenario->decode.memory_bytes[work->dst];
	uint8_t *before = malloc(bytes + 1);
	bool refused = false;

	assert_non_null(before);
	memcpy(before, scenario->decode.memory[work->dst], bytes);
	for (uint32_t g = 0; g < scenario->n_groups; g++)
		work->dst_lists[g] = (struct kvfi_ids){
			scenario->dst_lists[work->dst][g].ids, scenario->dst_lists[work->dst][g].n};
	work->arrived = calloc(1, bytes + 1);
	assert_non_null(work->arrived);
	for (work->src = 0; work->src < scenario->prefill.instance->n_ranks; work->src++) {
		const struct kvf_pair *pair = NULL;

		for (uint32_t i = 0; i < n_pairs && !pair; i++)
			if (pairs[i].src == work->src && pairs[i].dst == work->dst)
				pair = &pairs[i];
		CHECK((pair != NULL) == oracle_paired(work->oracle, work->src, work->dst), "paired: %u to %u",
			work->src, work->dst);
		if (!pair)
			continue;
		CHECK(pair->kv == oracle_owes(work->oracle, work->src, work->dst), "kv: %u to %u", work->src,
			work->dst);
		CHECK(pair->aux == oracle_sends_aux(work->oracle, work->src, work->dst), "aux: %u to %u",
			work->src, work->dst);
		check_pair(work, &refused);
	}
	check_memory(work, before, refused);
	free(work->arrived);
	free(before);
}

static uint64_t check_world(uint64_t seed, struct scenario *scenario, struct oracle_row *rows)
{
	struct kvf_pair pairs[SCENARIO_MAX_RANKS * SCENARIO_MAX_RANKS];
	struct random random = {~seed};
	struct oracle oracle;
	struct pair_work work = {.scenario = scenario, .oracle = &oracle, .random = &random, .rows = rows};
	uint32_t n_pairs = 0;

	current_seed = seed;
	scenario_init(scenario, seed);
	oracle = (struct oracle){.prefill = scenario->prefill.instance,
		.decode = scenario->decode.instance,
		.src = scenario->prefill.layouts,
		.dst = scenario->decode.layouts,
		.src_dp = scenario->src_dp,
		.replica = scenario->replica,
		.prompt_len = scenario->prompt_len};
	for (uint32_t r = 0; r < oracle.prefill->n_ranks; r++)
		CHECK(kvf_layout_check(oracle.src[r]) == KVF_OK, "layout of prefill rank %u", r);
	for (uint32_t r = 0; r < oracle.decode->n_ranks; r++)
		CHECK(kvf_layout_check(oracle.dst[r]) == KVF_OK, "layout of decode rank %u", r);
	CHECK(kvf_pairs(oracle.prefill, oracle.decode, oracle.src_dp, KVF_DP_UNKNOWN, pairs,
		      SCENARIO_MAX_RANKS * SCENARIO_MAX_RANKS, &n_pairs) == KVF_OK,
		"pairs");
	for (work.dst = 0; work.dst < oracle.decode->n_ranks; work.dst++)
		check_destination(&work, pairs, n_pairs);
	scenario_fini(scenario);
	return n_pairs;
}

static void random_worlds_agree_with_the_oracle(void **state)
{
	struct scenario *scenario = malloc(sizeof(*scenario));
	struct oracle_row *rows = malloc(MAX_ROWS * sizeof(*rows));
	const char *seed = getenv("KVFERRY_SEED"), *count = getenv("KVFERRY_WORLDS");
	uint64_t worlds = count ? strtoull(count, NULL, 0) : WORLDS, pairs = 0;

	(void)state;
	assert_non_null(scenario);
	assert_non_null(rows);
	if (seed)
		(void)check_world(strtoull(seed, NULL, 0), scenario, rows);
	for (uint64_t i = 0; !seed && i < worlds; i++)
		pairs += check_world(UINT64_C(0x6b76666572727900) + i, scenario, rows);
	print_message("%llu layout pairs\n", (unsigned long long)pairs);
	free(rows);
	free(scenario);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_worlds_agree_with_the_oracle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
