/* chaos_flight.c - a request in a chaotic replay: when it may begin, whether it is to suffer, what it came to.
 *
 * Guarantees: every request is counted in the outcomes once, at its end or at its admission. The calm part of the requests is not
 * begun before everything else is over and everybody is back, or has had its time to be. One thread: the coordinator's.
 */
#include "cli/chaos_state.h"

#include <string.h>

#define SETTLE_MOST_NS (30000 * CHAOS_NS_PER_MS)

/* All harm is over, and everybody is back; who is not back in time would need a restart. */
static bool calm_may_begin(struct chaos *chaos)
{
	uint64_t now = replay_now_ns();
	if (chaos->schedule->n_flights > 0)
		return false;
	if (chaos_is_settled(chaos)) {
		chaos_sample_late(chaos);
		return true;
	}
	if (chaos->calm_since_ns == 0)
		chaos->calm_since_ns = now;
	if (now - chaos->calm_since_ns < SETTLE_MOST_NS)
		return false;
	chaos->result->restarts_needed = chaos_unsettled(chaos);
	return true;
}

enum chaos_admission chaos_admits(struct chaos *chaos, uint32_t request)
{
	const struct replay_setup *setup = chaos->schedule->setup;
	uint32_t src_dp = request % setup->sides[REPLAY_PREFILL].dp;
	uint32_t dst_dp = request % setup->sides[REPLAY_DECODE].dp;
	bool later = false;
	for (uint32_t i = 0; i < chaos->n_ranks; i++) {
		uint32_t rank;
		uint32_t side = chaos_side_of(chaos, i, &rank);
		if (!replay_takes_part(setup, side, rank, src_dp, dst_dp))
			continue;
		if (chaos->ranks[i].life == LIFE_GONE) {
			chaos->result->outcomes[CHAOS_FAILED]++;
			return CHAOS_NEVER;
		}
		later = later || (chaos->ranks[i].life != LIFE_UP && chaos->ranks[i].life != LIFE_ARMED);
	}
	if (!later && request == chaos_calm_from(setup->n_requests))
		later = !calm_may_begin(chaos);
	return later ? CHAOS_LATER : CHAOS_NOW;
}

void chaos_flight_began(struct chaos *chaos, uint32_t slot, uint32_t request)
{
	struct chaos_trouble *trouble = &chaos->troubles[slot];
	uint8_t *marks = trouble->open_at_kill;
	memset(marks, 0, chaos->n_ranks);
	*trouble = (struct chaos_trouble){.open_at_kill = marks};
	chaos_plan_of(chaos->schedule->setup, request, &trouble->plan);
	chaos->schedule->flights[slot].harmed = trouble->plan.fate != CHAOS_UNHARMED;
}

bool chaos_may_start(struct chaos *chaos, uint32_t slot)
{
	const struct replay_flight *flight = chaos_flight_of(chaos, slot);
	struct chaos_trouble *trouble = &chaos->troubles[slot];
	for (uint32_t i = 0; i < chaos->n_ranks; i++) {
		if (flight->members[i] != MEMBER_NONE && chaos->ranks[i].life == LIFE_STOPPED)
			return false;
	}
	if (trouble->plan.kill || trouble->plan.stop)
		trouble->harm_due_ns =
			replay_now_ns() + (uint64_t)(trouble->plan.when * (double)chaos->usual_ns);
	return true;
}

void chaos_flight_ended(struct chaos *chaos, uint32_t slot, uint32_t request, enum chaos_outcome outcome)
{
	const struct replay_flight *flight = &chaos->schedule->flights[slot];
	struct chaos_result *result = chaos->result;
	result->outcomes[outcome]++;
	if (outcome == CHAOS_COMPLETED) {
		uint64_t took = flight->timing.outcome_ns - flight->timing.admitted_ns;
		chaos->usual_ns += took / 8 - chaos->usual_ns / 8;
	} else if (!flight->harmed) {
		result->unharmed_failed++;
		/* With --fault the harm is never over. */
		result->calm_failed += chaos->schedule->setup->options.fault == NULL &&
		                       request >= chaos_calm_from(chaos->schedule->setup->n_requests);
	}
}

void chaos_session_released(struct chaos *chaos, const struct replay_report *report)
{
	const struct chaos_trouble *trouble = &chaos->troubles[report->slot];
	struct chaos_result *result = chaos->result;
	uint32_t index = replay_flight_index(chaos->schedule, report->side, report->rank);
	uint32_t request = replay_board_slot(&chaos->schedule->board, report->slot)->request;
	for (uint32_t i = 0; i < 9; i++)
		result->proofs[i] += report->proofs[i];
	/* One that had nothing to do with the killed process yet waits for its deadline. */
	bool advertised = report->proofs[KVF_PROOF_NEVER_ADVERTISED] == 0;
	if (trouble->kill_ns > 0 && trouble->open_at_kill[index] && advertised &&
		report->released_ns > trouble->kill_ns)
		chaos_delay_add(&result->after_kill, report->released_ns - trouble->kill_ns, report, request);
	if (report->cancel_ns == 0 || report->released_ns < report->cancel_ns)
		return;
	uint64_t took = report->released_ns - report->cancel_ns;
	if (trouble->stop_ns > 0)
		chaos_delay_add(&result->cancel_stopped, took, report, request);
	else if (trouble->kill_ns == 0)
		chaos_delay_add(&result->cancel_live, took, report, request);
}

void chaos_tell_others(struct chaos *chaos, uint32_t slot)
{
	const struct replay_flight *flight = chaos_flight_of(chaos, slot);
	chaos->troubles[slot].tell_due_ns = UINT64_MAX; /* once */
	for (uint32_t i = 0; i < chaos->n_ranks; i++) {
		uint32_t rank;
		uint32_t side = chaos_side_of(chaos, i, &rank);
		if (replay_member_open(flight->members[i]) && chaos->ranks[i].life == LIFE_UP)
			replay_flight_send(chaos->schedule, REPLAY_CANCEL, side, rank, slot);
	}
}
