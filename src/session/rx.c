/* rx.c - receiving sessions: whom to ask, with what permission.
 *
 * The expected prefill ranks come from the two instance maps alone. With the DP index known, every REQUEST carries authority: its grant was made
 * before it leaves. With the DP index unknown it is an invitation to the ranks of all DP groups; the first CLAIM chooses the group, its ranks get
 * grants and GO, the others CANCEL. A link asks until it is answered, and repeats CANCEL until QUIET.
 */
#include "session/state.h"

#include <string.h>
#include "base/assert.h"
#include "base/clock.h"

/* The epoch alone would do; a message whose ids say something else was damaged on its way. */
struct link *rx_find(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg_header *header)
{
	struct link *link = link_first(core, header->epoch, peer);

	while (link != NULL &&
		(link->kind != LINK_RX || link->peer_gone || link->instance_id != header->instance_id ||
			link->request_id != header->request_id || link->attempt != header->attempt))
		link = link_next(core, link);
	return link;
}

/* ---- asking ---- */

static uint32_t compress(const struct kvfi_ids *list, struct kvfi_id_run *runs)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < list->n; i++) {
		int32_t id = list->ids[i] < 0 ? -1 : list->ids[i];
		struct kvfi_id_run *run = n > 0 ? &runs[n - 1] : NULL;
		bool joins =
			run != NULL &&
			(id < 0 ? run->start < 0 : run->start >= 0 && (int64_t)run->start + run->count == id);

		if (joins)
			run->count++;
		else
			runs[n++] = (struct kvfi_id_run){id, 1};
	}
	return n;
}

static void fill_lists(
	struct kvfi_core *core, const struct session *session, struct kvfi_msg_request *request)
{
	struct kvfi_id_run *at = core->runs;

	for (uint32_t g = 0; g < core->self.layout->n_groups; g++) {
		struct kvfi_request_group *group;

		if (session->lists[g].n == 0)
			continue;
		group = &request->groups[request->n_groups++];
		group->group = g;
		group->n_ids = session->lists[g].n;
		group->tokens_per_block = core->self.layout->groups[g].tokens_per_block;
		group->runs = at;
		group->n_runs = compress(&session->lists[g], at);
		at += group->n_runs;
	}
}

static void send_request(struct kvfi_core *core, struct link *link)
{
	const struct session *session = link_session(core, link);
	struct kvfi_msg msg;
	struct kvfi_msg_request *request = &msg.u.request;

	memset(request, 0, sizeof(*request));
	msg_init(&msg, KVFI_MSG_REQUEST, link);
	request->prompt_len = session->prompt_len;
	request->dp_index = link->invitation ? KVF_DP_UNKNOWN : session->dp_index;
	request->dp_rank = core->own_dp;
	request->replica = session->replica;
	request->aux_slot = session->aux_slot;
	request->aux_bytes =
		session->aux_slot != KVF_NO_AUX ? core->self.layout->aux_bytes[session->aux_slot] : 0;
	request->lease_slot = link->lease_slot;
	request->lease_generation = link->lease_generation;
	request->digest = core->peers[link->peer].info.digests[session->replica];
	request->verify = core->config.verify;
	request->time_left_ns = deadline_queue_left_ns(core, session);
	fill_lists(core, session, request);
	request->seal = kvfi_msg_seal(&msg);
	link->requested = true;
	send_msg(core, link, &msg);
	wake_again(core, &link->wake, &link->backoff_ns);
}

static bool grant(struct kvfi_core *core, struct link *link)
{
	struct session *session = link_session(core, link);
	const struct kvfi_peer_up *info = &core->peers[link->peer].info;
	struct kvfi_core_grant asked = {.link = link_index(core, link),
		.peer = link->peer,
		.request_id = link->request_id,
		.attempt = link->attempt,
		.epoch = link->epoch,
		.prompt_len = session->prompt_len,
		.plan = info->plans[session->replica],
		.dst = session->lists,
		.sum = core->config.verify == KVF_VERIFY_SUM};
	enum kvf_status status;

	if (!session_advertise(core, session))
		return false;
	status = core->sink.grant(core->sink.self, &asked, &link->lease_slot, &link->lease_generation);
	if (status != KVF_OK) {
		session_fail(core, session, status,
			"no permission to write could be made for prefill rank %u: %s", link->rank,
			kvf_error());
		return false;
	}
	link->granted = true;
	link->seen = core->sink.grant_moved(core->sink.self, link_index(core, link), link->peer);
	flight_granted(core, true);
	deadline_begins(core, session);
	link->receiver_applied = info->receiver_applied;
	return true;
}

void rx_peer_up(struct kvfi_core *core, struct link *link, uint32_t peer)
{
	link_attach_peer(core, link, peer);
	if (link->invitation || grant(core, link))
		send_request(core, link);
}

static void send_cancel(struct kvfi_core *core, struct link *link)
{
	const struct session *session = link_session(core, link);
	struct kvfi_msg msg;

	memset(&msg.u.cancel, 0, sizeof(msg.u.cancel));
	msg_init(&msg, KVFI_MSG_CANCEL, link);
	msg.u.cancel.status = link->unchosen ? KVF_DP_CONFLICT : KVF_CANCELLED;
	if (session != NULL)
		memcpy(msg.u.cancel.reason, session->error, sizeof(msg.u.cancel.reason) - 1);
	send_msg(core, link, &msg);
	wake_again(core, &link->wake, &link->backoff_ns);
}

void rx_wake(struct kvfi_core *core, struct link *link)
{
	if (link->cancelling)
		send_cancel(core, link);
	else if (!link->answered && link->session != KVFI_NONE)
		send_request(core, link);
}

/* ---- opening ---- */

static bool add_link(
	struct kvfi_core *core, struct session *session, const struct kvf_pair *pair, bool invitation)
{
	struct link *link = link_new(core, LINK_RX);

	if (link == NULL) {
		session_fail(
			core, session, KVF_EFULL, "max_links: all %u are in use", core->config.max_links);
		return false;
	}
	link->session = session_index(core, session);
	kvfi_list_append(&session->links, &link->in_session);
	session->n_links++;
	session->expected++;
	link->rank = pair->src;
	link->instance_id = session->instance_id;
	link->request_id = session->request_id;
	link->attempt = session->attempt;
	link->epoch = session->epoch;
	link->invitation = invitation;
	link->aux = session->aux_slot != KVF_NO_AUX ? AUX_OWED : AUX_NONE;
	link->owes_aux = pair->aux != 0;
	return true;
}

static bool add_links(struct kvfi_core *core, struct session *session, const struct kvfi_peer_up *info)
{
	bool unknown = session->dp_index == KVF_DP_UNKNOWN && info->n_dps > 1;
	uint32_t first = unknown ? 0 : session->dp_index;
	uint32_t end = unknown ? info->n_dps : first + 1;

	if (session->dp_index == KVF_DP_UNKNOWN && !unknown)
		first = session->dp_index = 0, end = 1;
	if (first >= info->n_dps) {
		session_fail(core, session, KVF_OUT_OF_RANGE,
			"dp_index: the prefill instance has %u groups, the request names %u", info->n_dps,
			first);
		return false;
	}
	for (uint32_t dp = first; dp < end; dp++)
		for (uint32_t i = 0; i < info->by_dp[dp].n; i++)
			if (!add_link(core, session, &info->by_dp[dp].pairs[i], unknown))
				return false;
	return true;
}

/* Some failures will not go away by waiting. */
static bool is_final(enum kvf_status status)
{
	return status == KVF_INCOMPATIBLE || status == KVF_PEER_VERSION || status == KVF_ETICKET ||
	       status == KVF_REFUSED || status == KVF_NO_TRANSPORT;
}

static void ask_all(struct kvfi_core *core, struct session *session)
{
	kvfi_list_for_each_safe (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);
		struct peer *peer = peer_find(core, session->instance_id, link->rank);

		if (session->outcome_told)
			return;
		if (peer != NULL && peer->up)
			rx_peer_up(core, link, (uint32_t)(peer - core->peers));
		else if (peer != NULL && is_final(peer->down_status))
			session_fail(core, session, peer->down_status, "rank %u of instance %llu: %s",
				link->rank, (unsigned long long)session->instance_id, peer->down_reason);
	}
}

static void finish_if_alone(struct kvfi_core *core, struct session *session)
{
	if (session->outcome_told || session->expected > 0)
		return;
	session_state(core, session, KVF_STATE_FULLY_TRANSFERRED); /* nobody owes this rank anything */
	session_complete(core, session);
}

void rx_resolve(struct kvfi_core *core, struct session *session)
{
	const struct peer *peer = peer_of_instance(core, session->instance_id);

	if (peer == NULL)
		return;
	if (!peer->up) {
		if (is_final(peer->down_status))
			session_fail(core, session, peer->down_status, "instance %llu: %s",
				(unsigned long long)session->instance_id, peer->down_reason);
		return;
	}
	session->resolved = true;
	if (!add_links(core, session, &peer->info))
		return;
	session->stats.peers = session->expected;
	ask_all(core, session);
	finish_if_alone(core, session);
}

void rx_open(struct kvfi_core *core, uint32_t slot, const struct kvfi_in_rx_open *in)
{
	struct session *session = &core->sessions[slot];

	session_init(core, session, SESSION_RX);
	session->instance_id = in->instance_id;
	session->request_id = in->request_id;
	session->attempt = in->attempt;
	session->prompt_len = in->prompt_len;
	session->dp_index = in->dp_index;
	session->aux_slot = in->aux_slot;
	session->replica = in->replica;
	memcpy(session->lists, in->lists, sizeof(session->lists));
	session->blocks_bytes = lists_bytes(core, session->lists);
	session->epoch = core->next_epoch++;
	hold_end(core, in->instance_id, in->request_id, in->attempt); /* from here on REQUEST says it */
	deadline_open(core, session);
	rx_resolve(core, session);
}

/* ---- answers ---- */

static void look_ready(struct kvfi_core *core, struct session *session)
{
	if (session->answered < session->expected)
		return;
	session->stats.ready_ns = core->now_ns;
	session_state(core, session, KVF_STATE_READY);
}

void rx_answered(struct kvfi_core *core, struct link *link)
{
	struct session *session = link_session(core, link);

	if (link->answered || session == NULL || session->outcome_told)
		return;
	link->answered = true;
	wake_never(core, &link->wake);
	session->answered++;
	look_ready(core, session);
}

void on_request_ok(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	struct link *link = rx_find(core, peer, &msg->header);

	if (link == NULL)
		core->counters.stale_epochs++;
	else
		rx_answered(core, link);
}

/* ---- claims ---- */

static void send_go(struct kvfi_core *core, struct link *link)
{
	struct kvfi_msg msg = {0};

	msg_init(&msg, KVFI_MSG_GO, link);
	msg.u.go.dp_index = link_session(core, link)->dp_index;
	msg.u.go.lease_slot = link->lease_slot;
	msg.u.go.lease_generation = link->lease_generation;
	msg.u.go.seal = kvfi_msg_seal(&msg);
	send_msg(core, link, &msg);
}

/* A link of a group that was not chosen: it never had authority. */
static void drop_uninvited(struct kvfi_core *core, struct session *session, struct link *link)
{
	if (link->answered)
		session->answered--;
	session->expected--;
	session->stats.proofs[KVF_PROOF_NEVER_ADVERTISED]++;
	link_detach_session(core, link);
	if (!link->requested || link->peer_gone) {
		rx_link_over(core, link);
		return;
	}
	link->proof = KVF_PROOF_NEVER_ADVERTISED;
	link->cancelling = link->unchosen = true;
	link->backoff_ns = 0;
	send_cancel(core, link);
}

static bool in_group(const struct kvfi_pair_list *list, uint32_t rank)
{
	for (uint32_t i = 0; i < list->n; i++)
		if (list->pairs[i].src == rank)
			return true;
	return false;
}

static void choose_group(struct kvfi_core *core, struct session *session, uint32_t peer, uint32_t dp_index)
{
	const struct kvfi_pair_list *chosen = &core->peers[peer].info.by_dp[dp_index];

	session->dp_index = dp_index;
	kvfi_list_for_each_safe (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);

		if (!in_group(chosen, link->rank))
			drop_uninvited(core, session, link);
	}
	session->stats.peers = session->expected;
	kvfi_list_for_each_safe (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);

		if (session->outcome_told)
			return;
		link->invitation = false;
		if (link->peer != KVFI_NONE && grant(core, link))
			send_go(core, link);
	}
	if (!session->outcome_told)
		look_ready(core, session); /* those that have not answered may be gone */
}

bool rx_forgo_group(struct kvfi_core *core, struct session *session, uint32_t rank)
{
	const struct peer *up = peer_of_instance(core, session->instance_id);
	const struct kvfi_pair_list *group;

	if (session->dp_index != KVF_DP_UNKNOWN || !session->resolved || up == NULL || !up->up)
		return false;
	group = &up->info.by_dp[kvfi_rank_dp(up->info.instance, rank)];
	if (session->n_links <= group->n)
		return false; /* it is the last one */
	kvfi_list_for_each_safe (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);

		if (in_group(group, link->rank))
			drop_uninvited(core, session, link);
	}
	look_ready(core, session);
	return true;
}

void on_claim(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	struct link *link = rx_find(core, peer, &msg->header);
	struct session *session = link != NULL ? link_session(core, link) : NULL;

	if (session == NULL || session->outcome_told) {
		core->counters.stale_epochs++; /* if it is known at all, CANCEL is on its way */
		return;
	}
	rx_answered(core, link);
	if (session->dp_index != KVF_DP_UNKNOWN) {
		if (link->granted && session->dp_index == msg->u.claim.dp_index)
			send_go(core, link);
		return;
	}
	if (msg->u.claim.dp_index >= core->peers[peer].info.n_dps ||
		!in_group(&core->peers[peer].info.by_dp[msg->u.claim.dp_index], link->rank)) {
		session_fail(core, session, KVF_DP_CONFLICT,
			"prefill rank %u claims DP index %u, which is not its own", link->rank,
			msg->u.claim.dp_index);
		return;
	}
	choose_group(core, session, peer, msg->u.claim.dp_index);
}

/* ---- quiet ---- */

/* That writer has left. Where this agent reads the stream itself, its own reads decide, not the writer's word. */
void rx_link_quiet(struct kvfi_core *core, struct link *link)
{
	link->cancelling = false;
	wake_never(core, &link->wake);
	if (link->granted && !link->receiver_applied)
		rx_prove(core, link, KVF_PROOF_WRITER_QUIET);
	if (link->session == KVFI_NONE && link->proof != KVF_PROOF_NONE && link->kind == LINK_RX)
		rx_link_over(core, link);
}

void on_quiet(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	struct link *link = rx_find(core, peer, &msg->header);

	if (link == NULL || !link->cancelling) {
		core->counters.stale_epochs++;
		return;
	}
	rx_link_quiet(core, link);
}
