/* session_faults.c - the session core over a network that loses, repeats, delays and reorders, and with peers that go away.
 *
 * Argument: a seed, to replay one case. Every failure prints its seed.
 */
#include "../sanitized.h"
#include "session_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "base/clock.h"

static uint64_t only_seed, running_seed;

/* After each test: cmocka jumps out of a failing one, so the seed is still the one that failed. */
static int tell_seed(void **state)
{
	(void)state;
	if (running_seed != 0)
		print_error("failing case: unit_session_faults %llu\n", (unsigned long long)running_seed);
	running_seed = 0;
	return 0;
}

static struct kvf_parallel draw_parallel(struct rig *rig, uint32_t max_ranks)
{
	struct kvf_parallel parallel = {1, 1, 1, 1, NULL, NULL};

	parallel.tp = 1u << rig_random(rig, 3);
	if (parallel.tp > max_ranks)
		parallel.tp = max_ranks;
	parallel.pp = parallel.tp * 2 <= max_ranks && rig_random(rig, 3) == 0 ? 2 : 1;
	parallel.dp = parallel.tp > 1 && rig_random(rig, 3) == 0
	                      ? parallel.tp / (1 + (uint32_t)rig_random(rig, 2))
	                      : 1;
	if (parallel.tp % parallel.dp != 0)
		parallel.dp = 1;
	return parallel;
}

/* What a seed may do beside losing, repeating and delaying messages. */
struct trial {
	bool hard;    /* peers go away and come back, sides disagree, requests without a tx */
	bool mixed;   /* windowed and state groups, layer-wise slices, sums, lists with holes */
	bool small;   /* more work than the tables hold at once */
	bool retry;   /* sessions are closed and opened again as the next attempt */
	bool restart; /* processes die and come back */
	bool cancels; /* users of either side cancel, at any time */
	bool expires; /* deadlines so short that they pass */
	bool stops;   /* writers stop inside leases, and go on late; the ladder climbs */
};

struct request {
	struct rig_ask ask;
	uint32_t src_dp, dst_dp;
	bool mismatch, no_tx;
};

static uint32_t dp_of(const struct rig *rig, uint32_t node)
{
	bool decode = node >= rig->n_prefill;

	return kvfi_rank_dp(rig->instances[decode], decode ? node - rig->n_prefill : node);
}

static bool takes_part(const struct rig *rig, const struct request *request, uint32_t node)
{
	return dp_of(rig, node) == (node >= rig->n_prefill ? request->dst_dp : request->src_dp);
}

static void open_one(struct rig *rig, const struct request *request, uint32_t node, uint32_t slot)
{
	struct rig_ask ask = request->ask;

	if (!takes_part(rig, request, node))
		return;
	if (node >= rig->n_prefill) {
		rig_rx_open(rig, node, slot, &ask);
	} else if (!request->no_tx) {
		ask.prompt_len -= request->mismatch;
		rig_tx_open(rig, node, slot, &ask);
		rig_tx_send(rig, node, slot);
	}
}

static void open_side(struct rig *rig, const struct request *request, uint32_t slot, bool decode)
{
	for (uint32_t n = decode ? rig->n_prefill : 0; n < (decode ? rig->n_nodes : rig->n_prefill); n++)
		open_one(rig, request, n, slot);
}

static struct request draw_request(struct rig *rig, uint32_t i, const struct trial *trial)
{
	struct request request = {.src_dp = (uint32_t)rig_random(rig, rig->instances[0]->dp),
		.dst_dp = (uint32_t)rig_random(rig, rig->instances[1]->dp),
		.mismatch = trial->hard && rig_random(rig, 12) == 0,
		.no_tx = trial->hard && rig_random(rig, 12) == 0};

	request.ask = (struct rig_ask){.request_id = 100 + i,
		.prompt_len = 2 + rig_random(rig, 31),
		.dp_index = rig_random(rig, 4) == 0 ? KVF_DP_UNKNOWN : request.src_dp,
		.chunks = 1 + (uint32_t)rig_random(rig, 4),
		.aux = rig_random(rig, 2) == 0};
	if (request.ask.chunks > request.ask.prompt_len)
		request.ask.chunks = 1;
	if (trial->mixed) {
		uint32_t blocks = (uint32_t)(request.ask.prompt_len + RIG_TPB - 1) / RIG_TPB;

		request.ask.layer_wise = rig_random(rig, 2) == 0;
		request.ask.skip = (uint32_t)rig_random(rig, 3) == 0 ? (uint32_t)rig_random(rig, blocks) : 0;
		if (request.ask.skip == 0 && rig_random(rig, 3) == 0)
			request.ask.hole = 1 + (uint32_t)rig_random(rig, blocks);
	}
	return request;
}

static void check_all_ended(struct rig *rig, bool must_complete)
{
	for (uint32_t n = 0; n < rig->n_nodes; n++) {
		for (uint32_t s = 0; s < RIG_MAX_SESSIONS; s++) {
			const struct rig_session *session = &rig->nodes[n].sessions[s];

			if (!session->open)
				continue;
			if (!session->outcome || !session->released)
				fail_msg("node %u session %u: outcome %d released %d", n, s, session->outcome,
					session->released);
			if (must_complete && session->status != KVF_OK)
				fail_msg("node %u session %u: %s: %s", n, s, kvf_status_name(session->status),
					session->error);
		}
	}
}

static void disconnect_some(struct rig *rig)
{
	uint32_t p = (uint32_t)rig_random(rig, rig->n_prefill);
	uint32_t d = rig->n_prefill + (uint32_t)rig_random(rig, rig->n_nodes - rig->n_prefill);

	bool decode_first = rig_random(rig, 2) == 0;

	rig_lose_peer(rig, decode_first ? d : p, decode_first ? p : d, KVF_PEER_LOST);
	rig_run_for(rig, rig_random(rig, 2) * rig_random(rig, 400000));
	rig_disconnect(rig, p, d, KVF_PEER_LOST);
	rig_run_for(rig, rig_random(rig, 100000));
	rig_connect(rig, p, d);
}

static void restart_some(struct rig *rig)
{
	uint32_t node = (uint32_t)rig_random(rig, rig->n_nodes);

	rig_restart(rig, node);
	rig_run_for(rig, rig_random(rig, 100000));
	for (uint32_t p = 0; p < rig->n_prefill; p++)
		for (uint32_t d = rig->n_prefill; d < rig->n_nodes; d++)
			if (p == node || d == node)
				rig_connect(rig, p, d);
}

/* Whoever has its memory back closes; when nobody holds the attempt any more, the next one begins. */
static void retry_some(struct rig *rig, struct request *requests, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		bool any = false, busy = false;

		for (uint32_t node = 0; node < rig->n_nodes; node++) {
			struct rig_session *session = &rig->nodes[node].sessions[i];

			if (session->released && !session->closed)
				rig_close_session(rig, node, i);
			any = any || session->open;
			busy = busy || (session->open && !session->closed);
		}
		if (!any || busy || requests[i].ask.attempt >= 2)
			continue;
		requests[i].ask.attempt++;
		requests[i].mismatch = requests[i].no_tx = false;
		open_side(rig, &requests[i], i, rig_random(rig, 2) == 0);
		rig_run_for(rig, rig_random(rig, 50000));
		for (uint32_t node = 0; node < rig->n_nodes; node++)
			if (rig->nodes[node].sessions[i].closed)
				open_one(rig, &requests[i], node, i);
	}
}

/* One session of whatever side and age; half of the times the word says so before the core hears it. */
static void cancel_some(struct rig *rig, uint32_t n)
{
	uint32_t node = (uint32_t)rig_random(rig, rig->n_nodes), slot = (uint32_t)rig_random(rig, n);
	const struct rig_session *session = &rig->nodes[node].sessions[slot];

	rig_run_for(rig, rig_random(rig, 60000));
	if (!session->open || session->closed)
		return;
	if (rig_random(rig, 2) == 0) {
		rig_call_off(rig, node, slot);
		rig_run_for(rig, rig_random(rig, 30000));
	}
	rig_cancel(rig, node, slot, rig_random(rig, 2) == 0 ? "not wanted" : NULL);
	if (rig_random(rig, 4) == 0)
		rig_cancel(rig, node, slot, "asked twice");
}

static void connect_missing(struct rig *rig)
{
	for (uint32_t p = 0; p < rig->n_prefill; p++)
		for (uint32_t d = rig->n_prefill; d < rig->n_nodes; d++)
			if (!rig_is_connected(rig, p, d))
				rig_connect(rig, p, d);
}

static void continue_all(struct rig *rig)
{
	for (uint32_t p = 0; p < rig->n_prefill; p++)
		rig_continue(rig, p);
}

/* Time for the ladder to climb, or not; then some writers go on, some sessions are given up, dropped peers come again. */
static void stop_some(struct rig *rig)
{
	rig_run_for(rig, rig_random(rig, 3) * rig_random(rig, KVFI_NS_PER_S));
	if (rig_random(rig, 4) == 0)
		rig_end_all(rig, (uint32_t)rig_random(rig, rig->n_nodes));
	rig_run_for(rig, rig_random(rig, 3) * rig_random(rig, KVFI_NS_PER_S));
	if (rig_random(rig, 3) == 0)
		continue_all(rig);
	if (rig_random(rig, 3) > 0)
		connect_missing(rig);
}

/* Every proof is in: nothing is quarantined, and everybody is well. */
static void check_health(struct rig *rig)
{
	for (uint32_t n = 0; n < rig->n_nodes; n++) {
		struct kvf_health health;

		kvfi_core_health(rig->nodes[n].core, rig->now_ns, &health);
		assert_int_equal(health.quarantined + health.stuck + health.in_flight, 0);
		assert_int_equal(health.quarantined_bytes, 0);
		assert_true(health.healthy);
		assert_true(health.ladder_quiet >= health.ladder_fence);
		assert_true(
			health.ladder_quiet >= health.recovered && health.ladder_drop >= health.ladder_stuck);
	}
}

static void open_requests(struct rig *rig, const struct trial *trial, struct request *requests, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		bool receive_first = rig_random(rig, 2) == 0;

		requests[i] = draw_request(rig, i, trial);
		open_side(rig, &requests[i], i, receive_first);
		rig_run_for(rig, rig_random(rig, trial->small ? 5000 : 300000));
		open_side(rig, &requests[i], i, !receive_first);
		rig_run_for(rig, rig_random(rig, trial->small ? 5000 : 300000));
		if (trial->hard && rig_random(rig, 4) == 0)
			disconnect_some(rig);
		if (trial->restart && rig_random(rig, 4) == 0)
			restart_some(rig);
		if (trial->retry && rig_random(rig, 2) == 0)
			retry_some(rig, requests, i + 1);
		if (trial->stops)
			stop_some(rig);
		for (uint32_t c = 0; trial->cancels && c < 3; c++)
			cancel_some(rig, i + 1);
	}
}

static struct rig_setup draw_setup(struct rig *rig, const struct trial *trial)
{
	struct rig_setup setup = {.seed = rig->random,
		.prefill = draw_parallel(rig, 4),
		.decode = draw_parallel(rig, 4),
		.mixed = trial->mixed,
		.config = rig_config()};

	setup.faults = (struct rig_faults){.lose = (uint32_t)rig_random(rig, 3) * 100,
		.repeat = (uint32_t)rig_random(rig, 3) * 100,
		.delay_ns = rig_random(rig, 2) * 200000,
		.receiver_applied = rig_random(rig, 2) == 0};
	if (trial->mixed && rig_random(rig, 2) == 0)
		setup.config.verify = KVF_VERIFY_SUM;
	if (trial->stops) {
		setup.config.quiet_timeout_ns = (1 + rig_random(rig, 20)) * KVFI_NS_PER_MS;
		setup.config.progress_timeout_ns = KVFI_NS_PER_S;
		setup.config.transfer_timeout_ns = (1 + rig_random(rig, 50)) * KVFI_NS_PER_MS;
		setup.faults.receiver_applied = false;
	}
	if (trial->expires) {
		setup.config.queue_timeout_ns = (1 + rig_random(rig, 40)) * KVFI_NS_PER_MS / 10;
		setup.config.transfer_timeout_ns = (1 + rig_random(rig, 20)) * KVFI_NS_PER_MS / 10;
		setup.config.stall_timeout_ns =
			rig_random(rig, 2) * (1 + rig_random(rig, setup.config.transfer_timeout_ns));
	}
	if (trial->small)
		setup.config.max_deliveries = 3 + (uint32_t)rig_random(rig, 6);
	return setup;
}

static void run_seed(uint64_t seed, const struct trial *trial)
{
	struct rig rig = {.random = seed};
	struct rig_setup setup = draw_setup(&rig, trial);
	bool must_complete =
		!trial->hard && !trial->restart && !trial->stops && !trial->cancels && !trial->expires;
	struct request requests[24];
	uint32_t n = trial->small ? 24 : 6;

	rig_open(&rig, &setup);
	if (trial->stops) {
		rig.hold_inside = 5 + (uint32_t)rig_random(&rig, 60);
		rig.fences = rig_random(&rig, 2) == 0;
	}
	if (trial->small)
		rig.max_posts = 2;
	rig_connect_all(&rig);
	open_requests(&rig, trial, requests, n);
	rig.hold_inside = 0;
	continue_all(&rig);
	rig.faults.lose = rig.faults.repeat = 0; /* the faults stop; what is in flight must resolve */
	rig_run_for(&rig, 60 * KVFI_NS_PER_S);
	if (trial->retry) {
		retry_some(&rig, requests, n);
		rig_run_for(&rig, 60 * KVFI_NS_PER_S);
	}
	/* A tx that nobody asks for any more, an rx whose tx never comes: ended by their owner. */
	for (uint32_t i = 0; !must_complete && i < rig.n_nodes; i++)
		rig_end_all(&rig, i);
	rig_run_for(&rig, 60 * KVFI_NS_PER_S);
	check_all_ended(&rig, must_complete);
	check_health(&rig);
	rig_check_canaries(&rig);
	rig_close_all_released(&rig);
	for (uint32_t i = 0; i < rig.n_nodes; i++)
		rig_check_empty(&rig, i);
	rig_close(&rig);
}

static void run_seeds(uint64_t first, uint64_t count, const struct trial *trial)
{
	const uint64_t n = only_seed != 0 ? count : CASES(count);

	for (uint64_t seed = first; seed < first + n; seed++) {
		if (only_seed != 0 && seed != only_seed)
			continue;
		running_seed = seed;
		run_seed(seed, trial);
	}
	running_seed = 0;
}

/* Pitfall 7, 45, 6, 22: one lost message of any kind never hangs anything; every session completes once, with every byte. */
static void t_p07_lossy_networks_complete_every_session(void **state)
{
	(void)state;
	run_seeds(1, 800, &(struct trial){0});
}

/* Pitfall 4, 29, 30, 39: peers go away at any moment; every session ends, and no byte lands after RELEASED. */
static void t_p04_lost_peers_and_disagreement_end_every_session(void **state)
{
	(void)state;
	run_seeds(100001, 1000, &(struct trial){.hard = true});
}

/* Pitfall 39, 4: writers stop in the middle of a chunk, for as long as they like: every step of the ladder, and then every proof. */
static void t_p39_writers_that_stop_inside_a_lease_are_fenced_dropped_and_come_back(void **state)
{
	(void)state;
	run_seeds(600001, 800, &(struct trial){.stops = true});
	run_seeds(700001, 400, &(struct trial){.stops = true, .hard = true, .restart = true, .mixed = true});
}

static void windows_states_layers_holes_and_sums_complete(void **state)
{
	(void)state;
	run_seeds(200001, 600, &(struct trial){.mixed = true});
}

/* Pitfall 18, 31, 37: far more sessions than deliveries and posts: everybody gets a turn. */
static void t_p37_tables_that_are_too_small_delay_and_fail_nothing(void **state)
{
	(void)state;
	run_seeds(300001, 200, &(struct trial){.small = true});
	run_seeds(350001, 100, &(struct trial){.small = true, .hard = true, .retry = true, .mixed = true});
}

/* Pitfall 43, 50: the same ids again as the next attempt, in the same slots and blocks. */
static void t_p50_retries_under_the_same_id_complete(void **state)
{
	(void)state;
	run_seeds(400001, 400, &(struct trial){.retry = true});
	run_seeds(500001, 600, &(struct trial){.retry = true, .hard = true});
}

/* Pitfall 40: a process dies and another takes its place, while nobody else restarts. */
static void t_p40_restarts_end_the_old_sessions_and_serve_new_ones(void **state)
{
	(void)state;
	run_seeds(600001, 500, &(struct trial){.retry = true, .restart = true});
	run_seeds(700001, 300, &(struct trial){.retry = true, .restart = true, .hard = true, .mixed = true});
}

/* Pitfalls 6, 31, 50: cancels of queued, parked, moving, completed sessions, on both sides, races included; the next attempts work. */
static void t_p06_cancels_at_any_time_end_everything_once(void **state)
{
	(void)state;
	run_seeds(800001, 600, &(struct trial){.cancels = true});
	run_seeds(810001, 500, &(struct trial){.cancels = true, .retry = true, .mixed = true});
	run_seeds(
		820001, 300, &(struct trial){.cancels = true, .hard = true, .restart = true, .retry = true});
	run_seeds(830001, 100, &(struct trial){.cancels = true, .small = true, .retry = true});
}

/* Pitfalls 4, 9, 13: outcomes by time, while bytes move. */
static void deadlines_that_pass_release_everything(void **state)
{
	(void)state;
	run_seeds(900001, 600, &(struct trial){.expires = true});
	run_seeds(
		910001, 400, &(struct trial){.expires = true, .cancels = true, .retry = true, .mixed = true});
	run_seeds(920001, 300,
		&(struct trial){.expires = true, .cancels = true, .hard = true, .restart = true});
	run_seeds(930001, 200, &(struct trial){.expires = true, .stops = true, .cancels = true});
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(t_p07_lossy_networks_complete_every_session, tell_seed),
		cmocka_unit_test_teardown(t_p04_lost_peers_and_disagreement_end_every_session, tell_seed),
		cmocka_unit_test_teardown(
			t_p39_writers_that_stop_inside_a_lease_are_fenced_dropped_and_come_back, tell_seed),
		cmocka_unit_test_teardown(windows_states_layers_holes_and_sums_complete, tell_seed),
		cmocka_unit_test_teardown(t_p37_tables_that_are_too_small_delay_and_fail_nothing, tell_seed),
		cmocka_unit_test_teardown(t_p50_retries_under_the_same_id_complete, tell_seed),
		cmocka_unit_test_teardown(t_p40_restarts_end_the_old_sessions_and_serve_new_ones, tell_seed),
		cmocka_unit_test_teardown(t_p06_cancels_at_any_time_end_everything_once, tell_seed),
		cmocka_unit_test_teardown(deadlines_that_pass_release_everything, tell_seed),
	};

	if (argc > 1)
		only_seed = strtoull(argv[1], NULL, 10);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
