/* replay_memory.c - admission, filling and checking without a transfer: what is copied right is found
 * right, everything else is found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <unistd.h>

#include "cli/replay_admit.h"
#include "cli/replay_geometry.h"
#include "cli/replay_memory.h"

/* One prefill rank, one decode rank, and the copy in between done by hand. */
struct world {
	struct replay_setup *setup;
	struct replay_board board;
	struct replay_admit admit;
	struct replay_memory memory[2];
	struct kvf_layout *layouts[2];
	uint8_t *pools[2];
	uint64_t pool_bytes[2];
};

/* Two requests that share their first 512-token block; then one of their own. */
static const char trace_text[] =
	"{\"timestamp\": 0, \"input_length\": 700, \"output_length\": 1, \"hash_ids\": [1, 2]}\n"
	"{\"timestamp\": 0, \"input_length\": 900, \"output_length\": 1, \"hash_ids\": [1, 3]}\n"
	"{\"timestamp\": 0, \"input_length\": 17, \"output_length\": 1, \"hash_ids\": [4]}\n";

static bool setup_from(const char *trace, struct replay_options *options, struct replay_setup **setup_out,
	struct reason *why)
{
	char path[] = "/tmp/kvferry-test-XXXXXX";
	int fd = mkstemp(path), code;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, trace, strlen(trace)), strlen(trace));
	close(fd);
	options->trace = path;
	options->transport = REPLAY_LOOP;
	bool ok = replay_setup_new(options, setup_out, &code, why);
	unlink(path);
	return ok;
}

static void add_rank(struct world *world, uint32_t side)
{
	const struct replay_side *of = &world->setup->sides[side];
	const struct kvf_layout_options options = {
		of->ranks.memory_order, of->tokens_per_block, of->blocks, of->state_slots};
	uint64_t span;
	assert_int_equal(kvf_layout_new(&world->setup->model.kvf, of->instance, 0, &options,
				 &world->layouts[side], &span),
		KVF_OK);
	world->pool_bytes[side] = span + REPLAY_CANARY_BYTES;
	world->pools[side] = aligned_alloc(4096, (world->pool_bytes[side] + 4095) / 4096 * 4096);
	assert_non_null(world->pools[side]);
	kvf_layout_move(world->layouts[side], (uint64_t)(uintptr_t)world->pools[side]);
	assert_true(replay_memory_init(&world->memory[side], world->setup, &world->board, side, 0));
	replay_memory_attach(
		&world->memory[side], world->layouts[side], world->pools[side], world->pool_bytes[side]);
}

static void world_init(struct world *world, const char *prefill, const char *decode)
{
	struct replay_options options;
	struct reason why;
	replay_options_init(&options);
	options.model = "layers=4,heads=2,head_dim=8,dtype=fp16,window=64:every=2";
	options.prefill = prefill;
	options.decode = decode;
	options.pool_bytes = 1 << 20;
	memset(world, 0, sizeof(*world));
	if (!setup_from(trace_text, &options, &world->setup, &why))
		fail_msg("%s", why.text);
	assert_true(replay_board_init(&world->board, world->setup, &why));
	assert_true(replay_admit_init(&world->admit, world->setup, &world->board));
	add_rank(world, REPLAY_PREFILL);
	add_rank(world, REPLAY_DECODE);
}

static void world_fini(struct world *world)
{
	for (uint32_t side = 0; side < 2; side++) {
		replay_memory_fini(&world->memory[side]);
		kvf_layout_free(world->layouts[side]);
		free(world->pools[side]);
	}
	replay_admit_fini(&world->admit);
	replay_board_fini(&world->board);
	replay_setup_free(world->setup);
}

static struct replay_job run_job(struct world *world, uint32_t side, uint32_t kind, uint32_t slot)
{
	struct replay_job job;
	replay_job_init(&job, kind, slot);
	while (!replay_job_step(&job, &world->memory[side]))
		;
	return job;
}

static uint8_t *cell(const struct kvf_layout *layout, uint32_t g, uint32_t layer, uint32_t p, int32_t id,
	uint32_t head, uint64_t token)
{
	const struct kvf_group *group = &layout->groups[g];
	const struct kvf_part *part = &group->parts[p];
	return (uint8_t *)(uintptr_t)(group->bases[layer * group->n_parts + p] +
				      (uint64_t)id * part->block_stride + head * part->head_stride +
				      token * part->token_stride);
}

static int32_t id_at(const struct world *world, uint32_t slot, uint32_t side, uint32_t g, uint64_t block)
{
	const struct replay_list *list = replay_board_list(&world->board, slot, side, 0, g);
	assert_in_range(block, list->first, list->first + list->n - 1);
	return replay_board_ids(&world->board, slot, list)[block - list->first];
}

/* Token by token, from the one's block to the other's. */
static uint64_t copy_by_hand(struct world *world, uint32_t slot)
{
	uint32_t request = replay_board_slot(&world->board, slot)->request;
	const struct kvf_layout *src = world->layouts[0], *dst = world->layouts[1];
	uint64_t bytes = 0;
	for (uint32_t g = 0; g < src->n_groups; g++) {
		uint64_t reused = replay_board_list(&world->board, slot, REPLAY_DECODE, 0, g)->reused;
		struct replay_tokens moved =
			replay_moved(world->setup, g, world->setup->requests[request].tokens, reused);
		uint64_t src_tpb = src->groups[g].tokens_per_block, dst_tpb = dst->groups[g].tokens_per_block;
		for (uint64_t token = moved.begin; token < moved.end; token++) {
			int32_t from = id_at(world, slot, 0, g, token / src_tpb);
			int32_t to = id_at(world, slot, 1, g, token / dst_tpb);
			for (uint32_t i = 0; i < src->groups[g].n_layers * 4; i++) {
				uint64_t row = src->groups[g].parts[i / 2 % 2].row_bytes;
				memcpy(cell(dst, g, i / 4, i / 2 % 2, to, i % 2, token % dst_tpb),
					cell(src, g, i / 4, i / 2 % 2, from, i % 2, token % src_tpb), row);
				bytes += row;
			}
		}
	}
	return bytes;
}

static void transfer(struct world *world, uint32_t slot, uint32_t request, uint64_t *reused_out)
{
	assert_true(replay_admit_request(&world->admit, slot, request, reused_out));
	run_job(world, REPLAY_PREFILL, REPLAY_JOB_FILL, slot);
	struct replay_job cleared = run_job(world, REPLAY_DECODE, REPLAY_JOB_CLEAR, slot);
	assert_int_equal(cleared.fault.kind, REPLAY_NO_FAULT);
	assert_int_equal(copy_by_hand(world, slot), replay_admit_expected(&world->admit, slot));
}

static void t_a_right_copy_is_found_right(void **state)
{
	(void)state;
	static const char *const specs[][2] = {{"block=16", "block=16"}, {"block=16", "block=48,layout=nhd"},
		{"block=64,layout=hnd", "block=16"}, {"block=24,layout=nhd", "block=40,layout=hnd"}};
	for (size_t i = 0; i < 4; i++) {
		struct world world;
		uint64_t reused;
		world_init(&world, specs[i][0], specs[i][1]);
		for (uint32_t request = 0; request < 3; request++) {
			transfer(&world, 0, request, &reused);
			struct replay_job check = run_job(&world, REPLAY_DECODE, REPLAY_JOB_CHECK, 0);
			assert_int_equal(check.fault.kind, REPLAY_NO_FAULT);
			assert_true(check.bytes_verified >= replay_admit_expected(&world.admit, 0));
			uint64_t tpb = world.setup->sides[REPLAY_DECODE].tokens_per_block;
			assert_int_equal(reused, request == 1 ? 512 / tpb * tpb : 0);
			replay_admit_release(&world.admit, 0, true);
		}
		for (uint32_t side = 0; side < 2; side++)
			assert_int_equal(
				run_job(&world, side, REPLAY_JOB_SWEEP, 0).fault.kind, REPLAY_NO_FAULT);
		world_fini(&world);
	}
}

static void t_a_wrong_byte_is_found_and_named(void **state)
{
	(void)state;
	struct world world;
	uint64_t reused;
	world_init(&world, "block=16", "block=16,layout=hnd");
	transfer(&world, 0, 0, &reused);
	int32_t id = id_at(&world, 0, REPLAY_DECODE, 0, 5);
	cell(world.layouts[1], 0, 1, 1, id, 1, 3)[7] ^= 4;
	struct replay_job check = run_job(&world, REPLAY_DECODE, REPLAY_JOB_CHECK, 0);
	assert_int_equal(check.fault.kind, REPLAY_FAULT_CONTENT);
	assert_int_equal(check.fault.request, 0);
	assert_int_equal(check.fault.where.layer, world.layouts[1]->groups[0].layers[1]);
	assert_int_equal(check.fault.where.part, 1);
	assert_int_equal(check.fault.where.head, 1);
	assert_int_equal(check.fault.where.token, 5 * 16 + 3);
	assert_int_equal(check.fault.where.byte, 7);
	assert_int_equal(check.fault.where.bad_rows, 1);
	world_fini(&world);
}

/* The destination's last block holds 48 tokens, the source's 16: what no source token covers keeps the
 * guard pattern. */
static void t_a_byte_past_what_was_sent_is_found(void **state)
{
	(void)state;
	struct world world;
	uint64_t reused;
	world_init(&world, "block=16", "block=48");
	transfer(&world, 0, 2, &reused); /* 17 tokens: 32 are sent */
	cell(world.layouts[1], 0, 0, 0, id_at(&world, 0, REPLAY_DECODE, 0, 0), 0, 32)[0] ^= 1;
	struct replay_job check = run_job(&world, REPLAY_DECODE, REPLAY_JOB_CHECK, 0);
	assert_int_equal(check.fault.kind, REPLAY_FAULT_STRAY);
	assert_int_equal(check.fault.where.token, 32);
	world_fini(&world);
}

static void t_a_stray_byte_is_found_before_the_block_is_used_again(void **state)
{
	(void)state;
	struct world world;
	uint64_t reused;
	world_init(&world, "block=16", "block=16");
	assert_true(replay_admit_request(&world.admit, 0, 2, &reused));
	*cell(world.layouts[1], 0, 0, 0, id_at(&world, 0, REPLAY_DECODE, 0, 1), 0, 0) ^= 1;
	struct replay_job cleared = run_job(&world, REPLAY_DECODE, REPLAY_JOB_CLEAR, 0);
	assert_int_equal(cleared.fault.kind, REPLAY_FAULT_STRAY);
	assert_int_equal(cleared.fault.request, REPLAY_NO_REQUEST);
	world_fini(&world);
}

static void t_the_sweep_finds_strays_in_released_free_and_no_blocks(void **state)
{
	(void)state;
	struct world world;
	uint64_t reused;
	world_init(&world, "block=16", "block=16");
	transfer(&world, 0, 0, &reused);
	run_job(&world, REPLAY_DECODE, REPLAY_JOB_CHECK, 0);
	int32_t id = id_at(&world, 0, REPLAY_DECODE, 0, 2);
	replay_admit_release(&world.admit, 0, true);

	*cell(world.layouts[1], 0, 0, 0, id, 1, 1) ^= 1;
	struct replay_job sweep = run_job(&world, REPLAY_DECODE, REPLAY_JOB_SWEEP, 0);
	assert_int_equal(sweep.fault.kind, REPLAY_FAULT_STRAY);
	assert_int_equal(sweep.fault.request, 0);
	assert_int_equal(sweep.fault.where.block_id, id);
	*cell(world.layouts[1], 0, 0, 0, id, 1, 1) ^= 1;
	assert_int_equal(run_job(&world, REPLAY_DECODE, REPLAY_JOB_SWEEP, 0).fault.kind, REPLAY_NO_FAULT);

	world.pools[1][world.pool_bytes[1] - 1] ^= 1;
	sweep = run_job(&world, REPLAY_DECODE, REPLAY_JOB_SWEEP, 0);
	assert_int_equal(sweep.fault.kind, REPLAY_FAULT_STRAY);
	assert_int_equal(sweep.fault.where.block_id, -1);
	assert_int_equal(sweep.fault.where.byte, world.pool_bytes[1] - 1);
	world_fini(&world);
}

static void t_blocks_of_a_failed_request_are_not_reused(void **state)
{
	(void)state;
	struct world world;
	uint64_t reused;
	world_init(&world, "block=16", "block=16");
	transfer(&world, 0, 0, &reused);
	replay_admit_release(&world.admit, 0, false);
	assert_true(replay_admit_request(&world.admit, 0, 1, &reused));
	assert_int_equal(reused, 0);
	world_fini(&world);
}

static void t_a_request_without_room_changes_nothing(void **state)
{
	(void)state;
	struct replay_options options;
	struct replay_setup *setup;
	struct replay_board board;
	struct replay_admit admit;
	struct reason why;
	uint64_t reused;
	replay_options_init(&options);
	options.model = "layers=1,heads=1,head_dim=8,dtype=fp16";
	options.pool_bytes =
		32 * 32 * 32; /* 32 blocks of 32 tokens of 32 bytes: one long request at a time */
	assert_true(setup_from(trace_text, &options, &setup, &why));
	assert_true(replay_board_init(&board, setup, &why) && replay_admit_init(&admit, setup, &board));
	assert_true(replay_admit_request(&admit, 0, 0, &reused));
	for (int again = 0; again < 3; again++)
		assert_false(replay_admit_request(&admit, 1, 1, &reused));
	replay_admit_release(&admit, 0, true);
	assert_true(replay_admit_request(&admit, 1, 1, &reused));
	assert_int_equal(reused, 512);
	replay_admit_release(&admit, 1, true);
	replay_admit_fini(&admit);
	replay_board_fini(&board);
	replay_setup_free(setup);
}

static void t_a_request_that_can_never_fit_is_refused_naming_the_pool(void **state)
{
	(void)state;
	struct replay_options options;
	struct replay_setup *setup;
	struct reason why;
	replay_options_init(&options);
	options.model = "layers=1,heads=1,head_dim=8,dtype=fp16";
	options.pool_bytes = 16 * 32 * 32;
	assert_false(setup_from(trace_text, &options, &setup, &why));
	assert_non_null(strstr(why.text, "request 1 (900 tokens) can never fit"));
	assert_non_null(strstr(why.text, "29.0 KiB"));
	assert_non_null(strstr(why.text, "16.0 KiB"));
}

static void t_slices_tile_every_request(void **state)
{
	(void)state;
	struct world world;
	world_init(&world, "block=16", "block=16");
	for (uint64_t seed = 0; seed < 200; seed++) {
		world.setup->options.seed = seed;
		for (uint32_t request = 0; request < 3; request++) {
			struct replay_slice slices[REPLAY_MAX_SLICES];
			uint32_t n = replay_slices_of(world.setup, request, slices);
			uint64_t tokens = world.setup->requests[request].tokens, token = 0, cells = 0;
			for (uint32_t i = 0; i < n; i++) {
				uint64_t layers =
					slices[i].layer_end ? slices[i].layer_end - slices[i].layer_start : 4;
				assert_int_equal(slices[i].last, i == n - 1);
				assert_true(slices[i].token_start == token ||
					    slices[i].token_start == slices[i - 1].token_start);
				token = slices[i].token_end;
				cells += (token - slices[i].token_start) * layers;
			}
			assert_int_equal(cells, tokens * 4);
		}
	}
	world_fini(&world);
}

static void t_block_counts_are_those_of_the_worked_examples(void **state)
{
	(void)state;
	static const uint64_t windows[][3] = {
		{32, 16, 2}, {32, 24, 1}, {32, 32, 0}, {64, 24, 5}, {16, 24, 0}};
	for (size_t i = 0; i < 5; i++) {
		const struct kvf_group_spec group = {
			.kind = KVF_WINDOW, .window_tokens = (uint32_t)windows[i][1]};
		struct replay_blocks blocks = replay_blocks_of(&group, 8, windows[i][0]);
		assert_int_equal(blocks.first, windows[i][2]);
		assert_int_equal(blocks.total, windows[i][0] / 8);
	}
	uint64_t sum = 0;
	for (uint32_t c = 0; c < 3; c++) {
		assert_int_equal(replay_cp_first(4, c, 3) % 3, c);
		assert_in_range(replay_cp_first(4, c, 3), 4, 6);
		sum += replay_cp_count(4, 17, c, 3);
	}
	assert_int_equal(sum, 13);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_a_right_copy_is_found_right),
		cmocka_unit_test(t_a_wrong_byte_is_found_and_named),
		cmocka_unit_test(t_a_byte_past_what_was_sent_is_found),
		cmocka_unit_test(t_a_stray_byte_is_found_before_the_block_is_used_again),
		cmocka_unit_test(t_the_sweep_finds_strays_in_released_free_and_no_blocks),
		cmocka_unit_test(t_blocks_of_a_failed_request_are_not_reused),
		cmocka_unit_test(t_a_request_without_room_changes_nothing),
		cmocka_unit_test(t_a_request_that_can_never_fit_is_refused_naming_the_pool),
		cmocka_unit_test(t_slices_tile_every_request),
		cmocka_unit_test(t_block_counts_are_those_of_the_worked_examples),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
