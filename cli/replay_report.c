/* replay_report.c - percentiles, the JSON of the contract, and the table for people.
 *
 * Guarantees: pure but for what it prints; sized at init. One thread: the coordinator's.
 */
#include "cli/replay_report.h"

#include <stdlib.h>
#include <string.h>
#include "cli/json.h"
#include "cli/table.h"
#include "cli/term.h"
#include "cli/units.h"

bool replay_result_init(struct replay_result *result, const struct replay_setup *setup)
{
	memset(result, 0, sizeof(*result));
	result->setup = setup;
	result->requests = setup->n_requests;
	result->timings = calloc(setup->n_requests, sizeof(*result->timings));
	result->transports =
		calloc((size_t)setup->sides[0].n_ranks * setup->sides[1].n_ranks, sizeof(char[16]));
	if (result->timings && result->transports)
		return true;
	replay_result_fini(result);
	return false;
}

void replay_result_fini(struct replay_result *result)
{
	free(result->timings);
	free(result->transports);
	result->timings = NULL;
	result->transports = NULL;
}

bool replay_result_good(const struct replay_result *result)
{
	if (result->chaos.on)
		return chaos_result_good(result);
	return result->completed == result->requests && result->failed == 0 && result->mismatches == 0 &&
	       result->fault.kind == REPLAY_NO_FAULT && result->bytes_moved == result->bytes_expected;
}

/* ----------------------------------------------------------------- numbers */

static int compare_u64(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

/* Nearest rank. Sorts values. */
static struct replay_quantiles quantiles_of(uint64_t *values, uint32_t n)
{
	struct replay_quantiles quantiles = {0};
	if (n == 0)
		return quantiles;
	qsort(values, n, sizeof(*values), compare_u64);
	quantiles.p50 = ms(values[((uint64_t)n * 50 + 99) / 100 - 1]);
	quantiles.p90 = ms(values[((uint64_t)n * 90 + 99) / 100 - 1]);
	quantiles.p99 = ms(values[((uint64_t)n * 99 + 99) / 100 - 1]);
	quantiles.max = ms(values[n - 1]);
	return quantiles;
}

static uint64_t span(uint64_t begin, uint64_t end)
{
	return end > begin ? end - begin : 0;
}

enum stage {
	LATENCY,
	QUEUE,
	PLAN,
	TRANSFER
};

static uint64_t stage_of(const struct replay_timing *timing, enum stage stage)
{
	switch (stage) {
	case QUEUE:
		return span(timing->admitted_ns, timing->first_byte_ns);
	case PLAN:
		return timing->plan_ns;
	case TRANSFER:
		return timing->first_byte_ns ? span(timing->first_byte_ns, timing->outcome_ns) : 0;
	default:
		return span(timing->admitted_ns, timing->outcome_ns);
	}
}

static struct replay_quantiles stage_quantiles(
	const struct replay_result *result, uint64_t *values, enum stage stage)
{
	for (uint32_t i = 0; i < result->completed; i++)
		values[i] = stage_of(&result->timings[i], stage);
	return quantiles_of(values, result->completed);
}

static int compare_admitted(const void *a, const void *b)
{
	const struct replay_timing *x = a, *y = b;
	return (x->admitted_ns > y->admitted_ns) - (x->admitted_ns < y->admitted_ns);
}

/* Length of the union of all [admitted, outcome). Sorts the timings. */
static uint64_t busy_ns(const struct replay_result *result)
{
	uint64_t busy = 0, until = 0;
	qsort(result->timings, result->completed, sizeof(*result->timings), compare_admitted);
	for (uint32_t i = 0; i < result->completed; i++) {
		const struct replay_timing *timing = &result->timings[i];
		uint64_t begin = timing->admitted_ns > until ? timing->admitted_ns : until;
		busy += span(begin, timing->outcome_ns);
		until = timing->outcome_ns > until ? timing->outcome_ns : until;
	}
	return busy;
}

void replay_result_numbers(const struct replay_result *result, struct replay_numbers *numbers_out)
{
	memset(numbers_out, 0, sizeof(*numbers_out));
	uint64_t *values = calloc(result->completed ? result->completed : 1, sizeof(*values));
	if (!values)
		return;
	numbers_out->seconds = (double)busy_ns(result) / 1e9;
	if (numbers_out->seconds > 0)
		numbers_out->gb_per_s = (double)result->bytes_moved / 1e9 / numbers_out->seconds;
	numbers_out->latency = stage_quantiles(result, values, LATENCY);
	numbers_out->queue = stage_quantiles(result, values, QUEUE);
	numbers_out->plan = stage_quantiles(result, values, PLAN);
	numbers_out->transfer = stage_quantiles(result, values, TRANSFER);
	free(values);
}

static const char *transport_of(const struct replay_result *result, uint32_t src, uint32_t dst)
{
	return result->transports[(size_t)src * result->setup->sides[REPLAY_DECODE].n_ranks + dst];
}

void replay_result_transports(const struct replay_result *result, char *buffer, size_t size)
{
	static const char *const names[] = {"loop", "shm", "tcp"};
	uint32_t n_src = result->setup->sides[REPLAY_PREFILL].n_ranks;
	uint32_t n_dst = result->setup->sides[REPLAY_DECODE].n_ranks;
	size_t used = 0;
	buffer[0] = 0;
	for (size_t name = 0; name < 3; name++) {
		bool found = false;
		for (uint32_t i = 0; i < n_src * n_dst && !found; i++)
			found = strcmp(transport_of(result, i / n_dst, i % n_dst), names[name]) == 0;
		if (found && used < size)
			used += (size_t)snprintf(
				buffer + used, size - used, "%s%s", used ? ", " : "", names[name]);
	}
}

/* -------------------------------------------------------------------- JSON */

static void json_quantiles(struct json *json, const char *key, const struct replay_quantiles *quantiles)
{
	json_object(json, key);
	json_fixed(json, "p50", quantiles->p50, 4);
	json_fixed(json, "p90", quantiles->p90, 4);
	json_fixed(json, "p99", quantiles->p99, 4);
	json_fixed(json, "max", quantiles->max, 4);
	json_end(json);
}

static void json_transports(struct json *json, const struct replay_result *result)
{
	json_object(json, "transport");
	for (uint32_t src = 0; src < result->setup->sides[REPLAY_PREFILL].n_ranks; src++) {
		for (uint32_t dst = 0; dst < result->setup->sides[REPLAY_DECODE].n_ranks; dst++) {
			char key[32];
			snprintf(key, sizeof(key), "%u:%u", src, dst);
			if (transport_of(result, src, dst)[0])
				json_string(json, key, transport_of(result, src, dst));
		}
	}
	json_end(json);
}

static const char *const fault_names[] = {"", "content", "stray", "aux"};
static const char *const side_names[] = {"prefill", "decode"};

static void json_fault(struct json *json, const struct replay_fault *fault)
{
	json_object(json, "first_mismatch");
	json_string(json, "kind", fault_names[fault->kind]);
	if (fault->request == REPLAY_NO_REQUEST)
		json_null(json, "request");
	else
		json_u64(json, "request", fault->request);
	json_string(json, "side", side_names[fault->side]);
	json_u64(json, "rank", fault->rank);
	json_u64(json, "layer", fault->where.layer);
	json_u64(json, "part", fault->where.part);
	json_u64(json, "head", fault->where.head);
	json_u64(json, "token", fault->where.token);
	json_u64(json, "byte", fault->where.byte);
	json_i64(json, "block", fault->where.block_id);
	json_u64(json, "expected", fault->where.expected);
	json_u64(json, "found", fault->where.found);
	json_end(json);
}

void replay_result_json(const struct replay_result *result, FILE *out)
{
	struct replay_numbers numbers;
	struct json json;
	replay_result_numbers(result, &numbers);
	json_init(&json, out);
	json_object(&json, NULL);
	json_u64(&json, "requests", result->requests);
	json_u64(&json, "completed", result->completed);
	json_u64(&json, "failed", result->failed);
	if (result->chaos.on)
		chaos_result_json(&json, result);
	json_u64(&json, "bytes_expected", result->bytes_expected);
	json_u64(&json, "bytes_moved", result->bytes_moved);
	json_u64(&json, "bytes_verified", result->bytes_verified);
	json_u64(&json, "mismatches", result->mismatches);
	json_u64(&json, "runs", result->runs);
	json_fixed(&json, "seconds", numbers.seconds, 6);
	json_fixed(&json, "gb_per_s", numbers.gb_per_s, 4);
	json_quantiles(&json, "latency_ms", &numbers.latency);
	json_object(&json, "stages_ms");
	json_fixed(&json, "queue", numbers.queue.p50, 4);
	json_fixed(&json, "plan", numbers.plan.p50, 4);
	json_fixed(&json, "transfer", numbers.transfer.p50, 4);
	json_end(&json);
	json_object(&json, "stages_p99_ms");
	json_fixed(&json, "queue", numbers.queue.p99, 4);
	json_fixed(&json, "plan", numbers.plan.p99, 4);
	json_fixed(&json, "transfer", numbers.transfer.p99, 4);
	json_end(&json);
	json_fixed(&json, "wall_seconds", (double)result->wall_ns / 1e9, 6);
	json_u64(&json, "tokens", result->tokens);
	json_u64(&json, "tokens_reused", result->tokens_reused);
	if (result->fault.kind != REPLAY_NO_FAULT)
		json_fault(&json, &result->fault);
	json_transports(&json, result);
	json_end(&json);
}

/* ------------------------------------------------------------------ people */

static void complain_fault(const struct replay_fault *fault, uint64_t mismatches)
{
	char whose[48] = "no request's";
	if (fault->request != REPLAY_NO_REQUEST)
		snprintf(whose, sizeof(whose), "request %u", fault->request);
	const struct content_mismatch *where = &fault->where;
	if (fault->kind == REPLAY_FAULT_AUX)
		term_error("wrong aux data: %s, %s rank %u, byte %llu: expected 0x%02x, found 0x%02x", whose,
			side_names[fault->side], fault->rank, (unsigned long long)where->byte,
			where->expected, where->found);
	else if (where->block_id < 0)
		term_error("a byte outside every block changed: %s rank %u, byte %llu of its pool: expected "
			   "0x%02x, "
			   "found 0x%02x",
			side_names[fault->side], fault->rank, (unsigned long long)where->byte,
			where->expected, where->found);
	else
		term_error("%s: %s, %s rank %u, layer %u, head %u, token %llu (part %u, byte %llu of the "
			   "row, block %d): "
			   "expected 0x%02x, found 0x%02x",
			fault->kind == REPLAY_FAULT_STRAY ? "a byte changed that nobody was to touch"
							  : "wrong content",
			whose, side_names[fault->side], fault->rank, where->layer, where->head,
			(unsigned long long)where->token, where->part, (unsigned long long)where->byte,
			where->block_id, where->expected, where->found);
	if (mismatches > 1)
		term_error("that is the first of %llu wrong rows", (unsigned long long)mismatches);
}

void replay_result_complain(const struct replay_result *result)
{
	if (result->fault.kind != REPLAY_NO_FAULT)
		complain_fault(&result->fault, result->mismatches);
	if (result->chaos.on) {
		chaos_result_complain(result);
		return;
	}
	if (result->failed > 0)
		term_error("%u of %u requests failed; the first: %s", result->failed, result->requests,
			result->failure);
	if (result->failed == 0 && result->bytes_moved != result->bytes_expected)
		term_error("%llu bytes were to be moved, %llu were",
			(unsigned long long)result->bytes_expected, (unsigned long long)result->bytes_moved);
}

static void stage_row(struct table *table, const char *name, const struct replay_quantiles *quantiles)
{
	table_cell(table, "%s", name);
	table_cell(table, "%.3f", quantiles->p50);
	table_cell(table, "%.3f", quantiles->p90);
	table_cell(table, "%.3f", quantiles->p99);
	table_cell(table, "%.3f", quantiles->max);
}

static void print_sides(const struct replay_result *result, FILE *out)
{
	char prefill[128], decode[128], transports[64];
	ranks_describe(&result->setup->sides[REPLAY_PREFILL].ranks, prefill, sizeof(prefill));
	ranks_describe(&result->setup->sides[REPLAY_DECODE].ranks, decode, sizeof(decode));
	replay_result_transports(result, transports, sizeof(transports));
	fprintf(out, "%s, %s\n", result->setup->model.name, transports);
	fprintf(out, "  prefill  %s\n  decode   %s\n\n", prefill, decode);
}

void replay_result_table(const struct replay_result *result, FILE *out)
{
	static const char *const columns[] = {"ms", ">p50", ">p90", ">p99", ">max"};
	struct replay_numbers numbers;
	char moved[32], verified[32], runs[32], wrong[32];
	replay_result_numbers(result, &numbers);
	print_sides(result, out);
	fprintf(out, "%u of %u requests, %s moved in %s runs at %.2f GB/s (%.2f s moving, %.2f s in all)\n",
		result->completed, result->requests, units_format_bytes(result->bytes_moved, moved),
		units_format_count(result->runs, runs), numbers.gb_per_s, numbers.seconds,
		(double)result->wall_ns / 1e9);
	double reused = result->tokens ? 100.0 * (double)result->tokens_reused / (double)result->tokens : 0;
	fprintf(out, "%.1f %% of the tokens reused, %s verified, %s%s wrong%s\n\n", reused,
		units_format_bytes(result->bytes_verified, verified),
		term_style(out, result->mismatches ? TERM_RED : TERM_GREEN),
		units_format_count(result->mismatches, wrong), term_style(out, TERM_PLAIN));

	struct table *table = table_new(columns, 5);
	stage_row(table, "latency", &numbers.latency);
	stage_row(table, "queue", &numbers.queue);
	stage_row(table, "plan", &numbers.plan);
	stage_row(table, "transfer", &numbers.transfer);
	table_print(table, out);
	table_free(table);
	if (result->chaos.on)
		chaos_result_table(result, out);
}
