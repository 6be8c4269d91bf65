/* draw.c - the cluster that a seed means: model, ranks, tables, deadlines, paths, requests, faults to come. Pure but for the instance maps. */
#include "sim/sim.h"

#include <string.h>
#include "base/assert.h"
#include "base/checked.h"
#include "geometry/geometry.h"

/* ---- models ---- */

static const uint32_t plain_layers[] = {0, 1, 2};
static const uint32_t paged_layers[] = {0, 2}, window_layers[] = {1}, state_layers[] = {3};
static const struct kvf_group_spec plain_groups[] = {{.kind = KVF_PAGED,
	.dtype = KVF_FP16,
	.n_layers = 3,
	.layers = plain_layers,
	.n_parts = 2,
	.parts = {{4, 16}, {4, 16}}}};
static const struct kvf_group_spec narrow_groups[] = {{.kind = KVF_PAGED,
	.dtype = KVF_FP16,
	.n_layers = 3,
	.layers = plain_layers,
	.n_parts = 2,
	.parts = {{2, 32}, {2, 32}}}};
static const struct kvf_group_spec latent_groups[] = {{.kind = KVF_REPLICATED,
	.dtype = KVF_BF16,
	.n_layers = 3,
	.layers = plain_layers,
	.n_parts = 1,
	.parts = {{1, 64}}}};
static const struct kvf_group_spec mixed_groups[] = {
	{.kind = KVF_PAGED,
		.dtype = KVF_FP16,
		.n_layers = 2,
		.layers = paged_layers,
		.n_parts = 2,
		.parts = {{4, 16}, {4, 16}}},
	{.kind = KVF_WINDOW,
		.dtype = KVF_FP16,
		.window_tokens = 8,
		.n_layers = 1,
		.layers = window_layers,
		.n_parts = 2,
		.parts = {{4, 16}, {4, 16}}},
	{.kind = KVF_STATE,
		.dtype = KVF_FP16,
		.n_layers = 1,
		.layers = state_layers,
		.n_parts = 2,
		.parts = {{4, 24}, {8, 8}}},
};
static const struct kvf_model models[] = {
	{"plain", "", 1, plain_groups},
	{"mixed", "", 3, mixed_groups},
	{"narrow", "", 1, narrow_groups}, /* fewer heads than ranks: replicas */
	{"latent", "", 1, latent_groups},
};

/* ---- the cluster ---- */

static const struct kvf_parallel shapes[] = {
	{1, 1, 1, 1, NULL, NULL},
	{2, 1, 1, 1, NULL, NULL},
	{1, 2, 1, 1, NULL, NULL},
	{2, 1, 1, 2, NULL, NULL},
	{3, 1, 1, 1, NULL, NULL},
	{2, 2, 1, 1, NULL, NULL},
	{4, 1, 1, 1, NULL, NULL},
	{4, 1, 1, 2, NULL, NULL},
	{2, 2, 1, 2, NULL, NULL},
	{3, 2, 1, 1, NULL, NULL},
	{4, 2, 1, 1, NULL, NULL},
	{4, 2, 1, 2, NULL, NULL},
	{8, 1, 1, 4, NULL, NULL},
};
#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static uint32_t ranks_of(const struct kvf_parallel *shape)
{
	return shape->tp * shape->pp * shape->cp;
}

static const struct kvf_parallel *draw_shape(struct sim_world *world, uint32_t room)
{
	const struct kvf_parallel *shape = &shapes[sim_below(&world->draw, N_SHAPES)];

	while (ranks_of(shape) > room)
		shape = &shapes[(size_t)(shape - shapes) - 1]; /* the first one has one rank */
	return shape;
}

static void draw_instances(struct sim_world *world)
{
	uint32_t half = world->options.max_ranks / 2;
	uint32_t room = half + (uint32_t)sim_below(&world->draw, world->options.max_ranks - half);
	const struct kvf_parallel *prefill = draw_shape(world, room);
	const struct kvf_parallel *decode = draw_shape(world, world->options.max_ranks - ranks_of(prefill));

	KVFI_ASSERT(kvf_instance_new(world->model, prefill, KVF_PREFILL, 1, &world->instances[0]) == KVF_OK);
	KVFI_ASSERT(kvf_instance_new(world->model, decode, KVF_DECODE, 2, &world->instances[1]) == KVF_OK);
	world->n_prefill = world->instances[0]->n_ranks;
	world->n_nodes = world->n_prefill + world->instances[1]->n_ranks;
	KVFI_ASSERT(world->n_nodes <= SIM_MAX_NODES);
	for (uint32_t i = 0; i < world->n_nodes; i++) {
		struct sim_node *node = &world->nodes[i];

		node->world = world;
		node->index = i;
		node->decode = i >= world->n_prefill;
		node->rank = node->decode ? i - world->n_prefill : i;
		(void)snprintf(node->name, sizeof(node->name), "%c%u", node->decode ? 'd' : 'p', node->rank);
	}
	for (uint32_t r = 0; r < world->n_prefill; r++) {
		char endpoint[32];

		(void)snprintf(endpoint, sizeof(endpoint), "sim://%u", r);
		KVFI_ASSERT(kvf_instance_set_endpoint(world->instances[0], r, endpoint) == KVF_OK);
	}
}

static void draw_layouts(struct sim_world *world)
{
	static const uint32_t tokens[] = {4, 4, 2, 8};

	for (int side = 0; side < 2; side++)
		world->layouts[side] = (struct kvf_layout_options){
			.order = (enum kvf_memory_order)(KVF_BLOCK_MAJOR + sim_below(&world->draw, 3)),
			.tokens_per_block = tokens[sim_below(&world->draw, 4)],
			.blocks = SIM_BLOCKS,
			.state_slots = SIM_STATE_SLOTS};
}

static uint64_t draw_ms(struct sim_world *world, uint64_t low, uint64_t high)
{
	return (low + sim_below(&world->draw, high - low + 1)) * KVFI_NS_PER_MS;
}

static void draw_options(struct sim_world *world)
{
	struct kvf_options *options = &world->agent;
	bool tiny = sim_chance(&world->draw, 250) && sim_has(world, KVF_SIM_FULL);

	kvf_options_init(options);
	options->control = "inproc";
	options->progress_thread = 0;
	options->workers = 1;
	options->max_peers = 2 * SIM_MAX_NODES;
	options->max_sessions = 24;
	options->max_links = 96;
	options->max_slices = 128;
	options->max_block_ids = 4096;
	options->max_regions = 2;
	world->tiny = tiny;
	if (tiny) {
		sim_count(world, KVF_SIM_FULL);
		options->max_sessions = 1 + (uint32_t)sim_below(&world->draw, 4);
		options->max_links = 4 + (uint32_t)sim_below(&world->draw, 12);
		options->max_slices = 2 + (uint32_t)sim_below(&world->draw, 8);
		options->max_block_ids = 24 + sim_below(&world->draw, 64);
		options->max_peers = world->n_nodes + (uint32_t)sim_below(&world->draw, 3);
	}
	options->verify = sim_chance(&world->draw, 400) ? KVF_VERIFY_SUM : KVF_VERIFY_NONE;
	options->connect_timeout_ns = draw_ms(world, 1000, 4000);
	options->queue_timeout_ns = draw_ms(world, 1500, 5000);
	options->transfer_timeout_ns = draw_ms(world, 1000, 4000);
	options->stall_timeout_ns = draw_ms(world, 200, 900);
	options->quiet_timeout_ns = draw_ms(world, 100, 800);
	options->ping_ns = draw_ms(world, 100, 400);
	options->silence_timeout_ns = options->ping_ns * (3 + sim_below(&world->draw, 4));
	options->progress_timeout_ns = draw_ms(world, 3000, 8000);
}

/* ---- the network ---- */

static void draw_paths(struct sim_world *world)
{
	enum sim_personality usual = (enum sim_personality)sim_below(&world->draw, 3);
	bool mixed = sim_chance(&world->draw, 500);

	for (uint32_t p = 0; p < SIM_MAX_NODES; p++) {
		for (uint32_t d = 0; d < SIM_MAX_NODES; d++) {
			struct sim_path *path = &world->paths[p][d];
			enum sim_personality other = (enum sim_personality)sim_below(&world->draw, 3);

			path->personality = mixed ? other : usual;
			path->hot = sim_chance(&world->draw, 300);
			path->latency_ns = 2000 + sim_skewed(&world->draw, 0, 60000);
		}
	}
	world->has_fence = sim_chance(&world->draw, 850);
	world->has_exit = sim_chance(&world->draw, 850);
}

/* A rate for this seed, or none: many runs shall have few kinds of faults, so that each is seen alone too. */
static uint32_t draw_rate(struct sim_world *world, enum kvf_sim_fault fault, uint32_t most)
{
	uint32_t rate = (uint32_t)sim_skewed(&world->draw, 1, most);
	bool there = sim_chance(&world->draw, 450);

	return there && sim_has(world, fault) ? rate : 0;
}

static void draw_rates(struct sim_world *world)
{
	struct sim_rates *rates = &world->rates;
	uint64_t kind = sim_below(&world->draw, 3);

	rates->drop = draw_rate(world, KVF_SIM_DROP, 300);
	rates->duplicate = draw_rate(world, KVF_SIM_DUPLICATE, 300);
	rates->corrupt = draw_rate(world, KVF_SIM_CORRUPT, 30);
	rates->delay = draw_rate(world, KVF_SIM_DELAY, 100);
	rates->reorder = draw_rate(world, KVF_SIM_REORDER, 1000);
	rates->reorder_ns = KVFI_NS_PER_US << sim_below(&world->draw, 14);
	rates->delay_ns = KVFI_NS_PER_MS << sim_below(&world->draw, 10);
	if (kind > 0 && sim_has(world, KVF_SIM_OVERTAKE)) {
		uint64_t extra_ns = KVFI_NS_PER_US << sim_below(&world->draw, 12);

		*(kind == 1 ? &rates->control_extra_ns : &rates->data_extra_ns) = extra_ns;
		sim_count(world, KVF_SIM_OVERTAKE);
	}
}

/* ---- requests ---- */

static void draw_request(struct sim_world *world, uint32_t index)
{
	struct sim_request *request = &world->requests[index];
	uint64_t start_ns = SIM_START_NS + sim_below(&world->draw, world->load_end_ns - SIM_START_NS);
	uint64_t gap_ns = KVFI_NS_PER_US << sim_below(&world->draw, 18);
	uint32_t longest = 4 * (world->layouts[0].tokens_per_block < world->layouts[1].tokens_per_block
					       ? world->layouts[0].tokens_per_block
					       : world->layouts[1].tokens_per_block);
	bool tx_first = sim_chance(&world->draw, 500);

	*request = (struct sim_request){.id = 1 + index,
		.attempt = 0,
		.prompt_len = 1 + sim_below(&world->draw, longest + longest / 2),
		.src_dp = (uint32_t)sim_below(&world->draw, world->instances[0]->dp),
		.dst_dp = (uint32_t)sim_below(&world->draw, world->instances[1]->dp),
		.unknown_dp = sim_chance(&world->draw, 250),
		.aux = sim_chance(&world->draw, 500),
		.layer_wise = sim_chance(&world->draw, 300),
		.skip = sim_chance(&world->draw, 300) ? (uint32_t)sim_below(&world->draw, 4) : 0,
		.chunks = 1 + (uint32_t)sim_skewed(&world->draw, 0, 3),
		.replica = (enum kvf_replica)sim_below(&world->draw, 2),
		.tx_ns = start_ns + (tx_first ? 0 : gap_ns),
		.rx_ns = start_ns + (tx_first ? gap_ns : 0)};
	if (request->chunks > request->prompt_len)
		request->chunks = 1;
	request->ticket = sim_chance(&world->draw, 300);
	request->held = sim_chance(&world->draw, 400) && request->ticket && tx_first;
	if (request->held) /* later than the queue deadline allows without it */
		request->rx_ns += sim_below(&world->draw, 2 * world->agent.queue_timeout_ns);
}

static void draw_requests(struct sim_world *world)
{
	uint32_t cancels = (uint32_t)sim_skewed(&world->draw, 0, 800); /* of 1000 requests */
	bool cancelling = sim_chance(&world->draw, 500);
	uint64_t asked_ns = world->options.load_ns, drawn_ns = draw_ms(world, 20, 200)
	                                                       << sim_below(&world->draw, 5);

	world->load_end_ns = SIM_START_NS + (asked_ns > 0 ? asked_ns : drawn_ns);
	world->n_requests = 1 + (uint32_t)sim_skewed(&world->draw, 0, 39);
	if (asked_ns > 0) /* two a second, and room for new attempts */
		world->n_requests =
			(uint32_t)kvfi_min_u64(10 + 2 * asked_ns / KVFI_NS_PER_S, SIM_MAX_REQUESTS - 64);
	for (uint32_t i = 0; i < world->n_requests; i++)
		draw_request(world, i);
	world->frees_at_safe_cancel = sim_chance(&world->draw, 500);
	for (uint32_t i = 0; i < world->n_requests; i++) {
		bool cancelled = sim_chance(&world->draw, cancels);
		uint32_t n = 1 + (uint32_t)sim_skewed(&world->draw, 0, 2);

		world->requests[i].cancels =
			cancelling && cancelled && sim_has(world, KVF_SIM_CANCEL) ? n : 0;
	}
}

/* ---- single faults ---- */

static const struct strike_kind {
	enum kvf_sim_fault fault;
	uint32_t chance; /* of 1000 seeds */
	uint32_t most;
} strike_kinds[] = {
	[SIM_STRIKE_PARTITION] = {KVF_SIM_PARTITION, 300, 6},
	[SIM_STRIKE_SLOW] = {KVF_SIM_SLOW, 250, 4},
	[SIM_STRIKE_STOP] = {KVF_SIM_STOP, 450, 8},
	[SIM_STRIKE_CRASH] = {KVF_SIM_CRASH, 350, 4},
	[SIM_STRIKE_RESTART] = {KVF_SIM_RESTART, 200, 3},
	[SIM_STRIKE_ALLOC] = {KVF_SIM_ALLOC, 200, 10},
	[SIM_STRIKE_CLOCK] = {KVF_SIM_CLOCK, 200, 3},
};
#define N_STRIKE_KINDS (sizeof(strike_kinds) / sizeof(strike_kinds[0]))

static void draw_strike(struct sim_world *world, enum sim_strike_kind kind)
{
	uint32_t node = (uint32_t)sim_below(&world->draw, world->n_nodes);
	bool decode = node >= world->n_prefill;
	uint32_t other = decode ? (uint32_t)sim_below(&world->draw, world->n_prefill)
	                        : world->n_prefill + (uint32_t)sim_below(
							     &world->draw, world->n_nodes - world->n_prefill);
	struct sim_strike strike = {.kind = kind,
		.node = node,
		.other = other,
		.at_ns = SIM_START_NS + sim_below(&world->draw, world->load_end_ns - SIM_START_NS),
		.for_ns = KVFI_NS_PER_US << (4 + sim_below(&world->draw, 18)),
		.for_good = sim_chance(&world->draw, 250),
		.inside = sim_chance(&world->draw, 500),
		.amount = sim_skewed(&world->draw, 1, 200)};

	if (sim_has(world, strike_kinds[kind].fault) && world->n_strikes < SIM_MAX_STRIKES)
		world->strikes[world->n_strikes++] = strike;
}

static void draw_strikes(struct sim_world *world)
{
	uint64_t times = 1 + world->options.load_ns / (10 * KVFI_NS_PER_S);

	for (uint32_t kind = 0; kind < N_STRIKE_KINDS; kind++) {
		uint32_t n = 1 + (uint32_t)sim_below(&world->draw, times * strike_kinds[kind].most);

		if (!sim_chance(&world->draw, strike_kinds[kind].chance))
			n = 0;
		for (uint32_t i = 0; i < n; i++)
			draw_strike(world, (enum sim_strike_kind)kind);
	}
}

/* ---- all ---- */

bool sim_has(const struct sim_world *world, enum kvf_sim_fault fault)
{
	return (world->options.faults & (uint32_t)fault) != 0;
}

void sim_count(struct sim_world *world, enum kvf_sim_fault fault)
{
	world->counts.faults[__builtin_ctz((unsigned)fault)]++;
}

void sim_draw(struct sim_world *world)
{
	world->model = &models[sim_below(&world->draw, sizeof(models) / sizeof(models[0]))];
	draw_instances(world);
	draw_layouts(world);
	draw_options(world);
	draw_paths(world);
	draw_rates(world);
	draw_requests(world);
	draw_strikes(world);
	/* Longer than any chain of deadlines, and than a hold that nobody drops: its ticket, and the tolerance of clocks. */
	world->settle_ns = 100 * KVFI_NS_PER_S;
}

void sim_describe(const struct sim_world *world, char *text, size_t len_bytes)
{
	const struct kvf_instance *p = world->instances[0], *d = world->instances[1];

	(void)snprintf(text, len_bytes,
		"model %s, prefill tp=%u pp=%u dp=%u blocks of %u, decode tp=%u pp=%u dp=%u blocks of %u, "
		"%u requests, %u single faults, max_sessions %u, max_links %u",
		world->model->name, p->tp, p->pp, p->dp, world->layouts[0].tokens_per_block, d->tp, d->pp,
		d->dp, world->layouts[1].tokens_per_block, world->n_requests, world->n_strikes,
		world->agent.max_sessions, world->agent.max_links);
}
