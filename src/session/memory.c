/* memory.c - what the core remembers of what has ended, so that late and repeated messages are answered right.
 *
 * A record has two 64-bit keys. The memory is a ring: a new record takes the place of the oldest. The owner of an evicted record of asks
 * raises that peer's floor, so that forgetting never turns a stale REQUEST into a fresh one.
 */
#include "session/state.h"

#include <stdlib.h>
#include <string.h>
#include "base/hash.h"
#include "base/status.h"

enum kvf_status memory_init(struct memory *memory, uint32_t max)
{
	uint32_t size = 16;

	while (size < max)
		size *= 2;
	memory->ring = calloc(max, sizeof(struct remembered));
	memory->heads = malloc(size * sizeof(uint32_t));
	if (memory->ring == NULL || memory->heads == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for %u records of ended sessions", max);
	for (uint32_t i = 0; i < size; i++)
		memory->heads[i] = NO_HASH;
	memory->max = max;
	memory->mask = size - 1;
	memory->at = 0;
	return KVF_OK;
}

void memory_fini(struct memory *memory)
{
	free(memory->heads);
	free(memory->ring);
	memory->heads = NULL;
	memory->ring = NULL;
}

static uint32_t *bucket(const struct memory *memory, uint64_t key_a, uint64_t key_b)
{
	return &memory->heads[(uint32_t)kvfi_hash_u64(key_a, key_b) & memory->mask];
}

static struct remembered *find(const struct memory *memory, uint64_t key_a, uint64_t key_b)
{
	uint32_t at = *bucket(memory, key_a, key_b);

	while (at != NO_HASH) {
		struct remembered *record = &memory->ring[at];

		if (record->key_a == key_a && record->key_b == key_b)
			return record;
		at = record->next;
	}
	return NULL;
}

const struct remembered *memory_find(const struct memory *memory, uint64_t key_a, uint64_t key_b)
{
	return find(memory, key_a, key_b);
}

static void unchain(struct memory *memory, struct remembered *record)
{
	uint32_t *at = bucket(memory, record->key_a, record->key_b);

	while (*at != (uint32_t)(record - memory->ring))
		at = &memory->ring[*at].next;
	*at = record->next;
	record->used = false;
}

void memory_forget(struct memory *memory, uint64_t key_a, uint64_t key_b)
{
	struct remembered *record = find(memory, key_a, key_b);

	if (record != NULL)
		unchain(memory, record);
}

static void evict(struct kvfi_core *core, struct memory *memory, struct remembered *record)
{
	unchain(memory, record);
	if (memory == &core->ended_ask && core->peers[record->peer].life == record->key_a &&
		core->peers[record->peer].floor < record->key_b)
		core->peers[record->peer].floor = record->key_b;
}

void memory_put(struct kvfi_core *core, struct memory *memory, const struct remembered *record)
{
	struct remembered *place = find(memory, record->key_a, record->key_b);
	uint32_t *head;

	if (place != NULL) {
		place->status = record->status;
		place->expires_ns = record->expires_ns;
		place->epoch = record->epoch;
		place->life = record->life;
		place->peer = record->peer;
		return;
	}
	place = &memory->ring[memory->at];
	if (place->used)
		evict(core, memory, place);
	*place = *record;
	place->used = true;
	head = bucket(memory, record->key_a, record->key_b);
	place->next = *head;
	*head = memory->at;
	memory->at = (memory->at + 1) % memory->max;
}
