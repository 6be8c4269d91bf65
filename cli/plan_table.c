/* plan_table.c - kvferry plan for people: the pairs as a table, and a small picture of who talks to whom. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/plan.h"
#include "cli/table.h"
#include "cli/term.h"
#include "cli/units.h"

#define MATRIX_MAX 32u

void plan_format_ids(const uint32_t *ids, uint32_t n, char *buffer, size_t size)
{
	size_t used = 0;

	buffer[0] = '\0';
	for (uint32_t i = 0; i < n;) {
		uint32_t last = i;
		char one[32];

		while (last + 1 < n && ids[last + 1] == ids[last] + 1)
			last++;
		if (last == i)
			(void)snprintf(one, sizeof one, "%s%u", i ? "," : "", ids[i]);
		else
			(void)snprintf(one, sizeof one, "%s%u-%u", i ? "," : "", ids[i], ids[last]);
		if (used + strlen(one) + 4 >= size) {
			(void)snprintf(buffer + used, size - used, "...");
			return;
		}
		used += (size_t)snprintf(buffer + used, size - used, "%s", one);
		i = last + 1;
	}
}

static const char *group_words(enum kvf_group_kind kind)
{
	switch (kind) {
	case KVF_WINDOW:
		return "window ";
	case KVF_STATE:
		return "state ";
	case KVF_REPLICATED:
		return "replicated ";
	case KVF_PAGED:
		break;
	}
	return "";
}

void plan_describe_pair(const struct plan_job *job, const struct plan_pair *one, char *buffer, size_t size)
{
	const struct kvf_nest *nests;
	uint32_t n = kvf_plan_nests(one->plan, &nests);
	size_t used = 0;

	(void)snprintf(buffer, size, "%s", one->pair.kv ? "" : "answers that it owes nothing");
	for (uint32_t group = 0; group < job->model.kvf.n_groups; group++) {
		const uint32_t *layers;
		uint32_t n_layers = kvf_plan_layers(one->plan, group, &layers);
		uint32_t low = UINT32_MAX, high = 0;
		enum kvf_group_kind kind = job->model.groups[group].kind;
		char ids[40], heads[40] = "";

		for (uint32_t i = 0; i < n; i++) {
			if (nests[i].group != group)
				continue;
			low = nests[i].head_start < low ? nests[i].head_start : low;
			high = nests[i].head_end > high ? nests[i].head_end : high;
		}
		if (n_layers == 0 || high == 0 || used >= size)
			continue;
		plan_format_ids(layers, n_layers, ids, sizeof ids);
		if (kind != KVF_STATE && high - low > 1)
			(void)snprintf(heads, sizeof heads, "heads %u-%u of ", low, high - 1);
		else if (kind != KVF_STATE)
			(void)snprintf(heads, sizeof heads, "head %u of ", low);
		used += (size_t)snprintf(buffer + used, size - used, "%s%s%slayers %s", used ? "; " : "",
			heads, group_words(kind), ids);
	}
}

static void print_pairs(const struct plan_job *job)
{
	static const char *const columns[] = {"from", "to", ">bytes", ">runs", ">run size", "aux", "what"};
	struct table *table = table_new(columns, sizeof columns / sizeof columns[0]);
	char text[32], least[32], what[160];

	for (uint32_t i = 0; i < job->n_pairs; i++) {
		const struct plan_pair *one = &job->pairs[i];
		const struct kvf_plan_totals *totals = &one->totals;

		if (job->has_focus && (one->pair.src != job->focus_src || one->pair.dst != job->focus_dst))
			continue;
		table_cell(table, "P%u", one->pair.src);
		table_cell(table, "D%u", one->pair.dst);
		table_cell(table, "%s", one->pair.kv ? units_format_bytes(totals->bytes, text) : "-");
		table_cell(table, "%s", one->pair.kv ? units_format_count(totals->runs, text) : "-");
		units_format_bytes(totals->run_bytes_min, least);
		units_format_bytes(totals->run_bytes_max, text);
		if (totals->run_bytes_min == totals->run_bytes_max)
			table_cell(table, "%s", one->pair.kv ? text : "-");
		else
			table_cell(table, "%s .. %s", least, text);
		table_cell(table, "%s", one->pair.aux ? "yes" : "-");
		plan_describe_pair(job, one, what, sizeof what);
		table_cell(table, "%s", what);
	}
	table_print(table, stdout);
	table_free(table);
}

static void print_matrix_cell(const struct plan_pair *one)
{
	const char *plain = term_style(stdout, TERM_PLAIN);

	if (!one)
		printf("  %s.%s  ", term_style(stdout, TERM_DIM), plain);
	else if (one->pair.kv)
		printf("  %s##%s%s", term_style(stdout, TERM_GREEN), plain, one->pair.aux ? "a" : " ");
	else
		printf("  %s-%s%s ", term_style(stdout, TERM_YELLOW), plain, one->pair.aux ? "a" : " ");
}

/* Sources down, destinations across; cut to what fits. */
static void print_matrix(const struct plan_job *job)
{
	uint32_t width = (term_columns(stdout) - 12) / 5;
	uint32_t sources = job->prefill.ranks.n < MATRIX_MAX ? job->prefill.ranks.n : MATRIX_MAX;
	uint32_t destinations = job->decode.ranks.n < width ? job->decode.ranks.n : width;

	destinations = destinations < MATRIX_MAX ? destinations : MATRIX_MAX;
	printf("\n  %8s", "");
	for (uint32_t dst = 0; dst < destinations; dst++)
		printf(" D%-3u", dst);
	putchar('\n');
	for (uint32_t src = 0; src < sources; src++) {
		printf("  %5sP%-3u", "", src);
		for (uint32_t dst = 0; dst < destinations; dst++)
			print_matrix_cell(plan_find_pair(job, src, dst));
		putchar('\n');
	}
	printf("  %-8s", "results");
	for (uint32_t dst = 0; dst < destinations; dst++)
		printf("  %-3u", job->expected[dst]);
	printf("\n  %s## sends KV   a sends aux   - paired, owes nothing   . not paired   results: answers "
	       "that each D waits for%s\n",
		term_style(stdout, TERM_DIM), term_style(stdout, TERM_PLAIN));
	if (sources < job->prefill.ranks.n || destinations < job->decode.ranks.n)
		printf("  (%u of %u sources, %u of %u destinations shown)\n", sources, job->prefill.ranks.n,
			destinations, job->decode.ranks.n);
}

/* --pair: the nests of this pair, and with --runs the runs of its first block. */
static void print_focus(const struct plan_job *job)
{
	const struct plan_pair *one = plan_find_pair(job, job->focus_src, job->focus_dst);
	const struct kvf_nest *nests;
	uint32_t n = kvf_plan_nests(one->plan, &nests);

	for (uint32_t i = 0; i < n; i++) {
		printf("\n  nest %u of group %u: runs of %" PRIu64 " bytes, P%u +%" PRIu64 " -> D%u +%" PRIu64
		       "\n",
			i, nests[i].group, nests[i].run_bytes, one->pair.src, nests[i].src_offset,
			one->pair.dst, nests[i].dst_offset);
		for (uint32_t k = 0; k < nests[i].n_loops; k++)
			printf("    %" PRIu64 " times, P +%" PRId64 ", D +%" PRId64 "\n",
				nests[i].loops[k].count, nests[i].loops[k].src_stride,
				nests[i].loops[k].dst_stride);
	}
}

static void print_runs(const struct plan_job *job)
{
	static const char *const columns[] = {"group", ">layer", ">from offset", ">to offset", ">bytes"};
	const struct plan_pair *one = plan_find_pair(job, job->focus_src, job->focus_dst);
	struct table *table = table_new(columns, sizeof columns / sizeof columns[0]);
	struct kvf_run *runs = NULL;
	uint64_t n = 0, again;

	if (kvf_plan_block0_runs(one->plan, NULL, 0, &n) == KVF_OK)
		runs = calloc(n + 1, sizeof *runs);
	if (!runs || kvf_plan_block0_runs(one->plan, runs, n, &again) != KVF_OK)
		n = 0;
	for (uint64_t i = 0; i < n; i++) {
		table_cell(table, "%u", runs[i].group);
		table_cell(table, "%u", runs[i].layer);
		table_cell(table, "%" PRIu64, runs[i].src_offset);
		table_cell(table, "%" PRIu64, runs[i].dst_offset);
		table_cell(table, "%" PRIu64, runs[i].len_bytes);
	}
	printf("\n  runs of block 0 (offsets from the start of each rank's pools)\n");
	table_print(table, stdout);
	table_free(table);
	free(runs);
}

void plan_print_table(const struct plan_job *job)
{
	char prefill[160], decode[160], count[32], token[32], total[32];
	const char *bold = term_style(stdout, TERM_BOLD), *plain = term_style(stdout, TERM_PLAIN);

	ranks_describe(&job->prefill.ranks, prefill, sizeof prefill);
	ranks_describe(&job->decode.ranks, decode, sizeof decode);
	printf("%s%s%s: %s tokens, %s a token", bold, job->model.name, plain,
		units_format_count(job->args.tokens, count),
		units_format_bytes(job->model.bytes_per_token, token));
	if (job->model.state_bytes)
		printf(" and %s of state", units_format_bytes(job->model.state_bytes, token));
	printf("; %s to move in %u pair%s\n", units_format_bytes(job->total_bytes, total), job->n_pairs,
		job->n_pairs == 1 ? "" : "s");
	printf("  prefill (P)  %s\n  decode (D)   %s\n\n", prefill, decode);
	print_pairs(job);
	if (job->has_focus)
		print_focus(job);
	if (job->args.runs)
		print_runs(job);
	if (!job->has_focus)
		print_matrix(job);
}
