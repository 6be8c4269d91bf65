/* loops.c - the loops of one walk through one nest: which axes merge into the run, which into each other, in
 * which order.
 *
 * Canonical walks keep the order (layer, part, head, token) and merge from the inside out where the walked
 * sides are contiguous. The merged walk may take the axes in any order: it first swallows every axis that
 * continues the run on both sides, then puts the smaller destination strides inside, and innermost an axis that is
 * long enough for a strip to be worth its overhead. Pure; tens of nanoseconds; any thread.
 */
#include <stdbool.h>
#include "geometry/plan.h"

/* Sides that the mode looks at. */
static bool looks_at_src(enum kvfi_walk_mode mode)
{
	return mode != KVFI_WALK_DST;
}

static bool looks_at_dst(enum kvfi_walk_mode mode)
{
	return mode != KVFI_WALK_SRC;
}

/* Does a step of these strides continue something that is src (dst) bytes long? */
static bool continues(enum kvfi_walk_mode mode, const struct kvfi_walk_loop *loop, uint64_t src, uint64_t dst)
{
	return (!looks_at_src(mode) || loop->src == src) && (!looks_at_dst(mode) || loop->dst == dst);
}

/* The axes that have more than one step, slowest first. */
static uint32_t list_axes(
	const struct kvfi_nest *nest, const struct kvfi_loops_ask *ask, struct kvfi_walk_loop *axes)
{
	const uint64_t counts[KVFI_N_AXES] = {ask->n_layers, nest->n_parts, nest->n_heads, ask->tokens};
	const uint64_t row = nest->row_bytes, head = ask->block_tokens * row;
	const uint64_t positions[KVFI_N_AXES] = {
		ask->block_tokens * nest->layer_bytes, nest->n_heads * head, head, row};
	uint32_t n = 0;

	for (uint32_t i = 0; i < KVFI_N_AXES; i++) {
		if (counts[i] > 1)
			axes[n++] = (struct kvfi_walk_loop){.count = counts[i],
				.src = nest->step[i].src,
				.dst = nest->step[i].dst,
				.pos = positions[i]};
	}
	return n;
}

static void drop_axis(struct kvfi_walk_loop *axes, uint32_t *n, uint32_t at)
{
	for (uint32_t i = at + 1; i < *n; i++)
		axes[i - 1] = axes[i];
	(*n)--;
}

/* Swallows axes that continue the run; canonical modes may look at the innermost alone. */
static void grow_run(enum kvfi_walk_mode mode, struct kvfi_walk_loop *axes, uint32_t *n, uint64_t *run)
{
	uint32_t at = *n;

	while (at-- > 0) {
		if (continues(mode, &axes[at], *run, *run)) {
			*run *= axes[at].count;
			drop_axis(axes, n, at);
			at = *n;
		} else if (mode != KVFI_WALK_MERGED) {
			return;
		}
	}
}

/* Strides may be negative: as far as they reach. */
static uint64_t magnitude(uint64_t stride)
{
	return stride > INT64_MAX ? 0 - stride : stride;
}

static void sort_axes(struct kvfi_walk_loop *axes, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++) {
		struct kvfi_walk_loop axis = axes[i];
		uint32_t at = i;

		for (; at > 0 && magnitude(axes[at - 1].dst) < magnitude(axis.dst); at--)
			axes[at] = axes[at - 1];
		axes[at] = axis;
	}
}

/* A strip costs some 20 ns whatever its length. */
#define LONG_STRIP 8u

/* Moves the innermost axis of at least LONG_STRIP steps inside, or the longest if there is none. */
static void pick_inner(struct kvfi_walk_loop *axes, uint32_t n)
{
	uint32_t best = n;
	struct kvfi_walk_loop axis;

	for (uint32_t i = n; i-- > 0;)
		if (best == n || (axes[best].count < LONG_STRIP && axes[i].count > axes[best].count))
			best = i;
	if (n == 0 || best == n - 1)
		return;
	axis = axes[best];
	for (uint32_t i = best + 1; i < n; i++)
		axes[i - 1] = axes[i];
	axes[n - 1] = axis;
}

/* Two neighbouring loops that run like one. */
static void join_axes(enum kvfi_walk_mode mode, struct kvfi_walk_loop *axes, uint32_t *n)
{
	for (uint32_t i = *n; i-- > 1;) {
		const struct kvfi_walk_loop *inner = &axes[i];
		struct kvfi_walk_loop *outer = &axes[i - 1];

		if (!continues(mode, outer, inner->count * inner->src, inner->count * inner->dst) ||
			outer->pos != inner->count * inner->pos)
			continue;
		outer->count *= inner->count;
		outer->src = inner->src;
		outer->dst = inner->dst;
		outer->pos = inner->pos;
		drop_axis(axes, n, i);
	}
}

void kvfi_nest_loops(
	const struct kvfi_nest *nest, const struct kvfi_loops_ask *ask, struct kvfi_loops *loops_out)
{
	loops_out->run = nest->row_bytes;
	loops_out->n = list_axes(nest, ask, loops_out->loop);
	if (ask->tokens != 0)
		grow_run(ask->mode, loops_out->loop, &loops_out->n, &loops_out->run);
	if (ask->mode == KVFI_WALK_MERGED)
		sort_axes(loops_out->loop, loops_out->n);
	join_axes(ask->mode, loops_out->loop, &loops_out->n);
	if (ask->mode == KVFI_WALK_MERGED)
		pick_inner(loops_out->loop, loops_out->n);
}
