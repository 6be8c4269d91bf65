/* pair.c - the driver's side of a pair: it starts the sender, gives it orders, and receives. */
#include "bench/pair.h"
#include "bench/roof.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- opening and closing ---- */

static void *run_sender(void *argument)
{
	sender_run(argument);
	return NULL;
}

static void start_sender(struct pair *pair)
{
	pair->own_process = strstr(kvf_features(), "zmq") != NULL;
	if (!pair->own_process) {
		if (pthread_create(&pair->thread, NULL, run_sender, pair) != 0)
			give_up("a thread could not be started");
		return;
	}
	pair->child = fork();
	if (pair->child < 0)
		give_up("fork: %s", strerror(errno));
	if (pair->child != 0)
		return;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	sender_run(pair);
	_exit(0);
}

static void wait_for_peer(struct pair *pair)
{
	struct kvf_event event = rank_event(&pair->rank);

	if (event.type != KVF_EVENT_PEER)
		give_up("event %d came before the peer", (int)event.type);
}

void pair_open(struct pair *pair, const struct pair_spec *spec)
{
	memset(pair, 0, sizeof(*pair));
	pair->spec = *spec;
	pair->next_request = 1;
	(void)strcpy(pair->directory, "/tmp/kvferry-bench-XXXXXX");
	if (mkdtemp(pair->directory) == NULL)
		give_up("%s: %s", pair->directory, strerror(errno));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair->orders) != 0 ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair->echo) != 0)
		give_up("socketpair: %s", strerror(errno));
	pair->stream[0] = pair->stream[1] = -1;
	if (spec->roof)
		roof_stream_connect(pair);
	start_sender(pair);
	(void)pair_answer(pair); /* it listens */
	rank_open(&pair->rank, pair, KVF_DECODE);
	wait_for_peer(pair);
}

void pair_close(struct pair *pair)
{
	char command[128];

	pair_order(pair, &(struct order){.kind = ORDER_END});
	(void)pair_answer(pair);
	rank_close(&pair->rank);
	if (pair->own_process)
		(void)waitpid(pair->child, NULL, 0);
	else
		(void)pthread_join(pair->thread, NULL);
	for (int i = 0; i < 2; i++) {
		(void)close(pair->orders[i]);
		(void)close(pair->echo[i]);
		if (pair->stream[i] >= 0)
			(void)close(pair->stream[i]);
	}
	(void)snprintf(command, sizeof(command), "rm -rf '%s'", pair->directory);
	(void)!system(command);
}

/* ---- orders ---- */

void pair_order(struct pair *pair, const struct order *order)
{
	if (write(pair->orders[0], order, sizeof(*order)) != (ssize_t)sizeof(*order))
		give_up("the sending process is gone");
}

struct answer pair_answer(struct pair *pair)
{
	struct answer answer;

	if (recv(pair->orders[0], &answer, sizeof(answer), MSG_WAITALL) != (ssize_t)sizeof(answer))
		give_up("the sending process is gone");
	return answer;
}

/* ---- receiving ---- */

kvf_session pair_receive(struct pair *pair, uint64_t request)
{
	static int32_t ids[1u << 20];
	struct kvf_blocks list;
	struct kvf_rx_params params = {.instance_id = 1,
		.request_id = request,
		.prompt_len = shape_tokens(&pair->spec.shape),
		.aux_slot = KVF_NO_AUX,
		.n_lists = 1,
		.lists = &list};
	kvf_session session;

	rank_lists(&pair->spec.shape, KVF_DECODE, ids, &list);
	must(kvf_rx_open(pair->rank.agent, &params, &session), "rx_open");
	return session;
}

static uint64_t until(struct pair *pair, kvf_session session, enum kvf_event_type type)
{
	for (;;) {
		struct kvf_event event = rank_event(&pair->rank);

		if (event.session.bits == session.bits && event.type == type)
			return now_ns();
	}
}

uint64_t pair_outcome(struct pair *pair, kvf_session session)
{
	return until(pair, session, KVF_EVENT_OUTCOME);
}

void pair_release(struct pair *pair, kvf_session session)
{
	(void)until(pair, session, KVF_EVENT_RELEASED);
	must(kvf_session_close(pair->rank.agent, session), "close");
}

double pair_transfer(struct pair *pair, struct answer *answer_out)
{
	struct order order = {.kind = ORDER_SEND, .request = pair->next_request++};
	kvf_session session = pair_receive(pair, order.request);
	struct answer answer;
	uint64_t end_ns;

	pair_order(pair, &order);
	end_ns = pair_outcome(pair, session);
	pair_release(pair, session);
	answer = pair_answer(pair);
	if (answer_out != NULL)
		*answer_out = answer;
	return (double)(end_ns - answer.begin_ns) * 1e-9;
}

void pair_verify(struct pair *pair)
{
	struct order fill = {.kind = ORDER_FILL, .salt = pair->next_request};
	const int gap = 0xa5;
	uint64_t wrong;

	memset(pair->rank.pool, gap, shape_pool_bytes(&pair->spec.shape, KVF_DECODE));
	pair_order(pair, &fill);
	(void)pair_answer(pair);
	(void)pair_transfer(pair, NULL);
	wrong = shape_wrong(&pair->spec.shape, pair->rank.pool, fill.salt, gap);
	if (wrong != 0)
		give_up("%s, runs of %llu B: %llu bytes are wrong", pair->spec.transport,
			(unsigned long long)pair->spec.shape.run_bytes, (unsigned long long)wrong);
}
