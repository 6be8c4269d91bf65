/* geometry_lists.c - block lists: what is refused, by which status, and what happens around blocks without a page. */
#include "geometry_support.h"

#include <string.h>

#define PROMPT 64 /* tokens; 8 blocks of 8 */

struct bind_case {
	struct simple_model simple;
	struct rank_pair pair;
	struct kvfi_shape shape;
	int32_t src_ids[16], dst_ids[16];
	struct kvfi_ids src, dst;
	struct kvfi_bound bound;
};

/* One layer, one head of 16 bytes; TP1 to TP1 in blocks of src_tpb and dst_tpb; both lists whole. */
static void bind_case_init(
	struct bind_case *c, enum kvf_group_kind kind, uint32_t src_tpb, uint32_t dst_tpb, uint32_t cp)
{
	struct side_options prefill = SIDE(1, 1, 1, KVF_LAYER_NHD, src_tpb, 0);
	struct side_options decode = SIDE(1, 1, 1, KVF_LAYER_NHD, dst_tpb, cp - 1);

	memset(c, 0, sizeof(*c));
	simple_model_init(&c->simple, 1, 1, 16, 1);
	c->simple.group.kind = kind;
	c->simple.group.window_tokens = kind == KVF_WINDOW ? 20 : 0;
	decode.parallel.cp = cp;
	rank_pair_init(&c->pair, &c->simple.model, &prefill, &decode, KVF_REPLICA_ELECT);
	c->shape =
		(struct kvfi_shape){.prompt_len = PROMPT, .token_end = PROMPT, .first = true, .last = true};
	for (int32_t i = 0; i < 16; i++) {
		c->src_ids[i] = i;
		c->dst_ids[i] = 20 + i;
	}
	c->src = (struct kvfi_ids){c->src_ids, PROMPT / src_tpb};
	c->dst = (struct kvfi_ids){c->dst_ids, PROMPT / dst_tpb / cp};
}

static enum kvf_status bind_it(struct bind_case *c)
{
	return kvfi_bind(c->pair.plan, &c->shape, &c->src, &c->dst, &c->bound);
}

static void expect_error(enum kvf_status status, enum kvf_status expected, const char *field)
{
	assert_int_equal(status, expected);
	if (!strstr(kvf_error(), field))
		fail_msg("\"%s\" does not name %s", kvf_error(), field);
}

static void expect_range(const struct bind_case *c, uint32_t i, uint64_t first, uint64_t end)
{
	assert_in_range(i, 0, c->bound.n_ranges - 1);
	assert_int_equal(c->bound.ranges[i].range.token_first, first);
	assert_int_equal(c->bound.ranges[i].range.token_end, end);
}

static void lists_longer_than_the_slice_are_refused(void **state)
{
	struct bind_case c;

	(void)state;
	bind_case_init(&c, KVF_PAGED, 8, 8, 1);
	c.src.n = 9;
	expect_error(bind_it(&c), KVF_BLOCK_LIST, "prefill names 9 blocks, the slice has 8");
	c.src.n = 8;
	c.dst.n = 9;
	expect_error(bind_it(&c), KVF_BLOCK_LIST, "decode names 9 blocks, the prompt has 8");
	/* A middle chunk has its own blocks, not those before it. */
	c.dst.n = 8;
	c.shape = (struct kvfi_shape){.prompt_len = PROMPT, .token_start = 16, .token_end = 32};
	c.src.n = 4;
	expect_error(bind_it(&c), KVF_BLOCK_LIST, "prefill names 4 blocks, the slice has 2");
	rank_pair_fini(&c.pair);
}

static void ids_beyond_the_pool_are_refused(void **state)
{
	struct bind_case c;

	(void)state;
	bind_case_init(&c, KVF_PAGED, 8, 8, 1);
	c.src_ids[5] = 64;
	expect_error(bind_it(&c), KVF_BLOCK_LIST, "block 5 of prefill has id 64");
	c.src_ids[5] = 63;
	c.dst_ids[7] = INT32_MAX;
	expect_error(bind_it(&c), KVF_BLOCK_LIST, "block 7 of decode");
	c.dst_ids[7] = 63;
	assert_int_equal(bind_it(&c), KVF_OK);
	rank_pair_fini(&c.pair);
}

static void shapes_that_make_no_sense_are_refused(void **state)
{
	struct bind_case c;
	struct kvfi_shape good;

	(void)state;
	bind_case_init(&c, KVF_PAGED, 8, 8, 1);
	good = c.shape;
	c.shape.prompt_len = 0;
	expect_error(bind_it(&c), KVF_EINVAL, "prompt_len");
	c.shape.prompt_len = KVF_MAX_TOKENS + 1;
	expect_error(bind_it(&c), KVF_EINVAL, "prompt_len");
	c.shape = good, c.shape.token_end = PROMPT + 1;
	expect_error(bind_it(&c), KVF_EINVAL, "token_end");
	c.shape = good, c.shape.token_start = PROMPT;
	expect_error(bind_it(&c), KVF_EINVAL, "token_start");
	c.shape = good, c.shape.layer_start = 2, c.shape.layer_end = 1;
	expect_error(bind_it(&c), KVF_EINVAL, "layer_start");
	c.shape = good, c.shape.layer_end = KVF_MAX_LAYERS + 1;
	expect_error(bind_it(&c), KVF_EINVAL, "layer_end");
	rank_pair_fini(&c.pair);
}

static void blocks_without_a_page_split_the_range(void **state)
{
	struct bind_case c;

	(void)state;
	bind_case_init(&c, KVF_PAGED, 8, 8, 1);
	c.src_ids[0] = -1;
	c.src_ids[3] = -1;
	c.dst_ids[5] = -7;
	assert_int_equal(bind_it(&c), KVF_OK);
	assert_int_equal(c.bound.n_ranges, 3);
	expect_range(&c, 0, 8, 24);
	expect_range(&c, 1, 32, 40);
	expect_range(&c, 2, 48, 64);
	assert_int_equal(c.bound.ranges[1].src_ids[0], 4);
	assert_int_equal(c.bound.ranges[2].dst_ids[0], 26);
	assert_int_equal(c.bound.bytes, 5 * 8 * 16);
	/* What the source lacks and the destination wants; not what the destination itself has no page for. */
	assert_int_equal(c.bound.dropped_tokens, 16);
	c.dst_ids[3] = -1;
	assert_int_equal(bind_it(&c), KVF_OK);
	assert_int_equal(c.bound.dropped_tokens, 8);
	rank_pair_fini(&c.pair);
}

static void too_many_ranges_are_refused(void **state)
{
	struct side_options side = SIDE(1, 1, 1, KVF_LAYER_NHD, 1, 0);
	struct kvfi_shape shape = {.prompt_len = 200, .token_end = 200, .first = true, .last = true};
	struct kvfi_bound bound;
	struct simple_model simple;
	struct rank_pair pair;
	struct kvfi_ids list;
	int32_t ids[200];

	(void)state;
	simple_model_init(&simple, 1, 1, 16, 1);
	rank_pair_init(&pair, &simple.model, &side, &side, KVF_REPLICA_ELECT);
	for (int32_t i = 0; i < 200; i++)
		ids[i] = i % 2 == 0 ? i % 64 : -1;
	list = (struct kvfi_ids){ids, 200};
	expect_error(kvfi_bind(pair.plan, &shape, &list, &list, &bound), KVF_BLOCK_LIST, "separate ranges");
	rank_pair_fini(&pair);
}

static void a_prefix_cached_by_the_receiver_is_not_sent(void **state)
{
	struct bind_case c;

	(void)state;
	bind_case_init(&c, KVF_PAGED, 8, 8, 1);
	c.dst.n = 2;
	c.shape = (struct kvfi_shape){.prompt_len = PROMPT, .token_end = 56, .first = true};
	c.src.n = 7;
	assert_int_equal(bind_it(&c), KVF_OK);
	assert_int_equal(c.bound.n_ranges, 1);
	expect_range(&c, 0, 48, 56);
	/* A chunk wholly inside the cached prefix moves nothing, even where the source has nothing either. */
	c.shape.token_end = 48;
	c.src.n = 0;
	assert_int_equal(bind_it(&c), KVF_OK);
	assert_int_equal(c.bound.n_ranges, 0);
	assert_int_equal(c.bound.units, 0);
	c.dst.n = 0;
	c.shape.token_end = PROMPT;
	c.src.n = 8;
	assert_int_equal(bind_it(&c), KVF_OK);
	assert_int_equal(c.bound.bytes, 0);
	rank_pair_fini(&c.pair);
}

static void unequal_blocks_meet_at_tokens(void **state)
{
	struct bind_case c;

	(void)state;
	/* 16-token blocks to 8-token blocks; the receiver has the first five of its eight cached: tokens 40 on. */
	bind_case_init(&c, KVF_PAGED, 16, 8, 1);
	c.dst.n = 3;
	assert_int_equal(bind_it(&c), KVF_OK);
	expect_range(&c, 0, 40, 64);
	assert_int_equal(c.bound.ranges[0].src_ids[0], 2);
	assert_int_equal(c.bound.ranges[0].dst_ids[0], 20);
	/* The source's tail block holds more tokens than the destination has blocks for. */
	c.shape.prompt_len = c.shape.token_end = 50;
	c.src.n = 4;
	c.dst.n = 7;
	assert_int_equal(bind_it(&c), KVF_OK);
	expect_range(&c, 0, 0, 56);
	/* The receiver refuses ranges that no block boundary explains. */
	c.bound.ranges[0].range.token_end = 52;
	expect_error(kvfi_bind_ranges(c.pair.plan, 50, 0, 0, &c.bound.ranges[0].range, 1, &c.dst, &c.bound),
		KVF_OUT_OF_RANGE, "cut blocks");
	rank_pair_fini(&c.pair);
}

static void ranges_from_a_sender_are_checked(void **state)
{
	struct kvfi_range twice[2] = {{0, 0, 16}, {0, 8, 32}}, ordered[2] = {{0, 0, 16}, {0, 16, 32}};
	struct kvfi_range unknown = {1, 0, 8}, empty = {0, 8, 8}, beyond = {0, 0, 72}, whole = {0, 0, 64};
	struct bind_case c;

	(void)state;
	bind_case_init(&c, KVF_PAGED, 8, 8, 1);
#define BIND(ranges, n) kvfi_bind_ranges(c.pair.plan, PROMPT, 0, 0, ranges, n, &c.dst, &c.bound)
	assert_int_equal(BIND(ordered, 2), KVF_OK);
	assert_int_equal(c.bound.bytes, 32 * 16);
	assert_int_equal(c.bound.ranges[1].pos_first, 16 * 16);
	expect_error(BIND(twice, 2), KVF_OUT_OF_RANGE, "repeated");
	expect_error(BIND(&unknown, 1), KVF_OUT_OF_RANGE, "group 1");
	expect_error(BIND(&empty, 1), KVF_OUT_OF_RANGE, "[8, 8)");
	expect_error(BIND(&beyond, 1), KVF_OUT_OF_RANGE, "[0, 72)");
	expect_error(BIND(&whole, KVFI_MAX_RANGES + 1), KVF_OUT_OF_RANGE, "ranges");
	assert_int_equal(
		kvfi_bind_ranges(c.pair.plan, PROMPT, 1, 5, &whole, 1, &c.dst, &c.bound), KVF_OUT_OF_RANGE);
	c.dst_ids[2] = -1;
	expect_error(BIND(&whole, 1), KVF_OUT_OF_RANGE, "without a page");
#undef BIND
	rank_pair_fini(&c.pair);
}

static void expected_ranges_are_what_a_full_source_sends(void **state)
{
	struct bind_case c;
	struct kvfi_bound expected;

	(void)state;
	bind_case_init(&c, KVF_PAGED, 8, 8, 1);
	c.dst_ids[4] = -1;
	assert_int_equal(bind_it(&c), KVF_OK);
	assert_int_equal(kvfi_expected_ranges(c.pair.plan, PROMPT, &c.dst, &expected), KVF_OK);
	assert_int_equal(expected.n_ranges, 2);
	assert_int_equal(expected.bytes, c.bound.bytes);
	assert_int_equal(expected.ranges[1].range.token_first, 40);
	rank_pair_fini(&c.pair);
}

static void windows_and_states_move_with_the_slice_that_ends_the_prompt(void **state)
{
	struct bind_case c;

	(void)state;
	bind_case_init(&c, KVF_WINDOW, 8, 8, 1);
	/* Window 20 of 64: tokens 45 on, that is block 5 on. The last chunk names blocks before its own first token. */
	c.shape = (struct kvfi_shape){.prompt_len = PROMPT, .token_start = 60, .token_end = 64, .last = true};
	c.src = (struct kvfi_ids){c.src_ids + 5, 3};
	c.dst.n = 3;
	assert_int_equal(bind_it(&c), KVF_OK);
	expect_range(&c, 0, 40, 64);
	/* A source that kept less of the window is no error here; one that moves earlier names nothing. */
	c.src = (struct kvfi_ids){c.src_ids + 6, 2};
	assert_int_equal(bind_it(&c), KVF_OK);
	expect_range(&c, 0, 48, 64);
	c.shape.token_start = 0, c.shape.token_end = 60, c.shape.first = true, c.shape.last = false;
	assert_int_equal(bind_it(&c), KVF_OK);
	assert_int_equal(c.bound.n_ranges, 0);
	rank_pair_fini(&c.pair);

	bind_case_init(&c, KVF_STATE, 8, 8, 1);
	c.src_ids[0] = 3, c.dst_ids[0] = 2;
	c.src.n = c.dst.n = 1;
	assert_int_equal(bind_it(&c), KVF_OK);
	expect_range(&c, 0, 0, 1);
	assert_int_equal(c.bound.bytes, 16);
	c.src.n = 0;
	expect_error(bind_it(&c), KVF_BLOCK_LIST, "decode starts");
	c.src.n = 2;
	expect_error(bind_it(&c), KVF_BLOCK_LIST, "prefill names 2");
	c.shape.token_end = 60, c.shape.last = false;
	assert_int_equal(bind_it(&c), KVF_OK);
	assert_int_equal(c.bound.bytes, 0);
	rank_pair_fini(&c.pair);
}

/* CP 2, rank 1 holds global blocks 1, 3, 5, 7. */
static void context_parallel_ranks_take_every_nth_block(void **state)
{
	struct bind_case c;

	(void)state;
	bind_case_init(&c, KVF_PAGED, 8, 8, 2);
	assert_int_equal(bind_it(&c), KVF_OK);
	assert_int_equal(c.bound.n_ranges, 1);
	expect_range(&c, 0, 0, 32);
	for (uint32_t j = 0; j < 4; j++) {
		assert_int_equal(c.bound.ranges[0].src_ids[2 * j], 2 * j + 1);
		assert_int_equal(c.bound.ranges[0].dst_ids[j], 20 + j);
	}
	/* The sender evicted three blocks, the receiver has two of its four cached. */
	c.src = (struct kvfi_ids){c.src_ids + 3, 5};
	c.dst.n = 2;
	assert_int_equal(bind_it(&c), KVF_OK);
	expect_range(&c, 0, 16, 32);
	assert_int_equal(c.bound.ranges[0].src_ids[0], 5);
	assert_int_equal(c.bound.ranges[0].dst_ids[0], 20);
	/* 57 tokens: 8 blocks, this rank still holds four; 56: seven blocks, three. */
	c.dst.n = 4;
	c.shape.prompt_len = c.shape.token_end = 56;
	c.src = (struct kvfi_ids){c.src_ids, 7};
	expect_error(bind_it(&c), KVF_BLOCK_LIST, "the prompt has 3");
	rank_pair_fini(&c.pair);
}

static void own_lists_are_checked_before_anything_is_asked(void **state)
{
	struct bind_case c;
	struct kvfi_shape middle = {.prompt_len = PROMPT, .token_start = 8, .token_end = 24};

	(void)state;
	bind_case_init(&c, KVF_PAGED, 8, 8, 1);
#define CHECK_LISTS(shape, list, cp, rank) kvfi_check_lists(c.pair.src, shape, list, cp, rank)
	assert_int_equal(CHECK_LISTS(&c.shape, &c.src, 1, 0), KVF_OK);
	c.src.n = 5;
	expect_error(CHECK_LISTS(&c.shape, &c.src, 2, 1), KVF_EINVAL, "5 ids, the slice has 4 blocks");
	expect_error(CHECK_LISTS(&middle, &c.src, 1, 0), KVF_EINVAL, "5 ids, the slice has 2 blocks");
	c.src_ids[4] = 64;
	expect_error(CHECK_LISTS(&c.shape, &c.src, 1, 0), KVF_EINVAL, "ids[4]: 64");
	c.src_ids[4] = -3;
	assert_int_equal(CHECK_LISTS(&c.shape, &c.src, 1, 0), KVF_OK);
	c.src.ids = NULL;
	expect_error(CHECK_LISTS(&c.shape, &c.src, 1, 0), KVF_EINVAL, "ids: missing");
	c.src.ids = c.src_ids;
	c.shape.layer_start = 1, c.shape.layer_end = 4;
	expect_error(CHECK_LISTS(&c.shape, &c.src, 1, 0), KVF_EINVAL, "holds none of its layers");
	rank_pair_fini(&c.pair);
	bind_case_init(&c, KVF_WINDOW, 8, 8, 1);
	expect_error(CHECK_LISTS(&middle, &c.src, 1, 0), KVF_EINVAL, "ends at prompt_len");
#undef CHECK_LISTS
	rank_pair_fini(&c.pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists_longer_than_the_slice_are_refused),
		cmocka_unit_test(ids_beyond_the_pool_are_refused),
		cmocka_unit_test(shapes_that_make_no_sense_are_refused),
		cmocka_unit_test(blocks_without_a_page_split_the_range),
		cmocka_unit_test(too_many_ranges_are_refused),
		cmocka_unit_test(a_prefix_cached_by_the_receiver_is_not_sent),
		cmocka_unit_test(unequal_blocks_meet_at_tokens),
		cmocka_unit_test(ranges_from_a_sender_are_checked),
		cmocka_unit_test(expected_ranges_are_what_a_full_source_sends),
		cmocka_unit_test(windows_and_states_move_with_the_slice_that_ends_the_prompt),
		cmocka_unit_test(context_parallel_ranks_take_every_nth_block),
		cmocka_unit_test(own_lists_are_checked_before_anything_is_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
