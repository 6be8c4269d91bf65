/* geometry_scenario.h - random small worlds for the property test: two instances, layouts, lists, slices; all from one seed. */
#ifndef TESTS_GEOMETRY_SCENARIO_H
#define TESTS_GEOMETRY_SCENARIO_H

#include <stdbool.h>
#include <stdint.h>
#include "geometry_oracle.h"

#define SCENARIO_MAX_RANKS  24u
#define SCENARIO_MAX_BLOCKS 64u /* of one list */
#define SCENARIO_MAX_SLICES 16u

struct random {
	uint64_t state;
};
uint64_t random_u64(struct random *random);
/* In [low, high]. */
uint32_t random_in(struct random *random, uint32_t low, uint32_t high);
bool random_one_in(struct random *random, uint32_t n);

/* One side: its instance, and per rank a layout over real memory. */
struct scenario_side {
	struct kvf_model model;
	struct kvf_group_spec groups[KVF_MAX_GROUPS];
	uint32_t layers[KVF_MAX_GROUPS][32];
	struct kvf_instance *instance;
	struct kvf_layout *layouts[SCENARIO_MAX_RANKS];
	uint8_t *memory[SCENARIO_MAX_RANKS];
	uint64_t memory_bytes[SCENARIO_MAX_RANKS];
};

struct scenario_list {
	int32_t ids[SCENARIO_MAX_BLOCKS];
	uint32_t n;
};

struct scenario_slice {
	struct kvfi_shape shape;
	/* Per source rank and group: the last n blocks of the slice. */
	struct kvfi_ids lists[SCENARIO_MAX_RANKS][KVF_MAX_GROUPS];
};

struct scenario {
	uint64_t seed;
	struct random random;
	struct scenario_side prefill, decode;
	uint32_t n_groups;
	uint32_t src_dp;
	enum kvf_replica replica;
	uint64_t prompt_len;
	/* Every block of the prompt on every source rank (negative: no page), and what each destination lists. */
	struct scenario_list src_blocks[SCENARIO_MAX_RANKS][KVF_MAX_GROUPS];
	struct scenario_list dst_lists[SCENARIO_MAX_RANKS][KVF_MAX_GROUPS];
	uint32_t evicted[KVF_MAX_GROUPS]; /* leading blocks of the prompt that no source lists */
	uint32_t n_slices;
	struct scenario_slice slices[SCENARIO_MAX_SLICES];
};

void scenario_init(struct scenario *scenario, uint64_t seed);
void scenario_fini(struct scenario *scenario);

/* Content of one byte of a cell; the same in every replica. */
uint8_t scenario_content(uint64_t seed, const struct oracle_cell *cell, uint64_t byte);
/* Does every source rank list this token, with a page? */
bool scenario_source_has(const struct scenario *scenario, uint32_t group, uint64_t token);

#endif
