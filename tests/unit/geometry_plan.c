/* geometry_plan.c - plans: nests, totals, refusals, and walks larger than the random worlds. */
#include "geometry_support.h"

#include <stdlib.h>
#include <string.h>

static void nests_say_what_moves(void **state)
{
	struct side_options prefill = SIDE(4, 1, 1, KVF_BLOCK_MAJOR, 32, 1),
			    decode = SIDE(2, 1, 1, KVF_BLOCK_MAJOR, 32, 0);
	const struct kvf_nest *nests;
	const uint32_t *layers;
	struct kvf_plan_totals totals;
	struct simple_model simple;
	struct rank_pair pair;

	(void)state;
	simple_model_init(&simple, 2, 8, 256, 2);
	rank_pair_init(&pair, &simple.model, &prefill, &decode, KVF_REPLICA_ELECT);
	assert_int_equal(kvf_plan_nests(pair.plan, &nests), 1);
	assert_int_equal(nests[0].head_start, 2);
	assert_int_equal(nests[0].head_end, 4);
	assert_int_equal(nests[0].run_bytes, 16384);
	assert_int_equal(nests[0].src_offset, 0);
	assert_int_equal(nests[0].dst_offset, 16384);
	assert_int_equal(nests[0].n_loops, 1);
	assert_int_equal(nests[0].loops[0].count, 4);
	assert_int_equal(nests[0].loops[0].src_stride, 16384);
	assert_int_equal(nests[0].loops[0].dst_stride, 32768);
	assert_int_equal(kvf_plan_layers(pair.plan, 0, &layers), 2);
	assert_int_equal(layers[1], 1);
	assert_int_equal(kvf_plan_layers(pair.plan, 1, &layers), 0);
	/* 33 tokens are two whole blocks. */
	assert_int_equal(kvf_plan_totals(pair.plan, 33, &totals), KVF_OK);
	assert_int_equal(totals.bytes, 2 * 65536);
	assert_int_equal(totals.runs, 8);
	assert_int_equal(totals.run_bytes_min, 16384);
	assert_int_equal(totals.run_bytes_max, 16384);
	assert_int_equal(kvf_plan_totals(pair.plan, 0, &totals), KVF_EINVAL);
	assert_int_equal(kvf_plan_totals(pair.plan, KVF_MAX_TOKENS + 1, &totals), KVF_EINVAL);
	rank_pair_fini(&pair);
}

static void token_major_on_both_sides_merges_neighbouring_heads(void **state)
{
	struct side_options prefill = SIDE(4, 1, 1, KVF_LAYER_NHD, 16, 2),
			    decode = SIDE(1, 1, 1, KVF_LAYER_NHD, 16, 0);
	struct kvf_plan_totals totals;
	struct simple_model simple;
	struct rank_pair pair;

	(void)state;
	simple_model_init(&simple, 80, 8, 256, 2);
	rank_pair_init(&pair, &simple.model, &prefill, &decode, KVF_REPLICA_ELECT);
	assert_int_equal(kvf_plan_totals(pair.plan, 8192, &totals), KVF_OK);
	assert_int_equal(totals.run_bytes_min, 512);
	assert_int_equal(totals.run_bytes_max, 512);
	assert_int_equal(totals.runs, 8192 * 160);
	rank_pair_fini(&pair);
}

static void stripes_share_the_layers(void **state)
{
	struct simple_model simple;

	(void)state;
	/* MLA on TP2: candidates of each destination are both sources; 5 layers go 2 and 3. */
	simple_model_init(&simple, 5, 1, 64, 1);
	for (uint32_t src = 0; src < 2; src++) {
		struct side_options prefill = SIDE(2, 1, 1, KVF_LAYER_HND, 8, src),
				    decode = SIDE(1, 1, 1, KVF_LAYER_HND, 8, 0);
		const uint32_t *layers;
		struct rank_pair pair;

		rank_pair_init(&pair, &simple.model, &prefill, &decode, KVF_REPLICA_STRIPE);
		assert_int_equal(kvf_plan_layers(pair.plan, 0, &layers), src == 0 ? 2 : 3);
		assert_int_equal(layers[0], src == 0 ? 0 : 2);
		rank_pair_fini(&pair);
	}
}

static void layers_of_one_side_alone_do_not_move_and_can_be_named(void **state)
{
	struct kvf_parallel parallel = {.tp = 1, .pp = 1, .cp = 1, .dp = 1};
	struct simple_model simple, longer;
	struct kvf_instance *prefill, *decode;
	uint32_t layers[4];

	(void)state;
	simple_model_init(&simple, 4, 2, 64, 2);
	simple_model_init(&longer, 6, 2, 64, 2);
	prefill = make_instance(&simple.model, KVF_PREFILL, &parallel);
	decode = make_instance(&longer.model, KVF_DECODE, &parallel);
	assert_int_equal(kvf_unmatched_layers(decode, prefill, 0, layers, 4), 2);
	assert_int_equal(layers[0], 4);
	assert_int_equal(layers[1], 5);
	assert_int_equal(kvf_unmatched_layers(decode, prefill, 0, NULL, 0), 2);
	assert_int_equal(kvf_unmatched_layers(prefill, decode, 0, layers, 4), 0);
	kvf_instance_free(prefill);
	kvf_instance_free(decode);
}

/* -------------------------------------------------------------- compatible */

struct two_sides {
	struct simple_model prefill, decode;
	struct side_options src, dst;
};

static void two_sides_init(struct two_sides *sides)
{
	simple_model_init(&sides->prefill, 2, 4, 64, 2);
	simple_model_init(&sides->decode, 2, 4, 64, 2);
	sides->src = SIDE(1, 1, 1, KVF_LAYER_HND, 8, 0);
	sides->dst = SIDE(1, 1, 1, KVF_LAYER_HND, 8, 0);
}

static void expect_incompatible(
	struct two_sides *sides, const char *field, const char *prefill, const char *decode)
{
	struct kvf_instance *from = make_instance(&sides->prefill.model, KVF_PREFILL, &sides->src.parallel);
	struct kvf_instance *to = make_instance(&sides->decode.model, KVF_DECODE, &sides->dst.parallel);
	struct kvf_layout *src, *dst;
	struct kvf_refusal refusal = {{0}, {0}, {0}};
	kvf_plan *plan = NULL;
	uint64_t bytes;

	assert_int_equal(
		kvf_layout_new(&sides->prefill.model, from, 0, &sides->src.layout, &src, &bytes), KVF_OK);
	assert_int_equal(
		kvf_layout_new(&sides->decode.model, to, 0, &sides->dst.layout, &dst, &bytes), KVF_OK);
	assert_int_equal(kvf_pair_compatible(from, src, to, dst, &refusal), KVF_INCOMPATIBLE);
	assert_string_equal(refusal.field, field);
	assert_string_equal(refusal.prefill, prefill);
	assert_string_equal(refusal.decode, decode);
	assert_non_null(strstr(kvf_error(), field));
	assert_int_equal(kvf_plan_new(from, src, to, dst, KVF_REPLICA_ELECT, &plan), KVF_INCOMPATIBLE);
	assert_null(plan);
	kvf_layout_free(src);
	kvf_layout_free(dst);
	kvf_instance_free(from);
	kvf_instance_free(to);
}

static void sides_that_differ_are_refused_with_both_values(void **state)
{
	struct two_sides sides;

	(void)state;
	two_sides_init(&sides), sides.decode.model.name = "other";
	expect_incompatible(&sides, "model", "\"test\"", "\"other\"");
	two_sides_init(&sides), sides.decode.model.revision = "b";
	expect_incompatible(&sides, "revision", "\"\"", "\"b\"");
	two_sides_init(&sides), sides.decode.group.parts[1].row_bytes = 32;
	expect_incompatible(&sides, "groups[0].parts[1].row_bytes", "64", "32");
	two_sides_init(&sides), sides.prefill.group.parts[0].heads = 8;
	expect_incompatible(&sides, "groups[0].parts[0].heads", "8", "4");
	two_sides_init(&sides), sides.decode.group.n_parts = 1;
	expect_incompatible(&sides, "groups[0].parts", "2", "1");
	two_sides_init(&sides), sides.decode.group.dtype = KVF_FP16;
	expect_incompatible(&sides, "groups[0].dtype", "bf16", "fp16");
	two_sides_init(&sides), sides.decode.group.kind = KVF_WINDOW, sides.decode.group.window_tokens = 16;
	expect_incompatible(&sides, "groups[0].kind", "paged", "window");
	two_sides_init(&sides);
	sides.prefill.group.kind = sides.decode.group.kind = KVF_WINDOW;
	sides.prefill.group.window_tokens = 32, sides.decode.group.window_tokens = 16;
	expect_incompatible(&sides, "groups[0].window_tokens", "32", "16");
	/* Unequal blocks are legal, but not under CP. */
	two_sides_init(&sides), sides.dst.parallel.cp = 2, sides.dst.layout.tokens_per_block = 16;
	expect_incompatible(&sides, "groups[0].tokens_per_block (cp)", "8", "16");
}

static void a_layer_in_another_group_is_refused(void **state)
{
	static const uint32_t none_shared[2][2] = {{0, 1}, {2, 3}};
	struct kvf_group_spec groups[2][2];
	struct kvf_model models[2];
	struct kvf_parallel parallel = {.tp = 1, .pp = 1, .cp = 1, .dp = 1};
	struct kvf_layout_options options = {KVF_LAYER_HND, 8, 4, 1};
	struct kvf_instance *instances[2];
	struct kvf_layout *layouts[2];
	struct kvf_refusal refusal;
	uint64_t bytes;

	(void)state;
	for (uint32_t side = 0; side < 2; side++) {
		for (uint32_t g = 0; g < 2; g++)
			groups[side][g] = (struct kvf_group_spec){.kind = g == 0 ? KVF_PAGED : KVF_REPLICATED,
				.dtype = KVF_BF16,
				.n_layers = 2,
				.layers = none_shared[side ^ g],
				.n_parts = 1,
				.parts = {{1, 16}}};
		models[side] = (struct kvf_model){"m", "", 2, groups[side]};
		instances[side] =
			make_instance(&models[side], side == 0 ? KVF_PREFILL : KVF_DECODE, &parallel);
		assert_int_equal(
			kvf_layout_new(&models[side], instances[side], 0, &options, &layouts[side], &bytes),
			KVF_OK);
	}
	assert_int_equal(kvf_layout_compatible(layouts[0], layouts[1], &refusal), KVF_INCOMPATIBLE);
	assert_string_equal(refusal.field, "layers[0].group");
	assert_int_equal(kvf_layout_compatible(layouts[0], NULL, NULL), KVF_EINVAL);
	for (uint32_t side = 0; side < 2; side++) {
		kvf_layout_free(layouts[side]);
		kvf_instance_free(instances[side]);
	}
}

static void digests_tell_any_difference(void **state)
{
	struct side_options side = SIDE(2, 1, 1, KVF_LAYER_HND, 8, 0);
	struct simple_model simple;
	struct rank_pair pair;
	uint64_t digest;

	(void)state;
	simple_model_init(&simple, 2, 4, 64, 2);
	rank_pair_init(&pair, &simple.model, &side, &side, KVF_REPLICA_ELECT);
	digest = kvf_plan_digest(pair.plan);
#define DIGEST() kvfi_pair_digest(pair.prefill, pair.src, pair.decode, pair.dst, KVF_REPLICA_ELECT)
	assert_true(DIGEST() == digest);
	assert_false(kvfi_pair_digest(pair.prefill, pair.src, pair.decode, pair.dst, KVF_REPLICA_STRIPE) ==
		     digest);
	pair.decode->id++;
	assert_false(DIGEST() == digest);
	pair.decode->id--;
	kvf_layout_move(pair.src, 8);
	assert_false(DIGEST() == digest);
	kvf_layout_move(pair.src, (uint64_t)0 - 8);
	assert_true(DIGEST() == digest);
	assert_int_equal(kvf_layout_set_aux(pair.dst, 1, 8, 1 << 20), KVF_OK);
	assert_true(DIGEST() == digest);
#undef DIGEST
	rank_pair_fini(&pair);
}

/* ------------------------------------------------------------------- walks */

/* Adds up a walk as if it copied: order does not matter, bytes and addresses do. */
struct tally {
	uint64_t bytes, runs, sum;
};

static void add_walk(struct kvfi_walk *walk, uint64_t max_bytes, struct tally *tally)
{
	struct kvfi_strip strip;

	while (kvfi_walk_next(walk, max_bytes, &strip)) {
		for (uint64_t i = 0; i < strip.count; i++) {
			uint64_t src = strip.src + i * (uint64_t)strip.src_stride;
			uint64_t dst = strip.dst + i * (uint64_t)strip.dst_stride;

			/* Of every 16 bytes that are copied: where from and where to. */
			for (uint64_t b = 0; b < strip.len; b += 16)
				tally->sum += (src + b) * 31 + ((dst + b) ^ (src + b)) * 17;
		}
		tally->bytes += strip.count * strip.len;
		tally->runs += strip.count;
	}
}

static void whole_prompt(const struct kvf_plan *plan, uint64_t tokens, uint32_t src_tpb, uint32_t dst_tpb,
	struct kvfi_bound *bound, int32_t *ids)
{
	struct kvfi_shape shape = {.prompt_len = tokens, .token_end = tokens, .first = true, .last = true};
	struct kvfi_ids src = {ids, (uint32_t)((tokens + src_tpb - 1) / src_tpb)};
	struct kvfi_ids dst = {ids, (uint32_t)((tokens + dst_tpb - 1) / dst_tpb)};
	uint32_t n = src.n > dst.n ? src.n : dst.n;

	for (uint32_t i = 0; i < n; i++)
		ids[i] = (int32_t)(i * 7 % 64);
	assert_int_equal(kvfi_bind(plan, &shape, &src, &dst, bound), KVF_OK);
}

static void shares_of_units_add_up_to_the_whole(void **state)
{
	struct side_options prefill = SIDE(4, 1, 1, KVF_LAYER_NHD, 16, 1),
			    decode = SIDE(2, 1, 1, KVF_BLOCK_MAJOR, 32, 0);
	struct simple_model simple;
	struct rank_pair pair;
	static int32_t ids[1024];
	struct kvfi_bound bound;
	struct kvfi_walk walk;
	struct tally whole = {0};

	(void)state;
	simple_model_init(&simple, 8, 8, 128, 2);
	rank_pair_init(&pair, &simple.model, &prefill, &decode, KVF_REPLICA_ELECT);
	whole_prompt(pair.plan, 1000, 16, 32, &bound, ids);
	assert_int_equal(bound.bytes, 1008 * 8 * 2 * 2 * 128);
	assert_int_equal(bound.units, (bound.bytes + KVFI_UNIT_BYTES - 1) / KVFI_UNIT_BYTES);
	kvfi_walk_init(&walk, &bound, KVFI_WALK_MERGED, 0, bound.units);
	add_walk(&walk, UINT64_MAX, &whole);
	assert_int_equal(whole.bytes, bound.bytes);
	for (uint64_t step = 1; step <= bound.units + 1; step += 3) {
		struct tally parts = {0};

		for (uint64_t unit = 0; unit < bound.units; unit += step) {
			kvfi_walk_init(&walk, &bound, KVFI_WALK_MERGED, unit, unit + step);
			add_walk(&walk, 4096 * step, &parts);
		}
		assert_int_equal(parts.bytes, whole.bytes);
		assert_true(parts.sum == whole.sum);
	}
	kvfi_walk_init(&walk, &bound, KVFI_WALK_MERGED, bound.units, bound.units);
	assert_false(kvfi_walk_next(&walk, 1, &(struct kvfi_strip){0}));
	rank_pair_fini(&pair);
}

/* Blocks of 1 and of 1024 tokens, both ways: all four walks move the same bytes, and the plan stays small. */
static void blocks_of_one_and_of_a_thousand_tokens(void **state)
{
	static int32_t ids[4096];

	(void)state;
	for (uint32_t way = 0; way < 2; way++) {
		uint32_t src_tpb = way == 0 ? 1 : 1024, dst_tpb = way == 0 ? 1024 : 1;
		struct side_options prefill = SIDE(2, 1, 1, KVF_LAYER_HND, src_tpb, 0);
		struct side_options decode = SIDE(1, 1, 1, KVF_LAYER_NHD, dst_tpb, 0);
		struct kvf_plan_totals totals;
		const struct kvf_nest *nests;
		struct simple_model simple;
		struct kvfi_bound bound;
		struct rank_pair pair;
		struct tally merged = {0}, both = {0};
		struct kvfi_walk walk;

		simple_model_init(&simple, 3, 2, 16, 2);
		rank_pair_init(&pair, &simple.model, &prefill, &decode, KVF_REPLICA_ELECT);
		assert_in_range(kvf_plan_nests(pair.plan, &nests), 1, 2 * 6);
		whole_prompt(pair.plan, 3000, src_tpb, dst_tpb, &bound, ids);
		assert_int_equal(bound.bytes, 3000 * 3 * 2 * 16);
		kvfi_walk_init(&walk, &bound, KVFI_WALK_MERGED, 0, bound.units);
		add_walk(&walk, UINT64_MAX, &merged);
		kvfi_walk_init(&walk, &bound, KVFI_WALK_BOTH, 0, bound.units);
		add_walk(&walk, 100000, &both);
		assert_int_equal(merged.bytes, bound.bytes);
		assert_int_equal(both.bytes, bound.bytes);
		assert_true(merged.sum == both.sum);
		assert_int_equal(kvf_plan_totals(pair.plan, 3000, &totals), KVF_OK);
		assert_int_equal(totals.bytes, merged.bytes);
		assert_int_equal(totals.runs, merged.runs);
		/* The longest prompt is counted by periods, not by blocks. */
		assert_int_equal(kvf_plan_totals(pair.plan, KVF_MAX_TOKENS, &totals), KVF_OK);
		assert_int_equal(totals.bytes, KVF_MAX_TOKENS * 3 * 2 * 16);
		rank_pair_fini(&pair);
	}
}

/* Sections of a recurrent state, each split over TP by itself: TP4 to TP2, four sections of unlike units. */
static void state_sections_are_split_each_by_itself(void **state)
{
	struct side_options prefill = SIDE(4, 1, 1, KVF_BLOCK_MAJOR, 8, 0),
			    decode = SIDE(2, 1, 1, KVF_BLOCK_MAJOR, 8, 1);
	static const int32_t src_slot = 5, dst_slot = 2;
	struct kvfi_shape shape = {.prompt_len = 100, .token_end = 100, .first = true, .last = true};
	struct kvfi_ids src = {&src_slot, 1}, dst = {&dst_slot, 1};
	struct simple_model simple;
	uint64_t bytes = 0;

	(void)state;
	simple_model_init(&simple, 3, 1, 1, 4);
	simple.group.kind = KVF_STATE;
	simple.group.parts[0] = (struct kvf_part_spec){64, 6};
	simple.group.parts[1] = (struct kvf_part_spec){8, 6};
	simple.group.parts[2] = (struct kvf_part_spec){8, 6};
	simple.group.parts[3] = (struct kvf_part_spec){16, 1024};
	for (uint32_t rank = 0; rank < 4; rank++) {
		struct kvfi_bound bound;
		struct rank_pair pair;

		prefill.rank = rank;
		rank_pair_init(&pair, &simple.model, &prefill, &decode, KVF_REPLICA_ELECT);
		assert_int_equal(kvfi_bind(pair.plan, &shape, &src, &dst, &bound), KVF_OK);
		assert_int_equal(bound.bytes, rank < 2 ? 0 : 3 * (80 * 6 + 16 * 1024) / 4);
		bytes += bound.bytes;
		rank_pair_fini(&pair);
	}
	assert_int_equal(bytes, 3 * (80 * 6 + 16 * 1024) / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nests_say_what_moves),
		cmocka_unit_test(token_major_on_both_sides_merges_neighbouring_heads),
		cmocka_unit_test(stripes_share_the_layers),
		cmocka_unit_test(layers_of_one_side_alone_do_not_move_and_can_be_named),
		cmocka_unit_test(sides_that_differ_are_refused_with_both_values),
		cmocka_unit_test(a_layer_in_another_group_is_refused),
		cmocka_unit_test(digests_tell_any_difference),
		cmocka_unit_test(shares_of_units_add_up_to_the_whole),
		cmocka_unit_test(blocks_of_one_and_of_a_thousand_tokens),
		cmocka_unit_test(state_sections_are_split_each_by_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
