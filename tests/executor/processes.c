/* processes.c - guards in processes of their own, their group over ZeroMQ: one is stopped, continued, killed, started again.
 *
 * The parent has no agent. It tells its children nothing, reads what they write into shared memory, and stops and kills them.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "kvferry/guard.h"

#define RANKS    3u
#define LIMIT_NS UINT64_C(30000000000)
#define MS       UINT64_C(1000000)

/* What a rank says of itself; for the parent. */
struct report {
	_Atomic uint64_t ticks, results, freed;
	_Atomic uint32_t healthy, reason, lost;
};

static struct report *reports;
static pid_t children[RANKS];
static char directory[] = "/tmp/kvft-guard-XXXXXX";

static uint64_t now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void breathe(void)
{
	const struct timespec pause = {0, 500000};

	(void)nanosleep(&pause, NULL);
}

/* ---- a child ---- */

static void must(enum kvf_status status, const char *what)
{
	if (status == KVF_OK)
		return;
	(void)fprintf(stderr, "%s: %s: %s\n", what, kvf_status_name(status), kvf_error());
	_exit(3);
}

static void endpoint_of(uint32_t rank, char *text, size_t len)
{
	(void)snprintf(text, len, "ipc://%s/rank-%u", directory, rank);
}

static kvf_agent *open_agent(uint32_t rank)
{
	static const uint32_t layers[] = {0};
	static const struct kvf_group_spec spec = {KVF_PAGED, KVF_BF16, 0, 1, layers, 1, {{RANKS, 64}}};
	static const struct kvf_model model = {"toy", "1", 1, &spec};
	const struct kvf_parallel parallel = {RANKS, 1, 1, 1, NULL, NULL};
	const struct kvf_layout_options order = {KVF_BLOCK_MAJOR, 8, 2, 0};
	struct kvf_options options;
	struct kvf_instance *instance;
	struct kvf_layout *layout;
	char endpoint[128];
	kvf_agent *agent;
	kvf_region region;
	uint64_t bytes;
	void *memory;

	endpoint_of(rank, endpoint, sizeof(endpoint));
	kvf_options_init(&options);
	options.control = "zmq";
	options.listen = endpoint;
	options.runtime_dir = directory;
	must(kvf_agent_open(&options, &agent), "kvf_agent_open");
	must(kvf_instance_new(&model, &parallel, KVF_DECODE, 5, &instance), "kvf_instance_new");
	must(kvf_layout_new(&model, instance, rank, &order, &layout, &bytes), "kvf_layout_new");
	must(kvf_alloc(agent, bytes, &memory, &region), "kvf_alloc");
	kvf_layout_move(layout, (uint64_t)(uintptr_t)memory);
	must(kvf_declare(agent, instance, rank, layout), "kvf_declare");
	return agent; /* the rest goes with the process */
}

static void on_free(void *self, uint64_t request_id, uint32_t attempt, void *user)
{
	(void)request_id;
	(void)attempt;
	(void)user;
	(void)atomic_fetch_add(&((struct report *)self)->freed, 1);
}

static kvf_guard *open_guard(uint32_t rank, struct report *report)
{
	static struct kvf_guard_over over;
	static char texts[RANKS][128];
	const char *endpoints[RANKS];
	struct kvf_group_params params = {.group_id = 1,
		.rank = rank,
		.n_ranks = RANKS,
		.endpoints = endpoints,
		.max_bytes = kvf_guard_group_bytes(16)};
	struct kvf_guard_options options;
	struct kvf_guard_group group;
	kvf_guard *guard;

	for (uint32_t i = 0; i < RANKS; i++) {
		endpoint_of(i, texts[i], sizeof(texts[i]));
		endpoints[i] = texts[i];
	}
	over.agent = open_agent(rank);
	must(kvf_group_open(over.agent, &params, &over.group), "kvf_group_open");
	kvf_guard_group_over(&over, &params, &group);
	kvf_guard_options_init(&options);
	options.max_requests = 16;
	options.group = &group;
	options.round_timeout_ns = 300 * MS;
	options.free_request = on_free;
	options.self = report;
	must(kvf_guard_open(over.agent, &options, &guard), "kvf_guard_open");
	return guard;
}

static void say(kvf_guard *guard, struct report *report)
{
	struct kvf_guard_health health;

	must(kvf_guard_health(guard, &health), "kvf_guard_health");
	atomic_store(&report->healthy, health.healthy);
	atomic_store(&report->reason, health.reason);
	atomic_store(&report->lost, strstr(health.text, "is gone") != NULL);
	(void)atomic_fetch_add(&report->ticks, 1);
}

/* A request whose session was refused on every rank: it needs nothing but the group. */
static void one_request(kvf_guard *guard)
{
	const struct kvf_guard_request request = {.request_id = 42, .refused = KVF_EFULL};

	must(kvf_guard_add(guard, &request), "kvf_guard_add");
}

static void run_child(uint32_t rank)
{
	struct report *report = &reports[rank];
	kvf_guard *guard;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	guard = open_guard(rank, report);
	one_request(guard);
	for (;;) {
		struct kvf_guard_result result;

		if (kvf_guard_tick(guard, 0) < 0)
			_exit(4);
		while (kvf_guard_poll(guard, &result, 1) > 0) {
			(void)atomic_fetch_add(&report->results, 1);
			must(kvf_guard_terminate(guard, result.request_id, 0), "kvf_guard_terminate");
		}
		say(guard, report);
		breathe();
	}
}

/* ---- the parent ---- */

static void start(uint32_t rank)
{
	memset((void *)&reports[rank], 0, sizeof(reports[rank]));
	children[rank] = fork();
	assert_true(children[rank] >= 0);
	if (children[rank] == 0)
		run_child(rank);
}

static void kill_rank(uint32_t rank)
{
	if (children[rank] > 0) {
		(void)kill(children[rank], SIGKILL);
		(void)waitpid(children[rank], NULL, 0);
	}
	children[rank] = 0;
}

static int start_all(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < RANKS; i++)
		start(i);
	return 0;
}

static int kill_all(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < RANKS; i++)
		kill_rank(i);
	return 0;
}

static void still_alive(void)
{
	for (uint32_t i = 0; i < RANKS; i++)
		if (children[i] > 0 && waitpid(children[i], NULL, WNOHANG) != 0) {
			children[i] = 0;
			fail_msg("rank %u has ended", i);
		}
}

/* Until a field of the first n ranks has that value. */
#define UNTIL(n, condition)                                                                                  \
	for (uint64_t end_ns = now_ns() + LIMIT_NS;;) {                                                      \
		uint32_t good = 0;                                                                           \
		for (uint32_t i = 0; i < (n); i++)                                                           \
			good += (condition);                                                                 \
		if (good == (n))                                                                             \
			break;                                                                               \
		still_alive();                                                                               \
		if (now_ns() > end_ns)                                                                       \
			fail_msg("line %d: never", __LINE__);                                                \
		breathe();                                                                                   \
	}

/* Both of the others go round their loops a hundred times more. */
static void ticks_go_on(void)
{
	uint64_t ticks[2];

	for (uint32_t i = 0; i < 2; i++)
		ticks[i] = atomic_load(&reports[i].ticks);
	UNTIL(2, atomic_load(&reports[i].ticks) > ticks[i] + 100);
}

static void t_p47_a_rank_that_is_stopped_stops_no_other_and_is_welcome_back(void **state)
{
	(void)state;
	UNTIL(RANKS, atomic_load(&reports[i].ticks) > 10 && atomic_load(&reports[i].healthy));
	for (int round = 0; round < 2; round++) {
		assert_int_equal(kill(children[2], SIGSTOP), 0);
		UNTIL(2, !atomic_load(&reports[i].healthy) &&
				 atomic_load(&reports[i].reason) == KVF_GUARD_GROUP);
		ticks_go_on();
		for (uint32_t i = 0; i < 2; i++)
			assert_int_equal(atomic_load(&reports[i].lost), 0);
		assert_int_equal(kill(children[2], SIGCONT), 0);
		UNTIL(RANKS, atomic_load(&reports[i].healthy));
	}
}

static void t_p14_a_request_ends_once_on_every_rank(void **state)
{
	(void)state;
	UNTIL(RANKS, atomic_load(&reports[i].results) == 1 && atomic_load(&reports[i].freed) == 1);
	ticks_go_on();
	for (uint32_t i = 0; i < RANKS; i++)
		assert_int_equal(atomic_load(&reports[i].results), 1);
}

static void t_p40_a_rank_that_restarts_is_lost_to_the_group_and_the_ticks_go_on(void **state)
{
	(void)state;
	UNTIL(RANKS, atomic_load(&reports[i].results) == 1);
	kill_rank(2);
	UNTIL(2, atomic_load(&reports[i].reason) == KVF_GUARD_GROUP);
	ticks_go_on();
	start(2);
	UNTIL(RANKS, atomic_load(&reports[i].lost)); /* the new one is told, too */
	ticks_go_on();
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(atomic_load(&reports[i].reason), KVF_GUARD_GROUP);
}

static int make_directory(void **state)
{
	(void)state;
	if (mkdtemp(directory) == NULL)
		return 1;
	reports = mmap(
		NULL, RANKS * sizeof(*reports), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return reports == MAP_FAILED;
}

static int remove_directory(void **state)
{
	char command[96];

	(void)state;
	(void)munmap(reports, RANKS * sizeof(*reports));
	(void)snprintf(command, sizeof(command), "rm -rf %s", directory);
	return system(command) != 0;
}

int main(void)
{
#define OVER(test) cmocka_unit_test_setup_teardown(test, start_all, kill_all)
	const struct CMUnitTest tests[] = {
		OVER(t_p14_a_request_ends_once_on_every_rank),
		OVER(t_p47_a_rank_that_is_stopped_stops_no_other_and_is_welcome_back),
		OVER(t_p40_a_rank_that_restarts_is_lost_to_the_group_and_the_ticks_go_on),
	};

	return cmocka_run_group_tests_name("executor_processes", tests, make_directory, remove_directory);
}
