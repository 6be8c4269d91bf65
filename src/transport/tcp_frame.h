/* tcp_frame.h - the bytes of the tcp transport's data stream and of its address; docs/wire.md has the tables.
 *
 * Pure: bytes in, structs out. Everything is little-endian and of fixed size but the ranges of a SLICE, which are counted.
 * The get functions take hostile bytes: they look at nothing outside what they are given and refuse what a sender of this version never
 * writes (unknown types, lengths over the limits, reserved bits).
 */
#ifndef KVFI_TRANSPORT_TCP_FRAME_H
#define KVFI_TRANSPORT_TCP_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kvferry/kvferry.h"
#include "geometry/geometry.h"

#define KVFI_TCP_MAGIC   UINT32_C(0x5444564b) /* "KVDT", little-endian */
#define KVFI_TCP_VERSION 1u

#define KVFI_TCP_GREETING_BYTES  64u
#define KVFI_TCP_HEADER_BYTES    32u
#define KVFI_TCP_SLICE_BYTES     32u /* of a SLICE's body, before the ranges */
#define KVFI_TCP_RANGE_BYTES     20u
#define KVFI_TCP_SLICE_MAX_BYTES (KVFI_TCP_SLICE_BYTES + KVFI_MAX_RANGES * KVFI_TCP_RANGE_BYTES)
#define KVFI_TCP_DATA_MAX_BYTES  (256u * 1024u) /* payload of one DATA frame */
#define KVFI_TCP_ADDRESS_BYTES   32u

enum kvfi_tcp_type {
	KVFI_TCP_HELLO = 1,   /* first bytes of the connecting side */
	KVFI_TCP_WELCOME = 2, /* first bytes of the listening side: the answer, yes or no */
	KVFI_TCP_SLICE = 3,   /* what the DATA frames that follow are */
	KVFI_TCP_DATA = 4,
	KVFI_TCP_ABORT = 5 /* the slice ends here, unfinished */
};

/* HELLO and WELCOME: the handshake, once in each direction. */
struct kvfi_tcp_greeting {
	enum kvfi_tcp_type type;
	enum kvf_status status; /* WELCOME: KVF_OK, or why the connection is closed now; HELLO: KVF_OK */
	uint64_t from, to;      /* incarnations */
	uint64_t link;          /* as the control channel named it; admits one connection */
	uint64_t nonce;         /* drawn by the connecting side, echoed by the listening one */
	uint32_t rail;          /* 0: the only data connection of its link */
};

/* What every frame after the handshake begins with. */
struct kvfi_tcp_header {
	enum kvfi_tcp_type type;
	uint32_t length; /* of what follows: SLICE its body, DATA its payload, ABORT 0 */
	uint64_t epoch;  /* the receiver's */
	uint32_t slice;  /* the sender's slice id */
	uint32_t flags;  /* SLICE: KVFI_TCP_SUM; ABORT: the status; else 0 */
	uint64_t
		position; /* SLICE: bytes of the slice; DATA: canonical position of its first byte; ABORT: bytes sent before it */
};

#define KVFI_TCP_SUM UINT32_C(1) /* the sender sums what it sends */

struct kvfi_tcp_slice {
	uint64_t request_id;
	uint32_t attempt;
	uint32_t lease_slot, lease_generation; /* as the REQUEST named them */
	uint32_t layer_start, layer_end;
	uint32_t n_ranges;
	struct kvfi_range ranges[KVFI_MAX_RANGES];
};

/* Where a transport listens; port 0: nowhere, it only connects. */
struct kvfi_tcp_address {
	uint16_t family; /* 4 or 6 */
	uint16_t port;
	unsigned char ip[16]; /* network order; the first four bytes when family is 4 */
	uint64_t
		host; /* number of the host (and network namespace): loopback addresses mean something there alone */
};

void kvfi_tcp_put_greeting(unsigned char *bytes, const struct kvfi_tcp_greeting *greeting);
/* KVF_PROTOCOL; KVF_PEER_VERSION when the magic is right and the version is not ours (greeting_out is then filled as far as HELLOs of all
 * versions agree: type and nonce). */
KVF_MUST_CHECK enum kvf_status kvfi_tcp_get_greeting(
	const unsigned char *bytes, struct kvfi_tcp_greeting *greeting_out);

void kvfi_tcp_put_header(unsigned char *bytes, const struct kvfi_tcp_header *header);
/* KVF_PROTOCOL names the field and its value. */
KVF_MUST_CHECK enum kvf_status kvfi_tcp_get_header(
	const unsigned char *bytes, struct kvfi_tcp_header *header_out);

/* Length of the body. */
uint32_t kvfi_tcp_put_slice(unsigned char *bytes, const struct kvfi_tcp_slice *slice);
KVF_MUST_CHECK enum kvf_status kvfi_tcp_get_slice(
	const unsigned char *bytes, uint32_t len_bytes, struct kvfi_tcp_slice *slice_out);

void kvfi_tcp_put_address(unsigned char *bytes, const struct kvfi_tcp_address *address);
KVF_MUST_CHECK enum kvf_status kvfi_tcp_get_address(
	const void *bytes, size_t len_bytes, struct kvfi_tcp_address *address_out);
/* From "127.0.0.1:0" or "[::1]:4711"; KVF_EINVAL names the field and the text. host is left alone. */
KVF_MUST_CHECK enum kvf_status kvfi_tcp_parse_address(
	const char *field, const char *text, struct kvfi_tcp_address *address_out);
/* "127.0.0.1:4711"; text_out has room for KVFI_TCP_TEXT_BYTES. */
#define KVFI_TCP_TEXT_BYTES 64u
void kvfi_tcp_format_address(const struct kvfi_tcp_address *address, char *text_out);
bool kvfi_tcp_is_loopback(const struct kvfi_tcp_address *address);
bool kvfi_tcp_is_any(const struct kvfi_tcp_address *address);

#endif
