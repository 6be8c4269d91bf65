/* store.c - storing into a peer's memory, one chunk under the lease at a time.
 *
 * Guarantees: no byte is written outside the windows (looked at for every strip); none outside enter and leave; the
 * stores of a chunk are fenced before leave. The next strip is fetched before a chunk ends, so the last one is known to be the last
 * and no lease is entered for nothing.
 *
 * A merged walk is cut by units; a canonical one (for sums) by byte positions, because units are no measure there.
 * Owned by one worker at a time; the target is shared and constant.
 */
#include "transport/store.h"

#include <stddef.h>
#include <string.h>
#include "base/assert.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/status.h"
#include "device/host.h"
#include "memory/region.h"
#include "transport/fault_point.h"

#define PIECE_BYTES (UINT64_C(2) << 20)
#define MAX_PIECES  UINT64_C(65536)
#define BULK_BYTES  (UINT64_C(1) << 20) /* a post of this size does not stay in a core's cache anyhow */

/* ---- windows */

/* The last entry of a region: an earlier one may be waiting to be unmapped. */
static const struct kvfi_window *window_of(const struct kvfi_windows *windows, uint64_t region)
{
	for (uint32_t i = atomic_load(&windows->n); i-- > 0;) {
		if (windows->table[i].region == region && windows->table[i].start != windows->table[i].end)
			return &windows->table[i];
	}
	return NULL;
}

static enum kvf_status map_base(
	const struct kvfi_windows *windows, uint64_t wire, uint64_t start, uint64_t end, uint64_t *base_out)
{
	uint64_t mask = (UINT64_C(1) << KVFI_REGION_SHIFT) - 1;
	uint64_t region = wire >> KVFI_REGION_SHIFT;
	const struct kvfi_window *window = window_of(windows, region);

	if (window == NULL)
		return kvfi_fail(KVF_OUT_OF_RANGE, "region %llu is not shared", (unsigned long long)region);
	if (start > end || start >> KVFI_REGION_SHIFT != region || (end - 1) >> KVFI_REGION_SHIFT != region ||
		((end - 1) & mask) >= window->end - window->start)
		return kvfi_fail(KVF_OUT_OF_RANGE, "cells at %#llx..%#llx leave region %llu of %llu bytes",
			(unsigned long long)(start & mask),
			(unsigned long long)(end - (region << KVFI_REGION_SHIFT)), (unsigned long long)region,
			(unsigned long long)(window->end - window->start));
	*base_out = window->start + (wire & mask);
	return KVF_OK;
}

/* Checks all bases, or writes all. */
static enum kvf_status map_group(
	const struct kvfi_windows *windows, struct kvf_layout *layout, uint32_t group, bool write)
{
	const struct kvf_group *g = &layout->groups[group];
	uint64_t *bases = (uint64_t *)(uintptr_t)g->bases; /* a decoded layout is one writable block */

	for (uint32_t i = 0; i < g->n_layers * g->n_parts; i++) {
		uint64_t start, end, base;
		enum kvf_status status;

		if (!kvfi_layout_extent(layout, group, i / g->n_parts, i % g->n_parts, &start, &end))
			continue;
		if (write) {
			const struct kvfi_window *window = window_of(windows, bases[i] >> KVFI_REGION_SHIFT);

			KVFI_ASSERT(window != NULL);
			bases[i] = window->start + (bases[i] & ((UINT64_C(1) << KVFI_REGION_SHIFT) - 1));
			continue;
		}
		status = map_base(windows, bases[i], start, end, &base);
		if (status != KVF_OK)
			return kvfi_fail_prefix(status, "group %u: layer %u: part %u", group,
				g->layers[i / g->n_parts], i % g->n_parts);
	}
	return KVF_OK;
}

enum kvf_status kvfi_windows_map(const struct kvfi_windows *windows, struct kvf_layout *layout)
{
	enum kvf_status checked = kvf_layout_check(layout); /* from here on no extent overflows */

	if (checked != KVF_OK)
		return checked;
	for (uint32_t write = 0; write <= 1; write++) {
		for (uint32_t group = 0; group < layout->n_groups; group++) {
			enum kvf_status status = map_group(windows, layout, group, write != 0);

			if (status != KVF_OK)
				return status;
		}
	}
	return KVF_OK;
}

static bool inside(const struct kvfi_window *window, uint64_t start, uint64_t end)
{
	return start >= window->start && end <= window->end;
}

/* Does every byte that the strip writes lie in one window?  Plans are checked when they are made, but the peer may have withdrawn a
 * region since: that must fail the post, not the process. */
static bool may_store(struct kvfi_store *store, const struct kvfi_strip *strip)
{
	uint64_t first = strip->dst, last = strip->dst + (uint64_t)strip->dst_stride * (strip->count - 1);
	uint64_t start = kvfi_min_u64(first, last), end = kvfi_max_u64(first, last) + strip->len;
	const struct kvfi_windows *windows = store->target->windows;
	uint32_t n;

	if (inside(&store->window, start, end))
		return start < end;
	n = atomic_load(&windows->n);
	for (uint32_t i = 0; i < n; i++) {
		if (inside(&windows->table[i], start, end))
			store->window = windows->table[i];
	}
	return start < end && inside(&store->window, start, end);
}

/* ---- pieces */

void kvfi_store_target_cut(struct kvfi_store_target *target)
{
	uint64_t n = kvfi_div_up(target->bound->bytes, PIECE_BYTES);

	if (!target->sum)
		n = kvfi_min_u64(n, target->bound->units);
	target->n_pieces = (uint32_t)kvfi_max_u64(kvfi_min_u64(n, MAX_PIECES), 1);
	target->bulk = target->bound->bytes >= BULK_BYTES;
}

/* floor(total * i / n) without overflow, i <= n < 2^17. */
static uint64_t share(uint64_t total, uint64_t i, uint64_t n)
{
	return total / n * i + total % n * i / n;
}

static void fetch(struct kvfi_store *store, uint64_t max_bytes)
{
	max_bytes = kvfi_min_u64(max_bytes, store->left);
	store->has_strip = max_bytes != 0 && kvfi_walk_next(&store->walk, max_bytes, &store->strip);
	if (store->has_strip && store->left != UINT64_MAX)
		store->left -= store->strip.len * store->strip.count;
}

void kvfi_store_begin(struct kvfi_store *store, const struct kvfi_store_target *target, uint32_t piece)
{
	const struct kvfi_bound *bound = target->bound;
	uint64_t n = target->n_pieces;

	store->target = target;
	store->left = UINT64_MAX;
	if (target->sum) {
		uint64_t pos = share(bound->bytes, piece, n);

		kvfi_walk_init(&store->walk, bound, KVFI_WALK_BOTH, 0, bound->units);
		kvfi_walk_seek(&store->walk, pos);
		store->left = share(bound->bytes, piece + UINT64_C(1), n) - pos;
	} else {
		kvfi_walk_init(&store->walk, bound, KVFI_WALK_MERGED, share(bound->units, piece, n),
			share(bound->units, piece + UINT64_C(1), n));
	}
	fetch(store, KVFI_CHUNK_BYTES);
}

static void copy_strip(struct kvfi_store *store, const struct kvfi_strip *strip)
{
	struct kvfi_host_move copy = {.dst = (void *)(uintptr_t)strip->dst,
		.src = (const void *)(uintptr_t)strip->src,
		.dst_stride = strip->dst_stride,
		.src_stride = strip->src_stride,
		.len_bytes = strip->len,
		.count = strip->count,
		.pos = strip->pos,
		.pos_stride = strip->pos_stride};

	if (store->target->sum)
		store->sum += kvfi_host_copy_sum(&copy, store->target->bulk);
	else if (store->target->bulk)
		kvfi_host_copy_bulk(
			copy.dst, copy.dst_stride, copy.src, copy.src_stride, copy.len_bytes, copy.count);
	else
		kvfi_host_copy(
			copy.dst, copy.dst_stride, copy.src, copy.src_stride, copy.len_bytes, copy.count);
}

/* For tests: half of the strip's first run is written, and then this process is stopped or gone. */
static void fire_inside(const struct kvfi_strip *strip)
{
	memcpy((void *)(uintptr_t)strip->dst, (const void *)(uintptr_t)strip->src, strip->len / 2);
	kvfi_host_fence();
	kvfi_fault_fire();
}

/* Copies strips until the chunk is full, and fetches the first one of the next chunk. A run that no longer fits
 * opens the next chunk rather than be cut in two. The source of the next strip is on its way while this one is
 * copied: strips end with their block, and the hardware does not know where the next block lies. */
static enum kvfi_store_result copy_chunk(struct kvfi_store *store)
{
	uint64_t room = KVFI_CHUNK_BYTES;
	bool full;

	do {
		struct kvfi_strip strip = store->strip;

		if (!may_store(store, &strip))
			return KVFI_STORE_OUTSIDE;
		store->bytes += strip.len * strip.count;
		store->runs += strip.count;
		room -= strip.len * strip.count;
		full = room < strip.len;
		fetch(store, full ? KVFI_CHUNK_BYTES : room);
		if (store->has_strip)
			kvfi_host_prefetch((const void *)(uintptr_t)store->strip.src, store->strip.src_stride,
				store->strip.len, store->strip.count);
		if (kvfi_fault_armed())
			fire_inside(&strip);
		copy_strip(store, &strip);
	} while (store->has_strip && !full);
	return KVFI_STORE_MORE;
}

enum kvfi_store_result kvfi_store_chunk(struct kvfi_store *store)
{
	const struct kvfi_store_target *target = store->target;
	enum kvfi_store_result result;

	if (!store->has_strip)
		return KVFI_STORE_END;
	if (!kvfi_lease_enter(target->lease, target->generation))
		return KVFI_STORE_REVOKED;
	if (store->first_ns == 0)
		store->first_ns = kvfi_clock_ns();
	store->window = (struct kvfi_window){.start = 0};
	result = copy_chunk(store);
	kvfi_host_fence();
	kvfi_lease_leave(target->lease, target->generation);
	store->last_ns = kvfi_clock_ns();
	return result;
}

enum kvf_status kvfi_store_status(enum kvfi_store_result result)
{
	if (result == KVFI_STORE_REVOKED)
		return KVF_CANCELLED;
	return result == KVFI_STORE_OUTSIDE ? KVF_OUT_OF_RANGE : KVF_OK;
}

const char *kvfi_store_reason(enum kvf_status status)
{
	switch (status) {
	case KVF_CANCELLED:
		return "cancelled, or the receiver took the lease back";
	case KVF_OUT_OF_RANGE:
		return "the receiver no longer shares this memory";
	case KVF_PEER_LOST:
		return "the connection was closed";
	default:
		return "";
	}
}
