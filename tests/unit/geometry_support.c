/* geometry_support.c - see geometry_support.h. */
#include "geometry_support.h"

#include <string.h>

void simple_model_init(
	struct simple_model *simple, uint32_t n_layers, uint32_t heads, uint64_t row_bytes, uint32_t parts)
{
	memset(simple, 0, sizeof(*simple));
	for (uint32_t i = 0; i < n_layers; i++)
		simple->layers[i] = i;
	simple->group = (struct kvf_group_spec){.kind = KVF_PAGED,
		.dtype = KVF_BF16,
		.n_layers = n_layers,
		.layers = simple->layers,
		.n_parts = parts};
	for (uint32_t p = 0; p < parts; p++)
		simple->group.parts[p] = (struct kvf_part_spec){.heads = heads, .row_bytes = row_bytes};
	simple->model =
		(struct kvf_model){.name = "test", .revision = "", .n_groups = 1, .groups = &simple->group};
}

struct kvf_instance *make_instance(
	const struct kvf_model *model, enum kvf_role role, const struct kvf_parallel *parallel)
{
	struct kvf_instance *instance = NULL;

	assert_int_equal(
		kvf_instance_new(model, parallel, role, role == KVF_PREFILL ? 1 : 2, &instance), KVF_OK);
	assert_int_equal(kvfi_instance_check(instance), KVF_OK);
	return instance;
}

void plan_ranks(struct rank_pair *pair, const struct kvf_model *model, const struct side_options *prefill,
	const struct side_options *decode, enum kvf_replica replica)
{
	assert_int_equal(kvf_layout_new(model, pair->prefill, prefill->rank, &prefill->layout, &pair->src,
				 &pair->src_bytes),
		KVF_OK);
	assert_int_equal(kvf_layout_new(model, pair->decode, decode->rank, &decode->layout, &pair->dst,
				 &pair->dst_bytes),
		KVF_OK);
	assert_int_equal(kvf_layout_check(pair->src), KVF_OK);
	assert_int_equal(kvf_layout_check(pair->dst), KVF_OK);
	assert_int_equal(
		kvf_plan_new(pair->prefill, pair->src, pair->decode, pair->dst, replica, &pair->plan),
		KVF_OK);
}

void rank_pair_init(struct rank_pair *pair, const struct kvf_model *model, const struct side_options *prefill,
	const struct side_options *decode, enum kvf_replica replica)
{
	memset(pair, 0, sizeof(*pair));
	pair->prefill = make_instance(model, KVF_PREFILL, &prefill->parallel);
	pair->decode = make_instance(model, KVF_DECODE, &decode->parallel);
	plan_ranks(pair, model, prefill, decode, replica);
}

void rank_pair_fini(struct rank_pair *pair)
{
	kvf_plan_free(pair->plan);
	kvf_layout_free(pair->src);
	kvf_layout_free(pair->dst);
	kvf_instance_free(pair->prefill);
	kvf_instance_free(pair->decode);
}

struct kvf_layout *make_layout(
	const struct kvf_model *model, const struct kvf_instance *instance, uint32_t rank, uint32_t tpb)
{
	struct kvf_layout_options options = {KVF_BLOCK_MAJOR, tpb, 16, 2};
	struct kvf_layout *layout = NULL;
	uint64_t bytes = 0;

	assert_int_equal(kvf_layout_new(model, instance, rank, &options, &layout, &bytes), KVF_OK);
	return layout;
}

uint64_t pair_bytes(const struct kvf_model *model, const struct kvf_instance *prefill, uint32_t src,
	const struct kvf_instance *decode, uint32_t dst)
{
	struct kvf_layout *from = make_layout(model, prefill, src, 8),
			  *to = make_layout(model, decode, dst, 8);
	struct kvf_plan_totals totals;
	kvf_plan *plan = NULL;

	assert_int_equal(kvf_plan_new(prefill, from, decode, to, KVF_REPLICA_ELECT, &plan), KVF_OK);
	assert_int_equal(kvf_plan_totals(plan, 16, &totals), KVF_OK);
	kvf_plan_free(plan);
	kvf_layout_free(from);
	kvf_layout_free(to);
	return totals.bytes;
}

/* Bytes that a rank holds of a prompt of two blocks of 8 tokens. */
static uint64_t held_bytes(const struct kvf_model *model, const struct kvf_instance *instance, uint32_t rank)
{
	uint64_t bytes = 0;

	for (uint32_t g = 0; g < model->n_groups; g++)
		for (uint32_t p = 0; p < model->groups[g].n_parts; p++)
			bytes += (uint64_t)instance->ranks[rank].groups[g].n_layers *
			         instance->ranks[rank].groups[g].head_count[p] *
			         model->groups[g].parts[p].row_bytes * 16;
	return bytes;
}

void expect_every_byte_once(
	const struct kvf_model *model, const struct kvf_instance *prefill, const struct kvf_instance *decode)
{
	struct kvf_pair pairs[256];
	uint32_t n = 0;

	for (uint32_t dp = 0; dp < prefill->dp; dp++) {
		assert_int_equal(kvf_pairs(prefill, decode, dp, KVF_DP_UNKNOWN, pairs, 256, &n), KVF_OK);
		for (uint32_t dst = 0; dst < decode->n_ranks; dst++) {
			uint64_t bytes = 0;

			for (uint32_t i = 0; i < n; i++) {
				uint64_t sent = pairs[i].dst != dst ? 0
				                                    : pair_bytes(model, prefill, pairs[i].src,
									      decode, dst);

				assert_int_equal(sent != 0, pairs[i].dst == dst && pairs[i].kv);
				bytes += sent;
			}
			assert_int_equal(bytes, held_bytes(model, decode, dst));
		}
	}
}
