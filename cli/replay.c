/* replay.c - kvferry replay: the KV cache of a stream of requests, moved between real processes, every byte
 * checked. This file parses and prints; replay_setup.c decides, replay_schedule.c coordinates,
 * replay_rank.c is a rank.
 */
#include "cli/replay.h"

#include <stdlib.h>
#include <unistd.h>
#include "cli/args.h"
#include "cli/command.h"
#include "cli/replay_schedule.h"
#include "cli/term.h"
#include "cli/trace.h"

#define MOST_DEADLINE_NS UINT64_C(86400000000000)
#define FIELD(name)      ARG_FIELD(struct replay_options, name)

static const struct arg_option options[] = {
	{"model", "M", "built-in name, config.json, or layers=...; see kvferry models --help", ARG_TEXT,
		FIELD(model), .required = true},
	{"prefill", "SPEC", "ranks that send, see kvferry plan --help; default tp=1", ARG_TEXT,
		FIELD(prefill)},
	{"decode", "SPEC", "ranks that receive; default tp=1", ARG_TEXT, FIELD(decode)},
	{"block-tokens", "B", "tokens per block, unless a rank spec says block=; default 32", ARG_NUMBER,
		FIELD(block_tokens), .min = 1, .max = 65536},
	{"transport", "T", "auto (default), shm, tcp: a process per rank; loop: all ranks in one", ARG_CHOICE,
		FIELD(transport), .choices = REPLAY_TRANSPORTS},
	{"requests", "N", "how many; default: all of TRACE, or 100", ARG_NUMBER, FIELD(requests), .min = 1,
		.max = 10000000},
	{"rate", "R", "max (default), real: as the timestamps say, or Nx: N times as fast", ARG_TEXT,
		FIELD(rate)},
	{"concurrency", "C", "requests in flight; default 8", ARG_NUMBER, FIELD(concurrency), .min = 1,
		.max = REPLAY_MAX_CONCURRENCY},
	{"pool", "SIZE", "KV memory of each rank; default 256MiB", ARG_SIZE, FIELD(pool_bytes), .min = 4096},
	{"block-runs", "K", "mean length of runs of consecutive block ids; default 8", ARG_NUMBER,
		FIELD(block_runs), .min = 1, .max = 1000000},
	{"verify", "V", "full (default): every byte; sample: some; none", ARG_CHOICE, FIELD(verify),
		.choices = REPLAY_VERIFIES},
	{"sum", NULL, "also compare content sums that both sides compute while they copy", ARG_FLAG,
		FIELD(sum)},
	{"replica", "R", "who of several holders sends: elect (default) one, or stripe the layers",
		ARG_CHOICE, FIELD(replica), .choices = "elect|stripe"},
	{"seed", "S", "the same seed gives the same requests, blocks and order; default 1", ARG_NUMBER,
		FIELD(seed)},
	{"max-tokens", "N", "without TRACE: longest prompt; default: what fits the pools", ARG_NUMBER,
		FIELD(max_tokens), .min = 1, .max = TRACE_MAX_TOKENS},
	{"corrupt", "I",
		"damage a byte of request I (counted from 1) before the check, to see it found; in chaos: "
		"of its canary",
		ARG_NUMBER, FIELD(corrupt), .min = 1, .max = 10000000},
	{"chaos", "SPEC",
		"kill=P,stop=P,restart,cancel=P,timeout=P,refuse=P: harm with these probabilities per "
		"request",
		ARG_TEXT, FIELD(chaos)},
	{"queue", "T", "the library's deadlines, 0 = off: of a session that waits; in chaos 5s", ARG_DURATION,
		FIELD(deadlines.queue_ns), .max = MOST_DEADLINE_NS},
	{"transfer", "T", "of a slice that moves; in chaos 10s", ARG_DURATION, FIELD(deadlines.transfer_ns),
		.max = MOST_DEADLINE_NS},
	{"stall", "T", "of a slice of which no byte moves; in chaos 2s", ARG_DURATION,
		FIELD(deadlines.stall_ns), .max = MOST_DEADLINE_NS},
	{"quiet", "T", "from a cancel to the first step of recovery", ARG_DURATION, FIELD(deadlines.quiet_ns),
		.max = MOST_DEADLINE_NS},
	{"ping", "T", "how often a silent peer is asked", ARG_DURATION, FIELD(deadlines.ping_ns),
		.max = MOST_DEADLINE_NS},
	{"silence", "T", "when a silent peer is lost", ARG_DURATION, FIELD(deadlines.silence_ns),
		.max = MOST_DEADLINE_NS},
	{"record", "FILE",
		"every rank writes what it is told and decides into FILE.prefill-0 and so on, see kvferry "
		"sim --replay",
		ARG_TEXT, FIELD(record)},
	{"fault", "SPEC",
		"harm around transport and control channel: seed=N,within=MS and rates of late, hold, full, "
		"fail, break, drop, repeat, damage, doubt; docs/testing.md says what each does",
		ARG_TEXT, FIELD(fault)},
	{"json", NULL, "print JSON", ARG_FLAG, FIELD(json)},
};

static const struct args_spec spec = {
	.command = "replay",
	.summary = "move the KV cache of a stream of requests between processes, and check every byte",
	.usage = "replay [TRACE] --model M --prefill SPEC --decode SPEC [options]",
	.description =
		"TRACE: requests in the Mooncake JSONL format (timestamp, input_length, "
		"output_length, hash_ids); without "
		"it they are\n"
		"generated. Starts one process per rank. Prefill ranks fill their blocks with content "
		"that is a function of "
		"the cell;\n"
		"decode ranks recompute it and compare every byte, and look for bytes written where "
		"none were due. "
		"Prefixes shared\n"
		"through hash_ids are reused on the decode side. Requests wait for blocks; one that "
		"can never fit is "
		"refused.\n"
		"seconds: time in which at least one request was between its admission and its "
		"outcome; filling and "
		"checking go on\n"
		"beside it, on the same cores. --verify none leaves them out, to measure.\n"
		"--chaos: ranks are killed (and with `restart` started again) and stopped, requests are "
		"cancelled, never finished\n"
		"(timeout) and named with another prompt length (refuse), while they move. Whatever "
		"happens, each request has one\n"
		"outcome, released blocks are filled with a canary that nobody may touch, every block "
		"comes back, and at the end\n"
		"everything works without a restart of anybody who was not killed.\n",
	.examples = "  kvferry replay --model llama-3.2-1b --prefill tp=4 --decode tp=2 --requests 40\n"
		    "  kvferry replay trace.jsonl --model llama-3.1-8b --prefill tp=4 --decode "
		    "tp=2,layout=nhd --pool 2GiB "
		    "--rate 10x --json\n"
		    "  kvferry replay --model deepseek-v3 --prefill tp=2 --decode tp=2,attention-dp "
		    "--transport tcp --sum\n"
		    "  kvferry replay --model llama-3.2-1b --requests 200 --chaos "
		    "kill=0.01,stop=0.01,restart,cancel=0.2 --quiet 200ms\n"
		    "  kvferry replay --model llama-3.2-1b --requests 40 --fault "
		    "seed=7,within=20,drop=0.1,late=0.2 "
		    "--record /tmp/run\n",
	.options = options,
	.n_options = sizeof(options) / sizeof(options[0]),
	.positional = "TRACE",
	.positional_offset = FIELD(trace),
};

static int run_setup(struct replay_setup *setup, replay_print *print)
{
	struct replay_result result;
	struct reason why;
	if (!replay_result_init(&result, setup)) {
		term_error("out of memory");
		return EXIT_WORK_FAILED;
	}
	int code = replay_schedule_run(setup, &result, isatty(STDERR_FILENO) == 1, &why);
	if (code != 0) {
		replay_result_complain(&result);
		term_error("%s", why.text);
	} else {
		print(&result, stdout);
		fflush(stdout);
		if (!replay_result_good(&result)) {
			replay_result_complain(&result);
			code = EXIT_WORK_FAILED;
		}
	}
	replay_result_fini(&result);
	return code;
}

int replay_run(const char *command, const struct replay_options *asked, replay_print *print)
{
	struct replay_setup *setup;
	struct reason why;
	int code;
	if (!replay_setup_new(asked, &setup, &code, &why)) {
		if (code == EXIT_USAGE)
			return args_usage_error(&(struct args_spec){.command = command}, "%s", why.text);
		term_error("%s: %s", command, why.text);
		return code;
	}
	code = run_setup(setup, print);
	replay_setup_free(setup);
	return code;
}

int command_replay(int argc, char **argv)
{
	struct replay_options asked;
	replay_options_init(&asked);
	enum args_result parsed = args_parse(&spec, argc, argv, &asked);
	if (parsed != ARGS_RUN)
		return args_exit_code(parsed);
	if (asked.trace && asked.max_tokens)
		return args_usage_error(&spec,
			"--max-tokens: is for generated requests; %s has its own lengths", asked.trace);
	return replay_run("replay", &asked, asked.json ? replay_result_json : replay_result_table);
}
