/* tcp_send.c - the sending direction of a connection: posts become frames, first come first served.
 *
 * A batch is what one sendmsg() offers the kernel: the SLICE frame in front of the first one, then whole DATA frames, their headers and
 * payloads as pieces. Long runs are pieces of the source blocks themselves; short ones are packed into the connection's stage, which is as
 * large as one frame, so that the kernel copies them out of the cache. A partial send goes on at the exact byte.
 *
 * A stopped post lets go of its source at once: what is still owed of the frame that the kernel has begun is copied into `tail`, an ABORT
 * behind it, and the stream stays in step for the posts that follow, however slowly the receiver reads.
 *
 * I/O thread only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "base/assert.h"
#include "base/checked.h"
#include "base/status.h"
#include "transport/tcp.h"

#define ASKED_BYTES     1024u
#define ASKED_RUN_BYTES (32u * 1024)

static void clear_batch(struct tcp_send *send)
{
	free(send->tail);
	send->tail = NULL;
	send->n = send->at = send->n_frames = 0;
	send->piece_sent = 0;
	send->stage_used = send->stage_packed = 0;
	send->n_strips = 0;
}

/* ---- filling a batch */

static void add_piece(struct tcp_send *send, const void *bytes, uint64_t len_bytes)
{
	uint32_t frame = send->n_frames > 0 ? send->frame_ends[send->n_frames - 1].piece : 0;
	struct iovec *last = send->n > frame ? &send->pieces[send->n - 1] : NULL;

	if (last != NULL && (const unsigned char *)last->iov_base + last->iov_len == bytes) {
		last->iov_len += len_bytes;
		return;
	}
	KVFI_ASSERT(send->n < sizeof(send->pieces) / sizeof(send->pieces[0]));
	send->pieces[send->n++] = (struct iovec){(void *)(uintptr_t)bytes, len_bytes};
}

static void end_frame(struct tcp_send *send)
{
	send->frame_ends[send->n_frames++] = (struct tcp_frame_end){send->n, send->walked};
}

static void add_slice_frame(struct tcp_send *send)
{
	const struct kvfi_tx_post *post = &send->post->post;
	const struct kvfi_bound *bound = post->bound;
	struct kvfi_tcp_header header = {.type = KVFI_TCP_SLICE,
		.epoch = post->epoch,
		.slice = post->slice,
		.flags = post->sum ? KVFI_TCP_SUM : 0,
		.position = bound->bytes};
	struct kvfi_tcp_slice slice = {.request_id = post->request_id,
		.attempt = post->attempt,
		.lease_slot = post->lease_slot,
		.lease_generation = post->lease_generation,
		.layer_start = bound->layer_start,
		.layer_end = bound->layer_end,
		.n_ranges = bound->n_ranges};

	for (uint32_t i = 0; i < bound->n_ranges; i++)
		slice.ranges[i] = bound->ranges[i].range;
	header.length = kvfi_tcp_put_slice(send->slice + KVFI_TCP_HEADER_BYTES, &slice);
	kvfi_tcp_put_header(send->slice, &header);
	add_piece(send, send->slice, KVFI_TCP_HEADER_BYTES + header.length);
	end_frame(send);
}

/* Several strips at once: the packing looks ahead over their borders. */
static void pack_strips(struct tcp_send *send)
{
	kvfi_host_pack(send->stage + send->stage_packed, send->strips, send->n_strips);
	send->stage_packed = send->stage_used;
	send->n_strips = 0;
}

/* The kernel reads the run a little later, and waits for its first lines; the hardware follows from there. Measured with runs of 4 KiB: 7 %
 * of the sending thread's time. */
static void ask_ahead(const unsigned char *run, uint64_t len_bytes)
{
	if (len_bytes > ASKED_RUN_BYTES)
		return;
	for (uint64_t i = 0; i < ASKED_BYTES; i += 64)
		__builtin_prefetch(run + i, 0, 2);
}

static void add_run(struct tcp_send *send, const unsigned char *run, uint64_t len_bytes)
{
	ask_ahead(run, len_bytes);
	add_piece(send, run, len_bytes);
}

static void add_strip(struct tcp_send *send, const struct kvfi_strip *strip)
{
	const unsigned char *src = (const unsigned char *)(uintptr_t)strip->src;
	uint64_t bytes = strip->len * strip->count;

	if (strip->len >= KVFI_TCP_DIRECT_BYTES) {
		for (uint64_t i = 0; i < strip->count; i++)
			add_run(send, src + (int64_t)i * strip->src_stride, strip->len);
		return;
	}
	KVFI_ASSERT(send->stage_used + bytes <= KVFI_TCP_STAGE_BYTES);
	if (send->n_strips == KVFI_TCP_PACKS)
		pack_strips(send);
	send->strips[send->n_strips++] =
		(struct kvfi_host_strip){src, strip->src_stride, strip->len, strip->count};
	add_piece(send, send->stage + send->stage_used, bytes);
	send->stage_used += (uint32_t)bytes;
}

static uint64_t sum_strip(const struct kvfi_strip *strip)
{
	const unsigned char *src = (const unsigned char *)(uintptr_t)strip->src;
	uint64_t sum = 0;

	for (uint64_t i = 0; i < strip->count; i++)
		sum += kvfi_host_sum(
			src + (int64_t)i * strip->src_stride, strip->len, strip->pos + i * strip->len);
	return sum;
}

/* A run that was cut by the end of a frame counts once. */
static void count_runs(struct tcp_send *send, const struct kvfi_strip *strip)
{
	uint64_t last = strip->src + (strip->count - 1) * (uint64_t)strip->src_stride;

	send->done.runs += strip->count - (strip->src == send->last_end ? 1 : 0);
	send->last_end = last + strip->len;
}

/* The payload of one DATA frame; false: the walk has less than the bound promised. */
static bool add_payload(struct tcp_send *send, uint64_t left)
{
	struct kvfi_strip strip;

	while (left > 0) {
		if (!kvfi_walk_next(&send->walk, left, &strip))
			return false;
		KVFI_ASSERT(strip.pos == send->walked && strip.len * strip.count <= left);
		if (send->post->post.sum)
			send->done.sum += sum_strip(&strip);
		count_runs(send, &strip);
		add_strip(send, &strip);
		send->walked += strip.len * strip.count;
		left -= strip.len * strip.count;
	}
	return true;
}

static bool add_data_frame(struct tcp_send *send, uint32_t index, uint64_t length)
{
	const struct kvfi_tx_post *post = &send->post->post;
	struct kvfi_tcp_header header = {.type = KVFI_TCP_DATA,
		.length = (uint32_t)length,
		.epoch = post->epoch,
		.slice = post->slice,
		.position = send->walked};

	kvfi_tcp_put_header(send->headers[index], &header);
	add_piece(send, send->headers[index], KVFI_TCP_HEADER_BYTES);
	if (!add_payload(send, length))
		return false;
	end_frame(send);
	return true;
}

static bool fill_batch(struct tcp_send *send)
{
	uint64_t total = send->post->post.bound->bytes;

	clear_batch(send);
	send->batch_position = send->walked;
	if (send->walked == 0)
		add_slice_frame(send);
	for (uint32_t i = 0; i < KVFI_TCP_FRAMES && send->walked < total; i++) {
		uint64_t length = kvfi_min_u64(total - send->walked, KVFI_TCP_DATA_MAX_BYTES);

		if (send->stage_used + length > KVFI_TCP_STAGE_BYTES)
			break;
		if (!add_data_frame(send, i, length))
			return false;
	}
	pack_strips(send);
	return true;
}

/* ---- beginning and ending a post */

static void finish(
	struct tcp_transport *self, struct tcp_send *send, enum kvf_status status, const char *reason)
{
	struct tcp_post *post = send->post;

	send->done.status = status;
	if (send->started)
		send->done.last_ns = kvfi_clock_ns();
	(void)strncpy(send->done.reason, reason, sizeof(send->done.reason) - 1);
	send->post = NULL;
	kvfi_tcp_finish_post(self, post, &send->done);
}

static bool begin(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_send *send = &conn->send;

	send->post = kvfi_tcp_take_post(self, conn->peer, conn->session);
	if (send->post == NULL)
		return false;
	send->done = (struct kvfi_done){.kind = KVFI_DONE_TX,
		.peer = send->post->post.peer,
		.id = send->post->post.id,
		.slice = send->post->post.slice};
	send->walked = 0;
	send->batch_position = 0;
	send->last_end = 0;
	send->started = false;
	kvfi_walk_init(&send->walk, send->post->post.bound, KVFI_WALK_SRC, 0, send->post->post.bound->units);
	return true;
}

/* End of the frame that the kernel has begun, as an index of frame_ends; -1: between two frames. */
static int begun_frame(const struct tcp_send *send)
{
	uint32_t start = 0;

	for (uint32_t i = 0; i < send->n_frames; i++) {
		if (send->at < send->frame_ends[i].piece)
			return send->at == start && send->piece_sent == 0 ? -1 : (int)i;
		start = send->frame_ends[i].piece;
	}
	return -1;
}

/* Bytes of the slice in front of the frame at `at`. */
static uint64_t position_between_frames(const struct tcp_send *send)
{
	uint64_t position = send->batch_position;

	for (uint32_t i = 0; i < send->n_frames && send->frame_ends[i].piece <= send->at; i++)
		position = send->frame_ends[i].position;
	return position;
}

/* Replaces the batch by a copy of what is owed of the begun frame, and an ABORT; a slice whose last frame has begun ends with that, and is not open
 * any more. False: out of memory. */
static bool make_tail(struct tcp_send *send, enum kvf_status status)
{
	int frame = begun_frame(send);
	uint32_t end = frame < 0 ? send->at : send->frame_ends[frame].piece;
	struct kvfi_tcp_header header = {.type = KVFI_TCP_ABORT,
		.epoch = send->post->post.epoch,
		.slice = send->post->post.slice,
		.flags = (uint32_t)status,
		.position = frame < 0 ? position_between_frames(send) : send->frame_ends[frame].position};
	bool whole = header.position == send->post->post.bound->bytes;
	unsigned char *tail, *to;
	size_t bytes = whole ? 0 : KVFI_TCP_HEADER_BYTES;

	for (uint32_t i = send->at; i < end; i++)
		bytes += send->pieces[i].iov_len;
	if (bytes == 0) { /* the last frame has gone out whole */
		clear_batch(send);
		send->done.bytes = header.position;
		return true;
	}
	tail = to = malloc(bytes);
	if (tail == NULL)
		return false;
	for (uint32_t i = send->at; i < end; i++) {
		memcpy(to, send->pieces[i].iov_base, send->pieces[i].iov_len);
		to += send->pieces[i].iov_len;
	}
	if (!whole)
		kvfi_tcp_put_header(to, &header);
	clear_batch(send);
	send->done.bytes = header.position;
	send->tail = tail;
	add_piece(send, tail, bytes);
	return true;
}

/* Ends the post that is on its way and lets go of its source. False: the connection had to be broken. */
static bool stop(
	struct tcp_transport *self, struct tcp_conn *conn, enum kvf_status status, const char *reason)
{
	struct tcp_send *send = &conn->send;

	if (!send->started) {
		clear_batch(send);
	} else if (!make_tail(send, status)) {
		kvfi_tcp_conn_break(self, conn, KVF_ENOMEM, "out of memory for the rest of a stopped frame");
		return false;
	}
	finish(self, send, status, reason);
	return true;
}

void kvfi_tcp_send_look(struct tcp_transport *self, struct tcp_conn *conn)
{
	if (conn->send.post != NULL && atomic_load(&conn->send.post->cancelled))
		(void)stop(self, conn, KVF_CANCELLED, "cancelled");
}

/* The connection is gone. */
void kvfi_tcp_send_fini(
	struct tcp_transport *self, struct tcp_conn *conn, enum kvf_status status, const char *reason)
{
	if (conn->send.post != NULL)
		finish(self, &conn->send, status, reason);
	clear_batch(&conn->send);
}

/* ---- sending */

/* The next batch of this connection's posts; false: there is none. */
static bool next_batch(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_send *send = &conn->send;

	clear_batch(send);
	if (send->post == NULL && !begin(self, conn))
		return false;
	if (send->stage == NULL)
		send->stage = malloc(KVFI_TCP_STAGE_BYTES);
	if (send->stage == NULL)
		return stop(self, conn, KVF_ENOMEM, "out of memory for the stage");
	if (!fill_batch(send)) {
		clear_batch(send); /* not a byte of it is gone */
		return stop(self, conn, KVF_EINTERNAL, "the plan has fewer bytes than the slice");
	}
	return true;
}

static void advance(struct tcp_send *send, size_t n)
{
	while (n > 0) {
		struct iovec *piece = &send->pieces[send->at];
		size_t part = n < piece->iov_len ? n : piece->iov_len;

		piece->iov_base = (unsigned char *)piece->iov_base + part;
		piece->iov_len -= part;
		send->piece_sent += part;
		n -= part;
		if (piece->iov_len == 0) {
			send->at++;
			send->piece_sent = 0;
		}
	}
}

static void note_sent(struct tcp_transport *self, struct tcp_send *send, size_t n)
{
	if (send->post != NULL && !send->started) {
		send->started = true;
		send->done.first_ns = kvfi_clock_ns();
	}
	if (send->post != NULL)
		(void)atomic_fetch_add(&send->post->moved, n);
	advance(send, n);
	if (send->at < send->n || send->post == NULL)
		return;
	send->done.bytes = send->walked;
	if (send->walked == send->post->post.bound->bytes)
		finish(self, send, KVF_OK, "");
}

void kvfi_tcp_send(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_send *send = &conn->send;
	uint64_t budget = KVFI_TCP_TURN_BYTES;

	send->idle = false;
	while (conn->state == TCP_CONN_UP && conn->writable && budget > 0) {
		struct msghdr message = {0};
		ssize_t n;

		kvfi_tcp_send_look(self, conn);
		if (send->at == send->n && !next_batch(self, conn)) {
			send->idle = true;
			return;
		}
		if (send->at == send->n)
			continue; /* the post ended before its first byte */
		message.msg_iov = send->pieces + send->at;
		message.msg_iovlen = send->n - send->at;
		n = sendmsg(conn->fd, &message, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			conn->writable = false;
			return;
		}
		if (n < 0) {
			kvfi_tcp_conn_break(self, conn, KVF_PEER_LOST, strerror(errno));
			return;
		}
		note_sent(self, send, (size_t)n);
		budget -= kvfi_min_u64(budget, (uint64_t)n);
	}
}
