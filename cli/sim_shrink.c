/* sim_shrink.c - the smallest run that still fails: fewer kinds of faults, fewer ranks, fewer requests, fewer single faults.
 *
 * Greedy: one thing after the other is left out, and stays out if the run fails without it, as often as that changes anything. Another failure
 * than the first one is as good: it is as wrong.
 */
#include "cli/sim.h"

#include <string.h>

struct shrinker {
	struct kvf_sim_options best;
	struct kvf_sim_report report; /* of best */
	uint32_t runs;
};

/* Takes it over if it fails. */
static bool attempt(struct shrinker *shrinker, const struct kvf_sim_options *run)
{
	struct kvf_sim_report report;

	shrinker->runs++;
	if (!sim_run_apart(run, &report))
		return false;
	shrinker->best = *run;
	shrinker->report = report;
	return true;
}

static bool fewer_kinds(struct shrinker *shrinker)
{
	bool any = false;

	for (uint32_t i = 0; i < KVF_SIM_FAULTS; i++) {
		struct kvf_sim_options run = shrinker->best;

		run.faults &= ~(1u << i);
		if (run.faults != shrinker->best.faults)
			any = attempt(shrinker, &run) || any;
	}
	return any;
}

static bool fewer_ranks(struct shrinker *shrinker)
{
	for (uint32_t ranks = 2; ranks < shrinker->best.max_ranks; ranks++) {
		struct kvf_sim_options run = shrinker->best;

		run.max_ranks = ranks;
		if (attempt(shrinker, &run))
			return true;
	}
	return false;
}

/* Halves first, then single ones. */
static bool fewer_of(struct shrinker *shrinker, size_t offset, uint32_t n)
{
	bool any = false;

	for (uint32_t width = n > 1 ? n / 2 : 1; width > 0; width /= 2) {
		for (uint32_t at = 0; at < n && at < 64; at += width) {
			struct kvf_sim_options run = shrinker->best;
			uint64_t *bits = (uint64_t *)(void *)((char *)&run + offset);
			uint64_t before = *bits;

			for (uint32_t i = at; i < at + width && i < 64; i++)
				*bits |= UINT64_C(1) << i;
			if (*bits != before)
				any = attempt(shrinker, &run) || any;
		}
	}
	return any;
}

void sim_shrink(const struct kvf_sim_options *failing)
{
	struct shrinker shrinker = {.best = *failing};
	bool any = true;

	shrinker.best.trace_fd = -1;
	if (!attempt(&shrinker, &shrinker.best)) {
		printf("the run does not fail again\n");
		return;
	}
	for (int round = 0; any && round < 4; round++) {
		any = fewer_of(
			&shrinker, offsetof(struct kvf_sim_options, skip_strikes), shrinker.report.strikes);
		any = fewer_of(&shrinker, offsetof(struct kvf_sim_options, skip_requests),
			      shrinker.report.requests) ||
		      any;
		any = fewer_kinds(&shrinker) || any;
		any = fewer_ranks(&shrinker) || any;
	}
	printf("shrunk in %u runs: %s\n  FAILED: %s\n  ", shrinker.runs, shrinker.report.cluster,
		shrinker.report.failure);
	sim_print_command(stdout, &shrinker.best);
}
