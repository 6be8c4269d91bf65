/* cold_map.c - the packer and the map reader of cold.h.
 *
 * Objects come from msgpack's unpacker after pack_scan.c has passed the bytes; strings and bins in them point into the
 * message. Everything made here lives in the zone that the unpacker made. Pure; any thread.
 */
#include "wire/cold.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/checked.h"
#include "base/status.h"

static int write_packed(void *data, const char *bytes, size_t len_bytes)
{
	struct kvfi_writer *writer = data;

	kvfi_put_bytes(writer, bytes, len_bytes);
	return writer->full ? -1 : 0;
}

void kvfi_packer_init(struct kvfi_packer *packer, struct kvfi_writer *writer)
{
	packer->writer = writer;
	msgpack_packer_init(&packer->packer, writer, write_packed);
}

/* What the packer returns is dropped all over: the writer remembers that it is full. */
static void pack_text(struct kvfi_packer *packer, const char *text)
{
	const size_t len = strlen(text);

	(void)msgpack_pack_str(&packer->packer, len);
	(void)msgpack_pack_str_body(&packer->packer, text, len);
}

void kvfi_pack_map(struct kvfi_packer *packer, uint32_t n_keys)
{
	(void)msgpack_pack_map(&packer->packer, n_keys);
}

void kvfi_pack_map_at(struct kvfi_packer *packer, const char *key, uint32_t n_keys)
{
	pack_text(packer, key);
	(void)msgpack_pack_map(&packer->packer, n_keys);
}

void kvfi_pack_array_at(struct kvfi_packer *packer, const char *key, uint32_t n)
{
	pack_text(packer, key);
	(void)msgpack_pack_array(&packer->packer, n);
}

void kvfi_pack_uint_at(struct kvfi_packer *packer, const char *key, uint64_t value)
{
	pack_text(packer, key);
	(void)msgpack_pack_uint64(&packer->packer, value);
}

void kvfi_pack_int_at(struct kvfi_packer *packer, const char *key, int64_t value)
{
	pack_text(packer, key);
	(void)msgpack_pack_int64(&packer->packer, value);
}

void kvfi_pack_text_at(struct kvfi_packer *packer, const char *key, const char *text)
{
	pack_text(packer, key);
	pack_text(packer, text);
}

void kvfi_pack_bin_at(struct kvfi_packer *packer, const char *key, size_t len_bytes)
{
	pack_text(packer, key);
	(void)msgpack_pack_bin(&packer->packer, len_bytes);
}

void kvfi_pack_layers_at(
	struct kvfi_packer *packer, const char *key, const uint32_t *layers, uint32_t n_layers)
{
	kvfi_pack_bin_at(packer, key, (size_t)n_layers * 2);
	for (uint32_t i = 0; i < n_layers; i++)
		kvfi_put_u16(packer->writer, (uint16_t)layers[i]);
}

/* "HELLO: instance: ranks[3]" into text. Returns the length. */
static size_t put_path(const struct kvfi_map *map, char *text, size_t max_bytes)
{
	size_t used = map->parent == NULL ? 0 : put_path(map->parent, text, max_bytes);

	if (used + 1 < max_bytes)
		(void)snprintf(text + used, max_bytes - used, "%s%s", used > 0 ? ": " : "", map->key);
	used = strlen(text);
	if (map->index != UINT32_MAX && used + 1 < max_bytes)
		(void)snprintf(text + used, max_bytes - used, "[%u]", map->index);
	return strlen(text);
}

void kvfi_map_wrong(const struct kvfi_map *map, const char *key, const char *what)
{
	char path[160] = "";

	if (*map->status != KVF_OK)
		return;
	(void)put_path(map, path, sizeof(path));
	*map->status = kvfi_fail(KVF_PROTOCOL, "%s: %s: %s", path, key, what);
}

static const msgpack_object *find_any(const struct kvfi_map *map, const char *key)
{
	const size_t len = strlen(key);

	if (*map->status != KVF_OK)
		return NULL;
	for (uint32_t i = 0; i < map->object->size; i++) {
		const msgpack_object *name = &map->object->ptr[i].key;

		if (name->type == MSGPACK_OBJECT_STR && name->via.str.size == len &&
			memcmp(name->via.str.ptr, key, len) == 0)
			return &map->object->ptr[i].val;
	}
	kvfi_map_wrong(map, key, "missing");
	return NULL;
}

static const msgpack_object *find(const struct kvfi_map *map, const char *key, msgpack_object_type type)
{
	const msgpack_object *value = find_any(map, key);

	if (value == NULL || value->type == type)
		return value;
	kvfi_map_wrong(map, key, "of another type");
	return NULL;
}

struct kvfi_map kvfi_map_root(
	const char *name, const msgpack_object *object, msgpack_zone *zone, enum kvf_status *status)
{
	struct kvfi_map map = {.key = name, .index = UINT32_MAX, .zone = zone, .status = status};

	if (object->type == MSGPACK_OBJECT_MAP)
		map.object = &object->via.map;
	else
		*status = kvfi_fail(KVF_PROTOCOL, "%s: not a map", name);
	return map;
}

uint64_t kvfi_map_uint(const struct kvfi_map *map, const char *key, uint64_t most)
{
	const msgpack_object *object = find(map, key, MSGPACK_OBJECT_POSITIVE_INTEGER);
	char what[64];

	if (object == NULL)
		return 0;
	if (object->via.u64 <= most)
		return object->via.u64;
	(void)snprintf(what, sizeof(what), "%" PRIu64 ", at most %" PRIu64, object->via.u64, most);
	kvfi_map_wrong(map, key, what);
	return 0;
}

uint32_t kvfi_map_u32(const struct kvfi_map *map, const char *key)
{
	return (uint32_t)kvfi_map_uint(map, key, UINT32_MAX);
}

int32_t kvfi_map_int(const struct kvfi_map *map, const char *key)
{
	const msgpack_object *object = find_any(map, key);

	if (object == NULL)
		return 0;
	if (object->type == MSGPACK_OBJECT_POSITIVE_INTEGER && object->via.u64 <= INT32_MAX)
		return (int32_t)object->via.u64;
	if (object->type == MSGPACK_OBJECT_NEGATIVE_INTEGER && object->via.i64 >= INT32_MIN)
		return (int32_t)object->via.i64;
	kvfi_map_wrong(map, key, "not a 32-bit integer");
	return 0;
}

/* Of a str that fits in max_bytes with a NUL and has none inside; else NULL. */
static const msgpack_object_str *find_text(const struct kvfi_map *map, const char *key, size_t max_bytes)
{
	const msgpack_object *object = find(map, key, MSGPACK_OBJECT_STR);
	char what[64];

	if (object == NULL)
		return NULL;
	if (object->via.str.size >= max_bytes) {
		(void)snprintf(
			what, sizeof(what), "%u bytes, at most %zu", object->via.str.size, max_bytes - 1);
		kvfi_map_wrong(map, key, what);
		return NULL;
	}
	if (memchr(object->via.str.ptr, 0, object->via.str.size) != NULL) {
		kvfi_map_wrong(map, key, "a NUL inside");
		return NULL;
	}
	return &object->via.str;
}

void kvfi_map_text(const struct kvfi_map *map, const char *key, char *text, size_t max_bytes)
{
	const msgpack_object_str *str = find_text(map, key, max_bytes);

	if (str == NULL)
		return;
	memcpy(text, str->ptr, str->size);
	text[str->size] = '\0';
}

const char *kvfi_map_string(const struct kvfi_map *map, const char *key)
{
	const msgpack_object_str *str = find_text(map, key, KVFI_MAX_NAME_BYTES);
	char *text = str == NULL ? NULL : kvfi_map_alloc(map, (size_t)str->size + 1, 1);

	if (text == NULL)
		return "";
	memcpy(text, str->ptr, str->size);
	return text;
}

struct kvfi_reader kvfi_map_bin(const struct kvfi_map *map, const char *key, size_t unit_bytes,
	size_t max_units, uint32_t *n_units_out)
{
	const msgpack_object *object = find(map, key, MSGPACK_OBJECT_BIN);
	char what[64];

	*n_units_out = 0;
	if (object == NULL)
		return kvfi_reader_on("", 0);
	if (object->via.bin.size % unit_bytes != 0 || object->via.bin.size / unit_bytes > max_units) {
		(void)snprintf(what, sizeof(what), "%u bytes, must be at most %zu times %zu",
			object->via.bin.size, max_units, unit_bytes);
		kvfi_map_wrong(map, key, what);
		return kvfi_reader_on("", 0);
	}
	*n_units_out = (uint32_t)(object->via.bin.size / unit_bytes);
	return kvfi_reader_on(object->via.bin.ptr, object->via.bin.size);
}

const uint32_t *kvfi_map_layers(const struct kvfi_map *map, const char *key, uint32_t *n_layers_out)
{
	struct kvfi_reader reader = kvfi_map_bin(map, key, 2, KVF_MAX_LAYERS, n_layers_out);
	uint32_t *layers = kvfi_map_alloc(map, *n_layers_out, sizeof(*layers));

	for (uint32_t i = 0; layers != NULL && i < *n_layers_out; i++)
		layers[i] = kvfi_get_u16(&reader);
	return layers;
}

struct kvfi_map kvfi_map_child(const struct kvfi_map *map, const char *key)
{
	const msgpack_object *object = find(map, key, MSGPACK_OBJECT_MAP);
	struct kvfi_map child = {
		.parent = map, .key = key, .index = UINT32_MAX, .zone = map->zone, .status = map->status};

	if (object != NULL)
		child.object = &object->via.map;
	return child;
}

struct kvfi_map_array kvfi_map_array(const struct kvfi_map *map, const char *key, uint32_t max)
{
	const msgpack_object *object = find(map, key, MSGPACK_OBJECT_ARRAY);
	struct kvfi_map_array array = {.map = map, .key = key};
	char what[64];

	if (object == NULL)
		return array;
	if (object->via.array.size > max) {
		(void)snprintf(what, sizeof(what), "%u elements, at most %u", object->via.array.size, max);
		kvfi_map_wrong(map, key, what);
		return array;
	}
	array.elements = object->via.array.ptr;
	array.n = object->via.array.size;
	return array;
}

struct kvfi_map kvfi_map_element(const struct kvfi_map_array *array, uint32_t i)
{
	const struct kvfi_map *map = array->map;
	struct kvfi_map element = {
		.parent = map, .key = array->key, .index = i, .zone = map->zone, .status = map->status};

	if (array->elements[i].type == MSGPACK_OBJECT_MAP)
		element.object = &array->elements[i].via.map;
	else
		kvfi_map_wrong(map, array->key, "has an element that is not a map");
	return element;
}

void *kvfi_map_alloc(const struct kvfi_map *map, size_t n, size_t size)
{
	uint64_t bytes;
	void *memory;

	if (*map->status != KVF_OK)
		return NULL;
	if (kvfi_mul_overflows(n, size, &bytes) || bytes > KVFI_WIRE_MAX_BYTES * UINT64_C(8)) {
		*map->status = kvfi_fail(KVF_PROTOCOL, "%s: %zu elements of %zu bytes", map->key, n, size);
		return NULL;
	}
	memory = msgpack_zone_malloc(map->zone, bytes == 0 ? 1 : (size_t)bytes);
	if (memory == NULL)
		*map->status = kvfi_fail(KVF_ENOMEM, "reading a message: %s", map->key);
	else
		memset(memory, 0, (size_t)bytes);
	return memory;
}
