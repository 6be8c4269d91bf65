/* transport.h - what moves bytes: the vtable every transport fills, and its contract.
 *
 * Contract (tests/conformance runs it against every transport):
 *  - All functions are called by the agent's owner thread, except where a comment says otherwise. None of them blocks, none copies in bulk:
 *    bulk work goes to copy workers (env->submit) or to the transport's own I/O thread.
 *  - Completions go to env->notify, from any thread. Each post is completed exactly once by KVFI_DONE_TX, whatever happens:
 *    success, failure, cancel, lost peer, close. After it nothing touches post->bound or the source blocks.
 *  - KVFI_DONE_TX with KVF_OK means: every byte of the bound was stored in the destination (one-sided: stored and fenced, all workers
 *    out of the lease) or handed to the stream (receiver-applied). KVF_CANCELLED: cancel or a revoked lease stopped it; this writer
 *    stores nothing more for this post.
 *  - Receiver-applied transports tell KVFI_DONE_RX exactly once per SLICE that begins under a grant: KVF_OK when all its bytes are in the blocks,
 *    else why not (KVF_STREAM_BROKEN when the stream ended early; KVF_OUT_OF_RANGE ...). One-sided ones never tell it.
 *  - No byte is stored under a grant once revoke() was called and proof() has named one. A store happens only between lease enter and leave,
 *    at most KVFI_CHUNK_BYTES each, and only at addresses that the receiver's own layout and block ids give.
 *  - cancel() and revoke() are accepted, never proofs. A grant stays provable after disconnect() of its peer, for as long as it is not released: what
 *    the proof needs (lease words, the writer's pidfd, its fence) is kept until the last grant of that connection is released and, for a fence, until
 *    the writer has left or is known to be unable to store.
 *  - release() ends a grant: its memory (plan, ids) is the caller's again. Only after a proof or after its session completed. Handles that the
 *    transport keeps for it are let go by the last guard: its release, or close().
 *  - Data from the wire is hostile: bad bytes close that peer's data connection (KVFI_DONE_BROKEN with KVF_PROTOCOL) and touch nothing.
 *  - After disconnect() returned no completion names that peer, except KVFI_DONE_TX of its open posts and KVFI_DONE_RX of begun slices, which still come.
 *  - close() stops everything, completes what is open, joins its threads.
 * Decode connects to prefill: the prefill side listens (loopback unless told otherwise) and is told by expect() whom to admit.
 */
#ifndef KVFI_TRANSPORT_TRANSPORT_H
#define KVFI_TRANSPORT_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kvferry/kvferry.h"
#include "base/faults.h"
#include "geometry/geometry.h"
#include "memory/lease.h"
#include "memory/region.h"

#define KVFI_ADDRESS_MAX_BYTES 512u /* of a transport's address blob */
#define KVFI_HOT_FRAME_MAX     4096u

/* A piece of work for the copy workers; embedded in its owner, who keeps it alive until run() was called. */
struct kvfi_job {
	struct kvfi_job *next;
	void (*run)(struct kvfi_job *job);
};

enum kvfi_done_kind {
	KVFI_DONE_TX = 1,     /* a post is over */
	KVFI_DONE_RX = 2,     /* a slice that began under a grant is over */
	KVFI_DONE_UP = 3,     /* the data path with a peer works, both ways */
	KVFI_DONE_BROKEN = 4, /* it does not (any more): connect failed, closed, garbage */
	KVFI_DONE_FRAME =
		5 /* a hot control frame came over the transport's own socket; told from poll() alone */
};

struct kvfi_done {
	enum kvfi_done_kind kind;
	enum kvf_status status;
	uint32_t peer;  /* the agent's slot of the peer */
	uint64_t id;    /* TX: post->id. RX: grant->id */
	uint64_t epoch; /* RX: grant->epoch; a grant id is used again, an epoch never */
	uint32_t slice; /* RX: the peer's slice id */
	uint64_t bytes, runs;
	uint64_t sum;                              /* when asked for */
	uint64_t first_ns, last_ns;                /* monotonic; 0 = nothing moved */
	uint32_t layer_start, layer_end, n_ranges; /* RX: as the SLICE header named them */
	struct kvfi_range ranges[KVFI_MAX_RANGES];
	uint32_t frame_bytes; /* FRAME: copied by notify */
	const void *frame;
	char reason[128]; /* BROKEN: one sentence; TX/RX failures: detail or "" */
};

struct kvfi_transport_env {
	void *self;
	/* any thread; copies; never blocks for long; never fails */
	void (*notify)(void *self, const struct kvfi_done *done);
	/* any thread; runs on a copy worker, in order of submission */
	void (*submit)(void *self, struct kvfi_job *job);
	/* how many copy workers there are: how many shares a post is worth cutting into */
	uint32_t workers;
	const struct kvfi_regions *regions;
	uint64_t incarnation;
	uint32_t max_peers;
	uint32_t max_grants;              /* grant ids are below this */
	uint32_t max_posts;               /* open at once */
	const char *name;                 /* of the agent, for thread names and logs */
	const char *data_listen;          /* tcp */
	const char *runtime_dir;          /* unix sockets; exists, mode 0700 */
	bool listens;                     /* prefill agents */
	void *seam;                       /* of struct kvfi_agent_seams; NULL in a real agent */
	const struct kvfi_faults *faults; /* of fault.h alone */
};

struct kvfi_tx_post {
	uint64_t id;
	uint32_t peer;
	uint64_t request_id;
	uint32_t attempt;
	uint64_t epoch;                        /* the receiver's */
	uint32_t slice;                        /* the sender's slice id */
	uint32_t lease_slot, lease_generation; /* as the REQUEST named them */
	bool sum;                              /* compute kvfi_sum over what moves */
	const struct kvfi_bound *bound; /* stays valid until KVFI_DONE_TX. bytes may be 0: complete at once */
};

struct kvfi_rx_grant {
	uint32_t id; /* below max_grants; unique among unreleased grants */
	uint32_t peer;
	uint64_t request_id;
	uint32_t attempt;
	uint64_t epoch;
	uint64_t prompt_len;
	const kvf_plan *plan;       /* made with this process's addresses of the destination */
	const struct kvfi_ids *dst; /* per group of the model; valid until release() */
	bool sum;
};

struct kvfi_transport; /* each transport's own; starts with struct kvfi_transport_base */

struct kvfi_transport_ops {
	const char *name;
	/* else the sender's workers store into the destination under a shared lease word */
	bool receiver_applied;
	bool needs_shared; /* destination regions must come from kvf_alloc */

	enum kvf_status (*open)(const struct kvfi_transport_env *env, struct kvfi_transport **transport_out);
	void (*close)(struct kvfi_transport *transport);

	/* What a peer needs to connect; at most KVFI_ADDRESS_MAX_BYTES. Returns its length. */
	size_t (*address)(struct kvfi_transport *transport, void *buffer);
	/* Could this remote address be served from here?  KVF_OK, or a status with the reason in kvf_error() ("another host"). */
	enum kvf_status (*reachable)(struct kvfi_transport *transport, const void *address, size_t len_bytes);

	/* A region was added or is about to go (the agent has made sure nobody uses it). */
	enum kvf_status (*region_added)(struct kvfi_transport *transport, uint32_t region);
	void (*region_removed)(struct kvfi_transport *transport, uint32_t region);

	/* Decode: start connecting; KVFI_DONE_UP or KVFI_DONE_BROKEN follows. link: number of this connection, named in the data handshake. */
	enum kvf_status (*connect)(struct kvfi_transport *transport, uint32_t peer, uint64_t peer_incarnation,
		uint64_t link, const void *address, size_t len_bytes);
	/* Prefill: admit a data connection of that incarnation and link as this peer; KVFI_DONE_UP follows when it came. */
	enum kvf_status (*expect)(
		struct kvfi_transport *transport, uint32_t peer, uint64_t peer_incarnation, uint64_t link);
	/* Forget the peer: closes its connections, stops its posts. */
	void (*disconnect)(struct kvfi_transport *transport, uint32_t peer);

	/* Prefill, after UP: the peer's wire layout, with its bases (region << 48 | offset) replaced by addresses where this process can
	 * store (one-sided), or left as they are (receiver-applied). KVF_OUT_OF_RANGE when an extent leaves what the peer shared. */
	enum kvf_status (*map_layout)(
		struct kvfi_transport *transport, uint32_t peer, struct kvf_layout *layout);

	/* Start moving. KVF_EFULL: no room now; nothing was started. The struct is copied, the bound is not. */
	enum kvf_status (*post)(struct kvfi_transport *transport, const struct kvfi_tx_post *post);
	/* Stop as soon as the current chunk is done. KVFI_DONE_TX comes all the same. Accepted is not a proof. */
	void (*cancel)(struct kvfi_transport *transport, uint64_t post_id);

	/* Permission for one peer to write for one session; what the REQUEST must name. The struct is copied, plan and ids are not. */
	enum kvf_status (*grant)(struct kvfi_transport *transport, const struct kvfi_rx_grant *grant,
		uint32_t *lease_slot_out, uint32_t *lease_generation_out);
	void (*revoke)(struct kvfi_transport *transport, uint32_t grant_id);
	/* Why no store of a revoked grant is in flight and none will follow: KVF_PROOF_LOCAL_EPOCH, _LEASE, _PROCESS_EXIT, _FENCED; or KVF_PROOF_NONE, not
	 * proven yet. Never blocks; asked again on a timer. */
	enum kvf_proof (*proof)(struct kvfi_transport *transport, uint32_t grant_id);
	void (*release)(struct kvfi_transport *transport, uint32_t grant_id);
	/* Receiver: take from this peer the power to store into this process, though it does not answer. Other writers go on. KVF_OK: begun, proof() will
	 * name KVF_PROOF_FENCED for its revoked grants; KVF_EUNSUPPORTED: not here, nothing was changed. Receiver-applied transports need none: KVF_OK.
	 * Of the peer's connections, the current one and those before disconnect(), it takes those with a revoked grant that has no proof. A connection
	 * that was fenced is over: KVFI_DONE_BROKEN, if it is the current one. */
	enum kvf_status (*fence)(struct kvfi_transport *transport, uint32_t peer);
	/* Numbers that change while bytes of an open post, or under a grant, move; for deadlines alone. */
	uint64_t (*post_moved)(struct kvfi_transport *transport, uint64_t post_id);
	uint64_t (*grant_moved)(struct kvfi_transport *transport, uint32_t grant_id);

	/* A hot control frame (RESULT, ACK, ...) over a socket this transport has anyway. False: not possible (now); use the control channel. NULL: never. */
	bool (*send_frame)(
		struct kvfi_transport *transport, uint32_t peer, const void *frame, size_t len_bytes);
	/* Readable when poll() has something to do; -1: never. */
	int (*fd)(struct kvfi_transport *transport);
	/* Handle what is there; never blocks. loop: does a bounded piece of the copying (it has no threads). */
	void (*poll)(struct kvfi_transport *transport);
};

struct kvfi_transport_base {
	const struct kvfi_transport_ops *ops;
};

extern const struct kvfi_transport_ops kvfi_transport_loop;
extern const struct kvfi_transport_ops kvfi_transport_shm;
extern const struct kvfi_transport_ops kvfi_transport_tcp;

#endif
