/* main.c - finds the subcommand and runs it. One table, one file per subcommand. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/command.h"
#include "cli/reason.h"
#include "cli/term.h"
#include "kvferry/kvferry.h"

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
} commands[] = {
	{"demo", command_demo, "see it work: move the KV cache of 40 requests, check every byte"},
	{"replay", command_replay, "move a stream of requests between real processes, check every byte"},
	{"plan", command_plan, "who sends what to whom, and why"},
	{"sim", command_sim, "a virtual cluster with faults, by seed, every promise checked"},
	{"models", command_models, "the built-in models, or what a model keeps per token"},
	{"trace", command_trace, "write a request trace in the Mooncake JSONL format"},
};

#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void print_help(FILE *out)
{
	fprintf(out, "kvferry %s - moves the KV cache of LLM requests from prefill to decode ranks\n\n",
		kvf_version());
	fprintf(out, "%sUsage:%s kvferry COMMAND [options]\n\n", term_style(out, TERM_BOLD),
		term_style(out, TERM_PLAIN));
	for (size_t i = 0; i < N_COMMANDS; i++)
		fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].summary);
	fprintf(out, "\nkvferry COMMAND --help shows options and examples. Exit codes: 0 ok, 1 the work "
		     "failed, 2 usage.\n");
}

static int unknown_command(const char *name)
{
	const char *names[N_COMMANDS];
	const char *nearest;

	for (size_t i = 0; i < N_COMMANDS; i++)
		names[i] = commands[i].name;
	nearest = reason_nearest(name, names, N_COMMANDS);
	if (nearest)
		term_error("unknown command '%.64s'; did you mean '%s'?", name, nearest);
	else
		term_error("unknown command '%.64s' (see kvferry --help)", name);
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	int code;

	if (argc < 2) {
		print_help(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		print_help(stdout);
		return EXIT_SUCCESS;
	}
	if (!strcmp(argv[1], "--version")) {
		printf("kvferry %s%s%s\n", kvf_version(), *kvf_features() ? " " : "", kvf_features());
		return EXIT_SUCCESS;
	}
	for (size_t i = 0; i < N_COMMANDS; i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		code = commands[i].run(argc - 1, argv + 1);
		if (fflush(stdout) != 0 || ferror(stdout)) {
			term_error("cannot write the output");
			return EXIT_WORK_FAILED;
		}
		return code;
	}
	return unknown_command(argv[1]);
}
