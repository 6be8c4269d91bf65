/* transport.h - what the files of the simulated transports share. Private to src/sim. */
#ifndef KVFI_SIM_TRANSPORT_H
#define KVFI_SIM_TRANSPORT_H

#include "base/list.h"
#include "sim/sim.h"

enum sim_side {
	SIM_SENDER = 0,
	SIM_RECEIVER = 1
};

struct sim_end {
	struct sim_transport *transport; /* NULL: not attached (any more) */
	uint32_t peer, node, life;
};

struct sim_frame;

/* A stream: one post at a time writes, the receiver reads. */
struct sim_stream {
	uint64_t writer;                /* serial of the post whose slice is open; 0: none */
	struct sim_frame *head, **tail; /* on their way, or waiting to be read */
	uint64_t last_ns;               /* when the last of them arrives */
	bool reading;                   /* an event for the next one is set */
	bool begun;                     /* a slice under a grant */
	bool sink;                      /* of an open slice: nothing is stored any more */
	bool open;
	uint32_t grant, generation;
	struct kvfi_bound bound;
	struct kvfi_walk walk;
	uint64_t received;
	struct kvfi_done done;
};

struct sim_hot_frame;

/* Messages to one end. */
struct sim_hot {
	struct sim_hot_frame *head, **tail;
	uint32_t n;
	uint64_t last_ns, ready_ns; /* of the last that was sent; those up to it have arrived */
};

/* One connection of two transports; the world keeps it until the end, because stores may outlive everything else. */
struct sim_link {
	struct sim_link *next;
	struct sim_world *world;
	enum sim_personality personality;
	uint64_t number;
	uint64_t incarnations[2];
	struct sim_end ends[2];
	bool expected, broken;
	bool fencing;
	bool fenced; /* what still comes of the sender goes into a sink */
	struct kvfi_lease_table leases;
	bool has_leases;
	struct kvfi_windows windows;
	struct sim_stream stream;
	struct sim_hot hot[2]; /* by the end they go to */
};

struct sim_peer {
	struct sim_link *link;
	enum sim_side side;
	uint64_t dialing; /* number of the attempt; 0: none */
};

struct sim_grant {
	bool used, revoked, storing;
	struct sim_link *link;
	struct kvfi_rx_grant rx;
	uint32_t slot, generation; /* leased: of the table; else of this entry */
	uint64_t moved;
};

struct sim_post {
	bool used;
	uint64_t serial;
	struct kvfi_tx_post tx;
	struct sim_link *link;
	struct kvfi_walk walk;
	bool ended;            /* everything was issued */
	bool stopping, inside; /* inside: of a lease */
	enum kvf_status why;   /* stopping */
	uint32_t in_flight;
	uint64_t bytes, runs, first_ns, last_ns;
	uint32_t frame; /* applied: how many were sent */
};

struct sim_transport {
	struct kvfi_transport_base base;
	struct kvfi_transport_env env;
	struct sim_node *node;
	enum sim_personality personality;
	struct sim_peer *peers;
	struct sim_grant *grants;
	struct sim_post *posts;
	struct kvfi_window window; /* there is one region */
	uint64_t next_serial;
	struct kvfi_list stores; /* of its posts, not landed */
};

static inline struct sim_transport *sim_transport_of(struct kvfi_transport *transport)
{
	return (struct sim_transport *)(void *)transport;
}

/* Tells one end, if it is there. */
void sim_end_tell(const struct sim_end *end, const struct kvfi_done *done);
/* Both ends learn that the connection is over. */
void sim_link_break(struct sim_link *link, enum kvf_status status, const char *reason);

/* grant.c */
enum kvf_status sim_grant_open(struct kvfi_transport *transport, const struct kvfi_rx_grant *rx,
	uint32_t *lease_slot_out, uint32_t *lease_generation_out);
void sim_grant_revoke(struct kvfi_transport *transport, uint32_t grant_id);
enum kvf_proof sim_grant_proof(struct kvfi_transport *transport, uint32_t grant_id);
void sim_grant_release(struct kvfi_transport *transport, uint32_t grant_id);
enum kvf_status sim_fence(struct kvfi_transport *transport, uint32_t peer);
uint64_t sim_grant_moved(struct kvfi_transport *transport, uint32_t grant_id);

/* post.c */
enum kvf_status sim_post(struct kvfi_transport *transport, const struct kvfi_tx_post *tx);
void sim_post_cancel(struct kvfi_transport *transport, uint64_t post_id);
uint64_t sim_post_moved(struct kvfi_transport *transport, uint64_t post_id);
/* Every post of this link (NULL: of all) ends as soon as it can. */
void sim_posts_stop(struct sim_transport *self, const struct sim_link *link, enum kvf_status status);
/* They end now: what is in flight lands first, unless the process is dead. */
void sim_posts_close(struct sim_transport *self);
void sim_post_finish(struct sim_transport *self, struct sim_post *post, enum kvf_status status);
/* The post that an event is about; NULL: over. */
struct sim_post *sim_post_of(struct sim_world *world, const struct sim_event *event);
struct sim_event *sim_post_at(struct sim_transport *self, struct sim_post *post, uint64_t after_ns,
	void (*run)(struct sim_world *world, struct sim_event *event));
uint64_t sim_sum(const struct kvfi_bound *bound, enum kvfi_walk_mode mode);

/* stream.c */
void sim_stream_step(struct sim_world *world, struct sim_event *event);
void sim_stream_init(struct sim_stream *stream);
/* The connection is over, or its receiver is: an open slice ends. */
void sim_stream_end(struct sim_link *link, enum kvf_status status, const char *reason);
void sim_stream_revoked(struct sim_link *link, uint32_t grant);
void sim_stream_fini(struct sim_link *link);

/* hot.c */
bool sim_hot_send(struct kvfi_transport *transport, uint32_t peer, const void *bytes, size_t len_bytes);
void sim_hot_poll(struct kvfi_transport *transport);
void sim_hot_fini(struct sim_link *link);

#endif
