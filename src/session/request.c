/* request.c - what decode ranks ask of a prefill rank: REQUEST, GO, CANCEL.
 *
 * A REQUEST either finds its tx, or is parked for the time its receiver is willing to wait, or is refused. A refusal is one
 * failed RESULT (slice 0, last), sent again whenever the REQUEST is repeated, and the receiver stops asking when it has it. An invitation
 * (DP index unknown) is a REQUEST without authority: the tx claims it, and GO turns it into one with authority.
 */
#include "session/state.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/assert.h"
#include "base/clock.h"

struct link *request_find(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg_header *header)
{
	struct link *link = link_first(core, header->request_id, header->attempt);

	while (link != NULL && (link->peer != peer || link->peer_gone || link->epoch != header->epoch ||
				       link->instance_id != header->instance_id))
		link = link_next(core, link);
	return link;
}

/* The newest one, of whatever epoch. */
static struct link *find_request(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg_header *header)
{
	struct link *link = link_first(core, header->request_id, header->attempt);

	while (link != NULL && (link->peer != peer || link->peer_gone))
		link = link_next(core, link);
	return link;
}

static void answer(
	struct kvfi_core *core, uint32_t peer, const struct kvfi_msg_header *header, struct kvfi_msg *msg)
{
	enum kvfi_msg_type type = msg->header.type;

	msg->header = *header;
	msg->header.type = type;
	if (type == KVFI_MSG_RESULT)
		msg->u.result.seal = kvfi_msg_seal(msg);
	core->sink.send(core->sink.self, peer, msg);
}

static void request_ok(
	struct kvfi_core *core, uint32_t peer, const struct kvfi_msg_header *header, bool known)
{
	struct kvfi_msg msg = {.header.type = KVFI_MSG_REQUEST_OK, .u.request_ok.known = known};

	answer(core, peer, header, &msg);
}

/* The receiver takes the refusal for the word that nothing will be written, and releases. So the same REQUEST, when it comes again, late, must be
 * refused again, also if there is room or a tx by then. */
static void remember_refusal(
	struct kvfi_core *core, uint32_t peer, const struct kvfi_msg_header *header, enum kvf_status status)
{
	struct remembered record = {
		.key_a = core->peers[peer].life, .key_b = header->epoch, .peer = peer, .status = status};

	if (header->epoch > core->peers[peer].floor &&
		memory_find(&core->ended_ask, record.key_a, record.key_b) == NULL)
		memory_put(core, &core->ended_ask, &record);
}

static void refuse(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg_header *header,
	enum kvf_status status, const char *format, ...) __attribute__((format(printf, 5, 6)));

static void refuse(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg_header *header,
	enum kvf_status status, const char *format, ...)
{
	struct kvfi_msg msg = {.header.type = KVFI_MSG_RESULT,
		.u.result = {.kind = KVFI_RESULT_KV, .last = 1, .status = status}};
	va_list args;

	va_start(args, format);
	(void)vsnprintf(msg.u.result.reason, sizeof(msg.u.result.reason), format, args);
	va_end(args);
	core->counters.unknown_requests++;
	remember_refusal(core, peer, header, status);
	answer(core, peer, header, &msg);
}

/* ---- receivers that give up before they are served ----
 *
 * Their REQUEST will not come, or not any more. So the tx, when it is open or opened later, fails for all; else it would wait for ever. */

static void give_up(struct kvfi_core *core, uint32_t slot, const struct kvfi_msg_header *header,
	enum kvf_status status, const char *reason)
{
	const struct peer *peer = &core->peers[slot];
	const struct link *newer = find_request(core, slot, header);
	struct session *session = tx_find(core, header->request_id, header->attempt);
	struct remembered record = {.key_a = header->request_id,
		.key_b = header->attempt,
		.epoch = header->epoch,
		.life = peer->life,
		.peer = slot,
		.status = status,
		.expires_ns = core->now_ns + KVFI_GIVEN_UP_NS};

	if (newer != NULL && newer->epoch > header->epoch)
		return;
	if (session == NULL)
		memory_put(core, &core->given_up, &record);
	else if (!session->bound || session->decode_instance == peer->instance_id)
		session_fail(core, session, status, "decode rank %u: %s", peer->rank, reason);
}

/* A CANCEL that finds nothing to stop. Where another DP group was chosen nothing was called off: the id may come here the next time. */
static void cancelled_early(struct kvfi_core *core, uint32_t slot, const struct kvfi_msg *msg)
{
	bool chosen_elsewhere = msg->u.cancel.status == KVF_DP_CONFLICT;

	if (!chosen_elsewhere || tx_find(core, msg->header.request_id, msg->header.attempt) != NULL)
		give_up(core, slot, &msg->header, KVF_CANCELLED, msg->u.cancel.reason);
}

static void asked_again(struct kvfi_core *core, uint32_t slot, const struct kvfi_msg_header *header)
{
	const struct remembered *record = memory_find(&core->given_up, header->request_id, header->attempt);

	if (record != NULL && record->peer == slot && record->epoch < header->epoch)
		memory_forget(&core->given_up, header->request_id, header->attempt);
}

enum kvf_status request_given_up(
	struct kvfi_core *core, uint64_t request_id, uint32_t attempt, uint32_t *rank_out)
{
	const struct remembered *record = memory_find(&core->given_up, request_id, attempt);
	enum kvf_status status = KVF_OK;

	if (record != NULL && record->expires_ns > core->now_ns &&
		core->peers[record->peer].life == record->life) {
		status = record->status;
		*rank_out = core->peers[record->peer].rank;
	}
	memory_forget(&core->given_up, request_id, attempt);
	return status;
}

/* ---- refusals ---- */

/* True: the REQUEST is over before it begins, and that was said. */
static bool refused_by_time(struct kvfi_core *core, uint32_t slot, const struct kvfi_msg_header *header)
{
	const struct peer *peer = &core->peers[slot];
	const struct remembered *record = memory_find(&core->ended_ask, peer->life, header->epoch);

	if (record == NULL && header->epoch > peer->floor)
		return false;
	core->counters.stale_epochs++;
	refuse(core, slot, header, record != NULL ? record->status : KVF_STALE_EPOCH,
		"epoch %llu of this request is over", (unsigned long long)header->epoch);
	return true;
}

/* True: it does not fit this rank, and that was said. */
static bool refused_by_content(struct kvfi_core *core, uint32_t slot, const struct kvfi_msg *msg)
{
	const struct kvfi_msg_request *request = &msg->u.request;
	const struct peer *peer = &core->peers[slot];

	if (request->dp_index != KVF_DP_UNKNOWN && request->dp_index != core->own_dp) {
		refuse(core, slot, &msg->header, KVF_OUT_OF_RANGE,
			"dp_index: this prefill rank is %u, the request names %u", core->own_dp,
			request->dp_index);
		return true;
	}
	if (request->dp_rank >= peer->info.n_dps || request->replica > KVF_REPLICA_STRIPE) {
		refuse(core, slot, &msg->header, KVF_OUT_OF_RANGE, "dp_rank %u or replica %u is out of range",
			request->dp_rank, (unsigned)request->replica);
		return true;
	}
	if (request->digest != peer->info.digests[request->replica]) {
		refuse(core, slot, &msg->header, KVF_DIGEST_MISMATCH,
			"digest: prefill has %016llx, decode has %016llx",
			(unsigned long long)peer->info.digests[request->replica],
			(unsigned long long)request->digest);
		give_up(core, slot, &msg->header, KVF_DIGEST_MISMATCH,
			"its digest of the plan is another one");
		return true;
	}
	for (uint32_t i = 0; i < peer->info.by_dp[request->dp_rank].n; i++)
		if (peer->info.by_dp[request->dp_rank].pairs[i].dst == peer->rank)
			return false;
	refuse(core, slot, &msg->header, KVF_OUT_OF_RANGE,
		"decode rank %u is not paired with this prefill rank", peer->rank);
	return true;
}

/* True: its tx has ended, and that was said. */
static bool refused_by_end(struct kvfi_core *core, uint32_t slot, const struct kvfi_msg_header *header)
{
	const struct session *session = tx_find(core, header->request_id, header->attempt);
	const struct remembered *record = memory_find(&core->ended_tx, header->request_id, header->attempt);
	enum kvf_status status = KVF_OK;

	if (session != NULL && session->outcome_told)
		status = session->outcome != KVF_OK ? session->outcome : KVF_TX_ENDED;
	else if (session == NULL && record != NULL && record->expires_ns > core->now_ns)
		status = record->status;
	if (status == KVF_OK)
		return false;
	refuse(core, slot, header, status, "the sending session has ended: %s", kvf_status_text(status));
	return true;
}

static enum kvf_status take_lists(
	struct kvfi_core *core, struct link *link, const struct kvfi_msg_request *request)
{
	uint64_t total = 0;
	int32_t *at;

	for (uint32_t i = 0; i < request->n_groups; i++)
		total += request->groups[i].n_ids;
	if (total > core->config.max_block_ids || ids_take(core, (uint32_t)total, &link->ids_start) != KVF_OK)
		return KVF_EFULL;
	link->ids_n = (uint32_t)total;
	at = core->arena.ids + link->ids_start;
	for (uint32_t i = 0; i < request->n_groups; i++) {
		const struct kvfi_request_group *group = &request->groups[i];

		link->dst[group->group] = (struct kvfi_ids){at, group->n_ids};
		for (uint32_t r = 0; r < group->n_runs; r++)
			for (uint32_t k = 0; k < group->runs[r].count; k++)
				*at++ = group->runs[r].start < 0 ? -1 : group->runs[r].start + (int32_t)k;
	}
	return KVF_OK;
}

static struct link *new_request(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	const struct kvfi_msg_request *request = &msg->u.request;
	struct link *link = link_new(core, LINK_TX);

	if (link == NULL)
		return NULL;
	link->rank = core->peers[peer].rank;
	link->instance_id = msg->header.instance_id;
	link->request_id = msg->header.request_id;
	link->attempt = msg->header.attempt;
	link->epoch = msg->header.epoch;
	link->authority = request->dp_index != KVF_DP_UNKNOWN;
	link->prompt_len = request->prompt_len;
	link->dp_rank = request->dp_rank;
	link->replica = request->replica;
	link->lease_slot = request->lease_slot;
	link->lease_generation = request->lease_generation;
	link->sum = request->verify == KVF_VERIFY_SUM;
	link->aux = request->aux_slot != KVF_NO_AUX ? AUX_OWED : AUX_NONE;
	link->aux_room = request->aux_slot != KVF_NO_AUX ? request->aux_bytes : 0;
	if (take_lists(core, link, request) != KVF_OK) {
		link_free(core, link);
		return NULL;
	}
	link_attach_peer(core, link, peer);
	return link;
}

/* Three quarters of all links: whoever asks for what nobody sends, and never gives up, leaves room for the others. */
static bool may_park(const struct kvfi_core *core, uint32_t peer)
{
	return core->peers[peer].parked < core->config.max_links - core->config.max_links / 4;
}

void request_unpark(struct kvfi_core *core, struct link *link)
{
	if (link->parked)
		core->peers[link->peer].parked--;
	link->parked = false;
}

static void park(struct kvfi_core *core, struct link *link, uint64_t time_left_ns)
{
	core->counters.parked++;
	core->peers[link->peer].parked++;
	link->parked = true;
	if (time_left_ns > 0 && time_left_ns < KVFI_NEVER - core->now_ns)
		wake_at(core, &link->wake, core->now_ns + time_left_ns);
}

void on_request(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	const struct kvfi_msg_header *header = &msg->header;
	struct link *link = find_request(core, peer, header);
	struct session *session;

	if (!core->peers[peer].up)
		return; /* its data path is not there yet; it will ask again */
	if (msg->u.request.seal != kvfi_msg_seal(msg)) {
		core->counters.unexpected_messages++; /* damaged: it will come again */
		return;
	}
	if (link != NULL && link->epoch >= header->epoch) {
		if (link->epoch == header->epoch)
			request_ok(core, peer, header, link->session != KVFI_NONE);
		else
			core->counters.stale_epochs++;
		return;
	}
	if (link != NULL) { /* the receiver has begun anew: its old epoch is over */
		struct kvfi_msg cancel = {
			.header = *header, .u.cancel = {.status = KVF_STALE_EPOCH, .reason = "asked again"}};

		cancel.header.epoch = link->epoch;
		on_cancel(core, peer, &cancel);
	}
	if (refused_by_time(core, peer, header) || refused_by_content(core, peer, msg) ||
		refused_by_end(core, peer, header))
		return;
	session = tx_find(core, header->request_id, header->attempt);
	link = session != NULL || may_park(core, peer) ? new_request(core, peer, msg) : NULL;
	if (link == NULL) {
		core->counters.parked_full++;
		refuse(core, peer, header, KVF_BUSY, "no room for the request");
		return;
	}
	asked_again(core, peer, header);
	request_ok(core, peer, header, session != NULL);
	if (session != NULL)
		tx_adopt(core, session, link);
	else
		park(core, link, msg->u.request.time_left_ns);
}

/* ---- claims ---- */

void send_claim(struct kvfi_core *core, struct link *link)
{
	struct kvfi_msg msg = {.u.claim = {.dp_index = core->own_dp}};

	link->claiming = true;
	msg_init(&msg, KVFI_MSG_CLAIM, link);
	send_msg(core, link, &msg);
	wake_again(core, &link->wake, &link->backoff_ns);
}

void on_go(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	struct link *link = request_find(core, peer, &msg->header);

	if (msg->u.go.seal != kvfi_msg_seal(msg)) {
		core->counters.unexpected_messages++; /* damaged: the next CLAIM asks for it again */
		return;
	}
	if (link == NULL || msg->u.go.dp_index != core->own_dp) {
		core->counters.stale_epochs++;
		return;
	}
	if (link->authority)
		return;
	link->authority = true;
	link->lease_slot = msg->u.go.lease_slot;
	link->lease_generation = msg->u.go.lease_generation;
	if (link->claiming) {
		link->claiming = false;
		wake_never(core, &link->wake);
	}
	if (link->session == KVFI_NONE)
		return;
	if (link->failing == KVF_OK)
		tx_want_post(core, link);
	flight_look(core, link_session(core, link));
}

/* ---- cancel ---- */

static void send_quiet(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg_header *header)
{
	struct kvfi_msg msg = {.header.type = KVFI_MSG_QUIET};

	answer(core, peer, header, &msg);
}

void link_cancelled(struct kvfi_core *core, struct link *link)
{
	struct kvfi_msg msg = {0};

	KVFI_ASSERT(link->posted == 0);
	msg_init(&msg, KVFI_MSG_QUIET, link);
	send_msg(core, link, &msg);
	tx_link_over(core, link);
}

void on_cancel(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	struct link *link = request_find(core, peer, &msg->header);
	struct session *session;
	bool parked;

	if (link == NULL) {
		/* Nothing of it is here, and nothing of it will be served: remembered, so that a REQUEST that comes late is not. */
		struct remembered record = {.key_a = core->peers[peer].life,
			.key_b = msg->header.epoch,
			.peer = peer,
			.status = KVF_STALE_EPOCH};

		bool news = memory_find(&core->ended_ask, record.key_a, record.key_b) == NULL &&
		            record.key_b > core->peers[peer].floor;

		memory_put(core, &core->ended_ask, &record);
		send_quiet(core, peer, &msg->header);
		if (news)
			cancelled_early(core, peer, msg);
		return;
	}
	if (link->cancelled)
		return; /* QUIET comes when the posts are out */
	parked = link->session == KVFI_NONE && link->failing == KVF_OK;
	link->cancelled = true;
	link->claiming = false;
	wake_never(core, &link->wake);
	tx_link_stop(core, link);
	session = link_session(core, link);
	if (session != NULL)
		session_fail(core, session, KVF_CANCELLED, "decode rank %u cancelled: %s", link->rank,
			msg->u.cancel.reason);
	if (link->kind == LINK_FREE) /* finished before, and released with the failure */
		send_quiet(core, peer, &msg->header);
	else if (link->posted == 0)
		link_cancelled(core, link);
	if (session != NULL)
		session_try_release(core, session);
	else if (parked)
		cancelled_early(core, peer, msg);
}

void request_wake(struct kvfi_core *core, struct link *link)
{
	if (link->claiming) {
		send_claim(core, link);
	} else if (link->failing != KVF_OK) {
		if (!link->failure_placed)
			tx_fail_push(core, link, kvf_status_text(link->failing));
	} else if (link->session == KVFI_NONE) {
		link->expired = true;
		tx_link_fail(core, link, KVF_BUSY, "the request waited for its tx as long as it may");
	} else {
		tx_want_post(core, link);
		aux_push(core, link);
	}
}
