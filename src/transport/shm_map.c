/* shm_map.c - a peer's regions in this process: checked, mapped, populated, unmapped.
 *
 * Guarantees: only memory sealed against shrinking is mapped, so no store can fault because its owner cut it; a forked child does not
 * inherit it, nor may it store if it was forked between the two calls that see to that; an entry of the windows below n changes only
 * while no post of the link is open, and under sink_lock. Each region can be fenced from the moment it is mapped, where the kernel can. Pages are touched by a copy
 * worker before the link comes up, a bounded piece per turn of it, so that neither the owner nor the first transfers pay for page faults.
 */
#include "transport/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/checked.h"
#include "base/status.h"
#include "memory/region.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; glibc 2.36 lacks it */
#endif

#define SEALS           (F_SEAL_SHRINK | F_SEAL_GROW)
#define POPULATE_BYTES  (UINT64_C(32) << 20) /* per turn of a worker */
#define HUGE_PAGE_BYTES (UINT64_C(2) << 20)

static enum kvf_status check_memfd(int fd, uint64_t len_bytes)
{
	struct stat info;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & SEALS) != SEALS)
		return kvfi_fail(
			KVF_PROTOCOL, "shm: memory that is not sealed against shrinking and growing");
	if (fstat(fd, &info) != 0 || info.st_size < 0)
		return kvfi_fail_errno(KVF_PROTOCOL, errno, "shm: fstat of what a peer passed");
	if (len_bytes == 0 || len_bytes > (uint64_t)info.st_size)
		return kvfi_fail(KVF_OUT_OF_RANGE, "shm: %llu bytes claimed, the memory has %llu",
			(unsigned long long)len_bytes, (unsigned long long)info.st_size);
	return KVF_OK;
}

enum kvf_status kvfi_shm_map(int fd, uint64_t len_bytes, void **memory_out)
{
	enum kvf_status status = check_memfd(fd, len_bytes);
	void *memory = MAP_FAILED;

	if (status == KVF_OK) {
		memory = mmap(NULL, len_bytes, PROT_NONE, MAP_SHARED, fd, 0);
		if (memory == MAP_FAILED)
			status = kvfi_fail_errno(KVF_ENOMEM, errno, "shm: mapping %llu bytes of a peer",
				(unsigned long long)len_bytes);
	}
	(void)close(fd);
	if (status != KVF_OK)
		return status;
	if (madvise(memory, len_bytes, MADV_DONTFORK) != 0 ||
		mprotect(memory, len_bytes, PROT_READ | PROT_WRITE) != 0) {
		status = kvfi_fail_errno(KVF_EIO, errno, "shm: MADV_DONTFORK, mprotect");
		(void)munmap(memory, len_bytes);
		return status;
	}
	if (len_bytes >= HUGE_PAGE_BYTES)
		(void)madvise(memory, len_bytes, MADV_HUGEPAGE); /* a hint */
	*memory_out = memory;
	return KVF_OK;
}

static void unmap(struct kvfi_window *window)
{
	KVFI_ASSERT(munmap((void *)(uintptr_t)window->start, window->end - window->start) == 0);
	window->end = window->start;
}

static bool empty(const struct kvfi_window *window)
{
	return window->start == window->end;
}

/* An entry to fill: one that was emptied, if nobody can be looking, else a new one. */
static uint32_t free_window(struct shm_link *link)
{
	uint32_t n = atomic_load(&link->windows.n);

	for (uint32_t i = 0; i < n && atomic_load(&link->posts) == 0; i++) {
		if (empty(&link->windows.table[i]))
			return i;
	}
	return n;
}

/* Where the live entry of a region is; SHM_MAX_REGIONS: nowhere. */
static uint32_t find_window(const struct shm_link *link, uint32_t region)
{
	uint32_t n = atomic_load(&link->windows.n), at = 0;

	while (at < n && (link->windows.table[at].region != region || empty(&link->windows.table[at]) ||
				 link->withdrawn[at]))
		at++;
	return at < n ? at : SHM_MAX_REGIONS;
}

static enum kvf_status check_region(const struct shm_region *region, uint32_t at)
{
	if (at >= SHM_MAX_REGIONS)
		return kvfi_fail(KVF_EFULL, "shm: more than %u regions of one peer", SHM_MAX_REGIONS);
	if (region->index >> (64 - KVFI_REGION_SHIFT) != 0 ||
		region->len_bytes > UINT64_C(1) << KVFI_REGION_SHIFT)
		return kvfi_fail(KVF_PROTOCOL, "shm: region %u of %llu bytes makes no sense", region->index,
			(unsigned long long)region->len_bytes);
	return KVF_OK;
}

static void publish(struct shm_link *link, uint32_t at, const struct shm_region *region, uint64_t start)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), end = start + kvfi_align_up(region->len_bytes, page);
	bool covered = kvfi_shm_fence_cover(link->fence_fd, start, end);

	(void)pthread_mutex_lock(&link->transport->sink_lock);
	link->windows.table[at] = (struct kvfi_window){region->index, start, start + region->len_bytes};
	link->generations[at] = region->generation;
	link->placed[at] = covered ? SHM_TO_PLACE : SHM_UNFENCED;
	link->withdrawn[at] = false;
	if (at == atomic_load(&link->windows.n))
		atomic_store(&link->windows.n, at + 1);
	(void)pthread_mutex_unlock(&link->transport->sink_lock);
}

enum kvf_status kvfi_shm_map_region(struct shm_link *link, const struct shm_region *region, int fd)
{
	uint32_t at = free_window(link), old = find_window(link, region->index);
	enum kvf_status status = check_region(region, at);
	void *memory = NULL;

	if (status == KVF_OK && old != SHM_MAX_REGIONS && link->generations[old] == region->generation)
		status = kvfi_fail(KVF_PROTOCOL, "shm: region %u is shared twice", region->index);
	if (status != KVF_OK) {
		(void)close(fd);
		return status;
	}
	status = kvfi_shm_map(fd, region->len_bytes, &memory);
	if (status != KVF_OK)
		return status;
	if (old != SHM_MAX_REGIONS)
		link->withdrawn[old] = true; /* its GONE had no room before the index was used again */
	publish(link, at, region, (uint64_t)(uintptr_t)memory);
	kvfi_shm_sweep(link);
	return KVF_OK;
}

bool kvfi_shm_place(struct shm_link *link)
{
	uint32_t n = atomic_load(&link->windows.n);

	for (uint32_t i = 0; i < n; i++) {
		const struct kvfi_window *window = &link->windows.table[i];
		struct shm_mapped mapped = {.index = window->region,
			.generation = link->generations[i],
			.address = window->start,
			.len_bytes = window->end - window->start};

		if (link->placed[i] != SHM_TO_PLACE || link->withdrawn[i] || empty(window))
			continue;
		if (!kvfi_shm_packet(link, SHM_MAPPED, &mapped, sizeof(mapped), NULL))
			return false;
		link->placed[i] = SHM_PLACED;
	}
	return true;
}

enum kvf_status kvfi_shm_withdraw(struct shm_link *link, const struct shm_gone *gone)
{
	uint32_t at = find_window(link, gone->index);

	if (at == SHM_MAX_REGIONS || link->generations[at] != gone->generation)
		return kvfi_fail(KVF_PROTOCOL, "shm: generation %u of region %u is not shared",
			gone->generation, gone->index);
	link->withdrawn[at] = true;
	kvfi_shm_sweep(link);
	return KVF_OK;
}

void kvfi_shm_sweep(struct shm_link *link)
{
	uint32_t n = atomic_load(&link->windows.n);

	if (atomic_load(&link->posts) != 0 || link->state == SHM_POPULATING)
		return;
	(void)pthread_mutex_lock(&link->transport->sink_lock);
	for (uint32_t i = 0; i < n; i++) {
		if (link->withdrawn[i] && !empty(&link->windows.table[i]))
			unmap(&link->windows.table[i]);
		link->withdrawn[i] = false;
	}
	(void)pthread_mutex_unlock(&link->transport->sink_lock);
}

/* Addresses that a receiver may yet protect are never given back: whatever came to lie there would be fenced in their place. It takes a receiver
 * that dies or is stopped in the middle of fencing; the price is a piece of address space. */
void kvfi_shm_unmap_all(struct shm_link *link, bool addresses)
{
	uint32_t n = atomic_load(&link->windows.n);

	for (uint32_t i = 0; i < n; i++) {
		if (!empty(&link->windows.table[i]) &&
			(addresses || !kvfi_shm_reserve(&link->windows.table[i])))
			unmap(&link->windows.table[i]);
	}
	if (link->words != NULL)
		KVFI_ASSERT(munmap(link->words, link->words_bytes) == 0);
	link->words = NULL;
}

/* ---- populating, on a copy worker */

/* The next piece; false when there is none. A kernel that cannot (before 5.14) leaves it to the first stores. */
static bool populate_piece(struct shm_link *link)
{
	const struct kvfi_window *window;
	uint64_t len_bytes;

	if (atomic_load(&link->stop) || link->populate_window >= atomic_load(&link->windows.n))
		return false;
	window = &link->windows.table[link->populate_window];
	len_bytes = kvfi_min_u64(POPULATE_BYTES, window->end - window->start - link->populate_offset);
	if (madvise((void *)(uintptr_t)(window->start + link->populate_offset), len_bytes,
		    MADV_POPULATE_WRITE) != 0 &&
		errno == EINVAL)
		return false;
	link->populate_offset += len_bytes;
	if (link->populate_offset == window->end - window->start) {
		link->populate_window++;
		link->populate_offset = 0;
	}
	return true;
}

static void run_populate(struct kvfi_job *job)
{
	struct shm_link *link =
		(struct shm_link *)(void *)((char *)job - offsetof(struct shm_link, populate_job));
	struct shm_transport *self = link->transport;

	if (populate_piece(link)) {
		self->env.submit(self->env.self, job);
		return;
	}
	atomic_store(&link->populated, true);
	kvfi_shm_link_put(link);
	kvfi_shm_wake(self);
	kvfi_shm_work_ended(self);
}

void kvfi_shm_populate(struct shm_link *link)
{
	link->state = SHM_POPULATING;
	link->populate_job = (struct kvfi_job){.run = run_populate};
	kvfi_shm_work_began(link->transport);
	(void)kvfi_shm_link_get(link);
	link->transport->env.submit(link->transport->env.self, &link->populate_job);
}
