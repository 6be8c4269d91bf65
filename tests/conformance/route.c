/* route.c - see route.h. */
#include "route.h"

#include <stdlib.h>
#include <string.h>
#include "base/checked.h"
#include "base/clock.h"
#include "base/hash.h"
#include "device/host.h"

#define CANARY 0xc5

static void make_model(const struct route_options *options, struct kvf_model *model,
	struct kvf_group_spec *group, uint32_t *layers)
{
	for (uint32_t i = 0; i < options->layers; i++)
		layers[i] = i;
	*group = (struct kvf_group_spec){.kind = KVF_PAGED,
		.dtype = KVF_BF16,
		.n_layers = options->layers,
		.layers = layers,
		.n_parts = 2};
	for (uint32_t i = 0; i < 2; i++)
		group->parts[i] = (struct kvf_part_spec){options->heads, options->row_bytes};
	*model = (struct kvf_model){.name = "conformance", .revision = "", .n_groups = 1, .groups = group};
}

static uint32_t blocks_of(const struct route_options *options, const struct shape_of_side *side)
{
	return (uint32_t)kvfi_div_up(options->prompt_len, side->tokens_per_block);
}

static void make_side(const struct kvf_model *model, const struct route_options *options,
	const struct shape_of_side *side, enum kvf_role role, struct kvf_instance **instance_out,
	struct kvf_layout **layout_out, uint64_t *bytes_out)
{
	struct kvf_parallel parallel = {.tp = side->tp, .pp = 1, .cp = 1, .dp = 1};
	struct kvf_layout_options layout = {.order = side->order,
		.tokens_per_block = side->tokens_per_block,
		.blocks = blocks_of(options, side) * options->id_step + 2};

	assert_int_equal(kvf_instance_new(model, &parallel, role, role, instance_out), KVF_OK);
	assert_int_equal(
		kvf_layout_new(model, *instance_out, side->rank, &layout, layout_out, bytes_out), KVF_OK);
}

static struct kvf_layout *moved(const struct kvf_layout *layout, uint64_t delta)
{
	struct kvf_layout *copy = kvfi_layout_copy(layout);

	assert_non_null(copy);
	kvf_layout_move(copy, delta);
	return copy;
}

static int32_t *make_ids(uint32_t n, uint32_t step, bool backwards)
{
	int32_t *ids = calloc(n, sizeof(*ids));

	assert_non_null(ids);
	for (uint32_t i = 0; i < n; i++)
		ids[i] = (int32_t)(1 + step * (backwards ? n - 1 - i : i));
	return ids;
}

static uint64_t cell(const struct kvf_layout *layout, const int32_t *ids, uint32_t layer, uint32_t part,
	uint32_t head, uint64_t token)
{
	const struct kvf_group *group = &layout->groups[0];
	const struct kvf_part *p = &group->parts[part];

	return group->bases[layer * group->n_parts + part] +
	       (uint64_t)ids[token / group->tokens_per_block] * p->block_stride +
	       (head - p->head_start) * p->head_stride + token % group->tokens_per_block * p->token_stride;
}

/* The destination image and the sum, from the definition of both. */
static void make_want(struct route *route)
{
	const struct kvf_group *src = &route->src->groups[0], *dst = &route->dst_local->groups[0];
	uint64_t prompt = route->options.prompt_len, row = route->options.row_bytes, pos = 0;
	uint64_t end = kvfi_min_u64(kvfi_div_up(prompt, src->tokens_per_block) * src->tokens_per_block,
		kvfi_div_up(prompt, dst->tokens_per_block) * dst->tokens_per_block);
	uint32_t head_start = src->parts[0].head_start, head_end = head_start + src->parts[0].head_count;
	uint32_t dst_end = dst->parts[0].head_start + dst->parts[0].head_count;
	uint64_t base = (uint64_t)(uintptr_t)side_memory(route->decode, route->dst_region);

	head_start = head_start > dst->parts[0].head_start ? head_start : dst->parts[0].head_start;
	head_end = head_end < dst_end ? head_end : dst_end;
	for (uint64_t block = 0; block * dst->tokens_per_block < end; block++) {
		uint64_t first = block * dst->tokens_per_block,
			 last = kvfi_min_u64(first + dst->tokens_per_block, end);

		for (uint32_t layer = 0; layer < src->n_layers; layer++) {
			for (uint32_t i = 0; i < 2 * (head_end - head_start); i++) {
				uint32_t part = i / (head_end - head_start),
					 head = head_start + i % (head_end - head_start);

				for (uint64_t token = first; token < last; token++, pos += row) {
					const void *from = (const void *)(uintptr_t)cell(
						route->src, route->src_ids, layer, part, head, token);
					uint64_t to = cell(route->dst_local, route->dst_ids, layer, part,
							      head, token) -
					              base;

					memcpy(route->want + to, from, row);
					route->want_sum += kvfi_host_sum(from, row, pos);
				}
			}
		}
	}
	assert_int_equal(pos, route->bound.bytes);
}

static void make_plans(struct route *route)
{
	struct kvfi_shape shape = {.prompt_len = route->options.prompt_len,
		.token_end = route->options.prompt_len,
		.first = true,
		.last = true};

	assert_int_equal(kvf_plan_new(route->src_instance, route->src, route->dst_instance, route->dst_mapped,
				 KVF_REPLICA_ELECT, &route->tx_plan),
		KVF_OK);
	assert_int_equal(kvf_plan_new(route->src_instance, route->src, route->dst_instance, route->dst_local,
				 KVF_REPLICA_ELECT, &route->rx_plan),
		KVF_OK);
	route->src_lists[0] =
		(struct kvfi_ids){route->src_ids, blocks_of(&route->options, &route->options.src)};
	route->dst_lists[0] =
		(struct kvfi_ids){route->dst_ids, blocks_of(&route->options, &route->options.dst)};
	assert_int_equal(
		kvfi_bind(route->tx_plan, &shape, route->src_lists, route->dst_lists, &route->bound), KVF_OK);
}

void route_init(struct route *route, struct bench *bench, struct side *decode, uint32_t slot,
	const struct route_options *options)
{
	uint32_t layers[KVF_MAX_LAYERS];
	struct kvf_group_spec group;
	struct kvf_model model;
	struct kvf_layout *src, *dst;
	uint64_t src_bytes;
	unsigned char *memory;

	*route = (struct route){.bench = bench,
		.prefill = &bench->sides[0],
		.decode = decode,
		.slot = slot,
		.options = *options};
	route->options.id_step += options->id_step == 0;
	options = &route->options;
	make_model(options, &model, &group, layers);
	make_side(&model, options, &options->src, KVF_PREFILL, &route->src_instance, &src, &src_bytes);
	make_side(&model, options, &options->dst, KVF_DECODE, &route->dst_instance, &dst, &route->dst_bytes);
	route->src_region = side_region(route->prefill, src_bytes);
	route->dst_region = side_region(decode, route->dst_bytes);
	memory = side_memory(route->prefill, route->src_region);
	for (uint64_t i = 0; i + 8 <= src_bytes; i += 8) {
		uint64_t word = kvfi_mix64(i ^ (uint64_t)slot << 60);

		memcpy(memory + i, &word, 8);
	}
	route->src = moved(src, (uint64_t)(uintptr_t)memory);
	route->dst_wire = moved(dst, (uint64_t)route->dst_region << KVFI_REGION_SHIFT);
	route->dst_local = moved(dst, (uint64_t)(uintptr_t)side_memory(decode, route->dst_region));
	kvf_layout_free(src);
	kvf_layout_free(dst);
	route->src_ids = make_ids(blocks_of(options, &options->src), options->id_step, false);
	route->dst_ids = make_ids(blocks_of(options, &options->dst), options->id_step, options->id_step > 1);
	link_up(bench, decode, slot, 77 + slot);
	route->dst_mapped = kvfi_layout_copy(route->dst_wire);
	assert_non_null(route->dst_mapped);
	assert_int_equal(
		subject->ops->map_layout(route->prefill->transport, slot, route->dst_mapped), KVF_OK);
	make_plans(route);
	route_blank(route);
	route->want = malloc(route->dst_bytes);
	assert_non_null(route->want);
	memset(route->want, CANARY, route->dst_bytes);
	make_want(route);
}

void route_release(struct route *route, uint32_t id)
{
	subject->ops->release(route->decode->transport, id);
	route->granted[id] = false;
}

static void end_grant(struct route *route, uint32_t id)
{
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S;

	subject->ops->revoke(route->decode->transport, id);
	while (subject->ops->proof(route->decode->transport, id) == KVF_PROOF_NONE) {
		assert_true(kvfi_clock_ns() < deadline_ns);
		bench_turn(route->bench, 1);
	}
	route_release(route, id);
}

void route_fini(struct route *route)
{
	for (uint32_t id = 0; id < MAX_GRANTS; id++) {
		if (route->granted[id] && route->decode->transport != NULL)
			end_grant(route, id);
	}
	kvf_plan_free(route->tx_plan);
	kvf_plan_free(route->rx_plan);
	kvf_layout_free(route->src);
	kvf_layout_free(route->dst_wire);
	kvf_layout_free(route->dst_mapped);
	kvf_layout_free(route->dst_local);
	kvf_instance_free(route->src_instance);
	kvf_instance_free(route->dst_instance);
	free(route->src_ids);
	free(route->dst_ids);
	free(route->want);
}

struct kvfi_tx_post route_grant(struct route *route, uint32_t id, bool sum)
{
	struct kvfi_rx_grant grant = {.id = id,
		.peer = route->slot,
		.request_id = 5000 + id,
		.attempt = 1,
		.epoch = 9000 + id,
		.prompt_len = route->options.prompt_len,
		.plan = route->rx_plan,
		.dst = route->dst_lists,
		.sum = sum};
	struct kvfi_tx_post post = {.id = 100 + id,
		.peer = route->slot,
		.request_id = grant.request_id,
		.attempt = 1,
		.epoch = grant.epoch,
		.sum = sum,
		.bound = &route->bound};

	assert_int_equal(subject->ops->grant(
				 route->decode->transport, &grant, &post.lease_slot, &post.lease_generation),
		KVF_OK);
	route->granted[id] = true;
	return post;
}

void route_post(struct route *route, const struct kvfi_tx_post *post)
{
	assert_int_equal(subject->ops->post(route->prefill->transport, post), KVF_OK);
}

void route_blank(struct route *route)
{
	memset(side_memory(route->decode, route->dst_region), CANARY, route->dst_bytes);
}

bool route_is_blank(const struct route *route)
{
	const unsigned char *memory = side_memory(route->decode, route->dst_region);

	/* Equal to itself shifted by one, and the first is right: all are. */
	return memory[0] == CANARY && memcmp(memory, memory + 1, route->dst_bytes - 1) == 0;
}

/* A glance at memory that others write meanwhile: a race by intent. */
__attribute__((no_sanitize("thread"))) bool route_has_begun(const struct route *route)
{
	const volatile unsigned char *memory = side_memory(route->decode, route->dst_region);

	for (uint64_t i = 0; i < route->dst_bytes; i += 64) {
		if (memory[i] != CANARY)
			return true;
	}
	return false;
}

bool route_has_arrived(const struct route *route)
{
	return memcmp(side_memory(route->decode, route->dst_region), route->want, route->dst_bytes) == 0;
}

void route_check(const struct route *route)
{
	const unsigned char *memory = side_memory(route->decode, route->dst_region);

	for (uint64_t i = 0; i < route->dst_bytes; i++) {
		if (memory[i] != route->want[i])
			fail_msg("destination byte %llu of %llu is %#x, not %#x", (unsigned long long)i,
				(unsigned long long)route->dst_bytes, memory[i], route->want[i]);
	}
}
