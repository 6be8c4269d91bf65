/* guard.h - what the loop of an inference engine needs around an agent.
 *
 * The engine opens sessions, adds each to the guard, calls kvf_guard_tick once per iteration, also when there is nothing to run, and acts on what
 * kvf_guard_poll gives. Blocks are freed by the function that the engine handed over, when their memory is proven quiet and not before. docs/guard.md
 * shows the loop, and which mistakes of other systems each rule prevents.
 *
 * The guard takes the agent's events (kvf_poll): whoever has a guard polls through it. One thread at a time calls it, the one that polls.
 * It runs functions of the engine in three places, always on the calling thread and inside the call: a group's post and test in kvf_guard_tick and the
 * drains, free_request in those and in kvf_guard_terminate, and the function that kvf_guard_flush is given. None of them may call the guard:
 * such a call is refused with KVF_EBUSY. Sentences are left in kvf_error(), as everywhere.
 */
#ifndef KVFERRY_GUARD_H
#define KVFERRY_GUARD_H

#include "kvferry/kvferry.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvf_guard kvf_guard;

/* ------------------------------------------------------------------- groups */

/* An all-gather among the ranks of one TP/PP group, which all hold the same requests: one numbered round at a time, from 1. Three are ready-made
 * (kvf_guard_group_over, kvf_guard_threads_member, none); an engine can bring its own. Both functions are to return at once: one that waits makes
 * the tick wait. */
struct kvf_guard_group {
	void *self;
	uint32_t rank, n_ranks; /* this member's place, below n_ranks */
	uint32_t max_bytes; /* of one member in one round; kvf_guard_group_bytes says how many are needed */
	/* What this rank says in a round; the bytes are to be copied. KVF_OK; KVF_EAGAIN or KVF_EFULL: the next tick asks again; any other status is
	 * the group's fault and makes the guard unhealthy. */
	enum kvf_status (*post)(void *self, uint64_t round, const void *bytes, uint32_t len_bytes);
	/* KVF_OK once all ranks have posted this round: n_ranks parts, valid until the next post. KVF_EAGAIN: somebody is awaited. Any other status as
	 * above; it is asked again at every tick, and may recover. */
	enum kvf_status (*test)(void *self, uint64_t round, struct kvf_group_part *parts_out);
};

/* kvf_guard_group_bytes - how many bytes a rank may say in a round of a guard with so many requests.
 *
 * Threads: any. Blocks: never. Allocates: no.
 * Returns the bytes; UINT32_MAX when they do not fit. Since 0.1.
 */
KVF_API uint32_t kvf_guard_group_bytes(uint32_t max_requests);

struct kvf_guard_over {
	kvf_agent *agent;
	kvf_group_handle group;
};

/* kvf_guard_group_over - a group that goes over the agent's control channel.
 *
 * @over       the group, opened with params; the caller's, and open until the guard is closed
 * @params     those of kvf_group_open
 * @group_out  for kvf_guard_options
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API void kvf_guard_group_over(struct kvf_guard_over *over, const struct kvf_group_params *params,
	struct kvf_guard_group *group_out);

typedef struct kvf_guard_threads kvf_guard_threads;

/* kvf_guard_threads_new - a group between threads of one process, without a lock: a thread that is stopped stops no other.
 *
 * @n_ranks    1..KVF_GROUP_MAX_RANKS
 * @max_bytes  of one rank in one round, 1..KVF_GROUP_MAX_BYTES
 * Threads: any. Blocks: never. Allocates: 2 * n_ranks * max_bytes, and a little.
 * Returns KVF_EINVAL, KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_guard_threads_new(
	uint32_t n_ranks, uint32_t max_bytes, kvf_guard_threads **threads_out);

/* kvf_guard_threads_member - the group as one rank sees it; once for each rank.
 *
 * @group_out  for kvf_guard_options of that rank's guard
 * Threads: any. Blocks: never. Allocates: no.
 * Returns KVF_EINVAL (rank). Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_guard_threads_member(
	kvf_guard_threads *threads, uint32_t rank, struct kvf_guard_group *group_out);

/* kvf_guard_threads_free - when every guard of the group is closed.
 *
 * @threads  may be NULL
 * Threads: any. Blocks: never. Since 0.1.
 */
KVF_API void kvf_guard_threads_free(kvf_guard_threads *threads);

/* --------------------------------------------------------------------- open */

struct kvf_guard_options {
	uint32_t struct_bytes;  /* set by kvf_guard_options_init */
	uint32_t max_requests;  /* added and not freed yet; default 1024, at most 65536 */
	uint32_t max_responses; /* buffered between two flushes; default 1024 */
	uint32_t
		max_events; /* of the agent that are not about requests, kept for kvf_guard_event; default 1024 */
	/* the ranks that hold the same requests and act on them together; copied; NULL: this rank alone */
	const struct kvf_guard_group *group;
	/* 1: free_request runs where all ranks of the group have terminated and released the request, in the same order everywhere, so
	 * that their block pools stay alike; 0 (default): where this rank has. The same at all ranks */
	uint32_t free_together;
	/* 1: kvf_guard_flush is a collective of all data-parallel ranks, and is always entered */
	uint32_t attention_dp;
	uint64_t round_timeout_ns; /* an open round older than this is unhealthy; default 60 s; 0 = off */
	/* how long it may be unhealthy before shutdown is asked for; 0 (default): twice the agent's progress timeout, 120 s if that is off */
	uint64_t grace_ns;
	uint64_t
		loop_timeout_ns; /* no tick for so long: kvf_guard_health says "loop"; default 60 s; 0 = off */
	/* the blocks of the request are the engine's again; once for each request that was terminated */
	void (*free_request)(void *self, uint64_t request_id, uint32_t attempt, void *user);
	void *self;
};

/* kvf_guard_options_init - defaults into *options, and the size of the struct that this program was compiled with.
 *
 * Threads: any. Blocks: never. Allocates: no. Since 0.1.
 */
KVF_API void kvf_guard_options_init(struct kvf_guard_options *options);

/* kvf_guard_open - a guard over an agent, which stays the caller's and outlives it.
 *
 * From now on the guard takes the agent's events.
 * @options  copied; free_request must not be NULL
 * Threads: the one that polls. Blocks: never. Allocates: yes, all it will ever need.
 * Returns KVF_EINVAL with the option and its value, KVF_ENOMEM. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_guard_open(
	kvf_agent *agent, const struct kvf_guard_options *options, kvf_guard **guard_out);

/* kvf_guard_close - forget everything. Frees no request: what is not released stays the agent's, and kvf_agent_close reports it.
 *
 * @guard     may be NULL
 * @left_out  how many requests had not been freed; may be NULL
 * Threads: the one that polls. Blocks: never. Since 0.1.
 */
KVF_API void kvf_guard_close(kvf_guard *guard, uint32_t *left_out);

/* ----------------------------------------------------------------- requests */

struct kvf_guard_request {
	uint64_t request_id;
	uint32_t attempt;
	/* of kvf_tx_open or kvf_rx_open, the guard's from now on. bits 0: the call was refused with `refused`; the request is
	 * added all the same, so that the other ranks learn of it */
	kvf_session session;
	enum kvf_status refused;
	/* the client's patience, from now; 0 = off */
	uint64_t timeout_ns;
	/* from the first byte of the transfer, so that waiting in a queue does not count; 0 = off */
	uint64_t transfer_timeout_ns;
	void *user; /* given back with every result and to free_request */
};

/* kvf_guard_add - from now on the guard watches over this request: before the next tick after its session was opened.
 *
 * @request  copied; with a group, every rank adds it
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_EINVAL (neither a session nor a failure), KVF_DUPLICATE while (id, attempt) is not freed, KVF_EFULL (max_requests), KVF_EBUSY. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_guard_add(
	kvf_guard *guard, const struct kvf_guard_request *request);

/* kvf_guard_cancel - the client has gone. Asks both ends to stop; with a group, any one rank may call it and all will cancel.
 *
 * The result follows by kvf_guard_poll, once, as for every request. Of a request that is not known nothing is remembered.
 * @reason  for the other side's log; copied; may be NULL
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns what kvf_cancel said; KVF_CANCEL_NOT_FOUND for a request that is not known. Memory is given back through free_request alone. Since 0.1.
 */
KVF_API enum kvf_cancel_result kvf_guard_cancel(
	kvf_guard *guard, uint64_t request_id, uint32_t attempt, const char *reason);

/* kvf_guard_can_terminate - may the blocks of this request be freed now?
 *
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns 1; 0 while a transfer is in flight, or a cancel is not proven safe yet. 1 for a request that is not known. Since 0.1.
 */
KVF_API int kvf_guard_can_terminate(kvf_guard *guard, uint64_t request_id, uint32_t attempt);

/* kvf_guard_terminate - the engine has done with this request: free it when its memory is quiet.
 *
 * Exactly once for each request. free_request runs in this call when the memory is quiet already (and not free_together), else on the tick that sees
 * RELEASED. Cancels nothing: a prefill rank terminates after its last slice and the transfer goes on. No result of it is told from now on.
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_ENOTFOUND, KVF_EBUSY. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_guard_terminate(
	kvf_guard *guard, uint64_t request_id, uint32_t attempt);

/* --------------------------------------------------------------------- tick */

/* kvf_guard_tick - once per iteration, also on an idle one.
 *
 * Takes the agent's events, judges the requests' deadlines, takes part in the group's round, frees what has become quiet, looks at health.
 * @at_least  when there are fewer results than this it looks a second time at once, for ids that have become ready everywhere meanwhile; it
 *            waits for nothing, and an id that is not ready everywhere is never given
 * Threads: the one that polls. Blocks: never, if the group's functions do not. Allocates: no.
 * Returns how many results kvf_guard_poll would give, or a negative enum kvf_status. Since 0.1.
 */
KVF_API int kvf_guard_tick(kvf_guard *guard, uint32_t at_least);

enum kvf_guard_kind {
	KVF_GUARD_READY = 1, /* a tx: every expected receiver of every rank has asked; once */
	KVF_GUARD_EXPIRED =
		2, /* with a group: its time is over on this rank, answer the client now; FAILED follows */
	KVF_GUARD_COMPLETED = 3, /* on all ranks. One of these last three, once */
	KVF_GUARD_FAILED = 4,    /* on some rank, and cancelled on none; status says why */
	KVF_GUARD_CANCELLED = 5  /* on some rank */
};

struct kvf_guard_result {
	enum kvf_guard_kind kind;
	enum kvf_status status; /* FAILED: of the first rank that failed; the same everywhere */
	uint64_t request_id;
	uint32_t attempt;
	uint32_t answered; /* 1: EXPIRED was told before */
	kvf_session
		session; /* for kvf_session_error and kvf_session_bad_blocks of one that failed, until kvf_guard_terminate; 0 if none */
	void *user;
};

/* kvf_guard_poll - what has become of requests since it was last called, in the same order on all ranks of the group.
 *
 * Every result is told once; none of a request that was terminated.
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns the number taken, or a negative enum kvf_status. Since 0.1.
 */
KVF_API int kvf_guard_poll(kvf_guard *guard, struct kvf_guard_result *results, int n);

/* kvf_guard_event - the agent's other events: peers, slices, and sessions that were not added. The oldest are dropped when max_events wait.
 *
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns 1 and one event, 0 when there is none, or a negative enum kvf_status. Since 0.1.
 */
KVF_API int kvf_guard_event(kvf_guard *guard, struct kvf_event *event_out);

/* ---------------------------------------------------------------- responses */

struct kvf_guard_response {
	uint64_t request_id;
	uint32_t attempt;
	enum kvf_status status;
	void *payload; /* the engine's */
};

/* kvf_guard_respond - keep an answer until the next flush.
 *
 * @response  copied; its payload is not
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns KVF_EFULL (max_responses), KVF_EINVAL, KVF_EBUSY. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_guard_respond(
	kvf_guard *guard, const struct kvf_guard_response *response);

/* Sends what is buffered: n may be 0 with attention_dp. KVF_OK: they are dropped from the buffer; any other status: they stay in it. */
typedef enum kvf_status (*kvf_guard_flush_function)(
	void *self, const struct kvf_guard_response *responses, uint32_t n);

/* kvf_guard_flush - at the point of the iteration that every rank reaches.
 *
 * With attention_dp the function is always run, also with nothing to send: it is a collective, and a rank that stayed away would stop the others.
 * Without, it is run only when there is something.
 * Threads: the one that polls. Blocks: as the function does. Allocates: no.
 * Returns what the function returned; KVF_EINVAL, KVF_EBUSY. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_guard_flush(
	kvf_guard *guard, kvf_guard_flush_function flush, void *self);

/* ------------------------------------------------------------------- health */

enum kvf_guard_reason {
	KVF_GUARD_HEALTHY = 0,
	KVF_GUARD_AGENT = 1, /* kvf_health says so */
	KVF_GUARD_GROUP = 2, /* a rank is lost, or a round has been open for longer than round_timeout_ns */
	KVF_GUARD_LOOP = 3   /* nobody has called kvf_guard_tick for loop_timeout_ns */
};

struct kvf_guard_health {
	uint32_t healthy; /* 1 or 0; it can come back */
	enum kvf_guard_reason reason;
	char text[224];          /* the reason in words: "group: ..."; "" when healthy */
	uint64_t unhealthy_ns;   /* for how long, without a break, as of the last tick; 0 = healthy */
	uint64_t grace_ns;       /* after which shutdown is asked for */
	uint64_t since_tick_ns;  /* since the last tick, or the opening */
	uint64_t round;          /* that is open; 0 = no group, or none yet */
	uint64_t round_open_ns;  /* for how long, as of the last tick */
	uint32_t requests;       /* added and not freed */
	uint32_t undecided;      /* of them, without COMPLETED, FAILED or CANCELLED */
	uint32_t deferred;       /* of them, terminated and waiting for their memory */
	uint32_t events_dropped; /* for lack of room, see kvf_guard_event */
	struct kvf_health agent;
};

/* kvf_guard_health - how the agent, the group and the loop itself are: for a health page, which must not be green over a loop that stands still.
 *
 * Threads: any, until kvf_guard_close. Blocks: never. Allocates: no.
 * Returns KVF_EINVAL. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_guard_health(
	kvf_guard *guard, struct kvf_guard_health *health_out);

/* kvf_guard_wants_shutdown - has it been unhealthy for the whole of its grace?
 *
 * Asked once: a second call gives 0, until it has recovered and the grace has passed anew. Slow transfers, quarantined sessions and requests that timed
 * out never cause it.
 * Threads: the one that polls. Blocks: never. Allocates: no.
 * Returns 1 once, else 0. Since 0.1.
 */
KVF_API int kvf_guard_wants_shutdown(kvf_guard *guard);

/* ------------------------------------------------------------------- drains */

/* kvf_guard_drain_results - for shutdown: ticks until at least so many results wait for kvf_guard_poll.
 *
 * @bound_ns  nanoseconds
 * Threads: the one that polls. Blocks: at most bound_ns. Allocates: no.
 * Returns KVF_TIMED_OUT with the numbers, KVF_EINVAL, KVF_EBUSY, or what the tick returned. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_guard_drain_results(
	kvf_guard *guard, uint32_t at_least, uint64_t bound_ns);

/* kvf_guard_drain_released - for shutdown: ticks until the memory of every request is quiet, and those that were terminated are freed.
 *
 * Cancels nothing; an engine that wants to stop cancels first.
 * @bound_ns  nanoseconds
 * Threads: the one that polls. Blocks: at most bound_ns. Allocates: no.
 * Returns KVF_TIMED_OUT with the number that is left, KVF_EINVAL, KVF_EBUSY, or what the tick returned. Since 0.1.
 */
KVF_API KVF_MUST_CHECK enum kvf_status kvf_guard_drain_released(kvf_guard *guard, uint64_t bound_ns);

#ifdef __cplusplus
}
#endif

#endif
