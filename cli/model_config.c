/* model_config.c - what a model keeps, from its Hugging Face config.json.
 *
 * Only architectures whose cache is known are accepted; a field that decides the geometry and is missing is an error that names
 * it. Defaults are those of the transformers library: head_dim = hidden_size / num_attention_heads; Llama without
 * num_key_value_heads has as many as num_attention_heads; Gemma 2 slides in every second layer, Gemma 3 in five of six.
 * The file is at most 1 MiB and is read whole; nothing stays allocated.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/model_shape.h"

#define CONFIG_MAX_BYTES (1u << 20)

enum family {
	FAMILY_PLAIN,
	FAMILY_SLIDING,    /* sliding_window in all layers, unless null */
	FAMILY_QWEN,       /* use_sliding_window, from layer max_window_layers on */
	FAMILY_PATTERN,    /* every sliding_window_pattern-th layer is full, the others slide */
	FAMILY_TYPES,      /* layer_types says it */
	FAMILY_MLA,        /* kv_lora_rank + qk_rope_head_dim */
	FAMILY_NEMOTRON_H, /* hybrid_override_pattern */
};

static const struct architecture {
	const char *name;
	enum family family;
	uint32_t pattern;   /* PATTERN: the default */
	bool heads_default; /* num_key_value_heads may be missing */
} architectures[] = {
	{"LlamaForCausalLM", FAMILY_PLAIN, 0, true},
	{"MistralForCausalLM", FAMILY_SLIDING, 0, false},
	{"MixtralForCausalLM", FAMILY_SLIDING, 0, false},
	{"Phi3ForCausalLM", FAMILY_SLIDING, 0, true},
	{"Qwen2ForCausalLM", FAMILY_QWEN, 0, false},
	{"Qwen2MoeForCausalLM", FAMILY_QWEN, 0, false},
	{"Qwen3ForCausalLM", FAMILY_QWEN, 0, false},
	{"Qwen3MoeForCausalLM", FAMILY_QWEN, 0, false},
	{"GemmaForCausalLM", FAMILY_PLAIN, 0, false},
	{"Gemma2ForCausalLM", FAMILY_PATTERN, 2, false},
	{"Gemma3ForCausalLM", FAMILY_PATTERN, 6, false},
	{"Gemma3ForConditionalGeneration", FAMILY_PATTERN, 6, false},
	{"GraniteForCausalLM", FAMILY_PLAIN, 0, false},
	{"Olmo2ForCausalLM", FAMILY_PLAIN, 0, false},
	{"GptOssForCausalLM", FAMILY_TYPES, 0, false},
	{"DeepseekV2ForCausalLM", FAMILY_MLA, 0, false},
	{"DeepseekV3ForCausalLM", FAMILY_MLA, 0, false},
	{"NemotronHForCausalLM", FAMILY_NEMOTRON_H, 0, false},
};

#define N_ARCHITECTURES (sizeof architectures / sizeof architectures[0])

struct config {
	struct json_doc doc;
	uint32_t object; /* that holds the geometry: the outermost one, or its text_config */
	const struct architecture *architecture;
	struct model_shape *shape;
};

/* The member, or JSON_NONE when it is missing or null. */
static uint32_t find_field(const struct config *config, const char *field)
{
	uint32_t node = json_doc_member(&config->doc, config->object, field);

	return node != JSON_NONE && config->doc.nodes[node].type == JSON_NULL ? JSON_NONE : node;
}

static bool has_field(const struct config *config, const char *field)
{
	return find_field(config, field) != JSON_NONE;
}

static bool get_number(
	const struct config *config, const char *field, uint64_t max, uint64_t *out, struct reason *why)
{
	uint32_t node = find_field(config, field);

	if (node == JSON_NONE)
		return reason_set(
			why, "field '%s' is missing (%s needs it)", field, config->architecture->name);
	if (!json_doc_u64(&config->doc, node, out) || *out == 0 || *out > max) {
		uint32_t len = config->doc.nodes[node].end - config->doc.nodes[node].start;

		return reason_set(why, "field '%s' is %.*s; allowed: a whole number from 1 to %" PRIu64,
			field, (int)(len < 32 ? len : 32), config->doc.text + config->doc.nodes[node].start,
			max);
	}
	return true;
}

static bool get_string(
	const struct config *config, const char *field, char *buffer, size_t size, struct reason *why)
{
	uint32_t node = find_field(config, field);

	if (node == JSON_NONE)
		return reason_set(why, "field '%s' is missing", field);
	if (!json_doc_string(&config->doc, node, buffer, size))
		return reason_set(why, "field '%s' is no string of at most %zu bytes", field, size - 1);
	return true;
}

static bool find_architecture(struct config *config, struct reason *why)
{
	uint32_t list = find_field(config, "architectures");
	char name[128];

	if (list == JSON_NONE || config->doc.nodes[list].type != JSON_ARRAY ||
		config->doc.nodes[list].n != 1 || !json_doc_string(&config->doc, list + 1, name, sizeof name))
		return reason_set(why, "field 'architectures' is missing, or no array of one string");
	for (size_t i = 0; i < N_ARCHITECTURES; i++) {
		if (!strcmp(architectures[i].name, name))
			config->architecture = &architectures[i];
	}
	if (!config->architecture)
		return reason_set(why,
			"field 'architectures': '%s' is not known here; describe the model inline "
			"(layers=..., see kvferry models --help)",
			name);
	if (find_field(config, "text_config") != JSON_NONE)
		config->object = find_field(config, "text_config");
	return true;
}

static bool read_dtype(const struct config *config, struct reason *why)
{
	static const struct {
		const char *name;
		enum kvf_dtype dtype;
	} known[] = {{"float32", KVF_FP32}, {"float16", KVF_FP16}, {"bfloat16", KVF_BF16},
		{"float8_e4m3fn", KVF_FP8}, {"float8_e5m2", KVF_FP8}, {"int8", KVF_INT8}};
	struct config outer = *config;
	char name[32];

	/* Configurations of vision models keep it outside of text_config. */
	outer.object = has_field(config, "torch_dtype") || has_field(config, "dtype") ? config->object : 0;
	if (!get_string(&outer, has_field(&outer, "dtype") ? "dtype" : "torch_dtype", name, sizeof name, why))
		return false;
	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
		if (!strcmp(known[i].name, name)) {
			config->shape->dtype = known[i].dtype;
			return true;
		}
	}
	return reason_set(why,
		"field 'torch_dtype': '%s' is none of float32, float16, bfloat16, float8_e4m3fn, "
		"float8_e5m2, int8",
		name);
}

static bool read_head_dim(const struct config *config, struct reason *why)
{
	uint64_t hidden, heads, head_dim;

	if (has_field(config, "head_dim")) {
		if (!get_number(config, "head_dim", MODEL_MAX_HEAD_DIM, &head_dim, why))
			return false;
	} else {
		if (!get_number(config, "hidden_size", UINT64_C(1) << 24, &hidden, why) ||
			!get_number(config, "num_attention_heads", MODEL_MAX_HEADS, &heads, why))
			return false;
		if (hidden % heads || hidden / heads > MODEL_MAX_HEAD_DIM)
			return reason_set(why,
				"field 'head_dim' is missing, and hidden_size %" PRIu64
				" is no multiple of num_attention_heads %" PRIu64,
				hidden, heads);
		head_dim = hidden / heads;
	}
	config->shape->head_dim = (uint32_t)head_dim;
	return true;
}

static bool read_heads(const struct config *config, struct reason *why)
{
	bool use_default = config->architecture->heads_default && !has_field(config, "num_key_value_heads");
	uint64_t heads;

	if (!get_number(config, use_default ? "num_attention_heads" : "num_key_value_heads", MODEL_MAX_HEADS,
		    &heads, why))
		return false;
	config->shape->heads = (uint32_t)heads;
	return true;
}

static bool read_layers(const struct config *config, struct reason *why)
{
	uint64_t layers;

	if (!get_number(config, "num_hidden_layers", KVF_MAX_LAYERS, &layers, why))
		return false;
	config->shape->n_layers = (uint32_t)layers;
	memset(config->shape->kinds, LAYER_FULL, layers);
	return true;
}

static bool read_window(const struct config *config, struct reason *why)
{
	uint64_t tokens;

	if (!get_number(config, "sliding_window", UINT32_MAX, &tokens, why))
		return false;
	config->shape->window_tokens = (uint32_t)tokens;
	return true;
}

/* layer_types: one word per layer. */
static bool read_layer_types(const struct config *config, struct reason *why)
{
	uint32_t list = find_field(config, "layer_types");
	const struct json_node *array;
	bool slides = false;
	char word[64];

	if (list == JSON_NONE)
		return reason_set(
			why, "field 'layer_types' is missing (%s needs it)", config->architecture->name);
	array = &config->doc.nodes[list];
	if (array->type != JSON_ARRAY || array->n != config->shape->n_layers)
		return reason_set(why, "field 'layer_types' is no array of %u words (num_hidden_layers)",
			config->shape->n_layers);
	for (uint32_t i = 0; i < array->n; i++) {
		if (!json_doc_string(&config->doc, list + 1 + i, word, sizeof word))
			return reason_set(why, "field 'layer_types': entry %u is no short string", i);
		if (!strcmp(word, "sliding_attention"))
			config->shape->kinds[i] = LAYER_WINDOW;
		else if (strcmp(word, "full_attention") != 0)
			return reason_set(why,
				"field 'layer_types': '%s' is neither full_attention nor sliding_attention",
				word);
		slides |= config->shape->kinds[i] == LAYER_WINDOW;
	}
	return !slides || read_window(config, why);
}

/* Layers for which (index of full ones) the rule of the family holds slide. */
static bool slide_layers(const struct config *config, uint64_t first, uint64_t pattern, struct reason *why)
{
	for (uint64_t i = first; i < config->shape->n_layers; i++) {
		if (pattern == 0 || (i + 1) % pattern != 0)
			config->shape->kinds[i] = LAYER_WINDOW;
	}
	return read_window(config, why);
}

static bool read_qwen_window(const struct config *config, struct reason *why)
{
	uint32_t use = find_field(config, "use_sliding_window");
	uint64_t first = 0;

	if (use == JSON_NONE || config->doc.nodes[use].type != JSON_TRUE)
		return true;
	if (json_doc_u64(&config->doc, find_field(config, "max_window_layers"), &first))
		return slide_layers(config, first, 0, why);
	return reason_set(why, "field 'max_window_layers' is missing (use_sliding_window needs it)");
}

static bool read_pattern_window(const struct config *config, struct reason *why)
{
	uint64_t pattern = config->architecture->pattern;

	if (has_field(config, "sliding_window_pattern") &&
		!get_number(config, "sliding_window_pattern", KVF_MAX_LAYERS, &pattern, why))
		return false;
	return slide_layers(config, 0, pattern, why);
}

static bool read_attention(const struct config *config, struct reason *why)
{
	if (!read_layers(config, why) || !read_heads(config, why) || !read_head_dim(config, why))
		return false;
	if (has_field(config, "layer_types") || config->architecture->family == FAMILY_TYPES)
		return read_layer_types(config, why);
	if (config->architecture->family == FAMILY_SLIDING && has_field(config, "sliding_window"))
		return slide_layers(config, 0, 0, why);
	if (config->architecture->family == FAMILY_QWEN)
		return read_qwen_window(config, why);
	if (config->architecture->family == FAMILY_PATTERN)
		return read_pattern_window(config, why);
	return true;
}

static bool read_mla(const struct config *config, struct reason *why)
{
	uint64_t latent, rope;

	if (!read_layers(config, why) ||
		!get_number(config, "kv_lora_rank", MODEL_MAX_HEAD_DIM / 2, &latent, why) ||
		!get_number(config, "qk_rope_head_dim", MODEL_MAX_HEAD_DIM / 2, &rope, why))
		return false;
	config->shape->mla = true;
	config->shape->heads = 1;
	config->shape->head_dim = (uint32_t)(latent + rope);
	return true;
}

/* Mamba 2: the last conv_kernel - 1 columns of x, B and C in the model's dtype, and per head a head_dim x state matrix in fp32
 * unless mamba_ssm_cache_dtype says otherwise. */
static bool read_mamba(const struct config *config, struct reason *why)
{
	struct model_shape *shape = config->shape;
	uint64_t heads, head_dim, state, groups, kernel, element = 4;
	uint64_t tap;
	char dtype[32];

	if (!get_number(config, "mamba_num_heads", 65536, &heads, why) ||
		!get_number(config, "mamba_head_dim", 4096, &head_dim, why) ||
		!get_number(config, "ssm_state_size", 4096, &state, why) ||
		!get_number(config, "n_groups", 4096, &groups, why) ||
		!get_number(config, "conv_kernel", 64, &kernel, why))
		return false;
	if (kernel < 2)
		return reason_set(why, "field 'conv_kernel' is %" PRIu64 "; allowed: 2 to 64", kernel);
	if (has_field(config, "mamba_ssm_cache_dtype")) {
		if (!get_string(config, "mamba_ssm_cache_dtype", dtype, sizeof dtype, why))
			return false;
		if (strcmp(dtype, "float32") != 0 && strcmp(dtype, "float16") != 0 &&
			strcmp(dtype, "bfloat16") != 0)
			return reason_set(why,
				"field 'mamba_ssm_cache_dtype': '%s' is none of float32, float16, bfloat16",
				dtype);
		element = strcmp(dtype, "float32") == 0 ? 4 : 2;
	}
	tap = (kernel - 1) * kvf_dtype_bits(shape->dtype) / 8;
	shape->n_sections = 4;
	shape->sections[0] = (struct kvf_part_spec){.heads = (uint32_t)(heads * head_dim), .row_bytes = tap};
	shape->sections[1] = (struct kvf_part_spec){.heads = (uint32_t)(groups * state), .row_bytes = tap};
	shape->sections[2] = shape->sections[1];
	shape->sections[3] =
		(struct kvf_part_spec){.heads = (uint32_t)heads, .row_bytes = head_dim * state * element};
	return true;
}

static bool read_nemotron_h(const struct config *config, struct reason *why)
{
	char pattern[KVF_MAX_LAYERS + 1];

	if (!get_string(config, "hybrid_override_pattern", pattern, sizeof pattern, why) ||
		!read_heads(config, why))
		return false;
	if (!model_shape_pattern(pattern, config->shape, why))
		return reason_prefix(why, "field 'hybrid_override_pattern'");
	if (!has_field(config, "head_dim") && has_field(config, "attention_head_dim")) {
		uint64_t head_dim;

		if (!get_number(config, "attention_head_dim", MODEL_MAX_HEAD_DIM, &head_dim, why))
			return false;
		config->shape->head_dim = (uint32_t)head_dim;
	} else if (!read_head_dim(config, why)) {
		return false;
	}
	return !memchr(config->shape->kinds, LAYER_STATE, config->shape->n_layers) || read_mamba(config, why);
}

static bool read_config(struct config *config, struct reason *why)
{
	if (config->doc.nodes[0].type != JSON_OBJECT)
		return reason_set(
			why, "the file holds %s, not an object", json_type_name(config->doc.nodes[0].type));
	if (!find_architecture(config, why) || !read_dtype(config, why))
		return false;
	if (config->architecture->family == FAMILY_MLA)
		return read_mla(config, why);
	if (config->architecture->family == FAMILY_NEMOTRON_H)
		return read_nemotron_h(config, why);
	return read_attention(config, why);
}

/* The whole file; NULL with why set. */
static char *read_file(const char *path, size_t *len_out, struct reason *why)
{
	FILE *file = fopen(path, "re");
	char *text = file ? malloc(CONFIG_MAX_BYTES + 1) : NULL;

	if (!file) {
		reason_set(why, "cannot open it: %s", strerror(errno));
		return NULL;
	}
	if (!text) {
		reason_set(why, "out of memory");
		goto out;
	}
	*len_out = fread(text, 1, CONFIG_MAX_BYTES + 1, file);
	if (!ferror(file) && *len_out <= CONFIG_MAX_BYTES)
		goto out;
	if (ferror(file))
		reason_set(why, "cannot read it: %s", strerror(errno));
	else
		reason_set(why, "longer than %u bytes", CONFIG_MAX_BYTES);
	free(text);
	text = NULL;
out:
	fclose(file);
	return text;
}

bool model_shape_config(const char *path, struct model_shape *shape, struct reason *why)
{
	struct config config = {.shape = shape};
	size_t len;
	char *text = read_file(path, &len, why);
	bool ok;

	if (!text)
		return reason_prefix(why, "%s", path);
	ok = json_doc_read(&config.doc, text, len, why) && read_config(&config, why);
	json_doc_fini(&config.doc);
	free(text);
	return ok || reason_prefix(why, "%s", path);
}
