/* stop.c - stopping: a post ends once, and what was proven quiet stays untouched. */
#include "route.h"
#include "tests.h"

#include <string.h>
#include "base/clock.h"

/* 24 MiB in runs of 512 bytes: no transport is done before it is told to stop. */
static const struct route_options large = {.layers = 4,
	.heads = 8,
	.row_bytes = 512,
	.prompt_len = 1536,
	.src = {2, 0, KVF_LAYER_NHD, 16},
	.dst = {1, 0, KVF_LAYER_HND, 16},
	.id_step = 2};

static void begin_route(struct route *route, struct bench *bench)
{
	route_init(route, bench, &bench->sides[1], 0, &large);
}

/* Posts, and turns until the first byte has landed. The copy workers are let go for one job, so that the post is still under way. */
static void post_and_begin(struct route *route, const struct kvfi_tx_post *post)
{
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S;

	side_allow(route->prefill, 0);
	route_post(route, post);
	side_allow(route->prefill, 1);
	while (!route_has_begun(route)) {
		assert_true(kvfi_clock_ns() < deadline_ns);
		bench_turn(route->bench, 1);
	}
}

/* The end of a post that was stopped, or came in just before; told once. */
static void check_ended_once(struct route *route, uint64_t post_id)
{
	struct kvfi_done done = await(route->bench, route->prefill, KVFI_DONE_TX, post_id);

	if (done.status == KVF_OK)
		assert_int_equal(done.bytes, route->bound.bytes);
	else
		assert_int_equal(done.status, KVF_CANCELLED);
	assert_true(done.bytes <= route->bound.bytes);
	settle(route->bench, route->decode, route->slot);
	assert_int_equal(count(route->prefill, KVFI_DONE_TX), 0);
}

void a_post_cancelled_before_it_began_stores_nothing(void **state)
{
	struct kvfi_tx_post post;
	struct kvfi_done done;
	struct route route;

	skip_unless(!subject->ops->receiver_applied, "its I/O thread may be faster than the cancel");
	begin_route(&route, *state);
	post = route_grant(&route, 0, false);
	side_allow(route.prefill, 0);
	route_post(&route, &post);
	subject->ops->cancel(route.prefill->transport, post.id);
	side_allow(route.prefill, UINT64_MAX);
	done = await(route.bench, route.prefill, KVFI_DONE_TX, post.id);
	assert_int_equal(done.status, KVF_CANCELLED);
	assert_int_equal(done.bytes, 0);
	assert_int_equal(done.first_ns, 0);
	assert_true(route_is_blank(&route));
	subject->ops->cancel(route.prefill->transport, post.id); /* it is gone: no effect */
	settle(route.bench, route.decode, route.slot);
	assert_int_equal(count(route.prefill, KVFI_DONE_TX), 0);
	route_fini(&route);
}

void a_post_cancelled_midway_ends_once_and_stores_nothing_more(void **state)
{
	struct kvfi_tx_post post;
	struct route route;

	begin_route(&route, *state);
	post = route_grant(&route, 0, true);
	post_and_begin(&route, &post);
	subject->ops->cancel(route.prefill->transport, post.id);
	side_allow(route.prefill, UINT64_MAX);
	check_ended_once(&route, post.id);
	if (subject->ops->receiver_applied)
		(void)await(route.bench, route.decode, KVFI_DONE_RX, 0);
	route_blank(&route);
	settle(route.bench, route.decode, route.slot);
	assert_true(route_is_blank(&route));
	/* The link is as good as before. */
	post = route_grant(&route, 1, false);
	route_post(&route, &post);
	assert_int_equal(await(route.bench, route.prefill, KVFI_DONE_TX, post.id).status, KVF_OK);
	if (subject->ops->receiver_applied)
		assert_int_equal(await(route.bench, route.decode, KVFI_DONE_RX, 1).status, KVF_OK);
	route_check(&route);
	route_fini(&route);
}

static void until_quiet(struct route *route, uint32_t grant)
{
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S;

	while (subject->ops->proof(route->decode->transport, grant) == KVF_PROOF_NONE) {
		assert_true(kvfi_clock_ns() < deadline_ns);
		bench_turn(route->bench, 1);
	}
}

void after_revoke_and_quiet_nothing_is_stored(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		struct kvfi_tx_post post;
		struct route route;
		void *fresh = NULL;

		assert_int_equal(bench_setup(&fresh), 0);
		begin_route(&route, fresh);
		post = route_grant(&route, 5, i % 2 == 1);
		post_and_begin(&route, &post);
		side_allow(route.prefill, UINT64_MAX); /* workers are inside while it is taken back */
		subject->ops->revoke(route.decode->transport, 5);
		until_quiet(&route, 5);
		route_blank(&route); /* the memory is ours */
		check_ended_once(&route, post.id);
		assert_true(route_is_blank(&route));
		route_release(&route, 5);
		route_fini(&route);
		assert_int_equal(bench_teardown(&fresh), 0);
	}
}

void a_stale_grant_is_not_written_under(void **state)
{
	struct kvfi_tx_post old, fresh;
	struct route route;

	begin_route(&route, *state);
	old = route_grant(&route, 7, false);
	subject->ops->revoke(route.decode->transport, 7);
	until_quiet(&route, 7);
	route_release(&route, 7);
	/* As many grants as there are, so that the old slot is granted again too. */
	for (uint32_t i = 0; i < MAX_GRANTS; i++) {
		fresh = route_grant(&route, i, false);
		if (fresh.lease_slot == old.lease_slot)
			assert_int_not_equal(fresh.lease_generation, old.lease_generation);
	}
	route_post(&route, &old);
	check_ended_once(&route, old.id);
	assert_true(route_is_blank(&route));
	route_fini(&route);
}

void a_grant_can_be_made_again_after_release(void **state)
{
	struct kvfi_rx_grant grant;
	uint32_t slot, generation;
	struct kvfi_tx_post post;
	struct route route;

	begin_route(&route, *state);
	post = route_grant(&route, 7, false);
	grant = (struct kvfi_rx_grant){.id = 7,
		.peer = 0,
		.request_id = 1,
		.epoch = 2,
		.prompt_len = large.prompt_len,
		.plan = route.rx_plan,
		.dst = route.dst_lists};
	assert_int_equal(subject->ops->grant(route.decode->transport, &grant, &slot, &generation), KVF_EBUSY);
	subject->ops->revoke(route.decode->transport, 7);
	until_quiet(&route, 7);
	route_release(&route, 7);
	route_release(&route, 7); /* once is enough, twice is nothing */
	post = route_grant(&route, 7, false);
	route_post(&route, &post);
	assert_int_equal(await(route.bench, route.prefill, KVFI_DONE_TX, post.id).status, KVF_OK);
	if (subject->ops->receiver_applied)
		assert_int_equal(await(route.bench, route.decode, KVFI_DONE_RX, 7).status, KVF_OK);
	route_check(&route);
	route_fini(&route);
}

void t_p36_memory_is_ours_again_once_quiet(void **state)
{
	struct kvfi_tx_post post;
	unsigned char *memory;
	struct route route;
	uint32_t region;

	begin_route(&route, *state);
	post = route_grant(&route, 0, false);
	post_and_begin(&route, &post);
	side_allow(route.prefill, UINT64_MAX);
	subject->ops->revoke(route.decode->transport, 0);
	until_quiet(&route, 0);
	route_release(&route, 0);
	subject->ops->region_removed(route.decode->transport, route.dst_region);
	assert_int_equal(kvfi_regions_remove(&route.decode->regions, route.dst_region), KVF_OK);
	region = side_region(
		route.decode, route.dst_bytes); /* the same index, most likely the same addresses */
	assert_int_equal(region, route.dst_region);
	memory = side_memory(route.decode, region);
	check_ended_once(&route, post.id);
	for (uint64_t i = 0; i < route.dst_bytes; i++)
		assert_int_equal(memory[i], 0);
	route_fini(&route);
}

void t_p04_quiet_is_not_claimed_before_revoke(void **state)
{
	struct kvfi_tx_post post;
	struct route route;

	begin_route(&route, *state);
	post = route_grant(&route, 0, false);
	assert_int_equal(subject->ops->proof(route.decode->transport, 0), KVF_PROOF_NONE);
	post_and_begin(&route, &post);
	assert_int_equal(subject->ops->proof(route.decode->transport, 0), KVF_PROOF_NONE);
	side_allow(route.prefill, UINT64_MAX);
	assert_int_equal(await(route.bench, route.prefill, KVFI_DONE_TX, post.id).status, KVF_OK);
	route_fini(&route);
}
