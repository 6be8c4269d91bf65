/* roof.c - memcpy, one plain stream, a socket's round trip. */
#include "bench/roof.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define CALL_BYTES  (256u * 1024)
#define MAX_THREADS 64u
#define ECHO_BYTES  64

void roof_open(struct roof *roof, const struct pair_spec *spec)
{
	int fd;

	memset(roof, 0, sizeof(*roof));
	if (!spec->roof)
		return;
	roof->mapped_bytes = shape_pool_bytes(&spec->shape, KVF_DECODE);
	fd = memfd_create("kvferry-bench roof", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)roof->mapped_bytes) != 0)
		give_up("memfd: %s", strerror(errno));
	roof->mapped = mmap(NULL, roof->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (roof->mapped == MAP_FAILED)
		give_up("mmap: %s", strerror(errno));
	(void)madvise(roof->mapped, roof->mapped_bytes, MADV_HUGEPAGE); /* as kvf_alloc asks for them */
	(void)close(fd);
	memset(roof->mapped, 0, roof->mapped_bytes);
}

void roof_close(struct roof *roof)
{
	if (roof->mapped != NULL)
		(void)munmap(roof->mapped, roof->mapped_bytes);
}

/* ---- memcpy ---- */

struct copier {
	const struct roof *roof;
	const struct shape *shape;
	const unsigned char *src_pool;
	uint32_t share, of;
};

static void *copy_share(void *argument)
{
	const struct copier *copier = argument;

	shape_copy(copier->shape, copier->roof->mapped, copier->src_pool, copier->share, copier->of);
	return NULL;
}

struct answer roof_copy(const struct roof *roof, const struct pair_spec *spec, const unsigned char *src_pool)
{
	struct copier copiers[MAX_THREADS] = {{roof, &spec->shape, src_pool, 0, spec->workers}};
	pthread_t threads[MAX_THREADS];
	struct answer answer = {.begin_ns = now_ns()};

	for (uint32_t i = 1; i < spec->workers; i++) {
		copiers[i] = (struct copier){roof, &spec->shape, src_pool, i, spec->workers};
		if (pthread_create(&threads[i], NULL, copy_share, &copiers[i]) != 0)
			give_up("a thread could not be started");
	}
	(void)copy_share(&copiers[0]);
	for (uint32_t i = 1; i < spec->workers; i++)
		(void)pthread_join(threads[i], NULL);
	answer.end_ns = now_ns();
	return answer;
}

/* ---- one stream ---- */

void roof_stream_connect(struct pair *pair)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	socklen_t len = sizeof(address);

	pair->stream[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || pair->stream[0] < 0 ||
		bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
		getsockname(listener, (struct sockaddr *)&address, &len) != 0 || listen(listener, 1) != 0 ||
		connect(pair->stream[0], (struct sockaddr *)&address, sizeof(address)) != 0)
		give_up("a connection on loopback: %s", strerror(errno));
	pair->stream[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (pair->stream[1] < 0)
		give_up("accept: %s", strerror(errno));
	for (int i = 0; i < 2; i++)
		(void)setsockopt(pair->stream[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)close(listener);
}

struct answer roof_stream_send(int fd, const unsigned char *memory, uint64_t bytes)
{
	struct answer answer = {.begin_ns = now_ns()};

	for (uint64_t at = 0; at < bytes;) {
		uint64_t left = bytes - at;
		ssize_t n = send(fd, memory + at, left < CALL_BYTES ? left : CALL_BYTES, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			give_up("send: %s", strerror(errno));
		at += n > 0 ? (uint64_t)n : 0;
	}
	answer.end_ns = now_ns();
	return answer;
}

uint64_t roof_stream_receive(int fd, unsigned char *memory, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes;) {
		uint64_t left = bytes - at;
		ssize_t n = recv(fd, memory + at, left < CALL_BYTES ? left : CALL_BYTES, 0);

		if (n == 0 || (n < 0 && errno != EINTR))
			give_up("recv: %s", n == 0 ? "the stream ended" : strerror(errno));
		at += n > 0 ? (uint64_t)n : 0;
	}
	return now_ns();
}

/* ---- round trips ---- */

void roof_echo_answer(int fd, uint32_t n)
{
	char bytes[ECHO_BYTES];

	for (uint32_t i = 0; i < n; i++)
		if (recv(fd, bytes, sizeof(bytes), MSG_WAITALL) != ECHO_BYTES ||
			send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL) != ECHO_BYTES)
			give_up("echo: %s", strerror(errno));
}

void roof_echo_ask(int fd, uint32_t n, struct samples *samples)
{
	char bytes[ECHO_BYTES] = {0};

	for (uint32_t i = 0; i < n; i++) {
		uint64_t begin_ns = now_ns();

		if (send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL) != ECHO_BYTES ||
			recv(fd, bytes, sizeof(bytes), MSG_WAITALL) != ECHO_BYTES)
			give_up("echo: %s", strerror(errno));
		samples_add(samples, (double)(now_ns() - begin_ns) * 1e-3);
	}
}
