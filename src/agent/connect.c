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

#define DEFAULT_EXPIRY_NS (UINT64_C(600) * KVFI_NS_PER_S)

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

struct connect_call {
	const char *endpoint;
	uint64_t instance_id;
};

static enum kvf_status run_connect(kvf_agent *agent, void *arguments)
{
	const struct connect_call *call = arguments;

	return kvfi_peer_call(agent, call->endpoint, call->instance_id, KVFI_NONE);
}

static enum kvf_status connect_to(kvf_agent *agent, const char *endpoint, uint64_t instance_id)
{
	struct connect_call call = {endpoint, instance_id};

	if (!agent->declared || agent->instance->role != KVF_DECODE)
		return kvfi_fail(KVF_EINVAL, "only a declared decode agent connects");
	if (strlen(endpoint) >= KVFI_ENDPOINT_BYTES)
		return kvfi_fail(KVF_EINVAL, "endpoint: longer than %u bytes", KVFI_ENDPOINT_BYTES - 1);
	return kvfi_owner_call(agent, run_connect, &call);
}

enum kvf_status kvf_connect(kvf_agent *agent, const char *endpoint)
{
	if (agent == NULL || endpoint == NULL)
		return kvfi_fail(KVF_EINVAL, "agent and endpoint must not be NULL");
	return connect_to(agent, endpoint, 0);
}

enum kvf_status kvf_connect_ticket(kvf_agent *agent, const void *ticket, size_t ticket_bytes)
{
	struct kvfi_ticket read;
	enum kvf_status status;

	if (agent == NULL || ticket == NULL)
		return kvfi_fail(KVF_EINVAL, "agent and ticket must not be NULL");
	status = kvfi_ticket_decode(ticket, ticket_bytes, &read);
	for (uint32_t i = 0; i < read.n_endpoints && status == KVF_OK; i++)
		status = connect_to(agent, read.endpoints[i], read.info.instance_id);
	return status;
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
	life_ns = params->expires_ns != 0 ? params->expires_ns : DEFAULT_EXPIRY_NS;
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
