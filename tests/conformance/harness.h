/* harness.h - one agent's side of a transport, without the agent: regions, copy workers, a queue of completions.
 *
 * The test's thread is the owner of every side. Waiting is polling all sides of the bench until what is awaited is in a queue, asleep on
 * their descriptors in between; it fails the test after DEADLINE_S. Helpers assert: what cannot be set up fails.
 */
#ifndef TESTS_CONFORMANCE_HARNESS_H
#define TESTS_CONFORMANCE_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdbool.h>
#include "transport/transport.h"

#define DEADLINE_S  30
#define WORKERS     2
#define MAX_PEERS   4
#define MAX_GRANTS  64
#define MAX_POSTS   256
#define MAX_REGIONS 8

/* A transport under test. Its author adds a row to the table in main.c. */
struct subject {
	const struct kvfi_transport_ops *ops;
	/* Opens a raw connection to a listening side, as a stranger would; -1 where there is no such thing (garbage tests are skipped). */
	int (*dial)(const void *address, size_t len_bytes);
};
extern const struct subject *subject;

struct event {
	struct kvfi_done done; /* frame points to bytes */
	unsigned char bytes[KVFI_HOT_FRAME_MAX];
	struct event *next;
};

struct side {
	const char *name;
	struct kvfi_transport_env env;
	struct kvfi_transport *transport; /* NULL: closed */
	struct kvfi_regions regions;
	int event_fd; /* readable after a notify */

	pthread_mutex_t lock; /* of all below */
	pthread_cond_t work;
	struct event *first, **last;
	/* Called inside notify, on whatever thread that is. */
	void (*spy)(void *context, const struct kvfi_done *done);
	void *spy_context;

	struct kvfi_job *jobs, **last_job;
	uint64_t allowance; /* jobs that may still start; UINT64_MAX: all */
	bool stopping;
	pthread_t workers[WORKERS];
};

/* The sides of a test; wait() polls those that are open. */
struct bench {
	struct side sides[3];
	uint32_t n;
	char runtime_dir[64];
};

int bench_setup(void **state); /* sides[0] listens (prefill); 1 and 2 are decode agents */
int bench_teardown(void **state);

void side_close(struct side *side);
/* Populated memory, told to the transport. */
uint32_t side_region(struct side *side, uint64_t len_bytes);
unsigned char *side_memory(struct side *side, uint32_t region);
/* Whom notify calls from now on; NULL: nobody. */
void side_spy(struct side *side, void (*spy)(void *context, const struct kvfi_done *done), void *context);
/* How many more jobs the copy workers may start. */
void side_allow(struct side *side, uint64_t jobs);

/* One turn of every open side. */
void bench_turn(struct bench *bench, int timeout_ms);
/* The next event of that kind (and id, unless ANY_ID), taken out of the queue; others stay. */
#define ANY_ID UINT64_MAX
struct kvfi_done await(struct bench *bench, struct side *side, enum kvfi_done_kind kind, uint64_t id);
/* Is one there now? */
bool take(struct side *side, enum kvfi_done_kind kind, uint64_t id, struct kvfi_done *done_out,
	unsigned char *bytes_out);
/* How many of that kind are in the queue. */
uint32_t count(struct side *side, enum kvfi_done_kind kind);

/* Prefill = sides[0] as peer `slot` of the decode side and the other way round; returns when both are up. */
void link_up(struct bench *bench, struct side *decode, uint32_t slot, uint64_t number);
/* Sends a frame there and back: whatever was on its way in sockets and queues has passed. */
void settle(struct bench *bench, struct side *decode, uint32_t slot);

#define skip_unless(condition, reason)                                                                       \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			print_message("skipped: %s\n", reason);                                              \
			skip();                                                                              \
		}                                                                                            \
	} while (0)

#endif
