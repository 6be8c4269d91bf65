/* bulk.c - throughput of one large transfer, by the length of its runs.
 *
 * A transfer's time is from kvf_tx_send in the sender to OUTCOME in the receiver. Its roof is measured in the same round: for shm the same
 * runs by plain memcpy into shared memory, as many threads as copy workers; for tcp one plain stream of as many bytes between the same two
 * processes. Which of the two comes first changes from round to round. The ratio is the median of the rounds' ratios.
 */
#include "bench/parts.h"

#include <stdio.h>
#include <string.h>
#include "bench/pair.h"
#include "bench/roof.h"

struct row {
	uint64_t run_bytes;
	const char *label;
	double target;
};

static double roof_seconds(struct pair *pair, bool stream)
{
	struct order order = {.kind = stream ? ORDER_STREAM : ORDER_COPY};
	uint64_t bytes = shape_bytes(&pair->spec.shape), end_ns = 0;
	struct answer answer;

	pair_order(pair, &order);
	if (stream)
		end_ns = roof_stream_receive(pair->stream[0], pair->rank.pool, bytes);
	answer = pair_answer(pair);
	if (!stream)
		end_ns = answer.end_ns;
	return (double)(end_ns - answer.begin_ns) * 1e-9;
}

static void measure(
	struct pair *pair, const struct settings *settings, const struct row *row, struct report *report)
{
	static struct samples ours, roofs, ratios;
	bool stream = strcmp(pair->spec.transport, "tcp") == 0;
	double gib = (double)shape_bytes(&pair->spec.shape) / (1024.0 * 1024.0 * 1024.0);
	char what[64];

	ours.n = roofs.n = ratios.n = 0;
	(void)roof_seconds(pair, stream); /* warm */
	(void)pair_transfer(pair, NULL);
	for (uint32_t i = 0; i < settings->rounds; i++) {
		double first = i % 2 == 0 ? roof_seconds(pair, stream) : 0;
		double transfer = pair_transfer(pair, NULL);
		double roof = i % 2 == 0 ? first : roof_seconds(pair, stream);

		samples_add(&ours, gib / transfer);
		samples_add(&roofs, gib / roof);
		samples_add(&ratios, roof / transfer);
	}
	(void)snprintf(what, sizeof(what), "%s, runs of %s", pair->spec.transport, row->label);
	report_ratio(report, what, samples_median(&ours), samples_median(&roofs), samples_median(&ratios),
		settings->quick ? 0 : row->target);
}

static void run(
	const struct settings *settings, const char *transport, const struct row *row, struct report *report)
{
	struct pair_spec spec = {.transport = transport,
		.workers = settings->workers,
		.shape = shape_of(row->run_bytes, settings->bytes),
		.roof = true};
	static struct pair pair;

	pair_open(&pair, &spec);
	pair_verify(&pair);
	measure(&pair, settings, row, report);
	pair_verify(&pair);
	pair_close(&pair);
}

void part_shm(const struct settings *settings, struct report *report)
{
	const struct row rows[] = {
		{512, "512 B", 0.9}, {4096, "4 KiB", 0.9}, {65536, "64 KiB", 0.9}, {1048576, "1 MiB", 0.9}};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		run(settings, "shm", &rows[i], report);
}

void part_tcp(const struct settings *settings, struct report *report)
{
	const struct row rows[] = {{512, "512 B", 0.75}, {4096, "4 KiB", 0.85}, {65536, "64 KiB", 0.85},
		{1048576, "1 MiB", 0.85}};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		run(settings, "tcp", &rows[i], report);
}
