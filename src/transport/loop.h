/* loop.h - inside of the loop transport: what loop.c (links, connecting) and loop_post.c (posts, grants) share. */
#ifndef KVFI_TRANSPORT_LOOP_H
#define KVFI_TRANSPORT_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include "memory/lease_table.h"
#include "transport/store.h"
#include "transport/transport.h"

enum kvfi_loop_side {
	LOOP_SENDER = 0,
	LOOP_RECEIVER = 1
};

struct loop_end {
	struct loop_transport *transport; /* NULL: not attached (any more) */
	uint32_t peer;
};

struct loop_link {
	struct loop_link *next; /* in `expected` */
	_Atomic uint32_t references;
	uint64_t sender_incarnation, receiver_incarnation, number;
	pthread_mutex_t lock; /* of ends and windows */
	struct loop_end ends[2];
	struct kvfi_windows windows;
	/* The receiver's; made when it attaches. Slots belong to its owner thread, words to anyone who holds a reference. */
	struct kvfi_lease_table leases;
	bool has_leases;
};

struct loop_peer {
	struct loop_link *link;   /* NULL: unknown */
	enum kvfi_loop_side side; /* ours */
};

struct loop_grant {
	struct loop_link *link; /* NULL: free */
	uint32_t slot;
};

struct loop_post {
	struct loop_post *next; /* queue, or list of free ones */
	struct kvfi_tx_post post;
	struct loop_link *link;
	struct kvfi_store_target target;
	struct kvfi_store store;
	uint32_t piece;
	bool cancelled;
};

struct loop_transport {
	struct kvfi_transport_base base;
	struct kvfi_transport_env env;
	struct loop_peer *peers;
	struct loop_grant *grants;
	struct kvfi_window *told; /* per region: what region_added told; the table itself is the front's */
	struct loop_post *posts;
	struct loop_post *free_posts;
	struct loop_post *queue_first, **queue_last;
	int event_fd; /* readable while the queue is not empty */
};

static inline struct loop_transport *kvfi_loop_self(struct kvfi_transport *transport)
{
	return (struct loop_transport *)(void *)transport;
}

static inline struct loop_link *kvfi_loop_link_get(struct loop_link *link)
{
	(void)atomic_fetch_add(&link->references, 1);
	return link;
}

void kvfi_loop_link_put(struct loop_link *link);

/* Ends every post of a link, or every post at all (NULL). */
void kvfi_loop_finish_posts(
	struct loop_transport *self, const struct loop_link *link, enum kvf_status status);

enum kvf_status kvfi_loop_post(struct kvfi_transport *transport, const struct kvfi_tx_post *tx);
void kvfi_loop_cancel(struct kvfi_transport *transport, uint64_t post_id);
void kvfi_loop_poll(struct kvfi_transport *transport);
enum kvf_status kvfi_loop_grant(struct kvfi_transport *transport, const struct kvfi_rx_grant *rx,
	uint32_t *lease_slot_out, uint32_t *lease_generation_out);
void kvfi_loop_revoke(struct kvfi_transport *transport, uint32_t grant_id);
enum kvf_proof kvfi_loop_proof(struct kvfi_transport *transport, uint32_t grant_id);
void kvfi_loop_release(struct kvfi_transport *transport, uint32_t grant_id);
enum kvf_status kvfi_loop_fence(struct kvfi_transport *transport, uint32_t peer);
uint64_t kvfi_loop_post_moved(struct kvfi_transport *transport, uint64_t post_id);
uint64_t kvfi_loop_grant_moved(struct kvfi_transport *transport, uint32_t grant_id);

#endif
