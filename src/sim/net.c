/* net.c - what a path between two nodes does to a message or a piece of data: delay, loss, repetition, corruption. */
#include "sim/sim.h"

struct sim_path *sim_path_of(struct sim_world *world, uint32_t a, uint32_t b)
{
	return a < b ? &world->paths[a][b] : &world->paths[b][a];
}

bool sim_is_cut(struct sim_world *world, uint32_t a, uint32_t b)
{
	return sim_path_of(world, a, b)->cut_until_ns > world->now_ns;
}

static uint64_t path_delay(struct sim_world *world, const struct sim_path *path, struct sim_random *random)
{
	uint64_t delay_ns = path->latency_ns + sim_below(random, path->latency_ns / 2 + 1);

	if (path->slow_until_ns > world->now_ns)
		delay_ns += sim_below(random, path->slow_ns);
	return delay_ns;
}

uint64_t sim_data_delay(struct sim_world *world, uint32_t a, uint32_t b)
{
	struct sim_path *path = sim_path_of(world, a, b);
	uint64_t delay_ns = path_delay(world, path, &world->store);
	bool late = sim_chance(&world->store, world->rates.delay / 4);

	if (world->calm)
		return delay_ns;
	if (late) {
		delay_ns += sim_below(&world->store, world->rates.delay_ns);
		sim_count(world, KVF_SIM_DELAY);
	}
	return delay_ns + sim_below(&world->store, world->rates.data_extra_ns + 1);
}

void sim_passage(struct sim_world *world, uint32_t from, uint32_t to, struct sim_passage *passage_out)
{
	struct sim_path *path = sim_path_of(world, from, to);
	const struct sim_rates *rates = &world->rates;
	struct sim_random *net = &world->net;
	/* All dice are thrown, whatever is on, so that leaving a fault out changes no other. */
	bool drop = sim_chance(net, rates->drop), twice = sim_chance(net, rates->duplicate);
	bool corrupt = sim_chance(net, rates->corrupt), late = sim_chance(net, rates->delay);
	bool astray = sim_chance(net, rates->reorder);
	uint64_t delay_ns = path_delay(world, path, net);
	uint64_t late_ns = sim_below(net, rates->delay_ns), astray_ns = sim_below(net, rates->reorder_ns);
	uint64_t second_ns = sim_below(net, rates->delay_ns + rates->reorder_ns + 1);
	uint64_t extra_ns = sim_below(net, rates->control_extra_ns + 1);

	*passage_out = (struct sim_passage){.copies = 1, .delay_ns = {delay_ns, delay_ns + second_ns}};
	if (path->cut_until_ns > world->now_ns) {
		passage_out->copies = 0;
		return;
	}
	if (world->calm)
		return;
	passage_out->corrupt = corrupt;
	passage_out->delay_ns[0] += extra_ns + (late ? late_ns : 0) + (astray ? astray_ns : 0);
	if (drop) {
		passage_out->copies = 0;
		sim_count(world, KVF_SIM_DROP);
		return;
	}
	if (late)
		sim_count(world, KVF_SIM_DELAY);
	if (astray)
		sim_count(world, KVF_SIM_REORDER);
	if (twice) {
		passage_out->copies = 2;
		sim_count(world, KVF_SIM_DUPLICATE);
	}
}
