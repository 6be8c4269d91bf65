/* roof_queue.c - a round trip between two ZeroMQ sockets over ipc, as plain as it can be. */
#include "bench/roof.h"

#include <stdio.h>
#include <zmq.h>

#define BYTES 64

static void *open_socket(void *context, const char *directory, bool binds)
{
	void *handle = zmq_socket(context, ZMQ_PAIR);
	char endpoint[128];
	int linger = 0;

	(void)snprintf(endpoint, sizeof(endpoint), "ipc://%s/roof", directory);
	if (handle == NULL || zmq_setsockopt(handle, ZMQ_LINGER, &linger, sizeof(linger)) != 0 ||
		(binds ? zmq_bind(handle, endpoint) : zmq_connect(handle, endpoint)) != 0)
		give_up("%s: %s", endpoint, zmq_strerror(zmq_errno()));
	return handle;
}

void roof_queue_answer(const char *directory, uint32_t n)
{
	void *context = zmq_ctx_new(), *handle = open_socket(context, directory, true);
	char bytes[BYTES];

	for (uint32_t i = 0; i < n; i++)
		if (zmq_recv(handle, bytes, BYTES, 0) != BYTES || zmq_send(handle, bytes, BYTES, 0) != BYTES)
			give_up("ZeroMQ: %s", zmq_strerror(zmq_errno()));
	/* The last answer is out when the driver closes its end. */
	(void)zmq_recv(handle, bytes, BYTES, 0);
	(void)zmq_close(handle);
	(void)zmq_ctx_term(context);
}

void roof_queue_ask(const char *directory, uint32_t n, struct samples *samples)
{
	void *context = zmq_ctx_new(), *handle = open_socket(context, directory, false);
	char bytes[BYTES] = {0};
	int linger = 1000;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t begin_ns = now_ns();

		if (zmq_send(handle, bytes, BYTES, 0) != BYTES || zmq_recv(handle, bytes, BYTES, 0) != BYTES)
			give_up("ZeroMQ: %s", zmq_strerror(zmq_errno()));
		if (i > 0) /* the first one waits for the connection */
			samples_add(samples, (double)(now_ns() - begin_ns) * 1e-3);
	}
	(void)zmq_setsockopt(handle, ZMQ_LINGER, &linger, sizeof(linger));
	(void)zmq_send(handle, bytes, BYTES, 0);
	(void)zmq_close(handle);
	(void)zmq_ctx_term(context);
}
