/* replay_schedule.c - the coordinator of a replay.
 *
 * A request goes through: waiting (for its time, a slot and blocks; first come, first served) -> preparing
 * (prefill ranks fill, decode ranks clear their blocks) -> opening (one side, then the other, in an order
 * that the seed chose) -> running -> done, when every rank has released its session and checked its bytes.
 *
 * Guarantees: every table is sized before the first request, so that memory is flat; a run in which nothing
 * is heard for too long is broken off and says what it was waiting for. Owns the processes, the board and
 * the pools; one thread, no agent, no library threads.
 */
#include "cli/replay_schedule.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "cli/args.h"
#include "cli/replay_admit.h"
#include "cli/replay_process.h"
#include "cli/term.h"

#define NS_PER_MS   UINT64_C(1000000)
#define PATIENCE_MS 120000 /* without any word from any rank while one is owed */
#define REDRAW_MS   200

enum phase {
	FREE,
	PREPARING,
	OPENING_FIRST,
	OPENING_SECOND,
	RUNNING
};

struct flight {
	enum phase phase;
	uint32_t n_ranks[2]; /* that take part, per side */
	uint32_t n_answers;  /* of this phase */
	uint32_t n_done;
	uint32_t first_side;
	bool failed, wrong;
	uint64_t bytes_expected, bytes_sent, bytes_received, tokens_reused;
	struct replay_timing timing;
};

struct schedule {
	struct replay_setup *setup;
	struct replay_result *result;
	struct replay_board board;
	struct replay_admit admit;
	struct replay_processes processes;
	struct flight *flights; /* per slot */
	uint32_t next_request, n_flights, n_ended;
	bool blocked; /* the next request waits for blocks; only the end of another brings some */
	uint64_t start_ns;
	struct term_progress *progress; /* NULL: none */
	int exit_code;
	struct reason *why;
};

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static const char *const side_names[2] = {"prefill", "decode"};

/* ---------------------------------------------------------------- messages */

static bool fail(struct schedule *schedule, int exit_code)
{
	schedule->exit_code = exit_code;
	return false;
}

static void describe_waiting(const struct schedule *schedule, char *text, size_t size)
{
	static const char *const phases[] = {"", "preparing", "opening", "opening", "running"};
	size_t used = 0;
	text[0] = 0;
	for (uint32_t slot = 0; slot < schedule->setup->concurrency && used + 1 < size; slot++) {
		const struct flight *flight = &schedule->flights[slot];
		if (flight->phase == FREE)
			continue;
		int n = snprintf(text + used, size - used, "%srequest %u %s (%u of %u ranks done)",
			used ? ", " : "", replay_board_slot(&schedule->board, slot)->request,
			phases[flight->phase], flight->n_done, flight->n_ranks[0] + flight->n_ranks[1]);
		used += n > 0 ? (size_t)n : 0;
	}
}

/* One report, or the end of the run. False with exit_code 0: the time is up. */
static bool next_report(struct schedule *schedule, int timeout_ms, struct replay_report *report_out)
{
	switch (replay_processes_next(&schedule->processes, timeout_ms, report_out, schedule->why)) {
	case REPLAY_NEXT_TIMEOUT:
		return false;
	case REPLAY_NEXT_INTERRUPTED:
		reason_set(schedule->why, "interrupted");
		return fail(schedule, 128 + schedule->processes.caught);
	case REPLAY_NEXT_LOST:
		return fail(schedule, EXIT_WORK_FAILED);
	default:
		break;
	}
	if (report_out->kind != REPLAY_BROKEN)
		return true;
	reason_set(schedule->why, "%s rank %u: %s", side_names[report_out->side], report_out->rank,
		report_out->text);
	return fail(schedule, EXIT_WORK_FAILED);
}

static void send_to(struct schedule *schedule, uint32_t kind, uint32_t side, uint32_t rank, uint32_t slot)
{
	const struct replay_command command = {.kind = kind, .side = side, .rank = rank, .slot = slot};
	replay_processes_send(&schedule->processes, &command);
}

static void send_to_side(struct schedule *schedule, uint32_t kind, uint32_t side)
{
	for (uint32_t rank = 0; rank < schedule->setup->sides[side].n_ranks; rank++)
		send_to(schedule, kind, side, rank, 0);
}

/* To the ranks of one side that take part in a slot's request; returns their number. */
static uint32_t send_to_group(struct schedule *schedule, uint32_t kind, uint32_t side, uint32_t slot)
{
	const struct replay_slot *on = replay_board_slot(&schedule->board, slot);
	uint32_t n = 0;
	for (uint32_t rank = 0; rank < schedule->setup->sides[side].n_ranks; rank++) {
		if (!replay_takes_part(schedule->setup, side, rank, on->src_dp, on->dst_dp))
			continue;
		send_to(schedule, kind, side, rank, slot);
		n++;
	}
	return n;
}

static void note_fault(struct schedule *schedule, const struct replay_fault *fault)
{
	if (fault->kind == REPLAY_NO_FAULT)
		return;
	schedule->result->mismatches += fault->where.bad_rows;
	if (schedule->result->fault.kind == REPLAY_NO_FAULT)
		schedule->result->fault = *fault;
}

/* ----------------------------------------------------------------- connect */

static void note_transport(struct schedule *schedule, const struct replay_report *report)
{
	size_t at = (size_t)report->peer * schedule->setup->sides[REPLAY_DECODE].n_ranks + report->rank;
	char *name = schedule->result->transports[at];
	memcpy(name, report->text, 15);
	name[15] = 0;
}

/* Reports of one kind from n ranks; what else comes is noted. */
static bool wait_for(struct schedule *schedule, uint32_t kind, uint32_t n, const char *what)
{
	while (n > 0) {
		struct replay_report report;
		if (!next_report(schedule, PATIENCE_MS, &report)) {
			if (schedule->exit_code != 0)
				return false;
			reason_set(schedule->why, "%u ranks did not %s within %d s", n, what,
				PATIENCE_MS / 1000);
			return fail(schedule, EXIT_WORK_FAILED);
		}
		if (report.kind == REPLAY_PEER)
			note_transport(schedule, &report);
		note_fault(schedule, &report.fault);
		n -= report.kind == kind;
	}
	return true;
}

static bool bring_up(struct schedule *schedule)
{
	const struct replay_setup *setup = schedule->setup;
	uint32_t n_prefill = setup->sides[REPLAY_PREFILL].n_ranks,
		 n_decode = setup->sides[REPLAY_DECODE].n_ranks;
	if (!wait_for(schedule, REPLAY_UP, n_prefill + n_decode, "start"))
		return false;
	send_to_side(schedule, REPLAY_CONNECT, REPLAY_DECODE);
	return wait_for(schedule, REPLAY_CONNECTED, n_decode, "connect");
}

/* ------------------------------------------------------------------- admit */

static uint64_t due_ns(const struct schedule *schedule, uint32_t request)
{
	const struct replay_setup *setup = schedule->setup;
	if (setup->speed == 0)
		return schedule->start_ns;
	uint64_t after_ms = setup->requests[request].timestamp_ms - setup->requests[0].timestamp_ms;
	return schedule->start_ns + (uint64_t)((double)after_ms * (double)NS_PER_MS / setup->speed);
}

static uint32_t free_slot(const struct schedule *schedule)
{
	uint32_t slot = 0;
	while (slot < schedule->setup->concurrency && schedule->flights[slot].phase != FREE)
		slot++;
	return slot;
}

static void begin(struct schedule *schedule, uint32_t slot, uint32_t request, uint64_t tokens_reused)
{
	struct flight *flight = &schedule->flights[slot];
	struct replay_flavour flavour;
	replay_flavour_of(schedule->setup, request, &flavour);
	*flight = (struct flight){
		.phase = PREPARING,
		.first_side = flavour.receive_first ? REPLAY_DECODE : REPLAY_PREFILL,
		.bytes_expected = replay_admit_expected(&schedule->admit, slot),
		.tokens_reused = tokens_reused,
	};
	schedule->n_flights++;
	for (uint32_t side = 0; side < 2; side++)
		flight->n_ranks[side] = send_to_group(schedule, REPLAY_PREPARE, side, slot);
}

static void admit_due(struct schedule *schedule)
{
	const struct replay_setup *setup = schedule->setup;
	while (!schedule->blocked && schedule->next_request < setup->n_requests &&
		schedule->n_flights < setup->concurrency &&
		due_ns(schedule, schedule->next_request) <= now_ns()) {
		uint32_t slot = free_slot(schedule);
		uint64_t reused;
		schedule->blocked =
			!replay_admit_request(&schedule->admit, slot, schedule->next_request, &reused);
		if (!schedule->blocked)
			begin(schedule, slot, schedule->next_request++, reused);
	}
}

/* --------------------------------------------------------------------- end */

static void end_request(struct schedule *schedule, uint32_t slot)
{
	struct flight *flight = &schedule->flights[slot];
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
	flight->phase = FREE;
	schedule->blocked = false;
	schedule->n_flights--;
	schedule->n_ended++;
}

static void note_failure(struct schedule *schedule, const struct replay_report *report)
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

static void note_done(struct schedule *schedule, const struct replay_report *report)
{
	struct flight *flight = &schedule->flights[report->slot];
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
static void advance(struct schedule *schedule, uint32_t slot)
{
	struct flight *flight = &schedule->flights[slot];
	uint32_t first = flight->first_side;
	uint32_t due = flight->n_ranks[0] + flight->n_ranks[1];
	if (flight->phase == OPENING_FIRST)
		due = flight->n_ranks[first];
	else if (flight->phase == OPENING_SECOND)
		due = flight->n_ranks[!first];
	if (flight->n_answers < due)
		return;

	flight->n_answers = 0;
	if (flight->phase == PREPARING) {
		flight->phase = OPENING_FIRST;
		flight->timing.admitted_ns = now_ns();
		send_to_group(schedule, REPLAY_START, first, slot);
	} else if (flight->phase == OPENING_FIRST) {
		flight->phase = OPENING_SECOND;
		send_to_group(schedule, REPLAY_START, !first, slot);
	} else if (flight->phase == OPENING_SECOND) {
		flight->phase = RUNNING;
	}
}

static void take_report(struct schedule *schedule, const struct replay_report *report)
{
	struct flight *flight = &schedule->flights[report->slot];
	note_fault(schedule, &report->fault);
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
	if (flight->phase == RUNNING && flight->n_done == flight->n_ranks[0] + flight->n_ranks[1])
		end_request(schedule, report->slot);
}

/* --------------------------------------------------------------------- run */

static int wait_ms(const struct schedule *schedule)
{
	int wait = schedule->progress ? REDRAW_MS : PATIENCE_MS;
	bool room = schedule->n_flights < schedule->setup->concurrency;
	if (schedule->next_request == schedule->setup->n_requests || !room)
		return wait;
	uint64_t due = due_ns(schedule, schedule->next_request), now = now_ns();
	if (due <= now)
		return wait; /* it waits for blocks: the next report may bring them */
	uint64_t ms = (due - now) / NS_PER_MS + 1;
	return ms < (uint64_t)wait ? (int)ms : wait;
}

static bool replay_all(struct schedule *schedule)
{
	uint32_t n_requests = schedule->setup->n_requests;
	uint64_t heard_ns = now_ns();
	schedule->start_ns = heard_ns;
	while (schedule->n_ended < n_requests) {
		struct replay_report report;
		admit_due(schedule);
		if (schedule->progress)
			term_progress_update(schedule->progress, schedule->n_ended);
		if (next_report(schedule, wait_ms(schedule), &report)) {
			take_report(schedule, &report);
			heard_ns = now_ns();
			continue;
		}
		if (schedule->exit_code != 0)
			return false;
		if (schedule->n_flights == 0)
			heard_ns = now_ns();
		if (now_ns() - heard_ns >= PATIENCE_MS * NS_PER_MS) {
			char waiting[512];
			describe_waiting(schedule, waiting, sizeof(waiting));
			reason_set(
				schedule->why, "nothing was heard for %d s: %s", PATIENCE_MS / 1000, waiting);
			return fail(schedule, EXIT_WORK_FAILED);
		}
	}
	schedule->result->wall_ns = now_ns() - schedule->start_ns;
	return true;
}

static bool finish(struct schedule *schedule)
{
	const struct replay_setup *setup = schedule->setup;
	send_to_side(schedule, REPLAY_FINISH, REPLAY_DECODE);
	send_to_side(schedule, REPLAY_FINISH, REPLAY_PREFILL);
	return wait_for(
		schedule, REPLAY_FINISHED, setup->sides[0].n_ranks + setup->sides[1].n_ranks, "finish");
}

static bool run(struct schedule *schedule)
{
	struct replay_setup *setup = schedule->setup;
	schedule->flights = calloc(setup->concurrency, sizeof(*schedule->flights));
	if (!replay_board_init(&schedule->board, setup, schedule->why))
		return fail(schedule, EXIT_WORK_FAILED);
	if (!schedule->flights || !replay_admit_init(&schedule->admit, setup, &schedule->board)) {
		reason_set(schedule->why, "out of memory");
		return fail(schedule, EXIT_WORK_FAILED);
	}
	bool ok = replay_processes_start(&schedule->processes, setup, &schedule->board, schedule->why);
	if (!ok)
		schedule->exit_code = EXIT_WORK_FAILED;
	ok = ok && bring_up(schedule) && replay_all(schedule) && finish(schedule);
	replay_processes_stop(&schedule->processes);
	return ok;
}

int replay_schedule_run(
	struct replay_setup *setup, struct replay_result *result, bool progress, struct reason *why)
{
	struct term_progress bar;
	struct schedule schedule = {.setup = setup, .result = result, .why = why};
	if (progress) {
		term_progress_start(&bar, "replay", "requests", setup->n_requests);
		schedule.progress = &bar;
	}
	run(&schedule);
	if (progress)
		term_progress_end(&bar);
	replay_admit_fini(&schedule.admit);
	replay_board_fini(&schedule.board);
	free(schedule.flights);
	return schedule.exit_code;
}
