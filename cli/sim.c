/* sim.c - kvferry sim: the virtual cluster, one seed or many, and the smallest run that still fails.
 *
 * Every worker is a process, because a broken invariant inside the library ends the process that finds it; which seed it ran stands in
 * memory that the processes share, so the death of a worker is a failure like any other. sim_args.c reads what is asked, sim_shrink.c makes a failing run
 * smaller.
 */
#include "cli/sim.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "cli/args.h"
#include "cli/command.h"
#include "cli/json.h"
#include "cli/term.h"

#define MAX_FAILURES 16u /* then no further seed is begun */

static const struct arg_option options[] = {
	{"seed", "S", "one run", ARG_TEXT, ARG_FIELD(struct sim_args, seed)},
	{"seeds", "A-B", "the runs A to B; default 1-100", ARG_TEXT, ARG_FIELD(struct sim_args, seeds)},
	{"ranks", "N", "at most so many ranks, 2 to 16; default 8", ARG_NUMBER,
		ARG_FIELD(struct sim_args, ranks), .min = 2, .max = 16},
	{"faults", "LIST", "all, none, or a comma list (see below); default all", ARG_TEXT,
		ARG_FIELD(struct sim_args, faults)},
	{"minutes", "M", "virtual minutes of load and faults; default: drawn, up to 4 s", ARG_NUMBER,
		ARG_FIELD(struct sim_args, minutes), .min = 1, .max = 1000},
	{"jobs", "N", "processes; default: one per core", ARG_NUMBER, ARG_FIELD(struct sim_args, jobs),
		.min = 1, .max = SIM_MAX_JOBS},
	{"shrink", NULL, "make the first run that fails smaller, as long as it fails", ARG_FLAG,
		ARG_FIELD(struct sim_args, shrink)},
	{"trace", NULL, "one run: print what happens, a line each", ARG_FLAG,
		ARG_FIELD(struct sim_args, trace)},
	{"skip-requests", "LIST", "leave out these requests of the seed: 0,3", ARG_TEXT,
		ARG_FIELD(struct sim_args, skip_requests)},
	{"skip-strikes", "LIST", "leave out these single faults of the seed: 0,3", ARG_TEXT,
		ARG_FIELD(struct sim_args, skip_strikes)},
	{"replay", "FILE",
		"repeat what an agent has recorded (kvferry replay --record) and compare, bit for bit",
		ARG_TEXT, ARG_FIELD(struct sim_args, replay)},
	{"json", NULL, "print JSON", ARG_FLAG, ARG_FIELD(struct sim_args, json)},
};

static const struct args_spec spec = {
	.command = "sim",
	.summary = "a virtual cluster of real agents, with faults, by seed",
	.usage = "sim [--seed S | --seeds A-B] [--ranks N] [--faults LIST] [--minutes M] [--jobs N] "
		 "[--shrink] "
		 "[--trace]",
	.description =
		"Each seed draws a cluster, its requests and its faults, and runs the real agents over a "
		"simulated "
		"world, in virtual time.\n"
		"After every event what docs/safety.md promises is checked. A seed that fails is told with "
		"the "
		"command that repeats it.\n\n"
		"Faults: delay, reorder, drop, duplicate, corrupt (messages); partition, slow (paths); stop, "
		"crash, restart, clock, alloc\n"
		"(processes); full (tiny tables), overtake (data and messages at different speeds), cancel "
		"(users).\n",
	.examples = "  kvferry sim --seeds 1-2000\n"
		    "  kvferry sim --seed 17 --trace\n"
		    "  kvferry sim --seeds 1-500 --faults stop,crash,restart --shrink\n"
		    "  kvferry sim --replay /tmp/run.decode-0 --trace\n",
	.options = options,
	.n_options = sizeof(options) / sizeof(options[0]),
};

/* ---- the workers ---- */

struct worker {
	pid_t pid;
	_Atomic uint64_t seed;
	_Atomic bool busy;
	struct sim_totals totals;
};

struct board {                      /* shared by the processes */
	_Atomic uint64_t next, end; /* seeds that nobody has begun */
	_Atomic uint32_t n_failures;
	struct sim_failure failures[MAX_FAILURES];
	struct worker workers[SIM_MAX_JOBS];
};

static void *share(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory != MAP_FAILED)
		return memory;
	term_error("no shared memory: %s", strerror(errno));
	exit(EXIT_WORK_FAILED);
}

static void add_failure(struct board *board, uint64_t seed, const char *text)
{
	uint32_t at = atomic_fetch_add(&board->n_failures, 1);

	if (at >= MAX_FAILURES)
		return;
	board->failures[at].seed = seed;
	(void)snprintf(board->failures[at].text, sizeof(board->failures[at].text), "%s", text);
}

static void add_report(struct sim_totals *totals, const struct kvf_sim_report *report)
{
	totals->seeds++;
	totals->virtual_ns += report->virtual_ns;
	totals->events += report->events;
	totals->messages += report->messages;
	totals->stores += report->stores;
	totals->sessions += report->sessions;
	totals->completed += report->completed;
	totals->failed += report->failed_sessions;
	totals->cancelled += report->cancelled;
	totals->timed_out += report->timed_out;
	totals->died += report->died;
	totals->quarantined += report->quarantined;
	for (uint32_t i = 0; i < 9; i++)
		totals->proofs[i] += report->proofs[i];
	for (uint32_t i = 0; i < KVF_SIM_FAULTS; i++)
		totals->faults[i] += report->faults[i];
}

static void work(struct board *board, struct worker *worker, const struct kvf_sim_options *asked)
{
	struct kvf_sim_options run = *asked;
	struct kvf_sim_report report;

	for (;;) {
		run.seed = atomic_fetch_add(&board->next, 1);
		if (run.seed > atomic_load(&board->end) || atomic_load(&board->n_failures) >= MAX_FAILURES)
			return;
		atomic_store(&worker->seed, run.seed);
		atomic_store(&worker->busy, true);
		if (kvf_sim_run(&run, &report) != KVF_OK)
			add_failure(board, run.seed, kvf_error());
		else if (report.failed)
			add_failure(board, run.seed, report.failure);
		else
			add_report(&worker->totals, &report);
		atomic_store(&worker->busy, false);
	}
}

static void start(struct board *board, struct worker *worker, const struct kvf_sim_options *asked)
{
	pid_t pid;

	(void)fflush(NULL);
	pid = fork();
	if (pid == 0) {
		work(board, worker, asked);
		(void)fflush(NULL);
		_exit(0);
	}
	worker->pid = pid;
	if (pid < 0)
		term_error("no process could be made: %s", strerror(errno));
}

static void describe_death(int status, char *text, size_t len_bytes)
{
	if (WIFSIGNALED(status))
		(void)snprintf(text, len_bytes, "the process died: signal %d (%s)%s", WTERMSIG(status),
			strsignal(WTERMSIG(status)),
			WTERMSIG(status) == SIGABRT ? ", an assertion of the library" : "");
	else
		(void)snprintf(text, len_bytes, "the process ended with status %d", WEXITSTATUS(status));
}

static void run_all(struct board *board, uint32_t jobs, const struct kvf_sim_options *asked)
{
	uint32_t running = 0;
	int status;
	pid_t pid;

	for (uint32_t i = 0; i < jobs; i++) {
		start(board, &board->workers[i], asked);
		running += board->workers[i].pid > 0;
	}
	while (running > 0 && (pid = wait(&status)) > 0) {
		struct worker *worker = board->workers;
		char text[160];

		while (worker->pid != pid)
			worker++;
		running--;
		if (!atomic_load(&worker->busy))
			continue;
		describe_death(status, text, sizeof(text));
		add_failure(board, atomic_load(&worker->seed), text);
		atomic_store(&worker->busy, false);
		start(board, worker, asked);
		running += worker->pid > 0;
	}
}

bool sim_run_apart(const struct kvf_sim_options *asked, struct kvf_sim_report *report_out)
{
	struct board *board = share(sizeof(*board));
	struct kvf_sim_report *report = share(sizeof(*report));
	int status = 0;
	pid_t pid;
	bool failed;

	(void)fflush(NULL);
	pid = fork();
	if (pid == 0) {
		/* What a dying library says about itself is known already. */
		if (asked->trace_fd < 0 && freopen("/dev/null", "w", stderr) == NULL)
			_exit(3);
		_exit(kvf_sim_run(asked, report) == KVF_OK ? 0 : 2);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		term_error("no process could be made: %s", strerror(errno));
		exit(EXIT_WORK_FAILED);
	}
	*report_out = *report;
	if (status != 0) {
		report_out->failed = 1;
		describe_death(status, report_out->failure, sizeof(report_out->failure));
	}
	failed = report_out->failed != 0;
	(void)munmap(report, sizeof(*report));
	(void)munmap(board, sizeof(*board));
	return failed;
}

/* ---- telling ---- */

static void print_list(FILE *out, const char *option, uint64_t bits)
{
	const char *comma = "";

	if (bits == 0)
		return;
	fprintf(out, " --%s ", option);
	for (uint32_t i = 0; i < 64; i++) {
		if ((bits >> i & 1) == 0)
			continue;
		fprintf(out, "%s%u", comma, i);
		comma = ",";
	}
}

void sim_print_command(FILE *out, const struct kvf_sim_options *run)
{
	const char *comma = "";

	fprintf(out, "kvferry sim --seed %llu --ranks %u", (unsigned long long)run->seed, run->max_ranks);
	if (run->faults == 0)
		fprintf(out, " --faults none");
	if (run->faults != 0 && run->faults != KVF_SIM_ALL_FAULTS) {
		fprintf(out, " --faults ");
		for (uint32_t i = 0; i < KVF_SIM_FAULTS; i++) {
			if ((run->faults >> i & 1) == 0)
				continue;
			fprintf(out, "%s%s", comma, kvf_sim_fault_name(i));
			comma = ",";
		}
	}
	if (run->load_ns > 0)
		fprintf(out, " --minutes %llu", (unsigned long long)(run->load_ns / 60000000000u));
	print_list(out, "skip-requests", run->skip_requests);
	print_list(out, "skip-strikes", run->skip_strikes);
	fprintf(out, " --trace\n");
}

static const char *const proof_names[9] = {"none", "completed", "local-epoch", "lease", "writer-quiet",
	"process-exit", "fenced", "never-advertised", "local-idle"};

static void sum_up(const struct board *board, uint32_t jobs, struct sim_totals *totals)
{
	memset(totals, 0, sizeof(*totals));
	for (uint32_t i = 0; i < jobs; i++) {
		const uint64_t *from = (const uint64_t *)&board->workers[i].totals;
		uint64_t *to = (uint64_t *)totals;

		for (size_t n = 0; n < sizeof(*totals) / sizeof(uint64_t); n++)
			to[n] += from[n];
	}
}

static void print_text(const struct sim_totals *totals, double seconds)
{
	printf("%llu seeds, %.0f s of virtual time in %.1f s; %llu events, %llu messages, %llu stores\n",
		(unsigned long long)totals->seeds, (double)totals->virtual_ns / 1e9, seconds,
		(unsigned long long)totals->events, (unsigned long long)totals->messages,
		(unsigned long long)totals->stores);
	printf("%llu sessions: %llu completed, %llu failed, %llu cancelled, %llu timed out, %llu died with "
	       "their process; "
	       "%llu left in quarantine where nothing can prove anything\n",
		(unsigned long long)totals->sessions, (unsigned long long)totals->completed,
		(unsigned long long)totals->failed, (unsigned long long)totals->cancelled,
		(unsigned long long)totals->timed_out, (unsigned long long)totals->died,
		(unsigned long long)totals->quarantined);
	printf("proofs:");
	for (uint32_t i = 1; i < 9; i++)
		printf(" %s %llu%s", proof_names[i], (unsigned long long)totals->proofs[i],
			i < 8 ? "," : "\n");
	printf("faults:");
	for (uint32_t i = 0; i < KVF_SIM_FAULTS; i++)
		printf(" %s %llu%s", kvf_sim_fault_name(i), (unsigned long long)totals->faults[i],
			i + 1 < KVF_SIM_FAULTS ? "," : "\n");
}

static void print_failures(const struct board *board, uint32_t n, const struct kvf_sim_options *asked)
{
	struct kvf_sim_options run = *asked;

	for (uint32_t i = 0; i < n; i++) {
		printf("seed %llu FAILED: %s\n  ", (unsigned long long)board->failures[i].seed,
			board->failures[i].text);
		run.seed = board->failures[i].seed;
		sim_print_command(stdout, &run);
	}
}

static void print_json(const struct board *board, uint32_t n, const struct sim_totals *totals, double seconds)
{
	struct json json;

	json_init(&json, stdout);
	json_object(&json, NULL);
	json_u64(&json, "seeds", totals->seeds);
	json_fixed(&json, "seconds", seconds, 3);
	json_fixed(&json, "virtual_seconds", (double)totals->virtual_ns / 1e9, 3);
	json_u64(&json, "events", totals->events);
	json_u64(&json, "messages", totals->messages);
	json_u64(&json, "stores", totals->stores);
	json_object(&json, "outcomes");
	json_u64(&json, "completed", totals->completed);
	json_u64(&json, "failed", totals->failed);
	json_u64(&json, "cancelled", totals->cancelled);
	json_u64(&json, "timed_out", totals->timed_out);
	json_u64(&json, "died", totals->died);
	json_end(&json);
	json_u64(&json, "quarantined_at_end", totals->quarantined);
	json_object(&json, "releases_by_proof");
	for (uint32_t i = 1; i < 9; i++)
		json_u64(&json, proof_names[i], totals->proofs[i]);
	json_end(&json);
	json_object(&json, "faults");
	for (uint32_t i = 0; i < KVF_SIM_FAULTS; i++)
		json_u64(&json, kvf_sim_fault_name(i), totals->faults[i]);
	json_end(&json);
	json_array(&json, "failures");
	for (uint32_t i = 0; i < n; i++) {
		json_object(&json, NULL);
		json_u64(&json, "seed", board->failures[i].seed);
		json_string(&json, "failure", board->failures[i].text);
		json_end(&json);
	}
	json_end(&json);
	json_end(&json);
}

/* ---- one run ---- */

static int run_one(const struct kvf_sim_options *asked, bool json)
{
	struct kvf_sim_report report;
	bool failed = sim_run_apart(asked, &report);
	struct json out;
	char hash[17];

	(void)snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)report.hash);
	if (json) {
		json_init(&out, stdout);
		json_object(&out, NULL);
		json_u64(&out, "seed", asked->seed);
		json_bool(&out, "failed", failed);
		json_string(&out, "failure", report.failure);
		json_string(&out, "cluster", report.cluster);
		json_string(
			&out, "hash", hash); /* as in the text; a number would lose bits in most readers */
		json_u64(&out, "events", report.events);
		json_u64(&out, "sessions", report.sessions);
		json_u64(&out, "completed", report.completed);
		json_u64(&out, "quarantined_at_end", report.quarantined);
		json_end(&out);
	} else {
		printf("seed %llu: %s\n", (unsigned long long)asked->seed, report.cluster);
		printf("%u sessions: %u completed, %u failed, %u cancelled, %u timed out, %u died, %u in "
		       "quarantine; hash %s\n",
			report.sessions, report.completed, report.failed_sessions, report.cancelled,
			report.timed_out, report.died, report.quarantined, hash);
		if (failed) {
			printf("FAILED: %s\n  ", report.failure);
			sim_print_command(stdout, asked);
		}
	}
	return failed ? EXIT_WORK_FAILED : 0;
}

static double seconds_now(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int run_many(const struct kvf_sim_options *asked, uint64_t last, const struct sim_args *args)
{
	struct board *board = share(sizeof(*board));
	uint32_t jobs = args->jobs > 0 ? (uint32_t)args->jobs : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
	double began = seconds_now();
	struct sim_totals totals;
	uint32_t n;

	jobs = jobs > SIM_MAX_JOBS ? SIM_MAX_JOBS : jobs;
	atomic_store(&board->next, asked->seed);
	atomic_store(&board->end, last);
	run_all(board, jobs, asked);
	n = atomic_load(&board->n_failures);
	n = n < MAX_FAILURES ? n : MAX_FAILURES;
	sum_up(board, jobs, &totals);
	if (args->json)
		print_json(board, n, &totals, seconds_now() - began);
	else
		print_text(&totals, seconds_now() - began);
	if (!args->json)
		print_failures(board, n, asked);
	if (n > 0 && args->shrink) {
		struct kvf_sim_options run = *asked;

		run.seed = board->failures[0].seed;
		sim_shrink(&run);
	}
	(void)munmap(board, sizeof(*board));
	return n > 0 ? EXIT_WORK_FAILED : 0;
}

int command_sim(int argc, char **argv)
{
	struct sim_args args = {.ranks = 8};
	enum args_result parsed = args_parse(&spec, argc, argv, &args);
	struct kvf_sim_options run;
	struct reason why;
	uint64_t last;
	int code;

	if (parsed != ARGS_RUN)
		return args_exit_code(parsed);
	if (args.replay != NULL && sim_args_beside_replay(&args) != NULL)
		return args_usage_error(&spec, "--replay: repeats a record; %s has no meaning beside it",
			sim_args_beside_replay(&args));
	if (args.replay != NULL)
		return sim_replay(args.replay, args.trace, args.json);
	if (!sim_args_read(&args, &run, &last, &why))
		return args_usage_error(&spec, "%s", why.text);
	if (run.seed != last)
		return run_many(&run, last, &args);
	run.trace_fd = args.trace ? STDOUT_FILENO : -1;
	code = run_one(&run, args.json);
	if (code != 0 && args.shrink)
		sim_shrink(&run);
	return code;
}
