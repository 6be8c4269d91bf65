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

#define MAX_FDS 4 /* one is expected; a few more are received to be closed, the kernel closes the rest */

union control {
	struct cmsghdr align;
	unsigned char bytes[CMSG_SPACE(sizeof(int) * MAX_FDS)];
};

enum shm_io kvfi_shm_send(
	int socket_fd, enum shm_packet_type type, const void *body, size_t len_bytes, int fd)
{
	struct shm_header header = {.magic = SHM_MAGIC,
		.version = SHM_VERSION,
		.type = (uint16_t)type,
		.len_bytes = (uint32_t)len_bytes};
	struct iovec parts[2] = {{&header, sizeof(header)}, {(void *)(uintptr_t)body, len_bytes}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = len_bytes != 0 ? 2 : 1};
	union control control;
	ssize_t sent;

	if (fd >= 0) {
		struct cmsghdr *rights = &control.align;

		memset(&control, 0, sizeof(control));
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(sizeof(int));
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
	}
	do {
		sent = sendmsg(socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent >= 0)
		return SHM_IO_OK;
	return errno == EAGAIN || errno == EWOULDBLOCK ? SHM_IO_AGAIN : SHM_IO_CLOSED;
}

/* All descriptors of a message into fds; returns their number. */
static int take_fds(struct msghdr *message, int *fds)
{
	int n = 0;

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
	case SHM_FRAME:
		return len_bytes <= KVFI_HOT_FRAME_MAX;
	default:
		return false;
	}
}

static enum kvf_status check(const struct shm_packet *packet, size_t received, int n_fds, int flags)
{
	const struct shm_header *header = &packet->header;
	int want_fds = header->type == SHM_HELLO || header->type == SHM_REGION;

	if (received < sizeof(*header) || header->magic != SHM_MAGIC)
		return kvfi_fail(KVF_PROTOCOL, "shm: %zu bytes that are no packet of ours", received);
	if (header->version != SHM_VERSION)
		return kvfi_fail(
			KVF_PEER_VERSION, "shm: version %u, ours is %u", header->version, SHM_VERSION);
	if ((flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || header->len_bytes != received - sizeof(*header) ||
		!length_fits(header->type, header->len_bytes))
		return kvfi_fail(KVF_PROTOCOL, "shm: packet type %u with a body of %u bytes in %zu",
			header->type, header->len_bytes, received);
	if (n_fds != want_fds)
		return kvfi_fail(KVF_PROTOCOL, "shm: packet type %u with %d descriptors, not %d",
			header->type, n_fds, want_fds);
	return KVF_OK;
}

enum shm_io kvfi_shm_recv(
	int socket_fd, struct shm_packet *packet_out, int *fd_out, enum kvf_status *status_out)
{
	union control control;
	struct iovec part = {packet_out, sizeof(*packet_out)};
	struct msghdr message = {.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	int fds[MAX_FDS], n_fds;
	ssize_t received;

	memset(&packet_out->header, 0, sizeof(packet_out->header));
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
	*fd_out = n_fds == 1 ? fds[0] : -1;
	return SHM_IO_OK;
}
