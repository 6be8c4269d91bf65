/* fixed.c - the bodies of fixed frames: one put and one get per message, field by field as docs/wire.md has them.
 *
 * A frame has the same fields in the same order whatever it says: a failure is the success with another status. A get
 * reads past no end (bytes.h), stores at most what the message has room for, and leaves the judging of values to check.c;
 * the aux bytes of a RESULT and the bytes of a GROUP stay where they are and are borrowed. Pure; any thread.
 */
#include <string.h>
#include "base/status.h"
#include "wire/frame.h"

/* Length, then bytes without a NUL. */
static void put_text(struct kvfi_writer *writer, const char *text)
{
	const size_t len = strlen(text);

	kvfi_put_u16(writer, (uint16_t)len);
	kvfi_put_bytes(writer, text, len);
}

static enum kvf_status get_text(struct kvfi_reader *reader, const char *field, char *text, size_t max_bytes)
{
	const uint16_t len = kvfi_get_u16(reader);
	const unsigned char *at = kvfi_get_span(reader, len);

	if (at == NULL)
		return KVF_OK; /* the reader remembers that it ran out */
	if (len >= max_bytes)
		return kvfi_fail(KVF_PROTOCOL, "%s: %u bytes, at most %zu", field, len, max_bytes - 1);
	if (memchr(at, 0, len) != NULL)
		return kvfi_fail(KVF_PROTOCOL, "%s: a NUL inside", field);
	memcpy(text, at, len);
	text[len] = '\0';
	return KVF_OK;
}

static void put_request_ok(struct kvfi_writer *writer, const struct kvfi_msg_request_ok *request_ok)
{
	kvfi_put_u32(writer, request_ok->known);
}

static void get_request_ok(struct kvfi_reader *reader, struct kvfi_msg_request_ok *request_ok)
{
	request_ok->known = kvfi_get_u32(reader);
}

static void put_claim(struct kvfi_writer *writer, const struct kvfi_msg_claim *claim)
{
	kvfi_put_u32(writer, claim->dp_index);
}

static void get_claim(struct kvfi_reader *reader, struct kvfi_msg_claim *claim)
{
	claim->dp_index = kvfi_get_u32(reader);
}

static void put_go(struct kvfi_writer *writer, const struct kvfi_msg_go *go)
{
	kvfi_put_u32(writer, go->dp_index);
	kvfi_put_u32(writer, go->lease_slot);
	kvfi_put_u32(writer, go->lease_generation);
	kvfi_put_u64(writer, go->seal);
}

static void get_go(struct kvfi_reader *reader, struct kvfi_msg_go *go)
{
	go->dp_index = kvfi_get_u32(reader);
	go->lease_slot = kvfi_get_u32(reader);
	go->lease_generation = kvfi_get_u32(reader);
	go->seal = kvfi_get_u64(reader);
}

static void put_result(struct kvfi_writer *writer, const struct kvfi_msg_result *result)
{
	kvfi_put_u32(writer, result->kind);
	kvfi_put_u32(writer, result->slice);
	kvfi_put_u32(writer, result->rx_slice);
	kvfi_put_u32(writer, result->last);
	kvfi_put_u32(writer, (uint32_t)result->status);
	kvfi_put_u32(writer, result->n_ranges);
	kvfi_put_u64(writer, result->bytes);
	kvfi_put_u64(writer, result->runs);
	kvfi_put_u64(writer, result->sum);
	kvfi_put_u64(writer, result->dropped_tokens);
	kvfi_put_u32(writer, result->layer_start);
	kvfi_put_u32(writer, result->layer_end);
	kvfi_put_u32(writer, result->aux_bytes);
	for (uint32_t i = 0; i < result->n_ranges; i++) {
		kvfi_put_u32(writer, result->ranges[i].group);
		kvfi_put_u64(writer, result->ranges[i].token_first);
		kvfi_put_u64(writer, result->ranges[i].token_end);
	}
	put_text(writer, result->reason);
	kvfi_put_bytes(writer, result->aux, result->aux_bytes);
	kvfi_put_u64(writer, result->seal);
}

static enum kvf_status get_result(struct kvfi_reader *reader, struct kvfi_msg_result *result)
{
	enum kvf_status status;

	result->kind = (enum kvfi_result_kind)kvfi_get_u32(reader);
	result->slice = kvfi_get_u32(reader);
	result->rx_slice = kvfi_get_u32(reader);
	result->last = kvfi_get_u32(reader);
	result->status = (enum kvf_status)(int32_t)kvfi_get_u32(reader);
	result->n_ranges = kvfi_get_u32(reader);
	result->bytes = kvfi_get_u64(reader);
	result->runs = kvfi_get_u64(reader);
	result->sum = kvfi_get_u64(reader);
	result->dropped_tokens = kvfi_get_u64(reader);
	result->layer_start = kvfi_get_u32(reader);
	result->layer_end = kvfi_get_u32(reader);
	result->aux_bytes = kvfi_get_u32(reader);
	if (result->n_ranges > KVFI_MAX_RANGES)
		return kvfi_fail(
			KVF_PROTOCOL, "RESULT: ranges: %u, at most %u", result->n_ranges, KVFI_MAX_RANGES);
	for (uint32_t i = 0; i < result->n_ranges; i++) {
		result->ranges[i].group = kvfi_get_u32(reader);
		result->ranges[i].token_first = kvfi_get_u64(reader);
		result->ranges[i].token_end = kvfi_get_u64(reader);
	}
	status = get_text(reader, "RESULT: reason", result->reason, sizeof(result->reason));
	result->aux = kvfi_get_span(reader, result->aux_bytes);
	result->seal = kvfi_get_u64(reader);
	return status;
}

static void put_ack(struct kvfi_writer *writer, const struct kvfi_msg_ack *ack)
{
	kvfi_put_u32(writer, ack->kind);
	kvfi_put_u32(writer, ack->slice);
	kvfi_put_u32(writer, ack->verdict);
	kvfi_put_u32(writer, (uint32_t)ack->status);
}

static void get_ack(struct kvfi_reader *reader, struct kvfi_msg_ack *ack)
{
	ack->kind = (enum kvfi_result_kind)kvfi_get_u32(reader);
	ack->slice = kvfi_get_u32(reader);
	ack->verdict = (enum kvfi_verdict)kvfi_get_u32(reader);
	ack->status = (enum kvf_status)(int32_t)kvfi_get_u32(reader);
}

static void put_cancel(struct kvfi_writer *writer, const struct kvfi_msg_cancel *cancel)
{
	kvfi_put_u32(writer, (uint32_t)cancel->status);
	put_text(writer, cancel->reason);
}

static enum kvf_status get_cancel(struct kvfi_reader *reader, struct kvfi_msg_cancel *cancel)
{
	cancel->status = (enum kvf_status)(int32_t)kvfi_get_u32(reader);
	return get_text(reader, "CANCEL: reason", cancel->reason, sizeof(cancel->reason));
}

static void put_ping(struct kvfi_writer *writer, const struct kvfi_msg_ping *ping)
{
	kvfi_put_u64(writer, ping->sequence);
}

static void get_ping(struct kvfi_reader *reader, struct kvfi_msg_ping *ping)
{
	ping->sequence = kvfi_get_u64(reader);
}

static void put_group(struct kvfi_writer *writer, const struct kvfi_msg_group *group)
{
	kvfi_put_u64(writer, group->group);
	kvfi_put_u64(writer, group->round);
	kvfi_put_u32(writer, group->rank);
	kvfi_put_u32(writer, group->members);
	kvfi_put_u32(writer, group->flags);
	kvfi_put_u32(writer, group->len_bytes);
	kvfi_put_u64(writer, group->seal);
	kvfi_put_bytes(writer, group->bytes, group->len_bytes);
}

static void get_group(struct kvfi_reader *reader, struct kvfi_msg_group *group)
{
	group->group = kvfi_get_u64(reader);
	group->round = kvfi_get_u64(reader);
	group->rank = kvfi_get_u32(reader);
	group->members = kvfi_get_u32(reader);
	group->flags = kvfi_get_u32(reader);
	group->len_bytes = kvfi_get_u32(reader);
	group->seal = kvfi_get_u64(reader);
	group->bytes = kvfi_get_span(reader, group->len_bytes);
}

void kvfi_fixed_put(struct kvfi_writer *writer, const struct kvfi_msg *msg)
{
	switch (msg->header.type) {
	case KVFI_MSG_REQUEST_OK:
	case KVFI_MSG_HOLD_OK:
		put_request_ok(writer, &msg->u.request_ok);
		break;
	case KVFI_MSG_CLAIM:
		put_claim(writer, &msg->u.claim);
		break;
	case KVFI_MSG_GO:
		put_go(writer, &msg->u.go);
		break;
	case KVFI_MSG_RESULT:
		put_result(writer, &msg->u.result);
		break;
	case KVFI_MSG_ACK:
		put_ack(writer, &msg->u.ack);
		break;
	case KVFI_MSG_CANCEL:
		put_cancel(writer, &msg->u.cancel);
		break;
	case KVFI_MSG_PING:
	case KVFI_MSG_PONG:
		put_ping(writer, &msg->u.ping);
		break;
	case KVFI_MSG_GROUP:
		put_group(writer, &msg->u.group);
		break;
	case KVFI_MSG_QUIET:
	case KVFI_MSG_HOLD:
	case KVFI_MSG_BYE:
	case KVFI_MSG_HELLO:
	case KVFI_MSG_HELLO_OK:
	case KVFI_MSG_REFUSE:
	case KVFI_MSG_REQUEST:
		break;
	}
}

static enum kvf_status get_body(struct kvfi_reader *reader, struct kvfi_msg *msg)
{
	switch (msg->header.type) {
	case KVFI_MSG_REQUEST_OK:
	case KVFI_MSG_HOLD_OK:
		get_request_ok(reader, &msg->u.request_ok);
		break;
	case KVFI_MSG_CLAIM:
		get_claim(reader, &msg->u.claim);
		break;
	case KVFI_MSG_GO:
		get_go(reader, &msg->u.go);
		break;
	case KVFI_MSG_RESULT:
		return get_result(reader, &msg->u.result);
	case KVFI_MSG_ACK:
		get_ack(reader, &msg->u.ack);
		break;
	case KVFI_MSG_CANCEL:
		return get_cancel(reader, &msg->u.cancel);
	case KVFI_MSG_PING:
	case KVFI_MSG_PONG:
		get_ping(reader, &msg->u.ping);
		break;
	case KVFI_MSG_GROUP:
		get_group(reader, &msg->u.group);
		break;
	case KVFI_MSG_QUIET:
	case KVFI_MSG_HOLD:
	case KVFI_MSG_BYE:
	case KVFI_MSG_HELLO:
	case KVFI_MSG_HELLO_OK:
	case KVFI_MSG_REFUSE:
	case KVFI_MSG_REQUEST:
		break;
	}
	return KVF_OK;
}

enum kvf_status kvfi_fixed_get(struct kvfi_reader *reader, struct kvfi_msg *msg)
{
	const char *name = kvfi_msg_name(msg->header.type);
	enum kvf_status status = get_body(reader, msg);

	if (status != KVF_OK)
		return status;
	if (reader->failed)
		return kvfi_fail(KVF_PROTOCOL, "%s: length: %zu bytes are too few", name, reader->len_bytes);
	if (kvfi_reader_left(reader) != 0)
		return kvfi_fail(
			KVF_PROTOCOL, "%s: length: %zu bytes too many", name, kvfi_reader_left(reader));
	return KVF_OK;
}
