/* tickets.c - a ticket is all that a decode rank needs, and a bad one costs nobody else anything; full tables and the choice of a transport. Arguments:
 * the transport, the control channel. */
#include "attempt.h"

#include <stdlib.h>
#include <unistd.h>
#include "solo.h"

static const char *transport = "loop", *control = "inproc";

static const char *at(const char *name)
{
	static char text[4][200];
	static unsigned turn;
	char *to = text[turn++ % 4];

	(void)snprintf(to, sizeof(text[0]), strcmp(control, "zmq") == 0 ? "ipc://%s/%s" : "inproc://%s/%s",
		solo_directory(), name);
	return to;
}

static void short_patience(struct kvf_options *options)
{
	options->connect_timeout_ns = 3000000000;
}

static void open_prefill(struct solo *solo, const char *name, uint64_t instance_id)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, control, transport);

	spec.listen = at(name);
	spec.instance_id = instance_id;
	solo_open(solo, &spec);
}

static void open_decode(struct solo *solo, void (*tune)(struct kvf_options *options))
{
	struct solo_spec spec = solo_spec(KVF_DECODE, control, transport);

	spec.tune = tune;
	solo_open(solo, &spec);
}

struct ticket {
	unsigned char bytes[KVF_TICKET_MAX_BYTES];
	size_t len;
};

static struct ticket ticket_of(struct solo *solo, uint64_t id, uint32_t dp_index, uint64_t life_ns)
{
	struct kvf_tx_params params = {
		.request_id = id, .prompt_len = 64, .dp_index = dp_index, .expires_ns = life_ns};
	struct ticket ticket;

	WORKS(kvf_ticket_new(solo->agent, &params, ticket.bytes, sizeof(ticket.bytes), &ticket.len));
	return ticket;
}

static int clean(void **state)
{
	(void)state;
	solo_directory_remove();
	return 0;
}

/* ---- good ones ---- */

static void t_a_ticket_alone_connects_and_completes(void **state)
{
	struct solo prefill, decode;
	struct solo *all[] = {&prefill, &decode};

	(void)state;
	open_prefill(&prefill, "a", 71);
	open_decode(&decode, NULL);
	for (uint64_t id = 1; id <= 3; id++) {
		struct ticket ticket = ticket_of(&prefill, id, 0, 0);
		kvf_session to = solo_rx_ticket(&decode, ticket.bytes, ticket.len, 64, 0), from;
		struct kvf_ticket_info info;

		WORKS(kvf_ticket_read(ticket.bytes, ticket.len, &info));
		assert_int_equal(info.instance_id, 71);
		assert_int_equal(info.request_id, id);
		assert_int_equal(info.prompt_len, 64);
		memset(&ticket, 0, sizeof(ticket)); /* copied */
		from = solo_tx(&prefill, id, 64, 0);
		assert_int_equal(solo_finish(all, 2, &decode, to, NULL), KVF_OK);
		assert_int_equal(solo_finish(all, 2, &prefill, from, NULL), KVF_OK);
	}
	solo_close(&decode);
	solo_close(&prefill);
}

/* Two attention-DP groups; nobody knows yet which will take the request. The ticket of either rank will do. */
static void t_a_ticket_without_a_dp_index(void **state)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, control, transport);
	struct solo ranks[2], decode;
	struct solo *all[] = {&ranks[0], &ranks[1], &decode};
	char names[2][200];
	const char *endpoints[] = {names[0], names[1]};

	(void)state;
	spec.parallel = (struct kvf_parallel){2, 1, 1, 2, NULL, NULL};
	spec.endpoints = endpoints;
	for (uint32_t r = 0; r < 2; r++)
		(void)snprintf(names[r], sizeof(names[r]), "%s", at(r == 0 ? "dp0" : "dp1"));
	for (uint32_t r = 0; r < 2; r++) {
		spec.rank = r;
		spec.listen = names[r];
		solo_open(&ranks[r], &spec);
	}
	open_decode(&decode, NULL);
	for (uint32_t id = 1; id <= 4; id++) {
		struct solo *taker = &ranks[id % 2];
		struct ticket ticket = ticket_of(&ranks[id / 2 % 2], id, KVF_DP_UNKNOWN, 0);
		struct kvf_tx_params params = {.request_id = id, .prompt_len = 64, .dp_index = id % 2};
		kvf_session to = solo_rx_ticket(&decode, ticket.bytes, ticket.len, 64, 0), from;

		WORKS(kvf_tx_open(taker->agent, &params, &from));
		solo_send(taker, from, 0, 64, 64, 0);
		assert_int_equal(solo_finish(all, 3, &decode, to, NULL), KVF_OK);
		assert_int_equal(solo_finish(all, 3, taker, from, NULL), KVF_OK);
	}
	solo_close(&decode);
	solo_close(&ranks[0]);
	solo_close(&ranks[1]);
}

/* ---- bad ones ---- */

static void t_damaged_tickets_are_refused_at_the_call(void **state)
{
	struct kvf_rx_params params = {.aux_slot = KVF_NO_AUX};
	static const int32_t ids[] = {0, 1, 2, 3, 4, 5, 6, 7};
	struct kvf_blocks list = {0, 8, ids};
	struct solo prefill, decode;
	struct ticket ticket, bad;
	struct kvf_ticket_info info;
	kvf_session session;

	(void)state;
	open_prefill(&prefill, "a", 71);
	open_decode(&decode, NULL);
	ticket = ticket_of(&prefill, 1, 0, 0);
	params.n_lists = 1;
	params.lists = &list;
	params.ticket = bad.bytes;
	for (size_t i = 0; i < ticket.len; i++) { /* every byte that is not as it was */
		bad = ticket;
		bad.bytes[i] ^= 0x40;
		params.ticket_bytes = bad.len;
		REFUSES(KVF_ETICKET, kvf_rx_open(decode.agent, &params, &session), "ticket");
		params.ticket_bytes = i; /* and every length that is too short */
		bad = ticket;
		REFUSES(KVF_ETICKET, kvf_rx_open(decode.agent, &params, &session), "ticket");
		REFUSES(KVF_ETICKET, kvf_connect_ticket(decode.agent, bad.bytes, i), "ticket");
		REFUSES(KVF_ETICKET, kvf_ticket_read(bad.bytes, i, &info), "ticket");
	}
	solo_poll(&decode);
	assert_int_equal(decode.n_log, 0); /* nobody was called */
	solo_close(&decode);
	solo_close(&prefill);
}

/* It goes to an endpoint where another instance lives by now. */
static void t_a_ticket_of_another_instance_fails_its_session_alone(void **state)
{
	struct solo first, second, decode;
	struct solo *all[] = {&second, &decode};
	struct ticket foreign, good;
	kvf_session wrong, right, from;
	char text[256];

	(void)state;
	open_prefill(&first, "a", 71);
	foreign = ticket_of(&first, 1, 0, 0);
	solo_close(&first);
	open_prefill(&second, "a", 75);
	open_decode(&decode, short_patience);
	good = ticket_of(&second, 2, 0, 0);
	wrong = solo_rx_ticket(&decode, foreign.bytes, foreign.len, 64, 0);
	right = solo_rx_ticket(&decode, good.bytes, good.len, 64, 8);
	assert_int_equal(solo_finish(all, 2, &decode, wrong, text), KVF_ETICKET);
	assert_non_null(strstr(text, "71"));
	assert_non_null(strstr(text, "75"));
	from = solo_tx(&second, 2, 64, 0);
	assert_int_equal(solo_finish(all, 2, &decode, right, text), KVF_OK);
	assert_int_equal(solo_finish(all, 2, &second, from, text), KVF_OK);
	wrong = solo_rx_ticket(&decode, foreign.bytes, foreign.len, 64, 0); /* once more, already connected */
	assert_int_equal(solo_finish(all, 2, &decode, wrong, text), KVF_UNREACHABLE);
	assert_non_null(strstr(text, "71"));
	solo_close(&decode);
	solo_close(&second);
}

/* Tickets of prefill ranks that died before anyone came: they do not fill the table of peers. */
static void few_peers(struct kvf_options *options)
{
	options->max_peers = 2;
	options->connect_timeout_ns = 100000000;
}

static void t_tickets_of_the_dead_make_room(void **state)
{
	struct solo prefill, decode;
	struct solo *all[] = {&prefill, &decode};
	struct ticket ticket;
	kvf_session to, from;
	char text[256];

	(void)state;
	open_decode(&decode, few_peers);
	for (uint64_t i = 0; i < 4; i++) {
		char name[8];

		(void)snprintf(name, sizeof(name), "d%u", (unsigned)i);
		open_prefill(&prefill, name, 200 + i);
		ticket = ticket_of(&prefill, 1, 0, 0);
		solo_close(&prefill);
		to = solo_rx_ticket(&decode, ticket.bytes, ticket.len, 64, 0);
		assert_int_equal(solo_finish(&all[1], 1, &decode, to, text), KVF_UNREACHABLE);
	}
	open_prefill(&prefill, "alive", 300);
	ticket = ticket_of(&prefill, 1, 0, 0);
	to = solo_rx_ticket(&decode, ticket.bytes, ticket.len, 64, 0);
	from = solo_tx(&prefill, 1, 64, 0);
	assert_int_equal(solo_finish(all, 2, &decode, to, text), KVF_OK);
	assert_int_equal(solo_finish(all, 2, &prefill, from, text), KVF_OK);
	solo_close(&decode);
	solo_close(&prefill);
}

/* ---- full tables ---- */

static void narrow(struct kvf_options *options)
{
	options->max_sessions = 3;
	options->max_links = 8;
	options->max_slices = 3;
	options->max_block_ids = 24;
}

static void t_full_tables_are_told_at_the_call(void **state)
{
	static const int32_t ids[] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
	struct kvf_blocks list = {0, 8, ids}, one = {0, 1, ids};
	struct kvf_rx_params params = {.instance_id = 71,
		.request_id = 9,
		.prompt_len = 64,
		.aux_slot = KVF_NO_AUX,
		.n_lists = 1,
		.lists = &list};
	struct kvf_tx_params tx = {.request_id = 9, .prompt_len = 64};
	struct kvf_slice slice = {.token_end = 8, .n_lists = 1, .lists = &one};
	struct solo_spec spec = solo_spec(KVF_PREFILL, control, transport);
	struct solo prefill, decode;
	struct solo *all[] = {&prefill, &decode};
	kvf_session to[3], from[3], none = {0};

	(void)state;
	spec.listen = at("a");
	spec.tune = narrow;
	solo_open(&prefill, &spec);
	open_decode(&decode, narrow);
	assert_int_equal(solo_connect(all, 2, &decode, prefill.endpoint, NULL), KVF_OK);
	for (uint64_t i = 0; i < 2; i++)
		to[i] = solo_rx(&decode, 71, 1 + i, 64, 0);
	to[2] = solo_rx(&decode, 71, 3, 56, 8);
	params.request_id = 8;
	REFUSES(KVF_EFULL, kvf_rx_open(decode.agent, &params, &none),
		"max_block_ids: 8 are asked for, 23 of 24");
	params.n_lists = 0;
	REFUSES(KVF_EFULL, kvf_rx_open(decode.agent, &params, &none), "max_sessions");
	assert_int_equal(none.bits, 0);
	for (uint64_t i = 0; i < 3; i++)
		from[i] = solo_tx_open(&prefill, 1 + i, i < 2 ? 64 : 56);
	REFUSES(KVF_EFULL, kvf_tx_open(prefill.agent, &tx, &none), "max_sessions");
	for (uint64_t i = 0; i < 2; i++)
		WORKS(kvf_tx_send(prefill.agent, from[i], &slice, NULL));
	solo_send(&prefill, from[2], 0, 56, 56, 0);
	slice.token_start = 8;
	slice.token_end = 16;
	REFUSES(KVF_EFULL, kvf_tx_send(prefill.agent, from[0], &slice, NULL), "max_slices");
	/* One ends; what was refused then works, and nothing was lost. */
	assert_int_equal(solo_finish(all, 2, &decode, to[2], NULL), KVF_OK);
	assert_int_equal(solo_finish(all, 2, &prefill, from[2], NULL), KVF_OK);
	WORKS(kvf_tx_send(prefill.agent, from[0], &slice, NULL));
	params.n_lists = 1;
	REFUSES(KVF_EFULL,
		kvf_rx_open(decode.agent,
			&((struct kvf_rx_params){.instance_id = 71,
				.request_id = 7,
				.prompt_len = 72,
				.aux_slot = KVF_NO_AUX,
				.n_lists = 1,
				.lists = &((struct kvf_blocks){0, 9, ids})}),
			&none),
		"max_block_ids");
	WORKS(kvf_rx_open(decode.agent, &params, &to[2]));
	solo_close(&decode);
	solo_close(&prefill);
}

static void two_links(struct kvf_options *options)
{
	options->max_links = 2;
}

/* Each request needs a link to both prefill ranks; the second one has no room. */
static void t_a_full_table_of_links_is_told_at_the_call(void **state)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, control, transport);
	struct kvf_rx_params params = {
		.instance_id = 71, .request_id = 2, .prompt_len = 64, .aux_slot = KVF_NO_AUX};
	struct solo ranks[2], decode;
	struct solo *all[] = {&ranks[0], &ranks[1], &decode};
	char names[2][200];
	const char *endpoints[] = {names[0], names[1]};
	kvf_session to, from[2], none = {0};

	(void)state;
	spec.parallel.tp = 2;
	spec.endpoints = endpoints;
	for (uint32_t r = 0; r < 2; r++)
		(void)snprintf(names[r], sizeof(names[r]), "%s", at(r == 0 ? "l0" : "l1"));
	for (uint32_t r = 0; r < 2; r++) {
		spec.rank = r;
		spec.listen = names[r];
		solo_open(&ranks[r], &spec);
	}
	open_decode(&decode, two_links);
	assert_int_equal(solo_connect(all, 3, &decode, names[0], NULL), KVF_OK);
	assert_int_equal(solo_next(all, 3, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	for (uint64_t round = 0; round < 2; round++) {
		to = solo_rx(&decode, 71, 10 + round, 64, 0);
		REFUSES(KVF_EFULL, kvf_rx_open(decode.agent, &params, &none), "max_links");
		for (int r = 0; r < 2; r++)
			from[r] = solo_tx(&ranks[r], 10 + round, 64, 0);
		assert_int_equal(solo_finish(all, 3, &decode, to, NULL), KVF_OK);
		for (int r = 0; r < 2; r++)
			assert_int_equal(solo_finish(all, 3, &ranks[r], from[r], NULL), KVF_OK);
	}
	solo_close(&decode);
	solo_close(&ranks[0]);
	solo_close(&ranks[1]);
}

int main(int argc, char **argv)
{
#define CLEAN(test) cmocka_unit_test_teardown(test, clean)
	const struct CMUnitTest tests[] = {
		CLEAN(t_a_ticket_alone_connects_and_completes),
		CLEAN(t_a_ticket_without_a_dp_index),
		CLEAN(t_damaged_tickets_are_refused_at_the_call),
		CLEAN(t_a_ticket_of_another_instance_fails_its_session_alone),
		CLEAN(t_tickets_of_the_dead_make_room),
		CLEAN(t_full_tables_are_told_at_the_call),
		CLEAN(t_a_full_table_of_links_is_told_at_the_call),
	};

	if (argc > 1)
		transport = argv[1];
	if (argc > 2)
		control = argv[2];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
