/* ladder.c - agents over a transport that withholds its proofs: quarantine, the ladder and health as a user sees them. The transport is loop; what is
 * put over it here says no, or not yet. Two agents in one thread, turned by the test; real time. */
#include "attempt.h"

#include <stdlib.h>
#include "agent/seams.h"
#include "base/status.h"
#include "solo.h"

#define MS UINT64_C(1000000)

static struct solo prefill, decode;
static struct kvfi_transport_ops stubborn; /* loop's, and what follows */
static bool holding;                       /* no proof is given */
static bool can_fence, fenced;
static uint32_t fences;
static bool dumb; /* the other side does not notice a disconnect */
static struct kvfi_transport *undone;
static uint32_t undone_peer;

static enum kvf_proof hold_proof(struct kvfi_transport *transport, uint32_t grant)
{
	if (fenced)
		return KVF_PROOF_FENCED;
	return holding ? KVF_PROOF_NONE : kvfi_transport_loop.proof(transport, grant);
}

static enum kvf_status count_fence(struct kvfi_transport *transport, uint32_t peer)
{
	(void)transport;
	(void)peer;
	fences++;
	fenced = can_fence;
	return can_fence ? KVF_OK : kvfi_fail(KVF_EUNSUPPORTED, "no fence");
}

static void maybe_disconnect(struct kvfi_transport *transport, uint32_t peer)
{
	if (!dumb) {
		kvfi_transport_loop.disconnect(transport, peer);
		return;
	}
	undone = transport;
	undone_peer = peer;
	dumb = false;
}

static enum kvf_status open_stubborn(const struct kvf_options *options, kvf_agent **agent_out)
{
	const struct kvfi_agent_seams seams = {
		.control = &kvfi_control_inproc, .n_transports = 1, .transports = {&stubborn}};

	return kvfi_agent_open_with(options, &seams, agent_out);
}

static void impatient(struct kvf_options *options)
{
	options->ping_ns = 50 * MS;
	options->silence_timeout_ns = 400 * MS;
}

static void tune(struct kvf_options *options)
{
	options->quiet_timeout_ns = 100 * MS;
	options->queue_timeout_ns = options->transfer_timeout_ns = options->stall_timeout_ns = 300 * MS;
	options->stuck_budget = 0;
}

static int open_both(void (*how)(struct kvf_options *options))
{
	struct solo_spec of_prefill = solo_spec(KVF_PREFILL, "inproc", "loop");
	struct solo_spec of_decode = solo_spec(KVF_DECODE, "inproc", "loop");
	struct solo *all[] = {&prefill, &decode};

	holding = can_fence = fenced = dumb = false;
	fences = 0;
	undone = NULL;
	stubborn = kvfi_transport_loop;
	stubborn.proof = hold_proof;
	stubborn.fence = count_fence;
	stubborn.disconnect = maybe_disconnect;
	of_prefill.listen = "inproc://kvft-ladder";
	of_prefill.open = of_decode.open = open_stubborn;
	of_prefill.tune = of_decode.tune = how;
	solo_open(&prefill, &of_prefill);
	solo_open(&decode, &of_decode);
	assert_int_equal(solo_connect(all, 2, &decode, prefill.endpoint, NULL), KVF_OK);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_PEER, (kvf_session){0});
	return 0;
}

static int open_pair(void **state)
{
	(void)state;
	return open_both(tune);
}

static int open_impatient(void **state)
{
	(void)state;
	return open_both(impatient);
}

static int close_pair(void **state)
{
	(void)state;
	if (decode.agent != NULL)
		solo_close(&decode);
	solo_close(&prefill);
	solo_directory_remove();
	return 0;
}

/* A request of which half has come; then its prefill agent stops: timed out, no QUIET, no proof. */
static kvf_session quarantine_one(uint64_t id, kvf_session *from_out)
{
	struct solo *all[] = {&decode, &prefill};
	kvf_session to = solo_rx(&decode, 71, id, 64, 0), from = solo_tx_open(&prefill, id, 64);

	solo_send(&prefill, from, 0, 32, 64, 0);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_SLICE, from);
	holding = true;
	assert_int_equal(solo_next(all, 1, &decode, KVF_EVENT_OUTCOME, to).status, KVF_TIMED_OUT);
	*from_out = from;
	return to;
}

/* Polls until the number that read() gives is `wanted`; at most 20 s. */
static void until(struct solo *const *all, uint32_t n, uint32_t (*read)(void), uint32_t wanted)
{
	uint64_t end_ns = attempt_now_ns() + UINT64_C(20000000000);

	while (read() != wanted) {
		for (uint32_t i = 0; i < n; i++)
			solo_poll(all[i]);
		if (attempt_now_ns() > end_ns)
			fail_msg("%u, not %u", read(), wanted);
		attempt_breathe();
	}
}

static uint32_t stuck(void)
{
	return solo_health(&decode).stuck;
}

static uint32_t quarantined(void)
{
	return solo_health(&decode).quarantined;
}

/* Pitfall 48: an idle agent with one session in quarantine. It is followed to the end of the ladder, and comes back. */
static void t_p48_a_proof_that_never_comes_ends_in_unhealthy_and_comes_late(void **state)
{
	struct solo *all[] = {&decode, &prefill};
	struct kvf_health health;
	struct kvf_session_stats stats;
	kvf_session from, to = quarantine_one(1, &from), queued;

	(void)state;
	health = solo_health(&decode);
	assert_int_equal(health.healthy, 1);
	assert_int_equal(health.quarantined, 1);
	assert_int_equal(health.quarantined_bytes, decode.memory_bytes / 2); /* 8 of 16 blocks */
	until(all, 1, stuck, 1);
	health = solo_health(&decode);
	assert_int_equal(fences, 1);
	assert_int_equal(health.ladder_drop, 1);
	assert_int_equal(health.healthy, 0);
	assert_int_equal(health.reason, KVF_HEALTH_STUCK);
	assert_non_null(strstr(health.text,
		"1 sessions are stuck, the budget is 0; request 1 has no proof from prefill rank 0"));
	assert_int_equal(health.barred_links, 1);
	assert_int_equal(health.peer_losses, 1);
	/* A cancel says so, but not of what was never advertised. */
	assert_int_equal(kvf_cancel(decode.agent, to, NULL), KVF_CANCEL_BACKEND_UNHEALTHY);
	assert_int_equal(kvf_cancel_request(decode.agent, 1, 0, NULL), KVF_CANCEL_BACKEND_UNHEALTHY);
	queued = solo_rx(&decode, 99, 7, 8, 15);
	assert_int_equal(kvf_cancel(decode.agent, queued, NULL), KVF_CANCEL_BEFORE_ADVERTISE);
	assert_int_equal(solo_finish(all, 1, &decode, queued, NULL), KVF_CANCELLED);
	assert_int_equal(solo_next(all, 2, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_PEER_LOST);
	/* It goes on; under another link it serves again, while the memory of the first one waits. */
	assert_int_not_equal(solo_finish(all, 2, &prefill, from, NULL), KVF_OK);
	assert_int_equal(solo_next(all, 2, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	solo_move(all, 2, &prefill, &decode, 2);
	holding = false;
	until(all, 2, quarantined, 0);
	health = solo_health(&decode);
	assert_int_equal(health.healthy, 1);
	assert_int_equal(health.barred_links, 0);
	assert_int_equal(health.recovered, 1);
	(void)solo_next(all, 2, &decode, KVF_EVENT_RELEASED, to);
	WORKS(kvf_session_stats(decode.agent, to, &stats));
	assert_int_equal(stats.proofs[KVF_PROOF_LEASE], 1);
	WORKS(kvf_session_close(decode.agent, to));
	solo_move(all, 2, &prefill, &decode, 3);
}

static void a_fence_releases_and_the_peer_comes_back_under_another_link(void **state)
{
	struct solo *all[] = {&decode, &prefill};
	struct kvf_session_stats stats;
	kvf_session from, to;

	(void)state;
	can_fence = true;
	to = quarantine_one(1, &from);
	(void)solo_next(all, 1, &decode, KVF_EVENT_RELEASED, to);
	WORKS(kvf_session_stats(decode.agent, to, &stats));
	assert_int_equal(stats.proofs[KVF_PROOF_FENCED], 1);
	WORKS(kvf_session_close(decode.agent, to));
	holding = fenced = false;
	assert_int_not_equal(solo_finish(all, 2, &prefill, from, NULL), KVF_OK);
	assert_int_equal(solo_next(all, 2, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_PEER_LOST);
	assert_int_equal(solo_next(all, 2, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	assert_int_equal(solo_health(&decode).stuck, 0);
	solo_move(all, 2, &prefill, &decode, 2);
}

/* Its data path shows nothing of it: what it says under a link that is not there any more is refused, and so it learns. */
static void whoever_is_dropped_learns_it_by_a_refusal(void **state)
{
	struct solo *all[] = {&prefill, &decode};
	kvf_session waiting = solo_rx(&decode, 71, 1, 64, 0);
	struct kvf_peer_info info;
	struct kvf_event event;
	char text[256];

	(void)state;
	dumb = true;
	event = solo_next(all, 1, &prefill, KVF_EVENT_PEER, (kvf_session){0}); /* decode is stopped */
	assert_int_equal(event.status, KVF_PEER_LOST);
	assert_non_null(undone);
	event = solo_next(all, 2, &decode, KVF_EVENT_PEER, (kvf_session){0});
	assert_int_equal(event.status, KVF_PEER_LOST);
	WORKS(kvf_peer_info(decode.agent, event.peer, &info));
	assert_non_null(strstr(info.reason, "it has dropped this connection: it said nothing for"));
	assert_int_equal(solo_finish(all, 2, &decode, waiting, text), KVF_PEER_LOST);
	assert_non_null(strstr(text, "it has dropped this connection"));
	kvfi_transport_loop.disconnect(undone, undone_peer);
	assert_int_equal(solo_next(all, 2, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	solo_move(all, 2, &prefill, &decode, 3);
}

/* Pitfall 36: memory is not given back while a session touches it, whatever its outcome was. */
static void t_p36_memory_of_an_unreleased_session_is_not_given_back(void **state)
{
	struct solo *all[] = {&decode, &prefill};
	kvf_session from, to;

	(void)state;
	to = quarantine_one(41, &from);
	REFUSES(KVF_EBUSY, kvf_free(decode.agent, decode.region),
		"of request 41 (attempt 0) touches it and is not released");
	REFUSES(KVF_EBUSY, kvf_free(prefill.agent, prefill.region), "of request 41 ");
	REFUSES(KVF_EINVAL, kvf_unregister(prefill.agent, prefill.region), "kvf_alloc");
	holding = false;
	(void)solo_next(all, 2, &decode, KVF_EVENT_RELEASED, to);
	WORKS(kvf_session_close(decode.agent, to));
	(void)solo_finish(all, 2, &prefill, from, NULL);
	REFUSES(KVF_EBUSY, kvf_free(decode.agent, decode.region), "declared layout");
}

/* What is not proven is counted, and stays where it was. */
static void close_reports_what_it_could_not_prove_and_leaves_it_mapped(void **state)
{
	struct kvf_close_report report;
	kvf_session from;

	(void)state;
	(void)quarantine_one(1, &from);
	memset(decode.memory, 0x3c, decode.memory_bytes);
	kvf_agent_close(decode.agent, 50 * MS, &report);
	decode.agent = NULL;
	assert_int_equal(report.unreleased_sessions, 1);
	assert_int_equal(report.unreleased_bytes, decode.memory_bytes / 2);
	decode.memory[0]++; /* a writer that comes late finds memory, and nobody else's */
	assert_int_equal(decode.memory[0], 0x3d);
	kvf_layout_free(decode.layout);
	kvf_instance_free(decode.instance);
}

int main(void)
{
#define BESIDE(test) cmocka_unit_test_setup_teardown(test, open_pair, close_pair)
	const struct CMUnitTest tests[] = {
		BESIDE(t_p48_a_proof_that_never_comes_ends_in_unhealthy_and_comes_late),
		BESIDE(a_fence_releases_and_the_peer_comes_back_under_another_link),
		cmocka_unit_test_setup_teardown(
			whoever_is_dropped_learns_it_by_a_refusal, open_impatient, close_pair),
		BESIDE(t_p36_memory_of_an_unreleased_session_is_not_given_back),
		BESIDE(close_reports_what_it_could_not_prove_and_leaves_it_mapped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
