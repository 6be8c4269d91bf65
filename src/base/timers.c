/* timers.c - the deadline heap.
 *
 * Every timer knows its place, so that moving one costs O(log n) and nothing is searched. heap[0] is unused.
 */
#include "base/timers.h"

#include <stdlib.h>
#include "base/assert.h"
#include "base/clock.h"
#include "base/status.h"

enum kvf_status kvfi_timers_init(struct kvfi_timers *timers, uint32_t max)
{
	timers->heap = calloc((size_t)max + 1, sizeof(struct kvfi_timer *));
	if (timers->heap == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for %u timers", max);
	timers->n = 0;
	timers->max = max;
	return KVF_OK;
}

void kvfi_timers_fini(struct kvfi_timers *timers)
{
	free(timers->heap);
	timers->heap = NULL;
	timers->n = 0;
}

static void put_at(struct kvfi_timers *timers, uint32_t place, struct kvfi_timer *timer)
{
	timers->heap[place] = timer;
	timer->place = place;
}

static void sift_up(struct kvfi_timers *timers, struct kvfi_timer *timer)
{
	uint32_t place = timer->place;

	while (place > 1 && timers->heap[place / 2]->at_ns > timer->at_ns) {
		put_at(timers, place, timers->heap[place / 2]);
		place /= 2;
	}
	put_at(timers, place, timer);
}

static void sift_down(struct kvfi_timers *timers, struct kvfi_timer *timer)
{
	uint32_t place = timer->place;

	for (;;) {
		uint32_t child = place * 2;

		if (child > timers->n)
			break;
		if (child < timers->n && timers->heap[child + 1]->at_ns < timers->heap[child]->at_ns)
			child++;
		if (timers->heap[child]->at_ns >= timer->at_ns)
			break;
		put_at(timers, place, timers->heap[child]);
		place = child;
	}
	put_at(timers, place, timer);
}

void kvfi_timers_disarm(struct kvfi_timers *timers, struct kvfi_timer *timer)
{
	uint32_t place = timer->place;
	struct kvfi_timer *moved;

	if (place == 0)
		return;
	KVFI_ASSERT(timers->heap[place] == timer);
	timer->place = 0;
	moved = timers->heap[timers->n--];
	if (moved == timer)
		return;
	put_at(timers, place, moved);
	sift_up(timers, moved);
	sift_down(timers, moved);
}

void kvfi_timers_arm(struct kvfi_timers *timers, struct kvfi_timer *timer, uint64_t at_ns)
{
	kvfi_timers_disarm(timers, timer);
	if (at_ns == KVFI_NEVER)
		return;
	KVFI_ASSERT(timers->n < timers->max);
	timer->at_ns = at_ns;
	put_at(timers, ++timers->n, timer);
	sift_up(timers, timer);
}

uint64_t kvfi_timers_next_ns(const struct kvfi_timers *timers)
{
	return timers->n > 0 ? timers->heap[1]->at_ns : KVFI_NEVER;
}

struct kvfi_timer *kvfi_timers_pop(struct kvfi_timers *timers, uint64_t now_ns)
{
	struct kvfi_timer *timer;

	if (timers->n == 0 || timers->heap[1]->at_ns > now_ns)
		return NULL;
	timer = timers->heap[1];
	kvfi_timers_disarm(timers, timer);
	return timer;
}
