/* models.c - kvferry models: the built-in table, or what one model keeps. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/args.h"
#include "cli/command.h"
#include "cli/json.h"
#include "cli/model_shape.h"
#include "cli/table.h"
#include "cli/term.h"
#include "cli/units.h"

struct models_args {
	const char *model;
	bool json;
};

static const struct arg_option options[] = {
	{"model", "M", "describe this model instead of listing the built-in ones", ARG_TEXT,
		ARG_FIELD(struct models_args, model)},
	{"json", NULL, "print JSON", ARG_FLAG, ARG_FIELD(struct models_args, json)},
};

static const struct args_spec spec = {
	.command = "models",
	.summary = "the built-in models, or what a model keeps per token",
	.usage = "models [--model M] [--json]",
	.description = "A model is a built-in name, a Hugging Face config.json, or an inline description:\n"
		       "  "
		       "layers=L,heads=H,head_dim=D,dtype=fp32|fp16|bf16|fp8|int8[,mla][,window=W:every=E][,"
		       "state=LAYERS:BYTES:SECTIONS]\n"
		       "  mla      heads absent or 1; head_dim is the whole latent row (DeepSeek: 512 + 64), "
		       "one part instead of K and V\n"
		       "  window   attention layers i with i mod E = 0 keep only the last W tokens\n"
		       "  state    recurrent layers: BYTES per layer, cut into sections UNITSxUNIT_BYTES "
		       "joined by '+', each split over TP by itself\n"
		       "Layer ids count the layers that keep something. Inline attention and state layers "
		       "are interleaved evenly.\n",
	.examples =
		"  kvferry models\n"
		"  kvferry models --model ./config.json\n"
		"  kvferry models --model layers=4,heads=4,head_dim=128,dtype=fp32,window=16:every=2 --json\n"
		"  kvferry models --model "
		"layers=4,heads=8,head_dim=128,dtype=bf16,state=24:4255744:8192x6+1024x6+1024x6+128x32768\n",
	.options = options,
	.n_options = sizeof options / sizeof options[0],
};

/* The first attention group (the others have the same rows); NULL if the model has none. */
static const struct kvf_group_spec *attention_group(const struct model *model)
{
	return model->groups[0].kind == KVF_STATE ? NULL : &model->groups[0];
}

static const struct kvf_group_spec *group_of_kind(const struct model *model, enum kvf_group_kind kind)
{
	for (uint32_t i = 0; i < model->kvf.n_groups; i++) {
		if (model->groups[i].kind == kind)
			return &model->groups[i];
	}
	return NULL;
}

static uint64_t head_dim_of(const struct kvf_group_spec *group)
{
	return group->parts[0].row_bytes * 8 / kvf_dtype_bits(group->dtype);
}

static uint32_t attention_layers(const struct model *model)
{
	const struct kvf_group_spec *state = group_of_kind(model, KVF_STATE);

	return model->n_layers - (state ? state->n_layers : 0);
}

static void print_state_json(struct json *json, const struct model *model, const struct kvf_group_spec *state)
{
	json_object(json, "state");
	json_u64(json, "layers", state->n_layers);
	json_u64(json, "bytes_per_layer", model->state_bytes / state->n_layers);
	json_u64(json, "bytes_per_request", model->state_bytes);
	json_array(json, "sections");
	for (uint32_t part = 0; part < state->n_parts; part++) {
		json_object(json, NULL);
		json_u64(json, "units", state->parts[part].heads);
		json_u64(json, "unit_bytes", state->parts[part].row_bytes);
		json_end(json);
	}
	json_end(json);
	json_array(json, "layer_ids");
	for (uint32_t i = 0; i < state->n_layers; i++)
		json_u64(json, NULL, state->layers[i]);
	json_end(json);
	json_end(json);
}

static void print_model_json(struct json *json, const struct model *model)
{
	const struct kvf_group_spec *attention = attention_group(model);
	const struct kvf_group_spec *window = group_of_kind(model, KVF_WINDOW);
	const struct kvf_group_spec *state = group_of_kind(model, KVF_STATE);

	json_object(json, NULL);
	json_string(json, "name", model->name);
	json_u64(json, "layers", attention_layers(model));
	json_u64(json, "kv_heads", attention ? attention->parts[0].heads : 0);
	json_u64(json, "head_dim", attention ? head_dim_of(attention) : 0);
	json_string(json, "dtype", kvf_dtype_name(model->groups[0].dtype));
	json_u64(json, "parts", attention ? attention->n_parts : 0);
	json_u64(json, "bytes_per_token", model->bytes_per_token);
	if (window) {
		json_object(json, "window");
		json_u64(json, "tokens", window->window_tokens);
		json_array(json, "layer_ids");
		for (uint32_t i = 0; i < window->n_layers; i++)
			json_u64(json, NULL, window->layers[i]);
		json_end(json);
		json_end(json);
	}
	if (state)
		print_state_json(json, model, state);
	json_end(json);
}

static void print_model_row(struct table *table, const struct model *model, const char *note)
{
	const struct kvf_group_spec *attention = attention_group(model);
	const struct kvf_group_spec *window = group_of_kind(model, KVF_WINDOW);
	char bytes[32];

	table_cell(table, "%s", model->name);
	table_cell(table, "%u", attention_layers(model));
	table_cell(table, "%u", attention ? attention->parts[0].heads : 0);
	table_cell(table, "%" PRIu64, attention ? head_dim_of(attention) : 0);
	table_cell(table, "%s", kvf_dtype_name(model->groups[0].dtype));
	table_cell(table, "%s", !attention ? "-" : attention->n_parts == 1 ? "latent" : "K, V");
	table_cell(table, "%s", units_format_count(model->bytes_per_token, bytes));
	if (window)
		table_cell(table, "%u in %u", window->window_tokens, window->n_layers);
	else
		table_cell(table, "-");
	table_cell(table, "%s", model->state_bytes ? units_format_bytes(model->state_bytes, bytes) : "-");
	table_cell(table, "%s", note);
}

/* One model when args name it, else all built-in ones. json or table is NULL. */
static int print_models(const struct models_args *args, struct json *json, struct table *table)
{
	struct model *model = malloc(sizeof *model);
	const struct model_builtin *builtin;
	struct reason why;
	int code = EXIT_SUCCESS;

	if (!model) {
		term_error("out of memory");
		return EXIT_WORK_FAILED;
	}
	for (uint32_t i = 0;
		(builtin = model_builtin_at(i)) && code == EXIT_SUCCESS && (i == 0 || !args->model); i++) {
		if (!model_parse(args->model ? args->model : builtin->name, model, &why))
			code = args_usage_error(&spec, "--model: %s", why.text);
		else if (json)
			print_model_json(json, model);
		else
			print_model_row(table, model, args->model ? "" : builtin->note);
	}
	free(model);
	return code;
}

static int print_as_json(const struct models_args *args)
{
	struct json json;
	char *text = NULL;
	size_t len;
	FILE *memory = open_memstream(&text, &len);
	int code;

	/* Into memory first: nothing is printed when the model is refused. */
	if (!memory) {
		term_error("out of memory");
		return EXIT_WORK_FAILED;
	}
	json_init(&json, memory);
	json_object(&json, NULL);
	json_array(&json, "models");
	code = print_models(args, &json, NULL);
	json_end(&json);
	json_end(&json);
	fclose(memory);
	if (code == EXIT_SUCCESS)
		fputs(text, stdout);
	free(text);
	return code;
}

int command_models(int argc, char **argv)
{
	static const char *const columns[] = {"model", ">layers", ">kv heads", ">head dim", "dtype", "rows",
		">bytes a token", "window", ">state", "note"};
	struct models_args args = {0};
	enum args_result result = args_parse(&spec, argc, argv, &args);
	struct table *table;
	int code;

	if (result != ARGS_RUN)
		return args_exit_code(result);
	if (args.json)
		return print_as_json(&args);
	table = table_new(columns, sizeof columns / sizeof columns[0]);
	code = print_models(&args, NULL, table);
	if (code == EXIT_SUCCESS)
		table_print(table, stdout);
	table_free(table);
	return code;
}
