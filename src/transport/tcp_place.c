/* tcp_place.c - where the bytes of a frame go, and what happens to them when they have come.
 *
 * A batch is the destination of one frame, or of as much of it as there are strips: pieces for readv(). Long runs are pieces of the blocks
 * themselves. Short ones are read into the stage and unpacked from there before the next read, so that one stage serves all connections
 * and stays in the cache. A read may end anywhere; the batch goes on at that byte.
 *
 * I/O thread only, inside the lease of the grant.
 */
#include <string.h>
#include "base/assert.h"
#include "base/checked.h"
#include "transport/tcp.h"

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

bool kvfi_tcp_place(struct tcp_transport *self, struct tcp_recv *recv)
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

void kvfi_tcp_take(struct tcp_transport *self, struct tcp_recv *recv, uint32_t bytes)
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
