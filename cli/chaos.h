/* chaos.h - the coordinator's part in a chaotic replay: whom to stop, kill, continue and start again, and when. */
#ifndef KVFERRY_CLI_CHAOS_H
#define KVFERRY_CLI_CHAOS_H

#include "cli/replay_flight.h"

struct chaos;

/* NULL: why. shared stays the caller's. */
struct chaos *chaos_new(
	struct replay_schedule *schedule, const struct chaos_shared *shared, struct reason *why);
void chaos_free(struct chaos *chaos);

/* Does what is due: harm, continuing, restarting, cancels, samples. False: a rank could not be started; schedule->why says why. */
bool chaos_turn(struct chaos *chaos);
/* Milliseconds until something is due. */
int chaos_wait_ms(const struct chaos *chaos);

enum chaos_admission {
	CHAOS_NOW,
	CHAOS_LATER, /* a rank is stopped or on its way back */
	CHAOS_NEVER  /* a rank is gone for good: the request has failed, and is counted */
};
enum chaos_admission chaos_admits(struct chaos *chaos, uint32_t request);

void chaos_flight_began(struct chaos *chaos, uint32_t slot, uint32_t request);
/* Everybody is prepared: may sessions be opened?  Plans the harm. False: not while one of the ranks is stopped. */
bool chaos_may_start(struct chaos *chaos, uint32_t slot);
void chaos_flight_ended(struct chaos *chaos, uint32_t slot, uint32_t request, enum chaos_outcome outcome);
void chaos_session_released(struct chaos *chaos, const struct replay_report *report);
/* UP and CONNECTED, of ranks that were started again. */
void chaos_rank_report(struct chaos *chaos, const struct replay_report *report);
/* A process ended. False: nobody meant it to. */
bool chaos_process_lost(struct chaos *chaos, uint32_t index);
bool chaos_is_stopped(const struct chaos *chaos, uint32_t index);
/* Gone for good. */
bool chaos_is_gone(const struct chaos *chaos, uint32_t index);
/* Nothing is stopped, on its way, or away from its peers. */
bool chaos_is_settled(const struct chaos *chaos);
/* Ranks that have not come back to their peers, though every process runs. */
uint32_t chaos_unsettled(const struct chaos *chaos);
/* Adds up what the ranks wrote; after they have ended. */
void chaos_collect(struct chaos *chaos);

#endif
