/* cold.h - writing and reading the msgpack maps of cold messages. Included by cold*.c alone.
 *
 * Reading is sticky: each map points to one status, the first thing that is wrong is kept there with its path in
 * kvf_error(), and everything read after it is zero or empty. So a reader fetches all its fields and looks once.
 * A key is looked up by name: unknown ones are skipped, of two equal ones the first counts, a missing one is an error.
 */
#ifndef KVFI_WIRE_COLD_H
#define KVFI_WIRE_COLD_H

#include <msgpack.h>
#include "wire/frame.h"

/* Writing. A bin is announced with its length; its bytes then go to the writer behind the packer. */
struct kvfi_packer {
	struct kvfi_writer *writer;
	msgpack_packer packer;
};

void kvfi_packer_init(struct kvfi_packer *packer, struct kvfi_writer *writer);
void kvfi_pack_map(struct kvfi_packer *packer, uint32_t n_keys);
void kvfi_pack_map_at(struct kvfi_packer *packer, const char *key, uint32_t n_keys);
void kvfi_pack_array_at(struct kvfi_packer *packer, const char *key, uint32_t n);
void kvfi_pack_uint_at(struct kvfi_packer *packer, const char *key, uint64_t value);
void kvfi_pack_int_at(struct kvfi_packer *packer, const char *key, int64_t value);
void kvfi_pack_text_at(struct kvfi_packer *packer, const char *key, const char *text);
void kvfi_pack_bin_at(struct kvfi_packer *packer, const char *key, size_t len_bytes);
void kvfi_pack_layers_at(
	struct kvfi_packer *packer, const char *key, const uint32_t *layers, uint32_t n_layers);

/* Reading. */
struct kvfi_map {
	const struct kvfi_map *parent;
	const char *key; /* of this map in its parent, or the message's name */
	uint32_t index;  /* its place in an array of that key; UINT32_MAX: no array */
	const msgpack_object_map *object;
	msgpack_zone *zone; /* where texts and arrays that are read live */
	enum kvf_status *status;
};

/* An array of maps. */
struct kvfi_map_array {
	const struct kvfi_map *map;
	const char *key;
	const msgpack_object *elements;
	uint32_t n;
};

struct kvfi_map kvfi_map_root(
	const char *name, const msgpack_object *object, msgpack_zone *zone, enum kvf_status *status);
/* What is wrong with that key, unless something was before. */
void kvfi_map_wrong(const struct kvfi_map *map, const char *key, const char *what);
uint64_t kvfi_map_uint(const struct kvfi_map *map, const char *key, uint64_t most);
uint32_t kvfi_map_u32(const struct kvfi_map *map, const char *key);
int32_t kvfi_map_int(const struct kvfi_map *map, const char *key);
/* Into text, which has room for max_bytes with the NUL. */
void kvfi_map_text(const struct kvfi_map *map, const char *key, char *text, size_t max_bytes);
/* A copy in the zone, shorter than KVFI_MAX_NAME_BYTES; never NULL. */
const char *kvfi_map_string(const struct kvfi_map *map, const char *key);
/* A reader on the bytes of a bin whose length is a multiple of unit_bytes and at most max_units of them. */
struct kvfi_reader kvfi_map_bin(const struct kvfi_map *map, const char *key, size_t unit_bytes,
	size_t max_units, uint32_t *n_units_out);
const uint32_t *kvfi_map_layers(const struct kvfi_map *map, const char *key, uint32_t *n_layers_out);
struct kvfi_map kvfi_map_child(const struct kvfi_map *map, const char *key);
struct kvfi_map_array kvfi_map_array(const struct kvfi_map *map, const char *key, uint32_t max);
/* i < array->n. */
struct kvfi_map kvfi_map_element(const struct kvfi_map_array *array, uint32_t i);
/* Zeroed memory in the zone. NULL, with the status set, when there is none or the status was bad before. */
void *kvfi_map_alloc(const struct kvfi_map *map, size_t n, size_t size);

void kvfi_hello_put(struct kvfi_packer *packer, const struct kvfi_msg_hello *hello);
void kvfi_hello_get(const struct kvfi_map *map, struct kvfi_msg_hello *hello);

#endif
