/* chaos_rank.c - what a rank does to its own sessions, and how it watches what it got back.
 *
 * Guarantees: of a decode rank, every session that was released gives its blocks back only after they held the canary (the guard
 * pattern, over every byte) for WATCH_NS and were looked at every LOOK_NS; they are looked at again before their next use, and at
 * the end. A cancel comes at a drawn moment of the usual duration of a request, so that all stages are met. One thread: the host's.
 */
#include "cli/chaos_rank.h"

#include <string.h>
#include "cli/replay_rank.h"

#define NS_PER_MS   UINT64_C(1000000)
#define WATCH_NS    (200 * NS_PER_MS)
#define LOOK_NS     (50 * NS_PER_MS)
#define HEALTH_NS   (50 * NS_PER_MS)
#define FIRST_USUAL (2 * NS_PER_MS)
#define SMOOTHING   8

void chaos_rank_init(struct replay_rank *rank, const struct chaos_shared *shared, uint32_t index)
{
	struct chaos_rank *chaos = &rank->chaos;
	chaos->numbers = chaos_shared_numbers(shared, index);
	if (!chaos->numbers)
		return;
	chaos->stopped = chaos_shared_stopped(shared);
	chaos->usual_ns = FIRST_USUAL;
	memcpy(chaos->ladder_before, chaos->numbers->ladder, sizeof(chaos->ladder_before));
	chaos->recovered_before = chaos->numbers->recovered;
	chaos->losses_before = chaos->numbers->peer_losses;
}

/* ---------------------------------------------------------------- sessions */

void chaos_rank_opened(struct replay_rank *rank, uint32_t slot)
{
	struct replay_session *session = &rank->sessions[slot];
	struct chaos_plan plan;
	chaos_plan_of(rank->setup, session->request, &plan);
	session->chaos.opened_ns = replay_now_ns();
	if (plan.fate == CHAOS_CANCEL && plan.cancel_side == rank->side)
		session->chaos.cancel_due_ns =
			session->chaos.opened_ns + (uint64_t)(plan.when * (double)rank->chaos.usual_ns);
}

void chaos_rank_ended(struct replay_rank *rank, uint32_t slot)
{
	const struct replay_session *session = &rank->sessions[slot];
	uint64_t took = replay_now_ns() - session->chaos.opened_ns;
	if (session->status == KVF_OK)
		rank->chaos.usual_ns += took / SMOOTHING - rank->chaos.usual_ns / SMOOTHING;
}

static uint32_t stopped_now(const struct replay_rank *rank)
{
	return atomic_load_explicit(rank->chaos.stopped, memory_order_relaxed) > 0;
}

void chaos_rank_cancel(struct replay_rank *rank, uint32_t slot)
{
	struct replay_session *session = &rank->sessions[slot];
	struct chaos_rank_numbers *numbers = rank->chaos.numbers;
	session->chaos.cancel_due_ns = 0;
	if (session->request == REPLAY_NO_REQUEST || session->released)
		return;
	uint64_t before = replay_now_ns();
	enum kvf_cancel_result result = kvf_cancel(rank->agent, session->handle, "chaos");
	chaos_histogram_add(&numbers->cancel[stopped_now(rank)], replay_now_ns() - before);
	numbers->cancel_results[(uint32_t)result & 7]++;
	if (session->chaos.cancel_ns == 0)
		session->chaos.cancel_ns = before;
	if (result == KVF_CANCEL_NOT_CANCELLABLE || result == KVF_CANCEL_NOT_FOUND)
		replay_host_broken(rank, "request %u: kvf_cancel of an open session says %s",
			session->request, kvf_cancel_result_name(result));
}

int chaos_rank_poll(struct replay_rank *rank, struct kvf_event *events, int n)
{
	uint64_t before = replay_now_ns();
	n = kvf_poll(rank->agent, events, n);
	chaos_histogram_add(&rank->chaos.numbers->poll[stopped_now(rank)], replay_now_ns() - before);
	return n;
}

void chaos_rank_recovered(struct replay_rank *rank)
{
	rank->chaos.numbers->recoveries++;
}

/* ------------------------------------------------------------------ canary */

bool chaos_rank_watches(struct replay_rank *rank, uint32_t slot)
{
	struct replay_session *session = &rank->sessions[slot];
	if (rank->side == REPLAY_PREFILL || rank->setup->options.verify == REPLAY_VERIFY_NONE)
		return false;
	if (session->chaos.watch == CHAOS_NOT_WATCHED) {
		session->chaos.watch = CHAOS_FILLING;
		replay_transfer_clear_aux(rank, slot);
		replay_host_job(rank, REPLAY_JOB_CANARY, slot);
	}
	return session->chaos.watch != CHAOS_WATCHED;
}

bool chaos_rank_watched(struct replay_rank *rank, uint32_t slot)
{
	struct replay_session *session = &rank->sessions[slot];
	struct chaos_session *chaos = &session->chaos;
	uint64_t now = replay_now_ns();
	if (chaos->watch == CHAOS_FILLING) {
		chaos->watch_until_ns = now + WATCH_NS;
		if (rank->setup->options.corrupt == session->request + 1ull)
			replay_memory_damage(&rank->memory, slot);
	} else {
		replay_transfer_check_aux(rank, slot, 0, &session->report.fault);
	}
	bool over = chaos->watch == CHAOS_CHECKING && now >= chaos->watch_until_ns;
	chaos->watch = over ? CHAOS_WATCHED : CHAOS_WATCHING;
	chaos->look_ns = now + LOOK_NS;
	return over;
}

/* -------------------------------------------------------------------- time */

static void look_at_health(struct replay_rank *rank, uint64_t now)
{
	struct chaos_rank *chaos = &rank->chaos;
	struct chaos_rank_numbers *numbers = chaos->numbers;
	struct kvf_health health;
	chaos->health_due_ns = now + HEALTH_NS;
	if (!rank->agent || kvf_health(rank->agent, &health) != KVF_OK)
		return;
	const uint64_t steps[4] = {
		health.ladder_quiet, health.ladder_fence, health.ladder_drop, health.ladder_stuck};
	for (uint32_t i = 0; i < 4; i++)
		numbers->ladder[i] = chaos->ladder_before[i] + steps[i];
	numbers->recovered = chaos->recovered_before + health.recovered;
	numbers->peer_losses = chaos->losses_before + health.peer_losses;
	atomic_store(&numbers->quarantined, health.quarantined);
	atomic_store(&numbers->stuck, health.stuck);
	atomic_store(&numbers->unhealthy, health.healthy == 0);
	atomic_store(&numbers->peers_away, rank->side == REPLAY_DECODE ? rank->n_peers_due : 0);
	atomic_store(&numbers->health_ns, now);
}

void chaos_rank_turn(struct replay_rank *rank)
{
	uint64_t now = replay_now_ns();
	if (now >= rank->chaos.health_due_ns)
		look_at_health(rank, now);
	for (uint32_t slot = 0; slot < rank->setup->concurrency; slot++) {
		struct replay_session *session = &rank->sessions[slot];
		if (session->request == REPLAY_NO_REQUEST)
			continue;
		if (session->chaos.cancel_due_ns > 0 && now >= session->chaos.cancel_due_ns)
			chaos_rank_cancel(rank, slot);
		if (session->chaos.watch == CHAOS_WATCHING && now >= session->chaos.look_ns) {
			session->chaos.watch = CHAOS_CHECKING;
			replay_host_job(rank, REPLAY_JOB_WATCH, slot);
		}
	}
}

uint64_t chaos_rank_due_ns(const struct replay_rank *rank)
{
	uint64_t due = rank->chaos.health_due_ns;
	if (!rank->agent)
		return UINT64_MAX;
	for (uint32_t slot = 0; slot < rank->setup->concurrency; slot++) {
		const struct replay_session *session = &rank->sessions[slot];
		if (session->request == REPLAY_NO_REQUEST)
			continue;
		if (session->chaos.cancel_due_ns > 0 && session->chaos.cancel_due_ns < due)
			due = session->chaos.cancel_due_ns;
		if (session->chaos.watch == CHAOS_WATCHING && session->chaos.look_ns < due)
			due = session->chaos.look_ns;
	}
	return due;
}
