/* user.c - the users of the agents: engines that open sessions, send slices, cancel, try again, and hold the library to its word.
 *
 * A user takes blocks before it opens; user_events.c gives them back when RELEASED was polled. What is refused for want of room or memory is tried
 * again, for a while.
 */
#include "sim/sim.h"

#define MAX_TRIES 60

struct sim_event *sim_user_at(struct sim_node *node, uint32_t request, uint64_t after_ns,
	void (*run)(struct sim_world *world, struct sim_event *event))
{
	struct sim_event *event = sim_at(node->world, node->world->now_ns + after_ns, run);

	event->node = node->index;
	event->life = node->life;
	event->on_cpu = true;
	event->a = request;
	return event;
}

bool sim_may_wait(enum kvf_status status)
{
	return status == KVF_EFULL || status == KVF_ENOMEM;
}

void sim_call_failed(const struct sim_node *node, uint32_t request, const char *call, enum kvf_status status)
{
	const struct sim_request *who = &node->world->requests[request];

	sim_fail(node->world, "calls: %s of request %llu.%u on %s: %s: %s", call, (unsigned long long)who->id,
		who->attempt, node->name, kvf_status_name(status), kvf_error());
}

/* ---- sending ---- */

static void send_next(struct sim_world *world, struct sim_event *event);

static enum kvf_status send_cut(struct sim_node *node, uint32_t request, const struct sim_cut *cut)
{
	struct kvf_blocks lists[SIM_GROUPS];
	struct kvf_slice slice = {.token_start = cut->token_start,
		.token_end = cut->token_end,
		.layer_start = cut->layer_start,
		.layer_end = cut->layer_end,
		.last = cut->last,
		.lists = lists};
	enum kvf_status status;

	for (uint32_t g = 0; g < node->layout->n_groups; g++) {
		const int32_t *ids;
		uint32_t n = sim_cut_list(node, request, cut, g, &ids);

		if (n > 0)
			lists[slice.n_lists++] = (struct kvf_blocks){g, n, ids};
	}
	sim_enter(node);
	status = kvf_tx_send(node->agent, node->sessions[request].handle, &slice, NULL);
	sim_leave(node);
	return status;
}

static enum kvf_status send_aux(struct sim_node *node, uint32_t request)
{
	unsigned char aux[SIM_AUX_BYTES];
	enum kvf_status status;

	sim_aux_content(&node->world->requests[request], aux);
	sim_enter(node);
	status = kvf_tx_send_aux(node->agent, node->sessions[request].handle, aux, sizeof(aux));
	sim_leave(node);
	return status;
}

static void send_next(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = &world->nodes[event->node];
	uint32_t request = (uint32_t)event->a;
	struct sim_session *session = &node->sessions[request];
	uint64_t pause_ns = KVFI_NS_PER_US << sim_below(&world->user, 16);
	struct sim_cut cut;
	enum kvf_status status;
	bool aux;

	if (session->phase != SIM_OPEN || session->outcome || session->aux_sent)
		return;
	aux = !sim_cut(node, request, session->next_cut, &cut);
	if (aux && !world->requests[request].aux)
		return;
	status = aux ? send_aux(node, request) : send_cut(node, request, &cut);
	if (status == KVF_OK) {
		session->aux_sent = aux;
		session->next_cut += !aux;
		(void)sim_user_at(node, request, pause_ns, send_next);
	} else if (sim_may_wait(status)) {
		(void)sim_user_at(node, request, 5 * KVFI_NS_PER_MS, send_next);
	} else {
		sim_call_failed(node, request, aux ? "kvf_tx_send_aux" : "kvf_tx_send", status);
	}
}

/* ---- opening ---- */

static enum kvf_status open_tx(struct sim_node *node, uint32_t request)
{
	const struct sim_request *who = &node->world->requests[request];
	struct kvf_tx_params params = {.request_id = who->id,
		.attempt = who->attempt,
		.dp_index = who->src_dp,
		.prompt_len = who->prompt_len,
		.expires_ns = 30 * KVFI_NS_PER_S};

	return kvf_tx_open(node->agent, &params, &node->sessions[request].handle);
}

/* ---- tickets ---- */

/* As a router would bring it: made by any rank of the prefill group that runs. 0: there is none. */
static size_t ticket_of(struct sim_world *world, uint32_t request, unsigned char *ticket)
{
	const struct sim_request *who = &world->requests[request];
	struct kvf_tx_params params = {.request_id = who->id,
		.attempt = who->attempt,
		.dp_index = who->unknown_dp ? KVF_DP_UNKNOWN : who->src_dp,
		.prompt_len = who->prompt_len,
		.expires_ns = 20 * KVFI_NS_PER_S}; /* a hold that nobody drops ends before the run does */
	size_t len = 0;

	for (uint32_t i = 0; i < world->n_prefill; i++) {
		const struct sim_node *node = &world->nodes[i];

		if (!node->alive || node->stopped || !sim_takes_part(world, node, request))
			continue;
		if (kvf_ticket_new(node->agent, &params, ticket, KVF_TICKET_MAX_BYTES, &len) == KVF_OK)
			return len;
		sim_call_failed(node, request, "kvf_ticket_new", KVF_EINVAL);
	}
	return 0;
}

static void hold(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = event->payload;
	uint32_t request = (uint32_t)event->a;
	unsigned char ticket[KVF_TICKET_MAX_BYTES];
	size_t len = ticket_of(world, request, ticket);
	enum kvf_status status;

	if (!node->alive || node->stopped || len == 0 || node->sessions[request].phase != SIM_UNUSED)
		return;
	sim_enter(node);
	status = kvf_hold(node->agent, ticket, len);
	sim_leave(node);
	sim_trace(world, node->index, "holds request %llu.%u: %s",
		(unsigned long long)world->requests[request].id, world->requests[request].attempt,
		kvf_status_name(status));
	if (status != KVF_OK && !sim_may_wait(status))
		sim_call_failed(node, request, "kvf_hold", status);
}

static enum kvf_status open_rx(struct sim_node *node, uint32_t request)
{
	const struct sim_request *who = &node->world->requests[request];
	struct sim_session *session = &node->sessions[request];
	struct kvf_blocks lists[SIM_GROUPS];
	struct kvf_rx_params params = {.instance_id = node->world->instances[0]->id,
		.request_id = who->id,
		.attempt = who->attempt,
		.dp_index = who->unknown_dp ? KVF_DP_UNKNOWN : who->src_dp,
		.prompt_len = who->prompt_len,
		.aux_slot = session->aux_slot,
		.replica = who->replica,
		.lists = lists};
	unsigned char ticket[KVF_TICKET_MAX_BYTES];
	size_t ticket_bytes = who->ticket ? ticket_of(node->world, request, ticket) : 0;

	if (ticket_bytes > 0) {
		params.ticket = ticket;
		params.ticket_bytes = ticket_bytes;
	}
	for (uint32_t g = 0; g < node->layout->n_groups; g++)
		if (session->lists[g].n > 0)
			lists[params.n_lists++] =
				(struct kvf_blocks){g, session->lists[g].n, session->lists[g].ids};
	return kvf_rx_open(node->agent, &params, &session->handle);
}

static void try_open(struct sim_world *world, struct sim_event *event);

/* Its request will not be asked for: nobody shall be kept waiting until the ticket expires. */
static void drop_hold(struct sim_node *node, uint32_t request)
{
	unsigned char ticket[KVF_TICKET_MAX_BYTES];
	size_t len = node->world->requests[request].held && node->decode
	                     ? ticket_of(node->world, request, ticket)
	                     : 0;
	enum kvf_status status;

	if (len == 0)
		return;
	sim_enter(node);
	status = kvf_hold_drop(node->agent, ticket, len);
	sim_leave(node);
	if (status != KVF_OK && status != KVF_ENOTFOUND)
		sim_call_failed(node, request, "kvf_hold_drop", status);
}

static void try_later(struct sim_node *node, uint32_t request)
{
	struct sim_session *session = &node->sessions[request];

	session->phase = ++session->tries < MAX_TRIES ? SIM_WANTED : SIM_GIVEN_UP;
	if (session->phase == SIM_WANTED)
		(void)sim_user_at(
			node, request, (5 + sim_below(&node->world->user, 40)) * KVFI_NS_PER_MS, try_open);
	else
		sim_trace(node->world, node->index, "gives up on opening request %llu.%u",
			(unsigned long long)node->world->requests[request].id,
			node->world->requests[request].attempt);
	if (session->phase == SIM_GIVEN_UP)
		drop_hold(node, request);
}

static void try_open(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = &world->nodes[event->node];
	uint32_t request = (uint32_t)event->a;
	struct sim_session *session = &node->sessions[request];
	enum kvf_status status;

	if (session->phase != SIM_WANTED)
		return;
	if (!sim_pool_take(node, request)) {
		try_later(node, request);
		return;
	}
	session->phase = SIM_OPEN;
	sim_enter(node);
	status = node->decode ? open_rx(node, request) : open_tx(node, request);
	sim_leave(node);
	if (status != KVF_OK) {
		sim_pool_give(node, request);
		if (sim_may_wait(status))
			try_later(node, request);
		else
			sim_call_failed(node, request, node->decode ? "kvf_rx_open" : "kvf_tx_open", status);
		return;
	}
	world->opened++;
	sim_trace(world, node->index, "opens %s of request %llu.%u, %llu tokens", node->decode ? "rx" : "tx",
		(unsigned long long)world->requests[request].id, world->requests[request].attempt,
		(unsigned long long)world->requests[request].prompt_len);
	if (!node->decode)
		(void)sim_user_at(node, request, KVFI_NS_PER_US << sim_below(&world->user, 14), send_next);
}

/* Not bound to a life: whoever runs on that rank then gets it. */
static void begin(struct sim_world *world, struct sim_event *event)
{
	struct sim_node *node = event->payload;
	struct sim_event *now;

	if (!node->alive)
		return;
	node->sessions[event->a].phase = SIM_WANTED;
	now = sim_user_at(node, (uint32_t)event->a, 0, try_open);
	(void)now;
	(void)world;
}

void sim_user_begin_request(struct sim_world *world, uint32_t request)
{
	const struct sim_request *who = &world->requests[request];

	for (uint32_t i = 0; i < world->n_nodes; i++) {
		struct sim_node *node = &world->nodes[i];
		uint64_t jitter_ns = sim_below(&world->user, 2 * KVFI_NS_PER_MS);
		struct sim_event *event;

		if (!sim_takes_part(world, node, request))
			continue;
		event = sim_at(world, (node->decode ? who->rx_ns : who->tx_ns) + jitter_ns, begin);
		event->payload = node;
		event->a = request;
		if (!who->held || !node->decode)
			continue;
		event = sim_at(world, who->tx_ns + jitter_ns, hold);
		event->payload = node;
		event->a = request;
	}
	sim_cancels_begin(world, request);
}

void sim_user_begin(struct sim_world *world)
{
	for (uint32_t i = 0; i < world->n_requests; i++)
		if (!(i < 64 && (world->options.skip_requests >> i & 1) != 0))
			sim_user_begin_request(world, i);
}

void sim_try_again(struct sim_world *world, uint32_t request)
{
	struct sim_request *who = &world->requests[request];
	bool wanted = sim_chance(&world->user, 300);
	uint64_t pause_ns = KVFI_NS_PER_MS * (1 + sim_below(&world->user, 200));

	if (!wanted || who->retried || world->calm || world->n_requests >= SIM_MAX_REQUESTS)
		return;
	who->retried = true;
	world->requests[world->n_requests] = *who;
	who = &world->requests[world->n_requests++];
	who->attempt++;
	who->retried = who->held = false;
	who->tx_ns = who->rx_ns = world->now_ns + pause_ns;
	sim_user_begin_request(world, world->n_requests - 1);
}
