/* shm_writer.h - a prefill agent's shm transport in a process of its own, and a decode agent's here, to stop and kill one of them.
 *
 * The writer does what it is told over a socket pair and reports every completion there. The test's thread owns the receiver, runs its jobs and
 * waits; nothing sleeps without a descriptor that ends it. Helpers assert.
 */
#ifndef TESTS_UNIT_SHM_WRITER_H
#define TESTS_UNIT_SHM_WRITER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <sys/types.h>
#include "geometry/geometry.h"
#include "transport/fault_point.h"
#include "transport/shm.h"

#define CANARY      0xc5
#define MAX_WRITERS 2u

/* One layer, one head, one part: a block is one run. */
struct shape {
	struct kvf_instance *prefill, *decode;
	struct kvf_layout *src, *dst; /* bases from 0 */
	uint64_t bytes;               /* of either side's memory */
	uint32_t prompt_len;
	struct kvfi_ids ids[1];
};

enum writer_does {
	WRITER_EXPECT = 1, /* a = incarnation, b = link */
	WRITER_POST = 2,   /* a = id, b = lease slot, c = generation; region */
	WRITER_DISCONNECT = 3,
	WRITER_FORK =
		4, /* a child that does nothing, until the writer's test is over; reports its mappings */
	WRITER_LEAVE = 5
};

struct order {
	uint32_t what, region;
	uint64_t a, b, c;
};

struct report {
	uint32_t kind; /* enum kvfi_done_kind; 0: an order was carried out */
	int32_t status;
	uint64_t id, bytes;
};

struct writer {
	pid_t pid; /* of our child; pid_namespace: of its init */
	int fd;
	uint64_t incarnation;
	unsigned char address[KVFI_ADDRESS_MAX_BYTES];
	size_t address_bytes;
	_Atomic uint32_t *fault; /* enum kvfi_fault, in shared memory */
	int hold_fd;             /* closed: its forked child ends */
};

struct stage {
	struct shape shape;
	struct writer writers[MAX_WRITERS];
	uint32_t n_writers;
	char runtime_dir[64];
	/* the receiver */
	struct kvfi_regions regions;
	struct kvfi_transport *transport;
	uint32_t region;
	struct kvf_layout *dst_local;
	kvf_plan *plan;
	struct kvfi_job *jobs, **last_job;
	struct kvfi_done events[64];
	uint32_t n_events;
	int fds_before;
};

/* blocks of 16 KiB. The writers run before the receiver opens; pid_namespace: each in one of its own. */
void stage_init(struct stage *stage, uint32_t blocks, uint32_t n_writers, bool pid_namespace);
/* The receiver; here, or in a process forked since. */
void stage_open(struct stage *stage);
void stage_close(struct stage *stage);
void stage_fini(struct stage *stage);

void stage_turn(struct stage *stage, int timeout_ms);
/* The next event of this kind, of that peer. */
struct kvfi_done stage_await(struct stage *stage, enum kvfi_done_kind kind, uint32_t peer);
/* Writer i is peer i, here and there. */
void stage_connect(struct stage *stage, uint32_t i, uint64_t link);
/* Memory that the writers are told of from now on; its layout and plan. */
void stage_share(struct stage *stage);
/* Has the writer store all blocks under grant `id`. Does not wait. */
void stage_post(struct stage *stage, uint32_t i, uint32_t id);
enum kvf_proof stage_until_proven(struct stage *stage, uint32_t id);
void stage_blank(struct stage *stage);
bool stage_is_blank(const struct stage *stage);
/* Has what writer i stores arrived everywhere? */
bool stage_has_arrived(const struct stage *stage, uint32_t i);

void writer_order(struct writer *writer, const struct order *order);
/* The next report of this kind, with the receiver's turns in between. */
struct report writer_await(struct stage *stage, uint32_t i, uint32_t kind);
/* Until its process was stopped by its fault point. */
void writer_until_stopped(struct writer *writer);

#define skip_unless(condition, reason)                                                                       \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			print_message("skipped: %s\n", reason);                                              \
			skip();                                                                              \
		}                                                                                            \
	} while (0)

#endif
