/* replay_sizing.c - how each rank's memory is divided: blocks, state slots, layouts; which requests fit.
 *
 * Guarantees: a rank's layout spans no more than --pool; a request that can never fit is refused, naming the
 * pool that it needs. Sizes come from the library's own layouts, so that they are right for every memory
 * order. The coordinator's one thread, before anything is started.
 */
#include "cli/replay_sizing.h"

#include <stdlib.h>
#include "cli/replay_geometry.h"
#include "cli/units.h"

#define MAX_BLOCKS (1u << 22) /* of one group of one rank; bounds our tables */

static const char *const side_names[2] = {"prefill", "decode"};

static bool layout_new(const struct replay_setup *setup, uint32_t s, uint32_t rank,
	struct kvf_layout **layout_out, uint64_t *span_out, struct reason *why)
{
	const struct replay_side *side = &setup->sides[s];
	const struct kvf_layout_options options = {
		.order = side->ranks.memory_order,
		.tokens_per_block = side->tokens_per_block,
		.blocks = side->blocks,
		.state_slots = side->state_slots,
	};
	enum kvf_status status =
		kvf_layout_new(&setup->model.kvf, side->instance, rank, &options, layout_out, span_out);
	if (status != KVF_OK)
		return reason_set(why, "%s rank %u: %s", side_names[s], rank, kvf_error());
	return true;
}

/* Bytes that the widest rank of a side spans with this many blocks and slots. */
static bool widest_span(struct replay_setup *setup, uint32_t s, uint32_t blocks, uint32_t slots,
	uint64_t *span_out, struct reason *why)
{
	struct replay_side *side = &setup->sides[s];
	uint64_t widest = 0;
	side->blocks = blocks;
	side->state_slots = slots;
	for (uint32_t rank = 0; rank < side->n_ranks; rank++) {
		struct kvf_layout *layout;
		uint64_t span;
		if (!layout_new(setup, s, rank, &layout, &span, why))
			return false;
		kvf_layout_free(layout);
		widest = span > widest ? span : widest;
	}
	*span_out = widest;
	return true;
}

/* The most blocks that fit the pool beside this many slots; 0: none. */
static bool most_blocks(
	struct replay_setup *setup, uint32_t s, uint32_t slots, uint32_t *blocks_out, struct reason *why)
{
	uint32_t low = 0, high = MAX_BLOCKS;
	while (low < high) {
		uint32_t middle = low + (high - low + 1) / 2;
		uint64_t span;
		if (!widest_span(setup, s, middle, slots, &span, why))
			return false;
		if (span <= setup->options.pool_bytes)
			low = middle;
		else
			high = middle - 1;
	}
	*blocks_out = low;
	return true;
}

static bool has_state(const struct replay_setup *setup)
{
	for (uint32_t g = 0; g < setup->model.kvf.n_groups; g++) {
		if (setup->model.kvf.groups[g].kind == KVF_STATE)
			return true;
	}
	return false;
}

/* State slots take at most half of the pool, and no more than requests run at once. */
static bool wanted_slots(struct replay_setup *setup, uint32_t s, uint32_t *slots_out, struct reason *why)
{
	uint64_t one, two;
	*slots_out = 1;
	if (!has_state(setup))
		return true;
	if (!widest_span(setup, s, 1, 1, &one, why) || !widest_span(setup, s, 1, 2, &two, why))
		return false;
	uint64_t room = two > one ? setup->options.pool_bytes / 2 / (two - one) : 1;
	uint64_t most = (setup->options.concurrency + setup->sides[s].dp - 1) / setup->sides[s].dp;
	uint64_t slots = room < most ? room : most;
	*slots_out = slots > 1 ? (uint32_t)slots : 1;
	return true;
}

/* Splits the pool of a side into blocks and slots. */
static bool size_side(struct replay_setup *setup, uint32_t s, uint32_t slots, struct reason *why)
{
	uint32_t blocks;
	if (!most_blocks(setup, s, slots, &blocks, why))
		return false;
	if (blocks == 0 && slots > 1) {
		slots = 1;
		if (!most_blocks(setup, s, slots, &blocks, why))
			return false;
	}
	setup->sides[s].blocks = blocks;
	setup->sides[s].state_slots = slots;
	if (blocks > 0)
		return true;

	uint64_t span;
	char need[32], have[32];
	if (!widest_span(setup, s, 1, 1, &span, why))
		return false;
	return reason_set(why, "--pool: one block of %u tokens on a %s rank needs %s, --pool gives %s",
		setup->sides[s].tokens_per_block, side_names[s], units_format_bytes(span, need),
		units_format_bytes(setup->options.pool_bytes, have));
}

bool replay_sizing_divide(struct replay_setup *setup, uint32_t s, struct reason *why)
{
	uint32_t slots;
	return wanted_slots(setup, s, &slots, why) && size_side(setup, s, slots, why);
}

/* Blocks of a rank's pool that a prompt needs at its widest group. */
static uint64_t needed_blocks(const struct replay_setup *setup, uint32_t s, uint64_t tokens)
{
	uint64_t most = 1;
	for (uint32_t g = 0; g < setup->model.kvf.n_groups; g++) {
		uint64_t blocks = replay_list_blocks(setup, s, g, tokens);
		if (setup->model.kvf.groups[g].kind != KVF_STATE && blocks > most)
			most = blocks;
	}
	return most;
}

uint64_t replay_sizing_longest_fit(const struct replay_setup *setup)
{
	uint64_t low = 0, high = UINT64_C(1) << 30;
	while (low < high) {
		uint64_t middle = low + (high - low + 1) / 2;
		bool fits = true;
		for (uint32_t s = 0; s < 2; s++)
			fits = fits && needed_blocks(setup, s, middle) <= setup->sides[s].blocks;
		if (fits)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

uint32_t replay_sizing_longest(const struct replay_setup *setup)
{
	uint32_t longest = 0;
	for (uint32_t i = 1; i < setup->n_requests; i++) {
		if (setup->requests[i].tokens > setup->requests[longest].tokens)
			longest = i;
	}
	return longest;
}

/* A request that can never fit is refused now; slots are given up for blocks before that. */
bool replay_sizing_fit(struct replay_setup *setup, uint32_t s, struct reason *why)
{
	struct replay_side *side = &setup->sides[s];
	uint32_t index = replay_sizing_longest(setup);
	uint64_t tokens = setup->requests[index].tokens;
	uint64_t need = needed_blocks(setup, s, tokens);
	if (need > side->blocks && side->state_slots > 1 && !size_side(setup, s, 1, why))
		return false;
	if (need <= side->blocks)
		return true;

	uint64_t span;
	char want[32], have[32];
	if (need > MAX_BLOCKS)
		return reason_set(why, "request %u: %llu tokens are %llu blocks, more than %u", index,
			(unsigned long long)tokens, (unsigned long long)need, MAX_BLOCKS);
	if (!widest_span(setup, s, (uint32_t)need, 1, &span, why))
		return false;
	return reason_set(why,
		"request %u (%llu tokens) can never fit: a %s rank needs a pool of %s (--pool %llu), --pool "
		"gives %s",
		index, (unsigned long long)tokens, side_names[s], units_format_bytes(span, want),
		(unsigned long long)span, units_format_bytes(setup->options.pool_bytes, have));
}

bool replay_sizing_layouts(struct replay_setup *setup, uint32_t s, struct reason *why)
{
	struct replay_side *side = &setup->sides[s];
	side->layouts = calloc(side->n_ranks, sizeof(struct kvf_layout *));
	side->span_bytes = calloc(side->n_ranks, sizeof(uint64_t));
	if (!side->layouts || !side->span_bytes)
		return reason_set(why, "out of memory");
	for (uint32_t rank = 0; rank < side->n_ranks; rank++) {
		if (!layout_new(setup, s, rank, &side->layouts[rank], &side->span_bytes[rank], why))
			return false;
	}
	return true;
}
