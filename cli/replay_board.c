/* replay_board.c - the shared table of requests in flight.
 *
 * Guarantees: fixed size from the start; a slot has room for every list of the longest request. Owned by
 * the coordinator, inherited by the ranks through fork; the memory is anonymous and gone with the last
 * process.
 */
#include "cli/replay_board.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "cli/replay_geometry.h"

uint64_t replay_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static size_t align_up(size_t n)
{
	return (n + 63) & ~(size_t)63;
}

uint64_t replay_list_capacity(const struct replay_setup *setup, uint32_t side, uint32_t group)
{
	const struct kvf_group_spec *spec = &setup->model.kvf.groups[group];
	const struct replay_side *of = &setup->sides[side];
	if (spec->kind == KVF_STATE)
		return 1;
	uint64_t most = (setup->longest_tokens + of->tokens_per_block - 1) / of->tokens_per_block;
	uint64_t window = spec->window_tokens / of->tokens_per_block + 2;
	if (spec->kind == KVF_WINDOW && window < most)
		most = window;
	return (most + of->cp - 1) / of->cp;
}

static size_t list_index(const struct replay_board *board, uint32_t side, uint32_t cp, uint32_t group)
{
	return side == REPLAY_PREFILL ? group : (1 + (size_t)cp) * board->n_groups + group;
}

/* Lays the lists of a slot out behind each other; returns the number of ids. */
static uint64_t place_lists(const struct replay_board *board, const struct replay_setup *setup, uint32_t slot)
{
	uint64_t at = 0;
	for (uint32_t side = 0; side < 2; side++) {
		for (uint32_t cp = 0; cp < setup->sides[side].cp; cp++) {
			for (uint32_t g = 0; g < board->n_groups; g++) {
				if (board->memory)
					replay_board_list(board, slot, side, cp, g)->at = at;
				at += replay_list_capacity(setup, side, g);
			}
		}
	}
	return at;
}

bool replay_board_init(struct replay_board *board, const struct replay_setup *setup, struct reason *why)
{
	memset(board, 0, sizeof(*board));
	board->n_groups = setup->model.kvf.n_groups;
	size_t n_lists = (1 + (size_t)setup->sides[REPLAY_DECODE].cp) * board->n_groups;
	board->lists_at = align_up(sizeof(struct replay_slot));
	board->ids_at = align_up(board->lists_at + n_lists * sizeof(struct replay_list));
	board->slot_bytes = align_up(board->ids_at + place_lists(board, setup, 0) * sizeof(int32_t));
	board->len_bytes = board->slot_bytes * setup->concurrency;

	void *memory =
		mmap(NULL, board->len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return reason_set(why, "cannot map %zu bytes for the requests in flight: %s",
			board->len_bytes, strerror(errno));
	board->memory = memory;
	for (uint32_t slot = 0; slot < setup->concurrency; slot++)
		place_lists(board, setup, slot);
	return true;
}

void replay_board_fini(struct replay_board *board)
{
	if (board->memory)
		munmap(board->memory, board->len_bytes);
	board->memory = NULL;
}

struct replay_slot *replay_board_slot(const struct replay_board *board, uint32_t slot)
{
	return (struct replay_slot *)(void *)(board->memory + slot * board->slot_bytes);
}

struct replay_list *replay_board_list(
	const struct replay_board *board, uint32_t slot, uint32_t side, uint32_t cp, uint32_t group)
{
	uint8_t *lists = board->memory + slot * board->slot_bytes + board->lists_at;
	return (struct replay_list *)(void *)lists + list_index(board, side, cp, group);
}

int32_t *replay_board_ids(const struct replay_board *board, uint32_t slot, const struct replay_list *list)
{
	uint8_t *ids = board->memory + slot * board->slot_bytes + board->ids_at;
	return (int32_t *)(void *)ids + list->at;
}
