/* user_events.c - what the users make of events, and what an event may say and when.
 *
 * One OUTCOME, then one RELEASED; states go forward only; an outcome has a reason in what happened; content is right as soon as somebody calls it
 * complete. Blocks are given back the moment RELEASED was polled.
 */
#include "sim/sim.h"

#include <stdio.h>
#include <string.h>

/* They cost time and no session. */
#define MILD_FAULTS                                                                                          \
	((uint32_t)(KVF_SIM_DELAY | KVF_SIM_REORDER | KVF_SIM_DROP | KVF_SIM_DUPLICATE | KVF_SIM_SLOW |      \
		    KVF_SIM_OVERTAKE))

static void wrong(const struct sim_node *node, uint32_t request, const char *what)
{
	const struct sim_request *who = &node->world->requests[request];

	sim_fail(node->world, "events: request %llu.%u on %s: %s", (unsigned long long)who->id, who->attempt,
		node->name, what);
}

/* Messages that are lost, late, twice or out of order fail no session. A fault that does must be among those of the run; and what tells that the two
 * sides, or a plan and its bytes, do not agree is told of no fault. */
static bool is_explained(const struct sim_world *world, enum kvf_status status)
{
	switch (status) {
	case KVF_OK:
	case KVF_TIMED_OUT:
	case KVF_CANCELLED:
		return true;
	case KVF_PEER_LOST:
	case KVF_UNREACHABLE:
	case KVF_STREAM_BROKEN:
	case KVF_TX_ENDED:
	case KVF_STALE_EPOCH:
	case KVF_BUSY:
	case KVF_EFULL:
	case KVF_ENOMEM:
		return (world->options.faults & ~MILD_FAULTS) != 0;
	case KVF_PROTOCOL:
	case KVF_PEER_VERSION:
	case KVF_NO_TRANSPORT:
	case KVF_REFUSED:
		return sim_has(world, KVF_SIM_CORRUPT) || sim_has(world, KVF_SIM_ALLOC);
	case KVF_UNCONFIRMED: /* the memory of what has ended is as small as the tables */
		return world->tiny;
	default:
		return false;
	}
}

/* Acknowledged means applied: when every sender was told complete, every byte lies in its place, whatever the receivers have been told. */
static void check_all_sent(struct sim_world *world, uint32_t request)
{
	for (uint32_t i = 0; i < world->n_nodes; i++) {
		const struct sim_node *node = &world->nodes[i];
		const struct sim_session *session = &node->sessions[request];

		if (!node->decode && sim_takes_part(world, node, request) &&
			(!session->outcome || session->status != KVF_OK))
			return;
	}
	for (uint32_t i = 0; i < world->n_nodes; i++)
		if (world->nodes[i].decode && world->nodes[i].sessions[request].blocks_taken)
			sim_pool_check_complete(&world->nodes[i], request, SIM_SENT);
}

static void on_outcome(struct sim_node *node, uint32_t request, const struct kvf_event *event)
{
	struct sim_world *world = node->world;
	struct sim_session *session = &node->sessions[request];
	char error[200] = "";

	if (session->outcome)
		wrong(node, request, "a second OUTCOME");
	session->outcome = true;
	session->status = event->status;
	session->outcome_ns = world->now_ns;
	if (kvf_session_error(node->agent, session->handle, error, sizeof(error)) != KVF_OK)
		wrong(node, request, "kvf_session_error fails");
	sim_trace(world, node->index, "OUTCOME of request %llu.%u: %s%s%s",
		(unsigned long long)event->request_id, event->attempt, kvf_status_name(event->status),
		error[0] != '\0' ? ": " : "", error);
	if ((event->status == KVF_OK) != (error[0] == '\0'))
		wrong(node, request, "a status without a sentence, or the reverse");
	if (!is_explained(world, event->status)) {
		char what[160];

		(void)snprintf(what, sizeof(what), "nothing that happened explains %s",
			kvf_status_name(event->status));
		wrong(node, request, what);
	}
	if (session->cancelled_early && event->status == KVF_OK)
		wrong(node, request, "completed, after before-advertise");
	if (event->status == KVF_OK)
		world->completed++;
	else if (event->status == KVF_CANCELLED)
		world->cancelled++;
	else if (event->status == KVF_TIMED_OUT)
		world->timed_out++;
	else
		world->failed_sessions++;
	if (event->status != KVF_OK)
		sim_try_again(world, request);
	if (!session->blocks_taken)
		return; /* given back at a safe cancel */
	if (world->requests[request].probe && event->status != KVF_OK)
		sim_fail(world, "recovery: after all faults request %llu.0 on %s fails: %s",
			(unsigned long long)event->request_id, node->name, error);
	if (node->decode && event->status == KVF_OK)
		sim_pool_check_complete(node, request, SIM_RECEIVED);
	else if (node->decode)
		sim_pool_check_good(node, request);
	else if (event->status == KVF_OK)
		check_all_sent(world, request);
}

static void close_session(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = &world->nodes[event->node];
	struct sim_session *session = &node->sessions[event->a];
	enum kvf_status status;

	sim_enter(node);
	status = kvf_session_close(node->agent, session->handle);
	sim_leave(node);
	if (status == KVF_OK)
		session->phase = SIM_CLOSED;
	else if (sim_may_wait(status))
		(void)sim_user_at(node, (uint32_t)event->a, KVFI_NS_PER_MS, close_session);
	else
		sim_call_failed(node, (uint32_t)event->a, "kvf_session_close", status);
}

static void on_released(struct sim_node *node, uint32_t request)
{
	struct sim_world *world = node->world;
	struct sim_session *session = &node->sessions[request];
	struct kvf_session_stats stats;
	uint64_t later_ns = KVFI_NS_PER_US << sim_below(&world->user, 16);

	if (!session->outcome || session->released)
		wrong(node, request, session->released ? "a second RELEASED" : "RELEASED before OUTCOME");
	if (kvf_session_stats(node->agent, session->handle, &stats) != KVF_OK)
		wrong(node, request, "kvf_session_stats fails");
	else
		for (uint32_t i = 0; i < 9; i++)
			world->proofs[i] += stats.proofs[i];
	sim_trace(world, node->index, "RELEASED of request %llu.%u",
		(unsigned long long)world->requests[request].id, world->requests[request].attempt);
	session->released = true;
	sim_pool_give(node, request);
	(void)sim_user_at(node, request, later_ns, close_session);
}

static void check_state(struct sim_node *node, uint32_t request)
{
	struct sim_session *session = &node->sessions[request];
	enum kvf_session_state state = KVF_STATE_INIT;

	if (kvf_session_state(node->agent, session->handle, &state) != KVF_OK)
		wrong(node, request, "kvf_session_state fails");
	if (session->state < KVF_STATE_INIT ? state != session->state
					    : state >= KVF_STATE_INIT && state < session->state)
		wrong(node, request, "its state went back");
	session->state = state;
}

static void on_session_event(struct sim_node *node, uint32_t request, const struct kvf_event *event)
{
	struct sim_session *session = &node->sessions[request];

	check_state(node, request);
	switch (event->type) {
	case KVF_EVENT_READY:
		if (session->ready || session->outcome)
			wrong(node, request, "READY twice, or after OUTCOME");
		session->ready = true;
		break;
	case KVF_EVENT_SLICE:
		if (session->outcome || event->slice != session->slices)
			wrong(node, request, "SLICE out of order, twice, or after OUTCOME");
		session->slices++;
		break;
	case KVF_EVENT_OUTCOME:
		on_outcome(node, request, event);
		break;
	case KVF_EVENT_RELEASED:
		on_released(node, request);
		break;
	default:
		wrong(node, request, "an event of no type");
	}
}

void sim_user_event(struct sim_node *node, const struct kvf_event *event)
{
	uint32_t request;

	if (node->world->failed)
		return;
	if (event->type == KVF_EVENT_PEER) {
		sim_trace(node->world, node->index, "PEER: %s", kvf_status_name(event->status));
		return;
	}
	request = sim_request_find(node->world, event->request_id, event->attempt);
	if (request == SIM_NONE || node->sessions[request].phase != SIM_OPEN ||
		node->sessions[request].handle.bits != event->session.bits) {
		sim_fail(node->world, "events: %s: an event of request %llu.%u, of which no session is open",
			node->name, (unsigned long long)event->request_id, event->attempt);
		return;
	}
	on_session_event(node, request, event);
}

void sim_user_lost(struct sim_node *node)
{
	for (uint32_t i = 0; i < SIM_MAX_REQUESTS; i++)
		if (node->sessions[i].phase == SIM_OPEN && !node->sessions[i].released)
			node->world->died++;
	memset(node->sessions, 0, sizeof(node->sessions));
}
