/* nests.c - from a cut and two groups to nests; loops.c goes on from there.
 *
 * Building is greedy and in canonical order: a nest takes all boxes of a layer, and then the following
 * layers, as long as the origins move by constant strides on both sides; a layer that does not fit this form
 * becomes one nest per box. Pure but for the arrays of the plan under construction.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "base/status.h"
#include "geometry/limits.h"
#include "geometry/plan.h"

struct build {
	const struct kvfi_cut *cut;
	const struct kvf_group *src, *dst;
	struct kvfi_plan_group *group;
};

static const struct kvfi_box *boxes_of(const struct build *build, uint32_t layer)
{
	return &build->cut->boxes[build->cut->layers[layer].box_first];
}

/* Address of a box's first row in block 0. */
static uint64_t address_of(const struct kvf_group *side, uint32_t layer_index, const struct kvfi_box *box)
{
	const struct kvf_part *part = &side->parts[box->part];

	return side->bases[(size_t)layer_index * side->n_parts + box->part] +
	       (uint64_t)(box->head_start - part->head_start) * part->head_stride;
}

static struct kvfi_step origin_of(const struct build *build, uint32_t layer, const struct kvfi_box *box)
{
	const struct kvfi_cut_layer *at = &build->cut->layers[layer];

	return (struct kvfi_step){.src = address_of(build->src, at->src_index, box),
		.dst = address_of(build->dst, at->dst_index, box)};
}

static struct kvfi_step step_between(struct kvfi_step from, struct kvfi_step to)
{
	return (struct kvfi_step){.src = to.src - from.src, .dst = to.dst - from.dst};
}

static bool same_step(struct kvfi_step a, struct kvfi_step b)
{
	return a.src == b.src && a.dst == b.dst;
}

static bool same_strides(const struct kvf_part *a, const struct kvf_part *b)
{
	return a->row_bytes == b->row_bytes && a->block_stride == b->block_stride &&
	       a->head_stride == b->head_stride && a->token_stride == b->token_stride;
}

/* One box of one layer as a nest. */
static struct kvfi_nest single_nest(const struct build *build, uint32_t layer, const struct kvfi_box *box)
{
	const struct kvf_part *src = &build->src->parts[box->part], *dst = &build->dst->parts[box->part];
	struct kvfi_nest nest = {.layer_first = layer,
		.n_layers = 1,
		.part_first = box->part,
		.n_parts = 1,
		.head_start = box->head_start,
		.n_heads = box->head_end - box->head_start,
		.row_bytes = src->row_bytes,
		.origin = origin_of(build, layer, box),
		.block = {src->block_stride, dst->block_stride}};

	nest.step[KVFI_HEADS] = (struct kvfi_step){src->head_stride, dst->head_stride};
	nest.step[KVFI_TOKENS] = (struct kvfi_step){src->token_stride, dst->token_stride};
	nest.layer_bytes = nest.n_heads * nest.row_bytes;
	return nest;
}

/* Widens a nest of one box to all boxes of its layer: consecutive parts, the same heads, constant strides. */
static bool widen_parts(const struct build *build, struct kvfi_nest *nest)
{
	uint32_t layer = nest->layer_first, n = build->cut->layers[layer].n_boxes;
	const struct kvfi_box *boxes = boxes_of(build, layer);
	struct kvfi_step step = {0, 0}, last = nest->origin;

	for (uint32_t i = 1; i < n; i++) {
		struct kvfi_step here = origin_of(build, layer, &boxes[i]);

		if (boxes[i].part != boxes[0].part + i || boxes[i].head_start != boxes[0].head_start ||
			boxes[i].head_end != boxes[0].head_end ||
			!same_strides(&build->src->parts[boxes[0].part], &build->src->parts[boxes[i].part]) ||
			!same_strides(&build->dst->parts[boxes[0].part], &build->dst->parts[boxes[i].part]))
			return false;
		if (i > 1 && !same_step(step, step_between(last, here)))
			return false;
		step = step_between(last, here);
		last = here;
	}
	nest->n_parts = n;
	nest->step[KVFI_PARTS] = step;
	nest->layer_bytes = (uint64_t)n * nest->n_heads * nest->row_bytes;
	return true;
}

/* Do all boxes of `layer` lie `step` after those of the layer before it? */
static bool follows(const struct build *build, uint32_t layer, struct kvfi_step step)
{
	const struct kvfi_cut_layer *before = &build->cut->layers[layer - 1],
				    *here = &build->cut->layers[layer];
	const struct kvfi_box *boxes = boxes_of(build, layer);

	if (here->box_first != before->box_first || here->n_boxes != before->n_boxes)
		return false;
	for (uint32_t i = 0; i < here->n_boxes; i++) {
		struct kvfi_step from = origin_of(build, layer - 1, &boxes[i]);

		if (!same_step(step, step_between(from, origin_of(build, layer, &boxes[i]))))
			return false;
	}
	return true;
}

static void widen_layers(const struct build *build, struct kvfi_nest *nest)
{
	uint32_t layer = nest->layer_first + 1;
	struct kvfi_step step;

	if (layer == build->cut->n_layers)
		return;
	step = step_between(nest->origin, origin_of(build, layer, boxes_of(build, layer)));
	while (layer < build->cut->n_layers && follows(build, layer, step))
		layer++;
	nest->n_layers = layer - nest->layer_first;
	if (nest->n_layers > 1)
		nest->step[KVFI_LAYERS] = step;
}

static enum kvf_status add_nest(struct kvfi_plan_group *group, const struct kvfi_nest *nest, uint64_t *before)
{
	if (group->n_nests == group->max_nests) {
		uint32_t wanted = group->max_nests == 0 ? 8 : group->max_nests * 2;
		struct kvfi_nest *bigger = realloc(group->nests, wanted * sizeof(*bigger));

		if (!bigger)
			return kvfi_fail(KVF_ENOMEM, "plan: out of memory");
		group->nests = bigger;
		group->max_nests = wanted;
	}
	group->nests[group->n_nests] = *nest;
	group->nests[group->n_nests++].before = *before;
	*before += nest->n_layers * nest->layer_bytes;
	return KVF_OK;
}

/* The nests that begin with this layer; returns the number of layers they take. */
static enum kvf_status add_layer(
	const struct build *build, uint32_t layer, uint64_t *before, uint32_t *taken_out)
{
	const struct kvfi_box *boxes = boxes_of(build, layer);
	struct kvfi_nest nest = single_nest(build, layer, &boxes[0]);
	enum kvf_status status = KVF_OK;

	if (widen_parts(build, &nest)) {
		widen_layers(build, &nest);
		*taken_out = nest.n_layers;
		return add_nest(build->group, &nest, before);
	}
	for (uint32_t i = 0; status == KVF_OK && i < build->cut->layers[layer].n_boxes; i++) {
		nest = single_nest(build, layer, &boxes[i]);
		status = add_nest(build->group, &nest, before);
	}
	*taken_out = 1;
	return status;
}

static uint64_t layer_bytes(const struct build *build, uint32_t layer)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < build->cut->layers[layer].n_boxes; i++) {
		const struct kvfi_box *box = &boxes_of(build, layer)[i];

		bytes += (box->head_end - box->head_start) * build->src->parts[box->part].row_bytes;
	}
	return bytes;
}

static enum kvf_status check_size(const struct kvfi_plan_group *group, uint64_t bytes)
{
	uint64_t most = group->kind == KVF_STATE ? KVFI_MAX_STATE_BYTES : KVFI_MAX_BYTES_PER_TOKEN;

	if (bytes > most)
		return kvfi_fail(KVF_EINVAL, "%llu bytes per token, at most %llu", (unsigned long long)bytes,
			(unsigned long long)most);
	return KVF_OK;
}

static enum kvf_status index_layers(const struct build *build)
{
	struct kvfi_plan_group *group = build->group;
	uint32_t n = build->cut->n_layers;
	enum kvf_status status = KVF_OK;

	group->layers = malloc((n + 1) * sizeof(*group->layers));
	group->layer_before = malloc((n + 1) * sizeof(*group->layer_before));
	if (!group->layers || !group->layer_before)
		return kvfi_fail(KVF_ENOMEM, "plan: out of memory");
	group->n_layers = n;
	group->layer_before[0] = 0;
	for (uint32_t i = 0; status == KVF_OK && i < n; i++) {
		group->layers[i] = build->cut->layers[i].layer;
		group->layer_before[i + 1] = group->layer_before[i] + layer_bytes(build, i);
		status = check_size(group, group->layer_before[i + 1]);
	}
	return status;
}

enum kvf_status kvfi_nests_build(const struct kvfi_cut *cut, const struct kvf_group *src,
	const struct kvf_group *dst, struct kvfi_plan_group *group)
{
	struct build build = {.cut = cut, .src = src, .dst = dst, .group = group};
	enum kvf_status status = index_layers(&build);
	uint64_t before = 0;
	uint32_t layer = 0, taken = 0;

	for (; status == KVF_OK && layer < cut->n_layers; layer += taken)
		status = add_layer(&build, layer, &before, &taken);
	return status;
}
