/* model_inline.c - models described on the command line: layers=4,heads=4,head_dim=128,dtype=fp32[,mla][,window=W:every=E][,state=...].
 *
 * Every key at most once, in any order; a mistake names the key and the value. Pure.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/model_shape.h"
#include "cli/units.h"

static const char *const keys[] = {"layers", "heads", "head_dim", "dtype", "mla", "window", "state"};

enum key {
	KEY_LAYERS,
	KEY_HEADS,
	KEY_HEAD_DIM,
	KEY_DTYPE,
	KEY_MLA,
	KEY_WINDOW,
	KEY_STATE,
	N_KEYS
};

struct description {
	uint32_t seen;
	uint64_t layers, heads, head_dim;
	enum kvf_dtype dtype;
	uint64_t window_tokens, window_every;
	uint64_t state_layers;
	struct model_shape *shape; /* sections go straight into it */
};

static bool parse_window(char *value, struct description *d, struct reason *why)
{
	char *every = strstr(value, ":every=");

	if (!every)
		return reason_set(why, "'%.64s' is not W:every=E", value);
	*every = '\0';
	every += strlen(":every=");
	return units_parse_number(value, 1, UINT32_MAX, &d->window_tokens, why) &&
	       (units_parse_number(every, 1, KVF_MAX_LAYERS, &d->window_every, why) ||
		       reason_prefix(why, "every"));
}

/* "8192x6+128x32768" */
static bool parse_sections(char *text, struct model_shape *shape, uint64_t *sum_out, struct reason *why)
{
	char *one;

	*sum_out = 0;
	while ((one = strsep(&text, "+"))) {
		char *unit_bytes = strchr(one, 'x');
		uint64_t units, bytes;

		if (!unit_bytes)
			return reason_set(why, "section '%.64s' is not UNITSxUNIT_BYTES", one);
		if (shape->n_sections == KVF_MAX_PARTS)
			return reason_set(why, "more than %u sections", KVF_MAX_PARTS);
		*unit_bytes++ = '\0';
		if (!units_parse_number(one, 1, UINT32_MAX, &units, why) ||
			!units_parse_number(unit_bytes, 1, UINT64_C(1) << 30, &bytes, why))
			return reason_prefix(why, "section %u", shape->n_sections);
		shape->sections[shape->n_sections++] =
			(struct kvf_part_spec){.heads = (uint32_t)units, .row_bytes = bytes};
		*sum_out += units * bytes; /* below 2^40 + 2^62 */
		if (*sum_out >= UINT64_C(1) << 40)
			return reason_set(why, "a layer's sections exceed 1 TiB");
	}
	return true;
}

static bool parse_state(char *value, struct description *d, struct reason *why)
{
	char *bytes_text = strchr(value, ':');
	char *sections = bytes_text ? strchr(bytes_text + 1, ':') : NULL;
	uint64_t bytes, sum;

	if (!sections)
		return reason_set(why, "'%.64s' is not LAYERS:BYTES:SECTIONS", value);
	*bytes_text++ = '\0';
	*sections++ = '\0';
	if (!units_parse_number(value, 1, KVF_MAX_LAYERS, &d->state_layers, why))
		return reason_prefix(why, "LAYERS");
	if (!units_parse_number(bytes_text, 1, UINT64_C(1) << 40, &bytes, why))
		return reason_prefix(why, "BYTES");
	if (!parse_sections(sections, d->shape, &sum, why))
		return false;
	if (sum != bytes)
		return reason_set(why, "BYTES per layer is %" PRIu64 ", but the sections add up to %" PRIu64,
			bytes, sum);
	return true;
}

static bool parse_key(enum key key, char *value, struct description *d, struct reason *why)
{
	if (key == KEY_MLA)
		return !value || reason_set(why, "takes no value, but got '%.32s'", value);
	if (!value || !*value)
		return reason_set(why, "the value is missing");
	switch (key) {
	case KEY_LAYERS:
		return units_parse_number(value, 1, KVF_MAX_LAYERS, &d->layers, why);
	case KEY_HEADS:
		return units_parse_number(value, 1, MODEL_MAX_HEADS, &d->heads, why);
	case KEY_HEAD_DIM:
		return units_parse_number(value, 1, MODEL_MAX_HEAD_DIM, &d->head_dim, why);
	case KEY_DTYPE:
		return model_parse_dtype(value, &d->dtype, why);
	case KEY_WINDOW:
		return parse_window(value, d, why);
	default:
		return parse_state(value, d, why);
	}
}

static bool parse_item(char *item, struct description *d, struct reason *why)
{
	char *value = strchr(item, '=');
	const char *nearest;

	if (value)
		*value++ = '\0';
	for (uint32_t key = 0; key < N_KEYS; key++) {
		if (strcmp(item, keys[key]) != 0)
			continue;
		if (d->seen & (1u << key))
			return reason_set(why, "%s is given twice", item);
		d->seen |= 1u << key;
		return parse_key((enum key)key, value, d, why) || reason_prefix(why, "%s", item);
	}
	nearest = reason_nearest(item, keys, N_KEYS);
	return reason_set(why,
		"unknown model field '%.32s'%s%s%s; fields: layers, heads, head_dim, dtype, mla, window, "
		"state",
		item, nearest ? ", did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}

static bool check_fields(struct description *d, struct reason *why)
{
	static const enum key needed[] = {KEY_LAYERS, KEY_HEAD_DIM, KEY_DTYPE};
	bool mla = d->seen & (1u << KEY_MLA);

	for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
		if (!(d->seen & (1u << needed[i])))
			return reason_set(why, "model field '%s' is missing", keys[needed[i]]);
	}
	if (!mla && !(d->seen & (1u << KEY_HEADS)))
		return reason_set(why, "model field 'heads' is missing (only mla goes without)");
	if (mla && d->heads > 1)
		return reason_set(why,
			"heads: mla has one latent row, heads is absent or 1, but got %" PRIu64, d->heads);
	if (d->layers + d->state_layers > KVF_MAX_LAYERS)
		return reason_set(why, "layers: %" PRIu64 " attention and %" PRIu64 " state layers exceed %u",
			d->layers, d->state_layers, KVF_MAX_LAYERS);
	return true;
}

/* Attention layer i of A among T in all gets id floor((2i + 1) T / 2A); the rest are state. */
static void place_layers(const struct description *d, struct model_shape *shape)
{
	uint64_t total = d->layers + d->state_layers;

	shape->n_layers = (uint32_t)total;
	memset(shape->kinds, LAYER_STATE, total);
	for (uint64_t i = 0; i < d->layers; i++) {
		bool windowed = d->window_every && i % d->window_every == 0;

		shape->kinds[(2 * i + 1) * total / (2 * d->layers)] = windowed ? LAYER_WINDOW : LAYER_FULL;
	}
}

bool model_shape_inline(const char *text, struct model_shape *shape, struct reason *why)
{
	struct description d = {.heads = 1, .shape = shape};
	char copy[512], *rest = copy, *item;

	if ((size_t)snprintf(copy, sizeof copy, "%s", text) >= sizeof copy)
		return reason_set(why, "longer than %zu characters", sizeof copy - 1);
	while ((item = strsep(&rest, ","))) {
		if (!parse_item(item, &d, why))
			return false;
	}
	if (!check_fields(&d, why))
		return false;
	shape->dtype = d.dtype;
	shape->heads = (uint32_t)d.heads;
	shape->head_dim = (uint32_t)d.head_dim;
	shape->mla = d.seen & (1u << KEY_MLA);
	shape->window_tokens = (uint32_t)d.window_tokens;
	place_layers(&d, shape);
	return true;
}

bool model_shape_pattern(const char *pattern, struct model_shape *shape, struct reason *why)
{
	uint32_t n = 0;

	for (const char *at = pattern; *at; at++) {
		if (*at == '-' || *at == 'E')
			continue;
		if (*at != 'M' && *at != '*')
			return reason_set(
				why, "'%c' at position %td is none of M, *, -, E", *at, at - pattern);
		if (n == KVF_MAX_LAYERS)
			return reason_set(why, "more than %u layers with a cache", KVF_MAX_LAYERS);
		shape->kinds[n++] = *at == 'M' ? LAYER_STATE : LAYER_FULL;
	}
	shape->n_layers = n;
	return true;
}
