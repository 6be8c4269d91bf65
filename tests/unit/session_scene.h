/* session_scene.h - small clusters for tests of one behaviour each: nothing is lost unless the test says so. */
#ifndef KVFT_SESSION_SCENE_H
#define KVFT_SESSION_SCENE_H

#include "session_rig.h"

#define SCENE_ID UINT64_C(0x123456789abcdef)

/* tp of both sides; attention-DP of the prefill side. */
struct scene {
	uint32_t prefill_tp, prefill_dp, decode_tp, decode_dp;
	bool receiver_applied, mixed, unconnected;
	struct kvfi_core_config config; /* max_sessions 0: rig_config */
};

void scene_open(struct rig *rig, const struct scene *scene);
/* Ends what is left, closes every session, and expects every table to be empty. */
void scene_close(struct rig *rig);
struct rig_ask scene_ask(void); /* 24 tokens: 6 blocks, DP index 0 */
struct rig_session *scene_session(struct rig *rig, uint32_t node, uint32_t slot);
uint32_t scene_decode(const struct rig *rig, uint32_t rank); /* its node */
/* All ranks of one side, at the same slot. */
void scene_open_tx(struct rig *rig, uint32_t slot, const struct rig_ask *ask);
void scene_send_tx(struct rig *rig, uint32_t slot);
void scene_open_rx(struct rig *rig, uint32_t slot, const struct rig_ask *ask);
void scene_expect(struct rig *rig, uint32_t node, uint32_t slot, enum kvf_status status);
void scene_expect_all(struct rig *rig, uint32_t slot, enum kvf_status status);

/* Messages that are lost, by kind: the first `first`, then all while `all` is set. What is lost is kept. */
struct scene_loss {
	enum kvfi_msg_type type;
	uint32_t first;
	bool all;
	uint32_t seen;
	struct kvfi_msg last; /* without its pointers */
};
void scene_lose(struct rig *rig, struct scene_loss *loss);
/* A message of a session, as its other side would say it. */
struct kvfi_msg scene_msg(enum kvfi_msg_type type, const struct rig_ask *ask, uint64_t epoch);
/* The REQUEST of a whole prompt whose blocks are 0, 1, ... */
struct kvfi_msg scene_request(const struct rig_ask *ask, uint64_t epoch, struct kvfi_id_run *run);

/* Quiet 5 s, progress 60 s, no transfer deadline. */
struct kvfi_core_config scene_ladder_config(uint32_t stuck_budget);
struct kvf_health scene_health(struct rig *rig, uint32_t node);
/* A request whose writer has stopped in the middle of its first chunk. Takes a second. */
void scene_begin_and_stop(struct rig *rig, uint32_t slot, uint64_t request_id);

#endif
