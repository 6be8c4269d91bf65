/* state.h - the tables of the core. Private to src/session.
 *
 * session: one request on this rank. link: one (session, peer); it may outlive its session (a CANCEL that still wants its QUIET) and may
 * come before it (a REQUEST whose tx is not open yet: parked). delivery: one RESULT on its way, with the post before it.
 * All tables are arrays taken at open; free entries are chained. Handles between them are indices.
 */
#ifndef KVFI_SESSION_STATE_H
#define KVFI_SESSION_STATE_H

#include "base/list.h"
#include "base/timers.h"
#include "session/core.h"

#define KVFI_WINDOW          4u /* deliveries of one link that may be open at once */
#define KVFI_RESEND_FIRST_NS (UINT64_C(50) * 1000 * 1000)
#define KVFI_RESEND_MAX_NS   (UINT64_C(1000) * 1000 * 1000)
#define KVFI_ERROR_BYTES     256u
#define KVFI_GIVEN_UP_NS     (UINT64_C(600) * 1000 * 1000 * 1000) /* as long as a ticket lives by default */

enum wake_kind {
	WAKE_SESSION = 1,
	WAKE_LINK = 2,
	WAKE_DELIVERY = 3,
	WAKE_FLIGHT = 4,
	WAKE_HOLD = 5
};

struct wake {
	struct kvfi_timer timer;
	enum wake_kind kind;
};

enum session_kind {
	SESSION_FREE = 0,
	SESSION_TX = 1,
	SESSION_RX = 2
};

/* What was done for the proof of one peer, in this order. */
enum ladder_step {
	LADDER_NONE = 0,
	LADDER_QUIET = 1, /* it was asked for QUIET */
	LADDER_FENCE = 2, /* the transport takes its power to store away */
	LADDER_DROP = 3,  /* its connection is closed and its link barred */
	LADDER_STUCK = 4  /* nothing is left to do but to wait */
};

struct session {
	struct wake wake; /* deadline; after the outcome: the ladder's next step */
	enum session_kind kind;
	uint64_t instance_id; /* of the prefill side */
	uint64_t request_id;
	uint32_t attempt;
	uint64_t prompt_len;
	enum kvf_session_state state;
	enum kvf_status outcome;
	bool ready_told, outcome_told, released_told;
	bool advertised; /* a permission or a byte of it may have left this agent */
	bool called_off; /* cancelled before that: nothing leaves */
	bool ending;     /* its links are being told of the failure: no release before all are */
	char error[KVFI_ERROR_BYTES];
	struct kvf_session_stats stats;
	struct kvfi_list links;
	uint32_t n_links;      /* in that list */
	bool resolved;         /* rx: the instance is known and links are made */
	uint32_t expected;     /* peers that must take part */
	struct kvfi_list node; /* in core->live */
	bool in_flight;
	bool quarantined;
	struct kvfi_list in_quarantine;
	enum ladder_step ladder; /* the furthest of its links */
	uint64_t ladder_ns;      /* own work that is not over by then is stuck */
	uint64_t blocks_bytes;   /* of the blocks that are lent to it */
	uint32_t hash_next;      /* tx: by (request, attempt) */

	/* deadlines, see deadline.c */
	uint64_t waiting_ns; /* since when nothing of it moves, but for the time it was held */
	uint64_t moved_ns;   /* when a byte of it moved last, as far as was looked */
	uint64_t held_ns;    /* tx: a receiver wants it until then */
	uint64_t connect_ns; /* rx: every REQUEST must be answered before */

	/* tx */
	struct kvfi_tx_slice *slices, *slices_tail;
	bool last_given;
	bool bound; /* a decode instance and DP index have asked */
	uint64_t decode_instance;
	uint32_t dp_rank;
	uint64_t expires_ns; /* when a record of it may be forgotten */
	const unsigned char *aux;
	uint32_t aux_bytes;
	bool aux_given;
	uint32_t posts_open;
	uint32_t kv_acked, finished; /* links whose KV, whose everything is acknowledged */

	/* rx */
	uint64_t epoch;
	uint32_t dp_index;
	uint32_t aux_slot;
	enum kvf_replica replica;
	struct kvfi_ids lists[KVF_MAX_GROUPS];
	uint32_t answered;  /* links whose REQUEST is answered */
	uint32_t arrived;   /* links whose KV is in */
	uint32_t aux_in;    /* links whose aux RESULT is in */
	uint32_t proven;    /* links with a proof */
	uint32_t sums_open; /* sums that still read the blocks */
};

enum link_kind {
	LINK_FREE = 0,
	LINK_TX = 1,
	LINK_RX = 2
};

enum aux_state {
	AUX_NONE = 0, /* not expected */
	AUX_OWED = 1, /* to be sent, or to come */
	AUX_SENT = 2,
	AUX_DONE = 3
};

/* What a receiver-applied stream has said about a slice. */
struct applied {
	bool known;
	uint32_t slice;
	enum kvf_status status;
	uint64_t bytes, sum, ranges_hash;
};

/* How far one group of one sender is in. */
struct cover {
	uint64_t got_bytes;
	uint64_t tile_start, tile_end; /* tokens of the tile that came last */
	uint32_t layer_end;            /* of that tile */
	uint64_t end;                  /* of the last tile that is there in all layers */
	uint64_t good_end;             /* as end, until the sender leaves something out */
	bool any;
};

struct link {
	struct wake wake; /* repetition */
	uint64_t backoff_ns;
	enum link_kind kind;
	uint32_t session; /* KVFI_NONE: parked, or its session is over */
	uint32_t peer;    /* KVFI_NONE: rx, not connected yet */
	uint32_t rank;
	uint64_t instance_id, request_id, epoch;
	uint32_t attempt;
	struct kvfi_list in_session, in_peer, in_ready;
	uint32_t hash_next; /* tx: by (request, attempt); rx: by (epoch, peer) */
	uint64_t peer_life; /* of the peer when it was attached */
	bool peer_gone;
	enum ladder_step ladder;
	uint64_t ladder_ns; /* of the next step */

	uint64_t seen,
		began_ns; /* rx, deadline.c: number that moves with its bytes; begin of a slice whose RESULT is not in, 0: none */

	/* tx: what the REQUEST said */
	bool authority; /* false: an invitation */
	bool claiming;  /* CLAIM repeats until GO or CANCEL */
	uint64_t prompt_len;
	uint32_t dp_rank;
	enum kvf_replica replica;
	uint32_t lease_slot, lease_generation;
	bool sum;
	uint32_t aux_room;
	uint32_t ids_start, ids_n; /* in the id arena */
	struct kvfi_ids dst[KVF_MAX_GROUPS];
	bool owes_aux;
	/* tx: how far */
	struct kvfi_tx_slice *next_slice; /* to be posted */
	uint32_t next_number;             /* number of the next delivery */
	bool last_started;                /* the last (or a failed) one was started */
	uint32_t posted;                  /* handed to the transport and not done */
	uint32_t open;                    /* KV deliveries in the list */
	struct kvfi_list deliveries;      /* KV, in order */
	uint32_t aux_delivery;
	enum aux_state aux;
	bool kv_acked;
	bool counted;            /* in session->finished */
	enum kvf_status failing; /* not OK: only this still goes to the peer */
	bool failure_placed;     /* a delivery carries it */
	bool parked;             /* counted in its peer: it has no tx, or never had */
	bool expired;            /* parked for longer than its receiver waits */
	bool cancelled;          /* CANCEL is in; QUIET goes out when posted is 0 */

	/* rx */
	bool requested, answered, granted, revoked;
	bool receiver_applied;
	bool invitation;
	bool unchosen;   /* another DP group was: the CANCEL says so */
	bool cancelling; /* CANCEL repeats until QUIET */
	bool arrived;    /* last RESULT is in, or a failed one */
	enum kvf_proof proof;
	uint32_t next_result;
	struct applied applied[KVFI_WINDOW];
	uint32_t arrival; /* RESULT that waits for its bytes or its sum; KVFI_NONE */
	struct cover cover[KVF_MAX_GROUPS];
	uint64_t dropped_tokens;
};

enum delivery_state {
	DELIVERY_FREE = 0,
	DELIVERY_POSTED = 1,
	DELIVERY_READY = 2, /* its RESULT may go, in its turn */
	DELIVERY_SENT = 3   /* until ACK */
};

struct delivery {
	struct wake wake; /* repetition */
	uint64_t backoff_ns;
	enum delivery_state state;
	enum kvfi_result_kind kind;
	uint32_t link;
	struct kvfi_list node;       /* in link->deliveries; the free chain */
	struct kvfi_tx_slice *slice; /* NULL: of a failure */
	uint32_t number;
	bool last;
	enum kvf_status status;
	uint64_t bytes, runs, sum;
	uint64_t seen, began_ns; /* deadline.c: number that moves with its bytes; 0: no byte yet */
	struct kvfi_bound bound;
	char reason[KVFI_REASON_BYTES];
};

/* A RESULT that cannot be judged yet. */
struct arrival {
	uint32_t next_free;
	struct kvfi_msg_result result; /* aux is not kept: KV only */
	struct kvfi_bound bound;
	bool summing;
};

struct peer {
	bool known, up;
	enum kvf_status down_status;
	char down_reason[KVFI_ERROR_BYTES];
	uint64_t instance_id;
	uint32_t rank;
	struct kvfi_peer_up info; /* while up */
	struct kvfi_list links;
	uint64_t life;            /* a number of its own each time it comes up */
	bool dropped;             /* by the ladder, in this life */
	uint32_t deliveries;      /* of its links */
	struct kvfi_list starved; /* its links that have slices to post and must wait for one of these */
	uint32_t parked;          /* of its links */
	uint64_t floor;           /* epochs at or below it are stale unless a live record says else */
};

/* Bounded memory of what ended: a ring with a hash beside it, see memory.c. */
struct remembered {
	uint64_t key_a, key_b;
	uint64_t expires_ns;
	uint64_t epoch, life; /* given up: of the CANCEL, and of the peer that sent it */
	enum kvf_status status;
	uint32_t peer;
	uint32_t next;
	bool used;
};

struct memory {
	struct remembered *ring;
	uint32_t *heads;
	uint32_t max, mask, at;
};

/* A request that is wanted here before it is asked for. */
struct hold {
	uint64_t instance_id, request_id;
	uint32_t attempt, dp_index;
	uint64_t next_ns, expires_ns;
};

struct id_extent {
	uint32_t start, len;
};

/* Block ids of the peers' requests: first fit in one array, extents sorted by start. */
struct id_arena {
	int32_t *ids;
	struct id_extent *free;
	uint32_t n_free, max_free;
};

struct kvfi_core {
	struct kvfi_core_config config;
	struct kvfi_sink sink;
	uint64_t now_ns;
	struct kvfi_in_self self;
	uint32_t own_dp;
	uint64_t next_epoch, next_life;
	struct kvfi_timers timers;

	struct session *sessions;
	struct kvfi_list live;
	struct link *links;
	struct kvfi_list free_links; /* by in_session */
	struct delivery *deliveries;
	struct kvfi_list free_deliveries;
	uint32_t n_free_deliveries;
	struct arrival *arrivals;
	uint32_t free_arrival, n_arrivals;
	struct peer *peers;
	struct hold *holds; /* max_sessions */
	uint32_t n_holds;
	struct wake hold_wake;
	struct kvfi_list ready;          /* tx links with slices to post */
	uint32_t *tx_heads, *link_heads; /* hashes */
	struct kvfi_id_run *runs;        /* room to build one REQUEST */
	uint32_t hash_mask;
	struct id_arena arena;
	struct memory ended_tx;  /* (request, attempt): how a tx ended before every receiver was served */
	struct memory ended_ask; /* (life of the peer, epoch): a REQUEST that is over */
	struct memory ended_rx;  /* (epoch, 0): verdict of an rx */
	struct memory given_up;  /* (request, attempt): a receiver has cancelled before there was a tx */
	struct kvfi_core_counters counters;

	/* ladder.c, health.c */
	struct kvfi_list quarantine; /* by age */
	uint32_t n_quarantined, n_stuck;
	uint64_t quarantined_bytes;
	uint64_t ladder_counts[LADDER_STUCK + 1]; /* sessions that came to each step */
	uint64_t recovered;
	struct wake flight_wake; /* while something is in flight or may begin to move */
	uint32_t n_in_flight, n_granted;
	uint64_t moved_ns; /* a byte has moved, or the first session came into flight */
};

#define NO_HASH KVFI_NONE

/* core.c */
struct link *link_new(struct kvfi_core *core, enum link_kind kind);
void link_free(struct kvfi_core *core, struct link *link);
uint32_t link_index(const struct kvfi_core *core, const struct link *link);
uint32_t session_index(const struct kvfi_core *core, const struct session *session);
struct session *link_session(struct kvfi_core *core, const struct link *link); /* NULL if it has none */
void link_attach_peer(struct kvfi_core *core, struct link *link, uint32_t peer);
void link_detach_session(struct kvfi_core *core, struct link *link);
void wake_at(struct kvfi_core *core, struct wake *wake, uint64_t at_ns);
void wake_never(struct kvfi_core *core, struct wake *wake);
/* now + backoff, which doubles up to its limit. */
void wake_again(struct kvfi_core *core, struct wake *wake, uint64_t *backoff_ns);
struct session *tx_find(struct kvfi_core *core, uint64_t request_id, uint32_t attempt);
void tx_hash(struct kvfi_core *core, struct session *session);
void tx_unhash(struct kvfi_core *core, struct session *session);
/* tx links by (request, attempt), rx links by (epoch, peer); attached links only. */
void link_hash(struct kvfi_core *core, struct link *link);
void link_unhash(struct kvfi_core *core, struct link *link);
struct link *link_first(struct kvfi_core *core, uint64_t key_a, uint64_t key_b);
struct link *link_next(struct kvfi_core *core, const struct link *link);
void send_msg(struct kvfi_core *core, struct link *link, struct kvfi_msg *msg);
void msg_init(struct kvfi_msg *msg, enum kvfi_msg_type type, const struct link *link);
void session_init(struct kvfi_core *core, struct session *session, enum session_kind kind);

/* ids.c */
enum kvf_status ids_take(struct kvfi_core *core, uint32_t n, uint32_t *start_out);
void ids_give(struct kvfi_core *core, uint32_t start, uint32_t n);

/* peer.c */
void peer_up(struct kvfi_core *core, uint32_t peer, const struct kvfi_peer_up *info);
void peer_down(struct kvfi_core *core, uint32_t peer, const struct kvfi_in_peer_down *down);
struct peer *peer_find(struct kvfi_core *core, uint64_t instance_id, uint32_t rank);
const struct peer *peer_of_instance(const struct kvfi_core *core, uint64_t instance_id);

/* tx.c */
void tx_open(struct kvfi_core *core, uint32_t slot, const struct kvfi_in_tx_open *in);
void tx_send(struct kvfi_core *core, uint32_t slot, struct kvfi_tx_slice *slice);
void tx_aux(struct kvfi_core *core, uint32_t slot, const struct kvfi_in_aux *aux);
void tx_adopt(struct kvfi_core *core, struct session *session, struct link *link);
void tx_want_post(struct kvfi_core *core, struct link *link);
void tx_pump(struct kvfi_core *core);
/* It waits until a delivery of its peer is free, or no longer. */
void tx_starve(struct kvfi_core *core, struct link *link, bool starved);
void tx_done(struct kvfi_core *core, const struct kvfi_in_done *done);
void tx_link_stop(struct kvfi_core *core, struct link *link); /* cancel its posts */
void tx_link_over(
	struct kvfi_core *core, struct link *link); /* forget it, with its deliveries; nothing is posted */
void tx_fail_push(struct kvfi_core *core, struct link *link, const char *reason);
void tx_link_fail(struct kvfi_core *core, struct link *link, enum kvf_status status, const char *reason);

/* request.c */
/* The live link of exactly that epoch, or NULL. */
struct link *request_find(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg_header *header);
void on_request(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg);
void on_go(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg);
void on_cancel(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg);
/* Not KVF_OK: a receiver has given up on what is being opened. Told at most once. */
enum kvf_status request_given_up(
	struct kvfi_core *core, uint64_t request_id, uint32_t attempt, uint32_t *rank_out);
void link_cancelled(struct kvfi_core *core, struct link *link); /* posted is 0: QUIET */
void request_wake(struct kvfi_core *core, struct link *link);
void request_unpark(struct kvfi_core *core, struct link *link);
void send_claim(struct kvfi_core *core, struct link *link);

/* result.c */
struct delivery *delivery_new(struct kvfi_core *core, struct link *link, enum kvfi_result_kind kind);
void delivery_free(struct kvfi_core *core, struct delivery *delivery);
void results_push(struct kvfi_core *core, struct link *link); /* send what may be sent now */
void delivery_wake(struct kvfi_core *core, struct delivery *delivery);
void on_ack(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg);
void aux_push(struct kvfi_core *core, struct link *link);

/* rx.c */
void rx_open(struct kvfi_core *core, uint32_t slot, const struct kvfi_in_rx_open *in);
void rx_resolve(struct kvfi_core *core, struct session *session);
void rx_peer_up(struct kvfi_core *core, struct link *link, uint32_t peer);
void rx_wake(struct kvfi_core *core, struct link *link);
void on_request_ok(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg);
void on_claim(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg);
void on_quiet(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg);
struct link *rx_find(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg_header *header);
void rx_link_quiet(struct kvfi_core *core, struct link *link); /* that writer has said it is */
/* This rank is gone, and no group has claimed the request yet: it is left to the other groups. False: it cannot be. */
bool rx_forgo_group(struct kvfi_core *core, struct session *session, uint32_t rank);
void rx_answered(struct kvfi_core *core, struct link *link);
void rx_good_ends(const struct kvfi_core *core, const struct session *session, uint64_t *good_end_out);

/* arrival.c */
void on_result(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg);
void rx_done(struct kvfi_core *core, const struct kvfi_in_done *done);
void rx_summed(struct kvfi_core *core, uint32_t link, uint64_t sum);
void arrival_free(struct kvfi_core *core, struct link *link);

/* ending.c */
void session_tell(struct kvfi_core *core, struct session *session, enum kvf_event_type type,
	enum kvf_status status, uint32_t slice);
void session_state(struct kvfi_core *core, struct session *session, enum kvf_session_state state);
void session_fail(struct kvfi_core *core, struct session *session, enum kvf_status status, const char *format,
	...) __attribute__((format(printf, 4, 5)));
void session_complete(struct kvfi_core *core, struct session *session);
void session_try_release(struct kvfi_core *core, struct session *session);
void session_close(struct kvfi_core *core, uint32_t slot);
void rx_prove(struct kvfi_core *core, struct link *link, enum kvf_proof proof);
void rx_link_end(struct kvfi_core *core, struct link *link); /* revoke, CANCEL */
void rx_link_over(struct kvfi_core *core, struct link *link);
void rx_proof(struct kvfi_core *core, const struct kvfi_in_proof *proof);

/* ladder.c */
void quarantine_enter(struct kvfi_core *core, struct session *session);
void quarantine_leave(struct kvfi_core *core, struct session *session);
void ladder_wake(struct kvfi_core *core, struct session *session);
/* The peer of a link is gone: there is nobody left to ask. */
void ladder_lost(struct kvfi_core *core, struct link *link);
/* A fenced connection moves nothing any more. */
void ladder_fenced(struct kvfi_core *core, struct link *link);
uint64_t lists_bytes(const struct kvfi_core *core, const struct kvfi_ids *lists);

/* health.c */
/* Something of this session has changed: is it in flight? */
void flight_look(struct kvfi_core *core, struct session *session);
void flight_granted(struct kvfi_core *core, bool granted);
void flight_moved(struct kvfi_core *core);
void flight_wake(struct kvfi_core *core);

/* deadline.c */
void deadline_open(struct kvfi_core *core, struct session *session);
/* Bytes may move from now on: a post was made, a grant given. */
void deadline_begins(struct kvfi_core *core, struct session *session);
/* A piece of it is through: the queue deadline starts anew. */
void deadline_waits(struct kvfi_core *core, struct session *session);
/* Bytes of this delivery, or under this link's grant, have moved; first_ns: when the first did, 0: not known. */
void deadline_delivery(
	struct kvfi_core *core, struct session *session, struct delivery *delivery, uint64_t first_ns);
void deadline_bytes(struct kvfi_core *core, struct session *session, struct link *link, uint64_t first_ns);
/* rx: a RESULT was accepted: what has come until now has a name. */
/* Asks the transports what has moved. */
void deadline_look(struct kvfi_core *core, struct session *session);
void deadline_accepted(struct kvfi_core *core, struct session *session, struct link *link);
/* tx: a receiver says that it is wanted. */
void deadline_hold(struct kvfi_core *core, struct session *session);
/* For the other side; 0: for ever. */
uint64_t deadline_queue_left_ns(const struct kvfi_core *core, const struct session *session);
void session_wake(struct kvfi_core *core, struct session *session);

/* hold.c */
void hold_set(struct kvfi_core *core, const struct kvfi_in_hold *in);
void hold_end(struct kvfi_core *core, uint64_t instance_id, uint64_t request_id, uint32_t attempt);
void hold_wake(struct kvfi_core *core);
void on_hold(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg);

/* cancel.c */
/* May a permission or a byte of it leave?  False: it was cancelled first, and KVFI_IN_CANCEL follows. */
bool session_advertise(struct kvfi_core *core, struct session *session);
void session_cancel(struct kvfi_core *core, uint32_t slot, const struct kvfi_in_cancel *in);

/* memory.c */
enum kvf_status memory_init(struct memory *memory, uint32_t max);
void memory_fini(struct memory *memory);
void memory_put(struct kvfi_core *core, struct memory *memory, const struct remembered *record);
const struct remembered *memory_find(const struct memory *memory, uint64_t key_a, uint64_t key_b);
void memory_forget(struct memory *memory, uint64_t key_a, uint64_t key_b);

#endif
