/* tx_calls.c - the user's calls of a sending session.
 *
 * Front. A call is checked completely before anything changes: the lists against the own layout, the tiling of the slices, room in every table.
 * Then the owner is told; from there on the story is told by events.
 */
#include "agent/agent.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/status.h"

enum kvf_status kvf_tx_open(kvf_agent *agent, const struct kvf_tx_params *params, kvf_session *session_out)
{
	enum kvf_status status = kvfi_front_role(agent, KVF_PREFILL);
	struct item_input input = {.kind = KVFI_IN_TX_OPEN};
	struct front_session *front = NULL;

	if (status != KVF_OK)
		return status;
	if (params == NULL || session_out == NULL)
		return kvfi_fail(
			KVF_EINVAL, "%s must not be NULL", params == NULL ? "params" : "session_out");
	status = kvfi_front_prompt(params->prompt_len);
	if (status != KVF_OK)
		return status;
	if (params->dp_index != kvfi_rank_dp(agent->instance, agent->rank))
		return kvfi_fail(KVF_EINVAL, "dp_index: %u, this rank is of group %u", params->dp_index,
			kvfi_rank_dp(agent->instance, agent->rank));
	if (kvfi_front_is_live(agent, agent->instance->id, params->request_id, params->attempt))
		return kvfi_fail(KVF_DUPLICATE, "request %llu attempt %u is being sent already",
			(unsigned long long)params->request_id, params->attempt);
	front = kvfi_front_take(agent, FRONT_TX, agent->instance->id, params->request_id, params->attempt);
	if (front == NULL)
		return kvfi_fail(KVF_EFULL, "max_sessions: all %u are in use", agent->options.max_sessions);
	front->prompt_len = params->prompt_len;
	input.session = (uint32_t)(front - agent->sessions);
	input.u.tx_open = (struct kvfi_in_tx_open){.request_id = params->request_id,
		.attempt = params->attempt,
		.prompt_len = params->prompt_len,
		.expires_ns = params->expires_ns != 0 ? params->expires_ns : KVFI_DEFAULT_EXPIRY_NS};
	(void)atomic_fetch_add(&agent->unreleased, 1);
	if (!kvfi_owner_input(agent, &input)) {
		(void)atomic_fetch_sub(&agent->unreleased, 1);
		kvfi_front_give(agent, front);
		return kvfi_front_inbox_full();
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
	enum kvf_status status = kvfi_front_role(agent, KVF_PREFILL);
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
		status = kvfi_front_sort_lists(agent, slice->n_lists, slice->lists, lists, &n_ids);
	if (status != KVF_OK)
		return status;
	shape = (struct kvfi_shape){.prompt_len = front->prompt_len,
		.token_start = slice->token_start,
		.token_end = slice->token_end,
		.layer_start = slice->layer_start,
		.layer_end = slice->layer_end,
		.first = !front->any_slice || front->first_tile_end == slice->token_end,
		.last = slice->token_end == front->prompt_len};
	status = kvfi_front_check_lists(agent, &shape, lists);
	if (status != KVF_OK)
		return status;
	kept = kvfi_front_keep_lists(lists, n_ids);
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
		return kvfi_front_inbox_full();
	}
	kvfi_front_add_kept(agent, front, kept, 1);
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
	enum kvf_status status = kvfi_front_role(agent, KVF_PREFILL);
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
		return kvfi_front_inbox_full();
	}
	kept->next = front->kept;
	front->kept = kept;
	front->aux_given = true;
	return KVF_OK;
}
