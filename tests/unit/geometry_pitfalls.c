/* geometry_pitfalls.c - mistakes that shipped elsewhere, by their numbers in the list of pitfalls. */
#include "geometry_support.h"

#include <string.h>

static void t_p19_fan_in_shares_follow_uneven_stages_and_replicas(void **state)
{
	static const uint32_t src_stages[] = {3, 1, 1}, dst_stages[] = {2, 3};
	struct kvf_parallel prefill_split = {.tp = 4, .pp = 3, .cp = 1, .dp = 1, .stages = src_stages};
	struct kvf_parallel decode_split = {.tp = 1, .pp = 2, .cp = 1, .dp = 1, .stages = dst_stages};
	struct kvf_instance *prefill, *decode;
	struct simple_model simple;

	(void)state;
	/* 2 heads on TP4: each is held twice, and only one replica sends. */
	simple_model_init(&simple, 5, 2, 64, 2);
	prefill = make_instance(&simple.model, KVF_PREFILL, &prefill_split);
	decode = make_instance(&simple.model, KVF_DECODE, &decode_split);
	expect_every_byte_once(&simple.model, prefill, decode);
	/* Destination 1 holds layers 2 to 4: one of stage 0, all of stages 1 and 2; no two shares are equal to a third. */
	assert_int_equal(pair_bytes(&simple.model, prefill, 0, decode, 1), 1 * 2 * 64 * 16);
	assert_int_equal(pair_bytes(&simple.model, prefill, 1, decode, 1), 0);
	assert_int_equal(pair_bytes(&simple.model, prefill, 4, decode, 1), 1 * 2 * 64 * 16);
	assert_int_equal(pair_bytes(&simple.model, prefill, 0, decode, 0), 2 * 2 * 64 * 16);
	kvf_instance_free(prefill);
	kvf_instance_free(decode);
}

static void t_p20_every_rank_is_planned_by_its_own_layout(void **state)
{
	struct kvf_parallel four = {.tp = 4, .pp = 1, .cp = 1, .dp = 1},
			    two = {.tp = 2, .pp = 1, .cp = 1, .dp = 1};
	static const uint64_t slots[] = {1, 2, 1, 2};
	struct kvf_instance *prefill, *decode;
	struct simple_model simple;

	(void)state;
	simple_model_init(&simple, 2, 6, 64, 2);
	prefill = make_instance(&simple.model, KVF_PREFILL, &four);
	decode = make_instance(&simple.model, KVF_DECODE, &two);
	for (uint32_t r = 0; r < 4; r++) {
		struct kvf_layout *layout = make_layout(&simple.model, prefill, r, 8);

		assert_int_equal(layout->groups[0].parts[0].block_stride, slots[r] * 2 * 2 * 8 * 64);
		assert_int_equal(
			pair_bytes(&simple.model, prefill, r, decode, r / 2), slots[r] * 2 * 2 * 64 * 16);
		kvf_layout_free(layout);
	}
	expect_every_byte_once(&simple.model, prefill, decode);
	kvf_instance_free(prefill);
	kvf_instance_free(decode);
}

static void t_p21_offsets_count_local_heads_and_stay_in_the_slot(void **state)
{
	struct simple_model simple;

	(void)state;
	simple_model_init(&simple, 2, 8, 64, 2);
	for (uint32_t src = 0; src < 4; src++) {
		struct side_options prefill = SIDE(4, 1, 1, KVF_BLOCK_MAJOR, 8, src);
		struct side_options decode = SIDE(2, 1, 1, KVF_BLOCK_MAJOR, 8, src / 2);
		struct kvf_run runs[64];
		struct rank_pair pair;
		uint64_t n = 0;

		rank_pair_init(&pair, &simple.model, &prefill, &decode, KVF_REPLICA_ELECT);
		assert_int_equal(kvf_plan_block0_runs(pair.plan, runs, 64, &n), KVF_OK);
		assert_in_range(n, 1, 64);
		for (uint64_t i = 0; i < n; i++) {
			assert_in_range(runs[i].src_offset + runs[i].len_bytes, 1,
				pair.src->groups[0].parts[0].block_stride);
			assert_in_range(runs[i].dst_offset + runs[i].len_bytes, 1,
				pair.dst->groups[0].parts[0].block_stride);
		}
		rank_pair_fini(&pair);
	}
}

static void t_p22_of_replicas_exactly_one_sends(void **state)
{
	(void)state;
	for (uint32_t heads = 1; heads <= 6; heads++) {
		struct simple_model simple;

		simple_model_init(&simple, 2, heads, 16, 2);
		for (uint32_t src_tp = 1; src_tp <= 8; src_tp++) {
			for (uint32_t dst_tp = 1; dst_tp <= 8; dst_tp++) {
				struct kvf_parallel from = {.tp = src_tp,
					.pp = 1,
					.cp = 1,
					.dp = src_tp % 2 == 0 && heads % 2 == 0 ? 2 : 1};
				struct kvf_parallel to = {
					.tp = dst_tp, .pp = 1, .cp = 1, .dp = dst_tp % 3 == 0 ? 3 : 1};
				struct kvf_instance *prefill =
					make_instance(&simple.model, KVF_PREFILL, &from);
				struct kvf_instance *decode = make_instance(&simple.model, KVF_DECODE, &to);

				expect_every_byte_once(&simple.model, prefill, decode);
				kvf_instance_free(prefill);
				kvf_instance_free(decode);
			}
		}
	}
}

static void t_p23_lists_are_cut_at_the_head_never_at_the_tail(void **state)
{
	static const int32_t src_ids[] = {0, 1, 2, 3}, dst_ids[] = {5, 6, 7};
	struct side_options side = SIDE(1, 1, 1, KVF_LAYER_NHD, 8, 0);
	/* 27 tokens: the last of four blocks is partial and still moves whole. */
	struct kvfi_shape shape = {.prompt_len = 27, .token_end = 27, .first = true, .last = true};
	struct kvfi_ids src = {src_ids, 4}, dst = {dst_ids, 3};
	struct simple_model simple;
	struct kvfi_bound bound;
	struct rank_pair pair;

	(void)state;
	simple_model_init(&simple, 1, 1, 64, 1);
	rank_pair_init(&pair, &simple.model, &side, &side, KVF_REPLICA_ELECT);
	assert_int_equal(kvfi_bind(pair.plan, &shape, &src, &dst, &bound), KVF_OK);
	assert_int_equal(bound.n_ranges, 1);
	assert_int_equal(bound.ranges[0].range.token_first, 8);
	assert_int_equal(bound.ranges[0].range.token_end, 32);
	assert_ptr_equal(bound.ranges[0].src_ids, src_ids + 1);
	assert_ptr_equal(bound.ranges[0].dst_ids, dst_ids);
	rank_pair_fini(&pair);
}

static void t_p26_no_plan_without_both_layouts(void **state)
{
	struct side_options prefill = SIDE(2, 1, 1, KVF_BLOCK_MAJOR, 8, 0),
			    decode = SIDE(2, 1, 1, KVF_BLOCK_MAJOR, 8, 1);
	struct simple_model simple;
	struct rank_pair pair;
	struct kvf_layout other;
	kvf_plan *plan = NULL;

	(void)state;
	simple_model_init(&simple, 2, 4, 64, 2);
	rank_pair_init(&pair, &simple.model, &prefill, &decode, KVF_REPLICA_ELECT);
	assert_int_equal(kvf_plan_new(pair.prefill, NULL, pair.decode, pair.dst, KVF_REPLICA_ELECT, &plan),
		KVF_EINVAL);
	assert_int_equal(kvf_plan_new(pair.prefill, pair.src, pair.decode, NULL, KVF_REPLICA_ELECT, &plan),
		KVF_EINVAL);
	assert_int_equal(
		kvf_plan_new(NULL, pair.src, pair.decode, pair.dst, KVF_REPLICA_ELECT, &plan), KVF_EINVAL);
	/* A layout that says other than the map does not get a plan either. */
	other = *pair.src;
	other.rank = 1;
	assert_int_equal(kvf_plan_new(pair.prefill, &other, pair.decode, pair.dst, KVF_REPLICA_ELECT, &plan),
		KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "heads"));
	assert_null(plan);
	rank_pair_fini(&pair);
}

/* The ranges that the sender names are what counts; the receiver's own list alone says where they go. */
static void t_p46_the_receiver_assumes_nothing_about_the_senders_list(void **state)
{
	static const int32_t src_ids[] = {0, 1, 2, 3}, dst_ids[] = {4, 5, 6, 7};
	struct side_options side = SIDE(1, 1, 1, KVF_LAYER_NHD, 8, 0);
	struct kvfi_shape shape = {.prompt_len = 32, .token_end = 32, .first = true, .last = true};
	struct kvfi_ids evicted = {src_ids + 1, 3}, all = {dst_ids, 4}, tail = {dst_ids, 2},
			most = {dst_ids, 3};
	struct kvfi_range range = {.group = 0, .token_first = 8, .token_end = 32};
	struct kvfi_bound bound;
	struct simple_model simple;
	struct rank_pair pair;

	(void)state;
	simple_model_init(&simple, 1, 1, 64, 1);
	rank_pair_init(&pair, &simple.model, &side, &side, KVF_REPLICA_ELECT);
	/* The receiver wants block 0, the sender no longer has it: refused, not shifted. */
	assert_int_equal(kvfi_bind(pair.plan, &shape, &evicted, &all, &bound), KVF_BLOCK_LIST);
	assert_int_equal(kvfi_bind(pair.plan, &shape, &evicted, &most, &bound), KVF_OK);
	assert_int_equal(bound.bytes, 3 * 8 * 64);
	/* Of what was named, block 1 goes to the place of block 1. */
	assert_int_equal(kvfi_bind_ranges(pair.plan, 32, 0, 0, &range, 1, &all, &bound), KVF_OK);
	assert_ptr_equal(bound.ranges[0].dst_ids, dst_ids + 1);
	/* Asked for two blocks, told of three. */
	assert_int_equal(kvfi_bind_ranges(pair.plan, 32, 0, 0, &range, 1, &tail, &bound), KVF_OUT_OF_RANGE);
	/* Another prompt length means another number of blocks. */
	assert_int_equal(kvfi_bind_ranges(pair.plan, 24, 0, 0, &range, 1, &most, &bound), KVF_OUT_OF_RANGE);
	assert_int_equal(kvfi_bind_ranges(pair.plan, 24, 0, 0, &range, 1, &all, &bound), KVF_BLOCK_LIST);
	rank_pair_fini(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_p19_fan_in_shares_follow_uneven_stages_and_replicas),
		cmocka_unit_test(t_p20_every_rank_is_planned_by_its_own_layout),
		cmocka_unit_test(t_p21_offsets_count_local_heads_and_stay_in_the_slot),
		cmocka_unit_test(t_p22_of_replicas_exactly_one_sends),
		cmocka_unit_test(t_p23_lists_are_cut_at_the_head_never_at_the_tail),
		cmocka_unit_test(t_p26_no_plan_without_both_layouts),
		cmocka_unit_test(t_p46_the_receiver_assumes_nothing_about_the_senders_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
