/* sim.h - what the files of kvferry sim share. */
#ifndef KVFERRY_CLI_SIM_H
#define KVFERRY_CLI_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "cli/reason.h"
#include "kvferry/sim.h"

/* Over many runs that did not fail; uint64_t alone, so that they can be added up. */
struct sim_totals {
	uint64_t seeds, virtual_ns, events, messages, stores, sessions;
	uint64_t completed, failed, cancelled, timed_out, died, quarantined;
	uint64_t proofs[9], faults[KVF_SIM_FAULTS];
};

struct sim_failure {
	uint64_t seed;
	char text[1024];
};

/* One run in a process of its own. True: it failed, or the process died. */
bool sim_run_apart(const struct kvf_sim_options *asked, struct kvf_sim_report *report_out);
/* The command that repeats it, with a newline. */
void sim_print_command(FILE *out, const struct kvf_sim_options *run);
/* Leaves out what can be left out of a run that fails, and prints the command of what remains. */
void sim_shrink(const struct kvf_sim_options *failing);

/* sim_replay.c: repeats the record at path, prints what came of it. Returns the exit code. */
int sim_replay(const char *path, bool trace, bool json);

#define SIM_MAX_JOBS 64u

/* The command line. */
struct sim_args {
	const char *seed, *seeds, *faults;
	const char *skip_requests, *skip_strikes;
	const char *replay;
	uint64_t ranks, minutes, jobs;
	bool shrink, trace, json;
};

/* False: why names the option and its value. run_out holds the first seed; the runs go to last_out. */
bool sim_args_read(
	const struct sim_args *args, struct kvf_sim_options *run_out, uint64_t *last_out, struct reason *why);
/* The option that has no meaning beside --replay, which takes --trace and --json alone; NULL: none. */
const char *sim_args_beside_replay(const struct sim_args *args);

#endif
