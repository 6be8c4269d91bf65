/* shm.h - inside of the shm transport: what its files share.
 *
 *   shm.c       open, close, the listener, poll           shm_path.c  socket paths, addresses, who is reachable
 *   shm_link.c  the handshake, both sides              shm_post.c  posts, copy workers, grants
 *   shm_wire.c  packets                                shm_map.c   mapping a peer's regions
 *
 * Threads: everything belongs to the owner thread, but for
 *  - posts and shares while they run: to the copy workers; their lists: under posts_lock;
 *  - a link's atomics, its windows below n and its lease words: any thread that holds a reference to the link.
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

struct shm_link {
	_Atomic uint32_t references; /* the peer's slot, each post, each grant, the populating job */
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

	/* sender: what the peer shared */
	struct kvfi_windows windows;     /* table of SHM_MAX_REGIONS */
	bool withdrawn[SHM_MAX_REGIONS]; /* to be unmapped when no post is open */
	uint32_t generations[SHM_MAX_REGIONS];
	struct kvfi_lease *words;
	uint32_t n_words;
	uint64_t words_bytes;
	struct kvfi_job populate_job;
	uint32_t populate_window; /* the job's place */
	uint64_t populate_offset;
	_Atomic bool populated;

	/* receiver */
	struct kvfi_lease_table leases; /* shared with this peer under this link alone */
	bool has_leases;
	bool said_hello, said_ready;
	uint8_t *announce; /* enum shm_announce per region of ours */
	uint32_t *told;    /* generation that the peer knows, per region of ours */
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
	SHM_EVENT_PEER = 5
};
bool kvfi_shm_watch(struct shm_transport *self, int fd, enum shm_event event, uint32_t index);
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
enum kvf_status kvfi_shm_connect(struct kvfi_transport *transport, uint32_t peer, uint64_t peer_incarnation,
	uint64_t link, const void *address, size_t len_bytes);
enum kvf_status kvfi_shm_expect(
	struct kvfi_transport *transport, uint32_t peer, uint64_t peer_incarnation, uint64_t link);
void kvfi_shm_disconnect(struct kvfi_transport *transport, uint32_t peer);
/* A stranger's first packet; takes both descriptors over. */
void kvfi_shm_admit(struct shm_transport *self, int socket_fd, const struct shm_packet *packet, int fd);
void kvfi_shm_refuse(int socket_fd, enum kvf_status status, const char *reason);
/* The link's socket has something, or has room again. */
void kvfi_shm_link_event(struct shm_link *link, bool readable);
/* After a job woke the owner. */
void kvfi_shm_link_turn(struct shm_link *link);
void kvfi_shm_tell(struct shm_link *link);
/* A frame, now or as soon as the socket has room. False: the queue is full too. */
bool kvfi_shm_frame(struct shm_link *link, const void *frame, uint32_t len_bytes);
void kvfi_shm_link_broken(struct shm_link *link, enum kvf_status status, const char *reason);
struct shm_link *kvfi_shm_link_get(struct shm_link *link);
void kvfi_shm_link_put(struct shm_link *link);

/* shm_map.c */
/* Maps what a peer passed: sealed, long enough, not inherited by children. Closes fd. */
KVF_MUST_CHECK enum kvf_status kvfi_shm_map(int fd, uint64_t len_bytes, void **memory_out);
KVF_MUST_CHECK enum kvf_status kvfi_shm_map_region(
	struct shm_link *link, const struct shm_region *region, int fd);
KVF_MUST_CHECK enum kvf_status kvfi_shm_withdraw(struct shm_link *link, const struct shm_gone *gone);
/* Unmaps withdrawn regions if no post is open. */
void kvfi_shm_sweep(struct shm_link *link);
void kvfi_shm_unmap_all(struct shm_link *link);
void kvfi_shm_populate(struct shm_link *link);

/* shm_post.c */
KVF_MUST_CHECK enum kvf_status kvfi_shm_posts_init(struct shm_transport *self);
void kvfi_shm_posts_fini(struct shm_transport *self);
/* Ends every post, and waits for the workers to leave them. */
void kvfi_shm_posts_stop(struct shm_transport *self);
enum kvf_status kvfi_shm_post(struct kvfi_transport *transport, const struct kvfi_tx_post *post);
void kvfi_shm_cancel(struct kvfi_transport *transport, uint64_t post_id);
enum kvf_status kvfi_shm_grant(struct kvfi_transport *transport, const struct kvfi_rx_grant *grant,
	uint32_t *lease_slot_out, uint32_t *lease_generation_out);
void kvfi_shm_revoke(struct kvfi_transport *transport, uint32_t grant_id);
enum kvf_proof kvfi_shm_proof(struct kvfi_transport *transport, uint32_t grant_id);
void kvfi_shm_release(struct kvfi_transport *transport, uint32_t grant_id);
uint64_t kvfi_shm_post_moved(struct kvfi_transport *transport, uint64_t post_id);
uint64_t kvfi_shm_grant_moved(struct kvfi_transport *transport, uint32_t grant_id);

#endif
