/* replay_host.c - the loop of a rank process: commands in, events of its agents, jobs in small steps,
 * reports out.
 *
 * Guarantees: sleeps when there is nothing to do; a long job (filling or checking a GiB) is done in steps,
 * so that commands and events are looked at between them. Ends at once when the coordinator is gone. One
 * thread, beside those of the agents.
 */
#include "cli/replay_host.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "cli/replay_rank.h"

/* Agents without a progress thread have timers that only a poll looks at. */
#define LOOP_TICK_NS UINT64_C(5000000)
#define NS_PER_S     UINT64_C(1000000000)

struct host_job {
	struct replay_rank *rank;
	struct replay_job job;
};

struct host {
	const struct replay_host_options *options;
	struct replay_rank *ranks;
	struct pollfd *fds; /* [0]: the coordinator; then one per rank */
	uint32_t n_ranks, n_prefill, n_finished;
	struct host_job *jobs; /* a ring; room for one per (rank, slot) and one per rank */
	uint32_t jobs_size, jobs_head, n_jobs;
	bool broken;
	bool orphaned; /* the coordinator is gone */
};

void replay_host_report(struct replay_rank *rank, const struct replay_report *report)
{
	struct host *host = rank->host;
	if (host->broken || host->orphaned)
		return;
	ssize_t n;
	do {
		n = send(host->options->fd, report, sizeof(*report), MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	host->orphaned = n < 0;
	if (report->kind == REPLAY_FINISHED)
		host->n_finished++;
}

void replay_host_broken(struct replay_rank *rank, const char *format, ...)
{
	struct host *host = rank->host;
	struct replay_report report = {.kind = REPLAY_BROKEN, .side = rank->side, .rank = rank->index};
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(report.text, sizeof(report.text), format, arguments);
	va_end(arguments);
	replay_host_report(rank, &report);
	host->broken = true;
}

void replay_host_job(struct replay_rank *rank, uint32_t kind, uint32_t slot)
{
	struct host *host = rank->host;
	struct host_job *job = &host->jobs[(host->jobs_head + host->n_jobs) % host->jobs_size];
	if (host->n_jobs == host->jobs_size) {
		replay_host_broken(rank, "more jobs than requests in flight");
		return;
	}
	job->rank = rank;
	replay_job_init(&job->job, kind, slot);
	host->n_jobs++;
}

/* One step of the oldest job; the others take turns, so that a short one does not wait for a long one to
 * end. */
static void step_jobs(struct host *host)
{
	struct host_job current = host->jobs[host->jobs_head];
	host->jobs_head = (host->jobs_head + 1) % host->jobs_size;
	host->n_jobs--;
	if (replay_job_step(&current.job, &current.rank->memory)) {
		replay_rank_job_done(current.rank, &current.job);
		return;
	}
	host->jobs[(host->jobs_head + host->n_jobs) % host->jobs_size] = current;
	host->n_jobs++;
}

static void read_commands(struct host *host)
{
	while (!host->broken && !host->orphaned) {
		struct replay_command command;
		ssize_t n = recv(host->options->fd, &command, sizeof(command), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n != (ssize_t)sizeof(command)) {
			host->orphaned = true;
			return;
		}
		uint32_t index = 0;
		if (host->options->all_ranks)
			index = (command.side == REPLAY_PREFILL ? 0 : host->n_prefill) + command.rank;
		replay_rank_command(&host->ranks[index], &command);
	}
}

static void wait_for_something(struct host *host)
{
	uint64_t now = replay_now_ns(), due = UINT64_MAX;
	if (host->n_jobs > 0)
		due = now;
	else if (host->options->all_ranks)
		due = now + LOOP_TICK_NS;
	for (uint32_t i = 0; i < host->n_ranks; i++) {
		host->fds[1 + i].fd = host->ranks[i].agent ? kvf_fd(host->ranks[i].agent) : -1;
		if (host->options->chaos->memory) {
			uint64_t own = chaos_rank_due_ns(&host->ranks[i]);
			due = own < due ? own : due;
		}
	}
	uint64_t wait_ns = due > now ? due - now : 0;
	const struct timespec timeout = {(time_t)(wait_ns / NS_PER_S), (long)(wait_ns % NS_PER_S)};
	ppoll(host->fds, 1 + host->n_ranks, due == UINT64_MAX ? NULL : &timeout, NULL);
}

static void run(struct host *host)
{
	while (!host->broken && !host->orphaned && host->n_finished < host->n_ranks) {
		wait_for_something(host);
		read_commands(host);
		for (uint32_t i = 0; i < host->n_ranks && !host->broken; i++) {
			replay_rank_poll(&host->ranks[i]);
			if (host->options->chaos->memory && host->ranks[i].agent && !host->broken)
				chaos_rank_turn(&host->ranks[i]);
		}
		if (host->n_jobs > 0 && !host->broken)
			step_jobs(host);
	}
}

static bool open_ranks(struct host *host)
{
	for (uint32_t i = 0; i < host->n_ranks; i++) {
		struct replay_rank *rank = &host->ranks[i];
		struct reason why;
		rank->setup = host->options->setup;
		rank->board = host->options->board;
		rank->host = host;
		rank->side = host->options->side;
		rank->index = host->options->rank;
		if (host->options->all_ranks) {
			rank->side = i < host->n_prefill ? REPLAY_PREFILL : REPLAY_DECODE;
			rank->index = i < host->n_prefill ? i : i - host->n_prefill;
		}
		uint32_t index = (rank->side == REPLAY_PREFILL ? 0 : host->n_prefill) + rank->index;
		chaos_rank_init(rank, host->options->chaos, index);
		chaos_shared_announce(host->options->chaos, index);
		if (!replay_rank_open(rank, host->options->runtime_dir, &why)) {
			replay_host_broken(rank, "%s", why.text);
			return false;
		}
		const struct replay_report up = {.kind = REPLAY_UP, .side = rank->side, .rank = rank->index};
		replay_host_report(rank, &up);
	}
	return true;
}

static void host_fini(struct host *host)
{
	free(host->ranks);
	free(host->jobs);
	free(host->fds);
}

static bool host_init(struct host *host, const struct replay_host_options *options)
{
	const struct replay_setup *setup = options->setup;
	memset(host, 0, sizeof(*host));
	host->options = options;
	host->n_prefill = setup->sides[REPLAY_PREFILL].n_ranks;
	host->n_ranks = options->all_ranks ? host->n_prefill + setup->sides[REPLAY_DECODE].n_ranks : 1;
	host->jobs_size = host->n_ranks * (setup->concurrency + 1);
	host->ranks = calloc(host->n_ranks, sizeof(*host->ranks));
	host->jobs = calloc(host->jobs_size, sizeof(*host->jobs));
	host->fds = calloc(1 + host->n_ranks, sizeof(*host->fds));
	if (!host->ranks || !host->jobs || !host->fds) {
		host_fini(host);
		return false;
	}
	for (uint32_t i = 0; i <= host->n_ranks; i++)
		host->fds[i].events = POLLIN;
	host->fds[0].fd = options->fd;
	return true;
}

int replay_host_run(const struct replay_host_options *options)
{
	struct host host;
	if (!host_init(&host, options)) {
		fprintf(stderr, "kvferry: a rank process is out of memory\n");
		return REPLAY_HOST_BROKEN;
	}
	if (open_ranks(&host))
		run(&host);
	/* The agents of a run that was broken off end with the process: nobody waits for them. */
	int code = REPLAY_HOST_GOOD;
	if (host.orphaned)
		code = REPLAY_HOST_ORPHANED;
	else if (host.broken)
		code = REPLAY_HOST_BROKEN;
	host_fini(&host);
	return code;
}
