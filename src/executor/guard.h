/* guard.h - inside of a guard. Private to src/executor.
 *
 * Everything belongs to the thread that ticks, but for `shared`, which kvf_guard_health reads from any thread under a lock that is held for a
 * copy and over no call. What the guard asks of its agent goes through `struct kvfi_guard_agent`: the public API, or what a test puts in its
 * place.
 */
#ifndef KVFI_EXECUTOR_GUARD_H
#define KVFI_EXECUTOR_GUARD_H

#include <pthread.h>
#include <stdbool.h>
#include "kvferry/guard.h"

#define KVFI_GUARD_NONE  UINT32_MAX
#define KVFI_GUARD_NEVER UINT64_MAX
#define KVFI_GUARD_S     UINT64_C(1000000000)

/* The public API of an agent, as far as the guard needs it. */
struct kvfi_guard_agent {
	void *self;
	int (*poll)(void *self, struct kvf_event *events, int n);
	enum kvf_status (*state)(void *self, kvf_session session, enum kvf_session_state *state_out);
	enum kvf_cancel_result (*cancel)(void *self, kvf_session session, const char *reason);
	enum kvf_status (*close)(void *self, kvf_session session);
	enum kvf_status (*health)(void *self, struct kvf_health *health_out); /* any thread */
	enum kvf_status (*wait)(void *self, uint64_t timeout_ns);
	uint64_t (*now_ns)(void *self); /* any thread; monotonic */
};

/* What this rank knows of a request, as its report says it. */
enum guard_bits {
	GUARD_READY = 1,
	GUARD_COMPLETED = 2,
	GUARD_FAILED = 4,
	GUARD_CANCELLED = 8,
	GUARD_RELEASED = 16,  /* its memory is quiet here */
	GUARD_TERMINATED = 32 /* the engine has done with it here */
};
#define GUARD_ENDED (GUARD_COMPLETED | GUARD_FAILED | GUARD_CANCELLED)

struct guard_entry {
	uint64_t request_id;
	uint32_t attempt;
	uint32_t chain;      /* next of the same hash, or next free one */
	uint32_t next, prev; /* in the order they were added */
	kvf_session session; /* bits 0: none, or closed */
	void *user;
	uint32_t bits;
	enum kvf_status status;       /* of FAILED here */
	uint64_t deadline_ns;         /* KVFI_GUARD_NEVER: off */
	uint64_t transfer_timeout_ns; /* until the transfer has begun; 0: off, or has begun */
	bool decided, ready_told, expired, freed, outcome_seen;
	uint32_t waiting; /* results that name it and were not polled */
	/* of the round that is being read */
	uint32_t heard; /* members that reported it */
	uint32_t last;  /* the last one, plus 1 */
	uint32_t all, any;
	enum kvf_status first_status; /* of the first member that failed */
};

struct guard_told {
	uint32_t entry;
	enum kvf_guard_kind kind;
	enum kvf_status status;
};

struct guard_shared {
	uint64_t last_tick_ns, unhealthy_since_ns; /* 0: healthy */
	uint64_t round, posted_ns;                 /* 0: none is open */
	bool group_bad;
	char group_text[200];
	uint64_t grace_ns;
	uint32_t requests, undecided, deferred, events_dropped;
};

struct kvf_guard {
	struct kvfi_guard_agent agent;
	struct kvf_guard_options options;
	struct kvf_guard_group group;
	bool grouped;
	bool busy; /* inside a call that may run functions of the engine */

	struct guard_entry *entries;
	uint32_t *heads, head_mask;
	uint32_t free_entry, first, last;
	uint32_t n_entries, n_undecided, n_deferred;
	bool dirty;                /* some entry has changed since the last sweep */
	uint32_t n_clocks;         /* at most so many wait for their transfer to begin, to start its clock */
	uint64_t next_deadline_ns; /* no deadline is before it */

	struct guard_told *told; /* ring, in the order of results */
	uint32_t told_max, told_head, told_n;
	uint32_t n_results; /* of them, those of requests that were not terminated */

	struct kvf_event *events; /* ring */
	uint32_t events_head, events_n, events_dropped;

	struct kvf_guard_response *responses;
	uint32_t n_responses;

	uint64_t round; /* posted last */
	bool round_open;
	uint64_t posted_ns;
	bool group_bad;
	char group_text[200];
	unsigned char *report;
	struct kvf_group_part *parts;

	bool behind; /* events were left in the agent: no deadline is judged over them */
	uint64_t unhealthy_since_ns;
	bool asked, wants_shutdown;

	pthread_mutex_t lock;
	struct guard_shared shared;
};

/* guard.c */
KVF_MUST_CHECK enum kvf_status kvfi_guard_open_on(
	const struct kvfi_guard_agent *agent, const struct kvf_guard_options *options, kvf_guard **guard_out);
/* Begins a call that nothing else may be inside of; KVF_EINVAL, KVF_EBUSY. */
KVF_MUST_CHECK enum kvf_status kvfi_guard_enter(kvf_guard *guard);
/* The tick, of one that has entered. */
int kvfi_guard_turn(kvf_guard *guard, uint32_t at_least);

/* requests.c: the table */
KVF_MUST_CHECK bool kvfi_guard_requests_init(kvf_guard *guard);
void kvfi_guard_requests_fini(kvf_guard *guard);
struct guard_entry *kvfi_guard_find(const kvf_guard *guard, uint64_t request_id, uint32_t attempt);
void kvfi_guard_tell(
	kvf_guard *guard, struct guard_entry *entry, enum kvf_guard_kind kind, enum kvf_status status);
/* What has become of it, once: cancelled before failed before completed. */
void kvfi_guard_decide(kvf_guard *guard, struct guard_entry *entry, uint32_t bits, enum kvf_status status);
/* Its blocks are the engine's again. */
void kvfi_guard_free_blocks(kvf_guard *guard, struct guard_entry *entry);
/* Closes sessions and gives up entries that nothing needs any more; frees what may be freed on this rank alone. */
void kvfi_guard_sweep(kvf_guard *guard);

/* progress.c: what the agent has to say, and time */
KVF_MUST_CHECK enum kvf_status kvfi_guard_take_events(kvf_guard *guard);
void kvfi_guard_judge_deadlines(kvf_guard *guard, uint64_t now_ns);

/* consensus.c */
uint64_t kvfi_guard_report_bytes(uint64_t max_requests);
/* Ends the open round if all ranks have spoken, and opens the next one. */
void kvfi_guard_round(kvf_guard *guard, uint64_t now_ns);
/* Without a group. */
void kvfi_guard_decide_alone(kvf_guard *guard);

/* health.c */
void kvfi_guard_judge_health(kvf_guard *guard, uint64_t now_ns);

#endif
