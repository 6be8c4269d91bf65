/* tcp_peer.h - a peer of the tcp transport written by hand: it speaks the stream byte by byte, rightly or wrongly, as a test wants it. */
#ifndef TESTS_TCP_PEER_H
#define TESTS_TCP_PEER_H

#include "tcp_rig.h"
#include "transport/tcp_frame.h"

/* A socket that listens on loopback, and its address as a transport would tell it. */
int raw_listen(unsigned char *address_out);
/* Accepts one connection. Reads give up after RIG_PATIENCE. */
int raw_accept(int listener);
/* Connects to a transport. */
int raw_dial(struct rig_side *side);
void raw_send(int fd, const void *bytes, size_t len_bytes);
/* False: the other side closed first. */
bool raw_recv(int fd, void *bytes, size_t len_bytes);
/* Reads until the other side closes. */
void raw_until_closed(int fd);

struct kvfi_tcp_greeting raw_recv_greeting(int fd);
void raw_send_greeting(int fd, const struct kvfi_tcp_greeting *greeting);
/* As a sender: accepts the decode side's connection and welcomes it. */
int raw_welcome(int listener);
/* As a receiver: dials the prefill side as that incarnation and link, and is welcomed. */
int raw_hello(struct rig_side *prefill, uint64_t incarnation, uint64_t link);

/* The stream of a slice: SLICE and DATA frames of at most frame_bytes. Free bytes. */
struct raw_stream {
	unsigned char *bytes;
	size_t len_bytes, slice_bytes; /* of all; of the SLICE frame in front */
};
void raw_stream_init(struct raw_stream *stream, const struct rig_slice *slice,
	const struct kvfi_tx_post *post, uint32_t frame_bytes);

#endif
