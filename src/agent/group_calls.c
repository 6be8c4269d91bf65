/* group_calls.c - the user's calls about groups.
 *
 * Front. A handle is a place in the agent's table and the generation of that place. A round is posted through the inbox and its end is read
 * from the group's own word, so that neither call ever waits; opening and closing are run by the owner.
 */
#include "agent/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/status.h"

/* ---- open ---- */

static enum kvf_status check_params(const kvf_agent *agent, const struct kvf_group_params *params)
{
	if (!agent->declared)
		return kvfi_fail(KVF_EINVAL, "the agent has not declared who it is (kvf_declare)");
	if (agent->listening[0] == '\0')
		return kvfi_fail(KVF_EINVAL, "options: listen: a member of a group must listen");
	if (params->n_ranks == 0 || params->n_ranks > KVF_GROUP_MAX_RANKS)
		return kvfi_fail(
			KVF_EINVAL, "n_ranks: %u is not in 1..%u", params->n_ranks, KVF_GROUP_MAX_RANKS);
	if (params->rank >= params->n_ranks)
		return kvfi_fail(
			KVF_EINVAL, "rank: %u, the group has %u members", params->rank, params->n_ranks);
	if (params->max_bytes == 0 || params->max_bytes > KVF_GROUP_MAX_BYTES)
		return kvfi_fail(
			KVF_EINVAL, "max_bytes: %u is not in 1..%u", params->max_bytes, KVF_GROUP_MAX_BYTES);
	if (params->endpoints == NULL)
		return kvfi_fail(KVF_EINVAL, "endpoints is NULL");
	for (uint32_t i = 0; i < params->n_ranks; i++) {
		const char *endpoint = params->endpoints[i];

		if (i == params->rank)
			continue;
		if (endpoint == NULL || endpoint[0] == '\0')
			return kvfi_fail(KVF_EINVAL, "endpoints[%u]: none", i);
		if (strlen(endpoint) >= KVFI_ENDPOINT_BYTES)
			return kvfi_fail(KVF_EINVAL, "endpoints[%u]: longer than %u bytes", i,
				KVFI_ENDPOINT_BYTES - 1);
	}
	return KVF_OK;
}

static struct agent_group *new_group(const kvf_agent *agent, const struct kvf_group_params *params)
{
	struct agent_group *group = calloc(1, sizeof(*group));
	unsigned char *at;

	if (group == NULL)
		return NULL;
	group->id = params->group_id;
	group->instance_id = agent->instance->id;
	group->rank = params->rank;
	group->n = params->n_ranks;
	group->max_bytes = params->max_bytes;
	group->next_ns = KVFI_NEVER;
	group->members = calloc(group->n, sizeof(*group->members));
	group->endpoints = calloc(group->n, sizeof(*group->endpoints));
	group->memory = malloc((2 * (size_t)group->n + 1) * group->max_bytes);
	if (group->members == NULL || group->endpoints == NULL || group->memory == NULL) {
		kvfi_group_free(group);
		return NULL;
	}
	at = group->memory;
	for (uint32_t i = 0; i < group->n; i++) {
		group->members[i].way = KVFI_NO_WAY;
		for (uint32_t parity = 0; parity < 2; parity++, at += group->max_bytes)
			group->members[i].bytes[parity] = at;
		if (i != group->rank)
			(void)snprintf(group->endpoints[i], KVFI_ENDPOINT_BYTES, "%s", params->endpoints[i]);
	}
	group->out = at;
	return group;
}

struct add_call {
	struct agent_group *group;
	uint32_t place;
};

static enum kvf_status run_add(kvf_agent *agent, void *arguments)
{
	struct add_call *call = arguments;

	return kvfi_group_add(agent, call->group, &call->place);
}

enum kvf_status kvf_group_open(
	kvf_agent *agent, const struct kvf_group_params *params, kvf_group_handle *group_out)
{
	struct add_call call = {NULL, 0};
	struct front_group *front = NULL;
	enum kvf_status status;

	if (agent == NULL || params == NULL || group_out == NULL)
		return kvfi_fail(KVF_EINVAL, "agent, params and group_out must not be NULL");
	status = check_params(agent, params);
	if (status != KVF_OK)
		return status;
	call.group = new_group(agent, params);
	if (call.group == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for %u members with 2 times %u bytes",
			params->n_ranks, params->max_bytes);
	status = kvfi_owner_call(agent, run_add, &call);
	if (status != KVF_OK) {
		kvfi_group_free(call.group);
		return status;
	}
	front = &agent->front_groups[call.place];
	front->generation++;
	front->group = call.group;
	group_out->bits = (uint64_t)front->generation << 32 | (call.place + 1);
	return KVF_OK;
}

/* ---- rounds ---- */

static enum kvf_status find(kvf_agent *agent, kvf_group_handle handle, struct front_group **front_out)
{
	const uint32_t place = (uint32_t)handle.bits - 1;

	if (agent == NULL)
		return kvfi_fail(KVF_EINVAL, "agent must not be NULL");
	if ((uint32_t)handle.bits == 0 || place >= KVFI_MAX_AGENT_GROUPS)
		return kvfi_fail(KVF_EINVAL, "group: %llx was never a group of this agent",
			(unsigned long long)handle.bits);
	if (agent->front_groups[place].group == NULL ||
		agent->front_groups[place].generation != handle.bits >> 32)
		return kvfi_fail(KVF_ESTALE, "group: it was closed");
	*front_out = &agent->front_groups[place];
	return KVF_OK;
}

static enum kvf_status check_post(
	const struct agent_group *group, uint64_t round, const void *bytes, uint32_t len_bytes)
{
	if (group->told != group->posted)
		return kvfi_fail(KVF_EBUSY, "round: %llu is open", (unsigned long long)group->posted);
	if (round != group->posted + 1)
		return kvfi_fail(KVF_EINVAL, "round: %llu, the next one is %llu", (unsigned long long)round,
			(unsigned long long)group->posted + 1);
	if (len_bytes > group->max_bytes)
		return kvfi_fail(KVF_EINVAL, "len_bytes: %u, max_bytes is %u", len_bytes, group->max_bytes);
	if (len_bytes > 0 && bytes == NULL)
		return kvfi_fail(KVF_EINVAL, "bytes is NULL, len_bytes is %u", len_bytes);
	return KVF_OK;
}

enum kvf_status kvf_group_post(
	kvf_agent *agent, kvf_group_handle handle, uint64_t round, const void *bytes, uint32_t len_bytes)
{
	struct item item = {.kind = ITEM_GROUP};
	struct front_group *front = NULL;
	enum kvf_status status = find(agent, handle, &front);

	if (status == KVF_OK)
		status = check_post(front->group, round, bytes, len_bytes);
	if (status != KVF_OK)
		return status;
	if (len_bytes > 0)
		memcpy(front->group->out, bytes, len_bytes);
	item.u.group.place = (uint32_t)handle.bits - 1;
	item.u.group.round = round;
	item.u.group.len_bytes = len_bytes;
	if (!kvfi_owner_tell(agent, &item))
		return kvfi_front_inbox_full();
	front->group->posted = round;
	return KVF_OK;
}

static enum kvf_status awaited(const struct agent_group *group)
{
	const uint64_t members = atomic_load(&group->awaited);

	return kvfi_fail(KVF_EAGAIN, "round %llu awaits member %d, and %d more",
		(unsigned long long)group->posted, members == 0 ? (int)group->rank : __builtin_ctzll(members),
		members == 0 ? 0 : __builtin_popcountll(members) - 1);
}

enum kvf_status kvf_group_test(kvf_agent *agent, kvf_group_handle handle, struct kvf_group_part *parts_out)
{
	struct front_group *front = NULL;
	struct agent_group *group;
	enum kvf_status status = find(agent, handle, &front);

	if (status != KVF_OK)
		return status;
	group = front->group;
	if (parts_out == NULL || group->posted == 0)
		return kvfi_fail(KVF_EINVAL,
			parts_out == NULL ? "parts_out must not be NULL" : "no round was posted yet");
	if (!agent->threaded)
		kvfi_owner_turn(agent);
	if (atomic_load(&group->completed) != group->posted) {
		status = (enum kvf_status)atomic_load(&group->failed);
		if (status != KVF_OK)
			return kvfi_fail(status, "%s", group->why);
		return awaited(group);
	}
	group->told = group->posted;
	for (uint32_t i = 0; i < group->n; i++) {
		const struct group_member *member = &group->members[i];

		parts_out[i] = (struct kvf_group_part){
			member->bytes[group->told & 1], member->len_bytes[group->told & 1]};
	}
	return KVF_OK;
}

/* ---- close ---- */

static enum kvf_status run_leave(kvf_agent *agent, void *place)
{
	kvfi_group_leave(agent, *(const uint32_t *)place);
	return KVF_OK;
}

enum kvf_status kvf_group_close(kvf_agent *agent, kvf_group_handle handle)
{
	struct front_group *front = NULL;
	uint32_t place = (uint32_t)handle.bits - 1;
	enum kvf_status status = find(agent, handle, &front);

	if (status != KVF_OK)
		return status;
	front->group = NULL; /* the owner frees it */
	return kvfi_owner_call(agent, run_leave, &place);
}
