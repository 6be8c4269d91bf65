/* guard.c - a guard from open to close, and the order of a tick.
 *
 * A tick does the same things in the same order whether there is work or not: the agent's events first, so that no deadline is judged over an end that has
 * already come; then deadlines; then the group's round, or this rank's own decisions; then freeing; then health. It never looks at how many
 * requests an engine is running: what is idle is swept and judged as what is busy.
 */
#include "executor/guard.h"

#include <stdlib.h>
#include <string.h>

#define MAX_REQUESTS 65536u

/* ---- open ---- */

void kvf_guard_options_init(struct kvf_guard_options *options)
{
	if (options == NULL)
		return;
	memset(options, 0, sizeof(*options));
	options->struct_bytes = sizeof(*options);
	options->max_requests = 1024;
	options->max_responses = 1024;
	options->max_events = 1024;
	options->round_timeout_ns = 60 * KVFI_GUARD_S;
	options->loop_timeout_ns = 60 * KVFI_GUARD_S;
}

static enum kvf_status check_group(const struct kvf_guard_options *options)
{
	const struct kvf_guard_group *group = options->group;

	if (group == NULL && options->free_together != 0)
		return kvf_fail(KVF_EINVAL, "options: free_together: 1, and there is no group");
	if (group == NULL)
		return KVF_OK;
	if (group->post == NULL || group->test == NULL)
		return kvf_fail(
			KVF_EINVAL, "options: group: %s is NULL", group->post == NULL ? "post" : "test");
	if (group->n_ranks == 0 || group->n_ranks > KVF_GROUP_MAX_RANKS)
		return kvf_fail(KVF_EINVAL, "options: group: n_ranks: %u is not in 1..%u", group->n_ranks,
			KVF_GROUP_MAX_RANKS);
	if (group->rank >= group->n_ranks)
		return kvf_fail(KVF_EINVAL, "options: group: rank: %u, the group has %u members", group->rank,
			group->n_ranks);
	if (group->max_bytes < kvf_guard_group_bytes(options->max_requests))
		return kvf_fail(KVF_EINVAL, "options: group: max_bytes: %u, %u requests need %u",
			group->max_bytes, options->max_requests,
			kvf_guard_group_bytes(options->max_requests));
	return KVF_OK;
}

static enum kvf_status check_most(const char *name, uint32_t value, uint32_t most)
{
	if (value >= 1 && value <= most)
		return KVF_OK;
	return kvf_fail(KVF_EINVAL, "options: %s: %u is not in 1..%u", name, value, most);
}

static enum kvf_status check_options(const struct kvf_guard_options *options)
{
	enum kvf_status status;

	if (options->struct_bytes != sizeof(*options))
		return kvf_fail(KVF_EINVAL,
			"options: struct_bytes: %u, this library has %zu (kvf_guard_options_init)",
			options->struct_bytes, sizeof(*options));
	status = check_most("max_requests", options->max_requests, MAX_REQUESTS);
	if (status == KVF_OK)
		status = check_most("max_responses", options->max_responses, 1u << 20);
	if (status == KVF_OK)
		status = check_most("max_events", options->max_events, 1u << 20);
	if (status != KVF_OK)
		return status;
	if (options->free_together > 1 || options->attention_dp > 1)
		return kvf_fail(KVF_EINVAL, "options: %s: %u is neither 0 nor 1",
			options->free_together > 1 ? "free_together" : "attention_dp",
			options->free_together > 1 ? options->free_together : options->attention_dp);
	if (options->free_request == NULL)
		return kvf_fail(KVF_EINVAL, "options: free_request must not be NULL");
	return check_group(options);
}

static bool take_tables(kvf_guard *guard)
{
	const struct kvf_guard_options *options = &guard->options;

	guard->events = calloc(options->max_events, sizeof(*guard->events));
	guard->responses = calloc(options->max_responses, sizeof(*guard->responses));
	if (guard->grouped) {
		guard->report = calloc(1, kvf_guard_group_bytes(options->max_requests));
		guard->parts = calloc(guard->group.n_ranks, sizeof(*guard->parts));
		if (guard->report == NULL || guard->parts == NULL)
			return false;
	}
	return guard->events != NULL && guard->responses != NULL && kvfi_guard_requests_init(guard);
}

static void free_guard(kvf_guard *guard)
{
	kvfi_guard_requests_fini(guard);
	free(guard->parts);
	free(guard->report);
	free(guard->responses);
	free(guard->events);
	(void)pthread_mutex_destroy(&guard->lock);
	free(guard);
}

enum kvf_status kvfi_guard_open_on(
	const struct kvfi_guard_agent *agent, const struct kvf_guard_options *options, kvf_guard **guard_out)
{
	enum kvf_status status = check_options(options);
	kvf_guard *guard;

	if (status != KVF_OK)
		return status;
	guard = calloc(1, sizeof(*guard));
	if (guard == NULL)
		return kvf_fail(KVF_ENOMEM, "no memory for a guard");
	guard->agent = *agent;
	guard->options = *options;
	if (options->group != NULL) {
		guard->group = *options->group;
		guard->grouped = true;
		guard->options.group = NULL; /* the caller's, and not looked at again */
	}
	(void)pthread_mutex_init(&guard->lock, NULL);
	if (!take_tables(guard)) {
		free_guard(guard);
		return kvf_fail(KVF_ENOMEM, "no memory for a guard of %u requests", options->max_requests);
	}
	guard->shared.last_tick_ns = agent->now_ns(agent->self);
	*guard_out = guard;
	return KVF_OK;
}

void kvf_guard_close(kvf_guard *guard, uint32_t *left_out)
{
	if (left_out != NULL)
		*left_out = 0;
	if (guard == NULL)
		return;
	if (left_out != NULL)
		for (uint32_t at = guard->first; at != KVFI_GUARD_NONE; at = guard->entries[at].next)
			*left_out += !guard->entries[at].freed;
	free_guard(guard);
}

/* ---- tick ---- */

enum kvf_status kvfi_guard_enter(kvf_guard *guard)
{
	if (guard == NULL)
		return kvf_fail(KVF_EINVAL, "guard must not be NULL");
	if (guard->busy)
		return kvf_fail(KVF_EBUSY, "the guard was called by a function that it runs itself");
	guard->busy = true;
	return KVF_OK;
}

static enum kvf_status look(kvf_guard *guard, uint64_t now_ns)
{
	enum kvf_status status = kvfi_guard_take_events(guard);

	if (status != KVF_OK)
		return status;
	if (!guard->behind)
		kvfi_guard_judge_deadlines(guard, now_ns);
	if (guard->grouped)
		kvfi_guard_round(guard, now_ns);
	else
		kvfi_guard_decide_alone(guard);
	kvfi_guard_sweep(guard);
	return KVF_OK;
}

int kvfi_guard_turn(kvf_guard *guard, uint32_t at_least)
{
	const uint64_t now_ns = guard->agent.now_ns(guard->agent.self);
	enum kvf_status status = look(guard, now_ns);

	if (status == KVF_OK && guard->n_results < at_least)
		status = look(guard, now_ns);
	kvfi_guard_judge_health(guard, now_ns);
	return status == KVF_OK ? (int)guard->n_results : (int)status;
}

int kvf_guard_tick(kvf_guard *guard, uint32_t at_least)
{
	int n = kvfi_guard_enter(guard);

	if (n != KVF_OK)
		return n;
	n = kvfi_guard_turn(guard, at_least);
	guard->busy = false;
	return n;
}

/* ---- drains ---- */

/* Sleeps until the agent has something, or for so long; a group's words make no noise, so it is looked at every millisecond. */
static void pause_for(kvf_guard *guard, uint64_t left_ns)
{
	const uint64_t look_ns = guard->grouped ? KVFI_GUARD_S / 1000 : KVFI_GUARD_S / 20;
	const enum kvf_status ignored =
		guard->agent.wait(guard->agent.self, left_ns < look_ns ? left_ns : look_ns);

	(void)ignored;
}

static uint32_t unreleased(const kvf_guard *guard)
{
	uint32_t n = 0;

	for (uint32_t at = guard->first; at != KVFI_GUARD_NONE; at = guard->entries[at].next) {
		const struct guard_entry *entry = &guard->entries[at];

		n += (entry->bits & GUARD_RELEASED) == 0 ||
		     ((entry->bits & GUARD_TERMINATED) != 0 && !entry->freed);
	}
	return n;
}

static enum kvf_status drain(kvf_guard *guard, uint32_t at_least, bool memory, uint64_t bound_ns)
{
	const uint64_t start_ns = guard->agent.now_ns(guard->agent.self);

	for (;;) {
		const int n = kvfi_guard_turn(guard, at_least);
		uint64_t spent_ns;

		if (n < 0)
			return (enum kvf_status)n;
		if (memory ? unreleased(guard) == 0 : (uint32_t)n >= at_least)
			return KVF_OK;
		spent_ns = guard->agent.now_ns(guard->agent.self) - start_ns;
		if (spent_ns >= bound_ns && memory)
			return kvf_fail(KVF_TIMED_OUT, "%u requests are not released", unreleased(guard));
		if (spent_ns >= bound_ns)
			return kvf_fail(KVF_TIMED_OUT, "%d results, %u are asked for", n, at_least);
		pause_for(guard, bound_ns - spent_ns);
	}
}

enum kvf_status kvf_guard_drain_results(kvf_guard *guard, uint32_t at_least, uint64_t bound_ns)
{
	enum kvf_status status = kvfi_guard_enter(guard);

	if (status != KVF_OK)
		return status;
	status = drain(guard, at_least, false, bound_ns);
	guard->busy = false;
	return status;
}

enum kvf_status kvf_guard_drain_released(kvf_guard *guard, uint64_t bound_ns)
{
	enum kvf_status status = kvfi_guard_enter(guard);

	if (status != KVF_OK)
		return status;
	status = drain(guard, 0, true, bound_ns);
	guard->busy = false;
	return status;
}
