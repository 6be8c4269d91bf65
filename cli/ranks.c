/* ranks.c - rank specs. Every key at most once, in any order; the checks that need several keys come after all are read. Pure. */
#include "cli/ranks.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/units.h"

enum key {
	KEY_TP,
	KEY_PP,
	KEY_CP,
	KEY_DP,
	KEY_ATTENTION_DP,
	KEY_STAGES,
	KEY_LAYOUT,
	KEY_BLOCK,
	KEY_ORDER,
	N_KEYS
};

static const char *const keys[N_KEYS] = {
	"tp", "pp", "cp", "dp", "attention-dp", "stages", "layout", "block", "order"};

#define MAX_BLOCK_TOKENS 65536u
#define MAX_SPEC_BYTES   8192u

struct reading {
	struct ranks *ranks;
	uint32_t seen;
	uint32_t n_stages;
};

const char *ranks_order_name(enum kvf_memory_order order)
{
	switch (order) {
	case KVF_BLOCK_MAJOR:
		return "block-major";
	case KVF_LAYER_HND:
		return "hnd";
	case KVF_LAYER_NHD:
		return "nhd";
	}
	return "?";
}

static bool is_seen(const struct reading *reading, enum key key)
{
	return reading->seen & (1u << key);
}

static bool parse_count(const char *value, uint32_t max, uint32_t *out, struct reason *why)
{
	uint64_t count;

	if (!units_parse_number(value, 1, max, &count, why))
		return false;
	*out = (uint32_t)count;
	return true;
}

static bool parse_stages(char *value, struct reading *reading, struct reason *why)
{
	char *one;

	while ((one = strsep(&value, ":"))) {
		if (reading->n_stages == KVF_MAX_LAYERS)
			return reason_set(why, "more than %u stages", KVF_MAX_LAYERS);
		if (!parse_count(one, KVF_MAX_LAYERS, &reading->ranks->stages[reading->n_stages], why))
			return reason_prefix(why, "stage %u", reading->n_stages);
		reading->n_stages++;
	}
	return true;
}

static bool parse_layout(const char *value, enum kvf_memory_order *out, struct reason *why)
{
	static const enum kvf_memory_order orders[] = {KVF_BLOCK_MAJOR, KVF_LAYER_HND, KVF_LAYER_NHD};

	for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
		if (!strcmp(value, ranks_order_name(orders[i]))) {
			*out = orders[i];
			return true;
		}
	}
	return reason_set(why, "'%.32s' is none of block-major, hnd, nhd", value);
}

/* pp, cp and tp, each once, slowest first. */
static bool parse_order(const char *value, struct ranks *ranks, struct reason *why)
{
	static const char *const orders[] = {
		"pp:cp:tp", "pp:tp:cp", "cp:pp:tp", "cp:tp:pp", "tp:pp:cp", "tp:cp:pp"};

	for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
		if (!strcmp(value, orders[i])) {
			(void)snprintf(ranks->order, sizeof ranks->order, "%s", value);
			ranks->parallel.rank_order = ranks->order;
			return true;
		}
	}
	return reason_set(
		why, "'%.32s' is not tp, pp and cp in some order, slowest first, like pp:cp:tp", value);
}

static bool parse_value(enum key key, char *value, struct reading *reading, struct reason *why)
{
	struct ranks *ranks = reading->ranks;

	if (key == KEY_ATTENTION_DP)
		return !value || reason_set(why, "takes no value, but got '%.32s'", value);
	if (!value || !*value)
		return reason_set(why, "the value is missing");
	switch (key) {
	case KEY_TP:
		return parse_count(value, KVF_MAX_RANKS, &ranks->parallel.tp, why);
	case KEY_PP:
		return parse_count(value, KVF_MAX_RANKS, &ranks->parallel.pp, why);
	case KEY_CP:
		return parse_count(value, KVF_MAX_RANKS, &ranks->parallel.cp, why);
	case KEY_DP:
		return parse_count(value, KVF_MAX_RANKS, &ranks->parallel.dp, why);
	case KEY_STAGES:
		return parse_stages(value, reading, why);
	case KEY_LAYOUT:
		return parse_layout(value, &ranks->memory_order, why);
	case KEY_BLOCK:
		return parse_count(value, MAX_BLOCK_TOKENS, &ranks->tokens_per_block, why);
	default:
		return parse_order(value, ranks, why);
	}
}

static bool parse_item(char *item, struct reading *reading, struct reason *why)
{
	char *value = strchr(item, '=');
	const char *nearest;

	if (value)
		*value++ = '\0';
	for (uint32_t key = 0; key < N_KEYS; key++) {
		if (strcmp(item, keys[key]) != 0)
			continue;
		if (is_seen(reading, (enum key)key))
			return reason_set(why, "%s is given twice", item);
		reading->seen |= 1u << key;
		return parse_value((enum key)key, value, reading, why) || reason_prefix(why, "%s", item);
	}
	nearest = reason_nearest(item, keys, N_KEYS);
	return reason_set(why,
		"unknown key '%.32s'%s%s%s; keys: tp, pp, cp, dp, attention-dp, stages, layout, block, order",
		item, nearest ? ", did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}

static bool check_dp(struct reading *reading, struct reason *why)
{
	struct kvf_parallel *parallel = &reading->ranks->parallel;

	if (is_seen(reading, KEY_ATTENTION_DP) && !is_seen(reading, KEY_DP))
		parallel->dp = parallel->tp;
	if (parallel->dp > 1 && !is_seen(reading, KEY_ATTENTION_DP))
		return reason_set(why,
			"dp: dp=%u needs attention-dp (several copies of a model are several instances)",
			parallel->dp);
	if (parallel->tp % parallel->dp)
		return reason_set(why, "dp: dp=%u does not divide tp=%u", parallel->dp, parallel->tp);
	return true;
}

static bool check_stages(const struct reading *reading, const struct model *model, struct reason *why)
{
	struct ranks *ranks = reading->ranks;
	uint64_t sum = 0;

	if (ranks->parallel.pp > model->n_layers)
		return reason_set(why, "pp: pp=%u is more than the model's %u layers", ranks->parallel.pp,
			model->n_layers);
	if (!is_seen(reading, KEY_STAGES))
		return true;
	if (reading->n_stages != ranks->parallel.pp)
		return reason_set(
			why, "stages: %u entries, but pp=%u", reading->n_stages, ranks->parallel.pp);
	for (uint32_t i = 0; i < reading->n_stages; i++)
		sum += ranks->stages[i];
	if (sum != model->n_layers)
		return reason_set(why, "stages: they sum to %" PRIu64 ", but the model has %u layers", sum,
			model->n_layers);
	ranks->parallel.stages = ranks->stages;
	return true;
}

static bool check_counts(struct ranks *ranks, struct reason *why)
{
	const struct kvf_parallel *parallel = &ranks->parallel;
	uint64_t n = (uint64_t)parallel->tp * parallel->pp * parallel->cp;

	if (ranks->role == KVF_PREFILL && parallel->cp > 1)
		return reason_set(why,
			"cp: cp=%u on the prefill side; context parallelism is for decode only",
			parallel->cp);
	if (n > KVF_MAX_RANKS)
		return reason_set(why, "tp=%u times pp=%u times cp=%u is %" PRIu64 " ranks; at most %u",
			parallel->tp, parallel->pp, parallel->cp, n, KVF_MAX_RANKS);
	ranks->n = (uint32_t)n;
	return true;
}

bool ranks_parse(const char *text, enum kvf_role role, const struct model *model, uint32_t block_tokens,
	struct ranks *ranks, struct reason *why)
{
	struct reading reading = {.ranks = ranks};
	char copy[MAX_SPEC_BYTES], *rest = copy, *item;

	*ranks = (struct ranks){.role = role,
		.parallel = {.tp = 1, .pp = 1, .cp = 1, .dp = 1},
		.memory_order = KVF_BLOCK_MAJOR,
		.tokens_per_block = block_tokens};
	if ((size_t)snprintf(copy, sizeof copy, "%s", text) >= sizeof copy)
		return reason_set(why, "longer than %u characters", MAX_SPEC_BYTES - 1);
	while ((item = strsep(&rest, ","))) {
		if (!parse_item(item, &reading, why))
			return false;
	}
	return check_dp(&reading, why) && check_counts(ranks, why) && check_stages(&reading, model, why);
}

void ranks_describe(const struct ranks *ranks, char *buffer, size_t size)
{
	const struct kvf_parallel *parallel = &ranks->parallel;
	char pp[24] = "", cp[24] = "", dp[40] = "";

	if (parallel->pp > 1)
		(void)snprintf(pp, sizeof pp, " pp=%u", parallel->pp);
	if (parallel->cp > 1)
		(void)snprintf(cp, sizeof cp, " cp=%u", parallel->cp);
	if (parallel->dp > 1)
		(void)snprintf(dp, sizeof dp, " attention-dp dp=%u", parallel->dp);
	(void)snprintf(buffer, size, "tp=%u%s%s%s: %u rank%s, %s, %u tokens a block", parallel->tp, pp, cp,
		dp, ranks->n, ranks->n == 1 ? "" : "s", ranks_order_name(ranks->memory_order),
		ranks->tokens_per_block);
}
