/* compatible.c - can these two layouts exchange KV? Names the first field that differs and both values.
 *
 * Pure; any thread. Both layouts have passed kvf_layout_check.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/status.h"
#include "geometry/geometry.h"
#include "geometry/model.h"

__attribute__((format(printf, 2, 3))) static void put(char *buffer, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	(void)vsnprintf(buffer, sizeof(((struct kvf_refusal *)0)->prefill), format, args);
	va_end(args);
}

static enum kvf_status refuse(const struct kvf_refusal *refusal, struct kvf_refusal *refusal_out)
{
	if (refusal_out)
		*refusal_out = *refusal;
	return kvfi_fail(KVF_INCOMPATIBLE, "%s: prefill has %s, decode has %s", refusal->field,
		refusal->prefill, refusal->decode);
}

static bool differs_text(
	struct kvf_refusal *refusal, const char *field, const char *prefill, const char *decode)
{
	if (strcmp(prefill, decode) == 0)
		return false;
	(void)snprintf(refusal->field, sizeof(refusal->field), "%s", field);
	put(refusal->prefill, "\"%.90s\"", prefill);
	put(refusal->decode, "\"%.90s\"", decode);
	return true;
}

static bool differs_u64(struct kvf_refusal *refusal, uint64_t prefill, uint64_t decode)
{
	if (prefill == decode)
		return false;
	put(refusal->prefill, "%llu", (unsigned long long)prefill);
	put(refusal->decode, "%llu", (unsigned long long)decode);
	return true;
}

static void name_group_field(struct kvf_refusal *refusal, uint32_t g, const char *field)
{
	(void)snprintf(refusal->field, sizeof(refusal->field), "groups[%u].%s", g, field);
}

static bool differs_part(const struct kvf_part *prefill, const struct kvf_part *decode, uint32_t g,
	uint32_t p, struct kvf_refusal *refusal)
{
	(void)snprintf(refusal->field, sizeof(refusal->field), "groups[%u].parts[%u].heads", g, p);
	if (differs_u64(refusal, prefill->heads, decode->heads))
		return true;
	(void)snprintf(refusal->field, sizeof(refusal->field), "groups[%u].parts[%u].row_bytes", g, p);
	return differs_u64(refusal, prefill->row_bytes, decode->row_bytes);
}

static bool differs_group(const struct kvf_group *prefill, const struct kvf_group *decode, uint32_t g,
	struct kvf_refusal *refusal)
{
	name_group_field(refusal, g, "kind");
	if (prefill->kind != decode->kind) {
		put(refusal->prefill, "%s", kvfi_kind_name(prefill->kind));
		put(refusal->decode, "%s", kvfi_kind_name(decode->kind));
		return true;
	}
	name_group_field(refusal, g, "dtype");
	if (prefill->dtype != decode->dtype) {
		put(refusal->prefill, "%s", kvf_dtype_name(prefill->dtype));
		put(refusal->decode, "%s", kvf_dtype_name(decode->dtype));
		return true;
	}
	name_group_field(refusal, g, "window_tokens");
	if (differs_u64(refusal, prefill->window_tokens, decode->window_tokens))
		return true;
	name_group_field(refusal, g, "parts");
	if (differs_u64(refusal, prefill->n_parts, decode->n_parts))
		return true;
	for (uint32_t p = 0; p < prefill->n_parts; p++)
		if (differs_part(&prefill->parts[p], &decode->parts[p], g, p, refusal))
			return true;
	return false;
}

static bool group_holds(const struct kvf_group *group, uint32_t layer)
{
	uint32_t lo = 0, hi = group->n_layers;

	while (lo < hi) {
		uint32_t middle = lo + (hi - lo) / 2;

		if (group->layers[middle] < layer)
			lo = middle + 1;
		else
			hi = middle;
	}
	return lo < group->n_layers && group->layers[lo] == layer;
}

static bool held_in(const struct kvf_layout *layout, uint32_t layer, uint32_t *group_out)
{
	for (uint32_t g = 0; g < layout->n_groups; g++) {
		if (group_holds(&layout->groups[g], layer)) {
			*group_out = g;
			return true;
		}
	}
	return false;
}

/* A layer that decode holds in another group than prefill, and nowhere else, would silently not move. */
static bool differs_layers(const struct kvf_layout *prefill, const struct kvf_layout *decode, uint32_t g,
	struct kvf_refusal *refusal)
{
	const struct kvf_group *group = &prefill->groups[g];
	uint32_t other = 0;

	if (group->n_layers != 0 && group->n_layers == decode->groups[g].n_layers &&
		memcmp(group->layers, decode->groups[g].layers, group->n_layers * sizeof(*group->layers)) ==
			0)
		return false;
	for (uint32_t i = 0; i < group->n_layers; i++) {
		uint32_t layer = group->layers[i];

		if (group_holds(&decode->groups[g], layer) || !held_in(decode, layer, &other) ||
			group_holds(&prefill->groups[other], layer))
			continue;
		(void)snprintf(refusal->field, sizeof(refusal->field), "layers[%u].group", layer);
		put(refusal->prefill, "%u (%s, window %u)", g, kvfi_kind_name(group->kind),
			group->window_tokens);
		put(refusal->decode, "%u (%s, window %u)", other, kvfi_kind_name(decode->groups[other].kind),
			decode->groups[other].window_tokens);
		return true;
	}
	return false;
}

enum kvf_status kvf_layout_compatible(
	const struct kvf_layout *prefill, const struct kvf_layout *decode, struct kvf_refusal *refusal_out)
{
	struct kvf_refusal refusal = {.field = "groups"};

	if (!prefill || !decode)
		return kvfi_fail(KVF_EINVAL, "%s layout: missing", prefill ? "decode" : "prefill");
	if (differs_text(&refusal, "model", prefill->model, decode->model) ||
		differs_text(&refusal, "revision", prefill->revision, decode->revision) ||
		differs_u64(&refusal, prefill->n_groups, decode->n_groups))
		return refuse(&refusal, refusal_out);
	for (uint32_t g = 0; g < prefill->n_groups; g++)
		if (differs_layers(prefill, decode, g, &refusal))
			return refuse(&refusal, refusal_out);
	for (uint32_t g = 0; g < prefill->n_groups; g++)
		if (differs_group(&prefill->groups[g], &decode->groups[g], g, &refusal))
			return refuse(&refusal, refusal_out);
	return KVF_OK;
}

enum kvf_status kvf_pair_compatible(const struct kvf_instance *prefill, const struct kvf_layout *src,
	const struct kvf_instance *decode, const struct kvf_layout *dst, struct kvf_refusal *refusal_out)
{
	struct kvf_refusal refusal;
	enum kvf_status status;

	if (!prefill || !decode)
		return kvfi_fail(KVF_EINVAL, "%s instance: missing", prefill ? "decode" : "prefill");
	status = kvf_layout_compatible(src, dst, refusal_out);
	if (status != KVF_OK)
		return status;
	for (uint32_t g = 0; decode->cp > 1 && g < src->n_groups; g++) {
		if (src->groups[g].kind == KVF_STATE)
			continue;
		name_group_field(&refusal, g, "tokens_per_block (cp)");
		if (differs_u64(&refusal, src->groups[g].tokens_per_block, dst->groups[g].tokens_per_block))
			return refuse(&refusal, refusal_out);
	}
	return KVF_OK;
}
