/* replay_flight.h - the requests in flight, as the coordinator sees them. */
#ifndef KVFERRY_CLI_REPLAY_FLIGHT_H
#define KVFERRY_CLI_REPLAY_FLIGHT_H

#include "cli/replay_admit.h"
#include "cli/replay_process.h"
#include "cli/replay_report.h"
#include "cli/term.h"

enum replay_phase {
	PHASE_FREE,
	PHASE_PREPARING,
	PHASE_OPENING_FIRST,
	PHASE_OPENING_SECOND,
	PHASE_RUNNING
};

/* One slot of the board. */
struct replay_flight {
	enum replay_phase phase;
	uint32_t n_ranks[2]; /* that take part, per side */
	uint32_t n_answers;  /* of this phase */
	uint32_t n_done;
	uint32_t first_side;
	bool failed, wrong;
	uint64_t bytes_expected, bytes_sent, bytes_received, tokens_reused;
	struct replay_timing timing;
};

/* The coordinator. */
struct replay_schedule {
	struct replay_setup *setup;
	struct replay_result *result;
	struct replay_board board;
	struct replay_admit admit;
	struct replay_processes processes;
	struct replay_flight *flights; /* per slot */
	uint32_t next_request, n_flights, n_ended;
	bool blocked; /* the next request waits for blocks; only the end of another brings some */
	uint64_t start_ns;
	struct term_progress *progress; /* NULL: none */
	int exit_code;
	struct reason *why;
};

uint64_t replay_now_ns(void); /* monotonic */
/* When a request is to be admitted, if there is room. */
uint64_t replay_flight_due_ns(const struct replay_schedule *schedule, uint32_t request);
/* Admits what is due and has room. */
void replay_flight_admit(struct replay_schedule *schedule);
/* Takes PREPARED, STARTED and DONE; other kinds are looked at for faults alone. */
void replay_flight_report(struct replay_schedule *schedule, const struct replay_report *report);
/* Counts what a rank found wrong. */
void replay_flight_fault(struct replay_schedule *schedule, const struct replay_fault *fault);
void replay_flight_send(
	struct replay_schedule *schedule, uint32_t kind, uint32_t side, uint32_t rank, uint32_t slot);

#endif
