/* cut.c - the cut of a pair, by owners.
 *
 * Layers that are held by the same candidates are alike ("a kind of layer"): their head axis falls into the
 * same pieces with the same candidates, worked out once per kind. A second pass over the layers then picks
 * the pieces that this source owns. Elect owns a piece in every layer of a kind or in none; stripe goes by
 * the layer's place among those of its kind. Scratch is allocated and freed here; any thread.
 */
#include "geometry/cut.h"

#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/status.h"
#include "geometry/geometry.h"

/* A head interval of one part that both ranks hold, and how this source stands in it. */
struct piece {
	struct kvfi_box box;
	uint32_t n_candidates; /* 1 where this source is the nearest holder and none is paired */
	uint32_t place;        /* of this source among them */
};

struct kind {
	uint32_t *holders; /* indices into candidates, ascending */
	uint32_t n_holders;
	uint32_t piece_first, n_pieces;
	uint32_t n_layers; /* of this kind */
	uint32_t n_seen;   /* of them, in the second pass */
};

struct work {
	const struct kvfi_pair_ask *ask;
	uint32_t g;
	bool paired;
	uint32_t n_candidates;
	struct kvfi_candidate *candidates;
	uint32_t *cursors; /* per candidate: where it is in its ascending layers */
	uint32_t *bounds;  /* scratch: 2 * n_candidates + 2 head indices */
	uint32_t n_kinds, max_kinds;
	struct kind *kinds;
	uint32_t n_pieces, max_pieces;
	struct piece *pieces;
	uint32_t *kind_of; /* per layer of the cut */
};

/* Room for one more in a growing array. */
static bool grow(void *array, uint32_t n, uint32_t *max, size_t size)
{
	void **memory = array;
	uint32_t wanted = *max == 0 ? 16 : *max * 2;
	void *bigger;

	if (n < *max)
		return true;
	bigger = realloc(*memory, wanted * size);
	if (!bigger)
		return false;
	*memory = bigger;
	*max = wanted;
	return true;
}

static const struct kvf_rank_group *held_by(const struct work *work, uint32_t candidate)
{
	return &work->ask->sides.src->ranks[work->candidates[candidate].rank].groups[work->g];
}

static bool covers(const struct kvf_rank_group *held, const struct kvfi_box *box)
{
	return held->head_start[box->part] <= box->head_start &&
	       box->head_end <= held->head_start[box->part] + held->head_count[box->part];
}

/* Candidates that hold this layer, into holders; layers are asked for in ascending order. */
static uint32_t find_holders(struct work *work, uint32_t layer, uint32_t *holders)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < work->n_candidates; i++) {
		const struct kvf_rank_group *held = held_by(work, i);
		uint32_t at = work->cursors[i];

		while (at < held->n_layers && held->layers[at] < layer)
			at++;
		work->cursors[i] = at;
		if (at < held->n_layers && held->layers[at] == layer)
			holders[n++] = i;
	}
	return n;
}

/* How this source stands in a piece; false when it owns nothing of it whatever the layer. */
static bool judge_piece(const struct work *work, const struct kind *kind, struct piece *piece)
{
	const struct kvfi_pair_ask *ask = work->ask;
	uint64_t best = UINT64_MAX;
	uint32_t nearest = UINT32_MAX, n_paired = 0, place = UINT32_MAX;

	for (uint32_t i = 0; i < kind->n_holders; i++) {
		const struct kvfi_candidate *candidate = &work->candidates[kind->holders[i]];

		if (!covers(held_by(work, kind->holders[i]), &piece->box))
			continue;
		if (candidate->paired) {
			if (candidate->rank == ask->src)
				place = n_paired;
			n_paired++;
		} else if (kvfi_rank_distance(&ask->sides, candidate->rank, ask->dst) < best) {
			best = kvfi_rank_distance(&ask->sides, candidate->rank, ask->dst);
			nearest = candidate->rank;
		}
	}
	piece->n_candidates = n_paired == 0 ? 1 : n_paired;
	piece->place = n_paired == 0 ? 0 : place;
	return n_paired == 0 ? nearest == ask->src : place != UINT32_MAX;
}

static int compare_u32(const void *left, const void *right)
{
	const uint32_t *a = left, *b = right;

	return *a < *b ? -1 : *a > *b;
}

/* The sorted head indices at which the set of holders may change, inside what both ranks hold of a part. */
static uint32_t find_bounds(const struct work *work, const struct kind *kind, const struct kvfi_box *shared)
{
	uint32_t n = 0;

	work->bounds[n++] = shared->head_start;
	work->bounds[n++] = shared->head_end;
	for (uint32_t i = 0; i < kind->n_holders; i++) {
		const struct kvf_rank_group *held = held_by(work, kind->holders[i]);
		uint32_t edges[2] = {held->head_start[shared->part],
			held->head_start[shared->part] + held->head_count[shared->part]};

		for (uint32_t e = 0; e < 2; e++)
			if (edges[e] > shared->head_start && edges[e] < shared->head_end)
				work->bounds[n++] = edges[e];
	}
	qsort(work->bounds, n, sizeof(*work->bounds), compare_u32);
	return n;
}

static bool find_pieces(struct work *work, struct kind *kind)
{
	const struct kvfi_pair_ask *ask = work->ask;
	const struct kvf_rank_group *src = &ask->sides.src->ranks[ask->src].groups[work->g];
	const struct kvf_rank_group *dst = &ask->sides.dst->ranks[ask->dst].groups[work->g];

	kind->piece_first = work->n_pieces;
	for (uint32_t p = 0; p < KVF_MAX_PARTS; p++) {
		uint32_t src_end = src->head_start[p] + src->head_count[p];
		uint32_t dst_end = dst->head_start[p] + dst->head_count[p];
		struct kvfi_box shared = {.part = p,
			.head_start = src->head_start[p] > dst->head_start[p] ? src->head_start[p]
		                                                              : dst->head_start[p],
			.head_end = src_end < dst_end ? src_end : dst_end};
		uint32_t n_bounds;

		if (shared.head_start >= shared.head_end)
			continue;
		n_bounds = find_bounds(work, kind, &shared);
		for (uint32_t b = 1; b < n_bounds; b++) {
			struct piece piece = {.box = shared};

			piece.box.head_start = work->bounds[b - 1];
			piece.box.head_end = work->bounds[b];
			if (piece.box.head_start == piece.box.head_end || !judge_piece(work, kind, &piece))
				continue;
			if (!grow(&work->pieces, work->n_pieces, &work->max_pieces, sizeof(*work->pieces)))
				return false;
			work->pieces[work->n_pieces++] = piece;
		}
	}
	kind->n_pieces = work->n_pieces - kind->piece_first;
	return true;
}

/* The kind of a layer with these holders; UINT32_MAX when out of memory. */
static uint32_t find_kind(struct work *work, const uint32_t *holders, uint32_t n_holders)
{
	struct kind *kind;

	for (uint32_t k = work->n_kinds; k-- > 0;) {
		kind = &work->kinds[k];
		if (kind->n_holders == n_holders &&
			memcmp(kind->holders, holders, n_holders * sizeof(*holders)) == 0)
			return k;
	}
	if (!grow(&work->kinds, work->n_kinds, &work->max_kinds, sizeof(*work->kinds)))
		return UINT32_MAX;
	kind = &work->kinds[work->n_kinds];
	memset(kind, 0, sizeof(*kind));
	kind->holders = malloc((n_holders + 1) * sizeof(*holders));
	if (!kind->holders)
		return UINT32_MAX;
	memcpy(kind->holders, holders, n_holders * sizeof(*holders));
	kind->n_holders = n_holders;
	work->n_kinds++;
	return find_pieces(work, kind) ? work->n_kinds - 1 : UINT32_MAX;
}

/* Every layer that both ranks hold, with its kind. */
static bool find_layers(struct work *work, struct kvfi_cut *cut)
{
	const struct kvfi_pair_ask *ask = work->ask;
	const struct kvf_rank_group *src = &ask->sides.src->ranks[ask->src].groups[work->g];
	const struct kvf_rank_group *dst = &ask->sides.dst->ranks[ask->dst].groups[work->g];
	uint32_t *holders = malloc((work->n_candidates + 1) * sizeof(*holders));
	uint32_t i = 0, j = 0, kind = 0;

	while (holders && kind != UINT32_MAX && i < src->n_layers && j < dst->n_layers) {
		if (src->layers[i] < dst->layers[j]) {
			i++;
		} else if (src->layers[i] > dst->layers[j]) {
			j++;
		} else {
			kind = find_kind(work, holders, find_holders(work, src->layers[i], holders));
			if (kind == UINT32_MAX)
				break;
			work->kind_of[cut->n_layers] = kind;
			work->kinds[kind].n_layers++;
			cut->layers[cut->n_layers++] = (struct kvfi_cut_layer){
				.layer = src->layers[i], .src_index = i, .dst_index = j};
			i++;
			j++;
		}
	}
	free(holders);
	return holders && kind != UINT32_MAX;
}

/* Does this source own the piece in the nth layer of its kind? */
static bool owns(const struct work *work, const struct kind *kind, const struct piece *piece, uint32_t nth)
{
	uint64_t n = kind->n_layers, k = piece->n_candidates, i = piece->place;

	if (work->ask->replica == KVF_REPLICA_STRIPE)
		return i * n / k <= nth && nth < (i + 1) * n / k;
	return kvfi_rank_dp(work->ask->sides.dst, work->ask->dst) % k == i;
}

static bool add_boxes(const struct work *work, const struct kind *kind, uint32_t nth, struct kvfi_cut *cut)
{
	uint32_t first = cut->n_boxes;

	for (uint32_t p = 0; p < kind->n_pieces; p++) {
		const struct piece *piece = &work->pieces[kind->piece_first + p];
		struct kvfi_box *last = cut->n_boxes > first ? &cut->boxes[cut->n_boxes - 1] : NULL;

		if (!owns(work, kind, piece, nth))
			continue;
		if (last && last->part == piece->box.part && last->head_end == piece->box.head_start) {
			last->head_end = piece->box.head_end;
			continue;
		}
		if (!grow(&cut->boxes, cut->n_boxes, &cut->max_boxes, sizeof(*cut->boxes)))
			return false;
		cut->boxes[cut->n_boxes++] = piece->box;
	}
	return true;
}

static bool same_boxes(const struct kvfi_cut *cut, const struct kvfi_cut_layer *before, uint32_t first)
{
	uint32_t n = cut->n_boxes - first;

	return before->n_boxes == n &&
	       memcmp(&cut->boxes[before->box_first], &cut->boxes[first], n * sizeof(*cut->boxes)) == 0;
}

/* Keeps the layers in which this source owns something, with their boxes. */
static bool pick_owned(struct work *work, struct kvfi_cut *cut)
{
	uint32_t n_all = cut->n_layers;

	cut->n_layers = 0;
	for (uint32_t i = 0; i < n_all; i++) {
		struct kind *kind;
		struct kvfi_cut_layer layer = cut->layers[i];
		struct kvfi_cut_layer *before = cut->n_layers > 0 ? &cut->layers[cut->n_layers - 1] : NULL;
		uint32_t first = cut->n_boxes;

		KVFI_ASSERT(work->kind_of[i] < work->n_kinds);
		kind = &work->kinds[work->kind_of[i]];
		if (!add_boxes(work, kind, kind->n_seen++, cut))
			return false;
		if (cut->n_boxes == first)
			continue;
		layer.box_first = first;
		layer.n_boxes = cut->n_boxes - first;
		if (before && same_boxes(cut, before, first)) {
			layer.box_first = before->box_first;
			cut->n_boxes = first;
		}
		cut->layers[cut->n_layers++] = layer;
	}
	return true;
}

static bool work_init(struct work *work, struct kvfi_cut *cut)
{
	const struct kvfi_pair_ask *ask = work->ask;
	uint32_t n_ranks = ask->sides.src->n_ranks;
	uint32_t n_layers = ask->sides.dst->ranks[ask->dst].groups[work->g].n_layers;

	work->candidates = malloc(n_ranks * sizeof(*work->candidates));
	work->kind_of = calloc(n_layers + 1, sizeof(*work->kind_of));
	cut->layers = malloc((n_layers + 1) * sizeof(*cut->layers));
	cut->max_layers = n_layers;
	if (!work->candidates || !work->kind_of || !cut->layers)
		return false;
	work->n_candidates = kvfi_candidates(&ask->sides, kvfi_rank_dp(ask->sides.src, ask->src), ask->dst,
		!work->paired, work->candidates);
	work->cursors = calloc(work->n_candidates + 1, sizeof(*work->cursors));
	work->bounds = malloc((2 * (size_t)work->n_candidates + 2) * sizeof(*work->bounds));
	return work->cursors && work->bounds;
}

static void work_fini(struct work *work)
{
	for (uint32_t k = 0; k < work->n_kinds; k++)
		free(work->kinds[k].holders);
	free(work->kinds);
	free(work->pieces);
	free(work->bounds);
	free(work->cursors);
	free(work->kind_of);
	free(work->candidates);
}

enum kvf_status kvfi_cut_group(const struct kvfi_pair_ask *ask, uint32_t g, struct kvfi_cut *cut)
{
	struct work work = {.ask = ask, .g = g, .paired = kvfi_ranks_paired(&ask->sides, ask->src, ask->dst)};
	bool done;

	memset(cut, 0, sizeof(*cut));
	done = work_init(&work, cut) && find_layers(&work, cut) && pick_owned(&work, cut);
	work_fini(&work);
	return done ? KVF_OK : kvfi_fail(KVF_ENOMEM, "plan: out of memory");
}

void kvfi_cut_fini(struct kvfi_cut *cut)
{
	free(cut->boxes);
	free(cut->layers);
	memset(cut, 0, sizeof(*cut));
}
