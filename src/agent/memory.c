/* memory.c - what an agent is and has: regions, and the declaration of instance and layout.
 *
 * Front, except the functions that the owner runs for it. A region's memory is mapped before the owner hears of it and unmapped after the owner has
 * let it go. A declared layout pins its regions until the agent is closed.
 */
#include "agent/agent.h"

#include <stdlib.h>
#include <string.h>
#include "base/status.h"

/* ---- regions ---- */

static enum kvf_status region_added(kvf_agent *agent, void *index)
{
	for (uint32_t i = 0; i < agent->n_transports; i++) {
		const struct agent_transport *transport = &agent->transports[i];
		enum kvf_status status = transport->ops->region_added(transport->self, *(uint32_t *)index);

		if (status != KVF_OK)
			return kvfi_fail_prefix(status, "transport %s", transport->ops->name);
	}
	return KVF_OK;
}

static enum kvf_status region_removed(kvf_agent *agent, void *index)
{
	for (uint32_t i = 0; i < agent->n_transports; i++)
		agent->transports[i].ops->region_removed(agent->transports[i].self, *(uint32_t *)index);
	return KVF_OK;
}

static enum kvf_status tell_added(kvf_agent *agent, uint32_t index, kvf_region *region_out)
{
	enum kvf_status status = kvfi_owner_call(agent, region_added, &index);

	if (status != KVF_OK) {
		enum kvf_status ignored = kvfi_owner_call(agent, region_removed, &index);

		ignored = kvfi_regions_remove(&agent->regions, index);
		(void)ignored;
		return status;
	}
	*region_out = kvfi_region_handle(&agent->regions, index);
	return KVF_OK;
}

enum kvf_status kvf_alloc(kvf_agent *agent, uint64_t len_bytes, void **memory_out, kvf_region *region_out)
{
	enum kvf_status status;
	uint32_t index;

	if (agent == NULL || memory_out == NULL || region_out == NULL)
		return kvfi_fail(KVF_EINVAL, "agent, memory_out and region_out must not be NULL");
	status = kvfi_regions_alloc(&agent->regions, len_bytes, &index);
	if (status == KVF_OK)
		status = tell_added(agent, index, region_out);
	if (status == KVF_OK)
		*memory_out = agent->regions.table[index].memory;
	return status;
}

enum kvf_status kvf_register(kvf_agent *agent, void *memory, uint64_t len_bytes, kvf_region *region_out)
{
	enum kvf_status status;
	uint32_t index;

	if (agent == NULL || region_out == NULL)
		return kvfi_fail(KVF_EINVAL, "agent and region_out must not be NULL");
	status = kvfi_regions_register(&agent->regions, memory, len_bytes, &index);
	return status == KVF_OK ? tell_added(agent, index, region_out) : status;
}

static bool group_lies_in(const struct kvf_group *wire, uint32_t region)
{
	for (uint32_t i = 0; i < wire->n_layers * wire->n_parts; i++)
		if (wire->bases[i] >> KVFI_REGION_SHIFT == region)
			return true;
	return false;
}

static bool lists_touch(const kvf_agent *agent, const struct kvfi_ids *lists, uint32_t region)
{
	for (uint32_t g = 0; g < agent->wire_layout->n_groups; g++)
		if (lists[g].n > 0 && group_lies_in(&agent->wire_layout->groups[g], region))
			return true;
	return false;
}

static bool session_touches(const kvf_agent *agent, const struct front_session *front, uint32_t region)
{
	if (front->kind == FRONT_FREE || front->released_polled)
		return false;
	if (front->kind == FRONT_RX)
		return lists_touch(agent, front->rx.lists, region);
	for (struct kept *kept = front->kept; kept != NULL; kept = kept->next)
		if (lists_touch(agent, ((struct front_slice *)(void *)kept)->slice.lists, region))
			return true;
	return false;
}

/* A layout pins its regions for as long as the agent lives; a session in them is the nearer reason, and the one that goes away. */
static enum kvf_status check_unused(const kvf_agent *agent, uint32_t region)
{
	for (uint32_t i = 0; agent->declared && i < agent->options.max_sessions; i++) {
		const struct front_session *front = &agent->sessions[i];

		if (session_touches(agent, front, region))
			return kvfi_fail(KVF_EBUSY,
				"region: session %llx of request %llu (attempt %u) touches it and is not "
				"released",
				(unsigned long long)kvfi_front_handle(agent, i).bits,
				(unsigned long long)front->request_id, front->attempt);
	}
	if (agent->regions.table[region].users > 0)
		return kvfi_fail(KVF_EBUSY, "region: a declared layout lies in it");
	return KVF_OK;
}

static enum kvf_status remove_region(kvf_agent *agent, kvf_region region, bool allocated)
{
	enum kvf_status status;
	uint32_t index;

	if (agent == NULL)
		return kvfi_fail(KVF_EINVAL, "agent must not be NULL");
	status = kvfi_region_find(&agent->regions, region, &index);
	if (status != KVF_OK)
		return status;
	if ((agent->regions.table[index].fd >= 0) != allocated)
		return kvfi_fail(
			KVF_EINVAL, "region: it came from %s", allocated ? "kvf_register" : "kvf_alloc");
	status = check_unused(agent, index);
	if (status != KVF_OK)
		return status;
	status = kvfi_owner_call(agent, region_removed, &index);
	return status == KVF_OK ? kvfi_regions_remove(&agent->regions, index) : status;
}

enum kvf_status kvf_free(kvf_agent *agent, kvf_region region)
{
	return remove_region(agent, region, true);
}

enum kvf_status kvf_unregister(kvf_agent *agent, kvf_region region)
{
	return remove_region(agent, region, false);
}

/* ---- declaration ---- */

/* What the map says of this rank must be what the layout holds. */
static enum kvf_status check_rank(
	const struct kvf_instance *instance, uint32_t rank, const struct kvf_layout *layout)
{
	if (rank >= instance->n_ranks)
		return kvfi_fail(KVF_EINVAL, "rank: %u, the instance has %u ranks", rank, instance->n_ranks);
	if (layout->rank != rank)
		return kvfi_fail(
			KVF_EINVAL, "rank: %u is declared, the layout is of rank %u", rank, layout->rank);
	if (layout->n_groups != instance->n_groups)
		return kvfi_fail(KVF_EINVAL, "groups: the instance has %u, the layout %u", instance->n_groups,
			layout->n_groups);
	for (uint32_t i = 0; i < layout->n_aux; i++)
		if (layout->aux_bytes[i] > 0 && layout->aux_bases[i] == 0)
			return kvfi_fail(KVF_EINVAL, "aux slot %u: base is NULL", i);
	for (uint32_t g = 0; g < layout->n_groups; g++) {
		const struct kvf_rank_group *map = &instance->ranks[rank].groups[g];
		const struct kvf_group *group = &layout->groups[g];

		if (map->n_layers != group->n_layers ||
			(map->n_layers > 0 &&
				memcmp(map->layers, group->layers, map->n_layers * sizeof(uint32_t)) != 0))
			return kvfi_fail(
				KVF_EINVAL, "group %u: layers: the instance map and the layout differ", g);
		for (uint32_t p = 0; p < group->n_parts; p++)
			if (map->head_start[p] != group->parts[p].head_start ||
				map->head_count[p] != group->parts[p].head_count)
				return kvfi_fail(KVF_EINVAL,
					"group %u: part %u: heads: the instance map has [%u, +%u), the "
					"layout [%u, +%u)",
					g, p, map->head_start[p], map->head_count[p],
					group->parts[p].head_start, group->parts[p].head_count);
	}
	return KVF_OK;
}

/* Bases as (region << 48 | offset); every cell must lie in one registered region. */
static enum kvf_status to_wire(kvf_agent *agent, const struct kvf_layout *layout, struct kvf_layout *wire)
{
	uint64_t aux_at = KVFI_AUX_NOWHERE;

	for (uint32_t i = 0; i < layout->n_aux; i++) {
		((uint64_t *)(uintptr_t)wire->aux_bases)[i] = aux_at;
		aux_at += layout->aux_bytes[i];
	}
	for (uint32_t g = 0; g < layout->n_groups; g++) {
		const struct kvf_group *group = &layout->groups[g];
		uint64_t *bases = (uint64_t *)(uintptr_t)wire->groups[g].bases;

		for (uint32_t i = 0; i < group->n_layers * group->n_parts; i++) {
			uint64_t start, end, relative;
			enum kvf_status status;

			if (!kvfi_layout_extent(
				    layout, g, i / group->n_parts, i % group->n_parts, &start, &end)) {
				bases[i] = 0;
				continue;
			}
			status = kvfi_regions_to_wire(&agent->regions, start, end - start, &relative);
			if (status != KVF_OK)
				return kvfi_fail_prefix(status, "group %u, layer %u, part %u", g,
					group->layers[i / group->n_parts], i % group->n_parts);
			bases[i] = relative + (group->bases[i] - start);
		}
	}
	return KVF_OK;
}

static void pin_regions(kvf_agent *agent)
{
	for (uint32_t g = 0; g < agent->wire_layout->n_groups; g++) {
		const struct kvf_group *group = &agent->wire_layout->groups[g];

		for (uint32_t i = 0; i < group->n_layers * group->n_parts; i++)
			agent->regions.table[group->bases[i] >> KVFI_REGION_SHIFT].users++;
	}
}

static enum kvf_status tell_declared(kvf_agent *agent, void *unused)
{
	struct kvfi_input input = {.kind = KVFI_IN_SELF,
		.u.self = {.instance = agent->instance, .layout = agent->layout, .rank = agent->rank}};

	(void)unused;
	agent->declared = true;
	kvfi_owner_step(agent, &input);
	return KVF_OK;
}

static enum kvf_status copy_declaration(
	kvf_agent *agent, const struct kvf_instance *instance, uint32_t rank, const struct kvf_layout *layout)
{
	enum kvf_status status;

	agent->instance = kvfi_instance_copy(instance);
	agent->layout = kvfi_layout_copy(layout);
	agent->wire_layout = kvfi_layout_copy(layout);
	agent->rank = rank;
	if (agent->instance == NULL || agent->layout == NULL || agent->wire_layout == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for the declaration");
	status = to_wire(agent, agent->layout, agent->wire_layout);
	if (status == KVF_OK && instance->ranks[rank].endpoint[0] == '\0' && agent->options.listen != NULL)
		status = kvf_instance_set_endpoint(agent->instance, rank, agent->listening);
	return status;
}

static void drop_declaration(kvf_agent *agent)
{
	kvf_layout_free(agent->wire_layout);
	kvf_layout_free(agent->layout);
	kvf_instance_free(agent->instance);
	agent->wire_layout = agent->layout = NULL;
	agent->instance = NULL;
}

enum kvf_status kvf_declare(
	kvf_agent *agent, const struct kvf_instance *instance, uint32_t rank, const struct kvf_layout *layout)
{
	enum kvf_status status;

	if (agent == NULL || instance == NULL || layout == NULL)
		return kvfi_fail(KVF_EINVAL, "agent, instance and layout must not be NULL");
	if (agent->declared)
		return kvfi_fail(KVF_EBUSY, "the agent was declared already");
	if (instance->id == 0)
		return kvfi_fail(KVF_EINVAL, "instance: id: 0 stands for no instance");
	status = kvfi_instance_check(instance);
	if (status == KVF_OK)
		status = kvf_layout_check(layout);
	if (status == KVF_OK)
		status = check_rank(instance, rank, layout);
	if (status != KVF_OK)
		return status;
	if (instance->role == KVF_PREFILL && agent->options.listen == NULL)
		return kvfi_fail(KVF_EINVAL, "listen: a prefill agent must listen, its option is NULL");
	status = copy_declaration(agent, instance, rank, layout);
	if (status != KVF_OK) {
		drop_declaration(agent);
		return status;
	}
	pin_regions(agent);
	return kvfi_owner_call(agent, tell_declared, NULL);
}
