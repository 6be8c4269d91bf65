/* walk.c - what planning costs inside: binding block lists and giving out runs. The one benchmark that sees internal headers: from outside,
 * runs are seen only when they are copied.
 *
 * One pair of 8,192 tokens of Llama-3.1-70B, TP4 to TP1, token-major on both sides: 1.31 million runs of 512 B. Nothing is moved.
 */
#include <stdio.h>
#include "bench/measure.h"
#include "geometry/geometry.h"

#define LAYERS 80u
#define TOKENS 8192u
#define BLOCKS (TOKENS / 16u)
#define ROUNDS 51u

static const struct kvf_model *model(void)
{
	static uint32_t layers[LAYERS];
	static struct kvf_group_spec group = {.kind = KVF_PAGED,
		.dtype = KVF_BF16,
		.n_layers = LAYERS,
		.layers = layers,
		.n_parts = 2,
		.parts = {{8, 256}, {8, 256}}};
	static const struct kvf_model model = {
		.name = "llama-3.1-70b", .revision = "", .n_groups = 1, .groups = &group};

	for (uint32_t i = 0; i < LAYERS; i++)
		layers[i] = i;
	return &model;
}

static struct kvf_layout *layout_of(uint32_t tp, enum kvf_role role, struct kvf_instance **instance_out)
{
	struct kvf_parallel parallel = {.tp = tp, .pp = 1, .cp = 1, .dp = 1};
	struct kvf_layout_options options = {
		.order = KVF_LAYER_NHD, .tokens_per_block = 16, .blocks = BLOCKS};
	struct kvf_layout *layout = NULL;
	uint64_t pool_bytes;

	must(kvf_instance_new(model(), &parallel, role, (uint64_t)role, instance_out), "instance");
	must(kvf_layout_new(model(), *instance_out, 0, &options, &layout, &pool_bytes), "layout");
	kvf_layout_move(layout, UINT64_C(1) << 40);
	return layout;
}

static double walk_ns(const struct kvfi_bound *bound, enum kvfi_walk_mode mode)
{
	uint64_t begin_ns = now_ns(), runs = 0;
	struct kvfi_strip strip;
	struct kvfi_walk walk;

	kvfi_walk_init(&walk, bound, mode, 0, bound->units);
	while (kvfi_walk_next(&walk, 256u * 1024, &strip))
		runs += strip.count;
	return (double)(now_ns() - begin_ns) / (double)runs;
}

int main(void)
{
	static struct samples bind_us, merged_ns, canonical_ns;
	struct kvf_instance *prefill = NULL, *decode = NULL;
	struct kvf_layout *src = layout_of(4, KVF_PREFILL, &prefill),
			  *dst = layout_of(1, KVF_DECODE, &decode);
	struct kvfi_shape shape = {.prompt_len = TOKENS, .token_end = TOKENS, .first = true, .last = true};
	static int32_t src_list[BLOCKS], dst_list[BLOCKS];
	struct kvfi_ids src_ids = {src_list, BLOCKS}, dst_ids = {dst_list, BLOCKS};
	kvf_plan *plan = NULL;

	for (uint32_t i = 0; i < BLOCKS; i++) {
		src_list[i] = (int32_t)((i * 5 + 1) % BLOCKS);
		dst_list[i] = (int32_t)((i * 3 + 2) % BLOCKS);
	}
	must(kvf_plan_new(prefill, src, decode, dst, KVF_REPLICA_ELECT, &plan), "plan");
	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint64_t begin_ns = now_ns();
		struct kvfi_bound bound;

		must(kvfi_bind(plan, &shape, &src_ids, &dst_ids, &bound), "bind");
		samples_add(&bind_us, (double)(now_ns() - begin_ns) * 1e-3);
		samples_add(&merged_ns, walk_ns(&bound, KVFI_WALK_MERGED));
		samples_add(&canonical_ns, walk_ns(&bound, KVFI_WALK_SRC));
	}
	(void)printf("inside: a pair's block lists bound in %.1f us; its runs walked at %.2f ns each (direct "
		     "copies, < 5 ns: %s), "
		     "%.2f ns (stream)\n\n",
		samples_median(&bind_us), samples_median(&merged_ns),
		samples_median(&merged_ns) < 5 ? "met" : "MISSED", samples_median(&canonical_ns));
	kvf_plan_free(plan);
	kvf_layout_free(src);
	kvf_layout_free(dst);
	kvf_instance_free(prefill);
	kvf_instance_free(decode);
	return 0;
}
