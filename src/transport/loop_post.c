/* loop_post.c - posts and grants of the loop transport. See loop.c for who may touch what.
 *
 * Posts wait in a queue that belongs to the sender's owner thread. poll() gives the first one a few chunks and sends it to the back, so
 * many posts share fairly and the order of all stores follows from the order of calls alone.
 */
#include "transport/loop.h"

#include <string.h>
#include <sys/eventfd.h>
#include "base/assert.h"
#include "base/status.h"

#define CHUNKS_PER_POLL 4

/* ---- posts */

/* Is the receiver there?  Its leases stay for as long as the link, also after it has left. */
static bool is_up(struct loop_link *link)
{
	bool up;

	(void)pthread_mutex_lock(&link->lock);
	up = link->ends[LOOP_RECEIVER].transport != NULL;
	(void)pthread_mutex_unlock(&link->lock);
	return up;
}

static void signal_queue(struct loop_transport *self)
{
	(void)eventfd_write(self->event_fd, 1);
}

static void finish(
	struct loop_transport *self, struct loop_post *post, enum kvf_status status, const char *reason)
{
	struct kvfi_done done = {.kind = KVFI_DONE_TX,
		.status = status,
		.peer = post->post.peer,
		.id = post->post.id,
		.slice = post->post.slice,
		.bytes = post->store.bytes,
		.runs = post->store.runs,
		.sum = post->store.sum,
		.first_ns = post->store.first_ns,
		.last_ns = post->store.last_ns};

	(void)strncpy(done.reason, reason, sizeof(done.reason) - 1);
	kvfi_loop_link_put(post->link);
	post->link = NULL;
	post->next = self->free_posts;
	self->free_posts = post;
	self->env.notify(self->env.self, &done);
}

enum kvf_status kvfi_loop_post(struct kvfi_transport *transport, const struct kvfi_tx_post *tx)
{
	struct loop_transport *self = kvfi_loop_self(transport);
	struct loop_link *link;
	struct loop_post *post;

	KVFI_ASSERT(tx->peer < self->env.max_peers);
	link = self->peers[tx->peer].link;
	if (link == NULL || self->peers[tx->peer].side != LOOP_SENDER || !is_up(link))
		return kvfi_fail(KVF_PEER_LOST, "loop: the peer is not connected");
	if (tx->lease_slot >= link->leases.n)
		return kvfi_fail(KVF_PROTOCOL, "loop: lease slot %u of %u", tx->lease_slot, link->leases.n);
	post = self->free_posts;
	if (post == NULL)
		return kvfi_fail(KVF_EFULL, "loop: all %u posts are open", self->env.max_posts);
	self->free_posts = post->next;
	*post = (struct loop_post){.post = *tx, .link = kvfi_loop_link_get(link)};
	post->target = (struct kvfi_store_target){.bound = tx->bound,
		.windows = &link->windows,
		.lease = &link->leases.words[tx->lease_slot],
		.generation = tx->lease_generation,
		.sum = tx->sum};
	kvfi_store_target_cut(&post->target);
	if (tx->bound->bytes == 0) {
		finish(self, post, KVF_OK, "");
		return KVF_OK;
	}
	kvfi_store_begin(&post->store, &post->target, 0);
	if (self->queue_first == NULL)
		signal_queue(self);
	*self->queue_last = post;
	self->queue_last = &post->next;
	return KVF_OK;
}

void kvfi_loop_cancel(struct kvfi_transport *transport, uint64_t post_id)
{
	for (struct loop_post *post = kvfi_loop_self(transport)->queue_first; post != NULL;
		post = post->next) {
		if (post->post.id == post_id)
			post->cancelled = true;
	}
}

/* True: one more chunk is stored or one more piece begun. False: it is over, with *status_out. */
static bool step(struct loop_post *post, enum kvf_status *status_out)
{
	enum kvfi_store_result result;
	bool alive;

	if (post->cancelled && post->store.has_strip) {
		*status_out = KVF_CANCELLED;
		return false;
	}
	(void)pthread_mutex_lock(&post->link->lock);
	alive = post->link->ends[LOOP_RECEIVER].transport != NULL;
	result = alive ? kvfi_store_chunk(&post->store) : KVFI_STORE_END;
	(void)pthread_mutex_unlock(&post->link->lock);
	if (result == KVFI_STORE_MORE)
		return true;
	if (alive && result == KVFI_STORE_END && ++post->piece < post->target.n_pieces) {
		kvfi_store_begin(&post->store, &post->target, post->piece);
		return true;
	}
	*status_out = alive ? kvfi_store_status(result) : KVF_PEER_LOST;
	return false;
}

static void remove_first(struct loop_transport *self)
{
	self->queue_first = self->queue_first->next;
	if (self->queue_first == NULL)
		self->queue_last = &self->queue_first;
}

void kvfi_loop_poll(struct kvfi_transport *transport)
{
	struct loop_transport *self = kvfi_loop_self(transport);
	struct loop_post *post = self->queue_first;
	enum kvf_status status = KVF_OK;
	bool more = true;
	eventfd_t ignored;

	if (post == NULL)
		return;
	for (int i = 0; more && i < CHUNKS_PER_POLL; i++)
		more = step(post, &status);
	remove_first(self);
	if (more) {
		post->next = NULL;
		*self->queue_last = post;
		self->queue_last = &post->next;
	} else {
		finish(self, post, status, kvfi_store_reason(status));
	}
	if (self->queue_first == NULL)
		(void)eventfd_read(self->event_fd, &ignored);
}

/* Ends every post of a link, or every post at all (NULL). */
void kvfi_loop_finish_posts(struct loop_transport *self, const struct loop_link *link, enum kvf_status status)
{
	struct loop_post *post = self->queue_first;
	eventfd_t ignored;

	self->queue_first = NULL;
	self->queue_last = &self->queue_first;
	while (post != NULL) {
		struct loop_post *next = post->next;

		if (link == NULL || post->link == link) {
			finish(self, post, status, "the connection was closed here");
		} else {
			post->next = NULL;
			*self->queue_last = post;
			self->queue_last = &post->next;
		}
		post = next;
	}
	if (self->queue_first == NULL)
		(void)eventfd_read(self->event_fd, &ignored);
}

/* ---- grants */

enum kvf_status kvfi_loop_grant(struct kvfi_transport *transport, const struct kvfi_rx_grant *rx,
	uint32_t *lease_slot_out, uint32_t *lease_generation_out)
{
	struct loop_transport *self = kvfi_loop_self(transport);
	struct loop_link *link;
	enum kvf_status status;

	KVFI_ASSERT(rx->id < self->env.max_grants && rx->peer < self->env.max_peers);
	if (self->grants[rx->id].link != NULL)
		return kvfi_fail(KVF_EBUSY, "loop: grant %u is not released", rx->id);
	link = self->peers[rx->peer].link;
	if (link == NULL || self->peers[rx->peer].side != LOOP_RECEIVER)
		return kvfi_fail(KVF_PEER_LOST, "loop: the peer is not connected");
	status = kvfi_lease_table_take(&link->leases, lease_slot_out, lease_generation_out);
	if (status != KVF_OK)
		return status;
	self->grants[rx->id] = (struct loop_grant){kvfi_loop_link_get(link), *lease_slot_out};
	return KVF_OK;
}

static struct kvfi_lease *lease_of(struct kvfi_transport *transport, uint32_t grant_id)
{
	struct loop_transport *self = kvfi_loop_self(transport);

	KVFI_ASSERT(grant_id < self->env.max_grants && self->grants[grant_id].link != NULL);
	return &self->grants[grant_id].link->leases.words[self->grants[grant_id].slot];
}

void kvfi_loop_revoke(struct kvfi_transport *transport, uint32_t grant_id)
{
	kvfi_lease_revoke(lease_of(transport, grant_id));
}

enum kvf_proof kvfi_loop_proof(struct kvfi_transport *transport, uint32_t grant_id)
{
	return kvfi_lease_quiet(lease_of(transport, grant_id)) ? KVF_PROOF_LEASE : KVF_PROOF_NONE;
}

void kvfi_loop_release(struct kvfi_transport *transport, uint32_t grant_id)
{
	struct loop_transport *self = kvfi_loop_self(transport);
	struct loop_grant *grant;

	KVFI_ASSERT(grant_id < self->env.max_grants);
	grant = &self->grants[grant_id];
	if (grant->link == NULL)
		return;
	kvfi_lease_table_put(&grant->link->leases, grant->slot);
	kvfi_loop_link_put(grant->link);
	grant->link = NULL;
}

/* Nothing to take: a chunk is copied by a thread of this very process, under the link's lock, and its lease ends with it. */
enum kvf_status kvfi_loop_fence(struct kvfi_transport *transport, uint32_t peer)
{
	KVFI_ASSERT(peer < kvfi_loop_self(transport)->env.max_peers);
	return KVF_OK;
}

/* ---- progress */

uint64_t kvfi_loop_post_moved(struct kvfi_transport *transport, uint64_t post_id)
{
	const struct loop_post *post = kvfi_loop_self(transport)->queue_first;

	while (post != NULL && post->post.id != post_id)
		post = post->next;
	return post != NULL ? post->store.bytes : 0;
}

uint64_t kvfi_loop_grant_moved(struct kvfi_transport *transport, uint32_t grant_id)
{
	return kvfi_lease_chunks(lease_of(transport, grant_id));
}
