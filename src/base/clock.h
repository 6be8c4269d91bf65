/* clock.h - monotonic nanoseconds. Only the shell reads it; the core is told. */
#ifndef KVFI_BASE_CLOCK_H
#define KVFI_BASE_CLOCK_H

#include <stdint.h>

#define KVFI_NS_PER_US UINT64_C(1000)
#define KVFI_NS_PER_MS UINT64_C(1000000)
#define KVFI_NS_PER_S  UINT64_C(1000000000)
#define KVFI_NEVER     UINT64_MAX

uint64_t kvfi_clock_ns(void);
/* Wall clock; for the expiry of tickets alone. */
uint64_t kvfi_unix_ns(void);

/* What both clocks read instead, for a process that simulates time. NULL: the real ones. Set while no other thread of the library runs; the
 * source stays the caller's until it is replaced. */
struct kvfi_clock_source {
	void *self;
	uint64_t (*clock_ns)(void *self);
	uint64_t (*unix_ns)(void *self);
};
void kvfi_clock_set(const struct kvfi_clock_source *source);

#endif
