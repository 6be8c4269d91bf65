/* report.c - the table. One line per row as soon as it is known; the last line says which targets are met. */
#include "bench/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "kvferry/kvferry.h"

static void cpu_name(char *name, size_t len_bytes)
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	char line[256];

	(void)snprintf(name, len_bytes, "unknown processor");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		const char *colon = strchr(line, ':');

		if (strncmp(line, "model name", 10) != 0 || colon == NULL)
			continue;
		(void)snprintf(name, len_bytes, "%s", colon + 2);
		name[strcspn(name, "\n")] = '\0';
		break;
	}
	if (file != NULL)
		(void)fclose(file);
}

void report_header(const struct settings *settings)
{
	struct utsname system;
	char cpu[128];
	double load = 0;
	FILE *file = fopen("/proc/loadavg", "re");

	if (uname(&system) != 0)
		memset(&system, 0, sizeof(system));
	if (file != NULL) {
		if (fscanf(file, "%lf", &load) != 1)
			load = 0;
		(void)fclose(file);
	}
	cpu_name(cpu, sizeof(cpu));
	(void)printf("kvferry %s (%s)\n", kvf_version(), kvf_features());
	(void)printf("%s %s %s, %ld cores, %s, load %.1f\n", system.sysname, system.release, system.machine,
		sysconf(_SC_NPROCESSORS_ONLN), cpu, load);
	(void)printf(
		"%u rounds, roof and transfer in turn, medians; %.0f MiB a transfer; copy workers: %u\n\n",
		settings->rounds, (double)settings->bytes / 1048576.0, settings->workers);
	(void)printf("%-44s %14s %14s %7s  %-12s\n", "", "kvferry", "roof", "ratio",
		settings->quick ? "" : "target");
	(void)fflush(stdout);
}

static const char *judge(struct report *report, const char *what, bool met)
{
	size_t used = strlen(report->missed);

	report->targets++;
	report->met += met;
	if (!met)
		(void)snprintf(report->missed + used, sizeof(report->missed) - used, "%s%s",
			used > 0 ? "; " : "", what);
	return met ? "met" : "MISSED";
}

void report_ratio(
	struct report *report, const char *what, double value, double roof, double ratio, double target)
{
	(void)printf("%-44s %8.2f GiB/s %8.2f GiB/s %7.3f", what, value, roof, ratio);
	if (target > 0)
		(void)printf("  >= %.2f  %s", target, judge(report, what, ratio >= target));
	(void)printf("\n");
	(void)fflush(stdout);
}

void report_limit(struct report *report, const char *what, double value, const char *unit, double limit)
{
	(void)printf("%-44s %8.2f %-5s %14s %7s", what, value, unit, "", "");
	if (limit > 0)
		(void)printf("  < %g %s  %s", limit, unit, judge(report, what, value < limit));
	(void)printf("\n");
	(void)fflush(stdout);
}

void report_note(const char *what, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	(void)printf("%-44s ", what);
	(void)vprintf(format, args);
	(void)printf("\n");
	va_end(args);
	(void)fflush(stdout);
}

void report_end(const struct report *report)
{
	(void)printf("\ntargets: %u of %u met%s%s\n", report->met, report->targets,
		report->missed[0] != '\0' ? "; missed: " : "", report->missed);
}
