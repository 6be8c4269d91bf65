/* chaos_result.c - tells what a chaotic replay found: JSON, a table for people, complaints.
 *
 * Guarantees: pure but for what it prints. One thread: the coordinator's.
 */
#include "cli/chaos_result.h"

#include <string.h>
#include "cli/replay_report.h"
#include "cli/table.h"
#include "cli/term.h"
#include "cli/units.h"

static const char *const outcome_names[CHAOS_OUTCOMES] = {"completed", "failed", "cancelled", "timed_out"};
static const char *const proof_names[9] = {NULL, "completed", "local-epoch", "lease", "writer-quiet",
	"process-exit", "fenced", "never-advertised", "local-idle"};
static const char *const ladder_names[4] = {"quiet", "fence", "drop", "stuck"};

void chaos_series_add(struct chaos_series *series, uint32_t value)
{
	series->sum += value;
	series->samples++;
	series->highest = value > series->highest ? value : series->highest;
	if (series->per_point == 0)
		series->per_point = 1;
	if (series->n > 0 && series->in_last < series->per_point) {
		uint32_t *last = &series->most[series->n - 1];
		*last = value > *last ? value : *last;
		series->in_last++;
		return;
	}
	if (series->n == CHAOS_SERIES) {
		for (uint32_t i = 0; i < CHAOS_SERIES / 2; i++) {
			uint32_t a = series->most[2 * i], b = series->most[2 * i + 1];
			series->most[i] = a > b ? a : b;
		}
		series->n = CHAOS_SERIES / 2;
		series->per_point *= 2;
	}
	series->most[series->n++] = value;
	series->in_last = 1;
}

void chaos_delay_add(
	struct chaos_delay *delay, uint64_t took_ns, const struct replay_report *report, uint32_t request)
{
	const char *proof = "none";
	for (uint32_t i = 1; i < 9; i++)
		proof = report->proofs[i] > 0 ? proof_names[i] : proof;
	if (took_ns > delay->histogram.most)
		snprintf(delay->slowest, sizeof(delay->slowest), "request %u, %s rank %u: %s, released by %s",
			request, report->side == REPLAY_PREFILL ? "prefill" : "decode", report->rank,
			kvf_status_name((enum kvf_status)report->status), proof);
	chaos_histogram_add(&delay->histogram, took_ns);
}

static uint64_t outcomes_told(const struct chaos_result *chaos)
{
	uint64_t n = 0;
	for (uint32_t i = 0; i < CHAOS_OUTCOMES; i++)
		n += chaos->outcomes[i];
	return n;
}

bool chaos_result_good(const struct replay_result *result)
{
	const struct chaos_result *chaos = &result->chaos;
	return chaos->broken_off[0] == 0 && outcomes_told(chaos) == result->requests &&
	       result->mismatches == 0 && result->fault.kind == REPLAY_NO_FAULT &&
	       chaos->canary_changed == 0 && chaos->lost_blocks == 0 && chaos->quarantined_at_end == 0 &&
	       chaos->restarts_needed == 0 && chaos->never_released == 0 && chaos->calm_failed == 0 &&
	       chaos->unequal == 0;
}

void chaos_result_complain(const struct replay_result *result)
{
	const struct chaos_result *chaos = &result->chaos;
	const struct {
		uint64_t n;
		const char *what;
	} wrongs[] = {
		{chaos->canary_changed, "rows of the canary changed after RELEASED"},
		{chaos->lost_blocks, "blocks were never given back"},
		{chaos->quarantined_at_end, "sessions are in quarantine at the end"},
		{chaos->restarts_needed, "ranks did not come back without a restart"},
		{chaos->never_released,
			"stopped processes had to be continued before their sessions were released"},
		{chaos->calm_failed, "requests did not complete though all harm was over"},
		{chaos->unequal, "requests have other bytes at the sender than at the receiver"},
	};
	if (chaos->broken_off[0])
		term_error("broken off: %s", chaos->broken_off);
	else if (outcomes_told(chaos) != result->requests)
		term_error("%llu outcomes for %u requests", (unsigned long long)outcomes_told(chaos),
			result->requests);
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		if (wrongs[i].n > 0)
			term_error("%llu %s", (unsigned long long)wrongs[i].n, wrongs[i].what);
	}
	if (result->failure[0] && (chaos->calm_failed > 0 || chaos->unequal > 0))
		term_error("the first: %s", result->failure);
}

/* -------------------------------------------------------------------- JSON */

static void json_delay(struct json *json, const char *key, const struct chaos_delay *delay)
{
	const struct chaos_histogram *histogram = &delay->histogram;
	json_object(json, key);
	json_u64(json, "n", histogram->n);
	json_fixed(json, "p50", (double)chaos_histogram_at(histogram, 0.5) / 1e6, 4);
	json_fixed(json, "p99", (double)chaos_histogram_at(histogram, 0.99) / 1e6, 4);
	json_fixed(json, "max", (double)histogram->most / 1e6, 4);
	json_string(json, "slowest", delay->slowest);
	json_end(json);
}

static void json_call(struct json *json, const char *key, const struct chaos_histogram *histogram)
{
	json_object(json, key);
	json_u64(json, "n", histogram->n);
	json_fixed(json, "p50", (double)chaos_histogram_at(histogram, 0.5) / 1e3, 3);
	json_fixed(json, "p99_9", (double)chaos_histogram_at(histogram, 0.999) / 1e3, 3);
	json_fixed(json, "max", (double)histogram->most / 1e3, 3);
	json_end(json);
}

static void json_series(struct json *json, const char *key, const struct chaos_series *series)
{
	json_object(json, key);
	json_fixed(json, "mean", series->samples ? (double)series->sum / (double)series->samples : 0, 3);
	json_u64(json, "max", series->highest);
	json_u64(json, "point_ms", series->per_point * series->step_ns / 1000000);
	json_array(json, "points");
	for (uint32_t i = 0; i < series->n; i++)
		json_u64(json, NULL, series->most[i]);
	json_end(json);
	json_end(json);
}

static void json_counts(struct json *json, const struct chaos_result *chaos)
{
	json_object(json, "outcomes");
	for (uint32_t i = 0; i < CHAOS_OUTCOMES; i++)
		json_u64(json, outcome_names[i], chaos->outcomes[i]);
	json_end(json);
	json_object(json, "releases_by_proof");
	for (uint32_t i = 1; i < 9; i++)
		json_u64(json, proof_names[i], chaos->proofs[i]);
	json_end(json);
	json_object(json, "cancel_results");
	for (uint32_t i = 1; i <= KVF_CANCEL_NOT_FOUND; i++)
		json_u64(json, kvf_cancel_result_name((enum kvf_cancel_result)i), chaos->cancel_results[i]);
	json_end(json);
	json_object(json, "ladder");
	for (uint32_t i = 0; i < 4; i++)
		json_u64(json, ladder_names[i], chaos->ladder[i]);
	json_u64(json, "released", chaos->recovered);
	json_end(json);
}

void chaos_result_json(struct json *json, const struct replay_result *result)
{
	const struct chaos_result *chaos = &result->chaos;
	json_counts(json, chaos);
	json_delay(json, "cancel_to_release_ms", &chaos->cancel_live);
	json_delay(json, "cancel_to_release_stopped_ms", &chaos->cancel_stopped);
	json_delay(json, "kill_to_release_ms", &chaos->after_kill);
	json_object(json, "kill_to_end_ms");
	json_fixed(json, "p50", (double)chaos_histogram_at(&chaos->kill_to_end, 0.5) / 1e6, 4);
	json_fixed(json, "max", (double)chaos->kill_to_end.most / 1e6, 4);
	json_end(json);
	json_call(json, "poll_us", &chaos->poll[0]);
	json_call(json, "poll_while_stopped_us", &chaos->poll[1]);
	json_call(json, "cancel_us", &chaos->cancel_call[0]);
	json_call(json, "cancel_while_stopped_us", &chaos->cancel_call[1]);
	json_u64(json, "canary_changed", chaos->canary_changed);
	json_u64(json, "lost_blocks", chaos->lost_blocks);
	json_u64(json, "quarantined_at_end", chaos->quarantined_at_end);
	json_u64(json, "kills", chaos->kills);
	json_u64(json, "kills_in_lease", chaos->kills_in_lease);
	json_u64(json, "stops", chaos->stops);
	json_u64(json, "stops_in_lease", chaos->stops_in_lease);
	json_u64(json, "restarts", chaos->restarts);
	json_u64(json, "peer_losses", chaos->peer_losses);
	json_u64(json, "recoveries", chaos->recoveries);
	json_u64(json, "restarts_needed", chaos->restarts_needed);
	json_u64(json, "never_released", chaos->never_released);
	json_u64(json, "unharmed_failed", chaos->unharmed_failed);
	json_u64(json, "calm_failed", chaos->calm_failed);
	json_series(json, "quarantined", &chaos->quarantined);
	json_series(json, "run_queue", &chaos->runnable);
	json_object(json, "growth");
	json_u64(json, "processes", chaos->growth_of);
	json_i64(json, "descriptors", chaos->growth.descriptors);
	json_i64(json, "private_bytes", chaos->growth.private_bytes);
	json_i64(json, "mapped_bytes", chaos->growth.mapped_bytes);
	json_end(json);
	if (chaos->broken_off[0])
		json_string(json, "broken_off", chaos->broken_off);
}

/* ------------------------------------------------------------------ people */

static void delay_row(struct table *table, const char *name, const struct chaos_delay *delay)
{
	const struct chaos_histogram *histogram = &delay->histogram;
	table_cell(table, "%s", name);
	table_cell(table, "%llu", (unsigned long long)histogram->n);
	table_cell(table, "%.3f", (double)chaos_histogram_at(histogram, 0.5) / 1e6);
	table_cell(table, "%.3f", (double)chaos_histogram_at(histogram, 0.99) / 1e6);
	table_cell(table, "%.3f", (double)histogram->most / 1e6);
	table_cell(table, "%s", delay->slowest);
}

static void call_row(struct table *table, const char *name, const struct chaos_histogram *histogram)
{
	table_cell(table, "%s", name);
	table_cell(table, "%llu", (unsigned long long)histogram->n);
	table_cell(table, "%.1f", (double)chaos_histogram_at(histogram, 0.5) / 1e3);
	table_cell(table, "%.1f", (double)chaos_histogram_at(histogram, 0.999) / 1e3);
	table_cell(table, "%.1f", (double)histogram->most / 1e3);
}

static void print_delays(const struct chaos_result *chaos, FILE *out)
{
	static const char *const delays[] = {
		"ms until released", ">n", ">p50", ">p99", ">max", "the slowest"};
	static const char *const calls[] = {"us in a call", ">n", ">p50", ">p99.9", ">max"};
	struct table *table = table_new(delays, 6);
	delay_row(table, "cancel, all live", &chaos->cancel_live);
	delay_row(table, "cancel, one stopped", &chaos->cancel_stopped);
	delay_row(table, "peer killed", &chaos->after_kill);
	const struct chaos_histogram *end = &chaos->kill_to_end;
	table_cell(table, "(until it had ended)");
	table_cell(table, "%llu", (unsigned long long)end->n);
	table_cell(table, "%.3f", (double)chaos_histogram_at(end, 0.5) / 1e6);
	table_cell(table, "%.3f", (double)chaos_histogram_at(end, 0.99) / 1e6);
	table_cell(table, "%.3f", (double)end->most / 1e6);
	table_cell(table, "%s", "");
	table_print(table, out);
	table_free(table);
	fputc('\n', out);
	table = table_new(calls, 5);
	call_row(table, "kvf_poll", &chaos->poll[0]);
	call_row(table, "kvf_poll, one stopped", &chaos->poll[1]);
	call_row(table, "kvf_cancel", &chaos->cancel_call[0]);
	call_row(table, "kvf_cancel, one stopped", &chaos->cancel_call[1]);
	table_print(table, out);
	table_free(table);
}

/* The words and counts of those that are not 0. */
static void print_words(
	FILE *out, const char *title, const char *const *names, const uint64_t *counts, uint32_t n)
{
	const char *comma = "";
	fprintf(out, "%-11s", title);
	for (uint32_t i = 0; i < n; i++) {
		if (!names[i] || counts[i] == 0)
			continue;
		fprintf(out, "%s%llu %s", comma, (unsigned long long)counts[i], names[i]);
		comma = ", ";
	}
	fputs(*comma ? "\n" : "none\n", out);
}

static void print_series(FILE *out, const char *title, const struct chaos_series *series)
{
	static const char *const levels[] = {"_", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	fprintf(out, "%-11s", title);
	for (uint32_t i = 0; i < series->n; i++) {
		uint32_t level = series->most[i];
		if (series->highest > 8)
			level = (uint32_t)(((uint64_t)level * 8 + series->highest - 1) / series->highest);
		fputs(levels[level], out);
	}
	fprintf(out, "  mean %.2f, max %u\n",
		series->samples ? (double)series->sum / (double)series->samples : 0, series->highest);
}

void chaos_result_table(const struct replay_result *result, FILE *out)
{
	const struct chaos_result *chaos = &result->chaos;
	char private_bytes[32], mapped_bytes[32];
	fputc('\n', out);
	print_words(out, "outcomes", outcome_names, chaos->outcomes, CHAOS_OUTCOMES);
	print_words(out, "proofs", proof_names, chaos->proofs, 9);
	print_words(out, "ladder", ladder_names, chaos->ladder, 4);
	fprintf(out,
		"processes  %llu killed (%llu inside a lease), %llu stopped (%llu inside a lease), %llu "
		"restarted; %llu times a "
		"prefill rank came back to a decode rank; %u restarts needed\n",
		(unsigned long long)chaos->kills, (unsigned long long)chaos->kills_in_lease,
		(unsigned long long)chaos->stops, (unsigned long long)chaos->stops_in_lease,
		(unsigned long long)chaos->restarts, (unsigned long long)chaos->recoveries,
		chaos->restarts_needed);
	fprintf(out,
		"memory     %llu rows of canary changed, %llu blocks lost, %u sessions quarantined at the "
		"end\n",
		(unsigned long long)chaos->canary_changed, (unsigned long long)chaos->lost_blocks,
		chaos->quarantined_at_end);
	fprintf(out, "growth     %lld descriptors, %s private, %s mapped, of %u processes\n",
		(long long)chaos->growth.descriptors,
		units_format_bytes((uint64_t)chaos->growth.private_bytes, private_bytes),
		units_format_bytes((uint64_t)chaos->growth.mapped_bytes, mapped_bytes), chaos->growth_of);
	print_series(out, "quarantine", &chaos->quarantined);
	print_series(out, "run queue", &chaos->runnable);
	fputc('\n', out);
	print_delays(chaos, out);
}
