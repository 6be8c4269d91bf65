/* chaos_spec.h - which harm a replay does to itself, and to which request.
 *
 *	--chaos kill=0.01,stop=0.01,restart,cancel=0.2,timeout=0.05,refuse=0.02
 *
 * What happens to a request is a function of the seed and its index, so that coordinator and ranks know it alike; when it happens in
 * terms of bytes is up to the machine.
 */
#ifndef KVFERRY_CLI_CHAOS_SPEC_H
#define KVFERRY_CLI_CHAOS_SPEC_H

#include <stdbool.h>
#include <stdint.h>
#include "cli/reason.h"

struct replay_setup;

/* Probabilities per request. */
struct chaos_spec {
	bool on;
	double kill;    /* a rank that takes part is sent SIGKILL */
	double stop;    /* SIGSTOP; SIGCONT follows */
	double cancel;  /* one side cancels */
	double timeout; /* the last slice never comes: the queue deadline ends it */
	double refuse;  /* the two sides name different prompt lengths */
	bool restart;   /* killed ranks are started again */
};

/* NULL: no chaos. False: why names the field and its value. */
bool chaos_spec_parse(const char *text, struct chaos_spec *spec_out, struct reason *why);

enum chaos_fate {
	CHAOS_UNHARMED,
	CHAOS_CANCEL,
	CHAOS_TIMEOUT,
	CHAOS_REFUSE
};

struct chaos_plan {
	enum chaos_fate fate;
	uint32_t cancel_side;  /* whose ranks cancel */
	uint64_t other_tokens; /* REFUSE: the prompt length that the decode side names */
	bool kill, stop;
	bool in_lease; /* by the copy worker itself, with half a run written, where the transport has leases */
	bool tell;     /* the survivors cancel, as a router would; else they find out alone */
	uint64_t victim;   /* which rank: modulo those that take part */
	double when;       /* in usual durations of a request, from its start: 0 .. 1 */
	double tell_after; /* 0 .. 1 */
	uint64_t restart_after_ns;
};

/* The last of a replay's requests suffer nothing: they show that it still works. */
uint32_t chaos_calm_from(uint32_t n_requests);
void chaos_plan_of(const struct replay_setup *setup, uint32_t request, struct chaos_plan *plan_out);

#endif
