/* transport_tcp_sender.c - the sending side against a receiver written by hand: stalls, cancels, death, strangers at the door. */
#include "tcp_peer.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "transport/tcp.h"

#define OPS kvfi_transport_tcp

static void admit(struct rig_side *prefill, uint32_t peer, uint64_t incarnation, uint64_t link)
{
	assert_int_equal(OPS.expect(prefill->transport, peer, incarnation, link), KVF_OK);
}

static struct kvfi_done tx_of(struct rig_side *prefill, uint64_t id, enum kvf_status status)
{
	struct kvfi_done done = rig_take(prefill, KVFI_DONE_TX);

	assert_int_equal(done.id, id);
	assert_int_equal(done.status, status);
	return done;
}

/* Reads one frame; its payload is ignored. */
static struct kvfi_tcp_header recv_frame(int fd)
{
	unsigned char bytes[KVFI_TCP_HEADER_BYTES], *payload;
	struct kvfi_tcp_header header;

	assert_true(raw_recv(fd, bytes, sizeof(bytes)));
	assert_int_equal(kvfi_tcp_get_header(bytes, &header), KVF_OK);
	payload = malloc(header.length + 1);
	assert_non_null(payload);
	assert_true(raw_recv(fd, payload, header.length));
	free(payload);
	return header;
}

/* The SLICE that opens it; returns its bytes. */
static uint64_t recv_opening(int fd, uint32_t slice)
{
	struct kvfi_tcp_header header = recv_frame(fd);

	assert_int_equal(header.type, KVFI_TCP_SLICE);
	assert_int_equal(header.slice, slice);
	return header.position;
}

/* Reads an opened slice to its end or its ABORT; returns its last frame. */
static struct kvfi_tcp_header recv_rest(int fd, uint32_t slice, uint64_t total)
{
	struct kvfi_tcp_header header = {.type = KVFI_TCP_SLICE};
	uint64_t at = 0;

	while (at < total && header.type != KVFI_TCP_ABORT) {
		header = recv_frame(fd);
		assert_int_equal(header.slice, slice);
		assert_true(header.position == at);
		at += header.length;
	}
	return header;
}

static struct kvfi_tcp_header recv_slice(int fd, uint32_t slice)
{
	return recv_rest(fd, slice, recv_opening(fd, slice));
}

static void the_stream_is_what_is_written_down(void **state)
{
	struct raw_stream stream;
	struct rig_side prefill;
	struct rig_slice slice;
	struct kvfi_tx_post post;
	unsigned char *got;
	int fd;

	(void)state;
	rig_side_init(&prefill, RIG_PREFILL, true);
	rig_side_open(&prefill);
	rig_slice_init(&slice, 4096, 48);
	admit(&prefill, 1, RIG_DECODE, RIG_LINK);
	fd = raw_hello(&prefill, RIG_DECODE, RIG_LINK);
	assert_int_equal(rig_take(&prefill, KVFI_DONE_UP).peer, 1);
	post = rig_post(&slice, 7, 1, 4, 9);
	post.sum = false;
	assert_int_equal(OPS.post(prefill.transport, &post), KVF_OK);
	raw_stream_init(&stream, &slice, &post, KVFI_TCP_DATA_MAX_BYTES);
	got = malloc(stream.len_bytes);
	assert_non_null(got);
	assert_true(raw_recv(fd, got, stream.len_bytes));
	assert_memory_equal(got, stream.bytes, stream.len_bytes);
	assert_int_equal(tx_of(&prefill, 7, KVF_OK).bytes, slice.bound.bytes);
	free(got);
	free(stream.bytes);
	(void)close(fd);
	rig_side_close(&prefill);
	rig_slice_fini(&slice);
}

static void a_stalled_receiver_stops_nobody_else(void **state)
{
	struct rig_side prefill, decode;
	struct rig_slice large, small;
	struct kvfi_tx_post post;
	struct kvfi_rx_grant grant;
	uint32_t slot, generation;
	uint64_t total;
	int fd;

	(void)state;
	rig_side_init(&prefill, RIG_PREFILL, true);
	rig_side_init(&decode, RIG_DECODE, false);
	rig_side_open(&prefill);
	rig_side_open(&decode);
	rig_slice_init(&large, 4096, 4096); /* 64 MiB: more than any socket takes */
	rig_slice_init(&small, 512, 64);
	admit(&prefill, 1, 0x5555, 1);
	fd = raw_hello(&prefill, 0x5555, 1);
	(void)rig_take(&prefill, KVFI_DONE_UP);
	rig_connect(&prefill, 0, &decode, 0, RIG_LINK);
	post = rig_post(&large, 1, 1, 0, 0);
	post.sum = false;
	assert_int_equal(OPS.post(prefill.transport, &post), KVF_OK);
	post = rig_post(&small, 2, 1, 0, 0);
	post.slice = 4;
	assert_int_equal(OPS.post(prefill.transport, &post), KVF_OK);
	for (uint32_t i = 0; i < 3; i++) {
		grant = rig_grant(&small, 0, 0);
		assert_int_equal(OPS.grant(decode.transport, &grant, &slot, &generation), KVF_OK);
		post = rig_post(&small, 10 + i, 0, slot, generation);
		assert_int_equal(OPS.post(prefill.transport, &post), KVF_OK);
		(void)tx_of(&prefill, 10 + i, KVF_OK);
		assert_int_equal(rig_take(&decode, KVFI_DONE_RX).status, KVF_OK);
		OPS.release(decode.transport, 0);
	}
	/* A cancel does not wait for the stalled one either: once it has begun, its source is free at once. */
	total = recv_opening(fd, 3);
	OPS.cancel(prefill.transport, 1);
	(void)tx_of(&prefill, 1, KVF_CANCELLED);
	memset(large.src, 0, large.pair.src_bytes);
	/* When it reads again it finds the stream in step: the begun frame, an ABORT, the next slice. */
	assert_int_equal(recv_rest(fd, 3, total).type, KVFI_TCP_ABORT);
	assert_int_equal(recv_slice(fd, 4).type, KVFI_TCP_DATA);
	(void)tx_of(&prefill, 2, KVF_OK);
	(void)close(fd);
	rig_side_close(&decode);
	rig_side_close(&prefill);
	rig_slice_fini(&large);
	rig_slice_fini(&small);
}

/* Wherever the stream is when a cancel comes, also inside the last frame of a slice: the next slice follows in step. */
static void a_cancel_at_any_place_leaves_the_stream_in_step(void **state)
{
	enum {
		STEP = 96 * 1024,
		STEPS = 80
	};
	struct rig_side prefill;
	struct rig_slice large;
	int fd, small_buffer = 65536;

	(void)state;
	rig_side_init(&prefill, RIG_PREFILL, true);
	rig_side_open(&prefill);
	rig_slice_init(&large, 4096, 512); /* 8 MiB */
	admit(&prefill, 1, 0x5555, 1);
	fd = raw_hello(&prefill, 0x5555, 1);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small_buffer, sizeof(small_buffer)), 0);
	(void)rig_take(&prefill, KVFI_DONE_UP);
	for (uint32_t i = 0; i < STEPS; i++) {
		struct kvfi_tcp_header header = {.type = KVFI_TCP_SLICE};
		struct kvfi_tx_post post = rig_post(&large, i, 1, 0, 0);
		uint64_t total, at = 0;
		bool asked = false;

		post.sum = false;
		post.slice = i;
		assert_int_equal(OPS.post(prefill.transport, &post), KVF_OK);
		total = recv_opening(fd, i);
		while (at < total && header.type != KVFI_TCP_ABORT) {
			if (!asked && at >= (uint64_t)i * STEP) {
				asked = true;
				OPS.cancel(prefill.transport, i);
			}
			header = recv_frame(fd);
			assert_int_equal(header.slice, i);
			assert_true(header.position == at);
			at += header.length;
		}
		(void)rig_take(&prefill, KVFI_DONE_TX);
	}
	(void)close(fd);
	rig_side_close(&prefill);
	rig_slice_fini(&large);
}

static void a_queued_post_is_cancelled_without_a_trace(void **state)
{
	struct rig_side prefill;
	struct rig_slice large, small;
	struct kvfi_tx_post post;
	int fd;

	(void)state;
	rig_side_init(&prefill, RIG_PREFILL, true);
	rig_side_open(&prefill);
	rig_slice_init(&large, 4096, 4096);
	rig_slice_init(&small, 512, 16);
	admit(&prefill, 0, RIG_DECODE, 1);
	fd = raw_hello(&prefill, RIG_DECODE, 1);
	(void)rig_take(&prefill, KVFI_DONE_UP);
	for (uint32_t i = 0; i < 3; i++) {
		post = rig_post(i == 0 ? &large : &small, 1 + i, 0, 0, 0);
		post.slice = i;
		post.sum = false;
		assert_int_equal(OPS.post(prefill.transport, &post), KVF_OK);
	}
	OPS.cancel(prefill.transport, 2);
	assert_int_equal(tx_of(&prefill, 2, KVF_CANCELLED).bytes, 0);
	OPS.cancel(prefill.transport, 2);
	OPS.cancel(prefill.transport, 77);
	assert_int_equal(recv_slice(fd, 0).type, KVFI_TCP_DATA);
	assert_int_equal(recv_slice(fd, 2).type, KVFI_TCP_DATA);
	(void)tx_of(&prefill, 1, KVF_OK);
	(void)tx_of(&prefill, 3, KVF_OK);
	(void)close(fd);
	rig_side_close(&prefill);
	assert_int_equal(rig_count(&prefill, KVFI_DONE_TX), 0);
	rig_slice_fini(&large);
	rig_slice_fini(&small);
}

static void t_p39_a_receiver_that_dies_ends_every_post(void **state)
{
	struct rig_side prefill;
	struct rig_slice large;
	struct kvfi_tx_post post;
	int fd;

	(void)state;
	rig_side_init(&prefill, RIG_PREFILL, true);
	rig_side_open(&prefill);
	rig_slice_init(&large, 4096, 4096);
	admit(&prefill, 0, RIG_DECODE, 1);
	fd = raw_hello(&prefill, RIG_DECODE, 1);
	(void)rig_take(&prefill, KVFI_DONE_UP);
	for (uint32_t i = 0; i < 3; i++) {
		post = rig_post(&large, 1 + i, 0, 0, 0);
		assert_int_equal(OPS.post(prefill.transport, &post), KVF_OK);
	}
	(void)recv_frame(fd);
	(void)close(fd);
	for (uint32_t i = 0; i < 3; i++)
		(void)tx_of(&prefill, 1 + i, KVF_PEER_LOST);
	assert_int_equal(rig_take(&prefill, KVFI_DONE_BROKEN).status, KVF_PEER_LOST);
	assert_int_equal(OPS.post(prefill.transport, &post), KVF_PEER_LOST);
	rig_side_close(&prefill);
	assert_int_equal(rig_count(&prefill, KVFI_DONE_BROKEN), 0);
	assert_int_equal(rig_count(&prefill, KVFI_DONE_TX), 0);
	rig_slice_fini(&large);
}

static void a_link_admits_one_connection(void **state)
{
	struct kvfi_tcp_greeting hello = {
		.type = KVFI_TCP_HELLO, .from = RIG_DECODE, .to = RIG_PREFILL, .link = 1};
	struct rig_side prefill;
	int first, second;

	(void)state;
	rig_side_init(&prefill, RIG_PREFILL, true);
	rig_side_open(&prefill);
	admit(&prefill, 0, RIG_DECODE, 1);
	first = raw_hello(&prefill, RIG_DECODE, 1);
	(void)rig_take(&prefill, KVFI_DONE_UP);
	second = raw_dial(&prefill);
	raw_send_greeting(second, &hello);
	{
		struct kvfi_tcp_greeting refusal = raw_recv_greeting(second);

		assert_int_equal(refusal.status, KVF_REFUSED);
		assert_true(refusal.from == 0 && refusal.link == 0); /* strangers learn nothing */
	}
	raw_until_closed(second);
	OPS.disconnect(prefill.transport, 0); /* the first was alive until here */
	raw_until_closed(first);
	assert_int_equal(rig_count(&prefill, KVFI_DONE_BROKEN), 0);
	assert_int_equal(rig_count(&prefill, KVFI_DONE_UP), 0);
	(void)close(first);
	(void)close(second);
	rig_side_close(&prefill);
}

static void another_version_is_answered_and_closed(void **state)
{
	struct kvfi_tcp_greeting hello = {
		.type = KVFI_TCP_HELLO, .from = RIG_DECODE, .to = RIG_PREFILL, .link = 1};
	unsigned char bytes[KVFI_TCP_GREETING_BYTES];
	struct rig_side prefill;
	int fd;

	(void)state;
	rig_side_init(&prefill, RIG_PREFILL, true);
	rig_side_open(&prefill);
	admit(&prefill, 0, RIG_DECODE, 1);
	fd = raw_dial(&prefill);
	kvfi_tcp_put_greeting(bytes, &hello);
	bytes[4] = 2;
	raw_send(fd, bytes, sizeof(bytes));
	assert_int_equal(raw_recv_greeting(fd).status, KVF_PEER_VERSION);
	raw_until_closed(fd);
	(void)close(fd);
	fd = raw_hello(&prefill, RIG_DECODE, 1); /* the link is still unused */
	(void)rig_take(&prefill, KVFI_DONE_UP);
	(void)close(fd);
	rig_side_close(&prefill);
}

static void a_hello_in_single_bytes_is_understood(void **state)
{
	struct kvfi_tcp_greeting hello = {
		.type = KVFI_TCP_HELLO, .from = RIG_DECODE, .to = RIG_PREFILL, .link = 1};
	unsigned char bytes[KVFI_TCP_GREETING_BYTES];
	struct rig_side prefill;
	int fd;

	(void)state;
	rig_side_init(&prefill, RIG_PREFILL, true);
	rig_side_open(&prefill);
	admit(&prefill, 0, RIG_DECODE, 1);
	fd = raw_dial(&prefill);
	kvfi_tcp_put_greeting(bytes, &hello);
	for (size_t i = 0; i < sizeof(bytes); i++)
		raw_send(fd, bytes + i, 1);
	assert_int_equal(raw_recv_greeting(fd).status, KVF_OK);
	(void)rig_take(&prefill, KVFI_DONE_UP);
	(void)close(fd);
	rig_side_close(&prefill);
}

static void t_p32_a_silent_caller_is_shown_out(void **state)
{
	struct rig_side prefill;
	int fd;

	(void)state;
	rig_side_init(&prefill, RIG_PREFILL, true);
	rig_side_open(&prefill);
	kvfi_tcp_set_handshake_ns(prefill.transport, 20 * KVFI_NS_PER_MS);
	fd = raw_dial(&prefill);
	raw_send(fd, "KVDT", 4);
	raw_until_closed(fd);
	assert_int_equal(atomic_load(&kvfi_tcp_counts(prefill.transport)->refused_handshakes), 1);
	(void)close(fd);
	rig_side_close(&prefill);
}

static void t_p32_a_silent_listener_is_given_up(void **state)
{
	unsigned char address[KVFI_TCP_ADDRESS_BYTES];
	struct rig_side decode;
	struct kvfi_done done;
	int listener, fd;

	(void)state;
	rig_side_init(&decode, RIG_DECODE, false);
	rig_side_open(&decode);
	kvfi_tcp_set_handshake_ns(decode.transport, 20 * KVFI_NS_PER_MS);
	listener = raw_listen(address);
	assert_int_equal(
		OPS.connect(decode.transport, 2, RIG_PREFILL, RIG_LINK, address, sizeof(address)), KVF_OK);
	fd = raw_accept(listener);
	done = rig_take(&decode, KVFI_DONE_BROKEN);
	assert_int_equal(done.status, KVF_UNREACHABLE);
	assert_int_equal(done.peer, 2);
	(void)close(fd);
	(void)close(listener);
	rig_side_close(&decode);
}

static void a_second_connect_replaces_the_first(void **state)
{
	unsigned char addresses[2][KVFI_TCP_ADDRESS_BYTES];
	struct rig_side decode;
	int listeners[2], fd;

	(void)state;
	rig_side_init(&decode, RIG_DECODE, false);
	rig_side_open(&decode);
	for (uint32_t i = 0; i < 2; i++) {
		listeners[i] = raw_listen(addresses[i]);
		assert_int_equal(OPS.connect(decode.transport, 0, RIG_PREFILL + i, RIG_LINK + i, addresses[i],
					 sizeof(addresses[i])),
			KVF_OK);
	}
	fd = raw_accept(listeners[1]);
	{
		struct kvfi_tcp_greeting hello = raw_recv_greeting(fd);
		struct kvfi_tcp_greeting welcome = {.type = KVFI_TCP_WELCOME,
			.from = hello.to,
			.to = hello.from,
			.link = hello.link,
			.nonce = hello.nonce};

		assert_true(hello.to == RIG_PREFILL + 1 && hello.link == RIG_LINK + 1);
		raw_send_greeting(fd, &welcome);
	}
	(void)rig_take(&decode, KVFI_DONE_UP);
	rig_side_close(&decode);
	assert_int_equal(rig_count(&decode, KVFI_DONE_UP), 0);
	assert_int_equal(rig_count(&decode, KVFI_DONE_BROKEN), 0);
	(void)close(fd);
	(void)close(listeners[0]);
	(void)close(listeners[1]);
}

static void strangers_cannot_crowd_out_a_peer(void **state)
{
	int strangers[40], fd;
	struct rig_side prefill;

	(void)state;
	rig_side_init(&prefill, RIG_PREFILL, true);
	rig_side_open(&prefill); /* room for 2 * 4 + 16 */
	admit(&prefill, 0, RIG_DECODE, 1);
	for (size_t i = 0; i < 40; i++)
		strangers[i] = raw_dial(&prefill);
	fd = raw_hello(&prefill, RIG_DECODE, 1);
	(void)rig_take(&prefill, KVFI_DONE_UP);
	raw_until_closed(strangers[0]); /* the oldest had to go */
	for (size_t i = 0; i < 40; i++)
		(void)close(strangers[i]);
	(void)close(fd);
	rig_side_close(&prefill);
}

static void check_welcome(struct kvfi_tcp_greeting change, enum kvf_status expected)
{
	unsigned char address[KVFI_TCP_ADDRESS_BYTES];
	struct kvfi_tcp_greeting hello, welcome;
	struct rig_side decode;
	int listener, fd;

	rig_side_init(&decode, RIG_DECODE, false);
	rig_side_open(&decode);
	listener = raw_listen(address);
	assert_int_equal(
		OPS.connect(decode.transport, 0, RIG_PREFILL, RIG_LINK, address, sizeof(address)), KVF_OK);
	fd = raw_accept(listener);
	hello = raw_recv_greeting(fd);
	assert_true(hello.from == RIG_DECODE && hello.to == RIG_PREFILL && hello.link == RIG_LINK);
	welcome = (struct kvfi_tcp_greeting){.type = change.type,
		.status = change.status,
		.from = hello.to ^ change.from,
		.to = hello.from ^ change.to,
		.link = hello.link ^ change.link,
		.nonce = hello.nonce ^ change.nonce};
	raw_send_greeting(fd, &welcome);
	assert_int_equal(rig_take(&decode, KVFI_DONE_BROKEN).status, expected);
	assert_int_equal(rig_count(&decode, KVFI_DONE_UP), 0);
	raw_until_closed(fd);
	(void)close(fd);
	(void)close(listener);
	rig_side_close(&decode);
}

static void a_welcome_that_is_not_ours_is_refused(void **state)
{
	(void)state;
	check_welcome((struct kvfi_tcp_greeting){.type = KVFI_TCP_WELCOME, .from = 1}, KVF_PROTOCOL);
	check_welcome((struct kvfi_tcp_greeting){.type = KVFI_TCP_WELCOME, .to = 1}, KVF_PROTOCOL);
	check_welcome((struct kvfi_tcp_greeting){.type = KVFI_TCP_WELCOME, .link = 1}, KVF_PROTOCOL);
	check_welcome((struct kvfi_tcp_greeting){.type = KVFI_TCP_WELCOME, .nonce = 1}, KVF_PROTOCOL);
	check_welcome((struct kvfi_tcp_greeting){.type = KVFI_TCP_HELLO}, KVF_PROTOCOL);
	check_welcome(
		(struct kvfi_tcp_greeting){.type = KVFI_TCP_WELCOME, .status = KVF_REFUSED}, KVF_REFUSED);
	check_welcome((struct kvfi_tcp_greeting){.type = KVFI_TCP_WELCOME, .status = KVF_PEER_VERSION},
		KVF_PEER_VERSION);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_stream_is_what_is_written_down),
		cmocka_unit_test(a_stalled_receiver_stops_nobody_else),
		cmocka_unit_test(a_cancel_at_any_place_leaves_the_stream_in_step),
		cmocka_unit_test(a_queued_post_is_cancelled_without_a_trace),
		cmocka_unit_test(t_p39_a_receiver_that_dies_ends_every_post),
		cmocka_unit_test(a_link_admits_one_connection),
		cmocka_unit_test(another_version_is_answered_and_closed),
		cmocka_unit_test(a_hello_in_single_bytes_is_understood),
		cmocka_unit_test(t_p32_a_silent_caller_is_shown_out),
		cmocka_unit_test(t_p32_a_silent_listener_is_given_up),
		cmocka_unit_test(a_second_connect_replaces_the_first),
		cmocka_unit_test(strangers_cannot_crowd_out_a_peer),
		cmocka_unit_test(a_welcome_that_is_not_ours_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
