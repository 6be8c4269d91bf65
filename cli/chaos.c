/* chaos.c - kills, stops, continues and restarts the rank processes of a replay, and keeps the account.
 *
 * Who: a rank that takes part in the request whose plan says so (chaos_spec.c), drawn among those that run, at a drawn moment of the
 * usual duration of a request; by a signal to its pid, always of a process that this coordinator forked and has not reaped. Half of
 * the prefill ranks, over shm, are armed instead: their own copy worker does it inside a lease, with half a run written; one that
 * does not come by in time is signalled after all.
 *
 * Accounts: what a killed process had open is lost with it: its sessions have no outcome and its memory is gone, so no block of it
 * can be lost. The other ranks' sessions each tell one outcome and one release as ever, and only then do the request's blocks go
 * back. A request counts once, when all of its ranks are done or lost, by what its decode ranks say: failed if one of them died before
 * its session was released; else cancelled before timed out before failed before completed. A killed prefill rank shows at the decode
 * side as a failed session, or not at all when the bytes were there.
 *
 * A restarted rank begins anew: memory full of canary, a new incarnation, the same endpoint. Decode ranks connect again by themselves.
 * Requests that need a rank which is stopped or away wait for it; the ones in flight do not. Without `restart` the dead stay dead,
 * and requests that need them fail at admission.
 *
 * A stopped process is continued CONTINUE_NS after every session that others had with it was released. For three quarters of the requests
 * that suffer the others cancel, as a router would that has noticed; the rest finds out by itself. The last twentieth of the requests
 * comes after all harm, when everybody is back, and must complete: it is what "nobody needs a restart" means.
 *
 * One thread: the coordinator's. Sized at new.
 */
#include "cli/chaos_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONTINUE_NS   (100 * CHAOS_NS_PER_MS)
#define ARMED_NS      (50 * CHAOS_NS_PER_MS)
#define ARMED_LOOK_NS CHAOS_NS_PER_MS
#define STOP_LOOK_NS  (5 * CHAOS_NS_PER_MS)
#define STOP_MOST_NS  (60000 * CHAOS_NS_PER_MS)
#define TELL_NS       (20 * CHAOS_NS_PER_MS)
#define FIRST_USUAL   (2 * CHAOS_NS_PER_MS)

/* -------------------------------------------------------------------- new */

struct chaos *chaos_new(
	struct replay_schedule *schedule, const struct chaos_shared *shared, struct reason *why)
{
	uint32_t concurrency = schedule->setup->concurrency;
	struct chaos *chaos = calloc(1, sizeof(*chaos));
	if (!chaos)
		goto failed;
	chaos->schedule = schedule;
	chaos->shared = shared;
	chaos->result = &schedule->result->chaos;
	chaos->n_ranks = schedule->n_ranks;
	chaos->n_prefill = schedule->setup->sides[REPLAY_PREFILL].n_ranks;
	chaos->usual_ns = FIRST_USUAL;
	chaos->ranks = calloc(chaos->n_ranks, sizeof(*chaos->ranks));
	chaos->troubles = calloc(concurrency, sizeof(*chaos->troubles));
	chaos->marks = calloc((size_t)concurrency * chaos->n_ranks, 1);
	if (!chaos->ranks || !chaos->troubles || !chaos->marks)
		goto failed;
	for (uint32_t slot = 0; slot < concurrency; slot++)
		chaos->troubles[slot].open_at_kill = chaos->marks + (size_t)slot * chaos->n_ranks;
	chaos->result->on = true;
	chaos->result->quarantined.step_ns = chaos->result->runnable.step_ns = CHAOS_SAMPLE_NS;
	return chaos;
failed:
	reason_set(why, "out of memory");
	chaos_free(chaos);
	return NULL;
}

void chaos_free(struct chaos *chaos)
{
	if (!chaos)
		return;
	free(chaos->ranks);
	free(chaos->troubles);
	free(chaos->marks);
	free(chaos);
}

/* ---------------------------------------------------------------- lookups */

bool chaos_is_stopped(const struct chaos *chaos, uint32_t index)
{
	return chaos->ranks[index].life == LIFE_STOPPED;
}

bool chaos_is_gone(const struct chaos *chaos, uint32_t index)
{
	return chaos->ranks[index].life == LIFE_GONE;
}

static void set_life(struct chaos *chaos, uint32_t index, enum chaos_life life)
{
	struct chaos_process *rank = &chaos->ranks[index];
	if (rank->life == LIFE_STOPPED)
		chaos->n_stopped--;
	if (life == LIFE_STOPPED)
		chaos->n_stopped++;
	atomic_store(chaos_shared_stopped(chaos->shared), chaos->n_stopped);
	rank->life = life;
	rank->since_ns = replay_now_ns();
	rank->quiet_ns = 0;
}

/* -------------------------------------------------------------------- harm */

/* Whoever has something to do with this rank now has been harmed; its sessions' releases are measured from here. */
static void mark_flights(struct chaos *chaos, uint32_t index, bool kill)
{
	uint64_t now = replay_now_ns();
	for (uint32_t slot = 0; slot < chaos->schedule->setup->concurrency; slot++) {
		struct replay_flight *flight = chaos_flight_of(chaos, slot);
		struct chaos_trouble *trouble = &chaos->troubles[slot];
		if (!flight || flight->members[index] == MEMBER_NONE)
			continue;
		flight->harmed = true;
		if (!replay_member_open(flight->members[index]))
			continue;
		bool surely = flight->members[index] == MEMBER_STARTED;
		uint64_t *first = kill ? &trouble->kill_ns : &trouble->stop_ns;
		if (*first == 0)
			*first = now;
		for (uint32_t i = 0; kill && i < chaos->n_ranks; i++)
			trouble->open_at_kill[i] |=
				surely && i != index && flight->members[i] == MEMBER_STARTED;
		if (trouble->plan.tell && trouble->tell_due_ns == 0)
			trouble->tell_due_ns = now + (uint64_t)(trouble->plan.tell_after * (double)TELL_NS);
	}
}

static void harm(struct chaos *chaos, uint32_t index, bool kill, bool in_lease)
{
	struct chaos_result *result = chaos->result;
	replay_processes_signal(&chaos->schedule->processes, index, kill ? SIGKILL : SIGSTOP);
	mark_flights(chaos, index, kill);
	set_life(chaos, index, kill ? LIFE_KILLED : LIFE_STOPPED);
	if (kill) {
		result->kills++;
		result->kills_in_lease += in_lease;
	} else {
		result->stops++;
		result->stops_in_lease += in_lease;
	}
}

static void arm(struct chaos *chaos, uint32_t index, bool kill)
{
	set_life(chaos, index, LIFE_ARMED);
	chaos->ranks[index].kill = kill;
	chaos->ranks[index].due_ns = replay_now_ns() + ARMED_NS;
	atomic_store(chaos_shared_trigger(chaos->shared, index), kill ? CHAOS_ARMED_KILL : CHAOS_ARMED_STOP);
}

static void look_at_armed(struct chaos *chaos, uint32_t index, uint64_t now)
{
	const struct chaos_process *rank = &chaos->ranks[index];
	_Atomic uint32_t *trigger = chaos_shared_trigger(chaos->shared, index);
	uint32_t armed = rank->kill ? CHAOS_ARMED_KILL : CHAOS_ARMED_STOP;
	bool fired = atomic_load(trigger) == CHAOS_FIRED;
	if (!fired && now < rank->due_ns)
		return;
	fired = fired || !atomic_compare_exchange_strong(trigger, &armed, CHAOS_IDLE);
	atomic_store(trigger, CHAOS_IDLE);
	harm(chaos, index, rank->kill, fired);
}

/* Over tcp nothing is written under a lease that the writer enters. */
static bool has_leases(const struct chaos *chaos)
{
	uint32_t transport = chaos->schedule->setup->options.transport;
	return transport == REPLAY_SHM || transport == REPLAY_AUTO;
}

static void harm_flight(struct chaos *chaos, uint32_t slot)
{
	const struct replay_flight *flight = chaos_flight_of(chaos, slot);
	struct chaos_trouble *trouble = &chaos->troubles[slot];
	uint32_t n = 0, index = 0;
	trouble->harm_due_ns = 0;
	for (uint32_t i = 0; i < chaos->n_ranks; i++)
		n += flight->members[i] != MEMBER_NONE && chaos->ranks[i].life == LIFE_UP;
	if (n == 0)
		return;
	uint64_t left = trouble->plan.victim % n;
	for (index = 0;; index++) {
		if (flight->members[index] == MEMBER_NONE || chaos->ranks[index].life != LIFE_UP)
			continue;
		if (left-- == 0)
			break;
	}
	chaos->ranks[index].restart_after_ns = trouble->plan.restart_after_ns;
	if (trouble->plan.in_lease && index < chaos->n_prefill && has_leases(chaos))
		arm(chaos, index, trouble->plan.kill);
	else
		harm(chaos, index, trouble->plan.kill, false);
}

/* --------------------------------------------------------- stop and continue */

/* Does a process that runs still have a session with this one? */
static bool somebody_waits_for(const struct chaos *chaos, uint32_t index)
{
	for (uint32_t slot = 0; slot < chaos->schedule->setup->concurrency; slot++) {
		const struct replay_flight *flight = chaos_flight_of(chaos, slot);
		if (!flight || flight->members[index] == MEMBER_NONE)
			continue;
		for (uint32_t i = 0; i < chaos->n_ranks; i++) {
			if (i != index && chaos->ranks[i].life != LIFE_STOPPED &&
				replay_member_open(flight->members[i]))
				return true;
		}
	}
	return false;
}

static void look_at_stopped(struct chaos *chaos, uint32_t index)
{
	struct chaos_process *rank = &chaos->ranks[index];
	uint64_t now = replay_now_ns(); /* it may have been stopped in this turn */
	bool too_long = now - rank->since_ns >= STOP_MOST_NS;
	if (!too_long && somebody_waits_for(chaos, index)) {
		rank->quiet_ns = 0;
		return;
	}
	if (rank->quiet_ns == 0)
		rank->quiet_ns = now;
	if (!too_long && now - rank->quiet_ns < CONTINUE_NS)
		return;
	chaos->result->never_released += too_long;
	replay_processes_signal(&chaos->schedule->processes, index, SIGCONT);
	set_life(chaos, index, LIFE_UP);
	replay_flight_continued(chaos->schedule);
}

/* ---------------------------------------------------------- kill and restart */

bool chaos_process_lost(struct chaos *chaos, uint32_t index)
{
	struct chaos_process *rank = &chaos->ranks[index];
	uint32_t number;
	uint32_t side = chaos_side_of(chaos, index, &number);
	if (rank->life == LIFE_ARMED && rank->kill) /* told before the trigger was looked at */
		look_at_armed(chaos, index, rank->due_ns);
	if (rank->life != LIFE_KILLED)
		return false;
	chaos_histogram_add(&chaos->result->kill_to_end, replay_now_ns() - rank->since_ns);
	set_life(chaos, index, chaos->schedule->setup->chaos.restart ? LIFE_DOWN : LIFE_GONE);
	rank->due_ns = replay_now_ns() + rank->restart_after_ns;
	rank->n_samples = 0;
	replay_flight_lost(chaos->schedule, side, number);
	return true;
}

static bool start_again(struct chaos *chaos, uint32_t index)
{
	set_life(chaos, index, LIFE_STARTING);
	atomic_store(&chaos_shared_numbers(chaos->shared, index)->peers_away, 0);
	atomic_store(&chaos_shared_numbers(chaos->shared, index)->quarantined, 0);
	chaos->result->restarts++;
	return replay_processes_restart(&chaos->schedule->processes, index, chaos->schedule->why);
}

void chaos_rank_report(struct chaos *chaos, const struct replay_report *report)
{
	uint32_t index = replay_flight_index(chaos->schedule, report->side, report->rank);
	bool prefill = report->side == REPLAY_PREFILL;
	if (report->kind == REPLAY_UP && !prefill)
		replay_flight_send(chaos->schedule, REPLAY_CONNECT, report->side, report->rank, 0);
	if ((report->kind == REPLAY_UP && prefill) || report->kind == REPLAY_CONNECTED)
		set_life(chaos, index, LIFE_UP);
}

/* -------------------------------------------------------------------- turn */

static bool turn_rank(struct chaos *chaos, uint32_t index, uint64_t now)
{
	switch (chaos->ranks[index].life) {
	case LIFE_ARMED:
		look_at_armed(chaos, index, now);
		return true;
	case LIFE_STOPPED:
		look_at_stopped(chaos, index);
		return true;
	case LIFE_DOWN:
		return now < chaos->ranks[index].due_ns || start_again(chaos, index);
	default:
		return true;
	}
}

bool chaos_turn(struct chaos *chaos)
{
	uint64_t now = replay_now_ns();
	for (uint32_t slot = 0; slot < chaos->schedule->setup->concurrency; slot++) {
		const struct chaos_trouble *trouble = &chaos->troubles[slot];
		if (!chaos_flight_of(chaos, slot))
			continue;
		if (trouble->harm_due_ns > 0 && now >= trouble->harm_due_ns)
			harm_flight(chaos, slot);
		if (trouble->tell_due_ns > 0 && now >= trouble->tell_due_ns)
			chaos_tell_others(chaos, slot);
	}
	for (uint32_t i = 0; i < chaos->n_ranks; i++) {
		if (!turn_rank(chaos, i, now))
			return false;
	}
	if (now >= chaos->sample_due_ns)
		chaos_sample(chaos, now);
	return true;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return b > 0 && b < a ? b : a;
}

int chaos_wait_ms(const struct chaos *chaos)
{
	uint64_t now = replay_now_ns(), due = chaos->sample_due_ns;
	for (uint32_t slot = 0; slot < chaos->schedule->setup->concurrency; slot++) {
		if (!chaos_flight_of(chaos, slot))
			continue;
		due = earlier(due, chaos->troubles[slot].harm_due_ns);
		due = earlier(due, chaos->troubles[slot].tell_due_ns);
	}
	for (uint32_t i = 0; i < chaos->n_ranks; i++) {
		enum chaos_life life = chaos->ranks[i].life;
		if (life == LIFE_ARMED)
			due = earlier(due, now + ARMED_LOOK_NS);
		else if (life == LIFE_STOPPED)
			due = earlier(due, now + STOP_LOOK_NS);
		else if (life == LIFE_DOWN)
			due = earlier(due, chaos->ranks[i].due_ns);
	}
	return due <= now ? 0 : (int)((due - now + CHAOS_NS_PER_MS - 1) / CHAOS_NS_PER_MS);
}
