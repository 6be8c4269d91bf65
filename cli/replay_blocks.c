/* replay_blocks.c - block allocator and reuse index of one group of one rank.
 *
 * Guarantees: every operation is O(1) but for the length of a list that is taken; the same calls from the
 * same seed give the same ids. Misuse (giving a free block, counting below zero) ends the program: it would
 * make a replay prove nothing. One thread: the coordinator's. Random picks over a dense array of free ids
 * fragment on purpose: each pick starts a run of consecutive ids whose length is geometric.
 */
#include "cli/replay_blocks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

static void require(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "kvferry: internal error in the block allocator of replay: %s\n", what);
	abort();
}

static uint64_t next_random(struct replay_pool *pool)
{
	uint64_t x = pool->random += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

bool replay_pool_init(struct replay_pool *pool, uint32_t n_blocks, uint64_t run_blocks, uint64_t seed)
{
	uint64_t table = 16;
	while (table < 2ull * n_blocks)
		table *= 2;
	*pool = (struct replay_pool){
		.blocks = calloc(n_blocks ? n_blocks : 1, sizeof(struct replay_block)),
		.free_ids = calloc(n_blocks ? n_blocks : 1, sizeof(uint32_t)),
		.table = malloc(table * sizeof(uint32_t)),
		.n_blocks = n_blocks,
		.n_free = n_blocks,
		.oldest = NONE,
		.newest = NONE,
		.table_mask = (uint32_t)(table - 1),
		.random = seed,
		.run_blocks = run_blocks,
	};
	if (!pool->blocks || !pool->free_ids || !pool->table) {
		replay_pool_fini(pool);
		return false;
	}
	memset(pool->table, 0xff, table * sizeof(uint32_t));
	for (uint32_t i = 0; i < n_blocks; i++)
		pool->free_ids[i] = pool->blocks[i].place = i;
	return true;
}

void replay_pool_fini(struct replay_pool *pool)
{
	free(pool->blocks);
	free(pool->free_ids);
	free(pool->table);
	memset(pool, 0, sizeof(*pool));
}

uint32_t replay_pool_room(const struct replay_pool *pool)
{
	return pool->n_free + pool->n_idle;
}

/* ------------------------------------------------------------- age of idle */

static void idle_unlink(struct replay_pool *pool, uint32_t id)
{
	struct replay_block *block = &pool->blocks[id];
	if (block->older == NONE)
		pool->oldest = block->newer;
	else
		pool->blocks[block->older].newer = block->newer;
	if (block->newer == NONE)
		pool->newest = block->older;
	else
		pool->blocks[block->newer].older = block->older;
	pool->n_idle--;
}

static void idle_append(struct replay_pool *pool, uint32_t id)
{
	struct replay_block *block = &pool->blocks[id];
	block->older = pool->newest;
	block->newer = NONE;
	if (pool->newest == NONE)
		pool->oldest = id;
	else
		pool->blocks[pool->newest].newer = id;
	pool->newest = id;
	pool->n_idle++;
}

/* ------------------------------------------------------------------- table */

static uint32_t home_of(const struct replay_pool *pool, uint64_t key)
{
	return (uint32_t)(key >> 32 ^ key) & pool->table_mask;
}

/* The slot that holds key, or the empty one where it would go. */
static uint32_t find_slot(const struct replay_pool *pool, uint64_t key)
{
	uint32_t slot = home_of(pool, key);
	while (pool->table[slot] != NONE && pool->blocks[pool->table[slot]].key != key)
		slot = (slot + 1) & pool->table_mask;
	return slot;
}

/* Removes by moving later members of the chain back, so that no tombstones pile up. */
static void table_remove(struct replay_pool *pool, uint64_t key)
{
	uint32_t hole = find_slot(pool, key);
	require(pool->table[hole] != NONE, "an indexed block is not in the table");
	for (uint32_t slot = (hole + 1) & pool->table_mask; pool->table[slot] != NONE;
		slot = (slot + 1) & pool->table_mask) {
		uint32_t home = home_of(pool, pool->blocks[pool->table[slot]].key);
		if (((slot - home) & pool->table_mask) < ((slot - hole) & pool->table_mask))
			continue;
		pool->table[hole] = pool->table[slot];
		hole = slot;
	}
	pool->table[hole] = NONE;
}

/* -------------------------------------------------------------- take, give */

static void free_remove(struct replay_pool *pool, uint32_t id)
{
	uint32_t place = pool->blocks[id].place;
	uint32_t moved = pool->free_ids[--pool->n_free];
	pool->free_ids[place] = moved;
	pool->blocks[moved].place = place;
	pool->blocks[id].place = REPLAY_BLOCK_USED;
}

static void free_append(struct replay_pool *pool, uint32_t id)
{
	pool->blocks[id].place = pool->n_free;
	pool->free_ids[pool->n_free++] = id;
}

static bool is_free(const struct replay_pool *pool, uint64_t id)
{
	return id < pool->n_blocks && pool->blocks[id].place < REPLAY_BLOCK_INDEXED;
}

static void evict_oldest(struct replay_pool *pool)
{
	uint32_t id = pool->oldest;
	require(id != NONE, "more blocks taken than there is room for");
	idle_unlink(pool, id);
	table_remove(pool, pool->blocks[id].key);
	free_append(pool, id);
}

/* Geometric with the mean that was asked for, at least 1. */
static uint64_t run_length(struct replay_pool *pool)
{
	uint64_t n = 1;
	while (n < pool->n_blocks && next_random(pool) % pool->run_blocks != 0)
		n++;
	return n;
}

void replay_pool_take(struct replay_pool *pool, uint32_t n, int32_t *ids_out)
{
	while (pool->n_free < n)
		evict_oldest(pool);
	for (uint32_t taken = 0; taken < n;) {
		uint64_t id = pool->free_ids[next_random(pool) % pool->n_free];
		for (uint64_t run = run_length(pool); run > 0 && taken < n && is_free(pool, id);
			run--, id++) {
			free_remove(pool, (uint32_t)id);
			ids_out[taken++] = (int32_t)id;
		}
	}
}

void replay_pool_give(struct replay_pool *pool, int32_t id)
{
	require(id >= 0 && (uint32_t)id < pool->n_blocks, "an id out of range is given back");
	require(pool->blocks[id].place == REPLAY_BLOCK_USED, "a block is given back that was not taken");
	free_append(pool, (uint32_t)id);
}

/* ------------------------------------------------------------------- index */

int32_t replay_pool_use(struct replay_pool *pool, uint64_t key)
{
	uint32_t id = pool->table[find_slot(pool, key)];
	if (id == NONE)
		return -1;
	if (pool->blocks[id].users++ == 0)
		idle_unlink(pool, id);
	return (int32_t)id;
}

void replay_pool_unuse(struct replay_pool *pool, int32_t id)
{
	require(id >= 0 && (uint32_t)id < pool->n_blocks, "an id out of range is no longer used");
	struct replay_block *block = &pool->blocks[id];
	require(block->place == REPLAY_BLOCK_INDEXED && block->users > 0,
		"a block is no longer used that was not");
	if (--block->users == 0)
		idle_append(pool, (uint32_t)id);
}

bool replay_pool_index(struct replay_pool *pool, int32_t id, uint64_t key)
{
	require(id >= 0 && (uint32_t)id < pool->n_blocks, "an id out of range is indexed");
	struct replay_block *block = &pool->blocks[id];
	require(block->place == REPLAY_BLOCK_USED, "a block is indexed that was not taken");
	uint32_t slot = find_slot(pool, key);
	if (pool->table[slot] != NONE)
		return false;
	pool->table[slot] = (uint32_t)id;
	block->key = key;
	block->users = 0;
	block->place = REPLAY_BLOCK_INDEXED;
	idle_append(pool, (uint32_t)id);
	return true;
}
