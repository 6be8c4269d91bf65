/* toy_engine.h - what engine_loop.c needs besides kvferry: memory with contents that can be checked, a pool of blocks, requests and clients. */
#ifndef TOY_ENGINE_H
#define TOY_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <kvferry/guard.h>

#define MAX_RANKS      4u
#define MAX_REQUESTS   256u
#define MAX_BLOCK_LIST 16u

enum fate {
	FATE_GOOD,
	FATE_CANCELLED, /* the client goes away */
	FATE_FORGOTTEN  /* prefill never computes it: only the decode engine's own deadline ends it */
};

struct toy_request {
	uint64_t prompt_len;
	enum fate fate;
	uint32_t dp; /* of the decode instance */
	uint64_t patience_ns;
	_Atomic bool gone;
	_Atomic uint32_t answers;
	_Atomic int status; /* enum kvf_status of the answer */
};

/* The clients, seen by all engines: who asks for what, and who has been answered. */
struct frontend {
	uint32_t n_requests, n_engines;
	struct toy_request requests[MAX_REQUESTS];
	_Atomic uint32_t answered, idle_engines, faults;
	uint64_t give_up_ns;
};

/* Blocks of one rank. A free block is full of canaries: whoever writes to it after its release is found out when it is taken again. */
struct pool {
	const struct kvf_layout *layout;
	int32_t *free_ids; /* stack */
	uint32_t n_free, n_blocks;
	uint64_t taken_hash; /* of all ids that were taken, in order: the same on all ranks of a group */
	uint32_t damaged;    /* free blocks that had changed */
};

uint64_t now_ns(void);
void must(enum kvf_status status, const char *what);
void frontend_init(struct frontend *frontend, uint32_t n_requests, uint32_t n_engines);
bool frontend_done(const struct frontend *frontend);
void frontend_answer(struct frontend *frontend, uint64_t id, enum kvf_status status);
/* True if every client was answered once, and as its fate says. */
bool frontend_check(const struct frontend *frontend);

void pool_init(struct pool *pool, const struct kvf_layout *layout);
void pool_fini(struct pool *pool);
uint32_t pool_blocks_of(const struct pool *pool, uint64_t prompt_len);
/* False: not so many are free. */
bool pool_take(struct pool *pool, uint32_t n, int32_t *ids);
void pool_give(struct pool *pool, uint32_t n, const int32_t *ids);
/* Every block is free, and holds what it was given back with. */
bool pool_is_whole(struct pool *pool);
/* The contents of a prompt follow from the request and the position in it: layer, K or V, head, token. */
void pool_fill(struct pool *pool, uint64_t id, uint64_t prompt_len, const int32_t *ids);
bool pool_holds(const struct pool *pool, uint64_t id, uint64_t prompt_len, const int32_t *ids);

#endif
