/* replay_requests.c - the requests of a replay, and how each of them is moved.
 *
 * Guarantees: the whole list is read (or drawn) once, before anything starts, so that a damaged line is an
 * error at once and memory does not grow later. How a request is moved (order of opening, aux, slices,
 * ticket) is a function of seed and index: coordinator and ranks compute it alike. One thread; owned by
 * struct replay_setup.
 */
#include <stdlib.h>
#include <string.h>
#include "cli/replay_sizing.h"
#include "cli/trace.h"

#define GENERATED_REQUESTS 100u
#define MAX_REQUESTS       10000000u

uint64_t replay_mix(uint64_t seed, uint64_t value)
{
	uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + value + UINT64_C(0x632be59bd9b4e019);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* -------------------------------------------------------------------- load */

struct growing {
	uint64_t requests_room, hashes_room, n_hashes;
};

static bool grow(void **array, uint64_t *room, uint64_t need, size_t item)
{
	if (need <= *room)
		return true;
	uint64_t wanted = *room * 2 > need ? *room * 2 : need + 1024;
	void *larger = realloc(*array, wanted * item);
	if (!larger)
		return false;
	*array = larger;
	*room = wanted;
	return true;
}

static bool append(struct replay_setup *setup, struct growing *growing, const struct trace_request *request)
{
	void *requests = setup->requests, *hashes = setup->hash_ids;
	bool ok =
		grow(&requests, &growing->requests_room, setup->n_requests + 1ull, sizeof(*setup->requests));
	setup->requests = requests;
	ok = ok &&
	     grow(&hashes, &growing->hashes_room, growing->n_hashes + request->n_hashes, sizeof(uint64_t));
	setup->hash_ids = hashes;
	if (!ok)
		return false;
	if (request->n_hashes)
		memcpy(setup->hash_ids + growing->n_hashes, request->hash_ids,
			request->n_hashes * sizeof(uint64_t));
	setup->requests[setup->n_requests++] = (struct replay_request){
		.timestamp_ms = request->timestamp_ms,
		.tokens = request->input_length,
		.first_hash = growing->n_hashes,
		.n_hashes = request->n_hashes,
	};
	growing->n_hashes += request->n_hashes;
	return true;
}

static bool open_source(
	const struct replay_setup *setup, struct trace_source **source_out, struct reason *why)
{
	const struct replay_options *options = &setup->options;
	if (options->trace)
		return trace_open_file(options->trace, source_out, why);
	const struct trace_generator_options generator = {
		.seed = options->seed,
		.max_tokens = options->max_tokens ? options->max_tokens : replay_sizing_longest_fit(setup),
	};
	return trace_open_generator(&generator, source_out, why);
}

static bool read_all(
	struct replay_setup *setup, struct trace_source *source, uint64_t limit, struct reason *why)
{
	struct growing growing = {0};
	while (setup->n_requests < limit) {
		struct trace_request request;
		enum trace_next next = trace_next(source, &request, why);
		if (next == TRACE_WRONG)
			return false;
		if (next == TRACE_END)
			break;
		if (!append(setup, &growing, &request))
			return reason_set(why, "out of memory after %u requests", setup->n_requests);
	}
	if (setup->n_requests == 0)
		return reason_set(why, "%s: no requests", setup->options.trace);
	return true;
}

bool replay_requests_load(struct replay_setup *setup, struct reason *why)
{
	struct trace_source *source;
	uint64_t limit = setup->options.requests;
	if (limit == 0)
		limit = setup->options.trace ? MAX_REQUESTS : GENERATED_REQUESTS;
	if (!open_source(setup, &source, why))
		return false;
	bool ok = read_all(setup, source, limit, why);
	trace_close(source);
	return ok;
}

/* ----------------------------------------------------------------- flavour */

void replay_flavour_of(const struct replay_setup *setup, uint32_t request, struct replay_flavour *flavour_out)
{
	uint64_t seed = setup->options.seed;
	uint64_t bits = replay_mix(seed, request);
	*flavour_out = (struct replay_flavour){
		.request_id = (seed & UINT32_MAX) << 32 | request,
		.attempt = (uint32_t)(bits % 3),
		.receive_first = (request & 1) != 0,
		.aux = (request & 6) != 6, /* three of four, in both orders */
		.aux_bytes = (uint32_t)(1 + (bits >> 8) % REPLAY_AUX_BYTES),
		.aux_early = (bits >> 20 & 1) != 0,
		.ticket = (bits >> 21 & 1) != 0,
		.dp_unknown = setup->sides[REPLAY_PREFILL].dp > 1 && (bits >> 22 & 3) == 0,
		.paced = (bits >> 24 & 1) != 0,
		.source_whole = (bits >> 25 & 1) != 0,
	};
}

uint8_t replay_aux_byte(const struct replay_flavour *flavour, uint32_t i)
{
	return (uint8_t)(replay_mix(flavour->request_id ^ flavour->attempt, i / 8) >> (i % 8 * 8));
}

/* [start, end) of the tokens in one slice per layer range. */
static uint32_t cut_layers(
	uint32_t n_layers, uint64_t start, uint64_t end, uint32_t pieces, struct replay_slice *slices)
{
	for (uint32_t i = 0; i < pieces; i++) {
		slices[i] = (struct replay_slice){
			.token_start = start,
			.token_end = end,
			.layer_start = (uint32_t)((uint64_t)n_layers * i / pieces),
			.layer_end = (uint32_t)((uint64_t)n_layers * (i + 1) / pieces),
		};
	}
	return pieces;
}

/* A quarter each: whole, token chunks, layer-wise, and chunks whose last one is layer-wise. Cuts are at any
 * token, not at blocks. */
uint32_t replay_slices_of(
	const struct replay_setup *setup, uint32_t request, struct replay_slice slices[REPLAY_MAX_SLICES])
{
	uint64_t bits = replay_mix(setup->options.seed ^ UINT64_C(0x51ce5), request);
	uint64_t tokens = setup->requests[request].tokens;
	uint32_t n_layers = setup->model.n_layers, n = 0;
	uint32_t chunks = (bits & 1) && tokens >= 8 ? 2 + (uint32_t)(bits >> 8 & 1) : 1;
	uint32_t pieces = (bits & 2) && n_layers >= 4 ? 2 + (uint32_t)(bits >> 9 & 1) : 1;
	uint64_t start = 0;

	for (; n + 1 < chunks; n++) {
		uint64_t room = (tokens - start) / 2;
		slices[n] = (struct replay_slice){.token_start = start};
		start += 1 + replay_mix(bits, n) % room;
		slices[n].token_end = start;
	}
	if (pieces > 1)
		n += cut_layers(n_layers, start, tokens, pieces, slices + n);
	else
		slices[n++] = (struct replay_slice){.token_start = start, .token_end = tokens};
	slices[n - 1].last = true;
	return n;
}
