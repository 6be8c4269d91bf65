/* tcp_rig.h - what the tests of the tcp transport stand on: transports that keep what they are told, and a slice with real memory. */
#ifndef TESTS_TCP_RIG_H
#define TESTS_TCP_RIG_H

#include "geometry_support.h"
#include <pthread.h>
#include <stdbool.h>
#include "transport/transport.h"

#define RIG_PREFILL  UINT64_C(0x1111) /* incarnations */
#define RIG_DECODE   UINT64_C(0x2222)
#define RIG_LINK     UINT64_C(0x3333)
#define RIG_DONES    256u
#define RIG_PATIENCE 20 /* seconds until a test that waits for something fails */

/* A transport and everything that it has told. */
struct rig_side {
	struct kvfi_transport_env env;
	struct kvfi_transport *transport;
	pthread_mutex_t lock;
	pthread_cond_t told;
	struct kvfi_done dones[RIG_DONES];
	uint32_t n;
	bool hold;    /* notify waits before it takes a KVFI_DONE_RX */
	bool is_held; /* it does */
};

/* An env that tells this side; change what a test needs otherwise, then open. */
void rig_side_init(struct rig_side *side, uint64_t incarnation, bool listens);
void rig_side_open(struct rig_side *side);
void rig_side_close(struct rig_side *side);
/* Waits for the next one of that kind and takes it. */
struct kvfi_done rig_take(struct rig_side *side, enum kvfi_done_kind kind);
/* From now on notify waits with every KVFI_DONE_RX; until there is one that waits; no longer. */
void rig_hold(struct rig_side *side);
void rig_until_held(struct rig_side *side);
void rig_let_go(struct rig_side *side);
/* How many of that kind were told and not taken. */
uint32_t rig_count(struct rig_side *side, enum kvfi_done_kind kind);

/* A slice of a model whose rows are cut differently on the two sides, so that runs are one row. */
struct rig_slice {
	struct simple_model model;
	struct rank_pair pair;
	unsigned char *src, *dst, *expected;
	int32_t *src_list, *dst_list;
	struct kvfi_ids src_ids, dst_ids;
	uint64_t tokens;
	struct kvfi_bound bound;
};

/* tokens: a multiple of 16. Runs are row_bytes long on both sides. */
void rig_slice_init(struct rig_slice *slice, uint64_t row_bytes, uint64_t tokens);
void rig_slice_fini(struct rig_slice *slice);
/* Is the destination exactly what the slice makes of it? */
void rig_slice_check(const struct rig_slice *slice);
/* Is it as it was before? */
void rig_slice_check_untouched(const struct rig_slice *slice);

struct kvfi_tx_post rig_post(const struct rig_slice *slice, uint64_t id, uint32_t peer, uint32_t lease_slot,
	uint32_t lease_generation);
struct kvfi_rx_grant rig_grant(const struct rig_slice *slice, uint32_t id, uint32_t peer);

/* A prefill and a decode transport, connected: peer 0 of both. */
struct rig {
	struct rig_side prefill, decode;
};

void rig_init(struct rig *rig);
void rig_fini(struct rig *rig);
void rig_connect(struct rig_side *prefill, uint32_t prefill_peer, struct rig_side *decode,
	uint32_t decode_peer, uint64_t link);

#endif
