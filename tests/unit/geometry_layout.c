/* geometry_layout.c - layouts: the addresses of the common orders, and what kvf_layout_check refuses and accepts. */
#include "geometry_support.h"

#include <string.h>

/* A small layout that tests may break: 2 layers, K and V, 3 heads, 4 tokens per block, 5 blocks, rows of 16 bytes. */
struct breakable {
	struct kvf_instance *instance;
	struct kvf_layout *layout;
	struct kvf_group *group;
	uint64_t *bases;
	uint64_t bytes;
};

static void breakable_init(struct breakable *breakable, enum kvf_memory_order order)
{
	struct kvf_parallel parallel = {.tp = 1, .pp = 1, .cp = 1, .dp = 1};
	struct kvf_layout_options options = {order, 4, 5, 0};
	struct simple_model simple;

	simple_model_init(&simple, 2, 3, 16, 2);
	breakable->instance = make_instance(&simple.model, KVF_DECODE, &parallel);
	assert_int_equal(kvf_layout_new(&simple.model, breakable->instance, 0, &options, &breakable->layout,
				 &breakable->bytes),
		KVF_OK);
	breakable->group = (struct kvf_group *)(uintptr_t)&breakable->layout->groups[0];
	breakable->bases = (uint64_t *)(uintptr_t)breakable->group->bases;
	assert_int_equal(kvf_layout_check(breakable->layout), KVF_OK);
}

static void breakable_fini(struct breakable *breakable)
{
	kvf_layout_free(breakable->layout);
	kvf_instance_free(breakable->instance);
}

static void set_strides(struct breakable *breakable, uint64_t block, uint64_t head, uint64_t token)
{
	for (uint32_t p = 0; p < 2; p++) {
		breakable->group->parts[p].block_stride = block;
		breakable->group->parts[p].head_stride = head;
		breakable->group->parts[p].token_stride = token;
	}
}

static void expect_refused(struct breakable *breakable, const char *field)
{
	assert_int_equal(kvf_layout_check(breakable->layout), KVF_EINVAL);
	if (!strstr(kvf_error(), field))
		fail_msg("\"%s\" does not name %s", kvf_error(), field);
	breakable_fini(breakable);
}

static void the_three_orders_have_their_strides(void **state)
{
	struct breakable b;

	(void)state;
	breakable_init(&b, KVF_BLOCK_MAJOR);
	assert_int_equal(b.group->parts[1].block_stride, 4 * 3 * 4 * 16);
	assert_int_equal(b.group->parts[1].head_stride, 4 * 16);
	assert_int_equal(b.group->parts[1].token_stride, 16);
	assert_int_equal(b.bases[3], 3 * 3 * 4 * 16);
	assert_int_equal(b.bytes, 5 * 4 * 3 * 4 * 16);
	breakable_fini(&b);
	breakable_init(&b, KVF_LAYER_HND);
	assert_int_equal(b.group->parts[1].block_stride, 3 * 4 * 16);
	assert_int_equal(b.group->parts[1].head_stride, 4 * 16);
	assert_int_equal(b.group->parts[1].token_stride, 16);
	assert_int_equal(b.bases[3], 3 * 5 * 3 * 4 * 16);
	breakable_fini(&b);
	breakable_init(&b, KVF_LAYER_NHD);
	assert_int_equal(b.group->parts[1].block_stride, 3 * 4 * 16);
	assert_int_equal(b.group->parts[1].head_stride, 16);
	assert_int_equal(b.group->parts[1].token_stride, 3 * 16);
	assert_int_equal(b.bytes, 5 * 4 * 3 * 4 * 16);
	breakable_fini(&b);
}

static void groups_start_on_pages_and_a_layout_can_be_moved(void **state)
{
	static const uint32_t layers[] = {0, 1};
	struct kvf_group_spec groups[] = {{.kind = KVF_PAGED,
						  .dtype = KVF_FP16,
						  .n_layers = 2,
						  .layers = layers,
						  .n_parts = 2,
						  .parts = {{3, 10}, {3, 10}}},
		{.kind = KVF_STATE,
			.dtype = KVF_FP32,
			.n_layers = 1,
			.layers = layers,
			.n_parts = 1,
			.parts = {{4, 8}}}};
	struct kvf_model model = {.name = "two", .revision = "", .n_groups = 2, .groups = groups};
	struct kvf_parallel parallel = {.tp = 1, .pp = 1, .cp = 1, .dp = 1};
	struct kvf_instance *instance = make_instance(&model, KVF_DECODE, &parallel);
	struct kvf_layout_options options = {KVF_LAYER_HND, 4, 5, 3};
	struct kvf_layout *layout, *copy;
	uint64_t bytes, start, end;

	(void)state;
	assert_int_equal(kvf_layout_new(&model, instance, 0, &options, &layout, &bytes), KVF_OK);
	assert_int_equal(layout->groups[1].bases[0], 4096);
	assert_int_equal(layout->groups[1].blocks, 3);
	assert_int_equal(layout->groups[1].tokens_per_block, 1);
	assert_int_equal(bytes, 4096 + 3 * 32);
	kvf_layout_move(layout, 1000);
	assert_true(kvfi_layout_extent(layout, 1, 0, 0, &start, &end));
	assert_int_equal(start, 5096);
	assert_int_equal(end, 5096 + 96);
	kvf_layout_move(layout, (uint64_t)0 - 1000);
	assert_int_equal(layout->groups[0].bases[0], 0);
	copy = kvfi_layout_copy(layout);
	assert_non_null(copy);
	kvf_layout_free(layout);
	assert_int_equal(kvf_layout_check(copy), KVF_OK);
	assert_int_equal(copy->groups[1].bases[0], 4096);
	assert_string_equal(copy->model, "two");
	kvf_layout_free(copy);
	kvf_instance_free(instance);
	kvf_layout_free(NULL);
}

static void options_that_make_no_sense_are_refused(void **state)
{
	const struct kvf_layout_options good = {KVF_LAYER_HND, 4, 5, 0};
	struct kvf_parallel parallel = {.tp = 1, .pp = 1, .cp = 1, .dp = 1};
	struct kvf_layout_options bad;
	struct kvf_layout *layout = NULL;
	struct kvf_instance *instance;
	struct simple_model simple;
	uint64_t bytes;

	(void)state;
	simple_model_init(&simple, 2, 3, 16, 2);
	instance = make_instance(&simple.model, KVF_DECODE, &parallel);
	bad = good, bad.tokens_per_block = 0;
	assert_int_equal(kvf_layout_new(&simple.model, instance, 0, &bad, &layout, &bytes), KVF_EINVAL);
	bad = good, bad.tokens_per_block = UINT32_MAX;
	assert_int_equal(kvf_layout_new(&simple.model, instance, 0, &bad, &layout, &bytes), KVF_EINVAL);
	bad = good, bad.blocks = 0;
	assert_int_equal(kvf_layout_new(&simple.model, instance, 0, &bad, &layout, &bytes), KVF_EINVAL);
	bad = good, bad.order = (enum kvf_memory_order)0;
	assert_int_equal(kvf_layout_new(&simple.model, instance, 0, &bad, &layout, &bytes), KVF_EINVAL);
	assert_int_equal(kvf_layout_new(&simple.model, instance, 1, &good, &layout, &bytes), KVF_EINVAL);
	assert_int_equal(kvf_layout_new(&simple.model, NULL, 0, &good, &layout, &bytes), KVF_EINVAL);
	simple.group.parts[0] = simple.group.parts[1] = (struct kvf_part_spec){1u << 23, UINT64_C(1) << 31};
	kvf_instance_free(instance);
	instance = make_instance(&simple.model, KVF_DECODE, &parallel);
	bad = good, bad.blocks = 1u << 30;
	assert_int_equal(kvf_layout_new(&simple.model, instance, 0, &bad, &layout, &bytes), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "overflow"));
	assert_null(layout);
	kvf_instance_free(instance);
}

static void fields_that_make_no_sense_are_refused(void **state)
{
	struct breakable b;

	(void)state;
	assert_int_equal(kvf_layout_check(NULL), KVF_EINVAL);
#define BROKEN(change, field)                                                                                \
	do {                                                                                                 \
		breakable_init(&b, KVF_LAYER_HND);                                                           \
		change;                                                                                      \
		expect_refused(&b, field);                                                                   \
	} while (0)
	BROKEN(b.layout->n_groups = 0, "n_groups");
	BROKEN(b.layout->model = NULL, "model");
	BROKEN(b.group->tokens_per_block = 0, "tokens_per_block");
	BROKEN(b.group->kind = KVF_STATE, "tokens_per_block");
	BROKEN(b.group->kind = KVF_WINDOW, "window_tokens");
	BROKEN(b.group->blocks = 0, "blocks");
	BROKEN(b.group->blocks = UINT32_MAX, "blocks");
	BROKEN(b.group->n_parts = 0, "n_parts");
	BROKEN(b.group->n_parts = 9, "n_parts");
	BROKEN(b.group->n_layers = 2000, "n_layers");
	BROKEN(b.group->bases = NULL, "bases");
	BROKEN(b.group->parts[0].row_bytes = 0, "row_bytes");
	BROKEN(b.group->parts[1].head_start = 1, "part 1: heads");
	BROKEN(b.group->parts[1].head_count = UINT32_MAX, "part 1: heads");
	BROKEN(b.group->parts[1].heads = 0, "heads");
	BROKEN(b.group->parts[0].block_stride = UINT64_MAX / 2, "strides");
	BROKEN(b.group->parts[0].token_stride = UINT64_MAX, "strides");
	BROKEN(b.bases[1] = UINT64_MAX - 100, "base");
#undef BROKEN
}

static void cells_that_share_bytes_are_refused(void **state)
{
	struct breakable b;

	(void)state;
	breakable_init(&b, KVF_LAYER_HND);
	b.bases[1] = b.bases[0] + 8; /* V begins inside K's first row */
	expect_refused(&b, "overlap");
	breakable_init(&b, KVF_LAYER_HND);
	b.bases[3] = b.bases[2];
	expect_refused(&b, "layer 1");
	breakable_init(&b, KVF_LAYER_HND);
	b.bases[2] = b.bases[1] + 5 * 3 * 4 * 16 - 1; /* one byte */
	expect_refused(&b, "overlap");
	breakable_init(&b, KVF_LAYER_HND);
	set_strides(&b, 3 * 4 * 16, 4 * 16, 15); /* rows overlap */
	expect_refused(&b, "overlap");
	breakable_init(&b, KVF_LAYER_HND);
	set_strides(&b, 3 * 4 * 16 - 1, 4 * 16, 16); /* blocks overlap */
	expect_refused(&b, "overlap");
	breakable_init(&b, KVF_LAYER_HND);
	set_strides(&b, 0, 4 * 16, 16);
	expect_refused(&b, "overlap");
	breakable_init(&b, KVF_BLOCK_MAJOR);
	b.bases[3] += 16; /* leaves the slot, into the next one */
	expect_refused(&b, "overlap");
	breakable_init(&b, KVF_BLOCK_MAJOR);
	b.bases[3] = b.bases[0] + 2 * b.group->parts[0].block_stride; /* two blocks later, the same places */
	expect_refused(&b, "overlap");
}

static void pools_woven_into_each_other_are_accepted(void **state)
{
	struct breakable b;

	(void)state;
	/* [block][layer][token][K|V][head]: K and V alternate per token */
	breakable_init(&b, KVF_BLOCK_MAJOR);
	set_strides(&b, 2 * 4 * 96, 16, 96);
	for (uint32_t i = 0; i < 4; i++)
		b.bases[i] = i / 2 * (4 * 96) + i % 2 * 48;
	assert_int_equal(kvf_layout_check(b.layout), KVF_OK);
	b.bases[1] -= 1;
	expect_refused(&b, "overlap");
	/* one (layer, part) wraps around the end of the slot, into the gap at the beginning of the next */
	breakable_init(&b, KVF_BLOCK_MAJOR);
	for (uint32_t i = 0; i < 4; i++)
		b.bases[i] += 100;
	b.bases[0] += b.group->parts[0].block_stride;
	assert_int_equal(kvf_layout_check(b.layout), KVF_OK);
	breakable_fini(&b);
	/* pools in reverse order */
	breakable_init(&b, KVF_LAYER_NHD);
	for (uint32_t i = 0; i < 4; i++)
		b.bases[i] = (3 - i) * 1000;
	assert_int_equal(kvf_layout_check(b.layout), KVF_OK);
	breakable_fini(&b);
}

static void aux_slots_lie_apart_from_the_cells(void **state)
{
	struct breakable b;

	(void)state;
	breakable_init(&b, KVF_LAYER_HND);
	assert_int_equal(kvf_layout_set_aux(b.layout, 4, 100, b.bytes), KVF_OK);
	assert_int_equal(b.layout->aux_bases[3], b.bytes + 300);
	assert_int_equal(kvf_layout_check(b.layout), KVF_OK);
	assert_int_equal(kvf_layout_set_aux(b.layout, 1, KVF_MAX_AUX_BYTES + 1, b.bytes), KVF_EINVAL);
	assert_int_equal(b.layout->n_aux, 4);
	assert_int_equal(kvf_layout_set_aux(b.layout, 2, 100, UINT64_MAX - 100), KVF_EINVAL);
	assert_int_equal(kvf_layout_set_aux(b.layout, 2, 100, b.bytes - 1), KVF_OK);
	expect_refused(&b, "aux slot 0");
	breakable_init(&b, KVF_LAYER_HND);
	assert_int_equal(kvf_layout_set_aux(b.layout, 2, 100, b.bytes), KVF_OK);
	((uint64_t *)(uintptr_t)b.layout->aux_bases)[1] -= 1;
	expect_refused(&b, "aux slots");
}

static void dtypes_have_names_and_sizes(void **state)
{
	(void)state;
	assert_int_equal(kvf_dtype_bits(KVF_BF16), 16);
	assert_int_equal(kvf_dtype_bits(KVF_INT4), 4);
	assert_int_equal(kvf_dtype_bits((enum kvf_dtype)99), 0);
	assert_string_equal(kvf_dtype_name(KVF_FP8), "fp8");
	assert_string_equal(kvf_dtype_name((enum kvf_dtype)0), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_three_orders_have_their_strides),
		cmocka_unit_test(groups_start_on_pages_and_a_layout_can_be_moved),
		cmocka_unit_test(options_that_make_no_sense_are_refused),
		cmocka_unit_test(fields_that_make_no_sense_are_refused),
		cmocka_unit_test(cells_that_share_bytes_are_refused),
		cmocka_unit_test(pools_woven_into_each_other_are_accepted),
		cmocka_unit_test(aux_slots_lie_apart_from_the_cells),
		cmocka_unit_test(dtypes_have_names_and_sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
