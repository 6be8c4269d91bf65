/* hold_calls.c - kvf_hold, kvf_hold_drop.
 *
 * Front. The table of what is held stands here too, so that a full one is told at the call and a drop needs no answer of the owner. An entry ends
 * with its ticket, with the drop, and with the session that receives the request; the core ends its own then as well.
 */
#include "agent/agent.h"

#include "base/clock.h"
#include "base/status.h"

static struct front_hold *find(kvf_agent *agent, const struct kvf_ticket_info *info)
{
	for (uint32_t i = 0; i < agent->n_holds; i++) {
		struct front_hold *hold = &agent->holds[i];

		if (hold->request_id == info->request_id && hold->attempt == info->attempt &&
			hold->instance_id == info->instance_id)
			return hold;
	}
	return NULL;
}

static void forget(kvf_agent *agent, struct front_hold *hold)
{
	*hold = agent->holds[--agent->n_holds];
}

static void forget_expired(kvf_agent *agent)
{
	uint64_t now_ns = kvfi_clock_ns();

	for (uint32_t i = agent->n_holds; i-- > 0;)
		if (agent->holds[i].expires_ns <= now_ns)
			forget(agent, &agent->holds[i]);
}

void kvfi_hold_end(kvf_agent *agent, const struct kvf_ticket_info *info)
{
	struct front_hold *hold = find(agent, info);

	if (hold != NULL)
		forget(agent, hold);
}

static enum kvf_status check(kvf_agent *agent, const void *ticket, size_t ticket_bytes,
	struct kvf_ticket_info *info_out, uint64_t *life_ns_out)
{
	enum kvf_status status = kvfi_front_role(agent, KVF_DECODE);

	if (status == KVF_OK && ticket == NULL)
		return kvfi_fail(KVF_EINVAL, "ticket must not be NULL");
	if (status == KVF_OK)
		status = kvfi_ticket_read_live(ticket, ticket_bytes, info_out, life_ns_out);
	if (status == KVF_OK)
		forget_expired(agent);
	return status;
}

enum kvf_status kvf_hold(kvf_agent *agent, const void *ticket, size_t ticket_bytes)
{
	struct item_input input = {.kind = KVFI_IN_HOLD};
	struct kvf_ticket_info info;
	struct front_hold *hold;
	uint64_t life_ns;
	enum kvf_status status = check(agent, ticket, ticket_bytes, &info, &life_ns);

	if (status != KVF_OK)
		return status;
	hold = find(agent, &info);
	if (hold == NULL && agent->n_holds == agent->options.max_sessions)
		return kvfi_fail(KVF_EFULL, "max_sessions: %u tickets are held already", agent->n_holds);
	input.u.hold = (struct kvfi_in_hold){.instance_id = info.instance_id,
		.request_id = info.request_id,
		.attempt = info.attempt,
		.dp_index = info.dp_index,
		.expires_ns = life_ns};
	status = kvfi_ticket_connect(agent, ticket, ticket_bytes, &input);
	if (status != KVF_OK)
		return status;
	if (hold == NULL)
		hold = &agent->holds[agent->n_holds++];
	*hold = (struct front_hold){
		info.instance_id, info.request_id, kvfi_clock_ns() + life_ns, info.attempt};
	return KVF_OK;
}

enum kvf_status kvf_hold_drop(kvf_agent *agent, const void *ticket, size_t ticket_bytes)
{
	struct item_input input = {.kind = KVFI_IN_HOLD};
	enum kvf_status status = kvfi_front_role(agent, KVF_DECODE);
	struct kvf_ticket_info info;
	struct front_hold *hold;

	if (status == KVF_OK && ticket == NULL)
		return kvfi_fail(KVF_EINVAL, "ticket must not be NULL");
	if (status == KVF_OK)
		status = kvf_ticket_read(ticket, ticket_bytes, &info);
	if (status != KVF_OK)
		return status;
	forget_expired(agent);
	hold = find(agent, &info);
	if (hold == NULL)
		return kvfi_fail(KVF_ENOTFOUND, "request %llu attempt %u is not held",
			(unsigned long long)info.request_id, info.attempt);
	input.u.hold = (struct kvfi_in_hold){.instance_id = info.instance_id,
		.request_id = info.request_id,
		.attempt = info.attempt,
		.dp_index = info.dp_index};
	if (!kvfi_owner_input(agent, &input))
		return kvfi_front_inbox_full();
	forget(agent, hold);
	return KVF_OK;
}
