/* carve.h - several arrays in one allocation: sum the sizes with kvfi_carve_size, allocate, then hand out the
 * pieces. */
#ifndef KVFI_GEOMETRY_CARVE_H
#define KVFI_GEOMETRY_CARVE_H

#include <stddef.h>
#include <string.h>

#define KVFI_CARVE_ALIGN ((size_t)16)

/* What a piece of this many bytes takes. */
static inline size_t kvfi_carve_size(size_t bytes)
{
	return (bytes + KVFI_CARVE_ALIGN - 1) & ~(KVFI_CARVE_ALIGN - 1);
}

static inline void *kvfi_carve(unsigned char **at, size_t bytes)
{
	void *piece = *at;

	*at += kvfi_carve_size(bytes);
	return piece;
}

/* A piece that holds a copy; from may be NULL when bytes is 0. */
static inline void *kvfi_carve_copy(unsigned char **at, const void *from, size_t bytes)
{
	void *piece = kvfi_carve(at, bytes);

	if (bytes != 0)
		memcpy(piece, from, bytes);
	return piece;
}

#endif
