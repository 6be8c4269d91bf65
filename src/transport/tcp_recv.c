/* tcp_recv.c - the receiving direction of a connection: frames become bytes in blocks, and nowhere else.
 *
 * What may be stored where is decided here alone, from the grant: a SLICE is bound to the plan and the block ids of the grant that it names,
 * and its DATA frames must follow each other from position 0 to its end without gap or overlap. A SLICE that names no grant goes to a
 * sink, one that asks for too much fails and goes there; the stream stays in step. What no sender of this version writes breaks the connection.
 *
 * Every read into blocks, at most one frame, is nonblocking and happens between enter and leave of the grant's lease word; so do all looks
 * at its plan and ids. Long runs are read straight into the blocks. Short ones are read into the stage, which all connections share
 * because each read is unpacked before the next. The header of the next frame rides at the end of each read.
 *
 * Waking up for every 64 KiB that the kernel has costs more than reading them. So while much of a slice is still to come, the socket's low
 * water mark is raised, and the thread sleeps until a megabyte is there or a millisecond has passed.
 *
 * I/O thread only.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include "base/assert.h"
#include "base/checked.h"
#include "base/status.h"
#include "transport/tcp.h"

/* ---- the slice */

static void finish_slice(
	struct tcp_transport *self, struct tcp_recv *recv, enum kvf_status status, const char *reason)
{
	recv->sink = true;
	recv->n = recv->at = recv->batch_left = 0;
	if (!recv->begun)
		return;
	recv->begun = false;
	recv->done.status = status;
	recv->done.bytes = recv->received;
	if (recv->done.first_ns != 0)
		recv->done.last_ns = kvfi_clock_ns();
	(void)strncpy(recv->done.reason, reason, sizeof(recv->done.reason) - 1);
	kvfi_tcp_finish_slice(self, recv->grant, recv->generation, &recv->done);
}

/* Binds the slice to the grant, whose lease is entered. */
static enum kvf_status bind_slice(
	struct tcp_recv *recv, const struct tcp_opened *opened, const struct kvfi_tcp_slice *slice)
{
	enum kvf_status status = kvfi_bind_ranges(opened->plan, opened->prompt_len, slice->layer_start,
		slice->layer_end, slice->ranges, slice->n_ranges, opened->dst, &recv->bound);

	if (status != KVF_OK)
		return status;
	if (recv->bound.bytes != recv->total)
		return kvfi_fail(KVF_COVERAGE, "tcp: slice %u: the sender has %llu bytes, the plan %llu",
			recv->slice, (unsigned long long)recv->total, (unsigned long long)recv->bound.bytes);
	kvfi_walk_init(&recv->walk, &recv->bound, KVFI_WALK_DST, 0, recv->bound.units);
	return KVF_OK;
}

static void describe(
	struct tcp_recv *recv, const struct kvfi_tcp_slice *slice, const struct kvfi_rx_grant *grant)
{
	recv->done = (struct kvfi_done){.kind = KVFI_DONE_RX,
		.peer = grant->peer,
		.id = grant->id,
		.slice = recv->slice,
		.layer_start = slice->layer_start,
		.layer_end = slice->layer_end,
		.n_ranges = slice->n_ranges};
	memcpy(recv->done.ranges, slice->ranges, slice->n_ranges * sizeof(slice->ranges[0]));
}

static void begin_slice(struct tcp_transport *self, struct tcp_conn *conn, const struct kvfi_tcp_slice *slice)
{
	struct tcp_recv *recv = &conn->recv;
	struct tcp_opened opened;
	enum kvf_status status;

	recv->in_slice = recv->sink = true;
	recv->epoch = recv->header.epoch;
	recv->slice = recv->header.slice;
	recv->total = recv->header.position;
	recv->received = recv->walked = recv->last_end = 0;
	if (!kvfi_tcp_open_grant(self, conn, slice, &opened)) {
		(void)atomic_fetch_add(&self->counts.stale_slices, 1);
		return;
	}
	recv->begun = true;
	recv->grant = slice->lease_slot;
	recv->generation = slice->lease_generation;
	recv->sum = opened.sum;
	describe(recv, slice, &opened.slot->grant);
	status = bind_slice(recv, &opened, slice);
	kvfi_lease_leave(&opened.slot->lease, recv->generation);
	recv->sink = false;
	if (status != KVF_OK)
		finish_slice(self, recv, status, kvf_error());
}

void kvfi_tcp_recv_look(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_recv *recv = &conn->recv;

	if (recv->begun && kvfi_lease_revoked(&self->grants[recv->grant].lease, recv->generation))
		finish_slice(self, recv, KVF_CANCELLED, "the grant was revoked");
}

/* The connection is gone. */
void kvfi_tcp_recv_fini(
	struct tcp_transport *self, struct tcp_conn *conn, enum kvf_status status, const char *reason)
{
	self->n_low -= conn->recv.low_bytes > 0;
	conn->recv.low_bytes = 0;
	finish_slice(self, &conn->recv, status, reason);
}

/* ---- where the bytes of a frame go */

static void add_piece(struct tcp_recv *recv, void *bytes, uint64_t len_bytes)
{
	struct iovec *last = recv->n > 0 ? &recv->pieces[recv->n - 1] : NULL;

	if (last != NULL && (unsigned char *)last->iov_base + last->iov_len == bytes) {
		last->iov_len += len_bytes;
		return;
	}
	KVFI_ASSERT(recv->n < KVFI_TCP_FRAME_PIECES);
	recv->pieces[recv->n++] = (struct iovec){bytes, len_bytes};
}

static void add_strip(struct tcp_transport *self, struct tcp_recv *recv, const struct kvfi_strip *strip)
{
	unsigned char *dst = (unsigned char *)(uintptr_t)strip->dst;
	uint64_t bytes = strip->len * strip->count;

	recv->strips[recv->n_strips++] = *strip;
	if (strip->len >= KVFI_TCP_DIRECT_BYTES) {
		for (uint64_t i = 0; i < strip->count; i++)
			add_piece(recv, dst + (int64_t)i * strip->dst_stride, strip->len);
		return;
	}
	KVFI_ASSERT(recv->stage_used + bytes <= KVFI_TCP_STAGE_BYTES);
	add_piece(recv, self->stage + recv->stage_used, bytes);
	recv->stage_used += (uint32_t)bytes;
}

/* A run that was cut by the end of a frame counts once. */
static void count_runs(struct tcp_recv *recv, const struct kvfi_strip *strip)
{
	uint64_t last = strip->dst + (strip->count - 1) * (uint64_t)strip->dst_stride;

	recv->done.runs += strip->count - (strip->dst == recv->last_end ? 1 : 0);
	recv->last_end = last + strip->len;
}

/* The batch for what is left of the frame, or for as much as there are strips. Inside the lease. */
static bool fill_batch(struct tcp_transport *self, struct tcp_recv *recv)
{
	uint64_t left = recv->frame_left;

	recv->n = recv->at = recv->n_strips = recv->at_strip = 0;
	recv->stage_used = recv->stage_at = 0;
	recv->strip_done = 0;
	while (left > 0 && recv->n_strips < KVFI_TCP_STRIPS) {
		struct kvfi_strip strip;

		if (!kvfi_walk_next(&recv->walk, left, &strip))
			return false;
		KVFI_ASSERT(strip.pos == recv->walked && strip.len * strip.count <= left);
		count_runs(recv, &strip);
		add_strip(self, recv, &strip);
		recv->walked += strip.len * strip.count;
		left -= strip.len * strip.count;
	}
	recv->batch_left = (uint32_t)(recv->frame_left - left);
	return true;
}

/* ---- bytes that have arrived */

/* bytes of the strip, from byte `from` on, out of the stage into their runs. */
static void unpack(const struct kvfi_strip *strip, uint64_t from, const unsigned char *stage, uint64_t bytes)
{
	unsigned char *dst = (unsigned char *)(uintptr_t)strip->dst;
	int64_t run = (int64_t)(from / strip->len);
	uint64_t inside = from % strip->len, whole;

	if (inside != 0) {
		uint64_t part = kvfi_min_u64(strip->len - inside, bytes);

		memcpy(dst + run * strip->dst_stride + inside, stage, part);
		stage += part;
		bytes -= part;
		run++;
	}
	whole = bytes / strip->len;
	if (whole > 0)
		kvfi_host_copy_bulk(dst + run * strip->dst_stride, strip->dst_stride, stage,
			(int64_t)strip->len, strip->len, whole);
	if (bytes > whole * strip->len)
		memcpy(dst + (run + (int64_t)whole) * strip->dst_stride, stage + whole * strip->len,
			bytes - whole * strip->len);
}

/* As unpack, of runs that were read in place. */
static uint64_t sum_in_place(const struct kvfi_strip *strip, uint64_t from, uint64_t bytes)
{
	uint64_t sum = 0;

	while (bytes > 0) {
		uint64_t run = from / strip->len, inside = from % strip->len;
		uint64_t part = kvfi_min_u64(strip->len - inside, bytes);
		const unsigned char *dst = (const unsigned char *)(uintptr_t)strip->dst;

		sum += kvfi_host_sum(
			dst + (int64_t)run * strip->dst_stride + inside, part, strip->pos + from);
		from += part;
		bytes -= part;
	}
	return sum;
}

/* The next bytes of the strip at at_strip are there. */
static void take_strip(struct tcp_transport *self, struct tcp_recv *recv, uint64_t bytes)
{
	const struct kvfi_strip *strip = &recv->strips[recv->at_strip];
	const unsigned char *stage = self->stage + recv->stage_at;

	if (strip->len >= KVFI_TCP_DIRECT_BYTES) {
		if (recv->sum)
			recv->done.sum += sum_in_place(strip, recv->strip_done, bytes);
	} else {
		if (recv->sum)
			recv->done.sum += kvfi_host_sum(stage, bytes, strip->pos + recv->strip_done);
		unpack(strip, recv->strip_done, stage, bytes);
		recv->stage_at += (uint32_t)bytes;
	}
	recv->strip_done += bytes;
	if (recv->strip_done == strip->len * strip->count) {
		recv->at_strip++;
		recv->strip_done = 0;
	}
}

/* The next bytes of the batch are there. Inside the lease. */
static void take_batch(struct tcp_transport *self, struct tcp_recv *recv, uint32_t bytes)
{
	size_t left = bytes;

	if (recv->done.first_ns == 0)
		recv->done.first_ns = kvfi_clock_ns();
	recv->batch_left -= bytes;
	while (left > 0) {
		const struct kvfi_strip *strip = &recv->strips[recv->at_strip];
		uint64_t part = kvfi_min_u64(strip->len * strip->count - recv->strip_done, left);

		take_strip(self, recv, part);
		left -= part;
	}
	for (left = bytes; left > 0;) {
		struct iovec *piece = &recv->pieces[recv->at];
		size_t part = left < piece->iov_len ? left : piece->iov_len;

		piece->iov_base = (unsigned char *)piece->iov_base + part;
		piece->iov_len -= part;
		left -= part;
		if (piece->iov_len == 0)
			recv->at++;
	}
	kvfi_host_fence();
}

/* ---- reading */

/* readv() of the next `bytes` of the frame, and of the next header if they are its last. Returns how many of `bytes` came; 0: none, and
 * the connection may be broken. There is room for one more piece behind the n given. */
static uint32_t read_frame(
	struct tcp_transport *self, struct tcp_conn *conn, struct iovec *pieces, uint32_t n, uint32_t bytes)
{
	struct tcp_recv *recv = &conn->recv;
	bool whole = bytes == recv->frame_left;
	size_t asked = bytes + (whole ? KVFI_TCP_HEADER_BYTES : 0);
	ssize_t got;
	uint32_t taken;

	if (whole)
		pieces[n++] = (struct iovec){recv->header_bytes, KVFI_TCP_HEADER_BYTES};
	got = readv(conn->fd, pieces, (int)n);
	if (got < 0 && errno == EINTR)
		return 0;
	if (got < 0 && errno == EAGAIN) {
		conn->readable = false;
		return 0;
	}
	if (got <= 0) {
		kvfi_tcp_conn_break(self, conn, KVF_PEER_LOST,
			got == 0 ? "the peer has closed the connection" : strerror(errno));
		return 0;
	}
	if ((size_t)got < asked && !conn->hangup)
		conn->readable = false;
	taken = (uint32_t)kvfi_min_u64((uint64_t)got, bytes);
	recv->frame_left -= taken;
	recv->header_used = (uint32_t)got - taken;
	return taken;
}

static void set_low(struct tcp_transport *self, struct tcp_conn *conn, int low_bytes)
{
	struct tcp_recv *recv = &conn->recv;
	int value = low_bytes > 0 ? low_bytes : 1;

	if (recv->low_bytes == low_bytes)
		return;
	self->n_low += low_bytes > 0;
	self->n_low -= recv->low_bytes > 0;
	recv->low_bytes = low_bytes;
	(void)setsockopt(conn->fd, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof(value));
}

void kvfi_tcp_recv_lower(struct tcp_transport *self, struct tcp_conn *conn, uint64_t now_ns)
{
	if (conn->recv.low_bytes == 0 || now_ns < conn->recv.low_until_ns)
		return;
	set_low(self, conn, 0);
	conn->readable = true;
	kvfi_tcp_conn_ready(self, conn);
}

/* After a read: what is worth waiting for? */
static void adjust_low(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_recv *recv = &conn->recv;
	bool much = recv->in_slice && recv->total - recv->received >= 2 * KVFI_TCP_LOW_BYTES;

	set_low(self, conn, much ? KVFI_TCP_LOW_BYTES : 0);
	if (much)
		recv->low_until_ns = kvfi_clock_ns() + KVFI_TCP_LOW_WAIT_MS * KVFI_NS_PER_MS;
}

/* The rest of a header of which the last read got nothing or a part. */
static void read_header(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_recv *recv = &conn->recv;
	uint32_t used = recv->header_used, left = KVFI_TCP_HEADER_BYTES - used;
	struct iovec pieces[2] = {{recv->header_bytes + used, left}};

	recv->frame_left = UINT32_MAX; /* no header behind the header */
	recv->header_used = used + read_frame(self, conn, pieces, 1, left);
}

static uint32_t read_to_sink(struct tcp_transport *self, struct tcp_conn *conn)
{
	uint32_t bytes = (uint32_t)kvfi_min_u64(conn->recv.frame_left, KVFI_TCP_STAGE_BYTES), taken;
	struct iovec pieces[2] = {{self->stage, bytes}};

	taken = read_frame(self, conn, pieces, 1, bytes);
	(void)atomic_fetch_add(&self->counts.sunk_bytes, taken);
	return taken;
}

static uint32_t read_to_blocks(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_recv *recv = &conn->recv;
	struct kvfi_lease *lease = &self->grants[recv->grant].lease;
	uint32_t generation = recv->generation, taken = 0;
	bool filled;

	if (!kvfi_lease_enter(lease, generation)) {
		finish_slice(self, recv, KVF_CANCELLED, "the grant was revoked");
		return read_to_sink(self, conn);
	}
	filled = recv->batch_left > 0 || fill_batch(self, recv);
	if (filled)
		taken = read_frame(self, conn, recv->pieces + recv->at, recv->n - recv->at, recv->batch_left);
	if (taken > 0)
		take_batch(self, recv, taken);
	kvfi_lease_leave(lease, generation);
	if (!filled)
		finish_slice(self, recv, KVF_EINTERNAL, "the plan has fewer bytes than the slice");
	return taken;
}

static void read_data(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_recv *recv = &conn->recv;

	uint64_t before = recv->received;

	recv->received += recv->sink ? read_to_sink(self, conn) : read_to_blocks(self, conn);
	if (conn->state != TCP_CONN_UP)
		return;
	recv->in_slice = recv->received < recv->total;
	if (recv->received > before)
		adjust_low(self, conn);
	if (recv->frame_left > 0)
		return;
	recv->expecting = TCP_EXPECT_HEADER;
	if (!recv->in_slice)
		finish_slice(self, recv, KVF_OK, "");
}

static void read_slice(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_recv *recv = &conn->recv;
	struct iovec pieces[2] = {{recv->body + recv->header.length - recv->frame_left, recv->frame_left}};
	struct kvfi_tcp_slice slice;

	(void)read_frame(self, conn, pieces, 1, recv->frame_left);
	if (conn->state != TCP_CONN_UP || recv->frame_left > 0)
		return;
	recv->expecting = TCP_EXPECT_HEADER;
	if (kvfi_tcp_get_slice(recv->body, recv->header.length, &slice) != KVF_OK)
		kvfi_tcp_conn_break(self, conn, KVF_PROTOCOL, kvf_error());
	else
		begin_slice(self, conn, &slice);
}

/* ---- headers */

/* Does the frame continue the open slice, exactly where that is? */
static enum kvf_status check_order(const struct tcp_recv *recv)
{
	const struct kvfi_tcp_header *header = &recv->header;

	if (header->type == KVFI_TCP_SLICE)
		return !recv->in_slice ? KVF_OK
		                       : kvfi_fail(KVF_PROTOCOL, "tcp: SLICE %u inside slice %u",
						 header->slice, recv->slice);
	if (!recv->in_slice || header->slice != recv->slice || header->epoch != recv->epoch)
		return kvfi_fail(KVF_PROTOCOL, "tcp: a frame of slice %u, epoch %llu, which is not open",
			header->slice, (unsigned long long)header->epoch);
	if (header->position != recv->received || header->length > recv->total - recv->received)
		return kvfi_fail(KVF_PROTOCOL, "tcp: a frame of %u bytes at %llu of %llu, expected at %llu",
			header->length, (unsigned long long)header->position, (unsigned long long)recv->total,
			(unsigned long long)recv->received);
	return KVF_OK;
}

static void abort_slice(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_recv *recv = &conn->recv;
	char reason[64] = "the sender has stopped: ";

	recv->in_slice = false;
	recv->expecting = TCP_EXPECT_HEADER;
	(void)strncat(reason, kvf_status_name((enum kvf_status)(int)recv->header.flags),
		sizeof(reason) - strlen(reason) - 1);
	adjust_low(self, conn);
	finish_slice(self, recv, KVF_STREAM_BROKEN, reason);
}

static void judge_header(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_recv *recv = &conn->recv;

	recv->header_used = 0;
	if (kvfi_tcp_get_header(recv->header_bytes, &recv->header) != KVF_OK || check_order(recv) != KVF_OK) {
		kvfi_tcp_conn_break(self, conn, KVF_PROTOCOL, kvf_error());
		return;
	}
	recv->frame_left = recv->header.length;
	if (recv->header.type == KVFI_TCP_SLICE)
		recv->expecting = TCP_EXPECT_SLICE;
	else if (recv->header.type == KVFI_TCP_DATA)
		recv->expecting = TCP_EXPECT_DATA;
	else
		abort_slice(self, conn);
}

static void read_some(struct tcp_transport *self, struct tcp_conn *conn)
{
	switch (conn->recv.expecting) {
	case TCP_EXPECT_HEADER:
		read_header(self, conn);
		break;
	case TCP_EXPECT_SLICE:
		read_slice(self, conn);
		break;
	case TCP_EXPECT_DATA:
		read_data(self, conn);
		break;
	}
}

void kvfi_tcp_recv(struct tcp_transport *self, struct tcp_conn *conn)
{
	struct tcp_recv *recv = &conn->recv;
	uint64_t turns = KVFI_TCP_TURN_BYTES / KVFI_TCP_DATA_MAX_BYTES;

	for (; turns > 0 && conn->state == TCP_CONN_UP && conn->readable; turns--) {
		read_some(self, conn);
		if (conn->state == TCP_CONN_UP && recv->header_used == KVFI_TCP_HEADER_BYTES)
			judge_header(self, conn);
	}
}
