/* control_channel.c - one suite for every control channel: in process, ZeroMQ over ipc, ZeroMQ over tcp. */
#include "control_sides.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include "wire_random.h"

static void request_and_answer(void **state)
{
	const struct channel *channel = channel_of(state);
	char endpoint[128];
	struct side prefill, decode;
	uint32_t way, back;

	side_open(&prefill, channel, fresh_endpoint(channel, endpoint));
	side_open(&decode, channel, NULL);
	way = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	assert_true(side_ping(&decode, way, 1));
	back = side_expect_ping(&prefill, 1);
	assert_true(side_ping(&prefill, back, 2));
	assert_int_equal(side_expect_ping(&decode, 2), way);
	assert_true(side_ping(&decode, way, 3));
	assert_int_equal(side_expect_ping(&prefill, 3), back);
	side_close(&decode);
	side_close(&prefill);
}

static void every_message_type_arrives_whole(void **state)
{
	const struct channel *channel = channel_of(state);
	char endpoint[128];
	struct side prefill, decode;
	uint32_t way;

	side_open(&prefill, channel, fresh_endpoint(channel, endpoint));
	side_open(&decode, channel, NULL);
	way = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	for (int type = KVFI_MSG_HELLO; type <= KVFI_MSG_LAST; type++) {
		struct random_message *random = random_message_new(77, (enum kvfi_msg_type)type);
		struct kvfi_received received;

		assert_true(decode.ops->send(decode.control, way, &random->msg));
		assert_int_equal(side_recv(&prefill, &received), KVFI_CONTROL_MESSAGE);
		assert_messages_equal(&random->msg, &received.msg);
		kvfi_msg_fini(&received.msg);
		random_message_free(random);
	}
	side_close(&decode);
	side_close(&prefill);
}

/* A port that stays ours until the channel listens on it: bound, not listening, both with SO_REUSEADDR. */
static int reserve_port(char *endpoint)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	const int one = 1;
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
	(void)snprintf(endpoint, 128, "tcp://127.0.0.1:%u", ntohs(address.sin_port));
	return fd;
}

static void connect_before_the_listener_is_there(void **state)
{
	const struct channel *channel = channel_of(state);
	char endpoint[128];
	struct side prefill, decode;
	uint32_t way, back;
	int reserved = -1;

	if (strcmp(channel->scheme, "tcp") == 0)
		reserved = reserve_port(endpoint);
	else
		(void)fresh_endpoint(channel, endpoint);
	side_open(&decode, channel, NULL);
	way = side_connect(&decode, endpoint);
	(void)side_ping(&decode, way, 0);
	side_open(&prefill, channel, endpoint);
	back = side_ping_until(&decode, way, &prefill);
	assert_true(side_ping(&prefill, back, 5));
	assert_int_equal(side_expect_ping(&decode, 5), way);
	side_close(&decode);
	side_close(&prefill);
	if (reserved >= 0)
		close(reserved);
}

static void ways_are_per_connect_and_reused_after_forget(void **state)
{
	const struct channel *channel = channel_of(state);
	char endpoint[128];
	struct side prefill, decode;
	uint32_t first, second, back_first, back_second;

	side_open(&prefill, channel, fresh_endpoint(channel, endpoint));
	side_open(&decode, channel, NULL);
	first = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	second = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	assert_int_not_equal(first, second);
	assert_true(side_ping(&decode, first, 1));
	back_first = side_expect_ping(&prefill, 1);
	assert_true(side_ping(&decode, second, 2));
	back_second = side_expect_ping(&prefill, 2);
	assert_int_not_equal(back_first, back_second);
	assert_true(side_ping(&prefill, back_second, 3));
	assert_int_equal(side_expect_ping(&decode, 3), second);

	decode.ops->forget(decode.control, first);
	assert_false(side_ping(&decode, first, 4));
	(void)side_ping(&prefill, back_first, 5); /* to nobody */
	prefill.ops->forget(prefill.control, back_first);
	assert_int_equal(side_connect(&decode, prefill.ops->endpoint(prefill.control)), first);
	assert_true(side_ping(&decode, first, 6));
	assert_int_equal(side_expect_ping(&prefill, 6), back_first);
	assert_true(side_ping(&prefill, back_first, 7));
	assert_int_equal(side_expect_ping(&decode, 7), first);
	side_close(&decode);
	side_close(&prefill);
}

static void a_way_forgotten_by_the_listener_comes_back_with_the_next_message(void **state)
{
	const struct channel *channel = channel_of(state);
	char endpoint[128];
	struct side prefill, decode;
	uint32_t way, back;

	side_open(&prefill, channel, fresh_endpoint(channel, endpoint));
	side_open(&decode, channel, NULL);
	way = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	assert_true(side_ping(&decode, way, 1));
	back = side_expect_ping(&prefill, 1);
	prefill.ops->forget(prefill.control, back);
	assert_false(side_ping(&prefill, back, 2));
	assert_true(side_ping(&decode, way, 3));
	back = side_expect_ping(&prefill, 3);
	assert_true(side_ping(&prefill, back, 4));
	assert_int_equal(side_expect_ping(&decode, 4), way);
	side_close(&decode);
	side_close(&prefill);
}

static void full_way_tables_are_an_error_and_are_told_once(void **state)
{
	const struct channel *channel = channel_of(state);
	char endpoint[128];
	struct side prefill, decode;
	struct kvfi_received received;
	uint32_t ways[3], way, back;

	assert_int_equal(side_try_open(&prefill, channel, fresh_endpoint(channel, endpoint), 2), KVF_OK);
	assert_int_equal(side_try_open(&decode, channel, NULL, 3), KVF_OK);
	for (uint32_t i = 0; i < 3; i++)
		ways[i] = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	assert_int_equal(
		decode.ops->connect(decode.control, prefill.ops->endpoint(prefill.control), &way), KVF_EFULL);
	assert_non_null(strstr(kvf_error(), "3 ways"));

	assert_true(side_ping(&decode, ways[0], 0));
	back = side_expect_ping(&prefill, 0);
	assert_true(side_ping(&decode, ways[1], 1));
	(void)side_expect_ping(&prefill, 1);
	assert_true(side_ping(&decode, ways[2], 2));
	assert_int_equal(side_recv(&prefill, &received), KVFI_CONTROL_GARBAGE);
	assert_int_equal(received.way, KVFI_NO_WAY);
	assert_int_equal(received.status, KVF_EFULL);
	assert_true(side_ping(&decode, ways[2], 3)); /* dropped in silence */
	assert_true(side_ping(&prefill, back, 4));
	assert_int_equal(side_expect_ping(&decode, 4), ways[0]);
	prefill.ops->forget(prefill.control, back);
	do
		(void)side_sleep(&prefill, 20);
	while (prefill.ops->recv(prefill.control, &received) == KVFI_CONTROL_NONE &&
		side_ping(&decode, ways[2], 5));
	assert_int_equal(received.way, back);
	kvfi_msg_fini(&received.msg);
	side_close(&decode);
	side_close(&prefill);
}

static void a_taken_endpoint_is_refused_and_free_again_after_close(void **state)
{
	const struct channel *channel = channel_of(state);
	char endpoint[128], real[128];
	struct side first, second, decode;
	uint32_t way;

	side_open(&first, channel, fresh_endpoint(channel, endpoint));
	(void)snprintf(real, sizeof(real), "%s", first.ops->endpoint(first.control));
	assert_int_equal(side_try_open(&second, channel, real, 4), KVF_EADDRINUSE);
	assert_non_null(strstr(kvf_error(), real + 6));
	side_open(&decode, channel, NULL); /* and the first still has it */
	way = side_connect(&decode, real);
	assert_true(side_ping(&decode, way, 1));
	(void)side_expect_ping(&first, 1);
	side_close(&decode);
	side_close(&first);
	side_open(&second, channel, real);
	assert_string_equal(second.ops->endpoint(second.control), real);
	side_close(&second);
}

static void malformed_endpoints_are_refused(void **state)
{
	static const char *const bad[] = {
		"", "x", "inproc://", "ipc://", "tcp://", "udp://127.0.0.1:1", "127.0.0.1:1"};
	const struct channel *channel = channel_of(state);
	struct side side, other;
	uint32_t way = 4711;

	side_open(&side, channel, NULL);
	assert_string_equal(side.ops->endpoint(side.control), "");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(side_try_open(&other, channel, bad[i], 4), KVF_EINVAL);
		assert_int_equal(side.ops->connect(side.control, bad[i], &way), KVF_EINVAL);
	}
	assert_int_equal(way, 4711);
	side_close(&side);
}

static void a_request_with_100000_scattered_ids_arrives_whole(void **state)
{
	const struct channel *channel = channel_of(state);
	const uint32_t n = 100000;
	struct kvfi_id_run *runs = calloc(n, sizeof(*runs));
	struct kvfi_msg msg = {.header = {.type = KVFI_MSG_REQUEST, .from = 1, .link = 1}};
	char endpoint[128];
	struct side prefill, decode;
	struct kvfi_received received;
	uint32_t way;

	assert_non_null(runs);
	for (uint32_t i = 0; i < n; i++)
		runs[i] = (struct kvfi_id_run){.start = (int32_t)(2 * i), .count = 1};
	msg.u.request.prompt_len = n * 16u;
	msg.u.request.n_groups = 1;
	msg.u.request.groups[0] =
		(struct kvfi_request_group){.n_ids = n, .tokens_per_block = 16, .n_runs = n, .runs = runs};
	side_open(&prefill, channel, fresh_endpoint(channel, endpoint));
	side_open(&decode, channel, NULL);
	way = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	for (int i = 0; i < 4; i++)
		assert_true(decode.ops->send(decode.control, way, &msg));
	memset(runs, 0xee, n * sizeof(*runs)); /* the channel has its own copy */
	for (uint32_t i = 0; i < n; i++)
		runs[i] = (struct kvfi_id_run){.start = (int32_t)(2 * i), .count = 1};
	for (int i = 0; i < 4; i++) {
		assert_int_equal(side_recv(&prefill, &received), KVFI_CONTROL_MESSAGE);
		assert_messages_equal(&msg, &received.msg);
		kvfi_msg_fini(&received.msg);
	}
	side_close(&decode);
	side_close(&prefill);
	free(runs);
}

static void many_messages_arrive_in_order(void **state)
{
	const struct channel *channel = channel_of(state);
	const uint64_t n = 20000, window = 200;
	char endpoint[128];
	struct side prefill, decode;
	uint64_t sent = 0;
	uint32_t way, back;

	side_open(&prefill, channel, fresh_endpoint(channel, endpoint));
	side_open(&decode, channel, NULL);
	way = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	for (uint64_t seen = 0; seen < n; seen++) {
		for (; sent < n && sent < seen + window; sent++)
			assert_true(side_ping(&decode, way, sent));
		back = side_expect_ping(&prefill, seen);
		if (seen % 100 == 0) {
			assert_true(side_ping(&prefill, back, seen));
			(void)side_expect_ping(&decode, seen);
		}
	}
	side_close(&decode);
	side_close(&prefill);
}

static void a_full_queue_drops_and_does_not_block(void **state)
{
	const struct channel *channel = channel_of(state);
	unsigned char *aux = calloc(1, KVF_MAX_AUX_BYTES);
	struct kvfi_msg msg = {.header = {.type = KVFI_MSG_RESULT, .from = 1, .link = 1}};
	char endpoint[128];
	struct side prefill, decode;
	struct kvfi_received received;
	uint32_t way, dropped = 0, came = 0;

	assert_non_null(aux);
	msg.u.result.kind = KVFI_RESULT_AUX;
	msg.u.result.aux = aux;
	msg.u.result.aux_bytes = KVF_MAX_AUX_BYTES;
	side_open(&prefill, channel, fresh_endpoint(channel, endpoint));
	side_open(&decode, channel, NULL);
	way = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	for (int i = 0; i < 100000 && dropped == 0; i++)
		dropped += !decode.ops->send(decode.control, way, &msg);
	assert_int_equal(dropped, 1);
	assert_int_equal(side_recv(&prefill, &received), KVFI_CONTROL_MESSAGE);
	do {
		came += received.kind == KVFI_CONTROL_MESSAGE;
		kvfi_msg_fini(&received.msg);
	} while (prefill.ops->recv(prefill.control, &received) == KVFI_CONTROL_MESSAGE);
	assert_true(came > 1);
	side_close(&decode);
	side_close(&prefill);
	free(aux);
}

static void close_with_queued_messages_returns(void **state)
{
	const struct channel *channel = channel_of(state);
	char endpoint[128], nobody[128];
	struct side prefill, decode;
	uint32_t way, lost;

	side_open(&prefill, channel, fresh_endpoint(channel, endpoint));
	side_open(&decode, channel, NULL);
	way = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	(void)fresh_endpoint(channel, nobody);
	lost = side_connect(&decode, strcmp(channel->scheme, "tcp") == 0 ? "tcp://127.0.0.1:1" : nobody);
	for (uint64_t i = 0; i < 500; i++) {
		(void)side_ping(&decode, way, i);
		(void)side_ping(&decode, lost, i);
	}
	side_close(&decode);
	side_close(&prefill);
}

/* No look before the sleep: only the descriptor may tell. */
static void a_sleeper_is_woken(void **state)
{
	const struct channel *channel = channel_of(state);
	char endpoint[128];
	struct side prefill, decode;
	struct kvfi_received received;
	uint32_t way, back;

	side_open(&prefill, channel, fresh_endpoint(channel, endpoint));
	side_open(&decode, channel, NULL);
	way = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	for (uint64_t i = 0; i < 200; i++) {
		assert_true(side_ping(&decode, way, i));
		do
			assert_true(side_sleep(&prefill, WAIT_MS));
		while (prefill.ops->recv(prefill.control, &received) == KVFI_CONTROL_NONE);
		back = received.way;
		assert_int_equal(prefill.ops->recv(prefill.control, &received), KVFI_CONTROL_NONE);
		assert_true(side_ping(&prefill, back, i));
		do
			assert_true(side_sleep(&decode, WAIT_MS));
		while (decode.ops->recv(decode.control, &received) == KVFI_CONTROL_NONE);
		assert_true(received.msg.u.ping.sequence == i);
	}
	side_close(&decode);
	side_close(&prefill);
}

/* A turn that takes one message and sleeps is woken for the rest. */
static void what_was_left_behind_wakes_again(void **state)
{
	const struct channel *channel = channel_of(state);
	const uint64_t n = 50;
	char endpoint[128];
	struct side prefill, decode;
	struct kvfi_received received;
	uint32_t way;

	side_open(&prefill, channel, fresh_endpoint(channel, endpoint));
	side_open(&decode, channel, NULL);
	way = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	for (uint64_t i = 0; i < n; i++)
		assert_true(side_ping(&decode, way, i));
	if (side_fd(&prefill) == prefill.woken) {
		for (uint64_t i = 0; i < n; i++)
			(void)side_expect_ping(&prefill, i);
	}
	for (uint64_t i = 0; i < n && side_fd(&prefill) != prefill.woken;) {
		assert_true(side_sleep(&prefill, WAIT_MS));
		if (prefill.ops->recv(prefill.control, &received) == KVFI_CONTROL_NONE)
			continue;
		assert_true(received.msg.u.ping.sequence == i++);
	}
	while (prefill.ops->recv(prefill.control, &received) != KVFI_CONTROL_NONE)
		fail_msg("more came than was sent");
	side_close(&decode);
	side_close(&prefill);
}

struct talker {
	const struct channel *channel;
	const char *endpoint;
	uint64_t seed;
};

/* Opens, talks and closes in the middle of it, again and again. */
static void *talk(void *argument)
{
	const struct talker *talker = argument;

	for (int round = 0; round < 40; round++) {
		struct kvfi_received received;
		struct side side;
		uint32_t way;

		side_open(&side, talker->channel, NULL);
		way = side_connect(&side, talker->endpoint);
		for (uint64_t i = 0; i < 50; i++) {
			(void)side_ping(&side, way, talker->seed + i);
			if (side.ops->recv(side.control, &received) == KVFI_CONTROL_MESSAGE)
				kvfi_msg_fini(&received.msg);
		}
		side_close(&side);
	}
	return NULL;
}

static void sides_close_while_the_other_still_sends(void **state)
{
	const struct channel *channel = channel_of(state);
	char endpoint[128];
	pthread_t threads[2];
	struct talker talkers[2];
	struct side side;

	side_open(&side, channel, fresh_endpoint(channel, endpoint));
	for (unsigned i = 0; i < 2; i++) {
		talkers[i] = (struct talker){channel, side.ops->endpoint(side.control), i};
		assert_int_equal(pthread_create(&threads[i], NULL, talk, &talkers[i]), 0);
	}
	for (int i = 0; i < 2000; i++) {
		struct kvfi_received received;

		if (side.ops->recv(side.control, &received) != KVFI_CONTROL_MESSAGE)
			continue;
		(void)side_ping(&side, received.way, 1);
		side.ops->forget(side.control, received.way);
		kvfi_msg_fini(&received.msg);
	}
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	side_close(&side);
}

static void *talk_elsewhere(void *argument)
{
	struct side *side = argument;
	uint32_t back;

	side->ops->adopt(side->control);
	back = side_expect_ping(side, 1);
	assert_true(side_ping(side, back, 2));
	return NULL;
}

static void another_thread_may_go_on_after_a_hand_over(void **state)
{
	const struct channel *channel = channel_of(state);
	char endpoint[128];
	struct side prefill, decode;
	pthread_t thread;
	uint32_t way;

	side_open(&prefill, channel, fresh_endpoint(channel, endpoint));
	side_open(&decode, channel, NULL);
	way = side_connect(&decode, prefill.ops->endpoint(prefill.control));
	assert_true(side_ping(&decode, way, 1));
	assert_int_equal(pthread_create(&thread, NULL, talk_elsewhere, &prefill), 0);
	assert_int_equal(side_expect_ping(&decode, 2), way);
	assert_int_equal(pthread_join(thread, NULL), 0);
	prefill.ops->adopt(prefill.control);
	assert_true(side_ping(&decode, way, 3));
	(void)side_expect_ping(&prefill, 3);
	side_close(&decode);
	side_close(&prefill);
}

static const struct channel channels[] = {
	{&kvfi_control_inproc, "inproc"},
#ifdef KVFI_WITH_ZMQ
	{&kvfi_control_zmq, "ipc"},
	{&kvfi_control_zmq, "tcp"},
#else
	{NULL, "ipc"},
	{NULL, "tcp"},
#endif
};

#define OVER(scheme, index, test)                                                                            \
	{                                                                                                    \
		scheme ": " #test, test, NULL, NULL, (void *)(uintptr_t)&channels[index]                     \
	}
#define OVER_ALL(test) OVER("inproc", 0, test), OVER("ipc", 1, test), OVER("tcp", 2, test)

int main(void)
{
	const struct CMUnitTest tests[] = {
		OVER_ALL(request_and_answer),
		OVER_ALL(every_message_type_arrives_whole),
		OVER_ALL(connect_before_the_listener_is_there),
		OVER_ALL(ways_are_per_connect_and_reused_after_forget),
		OVER_ALL(a_way_forgotten_by_the_listener_comes_back_with_the_next_message),
		OVER_ALL(full_way_tables_are_an_error_and_are_told_once),
		OVER_ALL(a_taken_endpoint_is_refused_and_free_again_after_close),
		OVER_ALL(malformed_endpoints_are_refused),
		OVER_ALL(a_request_with_100000_scattered_ids_arrives_whole),
		OVER_ALL(many_messages_arrive_in_order),
		OVER_ALL(a_full_queue_drops_and_does_not_block),
		OVER_ALL(close_with_queued_messages_returns),
		OVER_ALL(a_sleeper_is_woken),
		OVER_ALL(what_was_left_behind_wakes_again),
		OVER_ALL(sides_close_while_the_other_still_sends),
		OVER_ALL(another_thread_may_go_on_after_a_hand_over),
	};

	return cmocka_run_group_tests(tests, make_test_folder, remove_test_folder);
}
