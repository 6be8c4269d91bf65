/* plan.c - kvferry plan: who sends what to whom, and why. This file parses and computes; the printers are beside it.
 *
 * Both sides' layouts are made with pools that begin at address 0 and hold the prompt's blocks (two at least, so that
 * neighbouring pools never merge with a block); offsets inside a block do not depend on that number.
 */
#include "cli/plan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/command.h"
#include "cli/term.h"
#include "cli/units.h"

static const struct arg_option options[] = {
	{"model", "M", "built-in name, config.json, or layers=...; see kvferry models --help", ARG_TEXT,
		ARG_FIELD(struct plan_args, model), .required = true},
	{"tokens", "N", "length of the prompt", ARG_NUMBER, ARG_FIELD(struct plan_args, tokens), .min = 1,
		.max = KVF_MAX_TOKENS, .required = true},
	{"block-tokens", "B", "tokens per block, unless a rank spec says block=; default 32", ARG_NUMBER,
		ARG_FIELD(struct plan_args, block_tokens), .min = 1, .max = 65536},
	{"prefill", "SPEC", "ranks that send; default tp=1", ARG_TEXT, ARG_FIELD(struct plan_args, prefill)},
	{"decode", "SPEC", "ranks that receive; default tp=1", ARG_TEXT, ARG_FIELD(struct plan_args, decode)},
	{"request-dp", "S[:D]", "DP index of the request on each side; default: 0, and all decode ranks",
		ARG_TEXT, ARG_FIELD(struct plan_args, request_dp)},
	{"replica", NULL, "who of several holders sends: one (elect, default), or all share the layers",
		ARG_CHOICE, ARG_FIELD(struct plan_args, replica), .choices = "elect|stripe"},
	{"pair", "SRC:DST", "look at one pair of ranks", ARG_TEXT, ARG_FIELD(struct plan_args, pair)},
	{"runs", NULL, "with --pair: the runs of the first block", ARG_FLAG,
		ARG_FIELD(struct plan_args, runs)},
	{"explain", NULL, "why each source owes each destination what it does, or why the sides do not fit",
		ARG_FLAG, ARG_FIELD(struct plan_args, explain)},
	{"json", NULL, "print JSON", ARG_FLAG, ARG_FIELD(struct plan_args, json)},
};

static const struct args_spec spec = {
	.command = "plan",
	.summary = "who sends what to whom, and why",
	.usage = "plan --model M --tokens N [--block-tokens B] --prefill SPEC --decode SPEC [options]",
	.description =
		"SPEC: "
		"tp=4,pp=2,cp=1,dp=2,attention-dp,stages=3:2,layout=block-major|hnd|nhd,block=B,order=pp:cp:"
		"tp\n"
		"  Every key is optional; counts are 1 unless given. attention-dp alone means dp=tp. cp is "
		"for decode only.\n"
		"  stages: layers of each of the pp stages; order: how ranks are numbered, slowest first.\n"
		"Bytes count whole blocks, the tail of the last one included; runs assume no adjacent block "
		"ids.\n"
		"A plan that is refused prints why and exits 1.\n",
	.examples = "  kvferry plan --model llama-3.1-8b --tokens 8192 --prefill tp=4 --decode tp=2\n"
		    "  kvferry plan --model deepseek-v3 --tokens 4096 --prefill tp=8 --decode "
		    "tp=8,attention-dp --explain\n"
		    "  kvferry plan --model llama-3.1-70b --tokens 8192 --prefill tp=4,pp=2 --decode "
		    "tp=8,layout=nhd,block=16 --json\n"
		    "  kvferry plan --model layers=2,heads=8,head_dim=128,dtype=bf16 --tokens 32 --prefill "
		    "tp=4 --decode tp=2 --pair 1:0 --runs\n",
	.options = options,
	.n_options = sizeof options / sizeof options[0],
};

#define MAX_PAIRS       (1u << 18) /* more than that nobody reads, and the plans would fill the memory */
#define MAX_POOL_BLOCKS (UINT64_C(1) << 30)

uint32_t plan_dp_index(const struct kvf_instance *instance, uint32_t rank)
{
	return instance->ranks[rank].tp / (instance->tp / instance->dp);
}

const struct plan_pair *plan_find_pair(const struct plan_job *job, uint32_t src, uint32_t dst)
{
	uint32_t low = 0, high = job->n_pairs;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const struct kvf_pair *pair = &job->pairs[middle].pair;

		if (pair->src == src && pair->dst == dst)
			return &job->pairs[middle];
		if (pair->src < src || (pair->src == src && pair->dst < dst))
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* "3" or "3:1" into one or two numbers below their limits. */
static bool parse_two(const char *text, uint32_t limit_a, uint32_t limit_b, uint32_t *a_out, uint32_t *b_out,
	struct reason *why)
{
	char copy[64];
	char *second;
	uint64_t a, b;

	if (strlen(text) >= sizeof copy)
		return reason_set(why, "'%.64s' is too long", text);
	strcpy(copy, text);
	second = strchr(copy, ':');
	if (second)
		*second++ = '\0';
	if (!units_parse_number(copy, 0, limit_a - 1, &a, why))
		return reason_prefix(why, "prefill side");
	if (second && !units_parse_number(second, 0, limit_b - 1, &b, why))
		return reason_prefix(why, "decode side");
	*a_out = (uint32_t)a;
	if (second)
		*b_out = (uint32_t)b;
	return true;
}

static bool parse_pair(struct plan_job *job, struct reason *why)
{
	if (!job->args.pair)
		return !job->args.runs || reason_set(why, "--runs: needs --pair SRC:DST");
	if (!strchr(job->args.pair, ':'))
		return reason_set(why, "--pair: '%.64s' is not SRC:DST", job->args.pair);
	job->has_focus = true;
	return parse_two(job->args.pair, job->prefill.ranks.n, job->decode.ranks.n, &job->focus_src,
		       &job->focus_dst, why) ||
	       reason_prefix(why, "--pair");
}

/* Ranks that take part on one side times those on the other. */
static bool check_size(const struct plan_job *job, struct reason *why)
{
	const struct ranks *prefill = &job->prefill.ranks, *decode = &job->decode.ranks;
	uint64_t sources = prefill->n / prefill->parallel.dp;
	uint64_t destinations = job->dst_dp == KVF_DP_UNKNOWN ? decode->n : decode->n / decode->parallel.dp;

	if (sources * destinations <= MAX_PAIRS)
		return true;
	return reason_set(why,
		"%" PRIu64 " sources and %" PRIu64 " destinations are too many to list, at most %u pairs%s",
		sources, destinations, MAX_PAIRS,
		decode->parallel.dp > 1 ? "; name the DP index of both sides: --request-dp S:D" : "");
}

/* What depends on several options. False: usage. */
static bool parse_job(struct plan_job *job, struct reason *why)
{
	const struct plan_args *args = &job->args;
	uint32_t block = (uint32_t)args->block_tokens;

	if (!model_parse(args->model, &job->model, why))
		return reason_prefix(why, "--model");
	if (!ranks_parse(args->prefill, KVF_PREFILL, &job->model, block, &job->prefill.ranks, why))
		return reason_prefix(why, "--prefill");
	if (!ranks_parse(args->decode, KVF_DECODE, &job->model, block, &job->decode.ranks, why))
		return reason_prefix(why, "--decode");
	job->dst_dp = KVF_DP_UNKNOWN;
	if (args->request_dp && !parse_two(args->request_dp, job->prefill.ranks.parallel.dp,
					job->decode.ranks.parallel.dp, &job->src_dp, &job->dst_dp, why))
		return reason_prefix(why, "--request-dp");
	return check_size(job, why) && parse_pair(job, why);
}

static enum kvf_status make_side(const struct plan_job *job, struct plan_side *side, uint64_t id)
{
	uint64_t blocks =
		(job->args.tokens + side->ranks.tokens_per_block - 1) / side->ranks.tokens_per_block;
	struct kvf_layout_options layout = {.order = side->ranks.memory_order,
		.tokens_per_block = side->ranks.tokens_per_block,
		.state_slots = 2};
	enum kvf_status status;
	uint64_t pool_bytes;

	layout.blocks = (uint32_t)(blocks < 2 ? 2 : blocks < MAX_POOL_BLOCKS ? blocks : MAX_POOL_BLOCKS);
	status = kvf_instance_new(
		&job->model.kvf, &side->ranks.parallel, side->ranks.role, id, &side->instance);
	if (status != KVF_OK)
		return status;
	side->layouts = calloc(side->ranks.n, sizeof(struct kvf_layout *));
	if (!side->layouts)
		return KVF_ENOMEM;
	for (uint32_t rank = 0; rank < side->ranks.n && status == KVF_OK; rank++)
		status = kvf_layout_new(
			&job->model.kvf, side->instance, rank, &layout, &side->layouts[rank], &pool_bytes);
	return status;
}

static enum kvf_status find_pairs(struct plan_job *job)
{
	const struct kvf_instance *prefill = job->prefill.instance, *decode = job->decode.instance;
	enum kvf_status status = kvf_pairs(prefill, decode, job->src_dp, job->dst_dp, NULL, 0, &job->n_pairs);
	struct kvf_pair *pairs;
	uint32_t n;

	if (status != KVF_OK)
		return status;
	status = KVF_ENOMEM;
	pairs = calloc(job->n_pairs + 1, sizeof *pairs);
	job->pairs = calloc(job->n_pairs + 1, sizeof *job->pairs);
	job->expected = calloc(job->decode.ranks.n, sizeof *job->expected);
	status = pairs && job->pairs && job->expected
	                 ? kvf_pairs(prefill, decode, job->src_dp, job->dst_dp, pairs, job->n_pairs, &n)
	                 : KVF_ENOMEM;
	for (uint32_t i = 0; i < job->n_pairs && status == KVF_OK; i++) {
		job->pairs[i].pair = pairs[i];
		job->expected[pairs[i].dst]++;
	}
	free(pairs);
	return status;
}

static enum kvf_status plan_one(struct plan_job *job, struct plan_pair *one)
{
	const struct kvf_layout *src = job->prefill.layouts[one->pair.src];
	const struct kvf_layout *dst = job->decode.layouts[one->pair.dst];
	enum kvf_status status;

	status = kvf_pair_compatible(job->prefill.instance, src, job->decode.instance, dst, &job->refusal);
	job->is_refused = status == KVF_INCOMPATIBLE;
	if (status == KVF_OK)
		status = kvf_plan_new(job->prefill.instance, src, job->decode.instance, dst,
			(enum kvf_replica)job->args.replica, &one->plan);
	if (status == KVF_OK)
		status = kvf_plan_totals(one->plan, job->args.tokens, &one->totals);
	if (status == KVF_OK)
		job->total_bytes += one->totals.bytes;
	return status;
}

static void drop_pairs(struct plan_job *job)
{
	for (uint32_t i = 0; i < job->n_pairs; i++)
		kvf_plan_free(job->pairs[i].plan);
	job->n_pairs = 0;
	job->total_bytes = 0;
}

/* False with why set, or the plan is there, or it is refused and job->is_refused says so. */
static bool plan_compute(struct plan_job *job, struct reason *why)
{
	enum kvf_status status = make_side(job, &job->prefill, 1);
	struct term_progress progress;

	if (status == KVF_OK)
		status = make_side(job, &job->decode, 2);
	if (status == KVF_OK)
		status = find_pairs(job);
	term_progress_start(&progress, "planning", "pairs", job->n_pairs);
	for (uint32_t i = 0; i < job->n_pairs && status == KVF_OK; i++) {
		status = plan_one(job, &job->pairs[i]);
		term_progress_update(&progress, i + 1);
	}
	term_progress_end(&progress);
	if (job->is_refused)
		drop_pairs(job);
	return status == KVF_OK || job->is_refused ||
	       reason_set(why, "%s", *kvf_error() ? kvf_error() : kvf_status_text(status));
}

static void fini_side(struct plan_side *side)
{
	for (uint32_t rank = 0; side->layouts && rank < side->ranks.n; rank++)
		kvf_layout_free(side->layouts[rank]);
	free(side->layouts);
	kvf_instance_free(side->instance);
}

static void plan_free(struct plan_job *job)
{
	if (!job)
		return;
	drop_pairs(job);
	free(job->pairs);
	free(job->expected);
	fini_side(&job->prefill);
	fini_side(&job->decode);
	model_fini(&job->model);
	free(job);
}

static void print_line(void *user, const char *line)
{
	(void)user;
	puts(line);
}

static int print(const struct plan_job *job)
{
	if (!job->is_refused && job->has_focus && !plan_find_pair(job, job->focus_src, job->focus_dst)) {
		term_error("--pair: prefill rank %u and decode rank %u are not paired (--explain says why)",
			job->focus_src, job->focus_dst);
		return EXIT_WORK_FAILED;
	}
	if (job->args.json)
		plan_print_json(job);
	else if (job->is_refused)
		term_error("refused: %s: prefill has %s, decode has %s%s", job->refusal.field,
			job->refusal.prefill, job->refusal.decode,
			job->args.explain ? "" : " (--explain says more)");
	else
		plan_print_table(job);
	if (job->args.explain && !job->args.json)
		plan_explain(job, print_line, NULL);
	return job->is_refused ? EXIT_WORK_FAILED : EXIT_SUCCESS;
}

int command_plan(int argc, char **argv)
{
	struct plan_job *job = calloc(1, sizeof *job);
	enum args_result result;
	struct reason why;
	int code;

	if (!job) {
		term_error("out of memory");
		return EXIT_WORK_FAILED;
	}
	job->args = (struct plan_args){.prefill = "tp=1", .decode = "tp=1", .block_tokens = 32};
	result = args_parse(&spec, argc, argv, &job->args);
	if (result != ARGS_RUN) {
		code = args_exit_code(result);
		goto out;
	}
	if (!parse_job(job, &why)) {
		code = args_usage_error(&spec, "%s", why.text);
		goto out;
	}
	if (plan_compute(job, &why)) {
		code = print(job);
		goto out;
	}
	term_error("plan: %s", why.text);
	code = EXIT_WORK_FAILED;
out:
	plan_free(job);
	return code;
}
