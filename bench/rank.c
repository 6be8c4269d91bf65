/* rank.c - the agent of one side of a pair. */
#include "bench/pair.h"

#include <stdio.h>
#include <string.h>

#define WAIT_NS UINT64_C(30000000000)

#define PREFILL_INSTANCE 1u
#define DECODE_INSTANCE  2u

static void open_agent(struct rank *rank, const struct pair *pair, const char *endpoint)
{
	struct kvf_options options;

	kvf_options_init(&options);
	options.name = rank->role == KVF_PREFILL ? "send" : "receive";
	options.control = pair->own_process ? "zmq" : "inproc";
	options.listen = rank->role == KVF_PREFILL ? endpoint : NULL;
	options.transports = pair->spec.transport;
	options.runtime_dir = pair->directory;
	options.workers = pair->spec.workers;
	must(kvf_agent_open(&options, &rank->agent), "agent");
}

void rank_open(struct rank *rank, const struct pair *pair, enum kvf_role role)
{
	uint64_t bytes = shape_pool_bytes(&pair->spec.shape, role);
	char endpoint[128];
	void *memory;

	rank->role = role;
	(void)snprintf(endpoint, sizeof(endpoint), "%s%s/prefill", pair->own_process ? "ipc://" : "inproc://",
		pair->directory);
	open_agent(rank, pair, endpoint);
	must(kvf_alloc(rank->agent, (bytes + 4095) & ~UINT64_C(4095), &memory, &rank->region), "memory");
	rank->pool = memory;
	memset(rank->pool, 0, bytes);
	rank->instance = shape_instance(
		&pair->spec.shape, role, role == KVF_PREFILL ? PREFILL_INSTANCE : DECODE_INSTANCE);
	if (role == KVF_PREFILL)
		must(kvf_instance_set_endpoint(rank->instance, 0, endpoint), "endpoint");
	shape_layout_init(&pair->spec.shape, role, (uint64_t)(uintptr_t)memory, &rank->layout);
	must(kvf_declare(rank->agent, rank->instance, 0, &rank->layout.layout), "declare");
	if (role == KVF_DECODE)
		must(kvf_connect(rank->agent, endpoint), "connect");
}

void rank_close(struct rank *rank)
{
	kvf_agent_close(rank->agent, UINT64_C(1000000000), NULL);
	kvf_instance_free(rank->instance);
}

void rank_lists(const struct shape *shape, enum kvf_role role, int32_t *ids, struct kvf_blocks *list_out)
{
	for (uint32_t i = 0; i < shape->blocks; i++)
		ids[i] = shape_block(shape, role, i);
	*list_out = (struct kvf_blocks){.group = 0, .n = shape->blocks, .ids = ids};
}

struct kvf_event rank_event(struct rank *rank)
{
	struct kvf_event event;

	while (rank->at_event == rank->n_events) {
		rank->at_event = 0;
		rank->n_events = kvf_poll(rank->agent, rank->events, 64);
		if (rank->n_events < 0)
			must((enum kvf_status)rank->n_events, "poll");
		if (rank->n_events == 0)
			must(kvf_wait(rank->agent, WAIT_NS), "wait");
	}
	event = rank->events[rank->at_event++];
	if (event.status != KVF_OK) {
		char error[256] = "";

		if (event.type != KVF_EVENT_PEER)
			must(kvf_session_error(rank->agent, event.session, error, sizeof(error)), "error");
		give_up("request %llu: event %d: %s: %s", (unsigned long long)event.request_id,
			(int)event.type, kvf_status_name(event.status), error);
	}
	return event;
}
