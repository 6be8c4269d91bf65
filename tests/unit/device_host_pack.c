/* device_host_pack.c - packed strips lie one behind the other, whole, and nothing else is touched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/hash.h"
#include "device/host.h"

#define CANARY      0xee
#define SRC_BYTES   (256u * 1024)
#define MAX_STRIPS  40u
#define STAGE_BYTES (128u * 1024)

struct world {
	unsigned char *src, *stage, *want;
	struct kvfi_host_strip strips[MAX_STRIPS];
	uint32_t n;
	uint64_t bytes;
};

static void add_strip(struct world *world, uint64_t start, uint64_t len, int64_t stride, uint64_t count)
{
	world->strips[world->n++] = (struct kvfi_host_strip){world->src + start, stride, len, count};
	for (uint64_t i = 0; i < count; i++) {
		memcpy(world->want + world->bytes, world->src + (int64_t)start + (int64_t)i * stride, len);
		world->bytes += len;
	}
}

static void setup(struct world *world)
{
	memset(world, 0, sizeof(*world));
	world->src = malloc(SRC_BYTES);
	world->stage = malloc(STAGE_BYTES);
	world->want = malloc(STAGE_BYTES);
	assert_true(world->src != NULL && world->stage != NULL && world->want != NULL);
	for (uint64_t i = 0; i < SRC_BYTES; i++)
		world->src[i] = (unsigned char)kvfi_mix64(i);
	memset(world->stage, CANARY, STAGE_BYTES);
	memset(world->want, CANARY, STAGE_BYTES);
}

static void check(struct world *world)
{
	kvfi_host_pack(world->stage, world->strips, world->n);
	assert_memory_equal(world->stage, world->want, STAGE_BYTES);
	free(world->src);
	free(world->stage);
	free(world->want);
}

static void nothing_packs_to_nothing(void **state)
{
	struct world world;

	(void)state;
	setup(&world);
	check(&world);
}

static void strips_of_every_length_follow_each_other(void **state)
{
	static const uint64_t lens[] = {
		1, 7, 63, 64, 65, 128, 192, 256, 257, 320, 512, 1000, 1024, 2048, 4095};
	struct world world;

	(void)state;
	setup(&world);
	for (uint32_t i = 0; i < sizeof(lens) / sizeof(*lens); i++)
		add_strip(&world, i * 13, lens[i], (int64_t)lens[i] + 40, 1 + i % 5);
	check(&world);
}

static void strides_may_be_zero_or_negative(void **state)
{
	struct world world;

	(void)state;
	setup(&world);
	add_strip(&world, 100000, 512, -1536, 40);
	add_strip(&world, 5, 64, 0, 9);
	add_strip(&world, 200000, 96, -96, 16);
	check(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_packs_to_nothing),
		cmocka_unit_test(strips_of_every_length_follow_each_other),
		cmocka_unit_test(strides_may_be_zero_or_negative),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
