/* replay_blocks.h - the block ids of one group of one rank: a fragmenting allocator and the index of blocks
 * that later requests may reuse.
 *
 * A block is free, or in use by one request, or in the index: there it has a key (what its content is),
 * counts the requests that use it, and is evicted, least recently used first, when nobody does and room is
 * needed. Sized at init; nothing is allocated afterwards.
 */
#ifndef KVFERRY_CLI_REPLAY_BLOCKS_H
#define KVFERRY_CLI_REPLAY_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

struct replay_block {
	uint64_t key;          /* in the index */
	uint32_t users;        /* in the index: requests that use it */
	uint32_t older, newer; /* in the index without users: neighbours by age */
	uint32_t place;        /* in free_ids, or one of the two below */
};
#define REPLAY_BLOCK_USED    UINT32_MAX       /* by one request */
#define REPLAY_BLOCK_INDEXED (UINT32_MAX - 1) /* in the index */

/* Zero-initialise; init, fini. Fields are its own. */
struct replay_pool {
	struct replay_block *blocks;
	uint32_t *free_ids;
	uint32_t *table; /* open addressing: block id, or UINT32_MAX */
	uint32_t n_blocks, n_free;
	uint32_t n_idle; /* in the index without users */
	uint32_t oldest, newest;
	uint32_t table_mask;
	uint64_t random;
	uint64_t run_blocks; /* mean length of runs of consecutive ids */
};

/* False: out of memory; nothing to undo. run_blocks >= 1. */
bool replay_pool_init(struct replay_pool *pool, uint32_t n_blocks, uint64_t run_blocks, uint64_t seed);
void replay_pool_fini(struct replay_pool *pool);

/* Blocks that replay_pool_take could give now. */
uint32_t replay_pool_room(const struct replay_pool *pool);
/* Takes n blocks in scattered runs, evicting as needed. n <= room. */
void replay_pool_take(struct replay_pool *pool, uint32_t n, int32_t *ids_out);
/* Gives back a block that replay_pool_take gave. */
void replay_pool_give(struct replay_pool *pool, int32_t id);

/* The indexed block with this key, now with one user more; -1: none. */
int32_t replay_pool_use(struct replay_pool *pool, uint64_t key);
/* One user less. */
void replay_pool_unuse(struct replay_pool *pool, int32_t id);
/* Puts a taken block into the index, without users. False: the key is there already; the block stays taken. */
bool replay_pool_index(struct replay_pool *pool, int32_t id, uint64_t key);

#endif
