/* run.c - a run: draw, start, load and faults, calm, and then everything has to resolve by itself. */
#include "sim/sim.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/agent.h"
#include "base/alloc.h"
#include "base/hash.h"
#include "base/status.h"

#define LOOK_NS (UINT64_C(100) * KVFI_NS_PER_MS)

static const char *const fault_names[KVF_SIM_FAULTS] = {"delay", "reorder", "drop", "duplicate", "corrupt",
	"partition", "slow", "stop", "crash", "restart", "full", "alloc", "clock", "overtake", "cancel"};

const char *kvf_sim_fault_name(uint32_t bit)
{
	return bit < KVF_SIM_FAULTS ? fault_names[bit] : NULL;
}

void kvf_sim_options_init(struct kvf_sim_options *options)
{
	*options = (struct kvf_sim_options){.struct_bytes = sizeof(*options),
		.faults = KVF_SIM_ALL_FAULTS,
		.max_ranks = 8,
		.trace_fd = -1};
}

/* ---- the end ---- */

static bool session_is_over(const struct sim_session *session)
{
	return session->phase == SIM_UNUSED || session->phase == SIM_CLOSED || session->phase == SIM_GIVEN_UP;
}

/* A session that waits for a proof which cannot come: visible, and no failure. */
static bool may_wait_for_ever(struct sim_node *node, uint32_t request)
{
	return node->decode && node->sessions[request].outcome && sim_never_provable(node, request);
}

static bool usage_is_empty(const struct kvfi_core_usage *usage)
{
	return usage->sessions == 0 && usage->links == 0 && usage->deliveries == 0 && usage->arrivals == 0 &&
	       usage->block_ids == 0 && usage->hashed == 0 && usage->ready == 0;
}

static bool node_is_done(struct sim_node *node, bool tell)
{
	struct kvfi_core_usage usage;
	bool waiting = false;

	if (!node->alive)
		return true;
	for (uint32_t i = 0; i < node->world->n_requests; i++) {
		const struct sim_session *session = &node->sessions[i];
		const struct sim_request *who = &node->world->requests[i];

		if (session_is_over(session))
			continue;
		if (may_wait_for_ever(node, i)) {
			waiting = true;
			continue;
		}
		if (tell)
			sim_fail(node->world,
				"liveness: %s of request %llu.%u on %s is not %s, %.1f s after the last "
				"fault",
				node->decode ? "rx" : "tx", (unsigned long long)who->id, who->attempt,
				node->name, session->outcome ? "released" : "over",
				(double)(node->world->now_ns - node->world->load_end_ns) / 1e9);
		return false;
	}
	kvfi_core_usage(node->agent->core, &usage);
	if (waiting || usage_is_empty(&usage))
		return true;
	if (tell)
		sim_fail(node->world,
			"tables: every session on %s is closed, and the core still holds %u links, %u "
			"deliveries, %u arrivals, %llu block ids, %u hashed, %u ready, %u timers",
			node->name, usage.links, usage.deliveries, usage.arrivals,
			(unsigned long long)usage.block_ids, usage.hashed, usage.ready, usage.timers);
	return false;
}

static bool all_done(struct sim_world *world, bool tell)
{
	for (uint32_t i = 0; i < world->n_nodes; i++)
		if (!node_is_done(&world->nodes[i], tell))
			return false;
	return true;
}

/* ---- the run ---- */

static void look(struct sim_world *world, struct sim_event *event)
{
	(void)event;
	if (world->now_ns >= world->load_end_ns && !world->calm)
		sim_calm(world);
	(void)sim_at(world, world->now_ns + LOOK_NS, look);
}

/* In flight -> over -> probes -> over. True: the run is. */
static bool phase_is_over(struct sim_world *world)
{
	bool done = all_done(world, false);

	if (world->probing == SIM_PROBES_WAIT)
		return false;
	if (world->probing == SIM_PROBES_SENT && world->now_ns < world->probe_begin_ns)
		return false;
	if (done && world->probing == SIM_PROBES_SENT) {
		sim_probes_check(world);
		return true;
	}
	if (done && world->tiny)
		return true; /* a single request may be too much for its tables */
	if (done) {
		sim_probes_begin(world);
		return false;
	}
	if (world->now_ns <= (world->probing == SIM_PROBES_SENT ? world->probe_end_ns
								: world->load_end_ns + world->settle_ns))
		return false;
	(void)all_done(world, true);
	return true;
}

static void run_until_done(struct sim_world *world)
{
	struct sim_event event;
	uint64_t looked_ns = 0;

	while (!world->failed && sim_take(world, &event)) {
		world->now_ns = event.at_ns;
		world->counts.events++;
		event.run(world, &event);
		if (!world->calm || world->now_ns < looked_ns + LOOK_NS)
			continue;
		looked_ns = world->now_ns;
		if (phase_is_over(world))
			return;
	}
}

static void start(struct sim_world *world)
{
	for (uint32_t i = 0; i < world->n_nodes; i++)
		sim_node_start(&world->nodes[i]);
	sim_user_begin(world);
	sim_strikes_begin(world);
	(void)sim_at(world, world->now_ns + LOOK_NS, look);
}

static void fill_report(struct sim_world *world, struct kvf_sim_report *report)
{
	memset(report, 0, sizeof(*report));
	report->failed = world->failed;
	memcpy(report->failure, world->failure, sizeof(report->failure));
	sim_describe(world, report->cluster, sizeof(report->cluster));
	report->hash = world->hash;
	report->virtual_ns = world->now_ns - SIM_START_NS;
	report->events = world->counts.events;
	report->turns = world->counts.turns;
	report->messages = world->counts.messages;
	report->stores = world->counts.stores;
	report->ranks = world->n_nodes;
	report->requests = world->n_requests;
	report->sessions = world->opened;
	report->strikes = world->n_strikes;
	report->completed = world->completed;
	report->failed_sessions = world->failed_sessions;
	report->cancelled = world->cancelled;
	report->timed_out = world->timed_out;
	report->died = world->died;
	for (uint32_t i = 0; i < world->n_nodes; i++)
		for (uint32_t r = 0; r < SIM_MAX_REQUESTS; r++)
			report->quarantined +=
				world->nodes[i].sessions[r].outcome && !world->nodes[i].sessions[r].released;
	memcpy(report->proofs, world->proofs, sizeof(report->proofs));
	memcpy(report->faults, world->counts.faults, sizeof(report->faults));
}

static void finish(struct sim_world *world)
{
	for (uint32_t i = 0; i < world->n_nodes; i++)
		sim_node_fini(&world->nodes[i]);
	sim_queue_fini(&world->queue);
	sim_links_fini(world);
	kvf_instance_free(world->instances[0]);
	kvf_instance_free(world->instances[1]);
	sim_clocks_give();
	kvfi_alloc_fail_at(0);
	if (world->trace != NULL)
		(void)fclose(world->trace);
	free(world);
}

static enum kvf_status check_options(const struct kvf_sim_options *options)
{
	if (options->struct_bytes != sizeof(*options))
		return kvfi_fail(KVF_EINVAL, "options: struct_bytes: %u, this library has %zu",
			options->struct_bytes, sizeof(*options));
	if (options->max_ranks < 2 || options->max_ranks > SIM_MAX_NODES)
		return kvfi_fail(KVF_EINVAL, "options: max_ranks: %u is not in 2..%u", options->max_ranks,
			SIM_MAX_NODES);
	if ((options->faults & ~KVF_SIM_ALL_FAULTS) != 0)
		return kvfi_fail(
			KVF_EINVAL, "options: faults: %#x has bits that are no fault", options->faults);
	return KVF_OK;
}

static struct sim_world *world_new(const struct kvf_sim_options *options)
{
	struct sim_world *world = calloc(1, sizeof(*world));
	int fd;

	if (world == NULL)
		return NULL;
	world->options = *options;
	world->now_ns = SIM_START_NS;
	world->draw.state = kvfi_hash_u64(options->seed, 1);
	world->net.state = kvfi_hash_u64(options->seed, 2);
	world->store.state = kvfi_hash_u64(options->seed, 3);
	world->user.state = kvfi_hash_u64(options->seed, 4);
	world->names.state = kvfi_hash_u64(options->seed, 5);
	fd = options->trace_fd >= 0 ? dup(options->trace_fd) : -1;
	if (fd >= 0)
		world->trace = fdopen(fd, "w");
	return world;
}

enum kvf_status kvf_sim_run(const struct kvf_sim_options *options, struct kvf_sim_report *report_out)
{
	struct sim_world *world;
	enum kvf_status status;
	char cluster[256];

	if (options == NULL || report_out == NULL)
		return kvfi_fail(
			KVF_EINVAL, "%s must not be NULL", options == NULL ? "options" : "report_out");
	status = check_options(options);
	if (status != KVF_OK)
		return status;
	world = world_new(options);
	if (world == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for a world");
	sim_clocks_take(world);
	sim_draw(world);
	sim_describe(world, cluster, sizeof(cluster));
	sim_trace(world, SIM_NONE, "seed %llu: %s", (unsigned long long)options->seed, cluster);
	start(world);
	run_until_done(world);
	for (uint32_t i = 0; i < world->n_nodes && !world->failed; i++)
		sim_pool_check_canary(&world->nodes[i]);
	fill_report(world, report_out);
	finish(world);
	return KVF_OK;
}
