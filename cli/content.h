/* content.h - the content that every byte of a request's KV cache must have, so that any side can fill and
 * any side can check.
 *
 * The row of a cell is a stream of 64-bit words keyed by (identity of the token, layer, part, head, place of
 * the token): identity and place are the hash id of the token's 512-token block and the position inside it
 * where the request names one, so that requests which share a prefix share its content; else (request,
 * attempt) and the position in the prompt. Tokens past the last hash id (the tail of the last block) are of
 * the second kind. State: (request, attempt, layer, section, unit). Two different cells, or the same cell of
 * another request or attempt, differ in every word but by chance of 2^-64.
 *
 * Pure functions of their arguments; any thread. Several GB/s on one core.
 */
#ifndef KVFERRY_CLI_CONTENT_H
#define KVFERRY_CLI_CONTENT_H

#include "kvferry/kvferry.h"

/* Whose content. hash_ids: n_hashes ids of 512-token blocks, 0: nothing is shared. */
struct content_request {
	uint64_t request_id;
	uint32_t attempt;
	uint32_t n_hashes;
	const uint64_t *hash_ids;
};

/* Which memory: blocks of one group of one rank. layout->bases are addresses in this process.
 * ids[i] holds block first_block + i*block_step of the request (of the layout's tokens_per_block; under CP
 * the step is cp), negative ids are skipped. Only tokens in [token_begin, token_end) are touched. State
 * groups: ids[0] is the slot, the rest is ignored. layer_step, token_step: only every such layer held / token
 * of a block, for sampling; 0 means 1.
 */
struct content_span {
	const struct kvf_layout *layout;
	uint32_t group;
	uint64_t first_block;
	uint32_t block_step; /* 0 means 1 */
	uint32_t n;
	const int32_t *ids;
	uint64_t token_begin, token_end;
	uint32_t layer_step, token_step;
};

/* The first byte that is not what it must be. */
struct content_mismatch {
	uint32_t group, layer, part, head; /* global layer and head (state: section and unit) */
	uint64_t token;                    /* in the prompt; state: 0 */
	uint64_t byte;                     /* in the row */
	uint8_t expected, found;
	int32_t block_id;
	uint64_t bad_rows; /* in the whole span */
};

/* Writes the content. Returns the bytes written. */
uint64_t content_fill(const struct content_request *request, const struct content_span *span);
/* Compares. Returns the bytes compared; mismatch_out is written (bad_rows 0: all good) in any case. */
uint64_t content_check(const struct content_request *request, const struct content_span *span,
	struct content_mismatch *mismatch_out);

/* The words of one row; for bench and tests. */
uint64_t content_row_key(uint64_t identity, uint32_t layer, uint32_t part, uint32_t head, uint64_t place);
void content_row_fill(void *row, uint64_t row_bytes, uint64_t key);
/* row_bytes when equal, else the offset of the first byte that differs. */
uint64_t content_row_compare(const void *row, uint64_t row_bytes, uint64_t key);

#endif
