/* measure.h - time, medians, and giving up. */
#ifndef KVFB_MEASURE_H
#define KVFB_MEASURE_H

#include <stdint.h>
#include "kvferry/kvferry.h"

#define MAX_SAMPLES 65536u

/* Values of one row; add drops what is over. */
struct samples {
	double values[MAX_SAMPLES];
	uint32_t n;
};

uint64_t now_ns(void);
/* CPU time of this process, all threads. */
uint64_t cpu_ns(void);
void samples_add(struct samples *samples, double value);
/* The value below which the given part (0..1) lies; sorts. 0 without samples. */
double samples_quantile(struct samples *samples, double part);
double samples_median(struct samples *samples);

/* Says what failed, with kvf_error(), and ends the process with 1. */
void must(enum kvf_status status, const char *what);
void give_up(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
