/* cancel.c - users who cancel: any session or request, at any time, on either side, also twice, also what is over or was never there.
 *
 * Some users free at a safe result, as kvf_cancel allows; the oracle then takes the blocks for theirs from that moment on. The others wait for
 * RELEASED. Nobody does both.
 */
#include "sim/sim.h"

#include "base/assert.h"

static void wrong(
	const struct sim_node *node, uint32_t request, enum kvf_cancel_result result, const char *why)
{
	const struct sim_request *who = &node->world->requests[request];

	sim_fail(node->world, "cancel: request %llu.%u on %s: %s: %s", (unsigned long long)who->id,
		who->attempt, node->name, kvf_cancel_result_name(result), why);
}

static void judge(struct sim_node *node, uint32_t request, enum kvf_cancel_result result)
{
	struct sim_session *session = &node->sessions[request];
	bool open = session->phase == SIM_OPEN;

	switch (result) {
	case KVF_CANCEL_NOT_CANCELLABLE:
		if (open)
			wrong(node, request, result, "it is open");
		break;
	case KVF_CANCEL_BEFORE_ADVERTISE:
		if (!open || (session->outcome && session->status == KVF_OK) || session->bytes_seen)
			wrong(node, request, result, "it had begun, or is not open");
		session->cancelled_early = true;
		break;
	case KVF_CANCEL_ALREADY_COMPLETE:
		break; /* its RELEASED may not be polled yet */
	case KVF_CANCEL_REQUESTED_IN_FLIGHT:
	case KVF_CANCEL_BACKEND_UNHEALTHY:
		if (!open || session->released)
			wrong(node, request, result, "it is released");
		break;
	case KVF_CANCEL_NOT_FOUND:
		if (open)
			wrong(node, request, result, "it is open");
		break;
	}
	if (kvf_cancel_is_safe(result) != 0 && open && !session->released &&
		node->world->frees_at_safe_cancel)
		sim_pool_give(node, request);
}

static void cancel_now(struct sim_node *node, uint32_t request, bool by_request)
{
	struct sim_world *world = node->world;
	const struct sim_request *who = &world->requests[request];
	const struct sim_session *session = &node->sessions[request];
	enum kvf_cancel_result result;

	sim_count(world, KVF_SIM_CANCEL);
	result = by_request ? kvf_cancel_request(node->agent, who->id, who->attempt, "the client has left")
	                    : kvf_cancel(node->agent, session->handle, "the client has left");
	sim_trace(world, node->index, "cancels request %llu.%u: %s", (unsigned long long)who->id,
		who->attempt, kvf_cancel_result_name(result));
	if (!by_request && session->phase == SIM_CLOSED && result != KVF_CANCEL_ALREADY_COMPLETE)
		wrong(node, request, result, "its handle was once issued, and is closed");
	judge(node, request, result);
}

/* kvf_cancel may be called from any thread, so at any point of a turn. The points at which a turn comes out to the simulated world are such points. */
void sim_turn_is_here(struct sim_node *node)
{
	uint32_t request = node->cancel_inside - 1;

	if (node->cancel_inside == 0 || node->world->current != node)
		return;
	node->cancel_inside = 0;
	cancel_now(node, request, true);
}

void sim_advertises(struct sim_node *node, uint64_t id, uint32_t attempt, const char *what)
{
	uint32_t request = sim_request_find(node->world, id, attempt);

	if (request != SIM_NONE && node->sessions[request].cancelled_early)
		sim_fail(node->world, "cancel: %s of request %llu.%u leaves %s after before-advertise", what,
			(unsigned long long)id, attempt, node->name);
}

static void cancel(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = &world->nodes[event->node];
	uint32_t request = (uint32_t)event->a;
	const struct sim_session *session = &node->sessions[request];
	bool by_request = sim_chance(&world->user, 300), inside = sim_chance(&world->user, 400);

	if (!by_request && session->phase != SIM_OPEN && session->phase != SIM_CLOSED)
		return; /* nobody has its handle */
	if (inside) {
		node->cancel_inside = request + 1;
		return;
	}
	sim_enter(node);
	cancel_now(node, request, by_request);
	sim_leave(node);
	sim_wake(node, 1000);
}

/* Not bound to a life. */
static void begin(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = event->payload;
	struct sim_event *now;

	if (!node->alive)
		return;
	now = sim_at(world, world->now_ns, cancel);
	now->node = node->index;
	now->life = node->life;
	now->on_cpu = true;
	now->a = event->a;
}

void sim_cancels_begin(struct sim_world *world, uint32_t request)
{
	const struct sim_request *who = &world->requests[request];
	uint64_t from_ns = who->tx_ns < who->rx_ns ? who->tx_ns : who->rx_ns;

	for (uint32_t i = 0; i < who->cancels; i++) {
		uint64_t after_ns = sim_below(&world->user, KVFI_NS_PER_US << sim_below(&world->user, 20));
		uint32_t node = (uint32_t)sim_below(&world->user, world->n_nodes);
		struct sim_event *event;

		while (!sim_takes_part(world, &world->nodes[node], request))
			node = (node + 1) % world->n_nodes;
		event = sim_at(world, from_ns + after_ns, begin);
		event->payload = &world->nodes[node];
		event->a = request;
	}
}
