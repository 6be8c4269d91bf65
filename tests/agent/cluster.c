/* cluster.c - see cluster.h. */
#include "cluster.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

void cluster_must(enum kvf_status status)
{
	if (status != KVF_OK)
		fail_msg("%s: %s", kvf_status_name(status), kvf_error());
}

static uint64_t now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- open, connect, close ---- */

const char *cluster_side_name(int side)
{
	return side == 0 ? "prefill" : "decode";
}

static void make_instance(struct cluster *cluster, int side)
{
	const struct cluster_side *spec = side == 0 ? &cluster->spec.prefill : &cluster->spec.decode;
	struct kvf_instance *instance;

	cluster_must(
		kvf_instance_new(&cluster->spec.model, &spec->parallel, side == 0 ? KVF_PREFILL : KVF_DECODE,
			(uint64_t)(uintptr_t)cluster + (uint64_t)side + 1, &instance));
	cluster->instances[side] = instance;
	cluster->n[side] = instance->n_ranks;
	assert_true(instance->n_ranks <= CLUSTER_MAX_RANKS);
	cluster->ranks[side] = calloc(instance->n_ranks, sizeof(struct cluster_rank));
	assert_non_null(cluster->ranks[side]);
	for (uint32_t r = 0; r < instance->n_ranks; r++) {
		struct cluster_rank *rank = &cluster->ranks[side][r];
		bool zmq = cluster->spec.control != NULL && strcmp(cluster->spec.control, "zmq") == 0;

		if (zmq)
			(void)snprintf(rank->endpoint, sizeof(rank->endpoint), "ipc://%s/%s%u",
				cluster->directory, cluster_side_name(side), r);
		else
			(void)snprintf(rank->endpoint, sizeof(rank->endpoint), "inproc://%p-%s%u",
				(void *)cluster, cluster_side_name(side), r);
		if (side == 0)
			cluster_must(kvf_instance_set_endpoint(instance, r, rank->endpoint));
	}
}

static void open_memory(struct cluster *cluster, struct cluster_rank *rank)
{
	void *memory;

	rank->plain = cluster->spec.plain_memory;
	if (rank->plain) {
		memory = aligned_alloc(4096, rank->memory_bytes);
		assert_non_null(memory);
		cluster_must(kvf_register(rank->agent, memory, rank->memory_bytes, &rank->region));
	} else {
		cluster_must(kvf_alloc(rank->agent, rank->memory_bytes, &memory, &rank->region));
	}
	rank->memory = memory;
	memset(memory, CLUSTER_UNTOUCHED, rank->memory_bytes);
	kvf_layout_move(rank->layout, (uint64_t)(uintptr_t)memory);
}

static void open_rank(struct cluster *cluster, int side, uint32_t r)
{
	const struct cluster_side *spec = side == 0 ? &cluster->spec.prefill : &cluster->spec.decode;
	struct cluster_rank *rank = &cluster->ranks[side][r];
	struct kvf_options options;
	char name[16];

	kvf_options_init(&options);
	(void)snprintf(name, sizeof(name), "%c%u", side == 0 ? 'p' : 'd', r);
	options.name = name;
	options.control = cluster->spec.control != NULL ? cluster->spec.control : "inproc";
	options.transports = cluster->spec.transports != NULL ? cluster->spec.transports : "loop";
	options.runtime_dir = cluster->directory;
	options.progress_thread = cluster->spec.own_thread;
	options.listen = side == 0 ? rank->endpoint : NULL;
	options.verify = cluster->spec.verify;
	options.max_block_ids = cluster->spec.max_block_ids != 0 ? cluster->spec.max_block_ids : 65536;
	if (cluster->spec.max_peers != 0)
		options.max_peers = cluster->spec.max_peers;
	if (cluster->spec.connect_timeout_ns != 0)
		options.connect_timeout_ns = cluster->spec.connect_timeout_ns;
	if (cluster->spec.transfer_timeout_ns != 0)
		options.transfer_timeout_ns = cluster->spec.transfer_timeout_ns;
	if (cluster->spec.max_sessions != 0)
		options.max_sessions = cluster->spec.max_sessions;
	if (cluster->spec.max_links != 0)
		options.max_links = cluster->spec.max_links;
	if (cluster->spec.max_slices != 0)
		options.max_slices = cluster->spec.max_slices;
	cluster_must(kvf_agent_open(&options, &rank->agent));
	cluster_must(kvf_layout_new(&cluster->spec.model, cluster->instances[side], r, &spec->layout,
		&rank->layout, &rank->memory_bytes));
	rank->memory_bytes = (rank->memory_bytes + 4095) & ~UINT64_C(4095);
	open_memory(cluster, rank);
	if (side == 1 && cluster->spec.n_aux > 0) {
		rank->aux = calloc(cluster->spec.n_aux, cluster->spec.aux_bytes);
		assert_non_null(rank->aux);
		cluster_must(kvf_layout_set_aux(rank->layout, cluster->spec.n_aux, cluster->spec.aux_bytes,
			(uint64_t)(uintptr_t)rank->aux));
	}
	cluster_must(kvf_declare(rank->agent, cluster->instances[side], r, rank->layout));
}

void cluster_open(struct cluster *cluster, const struct cluster_spec *spec)
{
	memset(cluster, 0, sizeof(*cluster));
	cluster->spec = *spec;
	(void)strcpy(cluster->directory, "/tmp/kvft-XXXXXX");
	assert_non_null(mkdtemp(cluster->directory));
	for (int side = 0; side < 2; side++)
		make_instance(cluster, side);
	for (int side = 0; side < 2; side++)
		for (uint32_t r = 0; r < cluster->n[side]; r++)
			open_rank(cluster, side, r);
}

static bool all_connected(struct cluster *cluster, void *argument)
{
	static struct kvf_pair pairs[CLUSTER_MAX_RANKS * CLUSTER_MAX_RANKS];

	(void)argument;
	for (uint32_t d = 0; d < cluster->n[1]; d++) {
		bool paired[CLUSTER_MAX_RANKS] = {false};
		uint32_t want = 0;

		paired[0] = true; /* the one that was named */
		for (uint32_t dp = 0; dp < cluster->instances[0]->dp; dp++) {
			uint32_t n;

			cluster_must(kvf_pairs(cluster->instances[0], cluster->instances[1], dp,
				KVF_DP_UNKNOWN, pairs, CLUSTER_MAX_RANKS * CLUSTER_MAX_RANKS, &n));
			for (uint32_t i = 0; i < n; i++)
				if (pairs[i].dst == d)
					paired[pairs[i].src] = true;
		}
		for (uint32_t s = 0; s < cluster->n[0]; s++)
			want += paired[s];
		if (cluster->ranks[1][d].peers_up < want)
			return false;
	}
	return true;
}

void cluster_connect(struct cluster *cluster)
{
	for (uint32_t d = 0; d < cluster->n[1]; d++)
		cluster_must(kvf_connect(cluster->ranks[1][d].agent, cluster->ranks[0][0].endpoint));
	cluster_until(cluster, all_connected, NULL);
}

void cluster_close(struct cluster *cluster)
{
	for (int side = 1; side >= 0; side--) {
		for (uint32_t r = 0; r < cluster->n[side]; r++) {
			struct cluster_rank *rank = &cluster->ranks[side][r];
			struct kvf_close_report report;

			kvf_agent_close(rank->agent, 1000000000, &report);
			kvf_layout_free(rank->layout);
			if (rank->plain)
				free(rank->memory);
			free(rank->aux);
		}
		free(cluster->ranks[side]);
		kvf_instance_free(cluster->instances[side]);
	}
	(void)rmdir(cluster->directory);
}

/* ---- time ---- */

void cluster_watch(struct cluster *cluster, int side, uint32_t r, kvf_session session)
{
	struct cluster_rank *rank = &cluster->ranks[side][r];

	rank->session = session;
	rank->ready = rank->outcome = rank->released = false;
}

void cluster_poll_rank(struct cluster_rank *rank)
{
	struct kvf_event events[8];
	int n = kvf_poll(rank->agent, events, 8);

	assert_true(n >= 0);
	for (int i = 0; i < n; i++) {
		bool watched = rank->session.bits == events[i].session.bits;

		switch (events[i].type) {
		case KVF_EVENT_PEER:
			rank->peers_up += events[i].status == KVF_OK;
			if (events[i].status != KVF_OK)
				rank->peer_status = events[i].status;
			rank->peer = events[i].peer;
			break;
		case KVF_EVENT_READY:
			rank->ready = rank->ready || watched;
			break;
		case KVF_EVENT_SLICE:
			rank->slices++;
			break;
		case KVF_EVENT_OUTCOME:
			assert_false(rank->released && watched);
			rank->outcome = rank->outcome || watched;
			rank->outcomes++;
			if (watched)
				rank->status = events[i].status;
			break;
		case KVF_EVENT_RELEASED:
			rank->released = rank->released || watched;
			rank->releases++;
			assert_true(rank->outcomes >= rank->releases);
			break;
		}
	}
}

void cluster_poll(struct cluster *cluster)
{
	for (int side = 0; side < 2; side++)
		for (uint32_t r = 0; r < cluster->n[side]; r++)
			if (cluster->ranks[side][r].agent != NULL)
				cluster_poll_rank(&cluster->ranks[side][r]);
}

static void print_ranks(struct cluster *cluster)
{
	for (int side = 0; side < 2; side++) {
		for (uint32_t r = 0; r < cluster->n[side]; r++) {
			const struct cluster_rank *rank = &cluster->ranks[side][r];
			struct kvf_peer_info info = {.reason = ""};
			enum kvf_status told = kvf_peer_info(rank->agent, rank->peer, &info);

			print_message("%s %u: ready %d outcome %d (%s) released %d, %u peers up, last peer: "
				      "%s %s %s\n",
				cluster_side_name(side), r, rank->ready, rank->outcome,
				kvf_status_name(rank->status), rank->released, rank->peers_up,
				kvf_status_name(told), kvf_status_name(info.status), info.reason);
		}
	}
}

void cluster_until(
	struct cluster *cluster, bool (*done)(struct cluster *cluster, void *argument), void *argument)
{
	uint64_t end_ns = now_ns() + UINT64_C(20000000000);
	struct timespec pause = {0, 50000};

	for (;;) {
		cluster_poll(cluster);
		if (done(cluster, argument))
			return;
		if (now_ns() > end_ns) {
			print_ranks(cluster);
			fail_msg("nothing came in 20 s");
		}
		if (cluster->spec.own_thread ||
			(cluster->spec.transports != NULL && strcmp(cluster->spec.transports, "loop") != 0))
			(void)nanosleep(&pause,
				NULL); /* lets other threads of this machine work; nothing depends on it */
	}
}
