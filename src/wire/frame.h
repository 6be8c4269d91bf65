/* frame.h - the parts of the codec, between its own files.
 *
 * Every get fills a message whose pointers *borrow*: from the bytes that are read, or from an arena of the reader. codec.c
 * checks such a message and then makes the deep copy that the caller owns. Every put may take its message for checked.
 */
#ifndef KVFI_WIRE_FRAME_H
#define KVFI_WIRE_FRAME_H

#include <stddef.h>
#include "geometry/limits.h"
#include "wire/bytes.h"
#include "wire/messages.h"

/* Every field against its limits; says "NAME: field: value" and returns what it is told to when one is wrong. */
KVF_MUST_CHECK enum kvf_status kvfi_msg_check(const struct kvfi_msg *msg, enum kvf_status wrong);

/* Bodies of fixed frames: all but HELLO, HELLO_OK, REFUSE and REQUEST. */
void kvfi_fixed_put(struct kvfi_writer *writer, const struct kvfi_msg *msg);
/* msg: zeroed but for its header. KVF_PROTOCOL. */
KVF_MUST_CHECK enum kvf_status kvfi_fixed_get(struct kvfi_reader *reader, struct kvfi_msg *msg);

/* Bodies of cold messages; KVF_EUNSUPPORTED in a build without msgpack. */
KVF_MUST_CHECK enum kvf_status kvfi_cold_put(struct kvfi_writer *writer, const struct kvfi_msg *msg);
/* msg: zeroed but for its header. *arena_out goes to kvfi_cold_free whatever this returns. KVF_PROTOCOL, KVF_ENOMEM. */
KVF_MUST_CHECK enum kvf_status kvfi_cold_get(
	struct kvfi_reader *reader, struct kvfi_msg *msg, void **arena_out);
void kvfi_cold_free(void *arena);

/* kvfi_pack_scan - is this exactly one well-formed msgpack object that is cheap to unpack?  Reads every byte of structure once,
 * allocates nothing: a count that the bytes left cannot hold, a depth or a number of objects beyond the limits is refused. */
#define KVFI_PACK_MAX_DEPTH   12u
#define KVFI_PACK_MAX_OBJECTS (UINT32_C(1) << 20)
KVF_MUST_CHECK enum kvf_status kvfi_pack_scan(const unsigned char *bytes, size_t len_bytes);

#endif
