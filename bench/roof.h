/* roof.h - what transfers are held against: plain programs for the same work, in the same two processes. */
#ifndef KVFB_ROOF_H
#define KVFB_ROOF_H

#include "bench/pair.h"

/* The sender's memory and threads for roofs. */
struct roof {
	unsigned char *mapped; /* as large as the destination pool, shared, populated */
	uint64_t mapped_bytes;
};

void roof_open(struct roof *roof, const struct pair_spec *spec);
void roof_close(struct roof *roof);

/* Sender: one memcpy per run, by as many threads as there are copy workers. */
struct answer roof_copy(const struct roof *roof, const struct pair_spec *spec, const unsigned char *src_pool);
/* Both: a TCP connection on loopback, bytes in calls of 256 KiB, straight from and into memory. */
void roof_stream_connect(struct pair *pair);
struct answer roof_stream_send(int fd, const unsigned char *memory, uint64_t bytes);
uint64_t roof_stream_receive(int fd, unsigned char *memory, uint64_t bytes);
/* Both: n round trips of 64 bytes; the driver gets the time of each in microseconds. */
void roof_echo_answer(int fd, uint32_t n);
void roof_echo_ask(int fd, uint32_t n, struct samples *samples);
#ifdef KVFB_WITH_ZMQ
void roof_queue_answer(const char *directory, uint32_t n);
void roof_queue_ask(const char *directory, uint32_t n, struct samples *samples);
#endif

#endif
