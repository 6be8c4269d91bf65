/* core.h - the session core: every decision about requests, as a state machine without I/O.
 *
 * kvfi_core_step takes one input and the time, and hands its decisions to a sink as it takes them. It makes no system call, takes no
 * lock, reads no clock, and allocates nothing after kvfi_core_open. The sink must not call back into the core. One thread: the agent's
 * owner. docs/architecture.md draws the states; the files of this folder split them by direction and event:
 *   core.c    tables, dispatch, time          peer.c     peers come and go
 *   tx.c      sending sessions and posts      request.c  what a REQUEST, CLAIM, CANCEL does to a prefill rank
 *   result.c  RESULTs out, ACKs in            rx.c       receiving sessions, REQUEST, CLAIM, GO
 *   arrival.c RESULTs in, coverage, aux       ending.c   outcome, release and their proofs
 *   memory.c  bounded memory of what has ended
 *   cancel.c  cancel from this side, and what it tells  deadline.c the deadlines of a session
 *   hold.c    requests that are wanted before they are asked for  ids.c  room for the peers' block ids
 *   record.c, record_tap.c, record_read.c  a run in a file, see record.h
 *   ladder.c  quarantine and what is done about it      health.c   what the core knows of its health
 */
#ifndef KVFI_SESSION_CORE_H
#define KVFI_SESSION_CORE_H

#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"
#include "geometry/geometry.h"
#include "wire/messages.h"

#define KVFI_NONE UINT32_MAX

struct kvfi_core_config {
	uint32_t max_peers, max_sessions, max_links, max_deliveries;
	uint64_t max_block_ids; /* of peers' requests */
	enum kvf_verify verify;
	/* 0 = off; as in struct kvf_options */
	uint64_t connect_timeout_ns, queue_timeout_ns, transfer_timeout_ns, stall_timeout_ns,
		quiet_timeout_ns, progress_timeout_ns;
	uint32_t stuck_budget;
};

/* A slice of a sending session: made by the caller, unchanged until the session was released. */
struct kvfi_tx_slice {
	struct kvfi_tx_slice *next; /* the core's */
	struct kvfi_shape shape;
	struct kvfi_ids lists[KVF_MAX_GROUPS];
	uint32_t number;
	bool last;     /* of the session; shape.last only says that its tokens end the prompt */
	uint32_t acks; /* the core's */
};

struct kvfi_pair_list {
	uint32_t n;
	const struct kvf_pair *pairs;
};

/* What the core is told about a peer whose data path works. Pointers stay valid until PEER_DOWN was stepped and every post and grant
 * on it is over. */
struct kvfi_peer_up {
	const struct kvf_instance *instance;
	const struct kvf_layout *layout; /* its own, as it told; for records alone: may be NULL */
	uint32_t rank;
	bool receiver_applied;
	const kvf_plan *plans[2]; /* by enum kvf_replica */
	uint64_t digests[2];
	/* Decode: by DP index of the prefill instance, the pairs that end here. Prefill: by DP index of the decode instance, the pairs that
	 * start here for requests on the own DP index. */
	uint32_t n_dps;
	const struct kvfi_pair_list *by_dp;
};

enum kvfi_input_kind {
	KVFI_IN_TICK = 1,
	KVFI_IN_SELF = 2,
	KVFI_IN_TX_OPEN = 3,
	KVFI_IN_TX_SEND = 4,
	KVFI_IN_TX_AUX = 5,
	KVFI_IN_RX_OPEN = 6,
	KVFI_IN_SESSION_CLOSE = 7,
	KVFI_IN_PEER_UP = 8,
	KVFI_IN_PEER_DOWN = 9,
	KVFI_IN_MESSAGE = 10,
	KVFI_IN_TX_DONE = 11,
	KVFI_IN_RX_DONE = 12,
	KVFI_IN_SUMMED = 13,
	KVFI_IN_PROOF = 14,
	KVFI_IN_END_ALL = 15,
	KVFI_IN_CANCEL = 16,
	KVFI_IN_HOLD = 17
};

struct kvfi_in_self { /* once, before any session */
	const struct kvf_instance *instance;
	const struct kvf_layout *layout;
	uint32_t rank;
};

struct kvfi_in_tx_open {
	uint64_t request_id;
	uint32_t attempt;
	uint64_t prompt_len;
	uint64_t expires_ns; /* from now */
};

struct kvfi_in_rx_open {
	uint64_t instance_id, request_id;
	uint32_t attempt, dp_index;
	uint64_t prompt_len;
	uint32_t aux_slot;
	enum kvf_replica replica;
	struct kvfi_ids lists[KVF_MAX_GROUPS]; /* the caller's until the session was closed */
};

struct kvfi_in_aux {
	const unsigned char *data; /* the caller's until the session was released */
	uint32_t len_bytes;
};

struct kvfi_in_peer_down {
	enum kvf_status status;
	uint64_t instance_id; /* 0: not known */
	uint32_t rank;        /* KVFI_NONE: not known */
	bool again;           /* it is tried again, and whoever waits for it goes on waiting */
	const char *reason;
};

/* TX_DONE, RX_DONE: what a transport says about a post or a slice under a grant. */
struct kvfi_in_done {
	uint32_t id; /* delivery, or link */
	uint64_t
		epoch; /* RX: of the grant: a word that comes after the link was given to another session names another one */
	enum kvf_status status;
	uint32_t slice; /* RX */
	uint64_t bytes, runs, sum;
	uint64_t first_ns, last_ns;
	uint64_t ranges_hash; /* RX: of layer range and ranges as the stream named them */
	const char *reason;
};

/* CANCEL: from this side's user. */
struct kvfi_in_cancel {
	enum kvf_status status; /* KVF_CANCELLED */
	const char *reason;     /* at most 255 bytes; not kept */
};

struct kvfi_in_hold {
	uint64_t instance_id, request_id;
	uint32_t attempt, dp_index;
	uint64_t expires_ns; /* from now; 0: no longer wanted */
};

/* The transport has a proof that a revoked grant is quiet. */
struct kvfi_in_proof {
	uint32_t link;
	enum kvf_proof proof;
};

struct kvfi_input {
	enum kvfi_input_kind kind;
	uint32_t session; /* slot: TX_*, RX_OPEN, SESSION_CLOSE */
	uint32_t peer;    /* slot: PEER_*, MESSAGE */
	union {
		struct kvfi_in_self self;
		struct kvfi_in_tx_open tx_open;
		struct kvfi_tx_slice *slice;
		struct kvfi_in_aux aux;
		struct kvfi_in_rx_open rx_open;
		struct kvfi_peer_up peer_up;
		struct kvfi_in_peer_down peer_down;
		const struct kvfi_msg *msg;
		struct kvfi_in_done done;
		struct {
			uint32_t link;
			uint64_t sum;
		} summed;
		struct kvfi_in_proof proof;
		struct kvfi_in_cancel cancel;
		struct kvfi_in_hold hold;
		enum kvf_status end_status;
	} u;
};

struct kvfi_core_post {
	uint32_t delivery; /* comes back in TX_DONE */
	uint32_t peer;
	uint64_t request_id;
	uint32_t attempt;
	uint64_t epoch;
	uint32_t slice;
	uint32_t lease_slot, lease_generation;
	bool sum;
	const struct kvfi_bound *bound; /* until TX_DONE */
};

struct kvfi_core_grant {
	uint32_t link; /* comes back in RX_DONE, QUIET */
	uint32_t peer;
	uint64_t request_id;
	uint32_t attempt;
	uint64_t epoch;
	uint64_t prompt_len;
	const kvf_plan *plan;
	const struct kvfi_ids *dst; /* until release */
	bool sum;
};

struct kvfi_core_event {
	enum kvf_event_type type;
	enum kvf_status status;
	uint32_t session;
	uint32_t slice;
	enum kvf_session_state state;
	const struct kvf_session_stats *stats;
	const char *error;
	uint64_t good_end
		[KVF_MAX_GROUPS]; /* OUTCOME of a failed rx: tokens below it are complete, from every peer */
};

/* What the core decides. Every function is called from inside kvfi_core_step and must not call the core. */
struct kvfi_sink {
	void *self;
	/* To that peer; header.from, to and link are the sink's to fill. May be lost. */
	void (*send)(void *self, uint32_t peer, struct kvfi_msg *msg);
	/* TX_DONE follows exactly once after KVF_OK. Else nothing was started. */
	enum kvf_status (*post)(void *self, const struct kvfi_core_post *post);
	void (*post_cancel)(void *self, uint32_t delivery, uint32_t peer);
	enum kvf_status (*grant)(void *self, const struct kvfi_core_grant *grant, uint32_t *lease_slot_out,
		uint32_t *lease_generation_out);
	/* No more stores under it; PROOF follows when none is in flight, however late. */
	void (*revoke)(void *self, uint32_t link, uint32_t peer);
	void (*release)(void *self, uint32_t link, uint32_t peer);
	/* One-sided paths: sum what has arrived; SUMMED follows. The bound stays valid until then. */
	void (*sum)(void *self, uint32_t link, const struct kvfi_bound *bound);
	void (*store_aux)(void *self, uint32_t aux_slot, const void *data, uint32_t len_bytes);
	void (*event)(void *self, const struct kvfi_core_event *event);
	void (*state)(void *self, uint32_t session, enum kvf_session_state state);
	/* The time for statistics of one step's own work; no decision depends on it. */
	uint64_t (*stamp)(void *self);
	/* QUEUED -> ADVERTISED in the word that kvf_cancel reads; asked before the first permission or byte of a session leaves. False: cancelled first;
	 * nothing may leave, and CANCEL is on its way here. */
	bool (*advertise)(void *self, uint32_t session);
	/* Numbers that change while bytes of this post, or under this grant, move. */
	uint64_t (*post_moved)(void *self, uint32_t delivery, uint32_t peer);
	uint64_t (*grant_moved)(void *self, uint32_t link, uint32_t peer);
	/* The ladder's steps; done after this core step. Fence: PROOF may follow. Drop: connections are closed, the link is barred, PEER_DOWN follows. */
	void (*fence)(void *self, uint32_t peer);
	void (*drop)(void *self, uint32_t peer, const char *reason);
};

/* What was dropped, for logs and metrics. */
struct kvfi_core_counters {
	uint64_t stale_epochs, stale_peers, unknown_requests, unknown_results, duplicate_results,
		unexpected_messages, parked, parked_full;
};

/* What the tables hold now. id_extents: free pieces of the room for block ids; 1 when none is taken. */
struct kvfi_core_usage {
	uint32_t sessions, links, deliveries, arrivals, timers, ready, hashed, id_extents;
	uint64_t block_ids;
};

struct kvfi_core;
KVF_MUST_CHECK enum kvf_status kvfi_core_open(
	const struct kvfi_core_config *config, const struct kvfi_sink *sink, struct kvfi_core **core_out);
void kvfi_core_close(struct kvfi_core *core);
void kvfi_core_step(struct kvfi_core *core, const struct kvfi_input *input, uint64_t now_ns);
/* No link names that peer slot any more: the slot may be used for another peer. */
bool kvfi_core_peer_free(const struct kvfi_core *core, uint32_t peer);
/* When it wants a TICK at the latest; KVFI_NEVER if nothing waits for time. */
uint64_t kvfi_core_next_ns(const struct kvfi_core *core);
const struct kvfi_core_counters *kvfi_core_counters(const struct kvfi_core *core);
/* What kvf_health tells; constant work. */
void kvfi_core_health(const struct kvfi_core *core, uint64_t now_ns, struct kvf_health *health_out);
/* Linear in the tables. */
void kvfi_core_usage(const struct kvfi_core *core, struct kvfi_core_usage *usage_out);
/* Hash of what a slice names, for comparing a data stream's header with its RESULT. */
uint64_t kvfi_ranges_hash(
	uint32_t layer_start, uint32_t layer_end, const struct kvfi_range *ranges, uint32_t n_ranges);

#endif
