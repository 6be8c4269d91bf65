/* codec.c - a message to bytes and back: the header that all share, and the order of doing things.
 *
 * Encoding checks the message first, so that a mistake of ours is told here and not by a puzzled peer. Decoding reads
 * into a message that borrows from the bytes, checks every field, and only then allocates what the caller will own: the
 * copy is as large as bytes that are really there. Pure; any thread.
 */
#include "wire/codec.h"

#include <string.h>
#include "base/status.h"
#include "wire/bytes.h"
#include "wire/frame.h"

#define HEADER_BYTES  64u
#define LENGTH_OFFSET 8u

static bool is_cold(enum kvfi_msg_type type)
{
	return type == KVFI_MSG_HELLO || type == KVFI_MSG_HELLO_OK || type == KVFI_MSG_REFUSE ||
	       type == KVFI_MSG_REQUEST;
}

static void put_header(struct kvfi_writer *writer, const struct kvfi_msg_header *header)
{
	kvfi_put_u32(writer, KVFI_WIRE_MAGIC);
	kvfi_put_u16(writer, KVFI_WIRE_VERSION);
	kvfi_put_u16(writer, (uint16_t)header->type);
	kvfi_put_u32(writer, 0); /* length, known at the end */
	kvfi_put_u32(writer, header->attempt);
	kvfi_put_u64(writer, header->from);
	kvfi_put_u64(writer, header->to);
	kvfi_put_u64(writer, header->link);
	kvfi_put_u64(writer, header->instance_id);
	kvfi_put_u64(writer, header->request_id);
	kvfi_put_u64(writer, header->epoch);
}

static enum kvf_status put_message(struct kvfi_writer *writer, const struct kvfi_msg *msg)
{
	put_header(writer, &msg->header);
	if (is_cold(msg->header.type))
		return kvfi_cold_put(writer, msg);
	kvfi_fixed_put(writer, msg);
	return KVF_OK;
}

size_t kvfi_msg_bound(const struct kvfi_msg *msg)
{
	struct kvfi_writer writer = kvfi_writer_counting();

	if (kvfi_msg_check(msg, KVF_EINVAL) != KVF_OK || put_message(&writer, msg) != KVF_OK)
		return HEADER_BYTES;
	return writer.used_bytes;
}

enum kvf_status kvfi_msg_encode(const struct kvfi_msg *msg, void *buffer, size_t max_bytes, size_t *len_out)
{
	struct kvfi_writer writer = kvfi_writer_on(buffer, max_bytes);
	enum kvf_status status = kvfi_msg_check(msg, KVF_EINVAL);

	if (status == KVF_OK)
		status = put_message(&writer, msg);
	if (status != KVF_OK)
		return status;
	if (writer.full || writer.used_bytes > KVFI_WIRE_MAX_BYTES)
		return kvfi_fail(KVF_EFULL, "%s: does not fit in %zu bytes", kvfi_msg_name(msg->header.type),
			max_bytes < KVFI_WIRE_MAX_BYTES ? max_bytes : KVFI_WIRE_MAX_BYTES);
	kvfi_store_le(writer.bytes + LENGTH_OFFSET, writer.used_bytes, 4);
	*len_out = writer.used_bytes;
	return KVF_OK;
}

static enum kvf_status get_header(struct kvfi_reader *reader, struct kvfi_msg_header *header)
{
	const uint32_t magic = kvfi_get_u32(reader);
	const uint16_t version = kvfi_get_u16(reader);
	const uint16_t type = kvfi_get_u16(reader);
	const uint32_t length = kvfi_get_u32(reader);

	if (reader->len_bytes >= 4 && magic != KVFI_WIRE_MAGIC)
		return kvfi_fail(
			KVF_PROTOCOL, "message: magic: 0x%08x, ours is 0x%08x", magic, KVFI_WIRE_MAGIC);
	if (reader->len_bytes >= 6 && version != KVFI_WIRE_VERSION)
		return kvfi_fail(KVF_PEER_VERSION, "message: version: the peer speaks %u, we speak %u",
			version, KVFI_WIRE_VERSION);
	if (reader->len_bytes < HEADER_BYTES)
		return kvfi_fail(KVF_PROTOCOL, "message: length: %zu bytes, a header has %u",
			reader->len_bytes, HEADER_BYTES);
	if (length != reader->len_bytes || length > KVFI_WIRE_MAX_BYTES)
		return kvfi_fail(KVF_PROTOCOL, "message: length: it says %u, there are %zu bytes, at most %u",
			length, reader->len_bytes, KVFI_WIRE_MAX_BYTES);
	if (type < KVFI_MSG_HELLO || type > KVFI_MSG_LAST)
		return kvfi_fail(KVF_PROTOCOL, "message: type: %u is none", type);
	header->type = (enum kvfi_msg_type)type;
	header->attempt = kvfi_get_u32(reader);
	header->from = kvfi_get_u64(reader);
	header->to = kvfi_get_u64(reader);
	header->link = kvfi_get_u64(reader);
	header->instance_id = kvfi_get_u64(reader);
	header->request_id = kvfi_get_u64(reader);
	header->epoch = kvfi_get_u64(reader);
	return KVF_OK;
}

enum kvf_status kvfi_msg_decode(const void *bytes, size_t len_bytes, struct kvfi_msg *msg_out)
{
	struct kvfi_reader reader = kvfi_reader_on(bytes, len_bytes);
	struct kvfi_msg borrowed;
	enum kvf_status status;
	void *arena = NULL;

	memset(&borrowed, 0, sizeof(borrowed));
	status = get_header(&reader, &borrowed.header);
	if (status != KVF_OK)
		return status;
	if (is_cold(borrowed.header.type))
		status = kvfi_cold_get(&reader, &borrowed, &arena);
	else
		status = kvfi_fixed_get(&reader, &borrowed);
	if (status == KVF_OK)
		status = kvfi_msg_check(&borrowed, KVF_PROTOCOL);
	if (status == KVF_OK)
		status = kvfi_msg_dup(&borrowed, msg_out);
	kvfi_cold_free(arena);
	return status;
}
