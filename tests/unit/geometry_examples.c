/* geometry_examples.c - the worked examples of the design, by their numbers. */
#include "geometry_support.h"

#include <string.h>

#define TPB 32

/* 8 heads, head_dim 128, bf16: one head of one part of one block of 32 tokens is 8192 bytes. */
static void example_model(struct simple_model *simple, uint32_t n_layers)
{
	simple_model_init(simple, n_layers, 8, 256, 2);
}

/* Runs of the first block, as (src, dst, length) triples. */
static void expect_runs(const kvf_plan *plan, const uint64_t (*expected)[3], uint64_t n)
{
	struct kvf_run runs[64];
	uint64_t n_runs = 0;

	assert_int_equal(kvf_plan_block0_runs(plan, runs, 64, &n_runs), KVF_OK);
	assert_int_equal(n_runs, n);
	for (uint64_t i = 0; i < n; i++) {
		assert_int_equal(runs[i].src_offset, expected[i][0]);
		assert_int_equal(runs[i].dst_offset, expected[i][1]);
		assert_int_equal(runs[i].len_bytes, expected[i][2]);
	}
}

static void expect_pairs(const struct kvf_instance *prefill, const struct kvf_instance *decode,
	uint32_t src_dp, const struct kvf_pair *expected, uint32_t n)
{
	struct kvf_pair pairs[64];
	uint32_t n_pairs = 0;

	assert_int_equal(kvf_pairs(prefill, decode, src_dp, KVF_DP_UNKNOWN, pairs, 64, &n_pairs), KVF_OK);
	assert_int_equal(n_pairs, n);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(pairs[i].src, expected[i].src);
		assert_int_equal(pairs[i].dst, expected[i].dst);
		assert_int_equal(pairs[i].kv, expected[i].kv);
		assert_int_equal(pairs[i].aux, expected[i].aux);
	}
}

static void tp4_to_tp2_runs(void **state)
{
	static const uint64_t even[][3] = {
		{0, 0, 16384}, {16384, 32768, 16384}, {32768, 65536, 16384}, {49152, 98304, 16384}};
	static const uint64_t odd[][3] = {
		{0, 16384, 16384}, {16384, 49152, 16384}, {32768, 81920, 16384}, {49152, 114688, 16384}};
	static const struct kvf_pair pairs[] = {{0, 0, 1, 1}, {1, 0, 1, 0}, {2, 1, 1, 1}, {3, 1, 1, 0}};
	struct simple_model simple;

	(void)state;
	example_model(&simple, 2);
	for (uint32_t src = 0; src < 4; src++) {
		struct side_options prefill = SIDE(4, 1, 1, KVF_BLOCK_MAJOR, TPB, src);
		struct side_options decode = SIDE(2, 1, 1, KVF_BLOCK_MAJOR, TPB, src / 2);
		struct rank_pair pair;

		rank_pair_init(&pair, &simple.model, &prefill, &decode, KVF_REPLICA_ELECT);
		assert_int_equal(pair.src->groups[0].parts[0].block_stride, 65536);
		assert_int_equal(pair.dst->groups[0].parts[0].block_stride, 131072);
		expect_runs(pair.plan, src % 2 == 0 ? even : odd, 4);
		expect_pairs(pair.prefill, pair.decode, 0, pairs, 4);
		rank_pair_fini(&pair);
	}
}

static void tp2_to_tp4_runs(void **state)
{
	static const uint64_t even[][3] = {
		{0, 0, 16384}, {32768, 16384, 16384}, {65536, 32768, 16384}, {98304, 49152, 16384}};
	static const uint64_t odd[][3] = {
		{16384, 0, 16384}, {49152, 16384, 16384}, {81920, 32768, 16384}, {114688, 49152, 16384}};
	static const struct kvf_pair pairs[] = {{0, 0, 1, 1}, {0, 1, 1, 1}, {1, 2, 1, 1}, {1, 3, 1, 1}};
	struct simple_model simple;

	(void)state;
	example_model(&simple, 2);
	for (uint32_t dst = 0; dst < 4; dst++) {
		struct side_options prefill = SIDE(2, 1, 1, KVF_BLOCK_MAJOR, TPB, dst / 2);
		struct side_options decode = SIDE(4, 1, 1, KVF_BLOCK_MAJOR, TPB, dst);
		struct rank_pair pair;

		rank_pair_init(&pair, &simple.model, &prefill, &decode, KVF_REPLICA_ELECT);
		expect_runs(pair.plan, dst % 2 == 0 ? even : odd, 4);
		expect_pairs(pair.prefill, pair.decode, 0, pairs, 4);
		rank_pair_fini(&pair);
	}
}

static void uneven_stages(void **state)
{
	static const uint32_t src_stages[] = {3, 2}, dst_stages[] = {2, 3};
	static const struct kvf_pair pairs[] = {{0, 0, 1, 1}, {0, 1, 1, 1}, {1, 1, 1, 0}};
	static const uint64_t runs[3][1][3] = {
		{{0, 0, 262144}}, {{262144, 0, 131072}}, {{0, 131072, 262144}}};
	struct simple_model simple;

	(void)state;
	example_model(&simple, 5);
	for (uint32_t i = 0; i < 3; i++) {
		struct side_options prefill = SIDE(1, 2, 1, KVF_BLOCK_MAJOR, TPB, pairs[i].src);
		struct side_options decode = SIDE(1, 2, 1, KVF_BLOCK_MAJOR, TPB, pairs[i].dst);
		struct rank_pair pair;

		prefill.parallel.stages = src_stages;
		decode.parallel.stages = dst_stages;
		rank_pair_init(&pair, &simple.model, &prefill, &decode, KVF_REPLICA_ELECT);
		expect_runs(pair.plan, runs[i], 1);
		expect_pairs(pair.prefill, pair.decode, 0, pairs, 3);
		rank_pair_fini(&pair);
	}
}

static void replicated_heads_to_tp2_and_tp1(void **state)
{
	static const struct kvf_pair to_two[] = {{0, 0, 1, 1}, {1, 0, 0, 0}, {2, 1, 1, 1}, {3, 1, 0, 0}};
	static const struct kvf_pair to_one[] = {{0, 0, 1, 1}, {1, 0, 0, 0}, {2, 0, 1, 0}, {3, 0, 0, 0}};
	struct simple_model simple;
	struct kvf_parallel four = {.tp = 4, .pp = 1, .cp = 1, .dp = 1}, two = four, one = four;
	struct kvf_instance *prefill, *decode;

	(void)state;
	simple_model_init(&simple, 2, 2, 256, 2);
	two.tp = 2;
	one.tp = 1;
	prefill = make_instance(&simple.model, KVF_PREFILL, &four);
	decode = make_instance(&simple.model, KVF_DECODE, &two);
	expect_pairs(prefill, decode, 0, to_two, 4);
	kvf_instance_free(decode);
	decode = make_instance(&simple.model, KVF_DECODE, &one);
	expect_pairs(prefill, decode, 0, to_one, 4);
	kvf_instance_free(decode);
	kvf_instance_free(prefill);
}

static void mla_with_attention_dp(void **state)
{
	static const struct kvf_pair to_dp[] = {{0, 0, 1, 1}, {0, 1, 0, 1}, {1, 0, 0, 0}, {1, 1, 1, 0}};
	static const struct kvf_pair from_dp[] = {{0, 0, 1, 1}, {0, 1, 1, 1}};
	struct simple_model simple;
	struct kvf_parallel plain = {.tp = 2, .pp = 1, .cp = 1, .dp = 1}, attention_dp = plain;
	struct kvf_instance *prefill, *decode;

	(void)state;
	simple_model_init(&simple, 2, 1, 1152, 1);
	attention_dp.dp = 2;
	prefill = make_instance(&simple.model, KVF_PREFILL, &plain);
	decode = make_instance(&simple.model, KVF_DECODE, &attention_dp);
	expect_pairs(prefill, decode, 0, to_dp, 4);
	kvf_instance_free(prefill);
	kvf_instance_free(decode);
	prefill = make_instance(&simple.model, KVF_PREFILL, &attention_dp);
	decode = make_instance(&simple.model, KVF_DECODE, &plain);
	expect_pairs(prefill, decode, 0, from_dp, 2);
	kvf_instance_free(prefill);
	kvf_instance_free(decode);
}

/* Aux comes from a source whose place is a multiple of G_s div G_d, which need not be the lowest paired one. */
static void aux_of_uneven_sizes(void **state)
{
	struct kvf_parallel eight = {.tp = 8, .pp = 1, .cp = 1, .dp = 1},
			    three = {.tp = 3, .pp = 1, .cp = 1, .dp = 1};
	static const struct kvf_pair pairs[] = {{0, 0, 1, 1}, {1, 0, 1, 0}, {2, 0, 1, 0}, {2, 1, 1, 1},
		{3, 1, 1, 0}, {4, 1, 1, 0}, {5, 1, 1, 0}, {5, 2, 1, 0}, {6, 2, 1, 1}, {7, 2, 1, 0}};
	struct kvf_instance *prefill, *decode;
	struct simple_model simple;

	(void)state;
	simple_model_init(&simple, 1, 24, 16, 2);
	prefill = make_instance(&simple.model, KVF_PREFILL, &eight);
	decode = make_instance(&simple.model, KVF_DECODE, &three);
	expect_pairs(prefill, decode, 0, pairs, 10);
	kvf_instance_free(prefill);
	kvf_instance_free(decode);
}

static void six_heads_on_tp4(void **state)
{
	static const uint32_t counts[] = {1, 2, 1, 2}, starts[] = {0, 1, 3, 4};
	struct kvf_parallel parallel = {.tp = 4, .pp = 1, .cp = 1, .dp = 1};
	struct simple_model simple;
	struct kvf_instance *prefill;

	(void)state;
	simple_model_init(&simple, 1, 6, 64, 2);
	prefill = make_instance(&simple.model, KVF_PREFILL, &parallel);
	for (uint32_t r = 0; r < 4; r++) {
		assert_int_equal(prefill->ranks[r].groups[0].head_start[0], starts[r]);
		assert_int_equal(prefill->ranks[r].groups[0].head_count[0], counts[r]);
	}
	kvf_instance_free(prefill);
}

/* tp, pp, attention-dp of both sides; every one moves every byte. */
static void the_topologies_of_the_design(void **state)
{
	static const struct {
		bool mla;
		uint32_t src_tp, src_pp, src_dp, dst_tp, dst_pp, dst_dp;
	} cases[] = {{false, 1, 1, 1, 1, 1, 1}, {false, 1, 1, 1, 1, 2, 1}, {false, 1, 2, 1, 1, 1, 1},
		{false, 1, 2, 1, 1, 2, 1}, {false, 1, 2, 1, 2, 1, 1}, {false, 2, 1, 1, 1, 2, 1},
		{false, 4, 1, 1, 2, 2, 1}, {false, 1, 4, 1, 2, 2, 1}, {false, 2, 1, 2, 2, 1, 2},
		{false, 2, 1, 2, 1, 2, 1}, {false, 1, 4, 1, 2, 2, 2}, {true, 2, 1, 1, 2, 1, 2},
		{true, 2, 1, 2, 2, 1, 1}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kvf_parallel from = {
			.tp = cases[i].src_tp, .pp = cases[i].src_pp, .cp = 1, .dp = cases[i].src_dp};
		struct kvf_parallel to = {
			.tp = cases[i].dst_tp, .pp = cases[i].dst_pp, .cp = 1, .dp = cases[i].dst_dp};
		struct kvf_instance *prefill, *decode;
		struct simple_model simple;

		simple_model_init(&simple, 4, cases[i].mla ? 1 : 4, 512, cases[i].mla ? 1 : 2);
		prefill = make_instance(&simple.model, KVF_PREFILL, &from);
		decode = make_instance(&simple.model, KVF_DECODE, &to);
		expect_every_byte_once(&simple.model, prefill, decode);
		kvf_instance_free(prefill);
		kvf_instance_free(decode);
	}
}

/* Source and destination blocks of each pair that a bound moves, for TP1 -> TP1 of equal blocks. */
static uint32_t list_blocks(const struct kvfi_bound *bound, int32_t (*out)[2])
{
	uint32_t n = 0, tpb = 8;

	for (uint32_t r = 0; r < bound->n_ranges; r++) {
		const struct kvfi_bound_range *range = &bound->ranges[r];

		for (uint64_t i = 0; i < (range->range.token_end - range->range.token_first) / tpb;
			i++, n++) {
			out[n][0] = range->src_ids[i];
			out[n][1] = range->dst_ids[i];
		}
	}
	return n;
}

static void block_lists_align_at_the_head(void **state)
{
	static const int32_t four[] = {0, 1, 2, 3}, two[] = {7, 9};
	static const int32_t src_window[] = {10, 11}, dst_window[] = {20, 21, 22};
	struct side_options side = SIDE(1, 1, 1, KVF_BLOCK_MAJOR, 8, 0);
	struct kvfi_shape shape = {.prompt_len = 32, .token_end = 32, .first = true, .last = true};
	struct kvfi_ids src = {four, 4}, dst = {two, 2};
	struct simple_model simple;
	struct rank_pair pair;
	struct kvfi_bound bound;
	int32_t blocks[8][2];

	(void)state;
	example_model(&simple, 1);
	rank_pair_init(&pair, &simple.model, &side, &side, KVF_REPLICA_ELECT);
	assert_int_equal(kvfi_bind(pair.plan, &shape, &src, &dst, &bound), KVF_OK);
	assert_int_equal(list_blocks(&bound, blocks), 2);
	assert_int_equal(blocks[0][0], 2);
	assert_int_equal(blocks[0][1], 7);
	assert_int_equal(blocks[1][0], 3);
	assert_int_equal(blocks[1][1], 9);
	rank_pair_fini(&pair);

	simple.group.kind = KVF_WINDOW;
	simple.group.window_tokens = 24;
	src = (struct kvfi_ids){src_window, 2};
	dst = (struct kvfi_ids){dst_window, 3};
	rank_pair_init(&pair, &simple.model, &side, &side, KVF_REPLICA_ELECT);
	assert_int_equal(kvfi_bind(pair.plan, &shape, &src, &dst, &bound), KVF_OK);
	assert_int_equal(list_blocks(&bound, blocks), 2);
	assert_int_equal(blocks[0][0], 10);
	assert_int_equal(blocks[0][1], 21);
	assert_int_equal(blocks[1][0], 11);
	assert_int_equal(blocks[1][1], 22);
	rank_pair_fini(&pair);
}

static void windows_drop_stale_blocks(void **state)
{
	static const struct {
		uint64_t prompt;
		uint32_t window, stale;
	} cases[] = {{32, 16, 2}, {32, 24, 1}, {32, 32, 0}, {64, 24, 5}, {16, 24, 0}};
	static const int32_t ids[] = {0, 1, 2, 3, 4, 5, 6, 7};
	struct side_options side = SIDE(1, 1, 1, KVF_BLOCK_MAJOR, 8, 0);

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kvfi_shape shape = {.prompt_len = cases[i].prompt,
			.token_end = cases[i].prompt,
			.first = true,
			.last = true};
		struct kvfi_ids list = {ids, (uint32_t)(cases[i].prompt / 8)};
		struct simple_model simple;
		struct rank_pair pair;
		struct kvfi_bound bound;

		example_model(&simple, 1);
		simple.group.kind = KVF_WINDOW;
		simple.group.window_tokens = cases[i].window;
		rank_pair_init(&pair, &simple.model, &side, &side, KVF_REPLICA_ELECT);
		assert_int_equal(kvfi_bind(pair.plan, &shape, &list, &list, &bound), KVF_OK);
		assert_int_equal(bound.n_ranges, 1);
		assert_int_equal(bound.ranges[0].range.token_first, cases[i].stale * 8);
		assert_int_equal(bound.ranges[0].src_ids[0], cases[i].stale);
		assert_int_equal(bound.ranges[0].range.token_end, cases[i].prompt);
		rank_pair_fini(&pair);
	}
}

/* Blocks of 4 tokens that a chunk of a prompt of 32 moves, everything wanted. */
static void expect_chunk(uint64_t start, uint64_t end, bool first, uint32_t block_first, uint32_t block_end)
{
	static const int32_t ids[] = {0, 1, 2, 3, 4, 5, 6, 7};
	struct side_options side = SIDE(1, 1, 1, KVF_BLOCK_MAJOR, 4, 0);
	struct kvfi_shape shape = {
		.prompt_len = 32, .token_start = start, .token_end = end, .first = first, .last = end == 32};
	struct kvfi_ids src = {ids + block_first, block_end - block_first}, dst = {ids, 8};
	struct simple_model simple;
	struct rank_pair pair;
	struct kvfi_bound bound;

	example_model(&simple, 1);
	rank_pair_init(&pair, &simple.model, &side, &side, KVF_REPLICA_ELECT);
	assert_int_equal(kvfi_bind(pair.plan, &shape, &src, &dst, &bound), KVF_OK);
	assert_int_equal(bound.n_ranges, 1);
	assert_int_equal(bound.ranges[0].range.token_first, block_first * 4);
	assert_int_equal(bound.ranges[0].range.token_end, block_end * 4);
	assert_int_equal(bound.ranges[0].src_ids[0], block_first);
	assert_int_equal(bound.ranges[0].dst_ids[0], block_first);
	rank_pair_fini(&pair);
}

static void chunks_are_whole_blocks_of_the_sender(void **state)
{
	(void)state;
	expect_chunk(0, 6, true, 0, 1);
	expect_chunk(6, 12, false, 1, 3);
	expect_chunk(12, 32, false, 3, 8);
}

static void a_reused_prefix_is_sent_with_the_first_chunk(void **state)
{
	(void)state;
	expect_chunk(6, 14, true, 0, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tp4_to_tp2_runs),
		cmocka_unit_test(tp2_to_tp4_runs),
		cmocka_unit_test(uneven_stages),
		cmocka_unit_test(replicated_heads_to_tp2_and_tp1),
		cmocka_unit_test(mla_with_attention_dp),
		cmocka_unit_test(aux_of_uneven_sizes),
		cmocka_unit_test(six_heads_on_tp4),
		cmocka_unit_test(the_topologies_of_the_design),
		cmocka_unit_test(block_lists_align_at_the_head),
		cmocka_unit_test(windows_drop_stale_blocks),
		cmocka_unit_test(chunks_are_whole_blocks_of_the_sender),
		cmocka_unit_test(a_reused_prefix_is_sent_with_the_first_chunk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
