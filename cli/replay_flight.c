/* replay_flight.c - a request's way through a replay.
 *
 * A request goes through: waiting (for its time, a slot and blocks; first come, first served) -> preparing
 * (prefill ranks fill, decode ranks clear their blocks) -> opening (one side, then the other, in an order that
 * the seed chose) -> running -> done, when every rank has released its session and checked its bytes.
 *
 * Guarantees: a request's blocks are given back once, after all of its ranks are done with them. Never waits.
 * One thread: the coordinator's.
 */
#include "cli/replay_flight.h"

#include <stdio.h>
#include <string.h>
#include "cli/chaos.h"

#define NS_PER_MS UINT64_C(1000000)

static const char *const side_names[2] = {"prefill", "decode"};

void replay_flight_send(
	struct replay_schedule *schedule, uint32_t kind, uint32_t side, uint32_t rank, uint32_t slot)
{
	const struct replay_command command = {.kind = kind, .side = side, .rank = rank, .slot = slot};
	replay_processes_send(&schedule->processes, &command);
}

void replay_flight_fault(struct replay_schedule *schedule, const struct replay_fault *fault)
{
	if (fault->kind == REPLAY_NO_FAULT)
		return;
	schedule->result->mismatches += fault->where.bad_rows;
	if (schedule->chaos && fault->kind == REPLAY_FAULT_STRAY)
		schedule->result->chaos.canary_changed += fault->where.bad_rows;
	if (schedule->result->fault.kind == REPLAY_NO_FAULT)
		schedule->result->fault = *fault;
}

uint64_t replay_flight_due_ns(const struct replay_schedule *schedule, uint32_t request)
{
	const struct replay_setup *setup = schedule->setup;
	if (setup->speed == 0)
		return schedule->start_ns;
	uint64_t after_ms = setup->requests[request].timestamp_ms - setup->requests[0].timestamp_ms;
	return schedule->start_ns + (uint64_t)((double)after_ms * (double)NS_PER_MS / setup->speed);
}

static uint32_t free_slot(const struct replay_schedule *schedule)
{
	uint32_t slot = 0;
	while (slot < schedule->setup->concurrency && schedule->flights[slot].phase != PHASE_FREE)
		slot++;
	return slot;
}

/* ----------------------------------------------------------------- members */

static void begin(struct replay_schedule *schedule, uint32_t slot, uint32_t request, uint64_t tokens_reused)
{
	struct replay_flight *flight = &schedule->flights[slot];
	struct replay_flavour flavour;
	replay_flavour_of(schedule->setup, request, &flavour);
	*flight = (struct replay_flight){
		.phase = PHASE_PREPARING,
		.members = schedule->members + (size_t)slot * schedule->n_ranks,
		.first_side = flavour.receive_first ? REPLAY_DECODE : REPLAY_PREFILL,
		.bytes_expected = replay_admit_expected(&schedule->admit, slot),
		.tokens_reused = tokens_reused,
	};
	memset(flight->members, MEMBER_NONE, schedule->n_ranks);
	schedule->n_flights++;
	if (schedule->chaos)
		chaos_flight_began(schedule->chaos, slot, request);
	const struct replay_slot *on = replay_board_slot(&schedule->board, slot);
	for (uint32_t side = 0; side < 2; side++) {
		for (uint32_t rank = 0; rank < schedule->setup->sides[side].n_ranks; rank++) {
			if (!replay_takes_part(schedule->setup, side, rank, on->src_dp, on->dst_dp))
				continue;
			flight->members[replay_flight_index(schedule, side, rank)] = MEMBER_PREPARING;
			replay_flight_send(schedule, REPLAY_PREPARE, side, rank, slot);
		}
	}
}

/* Sessions of one side: to the ranks that are still there. */
static void start_side(struct replay_schedule *schedule, uint32_t side, uint32_t slot)
{
	struct replay_flight *flight = &schedule->flights[slot];
	for (uint32_t rank = 0; rank < schedule->setup->sides[side].n_ranks; rank++) {
		uint8_t *member = &flight->members[replay_flight_index(schedule, side, rank)];
		if (*member != MEMBER_PREPARED)
			continue;
		*member = MEMBER_STARTING;
		replay_flight_send(schedule, REPLAY_START, side, rank, slot);
	}
}

/* Are all ranks of these sides (bits) at least there?  patient: also those that are stopped. */
static bool all_at(const struct replay_schedule *schedule, const struct replay_flight *flight, uint32_t sides,
	enum replay_member least, bool patient)
{
	for (uint32_t i = 0; i < schedule->n_ranks; i++) {
		uint32_t side =
			i < schedule->setup->sides[REPLAY_PREFILL].n_ranks ? REPLAY_PREFILL : REPLAY_DECODE;
		if (!(sides & 1u << side) || flight->members[i] == MEMBER_NONE || flight->members[i] >= least)
			continue;
		if (patient || !schedule->chaos || !chaos_is_stopped(schedule->chaos, i))
			return false;
	}
	return true;
}

static bool any_is(const struct replay_schedule *schedule, const struct replay_flight *flight, uint32_t side,
	enum replay_member state)
{
	for (uint32_t rank = 0; rank < schedule->setup->sides[side].n_ranks; rank++) {
		if (flight->members[replay_flight_index(schedule, side, rank)] == state)
			return true;
	}
	return false;
}

#define BOTH 3u

/* ------------------------------------------------------------------- admit */

static bool may_admit(struct replay_schedule *schedule)
{
	const struct replay_setup *setup = schedule->setup;
	return !schedule->blocked && schedule->next_request < setup->n_requests &&
	       schedule->n_flights < setup->concurrency &&
	       replay_flight_due_ns(schedule, schedule->next_request) <= replay_now_ns();
}

void replay_flight_admit(struct replay_schedule *schedule)
{
	while (may_admit(schedule)) {
		uint32_t slot = free_slot(schedule);
		uint64_t reused;
		if (schedule->chaos) {
			enum chaos_admission admission =
				chaos_admits(schedule->chaos, schedule->next_request);
			if (admission == CHAOS_LATER)
				return;
			if (admission == CHAOS_NEVER) {
				schedule->next_request++;
				schedule->n_ended++;
				continue;
			}
		}
		schedule->blocked =
			!replay_admit_request(&schedule->admit, slot, schedule->next_request, &reused);
		if (!schedule->blocked)
			begin(schedule, slot, schedule->next_request++, reused);
	}
}

/* --------------------------------------------------------------------- end */

/* Its blocks go back, and its slot. */
static void free_flight(struct replay_schedule *schedule, uint32_t slot, bool good)
{
	replay_admit_release(&schedule->admit, slot, good);
	schedule->flights[slot].phase = PHASE_FREE;
	schedule->blocked = false;
	schedule->n_flights--;
	schedule->n_ended++;
}

static bool same_bytes(struct replay_schedule *schedule, uint32_t slot)
{
	const struct replay_flight *flight = &schedule->flights[slot];
	struct replay_result *result = schedule->result;
	if (flight->bytes_received == flight->bytes_sent)
		return true;
	if (result->failure[0] == 0)
		snprintf(result->failure, sizeof(result->failure),
			"request %u: the senders count %llu bytes, the receivers %llu",
			replay_board_slot(&schedule->board, slot)->request,
			(unsigned long long)flight->bytes_sent, (unsigned long long)flight->bytes_received);
	return false;
}

/* What the receiving side, all of its ranks, would tell the client. */
static enum chaos_outcome outcome_of(const struct replay_schedule *schedule, uint32_t slot)
{
	const struct replay_flight *flight = &schedule->flights[slot];
	if (flight->lost_untold)
		return CHAOS_FAILED;
	if (flight->cancelled)
		return CHAOS_CANCELLED;
	if (flight->timed_out)
		return CHAOS_TIMED_OUT;
	return flight->failed || flight->timing.outcome_ns == 0 ? CHAOS_FAILED : CHAOS_COMPLETED;
}

static void end_in_chaos(struct replay_schedule *schedule, uint32_t slot)
{
	struct replay_flight *flight = &schedule->flights[slot];
	struct replay_result *result = schedule->result;
	uint32_t request = replay_board_slot(&schedule->board, slot)->request;
	enum chaos_outcome outcome = outcome_of(schedule, slot);
	bool senders_whole = !flight->sender_failed && !any_is(schedule, flight, REPLAY_PREFILL, MEMBER_LOST);
	if (outcome == CHAOS_COMPLETED) {
		result->bytes_expected += flight->bytes_expected;
		result->bytes_moved += flight->bytes_received;
		result->tokens += schedule->setup->requests[request].tokens;
		result->timings[result->completed++] = flight->timing;
		result->chaos.unequal += senders_whole && !same_bytes(schedule, slot);
	}
	chaos_flight_ended(schedule->chaos, slot, request, outcome);
	free_flight(schedule, slot, false);
}

static void end_request(struct replay_schedule *schedule, uint32_t slot)
{
	struct replay_flight *flight = &schedule->flights[slot];
	struct replay_result *result = schedule->result;
	if (schedule->chaos) {
		end_in_chaos(schedule, slot);
		return;
	}
	result->bytes_expected += flight->bytes_expected;
	result->bytes_moved += flight->bytes_sent;
	result->tokens +=
		schedule->setup->requests[replay_board_slot(&schedule->board, slot)->request].tokens;
	result->tokens_reused += flight->tokens_reused;
	if (!flight->failed && same_bytes(schedule, slot))
		result->timings[result->completed++] = flight->timing;
	else
		result->failed++;
	free_flight(schedule, slot, !flight->failed && !flight->wrong);
}

/* ----------------------------------------------------------------- reports */

static void note_failure(struct replay_schedule *schedule, const struct replay_report *report)
{
	struct replay_result *result = schedule->result;
	struct replay_flight *flight = &schedule->flights[report->slot];
	if (schedule->chaos && report->side == REPLAY_PREFILL)
		flight->sender_failed = true;
	else if (report->status == KVF_CANCELLED)
		flight->cancelled = true;
	else if (report->status == KVF_TIMED_OUT)
		flight->timed_out = true;
	if (schedule->chaos && report->side == REPLAY_PREFILL)
		return;
	flight->failed = true;
	if (result->failure[0] || (schedule->chaos && flight->harmed))
		return;
	snprintf(result->failure, sizeof(result->failure), "request %u, %s rank %u: %s%s%s",
		replay_board_slot(&schedule->board, report->slot)->request, side_names[report->side],
		report->rank, kvf_status_name((enum kvf_status)report->status), report->text[0] ? ": " : "",
		report->text);
}

/* What the library said of the session, once: at RELEASED, or where that is not told, at DONE. */
static void note_released(struct replay_schedule *schedule, const struct replay_report *report)
{
	struct replay_flight *flight = &schedule->flights[report->slot];
	struct replay_timing *timing = &flight->timing;
	if (schedule->chaos)
		chaos_session_released(schedule->chaos, report);
	if (report->status != KVF_OK)
		note_failure(schedule, report);
	if (report->side == REPLAY_DECODE) {
		flight->bytes_received += report->bytes;
		if (report->outcome_ns > timing->outcome_ns)
			timing->outcome_ns = report->outcome_ns;
		return;
	}
	flight->bytes_sent += report->bytes;
	schedule->result->runs += report->runs;
	if (report->plan_ns > timing->plan_ns)
		timing->plan_ns = report->plan_ns;
	if (report->first_byte_ns &&
		(!timing->first_byte_ns || report->first_byte_ns < timing->first_byte_ns))
		timing->first_byte_ns = report->first_byte_ns;
}

/* As far as the answers allow. */
static void advance(struct replay_schedule *schedule, uint32_t slot)
{
	struct replay_flight *flight = &schedule->flights[slot];
	uint32_t first = flight->first_side;
	bool any_lost = any_is(schedule, flight, REPLAY_PREFILL, MEMBER_LOST) ||
	                any_is(schedule, flight, REPLAY_DECODE, MEMBER_LOST);

	if (flight->phase == PHASE_PREPARING) {
		if (!all_at(schedule, flight, BOTH, MEMBER_PREPARED, true))
			return;
		if (any_lost) { /* nothing was opened yet, and nothing will be */
			end_request(schedule, slot);
			return;
		}
		if (schedule->chaos && !chaos_may_start(schedule->chaos, slot))
			return;
		flight->phase = PHASE_OPENING_FIRST;
		flight->timing.admitted_ns = replay_now_ns();
		start_side(schedule, first, slot);
	}
	if (flight->phase == PHASE_OPENING_FIRST &&
		all_at(schedule, flight, 1u << first, MEMBER_STARTED, false)) {
		flight->phase = PHASE_OPENING_SECOND;
		start_side(schedule, !first, slot);
	}
	if (flight->phase == PHASE_OPENING_SECOND &&
		all_at(schedule, flight, 1u << !first, MEMBER_STARTED, false))
		flight->phase = PHASE_RUNNING;
	if (flight->phase == PHASE_RUNNING && all_at(schedule, flight, BOTH, MEMBER_DONE, true))
		end_request(schedule, slot);
}

void replay_flight_report(struct replay_schedule *schedule, const struct replay_report *report)
{
	static const uint8_t reached[] = {
		[REPLAY_PREPARED] = MEMBER_PREPARED,
		[REPLAY_STARTED] = MEMBER_STARTED,
		[REPLAY_RELEASED] = MEMBER_RELEASED,
		[REPLAY_DONE] = MEMBER_DONE,
	};
	struct replay_flight *flight = &schedule->flights[report->slot];
	replay_flight_fault(schedule, &report->fault);
	if (report->kind < REPLAY_PREPARED || report->kind > REPLAY_DONE)
		return;
	uint8_t *member = &flight->members[replay_flight_index(schedule, report->side, report->rank)];
	if (*member < MEMBER_RELEASED && report->kind >= REPLAY_RELEASED)
		note_released(schedule, report);
	if (report->kind == REPLAY_DONE) {
		flight->wrong = flight->wrong || report->fault.kind != REPLAY_NO_FAULT;
		schedule->result->bytes_verified += report->bytes_verified;
	}
	*member = reached[report->kind];
	advance(schedule, report->slot);
}

void replay_flight_continued(struct replay_schedule *schedule)
{
	for (uint32_t slot = 0; slot < schedule->setup->concurrency; slot++) {
		if (schedule->flights[slot].phase != PHASE_FREE)
			advance(schedule, slot);
	}
}

void replay_flight_lost(struct replay_schedule *schedule, uint32_t side, uint32_t rank)
{
	uint32_t index = replay_flight_index(schedule, side, rank);
	for (uint32_t slot = 0; slot < schedule->setup->concurrency; slot++) {
		struct replay_flight *flight = &schedule->flights[slot];
		if (flight->phase == PHASE_FREE || flight->members[index] == MEMBER_NONE ||
			flight->members[index] == MEMBER_DONE)
			continue;
		flight->lost_untold = flight->lost_untold ||
		                      (side == REPLAY_DECODE && flight->members[index] < MEMBER_RELEASED);
		flight->members[index] = MEMBER_LOST;
		advance(schedule, slot);
	}
}
