/* replay_pattern.c - writes and checks the guard pattern.
 *
 * Guarantees: touches exactly the cells that are named. Any thread; no allocation but for the list of gaps.
 */
#include "cli/replay_pattern.h"

#include <stdlib.h>
#include <string.h>

/* Bytes before the first that is not the pattern; n: all are. */
static uint64_t pattern_length(const uint8_t *bytes, uint64_t n)
{
	const uint64_t word = UINT64_C(0x0101010101010101) * REPLAY_PATTERN;
	uint64_t i = 0;
	for (; i + 32 <= n; i += 32) {
		uint64_t four[4];
		memcpy(four, bytes + i, 32);
		if (((four[0] ^ word) | (four[1] ^ word) | (four[2] ^ word) | (four[3] ^ word)) != 0)
			break;
	}
	while (i < n && bytes[i] == REPLAY_PATTERN)
		i++;
	return i;
}

static void note(struct content_mismatch *found, const struct content_mismatch *wrong)
{
	uint64_t bad_rows = found->bad_rows + 1;
	if (found->bad_rows == 0)
		*found = *wrong;
	found->bad_rows = bad_rows;
}

/* One row; found NULL: fill. */
static void visit_row(
	uint8_t *row, uint64_t row_bytes, struct content_mismatch *wrong, struct content_mismatch *found)
{
	if (!found) {
		memset(row, REPLAY_PATTERN, row_bytes);
		return;
	}
	uint64_t good = pattern_length(row, row_bytes);
	if (good == row_bytes)
		return;
	wrong->byte = good;
	wrong->expected = REPLAY_PATTERN;
	wrong->found = row[good];
	note(found, wrong);
}

static void visit_part(
	const struct replay_cells *cells, uint32_t layer, uint32_t p, struct content_mismatch *found)
{
	const struct kvf_group *group = &cells->layout->groups[cells->group];
	const struct kvf_part *part = &group->parts[p];
	uint64_t base =
		group->bases[(size_t)layer * group->n_parts + p] + (uint64_t)cells->id * part->block_stride;
	struct content_mismatch wrong = {
		.group = cells->group, .layer = group->layers[layer], .part = p, .block_id = cells->id};
	for (uint32_t head = 0; head < part->head_count; head++) {
		wrong.head = part->head_start + head;
		for (uint64_t token = cells->begin; token < cells->end; token++) {
			uint64_t address = base + head * part->head_stride + token * part->token_stride;
			wrong.token = token;
			visit_row((uint8_t *)(uintptr_t)address, part->row_bytes, &wrong, found);
		}
	}
}

static void visit_block(const struct replay_cells *cells, struct content_mismatch *found)
{
	const struct kvf_group *group = &cells->layout->groups[cells->group];
	for (uint32_t layer = 0; layer < group->n_layers; layer++) {
		for (uint32_t part = 0; part < group->n_parts; part++)
			visit_part(cells, layer, part, found);
	}
}

void replay_pattern_fill(const struct replay_cells *cells)
{
	visit_block(cells, NULL);
}

void replay_pattern_check(const struct replay_cells *cells, struct content_mismatch *found)
{
	visit_block(cells, found);
}

/* -------------------------------------------------------------------- gaps */

struct extent {
	uint64_t start, end;
};

static int compare_extents(const void *a, const void *b)
{
	const struct extent *x = a, *y = b;
	return (x->start > y->start) - (x->start < y->start);
}

/* From the first to the last byte of each (layer, part); cells of one do not leave holes that no other
 * fills. */
static uint32_t list_extents(const struct kvf_layout *layout, struct extent *extents)
{
	uint32_t n = 0;
	for (uint32_t g = 0; g < layout->n_groups; g++) {
		const struct kvf_group *group = &layout->groups[g];
		for (uint32_t i = 0; i < group->n_layers * group->n_parts && group->blocks > 0; i++) {
			const struct kvf_part *part = &group->parts[i % group->n_parts];
			if (part->head_count == 0)
				continue;
			uint64_t last = (group->blocks - 1) * part->block_stride +
			                (part->head_count - 1) * part->head_stride +
			                (group->tokens_per_block - 1) * part->token_stride;
			extents[n].start = group->bases[i];
			extents[n++].end = group->bases[i] + last + part->row_bytes;
		}
	}
	qsort(extents, n, sizeof(*extents), compare_extents);
	return n;
}

static void check_gap(const uint8_t *pool, uint64_t start, uint64_t end, struct content_mismatch *found)
{
	if (end <= start)
		return;
	const uint8_t *bytes = (const uint8_t *)(uintptr_t)start;
	uint64_t good = pattern_length(bytes, end - start);
	if (good == end - start)
		return;
	const struct content_mismatch wrong = {
		.block_id = -1,
		.byte = start + good - (uint64_t)(uintptr_t)pool,
		.expected = REPLAY_PATTERN,
		.found = bytes[good],
	};
	note(found, &wrong);
}

void replay_pattern_check_gaps(const struct kvf_layout *layout, const uint8_t *pool, uint64_t pool_bytes,
	struct content_mismatch *found)
{
	size_t most = 1;
	for (uint32_t g = 0; g < layout->n_groups; g++)
		most += (size_t)layout->groups[g].n_layers * layout->groups[g].n_parts;
	struct extent *extents = calloc(most, sizeof(*extents));
	if (!extents)
		return;
	uint32_t n = list_extents(layout, extents);
	uint64_t at = (uint64_t)(uintptr_t)pool;
	for (uint32_t i = 0; i < n; i++) {
		check_gap(pool, at, extents[i].start, found);
		at = extents[i].end > at ? extents[i].end : at;
	}
	check_gap(pool, at, (uint64_t)(uintptr_t)pool + pool_bytes, found);
	free(extents);
}
