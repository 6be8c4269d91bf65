/* lease_table.c - slots and generations of lease words. See lease_table.h.
 *
 * Free slots wait in a queue. take() turns the queue at most once: a slot whose word still counts a worker goes to the back, so a
 * writer that died inside a chunk costs its slot and nothing else. A slot whose 2^32 - 1 generations are spent leaves the queue.
 */
#include "memory/lease_table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/checked.h"
#include "base/status.h"

#define NONE      UINT32_MAX
#define MAX_SLOTS (UINT32_C(1) << 24)

static enum kvf_status map_words(struct kvfi_lease_table *table)
{
	int fd = memfd_create("kvferry-lease", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int saved_errno;
	void *words;

	if (fd < 0)
		return kvfi_fail_errno(KVF_EIO, errno, "lease table: memfd_create");
	if (ftruncate(fd, (off_t)table->mapped_bytes) != 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
		goto fail;
	words = mmap(NULL, table->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (words == MAP_FAILED)
		goto fail;
	if (madvise(words, table->mapped_bytes, MADV_DONTFORK) != 0) {
		saved_errno = errno;
		(void)munmap(words, table->mapped_bytes);
		errno = saved_errno;
		goto fail;
	}
	table->words = words;
	table->fd = fd;
	return KVF_OK;
fail:
	saved_errno = errno;
	(void)close(fd);
	return kvfi_fail_errno(
		KVF_ENOMEM, saved_errno, "lease table: %llu bytes", (unsigned long long)table->mapped_bytes);
}

static void push_free(struct kvfi_lease_table *table, uint32_t slot)
{
	table->slots[slot].next = NONE;
	if (table->free_last == NONE)
		table->free_first = slot;
	else
		table->slots[table->free_last].next = slot;
	table->free_last = slot;
}

static uint32_t pop_free(struct kvfi_lease_table *table)
{
	uint32_t slot = table->free_first;

	table->free_first = table->slots[slot].next;
	if (table->free_first == NONE)
		table->free_last = NONE;
	return slot;
}

enum kvf_status kvfi_lease_table_init(struct kvfi_lease_table *table, uint32_t n, bool shared)
{
	enum kvf_status status = KVF_OK;

	if (n == 0 || n > MAX_SLOTS)
		return kvfi_fail(KVF_EINVAL, "lease table: %u slots, not in 1..%u", n, MAX_SLOTS);
	*table = (struct kvfi_lease_table){.n = n, .fd = -1, .free_first = NONE, .free_last = NONE};
	table->slots = calloc(n, sizeof(*table->slots));
	if (table->slots == NULL)
		return kvfi_fail(KVF_ENOMEM, "lease table: out of memory for %u slots", n);
	if (shared) {
		table->mapped_bytes =
			kvfi_align_up(kvfi_lease_table_bytes(n), (uint64_t)sysconf(_SC_PAGESIZE));
		status = map_words(table);
	} else {
		table->words = calloc(1, kvfi_lease_table_bytes(n));
		if (table->words == NULL)
			status = kvfi_fail(KVF_ENOMEM, "lease table: out of memory for %u words", n);
	}
	if (status != KVF_OK) {
		free(table->slots);
		return status;
	}
	for (uint32_t i = 0; i < n; i++)
		push_free(table, i);
	table->gate = kvfi_lease_table_gate(table->words, n);
	return KVF_OK;
}

void kvfi_lease_table_fini(struct kvfi_lease_table *table)
{
	if (table->fd >= 0) {
		KVFI_ASSERT(munmap(table->words, table->mapped_bytes) == 0);
		(void)close(table->fd);
	} else {
		free(table->words);
	}
	free(table->slots);
	*table = (struct kvfi_lease_table){.fd = -1, .free_first = NONE, .free_last = NONE};
}

enum kvf_status kvfi_lease_table_take(
	struct kvfi_lease_table *table, uint32_t *slot_out, uint32_t *generation_out)
{
	uint32_t first_skipped = NONE;

	while (table->free_first != NONE && table->free_first != first_skipped) {
		uint32_t slot = pop_free(table);
		struct kvfi_lease_slot *entry = &table->slots[slot];

		if (entry->generation == UINT32_MAX)
			continue; /* spent: a generation is never used twice */
		if (!kvfi_lease_grant(&table->words[slot], entry->generation + 1)) {
			push_free(table, slot);
			if (first_skipped == NONE)
				first_skipped = slot;
			continue;
		}
		entry->generation++;
		entry->taken = true;
		*slot_out = slot;
		*generation_out = entry->generation;
		return KVF_OK;
	}
	return kvfi_fail(KVF_EFULL, "lease table: none of %u slots is free and empty", table->n);
}

void kvfi_lease_table_put(struct kvfi_lease_table *table, uint32_t slot)
{
	KVFI_ASSERT(slot < table->n && table->slots[slot].taken);
	kvfi_lease_revoke(&table->words[slot]);
	table->slots[slot].taken = false;
	push_free(table, slot);
}
