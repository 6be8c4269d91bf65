/* lists.c - which blocks a request needs on a rank, and how its user cuts it into slices. Pure. */
#include "sim/sim.h"

#include "base/checked.h"
#include "geometry/geometry.h"

bool sim_takes_part(const struct sim_world *world, const struct sim_node *node, uint32_t request)
{
	const struct sim_request *who = &world->requests[request];
	const struct kvf_instance *instance = world->instances[node->decode];

	return kvfi_rank_dp(instance, node->rank) == (node->decode ? who->dst_dp : who->src_dp);
}

uint32_t sim_request_find(const struct sim_world *world, uint64_t id, uint32_t attempt)
{
	for (uint32_t i = 0; i < world->n_requests; i++)
		if (world->requests[i].id == id && world->requests[i].attempt == attempt)
			return i;
	return SIM_NONE;
}

uint32_t sim_list_length(const struct sim_node *node, uint32_t request, uint32_t g, uint32_t *first_out)
{
	const struct sim_request *who = &node->world->requests[request];
	const struct kvf_group *group = &node->layout->groups[g];
	uint64_t tpb = group->tokens_per_block, first = 0, end = kvfi_div_up(who->prompt_len, tpb);

	if (group->n_layers == 0)
		end = 0;
	else if (group->kind == KVF_STATE)
		end = 1;
	else if (group->kind == KVF_WINDOW && who->prompt_len + 1 > group->window_tokens)
		first = (who->prompt_len + 1 - group->window_tokens) / tpb;
	else if (group->kind != KVF_WINDOW && node->decode)
		first = kvfi_min_u64(who->skip, end);
	*first_out = (uint32_t)first;
	return end > first ? (uint32_t)(end - first) : 0;
}

static bool group_holds(const struct kvf_group *group, uint32_t start, uint32_t end)
{
	for (uint32_t l = 0; l < group->n_layers; l++)
		if (group->layers[l] >= start && group->layers[l] < end)
			return true;
	return false;
}

static bool holds(const struct sim_node *node, uint32_t start, uint32_t end)
{
	for (uint32_t g = 0; g < node->layout->n_groups; g++)
		if (group_holds(&node->layout->groups[g], start, end))
			return true;
	return false;
}

bool sim_cut(const struct sim_node *node, uint32_t request, uint32_t n, struct sim_cut *cut_out)
{
	const struct sim_request *who = &node->world->requests[request];
	uint32_t at = 0;

	for (uint32_t c = 0; c < who->chunks; c++) {
		for (uint32_t piece = 0; piece < (who->layer_wise ? 2u : 1u); piece++) {
			struct sim_cut cut = {.token_start = who->prompt_len * c / who->chunks,
				.token_end = who->prompt_len * (c + 1) / who->chunks,
				.layer_start = who->layer_wise ? piece : 0,
				.layer_end = !who->layer_wise ? 0
			                     : piece == 0     ? 1
			                                      : KVF_MAX_LAYERS};

			if (who->layer_wise && !holds(node, cut.layer_start, cut.layer_end))
				continue;
			cut.last = c + 1 == who->chunks &&
			           (!who->layer_wise || !holds(node, cut.layer_end, UINT32_MAX));
			if (at++ == n) {
				*cut_out = cut;
				return true;
			}
		}
	}
	return false;
}

uint32_t sim_cut_list(const struct sim_node *node, uint32_t request, const struct sim_cut *cut, uint32_t g,
	const int32_t **ids_out)
{
	const struct sim_list *list = &node->sessions[request].lists[g];
	const struct kvf_group *group = &node->layout->groups[g];
	bool ends = cut->token_end == node->world->requests[request].prompt_len;
	bool whole = group->kind == KVF_STATE || group->kind == KVF_WINDOW;
	uint64_t from = whole ? 0 : cut->token_start / group->tokens_per_block;
	uint64_t to = ends ? list->n : whole ? 0 : cut->token_end / group->tokens_per_block;

	*ids_out = list->ids + from;
	if (cut->layer_end != 0 && !group_holds(group, cut->layer_start, cut->layer_end))
		return 0;
	return to > from ? (uint32_t)(to - from) : 0;
}
