/* proof.c - what is a proof, what is none, and what survives the connection. */
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

static enum kvf_proof proof_of(const struct route *route, uint32_t grant)
{
	return subject->ops->proof(route->decode->transport, grant);
}

static bool is_own_proof(enum kvf_proof proof)
{
	return proof == (subject->ops->receiver_applied ? KVF_PROOF_LOCAL_EPOCH : KVF_PROOF_LEASE);
}

static enum kvf_proof until_proven(struct route *route, uint32_t grant)
{
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S;
	enum kvf_proof proof;

	while ((proof = proof_of(route, grant)) == KVF_PROOF_NONE) {
		assert_true(kvfi_clock_ns() < deadline_ns);
		bench_turn(route->bench, 1);
	}
	return proof;
}

void numbers_change_while_bytes_move(void **state)
{
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S, grant_before;
	bool post_moved = false;
	struct kvfi_tx_post post;
	struct kvfi_done done;
	struct route route;

	route_init(&route, *state, &((struct bench *)*state)->sides[1], 0, &large);
	post = route_grant(&route, 3, false);
	grant_before = subject->ops->grant_moved(route.decode->transport, 3);
	assert_int_equal(subject->ops->post_moved(route.prefill->transport, post.id), 0); /* none such */
	side_allow(route.prefill, 0);
	route_post(&route, &post);
	if (!subject->ops->receiver_applied) {
		assert_int_equal(subject->ops->post_moved(route.prefill->transport, post.id), 0);
		assert_int_equal(subject->ops->grant_moved(route.decode->transport, 3), grant_before);
	}
	side_allow(route.prefill, 1);
	while (!post_moved && count(route.prefill, KVFI_DONE_TX) == 0) {
		assert_true(kvfi_clock_ns() < deadline_ns);
		bench_turn(route.bench, 1);
		post_moved = subject->ops->post_moved(route.prefill->transport, post.id) != 0;
	}
	assert_true(post_moved || subject->ops->receiver_applied); /* tcp may be done between two looks */
	while (subject->ops->grant_moved(route.decode->transport, 3) == grant_before) {
		assert_true(kvfi_clock_ns() < deadline_ns);
		bench_turn(route.bench, 1);
	}
	side_allow(route.prefill, UINT64_MAX);
	done = await(route.bench, route.prefill, KVFI_DONE_TX, post.id);
	assert_int_equal(done.status, KVF_OK);
	route_fini(&route);
}

void neither_cancel_nor_revoke_is_a_proof(void **state)
{
	struct kvfi_tx_post post;
	struct route route;

	route_init(&route, *state, &((struct bench *)*state)->sides[1], 0, &large);
	post = route_grant(&route, 0, false);
	side_allow(route.prefill, 0);
	route_post(&route, &post);
	subject->ops->cancel(route.prefill->transport, post.id);
	assert_int_equal(proof_of(&route, 0), KVF_PROOF_NONE); /* it is not even revoked */
	side_allow(route.prefill, UINT64_MAX);
	(void)await(route.bench, route.prefill, KVFI_DONE_TX, post.id);
	assert_int_equal(
		proof_of(&route, 0), KVF_PROOF_NONE); /* cancelled over there; still a permission here */
	subject->ops->revoke(route.decode->transport, 0);
	assert_true(is_own_proof(until_proven(&route, 0)));
	assert_true(is_own_proof(proof_of(&route, 0))); /* and it stays one */
	route_fini(&route);
}

void a_grant_is_provable_after_its_peer_was_disconnected(void **state)
{
	struct kvfi_tx_post post;
	struct route route;

	route_init(&route, *state, &((struct bench *)*state)->sides[1], 0, &large);
	post = route_grant(&route, 0, false);
	side_allow(route.prefill, 0);
	route_post(&route, &post);
	side_allow(route.prefill, 1);
	subject->ops->disconnect(route.decode->transport, 0);
	assert_int_equal(proof_of(&route, 0), KVF_PROOF_NONE); /* a closed connection proves nothing */
	subject->ops->revoke(route.decode->transport, 0);
	side_allow(route.prefill, UINT64_MAX);
	assert_true(is_own_proof(until_proven(&route, 0)));
	route_blank(&route);
	(void)await(route.bench, route.prefill, KVFI_DONE_TX, post.id);
	assert_true(route_is_blank(&route));
	(void)await(route.bench, route.prefill, KVFI_DONE_BROKEN, ANY_ID);
	link_up(route.bench, route.decode, 0, 4711); /* the old grant is still there, and still proven */
	assert_true(is_own_proof(proof_of(&route, 0)));
	route_fini(&route);
}

void a_fence_leaves_other_writers_alone(void **state)
{
	struct bench *bench = *state;
	struct kvfi_tx_post posts[2];
	struct route routes[2];
	enum kvf_status status;

	for (uint32_t i = 0; i < 2; i++) {
		route_init(&routes[i], bench, &bench->sides[1 + i], i, &large);
		posts[i] = route_grant(&routes[i], i, false);
	}
	side_allow(routes[0].prefill, 0);
	for (uint32_t i = 0; i < 2; i++)
		route_post(&routes[i], &posts[i]);
	subject->ops->revoke(routes[0].decode->transport, 0);
	status = subject->ops->fence(routes[0].decode->transport, 0);
	assert_true(status == KVF_OK || status == KVF_EUNSUPPORTED);
	side_allow(routes[0].prefill, UINT64_MAX);
	assert_int_not_equal(until_proven(&routes[0], 0), KVF_PROOF_NONE);
	route_blank(&routes[0]);
	(void)await(bench, routes[0].prefill, KVFI_DONE_TX, posts[0].id);
	assert_int_equal(await(bench, routes[1].prefill, KVFI_DONE_TX, posts[1].id).status, KVF_OK);
	if (subject->ops->receiver_applied)
		assert_int_equal(await(bench, routes[1].decode, KVFI_DONE_RX, 1).status, KVF_OK);
	route_check(&routes[1]);
	assert_true(route_is_blank(&routes[0]));
	for (uint32_t i = 0; i < 2; i++)
		route_fini(&routes[i]);
}
