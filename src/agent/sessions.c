/* sessions.c - the user's calls about sessions.
 *
 * Front. A call is checked completely before anything changes: lists against the own layout, tiling of slices, room in every table. What the user gave is
 * copied and kept until the session is closed, so the core may point into it. Then the owner is told; from there on the story is told by events.
 */
#include "agent/agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/list.h"
#include "base/status.h"
#include "wire/codec.h"

#define DEFAULT_EXPIRY_NS   (UINT64_C(600) * KVFI_NS_PER_S)
#define EXPIRY_TOLERANCE_NS (UINT64_C(60) * KVFI_NS_PER_S)

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

static bool is_live(kvf_agent *agent, uint64_t instance_id, uint64_t request_id, uint32_t attempt)
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
static struct front_session *take_slot(
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
}

static void give_slot(kvf_agent *agent, struct front_session *front)
{
	uint32_t slot = (uint32_t)(front - agent->sessions);
	uint32_t *at = live_head(agent, front->instance_id, front->request_id, front->attempt);

	while (*at != slot)
		at = &agent->sessions[*at].next;
	*at = front->next;
	give_kept(agent, front);
	front->generation++;
	atomic_store(&agent->states[slot], (uint64_t)front->generation << 32);
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

static enum kvf_status check_role(const kvf_agent *agent, enum kvf_role role)
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

static enum kvf_status check_prompt(uint64_t prompt_len)
{
	if (prompt_len == 0 || prompt_len > KVF_MAX_TOKENS)
		return kvfi_fail(KVF_EINVAL, "prompt_len: %llu is not in 1..%llu",
			(unsigned long long)prompt_len, (unsigned long long)KVF_MAX_TOKENS);
	return KVF_OK;
}

/* The user's lists by group: no group twice, none unknown, in the room there is. */
static enum kvf_status sort_lists(const kvf_agent *agent, uint32_t n_lists, const struct kvf_blocks *lists,
	struct kvfi_ids *sorted, uint64_t *n_ids_out)
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

static enum kvf_status check_lists(
	const kvf_agent *agent, const struct kvfi_shape *shape, const struct kvfi_ids *lists)
{
	return kvfi_check_lists(
		agent->layout, shape, lists, agent->instance->cp, agent->instance->ranks[agent->rank].cp);
}

/* A copy of lists, behind a header; lists then point into it. */
static struct front_slice *keep_lists(struct kvfi_ids *lists, uint64_t n_ids)
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

static void add_kept(
	kvf_agent *agent, struct front_session *front, struct front_slice *kept, uint32_t n_slices)
{
	kept->kept.next = front->kept;
	front->kept = &kept->kept;
	front->kept_ids += kept->kept.n_ids;
	front->kept_slices += n_slices;
	agent->ids_used += kept->kept.n_ids;
	agent->slices_used += n_slices;
}

static enum kvf_status inbox_full(void)
{
	return kvfi_fail(KVF_EFULL, "the agent's inbox is full: its progress is behind");
}

/* ---- tx ---- */

enum kvf_status kvf_tx_open(kvf_agent *agent, const struct kvf_tx_params *params, kvf_session *session_out)
{
	enum kvf_status status = check_role(agent, KVF_PREFILL);
	struct item_input input = {.kind = KVFI_IN_TX_OPEN};
	struct front_session *front = NULL;

	if (status != KVF_OK)
		return status;
	if (params == NULL || session_out == NULL)
		return kvfi_fail(
			KVF_EINVAL, "%s must not be NULL", params == NULL ? "params" : "session_out");
	status = check_prompt(params->prompt_len);
	if (status != KVF_OK)
		return status;
	if (params->dp_index != kvfi_rank_dp(agent->instance, agent->rank))
		return kvfi_fail(KVF_EINVAL, "dp_index: %u, this rank is of group %u", params->dp_index,
			kvfi_rank_dp(agent->instance, agent->rank));
	if (is_live(agent, agent->instance->id, params->request_id, params->attempt))
		return kvfi_fail(KVF_DUPLICATE, "request %llu attempt %u is being sent already",
			(unsigned long long)params->request_id, params->attempt);
	front = take_slot(agent, FRONT_TX, agent->instance->id, params->request_id, params->attempt);
	if (front == NULL)
		return kvfi_fail(KVF_EFULL, "max_sessions: all %u are in use", agent->options.max_sessions);
	front->prompt_len = params->prompt_len;
	input.session = (uint32_t)(front - agent->sessions);
	input.u.tx_open = (struct kvfi_in_tx_open){.request_id = params->request_id,
		.attempt = params->attempt,
		.prompt_len = params->prompt_len,
		.expires_ns = params->expires_ns != 0 ? params->expires_ns : DEFAULT_EXPIRY_NS};
	(void)atomic_fetch_add(&agent->unreleased, 1);
	if (!kvfi_owner_input(agent, &input)) {
		(void)atomic_fetch_sub(&agent->unreleased, 1);
		give_slot(agent, front);
		return inbox_full();
	}
	*session_out = kvfi_front_handle(agent, input.session);
	return KVF_OK;
}

/* Does any layer that this rank holds lie in [start, end)? */
static bool holds_layer(const kvf_agent *agent, uint32_t start, uint32_t end)
{
	for (uint32_t g = 0; g < agent->layout->n_groups; g++)
		for (uint32_t i = 0; i < agent->layout->groups[g].n_layers; i++)
			if (agent->layout->groups[g].layers[i] >= start &&
				agent->layout->groups[g].layers[i] < end)
				return true;
	return false;
}

/* Slices tile the tokens, and inside one token range the layers. Fills what the session's tile is after this slice. */
static enum kvf_status check_tiling(const kvf_agent *agent, const struct front_session *front,
	const struct kvf_slice *slice, struct front_session *after)
{
	uint32_t layer_end = slice->layer_end == 0 ? UINT32_MAX : slice->layer_end;
	bool tile_open = front->any_slice && holds_layer(agent, front->tile_layer_end, UINT32_MAX);
	bool done;

	if (slice->layer_end != 0 && slice->layer_start >= slice->layer_end)
		return kvfi_fail(
			KVF_EINVAL, "slice: layers [%u, %u) are empty", slice->layer_start, slice->layer_end);
	if (slice->token_start >= slice->token_end || slice->token_end > front->prompt_len)
		return kvfi_fail(KVF_EINVAL, "slice: tokens [%llu, %llu) are not inside the prompt of %llu",
			(unsigned long long)slice->token_start, (unsigned long long)slice->token_end,
			(unsigned long long)front->prompt_len);
	after->tile_start = slice->token_start;
	after->tile_end = slice->token_end;
	after->tile_layer_end = layer_end;
	if (tile_open) {
		if (slice->token_start != front->tile_start || slice->token_end != front->tile_end)
			return kvfi_fail(KVF_EINVAL,
				"slice: tokens [%llu, %llu) begin before the layers of [%llu, %llu) are all "
				"sent",
				(unsigned long long)slice->token_start, (unsigned long long)slice->token_end,
				(unsigned long long)front->tile_start, (unsigned long long)front->tile_end);
		if (slice->layer_start < front->tile_layer_end ||
			holds_layer(agent, front->tile_layer_end, slice->layer_start))
			return kvfi_fail(KVF_EINVAL,
				"slice: layers: the next one is %u, the slice begins with %u",
				front->tile_layer_end, slice->layer_start);
	} else {
		if (front->any_slice && slice->token_start != front->tile_end)
			return kvfi_fail(KVF_EINVAL,
				"slice: token_start: the next one is %llu, the slice begins with %llu",
				(unsigned long long)front->tile_end, (unsigned long long)slice->token_start);
		if (holds_layer(agent, 0, slice->layer_start))
			return kvfi_fail(KVF_EINVAL,
				"slice: layers: the slice begins with %u and leaves earlier ones out",
				slice->layer_start);
	}
	done = slice->token_end == front->prompt_len && !holds_layer(agent, layer_end, UINT32_MAX);
	if ((slice->last != 0) != done)
		return kvfi_fail(KVF_EINVAL, "slice: last: it is %u, and tokens end at %llu of %llu%s",
			slice->last, (unsigned long long)slice->token_end,
			(unsigned long long)front->prompt_len,
			slice->token_end == front->prompt_len && !done ? " with layers left" : "");
	return KVF_OK;
}

static enum kvf_status check_slice(kvf_agent *agent, kvf_session session, const struct kvf_slice *slice,
	struct front_session **front_out)
{
	enum kvf_status status = check_role(agent, KVF_PREFILL);
	struct front_session *front = NULL;

	if (status == KVF_OK)
		status = kvfi_front_find(agent, session, &front);
	if (status != KVF_OK)
		return status;
	if (slice == NULL)
		return kvfi_fail(KVF_EINVAL, "slice must not be NULL");
	if (front->outcome_polled)
		return kvfi_fail(front->outcome == KVF_OK ? KVF_EINVAL : front->outcome,
			"the session has ended: %s", front->outcome == KVF_OK ? "completed" : front->error);
	if (front->last_given)
		return kvfi_fail(KVF_EINVAL, "slice: the last one was sent already");
	if (agent->slices_used >= agent->options.max_slices)
		return kvfi_fail(KVF_EFULL, "max_slices: all %u are in use", agent->options.max_slices);
	*front_out = front;
	return KVF_OK;
}

enum kvf_status kvf_tx_send(
	kvf_agent *agent, kvf_session session, const struct kvf_slice *slice, uint32_t *slice_out)
{
	struct front_session *front = NULL, after = {.kind = FRONT_FREE};
	struct item_input input = {.kind = KVFI_IN_TX_SEND};
	struct kvfi_ids lists[KVF_MAX_GROUPS];
	enum kvf_status status = check_slice(agent, session, slice, &front);
	struct kvfi_shape shape;
	struct front_slice *kept;
	uint64_t n_ids = 0;

	if (status == KVF_OK)
		status = check_tiling(agent, front, slice, &after);
	if (status == KVF_OK)
		status = sort_lists(agent, slice->n_lists, slice->lists, lists, &n_ids);
	if (status != KVF_OK)
		return status;
	shape = (struct kvfi_shape){.prompt_len = front->prompt_len,
		.token_start = slice->token_start,
		.token_end = slice->token_end,
		.layer_start = slice->layer_start,
		.layer_end = slice->layer_end,
		.first = !front->any_slice || front->first_tile_end == slice->token_end,
		.last = slice->token_end == front->prompt_len};
	status = check_lists(agent, &shape, lists);
	if (status != KVF_OK)
		return status;
	kept = keep_lists(lists, n_ids);
	if (kept == NULL)
		return KVF_ENOMEM;
	kept->slice.shape = shape;
	kept->slice.last = slice->last != 0;
	kept->slice.number = front->n_slices;
	memcpy(kept->slice.lists, lists, sizeof(lists));
	input.session = (uint32_t)(front - agent->sessions);
	input.u.slice = &kept->slice;
	if (!kvfi_owner_input(agent, &input)) {
		free(kept);
		return inbox_full();
	}
	add_kept(agent, front, kept, 1);
	if (!front->any_slice)
		front->first_tile_end = slice->token_end;
	front->any_slice = true;
	front->last_given = slice->last != 0;
	front->tile_start = after.tile_start;
	front->tile_end = after.tile_end;
	front->tile_layer_end = after.tile_layer_end;
	if (slice_out != NULL)
		*slice_out = front->n_slices;
	front->n_slices++;
	return KVF_OK;
}

enum kvf_status kvf_tx_send_aux(kvf_agent *agent, kvf_session session, const void *data, uint32_t len_bytes)
{
	struct item_input input = {.kind = KVFI_IN_TX_AUX};
	struct front_session *front = NULL;
	enum kvf_status status = check_role(agent, KVF_PREFILL);
	struct kept *kept;

	if (status == KVF_OK)
		status = kvfi_front_find(agent, session, &front);
	if (status != KVF_OK)
		return status;
	if (len_bytes > KVF_MAX_AUX_BYTES || (len_bytes > 0 && data == NULL))
		return kvfi_fail(
			KVF_EINVAL, "aux: %u bytes at %p; at most %u", len_bytes, data, KVF_MAX_AUX_BYTES);
	if (front->kind != FRONT_TX || front->aux_given)
		return kvfi_fail(KVF_EINVAL, "aux: it was given already");
	kept = calloc(1, sizeof(*kept) + len_bytes);
	if (kept == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for %u bytes of aux", len_bytes);
	if (len_bytes > 0)
		memcpy(kept + 1, data, len_bytes);
	input.session = (uint32_t)(front - agent->sessions);
	input.u.aux = (struct kvfi_in_aux){.data = (const unsigned char *)(kept + 1), .len_bytes = len_bytes};
	if (!kvfi_owner_input(agent, &input)) {
		free(kept);
		return inbox_full();
	}
	kept->next = front->kept;
	front->kept = kept;
	front->aux_given = true;
	return KVF_OK;
}

/* ---- rx ---- */

/* The ticket, or the fields beside it. */
static enum kvf_status read_identity(const struct kvf_rx_params *params, struct kvf_ticket_info *info_out)
{
	enum kvf_status status;

	if (params->ticket == NULL) {
		*info_out = (struct kvf_ticket_info){.instance_id = params->instance_id,
			.request_id = params->request_id,
			.attempt = params->attempt,
			.dp_index = params->dp_index,
			.prompt_len = params->prompt_len};
		return KVF_OK;
	}
	status = kvf_ticket_read(params->ticket, params->ticket_bytes, info_out);
	if (status != KVF_OK)
		return status;
	if (info_out->expires_unix_ns != 0 &&
		info_out->expires_unix_ns + EXPIRY_TOLERANCE_NS < kvfi_unix_ns())
		return kvfi_fail(KVF_ETICKET, "ticket: it expired %llu s ago",
			(unsigned long long)((kvfi_unix_ns() - info_out->expires_unix_ns) / KVFI_NS_PER_S));
	return KVF_OK;
}

static enum kvf_status check_rx(kvf_agent *agent, const struct kvf_rx_params *params,
	const struct kvf_ticket_info *info, struct kvfi_ids *lists, uint64_t *n_ids_out)
{
	struct kvfi_shape shape = {
		.prompt_len = info->prompt_len, .token_end = info->prompt_len, .first = true, .last = true};
	enum kvf_status status = check_prompt(info->prompt_len);

	if (status != KVF_OK)
		return status;
	if (params->aux_slot != KVF_NO_AUX && params->aux_slot >= agent->layout->n_aux)
		return kvfi_fail(KVF_EINVAL, "aux_slot: %u, the layout has %u", params->aux_slot,
			agent->layout->n_aux);
	if (params->replica != KVF_REPLICA_ELECT && params->replica != KVF_REPLICA_STRIPE)
		return kvfi_fail(KVF_EINVAL, "replica: %d is neither elect nor stripe", (int)params->replica);
	status = sort_lists(agent, params->n_lists, params->lists, lists, n_ids_out);
	if (status == KVF_OK)
		status = check_lists(agent, &shape, lists);
	if (status == KVF_OK && is_live(agent, info->instance_id, info->request_id, info->attempt))
		return kvfi_fail(KVF_DUPLICATE, "request %llu attempt %u is being received already",
			(unsigned long long)info->request_id, info->attempt);
	return status;
}

enum kvf_status kvf_rx_open(kvf_agent *agent, const struct kvf_rx_params *params, kvf_session *session_out)
{
	struct item_input input = {.kind = KVFI_IN_RX_OPEN};
	enum kvf_status status = check_role(agent, KVF_DECODE);
	struct kvfi_ids lists[KVF_MAX_GROUPS];
	struct kvf_ticket_info info;
	struct front_session *front = NULL;
	struct front_slice *kept;
	uint64_t n_ids = 0;

	if (status != KVF_OK)
		return status;
	if (params == NULL || session_out == NULL)
		return kvfi_fail(
			KVF_EINVAL, "%s must not be NULL", params == NULL ? "params" : "session_out");
	status = read_identity(params, &info);
	if (status == KVF_OK)
		status = check_rx(agent, params, &info, lists, &n_ids);
	if (status == KVF_OK && params->ticket != NULL)
		status = kvf_connect_ticket(agent, params->ticket, params->ticket_bytes);
	if (status != KVF_OK)
		return status;
	kept = keep_lists(lists, n_ids);
	if (kept == NULL)
		return KVF_ENOMEM;
	front = take_slot(agent, FRONT_RX, info.instance_id, info.request_id, info.attempt);
	if (front == NULL) {
		free(kept);
		return kvfi_fail(KVF_EFULL, "max_sessions: all %u are in use", agent->options.max_sessions);
	}
	add_kept(agent, front, kept, 0);
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
	if (!kvfi_owner_input(agent, &input)) {
		(void)atomic_fetch_sub(&agent->unreleased, 1);
		give_slot(agent, front);
		return inbox_full();
	}
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
		return inbox_full();
	give_slot(agent, front);
	return KVF_OK;
}
