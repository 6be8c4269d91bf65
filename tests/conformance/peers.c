/* peers.c - connecting, refusing, losing and leaving peers. */
#include "route.h"
#include "tests.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/hash.h"

static const struct route_options small = {.layers = 2,
	.heads = 4,
	.row_bytes = 256,
	.prompt_len = 100,
	.src = {1, 0, KVF_LAYER_HND, 16},
	.dst = {1, 0, KVF_BLOCK_MAJOR, 16},
	.id_step = 2};
static const struct route_options large = {.layers = 4,
	.heads = 8,
	.row_bytes = 512,
	.prompt_len = 1536,
	.src = {2, 0, KVF_LAYER_NHD, 16},
	.dst = {1, 0, KVF_LAYER_HND, 16},
	.id_step = 2};

void frames_go_both_ways(void **state)
{
	struct bench *bench = *state;
	unsigned char sent[KVFI_HOT_FRAME_MAX], got[KVFI_HOT_FRAME_MAX];
	struct side *ends[2] = {&bench->sides[0], &bench->sides[1]};

	skip_unless(subject->ops->send_frame != NULL, "it has no socket for frames");
	for (size_t i = 0; i < sizeof(sent); i++)
		sent[i] = (unsigned char)kvfi_mix64(i);
	assert_false(subject->ops->send_frame(ends[0]->transport, 3, sent, 10)); /* nobody is there */
	link_up(bench, ends[1], 3, 1);
	for (uint32_t i = 0; i < 200; i++) {
		struct side *from = ends[i % 2], *to = ends[1 - i % 2];
		uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S;
		size_t len = i < 4 ? sizeof(sent) : 1 + i * 17;
		struct kvfi_done done;

		assert_true(subject->ops->send_frame(from->transport, 3, sent, len));
		while (!take(to, KVFI_DONE_FRAME, ANY_ID, &done, got)) {
			assert_true(kvfi_clock_ns() < deadline_ns);
			bench_turn(bench, 100);
		}
		assert_int_equal(done.peer, 3);
		assert_int_equal(done.frame_bytes, len);
		assert_memory_equal(got, sent, len);
	}
}

/* Far more than a socket holds, while the other side does not look. */
void frames_that_find_the_socket_full_come_in_order(void **state)
{
	struct bench *bench = *state;
	struct side *from = &bench->sides[0], *to = &bench->sides[1];
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S;
	unsigned char sent[500] = {0}, got[KVFI_HOT_FRAME_MAX];
	uint32_t n = 0, taken = 0;

	skip_unless(subject->ops->send_frame != NULL, "it has no socket for frames");
	link_up(bench, to, 3, 1);
	while (n < 100000) {
		memcpy(sent, &n, sizeof(n));
		if (!subject->ops->send_frame(from->transport, 3, sent, sizeof(sent)))
			break;
		n++;
	}
	assert_in_range(n, 500, 99999); /* and there is a limit */
	while (taken < n) {
		struct kvfi_done done;

		if (!take(to, KVFI_DONE_FRAME, ANY_ID, &done, got)) {
			assert_true(kvfi_clock_ns() < deadline_ns);
			bench_turn(bench, 100);
			continue;
		}
		memcpy(sent, &taken, sizeof(taken));
		assert_int_equal(done.frame_bytes, sizeof(sent));
		assert_memory_equal(got, sent, sizeof(sent));
		taken++;
	}
	assert_true(subject->ops->send_frame(from->transport, 3, sent, sizeof(sent)));
}

/* Connects with these numbers where `expected` is expected, and must be refused. */
static void must_be_refused(struct bench *bench, uint64_t incarnation, uint64_t number)
{
	struct side *prefill = &bench->sides[0], *decode = &bench->sides[1];
	unsigned char address[KVFI_ADDRESS_MAX_BYTES];
	size_t len = subject->ops->address(prefill->transport, address);
	struct kvfi_done done;

	assert_int_equal(
		subject->ops->connect(decode->transport, 0, incarnation, number, address, len), KVF_OK);
	done = await(bench, decode, KVFI_DONE_BROKEN, ANY_ID);
	assert_int_equal(done.peer, 0);
	assert_int_equal(done.status, KVF_REFUSED);
	assert_true(done.reason[0] != 0);
	assert_int_equal(count(prefill, KVFI_DONE_UP), 0);
	assert_int_equal(count(decode, KVFI_DONE_UP), 0);
	link_up(bench, decode, 0, 6); /* and the right one comes in */
	settle(bench, decode, 0);
	assert_int_equal(count(decode, KVFI_DONE_BROKEN), 0);
	assert_int_equal(count(prefill, KVFI_DONE_BROKEN), 0);
}

void a_connection_to_another_incarnation_is_refused(void **state)
{
	struct bench *bench = *state;

	assert_int_equal(
		subject->ops->expect(bench->sides[0].transport, 0, bench->sides[1].env.incarnation, 5),
		KVF_OK);
	must_be_refused(bench, bench->sides[0].env.incarnation + 77, 5);
}

void a_connection_on_another_link_is_refused(void **state)
{
	struct bench *bench = *state;

	assert_int_equal(
		subject->ops->expect(bench->sides[0].transport, 0, bench->sides[1].env.incarnation, 5),
		KVF_OK);
	must_be_refused(bench, bench->sides[0].env.incarnation, 4);
}

void a_peer_that_nobody_expects_is_refused(void **state)
{
	struct bench *bench = *state;

	must_be_refused(bench, bench->sides[0].env.incarnation, 5);
}

void addresses_that_are_damaged_are_refused(void **state)
{
	struct bench *bench = *state;
	unsigned char address[KVFI_ADDRESS_MAX_BYTES + 1] = {0};
	struct side *decode = &bench->sides[1];
	size_t len = subject->ops->address(bench->sides[0].transport, address);

	assert_true(len > 0 && len <= KVFI_ADDRESS_MAX_BYTES);
	assert_int_equal(subject->ops->reachable(decode->transport, address, len), KVF_OK);
	for (size_t cut = 0; cut < len; cut++) {
		assert_int_not_equal(subject->ops->reachable(decode->transport, address, cut), KVF_OK);
		assert_int_not_equal(subject->ops->connect(decode->transport, 0, 1, 1, address, cut), KVF_OK);
	}
	address[0] ^= 0xff;
	assert_int_not_equal(subject->ops->reachable(decode->transport, address, len), KVF_OK);
	assert_true(kvf_error()[0] != 0);
	memset(address, 0xff, sizeof(address));
	assert_int_not_equal(subject->ops->reachable(decode->transport, address, len), KVF_OK);
}

/* Until the other side has hung up. */
static void until_closed(struct bench *bench, int fd)
{
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S;
	unsigned char ignored[8192];

	for (;;) {
		ssize_t n = recv(fd, ignored, sizeof(ignored), MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return;
		assert_true(kvfi_clock_ns() < deadline_ns);
		bench_turn(bench, 10);
	}
}

void garbage_from_a_stranger_disturbs_nobody(void **state)
{
	struct bench *bench = *state;
	unsigned char address[KVFI_ADDRESS_MAX_BYTES], garbage[4096];
	size_t len = subject->ops->address(bench->sides[0].transport, address);
	struct route route;
	struct kvfi_tx_post post;

	skip_unless(subject->dial != NULL, "there is nothing to connect to");
	route_init(&route, bench, &bench->sides[1], 0, &small);
	for (uint32_t round = 0; round < 50; round++) {
		size_t n = 1 + kvfi_mix64(round) % sizeof(garbage);
		int fd = subject->dial(address, len);

		assert_true(fd >= 0);
		for (size_t i = 0; i < n; i++)
			garbage[i] = (unsigned char)kvfi_mix64(round * 100000 + i);
		if (round != 0)
			(void)!send(fd, garbage, n, MSG_NOSIGNAL);
		if (round == 0 || round % 7 == 0)
			(void)shutdown(fd, SHUT_WR); /* says nothing (more) and leaves */
		if (round == 0 || n >= 64)
			until_closed(bench, fd);
		(void)close(fd);
		bench_turn(bench, 0);
	}
	assert_int_equal(count(&bench->sides[0], KVFI_DONE_BROKEN), 0);
	post = route_grant(&route, 0, false);
	route_post(&route, &post);
	assert_int_equal(await(bench, &bench->sides[0], KVFI_DONE_TX, post.id).status, KVF_OK);
	if (subject->ops->receiver_applied)
		assert_int_equal(await(bench, &bench->sides[1], KVFI_DONE_RX, 0).status, KVF_OK);
	route_check(&route);
	route_fini(&route);
}

void a_layout_that_leaves_its_region_is_refused(void **state)
{
	struct bench *bench = *state;
	struct route route;
	uint32_t tiny;

	skip_unless(!subject->ops->receiver_applied, "the receiver computes its own addresses");
	tiny = side_region(&bench->sides[1], 4096);
	route_init(&route, bench, &bench->sides[1], 0, &small);
	for (uint32_t i = 0; i < 4; i++) {
		/* One byte past the end; a region that is too small; one that was never shared; the very last index. */
		const uint64_t deltas[] = {4096 - (route.dst_bytes - 1) % 4096,
			(uint64_t)(tiny - route.dst_region) << KVFI_REGION_SHIFT,
			UINT64_C(5) << KVFI_REGION_SHIFT, UINT64_C(0xfffe) << KVFI_REGION_SHIFT};
		struct kvf_layout *layout = kvfi_layout_copy(route.dst_wire), *before;

		assert_non_null(layout);
		kvf_layout_move(layout, deltas[i]);
		before = kvfi_layout_copy(layout);
		assert_non_null(before);
		assert_int_equal(
			subject->ops->map_layout(route.prefill->transport, 0, layout), KVF_OUT_OF_RANGE);
		assert_memory_equal(layout->groups[0].bases, before->groups[0].bases, 4 * sizeof(uint64_t));
		kvf_layout_free(layout);
		kvf_layout_free(before);
	}
	route_fini(&route);
}

void memory_that_was_withdrawn_is_not_stored_into(void **state)
{
	struct bench *bench = *state;
	struct kvfi_tx_post post;
	struct kvfi_done done;
	struct route route;

	skip_unless(!subject->ops->receiver_applied, "the receiver computes its own addresses");
	for (uint32_t i = 0; i < 2; i++) {
		route_init(&route, bench, &bench->sides[1], i, i == 0 ? &small : &large);
		post = route_grant(&route, i, false);
		subject->ops->region_removed(route.decode->transport, route.dst_region);
		settle(bench, route.decode, route.slot);
		route_post(&route, &post);
		done = await(bench, route.prefill, KVFI_DONE_TX, post.id);
		assert_int_equal(done.status, KVF_OUT_OF_RANGE);
		assert_int_equal(done.bytes, 0);
		assert_true(done.reason[0] != 0);
		assert_true(route_is_blank(&route));
		route_fini(&route);
	}
}

void the_sender_learns_that_its_peer_has_closed(void **state)
{
	struct bench *bench = *state;
	struct route route;
	struct kvfi_tx_post post;
	struct kvfi_done done;

	route_init(&route, bench, &bench->sides[1], 0, &large);
	post = route_grant(&route, 0, false);
	side_allow(route.prefill, 1);
	route_post(&route, &post);
	side_close(route.decode);
	done = await(bench, route.prefill, KVFI_DONE_BROKEN, ANY_ID);
	assert_int_equal(done.peer, 0);
	assert_int_equal(done.status, KVF_PEER_LOST);
	side_allow(route.prefill, UINT64_MAX);
	done = await(bench, route.prefill, KVFI_DONE_TX, post.id);
	assert_true(done.status != KVF_OK || done.bytes == route.bound.bytes);
	assert_int_equal(subject->ops->post(route.prefill->transport, &post), KVF_PEER_LOST);
	subject->ops->disconnect(route.prefill->transport, 0);
	assert_int_equal(count(route.prefill, KVFI_DONE_TX), 0);
	assert_int_equal(count(route.prefill, KVFI_DONE_BROKEN), 0);
	route_fini(&route);
}

void the_receiver_learns_that_its_peer_has_closed(void **state)
{
	struct bench *bench = *state;
	struct route route;
	struct kvfi_tx_post post;
	struct kvfi_done done;

	route_init(&route, bench, &bench->sides[1], 0, &large);
	post = route_grant(&route, 0, false);
	side_allow(route.prefill, 1);
	route_post(&route, &post);
	side_close(route.prefill);
	assert_true(take(route.prefill, KVFI_DONE_TX, post.id, &done, NULL)); /* completed by close */
	assert_true(done.status != KVF_OK || done.bytes == route.bound.bytes);
	done = await(bench, route.decode, KVFI_DONE_BROKEN, ANY_ID);
	assert_int_equal(done.peer, 0);
	assert_int_equal(done.status, KVF_PEER_LOST);
	/* The grant goes on until it is given back, which route_fini() does: revoke and quiet work without the peer. */
	assert_true(route.granted[0]);
	route_fini(&route);
	assert_false(route.granted[0]);
}

void disconnect_ends_the_posts_of_that_peer_alone(void **state)
{
	struct bench *bench = *state;
	struct route routes[2];
	struct kvfi_tx_post posts[2];
	struct kvfi_done done;

	for (uint32_t i = 0; i < 2; i++) {
		route_init(&routes[i], bench, &bench->sides[1 + i], i, &large);
		posts[i] = route_grant(&routes[i], i, false);
	}
	side_allow(&bench->sides[0], 1);
	for (uint32_t i = 0; i < 2; i++)
		route_post(&routes[i], &posts[i]);
	subject->ops->disconnect(bench->sides[0].transport, 0);
	side_allow(&bench->sides[0], UINT64_MAX);
	done = await(bench, &bench->sides[0], KVFI_DONE_TX, posts[0].id);
	assert_true(done.status == KVF_PEER_LOST || done.bytes == routes[0].bound.bytes);
	assert_int_equal(await(bench, &bench->sides[0], KVFI_DONE_TX, posts[1].id).status, KVF_OK);
	if (subject->ops->receiver_applied)
		assert_int_equal(await(bench, &bench->sides[2], KVFI_DONE_RX, 1).status, KVF_OK);
	route_check(&routes[1]);
	done = await(bench, &bench->sides[1], KVFI_DONE_BROKEN, ANY_ID);
	assert_int_equal(done.status, KVF_PEER_LOST);
	settle(bench, &bench->sides[2], 1);
	assert_int_equal(count(&bench->sides[0], KVFI_DONE_BROKEN), 0); /* we know: it was us */
	assert_int_equal(count(&bench->sides[0], KVFI_DONE_TX), 0);
	for (uint32_t i = 0; i < 2; i++)
		route_fini(&routes[i]);
}

void close_completes_what_is_open(void **state)
{
	struct bench *bench = *state;
	struct route route;
	struct kvfi_tx_post post;
	struct kvfi_done done;

	route_init(&route, bench, &bench->sides[1], 0, &large);
	post = route_grant(&route, 0, false);
	side_allow(route.prefill, 0);
	for (uint32_t i = 0; i < 5; i++) {
		post.id = 700 + i;
		post.slice = i;
		route_post(&route, &post);
	}
	side_close(route.prefill);
	for (uint32_t i = 0; i < 5; i++)
		assert_true(take(route.prefill, KVFI_DONE_TX, 700 + i, &done, NULL));
	assert_int_equal(count(route.prefill, KVFI_DONE_TX), 0);
	if (!subject->ops->receiver_applied) /* else the receiver still stores what it had got */
		route_blank(&route);
	(void)await(bench, route.decode, KVFI_DONE_BROKEN, ANY_ID);
	if (!subject->ops->receiver_applied)
		assert_true(route_is_blank(&route));
	route_fini(&route);
}

void a_peer_connects_again_under_a_new_link(void **state)
{
	struct bench *bench = *state;

	for (uint64_t number = 1; number <= 20; number++) {
		link_up(bench, &bench->sides[1], 2, number);
		settle(bench, &bench->sides[1], 2);
		if (number % 2 == 0) {
			subject->ops->disconnect(bench->sides[1].transport, 2);
			(void)await(bench, &bench->sides[0], KVFI_DONE_BROKEN, ANY_ID);
		} else {
			subject->ops->disconnect(bench->sides[0].transport, 2);
			(void)await(bench, &bench->sides[1], KVFI_DONE_BROKEN, ANY_ID);
		}
	}
}

/* The child holds every descriptor until the end of the test. */
void t_p49_a_forked_child_keeps_no_connection_alive(void **state)
{
	struct bench *bench = *state;
	struct side *prefill = &bench->sides[0], *decode = &bench->sides[1];
	int hold[2], ignored;
	pid_t pid;

	assert_int_equal(pipe(hold), 0);
	link_up(bench, decode, 2, 1);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)close(hold[1]);
		(void)!read(hold[0], &ignored, 1);
		_exit(0);
	}
	for (uint64_t number = 2; number < 6; number++) {
		subject->ops->disconnect(number % 2 == 0 ? prefill->transport : decode->transport, 2);
		(void)await(bench, number % 2 == 0 ? decode : prefill, KVFI_DONE_BROKEN, ANY_ID);
		link_up(bench, decode, 2, number);
		settle(bench, decode, 2);
	}
	assert_int_equal(count(prefill, KVFI_DONE_BROKEN), 0);
	assert_int_equal(count(decode, KVFI_DONE_BROKEN), 0);
	(void)close(hold[0]);
	(void)close(hold[1]);
	assert_int_equal(waitpid(pid, &ignored, 0), pid);
}
