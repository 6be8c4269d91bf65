/* solo.h - single agents for tests that break them one by one: another model, another place, another process.
 *
 * A solo is one agent with its memory and every event it told. cmocka assertions inside: a failure ends the test.
 */
#ifndef KVFT_SOLO_H
#define KVFT_SOLO_H

#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"

#define SOLO_MAX_LOG 64

struct solo_spec {
	enum kvf_role role;
	struct kvf_model model;
	struct kvf_parallel parallel;
	uint32_t rank;
	uint64_t instance_id;
	struct kvf_layout_options layout;
	const char *control;                       /* NULL: inproc */
	const char *transports;                    /* NULL: loop */
	const char *listen;                        /* prefill */
	const char *const *endpoints;              /* prefill: of all ranks; NULL: of this one alone */
	void (*tune)(struct kvf_options *options); /* NULL, or changes what is left */
	/* NULL: kvf_agent_open */
	enum kvf_status (*open)(const struct kvf_options *options, kvf_agent **agent_out);
	bool own_thread, plain_memory;
	uint32_t n_aux;
};

struct solo {
	kvf_agent *agent;
	struct kvf_instance *instance;
	struct kvf_layout *layout;
	unsigned char *memory;
	uint64_t memory_bytes;
	kvf_region region;
	bool plain;
	unsigned char aux[4][64];
	char endpoint[256];
	struct kvf_event log[SOLO_MAX_LOG]; /* in the order they came; what was taken is gone */
	uint32_t n_log;
};

/* A directory for unix sockets, until solo_directory_remove, which fails the test when an agent left a file there. */
const char *solo_directory(void);
void solo_directory_remove(void);
/* The same with what killed processes left in it. */
void solo_directory_clear(void);
/* A child uses its parent's. */
void solo_directory_use(const char *path);

/* Where an agent of that name listens: a socket in that directory, or in process. Good for three more calls. */
const char *solo_endpoint(const char *control, const char *name);
/* One paged group of four layers, four heads of 512 bytes; decode and prefill of it fit. */
struct solo_spec solo_spec(enum kvf_role role, const char *control, const char *transports);
void solo_open(struct solo *solo, const struct solo_spec *spec);
/* Everything but the declaration. */
void solo_open_undeclared(struct solo *solo, const struct solo_spec *spec);
void solo_close(struct solo *solo);
/* A prefill agent at "prefill", and a decode agent that is connected to it. */
void solo_open_pair(const char *control, const char *transports, struct solo *prefill, struct solo *decode);
/* And the directory. */
void solo_close_pair(struct solo *prefill, struct solo *decode);
struct kvf_health solo_health(const struct solo *solo);
void solo_poll(struct solo *solo);
/* Polls all until `who` has told an event of that type and session (bits 0: PEER); takes it out of the log. At most 20 s. */
struct kvf_event solo_next(
	struct solo *const *all, uint32_t n, struct solo *who, enum kvf_event_type type, kvf_session session);

/* Blocks first, first+1, ... */
kvf_session solo_tx(struct solo *solo, uint64_t id, uint64_t prompt_len, int32_t first);
kvf_session solo_tx_open(struct solo *solo, uint64_t id, uint64_t prompt_len);
void solo_send(struct solo *solo, kvf_session session, uint64_t start, uint64_t end, uint64_t prompt_len,
	int32_t first);
kvf_session solo_rx(struct solo *solo, uint64_t instance_id, uint64_t id, uint64_t prompt_len, int32_t first);
kvf_session solo_rx_ticket(
	struct solo *solo, const void *ticket, size_t len, uint64_t prompt_len, int32_t first);
/* The outcome of a session, once it is released; closes it. text: NULL, or 256 bytes for why it failed. */
enum kvf_status solo_finish(
	struct solo *const *all, uint32_t n, struct solo *who, kvf_session session, char *text);
/* Connects, and the first PEER event's status; text as above. */
enum kvf_status solo_connect(
	struct solo *const *all, uint32_t n, struct solo *decode, const char *endpoint, char *text);
/* A whole request from rank to rank, every byte compared. */
void solo_move(struct solo *const *all, uint32_t n, struct solo *prefill, struct solo *decode, uint64_t id);

#endif
