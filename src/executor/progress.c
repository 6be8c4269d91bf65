/* progress.c - what the agent has to say about requests, and their deadlines.
 *
 * An end of a session is taken once and never changed: what comes after it is about memory. A request ends here with its OUTCOME and with nothing
 * less (a session whose KV has arrived and whose aux data have not has none). RELEASED is the only word on memory; neither
 * a deadline, nor a cancel, nor a decision of the group frees anything.
 *
 * The thread that ticks.
 */
#include "executor/guard.h"

#define BATCH 64

static void keep_event(kvf_guard *guard, const struct kvf_event *event)
{
	const uint32_t max = guard->options.max_events;

	if (guard->events_n == max) {
		guard->events_head = (guard->events_head + 1) % max;
		guard->events_n--;
		guard->events_dropped++;
	}
	guard->events[(guard->events_head + guard->events_n++) % max] = *event;
}

/* The first end counts: a late success is no success after a timeout, and the CANCELLED that follows our own cancel no second end. */
static void on_outcome(struct guard_entry *entry, enum kvf_status status)
{
	entry->outcome_seen = true;
	if ((entry->bits & GUARD_ENDED) != 0)
		return;
	entry->bits |= status == KVF_OK          ? GUARD_COMPLETED
	               : status == KVF_CANCELLED ? GUARD_CANCELLED
	                                         : GUARD_FAILED;
	entry->status = status;
}

static void take(kvf_guard *guard, const struct kvf_event *event)
{
	struct guard_entry *entry = event->type == KVF_EVENT_PEER
	                                    ? NULL
	                                    : kvfi_guard_find(guard, event->request_id, event->attempt);

	if (entry == NULL || entry->session.bits != event->session.bits) {
		keep_event(guard, event);
		return;
	}
	guard->dirty = true;
	switch (event->type) {
	case KVF_EVENT_READY:
		entry->bits |= GUARD_READY;
		return;
	case KVF_EVENT_OUTCOME:
		on_outcome(entry, event->status);
		return;
	case KVF_EVENT_RELEASED:
		entry->bits |= GUARD_RELEASED;
		return;
	case KVF_EVENT_PEER:
	case KVF_EVENT_SLICE:
		break;
	}
	keep_event(guard, event);
}

/* Everything that is there, but not for ever: an agent that produces as fast as we take must not hold the loop. */
enum kvf_status kvfi_guard_take_events(kvf_guard *guard)
{
	const uint32_t most = 8 + guard->options.max_requests / 8;
	struct kvf_event events[BATCH];

	for (uint32_t i = 0; i < most; i++) {
		const int n = guard->agent.poll(guard->agent.self, events, BATCH);

		if (n < 0)
			return (enum kvf_status)n;
		for (int e = 0; e < n; e++)
			take(guard, &events[e]);
		guard->behind = n == BATCH;
		if (!guard->behind)
			break;
	}
	return KVF_OK;
}

int kvf_guard_event(kvf_guard *guard, struct kvf_event *event_out)
{
	if (guard == NULL || event_out == NULL)
		return kvf_fail(KVF_EINVAL, "guard and event_out must not be NULL");
	if (guard->events_n == 0)
		return 0;
	*event_out = guard->events[guard->events_head];
	guard->events_head = (guard->events_head + 1) % guard->options.max_events;
	guard->events_n--;
	return 1;
}

/* ---- deadlines ---- */

/* The transfer's time runs from its first byte, whoever was first in the queue. */
static void start_transfer_clock(kvf_guard *guard, struct guard_entry *entry, uint64_t now_ns)
{
	enum kvf_session_state state = KVF_STATE_INIT;
	uint64_t end_ns;

	if (entry->transfer_timeout_ns == 0 || entry->session.bits == 0 ||
		guard->agent.state(guard->agent.self, entry->session, &state) != KVF_OK ||
		state < KVF_STATE_TRANSFERRING)
		return;
	end_ns = now_ns + entry->transfer_timeout_ns;
	if (end_ns > now_ns && end_ns < entry->deadline_ns)
		entry->deadline_ns = end_ns;
	entry->transfer_timeout_ns = 0;
}

/* This request alone is over: its client is told now, its memory follows its proof. */
static void expire(kvf_guard *guard, struct guard_entry *entry)
{
	entry->deadline_ns = KVFI_GUARD_NEVER;
	guard->dirty = true;
	entry->bits |= GUARD_FAILED;
	entry->status = KVF_TIMED_OUT;
	entry->expired = guard->grouped;
	if (guard->grouped)
		kvfi_guard_tell(guard, entry, KVF_GUARD_EXPIRED, KVF_TIMED_OUT);
	if ((entry->bits & GUARD_RELEASED) == 0)
		(void)guard->agent.cancel(
			guard->agent.self, entry->session, "the engine's deadline has passed");
}

/* Nothing to look at until the first deadline comes, or a transfer may have begun. */
void kvfi_guard_judge_deadlines(kvf_guard *guard, uint64_t now_ns)
{
	if (now_ns < guard->next_deadline_ns && guard->n_clocks == 0)
		return;
	guard->next_deadline_ns = KVFI_GUARD_NEVER;
	guard->n_clocks = 0;
	for (uint32_t at = guard->first; at != KVFI_GUARD_NONE; at = guard->entries[at].next) {
		struct guard_entry *entry = &guard->entries[at];

		if (entry->decided || (!guard->grouped && (entry->bits & GUARD_ENDED) != 0))
			continue;
		start_transfer_clock(guard, entry, now_ns);
		if (entry->deadline_ns <= now_ns && (entry->bits & (GUARD_FAILED | GUARD_CANCELLED)) == 0)
			expire(guard, entry);
		guard->n_clocks += entry->transfer_timeout_ns != 0;
		if (entry->deadline_ns < guard->next_deadline_ns)
			guard->next_deadline_ns = entry->deadline_ns;
	}
}
