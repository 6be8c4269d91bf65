/* sim_replay.c - kvferry sim --replay FILE: what an agent has recorded, repeated and compared. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>
#include "cli/args.h"
#include "cli/json.h"
#include "cli/sim.h"
#include "cli/term.h"

static void print_json(const struct kvf_sim_replay_report *report)
{
	struct json out;

	json_init(&out, stdout);
	json_object(&out, NULL);
	json_bool(&out, "same", report->differs == 0);
	json_string(&out, "difference", report->difference);
	json_bool(&out, "cut", report->cut != 0);
	json_string(&out, "recorded_by", report->library);
	json_u64(&out, "inputs", report->steps);
	json_u64(&out, "decisions", report->calls);
	json_fixed(&out, "seconds", (double)(report->last_ns - report->first_ns) / 1e9, 6);
	json_end(&out);
}

static void print_text(const struct kvf_sim_replay_report *report)
{
	printf("%" PRIu64 " inputs and %" PRIu64 " decisions of %.3f s, recorded by kvferry %s\n",
		report->steps, report->calls, (double)(report->last_ns - report->first_ns) / 1e9,
		report->library);
	if (report->cut)
		printf("the record ends inside a step: so did the process\n");
	if (report->differs)
		printf("DIFFERS: %s\n", report->difference);
	else
		printf("the same, bit for bit\n");
}

int sim_replay(const char *path, bool trace, bool json)
{
	struct kvf_sim_replay_report report;

	fflush(stdout);
	if (kvf_sim_replay(path, trace ? STDOUT_FILENO : -1, &report) != KVF_OK) {
		term_error("%s", kvf_error());
		return EXIT_WORK_FAILED;
	}
	if (json)
		print_json(&report);
	else
		print_text(&report);
	return report.differs ? EXIT_WORK_FAILED : 0;
}
