/* zmq.c - the control channel over ZeroMQ: a ROUTER that listens, a DEALER per connect().
 *
 * One thread opens, uses and closes a channel and all its sockets; every call asserts it (adopt hands over). The context
 * has one I/O thread, and nothing lingers: close drops what is queued and returns.
 *
 * Ways. A connected way is a DEALER; its routing id holds incarnation, way and a serial number, so a reused way is another
 * peer to the ROUTER. An accepted way is a routing id that sent us a message we could read.
 *
 * Waking. ZMQ_FD is edge-triggered: it tells that a socket has commands, and any call on that socket may swallow them. So
 * a socket is *fresh* when its descriptor fired or a send found something to receive, until a receive finds nothing.
 * fd() is an epoll set of all sockets and of one eventfd, which is set whenever a call returns while sockets are fresh:
 * to the outside, fd() is readable as long as recv() would give something, however the calls are interleaved.
 *
 * A DEALER queues for a listener that is not there yet (ZMQ_IMMEDIATE off): the first HELLO leaves with the connection
 * instead of with its repetition. High-water marks bound the queues.
 */
#include "control/control.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>
#include "base/assert.h"
#include "base/hash.h"
#include "base/status.h"
#include "control/endpoint.h"
#include "control/zmq_ways.h"
#include "wire/bytes.h"
#include "wire/codec.h"

#define HIGH_WATER            1024
#define RECONNECT_MS          20
#define RECONNECT_MAX_MS      1000
#define HANDSHAKE_MS          10000
#define SMALL_BYTES           4096u /* messages up to here are encoded on the stack */
#define ROUTING_ID_BYTES      18u
#define SILENT_DROPS_PER_CALL 256
#define LOOKS_PER_CALL        4

struct kvfi_control {
	struct kvfi_control_base base;
	pthread_t owner;
	void *context;
	int epoll_fd;
	int event_fd;
	bool event_set;
	struct kvfi_line router;
	struct kvfi_line *fresh, **fresh_tail;
	struct kvfi_ipc_claim claim;
	char endpoint[256];
	uint64_t incarnation;
	uint32_t next_serial;
	struct kvfi_zmq_ways ways;
};

/* A message as it came. */
struct arrival {
	const struct kvfi_line *line;
	struct kvfi_routing_id id;
	bool one_part;
	zmq_msg_t body;
};

static void assert_owner(const struct kvfi_control *control)
{
	KVFI_ASSERT(pthread_equal(pthread_self(), control->owner));
}

static enum kvf_status fail_zmq(enum kvf_status status, const char *endpoint, const char *what)
{
	return kvfi_fail(status, "endpoint '%s': %s: %s", endpoint, what, zmq_strerror(zmq_errno()));
}

static void set_fresh(struct kvfi_control *control, struct kvfi_line *line)
{
	if (line->fresh)
		return;
	line->fresh = true;
	line->next = NULL;
	*control->fresh_tail = line;
	control->fresh_tail = &line->next;
}

static void clear_fresh(struct kvfi_control *control, struct kvfi_line *line)
{
	struct kvfi_line **at = &control->fresh;

	if (!line->fresh)
		return;
	while (*at != line)
		at = &(*at)->next;
	*at = line->next;
	if (line->next == NULL)
		control->fresh_tail = at;
	line->fresh = false;
}

/* Before a call returns: the eventfd is readable exactly when there are fresh sockets. */
static void settle(struct kvfi_control *control)
{
	const bool wanted = control->fresh != NULL;
	uint64_t count = 1;
	ssize_t done;

	if (wanted == control->event_set)
		return;
	done = wanted ? write(control->event_fd, &count, sizeof(count))
	              : read(control->event_fd, &count, sizeof(count));
	KVFI_ASSERT(done == (ssize_t)sizeof(count));
	control->event_set = wanted;
}

static enum kvf_status watch(struct kvfi_control *control, int fd, void *data)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};

	if (epoll_ctl(control->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
		return kvfi_fail_errno(KVF_EIO, errno, "control channel: epoll_ctl");
	return KVF_OK;
}

static bool set_int(void *handle, int option, int value)
{
	return zmq_setsockopt(handle, option, &value, sizeof(value)) == 0;
}

static void line_close(struct kvfi_control *control, struct kvfi_line *line)
{
	if (line->handle == NULL)
		return;
	clear_fresh(control, line);
	(void)epoll_ctl(control->epoll_fd, EPOLL_CTL_DEL, line->fd, NULL);
	(void)zmq_close(line->handle);
	line->handle = NULL;
}

/* A socket with the options that both kinds share, in the epoll set. */
static enum kvf_status line_open(struct kvfi_control *control, struct kvfi_line *line, int type, bool ipv6)
{
	const int64_t max_bytes = KVFI_WIRE_MAX_BYTES;
	size_t len = sizeof(line->fd);
	enum kvf_status status;

	line->handle = zmq_socket(control->context, type);
	if (line->handle == NULL)
		return kvfi_fail(zmq_errno() == EMFILE ? KVF_EFULL : KVF_EIO,
			"control channel: zmq_socket: %s", zmq_strerror(zmq_errno()));
	if (!set_int(line->handle, ZMQ_LINGER, 0) || !set_int(line->handle, ZMQ_SNDHWM, HIGH_WATER) ||
		!set_int(line->handle, ZMQ_RCVHWM, HIGH_WATER) || !set_int(line->handle, ZMQ_IPV6, ipv6) ||
		!set_int(line->handle, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) ||
		!set_int(line->handle, ZMQ_RECONNECT_IVL, RECONNECT_MS) ||
		!set_int(line->handle, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS) ||
		zmq_setsockopt(line->handle, ZMQ_MAXMSGSIZE, &max_bytes, sizeof(max_bytes)) != 0 ||
		zmq_getsockopt(line->handle, ZMQ_FD, &line->fd, &len) != 0) {
		(void)zmq_close(line->handle);
		line->handle = NULL;
		return kvfi_fail(KVF_EIO, "control channel: socket options: %s", zmq_strerror(zmq_errno()));
	}
	status = watch(control, line->fd, line);
	if (status != KVF_OK) {
		(void)zmq_close(line->handle);
		line->handle = NULL;
	}
	return status;
}

static enum kvf_status bind_status(void)
{
	switch (zmq_errno()) {
	case EADDRINUSE:
		return KVF_EADDRINUSE;
	case EADDRNOTAVAIL:
	case ENODEV:
	case EINVAL:
	case EACCES:
		return KVF_EINVAL;
	default:
		return KVF_EIO;
	}
}

/* The listening socket of an ipc path is made by kvfi_ipc_claim: libzmq would take a path away from a live owner. */
static enum kvf_status router_bind(
	struct kvfi_control *control, const char *listen, const struct kvfi_endpoint *endpoint)
{
	size_t len = sizeof(control->endpoint);
	int listener = -1;

	if (endpoint->kind == KVFI_ENDPOINT_IPC) {
		const enum kvf_status status = kvfi_ipc_claim(endpoint->path, &control->claim, &listener);

		if (status != KVF_OK)
			return status;
		if (!set_int(control->router.handle, ZMQ_USE_FD, listener)) {
			close(listener);
			return fail_zmq(KVF_EIO, listen, "ZMQ_USE_FD");
		}
	}
	if (zmq_bind(control->router.handle, listen) != 0) {
		const enum kvf_status status = fail_zmq(bind_status(), listen, "bind");

		if (listener >= 0)
			close(listener);
		return status;
	}
	if (zmq_getsockopt(control->router.handle, ZMQ_LAST_ENDPOINT, control->endpoint, &len) != 0)
		return fail_zmq(KVF_EIO, listen, "ZMQ_LAST_ENDPOINT");
	return KVF_OK;
}

static enum kvf_status router_open(struct kvfi_control *control, const char *listen)
{
	struct kvfi_endpoint endpoint;
	enum kvf_status status = kvfi_endpoint_parse(listen, KVFI_ENDPOINT_LISTEN, &endpoint);

	if (status == KVF_OK)
		status = line_open(control, &control->router, ZMQ_ROUTER, endpoint.ipv6);
	if (status != KVF_OK)
		return status;
	if (!set_int(control->router.handle, ZMQ_ROUTER_HANDOVER, 1))
		return fail_zmq(KVF_EIO, listen, "ZMQ_ROUTER_HANDOVER");
	return router_bind(control, listen, &endpoint);
}

static void zmq_channel_close(struct kvfi_control *control)
{
	if (control == NULL)
		return;
	assert_owner(control);
	for (uint32_t i = 0; i < control->ways.max; i++)
		line_close(control, &control->ways.all[i].dealer);
	line_close(control, &control->router);
	while (control->context != NULL && zmq_ctx_term(control->context) != 0 && zmq_errno() == EINTR)
		;
	kvfi_ipc_unclaim(&control->claim);
	if (control->event_fd >= 0)
		close(control->event_fd);
	if (control->epoll_fd >= 0)
		close(control->epoll_fd);
	kvfi_zmq_ways_fini(&control->ways);
	free(control);
}

static enum kvf_status context_open(struct kvfi_control *control)
{
	control->context = zmq_ctx_new();
	if (control->context == NULL)
		return kvfi_fail(KVF_ENOMEM, "control channel: zmq_ctx_new: %s", zmq_strerror(zmq_errno()));
	if (zmq_ctx_set(control->context, ZMQ_BLOCKY, 0) != 0 ||
		zmq_ctx_set(control->context, ZMQ_IO_THREADS, 1) != 0 ||
		zmq_ctx_set(control->context, ZMQ_MAX_SOCKETS, (int)control->ways.max + 8) != 0)
		return kvfi_fail(KVF_EINVAL, "control channel: %u ways: %s", control->ways.max,
			zmq_strerror(zmq_errno()));
	return KVF_OK;
}

static enum kvf_status zmq_channel_open(const struct kvfi_control_env *env, struct kvfi_control **control_out)
{
	struct kvfi_control *control;
	enum kvf_status status;

	if (env->max_ways == 0 || env->max_ways > INT16_MAX)
		return kvfi_fail(KVF_EINVAL, "max_ways: %u, must be 1 to %d", env->max_ways, INT16_MAX);
	control = calloc(1, sizeof(*control));
	if (control == NULL)
		return kvfi_fail(KVF_ENOMEM, "opening a control channel");
	control->base.ops = &kvfi_control_zmq;
	control->owner = pthread_self();
	control->incarnation = env->incarnation;
	control->fresh_tail = &control->fresh;
	control->router.way = KVFI_NO_WAY;
	control->claim.lock_fd = -1;
	control->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	control->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (control->event_fd < 0 || control->epoll_fd < 0)
		status = kvfi_fail_errno(KVF_EIO, errno, "opening a control channel");
	else
		status = kvfi_zmq_ways_init(&control->ways, env->max_ways);
	if (status == KVF_OK)
		status = context_open(control);
	if (status == KVF_OK)
		status = watch(control, control->event_fd, NULL);
	if (status == KVF_OK && env->listen != NULL)
		status = router_open(control, env->listen);
	if (status != KVF_OK) {
		zmq_channel_close(control);
		return status;
	}
	*control_out = control;
	return KVF_OK;
}

static const char *zmq_channel_endpoint(struct kvfi_control *control)
{
	return control->endpoint;
}

static enum kvf_status dealer_connect(
	struct kvfi_control *control, struct kvfi_line *dealer, const char *endpoint)
{
	unsigned char id[ROUTING_ID_BYTES] = {'K', KVFI_WIRE_VERSION};

	kvfi_store_le(id + 2, control->incarnation, 8);
	kvfi_store_le(id + 10, dealer->way, 4);
	kvfi_store_le(id + 14, control->next_serial++, 4);
	if (zmq_setsockopt(dealer->handle, ZMQ_ROUTING_ID, id, sizeof(id)) != 0 ||
		zmq_connect(dealer->handle, endpoint) != 0) {
		const enum kvf_status status = fail_zmq(KVF_EIO, endpoint, "connect");

		line_close(control, dealer);
		return status;
	}
	return KVF_OK;
}

static enum kvf_status zmq_channel_connect(
	struct kvfi_control *control, const char *endpoint, uint32_t *way_out)
{
	struct kvfi_endpoint parsed;
	enum kvf_status status = kvfi_endpoint_parse(endpoint, KVFI_ENDPOINT_CONNECT, &parsed);
	struct kvfi_zmq_way *way;

	assert_owner(control);
	if (status != KVF_OK)
		return status;
	way = kvfi_zmq_ways_take(&control->ways, KVFI_WAY_CONNECTED);
	if (way == NULL)
		return kvfi_fail(
			KVF_EFULL, "connecting to '%s': all %u ways are in use", endpoint, control->ways.max);
	status = line_open(control, &way->dealer, ZMQ_DEALER, parsed.ipv6);
	if (status == KVF_OK)
		status = dealer_connect(control, &way->dealer, endpoint);
	if (status != KVF_OK) {
		kvfi_zmq_ways_put_back(&control->ways, way);
		return status;
	}
	*way_out = way->dealer.way;
	return KVF_OK;
}

static void zmq_channel_forget(struct kvfi_control *control, uint32_t number)
{
	struct kvfi_zmq_way *way = kvfi_zmq_ways_at(&control->ways, number);

	assert_owner(control);
	if (way == NULL)
		return;
	line_close(control, &way->dealer);
	kvfi_zmq_ways_put_back(&control->ways, way);
	settle(control);
}

/* All or nothing: a router that took the routing id takes the body. */
static bool send_bytes(
	struct kvfi_control *control, struct kvfi_zmq_way *way, struct kvfi_line *line, zmq_msg_t *body)
{
	if (way->kind == KVFI_WAY_ACCEPTED) {
		if (zmq_send(control->router.handle, way->id.bytes, way->id.len_bytes,
			    ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
			return false;
	}
	return zmq_msg_send(body, line->handle, ZMQ_DONTWAIT) >= 0;
}

/* Encodes into a ZeroMQ message; the caller closes it on true. */
static bool encode(const struct kvfi_msg *msg, zmq_msg_t *body)
{
	unsigned char small[SMALL_BYTES];
	enum kvf_status status;
	size_t len = 0, room;

	status = kvfi_msg_encode(msg, small, sizeof(small), &len);
	if (status == KVF_OK) {
		if (zmq_msg_init_size(body, len) != 0)
			return false;
		memcpy(zmq_msg_data(body), small, len);
		return true;
	}
	if (status != KVF_EFULL)
		return false;
	room = kvfi_msg_bound(msg);
	if (room > KVFI_WIRE_MAX_BYTES || zmq_msg_init_size(body, room) != 0)
		return false;
	if (kvfi_msg_encode(msg, zmq_msg_data(body), room, &len) == KVF_OK && len == room)
		return true;
	(void)zmq_msg_close(body);
	return false;
}

static bool zmq_channel_send(struct kvfi_control *control, uint32_t number, const struct kvfi_msg *msg)
{
	struct kvfi_zmq_way *way = kvfi_zmq_ways_at(&control->ways, number);
	struct kvfi_line *line;
	zmq_msg_t body;
	int events = 0;
	size_t len = sizeof(events);
	bool sent;

	assert_owner(control);
	if (way == NULL || !encode(msg, &body))
		return false;
	line = way->kind == KVFI_WAY_CONNECTED ? &way->dealer : &control->router;
	sent = send_bytes(control, way, line, &body);
	if (!sent)
		(void)zmq_msg_close(&body);
	/* The send may have swallowed what the descriptor had to tell. */
	if (zmq_getsockopt(line->handle, ZMQ_EVENTS, &events, &len) == 0 && (events & ZMQ_POLLIN))
		set_fresh(control, line);
	settle(control);
	return sent;
}

static bool receive_part(void *handle, zmq_msg_t *part)
{
	(void)zmq_msg_init(part);
	while (zmq_msg_recv(part, handle, ZMQ_DONTWAIT) < 0) {
		if (zmq_errno() == EINTR)
			continue;
		(void)zmq_msg_close(part);
		return false;
	}
	return true;
}

/* The next message of a socket: a ROUTER puts the routing id before it. False: there is none. */
static bool receive(const struct kvfi_line *line, struct arrival *arrival)
{
	arrival->line = line;
	arrival->id.len_bytes = 0;
	if (!receive_part(line->handle, &arrival->body))
		return false;
	if (line->way == KVFI_NO_WAY) {
		struct kvfi_routing_id *id = &arrival->id;

		id->len_bytes = zmq_msg_size(&arrival->body);
		KVFI_ASSERT(id->len_bytes <= sizeof(id->bytes) && zmq_msg_more(&arrival->body));
		memcpy(id->bytes, zmq_msg_data(&arrival->body), id->len_bytes);
		id->hash = kvfi_hash_bytes(1, id->bytes, id->len_bytes);
		(void)zmq_msg_close(&arrival->body);
		if (!receive_part(line->handle, &arrival->body))
			return false;
	}
	arrival->one_part = !zmq_msg_more(&arrival->body);
	for (bool more = !arrival->one_part; more;) {
		zmq_msg_t rest;

		if (!receive_part(line->handle, &rest))
			break;
		more = zmq_msg_more(&rest);
		(void)zmq_msg_close(&rest);
	}
	return true;
}

/* The way that an arrival came by; NULL: none yet. */
static struct kvfi_zmq_way *way_of(struct kvfi_control *control, const struct arrival *arrival)
{
	if (arrival->line->way != KVFI_NO_WAY)
		return kvfi_zmq_ways_at(&control->ways, arrival->line->way);
	return kvfi_zmq_ways_find(&control->ways, &arrival->id);
}

static enum kvfi_control_kind tell(
	struct kvfi_received *received_out, uint32_t way, enum kvf_status status, const char *reason)
{
	received_out->kind = KVFI_CONTROL_GARBAGE;
	received_out->way = way;
	received_out->status = status;
	(void)snprintf(received_out->reason, sizeof(received_out->reason), "%s", reason);
	return KVFI_CONTROL_GARBAGE;
}

/* There is no room for the sender of a message that was read. */
static enum kvfi_control_kind tell_full(struct kvfi_zmq_ways *ways, struct kvfi_received *received_out)
{
	kvfi_msg_fini(&received_out->msg);
	if (ways->told_full)
		return KVFI_CONTROL_NONE;
	ways->told_full = true;
	return tell(received_out, KVFI_NO_WAY, KVF_EFULL,
		"a new peer's message was dropped: all ways are in use");
}

/* A peer of another version can be answered, if there is room. */
static uint32_t way_back(struct kvfi_zmq_ways *ways, const struct kvfi_routing_id *id)
{
	struct kvfi_zmq_way *way = kvfi_zmq_ways_take(ways, KVFI_WAY_ACCEPTED);

	if (way == NULL)
		return KVFI_NO_WAY;
	way->id = *id;
	way->told_garbage = true;
	return kvfi_zmq_ways_number(ways, way);
}

/* What an arrival is to the caller; NONE: dropped in silence. */
static enum kvfi_control_kind judge(
	struct kvfi_control *control, struct arrival *arrival, struct kvfi_received *received_out)
{
	struct kvfi_zmq_ways *ways = &control->ways;
	struct kvfi_zmq_way *way = way_of(control, arrival);
	uint32_t number = way == NULL ? KVFI_NO_WAY : kvfi_zmq_ways_number(ways, way);
	enum kvf_status status;

	if (arrival->one_part)
		status = kvfi_msg_decode(
			zmq_msg_data(&arrival->body), zmq_msg_size(&arrival->body), &received_out->msg);
	else
		status = kvfi_fail(KVF_PROTOCOL, "message: of several parts");
	if (status != KVF_OK && kvfi_zmq_ways_told(ways, way, &arrival->id))
		return KVFI_CONTROL_NONE;
	if (status == KVF_PEER_VERSION && way == NULL)
		number = way_back(ways, &arrival->id);
	if (status != KVF_OK)
		return tell(received_out, number, status, kvf_error());
	if (way == NULL) {
		way = kvfi_zmq_ways_take(ways, KVFI_WAY_ACCEPTED);
		if (way == NULL)
			return tell_full(ways, received_out);
		way->id = arrival->id;
	}
	received_out->kind = KVFI_CONTROL_MESSAGE;
	received_out->way = kvfi_zmq_ways_number(ways, way);
	received_out->status = KVF_OK;
	received_out->reason[0] = '\0';
	return KVFI_CONTROL_MESSAGE;
}

/* Asks the descriptors. False: no socket has anything. */
static bool look(struct kvfi_control *control)
{
	struct epoll_event events[64];
	const int n = epoll_wait(control->epoll_fd, events, 64, 0);

	for (int i = 0; i < n; i++) {
		if (events[i].data.ptr != NULL)
			set_fresh(control, events[i].data.ptr);
	}
	return control->fresh != NULL;
}

/* One message of the first fresh socket, which then goes to the end of the queue; or it is fresh no more. */
static enum kvfi_control_kind take(
	struct kvfi_control *control, struct kvfi_received *received_out, int *drops)
{
	struct kvfi_line *line = control->fresh;
	enum kvfi_control_kind kind;
	struct arrival arrival;

	clear_fresh(control, line);
	if (!receive(line, &arrival))
		return KVFI_CONTROL_NONE;
	set_fresh(control, line);
	kind = judge(control, &arrival, received_out);
	(void)zmq_msg_close(&arrival.body);
	if (kind == KVFI_CONTROL_NONE)
		++*drops;
	return kind;
}

static enum kvfi_control_kind zmq_channel_recv(
	struct kvfi_control *control, struct kvfi_received *received_out)
{
	enum kvfi_control_kind kind = KVFI_CONTROL_NONE;
	int drops = 0;

	assert_owner(control);
	for (int looks = 0; kind == KVFI_CONTROL_NONE && drops < SILENT_DROPS_PER_CALL;) {
		if (control->fresh == NULL && (++looks > LOOKS_PER_CALL || !look(control)))
			break;
		kind = take(control, received_out, &drops);
	}
	settle(control);
	return kind;
}

static int zmq_channel_fd(struct kvfi_control *control)
{
	return control->epoll_fd;
}

/* ZeroMQ lets a socket change threads with a full memory barrier in between, which the hand-over is. */
static void zmq_channel_adopt(struct kvfi_control *control)
{
	control->owner = pthread_self();
}

const struct kvfi_control_ops kvfi_control_zmq = {
	.name = "zmq",
	.open = zmq_channel_open,
	.close = zmq_channel_close,
	.endpoint = zmq_channel_endpoint,
	.connect = zmq_channel_connect,
	.forget = zmq_channel_forget,
	.send = zmq_channel_send,
	.recv = zmq_channel_recv,
	.fd = zmq_channel_fd,
	.adopt = zmq_channel_adopt,
};
