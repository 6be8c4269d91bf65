/* time.c - virtual time: one queue of events for the whole world, and what clocks and dice say in it.
 *
 * Time stands still while an event runs. Events of the same time run in the order in which they were put. What belongs to a process that is gone
 * is dropped when its time comes; what needs the processor of a stopped one is kept aside until it goes on.
 */
#include "sim/sim.h"

#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "base/assert.h"
#include "base/hash.h"
#include "base/random.h"

void *sim_new(size_t bytes)
{
	void *memory = kvfi_alloc_always(NULL, bytes);

	KVFI_ASSERT(memory != NULL); /* the simulator itself is not simulated */
	return memset(memory, 0, bytes);
}

/* ---- random streams ---- */

uint64_t sim_next(struct sim_random *random)
{
	random->state += UINT64_C(0x9e3779b97f4a7c15);
	return kvfi_mix64(random->state);
}

uint64_t sim_below(struct sim_random *random, uint64_t n)
{
	uint64_t drawn = sim_next(random);

	return n == 0 ? 0 : (uint64_t)(((unsigned __int128)drawn * n) >> 64);
}

bool sim_chance(struct sim_random *random, uint64_t n)
{
	return sim_below(random, 1000) < n;
}

uint64_t sim_skewed(struct sim_random *random, uint64_t low, uint64_t high)
{
	uint64_t span = high - low + 1;

	return low + sim_below(random, sim_below(random, span) + 1);
}

/* ---- events ---- */

static bool before(const struct sim_event *a, const struct sim_event *b)
{
	return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->sequence < b->sequence;
}

static uint32_t sift_up(struct sim_queue *queue, uint32_t at)
{
	struct sim_event event = queue->heap[at];

	while (at > 0 && before(&event, &queue->heap[(at - 1) / 2])) {
		queue->heap[at] = queue->heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	queue->heap[at] = event;
	return at;
}

static void sift_down(struct sim_queue *queue)
{
	struct sim_event event = queue->heap[0];
	uint32_t at = 0;

	for (uint32_t child = 1; child < queue->n; child = 2 * at + 1) {
		if (child + 1 < queue->n && before(&queue->heap[child + 1], &queue->heap[child]))
			child++;
		if (!before(&queue->heap[child], &event))
			break;
		queue->heap[at] = queue->heap[child];
		at = child;
	}
	queue->heap[at] = event;
}

struct sim_event *sim_at(struct sim_world *world, uint64_t at_ns,
	void (*run)(struct sim_world *world, struct sim_event *event))
{
	struct sim_queue *queue = &world->queue;

	if (queue->n == queue->max) {
		queue->max = queue->max == 0 ? 256 : queue->max * 2;
		queue->heap = kvfi_alloc_always(queue->heap, queue->max * sizeof(*queue->heap));
		KVFI_ASSERT(queue->heap != NULL);
	}
	queue->heap[queue->n] = (struct sim_event){.at_ns = at_ns < world->now_ns ? world->now_ns : at_ns,
		.sequence = ++world->sequence,
		.run = run,
		.node = SIM_NONE};
	return &queue->heap[sift_up(queue, queue->n++)];
}

static void freeze(struct sim_node *node, const struct sim_event *event)
{
	if (node->n_frozen == node->max_frozen) {
		node->max_frozen = node->max_frozen == 0 ? 16 : node->max_frozen * 2;
		node->frozen = kvfi_alloc_always(node->frozen, node->max_frozen * sizeof(*node->frozen));
		KVFI_ASSERT(node->frozen != NULL);
	}
	node->frozen[node->n_frozen++] = *event;
}

bool sim_take(struct sim_world *world, struct sim_event *event_out)
{
	struct sim_queue *queue = &world->queue;

	while (queue->n > 0) {
		struct sim_event event = queue->heap[0];
		struct sim_node *node = event.node == SIM_NONE ? NULL : &world->nodes[event.node];

		queue->heap[0] = queue->heap[--queue->n];
		if (queue->n > 0)
			sift_down(queue);
		if (node != NULL && (!node->alive || node->life != event.life)) {
			if (event.drop != NULL)
				event.drop(&event);
			continue;
		}
		if (node != NULL && event.on_cpu && node->stopped) {
			freeze(node, &event);
			continue;
		}
		*event_out = event;
		return true;
	}
	return false;
}

void sim_queue_fini(struct sim_queue *queue)
{
	for (uint32_t i = 0; i < queue->n; i++)
		if (queue->heap[i].drop != NULL)
			queue->heap[i].drop(&queue->heap[i]);
	free(queue->heap);
	*queue = (struct sim_queue){.heap = NULL};
}

/* ---- clocks and dice of the library ---- */

static uint64_t world_clock(void *self)
{
	const struct sim_world *world = self;

	return world->now_ns + (world->current != NULL ? world->current->clock_offset_ns : 0);
}

static uint64_t world_unix(void *self)
{
	return UINT64_C(1700000000) * KVFI_NS_PER_S + ((const struct sim_world *)self)->now_ns;
}

static void world_draw(void *self, void *buffer, size_t len_bytes)
{
	struct sim_world *world = self;
	unsigned char *to = buffer;

	for (size_t at = 0; at < len_bytes; at += 8) {
		uint64_t drawn = sim_next(&world->names);
		size_t n = len_bytes - at < 8 ? len_bytes - at : 8;

		memcpy(to + at, &drawn, n);
	}
}

static struct kvfi_clock_source clock_source = {.clock_ns = world_clock, .unix_ns = world_unix};
static struct kvfi_random_source random_source = {.draw = world_draw};

void sim_clocks_take(struct sim_world *world)
{
	clock_source.self = random_source.self = world;
	kvfi_clock_set(&clock_source);
	kvfi_random_set(&random_source);
}

void sim_clocks_give(void)
{
	kvfi_clock_set(NULL);
	kvfi_random_set(NULL);
}
