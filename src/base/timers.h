/* timers.h - a binary heap of deadlines. Room for all timers is taken once; arming and disarming never fail. One thread. */
#ifndef KVFI_BASE_TIMERS_H
#define KVFI_BASE_TIMERS_H

#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"

/* Embedded in what it wakes. Zeroed memory is a disarmed timer. */
struct kvfi_timer {
	uint64_t at_ns;
	uint32_t place; /* in the heap, from 1; 0: disarmed */
};

struct kvfi_timers {
	struct kvfi_timer **heap; /* from 1 */
	uint32_t n, max;
};

KVF_MUST_CHECK enum kvf_status kvfi_timers_init(struct kvfi_timers *timers, uint32_t max);
void kvfi_timers_fini(struct kvfi_timers *timers);
/* Arms or moves. KVFI_NEVER disarms. */
void kvfi_timers_arm(struct kvfi_timers *timers, struct kvfi_timer *timer, uint64_t at_ns);
void kvfi_timers_disarm(struct kvfi_timers *timers, struct kvfi_timer *timer);
/* The earliest deadline, KVFI_NEVER if none. */
uint64_t kvfi_timers_next_ns(const struct kvfi_timers *timers);
/* Takes out one timer that is due; NULL if none is. */
struct kvfi_timer *kvfi_timers_pop(struct kvfi_timers *timers, uint64_t now_ns);

#endif
