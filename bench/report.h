/* report.h - the table, and which targets are met. */
#ifndef KVFB_REPORT_H
#define KVFB_REPORT_H

#include <stdbool.h>
#include <stdint.h>

struct report {
	uint32_t targets, met;
	char missed[512];
};

struct settings {
	uint32_t rounds, workers;
	uint64_t bytes; /* of one bulk transfer */
	bool quick;     /* small and few: proves bytes, measures little */
	const char *only;
};

void report_header(const struct settings *settings);
/* Throughput beside its roof, both in GiB/s; target: the least ratio that is wanted, 0 = none. */
void report_ratio(
	struct report *report, const char *what, double value, double roof, double ratio, double target);
/* A value that should be below a limit (0 = none), in the unit given. */
void report_limit(struct report *report, const char *what, double value, const char *unit, double limit);
/* A line that belongs to no target. */
void report_note(const char *what, const char *format, ...) __attribute__((format(printf, 2, 3)));
void report_end(const struct report *report);

#endif
