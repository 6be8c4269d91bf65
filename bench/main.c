/* main.c - kvferry-bench: what the library costs, beside what the machine can do.
 *
 * Uses the public API alone. Every part opens its own agents and closes them, and checks the bytes that it moved.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "bench/measure.h"
#include "bench/parts.h"

static const struct part {
	const char *name;
	void (*run)(const struct settings *settings, struct report *report);
} parts[] = {{"shm", part_shm}, {"tcp", part_tcp}, {"plan", part_plan}, {"small", part_small},
	{"idle", part_idle}, {"rate", part_rate}};

#define N_PARTS (sizeof(parts) / sizeof(parts[0]))

static void usage(FILE *file)
{
	(void)fprintf(file,
		"usage: kvferry-bench [--quick] [--rounds N] [--workers N] [--only PART]\n\n"
		"  --quick      a few small transfers, every byte checked; the numbers mean little\n"
		"  --rounds N   of roof and transfer in turn (21)\n"
		"  --workers N  copy workers of each agent, and threads of the memcpy roof (1)\n"
		"  --only PART  shm, tcp, plan, small, idle or rate\n");
}

static uint32_t number(const char *option, const char *text, uint32_t max)
{
	char *end;
	unsigned long value = strtoul(text != NULL ? text : "", &end, 10);

	if (text == NULL || *text == '\0' || *end != '\0' || value < 1 || value > max) {
		(void)fprintf(stderr, "kvferry-bench: %s: a number of 1 to %u\n", option, max);
		exit(2);
	}
	return (uint32_t)value;
}

static bool is_part(const char *name)
{
	for (size_t i = 0; name != NULL && i < N_PARTS; i++)
		if (strcmp(parts[i].name, name) == 0)
			return true;
	return false;
}

static void read_arguments(int argc, char **argv, struct settings *settings)
{
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (strcmp(argv[i], "--help") == 0) {
			usage(stdout);
			exit(0);
		}
		if (strcmp(argv[i], "--quick") == 0) {
			settings->quick = true;
			settings->rounds = 2;
			settings->bytes = UINT64_C(2) << 20;
			continue;
		}
		if (strcmp(argv[i], "--rounds") == 0) {
			settings->rounds = number(argv[i], value, 10000);
		} else if (strcmp(argv[i], "--workers") == 0) {
			settings->workers = number(argv[i], value, 64);
		} else if (strcmp(argv[i], "--only") == 0 && is_part(value)) {
			settings->only = value;
		} else {
			(void)fprintf(stderr, "kvferry-bench: what is '%s'?\n", argv[i]);
			usage(stderr);
			exit(2);
		}
		i++;
	}
}

int main(int argc, char **argv)
{
	struct settings settings = {.rounds = 21, .workers = 1, .bytes = UINT64_C(64) << 20};
	struct report report = {0};

	read_arguments(argc, argv, &settings);
	report_header(&settings);
	for (size_t i = 0; i < N_PARTS; i++)
		if (settings.only == NULL || strcmp(settings.only, parts[i].name) == 0)
			parts[i].run(&settings, &report);
	if (settings.quick)
		(void)printf("\nquick: every byte that was checked has come\n");
	else
		report_end(&report);
	return 0;
}
