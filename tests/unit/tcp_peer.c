/* tcp_peer.c - see tcp_peer.h. */
#include "tcp_peer.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void be_patient(int fd)
{
	struct timeval patience = {.tv_sec = RIG_PATIENCE};
	int one = 1;

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)), 0);
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

int raw_listen(unsigned char *address_out)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct kvfi_tcp_address address = {.family = 4, .ip = {127, 0, 0, 1}};
	socklen_t length = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	be_patient(fd);
	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &length), 0);
	address.port = ntohs(in.sin_port);
	kvfi_tcp_put_address(address_out, &address);
	return fd;
}

int raw_accept(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	assert_true(fd >= 0);
	be_patient(fd);
	return fd;
}

int raw_dial(struct rig_side *side)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	unsigned char bytes[KVFI_ADDRESS_MAX_BYTES];
	size_t length = kvfi_transport_tcp.address(side->transport, bytes);
	struct kvfi_tcp_address address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	be_patient(fd);
	assert_int_equal(kvfi_tcp_get_address(bytes, length, &address), KVF_OK);
	in.sin_port = htons(address.port);
	memcpy(&in.sin_addr, address.ip, 4);
	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

void raw_send(int fd, const void *bytes, size_t len_bytes)
{
	assert_int_equal(send(fd, bytes, len_bytes, MSG_NOSIGNAL), len_bytes);
}

bool raw_recv(int fd, void *bytes, size_t len_bytes)
{
	unsigned char *at = bytes;

	while (len_bytes > 0) {
		ssize_t n = recv(fd, at, len_bytes, 0);

		if (n == 0)
			return false;
		assert_true(n > 0);
		at += n;
		len_bytes -= (size_t)n;
	}
	return true;
}

void raw_until_closed(int fd)
{
	unsigned char ignored[4096];

	for (;;) {
		ssize_t n = recv(fd, ignored, sizeof(ignored), 0);

		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return;
		assert_true(n > 0);
	}
}

struct kvfi_tcp_greeting raw_recv_greeting(int fd)
{
	unsigned char bytes[KVFI_TCP_GREETING_BYTES];
	struct kvfi_tcp_greeting greeting;

	assert_true(raw_recv(fd, bytes, sizeof(bytes)));
	assert_int_equal(kvfi_tcp_get_greeting(bytes, &greeting), KVF_OK);
	return greeting;
}

void raw_send_greeting(int fd, const struct kvfi_tcp_greeting *greeting)
{
	unsigned char bytes[KVFI_TCP_GREETING_BYTES];

	kvfi_tcp_put_greeting(bytes, greeting);
	raw_send(fd, bytes, sizeof(bytes));
}

int raw_welcome(int listener)
{
	int fd = raw_accept(listener);
	struct kvfi_tcp_greeting hello = raw_recv_greeting(fd);
	struct kvfi_tcp_greeting welcome = {.type = KVFI_TCP_WELCOME,
		.from = hello.to,
		.to = hello.from,
		.link = hello.link,
		.nonce = hello.nonce};

	assert_int_equal(hello.type, KVFI_TCP_HELLO);
	raw_send_greeting(fd, &welcome);
	return fd;
}

int raw_hello(struct rig_side *prefill, uint64_t incarnation, uint64_t link)
{
	struct kvfi_tcp_greeting hello = {.type = KVFI_TCP_HELLO,
		.from = incarnation,
		.to = prefill->env.incarnation,
		.link = link,
		.nonce = 99};
	struct kvfi_tcp_greeting welcome;
	int fd = raw_dial(prefill);

	raw_send_greeting(fd, &hello);
	welcome = raw_recv_greeting(fd);
	assert_int_equal(welcome.type, KVFI_TCP_WELCOME);
	assert_int_equal(welcome.status, KVF_OK);
	assert_true(welcome.nonce == 99 && welcome.from == prefill->env.incarnation);
	return fd;
}

static unsigned char *put_slice_frame(unsigned char *at, const struct kvfi_tx_post *post)
{
	struct kvfi_tcp_header header = {.type = KVFI_TCP_SLICE,
		.epoch = post->epoch,
		.slice = post->slice,
		.position = post->bound->bytes};
	struct kvfi_tcp_slice slice = {.request_id = post->request_id,
		.attempt = post->attempt,
		.lease_slot = post->lease_slot,
		.lease_generation = post->lease_generation,
		.layer_start = post->bound->layer_start,
		.layer_end = post->bound->layer_end,
		.n_ranges = post->bound->n_ranges};

	for (uint32_t i = 0; i < slice.n_ranges; i++)
		slice.ranges[i] = post->bound->ranges[i].range;
	header.length = kvfi_tcp_put_slice(at + KVFI_TCP_HEADER_BYTES, &slice);
	kvfi_tcp_put_header(at, &header);
	return at + KVFI_TCP_HEADER_BYTES + header.length;
}

void raw_stream_init(struct raw_stream *stream, const struct rig_slice *slice,
	const struct kvfi_tx_post *post, uint32_t frame_bytes)
{
	uint64_t bytes = slice->bound.bytes, position = 0;
	unsigned char *at;
	struct kvfi_walk walk;
	struct kvfi_strip strip;

	stream->bytes =
		malloc(KVFI_TCP_SLICE_MAX_BYTES + bytes + (bytes / frame_bytes + 3) * KVFI_TCP_HEADER_BYTES);
	assert_non_null(stream->bytes);
	at = put_slice_frame(stream->bytes, post);
	stream->slice_bytes = (size_t)(at - stream->bytes);
	kvfi_walk_init(&walk, &slice->bound, KVFI_WALK_SRC, 0, slice->bound.units);
	while (position < bytes) {
		uint32_t length = (uint32_t)(bytes - position < frame_bytes ? bytes - position : frame_bytes);
		struct kvfi_tcp_header header = {
			KVFI_TCP_DATA, length, post->epoch, post->slice, 0, position};

		kvfi_tcp_put_header(at, &header);
		at += KVFI_TCP_HEADER_BYTES;
		for (uint64_t left = length; left > 0; left -= strip.len * strip.count) {
			assert_true(kvfi_walk_next(&walk, left, &strip));
			for (uint64_t i = 0; i < strip.count; i++, at += strip.len)
				memcpy(at, (void *)(uintptr_t)(strip.src + i * (uint64_t)strip.src_stride),
					strip.len);
		}
		position += length;
	}
	stream->len_bytes = (size_t)(at - stream->bytes);
}
