/* codec.h - messages to bytes and back. Hostile input: decode checks every length before it allocates and names what is wrong. */
#ifndef KVFI_WIRE_CODEC_H
#define KVFI_WIRE_CODEC_H

#include <stddef.h>
#include "wire/messages.h"

/* Upper bound of the encoded size. */
size_t kvfi_msg_bound(const struct kvfi_msg *msg);
/* Encodes into buffer. KVF_EUNSUPPORTED for cold messages in a build without msgpack; KVF_EFULL if it does not fit. */
KVF_MUST_CHECK enum kvf_status kvfi_msg_encode(
	const struct kvfi_msg *msg, void *buffer, size_t max_bytes, size_t *len_out);
/* KVF_PROTOCOL, KVF_PEER_VERSION (magic right, version not ours), KVF_ENOMEM. msg_out is to be freed with kvfi_msg_fini on success only. */
KVF_MUST_CHECK enum kvf_status kvfi_msg_decode(const void *bytes, size_t len_bytes, struct kvfi_msg *msg_out);
/* Hot: fixed frames that fit KVFI_HOT_FRAME_MAX and may travel over a transport's socket (RESULT with small aux, ACK, CANCEL, QUIET, CLAIM, GO, REQUEST_OK). */
bool kvfi_msg_is_hot(enum kvfi_msg_type type);
/* What may travel over a transport's socket when it fits: hot ones, and REQUEST, which every transfer begins with. */
bool kvfi_msg_may_ride(enum kvfi_msg_type type);

/* Tickets: fixed little-endian bytes with version and check hash; built without msgpack. */
struct kvfi_ticket {
	struct kvf_ticket_info info;
	uint32_t n_endpoints;
	const char *endpoints[16];
	char text[3072]; /* what endpoints points into after decode */
};
KVF_MUST_CHECK enum kvf_status kvfi_ticket_encode(
	const struct kvfi_ticket *ticket, void *buffer, size_t max_bytes, size_t *len_out);
/* KVF_ETICKET with the field in kvf_error(). Does not judge the expiry. */
KVF_MUST_CHECK enum kvf_status kvfi_ticket_decode(
	const void *bytes, size_t len_bytes, struct kvfi_ticket *ticket_out);

#endif
