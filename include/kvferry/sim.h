/* sim.h - the virtual cluster: real agents over a simulated world, in one thread, by seed. Experimental: may change in any release.
 *
 * A run opens the agents of a random cluster over a simulated network, simulated transports and a virtual clock, sends requests through them,
 * injects faults, and checks after every event what docs/safety.md promises. The same options give the same run, bit for bit.
 */
#ifndef KVFERRY_SIM_H
#define KVFERRY_SIM_H

#include "kvferry/kvferry.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What may go wrong; bits of kvf_sim_options.faults. */
enum kvf_sim_fault {
	KVF_SIM_DELAY = 1 << 0,     /* messages and stores take long, now and then */
	KVF_SIM_REORDER = 1 << 1,   /* messages overtake each other */
	KVF_SIM_DROP = 1 << 2,      /* messages are lost */
	KVF_SIM_DUPLICATE = 1 << 3, /* messages come twice, the second one late */
	KVF_SIM_CORRUPT = 1 << 4,   /* bytes of encoded messages change on the way */
	KVF_SIM_PARTITION = 1 << 5, /* two ranks do not reach each other for a while, or for good */
	KVF_SIM_SLOW = 1 << 6,      /* a link is slow for a while */
	KVF_SIM_STOP = 1 << 7,      /* a process stops, also inside a lease, and goes on later */
	KVF_SIM_CRASH = 1 << 8,     /* a process dies */
	KVF_SIM_RESTART = 1 << 9,   /* one that died, or closed, is started again */
	KVF_SIM_FULL = 1 << 10,     /* tables of the smallest size */
	KVF_SIM_ALLOC = 1 << 11,    /* an allocation fails */
	KVF_SIM_CLOCK = 1 << 12,    /* a process is paused and its clock has jumped forward */
	KVF_SIM_OVERTAKE = 1 << 13, /* control messages are much faster than data, or much slower */
	KVF_SIM_CANCEL = 1 << 14    /* users cancel requests, on either side, at any time */
};
#define KVF_SIM_FAULTS     15u
#define KVF_SIM_ALL_FAULTS ((1u << KVF_SIM_FAULTS) - 1u)

/* kvf_sim_fault_name - "delay" for bit 0, and so on; NULL from KVF_SIM_FAULTS on.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API const char *kvf_sim_fault_name(uint32_t bit);

struct kvf_sim_options {
	uint32_t struct_bytes; /* set by kvf_sim_options_init */
	uint32_t faults;       /* enum kvf_sim_fault; default all */
	uint64_t seed;         /* draws everything else */
	uint32_t max_ranks;    /* 2..16; default 8 */
	/* For reducing a run that fails: what the seed draws and these leave out does not happen. Bit i: the i-th request, the i-th single fault
	 * (partition, stop, crash, ...). */
	uint64_t skip_requests, skip_strikes;
	uint64_t load_ns; /* virtual time in which requests and faults begin; 0: drawn */
	int trace_fd;     /* what happens is written there, a line each; -1: nowhere */
};

/* kvf_sim_options_init - defaults into *options.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API void kvf_sim_options_init(struct kvf_sim_options *options);

struct kvf_sim_report {
	uint32_t failed;    /* 1: a check failed, and failure says which */
	char failure[1024]; /* "" or what is wrong, where and when */
	char cluster[256];  /* what the seed has drawn, for a person */
	uint64_t hash;      /* of everything that happened; equal runs, equal hash */
	uint64_t virtual_ns;
	uint64_t events, turns, messages, stores;
	uint32_t ranks, requests, sessions;
	uint32_t strikes; /* single faults that were drawn, those left out included */
	/* Sessions by outcome, and by what could not be told: their process died. */
	uint32_t completed, failed_sessions, cancelled, timed_out, died;
	uint32_t quarantined;            /* at the end: only where nothing can prove that a writer is quiet */
	uint64_t proofs[9];              /* by enum kvf_proof */
	uint64_t faults[KVF_SIM_FAULTS]; /* how often each happened */
};

/* kvf_sim_run - one run.
 *
 * While it runs the clocks, random numbers and allocations of the whole library are the simulation's: no other agent of this process may be open.
 * A broken invariant inside the library ends the process, as everywhere.
 * @report_out  whether a check failed is in it
 * Threads: one at a time in a process. Blocks: until the run is over. Allocates: yes.
 * Returns KVF_EINVAL with the option, KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_sim_run(
	const struct kvf_sim_options *options, struct kvf_sim_report *report_out);

struct kvf_sim_replay_report {
	uint32_t differs;     /* 1: this library decides something else, and difference says what and where */
	uint32_t cut;         /* 1: the record ends inside a step: so did the process that wrote it */
	char difference[512]; /* "" or the first one */
	char library[32];     /* version that wrote the record */
	uint64_t steps, calls;      /* inputs of the core, and what it decided, that were repeated */
	uint64_t first_ns, last_ns; /* of the recorded clock */
};

/* kvf_sim_replay - repeat what an agent has recorded (kvf_options.record), bit for bit.
 *
 * Steps every recorded input through a session core of its own, with the recorded times and what transports returned, and compares every decision.
 * A record is to be trusted as the process that wrote it: one that was tampered with may end this process by a broken invariant.
 * @trace_fd    every input but ticks, and every decision, is written there, a line each; -1: nowhere
 * Threads: any. Blocks: until the record is over. Allocates: yes.
 * Returns KVF_EINVAL (no record, another format, bytes that make no sense), KVF_EUNSUPPORTED, KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_sim_replay(
	const char *path, int trace_fd, struct kvf_sim_replay_report *report_out);

#ifdef __cplusplus
}
#endif

#endif
