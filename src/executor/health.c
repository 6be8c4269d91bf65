/* health.c - is the guard healthy, and when is it time to give up.
 *
 * Three things can be wrong: the agent says so itself, the group does not go on, or nobody ticks. The first two are judged on every tick; the third
 * can be seen only from outside the loop, by kvf_guard_health. Shutdown is asked for once, when a tick finds that it has been wrong without a break
 * for the whole grace. A request that timed out, a slow transfer and a quarantined session are none of these.
 */
#include "executor/guard.h"

#include <stdio.h>
#include <string.h>

#define GRACE_WITHOUT_PROGRESS_NS (120 * KVFI_GUARD_S)

static uint64_t grace_of(const kvf_guard *guard, const struct kvf_health *health)
{
	if (guard->options.grace_ns != 0)
		return guard->options.grace_ns;
	if (health->progress_timeout_ns == 0 || health->progress_timeout_ns > KVFI_GUARD_NEVER / 2)
		return GRACE_WITHOUT_PROGRESS_NS;
	return 2 * health->progress_timeout_ns;
}

static void publish(kvf_guard *guard, uint64_t now_ns, uint64_t grace_ns)
{
	struct guard_shared *shared = &guard->shared;

	(void)pthread_mutex_lock(&guard->lock);
	shared->last_tick_ns = now_ns;
	shared->unhealthy_since_ns = guard->unhealthy_since_ns;
	shared->round = guard->round_open ? guard->round : 0;
	shared->posted_ns = guard->posted_ns;
	shared->group_bad = guard->group_bad;
	memcpy(shared->group_text, guard->group_text, sizeof(shared->group_text));
	shared->grace_ns = grace_ns;
	shared->requests = guard->n_entries;
	shared->undecided = guard->n_undecided;
	shared->deferred = guard->n_deferred;
	shared->events_dropped = guard->events_dropped;
	(void)pthread_mutex_unlock(&guard->lock);
}

void kvfi_guard_judge_health(kvf_guard *guard, uint64_t now_ns)
{
	struct kvf_health health = {.healthy = 0};
	const enum kvf_status status = guard->agent.health(guard->agent.self, &health);
	const bool healthy = status == KVF_OK && health.healthy != 0 && !guard->group_bad;
	const uint64_t grace_ns = grace_of(guard, &health);

	if (healthy) {
		guard->unhealthy_since_ns = 0;
		guard->asked = guard->wants_shutdown = false;
	} else if (guard->unhealthy_since_ns == 0) {
		guard->unhealthy_since_ns = now_ns;
	}
	if (!healthy && !guard->asked && now_ns - guard->unhealthy_since_ns >= grace_ns)
		guard->asked = guard->wants_shutdown = true;
	publish(guard, now_ns, grace_ns);
}

int kvf_guard_wants_shutdown(kvf_guard *guard)
{
	const int wants = guard != NULL && guard->wants_shutdown;

	if (wants)
		guard->wants_shutdown = false;
	return wants;
}

static void judge(const kvf_guard *guard, const struct guard_shared *shared, enum kvf_status status,
	struct kvf_guard_health *health)
{
	const uint64_t timeout_ns = guard->options.loop_timeout_ns;

	health->reason = KVF_GUARD_HEALTHY;
	if (timeout_ns != 0 && health->since_tick_ns > timeout_ns) {
		health->reason = KVF_GUARD_LOOP;
		(void)snprintf(health->text, sizeof(health->text), "loop: no tick for %llu ms",
			(unsigned long long)(health->since_tick_ns / 1000000));
	} else if (shared->group_bad) {
		health->reason = KVF_GUARD_GROUP;
		(void)snprintf(health->text, sizeof(health->text), "group: %s", shared->group_text);
	} else if (status != KVF_OK || health->agent.healthy == 0) {
		health->reason = KVF_GUARD_AGENT;
		(void)snprintf(health->text, sizeof(health->text), "agent: %s",
			status != KVF_OK ? kvf_error() : health->agent.text);
	}
	health->healthy = health->reason == KVF_GUARD_HEALTHY;
}

enum kvf_status kvf_guard_health(kvf_guard *guard, struct kvf_guard_health *health_out)
{
	struct kvf_guard_health health = {.healthy = 0};
	struct guard_shared shared;
	enum kvf_status status;
	uint64_t now_ns;

	if (guard == NULL || health_out == NULL)
		return kvf_fail(KVF_EINVAL, "guard and health_out must not be NULL");
	(void)pthread_mutex_lock(&guard->lock);
	shared = guard->shared;
	(void)pthread_mutex_unlock(&guard->lock);
	status = guard->agent.health(guard->agent.self, &health.agent);
	now_ns = guard->agent.now_ns(guard->agent.self);
	health.since_tick_ns = now_ns > shared.last_tick_ns ? now_ns - shared.last_tick_ns : 0;
	if (shared.unhealthy_since_ns != 0)
		health.unhealthy_ns = shared.last_tick_ns - shared.unhealthy_since_ns;
	health.grace_ns = shared.grace_ns;
	health.round = shared.round;
	if (shared.round != 0)
		health.round_open_ns = shared.last_tick_ns - shared.posted_ns;
	health.requests = shared.requests;
	health.undecided = shared.undecided;
	health.deferred = shared.deferred;
	health.events_dropped = shared.events_dropped;
	judge(guard, &shared, status, &health);
	*health_out = health;
	return KVF_OK;
}
