/* model.h - checks of fields that models, instance maps and layouts share. Each names the field and its
 * value. */
#ifndef KVFI_GEOMETRY_MODEL_H
#define KVFI_GEOMETRY_MODEL_H

#include "kvferry/kvferry.h"

const char *kvfi_kind_name(enum kvf_group_kind kind);
KVF_MUST_CHECK enum kvf_status kvfi_name_check(const char *field, const char *text);
KVF_MUST_CHECK enum kvf_status kvfi_layers_check(uint32_t group, const uint32_t *layers, uint32_t n_layers);
KVF_MUST_CHECK enum kvf_status kvfi_kind_check(
	uint32_t group, enum kvf_group_kind kind, enum kvf_dtype dtype, uint32_t window_tokens);
KVF_MUST_CHECK enum kvf_status kvfi_part_check(
	uint32_t group, uint32_t part, uint32_t heads, uint64_t row_bytes);
KVF_MUST_CHECK enum kvf_status kvfi_model_check(const struct kvf_model *model);

#endif
