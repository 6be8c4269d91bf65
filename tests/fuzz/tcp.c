/* tcp.c - fuzz target: the tcp data stream. The first byte of an input chooses what the rest is.
 *
 * Even: a greeting, a header, the body of a SLICE, or an address. What is got can be put, and to the same bytes.
 *
 * Odd: what comes out of a connection after the handshake, in pieces whose size the byte chooses. The receiving side runs without its
 * thread, on one end of a socket pair, with one grant. Whatever comes: only cells of the plan are written, every slice that began is told
 * once, the connection breaks at most once.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/hash.h"
#include "transport/tcp.h"

#define TOKENS 16u
#define CANARY 0xee

/* ---- the codec */

static void check_codec(const uint8_t *data, size_t size)
{
	unsigned char bytes[KVFI_TCP_SLICE_MAX_BYTES];
	struct kvfi_tcp_greeting greeting;
	struct kvfi_tcp_address address;
	struct kvfi_tcp_header header;
	struct kvfi_tcp_slice slice;

	if (size >= KVFI_TCP_GREETING_BYTES && kvfi_tcp_get_greeting(data, &greeting) == KVF_OK) {
		kvfi_tcp_put_greeting(bytes, &greeting);
		KVFI_ASSERT(memcmp(bytes, data, KVFI_TCP_GREETING_BYTES) == 0);
	}
	if (size >= KVFI_TCP_HEADER_BYTES && kvfi_tcp_get_header(data, &header) == KVF_OK) {
		kvfi_tcp_put_header(bytes, &header);
		KVFI_ASSERT(memcmp(bytes, data, KVFI_TCP_HEADER_BYTES) == 0);
	}
	if (size <= UINT32_MAX && kvfi_tcp_get_slice(data, (uint32_t)size, &slice) == KVF_OK) {
		KVFI_ASSERT(kvfi_tcp_put_slice(bytes, &slice) == size);
		KVFI_ASSERT(memcmp(bytes, data, size) == 0);
	}
	if (kvfi_tcp_get_address(data, size, &address) == KVF_OK) {
		kvfi_tcp_put_address(bytes, &address);
		KVFI_ASSERT(memcmp(bytes, data, size) == 0);
	}
}

/* ---- the world of a receiver, made once */

static struct {
	unsigned char *src, *dst;
	bool *may_change; /* per byte of dst */
	uint64_t src_bytes, dst_bytes;
	kvf_plan *plan;
	int32_t ids[TOKENS / 8];
	struct kvfi_ids list;
	struct kvfi_bound bound;
} world;

static void make_plan(void)
{
	static const uint32_t layers[] = {0, 1};
	struct kvf_group_spec group = {.kind = KVF_PAGED,
		.dtype = KVF_BF16,
		.n_layers = 2,
		.layers = layers,
		.n_parts = 2,
		.parts = {{3, 16}, {3, 320}}}; /* runs of 256 bytes, and of 5120 that need no stage */
	struct kvf_model model = {.name = "fuzz", .revision = "", .n_groups = 1, .groups = &group};
	struct kvf_parallel src_split = {.tp = 1, .pp = 1, .cp = 1, .dp = 1};
	struct kvf_parallel dst_split = {.tp = 2, .pp = 1, .cp = 1, .dp = 1};
	struct kvf_layout_options options = {KVF_LAYER_NHD, 8, 3, 0};
	struct kvf_instance *prefill, *decode;
	struct kvf_layout *src, *dst;

	KVFI_ASSERT(kvf_instance_new(&model, &src_split, KVF_PREFILL, 1, &prefill) == KVF_OK);
	KVFI_ASSERT(kvf_instance_new(&model, &dst_split, KVF_DECODE, 2, &decode) == KVF_OK);
	KVFI_ASSERT(kvf_layout_new(&model, prefill, 0, &options, &src, &world.src_bytes) == KVF_OK);
	KVFI_ASSERT(kvf_layout_new(&model, decode, 1, &options, &dst, &world.dst_bytes) == KVF_OK);
	world.src = calloc(1, world.src_bytes);
	world.dst = malloc(world.dst_bytes);
	KVFI_ASSERT(world.src != NULL && world.dst != NULL);
	kvf_layout_move(src, (uint64_t)(uintptr_t)world.src);
	kvf_layout_move(dst, (uint64_t)(uintptr_t)world.dst);
	KVFI_ASSERT(kvf_plan_new(prefill, src, decode, dst, KVF_REPLICA_ELECT, &world.plan) == KVF_OK);
	kvf_layout_free(src);
	kvf_layout_free(dst);
	kvf_instance_free(prefill);
	kvf_instance_free(decode);
}

static void make_world(void)
{
	struct kvfi_shape shape = {.prompt_len = TOKENS, .token_end = TOKENS, .first = true, .last = true};
	struct kvfi_strip strip;
	struct kvfi_walk walk;

	if (world.plan != NULL)
		return;
	make_plan();
	world.ids[0] = 2; /* of three blocks */
	world.list = (struct kvfi_ids){world.ids, TOKENS / 8};
	KVFI_ASSERT(kvfi_bind(world.plan, &shape, &world.list, &world.list, &world.bound) == KVF_OK);
	world.may_change = calloc(world.dst_bytes, sizeof(bool));
	KVFI_ASSERT(world.may_change != NULL);
	kvfi_walk_init(&walk, &world.bound, KVFI_WALK_DST, 0, world.bound.units);
	while (kvfi_walk_next(&walk, UINT64_MAX, &strip)) {
		for (uint64_t i = 0; i < strip.count; i++) {
			uint64_t at = strip.dst + i * (uint64_t)strip.dst_stride;

			for (uint64_t k = 0; k < strip.len; k++)
				world.may_change[at - (uint64_t)(uintptr_t)world.dst + k] = true;
		}
	}
}

/* ---- a receiver without its thread */

struct receiver {
	struct tcp_transport *transport;
	struct tcp_conn *conn;
	int fd; /* the other end */
	uint32_t told[KVFI_DONE_FRAME + 1];
};

static void count(void *self, const struct kvfi_done *done)
{
	((struct receiver *)self)->told[done->kind]++;
}

static void open_receiver(struct receiver *receiver)
{
	struct tcp_transport *self = calloc(1, sizeof(*self));
	struct kvfi_rx_grant grant = {.id = 1,
		.request_id = 7,
		.attempt = 1,
		.epoch = 5,
		.prompt_len = TOKENS,
		.plan = world.plan,
		.dst = &world.list,
		.sum = true};
	uint32_t slot, generation;
	int fds[2];

	KVFI_ASSERT(self != NULL && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
	self->env = (struct kvfi_transport_env){
		.self = receiver, .notify = count, .max_peers = 1, .max_grants = 2, .max_posts = 1};
	self->ready_last = &self->ready;
	self->event_fd = -1;
	self->epoll_fd = epoll_create1(0);
	self->peers = calloc(1, sizeof(*self->peers));
	self->stage = malloc(KVFI_TCP_STAGE_BYTES);
	KVFI_ASSERT(self->epoll_fd >= 0 && self->peers != NULL && self->stage != NULL);
	(void)pthread_mutex_init(&self->lock, NULL);
	kvfi_tcp_queue_init(&self->peers[0].queue);
	KVFI_ASSERT(kvfi_tcp_posts_init(self) == KVF_OK);
	self->peers[0].state = TCP_PEER_CONNECTING;
	KVFI_ASSERT(kvfi_tcp_grant((struct kvfi_transport *)self, &grant, &slot, &generation) == KVF_OK);
	KVFI_ASSERT(slot == 1 && generation == 1);
	*receiver = (struct receiver){.transport = self, .fd = fds[1]};
	receiver->conn = kvfi_tcp_conn_new(self, fds[0], TCP_CONN_GREETING);
	KVFI_ASSERT(receiver->conn != NULL);
	receiver->conn->peer = &self->peers[0];
	kvfi_tcp_conn_up(self, receiver->conn);
}

static void close_receiver(struct receiver *receiver)
{
	struct tcp_transport *self = receiver->transport;

	if (receiver->conn->state != TCP_CONN_CLOSED)
		kvfi_tcp_conn_break(self, receiver->conn, KVF_PEER_LOST, "the input is over");
	KVFI_ASSERT(receiver->told[KVFI_DONE_BROKEN] == 1 && receiver->told[KVFI_DONE_UP] == 1);
	KVFI_ASSERT(self->grants[1].begun == 0 && self->n_low == 0);
	free(receiver->conn);
	(void)close(receiver->fd);
	(void)close(self->epoll_fd);
	kvfi_tcp_posts_fini(self);
	free(self->peers);
	free(self->stage);
	(void)pthread_mutex_destroy(&self->lock);
	free(self);
}

static void check_stream(uint8_t choice, const uint8_t *data, size_t size)
{
	size_t piece = size < 2048 ? (size_t)choice : 100 + (size_t)choice * 40;
	struct receiver receiver;

	make_world();
	memset(world.dst, CANARY, world.dst_bytes);
	open_receiver(&receiver);
	while (size > 0 && receiver.conn->state == TCP_CONN_UP) {
		size_t n = size < piece ? size : piece;

		KVFI_ASSERT(send(receiver.fd, data, n, MSG_NOSIGNAL) == (ssize_t)n);
		receiver.conn->readable = true;
		while (receiver.conn->state == TCP_CONN_UP && receiver.conn->readable)
			kvfi_tcp_recv(receiver.transport, receiver.conn);
		data += n;
		size -= n;
	}
	close_receiver(&receiver);
	for (uint64_t i = 0; i < world.dst_bytes; i++)
		KVFI_ASSERT(world.may_change[i] || world.dst[i] == CANARY);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] % 2 == 0)
		check_codec(data + 1, size - 1);
	else
		check_stream(data[0], data + 1, size - 1);
	return 0;
}

/* ---- seeds */

static size_t put_stream(uint8_t *bytes, uint64_t epoch, uint32_t frame_bytes, uint64_t stop_at)
{
	struct kvfi_tcp_header header = {KVFI_TCP_SLICE, 0, epoch, 3, KVFI_TCP_SUM, world.bound.bytes};
	struct kvfi_tcp_slice slice = {.request_id = 7,
		.attempt = 1,
		.lease_slot = 1,
		.lease_generation = 1,
		.layer_end = 2,
		.n_ranges = 1,
		.ranges = {{0, 0, TOKENS}}};
	uint8_t *at = bytes + KVFI_TCP_HEADER_BYTES;

	header.length = kvfi_tcp_put_slice(at, &slice);
	kvfi_tcp_put_header(bytes, &header);
	at += header.length;
	for (uint64_t position = 0; position < stop_at; position += frame_bytes) {
		uint64_t left = world.bound.bytes - position;

		header = (struct kvfi_tcp_header){KVFI_TCP_DATA,
			left < frame_bytes ? (uint32_t)left : frame_bytes, epoch, 3, 0, position};
		kvfi_tcp_put_header(at, &header);
		memset(at + KVFI_TCP_HEADER_BYTES, (int)position, header.length);
		at += KVFI_TCP_HEADER_BYTES + header.length;
	}
	if (stop_at < world.bound.bytes) {
		header = (struct kvfi_tcp_header){
			KVFI_TCP_ABORT, 0, epoch, 3, (uint32_t)KVF_CANCELLED, stop_at};
		kvfi_tcp_put_header(at, &header);
		at += KVFI_TCP_HEADER_BYTES;
	}
	return (size_t)(at - bytes);
}

static size_t put_piece(uint32_t n, uint8_t *bytes)
{
	struct kvfi_tcp_address address = {4, 4711, {127, 0, 0, 1}, 99};
	struct kvfi_tcp_greeting greeting = {
		n == 0 ? KVFI_TCP_HELLO : KVFI_TCP_WELCOME, n == 0 ? KVF_OK : KVF_REFUSED, 1, 2, 3, 4, 0};

	if (n == 2) {
		kvfi_tcp_put_address(bytes, &address);
		return KVFI_TCP_ADDRESS_BYTES;
	}
	kvfi_tcp_put_greeting(bytes, &greeting);
	return KVFI_TCP_GREETING_BYTES;
}

size_t fuzz_seed(uint32_t n, uint8_t *buffer, size_t max_bytes)
{
	size_t len;

	make_world();
	KVFI_ASSERT(max_bytes >= 2 * world.bound.bytes + 65536);
	buffer[0] = (uint8_t)(kvfi_mix64(n) | 1);
	switch (n) {
	case 0:
		return 1 + put_stream(buffer + 1, 5, 1000, world.bound.bytes);
	case 7: /* the beginning of one, byte by byte */
		buffer[0] = 1;
		(void)put_stream(buffer + 1, 5, 1000, world.bound.bytes);
		return 1000;
	case 1: /* a stale one, an aborted one, a whole one */
		len = put_stream(buffer + 1, 4, 4096, world.bound.bytes);
		len += put_stream(buffer + 1 + len, 5, 500, 1000);
		return 1 + len + put_stream(buffer + 1 + len, 5, KVFI_TCP_DATA_MAX_BYTES, world.bound.bytes);
	case 2:
	case 3:
	case 4:
		buffer[0] = 0;
		return 1 + put_piece(n - 2, buffer + 1);
	case 5: /* the frames of a slice, one by one */
		buffer[0] = 2;
		(void)put_stream(buffer + 1, 5, 8, 8);
		return 1 + KVFI_TCP_HEADER_BYTES;
	case 6:
		len = put_stream(buffer + 1, 5, 8, 8);
		buffer[0] = 2;
		memmove(buffer + 1, buffer + 1 + KVFI_TCP_HEADER_BYTES, len - KVFI_TCP_HEADER_BYTES);
		return 1 + KVFI_TCP_SLICE_BYTES + KVFI_TCP_RANGE_BYTES;
	default:
		return 0;
	}
}
