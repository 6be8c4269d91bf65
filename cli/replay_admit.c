/* replay_admit.c - gives blocks to requests and takes them back.
 *
 * Guarantees: a request gets all its blocks on both sides or none, so that requests that wait hold nothing
 * and the first in line always gets its turn. A block enters the reuse index only from a request whose
 * content has been proven and whose sessions are released. Only whole 512-token blocks of the trace are
 * shared; a key names the content of all tokens up to the block's end, so that a prefix is reused from its
 * beginning or not at all. Under --chaos nothing is shared. One thread: the coordinator's.
 */
#include "cli/replay_admit.h"

#include <stdlib.h>
#include <string.h>
#include "cli/replay_geometry.h"
#include "cli/trace.h"

static struct replay_pool *pool_of(
	const struct replay_admit *admit, uint32_t side, uint32_t dp, uint32_t cp, uint32_t group)
{
	size_t row = (size_t)dp * admit->setup->sides[side].cp + cp;
	return &admit->pools[side][row * admit->n_groups + group];
}

static bool init_side(struct replay_admit *admit, uint32_t s)
{
	const struct replay_setup *setup = admit->setup;
	const struct replay_side *side = &setup->sides[s];
	size_t n = (size_t)side->dp * side->cp * admit->n_groups;
	admit->pools[s] = calloc(n, sizeof(struct replay_pool));
	if (!admit->pools[s])
		return false;
	for (size_t i = 0; i < n; i++) {
		bool state = setup->model.kvf.groups[i % admit->n_groups].kind == KVF_STATE;
		uint64_t seed = replay_mix(setup->options.seed, s * 1000003 + i);
		if (!replay_pool_init(&admit->pools[s][i], state ? side->state_slots : side->blocks,
			    setup->options.block_runs, seed))
			return false;
	}
	return true;
}

bool replay_admit_init(
	struct replay_admit *admit, const struct replay_setup *setup, const struct replay_board *board)
{
	memset(admit, 0, sizeof(*admit));
	admit->setup = setup;
	admit->board = board;
	admit->n_groups = setup->model.kvf.n_groups;
	uint64_t blocks = setup->longest_tokens / setup->sides[REPLAY_DECODE].tokens_per_block + 1;
	admit->keys = calloc(blocks, sizeof(uint64_t));
	if (admit->keys && init_side(admit, REPLAY_PREFILL) && init_side(admit, REPLAY_DECODE))
		return true;
	replay_admit_fini(admit);
	return false;
}

void replay_admit_fini(struct replay_admit *admit)
{
	for (uint32_t s = 0; s < 2; s++) {
		size_t n =
			admit->pools[s] ? (size_t)admit->setup->sides[s].dp * admit->setup->sides[s].cp : 0;
		for (size_t i = 0; i < n * admit->n_groups; i++)
			replay_pool_fini(&admit->pools[s][i]);
		free(admit->pools[s]);
	}
	free(admit->keys);
	memset(admit, 0, sizeof(*admit));
}

/* -------------------------------------------------------------------- keys */

/* Keys of the leading decode blocks that lie in whole hash blocks of the prompt; returns their number. */
static uint64_t make_keys(struct replay_admit *admit, uint32_t request)
{
	const struct replay_request *of = &admit->setup->requests[request];
	const uint64_t *ids = admit->setup->hash_ids + of->first_hash;
	uint64_t tpb = admit->setup->sides[REPLAY_DECODE].tokens_per_block;
	uint64_t whole = of->tokens / TRACE_HASH_TOKENS;
	if (whole > of->n_hashes)
		whole = of->n_hashes;
	uint64_t n = whole * TRACE_HASH_TOKENS / tpb, chained = 0, chain = 0;
	for (uint64_t block = 0; block < n; block++) {
		uint64_t needed = ((block + 1) * tpb - 1) / TRACE_HASH_TOKENS + 1;
		for (; chained < needed; chained++)
			chain = replay_mix(chain + 1, ids[chained]);
		admit->keys[block] = replay_mix(chain, block);
	}
	return n;
}

static bool is_shared(const struct replay_admit *admit, uint32_t group)
{
	enum kvf_group_kind kind = admit->setup->model.kvf.groups[group].kind;
	return kind == KVF_PAGED || kind == KVF_REPLICATED;
}

/* ------------------------------------------------------------------- admit */

/* Takes the leading blocks that the index has into the lists; returns their number. */
static uint64_t use_prefix(struct replay_admit *admit, uint32_t slot, uint32_t group, uint64_t n_keys)
{
	uint32_t cp = admit->setup->sides[REPLAY_DECODE].cp,
		 dp = replay_board_slot(admit->board, slot)->dst_dp;
	uint64_t block = 0;
	for (; block < n_keys && cp > 0; block++) {
		struct replay_pool *pool = pool_of(admit, REPLAY_DECODE, dp, (uint32_t)(block % cp), group);
		struct replay_list *list =
			replay_board_list(admit->board, slot, REPLAY_DECODE, (uint32_t)(block % cp), group);
		int32_t id = replay_pool_use(pool, admit->keys[block]);
		if (id < 0)
			break;
		replay_board_ids(admit->board, slot, list)[block / cp] = id;
		list->reused++;
	}
	return block;
}

/* Shapes the lists of one group; with the reused blocks in use, without the new ones. */
static uint64_t shape_group(struct replay_admit *admit, uint32_t slot, uint32_t group, uint64_t n_keys)
{
	const struct replay_setup *setup = admit->setup;
	const struct replay_side *prefill = &setup->sides[REPLAY_PREFILL],
				 *decode = &setup->sides[REPLAY_DECODE];
	const struct kvf_group_spec *spec = &setup->model.kvf.groups[group];
	uint32_t request = replay_board_slot(admit->board, slot)->request;
	uint64_t tokens = setup->requests[request].tokens;

	struct replay_blocks dst = replay_blocks_of(spec, decode->tokens_per_block, tokens);
	uint32_t step = spec->kind == KVF_STATE ? 1 : decode->cp;
	for (uint32_t cp = 0; cp < decode->cp; cp++) {
		struct replay_list *list = replay_board_list(admit->board, slot, REPLAY_DECODE, cp, group);
		list->first = spec->kind == KVF_STATE ? 0 : replay_cp_first(dst.first, cp, step);
		list->n = spec->kind == KVF_STATE ? 1
		                                  : (uint32_t)replay_cp_count(dst.first, dst.total, cp, step);
		list->reused = 0;
	}
	uint64_t reused = is_shared(admit, group) ? use_prefix(admit, slot, group, n_keys) : 0;

	struct replay_flavour flavour;
	replay_flavour_of(setup, request, &flavour);
	struct replay_blocks src = replay_blocks_of(spec, prefill->tokens_per_block, tokens);
	uint64_t needed = reused * decode->tokens_per_block / prefill->tokens_per_block;
	if (needed < src.first)
		needed = src.first;
	if (needed > src.total)
		needed = src.total;
	struct replay_list *list = replay_board_list(admit->board, slot, REPLAY_PREFILL, 0, group);
	list->first = flavour.source_whole ? src.first : needed;
	list->n = (uint32_t)(src.total - list->first);
	list->reused = (uint32_t)(needed - list->first);
	return reused;
}

struct visited {
	struct replay_pool *pool;
	int32_t *ids;
	uint32_t n;
	uint32_t kept; /* leading ones that are in the index; the rest is the request's alone */
};
typedef void list_visit(const struct visited *list, void *argument);

/* Every list of a slot with its pool. The `reused` ones of the prefill side are new ids, too: nothing is
 * computed into them. */
static void visit_lists(struct replay_admit *admit, uint32_t slot, list_visit *visit, void *argument)
{
	const struct replay_slot *on = replay_board_slot(admit->board, slot);
	for (uint32_t side = 0; side < 2; side++) {
		uint32_t dp = side == REPLAY_PREFILL ? on->src_dp : on->dst_dp;
		for (uint32_t cp = 0; cp < admit->setup->sides[side].cp; cp++) {
			for (uint32_t g = 0; g < admit->n_groups; g++) {
				const struct replay_list *list =
					replay_board_list(admit->board, slot, side, cp, g);
				const struct visited visited = {
					.pool = pool_of(admit, side, dp, cp, g),
					.ids = replay_board_ids(admit->board, slot, list),
					.n = list->n,
					.kept = side == REPLAY_PREFILL ? 0 : list->reused,
				};
				visit(&visited, argument);
			}
		}
	}
}

static void check_room(const struct visited *list, void *argument)
{
	bool *enough = argument;
	*enough = *enough && replay_pool_room(list->pool) >= list->n - list->kept;
}

static void take_new(const struct visited *list, void *argument)
{
	(void)argument;
	replay_pool_take(list->pool, list->n - list->kept, list->ids + list->kept);
}

static void give_new(const struct visited *list, void *argument)
{
	(void)argument;
	for (uint32_t i = list->kept; i < list->n; i++)
		replay_pool_give(list->pool, list->ids[i]);
}

/* From the end, so that the end of a prefix is the first to be evicted. */
static void drop_kept(const struct visited *list, void *argument)
{
	(void)argument;
	for (uint32_t i = list->kept; i > 0; i--)
		replay_pool_unuse(list->pool, list->ids[i - 1]);
}

bool replay_admit_request(struct replay_admit *admit, uint32_t slot, uint32_t request, uint64_t *reused_out)
{
	struct replay_slot *on = replay_board_slot(admit->board, slot);
	on->request = request;
	on->src_dp = request % admit->setup->sides[REPLAY_PREFILL].dp;
	on->dst_dp = request % admit->setup->sides[REPLAY_DECODE].dp;
	on->ticket_bytes = 0;
	/* In chaos every request has blocks of its own: what was released holds the canary. */
	uint64_t n_keys = admit->setup->chaos.on ? 0 : make_keys(admit, request), reused = 0;
	for (uint32_t g = 0; g < admit->n_groups; g++) {
		uint64_t blocks = shape_group(admit, slot, g, n_keys);
		reused = blocks > reused ? blocks : reused;
	}
	bool enough = true;
	visit_lists(admit, slot, check_room, &enough);
	if (!enough) {
		visit_lists(admit, slot, drop_kept, NULL);
		return false;
	}
	visit_lists(admit, slot, take_new, NULL);
	*reused_out = reused * admit->setup->sides[REPLAY_DECODE].tokens_per_block;
	return true;
}

/* ----------------------------------------------------------------- release */

/* The new blocks of a proven request: those with a key go into the index, the others are free. */
static void index_list(
	struct replay_admit *admit, uint32_t slot, uint32_t cp, uint32_t group, uint64_t n_keys)
{
	const struct replay_slot *on = replay_board_slot(admit->board, slot);
	const struct replay_list *list = replay_board_list(admit->board, slot, REPLAY_DECODE, cp, group);
	struct replay_pool *pool = pool_of(admit, REPLAY_DECODE, on->dst_dp, cp, group);
	const int32_t *ids = replay_board_ids(admit->board, slot, list);
	uint32_t step = admit->setup->sides[REPLAY_DECODE].cp;
	for (uint32_t i = list->n; i > list->reused; i--) {
		uint64_t block = list->first + (uint64_t)(i - 1) * step;
		bool keyed = is_shared(admit, group) && block < n_keys;
		if (!keyed || !replay_pool_index(pool, ids[i - 1], admit->keys[block]))
			replay_pool_give(pool, ids[i - 1]);
	}
}

static void give_prefill(struct replay_admit *admit, uint32_t slot)
{
	const struct replay_slot *on = replay_board_slot(admit->board, slot);
	for (uint32_t g = 0; g < admit->n_groups; g++) {
		const struct replay_list *list = replay_board_list(admit->board, slot, REPLAY_PREFILL, 0, g);
		const int32_t *ids = replay_board_ids(admit->board, slot, list);
		for (uint32_t i = 0; i < list->n; i++)
			replay_pool_give(pool_of(admit, REPLAY_PREFILL, on->src_dp, 0, g), ids[i]);
	}
}

void replay_admit_release(struct replay_admit *admit, uint32_t slot, bool good)
{
	if (!good) {
		visit_lists(admit, slot, give_new, NULL);
		visit_lists(admit, slot, drop_kept, NULL);
		return;
	}
	uint64_t n_keys = make_keys(admit, replay_board_slot(admit->board, slot)->request);
	give_prefill(admit, slot);
	for (uint32_t cp = 0; cp < admit->setup->sides[REPLAY_DECODE].cp; cp++) {
		for (uint32_t g = 0; g < admit->n_groups; g++)
			index_list(admit, slot, cp, g, n_keys);
	}
	visit_lists(admit, slot, drop_kept, NULL);
}

uint64_t replay_admit_taken(const struct replay_admit *admit)
{
	uint64_t taken = 0;
	for (uint32_t s = 0; s < 2; s++) {
		size_t n = (size_t)admit->setup->sides[s].dp * admit->setup->sides[s].cp * admit->n_groups;
		for (size_t i = 0; i < n; i++)
			taken += admit->pools[s][i].n_blocks - replay_pool_room(&admit->pools[s][i]);
	}
	return taken;
}

uint64_t replay_admit_expected(const struct replay_admit *admit, uint32_t slot)
{
	const struct replay_setup *setup = admit->setup;
	const struct replay_slot *on = replay_board_slot(admit->board, slot);
	uint64_t tokens = setup->requests[on->request].tokens, bytes = 0;
	for (uint32_t g = 0; g < admit->n_groups; g++) {
		uint64_t reused = 0;
		for (uint32_t cp = 0; cp < setup->sides[REPLAY_DECODE].cp; cp++)
			reused += replay_board_list(admit->board, slot, REPLAY_DECODE, cp, g)->reused;
		for (uint32_t rank = 0; rank < setup->sides[REPLAY_DECODE].n_ranks; rank++) {
			if (replay_takes_part(setup, REPLAY_DECODE, rank, on->src_dp, on->dst_dp))
				bytes += replay_expected_bytes(setup, rank, g, tokens, reused);
		}
	}
	return bytes;
}
