/* sim_args.c - which runs kvferry sim was asked for. Pure: every mistake is refused with the option and its value. */
#include <stdio.h>
#include <string.h>
#include "cli/sim.h"
#include "cli/units.h"

#define MOST_SEED (UINT64_MAX - SIM_MAX_JOBS) /* workers count on past the last one */

static bool read_range(const char *text, uint64_t *first_out, uint64_t *last_out, struct reason *why)
{
	const char *dash = strchr(text, '-');
	char first[32];

	(void)snprintf(first, sizeof(first), "%.*s", (int)(dash != NULL ? dash - text : 31), text);
	if (!units_parse_number(first, 0, MOST_SEED, first_out, why) ||
		!units_parse_number(dash != NULL ? dash + 1 : first, 0, MOST_SEED, last_out, why))
		return reason_set(why, "--seeds: '%.64s' is not a range such as 1-2000", text);
	if (*first_out > *last_out)
		return reason_set(why, "--seeds: '%.64s' is empty: it ends before it begins", text);
	return true;
}

static bool read_seeds(
	const struct sim_args *args, uint64_t *first_out, uint64_t *last_out, struct reason *why)
{
	if (args->seed != NULL && args->seeds != NULL)
		return reason_set(why, "--seed and --seeds exclude each other");
	if (args->seed == NULL)
		return read_range(args->seeds != NULL ? args->seeds : "1-100", first_out, last_out, why);
	if (!units_parse_number(args->seed, 0, MOST_SEED, first_out, why))
		return reason_prefix(why, "--seed");
	*last_out = *first_out;
	return true;
}

static bool fault_bit(const char *name, size_t len, uint32_t *bit_out)
{
	for (uint32_t i = 0; i < KVF_SIM_FAULTS; i++) {
		if (strlen(kvf_sim_fault_name(i)) == len && memcmp(kvf_sim_fault_name(i), name, len) == 0) {
			*bit_out = i;
			return true;
		}
	}
	return false;
}

static bool wrong_fault(const char *name, size_t len, struct reason *why)
{
	const char *names[KVF_SIM_FAULTS], *nearest;
	char word[64];

	for (uint32_t i = 0; i < KVF_SIM_FAULTS; i++)
		names[i] = kvf_sim_fault_name(i);
	(void)snprintf(word, sizeof(word), "%.*s", (int)len, name);
	nearest = reason_nearest(word, names, KVF_SIM_FAULTS);
	return reason_set(why,
		"--faults: '%s' is no fault%s%s%s; --faults takes all, none, or a comma list of names", word,
		nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
		nearest != NULL ? "'?" : "");
}

static bool read_faults(const char *text, uint32_t *faults_out, struct reason *why)
{
	uint32_t bit;

	*faults_out = KVF_SIM_ALL_FAULTS;
	if (text == NULL || strcmp(text, "all") == 0)
		return true;
	*faults_out = 0;
	if (strcmp(text, "none") == 0)
		return true;
	for (const char *at = text;; at++) {
		size_t len = strcspn(at, ",");

		if (!fault_bit(at, len, &bit))
			return wrong_fault(at, len, why);
		*faults_out |= 1u << bit;
		at += len;
		if (*at == '\0')
			return true;
	}
}

static bool read_list(const char *option, const char *text, uint64_t *bits_out, struct reason *why)
{
	*bits_out = 0;
	if (text == NULL)
		return true;
	for (const char *at = text;; at++) {
		size_t len = strcspn(at, ",");
		uint64_t number;
		char word[32];

		(void)snprintf(word, sizeof(word), "%.*s", (int)len, at);
		if (!units_parse_number(word, 0, 63, &number, why))
			return reason_prefix(why, "%s", option);
		*bits_out |= UINT64_C(1) << number;
		at += len;
		if (*at == '\0')
			return true;
	}
}

/* What has a meaning for one run alone, or for none. */
static bool check_together(const struct sim_args *args, bool one, struct reason *why)
{
	if (!one && args->trace)
		return reason_set(why, "--trace: is for one run; give --seed S");
	if (!one && (args->skip_requests != NULL || args->skip_strikes != NULL))
		return reason_set(why, "--%s: is for one run; give --seed S",
			args->skip_requests != NULL ? "skip-requests" : "skip-strikes");
	return true;
}

bool sim_args_read(
	const struct sim_args *args, struct kvf_sim_options *run_out, uint64_t *last_out, struct reason *why)
{
	kvf_sim_options_init(run_out);
	run_out->max_ranks = (uint32_t)args->ranks;
	run_out->load_ns = args->minutes * 60000000000u;
	return read_seeds(args, &run_out->seed, last_out, why) &&
	       read_faults(args->faults, &run_out->faults, why) &&
	       read_list("--skip-requests", args->skip_requests, &run_out->skip_requests, why) &&
	       read_list("--skip-strikes", args->skip_strikes, &run_out->skip_strikes, why) &&
	       check_together(args, run_out->seed == *last_out, why);
}

const char *sim_args_beside_replay(const struct sim_args *args)
{
	return args->seed != NULL            ? "--seed"
	       : args->seeds != NULL         ? "--seeds"
	       : args->faults != NULL        ? "--faults"
	       : args->skip_requests != NULL ? "--skip-requests"
	       : args->skip_strikes != NULL  ? "--skip-strikes"
	       : args->minutes > 0           ? "--minutes"
	       : args->jobs > 0              ? "--jobs"
	       : args->shrink                ? "--shrink"
	                                     : NULL;
}
