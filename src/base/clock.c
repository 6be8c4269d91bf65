/* clock.c - the two clocks. Any thread. */
#include "base/clock.h"

#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

static const struct kvfi_clock_source *_Atomic source;

void kvfi_clock_set(const struct kvfi_clock_source *instead)
{
	atomic_store(&source, instead);
}

static uint64_t read_clock(clockid_t id)
{
	struct timespec now;

	(void)clock_gettime(id, &now);
	return (uint64_t)now.tv_sec * KVFI_NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t kvfi_clock_ns(void)
{
	const struct kvfi_clock_source *instead = atomic_load_explicit(&source, memory_order_acquire);

	return instead != NULL ? instead->clock_ns(instead->self) : read_clock(CLOCK_MONOTONIC);
}

uint64_t kvfi_unix_ns(void)
{
	const struct kvfi_clock_source *instead = atomic_load_explicit(&source, memory_order_acquire);

	return instead != NULL ? instead->unix_ns(instead->self) : read_clock(CLOCK_REALTIME);
}
