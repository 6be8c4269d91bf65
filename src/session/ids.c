/* ids.c - room for the block ids of the peers' requests: extents of one array, first fit, joined again when they are given back. */
#include "session/state.h"

#include <string.h>
#include "base/assert.h"

enum kvf_status ids_take(struct kvfi_core *core, uint32_t n, uint32_t *start_out)
{
	struct id_arena *arena = &core->arena;

	*start_out = 0;
	if (n == 0)
		return KVF_OK;
	for (uint32_t i = 0; i < arena->n_free; i++) {
		struct id_extent *extent = &arena->free[i];

		if (extent->len < n)
			continue;
		*start_out = extent->start;
		extent->start += n;
		extent->len -= n;
		if (extent->len == 0) {
			arena->n_free--;
			memmove(extent, extent + 1, (arena->n_free - i) * sizeof(*extent));
		}
		return KVF_OK;
	}
	return KVF_EFULL;
}

void ids_give(struct kvfi_core *core, uint32_t start, uint32_t n)
{
	struct id_arena *arena = &core->arena;
	uint32_t at = 0;

	if (n == 0)
		return;
	while (at < arena->n_free && arena->free[at].start < start)
		at++;
	if (at > 0 && arena->free[at - 1].start + arena->free[at - 1].len == start) {
		at--;
		arena->free[at].len += n;
	} else {
		/* Extents are separated by ids in use, one run per link at most, so max_links + 2 is room enough. */
		KVFI_ASSERT(arena->n_free < arena->max_free);
		memmove(&arena->free[at + 1], &arena->free[at],
			(arena->n_free - at) * sizeof(struct id_extent));
		arena->free[at] = (struct id_extent){start, n};
		arena->n_free++;
	}
	if (at + 1 < arena->n_free &&
		arena->free[at].start + arena->free[at].len == arena->free[at + 1].start) {
		arena->free[at].len += arena->free[at + 1].len;
		arena->n_free--;
		memmove(&arena->free[at + 1], &arena->free[at + 2],
			(arena->n_free - at - 1) * sizeof(struct id_extent));
	}
}
