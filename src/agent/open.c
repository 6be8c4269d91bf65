/* open.c - the life of an agent: open, its threads, close.
 *
 * With a progress thread the owner's half is opened, run and closed by that thread (a ZeroMQ socket belongs to the thread that made it); open waits
 * for it, so that a port in use is told by kvf_agent_open. close ends every session, gives their proofs the time the caller allows, and then
 * takes everything down; what is not proven by then is counted, and its memory is never given back.
 */
#include "agent/agent.h"
#include "agent/group.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/status.h"

/* The room of the event ring: per session READY, OUTCOME and RELEASED, one event per slice, PEER events. */
static enum kvf_status open_events(kvf_agent *agent)
{
	struct event_ring *ring = &agent->events;
	uint32_t room = 3 * agent->options.max_sessions + agent->options.max_slices +
	                KVFI_PEER_EVENTS * agent->options.max_peers;

	ring->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (ring->event_fd < 0)
		return kvfi_fail_errno(KVF_EIO, errno, "eventfd");
	ring->max = 16;
	while (ring->max < room) /* a power of two: head and tail wrap at 2^32 */
		ring->max *= 2;
	ring->items = calloc(ring->max, sizeof(struct event_item));
	return ring->items != NULL ? KVF_OK : kvfi_fail(KVF_ENOMEM, "no memory for %u events", ring->max);
}

static enum kvf_status open_front(kvf_agent *agent)
{
	uint32_t size = 16;
	enum kvf_status status;

	while (size < agent->options.max_sessions)
		size *= 2;
	agent->live_mask = size - 1;
	agent->sessions = calloc(agent->options.max_sessions, sizeof(struct front_session));
	agent->states = calloc(agent->options.max_sessions, sizeof(*agent->states));
	agent->live_heads = malloc(size * sizeof(uint32_t));
	agent->holds = calloc(agent->options.max_sessions, sizeof(*agent->holds));
	if (agent->sessions == NULL || agent->states == NULL || agent->live_heads == NULL ||
		agent->holds == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for %u sessions", agent->options.max_sessions);
	for (uint32_t i = 0; i < size; i++)
		agent->live_heads[i] = KVFI_NONE;
	for (uint32_t i = 0; i < agent->options.max_sessions; i++)
		agent->sessions[i].next = i + 1 < agent->options.max_sessions ? i + 1 : KVFI_NONE;
	status = kvfi_cancels_init(&agent->cancels, agent->options.max_sessions);
	if (status == KVF_OK)
		status = kvfi_regions_init(&agent->regions, agent->options.max_regions);
	return status == KVF_OK ? open_events(agent) : status;
}

static enum kvf_status open_inbox(kvf_agent *agent)
{
	/* What must always find room: the end of every post, UP and BROKEN of every peer and transport, every sum. */
	agent->keep = kvfi_max_deliveries(agent) + 8 * agent->options.max_peers + agent->options.max_links;
	return kvfi_inbox_init(&agent->inbox, agent->keep + 4096, sizeof(struct item));
}

/* Made if missing; ours, and for us alone. */
static enum kvf_status make_runtime_dir(const char *path)
{
	struct stat info;

	if (mkdir(path, 0700) != 0 && errno != EEXIST)
		return kvfi_fail_errno(KVF_EINVAL, errno, "options: runtime_dir: %s", path);
	if (lstat(path, &info) != 0)
		return kvfi_fail_errno(KVF_EINVAL, errno, "options: runtime_dir: %s", path);
	if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 077) != 0)
		return kvfi_fail(KVF_EINVAL,
			"options: runtime_dir: %s is not a directory of this user with mode 0700", path);
	return KVF_OK;
}

/* ---- the progress thread ---- */

static void tell_opened(kvf_agent *agent, enum kvf_status status)
{
	(void)pthread_mutex_lock(&agent->call_lock);
	agent->open_status = status;
	(void)snprintf(agent->open_error, sizeof(agent->open_error), "%s", kvf_error());
	agent->opened = true;
	(void)pthread_cond_broadcast(&agent->call_done);
	(void)pthread_mutex_unlock(&agent->call_lock);
}

static void *progress(void *argument)
{
	kvf_agent *agent = argument;
	enum kvf_status status;
	char name[16];

	(void)snprintf(name, sizeof(name), "kvf %.11s", agent->options.name);
	(void)pthread_setname_np(pthread_self(), name);
	status = kvfi_owner_open(agent);
	tell_opened(agent, status);
	while (status == KVF_OK && !atomic_load(&agent->stop)) {
		kvfi_owner_turn(agent);
		if (!atomic_load(&agent->stop))
			kvfi_owner_sleep(agent, KVFI_NEVER);
	}
	kvfi_owner_close(agent);
	return NULL;
}

static enum kvf_status start_progress(kvf_agent *agent)
{
	sigset_t all, old;
	int failed;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	failed = pthread_create(&agent->thread, NULL, progress, agent);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (failed != 0) {
		agent->threaded = false;
		return kvfi_fail_errno(KVF_ENOMEM, failed, "the progress thread could not be started");
	}
	(void)pthread_mutex_lock(&agent->call_lock);
	while (!agent->opened)
		(void)pthread_cond_wait(&agent->call_done, &agent->call_lock);
	(void)pthread_mutex_unlock(&agent->call_lock);
	return agent->open_status == KVF_OK ? KVF_OK : kvfi_fail(agent->open_status, "%s", agent->open_error);
}

/* ---- open ---- */

static void free_agent(kvf_agent *agent, bool keep_memory)
{
	kvfi_front_drop_all(agent);
	if (keep_memory)
		kvfi_regions_abandon(&agent->regions);
	else
		kvfi_regions_fini(&agent->regions);
	kvf_layout_free(agent->wire_layout);
	kvf_layout_free(agent->layout);
	kvf_instance_free(agent->instance);
	kvfi_cancels_fini(&agent->cancels);
	free(agent->holds);
	free(agent->live_heads);
	free(agent->states);
	free(agent->sessions);
	free(agent->events.items);
	if (agent->events.event_fd >= 0)
		(void)close(agent->events.event_fd);
	kvfi_inbox_fini(&agent->inbox);
	(void)pthread_cond_destroy(&agent->call_done);
	(void)pthread_mutex_destroy(&agent->call_lock);
	kvfi_options_drop(agent);
	free(agent);
}

static enum kvf_status open_workers(kvf_agent *agent)
{
	if (agent->has_seams)
		return kvfi_workers_open_with(agent->seams.submit, agent->seams.self, &agent->workers);
	return kvfi_workers_open(agent->options.workers, agent->options.name, &agent->workers);
}

static enum kvf_status open_halves(kvf_agent *agent)
{
	enum kvf_status status = open_front(agent);

	if (status == KVF_OK)
		status = open_inbox(agent);
	if (status == KVF_OK)
		status = open_workers(agent);
	if (status != KVF_OK)
		return status;
	if (agent->threaded)
		return start_progress(agent);
	status = kvfi_owner_open(agent);
	if (status != KVF_OK)
		kvfi_owner_close(agent);
	return status;
}

enum kvf_status kvf_agent_open(const struct kvf_options *options, kvf_agent **agent_out)
{
	return kvfi_agent_open_with(options, NULL, agent_out);
}

enum kvf_status kvfi_agent_open_with(
	const struct kvf_options *options, const struct kvfi_agent_seams *seams, kvf_agent **agent_out)
{
	kvf_agent *agent;
	enum kvf_status status;

	if (options == NULL || agent_out == NULL)
		return kvfi_fail(KVF_EINVAL, "%s is NULL", options == NULL ? "options" : "agent_out");
	agent = calloc(1, sizeof(*agent));
	if (agent == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for an agent");
	atomic_store(&agent->healthy, true);
	agent->epoll_fd = agent->timer_fd = agent->events.event_fd = -1;
	(void)pthread_mutex_init(&agent->call_lock, NULL);
	(void)pthread_cond_init(&agent->call_done, NULL);
	if (seams != NULL) {
		KVFI_ASSERT(options->progress_thread == 0);
		agent->seams = *seams;
		agent->has_seams = true;
	}
	status = kvfi_options_take(agent, options);
	if (status == KVF_OK && !agent->has_seams)
		status = make_runtime_dir(agent->options.runtime_dir);
	if (status == KVF_OK && !kvfi_random(&agent->incarnation, sizeof(agent->incarnation)))
		status = kvfi_fail_errno(KVF_EIO, errno, "getrandom");
	if (agent->incarnation == 0)
		agent->incarnation = 1;
	agent->threaded = options->progress_thread != 0;
	if (status == KVF_OK)
		status = open_halves(agent);
	if (status != KVF_OK) {
		if (agent->threaded && agent->thread != 0)
			(void)pthread_join(agent->thread, NULL);
		free_agent(agent, false);
		return status;
	}
	*agent_out = agent;
	return KVF_OK;
}

/* ---- close ---- */

static enum kvf_status end_sessions(kvf_agent *agent, void *unused)
{
	struct kvfi_input input = {.kind = KVFI_IN_END_ALL, .u.end_status = KVF_CANCELLED};

	(void)unused;
	kvfi_owner_step(agent, &input);
	return KVF_OK;
}

static enum kvf_status say_bye(kvf_agent *agent, void *unused)
{
	struct kvfi_msg msg;

	(void)unused;
	kvfi_groups_leave_all(agent);
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		if (agent->peers[i].state != PEER_UP)
			continue;
		memset(&msg.header, 0, sizeof(msg.header));
		msg.header.type = KVFI_MSG_BYE;
		msg.header.instance_id = agent->instance->id;
		msg.block = NULL;
		kvfi_peer_send(agent, i, &msg);
	}
	return KVF_OK;
}

/* Whose blocks others may still write. What a sending session lends is read by workers of this agent alone, and close ends them. */
static void count_unreleased(const kvf_agent *agent, struct kvf_close_report *report)
{
	for (uint32_t i = 0; i < agent->options.max_sessions; i++) {
		const struct front_session *front = &agent->sessions[i];

		if (front->kind != FRONT_RX || front->released_polled)
			continue;
		report->unreleased_sessions++;
		for (uint32_t g = 0; g < agent->layout->n_groups; g++)
			report->unreleased_bytes +=
				kvfi_blocks_bytes(&agent->layout->groups[g], front->rx.lists[g].n);
	}
}

void kvf_agent_close(kvf_agent *agent, uint64_t drain_ns, struct kvf_close_report *report_out)
{
	struct kvf_close_report report = {0, 0};
	enum kvf_status ignored;

	if (agent == NULL)
		return;
	if (agent->declared) {
		struct kvf_event events[16];

		ignored = kvfi_owner_call(agent, end_sessions, NULL);
		ignored = kvf_drain(agent, drain_ns);
		while (kvf_poll(agent, events, 16) > 0)
			; /* so that what was released is known as released */
		ignored = kvfi_owner_call(agent, say_bye, NULL);
		count_unreleased(agent, &report);
	}
	(void)ignored;
	atomic_store(&agent->stop, true);
	if (agent->threaded) {
		kvfi_inbox_wake(&agent->inbox);
		(void)pthread_join(agent->thread, NULL);
	} else {
		kvfi_owner_close(agent);
	}
	if (report_out != NULL)
		*report_out = report;
	free_agent(agent, report.unreleased_sessions > 0);
}
