/* shm_wire.c - packets of the shm handshake: sending, receiving, and distrusting them. See shm_wire.h for the bytes.
 *
 * Every received descriptor is either handed to the caller or closed here; none is inherited over exec. Any thread, one per socket.
 */
#include "transport/shm_wire.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include "base/status.h"

#define MAX_FDS (SHM_MAX_FDS + 1u) /* one too many is received to be closed, the kernel closes the rest */

union control {
	struct cmsghdr align;
	unsigned char bytes[CMSG_SPACE(sizeof(int) * MAX_FDS)];
};

enum shm_io kvfi_shm_send(int socket_fd, enum shm_packet_type type, const void *body, size_t len_bytes,
	const struct shm_fds *fds)
{
	struct shm_header header = {.magic = SHM_MAGIC,
		.version = SHM_VERSION,
		.type = (uint16_t)type,
		.len_bytes = (uint32_t)len_bytes};
	struct iovec parts[2] = {{&header, sizeof(header)}, {(void *)(uintptr_t)body, len_bytes}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = len_bytes != 0 ? 2 : 1};
	union control control;
	ssize_t sent;

	if (fds != NULL && fds->n > 0) {
		struct cmsghdr *rights = &control.align;

		memset(&control, 0, sizeof(control));
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(fds->n * sizeof(int));
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(fds->n * sizeof(int));
		memcpy(CMSG_DATA(rights), fds->fd, fds->n * sizeof(int));
	}
	do {
		sent = sendmsg(socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent >= 0)
		return SHM_IO_OK;
	return errno == EAGAIN || errno == EWOULDBLOCK ? SHM_IO_AGAIN : SHM_IO_CLOSED;
}

/* All descriptors of a message into fds; returns their number. */
static uint32_t take_fds(struct msghdr *message, int *fds)
{
	uint32_t n = 0;

	for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
		size_t len = part->cmsg_len - CMSG_LEN(0);

		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < len / sizeof(int) && n < MAX_FDS; i++)
			memcpy(&fds[n++], CMSG_DATA(part) + i * sizeof(int), sizeof(int));
	}
	return n;
}

/* Length of the body that a type demands; false: no such type. */
static bool length_fits(uint16_t type, uint32_t len_bytes)
{
	switch (type) {
	case SHM_HELLO:
	case SHM_WELCOME:
		return len_bytes == sizeof(struct shm_hello);
	case SHM_REGION:
		return len_bytes == sizeof(struct shm_region);
	case SHM_READY:
		return len_bytes == 0;
	case SHM_REFUSE:
		return len_bytes == sizeof(struct shm_refuse);
	case SHM_GONE:
		return len_bytes == sizeof(struct shm_gone);
	case SHM_MAPPED:
		return len_bytes == sizeof(struct shm_mapped);
	case SHM_FRAME:
		return len_bytes <= KVFI_HOT_FRAME_MAX;
	default:
		return false;
	}
}

/* How many descriptors belong to a packet whose length was found right; SHM_MAX_FDS + 1: it promises what there is not. */
static uint32_t fds_of(const struct shm_packet *packet)
{
	uint32_t flags = packet->body.hello.flags;

	switch (packet->header.type) {
	case SHM_REGION:
		return 1;
	case SHM_HELLO:
		return (flags & ~SHM_HAS_PROCESS) == 0 ? 1 + flags : SHM_MAX_FDS + 1;
	case SHM_WELCOME:
		return (flags & ~(SHM_HAS_PROCESS | SHM_HAS_FENCE)) == 0 ? (flags & 1) + (flags >> 1)
		                                                         : SHM_MAX_FDS + 1;
	default:
		return 0;
	}
}

static enum kvf_status check(const struct shm_packet *packet, size_t received, uint32_t n_fds, int flags)
{
	const struct shm_header *header = &packet->header;
	uint32_t want_fds;

	if (received < sizeof(*header) || header->magic != SHM_MAGIC)
		return kvfi_fail(KVF_PROTOCOL, "shm: %zu bytes that are no packet of ours", received);
	if (header->version != SHM_VERSION)
		return kvfi_fail(
			KVF_PEER_VERSION, "shm: version %u, ours is %u", header->version, SHM_VERSION);
	if ((flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || header->len_bytes != received - sizeof(*header) ||
		!length_fits(header->type, header->len_bytes))
		return kvfi_fail(KVF_PROTOCOL, "shm: packet type %u with a body of %u bytes in %zu",
			header->type, header->len_bytes, received);
	want_fds = fds_of(packet);
	if (want_fds > SHM_MAX_FDS)
		return kvfi_fail(KVF_PROTOCOL, "shm: packet type %u with unknown flags %#x", header->type,
			packet->body.hello.flags);
	if (n_fds != want_fds)
		return kvfi_fail(KVF_PROTOCOL, "shm: packet type %u with %u descriptors, not %u",
			header->type, n_fds, want_fds);
	return KVF_OK;
}

int kvfi_shm_take_fd(struct shm_packet *packet)
{
	for (uint32_t i = 0; i < packet->fds.n; i++) {
		int fd = packet->fds.fd[i];

		packet->fds.fd[i] = -1;
		if (fd >= 0)
			return fd;
	}
	return -1;
}

void kvfi_shm_close_fds(struct shm_packet *packet)
{
	for (int fd = kvfi_shm_take_fd(packet); fd >= 0; fd = kvfi_shm_take_fd(packet))
		(void)close(fd);
}

enum shm_io kvfi_shm_recv(int socket_fd, struct shm_packet *packet_out, enum kvf_status *status_out)
{
	union control control;
	struct iovec part = {packet_out, offsetof(struct shm_packet, fds)};
	struct msghdr message = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	int fds[MAX_FDS];
	uint32_t n_fds;
	ssize_t received;

	memset(&packet_out->header, 0, sizeof(packet_out->header));
	packet_out->fds.n = 0;
	do {
		received = recvmsg(socket_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		/* ECONNRESET is told once, before what the peer said last (REFUSE, perhaps) can be read. */
	} while (received < 0 && (errno == EINTR || errno == ECONNRESET));
	if (received < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? SHM_IO_AGAIN : SHM_IO_CLOSED;
	n_fds = take_fds(&message, fds);
	if (received == 0 && n_fds == 0)
		return SHM_IO_CLOSED;
	*status_out = check(packet_out, (size_t)received, n_fds, message.msg_flags);
	if (*status_out != KVF_OK) {
		while (n_fds > 0)
			(void)close(fds[--n_fds]);
		return SHM_IO_BAD;
	}
	packet_out->fds.n = n_fds;
	memcpy(packet_out->fds.fd, fds, n_fds * sizeof(int));
	return SHM_IO_OK;
}
