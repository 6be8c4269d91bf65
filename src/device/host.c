/* host.c - strips of host memory: copying and summing.
 *
 * Short runs far apart are bound by latency, not by bandwidth: the hardware prefetcher learns nothing from 512 bytes. So every strip
 * asks for the run a few places ahead, on both sides. Measured here (Sapphire Rapids, 64 MiB, one thread, GiB/s, memcpy in a loop as 1st):
 *   runs of 512 B: 3.9, with prefetch 7.5, past the cache 8.2;  4 KiB: 7.5, 8.9, 15.4;  64 KiB: 8.7, 9.9, 16.
 * Stores past the cache win because they need not fetch the line that they overwrite; they lose when the bytes are read again at once, so
 * the caller says which (bulk). They are weakly ordered: kvfi_host_fence() before anyone is told.
 *
 * Owns nothing, keeps nothing; any thread.
 */
#include "device/host.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include "base/checked.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

_Static_assert(
	__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the content sum is defined over little-endian words");

#define LINE_BYTES     64u
#define AHEAD_RUNS     4u /* how many runs ahead to prefetch */
#define SUM_PART_BYTES 8192u
#define AHEAD_BYTES    1024u /* of each: the hardware follows from there */

static inline __attribute__((always_inline)) const void *at(const void *base, int64_t stride, uint64_t i)
{
	return (const void *)((uintptr_t)base + (uintptr_t)stride * i);
}

/* The hardware follows from the first part of a long run. */
static inline __attribute__((always_inline)) uint64_t ahead_of(uint64_t len_bytes)
{
	return len_bytes < AHEAD_BYTES ? len_bytes : AHEAD_BYTES;
}

static inline __attribute__((always_inline)) void prefetch_source(const void *run, uint64_t len_bytes)
{
	for (uint64_t i = 0; i < len_bytes; i += LINE_BYTES)
		__builtin_prefetch(at(run, 1, i), 0, 3);
}

static inline __attribute__((always_inline)) void prefetch_destination(const void *run, uint64_t len_bytes)
{
	for (uint64_t i = 0; i < len_bytes; i += LINE_BYTES)
		__builtin_prefetch(at(run, 1, i), 1, 3);
}

void kvfi_host_prefetch(const void *src, int64_t src_stride, uint64_t len_bytes, uint64_t count)
{
	for (uint64_t i = 0; i < count && i < AHEAD_RUNS; i++)
		prefetch_source(at(src, src_stride, i), ahead_of(len_bytes));
}

/* Inlined with a constant len, memcpy becomes a few vector moves. */
static inline __attribute__((always_inline)) void copy_strip(void *dst, int64_t dst_stride, const void *src,
	int64_t src_stride, uint64_t len_bytes, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		if (i + AHEAD_RUNS < count) {
			prefetch_source(at(src, src_stride, i + AHEAD_RUNS), ahead_of(len_bytes));
			prefetch_destination(at(dst, dst_stride, i + AHEAD_RUNS), ahead_of(len_bytes));
		}
		memcpy((void *)(uintptr_t)at(dst, dst_stride, i), at(src, src_stride, i), len_bytes);
	}
}

void kvfi_host_copy(void *dst, int64_t dst_stride, const void *src, int64_t src_stride, uint64_t len_bytes,
	uint64_t count)
{
	if (count == 1) {
		memcpy(dst, src, len_bytes);
		return;
	}
	switch (len_bytes) {
	case 64:
		copy_strip(dst, dst_stride, src, src_stride, 64, count);
		break;
	case 128:
		copy_strip(dst, dst_stride, src, src_stride, 128, count);
		break;
	case 256:
		copy_strip(dst, dst_stride, src, src_stride, 256, count);
		break;
	default:
		copy_strip(dst, dst_stride, src, src_stride, len_bytes, count);
		break;
	}
}

#if defined(__x86_64__)

/* dst is aligned to a line, len_bytes is a multiple of it. */
__attribute__((target("avx512f"))) static void stream_lines_avx512(
	char *dst, const char *src, uint64_t len_bytes)
{
	uint64_t i = 0;

	for (; i + 4 * LINE_BYTES <= len_bytes; i += 4 * LINE_BYTES) {
		__m512i a = _mm512_loadu_si512(src + i);
		__m512i b = _mm512_loadu_si512(src + i + 64);
		__m512i c = _mm512_loadu_si512(src + i + 128);
		__m512i d = _mm512_loadu_si512(src + i + 192);

		_mm512_stream_si512((__m512i *)(void *)(dst + i), a);
		_mm512_stream_si512((__m512i *)(void *)(dst + i + 64), b);
		_mm512_stream_si512((__m512i *)(void *)(dst + i + 128), c);
		_mm512_stream_si512((__m512i *)(void *)(dst + i + 192), d);
	}
	for (; i < len_bytes; i += LINE_BYTES)
		_mm512_stream_si512((__m512i *)(void *)(dst + i), _mm512_loadu_si512(src + i));
}

static void stream_lines_sse2(char *dst, const char *src, uint64_t len_bytes)
{
	for (uint64_t i = 0; i < len_bytes; i += LINE_BYTES) {
		__m128i a = _mm_loadu_si128((const __m128i *)(const void *)(src + i));
		__m128i b = _mm_loadu_si128((const __m128i *)(const void *)(src + i + 16));
		__m128i c = _mm_loadu_si128((const __m128i *)(const void *)(src + i + 32));
		__m128i d = _mm_loadu_si128((const __m128i *)(const void *)(src + i + 48));

		_mm_stream_si128((__m128i *)(void *)(dst + i), a);
		_mm_stream_si128((__m128i *)(void *)(dst + i + 16), b);
		_mm_stream_si128((__m128i *)(void *)(dst + i + 32), c);
		_mm_stream_si128((__m128i *)(void *)(dst + i + 48), d);
	}
}

/* Head and tail up to the line borders go through the cache. */
static inline __attribute__((always_inline)) void stream_run(
	char *dst, const char *src, uint64_t len_bytes, bool avx512)
{
	uint64_t head = (0 - (uintptr_t)dst) % LINE_BYTES;
	uint64_t body = (len_bytes - head) & ~(uint64_t)(LINE_BYTES - 1);

	if (head != 0)
		memcpy(dst, src, head);
	if (avx512)
		stream_lines_avx512(dst + head, src + head, body);
	else
		stream_lines_sse2(dst + head, src + head, body);
	if (head + body != len_bytes)
		memcpy(dst + head + body, src + head + body, len_bytes - head - body);
}

void kvfi_host_copy_bulk(void *dst, int64_t dst_stride, const void *src, int64_t src_stride,
	uint64_t len_bytes, uint64_t count)
{
	bool avx512;

	if (len_bytes < KVFI_HOST_STREAM_BYTES) {
		kvfi_host_copy(dst, dst_stride, src, src_stride, len_bytes, count);
		return;
	}
	avx512 = __builtin_cpu_supports("avx512f") != 0;
	for (uint64_t i = 0; i < count; i++) {
		if (i + AHEAD_RUNS < count)
			prefetch_source(at(src, src_stride, i + AHEAD_RUNS), ahead_of(len_bytes));
		stream_run(
			(char *)(uintptr_t)at(dst, dst_stride, i), at(src, src_stride, i), len_bytes, avx512);
	}
}

void kvfi_host_fence(void)
{
	_mm_sfence();
	atomic_thread_fence(memory_order_seq_cst);
}

#else

void kvfi_host_copy_bulk(void *dst, int64_t dst_stride, const void *src, int64_t src_stride,
	uint64_t len_bytes, uint64_t count)
{
	kvfi_host_copy(dst, dst_stride, src, src_stride, len_bytes, count);
}

void kvfi_host_fence(void)
{
	atomic_thread_fence(memory_order_seq_cst);
}

#endif

#define SUM_KEY UINT64_C(0x9e3779b97f4a7c15)

static inline uint64_t load_word(const unsigned char *memory)
{
	uint64_t word;

	memcpy(&word, memory, sizeof(word));
	return word;
}

typedef uint64_t lanes __attribute__((vector_size(16)));

/* sum of w[i] and sum of i * w[i] over n words, n a multiple of 8, by additions alone: a lane that adds its running total to a second one
 * counts its first word most often, n/8 times in all. */
static void weigh_words(const unsigned char *memory, uint64_t n, uint64_t *plain_out, uint64_t *weighted_out)
{
	lanes total[4] = {{0}}, often[4] = {{0}};
	uint64_t plain = 0, weighted = 0, rows = n / 8;

	for (uint64_t row = 0; row < rows; row++) {
		for (uint32_t j = 0; j < 4; j++) {
			lanes word;

			memcpy(&word, memory + row * 64 + j * 16, sizeof(word));
			total[j] += word;
			often[j] += total[j];
		}
	}
	for (uint32_t j = 0; j < 8; j++) {
		uint64_t sum = total[j / 2][j % 2];

		/* often = sum of (rows - row) * w; the word's index is 8 * row + j. */
		plain += sum;
		weighted += 8 * (rows * sum - often[j / 2][j % 2]) + j * sum;
	}
	*plain_out = plain;
	*weighted_out = weighted;
}

/* n whole words, the first of which is word k of the stream; without the factor SUM_KEY. */
static uint64_t sum_words(const unsigned char *memory, uint64_t n, uint64_t k)
{
	uint64_t sum = 0, done = n & ~UINT64_C(7);

	if (done != 0) {
		uint64_t plain, weighted;

		weigh_words(memory, done, &plain, &weighted);
		sum = plain * (2 * k + 1) + 2 * weighted;
	}
	for (; done < n; done++)
		sum += load_word(memory + done * 8) * (2 * (k + done) + 1);
	return sum;
}

/* Fewer than 8 bytes inside word pos/8. */
static uint64_t sum_part(const unsigned char *memory, uint64_t len_bytes, uint64_t pos)
{
	uint64_t word = 0;

	for (uint64_t i = 0; i < len_bytes; i++)
		word |= (uint64_t)memory[i] << (8 * ((pos + i) % 8));
	return word * (2 * (pos / 8) + 1);
}

uint64_t kvfi_host_sum(const void *memory, uint64_t len_bytes, uint64_t pos)
{
	const unsigned char *bytes = memory;
	uint64_t head = kvfi_min_u64((8 - pos % 8) % 8, len_bytes);
	uint64_t words = (len_bytes - head) / 8;
	uint64_t tail = len_bytes - head - words * 8;
	uint64_t sum = 0;

	if (head != 0)
		sum += sum_part(bytes, head, pos);
	sum += sum_words(bytes + head, words, (pos + head) / 8);
	if (tail != 0)
		sum += sum_part(bytes + head + words * 8, tail, pos + head + words * 8);
	return sum * SUM_KEY;
}

/* One run, a part of it at a time, so that the copy finds in the nearest cache what the sum has just read. */
static uint64_t copy_sum_run(const struct kvfi_host_move *strip, uint64_t i, bool bulk)
{
	char *dst = (char *)(uintptr_t)at(strip->dst, strip->dst_stride, i);
	const char *src = at(strip->src, strip->src_stride, i);
	uint64_t pos = strip->pos + (uint64_t)strip->pos_stride * i;
	uint64_t sum = 0, len_bytes;

	for (uint64_t done = 0; done < strip->len_bytes; done += len_bytes) {
		len_bytes = kvfi_min_u64(strip->len_bytes - done, SUM_PART_BYTES);
		sum += kvfi_host_sum(src + done, len_bytes, pos + done);
		if (bulk)
			kvfi_host_copy_bulk(dst + done, 0, src + done, 0, len_bytes, 1);
		else
			memcpy(dst + done, src + done, len_bytes);
	}
	return sum;
}

uint64_t kvfi_host_copy_sum(const struct kvfi_host_move *strip, bool bulk)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < strip->count; i++) {
		if (i + AHEAD_RUNS < strip->count)
			prefetch_source(at(strip->src, strip->src_stride, i + AHEAD_RUNS),
				ahead_of(strip->len_bytes));
		sum += copy_sum_run(strip, i, bulk);
	}
	return sum;
}
