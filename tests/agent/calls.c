/* calls.c - every call of a session, misused: it says which field is wrong and changes nothing. One agent on each side, loop, no threads but where a test says so. */
#include "attempt.h"
#include <poll.h>

static struct kvf_group_spec group;
static struct cluster cluster;
static kvf_agent *prefill, *decode;

static void open_with(const struct cluster_spec *spec)
{
	cluster_open(&cluster, spec);
	cluster_connect(&cluster);
	prefill = cluster.ranks[0][0].agent;
	decode = cluster.ranks[1][0].agent;
}

static int open_world(void **state)
{
	struct cluster_spec spec = attempt_spec(&group);

	(void)state;
	open_with(&spec);
	return 0;
}

/* Whatever was tried, a request still moves. */
static int close_world(void **state)
{
	struct cluster_request request = {.id = 1000, .prompt_len = 64, .aux = true};

	(void)state;
	cluster_run(&cluster, &request);
	cluster_close(&cluster);
	return 0;
}

static kvf_session tx(uint64_t id, uint64_t prompt_len)
{
	struct kvf_tx_params params = {.request_id = id, .prompt_len = prompt_len};
	kvf_session session = {0};

	WORKS(kvf_tx_open(prefill, &params, &session));
	return session;
}

static enum kvf_status send(kvf_session session, uint64_t start, uint64_t end, uint32_t last, uint32_t n)
{
	static const int32_t ids[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
	struct kvf_blocks list = {0, n, ids + start / 8};
	struct kvf_slice slice = {
		.token_start = start, .token_end = end, .last = last, .n_lists = 1, .lists = &list};

	return kvf_tx_send(prefill, session, &slice, NULL);
}

static struct kvf_rx_params rx_params(uint64_t id, const struct kvf_blocks *list)
{
	return (struct kvf_rx_params){.instance_id = cluster.instances[0]->id,
		.request_id = id,
		.prompt_len = 32,
		.aux_slot = KVF_NO_AUX,
		.n_lists = 1,
		.lists = list};
}

/* Takes events until the session was released; gives its outcome, and the handle back. */
static enum kvf_status finish(kvf_agent *agent, kvf_session session)
{
	uint64_t end_ns = attempt_now_ns() + UINT64_C(20000000000);
	enum kvf_status outcome = KVF_EAGAIN;

	for (;;) {
		struct kvf_event event;

		(void)kvf_poll(agent == prefill ? decode : prefill, &event, 0);
		if (kvf_poll(agent, &event, 1) == 0) {
			if (attempt_now_ns() > end_ns)
				fail_msg("no RELEASED in 20 s");
			continue;
		}
		if (event.session.bits != session.bits)
			continue;
		if (event.type == KVF_EVENT_OUTCOME)
			outcome = event.status;
		if (event.type == KVF_EVENT_RELEASED)
			break;
	}
	WORKS(kvf_session_close(agent, session));
	return outcome;
}

static void t_null_arguments_are_refused(void **state)
{
	struct kvf_tx_params params = {.request_id = 1, .prompt_len = 32};
	kvf_session session = {0};
	kvf_region region;
	struct kvf_event event;
	struct kvf_peer_info info;
	char buffer[16];
	void *memory;
	size_t len;

	(void)state;
	REFUSES(KVF_EINVAL, kvf_agent_open(NULL, &prefill), "options");
	REFUSES(KVF_EINVAL, kvf_alloc(NULL, 4096, &memory, &region), "agent");
	REFUSES(KVF_EINVAL, kvf_alloc(decode, 4096, NULL, &region), "memory_out");
	REFUSES(KVF_EINVAL, kvf_alloc(decode, 0, &memory, &region), "len");
	REFUSES(KVF_EINVAL, kvf_register(decode, NULL, 4096, &region), "");
	REFUSES(KVF_EINVAL, kvf_register(decode, buffer, 16, NULL), "region_out");
	REFUSES(KVF_EINVAL, kvf_free(NULL, (kvf_region){0}), "agent");
	REFUSES(KVF_EINVAL, kvf_declare(NULL, NULL, 0, NULL), "agent");
	REFUSES(KVF_EINVAL, kvf_endpoint(prefill, NULL, 4), "buffer");
	REFUSES(KVF_EINVAL, kvf_endpoint(prefill, buffer, 3), "buffer");
	REFUSES(KVF_EINVAL, kvf_connect(decode, NULL), "endpoint");
	REFUSES(KVF_EINVAL, kvf_connect_ticket(decode, NULL, 4), "ticket");
	REFUSES(KVF_EINVAL, kvf_peer_info(decode, (kvf_peer){0}, NULL), "info_out");
	REFUSES(KVF_EINVAL, kvf_peer_info(decode, (kvf_peer){0}, &info), "peer");
	REFUSES(KVF_EINVAL, kvf_tx_open(NULL, &params, &session), "agent");
	REFUSES(KVF_EINVAL, kvf_tx_open(prefill, NULL, &session), "params");
	REFUSES(KVF_EINVAL, kvf_tx_open(prefill, &params, NULL), "session_out");
	REFUSES(KVF_EINVAL, kvf_tx_send(NULL, session, NULL, NULL), "agent");
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, NULL, &session), "params");
	REFUSES(KVF_EINVAL, kvf_ticket_new(prefill, &params, NULL, 0, &len), "ticket");
	REFUSES(KVF_EINVAL, kvf_wait(NULL, 0), "agent");
	REFUSES(KVF_EINVAL, kvf_drain(NULL, 0), "agent");
	assert_int_equal(kvf_poll(NULL, &event, 1), KVF_EINVAL);
	assert_int_equal(kvf_poll(decode, NULL, 1), KVF_EINVAL);
	assert_int_equal(kvf_poll(decode, &event, -1), KVF_EINVAL);
	assert_int_equal(kvf_poll(decode, NULL, 0), 0);
	assert_int_equal(kvf_fd(NULL), KVF_EINVAL);
	kvf_agent_close(NULL, 0, NULL);
}

static void t_calls_of_the_other_role_are_refused(void **state)
{
	static const int32_t ids[] = {0, 1, 2, 3};
	struct kvf_blocks list = {0, 4, ids};
	struct kvf_rx_params params = rx_params(1, &list);
	struct kvf_tx_params tx_params = {.request_id = 1, .prompt_len = 32};
	unsigned char ticket[KVF_TICKET_MAX_BYTES];
	kvf_session session = {0};
	uint32_t n;
	size_t len;

	(void)state;
	REFUSES(KVF_EINVAL, kvf_tx_open(decode, &tx_params, &session), "role");
	REFUSES(KVF_EINVAL, kvf_tx_send(decode, session, NULL, NULL), "role");
	REFUSES(KVF_EINVAL, kvf_tx_send_aux(decode, session, "a", 1), "role");
	REFUSES(KVF_EINVAL, kvf_rx_open(prefill, &params, &session), "role");
	REFUSES(KVF_EINVAL, kvf_connect(prefill, "inproc://nobody"), "decode");
	REFUSES(KVF_EINVAL, kvf_ticket_new(decode, &tx_params, ticket, sizeof(ticket), &len), "prefill");
	session = tx(1, 8);
	REFUSES(KVF_EINVAL, kvf_session_bad_blocks(prefill, session, 0, NULL, 0, &n), "receive");
}

static void t_handles_that_are_stale_or_never_were(void **state)
{
	static const int32_t ids[] = {0};
	struct kvf_blocks list = {0, 1, ids};
	struct kvf_rx_params params = rx_params(7, &list);
	struct kvf_session_stats stats;
	enum kvf_session_state session_state;
	kvf_session session, none = {0}, far = {UINT64_C(1) << 32 | 0xffff}, next;
	struct kvf_peer_info info;
	char text[64];
	uint32_t n;

	(void)state;
	params.prompt_len = 8;
	REFUSES(KVF_EINVAL, kvf_session_state(decode, none, &session_state), "session");
	REFUSES(KVF_ESTALE, kvf_session_state(decode, (kvf_session){1}, &session_state), "session");
	REFUSES(KVF_EINVAL, kvf_session_state(decode, far, &session_state), "session");
	REFUSES(KVF_EINVAL, kvf_session_stats(decode, far, &stats), "never");
	REFUSES(KVF_EINVAL, kvf_session_error(decode, none, text, sizeof(text)), "never");
	REFUSES(KVF_EINVAL, kvf_session_close(decode, none), "never");
	REFUSES(KVF_ESTALE, kvf_peer_info(decode, (kvf_peer){UINT64_C(99) << 32 | 1}, &info), "peer");
	REFUSES(KVF_EINVAL, kvf_peer_info(decode, (kvf_peer){UINT64_C(1) << 32 | 65}, &info), "peer");
	WORKS(kvf_rx_open(decode, &params, &session));
	REFUSES(KVF_EBUSY, kvf_session_close(decode, session), "RELEASED");
	next = tx(7, 8);
	WORKS(send(next, 0, 8, 1, 1));
	assert_int_equal(finish(decode, session), KVF_OK);
	REFUSES(KVF_ESTALE, kvf_session_close(decode, session), "closed");
	REFUSES(KVF_ESTALE, kvf_session_state(decode, session, &session_state), "closed");
	REFUSES(KVF_ESTALE, kvf_session_stats(decode, session, &stats), "closed");
	REFUSES(KVF_ESTALE, kvf_session_bad_blocks(decode, session, 0, NULL, 0, &n), "closed");
	params.request_id = 8;
	WORKS(kvf_rx_open(decode, &params, &next)); /* the slot again, under another generation */
	assert_true(next.bits != session.bits);
	REFUSES(KVF_ESTALE, kvf_session_stats(decode, session, &stats), "closed");
	REFUSES(KVF_ESTALE, kvf_session_state(decode, session, &session_state), "closed");
	WORKS(kvf_session_state(decode, next, &session_state));
}

static void t_block_ids_out_of_range(void **state)
{
	static const int32_t high[] = {0, 1, 16, 3}, lowest[] = {0, 1, INT32_MIN, INT32_MAX};
	static const int32_t many[] = {0, 1, 2, 3, 4};
	struct kvf_blocks list = {0, 4, high}, twice[2] = {{0, 4, many}, {0, 4, many}};
	struct kvf_rx_params params = rx_params(1, &list);
	struct kvf_slice slice = {.token_end = 32, .last = 1, .n_lists = 1, .lists = &list};
	kvf_session session = tx(1, 32), ignored;

	(void)state;
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &params, &ignored), "ids[2]: 16");
	REFUSES(KVF_EINVAL, kvf_tx_send(prefill, session, &slice, NULL), "ids[2]: 16");
	list.ids = lowest;
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &params, &ignored), "ids[3]");
	list = (struct kvf_blocks){0, 5, many};
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &params, &ignored), "5 ids");
	REFUSES(KVF_EINVAL, kvf_tx_send(prefill, session, &slice, NULL), "5 ids");
	list = (struct kvf_blocks){1, 4, many};
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &params, &ignored), "group: 1");
	list = (struct kvf_blocks){0, 4, NULL};
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &params, &ignored), "ids is NULL");
	params.n_lists = 2;
	params.lists = twice;
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &params, &ignored), "twice");
	params.n_lists = 9;
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &params, &ignored), "lists");
	params.n_lists = 1;
	params.lists = NULL;
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &params, &ignored), "lists");
	WORKS(send(session, 0, 32, 1, 4));
}

static void t_negative_ids_are_no_pages(void **state)
{
	static const int32_t holes[] = {3, -1, INT32_MIN, 5};
	struct kvf_blocks list = {0, 4, holes};
	struct kvf_rx_params params = rx_params(2, &list);
	kvf_session from = tx(2, 32), to;

	(void)state;
	memset(cluster.ranks[1][0].memory, 0xa5, cluster.ranks[1][0].memory_bytes);
	memset(cluster.ranks[0][0].memory, 0x11, cluster.ranks[0][0].memory_bytes);
	WORKS(kvf_rx_open(decode, &params, &to));
	WORKS(send(from, 0, 32, 1, 4));
	{
		uint64_t block = cluster.ranks[1][0].memory_bytes / 16;
		enum kvf_status outcome = finish(decode, to);

		assert_int_equal(outcome, KVF_OK);
		for (uint64_t b = 0; b < 16; b++)
			assert_int_equal(
				cluster.ranks[1][0].memory[b * block], b == 3 || b == 5 ? 0x11 : 0xa5);
	}
}

static void t_prompt_lengths_and_other_fields(void **state)
{
	static const int32_t ids[] = {0, 1, 2, 3};
	struct kvf_blocks list = {0, 4, ids};
	struct kvf_rx_params rx = rx_params(1, &list);
	struct kvf_tx_params params = {.request_id = 1, .prompt_len = 0};
	unsigned char ticket[KVF_TICKET_MAX_BYTES];
	kvf_session session;
	size_t len;

	(void)state;
	REFUSES(KVF_EINVAL, kvf_tx_open(prefill, &params, &session), "prompt_len: 0");
	REFUSES(KVF_EINVAL, kvf_ticket_new(prefill, &params, ticket, sizeof(ticket), &len), "prompt_len: 0");
	params.prompt_len = KVF_MAX_TOKENS + 1;
	REFUSES(KVF_EINVAL, kvf_tx_open(prefill, &params, &session), "prompt_len");
	params = (struct kvf_tx_params){.request_id = 1, .prompt_len = 8, .dp_index = 1};
	REFUSES(KVF_EINVAL, kvf_tx_open(prefill, &params, &session), "dp_index: 1");
	REFUSES(KVF_EINVAL, kvf_ticket_new(prefill, &params, ticket, sizeof(ticket), &len), "dp_index: 1");
	params.dp_index = 0;
	REFUSES(KVF_EFULL, kvf_ticket_new(prefill, &params, ticket, 8, &len), "8 bytes");
	rx.prompt_len = 0;
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &rx, &session), "prompt_len: 0");
	rx.prompt_len = KVF_MAX_TOKENS + 1;
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &rx, &session), "prompt_len");
	rx.prompt_len = 32;
	rx.aux_slot = 4;
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &rx, &session), "aux_slot: 4");
	rx.aux_slot = KVF_NO_AUX;
	rx.replica = (enum kvf_replica)2;
	REFUSES(KVF_EINVAL, kvf_rx_open(decode, &rx, &session), "replica: 2");
}

static void t_slices_must_tile(void **state)
{
	kvf_session session = tx(1, 64);

	(void)state;
	REFUSES(KVF_EINVAL, send(session, 16, 8, 0, 0), "tokens [16, 8)");
	REFUSES(KVF_EINVAL, send(session, 0, 72, 1, 0), "prompt of 64");
	WORKS(send(session, 0, 16, 0, 2));
	REFUSES(KVF_EINVAL, send(session, 24, 32, 0, 1), "the next one is 16");
	REFUSES(KVF_EINVAL, send(session, 8, 32, 0, 1), "the next one is 16");
	REFUSES(KVF_EINVAL, send(session, 0, 16, 0, 2), "the next one is 16");
	REFUSES(KVF_EINVAL, send(session, 16, 32, 1, 2), "last");
	REFUSES(KVF_EINVAL, send(session, 16, 64, 0, 6), "last");
	REFUSES(KVF_EINVAL, send(session, 16, 32, 0, 3), "3 ids");
	WORKS(send(session, 16, 64, 1, 6));
	REFUSES(KVF_EINVAL, send(session, 16, 64, 1, 6), "last one was sent");
}

static enum kvf_status send_layers(kvf_session session, uint32_t start, uint32_t end, uint32_t last)
{
	static const int32_t ids[] = {0, 1, 2, 3};
	struct kvf_blocks list = {0, 4, ids};
	struct kvf_slice slice = {.token_end = 32,
		.layer_start = start,
		.layer_end = end,
		.last = last,
		.n_lists = 1,
		.lists = &list};

	return kvf_tx_send(prefill, session, &slice, NULL);
}

static void t_layers_of_a_token_range_must_tile(void **state)
{
	kvf_session session = tx(1, 32);

	(void)state;
	REFUSES(KVF_EINVAL, send_layers(session, 2, 2, 0), "layers [2, 2)");
	REFUSES(KVF_EINVAL, send_layers(session, 3, 2, 0), "layers [3, 2)");
	REFUSES(KVF_EINVAL, send_layers(session, 1, 2, 0), "leaves earlier ones out");
	WORKS(send_layers(session, 0, 2, 0));
	REFUSES(KVF_EINVAL, send_layers(session, 1, 3, 0), "the next one is 2");
	REFUSES(KVF_EINVAL, send_layers(session, 3, 4, 1), "the next one is 2");
	REFUSES(KVF_EINVAL, send_layers(session, 2, 3, 1), "layers left");
	REFUSES(KVF_EINVAL, send_layers(session, 2, 4, 0), "last");
	WORKS(send_layers(session, 2, 4, 1));
}

static void t_aux_twice_or_too_big(void **state)
{
	static char big[KVF_MAX_AUX_BYTES + 1];
	kvf_session session = tx(1, 32);

	(void)state;
	REFUSES(KVF_EINVAL, kvf_tx_send_aux(prefill, session, big, sizeof(big)), "at most 65536");
	REFUSES(KVF_EINVAL, kvf_tx_send_aux(prefill, session, NULL, 4), "aux");
	WORKS(kvf_tx_send_aux(prefill, session, "aux", 4));
	REFUSES(KVF_EINVAL, kvf_tx_send_aux(prefill, session, "aux", 4), "already");
}

static bool both_released(struct cluster *world, void *argument)
{
	(void)argument;
	return world->ranks[0][0].released && world->ranks[1][0].released;
}

/* The slot of the receiver is smaller than what is sent. */
static void t_aux_that_does_not_fit_fails_both_sides(void **state)
{
	static const int32_t ids[] = {0, 1, 2, 3};
	struct kvf_blocks list = {0, 4, ids};
	struct kvf_rx_params params = rx_params(3, &list);
	kvf_session from = tx(3, 32), to;
	char big[65] = {1}, text[256];

	(void)state;
	params.aux_slot = 3;
	WORKS(kvf_rx_open(decode, &params, &to));
	WORKS(kvf_tx_send_aux(prefill, from, big, sizeof(big)));
	WORKS(send(from, 0, 32, 1, 4));
	cluster_watch(&cluster, 0, 0, from);
	cluster_watch(&cluster, 1, 0, to);
	cluster_until(&cluster, both_released, NULL);
	assert_int_equal(cluster.ranks[1][0].status, KVF_AUX_REFUSED);
	WORKS(kvf_session_error(decode, to, text, sizeof(text)));
	assert_non_null(strstr(text, "65"));
	assert_non_null(strstr(text, "64"));
	assert_int_equal(cluster.ranks[0][0].status, KVF_AUX_REFUSED);
	WORKS(kvf_session_close(decode, to));
	WORKS(kvf_session_close(prefill, from));
}

static void t_a_live_request_is_a_duplicate_until_it_was_released(void **state)
{
	static const int32_t ids[] = {0, 1, 2, 3};
	struct kvf_blocks list = {0, 4, ids};
	struct kvf_rx_params params = rx_params(5, &list);
	struct kvf_tx_params again = {.request_id = 5, .prompt_len = 32};

	(void)state;
	for (int round = 0; round < 2; round++) {
		kvf_session from = tx(5, 32), to, other;

		WORKS(kvf_rx_open(decode, &params, &to));
		REFUSES(KVF_DUPLICATE, kvf_tx_open(prefill, &again, &other), "request 5 attempt 0");
		REFUSES(KVF_DUPLICATE, kvf_rx_open(decode, &params, &other), "request 5 attempt 0");
		WORKS(send(from, 0, 32, 1, 4));
		assert_int_equal(finish(decode, to), KVF_OK);
		assert_int_equal(finish(prefill, from), KVF_OK);
	}
	again.attempt = 1; /* another attempt is another request */
	{
		kvf_session first = tx(5, 32), second;

		WORKS(kvf_tx_open(prefill, &again, &second));
		assert_true(first.bits != second.bits);
	}
}

static void t_prompt_lengths_that_differ_fail_both_sides_by_name(void **state)
{
	static const int32_t ids[] = {0, 1, 2, 3};
	struct kvf_blocks list = {0, 4, ids};
	struct kvf_rx_params params = rx_params(6, &list);
	char text[256];

	(void)state;
	for (int order = 0; order < 2; order++) {
		kvf_session from, to;

		params.request_id++;
		if (order == 0)
			WORKS(kvf_rx_open(decode, &params, &to));
		from = tx(params.request_id, 31);
		WORKS(send(from, 0, 31, 1, 4));
		if (order == 1)
			WORKS(kvf_rx_open(decode, &params, &to));
		cluster_watch(&cluster, 0, 0, from);
		cluster_watch(&cluster, 1, 0, to);
		cluster_until(&cluster, both_released, NULL);
		for (int side = 0; side < 2; side++) {
			assert_int_equal(cluster.ranks[side][0].status, KVF_PROMPT_MISMATCH);
			WORKS(kvf_session_error(
				side == 0 ? prefill : decode, side == 0 ? from : to, text, sizeof(text)));
			assert_non_null(strstr(text, "prompt_len"));
			assert_non_null(strstr(text, "31"));
			assert_non_null(strstr(text, "32"));
		}
		WORKS(kvf_session_close(prefill, from));
		WORKS(kvf_session_close(decode, to));
	}
}

static void t_declared_memory_cannot_be_taken_away(void **state)
{
	char plain[64];
	kvf_region region, copy;
	void *memory;

	(void)state;
	REFUSES(KVF_EBUSY, kvf_free(decode, cluster.ranks[1][0].region), "layout");
	REFUSES(KVF_EINVAL, kvf_unregister(decode, cluster.ranks[1][0].region), "kvf_alloc");
	WORKS(kvf_register(decode, plain, sizeof(plain), &region));
	REFUSES(KVF_EINVAL, kvf_free(decode, region), "kvf_register");
	WORKS(kvf_unregister(decode, region));
	REFUSES(KVF_ESTALE, kvf_unregister(decode, region), "region");
	WORKS(kvf_alloc(decode, 100, &memory, &copy));
	memset(memory, 1, 100);
	REFUSES(KVF_ESTALE, kvf_unregister(decode, region), "region");
	WORKS(kvf_free(decode, copy));
	REFUSES(KVF_ESTALE, kvf_free(decode, copy), "region");
	REFUSES(KVF_EBUSY, kvf_declare(decode, cluster.instances[1], 0, cluster.ranks[1][0].layout),
		"already");
}

static int open_threaded(void **state)
{
	struct cluster_spec spec = attempt_spec(&group);

	(void)state;
	spec.own_thread = true;
	open_with(&spec);
	return 0;
}

/* The signal for an event may come after the poll that took it. A descriptor that then stayed readable would keep its user spinning. */
static void t_the_descriptor_falls_silent_when_polls_find_nothing(void **state)
{
	(void)state;
	for (uint64_t id = 1; id <= 50; id++) {
		struct cluster_request request = {.id = id, .prompt_len = 64, .aux = true};
		struct pollfd fd = {.fd = kvf_fd(decode), .events = POLLIN};
		struct kvf_event event;
		int looks = 0;

		cluster_run(&cluster, &request);
		while (poll(&fd, 1, 0) > 0) {
			assert_int_equal(kvf_poll(decode, &event, 1), 0);
			assert_true(++looks < 1000);
		}
		assert_int_equal(kvf_wait(decode, 1000000), KVF_TIMED_OUT);
	}
}

int main(void)
{
#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, open_world, close_world)
	const struct CMUnitTest tests[] = {
		IN_WORLD(t_null_arguments_are_refused),
		IN_WORLD(t_calls_of_the_other_role_are_refused),
		IN_WORLD(t_handles_that_are_stale_or_never_were),
		IN_WORLD(t_block_ids_out_of_range),
		IN_WORLD(t_negative_ids_are_no_pages),
		IN_WORLD(t_prompt_lengths_and_other_fields),
		IN_WORLD(t_slices_must_tile),
		IN_WORLD(t_layers_of_a_token_range_must_tile),
		IN_WORLD(t_aux_twice_or_too_big),
		IN_WORLD(t_aux_that_does_not_fit_fails_both_sides),
		IN_WORLD(t_a_live_request_is_a_duplicate_until_it_was_released),
		IN_WORLD(t_prompt_lengths_that_differ_fail_both_sides_by_name),
		IN_WORLD(t_declared_memory_cannot_be_taken_away),
		cmocka_unit_test_setup_teardown(
			t_the_descriptor_falls_silent_when_polls_find_nothing, open_threaded, close_world),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
