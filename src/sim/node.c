/* node.c - a process of the virtual cluster: it starts, takes turns, stops, dies.
 *
 * An agent is driven as a user without a progress thread drives it: kvf_poll whenever it wants a turn or something has come. When it wants one it is
 * asked for, never slept on. A process that dies takes its agent and its memory with it; the agent is closed without a word to anybody.
 */
#include "sim/sim.h"

#include <stdlib.h>
#include "agent/agent.h"
#include "base/alloc.h"
#include "base/assert.h"

#define EVENTS_A_TURN 16

void sim_enter(struct sim_node *node)
{
	KVFI_ASSERT(node->world->current == NULL && node->alive);
	node->world->current = node;
	if (node->alloc_fails_at > 0)
		kvfi_alloc_fail_at(node->alloc_fails_at);
}

void sim_leave(struct sim_node *node)
{
	if (node->alloc_fails_at > 0) {
		uint64_t n = kvfi_alloc_count();

		kvfi_alloc_fail_at(0);
		if (n >= node->alloc_fails_at) {
			sim_count(node->world, KVF_SIM_ALLOC);
			sim_trace(node->world, node->index, "an allocation failed");
		}
		node->alloc_fails_at = n >= node->alloc_fails_at ? 0 : node->alloc_fails_at - n;
	}
	node->world->current = NULL;
	sim_wake(node, KVFI_NEVER);
}

/* ---- turns ---- */

static void turn(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = &world->nodes[event->node];
	struct kvf_event events[EVENTS_A_TURN];
	int n;

	if (event->sequence != node->turn_sequence)
		return; /* another one was set earlier */
	node->turn_sequence = 0;
	world->counts.turns++;
	sim_enter(node);
	n = kvf_poll(node->agent, events, EVENTS_A_TURN);
	sim_leave(node);
	if (n < 0)
		sim_fail(world, "calls: kvf_poll on %s: %s", node->name, kvf_error());
	for (int i = 0; i < n; i++)
		sim_user_event(node, &events[i]);
	if (n == EVENTS_A_TURN)
		sim_wake(node, 1000);
}

/* When its agent wants a turn, in the world's time. */
static uint64_t wanted_ns(const struct sim_node *node)
{
	uint64_t at_ns = kvfi_agent_next_ns(node->agent);

	if (at_ns == KVFI_NEVER)
		return KVFI_NEVER;
	at_ns = at_ns > node->clock_offset_ns ? at_ns - node->clock_offset_ns : 0;
	return at_ns > node->world->now_ns + 1000 ? at_ns : node->world->now_ns + 1000;
}

void sim_wake(struct sim_node *node, uint64_t after_ns)
{
	struct sim_world *world = node->world;
	uint64_t at_ns = after_ns == KVFI_NEVER ? KVFI_NEVER : world->now_ns + after_ns;
	struct sim_event *event;

	if (!node->alive || node->agent == NULL)
		return;
	if (wanted_ns(node) < at_ns)
		at_ns = wanted_ns(node);
	if (at_ns == KVFI_NEVER || (node->turn_sequence != 0 && node->turn_ns <= at_ns))
		return;
	event = sim_at(world, at_ns, turn);
	event->node = node->index;
	event->life = node->life;
	event->on_cpu = true;
	node->turn_sequence = event->sequence;
	node->turn_ns = at_ns;
}

/* ---- starting ---- */

static void run_job(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = &world->nodes[event->node];
	struct kvfi_job *job = event->payload;

	sim_enter(node);
	job->run(job);
	sim_leave(node);
}

/* Copy workers: later, and not in order. */
static void submit(void *self, struct kvfi_job *job)
{
	struct sim_node *node = self;
	struct sim_world *world = node->world;
	struct sim_event *event =
		sim_at(world, world->now_ns + 1000 + sim_below(&world->store, 50000), run_job);

	event->node = node->index;
	event->life = node->life;
	event->on_cpu = true;
	event->payload = job;
}

static enum kvf_status open_agent(struct sim_node *node)
{
	struct sim_world *world = node->world;
	struct kvf_options options = world->agent;
	struct kvfi_agent_seams seams = {.self = node,
		.control = &sim_control_ops,
		.n_transports = 3,
		.transports = {&sim_leased_ops, &sim_card_ops, &sim_applied_ops},
		.submit = submit};
	kvf_region region;
	char endpoint[32];
	enum kvf_status status;

	(void)snprintf(endpoint, sizeof(endpoint), "sim://%u", node->index);
	options.name = node->name;
	options.listen = node->decode ? NULL : endpoint;
	status = kvfi_agent_open_with(&options, &seams, &node->agent);
	if (status == KVF_OK)
		status = kvf_register(node->agent, node->pool.memory, node->pool.len_bytes, &region);
	if (status == KVF_OK)
		status = kvf_declare(node->agent, world->instances[node->decode], node->rank, node->layout);
	if (status == KVF_OK && node->decode)
		status = kvf_connect(node->agent, world->instances[0]->ranks[0].endpoint);
	return status;
}

void sim_node_start(struct sim_node *node)
{
	struct sim_world *world = node->world;
	enum kvf_status status;

	KVFI_ASSERT(!node->alive);
	node->life++;
	node->alive = true;
	node->stopped = false;
	node->turn_sequence = 0;
	node->clock_offset_ns = sim_below(&world->names, 1000) * KVFI_NS_PER_S;
	sim_pool_init(node);
	sim_enter(node);
	status = open_agent(node);
	world->current = NULL;
	if (status != KVF_OK) {
		sim_fail(world, "calls: %s cannot be started: %s", node->name, kvf_error());
		return;
	}
	sim_trace(world, node->index, "starts, life %u", node->life);
	sim_wake(node, 1000);
}

/* ---- ending ---- */

static void drop_frozen(struct sim_node *node)
{
	for (uint32_t i = 0; i < node->n_frozen; i++)
		if (node->frozen[i].drop != NULL)
			node->frozen[i].drop(&node->frozen[i]);
	node->n_frozen = 0;
}

static void end(struct sim_node *node)
{
	struct sim_world *world = node->world;
	struct kvf_close_report report;

	world->current = node;
	if (node->agent != NULL)
		kvf_agent_close(node->agent, 0, &report);
	world->current = NULL;
	node->agent = NULL;
	node->alive = node->stopped = false;
	node->alloc_fails_at = 0;
	drop_frozen(node);
	sim_pool_fini(node);
	sim_user_lost(node);
}

void sim_node_crash(struct sim_node *node)
{
	if (!node->alive)
		return;
	sim_trace(node->world, node->index, "dies");
	node->alive = false; /* nothing it says from here on is heard */
	sim_links_crashed(node);
	end(node);
}

void sim_node_close(struct sim_node *node)
{
	if (!node->alive)
		return;
	sim_trace(node->world, node->index, "closes");
	end(node);
}

void sim_node_stop(struct sim_node *node)
{
	if (!node->alive || node->stopped)
		return;
	sim_trace(node->world, node->index, "stops");
	node->stopped = true;
}

void sim_node_continue(struct sim_node *node)
{
	struct sim_world *world = node->world;

	if (!node->alive || !node->stopped)
		return;
	sim_trace(world, node->index, "goes on");
	node->stopped = false;
	for (uint32_t i = 0; i < node->n_frozen; i++) {
		const struct sim_event *kept = &node->frozen[i];
		struct sim_event *event = sim_at(world, world->now_ns + 100 * (i + 1), kept->run);
		uint64_t sequence = event->sequence;

		event->node = kept->node;
		event->life = kept->life;
		event->on_cpu = kept->on_cpu;
		event->drop = kept->drop;
		event->payload = kept->payload;
		event->a = kept->a;
		event->b = kept->b;
		if (kept->run == turn && node->turn_sequence == kept->sequence)
			node->turn_sequence = sequence;
	}
	node->n_frozen = 0;
	sim_wake(node, 1000);
}

void sim_node_fini(struct sim_node *node)
{
	if (node->alive)
		sim_node_close(node);
	free(node->frozen);
	node->frozen = NULL;
	node->max_frozen = 0;
}
