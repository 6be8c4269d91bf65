/* liveness.c - is the other side still there? PING, PONG, silence.
 *
 * Whatever comes from a peer, over the control channel or the data path, says that it is alive. One that has said nothing for ping_ns is asked, and
 * asked again as often; its agent answers at once, whatever its user does. One that has said nothing for the silence timeout is lost: it may be
 * dead, stopped or cut off, and its sessions must not wait to learn which. This agent may have been stopped itself: time in which it did not
 * run is nobody's silence, so a turn that comes late gives every peer that time back. Owner thread.
 */
#include "agent/agent.h"

#include <stdio.h>
#include <string.h>
#include "base/clock.h"

void kvfi_liveness_begin(kvf_agent *agent, uint32_t slot)
{
	struct agent_peer *peer = &agent->peers[slot];

	peer->heard_ns = peer->asked_ns = kvfi_clock_ns();
	kvfi_peers_due(agent, kvfi_liveness_next_ns(agent, peer));
}

void kvfi_liveness_heard(kvf_agent *agent, uint32_t slot)
{
	agent->peers[slot].heard_ns = kvfi_clock_ns();
}

static void say(kvf_agent *agent, uint32_t slot, enum kvfi_msg_type type, uint64_t sequence)
{
	struct kvfi_msg msg;

	memset(&msg.header, 0, sizeof(msg.header));
	msg.block = NULL;
	msg.header.type = type;
	msg.header.instance_id = agent->instance->id;
	msg.u.ping.sequence = sequence;
	kvfi_peer_send(agent, slot, &msg);
}

bool kvfi_liveness_message(kvf_agent *agent, uint32_t slot, const struct kvfi_msg *msg)
{
	kvfi_liveness_heard(agent, slot);
	if (msg->header.type == KVFI_MSG_PING)
		say(agent, slot, KVFI_MSG_PONG, msg->u.ping.sequence);
	return msg->header.type == KVFI_MSG_PING || msg->header.type == KVFI_MSG_PONG;
}

static uint64_t silent_since_ns(const struct agent_peer *peer)
{
	return peer->heard_ns > peer->asked_ns ? peer->heard_ns : peer->asked_ns;
}

/* Without questions silence says nothing. */
uint64_t kvfi_liveness_next_ns(const kvf_agent *agent, const struct agent_peer *peer)
{
	uint64_t ask_ns, lost_ns;

	if (agent->options.ping_ns == 0)
		return KVFI_NEVER;
	ask_ns = silent_since_ns(peer) + agent->options.ping_ns;
	if (agent->options.silence_timeout_ns == 0)
		return ask_ns;
	lost_ns = peer->heard_ns + agent->options.silence_timeout_ns;
	return lost_ns < ask_ns ? lost_ns : ask_ns;
}

void kvfi_liveness_look(kvf_agent *agent, uint32_t slot, uint64_t now_ns)
{
	struct agent_peer *peer = &agent->peers[slot];
	const uint64_t silence_ns = agent->options.silence_timeout_ns;
	char why[96];

	if (now_ns < kvfi_liveness_next_ns(agent, peer))
		return;
	if (silence_ns > 0 && now_ns - peer->heard_ns >= silence_ns) {
		(void)snprintf(why, sizeof(why), "it said nothing for %llu ms",
			(unsigned long long)((now_ns - peer->heard_ns) / KVFI_NS_PER_MS));
		kvfi_peer_lost(agent, slot, KVF_PEER_LOST, why);
		return;
	}
	peer->asked_ns = now_ns;
	say(agent, slot, KVFI_MSG_PING, ++peer->pings);
}

/* No peer's time was before due_ns, and this turn comes so much later. */
void kvfi_liveness_slept(kvf_agent *agent, uint64_t due_ns, uint64_t now_ns)
{
	const uint64_t late_ns = due_ns < now_ns ? now_ns - due_ns : 0;

	if (agent->options.ping_ns == 0 || late_ns < agent->options.ping_ns)
		return;
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		struct agent_peer *peer = &agent->peers[i];

		if (peer->state != PEER_UP)
			continue;
		peer->heard_ns = peer->heard_ns + late_ns < now_ns ? peer->heard_ns + late_ns : now_ns;
		peer->asked_ns = peer->asked_ns + late_ns < now_ns ? peer->asked_ns + late_ns : now_ns;
	}
}
