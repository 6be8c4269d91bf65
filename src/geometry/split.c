/* split.c - the default split of a model over ranks: heads over an attention group, layers over stages, ranks
 * over axes.
 *
 * These are defaults alone. Everything downstream reads the instance map, so that any other split is served
 * as well. Pure; allocates nothing; any thread.
 */
#include "geometry/split.h"

#include <stdbool.h>
#include <string.h>
#include "base/status.h"

void kvfi_split_heads(uint32_t n, uint32_t r, uint32_t g, uint32_t *start_out, uint32_t *count_out)
{
	uint64_t start = (uint64_t)r * n / g;
	uint64_t end = n >= g ? ((uint64_t)r + 1) * n / g : start + 1;

	*start_out = (uint32_t)start;
	*count_out = (uint32_t)(end - start);
}

static uint32_t mark_layers(const struct kvf_model *model, bool *present)
{
	uint32_t n = 0;

	memset(present, 0, KVF_MAX_LAYERS * sizeof(*present));
	for (uint32_t g = 0; g < model->n_groups; g++) {
		for (uint32_t i = 0; i < model->groups[g].n_layers; i++) {
			uint32_t layer = model->groups[g].layers[i];

			n += !present[layer];
			present[layer] = true;
		}
	}
	return n;
}

static enum kvf_status check_stages(const struct kvf_parallel *parallel, uint32_t n_layers)
{
	uint64_t sum = 0;

	if (parallel->pp > n_layers)
		return kvfi_fail(KVF_EINVAL, "pp: %u stages for %u layers", parallel->pp, n_layers);
	if (!parallel->stages)
		return KVF_OK;
	for (uint32_t i = 0; i < parallel->pp; i++) {
		if (parallel->stages[i] == 0)
			return kvfi_fail(
				KVF_EINVAL, "stages[%u]: a stage needs at least one layer, got 0", i);
		sum += parallel->stages[i];
	}
	if (sum != n_layers)
		return kvfi_fail(KVF_EINVAL, "stages: they sum to %llu, the model has %u layers",
			(unsigned long long)sum, n_layers);
	return KVF_OK;
}

static uint32_t stage_layers(const struct kvf_parallel *parallel, uint32_t n_layers, uint32_t stage)
{
	if (parallel->stages)
		return parallel->stages[stage];
	return n_layers / parallel->pp + (stage < n_layers % parallel->pp);
}

enum kvf_status kvfi_split_layers(
	const struct kvf_model *model, const struct kvf_parallel *parallel, uint32_t *stage_of)
{
	bool present[KVF_MAX_LAYERS];
	uint32_t n_layers = mark_layers(model, present);
	uint32_t stage = 0, left;
	enum kvf_status status = check_stages(parallel, n_layers);

	if (status != KVF_OK)
		return status;
	left = stage_layers(parallel, n_layers, 0);
	for (uint32_t layer = 0; layer < KVF_MAX_LAYERS; layer++) {
		stage_of[layer] = UINT32_MAX;
		if (!present[layer])
			continue;
		if (left == 0)
			left = stage_layers(parallel, n_layers, ++stage);
		stage_of[layer] = stage;
		left--;
	}
	return KVF_OK;
}

enum kvf_status kvfi_rank_order_parse(const char *text, struct kvfi_rank_order *order_out)
{
	static const char *const names[3] = {"tp", "pp", "cp"};
	const char *order = text ? text : "pp:cp:tp";
	struct kvfi_rank_order parsed;
	bool seen[3] = {false, false, false};

	if (strlen(order) != 8 || order[2] != ':' || order[5] != ':')
		return kvfi_fail(
			KVF_EINVAL, "rank_order: \"%.32s\" is not three of tp, pp, cp joined by ':'", order);
	for (uint32_t i = 0; i < 3; i++) {
		uint32_t axis = 0;

		while (axis < 3 && strncmp(order + (size_t)i * 3, names[axis], 2) != 0)
			axis++;
		if (axis == 3 || seen[axis])
			return kvfi_fail(KVF_EINVAL,
				"rank_order: \"%.32s\" does not name each of tp, pp, cp once", order);
		seen[axis] = true;
		parsed.axes[i] = axis;
	}
	*order_out = parsed;
	return KVF_OK;
}

void kvfi_rank_coordinates(const struct kvfi_rank_order *order, const uint32_t sizes[3], uint32_t rank,
	uint32_t coordinates_out[3])
{
	for (uint32_t i = 3; i-- > 0;) {
		uint32_t axis = order->axes[i];

		coordinates_out[axis] = rank % sizes[axis];
		rank /= sizes[axis];
	}
}
