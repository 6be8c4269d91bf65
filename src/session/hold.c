/* hold.c - requests that a decode rank wants before it can receive them: HOLD out, every second, and what it does to a sending session.
 *
 * A ticket that is held names ranks of one DP group, or of all when the group is not known; whoever of them is up is told, until the request is
 * opened here, dropped, or the ticket expires. The table is as large as that of the sessions; a full one forgets the hold that expires first.
 * HOLD_OK ends nothing: a hold is told until it is over, so a lost one costs a second of the five that it holds for.
 */
#include "session/state.h"

#include <string.h>
#include "base/clock.h"

#define HOLD_EVERY_NS (UINT64_C(1) * KVFI_NS_PER_S)

/* ---- decode ---- */

static void arm(struct kvfi_core *core)
{
	uint64_t next_ns = KVFI_NEVER;

	for (uint32_t i = 0; i < core->n_holds; i++)
		if (core->holds[i].next_ns < next_ns)
			next_ns = core->holds[i].next_ns;
	if (next_ns == KVFI_NEVER)
		wake_never(core, &core->hold_wake);
	else
		wake_at(core, &core->hold_wake, next_ns);
}

static bool is_expected(const struct peer *peer, uint32_t dp_index)
{
	if (dp_index == KVF_DP_UNKNOWN)
		return true;
	for (uint32_t i = 0; dp_index < peer->info.n_dps && i < peer->info.by_dp[dp_index].n; i++)
		if (peer->info.by_dp[dp_index].pairs[i].src == peer->rank)
			return true;
	return false;
}

static void tell(struct kvfi_core *core, const struct hold *hold)
{
	for (uint32_t slot = 0; slot < core->config.max_peers; slot++) {
		const struct peer *peer = &core->peers[slot];
		struct kvfi_msg msg;

		if (!peer->known || !peer->up || peer->instance_id != hold->instance_id ||
			!is_expected(peer, hold->dp_index))
			continue;
		memset(&msg.header, 0, sizeof(msg.header));
		msg.block = NULL;
		msg.header.type = KVFI_MSG_HOLD;
		msg.header.instance_id = hold->instance_id;
		msg.header.request_id = hold->request_id;
		msg.header.attempt = hold->attempt;
		core->sink.send(core->sink.self, slot, &msg);
	}
}

static struct hold *find(struct kvfi_core *core, uint64_t instance_id, uint64_t request_id, uint32_t attempt)
{
	for (uint32_t i = 0; i < core->n_holds; i++) {
		struct hold *hold = &core->holds[i];

		if (hold->request_id == request_id && hold->attempt == attempt &&
			hold->instance_id == instance_id)
			return hold;
	}
	return NULL;
}

static void forget(struct kvfi_core *core, struct hold *hold)
{
	*hold = core->holds[--core->n_holds];
}

static struct hold *first_to_expire(struct kvfi_core *core)
{
	struct hold *first = &core->holds[0];

	for (uint32_t i = 1; i < core->n_holds; i++)
		if (core->holds[i].expires_ns < first->expires_ns)
			first = &core->holds[i];
	return first;
}

void hold_end(struct kvfi_core *core, uint64_t instance_id, uint64_t request_id, uint32_t attempt)
{
	struct hold *hold = find(core, instance_id, request_id, attempt);

	if (hold == NULL)
		return;
	forget(core, hold);
	arm(core);
}

void hold_set(struct kvfi_core *core, const struct kvfi_in_hold *in)
{
	struct hold *hold;

	if (in->expires_ns == 0) {
		hold_end(core, in->instance_id, in->request_id, in->attempt);
		return;
	}
	hold = find(core, in->instance_id, in->request_id, in->attempt);
	if (hold == NULL && core->n_holds == core->config.max_sessions)
		forget(core, first_to_expire(core));
	if (hold == NULL)
		hold = &core->holds[core->n_holds++];
	*hold = (struct hold){.instance_id = in->instance_id,
		.request_id = in->request_id,
		.attempt = in->attempt,
		.dp_index = in->dp_index,
		.next_ns = core->now_ns + HOLD_EVERY_NS,
		.expires_ns = in->expires_ns < KVFI_NEVER - core->now_ns ? core->now_ns + in->expires_ns
	                                                                 : KVFI_NEVER};
	tell(core, hold);
	arm(core);
}

void hold_wake(struct kvfi_core *core)
{
	for (uint32_t i = core->n_holds; i-- > 0;) {
		struct hold *hold = &core->holds[i];

		if (hold->next_ns > core->now_ns)
			continue;
		if (hold->expires_ns <= core->now_ns) {
			forget(core, hold);
			continue;
		}
		hold->next_ns = core->now_ns + HOLD_EVERY_NS;
		tell(core, hold);
	}
	arm(core);
}

/* ---- prefill ---- */

/* For a tx that is opened later the next one comes in time. */
void on_hold(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	struct session *session = tx_find(core, msg->header.request_id, msg->header.attempt);
	bool known = session != NULL && !session->outcome_told;
	struct kvfi_msg reply = {.header = msg->header, .u.request_ok.known = known};

	if (known && (!session->bound || session->decode_instance == core->peers[peer].instance_id))
		deadline_hold(core, session);
	reply.header.type = KVFI_MSG_HOLD_OK;
	core->sink.send(core->sink.self, peer, &reply);
}
