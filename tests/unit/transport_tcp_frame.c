/* transport_tcp_frame.c - the codec of the tcp data stream: what is put is got, and nothing else is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "transport/tcp_frame.h"

static void greetings_come_back(void **state)
{
	struct kvfi_tcp_greeting put = {.type = KVFI_TCP_WELCOME,
		.status = KVF_REFUSED,
		.from = 1,
		.to = UINT64_MAX,
		.link = 0x0123456789abcdef,
		.nonce = 42,
		.rail = 7};
	unsigned char bytes[KVFI_TCP_GREETING_BYTES];
	struct kvfi_tcp_greeting got;

	(void)state;
	kvfi_tcp_put_greeting(bytes, &put);
	assert_memory_equal(bytes, "KVDT\1\0\2\0", 8);
	assert_int_equal(kvfi_tcp_get_greeting(bytes, &got), KVF_OK);
	assert_int_equal(got.type, put.type);
	assert_int_equal(got.status, put.status);
	assert_true(got.from == put.from && got.to == put.to && got.link == put.link);
	assert_true(got.nonce == put.nonce && got.rail == put.rail);
}

static void another_version_is_told_from_garbage(void **state)
{
	struct kvfi_tcp_greeting put = {.type = KVFI_TCP_HELLO, .nonce = 42}, got = {0};
	unsigned char bytes[KVFI_TCP_GREETING_BYTES];

	(void)state;
	kvfi_tcp_put_greeting(bytes, &put);
	bytes[4] = 9;
	assert_int_equal(kvfi_tcp_get_greeting(bytes, &got), KVF_PEER_VERSION);
	assert_non_null(strstr(kvf_error(), "version 9"));
	assert_int_equal(got.nonce, 42);
	bytes[0] = 'X';
	assert_int_equal(kvfi_tcp_get_greeting(bytes, &got), KVF_PROTOCOL);
}

static void greetings_that_make_no_sense_are_refused(void **state)
{
	struct kvfi_tcp_greeting put = {.type = KVFI_TCP_HELLO}, got;
	unsigned char bytes[KVFI_TCP_GREETING_BYTES];

	(void)state;
	put.status = KVF_REFUSED; /* a HELLO has none */
	kvfi_tcp_put_greeting(bytes, &put);
	assert_int_equal(kvfi_tcp_get_greeting(bytes, &got), KVF_PROTOCOL);
	put.status = KVF_OK;
	put.type = KVFI_TCP_DATA;
	kvfi_tcp_put_greeting(bytes, &put);
	assert_int_equal(kvfi_tcp_get_greeting(bytes, &got), KVF_PROTOCOL);
	put.type = KVFI_TCP_HELLO;
	kvfi_tcp_put_greeting(bytes, &put);
	bytes[KVFI_TCP_GREETING_BYTES - 1] = 1;
	assert_int_equal(kvfi_tcp_get_greeting(bytes, &got), KVF_PROTOCOL);
}

static enum kvf_status back(const struct kvfi_tcp_header *put)
{
	unsigned char bytes[KVFI_TCP_HEADER_BYTES];
	struct kvfi_tcp_header got;
	enum kvf_status status;

	kvfi_tcp_put_header(bytes, put);
	status = kvfi_tcp_get_header(bytes, &got);
	if (status != KVF_OK)
		return status;
	assert_int_equal(got.type, put->type);
	assert_int_equal(got.length, put->length);
	assert_true(got.epoch == put->epoch && got.position == put->position);
	assert_int_equal(got.slice, put->slice);
	assert_int_equal(got.flags, put->flags);
	return KVF_OK;
}

static void headers_come_back(void **state)
{
	struct kvfi_tcp_header header = {KVFI_TCP_DATA, 1, UINT64_MAX, 5, 0, UINT64_MAX - 1};

	(void)state;
	assert_int_equal(back(&header), KVF_OK);
	header.length = KVFI_TCP_DATA_MAX_BYTES;
	assert_int_equal(back(&header), KVF_OK);
	header = (struct kvfi_tcp_header){KVFI_TCP_SLICE, KVFI_TCP_SLICE_MAX_BYTES, 1, 2, KVFI_TCP_SUM, 3};
	assert_int_equal(back(&header), KVF_OK);
	header = (struct kvfi_tcp_header){KVFI_TCP_ABORT, 0, 1, 2, (uint32_t)KVF_CANCELLED, 0};
	assert_int_equal(back(&header), KVF_OK);
}

static void headers_out_of_bounds_are_refused(void **state)
{
	static const struct kvfi_tcp_header wrong[] = {
		{KVFI_TCP_DATA, 0, 0, 0, 0, 0},
		{KVFI_TCP_DATA, KVFI_TCP_DATA_MAX_BYTES + 1, 0, 0, 0, 0},
		{KVFI_TCP_DATA, UINT32_MAX, 0, 0, 0, 0},
		{KVFI_TCP_DATA, 1, 0, 0, 1, 0},
		{KVFI_TCP_SLICE, KVFI_TCP_SLICE_BYTES, 0, 0, 0, 1},
		{KVFI_TCP_SLICE, KVFI_TCP_SLICE_BYTES + KVFI_TCP_RANGE_BYTES + 1, 0, 0, 0, 1},
		{KVFI_TCP_SLICE, KVFI_TCP_SLICE_MAX_BYTES + KVFI_TCP_RANGE_BYTES, 0, 0, 0, 1},
		{KVFI_TCP_SLICE, KVFI_TCP_SLICE_MAX_BYTES, 0, 0, 2, 1},
		{KVFI_TCP_SLICE, KVFI_TCP_SLICE_MAX_BYTES, 0, 0, 0, 0},
		{KVFI_TCP_ABORT, 1, 0, 0, (uint32_t)KVF_CANCELLED, 0},
		{KVFI_TCP_ABORT, 0, 0, 0, 0, 0},
		{KVFI_TCP_ABORT, 0, 0, 0, 21, 0},
		{KVFI_TCP_HELLO, 0, 0, 0, 0, 0},
		{(enum kvfi_tcp_type)0, 0, 0, 0, 0, 0},
		{(enum kvfi_tcp_type)77, 0, 0, 0, 0, 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		assert_int_equal(back(&wrong[i]), KVF_PROTOCOL);
}

static struct kvfi_tcp_slice two_ranges(void)
{
	return (struct kvfi_tcp_slice){.request_id = UINT64_MAX,
		.attempt = 2,
		.lease_slot = 3,
		.lease_generation = 4,
		.layer_start = 5,
		.layer_end = 6,
		.n_ranges = 2,
		.ranges = {{0, 0, KVF_MAX_TOKENS}, {KVF_MAX_GROUPS - 1, 7, 8}}};
}

static void slices_come_back(void **state)
{
	unsigned char bytes[KVFI_TCP_SLICE_MAX_BYTES];
	struct kvfi_tcp_slice put = two_ranges(), got;

	(void)state;
	assert_int_equal(kvfi_tcp_put_slice(bytes, &put), KVFI_TCP_SLICE_BYTES + 2 * KVFI_TCP_RANGE_BYTES);
	assert_int_equal(
		kvfi_tcp_get_slice(bytes, KVFI_TCP_SLICE_BYTES + 2 * KVFI_TCP_RANGE_BYTES, &got), KVF_OK);
	assert_true(got.request_id == put.request_id && got.attempt == 2);
	assert_true(got.lease_slot == 3 && got.lease_generation == 4);
	assert_true(got.layer_start == 5 && got.layer_end == 6 && got.n_ranges == 2);
	assert_true(got.ranges[0].token_end == KVF_MAX_TOKENS && got.ranges[1].token_first == 7);
}

static void slices_whose_count_and_length_differ_are_refused(void **state)
{
	unsigned char bytes[KVFI_TCP_SLICE_MAX_BYTES] = {0};
	struct kvfi_tcp_slice put = two_ranges(), got;
	uint32_t length = kvfi_tcp_put_slice(bytes, &put);

	(void)state;
	for (uint32_t n = 0; n < 70; n++) {
		bytes[28] = (unsigned char)n;
		assert_int_equal(kvfi_tcp_get_slice(bytes, length, &got), n == 2 ? KVF_OK : KVF_PROTOCOL);
	}
	bytes[28] = 2;
	bytes[31] = 0x80;
	assert_int_equal(kvfi_tcp_get_slice(bytes, length, &got), KVF_PROTOCOL);
	assert_int_equal(kvfi_tcp_get_slice(bytes, 10, &got), KVF_PROTOCOL);
}

static void slices_whose_fields_are_out_of_bounds_are_refused(void **state)
{
	unsigned char bytes[KVFI_TCP_SLICE_MAX_BYTES];
	struct kvfi_tcp_slice got;

	(void)state;
	for (int i = 0; i < 5; i++) {
		struct kvfi_tcp_slice put = two_ranges();

		if (i == 0)
			put.layer_end = put.layer_start;
		else if (i == 1)
			put.layer_end = KVF_MAX_LAYERS + 1;
		else if (i == 2)
			put.ranges[1].group = KVF_MAX_GROUPS;
		else if (i == 3)
			put.ranges[1].token_end = put.ranges[1].token_first;
		else
			put.ranges[1].token_end = KVF_MAX_TOKENS + 1;
		assert_int_equal(
			kvfi_tcp_get_slice(bytes, kvfi_tcp_put_slice(bytes, &put), &got), KVF_PROTOCOL);
		assert_true(strlen(kvf_error()) > 0);
	}
}

static void addresses_come_back(void **state)
{
	static const char *const texts[] = {"127.0.0.1:0", "10.1.2.3:65535", "[::1]:4711", "[fe80::1:2]:1"};
	unsigned char bytes[KVFI_TCP_ADDRESS_BYTES];
	char text[KVFI_TCP_TEXT_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		struct kvfi_tcp_address put = {.host = 99}, got;

		assert_int_equal(kvfi_tcp_parse_address("data_listen", texts[i], &put), KVF_OK);
		kvfi_tcp_put_address(bytes, &put);
		assert_int_equal(kvfi_tcp_get_address(bytes, sizeof(bytes), &got), KVF_OK);
		kvfi_tcp_format_address(&got, text);
		assert_string_equal(text, texts[i]);
		assert_true(got.host == 99);
		assert_int_equal(kvfi_tcp_is_loopback(&got), i == 0 || i == 2);
		assert_false(kvfi_tcp_is_any(&got));
	}
}

static void texts_that_are_no_address_name_the_field(void **state)
{
	static const char *const texts[] = {"", ":", "127.0.0.1", "127.0.0.1:", "localhost:0",
		"127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:1x", "127.0.0.1: 1", "::1:0", "[::1]", "[::1]0",
		"[]:0", "[127.0.0.1]:0", "[::1:0", "1.2.3.4.5:0", "127.0.0.1:000001",
		"[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0001]:0"};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		struct kvfi_tcp_address address = {0};

		if (kvfi_tcp_parse_address("data_listen", texts[i], &address) != KVF_EINVAL)
			fail_msg("\"%s\" was taken for an address", texts[i]);
		assert_non_null(strstr(kvf_error(), "data_listen"));
		assert_non_null(strstr(kvf_error(), texts[i]));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(greetings_come_back),
		cmocka_unit_test(another_version_is_told_from_garbage),
		cmocka_unit_test(greetings_that_make_no_sense_are_refused),
		cmocka_unit_test(headers_come_back),
		cmocka_unit_test(headers_out_of_bounds_are_refused),
		cmocka_unit_test(slices_come_back),
		cmocka_unit_test(slices_whose_count_and_length_differ_are_refused),
		cmocka_unit_test(slices_whose_fields_are_out_of_bounds_are_refused),
		cmocka_unit_test(addresses_come_back),
		cmocka_unit_test(texts_that_are_no_address_name_the_field),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
