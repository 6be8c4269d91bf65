/* cluster.c - see cluster.h. */
#include "cluster.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define UNTOUCHED 0xa5

static void must(enum kvf_status status)
{
	if (status != KVF_OK)
		fail_msg("%s: %s", kvf_status_name(status), kvf_error());
}

static uint64_t now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- content ---- */

struct cell {
	uint64_t request;
	uint32_t group, layer, part, head;
	uint64_t token;
};

static unsigned char content(const struct cell *cell, uint64_t byte)
{
	uint64_t x = cell->request * 0x9e3779b97f4a7c15u + cell->group;

	x = (x ^ cell->layer) * 0xbf58476d1ce4e5b9u + cell->part;
	x = (x ^ (x >> 29) ^ cell->head) * 0x94d049bb133111ebu + cell->token;
	x = (x ^ (x >> 31) ^ byte) * 0x9e3779b97f4a7c15u;
	return (unsigned char)(x >> 56);
}

typedef void (*cell_function)(
	const struct cell *cell, unsigned char *row, uint64_t row_bytes, void *argument);

/* Every cell of one block that a rank holds; token0: global token of the block's first. */
static void each_cell(const struct cluster_rank *rank, uint32_t g, int32_t block, struct cell *cell,
	uint64_t token0, cell_function function, void *argument)
{
	const struct kvf_group *group = &rank->layout->groups[g];

	cell->group = g;
	for (uint32_t l = 0; l < group->n_layers; l++) {
		for (uint32_t p = 0; p < group->n_parts; p++) {
			const struct kvf_part *part = &group->parts[p];

			for (uint32_t h = 0; h < part->head_count; h++) {
				for (uint32_t t = 0; t < group->tokens_per_block; t++) {
					uint64_t address = group->bases[l * group->n_parts + p] +
					                   (uint64_t)block * part->block_stride +
					                   h * part->head_stride + t * part->token_stride;

					cell->layer = group->layers[l];
					cell->part = p;
					cell->head = part->head_start + h;
					cell->token = token0 + t;
					function(cell, (unsigned char *)(uintptr_t)address, part->row_bytes,
						argument);
				}
			}
		}
	}
}

static void fill_cell(const struct cell *cell, unsigned char *row, uint64_t row_bytes, void *argument)
{
	(void)argument;
	for (uint64_t i = 0; i < row_bytes; i++)
		row[i] = content(cell, i);
}

struct check {
	uint64_t good_tokens; /* cells at or past it need not have come */
	uint64_t wrong;
	struct cell first;
	unsigned char *seen; /* one flag per byte of the memory */
	unsigned char *memory;
};

static void check_cell(const struct cell *cell, unsigned char *row, uint64_t row_bytes, void *argument)
{
	struct check *check = argument;

	memset(check->seen + (row - check->memory), 1, row_bytes);
	if (cell->token >= check->good_tokens)
		return;
	for (uint64_t i = 0; i < row_bytes; i++) {
		if (row[i] == content(cell, i))
			continue;
		if (check->wrong++ == 0)
			check->first = *cell;
	}
}

/* ---- open, connect, close ---- */

static const char *side_name(int side)
{
	return side == 0 ? "prefill" : "decode";
}

static void make_instance(struct cluster *cluster, int side)
{
	const struct cluster_side *spec = side == 0 ? &cluster->spec.prefill : &cluster->spec.decode;
	struct kvf_instance *instance;

	must(kvf_instance_new(&cluster->spec.model, &spec->parallel, side == 0 ? KVF_PREFILL : KVF_DECODE,
		(uint64_t)(uintptr_t)cluster + (uint64_t)side + 1, &instance));
	cluster->instances[side] = instance;
	cluster->n[side] = instance->n_ranks;
	assert_true(instance->n_ranks <= CLUSTER_MAX_RANKS);
	cluster->ranks[side] = calloc(instance->n_ranks, sizeof(struct cluster_rank));
	assert_non_null(cluster->ranks[side]);
	for (uint32_t r = 0; r < instance->n_ranks; r++) {
		struct cluster_rank *rank = &cluster->ranks[side][r];
		bool zmq = cluster->spec.control != NULL && strcmp(cluster->spec.control, "zmq") == 0;

		if (zmq)
			(void)snprintf(rank->endpoint, sizeof(rank->endpoint), "ipc://%s/%s%u",
				cluster->directory, side_name(side), r);
		else
			(void)snprintf(rank->endpoint, sizeof(rank->endpoint), "inproc://%p-%s%u",
				(void *)cluster, side_name(side), r);
		if (side == 0)
			must(kvf_instance_set_endpoint(instance, r, rank->endpoint));
	}
}

static void open_memory(struct cluster *cluster, struct cluster_rank *rank)
{
	void *memory;

	rank->plain = cluster->spec.plain_memory;
	if (rank->plain) {
		memory = aligned_alloc(4096, rank->memory_bytes);
		assert_non_null(memory);
		must(kvf_register(rank->agent, memory, rank->memory_bytes, &rank->region));
	} else {
		must(kvf_alloc(rank->agent, rank->memory_bytes, &memory, &rank->region));
	}
	rank->memory = memory;
	memset(memory, UNTOUCHED, rank->memory_bytes);
	kvf_layout_move(rank->layout, (uint64_t)(uintptr_t)memory);
}

static void open_rank(struct cluster *cluster, int side, uint32_t r)
{
	const struct cluster_side *spec = side == 0 ? &cluster->spec.prefill : &cluster->spec.decode;
	struct cluster_rank *rank = &cluster->ranks[side][r];
	struct kvf_options options;
	char name[16];

	kvf_options_init(&options);
	(void)snprintf(name, sizeof(name), "%c%u", side == 0 ? 'p' : 'd', r);
	options.name = name;
	options.control = cluster->spec.control != NULL ? cluster->spec.control : "inproc";
	options.transports = cluster->spec.transports != NULL ? cluster->spec.transports : "loop";
	options.runtime_dir = cluster->directory;
	options.progress_thread = cluster->spec.own_thread;
	options.listen = side == 0 ? rank->endpoint : NULL;
	options.verify = cluster->spec.verify;
	options.max_block_ids = cluster->spec.max_block_ids != 0 ? cluster->spec.max_block_ids : 65536;
	if (cluster->spec.max_peers != 0)
		options.max_peers = cluster->spec.max_peers;
	if (cluster->spec.connect_timeout_ns != 0)
		options.connect_timeout_ns = cluster->spec.connect_timeout_ns;
	if (cluster->spec.transfer_timeout_ns != 0)
		options.transfer_timeout_ns = cluster->spec.transfer_timeout_ns;
	if (cluster->spec.max_sessions != 0)
		options.max_sessions = cluster->spec.max_sessions;
	if (cluster->spec.max_links != 0)
		options.max_links = cluster->spec.max_links;
	if (cluster->spec.max_slices != 0)
		options.max_slices = cluster->spec.max_slices;
	must(kvf_agent_open(&options, &rank->agent));
	must(kvf_layout_new(&cluster->spec.model, cluster->instances[side], r, &spec->layout, &rank->layout,
		&rank->memory_bytes));
	rank->memory_bytes = (rank->memory_bytes + 4095) & ~UINT64_C(4095);
	open_memory(cluster, rank);
	if (side == 1 && cluster->spec.n_aux > 0) {
		rank->aux = calloc(cluster->spec.n_aux, cluster->spec.aux_bytes);
		assert_non_null(rank->aux);
		must(kvf_layout_set_aux(rank->layout, cluster->spec.n_aux, cluster->spec.aux_bytes,
			(uint64_t)(uintptr_t)rank->aux));
	}
	must(kvf_declare(rank->agent, cluster->instances[side], r, rank->layout));
}

void cluster_open(struct cluster *cluster, const struct cluster_spec *spec)
{
	memset(cluster, 0, sizeof(*cluster));
	cluster->spec = *spec;
	(void)strcpy(cluster->directory, "/tmp/kvft-XXXXXX");
	assert_non_null(mkdtemp(cluster->directory));
	for (int side = 0; side < 2; side++)
		make_instance(cluster, side);
	for (int side = 0; side < 2; side++)
		for (uint32_t r = 0; r < cluster->n[side]; r++)
			open_rank(cluster, side, r);
}

static bool all_connected(struct cluster *cluster, void *argument)
{
	static struct kvf_pair pairs[CLUSTER_MAX_RANKS * CLUSTER_MAX_RANKS];

	(void)argument;
	for (uint32_t d = 0; d < cluster->n[1]; d++) {
		bool paired[CLUSTER_MAX_RANKS] = {false};
		uint32_t want = 0;

		paired[0] = true; /* the one that was named */
		for (uint32_t dp = 0; dp < cluster->instances[0]->dp; dp++) {
			uint32_t n;

			must(kvf_pairs(cluster->instances[0], cluster->instances[1], dp, KVF_DP_UNKNOWN,
				pairs, CLUSTER_MAX_RANKS * CLUSTER_MAX_RANKS, &n));
			for (uint32_t i = 0; i < n; i++)
				if (pairs[i].dst == d)
					paired[pairs[i].src] = true;
		}
		for (uint32_t s = 0; s < cluster->n[0]; s++)
			want += paired[s];
		if (cluster->ranks[1][d].peers_up < want)
			return false;
	}
	return true;
}

void cluster_connect(struct cluster *cluster)
{
	for (uint32_t d = 0; d < cluster->n[1]; d++)
		must(kvf_connect(cluster->ranks[1][d].agent, cluster->ranks[0][0].endpoint));
	cluster_until(cluster, all_connected, NULL);
}

void cluster_close(struct cluster *cluster)
{
	for (int side = 1; side >= 0; side--) {
		for (uint32_t r = 0; r < cluster->n[side]; r++) {
			struct cluster_rank *rank = &cluster->ranks[side][r];
			struct kvf_close_report report;

			kvf_agent_close(rank->agent, 1000000000, &report);
			kvf_layout_free(rank->layout);
			if (rank->plain)
				free(rank->memory);
			free(rank->aux);
		}
		free(cluster->ranks[side]);
		kvf_instance_free(cluster->instances[side]);
	}
	(void)rmdir(cluster->directory);
}

/* ---- time ---- */

void cluster_watch(struct cluster *cluster, int side, uint32_t r, kvf_session session)
{
	struct cluster_rank *rank = &cluster->ranks[side][r];

	rank->session = session;
	rank->ready = rank->outcome = rank->released = false;
}

void cluster_poll_rank(struct cluster_rank *rank)
{
	struct kvf_event events[8];
	int n = kvf_poll(rank->agent, events, 8);

	assert_true(n >= 0);
	for (int i = 0; i < n; i++) {
		bool watched = rank->session.bits == events[i].session.bits;

		switch (events[i].type) {
		case KVF_EVENT_PEER:
			rank->peers_up += events[i].status == KVF_OK;
			if (events[i].status != KVF_OK)
				rank->peer_status = events[i].status;
			rank->peer = events[i].peer;
			break;
		case KVF_EVENT_READY:
			rank->ready = rank->ready || watched;
			break;
		case KVF_EVENT_SLICE:
			rank->slices++;
			break;
		case KVF_EVENT_OUTCOME:
			assert_false(rank->released && watched);
			rank->outcome = rank->outcome || watched;
			rank->outcomes++;
			if (watched)
				rank->status = events[i].status;
			break;
		case KVF_EVENT_RELEASED:
			rank->released = rank->released || watched;
			rank->releases++;
			assert_true(rank->outcomes >= rank->releases);
			break;
		}
	}
}

void cluster_poll(struct cluster *cluster)
{
	for (int side = 0; side < 2; side++)
		for (uint32_t r = 0; r < cluster->n[side]; r++)
			if (cluster->ranks[side][r].agent != NULL)
				cluster_poll_rank(&cluster->ranks[side][r]);
}

static void print_ranks(struct cluster *cluster)
{
	for (int side = 0; side < 2; side++) {
		for (uint32_t r = 0; r < cluster->n[side]; r++) {
			const struct cluster_rank *rank = &cluster->ranks[side][r];
			struct kvf_peer_info info = {.reason = ""};
			enum kvf_status told = kvf_peer_info(rank->agent, rank->peer, &info);

			print_message("%s %u: ready %d outcome %d (%s) released %d, %u peers up, last peer: "
				      "%s %s %s\n",
				side_name(side), r, rank->ready, rank->outcome, kvf_status_name(rank->status),
				rank->released, rank->peers_up, kvf_status_name(told),
				kvf_status_name(info.status), info.reason);
		}
	}
}

void cluster_until(
	struct cluster *cluster, bool (*done)(struct cluster *cluster, void *argument), void *argument)
{
	uint64_t end_ns = now_ns() + UINT64_C(20000000000);
	struct timespec pause = {0, 50000};

	for (;;) {
		cluster_poll(cluster);
		if (done(cluster, argument))
			return;
		if (now_ns() > end_ns) {
			print_ranks(cluster);
			fail_msg("nothing came in 20 s");
		}
		if (cluster->spec.own_thread ||
			(cluster->spec.transports != NULL && strcmp(cluster->spec.transports, "loop") != 0))
			(void)nanosleep(&pause,
				NULL); /* lets other threads of this machine work; nothing depends on it */
	}
}

/* ---- requests ---- */

bool cluster_in_prefill(const struct cluster *cluster, uint32_t rank, const struct cluster_request *request)
{
	const struct kvf_instance *instance = cluster->instances[0];

	return instance->ranks[rank].tp / (instance->tp / instance->dp) == request->src_dp;
}

bool cluster_in_decode(const struct cluster *cluster, uint32_t rank, const struct cluster_request *request)
{
	const struct kvf_instance *instance = cluster->instances[1];

	return instance->ranks[rank].tp / (instance->tp / instance->dp) == request->dst_dp;
}

static uint64_t div_up(uint64_t a, uint64_t b)
{
	return (a + b - 1) / b;
}

/* First block (of all ranks) that a group's list begins with, and one past the last. */
static void block_range(const struct cluster *cluster, int side, uint32_t r, uint32_t g,
	const struct cluster_request *request, uint64_t *start_out, uint64_t *end_out)
{
	const struct kvf_group *group = &cluster->ranks[side][r].layout->groups[g];
	uint64_t tpb = group->tokens_per_block;

	*start_out = 0;
	*end_out = div_up(request->prompt_len, tpb);
	if (group->n_layers == 0)
		*end_out = 0; /* this stage holds none of the group */
	if (group->n_layers == 0 || group->kind == KVF_STATE) {
		*end_out = group->n_layers > 0;
		return;
	}
	if (group->kind == KVF_WINDOW && request->prompt_len + 1 > group->window_tokens)
		*start_out = (request->prompt_len + 1 - group->window_tokens) / tpb;
	if (side == 1 && group->kind != KVF_WINDOW && request->cached_blocks > *start_out)
		*start_out = request->cached_blocks < *end_out ? request->cached_blocks : *end_out;
}

/* A permutation of the pool that differs by request, side and group. */
static int32_t id_of(const struct cluster_rank *rank, int side, uint32_t g,
	const struct cluster_request *request, uint64_t block)
{
	uint64_t blocks = rank->layout->groups[g].blocks;
	uint64_t step = 1 + 2 * ((request->id + g + (uint64_t)side) % 3);

	while (blocks % step == 0 && step > 1)
		step -= 2;
	return (int32_t)((block * step + request->id * 5 + (uint64_t)side * 3) % blocks);
}

uint32_t cluster_list(const struct cluster *cluster, int side, uint32_t r, uint32_t g,
	const struct cluster_request *request, int32_t *ids)
{
	const struct cluster_rank *rank = &cluster->ranks[side][r];
	const struct kvf_instance *instance = cluster->instances[side];
	bool thin = instance->cp > 1 && rank->layout->groups[g].kind != KVF_STATE;
	uint64_t start, end;
	uint32_t n = 0;

	block_range(cluster, side, r, g, request, &start, &end);
	for (uint64_t b = start; b < end; b++)
		if (!thin || b % instance->cp == instance->ranks[r].cp)
			ids[n++] = id_of(rank, side, g, request, b);
	return n;
}

void cluster_fill(struct cluster *cluster, const struct cluster_request *request)
{
	for (uint32_t r = 0; r < cluster->n[0]; r++) {
		const struct cluster_rank *rank = &cluster->ranks[0][r];

		if (!cluster_in_prefill(cluster, r, request))
			continue;
		for (uint32_t g = 0; g < rank->layout->n_groups; g++) {
			struct cell cell = {.request = request->id};
			uint64_t start, end;

			block_range(cluster, 0, r, g, request, &start, &end);
			for (uint64_t b = start; b < end; b++)
				each_cell(rank, g, id_of(rank, 0, g, request, b), &cell,
					b * rank->layout->groups[g].tokens_per_block, fill_cell, NULL);
		}
	}
}

void cluster_open_tx(struct cluster *cluster, const struct cluster_request *request)
{
	struct kvf_tx_params params = {.request_id = request->id,
		.attempt = request->attempt,
		.dp_index = request->src_dp,
		.prompt_len = request->prompt_len};

	for (uint32_t r = 0; r < cluster->n[0]; r++) {
		struct cluster_rank *rank = &cluster->ranks[0][r];

		if (!cluster_in_prefill(cluster, r, request))
			continue;
		rank->ready = rank->outcome = rank->released = false;
		must(kvf_tx_open(rank->agent, &params, &rank->session));
	}
}

struct cut {
	uint64_t token_start, token_end;
	uint32_t layer_start, layer_end;
	bool last;
};

/* The list of one slice: of the blocks it covers, those that are held. */
static uint32_t slice_list(const struct cluster *cluster, uint32_t r, uint32_t g,
	const struct cluster_request *request, const struct cut *cut, int32_t *ids)
{
	const struct cluster_rank *rank = &cluster->ranks[0][r];
	const struct kvf_group *group = &rank->layout->groups[g];
	uint64_t tpb = group->tokens_per_block, start, end, from, to;
	uint32_t n = 0;

	if ((group->kind == KVF_STATE || group->kind == KVF_WINDOW) && cut->token_end != request->prompt_len)
		return 0;
	block_range(cluster, 0, r, g, request, &start, &end);
	from = cut->token_start / tpb;
	to = cut->token_end == request->prompt_len ? end : cut->token_end / tpb;
	if (group->kind == KVF_STATE)
		from = 0, to = end;
	if (group->kind == KVF_WINDOW)
		from = start;
	for (uint64_t b = from > start ? from : start; b < to; b++)
		ids[n++] = id_of(rank, 0, g, request, b);
	return n;
}

static void send_cut(
	struct cluster *cluster, uint32_t r, const struct cluster_request *request, const struct cut *cut)
{
	static int32_t ids[KVF_MAX_GROUPS][65536];
	struct cluster_rank *rank = &cluster->ranks[0][r];
	struct kvf_blocks lists[KVF_MAX_GROUPS];
	struct kvf_slice slice = {.token_start = cut->token_start,
		.token_end = cut->token_end,
		.layer_start = cut->layer_start,
		.layer_end = cut->layer_end,
		.last = cut->last,
		.lists = lists};

	for (uint32_t g = 0; g < rank->layout->n_groups; g++) {
		uint32_t n = slice_list(cluster, r, g, request, cut, ids[g]);

		if (n > 0)
			lists[slice.n_lists++] = (struct kvf_blocks){g, n, ids[g]};
	}
	must(kvf_tx_send(rank->agent, rank->session, &slice, NULL));
}

/* One past the last global layer of the model. */
static uint32_t layers_of(const struct kvf_model *model)
{
	uint32_t end = 0;

	for (uint32_t g = 0; g < model->n_groups; g++)
		if (model->groups[g].layers[model->groups[g].n_layers - 1] + 1 > end)
			end = model->groups[g].layers[model->groups[g].n_layers - 1] + 1;
	return end;
}

void cluster_send(struct cluster *cluster, const struct cluster_request *request)
{
	uint32_t chunks = request->chunks > 1 ? request->chunks : 1;
	uint32_t pieces = request->layer_slices > 1 ? request->layer_slices : 1;
	uint32_t layers = layers_of(&cluster->spec.model);

	for (uint32_t r = 0; r < cluster->n[0]; r++) {
		if (!cluster_in_prefill(cluster, r, request))
			continue;
		for (uint32_t c = 0; c < chunks; c++) {
			for (uint32_t p = 0; p < pieces; p++) {
				/* Bounds a rank of a later stage can tile with: the first piece begins at 0, the last is open. */
				struct cut cut = {.token_start = request->prompt_len * c / chunks,
					.token_end = request->prompt_len * (c + 1) / chunks,
					.layer_start = layers * p / pieces,
					.layer_end = layers * (p + 1) / pieces,
					.last = c + 1 == chunks && p + 1 == pieces};
				bool holds = pieces == 1;

				for (uint32_t g = 0; g < cluster->ranks[0][r].layout->n_groups && !holds;
					g++) {
					const struct kvf_group *group =
						&cluster->ranks[0][r].layout->groups[g];

					for (uint32_t l = 0; l < group->n_layers; l++)
						holds = holds || (group->layers[l] >= cut.layer_start &&
									 group->layers[l] < cut.layer_end);
				}
				if (!holds)
					continue;
				for (uint32_t g = 0; g < cluster->ranks[0][r].layout->n_groups; g++) {
					const struct kvf_group *group =
						&cluster->ranks[0][r].layout->groups[g];

					if (group->n_layers > 0 &&
						group->layers[group->n_layers - 1] >= cut.layer_end)
						cut.last = false;
				}
				if (pieces > 1 && c + 1 == chunks) {
					bool later = false;

					for (uint32_t g = 0; g < cluster->ranks[0][r].layout->n_groups; g++) {
						const struct kvf_group *group =
							&cluster->ranks[0][r].layout->groups[g];

						later = later || (group->n_layers > 0 &&
									 group->layers[group->n_layers - 1] >=
										 cut.layer_end);
					}
					cut.last = !later;
				}
				if (pieces == 1)
					cut.layer_start = cut.layer_end = 0;
				send_cut(cluster, r, request, &cut);
			}
		}
		if (request->aux) {
			char aux[32];
			int n = snprintf(aux, sizeof(aux), "aux of %llu", (unsigned long long)request->id);

			must(kvf_tx_send_aux(cluster->ranks[0][r].agent, cluster->ranks[0][r].session, aux,
				(uint32_t)n + 1));
		}
	}
}

void cluster_open_rx(struct cluster *cluster, const struct cluster_request *request)
{
	static int32_t ids[KVF_MAX_GROUPS][65536];

	for (uint32_t r = 0; r < cluster->n[1]; r++) {
		struct cluster_rank *rank = &cluster->ranks[1][r];
		struct kvf_blocks lists[KVF_MAX_GROUPS];
		struct kvf_rx_params params = {.instance_id = cluster->instances[0]->id,
			.request_id = request->id,
			.attempt = request->attempt,
			.dp_index = request->unknown_dp ? KVF_DP_UNKNOWN : request->src_dp,
			.prompt_len = request->prompt_len,
			.aux_slot = request->aux ? (uint32_t)(request->id % cluster->spec.n_aux) : KVF_NO_AUX,
			.replica = request->replica,
			.lists = lists};

		if (!cluster_in_decode(cluster, r, request))
			continue;
		rank->ready = rank->outcome = rank->released = false;
		for (uint32_t g = 0; g < rank->layout->n_groups; g++) {
			uint32_t n = cluster_list(cluster, 1, r, g, request, ids[g]);

			if (n > 0)
				lists[params.n_lists++] = (struct kvf_blocks){g, n, ids[g]};
		}
		must(kvf_rx_open(rank->agent, &params, &rank->session));
	}
}

static bool takes_part(
	const struct cluster *cluster, int side, uint32_t r, const struct cluster_request *request)
{
	return side == 0 ? cluster_in_prefill(cluster, r, request) : cluster_in_decode(cluster, r, request);
}

bool cluster_all_released(struct cluster *cluster, void *argument)
{
	const struct cluster_request *request = argument;

	for (int side = 0; side < 2; side++)
		for (uint32_t r = 0; r < cluster->n[side]; r++)
			if (takes_part(cluster, side, r, request) && !cluster->ranks[side][r].released)
				return false;
	return true;
}

void cluster_close_sessions(struct cluster *cluster, const struct cluster_request *request)
{
	for (int side = 0; side < 2; side++)
		for (uint32_t r = 0; r < cluster->n[side]; r++)
			if (takes_part(cluster, side, r, request))
				must(kvf_session_close(
					cluster->ranks[side][r].agent, cluster->ranks[side][r].session));
}

static void check_rank(struct cluster *cluster, uint32_t r, const struct cluster_request *request)
{
	struct cluster_rank *rank = &cluster->ranks[1][r];
	const struct kvf_instance *instance = cluster->instances[1];
	struct check check = {.memory = rank->memory, .seen = calloc(1, rank->memory_bytes)};

	assert_non_null(check.seen);
	for (uint32_t g = 0; g < rank->layout->n_groups; g++) {
		const struct kvf_group *group = &rank->layout->groups[g];
		const struct kvf_group *source = &cluster->ranks[0][0].layout->groups[g];
		struct cell cell = {.request = request->id};
		uint64_t start, end;

		/* What both sides' blocks hold of the prompt. */
		check.good_tokens =
			div_up(request->prompt_len, source->tokens_per_block) * source->tokens_per_block;
		block_range(cluster, 1, r, g, request, &start, &end);
		for (uint64_t b = start; b < end; b++)
			if (instance->cp == 1 || group->kind == KVF_STATE ||
				b % instance->cp == instance->ranks[r].cp)
				each_cell(rank, g, id_of(rank, 1, g, request, b), &cell,
					b * group->tokens_per_block, check_cell, &check);
	}
	if (check.wrong > 0)
		fail_msg("decode rank %u: %llu bytes are wrong, the first in group %u layer %u part %u head "
			 "%u token %llu",
			r, (unsigned long long)check.wrong, check.first.group, check.first.layer,
			check.first.part, check.first.head, (unsigned long long)check.first.token);
	for (uint64_t i = 0; i < rank->memory_bytes; i++)
		if (!check.seen[i] && rank->memory[i] != UNTOUCHED)
			fail_msg("decode rank %u: byte %llu was written and is of no block of the request", r,
				(unsigned long long)i);
	free(check.seen);
	if (request->aux) {
		char aux[32];

		(void)snprintf(aux, sizeof(aux), "aux of %llu", (unsigned long long)request->id);
		assert_string_equal(
			(char *)rank->aux + (request->id % cluster->spec.n_aux) * cluster->spec.aux_bytes,
			aux);
	}
}

void cluster_check(struct cluster *cluster, const struct cluster_request *request)
{
	for (uint32_t r = 0; r < cluster->n[1]; r++)
		if (cluster_in_decode(cluster, r, request))
			check_rank(cluster, r, request);
}

void cluster_run(struct cluster *cluster, const struct cluster_request *request)
{
	struct cluster_request copy = *request;

	for (uint32_t r = 0; r < cluster->n[1]; r++)
		memset(cluster->ranks[1][r].memory, UNTOUCHED, cluster->ranks[1][r].memory_bytes);
	cluster_fill(cluster, request);
	if (request->receive_first)
		cluster_open_rx(cluster, request);
	cluster_open_tx(cluster, request);
	cluster_send(cluster, request);
	if (!request->receive_first)
		cluster_open_rx(cluster, request);
	cluster_until(cluster, cluster_all_released, &copy);
	for (int side = 0; side < 2; side++)
		for (uint32_t r = 0; r < cluster->n[side]; r++)
			if (takes_part(cluster, side, r, request) &&
				cluster->ranks[side][r].status != KVF_OK) {
				char error[256] = "";

				must(kvf_session_error(cluster->ranks[side][r].agent,
					cluster->ranks[side][r].session, error, sizeof(error)));
				fail_msg("%s rank %u: %s: %s", side_name(side), r,
					kvf_status_name(cluster->ranks[side][r].status), error);
			}
	cluster_check(cluster, request);
	cluster_close_sessions(cluster, request);
}
