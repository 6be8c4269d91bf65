/* cancel.h - one atomic word per session slot, which any thread may compare and swap, decides whether a cancel came before anything was advertised.
 *
 * Private to src/agent; cancel.c explains it.
 */
#ifndef KVFI_AGENT_CANCEL_H
#define KVFI_AGENT_CANCEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"

#define KVFI_CANCEL_REASON_BYTES 256u

struct kvfi_cancel_slot {
	_Atomic uint64_t word; /* generation 32, reason 16, wanted 1, phase 4 */
	_Atomic uint64_t request_id;
	_Atomic uint32_t attempt;
	uint32_t in_core; /* owner: generation of the session that the core has in this slot; 0: none */
};

/* A request whose handle was given back. */
struct kvfi_cancel_ended {
	_Atomic uint64_t request_id;
	_Atomic uint64_t attempt; /* 1 << 32 is set while the entry says something */
};

struct kvfi_cancels {
	struct kvfi_cancel_slot *slots;
	uint32_t n;               /* slots, and entries of ended */
	_Atomic uint64_t *wanted; /* a bit per slot that the owner shall look at */
	uint32_t n_wanted;        /* words */
	_Atomic bool any;         /* one of them may be set */
	/* reasons on their way to the owner */
	char (*reasons)[KVFI_CANCEL_REASON_BYTES];
	_Atomic uint64_t *reasons_used; /* a bit per reason */
	uint32_t n_reason_words;
	struct kvfi_cancel_ended *ended;
	uint32_t next_ended; /* front */
};

KVF_MUST_CHECK enum kvf_status kvfi_cancels_init(struct kvfi_cancels *cancels, uint32_t max_sessions);
void kvfi_cancels_fini(struct kvfi_cancels *cancels);

/* Front: the slot belongs to a session of that generation (odd); to none any more. */
void kvfi_cancels_take(struct kvfi_cancels *cancels, uint32_t slot, uint32_t generation, uint64_t request_id,
	uint32_t attempt);
void kvfi_cancels_give(struct kvfi_cancels *cancels, uint32_t slot, uint32_t generation, bool remember);

/* Owner: the core is about to have the session; it has it now; it has it no more. */
void kvfi_cancels_opening(kvf_agent *agent, uint32_t slot);
void kvfi_cancels_opened(kvf_agent *agent, uint32_t slot);
void kvfi_cancels_closed(kvf_agent *agent, uint32_t slot);
/* Owner: false: cancelled first. */
bool kvfi_cancels_advertise(struct kvfi_cancels *cancels, uint32_t slot);
/* Owner, before the event is put. */
void kvfi_cancels_outcome(struct kvfi_cancels *cancels, uint32_t slot);
void kvfi_cancels_released(struct kvfi_cancels *cancels, uint32_t slot);
/* Owner: what was asked for since it looked last goes to the core. */
void kvfi_cancels_look(kvf_agent *agent);
bool kvfi_cancels_any(const struct kvfi_cancels *cancels);

#endif
