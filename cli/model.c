/* model.c - the built-in table, the choice between the three ways to name a model, and the builder that all of them share.
 *
 * A struct model owns everything it points to inside itself; nothing is allocated.
 * Geometries: config.json of the published models; tests/cli compare the table with an independent list.
 */
#include "cli/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/model_shape.h"

static const struct model_builtin builtins[] = {
	{"llama-3.2-1b", "layers=16,heads=8,head_dim=64,dtype=bf16", NULL, ""},
	{"llama-3.2-3b", "layers=28,heads=8,head_dim=128,dtype=bf16", NULL, ""},
	{"llama-3.1-8b", "layers=32,heads=8,head_dim=128,dtype=bf16", NULL, ""},
	{"llama-3.1-70b", "layers=80,heads=8,head_dim=128,dtype=bf16", NULL, ""},
	{"llama-3.1-405b", "layers=126,heads=8,head_dim=128,dtype=bf16", NULL, ""},
	{"mistral-7b-v0.1", "layers=32,heads=8,head_dim=128,dtype=bf16,window=4096:every=1", NULL,
		"sliding window in all layers"},
	{"mixtral-8x7b", "layers=32,heads=8,head_dim=128,dtype=bf16", NULL, ""},
	{"qwen3-8b", "layers=36,heads=8,head_dim=128,dtype=bf16", NULL, ""},
	{"qwen3-32b", "layers=64,heads=8,head_dim=128,dtype=bf16", NULL, ""},
	{"qwen3-235b-a22b", "layers=94,heads=4,head_dim=128,dtype=bf16", NULL, ""},
	{"gpt-oss-20b", "layers=24,heads=8,head_dim=64,dtype=bf16,window=128:every=2", NULL,
		"sliding and full layers alternate"},
	{"gpt-oss-120b", "layers=36,heads=8,head_dim=64,dtype=bf16,window=128:every=2", NULL,
		"sliding and full layers alternate"},
	{"deepseek-v3", "layers=61,head_dim=576,dtype=bf16,mla", NULL, "MLA: latent 512 + rope 64"},
	{"nemotron-h-8b",
		"layers=4,heads=8,head_dim=128,dtype=bf16,state=24:4255744:8192x6+1024x6+1024x6+128x32768",
		"M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
		"hybrid: conv and SSM state besides attention"},
};

#define N_BUILTINS (sizeof builtins / sizeof builtins[0])

const struct model_builtin *model_builtin_at(uint32_t index)
{
	return index < N_BUILTINS ? &builtins[index] : NULL;
}

static const char *const dtype_words[] = {"fp32", "fp16", "bf16", "fp8", "int8"};
static const enum kvf_dtype dtype_values[] = {KVF_FP32, KVF_FP16, KVF_BF16, KVF_FP8, KVF_INT8};

bool model_parse_dtype(const char *text, enum kvf_dtype *out, struct reason *why)
{
	for (size_t i = 0; i < sizeof dtype_words / sizeof dtype_words[0]; i++) {
		if (!strcmp(text, dtype_words[i])) {
			*out = dtype_values[i];
			return true;
		}
	}
	return reason_set(why, "dtype: '%.32s' is none of fp32, fp16, bf16, fp8, int8", text);
}

static struct kvf_group_spec *add_group(
	struct model *model, const struct model_shape *shape, enum layer_kind kind)
{
	static const enum kvf_group_kind kinds[] = {KVF_PAGED, KVF_WINDOW, KVF_STATE};
	uint32_t *ids = model->layer_ids[model->kvf.n_groups];
	struct kvf_group_spec *group = &model->groups[model->kvf.n_groups];

	*group = (struct kvf_group_spec){.kind = kinds[kind], .dtype = shape->dtype, .layers = ids};
	for (uint32_t i = 0; i < shape->n_layers; i++) {
		if (shape->kinds[i] == kind)
			ids[group->n_layers++] = i;
	}
	if (group->n_layers == 0)
		return NULL;
	model->kvf.n_groups++;
	return group;
}

static void add_attention(struct model *model, const struct model_shape *shape, enum layer_kind kind)
{
	uint64_t row_bytes = (uint64_t)shape->head_dim * kvf_dtype_bits(shape->dtype) / 8;
	struct kvf_group_spec *group = add_group(model, shape, kind);

	if (!group)
		return;
	group->window_tokens = kind == LAYER_WINDOW ? shape->window_tokens : 0;
	group->n_parts = shape->mla ? 1 : 2;
	for (uint32_t part = 0; part < group->n_parts; part++)
		group->parts[part] = (struct kvf_part_spec){.heads = shape->heads, .row_bytes = row_bytes};
	model->bytes_per_token += (uint64_t)group->n_layers * group->n_parts * shape->heads * row_bytes;
}

static void add_state(struct model *model, const struct model_shape *shape)
{
	struct kvf_group_spec *group = add_group(model, shape, LAYER_STATE);

	if (!group)
		return;
	group->n_parts = shape->n_sections;
	for (uint32_t part = 0; part < group->n_parts; part++) {
		group->parts[part] = shape->sections[part];
		model->state_bytes += (uint64_t)group->n_layers * shape->sections[part].heads *
		                      shape->sections[part].row_bytes;
	}
}

bool model_build(const struct model_shape *shape, const char *name, struct model *model, struct reason *why)
{
	if (shape->n_layers == 0)
		return reason_set(why, "layers: the model keeps nothing for a request");
	*model = (struct model){.n_layers = shape->n_layers};
	(void)snprintf(model->name, sizeof model->name, "%s", name);
	model->kvf = (struct kvf_model){.name = model->name, .revision = "", .groups = model->groups};
	add_attention(model, shape, LAYER_FULL);
	add_attention(model, shape, LAYER_WINDOW);
	add_state(model, shape);
	return true;
}

static const struct model_builtin *find_builtin(const char *name, struct reason *why)
{
	const char *names[N_BUILTINS];
	const char *nearest;

	for (uint32_t i = 0; i < N_BUILTINS; i++) {
		names[i] = builtins[i].name;
		if (!strcmp(builtins[i].name, name))
			return &builtins[i];
	}
	nearest = reason_nearest(name, names, N_BUILTINS);
	reason_set(why,
		"'%.64s' is no built-in model%s%s%s (kvferry models lists them; or give layers=..., or a "
		"path to a config.json)",
		name, nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
	return NULL;
}

static bool has_suffix(const char *text, const char *suffix)
{
	size_t len = strlen(text), suffix_len = strlen(suffix);

	return len >= suffix_len && !strcmp(text + len - suffix_len, suffix);
}

bool model_parse(const char *text, struct model *model, struct reason *why)
{
	struct model_shape shape = {0};
	const struct model_builtin *builtin;

	if (strlen(text) >= sizeof model->name)
		return reason_set(why, "longer than %zu characters", sizeof model->name - 1);
	if (has_suffix(text, ".json") || (strchr(text, '/') && !strchr(text, '=')))
		return model_shape_config(text, &shape, why) && model_build(&shape, text, model, why);
	if (strchr(text, '=') || strchr(text, ','))
		return model_shape_inline(text, &shape, why) && model_build(&shape, text, model, why);
	builtin = find_builtin(text, why);
	if (!builtin || !model_shape_inline(builtin->inline_text, &shape, why))
		return false;
	if (builtin->pattern && !model_shape_pattern(builtin->pattern, &shape, why))
		return false;
	return model_build(&shape, text, model, why);
}

void model_fini(struct model *model)
{
	*model = (struct model){0};
}
