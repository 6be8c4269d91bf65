/* args.c - option tables: parsing, and the help that is printed from the same tables.
 *
 * Every mistake prints exactly one sentence and is reported as ARGS_WRONG. Fields are written in the order of the command line;
 * after a mistake the command does not run, so half-written fields do not matter. One thread.
 */
#include "cli/args.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/reason.h"
#include "cli/term.h"
#include "cli/units.h"

#define MAX_OPTIONS 64u
#define MAX_WORDS   16u

struct parse {
	const struct args_spec *spec;
	void *fields;
	uint64_t seen; /* bit per option */
	bool seen_positional;
};

int args_exit_code(enum args_result result)
{
	return result == ARGS_WRONG ? EXIT_USAGE : EXIT_SUCCESS;
}

int args_usage_error(const struct args_spec *spec, const char *format, ...)
{
	va_list list;

	fprintf(stderr, "%skvferry %s:%s ", term_style(stderr, TERM_RED), spec->command,
		term_style(stderr, TERM_PLAIN));
	va_start(list, format);
	vfprintf(stderr, format, list);
	va_end(list);
	fprintf(stderr, "\n(see kvferry %s --help)\n", spec->command);
	return EXIT_USAGE;
}

static enum args_result wrong_option(const struct args_spec *spec, const char *name, size_t len)
{
	const char *names[MAX_OPTIONS + 1] = {"help"};
	char word[64];
	const char *nearest;

	for (size_t i = 0; i < spec->n_options; i++)
		names[i + 1] = spec->options[i].name;
	(void)snprintf(word, sizeof word, "%.*s", (int)(len < 63 ? len : 63), name);
	nearest = reason_nearest(word, names, spec->n_options + 1);
	if (nearest)
		args_usage_error(spec, "unknown option --%s; did you mean --%s?", word, nearest);
	else
		args_usage_error(spec, "unknown option --%s", word);
	return ARGS_WRONG;
}

static bool parse_choice(const char *choices, const char *text, uint32_t *out, struct reason *why)
{
	const char *words[MAX_WORDS];
	char copy[256], *rest = copy, *word;
	uint32_t n = 0;
	const char *nearest;

	(void)snprintf(copy, sizeof copy, "%s", choices);
	while ((word = strsep(&rest, "|")) && n < MAX_WORDS) {
		if (!strcmp(word, text)) {
			*out = n;
			return true;
		}
		words[n++] = word;
	}
	nearest = reason_nearest(text, words, n);
	return reason_set(why, "'%.64s' is none of %s%s%s%s", text, choices, nearest ? "; did you mean " : "",
		nearest ? nearest : "", nearest ? "?" : "");
}

static bool store(const struct arg_option *option, const char *text, void *fields, struct reason *why)
{
	void *field = (char *)fields + option->offset;
	uint64_t max = option->max ? option->max : UINT64_MAX;

	switch (option->kind) {
	case ARG_FLAG:
		*(bool *)field = true;
		return true;
	case ARG_TEXT:
		if (!*text)
			return reason_set(why, "the value is empty");
		*(const char **)field = text;
		return true;
	case ARG_NUMBER:
		return units_parse_number(text, option->min, max, field, why);
	case ARG_SIZE:
		return units_parse_size(text, option->min, max, field, why);
	case ARG_DURATION:
		return units_parse_duration(text, option->min, max, field, why);
	case ARG_CHOICE:
		return parse_choice(option->choices, text, field, why);
	}
	return false;
}

static const struct arg_option *find_option(const struct args_spec *spec, const char *name, size_t len)
{
	for (size_t i = 0; i < spec->n_options; i++) {
		if (strlen(spec->options[i].name) == len && !memcmp(spec->options[i].name, name, len))
			return &spec->options[i];
	}
	return NULL;
}

/* text: behind the dashes. next: the following argument or NULL; *used_next_out tells whether it was the value. */
static enum args_result parse_option(
	struct parse *parse, const char *text, const char *next, bool *used_next_out)
{
	size_t len = strcspn(text, "=");
	const char *value = text[len] == '=' ? text + len + 1 : NULL;
	const struct arg_option *option = find_option(parse->spec, text, len);
	struct reason why;
	uint64_t bit;

	*used_next_out = false;
	if (!option)
		return wrong_option(parse->spec, text, len);
	bit = UINT64_C(1) << (option - parse->spec->options);
	if (parse->seen & bit) {
		args_usage_error(parse->spec, "--%s is given twice", option->name);
		return ARGS_WRONG;
	}
	parse->seen |= bit;
	if (option->kind == ARG_FLAG && value) {
		args_usage_error(parse->spec, "--%s takes no value, but got '%.64s'", option->name, value);
		return ARGS_WRONG;
	}
	if (option->kind != ARG_FLAG && !value) {
		if (!next || (next[0] == '-' && next[1] == '-')) {
			args_usage_error(parse->spec, "--%s needs a value: %s", option->name, option->value);
			return ARGS_WRONG;
		}
		value = next;
		*used_next_out = true;
	}
	if (!store(option, value, parse->fields, &why)) {
		args_usage_error(parse->spec, "--%s: %s", option->name, why.text);
		return ARGS_WRONG;
	}
	return ARGS_RUN;
}

static enum args_result parse_positional(struct parse *parse, const char *text)
{
	if (!parse->spec->positional) {
		args_usage_error(parse->spec, "unexpected argument '%.64s'; options begin with --", text);
		return ARGS_WRONG;
	}
	if (parse->seen_positional) {
		args_usage_error(parse->spec, "unexpected argument '%.64s'; %s is given already", text,
			parse->spec->positional);
		return ARGS_WRONG;
	}
	parse->seen_positional = true;
	*(const char **)((char *)parse->fields + parse->spec->positional_offset) = text;
	return ARGS_RUN;
}

static enum args_result check_required(const struct parse *parse)
{
	for (size_t i = 0; i < parse->spec->n_options; i++) {
		const struct arg_option *option = &parse->spec->options[i];

		if (option->required && !(parse->seen & (UINT64_C(1) << i))) {
			args_usage_error(parse->spec, "--%s %s is needed", option->name,
				option->value ? option->value : "");
			return ARGS_WRONG;
		}
	}
	return ARGS_RUN;
}

enum args_result args_parse(const struct args_spec *spec, int argc, char **argv, void *fields)
{
	struct parse parse = {.spec = spec, .fields = fields};
	bool only_positional = false;

	if (spec->n_options > MAX_OPTIONS)
		abort();
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			args_print_help(spec);
			return ARGS_HELP;
		}
	}
	for (int i = 1; i < argc; i++) {
		bool used_next = false;
		enum args_result result;

		if (!only_positional && !strcmp(argv[i], "--")) {
			only_positional = true;
			continue;
		}
		if (!only_positional && argv[i][0] == '-' && argv[i][1] == '-')
			result = parse_option(
				&parse, argv[i] + 2, i + 1 < argc ? argv[i + 1] : NULL, &used_next);
		else if (!only_positional && argv[i][0] == '-' && argv[i][1])
			result = wrong_option(spec, argv[i] + 1, strlen(argv[i] + 1));
		else
			result = parse_positional(&parse, argv[i]);
		if (result != ARGS_RUN)
			return result;
		i += used_next;
	}
	return check_required(&parse);
}

/* "--tokens N", or "--replica elect|stripe". */
static void option_label(const struct arg_option *option, char *buffer, size_t size)
{
	const char *value = option->value ? option->value : option->choices;

	(void)snprintf(buffer, size, "--%s%s%s", option->name, value ? " " : "", value ? value : "");
}

void args_print_help(const struct args_spec *spec)
{
	const char *bold = term_style(stdout, TERM_BOLD), *plain = term_style(stdout, TERM_PLAIN);
	char label[128];

	printf("kvferry %s - %s\n\n%sUsage:%s kvferry %s\n", spec->command, spec->summary, bold, plain,
		spec->usage);
	if (spec->description)
		printf("\n%s", spec->description);
	printf("\n%sOptions:%s\n", bold, plain);
	for (size_t i = 0; i < spec->n_options; i++) {
		option_label(&spec->options[i], label, sizeof label);
		if (strlen(label) > 26)
			printf("  %s\n  %-26s  %s\n", label, "", spec->options[i].help);
		else
			printf("  %-26s  %s\n", label, spec->options[i].help);
	}
	printf("  %-26s  %s\n", "--help", "this text");
	printf("\n%sExamples:%s\n%s", bold, plain, spec->examples);
}
