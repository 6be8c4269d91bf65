/* wire_pack_scan.c - the look at msgpack bytes before a parser that allocates gets them. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/hash.h"
#include "wire/frame.h"

struct sample {
	const char *bytes;
	size_t len;
};

#define SAMPLE(text)                                                                                         \
	{                                                                                                    \
		text, sizeof(text) - 1                                                                       \
	}

/* From a heap block of exactly that size, so that a sanitizer sees a read beyond its end. */
static enum kvf_status scan_exact(const void *bytes, size_t len)
{
	unsigned char *exact = malloc(len == 0 ? 1 : len);
	enum kvf_status status;

	assert_non_null(exact);
	memcpy(exact, bytes, len);
	status = kvfi_pack_scan(exact, len);
	free(exact);
	return status;
}

/* One of every tag, at its smallest and with something in it. */
static const struct sample whole[] = {SAMPLE("\x00"), SAMPLE("\x7f"), SAMPLE("\xe0"), SAMPLE("\xff"),
	SAMPLE("\x80"), SAMPLE("\x90"), SAMPLE("\xa0"), SAMPLE("\x81\x01\x02"), SAMPLE("\x92\x01\xc0"),
	SAMPLE("\xa3xyz"), SAMPLE("\xc0"), SAMPLE("\xc2"), SAMPLE("\xc3"), SAMPLE("\xc4\x00"),
	SAMPLE("\xc4\x02xx"), SAMPLE("\xc5\x00\x02xx"), SAMPLE("\xc6\x00\x00\x00\x01x"), SAMPLE("\xc7\x00t"),
	SAMPLE("\xc7\x02txx"), SAMPLE("\xc8\x00\x01tx"), SAMPLE("\xc9\x00\x00\x00\x01tx"), SAMPLE("\xca xxx"),
	SAMPLE("\xcb xxxxxxx"), SAMPLE("\xcc\xff"), SAMPLE("\xcd\xff\xff"), SAMPLE("\xce\xff\xff\xff\xff"),
	SAMPLE("\xcf\xff\xff\xff\xff\xff\xff\xff\xff"), SAMPLE("\xd0\x80"), SAMPLE("\xd1\x80\x00"),
	SAMPLE("\xd2\x80\x00\x00\x00"), SAMPLE("\xd3\x80\x00\x00\x00\x00\x00\x00\x00"), SAMPLE("\xd4tx"),
	SAMPLE("\xd5txx"), SAMPLE("\xd6txxxx"), SAMPLE("\xd7txxxxxxxx"), SAMPLE("\xd8txxxxxxxxxxxxxxxx"),
	SAMPLE("\xd9\x01x"), SAMPLE("\xda\x00\x01x"), SAMPLE("\xdb\x00\x00\x00\x01x"),
	SAMPLE("\xdc\x00\x01\x05"), SAMPLE("\xdd\x00\x00\x00\x01\x05"), SAMPLE("\xde\x00\x01\x05\x06"),
	SAMPLE("\xdf\x00\x00\x00\x01\x05\x06"), SAMPLE("\xde\x00\x00"),
	SAMPLE("\x82\xa1"
	       "a\x92\x80\x91\x81\x01\x02\xa1z\xc0")};

static void every_tag_is_passed_whole_and_refused_cut_or_padded(void **state)
{
	unsigned char padded[64];

	(void)state;
	for (size_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++) {
		if (scan_exact(whole[i].bytes, whole[i].len) != KVF_OK)
			fail_msg("sample %zu: %s", i, kvf_error());
		for (size_t cut = 0; cut < whole[i].len; cut++)
			assert_int_equal(scan_exact(whole[i].bytes, cut), KVF_PROTOCOL);
		memcpy(padded, whole[i].bytes, whole[i].len);
		padded[whole[i].len] = 0xc0;
		assert_int_equal(scan_exact(padded, whole[i].len + 1), KVF_PROTOCOL);
	}
}

static void counts_beyond_the_bytes_are_refused(void **state)
{
	static const struct sample lies[] = {SAMPLE("\xdd\xff\xff\xff\xff"), SAMPLE("\xdf\xff\xff\xff\xff"),
		SAMPLE("\xdf\x80\x00\x00\x00\x01\x01"), SAMPLE("\xc6\xff\xff\xff\xff"),
		SAMPLE("\xdb\xff\xff\xff\xff"), SAMPLE("\xc9\xff\xff\xff\xff"), SAMPLE("\xdc\xff\xff\x01"),
		SAMPLE("\xde\x00\x02\x01\x01\x01"), SAMPLE("\x9f\x01\x01"),
		SAMPLE("\x92\xdd\x00\x00\x00\x02\x01"), SAMPLE("\xc1"), SAMPLE("\x91\xc1")};

	(void)state;
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		assert_int_equal(scan_exact(lies[i].bytes, lies[i].len), KVF_PROTOCOL);
		assert_non_null(strstr(kvf_error(), "msgpack: "));
	}
}

static void depth_is_bounded(void **state)
{
	unsigned char nested[4096];

	(void)state;
	memset(nested, 0x91, sizeof(nested));
	nested[KVFI_PACK_MAX_DEPTH] = 0x01;
	assert_int_equal(scan_exact(nested, KVFI_PACK_MAX_DEPTH + 1), KVF_OK);
	nested[KVFI_PACK_MAX_DEPTH] = 0x91;
	nested[KVFI_PACK_MAX_DEPTH + 1] = 0x01;
	assert_int_equal(scan_exact(nested, KVFI_PACK_MAX_DEPTH + 2), KVF_PROTOCOL);
	assert_non_null(strstr(kvf_error(), "deeper"));
	nested[KVFI_PACK_MAX_DEPTH + 1] = 0x91;
	assert_int_equal(scan_exact(nested, sizeof(nested)), KVF_PROTOCOL);
}

static void the_number_of_objects_is_bounded(void **state)
{
	const uint32_t n = KVFI_PACK_MAX_OBJECTS;
	unsigned char *bytes = calloc(1, n + 5);

	(void)state;
	assert_non_null(bytes);
	bytes[0] = 0xdd;
	for (unsigned i = 0; i < 4; i++)
		bytes[1 + i] = (unsigned char)((n - 1) >> (24 - 8 * i));
	assert_int_equal(scan_exact(bytes, n - 1 + 5), KVF_OK);
	for (unsigned i = 0; i < 4; i++)
		bytes[1 + i] = (unsigned char)(n >> (24 - 8 * i));
	assert_int_equal(scan_exact(bytes, n + 5), KVF_PROTOCOL);
	assert_non_null(strstr(kvf_error(), "objects"));
	free(bytes);
}

static void random_bytes_never_crash(void **state)
{
	unsigned passed = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 200000; seed++) {
		unsigned char bytes[24];
		const size_t len = kvfi_mix64(seed) % sizeof(bytes);

		for (size_t i = 0; i < len; i++)
			bytes[i] = (unsigned char)kvfi_mix64(seed * 64 + i);
		passed += scan_exact(bytes, len) == KVF_OK;
	}
	assert_true(passed > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_tag_is_passed_whole_and_refused_cut_or_padded),
		cmocka_unit_test(counts_beyond_the_bytes_are_refused),
		cmocka_unit_test(depth_is_bounded),
		cmocka_unit_test(the_number_of_objects_is_bounded),
		cmocka_unit_test(random_bytes_never_crash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
