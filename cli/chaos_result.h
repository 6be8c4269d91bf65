/* chaos_result.h - what a chaotic replay counted and measured, and how it is told. */
#ifndef KVFERRY_CLI_CHAOS_RESULT_H
#define KVFERRY_CLI_CHAOS_RESULT_H

#include <stdio.h>
#include "cli/chaos_shared.h"
#include "cli/chaos_watch.h"
#include "cli/json.h"

struct replay_report;
struct replay_result;

enum chaos_outcome {
	CHAOS_COMPLETED,
	CHAOS_FAILED,
	CHAOS_CANCELLED,
	CHAOS_TIMED_OUT,
	CHAOS_OUTCOMES
};

/* A value over time in a fixed number of points: when they are used up, each two become one. */
#define CHAOS_SERIES 64u
struct chaos_series {
	uint32_t n, per_point, in_last; /* samples */
	uint64_t step_ns;               /* between samples */
	uint32_t most[CHAOS_SERIES];    /* of the samples of a point */
	uint64_t sum, samples;
	uint32_t highest;
};
void chaos_series_add(struct chaos_series *series, uint32_t value);

struct chaos_delay {
	struct chaos_histogram histogram;
	char slowest[160]; /* which session that was, how it ended, how it was released */
};
void chaos_delay_add(
	struct chaos_delay *delay, uint64_t took_ns, const struct replay_report *report, uint32_t request);

struct chaos_result {
	bool on;
	uint64_t outcomes[CHAOS_OUTCOMES];
	uint64_t proofs[9]; /* of all sessions, by peer */
	/* Nanoseconds from kvf_cancel, or from the harm, to the release. */
	struct chaos_delay cancel_live, cancel_stopped, after_kill;
	struct chaos_histogram poll[2], cancel_call[2]; /* [1]: while a process was stopped */
	uint64_t cancel_results[8], ladder[4], recovered, peer_losses, recoveries;
	uint64_t kills, stops, kills_in_lease, stops_in_lease, restarts;
	uint64_t canary_changed; /* rows */
	uint64_t lost_blocks;
	uint32_t quarantined_at_end, restarts_needed;
	uint32_t
		never_released; /* stopped processes that were continued before their sessions were released */
	uint32_t
		unharmed_failed; /* requests to which, and to whose ranks, nothing was done, and that did not complete */
	uint32_t calm_failed; /* of them, those that came after all harm */
	uint32_t unequal;     /* senders and receivers count different bytes */
	struct chaos_series quarantined, runnable;
	struct chaos_histogram kill_to_end; /* until the kernel had ended the killed process */
	uint32_t growth_of;                 /* processes that lived long enough to tell */
	struct chaos_footprint growth;      /* the most that any process grew */
	char broken_off[512];               /* the run came to no end: why; "" */
};

/* No canary changed, no block lost, nothing left in quarantine, nobody needs a restart, every request has its outcome. */
bool chaos_result_good(const struct replay_result *result);
void chaos_result_complain(const struct replay_result *result);
/* The members that chaos adds. */
void chaos_result_json(struct json *json, const struct replay_result *result);
void chaos_result_table(const struct replay_result *result, FILE *out);

#endif
