/* topologies.c - every topology of the mapping page moves every byte, in both orders, with and without aux. Arguments: the transport, the control
 * channel. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "cluster.h"

static const char *transport = "loop", *control = "inproc";

static const uint32_t four_layers[] = {0, 1, 2, 3};

static struct kvf_group_spec paged_group(bool mla)
{
	struct kvf_group_spec group = {.kind = KVF_PAGED,
		.dtype = KVF_FP32,
		.n_layers = 4,
		.layers = four_layers,
		.n_parts = mla ? 1 : 2};

	for (uint32_t p = 0; p < group.n_parts; p++)
		group.parts[p] = (struct kvf_part_spec){mla ? 1 : 4, 128 * 4};
	return group;
}

static struct cluster_spec spec_of(const struct kvf_group_spec *groups, uint32_t n_groups)
{
	struct cluster_spec spec = {.model = {"toy", "1", n_groups, groups},
		.prefill = {{1, 1, 1, 1, NULL, NULL}, {KVF_BLOCK_MAJOR, 8, 16, 4}},
		.decode = {{1, 1, 1, 1, NULL, NULL}, {KVF_BLOCK_MAJOR, 8, 16, 4}},
		.control = control,
		.transports = transport,
		.own_thread = strcmp(transport, "loop") != 0,
		.n_aux = 4,
		.aux_bytes = 64};

	return spec;
}

static void run_requests(const struct cluster_spec *spec)
{
	static const uint64_t prompts[] = {16, 16, 32};
	struct cluster cluster;

	cluster_open(&cluster, spec);
	cluster_connect(&cluster);
	for (uint64_t id = 1; id <= 6; id++) {
		struct cluster_request request = {.id = id,
			.prompt_len = prompts[id % 3],
			.src_dp = (uint32_t)(id % spec->prefill.parallel.dp),
			.dst_dp = (uint32_t)(id / 2 % spec->decode.parallel.dp),
			.receive_first = id % 2 == 0,
			.aux = id % 2 == 0};

		cluster_run(&cluster, &request);
		request.id += 100;
		request.aux = !request.aux;
		cluster_run(&cluster, &request);
	}
	cluster_close(&cluster);
}

struct topology {
	uint32_t tp, pp, dp;
};

static void run_topology(struct topology prefill, struct topology decode, bool mla)
{
	struct kvf_group_spec group = paged_group(mla);
	struct cluster_spec spec = spec_of(&group, 1);

	spec.prefill.parallel = (struct kvf_parallel){prefill.tp, prefill.pp, 1, prefill.dp, NULL, NULL};
	spec.decode.parallel = (struct kvf_parallel){decode.tp, decode.pp, 1, decode.dp, NULL, NULL};
	run_requests(&spec);
}

static void t_all_topologies_move_every_byte(void **state)
{
	static const struct topology pairs[][2] = {{{1, 1, 1}, {1, 1, 1}}, {{1, 1, 1}, {1, 2, 1}},
		{{1, 2, 1}, {1, 1, 1}}, {{1, 2, 1}, {1, 2, 1}}, {{1, 2, 1}, {2, 1, 1}},
		{{2, 1, 1}, {1, 2, 1}}, {{4, 1, 1}, {2, 2, 1}}, {{1, 4, 1}, {2, 2, 1}},
		{{2, 1, 2}, {2, 1, 2}}, {{2, 1, 2}, {1, 2, 1}}, {{1, 4, 1}, {2, 2, 2}}};

	(void)state;
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
		run_topology(pairs[i][0], pairs[i][1], false);
}

static void t_mla_topologies_move_every_byte(void **state)
{
	(void)state;
	run_topology((struct topology){2, 1, 1}, (struct topology){2, 1, 2}, true);
	run_topology((struct topology){2, 1, 2}, (struct topology){2, 1, 1}, true);
}

static void t_all_pairings_of_memory_orders(void **state)
{
	struct kvf_group_spec group = paged_group(false);

	(void)state;
	for (int from = KVF_BLOCK_MAJOR; from <= KVF_LAYER_NHD; from++) {
		for (int to = KVF_BLOCK_MAJOR; to <= KVF_LAYER_NHD; to++) {
			struct cluster_spec spec = spec_of(&group, 1);

			spec.prefill.parallel.tp = 4;
			spec.decode.parallel.tp = 2;
			spec.prefill.layout.order = (enum kvf_memory_order)from;
			spec.decode.layout.order = (enum kvf_memory_order)to;
			run_requests(&spec);
		}
	}
}

static void t_unequal_tokens_per_block(void **state)
{
	static const uint32_t sizes[][2] = {{8, 16}, {16, 8}, {4, 6}, {1, 8}};
	struct kvf_group_spec group = paged_group(false);

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct cluster_spec spec = spec_of(&group, 1);

		spec.prefill.layout.tokens_per_block = sizes[i][0];
		spec.decode.layout.tokens_per_block = sizes[i][1];
		spec.prefill.layout.blocks = spec.decode.layout.blocks = 48;
		spec.decode.parallel.tp = 2;
		run_requests(&spec);
	}
}

static void t_windows_states_and_replicated_groups(void **state)
{
	static const uint32_t even[] = {0, 2}, odd[] = {1, 3}, states[] = {4, 5};
	struct kvf_group_spec groups[4] = {{.kind = KVF_PAGED,
						   .dtype = KVF_BF16,
						   .n_layers = 2,
						   .layers = odd,
						   .n_parts = 2,
						   .parts = {{4, 64}, {4, 64}}},
		{.kind = KVF_WINDOW,
			.dtype = KVF_BF16,
			.window_tokens = 12,
			.n_layers = 2,
			.layers = even,
			.n_parts = 2,
			.parts = {{4, 64}, {4, 64}}},
		{.kind = KVF_STATE,
			.dtype = KVF_BF16,
			.n_layers = 2,
			.layers = states,
			.n_parts = 2,
			.parts = {{8, 6}, {4, 100}}},
		{.kind = KVF_REPLICATED,
			.dtype = KVF_FP8,
			.n_layers = 2,
			.layers = odd,
			.n_parts = 1,
			.parts = {{1, 33}}}};
	struct cluster_spec spec = spec_of(groups, 4);

	(void)state;
	spec.prefill.parallel.tp = 4;
	spec.decode.parallel.tp = 2;
	run_requests(&spec);
	spec.prefill.parallel = (struct kvf_parallel){1, 2, 1, 1, NULL, NULL};
	spec.decode.parallel = (struct kvf_parallel){2, 1, 1, 2, NULL, NULL};
	run_requests(&spec);
}

static void t_context_parallel_decode(void **state)
{
	struct kvf_group_spec group = paged_group(false);
	struct cluster_spec spec = spec_of(&group, 1);

	(void)state;
	spec.prefill.parallel.tp = 2;
	spec.decode.parallel.cp = 2;
	run_requests(&spec);
}

static void t_slices_by_tokens_and_layers(void **state)
{
	struct kvf_group_spec group = paged_group(false);
	struct cluster_spec spec = spec_of(&group, 1);
	struct cluster cluster;

	(void)state;
	spec.prefill.parallel = (struct kvf_parallel){2, 2, 1, 1, NULL, NULL};
	spec.decode.parallel.tp = 1;
	cluster_open(&cluster, &spec);
	cluster_connect(&cluster);
	for (uint64_t id = 1; id <= 12; id++) {
		struct cluster_request request = {.id = id,
			.prompt_len = 20 + id * 7 % 90,
			.receive_first = id % 2 == 0,
			.aux = id % 3 == 0,
			.chunks = 1 + (uint32_t)(id % 5),
			.layer_slices = 1 + (uint32_t)(id % 4),
			.cached_blocks = (uint32_t)(id % 4),
			.replica = id % 2 == 0 ? KVF_REPLICA_STRIPE : KVF_REPLICA_ELECT};

		cluster_run(&cluster, &request);
	}
	cluster_close(&cluster);
}

static void t_stripe_of_replicas(void **state)
{
	struct kvf_group_spec group = paged_group(true);
	struct cluster_spec spec = spec_of(&group, 1);
	struct cluster cluster;

	(void)state;
	spec.prefill.parallel.tp = 4;
	spec.decode.parallel.tp = 2;
	cluster_open(&cluster, &spec);
	cluster_connect(&cluster);
	for (uint64_t id = 1; id <= 4; id++) {
		struct cluster_request request = {.id = id,
			.prompt_len = 40,
			.receive_first = id % 2 == 0,
			.replica = id % 3 == 0 ? KVF_REPLICA_ELECT : KVF_REPLICA_STRIPE};

		cluster_run(&cluster, &request);
	}
	cluster_close(&cluster);
}

static void t_sums_agree(void **state)
{
	struct kvf_group_spec group = paged_group(false);
	struct cluster_spec spec = spec_of(&group, 1);

	(void)state;
	spec.verify = KVF_VERIFY_SUM;
	spec.prefill.parallel.tp = 2;
	spec.prefill.layout.order = KVF_LAYER_NHD;
	spec.decode.layout.order = KVF_LAYER_NHD;
	run_requests(&spec);
}

static void t_generation_first_with_unknown_dp(void **state)
{
	struct kvf_group_spec group = paged_group(false);
	struct cluster_spec spec = spec_of(&group, 1);
	struct cluster cluster;

	(void)state;
	spec.prefill.parallel = (struct kvf_parallel){4, 1, 1, 2, NULL, NULL};
	spec.decode.parallel.tp = 2;
	cluster_open(&cluster, &spec);
	cluster_connect(&cluster);
	for (uint64_t id = 1; id <= 8; id++) {
		struct cluster_request request = {.id = id,
			.prompt_len = 30,
			.src_dp = (uint32_t)(id / 2 % 2),
			.unknown_dp = true,
			.receive_first = id % 2 == 0,
			.aux = id % 3 == 0};

		cluster_run(&cluster, &request);
	}
	cluster_close(&cluster);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_all_topologies_move_every_byte),
		cmocka_unit_test(t_mla_topologies_move_every_byte),
		cmocka_unit_test(t_all_pairings_of_memory_orders),
		cmocka_unit_test(t_unequal_tokens_per_block),
		cmocka_unit_test(t_windows_states_and_replicated_groups),
		cmocka_unit_test(t_context_parallel_decode),
		cmocka_unit_test(t_slices_by_tokens_and_layers),
		cmocka_unit_test(t_stripe_of_replicas),
		cmocka_unit_test(t_sums_agree),
		cmocka_unit_test(t_generation_first_with_unknown_dp),
	};

	if (argc > 1)
		transport = argv[1];
	if (argc > 2)
		control = argv[2];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
