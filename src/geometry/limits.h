/* limits.h - bounds on what a geometry may say. They keep every product of the geometry code below 2^64. */
#ifndef KVFI_GEOMETRY_LIMITS_H
#define KVFI_GEOMETRY_LIMITS_H

#include <stdint.h>

#define KVFI_MAX_HEADS            (UINT32_C(1) << 24) /* of one part; also the units of a state section */
#define KVFI_MAX_ROW_BYTES        (UINT64_C(1) << 32)
#define KVFI_MAX_TOKENS_PER_BLOCK (UINT32_C(1) << 16)
#define KVFI_MAX_BLOCKS           (UINT32_C(1) << 31) /* ids are int32 */
#define KVFI_MAX_BYTES_PER_TOKEN  (UINT64_C(1) << 26) /* of one group that has tokens, in one pair */
#define KVFI_MAX_STATE_BYTES      (UINT64_C(1) << 56) /* of one state group, in one pair */
#define KVFI_MAX_NAME_BYTES       256u                /* model, revision, endpoint */
#define KVFI_MAX_AUX              (UINT32_C(1) << 20) /* aux slots of one rank */
#define KVFI_MAX_SPAN_BYTES       (UINT64_C(1) << 62) /* from the first to the last byte of one (layer, part) */

#endif
