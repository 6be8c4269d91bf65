/* content.c - every byte of a cell is checked, and nothing beside it is touched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cli/content.h"

#define BLOCKS 6u
#define TOKENS 24u /* per block: does not divide 512 */

/* Two layers, K and V, heads 3..5 of 8, odd rows; head-major or token-major. */
struct fixture {
	struct kvf_layout layout;
	struct kvf_group group;
	uint32_t layers[2];
	uint64_t bases[4];
	uint64_t row_bytes;
	size_t size;
	unsigned char *memory;
};

static void fixture_init(struct fixture *fixture, uint64_t row_bytes, bool head_major)
{
	uint64_t block_bytes = 3 * TOKENS * row_bytes;

	*fixture =
		(struct fixture){.layers = {4, 9}, .row_bytes = row_bytes, .size = 4 * BLOCKS * block_bytes};
	fixture->memory = malloc(fixture->size);
	assert_non_null(fixture->memory);
	memset(fixture->memory, 0xa5, fixture->size);
	fixture->group = (struct kvf_group){.kind = KVF_PAGED,
		.dtype = KVF_FP8,
		.tokens_per_block = TOKENS,
		.blocks = BLOCKS,
		.n_layers = 2,
		.layers = fixture->layers,
		.n_parts = 2,
		.bases = fixture->bases};
	for (uint32_t i = 0; i < 4; i++)
		fixture->bases[i] = (uint64_t)(uintptr_t)(fixture->memory + i * BLOCKS * block_bytes);
	for (uint32_t part = 0; part < 2; part++)
		fixture->group.parts[part] = (struct kvf_part){.heads = 8,
			.head_start = 3,
			.head_count = 3,
			.row_bytes = row_bytes,
			.block_stride = block_bytes,
			.head_stride = head_major ? TOKENS * row_bytes : row_bytes,
			.token_stride = head_major ? row_bytes : 3 * row_bytes};
	fixture->layout =
		(struct kvf_layout){.model = "m", .revision = "", .n_groups = 1, .groups = &fixture->group};
}

static unsigned char *cell(const struct fixture *fixture, uint32_t layer, uint32_t part, int32_t block,
	uint32_t head, uint32_t token)
{
	const struct kvf_part *strides = &fixture->group.parts[part];

	return (unsigned char *)(uintptr_t)(fixture->bases[layer * 2 + part] +
					    (uint64_t)block * strides->block_stride +
					    head * strides->head_stride + token * strides->token_stride);
}

static const int32_t ids_a[] = {5, 0, 3}, ids_b[] = {1, 4, 2};

static struct content_span span_of(
	const struct fixture *fixture, const int32_t *ids, uint64_t first_block, uint64_t end)
{
	return (struct content_span){
		.layout = &fixture->layout, .first_block = first_block, .n = 3, .ids = ids, .token_end = end};
}

static void what_is_filled_is_found_good(void **state)
{
	static const uint64_t rows[] = {1, 7, 8, 63, 128, 1000};
	static const uint64_t hashes[] = {7, 9};

	(void)state;
	for (size_t i = 0; i < 2 * sizeof rows / sizeof rows[0]; i++) {
		struct content_request request = {
			.request_id = 42, .attempt = 1, .n_hashes = i % 3 ? 2 : 0, .hash_ids = hashes};
		struct content_mismatch mismatch;
		struct fixture fixture;
		struct content_span span;
		uint64_t bytes;

		fixture_init(&fixture, rows[i / 2], i & 1);
		span = span_of(&fixture, ids_a, 20, 23 * TOKENS); /* tokens 480..551: across a 512 boundary */
		bytes = content_fill(&request, &span);
		assert_int_equal(bytes, 2 * 2 * 3 * 3 * TOKENS * rows[i / 2]);
		assert_int_equal(content_check(&request, &span, &mismatch), bytes);
		assert_int_equal(mismatch.bad_rows, 0);
		free(fixture.memory);
	}
}

static void a_single_wrong_byte_is_named(void **state)
{
	static const uint64_t hashes[] = {7, 9};
	struct content_request request = {.request_id = 42, .n_hashes = 2, .hash_ids = hashes};
	struct content_mismatch mismatch;
	struct fixture fixture;
	struct content_span span;

	(void)state;
	for (uint64_t byte = 0; byte < 13; byte++) {
		unsigned char *row;
		uint8_t expected;

		fixture_init(&fixture, 13, true);
		span = span_of(&fixture, ids_a, 20, 23 * TOKENS);
		content_fill(&request, &span);
		row = cell(&fixture, 1, 1, 3, 2, 7);
		expected = row[byte];
		row[byte] ^= 0x10;
		cell(&fixture, 1, 1, 3, 2, 9)[0] ^= 1;
		(void)content_check(&request, &span, &mismatch);
		assert_int_equal(mismatch.bad_rows, 2);
		assert_int_equal(mismatch.layer, 9);
		assert_int_equal(mismatch.part, 1);
		assert_int_equal(mismatch.head, 5);
		assert_int_equal(mismatch.token, 22 * TOKENS + 7);
		assert_int_equal(mismatch.byte, byte);
		assert_int_equal(mismatch.expected, expected);
		assert_int_equal(mismatch.found, expected ^ 0x10);
		assert_int_equal(mismatch.block_id, 3);
		free(fixture.memory);
	}
}

static void nothing_beside_the_span_is_touched(void **state)
{
	static const int32_t ids[] = {-1, 0, 3};
	struct content_request request = {.request_id = 1};
	struct fixture fixture;
	struct content_span span;
	size_t touched = 0;

	(void)state;
	fixture_init(&fixture, 16, false);
	span = span_of(&fixture, ids, 0, 2 * TOKENS + 5);
	span.token_begin = TOKENS + 2;
	content_fill(&request, &span);
	for (size_t i = 0; i < fixture.size; i++)
		touched += fixture.memory[i] != 0xa5;
	/* 22 tokens of block 0 and 5 of block 3; about one byte in 256 happens to be 0xa5. */
	assert_in_range(touched, 27 * 16 * 12 * 98 / 100, 27 * 16 * 12);
	assert_int_equal(cell(&fixture, 0, 0, 0, 0, 1)[15], 0xa5);
	assert_int_equal(cell(&fixture, 0, 0, 3, 0, 5)[0], 0xa5);
	assert_int_equal(cell(&fixture, 0, 0, 5, 0, 0)[0], 0xa5);
	free(fixture.memory);
}

static void a_shared_prefix_has_shared_content(void **state)
{
	static const uint64_t hashes_one[] = {7, 9}, hashes_other[] = {7, 10};
	struct content_request one = {.request_id = 1, .n_hashes = 2, .hash_ids = hashes_one};
	struct content_request other = {
		.request_id = 2, .attempt = 3, .n_hashes = 2, .hash_ids = hashes_other};
	struct content_mismatch mismatch;
	struct fixture fixture;
	struct content_span span;

	(void)state;
	fixture_init(&fixture, 32, true);
	span = span_of(&fixture, ids_a, 20, 23 * TOKENS);
	content_fill(&one, &span);
	span.token_end = 512;
	(void)content_check(&other, &span, &mismatch);
	assert_int_equal(mismatch.bad_rows, 0);
	span.token_end = 23 * TOKENS;
	(void)content_check(&other, &span, &mismatch);
	assert_int_equal(mismatch.bad_rows, 12 * (23 * TOKENS - 512));
	assert_int_equal(mismatch.token, 512);
	free(fixture.memory);
}

/* Any swap of identity must show in every row: another request, attempt, layer, part, head, token. */
static void every_coordinate_matters(void **state)
{
	static const uint64_t keys_of[][5] = {{1, 0, 0, 0, 0}, {2, 0, 0, 0, 0}, {1, 1, 0, 0, 0},
		{1, 0, 1, 0, 0}, {1, 0, 0, 1, 0}, {1, 0, 0, 0, 1}, {1, 1, 1, 0, 0}, {1, 0, 1, 1, 0},
		{1, 0, 0, 256, 0}, {1, 256, 0, 0, 0}, {1, 0, 0, 0, 256}};
	const size_t n = sizeof keys_of / sizeof keys_of[0];
	uint64_t rows[11][8];

	(void)state;
	for (size_t i = 0; i < n; i++)
		content_row_fill(rows[i], 64,
			content_row_key(keys_of[i][0], (uint32_t)keys_of[i][1], (uint32_t)keys_of[i][2],
				(uint32_t)keys_of[i][3], keys_of[i][4]));
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; k < i; k++) {
			for (size_t a = 0; a < 8; a++) {
				for (size_t b = 0; b < 8; b++)
					assert_true(rows[i][a] != rows[k][b]);
			}
		}
	}
}

static void attempts_and_steps_and_strides_of_blocks(void **state)
{
	struct content_request request = {.request_id = 1, .attempt = 1},
			       retry = {.request_id = 1, .attempt = 2};
	struct content_mismatch mismatch;
	struct fixture fixture;
	struct content_span whole, thinned;

	(void)state;
	fixture_init(&fixture, 32, true);
	thinned = span_of(&fixture, ids_b, 1, UINT64_MAX);
	thinned.block_step = 2; /* blocks 1, 3, 5, as under CP */
	content_fill(&request, &thinned);
	whole = span_of(&fixture, &ids_b[1], 3, UINT64_MAX);
	whole.n = 1;
	(void)content_check(&request, &whole, &mismatch);
	assert_int_equal(mismatch.bad_rows, 0);
	(void)content_check(&retry, &whole, &mismatch);
	assert_int_equal(mismatch.bad_rows, 12 * TOKENS);
	whole.layer_step = 2;
	whole.token_step = 5;
	assert_int_equal(content_check(&request, &whole, &mismatch), 1 * 2 * 3 * 5 * 32);
	assert_int_equal(mismatch.bad_rows, 0);
	free(fixture.memory);
}

static void state_is_keyed_by_request_and_attempt(void **state)
{
	static const uint64_t hashes[] = {7};
	static const int32_t slot[] = {2};
	struct content_request request = {.request_id = 1, .attempt = 1, .n_hashes = 1, .hash_ids = hashes};
	struct content_request other = {.request_id = 2, .attempt = 1, .n_hashes = 1, .hash_ids = hashes};
	struct content_mismatch mismatch;
	struct fixture fixture;
	struct content_span span;

	(void)state;
	fixture_init(&fixture, 6, true);
	fixture.group.kind = KVF_STATE;
	fixture.group.tokens_per_block = 1;
	span = (struct content_span){.layout = &fixture.layout, .n = 1, .ids = slot};
	assert_int_equal(content_fill(&request, &span), 2 * 2 * 3 * 6);
	(void)content_check(&request, &span, &mismatch);
	assert_int_equal(mismatch.bad_rows, 0);
	(void)content_check(&other, &span, &mismatch);
	assert_int_equal(mismatch.bad_rows, 12);
	free(fixture.memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_filled_is_found_good),
		cmocka_unit_test(a_single_wrong_byte_is_named),
		cmocka_unit_test(nothing_beside_the_span_is_touched),
		cmocka_unit_test(a_shared_prefix_has_shared_content),
		cmocka_unit_test(every_coordinate_matters),
		cmocka_unit_test(attempts_and_steps_and_strides_of_blocks),
		cmocka_unit_test(state_is_keyed_by_request_and_attempt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
