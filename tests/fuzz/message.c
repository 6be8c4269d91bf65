/* message.c - fuzz target: control messages. What decodes can be encoded, and comes back as it was.
 *
 * An input runs twice: as it is, and with magic, version and length put right, so that mutations reach the bodies.
 */
#include "fuzz.h"

#include <stdlib.h>
#include "../unit/wire_random.h"
#include "base/assert.h"
#include "wire/bytes.h"

#define SEEDS_PER_TYPE 4u

static void decode(const uint8_t *data, size_t size)
{
	struct kvfi_msg msg, again;
	unsigned char *bytes;
	size_t room, len;

	if (kvfi_msg_decode(data, size, &msg) != KVF_OK) {
		KVFI_ASSERT(kvf_error()[0] != '\0');
		return;
	}
	room = kvfi_msg_bound(&msg);
	bytes = malloc(room);
	KVFI_ASSERT(bytes != NULL);
	KVFI_ASSERT(kvfi_msg_encode(&msg, bytes, room, &len) == KVF_OK);
	KVFI_ASSERT(kvfi_msg_decode(bytes, len, &again) == KVF_OK);
	assert_messages_equal(&msg, &again);
	kvfi_msg_fini(&again);
	kvfi_msg_fini(&msg);
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned char *right;

	decode(data, size);
	if (size < 12)
		return 0;
	right = malloc(size);
	KVFI_ASSERT(right != NULL);
	memcpy(right, data, size);
	kvfi_store_le(right, KVFI_WIRE_MAGIC, 4);
	kvfi_store_le(right + 4, KVFI_WIRE_VERSION, 2);
	kvfi_store_le(right + 8, size, 4);
	decode(right, size);
	free(right);
	return 0;
}

size_t fuzz_seed(uint32_t n, uint8_t *buffer, size_t max_bytes)
{
	const uint32_t type = KVFI_MSG_HELLO + n / SEEDS_PER_TYPE;
	struct random_message *random;
	enum kvf_status status;
	size_t len;

	if (type > KVFI_MSG_LAST)
		return 0;
	random = random_message_new(n % SEEDS_PER_TYPE, (enum kvfi_msg_type)type);
	status = kvfi_msg_encode(&random->msg, buffer, max_bytes, &len);
	random_message_free(random);
	if (status == KVF_EUNSUPPORTED) { /* a build without msgpack */
		memcpy(buffer, "KVF1", 4);
		return 4;
	}
	KVFI_ASSERT(status == KVF_OK);
	return len;
}
