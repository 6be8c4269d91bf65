/* session_rig.h - session cores of a small cluster, in virtual time, over a network and transports that misbehave by seed.
 *
 * The cores are the real ones; the rig is their sink. Messages are lost, doubled, delayed and overtake each other; posts land piece by piece under
 * grants, later than anybody is told. The rig checks, after every step: one outcome and one release per session, in that order; no byte stored
 * after RELEASED (the blocks are refilled with a canary then); a completed session has every byte.
 */
#ifndef KVFT_SESSION_RIG_H
#define KVFT_SESSION_RIG_H

#include "session/core.h"

#define RIG_MAX_NODES    8
#define RIG_MAX_SESSIONS 64
#define RIG_MAX_PEERS    64

struct rig_faults {
	uint32_t lose, repeat; /* of 1000 messages */
	uint64_t delay_ns;     /* at most, per message: overtaking */
	bool receiver_applied;
};

struct rig_session {
	bool open, outcome, released, closed;
	uint64_t request_id;
	enum kvf_status status;
	uint32_t slices, ready;
	struct kvf_session_stats stats;
	uint64_t good_end[KVF_MAX_GROUPS];
	char error[256];
	int32_t ids[64];
	uint32_t n_ids;
	uint64_t prompt_len;
	struct kvfi_tx_slice tx_slices[8];
};

struct rig_post {
	bool used, cancelled, broken;
	uint32_t delivery, peer_slot, lease_link, lease_generation;
	uint64_t epoch;
	uint32_t slice, inside;
	const struct kvfi_bound *bound;
	uint64_t bytes, moved; /* canonical bytes stored so far */
};

struct rig_grant {
	bool used, revoked, told;
	uint32_t generation, inside, peer;
	uint64_t epoch;
};

struct rig_node {
	struct rig *rig;
	uint32_t index;
	bool decode;
	uint32_t rank;
	struct kvfi_core *core;
	struct kvf_layout *layout;
	unsigned char *memory;
	uint64_t memory_bytes;
	unsigned char aux[4][64];
	struct rig_session sessions[RIG_MAX_SESSIONS];
	struct rig_post posts[128];
	struct rig_grant grants[256];
	/* peer slots: which node, and is it up */
	struct {
		bool used, up;
		uint32_t node, slot_there;
		kvf_plan *plans[2];
		uint64_t digests[2];
		struct kvf_pair pairs[RIG_MAX_NODES * RIG_MAX_NODES];
		struct kvfi_pair_list by_dp[RIG_MAX_NODES];
	} peers[RIG_MAX_PEERS];
	uint32_t n_peers;
};

struct rig_event;

struct rig {
	uint64_t seed, random, now_ns, sequence;
	struct rig_faults faults;
	struct kvf_instance *instances[2];
	struct rig_node nodes[RIG_MAX_NODES];
	uint32_t n_nodes, n_prefill;
	struct rig_event *events;
	uint32_t n_events, max_events;
	uint64_t messages;
	bool (*drop)(struct rig *rig, uint32_t from, uint32_t to,
		const struct kvfi_msg *msg); /* NULL, or: lose this one */
	void *drop_argument;
};

void rig_open(struct rig *rig, uint64_t seed, const struct kvf_parallel *prefill,
	const struct kvf_parallel *decode, const struct rig_faults *faults);
void rig_open_config(struct rig *rig, uint64_t seed, const struct kvf_parallel *prefill,
	const struct kvf_parallel *decode, const struct rig_faults *faults,
	const struct kvfi_core_config *config);
void rig_close(struct rig *rig);
uint64_t rig_random(struct rig *rig, uint64_t below);
void rig_connect(struct rig *rig, uint32_t prefill_node, uint32_t decode_node);
void rig_connect_all(struct rig *rig);
void rig_disconnect(struct rig *rig, uint32_t a, uint32_t b, enum kvf_status status);
/* Until nothing is left to do, or until_ns of virtual time. */
void rig_run(struct rig *rig, uint64_t until_ns);
void rig_step(struct rig *rig, struct rig_node *node, const struct kvfi_input *input);

#define RIG_TPB    4u
#define RIG_BLOCKS 64u

void rig_tx_open(struct rig *rig, uint32_t node, uint32_t slot, uint64_t request_id, uint64_t prompt_len);
/* The whole prompt in `chunks` token slices; the aux after it if wanted. */
void rig_tx_send(struct rig *rig, uint32_t node, uint32_t slot, uint32_t chunks, bool aux);
void rig_rx_open(struct rig *rig, uint32_t node, uint32_t slot, uint64_t request_id, uint64_t prompt_len,
	uint32_t dp_index, bool aux);
void rig_close_session(struct rig *rig, uint32_t node, uint32_t slot);
/* Everything that was released is still as it was then. */
void rig_check_canaries(struct rig *rig);
void rig_msg_header(const struct rig *rig, struct kvfi_msg *msg, enum kvfi_msg_type type, uint64_t request_id,
	uint64_t epoch);
/* Hand a message to a node as if it came from that peer slot. */
void rig_inject(struct rig *rig, uint32_t node, uint32_t peer_slot, const struct kvfi_msg *msg);

#endif
