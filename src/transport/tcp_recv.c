/* tcp_recv.c - the receiving direction of a connection: frames become bytes in blocks, and nowhere else.
 *
 * What may be stored where is decided here alone, from the grant: a SLICE is bound to the plan and the block ids of the grant that it names,
 * and its DATA frames must follow each other from position 0 to its end without gap or overlap. A SLICE that names no grant goes to a
 * sink, one that asks for too much fails and goes there; the stream stays in step. What no sender of this version writes breaks the connection.
 *
 * Every read into blocks, at most one frame, is nonblocking and happens between enter and leave of the grant's lease word; so do all looks
 * at its plan and ids. Nobody is told anything in between: telling may wait for the owner, who may wait for the word. tcp_place.c says where the bytes go. The header of the next frame rides at the end of each read.
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
		.epoch = grant->epoch,
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

/* ---- reading */

/* readv() of the next `bytes` of the frame, and of the next header if they are its last. Returns how many of `bytes` came; 0: none, and
 * recv->failure may say why there will be no more. There is room for one more piece behind the n given. */
static uint32_t read_frame(struct tcp_conn *conn, struct iovec *pieces, uint32_t n, uint32_t bytes)
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
		recv->failure = got == 0 ? "the peer has closed the connection" : strerror(errno);
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
static void read_header(struct tcp_conn *conn)
{
	struct tcp_recv *recv = &conn->recv;
	uint32_t used = recv->header_used, left = KVFI_TCP_HEADER_BYTES - used;
	struct iovec pieces[2] = {{recv->header_bytes + used, left}};

	recv->frame_left = UINT32_MAX; /* no header behind the header */
	recv->header_used = used + read_frame(conn, pieces, 1, left);
}

static uint32_t read_to_sink(struct tcp_transport *self, struct tcp_conn *conn)
{
	uint32_t bytes = (uint32_t)kvfi_min_u64(conn->recv.frame_left, KVFI_TCP_STAGE_BYTES), taken;
	struct iovec pieces[2] = {{self->stage, bytes}};

	taken = read_frame(conn, pieces, 1, bytes);
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
	filled = recv->batch_left > 0 || kvfi_tcp_place(self, recv);
	if (filled)
		taken = read_frame(conn, recv->pieces + recv->at, recv->n - recv->at, recv->batch_left);
	if (taken > 0) {
		kvfi_tcp_take(self, recv, taken);
		(void)atomic_fetch_add(&self->grants[recv->grant].moved, taken);
	}
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

	(void)read_frame(conn, pieces, 1, recv->frame_left);
	if (recv->frame_left > 0)
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
	enum kvf_status status = (enum kvf_status)(int)recv->header.flags;
	char reason[64] = "the sender has stopped: ";

	recv->in_slice = false;
	recv->expecting = TCP_EXPECT_HEADER;
	(void)strncat(reason, kvf_status_name(status), sizeof(reason) - strlen(reason) - 1);
	adjust_low(self, conn);
	/* Called off: the RESULT of the slice says why. */
	finish_slice(self, recv, status == KVF_CANCELLED ? status : KVF_STREAM_BROKEN, reason);
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
		read_header(conn);
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
		if (recv->failure != NULL)
			kvfi_tcp_conn_break(self, conn, KVF_PEER_LOST, recv->failure);
		else if (conn->state == TCP_CONN_UP && recv->header_used == KVFI_TCP_HEADER_BYTES)
			judge_header(self, conn);
	}
}
