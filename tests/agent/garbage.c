/* garbage.c - strangers that speak nonsense at every door: control sockets, the tcp data port, the shm socket. The pair that talks goes on, and a
 * caller that reaches a stranger is told what it met. Needs ZeroMQ. Argument: the transport. */
#include "attempt.h"

#include <errno.h>
#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>
#include "solo.h"

static const char *transport = "tcp";
static struct solo prefill, decode;
static char data_port[64];
static uint64_t seed = 88172645463325252u;

static unsigned char random_byte(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned char)(seed >> 32);
}

/* A free port, given back: the agent takes it a moment later. */
static void choose_port(char *text, size_t len_bytes, const char *format)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
	close(fd);
	(void)snprintf(text, len_bytes, "%s:%u", format, ntohs(address.sin_port));
}

static void on_that_port(struct kvf_options *options)
{
	options->data_listen = data_port;
}

static void short_patience(struct kvf_options *options)
{
	options->connect_timeout_ns = 2000000000;
}

static int open_pair(void **state)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, "zmq", transport);
	struct solo *all[] = {&prefill, &decode};
	char listen[200];

	(void)state;
	(void)snprintf(listen, sizeof(listen), "ipc://%s/prefill", solo_directory());
	choose_port(data_port, sizeof(data_port), "127.0.0.1");
	spec.listen = listen;
	spec.tune = on_that_port;
	solo_open(&prefill, &spec);
	spec = solo_spec(KVF_DECODE, "zmq", transport);
	solo_open(&decode, &spec);
	assert_int_equal(solo_connect(all, 2, &decode, prefill.endpoint, NULL), KVF_OK);
	return 0;
}

static void still_moves(void)
{
	struct solo *all[] = {&prefill, &decode};
	static uint64_t id = 100;

	solo_move(all, 2, &prefill, &decode, id++);
	assert_int_equal(decode.n_log, 0); /* nobody came or went */
}

static int close_pair(void **state)
{
	(void)state;
	still_moves();
	solo_close(&decode);
	solo_close(&prefill);
	solo_directory_remove();
	return 0;
}

/* ---- the control socket ---- */

static void *dealer_to(void *context, const char *endpoint)
{
	void *dealer = zmq_socket(context, ZMQ_DEALER);
	int linger = 1000;

	assert_int_equal(zmq_setsockopt(dealer, ZMQ_LINGER, &linger, sizeof(linger)), 0);
	assert_int_equal(zmq_connect(dealer, endpoint), 0);
	return dealer;
}

static void put(unsigned char *at, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		at[i] = (unsigned char)(value >> (8 * i));
}

/* A header as the wire page draws it. */
static void header(unsigned char *bytes, uint16_t version, uint16_t type, uint32_t len)
{
	memset(bytes, 0, 64);
	put(bytes, 0x3146564b, 4);
	put(bytes + 4, version, 2);
	put(bytes + 6, type, 2);
	put(bytes + 8, len, 4);
	put(bytes + 16, 0x1234, 8); /* from */
	put(bytes + 32, 1, 8);      /* link */
}

static void t_a_dealer_that_sends_noise(void **state)
{
	void *context = zmq_ctx_new(), *dealer = dealer_to(context, prefill.endpoint);
	unsigned char bytes[4096];

	(void)state;
	for (int i = 0; i < 400; i++) {
		size_t len = random_byte() * 16u;

		for (size_t k = 0; k < len; k++)
			bytes[k] = random_byte();
		if (i % 2 == 0 && len >= 64)
			header(bytes, 1, (uint16_t)(i % 17),
				(uint32_t)len); /* a good header before the noise */
		assert_int_equal(zmq_send(dealer, bytes, len, i % 5 == 4 ? ZMQ_SNDMORE : 0), len);
	}
	assert_int_equal(zmq_send(dealer, bytes, 1, 0), 1);
	still_moves();
	zmq_close(dealer);
	zmq_ctx_term(context);
}

/* More strangers than the channel has ways, each with a message that can be read and means nothing. */
static void t_strangers_do_not_use_up_the_ways(void **state)
{
	void *context = zmq_ctx_new();
	struct solo_spec spec = solo_spec(KVF_DECODE, "zmq", transport);
	struct solo late;
	struct solo *all[] = {&prefill, &late};

	(void)state;
	for (int i = 0; i < 200; i++) {
		void *dealer = dealer_to(context, prefill.endpoint);
		unsigned char bye[64];

		header(bye, 1, 14, sizeof(bye));
		assert_int_equal(zmq_send(dealer, bye, sizeof(bye), 0), sizeof(bye));
		zmq_close(dealer);
	}
	still_moves();
	spec.instance_id = 99;
	solo_open(&late, &spec);
	assert_int_equal(solo_connect(all, 2, &late, prefill.endpoint, NULL), KVF_OK);
	solo_close(&late);
	zmq_ctx_term(context);
}

static void t_a_caller_of_another_version_is_answered(void **state)
{
	void *context = zmq_ctx_new(), *dealer = dealer_to(context, prefill.endpoint);
	unsigned char hello[64], answer[4096];
	int patience = 20000, n;

	(void)state;
	header(hello, 2, 1, sizeof(hello));
	assert_int_equal(zmq_setsockopt(dealer, ZMQ_RCVTIMEO, &patience, sizeof(patience)), 0);
	assert_int_equal(zmq_send(dealer, hello, sizeof(hello), 0), sizeof(hello));
	n = zmq_recv(dealer, answer, sizeof(answer), 0);
	assert_true(n >= 64);
	assert_memory_equal(answer, "KVF1", 4);
	assert_int_equal(answer[4], 1); /* our version */
	assert_int_equal(answer[6], 3); /* REFUSE */
	zmq_close(dealer);
	zmq_ctx_term(context);
}

/* A listener that answers a HELLO with that; the caller's PEER event says what is wrong, and its requests fail. */
static void meets(const void *answer, size_t len, enum kvf_status status, const char *word)
{
	struct solo_spec spec = solo_spec(KVF_DECODE, "zmq", transport);
	void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
	char endpoint[200], text[256] = "";
	uint64_t end_ns = attempt_now_ns() + UINT64_C(20000000000);
	struct kvf_peer_info info;
	struct solo caller;

	(void)snprintf(endpoint, sizeof(endpoint), "ipc://%s/fake", solo_directory());
	assert_int_equal(zmq_bind(router, endpoint), 0);
	spec.instance_id = 98;
	spec.tune = short_patience;
	solo_open(&caller, &spec);
	WORKS(kvf_connect(caller.agent, endpoint));
	while (caller.n_log == 0) {
		unsigned char id[64], body[1];
		int n = zmq_recv(router, id, sizeof(id), ZMQ_DONTWAIT), more;
		size_t size = sizeof(more);

		solo_poll(&caller);
		attempt_breathe();
		assert_true(attempt_now_ns() < end_ns);
		if (n < 0)
			continue;
		do {
			(void)zmq_recv(router, body, sizeof(body), 0);
			(void)zmq_getsockopt(router, ZMQ_RCVMORE, &more, &size);
		} while (more);
		assert_int_equal(zmq_send(router, id, (size_t)n, ZMQ_SNDMORE), n);
		assert_int_equal(zmq_send(router, answer, len, 0), len);
	}
	assert_int_equal(caller.log[0].status, status);
	WORKS(kvf_peer_info(caller.agent, caller.log[0].peer, &info));
	(void)snprintf(text, sizeof(text), "%s", info.reason);
	if (strstr(text, word) == NULL)
		fail_msg("\"%s\" does not name \"%s\"", text, word);
	solo_close(&caller);
	zmq_close(router);
	zmq_ctx_term(context);
	(void)unlink(endpoint + strlen("ipc://"));
}

static void t_a_listener_of_another_version_or_of_none(void **state)
{
	unsigned char bytes[64];

	(void)state;
	header(bytes, 2, 2, sizeof(bytes));
	meets(bytes, sizeof(bytes), KVF_PEER_VERSION, "speaks 2");
	meets("HTTP/1.1 400 Bad Request", 24, KVF_PROTOCOL, "magic");
	header(bytes, 1, 2, sizeof(bytes));
	meets(bytes, sizeof(bytes), KVF_PROTOCOL, "HELLO_OK");
}

static void raw_noise(int fd, unsigned total)
{
	unsigned char bytes[1024];

	for (unsigned sent = 0; sent < total;) {
		ssize_t n;

		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = random_byte();
		n = send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL);
		if (n <= 0)
			return; /* thrown out */
		sent += (unsigned)n;
	}
}

static int raw_unix(const char *path, int type)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type, 0);

	assert_true(strlen(path) < sizeof(address.sun_path));
	(void)strcpy(address.sun_path, path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void t_raw_bytes_to_the_control_sockets(void **state)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, "zmq", transport);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct solo other;
	int fd;

	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		fd = raw_unix(prefill.endpoint + strlen("ipc://"), SOCK_STREAM);
		assert_true(fd >= 0);
		raw_noise(fd, i * 5000);
		close(fd);
	}
	spec.listen = "tcp://127.0.0.1:0";
	spec.instance_id = 97;
	solo_open(&other, &spec);
	address.sin_port = htons((uint16_t)atoi(strrchr(other.endpoint, ':') + 1));
	for (unsigned i = 0; i < 8; i++) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
		raw_noise(fd, i * 5000);
		close(fd);
	}
	assert_int_equal(
		solo_connect((struct solo *[]){&decode, &other}, 2, &decode, other.endpoint, NULL), KVF_OK);
	solo_move((struct solo *[]){&decode, &other}, 2, &other, &decode, 1);
	solo_close(&other);
	assert_int_equal(
		solo_next((struct solo *[]){&decode}, 1, &decode, KVF_EVENT_PEER, (kvf_session){0}).status,
		KVF_PEER_LOST);
}

/* ---- the data doors ---- */

static int raw_data(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct dirent *entry;
	int fd = -1;
	DIR *dir;

	if (strcmp(transport, "tcp") == 0) {
		address.sin_port = htons((uint16_t)atoi(strrchr(data_port, ':') + 1));
		fd = socket(AF_INET, SOCK_STREAM, 0);
		assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
		return fd;
	}
	dir = opendir(solo_directory()); /* shm: whatever socket lies there beside the control one */
	assert_non_null(dir);
	while (fd < 0 && (entry = readdir(dir)) != NULL) {
		char path[512];

		if (entry->d_name[0] == '.' || strncmp(entry->d_name, "prefill", 7) == 0)
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s", solo_directory(), entry->d_name);
		fd = raw_unix(path, SOCK_STREAM);
		if (fd < 0)
			fd = raw_unix(path, SOCK_SEQPACKET);
	}
	(void)closedir(dir);
	if (fd < 0)
		fail_msg("no data socket in %s", solo_directory());
	return fd;
}

static void t_noise_at_the_data_door(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 20; i++) {
		int fd = raw_data();

		raw_noise(fd, i * 3000);
		close(fd);
	}
}

/* Connected, and silent: others are served meanwhile. */
static void t_silent_strangers_at_the_data_door(void **state)
{
	int fds[100];

	(void)state;
	for (int i = 0; i < 100; i++)
		fds[i] = raw_data();
	still_moves();
	for (int i = 0; i < 100; i++)
		close(fds[i]);
}

/* A hundred of them are at the door when a new peer comes. */
static void t_a_new_peer_passes_the_strangers(void **state)
{
	struct solo_spec spec = solo_spec(KVF_DECODE, "zmq", transport);
	struct solo late;
	struct solo *all[] = {&prefill, &late};
	int fds[100];

	(void)state;
	for (int i = 0; i < 100; i++)
		fds[i] = raw_data();
	spec.instance_id = 96;
	solo_open(&late, &spec);
	assert_int_equal(solo_connect(all, 2, &late, prefill.endpoint, NULL), KVF_OK);
	solo_move(all, 2, &prefill, &late, 1);
	solo_close(&late);
	for (int i = 0; i < 100; i++)
		close(fds[i]);
}

/* The data connection goes, the control channel stays: what moves there ends on both sides, and the pair finds together again. */
static void t_a_data_connection_that_breaks(void **state)
{
	struct solo *all[] = {&prefill, &decode};
	uint16_t port = (uint16_t)atoi(strrchr(data_port, ':') + 1);
	kvf_session to, from;
	char text[256];
	unsigned cut = 0;

	(void)state;
	if (strcmp(transport, "tcp") != 0)
		skip();
	to = solo_rx(&decode, prefill.instance->id, 1, 64, 0);
	from = solo_tx_open(&prefill, 1, 64);
	solo_send(&prefill, from, 0, 32, 64, 0);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_SLICE, from);
	for (int fd = 3; fd < 1024; fd++) { /* both agents are in this process */
		struct sockaddr_in address;
		socklen_t len = sizeof(address);

		if (getpeername(fd, (struct sockaddr *)&address, &len) == 0 &&
			address.sin_family == AF_INET && ntohs(address.sin_port) == port)
			cut += shutdown(fd, SHUT_RDWR) == 0;
	}
	assert_true(cut > 0);
	assert_int_equal(solo_next(all, 2, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_PEER_LOST);
	assert_int_not_equal(solo_finish(all, 2, &decode, to, text), KVF_OK);
	assert_int_not_equal(text[0], '\0');
	assert_int_not_equal(solo_finish(all, 2, &prefill, from, text), KVF_OK);
	assert_int_not_equal(text[0], '\0');
	assert_int_equal(solo_next(all, 2, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
}

int main(int argc, char **argv)
{
#define BESIDE(test) cmocka_unit_test_setup_teardown(test, open_pair, close_pair)
	const struct CMUnitTest tests[] = {
		BESIDE(t_a_dealer_that_sends_noise),
		BESIDE(t_strangers_do_not_use_up_the_ways),
		BESIDE(t_a_caller_of_another_version_is_answered),
		BESIDE(t_a_listener_of_another_version_or_of_none),
		BESIDE(t_raw_bytes_to_the_control_sockets),
		BESIDE(t_noise_at_the_data_door),
		BESIDE(t_silent_strangers_at_the_data_door),
		BESIDE(t_a_new_peer_passes_the_strangers),
		BESIDE(t_a_data_connection_that_breaks),
	};

	if (argc > 1)
		transport = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
