/* model.c - dtypes, and the checks of a model description. Pure; allocates nothing; any thread. */
#include "geometry/model.h"

#include <string.h>
#include "base/status.h"
#include "geometry/limits.h"

uint32_t kvf_dtype_bits(enum kvf_dtype dtype)
{
	switch (dtype) {
	case KVF_FP32:
		return 32;
	case KVF_FP16:
	case KVF_BF16:
		return 16;
	case KVF_FP8:
	case KVF_INT8:
		return 8;
	case KVF_INT4:
		return 4;
	}
	return 0;
}

const char *kvf_dtype_name(enum kvf_dtype dtype)
{
	switch (dtype) {
	case KVF_FP32:
		return "fp32";
	case KVF_FP16:
		return "fp16";
	case KVF_BF16:
		return "bf16";
	case KVF_FP8:
		return "fp8";
	case KVF_INT8:
		return "int8";
	case KVF_INT4:
		return "int4";
	}
	return "unknown";
}

const char *kvfi_kind_name(enum kvf_group_kind kind)
{
	switch (kind) {
	case KVF_PAGED:
		return "paged";
	case KVF_WINDOW:
		return "window";
	case KVF_STATE:
		return "state";
	case KVF_REPLICATED:
		return "replicated";
	}
	return "unknown";
}

enum kvf_status kvfi_name_check(const char *field, const char *text)
{
	if (!text)
		return kvfi_fail(KVF_EINVAL, "%s: missing", field);
	if (strnlen(text, KVFI_MAX_NAME_BYTES) >= KVFI_MAX_NAME_BYTES)
		return kvfi_fail(KVF_EINVAL, "%s: longer than %u bytes", field, KVFI_MAX_NAME_BYTES - 1);
	return KVF_OK;
}

enum kvf_status kvfi_layers_check(uint32_t group, const uint32_t *layers, uint32_t n_layers)
{
	if (n_layers > KVF_MAX_LAYERS)
		return kvfi_fail(
			KVF_EINVAL, "group %u: n_layers: %u, at most %u", group, n_layers, KVF_MAX_LAYERS);
	if (n_layers != 0 && !layers)
		return kvfi_fail(KVF_EINVAL, "group %u: layers: missing", group);
	for (uint32_t i = 0; i < n_layers; i++) {
		if (layers[i] >= KVF_MAX_LAYERS)
			return kvfi_fail(KVF_EINVAL, "group %u: layers[%u]: %u, ids are below %u", group, i,
				layers[i], KVF_MAX_LAYERS);
		if (i > 0 && layers[i] <= layers[i - 1])
			return kvfi_fail(KVF_EINVAL, "group %u: layers[%u]: %u after %u, ids ascend", group,
				i, layers[i], layers[i - 1]);
	}
	return KVF_OK;
}

enum kvf_status kvfi_kind_check(
	uint32_t group, enum kvf_group_kind kind, enum kvf_dtype dtype, uint32_t window_tokens)
{
	if (kind < KVF_PAGED || kind > KVF_REPLICATED)
		return kvfi_fail(KVF_EINVAL, "group %u: kind: %d is none", group, (int)kind);
	if (kvf_dtype_bits(dtype) == 0)
		return kvfi_fail(KVF_EINVAL, "group %u: dtype: %d is none", group, (int)dtype);
	if ((kind == KVF_WINDOW) != (window_tokens != 0))
		return kvfi_fail(KVF_EINVAL, "group %u: window_tokens: %u for kind %s", group, window_tokens,
			kvfi_kind_name(kind));
	return KVF_OK;
}

enum kvf_status kvfi_part_check(uint32_t group, uint32_t part, uint32_t heads, uint64_t row_bytes)
{
	if (heads == 0 || heads > KVFI_MAX_HEADS)
		return kvfi_fail(KVF_EINVAL, "group %u: part %u: heads: %u, must be 1 to %u", group, part,
			heads, KVFI_MAX_HEADS);
	if (row_bytes == 0 || row_bytes > KVFI_MAX_ROW_BYTES)
		return kvfi_fail(KVF_EINVAL, "group %u: part %u: row_bytes: %llu, must be 1 to %llu", group,
			part, (unsigned long long)row_bytes, (unsigned long long)KVFI_MAX_ROW_BYTES);
	return KVF_OK;
}

static enum kvf_status check_group(const struct kvf_group_spec *spec, uint32_t g)
{
	enum kvf_status status = kvfi_kind_check(g, spec->kind, spec->dtype, spec->window_tokens);

	if (status == KVF_OK)
		status = kvfi_layers_check(g, spec->layers, spec->n_layers);
	if (status == KVF_OK && spec->n_layers == 0)
		status = kvfi_fail(KVF_EINVAL, "group %u: n_layers: 0", g);
	if (status == KVF_OK && (spec->n_parts == 0 || spec->n_parts > KVF_MAX_PARTS))
		status = kvfi_fail(KVF_EINVAL, "group %u: n_parts: %u, must be 1 to %u", g, spec->n_parts,
			KVF_MAX_PARTS);
	for (uint32_t p = 0; status == KVF_OK && p < spec->n_parts; p++)
		status = kvfi_part_check(g, p, spec->parts[p].heads, spec->parts[p].row_bytes);
	return status;
}

enum kvf_status kvfi_model_check(const struct kvf_model *model)
{
	enum kvf_status status;

	if (!model)
		return kvfi_fail(KVF_EINVAL, "model: missing");
	status = kvfi_name_check("model name", model->name);
	if (status == KVF_OK)
		status = kvfi_name_check("model revision", model->revision);
	if (status != KVF_OK)
		return status;
	if (model->n_groups == 0 || model->n_groups > KVF_MAX_GROUPS || !model->groups)
		return kvfi_fail(
			KVF_EINVAL, "model: n_groups: %u, must be 1 to %u", model->n_groups, KVF_MAX_GROUPS);
	for (uint32_t g = 0; status == KVF_OK && g < model->n_groups; g++)
		status = check_group(&model->groups[g], g);
	return status;
}
