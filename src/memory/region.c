/* region.c - the table of registered memory.
 *
 * Guarantees: memory made here is page-aligned, populated before it is handed out (a later touch never faults on a full machine),
 * sealed against shrinking and growing (a peer that maps it cannot be made to fault by a truncation), not inherited by a forked
 * child, and known under no name in any file system: it is gone when the last mapping is. Regions never overlap.
 * A freed slot keeps its generation, so that an old handle is stale and never names the next region.
 *
 * Owner: the agent. Changed by its front alone; transports read entries that they were told about.
 */
#include "memory/region.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/checked.h"
#include "base/status.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; glibc 2.36 lacks it */
#endif

#define MAX_REGIONS     (UINT32_C(1) << 16) /* 16 bits of a wire address */
#define MAX_LEN_BYTES   (UINT64_C(1) << KVFI_REGION_SHIFT)
#define HUGE_PAGE_BYTES (UINT64_C(2) << 20)

enum kvf_status kvfi_regions_init(struct kvfi_regions *regions, uint32_t max)
{
	struct kvfi_region *table;

	if (max == 0 || max > MAX_REGIONS)
		return kvfi_fail(KVF_EINVAL, "max_regions: %u is not in 1..%u", max, MAX_REGIONS);
	table = calloc(max, sizeof(*table));
	if (table == NULL)
		return kvfi_fail(KVF_ENOMEM, "regions: out of memory for %u entries", max);
	for (uint32_t i = 0; i < max; i++)
		table[i].fd = -1;
	regions->table = table;
	regions->max = max;
	return KVF_OK;
}

static void drop(struct kvfi_region *region)
{
	if (region->fd >= 0) {
		KVFI_ASSERT(munmap(region->memory, region->len_bytes) == 0);
		(void)close(region->fd);
	}
	region->memory = NULL;
	region->len_bytes = 0;
	region->fd = -1;
	region->users = 0;
	region->in_use = false;
}

void kvfi_regions_abandon(struct kvfi_regions *regions)
{
	for (uint32_t i = 0; i < regions->max; i++) {
		if (regions->table[i].in_use && regions->table[i].fd >= 0)
			(void)close(regions->table[i].fd); /* the mapping needs it no more */
	}
	free(regions->table);
	regions->table = NULL;
	regions->max = 0;
}

void kvfi_regions_fini(struct kvfi_regions *regions)
{
	for (uint32_t i = 0; i < regions->max; i++) {
		if (regions->table[i].in_use)
			drop(&regions->table[i]);
	}
	free(regions->table);
	regions->table = NULL;
	regions->max = 0;
}

static struct kvfi_region *free_slot(struct kvfi_regions *regions, uint32_t *index_out)
{
	for (uint32_t i = 0; i < regions->max; i++) {
		if (!regions->table[i].in_use) {
			*index_out = i;
			return &regions->table[i];
		}
	}
	return NULL;
}

/* Every page, now: a machine without the memory says so here and not by SIGBUS in the middle of a transfer. */
static enum kvf_status populate(int fd, void *memory, uint64_t len_bytes)
{
	if (madvise(memory, len_bytes, MADV_POPULATE_WRITE) == 0)
		return KVF_OK;
	if (errno != EINVAL)
		return kvfi_fail_errno(
			KVF_ENOMEM, errno, "region: populating %llu bytes", (unsigned long long)len_bytes);
	if (fallocate(fd, 0, 0, (off_t)len_bytes) != 0)
		return kvfi_fail_errno(
			KVF_ENOMEM, errno, "region: allocating %llu bytes", (unsigned long long)len_bytes);
	for (uint64_t i = 0; i < len_bytes; i += 4096)
		((volatile unsigned char *)memory)[i] = 0;
	return KVF_OK;
}

static enum kvf_status make_memfd(uint64_t len_bytes, int *fd_out)
{
	int fd = memfd_create("kvferry", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return kvfi_fail_errno(KVF_EIO, errno, "region: memfd_create");
	if (ftruncate(fd, (off_t)len_bytes) != 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
		int saved_errno = errno;

		(void)close(fd);
		return kvfi_fail_errno(KVF_ENOMEM, saved_errno, "region: sizing a memfd to %llu bytes",
			(unsigned long long)len_bytes);
	}
	*fd_out = fd;
	return KVF_OK;
}

static enum kvf_status map_memfd(int fd, uint64_t len_bytes, void **memory_out)
{
	void *memory = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	enum kvf_status status;

	if (memory == MAP_FAILED)
		return kvfi_fail_errno(
			KVF_ENOMEM, errno, "region: mapping %llu bytes", (unsigned long long)len_bytes);
	if (madvise(memory, len_bytes, MADV_DONTFORK) != 0) {
		status = kvfi_fail_errno(KVF_EIO, errno, "region: MADV_DONTFORK");
		goto unmap;
	}
	if (len_bytes >= HUGE_PAGE_BYTES)
		(void)madvise(memory, len_bytes, MADV_HUGEPAGE); /* a hint: fewer misses on strided copies */
	status = populate(fd, memory, len_bytes);
	if (status != KVF_OK)
		goto unmap;
	*memory_out = memory;
	return KVF_OK;
unmap:
	(void)munmap(memory, len_bytes);
	return status;
}

static void publish(struct kvfi_region *region, void *memory, uint64_t len_bytes, int fd)
{
	region->memory = memory;
	region->len_bytes = len_bytes;
	region->fd = fd;
	region->users = 0;
	region->generation++;
	region->in_use = true;
}

enum kvf_status kvfi_regions_alloc(struct kvfi_regions *regions, uint64_t len_bytes, uint32_t *index_out)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct kvfi_region *region;
	uint32_t index;
	enum kvf_status status;
	void *memory = NULL;
	int fd = -1;

	if (len_bytes == 0 || len_bytes > MAX_LEN_BYTES - page)
		return kvfi_fail(KVF_EINVAL, "region: len_bytes %llu is not in 1..%llu",
			(unsigned long long)len_bytes, (unsigned long long)(MAX_LEN_BYTES - page));
	region = free_slot(regions, &index);
	if (region == NULL)
		return kvfi_fail(KVF_EFULL, "region: all %u entries are in use (max_regions)", regions->max);
	len_bytes = kvfi_align_up(len_bytes, page);
	status = make_memfd(len_bytes, &fd);
	if (status != KVF_OK)
		return status;
	status = map_memfd(fd, len_bytes, &memory);
	if (status != KVF_OK) {
		(void)close(fd);
		return status;
	}
	publish(region, memory, len_bytes, fd);
	*index_out = index;
	return KVF_OK;
}

static bool overlaps(const struct kvfi_region *region, uint64_t start, uint64_t end)
{
	uint64_t own = (uint64_t)(uintptr_t)region->memory;

	return region->in_use && start < own + region->len_bytes && own < end;
}

enum kvf_status kvfi_regions_register(
	struct kvfi_regions *regions, void *memory, uint64_t len_bytes, uint32_t *index_out)
{
	uint64_t start = (uint64_t)(uintptr_t)memory, end;
	struct kvfi_region *region;
	uint32_t index;

	if (memory == NULL)
		return kvfi_fail(KVF_EINVAL, "region: memory is NULL");
	if (len_bytes == 0 || len_bytes >= MAX_LEN_BYTES || kvfi_add_overflows(start, len_bytes, &end))
		return kvfi_fail(KVF_EINVAL, "region: %llu bytes at %p are not a range of memory",
			(unsigned long long)len_bytes, memory);
	for (uint32_t i = 0; i < regions->max; i++) {
		if (overlaps(&regions->table[i], start, end))
			return kvfi_fail(KVF_EINVAL,
				"region: %llu bytes at %p overlap region %u (%llu bytes at %p)",
				(unsigned long long)len_bytes, memory, i,
				(unsigned long long)regions->table[i].len_bytes,
				(void *)regions->table[i].memory);
	}
	region = free_slot(regions, &index);
	if (region == NULL)
		return kvfi_fail(KVF_EFULL, "region: all %u entries are in use (max_regions)", regions->max);
	publish(region, memory, len_bytes, -1);
	*index_out = index;
	return KVF_OK;
}

enum kvf_status kvfi_regions_remove(struct kvfi_regions *regions, uint32_t index)
{
	if (index >= regions->max || !regions->table[index].in_use)
		return kvfi_fail(KVF_ESTALE, "region: %u is not registered", index);
	if (regions->table[index].users > 0)
		return kvfi_fail(KVF_EBUSY, "region %u: %u layouts or unreleased sessions still use it",
			index, regions->table[index].users);
	drop(&regions->table[index]);
	return KVF_OK;
}

kvf_region kvfi_region_handle(const struct kvfi_regions *regions, uint32_t index)
{
	kvf_region handle;

	KVFI_ASSERT(index < regions->max && regions->table[index].in_use);
	handle.bits = (uint64_t)regions->table[index].generation << 32 | (index + 1);
	return handle;
}

enum kvf_status kvfi_region_find(const struct kvfi_regions *regions, kvf_region handle, uint32_t *index_out)
{
	uint32_t index = (uint32_t)handle.bits - 1; /* 0 wraps to a number that no table reaches */
	const struct kvfi_region *region;

	if (index >= regions->max)
		return kvfi_fail(
			KVF_ESTALE, "region: %#llx was never a handle", (unsigned long long)handle.bits);
	region = &regions->table[index];
	if (!region->in_use || region->generation != (uint32_t)(handle.bits >> 32))
		return kvfi_fail(
			KVF_ESTALE, "region: the handle %#llx is stale", (unsigned long long)handle.bits);
	*index_out = index;
	return KVF_OK;
}

enum kvf_status kvfi_regions_to_wire(
	const struct kvfi_regions *regions, uint64_t address, uint64_t len_bytes, uint64_t *wire_out)
{
	for (uint32_t i = 0; i < regions->max; i++) {
		const struct kvfi_region *region = &regions->table[i];
		uint64_t offset = address - (uint64_t)(uintptr_t)region->memory;

		if (!region->in_use || offset >= region->len_bytes || len_bytes > region->len_bytes - offset)
			continue;
		*wire_out = (uint64_t)i << KVFI_REGION_SHIFT | offset;
		return KVF_OK;
	}
	return kvfi_fail(KVF_EINVAL, "%llu bytes at %#llx lie in no registered region",
		(unsigned long long)len_bytes, (unsigned long long)address);
}
