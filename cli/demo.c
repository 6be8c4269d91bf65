/* demo.c - kvferry demo: a replay with good defaults, told so that a newcomer understands what happened.
 *
 * Small on purpose: 6 ranks of 192 MiB, a few seconds on two cores. Without ZeroMQ its ranks are agents of
 * one process.
 */
#include <stdlib.h>
#include <string.h>
#include "cli/args.h"
#include "cli/command.h"
#include "cli/replay.h"
#include "cli/term.h"
#include "cli/units.h"

#define DEMO_REQUESTS    40
#define DEMO_CONCURRENCY 4
#define DEMO_POOL_BYTES  (UINT64_C(192) << 20)

struct demo_args {
	uint64_t seed;
	bool json;
};

static const struct arg_option options[] = {
	{"seed", "S", "other requests; default 1", ARG_NUMBER, ARG_FIELD(struct demo_args, seed)},
	{"json", NULL, "print the JSON of kvferry replay", ARG_FLAG, ARG_FIELD(struct demo_args, json)},
};

static const struct args_spec spec = {
	.command = "demo",
	.summary = "see it work: 40 requests from 4 prefill to 2 decode processes, every byte checked",
	.usage = "demo [--seed S] [--json]",
	.description = "The same as\n"
		       "  kvferry replay --model llama-3.2-1b --prefill tp=4 --decode tp=2 --transport shm "
		       "--requests 40 "
		       "--concurrency 4 --pool 192MiB\n"
		       "with another summary. Needs about 1.2 GiB of memory.\n",
	.examples = "  kvferry demo\n",
	.options = options,
	.n_options = sizeof(options) / sizeof(options[0]),
};

static void line(FILE *out, const char *label)
{
	fprintf(out, "  %s%-9s%s", term_style(out, TERM_BOLD), label, term_style(out, TERM_PLAIN));
}

/* "4 processes, each with 2 of the 8 heads of every layer" */
static void print_side(const struct replay_result *result, FILE *out, uint32_t s, const char *label)
{
	const struct replay_side *side = &result->setup->sides[s];
	const struct kvf_part_spec *part = &result->setup->model.kvf.groups[0].parts[0];
	const char *what =
		result->setup->options.transport == REPLAY_LOOP ? "agents in one process" : "processes";
	line(out, label);
	fprintf(out, "%u %s %s, each with %u of the %u KV heads of every layer\n", side->n_ranks,
		s == REPLAY_PREFILL ? "prefill" : "decode", what,
		side->instance->ranks[0].groups[0].head_count[0], part->heads);
}

static void print_story(const struct replay_result *result, FILE *out)
{
	struct replay_numbers numbers;
	char bytes[32], tokens[32], runs[32], verified[32], wrong[32], transports[64];
	bool good = replay_result_good(result);
	replay_result_numbers(result, &numbers);
	replay_result_transports(result, transports, sizeof(transports));

	fprintf(out, "\n");
	line(out, "moved");
	fprintf(out, "the KV cache of %u requests to %s: %s tokens, %s\n", result->completed,
		result->setup->model.name, units_format_count(result->tokens, tokens),
		units_format_bytes(result->bytes_moved, bytes));
	print_side(result, out, REPLAY_PREFILL, "from");
	print_side(result, out, REPLAY_DECODE, "to");
	line(out, "how");
	fprintf(out,
		"%s, %s separate pieces of memory, at %.2f GB/s while filling and checking on the same "
		"cores\n",
		transports, units_format_count(result->runs, runs), numbers.gb_per_s);
	line(out, "latency");
	fprintf(out, "half of the requests within %.1f ms, all within %.1f ms\n", numbers.latency.p50,
		numbers.latency.max);
	line(out, "reused");
	fprintf(out, "%.0f %% of the tokens were there already, from earlier requests that begin alike\n",
		result->tokens ? 100.0 * (double)result->tokens_reused / (double)result->tokens : 0);
	line(out, "checked");
	fprintf(out, "%s, every byte of every block: %s%s wrong%s\n\n",
		units_format_bytes(result->bytes_verified, verified),
		term_style(out, good ? TERM_GREEN : TERM_RED), units_format_count(result->mismatches, wrong),
		term_style(out, TERM_PLAIN));
}

int command_demo(int argc, char **argv)
{
	struct demo_args args = {.seed = 1};
	enum args_result parsed = args_parse(&spec, argc, argv, &args);
	if (parsed != ARGS_RUN)
		return args_exit_code(parsed);

	struct replay_options asked;
	replay_options_init(&asked);
	asked.model = "llama-3.2-1b";
	asked.prefill = "tp=4";
	asked.decode = "tp=2";
	asked.transport = strstr(kvf_features(), "zmq") ? REPLAY_SHM : REPLAY_LOOP;
	asked.requests = DEMO_REQUESTS;
	asked.concurrency = DEMO_CONCURRENCY;
	asked.pool_bytes = DEMO_POOL_BYTES;
	asked.seed = args.seed;
	if (!args.json)
		printf("Moving the KV cache of %d requests between %s. This takes some seconds.\n",
			DEMO_REQUESTS,
			asked.transport == REPLAY_SHM ? "4 prefill and 2 decode processes"
						      : "4 prefill and 2 decode agents");
	return replay_run("demo", &asked, args.json ? replay_result_json : print_story);
}
