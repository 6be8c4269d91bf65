/* ladder.c - sessions whose outcome is told and whose release is not proven, and what is done about them.
 *
 * Such a session is in quarantine: counted, its bytes counted, its age known. It leaves when its last proof comes, however late; the outcome
 * stays as it was told. Each of its peers that owes a proof climbs a ladder of its own, and only as far as it must:
 *   asked for QUIET (CANCEL is on its way)      for the quiet deadline
 *   its stores are fenced by the transport      for 50 ms
 *   it is dropped: closed, and its link barred  for 1 s
 *   stuck                                       until the proof comes; past the budget of such sessions the agent is unhealthy
 * A peer that is gone cannot be asked: its ladder begins at the fence. A receiver's stores are not ours, so a sending session knows no fence.
 * Time alone drives this: the timer of the session, which is free once its outcome is told. A quiet deadline of 0 turns the ladder off.
 */
#include "session/state.h"

#include <stdio.h>
#include "base/assert.h"
#include "base/clock.h"

#define FENCE_NS (UINT64_C(50) * KVFI_NS_PER_MS)
#define DROP_NS  (UINT64_C(1) * KVFI_NS_PER_S)
#define LOST_NS                                                                                              \
	(UINT64_C(1) * KVFI_NS_PER_MS) /* for the proof that is there already, of a peer that is gone */

/* The sum of all groups. */
uint64_t lists_bytes(const struct kvfi_core *core, const struct kvfi_ids *lists)
{
	uint64_t bytes = 0;

	for (uint32_t g = 0; g < core->self.layout->n_groups; g++)
		bytes += kvfi_blocks_bytes(&core->self.layout->groups[g], lists[g].n);
	return bytes;
}

static bool owes_proof(const struct link *link)
{
	return link->kind == LINK_RX ? link->proof == KVF_PROOF_NONE : link->posted > 0;
}

/* ---- steps ---- */

/* Sessions are counted at each step once, by the first of their links that comes to it. */
static void reach(struct kvfi_core *core, struct session *session, enum ladder_step step)
{
	if (session->ladder >= step)
		return;
	session->ladder = step;
	core->ladder_counts[step]++;
	if (step == LADDER_STUCK)
		core->n_stuck++;
}

static void set_step(struct link *link, enum ladder_step step, uint64_t until_ns)
{
	link->ladder = step;
	link->ladder_ns = until_ns;
}

static void drop_peer(struct kvfi_core *core, const struct link *link, const char *why)
{
	struct peer *peer = &core->peers[link->peer];
	char reason[KVFI_ERROR_BYTES];

	if (link->peer_gone || peer->dropped)
		return;
	peer->dropped = true;
	(void)snprintf(reason, sizeof(reason), "%s: request %llu", why, (unsigned long long)link->request_id);
	core->sink.drop(core->sink.self, link->peer, reason);
}

/* Its time is over and brought no proof. */
static void climb(struct kvfi_core *core, struct session *session, struct link *link)
{
	if (link->ladder == LADDER_QUIET && link->kind == LINK_RX) {
		set_step(link, LADDER_FENCE, core->now_ns + FENCE_NS);
		core->sink.fence(core->sink.self, link->peer);
	} else if (link->ladder <= LADDER_FENCE) {
		set_step(link, LADDER_DROP, core->now_ns + DROP_NS);
		drop_peer(core, link, "it gave no proof that it is quiet");
	} else {
		set_step(link, LADDER_STUCK, KVFI_NEVER);
	}
	reach(core, session, link->ladder);
}

/* The timer of the session is that of its next link. Without one it is own work that is left: a sum that still reads. */
static void arm(struct kvfi_core *core, struct session *session)
{
	uint64_t next_ns = session->ladder_ns;

	kvfi_list_for_each (at, &session->links) {
		const struct link *link = kvfi_container_of(at, struct link, in_session);

		if (owes_proof(link) && link->ladder_ns < next_ns)
			next_ns = link->ladder_ns;
	}
	wake_at(core, &session->wake, next_ns);
}

void ladder_wake(struct kvfi_core *core, struct session *session)
{
	KVFI_ASSERT(session->quarantined);
	kvfi_list_for_each (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);

		if (owes_proof(link) && link->ladder_ns <= core->now_ns)
			climb(core, session, link);
	}
	if (session->ladder_ns <= core->now_ns) {
		session->ladder_ns = KVFI_NEVER;
		reach(core, session, LADDER_STUCK);
	}
	arm(core, session);
}

static void begin(struct kvfi_core *core, struct link *link)
{
	uint64_t wait_ns = link->peer_gone ? LOST_NS : core->config.quiet_timeout_ns;

	/* Without a fence the sender goes on to the drop, and so leaves the fence to the receiver, who waits for the same stores. */
	set_step(link, LADDER_QUIET, core->now_ns + wait_ns + (link->kind == LINK_TX ? FENCE_NS : 0));
}

void ladder_lost(struct kvfi_core *core, struct link *link)
{
	struct session *session = link->kind != LINK_FREE ? link_session(core, link) : NULL;

	if (session == NULL || !session->quarantined || link->ladder != LADDER_QUIET || !owes_proof(link))
		return;
	begin(core, link);
	arm(core, session);
}

void ladder_fenced(struct kvfi_core *core, struct link *link)
{
	drop_peer(core, link, "its stores were fenced, so nothing of it can arrive any more");
}

/* ---- quarantine ---- */

void quarantine_enter(struct kvfi_core *core, struct session *session)
{
	uint64_t quiet_ns = core->config.quiet_timeout_ns;

	KVFI_ASSERT(session->outcome_told && !session->released_told && !session->quarantined);
	session->quarantined = true;
	kvfi_list_append(&core->quarantine, &session->in_quarantine);
	core->n_quarantined++;
	core->quarantined_bytes += session->blocks_bytes;
	session->ladder_ns = KVFI_NEVER;
	if (quiet_ns == 0)
		return;
	reach(core, session, LADDER_QUIET);
	if (session->sums_open > 0)
		session->ladder_ns = core->now_ns + quiet_ns + FENCE_NS + DROP_NS;
	kvfi_list_for_each (at, &session->links)
		begin(core, kvfi_container_of(at, struct link, in_session));
	arm(core, session);
}

void quarantine_leave(struct kvfi_core *core, struct session *session)
{
	if (!session->quarantined)
		return;
	session->quarantined = false;
	kvfi_list_remove(&session->in_quarantine);
	wake_never(core, &session->wake);
	core->n_quarantined--;
	core->quarantined_bytes -= session->blocks_bytes;
	core->recovered += session->ladder > LADDER_QUIET;
	core->n_stuck -= session->ladder == LADDER_STUCK;
}
