/* transport_tcp_receiver.c - the receiving side against a sender written by hand: pieces, garbage, lies, death. */
#include "tcp_peer.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "transport/tcp.h"

#define OPS   kvfi_transport_tcp
#define GRANT 2u

/* A decode transport connected to this test, a slice, and its grant. */
struct scene {
	struct rig_side decode;
	struct rig_slice slice;
	struct kvfi_tx_post post;
	int listener, fd;
};

static void scene_grant(struct scene *scene)
{
	struct kvfi_rx_grant grant = rig_grant(&scene->slice, GRANT, 0);
	uint32_t slot, generation;

	assert_int_equal(OPS.grant(scene->decode.transport, &grant, &slot, &generation), KVF_OK);
	scene->post = rig_post(&scene->slice, 1, 0, slot, generation);
}

static void scene_init(struct scene *scene, uint64_t row_bytes, uint64_t tokens)
{
	unsigned char address[KVFI_TCP_ADDRESS_BYTES];

	rig_side_init(&scene->decode, RIG_DECODE, false);
	rig_side_open(&scene->decode);
	scene->listener = raw_listen(address);
	assert_int_equal(
		OPS.connect(scene->decode.transport, 0, RIG_PREFILL, RIG_LINK, address, sizeof(address)),
		KVF_OK);
	scene->fd = raw_welcome(scene->listener);
	(void)rig_take(&scene->decode, KVFI_DONE_UP);
	rig_slice_init(&scene->slice, row_bytes, tokens);
	scene_grant(scene);
}

static void scene_fini(struct scene *scene)
{
	rig_side_close(&scene->decode);
	assert_int_equal(rig_count(&scene->decode, KVFI_DONE_RX), 0);
	assert_int_equal(rig_count(&scene->decode, KVFI_DONE_BROKEN), 0);
	rig_slice_fini(&scene->slice);
	(void)close(scene->listener);
	if (scene->fd >= 0)
		(void)close(scene->fd);
}

static void expect_rx(struct scene *scene, enum kvf_status status)
{
	struct kvfi_done done = rig_take(&scene->decode, KVFI_DONE_RX);

	assert_int_equal(done.status, status);
	assert_int_equal(done.id, GRANT);
	if (status != KVF_OK)
		assert_true(done.reason[0] != '\0');
}

static void expect_broken(struct scene *scene, enum kvf_status status)
{
	struct kvfi_done done = rig_take(&scene->decode, KVFI_DONE_BROKEN);

	assert_int_equal(done.status, status);
	assert_true(done.reason[0] != '\0');
}

/* The slice again, whole: this connection still works. */
static void send_whole(struct scene *scene)
{
	struct raw_stream stream;

	raw_stream_init(&stream, &scene->slice, &scene->post, 1000);
	raw_send(scene->fd, stream.bytes, stream.len_bytes);
	expect_rx(scene, KVF_OK);
	rig_slice_check(&scene->slice);
	free(stream.bytes);
}

static void a_stream_in_single_bytes_arrives(void **state)
{
	struct raw_stream stream;
	struct scene scene;

	(void)state;
	scene_init(&scene, 48, 16);
	raw_stream_init(&stream, &scene.slice, &scene.post, 500);
	for (size_t i = 0; i < stream.len_bytes; i++)
		raw_send(scene.fd, stream.bytes + i, 1);
	expect_rx(&scene, KVF_OK);
	rig_slice_check(&scene.slice);
	free(stream.bytes);
	scene_fini(&scene);
}

static void a_stream_in_odd_pieces_arrives(void **state)
{
	static const uint64_t rows[] = {512, 4096, 5000};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct raw_stream stream;
		struct scene scene;
		size_t at = 0;

		scene_init(&scene, rows[i], 64);
		raw_stream_init(&stream, &scene.slice, &scene.post, 100001);
		for (size_t piece = 1; at < stream.len_bytes; piece = piece * 3 % 20011 + 1) {
			size_t n = piece < stream.len_bytes - at ? piece : stream.len_bytes - at;

			raw_send(scene.fd, stream.bytes + at, n);
			at += n;
		}
		expect_rx(&scene, KVF_OK);
		rig_slice_check(&scene.slice);
		free(stream.bytes);
		scene_fini(&scene);
	}
}

static void garbage_breaks_the_connection_and_touches_nothing(void **state)
{
	unsigned char garbage[300];
	struct scene scene;

	(void)state;
	scene_init(&scene, 512, 16);
	memset(garbage, 0xa5, sizeof(garbage));
	raw_send(scene.fd, garbage, sizeof(garbage));
	expect_broken(&scene, KVF_PROTOCOL);
	raw_until_closed(scene.fd);
	rig_slice_check_untouched(&scene.slice);
	scene_fini(&scene);
}

/* Sends the SLICE and half a frame of the stream, then a header that must break the connection. */
static void check_header_breaks(struct kvfi_tcp_header header, bool after_slice)
{
	unsigned char bytes[KVFI_TCP_HEADER_BYTES];
	struct raw_stream stream;
	struct scene scene;

	scene_init(&scene, 512, 16);
	raw_stream_init(&stream, &scene.slice, &scene.post, 1024);
	if (after_slice)
		raw_send(scene.fd, stream.bytes, stream.slice_bytes + KVFI_TCP_HEADER_BYTES + 1024);
	kvfi_tcp_put_header(bytes, &header);
	raw_send(scene.fd, bytes, sizeof(bytes));
	expect_broken(&scene, KVF_PROTOCOL);
	if (after_slice)
		expect_rx(&scene, KVF_STREAM_BROKEN);
	free(stream.bytes);
	scene_fini(&scene);
}

static void frames_out_of_order_break_the_connection(void **state)
{
	uint64_t total = 16u * 4 * 512;

	(void)state;
	check_header_breaks((struct kvfi_tcp_header){KVFI_TCP_DATA, 1024, 5, 3, 0, 0}, false);
	check_header_breaks(
		(struct kvfi_tcp_header){KVFI_TCP_ABORT, 0, 5, 3, (uint32_t)KVF_CANCELLED, 0}, false);
	/* A repeated position, a gap, the end of the slice and far beyond it. */
	check_header_breaks((struct kvfi_tcp_header){KVFI_TCP_DATA, 1024, 5, 3, 0, 0}, true);
	check_header_breaks((struct kvfi_tcp_header){KVFI_TCP_DATA, 1024, 5, 3, 0, 2048}, true);
	check_header_breaks((struct kvfi_tcp_header){KVFI_TCP_DATA, 1024, 5, 3, 0, total}, true);
	check_header_breaks((struct kvfi_tcp_header){KVFI_TCP_DATA, 1024, 5, 3, 0, UINT64_MAX - 511}, true);
	/* More than is left; another slice, another epoch, a slice inside the slice, an ABORT elsewhere. */
	check_header_breaks(
		(struct kvfi_tcp_header){KVFI_TCP_DATA, (uint32_t)total - 1023, 5, 3, 0, 1024}, true);
	check_header_breaks((struct kvfi_tcp_header){KVFI_TCP_DATA, 1024, 5, 4, 0, 1024}, true);
	check_header_breaks((struct kvfi_tcp_header){KVFI_TCP_DATA, 1024, 6, 3, 0, 1024}, true);
	check_header_breaks((struct kvfi_tcp_header){KVFI_TCP_SLICE, 52, 5, 3, 0, total}, true);
	check_header_breaks(
		(struct kvfi_tcp_header){KVFI_TCP_ABORT, 0, 5, 3, (uint32_t)KVF_CANCELLED, 1025}, true);
}

static void oversized_frames_break_the_connection(void **state)
{
	(void)state;
	check_header_breaks(
		(struct kvfi_tcp_header){KVFI_TCP_DATA, KVFI_TCP_DATA_MAX_BYTES + 1, 5, 3, 0, 1024}, true);
	check_header_breaks((struct kvfi_tcp_header){KVFI_TCP_DATA, UINT32_MAX, 5, 3, 0, 1024}, true);
	check_header_breaks((struct kvfi_tcp_header){KVFI_TCP_SLICE, UINT32_MAX, 5, 3, 0, 1}, false);
}

static void t_p43_a_slice_of_another_session_goes_to_the_sink(void **state)
{
	struct kvfi_tx_post right;
	struct scene scene;
	uint64_t stale = 0;

	(void)state;
	scene_init(&scene, 512, 16);
	right = scene.post;
	for (int i = 0; i < 6; i++) {
		struct kvfi_tx_post wrong = right;
		struct raw_stream stream;

		if (i == 0)
			wrong.epoch--;
		else if (i == 1)
			wrong.request_id ^= UINT64_C(1) << 63;
		else if (i == 2)
			wrong.attempt++;
		else if (i == 3)
			wrong.lease_generation++;
		else if (i == 4)
			wrong.lease_slot = GRANT + 1;
		else
			wrong.lease_slot = UINT32_MAX;
		raw_stream_init(&stream, &scene.slice, &wrong, 1000);
		raw_send(scene.fd, stream.bytes, stream.len_bytes);
		free(stream.bytes);
	}
	{
		struct raw_stream last;

		/* Behind the stale ones on the same stream: when it is told, they have been read. */
		raw_stream_init(&last, &scene.slice, &right, 1000);
		raw_send(scene.fd, last.bytes, last.slice_bytes);
		while ((stale = atomic_load(&kvfi_tcp_counts(scene.decode.transport)->stale_slices)) < 6)
			(void)sched_yield();
		rig_slice_check_untouched(&scene.slice);
		raw_send(scene.fd, last.bytes + last.slice_bytes, last.len_bytes - last.slice_bytes);
		free(last.bytes);
	}
	expect_rx(&scene, KVF_OK);
	assert_int_equal(stale, 6);
	assert_int_equal(atomic_load(&kvfi_tcp_counts(scene.decode.transport)->sunk_bytes),
		6 * scene.slice.bound.bytes);
	rig_slice_check(&scene.slice);
	scene_fini(&scene);
}

static void a_range_outside_the_request_fails_the_slice_alone(void **state)
{
	struct kvfi_bound right;
	struct scene scene;

	(void)state;
	scene_init(&scene, 512, 16);
	right = scene.slice.bound;
	for (int i = 0; i < 2; i++) {
		struct raw_stream stream;
		struct kvfi_bound wrong = right;
		struct kvfi_tx_post post = scene.post;

		if (i == 0)
			wrong.ranges[0].range.token_end += 16;
		else
			wrong.ranges[0].range.group = 1;
		post.bound = &wrong;
		raw_stream_init(&stream, &scene.slice, &post, 1000);
		raw_send(scene.fd, stream.bytes, stream.len_bytes);
		free(stream.bytes);
		expect_rx(&scene, KVF_OUT_OF_RANGE);
		rig_slice_check_untouched(&scene.slice);
	}
	send_whole(&scene);
	scene_fini(&scene);
}

static void a_slice_of_other_bytes_than_the_plan_fails_alone(void **state)
{
	unsigned char bytes[KVFI_TCP_HEADER_BYTES];
	struct kvfi_tcp_header header;
	struct raw_stream stream;
	struct scene scene;

	(void)state;
	scene_init(&scene, 512, 16);
	raw_stream_init(&stream, &scene.slice, &scene.post, 1000);
	assert_int_equal(kvfi_tcp_get_header(stream.bytes, &header), KVF_OK);
	header.position += 512;
	kvfi_tcp_put_header(stream.bytes, &header);
	raw_send(scene.fd, stream.bytes, stream.slice_bytes);
	expect_rx(&scene, KVF_COVERAGE);
	kvfi_tcp_put_header(
		bytes, &(struct kvfi_tcp_header){KVFI_TCP_ABORT, 0, 5, 3, (uint32_t)KVF_CANCELLED, 0});
	raw_send(scene.fd, bytes, sizeof(bytes));
	free(stream.bytes);
	send_whole(&scene);
	scene_fini(&scene);
}

static void an_aborted_slice_fails_alone(void **state)
{
	unsigned char bytes[KVFI_TCP_HEADER_BYTES];
	struct raw_stream stream;
	struct scene scene;

	(void)state;
	scene_init(&scene, 512, 16);
	raw_stream_init(&stream, &scene.slice, &scene.post, 1000);
	raw_send(scene.fd, stream.bytes, stream.slice_bytes + KVFI_TCP_HEADER_BYTES + 1000);
	kvfi_tcp_put_header(
		bytes, &(struct kvfi_tcp_header){KVFI_TCP_ABORT, 0, 5, 3, (uint32_t)KVF_CANCELLED, 1000});
	raw_send(scene.fd, bytes, sizeof(bytes));
	expect_rx(&scene, KVF_CANCELLED);
	free(stream.bytes);
	send_whole(&scene);
	scene_fini(&scene);
}

static void a_long_slice_that_pauses_and_is_aborted_is_told(void **state)
{
	unsigned char bytes[KVFI_TCP_HEADER_BYTES];
	struct raw_stream stream;
	struct scene scene;

	(void)state;
	/* 8 MiB, so that the receiver waits for much at once. */
	scene_init(&scene, 4096, 512);
	raw_stream_init(&stream, &scene.slice, &scene.post, 100000);
	raw_send(scene.fd, stream.bytes, stream.slice_bytes + KVFI_TCP_HEADER_BYTES + 100000);
	kvfi_tcp_put_header(
		bytes, &(struct kvfi_tcp_header){KVFI_TCP_ABORT, 0, 5, 3, (uint32_t)KVF_CANCELLED, 100000});
	raw_send(scene.fd, bytes, sizeof(bytes));
	expect_rx(&scene, KVF_CANCELLED);
	free(stream.bytes);
	send_whole(&scene);
	scene_fini(&scene);
}

static void t_p07_a_sender_that_dies_midway_fails_the_slice(void **state)
{
	struct raw_stream stream;
	struct scene scene;

	(void)state;
	scene_init(&scene, 512, 16);
	raw_stream_init(&stream, &scene.slice, &scene.post, 1000);
	raw_send(scene.fd, stream.bytes, stream.slice_bytes + 700);
	(void)close(scene.fd);
	scene.fd = -1;
	expect_rx(&scene, KVF_STREAM_BROKEN);
	expect_broken(&scene, KVF_PEER_LOST);
	free(stream.bytes);
	scene_fini(&scene);
}

static struct kvfi_lease *lease_of(struct scene *scene)
{
	return &kvfi_tcp_self(scene->decode.transport)->grants[GRANT].lease;
}

static void t_p04_after_quiet_nothing_is_stored(void **state)
{
	struct raw_stream stream;
	struct scene scene;
	size_t half;

	(void)state;
	scene_init(&scene, 512, 64);
	raw_stream_init(&stream, &scene.slice, &scene.post, 1000);
	half = stream.len_bytes / 2;
	raw_send(scene.fd, stream.bytes, half);
	while (kvfi_lease_chunks(lease_of(&scene)) < 2) /* the bind, and a read into blocks */
		(void)sched_yield();
	assert_int_equal(OPS.proof(scene.decode.transport, GRANT), KVF_PROOF_NONE);
	OPS.revoke(scene.decode.transport, GRANT);
	while (OPS.proof(scene.decode.transport, GRANT) == KVF_PROOF_NONE)
		(void)sched_yield();
	memset(scene.slice.dst, 0xee, scene.slice.pair.dst_bytes);
	/* Told before quiet was true, so that nothing speaks of this grant later. */
	assert_int_equal(rig_count(&scene.decode, KVFI_DONE_RX), 1);
	expect_rx(&scene, KVF_CANCELLED);
	raw_send(scene.fd, stream.bytes + half, stream.len_bytes - half);
	free(stream.bytes);
	OPS.release(scene.decode.transport, GRANT);
	/* A slice under a new grant comes behind the rest of the old one. */
	scene_grant(&scene);
	raw_stream_init(&stream, &scene.slice, &scene.post, 1000);
	raw_send(scene.fd, stream.bytes, stream.slice_bytes);
	while (kvfi_lease_chunks(lease_of(&scene)) < 1)
		(void)sched_yield();
	rig_slice_check_untouched(&scene.slice);
	raw_send(scene.fd, stream.bytes + stream.slice_bytes, stream.len_bytes - stream.slice_bytes);
	expect_rx(&scene, KVF_OK);
	rig_slice_check(&scene.slice);
	free(stream.bytes);
	scene_fini(&scene);
}

static void revoke_of_a_stalled_slice_is_quiet_at_once(void **state)
{
	struct raw_stream stream;
	struct scene scene;

	(void)state;
	scene_init(&scene, 512, 16);
	raw_stream_init(&stream, &scene.slice, &scene.post, 1000);
	raw_send(scene.fd, stream.bytes, stream.slice_bytes);
	while (kvfi_lease_chunks(lease_of(&scene)) < 1)
		(void)sched_yield();
	OPS.revoke(scene.decode.transport, GRANT);
	expect_rx(&scene, KVF_CANCELLED);
	while (OPS.proof(scene.decode.transport, GRANT) == KVF_PROOF_NONE)
		(void)sched_yield();
	free(stream.bytes);
	scene_fini(&scene);
}

static void t_p27_no_call_waits_for_a_notify_that_waits(void **state)
{
	struct raw_stream stream;
	struct kvfi_rx_grant grant;
	uint32_t slot, generation;
	struct scene scene;

	(void)state;
	scene_init(&scene, 512, 16);
	rig_hold(&scene.decode);
	raw_stream_init(&stream, &scene.slice, &scene.post, 1000);
	raw_send(scene.fd, stream.bytes, stream.slice_bytes + 500);
	(void)close(scene.fd); /* it is told from inside the read that finds the end */
	scene.fd = -1;
	rig_until_held(&scene.decode);
	grant = rig_grant(&scene.slice, GRANT + 1, 0);
	assert_int_equal(OPS.grant(scene.decode.transport, &grant, &slot, &generation), KVF_OK);
	OPS.revoke(scene.decode.transport, GRANT);
	assert_int_equal(OPS.proof(scene.decode.transport, GRANT), KVF_PROOF_NONE);
	OPS.cancel(scene.decode.transport, 1);
	OPS.release(scene.decode.transport, GRANT);
	OPS.disconnect(scene.decode.transport, 0);
	rig_let_go(&scene.decode);
	expect_rx(&scene, KVF_STREAM_BROKEN);
	free(stream.bytes);
	scene_fini(&scene);
}

static void a_grant_ends_with_its_connection(void **state)
{
	unsigned char address[KVFI_TCP_ADDRESS_BYTES];
	struct raw_stream stream;
	struct scene scene;

	(void)state;
	scene_init(&scene, 512, 16);
	OPS.disconnect(scene.decode.transport, 0);
	raw_until_closed(scene.fd);
	(void)close(scene.fd);
	(void)close(scene.listener);
	scene.listener = raw_listen(address);
	assert_int_equal(
		OPS.connect(scene.decode.transport, 0, RIG_PREFILL, RIG_LINK + 1, address, sizeof(address)),
		KVF_OK);
	scene.fd = raw_welcome(scene.listener);
	(void)rig_take(&scene.decode, KVFI_DONE_UP);
	raw_stream_init(&stream, &scene.slice, &scene.post, 1000);
	raw_send(scene.fd, stream.bytes, stream.len_bytes);
	while (atomic_load(&kvfi_tcp_counts(scene.decode.transport)->sunk_bytes) < scene.slice.bound.bytes)
		(void)sched_yield();
	rig_slice_check_untouched(&scene.slice);
	free(stream.bytes);
	scene_fini(&scene);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stream_in_single_bytes_arrives),
		cmocka_unit_test(a_stream_in_odd_pieces_arrives),
		cmocka_unit_test(garbage_breaks_the_connection_and_touches_nothing),
		cmocka_unit_test(frames_out_of_order_break_the_connection),
		cmocka_unit_test(oversized_frames_break_the_connection),
		cmocka_unit_test(t_p43_a_slice_of_another_session_goes_to_the_sink),
		cmocka_unit_test(a_range_outside_the_request_fails_the_slice_alone),
		cmocka_unit_test(a_slice_of_other_bytes_than_the_plan_fails_alone),
		cmocka_unit_test(an_aborted_slice_fails_alone),
		cmocka_unit_test(a_long_slice_that_pauses_and_is_aborted_is_told),
		cmocka_unit_test(t_p07_a_sender_that_dies_midway_fails_the_slice),
		cmocka_unit_test(t_p04_after_quiet_nothing_is_stored),
		cmocka_unit_test(revoke_of_a_stalled_slice_is_quiet_at_once),
		cmocka_unit_test(t_p27_no_call_waits_for_a_notify_that_waits),
		cmocka_unit_test(a_grant_ends_with_its_connection),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
