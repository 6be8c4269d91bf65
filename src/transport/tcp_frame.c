/* tcp_frame.c - the codec of the tcp data stream; see tcp_frame.h. Pure, no state, any thread. */
#include "transport/tcp_frame.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/status.h"
#include "wire/bytes.h"

#define ADDRESS_VERSION 1u

/* ---- greetings */

void kvfi_tcp_put_greeting(unsigned char *bytes, const struct kvfi_tcp_greeting *greeting)
{
	struct kvfi_writer writer = kvfi_writer_on(bytes, KVFI_TCP_GREETING_BYTES);

	kvfi_put_u32(&writer, KVFI_TCP_MAGIC);
	kvfi_put_u16(&writer, KVFI_TCP_VERSION);
	kvfi_put_u16(&writer, (uint16_t)greeting->type);
	kvfi_put_u64(&writer, greeting->nonce);
	kvfi_put_u64(&writer, greeting->from);
	kvfi_put_u64(&writer, greeting->to);
	kvfi_put_u64(&writer, greeting->link);
	kvfi_put_u32(&writer, (uint32_t)greeting->status);
	kvfi_put_u32(&writer, greeting->rail);
	kvfi_put_u64(&writer, 0);
	kvfi_put_u64(&writer, 0);
}

/* Statuses are i32 on the wire, 0 or negative. */
static bool is_status(uint32_t value)
{
	return value == 0 || value > UINT32_MAX - 1000;
}

static enum kvf_status check_greeting(uint16_t type, uint32_t status, uint64_t reserved)
{
	if (type != KVFI_TCP_HELLO && type != KVFI_TCP_WELCOME)
		return kvfi_fail(KVF_PROTOCOL, "tcp: a greeting of type %u", type);
	if (!is_status(status) || (type == KVFI_TCP_HELLO && status != 0))
		return kvfi_fail(
			KVF_PROTOCOL, "tcp: a greeting of type %u with status %d", type, (int)status);
	if (reserved != 0)
		return kvfi_fail(KVF_PROTOCOL, "tcp: a greeting with reserved bits");
	return KVF_OK;
}

enum kvf_status kvfi_tcp_get_greeting(const unsigned char *bytes, struct kvfi_tcp_greeting *greeting_out)
{
	struct kvfi_reader reader = kvfi_reader_on(bytes, KVFI_TCP_GREETING_BYTES);
	struct kvfi_tcp_greeting greeting = {0};
	uint32_t magic = kvfi_get_u32(&reader), status;
	uint16_t version = kvfi_get_u16(&reader), type = kvfi_get_u16(&reader);
	uint64_t reserved;

	greeting.type = (enum kvfi_tcp_type)type;
	greeting.nonce = kvfi_get_u64(&reader);
	if (magic != KVFI_TCP_MAGIC)
		return kvfi_fail(KVF_PROTOCOL, "tcp: magic 0x%08x, expected 0x%08x", magic, KVFI_TCP_MAGIC);
	if (version != KVFI_TCP_VERSION) {
		*greeting_out = greeting;
		return kvfi_fail(KVF_PEER_VERSION,
			"tcp: the peer speaks version %u of the data stream, this is %u", version,
			KVFI_TCP_VERSION);
	}
	greeting.from = kvfi_get_u64(&reader);
	greeting.to = kvfi_get_u64(&reader);
	greeting.link = kvfi_get_u64(&reader);
	status = kvfi_get_u32(&reader);
	greeting.rail = kvfi_get_u32(&reader);
	reserved = kvfi_get_u64(&reader);
	reserved |= kvfi_get_u64(&reader);
	if (check_greeting(type, status, reserved) != KVF_OK)
		return KVF_PROTOCOL;
	greeting.status = (enum kvf_status)(int)status;
	*greeting_out = greeting;
	return KVF_OK;
}

/* ---- frames */

void kvfi_tcp_put_header(unsigned char *bytes, const struct kvfi_tcp_header *header)
{
	struct kvfi_writer writer = kvfi_writer_on(bytes, KVFI_TCP_HEADER_BYTES);

	kvfi_put_u32(&writer, (uint32_t)header->type);
	kvfi_put_u32(&writer, header->length);
	kvfi_put_u64(&writer, header->epoch);
	kvfi_put_u32(&writer, header->slice);
	kvfi_put_u32(&writer, header->flags);
	kvfi_put_u64(&writer, header->position);
}

static enum kvf_status check_slice_header(const struct kvfi_tcp_header *header)
{
	uint32_t length = header->length;

	if (length < KVFI_TCP_SLICE_BYTES + KVFI_TCP_RANGE_BYTES || length > KVFI_TCP_SLICE_MAX_BYTES ||
		(length - KVFI_TCP_SLICE_BYTES) % KVFI_TCP_RANGE_BYTES != 0)
		return kvfi_fail(KVF_PROTOCOL, "tcp: a SLICE of %u bytes", length);
	if ((header->flags & ~KVFI_TCP_SUM) != 0)
		return kvfi_fail(KVF_PROTOCOL, "tcp: a SLICE with flags 0x%x", header->flags);
	if (header->position == 0)
		return kvfi_fail(KVF_PROTOCOL, "tcp: a SLICE that moves nothing");
	return KVF_OK;
}

static enum kvf_status check_header(const struct kvfi_tcp_header *header)
{
	switch (header->type) {
	case KVFI_TCP_SLICE:
		return check_slice_header(header);
	case KVFI_TCP_DATA:
		if (header->length == 0 || header->length > KVFI_TCP_DATA_MAX_BYTES || header->flags != 0)
			return kvfi_fail(KVF_PROTOCOL, "tcp: a DATA frame of %u bytes, flags 0x%x",
				header->length, header->flags);
		return KVF_OK;
	case KVFI_TCP_ABORT:
		if (header->length != 0 || header->flags == 0 || !is_status(header->flags))
			return kvfi_fail(KVF_PROTOCOL, "tcp: an ABORT of %u bytes with status %d",
				header->length, (int)header->flags);
		return KVF_OK;
	case KVFI_TCP_HELLO:
	case KVFI_TCP_WELCOME:
		break;
	}
	return kvfi_fail(KVF_PROTOCOL, "tcp: a frame of type %u", (unsigned)header->type);
}

enum kvf_status kvfi_tcp_get_header(const unsigned char *bytes, struct kvfi_tcp_header *header_out)
{
	struct kvfi_reader reader = kvfi_reader_on(bytes, KVFI_TCP_HEADER_BYTES);
	struct kvfi_tcp_header header = {.type = (enum kvfi_tcp_type)kvfi_get_u32(&reader)};
	enum kvf_status status;

	header.length = kvfi_get_u32(&reader);
	header.epoch = kvfi_get_u64(&reader);
	header.slice = kvfi_get_u32(&reader);
	header.flags = kvfi_get_u32(&reader);
	header.position = kvfi_get_u64(&reader);
	status = check_header(&header);
	if (status == KVF_OK)
		*header_out = header;
	return status;
}

uint32_t kvfi_tcp_put_slice(unsigned char *bytes, const struct kvfi_tcp_slice *slice)
{
	struct kvfi_writer writer = kvfi_writer_on(bytes, KVFI_TCP_SLICE_MAX_BYTES);

	kvfi_put_u64(&writer, slice->request_id);
	kvfi_put_u32(&writer, slice->attempt);
	kvfi_put_u32(&writer, slice->lease_slot);
	kvfi_put_u32(&writer, slice->lease_generation);
	kvfi_put_u32(&writer, slice->layer_start);
	kvfi_put_u32(&writer, slice->layer_end);
	kvfi_put_u32(&writer, slice->n_ranges);
	for (uint32_t i = 0; i < slice->n_ranges; i++) {
		kvfi_put_u32(&writer, slice->ranges[i].group);
		kvfi_put_u64(&writer, slice->ranges[i].token_first);
		kvfi_put_u64(&writer, slice->ranges[i].token_end);
	}
	return (uint32_t)writer.used_bytes;
}

static enum kvf_status check_slice(const struct kvfi_tcp_slice *slice)
{
	if (slice->layer_start >= slice->layer_end || slice->layer_end > KVF_MAX_LAYERS)
		return kvfi_fail(KVF_PROTOCOL, "tcp: SLICE names layers %u to %u", slice->layer_start,
			slice->layer_end);
	for (uint32_t i = 0; i < slice->n_ranges; i++) {
		const struct kvfi_range *range = &slice->ranges[i];

		if (range->group >= KVF_MAX_GROUPS || range->token_first >= range->token_end ||
			range->token_end > KVF_MAX_TOKENS)
			return kvfi_fail(KVF_PROTOCOL, "tcp: SLICE range %u: group %u, tokens %llu to %llu",
				i, range->group, (unsigned long long)range->token_first,
				(unsigned long long)range->token_end);
	}
	return KVF_OK;
}

enum kvf_status kvfi_tcp_get_slice(
	const unsigned char *bytes, uint32_t len_bytes, struct kvfi_tcp_slice *slice_out)
{
	struct kvfi_reader reader = kvfi_reader_on(bytes, len_bytes);
	struct kvfi_tcp_slice *slice = slice_out;

	slice->request_id = kvfi_get_u64(&reader);
	slice->attempt = kvfi_get_u32(&reader);
	slice->lease_slot = kvfi_get_u32(&reader);
	slice->lease_generation = kvfi_get_u32(&reader);
	slice->layer_start = kvfi_get_u32(&reader);
	slice->layer_end = kvfi_get_u32(&reader);
	slice->n_ranges = kvfi_get_u32(&reader);
	if (reader.failed || slice->n_ranges > KVFI_MAX_RANGES ||
		kvfi_reader_left(&reader) != slice->n_ranges * KVFI_TCP_RANGE_BYTES)
		return kvfi_fail(
			KVF_PROTOCOL, "tcp: a SLICE of %u bytes names %u ranges", len_bytes, slice->n_ranges);
	for (uint32_t i = 0; i < slice->n_ranges; i++) {
		slice->ranges[i].group = kvfi_get_u32(&reader);
		slice->ranges[i].token_first = kvfi_get_u64(&reader);
		slice->ranges[i].token_end = kvfi_get_u64(&reader);
	}
	return check_slice(slice);
}

/* ---- addresses */

void kvfi_tcp_put_address(unsigned char *bytes, const struct kvfi_tcp_address *address)
{
	struct kvfi_writer writer = kvfi_writer_on(bytes, KVFI_TCP_ADDRESS_BYTES);

	kvfi_put_u16(&writer, ADDRESS_VERSION);
	kvfi_put_u16(&writer, address->family);
	kvfi_put_u16(&writer, address->port);
	kvfi_put_u16(&writer, 0);
	kvfi_put_bytes(&writer, address->ip, sizeof(address->ip));
	kvfi_put_u64(&writer, address->host);
}

/* One address, one way to write it. */
static bool is_canonical(const struct kvfi_tcp_address *address, uint16_t reserved)
{
	static const unsigned char zero[12];

	if (reserved != 0 || (address->family != 4 && address->family != 6))
		return false;
	return address->family == 6 || memcmp(address->ip + 4, zero, sizeof(zero)) == 0;
}

enum kvf_status kvfi_tcp_get_address(
	const void *bytes, size_t len_bytes, struct kvfi_tcp_address *address_out)
{
	struct kvfi_reader reader = kvfi_reader_on(bytes, len_bytes);
	struct kvfi_tcp_address address = {0};
	const unsigned char *ip;
	uint16_t version, reserved;

	if (len_bytes != KVFI_TCP_ADDRESS_BYTES)
		return kvfi_fail(KVF_PROTOCOL, "tcp: an address of %zu bytes, expected %u", len_bytes,
			KVFI_TCP_ADDRESS_BYTES);
	version = kvfi_get_u16(&reader);
	address.family = kvfi_get_u16(&reader);
	address.port = kvfi_get_u16(&reader);
	reserved = kvfi_get_u16(&reader);
	ip = kvfi_get_span(&reader, sizeof(address.ip));
	address.host = kvfi_get_u64(&reader);
	if (ip != NULL)
		memcpy(address.ip, ip, sizeof(address.ip));
	if (version != ADDRESS_VERSION || !is_canonical(&address, reserved))
		return kvfi_fail(
			KVF_PROTOCOL, "tcp: an address of version %u, family %u", version, address.family);
	*address_out = address;
	return KVF_OK;
}

/* Splits "host:port" or "[host]:port"; false if it is neither. */
static bool split_text(const char *text, char *host_out, size_t max_bytes, const char **port_out)
{
	const char *colon = strrchr(text, ':');
	const char *start = text, *end = colon;

	if (colon == NULL)
		return false;
	if (text[0] == '[') {
		start = text + 1;
		end = colon - 1;
		if (end <= start || *end != ']')
			return false;
	} else if (memchr(text, ':', (size_t)(colon - text)) != NULL) {
		return false;
	}
	if (end <= start || (size_t)(end - start) >= max_bytes)
		return false;
	memcpy(host_out, start, (size_t)(end - start));
	host_out[end - start] = '\0';
	*port_out = colon + 1;
	return true;
}

static bool parse_port(const char *text, uint16_t *port_out)
{
	unsigned long value;
	char *end;

	if (text[0] < '0' || text[0] > '9' || strlen(text) > 5)
		return false;
	value = strtoul(text, &end, 10);
	if (*end != '\0' || value > UINT16_MAX)
		return false;
	*port_out = (uint16_t)value;
	return true;
}

enum kvf_status kvfi_tcp_parse_address(
	const char *field, const char *text, struct kvfi_tcp_address *address_out)
{
	struct kvfi_tcp_address address = {.host = address_out->host};
	char host[KVFI_TCP_TEXT_BYTES];
	const char *port;

	if (!split_text(text, host, sizeof(host), &port))
		return kvfi_fail(
			KVF_EINVAL, "%s: \"%s\" is not ADDRESS:PORT (IPv6: [ADDRESS]:PORT)", field, text);
	address.family = text[0] == '[' ? 6 : 4;
	if (inet_pton(address.family == 4 ? AF_INET : AF_INET6, host, address.ip) != 1)
		return kvfi_fail(KVF_EINVAL, "%s: \"%s\": \"%s\" is not a numeric IPv%u address", field, text,
			host, address.family);
	if (!parse_port(port, &address.port))
		return kvfi_fail(KVF_EINVAL, "%s: \"%s\": port \"%s\" is not a number from 0 to 65535", field,
			text, port);
	*address_out = address;
	return KVF_OK;
}

void kvfi_tcp_format_address(const struct kvfi_tcp_address *address, char *text_out)
{
	char host[INET6_ADDRSTRLEN] = "?";

	(void)inet_ntop(address->family == 4 ? AF_INET : AF_INET6, address->ip, host, sizeof(host));
	(void)snprintf(text_out, KVFI_TCP_TEXT_BYTES, address->family == 4 ? "%s:%u" : "[%s]:%u", host,
		address->port);
}

bool kvfi_tcp_is_loopback(const struct kvfi_tcp_address *address)
{
	static const unsigned char one[16] = {[15] = 1};

	return address->family == 4 ? address->ip[0] == 127 : memcmp(address->ip, one, sizeof(one)) == 0;
}

bool kvfi_tcp_is_any(const struct kvfi_tcp_address *address)
{
	static const unsigned char zero[16];

	return memcmp(address->ip, zero, address->family == 4 ? 4 : 16) == 0;
}
