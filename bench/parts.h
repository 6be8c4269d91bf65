/* parts.h - the parts of the benchmark; each prints its rows. */
#ifndef KVFB_PARTS_H
#define KVFB_PARTS_H

#include "bench/report.h"

/* bulk.c: throughput by run length against memcpy (shm) and one stream (tcp) */
void part_shm(const struct settings *settings, struct report *report);
void part_tcp(const struct settings *settings, struct report *report);
/* small.c: one block; idle agents; many small requests */
void part_small(const struct settings *settings, struct report *report);
void part_idle(const struct settings *settings, struct report *report);
void part_rate(const struct settings *settings, struct report *report);
/* plan.c: a long request of a large model */
void part_plan(const struct settings *settings, struct report *report);

#endif
