/* chaos_sample.c - what is measured while a chaotic replay runs, and added up when it is over.
 *
 * Guarantees: numbers of a rank are read while it writes them only where they are atomic; the rest when its process has ended.
 * One thread: the coordinator's.
 */
#include "cli/chaos_state.h"

#define FOOTPRINT_NS  (100 * CHAOS_NS_PER_MS) /* per 16 processes */
#define WARM_SHARE    10u
#define EARLY_SAMPLES 4u

static void keep_most(int64_t *most, int64_t value)
{
	*most = value > *most ? value : *most;
}

static void sample_footprints(struct chaos *chaos, uint64_t now)
{
	const struct replay_schedule *schedule = chaos->schedule;
	chaos->footprint_due_ns = now + FOOTPRINT_NS * (1 + schedule->processes.n / 16);
	/* While somebody is away, its connections are missing everywhere. */
	if (schedule->n_ended < schedule->setup->n_requests / WARM_SHARE || !chaos_is_settled(chaos))
		return;
	for (uint32_t i = 0; i < schedule->processes.n; i++) {
		struct chaos_process *rank = &chaos->ranks[i];
		struct chaos_footprint seen;
		if (rank->life != LIFE_UP || ++rank->n_samples > EARLY_SAMPLES ||
			!chaos_watch_process(schedule->processes.all[i].pid, &seen))
			continue;
		if (rank->n_samples == 1)
			rank->early = seen;
		keep_most(&rank->early.descriptors, seen.descriptors);
		keep_most(&rank->early.private_bytes, seen.private_bytes);
		keep_most(&rank->early.mapped_bytes, seen.mapped_bytes);
	}
}

void chaos_sample_late(struct chaos *chaos)
{
	struct chaos_footprint *growth = &chaos->result->growth;
	for (uint32_t i = 0; i < chaos->schedule->processes.n; i++) {
		const struct chaos_process *rank = &chaos->ranks[i];
		struct chaos_footprint late;
		if (rank->life != LIFE_UP || rank->n_samples < 2 * EARLY_SAMPLES ||
			!chaos_watch_process(chaos->schedule->processes.all[i].pid, &late))
			continue;
		chaos->result->growth_of++;
		keep_most(&growth->descriptors, late.descriptors - rank->early.descriptors);
		keep_most(&growth->private_bytes, late.private_bytes - rank->early.private_bytes);
		keep_most(&growth->mapped_bytes, late.mapped_bytes - rank->early.mapped_bytes);
	}
}

void chaos_sample(struct chaos *chaos, uint64_t now)
{
	uint32_t quarantined = 0;
	chaos->sample_due_ns = now + CHAOS_SAMPLE_NS;
	for (uint32_t i = 0; i < chaos->n_ranks; i++)
		quarantined += atomic_load(&chaos_shared_numbers(chaos->shared, i)->quarantined);
	chaos_series_add(&chaos->result->quarantined, quarantined);
	chaos_series_add(&chaos->result->runnable, chaos_watch_runnable());
	if (now >= chaos->footprint_due_ns)
		sample_footprints(chaos, now);
}

uint32_t chaos_unsettled(const struct chaos *chaos)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < chaos->n_ranks; i++) {
		const struct chaos_rank_numbers *numbers = chaos_shared_numbers(chaos->shared, i);
		n += chaos->ranks[i].life == LIFE_UP &&
		     (atomic_load(&numbers->peers_away) > 0 || atomic_load(&numbers->unhealthy) > 0);
	}
	return n;
}

bool chaos_is_settled(const struct chaos *chaos)
{
	uint64_t now = replay_now_ns();
	for (uint32_t i = 0; i < chaos->n_ranks; i++) {
		const struct chaos_process *rank = &chaos->ranks[i];
		/* What the ranks say of their peers must be younger than the last that happened to any. */
		if (rank->life == LIFE_GONE)
			continue;
		if (rank->life != LIFE_UP || now - rank->since_ns < 3 * CHAOS_SAMPLE_NS)
			return false;
	}
	return chaos_unsettled(chaos) == 0;
}

void chaos_collect(struct chaos *chaos)
{
	struct chaos_result *result = chaos->result;
	for (uint32_t i = 0; i < chaos->n_ranks; i++) {
		const struct chaos_rank_numbers *numbers = chaos_shared_numbers(chaos->shared, i);
		const struct chaos_process *rank = &chaos->ranks[i];
		for (uint32_t s = 0; s < 2; s++) {
			chaos_histogram_merge(&result->poll[s], &numbers->poll[s]);
			chaos_histogram_merge(&result->cancel_call[s], &numbers->cancel[s]);
		}
		for (uint32_t k = 0; k < 8; k++)
			result->cancel_results[k] += numbers->cancel_results[k];
		for (uint32_t k = 0; k < 4; k++)
			result->ladder[k] += numbers->ladder[k];
		result->recovered += numbers->recovered;
		result->peer_losses += numbers->peer_losses;
		result->recoveries += numbers->recoveries;
		if (rank->life != LIFE_GONE)
			result->quarantined_at_end += atomic_load(&numbers->quarantined);
	}
}
