/* agent_groups.c - rounds of a group over a control channel that loses, repeats, delays, overtakes and damages, in virtual time, by seed.
 *
 * Every agent is real; its control channel is the in-process one with a bad wire in front of send(). Whatever happens to the messages, every round
 * ends at every member with what every member said in it, and nobody is taken for lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "agent/seams.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "device/host.h"
#include "transport/loop.h"
#include "wire/codec.h"

#define MEMBERS   5u
#define MAX_BYTES 600u
#define HELD_MAX  64u

/* ---- a clock ---- */

static uint64_t time_ns = 1000 * KVFI_NS_PER_S;

static uint64_t fake_time(void *self)
{
	(void)self;
	return time_ns;
}

/* ---- a bad wire ---- */

static uint64_t random_state;

static uint32_t draw(uint32_t n)
{
	return (uint32_t)(kvfi_mix64(random_state++) % n);
}

struct held {
	struct kvfi_control *control;
	uint32_t way, turns;
	struct kvfi_msg msg;
};

static struct held held[HELD_MAX];
static uint32_t n_held, lost_of_100;
static struct kvfi_control_ops bad_ops;

/* One bit of the bytes is wrong; what can still be read goes on. */
static void send_damaged(struct kvfi_control *control, uint32_t way, const struct kvfi_msg *msg)
{
	unsigned char bytes[2048];
	struct kvfi_msg damaged;
	size_t len;

	assert_int_equal(kvfi_msg_encode(msg, bytes, sizeof(bytes), &len), KVF_OK);
	bytes[draw((uint32_t)len)] ^= (unsigned char)(1u << draw(8));
	if (kvfi_msg_decode(bytes, len, &damaged) != KVF_OK)
		return;
	(void)kvfi_control_inproc.send(control, way, &damaged);
	kvfi_msg_fini(&damaged);
}

static void hold(struct kvfi_control *control, uint32_t way, const struct kvfi_msg *msg)
{
	if (n_held == HELD_MAX)
		return;
	held[n_held] = (struct held){.control = control, .way = way, .turns = 1 + draw(40)};
	assert_int_equal(kvfi_msg_dup(msg, &held[n_held++].msg), KVF_OK);
}

static void let_go(void)
{
	for (uint32_t i = n_held; i-- > 0;) {
		struct held *one = &held[i];

		if (--one->turns > 0)
			continue;
		(void)kvfi_control_inproc.send(one->control, one->way, &one->msg);
		kvfi_msg_fini(&one->msg);
		held[i] = held[--n_held];
	}
}

static bool bad_send(struct kvfi_control *control, uint32_t way, const struct kvfi_msg *msg)
{
	const uint32_t luck = draw(100);

	if (luck < lost_of_100)
		return true;
	if (luck < 40)
		hold(control, way, msg);
	if (luck >= 30 && luck < 50)
		send_damaged(control, way, msg);
	if (luck >= 36)
		(void)kvfi_control_inproc.send(control, way, msg);
	return true;
}

static enum kvf_status bad_open(const struct kvfi_control_env *env, struct kvfi_control **control_out)
{
	enum kvf_status status = kvfi_control_inproc.open(env, control_out);

	if (status == KVF_OK)
		((struct kvfi_control_base *)(void *)*control_out)->ops = &bad_ops;
	return status;
}

/* ---- members ---- */

struct member {
	kvf_agent *agent;
	kvf_group_handle group;
	unsigned char *memory;
	uint64_t round; /* that is open */
};

static struct member members[MEMBERS];
static const char *const endpoints[MEMBERS] = {
	"inproc://bad-0", "inproc://bad-1", "inproc://bad-2", "inproc://bad-3", "inproc://bad-4"};

static void never_submit(void *self, struct kvfi_job *job)
{
	(void)self;
	(void)job;
	fail_msg("nothing is copied here");
}

static void works(enum kvf_status status, int line)
{
	if (status != KVF_OK)
		fail_msg("line %d: %s: %s", line, kvf_status_name(status), kvf_error());
}
#define WORKS(call) works((call), __LINE__)

static void declare(struct member *member, uint32_t rank)
{
	static const uint32_t layers[] = {0};
	static const struct kvf_group_spec spec = {KVF_PAGED, KVF_BF16, 0, 1, layers, 1, {{MEMBERS, 64}}};
	static const struct kvf_model model = {"toy", "1", 1, &spec};
	const struct kvf_parallel parallel = {MEMBERS, 1, 1, 1, NULL, NULL};
	const struct kvf_layout_options order = {KVF_BLOCK_MAJOR, 8, 2, 0};
	struct kvf_instance *instance;
	struct kvf_layout *layout;
	kvf_region region;
	uint64_t bytes;

	WORKS(kvf_instance_new(&model, &parallel, KVF_DECODE, 5, &instance));
	WORKS(kvf_layout_new(&model, instance, rank, &order, &layout, &bytes));
	member->memory = aligned_alloc(4096, (bytes + 4095) & ~UINT64_C(4095));
	assert_non_null(member->memory);
	WORKS(kvf_register(member->agent, member->memory, bytes, &region));
	kvf_layout_move(layout, (uint64_t)(uintptr_t)member->memory);
	WORKS(kvf_declare(member->agent, instance, rank, layout));
	kvf_layout_free(layout);
	kvf_instance_free(instance);
}

static void open_member(uint32_t rank)
{
	const struct kvfi_agent_seams seams = {.control = &bad_ops,
		.n_transports = 1,
		.transports = {&kvfi_transport_loop},
		.submit = never_submit};
	const struct kvf_group_params params = {.group_id = 3,
		.rank = rank,
		.n_ranks = MEMBERS,
		.endpoints = endpoints,
		.max_bytes = MAX_BYTES};
	struct member *member = &members[rank];
	struct kvf_options options;

	memset(member, 0, sizeof(*member));
	kvf_options_init(&options);
	options.progress_thread = 0;
	options.listen = endpoints[rank];
	options.max_peers = 4;
	options.max_sessions = 4;
	options.max_links = 16;
	options.max_slices = 16;
	options.max_block_ids = 64;
	WORKS(kvfi_agent_open_with(&options, &seams, &member->agent));
	declare(member, rank);
	WORKS(kvf_group_open(member->agent, &params, &member->group));
}

static void open_all(uint64_t seed)
{
	random_state = kvfi_hash_u64(seed, 1);
	lost_of_100 = 30;
	bad_ops = kvfi_control_inproc;
	bad_ops.open = bad_open;
	bad_ops.send = bad_send;
	for (uint32_t i = 0; i < MEMBERS; i++)
		open_member(i);
}

static void close_all(void)
{
	for (uint32_t i = 0; i < MEMBERS; i++) {
		kvf_agent_close(members[i].agent, 0, NULL);
		free(members[i].memory);
	}
	while (n_held > 0)
		kvfi_msg_fini(&held[--n_held].msg);
}

static uint32_t words_of(uint32_t rank, uint64_t round, unsigned char *bytes)
{
	const uint32_t len = (uint32_t)(kvfi_hash_u64(round, rank) % (MAX_BYTES + 1));

	for (uint32_t i = 0; i < len; i++)
		bytes[i] = (unsigned char)kvfi_hash_u64(round * MEMBERS + rank, i);
	return len;
}

static void post(uint32_t rank)
{
	unsigned char bytes[MAX_BYTES];
	struct member *member = &members[rank];
	const uint32_t len = words_of(rank, ++member->round, bytes);

	WORKS(kvf_group_post(member->agent, member->group, member->round, bytes, len));
}

/* True when the open round has ended; then every word of it is right. */
static bool ended(uint32_t rank, uint64_t seed)
{
	struct kvf_group_part parts[MEMBERS];
	unsigned char bytes[MAX_BYTES];
	const enum kvf_status status = kvf_group_test(members[rank].agent, members[rank].group, parts);

	if (status == KVF_EAGAIN)
		return false;
	if (status != KVF_OK)
		fail_msg("seed %llu: member %u: %s", (unsigned long long)seed, rank, kvf_error());
	for (uint32_t i = 0; i < MEMBERS; i++) {
		const uint32_t len = words_of(i, members[rank].round, bytes);

		if (parts[i].len_bytes != len || (len > 0 && memcmp(parts[i].bytes, bytes, len) != 0))
			fail_msg("seed %llu: member %u, round %llu: the words of member %u are others",
				(unsigned long long)seed, rank, (unsigned long long)members[rank].round, i);
	}
	return true;
}

static void turn(uint64_t seed, uint64_t rounds)
{
	const uint32_t rank = draw(MEMBERS);
	struct kvf_event event;

	time_ns += draw(20) * KVFI_NS_PER_MS;
	let_go();
	assert_true(kvf_poll(members[rank].agent, &event, 1) >= 0);
	if (ended(rank, seed) && members[rank].round < rounds)
		post(rank);
}

static bool all_ended(uint64_t seed, uint64_t rounds)
{
	for (uint32_t i = 0; i < MEMBERS; i++)
		if (members[i].round < rounds || !ended(i, seed))
			return false;
	return true;
}

static void t_p07_rounds_end_whatever_the_wire_does(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 60; seed++) {
		uint32_t turns = 0;

		open_all(seed);
		for (uint32_t i = 0; i < MEMBERS; i++)
			post(i);
		while (!all_ended(seed, 15)) {
			turn(seed, 15);
			if (++turns > 100000)
				fail_msg("seed %llu: a round never ends", (unsigned long long)seed);
		}
		close_all();
	}
}

/* Two that have all they need do not keep each other busy: a quiet group sends nothing. */
static uint32_t sends;

static bool counting_send(struct kvfi_control *control, uint32_t way, const struct kvfi_msg *msg)
{
	sends++;
	return kvfi_control_inproc.send(control, way, msg);
}

static void poll_all(uint32_t times)
{
	struct kvf_event event;

	for (uint32_t n = 0; n < times; n++) {
		time_ns += KVFI_NS_PER_S;
		let_go();
		for (uint32_t i = 0; i < MEMBERS; i++)
			(void)kvf_poll(members[i].agent, &event, 1);
	}
}

static void a_round_that_has_ended_makes_no_more_noise(void **state)
{
	(void)state;
	open_all(1);
	bad_ops.send = counting_send;
	for (uint32_t i = 0; i < MEMBERS; i++)
		post(i);
	while (!all_ended(1, 1))
		poll_all(1);
	assert_int_equal(sends, MEMBERS * (MEMBERS - 1)); /* each word once to each */
	poll_all(100);
	assert_int_equal(sends, MEMBERS * (MEMBERS - 1));

	/* What a bad wire has repeated or held back comes at the end, and is answered once at most. */
	bad_ops.send = bad_send;
	for (uint32_t i = 0; i < MEMBERS; i++)
		post(i);
	while (!all_ended(1, 2))
		poll_all(1);
	bad_ops.send = counting_send;
	poll_all(100);
	sends = 0;
	poll_all(100);
	assert_int_equal(sends, 0);
	close_all();
}

/* Messages that are well made and are lies: to a group that is open, from nobody it knows, of every kind. */
static void strangers_change_nothing_but_what_they_are_told(void **state)
{
	const struct kvfi_control_env env = {.name = "stranger", .incarnation = 99, .max_ways = 8};
	struct kvfi_control *stranger;
	uint32_t way;

	(void)state;
	open_all(7);
	bad_ops.send = kvfi_control_inproc.send;
	assert_int_equal(kvfi_control_inproc.open(&env, &stranger), KVF_OK);
	assert_int_equal(kvfi_control_inproc.connect(stranger, endpoints[0], &way), KVF_OK);
	for (uint32_t i = 0; i < MEMBERS; i++)
		post(i);
	for (uint32_t n = 0; n < 5000; n++) {
		struct kvfi_msg msg = {.header = {.type = KVFI_MSG_GROUP, .from = 99, .instance_id = 5}};
		unsigned char bytes[64] = {0};

		msg.u.group = (struct kvfi_msg_group){.group = draw(2) ? 3 : draw(10),
			.round = draw(4),
			.rank = draw(MEMBERS),
			.members = MEMBERS,
			.flags = draw(4),
			.len_bytes = draw(64),
			.bytes = bytes,
			.seal = draw(1000)};
		msg.header.to = draw(2);
		if (msg.header.to != 0)
			msg.u.group.seal =
				kvfi_msg_seal(&msg); /* right, and for the one that was here before */
		(void)kvfi_control_inproc.send(stranger, way, &msg);
		turn(7, 5);
	}
	for (uint32_t turns = 0; !all_ended(7, 5); turns++) {
		turn(7, 5);
		assert_true(turns < 100000);
	}
	kvfi_control_inproc.close(stranger);
	close_all();
}

/* A word for which there was no memory is a word that was lost. */
static void a_failing_allocation_loses_no_round(void **state)
{
	(void)state;
	open_all(3);
	bad_ops.send = kvfi_control_inproc.send;
	for (uint64_t n = 1; n <= 60; n++) {
		kvfi_alloc_fail_at(n);
		for (uint32_t i = 0; i < MEMBERS; i++)
			post(i);
		poll_all(1);
		kvfi_alloc_fail_at(0);
		for (uint32_t turns = 0; !all_ended(3, n); turns++) {
			poll_all(1);
			assert_true(turns < 1000);
		}
	}
	close_all();
}

static void a_group_opens_whole_or_not_at_all(void **state)
{
	const struct kvf_group_params params = {
		.group_id = 4, .rank = 1, .n_ranks = MEMBERS, .endpoints = endpoints, .max_bytes = MAX_BYTES};
	kvf_group_handle group = {77};
	enum kvf_status status;
	uint64_t n = 0;

	(void)state;
	open_all(4);
	do {
		kvfi_alloc_fail_at(++n);
		status = kvf_group_open(members[1].agent, &params, &group);
		kvfi_alloc_fail_at(0);
		if (status != KVF_OK) {
			assert_int_equal(status, KVF_ENOMEM);
			assert_int_equal(group.bits, 77);
		}
	} while (status != KVF_OK);
	assert_in_range(n, 4 + MEMBERS, 100); /* group, members, endpoints, memory, and a way to each */
	WORKS(kvf_group_close(members[1].agent, group));
	close_all();
}

int main(void)
{
	static const struct kvfi_clock_source source = {.clock_ns = fake_time, .unix_ns = fake_time};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_p07_rounds_end_whatever_the_wire_does),
		cmocka_unit_test(a_round_that_has_ended_makes_no_more_noise),
		cmocka_unit_test(strangers_change_nothing_but_what_they_are_told),
		cmocka_unit_test(a_failing_allocation_loses_no_round),
		cmocka_unit_test(a_group_opens_whole_or_not_at_all),
	};

	kvfi_clock_set(&source);
	return cmocka_run_group_tests_name("agent_groups", tests, NULL, NULL);
}
