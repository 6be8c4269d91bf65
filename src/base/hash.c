/* hash.c - hashing byte strings, eight bytes a step, little-endian, the length included. Pure. */
#include "base/hash.h"

uint64_t kvfi_hash_bytes(uint64_t hash, const void *bytes, size_t len_bytes)
{
	const unsigned char *at = bytes;
	uint64_t word = 0;
	unsigned filled = 0;

	for (size_t i = 0; i < len_bytes; i++) {
		word |= (uint64_t)at[i] << (8 * filled);
		if (++filled == 8) {
			hash = kvfi_hash_u64(hash, word);
			word = 0;
			filled = 0;
		}
	}
	return kvfi_hash_u64(kvfi_hash_u64(hash, word), len_bytes);
}
