/* agent.h - inside of an agent. Private to src/agent.
 *
 * Two halves. The *front* is the user's thread: it checks calls, owns session slots, copies of block lists and registered memory, and takes
 * events. The *owner* is the thread that owns all the rest: the core, the control channel, the transports, the peers. It is the agent's
 * progress thread, or, without one, the user's thread inside kvf_poll and kvf_wait. Front and owner meet in the inbox (in) and the event
 * ring (out) alone; the fields below say whose they are.
 */
#ifndef KVFI_AGENT_AGENT_H
#define KVFI_AGENT_AGENT_H

#include <pthread.h>
#include <stdatomic.h>
#include "base/inbox.h"
#include "control/control.h"
#include "memory/region.h"
#include "session/core.h"
#include "session/record.h"
#include "transport/transport.h"
#include "agent/cancel.h"
#include "agent/seams.h"
#include "agent/workers.h"

#define KVFI_ENDPOINT_BYTES    256u
#define KVFI_DEFAULT_EXPIRY_NS (UINT64_C(600) * KVFI_NS_PER_S) /* of a tx and its tickets */
#define KVFI_MAX_AGENT_GROUPS  8u
#define KVFI_MAX_GROUP_MEMBERS 128u /* of all groups */
#define KVFI_PEER_EVENTS       4u   /* PEER events that may wait, times max_peers */

/* ---- front ---- */

struct agent_group;

/* A place for a group. The group itself is in group.h. */
struct front_group {
	struct agent_group *group; /* NULL: none, or closed by the user */
	uint32_t generation;
};

/* A copy of what the user gave, kept until the session is closed. */
struct kept {
	struct kept *next;
	uint64_t n_ids;
};

struct front_slice {
	struct kept kept;
	struct kvfi_tx_slice slice;
	int32_t ids[];
};

enum front_kind {
	FRONT_FREE = 0,
	FRONT_TX = 1,
	FRONT_RX = 2
};

struct front_session {
	enum front_kind kind;
	uint32_t generation;
	uint32_t next; /* free chain, or hash chain of live requests */
	uint64_t instance_id, request_id, prompt_len;
	uint32_t attempt;
	struct kept *kept;
	uint64_t kept_ids;
	uint32_t kept_slices;
	uint32_t n_links; /* rx: taken from max_links, when the instance was known */
	bool outcome_polled, released_polled;
	enum kvf_status outcome;
	struct kvf_session_stats stats;
	char error[256];
	uint64_t good_end[KVF_MAX_GROUPS];
	/* tx: what the slices so far tile */
	bool any_slice, last_given, aux_given;
	uint64_t tile_start, tile_end, first_tile_end;
	uint32_t tile_layer_end;
	uint32_t n_slices;
	/* rx */
	struct kvfi_in_rx_open rx;
};

struct front_hold {
	uint64_t instance_id, request_id, expires_ns;
	uint32_t attempt;
};

struct event_item {
	struct kvf_event event;
	uint32_t slot; /* of the session, or the peer */
	struct kvf_session_stats stats;
	char error[256];
	uint64_t good_end[KVF_MAX_GROUPS];
};

/* One writer (owner), one reader (front). Its size covers every event that can wait, see open.c. */
struct event_ring {
	struct event_item *items;
	uint32_t max;
	_Atomic uint32_t head, tail; /* taken, put; modulo 2^32 */
	int event_fd;
	_Atomic bool signalled;
};

/* ---- between ---- */

struct call;

enum item_kind {
	ITEM_INPUT = 1, /* straight to the core */
	ITEM_CALL = 2,  /* the front waits for it */
	ITEM_DONE = 3,  /* a transport's word */
	ITEM_SUMMED = 4,
	ITEM_GROUP = 5 /* a round of a group was posted */
};

struct item_input {
	enum kvfi_input_kind kind;
	uint32_t session;
	union {
		struct kvfi_in_tx_open tx_open;
		struct kvfi_in_aux aux;
		struct kvfi_tx_slice *slice;
		const struct kvfi_in_rx_open *rx_open;
		struct kvfi_in_hold hold;
	} u;
};

struct item_done {
	enum kvfi_done_kind kind;
	enum kvf_status status;
	uint32_t transport, peer, slice;
	uint64_t id, epoch, bytes, runs, sum, first_ns, last_ns, ranges_hash;
	char reason[128];
};

struct item {
	enum item_kind kind;
	union {
		struct item_input input;
		struct call *call;
		struct item_done done;
		struct {
			uint32_t link;
			uint64_t sum;
		} summed;
		struct {
			uint32_t place, len_bytes;
			uint64_t round;
		} group;
	} u;
};

/* A function that the owner runs while the front waits. */
struct call {
	enum kvf_status (*run)(kvf_agent *agent, void *arguments);
	void *arguments;
	enum kvf_status status;
	char error[512];
	bool done;
};

/* ---- owner ---- */

enum peer_state {
	PEER_FREE = 0,
	PEER_CALLING = 1,    /* decode: HELLO repeats until HELLO_OK */
	PEER_CONNECTING = 2, /* the data path is being made */
	PEER_UP = 3,
	PEER_REFUSED = 4, /* decode: asks again every second; remembered per incarnation */
	PEER_DOWN = 5     /* over; the slot is free again when the core names it no more */
};

struct agent_peer {
	enum peer_state state;
	uint32_t generation;
	enum kvf_status status;
	char reason[256];
	char endpoint[KVFI_ENDPOINT_BYTES];
	uint32_t way;
	uint64_t incarnation, link;
	uint64_t wanted_instance; /* of the ticket or the map that named the endpoint; 0: not known */
	uint32_t wanted_rank;     /* likewise; KVFI_NONE: not known */
	uint64_t next_ns, backoff_ns, deadline_ns;
	uint64_t heard_ns, asked_ns, pings; /* up: anything came, a PING went, how many */
	struct kvfi_msg_hello hello;        /* the peer's; instance and layout are ours */
	struct kvf_layout *mapped;          /* prefill: the peer's layout with addresses of this process */
	kvf_plan *plans[2];
	uint64_t digests[2];
	struct kvf_pair *pairs;
	struct kvfi_pair_list *by_dp;
	uint32_t n_dps;
	uint32_t transport; /* chosen, or tried */
	uint32_t tried;     /* bits */
	bool bad_frame;     /* one came that makes no sense: its end is on its way */
	bool in_core;       /* the core was told UP and not DOWN */
	bool untold;        /* its status was not told: there was no room */
	bool attempted;     /* decode: a transport could reach it, and tried */
	bool recall;        /* decode: to be called again, in another slot, at next_ns */
	bool dropping;      /* by the ladder, when the core's step is over */
	bool barred;        /* it was */
	bool was_up;        /* it, or the one that it was called again for */
};

struct watch {
	uint32_t link, peer;
};

struct agent_transport {
	kvf_agent *agent;
	uint32_t index;
	const struct kvfi_transport_ops *ops;
	struct kvfi_transport *self;
};

/* The owner writes id last and clears it first. */
struct known_instance {
	_Atomic uint64_t id; /* 0: none */
	_Atomic uint32_t links, links_unknown_dp;
};

#define KVFI_HEALTH_WORDS (sizeof(struct kvf_health) / sizeof(uint64_t))

struct health_place {
	_Atomic uint64_t sequence; /* odd: being written */
	_Atomic uint64_t words[KVFI_HEALTH_WORDS];
};

/* One writer (owner), any number of readers. */
struct published_health {
	struct health_place places[2];
	_Atomic uint32_t current;
};

struct sum_job;

struct kvf_agent {
	/* fixed after open */
	struct kvf_options options;
	struct kvfi_faults faults; /* when options.faults is not NULL */
	struct kvfi_agent_seams seams;
	bool has_seams;
	char *strings; /* what options points into */
	uint64_t incarnation;
	char listening[KVFI_ENDPOINT_BYTES]; /* the real control endpoint; "" */
	bool threaded;
	pthread_t thread;
	_Atomic pthread_t owner; /* who may touch the owner's half */
	struct kvfi_workers *workers;
	struct kvfi_inbox inbox;
	uint32_t keep; /* places of the inbox that only bounded producers may use */
	struct event_ring events;
	struct kvfi_cancels cancels; /* any thread */
	_Atomic bool stop;
	_Atomic uint32_t unreleased;
	_Atomic bool healthy; /* as in the last snapshot */
	struct published_health health;
	_Atomic uint32_t peer_events; /* in the ring */
	_Atomic uint32_t untold;      /* peers whose last change had no room there */

	/* calls */
	pthread_mutex_t call_lock;
	pthread_cond_t call_done;

	/* front */
	struct kvfi_regions regions;
	struct kvf_instance *instance;
	struct kvf_layout *layout, *wire_layout;
	uint32_t rank;
	bool declared;
	struct front_session *sessions;
	/* Per slot: generation << 32 | state; what any thread may ask. The front writes it at open, the owner as the state goes on. */
	_Atomic uint64_t *states;
	uint32_t *live_heads;
	uint32_t live_mask, free_session;
	uint64_t ids_used;
	uint32_t slices_used, links_used;
	struct front_hold *holds; /* max_sessions */
	uint32_t n_holds;
	struct front_group front_groups[KVFI_MAX_AGENT_GROUPS];

	/* owner */
	struct kvfi_core *core;
	struct kvfi_recorder *recorder; /* NULL: nothing is recorded */
	struct kvfi_control *control;
	struct agent_transport transports[KVFI_MAX_AGENT_TRANSPORTS];
	uint32_t n_transports;
	struct agent_peer *peers;
	/* Per peer slot, what the front may know of it: how many links a request to its instance takes. */
	struct known_instance *known;
	uint32_t n_dropping;
	bool peers_changed; /* since they were counted */
	uint32_t lost_peers, barred_links;
	uint64_t peer_losses;
	uint32_t counted_quarantined; /* when they were counted last */
	uint64_t health_due_ns;
	uint64_t peers_due_ns; /* no peer's time is before it */
	uint32_t *way_peers;   /* per way: the slot that its last message was from */
	uint32_t
		next_peer; /* slots are taken in turn, so that a late word about an old one finds it at rest */
	uint8_t *
		granted_by; /* per link of the core: which transport its last grant is of; the peer may have another one by now */
	struct watch *watches;
	uint32_t n_watches;
	struct sum_job *sums;
	struct agent_group *groups[KVFI_MAX_AGENT_GROUPS];
	uint32_t group_members;
	uint64_t groups_due_ns; /* no group's time is before it */
	unsigned char *frame;
	int epoll_fd, timer_fd;
	bool told;    /* events were put and their descriptor was not written yet */
	bool in_turn; /* the inbox will be drained before the owner sleeps */
	bool sent;    /* a control message went out in this turn */
	uint64_t next_tick_ns;
	enum kvf_status open_status;
	char open_error[512];
	bool opened;
};

/* Every control channel begins with its functions. */
static inline const struct kvfi_control_ops *kvfi_control_of(const kvf_agent *agent)
{
	return ((const struct kvfi_control_base *)(const void *)agent->control)->ops;
}

/* options.c */
KVF_MUST_CHECK enum kvf_status kvfi_options_take(kvf_agent *agent, const struct kvf_options *options);
void kvfi_options_drop(kvf_agent *agent);
bool kvfi_options_wants(const kvf_agent *agent, const char *transport, uint32_t *place_out);

/* owner.c, turn.c: the owner */
KVF_MUST_CHECK enum kvf_status kvfi_owner_open(kvf_agent *agent);
void kvfi_owner_close(kvf_agent *agent);
/* Without a progress thread whoever calls is the owner, and the sockets go with it. */
void kvfi_owner_adopt(kvf_agent *agent);
void kvfi_owner_turn(kvf_agent *agent);
/* Sleeps until there is something to do, or until_ns. */
void kvfi_owner_sleep(kvf_agent *agent, uint64_t until_ns);
void kvfi_owner_heed_events(kvf_agent *agent, bool heed);
void kvfi_owner_step(kvf_agent *agent, const struct kvfi_input *input);
/* The inbox is shut: who still waits in it is told. */
void kvfi_owner_refuse_calls(kvf_agent *agent);
void kvfi_owner_item(kvf_agent *agent, const struct item *item);
uint32_t kvfi_max_deliveries(const kvf_agent *agent);
void kvfi_transport_notify(void *self, const struct kvfi_done *done);
void kvfi_control_wake(void *self);
/* Any thread: run on the owner and wait for it. */
KVF_MUST_CHECK enum kvf_status kvfi_owner_call(
	kvf_agent *agent, enum kvf_status (*run)(kvf_agent *agent, void *arguments), void *arguments);
/* Front: hand something over; false: no room. */
bool kvfi_owner_tell(kvf_agent *agent, const struct item *item);
/* The same, for an input of the core. */
bool kvfi_owner_input(kvf_agent *agent, const struct item_input *input);

/* sink.c */
void kvfi_sink_fill(kvf_agent *agent, struct kvfi_sink *sink_out);
void kvfi_peer_send(kvf_agent *agent, uint32_t peer, struct kvfi_msg *msg);
void kvfi_event_put(kvf_agent *agent, const struct event_item *item);
void kvfi_events_signal(kvf_agent *agent);
void kvfi_watches_look(kvf_agent *agent);

/* hello.c: HELLO and its answers */
void kvfi_hello_send(kvf_agent *agent, uint32_t peer);
void kvfi_hello_message(kvf_agent *agent, uint32_t way, struct kvfi_msg *msg);
/* Bytes came by that way that make no sense, or of another version. */
void kvfi_hello_garbage(kvf_agent *agent, uint32_t way, enum kvf_status status, const char *reason);

/* It came under a link that is barred or not known: that is answered. */
void kvfi_hello_bar(kvf_agent *agent, uint32_t way, const struct kvfi_msg *msg);

/* liveness.c: of peers that are up */
void kvfi_liveness_begin(kvf_agent *agent, uint32_t slot);
void kvfi_liveness_heard(kvf_agent *agent, uint32_t slot);
/* Something came from it; true: it was about liveness alone. */
bool kvfi_liveness_message(kvf_agent *agent, uint32_t slot, const struct kvfi_msg *msg);
uint64_t kvfi_liveness_next_ns(const kvf_agent *agent, const struct agent_peer *peer);
/* Asks it, or loses it, when it is time. */
void kvfi_liveness_look(kvf_agent *agent, uint32_t slot, uint64_t now_ns);
void kvfi_liveness_slept(kvf_agent *agent, uint64_t due_ns, uint64_t now_ns);

/* peers.c: slots, timers, up and down */
struct agent_peer *kvfi_peer_new(kvf_agent *agent, enum peer_state state, uint32_t *slot_out);
/* The number of its next connection. */
void kvfi_peer_draw_link(struct agent_peer *peer);
void kvfi_peer_status(kvf_agent *agent, uint32_t slot, enum kvf_status status, const char *reason);
/* Those that had no room; the user has taken some. */
void kvfi_peers_tell(kvf_agent *agent);
void kvfi_peer_refused(kvf_agent *agent, uint32_t slot, enum kvf_status status, const char *reason);
void kvfi_peer_lost(kvf_agent *agent, uint32_t slot, enum kvf_status status, const char *reason);
/* Those that the ladder wants to be dropped: their connections are closed, their links barred. */
void kvfi_peers_drop(kvf_agent *agent);
void kvfi_peers_tick(kvf_agent *agent, uint64_t now_ns);
/* From now on the connect timeout runs, if there is one. */
void kvfi_peer_hurry(kvf_agent *agent, struct agent_peer *peer);
/* A peer's next_ns or deadline_ns was set. */
void kvfi_peers_due(kvf_agent *agent, uint64_t at_ns);
KVF_MUST_CHECK enum kvf_status kvfi_peer_call(
	kvf_agent *agent, const char *endpoint, uint64_t instance_id, uint32_t rank);
void kvfi_peers_fini(kvf_agent *agent);
/* One that is up; KVFI_NONE. */
uint32_t kvfi_peer_of_instance(const kvf_agent *agent, uint64_t instance_id);
bool kvfi_way_is_used(const kvf_agent *agent, uint32_t way);
uint32_t kvfi_peer_by_incarnation(const kvf_agent *agent, uint64_t incarnation, uint64_t link);
/* The same, for a message that came by this way. */
uint32_t kvfi_peer_by_way(kvf_agent *agent, uint32_t way, uint64_t incarnation, uint64_t link);

/* path.c: the data path of a peer, and its plans */
void kvfi_path_start(kvf_agent *agent, uint32_t slot);  /* decode: try the next transport */
void kvfi_path_expect(kvf_agent *agent, uint32_t slot); /* prefill */
void kvfi_path_up(kvf_agent *agent, uint32_t transport, uint32_t slot);
void kvfi_path_broken(
	kvf_agent *agent, uint32_t transport, uint32_t slot, enum kvf_status status, const char *reason);
KVF_MUST_CHECK enum kvf_status kvfi_path_pairs(kvf_agent *agent, struct agent_peer *peer);
void kvfi_path_free(struct agent_peer *peer);
KVF_MUST_CHECK enum kvf_status kvfi_path_judge_map(
	const kvf_agent *agent, const struct kvfi_msg_hello *hello);
KVF_MUST_CHECK enum kvf_status kvfi_path_judge(
	const kvf_agent *agent, const struct kvfi_msg_hello *hello, struct kvf_refusal *refusal_out);

/* health.c */
void kvfi_health_refresh(kvf_agent *agent);

/* connect.c: calls the endpoints of a ticket, then steps the input, NULL for none; nothing when none could be called. */
KVF_MUST_CHECK enum kvf_status kvfi_ticket_connect(
	kvf_agent *agent, const void *ticket, size_t ticket_bytes, const struct item_input *then);

/* hold_calls.c: the request of this ticket is received now. */
void kvfi_hold_end(kvf_agent *agent, const struct kvf_ticket_info *info);

/* rx_calls.c: what a ticket says, if it has not expired; life_ns: how long it has left, tolerance included. */
KVF_MUST_CHECK enum kvf_status kvfi_ticket_read_live(
	const void *ticket, size_t ticket_bytes, struct kvf_ticket_info *info_out, uint64_t *life_ns_out);

/* sum.c */
KVF_MUST_CHECK enum kvf_status kvfi_sums_init(kvf_agent *agent);
void kvfi_sum_start(kvf_agent *agent, uint32_t link, const struct kvfi_bound *bound);

/* front.c */
KVF_MUST_CHECK enum kvf_status kvfi_front_find(
	kvf_agent *agent, kvf_session session, struct front_session **front_out);
kvf_session kvfi_front_handle(const kvf_agent *agent, uint32_t slot);
bool kvfi_front_is_live(kvf_agent *agent, uint64_t instance_id, uint64_t request_id, uint32_t attempt);
/* The slot and everything a session needs of the front; nothing is visible before. NULL: max_sessions. */
struct front_session *kvfi_front_take(
	kvf_agent *agent, enum front_kind kind, uint64_t instance_id, uint64_t request_id, uint32_t attempt);
void kvfi_front_give(kvf_agent *agent, struct front_session *front);
void kvfi_front_drop_all(kvf_agent *agent);
KVF_MUST_CHECK enum kvf_status kvfi_front_role(const kvf_agent *agent, enum kvf_role role);
KVF_MUST_CHECK enum kvf_status kvfi_front_prompt(uint64_t prompt_len);
/* The user's lists by group: no group twice, none unknown, in the room there is. */
KVF_MUST_CHECK enum kvf_status kvfi_front_sort_lists(const kvf_agent *agent, uint32_t n_lists,
	const struct kvf_blocks *lists, struct kvfi_ids *sorted, uint64_t *n_ids_out);
KVF_MUST_CHECK enum kvf_status kvfi_front_check_lists(
	const kvf_agent *agent, const struct kvfi_shape *shape, const struct kvfi_ids *lists);
/* A copy of lists, behind a header; lists then point into it. NULL: no memory. */
struct front_slice *kvfi_front_keep_lists(struct kvfi_ids *lists, uint64_t n_ids);
void kvfi_front_add_kept(
	kvf_agent *agent, struct front_session *front, struct front_slice *kept, uint32_t n_slices);
KVF_MUST_CHECK enum kvf_status kvfi_front_inbox_full(void);

#endif
