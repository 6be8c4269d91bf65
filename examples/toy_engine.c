/* toy_engine.c - see toy_engine.h. */
#include "toy_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CANARY UINT64_C(0xcafef00dcafef00d)

uint64_t now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void must(enum kvf_status status, const char *what)
{
	if (status == KVF_OK)
		return;
	(void)fprintf(stderr, "%s: %s: %s\n", what, kvf_status_name(status), kvf_error());
	exit(1);
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* ---- clients ---- */

void frontend_init(struct frontend *frontend, uint32_t n_requests, uint32_t n_engines)
{
	memset(frontend, 0, sizeof(*frontend));
	frontend->n_requests = n_requests;
	frontend->n_engines = n_engines;
	frontend->give_up_ns = now_ns() + 60 * UINT64_C(1000000000);
	for (uint32_t i = 0; i < n_requests; i++) {
		struct toy_request *request = &frontend->requests[i];

		request->prompt_len = 1 + mix(i) % (MAX_BLOCK_LIST * 16 - 1);
		request->dp = i % 2;
		request->fate = i % 16 == 5 ? FATE_FORGOTTEN : i % 5 == 3 ? FATE_CANCELLED : FATE_GOOD;
		request->patience_ns = (request->fate == FATE_FORGOTTEN ? 200 : 50000) * UINT64_C(1000000);
	}
}

bool frontend_done(const struct frontend *frontend)
{
	return atomic_load(&frontend->idle_engines) == frontend->n_engines &&
	       atomic_load(&frontend->answered) == frontend->n_requests;
}

void frontend_answer(struct frontend *frontend, uint64_t id, enum kvf_status status)
{
	struct toy_request *request = &frontend->requests[id];

	atomic_store(&request->status, status);
	if (atomic_fetch_add(&request->answers, 1) == 0)
		(void)atomic_fetch_add(&frontend->answered, 1);
}

/* A client that goes away may find its request completed already: both answers are right. */
static bool fits(const struct toy_request *request)
{
	const int status = atomic_load(&request->status);

	switch (request->fate) {
	case FATE_GOOD:
		return status == KVF_OK;
	case FATE_CANCELLED:
		return status == KVF_CANCELLED || status == KVF_OK;
	case FATE_FORGOTTEN:
		return status == KVF_TIMED_OUT;
	}
	return false;
}

bool frontend_check(const struct frontend *frontend)
{
	uint32_t counts[3] = {0}, wrong = 0;

	for (uint32_t i = 0; i < frontend->n_requests; i++) {
		const struct toy_request *request = &frontend->requests[i];
		const int status = atomic_load(&request->status);

		counts[status == KVF_OK ? 0 : status == KVF_CANCELLED ? 1 : 2]++;
		if (atomic_load(&request->answers) == 1 && fits(request))
			continue;
		wrong++;
		(void)printf("request %u: fate %d, %u answers, the last one %s\n", i, request->fate,
			atomic_load(&request->answers), kvf_status_name((enum kvf_status)status));
	}
	(void)printf("%u requests: %u completed, %u cancelled, %u timed out\n", frontend->n_requests,
		counts[0], counts[1], counts[2]);
	return wrong == 0;
}

/* ---- blocks ---- */

void pool_init(struct pool *pool, const struct kvf_layout *layout)
{
	const uint32_t n = layout->groups[0].blocks;

	*pool = (struct pool){.layout = layout, .n_blocks = n, .free_ids = malloc(n * sizeof(int32_t))};
	if (pool->free_ids == NULL)
		must(KVF_ENOMEM, "pool");
	for (uint32_t i = n; i-- > 0;) {
		int32_t id = (int32_t)i;

		pool_give(pool, 1, &id);
	}
}

void pool_fini(struct pool *pool)
{
	free(pool->free_ids);
}

uint32_t pool_blocks_of(const struct pool *pool, uint64_t prompt_len)
{
	const uint32_t tokens = pool->layout->groups[0].tokens_per_block;

	return (uint32_t)((prompt_len + tokens - 1) / tokens);
}

/* Where a row is: the formula of struct kvf_part. */
static uint64_t *row_at(const struct pool *pool, int32_t block, uint32_t cell, uint32_t token)
{
	const struct kvf_group *group = &pool->layout->groups[0];
	const struct kvf_part *part = &group->parts[0]; /* K and V are alike here */
	const uint32_t head = cell % part->head_count, base = cell / part->head_count;

	return (uint64_t *)(uintptr_t)(group->bases[base] + (uint64_t)block * part->block_stride +
				       head * part->head_stride + token * part->token_stride);
}

static uint32_t cells_of(const struct pool *pool)
{
	const struct kvf_group *group = &pool->layout->groups[0];

	return group->n_layers * group->n_parts * group->parts[0].head_count;
}

static uint64_t words_of_row(const struct pool *pool)
{
	return pool->layout->groups[0].parts[0].row_bytes / sizeof(uint64_t);
}

/* What a row holds, by layer, part and head of the whole model. */
static uint64_t word_of(const struct pool *pool, uint64_t id, uint32_t cell, uint64_t token, uint64_t word)
{
	const struct kvf_part *part = &pool->layout->groups[0].parts[0];
	const uint64_t head = part->head_start + cell % part->head_count;

	return mix(id << 40 ^ token << 16 ^ (uint64_t)(cell / part->head_count) << 8 ^ head << 4 ^ word);
}

static bool walk(const struct pool *pool, uint64_t id, uint64_t prompt_len, const int32_t *ids, bool write)
{
	const uint32_t tokens = pool->layout->groups[0].tokens_per_block;

	for (uint64_t t = 0; t < prompt_len; t++) {
		for (uint32_t cell = 0; cell < cells_of(pool); cell++) {
			uint64_t *row = row_at(pool, ids[t / tokens], cell, (uint32_t)(t % tokens));

			for (uint64_t w = 0; w < words_of_row(pool); w++) {
				if (write)
					row[w] = word_of(pool, id, cell, t, w);
				else if (row[w] != word_of(pool, id, cell, t, w))
					return false;
			}
		}
	}
	return true;
}

void pool_fill(struct pool *pool, uint64_t id, uint64_t prompt_len, const int32_t *ids)
{
	(void)walk(pool, id, prompt_len, ids, true);
}

bool pool_holds(const struct pool *pool, uint64_t id, uint64_t prompt_len, const int32_t *ids)
{
	return walk(pool, id, prompt_len, ids, false);
}

static bool canaries(const struct pool *pool, int32_t block, bool write)
{
	bool all = true;

	for (uint32_t t = 0; t < pool->layout->groups[0].tokens_per_block; t++) {
		for (uint32_t cell = 0; cell < cells_of(pool); cell++) {
			uint64_t *row = row_at(pool, block, cell, t);

			for (uint64_t w = 0; w < words_of_row(pool); w++) {
				if (write)
					row[w] = CANARY;
				all = all && row[w] == CANARY;
			}
		}
	}
	return all;
}

bool pool_take(struct pool *pool, uint32_t n, int32_t *ids)
{
	if (n > pool->n_free)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		ids[i] = pool->free_ids[--pool->n_free];
		pool->taken_hash = mix(pool->taken_hash + (uint64_t)ids[i] + 1);
		pool->damaged += !canaries(pool, ids[i], false);
	}
	return true;
}

void pool_give(struct pool *pool, uint32_t n, const int32_t *ids)
{
	for (uint32_t i = n; i-- > 0;) {
		(void)canaries(pool, ids[i], true);
		pool->free_ids[pool->n_free++] = ids[i];
	}
}

bool pool_is_whole(struct pool *pool)
{
	for (uint32_t i = 0; i < pool->n_free; i++)
		pool->damaged += !canaries(pool, pool->free_ids[i], false);
	if (pool->damaged > 0 || pool->n_free != pool->n_blocks)
		(void)printf("%u of %u blocks are free, %u were written after they were\n", pool->n_free,
			pool->n_blocks, pool->damaged);
	return pool->damaged == 0 && pool->n_free == pool->n_blocks;
}
