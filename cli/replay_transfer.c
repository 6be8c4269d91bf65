/* replay_transfer.c - a request on one rank: tickets, slices, block lists, aux data.
 *
 * Guarantees: what is handed to the library is what the board says; ids point into the board, which keeps
 * them until the session is released. An API call that refuses breaks the rank: a replay never asks for
 * anything that may be refused. Only in chaos a session may have ended already when the next piece is handed over.
 */
#include "cli/replay_rank.h"

#include <string.h>
#include "cli/replay_geometry.h"

/* -------------------------------------------------------------------- send */

static bool holds_layers(const struct kvf_group *group, const struct replay_slice *slice)
{
	if (slice->layer_end == 0)
		return group->n_layers > 0;
	for (uint32_t i = 0; i < group->n_layers; i++) {
		if (group->layers[i] >= slice->layer_start && group->layers[i] < slice->layer_end)
			return true;
	}
	return false;
}

/* Windows and states travel with the slices that end the prompt. */
static bool travels(const struct kvf_group *group, const struct replay_slice *slice, uint64_t prompt_tokens)
{
	bool tokens = group->kind == KVF_PAGED || group->kind == KVF_REPLICATED;
	return holds_layers(group, slice) && (tokens || slice->token_end == prompt_tokens);
}

/* The part of the request's list that belongs to the blocks of a slice. */
static struct kvf_blocks cut_list(const struct replay_rank *rank, uint32_t slot, uint32_t g,
	const struct replay_slice *slice, uint64_t prompt_tokens)
{
	const struct replay_list *list = replay_board_list(rank->board, slot, REPLAY_PREFILL, 0, g);
	const struct kvf_group *group = &rank->layout->groups[g];
	struct kvf_blocks cut = {.group = g, .n = list->n, .ids = replay_board_ids(rank->board, slot, list)};
	if (group->kind != KVF_PAGED && group->kind != KVF_REPLICATED)
		return cut;
	uint64_t first = slice->token_start / group->tokens_per_block;
	uint64_t end = slice->token_end / group->tokens_per_block;
	if (slice->token_end == prompt_tokens)
		end = list->first + list->n;
	if (first < list->first)
		first = list->first;
	cut.ids += first - list->first;
	cut.n = end > first ? (uint32_t)(end - first) : 0;
	return cut;
}

/* Has chaos ended the session before this piece?  Then OUTCOME tells. */
static bool is_over(const struct replay_rank *rank, enum kvf_status status)
{
	enum kvf_scope scope = kvf_status_scope(status);
	return rank->chaos.numbers && (scope == KVF_SCOPE_SESSION || scope == KVF_SCOPE_PEER);
}

static bool send_aux(struct replay_rank *rank, const struct replay_session *session)
{
	uint8_t data[REPLAY_AUX_BYTES];
	for (uint32_t i = 0; i < session->flavour.aux_bytes; i++)
		data[i] = replay_aux_byte(&session->flavour, i);
	enum kvf_status status =
		kvf_tx_send_aux(rank->agent, session->handle, data, session->flavour.aux_bytes);
	if (status == KVF_OK || is_over(rank, status))
		return true;
	replay_host_broken(rank, "request %u: kvf_tx_send_aux: %s", session->request, kvf_error());
	return false;
}

static bool owes_aux(const struct replay_rank *rank, uint32_t slot, const struct replay_session *session)
{
	const struct replay_slot *on = replay_board_slot(rank->board, slot);
	return session->flavour.aux &&
	       (replay_sends(rank->setup, on->src_dp, on->dst_dp, rank->index) & REPLAY_SENDS_AUX) != 0;
}

bool replay_transfer_send_next(struct replay_rank *rank, uint32_t slot)
{
	struct replay_session *session = &rank->sessions[slot];
	const struct replay_slice *of = &session->slices[session->n_sent];
	uint64_t tokens = rank->setup->requests[session->request].tokens;
	struct kvf_blocks lists[KVF_MAX_GROUPS];
	struct kvf_slice slice = {
		.token_start = of->token_start,
		.token_end = of->token_end,
		.layer_start = of->layer_start,
		.layer_end = of->layer_end,
		.last = of->last,
		.lists = lists,
	};
	for (uint32_t g = 0; g < rank->layout->n_groups; g++) {
		if (travels(&rank->layout->groups[g], of, tokens))
			lists[slice.n_lists++] = cut_list(rank, slot, g, of, tokens);
	}
	if (of->last && session->flavour.aux_early && owes_aux(rank, slot, session) &&
		!send_aux(rank, session))
		return false;
	enum kvf_status status = kvf_tx_send(rank->agent, session->handle, &slice, NULL);
	if (is_over(rank, status)) {
		session->n_sent = session->n_slices;
		return true;
	}
	if (status != KVF_OK) {
		replay_host_broken(rank, "request %u, slice %u: kvf_tx_send: %s", session->request,
			session->n_sent, kvf_error());
		return false;
	}
	session->n_sent++;
	return !of->last || session->flavour.aux_early || !owes_aux(rank, slot, session) ||
	       send_aux(rank, session);
}

static bool start_sending(struct replay_rank *rank, uint32_t slot)
{
	struct replay_session *session = &rank->sessions[slot];
	const struct kvf_tx_params params = {
		.request_id = session->flavour.request_id,
		.attempt = session->flavour.attempt,
		.dp_index = replay_board_slot(rank->board, slot)->src_dp,
		.prompt_len = rank->setup->requests[session->request].tokens,
	};
	if (kvf_tx_open(rank->agent, &params, &session->handle) != KVF_OK) {
		replay_host_broken(rank, "request %u: kvf_tx_open: %s", session->request, kvf_error());
		return false;
	}
	while (session->n_sent < session->n_slices) {
		if (!replay_transfer_send_next(rank, slot))
			return false;
		if (session->flavour.paced)
			break;
	}
	return true;
}

/* ----------------------------------------------------------------- receive */

static bool start_receiving(struct replay_rank *rank, uint32_t slot)
{
	struct replay_session *session = &rank->sessions[slot];
	const struct replay_flavour *flavour = &session->flavour;
	const struct replay_slot *on = replay_board_slot(rank->board, slot);
	struct kvf_blocks lists[KVF_MAX_GROUPS];
	struct kvf_rx_params params = {
		.instance_id = rank->setup->sides[REPLAY_PREFILL].instance->id,
		.request_id = flavour->request_id,
		.attempt = flavour->attempt,
		.dp_index = flavour->dp_unknown ? KVF_DP_UNKNOWN : on->src_dp,
		.prompt_len = rank->setup->requests[session->request].tokens,
		.aux_slot = flavour->aux ? slot : KVF_NO_AUX,
		.replica = (enum kvf_replica)rank->setup->options.replica,
		.lists = lists,
	};
	struct chaos_plan plan;
	chaos_plan_of(rank->setup, session->request, &plan);
	if (plan.fate == CHAOS_REFUSE) {
		params.prompt_len = plan.other_tokens;
	} else if (flavour->ticket) {
		params.ticket = on->ticket;
		params.ticket_bytes = on->ticket_bytes;
	}
	for (uint32_t g = 0; g < rank->layout->n_groups; g++) {
		const struct replay_list *list =
			replay_board_list(rank->board, slot, REPLAY_DECODE, rank->memory.cp, g);
		if (rank->layout->groups[g].n_layers == 0)
			continue;
		lists[params.n_lists++] = (struct kvf_blocks){
			.group = g,
			.n = list->n - list->reused,
			.ids = replay_board_ids(rank->board, slot, list) + list->reused,
		};
	}
	if (kvf_rx_open(rank->agent, &params, &session->handle) == KVF_OK)
		return true;
	replay_host_broken(rank, "request %u: kvf_rx_open: %s", session->request, kvf_error());
	return false;
}

/* A rank sends the slices that name layers it holds; its last one is the last of those. */
static void keep_own_slices(const struct replay_rank *rank, struct replay_session *session)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < session->n_slices; i++) {
		bool any = false;
		for (uint32_t g = 0; g < rank->layout->n_groups; g++)
			any = any || holds_layers(&rank->layout->groups[g], &session->slices[i]);
		if (any)
			session->slices[kept++] = session->slices[i];
	}
	session->n_slices = kept;
	session->slices[kept - 1].last = true;

	struct chaos_plan plan;
	chaos_plan_of(rank->setup, session->request, &plan);
	if (plan.fate == CHAOS_TIMEOUT)
		session->n_slices--; /* the last one never comes */
}

bool replay_transfer_start(struct replay_rank *rank, uint32_t slot)
{
	struct replay_session *session = &rank->sessions[slot];
	uint32_t request = replay_board_slot(rank->board, slot)->request;
	memset(session, 0, sizeof(*session));
	session->request = request;
	replay_flavour_of(rank->setup, request, &session->flavour);
	session->n_slices = replay_slices_of(rank->setup, request, session->slices);
	keep_own_slices(rank, session);
	return rank->side == REPLAY_PREFILL ? start_sending(rank, slot) : start_receiving(rank, slot);
}

/* ------------------------------------------------------------ ticket, aux */

/* The lowest sending rank makes it. */
static bool makes_ticket(const struct replay_rank *rank, const struct replay_slot *on)
{
	for (uint32_t other = 0; other < rank->index; other++) {
		if (replay_sends(rank->setup, on->src_dp, on->dst_dp, other))
			return false;
	}
	return true;
}

bool replay_transfer_ticket(struct replay_rank *rank, uint32_t slot)
{
	struct replay_slot *on = replay_board_slot(rank->board, slot);
	struct replay_flavour flavour;
	replay_flavour_of(rank->setup, on->request, &flavour);
	if (!flavour.ticket || !makes_ticket(rank, on))
		return true;
	const struct kvf_tx_params params = {
		.request_id = flavour.request_id,
		.attempt = flavour.attempt,
		.dp_index = flavour.dp_unknown ? KVF_DP_UNKNOWN : on->src_dp,
		.prompt_len = rank->setup->requests[on->request].tokens,
	};
	size_t len;
	if (kvf_ticket_new(rank->agent, &params, on->ticket, sizeof(on->ticket), &len) != KVF_OK) {
		replay_host_broken(rank, "request %u: kvf_ticket_new: %s", on->request, kvf_error());
		return false;
	}
	on->ticket_bytes = (uint32_t)len;
	return true;
}

static uint8_t *aux_slot(const struct replay_rank *rank, uint32_t slot)
{
	return rank->aux + (size_t)slot * REPLAY_AUX_BYTES;
}

void replay_transfer_clear_aux(const struct replay_rank *rank, uint32_t slot)
{
	memset(aux_slot(rank, slot), REPLAY_PATTERN, REPLAY_AUX_BYTES);
}

void replay_transfer_check_aux(
	const struct replay_rank *rank, uint32_t slot, uint32_t len, struct replay_fault *fault)
{
	const struct replay_session *session = &rank->sessions[slot];
	const uint8_t *data = aux_slot(rank, slot);
	for (uint32_t i = 0; i < REPLAY_AUX_BYTES; i++) {
		uint8_t expected = i < len ? replay_aux_byte(&session->flavour, i) : REPLAY_PATTERN;
		if (data[i] == expected)
			continue;
		*fault = (struct replay_fault){REPLAY_FAULT_AUX, rank->side, rank->index, session->request,
			{.byte = i, .expected = expected, .found = data[i], .block_id = -1, .bad_rows = 1}};
		return;
	}
}
