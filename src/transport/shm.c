/* shm.c - agents of one host: the sender's copy workers store straight into the receiver's memory, under its lease.
 *
 * What is shared: regions from kvf_alloc (memfds), passed over a unix socket together with a memfd of lease words. Nothing has a name in
 * /dev/shm; the one path is that of the socket. The handshake and later control frames use that socket, non-blocking, behind one epoll
 * descriptor which the owner polls. This file: open and close, the listener, strangers (accepted, have not said HELLO; bounded in number
 * and time), dispatch. shm.h says which file does what, and which thread.
 */
#include "transport/shm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/status.h"
#include "transport/fault_point.h"

#define EVENTS_PER_POLL   32
#define EXTRA_STRANGERS   8u
#define MAX_STRANGERS     1024u
#define STRANGER_NS       (5 * KVFI_NS_PER_S)
#define ACCEPTS_PER_EVENT 16

bool kvfi_shm_watch(struct shm_transport *self, int fd, enum shm_event event, uint32_t index)
{
	struct epoll_event watched = {.events = EPOLLIN, .data.u64 = (uint64_t)event << 32 | index};

	return epoll_ctl(self->epoll_fd, EPOLL_CTL_ADD, fd, &watched) == 0;
}

void kvfi_shm_unwatch(struct shm_transport *self, int fd)
{
	(void)epoll_ctl(self->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void kvfi_shm_hang_up(struct shm_transport *self, int socket_fd)
{
	kvfi_shm_unwatch(self, socket_fd);
	(void)shutdown(socket_fd, SHUT_RDWR);
	(void)close(socket_fd);
}

void kvfi_shm_wake(struct shm_transport *self)
{
	(void)eventfd_write(self->wake_fd, 1);
}

/* ---- open and close */

static enum kvf_status make_tables(struct shm_transport *self)
{
	const struct kvfi_transport_env *env = &self->env;

	self->max_regions = env->regions->max;
	self->max_strangers =
		(uint32_t)kvfi_min_u64((uint64_t)env->max_peers + EXTRA_STRANGERS, MAX_STRANGERS);
	self->peers = calloc(env->max_peers, sizeof(*self->peers));
	self->grants = calloc(env->max_grants, sizeof(*self->grants));
	self->shared = calloc(self->max_regions, sizeof(*self->shared));
	self->strangers = calloc(self->max_strangers, sizeof(*self->strangers));
	if (self->peers == NULL || self->grants == NULL || self->shared == NULL || self->strangers == NULL)
		return kvfi_fail(KVF_ENOMEM, "shm: out of memory for %u peers, %u grants", env->max_peers,
			env->max_grants);
	for (uint32_t i = 0; i < self->max_regions; i++)
		self->shared[i] = env->regions->table[i].in_use && env->regions->table[i].fd >= 0;
	return kvfi_shm_posts_init(self);
}

static enum kvf_status make_descriptors(struct shm_transport *self)
{
	self->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	self->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	self->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (self->epoll_fd < 0 || self->wake_fd < 0 || self->timer_fd < 0 ||
		!kvfi_shm_watch(self, self->wake_fd, SHM_EVENT_WAKE, 0) ||
		!kvfi_shm_watch(self, self->timer_fd, SHM_EVENT_TIMER, 0))
		return kvfi_fail_errno(KVF_EIO, errno, "shm: epoll, eventfd, timerfd");
	return self->env.listens ? kvfi_shm_listen(self) : KVF_OK;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		(void)close(fd);
}

static void shm_close(struct kvfi_transport *transport)
{
	struct shm_transport *self = kvfi_shm_self(transport);

	if (self == NULL)
		return;
	kvfi_shm_unlisten(self);
	for (uint32_t i = 0; self->peers != NULL && i < self->env.max_peers; i++)
		kvfi_shm_disconnect(transport, i);
	kvfi_shm_posts_stop(self);
	kvfi_shm_sink_stop(self);
	for (uint32_t i = 0; self->grants != NULL && i < self->env.max_grants; i++)
		kvfi_shm_release(transport, i);
	kvfi_shm_fence_sweep(self, true);
	for (uint32_t i = 0; i < self->n_strangers; i++)
		kvfi_shm_hang_up(self, self->strangers[i].fd);
	close_fd(self->own_process_fd);
	close_fd(self->timer_fd);
	close_fd(self->wake_fd);
	close_fd(self->epoll_fd);
	kvfi_shm_posts_fini(self);
	(void)pthread_cond_destroy(&self->posts_ended);
	(void)pthread_mutex_destroy(&self->posts_lock);
	(void)pthread_mutex_destroy(&self->sink_lock);
	free(self->strangers);
	free(self->shared);
	free(self->grants);
	free(self->peers);
	free(self);
}

static enum kvf_status shm_open_transport(
	const struct kvfi_transport_env *env, struct kvfi_transport **transport_out)
{
	struct shm_transport *self = calloc(1, sizeof(*self));
	enum kvf_status status;

	if (self == NULL)
		return kvfi_fail(KVF_ENOMEM, "shm: out of memory");
	kvfi_fault_point_init();
	self->base.ops = &kvfi_transport_shm;
	self->env = *env;
	self->epoll_fd = self->listen_fd = self->wake_fd = self->timer_fd = -1;
	self->sink_epoll_fd = self->sink_stop_fd = -1;
	self->own_process_fd = kvfi_shm_own_process();
	(void)pthread_mutex_init(&self->posts_lock, NULL);
	(void)pthread_mutex_init(&self->sink_lock, NULL);
	(void)pthread_cond_init(&self->posts_ended, NULL);
	status = make_tables(self);
	if (status == KVF_OK)
		status = make_descriptors(self);
	if (status != KVF_OK) {
		shm_close((struct kvfi_transport *)self);
		return status;
	}
	*transport_out = (struct kvfi_transport *)self;
	return KVF_OK;
}

/* ---- regions */

static void announce(struct shm_transport *self, uint32_t region, bool added)
{
	for (uint32_t i = 0; i < self->env.max_peers; i++) {
		struct shm_link *link = self->peers[i];

		if (link == NULL || link->sender || link->fd < 0)
			continue;
		if (added)
			link->announce[region] = SHM_TO_TELL;
		else
			link->announce[region] =
				link->announce[region] == SHM_TOLD ? SHM_TO_WITHDRAW : SHM_UNKNOWN;
		kvfi_shm_tell(link);
	}
}

static enum kvf_status shm_region_added(struct kvfi_transport *transport, uint32_t region)
{
	struct shm_transport *self = kvfi_shm_self(transport);

	KVFI_ASSERT(region < self->max_regions);
	if (self->shared[region] || self->env.regions->table[region].fd < 0)
		return KVF_OK;
	self->shared[region] = true;
	announce(self, region, true);
	return KVF_OK;
}

static void shm_region_removed(struct kvfi_transport *transport, uint32_t region)
{
	struct shm_transport *self = kvfi_shm_self(transport);

	KVFI_ASSERT(region < self->max_regions);
	if (!self->shared[region])
		return;
	self->shared[region] = false;
	announce(self, region, false);
}

/* ---- strangers */

void kvfi_shm_arm_timer(struct shm_transport *self)
{
	time_t seconds = self->n_strangers != 0 || self->listener_rests || self->fenced != NULL;
	struct itimerspec ticks = {.it_value.tv_sec = seconds, .it_interval.tv_sec = seconds};

	(void)timerfd_settime(self->timer_fd, 0, &ticks, NULL);
}

/* Out of the table; its descriptor is the caller's. */
static void forget_stranger(struct shm_transport *self, uint32_t at)
{
	self->strangers[at] = self->strangers[--self->n_strangers];
	if (self->n_strangers == 0)
		kvfi_shm_arm_timer(self);
}

/* The longest silent one makes room: a peer says HELLO at once. */
static void displace_stranger(struct shm_transport *self)
{
	uint32_t oldest = 0;

	for (uint32_t i = 1; i < self->n_strangers; i++)
		if (self->strangers[i].deadline_ns < self->strangers[oldest].deadline_ns)
			oldest = i;
	kvfi_shm_refuse(
		self->strangers[oldest].fd, KVF_BUSY, "shm: too many connections that have not said HELLO");
	kvfi_shm_hang_up(self, self->strangers[oldest].fd);
	forget_stranger(self, oldest);
}

static void meet_stranger(struct shm_transport *self, int fd)
{
	if (!kvfi_shm_same_user(fd)) {
		kvfi_shm_refuse(fd, KVF_REFUSED, "shm: another user");
		close_fd(fd);
		return;
	}
	if (self->n_strangers == self->max_strangers)
		displace_stranger(self);
	if (!kvfi_shm_watch(self, fd, SHM_EVENT_STRANGER, (uint32_t)fd)) {
		close_fd(fd);
		return;
	}
	self->strangers[self->n_strangers++] = (struct shm_stranger){fd, kvfi_clock_ns() + STRANGER_NS};
	if (self->n_strangers == 1)
		kvfi_shm_arm_timer(self);
}

/* Out of descriptors: a listener that stays readable would keep the owner spinning. The timer tries again. */
static void rest_listener(struct shm_transport *self, bool rests)
{
	struct epoll_event event = {
		.events = rests ? 0u : EPOLLIN, .data.u64 = (uint64_t)SHM_EVENT_LISTENER << 32};

	(void)epoll_ctl(self->epoll_fd, EPOLL_CTL_MOD, self->listen_fd, &event);
	self->listener_rests = rests;
	kvfi_shm_arm_timer(self);
}

static void accept_strangers(struct shm_transport *self)
{
	for (int i = 0; i < ACCEPTS_PER_EVENT; i++) {
		int fd = accept4(self->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
				rest_listener(self, true);
			return;
		}
		meet_stranger(self, fd);
	}
}

/* What a stranger says first: HELLO, or it is shown the door. */
static void hear_stranger(struct shm_transport *self, int socket_fd)
{
	enum kvf_status status = KVF_OK;
	struct shm_packet packet;
	enum shm_io io;
	uint32_t at = 0;

	while (at < self->n_strangers && self->strangers[at].fd != socket_fd)
		at++;
	if (at == self->n_strangers)
		return; /* expired earlier in this turn */
	io = kvfi_shm_recv(socket_fd, &packet, &status);
	if (io == SHM_IO_AGAIN)
		return;
	forget_stranger(self, at);
	if (io == SHM_IO_OK) {
		kvfi_shm_admit(self, socket_fd, &packet);
		kvfi_shm_close_fds(&packet);
		return;
	}
	if (io == SHM_IO_BAD)
		kvfi_shm_refuse(socket_fd, status, kvf_error());
	kvfi_shm_hang_up(self, socket_fd);
}

/* One whose HELLO lies there is heard first: it was in time, we were not. */
static void expire_strangers(struct shm_transport *self)
{
	uint64_t now_ns = kvfi_clock_ns();

	for (uint32_t i = self->n_strangers; i-- > 0;) {
		int fd = self->strangers[i].fd;

		if (self->strangers[i].deadline_ns > now_ns)
			continue;
		hear_stranger(self, fd);
		if (i < self->n_strangers && self->strangers[i].fd == fd) {
			kvfi_shm_hang_up(self, fd);
			forget_stranger(self, i);
		}
	}
}

/* ---- poll */

static void handle_wake(struct shm_transport *self)
{
	eventfd_t ignored;

	(void)eventfd_read(self->wake_fd, &ignored);
	for (uint32_t i = 0; i < self->env.max_peers; i++) {
		if (self->peers[i] != NULL)
			kvfi_shm_admit_turn(self->peers[i]);
	}
	kvfi_shm_fence_sweep(self, false);
}

static void handle(struct shm_transport *self, const struct epoll_event *event)
{
	uint32_t index = (uint32_t)event->data.u64;
	uint64_t ticks;

	switch ((enum shm_event)(event->data.u64 >> 32)) {
	case SHM_EVENT_LISTENER:
		accept_strangers(self);
		break;
	case SHM_EVENT_WAKE:
		handle_wake(self);
		break;
	case SHM_EVENT_TIMER:
		(void)!read(self->timer_fd, &ticks, sizeof(ticks));
		expire_strangers(self);
		kvfi_shm_fence_sweep(self, false);
		kvfi_shm_arm_timer(self);
		if (self->listener_rests)
			rest_listener(self, false);
		break;
	case SHM_EVENT_STRANGER:
		hear_stranger(self, (int)index);
		break;
	case SHM_EVENT_PEER:
		if (self->peers[index] != NULL)
			kvfi_shm_link_event(self->peers[index], (event->events & ~(uint32_t)EPOLLOUT) != 0);
		break;
	case SHM_EVENT_PROCESS:
		if (self->peers[index] != NULL && kvfi_shm_has_exited(self->peers[index]))
			kvfi_shm_link_ended(self->peers[index]);
		break;
	}
}

static void shm_poll(struct kvfi_transport *transport)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	struct epoll_event events[EVENTS_PER_POLL];
	int n = epoll_wait(self->epoll_fd, events, EVENTS_PER_POLL, 0);

	for (int i = 0; i < n; i++)
		handle(self, &events[i]);
}

static int shm_fd(struct kvfi_transport *transport)
{
	return kvfi_shm_self(transport)->epoll_fd;
}

/* ---- layouts and frames */

static enum kvf_status shm_map_layout(
	struct kvfi_transport *transport, uint32_t peer, struct kvf_layout *layout)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	struct shm_link *link;

	KVFI_ASSERT(peer < self->env.max_peers);
	link = self->peers[peer];
	if (link == NULL || !link->sender || link->state != SHM_UP)
		return kvfi_fail(KVF_PEER_LOST, "shm: the peer is not connected");
	return kvfi_windows_map(&link->windows, layout);
}

static bool shm_send_frame(
	struct kvfi_transport *transport, uint32_t peer, const void *frame, size_t len_bytes)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	struct shm_link *link;

	KVFI_ASSERT(peer < self->env.max_peers && len_bytes <= KVFI_HOT_FRAME_MAX);
	link = self->peers[peer];
	if (link == NULL || link->state != SHM_UP)
		return false;
	return kvfi_shm_frame(link, frame, (uint32_t)len_bytes);
}

const struct kvfi_transport_ops kvfi_transport_shm = {
	.name = "shm",
	.receiver_applied = false,
	.needs_shared = true,
	.open = shm_open_transport,
	.close = shm_close,
	.address = kvfi_shm_address,
	.reachable = kvfi_shm_reachable,
	.region_added = shm_region_added,
	.region_removed = shm_region_removed,
	.connect = kvfi_shm_connect,
	.expect = kvfi_shm_expect,
	.disconnect = kvfi_shm_disconnect,
	.map_layout = shm_map_layout,
	.post = kvfi_shm_post,
	.cancel = kvfi_shm_cancel,
	.grant = kvfi_shm_grant,
	.revoke = kvfi_shm_revoke,
	.proof = kvfi_shm_proof,
	.release = kvfi_shm_release,
	.fence = kvfi_shm_fence,
	.post_moved = kvfi_shm_post_moved,
	.grant_moved = kvfi_shm_grant_moved,
	.send_frame = shm_send_frame,
	.fd = shm_fd,
	.poll = shm_poll,
};
