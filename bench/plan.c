/* plan.c - planning a long request of a large model: 8,192 tokens of Llama-3.1-70B, TP4 to TP1, token-major on both sides: 5.2 million runs
 * of 512 B.
 *
 * Five agents in this process, over tcp. Only the time to plan and to start is measured, so the pools are aliases: their address ranges are
 * of full size, and the same 64 MiB lie behind them again and again. The transfers run to their end all the same.
 */
#include "bench/parts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "bench/measure.h"

#define LAYERS     80u
#define TOKENS     8192u
#define SOURCES    4u
#define ALIAS_LEN  (UINT64_C(64) << 20)
#define WAIT_NS    UINT64_C(60000000000)
#define MAX_BLOCKS 512u

struct side_rank {
	kvf_agent *agent;
	struct kvf_layout *layout;
	kvf_session session;
	uint64_t pool_bytes;
	void *pool;
	char endpoint[128];
};

struct world {
	uint32_t layers, tokens, blocks;
	struct kvf_instance *prefill, *decode;
	struct side_rank sources[SOURCES], sink;
	int alias_fd;
	int32_t ids[MAX_BLOCKS];
};

static struct kvf_instance *make_instance(const struct world *world, enum kvf_role role, uint32_t tp)
{
	struct kvf_parallel parallel = {.tp = tp, .pp = 1, .cp = 1, .dp = 1};
	uint32_t layers[LAYERS];
	struct kvf_group_spec group = {.kind = KVF_PAGED,
		.dtype = KVF_BF16,
		.n_layers = world->layers,
		.layers = layers,
		.n_parts = 2,
		.parts = {{8, 256}, {8, 256}}};
	struct kvf_model model = {.name = "llama-3.1-70b", .revision = "", .n_groups = 1, .groups = &group};
	struct kvf_instance *instance = NULL;

	for (uint32_t i = 0; i < world->layers; i++)
		layers[i] = i;
	must(kvf_instance_new(&model, &parallel, role, (uint64_t)role, &instance), "instance");
	return instance;
}

static void make_layout(
	const struct world *world, const struct kvf_instance *instance, uint32_t rank, struct side_rank *side)
{
	struct kvf_layout_options options = {
		.order = KVF_LAYER_NHD, .tokens_per_block = 16, .blocks = world->blocks};
	uint32_t layers[LAYERS];
	struct kvf_group_spec group = {.kind = KVF_PAGED,
		.dtype = KVF_BF16,
		.n_layers = world->layers,
		.layers = layers,
		.n_parts = 2,
		.parts = {{8, 256}, {8, 256}}};
	struct kvf_model model = {.name = "llama-3.1-70b", .revision = "", .n_groups = 1, .groups = &group};

	for (uint32_t i = 0; i < world->layers; i++)
		layers[i] = i;
	must(kvf_layout_new(&model, instance, rank, &options, &side->layout, &side->pool_bytes), "layout");
}

/* ---- planning alone ---- */

static uint64_t runs_of(const struct world *world, const kvf_plan *plan)
{
	struct kvf_plan_totals totals;

	must(kvf_plan_totals(plan, world->tokens, &totals), "totals");
	return totals.runs;
}

static void plan_alone(const struct world *world, const struct settings *settings, struct report *report)
{
	static struct samples planning, listing;
	static struct kvf_run runs[65536];
	uint64_t n_runs = 0, all_runs = 0;

	planning.n = listing.n = 0;
	for (uint32_t i = 0; i < (settings->quick ? 5 : 201); i++) {
		uint64_t begin_ns = now_ns(), middle_ns;
		kvf_plan *plan = NULL;

		must(kvf_plan_new(world->prefill, world->sources[i % SOURCES].layout, world->decode,
			     world->sink.layout, KVF_REPLICA_ELECT, &plan),
			"plan");
		middle_ns = now_ns();
		samples_add(&planning, (double)(middle_ns - begin_ns) * 1e-3);
		must(kvf_plan_block0_runs(plan, runs, 65536, &n_runs), "runs");
		samples_add(&listing, (double)(now_ns() - middle_ns) / (double)n_runs);
		all_runs = runs_of(world, plan) * SOURCES;
		kvf_plan_free(plan);
	}
	report_limit(report, "kvf_plan_new, 70B, TP4 to TP1, nhd", samples_median(&planning), "us",
		settings->quick ? 0 : 100);
	report_note(
		"  runs of the request", "%.2f million of 512 B, %u pairs", (double)all_runs * 1e-6, SOURCES);
	report_note("  listing a block's runs (kvf_plan_block0_runs)", "%.1f ns a run, %llu runs",
		samples_median(&listing), (unsigned long long)n_runs);
}

/* ---- agents ---- */

static void *alias(const struct world *world, uint64_t bytes)
{
	unsigned char *at = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		give_up("mmap: %s", strerror(errno));
	for (uint64_t done = 0; done < bytes; done += ALIAS_LEN) {
		uint64_t part = bytes - done < ALIAS_LEN ? bytes - done : ALIAS_LEN;

		if (mmap(at + done, part, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, world->alias_fd,
			    0) == MAP_FAILED)
			give_up("mmap: %s", strerror(errno));
	}
	return at;
}

static void open_side(
	struct world *world, struct kvf_instance *instance, uint32_t rank, struct side_rank *side)
{
	struct kvf_options options;
	kvf_region region;

	kvf_options_init(&options);
	options.name = instance->role == KVF_PREFILL ? "send" : "receive";
	options.control = "inproc";
	options.transports = "tcp";
	options.listen = instance->role == KVF_PREFILL ? side->endpoint : NULL;
	must(kvf_agent_open(&options, &side->agent), "agent");
	side->pool_bytes = (side->pool_bytes + 4095) & ~UINT64_C(4095);
	side->pool = alias(world, side->pool_bytes);
	must(kvf_register(side->agent, side->pool, side->pool_bytes, &region), "register");
	kvf_layout_move(side->layout, (uint64_t)(uintptr_t)side->pool);
	must(kvf_declare(side->agent, instance, rank, side->layout), "declare");
}

static void take(struct side_rank *side, enum kvf_event_type type, struct kvf_event *event_out)
{
	for (;;) {
		int n = kvf_poll(side->agent, event_out, 1);

		if (n == 0) {
			must(kvf_wait(side->agent, WAIT_NS), "wait");
			continue;
		}
		if (n < 0 || event_out->status != KVF_OK)
			give_up("event %d: %s", (int)event_out->type, kvf_status_name(event_out->status));
		if (event_out->type == type)
			return;
	}
}

static void world_open(struct world *world)
{
	struct kvf_event event;

	for (uint32_t i = 0; i < SOURCES; i++) {
		struct side_rank *side = &world->sources[i];

		(void)snprintf(
			side->endpoint, sizeof(side->endpoint), "inproc://plan-%d-%u", (int)getpid(), i);
		must(kvf_instance_set_endpoint(world->prefill, i, side->endpoint), "endpoint");
	}
	for (uint32_t i = 0; i < SOURCES; i++)
		open_side(world, world->prefill, i, &world->sources[i]);
	open_side(world, world->decode, 0, &world->sink);
	must(kvf_connect(world->sink.agent, world->sources[0].endpoint), "connect");
	for (uint32_t i = 0; i < SOURCES; i++)
		take(&world->sink, KVF_EVENT_PEER, &event);
}

static void side_close(struct side_rank *side)
{
	kvf_agent_close(side->agent, UINT64_C(1000000000), NULL);
	kvf_layout_free(side->layout);
	if (side->pool != NULL)
		(void)munmap(side->pool, side->pool_bytes);
}

/* ---- a request ---- */

struct times {
	double plan_us, start_us; /* of the slowest sender */
	double first_us;
};

static void open_request(struct world *world, uint64_t request)
{
	struct kvf_blocks list = {.n = world->blocks, .ids = world->ids};
	struct kvf_rx_params rx = {.instance_id = KVF_PREFILL,
		.request_id = request,
		.prompt_len = world->tokens,
		.aux_slot = KVF_NO_AUX,
		.n_lists = 1,
		.lists = &list};
	struct kvf_tx_params tx = {.request_id = request, .prompt_len = world->tokens};
	struct kvf_event event;

	must(kvf_rx_open(world->sink.agent, &rx, &world->sink.session), "rx_open");
	for (uint32_t i = 0; i < SOURCES; i++)
		must(kvf_tx_open(world->sources[i].agent, &tx, &world->sources[i].session), "tx_open");
	for (uint32_t i = 0; i < SOURCES; i++)
		take(&world->sources[i], KVF_EVENT_READY, &event);
}

static void finish_request(struct side_rank *side, struct kvf_session_stats *stats_out)
{
	struct kvf_event event;

	take(side, KVF_EVENT_RELEASED, &event);
	must(kvf_session_stats(side->agent, side->session, stats_out), "stats");
	must(kvf_session_close(side->agent, side->session), "close");
}

static double later(double than, uint64_t begin_ns, uint64_t end_ns)
{
	double us = (double)(end_ns - begin_ns) * 1e-3;

	return us > than ? us : than;
}

/* The senders go one after the other: in life each has its own processors, here they would wait for each other's. */
static struct times run_request(struct world *world, uint64_t request)
{
	struct kvf_blocks list = {.n = world->blocks, .ids = world->ids};
	struct kvf_slice slice = {.token_end = world->tokens, .last = 1, .n_lists = 1, .lists = &list};
	struct times times = {0};
	struct kvf_session_stats stats;
	uint64_t first_ns = 0;

	open_request(world, request);
	for (uint32_t i = 0; i < SOURCES; i++) {
		struct side_rank *side = &world->sources[i];
		uint64_t begin_ns = now_ns();

		first_ns = i == 0 ? begin_ns : first_ns;
		must(kvf_tx_send(side->agent, side->session, &slice, NULL), "tx_send");
		finish_request(side, &stats);
		times.start_us = later(times.start_us, begin_ns, stats.first_byte_ns);
		times.plan_us = later(times.plan_us, 0, stats.plan_ns);
	}
	finish_request(&world->sink, &stats);
	times.first_us = later(0, first_ns, stats.first_byte_ns);
	return times;
}

static void request_rows(struct world *world, const struct settings *settings, struct report *report)
{
	static struct samples plans, starts, firsts;
	plans.n = starts.n = firsts.n = 0;
	for (uint64_t i = 0; i < (settings->quick ? 1 : 7); i++) {
		struct times times = run_request(world, i + 1);

		samples_add(&plans, times.plan_us);
		samples_add(&starts, times.start_us);
		samples_add(&firsts, times.first_us);
	}
	report_note("  binding its block lists (plan_ns)", "%.1f us", samples_median(&plans));
	report_limit(report, "  kvf_tx_send to planned and started", samples_median(&starts), "us",
		settings->quick ? 0 : 1000);
	report_limit(report, "  kvf_tx_send to the first byte received", samples_median(&firsts), "us",
		settings->quick ? 0 : 1000);
}

void part_plan(const struct settings *settings, struct report *report)
{
	static struct world world;

	memset(&world, 0, sizeof(world));
	world.layers = LAYERS;
	world.tokens = settings->quick ? 256 : TOKENS;
	world.blocks = world.tokens / 16;
	for (uint32_t i = 0; i < world.blocks; i++)
		world.ids[i] = (int32_t)((i * 5 + 1) % world.blocks);
	world.alias_fd = memfd_create("kvferry-bench plan", MFD_CLOEXEC);
	if (world.alias_fd < 0 || ftruncate(world.alias_fd, (off_t)ALIAS_LEN) != 0)
		give_up("memfd: %s", strerror(errno));
	world.prefill = make_instance(&world, KVF_PREFILL, SOURCES);
	world.decode = make_instance(&world, KVF_DECODE, 1);
	for (uint32_t i = 0; i < SOURCES; i++)
		make_layout(&world, world.prefill, i, &world.sources[i]);
	make_layout(&world, world.decode, 0, &world.sink);
	plan_alone(&world, settings, report);
	world_open(&world);
	request_rows(&world, settings, report);
	for (uint32_t i = 0; i < SOURCES; i++)
		side_close(&world.sources[i]);
	side_close(&world.sink);
	kvf_instance_free(world.prefill);
	kvf_instance_free(world.decode);
	(void)close(world.alias_fd);
}
