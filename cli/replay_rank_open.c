/* replay_rank_open.c - opens and closes what a rank owns: agent, memory, layout, tables.
 *
 * Guarantees: tables of the agent have room for all that the coordinator may have in flight, so that nothing is
 * refused later. Pools are kvf_alloc's where a peer may map them (shm), else plain memory of the rank's own,
 * registered. One thread: the host's.
 */
#include "cli/replay_rank.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#define NS_PER_S UINT64_C(1000000000)
#define DRAIN_NS (5 * NS_PER_S)

static uint32_t max_u32(uint64_t least, uint64_t wanted)
{
	uint64_t most = wanted > least ? wanted : least;
	return most < UINT32_MAX ? (uint32_t)most : UINT32_MAX;
}

/* Ids of all lists of all requests in flight: own, and those that the receivers name to a sender. */
static uint64_t ids_in_flight(const struct replay_rank *rank)
{
	const struct replay_setup *setup = rank->setup;
	uint64_t ids = 0;
	for (uint32_t g = 0; g < setup->model.kvf.n_groups; g++) {
		ids += replay_list_capacity(setup, rank->side, g);
		if (rank->side == REPLAY_PREFILL)
			ids += replay_list_capacity(setup, REPLAY_DECODE, g) *
			       setup->sides[REPLAY_DECODE].n_ranks;
	}
	return ids * setup->concurrency * 2;
}

static void set_options(const struct replay_rank *rank, const char *runtime_dir, struct kvf_options *options)
{
	static const char *const transports[] = {"auto", "shm", "tcp", "loop"};
	const struct replay_setup *setup = rank->setup;
	uint32_t peers = setup->sides[!rank->side].n_ranks;
	uint64_t sessions = setup->concurrency;
	bool loop = setup->options.transport == REPLAY_LOOP;

	kvf_options_init(options);
	if (loop) {
		options->control = "inproc";
		options->progress_thread = 0;
		options->workers = 1;
	}
	options->transports = transports[setup->options.transport];
	options->runtime_dir = runtime_dir;
	options->verify = setup->options.sum ? KVF_VERIFY_SUM : KVF_VERIFY_NONE;
	options->max_peers = max_u32(options->max_peers, peers + 8);
	options->max_sessions = max_u32(options->max_sessions, sessions * 2);
	options->max_links = max_u32(options->max_links, sessions * 2 * peers);
	options->max_slices = max_u32(options->max_slices, sessions * 2 * REPLAY_MAX_SLICES * peers);
	uint64_t ids = ids_in_flight(rank);
	options->max_block_ids = ids > options->max_block_ids ? ids : options->max_block_ids;
	replay_setup_deadlines(setup, options);
}

/* Pool, canary and aux slots in one piece. Shared memory where it may be mapped by a peer, else memory of
 * our own. */
static bool get_memory(struct replay_rank *rank, uint64_t len, void **memory_out, struct reason *why)
{
	uint32_t transport = rank->setup->options.transport;
	if (transport == REPLAY_AUTO || transport == REPLAY_SHM) {
		if (kvf_alloc(rank->agent, len, memory_out, &rank->region) != KVF_OK)
			return reason_set(why, "kvf_alloc: %s", kvf_error());
		return true;
	}
	void *memory =
		mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (memory == MAP_FAILED)
		return reason_set(why, "cannot get %llu bytes for the pool: %s", (unsigned long long)len,
			strerror(errno));
	rank->mapped = memory;
	rank->mapped_bytes = len;
	if (kvf_register(rank->agent, memory, len, &rank->region) != KVF_OK)
		return reason_set(why, "kvf_register: %s", kvf_error());
	*memory_out = memory;
	return true;
}

static bool place_memory(struct replay_rank *rank, struct reason *why)
{
	const struct replay_setup *setup = rank->setup;
	const struct replay_side *side = &setup->sides[rank->side];
	const struct kvf_layout_options options = {
		.order = side->ranks.memory_order,
		.tokens_per_block = side->tokens_per_block,
		.blocks = side->blocks,
		.state_slots = side->state_slots,
	};
	uint64_t span, aux_bytes = (uint64_t)setup->concurrency * REPLAY_AUX_BYTES;
	void *memory;
	if (kvf_layout_new(&setup->model.kvf, side->instance, rank->index, &options, &rank->layout, &span) !=
		KVF_OK)
		return reason_set(why, "kvf_layout_new: %s", kvf_error());
	uint64_t pool_bytes = span + REPLAY_CANARY_BYTES;
	if (!get_memory(rank, pool_bytes + aux_bytes, &memory, why))
		return false;
	kvf_layout_move(rank->layout, (uint64_t)(uintptr_t)memory);
	rank->aux = (uint8_t *)memory + pool_bytes;
	if (rank->side == REPLAY_DECODE &&
		kvf_layout_set_aux(rank->layout, setup->concurrency, REPLAY_AUX_BYTES,
			(uint64_t)(uintptr_t)rank->aux) != KVF_OK)
		return reason_set(why, "kvf_layout_set_aux: %s", kvf_error());
	replay_memory_attach(&rank->memory, rank->layout, memory, pool_bytes);
	return true;
}

/* Prefill ranks that this decode rank must hear from. */
static bool count_peers(struct replay_rank *rank, struct reason *why)
{
	const struct replay_side *prefill = &rank->setup->sides[REPLAY_PREFILL];
	const struct replay_side *decode = &rank->setup->sides[REPLAY_DECODE];
	uint32_t max = prefill->n_ranks * decode->n_ranks, n = 0;
	struct kvf_pair *pairs = calloc(max, sizeof(*pairs));
	bool ok = pairs != NULL;
	for (uint32_t dp = 0; ok && dp < prefill->dp; dp++) {
		ok = kvf_pairs(prefill->instance, decode->instance, dp, KVF_DP_UNKNOWN, pairs, max, &n) ==
		     KVF_OK;
		for (uint32_t i = 0; ok && i < n; i++) {
			if (pairs[i].dst == rank->index)
				rank->peers_due[pairs[i].src] = true;
		}
	}
	for (uint32_t src = 0; ok && src < prefill->n_ranks; src++) {
		rank->peers_paired[src] = rank->peers_due[src];
		rank->n_peers_due += rank->peers_due[src];
	}
	free(pairs);
	return ok || reason_set(why, "kvf_pairs: %s", kvf_error());
}

/* In chaos a rank may be a second one of that name: what the first has recorded is what one wants to see. */
static bool name_record(const struct replay_options *asked, const char *name, char *path, size_t len_bytes)
{
	int len = asked->chaos != NULL
	                  ? snprintf(path, len_bytes, "%s.%s.%ld", asked->record, name, (long)getpid())
	                  : snprintf(path, len_bytes, "%s.%s", asked->record, name);

	return len > 0 && (size_t)len < len_bytes;
}

static bool open_agent(struct replay_rank *rank, const char *runtime_dir, struct reason *why)
{
	const struct replay_side *side = &rank->setup->sides[rank->side];
	struct kvf_options options;
	char name[32], record[4096];
	set_options(rank, runtime_dir, &options);
	snprintf(name, sizeof(name), "%s-%u", rank->side == REPLAY_PREFILL ? "prefill" : "decode",
		rank->index);
	options.name = name;
	if (rank->setup->options.record != NULL) {
		if (!name_record(&rank->setup->options, name, record, sizeof(record)))
			return reason_set(why, "--record: the path is too long");
		options.record = record;
	}
	options.faults = rank->setup->options.fault;
	if (rank->side == REPLAY_PREFILL)
		options.listen = side->instance->ranks[rank->index].endpoint;
	if (kvf_agent_open(&options, &rank->agent) != KVF_OK)
		return reason_set(why, "kvf_agent_open: %s", kvf_error());
	if (!place_memory(rank, why))
		return false;
	if (kvf_declare(rank->agent, side->instance, rank->index, rank->layout) != KVF_OK)
		return reason_set(why, "kvf_declare: %s", kvf_error());
	return true;
}

bool replay_rank_open(struct replay_rank *rank, const char *runtime_dir, struct reason *why)
{
	const struct replay_setup *setup = rank->setup;
	rank->sessions = calloc(setup->concurrency, sizeof(*rank->sessions));
	rank->peers_due = calloc(setup->sides[REPLAY_PREFILL].n_ranks, sizeof(bool));
	rank->peers_paired = calloc(setup->sides[REPLAY_PREFILL].n_ranks, sizeof(bool));
	if (!rank->sessions || !rank->peers_due || !rank->peers_paired ||
		!replay_memory_init(&rank->memory, setup, rank->board, rank->side, rank->index))
		return reason_set(why, "out of memory");
	for (uint32_t slot = 0; slot < setup->concurrency; slot++)
		rank->sessions[slot].request = REPLAY_NO_REQUEST;
	return (rank->side == REPLAY_PREFILL || count_peers(rank, why)) && open_agent(rank, runtime_dir, why);
}

void replay_rank_close(struct replay_rank *rank)
{
	struct kvf_close_report report = {0};
	kvf_agent_close(rank->agent, DRAIN_NS, &report);
	if (rank->agent && report.unreleased_sessions > 0)
		replay_host_broken(
			rank, "kvf_agent_close: %u sessions were never released", report.unreleased_sessions);
	rank->agent = NULL;
	kvf_layout_free(rank->layout);
	rank->layout = NULL;
	if (rank->mapped)
		munmap(rank->mapped, rank->mapped_bytes);
	rank->mapped = NULL;
	replay_memory_fini(&rank->memory);
	free(rank->sessions);
	free(rank->peers_due);
	free(rank->peers_paired);
	rank->sessions = NULL;
	rank->peers_due = rank->peers_paired = NULL;
}
