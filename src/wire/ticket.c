/* ticket.c - tickets: the opaque bytes that a router carries from prefill to decode.
 *
 * Fixed little-endian bytes (docs/wire.md) that end in a hash of everything before it, so a ticket that was cut, padded
 * or changed in transit is refused as a whole. The hash guards against damage, not against forgery: a ticket gives no
 * right that the control channel does not give. Whether it has expired is judged by the caller. Pure; any thread.
 */
#include "wire/codec.h"

#include <inttypes.h>
#include <string.h>
#include "base/assert.h"
#include "base/hash.h"
#include "base/status.h"
#include "wire/bytes.h"

#define TICKET_MAGIC       UINT32_C(0x5446564b) /* "KVFT", little-endian */
#define TICKET_VERSION     1u
#define TICKET_HASH_SEED   UINT64_C(0x74656b6369746b76)
#define TICKET_FIXED_BYTES 56u
#define TICKET_HASH_BYTES  8u

#define TICKET_TEXT_BYTES    (sizeof(((struct kvfi_ticket *)NULL)->text))
#define TICKET_MAX_ENDPOINTS (sizeof(((struct kvfi_ticket *)NULL)->endpoints) / sizeof(char *))

static enum kvf_status check_fields(
	const struct kvf_ticket_info *info, uint32_t n_endpoints, enum kvf_status status)
{
	if (info->prompt_len > KVF_MAX_TOKENS)
		return kvfi_fail(status, "ticket: prompt_len: %" PRIu64 ", at most %" PRIu64,
			info->prompt_len, KVF_MAX_TOKENS);
	if (info->dp_index >= KVF_MAX_RANKS && info->dp_index != KVF_DP_UNKNOWN)
		return kvfi_fail(
			status, "ticket: dp_index: %u, must be below %u", info->dp_index, KVF_MAX_RANKS);
	if (n_endpoints > TICKET_MAX_ENDPOINTS)
		return kvfi_fail(
			status, "ticket: n_endpoints: %u, at most %zu", n_endpoints, TICKET_MAX_ENDPOINTS);
	return KVF_OK;
}

static enum kvf_status put_endpoints(struct kvfi_writer *writer, const struct kvfi_ticket *ticket)
{
	size_t used = 0;

	for (uint32_t i = 0; i < ticket->n_endpoints; i++) {
		const size_t len = strlen(ticket->endpoints[i]);

		if (len + 1 > TICKET_TEXT_BYTES - used)
			return kvfi_fail(KVF_EINVAL,
				"ticket: endpoints: more than %zu bytes in all at endpoint %u",
				TICKET_TEXT_BYTES, i);
		used += len + 1;
		kvfi_put_u16(writer, (uint16_t)len);
		kvfi_put_bytes(writer, ticket->endpoints[i], len);
	}
	return KVF_OK;
}

enum kvf_status kvfi_ticket_encode(
	const struct kvfi_ticket *ticket, void *buffer, size_t max_bytes, size_t *len_out)
{
	struct kvfi_writer writer = kvfi_writer_on(buffer, max_bytes);
	enum kvf_status status = check_fields(&ticket->info, ticket->n_endpoints, KVF_EINVAL);
	size_t len;

	if (status != KVF_OK)
		return status;
	kvfi_put_u32(&writer, TICKET_MAGIC);
	kvfi_put_u16(&writer, TICKET_VERSION);
	kvfi_put_u16(&writer, (uint16_t)ticket->n_endpoints);
	kvfi_put_u32(&writer, 0); /* length, known below */
	kvfi_put_u32(&writer, ticket->info.attempt);
	kvfi_put_u64(&writer, ticket->info.instance_id);
	kvfi_put_u64(&writer, ticket->info.request_id);
	kvfi_put_u64(&writer, ticket->info.prompt_len);
	kvfi_put_u64(&writer, ticket->info.expires_unix_ns);
	kvfi_put_u32(&writer, ticket->info.dp_index);
	kvfi_put_u32(&writer, 0); /* reserved */
	status = put_endpoints(&writer, ticket);
	if (status != KVF_OK)
		return status;
	len = writer.used_bytes + TICKET_HASH_BYTES;
	if (writer.full || len > max_bytes || len > KVF_TICKET_MAX_BYTES)
		return kvfi_fail(KVF_EFULL, "ticket: does not fit in %zu bytes", max_bytes);
	kvfi_store_le(writer.bytes + 8, len, 4);
	kvfi_put_u64(&writer, kvfi_hash_bytes(TICKET_HASH_SEED, buffer, writer.used_bytes));
	*len_out = len;
	return KVF_OK;
}

/* Length and hash first: after this the bytes are those that somebody encoded. */
static enum kvf_status check_whole(const unsigned char *bytes, size_t len_bytes)
{
	struct kvfi_reader reader = kvfi_reader_on(bytes, len_bytes);
	const uint32_t magic = kvfi_get_u32(&reader);
	const uint16_t version = kvfi_get_u16(&reader);
	const uint16_t n_endpoints = kvfi_get_u16(&reader);
	const uint32_t length = kvfi_get_u32(&reader);

	(void)n_endpoints;
	if (reader.failed)
		return kvfi_fail(KVF_ETICKET, "ticket: %zu bytes are too few", len_bytes);
	if (magic != TICKET_MAGIC)
		return kvfi_fail(
			KVF_ETICKET, "ticket: magic: 0x%08x, a ticket has 0x%08x", magic, TICKET_MAGIC);
	if (version != TICKET_VERSION)
		return kvfi_fail(KVF_ETICKET, "ticket: version: it has %u, this library reads %u", version,
			TICKET_VERSION);
	if (length != len_bytes || len_bytes < TICKET_FIXED_BYTES + TICKET_HASH_BYTES ||
		len_bytes > KVF_TICKET_MAX_BYTES)
		return kvfi_fail(
			KVF_ETICKET, "ticket: length: it says %u, there are %zu bytes", length, len_bytes);
	if (kvfi_load_le(bytes + len_bytes - TICKET_HASH_BYTES, 8) !=
		kvfi_hash_bytes(TICKET_HASH_SEED, bytes, len_bytes - TICKET_HASH_BYTES))
		return kvfi_fail(KVF_ETICKET, "ticket: check hash: the bytes were changed");
	return KVF_OK;
}

/* Walks the endpoints to their end; stores them when ticket is not NULL (after a walk without one said KVF_OK). */
static enum kvf_status get_endpoints(
	struct kvfi_reader reader, uint32_t n_endpoints, struct kvfi_ticket *ticket)
{
	size_t used = 0;

	for (uint32_t i = 0; i < n_endpoints; i++) {
		const uint16_t len = kvfi_get_u16(&reader);
		const unsigned char *text = kvfi_get_span(&reader, len);

		if (text == NULL || memchr(text, 0, len) != NULL || len + 1u > TICKET_TEXT_BYTES - used)
			return kvfi_fail(
				KVF_ETICKET, "ticket: endpoint %u of %u: length %u", i, n_endpoints, len);
		if (ticket != NULL) {
			memcpy(ticket->text + used, text, len);
			ticket->text[used + len] = '\0';
			ticket->endpoints[i] = ticket->text + used;
		}
		used += len + 1u;
	}
	if (kvfi_reader_left(&reader) != 0)
		return kvfi_fail(KVF_ETICKET, "ticket: %zu bytes too many", kvfi_reader_left(&reader));
	return KVF_OK;
}

enum kvf_status kvfi_ticket_decode(const void *bytes, size_t len_bytes, struct kvfi_ticket *ticket_out)
{
	enum kvf_status status = check_whole(bytes, len_bytes);
	struct kvfi_reader reader;
	struct kvf_ticket_info info;
	uint32_t n_endpoints, reserved;

	if (status != KVF_OK)
		return status;
	reader = kvfi_reader_on(bytes, len_bytes - TICKET_HASH_BYTES);
	(void)kvfi_get_span(&reader, 6);
	n_endpoints = kvfi_get_u16(&reader);
	(void)kvfi_get_span(&reader, 4);
	info.attempt = kvfi_get_u32(&reader);
	info.instance_id = kvfi_get_u64(&reader);
	info.request_id = kvfi_get_u64(&reader);
	info.prompt_len = kvfi_get_u64(&reader);
	info.expires_unix_ns = kvfi_get_u64(&reader);
	info.dp_index = kvfi_get_u32(&reader);
	reserved = kvfi_get_u32(&reader);
	if (reserved != 0)
		return kvfi_fail(KVF_ETICKET, "ticket: reserved: %u, must be 0", reserved);
	status = check_fields(&info, n_endpoints, KVF_ETICKET);
	if (status == KVF_OK)
		status = get_endpoints(reader, n_endpoints, NULL);
	if (status != KVF_OK)
		return status;
	status = get_endpoints(reader, n_endpoints, ticket_out);
	KVFI_ASSERT(status == KVF_OK);
	ticket_out->info = info;
	ticket_out->n_endpoints = n_endpoints;
	return KVF_OK;
}

enum kvf_status kvf_ticket_read(const void *ticket, size_t ticket_bytes, struct kvf_ticket_info *info_out)
{
	struct kvfi_ticket decoded;
	enum kvf_status status;

	if (ticket == NULL || info_out == NULL)
		return kvfi_fail(
			KVF_EINVAL, "kvf_ticket_read: %s: NULL", ticket == NULL ? "ticket" : "info_out");
	status = kvfi_ticket_decode(ticket, ticket_bytes, &decoded);
	if (status == KVF_OK)
		*info_out = decoded.info;
	return status;
}
