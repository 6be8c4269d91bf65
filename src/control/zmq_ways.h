/* zmq_ways.h - the ways of a ZeroMQ channel, and whose garbage was told. Knows no ZeroMQ: sockets are opaque here. */
#ifndef KVFI_CONTROL_ZMQ_WAYS_H
#define KVFI_CONTROL_ZMQ_WAYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "control/control.h"

#define KVFI_ROUTING_ID_MAX_BYTES 255u
#define KVFI_STRANGERS            16u

/* One ZeroMQ socket. */
struct kvfi_line {
	void *handle; /* NULL: none */
	int fd;
	uint32_t way;           /* of a DEALER; KVFI_NO_WAY: the ROUTER */
	struct kvfi_line *next; /* in the queue of fresh ones */
	bool fresh;
};

/* Who a ROUTER says a message is from. */
struct kvfi_routing_id {
	uint64_t hash;
	size_t len_bytes;
	unsigned char bytes[KVFI_ROUTING_ID_MAX_BYTES];
};

enum kvfi_way_kind {
	KVFI_WAY_FREE = 0,
	KVFI_WAY_CONNECTED = 1, /* has a DEALER of its own */
	KVFI_WAY_ACCEPTED = 2   /* goes through the ROUTER, by its routing id */
};

struct kvfi_zmq_way {
	enum kvfi_way_kind kind;
	bool told_garbage;
	struct kvfi_line dealer;
	struct kvfi_routing_id id;
};

struct kvfi_zmq_ways {
	uint32_t max;
	struct kvfi_zmq_way *all;
	bool told_full;
	uint32_t next_stranger;
	uint64_t strangers[KVFI_STRANGERS]; /* hashes of routing ids without a way whose garbage was told */
};

KVF_MUST_CHECK enum kvf_status kvfi_zmq_ways_init(struct kvfi_zmq_ways *ways, uint32_t max);
void kvfi_zmq_ways_fini(struct kvfi_zmq_ways *ways);
/* NULL: no such way, or a free one. */
struct kvfi_zmq_way *kvfi_zmq_ways_at(struct kvfi_zmq_ways *ways, uint32_t number);
uint32_t kvfi_zmq_ways_number(const struct kvfi_zmq_ways *ways, const struct kvfi_zmq_way *way);
/* A free way, zeroed and marked; NULL: none. */
struct kvfi_zmq_way *kvfi_zmq_ways_take(struct kvfi_zmq_ways *ways, enum kvfi_way_kind kind);
void kvfi_zmq_ways_put_back(struct kvfi_zmq_ways *ways, struct kvfi_zmq_way *way);
struct kvfi_zmq_way *kvfi_zmq_ways_find(struct kvfi_zmq_ways *ways, const struct kvfi_routing_id *id);
/* Has garbage of this sender (way NULL: of this routing id) been told?  From now on it has. */
bool kvfi_zmq_ways_told(
	struct kvfi_zmq_ways *ways, struct kvfi_zmq_way *way, const struct kvfi_routing_id *id);

#endif
