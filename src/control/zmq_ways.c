/* zmq_ways.c - the table behind zmq.c: way numbers, routing ids, and what was told already.
 *
 * Sized at open; nothing here allocates later. Garbage is told once per sender: a way remembers it for itself, for
 * senders that never said anything readable the last few are remembered. Owner thread alone.
 */
#include "control/zmq_ways.h"

#include <stdlib.h>
#include <string.h>
#include "base/status.h"

enum kvf_status kvfi_zmq_ways_init(struct kvfi_zmq_ways *ways, uint32_t max)
{
	memset(ways, 0, sizeof(*ways));
	ways->all = calloc(max, sizeof(*ways->all));
	if (ways->all == NULL)
		return kvfi_fail(KVF_ENOMEM, "opening a control channel with %u ways", max);
	ways->max = max;
	return KVF_OK;
}

void kvfi_zmq_ways_fini(struct kvfi_zmq_ways *ways)
{
	free(ways->all);
	ways->all = NULL;
	ways->max = 0;
}

struct kvfi_zmq_way *kvfi_zmq_ways_at(struct kvfi_zmq_ways *ways, uint32_t number)
{
	if (number >= ways->max || ways->all[number].kind == KVFI_WAY_FREE)
		return NULL;
	return &ways->all[number];
}

uint32_t kvfi_zmq_ways_number(const struct kvfi_zmq_ways *ways, const struct kvfi_zmq_way *way)
{
	return (uint32_t)(way - ways->all);
}

struct kvfi_zmq_way *kvfi_zmq_ways_take(struct kvfi_zmq_ways *ways, enum kvfi_way_kind kind)
{
	for (uint32_t i = 0; i < ways->max; i++) {
		struct kvfi_zmq_way *way = &ways->all[i];

		if (way->kind != KVFI_WAY_FREE)
			continue;
		memset(way, 0, sizeof(*way));
		way->kind = kind;
		way->dealer.way = i;
		return way;
	}
	return NULL;
}

void kvfi_zmq_ways_put_back(struct kvfi_zmq_ways *ways, struct kvfi_zmq_way *way)
{
	way->kind = KVFI_WAY_FREE;
	ways->told_full = false;
}

struct kvfi_zmq_way *kvfi_zmq_ways_find(struct kvfi_zmq_ways *ways, const struct kvfi_routing_id *id)
{
	for (uint32_t i = 0; i < ways->max; i++) {
		struct kvfi_zmq_way *way = &ways->all[i];

		if (way->kind == KVFI_WAY_ACCEPTED && way->id.hash == id->hash &&
			way->id.len_bytes == id->len_bytes &&
			memcmp(way->id.bytes, id->bytes, id->len_bytes) == 0)
			return way;
	}
	return NULL;
}

bool kvfi_zmq_ways_told(
	struct kvfi_zmq_ways *ways, struct kvfi_zmq_way *way, const struct kvfi_routing_id *id)
{
	if (way != NULL) {
		const bool told = way->told_garbage;

		way->told_garbage = true;
		return told;
	}
	for (uint32_t i = 0; i < KVFI_STRANGERS; i++) {
		if (ways->strangers[i] == id->hash)
			return true;
	}
	ways->strangers[ways->next_stranger++ % KVFI_STRANGERS] = id->hash;
	return false;
}
