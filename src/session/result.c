/* result.c - RESULTs out, ACKs in.
 *
 * Per (peer, slice) exactly one RESULT is made; it is repeated until its ACK. RESULTs of one link go one after the other, so that the receiver
 * judges them in order, while the data of the next slices already moves. A failed RESULT goes only when no post of the link is open: it says
 * that this writer is quiet. Aux follows the last KV RESULT; ranks that owe none say so at once.
 */
#include "session/state.h"

#include <stdio.h>
#include <string.h>
#include "base/assert.h"

struct delivery *delivery_new(struct kvfi_core *core, struct link *link, enum kvfi_result_kind kind)
{
	struct delivery *delivery;

	if (kvfi_list_empty(&core->free_deliveries))
		return NULL;
	delivery = kvfi_container_of(core->free_deliveries.next, struct delivery, node);
	kvfi_list_remove(&delivery->node);
	core->n_free_deliveries--;
	core->peers[link->peer].deliveries++;
	KVFI_ASSERT(delivery->state == DELIVERY_FREE && delivery->wake.timer.place == 0);
	delivery->wake.kind = WAKE_DELIVERY;
	delivery->backoff_ns = 0;
	delivery->began_ns = delivery->seen = 0;
	delivery->state = DELIVERY_READY;
	delivery->kind = kind;
	delivery->link = link_index(core, link);
	delivery->slice = NULL;
	delivery->number = 0;
	delivery->last = false;
	delivery->status = KVF_OK;
	delivery->bytes = delivery->runs = delivery->sum = 0;
	delivery->bound.bytes = delivery->bound.dropped_tokens = 0;
	delivery->bound.n_ranges = 0;
	delivery->bound.layer_start = delivery->bound.layer_end = 0;
	delivery->reason[0] = '\0';
	if (kind == KVFI_RESULT_KV)
		kvfi_list_append(&link->deliveries, &delivery->node);
	return delivery;
}

void delivery_free(struct kvfi_core *core, struct delivery *delivery)
{
	struct peer *peer = &core->peers[core->links[delivery->link].peer];

	KVFI_ASSERT(delivery->state == DELIVERY_READY || delivery->state == DELIVERY_SENT);
	wake_never(core, &delivery->wake);
	kvfi_list_remove(&delivery->node);
	delivery->state = DELIVERY_FREE;
	kvfi_list_append(&core->free_deliveries, &delivery->node);
	core->n_free_deliveries++;
	peer->deliveries--;
	if (!kvfi_list_empty(&peer->starved))
		tx_starve(core, kvfi_container_of(peer->starved.next, struct link, in_ready), false);
}

static void fill_kv(const struct delivery *delivery, struct kvfi_msg_result *result)
{
	result->last = delivery->last;
	result->slice = delivery->number;
	if (delivery->status != KVF_OK) {
		(void)snprintf(result->reason, sizeof(result->reason), "%s", delivery->reason);
		return;
	}
	result->bytes = delivery->bytes;
	result->runs = delivery->runs;
	result->sum = delivery->sum;
	result->dropped_tokens = delivery->bound.dropped_tokens;
	result->layer_start = delivery->bound.layer_start;
	result->layer_end = delivery->bound.layer_end;
	result->n_ranges = delivery->bound.n_ranges;
	for (uint32_t i = 0; i < result->n_ranges; i++)
		result->ranges[i] = delivery->bound.ranges[i].range;
}

static void fill_aux(const struct session *session, const struct link *link, const struct delivery *delivery,
	struct kvfi_msg_result *result)
{
	result->last = 1;
	result->slice = KVFI_AUX_SLICE;
	if (delivery->status != KVF_OK) {
		(void)snprintf(result->reason, sizeof(result->reason), "%s", delivery->reason);
		return;
	}
	if (link->owes_aux) {
		result->aux = session->aux;
		result->aux_bytes = session->aux_bytes;
	}
	if (result->aux_bytes > 0)
		result->sum = kvfi_msg_aux_sum(result->aux, result->aux_bytes);
}

static void send_result(struct kvfi_core *core, struct link *link, struct delivery *delivery)
{
	struct kvfi_msg msg;
	struct kvfi_msg_result *result = &msg.u.result;

	memset(result, 0, sizeof(*result));
	msg_init(&msg, KVFI_MSG_RESULT, link);
	result->kind = delivery->kind;
	result->status = delivery->status;
	if (delivery->kind == KVFI_RESULT_KV)
		fill_kv(delivery, result);
	else
		fill_aux(link_session(core, link), link, delivery, result);
	result->seal = kvfi_msg_seal(&msg);
	delivery->state = DELIVERY_SENT;
	send_msg(core, link, &msg);
	wake_again(core, &delivery->wake, &delivery->backoff_ns);
}

void results_push(struct kvfi_core *core, struct link *link)
{
	struct delivery *head;

	if (kvfi_list_empty(&link->deliveries)) {
		aux_push(core, link);
		return;
	}
	head = kvfi_container_of(link->deliveries.next, struct delivery, node);
	if (head->state != DELIVERY_READY || (head->status != KVF_OK && link->posted > 0))
		return;
	send_result(core, link, head);
	/* Nothing follows a failure. */
	while (head->status != KVF_OK && head->node.next != &link->deliveries)
		delivery_free(core, kvfi_container_of(head->node.next, struct delivery, node));
	if (head->last)
		aux_push(core, link);
}

/* The last KV RESULT is on its way or confirmed. */
static bool kv_said(const struct link *link)
{
	const struct delivery *head;

	if (link->kv_acked)
		return true;
	if (kvfi_list_empty(&link->deliveries))
		return false;
	head = kvfi_container_of(link->deliveries.next, const struct delivery, node);
	return head->last && head->state == DELIVERY_SENT && head->status == KVF_OK;
}

void aux_push(struct kvfi_core *core, struct link *link)
{
	struct session *session = link_session(core, link);
	struct delivery *delivery;

	if (link->aux != AUX_OWED || link->peer_gone || link->cancelled || !kv_said(link))
		return;
	if (link->failing == KVF_OK && (session == NULL || (link->owes_aux && !session->aux_given)))
		return;
	delivery = delivery_new(core, link, KVFI_RESULT_AUX);
	if (delivery == NULL) { /* tried again when the KV RESULT is confirmed, or by the timer */
		wake_at(core, &link->wake, core->now_ns + KVFI_RESEND_FIRST_NS);
		return;
	}
	link->aux = AUX_SENT;
	link->aux_delivery = (uint32_t)(delivery - core->deliveries);
	delivery->status = link->failing;
	if (link->owes_aux && link->failing == KVF_OK && session->aux_bytes > link->aux_room) {
		delivery->status = KVF_AUX_REFUSED;
		(void)snprintf(delivery->reason, sizeof(delivery->reason),
			"aux: %u bytes were given, the slot has %u", session->aux_bytes, link->aux_room);
	} else if (link->failing != KVF_OK) {
		link->failure_placed = true;
		(void)snprintf(delivery->reason, sizeof(delivery->reason), "%.*s",
			(int)sizeof(delivery->reason) - 1,
			session != NULL ? session->error : kvf_status_text(link->failing));
	}
	send_result(core, link, delivery);
}

void delivery_wake(struct kvfi_core *core, struct delivery *delivery)
{
	struct link *link = &core->links[delivery->link];

	if (delivery->state != DELIVERY_SENT || link->peer_gone)
		return;
	/* The data went back to the user with RELEASED. */
	if (delivery->kind == KVFI_RESULT_AUX && delivery->status == KVF_OK &&
		link_session(core, link) == NULL) {
		delivery->status = KVF_TX_ENDED;
		(void)snprintf(delivery->reason, sizeof(delivery->reason), "the sending session has ended");
	}
	send_result(core, link, delivery);
}

/* ---- ACK ---- */

static struct delivery *find_sent(
	struct kvfi_core *core, const struct link *link, const struct kvfi_msg_ack *ack)
{
	struct delivery *delivery = NULL;

	if (ack->kind == KVFI_RESULT_AUX) {
		if (link->aux_delivery != KVFI_NONE)
			delivery = &core->deliveries[link->aux_delivery];
	} else if (!kvfi_list_empty(&link->deliveries)) {
		delivery = kvfi_container_of(link->deliveries.next, struct delivery, node);
		if (delivery->number != ack->slice)
			delivery = NULL;
	}
	return delivery != NULL && delivery->state == DELIVERY_SENT ? delivery : NULL;
}

static void link_finish(struct kvfi_core *core, struct link *link)
{
	struct session *session = link_session(core, link);

	if (!link->kv_acked || (link->aux != AUX_NONE && link->aux != AUX_DONE) || link->counted)
		return;
	link->counted = true;
	if (session == NULL) {
		tx_link_over(core, link);
		return;
	}
	session->finished++;
	flight_look(core, session);
	if (session->finished < session->expected || session->outcome_told)
		return;
	session_state(core, session, KVF_STATE_FULLY_TRANSFERRED);
	session_complete(core, session);
}

static void slice_acked(struct kvfi_core *core, struct link *link, struct delivery *delivery)
{
	struct session *session = link_session(core, link);
	struct kvfi_tx_slice *slice = delivery->slice;
	bool last = delivery->last;

	delivery_free(core, delivery);
	link->open--;
	link->kv_acked = link->kv_acked || last;
	flight_moved(core);
	if (session == NULL || session->outcome_told)
		return;
	deadline_waits(core, session);
	flight_look(core, session);
	if (++slice->acks == session->expected)
		session_tell(core, session, KVF_EVENT_SLICE, KVF_OK, slice->number);
	if (last && ++session->kv_acked == session->expected)
		session_state(core, session, KVF_STATE_KV_TRANSFERRED);
}

static void receiver_failed(struct kvfi_core *core, struct link *link, const struct kvfi_msg_ack *ack)
{
	struct session *session = link_session(core, link);
	enum kvf_status failed = ack->status != KVF_OK ? ack->status : KVF_PROTOCOL;
	enum kvf_status status = ack->verdict == KVFI_VERDICT_UNKNOWN ? KVF_UNCONFIRMED : failed;

	/* It will take nothing more: stop, and forget it when the posts are out. */
	link->cancelled = true;
	tx_link_stop(core, link);
	if (session != NULL)
		session_fail(
			core, session, status, "decode rank %u: %s", link->rank, kvf_status_text(status));
	if (link->kind != LINK_FREE && link->posted == 0)
		tx_link_over(core, link);
	if (session != NULL)
		session_try_release(core, session);
}

/* What one damaged field makes of an ACK. */
static bool contradicts_itself(const struct kvfi_msg_ack *ack)
{
	return (ack->verdict == KVFI_VERDICT_APPLIED && ack->status != KVF_OK) ||
	       (ack->kind == KVFI_RESULT_AUX) != (ack->slice == KVFI_AUX_SLICE);
}

void on_ack(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	const struct kvfi_msg_ack *ack = &msg->u.ack;
	struct link *link = request_find(core, peer, &msg->header);
	struct delivery *delivery = link != NULL ? find_sent(core, link, ack) : NULL;

	if (contradicts_itself(ack)) {
		core->counters.unexpected_messages++; /* the RESULT is said again, and answered again */
		return;
	}
	if (delivery == NULL || link->cancelled)
		return; /* a repeated one */
	if (delivery->status != KVF_OK && delivery->kind == KVFI_RESULT_KV) {
		tx_link_over(core, link); /* the failure was heard */
		return;
	}
	if (ack->verdict != KVFI_VERDICT_APPLIED) {
		receiver_failed(core, link, ack);
		return;
	}
	if (delivery->kind == KVFI_RESULT_AUX) {
		bool failed = delivery->status != KVF_OK;

		link->aux_delivery = KVFI_NONE;
		link->aux = AUX_DONE;
		if (failed && link_session(core, link) != NULL)
			session_fail(
				core, link_session(core, link), delivery->status, "%s", delivery->reason);
		delivery_free(core, delivery);
		flight_moved(core);
		link_finish(core, link);
		return;
	}
	slice_acked(core, link, delivery);
	results_push(core, link);
	if (link->next_slice != NULL && !link->last_started)
		tx_want_post(core, link);
	link_finish(core, link);
}
