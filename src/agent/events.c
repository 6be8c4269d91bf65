/* events.c - poll, fd, wait, drain.
 *
 * Front. The ring has one writer and one reader. Its descriptor is readable from the first event that is put until the poll that takes the last one;
 * the flag beside it saves a system call per event.
 */
#include "agent/agent.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/status.h"

static bool ring_empty(const struct event_ring *ring)
{
	return atomic_load_explicit(&ring->head, memory_order_relaxed) ==
	       atomic_load_explicit(&ring->tail, memory_order_acquire);
}

/* What the user may ask about a session is what its last polled event said. */
static void apply(kvf_agent *agent, const struct event_item *item)
{
	struct front_session *front;

	if (item->event.type == KVF_EVENT_PEER) {
		(void)atomic_fetch_sub(&agent->peer_events, 1);
		if (atomic_load(&agent->untold) > 0)
			kvfi_inbox_wake(&agent->inbox); /* there is room again */
		return;
	}
	front = &agent->sessions[item->slot];
	front->stats = item->stats;
	if (item->event.type == KVF_EVENT_OUTCOME) {
		front->outcome_polled = true;
		front->outcome = item->event.status;
		memcpy(front->good_end, item->good_end, sizeof(front->good_end));
		memcpy(front->error, item->error, sizeof(front->error));
	} else if (item->event.type == KVF_EVENT_RELEASED) {
		front->released_polled = true;
	}
}

/* The ring is empty: make the descriptor quiet, then look again, because an event may have come in between. Also when nothing was taken:
 * the poll that took the last event may have come before the signal for it, and a descriptor that stayed readable would keep a waiting
 * user spinning. */
static void quiet_fd(struct event_ring *ring)
{
	uint64_t count, one = 1;

	if (!atomic_load(&ring->signalled))
		return;
	/* Nothing there yet: the owner is about to write. It stays signalled, and the next poll reads it. */
	if (read(ring->event_fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
		return;
	atomic_store(&ring->signalled, false);
	if (!ring_empty(ring) && !atomic_exchange(&ring->signalled, true))
		(void)!write(ring->event_fd, &one, sizeof(one));
}

static int take(kvf_agent *agent, struct kvf_event *events, int n)
{
	struct event_ring *ring = &agent->events;
	int taken = 0;

	while (taken < n && !ring_empty(ring)) {
		uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
		const struct event_item *item = &ring->items[head % ring->max];

		apply(agent, item);
		events[taken++] = item->event;
		atomic_store_explicit(&ring->head, head + 1, memory_order_release);
	}
	if (ring_empty(ring))
		quiet_fd(ring);
	return taken;
}

int kvf_poll(kvf_agent *agent, struct kvf_event *events, int n)
{
	if (agent == NULL || n < 0 || (n > 0 && events == NULL))
		return kvfi_fail(KVF_EINVAL, "agent and events must not be NULL, n not negative");
	if (!agent->threaded)
		kvfi_owner_turn(agent);
	return take(agent, events, n);
}

int kvf_fd(kvf_agent *agent)
{
	if (agent == NULL)
		return kvfi_fail(KVF_EINVAL, "agent must not be NULL");
	return agent->threaded ? agent->events.event_fd : agent->epoll_fd;
}

/* ---- waiting ---- */

static uint64_t until(uint64_t timeout_ns)
{
	uint64_t now_ns = kvfi_clock_ns();

	return timeout_ns >= KVFI_NEVER - now_ns ? KVFI_NEVER : now_ns + timeout_ns;
}

static void sleep_on(kvf_agent *agent, uint64_t until_ns)
{
	struct pollfd fd = {.fd = agent->events.event_fd, .events = POLLIN};
	uint64_t now_ns = kvfi_clock_ns();
	uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
	struct timespec left = {(time_t)(left_ns / KVFI_NS_PER_S), (long)(left_ns % KVFI_NS_PER_S)};

	if (!agent->threaded) {
		kvfi_owner_turn(agent);
		if (ring_empty(&agent->events))
			kvfi_owner_sleep(agent, until_ns);
		return;
	}
	(void)ppoll(&fd, 1, until_ns == KVFI_NEVER ? NULL : &left, NULL);
}

enum kvf_status kvf_wait(kvf_agent *agent, uint64_t timeout_ns)
{
	uint64_t until_ns;

	if (agent == NULL)
		return kvfi_fail(KVF_EINVAL, "agent must not be NULL");
	until_ns = until(timeout_ns);
	while (ring_empty(&agent->events)) {
		quiet_fd(&agent->events);
		if (kvfi_clock_ns() >= until_ns)
			return kvfi_fail(KVF_TIMED_OUT, "no event in %llu ms",
				(unsigned long long)(timeout_ns / KVFI_NS_PER_MS));
		sleep_on(agent, until_ns);
	}
	return KVF_OK;
}

enum kvf_status kvf_drain(kvf_agent *agent, uint64_t bound_ns)
{
	const uint64_t look_ns =
		2 *
		KVFI_NS_PER_MS; /* the ring may hold events already, so its descriptor cannot be slept on */
	uint64_t until_ns;

	if (agent == NULL)
		return kvfi_fail(KVF_EINVAL, "agent must not be NULL");
	until_ns = until(bound_ns);
	while (atomic_load(&agent->unreleased) > 0) {
		uint64_t now_ns = kvfi_clock_ns();
		uint64_t next_ns = now_ns + look_ns < until_ns ? now_ns + look_ns : until_ns;

		if (now_ns >= until_ns)
			return kvfi_fail(KVF_TIMED_OUT, "%u sessions are not released",
				atomic_load(&agent->unreleased));
		if (agent->threaded) {
			struct timespec pause = {0, (long)(next_ns - now_ns)};

			(void)nanosleep(&pause, NULL);
		} else {
			kvfi_owner_turn(agent);
			kvfi_owner_heed_events(agent, false);
			kvfi_owner_sleep(agent, next_ns);
			kvfi_owner_heed_events(agent, true);
		}
	}
	return KVF_OK;
}
