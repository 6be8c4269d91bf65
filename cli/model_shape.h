/* model_shape.h - between the three readers of models and the builder: what a model keeps, layer by layer. */
#ifndef KVFERRY_CLI_MODEL_SHAPE_H
#define KVFERRY_CLI_MODEL_SHAPE_H

#include "cli/json_read.h"
#include "cli/model.h"

enum layer_kind {
	LAYER_FULL,
	LAYER_WINDOW,
	LAYER_STATE
};

struct model_shape {
	enum kvf_dtype dtype;
	uint32_t heads, head_dim; /* of the attention layers; 0 when there are none */
	bool mla;
	uint32_t window_tokens;
	uint32_t n_sections;
	struct kvf_part_spec sections[KVF_MAX_PARTS];
	uint32_t n_layers;
	uint8_t kinds[KVF_MAX_LAYERS]; /* enum layer_kind by global id */
};

#define MODEL_MAX_HEADS    65536u
#define MODEL_MAX_HEAD_DIM 65536u

/* Fills model from shape. False: the shape makes no sense (no layers, half a byte per row, ...). */
bool model_build(const struct model_shape *shape, const char *name, struct model *model, struct reason *why);
bool model_parse_dtype(const char *text, enum kvf_dtype *out, struct reason *why);

/* Inline descriptions. */
bool model_shape_inline(const char *text, struct model_shape *shape, struct reason *why);
/* One letter per layer, as Nemotron-H writes it: 'M' state, '*' attention, '-' (MLP) and 'E' (experts) keep nothing. */
bool model_shape_pattern(const char *pattern, struct model_shape *shape, struct reason *why);
/* Hugging Face config.json at path. */
bool model_shape_config(const char *path, struct model_shape *shape, struct reason *why);

/* The built-in table; NULL behind the last one. */
struct model_builtin {
	const char *name;
	const char *inline_text;
	const char *pattern; /* order of attention and state layers; NULL: as inline descriptions have it */
	const char *note;    /* "" if none */
};
const struct model_builtin *model_builtin_at(uint32_t index);

#endif
