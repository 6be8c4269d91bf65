/* pack_scan.c - looks over msgpack bytes before a parser that allocates sees them.
 *
 * msgpack lets five bytes announce four billion elements. The scan walks tags and lengths only, with a small stack of
 * its own, and refuses a container whose elements the bytes left cannot hold (an element takes at least one), more depth
 * or more objects than our messages have, and bytes before or after the one object. What it passes, a parser can unpack
 * in memory proportional to the bytes. Pure; any thread.
 */
#include "base/status.h"
#include "wire/frame.h"

/* What follows a tag: bytes of payload to skip, then this many objects. */
struct extent {
	uint64_t payload_bytes;
	uint64_t objects;
	bool known;
};

/* Lengths in msgpack are big-endian. */
static uint64_t get_be(struct kvfi_reader *reader, unsigned len_bytes)
{
	const unsigned char *at = kvfi_get_span(reader, len_bytes);
	uint64_t value = 0;

	for (unsigned i = 0; at != NULL && i < len_bytes; i++)
		value = value << 8 | at[i];
	return value;
}

static struct extent payload(uint64_t bytes)
{
	return (struct extent){.payload_bytes = bytes, .known = true};
}

static struct extent objects(uint64_t n)
{
	return (struct extent){.objects = n, .known = true};
}

/* Tags 0xc0 to 0xdf, in order of the msgpack specification. */
static struct extent extent_of_other(struct kvfi_reader *reader, unsigned tag)
{
	switch (tag) {
	case 0xc0: /* nil */
	case 0xc2: /* false */
	case 0xc3: /* true */
		return payload(0);
	case 0xc4: /* bin 8, 16, 32 */
	case 0xc5:
	case 0xc6:
		return payload(get_be(reader, 1u << (tag - 0xc4)));
	case 0xc7: /* ext 8, 16, 32: a type byte, then the data */
	case 0xc8:
	case 0xc9:
		return payload(get_be(reader, 1u << (tag - 0xc7)) + 1);
	case 0xca: /* float 32, 64 */
	case 0xcb:
		return payload(4u << (tag - 0xca));
	case 0xcc: /* uint 8 .. 64 */
	case 0xcd:
	case 0xce:
	case 0xcf:
		return payload(1u << (tag - 0xcc));
	case 0xd0: /* int 8 .. 64 */
	case 0xd1:
	case 0xd2:
	case 0xd3:
		return payload(1u << (tag - 0xd0));
	case 0xd4: /* fixext 1 .. 16 */
	case 0xd5:
	case 0xd6:
	case 0xd7:
	case 0xd8:
		return payload((1u << (tag - 0xd4)) + 1);
	case 0xd9: /* str 8, 16, 32 */
	case 0xda:
	case 0xdb:
		return payload(get_be(reader, 1u << (tag - 0xd9)));
	case 0xdc: /* array 16, 32 */
	case 0xdd:
		return objects(get_be(reader, 2u << (tag - 0xdc)));
	case 0xde: /* map 16, 32 */
	case 0xdf:
		return objects(2 * get_be(reader, 2u << (tag - 0xde)));
	default: /* 0xc1 */
		return (struct extent){0};
	}
}

static struct extent extent_of(struct kvfi_reader *reader, unsigned tag)
{
	if (tag < 0x80 || tag >= 0xe0) /* positive and negative fixint */
		return payload(0);
	if (tag < 0x90)
		return objects(2 * (tag & 0x0f));
	if (tag < 0xa0)
		return objects(tag & 0x0f);
	if (tag < 0xc0)
		return payload(tag & 0x1f);
	return extent_of_other(reader, tag);
}

/* One object without its elements, of which there are *objects_out. */
static enum kvf_status scan_object(struct kvfi_reader *reader, uint64_t *objects_out)
{
	const size_t offset = reader->used_bytes;
	const unsigned tag = (unsigned)get_be(reader, 1);
	const struct extent extent = extent_of(reader, tag);

	if (reader->failed)
		return kvfi_fail(KVF_PROTOCOL, "msgpack: cut short at byte %zu", offset);
	if (!extent.known)
		return kvfi_fail(KVF_PROTOCOL, "msgpack: tag 0x%02x at byte %zu is none", tag, offset);
	if (extent.payload_bytes + extent.objects > kvfi_reader_left(reader))
		return kvfi_fail(KVF_PROTOCOL,
			"msgpack: the object at byte %zu wants %llu more, %zu bytes are left", offset,
			(unsigned long long)(extent.payload_bytes + extent.objects),
			kvfi_reader_left(reader));
	(void)kvfi_get_span(reader, (size_t)extent.payload_bytes);
	*objects_out = extent.objects;
	return KVF_OK;
}

enum kvf_status kvfi_pack_scan(const unsigned char *bytes, size_t len_bytes)
{
	struct kvfi_reader reader = kvfi_reader_on(bytes, len_bytes);
	uint64_t left[KVFI_PACK_MAX_DEPTH + 1] = {1}; /* objects still to come, per level */
	uint32_t depth = 0, total = 0;

	while (depth > 0 || left[0] > 0) {
		uint64_t elements = 0;
		enum kvf_status status;

		if (left[depth] == 0) {
			depth--;
			continue;
		}
		left[depth]--;
		if (++total > KVFI_PACK_MAX_OBJECTS)
			return kvfi_fail(
				KVF_PROTOCOL, "msgpack: more than %u objects", KVFI_PACK_MAX_OBJECTS);
		status = scan_object(&reader, &elements);
		if (status != KVF_OK)
			return status;
		if (elements == 0)
			continue;
		if (depth == KVFI_PACK_MAX_DEPTH)
			return kvfi_fail(KVF_PROTOCOL, "msgpack: deeper than %u", KVFI_PACK_MAX_DEPTH);
		left[++depth] = elements;
	}
	if (kvfi_reader_left(&reader) != 0)
		return kvfi_fail(KVF_PROTOCOL, "msgpack: %zu bytes too many", kvfi_reader_left(&reader));
	return KVF_OK;
}
