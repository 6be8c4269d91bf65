/* instance.c - instance maps: made from sizes by the default split, copied, freed.
 *
 * A map lives in one allocation: header, ranks, groups, layer arrays, endpoint strings. Endpoints set later
 * are owned beside it, one string per rank, because their length is not known at birth. Ranks of one stage
 * share their layer arrays. Not thread-safe while it is changed; any thread may read it afterwards.
 */
#include <stdlib.h>
#include <string.h>
#include "base/status.h"
#include "geometry/carve.h"
#include "geometry/geometry.h"
#include "geometry/instance_check.h"
#include "geometry/model.h"
#include "geometry/split.h"

struct own_instance {
	struct kvf_instance map; /* first: this is what callers hold */
	char **endpoints;        /* n_ranks; NULL: the one in the map's own allocation */
};

struct split {
	const struct kvf_model *model;
	const struct kvf_parallel *parallel;
	struct kvfi_rank_order order;
	uint32_t n_ranks;
	uint32_t stage_of[KVF_MAX_LAYERS];
	/* Layers of stage s in group g: n_of[s * n_groups + g] entries at layers_of[...]; made while filling.
	 */
	uint32_t *n_of;
	const uint32_t **layers_of;
};

static enum kvf_status check_parallel(const struct kvf_parallel *parallel, enum kvf_role role)
{
	struct kvf_instance sizes = {
		.role = role, .tp = parallel->tp, .pp = parallel->pp, .cp = parallel->cp, .dp = parallel->dp};
	uint64_t n_ranks = 0;
	enum kvf_status status = kvfi_sizes_check(&sizes, &n_ranks);

	return status;
}

static void count_stage_layers(struct split *split)
{
	uint32_t n_groups = split->model->n_groups;

	for (uint32_t g = 0; g < n_groups; g++) {
		const struct kvf_group_spec *spec = &split->model->groups[g];

		for (uint32_t i = 0; i < spec->n_layers; i++)
			split->n_of[split->stage_of[spec->layers[i]] * n_groups + g]++;
	}
}

static size_t instance_size(const struct split *split)
{
	size_t n_lists = (size_t)split->parallel->pp * split->model->n_groups;
	size_t size = kvfi_carve_size(sizeof(struct own_instance));

	size += kvfi_carve_size(split->n_ranks * sizeof(char *));
	size += kvfi_carve_size(split->n_ranks * sizeof(struct kvf_rank));
	size += kvfi_carve_size(
		(size_t)split->n_ranks * split->model->n_groups * sizeof(struct kvf_rank_group));
	for (size_t i = 0; i < n_lists; i++)
		size += kvfi_carve_size(split->n_of[i] * sizeof(uint32_t));
	return size;
}

static void fill_stage_layers(struct split *split, unsigned char **at)
{
	uint32_t n_groups = split->model->n_groups;

	for (uint32_t stage = 0; stage < split->parallel->pp; stage++) {
		for (uint32_t g = 0; g < n_groups; g++) {
			const struct kvf_group_spec *spec = &split->model->groups[g];
			uint32_t *layers =
				kvfi_carve(at, split->n_of[stage * n_groups + g] * sizeof(uint32_t));
			uint32_t n = 0;

			for (uint32_t i = 0; i < spec->n_layers; i++)
				if (split->stage_of[spec->layers[i]] == stage)
					layers[n++] = spec->layers[i];
			split->layers_of[stage * n_groups + g] = layers;
		}
	}
}

static void fill_rank_group(
	const struct split *split, const struct kvf_rank *rank, uint32_t g, struct kvf_rank_group *out)
{
	const struct kvf_group_spec *spec = &split->model->groups[g];
	uint32_t list = rank->pp * split->model->n_groups + g;
	uint32_t width = split->parallel->tp / split->parallel->dp;

	memset(out, 0, sizeof(*out));
	out->n_layers = split->n_of[list];
	out->layers = split->layers_of[list];
	for (uint32_t p = 0; p < spec->n_parts; p++) {
		out->head_count[p] = spec->parts[p].heads;
		if (spec->kind != KVF_REPLICATED)
			kvfi_split_heads(spec->parts[p].heads, rank->tp % width, width, &out->head_start[p],
				&out->head_count[p]);
	}
}

static struct kvf_instance *build_instance(struct split *split, enum kvf_role role, uint64_t id)
{
	const struct kvf_parallel *parallel = split->parallel;
	const uint32_t sizes[3] = {parallel->tp, parallel->pp, parallel->cp};
	uint32_t n_groups = split->model->n_groups;
	unsigned char *at = calloc(1, instance_size(split));
	struct own_instance *own = (struct own_instance *)at;
	struct kvf_rank *ranks;
	struct kvf_rank_group *groups;

	if (!at)
		return NULL;
	(void)kvfi_carve(&at, sizeof(*own));
	own->endpoints = kvfi_carve(&at, split->n_ranks * sizeof(char *));
	ranks = kvfi_carve(&at, split->n_ranks * sizeof(*ranks));
	groups = kvfi_carve(&at, (size_t)split->n_ranks * n_groups * sizeof(*groups));
	fill_stage_layers(split, &at);
	for (uint32_t i = 0; i < split->n_ranks; i++) {
		uint32_t coordinates[3];

		kvfi_rank_coordinates(&split->order, sizes, i, coordinates);
		ranks[i] = (struct kvf_rank){.tp = coordinates[KVFI_AXIS_TP],
			.pp = coordinates[KVFI_AXIS_PP],
			.cp = coordinates[KVFI_AXIS_CP],
			.endpoint = "",
			.groups = groups + (size_t)i * n_groups};
		for (uint32_t g = 0; g < n_groups; g++)
			fill_rank_group(split, &ranks[i], g, &groups[(size_t)i * n_groups + g]);
	}
	own->map = (struct kvf_instance){.id = id,
		.role = role,
		.tp = parallel->tp,
		.pp = parallel->pp,
		.cp = parallel->cp,
		.dp = parallel->dp,
		.n_groups = n_groups,
		.n_ranks = split->n_ranks,
		.ranks = ranks};
	return &own->map;
}

static enum kvf_status split_instance(
	struct split *split, enum kvf_role role, uint64_t id, struct kvf_instance **instance_out)
{
	size_t n_lists = (size_t)split->parallel->pp * split->model->n_groups;
	struct kvf_instance *made = NULL;

	split->n_of = calloc(n_lists, sizeof(*split->n_of));
	split->layers_of = calloc(n_lists, sizeof(*split->layers_of));
	if (split->n_of && split->layers_of) {
		count_stage_layers(split);
		made = build_instance(split, role, id);
	}
	free(split->n_of);
	free(split->layers_of);
	if (!made)
		return kvfi_fail(KVF_ENOMEM, "instance of %u ranks: out of memory", split->n_ranks);
	*instance_out = made;
	return KVF_OK;
}

enum kvf_status kvf_instance_new(const struct kvf_model *model, const struct kvf_parallel *parallel,
	enum kvf_role role, uint64_t id, struct kvf_instance **instance_out)
{
	struct split split = {.model = model, .parallel = parallel};
	enum kvf_status status = kvfi_model_check(model);

	if (status == KVF_OK && (!parallel || !instance_out))
		status = kvfi_fail(KVF_EINVAL, "%s: missing", parallel ? "instance_out" : "parallel");
	if (status == KVF_OK)
		status = check_parallel(parallel, role);
	if (status == KVF_OK)
		status = kvfi_rank_order_parse(parallel->rank_order, &split.order);
	if (status == KVF_OK)
		status = kvfi_split_layers(model, parallel, split.stage_of);
	if (status != KVF_OK)
		return status;
	split.n_ranks = parallel->tp * parallel->pp * parallel->cp;
	return split_instance(&split, role, id, instance_out);
}

enum kvf_status kvf_instance_set_endpoint(struct kvf_instance *instance, uint32_t rank, const char *endpoint)
{
	struct own_instance *own = (struct own_instance *)instance;
	struct kvf_rank *entry;
	enum kvf_status status;
	char *text;

	if (!instance || rank >= instance->n_ranks)
		return kvfi_fail(KVF_EINVAL, "rank: %u, the instance has %u ranks", rank,
			instance ? instance->n_ranks : 0);
	status = kvfi_name_check("endpoint", endpoint);
	if (status != KVF_OK)
		return status;
	text = strdup(endpoint);
	if (!text)
		return kvfi_fail(KVF_ENOMEM, "endpoint: out of memory");
	entry = (struct kvf_rank *)(uintptr_t)&instance->ranks[rank];
	entry->endpoint = text;
	free(own->endpoints[rank]);
	own->endpoints[rank] = text;
	return KVF_OK;
}

void kvf_instance_free(struct kvf_instance *instance)
{
	struct own_instance *own = (struct own_instance *)instance;

	if (!own)
		return;
	for (uint32_t i = 0; i < own->map.n_ranks; i++)
		free(own->endpoints[i]);
	free(own);
}

static size_t copy_size(const struct kvf_instance *from)
{
	size_t size = kvfi_carve_size(sizeof(struct own_instance));

	size += kvfi_carve_size(from->n_ranks * sizeof(char *));
	size += kvfi_carve_size(from->n_ranks * sizeof(struct kvf_rank));
	size += from->n_ranks * kvfi_carve_size(from->n_groups * sizeof(struct kvf_rank_group));
	for (uint32_t i = 0; i < from->n_ranks; i++) {
		size += kvfi_carve_size(strlen(from->ranks[i].endpoint) + 1);
		for (uint32_t g = 0; g < from->n_groups; g++)
			size += kvfi_carve_size(from->ranks[i].groups[g].n_layers * sizeof(uint32_t));
	}
	return size;
}

struct kvf_instance *kvfi_instance_copy(const struct kvf_instance *instance)
{
	unsigned char *at = calloc(1, copy_size(instance));
	struct own_instance *own = (struct own_instance *)at;
	struct kvf_rank *ranks;

	if (!at)
		return NULL;
	(void)kvfi_carve(&at, sizeof(*own));
	own->endpoints = kvfi_carve(&at, instance->n_ranks * sizeof(char *));
	ranks = kvfi_carve_copy(&at, instance->ranks, instance->n_ranks * sizeof(*ranks));
	for (uint32_t i = 0; i < instance->n_ranks; i++) {
		struct kvf_rank_group *groups =
			kvfi_carve_copy(&at, ranks[i].groups, instance->n_groups * sizeof(*groups));

		for (uint32_t g = 0; g < instance->n_groups; g++)
			groups[g].layers =
				kvfi_carve_copy(&at, groups[g].layers, groups[g].n_layers * sizeof(uint32_t));
		ranks[i].groups = groups;
		ranks[i].endpoint = kvfi_carve_copy(&at, ranks[i].endpoint, strlen(ranks[i].endpoint) + 1);
	}
	own->map = *instance;
	own->map.ranks = ranks;
	return &own->map;
}

uint32_t kvfi_rank_dp(const struct kvf_instance *instance, uint32_t rank)
{
	return instance->ranks[rank].tp / (instance->tp / instance->dp);
}
