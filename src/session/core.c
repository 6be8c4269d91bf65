/* core.c - tables, dispatch and time of the session core.
 *
 * Everything is sized by kvfi_core_open; after it nothing is allocated. An input is handled to its end, and every decision has gone to the
 * sink when kvfi_core_step returns. Posts and deadlines that an input made possible are looked at last, in one place.
 */
#include "session/state.h"

#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"

/* Ended receives that are remembered, per session that may be alive. A RESULT whose ACK was lost comes again after 50 ms, then 100: at 50,000
 * sessions a second that are some thousand others later, and one that is forgotten is told UNKNOWN, which fails a sender that has done well. */
#define ENDED_RX_PER_SESSION 16u

static uint32_t mask_for(uint32_t n)
{
	uint32_t size = 16;

	while (size < n && size < (UINT32_C(1) << 30))
		size *= 2;
	return size - 1;
}

static enum kvf_status tables_new(struct kvfi_core *core)
{
	const struct kvfi_core_config *config = &core->config;

	core->hash_mask = mask_for(config->max_links);
	core->n_arrivals = config->max_deliveries;
	core->arena.max_free = config->max_links + 2;
	core->sessions = calloc(config->max_sessions, sizeof(struct session));
	core->links = calloc(config->max_links, sizeof(struct link));
	core->deliveries = calloc(config->max_deliveries, sizeof(struct delivery));
	core->arrivals = calloc(core->n_arrivals, sizeof(struct arrival));
	core->peers = calloc(config->max_peers, sizeof(struct peer));
	core->holds = calloc(config->max_sessions, sizeof(struct hold));
	core->tx_heads = calloc((size_t)core->hash_mask + 1, sizeof(uint32_t));
	core->link_heads = calloc((size_t)core->hash_mask + 1, sizeof(uint32_t));
	core->runs = calloc(config->max_block_ids, sizeof(struct kvfi_id_run));
	core->arena.ids = calloc(config->max_block_ids, sizeof(int32_t));
	core->arena.free = calloc(core->arena.max_free, sizeof(struct id_extent));
	if (core->sessions == NULL || core->links == NULL || core->deliveries == NULL ||
		core->arrivals == NULL || core->peers == NULL || core->holds == NULL ||
		core->tx_heads == NULL || core->link_heads == NULL || core->runs == NULL ||
		core->arena.ids == NULL || core->arena.free == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for the session tables");
	return KVF_OK;
}

static void tables_init(struct kvfi_core *core)
{
	const struct kvfi_core_config *config = &core->config;

	kvfi_list_init(&core->live);
	kvfi_list_init(&core->ready);
	kvfi_list_init(&core->quarantine);
	core->flight_wake.kind = WAKE_FLIGHT;
	core->hold_wake.kind = WAKE_HOLD;
	kvfi_list_init(&core->free_links);
	kvfi_list_init(&core->free_deliveries);
	for (uint32_t i = 0; i < config->max_links; i++)
		kvfi_list_append(&core->free_links, &core->links[i].in_session);
	for (uint32_t i = 0; i < config->max_deliveries; i++)
		kvfi_list_append(&core->free_deliveries, &core->deliveries[i].node);
	for (uint32_t i = 0; i < core->n_arrivals; i++)
		core->arrivals[i].next_free = i + 1 < core->n_arrivals ? i + 1 : KVFI_NONE;
	core->n_free_deliveries = config->max_deliveries;
	for (uint32_t i = 0; i < config->max_peers; i++) {
		kvfi_list_init(&core->peers[i].links);
		kvfi_list_init(&core->peers[i].starved);
	}
	for (uint32_t i = 0; i <= core->hash_mask; i++)
		core->tx_heads[i] = core->link_heads[i] = NO_HASH;
	core->arena.free[0] = (struct id_extent){0, (uint32_t)config->max_block_ids};
	core->arena.n_free = 1;
	core->next_epoch = 1;
}

enum kvf_status kvfi_core_open(
	const struct kvfi_core_config *config, const struct kvfi_sink *sink, struct kvfi_core **core_out)
{
	struct kvfi_core *core = calloc(1, sizeof(*core));
	enum kvf_status status;

	if (core == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for the session core");
	core->config = *config;
	core->sink = *sink;
	status = tables_new(core);
	if (status == KVF_OK)
		status = kvfi_timers_init(
			&core->timers, config->max_sessions + config->max_links + config->max_deliveries + 2);
	if (status == KVF_OK)
		status = memory_init(&core->ended_tx, config->max_sessions);
	if (status == KVF_OK)
		status = memory_init(&core->ended_ask, config->max_links);
	if (status == KVF_OK)
		status = memory_init(&core->ended_rx, config->max_sessions * ENDED_RX_PER_SESSION);
	if (status == KVF_OK)
		status = memory_init(&core->given_up, config->max_sessions);
	if (status != KVF_OK) {
		kvfi_core_close(core);
		return status;
	}
	tables_init(core);
	*core_out = core;
	return KVF_OK;
}

void kvfi_core_close(struct kvfi_core *core)
{
	if (core == NULL)
		return;
	memory_fini(&core->given_up);
	memory_fini(&core->ended_rx);
	memory_fini(&core->ended_ask);
	memory_fini(&core->ended_tx);
	kvfi_timers_fini(&core->timers);
	free(core->arena.free);
	free(core->arena.ids);
	free(core->runs);
	free(core->link_heads);
	free(core->tx_heads);
	free(core->holds);
	free(core->peers);
	free(core->arrivals);
	free(core->deliveries);
	free(core->links);
	free(core->sessions);
	free(core);
}

/* ---- small things that every file uses ---- */

uint32_t link_index(const struct kvfi_core *core, const struct link *link)
{
	return (uint32_t)(link - core->links);
}

uint32_t session_index(const struct kvfi_core *core, const struct session *session)
{
	return (uint32_t)(session - core->sessions);
}

struct session *link_session(struct kvfi_core *core, const struct link *link)
{
	return link->session == KVFI_NONE ? NULL : &core->sessions[link->session];
}

struct link *link_new(struct kvfi_core *core, enum link_kind kind)
{
	struct link *link;

	if (kvfi_list_empty(&core->free_links))
		return NULL;
	link = kvfi_container_of(core->free_links.next, struct link, in_session);
	kvfi_list_remove(&link->in_session);
	memset(link, 0, sizeof(*link));
	kvfi_list_init(&link->in_session);
	kvfi_list_init(&link->in_peer);
	kvfi_list_init(&link->in_ready);
	kvfi_list_init(&link->deliveries);
	link->kind = kind;
	link->wake.kind = WAKE_LINK;
	link->session = link->peer = link->arrival = link->aux_delivery = KVFI_NONE;
	link->hash_next = NO_HASH;
	return link;
}

void link_free(struct kvfi_core *core, struct link *link)
{
	KVFI_ASSERT(link->kind != LINK_FREE && link->posted == 0 && !link->granted);
	wake_never(core, &link->wake);
	link_detach_session(core, link);
	request_unpark(core, link);
	if (link->peer != KVFI_NONE)
		link_unhash(core, link);
	kvfi_list_remove(&link->in_peer);
	kvfi_list_remove(&link->in_ready);
	link->kind = LINK_FREE;
	kvfi_list_append(&core->free_links, &link->in_session);
}

void link_attach_peer(struct kvfi_core *core, struct link *link, uint32_t peer)
{
	link->peer = peer;
	link->peer_gone = false;
	link->peer_life = core->peers[peer].life;
	kvfi_list_append(&core->peers[peer].links, &link->in_peer);
	link_hash(core, link);
}

bool kvfi_core_peer_free(const struct kvfi_core *core, uint32_t peer)
{
	return kvfi_list_empty(&core->peers[peer].links);
}

void session_init(struct kvfi_core *core, struct session *session, enum session_kind kind)
{
	KVFI_ASSERT(session->kind == SESSION_FREE);
	memset(session, 0, sizeof(*session));
	session->kind = kind;
	session->wake.kind = WAKE_SESSION;
	session->stats.open_ns = core->now_ns;
	session->hash_next = NO_HASH;
	kvfi_list_init(&session->links);
	kvfi_list_init(&session->in_quarantine);
	kvfi_list_append(&core->live, &session->node);
}

void link_detach_session(struct kvfi_core *core, struct link *link)
{
	struct session *session = link_session(core, link);

	if (session == NULL)
		return;
	kvfi_list_remove(&link->in_session);
	session->n_links--;
	link->session = KVFI_NONE;
}

void wake_at(struct kvfi_core *core, struct wake *wake, uint64_t at_ns)
{
	kvfi_timers_arm(&core->timers, &wake->timer, at_ns);
}

void wake_never(struct kvfi_core *core, struct wake *wake)
{
	kvfi_timers_disarm(&core->timers, &wake->timer);
}

void wake_again(struct kvfi_core *core, struct wake *wake, uint64_t *backoff_ns)
{
	*backoff_ns = *backoff_ns == 0 ? KVFI_RESEND_FIRST_NS : *backoff_ns * 2;
	if (*backoff_ns > KVFI_RESEND_MAX_NS)
		*backoff_ns = KVFI_RESEND_MAX_NS;
	wake_at(core, wake, core->now_ns + *backoff_ns);
}

void msg_init(struct kvfi_msg *msg, enum kvfi_msg_type type, const struct link *link)
{
	memset(&msg->header, 0, sizeof(msg->header));
	msg->block = NULL;
	msg->header.type = type;
	msg->header.instance_id = link->instance_id;
	msg->header.request_id = link->request_id;
	msg->header.attempt = link->attempt;
	msg->header.epoch = link->epoch;
}

void send_msg(struct kvfi_core *core, struct link *link, struct kvfi_msg *msg)
{
	if (link->peer != KVFI_NONE && !link->peer_gone)
		core->sink.send(core->sink.self, link->peer, msg);
}

uint64_t kvfi_ranges_hash(
	uint32_t layer_start, uint32_t layer_end, const struct kvfi_range *ranges, uint32_t n_ranges)
{
	uint64_t hash = kvfi_hash_u64(layer_start, layer_end);

	for (uint32_t i = 0; i < n_ranges; i++) {
		hash = kvfi_hash_u64(hash, ranges[i].group);
		hash = kvfi_hash_u64(hash, ranges[i].token_first);
		hash = kvfi_hash_u64(hash, ranges[i].token_end);
	}
	return hash;
}

/* ---- hashes ---- */

static uint32_t *tx_head(struct kvfi_core *core, uint64_t request_id, uint32_t attempt)
{
	return &core->tx_heads[(uint32_t)kvfi_hash_u64(request_id, attempt) & core->hash_mask];
}

struct session *tx_find(struct kvfi_core *core, uint64_t request_id, uint32_t attempt)
{
	uint32_t at = *tx_head(core, request_id, attempt);

	while (at != NO_HASH) {
		struct session *session = &core->sessions[at];

		if (session->request_id == request_id && session->attempt == attempt)
			return session;
		at = session->hash_next;
	}
	return NULL;
}

void tx_hash(struct kvfi_core *core, struct session *session)
{
	uint32_t *head = tx_head(core, session->request_id, session->attempt);

	session->hash_next = *head;
	*head = session_index(core, session);
}

void tx_unhash(struct kvfi_core *core, struct session *session)
{
	uint32_t *at = tx_head(core, session->request_id, session->attempt);

	while (*at != NO_HASH && *at != session_index(core, session))
		at = &core->sessions[*at].hash_next;
	if (*at != NO_HASH)
		*at = session->hash_next;
}

static uint32_t *link_head(struct kvfi_core *core, uint64_t key_a, uint64_t key_b)
{
	return &core->link_heads[(uint32_t)kvfi_hash_u64(key_a, key_b) & core->hash_mask];
}

static bool link_is(const struct link *link, uint64_t key_a, uint64_t key_b)
{
	if (link->kind == LINK_TX)
		return link->request_id == key_a && link->attempt == key_b;
	return link->epoch == key_a && link->peer == key_b;
}

static uint32_t *link_home(struct kvfi_core *core, const struct link *link)
{
	if (link->kind == LINK_TX)
		return link_head(core, link->request_id, link->attempt);
	return link_head(core, link->epoch, link->peer);
}

void link_hash(struct kvfi_core *core, struct link *link)
{
	uint32_t *head = link_home(core, link);

	link->hash_next = *head;
	*head = link_index(core, link);
}

void link_unhash(struct kvfi_core *core, struct link *link)
{
	uint32_t *at = link_home(core, link);

	while (*at != NO_HASH && *at != link_index(core, link))
		at = &core->links[*at].hash_next;
	if (*at != NO_HASH)
		*at = link->hash_next;
}

static struct link *link_walk(struct kvfi_core *core, uint32_t at, uint64_t key_a, uint64_t key_b)
{
	while (at != NO_HASH && !link_is(&core->links[at], key_a, key_b))
		at = core->links[at].hash_next;
	return at == NO_HASH ? NULL : &core->links[at];
}

struct link *link_first(struct kvfi_core *core, uint64_t key_a, uint64_t key_b)
{
	return link_walk(core, *link_head(core, key_a, key_b), key_a, key_b);
}

struct link *link_next(struct kvfi_core *core, const struct link *link)
{
	if (link->kind == LINK_TX)
		return link_walk(core, link->hash_next, link->request_id, link->attempt);
	return link_walk(core, link->hash_next, link->epoch, link->peer);
}

/* ---- dispatch ---- */

/* Each role takes what the other one sends; so a core has links of one kind, and no message finds one of the other. */
static bool is_for_us(const struct kvfi_core *core, enum kvfi_msg_type type)
{
	bool to_prefill = type == KVFI_MSG_REQUEST || type == KVFI_MSG_GO || type == KVFI_MSG_ACK ||
	                  type == KVFI_MSG_CANCEL || type == KVFI_MSG_HOLD;

	return core->self.instance != NULL && to_prefill == (core->self.instance->role == KVF_PREFILL);
}

static void on_message(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	if (!is_for_us(core, msg->header.type)) {
		core->counters.unexpected_messages++;
		return;
	}
	switch (msg->header.type) {
	case KVFI_MSG_REQUEST:
		on_request(core, peer, msg);
		return;
	case KVFI_MSG_REQUEST_OK:
		on_request_ok(core, peer, msg);
		return;
	case KVFI_MSG_CLAIM:
		on_claim(core, peer, msg);
		return;
	case KVFI_MSG_GO:
		on_go(core, peer, msg);
		return;
	case KVFI_MSG_RESULT:
		on_result(core, peer, msg);
		return;
	case KVFI_MSG_ACK:
		on_ack(core, peer, msg);
		return;
	case KVFI_MSG_CANCEL:
		on_cancel(core, peer, msg);
		return;
	case KVFI_MSG_QUIET:
		on_quiet(core, peer, msg);
		return;
	case KVFI_MSG_HOLD:
		on_hold(core, peer, msg);
		return;
	case KVFI_MSG_HOLD_OK:
		return; /* heard; the next one is due all the same */
	default:
		core->counters.unexpected_messages++;
	}
}

static void on_self(struct kvfi_core *core, const struct kvfi_in_self *self)
{
	core->self = *self;
	core->own_dp = kvfi_rank_dp(self->instance, self->rank);
}

static void end_all(struct kvfi_core *core, enum kvf_status status)
{
	kvfi_list_for_each_safe (at, &core->live) {
		struct session *session = kvfi_container_of(at, struct session, node);

		session_fail(core, session, status, "the agent closes");
	}
}

static void dispatch(struct kvfi_core *core, const struct kvfi_input *input)
{
	switch (input->kind) {
	case KVFI_IN_TICK:
		return;
	case KVFI_IN_SELF:
		on_self(core, &input->u.self);
		return;
	case KVFI_IN_TX_OPEN:
		tx_open(core, input->session, &input->u.tx_open);
		return;
	case KVFI_IN_TX_SEND:
		tx_send(core, input->session, input->u.slice);
		return;
	case KVFI_IN_TX_AUX:
		tx_aux(core, input->session, &input->u.aux);
		return;
	case KVFI_IN_RX_OPEN:
		rx_open(core, input->session, &input->u.rx_open);
		return;
	case KVFI_IN_SESSION_CLOSE:
		session_close(core, input->session);
		return;
	case KVFI_IN_PEER_UP:
		peer_up(core, input->peer, &input->u.peer_up);
		return;
	case KVFI_IN_PEER_DOWN:
		peer_down(core, input->peer, &input->u.peer_down);
		return;
	case KVFI_IN_MESSAGE:
		on_message(core, input->peer, input->u.msg);
		return;
	case KVFI_IN_TX_DONE:
		tx_done(core, &input->u.done);
		return;
	case KVFI_IN_RX_DONE:
		rx_done(core, &input->u.done);
		return;
	case KVFI_IN_SUMMED:
		rx_summed(core, input->u.summed.link, input->u.summed.sum);
		return;
	case KVFI_IN_PROOF:
		rx_proof(core, &input->u.proof);
		return;
	case KVFI_IN_END_ALL:
		end_all(core, input->u.end_status);
		return;
	case KVFI_IN_CANCEL:
		session_cancel(core, input->session, &input->u.cancel);
		return;
	case KVFI_IN_HOLD:
		hold_set(core, &input->u.hold);
		return;
	}
}

static void wake_up(struct kvfi_core *core, struct wake *wake)
{
	switch (wake->kind) {
	case WAKE_FLIGHT:
		flight_wake(core);
		return;
	case WAKE_HOLD:
		hold_wake(core);
		return;
	case WAKE_SESSION:
		session_wake(core, kvfi_container_of(wake, struct session, wake));
		return;
	case WAKE_DELIVERY:
		delivery_wake(core, kvfi_container_of(wake, struct delivery, wake));
		return;
	case WAKE_LINK: {
		struct link *link = kvfi_container_of(wake, struct link, wake);

		if (link->kind == LINK_TX)
			request_wake(core, link);
		else
			rx_wake(core, link);
		return;
	}
	}
}

void kvfi_core_step(struct kvfi_core *core, const struct kvfi_input *input, uint64_t now_ns)
{
	struct kvfi_timer *timer;

	core->now_ns = now_ns;
	dispatch(core, input);
	tx_pump(core);
	/* Deadlines are judged only on a tick: the caller ticks after it has drained its completions. */
	if (input->kind != KVFI_IN_TICK)
		return;
	while ((timer = kvfi_timers_pop(&core->timers, now_ns)) != NULL)
		wake_up(core, kvfi_container_of(timer, struct wake, timer));
	tx_pump(core);
}

uint64_t kvfi_core_next_ns(const struct kvfi_core *core)
{
	return kvfi_timers_next_ns(&core->timers);
}

const struct kvfi_core_counters *kvfi_core_counters(const struct kvfi_core *core)
{
	return &core->counters;
}
