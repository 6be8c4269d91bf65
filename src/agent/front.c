/* front.c - what every call about sessions stands on: slots, handles, copies of what the user gave, common checks.
 *
 * Front. What the user gave is copied and kept until the session is closed, so the core may point into it. A slot is taken only when the call cannot
 * fail any more but for the inbox, and given back then.
 */
#include "agent/agent.h"

#include <stdlib.h>
#include <string.h>
#include "base/hash.h"
#include "base/status.h"

/* ---- slots ---- */

kvf_session kvfi_front_handle(const kvf_agent *agent, uint32_t slot)
{
	kvf_session session = {(uint64_t)agent->sessions[slot].generation << 32 | (slot + 1)};

	return session;
}

enum kvf_status kvfi_front_find(kvf_agent *agent, kvf_session session, struct front_session **front_out)
{
	uint32_t slot = (uint32_t)session.bits - 1;

	if (agent == NULL)
		return kvfi_fail(KVF_EINVAL, "agent must not be NULL");
	if ((uint32_t)session.bits == 0 || slot >= agent->options.max_sessions)
		return kvfi_fail(KVF_EINVAL, "session: %llx was never a session of this agent",
			(unsigned long long)session.bits);
	if (agent->sessions[slot].kind == FRONT_FREE ||
		agent->sessions[slot].generation != session.bits >> 32)
		return kvfi_fail(KVF_ESTALE, "session: it was closed");
	*front_out = &agent->sessions[slot];
	return KVF_OK;
}

static uint32_t *live_head(kvf_agent *agent, uint64_t instance_id, uint64_t request_id, uint32_t attempt)
{
	uint64_t hash = kvfi_hash_u64(kvfi_hash_u64(instance_id, request_id), attempt);

	return &agent->live_heads[(uint32_t)hash & agent->live_mask];
}

bool kvfi_front_is_live(kvf_agent *agent, uint64_t instance_id, uint64_t request_id, uint32_t attempt)
{
	uint32_t at = *live_head(agent, instance_id, request_id, attempt);

	for (; at != KVFI_NONE; at = agent->sessions[at].next) {
		const struct front_session *front = &agent->sessions[at];

		if (front->request_id == request_id && front->attempt == attempt &&
			front->instance_id == instance_id && !front->released_polled)
			return true;
	}
	return false;
}

/* The slot and everything a session needs of the front; nothing is visible before. */
struct front_session *kvfi_front_take(
	kvf_agent *agent, enum front_kind kind, uint64_t instance_id, uint64_t request_id, uint32_t attempt)
{
	uint32_t slot = agent->free_session;
	struct front_session *front = NULL;
	uint32_t generation;
	uint32_t *head;

	if (slot == KVFI_NONE)
		return NULL;
	front = &agent->sessions[slot];
	agent->free_session = front->next;
	generation = front->generation + 1; /* odd: even ones are of free slots, and of no handle */
	memset(front, 0, sizeof(*front));
	front->generation = generation;
	atomic_store(&agent->states[slot], (uint64_t)generation << 32 | (uint32_t)KVF_STATE_INIT);
	kvfi_cancels_take(&agent->cancels, slot, generation, request_id, attempt);
	front->kind = kind;
	front->instance_id = instance_id;
	front->request_id = request_id;
	front->attempt = attempt;
	head = live_head(agent, instance_id, request_id, attempt);
	front->next = *head;
	*head = slot;
	return front;
}

static void give_kept(kvf_agent *agent, struct front_session *front)
{
	while (front->kept != NULL) {
		struct kept *next = front->kept->next;

		free(front->kept);
		front->kept = next;
	}
	agent->ids_used -= front->kept_ids;
	agent->slices_used -= front->kept_slices;
	agent->links_used -= front->n_links;
}

void kvfi_front_give(kvf_agent *agent, struct front_session *front)
{
	uint32_t slot = (uint32_t)(front - agent->sessions);
	uint32_t *at = live_head(agent, front->instance_id, front->request_id, front->attempt);

	while (*at != slot)
		at = &agent->sessions[*at].next;
	*at = front->next;
	give_kept(agent, front);
	front->generation++;
	atomic_store(&agent->states[slot], (uint64_t)front->generation << 32);
	kvfi_cancels_give(&agent->cancels, slot, front->generation, front->released_polled);
	front->kind = FRONT_FREE;
	front->next = agent->free_session;
	agent->free_session = slot;
}

void kvfi_front_drop_all(kvf_agent *agent)
{
	for (uint32_t i = 0; agent->sessions != NULL && i < agent->options.max_sessions; i++)
		if (agent->sessions[i].kind != FRONT_FREE)
			give_kept(agent, &agent->sessions[i]);
}

/* ---- checks ---- */

enum kvf_status kvfi_front_role(const kvf_agent *agent, enum kvf_role role)
{
	if (agent == NULL)
		return kvfi_fail(KVF_EINVAL, "agent must not be NULL");
	if (!agent->declared)
		return kvfi_fail(KVF_EINVAL, "the agent has not declared who it is (kvf_declare)");
	if (agent->instance->role != role)
		return kvfi_fail(KVF_EINVAL, "role: this agent is declared as %s",
			role == KVF_PREFILL ? "decode" : "prefill");
	return KVF_OK;
}

enum kvf_status kvfi_front_prompt(uint64_t prompt_len)
{
	if (prompt_len == 0 || prompt_len > KVF_MAX_TOKENS)
		return kvfi_fail(KVF_EINVAL, "prompt_len: %llu is not in 1..%llu",
			(unsigned long long)prompt_len, (unsigned long long)KVF_MAX_TOKENS);
	return KVF_OK;
}

/* The user's lists by group: no group twice, none unknown, in the room there is. */
enum kvf_status kvfi_front_sort_lists(const kvf_agent *agent, uint32_t n_lists,
	const struct kvf_blocks *lists, struct kvfi_ids *sorted, uint64_t *n_ids_out)
{
	uint64_t n_ids = 0;
	bool seen[KVF_MAX_GROUPS] = {false};

	memset(sorted, 0, KVF_MAX_GROUPS * sizeof(*sorted));
	if (n_lists > KVF_MAX_GROUPS || (n_lists > 0 && lists == NULL))
		return kvfi_fail(KVF_EINVAL, "lists: %u lists at %p", n_lists, (const void *)lists);
	for (uint32_t i = 0; i < n_lists; i++) {
		uint32_t group = lists[i].group;

		if (group >= agent->layout->n_groups)
			return kvfi_fail(KVF_EINVAL, "lists[%u]: group: %u, the layout has %u groups", i,
				group, agent->layout->n_groups);
		if (seen[group])
			return kvfi_fail(KVF_EINVAL, "lists[%u]: group: %u is named twice", i, group);
		if (lists[i].n > 0 && lists[i].ids == NULL)
			return kvfi_fail(KVF_EINVAL, "lists[%u]: ids is NULL", i);
		seen[group] = true;
		sorted[group] = (struct kvfi_ids){lists[i].ids, lists[i].n};
		n_ids += lists[i].n;
	}
	if (n_ids > agent->options.max_block_ids - agent->ids_used)
		return kvfi_fail(KVF_EFULL, "max_block_ids: %llu are asked for, %llu of %llu are in use",
			(unsigned long long)n_ids, (unsigned long long)agent->ids_used,
			(unsigned long long)agent->options.max_block_ids);
	*n_ids_out = n_ids;
	return KVF_OK;
}

enum kvf_status kvfi_front_check_lists(
	const kvf_agent *agent, const struct kvfi_shape *shape, const struct kvfi_ids *lists)
{
	return kvfi_check_lists(
		agent->layout, shape, lists, agent->instance->cp, agent->instance->ranks[agent->rank].cp);
}

/* A copy of lists, behind a header; lists then point into it. */
struct front_slice *kvfi_front_keep_lists(struct kvfi_ids *lists, uint64_t n_ids)
{
	struct front_slice *kept = malloc(sizeof(*kept) + n_ids * sizeof(int32_t));
	int32_t *at;

	if (kept == NULL) {
		(void)kvfi_fail(KVF_ENOMEM, "no memory for %llu block ids", (unsigned long long)n_ids);
		return NULL;
	}
	memset(kept, 0, sizeof(*kept));
	kept->kept.n_ids = n_ids;
	at = kept->ids;
	for (uint32_t g = 0; g < KVF_MAX_GROUPS; g++) {
		if (lists[g].n > 0)
			memcpy(at, lists[g].ids, lists[g].n * sizeof(int32_t));
		lists[g].ids = at;
		at += lists[g].n;
	}
	return kept;
}

void kvfi_front_add_kept(
	kvf_agent *agent, struct front_session *front, struct front_slice *kept, uint32_t n_slices)
{
	kept->kept.next = front->kept;
	front->kept = &kept->kept;
	front->kept_ids += kept->kept.n_ids;
	front->kept_slices += n_slices;
	agent->ids_used += kept->kept.n_ids;
	agent->slices_used += n_slices;
}

enum kvf_status kvfi_front_inbox_full(void)
{
	return kvfi_fail(KVF_EFULL, "the agent's inbox is full: its progress is behind");
}
