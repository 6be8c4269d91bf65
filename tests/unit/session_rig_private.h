/* session_rig_private.h - what the files of the rig share. */
#ifndef KVFT_SESSION_RIG_PRIVATE_H
#define KVFT_SESSION_RIG_PRIVATE_H

#include "session_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum rig_kind {
	RIG_MESSAGE = 1,
	RIG_POST = 2,  /* a post does its next piece */
	RIG_LEAVE = 3, /* a piece of a post has landed */
	RIG_SUM = 4,
	RIG_QUIET = 5
};

/* The node sees that this peer is gone. */
void rig_tell_down(struct rig *rig, struct rig_node *node, uint32_t slot, enum kvf_status status);

struct rig_event {
	enum rig_kind kind;
	uint64_t at_ns, sequence;
	uint32_t node, life; /* of the node when it was made */
	uint32_t peer_slot, peer_life;
	uint32_t index, generation;
	uint32_t sender, sender_life, post;
	const struct kvfi_bound *bound;
	bool refused;
	struct kvfi_msg msg;
};

struct rig_event *rig_schedule(struct rig *rig, enum rig_kind kind, uint32_t node, uint64_t after_ns);
void rig_sink_fill(struct rig_node *node, struct kvfi_sink *sink);
void rig_maybe_quiet(struct rig_node *node, uint32_t link);
uint64_t rig_sum(const struct kvfi_bound *bound, enum kvfi_walk_mode mode);

/* Content: of the rows that a session's lists name. */
enum rig_content {
	RIG_FILL = 1,
	RIG_CHECK = 2,
	RIG_CANARY = 3,
	RIG_CHECK_CANARY = 4
};
/* False at the first row that is not so. `only`: KVFI_NONE, or this entry of the paged list alone. */
bool rig_rows(struct rig_node *node, const struct rig_session *session, enum rig_content what, uint32_t only);
extern const char rig_aux_text[RIG_AUX_BYTES];

#endif
