/* cluster.h - a prefill and a decode instance of real agents in one process, for tests.
 *
 * Every rank is an agent with its own memory. Content is a function of (request, group, layer, part, head, token, byte), so that what
 * arrived can be checked cell by cell, and what must not change can be told from it. cmocka assertions inside: a failure ends the test.
 */
#ifndef KVFT_CLUSTER_H
#define KVFT_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"

#define CLUSTER_MAX_RANKS 16
#define CLUSTER_UNTOUCHED 0xa5 /* what memory holds where nothing was written */

struct cluster_side {
	struct kvf_parallel parallel;
	struct kvf_layout_options layout;
};

struct cluster_spec {
	struct kvf_model model;
	struct cluster_side prefill, decode;
	const char *control;    /* NULL: inproc */
	const char *transports; /* NULL: loop */
	enum kvf_verify verify;
	bool own_thread;   /* progress threads; else the test drives every agent */
	bool plain_memory; /* kvf_register instead of kvf_alloc */
	uint32_t n_aux, aux_bytes;
	uint64_t connect_timeout_ns, transfer_timeout_ns;        /* 0: defaults */
	uint32_t max_sessions, max_links, max_slices, max_peers; /* 0: defaults */
	uint64_t max_block_ids;                                  /* 0: 65536 */
};

struct cluster_rank {
	kvf_agent *agent;
	struct kvf_layout *layout;
	unsigned char *memory, *aux;
	uint64_t memory_bytes;
	kvf_region region;
	bool plain;
	char endpoint[256];
	/* last events of the session that was opened last */
	kvf_session session;
	bool ready, outcome, released;
	enum kvf_status status;
	/* of all */
	uint32_t slices, peers_up, outcomes, releases;
	enum kvf_status peer_status; /* of the last PEER event that was not OK */
	kvf_peer peer;
};

struct cluster {
	struct cluster_spec spec;
	struct kvf_instance *instances[2];
	struct cluster_rank *ranks[2]; /* prefill, decode */
	uint32_t n[2];
	char directory[64];
};

struct cluster_request {
	uint64_t id;
	uint32_t attempt;
	uint64_t prompt_len;
	uint32_t src_dp, dst_dp;
	bool unknown_dp;
	bool receive_first;
	bool aux;
	enum kvf_replica replica;
	uint32_t chunks;        /* token slices; 0 and 1: one */
	uint32_t layer_slices;  /* inside each chunk; 0 and 1: one */
	uint32_t cached_blocks; /* leading blocks that the decode side has */
};

/* Fails the test with the status and its sentence. */
void cluster_must(enum kvf_status status);
const char *cluster_side_name(int side); /* "prefill", "decode" */
void cluster_open(struct cluster *cluster, const struct cluster_spec *spec);
void cluster_connect(struct cluster *cluster);
void cluster_close(struct cluster *cluster);
/* One turn of every agent; takes events into the ranks. */
void cluster_poll(struct cluster *cluster);
void cluster_poll_rank(struct cluster_rank *rank);
/* The rank's event fields follow this session from here on. */
void cluster_watch(struct cluster *cluster, int side, uint32_t rank, kvf_session session);
/* Polls until done(argument), at most 20 s; fails the test else. */
void cluster_until(
	struct cluster *cluster, bool (*done)(struct cluster *cluster, void *argument), void *argument);

/* Steps of a request, for tests that mix them. Block ids: list(i) of a request are a permutation of the pool by its id. */
void cluster_fill(struct cluster *cluster, const struct cluster_request *request);
void cluster_open_tx(struct cluster *cluster, const struct cluster_request *request);
void cluster_send(struct cluster *cluster, const struct cluster_request *request);
void cluster_open_rx(struct cluster *cluster, const struct cluster_request *request);
bool cluster_all_released(struct cluster *cluster, void *request);
void cluster_close_sessions(struct cluster *cluster, const struct cluster_request *request);
/* Every byte that shall have come has, every other byte of the decode memory is as before. */
void cluster_check(struct cluster *cluster, const struct cluster_request *request);
/* All of it, and every rank completes. */
void cluster_run(struct cluster *cluster, const struct cluster_request *request);

bool cluster_in_prefill(const struct cluster *cluster, uint32_t rank, const struct cluster_request *request);
bool cluster_in_decode(const struct cluster *cluster, uint32_t rank, const struct cluster_request *request);
/* The list of one group of one rank for the whole prompt (leading cached blocks left out on decode); returns its length. */
uint32_t cluster_list(const struct cluster *cluster, int side, uint32_t rank, uint32_t group,
	const struct cluster_request *request, int32_t *ids);

#endif
