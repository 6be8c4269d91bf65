/* ticket.c - fuzz target: tickets. What decodes can be encoded, and to the same bytes.
 *
 * An input runs twice: as it is, and with length and check hash put right, so that mutations reach the fields.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/hash.h"
#include "wire/bytes.h"
#include "wire/codec.h"

#define HASH_SEED UINT64_C(0x74656b6369746b76)

static void decode(const uint8_t *data, size_t size)
{
	unsigned char bytes[KVF_TICKET_MAX_BYTES];
	struct kvf_ticket_info info;
	struct kvfi_ticket ticket;
	size_t len;

	if (kvfi_ticket_decode(data, size, &ticket) != KVF_OK) {
		KVFI_ASSERT(kvf_error()[0] != '\0');
		return;
	}
	KVFI_ASSERT(kvf_ticket_read(data, size, &info) == KVF_OK);
	KVFI_ASSERT(kvfi_ticket_encode(&ticket, bytes, sizeof(bytes), &len) == KVF_OK);
	KVFI_ASSERT(len == size && memcmp(bytes, data, len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned char *right;

	decode(data, size);
	if (size < 20)
		return 0;
	right = malloc(size);
	KVFI_ASSERT(right != NULL);
	memcpy(right, data, size);
	kvfi_store_le(right + 8, size, 4);
	kvfi_store_le(right + size - 8, kvfi_hash_bytes(HASH_SEED, right, size - 8), 8);
	decode(right, size);
	free(right);
	return 0;
}

size_t fuzz_seed(uint32_t n, uint8_t *buffer, size_t max_bytes)
{
	static const char *const texts[] = {
		"ipc:///run/kvferry/0", "tcp://127.0.0.1:41000", "", "inproc://p"};
	struct kvfi_ticket ticket = {.info = {.instance_id = kvfi_mix64(n),
					     .request_id = ~kvfi_mix64(n + 1),
					     .attempt = n,
					     .dp_index = n % 2 ? KVF_DP_UNKNOWN : n,
					     .prompt_len = 1000 * n,
					     .expires_unix_ns = kvfi_mix64(n + 2)},
		.n_endpoints = n};
	size_t len;

	if (n > 16)
		return 0;
	for (uint32_t i = 0; i < n; i++)
		ticket.endpoints[i] = texts[i % 4];
	KVFI_ASSERT(kvfi_ticket_encode(&ticket, buffer, max_bytes, &len) == KVF_OK);
	return len;
}
