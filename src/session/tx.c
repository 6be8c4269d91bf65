/* tx.c - sending sessions: which slice goes to which receiver, and when.
 *
 * A session has a list of slices in order; each link walks it on its own. A link may have KVFI_WINDOW slices open, so that data flows while
 * RESULTs are on their way; the pool of deliveries bounds all links together, and links take turns in the ready list. Order does not
 * matter: a link that joins late starts at the first slice.
 */
#include "session/state.h"

#include <stdio.h>
#include "base/assert.h"
#include "base/clock.h"
#include "base/status.h"

/* Requests that came before: the first decode instance among them is the one. */
static void adopt_parked(struct kvfi_core *core, struct session *session)
{
	struct link *link = link_first(core, session->request_id, session->attempt);

	while (link != NULL) {
		struct link *next = link_next(core, link);

		if (link->session != KVFI_NONE || link->peer_gone || link->cancelled ||
			link->failing != KVF_OK)
			; /* over, or told so */
		else if (session->outcome_told)
			tx_link_fail(core, link, session->outcome, session->error);
		else
			tx_adopt(core, session, link);
		link = next;
	}
}

void tx_open(struct kvfi_core *core, uint32_t slot, const struct kvfi_in_tx_open *in)
{
	struct session *session = &core->sessions[slot];
	enum kvf_status given_up;
	uint32_t rank;

	session_init(core, session, SESSION_TX);
	session->instance_id = core->self.instance->id;
	session->request_id = in->request_id;
	session->attempt = in->attempt;
	session->prompt_len = in->prompt_len;
	session->expires_ns =
		in->expires_ns < KVFI_NEVER - core->now_ns ? core->now_ns + in->expires_ns : KVFI_NEVER;
	tx_hash(core, session);
	deadline_open(core, session);
	memory_forget(&core->ended_tx, in->request_id, in->attempt);
	given_up = request_given_up(core, in->request_id, in->attempt, &rank);
	if (given_up != KVF_OK)
		session_fail(core, session, given_up, "decode rank %u has given up before: %s", rank,
			kvf_status_text(given_up));
	adopt_parked(core, session);
}

static const struct kvf_pair *pair_with(const struct kvfi_pair_list *list, uint32_t dst)
{
	for (uint32_t i = 0; i < list->n; i++)
		if (list->pairs[i].dst == dst)
			return &list->pairs[i];
	return NULL;
}

/* The first one that asks decides which decode instance and DP group get the request. */
static bool bind_instance(struct kvfi_core *core, struct session *session, const struct link *link)
{
	const struct peer *peer = &core->peers[link->peer];

	if (session->bound)
		return session->decode_instance == peer->instance_id && session->dp_rank == link->dp_rank;
	session->bound = true;
	session->decode_instance = peer->instance_id;
	session->dp_rank = link->dp_rank;
	session->expected = peer->info.by_dp[link->dp_rank].n;
	session->stats.peers = session->expected;
	return true;
}

static void tell_ready(struct kvfi_core *core, struct session *session)
{
	if (session->ready_told || session->n_links < session->expected)
		return;
	session->ready_told = true;
	session->stats.ready_ns = core->now_ns;
	session_state(core, session, KVF_STATE_READY);
	session_tell(core, session, KVF_EVENT_READY, KVF_OK, 0);
}

void tx_adopt(struct kvfi_core *core, struct session *session, struct link *link)
{
	const struct kvf_pair *pair;

	wake_never(core, &link->wake);
	request_unpark(core, link);
	link->backoff_ns = 0;
	if (!bind_instance(core, session, link)) {
		tx_link_fail(core, link, KVF_DUPLICATE,
			"the request is bound to another decode instance or DP index");
		return;
	}
	pair = pair_with(&core->peers[link->peer].info.by_dp[link->dp_rank], link->rank);
	KVFI_ASSERT(pair != NULL); /* on_request has checked it */
	link->session = session_index(core, session);
	kvfi_list_append(&session->links, &link->in_session);
	session->n_links++;
	link->next_slice = session->slices;
	link->owes_aux = pair->aux != 0;
	if (link->prompt_len != session->prompt_len) {
		session_fail(core, session, KVF_PROMPT_MISMATCH,
			"prompt_len: prefill has %llu, decode rank %u asks for %llu",
			(unsigned long long)session->prompt_len, link->rank,
			(unsigned long long)link->prompt_len);
		return;
	}
	tell_ready(core, session);
	if (link->authority)
		tx_want_post(core, link);
	else
		send_claim(core, link);
	flight_look(core, session);
}

void tx_send(struct kvfi_core *core, uint32_t slot, struct kvfi_tx_slice *slice)
{
	struct session *session = &core->sessions[slot];

	KVFI_ASSERT(session->kind == SESSION_TX && !session->last_given);
	if (session->outcome_told)
		return;
	slice->next = NULL;
	slice->acks = 0;
	if (session->slices_tail != NULL)
		session->slices_tail->next = slice;
	else
		session->slices = slice;
	session->slices_tail = slice;
	session->stats.slices++;
	session->last_given = slice->last;
	session->blocks_bytes += lists_bytes(core, slice->lists);
	kvfi_list_for_each (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);

		if (link->next_slice == NULL)
			link->next_slice = slice;
		if (link->authority)
			tx_want_post(core, link);
	}
	flight_look(core, session);
}

void tx_aux(struct kvfi_core *core, uint32_t slot, const struct kvfi_in_aux *aux)
{
	struct session *session = &core->sessions[slot];

	session->aux = aux->data;
	session->aux_bytes = aux->len_bytes;
	session->aux_given = true;
	if (session->outcome_told)
		return;
	kvfi_list_for_each_safe (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);

		if (!session->outcome_told)
			aux_push(core, link);
	}
	flight_look(core, session);
}

void tx_want_post(struct kvfi_core *core, struct link *link)
{
	if (kvfi_list_empty(&link->in_ready))
		kvfi_list_append(&core->ready, &link->in_ready);
}

/* ---- posts ---- */

static enum kvf_status post_delivery(struct kvfi_core *core, struct link *link, struct delivery *delivery)
{
	struct kvfi_core_post post = {.delivery = (uint32_t)(delivery - core->deliveries),
		.peer = link->peer,
		.request_id = link->request_id,
		.attempt = link->attempt,
		.epoch = link->epoch,
		.slice = delivery->number,
		.lease_slot = link->lease_slot,
		.lease_generation = link->lease_generation,
		.sum = link->sum,
		.bound = &delivery->bound};
	enum kvf_status status;

	delivery->state = DELIVERY_POSTED;
	link->posted++;
	link_session(core, link)->posts_open++;
	status = core->sink.post(core->sink.self, &post);
	if (status == KVF_OK)
		return KVF_OK;
	delivery->state = DELIVERY_READY;
	link->posted--;
	link_session(core, link)->posts_open--;
	return status;
}

/* False: no room now, nothing has changed. */
static bool start_slice(struct kvfi_core *core, struct link *link)
{
	struct session *session = link_session(core, link);
	struct kvfi_tx_slice *slice = link->next_slice;
	struct delivery *delivery = delivery_new(core, link, KVFI_RESULT_KV);
	uint64_t began_ns = core->sink.stamp(core->sink.self);
	enum kvf_status status;

	if (delivery == NULL)
		return false;
	delivery->slice = slice;
	delivery->last = slice->last;
	delivery->number = link->next_number;
	status = kvfi_bind(core->peers[link->peer].info.plans[link->replica], &slice->shape, slice->lists,
		link->dst, &delivery->bound);
	session->stats.plan_ns += core->sink.stamp(core->sink.self) - began_ns;
	if (status == KVF_OK && delivery->bound.bytes > 0 && !session_advertise(core, session)) {
		delivery_free(core, delivery);
		return true;
	}
	if (status == KVF_OK && delivery->bound.bytes > 0)
		status = post_delivery(core, link, delivery);
	if (status == KVF_EFULL) {
		delivery_free(core, delivery);
		return false;
	}
	if (status != KVF_OK) {
		delivery_free(core, delivery);
		session_fail(core, session, status, "slice %u for decode rank %u: %s", slice->number,
			link->rank, kvf_error());
		return true;
	}
	link->next_number++;
	link->next_slice = slice->next;
	link->last_started = delivery->last;
	link->open++;
	session_state(core, session, KVF_STATE_TRANSFERRING);
	if (session->stats.first_byte_ns == 0)
		session->stats.first_byte_ns = core->now_ns;
	if (delivery->state == DELIVERY_READY) {
		deadline_delivery(core, session, delivery, core->now_ns);
		results_push(core, link);
	}
	deadline_begins(core, session);
	return true;
}

static bool may_start(struct kvfi_core *core, const struct link *link)
{
	const struct session *session = link_session(core, link);

	return session != NULL && !session->outcome_told && !session->called_off && link->authority &&
	       !link->peer_gone && !link->cancelled && link->failing == KVF_OK && !link->last_started &&
	       link->next_slice != NULL && link->open < KVFI_WINDOW;
}

/* A peer that acknowledges nothing keeps its deliveries; so that it does not keep all, nobody may have more than are free. One peer alone comes to
 * half of them, and however many have stopped, some are left for the next. */
static bool has_share(const struct kvfi_core *core, const struct link *link)
{
	uint32_t has = core->peers[link->peer].deliveries;

	return has < KVFI_WINDOW || has < core->n_free_deliveries;
}

void tx_starve(struct kvfi_core *core, struct link *link, bool starved)
{
	kvfi_list_remove(&link->in_ready);
	kvfi_list_append(starved ? &core->peers[link->peer].starved : &core->ready, &link->in_ready);
}

void tx_pump(struct kvfi_core *core)
{
	while (!kvfi_list_empty(&core->ready)) {
		struct link *link = kvfi_container_of(core->ready.next, struct link, in_ready);

		kvfi_list_remove(&link->in_ready);
		if (!may_start(core, link))
			continue;
		if (!has_share(core, link)) {
			tx_starve(core, link, true);
			continue;
		}
		if (!start_slice(core, link)) {
			/* Every table entry is held by something that will end: the end of a post or an ACK pumps again, a tick at the latest. */
			kvfi_list_append(&core->ready, &link->in_ready);
			wake_at(core, &link->wake, core->now_ns + KVFI_NS_PER_MS);
			return;
		}
		if (link->kind == LINK_TX && may_start(core, link))
			tx_want_post(core, link);
	}
}

/* ---- what a transport says ---- */

static void delivery_done(struct session *session, struct delivery *delivery, const struct kvfi_in_done *done)
{
	delivery->state = DELIVERY_READY;
	delivery->bytes = done->bytes;
	delivery->runs = done->runs;
	delivery->sum = done->sum;
	session->stats.bytes += done->bytes;
	session->stats.runs += done->runs;
	if (done->last_ns > session->stats.last_byte_ns)
		session->stats.last_byte_ns = done->last_ns;
}

void tx_done(struct kvfi_core *core, const struct kvfi_in_done *done)
{
	struct delivery *delivery = &core->deliveries[done->id];
	struct link *link = &core->links[delivery->link];
	struct session *session = link_session(core, link);

	KVFI_ASSERT(delivery->state == DELIVERY_POSTED && session != NULL && link->posted > 0);
	link->posted--;
	session->posts_open--;
	delivery_done(session, delivery, done);
	deadline_delivery(core, session, delivery, done->first_ns);
	if (link->peer_gone) {
		if (link->posted == 0)
			tx_link_over(core, link);
	} else if (link->cancelled) {
		if (link->posted == 0)
			link_cancelled(core, link);
	} else if (link->failing != KVF_OK) {
		results_push(core, link);
	} else if (done->status != KVF_OK) {
		session_fail(core, session, done->status, "slice %u to decode rank %u: %s", delivery->number,
			link->rank,
			done->reason != NULL && done->reason[0] != '\0' ? done->reason
									: kvf_status_text(done->status));
	} else if (delivery->bytes != delivery->bound.bytes) {
		session_fail(core, session, KVF_COVERAGE,
			"slice %u to decode rank %u: %llu bytes moved, the plan has %llu", delivery->number,
			link->rank, (unsigned long long)delivery->bytes,
			(unsigned long long)delivery->bound.bytes);
	} else {
		results_push(core, link);
	}
	session_try_release(core, session);
}

/* ---- the end of a link ---- */

void tx_link_stop(struct kvfi_core *core, struct link *link)
{
	kvfi_list_for_each (at, &link->deliveries) {
		struct delivery *delivery = kvfi_container_of(at, struct delivery, node);

		if (delivery->state == DELIVERY_POSTED)
			core->sink.post_cancel(
				core->sink.self, (uint32_t)(delivery - core->deliveries), link->peer);
	}
}

/* The delivery that shall carry the failure: the first one whose RESULT is not out. Later ones say nothing any more. */
static struct delivery *failing_delivery(struct kvfi_core *core, struct link *link)
{
	struct delivery *found = NULL;

	kvfi_list_for_each_safe (at, &link->deliveries) {
		struct delivery *delivery = kvfi_container_of(at, struct delivery, node);

		if (delivery->state == DELIVERY_SENT)
			continue;
		if (found == NULL)
			found = delivery;
		else if (delivery->state == DELIVERY_READY)
			delivery_free(core, delivery);
	}
	if (found != NULL)
		return found;
	found = delivery_new(core, link, KVFI_RESULT_KV);
	if (found != NULL) {
		found->number = link->next_number++;
		link->open++;
	}
	return found;
}

/* Make the failing RESULT of a link and send it when its posts are out. */
void tx_fail_push(struct kvfi_core *core, struct link *link, const char *reason)
{
	struct delivery *delivery;

	if (link->kv_acked) {
		aux_push(core, link);
		return;
	}
	delivery = failing_delivery(core, link);
	if (delivery == NULL) { /* every delivery is busy; they end */
		wake_at(core, &link->wake, core->now_ns + KVFI_NS_PER_MS);
		return;
	}
	link->failure_placed = true;
	delivery->last = true;
	delivery->status = link->failing;
	(void)snprintf(delivery->reason, sizeof(delivery->reason), "%s", reason);
	results_push(core, link);
}

void tx_link_fail(struct kvfi_core *core, struct link *link, enum kvf_status status, const char *reason)
{
	if (link->counted || link->cancelled || link->peer_gone || link->failing != KVF_OK)
		return;
	wake_never(core, &link->wake);
	link->claiming = false;
	link->failing = status;
	link->last_started = true;
	tx_link_stop(core, link);
	tx_fail_push(core, link, reason);
}

void tx_link_over(struct kvfi_core *core, struct link *link)
{
	struct remembered record = {.key_a = link->peer_life,
		.key_b = link->epoch,
		.peer = link->peer,
		.status = link->expired ? KVF_BUSY : KVF_STALE_EPOCH};

	KVFI_ASSERT(link->posted == 0);
	while (!kvfi_list_empty(&link->deliveries))
		delivery_free(core, kvfi_container_of(link->deliveries.next, struct delivery, node));
	if (link->aux_delivery != KVFI_NONE)
		delivery_free(core, &core->deliveries[link->aux_delivery]);
	memory_put(core, &core->ended_ask, &record);
	ids_give(core, link->ids_start, link->ids_n);
	link_free(core, link);
}
