/* deadline.c - the deadlines of a session whose outcome is not told: connect, queue, transfer, stall.
 *
 * A session either waits or moves. It moves while a slice of it has begun, by its first byte on either side, and its RESULT is not in (rx) or not
 * confirmed (tx); then its transfer deadline runs, from the begin of the oldest such slice, and, while bytes are still to come, its stall deadline,
 * from the last byte that moved. A post that rests in a queue of ours has no first byte. Else it waits, and the queue deadline runs: from its
 * admission, and anew after each slice; on the sending side it rests while a receiver says HOLD. A receiver's connect deadline runs until every
 * REQUEST is answered.
 *
 * Nobody tells the core of single bytes: it asks the transports for numbers that change with them, when the session's timer comes, which is at least
 * four times in the shortest deadline. Deadlines are judged there alone, and timers come with a tick alone, after everything that has happened was
 * handled: a RESULT that is in when its deadline is judged is in time. Once the outcome is told the timer is the ladder's.
 */
#include "session/state.h"

#include "base/clock.h"

#define LOOKS       4u
#define HOLD_FOR_NS (UINT64_C(5) * KVFI_NS_PER_S)

static uint64_t later(uint64_t at_ns, uint64_t ns)
{
	return ns < KVFI_NEVER - at_ns ? at_ns + ns : KVFI_NEVER;
}

/* at + timeout; never if it is off. */
static uint64_t due(uint64_t at_ns, uint64_t timeout_ns)
{
	return timeout_ns == 0 || at_ns == KVFI_NEVER ? KVFI_NEVER : later(at_ns, timeout_ns);
}

static uint64_t sooner(uint64_t a_ns, uint64_t b_ns)
{
	return a_ns < b_ns ? a_ns : b_ns;
}

static uint64_t look_ns(const struct kvfi_core *core)
{
	uint64_t shortest_ns = sooner(due(0, core->config.transfer_timeout_ns),
		sooner(due(0, core->config.stall_timeout_ns), due(0, core->config.queue_timeout_ns)));

	if (shortest_ns == KVFI_NEVER)
		return KVFI_NEVER;
	return shortest_ns < LOOKS ? 1 : shortest_ns / LOOKS;
}

/* ---- what moves ---- */

struct motion {
	uint64_t began_ns; /* of the oldest slice that moves; KVFI_NEVER: none */
	bool storing;      /* bytes of one are still to come */
	bool may_begin;    /* something may begin without a word to the core */
};

static void add_begun(struct motion *motion, uint64_t began_ns, bool storing)
{
	motion->began_ns = sooner(motion->began_ns, began_ns);
	motion->storing = motion->storing || storing;
}

static void look_at_tx(
	struct kvfi_core *core, struct session *session, struct link *link, struct motion *motion)
{
	kvfi_list_for_each (at, &link->deliveries) {
		struct delivery *delivery = kvfi_container_of(at, struct delivery, node);
		bool posted = delivery->state == DELIVERY_POSTED;

		if (posted) {
			uint64_t seen = core->sink.post_moved(
				core->sink.self, (uint32_t)(delivery - core->deliveries), link->peer);

			if (seen != delivery->seen)
				deadline_delivery(core, session, delivery, core->now_ns);
			delivery->seen = seen;
			motion->may_begin = true;
		}
		if (delivery->began_ns != 0)
			add_begun(motion, delivery->began_ns, posted);
	}
}

static void look_at_rx(
	struct kvfi_core *core, struct session *session, struct link *link, struct motion *motion)
{
	uint64_t seen;

	if (!link->granted || link->arrived)
		return;
	motion->may_begin = true;
	seen = core->sink.grant_moved(core->sink.self, link_index(core, link), link->peer);
	if (seen != link->seen)
		deadline_bytes(core, session, link, core->now_ns);
	link->seen = seen;
	if (link->began_ns == 0 || link->arrival != KVFI_NONE)
		return; /* or its RESULT is in, and is being judged here */
	add_begun(motion, link->began_ns, !link->applied[link->next_result % KVFI_WINDOW].known);
}

static struct motion look(struct kvfi_core *core, struct session *session)
{
	struct motion motion = {.began_ns = KVFI_NEVER};

	kvfi_list_for_each (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);

		if (link->kind == LINK_TX)
			look_at_tx(core, session, link, &motion);
		else
			look_at_rx(core, session, link, &motion);
	}
	return motion;
}

void deadline_look(struct kvfi_core *core, struct session *session)
{
	(void)look(core, session);
}

/* ---- what is told ---- */

void deadline_delivery(
	struct kvfi_core *core, struct session *session, struct delivery *delivery, uint64_t first_ns)
{
	session->moved_ns = core->now_ns;
	flight_moved(core);
	if (delivery->began_ns == 0)
		delivery->began_ns = first_ns != 0 ? first_ns : core->now_ns;
}

void deadline_bytes(struct kvfi_core *core, struct session *session, struct link *link, uint64_t first_ns)
{
	session->moved_ns = core->now_ns;
	flight_moved(core);
	if (link->began_ns == 0)
		link->began_ns = first_ns != 0 ? first_ns : core->now_ns;
	flight_look(core, session);
}

void deadline_accepted(struct kvfi_core *core, struct session *session, struct link *link)
{
	session->moved_ns = core->now_ns;
	link->seen = core->sink.grant_moved(core->sink.self, link_index(core, link), link->peer);
	link->began_ns = link->applied[link->next_result % KVFI_WINDOW].known ? core->now_ns : 0;
	flight_moved(core);
	flight_look(core, session);
	deadline_waits(core, session);
}

/* The timer must come early enough to see what begins now; it then finds out what is due. */
static void arm_look(struct kvfi_core *core, struct session *session)
{
	uint64_t at_ns = due(core->now_ns, look_ns(core));

	if (at_ns == KVFI_NEVER)
		return;
	if (session->wake.timer.place == 0 || session->wake.timer.at_ns > at_ns)
		wake_at(core, &session->wake, at_ns);
}

void deadline_open(struct kvfi_core *core, struct session *session)
{
	session->waiting_ns = session->moved_ns = core->now_ns;
	session->connect_ns =
		session->kind == SESSION_RX ? due(core->now_ns, core->config.connect_timeout_ns) : KVFI_NEVER;
	if (session->connect_ns != KVFI_NEVER)
		wake_at(core, &session->wake, session->connect_ns);
	arm_look(core, session);
}

void deadline_begins(struct kvfi_core *core, struct session *session)
{
	if (!session->outcome_told)
		arm_look(core, session);
}

void deadline_waits(struct kvfi_core *core, struct session *session)
{
	if (session->outcome_told)
		return;
	session->waiting_ns = session->held_ns > core->now_ns ? session->held_ns : core->now_ns;
	arm_look(core, session);
}

/* Time in which it was held does not count. */
void deadline_hold(struct kvfi_core *core, struct session *session)
{
	uint64_t from_ns = session->held_ns > core->now_ns ? session->held_ns : core->now_ns;

	session->held_ns = later(core->now_ns, HOLD_FOR_NS);
	session->waiting_ns = later(session->waiting_ns, session->held_ns - from_ns);
}

uint64_t deadline_queue_left_ns(const struct kvfi_core *core, const struct session *session)
{
	uint64_t at_ns = due(session->waiting_ns, core->config.queue_timeout_ns);

	if (at_ns == KVFI_NEVER)
		return 0;
	return at_ns > core->now_ns ? at_ns - core->now_ns : 1;
}

/* ---- judgement ---- */

static uint64_t ms(uint64_t ns)
{
	return ns / KVFI_NS_PER_MS;
}

static void not_connected(struct kvfi_core *core, struct session *session)
{
	const struct peer *peer = peer_of_instance(core, session->instance_id);
	const char *why = peer != NULL && !peer->up ? peer->down_reason : "";

	if (!session->resolved)
		session_fail(core, session, KVF_UNREACHABLE,
			"prefill instance %llu is not connected: connect_timeout of %llu ms passed%s%s",
			(unsigned long long)session->instance_id,
			(unsigned long long)ms(core->config.connect_timeout_ns), why[0] != '\0' ? ": " : "",
			why);
	else
		session_fail(core, session, KVF_UNREACHABLE,
			"%u of %u prefill ranks did not answer the request: connect_timeout of %llu ms "
			"passed",
			session->expected - session->answered, session->expected,
			(unsigned long long)ms(core->config.connect_timeout_ns));
}

static const char *waits_for(const struct session *session)
{
	if (session->kind == SESSION_TX && !session->ready_told)
		return "not every receiver has asked";
	if (session->kind == SESSION_TX)
		return session->last_given && session->kv_acked == session->expected
		               ? "the aux data are not through"
		               : "no slice began";
	if (session->expected > 0 && session->arrived == session->expected)
		return "the aux data did not come";
	return "no slice began";
}

static void timed_out(struct kvfi_core *core, struct session *session, const char *name, uint64_t timeout_ns,
	const char *why)
{
	session_fail(core, session, KVF_TIMED_OUT, "%s: %s_timeout of %llu ms passed", why, name,
		(unsigned long long)ms(timeout_ns));
}

static void judge(struct kvfi_core *core, struct session *session)
{
	const struct kvfi_core_config *config = &core->config;
	struct motion motion = look(core, session);
	bool moves = motion.began_ns != KVFI_NEVER,
	     connects = session->kind == SESSION_RX &&
	                (!session->resolved || session->answered < session->expected);
	uint64_t connect_ns = connects ? session->connect_ns : KVFI_NEVER;
	uint64_t queue_ns = moves ? KVFI_NEVER : due(session->waiting_ns, config->queue_timeout_ns);
	uint64_t transfer_ns = due(motion.began_ns, config->transfer_timeout_ns);
	uint64_t stall_ns = motion.storing ? due(session->moved_ns, config->stall_timeout_ns) : KVFI_NEVER;
	uint64_t next_ns = sooner(sooner(connect_ns, queue_ns), sooner(transfer_ns, stall_ns));

	if (stall_ns <= core->now_ns)
		timed_out(core, session, "stall", config->stall_timeout_ns,
			"a slice has begun and no byte moved");
	else if (transfer_ns <= core->now_ns)
		timed_out(core, session, "transfer", config->transfer_timeout_ns,
			"a slice has begun and is not through");
	else if (connect_ns <= core->now_ns)
		not_connected(core, session);
	else if (queue_ns <= core->now_ns)
		timed_out(core, session, "queue", config->queue_timeout_ns, waits_for(session));
	else
		wake_at(core, &session->wake,
			moves || motion.may_begin ? sooner(next_ns, due(core->now_ns, look_ns(core)))
						  : next_ns);
}

void session_wake(struct kvfi_core *core, struct session *session)
{
	if (session->quarantined)
		ladder_wake(core, session);
	else
		judge(core, session);
}
