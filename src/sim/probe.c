/* probe.c - after the faults: does the cluster work again, without anybody's help?
 *
 * When everything that was in flight is over, dead processes are started again, and after the time that a peer may take to come back one request
 * goes from every data-parallel group to every other. Each must complete on every rank. A rank that keeps memory for a proof that cannot come is
 * left out: its tables may be full of it. Health is asked for too: what is in quarantine is visible, and who has nothing in it is healthy.
 */
#include "sim/sim.h"

#include "geometry/geometry.h"

#define COME_BACK_NS (UINT64_C(6) * KVFI_NS_PER_S)
#define FIRST_ID     1000u
#define MOST         8u

static uint32_t waiting_on(const struct sim_node *node)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < node->world->n_requests; i++)
		n += node->sessions[i].outcome && !node->sessions[i].released;
	return n;
}

void sim_check_health(struct sim_node *node)
{
	struct sim_world *world = node->world;
	uint32_t waiting = waiting_on(node);
	struct kvf_health health;

	if (!node->alive)
		return;
	if (kvf_health(node->agent, &health) != KVF_OK) {
		sim_fail(world, "health: kvf_health on %s: %s", node->name, kvf_error());
		return;
	}
	if (health.quarantined != waiting)
		sim_fail(world, "health: %s says that %u sessions are in quarantine, its user knows of %u",
			node->name, health.quarantined, waiting);
	else if (health.in_flight != 0)
		sim_fail(world, "health: %s says that %u sessions are in flight, and all are over",
			node->name, health.in_flight);
	else if ((health.healthy != 0) != (health.stuck <= health.stuck_budget))
		sim_fail(world, "health: %s says %s with %u stuck and a budget of %u: %s", node->name,
			health.healthy != 0 ? "healthy" : "unhealthy", health.stuck, health.stuck_budget,
			health.text);
}

/* Are all its ranks free of what was? */
static bool group_is_free(const struct sim_world *world, bool decode, uint32_t dp)
{
	for (uint32_t i = 0; i < world->n_nodes; i++) {
		const struct sim_node *node = &world->nodes[i];
		const struct kvf_instance *instance = world->instances[decode];

		if (node->decode == decode && kvfi_rank_dp(instance, node->rank) == dp &&
			waiting_on(node) > 0)
			return false;
	}
	return true;
}

static void probe(struct sim_world *world, uint32_t src_dp, uint32_t dst_dp)
{
	struct sim_request *request = &world->requests[world->n_requests];
	uint64_t later_ns = 10 * KVFI_NS_PER_MS * (world->n_requests - world->first_probe);

	*request = (struct sim_request){.probe = true,
		.id = FIRST_ID + world->n_requests,
		.prompt_len = 5,
		.src_dp = src_dp,
		.dst_dp = dst_dp,
		.aux = true,
		.chunks = 2,
		.tx_ns = world->now_ns + later_ns,
		.rx_ns = world->now_ns + later_ns};
	world->n_requests++;
	sim_user_begin_request(world, world->n_requests - 1);
}

static void send_probes(struct sim_world *world, struct sim_event *event)
{
	(void)event;
	world->first_probe = world->n_requests;
	sim_trace(world, SIM_NONE, "does the cluster work again?");
	for (uint32_t s = 0; s < world->instances[0]->dp; s++)
		for (uint32_t d = 0; d < world->instances[1]->dp; d++)
			if (world->n_requests < SIM_MAX_REQUESTS &&
				world->n_requests < world->first_probe + MOST &&
				group_is_free(world, false, s) && group_is_free(world, true, d))
				probe(world, s, d);
	world->probing = SIM_PROBES_SENT;
	world->probe_begin_ns = world->now_ns + KVFI_NS_PER_S;
	world->probe_end_ns = world->now_ns + world->settle_ns;
}

void sim_probes_begin(struct sim_world *world)
{
	world->probing = SIM_PROBES_WAIT;
	for (uint32_t i = 0; i < world->n_nodes; i++) {
		sim_check_health(&world->nodes[i]);
		if (!world->nodes[i].alive)
			sim_node_start(&world->nodes[i]);
	}
	(void)sim_at(world, world->now_ns + COME_BACK_NS, send_probes);
}

void sim_probes_check(struct sim_world *world)
{
	for (uint32_t r = world->first_probe; r < world->n_requests; r++) {
		for (uint32_t i = 0; i < world->n_nodes; i++) {
			const struct sim_node *node = &world->nodes[i];
			const struct sim_session *session = &node->sessions[r];

			if (!sim_takes_part(world, node, r) ||
				(session->phase == SIM_CLOSED && session->status == KVF_OK))
				continue;
			sim_fail(world, "recovery: after all faults request %llu.0 on %s %s",
				(unsigned long long)world->requests[r].id, node->name,
				session->phase == SIM_CLOSED ? kvf_status_name(session->status)
							     : "is not over");
		}
	}
}
