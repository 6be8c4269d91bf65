/* connect.c - the user's calls about peers, endpoints and tickets.
 *
 * Front; what touches peers is run by the owner while the front waits for it, which is never longer than a turn.
 */
#include "agent/agent.h"

#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "base/status.h"
#include "wire/codec.h"

enum kvf_status kvf_endpoint(kvf_agent *agent, char *buffer, size_t len_bytes)
{
	if (agent == NULL || buffer == NULL)
		return kvfi_fail(KVF_EINVAL, "agent and buffer must not be NULL");
	if (strlen(agent->listening) + 1 > len_bytes)
		return kvfi_fail(KVF_EINVAL, "buffer: %zu bytes, the endpoint needs %zu", len_bytes,
			strlen(agent->listening) + 1);
	(void)strcpy(buffer, agent->listening);
	return KVF_OK;
}

static enum kvf_status run_connect(kvf_agent *agent, void *endpoint)
{
	return kvfi_peer_call(agent, endpoint, 0, KVFI_NONE);
}

static enum kvf_status check_connects(const kvf_agent *agent)
{
	if (!agent->declared || agent->instance->role != KVF_DECODE)
		return kvfi_fail(
			KVF_EINVAL, "only a decode agent connects, once it is declared (kvf_declare)");
	return KVF_OK;
}

enum kvf_status kvf_connect(kvf_agent *agent, const char *endpoint)
{
	enum kvf_status status;

	if (agent == NULL || endpoint == NULL)
		return kvfi_fail(KVF_EINVAL, "agent and endpoint must not be NULL");
	status = check_connects(agent);
	if (status != KVF_OK)
		return status;
	if (strlen(endpoint) >= KVFI_ENDPOINT_BYTES)
		return kvfi_fail(KVF_EINVAL, "endpoint: longer than %u bytes", KVFI_ENDPOINT_BYTES - 1);
	return kvfi_owner_call(agent, run_connect, (void *)(uintptr_t)endpoint);
}

struct ticket_call {
	struct kvfi_ticket ticket;
	const struct item_input *then;
};

/* Any one of its endpoints tells where the others are. In one go with the session that needs them, so that no answer comes before it. */
static enum kvf_status run_ticket(kvf_agent *agent, void *arguments)
{
	const struct ticket_call *call = arguments;
	bool known = kvfi_peer_of_instance(agent, call->ticket.info.instance_id) != KVFI_NONE;
	bool reached = known || call->ticket.n_endpoints == 0;
	enum kvf_status status = KVF_OK;

	for (uint32_t i = 0; i < call->ticket.n_endpoints && !known; i++) {
		status = kvfi_peer_call(
			agent, call->ticket.endpoints[i], call->ticket.info.instance_id, KVFI_NONE);
		reached = reached || status == KVF_OK;
	}
	if (!reached)
		return status;
	if (call->then != NULL) {
		struct item item = {.kind = ITEM_INPUT, .u.input = *call->then};

		kvfi_owner_item(agent, &item);
	}
	return KVF_OK;
}

enum kvf_status kvfi_ticket_connect(
	kvf_agent *agent, const void *ticket, size_t ticket_bytes, const struct item_input *then)
{
	struct ticket_call call = {.then = then};
	enum kvf_status status = check_connects(agent);

	if (status == KVF_OK)
		status = kvfi_ticket_decode(ticket, ticket_bytes, &call.ticket);
	return status == KVF_OK ? kvfi_owner_call(agent, run_ticket, &call) : status;
}

enum kvf_status kvf_connect_ticket(kvf_agent *agent, const void *ticket, size_t ticket_bytes)
{
	if (agent == NULL || ticket == NULL)
		return kvfi_fail(KVF_EINVAL, "agent and ticket must not be NULL");
	return kvfi_ticket_connect(agent, ticket, ticket_bytes, NULL);
}

/* ---- tickets ---- */

static enum kvf_status check_ticket(const kvf_agent *agent, const struct kvf_tx_params *params)
{
	if (!agent->declared || agent->instance->role != KVF_PREFILL)
		return kvfi_fail(KVF_EINVAL, "only a declared prefill agent makes tickets");
	if (params->prompt_len == 0 || params->prompt_len > KVF_MAX_TOKENS)
		return kvfi_fail(KVF_EINVAL, "prompt_len: %llu is not in 1..%llu",
			(unsigned long long)params->prompt_len, (unsigned long long)KVF_MAX_TOKENS);
	if (params->dp_index != KVF_DP_UNKNOWN && params->dp_index >= agent->instance->dp)
		return kvfi_fail(KVF_EINVAL, "dp_index: %u, the instance has %u groups", params->dp_index,
			agent->instance->dp);
	return KVF_OK;
}

enum kvf_status kvf_ticket_new(
	kvf_agent *agent, const struct kvf_tx_params *params, void *ticket, size_t max_bytes, size_t *len_out)
{
	struct kvfi_ticket made;
	enum kvf_status status;
	uint64_t life_ns;

	if (agent == NULL || params == NULL || ticket == NULL || len_out == NULL)
		return kvfi_fail(KVF_EINVAL, "agent, params, ticket and len_out must not be NULL");
	status = check_ticket(agent, params);
	if (status != KVF_OK)
		return status;
	memset(&made, 0, sizeof(made));
	life_ns = params->expires_ns != 0 ? params->expires_ns : KVFI_DEFAULT_EXPIRY_NS;
	made.info = (struct kvf_ticket_info){.instance_id = agent->instance->id,
		.request_id = params->request_id,
		.attempt = params->attempt,
		.dp_index = params->dp_index,
		.prompt_len = params->prompt_len,
		.expires_unix_ns = kvfi_unix_ns() + life_ns};
	/* This rank first; any one that answers tells the rest. */
	made.endpoints[made.n_endpoints++] = agent->instance->ranks[agent->rank].endpoint;
	for (uint32_t r = 0; r < agent->instance->n_ranks && made.n_endpoints < 4; r++)
		if (r != agent->rank && agent->instance->ranks[r].endpoint[0] != '\0')
			made.endpoints[made.n_endpoints++] = agent->instance->ranks[r].endpoint;
	return kvfi_ticket_encode(&made, ticket, max_bytes, len_out);
}

/* ---- peers ---- */

struct info_call {
	kvf_peer peer;
	struct kvf_peer_info *info;
};

static enum kvf_status run_info(kvf_agent *agent, void *arguments)
{
	const struct info_call *call = arguments;
	uint32_t slot = (uint32_t)call->peer.bits - 1;
	struct kvf_peer_info *info = call->info;
	const struct agent_peer *peer;

	if ((uint32_t)call->peer.bits == 0 || slot >= agent->options.max_peers)
		return kvfi_fail(KVF_EINVAL, "peer: %llx was never a peer of this agent",
			(unsigned long long)call->peer.bits);
	peer = &agent->peers[slot];
	if (peer->state == PEER_FREE || peer->generation != call->peer.bits >> 32)
		return kvfi_fail(KVF_ESTALE, "peer: it is gone");
	memset(info, 0, sizeof(*info));
	info->incarnation = peer->incarnation;
	info->instance_id = peer->hello.instance != NULL ? peer->hello.instance->id : peer->wanted_instance;
	info->rank = peer->hello.layout != NULL ? peer->hello.layout->rank : peer->wanted_rank;
	info->status = peer->status;
	(void)snprintf(info->endpoint, sizeof(info->endpoint), "%s", peer->endpoint);
	(void)snprintf(info->reason, sizeof(info->reason), "%s", peer->reason);
	if (peer->in_core)
		(void)snprintf(info->transport, sizeof(info->transport), "%s",
			agent->transports[peer->transport].ops->name);
	return KVF_OK;
}

enum kvf_status kvf_peer_info(kvf_agent *agent, kvf_peer peer, struct kvf_peer_info *info_out)
{
	struct info_call call = {peer, info_out};

	if (agent == NULL || info_out == NULL)
		return kvfi_fail(KVF_EINVAL, "agent and info_out must not be NULL");
	return kvfi_owner_call(agent, run_info, &call);
}
