/* session_faults.c - the session core over a network that loses, repeats, delays and reorders, and with peers that go away.
 *
 * Argument: a seed, to replay one case. Every failure prints its seed.
 */
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

struct plan_of_request {
	uint64_t id, prompt_len;
	uint32_t src_dp, dst_dp, chunks;
	bool unknown, aux, mismatch, no_tx;
};

static uint32_t dp_of(const struct rig *rig, uint32_t node)
{
	bool decode = node >= rig->n_prefill;

	return kvfi_rank_dp(rig->instances[decode], decode ? node - rig->n_prefill : node);
}

static void open_side(struct rig *rig, const struct plan_of_request *request, uint32_t slot, bool decode)
{
	for (uint32_t n = decode ? rig->n_prefill : 0; n < (decode ? rig->n_nodes : rig->n_prefill); n++) {
		if (dp_of(rig, n) != (decode ? request->dst_dp : request->src_dp))
			continue;
		if (decode) {
			rig_rx_open(rig, n, slot, request->id, request->prompt_len,
				request->unknown ? KVF_DP_UNKNOWN : request->src_dp, request->aux);
		} else if (!request->no_tx) {
			rig_tx_open(
				rig, n, slot, request->id, request->prompt_len + (request->mismatch ? 4 : 0));
			rig_tx_send(rig, n, slot, request->chunks, request->aux);
		}
	}
}

static struct plan_of_request draw_request(struct rig *rig, uint32_t i, bool hard)
{
	struct plan_of_request request = {.id = 100 + i,
		.prompt_len = 1 + rig_random(rig, 32),
		.src_dp = (uint32_t)rig_random(rig, rig->instances[0]->dp),
		.dst_dp = (uint32_t)rig_random(rig, rig->instances[1]->dp),
		.chunks = 1 + (uint32_t)rig_random(rig, 4),
		.unknown = rig_random(rig, 4) == 0,
		.aux = rig_random(rig, 2) == 0,
		.mismatch = hard && rig_random(rig, 12) == 0,
		.no_tx = hard && rig_random(rig, 12) == 0};

	if (request.chunks > request.prompt_len)
		request.chunks = 1;
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

static void close_all(struct rig *rig)
{
	for (uint32_t n = 0; n < rig->n_nodes; n++)
		for (uint32_t s = 0; s < RIG_MAX_SESSIONS; s++)
			if (rig->nodes[n].sessions[s].open)
				rig_close_session(rig, n, s);
}

/* hard: peers go away and come back, sides disagree, requests without a tx. */
static void run_seed(uint64_t seed, bool hard)
{
	struct rig rig = {.random = seed};
	struct kvf_parallel prefill = draw_parallel(&rig, 4), decode = draw_parallel(&rig, 4);
	struct rig_faults faults = {.lose = (uint32_t)rig_random(&rig, 3) * 100,
		.repeat = (uint32_t)rig_random(&rig, 3) * 100,
		.delay_ns = rig_random(&rig, 2) * 200000,
		.receiver_applied = rig_random(&rig, 2) == 0};
	const uint32_t n = 6;

	rig_open(&rig, seed, &prefill, &decode, &faults);
	rig_connect_all(&rig);
	for (uint32_t i = 0; i < n; i++) {
		struct plan_of_request request = draw_request(&rig, i, hard);
		bool receive_first = rig_random(&rig, 2) == 0;

		open_side(&rig, &request, i, receive_first);
		rig_run(&rig, rig.now_ns + rig_random(&rig, 300000));
		open_side(&rig, &request, i, !receive_first);
		rig_run(&rig, rig.now_ns + rig_random(&rig, 300000));
		if (hard && rig_random(&rig, 4) == 0) {
			uint32_t p = (uint32_t)rig_random(&rig, rig.n_prefill);
			uint32_t d = rig.n_prefill + (uint32_t)rig_random(&rig, rig.n_nodes - rig.n_prefill);

			rig_disconnect(&rig, p, d, KVF_PEER_LOST);
			rig_run(&rig, rig.now_ns + rig_random(&rig, 100000));
			rig_connect(&rig, p, d);
		}
	}
	rig.faults.lose = rig.faults.repeat = 0; /* the faults stop; what is in flight must resolve */
	rig_run(&rig, rig.now_ns + 60 * KVFI_NS_PER_S);
	if (hard) { /* a tx that nobody asks for any more, an rx whose tx never comes: ended by their owner */
		for (uint32_t i = 0; i < rig.n_nodes; i++) {
			struct kvfi_input end = {.kind = KVFI_IN_END_ALL, .u.end_status = KVF_CANCELLED};

			rig_step(&rig, &rig.nodes[i], &end);
		}
		rig_run(&rig, rig.now_ns + 60 * KVFI_NS_PER_S);
	}
	check_all_ended(&rig, !hard);
	rig_check_canaries(&rig);
	close_all(&rig);
	rig_close(&rig);
}

static void run_seeds(uint64_t first, uint64_t count, bool hard)
{
	for (uint64_t seed = first; seed < first + count; seed++) {
		if (only_seed != 0 && seed != only_seed)
			continue;
		running_seed = seed;
		run_seed(seed, hard);
	}
	running_seed = 0;
}

/* Pitfall 7, 45, 6, 22: one lost message of any kind never hangs anything; every session completes once, with every byte. */
static void t_p07_lossy_networks_complete_every_session(void **state)
{
	(void)state;
	run_seeds(1, 1500, false);
}

/* Pitfall 4, 29, 30, 39: peers go away at any moment; every session ends, and no byte lands after RELEASED. */
static void t_p04_lost_peers_and_disagreement_end_every_session(void **state)
{
	(void)state;
	run_seeds(100001, 1500, true);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(t_p07_lossy_networks_complete_every_session, tell_seed),
		cmocka_unit_test_teardown(t_p04_lost_peers_and_disagreement_end_every_session, tell_seed),
	};

	if (argc > 1)
		only_seed = strtoull(argv[1], NULL, 10);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
