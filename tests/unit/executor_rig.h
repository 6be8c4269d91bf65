/* executor_rig.h - guards over agents that do what a test tells them, in virtual time.
 *
 * A fake agent has a queue of events, a state for each session, and counts what it is asked. Session handles are request id * 16 + attempt + 1, so that
 * a test names requests alone. cmocka assertions inside: a failure ends the test.
 */
#ifndef TESTS_UNIT_EXECUTOR_RIG_H
#define TESTS_UNIT_EXECUTOR_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "executor/guard.h"

#define RIG_S           UINT64_C(1000000000)
#define RIG_MS          UINT64_C(1000000)
#define RIG_MAX_EVENTS  4096u
#define RIG_MAX_IDS     1024u /* request ids are below it */
#define RIG_MAX_RESULTS 1024u

struct rig_freed {
	uint64_t request_id;
	uint32_t attempt;
	void *user;
};

struct rig {
	kvf_guard *guard;
	struct kvf_event events[RIG_MAX_EVENTS]; /* ring */
	uint32_t head, n;
	enum kvf_session_state states[RIG_MAX_IDS];
	bool released[RIG_MAX_IDS];
	uint32_t cancels[RIG_MAX_IDS], closes[RIG_MAX_IDS];
	struct kvf_health health;
	enum kvf_status poll_status; /* KVF_OK, or what kvf_poll fails with */
	uint32_t refuse_closes;      /* so many closes are refused with KVF_EFULL */
	uint32_t waits;
	void (*on_wait)(struct rig *rig); /* while a drain sleeps */
	struct rig_freed freed[RIG_MAX_RESULTS];
	uint32_t n_freed;
	void (*on_free)(struct rig *rig);
	struct kvf_guard_result results[RIG_MAX_RESULTS];
	uint32_t n_results;
};

/* Of all rigs. */
extern uint64_t rig_now_ns;

/* max_requests 64; the rest as kvf_guard_options_init. */
struct kvf_guard_options rig_options(struct rig *rig);
void rig_open(struct rig *rig, const struct kvf_guard_options *options);
/* With rig_options alone. */
void rig_open_plain(struct rig *rig);
void rig_close(struct rig *rig);

kvf_session rig_session(uint64_t request_id, uint32_t attempt);
/* A request with a session, without deadlines; user is its number. */
void rig_add(struct rig *rig, uint64_t request_id);
void rig_add_with(struct rig *rig, uint64_t request_id, uint64_t timeout_ns, uint64_t transfer_timeout_ns);
void rig_event(struct rig *rig, enum kvf_event_type type, uint64_t request_id, enum kvf_status status);
void rig_outcome(struct rig *rig, uint64_t request_id, enum kvf_status status);
void rig_release(struct rig *rig, uint64_t request_id);
/* OUTCOME and RELEASED. */
void rig_end(struct rig *rig, uint64_t request_id, enum kvf_status status);
void rig_terminate(struct rig *rig, uint64_t request_id);

/* Ticks, and takes all results into rig->results. */
void rig_tick(struct rig *rig);
/* The oldest result, taken out of the list; fails when there is none. */
struct kvf_guard_result rig_take(struct rig *rig);
void rig_expect(struct rig *rig, enum kvf_guard_kind kind, uint64_t request_id, enum kvf_status status);
void rig_expect_nothing(struct rig *rig);
bool rig_was_freed(const struct rig *rig, uint64_t request_id);

#define RIG_WORKS(call)                 rig_works((call), #call, __FILE__, __LINE__)
#define RIG_REFUSES(status, call, word) rig_refuses((status), (call), (word), #call, __LINE__)
void rig_works(enum kvf_status status, const char *call, const char *file, int line);
void rig_refuses(enum kvf_status wanted, enum kvf_status got, const char *word, const char *call, int line);

#endif
