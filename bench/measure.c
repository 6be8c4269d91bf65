/* measure.c - time, medians, and giving up. A benchmark has nothing to clean up: what fails ends the process with a sentence. */
#include "bench/measure.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	(void)clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

uint64_t cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

void samples_add(struct samples *samples, double value)
{
	if (samples->n < MAX_SAMPLES)
		samples->values[samples->n++] = value;
}

static int compare(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return (a > b) - (a < b);
}

double samples_quantile(struct samples *samples, double part)
{
	uint32_t at = (uint32_t)((double)samples->n * part);

	if (samples->n == 0)
		return 0;
	qsort(samples->values, samples->n, sizeof(samples->values[0]), compare);
	return samples->values[at < samples->n ? at : samples->n - 1];
}

double samples_median(struct samples *samples)
{
	return samples_quantile(samples, 0.5);
}

void give_up(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	(void)fprintf(stderr, "kvferry-bench: ");
	(void)vfprintf(stderr, format, args);
	(void)fprintf(stderr, "\n");
	va_end(args);
	exit(1);
}

void must(enum kvf_status status, const char *what)
{
	if (status != KVF_OK)
		give_up("%s: %s: %s", what, kvf_status_name(status), kvf_error());
}
