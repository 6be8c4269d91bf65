/* fault.c - see fault.h.
 *
 * What comes late waits in a list of bounded length with the time at which it is due; when the list is full, things come in time. Words about one
 * peer keep their order. Posts that are held wait in a list of their own and have not reached the wrapped transport: a cancel, a disconnect or
 * close() completes them here, so that each post has its one completion whatever happens.
 *
 * Threads: as the contract says; completions arrive on any thread, so the lists and the random numbers are behind one lock, which is never held over
 * a call of the wrapped transport or of notify. What is due is told on the owner thread, in poll(); a timer descriptor wakes it.
 */
#include "transport/fault.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/clock.h"
#include "base/status.h"

#define LATE_MAX 256u

struct late {
	uint64_t due_ns;
	bool frame; /* else a completion; done.peer is set for both */
	struct kvfi_done done;
	uint32_t frame_bytes;
	unsigned char bytes[KVFI_HOT_FRAME_MAX];
};

struct held {
	uint64_t due_ns;
	struct kvfi_tx_post post;
};

struct fault_transport {
	struct kvfi_transport_base base;
	struct kvfi_transport_env env; /* the agent's */
	const struct kvfi_transport_ops *inner_ops;
	struct kvfi_transport *inner;
	int epoll_fd, timer_fd;
	struct fault_transport *next_retired;

	pthread_mutex_t lock; /* of all below */
	struct kvfi_dice dice;
	bool closing;
	struct late *lates; /* in order of arrival */
	uint32_t n_lates;
	struct held *helds;
	uint32_t n_helds;
	uint64_t *last_due_ns; /* per peer: when its last late word is due */
};

static struct fault_transport *self_of(struct kvfi_transport *transport)
{
	return (struct fault_transport *)(void *)transport;
}

/* ---- time: under the lock ---- */

static void arm(struct fault_transport *self)
{
	struct itimerspec when = {{0, 0}, {0, 0}};
	uint64_t due_ns = KVFI_NEVER;

	for (uint32_t i = 0; i < self->n_lates; i++)
		due_ns = self->lates[i].due_ns < due_ns ? self->lates[i].due_ns : due_ns;
	for (uint32_t i = 0; i < self->n_helds; i++)
		due_ns = self->helds[i].due_ns < due_ns ? self->helds[i].due_ns : due_ns;
	if (due_ns != KVFI_NEVER) {
		when.it_value.tv_sec = (time_t)(due_ns / KVFI_NS_PER_S);
		when.it_value.tv_nsec = (long)(due_ns % KVFI_NS_PER_S);
	}
	(void)timerfd_settime(self->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* ---- late words ---- */

/* True: it was taken, and comes later. */
static bool take_late(
	struct fault_transport *self, const struct kvfi_done *done, const void *frame, uint32_t frame_bytes)
{
	struct late *late;
	bool queued;

	if (self->closing || self->n_lates == LATE_MAX)
		return false;
	queued = self->last_due_ns[done->peer] > kvfi_clock_ns(); /* behind one that is late */
	if (!queued && !kvfi_dice_strike(&self->dice, KVFI_HARM_LATE))
		return false;
	late = &self->lates[self->n_lates++];
	late->due_ns = kvfi_dice_due_ns(&self->dice, kvfi_clock_ns());
	if (late->due_ns < self->last_due_ns[done->peer])
		late->due_ns = self->last_due_ns[done->peer];
	self->last_due_ns[done->peer] = late->due_ns;
	late->frame = frame != NULL;
	late->done = *done;
	late->frame_bytes = frame_bytes;
	if (frame != NULL)
		memcpy(late->bytes, frame, frame_bytes);
	arm(self);
	return true;
}

static void notify(void *context, const struct kvfi_done *done)
{
	struct fault_transport *self = context;
	bool later = false;

	if (done->kind != KVFI_DONE_FRAME) {
		(void)pthread_mutex_lock(&self->lock);
		later = take_late(self, done, NULL, 0);
		(void)pthread_mutex_unlock(&self->lock);
	}
	if (!later)
		self->env.notify(self->env.self, done);
}

static void submit(void *context, struct kvfi_job *job)
{
	struct fault_transport *self = context;

	self->env.submit(self->env.self, job);
}

/* The first late word that is due, taken out. */
static bool next_late(struct fault_transport *self, uint64_t now_ns, struct late *late_out)
{
	for (uint32_t i = 0; i < self->n_lates; i++) {
		if (self->lates[i].due_ns > now_ns)
			continue;
		*late_out = self->lates[i];
		self->n_lates--;
		memmove(&self->lates[i], &self->lates[i + 1], (self->n_lates - i) * sizeof(struct late));
		return true;
	}
	return false;
}

static void tell_late(struct fault_transport *self, uint64_t now_ns)
{
	struct late late;
	bool found;

	for (;;) {
		(void)pthread_mutex_lock(&self->lock);
		found = next_late(self, now_ns, &late);
		(void)pthread_mutex_unlock(&self->lock);
		if (!found)
			return;
		if (!late.frame)
			self->env.notify(self->env.self, &late.done);
		else if (!self->closing)
			(void)self->inner_ops->send_frame(
				self->inner, late.done.peer, late.bytes, late.frame_bytes);
	}
}

/* ---- posts ---- */

static void complete(struct fault_transport *self, const struct kvfi_tx_post *post, enum kvf_status status,
	const char *why)
{
	struct kvfi_done done = {.kind = KVFI_DONE_TX, .status = status, .peer = post->peer, .id = post->id};

	(void)snprintf(done.reason, sizeof(done.reason), "%s", why);
	self->env.notify(self->env.self, &done);
}

/* The first held post for which there is a reason: it is due, of that peer, or that one. */
static bool next_held(struct fault_transport *self, uint64_t now_ns, uint32_t peer, uint64_t id,
	struct kvfi_tx_post *post_out)
{
	bool found = false;

	(void)pthread_mutex_lock(&self->lock);
	for (uint32_t i = 0; i < self->n_helds && !found; i++) {
		const struct held *held = &self->helds[i];

		if (held->due_ns > now_ns && held->post.peer != peer && held->post.id != id)
			continue;
		*post_out = held->post;
		self->helds[i] = self->helds[--self->n_helds];
		found = true;
	}
	(void)pthread_mutex_unlock(&self->lock);
	return found;
}

static bool hold(struct fault_transport *self, const struct kvfi_tx_post *post, uint64_t due_ns)
{
	if (self->n_helds == self->env.max_posts)
		return false;
	self->helds[self->n_helds++] = (struct held){due_ns, *post};
	arm(self);
	return true;
}

static void begin_held(struct fault_transport *self, uint64_t now_ns)
{
	struct kvfi_tx_post post;

	while (next_held(self, now_ns, UINT32_MAX, UINT64_MAX, &post)) {
		enum kvf_status status = self->inner_ops->post(self->inner, &post);
		bool again = false;

		if (status == KVF_EFULL) { /* it was taken from the agent: it waits for room */
			(void)pthread_mutex_lock(&self->lock);
			again = hold(self, &post, now_ns + KVFI_NS_PER_MS);
			(void)pthread_mutex_unlock(&self->lock);
		}
		if (status != KVF_OK && !again)
			complete(self, &post, status, kvf_error());
	}
}

static void break_connection(struct fault_transport *self, uint32_t peer)
{
	struct kvfi_done done = {.kind = KVFI_DONE_BROKEN, .status = KVF_PEER_LOST, .peer = peer};

	(void)snprintf(done.reason, sizeof(done.reason), "the connection was broken on purpose");
	notify(self, &done); /* the agent disconnects */
}

static enum kvf_status post(struct kvfi_transport *transport, const struct kvfi_tx_post *post)
{
	struct fault_transport *self = self_of(transport);
	bool full, fails, held, breaks;
	enum kvf_status status = KVF_OK;

	(void)pthread_mutex_lock(&self->lock);
	full = kvfi_dice_strike(&self->dice, KVFI_HARM_FULL);
	fails = !full && kvfi_dice_strike(&self->dice, KVFI_HARM_FAIL);
	held = !full && !fails && kvfi_dice_strike(&self->dice, KVFI_HARM_HOLD) &&
	       hold(self, post, kvfi_dice_due_ns(&self->dice, kvfi_clock_ns()));
	breaks = !full && kvfi_dice_strike(&self->dice, KVFI_HARM_BREAK);
	(void)pthread_mutex_unlock(&self->lock);
	if (full)
		return kvfi_fail(KVF_EFULL, "no room for a post, on purpose");
	if (fails)
		complete(self, post, KVF_EIO, "the post failed on purpose");
	else if (!held)
		status = self->inner_ops->post(self->inner, post);
	if (breaks && status == KVF_OK)
		break_connection(self, post->peer);
	return status;
}

static void cancel(struct kvfi_transport *transport, uint64_t post_id)
{
	struct fault_transport *self = self_of(transport);
	struct kvfi_tx_post held;

	if (next_held(self, 0, UINT32_MAX, post_id, &held))
		complete(self, &held, KVF_CANCELLED, "");
	else
		self->inner_ops->cancel(self->inner, post_id);
}

static uint64_t post_moved(struct kvfi_transport *transport, uint64_t post_id)
{
	struct fault_transport *self = self_of(transport);
	bool held = false;

	(void)pthread_mutex_lock(&self->lock);
	for (uint32_t i = 0; i < self->n_helds; i++)
		held = held || self->helds[i].post.id == post_id;
	(void)pthread_mutex_unlock(&self->lock);
	return held ? 0 : self->inner_ops->post_moved(self->inner, post_id);
}

/* ---- frames ---- */

static bool send_frame(struct kvfi_transport *transport, uint32_t peer, const void *frame, size_t len_bytes)
{
	struct fault_transport *self = self_of(transport);
	const struct kvfi_done to = {.peer = peer};
	unsigned char damaged[KVFI_HOT_FRAME_MAX];
	bool gone, twice, damage;

	if (len_bytes > sizeof(damaged))
		return false;
	(void)pthread_mutex_lock(&self->lock);
	gone = kvfi_dice_strike(&self->dice, KVFI_HARM_DROP);
	twice = kvfi_dice_strike(&self->dice, KVFI_HARM_REPEAT);
	damage = len_bytes > 0 && kvfi_dice_strike(&self->dice, KVFI_HARM_DAMAGE);
	if (damage) {
		uint64_t bit = kvfi_dice_draw(&self->dice) % (len_bytes * 8);

		memcpy(damaged, frame, len_bytes);
		damaged[bit / 8] ^= (unsigned char)(1u << (bit % 8));
		frame = damaged;
	}
	gone = gone || take_late(self, &to, frame, (uint32_t)len_bytes);
	(void)pthread_mutex_unlock(&self->lock);
	if (gone)
		return true;
	if (twice)
		(void)self->inner_ops->send_frame(self->inner, peer, frame, len_bytes);
	return self->inner_ops->send_frame(self->inner, peer, frame, len_bytes);
}

/* ---- life ---- */

/* The workers of an agent are stopped after its transports: a job may still end, and tell it, when its transport is closed. Those few bytes stay. */
static pthread_mutex_t retired_lock = PTHREAD_MUTEX_INITIALIZER;
static struct fault_transport *retired;

static void retire(struct fault_transport *self)
{
	(void)pthread_mutex_lock(&retired_lock);
	self->next_retired = retired;
	retired = self;
	(void)pthread_mutex_unlock(&retired_lock);
}

static void let_go(struct fault_transport *self)
{
	if (self->timer_fd >= 0)
		(void)close(self->timer_fd);
	if (self->epoll_fd >= 0)
		(void)close(self->epoll_fd);
	free(self->last_due_ns);
	free(self->helds);
	free(self->lates);
	self->timer_fd = self->epoll_fd = -1;
	self->last_due_ns = NULL;
	self->helds = NULL;
	self->lates = NULL;
}

static enum kvf_status watch(struct fault_transport *self, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};

	if (fd >= 0 && epoll_ctl(self->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
		return kvfi_fail_errno(KVF_EIO, errno, "faults: epoll_ctl");
	return KVF_OK;
}

static enum kvf_status take_tables(struct fault_transport *self)
{
	self->lates = calloc(LATE_MAX, sizeof(*self->lates));
	self->helds = calloc(self->env.max_posts, sizeof(*self->helds));
	self->last_due_ns = calloc(self->env.max_peers, sizeof(*self->last_due_ns));
	if (self->lates == NULL || self->helds == NULL || self->last_due_ns == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for faults");
	self->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	self->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (self->epoll_fd < 0 || self->timer_fd < 0)
		return kvfi_fail_errno(KVF_EIO, errno, "faults: epoll, timerfd");
	return watch(self, self->timer_fd);
}

static enum kvf_status open_over(const struct kvfi_transport_ops *ops, const struct kvfi_transport_ops *inner,
	const struct kvfi_transport_env *env, struct kvfi_transport **transport_out)
{
	struct fault_transport *self = calloc(1, sizeof(*self));
	struct kvfi_transport_env ours = *env;
	enum kvf_status status;

	if (self == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for faults");
	self->base.ops = ops;
	self->env = *env;
	self->inner_ops = inner;
	self->epoll_fd = self->timer_fd = -1;
	(void)pthread_mutex_init(&self->lock, NULL);
	ours.self = self;
	ours.notify = notify;
	ours.submit = submit;
	self->dice = (struct kvfi_dice){.faults = *env->faults, .salt = env->incarnation};
	status = take_tables(self);
	if (status == KVF_OK)
		status = inner->open(&ours, &self->inner);
	if (status == KVF_OK && (status = watch(self, inner->fd(self->inner))) != KVF_OK)
		inner->close(self->inner);
	if (status != KVF_OK) {
		let_go(self);
		(void)pthread_mutex_destroy(&self->lock);
		free(self);
		return status;
	}
	*transport_out = (struct kvfi_transport *)(void *)self;
	return KVF_OK;
}

static void fault_close(struct kvfi_transport *transport)
{
	struct fault_transport *self = self_of(transport);
	struct kvfi_tx_post held;

	if (self == NULL)
		return;
	(void)pthread_mutex_lock(&self->lock);
	self->closing = true;
	(void)pthread_mutex_unlock(&self->lock);
	while (next_held(self, KVFI_NEVER, UINT32_MAX, UINT64_MAX, &held))
		complete(self, &held, KVF_PEER_LOST, "closing");
	self->inner_ops->close(self->inner);
	tell_late(self, KVFI_NEVER);
	let_go(self);
	retire(self);
}

/* Late words of a connection that is over are not told, but for completions of posts and slices. */
static void forget_peer(struct fault_transport *self, uint32_t peer)
{
	uint32_t n = 0;

	(void)pthread_mutex_lock(&self->lock);
	for (uint32_t i = 0; i < self->n_lates; i++) {
		const struct late *late = &self->lates[i];
		bool over = late->done.peer == peer && (late->frame || late->done.kind == KVFI_DONE_UP ||
							       late->done.kind == KVFI_DONE_BROKEN);

		if (!over)
			self->lates[n++] = self->lates[i];
	}
	self->n_lates = n;
	self->last_due_ns[peer] = 0;
	(void)pthread_mutex_unlock(&self->lock);
}

static void disconnect(struct kvfi_transport *transport, uint32_t peer)
{
	struct fault_transport *self = self_of(transport);
	struct kvfi_tx_post held;

	self->inner_ops->disconnect(self->inner, peer);
	forget_peer(self, peer);
	while (next_held(self, 0, peer, UINT64_MAX, &held))
		complete(self, &held, KVF_PEER_LOST, "disconnected before its first byte");
}

static void fault_poll(struct kvfi_transport *transport)
{
	struct fault_transport *self = self_of(transport);
	uint64_t now_ns = kvfi_clock_ns(), expired;

	if (read(self->timer_fd, &expired, sizeof(expired)) == sizeof(expired)) {
		begin_held(self, now_ns);
		tell_late(self, now_ns);
		(void)pthread_mutex_lock(&self->lock);
		arm(self);
		(void)pthread_mutex_unlock(&self->lock);
	}
	self->inner_ops->poll(self->inner);
}

static int fault_fd(struct kvfi_transport *transport)
{
	return self_of(transport)->epoll_fd;
}

static enum kvf_proof proof(struct kvfi_transport *transport, uint32_t grant_id)
{
	struct fault_transport *self = self_of(transport);
	bool doubt;

	(void)pthread_mutex_lock(&self->lock);
	doubt = kvfi_dice_strike(&self->dice, KVFI_HARM_DOUBT);
	(void)pthread_mutex_unlock(&self->lock);
	return doubt ? KVF_PROOF_NONE : self->inner_ops->proof(self->inner, grant_id);
}

/* ---- straight through ---- */

static size_t address(struct kvfi_transport *transport, void *buffer)
{
	return self_of(transport)->inner_ops->address(self_of(transport)->inner, buffer);
}

static enum kvf_status reachable(struct kvfi_transport *transport, const void *at, size_t len_bytes)
{
	return self_of(transport)->inner_ops->reachable(self_of(transport)->inner, at, len_bytes);
}

static enum kvf_status region_added(struct kvfi_transport *transport, uint32_t region)
{
	return self_of(transport)->inner_ops->region_added(self_of(transport)->inner, region);
}

static void region_removed(struct kvfi_transport *transport, uint32_t region)
{
	self_of(transport)->inner_ops->region_removed(self_of(transport)->inner, region);
}

static enum kvf_status connect_peer(struct kvfi_transport *transport, uint32_t peer,
	uint64_t peer_incarnation, uint64_t link, const void *at, size_t len_bytes)
{
	return self_of(transport)->inner_ops->connect(
		self_of(transport)->inner, peer, peer_incarnation, link, at, len_bytes);
}

static enum kvf_status expect(
	struct kvfi_transport *transport, uint32_t peer, uint64_t peer_incarnation, uint64_t link)
{
	return self_of(transport)->inner_ops->expect(self_of(transport)->inner, peer, peer_incarnation, link);
}

static enum kvf_status map_layout(struct kvfi_transport *transport, uint32_t peer, struct kvf_layout *layout)
{
	return self_of(transport)->inner_ops->map_layout(self_of(transport)->inner, peer, layout);
}

static enum kvf_status grant(struct kvfi_transport *transport, const struct kvfi_rx_grant *rx,
	uint32_t *lease_slot_out, uint32_t *lease_generation_out)
{
	return self_of(transport)->inner_ops->grant(
		self_of(transport)->inner, rx, lease_slot_out, lease_generation_out);
}

static void revoke_grant(struct kvfi_transport *transport, uint32_t grant_id)
{
	self_of(transport)->inner_ops->revoke(self_of(transport)->inner, grant_id);
}

static void release_grant(struct kvfi_transport *transport, uint32_t grant_id)
{
	self_of(transport)->inner_ops->release(self_of(transport)->inner, grant_id);
}

static enum kvf_status fence(struct kvfi_transport *transport, uint32_t peer)
{
	return self_of(transport)->inner_ops->fence(self_of(transport)->inner, peer);
}

static uint64_t grant_moved(struct kvfi_transport *transport, uint32_t grant_id)
{
	return self_of(transport)->inner_ops->grant_moved(self_of(transport)->inner, grant_id);
}

static enum kvf_status open_loop(const struct kvfi_transport_env *env, struct kvfi_transport **transport_out);
static enum kvf_status open_shm(const struct kvfi_transport_env *env, struct kvfi_transport **transport_out);
static enum kvf_status open_tcp(const struct kvfi_transport_env *env, struct kvfi_transport **transport_out);

/* All but name, receiver_applied, needs_shared, open; and send_frame, where the wrapped one has it. */
#define COMMON                                                                                               \
	.close = fault_close, .address = address, .reachable = reachable, .region_added = region_added,      \
	.region_removed = region_removed, .connect = connect_peer, .expect = expect,                         \
	.disconnect = disconnect, .map_layout = map_layout, .post = post, .cancel = cancel, .grant = grant,  \
	.revoke = revoke_grant, .proof = proof, .release = release_grant, .fence = fence,                    \
	.post_moved = post_moved, .grant_moved = grant_moved, .fd = fault_fd, .poll = fault_poll

static const struct kvfi_transport_ops over_loop = {.name = "loop", .open = open_loop, COMMON};
static const struct kvfi_transport_ops over_shm = {
	.name = "shm", .needs_shared = true, .open = open_shm, .send_frame = send_frame, COMMON};
static const struct kvfi_transport_ops over_tcp = {
	.name = "tcp", .receiver_applied = true, .open = open_tcp, COMMON};

static enum kvf_status open_loop(const struct kvfi_transport_env *env, struct kvfi_transport **transport_out)
{
	return open_over(&over_loop, &kvfi_transport_loop, env, transport_out);
}

static enum kvf_status open_shm(const struct kvfi_transport_env *env, struct kvfi_transport **transport_out)
{
	return open_over(&over_shm, &kvfi_transport_shm, env, transport_out);
}

static enum kvf_status open_tcp(const struct kvfi_transport_env *env, struct kvfi_transport **transport_out)
{
	return open_over(&over_tcp, &kvfi_transport_tcp, env, transport_out);
}

const struct kvfi_transport_ops *kvfi_fault_over(const struct kvfi_transport_ops *inner)
{
	const struct kvfi_transport_ops *over = inner == &kvfi_transport_loop  ? &over_loop
	                                        : inner == &kvfi_transport_shm ? &over_shm
	                                        : inner == &kvfi_transport_tcp ? &over_tcp
	                                                                       : NULL;

	KVFI_ASSERT(over == NULL || (over->receiver_applied == inner->receiver_applied &&
					    over->needs_shared == inner->needs_shared &&
					    (over->send_frame == NULL) == (inner->send_frame == NULL)));
	return over;
}
