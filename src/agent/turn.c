/* turn.c - the owner's half of an agent: inbox -> control -> transports -> leases -> time -> actions.
 *
 * Everything here runs on the owner thread, but for the few functions that say "any thread", which only push into the inbox. A turn drains
 * all completions before it ticks, so that no deadline is judged over a completion that has already come. The owner sleeps in one epoll
 * descriptor; nothing spins.
 */
#include "agent/agent.h"
#include "agent/group.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include "base/assert.h"
#include "base/clock.h"
#include "base/status.h"
#include "wire/codec.h"

#define LEASE_LOOK_NS   (UINT64_C(1) * KVFI_NS_PER_MS) /* how often revoked leases are read again */
#define MESSAGES_A_TURN 256

void kvfi_owner_step(kvf_agent *agent, const struct kvfi_input *input)
{
	if (agent->recorder != NULL)
		kvfi_recorder_step(agent->recorder, agent->core, input, kvfi_clock_ns());
	else
		kvfi_core_step(agent->core, input, kvfi_clock_ns());
	if (agent->n_dropping > 0)
		kvfi_peers_drop(agent);
}

/* ---- into the inbox: any thread ---- */

static bool on_owner(kvf_agent *agent)
{
	return pthread_equal(pthread_self(), atomic_load(&agent->owner)) != 0;
}

/* Without a progress thread whoever calls is the owner, and the sockets go with it. */
void kvfi_owner_adopt(kvf_agent *agent)
{
	if (agent->threaded || on_owner(agent))
		return;
	atomic_store(&agent->owner, pthread_self());
	if (agent->control != NULL)
		kvfi_control_of(agent)->adopt(agent->control);
}

/* Not at once: its transport is in the middle of what it read from it. Once for each connection, so the inbox has room. */
static void lose_soon(kvf_agent *agent, uint32_t slot, const char *reason)
{
	struct agent_peer *peer = &agent->peers[slot];
	struct item item = {.kind = ITEM_DONE};

	if (peer->bad_frame)
		return;
	item.u.done.kind = KVFI_DONE_BROKEN;
	item.u.done.status = KVF_PROTOCOL;
	item.u.done.transport = peer->transport;
	item.u.done.peer = slot;
	(void)snprintf(item.u.done.reason, sizeof(item.u.done.reason), "%.*s",
		(int)sizeof(item.u.done.reason) - 1, reason);
	peer->bad_frame = kvfi_inbox_push(&agent->inbox, &item, 0);
}

static void hot_frame(kvf_agent *agent, uint32_t slot, const void *frame, size_t len_bytes)
{
	struct agent_peer *peer = &agent->peers[slot];
	struct kvfi_msg msg;
	struct kvfi_input input = {.kind = KVFI_IN_MESSAGE, .peer = slot, .u.msg = &msg};
	enum kvf_status status;

	KVFI_ASSERT(on_owner(agent));
	if (peer->state != PEER_UP || peer->bad_frame)
		return;
	status = kvfi_msg_decode(frame, len_bytes, &msg);
	if (status == KVF_ENOMEM)
		return; /* as one that was lost: it comes again */
	if (status != KVF_OK) {
		lose_soon(agent, slot, kvf_error());
		return;
	}
	if (msg.header.from == peer->incarnation && msg.header.to == agent->incarnation &&
		msg.header.link == peer->link && kvfi_msg_may_ride(msg.header.type)) {
		kvfi_liveness_heard(agent, slot);
		kvfi_owner_step(agent, &input);
	}
	kvfi_msg_fini(&msg);
}

void kvfi_transport_notify(void *self, const struct kvfi_done *done)
{
	struct agent_transport *transport = self;
	kvf_agent *agent = transport->agent;
	struct item item = {.kind = ITEM_DONE};
	struct item_done *to = &item.u.done;

	if (done->kind == KVFI_DONE_FRAME) {
		hot_frame(agent, done->peer, done->frame, done->frame_bytes);
		return;
	}
	to->kind = done->kind;
	to->status = done->status;
	to->transport = transport->index;
	to->peer = done->peer;
	to->id = done->id;
	to->epoch = done->epoch;
	to->slice = done->slice;
	to->bytes = done->bytes;
	to->runs = done->runs;
	to->sum = done->sum;
	to->first_ns = done->first_ns;
	to->last_ns = done->last_ns;
	memcpy(to->reason, done->reason, sizeof(to->reason));
	if (done->kind == KVFI_DONE_RX)
		to->ranges_hash =
			kvfi_ranges_hash(done->layer_start, done->layer_end, done->ranges, done->n_ranges);
	/* Posts are bounded by the delivery table, UP and BROKEN by the peers: `keep` holds their room. Slices that begin under a grant are
	 * the sender's to choose, so a stream's thread waits for room. */
	if (done->kind == KVFI_DONE_RX && !on_owner(agent))
		(void)kvfi_inbox_push_wait(&agent->inbox, &item, agent->keep);
	else if (on_owner(agent) && agent->in_turn)
		KVFI_ASSERT(kvfi_inbox_push_own(&agent->inbox, &item) || atomic_load(&agent->stop));
	else
		KVFI_ASSERT(kvfi_inbox_push(&agent->inbox, &item, 0) || atomic_load(&agent->stop));
}

void kvfi_control_wake(void *self)
{
	kvfi_inbox_wake(&((kvf_agent *)self)->inbox);
}

/* Without a progress thread the user sleeps in kvf_fd: it must wake for deadlines too. */
static void arm_timer_fd(kvf_agent *agent)
{
	uint64_t at_ns = agent->next_tick_ns == 0 ? 1 : agent->next_tick_ns;
	struct itimerspec when = {{0, 0}, {0, 0}};

	if (agent->timer_fd < 0)
		return;
	if (at_ns != KVFI_NEVER) {
		when.it_value.tv_sec = (time_t)(at_ns / KVFI_NS_PER_S);
		when.it_value.tv_nsec = (long)(at_ns % KVFI_NS_PER_S);
	}
	(void)timerfd_settime(agent->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static uint64_t next_wake_ns(const kvf_agent *agent)
{
	uint64_t next_ns = kvfi_core_next_ns(agent->core);

	if (agent->health_due_ns < next_ns)
		next_ns = agent->health_due_ns;
	if (agent->peers_due_ns < next_ns)
		next_ns = agent->peers_due_ns;
	if (agent->groups_due_ns < next_ns)
		next_ns = agent->groups_due_ns;
	if (agent->n_watches > 0 && kvfi_clock_ns() + LEASE_LOOK_NS < next_ns)
		next_ns = kvfi_clock_ns() + LEASE_LOOK_NS;
	return next_ns;
}

/* Without a progress thread: a call between two polls may have set deadlines that the sleeper does not know of. */
static void want_turn(kvf_agent *agent)
{
	uint64_t next_ns = next_wake_ns(agent);

	if (next_ns >= agent->next_tick_ns)
		return;
	agent->next_tick_ns = next_ns;
	arm_timer_fd(agent);
}

bool kvfi_owner_tell(kvf_agent *agent, const struct item *item)
{
	if (!agent->threaded) {
		kvfi_owner_adopt(agent);
		kvfi_owner_item(agent, item);
		want_turn(agent);
		return true;
	}
	return kvfi_inbox_push(&agent->inbox, item, agent->keep);
}

bool kvfi_owner_input(kvf_agent *agent, const struct item_input *input)
{
	const struct item item = {.kind = ITEM_INPUT, .u.input = *input};

	return kvfi_owner_tell(agent, &item);
}

enum kvf_status kvfi_owner_call(
	kvf_agent *agent, enum kvf_status (*run)(kvf_agent *agent, void *arguments), void *arguments)
{
	struct call call = {.run = run, .arguments = arguments};
	struct item item = {.kind = ITEM_CALL, .u.call = &call};

	if (!agent->threaded) {
		enum kvf_status status;

		kvfi_owner_adopt(agent);
		status = run(agent, arguments);
		want_turn(agent);
		return status;
	}
	if (!kvfi_inbox_push_wait(&agent->inbox, &item, agent->keep))
		return kvfi_fail(KVF_EINTERNAL, "the agent is closing");
	(void)pthread_mutex_lock(&agent->call_lock);
	while (!call.done)
		(void)pthread_cond_wait(&agent->call_done, &agent->call_lock);
	(void)pthread_mutex_unlock(&agent->call_lock);
	return call.status == KVF_OK ? KVF_OK : kvfi_fail(call.status, "%s", call.error);
}

/* ---- out of the inbox: owner ---- */

static void run_call(kvf_agent *agent, struct call *call)
{
	call->status = call->run(agent, call->arguments);
	(void)snprintf(call->error, sizeof(call->error), "%s", kvf_error());
	(void)pthread_mutex_lock(&agent->call_lock);
	call->done = true;
	(void)pthread_cond_broadcast(&agent->call_done);
	(void)pthread_mutex_unlock(&agent->call_lock);
}

/* A wait that the end of the agent ends has not got what it waited for. */
void kvfi_owner_refuse_calls(kvf_agent *agent)
{
	struct item item;

	while (kvfi_inbox_pop(&agent->inbox, &item)) {
		if (item.kind != ITEM_CALL)
			continue;
		(void)pthread_mutex_lock(&agent->call_lock);
		item.u.call->status = KVF_EINTERNAL;
		(void)snprintf(item.u.call->error, sizeof(item.u.call->error), "the agent is closing");
		item.u.call->done = true;
		(void)pthread_cond_broadcast(&agent->call_done);
		(void)pthread_mutex_unlock(&agent->call_lock);
	}
}

static void run_input(kvf_agent *agent, const struct item_input *from)
{
	struct kvfi_input input = {.kind = from->kind, .session = from->session};

	switch (from->kind) {
	case KVFI_IN_TX_OPEN:
		input.u.tx_open = from->u.tx_open;
		break;
	case KVFI_IN_TX_SEND:
		input.u.slice = from->u.slice;
		break;
	case KVFI_IN_TX_AUX:
		input.u.aux = from->u.aux;
		break;
	case KVFI_IN_RX_OPEN:
		input.u.rx_open = *from->u.rx_open;
		break;
	case KVFI_IN_HOLD:
		input.u.hold = from->u.hold;
		break;
	default:
		break;
	}
	if (from->kind == KVFI_IN_TX_OPEN || from->kind == KVFI_IN_RX_OPEN)
		kvfi_cancels_opening(agent, from->session);
	kvfi_owner_step(agent, &input);
	if (from->kind == KVFI_IN_TX_OPEN || from->kind == KVFI_IN_RX_OPEN)
		kvfi_cancels_opened(agent, from->session);
	else if (from->kind == KVFI_IN_SESSION_CLOSE)
		kvfi_cancels_closed(agent, from->session);
}

static void run_done(kvf_agent *agent, const struct item_done *done)
{
	struct kvfi_input input = {.kind = done->kind == KVFI_DONE_TX ? KVFI_IN_TX_DONE : KVFI_IN_RX_DONE,
		.u.done = {.id = (uint32_t)done->id,
			.epoch = done->epoch,
			.status = done->status,
			.slice = done->slice,
			.bytes = done->bytes,
			.runs = done->runs,
			.sum = done->sum,
			.first_ns = done->first_ns,
			.last_ns = done->last_ns,
			.ranges_hash = done->ranges_hash,
			.reason = done->reason}};

	if (done->kind == KVFI_DONE_UP)
		kvfi_path_up(agent, done->transport, done->peer);
	else if (done->kind == KVFI_DONE_BROKEN)
		kvfi_path_broken(agent, done->transport, done->peer, done->status, done->reason);
	else
		kvfi_owner_step(agent, &input);
}

void kvfi_owner_item(kvf_agent *agent, const struct item *item)
{
	switch (item->kind) {
	case ITEM_INPUT:
		run_input(agent, &item->u.input);
		return;
	case ITEM_CALL:
		run_call(agent, item->u.call);
		return;
	case ITEM_DONE:
		run_done(agent, &item->u.done);
		return;
	case ITEM_SUMMED: {
		struct kvfi_input input = {.kind = KVFI_IN_SUMMED,
			.u.summed = {.link = item->u.summed.link, .sum = item->u.summed.sum}};

		kvfi_owner_step(agent, &input);
		return;
	}
	case ITEM_GROUP:
		kvfi_group_item(agent, item->u.group.place, item->u.group.round, item->u.group.len_bytes);
		return;
	}
}

static void drain_inbox(kvf_agent *agent)
{
	struct item item;

	while (kvfi_inbox_pop(&agent->inbox, &item))
		kvfi_owner_item(agent, &item);
}

/* Ways are few; whoever was not taken as a peer is given a new one with his next message. */
static void forget_stranger(kvf_agent *agent, uint32_t way)
{
	if (way != KVFI_NO_WAY && !kvfi_way_is_used(agent, way))
		kvfi_control_of(agent)->forget(agent->control, way);
}

static void control_message(kvf_agent *agent, struct kvfi_received *received)
{
	const struct kvfi_msg_header *header = &received->msg.header;
	struct kvfi_input input = {.kind = KVFI_IN_MESSAGE, .u.msg = &received->msg};

	if (header->type <= KVFI_MSG_REFUSE || header->type == KVFI_MSG_BYE) {
		kvfi_hello_message(agent, received->way, &received->msg);
		forget_stranger(agent, received->way);
		return;
	}
	if (header->type == KVFI_MSG_GROUP) { /* members are no peers: they are known by their places */
		kvfi_group_message(agent, &received->msg);
		forget_stranger(agent, received->way);
		return;
	}
	input.peer = header->to == agent->incarnation /* else meant for the one that was here before */
	                     ? kvfi_peer_by_way(agent, received->way, header->from, header->link)
	                     : KVFI_NONE;
	if (input.peer == KVFI_NONE || agent->peers[input.peer].state == PEER_DOWN) {
		kvfi_hello_bar(agent, received->way, &received->msg);
		forget_stranger(agent, received->way);
	} else if (agent->peers[input.peer].state == PEER_UP &&
		   !kvfi_liveness_message(agent, input.peer, &received->msg)) {
		kvfi_owner_step(agent, &input);
	}
}

static bool drain_control(kvf_agent *agent)
{
	struct kvfi_received *received = (struct kvfi_received *)(void *)agent->frame;
	const struct kvfi_control_ops *ops = kvfi_control_of(agent);
	int n = 0;

	while (n < MESSAGES_A_TURN) {
		enum kvfi_control_kind kind = ops->recv(agent->control, received);

		if (kind == KVFI_CONTROL_NONE)
			break;
		n++;
		if (kind == KVFI_CONTROL_GARBAGE) {
			kvfi_hello_garbage(agent, received->way, received->status, received->reason);
			forget_stranger(agent, received->way);
			continue;
		}
		control_message(agent, received);
		kvfi_msg_fini(&received->msg);
	}
	return n > 0;
}

void kvfi_owner_turn(kvf_agent *agent)
{
	struct kvfi_input tick = {.kind = KVFI_IN_TICK};
	bool more = true;

	kvfi_owner_adopt(agent);
	kvfi_inbox_rearm(&agent->inbox);
	agent->in_turn = true;
	for (int round = 0; more && round < 16; round++) {
		agent->sent = false;
		drain_inbox(agent);
		more = drain_control(agent);
		for (uint32_t i = 0; i < agent->n_transports; i++)
			agent->transports[i].ops->poll(agent->transports[i].self);
		kvfi_watches_look(agent);
		drain_inbox(agent);
		kvfi_cancels_look(agent);
		kvfi_events_signal(agent);
		if (atomic_load(&agent->untold) > 0)
			kvfi_peers_tell(agent);
		kvfi_peers_tick(agent, kvfi_clock_ns());
		kvfi_groups_tick(agent, kvfi_clock_ns());
		kvfi_owner_step(agent, &tick);
		kvfi_events_signal(agent);
		/* What the tick has posted may be over already. Descriptors need no second look: they stay readable. */
		more = more || agent->sent || kvfi_inbox_any(&agent->inbox) ||
		       kvfi_cancels_any(&agent->cancels);
	}
	agent->in_turn = false;
	kvfi_health_refresh(agent);
	agent->next_tick_ns = more ? 0 : next_wake_ns(agent); /* 0: the turn was bounded, go on at once */
	arm_timer_fd(agent);
}

uint64_t kvfi_agent_next_ns(kvf_agent *agent)
{
	return kvfi_inbox_any(&agent->inbox) || kvfi_cancels_any(&agent->cancels) ? 0 : agent->next_tick_ns;
}

/* For a sleep that waiting events shall not end. */
void kvfi_owner_heed_events(kvf_agent *agent, bool heed)
{
	struct epoll_event event = {.events = heed ? EPOLLIN : 0};

	(void)epoll_ctl(agent->epoll_fd, EPOLL_CTL_MOD, agent->events.event_fd, &event);
}

void kvfi_owner_sleep(kvf_agent *agent, uint64_t until_ns)
{
	uint64_t wake_ns = agent->next_tick_ns < until_ns ? agent->next_tick_ns : until_ns;
	uint64_t now_ns = kvfi_clock_ns();
	struct epoll_event events[8];
	struct timespec left = {0, 0};

	if (wake_ns > now_ns && wake_ns != KVFI_NEVER) {
		left.tv_sec = (time_t)((wake_ns - now_ns) / KVFI_NS_PER_S);
		left.tv_nsec = (long)((wake_ns - now_ns) % KVFI_NS_PER_S);
	}
	(void)epoll_pwait2(agent->epoll_fd, events, 8, wake_ns == KVFI_NEVER ? NULL : &left, NULL);
}
