/* usage.c - what the tables hold, counted: for tests that want them empty, and for whoever wonders what is left. Pure. */
#include "session/state.h"

static uint32_t list_length(const struct kvfi_list *list)
{
	uint32_t n = 0;

	for (const struct kvfi_list *at = list->next; at != list; at = at->next)
		n++;
	return n;
}

void kvfi_core_usage(const struct kvfi_core *core, struct kvfi_core_usage *usage_out)
{
	const struct kvfi_core_config *config = &core->config;
	struct kvfi_core_usage usage = {.sessions = list_length(&core->live),
		.links = config->max_links - list_length(&core->free_links),
		.deliveries = config->max_deliveries - list_length(&core->free_deliveries),
		.arrivals = core->n_arrivals,
		.timers = core->timers.n,
		.ready = list_length(&core->ready),
		.id_extents = core->arena.n_free,
		.block_ids = config->max_block_ids};

	for (uint32_t at = core->free_arrival; at != KVFI_NONE; at = core->arrivals[at].next_free)
		usage.arrivals--;
	for (uint32_t i = 0; i < core->arena.n_free; i++)
		usage.block_ids -= core->arena.free[i].len;
	for (uint32_t i = 0; i <= core->hash_mask; i++)
		usage.hashed +=
			(core->tx_heads[i] != NO_HASH ? 1u : 0u) + (core->link_heads[i] != NO_HASH ? 1u : 0u);
	*usage_out = usage;
}
