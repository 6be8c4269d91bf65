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
#define KVF_API                 __attribute__((visibility("default")))
#define KVF_MUST_CHECK          __attribute__((warn_unused_result))
#define KVF_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define KVF_API
#define KVF_MUST_CHECK
#define KVF_PRINTF(text, first)
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

/* kvf_status_name - the name of a status without its prefix: "EINVAL"; "UNKNOWN" for a number that is none.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API const char *kvf_status_name(enum kvf_status status);

/* kvf_status_text - what a status means, one clause without a full stop.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API const char *kvf_status_text(enum kvf_status status);

/* kvf_status_scope - what is broken, and so what helps: mend or repeat the call, the session is over, reconnect, reopen.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API enum kvf_scope kvf_status_scope(enum kvf_status status);

/* kvf_error - the sentence of the last failed call of this thread: the field, whose it is, both values. "" if none has failed.
 *
 * Valid until the next failure on this thread; a call that succeeds leaves it as it was.
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API const char *kvf_error(void);

/* kvf_fail - leave a sentence in this thread's kvf_error() and return its status: for what is built on this API, and for functions of your own that
 * it calls (guard.h).
 *
 * @format  as printf's; the sentence is cut to 511 bytes
 * Threads: any. Blocks: never. Allocates: no.
 * Returns status. Since 0.1.
 */
KVF_API enum kvf_status kvf_fail(enum kvf_status status, const char *format, ...) KVF_PRINTF(2, 3);

/* kvf_version - the version of the library that is loaded, as KVF_VERSION is of the header.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API const char *kvf_version(void);

/* kvf_features - the optional parts that are built in, separated by spaces: "zmq msgpack" or "".
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
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

/* kvf_dtype_bits - bits of one element; 0 for a number that is no dtype.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API uint32_t kvf_dtype_bits(enum kvf_dtype dtype);

/* kvf_dtype_name - "bf16" and so on; "unknown" for a number that is no dtype.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
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

/* kvf_instance_new - the instance map of the default split.
 *
 * Ranks are pp*(TP*CP) + cp*TP + tp unless rank_order says otherwise. With G = TP/DP the width of an attention group and r = tp mod G, a part
 * of N heads is held as [floor(r*N/G), floor((r+1)*N/G)), or as the one head floor(r*N/G) when N < G, so that neighbours hold replicas (the
 * rule of TensorRT-LLM, vLLM and SGLang). Layers by stages. Other splits: fill a struct kvf_instance yourself. Endpoints are "".
 * @model         copied
 * @parallel      copied
 * @id            the engine's name for this instance; the same on all its ranks; kvf_declare refuses 0
 * @instance_out  free with kvf_instance_free
 * Threads: any. Blocks: never. Allocates: yes.
 * Returns KVF_EINVAL with the field (impossible sizes, stages that do not sum up, cp > 1 on prefill), KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_instance_new(const struct kvf_model *model,
	const struct kvf_parallel *parallel, enum kvf_role role, uint64_t id,
	struct kvf_instance **instance_out);

/* kvf_instance_set_endpoint - where a rank of a map made by kvf_instance_new listens.
 *
 * @rank      below n_ranks
 * @endpoint  control endpoint, at most 255 bytes; copied
 * Threads: any, one at a time per instance. Blocks: never. Allocates: yes.
 * Returns KVF_EINVAL, KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_instance_set_endpoint(
	struct kvf_instance *instance, uint32_t rank, const char *endpoint);

/* kvf_instance_free - frees a map made by kvf_instance_new. NULL is fine.
 *
 * Threads: any. Blocks: never. Since 0.1.
 */
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

/* kvf_layout_new - the layout of one rank in one of the common memory orders.
 *
 * Groups follow each other from address 0, each aligned to 4096 bytes; kvf_layout_move shifts them to real memory. Any other layout (separate
 * allocations per layer, separate K and V pools): fill a struct kvf_layout yourself.
 * @options         order, block size in tokens, number of blocks and state slots
 * @layout_out      free with kvf_layout_free
 * @pool_bytes_out  bytes from address 0 to the end of the last group
 * Threads: any. Blocks: never. Allocates: yes.
 * Returns KVF_EINVAL with the field, KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_layout_new(const struct kvf_model *model,
	const struct kvf_instance *instance, uint32_t rank, const struct kvf_layout_options *options,
	struct kvf_layout **layout_out, uint64_t *pool_bytes_out);

/* kvf_layout_move - adds delta (modulo 2^64) to every base of a layout made by kvf_layout_new. Aux slots stay where they are.
 *
 * Threads: any, one at a time per layout. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API void kvf_layout_move(struct kvf_layout *layout, uint64_t delta);

/* kvf_layout_set_aux - gives a layout made by kvf_layout_new n_aux aux slots at base, base + aux_bytes, ...
 *
 * @aux_bytes  size of each, at most KVF_MAX_AUX_BYTES
 * @base       address of memory of this process that the agent writes aux data to; need not be registered
 * Threads: any, one at a time per layout. Blocks: never. Allocates: yes.
 * Returns KVF_EINVAL, KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_layout_set_aux(
	struct kvf_layout *layout, uint32_t n_aux, uint32_t aux_bytes, uint64_t base);

/* kvf_layout_free - frees a layout made by kvf_layout_new. NULL is fine.
 *
 * Threads: any. Blocks: never. Since 0.1.
 */
KVF_API void kvf_layout_free(struct kvf_layout *layout);

/* kvf_layout_check - refuses a layout whose cells overlap each other or an aux slot, or whose fields make no sense.
 *
 * Threads: any. Blocks: never. Allocates: yes, and frees it again.
 * Returns KVF_EINVAL with group, layer, part and values, KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_layout_check(const struct kvf_layout *layout);

/* -------------------------------------------------------------------- plan */

/* Why two sides cannot work together: a field and its two values, ready to print. */
struct kvf_refusal {
	char field[64];
	char prefill[96];
	char decode[96];
};

/* kvf_layout_compatible - can a rank with one layout send to a rank with the other?
 *
 * Compares model and revision, and per group kind, window, dtype, parts, heads and row bytes; layers that only one side has are no error.
 * @refusal_out  filled when the answer is no; may be NULL
 * Threads: any. Blocks: never. Allocates: no.
 * Returns KVF_OK, KVF_INCOMPATIBLE, or KVF_EINVAL for a layout that is none. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_layout_compatible(
	const struct kvf_layout *prefill, const struct kvf_layout *decode, struct kvf_refusal *refusal_out);

/* kvf_pair_compatible - as kvf_layout_compatible, with the rules that need the instance maps: under CP (decode side) tokens_per_block must be
 * equal. kvf_plan_new checks the same.
 *
 * @refusal_out  filled when the answer is no; may be NULL
 * Threads: any. Blocks: never. Allocates: no.
 * Returns KVF_OK, KVF_INCOMPATIBLE, or KVF_EINVAL. Since 0.1.
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

/* kvf_pairs - who talks to whom for a request on one data-parallel index of the prefill instance.
 *
 * Source r of G_s covers [r/G_s, (r+1)/G_s), destination q of G_d likewise; they are paired when the intervals intersect and their layers do.
 * Sorted by (src, dst), pairs that owe nothing included: they answer too, so both sides know how many results to expect.
 * @src_dp  DP index of the prefill instance
 * @dst_dp  DP index of the decode instance, or KVF_DP_UNKNOWN for all its ranks
 * @pairs   room for max entries; at most max are written
 * @n_out   how many there are
 * Threads: any. Blocks: never. Allocates: yes, and frees it again.
 * Returns KVF_EINVAL, KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_pairs(const struct kvf_instance *prefill,
	const struct kvf_instance *decode, uint32_t src_dp, uint32_t dst_dp, struct kvf_pair *pairs,
	uint32_t max, uint32_t *n_out);

/* kvf_unmatched_layers - global ids of a group's layers that `instance` holds and `other` does not (speculative layers).
 *
 * They do not move, which is no error. Ascending; at most max are written.
 * Threads: any. Blocks: never. Allocates: no.
 * Returns the full number. Since 0.1.
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

/* kvf_plan_new - what one prefill rank must write into one decode rank, as nests of strided loops.
 *
 * Independent of prompt lengths and block ids. Heads and layers that several prefill ranks hold are sent by one of them: the owner among those
 * paired with this destination, chosen by its DP rank, or by layer stripes.
 * @src, @dst  layouts; the rank of each in its instance is in it; not kept
 * @plan_out   immutable; any thread may read it; free with kvf_plan_free
 * Threads: any. Blocks: never. Allocates: yes.
 * Returns KVF_INCOMPATIBLE, KVF_EINVAL, KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_plan_new(const struct kvf_instance *prefill,
	const struct kvf_layout *src, const struct kvf_instance *decode, const struct kvf_layout *dst,
	enum kvf_replica replica, kvf_plan **plan_out);

/* kvf_plan_free - nobody may still read the plan. NULL is fine.
 *
 * Threads: any. Blocks: never. Since 0.1.
 */
KVF_API void kvf_plan_free(kvf_plan *plan);

/* kvf_plan_digest - equal for two plans made from equal layouts, maps and replica mode by the same version of the algorithm.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API uint64_t kvf_plan_digest(const kvf_plan *plan);

/* kvf_plan_nests - the nests for direct copies, longest runs first merged; they live as long as the plan.
 *
 * Threads: any. Blocks: never. Allocates: no.
 * Returns their number. Since 0.1.
 */
KVF_API uint32_t kvf_plan_nests(const kvf_plan *plan, const struct kvf_nest **nests_out);

/* kvf_plan_layers - global ids of the layers of a group that this pair moves, ascending; they live as long as the plan.
 *
 * Threads: any. Blocks: never. Allocates: no.
 * Returns their number, 0 for a group that moves nothing. Since 0.1.
 */
KVF_API uint32_t kvf_plan_layers(const kvf_plan *plan, uint32_t group, const uint32_t **layers_out);

struct kvf_plan_totals {
	uint64_t bytes, runs; /* whole blocks; runs assumes no adjacent block ids */
	uint64_t run_bytes_min, run_bytes_max;
};

/* kvf_plan_totals - bytes and runs of a request of prompt_tokens with nothing cached and full lists on both sides.
 *
 * Threads: any. Blocks: never. Allocates: yes, and frees it again.
 * Returns KVF_EINVAL, KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_plan_totals(
	const kvf_plan *plan, uint64_t prompt_tokens, struct kvf_plan_totals *totals_out);

struct kvf_run {
	uint32_t group, layer, part;     /* of its first byte; layer: global id */
	uint64_t src_offset, dst_offset; /* from the layout's address 0, source and destination block 0 */
	uint64_t len_bytes;
};

/* kvf_plan_block0_runs - the runs of the first destination block of every group, in nest order.
 *
 * @runs   room for max entries; at most max are written
 * @n_out  how many there are
 * Threads: any. Blocks: never. Allocates: yes, and frees it again.
 * Returns KVF_EINVAL, KVF_ENOMEM. Since 0.1.
 */
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
	/* Deadlines, by the monotonic clock; 0 = off. See docs/safety.md.
	 * queue: a session waits: from its admission, between its slices, for its aux data; default 60 s */
	uint64_t queue_timeout_ns;
	/* transfer: first byte or grant of a slice to its RESULT; default 60 s */
	uint64_t transfer_timeout_ns;
	/* stall: no byte of the session moved while a slice moves; default 10 s; at most the transfer timeout */
	uint64_t stall_timeout_ns;
	/* quiet: from a cancel in flight to its proof; then the recovery ladder begins; default 5 s */
	uint64_t quiet_timeout_ns;
	uint64_t ping_ns; /* how often a peer that says nothing is asked; default 1 s */
	uint64_t
		silence_timeout_ns; /* a peer that says nothing for so long is lost; default 5 s; more than ping_ns */
	uint64_t progress_timeout_ns; /* work in flight and no byte moved anywhere: unhealthy; default 60 s */
	/* sessions that the whole ladder could not release before the agent is unhealthy; default 16 */
	uint32_t stuck_budget;
	/* a file, made anew with mode 0600, for everything that the agent's sessions are told and decide; `kvferry sim --replay` repeats it. It has block
	 * ids, layouts and aux data, no KV; it grows with the number of requests, and a disk that is full ends it. NULL: none */
	const char *record;
	/* for tests: harm by seed, "seed=7,within=20,drop=0.1"; words and rates in docs/testing.md; NULL: none */
	const char *faults;
};

/* kvf_options_init - defaults into *options, and the size of the struct that this program was compiled with.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API void kvf_options_init(struct kvf_options *options);

/* kvf_agent_open - one agent per rank.
 *
 * Takes all its tables at once, starts the copy workers and, by default, the progress thread, and opens sockets: on loopback, ipc, or the address
 * that `listen` and `data_listen` name. Strings are copied.
 * Threads: any. Blocks: until the sockets are open. Allocates: yes.
 * Returns KVF_EINVAL with the option and its value, KVF_EADDRINUSE, KVF_EUNSUPPORTED (not in this build), KVF_ENOMEM, KVF_EIO. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_agent_open(
	const struct kvf_options *options, kvf_agent **agent_out);

struct kvf_close_report {
	uint32_t unreleased_sessions; /* their memory stays mapped until the process ends */
	uint64_t unreleased_bytes;
};

/* kvf_agent_close - ends every session (CANCELLED), tells the peers, waits for releases, and destroys the agent.
 *
 * What is not proven quiet after drain_ns is counted, and its memory stays mapped until the process ends. Events that were not polled are lost.
 * @agent       may be NULL
 * @drain_ns    nanoseconds to wait for RELEASED of every session; 0: not at all
 * @report_out  may be NULL
 * Threads: the one that polls. Blocks: at most drain_ns and the join of the agent's threads. Since 0.1.
 */
KVF_API void kvf_agent_close(kvf_agent *agent, uint64_t drain_ns, struct kvf_close_report *report_out);

/* kvf_alloc - memory that other processes of this host can map: page-aligned, zeroed, populated, registered.
 *
 * It is in a memfd without a name, so nothing is left behind however the process ends. shm needs it on the decode side.
 * @memory_out  the agent's; freed by kvf_free or kvf_agent_close
 * Threads: the one that polls. Blocks: for as long as the kernel takes to give the pages. Allocates: yes.
 * Returns KVF_EINVAL, KVF_EFULL (max_regions), KVF_ENOMEM, KVF_EIO. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_alloc(
	kvf_agent *agent, uint64_t len_bytes, void **memory_out, kvf_region *region_out);

/* kvf_free - gives memory from kvf_alloc back.
 *
 * Memory that the declared layout lies in goes with kvf_agent_close alone.
 * Threads: the one that polls. Blocks: for a turn of the agent.
 * Returns KVF_EBUSY while a declared layout lies in it or an unreleased session touches it, KVF_ESTALE, KVF_EINVAL. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_free(kvf_agent *agent, kvf_region region);

/* kvf_register - any host memory of the caller, for transports that apply bytes themselves (tcp, loop).
 *
 * @memory  stays the caller's and must stay mapped until kvf_unregister or kvf_agent_close
 * Threads: the one that polls. Blocks: for a turn of the agent. Allocates: no.
 * Returns KVF_EINVAL, KVF_EFULL (max_regions). Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_register(
	kvf_agent *agent, void *memory, uint64_t len_bytes, kvf_region *region_out);

/* kvf_unregister - as kvf_free, for memory that stays the caller's.
 *
 * Threads: the one that polls. Blocks: for a turn of the agent.
 * Returns KVF_EBUSY while a declared layout lies in it or an unreleased session touches it, KVF_ESTALE, KVF_EINVAL. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_unregister(kvf_agent *agent, kvf_region region);

/* kvf_declare - say who this agent is: its rank in its instance, and its memory. Once, before connecting.
 *
 * @instance  the map, the same on all ranks; copied. Endpoints of prefill ranks let one connection find all; the own one may be "".
 * @layout    bases are addresses in registered regions; copied
 * Threads: the one that polls. Blocks: for a turn of the agent. Allocates: yes.
 * Returns KVF_EINVAL (a layout that overlaps itself or leaves its regions, a rank that the map describes otherwise), KVF_EBUSY (declared
 * already), KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_declare(kvf_agent *agent, const struct kvf_instance *instance,
	uint32_t rank, const struct kvf_layout *layout);

/* kvf_endpoint - the control endpoint that the agent really listens on, with its port; "" if it does not listen.
 *
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_EINVAL when len_bytes is too small. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_endpoint(kvf_agent *agent, char *buffer, size_t len_bytes);

/* kvf_connect - decode agents: reach a prefill instance by the endpoint of any of its ranks.
 *
 * The agent goes on by itself to every rank it is paired with, keeps trying once a second, and comes back after a loss. One KVF_EVENT_PEER per
 * change of each of them, and of the rank that was named, paired or not: KVF_OK (up), or why it is down or refused. Asking again for the same endpoint changes nothing.
 * Threads: the one that polls. Blocks: for a turn of the agent. Allocates: no.
 * Returns KVF_EINVAL (endpoint, role), KVF_EFULL (max_peers). Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_connect(kvf_agent *agent, const char *endpoint);

/* kvf_connect_ticket - kvf_connect with the endpoints that a ticket carries.
 *
 * Threads: the one that polls. Blocks: for a turn of the agent. Allocates: no.
 * Returns as kvf_connect, and KVF_ETICKET. Since 0.1.
 */
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

/* kvf_peer_info - what is known of a peer that an event named: where, who, over which transport and why.
 *
 * Threads: the one that polls. Blocks: for a turn of the agent. Allocates: no.
 * Returns KVF_ESTALE once it is forgotten, KVF_EINVAL. Since 0.1.
 */
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

/* kvf_tx_open - this prefill rank will send the KV cache of a request.
 *
 * Every prefill rank of the request's DP group opens one. It may be opened before or after the decode side has asked.
 * @params       copied
 * @session_out  valid until kvf_session_close
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_EINVAL, KVF_EFULL (max_sessions; the inbox), KVF_DUPLICATE while the same (id, attempt) is not released. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_tx_open(
	kvf_agent *agent, const struct kvf_tx_params *params, kvf_session *session_out);

struct kvf_slice {
	uint64_t token_start, token_end; /* slices tile [0, prompt_len) */
	uint32_t layer_start, layer_end; /* global, half-open; 0,0 = all */
	uint32_t last;                   /* exactly one slice is the last */
	uint32_t n_lists;
	const struct kvf_blocks *lists; /* one per group that the slice moves; copied */
};

/* kvf_tx_send - hand over a slice: a range of tokens, and in it a range of layers.
 *
 * Slices tile the tokens in order, and inside one token range the layers in order; the one that completes both is `last`, and no other. All this
 * counts the layers that this rank holds: of a layer-wise stream each stage sends the slices that name layers of its own. The first
 * one starts at block 0 whatever its token_start, so that a reused prefix is sent. Windowed and state groups are named by the slice that ends
 * the prompt. The blocks must not change until KVF_EVENT_RELEASED.
 * @slice      copied, with its lists
 * @slice_out  number of the slice, as KVF_EVENT_SLICE names it; may be NULL
 * Threads: the one that polls. Blocks: never. Allocates: yes, a copy of the lists.
 * Returns KVF_EINVAL with the field (tiling, ids, lists), KVF_EFULL (max_slices, max_block_ids, the inbox), KVF_ENOMEM, KVF_ESTALE, or the
 * status with which the session has already failed. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_tx_send(
	kvf_agent *agent, kvf_session session, const struct kvf_slice *slice, uint32_t *slice_out);

/* kvf_tx_send_aux - the aux data of the request (first tokens, counters), once. Every prefill rank gives them; the one that owes them sends.
 *
 * @data  copied
 * Threads: the one that polls. Blocks: never. Allocates: yes.
 * Returns KVF_EINVAL (more than KVF_MAX_AUX_BYTES, given twice), KVF_ENOMEM, KVF_EFULL, KVF_ESTALE. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_tx_send_aux(
	kvf_agent *agent, kvf_session session, const void *data, uint32_t len_bytes);

#define KVF_TICKET_MAX_BYTES 4096u

/* kvf_ticket_new - the opaque blob that a router carries from prefill to decode: whom to ask, for what.
 *
 * Any rank of a declared prefill instance can make it, before or after kvf_tx_open.
 * @params     dp_index may be KVF_DP_UNKNOWN: then the first group that claims the request sends it
 * @ticket     room for max_bytes; KVF_TICKET_MAX_BYTES is always enough
 * Threads: any, after kvf_declare. Blocks: never. Allocates: no.
 * Returns KVF_EINVAL, KVF_EFULL when max_bytes is too small. Since 0.1.
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

/* kvf_ticket_read - what a ticket says; needs no agent. Does not judge its expiry.
 *
 * Threads: any. Blocks: never. Allocates: no.
 * Returns KVF_ETICKET when it is damaged, none, or another version's. Since 0.1.
 */
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

/* kvf_rx_open - ask for the KV cache of a request, into these blocks.
 *
 * One REQUEST goes to every expected prefill rank as soon as it is connected; a ticket connects by itself. May come before the prefill side has
 * begun. The blocks belong to the agent until KVF_EVENT_RELEASED, whatever the outcome. Groups of which this rank holds no layers get no list.
 * @params       copied, with lists; the ticket is not kept
 * @session_out  valid until kvf_session_close
 * Threads: the one that polls. Blocks: with a ticket, for a turn of the agent. Allocates: yes, a copy of the lists.
 * Returns KVF_EINVAL with the field, KVF_ETICKET (damaged, expired), KVF_EFULL (max_sessions, max_block_ids, max_peers, the inbox), KVF_DUPLICATE
 * while the same (instance, id, attempt) is not released, KVF_ENOMEM. Since 0.1.
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

/* kvf_session_state - how far a session is. Forward only; poll by it, not by the order of events.
 *
 * Threads: any. Blocks: never. Allocates: no.
 * Returns KVF_ESTALE, KVF_EINVAL. Since 0.1.
 */
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
	/* moved; runs: pieces that were contiguous for the transport (shm: on both sides; tcp: on the sender's) */
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

/* kvf_session_stats - numbers of a session, as of its last event that was polled.
 *
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_ESTALE, KVF_EINVAL. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_session_stats(
	kvf_agent *agent, kvf_session session, struct kvf_session_stats *stats_out);

/* kvf_session_error - why it failed, one sentence with rank, field and values; "" if it did not. Known once its OUTCOME was polled.
 *
 * @buffer  the sentence is cut to len_bytes - 1
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_ESTALE, KVF_EINVAL. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_session_error(
	kvf_agent *agent, kvf_session session, char *buffer, size_t len_bytes);

/* kvf_session_bad_blocks - of a receiving session that failed: this group's blocks that are not known to be good.
 *
 * An engine recomputes those alone; the others hold what the sender had. In list order; none after KVF_OK. Contents of bad blocks may still change
 * until RELEASED.
 * @ids    room for max entries; at most max are written
 * @n_out  how many there are
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_EAGAIN before its OUTCOME was polled, KVF_ESTALE, KVF_EINVAL. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_session_bad_blocks(
	kvf_agent *agent, kvf_session session, uint32_t group, int32_t *ids, uint32_t max, uint32_t *n_out);

enum kvf_cancel_result {
	/* a handle this agent never issued, or none at all */
	KVF_CANCEL_NOT_CANCELLABLE = 1,
	/* nothing had left this agent and nothing will: its memory is yours */
	KVF_CANCEL_BEFORE_ADVERTISE = 2,
	/* it is over and released */
	KVF_CANCEL_ALREADY_COMPLETE = 3,
	/* both ends are being told; wait for RELEASED */
	KVF_CANCEL_REQUESTED_IN_FLIGHT = 4,
	/* as REQUESTED_IN_FLIGHT, and the agent is unhealthy */
	KVF_CANCEL_BACKEND_UNHEALTHY = 5,
	/* kvf_cancel_request only: no session, quarantined session or remembered request of that id */
	KVF_CANCEL_NOT_FOUND = 6
};

/* kvf_cancel - ask both ends of a session to stop; returns at once.
 *
 * The outcome is CANCELLED unless it was told already. One KVF_EVENT_RELEASED follows in every case but NOT_CANCELLABLE and ALREADY_COMPLETE; an
 * engine frees at a safe result or at RELEASED, never at both. Asking twice is fine.
 * @session  may be stale: a handle that was once issued is ALREADY_COMPLETE
 * @reason   for the other side's log; copied; NULL, or at most 255 bytes (more are cut)
 * Threads: any. Blocks: never. Allocates: no.
 * Returns an enum kvf_cancel_result; see kvf_cancel_is_safe. Since 0.1.
 */
KVF_API enum kvf_cancel_result kvf_cancel(kvf_agent *agent, kvf_session session, const char *reason);

/* kvf_cancel_request - kvf_cancel of every session of this agent with that request id and attempt.
 *
 * Threads: any. Blocks: never; linear in max_sessions. Allocates: no.
 * Returns the least safe result of its sessions, KVF_CANCEL_ALREADY_COMPLETE for one that is remembered, else KVF_CANCEL_NOT_FOUND. Since 0.1.
 */
KVF_API enum kvf_cancel_result kvf_cancel_request(
	kvf_agent *agent, uint64_t request_id, uint32_t attempt, const char *reason);

/* kvf_cancel_is_safe - 1 when the engine may free the memory now (BEFORE_ADVERTISE, ALREADY_COMPLETE, NOT_FOUND); else 0: wait for RELEASED.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API int kvf_cancel_is_safe(enum kvf_cancel_result result);

/* kvf_cancel_result_name - "before-advertise" and so on; "unknown" for a number that is none.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API const char *kvf_cancel_result_name(enum kvf_cancel_result result);

/* kvf_hold - decode agents: the request of this ticket is wanted, though its kvf_rx_open comes later.
 *
 * Tells its prefill ranks every second, until kvf_rx_open of the request, kvf_hold_drop, or the ticket's expiry. Their queue deadline for it rests
 * until 5 s after the last word. Connects as kvf_connect_ticket does.
 * @ticket  not kept
 * Threads: the one that polls. Blocks: for a turn of the agent. Allocates: no.
 * Returns KVF_ETICKET (damaged, expired), KVF_EFULL (max_sessions tickets are held), KVF_EINVAL (role), and as kvf_connect. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_hold(kvf_agent *agent, const void *ticket, size_t ticket_bytes);

/* kvf_hold_drop - the request is not wanted any more.
 *
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_ENOTFOUND when it is not held, KVF_ETICKET, KVF_EFULL (the inbox; try again). Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_hold_drop(
	kvf_agent *agent, const void *ticket, size_t ticket_bytes);

/* kvf_session_close - give the handle back; it is stale from then on.
 *
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_EBUSY before its RELEASED was polled, KVF_EFULL (the inbox; try again), KVF_ESTALE, KVF_EINVAL. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_session_close(kvf_agent *agent, kvf_session session);

/* ------------------------------------------------------------------ events */

enum kvf_event_type {
	/* a peer came up, went down or refused. At most 4 * max_peers wait; beyond, changes of a peer are left out, but never its last one */
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

/* kvf_poll - take up to n events.
 *
 * Without a progress thread it also does the agent's work that is due, never bulk copying.
 * Threads: one at a time; this one is "the one that polls". Blocks: never. Allocates: no.
 * Returns the number taken, or a negative enum kvf_status. Since 0.1.
 */
KVF_API int kvf_poll(kvf_agent *agent, struct kvf_event *events, int n);

/* kvf_fd - a descriptor that is readable when kvf_poll would return something (without a progress thread: or has work to do).
 *
 * For the caller's own event loop. Do not read, write or close it.
 * Threads: the one that polls. Blocks: never.
 * Returns the descriptor, or a negative enum kvf_status. Since 0.1.
 */
KVF_API int kvf_fd(kvf_agent *agent);

/* kvf_wait - sleep until kvf_poll would return something.
 *
 * @timeout_ns  nanoseconds; UINT64_MAX: for ever
 * Threads: the one that polls. Blocks: at most timeout_ns. Allocates: no.
 * Returns KVF_OK, KVF_TIMED_OUT, KVF_EINVAL. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_wait(kvf_agent *agent, uint64_t timeout_ns);

/* kvf_drain - sleep until every session is released. Events stay queued for kvf_poll.
 *
 * @bound_ns  nanoseconds; UINT64_MAX: for ever
 * Threads: the one that polls. Blocks: at most bound_ns. Allocates: no.
 * Returns KVF_OK, KVF_TIMED_OUT with the number that is left, KVF_EINVAL. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_drain(kvf_agent *agent, uint64_t bound_ns);

/* ------------------------------------------------------------------ groups */

#define KVF_GROUP_MAX_RANKS 64u
#define KVF_GROUP_MAX_BYTES (UINT32_C(1) << 20)

/* An all-gather among ranks of one instance, over the control channel: value, as the handles above. */
typedef struct kvf_group_handle {
	uint64_t bits;
} kvf_group_handle;

struct kvf_group_params {
	uint64_t group_id; /* the same at all members; another one for each group that they are in together */
	uint32_t rank;     /* this member's place, below n_ranks; not a rank of the instance */
	uint32_t n_ranks;  /* 1..KVF_GROUP_MAX_RANKS */
	/* where each member listens, n_ranks of them; the own one is not read. Port 0 is no endpoint: ask kvf_endpoint */
	const char *const *endpoints;
	uint32_t max_bytes; /* of one member in one round, 1..KVF_GROUP_MAX_BYTES; the same at all members */
};

/* What one member said in a round. */
struct kvf_group_part {
	const void *bytes;
	uint32_t len_bytes;
};

/* kvf_group_open - this agent takes part in a group; the others may open theirs before or after.
 *
 * Rounds are numbered from 1. What a member says is repeated until it was heard, so that lost messages cost time alone. A member that has restarted, or has
 * closed the group, is lost to it for good: open another group, with another id. At most 8 groups, and 128 members of all groups, at a time.
 * @params  copied
 * Threads: the one that polls. Blocks: for a turn of the agent. Allocates: 2 * n_ranks * max_bytes, and a little.
 * Returns KVF_EINVAL with the field (also: not declared, does not listen), KVF_EFULL, KVF_DUPLICATE (open already), KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_group_open(
	kvf_agent *agent, const struct kvf_group_params *params, kvf_group_handle *group_out);

/* kvf_group_post - what this member says in a round; the rounds of a group come one after another, each after the end of the one before.
 *
 * @round      1 more than the one before
 * @bytes      copied
 * @len_bytes  may be 0
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_EINVAL (round, more than max_bytes), KVF_EBUSY (kvf_group_test has not told the end of the round before), KVF_EFULL (the inbox; try again),
 * KVF_ESTALE. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_group_post(
	kvf_agent *agent, kvf_group_handle group, uint64_t round, const void *bytes, uint32_t len_bytes);

/* kvf_group_test - has every member said something in the round that was posted last?
 *
 * Without a progress thread it does the agent's work that is due, as kvf_poll does. The end of a round makes no noise on kvf_fd: ask.
 * @parts_out  n_ranks of them, by place, the own one too; the bytes stay valid until the next kvf_group_post or kvf_group_close
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_OK; KVF_EAGAIN while somebody is awaited; KVF_PEER_LOST when one who is awaited has restarted or closed the group, or this one has restarted; KVF_INCOMPATIBLE when one was
 * told another group under this id (members, size, instance); KVF_EINVAL before the first round; KVF_ESTALE. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_group_test(
	kvf_agent *agent, kvf_group_handle group, struct kvf_group_part *parts_out);

/* kvf_group_close - leave; the others are told, once. Also done by kvf_agent_close.
 *
 * Threads: the one that polls. Blocks: for a turn of the agent. Allocates: no.
 * Returns KVF_ESTALE, KVF_EINVAL. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_group_close(kvf_agent *agent, kvf_group_handle group);

/* ------------------------------------------------------------------ health */

enum kvf_health_reason {
	KVF_HEALTH_OK = 0,
	/* sessions whose outcome is not told are in flight, and nothing moved for the progress deadline */
	KVF_HEALTH_WEDGED = 1,
	/* more sessions than stuck_budget that the whole recovery ladder could not release */
	KVF_HEALTH_STUCK = 2
};

/* A snapshot; times in nanoseconds. */
struct kvf_health {
	uint32_t healthy; /* 1 or 0; it can come back */
	enum kvf_health_reason reason;
	char text[160];        /* the reason with its numbers, and the peer it is about; "" when healthy */
	uint32_t in_flight;    /* sessions whose outcome is not told and that have begun */
	uint32_t quarantined;  /* outcome told, release not proven */
	uint32_t stuck;        /* quarantined, and the ladder has come to its end */
	uint32_t stuck_budget; /* of the options */
	uint32_t lost_peers;   /* peers that were up, are wanted, and are not up */
	uint32_t barred_links; /* connections dropped by the ladder whose memory is not proven yet */
	uint64_t quarantined_bytes;
	uint64_t oldest_quarantine_ns; /* age; 0 = none */
	uint64_t since_progress_ns;    /* since a byte moved anywhere; 0 while nothing is in flight */
	uint64_t progress_timeout_ns;  /* of the options */
	/* steps of the recovery ladder so far: sessions that came to each */
	uint64_t ladder_quiet, ladder_fence, ladder_drop, ladder_stuck;
	uint64_t recovered;   /* quarantined sessions that a step of the ladder released */
	uint64_t peer_losses; /* peers lost so far, by any cause */
	uint64_t snapshot_ns; /* when it was taken, monotonic */
};

/* kvf_health - how the agent is, as of its last turn (at most 100 ms ago while anything is in flight or quarantined).
 *
 * Slow but moving is healthy; one quarantined session on an idle agent is healthy. Never depends on new work. An agent that
 * takes no turns any more, with something in flight, is wedged when the progress deadline has passed.
 * Threads: any. Blocks: never. Allocates: no.
 * Returns KVF_EINVAL. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_health(kvf_agent *agent, struct kvf_health *health_out);

#ifdef __cplusplus
}
#endif

#endif
