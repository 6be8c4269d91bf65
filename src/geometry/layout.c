/* layout.c - layouts of one rank: made in a common memory order, moved, copied, freed.
 *
 * A layout lives in one allocation (header, groups, layer ids, bases, strings); aux slots, whose number comes
 * later, in a second one. Bases start at address 0, so that a layout can be planned with before there is
 * memory. Not thread-safe while it is changed; any thread may read it afterwards.
 */
#include <stdlib.h>
#include <string.h>
#include "base/checked.h"
#include "base/status.h"
#include "geometry/carve.h"
#include "geometry/geometry.h"
#include "geometry/limits.h"
#include "geometry/model.h"

#define POOL_ALIGN UINT64_C(4096)

struct own_layout {
	struct kvf_layout layout; /* first: this is what callers hold */
	void *aux;                /* sizes and bases of the aux slots, or NULL */
};

struct pool {
	enum kvf_memory_order order;
	uint64_t used; /* bytes given out */
};

static size_t layout_size(const struct kvf_layout *from)
{
	size_t size = kvfi_carve_size(sizeof(struct own_layout));

	size += kvfi_carve_size(from->n_groups * sizeof(struct kvf_group));
	for (uint32_t g = 0; g < from->n_groups; g++) {
		const struct kvf_group *group = &from->groups[g];

		size += kvfi_carve_size(group->n_layers * sizeof(uint32_t));
		size += kvfi_carve_size((size_t)group->n_layers * group->n_parts * sizeof(uint64_t));
	}
	size += kvfi_carve_size(strlen(from->model) + 1);
	return size + kvfi_carve_size(strlen(from->revision) + 1);
}

static enum kvf_status copy_aux(struct own_layout *own, const struct kvf_layout *from)
{
	unsigned char *at;

	own->layout.n_aux = 0;
	own->layout.aux_bytes = NULL;
	own->layout.aux_bases = NULL;
	if (from->n_aux == 0)
		return KVF_OK;
	at = malloc(kvfi_carve_size(from->n_aux * sizeof(uint32_t)) +
		    kvfi_carve_size(from->n_aux * sizeof(uint64_t)));
	if (!at)
		return kvfi_fail(KVF_ENOMEM, "layout: out of memory");
	own->aux = at;
	own->layout.aux_bases = kvfi_carve_copy(&at, from->aux_bases, from->n_aux * sizeof(uint64_t));
	own->layout.aux_bytes = kvfi_carve_copy(&at, from->aux_bytes, from->n_aux * sizeof(uint32_t));
	own->layout.n_aux = from->n_aux;
	return KVF_OK;
}

/* Bases of a group may be NULL: then the copy's are zero, to be filled in. */
struct kvf_layout *kvfi_layout_copy(const struct kvf_layout *layout)
{
	unsigned char *at = calloc(1, layout_size(layout));
	struct own_layout *own = (struct own_layout *)at;
	struct kvf_group *groups;

	if (!at)
		return NULL;
	(void)kvfi_carve(&at, sizeof(*own));
	own->layout = *layout;
	groups = kvfi_carve_copy(&at, layout->groups, layout->n_groups * sizeof(*groups));
	for (uint32_t g = 0; g < layout->n_groups; g++) {
		size_t n_bases = (size_t)groups[g].n_layers * groups[g].n_parts;

		groups[g].layers =
			kvfi_carve_copy(&at, groups[g].layers, groups[g].n_layers * sizeof(uint32_t));
		groups[g].bases = kvfi_carve_copy(
			&at, groups[g].bases, groups[g].bases ? n_bases * sizeof(uint64_t) : 0);
		if (!layout->groups[g].bases)
			at += kvfi_carve_size(n_bases * sizeof(uint64_t));
	}
	own->layout.groups = groups;
	own->layout.model = kvfi_carve_copy(&at, layout->model, strlen(layout->model) + 1);
	own->layout.revision = kvfi_carve_copy(&at, layout->revision, strlen(layout->revision) + 1);
	if (copy_aux(own, layout) != KVF_OK) {
		free(own);
		return NULL;
	}
	return &own->layout;
}

void kvf_layout_free(struct kvf_layout *layout)
{
	struct own_layout *own = (struct own_layout *)layout;

	if (!own)
		return;
	free(own->aux);
	free(own);
}

/* The layout's own memory, which the public view shows as const. */
static uint64_t *own_bases(const struct kvf_group *group)
{
	return (uint64_t *)(uintptr_t)group->bases;
}

static enum kvf_status check_options(const struct kvf_model *model, const struct kvf_layout_options *options)
{
	if (!options)
		return kvfi_fail(KVF_EINVAL, "options: missing");
	if (options->order < KVF_BLOCK_MAJOR || options->order > KVF_LAYER_NHD)
		return kvfi_fail(KVF_EINVAL, "order: %d is none", (int)options->order);
	for (uint32_t g = 0; g < model->n_groups; g++) {
		bool state = model->groups[g].kind == KVF_STATE;
		uint32_t blocks = state ? options->state_slots : options->blocks;

		if (blocks == 0 || blocks >= KVFI_MAX_BLOCKS)
			return kvfi_fail(KVF_EINVAL, "%s: %u, must be 1 to %u",
				state ? "state_slots" : "blocks", blocks, KVFI_MAX_BLOCKS - 1);
		if (!state && (options->tokens_per_block == 0 ||
				      options->tokens_per_block > KVFI_MAX_TOKENS_PER_BLOCK))
			return kvfi_fail(KVF_EINVAL, "tokens_per_block: %u, must be 1 to %u",
				options->tokens_per_block, KVFI_MAX_TOKENS_PER_BLOCK);
	}
	return KVF_OK;
}

/* Everything of a group but strides and bases. */
static void shape_group(const struct kvf_group_spec *spec, const struct kvf_rank_group *held,
	const struct kvf_layout_options *options, struct kvf_group *out)
{
	bool state = spec->kind == KVF_STATE;

	*out = (struct kvf_group){.kind = spec->kind,
		.dtype = spec->dtype,
		.tokens_per_block = state ? 1 : options->tokens_per_block,
		.window_tokens = spec->window_tokens,
		.blocks = state ? options->state_slots : options->blocks,
		.n_layers = held->n_layers,
		.layers = held->layers,
		.n_parts = spec->n_parts};
	for (uint32_t p = 0; p < spec->n_parts; p++) {
		out->parts[p] = (struct kvf_part){.heads = spec->parts[p].heads,
			.head_start = held->head_start[p],
			.head_count = held->head_count[p],
			.row_bytes = spec->parts[p].row_bytes};
	}
}

/* Bytes of one (block, layer, part), and the strides inside it. */
static enum kvf_status place_part(
	enum kvf_memory_order order, uint32_t tokens, struct kvf_part *part, uint64_t *bytes_out)
{
	uint64_t rows = (uint64_t)part->head_count * tokens;

	if (kvfi_mul_overflows(rows, part->row_bytes, bytes_out) || *bytes_out > INT64_MAX)
		return kvfi_fail(KVF_EINVAL, "pool: %u heads of %u tokens of %llu bytes overflow",
			part->head_count, tokens, (unsigned long long)part->row_bytes);
	if (order == KVF_LAYER_NHD) {
		part->head_stride = part->row_bytes;
		part->token_stride = part->head_count * part->row_bytes;
	} else {
		part->token_stride = part->row_bytes;
		part->head_stride = tokens * part->row_bytes;
	}
	return KVF_OK;
}

static enum kvf_status take(struct pool *pool, uint64_t bytes, uint64_t times, uint64_t *at_out)
{
	uint64_t total;

	if (kvfi_mul_overflows(bytes, times, &total) || kvfi_add_overflows(pool->used, total, &total) ||
		total > INT64_MAX)
		return kvfi_fail(KVF_EINVAL, "pool: %llu bytes times %llu blocks overflow",
			(unsigned long long)bytes, (unsigned long long)times);
	*at_out = pool->used;
	pool->used = total;
	return KVF_OK;
}

static enum kvf_status place_block_major(
	struct pool *pool, struct kvf_group *group, const uint64_t *part_bytes)
{
	uint64_t *bases = own_bases(group);
	uint64_t slot = 0, start;
	enum kvf_status status;

	for (size_t i = 0; i < (size_t)group->n_layers * group->n_parts; i++) {
		bases[i] = pool->used + slot;
		if (kvfi_add_overflows(slot, part_bytes[i % group->n_parts], &slot))
			return kvfi_fail(KVF_EINVAL, "pool: a block of %u layers overflows", group->n_layers);
	}
	status = take(pool, slot, group->blocks, &start);
	for (uint32_t p = 0; p < group->n_parts; p++)
		group->parts[p].block_stride = slot;
	return status;
}

static enum kvf_status place_layers(struct pool *pool, struct kvf_group *group, const uint64_t *part_bytes)
{
	uint64_t *bases = own_bases(group);
	enum kvf_status status = KVF_OK;

	for (uint32_t p = 0; p < group->n_parts; p++)
		group->parts[p].block_stride = part_bytes[p];
	for (size_t i = 0; status == KVF_OK && i < (size_t)group->n_layers * group->n_parts; i++)
		status = take(pool, part_bytes[i % group->n_parts], group->blocks, &bases[i]);
	return status;
}

static enum kvf_status place_group(struct pool *pool, struct kvf_group *group)
{
	uint64_t part_bytes[KVF_MAX_PARTS];
	enum kvf_status status = KVF_OK;

	pool->used = kvfi_align_up(pool->used, POOL_ALIGN);
	for (uint32_t p = 0; status == KVF_OK && p < group->n_parts; p++)
		status = place_part(pool->order, group->tokens_per_block, &group->parts[p], &part_bytes[p]);
	if (status != KVF_OK)
		return status;
	return pool->order == KVF_BLOCK_MAJOR ? place_block_major(pool, group, part_bytes)
	                                      : place_layers(pool, group, part_bytes);
}

static enum kvf_status check_new(const struct kvf_model *model, const struct kvf_instance *instance,
	uint32_t rank, const struct kvf_layout_options *options)
{
	enum kvf_status status = kvfi_model_check(model);

	if (status != KVF_OK)
		return status;
	if (!instance || rank >= instance->n_ranks)
		return kvfi_fail(KVF_EINVAL, "rank: %u, the instance has %u ranks", rank,
			instance ? instance->n_ranks : 0);
	if (instance->n_groups != model->n_groups)
		return kvfi_fail(KVF_EINVAL, "n_groups: instance has %u, model has %u", instance->n_groups,
			model->n_groups);
	return check_options(model, options);
}

enum kvf_status kvf_layout_new(const struct kvf_model *model, const struct kvf_instance *instance,
	uint32_t rank, const struct kvf_layout_options *options, struct kvf_layout **layout_out,
	uint64_t *pool_bytes_out)
{
	struct kvf_group shapes[KVF_MAX_GROUPS];
	struct kvf_layout draft = {.groups = shapes};
	struct kvf_layout *made;
	struct pool pool = {0};
	enum kvf_status status = check_new(model, instance, rank, options);

	if (status != KVF_OK)
		return status;
	draft.model = model->name;
	draft.revision = model->revision;
	draft.rank = rank;
	draft.n_groups = model->n_groups;
	for (uint32_t g = 0; g < model->n_groups; g++)
		shape_group(&model->groups[g], &instance->ranks[rank].groups[g], options, &shapes[g]);
	made = kvfi_layout_copy(&draft);
	if (!made)
		return kvfi_fail(KVF_ENOMEM, "layout: out of memory");
	pool.order = options->order;
	for (uint32_t g = 0; status == KVF_OK && g < model->n_groups; g++) {
		status = place_group(&pool, (struct kvf_group *)(uintptr_t)&made->groups[g]);
		if (status != KVF_OK)
			status = kvfi_fail_prefix(status, "group %u", g);
	}
	if (status != KVF_OK) {
		kvf_layout_free(made);
		return status;
	}
	*layout_out = made;
	*pool_bytes_out = pool.used;
	return KVF_OK;
}

void kvf_layout_move(struct kvf_layout *layout, uint64_t delta)
{
	for (uint32_t g = 0; g < layout->n_groups; g++) {
		const struct kvf_group *group = &layout->groups[g];
		uint64_t *bases = own_bases(group);

		for (size_t i = 0; i < (size_t)group->n_layers * group->n_parts; i++)
			bases[i] += delta;
	}
}

enum kvf_status kvf_layout_set_aux(
	struct kvf_layout *layout, uint32_t n_aux, uint32_t aux_bytes, uint64_t base)
{
	struct own_layout *own = (struct own_layout *)layout;
	size_t bases_size = kvfi_carve_size((size_t)n_aux * sizeof(uint64_t));
	uint64_t *bases;
	uint32_t *sizes;
	uint64_t end;

	if (!layout)
		return kvfi_fail(KVF_EINVAL, "layout: missing");
	if (n_aux > KVFI_MAX_AUX)
		return kvfi_fail(KVF_EINVAL, "n_aux: %u, at most %u", n_aux, KVFI_MAX_AUX);
	if (aux_bytes > KVF_MAX_AUX_BYTES)
		return kvfi_fail(KVF_EINVAL, "aux_bytes: %u, at most %u", aux_bytes, KVF_MAX_AUX_BYTES);
	if (kvfi_add_overflows(base, (uint64_t)n_aux * aux_bytes, &end))
		return kvfi_fail(
			KVF_EINVAL, "aux: %u slots of %u bytes leave the address space", n_aux, aux_bytes);
	bases = malloc(bases_size + (size_t)n_aux * sizeof(uint32_t) + 1);
	if (!bases)
		return kvfi_fail(KVF_ENOMEM, "aux: out of memory");
	sizes = (uint32_t *)((unsigned char *)bases + bases_size);
	for (uint32_t i = 0; i < n_aux; i++) {
		sizes[i] = aux_bytes;
		bases[i] = base + (uint64_t)i * aux_bytes;
	}
	free(own->aux);
	own->aux = bases;
	own->layout.n_aux = n_aux;
	own->layout.aux_bytes = sizes;
	own->layout.aux_bases = bases;
	return KVF_OK;
}

static uint64_t reach(uint64_t count, uint64_t stride)
{
	return count > 1 ? (count - 1) * stride : 0;
}

bool kvfi_layout_extent(const struct kvf_layout *layout, uint32_t group, uint32_t layer_index, uint32_t part,
	uint64_t *start_out, uint64_t *end_out)
{
	const struct kvf_group *in = &layout->groups[group];
	const struct kvf_part *cells = &in->parts[part];
	uint64_t base = in->bases[(size_t)layer_index * in->n_parts + part];

	if (in->blocks == 0 || cells->head_count == 0 || in->tokens_per_block == 0)
		return false;
	*start_out = base;
	*end_out = base + reach(in->blocks, cells->block_stride) +
	           reach(cells->head_count, cells->head_stride) +
	           reach(in->tokens_per_block, cells->token_stride) + cells->row_bytes;
	return true;
}
