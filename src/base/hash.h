/* hash.h - a 64-bit mixing step; digests are chains of it. Not for secrets. */
#ifndef KVFI_BASE_HASH_H
#define KVFI_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* splitmix64's finaliser (Steele, Lea, Flood 2014). */
static inline uint64_t kvfi_mix64(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static inline uint64_t kvfi_hash_u64(uint64_t hash, uint64_t value)
{
	return kvfi_mix64(hash ^ kvfi_mix64(value));
}

uint64_t kvfi_hash_bytes(uint64_t hash, const void *bytes, size_t len_bytes);

#endif
