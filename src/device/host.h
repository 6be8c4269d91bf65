/* host.h - copying strips of host memory, and the content sum. Any thread.
 *
 * The sum is position-keyed, so that bytes in the wrong place change it. The canonical stream of a slice is read as little-endian 64-bit
 * words; word k (bytes 8k .. 8k+7) adds  w * ((k * 2 + 1) * C)  modulo 2^64, C = 0x9e3779b97f4a7c15. That is linear in the bytes: a byte at
 * position p adds (byte << 8*(p mod 8)) times the key of word p div 8, so pieces may be cut anywhere and their sums add up in any order.
 */
#ifndef KVFI_DEVICE_HOST_H
#define KVFI_DEVICE_HOST_H

#include <stdbool.h>
#include <stdint.h>

/* A strip is a copy of count runs of len bytes, src + i*src_stride to dst + i*dst_stride. Source and destination do not overlap. */

/* For what is used again soon, or is small: leaves the destination in the cache. */
void kvfi_host_copy(void *dst, int64_t dst_stride, const void *src, int64_t src_stride, uint64_t len_bytes,
	uint64_t count);
/* For bulk: past the cache where the machine has a way to (whole lines of runs of KVFI_HOST_STREAM_BYTES and more), else as kvfi_host_copy. */
void kvfi_host_copy_bulk(void *dst, int64_t dst_stride, const void *src, int64_t src_stride,
	uint64_t len_bytes, uint64_t count);
#define KVFI_HOST_STREAM_BYTES 192u
/* One strip of a pack: only the source is strided. */
struct kvfi_host_strip {
	const void *src;
	int64_t stride;
	uint64_t len_bytes, count;
};
/* Packs n strips (of at least one run each) one behind the other into dst, which is small and stays in the cache. */
void kvfi_host_pack(void *dst, const struct kvfi_host_strip *strips, uint32_t n);
struct kvfi_host_move {
	void *dst;
	const void *src;
	int64_t dst_stride, src_stride;
	uint64_t len_bytes, count;
	uint64_t pos; /* canonical position of the first run */
	int64_t pos_stride;
};
/* Copies as one of the two above and returns the sum of what it copied, in one pass over the source. */
uint64_t kvfi_host_copy_sum(const struct kvfi_host_move *strip, bool bulk);
/* Asks for the first runs of a strip that is copied next. */
void kvfi_host_prefetch(const void *src, int64_t src_stride, uint64_t len_bytes, uint64_t count);
/* Orders the stores of both (non-temporal ones included) before all that follows. */
void kvfi_host_fence(void);
/* Sum of len_bytes at canonical position pos. */
uint64_t kvfi_host_sum(const void *memory, uint64_t len_bytes, uint64_t pos);

#endif
