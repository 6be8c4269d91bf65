/* replay_rank.c - what a rank does when it is told to, and when its agent has something to tell.
 *
 * Guarantees: a slot's session is reported DONE once, after its RELEASED was polled and its content was
 * checked. One thread: the host's.
 */
#include "cli/replay_rank.h"

#include <stdio.h>
#include <string.h>

#define POLLED_EVENTS 32

/* ---------------------------------------------------------------- commands */

static void report_simple(struct replay_rank *rank, uint32_t kind, uint32_t slot)
{
	const struct replay_report report = {
		.kind = kind, .side = rank->side, .rank = rank->index, .slot = slot};
	replay_host_report(rank, &report);
}

static void prepare(struct replay_rank *rank, uint32_t slot)
{
	if (rank->side == REPLAY_PREFILL) {
		if (replay_transfer_ticket(rank, slot))
			replay_host_job(rank, REPLAY_JOB_FILL, slot);
		return;
	}
	replay_transfer_clear_aux(rank, slot);
	replay_host_job(rank, REPLAY_JOB_CLEAR, slot);
}

void replay_rank_command(struct replay_rank *rank, const struct replay_command *command)
{
	switch (command->kind) {
	case REPLAY_CONNECT:
		if (kvf_connect(rank->agent,
			    rank->setup->sides[REPLAY_PREFILL].instance->ranks[0].endpoint) != KVF_OK)
			replay_host_broken(rank, "kvf_connect: %s", kvf_error());
		break;
	case REPLAY_PREPARE:
		prepare(rank, command->slot);
		break;
	case REPLAY_START:
		if (!replay_transfer_start(rank, command->slot))
			break;
		if (rank->chaos.numbers)
			chaos_rank_opened(rank, command->slot);
		report_simple(rank, REPLAY_STARTED, command->slot);
		break;
	case REPLAY_CANCEL:
		chaos_rank_cancel(rank, command->slot);
		break;
	case REPLAY_FINISH:
		replay_host_job(rank, REPLAY_JOB_SWEEP, 0);
		break;
	default:
		replay_host_broken(rank, "an unknown command: %u", command->kind);
	}
}

/* ------------------------------------------------------------------ events */

/* After all were up: who is away, who is back?  Losses as such are told by the sessions that suffer from them. */
static void later_peer_event(struct replay_rank *rank, uint32_t prefill_rank, enum kvf_status status)
{
	bool away = status != KVF_OK;
	if (!rank->chaos.numbers || rank->peers_due[prefill_rank] == away)
		return;
	rank->peers_due[prefill_rank] = away;
	rank->n_peers_due += away ? 1u : UINT32_MAX;
	if (!away)
		chaos_rank_recovered(rank);
}

static void peer_event(struct replay_rank *rank, const struct kvf_event *event)
{
	struct kvf_peer_info info;
	if (rank->side == REPLAY_PREFILL || (rank->connected && !rank->chaos.numbers))
		return;
	if (kvf_peer_info(rank->agent, event->peer, &info) != KVF_OK)
		return;
	if (rank->connected) {
		if (info.rank < rank->setup->sides[REPLAY_PREFILL].n_ranks && rank->peers_paired[info.rank])
			later_peer_event(rank, info.rank, event->status);
		return;
	}
	if (event->status != KVF_OK && rank->chaos.numbers)
		return; /* it is tried again */
	if (event->status != KVF_OK) {
		replay_host_broken(rank, "prefill rank %u at %s: %s (%s)", info.rank, info.endpoint,
			kvf_status_text(event->status), info.reason);
		return;
	}
	/* The rank by which the instance was reached is told of, too, even when nothing is paired with it. */
	if (info.rank >= rank->setup->sides[REPLAY_PREFILL].n_ranks || !rank->peers_due[info.rank])
		return;
	rank->peers_due[info.rank] = false;
	struct replay_report report = {
		.kind = REPLAY_PEER, .side = rank->side, .rank = rank->index, .peer = info.rank};
	memcpy(report.text, info.transport, sizeof(info.transport));
	replay_host_report(rank, &report);
	if (--rank->n_peers_due == 0) {
		rank->connected = true;
		report_simple(rank, REPLAY_CONNECTED, 0);
	}
}

/* What the library says of a session that is released. */
static void fill_report(struct replay_rank *rank, uint32_t slot, uint32_t kind)
{
	struct replay_session *session = &rank->sessions[slot];
	struct replay_report *report = &session->report;
	struct kvf_session_stats stats;
	report->kind = kind;
	report->side = rank->side;
	report->rank = rank->index;
	report->slot = slot;
	report->status = session->status;
	if (kvf_session_stats(rank->agent, session->handle, &stats) == KVF_OK) {
		report->bytes = stats.bytes;
		report->runs = stats.runs;
		report->plan_ns = stats.plan_ns;
		report->first_byte_ns = stats.first_byte_ns;
		report->outcome_ns = stats.outcome_ns;
		report->released_ns = stats.released_ns;
		memcpy(report->proofs, stats.proofs, sizeof(report->proofs));
	}
	report->cancel_ns = session->chaos.cancel_ns;
	if (session->status != KVF_OK &&
		kvf_session_error(rank->agent, session->handle, report->text, sizeof(report->text)) != KVF_OK)
		snprintf(report->text, sizeof(report->text), "%s", kvf_status_text(session->status));
}

/* Released, and looked at if there is anything to look at: tell, and let go of the session. */
static void finish_session(struct replay_rank *rank, uint32_t slot)
{
	struct replay_session *session = &rank->sessions[slot];
	if (!session->released || !session->checked)
		return;
	if (rank->chaos.numbers && chaos_rank_watches(rank, slot))
		return;
	fill_report(rank, slot, REPLAY_DONE);
	if (kvf_session_close(rank->agent, session->handle) != KVF_OK) {
		replay_host_broken(rank, "request %u: kvf_session_close: %s", session->request, kvf_error());
		return;
	}
	session->request = REPLAY_NO_REQUEST;
	replay_host_report(rank, &session->report);
}

static void outcome_event(struct replay_rank *rank, uint32_t slot, const struct kvf_event *event)
{
	struct replay_session *session = &rank->sessions[slot];
	if (session->outcome || session->released) {
		replay_host_broken(rank, "request %u: an outcome was told twice, or after the release",
			session->request);
		return;
	}
	session->outcome = true;
	session->status = event->status;
	if (rank->chaos.numbers)
		chaos_rank_ended(rank, slot);
	if (rank->side == REPLAY_PREFILL || event->status != KVF_OK) {
		session->checked = true;
		return;
	}
	const struct replay_options *options = &rank->setup->options;
	if (options->corrupt == session->request + 1ull && !rank->chaos.numbers)
		replay_memory_damage(&rank->memory, slot);
	if (options->verify != REPLAY_VERIFY_NONE)
		replay_transfer_check_aux(rank, slot, session->flavour.aux ? session->flavour.aux_bytes : 0,
			&session->report.fault);
	replay_host_job(rank, REPLAY_JOB_CHECK, slot);
}

static void session_event(struct replay_rank *rank, uint32_t slot, const struct kvf_event *event)
{
	struct replay_session *session = &rank->sessions[slot];
	switch (event->type) {
	case KVF_EVENT_SLICE:
		if (session->flavour.paced && event->status == KVF_OK && !session->outcome &&
			session->n_sent < session->n_slices)
			replay_transfer_send_next(rank, slot);
		break;
	case KVF_EVENT_OUTCOME:
		outcome_event(rank, slot, event);
		break;
	case KVF_EVENT_RELEASED:
		if (!session->outcome || session->released)
			replay_host_broken(rank,
				"request %u: a release was told twice, or before the outcome",
				session->request);
		session->released = true;
		if (rank->chaos.numbers && rank->side == REPLAY_DECODE) {
			fill_report(rank, slot, REPLAY_RELEASED);
			replay_host_report(rank, &session->report);
		}
		finish_session(rank, slot);
		break;
	default:
		break;
	}
}

static void dispatch(struct replay_rank *rank, const struct kvf_event *event)
{
	if (event->type == KVF_EVENT_PEER) {
		peer_event(rank, event);
		return;
	}
	for (uint32_t slot = 0; slot < rank->setup->concurrency; slot++) {
		const struct replay_session *session = &rank->sessions[slot];
		if (session->request != REPLAY_NO_REQUEST && session->handle.bits == event->session.bits) {
			session_event(rank, slot, event);
			return;
		}
	}
	replay_host_broken(rank, "an event of a session that is not open: request %llx",
		(unsigned long long)event->request_id);
}

void replay_rank_poll(struct replay_rank *rank)
{
	struct kvf_event events[POLLED_EVENTS];
	int n;
	do {
		n = 0;
		if (rank->agent && rank->chaos.numbers)
			n = chaos_rank_poll(rank, events, POLLED_EVENTS);
		else if (rank->agent)
			n = kvf_poll(rank->agent, events, POLLED_EVENTS);
		for (int i = 0; i < n; i++)
			dispatch(rank, &events[i]);
	} while (n == POLLED_EVENTS);
	if (n < 0)
		replay_host_broken(rank, "kvf_poll: %s", kvf_status_text((enum kvf_status)n));
}

/* -------------------------------------------------------------------- jobs */

static void merge_fault(struct replay_fault *into, const struct replay_fault *found)
{
	uint64_t bad_rows = into->where.bad_rows + found->where.bad_rows;
	if (into->kind == REPLAY_NO_FAULT)
		*into = *found;
	into->where.bad_rows = bad_rows;
}

void replay_rank_job_done(struct replay_rank *rank, const struct replay_job *job)
{
	struct replay_report report = {
		.side = rank->side, .rank = rank->index, .slot = job->slot, .fault = job->fault};
	if (job->kind == REPLAY_JOB_CHECK) {
		struct replay_session *session = &rank->sessions[job->slot];
		session->checked = true;
		session->report.bytes_verified = job->bytes_verified;
		merge_fault(&session->report.fault, &job->fault);
		finish_session(rank, job->slot);
		return;
	}
	if (job->kind == REPLAY_JOB_CANARY || job->kind == REPLAY_JOB_WATCH) {
		merge_fault(&rank->sessions[job->slot].report.fault, &job->fault);
		if (chaos_rank_watched(rank, job->slot))
			finish_session(rank, job->slot);
		return;
	}
	if (job->kind == REPLAY_JOB_SWEEP) {
		replay_rank_close(rank);
		report.kind = REPLAY_FINISHED;
	} else {
		report.kind = REPLAY_PREPARED;
	}
	replay_host_report(rank, &report);
}
