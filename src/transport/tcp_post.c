/* tcp_post.c - posts and grants of the tcp transport: the tables that the owner thread and the I/O thread share.
 *
 * A post belongs to the owner thread until the I/O thread takes it out of its peer's queue; whoever holds it completes it, once. So a
 * cancel of a queued post is over at once, and a cancel of one on its way is a flag and a wake-up.
 *
 * A grant's plan and ids are read by the I/O thread only between enter and leave of the grant's lease word; release() revokes and waits
 * until nobody is inside (one nonblocking read at most), and from then on the generation of the slot keeps everything away. revoke() has
 * begun slices told soon, and quiet() is false before they are, so that no KVFI_DONE_RX follows. It is told without the lock, because the
 * owner may make it wait for room: released without quiet, a slice that a sender began beyond its last one may still be told.
 */
#include "transport/tcp.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/hash.h"
#include "base/status.h"

/* ---- tables */

enum kvf_status kvfi_tcp_posts_init(struct tcp_transport *self)
{
	uint32_t buckets = 16;

	while (buckets < self->env.max_posts && buckets < (UINT32_C(1) << 20))
		buckets *= 2;
	self->hash_mask = buckets - 1;
	self->posts_by_id = calloc(buckets, sizeof(struct tcp_post *));
	self->posts = calloc(self->env.max_posts, sizeof(*self->posts));
	self->grants = calloc(self->env.max_grants, sizeof(*self->grants));
	if (self->posts_by_id == NULL || self->posts == NULL || self->grants == NULL)
		return kvfi_fail(KVF_ENOMEM, "tcp: out of memory for %u posts, %u grants",
			self->env.max_posts, self->env.max_grants);
	for (uint32_t i = self->env.max_posts; i > 0; i--) {
		self->posts[i - 1].next = self->free_posts;
		self->free_posts = &self->posts[i - 1];
	}
	return KVF_OK;
}

void kvfi_tcp_posts_fini(struct tcp_transport *self)
{
	free(self->posts_by_id);
	free(self->posts);
	free(self->grants);
}

static struct tcp_post **bucket_of(struct tcp_transport *self, uint64_t id)
{
	return &self->posts_by_id[kvfi_mix64(id) & self->hash_mask];
}

static void unhash(struct tcp_transport *self, struct tcp_post *post)
{
	struct tcp_post **at = bucket_of(self, post->post.id);

	while (*at != post)
		at = &(*at)->next_hash;
	*at = post->next_hash;
}

/* ---- posts */

/* A free post, filled, in its peer's queue; under the lock. */
static enum kvf_status enqueue(struct tcp_transport *self, const struct kvfi_tx_post *tx)
{
	struct tcp_peer *peer = &self->peers[tx->peer];
	struct tcp_post *post = self->free_posts, **bucket = bucket_of(self, tx->id);

	if (peer->state != TCP_PEER_UP)
		return kvfi_fail(KVF_PEER_LOST, "tcp: peer %u is not connected", tx->peer);
	if (post == NULL)
		return kvfi_fail(KVF_EFULL, "tcp: all %u posts are open", self->env.max_posts);
	self->free_posts = post->next;
	post->next = NULL;
	post->post = *tx;
	post->active = false;
	atomic_store(&post->cancelled, false);
	atomic_store(&post->moved, 0);
	post->next_hash = *bucket;
	*bucket = post;
	*peer->queue.last = post;
	peer->queue.last = &post->next;
	kvfi_tcp_list_peer(self, peer);
	return KVF_OK;
}

/* Nothing to move: over before it began. */
static void finish_empty(struct tcp_transport *self, const struct kvfi_tx_post *tx)
{
	struct kvfi_done done = {
		.kind = KVFI_DONE_TX, .status = KVF_OK, .peer = tx->peer, .id = tx->id, .slice = tx->slice};

	self->env.notify(self->env.self, &done);
}

enum kvf_status kvfi_tcp_post(struct kvfi_transport *transport, const struct kvfi_tx_post *tx)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);
	enum kvf_status status;

	KVFI_ASSERT(tx->peer < self->env.max_peers);
	if (tx->bound->bytes == 0) {
		finish_empty(self, tx);
		return KVF_OK;
	}
	kvfi_tcp_lock(self);
	status = enqueue(self, tx);
	kvfi_tcp_unlock(self);
	if (status == KVF_OK)
		kvfi_tcp_wake(self);
	return status;
}

struct tcp_post *kvfi_tcp_take_post(struct tcp_transport *self, struct tcp_peer *peer, uint32_t session)
{
	struct tcp_post *post = NULL;

	kvfi_tcp_lock(self);
	if (peer->session == session && peer->queue.first != NULL) {
		post = peer->queue.first;
		peer->queue.first = post->next;
		if (post->next == NULL)
			peer->queue.last = &peer->queue.first;
		post->next = NULL;
		post->active = true;
	}
	kvfi_tcp_unlock(self);
	return post;
}

struct tcp_queue kvfi_tcp_take_queue(struct tcp_peer *peer)
{
	struct tcp_queue queue = peer->queue;

	for (struct tcp_post *post = queue.first; post != NULL; post = post->next)
		post->active = true;
	kvfi_tcp_queue_init(&peer->queue);
	return queue;
}

void kvfi_tcp_finish_post(struct tcp_transport *self, struct tcp_post *post, const struct kvfi_done *done)
{
	KVFI_ASSERT(post->active && done->id == post->post.id);
	kvfi_tcp_lock(self);
	unhash(self, post);
	post->next = self->free_posts;
	self->free_posts = post;
	kvfi_tcp_unlock(self);
	self->env.notify(self->env.self, done);
}

/* A post that never began. */
static void finish_unbegun(
	struct tcp_transport *self, struct tcp_post *post, enum kvf_status status, const char *reason)
{
	struct kvfi_done done = {.kind = KVFI_DONE_TX,
		.status = status,
		.peer = post->post.peer,
		.id = post->post.id,
		.slice = post->post.slice};

	(void)strncpy(done.reason, reason, sizeof(done.reason) - 1);
	kvfi_tcp_finish_post(self, post, &done);
}

void kvfi_tcp_finish_queue(
	struct tcp_transport *self, struct tcp_queue *queue, enum kvf_status status, const char *reason)
{
	struct tcp_post *post = queue->first;

	while (post != NULL) {
		struct tcp_post *next = post->next;

		finish_unbegun(self, post, status, reason);
		post = next;
	}
}

static void unqueue(struct tcp_queue *queue, struct tcp_post *post)
{
	struct tcp_post **at = &queue->first;

	while (*at != post)
		at = &(*at)->next;
	*at = post->next;
	if (queue->last == &post->next)
		queue->last = at;
}

/* The open post of that id, or NULL; under the lock. */
static struct tcp_post *find_post(struct tcp_transport *self, uint64_t post_id)
{
	struct tcp_post *post = *bucket_of(self, post_id);

	while (post != NULL && post->post.id != post_id)
		post = post->next_hash;
	return post;
}

uint64_t kvfi_tcp_post_moved(struct kvfi_transport *transport, uint64_t post_id)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);
	const struct tcp_post *post;
	uint64_t moved;

	kvfi_tcp_lock(self);
	post = find_post(self, post_id);
	moved = post != NULL ? atomic_load(&post->moved) : 0;
	kvfi_tcp_unlock(self);
	return moved;
}

void kvfi_tcp_cancel(struct kvfi_transport *transport, uint64_t post_id)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);
	struct tcp_post *post;
	bool begun = false;

	kvfi_tcp_lock(self);
	post = find_post(self, post_id);
	if (post != NULL && post->active) {
		begun = true;
		atomic_store(&post->cancelled, true);
		kvfi_tcp_list_peer(self, &self->peers[post->post.peer]);
	} else if (post != NULL) {
		unqueue(&self->peers[post->post.peer].queue, post);
		post->active = true;
	}
	kvfi_tcp_unlock(self);
	if (begun)
		kvfi_tcp_wake(self);
	else if (post != NULL)
		finish_unbegun(self, post, KVF_CANCELLED, "cancelled before its first byte");
}

/* ---- grants */

enum kvf_status kvfi_tcp_grant(struct kvfi_transport *transport, const struct kvfi_rx_grant *rx,
	uint32_t *lease_slot_out, uint32_t *lease_generation_out)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);
	enum kvf_status status = KVF_OK;
	struct tcp_grant *slot;
	struct tcp_peer *peer;

	KVFI_ASSERT(rx->id < self->env.max_grants && rx->peer < self->env.max_peers);
	slot = &self->grants[rx->id];
	peer = &self->peers[rx->peer];
	kvfi_tcp_lock(self);
	if (slot->in_use) {
		status = kvfi_fail(KVF_EBUSY, "tcp: grant %u is not released", rx->id);
	} else if (peer->state != TCP_PEER_UP && peer->state != TCP_PEER_CONNECTING) {
		status = kvfi_fail(KVF_PEER_LOST, "tcp: peer %u is not connected", rx->peer);
	} else {
		slot->grant = *rx;
		slot->session = peer->session;
		slot->begun = 0;
		slot->in_use = true;
		slot->generation++;
		KVFI_ASSERT(kvfi_lease_grant(&slot->lease, slot->generation));
		*lease_slot_out = rx->id;
		*lease_generation_out = slot->generation;
	}
	kvfi_tcp_unlock(self);
	return status;
}

/* Under the lock: no byte is read into this grant's blocks any more, and a slice begun under it is told. */
static void revoke(struct tcp_transport *self, struct tcp_grant *slot)
{
	kvfi_lease_revoke(&slot->lease);
	if (slot->begun > 0)
		kvfi_tcp_list_peer(self, &self->peers[slot->grant.peer]);
}

void kvfi_tcp_revoke(struct kvfi_transport *transport, uint32_t grant_id)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);

	KVFI_ASSERT(grant_id < self->env.max_grants && self->grants[grant_id].in_use);
	kvfi_tcp_lock(self);
	revoke(self, &self->grants[grant_id]);
	kvfi_tcp_unlock(self);
	kvfi_tcp_wake(self);
}

enum kvf_proof kvfi_tcp_proof(struct kvfi_transport *transport, uint32_t grant_id)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);
	bool quiet;

	KVFI_ASSERT(grant_id < self->env.max_grants && self->grants[grant_id].in_use);
	kvfi_tcp_lock(self);
	quiet = kvfi_lease_quiet(&self->grants[grant_id].lease) && self->grants[grant_id].begun == 0;
	kvfi_tcp_unlock(self);
	return quiet ? KVF_PROOF_LOCAL_EPOCH : KVF_PROOF_NONE;
}

uint64_t kvfi_tcp_grant_moved(struct kvfi_transport *transport, uint32_t grant_id)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);

	KVFI_ASSERT(grant_id < self->env.max_grants);
	return atomic_load(&self->grants[grant_id].moved);
}

/* Nothing to take: a peer has no power to store here, our own I/O thread stores, under the grant's lease. */
enum kvf_status kvfi_tcp_fence(struct kvfi_transport *transport, uint32_t peer)
{
	KVFI_ASSERT(peer < kvfi_tcp_self(transport)->env.max_peers);
	return KVF_OK;
}

void kvfi_tcp_release(struct kvfi_transport *transport, uint32_t grant_id)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);
	struct tcp_grant *slot;

	KVFI_ASSERT(grant_id < self->env.max_grants);
	slot = &self->grants[grant_id];
	kvfi_tcp_lock(self);
	if (!slot->in_use) {
		kvfi_tcp_unlock(self);
		return;
	}
	revoke(self, slot);
	slot->in_use = false;
	kvfi_tcp_unlock(self);
	kvfi_tcp_wake(self);
	while (!kvfi_lease_quiet(&slot->lease))
		(void)sched_yield();
}

static bool names(
	const struct tcp_grant *slot, const struct tcp_conn *conn, const struct kvfi_tcp_slice *slice)
{
	return slot->in_use && slot->generation == slice->lease_generation &&
	       slot->session == conn->session && slot->grant.epoch == conn->recv.header.epoch &&
	       slot->grant.request_id == slice->request_id && slot->grant.attempt == slice->attempt;
}

bool kvfi_tcp_open_grant(struct tcp_transport *self, const struct tcp_conn *conn,
	const struct kvfi_tcp_slice *slice, struct tcp_opened *opened_out)
{
	struct tcp_grant *slot;
	bool found;

	if (slice->lease_slot >= self->env.max_grants)
		return false;
	slot = &self->grants[slice->lease_slot];
	kvfi_tcp_lock(self);
	found = names(slot, conn, slice) && slot->grant.peer == kvfi_tcp_index(self, conn->peer) &&
	        kvfi_lease_enter(&slot->lease, slot->generation);
	if (found) {
		slot->begun++;
		(void)atomic_fetch_add(&slot->moved, 1);
		*opened_out = (struct tcp_opened){
			slot, slot->grant.prompt_len, slot->grant.plan, slot->grant.dst, slot->grant.sum};
	}
	kvfi_tcp_unlock(self);
	return found;
}

static bool is_granted(struct tcp_transport *self, const struct tcp_grant *slot, uint32_t generation)
{
	bool granted;

	kvfi_tcp_lock(self);
	granted = slot->in_use && slot->generation == generation;
	kvfi_tcp_unlock(self);
	return granted;
}

void kvfi_tcp_finish_slice(
	struct tcp_transport *self, uint32_t grant, uint32_t generation, const struct kvfi_done *done)
{
	struct tcp_grant *slot = &self->grants[grant];

	if (!is_granted(self, slot, generation))
		return;
	self->env.notify(self->env.self, done);
	kvfi_tcp_lock(self);
	if (slot->in_use && slot->generation == generation) {
		KVFI_ASSERT(slot->begun > 0);
		slot->begun--;
	}
	kvfi_tcp_unlock(self);
}
