/* move.c - what must arrive arrives, once, and nothing else changes. */
#include "route.h"
#include "tests.h"

#include <string.h>
#include "device/host.h"

static const struct route_options small = {.layers = 3,
	.heads = 4,
	.row_bytes = 256,
	.prompt_len = 77,
	.src = {2, 0, KVF_LAYER_HND, 16},
	.dst = {1, 0, KVF_BLOCK_MAJOR, 16},
	.id_step = 2};

/* Moves everything once and looks at all of the destination. */
static struct kvfi_done move_all(struct route *route, uint32_t grant, bool sum)
{
	struct kvfi_tx_post post = route_grant(route, grant, sum);
	struct kvfi_done done;

	route_post(route, &post);
	done = await(route->bench, route->prefill, KVFI_DONE_TX, post.id);
	assert_int_equal(done.status, KVF_OK);
	assert_int_equal(done.peer, route->slot);
	assert_int_equal(done.bytes, route->bound.bytes);
	if (subject->ops->receiver_applied) {
		struct kvfi_done applied = await(route->bench, route->decode, KVFI_DONE_RX, grant);

		assert_int_equal(applied.status, KVF_OK);
		assert_int_equal(applied.bytes, route->bound.bytes);
		if (sum)
			assert_int_equal(applied.sum, route->want_sum);
	} else {
		assert_true(done.runs > 0);
		assert_true(done.first_ns != 0 && done.first_ns <= done.last_ns);
	}
	if (sum)
		assert_int_equal(done.sum, route->want_sum);
	route_check(route);
	route_release(route, grant);
	return done;
}

static void move_with(struct bench *bench, uint32_t slot, const struct route_options *options)
{
	struct route route;

	route_init(&route, bench, &bench->sides[1], slot, options);
	(void)move_all(&route, 0, false);
	route_blank(&route);
	(void)move_all(&route, 1, true);
	route_fini(&route);
}

void every_byte_arrives_in_every_pairing_of_layouts(void **state)
{
	static const enum kvf_memory_order orders[] = {KVF_BLOCK_MAJOR, KVF_LAYER_HND, KVF_LAYER_NHD};

	(void)state;
	for (uint32_t i = 0; i < 9; i++) {
		struct route_options options = small;
		void *bench = NULL;

		options.src.order = orders[i / 3];
		options.dst.order = orders[i % 3];
		options.dst.rank = 0;
		assert_int_equal(bench_setup(&bench), 0);
		move_with(bench, i % MAX_PEERS, &options);
		assert_int_equal(bench_teardown(&bench), 0);
	}
}

void unequal_blocks_and_heads_arrive(void **state)
{
	static const struct route_options all[] = {
		{.layers = 2,
			.heads = 6,
			.row_bytes = 192,
			.prompt_len = 100,
			.src = {3, 1, KVF_LAYER_NHD, 16},
			.dst = {2, 0, KVF_LAYER_HND, 32}},
		{.layers = 2,
			.heads = 6,
			.row_bytes = 100,
			.prompt_len = 100,
			.src = {2, 1, KVF_BLOCK_MAJOR, 24},
			.dst = {3, 1, KVF_LAYER_NHD, 16},
			.id_step = 3},
		{.layers = 1,
			.heads = 1,
			.row_bytes = 1,
			.prompt_len = 1,
			.src = {1, 0, KVF_LAYER_NHD, 1},
			.dst = {1, 0, KVF_LAYER_NHD, 1}},
		{.layers = 2,
			.heads = 4,
			.row_bytes = 70000,
			.prompt_len = 20,
			.src = {4, 3, KVF_LAYER_NHD, 8},
			.dst = {2, 1, KVF_LAYER_HND, 8}},
	};
	struct bench *bench = *state;

	for (uint32_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		move_with(bench, i, &all[i]);
}

void sums_are_the_same_on_both_sides(void **state)
{
	struct route route;
	struct kvfi_done done;

	route_init(&route, *state, &((struct bench *)*state)->sides[1], 0,
		&(struct route_options){.layers = 5,
			.heads = 8,
			.row_bytes = 512,
			.prompt_len = 2000,
			.src = {2, 1, KVF_LAYER_NHD, 16},
			.dst = {1, 0, KVF_LAYER_HND, 32},
			.id_step = 2});
	done = move_all(&route, 3, true);
	assert_int_equal(done.sum, route.want_sum);
	/* A byte that differs is seen. */
	route_blank(&route);
	side_memory(route.prefill, route.src_region)[route.src->groups[0].parts[0].block_stride] ^= 1;
	{
		struct kvfi_tx_post post = route_grant(&route, 4, true);

		route_post(&route, &post);
		done = await(route.bench, route.prefill, KVFI_DONE_TX, post.id);
		assert_int_equal(done.status, KVF_OK);
		assert_int_not_equal(done.sum, route.want_sum);
	}
	route_fini(&route);
}

void a_post_of_nothing_completes(void **state)
{
	struct route route;
	struct kvfi_tx_post post;
	struct kvfi_bound nothing;
	struct kvfi_done done;

	route_init(&route, *state, &((struct bench *)*state)->sides[1], 0, &small);
	post = route_grant(&route, 0, true);
	nothing = (struct kvfi_bound){.plan = route.tx_plan, .layer_end = KVF_MAX_LAYERS};
	post.bound = &nothing;
	route_post(&route, &post);
	done = await(route.bench, route.prefill, KVFI_DONE_TX, post.id);
	assert_int_equal(done.status, KVF_OK);
	assert_int_equal(done.bytes, 0);
	settle(route.bench, route.decode, route.slot);
	assert_true(route_is_blank(&route));
	route_fini(&route);
}

/* One post per block of a prompt. */
enum {
	MANY = 200
};

static void post_blocks(
	struct route *route, const struct kvfi_tx_post *grant, struct kvfi_bound *bounds, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct kvfi_shape shape = {.prompt_len = route->options.prompt_len,
			.token_start = i * 16,
			.token_end = i * 16 + 16,
			.first = i == 0,
			.last = i + 1 == n};
		struct kvfi_ids src = {route->src_ids + i, 1};
		struct kvfi_tx_post post = *grant;

		post.id = 1000 + i;
		post.slice = i;
		post.bound = &bounds[i];
		assert_int_equal(
			kvfi_bind(route->tx_plan, &shape, &src, route->dst_lists, &bounds[i]), KVF_OK);
		assert_true(bounds[i].bytes > 0);
		route_post(route, &post);
	}
}

void many_posts_at_once_complete_once_each(void **state)
{
	static struct kvfi_bound bounds[MANY];
	struct route_options options = small;
	struct kvfi_tx_post post;
	struct route route;
	uint64_t bytes = 0;

	options.prompt_len = MANY * 16;
	options.row_bytes = 1024;
	route_init(&route, *state, &((struct bench *)*state)->sides[1], 2, &options);
	post = route_grant(&route, 0, false);
	post_blocks(&route, &post, bounds, MANY);
	for (uint32_t i = 0; i < MANY; i++) {
		struct kvfi_done done = await(route.bench, route.prefill, KVFI_DONE_TX, 1000 + i);

		assert_int_equal(done.status, KVF_OK);
		assert_int_equal(done.slice, i);
		assert_int_equal(done.bytes, bounds[i].bytes);
		bytes += done.bytes;
	}
	for (uint32_t i = 0; subject->ops->receiver_applied && i < MANY; i++)
		assert_int_equal(await(route.bench, route.decode, KVFI_DONE_RX, 0).status, KVF_OK);
	assert_int_equal(bytes, route.bound.bytes);
	assert_int_equal(count(route.prefill, KVFI_DONE_TX), 0);
	route_check(&route);
	route_fini(&route);
}

void a_full_table_of_posts_is_an_error_at_the_call(void **state)
{
	struct route_options options = small;
	struct kvfi_tx_post post;
	struct route route;
	uint32_t started = 0;

	/* Blocks large enough that no transport is done with one inside post(). */
	options.prompt_len = 128;
	options.row_bytes = 4096;
	route_init(&route, *state, &((struct bench *)*state)->sides[1], 0, &options);
	post = route_grant(&route, 0, false);
	side_allow(route.prefill, 0);
	for (; started <= MAX_POSTS; started++) {
		enum kvf_status status;

		post.id = 1000 + started;
		post.slice = started;
		status = subject->ops->post(route.prefill->transport, &post);
		if (status == KVF_EFULL)
			break;
		assert_int_equal(status, KVF_OK);
	}
	assert_true(started > 0);
	side_allow(route.prefill, UINT64_MAX);
	for (uint32_t i = 0; i < started; i++)
		assert_int_equal(await(route.bench, route.prefill, KVFI_DONE_TX, 1000 + i).status, KVF_OK);
	assert_int_equal(subject->ops->post(route.prefill->transport, &post), KVF_OK);
	assert_int_equal(await(route.bench, route.prefill, KVFI_DONE_TX, post.id).status, KVF_OK);
	route_fini(&route);
}

void two_peers_are_served_at_once(void **state)
{
	struct bench *bench = *state;
	struct route_options options = small;
	struct route routes[2];
	struct kvfi_tx_post posts[2];

	options.prompt_len = 1000;
	options.row_bytes = 1024;
	for (uint32_t i = 0; i < 2; i++) {
		route_init(&routes[i], bench, &bench->sides[1 + i], 1 + i, &options);
		posts[i] = route_grant(&routes[i], i, true);
	}
	for (uint32_t i = 0; i < 2; i++)
		route_post(&routes[i], &posts[i]);
	for (uint32_t i = 0; i < 2; i++) {
		struct kvfi_done done = await(bench, &bench->sides[0], KVFI_DONE_TX, posts[i].id);

		assert_int_equal(done.status, KVF_OK);
		assert_int_equal(done.peer, 1 + i);
		assert_int_equal(done.sum, routes[i].want_sum);
		if (subject->ops->receiver_applied)
			assert_int_equal(await(bench, &bench->sides[1 + i], KVFI_DONE_RX, i).status, KVF_OK);
	}
	for (uint32_t i = 0; i < 2; i++) {
		route_check(&routes[i]);
		route_fini(&routes[i]);
	}
}

void t_p37_a_hundred_thousand_short_runs_arrive(void **state)
{
	struct route route;
	struct kvfi_done done;

	/* Token-major on one side, head-major on the other: every row is a run of its own. */
	route_init(&route, *state, &((struct bench *)*state)->sides[1], 0,
		&(struct route_options){.layers = 4,
			.heads = 4,
			.row_bytes = 64,
			.prompt_len = 6400,
			.src = {1, 0, KVF_LAYER_NHD, 16},
			.dst = {2, 1, KVF_LAYER_HND, 16},
			.id_step = 2});
	done = move_all(&route, 0, false);
	if (!subject->ops->receiver_applied)
		assert_true(done.runs >= 100000);
	route_fini(&route);
}

struct spied {
	const struct route *route;
	enum kvfi_done_kind kind;
	uint32_t complete, incomplete;
};

static void spy(void *context, const struct kvfi_done *done)
{
	struct spied *spied = context;

	if (done->kind != spied->kind)
		return;
	if (route_has_arrived(spied->route))
		spied->complete++;
	else
		spied->incomplete++;
}

void t_p45_completion_never_comes_before_the_data(void **state)
{
	struct bench *bench = *state;
	struct route_options options = small;
	struct spied spied;
	struct route route;

	options.prompt_len = 1000;
	options.row_bytes = 512;
	route_init(&route, bench, &bench->sides[1], 0, &options);
	spied = (struct spied){
		.route = &route, .kind = subject->ops->receiver_applied ? KVFI_DONE_RX : KVFI_DONE_TX};
	{
		struct side *teller = subject->ops->receiver_applied ? route.decode : route.prefill;

		side_spy(teller, spy, &spied);
		for (uint32_t i = 0; i < 10; i++) {
			route_blank(&route);
			(void)move_all(&route, i, false);
		}
		side_spy(teller, NULL, NULL);
	}
	assert_int_equal(spied.complete, 10);
	assert_int_equal(spied.incomplete, 0);
	route_fini(&route);
}
