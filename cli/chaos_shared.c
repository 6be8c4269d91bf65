/* chaos_shared.c - the shared memory of a chaotic replay, and histograms.
 *
 * Guarantees: sized once; nothing with a name is left behind. A rank that is killed in the middle of adding to its numbers loses that one
 * number at most. Owned by the coordinator; inherited by the ranks through fork.
 */
#include "cli/chaos_shared.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_BYTES ((size_t)4096)
#define STEPS      16u
#define STEP_BITS  4u

static size_t whole_pages(size_t len)
{
	return (len + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* Page 0: how many are stopped. Then per rank: a page with the trigger, and the numbers. */
bool chaos_shared_init(struct chaos_shared *shared, uint32_t n_ranks, struct reason *why)
{
	shared->n_ranks = n_ranks;
	shared->rank_bytes = PAGE_BYTES + whole_pages(sizeof(struct chaos_rank_numbers));
	shared->len_bytes = PAGE_BYTES + shared->rank_bytes * n_ranks;
	shared->fd = memfd_create("kvferry-chaos", MFD_CLOEXEC);
	if (shared->fd < 0 || ftruncate(shared->fd, (off_t)shared->len_bytes) != 0)
		goto failed;
	void *memory = mmap(NULL, shared->len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, shared->fd, 0);
	if (memory == MAP_FAILED)
		goto failed;
	shared->memory = memory;
	return true;
failed:
	reason_set(why, "cannot share %zu bytes with the ranks: %s", shared->len_bytes, strerror(errno));
	if (shared->fd >= 0)
		close(shared->fd);
	return false;
}

void chaos_shared_fini(struct chaos_shared *shared)
{
	if (!shared->memory)
		return;
	munmap(shared->memory, shared->len_bytes);
	close(shared->fd);
	shared->memory = NULL;
}

static size_t offset_of(const struct chaos_shared *shared, uint32_t rank)
{
	return PAGE_BYTES + shared->rank_bytes * rank;
}

struct chaos_rank_numbers *chaos_shared_numbers(const struct chaos_shared *shared, uint32_t rank)
{
	if (!shared->memory)
		return NULL;
	return (struct chaos_rank_numbers *)(void *)(shared->memory + offset_of(shared, rank) + PAGE_BYTES);
}

_Atomic uint32_t *chaos_shared_trigger(const struct chaos_shared *shared, uint32_t rank)
{
	return (_Atomic uint32_t *)(void *)(shared->memory + offset_of(shared, rank));
}

_Atomic uint32_t *chaos_shared_stopped(const struct chaos_shared *shared)
{
	return (_Atomic uint32_t *)(void *)shared->memory;
}

void chaos_shared_announce(const struct chaos_shared *shared, uint32_t rank)
{
	char where[64];
	if (!shared->memory)
		return;
	snprintf(where, sizeof(where), "%d:%zu", shared->fd, offset_of(shared, rank));
	setenv("KVFERRY_FAULT_POINT", where, 1);
}

/* --------------------------------------------------------------- histogram */

/* Below STEPS exact; above, the leading STEP_BITS + 1 bits. */
static uint32_t bucket_of(uint64_t value)
{
	if (value < STEPS)
		return (uint32_t)value;
	uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - STEP_BITS;
	uint32_t bucket = (shift + 1) * STEPS + ((uint32_t)(value >> shift) - STEPS);
	return bucket < CHAOS_BUCKETS ? bucket : CHAOS_BUCKETS - 1;
}

static uint64_t upper_edge(uint32_t bucket)
{
	if (bucket < STEPS)
		return bucket;
	uint32_t shift = bucket / STEPS - 1;
	return ((uint64_t)(STEPS + bucket % STEPS + 1) << shift) - 1;
}

void chaos_histogram_add(struct chaos_histogram *histogram, uint64_t value_ns)
{
	histogram->counts[bucket_of(value_ns)]++;
	histogram->n++;
	if (value_ns > histogram->most)
		histogram->most = value_ns;
}

void chaos_histogram_merge(struct chaos_histogram *into, const struct chaos_histogram *from)
{
	for (uint32_t i = 0; i < CHAOS_BUCKETS; i++)
		into->counts[i] += from->counts[i];
	into->n += from->n;
	into->most = from->most > into->most ? from->most : into->most;
}

uint64_t chaos_histogram_at(const struct chaos_histogram *histogram, double share)
{
	double wanted = share * (double)histogram->n;
	uint64_t seen = 0;
	for (uint32_t i = 0; i < CHAOS_BUCKETS; i++) {
		seen += histogram->counts[i];
		if (histogram->counts[i] > 0 && (double)seen >= wanted)
			return i + 1 < CHAOS_BUCKETS && upper_edge(i) < histogram->most ? upper_edge(i)
			                                                                : histogram->most;
	}
	return histogram->most;
}
