/* replay_setup.c - builds the constant part of a replay: both instances, their memory, the requests, who
 * takes part.
 *
 * Guarantees: a request that can never fit, two sides that cannot work together and a transport that is not
 * built in are refused here, before a process exists. Owns everything in struct replay_setup; the
 * coordinator's one thread.
 */
#include "cli/replay_setup.h"

#include <stdlib.h>
#include <string.h>
#include "cli/args.h"
#include "cli/replay_sizing.h"

#define TRANSFER_TIMEOUT_NS UINT64_C(100000000000) /* below the coordinator's patience */
#define CONNECT_TIMEOUT_NS  UINT64_C(30000000000)
#define DEFAULT_POOL_BYTES  (UINT64_C(256) << 20)
#define NS_PER_S            UINT64_C(1000000000)
#define CHAOS_QUEUE_NS      (5 * NS_PER_S)
#define CHAOS_TRANSFER_NS   (10 * NS_PER_S)
#define CHAOS_STALL_NS      (2 * NS_PER_S)

static const char *const side_names[2] = {"prefill", "decode"};

uint32_t replay_rank_dp(const struct replay_side *side, uint32_t rank)
{
	return side->instance->ranks[rank].tp / (side->instance->tp / side->dp);
}

uint32_t replay_rank_cp(const struct replay_side *side, uint32_t rank)
{
	return side->instance->ranks[rank].cp;
}

static uint8_t *sends_row(const struct replay_setup *setup, uint32_t src_dp, uint32_t dst_dp)
{
	size_t row = (size_t)src_dp * setup->sides[REPLAY_DECODE].dp + dst_dp;
	return setup->sends + row * setup->sides[REPLAY_PREFILL].n_ranks;
}

uint8_t replay_sends(const struct replay_setup *setup, uint32_t src_dp, uint32_t dst_dp, uint32_t rank)
{
	return sends_row(setup, src_dp, dst_dp)[rank];
}

bool replay_takes_part(
	const struct replay_setup *setup, uint32_t side, uint32_t rank, uint32_t src_dp, uint32_t dst_dp)
{
	if (side == REPLAY_PREFILL)
		return replay_sends(setup, src_dp, dst_dp, rank) != 0;
	return replay_rank_dp(&setup->sides[side], rank) == dst_dp;
}

/* ------------------------------------------------------------------- ranks */

static bool make_side(struct replay_setup *setup, uint32_t s, struct reason *why)
{
	struct replay_side *side = &setup->sides[s];
	enum kvf_role role = s == REPLAY_PREFILL ? KVF_PREFILL : KVF_DECODE;
	const char *text = s == REPLAY_PREFILL ? setup->options.prefill : setup->options.decode;
	if (!ranks_parse(text, role, &setup->model, (uint32_t)setup->options.block_tokens, &side->ranks, why))
		return reason_prefix(why, "--%s", side_names[s]);
	side->tokens_per_block = side->ranks.tokens_per_block;
	side->n_ranks = side->ranks.n;
	side->dp = side->ranks.parallel.dp;
	side->cp = side->ranks.parallel.cp;

	uint64_t id = replay_mix(setup->options.seed, s) | 1;
	if (kvf_instance_new(&setup->model.kvf, &side->ranks.parallel, role, id, &side->instance) != KVF_OK)
		return reason_set(why, "--%s: %s", side_names[s], kvf_error());
	return true;
}

static bool check_pair(const struct replay_setup *setup, uint32_t src, uint32_t dst, struct reason *why)
{
	const struct replay_side *prefill = &setup->sides[REPLAY_PREFILL],
				 *decode = &setup->sides[REPLAY_DECODE];
	struct kvf_refusal refusal;
	enum kvf_status status = kvf_pair_compatible(
		prefill->instance, prefill->layouts[src], decode->instance, decode->layouts[dst], &refusal);
	if (status == KVF_INCOMPATIBLE)
		return reason_set(why,
			"prefill rank %u and decode rank %u cannot work together: %s: prefill has %s, decode "
			"has %s",
			src, dst, refusal.field, refusal.prefill, refusal.decode);
	return status == KVF_OK ||
	       reason_set(why, "prefill rank %u and decode rank %u: %s", src, dst, kvf_error());
}

static bool fill_sends(struct replay_setup *setup, uint32_t src_dp, uint32_t dst_dp, struct kvf_pair *pairs,
	uint32_t max, struct reason *why)
{
	uint32_t n;
	if (kvf_pairs(setup->sides[REPLAY_PREFILL].instance, setup->sides[REPLAY_DECODE].instance, src_dp,
		    dst_dp, pairs, max, &n) != KVF_OK)
		return reason_set(why, "%s", kvf_error());
	uint8_t *row = sends_row(setup, src_dp, dst_dp);
	for (uint32_t i = 0; i < n; i++) {
		row[pairs[i].src] |= REPLAY_SENDS;
		if (pairs[i].aux)
			row[pairs[i].src] |= REPLAY_SENDS_AUX;
		if (!check_pair(setup, pairs[i].src, pairs[i].dst, why))
			return false;
	}
	return true;
}

static bool make_sends(struct replay_setup *setup, struct reason *why)
{
	const struct replay_side *prefill = &setup->sides[REPLAY_PREFILL],
				 *decode = &setup->sides[REPLAY_DECODE];
	uint32_t max = prefill->n_ranks * decode->n_ranks;
	struct kvf_pair *pairs = calloc(max, sizeof(*pairs));
	setup->sends = calloc((size_t)prefill->dp * decode->dp, prefill->n_ranks);
	bool ok = pairs && setup->sends;
	if (!ok)
		reason_set(why, "out of memory");
	for (uint32_t src_dp = 0; ok && src_dp < prefill->dp; src_dp++) {
		for (uint32_t dst_dp = 0; ok && dst_dp < decode->dp; dst_dp++)
			ok = fill_sends(setup, src_dp, dst_dp, pairs, max, why);
	}
	free(pairs);
	return ok;
}

/* ----------------------------------------------------------------- options */

void replay_options_init(struct replay_options *init)
{
	*init = (struct replay_options){
		.prefill = "tp=1",
		.decode = "tp=1",
		.rate = "max",
		.block_tokens = 32,
		.concurrency = 8,
		.pool_bytes = DEFAULT_POOL_BYTES,
		.block_runs = 8,
		.seed = 1,
		.deadlines = {REPLAY_LIBRARY_DEFAULT, REPLAY_LIBRARY_DEFAULT, REPLAY_LIBRARY_DEFAULT,
			REPLAY_LIBRARY_DEFAULT, REPLAY_LIBRARY_DEFAULT, REPLAY_LIBRARY_DEFAULT},
	};
}

static bool parse_rate(const char *text, double *speed_out, struct reason *why)
{
	char *end;
	if (strcmp(text, "max") == 0) {
		*speed_out = 0;
		return true;
	}
	if (strcmp(text, "real") == 0) {
		*speed_out = 1;
		return true;
	}
	double speed = strtod(text, &end);
	if (end != text && strcmp(end, "x") == 0 && text[0] >= '0' && text[0] <= '9' && speed > 0 &&
		speed <= 1e9) {
		*speed_out = speed;
		return true;
	}
	return reason_set(why, "--rate: '%s' is not 'real', 'max' or a factor like '2x'", text);
}

static bool has_zmq(void)
{
	return strstr(kvf_features(), "zmq") != NULL;
}

static uint64_t unless_given(uint64_t asked, uint64_t otherwise)
{
	return asked == REPLAY_LIBRARY_DEFAULT ? otherwise : asked;
}

/* In chaos much waits for what never comes; the library's minutes would be a long time to watch. */
static void choose_deadlines(struct replay_setup *setup)
{
	struct replay_deadlines *deadlines = &setup->deadlines;
	*deadlines = setup->options.deadlines;
	if (!setup->chaos.on)
		return;
	deadlines->queue_ns = unless_given(deadlines->queue_ns, CHAOS_QUEUE_NS);
	deadlines->transfer_ns = unless_given(deadlines->transfer_ns, CHAOS_TRANSFER_NS);
	deadlines->stall_ns = unless_given(deadlines->stall_ns, CHAOS_STALL_NS);
}

void replay_setup_deadlines(const struct replay_setup *setup, struct kvf_options *options)
{
	const struct replay_deadlines *asked = &setup->deadlines;
	const struct {
		uint64_t value;
		uint64_t *field;
	} deadlines[] = {
		{asked->queue_ns, &options->queue_timeout_ns},
		{asked->transfer_ns, &options->transfer_timeout_ns},
		{asked->stall_ns, &options->stall_timeout_ns},
		{asked->quiet_ns, &options->quiet_timeout_ns},
		{asked->ping_ns, &options->ping_ns},
		{asked->silence_ns, &options->silence_timeout_ns},
	};
	options->connect_timeout_ns = CONNECT_TIMEOUT_NS;
	options->transfer_timeout_ns = TRANSFER_TIMEOUT_NS;
	for (size_t i = 0; i < sizeof(deadlines) / sizeof(deadlines[0]); i++) {
		if (deadlines[i].value != REPLAY_LIBRARY_DEFAULT)
			*deadlines[i].field = deadlines[i].value;
	}
}

/* The library judges its own options: better here, once, than in a rank that has started already. */
static bool try_options(const struct kvf_options *options)
{
	kvf_agent *agent;
	if (kvf_agent_open(options, &agent) != KVF_OK)
		return false;
	kvf_agent_close(agent, 0, NULL);
	return true;
}

static bool check_agent_options(const struct replay_setup *setup, struct reason *why)
{
	struct kvf_options options;
	kvf_options_init(&options);
	options.control = "inproc";
	options.transports = "loop";
	options.progress_thread = 0;
	options.workers = 1;
	options.max_block_ids = 1024;
	replay_setup_deadlines(setup, &options);
	if (!try_options(&options))
		return reason_set(why, "deadlines: %s", kvf_error());
	options.faults = setup->options.fault;
	return try_options(&options) || reason_set(why, "--fault: %s", kvf_error());
}

static bool check_chaos(struct replay_setup *setup, struct reason *why)
{
	const struct chaos_spec *spec = &setup->chaos;
	if (!chaos_spec_parse(setup->options.chaos, &setup->chaos, why))
		return false;
	if (setup->options.transport == REPLAY_LOOP && (spec->kill > 0 || spec->stop > 0))
		return reason_set(why,
			"--chaos: %s: needs a process per rank; --transport loop has one for all",
			spec->kill > 0 ? "kill" : "stop");
	choose_deadlines(setup);
	return check_agent_options(setup, why);
}

static bool check_options(struct replay_setup *setup, struct reason *why)
{
	static const char *const names[] = {"auto", "shm", "tcp", "loop"};
	struct replay_options *options = &setup->options;
	if (options->transport != REPLAY_LOOP && options->transport != REPLAY_AUTO && !has_zmq())
		return reason_set(why,
			"--transport %s: this kvferry was built without ZeroMQ, which its processes need to "
			"find each other; "
			"use --transport loop, or build with -Dzmq=enabled",
			names[options->transport]);
	if (options->transport == REPLAY_AUTO && !has_zmq())
		options->transport = REPLAY_LOOP;
	return check_chaos(setup, why) && parse_rate(options->rate, &setup->speed, why);
}

static bool build_ranks(struct replay_setup *setup, struct reason *why)
{
	if (!check_options(setup, why))
		return false;
	if (!model_parse(setup->options.model, &setup->model, why))
		return reason_prefix(why, "--model");
	for (uint32_t s = 0; s < 2; s++) {
		if (!make_side(setup, s, why))
			return false;
	}
	uint32_t n = setup->sides[0].n_ranks + setup->sides[1].n_ranks;
	if (n > REPLAY_MAX_RANKS)
		return reason_set(why, "--prefill and --decode: %u ranks, at most %u can be started", n,
			REPLAY_MAX_RANKS);
	return true;
}

static bool build_work(struct replay_setup *setup, struct reason *why)
{
	for (uint32_t s = 0; s < 2; s++) {
		if (!replay_sizing_divide(setup, s, why))
			return false;
	}
	if (!replay_requests_load(setup, why))
		return false;
	if (setup->options.corrupt > setup->n_requests)
		return reason_set(why, "--corrupt: there is no request %llu; this run has %u",
			(unsigned long long)setup->options.corrupt, setup->n_requests);
	setup->longest_tokens = setup->requests[replay_sizing_longest(setup)].tokens;
	uint64_t concurrency = setup->options.concurrency;
	setup->concurrency = (uint32_t)(concurrency < setup->n_requests ? concurrency : setup->n_requests);
	for (uint32_t s = 0; s < 2; s++) {
		if (!replay_sizing_fit(setup, s, why) || !replay_sizing_layouts(setup, s, why))
			return false;
	}
	return make_sends(setup, why);
}

bool replay_setup_new(const struct replay_options *options, struct replay_setup **setup_out,
	int *exit_code_out, struct reason *why)
{
	struct replay_setup *setup = calloc(1, sizeof(*setup));
	if (!setup) {
		*exit_code_out = EXIT_WORK_FAILED;
		return reason_set(why, "out of memory");
	}
	setup->options = *options;
	*exit_code_out = EXIT_USAGE;
	bool ok = build_ranks(setup, why);
	if (ok) {
		*exit_code_out = EXIT_WORK_FAILED;
		ok = build_work(setup, why);
	}
	if (!ok) {
		replay_setup_free(setup);
		return false;
	}
	*setup_out = setup;
	return true;
}

void replay_setup_free(struct replay_setup *setup)
{
	if (!setup)
		return;
	for (uint32_t s = 0; s < 2; s++) {
		struct replay_side *side = &setup->sides[s];
		for (uint32_t rank = 0; side->layouts && rank < side->n_ranks; rank++)
			kvf_layout_free(side->layouts[rank]);
		free(side->layouts);
		free(side->span_bytes);
		kvf_instance_free(side->instance);
	}
	model_fini(&setup->model);
	free(setup->requests);
	free(setup->hash_ids);
	free(setup->sends);
	free(setup);
}
