/* hello.c - who is there: HELLO, HELLO_OK, REFUSE, BYE.
 *
 * Decode says HELLO with its instance map, layout and features, and repeats it until it is answered; prefill judges and answers HELLO_OK with its own,
 * or REFUSE with the field and both values. Both sides judge by the same functions. A HELLO of a new incarnation, or of a new link of the same one,
 * ends what was there of that rank. A message under a link that is dropped or not known is answered by REFUSE too, from either side: its sender loses
 * the connection, and decode calls again under a new link.
 */
#include "agent/agent.h"

#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "base/status.h"

#define HELLO_FIRST_NS (UINT64_C(50) * KVFI_NS_PER_MS)
#define HELLO_MAX_NS   (UINT64_C(1) * KVFI_NS_PER_S)

static void fill_hello(kvf_agent *agent, struct kvfi_msg *msg, enum kvfi_msg_type type)
{
	struct kvfi_msg_hello *hello = &msg->u.hello;

	memset(msg, 0, sizeof(*msg));
	msg->header.type = type;
	msg->header.instance_id = agent->instance->id;
	hello->version = KVFI_WIRE_VERSION;
	(void)snprintf(hello->name, sizeof(hello->name), "%s", agent->options.name);
	hello->instance = agent->instance;
	hello->layout = agent->wire_layout;
	for (uint32_t i = 0; i < agent->n_transports; i++) {
		struct kvfi_transport_address *address = &hello->transports[hello->n_transports++];

		(void)snprintf(address->name, sizeof(address->name), "%s", agent->transports[i].ops->name);
		address->len_bytes = (uint32_t)agent->transports[i].ops->address(
			agent->transports[i].self, address->bytes);
	}
}

void kvfi_hello_send(kvf_agent *agent, uint32_t slot)
{
	struct agent_peer *peer = &agent->peers[slot];
	struct kvfi_msg msg;

	fill_hello(agent, &msg, KVFI_MSG_HELLO);
	kvfi_peer_send(agent, slot, &msg);
	peer->backoff_ns = peer->backoff_ns == 0 ? HELLO_FIRST_NS : peer->backoff_ns * 2;
	if (peer->backoff_ns > HELLO_MAX_NS)
		peer->backoff_ns = HELLO_MAX_NS;
	peer->next_ns = kvfi_clock_ns() + peer->backoff_ns;
	kvfi_peers_due(agent, peer->next_ns);
}

static void take_hello(struct agent_peer *peer, struct kvfi_msg *msg)
{
	kvf_instance_free(peer->hello.instance);
	kvf_layout_free(peer->hello.layout);
	peer->hello = msg->u.hello;
	peer->incarnation = msg->header.from;
	msg->u.hello.instance = NULL;
	msg->u.hello.layout = NULL;
}

/* Cut where the reason of a message is too short for it. */
static void refusal_sentence(
	const struct kvf_refusal *refusal, const char *otherwise, char *text, size_t len_bytes)
{
	char whole[320];

	if (refusal->field[0] == '\0')
		(void)snprintf(whole, sizeof(whole), "%.319s", otherwise);
	else
		(void)snprintf(whole, sizeof(whole), "%s: prefill has %s, decode has %s", refusal->field,
			refusal->prefill, refusal->decode);
	(void)snprintf(text, len_bytes, "%.*s", (int)len_bytes - 1, whole);
}

/* ---- prefill ---- */

static enum kvf_status judge(
	const kvf_agent *agent, const struct kvfi_msg *msg, struct kvf_refusal *refusal_out)
{
	enum kvf_status status = kvfi_path_judge(agent, &msg->u.hello, refusal_out);

	return status == KVF_OK ? kvfi_path_judge_map(agent, &msg->u.hello) : status;
}

static void refuse(kvf_agent *agent, uint32_t way, const struct kvfi_msg *to, struct kvfi_msg_refuse *body)
{
	struct kvfi_msg msg;

	memset(&msg, 0, sizeof(msg));
	msg.header.type = KVFI_MSG_REFUSE;
	msg.header.from = agent->incarnation;
	msg.header.to = to->header.from;
	msg.header.link = to->header.link;
	msg.header.instance_id = agent->instance->id;
	msg.u.refuse = *body;
	(void)kvfi_control_of(agent)->send(agent->control, way, &msg);
	agent->sent = true;
}

static void send_refuse(kvf_agent *agent, uint32_t way, const struct kvfi_msg *to, enum kvf_status status,
	const struct kvf_refusal *refusal)
{
	struct kvfi_msg_refuse body = {.status = status, .refusal = *refusal};

	refusal_sentence(refusal, kvf_error(), body.reason, sizeof(body.reason));
	refuse(agent, way, to, &body);
}

/* The connection that it names is over. */
static void refuse_over(kvf_agent *agent, uint32_t way, const struct kvfi_msg *to, const char *why)
{
	struct kvfi_msg_refuse body = {.status = KVF_PEER_LOST};

	(void)snprintf(body.reason, sizeof(body.reason), "%.*s", (int)sizeof(body.reason) - 1, why);
	refuse(agent, way, to, &body);
}

/* Whoever names our incarnation was connected once. Its link is barred, or forgotten: it shall fail what it has with us, take its hands off our memory, and
 * come again under a new link. Without this a process that was only stopped would wait for ever. */
void kvfi_hello_bar(kvf_agent *agent, uint32_t way, const struct kvfi_msg *msg)
{
	uint32_t slot = kvfi_peer_by_incarnation(agent, msg->header.from, msg->header.link);

	if (!agent->declared || way == KVFI_NO_WAY || msg->header.to != agent->incarnation)
		return;
	refuse_over(
		agent, way, msg, slot != KVFI_NONE ? agent->peers[slot].reason : "it is not known any more");
}

static void send_hello_ok(kvf_agent *agent, uint32_t slot)
{
	struct kvfi_msg msg;

	fill_hello(agent, &msg, KVFI_MSG_HELLO_OK);
	kvfi_peer_send(agent, slot, &msg);
}

/* The same rank in another incarnation, or over another link: what was there is over. */
static void end_former(kvf_agent *agent, const struct kvfi_msg *msg)
{
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		const struct agent_peer *peer = &agent->peers[i];

		if (peer->state != PEER_UP && peer->state != PEER_CONNECTING)
			continue;
		if (peer->hello.instance->id == msg->u.hello.instance->id &&
			peer->hello.layout->rank == msg->u.hello.layout->rank)
			kvfi_peer_lost(agent, i, KVF_PEER_LOST,
				peer->incarnation == msg->header.from ? "it has connected anew"
								      : "it has restarted");
	}
}

/* A connection of that number was begun here and is over, while the other side still calls: it must begin another one. */
static void refuse_link(kvf_agent *agent, uint32_t way, const struct kvfi_msg *msg)
{
	char why[64];

	(void)snprintf(why, sizeof(why), "link %llx is over", (unsigned long long)msg->header.link);
	refuse_over(agent, way, msg, why);
}

static void on_hello(kvf_agent *agent, uint32_t way, struct kvfi_msg *msg)
{
	uint32_t slot = kvfi_peer_by_incarnation(agent, msg->header.from, msg->header.link);
	struct kvf_refusal refusal = {{0}, {0}, {0}};
	struct agent_peer *peer;
	enum kvf_status status;

	if (!agent->declared)
		return; /* it will ask again */
	if (slot != KVFI_NONE) {
		if (agent->peers[slot].state == PEER_UP || agent->peers[slot].state == PEER_CONNECTING)
			send_hello_ok(agent, slot);
		else
			refuse_link(agent, way, msg);
		return;
	}
	status = judge(agent, msg, &refusal);
	if (status == KVF_OK)
		end_former(agent, msg); /* not before: one that does not fit displaces nobody */
	peer = status == KVF_OK ? kvfi_peer_new(agent, PEER_CONNECTING, &slot) : NULL;
	if (peer == NULL) {
		send_refuse(agent, way, msg, status == KVF_OK ? KVF_REFUSED : status, &refusal);
		return;
	}
	peer->way = way;
	peer->link = msg->header.link;
	take_hello(peer, msg);
	status = kvfi_path_pairs(agent, peer);
	if (status != KVF_OK) {
		kvfi_peer_lost(agent, slot, status, kvf_error());
		return;
	}
	kvfi_peer_hurry(agent, peer);
	kvfi_path_expect(agent, slot);
	send_hello_ok(agent, slot);
}

/* ---- decode ---- */

static struct agent_peer *find_called(
	kvf_agent *agent, uint32_t way, const struct kvfi_msg *msg, uint32_t *slot_out)
{
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		struct agent_peer *peer = &agent->peers[i];

		if ((peer->state == PEER_CALLING || peer->state == PEER_REFUSED) && peer->way == way &&
			peer->link == msg->header.link && msg->header.to == agent->incarnation) {
			*slot_out = i;
			return peer;
		}
	}
	return NULL;
}

static bool is_connected(const kvf_agent *agent, uint64_t instance_id, uint32_t rank)
{
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		const struct agent_peer *peer = &agent->peers[i];

		if ((peer->state == PEER_UP || peer->state == PEER_CONNECTING) &&
			peer->hello.instance->id == instance_id && peer->hello.layout->rank == rank)
			return true;
	}
	return false;
}

/* The map says where the other ranks are that this one is paired with. */
static void call_others(kvf_agent *agent, const struct agent_peer *peer)
{
	const struct kvf_instance *instance = peer->hello.instance;

	for (uint32_t dp = 0; dp < peer->n_dps; dp++) {
		for (uint32_t i = 0; i < peer->by_dp[dp].n; i++) {
			uint32_t rank = peer->by_dp[dp].pairs[i].src;
			const char *endpoint = instance->ranks[rank].endpoint;
			enum kvf_status ignored;

			if (is_connected(agent, instance->id, rank) || endpoint == NULL ||
				endpoint[0] == '\0')
				continue;
			/* Requests that need a rank that cannot be called fail by their connect deadline, which names it. */
			ignored = kvfi_peer_call(agent, endpoint, instance->id, rank);
			(void)ignored;
		}
	}
}

/* One agent under two endpoints: for the other side this connection has replaced the one before. */
static void end_other_names(kvf_agent *agent, uint32_t slot)
{
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		struct agent_peer *peer = &agent->peers[i];

		if (i == slot || peer->state == PEER_FREE ||
			peer->incarnation != agent->peers[slot].incarnation)
			continue;
		kvfi_peer_lost(agent, i, KVF_PEER_LOST, "it was connected anew under another endpoint");
		peer->recall = false;
	}
}

/* Whoever waits for the instance that was said to be there waits for nothing. */
static void tell_other_instance(kvf_agent *agent, uint32_t slot, uint64_t found)
{
	const struct agent_peer *peer = &agent->peers[slot];
	struct kvfi_input input = {.kind = KVFI_IN_PEER_DOWN, .peer = slot};
	char why[KVFI_REASON_BYTES];

	(void)snprintf(why, sizeof(why), "instance %llu answers where instance %llu was said to be",
		(unsigned long long)found, (unsigned long long)peer->wanted_instance);
	input.u.peer_down.status = peer->wanted_rank == KVFI_NONE ? KVF_ETICKET : KVF_PEER_LOST;
	input.u.peer_down.reason = why;
	input.u.peer_down.instance_id = peer->wanted_instance;
	input.u.peer_down.rank = peer->wanted_rank;
	kvfi_owner_step(agent, &input);
}

static void on_hello_ok(kvf_agent *agent, uint32_t way, struct kvfi_msg *msg)
{
	uint32_t slot;
	struct agent_peer *peer = find_called(agent, way, msg, &slot);
	struct kvf_refusal refusal = {{0}, {0}, {0}};
	enum kvf_status status;
	char reason[320];

	if (peer == NULL)
		return; /* a repeated one */
	if (peer->wanted_instance != 0 && peer->wanted_instance != msg->u.hello.instance->id)
		tell_other_instance(agent, slot, msg->u.hello.instance->id);
	status = judge(agent, msg, &refusal);
	take_hello(peer, msg);
	if (status == KVF_OK)
		status = kvfi_path_pairs(agent, peer);
	if (status != KVF_OK) {
		refusal_sentence(&refusal, kvf_error(), reason, sizeof(reason));
		kvfi_peer_refused(agent, slot, status, reason);
		return;
	}
	end_other_names(agent, slot);
	peer->state = PEER_CONNECTING;
	peer->reason[0] = '\0';
	kvfi_peer_hurry(agent, peer);
	call_others(agent, peer);
	kvfi_path_start(agent, slot);
}

/* The other side has dropped a connection that we think is there. */
static void on_barred(kvf_agent *agent, const struct kvfi_msg *msg)
{
	uint32_t slot = msg->header.to == agent->incarnation
	                        ? kvfi_peer_by_incarnation(agent, msg->header.from, msg->header.link)
	                        : KVFI_NONE;
	char why[256];

	if (slot == KVFI_NONE)
		return;
	if (agent->peers[slot].state != PEER_UP && agent->peers[slot].state != PEER_CONNECTING)
		return;
	(void)snprintf(why, sizeof(why), "it has dropped this connection: %s", msg->u.refuse.reason);
	kvfi_peer_lost(agent, slot, KVF_PEER_LOST, why);
}

static void on_refuse(kvf_agent *agent, uint32_t way, const struct kvfi_msg *msg)
{
	uint32_t slot;
	struct agent_peer *peer = find_called(agent, way, msg, &slot);
	char reason[sizeof(peer->reason)];

	if (peer == NULL) {
		on_barred(agent, msg);
		return;
	}
	if (msg->u.refuse.status == KVF_PEER_LOST) {
		kvfi_peer_draw_link(peer); /* for the next HELLO, which is due soon */
		return;
	}
	if (peer->wanted_instance == 0)
		peer->wanted_instance = msg->header.instance_id;
	refusal_sentence(&msg->u.refuse.refusal, msg->u.refuse.reason, reason, sizeof(reason));
	kvfi_peer_refused(agent, slot, msg->u.refuse.status, reason);
}

static void on_bye(kvf_agent *agent, const struct kvfi_msg *msg)
{
	for (uint32_t i = 0; i < agent->options.max_peers; i++)
		if (agent->peers[i].state == PEER_UP && agent->peers[i].incarnation == msg->header.from)
			kvfi_peer_lost(agent, i, KVF_PEER_LOST, "it has closed");
}

/* So that a peer of another version learns ours: it can read the header that far. */
static void answer_version(kvf_agent *agent, uint32_t way)
{
	const struct kvf_refusal none = {{0}, {0}, {0}};
	struct kvfi_msg to;

	memset(&to.header, 0, sizeof(to.header));
	to.header.link = 1;
	if (agent->declared)
		send_refuse(agent, way, &to, KVF_PEER_VERSION, &none);
}

void kvfi_hello_garbage(kvf_agent *agent, uint32_t way, enum kvf_status status, const char *reason)
{
	if (way == KVFI_NO_WAY)
		return;
	if (status == KVF_PEER_VERSION && !kvfi_way_is_used(agent, way))
		answer_version(agent, way);
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		const struct agent_peer *peer = &agent->peers[i];

		if (peer->state == PEER_FREE || peer->way != way)
			continue;
		if (peer->state == PEER_CALLING || peer->state == PEER_REFUSED)
			kvfi_peer_refused(agent, i, status, reason);
		else
			kvfi_peer_lost(agent, i, status, reason);
	}
}

void kvfi_hello_message(kvf_agent *agent, uint32_t way, struct kvfi_msg *msg)
{
	switch (msg->header.type) {
	case KVFI_MSG_HELLO:
		on_hello(agent, way, msg);
		return;
	case KVFI_MSG_HELLO_OK:
		on_hello_ok(agent, way, msg);
		return;
	case KVFI_MSG_REFUSE:
		on_refuse(agent, way, msg);
		return;
	default:
		on_bye(agent, msg);
	}
}
