/* strike.c - single faults: what happens to one node or one path at one time, and how it heals. */
#include "sim/sim.h"

static struct sim_event *later(struct sim_world *world, const struct sim_strike *strike,
	void (*run)(struct sim_world *, struct sim_event *))
{
	struct sim_event *event = sim_at(world, world->now_ns + strike->for_ns, run);

	event->a = (uint64_t)(strike - world->strikes);
	return event;
}

static struct sim_node *node_of(struct sim_world *world, const struct sim_event *event)
{
	return &world->nodes[world->strikes[event->a].node];
}

static void go_on(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = node_of(world, event);

	if (node->life == event->b)
		sim_node_continue(node);
}

static void start_again(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = node_of(world, event);

	if (node->alive)
		return;
	sim_count(world, KVF_SIM_RESTART);
	sim_node_start(node);
}

/* Its clock goes on while it is paused, and then it goes on too. */
static void jump(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = node_of(world, event);

	if (node->life != event->b || !node->alive)
		return;
	sim_trace(world, node->index, "its clock jumps by %llu ms",
		(unsigned long long)world->strikes[event->a].amount * 20);
	node->clock_offset_ns += world->strikes[event->a].amount * 20 * KVFI_NS_PER_MS;
	sim_node_continue(node);
}

static void cut(struct sim_world *world, const struct sim_strike *strike)
{
	sim_count(world, KVF_SIM_PARTITION);
	sim_path_of(world, strike->node, strike->other)->cut_until_ns =
		strike->for_good ? KVFI_NEVER : world->now_ns + strike->for_ns;
	sim_trace(world, strike->node, "is cut off from %s for %.3f ms", world->nodes[strike->other].name,
		strike->for_good ? -1.0 : (double)strike->for_ns / 1e6);
}

static void slow_down(struct sim_world *world, const struct sim_strike *strike)
{
	struct sim_path *path = sim_path_of(world, strike->node, strike->other);

	sim_count(world, KVF_SIM_SLOW);
	path->slow_until_ns = world->now_ns + strike->for_ns;
	path->slow_ns = strike->amount * KVFI_NS_PER_MS / 2;
	sim_trace(world, strike->node, "and %s are slow for %.3f ms", world->nodes[strike->other].name,
		(double)strike->for_ns / 1e6);
}

static void stop(struct sim_world *world, const struct sim_strike *strike, bool clock)
{
	struct sim_node *node = &world->nodes[strike->node];

	if (!node->alive || node->stopped)
		return;
	sim_count(world, clock ? KVF_SIM_CLOCK : KVF_SIM_STOP);
	sim_node_stop(node);
	if (clock || !strike->for_good)
		later(world, strike, clock ? jump : go_on)->b = node->life;
}

static void end_process(struct sim_world *world, const struct sim_strike *strike, bool in_order)
{
	struct sim_node *node = &world->nodes[strike->node];
	bool restart = !strike->for_good && sim_has(world, KVF_SIM_RESTART);

	if (!node->alive || (in_order && node->stopped))
		return;
	if (in_order) {
		sim_node_close(node);
	} else {
		sim_count(world, KVF_SIM_CRASH);
		sim_node_crash(node);
	}
	if (restart)
		(void)later(world, strike, start_again);
}

static void happen(struct sim_world *world, struct sim_event *event);

void sim_strike_inside(struct sim_node *node)
{
	struct sim_event *event;

	if (node->waiting_strike == 0)
		return;
	event = sim_at(node->world, node->world->now_ns + sim_below(&node->world->store, 3000), happen);
	event->a = node->waiting_strike - 1;
	event->b = 1;
	node->waiting_strike = 0;
}

static bool waits(struct sim_world *world, const struct sim_event *event)
{
	const struct sim_strike *strike = &world->strikes[event->a];
	struct sim_node *node = &world->nodes[strike->node];
	bool can = strike->kind == SIM_STRIKE_STOP || strike->kind == SIM_STRIKE_CRASH;

	if (!can || !strike->inside || event->b != 0 || node->decode)
		return false;
	node->waiting_strike = (uint32_t)event->a + 1;
	return true;
}

static void happen(struct sim_world *world, struct sim_event *event)
{
	const struct sim_strike *strike = &world->strikes[event->a];

	if (world->calm || waits(world, event))
		return;
	switch (strike->kind) {
	case SIM_STRIKE_PARTITION:
		cut(world, strike);
		return;
	case SIM_STRIKE_SLOW:
		slow_down(world, strike);
		return;
	case SIM_STRIKE_STOP:
		stop(world, strike, false);
		return;
	case SIM_STRIKE_CRASH:
		end_process(world, strike, false);
		return;
	case SIM_STRIKE_RESTART:
		end_process(world, strike, true);
		return;
	case SIM_STRIKE_ALLOC:
		if (world->nodes[strike->node].alive)
			world->nodes[strike->node].alloc_fails_at = strike->amount;
		return;
	case SIM_STRIKE_CLOCK:
		stop(world, strike, true);
		return;
	}
}

void sim_strikes_begin(struct sim_world *world)
{
	for (uint32_t i = 0; i < world->n_strikes; i++) {
		if ((world->options.skip_strikes >> i & 1) != 0)
			continue;
		sim_at(world, world->strikes[i].at_ns, happen)->a = i;
	}
}

void sim_calm(struct sim_world *world)
{
	world->calm = true;
	sim_trace(world, SIM_NONE, "faults are over");
	for (uint32_t p = 0; p < SIM_MAX_NODES; p++)
		for (uint32_t d = 0; d < SIM_MAX_NODES; d++)
			world->paths[p][d].cut_until_ns = world->paths[p][d].slow_until_ns = 0;
	for (uint32_t i = 0; i < world->n_nodes; i++) {
		world->nodes[i].alloc_fails_at = 0;
		world->nodes[i].waiting_strike = 0;
		sim_node_continue(&world->nodes[i]);
	}
}
