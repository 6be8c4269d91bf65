/* content.c - filling and checking KV memory with content that is a function of the cell alone.
 *
 * A row is keyed once and then is a counter stream: word i = scramble(key + i * odd). The scramble is a bijection, so rows with
 * different keys differ in every single word, and a row that landed shifted by a word is found as well. Words are stored in the
 * machine's byte order: the content never leaves the run that made it.
 *
 * Touches exactly the bytes of the cells that the span names, through the strides of the layout. Any thread; no state.
 */
#include "cli/content.h"

#include <stdbool.h>
#include <string.h>

#include "cli/trace.h"

#define WORD_STEP UINT64_C(0x9e3779b97f4a7c15)

enum identity_tag {
	TAG_SHARED = 0x51,
	TAG_PRIVATE = 0x52,
	TAG_STATE = 0x53
};

/* What is done with each row. */
struct pass {
	bool is_check;
	uint64_t bytes;
	struct content_mismatch *mismatch;
};

/* Where the row is, for the report. */
struct place {
	const struct content_span *span;
	uint32_t layer_index, part, head; /* head counted from head_start */
	uint64_t token;
	int32_t block_id;
};

static inline uint64_t mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static inline uint64_t scramble(uint64_t x)
{
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	return x ^ (x >> 32);
}

static uint64_t identity_of(enum identity_tag tag, uint64_t a, uint64_t b)
{
	return mix(mix(a + (uint64_t)tag * WORD_STEP) + b);
}

/* The part of the key that all tokens of a (layer, part, head) share. */
static inline uint64_t head_key(uint64_t identity, uint32_t layer, uint32_t part, uint32_t head)
{
	return mix(identity + ((uint64_t)layer << 48 | (uint64_t)part << 40 | head) * WORD_STEP);
}

static inline uint64_t token_key(uint64_t key, uint64_t place)
{
	return mix(key ^ (place + 1) * UINT64_C(0xa0761d6478bd642f));
}

uint64_t content_row_key(uint64_t identity, uint32_t layer, uint32_t part, uint32_t head, uint64_t place)
{
	return token_key(head_key(identity, layer, part, head), place);
}

void content_row_fill(void *row, uint64_t row_bytes, uint64_t key)
{
	unsigned char *at = row;
	uint64_t words = row_bytes / 8, rest = row_bytes % 8, word;

	for (uint64_t i = 0; i < words; i++) {
		word = scramble(key + i * WORD_STEP);
		memcpy(at + i * 8, &word, 8);
	}
	if (rest) {
		word = scramble(key + words * WORD_STEP);
		memcpy(at + words * 8, &word, rest);
	}
}

/* The byte that stands at an offset of a row. */
static uint8_t expected_byte(uint64_t key, uint64_t offset)
{
	uint64_t word = scramble(key + offset / 8 * WORD_STEP);
	uint8_t bytes[8];

	memcpy(bytes, &word, 8);
	return bytes[offset % 8];
}

uint64_t content_row_compare(const void *row, uint64_t row_bytes, uint64_t key)
{
	const unsigned char *at = row;
	uint64_t words = row_bytes / 8, rest = row_bytes % 8, differs = 0, word, found;

	for (uint64_t i = 0; i < words; i++) {
		memcpy(&found, at + i * 8, 8);
		differs |= found ^ scramble(key + i * WORD_STEP);
	}
	if (rest) {
		word = scramble(key + words * WORD_STEP);
		found = word;
		memcpy(&found, at + words * 8, rest);
		differs |= found ^ word;
	}
	if (!differs)
		return row_bytes;
	for (uint64_t i = 0; i < row_bytes; i++) {
		if (at[i] != expected_byte(key, i))
			return i;
	}
	return row_bytes;
}

static void report(const struct place *place, const unsigned char *row, uint64_t byte, uint64_t key,
	struct content_mismatch *mismatch)
{
	const struct kvf_group *group = &place->span->layout->groups[place->span->group];

	*mismatch = (struct content_mismatch){.group = place->span->group,
		.layer = group->layers[place->layer_index],
		.part = place->part,
		.head = group->parts[place->part].head_start + place->head,
		.token = place->token,
		.byte = byte,
		.expected = expected_byte(key, byte),
		.found = row[byte],
		.block_id = place->block_id};
}

static inline void pass_row(
	struct pass *pass, const struct place *place, unsigned char *row, uint64_t row_bytes, uint64_t key)
{
	uint64_t byte;

	pass->bytes += row_bytes;
	if (!pass->is_check) {
		content_row_fill(row, row_bytes, key);
		return;
	}
	byte = content_row_compare(row, row_bytes, key);
	if (byte == row_bytes)
		return;
	if (pass->mismatch->bad_rows == 0)
		report(place, row, byte, key, pass->mismatch);
	pass->mismatch->bad_rows++;
}

static unsigned char *cell_address(
	const struct kvf_group *group, const struct place *place, uint64_t token_in_block)
{
	const struct kvf_part *part = &group->parts[place->part];
	uint64_t address = group->bases[place->layer_index * group->n_parts + place->part] +
	                   (uint64_t)place->block_id * part->block_stride + place->head * part->head_stride +
	                   token_in_block * part->token_stride;

	return (unsigned char *)(uintptr_t)address;
}

/* Tokens of one block that have one identity: [begin, end) of the prompt; place of token t is t - origin. */
struct segment {
	uint64_t begin, end, origin;
	uint64_t block_begin; /* first token of the block */
	uint64_t identity;
};

static void pass_segment(
	struct pass *pass, const struct content_span *span, const struct segment *segment, int32_t block_id)
{
	const struct kvf_group *group = &span->layout->groups[span->group];
	uint32_t layer_step = span->layer_step ? span->layer_step : 1;
	uint32_t token_step = span->token_step ? span->token_step : 1;
	struct place place = {.span = span, .block_id = block_id};

	for (place.layer_index = 0; place.layer_index < group->n_layers; place.layer_index += layer_step) {
		for (place.part = 0; place.part < group->n_parts; place.part++) {
			const struct kvf_part *part = &group->parts[place.part];

			for (place.head = 0; place.head < part->head_count; place.head++) {
				uint64_t key = head_key(segment->identity, group->layers[place.layer_index],
					place.part, part->head_start + place.head);

				for (place.token = segment->begin; place.token < segment->end;
					place.token += token_step)
					pass_row(pass, &place,
						cell_address(
							group, &place, place.token - segment->block_begin),
						part->row_bytes,
						token_key(key, place.token - segment->origin));
			}
		}
	}
}

static void pass_block(struct pass *pass, const struct content_request *request,
	const struct content_span *span, uint32_t index)
{
	const struct kvf_group *group = &span->layout->groups[span->group];
	uint64_t block = span->first_block + (uint64_t)index * (span->block_step ? span->block_step : 1);
	struct segment segment = {.block_begin = block * group->tokens_per_block};
	uint64_t end = segment.block_begin + group->tokens_per_block;

	segment.begin = segment.block_begin > span->token_begin ? segment.block_begin : span->token_begin;
	end = end < span->token_end ? end : span->token_end;
	while (segment.begin < end) {
		uint64_t hash = segment.begin / TRACE_HASH_TOKENS;
		bool shared = hash < request->n_hashes;

		segment.origin = shared ? hash * TRACE_HASH_TOKENS : 0;
		segment.identity = shared ? identity_of(TAG_SHARED, request->hash_ids[hash], 0)
		                          : identity_of(TAG_PRIVATE, request->request_id, request->attempt);
		segment.end = (hash + 1) * TRACE_HASH_TOKENS < end ? (hash + 1) * TRACE_HASH_TOKENS : end;
		pass_segment(pass, span, &segment, span->ids[index]);
		segment.begin = segment.end;
	}
}

/* The whole span: blocks of tokens, or the one slot of a state group. */
static void pass_span(
	struct pass *pass, const struct content_request *request, const struct content_span *span)
{
	if (span->layout->groups[span->group].kind == KVF_STATE) {
		struct segment slot = {
			.end = 1, .identity = identity_of(TAG_STATE, request->request_id, request->attempt)};

		if (span->n > 0 && span->ids[0] >= 0)
			pass_segment(pass, span, &slot, span->ids[0]);
		return;
	}
	for (uint32_t i = 0; i < span->n; i++) {
		if (span->ids[i] >= 0)
			pass_block(pass, request, span, i);
	}
}

uint64_t content_fill(const struct content_request *request, const struct content_span *span)
{
	struct pass pass = {.is_check = false};

	pass_span(&pass, request, span);
	return pass.bytes;
}

uint64_t content_check(const struct content_request *request, const struct content_span *span,
	struct content_mismatch *mismatch_out)
{
	struct pass pass = {.is_check = true, .mismatch = mismatch_out};

	*mismatch_out = (struct content_mismatch){0};
	pass_span(&pass, request, span);
	return pass.bytes;
}
