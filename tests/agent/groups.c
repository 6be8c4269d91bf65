/* groups.c - rounds of a group over the control channel: gathered by all, whatever is late, lost, gone or misused. Argument: the control channel. */
#include "attempt.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "solo.h"

#define MEMBERS   4u
#define MAX_BYTES 4096u
#define LIMIT_NS  UINT64_C(20000000000)

static const char *control = "inproc";

struct member {
	struct solo solo;
	kvf_group_handle group;
	struct kvf_group_part parts[KVF_GROUP_MAX_RANKS];
};

static struct member members[MEMBERS];
static char endpoints[MEMBERS][256];

static const char *name_of(uint32_t rank)
{
	static unsigned turn;

	if (strcmp(control, "zmq") == 0)
		(void)snprintf(
			endpoints[rank], sizeof(endpoints[0]), "ipc://%s/member-%u", solo_directory(), rank);
	else
		(void)snprintf(
			endpoints[rank], sizeof(endpoints[0]), "inproc://kvft-group-%u-%u", turn++, rank);
	return endpoints[rank];
}

static struct solo_spec spec_of(uint32_t rank, bool own_thread)
{
	struct solo_spec spec = solo_spec(KVF_DECODE, control, "loop");

	spec.parallel.tp = MEMBERS;
	spec.rank = rank;
	spec.own_thread = own_thread;
	spec.plain_memory = true;
	return spec;
}

static void open_member(uint32_t rank, bool own_thread)
{
	struct solo_spec spec = spec_of(rank, own_thread);

	if (endpoints[rank][0] == '\0')
		(void)name_of(rank);
	spec.listen = endpoints[rank];
	solo_open(&members[rank].solo, &spec);
}

static struct kvf_group_params params_of(uint32_t rank)
{
	static const char *where[MEMBERS];

	for (uint32_t i = 0; i < MEMBERS; i++)
		where[i] = endpoints[i];
	return (struct kvf_group_params){
		.group_id = 9, .rank = rank, .n_ranks = MEMBERS, .endpoints = where, .max_bytes = MAX_BYTES};
}

static void join(uint32_t rank)
{
	const struct kvf_group_params params = params_of(rank);

	WORKS(kvf_group_open(members[rank].solo.agent, &params, &members[rank].group));
}

static int open_all(void **state, bool own_thread)
{
	(void)state;
	memset(members, 0, sizeof(members));
	for (uint32_t i = 0; i < MEMBERS; i++) {
		(void)name_of(i);
		open_member(i, own_thread);
	}
	return 0;
}

static int open_polled(void **state)
{
	return open_all(state, false);
}

static int open_threaded(void **state)
{
	return open_all(state, true);
}

static int close_all(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < MEMBERS; i++)
		if (members[i].solo.agent != NULL)
			solo_close(&members[i].solo);
	solo_directory_remove();
	return 0;
}

/* What rank says in a round: some lengths are 0, some the most there may be. */
static uint32_t words_of(uint32_t rank, uint64_t round, unsigned char *bytes)
{
	const uint32_t len = (uint32_t)(round * 7 + rank) % 3 == 0
	                             ? 0
	                             : (uint32_t)(round * 911 + rank * 97) % (MAX_BYTES + 1);

	for (uint32_t i = 0; i < len; i++)
		bytes[i] = (unsigned char)(rank * 31 + round * 7 + i);
	return len;
}

static void post(uint32_t rank, uint64_t round)
{
	unsigned char bytes[MAX_BYTES];
	const uint32_t len = words_of(rank, round, bytes);

	WORKS(kvf_group_post(members[rank].solo.agent, members[rank].group, round, bytes, len));
	memset(bytes, 0, sizeof(bytes)); /* copied */
}

static enum kvf_status test(uint32_t rank)
{
	solo_poll(&members[rank].solo);
	return kvf_group_test(members[rank].solo.agent, members[rank].group, members[rank].parts);
}

static void check_parts(uint32_t rank, uint64_t round)
{
	unsigned char bytes[MAX_BYTES];

	for (uint32_t i = 0; i < MEMBERS; i++) {
		const struct kvf_group_part *part = &members[rank].parts[i];

		assert_int_equal(part->len_bytes, words_of(i, round, bytes));
		if (part->len_bytes > 0)
			assert_memory_equal(part->bytes, bytes, part->len_bytes);
	}
}

/* Ticks all of a set until every one of them has that answer. */
static void until(uint32_t set, enum kvf_status wanted)
{
	const uint64_t end_ns = attempt_now_ns() + LIMIT_NS;
	uint32_t left = set;

	while (left != 0) {
		for (uint32_t i = 0; i < MEMBERS; i++) {
			enum kvf_status status;

			if (members[i].solo.agent == NULL || members[i].group.bits == 0)
				continue;
			if ((left & 1u << i) == 0) {
				solo_poll(&members[i].solo);
				continue;
			}
			status = test(i);
			if (status == wanted)
				left &= ~(1u << i);
			else if (status != KVF_EAGAIN)
				fail_msg("member %u: %s: %s", i, kvf_status_name(status), kvf_error());
		}
		if (attempt_now_ns() > end_ns)
			fail_msg("members %x never had %s", left, kvf_status_name(wanted));
		attempt_breathe();
	}
}

#define ALL ((1u << MEMBERS) - 1)

static void round_of_all(uint64_t round)
{
	for (uint32_t i = 0; i < MEMBERS; i++)
		post(i, round);
	until(ALL, KVF_OK);
	for (uint32_t i = 0; i < MEMBERS; i++)
		check_parts(i, round);
}

/* ---- tests ---- */

static void every_member_hears_every_member_in_every_round(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < MEMBERS; i++)
		join(i);
	for (uint64_t round = 1; round <= 40; round++)
		round_of_all(round);
}

/* The first words are said to nobody: they are said again. */
static void a_member_may_open_and_speak_late(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < MEMBERS - 1; i++) {
		join(i);
		post(i, 1);
	}
	for (int n = 0; n < 50; n++)
		for (uint32_t i = 0; i < MEMBERS - 1; i++)
			assert_int_equal(test(i), KVF_EAGAIN);
	join(MEMBERS - 1);
	for (int n = 0; n < 50; n++)
		for (uint32_t i = 0; i < MEMBERS - 1; i++)
			assert_int_equal(test(i), KVF_EAGAIN);
	post(MEMBERS - 1, 1);
	until(ALL, KVF_OK);
	for (uint32_t i = 0; i < MEMBERS; i++)
		check_parts(i, 1);
	round_of_all(2);
}

/* One that is slow in a round hears of the next one before it is in it, and misses nothing. */
static void a_round_ahead_is_kept_for_who_is_behind(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < MEMBERS; i++)
		join(i);
	for (uint64_t round = 1; round <= 10; round++) {
		const uint32_t slow = (uint32_t)round % MEMBERS;

		for (uint32_t i = 0; i < MEMBERS; i++)
			if (i != slow)
				post(i, round * 2 - 1);
		post(slow, round * 2 - 1);
		until(ALL & ~(1u << slow), KVF_OK);
		for (uint32_t i = 0; i < MEMBERS; i++)
			if (i != slow)
				post(i, round * 2);
		until(1u << slow, KVF_OK);
		check_parts(slow, round * 2 - 1);
		post(slow, round * 2);
		until(ALL, KVF_OK);
		for (uint32_t i = 0; i < MEMBERS; i++)
			check_parts(i, round * 2);
	}
}

static void a_group_of_one_is_over_at_once(void **state)
{
	const char *none[1] = {NULL};
	struct kvf_group_params params = {.group_id = 1, .n_ranks = 1, .endpoints = none, .max_bytes = 8};
	kvf_agent *agent = members[0].solo.agent;
	struct kvf_group_part part;
	kvf_group_handle group;

	(void)state;
	WORKS(kvf_group_open(agent, &params, &group));
	for (uint64_t round = 1; round < 4; round++) {
		WORKS(kvf_group_post(agent, group, round, &round, sizeof(round)));
		WORKS(kvf_group_test(agent, group, &part));
		assert_int_equal(part.len_bytes, sizeof(round));
		assert_memory_equal(part.bytes, &round, sizeof(round));
	}
	WORKS(kvf_group_close(agent, group));
	REFUSES(KVF_ESTALE, kvf_group_test(agent, group, &part), "closed");
	REFUSES(KVF_ESTALE, kvf_group_close(agent, group), "closed");
}

/* The one that leaves has said its last word; those that need no more of it go on to the end of the round. */
static void who_has_left_is_lost_when_it_is_awaited(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < MEMBERS; i++)
		join(i);
	round_of_all(1);
	post(2, 2);
	WORKS(kvf_group_close(members[2].solo.agent, members[2].group));
	members[2].group.bits = 0;
	for (uint32_t i = 0; i < MEMBERS; i++)
		if (i != 2)
			post(i, 2);
	for (uint64_t end_ns = attempt_now_ns() + LIMIT_NS; attempt_now_ns() < end_ns;) {
		solo_poll(&members[2].solo);
		if (test(0) == KVF_OK && test(1) == KVF_OK && test(3) == KVF_OK)
			break;
	}
	for (uint32_t i = 0; i < MEMBERS; i++) {
		if (i == 2)
			continue;
		check_parts(i, 2);
		post(i, 3);
	}
	until(ALL & ~(1u << 2), KVF_PEER_LOST);
	assert_non_null(strstr(kvf_error(), "member 2"));
	until(ALL & ~(1u << 2), KVF_PEER_LOST); /* for good */
}

/* A new incarnation in a known place: the group is told, and never takes its words for the old one's. */
static void a_member_that_restarts_is_lost(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < MEMBERS; i++)
		join(i);
	round_of_all(1);
	for (uint32_t i = 0; i < MEMBERS; i++)
		if (i != 1)
			post(i, 2);
	solo_close(&members[1].solo);
	members[1].group.bits = 0;
	open_member(1, false);
	join(1);
	post(1, 1);
	until(ALL & ~(1u << 1), KVF_PEER_LOST);
	assert_non_null(strstr(kvf_error(), "member 1"));
	until(1u << 1, KVF_PEER_LOST); /* nor does it wait for the others for ever */
}

/* Nothing is told of a member that says nothing: the round stays open, and nobody waits in a call. */
static void t_p47_a_silent_member_leaves_the_round_open_and_blocks_nobody(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < MEMBERS; i++)
		join(i);
	for (uint32_t i = 0; i < MEMBERS - 1; i++)
		post(i, 1);
	for (int n = 0; n < 1000; n++)
		for (uint32_t i = 0; i < MEMBERS - 1; i++)
			assert_int_equal(test(i), KVF_EAGAIN);
	for (uint64_t end_ns = attempt_now_ns() + LIMIT_NS; attempt_now_ns() < end_ns;)
		if (test(0) == KVF_EAGAIN && strstr(kvf_error(), "awaits member 3, and 0 more") != NULL)
			break;
	assert_non_null(strstr(kvf_error(), "awaits member 3"));
	post(MEMBERS - 1, 1);
	until(ALL, KVF_OK);
}

static void another_group_under_the_same_id_is_refused(void **state)
{
	struct kvf_group_params params = params_of(1);

	(void)state;
	join(0);
	params.n_ranks = 3;
	WORKS(kvf_group_open(members[1].solo.agent, &params, &members[1].group));
	post(0, 1);
	post(1, 1);
	until(3, KVF_INCOMPATIBLE);
	assert_non_null(strstr(kvf_error(), "number of members"));
}

static void two_with_one_place_are_refused(void **state)
{
	struct kvf_group_params params = params_of(0);
	const char *where[MEMBERS];

	(void)state;
	memcpy(where, params.endpoints, sizeof(where));
	where[2] = endpoints[0];
	params.endpoints = where;
	join(0);
	WORKS(kvf_group_open(members[1].solo.agent, &params, &members[1].group));
	post(1, 1);
	post(0, 1);
	until(1, KVF_INCOMPATIBLE);
	assert_non_null(strstr(kvf_error(), "place"));
}

static void what_makes_no_sense_is_refused(void **state)
{
	kvf_agent *agent = members[0].solo.agent;
	struct kvf_group_params params;
	kvf_group_handle group = {77}, other;
	struct kvf_group_part parts[MEMBERS];
	const char *where[MEMBERS];
	unsigned char bytes[MAX_BYTES + 1] = {0};

	(void)state;
#define WRONG(status, field, value, word)                                                                    \
	params = params_of(0);                                                                               \
	params.field = (value);                                                                              \
	REFUSES((status), kvf_group_open(agent, &params, &group), (word))
	WRONG(KVF_EINVAL, n_ranks, 0, "n_ranks: 0");
	WRONG(KVF_EINVAL, n_ranks, KVF_GROUP_MAX_RANKS + 1, "n_ranks: 65");
	WRONG(KVF_EINVAL, rank, MEMBERS, "rank: 4");
	WRONG(KVF_EINVAL, max_bytes, 0, "max_bytes: 0");
	WRONG(KVF_EINVAL, max_bytes, KVF_GROUP_MAX_BYTES + 1, "max_bytes: 1048577");
	WRONG(KVF_EINVAL, endpoints, NULL, "endpoints");
	memcpy(where, params_of(0).endpoints, sizeof(where));
	where[3] = "";
	WRONG(KVF_EINVAL, endpoints, where, "endpoints[3]");
	where[3] = "nonsense";
	WRONG(KVF_EINVAL, endpoints, where, "nonsense");
	assert_int_equal(group.bits, 77);
	REFUSES(KVF_EINVAL, kvf_group_open(NULL, &params, &group), "agent");
	REFUSES(KVF_EINVAL, kvf_group_test(agent, (kvf_group_handle){0}, parts), "never");
	REFUSES(KVF_EINVAL, kvf_group_post(agent, (kvf_group_handle){99}, 1, bytes, 1), "never");

	join(0);
	params = params_of(0);
	REFUSES(KVF_DUPLICATE, kvf_group_open(agent, &params, &other), "9");
	group = members[0].group;
	REFUSES(KVF_EINVAL, kvf_group_test(agent, group, parts), "no round");
	REFUSES(KVF_EINVAL, kvf_group_post(agent, group, 2, bytes, 1), "next one is 1");
	REFUSES(KVF_EINVAL, kvf_group_post(agent, group, 0, bytes, 1), "next one is 1");
	REFUSES(KVF_EINVAL, kvf_group_post(agent, group, 1, bytes, MAX_BYTES + 1), "len_bytes: 4097");
	REFUSES(KVF_EINVAL, kvf_group_post(agent, group, 1, NULL, 1), "bytes");
	WORKS(kvf_group_post(agent, group, 1, NULL, 0));
	REFUSES(KVF_EBUSY, kvf_group_post(agent, group, 2, bytes, 1), "round: 1 is open");
	REFUSES(KVF_EINVAL, kvf_group_test(agent, group, NULL), "parts_out");
}

static void tables_are_bounded(void **state)
{
	kvf_agent *agent = members[0].solo.agent;
	const char *where[KVF_GROUP_MAX_RANKS];
	struct kvf_group_params params = {.n_ranks = KVF_GROUP_MAX_RANKS, .endpoints = where, .max_bytes = 1};
	kvf_group_handle groups[9];

	(void)state;
	for (uint32_t i = 0; i < KVF_GROUP_MAX_RANKS; i++)
		where[i] = endpoints[i % MEMBERS];
	for (params.group_id = 1; params.group_id <= 2; params.group_id++)
		WORKS(kvf_group_open(agent, &params, &groups[params.group_id]));
	REFUSES(KVF_EFULL, kvf_group_open(agent, &params, &groups[0]), "n_ranks: 64");
	WORKS(kvf_group_close(agent, groups[1]));
	WORKS(kvf_group_close(agent, groups[2]));
	params.n_ranks = 1; /* places come back when the closed ones have had their last word */
	for (uint64_t end_ns = attempt_now_ns() + LIMIT_NS; params.group_id < 11;) {
		solo_poll(&members[0].solo);
		if (kvf_group_open(agent, &params, &groups[params.group_id - 3]) == KVF_OK)
			params.group_id++;
		assert_true(attempt_now_ns() < end_ns);
	}
	REFUSES(KVF_EFULL, kvf_group_open(agent, &params, &groups[8]), "8 groups");
}

static void who_does_not_listen_or_has_not_declared_is_refused(void **state)
{
	struct solo_spec spec = spec_of(3, false);
	struct kvf_group_params params = params_of(3);
	struct solo solo;

	(void)state;
	solo_open(&solo, &spec);
	REFUSES(KVF_EINVAL, kvf_group_open(solo.agent, &params, &members[3].group), "listen");
	solo_close(&solo);
	spec.listen = name_of(2);
	solo_close(&members[2].solo);
	solo_open_undeclared(&solo, &spec);
	REFUSES(KVF_EINVAL, kvf_group_open(solo.agent, &params, &members[3].group), "kvf_declare");
	solo_close(&solo);
}

int main(int argc, char **argv)
{
#define POLLED(test)   cmocka_unit_test_setup_teardown(test, open_polled, close_all)
#define THREADED(test) cmocka_unit_test_setup_teardown(test, open_threaded, close_all)
	const struct CMUnitTest tests[] = {
		POLLED(every_member_hears_every_member_in_every_round),
		THREADED(every_member_hears_every_member_in_every_round),
		POLLED(a_member_may_open_and_speak_late),
		THREADED(a_member_may_open_and_speak_late),
		POLLED(a_round_ahead_is_kept_for_who_is_behind),
		THREADED(a_round_ahead_is_kept_for_who_is_behind),
		POLLED(a_group_of_one_is_over_at_once),
		POLLED(who_has_left_is_lost_when_it_is_awaited),
		POLLED(a_member_that_restarts_is_lost),
		POLLED(t_p47_a_silent_member_leaves_the_round_open_and_blocks_nobody),
		POLLED(another_group_under_the_same_id_is_refused),
		POLLED(two_with_one_place_are_refused),
		POLLED(what_makes_no_sense_is_refused),
		POLLED(tables_are_bounded),
		POLLED(who_does_not_listen_or_has_not_declared_is_refused),
	};

	if (argc > 1)
		control = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
