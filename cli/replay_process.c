/* replay_process.c - forks the ranks, carries messages, and leaves nothing behind.
 *
 * Guarantees: children are stopped by pid and reaped on every path; the runtime directory (0700, in $TMPDIR
 * or /tmp) is removed by the coordinator, so also when ranks die; when the coordinator itself was killed
 * its children do it. A child ends when its socket ends (the coordinator has closed it or is gone) and,
 * should it be stuck in something then, some seconds after PR_SET_PDEATHSIG, which is SIGCONT so that it
 * reaches a stopped one. Children ignore Ctrl-C: the
 * terminal sends it to all, and only the coordinator decides. The coordinator's one thread; it has no
 * others, so that fork is safe.
 */
#include "cli/replay_process.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "cli/replay_host.h"

#define SIGNAL_INDEX    UINT32_MAX
#define TERM_WAIT_MS    2000
#define FINISH_WAIT_MS  10000
#define ORPHAN_WAIT_S   10
#define REAP_PAUSE_NS   2000000L
#define EXTRA_COMMANDS  4u /* CONNECT, FINISH and slack */
#define COMMANDS_A_SLOT 4u

/* ------------------------------------------------------- runtime directory */

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
	(void)info;
	(void)type;
	(void)walk;
	remove(path);
	return 0;
}

static void remove_runtime_dir(struct replay_processes *processes)
{
	if (processes->runtime_dir[0])
		nftw(processes->runtime_dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
	processes->runtime_dir[0] = 0;
}

/* Short names: a unix socket's path holds 107 characters. */
static bool make_runtime_dir(struct replay_processes *processes, struct reason *why)
{
	const char *base = getenv("TMPDIR");
	if (!base || base[0] != '/' || strlen(base) > 60)
		base = "/tmp";
	char path[sizeof(processes->runtime_dir)];
	snprintf(path, sizeof(path), "%s/kvferry-XXXXXX", base);
	if (!mkdtemp(path))
		return reason_set(why, "cannot make a runtime directory %s: %s", path, strerror(errno));
	memcpy(processes->runtime_dir, path, sizeof(path));
	return true;
}

static bool set_endpoints(
	const struct replay_processes *processes, struct replay_setup *setup, struct reason *why)
{
	struct replay_side *side = &setup->sides[REPLAY_PREFILL];
	for (uint32_t rank = 0; rank < side->n_ranks; rank++) {
		char endpoint[160];
		if (processes->loop)
			snprintf(endpoint, sizeof(endpoint), "inproc://kvferry-replay-p%u", rank);
		else
			snprintf(endpoint, sizeof(endpoint), "ipc://%s/p%u", processes->runtime_dir, rank);
		if (kvf_instance_set_endpoint(side->instance, rank, endpoint) != KVF_OK)
			return reason_set(why, "%s", kvf_error());
	}
	return true;
}

/* ------------------------------------------------------------------- start */

static bool take_signals(struct replay_processes *processes, struct reason *why)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, &processes->saved_mask) != 0)
		return reason_set(why, "cannot block signals: %s", strerror(errno));
	processes->masked = true;
	processes->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	processes->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = SIGNAL_INDEX};
	if (processes->signal_fd < 0 || processes->epoll_fd < 0 ||
		epoll_ctl(processes->epoll_fd, EPOLL_CTL_ADD, processes->signal_fd, &event) != 0)
		return reason_set(why, "cannot wait for signals: %s", strerror(errno));
	return true;
}

static pid_t coordinator;

static void end_soon(int number)
{
	(void)number;
	if (getppid() != coordinator)
		alarm(ORPHAN_WAIT_S); /* what is not done by then is stuck */
}

/* In the child: forget everything of the coordinator's but the own socket and the board. */
_Noreturn static void child_main(
	const struct replay_processes *processes, const struct replay_process *self, int fd, pid_t parent)
{
	coordinator = parent;
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	signal(SIGALRM, SIG_DFL);
	signal(SIGCONT, end_soon);
	prctl(PR_SET_PDEATHSIG, SIGCONT);
	sigprocmask(SIG_SETMASK, &processes->saved_mask, NULL);
	if (getppid() != parent)
		_exit(REPLAY_HOST_ORPHANED);
	for (uint32_t i = 0; i < processes->n; i++) {
		if (processes->all[i].fd >= 0)
			close(processes->all[i].fd);
	}
	close(processes->epoll_fd);
	close(processes->signal_fd);

	const struct replay_host_options options = {
		.setup = processes->setup,
		.board = processes->board,
		.chaos = processes->chaos,
		.fd = fd,
		.runtime_dir = processes->runtime_dir,
		.all_ranks = processes->loop,
		.side = self->side,
		.rank = self->rank,
	};
	int code = replay_host_run(&options);
	if (code == REPLAY_HOST_ORPHANED) {
		/* Nobody else may be left to do it. The socket's end comes before getppid() tells of it. */
		struct replay_processes own = *processes;
		remove_runtime_dir(&own);
	}
	_exit(code);
}

static bool start_one(struct replay_processes *processes, struct replay_process *process, struct reason *why)
{
	int fds[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0)
		return reason_set(why, "cannot make a socket pair: %s", strerror(errno));

	pid_t parent = getpid();
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		close(fds[0]);
		child_main(processes, process, fds[1], parent);
	}
	int saved_errno = errno;
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return reason_set(why, "cannot start a process: %s", strerror(saved_errno));
	}
	process->pid = pid;
	process->fd = fds[0];
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)(process - processes->all)};
	if (epoll_ctl(processes->epoll_fd, EPOLL_CTL_ADD, process->fd, &event) != 0)
		return reason_set(why, "cannot watch a process: %s", strerror(errno));
	return true;
}

/* Room for PREPARE, START and (chaos) two CANCELs of every request in flight. */
static bool make_queue(const struct replay_processes *processes, struct replay_process *process)
{
	process->queue_size =
		(processes->setup->concurrency * COMMANDS_A_SLOT + EXTRA_COMMANDS) * process->n_ranks;
	process->queue = calloc(process->queue_size, sizeof(*process->queue));
	return process->queue != NULL;
}

bool replay_processes_start(struct replay_processes *processes, struct replay_setup *setup,
	const struct replay_board *board, const struct chaos_shared *chaos, struct reason *why)
{
	uint32_t n_prefill = setup->sides[REPLAY_PREFILL].n_ranks;
	uint32_t n_ranks = n_prefill + setup->sides[REPLAY_DECODE].n_ranks;
	processes->epoll_fd = processes->signal_fd = -1;
	processes->loop = setup->options.transport == REPLAY_LOOP;
	processes->n_prefill = n_prefill;
	processes->setup = setup;
	processes->board = board;
	processes->chaos = chaos;
	uint32_t n = processes->loop ? 1 : n_ranks;
	if (!take_signals(processes, why) || !make_runtime_dir(processes, why) ||
		!set_endpoints(processes, setup, why))
		return false;
	processes->all = calloc(n, sizeof(*processes->all));
	if (!processes->all)
		return reason_set(why, "out of memory");
	processes->n = n;
	for (uint32_t i = 0; i < n; i++)
		processes->all[i].fd = -1;
	for (uint32_t i = 0; i < n; i++) {
		struct replay_process *process = &processes->all[i];
		process->n_ranks = processes->loop ? n_ranks : 1;
		process->side = i < n_prefill ? REPLAY_PREFILL : REPLAY_DECODE;
		process->rank = i < n_prefill ? i : i - n_prefill;
		if (!make_queue(processes, process))
			return reason_set(why, "out of memory");
		if (!start_one(processes, process, why))
			return false;
	}
	return true;
}

bool replay_processes_restart(struct replay_processes *processes, uint32_t index, struct reason *why)
{
	struct replay_process *process = &processes->all[index];
	process->queue_head = process->queue_n = 0;
	process->n_finished = 0;
	return start_one(processes, process, why);
}

void replay_processes_signal(const struct replay_processes *processes, uint32_t index, int number)
{
	if (processes->all[index].pid > 0)
		kill(processes->all[index].pid, number);
}

/* ---------------------------------------------------------------- messages */

static void watch(struct replay_processes *processes, struct replay_process *process, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u32 = (uint32_t)(process - processes->all)};
	epoll_ctl(processes->epoll_fd, EPOLL_CTL_MOD, process->fd, &event);
}

/* True: taken by the socket, or the process is gone (which next() tells). */
static bool try_send(const struct replay_process *process, const struct replay_command *command)
{
	ssize_t n = send(process->fd, command, sizeof(*command), MSG_DONTWAIT | MSG_NOSIGNAL);
	return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

void replay_processes_send(struct replay_processes *processes, const struct replay_command *command)
{
	uint32_t index =
		command->side == REPLAY_PREFILL ? command->rank : processes->n_prefill + command->rank;
	struct replay_process *process = &processes->all[processes->loop ? 0 : index];
	if (process->fd < 0 || (process->queue_n == 0 && try_send(process, command)))
		return;
	process->queue[(process->queue_head + process->queue_n) % process->queue_size] = *command;
	process->queue_n++;
	if (process->queue_n == 1)
		watch(processes, process, EPOLLIN | EPOLLOUT);
}

static void flush_queue(struct replay_processes *processes, struct replay_process *process)
{
	while (process->queue_n > 0 && try_send(process, &process->queue[process->queue_head])) {
		process->queue_head = (process->queue_head + 1) % process->queue_size;
		process->queue_n--;
	}
	if (process->queue_n == 0)
		watch(processes, process, EPOLLIN);
}

static void describe_end(const struct replay_process *process, bool loop, int status, struct reason *why)
{
	char who[64];
	if (loop)
		snprintf(who, sizeof(who), "the process of all ranks (pid %d)", (int)process->pid);
	else
		snprintf(who, sizeof(who), "%s rank %u (pid %d)",
			process->side == REPLAY_PREFILL ? "prefill" : "decode", process->rank,
			(int)process->pid);
	if (WIFSIGNALED(status))
		reason_set(why, "%s was killed by signal %d (%s)", who, WTERMSIG(status),
			strsignal(WTERMSIG(status)));
	else
		reason_set(why, "%s ended too early, with exit code %d", who, WEXITSTATUS(status));
}

/* Its socket ended. True: before its time. */
static bool process_ended(
	struct replay_processes *processes, struct replay_process *process, struct reason *why)
{
	int status = 0;
	bool early = process->n_finished < process->n_ranks;
	close(process->fd);
	process->fd = -1;
	if (!early)
		return false;
	kill(process->pid, SIGTERM); /* it has let go of its socket: nothing it does counts any more */
	while (waitpid(process->pid, &status, 0) < 0 && errno == EINTR)
		;
	describe_end(process, processes->loop, status, why);
	process->pid = 0;
	return true;
}

static bool read_report(struct replay_process *process, struct replay_report *report_out, bool *ended_out)
{
	ssize_t n = recv(process->fd, report_out, sizeof(*report_out), MSG_DONTWAIT);
	*ended_out = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
	if (n != (ssize_t)sizeof(*report_out))
		return false;
	if (report_out->kind == REPLAY_FINISHED)
		process->n_finished++;
	return true;
}

static bool read_signal(struct replay_processes *processes)
{
	struct signalfd_siginfo info;
	if (read(processes->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return false;
	processes->caught = (int)info.ssi_signo;
	return true;
}

enum replay_next replay_processes_next(struct replay_processes *processes, int timeout_ms,
	struct replay_report *report_out, struct reason *why)
{
	for (;;) {
		struct epoll_event event;
		int n = epoll_wait(processes->epoll_fd, &event, 1, timeout_ms);
		if (n == 0 || (n < 0 && errno != EINTR))
			return REPLAY_NEXT_TIMEOUT;
		if (n < 0)
			continue;
		if (event.data.u32 == SIGNAL_INDEX) {
			if (read_signal(processes))
				return REPLAY_NEXT_INTERRUPTED;
			continue;
		}
		struct replay_process *process = &processes->all[event.data.u32];
		bool ended;
		if (event.events & EPOLLOUT)
			flush_queue(processes, process);
		if (read_report(process, report_out, &ended))
			return REPLAY_NEXT_REPORT;
		if (ended && process_ended(processes, process, why)) {
			processes->lost = event.data.u32;
			return REPLAY_NEXT_LOST;
		}
	}
}

/* -------------------------------------------------------------------- stop */

/* Reaps what has ended; true when nothing is left. */
static bool reap(struct replay_processes *processes)
{
	bool none = true;
	for (uint32_t i = 0; i < processes->n; i++) {
		struct replay_process *process = &processes->all[i];
		if (process->pid == 0)
			continue;
		if (waitpid(process->pid, NULL, WNOHANG) == 0)
			none = false;
		else
			process->pid = 0;
	}
	return none;
}

static bool reap_within(struct replay_processes *processes, long wait_ms)
{
	struct timespec pause = {.tv_nsec = REAP_PAUSE_NS};
	for (long waited_ns = 0; !reap(processes); waited_ns += REAP_PAUSE_NS) {
		if (waited_ns / 1000000 >= wait_ms)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

static void signal_all(const struct replay_processes *processes, int number)
{
	for (uint32_t i = 0; i < processes->n; i++) {
		if (processes->all[i].pid > 0) {
			kill(processes->all[i].pid, number);
			kill(processes->all[i].pid, SIGCONT); /* a stopped one takes nothing else */
		}
	}
}

void replay_processes_stop(struct replay_processes *processes)
{
	bool finished = true;
	for (uint32_t i = 0; i < processes->n; i++) {
		struct replay_process *process = &processes->all[i];
		finished = finished && (process->pid == 0 || process->n_finished == process->n_ranks);
		if (process->fd >= 0)
			close(process->fd);
		process->fd = -1;
	}
	if (!finished || !reap_within(processes, FINISH_WAIT_MS)) {
		signal_all(processes, SIGTERM);
		if (!reap_within(processes, TERM_WAIT_MS)) {
			signal_all(processes, SIGKILL);
			while (!reap_within(processes, TERM_WAIT_MS))
				;
		}
	}
	for (uint32_t i = 0; i < processes->n; i++)
		free(processes->all[i].queue);
	free(processes->all);
	processes->all = NULL;
	processes->n = 0;
	remove_runtime_dir(processes);
	if (processes->epoll_fd >= 0)
		close(processes->epoll_fd);
	if (processes->signal_fd >= 0)
		close(processes->signal_fd);
	if (processes->masked)
		sigprocmask(SIG_SETMASK, &processes->saved_mask, NULL);
	processes->masked = false;
}
