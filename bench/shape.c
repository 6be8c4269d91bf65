/* shape.c - KV memory whose every contiguous run has one length, and its content.
 *
 * Content is a function of (layer, part, token, word, salt). Everything here is plain: the copy is the roof that transfers are held against.
 */
#include "bench/shape.h"

#include <string.h>
#include "bench/measure.h"

struct shape shape_of(uint64_t run_bytes, uint64_t total_bytes)
{
	struct shape shape = {.layers = 16, .tokens_per_block = 16, .wide = 4, .run_bytes = run_bytes};
	uint64_t tokens;

	while (shape.layers > 1 &&
		total_bytes < run_bytes * SHAPE_PARTS * shape.layers * shape.tokens_per_block)
		shape.layers /= 2;
	tokens = total_bytes / (run_bytes * SHAPE_PARTS * shape.layers);
	if (tokens < shape.tokens_per_block)
		shape.tokens_per_block = tokens > 0 ? (uint32_t)tokens : 1;
	shape.blocks = (uint32_t)(tokens / shape.tokens_per_block);
	if (shape.blocks == 0)
		shape.blocks = 1;
	return shape;
}

uint64_t shape_tokens(const struct shape *shape)
{
	return (uint64_t)shape->blocks * shape->tokens_per_block;
}

uint64_t shape_bytes(const struct shape *shape)
{
	return shape_tokens(shape) * shape->layers * SHAPE_PARTS * shape->run_bytes;
}

static uint64_t token_stride(const struct shape *shape, enum kvf_role role)
{
	return shape->run_bytes * (role == KVF_PREFILL ? 1 : shape->wide);
}

uint64_t shape_pool_bytes(const struct shape *shape, enum kvf_role role)
{
	return shape_tokens(shape) * shape->layers * SHAPE_PARTS * token_stride(shape, role);
}

struct kvf_instance *shape_instance(const struct shape *shape, enum kvf_role role, uint64_t id)
{
	struct kvf_parallel parallel = {.tp = 1, .pp = 1, .cp = 1, .dp = 1};
	uint32_t layers[SHAPE_MAX_LAYERS];
	struct kvf_group_spec group = {.kind = KVF_PAGED,
		.dtype = KVF_BF16,
		.n_layers = shape->layers,
		.layers = layers,
		.n_parts = SHAPE_PARTS};
	struct kvf_model model = {.name = "bench", .revision = "", .n_groups = 1, .groups = &group};
	struct kvf_instance *instance = NULL;

	for (uint32_t i = 0; i < shape->layers; i++)
		layers[i] = i;
	for (uint32_t p = 0; p < SHAPE_PARTS; p++)
		group.parts[p] = (struct kvf_part_spec){SHAPE_HEADS, shape->run_bytes / SHAPE_HEADS};
	must(kvf_instance_new(&model, &parallel, role, id, &instance), "instance");
	return instance;
}

void shape_layout_init(
	const struct shape *shape, enum kvf_role role, uint64_t base, struct shape_layout *layout_out)
{
	uint64_t stride = token_stride(shape, role);
	uint64_t part_bytes = shape_tokens(shape) * stride;
	struct kvf_part part = {.heads = SHAPE_HEADS,
		.head_count = SHAPE_HEADS,
		.row_bytes = shape->run_bytes / SHAPE_HEADS,
		.block_stride = shape->tokens_per_block * stride,
		.head_stride = shape->run_bytes / SHAPE_HEADS,
		.token_stride = stride};

	memset(layout_out, 0, sizeof(*layout_out));
	layout_out->layout = (struct kvf_layout){
		.model = "bench", .revision = "", .n_groups = 1, .groups = &layout_out->group};
	layout_out->group = (struct kvf_group){.kind = KVF_PAGED,
		.dtype = KVF_BF16,
		.tokens_per_block = shape->tokens_per_block,
		.blocks = shape->blocks,
		.n_layers = shape->layers,
		.layers = layout_out->layers,
		.n_parts = SHAPE_PARTS,
		.parts = {part, part},
		.bases = layout_out->bases};
	for (uint32_t i = 0; i < shape->layers; i++)
		layout_out->layers[i] = i;
	for (uint32_t i = 0; i < shape->layers * SHAPE_PARTS; i++)
		layout_out->bases[i] = base + i * part_bytes;
}

int32_t shape_block(const struct shape *shape, enum kvf_role role, uint32_t i)
{
	uint32_t step = role == KVF_PREFILL ? 5 : 3, first = role == KVF_PREFILL ? 1 : 2;

	while (shape->blocks % step == 0)
		step += 2;
	return (int32_t)(((uint64_t)i * step + first) % shape->blocks);
}

/* ---- every run ---- */

struct place {
	uint32_t layer, part;
	uint64_t token; /* of the request */
	unsigned char *src, *dst;
};

typedef void (*place_function)(const struct shape *shape, const struct place *place, void *argument);

/* Blocks [first, end) of the request. Either pool may be NULL. */
static inline __attribute__((always_inline)) void each_run(const struct shape *shape, unsigned char *src_pool,
	unsigned char *dst_pool, uint32_t first, uint32_t end, place_function function, void *argument)
{
	uint64_t src_stride = token_stride(shape, KVF_PREFILL), dst_stride = token_stride(shape, KVF_DECODE);

	for (uint32_t b = first; b < end; b++) {
		uint64_t src_token = (uint64_t)shape_block(shape, KVF_PREFILL, b) * shape->tokens_per_block;
		uint64_t dst_token = (uint64_t)shape_block(shape, KVF_DECODE, b) * shape->tokens_per_block;

		for (uint32_t i = 0; i < shape->layers * SHAPE_PARTS; i++) {
			struct place place = {.layer = i / SHAPE_PARTS, .part = i % SHAPE_PARTS};

			for (uint32_t t = 0; t < shape->tokens_per_block; t++) {
				place.token = (uint64_t)b * shape->tokens_per_block + t;
				place.src = (unsigned char *)((uintptr_t)src_pool +
							      (i * shape_tokens(shape) + src_token + t) *
								      src_stride);
				place.dst = (unsigned char *)((uintptr_t)dst_pool +
							      (i * shape_tokens(shape) + dst_token + t) *
								      dst_stride);
				function(shape, &place, argument);
			}
		}
	}
}

/* ---- content ---- */

static uint64_t row_key(const struct place *place, uint64_t salt)
{
	uint64_t key = (salt * 0x9e3779b97f4a7c15u + place->layer) * 0xbf58476d1ce4e5b9u + place->part;

	key = (key ^ (key >> 31)) * 0x94d049bb133111ebu + place->token;
	return (key ^ (key >> 29)) * 0xbf58476d1ce4e5b9u;
}

static uint64_t word_of(uint64_t key, uint64_t i)
{
	return key + i * 0x9e3779b97f4a7c15u;
}

static void fill_run(const struct shape *shape, const struct place *place, void *argument)
{
	uint64_t key = row_key(place, *(const uint64_t *)argument);

	for (uint64_t i = 0; i < shape->run_bytes / 8; i++) {
		uint64_t word = word_of(key, i);

		memcpy(place->src + i * 8, &word, 8);
	}
}

void shape_fill(const struct shape *shape, unsigned char *src_pool, uint64_t salt)
{
	each_run(shape, src_pool, NULL, 0, shape->blocks, fill_run, &salt);
}

struct check {
	uint64_t salt, wrong;
	int gap;
};

static void check_run(const struct shape *shape, const struct place *place, void *argument)
{
	struct check *check = argument;
	uint64_t key = row_key(place, check->salt), gap;

	memset(&gap, check->gap, sizeof(gap));
	for (uint64_t i = 0; i < shape->run_bytes * shape->wide / 8; i++) {
		uint64_t word, wanted = i < shape->run_bytes / 8 ? word_of(key, i) : gap;

		memcpy(&word, place->dst + i * 8, 8);
		check->wrong += word != wanted ? 8 : 0;
	}
}

uint64_t shape_wrong(const struct shape *shape, const unsigned char *dst_pool, uint64_t salt, int gap)
{
	struct check check = {.salt = salt, .gap = gap};

	each_run(shape, NULL, (unsigned char *)(uintptr_t)dst_pool, 0, shape->blocks, check_run, &check);
	return check.wrong;
}

/* ---- the roof ---- */

static inline __attribute__((always_inline)) void copy_run(
	const struct shape *shape, const struct place *place, void *argument)
{
	(void)argument;
	memcpy(place->dst, place->src, shape->run_bytes);
}

void shape_copy(const struct shape *shape, unsigned char *dst_pool, const unsigned char *src_pool,
	uint32_t share, uint32_t of)
{
	uint32_t first = (uint32_t)((uint64_t)shape->blocks * share / of);
	uint32_t end = (uint32_t)((uint64_t)shape->blocks * (share + 1) / of);

	each_run(shape, (unsigned char *)(uintptr_t)src_pool, dst_pool, first, end, copy_run, NULL);
}
