/* messages.h - every control message: one struct each; encoding in codec.h.
 *
 * The header is the same for all. Cold messages (HELLO, HELLO_OK, REFUSE, REQUEST) carry msgpack maps; the others are fixed
 * little-endian frames, and a success and a failure are the same frame. docs/wire.md has the bytes.
 */
#ifndef KVFI_WIRE_MESSAGES_H
#define KVFI_WIRE_MESSAGES_H

#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"
#include "geometry/geometry.h"

#define KVFI_WIRE_MAGIC     UINT32_C(0x3146564b) /* "KVF1", little-endian */
#define KVFI_WIRE_VERSION   1u
#define KVFI_REASON_BYTES   160u
#define KVFI_WIRE_MAX_BYTES (UINT32_C(64) << 20) /* of one message */

enum kvfi_msg_type {
	KVFI_MSG_HELLO = 1,
	KVFI_MSG_HELLO_OK = 2,
	KVFI_MSG_REFUSE = 3,
	KVFI_MSG_REQUEST = 4,
	KVFI_MSG_REQUEST_OK = 5,
	KVFI_MSG_CLAIM = 6,
	KVFI_MSG_GO = 7,
	KVFI_MSG_RESULT = 8,
	KVFI_MSG_ACK = 9,
	KVFI_MSG_CANCEL = 10,
	KVFI_MSG_QUIET = 11,
	KVFI_MSG_PING = 12,
	KVFI_MSG_PONG = 13,
	KVFI_MSG_BYE = 14,
	KVFI_MSG_HOLD = 15,    /* (id, attempt) is still wanted; no body */
	KVFI_MSG_HOLD_OK = 16, /* known: 1 when a tx is open for it */
	KVFI_MSG_GROUP = 17,   /* rank <-> rank of a group: what it says in a round */
	KVFI_MSG_LAST = KVFI_MSG_GROUP
};

struct kvfi_msg_header {
	enum kvfi_msg_type type;
	uint64_t from;        /* sender's incarnation */
	uint64_t to;          /* receiver's incarnation; 0 in the first HELLO */
	uint64_t link;        /* number of the connection, drawn by the side that says HELLO; 0 never */
	uint64_t instance_id; /* prefill instance of the session; 0 where there is no session */
	uint64_t request_id;
	uint32_t attempt;
	uint64_t epoch; /* the receiver's; 0 where there is no session */
};

#define KVFI_MAX_TRANSPORTS 8u
struct kvfi_transport_address {
	char name[16];
	uint32_t len_bytes;
	unsigned char bytes[512];
};

/* HELLO and HELLO_OK. Bases in layout are wire addresses: (region << 48) | offset. */
struct kvfi_msg_hello {
	uint32_t version;
	uint64_t features;
	char name[64];
	struct kvf_instance *instance; /* owned by the message */
	struct kvf_layout *layout;     /* owned by the message; its rank is the sender's */
	uint32_t n_transports;         /* in order of preference */
	struct kvfi_transport_address transports[KVFI_MAX_TRANSPORTS];
};

struct kvfi_msg_refuse {
	enum kvf_status status;
	struct kvf_refusal refusal; /* field "" if it is about none */
	char reason[KVFI_REASON_BYTES];
};

struct kvfi_id_run {
	int32_t start; /* negative: count entries without a page */
	uint32_t count;
};

struct kvfi_request_group {
	uint32_t group, n_ids; /* ids in all */
	uint32_t tokens_per_block;
	uint32_t n_runs;
	struct kvfi_id_run *runs; /* points into the message's one block */
};

struct kvfi_msg_request {
	uint64_t prompt_len;
	/* of the prefill instance that shall serve; KVF_DP_UNKNOWN: an invitation without authority */
	uint32_t dp_index;
	uint32_t dp_rank; /* of the asking decode rank */
	enum kvf_replica replica;
	uint32_t aux_slot;  /* KVF_NO_AUX: none */
	uint32_t aux_bytes; /* size of that slot */
	uint32_t lease_slot, lease_generation;
	uint64_t time_left_ns; /* how long it may wait for its tx; 0 = for ever */
	uint64_t digest;       /* of the pair */
	uint32_t verify;       /* enum kvf_verify */
	uint64_t seal;
	uint32_t n_groups;
	struct kvfi_request_group groups[KVF_MAX_GROUPS];
};

struct kvfi_msg_request_ok { /* also to an invitation */
	uint32_t known;      /* 1: a tx is open for it; 0: parked */
};

struct kvfi_msg_claim {
	uint32_t dp_index;
};

struct kvfi_msg_go {
	uint32_t dp_index;
	uint32_t lease_slot, lease_generation;
	uint64_t seal;
};

#define KVFI_AUX_SLICE UINT32_MAX

enum kvfi_result_kind {
	KVFI_RESULT_KV = 1,
	KVFI_RESULT_AUX = 2
};

struct kvfi_msg_result {
	enum kvfi_result_kind kind;
	uint32_t slice;    /* the sender's; KVFI_AUX_SLICE of aux data, and of nothing else */
	uint32_t rx_slice; /* echo; 0: the receiver posts one */
	uint32_t last;
	enum kvf_status status;
	uint64_t bytes, runs;
	uint64_t sum;            /* of the content: KV if the receiver asked for it, aux always */
	uint64_t dropped_tokens; /* left out because the source has no page */
	uint32_t layer_start, layer_end;
	uint32_t n_ranges;
	struct kvfi_range ranges[KVFI_MAX_RANGES];
	uint32_t aux_bytes;
	const unsigned char *aux;       /* points into the message's block */
	char reason[KVFI_REASON_BYTES]; /* of a failure; "" else */
	uint64_t seal;
};

enum kvfi_verdict {
	KVFI_VERDICT_APPLIED = 0,
	KVFI_VERDICT_FAILED = 1,
	KVFI_VERDICT_UNKNOWN = 2
};

struct kvfi_msg_ack {
	enum kvfi_result_kind kind;
	uint32_t slice;
	enum kvfi_verdict verdict;
	enum kvf_status status;
};

struct kvfi_msg_cancel {
	enum kvf_status status;
	char reason[KVFI_REASON_BYTES];
};

struct kvfi_msg_ping { /* PING and PONG */
	uint64_t sequence;
};

enum kvfi_group_flag {
	KVFI_GROUP_WANTED = 1, /* the sender lacks the receiver's bytes of this round */
	/* the sender takes no part any more: it closes the group (round and bytes are those of its last word), or the receiver has restarted (round 0) */
	KVFI_GROUP_LEAVING = 2
};

struct kvfi_msg_group {
	uint64_t group, round;
	uint32_t rank, members; /* the sender's place, and how many there are */
	uint32_t flags;
	uint32_t len_bytes;
	uint64_t seal;
	const unsigned char *bytes; /* points into the message's block */
};

/* One message. Pointers inside belong to it; free with kvfi_msg_fini. */
struct kvfi_msg {
	struct kvfi_msg_header header;
	union {
		struct kvfi_msg_hello hello; /* HELLO, HELLO_OK */
		struct kvfi_msg_refuse refuse;
		struct kvfi_msg_request request;
		struct kvfi_msg_request_ok request_ok; /* REQUEST_OK, HOLD_OK */
		struct kvfi_msg_claim claim;
		struct kvfi_msg_go go;
		struct kvfi_msg_result result;
		struct kvfi_msg_ack ack;
		struct kvfi_msg_cancel cancel;
		struct kvfi_msg_ping ping;
		struct kvfi_msg_group group;
	} u;
	/* what decode and dup allocated for runs, aux and a group's bytes; NULL if nothing. A message built by hand may point anywhere and leaves it NULL */
	void *block;
};

const char *kvfi_msg_name(enum kvfi_msg_type type);
void kvfi_msg_fini(struct kvfi_msg *msg);
/* REQUEST and GO say where a peer will write, RESULT what has arrived, and nothing else shows whether they came as they were sent: a hash of all that they
 * say but the reason, made by their sender, compared by their receiver. 0 for other messages. */
uint64_t kvfi_msg_seal(const struct kvfi_msg *msg);
/* Of the aux data of a RESULT. */
uint64_t kvfi_msg_aux_sum(const void *aux, uint32_t len_bytes);
/* Deep copy. KVF_ENOMEM. */
KVF_MUST_CHECK enum kvf_status kvfi_msg_dup(const struct kvfi_msg *msg, struct kvfi_msg *copy_out);

#endif
