/* attempt.h - what tests that misuse the API share: calls that must fail in a certain way, and the smallest world to misuse. */
#ifndef KVFT_ATTEMPT_H
#define KVFT_ATTEMPT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include "cluster.h"

/* The call fails with that status, and its sentence contains the word. */
#define REFUSES(status, call, word) expect_refused((status), (call), (word), #call, __LINE__)
#define WORKS(call)                 expect_works((call), #call, __LINE__)

static inline void expect_refused(
	enum kvf_status wanted, enum kvf_status got, const char *word, const char *call, int line)
{
	if (got != wanted)
		fail_msg("line %d: %s: %s (%s), not %s", line, call, kvf_status_name(got),
			got == KVF_OK ? "" : kvf_error(), kvf_status_name(wanted));
	if (strstr(kvf_error(), word) == NULL)
		fail_msg("line %d: %s: \"%s\" does not name \"%s\"", line, call, kvf_error(), word);
}

static inline void expect_works(enum kvf_status got, const char *call, int line)
{
	if (got != KVF_OK)
		fail_msg("line %d: %s: %s: %s", line, call, kvf_status_name(got), kvf_error());
}

static inline uint64_t attempt_now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void attempt_breathe(void)
{
	struct timespec pause = {0, 50000}; /* lets other threads work; nothing depends on it */

	(void)nanosleep(&pause, NULL);
}

/* Four layers of four heads of 512 bytes, 8 tokens a block, 16 blocks; one rank on each side. */
static inline struct cluster_spec attempt_spec(struct kvf_group_spec *group)
{
	static const uint32_t layers[] = {0, 1, 2, 3};

	*group = (struct kvf_group_spec){.kind = KVF_PAGED,
		.dtype = KVF_FP32,
		.n_layers = 4,
		.layers = layers,
		.n_parts = 2,
		.parts = {{4, 512}, {4, 512}}};
	return (struct cluster_spec){.model = {"toy", "1", 1, group},
		.prefill = {{1, 1, 1, 1, NULL, NULL}, {KVF_BLOCK_MAJOR, 8, 16, 4}},
		.decode = {{1, 1, 1, 1, NULL, NULL}, {KVF_BLOCK_MAJOR, 8, 16, 4}},
		.n_aux = 4,
		.aux_bytes = 64};
}

#endif
