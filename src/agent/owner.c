/* owner.c - the owner's half of an agent: what it opens, and in which order it closes.
 *
 * Runs on the owner thread (a ZeroMQ socket belongs to the thread that made it). Closing goes backwards: transports first, because they end every
 * post and join their threads, then the control channel, the workers, and the tables that all of them pointed into.
 */
#include "agent/agent.h"
#include "agent/group.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/status.h"
#include "transport/fault.h"

static enum kvf_status watch_fd(kvf_agent *agent, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};

	if (fd < 0)
		return KVF_OK;
	if (epoll_ctl(agent->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
		return kvfi_fail_errno(KVF_EIO, errno, "epoll_ctl");
	return KVF_OK;
}

static uint32_t max_ways(const kvf_agent *agent)
{
	return agent->options.max_peers * 2 + 2 * KVFI_MAX_GROUP_MEMBERS;
}

static enum kvf_status open_control(kvf_agent *agent)
{
	const struct kvfi_control_ops *ops = agent->has_seams ? agent->seams.control : &kvfi_control_inproc;
	struct kvfi_control_env env = {.name = agent->options.name,
		.listen = agent->options.listen,
		.incarnation = agent->incarnation,
		.max_ways = max_ways(agent),
		.wake = kvfi_control_wake,
		.self = agent,
		.seam = agent->seams.self,
		.faults = &agent->faults};
	enum kvf_status status;

#ifdef KVFI_WITH_ZMQ
	if (!agent->has_seams && strcmp(agent->options.control, "zmq") == 0)
		ops = &kvfi_control_zmq;
#endif
	if (agent->options.faults != NULL)
		ops = kvfi_control_fault_over(ops);
	status = ops->open(&env, &agent->control);
	if (status != KVF_OK)
		return agent->options.listen != NULL ? kvfi_fail_prefix(status, "options: listen") : status;
	if (agent->options.listen != NULL)
		(void)snprintf(
			agent->listening, sizeof(agent->listening), "%s", ops->endpoint(agent->control));
	return watch_fd(agent, ops->fd(agent->control));
}

static void submit(void *self, struct kvfi_job *job)
{
	kvfi_workers_submit(((struct agent_transport *)self)->agent->workers, job);
}

uint32_t kvfi_max_deliveries(const kvf_agent *agent)
{
	uint32_t quarter = agent->options.max_links / 4;

	return quarter < 16 ? 16 : quarter > 1024 ? 1024 : quarter;
}

static enum kvf_status open_transport(kvf_agent *agent, const struct kvfi_transport_ops *ops)
{
	struct agent_transport *transport = &agent->transports[agent->n_transports];
	struct kvfi_transport_env env = {.self = transport,
		.notify = kvfi_transport_notify,
		.submit = submit,
		.workers = agent->options.workers,
		.regions = &agent->regions,
		.incarnation = agent->incarnation,
		.max_peers = agent->options.max_peers,
		.max_grants = agent->options.max_links,
		.max_posts = kvfi_max_deliveries(agent),
		.name = agent->options.name,
		.data_listen = agent->options.data_listen,
		.runtime_dir = agent->options.runtime_dir,
		.listens = agent->options.listen != NULL,
		.seam = agent->seams.self,
		.faults = &agent->faults};
	enum kvf_status status;

	transport->agent = agent;
	transport->index = agent->n_transports;
	transport->ops = ops;
	status = ops->open(&env, &transport->self);
	if (status != KVF_OK)
		return status;
	agent->n_transports++;
	return watch_fd(agent, ops->fd(transport->self));
}

static enum kvf_status open_given_transports(kvf_agent *agent)
{
	enum kvf_status status = KVF_OK;

	for (uint32_t i = 0; i < agent->seams.n_transports && status == KVF_OK; i++)
		status = open_transport(agent, agent->seams.transports[i]);
	return status;
}

static enum kvf_status open_transports(kvf_agent *agent)
{
	const struct kvfi_transport_ops *all[] = {
		&kvfi_transport_shm, &kvfi_transport_tcp, &kvfi_transport_loop};

	if (agent->has_seams)
		return open_given_transports(agent);
	for (uint32_t place = 0; place < 3; place++) {
		for (uint32_t i = 0; i < 3; i++) {
			uint32_t wanted;
			enum kvf_status status;

			if (!kvfi_options_wants(agent, all[i]->name, &wanted) || wanted != place)
				continue;
			status = open_transport(
				agent, agent->options.faults != NULL ? kvfi_fault_over(all[i]) : all[i]);
			if (status != KVF_OK)
				return kvfi_fail_prefix(status, "transport %s", all[i]->name);
		}
	}
	return KVF_OK;
}

static enum kvf_status open_core(kvf_agent *agent)
{
	struct kvfi_core_config config = {.max_peers = agent->options.max_peers,
		.max_sessions = agent->options.max_sessions,
		.max_links = agent->options.max_links,
		.max_deliveries = kvfi_max_deliveries(agent),
		.max_block_ids = agent->options.max_block_ids,
		.verify = agent->options.verify,
		.connect_timeout_ns = agent->options.connect_timeout_ns,
		.queue_timeout_ns = agent->options.queue_timeout_ns,
		.transfer_timeout_ns = agent->options.transfer_timeout_ns,
		.stall_timeout_ns = agent->options.stall_timeout_ns,
		.quiet_timeout_ns = agent->options.quiet_timeout_ns,
		.progress_timeout_ns = agent->options.progress_timeout_ns,
		.stuck_budget = agent->options.stuck_budget};
	struct kvfi_sink sink;

	kvfi_sink_fill(agent, &sink);
	if (agent->options.record != NULL) {
		enum kvf_status status = kvfi_recorder_open(
			agent->options.record, &config, agent->incarnation, &sink, &agent->recorder);

		if (status != KVF_OK)
			return status;
		kvfi_recorder_sink(agent->recorder, &sink);
	}
	return kvfi_core_open(&config, &sink, &agent->core);
}

static enum kvf_status open_tables(kvf_agent *agent)
{
	agent->peers = calloc(agent->options.max_peers, sizeof(struct agent_peer));
	agent->way_peers = calloc(max_ways(agent), sizeof(uint32_t));
	agent->known = calloc(agent->options.max_peers, sizeof(struct known_instance));
	agent->watches = calloc(agent->options.max_links, sizeof(struct watch));
	agent->granted_by = calloc(agent->options.max_links, sizeof(*agent->granted_by));
	agent->frame = malloc(sizeof(struct kvfi_received) + KVFI_HOT_FRAME_MAX);
	if (agent->peers == NULL || agent->known == NULL || agent->way_peers == NULL ||
		agent->watches == NULL || agent->granted_by == NULL || agent->frame == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for the tables of the agent");
	return kvfi_sums_init(agent);
}

static enum kvf_status open_timer_fd(kvf_agent *agent)
{
	enum kvf_status status;

	agent->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (agent->timer_fd < 0)
		return kvfi_fail_errno(KVF_EIO, errno, "timerfd_create");
	status = watch_fd(agent, agent->timer_fd);
	return status == KVF_OK ? watch_fd(agent, agent->events.event_fd) : status;
}

enum kvf_status kvfi_owner_open(kvf_agent *agent)
{
	enum kvf_status status;

	atomic_store(&agent->owner, pthread_self());
	agent->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (agent->epoll_fd < 0)
		return kvfi_fail_errno(KVF_EIO, errno, "epoll_create1");
	status = watch_fd(agent, agent->inbox.event_fd);
	if (status == KVF_OK && !agent->threaded && !agent->has_seams)
		status = open_timer_fd(agent);
	if (status == KVF_OK)
		status = open_tables(agent);
	if (status == KVF_OK)
		status = open_core(agent);
	if (status == KVF_OK)
		status = open_control(agent);
	if (status == KVF_OK)
		status = open_transports(agent);
	agent->next_tick_ns = KVFI_NEVER;
	if (status == KVF_OK)
		kvfi_health_refresh(agent);
	return status;
}

void kvfi_owner_close(kvf_agent *agent)
{
	kvfi_owner_adopt(agent);
	kvfi_inbox_shut(&agent->inbox);
	kvfi_owner_refuse_calls(agent);
	for (uint32_t i = 0; i < agent->n_transports; i++)
		agent->transports[i].ops->close(agent->transports[i].self);
	if (agent->control != NULL)
		kvfi_control_of(agent)->close(agent->control);
	kvfi_workers_close(agent->workers);
	kvfi_peers_fini(agent);
	kvfi_groups_fini(agent);
	kvfi_core_close(agent->core);
	kvfi_recorder_close(agent->recorder);
	free(agent->sums);
	free(agent->frame);
	free(agent->way_peers);
	free(agent->watches);
	free(agent->granted_by);
	free(agent->peers);
	free(agent->known);
	if (agent->timer_fd >= 0)
		(void)close(agent->timer_fd);
	if (agent->epoll_fd >= 0)
		(void)close(agent->epoll_fd);
}
