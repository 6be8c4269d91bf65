/* geometry_memory.c - the nth allocation fails, for every n: refused as out of memory, nothing leaks, nothing is written.
 *
 * Leaks are for the address sanitizer's row to find.
 */
#include "geometry_support.h"

#include "base/alloc.h"

struct world {
	struct simple_model simple;
	struct rank_pair pair;
};

/* Irregular bases and replicas, so that every growing array grows. */
static void world_init(struct world *world)
{
	struct side_options prefill = SIDE(8, 1, 1, KVF_LAYER_HND, 8, 2),
			    decode = SIDE(2, 2, 1, KVF_LAYER_NHD, 16, 0);
	uint64_t *bases;

	simple_model_init(&world->simple, 80, 4, 16, 2);
	rank_pair_init(&world->pair, &world->simple.model, &prefill, &decode, KVF_REPLICA_STRIPE);
	bases = (uint64_t *)(uintptr_t)world->pair.src->groups[0].bases;
	for (uint64_t i = 0; i < 160; i++)
		bases[i] += i * i * 512;
}

/* Calls with the 1st, 2nd, 3rd, ... allocation failing until it succeeds; every failure must be KVF_ENOMEM. */
static void expect_clean_failures(enum kvf_status (*call)(struct world *world), uint32_t at_least)
{
	struct world world;
	uint32_t n = 0;
	enum kvf_status status;

	world_init(&world);
	do {
		kvfi_alloc_fail_at(++n);
		status = call(&world);
		kvfi_alloc_fail_at(0);
		if (status != KVF_OK)
			assert_int_equal(status, KVF_ENOMEM);
	} while (status != KVF_OK && n < 1000);
	assert_int_equal(status, KVF_OK);
	assert_in_range(n, at_least, 1000);
	rank_pair_fini(&world.pair);
}

static enum kvf_status make_map(struct world *world)
{
	struct kvf_parallel parallel = {.tp = 4, .pp = 2, .cp = 1, .dp = 1};
	struct kvf_instance *instance = NULL;
	enum kvf_status status = kvf_instance_new(&world->simple.model, &parallel, KVF_PREFILL, 1, &instance);

	assert_int_equal(status == KVF_OK, instance != NULL);
	kvf_instance_free(instance);
	return status;
}

static enum kvf_status make_rank_layout(struct world *world)
{
	struct kvf_layout_options options = {KVF_BLOCK_MAJOR, 8, 4, 1};
	struct kvf_layout *layout = NULL;
	uint64_t bytes;
	enum kvf_status status =
		kvf_layout_new(&world->simple.model, world->pair.prefill, 1, &options, &layout, &bytes);

	assert_int_equal(status == KVF_OK, layout != NULL);
	if (layout)
		status = kvf_layout_set_aux(layout, 2, 16, bytes);
	if (status == KVF_OK)
		status = kvf_layout_check(layout);
	kvf_layout_free(layout);
	return status;
}

static enum kvf_status copy_both(struct world *world)
{
	struct kvf_instance *instance = kvfi_instance_copy(world->pair.prefill);
	struct kvf_layout *layout = kvfi_layout_copy(world->pair.src);
	enum kvf_status status = instance && layout ? KVF_OK : KVF_ENOMEM;

	kvf_instance_free(instance);
	kvf_layout_free(layout);
	return status;
}

static enum kvf_status make_plan(struct world *world)
{
	kvf_plan *plan = NULL;
	enum kvf_status status = kvf_plan_new(world->pair.prefill, world->pair.src, world->pair.decode,
		world->pair.dst, KVF_REPLICA_STRIPE, &plan);

	assert_int_equal(status == KVF_OK, plan != NULL);
	kvf_plan_free(plan);
	return status;
}

static enum kvf_status list_pairs(struct world *world)
{
	struct kvf_pair pairs[8];
	uint32_t n = 0;

	return kvf_pairs(world->pair.prefill, world->pair.decode, 0, KVF_DP_UNKNOWN, pairs, 8, &n);
}

static void instances_fail_cleanly(void **state)
{
	(void)state;
	expect_clean_failures(make_map, 3);
}

static void layouts_fail_cleanly(void **state)
{
	(void)state;
	expect_clean_failures(make_rank_layout, 3);
}

static void copies_fail_cleanly(void **state)
{
	(void)state;
	expect_clean_failures(copy_both, 2);
}

static void plans_fail_cleanly(void **state)
{
	(void)state;
	expect_clean_failures(make_plan, 15);
}

static void pairs_fail_cleanly(void **state)
{
	(void)state;
	expect_clean_failures(list_pairs, 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(instances_fail_cleanly),
		cmocka_unit_test(layouts_fail_cleanly),
		cmocka_unit_test(copies_fail_cleanly),
		cmocka_unit_test(plans_fail_cleanly),
		cmocka_unit_test(pairs_fail_cleanly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
