/* replay_schedule.c - the coordinator of a replay: brings the ranks up, keeps requests in flight until all are
 * through, ends the ranks.
 *
 * Guarantees: every table is sized before the first request, so that memory is flat; a run in which nothing is
 * heard for too long is broken off and says what it was waiting for. Owns the processes, the board and the
 * pools; one thread, no agent, no library threads.
 */
#include "cli/replay_schedule.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cli/args.h"
#include "cli/chaos.h"
#include "cli/replay_flight.h"

#define NS_PER_MS   UINT64_C(1000000)
#define PATIENCE_MS 120000 /* without any word from any rank while one is owed */
#define REDRAW_MS   200

static const char *const side_names[2] = {"prefill", "decode"};

/* ---------------------------------------------------------------- messages */

static bool fail(struct replay_schedule *schedule, int exit_code)
{
	schedule->exit_code = exit_code;
	return false;
}

/* The ranks that owe something, and what they did last. */
static size_t describe_members(
	const struct replay_schedule *schedule, const struct replay_flight *flight, char *text, size_t size)
{
	static const char *const states[] = {
		"", "preparing", "prepared", "opening", "open", "released", "", ""};
	uint32_t n_prefill = schedule->setup->sides[REPLAY_PREFILL].n_ranks;
	size_t used = 0;
	for (uint32_t i = 0; i < schedule->n_ranks && used + 1 < size; i++) {
		if (!states[flight->members[i]][0])
			continue;
		int n = snprintf(text + used, size - used, "%s%s rank %u %s", used ? ", " : "",
			side_names[i >= n_prefill], i < n_prefill ? i : i - n_prefill,
			states[flight->members[i]]);
		used += n > 0 ? (size_t)n : 0;
	}
	return used < size ? used : size - 1;
}

static void describe_waiting(const struct replay_schedule *schedule, char *text, size_t size)
{
	static const char *const phases[] = {"", "preparing", "opening", "opening", "running"};
	size_t used = 0;
	text[0] = 0;
	for (uint32_t slot = 0; slot < schedule->setup->concurrency && used + 1 < size; slot++) {
		const struct replay_flight *flight = &schedule->flights[slot];
		if (flight->phase == PHASE_FREE)
			continue;
		int n = snprintf(text + used, size - used, "%srequest %u %s (", used ? "; " : "",
			replay_board_slot(&schedule->board, slot)->request, phases[flight->phase]);
		used += n > 0 ? (size_t)n : 0;
		if (used + 2 >= size)
			return;
		used += describe_members(schedule, flight, text + used, size - used - 1);
		text[used++] = ')';
		text[used] = 0;
	}
}

/* As replay_processes_next. The end of a process that was killed on purpose counts as TIMEOUT: nothing was heard. */
static enum replay_next next_word(
	struct replay_schedule *schedule, int timeout_ms, struct replay_report *report_out)
{
	enum replay_next next =
		replay_processes_next(&schedule->processes, timeout_ms, report_out, schedule->why);
	if (next == REPLAY_NEXT_LOST && schedule->chaos &&
		chaos_process_lost(schedule->chaos, schedule->processes.lost))
		return REPLAY_NEXT_TIMEOUT;
	return next;
}

/* One report, or the end of the run. False with exit_code 0: the time is up. */
static bool next_report(struct replay_schedule *schedule, int timeout_ms, struct replay_report *report_out)
{
	char waiting[512];
	switch (next_word(schedule, timeout_ms, report_out)) {
	case REPLAY_NEXT_TIMEOUT:
		return false;
	case REPLAY_NEXT_INTERRUPTED:
		describe_waiting(schedule, waiting, sizeof(waiting));
		reason_set(schedule->why, "interrupted%s%s", waiting[0] ? "; in flight: " : "", waiting);
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

static void send_to_side(struct replay_schedule *schedule, uint32_t kind, uint32_t side)
{
	for (uint32_t rank = 0; rank < schedule->setup->sides[side].n_ranks; rank++)
		replay_flight_send(schedule, kind, side, rank, 0);
}

/* ----------------------------------------------------------------- connect */

static void note_transport(struct replay_schedule *schedule, const struct replay_report *report)
{
	size_t at = (size_t)report->peer * schedule->setup->sides[REPLAY_DECODE].n_ranks + report->rank;
	char *name = schedule->result->transports[at];
	memcpy(name, report->text, 15);
	name[15] = 0;
}

/* Reports of one kind from n ranks; what else comes is noted. */
static bool wait_for(struct replay_schedule *schedule, uint32_t kind, uint32_t n, const char *what)
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
		else if (schedule->chaos && report.kind != kind)
			chaos_rank_report(schedule->chaos, &report);
		replay_flight_fault(schedule, &report.fault);
		n -= report.kind == kind;
	}
	return true;
}

static bool bring_up(struct replay_schedule *schedule)
{
	const struct replay_setup *setup = schedule->setup;
	uint32_t n_prefill = setup->sides[REPLAY_PREFILL].n_ranks,
		 n_decode = setup->sides[REPLAY_DECODE].n_ranks;
	if (!wait_for(schedule, REPLAY_UP, n_prefill + n_decode, "start"))
		return false;
	send_to_side(schedule, REPLAY_CONNECT, REPLAY_DECODE);
	return wait_for(schedule, REPLAY_CONNECTED, n_decode, "connect");
}

/* --------------------------------------------------------------------- run */

static int wait_ms(const struct replay_schedule *schedule)
{
	int wait = schedule->progress ? REDRAW_MS : PATIENCE_MS;
	if (schedule->chaos)
		wait = chaos_wait_ms(schedule->chaos);
	bool room = schedule->n_flights < schedule->setup->concurrency;
	if (schedule->next_request == schedule->setup->n_requests || !room)
		return wait;
	uint64_t due = replay_flight_due_ns(schedule, schedule->next_request), now = replay_now_ns();
	if (due <= now)
		return wait; /* it waits for blocks: the next report may bring them */
	uint64_t ms = (due - now) / NS_PER_MS + 1;
	return ms < (uint64_t)wait ? (int)ms : wait;
}

/* In chaos that is a result, too: what hangs has lost its blocks. */
static bool give_up(struct replay_schedule *schedule)
{
	char waiting[512];
	describe_waiting(schedule, waiting, sizeof(waiting));
	reason_set(schedule->why, "nothing was heard for %d s: %s", PATIENCE_MS / 1000, waiting);
	if (!schedule->chaos)
		return fail(schedule, EXIT_WORK_FAILED);
	struct chaos_result *chaos = &schedule->result->chaos;
	snprintf(chaos->broken_off, sizeof(chaos->broken_off), "%.500s", schedule->why->text);
	schedule->result->wall_ns = replay_now_ns() - schedule->start_ns;
	return false;
}

static void take_report(struct replay_schedule *schedule, const struct replay_report *report)
{
	if (schedule->chaos && report->kind == REPLAY_PEER)
		note_transport(schedule, report);
	else if (schedule->chaos && report->kind <= REPLAY_CONNECTED)
		chaos_rank_report(schedule->chaos, report);
	else
		replay_flight_report(schedule, report);
}

/* Nothing is owed by anybody. */
static bool is_idle(const struct replay_schedule *schedule)
{
	if (schedule->n_flights > 0)
		return false;
	return !schedule->chaos || replay_flight_due_ns(schedule, schedule->next_request) > replay_now_ns();
}

static bool replay_all(struct replay_schedule *schedule)
{
	uint32_t n_requests = schedule->setup->n_requests;
	uint64_t heard_ns = replay_now_ns();
	schedule->start_ns = heard_ns;
	while (schedule->n_ended < n_requests) {
		struct replay_report report;
		replay_flight_admit(schedule);
		if (schedule->chaos && !chaos_turn(schedule->chaos))
			return fail(schedule, EXIT_WORK_FAILED);
		if (schedule->progress)
			term_progress_update(schedule->progress, schedule->n_ended);
		if (next_report(schedule, wait_ms(schedule), &report)) {
			take_report(schedule, &report);
			heard_ns = replay_now_ns();
			continue;
		}
		if (schedule->exit_code != 0)
			return false;
		if (is_idle(schedule))
			heard_ns = replay_now_ns();
		if (replay_now_ns() - heard_ns >= PATIENCE_MS * NS_PER_MS) {
			return give_up(schedule);
		}
	}
	schedule->result->wall_ns = replay_now_ns() - schedule->start_ns;
	return true;
}

static bool finish(struct replay_schedule *schedule)
{
	uint32_t n = schedule->n_ranks;
	for (uint32_t i = 0; schedule->chaos && i < schedule->n_ranks; i++)
		n -= chaos_is_gone(schedule->chaos, i);
	send_to_side(schedule, REPLAY_FINISH, REPLAY_DECODE);
	send_to_side(schedule, REPLAY_FINISH, REPLAY_PREFILL);
	return wait_for(schedule, REPLAY_FINISHED, n, "finish");
}

/* What only chaos has. */
static bool make_chaos(struct replay_schedule *schedule)
{
	if (!schedule->setup->chaos.on)
		return true;
	if (!chaos_shared_init(&schedule->shared, schedule->n_ranks, schedule->why))
		return false;
	schedule->chaos = chaos_new(schedule, &schedule->shared, schedule->why);
	return schedule->chaos != NULL;
}

static void account_for_chaos(struct replay_schedule *schedule)
{
	chaos_collect(schedule->chaos);
	schedule->result->chaos.lost_blocks = replay_admit_taken(&schedule->admit);
}

static bool run(struct replay_schedule *schedule)
{
	struct replay_setup *setup = schedule->setup;
	schedule->n_ranks = setup->sides[0].n_ranks + setup->sides[1].n_ranks;
	schedule->flights = calloc(setup->concurrency, sizeof(*schedule->flights));
	schedule->members = calloc(setup->concurrency, schedule->n_ranks);
	if (!replay_board_init(&schedule->board, setup, schedule->why))
		return fail(schedule, EXIT_WORK_FAILED);
	if (!make_chaos(schedule))
		return fail(schedule, EXIT_WORK_FAILED);
	if (!schedule->flights || !schedule->members ||
		!replay_admit_init(&schedule->admit, setup, &schedule->board)) {
		reason_set(schedule->why, "out of memory");
		return fail(schedule, EXIT_WORK_FAILED);
	}
	bool ok = replay_processes_start(
		&schedule->processes, setup, &schedule->board, &schedule->shared, schedule->why);
	if (!ok)
		schedule->exit_code = EXIT_WORK_FAILED;
	ok = ok && bring_up(schedule) && replay_all(schedule) && finish(schedule);
	replay_processes_stop(&schedule->processes);
	if (schedule->chaos)
		account_for_chaos(schedule);
	return ok;
}

int replay_schedule_run(
	struct replay_setup *setup, struct replay_result *result, bool progress, struct reason *why)
{
	struct term_progress bar;
	struct replay_schedule schedule = {.setup = setup, .result = result, .why = why};
	if (progress) {
		term_progress_start(&bar, "replay", "requests", setup->n_requests);
		schedule.progress = &bar;
	}
	run(&schedule);
	if (progress)
		term_progress_end(&bar);
	replay_admit_fini(&schedule.admit);
	replay_board_fini(&schedule.board);
	chaos_free(schedule.chaos);
	chaos_shared_fini(&schedule.shared);
	free(schedule.members);
	free(schedule.flights);
	return schedule.exit_code;
}
