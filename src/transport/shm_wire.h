/* shm_wire.h - what goes over the unix socket of two agents on one host: packets of at most 4,112 bytes, some with descriptors.
 *
 * Header (16 bytes, little-endian): magic "KVSH", version u16, type u16, length of the body u32, 0 u32. Then the body:
 *
 *   HELLO    decode -> prefill, first.  u64 incarnation of the sender, u64 of the receiver, u64 link, u32 lease words, u32 flags;
 *            descriptors: memfd of the lease words and the gate behind them, sealed against shrinking and growing; with SHM_HAS_PROCESS:
 *            a pidfd of the sender
 *   REGION   decode -> prefill.  u32 index, u32 generation, u64 length; descriptor: memfd of the region, sealed likewise
 *   READY    decode -> prefill.  empty: all regions so far are told
 *   MAPPED   prefill -> decode.  u32 index, u32 generation, u64 address, u64 length: where the fence finds that region, once it can be fenced
 *   WELCOME  prefill -> decode, the answer to READY.  as HELLO, lease words 0; descriptors, in this order: with SHM_HAS_PROCESS a
 *            pidfd of the sender, with SHM_HAS_FENCE a userfaultfd over what MAPPED names
 *   REFUSE   prefill -> decode.  i32 status, 124 bytes of text with a 0 in it; the connection ends
 *   GONE     decode -> prefill.  u32 index, u32 generation: unmap it when your posts allow
 *   FRAME    both ways, once up: a control frame of at most 4,096 bytes, not looked into
 *
 * REGION and GONE may come at any time after HELLO, MAPPED after READY. A packet of another length, with descriptors that do not belong to it, or out of
 * place ends the connection.
 */
#ifndef KVFI_TRANSPORT_SHM_WIRE_H
#define KVFI_TRANSPORT_SHM_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include "kvferry/kvferry.h"
#include "transport/transport.h"

#define SHM_MAGIC   UINT32_C(0x4853564b) /* "KVSH" */
#define SHM_VERSION 2u
#define SHM_MAX_FDS 3u /* that belong to one packet */

/* In HELLO and WELCOME: which descriptors come along. */
#define SHM_HAS_PROCESS UINT32_C(1)
#define SHM_HAS_FENCE   UINT32_C(2)

enum shm_packet_type {
	SHM_HELLO = 1,
	SHM_REGION = 2,
	SHM_READY = 3,
	SHM_WELCOME = 4,
	SHM_REFUSE = 5,
	SHM_GONE = 6,
	SHM_FRAME = 7,
	SHM_MAPPED = 8
};

struct shm_header {
	uint32_t magic;
	uint16_t version, type;
	uint32_t len_bytes, zero;
};

struct shm_hello {
	uint64_t from, to, link;
	uint32_t lease_words, flags;
};

struct shm_region {
	uint32_t index, generation;
	uint64_t len_bytes;
};

struct shm_refuse {
	int32_t status;
	char reason[124];
};

struct shm_gone {
	uint32_t index, generation;
};

struct shm_mapped {
	uint32_t index, generation;
	uint64_t address, len_bytes;
};

union shm_body {
	struct shm_hello hello;
	struct shm_region region;
	struct shm_refuse refuse;
	struct shm_gone gone;
	struct shm_mapped mapped;
	unsigned char frame[KVFI_HOT_FRAME_MAX];
};

/* Descriptors that go, or came, with a packet; -1 in fd: taken out. */
struct shm_fds {
	uint32_t n;
	int fd[SHM_MAX_FDS];
};

struct shm_packet {
	struct shm_header header;
	union shm_body body;
	struct shm_fds fds; /* not sent as bytes */
};

enum shm_io {
	SHM_IO_OK = 0,
	SHM_IO_AGAIN = 1,  /* not now */
	SHM_IO_CLOSED = 2, /* the other side is gone */
	SHM_IO_BAD = 3     /* what came makes no sense; the reason is in kvf_error() */
};

/* fds: to pass along; they stay the caller's; NULL: none. Never blocks. */
enum shm_io kvfi_shm_send(int socket_fd, enum shm_packet_type type, const void *body, size_t len_bytes,
	const struct shm_fds *fds);
/* packet_out is checked for magic, version, type, length and the number of its descriptors, which are the caller's: take them, then close the
 * rest. KVF_PEER_VERSION or KVF_PROTOCOL in *status_out with SHM_IO_BAD, and there are none. */
enum shm_io kvfi_shm_recv(int socket_fd, struct shm_packet *packet_out, enum kvf_status *status_out);
/* The next descriptor of the packet, now the caller's; -1: none is left. */
int kvfi_shm_take_fd(struct shm_packet *packet);
void kvfi_shm_close_fds(struct shm_packet *packet);

#endif
