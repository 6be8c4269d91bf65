/* overlap.c - do two cells of a layout share a byte?
 *
 * Every (layer, part) is a lattice: a start, and up to three axes (block, head, token) of a count and a
 * stride, around a row. A lattice must nest: sorted by stride, each axis steps over everything inside it. Two
 * lattices are apart when their extents are, or when both step by the same outermost stride and are apart
 * within one step, and so on inwards. So pools, slots of a block-major pool, and K and V woven per head or
 * per token are all accepted; lattices that miss each other by number theory alone (unequal strides through
 * each other) are refused, which no real pool does.
 *
 * Sort and sweep, O(n log n) for n entries; allocates scratch; any thread.
 */
#include "geometry/overlap.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include "base/assert.h"
#include "base/status.h"

#define MAX_AXES 3u

struct lattice {
	uint64_t start;
	uint64_t extent; /* of the axes from `axis` on, row included */
	uint32_t axis;   /* outermost axis still to look at */
	uint32_t n_axes;
	uint64_t stride[MAX_AXES]; /* descending */
	uint64_t count[MAX_AXES];
	uint64_t row;
	uint32_t id, group, layer, part; /* who it is; group UINT32_MAX: aux slot `layer` */
};

static void add_axis(struct lattice *lattice, uint64_t count, uint64_t stride)
{
	uint32_t at = lattice->n_axes;

	if (count <= 1)
		return;
	for (; at > 0 && lattice->stride[at - 1] < stride; at--) {
		lattice->stride[at] = lattice->stride[at - 1];
		lattice->count[at] = lattice->count[at - 1];
	}
	lattice->stride[at] = stride;
	lattice->count[at] = count;
	lattice->n_axes++;
}

static uint64_t inner_extent(const struct lattice *lattice, uint32_t axis)
{
	uint64_t extent = lattice->row;

	for (uint32_t i = axis; i < lattice->n_axes; i++)
		extent += (lattice->count[i] - 1) * lattice->stride[i];
	return extent;
}

static enum kvf_status check_nested(const struct lattice *lattice)
{
	for (uint32_t i = 0; i < lattice->n_axes; i++) {
		uint64_t inside = inner_extent(lattice, i + 1);

		if (lattice->stride[i] < inside)
			return kvfi_fail(KVF_EINVAL,
				"group %u: layer %u: part %u: cells overlap: a stride of %llu over %llu "
				"bytes",
				lattice->group, lattice->layer, lattice->part,
				(unsigned long long)lattice->stride[i], (unsigned long long)inside);
	}
	return KVF_OK;
}

static int by_start(const void *left, const void *right)
{
	const struct lattice *a = left, *b = right;

	if (a->start != b->start)
		return a->start < b->start ? -1 : 1;
	return a->id < b->id ? -1 : a->id > b->id;
}

static enum kvf_status fail_overlap(const struct lattice *a, const struct lattice *b)
{
	if (b->group == UINT32_MAX || a->group == UINT32_MAX) {
		const struct lattice *aux = b->group == UINT32_MAX ? b : a, *other = aux == b ? a : b;

		if (other->group == UINT32_MAX)
			return kvfi_fail(KVF_EINVAL, "aux slots %u and %u overlap", other->layer, aux->layer);
		return kvfi_fail(KVF_EINVAL, "group %u: layer %u: part %u: cells overlap aux slot %u",
			other->group, other->layer, other->part, aux->layer);
	}
	return kvfi_fail(KVF_EINVAL,
		"group %u: layer %u: part %u: cells overlap those of group %u, layer %u, part %u", a->group,
		a->layer, a->part, b->group, b->layer, b->part);
}

static enum kvf_status check_apart(struct lattice *all, size_t n);

/* All of them reach into each other: they must share the outermost stride; then look within one step of it.
 */
static enum kvf_status check_cluster(const struct lattice *cluster, size_t n)
{
	uint64_t origin = cluster[0].start;
	uint64_t stride = cluster[0].axis < cluster[0].n_axes ? cluster[0].stride[cluster[0].axis] : 0;
	struct lattice *inner;
	size_t n_inner = 0;
	enum kvf_status status;

	for (size_t i = 0; i < n; i++)
		if (cluster[i].axis == cluster[i].n_axes || cluster[i].stride[cluster[i].axis] != stride)
			return fail_overlap(&cluster[i == 0 ? 1 : 0], &cluster[i]);
	KVFI_ASSERT(stride != 0); /* it steps over a row at least: check_nested */
	inner = malloc(2 * n * sizeof(*inner));
	if (!inner)
		return kvfi_fail(KVF_ENOMEM, "layout check: out of memory");
	for (size_t i = 0; i < n; i++) {
		struct lattice *step = &inner[n_inner++];

		*step = cluster[i];
		step->start = (cluster[i].start - origin) % stride + stride;
		step->axis++;
		step->extent = inner_extent(step, step->axis);
		/* One that reaches over the end of a step meets those at its beginning. */
		if (step->start + step->extent > 2 * stride) {
			inner[n_inner] = *step;
			inner[n_inner++].start -= stride;
		}
	}
	status = check_apart(inner, n_inner);
	free(inner);
	return status;
}

/* A cluster of one lattice (or of one and its own shifted copies, which its nesting keeps apart) is fine. */
static bool one_owner(const struct lattice *cluster, size_t n)
{
	for (size_t i = 1; i < n; i++)
		if (cluster[i].id != cluster[0].id)
			return false;
	return true;
}

static enum kvf_status check_apart(struct lattice *all, size_t n)
{
	enum kvf_status status = KVF_OK;
	size_t first = 0;

	qsort(all, n, sizeof(*all), by_start);
	while (status == KVF_OK && first < n) {
		uint64_t end = all[first].start + all[first].extent;
		size_t next = first + 1;

		for (; next < n && all[next].start < end; next++)
			if (all[next].start + all[next].extent > end)
				end = all[next].start + all[next].extent;
		if (!one_owner(all + first, next - first))
			status = check_cluster(all + first, next - first);
		first = next;
	}
	return status;
}

static size_t count_lattices(const struct kvf_layout *layout)
{
	size_t n = layout->n_aux;

	for (uint32_t g = 0; g < layout->n_groups; g++)
		n += (size_t)layout->groups[g].n_layers * layout->groups[g].n_parts;
	return n;
}

static void fill_lattice(
	const struct kvf_group *group, uint32_t g, uint32_t layer_index, uint32_t p, struct lattice *out)
{
	const struct kvf_part *part = &group->parts[p];

	*out = (struct lattice){.start = group->bases[(size_t)layer_index * group->n_parts + p],
		.row = part->row_bytes,
		.group = g,
		.layer = group->layers[layer_index],
		.part = p};
	add_axis(out, group->blocks, part->block_stride);
	add_axis(out, part->head_count, part->head_stride);
	add_axis(out, group->tokens_per_block, part->token_stride);
	out->extent = inner_extent(out, 0);
}

static enum kvf_status fill_lattices(const struct kvf_layout *layout, struct lattice *all, size_t *n_out)
{
	enum kvf_status status = KVF_OK;
	size_t n = 0;

	for (uint32_t g = 0; g < layout->n_groups; g++) {
		const struct kvf_group *group = &layout->groups[g];

		for (uint32_t p = 0; p < group->n_parts; p++) {
			if (group->parts[p].head_count == 0)
				continue;
			for (uint32_t i = 0; status == KVF_OK && i < group->n_layers; i++, n++) {
				fill_lattice(group, g, i, p, &all[n]);
				all[n].id = (uint32_t)n;
				if (i == 0)
					status = check_nested(&all[n]);
			}
		}
	}
	for (uint32_t i = 0; i < layout->n_aux; i++) {
		if (layout->aux_bytes[i] == 0)
			continue;
		all[n] = (struct lattice){.start = layout->aux_bases[i],
			.extent = layout->aux_bytes[i],
			.row = layout->aux_bytes[i],
			.id = (uint32_t)n,
			.group = UINT32_MAX,
			.layer = i};
		n++;
	}
	*n_out = n;
	return status;
}

enum kvf_status kvfi_layout_overlap_check(const struct kvf_layout *layout)
{
	size_t n = count_lattices(layout);
	struct lattice *all = malloc((n + 1) * sizeof(*all));
	enum kvf_status status;

	if (!all)
		return kvfi_fail(KVF_ENOMEM, "layout check: out of memory");
	status = fill_lattices(layout, all, &n);
	if (status == KVF_OK)
		status = check_apart(all, n);
	free(all);
	return status;
}
