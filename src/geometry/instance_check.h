/* instance_check.h - see kvfi_instance_check in geometry.h; the sizes are checked before a map exists, too.
 */
#ifndef KVFI_GEOMETRY_INSTANCE_CHECK_H
#define KVFI_GEOMETRY_INSTANCE_CHECK_H

#include "kvferry/kvferry.h"

/* Checks role, tp, pp, cp and dp alone. */
KVF_MUST_CHECK enum kvf_status kvfi_sizes_check(const struct kvf_instance *instance, uint64_t *n_ranks_out);

#endif
