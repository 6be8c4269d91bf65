/* replay_process.h - the processes of a replay: started, talked to, stopped and cleaned up after.
 *
 * One process per rank; with the loop transport one that hosts all of them. The coordinator is their
 * parent: whatever way it ends, they end.
 */
#ifndef KVFERRY_CLI_REPLAY_PROCESS_H
#define KVFERRY_CLI_REPLAY_PROCESS_H

#include <signal.h>
#include <sys/types.h>
#include "cli/chaos_shared.h"
#include "cli/replay_board.h"

struct replay_process {
	pid_t pid;           /* 0: reaped */
	int fd;              /* -1: closed */
	uint32_t side, rank; /* of its first rank */
	uint32_t n_ranks;
	uint32_t n_finished;          /* ranks that reported FINISHED */
	struct replay_command *queue; /* commands that the socket had no room for; a ring */
	uint32_t queue_size, queue_head, queue_n;
};

/* Zero-initialise; start, stop. */
struct replay_processes {
	struct replay_process *all;
	uint32_t n;
	bool loop;
	uint32_t n_prefill; /* ranks */
	const struct replay_setup *setup;
	const struct replay_board *board;
	const struct chaos_shared *chaos;
	uint32_t lost; /* after REPLAY_NEXT_LOST: which */
	int epoll_fd, signal_fd;
	sigset_t saved_mask;
	bool masked;
	int caught; /* the signal that interrupted the run, or 0 */
	char runtime_dir[108];
};

enum replay_next {
	REPLAY_NEXT_REPORT,
	REPLAY_NEXT_TIMEOUT,
	REPLAY_NEXT_INTERRUPTED, /* SIGINT, SIGTERM or SIGHUP came */
	REPLAY_NEXT_LOST         /* a process ended before its time: why says which and how */
};

/* replay_processes_start - forks; call before any thread exists. stop() is due also after false. */
bool replay_processes_start(struct replay_processes *processes, struct replay_setup *setup,
	const struct replay_board *board, const struct chaos_shared *chaos, struct reason *why);
/* Starts a process again that was lost; its ranks report UP. */
bool replay_processes_restart(struct replay_processes *processes, uint32_t index, struct reason *why);
/* Sends a signal to a process that runs. */
void replay_processes_signal(const struct replay_processes *processes, uint32_t index, int number);
/* Never blocks, never fails: what the socket does not take waits in a ring that has room for everything in
 * flight. */
void replay_processes_send(struct replay_processes *processes, const struct replay_command *command);
/* Waits at most timeout_ms (-1: for ever) for one report. */
enum replay_next replay_processes_next(struct replay_processes *processes, int timeout_ms,
	struct replay_report *report_out, struct reason *why);
/* Ends and reaps every process, removes the runtime directory, restores signals. */
void replay_processes_stop(struct replay_processes *processes);

#endif
