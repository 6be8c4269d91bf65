/* device_host.c - strips arrive whole and alone; the sum is the one that host.h defines, wherever it is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/hash.h"
#include "device/host.h"

#define CANARY 0xee

typedef void (*copy_fn)(void *, int64_t, const void *, int64_t, uint64_t, uint64_t);

static void fill(unsigned char *memory, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i++)
		memory[i] = (unsigned char)kvfi_mix64(seed + i);
}

static void check_strip(copy_fn copy, uint64_t len, uint64_t count, uint64_t gap, uint64_t shift)
{
	uint64_t src_stride = len + 3 * gap, dst_stride = len + gap;
	size_t src_bytes = src_stride * count + shift + 1, dst_bytes = dst_stride * count + shift + 1;
	unsigned char *src = malloc(src_bytes), *dst = malloc(dst_bytes), *want = malloc(dst_bytes);

	assert_true(src != NULL && dst != NULL && want != NULL);
	fill(src, src_bytes, len);
	memset(dst, CANARY, dst_bytes);
	memset(want, CANARY, dst_bytes);
	for (uint64_t i = 0; i < count; i++)
		memcpy(want + shift + i * dst_stride, src + i * src_stride, len);
	copy(dst + shift, (int64_t)dst_stride, src, (int64_t)src_stride, len, count);
	kvfi_host_fence();
	assert_memory_equal(dst, want, dst_bytes);
	free(src);
	free(dst);
	free(want);
}

static void every_length_arrives_whole_and_touches_nothing_else(void **state)
{
	static const uint64_t lens[] = {1, 2, 7, 8, 31, 63, 64, 65, 100, 127, 128, 191, 192, 193, 255, 256,
		257, 300, 511, 512, 576, 1000, 1024, 4095, 4096, 5000, 16384, 65537};
	static const uint64_t shifts[] = {0, 1, 8, 16, 63};

	(void)state;
	for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
		for (size_t j = 0; j < sizeof(shifts) / sizeof(*shifts); j++) {
			for (uint64_t count = 0; count <= 9; count += count < 2 ? 1 : 7) {
				check_strip(kvfi_host_copy, lens[i], count, 64 + shifts[j], shifts[j]);
				check_strip(kvfi_host_copy_bulk, lens[i], count, 64 + shifts[j], shifts[j]);
			}
		}
	}
}

static void strides_may_be_zero_or_negative(void **state)
{
	unsigned char src[1024], dst[1024];

	(void)state;
	fill(src, sizeof(src), 9);
	kvfi_host_copy_bulk(dst + 768, -256, src, 256, 256, 4);
	kvfi_host_fence();
	for (int i = 0; i < 4; i++)
		assert_memory_equal(dst + 768 - 256 * i, src + 256 * i, 256);
	kvfi_host_copy(dst, 256, src, 0, 256, 4); /* one run to four places */
	for (int i = 0; i < 4; i++)
		assert_memory_equal(dst + 256 * i, src, 256);
}

/* The definition, byte by byte. */
static uint64_t slow_sum(const unsigned char *memory, uint64_t len, uint64_t pos)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < len; i++) {
		uint64_t p = pos + i;

		sum += ((uint64_t)memory[i] << (8 * (p % 8))) *
		       ((p / 8 * 2 + 1) * UINT64_C(0x9e3779b97f4a7c15));
	}
	return sum;
}

static void sum_follows_its_definition_at_every_position_and_length(void **state)
{
	unsigned char memory[700];

	(void)state;
	fill(memory, sizeof(memory), 1);
	for (uint64_t pos = 0; pos < 20; pos++) {
		for (uint64_t len = 0; len < 300; len++)
			assert_int_equal(kvfi_host_sum(memory + pos % 5, len, pos),
				slow_sum(memory + pos % 5, len, pos));
	}
	assert_int_equal(kvfi_host_sum(memory, 700, UINT64_C(0x123456789abcd)),
		slow_sum(memory, 700, UINT64_C(0x123456789abcd)));
}

static void sums_of_pieces_add_up(void **state)
{
	enum {
		LEN = 100000
	};
	unsigned char *memory = malloc(LEN);
	uint64_t whole, sum = 0, pos = 0;

	(void)state;
	assert_non_null(memory);
	fill(memory, LEN, 2);
	whole = kvfi_host_sum(memory, LEN, 77);
	assert_int_equal(whole, slow_sum(memory, LEN, 77));
	while (pos < LEN) {
		uint64_t len = kvfi_mix64(pos) % 3000 + 1;

		if (len > LEN - pos)
			len = LEN - pos;
		sum += kvfi_host_sum(memory + pos, len, 77 + pos);
		pos += len;
	}
	assert_int_equal(sum, whole);
	memory[50000] ^= 1;
	assert_int_not_equal(kvfi_host_sum(memory, LEN, 77), whole);
	free(memory);
}

static void copying_with_a_sum_does_both(void **state)
{
	static const uint64_t lens[] = {1, 7, 64, 100, 191, 192, 512, 8192, 8193, 70000};

	(void)state;
	for (size_t i = 0; i < 2 * sizeof(lens) / sizeof(*lens); i++) {
		uint64_t len = lens[i / 2], count = 6, want = 0;
		unsigned char *src = malloc(2 * len * count), *dst = malloc(2 * len * count);
		struct kvfi_host_move strip = {.dst = dst,
			.src = src,
			.dst_stride = (int64_t)len,
			.src_stride = (int64_t)(2 * len),
			.len_bytes = len,
			.count = count,
			.pos = 13,
			.pos_stride = (int64_t)(3 * len)};

		assert_true(src != NULL && dst != NULL);
		fill(src, 2 * len * count, i);
		kvfi_host_prefetch(src, strip.src_stride, len, count);
		for (uint64_t k = 0; k < count; k++)
			want += slow_sum(src + 2 * len * k, len, 13 + 3 * len * k);
		assert_int_equal(kvfi_host_copy_sum(&strip, i % 2 == 1), want);
		kvfi_host_fence();
		for (uint64_t k = 0; k < count; k++)
			assert_memory_equal(dst + len * k, src + 2 * len * k, len);
		free(src);
		free(dst);
	}
}

static void swapped_pieces_change_the_sum(void **state)
{
	unsigned char memory[128], swapped[128];

	(void)state;
	fill(memory, sizeof(memory), 3);
	memcpy(swapped, memory + 64, 64);
	memcpy(swapped + 64, memory, 64);
	assert_int_not_equal(kvfi_host_sum(memory, 128, 0), kvfi_host_sum(swapped, 128, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_length_arrives_whole_and_touches_nothing_else),
		cmocka_unit_test(strides_may_be_zero_or_negative),
		cmocka_unit_test(sum_follows_its_definition_at_every_position_and_length),
		cmocka_unit_test(sums_of_pieces_add_up),
		cmocka_unit_test(copying_with_a_sum_does_both),
		cmocka_unit_test(swapped_pieces_change_the_sum),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
