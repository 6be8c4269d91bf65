/* cluster_requests.c - requests through a cluster: their block lists, their slices, their content, and the check of every byte. See cluster.h. */
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
		cluster_must(kvf_tx_open(rank->agent, &params, &rank->session));
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
	cluster_must(kvf_tx_send(rank->agent, rank->session, &slice, NULL));
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

/* Does this rank hold a layer in [start, end)? */
static bool holds(const struct cluster_rank *rank, uint32_t start, uint32_t end)
{
	for (uint32_t g = 0; g < rank->layout->n_groups; g++)
		for (uint32_t l = 0; l < rank->layout->groups[g].n_layers; l++)
			if (rank->layout->groups[g].layers[l] >= start &&
				rank->layout->groups[g].layers[l] < end)
				return true;
	return false;
}

/* One token chunk in its layer pieces, those that name layers of this rank. */
static void send_chunk(struct cluster *cluster, uint32_t r, const struct cluster_request *request, uint32_t c)
{
	uint32_t chunks = request->chunks > 1 ? request->chunks : 1;
	uint32_t pieces = request->layer_slices > 1 ? request->layer_slices : 1;
	uint32_t layers = layers_of(&cluster->spec.model);

	for (uint32_t p = 0; p < pieces; p++) {
		struct cut cut = {.token_start = request->prompt_len * c / chunks,
			.token_end = request->prompt_len * (c + 1) / chunks,
			.layer_start = layers * p / pieces,
			.layer_end = layers * (p + 1) / pieces};

		if (!holds(&cluster->ranks[0][r], cut.layer_start, cut.layer_end))
			continue;
		cut.last = c + 1 == chunks && !holds(&cluster->ranks[0][r], cut.layer_end, UINT32_MAX);
		if (pieces == 1)
			cut.layer_start = cut.layer_end = 0;
		send_cut(cluster, r, request, &cut);
	}
}

void cluster_send(struct cluster *cluster, const struct cluster_request *request)
{
	for (uint32_t r = 0; r < cluster->n[0]; r++) {
		const struct cluster_rank *rank = &cluster->ranks[0][r];
		char aux[32];
		int n = snprintf(aux, sizeof(aux), "aux of %llu", (unsigned long long)request->id);

		if (!cluster_in_prefill(cluster, r, request))
			continue;
		for (uint32_t c = 0; c < (request->chunks > 1 ? request->chunks : 1); c++)
			send_chunk(cluster, r, request, c);
		if (request->aux)
			cluster_must(kvf_tx_send_aux(rank->agent, rank->session, aux, (uint32_t)n + 1));
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
		cluster_must(kvf_rx_open(rank->agent, &params, &rank->session));
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
				cluster_must(kvf_session_close(
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
		if (!check.seen[i] && rank->memory[i] != CLUSTER_UNTOUCHED)
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
		memset(cluster->ranks[1][r].memory, CLUSTER_UNTOUCHED, cluster->ranks[1][r].memory_bytes);
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

				cluster_must(kvf_session_error(cluster->ranks[side][r].agent,
					cluster->ranks[side][r].session, error, sizeof(error)));
				fail_msg("%s rank %u: %s: %s", cluster_side_name(side), r,
					kvf_status_name(cluster->ranks[side][r].status), error);
			}
	cluster_check(cluster, request);
	cluster_close_sessions(cluster, request);
}
