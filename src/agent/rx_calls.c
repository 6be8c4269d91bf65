/* rx_calls.c - the user's calls of a receiving session, and what may be asked of any session.
 *
 * Front. What is told about a session is what its last polled event said; its state alone is asked of the owner's own word.
 */
#include "agent/agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/checked.h"
#include "base/clock.h"
#include "base/status.h"

#define EXPIRY_TOLERANCE_NS (UINT64_C(60) * KVFI_NS_PER_S)

enum kvf_status kvfi_ticket_read_live(
	const void *ticket, size_t ticket_bytes, struct kvf_ticket_info *info_out, uint64_t *life_ns_out)
{
	enum kvf_status status = kvf_ticket_read(ticket, ticket_bytes, info_out);
	uint64_t now_ns = kvfi_unix_ns(), end_ns;

	if (status != KVF_OK)
		return status;
	if (info_out->expires_unix_ns == 0) {
		*life_ns_out = KVFI_DEFAULT_EXPIRY_NS;
		return KVF_OK;
	}
	if (kvfi_add_overflows(info_out->expires_unix_ns, EXPIRY_TOLERANCE_NS, &end_ns))
		end_ns = UINT64_MAX;
	if (end_ns <= now_ns)
		return kvfi_fail(KVF_ETICKET, "ticket: it expired %llu s ago",
			(unsigned long long)((now_ns - info_out->expires_unix_ns) / KVFI_NS_PER_S));
	*life_ns_out = end_ns - now_ns;
	return KVF_OK;
}

/* The ticket, or the fields beside it. */
static enum kvf_status read_identity(const struct kvf_rx_params *params, struct kvf_ticket_info *info_out)
{
	uint64_t life_ns;

	if (params->ticket == NULL) {
		*info_out = (struct kvf_ticket_info){.instance_id = params->instance_id,
			.request_id = params->request_id,
			.attempt = params->attempt,
			.dp_index = params->dp_index,
			.prompt_len = params->prompt_len};
		return KVF_OK;
	}
	return kvfi_ticket_read_live(params->ticket, params->ticket_bytes, info_out, &life_ns);
}

static enum kvf_status check_rx(kvf_agent *agent, const struct kvf_rx_params *params,
	const struct kvf_ticket_info *info, struct kvfi_ids *lists, uint64_t *n_ids_out)
{
	struct kvfi_shape shape = {
		.prompt_len = info->prompt_len, .token_end = info->prompt_len, .first = true, .last = true};
	enum kvf_status status = kvfi_front_prompt(info->prompt_len);

	if (status != KVF_OK)
		return status;
	if (params->aux_slot != KVF_NO_AUX && params->aux_slot >= agent->layout->n_aux)
		return kvfi_fail(KVF_EINVAL, "aux_slot: %u, the layout has %u", params->aux_slot,
			agent->layout->n_aux);
	if (params->replica != KVF_REPLICA_ELECT && params->replica != KVF_REPLICA_STRIPE)
		return kvfi_fail(KVF_EINVAL, "replica: %d is neither elect nor stripe", (int)params->replica);
	status = kvfi_front_sort_lists(agent, params->n_lists, params->lists, lists, n_ids_out);
	if (status == KVF_OK)
		status = kvfi_front_check_lists(agent, &shape, lists);
	if (status == KVF_OK && kvfi_front_is_live(agent, info->instance_id, info->request_id, info->attempt))
		return kvfi_fail(KVF_DUPLICATE, "request %llu attempt %u is being received already",
			(unsigned long long)info->request_id, info->attempt);
	return status;
}

/* A request to an instance that nobody knows yet is judged when it is known: then its OUTCOME says so. */
static enum kvf_status check_links(
	const kvf_agent *agent, const struct kvf_ticket_info *info, uint32_t *n_links_out)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < agent->options.max_peers && n == 0; i++)
		if (info->instance_id != 0 && atomic_load(&agent->known[i].id) == info->instance_id)
			n = info->dp_index == KVF_DP_UNKNOWN ? atomic_load(&agent->known[i].links_unknown_dp)
			                                     : atomic_load(&agent->known[i].links);
	if (n > agent->options.max_links - agent->links_used)
		return kvfi_fail(KVF_EFULL, "max_links: %u are asked for, %u of %u are in use", n,
			agent->links_used, agent->options.max_links);
	*n_links_out = n;
	return KVF_OK;
}

enum kvf_status kvf_rx_open(kvf_agent *agent, const struct kvf_rx_params *params, kvf_session *session_out)
{
	struct item_input input = {.kind = KVFI_IN_RX_OPEN};
	enum kvf_status status = kvfi_front_role(agent, KVF_DECODE);
	struct kvfi_ids lists[KVF_MAX_GROUPS];
	struct kvf_ticket_info info;
	struct front_session *front = NULL;
	struct front_slice *kept;
	uint64_t n_ids = 0;
	uint32_t n_links = 0;

	if (status != KVF_OK)
		return status;
	if (params == NULL || session_out == NULL)
		return kvfi_fail(
			KVF_EINVAL, "%s must not be NULL", params == NULL ? "params" : "session_out");
	status = read_identity(params, &info);
	if (status == KVF_OK)
		status = check_rx(agent, params, &info, lists, &n_ids);
	if (status == KVF_OK)
		status = check_links(agent, &info, &n_links);
	if (status != KVF_OK)
		return status;
	kept = kvfi_front_keep_lists(lists, n_ids);
	if (kept == NULL)
		return KVF_ENOMEM;
	front = kvfi_front_take(agent, FRONT_RX, info.instance_id, info.request_id, info.attempt);
	if (front == NULL) {
		free(kept);
		return kvfi_fail(KVF_EFULL, "max_sessions: all %u are in use", agent->options.max_sessions);
	}
	kvfi_front_add_kept(agent, front, kept, 0);
	front->n_links = n_links;
	agent->links_used += n_links;
	front->prompt_len = info.prompt_len;
	front->rx = (struct kvfi_in_rx_open){.instance_id = info.instance_id,
		.request_id = info.request_id,
		.attempt = info.attempt,
		.dp_index = info.dp_index,
		.prompt_len = info.prompt_len,
		.aux_slot = params->aux_slot,
		.replica = params->replica};
	memcpy(front->rx.lists, lists, sizeof(lists));
	input.session = (uint32_t)(front - agent->sessions);
	input.u.rx_open = &front->rx;
	(void)atomic_fetch_add(&agent->unreleased, 1);
	if (params->ticket != NULL)
		status = kvfi_ticket_connect(agent, params->ticket, params->ticket_bytes, &input);
	else if (!kvfi_owner_input(agent, &input))
		status = kvfi_front_inbox_full();
	if (status != KVF_OK) {
		(void)atomic_fetch_sub(&agent->unreleased, 1);
		kvfi_front_give(agent, front);
		return status;
	}
	kvfi_hold_end(agent, &info);
	*session_out = kvfi_front_handle(agent, input.session);
	return KVF_OK;
}

/* ---- asking about a session ---- */

enum kvf_status kvf_session_state(kvf_agent *agent, kvf_session session, enum kvf_session_state *state_out)
{
	uint32_t slot = (uint32_t)session.bits - 1;
	uint64_t word;

	if (agent == NULL || state_out == NULL || (uint32_t)session.bits == 0 ||
		slot >= agent->options.max_sessions)
		return kvfi_fail(KVF_EINVAL, "agent, session and state_out must be valid");
	word = atomic_load(&agent->states[slot]);
	if (word >> 32 != session.bits >> 32 || (word >> 32) % 2 == 0)
		return kvfi_fail(KVF_ESTALE, "session: it was closed");
	*state_out = (enum kvf_session_state)(int32_t)(uint32_t)word;
	return KVF_OK;
}

enum kvf_status kvf_session_stats(kvf_agent *agent, kvf_session session, struct kvf_session_stats *stats_out)
{
	struct front_session *front = NULL;
	enum kvf_status status = kvfi_front_find(agent, session, &front);

	if (status == KVF_OK && stats_out == NULL)
		return kvfi_fail(KVF_EINVAL, "stats_out must not be NULL");
	if (status == KVF_OK)
		*stats_out = front->stats;
	return status;
}

enum kvf_status kvf_session_error(kvf_agent *agent, kvf_session session, char *buffer, size_t len_bytes)
{
	struct front_session *front = NULL;
	enum kvf_status status = kvfi_front_find(agent, session, &front);

	if (status == KVF_OK && (buffer == NULL || len_bytes == 0))
		return kvfi_fail(KVF_EINVAL, "buffer: %zu bytes at %p", len_bytes, (void *)buffer);
	if (status == KVF_OK)
		(void)snprintf(buffer, len_bytes, "%s", front->error);
	return status;
}

/* A list is the suffix of the blocks that hold the prompt on this rank; a block is good when the tokens up to its end are complete from every peer. */
static bool block_is_good(
	const kvf_agent *agent, const struct front_session *front, uint32_t group, uint32_t index)
{
	const struct kvf_group *layout = &agent->layout->groups[group];
	uint64_t good_end = front->good_end[group];
	uint64_t total, block_end;

	if (front->outcome == KVF_OK || good_end == KVFI_NEVER)
		return true;
	if (layout->kind == KVF_STATE)
		return good_end > 0;
	total = kvfi_div_up(front->prompt_len, layout->tokens_per_block);
	if (agent->instance->cp > 1) /* every cp-th block, counted by itself */
		total = kvfi_div_up(total - kvfi_min_u64(total, agent->instance->ranks[agent->rank].cp),
			agent->instance->cp);
	block_end = (total - front->rx.lists[group].n + index + 1) * layout->tokens_per_block;
	/* The last block may reach past what the other side's blocks hold of the prompt. */
	return (agent->instance->cp == 1 ? kvfi_min_u64(block_end, front->prompt_len) : block_end) <=
	       good_end;
}

enum kvf_status kvf_session_bad_blocks(
	kvf_agent *agent, kvf_session session, uint32_t group, int32_t *ids, uint32_t max, uint32_t *n_out)
{
	struct front_session *front = NULL;
	enum kvf_status status = kvfi_front_find(agent, session, &front);
	uint32_t n = 0;

	if (status != KVF_OK)
		return status;
	if (front->kind != FRONT_RX || group >= agent->layout->n_groups || n_out == NULL ||
		(max > 0 && ids == NULL))
		return kvfi_fail(KVF_EINVAL,
			"session must receive, group be below %u, ids and n_out not NULL",
			agent->layout->n_groups);
	if (!front->outcome_polled)
		return kvfi_fail(KVF_EAGAIN, "the session has no outcome yet");
	for (uint32_t i = 0; i < front->rx.lists[group].n; i++) {
		if (front->rx.lists[group].ids[i] < 0 || block_is_good(agent, front, group, i))
			continue;
		if (n < max)
			ids[n] = front->rx.lists[group].ids[i];
		n++;
	}
	*n_out = n;
	return KVF_OK;
}

enum kvf_status kvf_session_close(kvf_agent *agent, kvf_session session)
{
	struct item_input input = {.kind = KVFI_IN_SESSION_CLOSE};
	struct front_session *front = NULL;
	enum kvf_status status = kvfi_front_find(agent, session, &front);

	if (status != KVF_OK)
		return status;
	if (!front->released_polled)
		return kvfi_fail(KVF_EBUSY, "session: its RELEASED was not polled yet");
	input.session = (uint32_t)(front - agent->sessions);
	if (!kvfi_owner_input(agent, &input))
		return kvfi_front_inbox_full();
	kvfi_front_give(agent, front);
	return KVF_OK;
}
