/* group.c - the owner's half of groups: who has said what in which round, and what is said again.
 *
 * A member sends its bytes of a round to every other one and repeats them, 50 ms doubling to 1 s, to those whose bytes of that round it lacks. A
 * repeated word says that its sender lacks something, and is answered; one that lacks nothing is not, so that two members never keep each other
 * busy. Nobody can be more than one round ahead: that needs our word. So two slots per member, by the parity of the round, hold everything
 * that can be of use, and what is for no slot is dropped.
 *
 * A place belongs to the first incarnation that was heard of there. Another one means that the member has restarted: it is lost, and a
 * round that awaits it stays open. Owner thread.
 */
#include "agent/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/clock.h"
#include "base/status.h"

#define REPEAT_FIRST_NS (UINT64_C(50) * KVFI_NS_PER_MS)
#define REPEAT_MAX_NS   (UINT64_C(1) * KVFI_NS_PER_S)
#define LEAVE_NS        (UINT64_C(250) * KVFI_NS_PER_MS) /* how long a closed group still answers */

static bool has_said(const struct agent_group *group, uint32_t rank, uint64_t round)
{
	return group->members[rank].rounds[round & 1] == round;
}

/* ---- out ---- */

/* To that incarnation at a member's place; a round of 0 says nothing. */
static void send_word(kvf_agent *agent, const struct agent_group *group, uint32_t to, uint64_t incarnation,
	struct kvfi_msg_group word)
{
	struct kvfi_msg msg;

	memset(&msg.header, 0, sizeof(msg.header));
	msg.block = NULL;
	msg.header.type = KVFI_MSG_GROUP;
	msg.header.from = agent->incarnation;
	msg.header.to = incarnation;
	msg.header.instance_id = group->instance_id;
	msg.u.group = word;
	msg.u.group.group = group->id;
	msg.u.group.rank = group->rank;
	msg.u.group.members = group->n;
	if (word.round > 0) {
		const struct group_member *own = &group->members[group->rank];

		msg.u.group.len_bytes = own->len_bytes[word.round & 1];
		msg.u.group.bytes = own->bytes[word.round & 1];
	}
	msg.u.group.seal = kvfi_msg_seal(&msg);
	(void)kvfi_control_of(agent)->send(agent->control, group->members[to].way, &msg);
	agent->sent = true;
}

static void say(kvf_agent *agent, struct agent_group *group, uint32_t to, uint64_t round, uint32_t flags)
{
	const struct group_member *member = &group->members[to];

	if (member->way == KVFI_NO_WAY || member->lost)
		return;
	if (round > 0 && !has_said(group, to, round))
		flags |= KVFI_GROUP_WANTED;
	send_word(agent, group, to, member->incarnation,
		(struct kvfi_msg_group){.round = round, .flags = flags});
}

static void due(kvf_agent *agent, struct agent_group *group, uint64_t at_ns)
{
	group->next_ns = at_ns;
	if (at_ns < agent->groups_due_ns)
		agent->groups_due_ns = at_ns;
}

static void repeat(kvf_agent *agent, struct agent_group *group, uint64_t now_ns)
{
	for (uint32_t i = 0; i < group->n; i++)
		if (!has_said(group, i, group->open))
			say(agent, group, i, group->open, 0);
	group->backoff_ns = group->backoff_ns * 2 < REPEAT_MAX_NS ? group->backoff_ns * 2 : REPEAT_MAX_NS;
	due(agent, group, now_ns + group->backoff_ns);
}

/* ---- the end of a round ---- */

/* Once; what was awaited stays awaited. */
static void fail(struct agent_group *group, enum kvf_status status, uint32_t rank, const char *what)
{
	if (atomic_load_explicit(&group->failed, memory_order_relaxed) != KVF_OK)
		return;
	(void)snprintf(group->why, sizeof(group->why), "group %llu: member %u %s",
		(unsigned long long)group->id, rank, what);
	atomic_store(&group->failed, status);
}

static void look(struct agent_group *group)
{
	uint64_t awaited = 0;

	if (group->open == atomic_load_explicit(&group->completed, memory_order_relaxed))
		return;
	for (uint32_t i = 0; i < group->n; i++) {
		if (has_said(group, i, group->open))
			continue;
		awaited |= UINT64_C(1) << i;
		if (group->members[i].lost)
			fail(group, KVF_PEER_LOST, i, "is gone, and this round awaits it");
	}
	atomic_store(&group->awaited, awaited);
	if (awaited != 0)
		return;
	group->next_ns = KVFI_NEVER;
	atomic_store(&group->completed, group->open);
}

void kvfi_group_item(kvf_agent *agent, uint32_t place, uint64_t round, uint32_t len_bytes)
{
	struct agent_group *group = agent->groups[place];
	struct group_member *own;

	KVFI_ASSERT(group != NULL && !group->leaving && round == group->open + 1);
	own = &group->members[group->rank];
	memcpy(own->bytes[round & 1], group->out, len_bytes);
	own->len_bytes[round & 1] = len_bytes;
	own->rounds[round & 1] = round;
	group->open = round;
	group->backoff_ns = REPEAT_FIRST_NS;
	due(agent, group, kvfi_clock_ns() + REPEAT_FIRST_NS);
	for (uint32_t i = 0; i < group->n; i++)
		say(agent, group, i, round, 0);
	look(group);
}

/* ---- in ---- */

static struct agent_group *find(kvf_agent *agent, uint64_t id)
{
	for (uint32_t i = 0; i < KVFI_MAX_AGENT_GROUPS; i++)
		if (agent->groups[i] != NULL && agent->groups[i]->id == id)
			return agent->groups[i];
	return NULL;
}

/* Is it from a member of this group, as it was opened here, and in the incarnation that the place belongs to? */
static bool belongs(kvf_agent *agent, struct agent_group *group, const struct kvfi_msg *msg)
{
	const struct kvfi_msg_group *word = &msg->u.group;
	struct group_member *member;

	if (msg->header.to != 0 && msg->header.to != agent->incarnation)
		return false; /* meant for the one that was here before */
	if (word->members != group->n || msg->header.instance_id != group->instance_id ||
		word->rank == group->rank || word->len_bytes > group->max_bytes) {
		fail(group, KVF_INCOMPATIBLE, word->rank,
			msg->header.instance_id != group->instance_id ? "is of another instance"
			: word->members != group->n                   ? "was told another number of members"
			: word->rank == group->rank ? "is another agent with this member's place"
						    : "says more than max_bytes");
		return false;
	}
	member = &group->members[word->rank];
	if (member->incarnation == 0)
		member->incarnation = msg->header.from;
	if (member->incarnation == msg->header.from)
		return true;
	/* The place was another's. Who has it now is told, or would wait for us; it stops asking then. */
	member->lost = true;
	send_word(agent, group, word->rank, msg->header.from,
		(struct kvfi_msg_group){.flags = KVFI_GROUP_LEAVING});
	look(group);
	return false;
}

/* What is for a slot goes there; true: it was there already, or its time is over. */
static bool store(struct agent_group *group, const struct kvfi_msg_group *word)
{
	struct group_member *member = &group->members[word->rank];
	const uint32_t parity = word->round & 1;

	if (word->round <= atomic_load_explicit(&group->completed, memory_order_relaxed) ||
		member->rounds[parity] == word->round)
		return true;
	if (word->round > group->open + 1)
		return false;
	member->rounds[parity] = word->round;
	member->len_bytes[parity] = word->len_bytes;
	if (word->len_bytes > 0)
		memcpy(member->bytes[parity], word->bytes, word->len_bytes);
	return false;
}

void kvfi_group_message(kvf_agent *agent, const struct kvfi_msg *msg)
{
	const struct kvfi_msg_group *word = &msg->u.group;
	struct agent_group *group = find(agent, word->group);

	if (group == NULL || word->seal != kvfi_msg_seal(msg) || !belongs(agent, group, msg))
		return; /* not open here yet, or damaged: it will be said again */
	if (word->round > 0 && store(group, word) && (word->flags & KVFI_GROUP_WANTED) != 0 &&
		has_said(group, group->rank, word->round))
		say(agent, group, word->rank, word->round, 0);
	if ((word->flags & KVFI_GROUP_LEAVING) != 0)
		group->members[word->rank].lost = true;
	look(group);
}

/* ---- time ---- */

static void forget(kvf_agent *agent, uint32_t place)
{
	struct agent_group *group = agent->groups[place];

	agent->groups[place] = NULL;
	agent->group_members -= group->n;
	for (uint32_t i = 0; i < group->n; i++)
		if (group->members[i].way != KVFI_NO_WAY)
			kvfi_control_of(agent)->forget(agent->control, group->members[i].way);
	kvfi_group_free(group);
}

void kvfi_groups_tick(kvf_agent *agent, uint64_t now_ns)
{
	uint64_t next_ns = KVFI_NEVER;

	if (now_ns < agent->groups_due_ns)
		return;
	for (uint32_t i = 0; i < KVFI_MAX_AGENT_GROUPS; i++) {
		struct agent_group *group = agent->groups[i];

		if (group != NULL && group->next_ns <= now_ns) {
			if (group->leaving) {
				forget(agent, i);
				continue;
			}
			repeat(agent, group, now_ns);
		}
		if (group != NULL && group->next_ns < next_ns)
			next_ns = group->next_ns;
	}
	agent->groups_due_ns = next_ns;
}

/* ---- open and close ---- */

bool kvfi_groups_use_way(const kvf_agent *agent, uint32_t way)
{
	for (uint32_t i = 0; i < KVFI_MAX_AGENT_GROUPS; i++) {
		const struct agent_group *group = agent->groups[i];

		for (uint32_t m = 0; group != NULL && m < group->n; m++)
			if (group->members[m].way == way)
				return true;
	}
	return false;
}

static enum kvf_status make_ways(kvf_agent *agent, struct agent_group *group)
{
	const struct kvfi_control_ops *ops = kvfi_control_of(agent);

	for (uint32_t i = 0; i < group->n; i++) {
		enum kvf_status status;

		if (i == group->rank)
			continue;
		status = ops->connect(agent->control, group->endpoints[i], &group->members[i].way);
		if (status == KVF_OK)
			continue;
		group->members[i].way = KVFI_NO_WAY;
		while (i-- > 0)
			if (group->members[i].way != KVFI_NO_WAY)
				ops->forget(agent->control, group->members[i].way);
		return kvfi_fail_prefix(status, "group %llu: endpoints", (unsigned long long)group->id);
	}
	return KVF_OK;
}

enum kvf_status kvfi_group_add(kvf_agent *agent, struct agent_group *group, uint32_t *place_out)
{
	uint32_t place = 0;
	enum kvf_status status;

	while (place < KVFI_MAX_AGENT_GROUPS && agent->groups[place] != NULL)
		place++;
	if (place == KVFI_MAX_AGENT_GROUPS)
		return kvfi_fail(KVF_EFULL, "group %llu: all %u groups of this agent are open",
			(unsigned long long)group->id, KVFI_MAX_AGENT_GROUPS);
	if (group->n > KVFI_MAX_GROUP_MEMBERS - agent->group_members)
		return kvfi_fail(KVF_EFULL, "group %llu: n_ranks: %u, the other groups have %u of at most %u",
			(unsigned long long)group->id, group->n, agent->group_members,
			KVFI_MAX_GROUP_MEMBERS);
	if (find(agent, group->id) != NULL)
		return kvfi_fail(
			KVF_DUPLICATE, "group_id: %llu is open already", (unsigned long long)group->id);
	status = make_ways(agent, group);
	if (status != KVF_OK)
		return status;
	agent->groups[place] = group;
	agent->group_members += group->n;
	*place_out = place;
	return KVF_OK;
}

void kvfi_group_leave(kvf_agent *agent, uint32_t place)
{
	struct agent_group *group = agent->groups[place];

	for (uint32_t i = 0; i < group->n; i++)
		say(agent, group, i, group->open, KVFI_GROUP_LEAVING);
	group->leaving = true;
	due(agent, group, kvfi_clock_ns() + LEAVE_NS);
}

void kvfi_groups_leave_all(kvf_agent *agent)
{
	for (uint32_t i = 0; i < KVFI_MAX_AGENT_GROUPS; i++)
		if (agent->groups[i] != NULL && !agent->groups[i]->leaving)
			kvfi_group_leave(agent, i);
}

void kvfi_groups_fini(kvf_agent *agent)
{
	for (uint32_t i = 0; i < KVFI_MAX_AGENT_GROUPS; i++)
		kvfi_group_free(agent->groups[i]);
}

void kvfi_group_free(struct agent_group *group)
{
	if (group == NULL)
		return;
	free(group->endpoints);
	free(group->members);
	free(group->memory);
	free(group);
}
