/* agent.c - the agent of a guard: the public API, call for call.
 *
 * Apart from the rest, so that a guard can be tested over something else. The thread that ticks; health and time from any.
 */
#include "executor/guard.h"

#include <time.h>

static int agent_poll(void *self, struct kvf_event *events, int n)
{
	return kvf_poll(self, events, n);
}

static enum kvf_status agent_state(void *self, kvf_session session, enum kvf_session_state *state_out)
{
	return kvf_session_state(self, session, state_out);
}

static enum kvf_cancel_result agent_cancel(void *self, kvf_session session, const char *reason)
{
	return kvf_cancel(self, session, reason);
}

static enum kvf_status agent_close(void *self, kvf_session session)
{
	return kvf_session_close(self, session);
}

static enum kvf_status agent_health(void *self, struct kvf_health *health_out)
{
	return kvf_health(self, health_out);
}

static enum kvf_status agent_wait(void *self, uint64_t timeout_ns)
{
	return kvf_wait(self, timeout_ns);
}

static uint64_t agent_now_ns(void *self)
{
	struct timespec now;

	(void)self;
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * KVFI_GUARD_S + (uint64_t)now.tv_nsec;
}

enum kvf_status kvf_guard_open(
	kvf_agent *agent, const struct kvf_guard_options *options, kvf_guard **guard_out)
{
	const struct kvfi_guard_agent real = {.self = agent,
		.poll = agent_poll,
		.state = agent_state,
		.cancel = agent_cancel,
		.close = agent_close,
		.health = agent_health,
		.wait = agent_wait,
		.now_ns = agent_now_ns};

	if (agent == NULL || options == NULL || guard_out == NULL)
		return kvf_fail(KVF_EINVAL, "agent, options and guard_out must not be NULL");
	return kvfi_guard_open_on(&real, options, guard_out);
}
