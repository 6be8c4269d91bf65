/* sim.h - inside of the virtual cluster. Private to src/sim.
 *
 * One world: nodes (a process each: an agent, its memory, its user), the network between them, and a queue of events in virtual time. Everything
 * runs in one thread; `current` is the node whose code runs. What the world must repeat bit for bit is drawn from its own random streams, a
 * stream per purpose, so that leaving a request or a fault out changes as little as possible of the rest.
 *   time.c       events, clocks, random streams     trace.c      what happened, as lines and as a hash
 *   draw.c       the cluster that a seed means      node.c       processes: start, turn, crash
 *   pool.c       memory and who may write it        net.c        paths between nodes, the control channel's faults
 *   control.c    the control channel                transport.c  links, grants, connecting
 *   post.c       one-sided stores                   stream.c     stores that the receiver applies
 *   hot.c        messages over the data path        cancel.c     users who cancel
 *   grant.c      permissions, proofs, the fence     user_events.c  what users make of events
 *   user.c       requests, sessions                 lists.c      which blocks, which slices
 *   strike.c     single faults                      probe.c      does it work again?
 *   run.c        a run from seed to report
 */
#ifndef KVFI_SIM_SIM_H
#define KVFI_SIM_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "agent/seams.h"
#include "base/clock.h"
#include "kvferry/sim.h"
#include "memory/lease_table.h"
#include "transport/store.h"
#include "transport/transport.h"

#define SIM_NONE         UINT32_MAX
#define SIM_MAX_NODES    16u
#define SIM_GROUPS       3u
#define SIM_BLOCKS       44u /* of a paged, windowed group of one rank */
#define SIM_STATE_SLOTS  12u
#define SIM_MAX_LIST     16u /* blocks of one list */
#define SIM_MAX_REQUESTS 256u
#define SIM_MAX_STRIKES  64u
#define SIM_AUX_SLOTS    12u
#define SIM_AUX_BYTES    32u
#define SIM_CELL_BYTES   8u /* all rows and pieces are multiples of it */
#define SIM_START_NS     (UINT64_C(1000) * KVFI_NS_PER_S)

/* ---- time.c ---- */

struct sim_random {
	uint64_t state;
};

uint64_t sim_next(struct sim_random *random);
/* In [0, n); 0 for n 0. */
uint64_t sim_below(struct sim_random *random, uint64_t n);
/* True in n of 1000. */
bool sim_chance(struct sim_random *random, uint64_t n);
/* In [low, high], more often low. */
uint64_t sim_skewed(struct sim_random *random, uint64_t low, uint64_t high);

struct sim_world;

struct sim_event {
	uint64_t at_ns, sequence;
	void (*run)(struct sim_world *world, struct sim_event *event);
	void (*drop)(struct sim_event
			*event); /* instead of run, when its process is gone; NULL: nothing to free */
	uint32_t node, life;     /* whose it is; SIM_NONE: the world's */
	bool on_cpu;             /* it waits while that process is stopped */
	void *payload;
	uint64_t a, b;
};

struct sim_queue {
	struct sim_event *heap;
	uint32_t n, max;
};

/* The event that sim_at has put; valid until the next call. */
struct sim_event *sim_at(struct sim_world *world, uint64_t at_ns,
	void (*run)(struct sim_world *world, struct sim_event *event));
bool sim_take(struct sim_world *world, struct sim_event *event_out);
void sim_queue_fini(struct sim_queue *queue);
void sim_clocks_take(struct sim_world *world);
void sim_clocks_give(void);
void *sim_new(size_t bytes);

/* ---- nodes ---- */

/* What a cell of a pool is: 8 bytes. */
struct sim_cell {
	uint16_t owner; /* request index + 1; 0: nobody's, it holds the canary */
	uint8_t writes; /* since the owner has it */
};

struct sim_pool {
	unsigned char *memory;
	uint64_t len_bytes;
	struct sim_cell *cells;
	uint64_t base; /* address of memory */
	uint32_t n_free[SIM_GROUPS];
	int32_t free_ids[SIM_GROUPS][SIM_BLOCKS];
	unsigned char aux[SIM_AUX_SLOTS][SIM_AUX_BYTES];
	uint64_t free_aux; /* bits */
};

struct sim_list {
	uint32_t n, first_block;
	int32_t ids[SIM_MAX_LIST];
};

enum sim_phase {
	SIM_UNUSED = 0,
	SIM_WANTED = 1, /* to be opened, or tried again */
	SIM_OPEN = 2,
	SIM_CLOSED = 3,
	SIM_GIVEN_UP = 4 /* never opened */
};

/* A session as its user sees it; one per node and request. */
struct sim_session {
	enum sim_phase phase;
	kvf_session handle;
	bool blocks_taken, ready, outcome, released, aux_sent;
	bool cancelled_early; /* before anything was advertised: nothing of it may be seen */
	bool bytes_seen;      /* somebody has stored into its blocks, or read them */
	enum kvf_status status;
	enum kvf_session_state state;
	uint32_t slices; /* SLICE events so far */
	uint32_t next_cut, tries;
	uint32_t aux_slot;
	uint64_t epoch; /* rx: as its grants name it */
	uint64_t outcome_ns;
	struct sim_list lists[SIM_GROUPS];
};

struct sim_control;
struct sim_transport;

struct sim_node {
	struct sim_world *world;
	uint32_t index;
	bool decode;
	uint32_t rank;
	char name[8];
	uint32_t life; /* grows when it is started again */
	bool alive, stopped;
	uint64_t clock_offset_ns;
	kvf_agent *agent;
	struct kvf_layout *layout;
	struct sim_pool pool;
	uint64_t turn_sequence; /* of its next turn's event; 0: none */
	uint64_t turn_ns;
	uint32_t waiting_strike; /* index + 1 of one that waits until a worker is inside a lease; 0: none */
	uint32_t
		cancel_inside; /* index + 1 of a request that is cancelled in the middle of a turn; 0: none */
	uint64_t alloc_fails_at; /* n-th allocation of the next call; 0: none */
	struct sim_control *control;
	struct sim_transport *transports[3];
	struct sim_session sessions[SIM_MAX_REQUESTS];
	struct sim_event *frozen;
	uint32_t n_frozen, max_frozen;
};

/* ---- what a seed means: draw.c ---- */

enum sim_personality {
	SIM_APPLIED = 0, /* the receiver stores what a stream brings */
	SIM_LEASED = 1,  /* the sender's workers store, under lease words */
	SIM_CARD = 2     /* a card stores, until it was flushed; only its owner knows when */
};

/* Between two nodes, both directions. */
struct sim_path {
	enum sim_personality personality;
	uint64_t latency_ns;
	bool hot;              /* messages may ride over the data path */
	uint64_t cut_until_ns; /* nothing passes before */
	uint64_t slow_until_ns, slow_ns;
};

struct sim_request {
	uint64_t id;
	uint32_t attempt;
	uint64_t prompt_len;
	uint32_t src_dp, dst_dp;
	bool unknown_dp, aux, layer_wise;
	bool ticket, held; /* rx opens by a ticket; and holds it from when tx opens */
	uint32_t skip, chunks;
	enum kvf_replica replica;
	uint64_t tx_ns, rx_ns; /* when its users begin, about */
	bool retried, probe;
	uint32_t cancels; /* how often its users cancel it */
};

enum sim_strike_kind {
	SIM_STRIKE_PARTITION = 0,
	SIM_STRIKE_SLOW,
	SIM_STRIKE_STOP,
	SIM_STRIKE_CRASH,
	SIM_STRIKE_RESTART, /* an orderly close, and a start */
	SIM_STRIKE_ALLOC,
	SIM_STRIKE_CLOCK
};

struct sim_strike {
	enum sim_strike_kind kind;
	uint64_t at_ns, for_ns;
	uint32_t node, other;
	bool for_good;
	bool inside; /* stop, crash: when a worker of that process is inside a lease next */
	uint64_t amount;
};

struct sim_rates { /* of 1000 messages, stores */
	uint32_t drop, duplicate, corrupt, delay, reorder;
	uint64_t reorder_ns, delay_ns, control_extra_ns, data_extra_ns;
};

struct sim_counts {
	uint64_t events, turns, messages, stores;
	uint64_t faults[KVF_SIM_FAULTS];
};

enum sim_probing {
	SIM_PROBES_NONE = 0,
	SIM_PROBES_WAIT = 1,
	SIM_PROBES_SENT = 2
};

struct sim_link;

struct sim_world {
	struct kvf_sim_options options;
	uint64_t now_ns, sequence;
	struct sim_queue queue;
	struct sim_node *current;
	struct sim_random draw, net, store, user, names;

	const struct kvf_model *model;
	struct kvf_instance *instances[2];
	struct kvf_layout_options layouts[2];
	struct kvf_options agent; /* of every node */
	uint32_t n_nodes, n_prefill;
	struct sim_node nodes[SIM_MAX_NODES];
	struct sim_path paths[SIM_MAX_NODES][SIM_MAX_NODES]; /* [prefill][decode] */
	bool tiny;                                           /* tables of the smallest size */
	bool has_fence, has_exit;                            /* what the receivers' kernels can do */
	bool frees_at_safe_cancel; /* users free at a safe result, not at RELEASED */
	uint32_t n_requests;
	struct sim_request requests[SIM_MAX_REQUESTS];
	uint32_t n_strikes;
	struct sim_strike strikes[SIM_MAX_STRIKES];
	struct sim_rates rates;
	uint64_t load_end_ns, settle_ns;
	bool calm; /* faults are over */
	enum sim_probing probing;
	uint32_t first_probe;                  /* request */
	uint64_t probe_begin_ns, probe_end_ns; /* all have begun; all must be over */

	struct sim_link *links;
	struct sim_counts counts;
	uint32_t completed, failed_sessions, cancelled, timed_out, died, opened;
	uint64_t proofs[9];

	FILE *trace;
	uint64_t hash;
	bool failed;
	char failure[1024];
};

void sim_draw(struct sim_world *world);
void sim_describe(const struct sim_world *world, char *text, size_t len_bytes);
bool sim_has(const struct sim_world *world, enum kvf_sim_fault fault);
void sim_count(struct sim_world *world, enum kvf_sim_fault fault);

/* ---- trace.c ---- */

/* One line of what happened at node (SIM_NONE: the world's). Everything that is said goes into the hash. */
void sim_trace(struct sim_world *world, uint32_t node, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* The first one counts; the run ends. */
void sim_fail(struct sim_world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- node.c ---- */

void sim_node_start(struct sim_node *node);
/* The process is gone, at once and without a word. */
void sim_node_crash(struct sim_node *node);
/* It closes in order. */
void sim_node_close(struct sim_node *node);
void sim_node_stop(struct sim_node *node);
void sim_node_continue(struct sim_node *node);
/* A turn not later than after_ns from now. */
void sim_wake(struct sim_node *node, uint64_t after_ns);
void sim_node_fini(struct sim_node *node);
/* Around every call into a node's agent. */
void sim_enter(struct sim_node *node);
void sim_leave(struct sim_node *node);

/* ---- pool.c ---- */

void sim_pool_init(struct sim_node *node);
void sim_pool_fini(struct sim_node *node);
/* False: not enough blocks are free. */
bool sim_pool_take(struct sim_node *node, uint32_t request);
/* Who owned them may be written no more; they hold the canary. */
void sim_pool_give(struct sim_node *node, uint32_t request);
/* A store of request's bytes is about to happen. False: it may not, and the run has failed. */
bool sim_pool_may_store(struct sim_node *node, uint64_t dst, uint64_t len_bytes, uint32_t request,
	uint64_t epoch, const char *writer);
bool sim_pool_may_read(struct sim_node *node, uint64_t src, uint64_t len_bytes, uint32_t request);
/* Every byte is there, stored once; and, once the receiver was told so, the aux data. */
enum sim_completeness {
	SIM_SENT = 0,
	SIM_RECEIVED = 1
};
void sim_pool_check_complete(struct sim_node *node, uint32_t request, enum sim_completeness what);
/* It failed: what is not called bad is good. */
void sim_pool_check_good(struct sim_node *node, uint32_t request);
/* What nobody owns holds the canary. */
void sim_pool_check_canary(struct sim_node *node);
void sim_aux_content(const struct sim_request *request, unsigned char *aux);

/* ---- net.c ---- */

struct sim_path *sim_path_of(struct sim_world *world, uint32_t a, uint32_t b);
bool sim_is_cut(struct sim_world *world, uint32_t a, uint32_t b);
/* How long a piece of data takes. */
uint64_t sim_data_delay(struct sim_world *world, uint32_t a, uint32_t b);
struct sim_passage {
	uint32_t copies;
	uint64_t delay_ns[2];
	bool corrupt;
};
void sim_passage(struct sim_world *world, uint32_t from, uint32_t to, struct sim_passage *passage_out);

/* ---- control.c, transport.c ---- */

extern const struct kvfi_control_ops sim_control_ops;
void sim_describe_message(const struct kvfi_msg *msg, char *text, size_t len_bytes);
extern const struct kvfi_transport_ops sim_applied_ops, sim_leased_ops, sim_card_ops;
const struct kvfi_transport_ops *sim_transport_ops(enum sim_personality personality);
const char *sim_personality_name(enum sim_personality personality);
void sim_links_fini(struct sim_world *world);
/* The process at this node has gone; the kernel tells the others. */
void sim_links_crashed(struct sim_node *node);
/* Can nothing ever prove that the writers of this session are quiet? */
bool sim_never_provable(struct sim_node *node, uint32_t request);

/* ---- user.c, user_events.c, lists.c ---- */

struct sim_event *sim_user_at(struct sim_node *node, uint32_t request, uint64_t after_ns,
	void (*run)(struct sim_world *world, struct sim_event *event));
/* Is this the answer of a full table? */
bool sim_may_wait(enum kvf_status status);
void sim_call_failed(const struct sim_node *node, uint32_t request, const char *call, enum kvf_status status);
/* The same request again, as its next attempt: now and then. */
void sim_try_again(struct sim_world *world, uint32_t request);

void sim_user_begin(struct sim_world *world);
/* What a poll has given. */
void sim_user_event(struct sim_node *node, const struct kvf_event *event);
/* The node was started again; what its users still want is opened again. */
void sim_user_lost(struct sim_node *node);
void sim_cancels_begin(struct sim_world *world, uint32_t request);
/* A turn of this node comes out to the world: other threads of its process may do something now. */
void sim_turn_is_here(struct sim_node *node);
/* Permission, or a byte, of this request is about to leave the node. */
void sim_advertises(struct sim_node *node, uint64_t id, uint32_t attempt, const char *what);
uint32_t sim_request_find(const struct sim_world *world, uint64_t id, uint32_t attempt);
bool sim_takes_part(const struct sim_world *world, const struct sim_node *node, uint32_t request);
uint32_t sim_list_length(const struct sim_node *node, uint32_t request, uint32_t group, uint32_t *first_out);
struct sim_cut {
	uint64_t token_start, token_end;
	uint32_t layer_start, layer_end;
	bool last;
};
/* The n-th slice of a request on this prefill rank; false: there is none. */
bool sim_cut(const struct sim_node *node, uint32_t request, uint32_t n, struct sim_cut *cut_out);
/* Its list of one group: part of the session's. */
uint32_t sim_cut_list(const struct sim_node *node, uint32_t request, const struct sim_cut *cut,
	uint32_t group, const int32_t **ids_out);

void sim_user_begin_request(struct sim_world *world, uint32_t request);

/* ---- probe.c ---- */

void sim_probes_begin(struct sim_world *world);
/* All must have completed. */
void sim_probes_check(struct sim_world *world);
/* Everything is over on this node, or waits for a proof. */
void sim_check_health(struct sim_node *node);

/* ---- strike.c ---- */

void sim_strikes_begin(struct sim_world *world);
/* A worker of this node is inside a lease, with stores to come. */
void sim_strike_inside(struct sim_node *node);
/* Everything heals. */
void sim_calm(struct sim_world *world);

#endif
