/* cold_none.c - cold messages in a build without msgpack: refused by name. Agents of one process exchange them all the
 * same, as copies (control/inproc.c).
 */
#include "base/status.h"
#include "wire/frame.h"

enum kvf_status kvfi_cold_put(struct kvfi_writer *writer, const struct kvfi_msg *msg)
{
	(void)writer;
	return kvfi_fail(KVF_EUNSUPPORTED, "%s: this build has no msgpack to write it with",
		kvfi_msg_name(msg->header.type));
}

enum kvf_status kvfi_cold_get(struct kvfi_reader *reader, struct kvfi_msg *msg, void **arena_out)
{
	(void)reader;
	(void)arena_out;
	return kvfi_fail(KVF_EUNSUPPORTED, "%s: this build has no msgpack to read it with",
		kvfi_msg_name(msg->header.type));
}

void kvfi_cold_free(void *arena)
{
	(void)arena;
}
