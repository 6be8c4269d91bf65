/* pool.c - the memory of a rank, and the oracle that knows for each cell of it who may write it now.
 *
 * A pool is cut into cells of 8 bytes. A cell belongs to the request whose session took its block, from the open of that session until its
 * RELEASED was polled; then it holds a canary until another session takes it. Every simulated store asks first, so that a wrong one is
 * named with writer, request and block at the moment it happens; the canary is there for what does not ask. Content is keyed by position: a byte
 * that arrives in the wrong place, or of the wrong request, is a wrong byte.
 */
#include "sim/sim.h"

#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/checked.h"
#include "base/hash.h"

#define CANARY   UINT64_C(0xc7c7c7c7c7c7c7c7)
#define SCRIBBLE UINT64_C(0xd5d5d5d5d5d5d5d5) /* a source that was released */
#define SLACK    4096u

/* ---- rows ---- */

/* A row of a block: where it is, and what it is. */
struct row {
	struct sim_node *node;
	uint32_t request, group, layer, part, head;
	int32_t block;
	uint64_t token;
	uint64_t address, len_bytes;
};

typedef bool (*row_function)(const struct row *row, void *argument);

static uint64_t row_seed(const struct row *row)
{
	const struct sim_request *request = &row->node->world->requests[row->request];
	uint64_t hash = kvfi_hash_u64(request->id, request->attempt);

	hash = kvfi_hash_u64(hash, (row->group * 64 + row->layer) * 16 + row->part);
	return kvfi_hash_u64(hash, row->token * 64 + row->head);
}

static struct sim_cell *cells_at(const struct sim_pool *pool, uint64_t address)
{
	return &pool->cells[(address - pool->base) / SIM_CELL_BYTES];
}

static bool each_row_of_part(const struct kvf_group *group, struct row row, uint64_t base,
	const struct kvf_part *part, row_function function, void *argument)
{
	uint32_t tokens = group->kind == KVF_STATE ? 1 : group->tokens_per_block;
	uint64_t first = row.token;

	row.len_bytes = part->row_bytes;
	for (uint32_t h = 0; h < part->head_count; h++) {
		for (uint32_t t = 0; t < tokens; t++) {
			row.head = part->head_start + h;
			row.token = first + t;
			row.address = base + (uint64_t)row.block * part->block_stride +
			              h * part->head_stride + t * part->token_stride;
			if (!function(&row, argument))
				return false;
		}
	}
	return true;
}

/* False at the first row for which the function says so. */
static bool each_row_of_entry(struct sim_node *node, uint32_t request, uint32_t g, uint32_t entry,
	row_function function, void *argument)
{
	const struct sim_list *list = &node->sessions[request].lists[g];
	const struct kvf_group *group = &node->layout->groups[g];
	struct row row = {.node = node,
		.request = request,
		.group = g,
		.block = list->ids[entry],
		.token = (uint64_t)(list->first_block + entry) * group->tokens_per_block};

	for (uint32_t l = 0; l < group->n_layers; l++) {
		for (uint32_t p = 0; p < group->n_parts; p++) {
			row.layer = group->layers[l];
			row.part = p;
			if (!each_row_of_part(group, row, group->bases[l * group->n_parts + p],
				    &group->parts[p], function, argument))
				return false;
		}
	}
	return true;
}

static bool each_row(struct sim_node *node, uint32_t request, row_function function, void *argument)
{
	for (uint32_t g = 0; g < node->layout->n_groups; g++)
		for (uint32_t e = 0; e < node->sessions[request].lists[g].n; e++)
			if (!each_row_of_entry(node, request, g, e, function, argument))
				return false;
	return true;
}

/* ---- owners ---- */

struct own {
	uint16_t owner;
	uint64_t fill; /* 0: the content of the request */
};

static bool own_row(const struct row *row, void *argument)
{
	const struct own *own = argument;
	uint64_t seed = row_seed(row);
	uint64_t *words = (uint64_t *)(uintptr_t)row->address;
	struct sim_cell *cells = cells_at(&row->node->pool, row->address);

	for (uint64_t i = 0; i < row->len_bytes / SIM_CELL_BYTES; i++) {
		cells[i] = (struct sim_cell){.owner = own->owner};
		words[i] = own->fill != 0 ? own->fill : kvfi_mix64(seed + i);
	}
	return true;
}

static bool check_canary_row(const struct row *row, void *argument)
{
	const uint64_t *words = (const uint64_t *)(uintptr_t)row->address;

	(void)argument;
	for (uint64_t i = 0; i < row->len_bytes / SIM_CELL_BYTES; i++) {
		if (words[i] == CANARY)
			continue;
		sim_fail(row->node->world,
			"canary: %s: group %u block %d layer %u part %u changed while nobody owned it",
			row->node->name, row->group, row->block, row->layer, row->part);
		return false;
	}
	return true;
}

static bool take_aux(struct sim_node *node, struct sim_session *session)
{
	struct sim_pool *pool = &node->pool;

	if (pool->free_aux == 0)
		return false;
	session->aux_slot = (uint32_t)__builtin_ctzll(pool->free_aux);
	pool->free_aux &= ~(UINT64_C(1) << session->aux_slot);
	return true;
}

bool sim_pool_take(struct sim_node *node, uint32_t request)
{
	struct sim_session *session = &node->sessions[request];
	struct sim_pool *pool = &node->pool;
	struct own own = {.owner = (uint16_t)(request + 1), .fill = node->decode ? CANARY : 0};

	for (uint32_t g = 0; g < node->layout->n_groups; g++) {
		session->lists[g].n = sim_list_length(node, request, g, &session->lists[g].first_block);
		if (session->lists[g].n > pool->n_free[g])
			return false;
	}
	session->aux_slot = KVF_NO_AUX;
	if (node->decode && node->world->requests[request].aux && !take_aux(node, session))
		return false;
	for (uint32_t g = 0; g < node->layout->n_groups; g++)
		for (uint32_t i = 0; i < session->lists[g].n; i++)
			session->lists[g].ids[i] = pool->free_ids[g][--pool->n_free[g]];
	session->blocks_taken = true;
	if (node->decode)
		(void)each_row(node, request, check_canary_row, NULL);
	(void)each_row(node, request, own_row, &own);
	return true;
}

void sim_pool_give(struct sim_node *node, uint32_t request)
{
	struct sim_session *session = &node->sessions[request];
	struct sim_pool *pool = &node->pool;
	struct own own = {.fill = node->decode ? CANARY : SCRIBBLE};

	if (!session->blocks_taken)
		return;
	session->blocks_taken = false;
	(void)each_row(node, request, own_row, &own);
	for (uint32_t g = 0; g < node->layout->n_groups; g++)
		for (uint32_t i = 0; i < session->lists[g].n; i++)
			pool->free_ids[g][pool->n_free[g]++] = session->lists[g].ids[i];
	if (session->aux_slot != KVF_NO_AUX) {
		memset(pool->aux[session->aux_slot], (int)(CANARY & 0xff), SIM_AUX_BYTES);
		pool->free_aux |= UINT64_C(1) << session->aux_slot;
	}
}

/* ---- the oracle ---- */

/* Which block an address lies in, for a person. */
static void name_place(const struct sim_node *node, uint64_t address, char *text, size_t len_bytes)
{
	for (uint32_t g = 0; g < node->layout->n_groups; g++) {
		const struct kvf_group *group = &node->layout->groups[g];

		for (uint32_t i = 0; i < group->n_layers * group->n_parts; i++) {
			const struct kvf_part *part = &group->parts[i % group->n_parts];
			uint64_t offset = address - group->bases[i];
			uint64_t inside = offset % part->block_stride;
			uint64_t heads_end = (part->head_count - 1) * part->head_stride +
			                     (group->tokens_per_block - 1) * part->token_stride +
			                     part->row_bytes;

			if (address < group->bases[i] || offset / part->block_stride >= group->blocks ||
				inside >= heads_end)
				continue;
			(void)snprintf(text, len_bytes, "group %u block %llu layer %u part %u", g,
				(unsigned long long)(offset / part->block_stride),
				group->layers[i / group->n_parts], i % group->n_parts);
			return;
		}
	}
	(void)snprintf(text, len_bytes, "offset %llu, which is no block",
		(unsigned long long)(address - node->pool.base));
}

static const char *why_not(const struct sim_node *node, uint16_t owner, uint32_t request, uint64_t epoch)
{
	const struct sim_session *session = &node->sessions[request];

	if (owner == 0)
		return session->released ? "after its RELEASED" : "that it does not own";
	if (owner != request + 1)
		return session->released ? "after its RELEASED, owned by another request"
		                         : "owned by another request";
	if (session->epoch != epoch)
		return "under another epoch";
	return session->released ? "after its RELEASED" : NULL;
}

bool sim_pool_may_store(struct sim_node *node, uint64_t dst, uint64_t len_bytes, uint32_t request,
	uint64_t epoch, const char *writer)
{
	const struct sim_request *who = &node->world->requests[request];
	struct sim_cell *cells;
	char place[96];

	if (dst < node->pool.base || dst + len_bytes > node->pool.base + node->pool.len_bytes) {
		sim_fail(node->world, "memory: %s stores for request %llu.%u outside of %s's memory", writer,
			(unsigned long long)who->id, who->attempt, node->name);
		return false;
	}
	KVFI_ASSERT(dst % SIM_CELL_BYTES == 0 && len_bytes % SIM_CELL_BYTES == 0);
	cells = cells_at(&node->pool, dst);
	node->sessions[request].bytes_seen = true;
	for (uint64_t i = 0; i < len_bytes / SIM_CELL_BYTES; i++) {
		const char *why = why_not(node, cells[i].owner, request, epoch);

		if (why != NULL) {
			name_place(node, dst + i * SIM_CELL_BYTES, place, sizeof(place));
			sim_fail(node->world,
				"memory: %s stores for request %llu.%u epoch %llu into %s: %s, %s", writer,
				(unsigned long long)who->id, who->attempt, (unsigned long long)epoch,
				node->name, place, why);
			return false;
		}
		if (cells[i].writes < UINT8_MAX)
			cells[i].writes++;
	}
	return true;
}

bool sim_pool_may_read(struct sim_node *node, uint64_t src, uint64_t len_bytes, uint32_t request)
{
	const struct sim_request *who = &node->world->requests[request];
	const struct sim_cell *cells;

	if (src < node->pool.base || src + len_bytes > node->pool.base + node->pool.len_bytes) {
		sim_fail(node->world, "memory: %s reads request %llu.%u outside of its memory", node->name,
			(unsigned long long)who->id, who->attempt);
		return false;
	}
	cells = cells_at(&node->pool, src);
	node->sessions[request].bytes_seen = true;
	for (uint64_t i = 0; i < kvfi_div_up(len_bytes, SIM_CELL_BYTES); i++) {
		if (cells[i].owner == request + 1)
			continue;
		sim_fail(node->world, "memory: %s reads for request %llu.%u blocks that %s", node->name,
			(unsigned long long)who->id, who->attempt,
			node->sessions[request].released ? "were RELEASED" : "are not its own");
		return false;
	}
	return true;
}

/* ---- what has arrived ---- */

/* Does the source hold this token's rows? */
static bool source_has(const struct sim_world *world, const struct row *row)
{
	const struct kvf_group_spec *group = &world->model->groups[row->group];
	uint64_t prompt = world->requests[row->request].prompt_len;
	uint64_t tpb = world->layouts[0].tokens_per_block, first = 0;

	if (group->kind == KVF_STATE)
		return true;
	if (group->kind == KVF_WINDOW && prompt + 1 > group->window_tokens)
		first = (prompt + 1 - group->window_tokens) / tpb * tpb;
	return row->token >= first && row->token < kvfi_div_up(prompt, tpb) * tpb;
}

static bool row_is_good(const struct row *row)
{
	const uint64_t *words = (const uint64_t *)(uintptr_t)row->address;
	uint64_t seed = row_seed(row);

	for (uint64_t i = 0; i < row->len_bytes / SIM_CELL_BYTES; i++)
		if (words[i] != kvfi_mix64(seed + i))
			return false;
	return true;
}

static void fail_row(const struct row *row, const char *what)
{
	const struct sim_request *who = &row->node->world->requests[row->request];

	sim_fail(row->node->world,
		"content: request %llu.%u on %s: group %u block %d layer %u part %u head %u token %llu: %s",
		(unsigned long long)who->id, who->attempt, row->node->name, row->group, row->block,
		row->layer, row->part, row->head, (unsigned long long)row->token, what);
}

static bool check_complete_row(const struct row *row, void *argument)
{
	const struct sim_cell *cells = cells_at(&row->node->pool, row->address);

	(void)argument;
	if (!source_has(row->node->world, row))
		return true;
	for (uint64_t i = 0; i < row->len_bytes / SIM_CELL_BYTES; i++) {
		if (cells[i].writes == 1)
			continue;
		fail_row(row, cells[i].writes == 0 ? "told complete, and it was never stored"
						   : "it was stored more than once");
		return false;
	}
	if (!row_is_good(row))
		fail_row(row, "told complete, and its bytes are wrong");
	return true;
}

void sim_aux_content(const struct sim_request *request, unsigned char *aux)
{
	for (uint32_t i = 0; i < SIM_AUX_BYTES; i++)
		aux[i] = (unsigned char)kvfi_mix64(request->id * 1000 + request->attempt + i * 7);
}

void sim_pool_check_complete(struct sim_node *node, uint32_t request, enum sim_completeness what)
{
	const struct sim_session *session = &node->sessions[request];
	unsigned char aux[SIM_AUX_BYTES];

	if (!each_row(node, request, check_complete_row, NULL) || session->aux_slot == KVF_NO_AUX ||
		what == SIM_SENT)
		return;
	sim_aux_content(&node->world->requests[request], aux);
	if (memcmp(aux, node->pool.aux[session->aux_slot], SIM_AUX_BYTES) != 0)
		sim_fail(node->world, "content: request %llu.%u on %s: told complete, its aux data are wrong",
			(unsigned long long)node->world->requests[request].id,
			node->world->requests[request].attempt, node->name);
}

static bool check_good_row(const struct row *row, void *argument)
{
	(void)argument;
	if (!source_has(row->node->world, row) || row_is_good(row))
		return true;
	fail_row(row, "its bytes are wrong, and the failed session does not call the block bad");
	return false;
}

void sim_pool_check_good(struct sim_node *node, uint32_t request)
{
	const struct sim_session *session = &node->sessions[request];

	for (uint32_t g = 0; g < node->layout->n_groups; g++) {
		int32_t bad[SIM_MAX_LIST];
		uint32_t n = 0;

		if (kvf_session_bad_blocks(node->agent, session->handle, g, bad, SIM_MAX_LIST, &n) != KVF_OK)
			sim_fail(node->world, "calls: kvf_session_bad_blocks on %s: %s", node->name,
				kvf_error());
		for (uint32_t e = 0; e < session->lists[g].n; e++) {
			bool is_bad = false;

			for (uint32_t i = 0; i < n && i < SIM_MAX_LIST; i++)
				is_bad = is_bad || bad[i] == session->lists[g].ids[e];
			if (!is_bad)
				(void)each_row_of_entry(node, request, g, e, check_good_row, NULL);
		}
	}
}

void sim_pool_check_canary(struct sim_node *node)
{
	const struct sim_pool *pool = &node->pool;
	const uint64_t *words = (const uint64_t *)(const void *)pool->memory;
	char place[96];

	if (!node->decode || !node->alive)
		return;
	for (uint64_t i = 0; i < pool->len_bytes / SIM_CELL_BYTES; i++) {
		if (pool->cells[i].owner != 0 || words[i] == CANARY)
			continue;
		name_place(node, pool->base + i * SIM_CELL_BYTES, place, sizeof(place));
		sim_fail(node->world, "canary: %s: %s changed while nobody owned it", node->name, place);
		return;
	}
	for (uint32_t s = 0; s < SIM_AUX_SLOTS; s++)
		for (uint32_t i = 0; i < SIM_AUX_BYTES && (pool->free_aux >> s & 1) != 0; i++)
			if (pool->aux[s][i] != (CANARY & 0xff))
				sim_fail(node->world, "canary: %s: aux slot %u changed while nobody owned it",
					node->name, s);
}

/* ---- a pool's life ---- */

void sim_pool_init(struct sim_node *node)
{
	struct sim_world *world = node->world;
	struct sim_pool *pool = &node->pool;
	uint64_t len_bytes = 0;

	KVFI_ASSERT(kvf_layout_new(world->model, world->instances[node->decode], node->rank,
			    &world->layouts[node->decode], &node->layout, &len_bytes) == KVF_OK);
	*pool = (struct sim_pool){.len_bytes = kvfi_align_up(len_bytes, SLACK)};
	pool->memory = aligned_alloc(SLACK, pool->len_bytes);
	KVFI_ASSERT(pool->memory != NULL);
	memset(pool->memory, (int)(CANARY & 0xff), pool->len_bytes);
	memset(pool->aux, (int)(CANARY & 0xff), sizeof(pool->aux));
	pool->base = (uint64_t)(uintptr_t)pool->memory;
	pool->cells = sim_new(pool->len_bytes / SIM_CELL_BYTES * sizeof(struct sim_cell));
	pool->free_aux = (UINT64_C(1) << SIM_AUX_SLOTS) - 1;
	kvf_layout_move(node->layout, pool->base);
	if (node->decode)
		KVFI_ASSERT(kvf_layout_set_aux(node->layout, SIM_AUX_SLOTS, SIM_AUX_BYTES,
				    (uint64_t)(uintptr_t)pool->aux) == KVF_OK);
	for (uint32_t g = 0; g < node->layout->n_groups; g++) {
		pool->n_free[g] = node->layout->groups[g].blocks;
		for (uint32_t i = 0; i < pool->n_free[g]; i++)
			pool->free_ids[g][i] = (int32_t)(i * 7 % pool->n_free[g]);
	}
}

void sim_pool_fini(struct sim_node *node)
{
	kvf_layout_free(node->layout);
	free(node->pool.memory);
	free(node->pool.cells);
	node->layout = NULL;
	node->pool = (struct sim_pool){.memory = NULL};
}
