/* plan_json.c - the JSON of kvferry plan. Others build on its keys: only add to them.
 *
 * block0_runs stands at its pair and, since --pair names just one, at the top as well. Its offsets are address minus
 * base[layer][part] of the run's first byte (block-major: minus the start of the slot), so they do not depend on the size of a pool.
 */
#include <stdlib.h>

#include "cli/json.h"
#include "cli/plan.h"

static void print_loops(struct json *json, const struct kvf_nest *nest)
{
	json_array(json, "loops");
	for (uint32_t i = 0; i < nest->n_loops; i++) {
		json_object(json, NULL);
		json_u64(json, "count", nest->loops[i].count);
		json_i64(json, "src_stride", nest->loops[i].src_stride);
		json_i64(json, "dst_stride", nest->loops[i].dst_stride);
		json_end(json);
	}
	json_end(json);
}

static void print_nests(struct json *json, const kvf_plan *plan)
{
	const struct kvf_nest *nests;
	uint32_t n = kvf_plan_nests(plan, &nests);

	json_array(json, "nests");
	for (uint32_t i = 0; i < n; i++) {
		const uint32_t *layers;

		(void)kvf_plan_layers(plan, nests[i].group, &layers);
		json_object(json, NULL);
		json_u64(json, "group", nests[i].group);
		json_array(json, "layers");
		for (uint32_t k = 0; k < nests[i].n_layers; k++)
			json_u64(json, NULL, layers[nests[i].layer_first + k]);
		json_end(json);
		json_array(json, "heads");
		json_u64(json, NULL, nests[i].head_start);
		json_u64(json, NULL, nests[i].head_end);
		json_end(json);
		json_u64(json, "run_bytes", nests[i].run_bytes);
		json_u64(json, "src_offset", nests[i].src_offset);
		json_u64(json, "dst_offset", nests[i].dst_offset);
		print_loops(json, &nests[i]);
		json_end(json);
	}
	json_end(json);
}

/* Where block 0 of what the offset lies in begins: block-major the slot of the group, else the pool of the (layer, part). */
static uint64_t block_base(
	const struct kvf_group *group, enum kvf_memory_order order, uint32_t layer, uint64_t offset)
{
	uint64_t best = 0;

	for (uint32_t i = 0; i < group->n_layers; i++) {
		const uint64_t *bases = group->bases + (size_t)i * group->n_parts;

		if (order == KVF_BLOCK_MAJOR && i == 0)
			return bases[0];
		for (uint32_t part = 0; group->layers[i] == layer && part < group->n_parts; part++) {
			if (bases[part] <= offset && bases[part] > best)
				best = bases[part];
		}
	}
	return best;
}

static void print_block0_runs(struct json *json, const struct plan_job *job, const struct plan_pair *one)
{
	uint64_t n = 0, again;
	struct kvf_run *runs = NULL;

	if (kvf_plan_block0_runs(one->plan, NULL, 0, &n) == KVF_OK)
		runs = calloc(n + 1, sizeof *runs);
	if (!runs || kvf_plan_block0_runs(one->plan, runs, n, &again) != KVF_OK)
		n = 0;
	json_array(json, "block0_runs");
	for (uint64_t i = 0; i < n; i++) {
		const struct kvf_group *src = &job->prefill.layouts[one->pair.src]->groups[runs[i].group];
		const struct kvf_group *dst = &job->decode.layouts[one->pair.dst]->groups[runs[i].group];
		uint64_t src_base =
			block_base(src, job->prefill.ranks.memory_order, runs[i].layer, runs[i].src_offset);
		uint64_t dst_base =
			block_base(dst, job->decode.ranks.memory_order, runs[i].layer, runs[i].dst_offset);

		json_array(json, NULL);
		json_u64(json, NULL, runs[i].layer);
		json_u64(json, NULL, runs[i].src_offset - src_base);
		json_u64(json, NULL, runs[i].dst_offset - dst_base);
		json_u64(json, NULL, runs[i].len_bytes);
		json_end(json);
	}
	json_end(json);
	free(runs);
}

static void print_pair(struct json *json, const struct plan_job *job, const struct plan_pair *one)
{
	json_object(json, NULL);
	json_u64(json, "src", one->pair.src);
	json_u64(json, "dst", one->pair.dst);
	json_bool(json, "kv", one->pair.kv);
	json_bool(json, "aux", one->pair.aux);
	json_u64(json, "bytes", one->totals.bytes);
	json_u64(json, "runs", one->totals.runs);
	json_u64(json, "run_bytes_min", one->totals.run_bytes_min);
	json_u64(json, "run_bytes_max", one->totals.run_bytes_max);
	print_nests(json, one->plan);
	if (job->args.runs && one->pair.src == job->focus_src && one->pair.dst == job->focus_dst)
		print_block0_runs(json, job, one);
	json_end(json);
}

static void print_explanation(void *user, const char *line)
{
	json_string(user, NULL, line);
}

void plan_print_json(const struct plan_job *job)
{
	struct json json;

	json_init(&json, stdout);
	json_object(&json, NULL);
	json_string(&json, "model", job->model.name);
	json_u64(&json, "tokens", job->args.tokens);
	json_u64(&json, "bytes_per_token", job->model.bytes_per_token);
	json_u64(&json, "total_bytes", job->total_bytes);
	json_array(&json, "pairs");
	for (uint32_t i = 0; i < job->n_pairs; i++)
		print_pair(&json, job, &job->pairs[i]);
	json_end(&json);
	if (job->args.runs && !job->is_refused)
		print_block0_runs(&json, job, plan_find_pair(job, job->focus_src, job->focus_dst));
	json_array(&json, "expected_results");
	for (uint32_t rank = 0; rank < job->decode.ranks.n && !job->is_refused; rank++)
		json_u64(&json, NULL, job->expected[rank]);
	json_end(&json);
	if (job->is_refused) {
		json_object(&json, "refused");
		json_string(&json, "field", job->refusal.field);
		json_string(&json, "prefill", job->refusal.prefill);
		json_string(&json, "decode", job->refusal.decode);
		json_end(&json);
	} else {
		json_null(&json, "refused");
	}
	if (job->args.explain) {
		json_array(&json, "explain");
		plan_explain(job, print_explanation, &json);
		json_end(&json);
	}
	json_end(&json);
}
