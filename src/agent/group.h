/* group.h - groups of ranks that gather bytes in numbered rounds. Private to src/agent.
 *
 * Front and owner share no field of a group but the two atomics: the front writes `out` only while no round is open, the owner reads it only
 * when the round's item comes out of the inbox; the owner writes the slots of a round only before it stores `completed`, the front reads them after.
 */
#ifndef KVFI_AGENT_GROUP_H
#define KVFI_AGENT_GROUP_H

#include "agent/agent.h"

struct group_member {
	uint32_t way;         /* KVFI_NO_WAY: this member, or one that left */
	uint64_t incarnation; /* of its first message; 0: not heard of */
	bool lost;
	/* by parity of the round: the one that is open, and the next one or the one before */
	uint64_t rounds[2];
	uint32_t len_bytes[2];
	unsigned char *bytes[2];
};

struct agent_group {
	/* fixed after open */
	uint64_t id, instance_id;
	uint32_t rank, n, max_bytes;
	char (*endpoints)[KVFI_ENDPOINT_BYTES]; /* until the ways are made */

	/* front */
	uint64_t posted, told; /* rounds */
	unsigned char *out;

	/* between */
	_Atomic uint64_t completed;
	_Atomic uint64_t awaited; /* members, by bit; for a sentence alone */
	_Atomic int failed;       /* enum kvf_status; why is written before */
	char why[200];

	/* owner */
	uint64_t open; /* the round that this member is in; 0: none yet */
	uint64_t next_ns, backoff_ns;
	bool leaving; /* closed by the user; answers until next_ns */
	struct group_member *members;
	unsigned char *memory; /* of all slots and of out */
};

/* group.c: owner */
void kvfi_group_message(kvf_agent *agent, const struct kvfi_msg *msg);
void kvfi_group_item(kvf_agent *agent, uint32_t place, uint64_t round, uint32_t len_bytes);
void kvfi_groups_tick(kvf_agent *agent, uint64_t now_ns);
bool kvfi_groups_use_way(const kvf_agent *agent, uint32_t way);
/* Takes the group over when it succeeds. */
KVF_MUST_CHECK enum kvf_status kvfi_group_add(
	kvf_agent *agent, struct agent_group *group, uint32_t *place_out);
/* The group is the owner's from then on. */
void kvfi_group_leave(kvf_agent *agent, uint32_t place);
void kvfi_groups_leave_all(kvf_agent *agent);
void kvfi_groups_fini(kvf_agent *agent);
void kvfi_group_free(struct agent_group *group);

#endif
