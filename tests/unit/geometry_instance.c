/* geometry_instance.c - instance maps: what the default split makes, and what is refused by name. */
#include "geometry_support.h"

#include <string.h>

static void expect_refused(const struct kvf_model *model, const struct kvf_parallel *parallel,
	enum kvf_role role, const char *field)
{
	struct kvf_instance *instance = NULL;

	assert_int_equal(kvf_instance_new(model, parallel, role, 1, &instance), KVF_EINVAL);
	assert_null(instance);
	if (!strstr(kvf_error(), field))
		fail_msg("\"%s\" does not name %s", kvf_error(), field);
}

static void sizes_that_make_no_sense_are_refused(void **state)
{
	static const uint32_t short_stages[] = {2, 2}, empty_stages[] = {5, 0};
	const struct kvf_parallel good = {.tp = 2, .pp = 2, .cp = 1, .dp = 1};
	struct kvf_parallel bad;
	struct simple_model simple;

	(void)state;
	simple_model_init(&simple, 5, 4, 64, 2);
	bad = good, bad.tp = 0;
	expect_refused(&simple.model, &bad, KVF_PREFILL, "tp");
	bad = good, bad.pp = 0;
	expect_refused(&simple.model, &bad, KVF_PREFILL, "pp");
	bad = good, bad.cp = 0;
	expect_refused(&simple.model, &bad, KVF_DECODE, "cp");
	bad = good, bad.dp = 0;
	expect_refused(&simple.model, &bad, KVF_DECODE, "dp");
	bad = good, bad.dp = 4;
	expect_refused(&simple.model, &bad, KVF_DECODE, "dp");
	bad = good, bad.tp = 6, bad.dp = 4;
	expect_refused(&simple.model, &bad, KVF_DECODE, "dp");
	bad = good, bad.cp = 2;
	expect_refused(&simple.model, &bad, KVF_PREFILL, "cp");
	bad = good, bad.tp = KVF_MAX_RANKS;
	expect_refused(&simple.model, &bad, KVF_PREFILL, "ranks");
	bad = good, bad.tp = UINT32_MAX, bad.pp = UINT32_MAX;
	expect_refused(&simple.model, &bad, KVF_PREFILL, "tp");
	bad = good, bad.pp = 6;
	expect_refused(&simple.model, &bad, KVF_PREFILL, "pp");
	bad = good, bad.stages = short_stages;
	expect_refused(&simple.model, &bad, KVF_PREFILL, "stages");
	bad.stages = empty_stages;
	expect_refused(&simple.model, &bad, KVF_PREFILL, "stages[1]");
	expect_refused(&simple.model, &good, (enum kvf_role)3, "role");
	expect_refused(&simple.model, NULL, KVF_PREFILL, "parallel");
	expect_refused(NULL, &good, KVF_PREFILL, "model");
}

static void rank_order_names_each_axis_once(void **state)
{
	static const char *const bad[] = {
		"", "tp", "tp:pp", "tp:pp:tp", "tp:pp:dp", "tp-pp-cp", "tp:pp:cp:tp"};
	struct kvf_parallel parallel = {.tp = 2, .pp = 2, .cp = 1, .dp = 1};
	struct kvf_instance *instance = NULL;
	struct simple_model simple;

	(void)state;
	simple_model_init(&simple, 4, 4, 64, 2);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		parallel.rank_order = bad[i];
		expect_refused(&simple.model, &parallel, KVF_PREFILL, "rank_order");
	}
	parallel.cp = 3;
	parallel.rank_order = "tp:cp:pp";
	assert_int_equal(kvf_instance_new(&simple.model, &parallel, KVF_DECODE, 1, &instance), KVF_OK);
	assert_int_equal(instance->n_ranks, 12);
	/* rank = (tp * 3 + cp) * 2 + pp */
	for (uint32_t r = 0; r < 12; r++) {
		assert_int_equal(instance->ranks[r].pp, r % 2);
		assert_int_equal(instance->ranks[r].cp, r / 2 % 3);
		assert_int_equal(instance->ranks[r].tp, r / 6);
	}
	kvf_instance_free(instance);
	parallel.rank_order = NULL;
	assert_int_equal(kvf_instance_new(&simple.model, &parallel, KVF_DECODE, 1, &instance), KVF_OK);
	/* rank = pp * (TP * CP) + cp * TP + tp */
	for (uint32_t r = 0; r < 12; r++) {
		assert_int_equal(instance->ranks[r].tp, r % 2);
		assert_int_equal(instance->ranks[r].cp, r / 2 % 3);
		assert_int_equal(instance->ranks[r].pp, r / 6);
	}
	kvf_instance_free(instance);
}

static void models_that_make_no_sense_are_refused(void **state)
{
	const struct kvf_parallel parallel = {.tp = 1, .pp = 1, .cp = 1, .dp = 1};
	struct simple_model simple;

	(void)state;
#define BROKEN(change, field)                                                                                \
	do {                                                                                                 \
		simple_model_init(&simple, 4, 4, 64, 2);                                                     \
		change;                                                                                      \
		expect_refused(&simple.model, &parallel, KVF_PREFILL, field);                                \
	} while (0)
	BROKEN(simple.model.n_groups = 0, "n_groups");
	BROKEN(simple.model.n_groups = KVF_MAX_GROUPS + 1, "n_groups");
	BROKEN(simple.model.name = NULL, "name");
	BROKEN(simple.model.revision = NULL, "revision");
	BROKEN(simple.group.n_layers = 0, "n_layers");
	BROKEN(simple.group.n_layers = KVF_MAX_LAYERS + 1, "n_layers");
	BROKEN(simple.group.layers = NULL, "layers");
	BROKEN(simple.layers[2] = simple.layers[1], "layers[2]");
	BROKEN(simple.layers[3] = KVF_MAX_LAYERS, "layers[3]");
	BROKEN(simple.group.n_parts = 0, "n_parts");
	BROKEN(simple.group.n_parts = KVF_MAX_PARTS + 1, "n_parts");
	BROKEN(simple.group.parts[1].heads = 0, "part 1: heads");
	BROKEN(simple.group.parts[1].heads = UINT32_MAX, "part 1: heads");
	BROKEN(simple.group.parts[0].row_bytes = 0, "row_bytes");
	BROKEN(simple.group.parts[0].row_bytes = UINT64_MAX, "row_bytes");
	BROKEN(simple.group.kind = (enum kvf_group_kind)9, "kind");
	BROKEN(simple.group.dtype = (enum kvf_dtype)0, "dtype");
	BROKEN(simple.group.window_tokens = 5, "window_tokens");
	BROKEN(simple.group.kind = KVF_WINDOW, "window_tokens");
#undef BROKEN
}

static void stages_default_to_more_layers_first(void **state)
{
	static const uint32_t counts[] = {3, 2, 2};
	struct kvf_parallel parallel = {.tp = 1, .pp = 3, .cp = 1, .dp = 1};
	struct kvf_instance *instance;
	struct simple_model simple;

	(void)state;
	simple_model_init(&simple, 7, 4, 64, 2);
	instance = make_instance(&simple.model, KVF_PREFILL, &parallel);
	for (uint32_t r = 0; r < 3; r++)
		assert_int_equal(instance->ranks[r].groups[0].n_layers, counts[r]);
	assert_int_equal(instance->ranks[1].groups[0].layers[0], 3);
	kvf_instance_free(instance);
}

/* Two groups: stages cut the union of their layers. A replicated group is whole on every rank; sections split by themselves. */
static void groups_split_each_in_its_own_way(void **state)
{
	static const uint32_t attention[] = {0, 2}, recurrent[] = {1, 3, 5};
	struct kvf_group_spec groups[] = {{.kind = KVF_REPLICATED,
						  .dtype = KVF_BF16,
						  .n_layers = 2,
						  .layers = attention,
						  .n_parts = 1,
						  .parts = {{3, 64}}},
		{.kind = KVF_STATE,
			.dtype = KVF_FP32,
			.n_layers = 3,
			.layers = recurrent,
			.n_parts = 3,
			.parts = {{8, 16}, {2, 32}, {6, 8}}}};
	struct kvf_model model = {.name = "hybrid", .revision = "", .n_groups = 2, .groups = groups};
	struct kvf_parallel parallel = {.tp = 4, .pp = 2, .cp = 1, .dp = 1};
	struct kvf_instance *instance = make_instance(&model, KVF_DECODE, &parallel);
	const struct kvf_rank *last = &instance->ranks[7]; /* pp 1, tp 3 */

	(void)state;
	assert_int_equal(last->groups[0].n_layers, 0);
	assert_int_equal(last->groups[1].n_layers, 2);
	assert_int_equal(last->groups[1].layers[0], 3);
	assert_int_equal(instance->ranks[3].groups[0].n_layers, 2);
	assert_int_equal(instance->ranks[3].groups[0].head_count[0], 3);
	assert_int_equal(last->groups[1].head_start[0], 6);
	assert_int_equal(last->groups[1].head_count[0], 2);
	assert_int_equal(last->groups[1].head_start[1], 1);
	assert_int_equal(last->groups[1].head_count[1], 1);
	assert_int_equal(last->groups[1].head_start[2], 4);
	assert_int_equal(last->groups[1].head_count[2], 2);
	kvf_instance_free(instance);
}

static void endpoints_can_be_set_again_and_do_not_count_in_the_hash(void **state)
{
	struct kvf_parallel parallel = {.tp = 2, .pp = 1, .cp = 1, .dp = 1};
	struct kvf_instance *instance, *copy;
	struct simple_model simple;
	char too_long[400];
	uint64_t hash;

	(void)state;
	simple_model_init(&simple, 2, 4, 64, 2);
	instance = make_instance(&simple.model, KVF_PREFILL, &parallel);
	hash = kvfi_instance_hash(instance);
	assert_string_equal(instance->ranks[1].endpoint, "");
	assert_int_equal(kvf_instance_set_endpoint(instance, 1, "tcp://127.0.0.1:1"), KVF_OK);
	assert_int_equal(kvf_instance_set_endpoint(instance, 1, "tcp://127.0.0.1:2"), KVF_OK);
	assert_string_equal(instance->ranks[1].endpoint, "tcp://127.0.0.1:2");
	assert_int_equal(kvf_instance_set_endpoint(instance, 2, "x"), KVF_EINVAL);
	assert_int_equal(kvf_instance_set_endpoint(instance, 0, NULL), KVF_EINVAL);
	memset(too_long, 'x', sizeof(too_long) - 1);
	too_long[sizeof(too_long) - 1] = '\0';
	assert_int_equal(kvf_instance_set_endpoint(instance, 0, too_long), KVF_EINVAL);
	copy = kvfi_instance_copy(instance);
	assert_non_null(copy);
	assert_true(kvfi_instance_hash(instance) == hash);
	assert_true(kvfi_instance_hash(copy) == hash);
	kvf_instance_free(instance);
	assert_string_equal(copy->ranks[1].endpoint, "tcp://127.0.0.1:2");
	assert_int_equal(copy->ranks[0].groups[0].layers[1], 1);
	assert_int_equal(kvf_instance_set_endpoint(copy, 1, "inproc://a"), KVF_OK);
	assert_int_equal(kvfi_instance_check(copy), KVF_OK);
	((struct kvf_rank_group *)(uintptr_t)&copy->ranks[1].groups[0])->head_start[0]--;
	assert_false(kvfi_instance_hash(copy) == hash);
	kvf_instance_free(copy);
	kvf_instance_free(NULL);
}

static void expect_map_refused(struct kvf_instance *instance, const char *field)
{
	assert_int_equal(kvfi_instance_check(instance), KVF_EINVAL);
	if (!strstr(kvf_error(), field))
		fail_msg("\"%s\" does not name %s", kvf_error(), field);
	kvf_instance_free(instance);
}

static struct kvf_instance *good_map(void)
{
	struct kvf_parallel parallel = {.tp = 2, .pp = 2, .cp = 1, .dp = 1};
	struct simple_model simple;

	simple_model_init(&simple, 4, 4, 64, 2);
	return make_instance(&simple.model, KVF_PREFILL, &parallel);
}

static struct kvf_rank *rank_of(struct kvf_instance *instance, uint32_t rank)
{
	return (struct kvf_rank *)(uintptr_t)&instance->ranks[rank];
}

static struct kvf_rank_group *group_of(struct kvf_instance *instance, uint32_t rank)
{
	return (struct kvf_rank_group *)(uintptr_t)&instance->ranks[rank].groups[0];
}

static void maps_from_outside_are_checked_field_by_field(void **state)
{
	struct kvf_instance *map;
	uint32_t *layers;

	(void)state;
	assert_int_equal(kvfi_instance_check(NULL), KVF_EINVAL);
	map = good_map(), map->n_ranks = 3;
	expect_map_refused(map, "n_ranks");
	map = good_map(), map->n_groups = 9;
	expect_map_refused(map, "n_groups");
	map = good_map(), map->tp = 3;
	expect_map_refused(map, "n_ranks");
	map = good_map(), rank_of(map, 2)->tp = 2;
	expect_map_refused(map, "rank 2");
	map = good_map(), rank_of(map, 3)->tp = 0;
	expect_map_refused(map, "taken");
	map = good_map(), rank_of(map, 1)->endpoint = NULL;
	expect_map_refused(map, "endpoint");
	map = good_map(), rank_of(map, 1)->groups = NULL;
	expect_map_refused(map, "groups");
	map = good_map(), group_of(map, 1)->head_count[7] = UINT32_MAX;
	expect_map_refused(map, "part 7");
	map = good_map(), group_of(map, 1)->n_layers = 5000;
	expect_map_refused(map, "n_layers");
	map = good_map(), layers = (uint32_t *)(uintptr_t)group_of(map, 1)->layers, layers[1] = 0;
	expect_map_refused(map, "layers[1]");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_that_make_no_sense_are_refused),
		cmocka_unit_test(rank_order_names_each_axis_once),
		cmocka_unit_test(models_that_make_no_sense_are_refused),
		cmocka_unit_test(stages_default_to_more_layers_first),
		cmocka_unit_test(groups_split_each_in_its_own_way),
		cmocka_unit_test(endpoints_can_be_set_again_and_do_not_count_in_the_hash),
		cmocka_unit_test(maps_from_outside_are_checked_field_by_field),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
