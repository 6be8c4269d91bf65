/* tcp_connect.c - how connections of the tcp transport come to be: the listening socket, dialing, the handshake.
 *
 * HELLO goes from the connecting (decode) to the listening (prefill) side, WELCOME back, 64 bytes each. An accepted connection is nobody's
 * until its HELLO named both incarnations and a link that expect() has announced and that no connection has used; everything else is
 * answered with the reason where the bytes were a HELLO at all, and closed before anything is applied. Both sides have a deadline.
 * Connections without a peer are bounded: a new one drives out the oldest.
 *
 * The listening address is loopback unless the user named another one; the address of all interfaces is refused, since it cannot be told
 * to a peer and is rarely meant.
 *
 * I/O thread, but for kvfi_tcp_listen and kvfi_tcp_host_number.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/hash.h"
#include "base/random.h"
#include "base/status.h"
#include "transport/tcp.h"

#define DEFAULT_LISTEN   "127.0.0.1:0"
#define BACKLOG          128
#define ACCEPTS_PER_TURN 32
#define ACCEPT_RETRY_NS  (100 * KVFI_NS_PER_MS)

/* ---- sockets */

static socklen_t to_socket_address(const struct kvfi_tcp_address *address, struct sockaddr_storage *out)
{
	struct sockaddr_in *in4 = (struct sockaddr_in *)(void *)out;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)out;

	memset(out, 0, sizeof(*out));
	if (address->family == 4) {
		in4->sin_family = AF_INET;
		in4->sin_port = htons(address->port);
		memcpy(&in4->sin_addr, address->ip, 4);
		return sizeof(*in4);
	}
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(address->port);
	memcpy(&in6->sin6_addr, address->ip, 16);
	return sizeof(*in6);
}

static int stream_socket(const struct kvfi_tcp_address *address)
{
	return socket(
		address->family == 4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

static void set_option(int fd, int level, int name, int value)
{
	(void)setsockopt(fd, level, name, &value, sizeof(value));
}

/* Hints all of them: a kernel that does not know one serves nevertheless. */
static void tune(int fd)
{
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, KVFI_TCP_USER_TIMEOUT_MS);
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 10);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 5);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
}

/* ---- listening */

uint64_t kvfi_tcp_host_number(void)
{
	char boot[64] = "", net[64] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		(void)!read(fd, boot, sizeof(boot) - 1);
		(void)close(fd);
	}
	(void)!readlink("/proc/self/ns/net", net, sizeof(net) - 1);
	return kvfi_hash_bytes(kvfi_hash_bytes(0, boot, strlen(boot)), net, strlen(net));
}

static enum kvf_status bind_to(int fd, const struct kvfi_tcp_address *address, const char *text)
{
	struct sockaddr_storage storage;
	socklen_t length = to_socket_address(address, &storage);

	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (bind(fd, (struct sockaddr *)&storage, length) == 0 && listen(fd, BACKLOG) == 0)
		return KVF_OK;
	if (errno == EADDRINUSE)
		return kvfi_fail(KVF_EADDRINUSE, "data_listen: \"%s\" is in use", text);
	if (errno == EADDRNOTAVAIL)
		return kvfi_fail(
			KVF_EINVAL, "data_listen: \"%s\": this host does not have that address", text);
	return kvfi_fail_errno(KVF_EIO, errno, "data_listen: \"%s\"", text);
}

static enum kvf_status read_port(int fd, struct kvfi_tcp_address *address)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} name = {0};
	socklen_t length = sizeof(name);

	if (getsockname(fd, &name.any, &length) != 0)
		return kvfi_fail_errno(KVF_EIO, errno, "data_listen: getsockname");
	address->port = ntohs(address->family == 4 ? name.v4.sin_port : name.v6.sin6_port);
	return KVF_OK;
}

enum kvf_status kvfi_tcp_listen(struct tcp_transport *self)
{
	const char *text = self->env.data_listen != NULL ? self->env.data_listen : DEFAULT_LISTEN;
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = &self->listen_fd};
	struct kvfi_tcp_address address = self->address;
	enum kvf_status status = kvfi_tcp_parse_address("data_listen", text, &address);

	if (status != KVF_OK || !self->env.listens)
		return status; /* one that only connects is told of a bad option all the same */
	if (kvfi_tcp_is_any(&address))
		return kvfi_fail(KVF_EINVAL,
			"data_listen: \"%s\" stands for all interfaces; name the address that peers connect "
			"to",
			text);
	self->listen_fd = stream_socket(&address);
	if (self->listen_fd < 0)
		return kvfi_fail_errno(KVF_EIO, errno, "data_listen: \"%s\": socket", text);
	status = bind_to(self->listen_fd, &address, text);
	if (status == KVF_OK)
		status = read_port(self->listen_fd, &address);
	if (status == KVF_OK && epoll_ctl(self->epoll_fd, EPOLL_CTL_ADD, self->listen_fd, &event) != 0)
		status = kvfi_fail_errno(KVF_EIO, errno, "data_listen: epoll");
	if (status == KVF_OK)
		self->address = address;
	return status;
}

static void drive_out_oldest(struct tcp_transport *self)
{
	struct tcp_conn *conn = self->handshakes.first;

	while (conn != NULL && conn->dialed)
		conn = conn->next;
	if (conn != NULL)
		kvfi_tcp_conn_break(self, conn, KVF_REFUSED, "too many connections wait for their handshake");
}

void kvfi_tcp_accept(struct tcp_transport *self)
{
	self->accept_again_ns = 0;
	for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
		int fd = accept4(self->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (fd < 0) { /* no descriptors or no memory: the connection waits in the backlog */
			self->accept_again_ns = kvfi_clock_ns() + ACCEPT_RETRY_NS;
			return;
		}
		tune(fd);
		if (self->handshakes.n >= 2 * self->env.max_peers + 16)
			drive_out_oldest(self);
		(void)kvfi_tcp_conn_new(self, fd, TCP_CONN_GREETING);
	}
	self->accept_again_ns = kvfi_clock_ns(); /* next turn */
}

/* ---- dialing */

/* Without a connection to break: the owner learns it all the same. */
static void tell_failed_dial(
	struct tcp_transport *self, struct tcp_peer *peer, uint32_t session, const char *reason)
{
	struct kvfi_done done = {
		.kind = KVFI_DONE_BROKEN, .status = KVF_UNREACHABLE, .peer = kvfi_tcp_index(self, peer)};

	(void)strncpy(done.reason, reason, sizeof(done.reason) - 1);
	kvfi_tcp_lock(self);
	if (peer->session == session && peer->state == TCP_PEER_CONNECTING) {
		peer->state = TCP_PEER_BROKEN;
		self->env.notify(self->env.self, &done);
	}
	kvfi_tcp_unlock(self);
}

void kvfi_tcp_dial(struct tcp_transport *self, struct tcp_peer *peer)
{
	struct sockaddr_storage storage;
	struct tcp_peer target;
	struct tcp_conn *conn;
	socklen_t length;
	int fd;

	kvfi_tcp_lock(self);
	target = *peer;
	kvfi_tcp_unlock(self);
	fd = stream_socket(&target.address);
	if (fd < 0) {
		tell_failed_dial(self, peer, target.session, strerror(errno));
		return;
	}
	tune(fd);
	length = to_socket_address(&target.address, &storage);
	if (connect(fd, (struct sockaddr *)&storage, length) != 0 && errno != EINPROGRESS) {
		tell_failed_dial(self, peer, target.session, strerror(errno));
		(void)close(fd);
		return;
	}
	conn = kvfi_tcp_conn_new(self, fd, TCP_CONN_DIALING);
	if (conn == NULL) {
		tell_failed_dial(self, peer, target.session, "out of memory or descriptors");
		return;
	}
	conn->dialed = true;
	conn->peer = peer;
	conn->session = target.session;
	conn->incarnation = target.incarnation;
	conn->link = target.link;
	peer->conn = conn;
}

static bool send_greeting(struct tcp_conn *conn, const struct kvfi_tcp_greeting *greeting)
{
	unsigned char bytes[KVFI_TCP_GREETING_BYTES];

	kvfi_tcp_put_greeting(bytes, greeting);
	/* The first bytes into an empty socket: it takes all of them or is broken. */
	return send(conn->fd, bytes, sizeof(bytes), MSG_NOSIGNAL) == (ssize_t)sizeof(bytes);
}

static void say_hello(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct kvfi_tcp_greeting hello = {.type = KVFI_TCP_HELLO,
		.from = self->env.incarnation,
		.to = conn->incarnation,
		.link = conn->link};
	socklen_t length = sizeof(int);
	int error = 0;

	if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
		error = errno;
	if (error != 0) {
		kvfi_tcp_conn_break(self, conn, KVF_UNREACHABLE, strerror(error));
		return;
	}
	(void)kvfi_random(&conn->nonce, sizeof(conn->nonce));
	hello.nonce = conn->nonce;
	conn->state = TCP_CONN_GREETING;
	if (!send_greeting(conn, &hello))
		kvfi_tcp_conn_break(self, conn, KVF_UNREACHABLE, "the handshake could not be sent");
}

/* ---- the handshake */

static void judge_welcome(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct kvfi_tcp_greeting welcome;
	enum kvf_status status = kvfi_tcp_get_greeting(conn->greeting, &welcome);
	bool ours;

	if (status != KVF_OK) {
		kvfi_tcp_conn_break(self, conn, status, kvf_error());
		return;
	}
	if (welcome.status != KVF_OK) {
		status = welcome.status == KVF_PEER_VERSION ? KVF_PEER_VERSION : KVF_REFUSED;
		kvfi_tcp_conn_break(self, conn, status, kvf_status_text(status));
		return;
	}
	ours = welcome.type == KVFI_TCP_WELCOME && welcome.from == conn->incarnation &&
	       welcome.to == self->env.incarnation && welcome.link == conn->link &&
	       welcome.nonce == conn->nonce;
	if (ours)
		kvfi_tcp_conn_up(self, conn);
	else
		kvfi_tcp_conn_break(
			self, conn, KVF_PROTOCOL, "the answer to the handshake belongs to another one");
}

/* The peer that expects this connection, and its session; NULL: nobody. */
static struct tcp_peer *find_expecting(
	struct tcp_transport *self, const struct kvfi_tcp_greeting *hello, uint32_t *session_out)
{
	struct tcp_peer *found = NULL;

	if (hello->type != KVFI_TCP_HELLO || hello->to != self->env.incarnation || hello->rail != 0)
		return NULL;
	kvfi_tcp_lock(self);
	for (uint32_t i = 0; i < self->env.max_peers && found == NULL; i++) {
		struct tcp_peer *peer = &self->peers[i];

		if (peer->state == TCP_PEER_EXPECTED && peer->incarnation == hello->from &&
			peer->link == hello->link) {
			*session_out = peer->session;
			found = peer;
		}
	}
	kvfi_tcp_unlock(self);
	/* What it may still have is of an older session. */
	if (found != NULL && found->conn != NULL)
		kvfi_tcp_conn_break(self, found->conn, KVF_PEER_LOST, "the connection was replaced");
	return found;
}

static void refuse(struct tcp_transport *self, struct tcp_conn *conn, enum kvf_status status)
{
	(void)atomic_fetch_add(&self->counts.refused_handshakes, 1);
	kvfi_tcp_conn_break(self, conn, status, kvf_status_text(status));
}

static void judge_hello(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct kvfi_tcp_greeting hello, welcome = {.type = KVFI_TCP_WELCOME};
	enum kvf_status status = kvfi_tcp_get_greeting(conn->greeting, &hello);

	if (status == KVF_PROTOCOL) {
		refuse(self, conn, status);
		return;
	}
	if (status == KVF_OK) {
		conn->peer = find_expecting(self, &hello, &conn->session);
		status = conn->peer != NULL ? KVF_OK : KVF_REFUSED;
	}
	if (status == KVF_OK) { /* strangers are not told who we are */
		welcome.from = self->env.incarnation;
		welcome.to = hello.from;
		welcome.link = hello.link;
	}
	welcome.status = status;
	welcome.nonce = hello.nonce;
	if (!send_greeting(conn, &welcome)) {
		status = KVF_UNREACHABLE;
		conn->peer = NULL; /* it may be expected again */
	}
	if (status == KVF_OK)
		kvfi_tcp_conn_up(self, conn);
	else
		refuse(self, conn, status);
}

static void read_greeting(struct tcp_transport *self, struct tcp_conn *conn)
{
	ssize_t n;

	n = recv(conn->fd, conn->greeting + conn->greeting_used,
		KVFI_TCP_GREETING_BYTES - conn->greeting_used, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		conn->readable = errno == EINTR;
		return;
	}
	if (n <= 0) {
		kvfi_tcp_conn_break(self, conn, KVF_REFUSED,
			n == 0 ? "the connection was closed during the handshake" : strerror(errno));
		return;
	}
	conn->greeting_used += (uint32_t)n;
	if (conn->greeting_used < KVFI_TCP_GREETING_BYTES)
		return;
	if (conn->dialed)
		judge_welcome(self, conn);
	else
		judge_hello(self, conn);
}

void kvfi_tcp_shake(struct tcp_transport *self, struct tcp_conn *conn)
{
	if (conn->state == TCP_CONN_DIALING && conn->writable)
		say_hello(self, conn);
	while (conn->state == TCP_CONN_GREETING && conn->readable)
		read_greeting(self, conn);
}

void kvfi_tcp_expire_handshakes(struct tcp_transport *self, uint64_t now_ns)
{
	while (self->handshakes.first != NULL && self->handshakes.first->deadline_ns <= now_ns) {
		struct tcp_conn *conn = self->handshakes.first;

		if (!conn->dialed)
			(void)atomic_fetch_add(&self->counts.refused_handshakes, 1);
		kvfi_tcp_conn_break(self, conn, KVF_UNREACHABLE, "the handshake was not finished in time");
	}
}
