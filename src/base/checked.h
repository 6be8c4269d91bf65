/* checked.h - arithmetic on numbers that come from outside. True: it overflowed and *out is not to be used. */
#ifndef KVFI_BASE_CHECKED_H
#define KVFI_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

static inline bool kvfi_add_overflows(uint64_t a, uint64_t b, uint64_t *out)
{
	return __builtin_add_overflow(a, b, out);
}

static inline bool kvfi_mul_overflows(uint64_t a, uint64_t b, uint64_t *out)
{
	return __builtin_mul_overflow(a, b, out);
}

static inline uint64_t kvfi_min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t kvfi_max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* ceil(a / b) without overflow; b > 0. */
static inline uint64_t kvfi_div_up(uint64_t a, uint64_t b)
{
	return a / b + (a % b != 0);
}

/* a rounded up to a multiple of b (a power of two); the caller has checked that it fits. */
static inline uint64_t kvfi_align_up(uint64_t a, uint64_t b)
{
	return (a + b - 1) & ~(b - 1);
}

#endif
