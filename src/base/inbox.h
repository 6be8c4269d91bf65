/* inbox.h - a bounded queue into one thread from any other. Items are copied; room is taken at init. */
#ifndef KVFI_BASE_INBOX_H
#define KVFI_BASE_INBOX_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "kvferry/kvferry.h"

struct kvfi_inbox {
	pthread_mutex_t lock;
	pthread_cond_t room;
	unsigned char *items;
	uint32_t item_bytes, max;
	uint32_t head, n;
	int event_fd;   /* readable while something may be inside */
	bool signalled; /* event_fd was written since the last drain */
	_Atomic bool nudged;
	int64_t owed; /* nudges whose write the drainer has not read yet; under 0: read before their flag was seen */
	bool closed; /* waiting pushers give up */
};

KVF_MUST_CHECK enum kvf_status kvfi_inbox_init(struct kvfi_inbox *inbox, uint32_t max, uint32_t item_bytes);
void kvfi_inbox_fini(struct kvfi_inbox *inbox);
/* Any thread. keep: places that must stay free for others. False: no room. */
bool kvfi_inbox_push(struct kvfi_inbox *inbox, const void *item, uint32_t keep);
/* The draining thread, which will look again before it sleeps: as kvfi_inbox_push without the wake-up. */
bool kvfi_inbox_push_own(struct kvfi_inbox *inbox, const void *item);
/* Any thread but the one that drains: waits for room. False only after kvfi_inbox_shut. */
bool kvfi_inbox_push_wait(struct kvfi_inbox *inbox, const void *item, uint32_t keep);
/* Any thread: nothing new, but the drainer shall look. */
void kvfi_inbox_wake(struct kvfi_inbox *inbox);
/* The same without a lock: for callers that must never wait, not even for another one that was stopped while it held the lock. */
void kvfi_inbox_nudge(struct kvfi_inbox *inbox);
/* The draining thread: takes one item. */
bool kvfi_inbox_pop(struct kvfi_inbox *inbox, void *item_out);
/* The draining thread: is there something inside? */
bool kvfi_inbox_any(struct kvfi_inbox *inbox);
/* The draining thread, before it looks: resets the descriptor. */
void kvfi_inbox_rearm(struct kvfi_inbox *inbox);
void kvfi_inbox_shut(struct kvfi_inbox *inbox);

#endif
