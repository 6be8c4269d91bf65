/* shm_process.c - the process behind a connection: known by a pidfd, asked whether it has ended.
 *
 * Guarantees: "ended" is said only by a pidfd, never by a number (which is used again, and is 0 between pid name spaces) and never by a closed
 * socket (which a forked child keeps open, and which a live process may close). The kernel makes a pidfd readable when the last thread of the
 * process is gone, after it has left its address space. Mappings of peers' memory are not inherited by forked children (shm_map.c), so then
 * nobody stores through them any more.
 *
 * The kernel tells who is connected to a socket (SO_PEERPIDFD, Linux 6.5); an older one does not, and then the descriptor counts that the peer
 * passed itself. Without either, the end of a process is never used as a proof. Owner thread.
 */
#include "transport/shm.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5; on the architectures with the generic numbers */
#endif

int kvfi_shm_own_process(void)
{
#ifdef SYS_pidfd_open
	return (int)syscall(SYS_pidfd_open, getpid(), 0); /* close-on-exec by itself */
#else
	return -1;
#endif
}

static int process_behind(int socket_fd)
{
	socklen_t len = sizeof(int);
	int fd = -1;

	if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) != 0 || len != sizeof(fd))
		return -1;
	return fd;
}

/* Signal 0 to it is refused in many ways, but only what is no pidfd is a bad descriptor. */
static bool is_process(int fd)
{
#ifdef SYS_pidfd_send_signal
	return syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0) == 0 || errno != EBADF;
#else
	(void)fd;
	return false;
#endif
}

void kvfi_shm_meet_process(struct shm_link *link, int passed)
{
	int fd = link->process_fd < 0 ? process_behind(link->fd) : -1;

	if (link->process_fd < 0 && fd < 0 && passed >= 0 && is_process(passed)) {
		fd = passed;
		passed = -1;
	}
	if (passed >= 0)
		(void)close(passed);
	if (fd < 0)
		return;
	link->process_fd = fd;
	link->process_watched = kvfi_shm_watch(link->transport, fd, SHM_EVENT_PROCESS, link->peer);
}

void kvfi_shm_leave_process(struct shm_link *link)
{
	if (link->process_watched)
		kvfi_shm_unwatch(link->transport, link->process_fd);
	link->process_watched = false;
}

bool kvfi_shm_has_exited(struct shm_link *link)
{
	struct pollfd asked = {.fd = link->process_fd, .events = POLLIN};

	if (!link->exited && link->process_fd >= 0)
		link->exited = poll(&asked, 1, 0) == 1 && (asked.revents & POLLIN) != 0;
	return link->exited;
}
