/* executor_ranks.h - four guards of one group in one thread, each over an agent that does what it is told. For the test that includes it. */
#ifndef TESTS_UNIT_EXECUTOR_RANKS_H
#define TESTS_UNIT_EXECUTOR_RANKS_H

#include "executor_rig.h"

#define RANKS 4u

static struct rig rigs[RANKS];
static kvf_guard_threads *threads;

static struct kvf_guard_group member(uint32_t rank)
{
	struct kvf_guard_group group;

	RIG_WORKS(kvf_guard_threads_member(threads, rank, &group));
	return group;
}

static inline void open_rank(uint32_t rank, bool free_together)
{
	struct kvf_guard_options options = rig_options(&rigs[rank]);
	struct kvf_guard_group group = member(rank);

	options.group = &group;
	options.free_together = free_together;
	rig_open(&rigs[rank], &options);
}

static inline int open_all(bool free_together)
{
	RIG_WORKS(kvf_guard_threads_new(RANKS, kvf_guard_group_bytes(64), &threads));
	for (uint32_t i = 0; i < RANKS; i++)
		open_rank(i, free_together);
	return 0;
}

static inline int open_ranks(void **state)
{
	(void)state;
	return open_all(false);
}

static inline int open_together(void **state)
{
	(void)state;
	return open_all(true);
}

static inline int close_ranks(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < RANKS; i++)
		rig_close(&rigs[i]);
	kvf_guard_threads_free(threads);
	return 0;
}

static inline void tick_all(uint32_t times)
{
	while (times-- > 0)
		for (uint32_t i = 0; i < RANKS; i++)
			rig_tick(&rigs[i]);
}

static inline void add_all(uint64_t id)
{
	for (uint32_t i = 0; i < RANKS; i++)
		rig_add(&rigs[i], id);
}

static inline void expect_all(enum kvf_guard_kind kind, uint64_t id, enum kvf_status status)
{
	for (uint32_t i = 0; i < RANKS; i++)
		rig_expect(&rigs[i], kind, id, status);
}

static inline void expect_nothing(void)
{
	for (uint32_t i = 0; i < RANKS; i++)
		rig_expect_nothing(&rigs[i]);
}

#endif
