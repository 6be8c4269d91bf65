/* shm.h - inside of the shm transport: what its files share.
 *
 *   shm.c       open, close, the listener, poll        shm_path.c     socket paths, addresses, who is reachable
 *   shm_link.c  a connection; the decode side of it    shm_admit.c    the prefill side: whom it lets in
 *   shm_wire.c  packets                                shm_map.c      mapping a peer's regions
 *   shm_post.c  posts and the shares of copy workers   shm_grant.c    grants and their proofs
 *   shm_fence.c the receiver takes a writer's power    shm_sink.c     and what that writer does about it
 *   shm_process.c  is the peer's process alive?
 *
 * Threads: everything belongs to the owner thread, but for
 *  - posts and shares while they run: to the copy workers; their lists: under posts_lock;
 *  - a link's atomics, its windows below n and its lease words: any thread that holds a reference to the link;
 *  - a fence while it runs: to the copy worker that runs it, and the link's connection is over by then;
 *  - the list of watched links: under sink_lock.
 * A mapping is undone when the last reference goes, by whoever holds it.
 */
#ifndef KVFI_TRANSPORT_SHM_H
#define KVFI_TRANSPORT_SHM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "memory/lease_table.h"
#include "transport/shm_wire.h"
#include "transport/store.h"
#include "transport/transport.h"

#define SHM_MAX_REGIONS 256u                /* that one peer shares */
#define SHM_MAX_LEASES  (UINT32_C(1) << 20) /* words that one peer shares */
#define SHM_PATH_BYTES  108u

enum shm_state {
	SHM_EXPECTED = 0,   /* prefill: expect() was called, nobody came yet */
	SHM_RECEIVING = 1,  /* prefill: HELLO came, regions are coming */
	SHM_POPULATING = 2, /* prefill: a copy worker touches the pages of the new mappings */
	SHM_GREETING = 3,   /* decode: connected; HELLO and regions are going out, then WELCOME is awaited */
	SHM_UP = 4,
	SHM_BROKEN = 5 /* told; waits for disconnect() */
};

/* What the peer still has to learn of a region of ours. */
enum shm_announce {
	SHM_UNKNOWN = 0,
	SHM_TO_TELL = 1,
	SHM_TOLD = 2,
	SHM_TO_WITHDRAW = 3
};

/* Where the writer has mapped a region of ours; len_bytes 0: not told. */
struct shm_place {
	uint64_t address, len_bytes;
};

/* What the receiver knows of a window of ours. */
enum shm_telling {
	SHM_UNFENCED = 0, /* nothing: it is not registered with the fence */
	SHM_TO_PLACE = 1, /* MAPPED is to be sent */
	SHM_PLACED = 2
};

enum shm_fence_state {
	SHM_FENCE_NONE = 0,
	SHM_FENCE_RUNS = 1,
	SHM_FENCE_DONE = 2,
	SHM_FENCE_FAILED = 3
};

struct shm_link {
	_Atomic uint32_t
		references; /* the peer's slot, each post, each grant, a job, the list of fenced ones */
	struct shm_transport *transport;
	uint32_t peer;
	bool sender; /* we are the prefill side */
	enum shm_state state;
	uint64_t peer_incarnation, number;
	int fd;              /* -1: none (any more) */
	bool waits_for_room; /* EPOLLOUT is on */
	unsigned char
		*late; /* frames that found the socket full: u32 length, bytes; made with the first one */
	uint32_t late_start, late_end;
	_Atomic bool stop;      /* posts end, the populating job too */
	_Atomic uint32_t posts; /* open ones; only the owner adds */
	int process_fd;         /* pidfd of the peer's process; -1: unknown */
	bool process_watched;
	bool exited;  /* it was seen to have ended */
	int fence_fd; /* userfaultfd over the writer's mappings of the receiver's regions; -1: none */

	/* sender: what the peer shared */
	struct kvfi_windows windows;     /* table of SHM_MAX_REGIONS */
	bool withdrawn[SHM_MAX_REGIONS]; /* to be unmapped when no post is open */
	uint32_t generations[SHM_MAX_REGIONS];
	uint8_t placed[SHM_MAX_REGIONS]; /* enum shm_telling */
	struct kvfi_lease *words;
	uint32_t n_words;
	uint64_t words_bytes;
	struct kvfi_job populate_job;
	uint32_t populate_window; /* the job's place */
	uint64_t populate_offset;
	_Atomic bool populated;
	_Atomic bool sunk;             /* what posts store goes nowhere (any more) */
	struct shm_link *next_watched; /* by the sink thread */
	bool watched;

	/* receiver */
	struct kvfi_lease_table leases; /* shared with this peer under this link alone */
	bool has_leases;
	bool said_hello, said_ready;
	uint8_t *announce;        /* enum shm_announce per region of ours */
	uint32_t *told;           /* generation that the peer knows, per region of ours */
	struct shm_place *places; /* per region of ours */
	_Atomic uint32_t fence;   /* enum shm_fence_state */
	struct kvfi_job fence_job;
	struct shm_link *next_fenced;
};

struct shm_share {
	struct kvfi_job job;
	struct shm_share *next; /* of its post, or free */
	struct shm_post *post;
	struct kvfi_store store;
	bool begun; /* a piece */
};

struct shm_post {
	struct shm_post *next, *previous; /* open ones; next: free ones too */
	struct shm_post *next_hash;       /* of open ones by id */
	struct kvfi_tx_post tx;
	struct shm_link *link;
	struct kvfi_store_target target;
	_Atomic uint32_t next_piece;
	_Atomic uint32_t running; /* shares that have not ended */
	_Atomic uint64_t moved;   /* bytes, of all shares */
	_Atomic bool cancelled;
	_Atomic int failure;    /* enum kvf_status; 0 while all is well */
	struct shm_share first; /* every post has one; more come from the pool */
};

struct shm_grant {
	struct shm_link *link; /* NULL: free */
	uint32_t slot;
	bool revoked;
};

struct shm_stranger { /* came in, has not said HELLO */
	int fd;
	uint64_t deadline_ns;
};

struct shm_transport {
	struct kvfi_transport_base base;
	struct kvfi_transport_env env;
	int epoll_fd, listen_fd, wake_fd, timer_fd;
	char path[SHM_PATH_BYTES]; /* "" if it does not listen */
	struct shm_link **peers;
	struct shm_grant *grants;
	bool *shared; /* per region: told by region_added, and a memfd */
	uint32_t max_regions;
	struct shm_stranger *strangers;
	uint32_t n_strangers, max_strangers;
	bool listener_rests; /* out of descriptors: until the next tick */
	int own_process_fd;  /* pidfd of this process, to pass along; -1: the kernel has none */
	struct shm_link *fenced;

	pthread_mutex_t sink_lock; /* of watched, and of sinking */
	struct shm_link *watched;
	int sink_epoll_fd, sink_stop_fd;
	pthread_t sink_thread;
	bool has_sink_thread;

	pthread_mutex_t posts_lock;
	pthread_cond_t posts_ended;
	uint32_t open_work; /* posts and jobs that may still call env; under posts_lock, as the lists */
	struct shm_post *posts, *free_posts, *open_posts, **posts_by_id;
	uint32_t hash_mask;
	struct shm_share *shares, *free_shares;
};

static inline struct shm_transport *kvfi_shm_self(struct kvfi_transport *transport)
{
	return (struct shm_transport *)(void *)transport;
}

/* shm.c: what an epoll event is about; index is the peer's slot. */
enum shm_event {
	SHM_EVENT_LISTENER = 1,
	SHM_EVENT_WAKE = 2,
	SHM_EVENT_TIMER = 3,
	SHM_EVENT_STRANGER = 4,
	SHM_EVENT_PEER = 5,
	SHM_EVENT_PROCESS = 6
};
bool kvfi_shm_watch(struct shm_transport *self, int fd, enum shm_event event, uint32_t index);
/* Out of the epoll set too, whoever else holds the descriptor: a forked child may. */
void kvfi_shm_unwatch(struct shm_transport *self, int fd);
/* Ends a connection for both sides, whoever else holds its descriptor. */
void kvfi_shm_hang_up(struct shm_transport *self, int socket_fd);
/* The timer ticks once a second while somebody waits for it. */
void kvfi_shm_arm_timer(struct shm_transport *self);
/* poll() shall run: any thread. */
void kvfi_shm_wake(struct shm_transport *self);
/* Posts and jobs that may still call env; close() waits for them. Any thread. */
void kvfi_shm_work_began(struct shm_transport *self);
void kvfi_shm_work_ended(struct shm_transport *self);

/* shm_path.c */
KVF_MUST_CHECK enum kvf_status kvfi_shm_listen(struct shm_transport *self);
void kvfi_shm_unlisten(struct shm_transport *self);
bool kvfi_shm_same_user(int socket_fd);
size_t kvfi_shm_address(struct kvfi_transport *transport, void *buffer);
enum kvf_status kvfi_shm_reachable(struct kvfi_transport *transport, const void *address, size_t len_bytes);
/* A connected socket. The address was found reachable. */
KVF_MUST_CHECK enum kvf_status kvfi_shm_dial(const void *address, int *fd_out);

/* shm_link.c */
KVF_MUST_CHECK struct shm_link *kvfi_shm_link_new(
	struct shm_transport *self, uint32_t peer, uint64_t peer_incarnation, uint64_t number);
struct shm_link *kvfi_shm_link_get(struct shm_link *link);
void kvfi_shm_link_put(struct shm_link *link);
enum kvf_status kvfi_shm_connect(struct kvfi_transport *transport, uint32_t peer, uint64_t peer_incarnation,
	uint64_t link, const void *address, size_t len_bytes);
void kvfi_shm_disconnect(struct kvfi_transport *transport, uint32_t peer);
void kvfi_shm_link_up(struct shm_link *link);
void kvfi_shm_link_broken(struct shm_link *link, enum kvf_status status, const char *reason);
/* The link's socket has something, or has room again. */
void kvfi_shm_link_event(struct shm_link *link, bool readable);
/* Its process has ended: what it said last is read, then it is broken. */
void kvfi_shm_link_ended(struct shm_link *link);
/* Decode: what the peer still has to be told. */
void kvfi_shm_tell(struct shm_link *link);
void kvfi_shm_watch_room(struct shm_link *link, bool on);
bool kvfi_shm_has_late(const struct shm_link *link);
/* False: not now, or never again. A closed socket is left to the reader: the peer may have said why. */
bool kvfi_shm_packet(struct shm_link *link, enum shm_packet_type type, const void *body, size_t len_bytes,
	const struct shm_fds *fds);
/* A frame, now or as soon as the socket has room. False: the queue is full too. */
bool kvfi_shm_frame(struct shm_link *link, const void *frame, uint32_t len_bytes);

/* shm_admit.c */
enum kvf_status kvfi_shm_expect(
	struct kvfi_transport *transport, uint32_t peer, uint64_t peer_incarnation, uint64_t link);
/* A stranger's first packet; takes the socket over. */
void kvfi_shm_admit(struct shm_transport *self, int socket_fd, struct shm_packet *packet);
void kvfi_shm_refuse(int socket_fd, enum kvf_status status, const char *reason);
/* Prefill: after a job woke the owner, or the socket has room. */
void kvfi_shm_admit_turn(struct shm_link *link);

/* shm_process.c */
/* A pidfd of this process; -1: the kernel has none. */
int kvfi_shm_own_process(void);
/* The process behind a connected socket becomes the link's, as the kernel knows it, else as it was passed. Takes passed over. */
void kvfi_shm_meet_process(struct shm_link *link, int passed);
void kvfi_shm_leave_process(struct shm_link *link);
bool kvfi_shm_has_exited(struct shm_link *link);

/* shm_sink.c, writer */
/* A descriptor that a fence can be made with; -1: the kernel has none. */
int kvfi_shm_fence_new(void);
/* [start, end) can be fenced from now on. */
bool kvfi_shm_fence_cover(int fence_fd, uint64_t start, uint64_t end);
/* From now on this process notices if the link is fenced. */
bool kvfi_shm_sink_watch(struct shm_link *link);
/* No store through this link will follow: says so. False: its addresses must stay reserved. */
bool kvfi_shm_sink_shut(struct shm_link *link);
void kvfi_shm_sink_stop(struct shm_transport *self);
/* The addresses stay taken, and nothing else is behind them. */
bool kvfi_shm_reserve(const struct kvfi_window *window);

/* shm_fence.c, receiver */
KVF_MUST_CHECK enum kvf_status kvfi_shm_placed(struct shm_link *link, const struct shm_mapped *mapped);
enum kvf_status kvfi_shm_fence(struct kvfi_transport *transport, uint32_t peer);
bool kvfi_shm_is_fenced(const struct shm_link *link);
/* Lets go of links whose writers cannot store any more; `last`: of all, at close. */
void kvfi_shm_fence_sweep(struct shm_transport *self, bool last);

/* shm_map.c */
/* Maps what a peer passed: sealed, long enough, not inherited by children. Closes fd. */
KVF_MUST_CHECK enum kvf_status kvfi_shm_map(int fd, uint64_t len_bytes, void **memory_out);
KVF_MUST_CHECK enum kvf_status kvfi_shm_map_region(
	struct shm_link *link, const struct shm_region *region, int fd);
KVF_MUST_CHECK enum kvf_status kvfi_shm_withdraw(struct shm_link *link, const struct shm_gone *gone);
/* Unmaps withdrawn regions if no post is open. */
void kvfi_shm_sweep(struct shm_link *link);
/* addresses: may be used again. */
void kvfi_shm_unmap_all(struct shm_link *link, bool addresses);
/* Prefill: says where the windows are that can be fenced. False: the rest when the socket has room. */
bool kvfi_shm_place(struct shm_link *link);
void kvfi_shm_populate(struct shm_link *link);

/* shm_post.c */
KVF_MUST_CHECK enum kvf_status kvfi_shm_posts_init(struct shm_transport *self);
void kvfi_shm_posts_fini(struct shm_transport *self);
/* Ends every post, and waits for the workers to leave them. */
void kvfi_shm_posts_stop(struct shm_transport *self);
enum kvf_status kvfi_shm_post(struct kvfi_transport *transport, const struct kvfi_tx_post *post);
void kvfi_shm_cancel(struct kvfi_transport *transport, uint64_t post_id);
uint64_t kvfi_shm_post_moved(struct kvfi_transport *transport, uint64_t post_id);

/* shm_grant.c */
enum kvf_status kvfi_shm_grant(struct kvfi_transport *transport, const struct kvfi_rx_grant *grant,
	uint32_t *lease_slot_out, uint32_t *lease_generation_out);
void kvfi_shm_revoke(struct kvfi_transport *transport, uint32_t grant_id);
enum kvf_proof kvfi_shm_proof(struct kvfi_transport *transport, uint32_t grant_id);
void kvfi_shm_release(struct kvfi_transport *transport, uint32_t grant_id);
uint64_t kvfi_shm_grant_moved(struct kvfi_transport *transport, uint32_t grant_id);

#endif
