/* chaos_shared.h - memory that the coordinator of a chaotic replay and its ranks share: what each rank measured, and the words that
 * trigger fault points.
 *
 * A memfd, mapped before the ranks are forked. Numbers of a rank are written by that rank alone, also by the process that takes the
 * place of a killed one, and added up by the coordinator when the rank is not running. A fault word is a page of its own, because the library
 * maps it, too (base/fault_point.h): it fires once, inside a copy worker.
 */
#ifndef KVFERRY_CLI_CHAOS_SHARED_H
#define KVFERRY_CLI_CHAOS_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "cli/reason.h"

/* Counts of durations in nanoseconds: 16 steps per power of two, so within 6 %. */
#define CHAOS_BUCKETS 640u
struct chaos_histogram {
	uint64_t n, most;
	uint32_t counts[CHAOS_BUCKETS];
};
void chaos_histogram_add(struct chaos_histogram *histogram, uint64_t value_ns);
void chaos_histogram_merge(struct chaos_histogram *into, const struct chaos_histogram *from);
/* The upper edge of the bucket in which the share lies, 0 < share <= 1; 0: empty. */
uint64_t chaos_histogram_at(const struct chaos_histogram *histogram, double share);

struct chaos_rank_numbers {
	struct chaos_histogram poll[2], cancel[2]; /* [1]: while a process was stopped */
	uint64_t cancel_results[8];                /* by enum kvf_cancel_result */
	uint64_t recoveries;                       /* decode: prefill ranks that were lost and came back */
	/* As of the last look at kvf_health; of the incarnation that runs. */
	_Atomic uint32_t quarantined, stuck, unhealthy, peers_away;
	_Atomic uint64_t health_ns; /* when; 0: never */
	/* Ladder steps and the like of the incarnation that runs, and of those before it. */
	uint64_t ladder[4], recovered, peer_losses;
};

enum chaos_trigger {
	CHAOS_IDLE = 0,
	CHAOS_ARMED_STOP = 1,
	CHAOS_ARMED_KILL = 2,
	CHAOS_FIRED = 3
};

struct chaos_shared {
	int fd;
	uint8_t *memory; /* NULL: no chaos */
	size_t len_bytes, rank_bytes;
	uint32_t n_ranks;
};

/* false: why. Zero-initialise; init, fini. */
bool chaos_shared_init(struct chaos_shared *shared, uint32_t n_ranks, struct reason *why);
void chaos_shared_fini(struct chaos_shared *shared);
/* rank: of both sides, prefill first. */
struct chaos_rank_numbers *chaos_shared_numbers(const struct chaos_shared *shared, uint32_t rank);
_Atomic uint32_t *chaos_shared_trigger(const struct chaos_shared *shared, uint32_t rank);
/* How many processes are stopped now. */
_Atomic uint32_t *chaos_shared_stopped(const struct chaos_shared *shared);
/* In the process of a rank, before its agent opens: the library finds the fault word through the environment. */
void chaos_shared_announce(const struct chaos_shared *shared, uint32_t rank);

#endif
