/* session_rig.h - session cores of a small cluster, in virtual time, over a network and transports that misbehave by seed.
 *
 * The cores are the real ones; the rig is their sink. Messages are lost, doubled, delayed and overtake each other; posts land piece by piece under
 * grants, later than anybody is told. The rig checks, after every step: one outcome and one release per session, in that order; no byte stored
 * after RELEASED (the blocks are refilled with a canary then); a completed session has every byte and its aux data.
 *   session_rig.c        time, messages, posts           session_rig_sink.c   what the cores decide
 *   session_rig_world.c  nodes, peers, sessions      session_rig_content.c  bytes
 */
#ifndef KVFT_SESSION_RIG_H
#define KVFT_SESSION_RIG_H

#include "session/core.h"

#define RIG_MAX_NODES    8
#define RIG_MAX_SESSIONS 64
#define RIG_MAX_PEERS    64
#define RIG_MAX_LINKS    256
#define RIG_MAX_POSTS    128
#define RIG_GROUPS       3
#define RIG_MAX_BLOCKS   8 /* of one session and group */
#define RIG_TPB          4u
#define RIG_AUX_BYTES    64u

struct rig_faults {
	uint32_t lose, repeat; /* of 1000 messages */
	uint64_t delay_ns;     /* at most, per message: overtaking */
	bool receiver_applied;
};

/* What a request is, on either side. */
struct rig_ask {
	uint64_t request_id;
	uint32_t attempt;
	uint64_t prompt_len;
	uint32_t dp_index;  /* rx */
	bool aux;           /* rx: a slot is named; tx: it is sent after the last slice */
	uint32_t skip;      /* rx: leading blocks that are there already */
	uint32_t hole;      /* rx: from 1: this block of the paged list has no page */
	uint32_t chunks;    /* tx */
	bool layer_wise;    /* tx: each chunk in two slices, layer 0 first */
	uint32_t drop_page; /* tx: from 1: this block of the paged list has no page */
};

struct rig_ids {
	int32_t ids[RIG_MAX_BLOCKS];
	uint32_t n, first_block;
};

struct rig_session {
	bool open, outcome, released, closed;
	bool advertised, called_off; /* of the word that a cancel compares */
	struct rig_ask ask;
	enum kvf_status status;
	uint32_t slices, ready;
	struct kvf_session_stats stats;
	enum kvf_session_state state;
	uint64_t good_end[KVF_MAX_GROUPS];
	char error[256];
	struct rig_ids groups[RIG_GROUPS];
	struct kvfi_tx_slice tx_slices[16];
	uint32_t n_tx_slices;
};

struct rig_post {
	bool used, cancelled, broken, held;
	uint32_t held_generation; /* it stopped inside that one */
	uint32_t delivery, peer_slot, lease_link, lease_generation, life;
	uint64_t epoch;
	uint32_t slice, inside;
	bool sum;
	const struct kvfi_bound *bound;
	uint64_t bytes, moved; /* canonical bytes stored so far */
};

struct rig_grant {
	bool used, revoked, told, fenced, exited;
	uint32_t generation, inside, peer;
	uint64_t pieces; /* that were stored under it */
	uint64_t epoch, prompt_len;
	const kvf_plan *plan;
	const struct kvfi_ids *dst;
};

struct rig_peer {
	bool used, up, dropping;
	uint32_t node, slot_there, life;
	kvf_plan *plans[2];
	struct kvf_pair pairs[RIG_MAX_NODES * RIG_MAX_NODES];
	struct kvfi_pair_list by_dp[RIG_MAX_NODES];
};

struct rig_node {
	struct rig *rig;
	uint32_t index;
	bool decode;
	uint32_t rank;
	uint32_t life; /* grows when it is started again */
	struct kvfi_core *core;
	struct kvf_layout *layout;
	unsigned char *memory;
	uint64_t memory_bytes;
	unsigned char aux[RIG_MAX_SESSIONS][RIG_AUX_BYTES];
	struct rig_session sessions[RIG_MAX_SESSIONS];
	struct rig_post posts[RIG_MAX_POSTS];
	struct rig_grant grants[RIG_MAX_LINKS];
	struct rig_peer peers[RIG_MAX_PEERS];
	uint32_t n_peers;
};

struct rig_event;

struct rig_setup {
	uint64_t seed;
	struct kvf_parallel prefill, decode;
	struct rig_faults faults;
	bool mixed;                     /* a windowed and a state group beside the paged one */
	struct kvfi_core_config config; /* max_sessions 0: rig_config */
};

struct rig {
	uint64_t seed, random, now_ns, sequence;
	struct rig_faults faults;
	struct kvfi_core_config config;
	const struct kvf_model *model;
	struct kvf_instance *instances[2];
	struct rig_node nodes[RIG_MAX_NODES];
	uint32_t n_nodes, n_prefill;
	struct rig_event *events;
	uint32_t n_events, max_events;
	uint64_t messages;
	uint32_t max_posts;   /* of one node, at once; more are refused */
	bool wrong_sums;      /* posts say another sum than that of their bytes */
	bool hostile;         /* peers say what is not so: what memory holds is not checked */
	bool hold_posts;      /* posts rest where they are, */
	uint64_t hold_after;  /* once they have moved so many bytes */
	uint64_t piece_ns;    /* not 0: time between two pieces */
	uint32_t hold_inside; /* of 1000 pieces: its writer stops inside the lease, with half of it stored */
	bool fences;          /* the transport can fence a writer; else only its exit proves anything */
	uint32_t fenced, dropped; /* how often */
	uint64_t wrong_digest;    /* added to the digests of decode ranks */
	enum kvf_status no_grant; /* not KVF_OK: grants fail so */
	/* NULL, or: lose this one */
	bool (*drop)(struct rig *rig, uint32_t from, uint32_t to, const struct kvfi_msg *msg);
	void *drop_argument;
	/* NULL, or: changes what a peer gets; false: so that the wire refuses it, which costs the connection */
	bool (*change)(struct rig *rig, struct kvfi_msg *copy);
	void *change_argument;
};

struct kvfi_core_config rig_config(void);
void rig_open(struct rig *rig, const struct rig_setup *setup);
void rig_close(struct rig *rig);
uint64_t rig_random(struct rig *rig, uint64_t below);

void rig_connect(struct rig *rig, uint32_t prefill_node, uint32_t decode_node);
void rig_connect_all(struct rig *rig);
void rig_disconnect(struct rig *rig, uint32_t a, uint32_t b, enum kvf_status status);
/* Only `node` sees that `other` is gone; nothing passes any more. */
void rig_lose_peer(struct rig *rig, uint32_t node, uint32_t other, enum kvf_status status);
/* Writers that stopped go on: what they still store lands, unless they were fenced. */
void rig_continue(struct rig *rig, uint32_t node);
/* The process dies and another takes its place: the others are told, nothing of it is left. Connect it anew. */
void rig_restart(struct rig *rig, uint32_t node);
/* The slot under which a node has another one, that is up. */
uint32_t rig_peer_slot(const struct rig *rig, uint32_t node, uint32_t other);

bool rig_is_connected(const struct rig *rig, uint32_t node, uint32_t other);

/* Until nothing is left to do, or until_ns of virtual time. */
void rig_run(struct rig *rig, uint64_t until_ns);
void rig_run_for(struct rig *rig, uint64_t ns);
void rig_step(struct rig *rig, struct rig_node *node, const struct kvfi_input *input);

void rig_tx_open(struct rig *rig, uint32_t node, uint32_t slot, const struct rig_ask *ask);
/* The whole prompt, and the aux data after it if the ask wants them. */
void rig_tx_send(struct rig *rig, uint32_t node, uint32_t slot);
/* Slices [from, to) of those that rig_tx_send makes. */
void rig_tx_send_some(struct rig *rig, uint32_t node, uint32_t slot, uint32_t from, uint32_t to);
void rig_tx_aux(struct rig *rig, uint32_t node, uint32_t slot, uint32_t len_bytes);
void rig_rx_open(struct rig *rig, uint32_t node, uint32_t slot, const struct rig_ask *ask);
/* A ticket of that request is held, for life_ns; 0: not any more. */
void rig_hold(struct rig *rig, uint32_t node, const struct rig_ask *ask, uint64_t life_ns);
void rig_close_session(struct rig *rig, uint32_t node, uint32_t slot);
void rig_close_all_released(struct rig *rig);
/* As kvf_cancel: what was not advertised never will be. rig_call_off alone: the cancel is on its way to the core. */
void rig_call_off(struct rig *rig, uint32_t node, uint32_t slot);
void rig_cancel(struct rig *rig, uint32_t node, uint32_t slot, const char *reason);
void rig_end_all(struct rig *rig, uint32_t node);
/* Everything that was released is still as it was then. */
void rig_check_canaries(struct rig *rig);
/* Every session is closed: no table of this core holds anything, no timer is armed. */
void rig_check_empty(struct rig *rig, uint32_t node);
/* Bytes of block `index` of the paged list are those of the request, on this rank. */
bool rig_block_is_good(struct rig *rig, uint32_t node, uint32_t slot, uint32_t index);

/* Hand a message to a node as if it came from that peer slot, sealed. It must be one that the wire lets pass. */
void rig_inject(struct rig *rig, uint32_t node, uint32_t peer_slot, const struct kvfi_msg *msg);

#endif
