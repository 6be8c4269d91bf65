/* unmatched.c - layers that only one side has: speculative layers, say. No error, but worth telling. Pure; any thread. */
#include <stdbool.h>
#include "geometry/geometry.h"

static bool held_by_any(const struct kvf_instance *instance, uint32_t group, uint32_t layer)
{
	for (uint32_t r = 0; group < instance->n_groups && r < instance->n_ranks; r++) {
		const struct kvf_rank_group *held = &instance->ranks[r].groups[group];

		for (uint32_t i = 0; i < held->n_layers && held->layers[i] <= layer; i++)
			if (held->layers[i] == layer)
				return true;
	}
	return false;
}

uint32_t kvf_unmatched_layers(const struct kvf_instance *instance, const struct kvf_instance *other,
	uint32_t group, uint32_t *layers, uint32_t max)
{
	uint32_t n = 0;

	for (uint32_t layer = 0; layer < KVF_MAX_LAYERS; layer++) {
		if (!held_by_any(instance, group, layer) || held_by_any(other, group, layer))
			continue;
		if (n < max)
			layers[n] = layer;
		n++;
	}
	return n;
}
