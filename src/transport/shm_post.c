/* shm_post.c - posts, and the shares of them that copy workers run.
 *
 * A post is cut into pieces of about 2 MiB; its shares, at most one per copy worker, take pieces off a common counter. A share stores a few
 * chunks, then goes to the back of the workers' queue, so that a large post delays a small one by a bounded time only. Between
 * chunks it looks at cancel, at its link and at the failures of its siblings. The share that ends last tells KVFI_DONE_TX: it is the
 * last to touch the bound, and by then every other share is out of the lease and fenced.
 *
 * Small posts are stored by the owner itself, inside post(): handing them over costs more than the copy.
 * Lists and the pool of shares are under posts_lock, which is never held over a copy or a notify.
 */
#include "transport/shm.h"

#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/checked.h"
#include "base/hash.h"
#include "base/status.h"

#define CHUNKS_PER_RUN    16 /* 4 MiB, then the next post has its turn */
#define INLINE_BYTES      (UINT64_C(64) * 1024)
#define SHARES_PER_WORKER 32u
#define MAX_BUCKETS       (UINT32_C(1) << 20)

enum kvf_status kvfi_shm_posts_init(struct shm_transport *self)
{
	uint32_t n_shares =
		kvfi_min_u64(self->env.workers, 64) > 1 ? self->env.workers * SHARES_PER_WORKER : 0;
	uint32_t buckets = 16;

	while (buckets < self->env.max_posts && buckets < MAX_BUCKETS)
		buckets *= 2;
	self->hash_mask = buckets - 1;
	self->posts_by_id = calloc(buckets, sizeof(struct shm_post *));
	self->posts = calloc(self->env.max_posts, sizeof(*self->posts));
	self->shares = calloc(n_shares + UINT64_C(1), sizeof(*self->shares));
	if (self->posts_by_id == NULL || self->posts == NULL || self->shares == NULL)
		return kvfi_fail(KVF_ENOMEM, "shm: out of memory for %u posts", self->env.max_posts);
	for (uint32_t i = 0; i < self->env.max_posts; i++) {
		self->posts[i].next = self->free_posts;
		self->free_posts = &self->posts[i];
	}
	for (uint32_t i = 0; i < n_shares; i++) {
		self->shares[i].next = self->free_shares;
		self->free_shares = &self->shares[i];
	}
	return KVF_OK;
}

void kvfi_shm_posts_fini(struct shm_transport *self)
{
	free(self->posts_by_id);
	free(self->posts);
	free(self->shares);
}

void kvfi_shm_work_began(struct shm_transport *self)
{
	(void)pthread_mutex_lock(&self->posts_lock);
	self->open_work++;
	(void)pthread_mutex_unlock(&self->posts_lock);
}

void kvfi_shm_work_ended(struct shm_transport *self)
{
	(void)pthread_mutex_lock(&self->posts_lock);
	if (--self->open_work == 0)
		(void)pthread_cond_broadcast(&self->posts_ended);
	(void)pthread_mutex_unlock(&self->posts_lock);
}

void kvfi_shm_posts_stop(struct shm_transport *self)
{
	(void)pthread_mutex_lock(&self->posts_lock);
	for (struct shm_post *post = self->open_posts; post != NULL; post = post->next)
		atomic_store(&post->cancelled, true);
	while (self->open_work != 0)
		(void)pthread_cond_wait(&self->posts_ended, &self->posts_lock);
	(void)pthread_mutex_unlock(&self->posts_lock);
}

/* ---- lists */

static struct shm_post **bucket_of(struct shm_transport *self, uint64_t id)
{
	return &self->posts_by_id[kvfi_mix64(id) & self->hash_mask];
}

static void unhash(struct shm_transport *self, struct shm_post *post)
{
	struct shm_post **at = bucket_of(self, post->tx.id);

	while (*at != post)
		at = &(*at)->next_hash;
	*at = post->next_hash;
}

/* The open post of that id, or NULL; under posts_lock. */
static struct shm_post *find_post(struct shm_transport *self, uint64_t id)
{
	struct shm_post *post = *bucket_of(self, id);

	while (post != NULL && post->tx.id != id)
		post = post->next_hash;
	return post;
}

/* A post with up to n_shares shares in a chain that begins with its own. */
static struct shm_post *take_post(
	struct shm_transport *self, const struct kvfi_tx_post *tx, uint32_t n_shares)
{
	struct shm_post *post;

	(void)pthread_mutex_lock(&self->posts_lock);
	post = self->free_posts;
	if (post != NULL) {
		self->free_posts = post->next;
		*post = (struct shm_post){
			.next = self->open_posts, .next_hash = *bucket_of(self, tx->id), .tx = *tx};
		*bucket_of(self, tx->id) = post;
		if (self->open_posts != NULL)
			self->open_posts->previous = post;
		self->open_posts = post;
		self->open_work++;
		for (uint32_t i = 1; i < n_shares && self->free_shares != NULL; i++) {
			struct shm_share *share = self->free_shares;

			self->free_shares = share->next;
			*share = (struct shm_share){.next = post->first.next};
			post->first.next = share;
		}
	}
	(void)pthread_mutex_unlock(&self->posts_lock);
	return post;
}

static void give_post(struct shm_transport *self, struct shm_post *post)
{
	(void)pthread_mutex_lock(&self->posts_lock);
	unhash(self, post);
	if (post->previous != NULL)
		post->previous->next = post->next;
	else
		self->open_posts = post->next;
	if (post->next != NULL)
		post->next->previous = post->previous;
	for (struct shm_share *share = post->first.next, *next; share != NULL; share = next) {
		next = share->next;
		share->next = self->free_shares;
		self->free_shares = share;
	}
	post->next = self->free_posts;
	self->free_posts = post;
	(void)pthread_mutex_unlock(&self->posts_lock);
}

/* ---- the end of a post */

static void add_share(struct kvfi_done *done, const struct kvfi_store *store)
{
	done->bytes += store->bytes;
	done->runs += store->runs;
	done->sum += store->sum;
	if (store->first_ns != 0 && (done->first_ns == 0 || store->first_ns < done->first_ns))
		done->first_ns = store->first_ns;
	done->last_ns = kvfi_max_u64(done->last_ns, store->last_ns);
}

/* By whoever ends the last share. The slot is free before the completion is told, so that the next post finds it. */
static void finish(struct shm_post *post)
{
	struct shm_link *link = post->link;
	struct shm_transport *self = link->transport;
	struct kvfi_done done = {.kind = KVFI_DONE_TX,
		.status = (enum kvf_status)atomic_load(&post->failure),
		.peer = post->tx.peer,
		.id = post->tx.id,
		.slice = post->tx.slice};

	for (const struct shm_share *share = &post->first; share != NULL; share = share->next)
		add_share(&done, &share->store);
	if (atomic_load(&link->sunk))
		done.status = KVF_PEER_LOST; /* who knows which of its bytes have landed */
	else if (done.bytes == post->target.bound->bytes)
		done.status = KVF_OK; /* what came to stop it came too late */
	(void)strncpy(done.reason, kvfi_store_reason(done.status), sizeof(done.reason) - 1);
	give_post(self, post);
	(void)atomic_fetch_sub(&link->posts, 1);
	kvfi_shm_link_put(link);
	self->env.notify(self->env.self, &done);
	kvfi_shm_work_ended(self);
}

static void fail(struct shm_post *post, enum kvf_status status)
{
	int none = KVF_OK;

	(void)atomic_compare_exchange_strong(&post->failure, &none, (int)status);
}

/* ---- shares */

static bool may_go_on(struct shm_post *post)
{
	if (atomic_load(&post->cancelled))
		fail(post, KVF_CANCELLED);
	else if (atomic_load(&post->link->stop))
		fail(post, KVF_PEER_LOST);
	return atomic_load(&post->failure) == KVF_OK;
}

/* One chunk, or the step to the next piece. False: this share has ended. */
static bool step(struct shm_share *share)
{
	struct shm_post *post = share->post;
	enum kvfi_store_result result;
	uint64_t before;

	if (!may_go_on(post))
		return false;
	if (!share->begun) {
		uint32_t piece = atomic_fetch_add(&post->next_piece, 1);

		if (piece >= post->target.n_pieces)
			return false;
		kvfi_store_begin(&share->store, &post->target, piece);
		share->begun = true;
	}
	before = share->store.bytes;
	result = kvfi_store_chunk(&share->store);
	if (share->store.bytes != before)
		(void)atomic_fetch_add(&post->moved, share->store.bytes - before);
	if (result == KVFI_STORE_END)
		share->begun = false;
	if (result == KVFI_STORE_END || result == KVFI_STORE_MORE)
		return true;
	fail(post, kvfi_store_status(result));
	return false;
}

static void end_share(struct shm_post *post)
{
	if (atomic_fetch_sub(&post->running, 1) == 1)
		finish(post);
}

static void run_share(struct kvfi_job *job)
{
	struct shm_share *share = (struct shm_share *)(void *)job; /* its first member */
	const struct kvfi_transport_env *env = &share->post->link->transport->env;

	for (int i = 0; i < CHUNKS_PER_RUN; i++) {
		if (!step(share)) {
			end_share(share->post);
			return;
		}
	}
	env->submit(env->self, job);
}

static void start(struct shm_post *post)
{
	const struct kvfi_transport_env *env = &post->link->transport->env;
	struct shm_share *share, *next;
	uint32_t n = 0;

	for (share = &post->first; share != NULL; share = share->next) {
		share->post = post;
		share->job.run = run_share;
		n++;
	}
	atomic_store(&post->running, n);
	for (share = &post->first; share != NULL; share = next) {
		next = share->next; /* the last submit may end the post at once */
		env->submit(env->self, &share->job);
	}
}

static void run_inline(struct shm_post *post)
{
	post->first.post = post;
	atomic_store(&post->running, 1);
	while (step(&post->first))
		;
	end_share(post);
}

/* ---- vtable */

enum kvf_status kvfi_shm_post(struct kvfi_transport *transport, const struct kvfi_tx_post *tx)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	struct kvfi_store_target target = {
		.bound = tx->bound, .generation = tx->lease_generation, .sum = tx->sum};
	struct shm_link *link;
	struct shm_post *post;

	KVFI_ASSERT(tx->peer < self->env.max_peers);
	link = self->peers[tx->peer];
	if (link == NULL || !link->sender || link->state != SHM_UP)
		return kvfi_fail(KVF_PEER_LOST, "shm: the peer is not connected");
	if (tx->lease_slot >= link->n_words)
		return kvfi_fail(KVF_PROTOCOL, "shm: lease slot %u of %u", tx->lease_slot, link->n_words);
	kvfi_shm_sweep(link);
	target.windows = &link->windows;
	target.lease = &link->words[tx->lease_slot];
	kvfi_store_target_cut(&target);
	post = take_post(self, tx, (uint32_t)kvfi_min_u64(self->env.workers, target.n_pieces));
	if (post == NULL)
		return kvfi_fail(KVF_EFULL, "shm: all %u posts are open", self->env.max_posts);
	post->target = target;
	post->link = kvfi_shm_link_get(link);
	(void)atomic_fetch_add(&link->posts, 1);
	if (tx->bound->bytes <= INLINE_BYTES)
		run_inline(post);
	else
		start(post);
	return KVF_OK;
}

void kvfi_shm_cancel(struct kvfi_transport *transport, uint64_t post_id)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	struct shm_post *post;

	(void)pthread_mutex_lock(&self->posts_lock);
	post = find_post(self, post_id);
	if (post != NULL)
		atomic_store(&post->cancelled, true);
	(void)pthread_mutex_unlock(&self->posts_lock);
}

uint64_t kvfi_shm_post_moved(struct kvfi_transport *transport, uint64_t post_id)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	const struct shm_post *post;
	uint64_t moved;

	(void)pthread_mutex_lock(&self->posts_lock);
	post = find_post(self, post_id);
	moved = post != NULL ? atomic_load(&post->moved) : 0;
	(void)pthread_mutex_unlock(&self->posts_lock);
	return moved;
}
