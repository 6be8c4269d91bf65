/* replay_geometry.h - which blocks a request holds on each side, which tokens move, and how many bytes that
 * must be.
 *
 * Pure arithmetic on the model and the instance maps, written apart from the library's plans: it is what
 * their results are compared with.
 */
#ifndef KVFERRY_CLI_REPLAY_GEOMETRY_H
#define KVFERRY_CLI_REPLAY_GEOMETRY_H

#include "cli/replay_setup.h"

/* Blocks [first, total) of a prompt are held: leading ones of a windowed group never are. A state: [0, 1). */
struct replay_blocks {
	uint64_t first, total;
};
struct replay_blocks replay_blocks_of(
	const struct kvf_group_spec *group, uint32_t tokens_per_block, uint64_t prompt_tokens);

/* Under context parallelism rank c of n holds the blocks c, c+n, c+2n, ... */
uint64_t replay_cp_first(uint64_t first, uint32_t c, uint32_t n); /* smallest b >= first with b mod n == c */
uint64_t replay_cp_count(uint64_t first, uint64_t total, uint32_t c, uint32_t n);

/* Tokens [begin, end). Empty: begin == end. */
struct replay_tokens {
	uint64_t begin, end;
};
/* What must move of a group when the decode side keeps its first `reused` blocks from earlier requests. */
struct replay_tokens replay_moved(
	const struct replay_setup *setup, uint32_t group, uint64_t prompt_tokens, uint64_t reused);
/* Bytes that one decode rank must receive of one group. */
uint64_t replay_expected_bytes(const struct replay_setup *setup, uint32_t decode_rank, uint32_t group,
	uint64_t prompt_tokens, uint64_t reused);

/* Block ids that one list of a prompt needs at most: of one group, of one rank. */
uint64_t replay_list_blocks(
	const struct replay_setup *setup, uint32_t side, uint32_t group, uint64_t prompt_tokens);

#endif
