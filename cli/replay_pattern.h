/* replay_pattern.h - the guard pattern in memory that holds no request's content. */
#ifndef KVFERRY_CLI_REPLAY_PATTERN_H
#define KVFERRY_CLI_REPLAY_PATTERN_H

#include "cli/replay_memory.h"

/* Tokens [begin, end) of one block, counted from its first; every layer, part and head. */
struct replay_cells {
	const struct kvf_layout *layout;
	uint32_t group;
	int32_t id;
	uint64_t begin, end;
};

void replay_pattern_fill(const struct replay_cells *cells);
/* Adds wrong rows to found->bad_rows; describes the first if none was found before. */
void replay_pattern_check(const struct replay_cells *cells, struct content_mismatch *found);
/* The bytes of a pool that belong to no cell: padding between groups and the canary. */
void replay_pattern_check_gaps(const struct kvf_layout *layout, const uint8_t *pool, uint64_t pool_bytes,
	struct content_mismatch *found);

#endif
