/* trace.c - kvferry trace: write requests of the seeded generator as a Mooncake-format JSONL file. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/command.h"
#include "cli/json.h"
#include "cli/term.h"
#include "cli/trace.h"

struct trace_args {
	uint64_t requests, seed, max_tokens;
	const char *out;
	bool json;
};

static const struct arg_option options[] = {
	{"requests", "N", "how many; default 1000", ARG_NUMBER, ARG_FIELD(struct trace_args, requests),
		.min = 1, .max = 100000000},
	{"seed", "S", "the same seed gives the same file; default 1", ARG_NUMBER,
		ARG_FIELD(struct trace_args, seed)},
	{"max-tokens", "N", "longest prompt; default 1048576", ARG_NUMBER,
		ARG_FIELD(struct trace_args, max_tokens), .min = 1, .max = TRACE_MAX_TOKENS},
	{"out", "FILE", "where to; default: standard output", ARG_TEXT, ARG_FIELD(struct trace_args, out)},
	{"json", NULL, "with --out: print what was written as JSON", ARG_FLAG,
		ARG_FIELD(struct trace_args, json)},
};

static const struct args_spec spec = {
	.command = "trace",
	.summary = "write a request trace in the Mooncake JSONL format",
	.usage = "trace [--requests N] [--seed S] [--max-tokens N] [--out FILE] [--json]",
	.description = "Prompt lengths are log-normal with p50 6,909 and p90 27,367 tokens, arrivals come in "
		       "bursts every 3 s, and a good third\n"
		       "of all 512-token blocks repeats an earlier one (hash_ids), as in an hour of a chat "
		       "service.\n"
		       "One line a request: {\"timestamp\": ms, \"input_length\": N, \"output_length\": N, "
		       "\"hash_ids\": [...]}\n",
	.examples = "  kvferry trace --requests 500 --out trace.jsonl\n"
		    "  kvferry trace --requests 40 --max-tokens 8192 --seed 7 | head -1\n",
	.options = options,
	.n_options = sizeof options / sizeof options[0],
};

struct written {
	uint64_t requests, tokens, blocks;
	uint64_t last_ms;
};

static bool write_requests(
	const struct trace_args *args, FILE *out, struct written *written, struct reason *why)
{
	struct trace_generator_options generator = {.seed = args->seed, .max_tokens = args->max_tokens};
	struct trace_source *source;
	struct term_progress progress;
	struct trace_request request;
	bool ok = true;

	if (!trace_open_generator(&generator, &source, why))
		return false;
	term_progress_start(&progress, "writing", "requests", args->requests);
	for (uint64_t i = 0; i < args->requests && ok; i++) {
		ok = trace_next(source, &request, why) == TRACE_REQUEST;
		if (!ok)
			break;
		trace_write(out, &request);
		written->requests++;
		written->tokens += request.input_length;
		written->blocks += request.n_hashes;
		written->last_ms = request.timestamp_ms;
		ok = !ferror(out) || reason_set(why, "cannot write: %s", strerror(errno));
		term_progress_update(&progress, i + 1);
	}
	term_progress_end(&progress);
	trace_close(source);
	return ok;
}

static void report(const struct trace_args *args, const struct written *written)
{
	struct json json;

	if (!args->json) {
		term_note("wrote %" PRIu64 " requests, %" PRIu64 " prompt tokens, %.0f s of arrivals to %s",
			written->requests, written->tokens, (double)written->last_ms / 1000, args->out);
		return;
	}
	json_init(&json, stdout);
	json_object(&json, NULL);
	json_string(&json, "out", args->out);
	json_u64(&json, "requests", written->requests);
	json_u64(&json, "input_tokens", written->tokens);
	json_u64(&json, "blocks", written->blocks);
	json_u64(&json, "last_timestamp_ms", written->last_ms);
	json_end(&json);
}

int command_trace(int argc, char **argv)
{
	struct trace_args args = {.requests = 1000, .seed = 1};
	enum args_result result = args_parse(&spec, argc, argv, &args);
	struct written written = {0};
	struct reason why;
	FILE *out = stdout;
	bool ok;

	if (result != ARGS_RUN)
		return args_exit_code(result);
	if (args.json && !args.out)
		return args_usage_error(
			&spec, "--json: needs --out FILE, for the trace itself goes to standard output");
	if (args.out)
		out = fopen(args.out, "we");
	if (!out) {
		term_error("--out: cannot open '%s': %s", args.out, strerror(errno));
		return EXIT_WORK_FAILED;
	}
	ok = write_requests(&args, out, &written, &why);
	if (args.out && fclose(out) != 0 && ok)
		ok = reason_set(&why, "cannot write: %s", strerror(errno));
	if (!ok) {
		term_error("%s", why.text);
		return EXIT_WORK_FAILED;
	}
	if (args.out)
		report(&args, &written);
	return EXIT_SUCCESS;
}
