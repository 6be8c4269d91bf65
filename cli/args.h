/* args.h - long options of a subcommand, from a table.
 *
 *	static const struct arg_option options[] = {
 *		{"tokens", "N", "prompt length", ARG_NUMBER, ARG_FIELD(struct plan_args, tokens), .min = 1, .max
 *= KVF_MAX_TOKENS, .required = true},
 *		{"pool", "SIZE", "KV memory per rank", ARG_SIZE, ARG_FIELD(struct plan_args, pool_bytes), .min =
 *4096, .max = UINT64_MAX},
 *		...
 *	};
 *	struct plan_args args = { defaults };
 *	int rc = args_parse(&spec, argc, argv, &args);
 *	if (rc != ARGS_RUN)
 *		return args_exit_code(rc);
 *
 * Both "--tokens 5" and "--tokens=5" are read; "--" ends the options; "--help" prints the help on stdout.
 * A mistake prints one sentence on stderr (option, value, what is allowed, the nearest name) and means exit
 *code 2. The order of options does not matter; giving one twice is a mistake.
 */
#ifndef KVFERRY_CLI_ARGS_H
#define KVFERRY_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum arg_kind {
	ARG_FLAG,     /* bool */
	ARG_TEXT,     /* const char *; points into argv */
	ARG_NUMBER,   /* uint64_t */
	ARG_SIZE,     /* uint64_t bytes */
	ARG_DURATION, /* uint64_t nanoseconds */
	ARG_CHOICE    /* uint32_t: index into the words of .choices */
};

struct arg_option {
	const char *name;  /* without the dashes */
	const char *value; /* what the help calls the value; NULL for flags */
	const char *help;  /* one line; say the default */
	enum arg_kind kind;
	size_t offset;       /* of the field in the struct that args_parse fills */
	uint64_t min, max;   /* inclusive: NUMBER, SIZE, DURATION; max 0 means UINT64_MAX */
	const char *choices; /* CHOICE: "elect|stripe" */
	bool required;
};

#define ARG_FIELD(type, field) offsetof(type, field)

struct args_spec {
	const char *command;     /* "plan" */
	const char *summary;     /* one line */
	const char *usage;       /* after "kvferry ": "plan --model M --tokens N ..." */
	const char *description; /* paragraphs of the help, newline-terminated; NULL: none */
	const char *examples;    /* lines of the help, newline-terminated */
	const struct arg_option *options;
	size_t n_options;
	const char *positional;   /* help name of the one optional positional argument, "TRACE"; NULL: none is
				     taken */
	size_t positional_offset; /* a const char * field */
};

enum args_result {
	ARGS_RUN,  /* go on */
	ARGS_HELP, /* help was printed: exit 0 */
	ARGS_WRONG /* the mistake was printed: exit 2 */
};

#define EXIT_WORK_FAILED 1
#define EXIT_USAGE       2

/* argv[0] is the subcommand's name. fields: the struct that the offsets name, holding the defaults. */
enum args_result args_parse(const struct args_spec *spec, int argc, char **argv, void *fields);
int args_exit_code(enum args_result result);
/* Prints "kvferry COMMAND: sentence" and where the help is, on stderr; returns EXIT_USAGE. For mistakes found
 * after parsing. */
int args_usage_error(const struct args_spec *spec, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void args_print_help(const struct args_spec *spec);

#endif
