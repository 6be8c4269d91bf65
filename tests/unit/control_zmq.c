/* control_zmq.c - what is ZeroMQ's own: foreign bytes, foreign frames, one thread, loopback, blocking. */
#include "control_sides.h"

#ifdef KVFI_WITH_ZMQ

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <zmq.h>
#include "base/hash.h"
#include "wire/codec.h"

static const struct channel ipc = {&kvfi_control_zmq, "ipc"};
static const struct channel tcp = {&kvfi_control_zmq, "tcp"};

/* A stream socket, without any ZeroMQ, connected to an endpoint. */
static int connect_plainly(const char *endpoint)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	const char *colon = strrchr(endpoint, ':');
	int fd;

	if (strncmp(endpoint, "ipc://", 6) == 0) {
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		(void)snprintf(un.sun_path, sizeof(un.sun_path), "%.100s", endpoint + 6);
		assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
		return fd;
	}
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	in.sin_port = htons((uint16_t)atoi(colon + 1));
	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

/* A newcomer can talk to it; garbage that others left in between does not matter. */
static void still_works(struct side *prefill)
{
	struct kvfi_received received;
	static uint64_t sequence = 1000;
	struct side decode;
	uint32_t way, back;

	side_open(&decode, &ipc, NULL);
	way = side_connect(&decode, prefill->ops->endpoint(prefill->control));
	assert_true(side_ping(&decode, way, ++sequence));
	while (side_recv(prefill, &received) == KVFI_CONTROL_GARBAGE)
		;
	assert_true(received.msg.u.ping.sequence == sequence);
	back = received.way;
	assert_true(side_ping(prefill, back, ++sequence));
	assert_int_equal(side_expect_ping(&decode, sequence), way);
	side_close(&decode);
	prefill->ops->forget(prefill->control, back);
}

/* Bytes that are no ZMTP: libzmq hangs up, or takes them for a peer of its first version with nonsense to say. */
static void garbage_on_a_raw_socket_is_survived(void **state)
{
	const struct channel *channels[] = {&ipc, &tcp};

	(void)state;
	for (size_t c = 0; c < 2; c++) {
		struct side prefill;
		char endpoint[128];

		side_open(&prefill, channels[c], fresh_endpoint(channels[c], endpoint));
		for (uint64_t seed = 0; seed < 30; seed++) {
			const int fd = connect_plainly(prefill.ops->endpoint(prefill.control));
			unsigned char bytes[300];

			for (size_t i = 0; i < sizeof(bytes); i++)
				bytes[i] = (unsigned char)kvfi_mix64(seed * 1000 + i);
			if (seed % 3 == 0) /* starts like a ZMTP 3 greeting */
				memcpy(bytes,
					"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
					32);
			(void)send(fd, bytes, seed % 2 ? sizeof(bytes) : 7, MSG_NOSIGNAL);
			close(fd);
		}
		still_works(&prefill);
		side_close(&prefill);
	}
}

/* A DEALER of our own that sends what it likes. */
struct stranger {
	void *context, *socket;
};

static void stranger_open(struct stranger *stranger, const char *endpoint)
{
	const int zero = 0;

	stranger->context = zmq_ctx_new();
	stranger->socket = zmq_socket(stranger->context, ZMQ_DEALER);
	assert_non_null(stranger->socket);
	assert_int_equal(zmq_setsockopt(stranger->socket, ZMQ_LINGER, &zero, sizeof(zero)), 0);
	assert_int_equal(zmq_connect(stranger->socket, endpoint), 0);
}

static void stranger_close(struct stranger *stranger)
{
	assert_int_equal(zmq_close(stranger->socket), 0);
	assert_int_equal(zmq_ctx_term(stranger->context), 0);
}

static size_t encoded_ping(unsigned char *bytes, uint64_t sequence)
{
	struct kvfi_msg msg = {.header = {.type = KVFI_MSG_PING, .from = 7, .link = 7}};
	size_t len;

	msg.u.ping.sequence = sequence;
	assert_int_equal(kvfi_msg_encode(&msg, bytes, 128, &len), KVF_OK);
	return len;
}

static void garbage_frames_are_told_once_per_sender(void **state)
{
	struct kvfi_received received;
	struct stranger stranger;
	unsigned char ping[128];
	const size_t len = encoded_ping(ping, 5);
	char endpoint[128];
	struct side prefill;
	uint32_t way;

	(void)state;
	side_open(&prefill, &ipc, fresh_endpoint(&ipc, endpoint));
	stranger_open(&stranger, endpoint);
	assert_int_equal(zmq_send(stranger.socket, "hello", 5, 0), 5);
	assert_int_equal(side_recv(&prefill, &received), KVFI_CONTROL_GARBAGE);
	assert_int_equal(received.way, KVFI_NO_WAY);
	assert_int_equal(received.status, KVF_PROTOCOL);
	assert_non_null(strstr(received.reason, "magic"));
	for (int i = 0; i < 600; i++) /* more than one call drops: it has to come back for the rest */
		assert_int_equal(zmq_send(stranger.socket, "", 0, 0), 0);
	assert_int_equal(zmq_send(stranger.socket, ping, len, 0), (int)len);
	way = side_expect_ping(&prefill, 5); /* and in between nothing was told */

	assert_int_equal(zmq_send(stranger.socket, ping, len - 1, 0), (int)len - 1);
	assert_int_equal(side_recv(&prefill, &received), KVFI_CONTROL_GARBAGE);
	assert_int_equal(received.way, way);
	assert_non_null(strstr(received.reason, "length"));
	assert_int_equal(zmq_send(stranger.socket, ping, len, ZMQ_SNDMORE), (int)len);
	assert_int_equal(zmq_send(stranger.socket, ping, len, ZMQ_SNDMORE), (int)len);
	assert_int_equal(zmq_send(stranger.socket, ping, len, 0), (int)len);
	assert_int_equal(zmq_send(stranger.socket, ping, len, 0), (int)len);
	assert_int_equal(side_expect_ping(&prefill, 5), way);
	stranger_close(&stranger);
	still_works(&prefill);
	side_close(&prefill);
}

static void a_peer_of_another_version_is_told_as_such(void **state)
{
	struct kvfi_received received;
	struct stranger stranger;
	unsigned char ping[128];
	const size_t len = encoded_ping(ping, 5);
	char endpoint[128];
	struct side prefill;

	(void)state;
	side_open(&prefill, &tcp, fresh_endpoint(&tcp, endpoint));
	stranger_open(&stranger, prefill.ops->endpoint(prefill.control));
	ping[4] = 2;
	assert_int_equal(zmq_send(stranger.socket, ping, len, 0), (int)len);
	assert_int_equal(side_recv(&prefill, &received), KVFI_CONTROL_GARBAGE);
	assert_int_equal(received.status, KVF_PEER_VERSION);
	assert_non_null(strstr(received.reason, "the peer speaks 2, we speak 1"));
	stranger_close(&stranger);
	side_close(&prefill);
}

static void garbage_from_the_listener_is_told_too(void **state)
{
	struct kvfi_received received;
	char endpoint[128], id[256];
	struct side decode;
	const int zero = 0;
	void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
	uint32_t way;
	int id_bytes;

	(void)state;
	(void)fresh_endpoint(&ipc, endpoint);
	assert_int_equal(zmq_setsockopt(router, ZMQ_LINGER, &zero, sizeof(zero)), 0);
	assert_int_equal(zmq_bind(router, endpoint), 0);
	side_open(&decode, &ipc, NULL);
	way = side_connect(&decode, endpoint);
	assert_true(side_ping(&decode, way, 1));
	id_bytes = zmq_recv(router, id, sizeof(id), 0);
	assert_int_equal(id_bytes, 18);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(zmq_send(router, id, (size_t)id_bytes, ZMQ_SNDMORE), id_bytes);
		assert_int_equal(zmq_send(router, "nonsense", 8, 0), 8);
	}
	assert_int_equal(side_recv(&decode, &received), KVFI_CONTROL_GARBAGE);
	assert_int_equal(received.way, way);
	side_close(&decode);
	assert_int_equal(zmq_close(router), 0);
	assert_int_equal(zmq_ctx_term(context), 0);
	(void)unlink(endpoint + 6); /* some versions of libzmq leave it */
}

/* Nothing to say, nothing to read: an agent that sleeps on the descriptor sleeps. */
static void an_idle_channel_is_silent(void **state)
{
	struct kvfi_received received;
	struct side prefill, decode;
	char endpoint[128];
	int quiet = 0;
	uint32_t way;

	(void)state;
	side_open(&prefill, &ipc, fresh_endpoint(&ipc, endpoint));
	side_open(&decode, &ipc, NULL);
	way = side_connect(&decode, endpoint);
	assert_true(side_ping(&decode, way, 1));
	(void)side_expect_ping(&prefill, 1);
	for (int i = 0; i < 1000 && quiet < 20; i++) {
		assert_int_equal(prefill.ops->recv(prefill.control, &received), KVFI_CONTROL_NONE);
		assert_int_equal(decode.ops->recv(decode.control, &received), KVFI_CONTROL_NONE);
		quiet = side_sleep(&prefill, 5) || side_sleep(&decode, 5) ? 0 : quiet + 1;
	}
	assert_int_equal(quiet, 20);
	side_close(&decode);
	side_close(&prefill);
}

static void *send_from_here(void *argument)
{
	(void)side_ping(argument, 0, 1);
	return NULL;
}

static void t_p28_a_channel_belongs_to_one_thread(void **state)
{
	int status;
	pid_t child;

	(void)state;
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		const struct rlimit no_core = {0, 0};
		const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
		pthread_t thread;
		struct side side;

		(void)setrlimit(RLIMIT_CORE, &no_core);
		(void)dup2(null, STDERR_FILENO);
		(void)signal(SIGABRT, SIG_DFL);
		side_open(&side, &ipc, NULL);
		if (pthread_create(&thread, NULL, send_from_here, &side) == 0)
			(void)pthread_join(thread, NULL);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

/* Listeners that never accept, addresses that never answer: connect, send, forget and close return all the same. A call
 * that blocks here blocks until the test is killed. */
static void t_p32_connect_never_blocks(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const int deaf = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char endpoint[128];
	struct side side;
	uint32_t ways[40];

	(void)state;
	(void)fresh_endpoint(&ipc, endpoint);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%.100s", endpoint + 6);
	assert_int_equal(bind(deaf, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(deaf, 0), 0);
	assert_int_equal(side_try_open(&side, &ipc, NULL, 40), KVF_OK);
	for (int i = 0; i < 40; i++) {
		ways[i] = side_connect(&side, i % 2 ? endpoint : "tcp://192.0.2.1:9"); /* TEST-NET-1 */
		(void)side_ping(&side, ways[i], 1);
	}
	for (int i = 0; i < 20; i++)
		side.ops->forget(side.control, ways[i]);
	side_close(&side);
	close(deaf);
	assert_int_equal(unlink(endpoint + 6), 0);
}

static void t_p41_nothing_listens_beyond_loopback_unless_named(void **state)
{
	static const char *const refused[] = {
		"tcp://*:0", "tcp://*:*", "tcp://:0", "tcp://eth0:0", "tcp://localhost:0"};
	struct side side;

	(void)state;
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		assert_int_equal(side_try_open(&side, &tcp, refused[i], 4), KVF_EINVAL);
	side_open(&side, &tcp, NULL);
	assert_string_equal(side.ops->endpoint(side.control), "");
	side_close(&side);
	side_open(&side, &tcp, "tcp://127.0.0.1:*");
	assert_int_equal(strncmp(side.ops->endpoint(side.control), "tcp://127.0.0.1:", 16), 0);
	assert_true(atoi(side.ops->endpoint(side.control) + 16) > 0);
	side_close(&side);
	side_open(&side, &tcp, "tcp://0.0.0.0:0");
	assert_int_equal(strncmp(side.ops->endpoint(side.control), "tcp://0.0.0.0:", 14), 0);
	side_close(&side);
	assert_int_equal(
		side_try_open(&side, &tcp, "tcp://192.0.2.1:0", 4), KVF_EINVAL); /* not of this host */
	assert_non_null(strstr(kvf_error(), "192.0.2.1"));
}

static void an_ipc_socket_is_private_and_goes_with_its_agent(void **state)
{
	char endpoint[128], lock_name[160];
	struct side side;
	struct stat info;

	(void)state;
	side_open(&side, &ipc, fresh_endpoint(&ipc, endpoint));
	assert_string_equal(side.ops->endpoint(side.control), endpoint);
	assert_int_equal(stat(endpoint + 6, &info), 0);
	assert_int_equal(info.st_mode & 07777, 0600);
	side_close(&side);
	assert_int_not_equal(stat(endpoint + 6, &info), 0);
	(void)snprintf(lock_name, sizeof(lock_name), "%s.lock", endpoint + 6);
	assert_int_not_equal(stat(lock_name, &info), 0);
}

static void an_agent_that_was_killed_is_replaced_and_found_again(void **state)
{
	char endpoint[128], byte;
	struct side prefill, decode;
	int status, ready[2];
	uint32_t way;
	pid_t child;

	(void)state;
	(void)fresh_endpoint(&ipc, endpoint);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct kvfi_received received;

		side_open(&prefill, &ipc, endpoint);
		assert_int_equal(write(ready[1], "x", 1), 1);
		for (;;) {
			(void)side_recv(&prefill, &received);
			(void)side_ping(&prefill, received.way, 2);
		}
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	side_open(&decode, &ipc, NULL);
	way = side_connect(&decode, endpoint);
	assert_true(side_ping(&decode, way, 1));
	assert_int_equal(side_expect_ping(&decode, 2), way);
	assert_int_equal(side_try_open(&prefill, &ipc, endpoint, 4), KVF_EADDRINUSE);
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	side_open(&prefill, &ipc, endpoint);
	(void)side_ping_until(&decode, way, &prefill);
	side_close(&decode);
	side_close(&prefill);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_p28_a_channel_belongs_to_one_thread),
		cmocka_unit_test(an_agent_that_was_killed_is_replaced_and_found_again),
		cmocka_unit_test(garbage_on_a_raw_socket_is_survived),
		cmocka_unit_test(garbage_frames_are_told_once_per_sender),
		cmocka_unit_test(a_peer_of_another_version_is_told_as_such),
		cmocka_unit_test(garbage_from_the_listener_is_told_too),
		cmocka_unit_test(an_idle_channel_is_silent),
		cmocka_unit_test(t_p32_connect_never_blocks),
		cmocka_unit_test(t_p41_nothing_listens_beyond_loopback_unless_named),
		cmocka_unit_test(an_ipc_socket_is_private_and_goes_with_its_agent),
	};

	return cmocka_run_group_tests(tests, make_test_folder, remove_test_folder);
}

#else

static void zmq_is_not_built_in(void **state)
{
	(void)state;
	print_message("skipped: built without ZeroMQ\n");
	skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(zmq_is_not_built_in)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
