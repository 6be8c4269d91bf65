/* tcp_io.c - the I/O thread of the tcp transport: one epoll set, one turn after the other.
 *
 * A turn: wait, note what the sockets and the owner thread have to say, give every connection that can do something a bounded share, free
 * what was closed. Sockets are watched edge-triggered, for both directions, once; `readable` and `writable` remember the edge until a call
 * finds the socket empty or full. A connection that is not done with its share stays on the ready list and the next wait does not sleep.
 *
 * Closed connections stay allocated until the end of the turn, so that an event or the ready list may still point to them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/status.h"
#include "transport/tcp.h"

#define EVENTS 64

/* ---- lists */

static void list_add(struct tcp_list *list, struct tcp_conn *conn)
{
	conn->next = NULL;
	conn->previous = list->last;
	if (list->last != NULL)
		list->last->next = conn;
	else
		list->first = conn;
	list->last = conn;
	list->n++;
}

static void list_remove(struct tcp_list *list, struct tcp_conn *conn)
{
	if (conn->previous != NULL)
		conn->previous->next = conn->next;
	else
		list->first = conn->next;
	if (conn->next != NULL)
		conn->next->previous = conn->previous;
	else
		list->last = conn->previous;
	list->n--;
}

static struct tcp_list *list_of(struct tcp_transport *self, const struct tcp_conn *conn)
{
	return conn->state == TCP_CONN_UP ? &self->connections : &self->handshakes;
}

void kvfi_tcp_conn_ready(struct tcp_transport *self, struct tcp_conn *conn)
{
	if (conn->in_ready || conn->state == TCP_CONN_CLOSED)
		return;
	conn->in_ready = true;
	conn->next_ready = NULL;
	*self->ready_last = conn;
	self->ready_last = &conn->next_ready;
}

/* ---- connections */

struct tcp_conn *kvfi_tcp_conn_new(struct tcp_transport *self, int fd, enum tcp_conn_state state)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
	struct tcp_conn *conn = calloc(1, sizeof(*conn));

	event.data.ptr = conn;
	if (conn == NULL || epoll_ctl(self->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
		free(conn);
		(void)close(fd);
		return NULL;
	}
	conn->fd = fd;
	conn->state = state;
	conn->deadline_ns = kvfi_clock_ns() + atomic_load(&self->handshake_ns);
	list_add(&self->handshakes, conn);
	return conn;
}

static void notify_peer(struct tcp_transport *self, const struct tcp_peer *peer, enum kvfi_done_kind kind,
	enum kvf_status status, const char *reason)
{
	struct kvfi_done done = {.kind = kind, .status = status, .peer = kvfi_tcp_index(self, peer)};

	(void)strncpy(done.reason, reason, sizeof(done.reason) - 1);
	self->env.notify(self->env.self, &done);
}

void kvfi_tcp_conn_up(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_peer *peer = conn->peer;

	list_remove(&self->handshakes, conn);
	conn->state = TCP_CONN_UP;
	list_add(&self->connections, conn);
	KVFI_ASSERT(peer->conn == NULL || peer->conn == conn);
	peer->conn = conn;
	kvfi_tcp_lock(self);
	if (peer->session == conn->session) {
		peer->state = TCP_PEER_UP;
		notify_peer(self, peer, KVFI_DONE_UP, KVF_OK, "");
	}
	kvfi_tcp_unlock(self);
}

/* Tells the peer's owner that this connection was the last of its session, unless that ended before. */
static void tell_broken(
	struct tcp_transport *self, const struct tcp_conn *conn, enum kvf_status status, const char *reason)
{
	struct tcp_peer *peer = conn->peer;
	struct tcp_queue queue;

	kvfi_tcp_lock(self);
	if (peer->session != conn->session) {
		kvfi_tcp_unlock(self);
		return;
	}
	peer->state = TCP_PEER_BROKEN;
	queue = kvfi_tcp_take_queue(peer);
	kvfi_tcp_unlock(self);
	kvfi_tcp_finish_queue(self, &queue, KVF_PEER_LOST, reason);
	kvfi_tcp_lock(self);
	if (peer->session == conn->session)
		notify_peer(self, peer, KVFI_DONE_BROKEN, status, reason);
	kvfi_tcp_unlock(self);
}

void kvfi_tcp_conn_break(
	struct tcp_transport *self, struct tcp_conn *conn, enum kvf_status status, const char *reason)
{
	char copy[128] = ""; /* reason may be kvf_error() */

	KVFI_ASSERT(conn->state != TCP_CONN_CLOSED);
	(void)strncpy(copy, reason, sizeof(copy) - 1);
	list_remove(list_of(self, conn), conn);
	conn->state = TCP_CONN_CLOSED;
	/* A child that the program has forked may hold the descriptor: closing it here would then neither end the connection nor its events. */
	(void)epoll_ctl(self->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
	(void)shutdown(conn->fd, SHUT_RDWR);
	(void)close(conn->fd);
	conn->next = self->closed;
	self->closed = conn;
	kvfi_tcp_send_fini(self, conn, KVF_PEER_LOST, copy);
	kvfi_tcp_recv_fini(self, conn, KVF_STREAM_BROKEN, copy);
	if (conn->peer == NULL)
		return;
	if (conn->peer->conn == conn)
		conn->peer->conn = NULL;
	tell_broken(self, conn, status, copy);
}

/* ---- one turn */

/* What the owner thread has changed about this peer. */
static void look_at_peer(struct tcp_transport *self, struct tcp_peer *peer)
{
	struct tcp_conn *conn = peer->conn;
	enum tcp_peer_state state;
	uint32_t session;

	kvfi_tcp_lock(self);
	state = peer->state;
	session = peer->session;
	kvfi_tcp_unlock(self);
	if (conn != NULL && conn->session != session) {
		kvfi_tcp_conn_break(self, conn, KVF_PEER_LOST, "the connection was closed here");
		conn = NULL;
	}
	if (conn == NULL && state == TCP_PEER_CONNECTING)
		kvfi_tcp_dial(self, peer);
	if (conn == NULL || conn->state != TCP_CONN_UP)
		return;
	kvfi_tcp_send_look(self, conn);
	kvfi_tcp_recv_look(self, conn);
	kvfi_tcp_conn_ready(self, conn);
}

static void look_at_peers(struct tcp_transport *self)
{
	for (;;) {
		struct tcp_peer *peer;

		kvfi_tcp_lock(self);
		peer = self->listed;
		if (peer != NULL) {
			self->listed = peer->next_listed;
			peer->listed = false;
		}
		kvfi_tcp_unlock(self);
		if (peer == NULL)
			return;
		look_at_peer(self, peer);
	}
}

static void note_event(struct tcp_transport *self, const struct epoll_event *event)
{
	struct tcp_conn *conn = event->data.ptr;
	eventfd_t ignored;

	if (event->data.ptr == &self->event_fd) {
		(void)eventfd_read(self->event_fd, &ignored);
		atomic_store(&self->woken, false);
		look_at_peers(self);
	} else if (event->data.ptr == &self->listen_fd) {
		kvfi_tcp_accept(self);
	} else if (conn->state != TCP_CONN_CLOSED) {
		if ((event->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
			conn->hangup = true;
		if ((event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
			conn->readable = true;
		if ((event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0)
			conn->writable = true;
		kvfi_tcp_conn_ready(self, conn);
	}
}

static bool can_do_more(const struct tcp_conn *conn)
{
	return conn->state == TCP_CONN_UP && (conn->readable || (conn->writable && !conn->send.idle));
}

static void give_turn(struct tcp_transport *self, struct tcp_conn *conn)
{
	if (conn->state == TCP_CONN_DIALING || conn->state == TCP_CONN_GREETING)
		kvfi_tcp_shake(self, conn);
	if (conn->state == TCP_CONN_UP && conn->readable)
		kvfi_tcp_recv(self, conn);
	if (conn->state == TCP_CONN_UP && conn->writable)
		kvfi_tcp_send(self, conn);
	if (can_do_more(conn))
		kvfi_tcp_conn_ready(self, conn);
}

static void give_turns(struct tcp_transport *self)
{
	struct tcp_conn *conn = self->ready;

	self->ready = NULL;
	self->ready_last = &self->ready;
	while (conn != NULL) {
		struct tcp_conn *next = conn->next_ready;

		conn->in_ready = false;
		if (conn->state != TCP_CONN_CLOSED)
			give_turn(self, conn);
		conn = next;
	}
}

/* But for those that the ready list still points to. */
static void free_closed(struct tcp_transport *self)
{
	struct tcp_conn **at = &self->closed;

	while (*at != NULL) {
		struct tcp_conn *conn = *at;

		if (conn->in_ready) {
			at = &conn->next;
			continue;
		}
		*at = conn->next;
		free(conn->send.stage);
		free(conn);
	}
}

/* Milliseconds until the next deadline; -1: none. */
static int wait_ms(const struct tcp_transport *self)
{
	uint64_t at_ns = KVFI_NEVER, now_ns;

	if (self->ready != NULL)
		return 0;
	if (self->n_low > 0)
		return KVFI_TCP_LOW_WAIT_MS;
	if (self->handshakes.first != NULL)
		at_ns = self->handshakes.first->deadline_ns;
	if (self->accept_again_ns != 0 && self->accept_again_ns < at_ns)
		at_ns = self->accept_again_ns;
	if (at_ns == KVFI_NEVER)
		return -1;
	now_ns = kvfi_clock_ns();
	return at_ns <= now_ns ? 0 : (int)((at_ns - now_ns) / KVFI_NS_PER_MS) + 1;
}

static void lower_marks(struct tcp_transport *self)
{
	uint64_t now_ns = kvfi_clock_ns();

	if (now_ns < self->low_look_ns)
		return;
	self->low_look_ns = now_ns + KVFI_TCP_LOW_WAIT_MS * KVFI_NS_PER_MS;
	for (struct tcp_conn *conn = self->connections.first; conn != NULL; conn = conn->next)
		kvfi_tcp_recv_lower(self, conn, now_ns);
}

static void turn(struct tcp_transport *self)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(self->epoll_fd, events, EVENTS, wait_ms(self));
	uint64_t now_ns;

	for (int i = 0; i < n; i++)
		note_event(self, &events[i]);
	if (self->n_low > 0)
		lower_marks(self);
	give_turns(self);
	if (self->handshakes.first != NULL || self->accept_again_ns != 0) {
		now_ns = kvfi_clock_ns();
		kvfi_tcp_expire_handshakes(self, now_ns);
		if (self->accept_again_ns != 0 && now_ns >= self->accept_again_ns)
			kvfi_tcp_accept(self);
	}
	free_closed(self);
}

/* close(): nobody calls any more, so nothing but the connections and the queues can hold something open. */
static void end(struct tcp_transport *self)
{
	struct tcp_queue queue;

	kvfi_tcp_lock(self);
	for (uint32_t i = 0; i < self->env.max_peers; i++)
		self->peers[i].session++;
	kvfi_tcp_unlock(self);
	while (self->connections.first != NULL)
		kvfi_tcp_conn_break(self, self->connections.first, KVF_PEER_LOST, "the transport was closed");
	while (self->handshakes.first != NULL)
		kvfi_tcp_conn_break(self, self->handshakes.first, KVF_PEER_LOST, "the transport was closed");
	for (uint32_t i = 0; i < self->env.max_peers; i++) {
		queue = kvfi_tcp_take_queue(&self->peers[i]);
		kvfi_tcp_finish_queue(self, &queue, KVF_PEER_LOST, "the transport was closed");
	}
	give_turns(self); /* empties the ready list */
	free_closed(self);
}

void *kvfi_tcp_run(void *transport)
{
	struct tcp_transport *self = transport;

	while (!atomic_load(&self->stop))
		turn(self);
	end(self);
	return NULL;
}
