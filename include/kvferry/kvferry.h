/* kvferry.h - move the KV cache of a request from prefill ranks to decode ranks.
 *
 * The whole stable API. C99 and C++ clean. Words (agent, peer, instance, layout, plan, slice, tx, rx, aux,
 * ticket, epoch, outcome, release) mean what docs/architecture.md says.
 *
 * Threads: calls marked "any" may come from any thread. All others come from the thread that polls.
 * Calls are not callbacks' business: the library never calls user code.
 * Every function that returns enum kvf_status returns KVF_OK (0) or a negative status, writes its outputs
 * only on success, and leaves a sentence with the field and the values in kvf_error().
 */
#ifndef KVFERRY_KVFERRY_H
#define KVFERRY_KVFERRY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KVF_API        __attribute__((visibility("default")))
#define KVF_MUST_CHECK __attribute__((warn_unused_result))
#else
#define KVF_API
#define KVF_MUST_CHECK
#endif

#define KVF_VERSION "0.1.0"

/* ------------------------------------------------------------------ status */

enum kvf_status {
#define KVF_STATUS(name, number, scope, text) KVF_##name = (number),
#include "kvferry/status.def"
#undef KVF_STATUS
};

/* What is broken: the call, the session, the peer, or the agent. */
enum kvf_scope {
	KVF_SCOPE_OP = 0,
	KVF_SCOPE_SESSION,
	KVF_SCOPE_PEER,
	KVF_SCOPE_AGENT
};

KVF_API const char *kvf_status_name(enum kvf_status status); /* "EINVAL"; "UNKNOWN" if none. Any thread. */
KVF_API const char *kvf_status_text(enum kvf_status status); /* one sentence. Any thread. */
KVF_API enum kvf_scope kvf_status_scope(enum kvf_status status);
/* The sentence that belongs to the last failed call of this thread; "" if none. Any thread. */
KVF_API const char *kvf_error(void);
/* KVF_VERSION of the library that is linked, which may be newer than this header. Any thread. */
KVF_API const char *kvf_version(void);
/* Optional parts that are built in: "zmq msgpack" or "". Any thread. */
KVF_API const char *kvf_features(void);

/* ----------------------------------------------------------------- handles */

typedef struct kvf_agent kvf_agent;
/* Values: slot and generation. 0 is never a handle. A stale one gives KVF_ESTALE. */
typedef struct kvf_session {
	uint64_t bits;
} kvf_session;
typedef struct kvf_peer {
	uint64_t bits;
} kvf_peer;
typedef struct kvf_region {
	uint64_t bits;
} kvf_region;

/* ---------------------------------------------------------------- geometry */

#define KVF_MAX_GROUPS    8u
#define KVF_MAX_PARTS     8u    /* K and V; or the sections of a state group */
#define KVF_MAX_LAYERS    1024u /* global layer ids are below this */
#define KVF_MAX_RANKS     4096u /* of one instance */
#define KVF_MAX_TOKENS    (UINT64_C(1) << 32)
#define KVF_MAX_AUX_BYTES 65536u
#define KVF_DP_UNKNOWN    UINT32_MAX
#define KVF_NO_AUX        UINT32_MAX

enum kvf_role {
	KVF_PREFILL = 1, /* sends */
	KVF_DECODE = 2   /* receives */
};

enum kvf_dtype {
	KVF_FP32 = 1,
	KVF_FP16 = 2,
	KVF_BF16 = 3,
	KVF_FP8 = 4,
	KVF_INT8 = 5,
	KVF_INT4 = 6 /* sub-byte: rows must be cut on byte boundaries */
};
KVF_API uint32_t kvf_dtype_bits(enum kvf_dtype dtype); /* 0 if unknown */
KVF_API const char *kvf_dtype_name(enum kvf_dtype dtype);

enum kvf_group_kind {
	KVF_PAGED = 1,     /* blocks of tokens; heads split over the attention group */
	KVF_WINDOW = 2,    /* as paged; only the last window_tokens are kept */
	KVF_STATE = 3,     /* one slot per request, no tokens; parts are sections, heads are units */
	KVF_REPLICATED = 4 /* as paged; every rank of the attention group holds all heads */
};

/* One part (K, V, the MLA latent, a state section) of the whole model. */
struct kvf_part_spec {
	uint32_t heads;     /* KV heads in all (MLA: 1); state: units of the section in all */
	uint64_t row_bytes; /* one (layer, head, token) row; state: one unit */
};

/* A layer group of the whole model. Groups of two sides correspond by their index in the model. */
struct kvf_group_spec {
	enum kvf_group_kind kind;
	enum kvf_dtype dtype;
	uint32_t window_tokens; /* KVF_WINDOW only; else 0 */
	uint32_t n_layers;
	const uint32_t *layers; /* global ids, strictly ascending */
	uint32_t n_parts;
	struct kvf_part_spec parts[KVF_MAX_PARTS];
};

struct kvf_model {
	const char *name;
	const char *revision; /* "" if none */
	uint32_t n_groups;
	const struct kvf_group_spec *groups;
};

/* How an instance splits a model over its ranks. */
struct kvf_parallel {
	uint32_t tp, pp, cp; /* >= 1; tensor, pipeline, context parallel. cp > 1: decode only */
	uint32_t dp;         /* attention-DP groups; 1 = none; divides tp */
	/* pp entries that sum to the model's layers; NULL: first L mod pp get one more */
	const uint32_t *stages;
	const char *rank_order; /* slowest first; NULL = "pp:cp:tp" */
};

/* What one rank holds of one group. Heads are per part (K and V hold the same; sections differ). */
struct kvf_rank_group {
	uint32_t n_layers;
	const uint32_t *layers; /* global ids, strictly ascending */
	uint32_t head_start[KVF_MAX_PARTS];
	uint32_t head_count[KVF_MAX_PARTS];
};

struct kvf_rank {
	uint32_t tp, pp, cp;                 /* coordinates */
	const char *endpoint;                /* control endpoint; "" if it never listens */
	const struct kvf_rank_group *groups; /* n_groups of the instance */
};

/* The instance map: who holds which layers and heads, and where to reach them. */
struct kvf_instance {
	uint64_t id; /* chosen by the engine; the same on all its ranks */
	enum kvf_role role;
	uint32_t tp, pp, cp, dp;
	uint32_t n_groups;
	uint32_t n_ranks; /* tp * pp * cp */
	const struct kvf_rank *ranks;
};

/* kvf_instance_new - the instance map that the default split of mapping gives: heads of r among G are
 * [floor(r*N/G), floor((r+1)*N/G)), or the one head floor(r*N/G) when N < G; layers by stages.
 * Endpoints are "". Errors: KVF_EINVAL names the field. Free with kvf_instance_free. Threads: any.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_instance_new(const struct kvf_model *model,
	const struct kvf_parallel *parallel, enum kvf_role role, uint64_t id,
	struct kvf_instance **instance_out);
/* Where a rank of an instance made by kvf_instance_new listens; copied. Threads: any, one at a time per instance. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_instance_set_endpoint(
	struct kvf_instance *instance, uint32_t rank, const char *endpoint);
KVF_API void kvf_instance_free(struct kvf_instance *instance);

/* Memory of one part of one group on one rank.
 * address(block, layer, part, head, token) = base[layer][part] + block*block_stride + head*head_stride + token*token_stride,
 * head counted from head_start. State: block is the slot, token is 0.
 */
struct kvf_part {
	uint32_t heads;      /* in the whole model */
	uint32_t head_start; /* first global head held */
	uint32_t head_count; /* heads held */
	uint64_t row_bytes;
	uint64_t block_stride, head_stride, token_stride; /* bytes */
};

struct kvf_group {
	enum kvf_group_kind kind;
	enum kvf_dtype dtype;
	uint32_t tokens_per_block; /* state: 1 */
	uint32_t window_tokens;
	uint32_t blocks; /* valid block (slot) ids are 0 .. blocks-1 */
	uint32_t n_layers;
	const uint32_t *layers; /* global ids held, strictly ascending; may be 0 layers */
	uint32_t n_parts;
	struct kvf_part parts[KVF_MAX_PARTS];
	/* [layer][part], n_layers*n_parts addresses. For an agent: real addresses in registered regions */
	const uint64_t *bases;
};

struct kvf_layout {
	const char *model;
	const char *revision;
	uint32_t rank; /* in its instance */
	uint32_t n_groups;
	const struct kvf_group *groups;
	uint32_t n_aux;            /* aux slots of a decode rank; 0 on prefill */
	const uint32_t *aux_bytes; /* size of each slot, <= KVF_MAX_AUX_BYTES */
	const uint64_t *aux_bases; /* address of each slot */
};

/* The three common memory orders, of one pool per rank. */
enum kvf_memory_order {
	KVF_BLOCK_MAJOR = 1, /* [block][layer][part][head][token][dim], one pool per group (TensorRT-LLM) */
	KVF_LAYER_HND = 2,   /* per layer and part [block][head][token][dim] (vLLM) */
	KVF_LAYER_NHD = 3    /* per layer and part [block][token][head][dim] (SGLang) */
};

struct kvf_layout_options {
	enum kvf_memory_order order;
	uint32_t tokens_per_block;
	uint32_t blocks;      /* per paged, window and replicated group */
	uint32_t state_slots; /* per state group */
};

/* kvf_layout_new - the layout of one rank in one of the common orders; groups follow each other, 4096-aligned,
 * from address 0. pool_bytes_out: what it spans. Shift it to real memory with kvf_layout_move. Threads: any.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_layout_new(const struct kvf_model *model,
	const struct kvf_instance *instance, uint32_t rank, const struct kvf_layout_options *options,
	struct kvf_layout **layout_out, uint64_t *pool_bytes_out);
/* Adds delta (modulo 2^64) to every base of a layout made by kvf_layout_new. */
KVF_API void kvf_layout_move(struct kvf_layout *layout, uint64_t delta);
/* Gives a layout made by kvf_layout_new n_aux aux slots of aux_bytes each at base, base+aux_bytes, ... */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_layout_set_aux(
	struct kvf_layout *layout, uint32_t n_aux, uint32_t aux_bytes, uint64_t base);
/* layout may be NULL. */
KVF_API void kvf_layout_free(struct kvf_layout *layout);
/* Refuses a layout whose cells overlap or whose fields make no sense; kvf_error() says which. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_layout_check(const struct kvf_layout *layout);

/* -------------------------------------------------------------------- plan */

/* Why two sides cannot work together: a field and its two values, ready to print. */
struct kvf_refusal {
	char field[64];
	char prefill[96];
	char decode[96];
};

/* KVF_OK, or KVF_INCOMPATIBLE with refusal_out filled (may be NULL). Compares layouts of two ranks. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_layout_compatible(
	const struct kvf_layout *prefill, const struct kvf_layout *decode, struct kvf_refusal *refusal_out);

/* kvf_pair_compatible - as kvf_layout_compatible, with the rules that need the instance maps: under CP (decode
 * side) tokens_per_block must be equal. kvf_plan_new checks the same. Threads: any.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_pair_compatible(const struct kvf_instance *prefill,
	const struct kvf_layout *src, const struct kvf_instance *decode, const struct kvf_layout *dst,
	struct kvf_refusal *refusal_out);

enum kvf_replica {
	KVF_REPLICA_ELECT = 0, /* one owner per destination and cell */
	KVF_REPLICA_STRIPE = 1 /* the candidates share the layers */
};

/* One paired (source, destination). */
struct kvf_pair {
	uint32_t src, dst;
	uint8_t kv;  /* it owes KV bytes for some request */
	uint8_t aux; /* it sends the aux data */
};

/* kvf_pairs - who talks to whom for a request on data-parallel index src_dp of the prefill instance.
 * Sorted by (src, dst), paired ranks that owe nothing included. Writes at most max; n_out is the full number.
 * dst_dp: KVF_DP_UNKNOWN for all decode ranks, else only that attention group. Threads: any.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_pairs(const struct kvf_instance *prefill,
	const struct kvf_instance *decode, uint32_t src_dp, uint32_t dst_dp, struct kvf_pair *pairs,
	uint32_t max, uint32_t *n_out);

/* kvf_unmatched_layers - global ids of a group's layers that `instance` holds and `other` does not (speculative layers);
 * they do not move, which is no error. Ascending; at most max are written; returns the full number. Threads: any.
 */
KVF_API uint32_t kvf_unmatched_layers(const struct kvf_instance *instance, const struct kvf_instance *other,
	uint32_t group, uint32_t *layers, uint32_t max);

struct kvf_loop {
	uint64_t count;
	int64_t src_stride, dst_stride; /* bytes */
};

/* A nest of strided loops inside one destination block (the block loop, indirect through the two id lists, is outside).
 * Offsets are from address 0 of each layout with block 0; loops run slowest first; an axis that merged into the run
 * is no loop. With unequal tokens_per_block the first destination block is cut at the source's blocks: one nest per
 * distinct length of the pieces (at most two), src_offset counted inside the source block that holds the piece.
 */
struct kvf_nest {
	uint32_t group;
	uint32_t part_first, n_parts;
	uint32_t layer_first, n_layers; /* indices into kvf_plan_layers of that group */
	uint32_t head_start, head_end;  /* global, half-open */
	uint64_t run_bytes;
	uint64_t src_offset, dst_offset;
	uint32_t n_loops;
	struct kvf_loop loops[5];
};

typedef struct kvf_plan kvf_plan; /* immutable; any thread may read it */

/* kvf_plan_new - what one prefill rank must write into one decode rank. Independent of tokens and block ids.
 * KVF_INCOMPATIBLE when the layouts do not fit. Errors leave kvf_error(). Threads: any.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_plan_new(const struct kvf_instance *prefill,
	const struct kvf_layout *src, const struct kvf_instance *decode, const struct kvf_layout *dst,
	enum kvf_replica replica, kvf_plan **plan_out);
/* plan may be NULL; nobody may still read it. */
KVF_API void kvf_plan_free(kvf_plan *plan);
/* Equal on both sides when they computed the same plan; what a request carries to prove it. */
KVF_API uint64_t kvf_plan_digest(const kvf_plan *plan);
/* The nests, and how many; they live as long as the plan. */
KVF_API uint32_t kvf_plan_nests(const kvf_plan *plan, const struct kvf_nest **nests_out);
/* Global ids of the layers of a group that this pair moves, ascending. */
KVF_API uint32_t kvf_plan_layers(const kvf_plan *plan, uint32_t group, const uint32_t **layers_out);

struct kvf_plan_totals {
	uint64_t bytes, runs; /* whole blocks; runs assumes no adjacent block ids */
	uint64_t run_bytes_min, run_bytes_max;
};
/* For a request of prompt_tokens, nothing cached, full lists on both sides. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_plan_totals(
	const kvf_plan *plan, uint64_t prompt_tokens, struct kvf_plan_totals *totals_out);

struct kvf_run {
	uint32_t group, layer, part;     /* of its first byte; layer: global id */
	uint64_t src_offset, dst_offset; /* from the layout's address 0, source and destination block 0 */
	uint64_t len_bytes;
};
/* The runs of the first destination block of every group, in nest order. At most max written; n_out is the full number. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_plan_block0_runs(
	const kvf_plan *plan, struct kvf_run *runs, uint64_t max, uint64_t *n_out);

/* ------------------------------------------------------------------- agent */

enum kvf_verify {
	KVF_VERIFY_NONE = 0,
	/* position-keyed 64-bit sums, computed on both sides, compared per (peer, slice) */
	KVF_VERIFY_SUM = 1
};

struct kvf_options {
	uint32_t struct_bytes; /* set by kvf_options_init */
	const char *name;      /* in logs; NULL = "agent" */
	const char *control;   /* "zmq" or "inproc"; NULL = zmq when built in */
	/* control endpoint, "ipc:///path", "tcp://127.0.0.1:0", "inproc://name"; NULL: does not listen */
	const char *listen;
	/* "auto", or a comma list of loop, shm, tcp in order of preference; NULL = auto */
	const char *transports;
	const char *data_listen; /* numeric address:port of the tcp transport; NULL = "127.0.0.1:0" */
	/* for unix sockets, mode 0700; NULL: $XDG_RUNTIME_DIR/kvferry or /tmp/kvferry-UID */
	const char *runtime_dir;
	uint32_t progress_thread; /* 1 (default): the agent has its own; 0: kvf_poll and kvf_wait drive it */
	uint32_t workers;         /* copy workers, 1..64; default 2 */
	uint32_t max_peers;       /* default 64 */
	uint32_t max_sessions;    /* default 1024 */
	uint32_t max_links;       /* (session, peer) pairs alive; default 4096 */
	uint32_t max_slices;      /* slices of all sessions; default 8192 */
	uint64_t max_block_ids;   /* block ids of all sessions, both own and the peers'; default 4 Mi */
	uint32_t max_regions;     /* default 64 */
	enum kvf_verify verify;
	uint64_t connect_timeout_ns; /* handshake; default 10 s; 0 = off */
	/* first byte or grant of a slice to its RESULT; default 60 s; 0 = off */
	uint64_t transfer_timeout_ns;
};

/* Defaults into *options. */
KVF_API void kvf_options_init(struct kvf_options *options);

/* kvf_agent_open - one per rank. Starts workers and, by default, a progress thread. KVF_EINVAL names a bad option. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_agent_open(
	const struct kvf_options *options, kvf_agent **agent_out);

struct kvf_close_report {
	uint32_t unreleased_sessions; /* their memory stays mapped until the process ends */
	uint64_t unreleased_bytes;
};
/* kvf_agent_close - ends every session, waits at most drain_ns for their release, then destroys the agent.
 * agent may be NULL; report_out may be NULL. Blocks: at most drain_ns plus the join of the agent's threads.
 */
KVF_API void kvf_agent_close(kvf_agent *agent, uint64_t drain_ns, struct kvf_close_report *report_out);

/* kvf_alloc - page-aligned, populated memory that other processes of this host can map (shm); registered. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_alloc(
	kvf_agent *agent, uint64_t len_bytes, void **memory_out, kvf_region *region_out);
/* KVF_EBUSY while an unreleased session touches it or a declared layout lies in it. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_free(kvf_agent *agent, kvf_region region);
/* Any host memory; stays the caller's. Served by loop and tcp. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_register(
	kvf_agent *agent, void *memory, uint64_t len_bytes, kvf_region *region_out);
/* As kvf_free, for memory that stays the caller's. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_unregister(kvf_agent *agent, kvf_region region);

/* kvf_declare - say who this agent is: rank of instance, and its memory. Once, before connecting; copied.
 * Refuses what kvf_layout_check refuses, a base outside a registered region, a rank that does not match.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_declare(kvf_agent *agent, const struct kvf_instance *instance,
	uint32_t rank, const struct kvf_layout *layout);
/* The endpoint it really listens on (port filled in). len_bytes: of buffer. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_endpoint(kvf_agent *agent, char *buffer, size_t len_bytes);

/* kvf_connect - decode agents: reach a prefill instance by the endpoint of any of its ranks. Returns at once; the agent goes on
 * to every rank it is paired with. One KVF_EVENT_PEER per rank: status KVF_OK (up), or why it is down or refused.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_connect(kvf_agent *agent, const char *endpoint);
/* The same with the endpoints that a ticket carries. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_connect_ticket(
	kvf_agent *agent, const void *ticket, size_t ticket_bytes);

struct kvf_peer_info {
	uint64_t incarnation;
	uint64_t instance_id;
	uint32_t rank;
	enum kvf_status status; /* KVF_OK: up; KVF_EAGAIN: connecting */
	char endpoint[256];
	char transport[16]; /* "" until chosen */
	char reason[256];   /* why this transport, or why it is not up */
};
/* What is known of a peer that an event named. KVF_ESTALE once it is forgotten. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_peer_info(
	kvf_agent *agent, kvf_peer peer, struct kvf_peer_info *info_out);

/* ---------------------------------------------------------------- sessions */

/* Block ids of one group. A list is the suffix of the slice's blocks: leading blocks that are cached or evicted are absent. Negative: no page. */
struct kvf_blocks {
	uint32_t group;
	uint32_t n;
	const int32_t *ids;
};

struct kvf_tx_params {
	uint64_t request_id;
	uint32_t attempt;
	/* attention-DP group of this prefill rank that computes the request; 0 without attention-DP */
	uint32_t dp_index;
	uint64_t prompt_len; /* tokens */
	uint64_t expires_ns; /* life of its tickets from now; 0 = 600 s */
};
/* kvf_tx_open - this prefill rank will send the KV of a request. KVF_EFULL when a table is full; KVF_DUPLICATE for a live (id, attempt). */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_tx_open(
	kvf_agent *agent, const struct kvf_tx_params *params, kvf_session *session_out);

struct kvf_slice {
	uint64_t token_start, token_end; /* slices tile [0, prompt_len) */
	uint32_t layer_start, layer_end; /* global, half-open; 0,0 = all */
	uint32_t last;                   /* exactly one slice is the last */
	uint32_t n_lists;
	const struct kvf_blocks *lists; /* one per group that the slice moves; copied */
};
/* kvf_tx_send - hand over a slice; the blocks must stay unchanged until RELEASED. slice_out may be NULL. Returns at once. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_tx_send(
	kvf_agent *agent, kvf_session session, const struct kvf_slice *slice, uint32_t *slice_out);
/* Aux data of the request; once; copied. len_bytes <= KVF_MAX_AUX_BYTES. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_tx_send_aux(
	kvf_agent *agent, kvf_session session, const void *data, uint32_t len_bytes);

#define KVF_TICKET_MAX_BYTES 4096u
/* kvf_ticket_new - the opaque blob that a router carries to the decode side. Needs a declared prefill instance.
 * params->dp_index may be KVF_DP_UNKNOWN. Writes at most max_bytes. Threads: any after kvf_declare.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_ticket_new(kvf_agent *agent, const struct kvf_tx_params *params,
	void *ticket, size_t max_bytes, size_t *len_out);

struct kvf_ticket_info {
	uint64_t instance_id;
	uint64_t request_id;
	uint32_t attempt;
	uint32_t dp_index;
	uint64_t prompt_len;
	uint64_t expires_unix_ns; /* wall clock, checked with a tolerance of 60 s */
};
/* What a ticket says. KVF_ETICKET when it is none, or another version's; needs no agent. Threads: any. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_ticket_read(
	const void *ticket, size_t ticket_bytes, struct kvf_ticket_info *info_out);

struct kvf_rx_params {
	const void *ticket; /* NULL: the five fields below; else they are ignored */
	size_t ticket_bytes;
	uint64_t instance_id;
	uint64_t request_id;
	uint32_t attempt;
	uint32_t dp_index; /* of the prefill instance; KVF_DP_UNKNOWN: the first group that claims it */
	uint64_t prompt_len;
	uint32_t aux_slot; /* of this rank's layout; KVF_NO_AUX: none expected */
	enum kvf_replica replica;
	uint32_t n_lists;
	const struct kvf_blocks *lists; /* where it goes, for the whole prompt; one per group; copied */
};
/* kvf_rx_open - ask for the KV of a request. Sends one REQUEST to every expected prefill rank (as soon as it is connected).
 * The blocks belong to the agent until KVF_EVENT_RELEASED. KVF_DUPLICATE for a live (instance, id, attempt).
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_rx_open(
	kvf_agent *agent, const struct kvf_rx_params *params, kvf_session *session_out);

enum kvf_session_state {
	KVF_STATE_INIT = 0,
	KVF_STATE_READY = 1, /* tx: every expected receiver has asked; rx: every REQUEST is answered */
	KVF_STATE_TRANSFERRING = 2,
	KVF_STATE_KV_TRANSFERRED = 3,
	KVF_STATE_FULLY_TRANSFERRED = 4,
	KVF_STATE_ERROR = -1,
	KVF_STATE_CANCELLED = -2
};
/* Threads: any. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_session_state(
	kvf_agent *agent, kvf_session session, enum kvf_session_state *state_out);

enum kvf_proof {
	KVF_PROOF_NONE = 0,
	KVF_PROOF_COMPLETED = 1,
	KVF_PROOF_LOCAL_EPOCH = 2,
	KVF_PROOF_LEASE = 3,
	KVF_PROOF_WRITER_QUIET = 4,
	KVF_PROOF_PROCESS_EXIT = 5,
	KVF_PROOF_FENCED = 6,
	KVF_PROOF_NEVER_ADVERTISED = 7,
	KVF_PROOF_LOCAL_IDLE = 8
};

struct kvf_session_stats {
	uint64_t bytes, runs;
	uint32_t slices, peers;
	uint64_t open_ns; /* monotonic, as all below; 0 = has not happened */
	uint64_t ready_ns;
	uint64_t first_byte_ns; /* tx: first slice handed to a transport; rx: first byte or RESULT */
	uint64_t last_byte_ns;
	uint64_t outcome_ns;
	uint64_t released_ns;
	uint64_t plan_ns;   /* time spent binding block lists to plans */
	uint32_t proofs[9]; /* peers released by each enum kvf_proof */
};
/* As of the last event of the session that was polled. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_session_stats(
	kvf_agent *agent, kvf_session session, struct kvf_session_stats *stats_out);
/* Why it failed, "" if it did not. After its OUTCOME was polled. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_session_error(
	kvf_agent *agent, kvf_session session, char *buffer, size_t len_bytes);
/* rx, after its OUTCOME was polled: ids of this group's blocks that are not known to be good, in list order. At most max written; n_out is the full number. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_session_bad_blocks(
	kvf_agent *agent, kvf_session session, uint32_t group, int32_t *ids, uint32_t max, uint32_t *n_out);
/* Give the handle back after its RELEASED was polled; KVF_EBUSY before. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_session_close(kvf_agent *agent, kvf_session session);

/* ------------------------------------------------------------------ events */

enum kvf_event_type {
	/* a peer came up, went down or refused; at most two per peer wait, the last state wins */
	KVF_EVENT_PEER = 1,
	KVF_EVENT_READY = 2,   /* tx: every expected receiver has asked */
	KVF_EVENT_SLICE = 3,   /* tx: a slice is acknowledged by every peer */
	KVF_EVENT_OUTCOME = 4, /* once per session */
	KVF_EVENT_RELEASED = 5 /* once per session, never before OUTCOME: the memory is yours again */
};

struct kvf_event {
	enum kvf_event_type type;
	enum kvf_status status; /* PEER, SLICE, OUTCOME: KVF_OK or why not */
	kvf_session session;    /* 0 for PEER */
	kvf_peer peer;          /* PEER only */
	uint64_t request_id;
	uint32_t attempt;
	uint32_t slice; /* SLICE only */
};

/* kvf_poll - take up to n events. Never blocks. Returns the number taken, or a negative enum kvf_status. */
KVF_API int kvf_poll(kvf_agent *agent, struct kvf_event *events, int n);
/* A descriptor that is readable when kvf_poll would return something (or, without a progress thread, has work to do). Do not read it. */
KVF_API int kvf_fd(kvf_agent *agent);
/* kvf_wait - sleep until kvf_poll would return something; KVF_TIMED_OUT after timeout_ns. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_wait(kvf_agent *agent, uint64_t timeout_ns);
/* kvf_drain - sleep until no session is unreleased, at most bound_ns; KVF_TIMED_OUT else. Events stay queued for kvf_poll. */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_drain(kvf_agent *agent, uint64_t bound_ns);

#ifdef __cplusplus
}
#endif

#endif
