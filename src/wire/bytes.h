/* bytes.h - bounded reader and writer of little-endian bytes.
 *
 * Neither ever touches a byte outside its buffer: a reader that runs out yields zeros and stays `failed`, a writer that
 * runs full writes nothing more and stays `full`. So callers read or write a whole frame and look once, at the end.
 */
#ifndef KVFI_WIRE_BYTES_H
#define KVFI_WIRE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct kvfi_writer {
	unsigned char *bytes; /* NULL: nothing is stored, used_bytes only counts */
	size_t max_bytes, used_bytes;
	bool full;
};

struct kvfi_reader {
	const unsigned char *bytes;
	size_t len_bytes, used_bytes;
	bool failed; /* something was read beyond the end */
};

static inline struct kvfi_writer kvfi_writer_on(void *buffer, size_t max_bytes)
{
	return (struct kvfi_writer){.bytes = buffer, .max_bytes = max_bytes};
}

/* A writer that stores nothing and tells how much a frame takes. */
static inline struct kvfi_writer kvfi_writer_counting(void)
{
	return (struct kvfi_writer){.bytes = NULL, .max_bytes = SIZE_MAX};
}

static inline void kvfi_put_bytes(struct kvfi_writer *writer, const void *bytes, size_t len_bytes)
{
	if (writer->full || len_bytes > writer->max_bytes - writer->used_bytes) {
		writer->full = true;
		return;
	}
	if (writer->bytes != NULL && len_bytes > 0)
		memcpy(writer->bytes + writer->used_bytes, bytes, len_bytes);
	writer->used_bytes += len_bytes;
}

static inline void kvfi_store_le(unsigned char *at, uint64_t value, unsigned len_bytes)
{
	for (unsigned i = 0; i < len_bytes; i++)
		at[i] = (unsigned char)(value >> (8 * i));
}

static inline uint64_t kvfi_load_le(const unsigned char *at, unsigned len_bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < len_bytes; i++)
		value |= (uint64_t)at[i] << (8 * i);
	return value;
}

static inline void kvfi_put_le(struct kvfi_writer *writer, uint64_t value, unsigned len_bytes)
{
	unsigned char bytes[8];

	kvfi_store_le(bytes, value, len_bytes);
	kvfi_put_bytes(writer, bytes, len_bytes);
}

static inline void kvfi_put_u16(struct kvfi_writer *writer, uint16_t value)
{
	kvfi_put_le(writer, value, 2);
}

static inline void kvfi_put_u32(struct kvfi_writer *writer, uint32_t value)
{
	kvfi_put_le(writer, value, 4);
}

static inline void kvfi_put_u64(struct kvfi_writer *writer, uint64_t value)
{
	kvfi_put_le(writer, value, 8);
}

static inline struct kvfi_reader kvfi_reader_on(const void *bytes, size_t len_bytes)
{
	return (struct kvfi_reader){.bytes = bytes, .len_bytes = len_bytes};
}

static inline size_t kvfi_reader_left(const struct kvfi_reader *reader)
{
	return reader->len_bytes - reader->used_bytes;
}

/* The next len_bytes in place; NULL, and the reader failed, when there are not that many. */
static inline const unsigned char *kvfi_get_span(struct kvfi_reader *reader, size_t len_bytes)
{
	const unsigned char *at;

	if (reader->failed || len_bytes > kvfi_reader_left(reader)) {
		reader->failed = true;
		return NULL;
	}
	at = reader->bytes + reader->used_bytes;
	reader->used_bytes += len_bytes;
	return at;
}

static inline uint64_t kvfi_get_le(struct kvfi_reader *reader, unsigned len_bytes)
{
	const unsigned char *at = kvfi_get_span(reader, len_bytes);

	return at == NULL ? 0 : kvfi_load_le(at, len_bytes);
}

static inline uint16_t kvfi_get_u16(struct kvfi_reader *reader)
{
	return (uint16_t)kvfi_get_le(reader, 2);
}

static inline uint32_t kvfi_get_u32(struct kvfi_reader *reader)
{
	return (uint32_t)kvfi_get_le(reader, 4);
}

static inline uint64_t kvfi_get_u64(struct kvfi_reader *reader)
{
	return kvfi_get_le(reader, 8);
}

#endif
