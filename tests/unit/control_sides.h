/* control_sides.h - what the tests of control channels share: the channels, one side of a conversation, waiting. */
#ifndef TESTS_UNIT_CONTROL_SIDES_H
#define TESTS_UNIT_CONTROL_SIDES_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "control/control.h"

#define WAIT_MS 20000 /* only a test that fails waits this long */

struct channel {
	const struct kvfi_control_ops *ops; /* NULL: not built in */
	const char *scheme;                 /* inproc, ipc, tcp */
};

struct side {
	const struct kvfi_control_ops *ops;
	struct kvfi_control *control;
	int woken;
	uint64_t incarnation;
};

static char test_folder[64];

static inline int make_test_folder(void **state)
{
	(void)state;
	(void)snprintf(test_folder, sizeof(test_folder), "/tmp/kvferry-test-XXXXXX");
	return mkdtemp(test_folder) == NULL ? -1 : 0;
}

/* Fails when a channel left a file behind. */
static inline int remove_test_folder(void **state)
{
	(void)state;
	return rmdir(test_folder);
}

static inline const struct channel *channel_of(void **state)
{
	const struct channel *channel = *state;

	if (channel->ops == NULL) {
		print_message("skipped: built without ZeroMQ\n");
		skip();
	}
	return channel;
}

/* An endpoint that nobody has; for tcp one that a listener gets a free port of. */
static inline const char *fresh_endpoint(const struct channel *channel, char *endpoint)
{
	static unsigned counter;

	if (strcmp(channel->scheme, "tcp") == 0)
		(void)snprintf(endpoint, 128, "tcp://127.0.0.1:0");
	else if (strcmp(channel->scheme, "ipc") == 0)
		(void)snprintf(endpoint, 128, "ipc://%s/%u", test_folder, counter++);
	else
		(void)snprintf(endpoint, 128, "inproc://test-%u", counter++);
	return endpoint;
}

static inline void side_wake(void *self)
{
	const struct side *side = self;
	const uint64_t one = 1;

	assert_int_equal(write(side->woken, &one, sizeof(one)), sizeof(one));
}

static inline enum kvf_status side_try_open(
	struct side *side, const struct channel *channel, const char *listen, uint32_t max_ways)
{
	static _Atomic uint64_t incarnations = UINT64_C(0xabcdef0100000000);
	struct kvfi_control_env env = {
		.name = "test", .listen = listen, .max_ways = max_ways, .wake = side_wake, .self = side};
	enum kvf_status status;

	memset(side, 0, sizeof(*side));
	side->ops = channel->ops;
	side->incarnation = env.incarnation = incarnations++;
	side->woken = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(side->woken >= 0);
	status = channel->ops->open(&env, &side->control);
	if (status != KVF_OK) {
		close(side->woken);
		side->woken = -1;
	}
	return status;
}

static inline void side_open(struct side *side, const struct channel *channel, const char *listen)
{
	const enum kvf_status status = side_try_open(side, channel, listen, 16);

	if (status != KVF_OK)
		fail_msg("open: %s", kvf_error());
}

static inline void side_close(struct side *side)
{
	side->ops->close(side->control);
	close(side->woken);
	side->control = NULL;
}

static inline uint32_t side_connect(struct side *side, const char *endpoint)
{
	uint32_t way = KVFI_NO_WAY;

	if (side->ops->connect(side->control, endpoint, &way) != KVF_OK)
		fail_msg("connect to %s: %s", endpoint, kvf_error());
	return way;
}

static inline int side_fd(struct side *side)
{
	const int fd = side->ops->fd(side->control);

	return fd >= 0 ? fd : side->woken;
}

/* Waits on the descriptor alone: a wake-up that does not come is a failure, not a delay. False: nothing in wait_ms. */
static inline bool side_sleep(struct side *side, int wait_ms)
{
	struct pollfd poll_fd = {.fd = side_fd(side), .events = POLLIN};
	uint64_t count;
	int ready;

	do
		ready = poll(&poll_fd, 1, wait_ms);
	while (ready < 0);
	if (ready > 0 && poll_fd.fd == side->woken)
		assert_int_equal(read(side->woken, &count, sizeof(count)), sizeof(count));
	return ready > 0;
}

static inline enum kvfi_control_kind side_recv(struct side *side, struct kvfi_received *received)
{
	enum kvfi_control_kind kind;

	while ((kind = side->ops->recv(side->control, received)) == KVFI_CONTROL_NONE) {
		if (!side_sleep(side, WAIT_MS))
			fail_msg("nothing came");
	}
	return kind;
}

/* The next message, which must be a PING with this number. Returns its way. */
static inline uint32_t side_expect_ping(struct side *side, uint64_t sequence)
{
	struct kvfi_received received;

	assert_int_equal(side_recv(side, &received), KVFI_CONTROL_MESSAGE);
	assert_int_equal(received.msg.header.type, KVFI_MSG_PING);
	assert_true(received.msg.u.ping.sequence == sequence);
	kvfi_msg_fini(&received.msg);
	return received.way;
}

static inline bool side_ping(struct side *side, uint32_t way, uint64_t sequence)
{
	struct kvfi_msg msg = {.header = {.type = KVFI_MSG_PING, .from = side->incarnation, .link = 1}};

	msg.u.ping.sequence = sequence;
	return side->ops->send(side->control, way, &msg);
}

/* Sends until the other side has it: for channels that drop what is sent before the listener is there. */
static inline uint32_t side_ping_until(struct side *side, uint32_t way, struct side *other)
{
	struct kvfi_received received;

	do {
		(void)side_ping(side, way, 0);
		(void)side_sleep(other, 20);
	} while (other->ops->recv(other->control, &received) == KVFI_CONTROL_NONE);
	kvfi_msg_fini(&received.msg);
	return received.way;
}

#endif
