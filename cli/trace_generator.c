/* trace_generator.c - requests drawn from a seed, shaped like an hour of a chat service.
 *
 * Fitted to the conversation trace of the Mooncake release (FAST'25; 12,031 requests):
 * - prompt lengths log-normal through p50 6,909 and p90 27,367 tokens, cut at max_tokens (drawn from the part below, not clamped);
 * - arrivals in buckets of 3 s, Poisson with a gamma-distributed rate (mean 10.2 a bucket, variance 59, at most 28);
 * - every prompt begins with the same system prompt block (id 0); 40 % of requests continue an earlier conversation and share its
 *   full blocks, so that some 35 % of block references repeat (there 36.6 %); the last, partly filled block is never shared;
 * - answers: one in eight is short, the others log-normal around 390 tokens, at most 2,000.
 * Memory: RECENT conversations of at most max_tokens / 512 ids each, allocated as they grow. One thread per source.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/random.h"
#include "cli/trace_source.h"

#define DEFAULT_MAX_TOKENS (UINT64_C(1) << 20)
#define BUCKET_MS          3000u
#define BUCKET_MEAN        10.2
#define BUCKET_SHAPE       2.1 /* mean^2 / (variance - mean) */
#define BUCKET_MOST        28u
#define RECENT             256u
#define CONTINUE_SHARE     0.4
#define HISTORY_DRAWS      16u
#define ANSWER_MOST        2000u

static const double length_p50 = 6909, length_p90 = 27367;
static const double normal_p90 = 1.2815515655446004;

struct conversation {
	uint64_t *ids; /* of full blocks */
	uint32_t n, capacity;
};

struct trace_generator {
	struct trace_generator_options options;
	struct random_stream random;
	uint64_t bucket;
	uint32_t left_in_bucket;
	uint64_t next_id;  /* 0 is the system prompt */
	double length_cut; /* P(length <= max_tokens) */
	struct conversation recent[RECENT];
	uint32_t n_recent, next_recent;
	uint64_t *hash_ids;
	uint32_t hash_capacity;
};

/* Inverse of the standard normal distribution: Acklam's rational approximation and one step of Halley's method. */
static double normal_quantile(double p)
{
	static const double a[] = {-3.969683028665376e+01, 2.209460984245205e+02, -2.759285104469687e+02,
		1.383577518672690e+02, -3.066479806614716e+01, 2.506628277459239e+00};
	static const double b[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
		6.680131188771972e+01, -1.328068155288572e+01};
	static const double c[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
		-2.549732539343734e+00, 4.374664141464968e+00, 2.938163982698783e+00};
	static const double d[] = {
		7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661907416e+00};
	double q, r, x, error;

	if (p < 0.02425 || p > 1 - 0.02425) {
		q = sqrt(-2 * log(p < 0.5 ? p : 1 - p));
		x = (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
		    ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
		x = p < 0.5 ? x : -x;
	} else {
		q = p - 0.5;
		r = q * q;
		x = (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
		    (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
	}
	error = (0.5 * erfc(-x / M_SQRT2) - p) * sqrt(2 * M_PI) * exp(x * x / 2);
	return x - error / (1 + x * error / 2);
}

static double length_sigma(void)
{
	return log(length_p90 / length_p50) / normal_p90;
}

static double length_below(double tokens)
{
	return 0.5 * erfc(-log(tokens / length_p50) / length_sigma() / M_SQRT2);
}

static uint64_t draw_length(struct trace_generator *generator)
{
	double p = random_unit(&generator->random) * generator->length_cut;
	double tokens = ceil(length_p50 * exp(length_sigma() * normal_quantile(p)));

	if (!(tokens >= 1))
		return 1;
	return tokens < (double)generator->options.max_tokens ? (uint64_t)tokens
	                                                      : generator->options.max_tokens;
}

static uint64_t draw_answer(struct trace_generator *generator)
{
	double tokens;

	if (random_below(&generator->random, 8) == 0)
		return 1 + random_below(&generator->random, 60);
	tokens = 390 * exp(0.5 * normal_quantile(random_unit(&generator->random)));
	return tokens < 1 ? 1 : tokens < ANSWER_MOST ? (uint64_t)tokens : ANSWER_MOST;
}

/* Gamma(shape >= 1, scale 1), Marsaglia and Tsang 2000. */
static double draw_gamma(struct random_stream *random, double shape)
{
	double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);

	for (;;) {
		double x = normal_quantile(random_unit(random)), v = 1 + c * x, u = random_unit(random);

		v = v * v * v;
		if (v > 0 && log(u) < 0.5 * x * x + d - d * v + d * log(v))
			return d * v;
	}
}

static uint32_t draw_poisson(struct random_stream *random, double mean)
{
	double limit = exp(-mean), product = random_unit(random);
	uint32_t n = 0;

	while (product > limit && n < BUCKET_MOST) {
		product *= random_unit(random);
		n++;
	}
	return n;
}

static uint64_t draw_timestamp(struct trace_generator *generator)
{
	while (generator->left_in_bucket == 0) {
		double rate = BUCKET_MEAN * draw_gamma(&generator->random, BUCKET_SHAPE) / BUCKET_SHAPE;

		generator->left_in_bucket = draw_poisson(&generator->random, rate);
		generator->bucket++;
	}
	generator->left_in_bucket--;
	return (generator->bucket - 1) * BUCKET_MS;
}

static bool reserve(uint64_t **ids, uint32_t *capacity, uint32_t n)
{
	uint64_t *grown;
	uint32_t room = n < 64 ? 64 : n;

	if (n <= *capacity)
		return true;
	grown = realloc(*ids, room * sizeof *grown);
	if (!grown)
		return false;
	*ids = grown;
	*capacity = room;
	return true;
}

/* Of a few conversations drawn, the one of which a prompt of `full` blocks can share most: follow-ups are as long as their history. */
static struct conversation *draw_history(struct trace_generator *generator, uint32_t full)
{
	struct conversation *best = NULL;

	for (uint32_t i = 0; i < HISTORY_DRAWS; i++) {
		struct conversation *one =
			&generator->recent[random_below(&generator->random, generator->n_recent)];

		if (!best || (best->n < full && one->n > best->n) ||
			(best->n > full && one->n >= full && one->n < best->n))
			best = one;
	}
	return best;
}

/* The conversation that this request continues, or an empty slot where a new one begins. */
static struct conversation *choose_conversation(struct trace_generator *generator, uint32_t full)
{
	struct conversation *conversation;

	if (generator->n_recent && random_unit(&generator->random) < CONTINUE_SHARE)
		return draw_history(generator, full);
	conversation = &generator->recent[generator->next_recent];
	generator->next_recent = (generator->next_recent + 1) % RECENT;
	if (generator->n_recent < RECENT)
		generator->n_recent++;
	conversation->n = 0;
	return conversation;
}

/* Fills hash_ids for a prompt and leaves its full blocks in the conversation. */
static bool draw_hashes(struct trace_generator *generator, uint64_t tokens, uint32_t *n_out)
{
	uint32_t full = (uint32_t)(tokens / TRACE_HASH_TOKENS);
	struct conversation *conversation = choose_conversation(generator, full);
	uint32_t n = (uint32_t)((tokens + TRACE_HASH_TOKENS - 1) / TRACE_HASH_TOKENS);
	uint32_t shared = conversation->n < full ? conversation->n : full;

	if (!reserve(&generator->hash_ids, &generator->hash_capacity, n) ||
		!reserve(&conversation->ids, &conversation->capacity, full))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		if (i < shared)
			generator->hash_ids[i] = conversation->ids[i];
		else
			generator->hash_ids[i] = i == 0 && full > 0 ? 0 : generator->next_id++;
	}
	/* A shorter follow-up branches off and leaves the longer history as it is. */
	if (full > conversation->n) {
		memcpy(conversation->ids, generator->hash_ids, full * sizeof *conversation->ids);
		conversation->n = full;
	}
	*n_out = n;
	return true;
}

enum trace_next trace_generator_next(
	struct trace_generator *generator, struct trace_request *request_out, struct reason *why)
{
	struct trace_request request = {.timestamp_ms = draw_timestamp(generator)};

	request.input_length = draw_length(generator);
	request.output_length = draw_answer(generator);
	if (!draw_hashes(generator, request.input_length, &request.n_hashes)) {
		reason_set(why, "out of memory");
		return TRACE_WRONG;
	}
	request.hash_ids = generator->hash_ids;
	*request_out = request;
	return TRACE_REQUEST;
}

void trace_generator_rewind(struct trace_generator *generator)
{
	generator->random.state = generator->options.seed;
	generator->bucket = 0;
	generator->left_in_bucket = 0;
	generator->next_id = 1;
	generator->length_cut = length_below((double)generator->options.max_tokens);
	generator->n_recent = 0;
	generator->next_recent = 0;
	for (uint32_t i = 0; i < RECENT; i++)
		generator->recent[i].n = 0;
}

void trace_generator_free(struct trace_generator *generator)
{
	if (!generator)
		return;
	for (uint32_t i = 0; i < RECENT; i++)
		free(generator->recent[i].ids);
	free(generator->hash_ids);
	free(generator);
}

bool trace_open_generator(
	const struct trace_generator_options *options, struct trace_source **source_out, struct reason *why)
{
	struct trace_source *source;

	if (options->max_tokens > TRACE_MAX_TOKENS)
		return reason_set(why, "max_tokens is %" PRIu64 "; allowed: at most %" PRIu64,
			options->max_tokens, TRACE_MAX_TOKENS);
	source = calloc(1, sizeof *source);
	if (source)
		source->generator = calloc(1, sizeof *source->generator);
	if (!source || !source->generator) {
		free(source);
		return reason_set(why, "out of memory");
	}
	source->generator->options = *options;
	if (options->max_tokens == 0)
		source->generator->options.max_tokens = DEFAULT_MAX_TOKENS;
	trace_generator_rewind(source->generator);
	*source_out = source;
	return true;
}
