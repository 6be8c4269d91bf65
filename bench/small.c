/* small.c - the cost of a request beside its bytes: one block's latency, idle agents, many small requests.
 *
 * The block: 16 tokens of 4 layers, K and V, rows of 512 B, 64 KiB in 128 runs, over shm.
 */
#include "bench/parts.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include "bench/pair.h"
#include "bench/roof.h"

static void open_small(struct pair *pair, const struct settings *settings)
{
	struct pair_spec spec = {.transport = "shm", .workers = settings->workers};

	spec.shape =
		(struct shape){.layers = 4, .tokens_per_block = 16, .blocks = 1, .wide = 4, .run_bytes = 512};
	pair_open(pair, &spec);
	pair_verify(pair);
}

/* ---- latency ---- */

/* The sender has sent already: from asking to OUTCOME, microseconds. */
static double transfer_with_request(struct pair *pair)
{
	struct order order = {.kind = ORDER_EARLY, .request = pair->next_request++};
	uint64_t begin_ns, end_ns;
	kvf_session session;

	pair_order(pair, &order);
	(void)pair_answer(pair);
	begin_ns = now_ns();
	session = pair_receive(pair, order.request);
	end_ns = pair_outcome(pair, session);
	pair_release(pair, session);
	(void)pair_answer(pair);
	return (double)(end_ns - begin_ns) * 1e-3;
}

static void ask_echo(struct pair *pair, uint32_t n, struct samples *samples)
{
	pair_order(pair, &(struct order){.kind = ORDER_ECHO, .n = n});
	roof_echo_ask(pair->echo[0], n, samples);
	(void)pair_answer(pair);
}

static void ask_queue(struct pair *pair, uint32_t n, struct samples *samples)
{
#ifdef KVFB_WITH_ZMQ
	if (!pair->own_process)
		return;
	pair_order(pair, &(struct order){.kind = ORDER_QUEUE, .n = n});
	roof_queue_ask(pair->directory, n, samples);
	(void)pair_answer(pair);
#else
	(void)pair;
	(void)n;
	(void)samples;
#endif
}

void part_small(const struct settings *settings, struct report *report)
{
	static struct samples there, with, echo, queue;
	const uint32_t n = settings->quick ? 5 : 40;
	static struct pair pair;

	there.n = with.n = echo.n = queue.n = 0;
	open_small(&pair, settings);
	for (uint32_t round = 0; round < settings->rounds; round++) {
		for (uint32_t i = 0; i < n; i++)
			samples_add(&there, pair_transfer(&pair, NULL) * 1e6);
		for (uint32_t i = 0; i < n; i++)
			samples_add(&with, transfer_with_request(&pair));
		ask_echo(&pair, n, &echo);
		ask_queue(&pair, n + 1, &queue);
	}
	pair_verify(&pair);
	pair_close(&pair);
	report_limit(report, "one block (64 KiB, shm), request there: p50", samples_median(&there), "us",
		settings->quick ? 0 : 40);
	report_limit(report, "one block with its request: p50", samples_median(&with), "us",
		settings->quick ? 0 : 80);
	report_note("  p90, p99", "%.0f, %.0f us; with its request %.0f, %.0f us",
		samples_quantile(&there, 0.9), samples_quantile(&there, 0.99), samples_quantile(&with, 0.9),
		samples_quantile(&with, 0.99));
	report_note("  round trip of a unix socket", "%.1f us (p50)", samples_median(&echo));
	if (queue.n > 0)
		report_note("  round trip of ZeroMQ over ipc", "%.1f us (p50)", samples_median(&queue));
}

/* ---- idle ---- */

static uint64_t cpu_of_both(struct pair *pair)
{
	pair_order(pair, &(struct order){.kind = ORDER_CPU});
	return pair_answer(pair).cpu_ns * (pair->own_process ? 1 : 0) + cpu_ns();
}

static double poll_ns(struct pair *pair, uint32_t n)
{
	uint64_t begin_ns = now_ns();
	struct kvf_event event;

	for (uint32_t i = 0; i < n; i++)
		if (kvf_poll(pair->rank.agent, &event, 1) != 0)
			give_up("an event came to an idle agent");
	return (double)(now_ns() - begin_ns) / n;
}

void part_idle(const struct settings *settings, struct report *report)
{
	struct timespec pause = {settings->quick ? 0 : 3, settings->quick ? 100000000 : 0};
	static struct samples polls;
	static struct pair pair;
	uint64_t cpu, begin_ns;
	double percent;

	polls.n = 0;
	open_small(&pair, settings);
	cpu = cpu_of_both(&pair);
	begin_ns = now_ns();
	(void)nanosleep(&pause, NULL);
	cpu = cpu_of_both(&pair) - cpu;
	percent = 100.0 * (double)cpu / (double)(now_ns() - begin_ns) / 2;
	for (uint32_t i = 0; i < settings->rounds; i++)
		samples_add(&polls, poll_ns(&pair, 10000));
	pair_close(&pair);
	report_limit(
		report, "an idle, connected agent: CPU of a core", percent, "%", settings->quick ? 0 : 1);
	report_limit(report, "kvf_poll with nothing to say", samples_median(&polls), "ns",
		settings->quick ? 0 : 200);
}

/* ---- rate ---- */

/* Receives n requests, window at once. Returns seconds. */
static double receive_many(struct pair *pair, uint32_t n, uint32_t window)
{
	uint64_t first = pair->next_request, begin_ns = now_ns();
	uint32_t begun = 0, over = 0;

	pair->next_request += n;
	pair_order(pair, &(struct order){.kind = ORDER_SERVE, .request = first, .n = n, .window = window});
	while (over < n) {
		struct kvf_event event;

		for (; begun < n && begun - over < window; begun++)
			(void)pair_receive(pair, first + begun);
		event = rank_event(&pair->rank);
		if (event.type != KVF_EVENT_RELEASED)
			continue;
		must(kvf_session_close(pair->rank.agent, event.session), "close");
		over++;
	}
	return (double)(now_ns() - begin_ns) * 1e-9;
}

/* Both sides', since this side had used that much. */
static uint64_t cpu_since(struct pair *pair, uint64_t cpu)
{
	uint64_t other = pair_answer(pair).cpu_ns;

	return cpu_ns() - cpu + (pair->own_process ? other : 0);
}

void part_rate(const struct settings *settings, struct report *report)
{
	const uint32_t windows[] = {1, 16, 256, 1000};
	const uint32_t n = settings->quick ? 200 : 4000;
	static struct pair pair;
	(void)report;

	open_small(&pair, settings);
	for (size_t i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
		static struct samples seconds, cpus;
		char what[64];

		seconds.n = cpus.n = 0;
		for (uint32_t round = 0; round < (settings->quick ? 1 : 5); round++) {
			uint64_t cpu = cpu_ns();
			double took = receive_many(&pair, n, windows[i]);

			samples_add(&seconds, took);
			samples_add(&cpus, (double)(cpu_since(&pair, cpu)) * 1e-3 / n);
		}
		(void)snprintf(what, sizeof(what), "one-block requests, %u at once", windows[i]);
		report_note(what, "%8.0f /s, %.1f us of CPU each, both sides", n / samples_median(&seconds),
			samples_median(&cpus));
	}
	pair_verify(&pair);
	pair_close(&pair);
}
