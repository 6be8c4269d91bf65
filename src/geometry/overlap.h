/* overlap.h - the two halves of kvf_layout_check. */
#ifndef KVFI_GEOMETRY_OVERLAP_H
#define KVFI_GEOMETRY_OVERLAP_H

#include "kvferry/kvferry.h"

/* Fields alone; no address of the layout overflows afterwards. */
KVF_MUST_CHECK enum kvf_status kvfi_layout_fields_check(const struct kvf_layout *layout);
/* No two cells (or aux slots) share a byte; the fields are checked already. */
KVF_MUST_CHECK enum kvf_status kvfi_layout_overlap_check(const struct kvf_layout *layout);

#endif
