/* shm_sink.c - the writer's half of a fence: what this process does when a receiver has taken its power to store.
 *
 * A writer makes a userfaultfd over its mappings of a receiver's regions and hands it over. A receiver that must be sure, of a writer that was
 * stopped inside a chunk say, write-protects these mappings through it; other writers of the region have mappings of their own. A worker that then
 * stores is caught in the kernel. It has to get out: the bytes must not land, and the worker cannot be made to forget them.
 *
 * So one thread of the writer sleeps on these descriptors. A fault tells it that the link is fenced: it has all posts of the link fail, puts
 * private memory (the sink) over every region, and wakes the worker, which ends its chunk there, leaves its lease and stops. The thread is not the
 * owner, because the owner copies small posts itself and may be the one who is caught. Nothing is handed back: the next connection of that peer maps
 * the regions afresh.
 *
 * Guarantees: SHUT is said in the gate only when no store through this link can follow; and if a receiver is about to protect addresses of the link,
 * they do not come to be used for anything else (lease.h). Our own copy of the descriptor lives until SHUT, so the protection does not end with
 * the receiver's.
 *
 * Needs Linux 5.19 (write protection of shared memory) and a seccomp profile that allows userfaultfd; no privileges, since only faults of user
 * code are asked for. Threads: see each function; sink_lock is held while a link is in the list or is being sunk.
 */
#include "transport/shm.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/assert.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif

#define EVENTS_PER_WAIT 16

/* ---- making a fence: owner thread */

int kvfi_shm_fence_new(void)
{
	struct uffdio_api api = {.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) != 0) {
		(void)close(fd);
		fd = -1;
	}
	return fd;
}

bool kvfi_shm_fence_cover(int fence_fd, uint64_t start, uint64_t end)
{
	struct uffdio_register range = {
		.range = {.start = start, .len = end - start}, .mode = UFFDIO_REGISTER_MODE_WP};

	return fence_fd >= 0 && ioctl(fence_fd, UFFDIO_REGISTER, &range) == 0;
}

/* ---- the thread that is told of faults */

/* While workers store there, by intent: called by its number, because to a thread sanitizer mmap() is itself a store to the whole range. */
static bool map_over(const struct kvfi_window *window, int prot, int fd)
{
	long flags = (fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | MAP_FIXED | MAP_NORESERVE;

	/* syscall() takes longs, and the last of these goes over the stack: of an int there the upper half is whatever was there. */
	return syscall(SYS_mmap, window->start, window->end - window->start, (long)prot, flags, (long)fd,
		       0L) != -1;
}

/* A file without a block, as long as the window: no memory is set aside for it, whatever the machine's rules for that. */
static bool map_sink(const struct kvfi_window *window)
{
	int fd = memfd_create("kvferry-sink", MFD_CLOEXEC);
	bool mapped = false;

	if (fd >= 0 && ftruncate(fd, (off_t)(window->end - window->start)) == 0)
		mapped = map_over(window, PROT_READ | PROT_WRITE, fd);
	if (fd >= 0)
		(void)close(fd);
	return mapped || map_over(window, PROT_READ | PROT_WRITE, -1); /* out of descriptors, say */
}

bool kvfi_shm_reserve(const struct kvfi_window *window)
{
	return map_over(window, PROT_NONE, -1);
}

/* Under sink_lock. A region for which there is no sink stays as it is, and whoever is caught there too. */
static void sink(struct shm_link *link)
{
	uint32_t n = atomic_load(&link->windows.n);

	atomic_store(&link->stop, true);
	atomic_store(&link->sunk, true);
	for (uint32_t i = 0; i < n; i++) {
		const struct kvfi_window *window = &link->windows.table[i];
		struct uffdio_range range = {.start = window->start, .len = window->end - window->start};

		if (range.len != 0 && map_sink(window))
			(void)ioctl(link->fence_fd, UFFDIO_WAKE, &range);
	}
}

/* Did a store of ours meet the fence?  The messages are of no other use. */
static bool was_caught(int fence_fd)
{
	struct uffd_msg message;
	bool caught = false;

	while (read(fence_fd, &message, sizeof(message)) == (ssize_t)sizeof(message))
		caught = caught || message.event == UFFD_EVENT_PAGEFAULT;
	return caught;
}

/* The link may be gone since the event was seen. */
static void look(struct shm_transport *self, const void *link_of_event)
{
	struct shm_link *link;

	(void)pthread_mutex_lock(&self->sink_lock);
	link = self->watched;
	while (link != NULL && link != link_of_event)
		link = link->next_watched;
	if (link != NULL && was_caught(link->fence_fd))
		sink(link);
	(void)pthread_mutex_unlock(&self->sink_lock);
}

static void *run(void *context)
{
	struct shm_transport *self = context;
	struct epoll_event events[EVENTS_PER_WAIT];

	for (;;) {
		int n = epoll_wait(self->sink_epoll_fd, events, EVENTS_PER_WAIT, -1);

		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr == self)
				return NULL;
			look(self, events[i].data.ptr);
		}
	}
}

static bool start_thread(struct shm_transport *self)
{
	struct epoll_event stop = {.events = EPOLLIN, .data.ptr = self};
	sigset_t all, before;

	if (self->has_sink_thread)
		return true;
	if (self->sink_epoll_fd < 0)
		self->sink_epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (self->sink_stop_fd < 0)
		self->sink_stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (self->sink_epoll_fd < 0 || self->sink_stop_fd < 0)
		return false;
	(void)epoll_ctl(self->sink_epoll_fd, EPOLL_CTL_ADD, self->sink_stop_fd, &stop);
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	self->has_sink_thread = pthread_create(&self->sink_thread, NULL, run, self) == 0;
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (self->has_sink_thread)
		(void)pthread_setname_np(self->sink_thread, "kvf-shm-sink");
	return self->has_sink_thread;
}

/* Owner thread. */
bool kvfi_shm_sink_watch(struct shm_link *link)
{
	struct shm_transport *self = link->transport;
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = link};

	if (!start_thread(self))
		return false;
	(void)pthread_mutex_lock(&self->sink_lock);
	link->watched = epoll_ctl(self->sink_epoll_fd, EPOLL_CTL_ADD, link->fence_fd, &event) == 0;
	if (link->watched) {
		link->next_watched = self->watched;
		self->watched = link;
	}
	(void)pthread_mutex_unlock(&self->sink_lock);
	return link->watched;
}

/* Any thread: whoever lets go of the link last. */
bool kvfi_shm_sink_shut(struct shm_link *link)
{
	struct shm_transport *self = link->transport;
	uint64_t said = 0;

	(void)pthread_mutex_lock(&self->sink_lock);
	if (link->watched) {
		struct shm_link **at = &self->watched;

		while (*at != link)
			at = &(*at)->next_watched;
		*at = link->next_watched;
		link->watched = false;
		(void)epoll_ctl(self->sink_epoll_fd, EPOLL_CTL_DEL, link->fence_fd, NULL);
	}
	(void)pthread_mutex_unlock(&self->sink_lock);
	if (link->words != NULL)
		said = kvfi_gate_say(kvfi_lease_table_gate(link->words, link->n_words), KVFI_GATE_SHUT);
	return (said & KVFI_GATE_FENCING) == 0 || (said & KVFI_GATE_FENCED) != 0;
}

/* Owner thread, when no worker is inside a post. */
void kvfi_shm_sink_stop(struct shm_transport *self)
{
	if (self->has_sink_thread) {
		(void)eventfd_write(self->sink_stop_fd, 1);
		(void)pthread_join(self->sink_thread, NULL);
	}
	if (self->sink_epoll_fd >= 0)
		(void)close(self->sink_epoll_fd);
	if (self->sink_stop_fd >= 0)
		(void)close(self->sink_stop_fd);
}
