/* clock.c - the two clocks. Any thread. */
#include "base/clock.h"

#include <time.h>

static uint64_t read_clock(clockid_t id)
{
	struct timespec now;

	(void)clock_gettime(id, &now);
	return (uint64_t)now.tv_sec * KVFI_NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t kvfi_clock_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

uint64_t kvfi_unix_ns(void)
{
	return read_clock(CLOCK_REALTIME);
}
