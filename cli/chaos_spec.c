/* chaos_spec.c - reads --chaos, and draws what happens to a request.
 *
 * Guarantees: pure functions of their arguments. A word that is none, a probability that is none, and fates of one request that sum to
 * more than 1 are refused with the field and the value.
 */
#include "cli/chaos_spec.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "cli/replay_geometry.h"
#include "cli/replay_setup.h"

#define MOST_WHEN       1.0
#define MOST_RESTART_NS UINT64_C(200000000)
#define CALM_SHARE      20u /* one in twenty */

struct word {
	const char *name;
	size_t offset;
};

static const struct word words[] = {
	{"kill", offsetof(struct chaos_spec, kill)},
	{"stop", offsetof(struct chaos_spec, stop)},
	{"cancel", offsetof(struct chaos_spec, cancel)},
	{"timeout", offsetof(struct chaos_spec, timeout)},
	{"refuse", offsetof(struct chaos_spec, refuse)},
};
#define N_WORDS (sizeof(words) / sizeof(words[0]))

static bool parse_probability(const char *name, const char *text, double *out, struct reason *why)
{
	char *end;
	bool number =
		text[0] != 0 && strchr("0123456789.", text[0]) && text[strspn(text, "0123456789.eE+-")] == 0;
	double value = number ? strtod(text, &end) : 0;
	if (!number || *end != 0 || !(value >= 0 && value <= 1))
		return reason_set(why, "--chaos: %s: '%s' is not a probability from 0 to 1", name, text);
	*out = value;
	return true;
}

static bool set_word(struct chaos_spec *spec, uint32_t *seen, char *item, struct reason *why)
{
	static const char *const names[] = {"kill", "stop", "cancel", "timeout", "refuse", "restart"};
	char *value = strchr(item, '=');
	if (value)
		*value++ = 0;
	for (uint32_t i = 0; i <= N_WORDS; i++) {
		if (strcmp(item, names[i]) != 0)
			continue;
		if (*seen & 1u << i)
			return reason_set(why, "--chaos: %s is given twice", item);
		*seen |= 1u << i;
		if (i == N_WORDS) {
			spec->restart = true;
			return !value || reason_set(why, "--chaos: restart: '%s': it takes no value", value);
		}
		if (!value)
			return reason_set(why, "--chaos: %s: needs a probability, as in %s=0.1", item, item);
		return parse_probability(
			item, value, (double *)(void *)((char *)spec + words[i].offset), why);
	}
	const char *nearest = reason_nearest(item, names, N_WORDS + 1);
	return reason_set(why,
		"--chaos: '%s' is none of kill=P, stop=P, restart, cancel=P, timeout=P, refuse=P%s%s%s", item,
		nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}

static bool check(const struct chaos_spec *spec, struct reason *why)
{
	if (spec->cancel + spec->timeout + spec->refuse > 1)
		return reason_set(why, "--chaos: cancel %g, timeout %g and refuse %g sum to more than 1",
			spec->cancel, spec->timeout, spec->refuse);
	if (spec->kill + spec->stop > 1)
		return reason_set(
			why, "--chaos: kill %g and stop %g sum to more than 1", spec->kill, spec->stop);
	if (spec->restart && spec->kill == 0)
		return reason_set(why, "--chaos: restart: nothing is killed; give kill=P, too");
	return true;
}

bool chaos_spec_parse(const char *text, struct chaos_spec *spec_out, struct reason *why)
{
	struct chaos_spec spec = {.on = true};
	uint32_t seen = 0;
	if (!text) {
		*spec_out = (struct chaos_spec){0};
		return true;
	}
	char *copy = strdup(text);
	if (!copy)
		return reason_set(why, "out of memory");
	bool ok = true;
	char *rest = copy;
	while (ok && rest) {
		char *item = rest;
		rest = strchr(item, ',');
		if (rest)
			*rest++ = 0;
		ok = set_word(&spec, &seen, item, why);
	}
	free(copy);
	if (!ok || !check(&spec, why))
		return false;
	*spec_out = spec;
	return true;
}

/* -------------------------------------------------------------------- plan */

uint32_t chaos_calm_from(uint32_t n_requests)
{
	return n_requests - (n_requests + CALM_SHARE - 1) / CALM_SHARE;
}

static double unit(uint64_t bits)
{
	return (double)(bits >> 11) * 0x1p-53;
}

/* Would both sides hold the same blocks of a prompt that is one token longer or shorter? */
static bool same_blocks(const struct replay_setup *setup, uint64_t tokens, uint64_t other)
{
	for (uint32_t s = 0; s < 2; s++) {
		for (uint32_t g = 0; g < setup->model.kvf.n_groups; g++) {
			const struct kvf_group_spec *spec = &setup->model.kvf.groups[g];
			uint32_t tpb = setup->sides[s].tokens_per_block;
			struct replay_blocks a = replay_blocks_of(spec, tpb, tokens);
			struct replay_blocks b = replay_blocks_of(spec, tpb, other);
			if (a.first != b.first || a.total != b.total)
				return false;
		}
	}
	return true;
}

static void plan_fate(
	const struct replay_setup *setup, uint32_t request, uint64_t bits, struct chaos_plan *plan)
{
	const struct chaos_spec *spec = &setup->chaos;
	uint64_t tokens = setup->requests[request].tokens;
	double drawn = unit(bits);
	if (drawn < spec->cancel) {
		plan->fate = CHAOS_CANCEL;
		plan->cancel_side = replay_mix(bits, 1) & 1 ? REPLAY_DECODE : REPLAY_PREFILL;
	} else if (drawn < spec->cancel + spec->timeout) {
		plan->fate = CHAOS_TIMEOUT;
	} else if (drawn < spec->cancel + spec->timeout + spec->refuse) {
		plan->other_tokens = same_blocks(setup, tokens, tokens + 1) ? tokens + 1 : tokens - 1;
		if (plan->other_tokens > 0 && same_blocks(setup, tokens, plan->other_tokens))
			plan->fate = CHAOS_REFUSE;
	}
}

void chaos_plan_of(const struct replay_setup *setup, uint32_t request, struct chaos_plan *plan_out)
{
	uint64_t seed = replay_mix(setup->options.seed ^ UINT64_C(0xc4a05), request);
	*plan_out = (struct chaos_plan){.fate = CHAOS_UNHARMED};
	if (!setup->chaos.on || request >= chaos_calm_from(setup->n_requests))
		return;
	double harm = unit(replay_mix(seed, 2));
	uint64_t bits = replay_mix(seed, 3);
	plan_fate(setup, request, replay_mix(seed, 1), plan_out);
	plan_out->kill = harm < setup->chaos.kill;
	plan_out->stop = !plan_out->kill && harm < setup->chaos.kill + setup->chaos.stop;
	plan_out->in_lease = (bits & 1) != 0;
	plan_out->tell = (bits & 6) != 0;
	plan_out->victim = bits >> 8;
	plan_out->when = unit(replay_mix(seed, 4)) * MOST_WHEN;
	plan_out->tell_after = unit(replay_mix(seed, 5));
	plan_out->restart_after_ns = replay_mix(seed, 6) % MOST_RESTART_NS;
}
