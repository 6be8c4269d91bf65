/* wire_ticket.c - tickets come back as they were made, and damaged ones are refused by name. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/hash.h"
#include "wire/codec.h"

static const char *const endpoints[] = {
	"ipc:///run/user/1000/kvferry/prefill-0", "tcp://127.0.0.1:40001", ""};

static struct kvfi_ticket example(void)
{
	struct kvfi_ticket ticket = {.info = {.instance_id = UINT64_C(0xfedcba9876543210),
					     .request_id = UINT64_MAX - 1,
					     .attempt = UINT32_MAX,
					     .dp_index = 3,
					     .prompt_len = KVF_MAX_TOKENS,
					     .expires_unix_ns = UINT64_C(1795170000000000001)},
		.n_endpoints = 3};

	for (uint32_t i = 0; i < 3; i++)
		ticket.endpoints[i] = endpoints[i];
	return ticket;
}

static size_t encoded(unsigned char *bytes)
{
	const struct kvfi_ticket ticket = example();
	size_t len = 0;

	assert_int_equal(kvfi_ticket_encode(&ticket, bytes, KVF_TICKET_MAX_BYTES, &len), KVF_OK);
	return len;
}

/* A copy of exactly that size on the heap, so that a sanitizer sees a read beyond its end. */
static enum kvf_status decode_exact(const unsigned char *bytes, size_t len)
{
	unsigned char *exact = malloc(len == 0 ? 1 : len);
	struct kvfi_ticket ticket;
	enum kvf_status status;

	assert_non_null(exact);
	memcpy(exact, bytes, len);
	status = kvfi_ticket_decode(exact, len, &ticket);
	free(exact);
	return status;
}

static void ticket_survives_the_round_trip(void **state)
{
	unsigned char bytes[KVF_TICKET_MAX_BYTES];
	const size_t len = encoded(bytes);
	const struct kvfi_ticket before = example();
	struct kvf_ticket_info info;
	struct kvfi_ticket after;

	(void)state;
	assert_int_equal(kvfi_ticket_decode(bytes, len, &after), KVF_OK);
	assert_memory_equal(&after.info, &before.info, sizeof(after.info));
	assert_int_equal(after.n_endpoints, 3);
	for (uint32_t i = 0; i < 3; i++)
		assert_string_equal(after.endpoints[i], endpoints[i]);
	assert_int_equal(kvf_ticket_read(bytes, len, &info), KVF_OK);
	assert_memory_equal(&info, &before.info, sizeof(info));
}

/* Bytes made by another program after docs/wire.md: a change of the format does not go unnoticed. */
static void the_bytes_are_those_of_the_documentation(void **state)
{
	static const char hex[] =
		"4b564654010001005700000007000000887766554433221100ffeeddccbbaa99e803000000000000"
		"f5e4d3c2b1a0e918030000000000000015007463703a2f2f3132372e302e302e313a343030303120"
		"3c377890c30896";
	unsigned char bytes[KVF_TICKET_MAX_BYTES], expected[sizeof(hex) / 2];
	struct kvfi_ticket ticket = {.info = {.instance_id = UINT64_C(0x1122334455667788),
					     .request_id = UINT64_C(0x99aabbccddeeff00),
					     .attempt = 7,
					     .dp_index = 3,
					     .prompt_len = 1000,
					     .expires_unix_ns = UINT64_C(0x18e9a0b1c2d3e4f5)},
		.n_endpoints = 1,
		.endpoints = {"tcp://127.0.0.1:40001"}};
	size_t len;

	(void)state;
	for (size_t i = 0; i < sizeof(expected); i++) {
		const char digits[3] = {hex[2 * i], hex[2 * i + 1], '\0'};

		expected[i] = (unsigned char)strtoul(digits, NULL, 16);
	}
	assert_int_equal(kvfi_ticket_encode(&ticket, bytes, sizeof(bytes), &len), KVF_OK);
	assert_int_equal(len, sizeof(expected));
	assert_memory_equal(bytes, expected, len);
}

static void ticket_with_an_unknown_dp_index_and_no_endpoint(void **state)
{
	unsigned char bytes[KVF_TICKET_MAX_BYTES];
	struct kvfi_ticket ticket = example(), after;
	size_t len;

	(void)state;
	ticket.info.dp_index = KVF_DP_UNKNOWN;
	ticket.n_endpoints = 0;
	assert_int_equal(kvfi_ticket_encode(&ticket, bytes, sizeof(bytes), &len), KVF_OK);
	assert_int_equal(kvfi_ticket_decode(bytes, len, &after), KVF_OK);
	assert_int_equal(after.info.dp_index, KVF_DP_UNKNOWN);
	assert_int_equal(after.n_endpoints, 0);
}

static void every_flipped_bit_is_refused(void **state)
{
	unsigned char bytes[KVF_TICKET_MAX_BYTES];
	const size_t len = encoded(bytes);

	(void)state;
	for (size_t bit = 0; bit < len * 8; bit++) {
		bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
		assert_int_equal(decode_exact(bytes, len), KVF_ETICKET);
		bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
	}
	assert_int_equal(decode_exact(bytes, len), KVF_OK);
}

static void every_truncation_is_refused_and_so_is_an_extra_byte(void **state)
{
	unsigned char bytes[KVF_TICKET_MAX_BYTES + 1] = {0};
	const size_t len = encoded(bytes);

	(void)state;
	for (size_t cut = 0; cut < len; cut++)
		assert_int_equal(decode_exact(bytes, cut), KVF_ETICKET);
	assert_int_equal(decode_exact(bytes, len + 1), KVF_ETICKET);
}

static void another_version_names_both(void **state)
{
	unsigned char bytes[KVF_TICKET_MAX_BYTES];
	const size_t len = encoded(bytes);

	(void)state;
	bytes[4] = 7;
	assert_int_equal(decode_exact(bytes, len), KVF_ETICKET);
	assert_non_null(strstr(kvf_error(), "version"));
	assert_non_null(strstr(kvf_error(), "7"));
	assert_non_null(strstr(kvf_error(), "1"));
}

/* Fields that no encoder writes, under a right hash: counts and lengths that lie, a NUL inside, reserved bits. */
static void fields_are_checked_even_when_the_hash_is_right(void **state)
{
	static const struct {
		size_t offset;
		unsigned char value;
		const char *names;
	} changes[] = {{6, 17, "n_endpoints"}, {6, 4, "endpoint 3"}, {6, 2, "too many"},
		{37, 1, "prompt_len"}, {49, 0x20, "dp_index"}, {52, 1, "reserved"}, {57, 255, "endpoint 0"},
		{60, 0, "endpoint 0"}};
	unsigned char bytes[KVF_TICKET_MAX_BYTES];
	const size_t len = encoded(bytes);

	(void)state;
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		unsigned char changed[KVF_TICKET_MAX_BYTES];
		uint64_t hash;

		memcpy(changed, bytes, len);
		changed[changes[i].offset] = changes[i].value;
		hash = kvfi_hash_bytes(UINT64_C(0x74656b6369746b76), changed, len - 8);
		for (unsigned b = 0; b < 8; b++)
			changed[len - 8 + b] = (unsigned char)(hash >> (8 * b));
		assert_int_equal(decode_exact(changed, len), KVF_ETICKET);
		assert_non_null(strstr(kvf_error(), changes[i].names));
	}
}

static void what_does_not_fit_is_refused_when_it_is_made(void **state)
{
	unsigned char bytes[KVF_TICKET_MAX_BYTES];
	char longest[3072];
	struct kvfi_ticket ticket = example();
	size_t len = 99;

	(void)state;
	assert_int_equal(kvfi_ticket_encode(&ticket, bytes, 100, &len), KVF_EFULL);
	ticket.info.dp_index = KVF_MAX_RANKS;
	assert_int_equal(kvfi_ticket_encode(&ticket, bytes, sizeof(bytes), &len), KVF_EINVAL);
	ticket = example();
	ticket.info.prompt_len = KVF_MAX_TOKENS + 1;
	assert_int_equal(kvfi_ticket_encode(&ticket, bytes, sizeof(bytes), &len), KVF_EINVAL);
	ticket = example();
	ticket.n_endpoints = 17;
	assert_int_equal(kvfi_ticket_encode(&ticket, bytes, sizeof(bytes), &len), KVF_EINVAL);
	ticket = example();
	memset(longest, 'x', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	ticket.endpoints[0] = longest;
	assert_int_equal(kvfi_ticket_encode(&ticket, bytes, sizeof(bytes), &len), KVF_EINVAL);
	ticket.n_endpoints = 1;
	assert_int_equal(len, 99);
	assert_int_equal(kvfi_ticket_encode(&ticket, bytes, sizeof(bytes), &len), KVF_OK);
	assert_int_equal(decode_exact(bytes, len), KVF_OK);
}

static void reading_nothing_is_misuse(void **state)
{
	struct kvf_ticket_info info;

	(void)state;
	assert_int_equal(kvf_ticket_read(NULL, 10, &info), KVF_EINVAL);
	assert_int_equal(kvf_ticket_read("x", 1, NULL), KVF_EINVAL);
	assert_int_equal(kvf_ticket_read("x", 0, &info), KVF_ETICKET);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ticket_survives_the_round_trip),
		cmocka_unit_test(the_bytes_are_those_of_the_documentation),
		cmocka_unit_test(ticket_with_an_unknown_dp_index_and_no_endpoint),
		cmocka_unit_test(every_flipped_bit_is_refused),
		cmocka_unit_test(every_truncation_is_refused_and_so_is_an_extra_byte),
		cmocka_unit_test(another_version_names_both),
		cmocka_unit_test(fields_are_checked_even_when_the_hash_is_right),
		cmocka_unit_test(what_does_not_fit_is_refused_when_it_is_made),
		cmocka_unit_test(reading_nothing_is_misuse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
