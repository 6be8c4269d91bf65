/* chaos_state.h - what the parts of the coordinator's chaos share: chaos.c (harm and its end), chaos_flight.c (the requests),
 * chaos_sample.c (what is measured). Included by these alone.
 */
#ifndef KVFERRY_CLI_CHAOS_STATE_H
#define KVFERRY_CLI_CHAOS_STATE_H

#include "cli/chaos.h"
#include "cli/chaos_watch.h"

#define CHAOS_NS_PER_MS UINT64_C(1000000)
#define CHAOS_SAMPLE_NS (100 * CHAOS_NS_PER_MS)

enum chaos_life {
	LIFE_UP,
	LIFE_ARMED, /* a fault point waits for its worker */
	LIFE_STOPPED,
	LIFE_KILLED, /* not reaped yet */
	LIFE_DOWN,   /* to be started at due_ns */
	LIFE_STARTING,
	LIFE_GONE
};

struct chaos_process {
	enum chaos_life life;
	uint64_t since_ns, due_ns;
	uint64_t quiet_ns; /* STOPPED: nobody has a session with it since; 0: somebody has */
	bool kill;         /* ARMED: what for */
	uint64_t restart_after_ns;
	uint32_t n_samples;           /* of its footprint, since it came up */
	struct chaos_footprint early; /* the most of the first samples */
};

/* Of one slot. */
struct chaos_trouble {
	struct chaos_plan plan;
	uint64_t harm_due_ns; /* 0: none */
	uint64_t tell_due_ns;
	uint64_t kill_ns, stop_ns; /* the first of each */
	uint8_t *open_at_kill;     /* per rank: had a session while the killed one had one */
};

struct chaos {
	struct replay_schedule *schedule;
	const struct chaos_shared *shared;
	struct chaos_result *result;
	struct chaos_process *ranks;
	struct chaos_trouble *troubles;
	uint8_t *marks;
	uint32_t n_ranks, n_prefill, n_stopped;
	uint64_t usual_ns;
	uint64_t sample_due_ns, footprint_due_ns;
	uint64_t calm_since_ns; /* since when the calm part has waited; 0: not yet */
};

static inline struct replay_flight *chaos_flight_of(const struct chaos *chaos, uint32_t slot)
{
	struct replay_flight *flight = &chaos->schedule->flights[slot];
	return flight->phase == PHASE_FREE ? NULL : flight;
}

static inline uint32_t chaos_side_of(const struct chaos *chaos, uint32_t index, uint32_t *rank_out)
{
	*rank_out = index < chaos->n_prefill ? index : index - chaos->n_prefill;
	return index < chaos->n_prefill ? REPLAY_PREFILL : REPLAY_DECODE;
}

/* Looks at machine and processes, if it is time. */
void chaos_sample(struct chaos *chaos, uint64_t now);
/* All is still: what do the processes hold now? */
void chaos_sample_late(struct chaos *chaos);
/* The other ranks cancel a slot's request. */
void chaos_tell_others(struct chaos *chaos, uint32_t slot);

#endif
