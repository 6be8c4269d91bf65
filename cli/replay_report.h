/* replay_report.h - what a replay measured and found, and how it is told. */
#ifndef KVFERRY_CLI_REPLAY_REPORT_H
#define KVFERRY_CLI_REPLAY_REPORT_H

#include <stdio.h>
#include "cli/chaos_result.h"
#include "cli/replay_board.h"

/* Per request, nanoseconds on the monotonic clock. */
struct replay_timing {
	uint64_t admitted_ns;   /* the first side was told to open its session */
	uint64_t first_byte_ns; /* of the first sender */
	uint64_t outcome_ns;    /* of the last receiver */
	uint64_t plan_ns;       /* of the slowest sender: binding its block lists */
};

/* Zero-initialise; init, fini. Sized at init. */
struct replay_result {
	const struct replay_setup *setup;
	uint32_t requests, completed, failed;
	uint64_t bytes_expected, bytes_moved, bytes_verified, mismatches, runs;
	uint64_t tokens, tokens_reused;
	uint64_t wall_ns;
	struct replay_timing *timings; /* of completed requests; n = completed */
	char (*transports)[16];        /* [prefill rank][decode rank]; "" where not paired */
	struct replay_fault fault;     /* the first; kind 0: none */
	char failure[512];             /* the first failed request (chaos: that nothing was done to); "" */
	struct chaos_result chaos;
};

bool replay_result_init(struct replay_result *result, const struct replay_setup *setup);
void replay_result_fini(struct replay_result *result);
/* Every request completed, every byte right, none too few or too many. */
bool replay_result_good(const struct replay_result *result);

/* Prints to stderr what is not good. */
void replay_result_complain(const struct replay_result *result);
void replay_result_json(const struct replay_result *result, FILE *out);
/* The table for people. */
void replay_result_table(const struct replay_result *result, FILE *out);

/* What the numbers of both say. */
struct replay_quantiles {
	double p50, p90, p99, max; /* milliseconds */
};
struct replay_numbers {
	double seconds, gb_per_s; /* of the time in which something was being moved */
	struct replay_quantiles latency, queue, plan, transfer;
};
void replay_result_numbers(const struct replay_result *result, struct replay_numbers *numbers_out);
/* The transports in use: "shm", or "shm, tcp". */
void replay_result_transports(const struct replay_result *result, char *buffer, size_t size);

#endif
