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
#include <time.h>

#define NS_PER_MS UINT64_C(1000000)

static const char *const side_names[2] = {"prefill", "decode"};

uint64_t replay_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void replay_flight_send(
	struct replay_schedule *schedule, uint32_t kind, uint32_t side, uint32_t rank, uint32_t slot)
{
	const struct replay_command command = {.kind = kind, .side = side, .rank = rank, .slot = slot};
	replay_processes_send(&schedule->processes, &command);
}

/* To the ranks of one side that take part in a slot's request; returns their number. */
static uint32_t send_to_group(struct replay_schedule *schedule, uint32_t kind, uint32_t side, uint32_t slot)
{
	const struct replay_slot *on = replay_board_slot(&schedule->board, slot);
	uint32_t n = 0;
	for (uint32_t rank = 0; rank < schedule->setup->sides[side].n_ranks; rank++) {
		if (!replay_takes_part(schedule->setup, side, rank, on->src_dp, on->dst_dp))
			continue;
		replay_flight_send(schedule, kind, side, rank, slot);
		n++;
	}
	return n;
}

void replay_flight_fault(struct replay_schedule *schedule, const struct replay_fault *fault)
{
	if (fault->kind == REPLAY_NO_FAULT)
		return;
	schedule->result->mismatches += fault->where.bad_rows;
	if (schedule->result->fault.kind == REPLAY_NO_FAULT)
		schedule->result->fault = *fault;
}

/* ------------------------------------------------------------------- admit */

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

static void begin(struct replay_schedule *schedule, uint32_t slot, uint32_t request, uint64_t tokens_reused)
{
	struct replay_flight *flight = &schedule->flights[slot];
	struct replay_flavour flavour;
	replay_flavour_of(schedule->setup, request, &flavour);
	*flight = (struct replay_flight){
		.phase = PHASE_PREPARING,
		.first_side = flavour.receive_first ? REPLAY_DECODE : REPLAY_PREFILL,
		.bytes_expected = replay_admit_expected(&schedule->admit, slot),
		.tokens_reused = tokens_reused,
	};
	schedule->n_flights++;
	for (uint32_t side = 0; side < 2; side++)
		flight->n_ranks[side] = send_to_group(schedule, REPLAY_PREPARE, side, slot);
}

void replay_flight_admit(struct replay_schedule *schedule)
{
	const struct replay_setup *setup = schedule->setup;
	while (!schedule->blocked && schedule->next_request < setup->n_requests &&
		schedule->n_flights < setup->concurrency &&
		replay_flight_due_ns(schedule, schedule->next_request) <= replay_now_ns()) {
		uint32_t slot = free_slot(schedule);
		uint64_t reused;
		schedule->blocked =
			!replay_admit_request(&schedule->admit, slot, schedule->next_request, &reused);
		if (!schedule->blocked)
			begin(schedule, slot, schedule->next_request++, reused);
	}
}

/* --------------------------------------------------------------------- end */

static void end_request(struct replay_schedule *schedule, uint32_t slot)
{
	struct replay_flight *flight = &schedule->flights[slot];
	struct replay_result *result = schedule->result;
	uint32_t request = replay_board_slot(&schedule->board, slot)->request;
	result->bytes_expected += flight->bytes_expected;
	result->bytes_moved += flight->bytes_sent;
	result->tokens += schedule->setup->requests[request].tokens;
	result->tokens_reused += flight->tokens_reused;
	if (flight->failed)
		result->failed++;
	else
		result->timings[result->completed++] = flight->timing;
	if (!flight->failed && flight->bytes_received != flight->bytes_sent && result->failure[0] == 0) {
		result->failed++;
		result->completed--;
		snprintf(result->failure, sizeof(result->failure),
			"request %u: the senders count %llu bytes, the receivers %llu", request,
			(unsigned long long)flight->bytes_sent, (unsigned long long)flight->bytes_received);
	}
	replay_admit_release(&schedule->admit, slot, !flight->failed && !flight->wrong);
	flight->phase = PHASE_FREE;
	schedule->blocked = false;
	schedule->n_flights--;
	schedule->n_ended++;
}

static void note_failure(struct replay_schedule *schedule, const struct replay_report *report)
{
	struct replay_result *result = schedule->result;
	schedule->flights[report->slot].failed = true;
	if (result->failure[0])
		return;
	snprintf(result->failure, sizeof(result->failure), "request %u, %s rank %u: %s%s%s",
		replay_board_slot(&schedule->board, report->slot)->request, side_names[report->side],
		report->rank, kvf_status_name((enum kvf_status)report->status), report->text[0] ? ": " : "",
		report->text);
}

static void note_done(struct replay_schedule *schedule, const struct replay_report *report)
{
	struct replay_flight *flight = &schedule->flights[report->slot];
	struct replay_timing *timing = &flight->timing;
	flight->n_done++;
	flight->wrong = flight->wrong || report->fault.kind != REPLAY_NO_FAULT;
	schedule->result->bytes_verified += report->bytes_verified;
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

/* Everybody has answered: the next phase. */
static void advance(struct replay_schedule *schedule, uint32_t slot)
{
	struct replay_flight *flight = &schedule->flights[slot];
	uint32_t first = flight->first_side;
	uint32_t due = flight->n_ranks[0] + flight->n_ranks[1];
	if (flight->phase == PHASE_OPENING_FIRST)
		due = flight->n_ranks[first];
	else if (flight->phase == PHASE_OPENING_SECOND)
		due = flight->n_ranks[!first];
	if (flight->n_answers < due)
		return;

	flight->n_answers = 0;
	if (flight->phase == PHASE_PREPARING) {
		flight->phase = PHASE_OPENING_FIRST;
		flight->timing.admitted_ns = replay_now_ns();
		send_to_group(schedule, REPLAY_START, first, slot);
	} else if (flight->phase == PHASE_OPENING_FIRST) {
		flight->phase = PHASE_OPENING_SECOND;
		send_to_group(schedule, REPLAY_START, !first, slot);
	} else if (flight->phase == PHASE_OPENING_SECOND) {
		flight->phase = PHASE_RUNNING;
	}
}

void replay_flight_report(struct replay_schedule *schedule, const struct replay_report *report)
{
	struct replay_flight *flight = &schedule->flights[report->slot];
	replay_flight_fault(schedule, &report->fault);
	switch (report->kind) {
	case REPLAY_PREPARED:
	case REPLAY_STARTED:
		flight->n_answers++;
		advance(schedule, report->slot);
		break;
	case REPLAY_DONE:
		note_done(schedule, report);
		break;
	default:
		return;
	}
	if (flight->phase == PHASE_RUNNING && flight->n_done == flight->n_ranks[0] + flight->n_ranks[1])
		end_request(schedule, report->slot);
}
