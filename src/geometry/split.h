/* split.h - the default split of a model over ranks. */
#ifndef KVFI_GEOMETRY_SPLIT_H
#define KVFI_GEOMETRY_SPLIT_H

#include <stdint.h>
#include "kvferry/kvferry.h"

/* Heads of rank r among the g ranks of one attention group, n heads in all:
 * [floor(r*n/g), floor((r+1)*n/g)); with fewer heads than ranks the one head floor(r*n/g), so that neighbours
 * hold replicas. */
void kvfi_split_heads(uint32_t n, uint32_t r, uint32_t g, uint32_t *start_out, uint32_t *count_out);

/* Stage of every global layer id of the model, KVF_MAX_LAYERS entries, UINT32_MAX where the model has no such
 * layer. The model's layers are the union over its groups, in ascending order. KVF_EINVAL names "stages" or
 * "pp". */
KVF_MUST_CHECK enum kvf_status kvfi_split_layers(
	const struct kvf_model *model, const struct kvf_parallel *parallel, uint32_t *stage_of);

/* Coordinates of every rank, slowest axis first as rank_order says (NULL: "pp:cp:tp"). KVF_EINVAL names
 * "rank_order". */
struct kvfi_rank_order {
	uint32_t axes[3]; /* of enum kvfi_rank_axis, slowest first */
};
enum kvfi_rank_axis {
	KVFI_AXIS_TP = 0,
	KVFI_AXIS_PP = 1,
	KVFI_AXIS_CP = 2
};
KVF_MUST_CHECK enum kvf_status kvfi_rank_order_parse(const char *text, struct kvfi_rank_order *order_out);
/* sizes and coordinates_out: indexed by enum kvfi_rank_axis. */
void kvfi_rank_coordinates(const struct kvfi_rank_order *order, const uint32_t sizes[3], uint32_t rank,
	uint32_t coordinates_out[3]);

#endif
