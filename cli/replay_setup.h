/* replay_setup.h - everything that a replay decides before it starts: model, ranks, memory, requests.
 *
 * Built once by the coordinator, before any process or thread of it exists; constant from then on. Rank
 * processes inherit it by fork and read it freely.
 */
#ifndef KVFERRY_CLI_REPLAY_SETUP_H
#define KVFERRY_CLI_REPLAY_SETUP_H

#include <stdbool.h>
#include <stdint.h>
#include "cli/chaos_spec.h"
#include "cli/model.h"
#include "cli/ranks.h"
#include "cli/reason.h"
#include "kvferry/kvferry.h"

#define REPLAY_AUX_BYTES       256u /* of one aux slot */
#define REPLAY_NO_REQUEST      UINT32_MAX
#define REPLAY_MAX_CONCURRENCY 1024u
#define REPLAY_MAX_RANKS       512u /* of both sides: each is a process or an agent */

enum replay_transport {
	REPLAY_AUTO,
	REPLAY_SHM,
	REPLAY_TCP,
	REPLAY_LOOP
};
#define REPLAY_TRANSPORTS "auto|shm|tcp|loop"
enum replay_verify {
	REPLAY_VERIFY_FULL,
	REPLAY_VERIFY_SAMPLE,
	REPLAY_VERIFY_NONE
};
#define REPLAY_VERIFIES "full|sample|none"

/* Of the library; REPLAY_LIBRARY_DEFAULT: as it is there. */
#define REPLAY_LIBRARY_DEFAULT UINT64_MAX
struct replay_deadlines {
	uint64_t queue_ns, transfer_ns, stall_ns, quiet_ns, ping_ns, silence_ns;
};

/* What the user asked for. */
struct replay_options {
	const char *trace; /* NULL: the seeded generator */
	const char *model, *prefill, *decode;
	const char *rate; /* "real", "max", "Nx" */
	uint64_t block_tokens;
	uint64_t requests; /* 0: all of the trace, or 100 of the generator */
	uint64_t concurrency;
	uint64_t pool_bytes; /* per rank */
	uint64_t block_runs;
	uint64_t seed;
	uint64_t max_tokens; /* of a generated prompt; 0: what fits the pools */
	uint64_t corrupt;    /* 1 + index of the request whose blocks are damaged before the check; 0: none */
	uint32_t transport, verify, replica;
	bool sum, json;
	const char *chaos;  /* NULL: none */
	const char *record; /* NULL: none; else each rank adds its name */
	const char *fault;  /* NULL: none; of struct kvf_options */
	struct replay_deadlines deadlines;
};

/* Defaults of all but the model, which has none. */
void replay_options_init(struct replay_options *options);

enum replay_side_index {
	REPLAY_PREFILL = 0,
	REPLAY_DECODE = 1
};

struct replay_request {
	uint64_t timestamp_ms;
	uint64_t tokens;     /* prompt length */
	uint64_t first_hash; /* index into hash_ids */
	uint32_t n_hashes;
};

/* One instance: its ranks and how each lays out its memory. All ranks of a data-parallel group use the same
 * block ids, as inference engines do; under context parallelism each cp rank has ids of its own. */
struct replay_side {
	struct ranks ranks;
	struct kvf_instance *instance;
	struct kvf_layout **layouts; /* per rank, from address 0 */
	uint64_t *span_bytes;        /* per rank: what its layout spans */
	uint32_t n_ranks, dp, cp;
	uint32_t tokens_per_block;
	uint32_t blocks;      /* per paged and windowed group of a rank */
	uint32_t state_slots; /* per state group of a rank */
};

/* How a request is moved; a function of seed and index, so that both sides know it without asking. */
struct replay_flavour {
	uint64_t request_id;
	uint32_t attempt;
	bool receive_first; /* which side opens first */
	bool aux;           /* aux data go with it */
	uint32_t aux_bytes;
	bool aux_early;    /* sent before the last slice */
	bool ticket;       /* the decode side opens by ticket */
	bool dp_unknown;   /* the decode side does not know the prefill group */
	bool paced;        /* a slice is sent when the one before is acknowledged */
	bool source_whole; /* the prefill list names the reused prefix, too */
};

#define REPLAY_MAX_SLICES 6u
struct replay_slice {
	uint64_t token_start, token_end;
	uint32_t layer_start, layer_end; /* 0,0: all */
	bool last;
};

struct replay_setup {
	struct replay_options options;
	struct model model;
	struct replay_side sides[2];
	struct replay_request *requests;
	uint64_t *hash_ids;
	uint32_t n_requests;
	uint32_t concurrency;
	uint64_t longest_tokens; /* of the prompts */
	double speed;            /* 0: as fast as possible; 1: as the trace says; 2: twice as fast */
	struct chaos_spec chaos;
	struct replay_deadlines deadlines;
	uint8_t *sends; /* [src_dp][dst_dp][prefill rank]: REPLAY_SENDS_* */
};
#define REPLAY_SENDS     1u /* takes part */
#define REPLAY_SENDS_AUX 2u /* owes the aux data */

/* replay_setup_new - false: why says what is wrong and *exit_code_out is EXIT_USAGE (an option) or
 * EXIT_WORK_FAILED. */
bool replay_setup_new(const struct replay_options *options, struct replay_setup **setup_out,
	int *exit_code_out, struct reason *why);
void replay_setup_free(struct replay_setup *setup);

/* Reads or draws the requests into setup; replay_requests.c. */
bool replay_requests_load(struct replay_setup *setup, struct reason *why);

uint32_t replay_rank_dp(const struct replay_side *side, uint32_t rank);
uint32_t replay_rank_cp(const struct replay_side *side, uint32_t rank);
/* What prefill rank does for a request of these data-parallel groups: REPLAY_SENDS_*; 0: nothing. */
uint8_t replay_sends(const struct replay_setup *setup, uint32_t src_dp, uint32_t dst_dp, uint32_t rank);
/* Does this rank take part in a request?  Decode ranks: all of the group. */
bool replay_takes_part(
	const struct replay_setup *setup, uint32_t side, uint32_t rank, uint32_t src_dp, uint32_t dst_dp);

void replay_flavour_of(
	const struct replay_setup *setup, uint32_t request, struct replay_flavour *flavour_out);
/* The slices in which a request is sent; returns their number, 1 .. REPLAY_MAX_SLICES. */
uint32_t replay_slices_of(
	const struct replay_setup *setup, uint32_t request, struct replay_slice slices[REPLAY_MAX_SLICES]);
/* Byte i of the aux data of a request. */
uint8_t replay_aux_byte(const struct replay_flavour *flavour, uint32_t i);

/* splitmix64's finaliser over a chain of two words: every choice that a seed makes. */
uint64_t replay_mix(uint64_t seed, uint64_t value);

/* The deadlines of every rank's agent: those of the command, else the library's or a replay's own. */
void replay_setup_deadlines(const struct replay_setup *setup, struct kvf_options *options);

#endif
