/* tcp.c - the tcp transport: any host memory, any two hosts; the receiving agent itself stores the bytes.
 *
 * The sender packs a slice into frames by canonical position; the receiver, who alone knows its addresses, binds the SLICE to what it
 * asked for and reads the frames into its blocks. So nothing that comes over the wire is ever an address, and the proof that a
 * destination is quiet is local: every read into blocks happens under the grant's private lease word.
 *
 * Two threads. The owner thread calls the ops; none of them waits for the network. The I/O thread owns all sockets and connections, one
 * epoll set for all peers, so a peer that stalls stops nobody else. What both need (peers, posts, grants) lies in tables sized at open,
 * under one lock that is never held across a system call on a socket. A command is a change in a table, its peer put on a list, and an
 * eventfd: no queue that could grow.
 *
 * Sessions of a peer. connect(), expect() and disconnect() count peer->session up; a connection or a grant that belongs to an older
 * session is void. UP and BROKEN are told under the lock, after a look at that number, so none of them comes after disconnect() returned.
 * notify may take locks of its own for that, but must not wait for somebody who calls into this transport. For the others it may.
 *
 * A link admits one data connection: the pair (incarnation, link), random numbers of 64 bits that travelled over the control channel, is
 * what an accepted connection must name in its first 64 bytes, within a deadline.
 */
#include "transport/tcp.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/status.h"

/* ---- reaching the I/O thread */

void kvfi_tcp_list_peer(struct tcp_transport *self, struct tcp_peer *peer)
{
	if (peer->listed)
		return;
	peer->listed = true;
	peer->next_listed = self->listed;
	self->listed = peer;
}

void kvfi_tcp_wake(struct tcp_transport *self)
{
	if (!atomic_exchange(&self->woken, true))
		(void)eventfd_write(self->event_fd, 1);
}

/* ---- open and close */

static enum kvf_status open_tables(struct tcp_transport *self)
{
	self->peers = calloc(self->env.max_peers, sizeof(*self->peers));
	self->stage = malloc(KVFI_TCP_STAGE_BYTES);
	if (self->peers == NULL || self->stage == NULL)
		return kvfi_fail(KVF_ENOMEM, "tcp: out of memory for %u peers", self->env.max_peers);
	for (uint32_t i = 0; i < self->env.max_peers; i++)
		kvfi_tcp_queue_init(&self->peers[i].queue);
	return kvfi_tcp_posts_init(self);
}

static enum kvf_status open_descriptors(struct tcp_transport *self)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = &self->event_fd};

	self->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	self->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (self->event_fd < 0 || self->epoll_fd < 0 ||
		epoll_ctl(self->epoll_fd, EPOLL_CTL_ADD, self->event_fd, &event) != 0)
		return kvfi_fail_errno(KVF_EIO, errno, "tcp: epoll");
	return KVF_OK;
}

/* Signals are the business of the program's own threads. */
static enum kvf_status start_thread(struct tcp_transport *self)
{
	sigset_t all, before;
	int error;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&self->thread, NULL, kvfi_tcp_run, self);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error != 0)
		return kvfi_fail_errno(KVF_EIO, error, "tcp: I/O thread");
	self->has_thread = true;
	(void)pthread_setname_np(self->thread, "kvf-tcp");
	return KVF_OK;
}

static void tcp_close(struct kvfi_transport *transport)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);

	if (self == NULL)
		return;
	if (self->has_thread) {
		atomic_store(&self->stop, true);
		kvfi_tcp_wake(self);
		(void)pthread_join(self->thread, NULL);
	}
	for (int *fd = (int[]){self->listen_fd, self->event_fd, self->epoll_fd, -2}; *fd != -2; fd++) {
		if (*fd >= 0)
			(void)close(*fd);
	}
	kvfi_tcp_posts_fini(self);
	free(self->peers);
	free(self->stage);
	(void)pthread_mutex_destroy(&self->lock);
	free(self);
}

static enum kvf_status tcp_open(const struct kvfi_transport_env *env, struct kvfi_transport **transport_out)
{
	struct tcp_transport *self = calloc(1, sizeof(*self));
	enum kvf_status status;

	if (self == NULL)
		return kvfi_fail(KVF_ENOMEM, "tcp: out of memory");
	self->base.ops = &kvfi_transport_tcp;
	self->env = *env;
	self->epoll_fd = self->event_fd = self->listen_fd = -1;
	self->ready_last = &self->ready;
	atomic_init(&self->handshake_ns, KVFI_TCP_HANDSHAKE_NS);
	(void)pthread_mutex_init(&self->lock, NULL);
	self->address = (struct kvfi_tcp_address){.family = 4, .host = kvfi_tcp_host_number()};
	status = open_tables(self);
	if (status == KVF_OK)
		status = open_descriptors(self);
	if (status == KVF_OK)
		status = kvfi_tcp_listen(self);
	if (status == KVF_OK)
		status = start_thread(self);
	if (status != KVF_OK) {
		tcp_close((struct kvfi_transport *)self);
		return status;
	}
	*transport_out = (struct kvfi_transport *)self;
	return KVF_OK;
}

/* ---- addresses */

static size_t tcp_address(struct kvfi_transport *transport, void *buffer)
{
	kvfi_tcp_put_address(buffer, &kvfi_tcp_self(transport)->address);
	return KVFI_TCP_ADDRESS_BYTES;
}

static enum kvf_status tcp_reachable(struct kvfi_transport *transport, const void *bytes, size_t len_bytes)
{
	const struct kvfi_tcp_address *own = &kvfi_tcp_self(transport)->address, *listener;
	struct kvfi_tcp_address remote;
	enum kvf_status status = kvfi_tcp_get_address(bytes, len_bytes, &remote);

	if (status != KVF_OK)
		return status;
	if (remote.port == 0 && own->port == 0)
		return kvfi_fail(KVF_NO_TRANSPORT, "neither side listens");
	listener = remote.port != 0 ? &remote : own;
	if (kvfi_tcp_is_loopback(listener) && remote.host != own->host)
		return kvfi_fail(
			KVF_NO_TRANSPORT, "it listens on a loopback address, and this is another host");
	return KVF_OK;
}

/* ---- peers */

/* A new session of the peer, under the lock: what belongs to the last one is void from here on. Its queued posts are the caller's. */
static struct tcp_queue begin_session(
	struct tcp_transport *self, struct tcp_peer *peer, enum tcp_peer_state state)
{
	struct tcp_queue queue = kvfi_tcp_take_queue(peer);

	peer->session++;
	peer->state = state;
	kvfi_tcp_list_peer(self, peer);
	return queue;
}

static void end_session(struct tcp_transport *self, struct tcp_queue *queue)
{
	kvfi_tcp_wake(self);
	kvfi_tcp_finish_queue(self, queue, KVF_PEER_LOST, "the connection was closed here");
}

static enum kvf_status tcp_connect(struct kvfi_transport *transport, uint32_t peer_slot,
	uint64_t peer_incarnation, uint64_t link, const void *bytes, size_t len_bytes)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);
	struct kvfi_tcp_address address;
	enum kvf_status status = kvfi_tcp_get_address(bytes, len_bytes, &address);
	struct tcp_queue queue;
	struct tcp_peer *peer;

	KVFI_ASSERT(peer_slot < self->env.max_peers);
	if (status != KVF_OK)
		return status;
	if (address.port == 0)
		return kvfi_fail(KVF_NO_TRANSPORT, "tcp: the peer does not listen");
	peer = &self->peers[peer_slot];
	kvfi_tcp_lock(self);
	queue = begin_session(self, peer, TCP_PEER_CONNECTING);
	peer->incarnation = peer_incarnation;
	peer->link = link;
	peer->address = address;
	kvfi_tcp_unlock(self);
	end_session(self, &queue);
	return KVF_OK;
}

static enum kvf_status tcp_expect(
	struct kvfi_transport *transport, uint32_t peer_slot, uint64_t peer_incarnation, uint64_t link)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);
	struct tcp_queue queue;
	struct tcp_peer *peer;

	KVFI_ASSERT(peer_slot < self->env.max_peers);
	if (self->listen_fd < 0)
		return kvfi_fail(KVF_EUNSUPPORTED, "tcp: this agent does not listen");
	peer = &self->peers[peer_slot];
	kvfi_tcp_lock(self);
	/* The control channel repeats itself: saying it again changes nothing. */
	if ((peer->state == TCP_PEER_EXPECTED || peer->state == TCP_PEER_UP) &&
		peer->incarnation == peer_incarnation && peer->link == link) {
		kvfi_tcp_unlock(self);
		return KVF_OK;
	}
	queue = begin_session(self, peer, TCP_PEER_EXPECTED);
	peer->incarnation = peer_incarnation;
	peer->link = link;
	kvfi_tcp_unlock(self);
	end_session(self, &queue);
	return KVF_OK;
}

static void tcp_disconnect(struct kvfi_transport *transport, uint32_t peer_slot)
{
	struct tcp_transport *self = kvfi_tcp_self(transport);
	struct tcp_queue queue;

	KVFI_ASSERT(peer_slot < self->env.max_peers);
	kvfi_tcp_lock(self);
	queue = begin_session(self, &self->peers[peer_slot], TCP_PEER_FREE);
	kvfi_tcp_unlock(self);
	end_session(self, &queue);
}

/* ---- the rest */

static enum kvf_status tcp_map_layout(
	struct kvfi_transport *transport, uint32_t peer, struct kvf_layout *layout)
{
	(void)transport;
	(void)peer;
	(void)layout;
	return KVF_OK;
}

static enum kvf_status tcp_region_added(struct kvfi_transport *transport, uint32_t region)
{
	(void)transport;
	(void)region;
	return KVF_OK;
}

static void tcp_region_removed(struct kvfi_transport *transport, uint32_t region)
{
	(void)transport;
	(void)region;
}

static int tcp_fd(struct kvfi_transport *transport)
{
	(void)transport;
	return -1;
}

static void tcp_poll(struct kvfi_transport *transport)
{
	(void)transport;
}

const struct kvfi_tcp_counts *kvfi_tcp_counts(const struct kvfi_transport *transport)
{
	return &((const struct tcp_transport *)(const void *)transport)->counts;
}

void kvfi_tcp_set_handshake_ns(struct kvfi_transport *transport, uint64_t handshake_ns)
{
	atomic_store(&kvfi_tcp_self(transport)->handshake_ns, handshake_ns);
}

/* No send_frame: a hot frame would queue behind the bulk data of the same connection, and the control channel is there anyway. */
const struct kvfi_transport_ops kvfi_transport_tcp = {
	.name = "tcp",
	.receiver_applied = true,
	.needs_shared = false,
	.open = tcp_open,
	.close = tcp_close,
	.address = tcp_address,
	.reachable = tcp_reachable,
	.region_added = tcp_region_added,
	.region_removed = tcp_region_removed,
	.connect = tcp_connect,
	.expect = tcp_expect,
	.disconnect = tcp_disconnect,
	.map_layout = tcp_map_layout,
	.post = kvfi_tcp_post,
	.cancel = kvfi_tcp_cancel,
	.grant = kvfi_tcp_grant,
	.revoke = kvfi_tcp_revoke,
	.proof = kvfi_tcp_proof,
	.release = kvfi_tcp_release,
	.fence = kvfi_tcp_fence,
	.post_moved = kvfi_tcp_post_moved,
	.grant_moved = kvfi_tcp_grant_moved,
	.send_frame = NULL,
	.fd = tcp_fd,
	.poll = tcp_poll,
};
