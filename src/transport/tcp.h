/* tcp.h - inside of the tcp transport: what tcp.c (ops, peers), tcp_post.c (posts, grants), tcp_io.c (the I/O thread), tcp_connect.c
 * (listening, handshakes), tcp_send.c and tcp_recv.c (the two directions of a connection) share. tcp.c has the story.
 */
#ifndef KVFI_TRANSPORT_TCP_H
#define KVFI_TRANSPORT_TCP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/uio.h>
#include "base/clock.h"
#include "device/host.h"
#include "memory/lease.h"
#include "transport/tcp_frame.h"
#include "transport/transport.h"

#define KVFI_TCP_HANDSHAKE_NS (5 * KVFI_NS_PER_S)
/* Runs from here on go between socket and blocks, shorter ones through a stage, which stays in the second-level cache. */
#define KVFI_TCP_DIRECT_BYTES 4096u
#define KVFI_TCP_STAGE_BYTES  (256u * 1024)
/* DATA frames handed to the kernel in one call: 1 MiB. */
#define KVFI_TCP_FRAMES 4u
/* Pieces of one frame: 64 direct runs, 65 stretches of the stage, the header. */
#define KVFI_TCP_FRAME_PIECES 130u
/* Strips of one read; strips packed in one go. */
#define KVFI_TCP_STRIPS 256u
#define KVFI_TCP_PACKS  32u
/* Per connection and direction, before the next one has its turn. */
#define KVFI_TCP_TURN_BYTES      (UINT64_C(4) << 20)
#define KVFI_TCP_USER_TIMEOUT_MS 30000
/* Bytes of a long slice that are waited for before the next read, and for how long; see tcp_recv.c. */
#define KVFI_TCP_LOW_BYTES   (1 << 20)
#define KVFI_TCP_LOW_WAIT_MS 1

/* ---- what the owner thread and the I/O thread share, under the transport's lock */

struct tcp_post {
	struct tcp_post *next;      /* queue of its peer, or list of free ones */
	struct tcp_post *next_hash; /* of posts by id */
	struct kvfi_tx_post post;
	_Atomic bool cancelled; /* read by the I/O thread without the lock */
	bool active;            /* taken by the I/O thread, which alone completes it */
	_Atomic uint64_t moved; /* bytes that the kernel has taken */
};

struct tcp_queue {
	struct tcp_post *first, **last;
};

enum tcp_peer_state {
	TCP_PEER_FREE = 0,
	TCP_PEER_EXPECTED = 1,   /* its connection may come */
	TCP_PEER_CONNECTING = 2, /* we call it */
	TCP_PEER_UP = 3,
	TCP_PEER_BROKEN = 4
};

struct tcp_peer {
	enum tcp_peer_state state;
	uint32_t
		session; /* counts connect, expect and disconnect: a connection or grant of an older one is void */
	uint64_t incarnation, link;
	struct kvfi_tcp_address address;
	struct tcp_queue queue; /* posts that were not begun */
	bool listed;            /* in the transport's list of peers to look at */
	struct tcp_peer *next_listed;
	struct tcp_conn *conn; /* the I/O thread's alone. One for now: a second rail would make it an array */
};

struct tcp_grant {
	struct kvfi_rx_grant grant;
	struct kvfi_lease lease; /* private; outlives the grant */
	uint32_t generation;     /* of the last grant of this slot */
	uint32_t session;        /* of its peer when it was made */
	uint32_t begun;          /* slices begun whose KVFI_DONE_RX was not told yet */
	_Atomic uint64_t moved;  /* slices begun and bytes read, over all grants of this slot */
	bool in_use;
};

/* ---- one direction of a connection: the I/O thread's alone */

struct tcp_send {
	struct tcp_post *post; /* on its way; NULL: none */
	struct kvfi_walk walk;
	uint64_t walked;   /* bytes of the post that went into batches */
	uint64_t last_end; /* source address behind the last run: does the next strip continue it? */
	struct kvfi_done done;
	/* The batch: pieces [at, n) are still to be sent. */
	struct iovec pieces[2 + KVFI_TCP_FRAMES * KVFI_TCP_FRAME_PIECES];
	uint32_t n, at;
	uint64_t piece_sent; /* bytes of pieces[at] that are gone already */
	struct tcp_frame_end {
		uint32_t piece;    /* index behind the last piece of the frame */
		uint64_t position; /* bytes of the slice up to there */
	} frame_ends[1 + KVFI_TCP_FRAMES];
	uint32_t n_frames;
	uint64_t batch_position; /* bytes of the slice before the batch */
	bool started;            /* a byte of the post is with the kernel */
	bool idle;               /* the last look found nothing to send */
	unsigned char headers[KVFI_TCP_FRAMES][KVFI_TCP_HEADER_BYTES];
	unsigned char slice[KVFI_TCP_HEADER_BYTES + KVFI_TCP_SLICE_MAX_BYTES];
	unsigned char *stage; /* KVFI_TCP_STAGE_BYTES, made with the first post */
	uint32_t stage_used, stage_packed;
	struct kvfi_host_strip strips[KVFI_TCP_PACKS]; /* to pack between the two */
	uint32_t n_strips;
	unsigned char *tail; /* rest of a stopped frame and its ABORT; NULL: none */
};

enum tcp_expecting {
	TCP_EXPECT_HEADER = 0,
	TCP_EXPECT_SLICE = 1,
	TCP_EXPECT_DATA = 2
};

struct tcp_recv {
	enum tcp_expecting expecting;
	const char *failure; /* why nothing more can be read; NULL: it can */
	unsigned char header_bytes[KVFI_TCP_HEADER_BYTES];
	uint32_t header_used;
	unsigned char body[KVFI_TCP_SLICE_MAX_BYTES];
	struct kvfi_tcp_header header; /* of the frame that is being read */
	uint32_t frame_left;           /* bytes of it still to come */
	/* The slice that is open on this connection. */
	bool in_slice;
	bool begun; /* under a grant: KVFI_DONE_RX is owed */
	bool sink;  /* its bytes go nowhere */
	bool sum;
	uint64_t epoch, total, received;
	uint32_t slice;
	uint32_t grant, generation;
	struct kvfi_bound bound;
	struct kvfi_walk walk;
	uint64_t walked;
	uint64_t last_end;
	struct kvfi_done done;
	/* The batch: where the next batch_left bytes of this frame go. Behind it is room for the piece of the next header. */
	struct iovec pieces[KVFI_TCP_FRAME_PIECES + 1];
	uint32_t n, at;
	uint32_t batch_left;
	uint32_t stage_used;
	struct kvfi_strip strips[KVFI_TCP_STRIPS];
	uint32_t n_strips, at_strip;
	uint64_t strip_done; /* bytes of strips[at_strip] */
	uint32_t stage_at;   /* where the next staged byte lies */
	uint64_t low_until_ns;
	int low_bytes; /* of the socket's SO_RCVLOWAT; 0: as it came */
};

enum tcp_conn_state {
	TCP_CONN_DIALING = 0,  /* connect() runs */
	TCP_CONN_GREETING = 1, /* handshake bytes are to come */
	TCP_CONN_UP = 2,
	TCP_CONN_CLOSED = 3
};

struct tcp_conn {
	struct tcp_conn *next, *previous; /* in connections or in handshakes, by state */
	struct tcp_conn *next_ready;
	bool in_ready;
	int fd;
	enum tcp_conn_state state;
	bool dialed;                       /* we called */
	struct tcp_peer *peer;             /* NULL: not known yet */
	uint32_t session;                  /* of the peer when this connection became its */
	uint64_t deadline_ns;              /* of the handshake */
	uint64_t incarnation, link, nonce; /* what a dialed connection names, and must be answered with */
	unsigned char greeting[KVFI_TCP_GREETING_BYTES];
	uint32_t greeting_used;
	bool readable, writable;
	bool hangup; /* no more will come: read to the end */
	struct tcp_send send;
	struct tcp_recv recv;
};

struct tcp_list {
	struct tcp_conn *first, *last;
	uint32_t n;
};

/* Counted for metrics and tests. */
struct kvfi_tcp_counts {
	_Atomic uint64_t refused_handshakes;
	_Atomic uint64_t stale_slices; /* no such grant (any more) */
	_Atomic uint64_t sunk_bytes;
};

struct tcp_transport {
	struct kvfi_transport_base base;
	struct kvfi_transport_env env;
	struct kvfi_tcp_address address; /* where it listens; port 0: it does not */
	_Atomic uint64_t handshake_ns;
	struct kvfi_tcp_counts counts;

	pthread_mutex_t lock;
	struct tcp_peer *peers;
	struct tcp_peer *listed;
	struct tcp_grant *grants;
	struct tcp_post *posts;
	struct tcp_post *free_posts;
	struct tcp_post **posts_by_id;
	uint32_t hash_mask;

	pthread_t thread;
	bool has_thread;
	_Atomic bool stop;
	_Atomic bool woken; /* the eventfd is written and not read yet */
	int epoll_fd, event_fd, listen_fd;

	/* The I/O thread's. */
	struct tcp_list connections, handshakes;
	struct tcp_conn *ready, **ready_last;
	struct tcp_conn *closed;  /* freed at the end of the turn */
	uint32_t n_low;           /* connections with a low water mark */
	uint64_t low_look_ns;     /* when to look at them again */
	uint64_t accept_again_ns; /* 0: no accept failed for want of descriptors */
	unsigned char *
		stage; /* of the receiving side, for all connections: nothing stays in it between two reads */
};

static inline struct tcp_transport *kvfi_tcp_self(struct kvfi_transport *transport)
{
	return (struct tcp_transport *)(void *)transport;
}

static inline void kvfi_tcp_lock(struct tcp_transport *self)
{
	(void)pthread_mutex_lock(&self->lock);
}

static inline void kvfi_tcp_unlock(struct tcp_transport *self)
{
	(void)pthread_mutex_unlock(&self->lock);
}

static inline uint32_t kvfi_tcp_index(const struct tcp_transport *self, const struct tcp_peer *peer)
{
	return (uint32_t)(peer - self->peers);
}

/* ---- tcp.c: any thread */

/* Put the peer on the list of those that the I/O thread looks at. Under the lock; wake afterwards. */
void kvfi_tcp_list_peer(struct tcp_transport *self, struct tcp_peer *peer);
void kvfi_tcp_wake(struct tcp_transport *self);

/* ---- tcp_post.c */

enum kvf_status kvfi_tcp_posts_init(struct tcp_transport *self);
void kvfi_tcp_posts_fini(struct tcp_transport *self);
enum kvf_status kvfi_tcp_post(struct kvfi_transport *transport, const struct kvfi_tx_post *tx);
void kvfi_tcp_cancel(struct kvfi_transport *transport, uint64_t post_id);
enum kvf_status kvfi_tcp_grant(struct kvfi_transport *transport, const struct kvfi_rx_grant *rx,
	uint32_t *lease_slot_out, uint32_t *lease_generation_out);
void kvfi_tcp_revoke(struct kvfi_transport *transport, uint32_t grant_id);
enum kvf_proof kvfi_tcp_proof(struct kvfi_transport *transport, uint32_t grant_id);
void kvfi_tcp_release(struct kvfi_transport *transport, uint32_t grant_id);
enum kvf_status kvfi_tcp_fence(struct kvfi_transport *transport, uint32_t peer);
uint64_t kvfi_tcp_post_moved(struct kvfi_transport *transport, uint64_t post_id);
uint64_t kvfi_tcp_grant_moved(struct kvfi_transport *transport, uint32_t grant_id);

static inline void kvfi_tcp_queue_init(struct tcp_queue *queue)
{
	queue->first = NULL;
	queue->last = &queue->first;
}

/* I/O thread: the oldest post of the peer that was not begun; NULL: none. */
struct tcp_post *kvfi_tcp_take_post(struct tcp_transport *self, struct tcp_peer *peer, uint32_t session);
/* All posts of a peer that were not begun, under the lock; complete them with finish_queue, without it. */
struct tcp_queue kvfi_tcp_take_queue(struct tcp_peer *peer);
void kvfi_tcp_finish_queue(
	struct tcp_transport *self, struct tcp_queue *queue, enum kvf_status status, const char *reason);
/* Gives the post back and tells done, which names it. Without the lock. */
void kvfi_tcp_finish_post(struct tcp_transport *self, struct tcp_post *post, const struct kvfi_done *done);

/* I/O thread: the grant that a SLICE names, entered (leave its lease!), with what is needed to bind; false: none. */
struct tcp_opened {
	struct tcp_grant *slot;
	uint64_t prompt_len;
	const kvf_plan *plan;
	const struct kvfi_ids *dst;
	bool sum;
};
bool kvfi_tcp_open_grant(struct tcp_transport *self, const struct tcp_conn *conn,
	const struct kvfi_tcp_slice *slice, struct tcp_opened *opened_out);
/* I/O thread: a begun slice is over; told unless the grant was released before. */
void kvfi_tcp_finish_slice(
	struct tcp_transport *self, uint32_t grant, uint32_t generation, const struct kvfi_done *done);

/* ---- tcp_io.c: the I/O thread */

void *kvfi_tcp_run(void *transport);
/* One more connection on fd, watched; NULL: no room, fd is closed. */
struct tcp_conn *kvfi_tcp_conn_new(struct tcp_transport *self, int fd, enum tcp_conn_state state);
/* It has shaken hands. */
void kvfi_tcp_conn_up(struct tcp_transport *self, struct tcp_conn *conn);
/* Closes it, completes what is open on it and tells KVFI_DONE_BROKEN if it still is its peer's. */
void kvfi_tcp_conn_break(
	struct tcp_transport *self, struct tcp_conn *conn, enum kvf_status status, const char *reason);
/* Give it a turn. */
void kvfi_tcp_conn_ready(struct tcp_transport *self, struct tcp_conn *conn);

/* ---- tcp_connect.c */

/* Opens the listening socket; owner thread, before the I/O thread starts. */
enum kvf_status kvfi_tcp_listen(struct tcp_transport *self);
/* Number of this host and network namespace. */
uint64_t kvfi_tcp_host_number(void);
void kvfi_tcp_dial(struct tcp_transport *self, struct tcp_peer *peer);
void kvfi_tcp_accept(struct tcp_transport *self);
/* A connection that is not UP yet has something to do. */
void kvfi_tcp_shake(struct tcp_transport *self, struct tcp_conn *conn);
void kvfi_tcp_expire_handshakes(struct tcp_transport *self, uint64_t now_ns);

/* ---- tcp_send.c, tcp_recv.c */

/* Sends until the socket is full, nothing is left, or its turn is over. */
void kvfi_tcp_send(struct tcp_transport *self, struct tcp_conn *conn);
/* The post that is on its way was cancelled, if it was: let go of its source now. */
void kvfi_tcp_send_look(struct tcp_transport *self, struct tcp_conn *conn);
void kvfi_tcp_send_fini(
	struct tcp_transport *self, struct tcp_conn *conn, enum kvf_status status, const char *reason);
/* tcp_place.c, inside the lease. A batch for what is left of the frame; false: the walk has less than the bound promised. */
bool kvfi_tcp_place(struct tcp_transport *self, struct tcp_recv *recv);
/* The next bytes of the batch are there. */
void kvfi_tcp_take(struct tcp_transport *self, struct tcp_recv *recv, uint32_t bytes);
/* Reads until nothing is there, or its turn is over. */
void kvfi_tcp_recv(struct tcp_transport *self, struct tcp_conn *conn);
/* The grant of the open slice was revoked, if it was: tell it now. */
void kvfi_tcp_recv_look(struct tcp_transport *self, struct tcp_conn *conn);
/* If nothing was read for KVFI_TCP_LOW_WAIT_MS: do not wait for more than there is. */
void kvfi_tcp_recv_lower(struct tcp_transport *self, struct tcp_conn *conn, uint64_t now_ns);
void kvfi_tcp_recv_fini(
	struct tcp_transport *self, struct tcp_conn *conn, enum kvf_status status, const char *reason);

/* ---- for metrics and tests */

const struct kvfi_tcp_counts *kvfi_tcp_counts(const struct kvfi_transport *transport);
/* How long a handshake that begins from now on may take. */
void kvfi_tcp_set_handshake_ns(struct kvfi_transport *transport, uint64_t handshake_ns);

#endif
