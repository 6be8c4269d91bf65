/* opening.c - options, endpoints and declarations that make no sense are refused by name, and leave nothing behind. */
#include "attempt.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[64];

static int make_directory(void **state)
{
	(void)state;
	(void)strcpy(directory, "/tmp/kvft-XXXXXX");
	assert_non_null(mkdtemp(directory));
	return 0;
}

static int remove_directory(void **state)
{
	(void)state;
	return rmdir(directory); /* fails when an agent left a file in it */
}

static struct kvf_options base_options(void)
{
	struct kvf_options options;

	kvf_options_init(&options);
	options.control = "inproc";
	options.runtime_dir = directory;
	options.progress_thread = 0;
	options.max_sessions = 16;
	options.max_links = 16;
	options.max_slices = 16;
	options.max_block_ids = 1024;
	return options;
}

static enum kvf_status try_open(const struct kvf_options *options)
{
	kvf_agent *agent = NULL;
	enum kvf_status status = kvf_agent_open(options, &agent);

	if (status != KVF_OK)
		assert_null(agent); /* outputs are written only on success */
	kvf_agent_close(agent, 0, NULL);
	return status;
}

static void t_options_out_of_range_are_named(void **state)
{
	struct kvf_options options;
	kvf_agent *agent = NULL;

	(void)state;
	options = base_options();
	REFUSES(KVF_EINVAL, kvf_agent_open(&options, NULL), "agent_out");
#define TRY(field, value, word)                                                                              \
	do {                                                                                                 \
		options = base_options();                                                                    \
		options.field = (value);                                                                     \
		REFUSES(KVF_EINVAL, try_open(&options), word);                                               \
	} while (0)
	TRY(struct_bytes, 0, "struct_bytes");
	TRY(progress_thread, 2, "progress_thread");
	TRY(workers, 0, "workers");
	TRY(workers, 65, "workers");
	TRY(workers, (uint32_t)-3, "workers");
	TRY(max_peers, 0, "max_peers");
	TRY(max_peers, UINT32_MAX, "max_peers");
	TRY(max_sessions, 0, "max_sessions");
	TRY(max_sessions, UINT32_MAX, "max_sessions");
	TRY(max_links, 0, "max_links");
	TRY(max_links, UINT32_MAX, "max_links");
	TRY(max_slices, 0, "max_slices");
	TRY(max_slices, UINT32_MAX, "max_slices");
	TRY(max_block_ids, 0, "max_block_ids");
	TRY(max_block_ids, UINT64_MAX, "max_block_ids");
	TRY(max_regions, 0, "max_regions");
	TRY(max_regions, UINT32_MAX, "max_regions");
	TRY(verify, (enum kvf_verify)7, "verify");
	TRY(control, "carrier pigeon", "control");
	TRY(transports, "shm,pigeon", "pigeon");
	TRY(transports, "", "transports");
	TRY(transports, "shm,", "transports");
	TRY(transports, "auto,tcp", "transports");
	TRY(transports, "tcp,shm,tcp", "transports");
	TRY(listen, "nowhere", "nowhere");
	TRY(listen, "", "listen");
	TRY(data_listen, "not an address", "not an address");
	TRY(data_listen, "127.0.0.1:99999", "99999");
	TRY(data_listen, "", "data_listen");
	TRY(runtime_dir, "/dev/null/nothing", "runtime_dir");
	TRY(runtime_dir, "", "runtime_dir");
#undef TRY
	(void)agent;
}

/* Pitfall 34: orders of deadlines that could never be judged as they are meant; both fields and both values are named. 0 is off. */
static void t_p34_deadlines_in_a_senseless_order_are_named(void **state)
{
	struct kvf_options options = base_options();

	(void)state;
	options.stall_timeout_ns = options.transfer_timeout_ns + 1;
	REFUSES(KVF_EINVAL, try_open(&options), "stall_timeout_ns: 60000000001");
	REFUSES(KVF_EINVAL, try_open(&options), "transfer_timeout_ns, which is 60000000000");
	options.transfer_timeout_ns = 0;
	WORKS(try_open(&options));
	options = base_options();
	options.ping_ns = options.silence_timeout_ns;
	REFUSES(KVF_EINVAL, try_open(&options), "ping_ns: 5000000000");
	REFUSES(KVF_EINVAL, try_open(&options), "silence_timeout_ns, which is 5000000000");
	options.ping_ns = 0;
	REFUSES(KVF_EINVAL, try_open(&options), "ping_ns: 0");
	options.silence_timeout_ns = 0;
	WORKS(try_open(&options));
	options.queue_timeout_ns = options.transfer_timeout_ns = options.stall_timeout_ns = 0;
	options.connect_timeout_ns = options.quiet_timeout_ns = options.progress_timeout_ns = 0;
	WORKS(try_open(&options));
	options.queue_timeout_ns = options.transfer_timeout_ns = options.stall_timeout_ns = UINT64_MAX;
	options.connect_timeout_ns = options.quiet_timeout_ns = options.progress_timeout_ns = UINT64_MAX;
	options.silence_timeout_ns = UINT64_MAX;
	options.ping_ns = UINT64_MAX - 1;
	WORKS(try_open(&options));
}

static void t_a_runtime_dir_that_others_can_enter_is_refused(void **state)
{
	struct kvf_options options = base_options();

	(void)state;
	assert_int_equal(chmod(directory, 0755), 0);
	REFUSES(KVF_EINVAL, try_open(&options), "0700");
	assert_int_equal(chmod(directory, 0700), 0);
	WORKS(try_open(&options));
}

static void t_the_largest_tables_open_or_say_why_not(void **state)
{
	struct kvf_options options = base_options();

	(void)state;
	options.max_peers = 16383; /* ways of the control channel: 2 a peer */
	WORKS(try_open(&options));
	options.max_peers = 65536;
	if (strstr(kvf_features(), "zmq") == NULL)
		return;
	options.control = "zmq";
	REFUSES(KVF_EINVAL, try_open(&options), "max_peers");
}

static void t_one_endpoint_serves_one_agent(void **state)
{
	static const char *const listens[] = {"inproc://kvft-opening", "ipc://%s/a", "tcp://127.0.0.1:0"};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct kvf_options options = base_options();
		kvf_agent *first, *second = NULL;
		char listen[256], real[256];

		if (i > 0 && strstr(kvf_features(), "zmq") == NULL)
			return;
		options.control = i == 0 ? "inproc" : "zmq";
		(void)snprintf(listen, sizeof(listen), listens[i], directory);
		options.listen = listen;
		options.progress_thread = i != 1;
		WORKS(kvf_agent_open(&options, &first));
		WORKS(kvf_endpoint(first, real, sizeof(real)));
		options.listen = real;
		REFUSES(KVF_EADDRINUSE, kvf_agent_open(&options, &second), real);
		assert_null(second);
		kvf_agent_close(first, 0, NULL);
		WORKS(kvf_agent_open(&options, &second)); /* free again */
		kvf_agent_close(second, 0, NULL);
	}
}

static void t_a_data_port_in_use_is_named(void **state)
{
	struct kvf_options options = base_options();
	kvf_agent *first;
	char listen[32];

	(void)state;
	options.transports = "tcp";
	options.listen = "inproc://kvft-data-port";
	for (unsigned port = 20000 + (unsigned)getpid() % 20000;; port++) { /* any one that is free */
		(void)snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
		options.data_listen = listen;
		if (kvf_agent_open(&options, &first) == KVF_OK)
			break;
		assert_true(port < 65000);
	}
	options.listen = "inproc://kvft-data-port-2";
	REFUSES(KVF_EADDRINUSE, try_open(&options), listen);
	kvf_agent_close(first, 0, NULL);
}

static void t_listeners_stay_on_loopback_unless_named(void **state)
{
	struct kvf_options options = base_options();

	(void)state;
	if (strstr(kvf_features(), "zmq") == NULL)
		skip();
	options.control = "zmq";
	options.listen = "tcp://*:0";
	REFUSES(KVF_EINVAL, try_open(&options), "tcp://*:0");
}

/* ---- declarations ---- */

struct world {
	struct kvf_group_spec group;
	struct kvf_model model;
	struct kvf_instance *instance;
	struct kvf_layout *layout;
	uint64_t bytes;
	unsigned char *memory;
	kvf_region region;
	kvf_agent *agent;
};

static void open_world(struct world *world, enum kvf_role role)
{
	struct cluster_spec spec = attempt_spec(&world->group);
	struct kvf_parallel parallel = {2, 1, 1, 1, NULL, NULL};
	struct kvf_layout_options how = {KVF_LAYER_HND, 8, 16, 4};
	struct kvf_options options = base_options();
	void *memory;

	world->model = spec.model;
	world->model.groups = &world->group;
	options.listen = role == KVF_PREFILL ? "inproc://kvft-declare" : NULL;
	options.transports = "loop";
	WORKS(kvf_agent_open(&options, &world->agent));
	WORKS(kvf_instance_new(&world->model, &parallel, role, 77, &world->instance));
	WORKS(kvf_layout_new(&world->model, world->instance, 1, &how, &world->layout, &world->bytes));
	WORKS(kvf_alloc(world->agent, world->bytes, &memory, &world->region));
	world->memory = memory;
	kvf_layout_move(world->layout, (uint64_t)(uintptr_t)memory);
}

static void close_world(struct world *world)
{
	kvf_agent_close(world->agent, 0, NULL);
	kvf_layout_free(world->layout);
	kvf_instance_free(world->instance);
}

static void t_an_undeclared_agent_does_nothing(void **state)
{
	struct kvf_tx_params tx = {.request_id = 1, .prompt_len = 8};
	struct kvf_rx_params rx = {.request_id = 1, .prompt_len = 8, .aux_slot = KVF_NO_AUX};
	unsigned char ticket[KVF_TICKET_MAX_BYTES];
	struct kvf_event event;
	struct world world;
	kvf_session session;
	size_t len;

	(void)state;
	open_world(&world, KVF_DECODE);
	REFUSES(KVF_EINVAL, kvf_tx_open(world.agent, &tx, &session), "declare");
	REFUSES(KVF_EINVAL, kvf_rx_open(world.agent, &rx, &session), "declare");
	REFUSES(KVF_EINVAL, kvf_connect(world.agent, "inproc://nobody"), "declare");
	REFUSES(KVF_EINVAL, kvf_ticket_new(world.agent, &tx, ticket, sizeof(ticket), &len), "declare");
	assert_int_equal(kvf_poll(world.agent, &event, 1), 0);
	REFUSES(KVF_TIMED_OUT, kvf_wait(world.agent, 1000), "");
	WORKS(kvf_drain(world.agent, 0));
	WORKS(kvf_free(world.agent, world.region));
	close_world(&world);
}

static void t_layouts_that_make_no_sense_are_not_declared(void **state)
{
	struct kvf_group *group;
	struct world world;
	uint64_t kept, *bases;
	uint32_t *layers;

	(void)state;
	open_world(&world, KVF_DECODE);
	group = (struct kvf_group *)(uintptr_t)world.layout->groups;
	bases = (uint64_t *)(uintptr_t)group->bases;
	layers = (uint32_t *)(uintptr_t)group->layers;
#define TRY(word) REFUSES(KVF_EINVAL, kvf_declare(world.agent, world.instance, 1, world.layout), word)
	REFUSES(KVF_EINVAL, kvf_declare(world.agent, NULL, 1, world.layout), "instance");
	REFUSES(KVF_EINVAL, kvf_declare(world.agent, world.instance, 1, NULL), "layout");
	REFUSES(KVF_EINVAL, kvf_declare(world.agent, world.instance, 2, world.layout), "2 ranks");
	REFUSES(KVF_EINVAL, kvf_declare(world.agent, world.instance, 0, world.layout), "rank");
	kept = bases[3];
	bases[3] = bases[2] + 512; /* two layers over each other */
	TRY("overlap");
	bases[3] = kept + world.bytes; /* past the end of what is registered */
	TRY("region");
	bases[3] = 0;
	TRY("region");
	bases[3] = UINT64_MAX - 8;
	TRY("overflow");
	bases[3] = kept;
	kept = group->parts[0].token_stride;
	group->parts[0].token_stride = 8; /* rows over each other */
	TRY("");
	group->parts[0].token_stride = 0;
	TRY("");
	group->parts[0].token_stride = UINT64_MAX / 2;
	TRY("overflow");
	group->parts[0].token_stride = kept;
	group->blocks++; /* the last one over the first of the next layer */
	TRY("overlap");
	group->blocks--;
	layers[1] = 0;
	TRY("layers");
	layers[1] = KVF_MAX_LAYERS;
	TRY("layers");
	layers[1] = 1;
	group->parts[0].head_start = 0; /* the map says [2, 4) */
	TRY("heads");
	group->parts[0].head_start = 2;
	group->n_layers = 3;
	TRY("layers");
	group->n_layers = 4;
	WORKS(kvf_layout_set_aux(world.layout, 2, 64, 0)); /* memory at address 0 */
	TRY("aux");
	WORKS(kvf_layout_set_aux(world.layout, 0, 0, 0));
	WORKS(kvf_declare(
		world.agent, world.instance, 1, world.layout)); /* and nothing was pinned on the way */
	REFUSES(KVF_EBUSY, kvf_free(world.agent, world.region), "layout");
#undef TRY
	close_world(&world);
}

static void t_a_prefill_rank_must_listen_and_has_no_aux(void **state)
{
	struct kvf_options options = base_options();
	struct world world;
	kvf_agent *agent;

	(void)state;
	open_world(&world, KVF_PREFILL);
	options.transports = "loop";
	WORKS(kvf_agent_open(&options, &agent));
	REFUSES(KVF_EINVAL, kvf_declare(agent, world.instance, 1, world.layout), "listen");
	kvf_agent_close(agent, 0, NULL);
	WORKS(kvf_layout_set_aux(world.layout, 1, 64, (uint64_t)(uintptr_t)world.memory));
	REFUSES(KVF_EINVAL, kvf_declare(world.agent, world.instance, 1, world.layout), "aux");
	close_world(&world);
}

static void t_the_table_of_regions_is_full(void **state)
{
	struct kvf_options options = base_options();
	kvf_region regions[2], third;
	char memory[3][64];
	kvf_agent *agent;
	void *more;

	(void)state;
	options.max_regions = 2;
	options.transports = "loop";
	WORKS(kvf_agent_open(&options, &agent));
	WORKS(kvf_register(agent, memory[0], 64, &regions[0]));
	WORKS(kvf_register(agent, memory[1], 64, &regions[1]));
	REFUSES(KVF_EFULL, kvf_register(agent, memory[2], 64, &third), "max_regions");
	REFUSES(KVF_EFULL, kvf_alloc(agent, 64, &more, &third), "max_regions");
	WORKS(kvf_unregister(agent, regions[0]));
	REFUSES(KVF_EINVAL, kvf_register(agent, memory[1] + 32, 64, &third), "");
	WORKS(kvf_register(agent, memory[2], 64, &third));
	WORKS(kvf_unregister(agent, third));
	REFUSES(KVF_EINVAL, kvf_alloc(agent, UINT64_C(1) << 62, &more, &third), "len_bytes");
	kvf_agent_close(agent, 0, NULL);
}

int main(void)
{
#define ALONE(test) cmocka_unit_test_setup_teardown(test, make_directory, remove_directory)
	const struct CMUnitTest tests[] = {
		ALONE(t_options_out_of_range_are_named),
		ALONE(t_p34_deadlines_in_a_senseless_order_are_named),
		ALONE(t_a_runtime_dir_that_others_can_enter_is_refused),
		ALONE(t_the_largest_tables_open_or_say_why_not),
		ALONE(t_one_endpoint_serves_one_agent),
		ALONE(t_a_data_port_in_use_is_named),
		ALONE(t_listeners_stay_on_loopback_unless_named),
		ALONE(t_an_undeclared_agent_does_nothing),
		ALONE(t_layouts_that_make_no_sense_are_not_declared),
		ALONE(t_a_prefill_rank_must_listen_and_has_no_aux),
		ALONE(t_the_table_of_regions_is_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
