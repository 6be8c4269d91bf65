/* replay_blocks.c - the block allocator and the reuse index of a replay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cli/replay_blocks.h"

#define BLOCKS 1000u

static void t_every_block_is_given_once(void **state)
{
	(void)state;
	struct replay_pool pool;
	int32_t ids[BLOCKS];
	bool seen[BLOCKS] = {false};
	assert_true(replay_pool_init(&pool, BLOCKS, 4, 7));
	assert_int_equal(replay_pool_room(&pool), BLOCKS);
	replay_pool_take(&pool, 400, ids);
	replay_pool_take(&pool, 600, ids + 400);
	assert_int_equal(replay_pool_room(&pool), 0);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		assert_in_range(ids[i], 0, BLOCKS - 1);
		assert_false(seen[ids[i]]);
		seen[ids[i]] = true;
	}
	for (uint32_t i = 0; i < BLOCKS; i += 2)
		replay_pool_give(&pool, ids[i]);
	assert_int_equal(replay_pool_room(&pool), BLOCKS / 2);
	replay_pool_fini(&pool);
}

/* Mean length of the runs in a list. */
static double mean_run(const int32_t *ids, uint32_t n)
{
	uint32_t runs = 1;
	for (uint32_t i = 1; i < n; i++)
		runs += ids[i] != ids[i - 1] + 1;
	return (double)n / runs;
}

static void t_runs_have_the_length_asked_for(void **state)
{
	(void)state;
	static int32_t ids[20000];
	for (uint64_t want = 1; want <= 64; want *= 8) {
		struct replay_pool pool;
		assert_true(replay_pool_init(&pool, 200000, want, 3));
		replay_pool_take(&pool, 20000, ids);
		double mean = mean_run(ids, 20000);
		assert_true(mean > 0.8 * (double)want && mean < 1.25 * (double)want);
		replay_pool_fini(&pool);
	}
}

static void t_the_same_seed_gives_the_same_ids(void **state)
{
	(void)state;
	int32_t first[100], second[100], other[100];
	for (uint64_t i = 0; i < 3; i++) {
		struct replay_pool pool;
		int32_t *out = i == 0 ? first : i == 1 ? second : other;
		assert_true(replay_pool_init(&pool, BLOCKS, 4, i == 2 ? 8 : 7));
		replay_pool_take(&pool, 100, out);
		replay_pool_fini(&pool);
	}
	assert_memory_equal(first, second, sizeof(first));
	assert_memory_not_equal(first, other, sizeof(first));
}

static void t_an_indexed_block_is_found_until_it_is_evicted(void **state)
{
	(void)state;
	struct replay_pool pool;
	int32_t ids[4], all[4];
	assert_true(replay_pool_init(&pool, 4, 1, 1));
	replay_pool_take(&pool, 4, ids);
	for (int32_t i = 0; i < 4; i++)
		assert_true(replay_pool_index(&pool, ids[i], 100 + (uint64_t)i));
	assert_int_equal(replay_pool_room(&pool), 4);

	assert_int_equal(replay_pool_use(&pool, 101), ids[1]);
	assert_int_equal(replay_pool_room(&pool), 3);
	assert_int_equal(replay_pool_use(&pool, 7), -1);

	replay_pool_take(&pool, 2, all); /* evicts the two oldest that nobody uses: 100 and 102 */
	assert_int_equal(replay_pool_use(&pool, 100), -1);
	assert_int_equal(replay_pool_use(&pool, 102), -1);
	assert_int_equal(replay_pool_use(&pool, 103), ids[3]);
	assert_int_equal(replay_pool_room(&pool), 0);
	replay_pool_unuse(&pool, ids[3]);
	assert_int_equal(replay_pool_room(&pool), 1);
	replay_pool_fini(&pool);
}

static void t_use_makes_a_block_young_again(void **state)
{
	(void)state;
	struct replay_pool pool;
	int32_t ids[2], one;
	assert_true(replay_pool_init(&pool, 2, 1, 1));
	replay_pool_take(&pool, 2, ids);
	assert_true(replay_pool_index(&pool, ids[0], 10));
	assert_true(replay_pool_index(&pool, ids[1], 11));
	assert_int_equal(replay_pool_use(&pool, 10), ids[0]);
	replay_pool_unuse(&pool, ids[0]);
	replay_pool_take(&pool, 1, &one);
	assert_int_equal(one, ids[1]);
	assert_int_equal(replay_pool_use(&pool, 10), ids[0]);
	replay_pool_fini(&pool);
}

static void t_a_key_is_indexed_once(void **state)
{
	(void)state;
	struct replay_pool pool;
	int32_t ids[2];
	assert_true(replay_pool_init(&pool, 2, 1, 1));
	replay_pool_take(&pool, 2, ids);
	assert_true(replay_pool_index(&pool, ids[0], 10));
	assert_false(replay_pool_index(&pool, ids[1], 10));
	replay_pool_give(&pool, ids[1]);
	assert_int_equal(replay_pool_room(&pool), 2);
	replay_pool_fini(&pool);
}

/* What a request in the model below holds. */
struct held {
	int32_t id;
	uint64_t key; /* 0: taken, not indexed */
};

/* Random takes, gives, uses and evictions against plain arrays. */
static void t_a_long_life_agrees_with_a_model(void **state)
{
	(void)state;
	enum {
		ROUNDS = 200000,
		N = 64,
		KEYS = 96
	};
	struct replay_pool pool;
	struct held held[N];
	uint32_t n_held = 0, users[N] = {0};
	uint64_t x = 88172645463325252u;
	assert_true(replay_pool_init(&pool, N, 3, 5));
	for (uint32_t round = 0; round < ROUNDS; round++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		uint64_t key = 1 + (x >> 8) % KEYS;
		uint32_t at = n_held ? (uint32_t)(x >> 20) % n_held : 0;
		if (x % 4 == 0 && n_held < N && replay_pool_room(&pool) > 0) {
			replay_pool_take(&pool, 1, &held[n_held].id);
			assert_int_equal(users[held[n_held].id], 0);
			users[held[n_held].id] = 1;
			held[n_held++].key = 0;
		} else if (x % 4 == 1 && n_held < N && (held[n_held].id = replay_pool_use(&pool, key)) >= 0) {
			users[held[n_held].id]++;
			held[n_held++].key = key;
		} else if (x % 4 >= 2 && n_held > 0) {
			users[held[at].id]--;
			if (held[at].key)
				replay_pool_unuse(&pool, held[at].id);
			else if (x % 4 == 2 || !replay_pool_index(&pool, held[at].id, key))
				replay_pool_give(&pool, held[at].id);
			held[at] = held[--n_held];
		}
		uint32_t used = 0;
		for (uint32_t i = 0; i < N; i++)
			used += users[i] > 0;
		assert_int_equal(replay_pool_room(&pool), N - used);
	}
	replay_pool_fini(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_every_block_is_given_once),
		cmocka_unit_test(t_runs_have_the_length_asked_for),
		cmocka_unit_test(t_the_same_seed_gives_the_same_ids),
		cmocka_unit_test(t_an_indexed_block_is_found_until_it_is_evicted),
		cmocka_unit_test(t_use_makes_a_block_young_again),
		cmocka_unit_test(t_a_key_is_indexed_once),
		cmocka_unit_test(t_a_long_life_agrees_with_a_model),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
