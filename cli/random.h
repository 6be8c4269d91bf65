/* random.h - a small seeded generator (splitmix64): the same numbers on every machine. Plain memory. Not for secrets. */
#ifndef KVFERRY_CLI_RANDOM_H
#define KVFERRY_CLI_RANDOM_H

#include <stdint.h>

struct random_stream {
	uint64_t state;
};

static inline uint64_t random_next(struct random_stream *stream)
{
	uint64_t z = stream->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* In [0, n); n > 0. The bias is below n / 2^64. */
static inline uint64_t random_below(struct random_stream *stream, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)random_next(stream) * n) >> 64);
}

/* In (0, 1), never 0 or 1. */
static inline double random_unit(struct random_stream *stream)
{
	return ((double)(random_next(stream) >> 12) + 0.5) * 0x1p-52;
}

#endif
