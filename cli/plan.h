/* plan.h - what kvferry plan computes, for its printers: JSON, table and picture, explanation. */
#ifndef KVFERRY_CLI_PLAN_H
#define KVFERRY_CLI_PLAN_H

#include "cli/model.h"
#include "cli/ranks.h"

struct plan_pair {
	struct kvf_pair pair;
	kvf_plan *plan;
	struct kvf_plan_totals totals;
};

/* One side: the instance and the layout of each of its ranks, pools from address 0. */
struct plan_side {
	struct ranks ranks;
	struct kvf_instance *instance;
	struct kvf_layout **layouts; /* ranks.n */
};

struct plan_args {
	const char *model, *prefill, *decode, *request_dp, *pair;
	uint64_t tokens, block_tokens;
	uint32_t replica; /* enum kvf_replica */
	bool runs, explain, json;
};

/* Owns all it points to; see plan_compute and plan_fini. */
struct plan_job {
	struct plan_args args;
	struct model model;
	struct plan_side prefill, decode;
	uint32_t src_dp, dst_dp;
	bool has_focus; /* --pair */
	uint32_t focus_src, focus_dst;
	uint32_t n_pairs;
	struct plan_pair *pairs; /* sorted by (src, dst) */
	uint32_t *expected;      /* results that each decode rank waits for */
	uint64_t total_bytes;
	bool is_refused;
	struct kvf_refusal refusal;
};

/* The pair, or NULL when the two are not paired. */
const struct plan_pair *plan_find_pair(const struct plan_job *job, uint32_t src, uint32_t dst);
/* DP index of a rank. */
uint32_t plan_dp_index(const struct kvf_instance *instance, uint32_t rank);

void plan_print_json(const struct plan_job *job);
void plan_print_table(const struct plan_job *job);
/* One sentence per (source, destination) and, first, the comparison of the two sides. print gets each line. */
void plan_explain(const struct plan_job *job, void (*print)(void *user, const char *line), void *user);

/* "heads 0-1 of layers 0-31; ..." over the groups that the pair moves. */
void plan_describe_pair(const struct plan_job *job, const struct plan_pair *one, char *buffer, size_t size);
/* "0-3,7" of ascending ids; cut with "..." when it does not fit. */
void plan_format_ids(const uint32_t *ids, uint32_t n, char *buffer, size_t size);

#endif
