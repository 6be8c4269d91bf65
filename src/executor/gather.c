/* gather.c - two all-gathers that come ready-made: over an agent's control channel, and between threads.
 *
 * Between threads: every rank has two places for what it says, by the parity of the round, and a word with the round it has posted. It writes a place
 * before that word, and the others read it after, so no lock is needed and a thread that is stopped anywhere stops nobody. A place is written again two
 * rounds later, which its rank can be in only when all have posted the round between, and so have done with the parts of this one.
 */
#include "executor/guard.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- over the control channel ---- */

static enum kvf_status over_post(void *self, uint64_t round, const void *bytes, uint32_t len_bytes)
{
	const struct kvf_guard_over *over = self;

	return kvf_group_post(over->agent, over->group, round, bytes, len_bytes);
}

static enum kvf_status over_test(void *self, uint64_t round, struct kvf_group_part *parts_out)
{
	const struct kvf_guard_over *over = self;

	(void)round;
	return kvf_group_test(over->agent, over->group, parts_out);
}

void kvf_guard_group_over(
	struct kvf_guard_over *over, const struct kvf_group_params *params, struct kvf_guard_group *group_out)
{
	if (over == NULL || params == NULL || group_out == NULL)
		return;
	*group_out = (struct kvf_guard_group){.self = over,
		.rank = params->rank,
		.n_ranks = params->n_ranks,
		.max_bytes = params->max_bytes,
		.post = over_post,
		.test = over_test};
}

/* ---- between threads ---- */

struct thread_rank {
	kvf_guard_threads *threads;
	uint32_t rank;
	_Atomic uint64_t posted; /* round */
	uint32_t len_bytes[2];
	unsigned char *bytes[2];
};

struct kvf_guard_threads {
	uint32_t n_ranks, max_bytes;
	unsigned char *memory;
	struct thread_rank ranks[];
};

static enum kvf_status threads_post(void *self, uint64_t round, const void *bytes, uint32_t len_bytes)
{
	struct thread_rank *rank = self;

	if (round != atomic_load_explicit(&rank->posted, memory_order_relaxed) + 1)
		return kvf_fail(KVF_EINVAL, "round: %llu, the next one is %llu", (unsigned long long)round,
			(unsigned long long)atomic_load(&rank->posted) + 1);
	if (len_bytes > rank->threads->max_bytes)
		return kvf_fail(
			KVF_EINVAL, "len_bytes: %u, max_bytes is %u", len_bytes, rank->threads->max_bytes);
	if (len_bytes > 0)
		memcpy(rank->bytes[round & 1], bytes, len_bytes);
	rank->len_bytes[round & 1] = len_bytes;
	atomic_store_explicit(&rank->posted, round, memory_order_release);
	return KVF_OK;
}

static enum kvf_status threads_test(void *self, uint64_t round, struct kvf_group_part *parts_out)
{
	const struct thread_rank *own = self;
	kvf_guard_threads *threads = own->threads;

	for (uint32_t i = 0; i < threads->n_ranks; i++)
		if (atomic_load_explicit(&threads->ranks[i].posted, memory_order_acquire) < round)
			return kvf_fail(KVF_EAGAIN, "rank %u is awaited", i);
	for (uint32_t i = 0; i < threads->n_ranks; i++)
		parts_out[i] = (struct kvf_group_part){
			threads->ranks[i].bytes[round & 1], threads->ranks[i].len_bytes[round & 1]};
	return KVF_OK;
}

enum kvf_status kvf_guard_threads_new(uint32_t n_ranks, uint32_t max_bytes, kvf_guard_threads **threads_out)
{
	kvf_guard_threads *threads;
	unsigned char *at;

	if (threads_out == NULL)
		return kvf_fail(KVF_EINVAL, "threads_out must not be NULL");
	if (n_ranks == 0 || n_ranks > KVF_GROUP_MAX_RANKS)
		return kvf_fail(KVF_EINVAL, "n_ranks: %u is not in 1..%u", n_ranks, KVF_GROUP_MAX_RANKS);
	if (max_bytes == 0 || max_bytes > KVF_GROUP_MAX_BYTES)
		return kvf_fail(KVF_EINVAL, "max_bytes: %u is not in 1..%u", max_bytes, KVF_GROUP_MAX_BYTES);
	threads = calloc(1, sizeof(*threads) + n_ranks * sizeof(struct thread_rank));
	at = malloc(2 * (size_t)n_ranks * max_bytes);
	if (threads == NULL || at == NULL) {
		free(threads);
		free(at);
		return kvf_fail(
			KVF_ENOMEM, "no memory for %u ranks with 2 times %u bytes", n_ranks, max_bytes);
	}
	threads->n_ranks = n_ranks;
	threads->max_bytes = max_bytes;
	threads->memory = at;
	for (uint32_t i = 0; i < n_ranks; i++) {
		threads->ranks[i].threads = threads;
		threads->ranks[i].rank = i;
		for (uint32_t parity = 0; parity < 2; parity++, at += max_bytes)
			threads->ranks[i].bytes[parity] = at;
	}
	*threads_out = threads;
	return KVF_OK;
}

enum kvf_status kvf_guard_threads_member(
	kvf_guard_threads *threads, uint32_t rank, struct kvf_guard_group *group_out)
{
	if (threads == NULL || group_out == NULL)
		return kvf_fail(KVF_EINVAL, "threads and group_out must not be NULL");
	if (rank >= threads->n_ranks)
		return kvf_fail(KVF_EINVAL, "rank: %u, the group has %u members", rank, threads->n_ranks);
	*group_out = (struct kvf_guard_group){.self = &threads->ranks[rank],
		.rank = rank,
		.n_ranks = threads->n_ranks,
		.max_bytes = threads->max_bytes,
		.post = threads_post,
		.test = threads_test};
	return KVF_OK;
}

void kvf_guard_threads_free(kvf_guard_threads *threads)
{
	if (threads == NULL)
		return;
	free(threads->memory);
	free(threads);
}
