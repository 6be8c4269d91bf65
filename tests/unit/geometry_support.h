/* geometry_support.h - small builders shared by the geometry tests. They assert: a test that cannot be set up fails. */
#ifndef TESTS_GEOMETRY_SUPPORT_H
#define TESTS_GEOMETRY_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "geometry/geometry.h"

/* A model of one paged group with K and V. */
struct simple_model {
	uint32_t layers[KVF_MAX_LAYERS];
	struct kvf_group_spec group;
	struct kvf_model model;
};

/* parts 1: MLA or key-only. */
void simple_model_init(
	struct simple_model *simple, uint32_t n_layers, uint32_t heads, uint64_t row_bytes, uint32_t parts);

/* One pair of ranks, ready to plan. */
struct rank_pair {
	struct kvf_instance *prefill, *decode;
	struct kvf_layout *src, *dst;
	uint64_t src_bytes, dst_bytes;
	kvf_plan *plan;
};

struct side_options {
	struct kvf_parallel parallel;
	struct kvf_layout_options layout;
	uint32_t rank;
};

#define SIDE(tp_, pp_, dp_, order_, tpb_, rank_)                                                             \
	((struct side_options){                                                                              \
		{.tp = (tp_), .pp = (pp_), .cp = 1, .dp = (dp_)}, {(order_), (tpb_), 64, 8}, (rank_)})

void rank_pair_init(struct rank_pair *pair, const struct kvf_model *model, const struct side_options *prefill,
	const struct side_options *decode, enum kvf_replica replica);
void rank_pair_fini(struct rank_pair *pair);

struct kvf_instance *make_instance(
	const struct kvf_model *model, enum kvf_role role, const struct kvf_parallel *parallel);

/* As rank_pair_init, for instances that exist already; owns layouts and plan alone. */
void plan_ranks(struct rank_pair *pair, const struct kvf_model *model, const struct side_options *prefill,
	const struct side_options *decode, enum kvf_replica replica);

/* Block-major, 16 blocks of tpb tokens. */
struct kvf_layout *make_layout(
	const struct kvf_model *model, const struct kvf_instance *instance, uint32_t rank, uint32_t tpb);

/* Bytes of a prompt of two blocks of 8 tokens that one pair moves. */
uint64_t pair_bytes(const struct kvf_model *model, const struct kvf_instance *prefill, uint32_t src,
	const struct kvf_instance *decode, uint32_t dst);

/* For every DP index: all that a destination holds comes in, whoever sends it; every byte once. */
void expect_every_byte_once(
	const struct kvf_model *model, const struct kvf_instance *prefill, const struct kvf_instance *decode);

#endif
