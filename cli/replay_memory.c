/* replay_memory.c - fills, clears, checks and sweeps the KV memory of one rank.
 *
 * Guarantees: a block is written here only while the coordinator has given it to a request whose transfer
 * has not begun; every other access reads. Which tokens of a block a transfer writes is a pure function of
 * the request (replay_moved); what lies outside keeps the guard pattern, and is checked to. Owns the table
 * of owners; one thread, the rank's.
 */
#include "cli/replay_memory.h"

#include <stdlib.h>
#include <string.h>
#include "cli/replay_geometry.h"
#include "cli/replay_pattern.h"

#define STEP_BYTES  (UINT64_C(8) << 20)
#define SAMPLE_STEP 16u /* of the blocks, where only blocks can be left out */

bool replay_memory_init(struct replay_memory *memory, const struct replay_setup *setup,
	const struct replay_board *board, uint32_t side, uint32_t rank)
{
	memset(memory, 0, sizeof(*memory));
	memory->setup = setup;
	memory->board = board;
	memory->side = side;
	memory->rank = rank;
	memory->dp = replay_rank_dp(&setup->sides[side], rank);
	memory->cp = replay_rank_cp(&setup->sides[side], rank);
	const struct kvf_layout *layout = setup->sides[side].layouts[rank];
	for (uint32_t g = 0; g < layout->n_groups; g++) {
		uint32_t blocks = layout->groups[g].blocks;
		memory->owners[g] = malloc((blocks ? blocks : 1) * sizeof(struct replay_owner));
		if (!memory->owners[g]) {
			replay_memory_fini(memory);
			return false;
		}
		for (uint32_t i = 0; i < blocks; i++)
			memory->owners[g][i] = (struct replay_owner){REPLAY_OWNER_PATTERN, 0};
	}
	return true;
}

void replay_memory_attach(
	struct replay_memory *memory, const struct kvf_layout *layout, uint8_t *pool, uint64_t pool_bytes)
{
	memory->layout = layout;
	memory->pool = pool;
	memory->pool_bytes = pool_bytes;
	if (memory->setup->options.verify != REPLAY_VERIFY_NONE)
		memset(pool, REPLAY_PATTERN, pool_bytes);
}

void replay_memory_fini(struct replay_memory *memory)
{
	for (uint32_t g = 0; g < KVF_MAX_GROUPS; g++) {
		free(memory->owners[g]);
		memory->owners[g] = NULL;
	}
}

/* ---------------------------------------------------------------- requests */

static struct content_request content_of(const struct replay_setup *setup, uint32_t request)
{
	const struct replay_request *of = &setup->requests[request];
	struct replay_flavour flavour;
	replay_flavour_of(setup, request, &flavour);
	return (struct content_request){
		.request_id = flavour.request_id,
		.attempt = flavour.attempt,
		.n_hashes = of->n_hashes,
		.hash_ids = setup->hash_ids + of->first_hash,
	};
}

/* Tokens of a request's group that this rank's blocks hold once it has arrived, or was filled. */
static struct replay_tokens tokens_held(const struct replay_memory *memory, uint32_t group, uint32_t request)
{
	const struct replay_setup *setup = memory->setup;
	uint64_t tokens = setup->requests[request].tokens;
	if (memory->side == REPLAY_DECODE)
		return replay_moved(setup, group, tokens, 0);
	uint32_t tpb = setup->sides[memory->side].tokens_per_block;
	const struct kvf_group_spec *spec = &setup->model.kvf.groups[group];
	struct replay_blocks blocks = replay_blocks_of(spec, tpb, tokens);
	if (spec->kind == KVF_STATE)
		return (struct replay_tokens){0, 1};
	return (struct replay_tokens){blocks.first * tpb, blocks.total * tpb};
}

static bool is_sampled(const struct replay_memory *memory)
{
	return memory->setup->options.verify == REPLAY_VERIFY_SAMPLE;
}

static void add_fault(struct replay_job *job, const struct replay_memory *memory, uint32_t kind,
	uint32_t request, const struct content_mismatch *where)
{
	if (where->bad_rows == 0)
		return;
	uint64_t bad_rows = job->fault.where.bad_rows + where->bad_rows;
	if (job->fault.kind == REPLAY_NO_FAULT)
		job->fault = (struct replay_fault){kind, memory->side, memory->rank, request, *where};
	job->fault.where.bad_rows = bad_rows;
}

/* ------------------------------------------------------------------ blocks */

/* The tokens of one block that hold content, counted from its first token. */
static struct replay_tokens inside_block(struct replay_tokens held, uint64_t block, uint64_t tpb)
{
	uint64_t start = block * tpb;
	struct replay_tokens in = {0, 0};
	if (held.end > start)
		in.end = held.end - start < tpb ? held.end - start : tpb;
	if (held.begin > start)
		in.begin = held.begin - start < in.end ? held.begin - start : in.end;
	return in;
}

/* The rest of the block, before and behind those tokens. */
static void check_rest(const struct replay_memory *memory, uint32_t group, int32_t id,
	struct replay_tokens in, struct content_mismatch *found)
{
	struct replay_cells cells = {memory->layout, group, id, 0, in.begin};
	replay_pattern_check(&cells, found);
	cells.begin = in.end;
	cells.end = memory->layout->groups[group].tokens_per_block;
	replay_pattern_check(&cells, found);
}

/* Is a block what it was left as?  Returns without a look where that is not known. */
static void check_left(struct replay_job *job, const struct replay_memory *memory, uint32_t group, int32_t id)
{
	struct replay_owner owner = memory->owners[group][id];
	uint64_t tpb = memory->layout->groups[group].tokens_per_block;
	struct replay_tokens in = {0, 0};
	struct content_mismatch found = {0};
	if (owner.request == REPLAY_OWNER_UNKNOWN || (is_sampled(memory) && (uint32_t)id % SAMPLE_STEP != 0))
		return;
	if (owner.request != REPLAY_OWNER_PATTERN) {
		struct replay_tokens held = tokens_held(memory, group, owner.request);
		const struct content_request content = content_of(memory->setup, owner.request);
		const struct content_span span = {
			.layout = memory->layout,
			.group = group,
			.first_block = owner.block,
			.n = 1,
			.ids = &id,
			.token_begin = held.begin,
			.token_end = held.end,
		};
		content_check(&content, &span, &found);
		in = inside_block(held, owner.block, tpb);
	}
	check_rest(memory, group, id, in, &found);
	uint32_t request = owner.request == REPLAY_OWNER_PATTERN ? REPLAY_NO_REQUEST : owner.request;
	add_fault(job, memory, REPLAY_FAULT_STRAY, request, &found);
}

/* Blocks of about STEP_BYTES. */
static uint64_t blocks_a_step(const struct replay_memory *memory, uint32_t group)
{
	const struct kvf_group *of = &memory->layout->groups[group];
	uint64_t block_bytes = 1;
	for (uint32_t part = 0; part < of->n_parts; part++)
		block_bytes += of->parts[part].head_count * of->parts[part].row_bytes;
	block_bytes *= (uint64_t)of->tokens_per_block * (of->n_layers ? of->n_layers : 1);
	return block_bytes < STEP_BYTES ? STEP_BYTES / block_bytes : 1;
}

/* -------------------------------------------------------------------- jobs */

/* Entries [at, at + n) of the slot's list of the job's group. */
struct piece {
	const struct replay_list *list;
	int32_t *ids;
	uint32_t request, step;
	uint64_t at, n;
};

static uint64_t block_of(const struct piece *piece, uint64_t i)
{
	return piece->list->first + i * piece->step;
}

static struct content_span span_of(
	const struct replay_memory *memory, uint32_t group, const struct piece *piece)
{
	struct replay_tokens held = tokens_held(memory, group, piece->request);
	return (struct content_span){
		.layout = memory->layout,
		.group = group,
		.first_block = block_of(piece, piece->at),
		.block_step = piece->step,
		.n = (uint32_t)piece->n,
		.ids = piece->ids + piece->at,
		.token_begin = held.begin,
		.token_end = held.end,
	};
}

static void fill_piece(struct replay_job *job, struct replay_memory *memory, const struct piece *piece)
{
	const struct content_request content = content_of(memory->setup, piece->request);
	struct content_span span = span_of(memory, job->group, piece);
	content_fill(&content, &span);
	for (uint64_t i = piece->at; i < piece->at + piece->n; i++)
		memory->owners[job->group][piece->ids[i]] =
			(struct replay_owner){piece->request, (uint32_t)block_of(piece, i)};
}

static void clear_piece(struct replay_job *job, struct replay_memory *memory, const struct piece *piece)
{
	uint64_t tpb = memory->layout->groups[job->group].tokens_per_block;
	struct replay_tokens held = tokens_held(memory, job->group, piece->request);
	for (uint64_t i = piece->at; i < piece->at + piece->n; i++) {
		int32_t id = piece->ids[i];
		check_left(job, memory, job->group, id);
		memory->owners[job->group][id] = (struct replay_owner){REPLAY_OWNER_UNKNOWN, 0};
		struct replay_tokens in = inside_block(held, block_of(piece, i), tpb);
		if (in.begin == 0 && in.end == tpb)
			continue;
		const struct replay_cells cells = {memory->layout, job->group, id, 0, tpb};
		replay_pattern_fill(&cells);
	}
}

static void canary_piece(struct replay_job *job, struct replay_memory *memory, const struct piece *piece)
{
	for (uint64_t i = piece->at; i < piece->at + piece->n; i++) {
		int32_t id = piece->ids[i];
		const struct replay_cells cells = {memory->layout, job->group, id, 0,
			memory->layout->groups[job->group].tokens_per_block};
		replay_pattern_fill(&cells);
		memory->owners[job->group][id] = (struct replay_owner){REPLAY_OWNER_PATTERN, 0};
	}
}

static void watch_piece(struct replay_job *job, struct replay_memory *memory, const struct piece *piece)
{
	const struct replay_tokens none = {0, 0};
	for (uint64_t i = piece->at; i < piece->at + piece->n; i++) {
		int32_t id = piece->ids[i];
		struct replay_owner *owner = &memory->owners[job->group][id];
		struct content_mismatch found = {0};
		if (owner->request != REPLAY_OWNER_PATTERN)
			continue; /* told already */
		check_rest(memory, job->group, id, none, &found);
		add_fault(job, memory, REPLAY_FAULT_STRAY, piece->request, &found);
		if (found.bad_rows > 0)
			owner->request = REPLAY_OWNER_UNKNOWN;
	}
}

static void check_piece(struct replay_job *job, struct replay_memory *memory, const struct piece *piece)
{
	const struct content_request content = content_of(memory->setup, piece->request);
	uint64_t tpb = memory->layout->groups[job->group].tokens_per_block;
	struct replay_tokens held = tokens_held(memory, job->group, piece->request);
	struct content_span span = span_of(memory, job->group, piece);
	struct content_mismatch found;
	if (is_sampled(memory)) {
		uint64_t bits = replay_mix(memory->setup->options.seed, piece->request);
		span.layer_step = 1 + (uint32_t)(bits & 1);
		span.token_step = 3 + (uint32_t)(bits >> 8 & 7);
	}
	job->bytes_verified += content_check(&content, &span, &found);
	add_fault(job, memory, REPLAY_FAULT_CONTENT, piece->request, &found);

	for (uint64_t i = piece->at; i < piece->at + piece->n; i++) {
		struct replay_tokens in = inside_block(held, block_of(piece, i), tpb);
		struct content_mismatch stray = {0};
		if (in.begin > 0 || in.end < tpb)
			check_rest(memory, job->group, piece->ids[i], in, &stray);
		add_fault(job, memory, REPLAY_FAULT_STRAY, piece->request, &stray);
		struct replay_owner owner = {piece->request, (uint32_t)block_of(piece, i)};
		if (found.bad_rows > 0 || stray.bad_rows > 0)
			owner.request = REPLAY_OWNER_UNKNOWN; /* told once */
		else if (i < piece->list->reused)
			continue;
		memory->owners[job->group][piece->ids[i]] = owner;
	}
}

/* One step over a slot's lists. */
static bool step_lists(struct replay_job *job, struct replay_memory *memory)
{
	if (job->group == memory->layout->n_groups)
		return true;
	struct piece piece = {
		.list = replay_board_list(memory->board, job->slot, memory->side, memory->cp, job->group),
		.request = replay_board_slot(memory->board, job->slot)->request,
		.step = memory->setup->sides[memory->side].cp,
	};
	piece.ids = replay_board_ids(memory->board, job->slot, piece.list);
	uint64_t skip = job->kind == REPLAY_JOB_CHECK ? 0 : piece.list->reused;
	uint64_t room = blocks_a_step(memory, job->group);
	piece.at = job->at > skip ? job->at : skip;
	if (piece.at >= piece.list->n || memory->layout->groups[job->group].n_layers == 0) {
		job->group++;
		job->at = 0;
		return job->group == memory->layout->n_groups;
	}
	piece.n = piece.list->n - piece.at < room ? piece.list->n - piece.at : room;
	static void (*const work[])(struct replay_job *, struct replay_memory *, const struct piece *) = {
		[REPLAY_JOB_FILL] = fill_piece,
		[REPLAY_JOB_CLEAR] = clear_piece,
		[REPLAY_JOB_CHECK] = check_piece,
		[REPLAY_JOB_CANARY] = canary_piece,
		[REPLAY_JOB_WATCH] = watch_piece,
	};
	work[job->kind](job, memory, &piece);
	job->at = piece.at + piece.n;
	return false;
}

static bool step_sweep(struct replay_job *job, const struct replay_memory *memory)
{
	if (job->group == memory->layout->n_groups) {
		struct content_mismatch found = {0};
		replay_pattern_check_gaps(memory->layout, memory->pool, memory->pool_bytes, &found);
		add_fault(job, memory, REPLAY_FAULT_STRAY, REPLAY_NO_REQUEST, &found);
		return true;
	}
	uint64_t blocks = memory->layout->groups[job->group].blocks;
	uint64_t end = job->at + blocks_a_step(memory, job->group);
	for (; job->at < end && job->at < blocks; job->at++)
		check_left(job, memory, job->group, (int32_t)job->at);
	if (job->at == blocks) {
		job->group++;
		job->at = 0;
	}
	return false;
}

void replay_job_init(struct replay_job *job, uint32_t kind, uint32_t slot)
{
	*job = (struct replay_job){.kind = kind, .slot = slot};
}

bool replay_job_step(struct replay_job *job, struct replay_memory *memory)
{
	if (memory->setup->options.verify == REPLAY_VERIFY_NONE)
		return true;
	return job->kind == REPLAY_JOB_SWEEP ? step_sweep(job, memory) : step_lists(job, memory);
}

void replay_memory_damage(struct replay_memory *memory, uint32_t slot)
{
	for (uint32_t g = 0; g < memory->layout->n_groups; g++) {
		const struct kvf_group *group = &memory->layout->groups[g];
		const struct replay_list *list =
			replay_board_list(memory->board, slot, memory->side, memory->cp, g);
		if (group->n_layers == 0 || group->parts[0].head_count == 0 || list->n == 0)
			continue;
		uint64_t id = (uint64_t)replay_board_ids(memory->board, slot, list)[list->n - 1];
		*(uint8_t *)(uintptr_t)(group->bases[0] + id * group->parts[0].block_stride) ^= 1;
		return;
	}
}
