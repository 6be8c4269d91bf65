/* engine_loop.c - a toy inference engine that moves its KV cache with kvferry, and keeps its blocks safe with a guard.
 *
 * Two engines in one process, a thread for each rank: prefill (tensor parallel over 2 ranks) computes prompts, decode (4 ranks, attention-DP: two
 * groups of two) receives them. Some clients go away, some requests are never computed. In real use each rank has a process of its own; then the
 * endpoints are ipc:// or tcp:// and everything else stays as it is.
 *
 * The loop is engine_main(). Everything that kvferry asks of an engine is in this file; what any engine has anyway (memory, a pool of
 * blocks, clients) is in toy_engine.c. docs/guard.md explains every step.
 *
 *   cc engine_loop.c toy_engine.c $(pkg-config --cflags --libs kvferry) -lpthread && ./a.out [REQUESTS]
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "toy_engine.h"

#define MS              UINT64_C(1000000)
#define PREFILL_RANKS   2u
#define DECODE_RANKS    4u
#define DECODE_DP       2u
#define ENGINES         (PREFILL_RANKS + DECODE_RANKS)
#define STEPS_TO_DECODE 3u /* iterations that a request stays in the batch */
#define MAX_LIVE        64u

/* The engine's own record of a request that has blocks here. */
struct live {
	bool used, running, cancelled;
	uint64_t id;
	uint32_t steps, n_blocks;
	int32_t blocks[MAX_BLOCK_LIST];
};

struct answer {
	uint64_t id;
	int64_t status;
};

struct engine {
	enum kvf_role role;
	uint32_t rank, n_ranks, dp, dp_size; /* dp_size: ranks of one attention group */
	struct frontend *frontend;
	kvf_agent *agent;
	struct kvf_instance *instance;
	struct kvf_layout *layout;
	struct kvf_guard_over over; /* the ranks that hold the same requests */
	kvf_group_handle everybody; /* all ranks of this engine, for answers */
	bool everybody_open;
	uint64_t everybody_round;
	kvf_guard *guard;
	struct pool pool;
	struct live live[MAX_LIVE];
	uint32_t n_live, next_request, log[2 * MAX_REQUESTS], n_log;
	bool idle;
	pthread_t thread;
};

static const uint32_t layers[] = {0, 1, 2};
static const struct kvf_group_spec group = {KVF_PAGED, KVF_BF16, 0, 3, layers, 2, {{4, 64}, {4, 64}}};
static const struct kvf_model model = {"toy", "1", 1, &group};

static uint32_t rank_in_group(const struct engine *engine)
{
	return engine->rank % engine->dp_size;
}

static void fault(struct engine *engine, uint64_t id, const char *what)
{
	(void)fprintf(stderr, "%s %u: request %llu: %s\n", engine->role == KVF_PREFILL ? "prefill" : "decode",
		engine->rank, (unsigned long long)id, what);
	(void)atomic_fetch_add(&engine->frontend->faults, 1);
}

/* ---- requests come ---- */

static struct live *new_live(struct engine *engine, uint64_t id)
{
	struct live *live = engine->live;

	while (live->used)
		live++;
	*live = (struct live){.used = true, .id = id};
	engine->n_live++;
	return live;
}

/* Whatever became of the call, the guard is told: if it was refused here, the other ranks must hear of it. */
static void add(struct engine *engine, struct live *live, enum kvf_status opened, kvf_session session)
{
	const struct kvf_guard_request request = {.request_id = live->id,
		.session = opened == KVF_OK ? session : (kvf_session){0},
		.refused = opened,
		.timeout_ns = engine->frontend->requests[live->id].patience_ns,
		.user = live};

	must(kvf_guard_add(engine->guard, &request), "kvf_guard_add");
}

/* Prefill: compute the prompt, hand the blocks to the agent, and be done with the request. The blocks come back through free_request. */
static void send_prompt(struct engine *engine, struct live *live)
{
	const uint64_t prompt_len = engine->frontend->requests[live->id].prompt_len;
	const struct kvf_tx_params params = {.request_id = live->id, .prompt_len = prompt_len};
	const struct kvf_blocks list = {0, live->n_blocks, live->blocks};
	const struct kvf_slice slice = {.token_end = prompt_len, .last = 1, .n_lists = 1, .lists = &list};
	kvf_session session = {0};
	enum kvf_status status;

	pool_fill(&engine->pool, live->id, prompt_len, live->blocks);
	status = kvf_tx_open(engine->agent, &params, &session);
	add(engine, live, status, session);
	if (status == KVF_OK && kvf_tx_send(engine->agent, session, &slice, NULL) != KVF_OK)
		(void)kvf_guard_cancel(engine->guard, live->id, 0, kvf_error());
	must(kvf_guard_terminate(engine->guard, live->id, 0), "kvf_guard_terminate");
}

/* Decode: ask for the prompt, into these blocks. */
static void receive_prompt(struct engine *engine, struct live *live)
{
	const struct kvf_blocks list = {0, live->n_blocks, live->blocks};
	const struct kvf_rx_params params = {.instance_id = KVF_PREFILL,
		.request_id = live->id,
		.prompt_len = engine->frontend->requests[live->id].prompt_len,
		.aux_slot = KVF_NO_AUX,
		.n_lists = 1,
		.lists = &list};
	kvf_session session = {0};

	add(engine, live, kvf_rx_open(engine->agent, &params, &session), session);
}

static bool is_ours(const struct engine *engine, const struct toy_request *request)
{
	return engine->role == KVF_PREFILL ? request->fate != FATE_FORGOTTEN : request->dp == engine->dp;
}

/* In the order of the clients, as long as there are blocks: every rank of the group decides alike, because its pool is alike. */
static void admit(struct engine *engine)
{
	for (; engine->next_request < engine->frontend->n_requests; engine->next_request++) {
		const struct toy_request *request = &engine->frontend->requests[engine->next_request];
		const uint32_t n = pool_blocks_of(&engine->pool, request->prompt_len);
		int32_t blocks[MAX_BLOCK_LIST];
		struct live *live;

		if (!is_ours(engine, request))
			continue;
		if (engine->n_live == MAX_LIVE || !pool_take(&engine->pool, n, blocks))
			return;
		live = new_live(engine, engine->next_request);
		live->n_blocks = n;
		memcpy(live->blocks, blocks, n * sizeof(blocks[0]));
		if (engine->role == KVF_PREFILL)
			send_prompt(engine, live);
		else
			receive_prompt(engine, live);
	}
}

/* A client goes away: one rank of each engine hears of it, and all cancel. */
static bool has_gone(struct engine *engine, struct live *live)
{
	struct toy_request *request = &engine->frontend->requests[live->id];

	if (engine->role == KVF_DECODE && request->fate == FATE_CANCELLED && live->steps++ >= live->id % 4)
		atomic_store(&request->gone, true);
	return atomic_load(&request->gone);
}

static void hear_clients(struct engine *engine)
{
	for (uint32_t i = 0; i < MAX_LIVE && rank_in_group(engine) == 0; i++) {
		struct live *live = &engine->live[i];

		if (!live->used || live->cancelled || live->running || !has_gone(engine, live))
			continue;
		live->cancelled = true;
		(void)kvf_guard_cancel(engine->guard, live->id, 0, "the client has gone");
	}
}

/* ---- requests go ---- */

/* The one place where blocks come back to the pool. */
static void free_request(void *self, uint64_t request_id, uint32_t attempt, void *user)
{
	struct engine *engine = self;
	struct live *live = user;

	(void)attempt;
	if (!live->used || live->id != request_id)
		fault(engine, request_id, "freed, and has no blocks");
	pool_give(&engine->pool, live->n_blocks, live->blocks);
	live->used = false;
	engine->n_live--;
}

static void respond(struct engine *engine, uint64_t id, enum kvf_status status)
{
	const struct kvf_guard_response response = {.request_id = id, .status = status};

	if (rank_in_group(engine) == 0)
		must(kvf_guard_respond(engine->guard, &response), "kvf_guard_respond");
}

static void finish(struct engine *engine, struct live *live, enum kvf_status status, bool answered)
{
	if (!answered)
		respond(engine, live->id, status);
	must(kvf_guard_terminate(engine->guard, live->id, 0), "kvf_guard_terminate");
}

static void act(struct engine *engine, const struct kvf_guard_result *result)
{
	struct live *live = result->user;

	if (result->kind != KVF_GUARD_EXPIRED) /* the only kind that is this rank's alone */
		engine->log[engine->n_log++] = (uint32_t)result->request_id * 8 + result->kind;
	switch (result->kind) {
	case KVF_GUARD_READY: /* of a tx: its receivers have asked. This engine computes without waiting for that */
		break;
	case KVF_GUARD_EXPIRED: /* the client's answer, at once; the request itself ends with all ranks */
		respond(engine, result->request_id, KVF_TIMED_OUT);
		break;
	case KVF_GUARD_COMPLETED:
		if (!pool_holds(&engine->pool, live->id, engine->frontend->requests[live->id].prompt_len,
			    live->blocks))
			fault(engine, live->id, "completed, and its KV cache is not the one that was sent");
		live->running = true;
		live->steps = 0;
		break;
	case KVF_GUARD_FAILED:
	case KVF_GUARD_CANCELLED:
		finish(engine, live, result->status, result->answered);
		break;
	}
}

static void take_results(struct engine *engine)
{
	struct kvf_guard_result results[16];
	int n;

	while ((n = kvf_guard_poll(engine->guard, results, 16)) > 0)
		for (int i = 0; i < n; i++)
			act(engine, &results[i]);
}

/* A forward pass: every running request one token further, and the machine busy for a moment. */
static void run_batch(struct engine *engine)
{
	const struct timespec pass = {0, 200000};

	for (uint32_t i = 0; i < MAX_LIVE; i++) {
		struct live *live = &engine->live[i];

		if (!live->used || !live->running || ++live->steps < STEPS_TO_DECODE)
			continue;
		if (!pool_holds(&engine->pool, live->id, engine->frontend->requests[live->id].prompt_len,
			    live->blocks))
			fault(engine, live->id, "its KV cache has changed while it was running");
		live->running = false;
		finish(engine, live, KVF_OK, false);
	}
	(void)nanosleep(&pass, NULL);
}

/* ---- answers ---- */

static void deliver(struct engine *engine, const struct kvf_group_part *part)
{
	struct answer answer;

	for (uint32_t at = 0; at + sizeof(answer) <= part->len_bytes; at += (uint32_t)sizeof(answer)) {
		memcpy(&answer, (const char *)part->bytes + at, sizeof(answer));
		frontend_answer(engine->frontend, answer.id, (enum kvf_status)answer.status);
	}
}

/* All data-parallel ranks gather their answers at rank 0. Here the collective is spread over iterations, so that nobody waits in it; one that
 * blocks is as good, because every rank enters it in every iteration, with or without an answer. */
static enum kvf_status flush(void *self, const struct kvf_guard_response *responses, uint32_t n)
{
	struct engine *engine = self;
	struct kvf_group_part parts[MAX_RANKS];
	struct answer answers[MAX_LIVE];
	enum kvf_status status;

	if (engine->everybody_open) {
		status = kvf_group_test(engine->agent, engine->everybody, parts);
		if (status != KVF_OK)
			return status; /* KVF_EAGAIN: the answers stay in the guard */
		for (uint32_t i = 0; i < engine->n_ranks && engine->rank == 0; i++)
			deliver(engine, &parts[i]);
		engine->everybody_open = false;
	}
	for (uint32_t i = 0; i < n; i++)
		answers[i] = (struct answer){responses[i].request_id, responses[i].status};
	status = kvf_group_post(engine->agent, engine->everybody, engine->everybody_round + 1, answers,
		n * (uint32_t)sizeof(struct answer));
	if (status != KVF_OK)
		return status;
	engine->everybody_round++;
	engine->everybody_open = true;
	return KVF_OK;
}

/* ---- the loop ---- */

static void say_idle(struct engine *engine)
{
	if (engine->idle || engine->n_live > 0 || engine->next_request < engine->frontend->n_requests)
		return;
	engine->idle = true;
	(void)atomic_fetch_add(&engine->frontend->idle_engines, 1);
}

static void say_unhealthy(struct engine *engine, const char *why)
{
	struct kvf_guard_health health;

	must(kvf_guard_health(engine->guard, &health), "kvf_guard_health");
	(void)fprintf(stderr, "%s; %u requests, %u undecided, %u deferred, round %llu; %s\n", why,
		health.requests, health.undecided, health.deferred, (unsigned long long)health.round,
		health.text);
	fault(engine, engine->next_request, "the loop has ended early");
}

static void *engine_main(void *argument)
{
	struct engine *engine = argument;

	while (!frontend_done(engine->frontend)) {
		struct kvf_event event;
		enum kvf_status status;

		if (kvf_guard_tick(engine->guard, 0) < 0) /* always, also with nothing to do */
			must(KVF_EINTERNAL, "kvf_guard_tick");
		take_results(engine);
		while (kvf_guard_event(engine->guard, &event) > 0)
			; /* peers that come and go: for a log */
		admit(engine);
		hear_clients(engine);
		run_batch(engine);
		status = kvf_guard_flush(engine->guard, flush, engine);
		if (status != KVF_OK && status != KVF_EAGAIN)
			must(status, "kvf_guard_flush");
		say_idle(engine);
		if (kvf_guard_wants_shutdown(engine->guard) || now_ns() > engine->frontend->give_up_ns) {
			say_unhealthy(engine, "unhealthy, or too late");
			break;
		}
	}
	return NULL;
}

/* ---- opening ---- */

static const char *endpoint_of(enum kvf_role role, uint32_t rank)
{
	static const char *const names[2][MAX_RANKS] = {
		{"inproc://prefill-0", "inproc://prefill-1", "inproc://prefill-2", "inproc://prefill-3"},
		{"inproc://decode-0", "inproc://decode-1", "inproc://decode-2", "inproc://decode-3"}};

	return names[role == KVF_DECODE][rank];
}

static void open_agent(struct engine *engine, const struct kvf_layout_options *order)
{
	const uint32_t dps = engine->n_ranks / engine->dp_size;
	const struct kvf_parallel parallel = {engine->n_ranks, 1, 1, dps, NULL, NULL};
	struct kvf_options options;
	kvf_region region;
	uint64_t bytes;
	void *memory;

	kvf_options_init(&options);
	options.name = engine->role == KVF_PREFILL ? "prefill" : "decode";
	options.control = "inproc";
	options.listen = endpoint_of(engine->role, engine->rank);
	must(kvf_agent_open(&options, &engine->agent), "kvf_agent_open");
	must(kvf_instance_new(&model, &parallel, engine->role, engine->role, &engine->instance),
		"kvf_instance_new");
	for (uint32_t i = 0; i < engine->n_ranks; i++)
		must(kvf_instance_set_endpoint(engine->instance, i, endpoint_of(engine->role, i)),
			"kvf_instance_set_endpoint");
	must(kvf_layout_new(&model, engine->instance, engine->rank, order, &engine->layout, &bytes),
		"kvf_layout_new");
	must(kvf_alloc(engine->agent, bytes, &memory, &region), "kvf_alloc");
	kvf_layout_move(engine->layout, (uint64_t)(uintptr_t)memory);
	must(kvf_declare(engine->agent, engine->instance, engine->rank, engine->layout), "kvf_declare");
	pool_init(&engine->pool, engine->layout);
	if (engine->role == KVF_DECODE)
		must(kvf_connect(engine->agent, endpoint_of(KVF_PREFILL, 0)), "kvf_connect");
}

/* The ranks of an attention group hold the same requests and decide together; all ranks together send answers. */
static void open_groups(struct engine *engine, struct kvf_guard_group *same_out)
{
	const char *endpoints[MAX_RANKS];
	struct kvf_group_params params = {.group_id = engine->role * 10u + engine->dp,
		.rank = rank_in_group(engine),
		.n_ranks = engine->dp_size,
		.endpoints = endpoints,
		.max_bytes = kvf_guard_group_bytes(MAX_LIVE)};

	for (uint32_t i = 0; i < engine->dp_size; i++)
		endpoints[i] = endpoint_of(engine->role, engine->dp * engine->dp_size + i);
	engine->over.agent = engine->agent;
	must(kvf_group_open(engine->agent, &params, &engine->over.group), "kvf_group_open");
	kvf_guard_group_over(&engine->over, &params, same_out);
	params = (struct kvf_group_params){.group_id = engine->role * 10u + 9u,
		.rank = engine->rank,
		.n_ranks = engine->n_ranks,
		.endpoints = endpoints,
		.max_bytes = MAX_LIVE * sizeof(struct answer)};
	for (uint32_t i = 0; i < engine->n_ranks; i++)
		endpoints[i] = endpoint_of(engine->role, i);
	must(kvf_group_open(engine->agent, &params, &engine->everybody), "kvf_group_open");
}

static void engine_open(struct engine *engine, enum kvf_role role, uint32_t rank, struct frontend *frontend)
{
	/* Prefill has room to run ahead: its blocks wait for their receivers long after it has done with them. */
	const struct kvf_layout_options order =
		role == KVF_PREFILL ? (struct kvf_layout_options){KVF_LAYER_NHD, 16, 256, 0}
				    : (struct kvf_layout_options){KVF_BLOCK_MAJOR, 32, 24, 0};
	struct kvf_guard_options options;
	struct kvf_guard_group same;

	memset(engine, 0, sizeof(*engine));
	engine->role = role;
	engine->rank = rank;
	engine->n_ranks = role == KVF_PREFILL ? PREFILL_RANKS : DECODE_RANKS;
	engine->dp_size = role == KVF_PREFILL ? PREFILL_RANKS : DECODE_RANKS / DECODE_DP;
	engine->dp = rank / engine->dp_size;
	engine->frontend = frontend;
	open_agent(engine, &order);
	open_groups(engine, &same);
	kvf_guard_options_init(&options);
	options.max_requests = MAX_LIVE;
	options.max_responses = MAX_LIVE;
	options.group = &same;
	options.free_together = 1; /* so that the pools of a group stay alike */
	options.attention_dp = 1;
	options.free_request = free_request;
	options.self = engine;
	must(kvf_guard_open(engine->agent, &options, &engine->guard), "kvf_guard_open");
}

/* Nothing is left behind, and nobody has written where nobody may. */
static bool engine_close(struct engine *engine)
{
	struct kvf_close_report report;
	uint32_t left;
	bool good = pool_is_whole(&engine->pool);

	kvf_guard_close(engine->guard, &left);
	kvf_agent_close(engine->agent, 5000 * MS, &report);
	kvf_layout_free(engine->layout);
	kvf_instance_free(engine->instance);
	pool_fini(&engine->pool);
	return good && left == 0 && report.unreleased_sessions == 0;
}

/* The ranks of a group have taken the same blocks in the same order, and heard of the same ends in the same order. */
static bool are_alike(const struct engine *a, const struct engine *b)
{
	if (a->role != b->role || a->dp != b->dp)
		return true;
	return a->pool.taken_hash == b->pool.taken_hash && a->n_log == b->n_log &&
	       memcmp(a->log, b->log, a->n_log * sizeof(a->log[0])) == 0;
}

int main(int argc, char **argv)
{
	static struct engine engines[ENGINES];
	static struct frontend frontend;
	const uint32_t n_requests = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 96;
	bool good = true;

	if (n_requests < 1 || n_requests > MAX_REQUESTS) {
		(void)fprintf(stderr, "usage: %s [REQUESTS], 1 to %u; default 96\n", argv[0], MAX_REQUESTS);
		return 2;
	}
	frontend_init(&frontend, n_requests, ENGINES);
	for (uint32_t i = 0; i < ENGINES; i++)
		engine_open(&engines[i], i < PREFILL_RANKS ? KVF_PREFILL : KVF_DECODE,
			i < PREFILL_RANKS ? i : i - PREFILL_RANKS, &frontend);
	for (uint32_t i = 0; i < ENGINES; i++)
		if (pthread_create(&engines[i].thread, NULL, engine_main, &engines[i]) != 0)
			must(KVF_ENOMEM, "pthread_create");
	for (uint32_t i = 0; i < ENGINES; i++)
		(void)pthread_join(engines[i].thread, NULL);
	good = frontend_check(&frontend) && atomic_load(&frontend.faults) == 0;
	for (uint32_t i = 0; i < ENGINES; i++)
		for (uint32_t k = 0; k < i; k++)
			good = are_alike(&engines[i], &engines[k]) && good;
	for (uint32_t i = ENGINES; i-- > 0;)
		good = engine_close(&engines[i]) && good;
	(void)printf("%s\n", good ? "every block was freed once, and none was written after it" : "FAILED");
	return good ? 0 : 1;
}
