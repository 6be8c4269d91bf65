/* plan_explain.c - why: field by field where the sides differ, and for each source and destination what the rules say.
 *
 * The reasons are read off the two instance maps and the pairs; the rules are those of docs/architecture.md. The lines are for people
 * and may change; programs read the other keys.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/plan.h"

struct explainer {
	const struct plan_job *job;
	void (*print)(void *user, const char *line);
	void *user;
};

static void say(const struct explainer *explainer, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void say(const struct explainer *explainer, const char *format, ...)
{
	char line[512];
	va_list list;

	va_start(list, format);
	(void)vsnprintf(line, sizeof line, format, list);
	va_end(list);
	explainer->print(explainer->user, line);
}

static const char *kind_name(enum kvf_group_kind kind)
{
	static const char *const names[] = {"?", "paged", "window", "state", "replicated"};

	return names[kind <= KVF_REPLICATED ? kind : 0];
}

static void compare_numbers(const struct explainer *explainer, const char *field, uint64_t prefill,
	uint64_t decode, const char *note)
{
	if (prefill == decode)
		say(explainer, "  %-32s %" PRIu64 " on both sides", field, prefill);
	else
		say(explainer, "  %-32s prefill %" PRIu64 ", decode %" PRIu64 "%s", field, prefill, decode,
			note);
}

static void compare_group(const struct explainer *explainer, uint32_t index, const struct kvf_group *prefill,
	const struct kvf_group *decode)
{
	bool cp = explainer->job->decode.ranks.parallel.cp > 1;
	char field[64];

	(void)snprintf(field, sizeof field, "group %u (%s): dtype", index, kind_name(prefill->kind));
	say(explainer, "  %-32s prefill %s, decode %s", field, kvf_dtype_name(prefill->dtype),
		kvf_dtype_name(decode->dtype));
	(void)snprintf(field, sizeof field, "group %u: parts", index);
	compare_numbers(explainer, field, prefill->n_parts, decode->n_parts, ": must be equal");
	for (uint32_t part = 0; part < prefill->n_parts && part < decode->n_parts; part++) {
		(void)snprintf(field, sizeof field, "group %u part %u: %s", index, part,
			prefill->kind == KVF_STATE ? "units" : "heads");
		compare_numbers(explainer, field, prefill->parts[part].heads, decode->parts[part].heads,
			": must be equal");
		(void)snprintf(field, sizeof field, "group %u part %u: row_bytes", index, part);
		compare_numbers(explainer, field, prefill->parts[part].row_bytes,
			decode->parts[part].row_bytes, ": must be equal");
	}
	if (prefill->kind == KVF_STATE)
		return;
	(void)snprintf(field, sizeof field, "group %u: tokens_per_block", index);
	compare_numbers(explainer, field, prefill->tokens_per_block, decode->tokens_per_block,
		cp ? ": must be equal under cp" : ": may differ, both sides address tokens");
}

static void compare_sides(const struct explainer *explainer)
{
	const struct plan_job *job = explainer->job;
	const struct kvf_layout *prefill = job->prefill.layouts[0], *decode = job->decode.layouts[0];

	say(explainer, "The two sides, field by field:");
	say(explainer, "  %-32s prefill %s, decode %s", "model", prefill->model, decode->model);
	for (uint32_t i = 0; i < prefill->n_groups && i < decode->n_groups; i++)
		compare_group(explainer, i, &prefill->groups[i], &decode->groups[i]);
	if (job->is_refused)
		say(explainer, "Refused: %s: prefill has %s, decode has %s.", job->refusal.field,
			job->refusal.prefill, job->refusal.decode);
}

static uint32_t count_common(const uint32_t *a, uint32_t n_a, const uint32_t *b, uint32_t n_b)
{
	uint32_t common = 0;

	for (uint32_t i = 0, k = 0; i < n_a && k < n_b;) {
		common += a[i] == b[k];
		if (a[i] <= b[k])
			i++;
		else
			k++;
	}
	return common;
}

/* Layers that both ranks hold, over all groups. */
static uint32_t common_layers(
	const struct kvf_instance *a, uint32_t rank_a, const struct kvf_instance *b, uint32_t rank_b)
{
	uint32_t common = 0;

	for (uint32_t group = 0; group < a->n_groups && group < b->n_groups; group++) {
		const struct kvf_rank_group *one = &a->ranks[rank_a].groups[group],
					    *other = &b->ranks[rank_b].groups[group];

		common += count_common(one->layers, one->n_layers, other->layers, other->n_layers);
	}
	return common;
}

static bool heads_meet(const struct kvf_rank_group *a, const struct kvf_rank_group *b)
{
	for (uint32_t part = 0; part < KVF_MAX_PARTS; part++) {
		if (a->head_start[part] < b->head_start[part] + b->head_count[part] &&
			b->head_start[part] < a->head_start[part] + a->head_count[part])
			return true;
	}
	return false;
}

/* Do they hold a cell in common? */
static bool boxes_meet(
	const struct kvf_instance *a, uint32_t rank_a, const struct kvf_instance *b, uint32_t rank_b)
{
	for (uint32_t group = 0; group < a->n_groups && group < b->n_groups; group++) {
		const struct kvf_rank_group *one = &a->ranks[rank_a].groups[group],
					    *other = &b->ranks[rank_b].groups[group];

		if (count_common(one->layers, one->n_layers, other->layers, other->n_layers) &&
			heads_meet(one, other))
			return true;
	}
	return false;
}

/* How the reason why src and dst are not paired reads behind "P1 -> D0"; false: nothing is to be said, the request is elsewhere. */
static bool reason_unpaired(const struct plan_job *job, uint32_t src, uint32_t dst, char *buffer, size_t size)
{
	const struct kvf_instance *prefill = job->prefill.instance, *decode = job->decode.instance;
	uint32_t width_src = prefill->tp / prefill->dp, width_dst = decode->tp / decode->dp;
	uint32_t r = prefill->ranks[src].tp % width_src, q = decode->ranks[dst].tp % width_dst;

	if (plan_dp_index(prefill, src) != job->src_dp ||
		(job->dst_dp != KVF_DP_UNKNOWN && plan_dp_index(decode, dst) != job->dst_dp))
		return false;
	if (common_layers(prefill, src, decode, dst) == 0)
		(void)snprintf(buffer, size,
			"not paired: stage %u of prefill and stage %u of decode share no layer.",
			prefill->ranks[src].pp, decode->ranks[dst].pp);
	else
		(void)snprintf(buffer, size,
			"not paired: [%u/%u, %u/%u) and [%u/%u, %u/%u) of the heads do not meet.", r,
			width_src, r + 1, width_src, q, width_dst, q + 1, width_dst);
	return true;
}

/* The lowest other source that sends to dst cells which src holds too; NULL if there is none. holders_out: paired sources with those cells. */
static const struct plan_pair *find_owner(
	const struct plan_job *job, const struct plan_pair *one, uint32_t *holders_out)
{
	const struct kvf_instance *prefill = job->prefill.instance;
	const struct plan_pair *owner = NULL;

	*holders_out = 0;
	for (uint32_t i = 0; i < job->n_pairs; i++) {
		const struct plan_pair *other = &job->pairs[i];

		if (other->pair.dst != one->pair.dst ||
			!boxes_meet(prefill, one->pair.src, prefill, other->pair.src) ||
			!boxes_meet(prefill, other->pair.src, job->decode.instance, one->pair.dst))
			continue;
		(*holders_out)++;
		if (!owner && other->pair.src != one->pair.src && other->pair.kv)
			owner = other;
	}
	return owner;
}

/* How the reason for a pair reads behind "P1 -> D0". */
static void reason_paired(const struct plan_job *job, const struct plan_pair *one, char *buffer, size_t size)
{
	uint32_t holders, dp_index = plan_dp_index(job->decode.instance, one->pair.dst);
	const struct plan_pair *owner = find_owner(job, one, &holders);
	bool stripe = job->args.replica == KVF_REPLICA_STRIPE;
	char what[160];

	plan_describe_pair(job, one, what, sizeof what);
	if (one->pair.kv && holders > 1 && stripe)
		(void)snprintf(
			buffer, size, "sends %s: its share of the layers among %u holders.", what, holders);
	else if (one->pair.kv && holders > 1)
		(void)snprintf(buffer, size, "sends %s: elected among %u holders (D%u has DP index %u).",
			what, holders, one->pair.dst, dp_index);
	else if (one->pair.kv)
		(void)snprintf(buffer, size, "sends %s: both hold them, no other source does.", what);
	else if (owner && !stripe)
		(void)snprintf(buffer, size,
			"owes nothing, but answers: P%u sends what it holds too (D%u has DP index %u, %u "
			"holders).",
			owner->pair.src, one->pair.dst, dp_index, holders);
	else if (owner)
		(void)snprintf(buffer, size,
			"owes nothing, but answers: there are more holders (%u) than layers to share.",
			holders);
	else
		(void)snprintf(buffer, size,
			"owes nothing, but answers: they are neighbours in the group, yet it holds none of "
			"D%u's cells.",
			one->pair.dst);
}

/* All sources of one destination; neighbours with the same reason share a line. */
static void explain_destination(const struct explainer *explainer, uint32_t dst)
{
	const struct plan_job *job = explainer->job;
	char reason[384], last[384] = "";
	uint32_t first = 0, n = 0;

	for (uint32_t src = 0; src <= job->prefill.ranks.n; src++) {
		bool is_end = src == job->prefill.ranks.n;
		const struct plan_pair *one = is_end ? NULL : plan_find_pair(job, src, dst);
		bool is_said = !is_end && (!job->has_focus || src == job->focus_src);

		reason[0] = '\0';
		if (is_said && one)
			reason_paired(job, one, reason, sizeof reason);
		else if (is_said && !reason_unpaired(job, src, dst, reason, sizeof reason))
			reason[0] = '\0';
		if (n && strcmp(reason, last) == 0) {
			n++;
			continue;
		}
		if (*last && n == 1)
			say(explainer, "P%u -> D%u: %s", first, dst, last);
		else if (*last)
			say(explainer, "P%u-P%u -> D%u: %s", first, first + n - 1, dst, last);
		memcpy(last, reason, sizeof last);
		first = src;
		n = 1;
	}
}

static void explain_aux(const struct explainer *explainer, uint32_t dst)
{
	const struct plan_job *job = explainer->job;
	const struct kvf_instance *prefill = job->prefill.instance, *decode = job->decode.instance;
	uint32_t width_src = prefill->tp / prefill->dp, width_dst = decode->tp / decode->dp;
	uint32_t step = width_src / width_dst > 1 ? width_src / width_dst : 1;

	for (uint32_t i = 0; i < job->n_pairs; i++) {
		const struct kvf_pair *pair = &job->pairs[i].pair;

		if (pair->dst == dst && pair->aux)
			say(explainer,
				"D%u: aux from P%u, its lowest paired source with place in the group mod %u "
				"= 0 in the first stage that shares layers; waits for %u result%s.",
				dst, pair->src, step, job->expected[dst], job->expected[dst] == 1 ? "" : "s");
	}
}

void plan_explain(const struct plan_job *job, void (*print)(void *user, const char *line), void *user)
{
	struct explainer explainer = {.job = job, .print = print, .user = user};

	compare_sides(&explainer);
	if (job->is_refused)
		return;
	say(&explainer, "Ranks of prefill DP index %u take part%s", job->src_dp,
		job->prefill.instance->dp > 1 ? "; the others hold nothing of this request."
					      : ": all of them.");
	for (uint32_t dst = 0; dst < job->decode.ranks.n; dst++) {
		if (job->has_focus && dst != job->focus_dst)
			continue;
		explain_destination(&explainer, dst);
		explain_aux(&explainer, dst);
	}
}
