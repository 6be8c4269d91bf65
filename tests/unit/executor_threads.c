/* executor_threads.c - the group between threads: each a rank that goes its own pace, every word compared. */
#include "executor_rig.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define RANKS     4u
#define ROUNDS    3000u
#define MAX_BYTES 512u

static kvf_guard_threads *threads;
static _Atomic uint32_t wrong;

static uint32_t words_of(uint32_t rank, uint64_t round, unsigned char *bytes)
{
	const uint32_t len = (uint32_t)(round * 131 + rank * 17) % (MAX_BYTES + 1);

	for (uint32_t i = 0; i < len; i++)
		bytes[i] = (unsigned char)(round * 3 + rank * 85 + i);
	return len;
}

static bool are_right(const struct kvf_group_part *parts, uint64_t round)
{
	unsigned char bytes[MAX_BYTES];

	for (uint32_t i = 0; i < RANKS; i++)
		if (parts[i].len_bytes != words_of(i, round, bytes) ||
			memcmp(parts[i].bytes, bytes, parts[i].len_bytes) != 0)
			return false;
	return true;
}

static void *run(void *argument)
{
	struct kvf_guard_group group = *(struct kvf_guard_group *)argument;
	struct kvf_group_part parts[RANKS];
	unsigned char bytes[MAX_BYTES];

	for (uint64_t round = 1; round <= ROUNDS; round++) {
		const uint32_t len = words_of(group.rank, round, bytes);
		enum kvf_status status = group.post(group.self, round, bytes, len);

		while (status == KVF_OK && (status = group.test(group.self, round, parts)) == KVF_EAGAIN) {
			(void)sched_yield();
			status = KVF_OK;
		}
		if (status != KVF_OK || !are_right(parts, round)) {
			atomic_fetch_add(&wrong, 1);
			return NULL;
		}
		/* The others may be in the next round by now; these parts are ours until we are. */
		if (round % 7 == group.rank && !are_right(parts, round))
			atomic_fetch_add(&wrong, 1);
	}
	return NULL;
}

static void every_rank_hears_every_rank(void **state)
{
	struct kvf_guard_group groups[RANKS];
	pthread_t ids[RANKS];

	(void)state;
	RIG_WORKS(kvf_guard_threads_new(RANKS, MAX_BYTES, &threads));
	for (uint32_t i = 0; i < RANKS; i++) {
		RIG_WORKS(kvf_guard_threads_member(threads, i, &groups[i]));
		assert_int_equal(pthread_create(&ids[i], NULL, run, &groups[i]), 0);
	}
	for (uint32_t i = 0; i < RANKS; i++)
		(void)pthread_join(ids[i], NULL);
	assert_int_equal(wrong, 0);
	kvf_guard_threads_free(threads);
}

static void what_makes_no_sense_is_refused(void **state)
{
	struct kvf_guard_group group;
	struct kvf_group_part part;
	unsigned char bytes[9] = {0};

	(void)state;
	RIG_REFUSES(KVF_EINVAL, kvf_guard_threads_new(0, 8, &threads), "n_ranks: 0");
	RIG_REFUSES(KVF_EINVAL, kvf_guard_threads_new(65, 8, &threads), "n_ranks: 65");
	RIG_REFUSES(KVF_EINVAL, kvf_guard_threads_new(1, 0, &threads), "max_bytes: 0");
	RIG_REFUSES(KVF_EINVAL, kvf_guard_threads_new(1, 1u << 21, &threads), "max_bytes: 2097152");
	RIG_WORKS(kvf_guard_threads_new(1, 8, &threads));
	RIG_REFUSES(KVF_EINVAL, kvf_guard_threads_member(threads, 1, &group), "rank: 1");
	RIG_WORKS(kvf_guard_threads_member(threads, 0, &group));
	RIG_REFUSES(KVF_EINVAL, group.post(group.self, 2, bytes, 1), "next one is 1");
	RIG_REFUSES(KVF_EINVAL, group.post(group.self, 1, bytes, 9), "len_bytes: 9");
	RIG_REFUSES(KVF_EAGAIN, group.test(group.self, 1, &part), "rank 0");
	RIG_WORKS(group.post(group.self, 1, NULL, 0));
	RIG_WORKS(group.test(group.self, 1, &part));
	assert_int_equal(part.len_bytes, 0);
	kvf_guard_threads_free(threads);
	kvf_guard_threads_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_rank_hears_every_rank),
		cmocka_unit_test(what_makes_no_sense_is_refused),
	};

	return cmocka_run_group_tests_name("executor_threads", tests, NULL, NULL);
}
