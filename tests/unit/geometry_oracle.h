/* geometry_oracle.h - the mapping by its definitions, cell by cell and slowly.
 *
 * Uses the data types of the library and none of its geometry code, so that a mistake there is not repeated here.
 */
#ifndef TESTS_GEOMETRY_ORACLE_H
#define TESTS_GEOMETRY_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "geometry/geometry.h"

#define ORACLE_MAX_CELLS 4096u /* (layer, part, head) of one group of one rank */

/* One request between two instances. Layouts of all ranks; their bases are addresses of this process. */
struct oracle {
	const struct kvf_instance *prefill, *decode;
	struct kvf_layout **src, **dst; /* by rank */
	uint32_t src_dp;
	enum kvf_replica replica;
	uint64_t prompt_len;
};

/* A cell by its names. token: of the prompt; state: 0. */
struct oracle_cell {
	uint32_t group, layer, part, head;
	uint64_t token;
};

struct oracle_row {
	struct oracle_cell cell;
	uint64_t src, dst; /* addresses */
	uint64_t bytes;
};

/* What a slice names of one group: blocks [block_first, block_end) of the side, ids for the last n of them. */
struct oracle_slice {
	uint64_t token_start, token_end;
	uint32_t layer_start, layer_end; /* explicit */
	bool first, last;
	const struct kvfi_ids *src; /* by group, as given to the sender */
	const struct kvfi_ids *dst; /* by group, for the whole prompt */
};

bool oracle_in_dp(const struct oracle *oracle, uint32_t src);
/* Paired, the nearest holders included. */
bool oracle_paired(const struct oracle *oracle, uint32_t src, uint32_t dst);
bool oracle_owes(const struct oracle *oracle, uint32_t src, uint32_t dst);
bool oracle_sends_aux(const struct oracle *oracle, uint32_t src, uint32_t dst);

/* Rank that sends a cell to dst, or UINT32_MAX when nobody holds it. */
uint32_t oracle_owner(const struct oracle *oracle, uint32_t dst, const struct oracle_cell *cell);

/* Rows that src owes dst in one slice, in canonical order. Returns their number (at most max are written), or SIZE_MAX when the
 * lists do not fit together: the destination asks for blocks that the source's list does not reach back to. */
size_t oracle_rows(const struct oracle *oracle, uint32_t src, uint32_t dst, const struct oracle_slice *slice,
	struct oracle_row *rows, size_t max);

/* Is this token of the prompt, in this group, named by the destination's list? */
bool oracle_dst_names(const struct oracle *oracle, uint32_t dst, uint32_t group, const struct kvfi_ids *list,
	uint64_t token, int32_t *id_out);

/* Is the block that holds this token of a windowed group out of the window for good? */
bool oracle_stale(const struct oracle *oracle, const struct kvf_group *group, uint64_t token);

/* Address of a cell in the block (slot) id of a rank's layout, which holds it. */
uint64_t oracle_address(const struct kvf_layout *layout, const struct oracle_cell *cell, int32_t id);

/* Does a rank's entry hold this (layer, part, head)? */
bool oracle_holds(const struct kvf_instance *instance, uint32_t rank, const struct oracle_cell *cell);

#endif
