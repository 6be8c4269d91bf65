/* sender.c - the prefill side of a pair: obeys orders, one after the other. */
#include "bench/pair.h"
#include "bench/roof.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_BLOCKS (1u << 20)

struct sender {
	struct pair *pair;
	struct rank rank;
	struct roof roof;
	int32_t ids[MAX_BLOCKS];
	struct kvf_blocks list;
};

static void say(const struct sender *sender, const struct answer *answer)
{
	if (send(sender->pair->orders[1], answer, sizeof(*answer), MSG_NOSIGNAL) != (ssize_t)sizeof(*answer))
		_exit(1); /* the driver has said why */
}

/* ---- requests ---- */

static kvf_session open_request(struct sender *sender, uint64_t request)
{
	struct kvf_tx_params params = {
		.request_id = request, .prompt_len = shape_tokens(&sender->pair->spec.shape)};
	kvf_session session;

	must(kvf_tx_open(sender->rank.agent, &params, &session), "tx_open");
	return session;
}

static void send_request(struct sender *sender, kvf_session session)
{
	struct kvf_slice slice = {.token_end = shape_tokens(&sender->pair->spec.shape),
		.last = 1,
		.n_lists = 1,
		.lists = &sender->list};

	must(kvf_tx_send(sender->rank.agent, session, &slice, NULL), "tx_send");
}

static void until(struct sender *sender, enum kvf_event_type type)
{
	while (rank_event(&sender->rank).type != type)
		;
}

static uint64_t finish_request(struct sender *sender, kvf_session session)
{
	struct kvf_session_stats stats;

	until(sender, KVF_EVENT_RELEASED);
	must(kvf_session_stats(sender->rank.agent, session, &stats), "stats");
	must(kvf_session_close(sender->rank.agent, session), "close");
	return stats.plan_ns;
}

static void do_send(struct sender *sender, const struct order *order)
{
	kvf_session session = open_request(sender, order->request);
	struct answer answer = {0};

	until(sender, KVF_EVENT_READY);
	answer.begin_ns = now_ns();
	send_request(sender, session);
	answer.plan_ns = finish_request(sender, session);
	say(sender, &answer);
}

static void do_early(struct sender *sender, const struct order *order)
{
	kvf_session session = open_request(sender, order->request);
	struct answer answer = {0};

	send_request(sender, session);
	say(sender, &answer);
	answer.plan_ns = finish_request(sender, session);
	say(sender, &answer);
}

static void do_serve(struct sender *sender, const struct order *order)
{
	struct answer answer = {.begin_ns = now_ns(), .cpu_ns = cpu_ns()};
	uint32_t begun = 0, over = 0;

	while (over < order->n) {
		struct kvf_event event;

		for (; begun < order->n && begun - over < order->window; begun++)
			send_request(sender, open_request(sender, order->request + begun));
		event = rank_event(&sender->rank);
		if (event.type != KVF_EVENT_RELEASED)
			continue;
		must(kvf_session_close(sender->rank.agent, event.session), "close");
		over++;
	}
	answer.end_ns = now_ns();
	answer.cpu_ns = cpu_ns() - answer.cpu_ns;
	say(sender, &answer);
}

/* ---- orders ---- */

static void obey(struct sender *sender, const struct order *order)
{
	struct pair *pair = sender->pair;
	struct answer answer = {0};

	switch (order->kind) {
	case ORDER_SEND:
		do_send(sender, order);
		return;
	case ORDER_EARLY:
		do_early(sender, order);
		return;
	case ORDER_SERVE:
		do_serve(sender, order);
		return;
	case ORDER_FILL:
		shape_fill(&pair->spec.shape, sender->rank.pool, order->salt);
		break;
	case ORDER_COPY:
		answer = roof_copy(&sender->roof, &pair->spec, sender->rank.pool);
		break;
	case ORDER_STREAM:
		answer = roof_stream_send(pair->stream[1], sender->rank.pool, shape_bytes(&pair->spec.shape));
		break;
	case ORDER_ECHO:
		roof_echo_answer(pair->echo[1], order->n);
		break;
	case ORDER_QUEUE:
#ifdef KVFB_WITH_ZMQ
		roof_queue_answer(pair->directory, order->n);
#endif
		break;
	case ORDER_CPU:
		answer.cpu_ns = cpu_ns();
		break;
	case ORDER_END:
		break;
	}
	say(sender, &answer);
}

void sender_run(struct pair *pair)
{
	static struct sender sender;
	struct order order = {.kind = ORDER_FILL};

	memset(&sender, 0, sizeof(sender));
	sender.pair = pair;
	rank_open(&sender.rank, pair, KVF_PREFILL);
	rank_lists(&pair->spec.shape, KVF_PREFILL, sender.ids, &sender.list);
	roof_open(&sender.roof, &pair->spec);
	say(&sender, &(struct answer){0});
	while (order.kind != ORDER_END) {
		if (recv(pair->orders[1], &order, sizeof(order), MSG_WAITALL) != (ssize_t)sizeof(order))
			_exit(1);
		obey(&sender, &order);
	}
	roof_close(&sender.roof);
	rank_close(&sender.rank);
}
