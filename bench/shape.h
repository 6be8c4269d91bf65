/* shape.h - KV memory whose every contiguous run has one length, and its content. */
#ifndef KVFB_SHAPE_H
#define KVFB_SHAPE_H

#include <stdint.h>
#include "kvferry/kvferry.h"

#define SHAPE_MAX_LAYERS 64u
#define SHAPE_HEADS      2u
#define SHAPE_PARTS      2u

/* One prefill rank sends all it has to one decode rank. Both are token-major (nhd); the source is dense, in the destination a token's
 * row is followed by a gap, as that of a prefill rank of TP4 in a decode rank of TP1 is (wide = 4). So each run is one row. */
struct shape {
	uint32_t layers, tokens_per_block, blocks, wide;
	uint64_t run_bytes;
};

struct shape_layout {
	struct kvf_layout layout;
	struct kvf_group group;
	uint32_t layers[SHAPE_MAX_LAYERS];
	uint64_t bases[SHAPE_MAX_LAYERS * SHAPE_PARTS];
};

/* A shape of about total bytes. */
struct shape shape_of(uint64_t run_bytes, uint64_t total_bytes);
uint64_t shape_bytes(const struct shape *shape); /* that move */
uint64_t shape_pool_bytes(const struct shape *shape, enum kvf_role role);
uint64_t shape_tokens(const struct shape *shape);
/* The instance of one side, of one rank. */
struct kvf_instance *shape_instance(const struct shape *shape, enum kvf_role role, uint64_t id);
void shape_layout_init(
	const struct shape *shape, enum kvf_role role, uint64_t base, struct shape_layout *layout_out);
/* The id of the i-th block of a request: a permutation of the pool, another one on each side. */
int32_t shape_block(const struct shape *shape, enum kvf_role role, uint32_t i);

void shape_fill(const struct shape *shape, unsigned char *src_pool, uint64_t salt);
/* Bytes of the destination pool that are wrong: rows that have not come, gaps that are no longer `gap`. */
uint64_t shape_wrong(const struct shape *shape, const unsigned char *dst_pool, uint64_t salt, int gap);
/* memcpy of all runs of one of `of` equal shares of the blocks: what one of several threads copies. */
void shape_copy(const struct shape *shape, unsigned char *dst_pool, const unsigned char *src_pool,
	uint32_t share, uint32_t of);

#endif
