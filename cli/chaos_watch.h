/* chaos_watch.h - samples of the machine and of the processes while a chaotic replay runs. */
#ifndef KVFERRY_CLI_CHAOS_WATCH_H
#define KVFERRY_CLI_CHAOS_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct chaos_footprint {
	int64_t descriptors;
	int64_t private_bytes; /* resident and anonymous */
	int64_t mapped_bytes;  /* of shared memory: the own pool, and those of peers */
};
/* Of a process; false: it is gone, or /proc is not there. */
bool chaos_watch_process(pid_t pid, struct chaos_footprint *out);
/* Threads that run or could run now, on the whole machine; 0: not known. */
uint32_t chaos_watch_runnable(void);

#endif
