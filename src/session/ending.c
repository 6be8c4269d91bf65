/* ending.c - how a session ends: the outcome, told at once and once; the release, told when every peer's proof is in.
 *
 * A failure revokes every grant (rx) or stops every post (tx) first, tells the outcome, and leaves the rest to the proofs:
 *   completed        the last RESULT of that peer, all bytes in
 *   writer-quiet     its QUIET, or its failed RESULT, which is sent after its workers have left
 *   lease            the grant is revoked and no worker is counted inside (one-sided paths)
 *   local-epoch      the same, where this agent's own reads were the only writers
 *   never-advertised no permission ever left this agent
 *   local-idle       tx: no post reads the source any more
 * A link with its proof may live on without a session, to repeat CANCEL until QUIET.
 */
#include "session/state.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/assert.h"
#include "base/clock.h"

void session_tell(struct kvfi_core *core, struct session *session, enum kvf_event_type type,
	enum kvf_status status, uint32_t slice)
{
	struct kvfi_core_event event = {.type = type,
		.status = status,
		.session = session_index(core, session),
		.slice = slice,
		.state = session->state,
		.stats = &session->stats,
		.error = session->error};

	for (uint32_t g = 0; g < KVF_MAX_GROUPS; g++)
		event.good_end[g] = KVFI_NEVER;
	if (type == KVF_EVENT_OUTCOME && status != KVF_OK && session->kind == SESSION_RX)
		rx_good_ends(core, session, event.good_end);
	core->sink.event(core->sink.self, &event);
}

/* Forward only; ERROR never overwrites CANCELLED, and nothing overwrites ERROR. */
void session_state(struct kvfi_core *core, struct session *session, enum kvf_session_state state)
{
	if (session->state < KVF_STATE_INIT || (state >= KVF_STATE_INIT && state <= session->state))
		return;
	session->state = state;
	core->sink.state(core->sink.self, session_index(core, session), state);
}

static void tell_outcome(struct kvfi_core *core, struct session *session, enum kvf_status status)
{
	KVFI_ASSERT(!session->outcome_told);
	session->outcome_told = true;
	session->outcome = status;
	session->stats.outcome_ns = core->now_ns;
	wake_never(core, &session->wake);
	flight_look(core, session);
	session_tell(core, session, KVF_EVENT_OUTCOME, status, 0);
}

/* So that a REQUEST that comes later is answered, and not parked for nothing. */
static void remember_tx(struct kvfi_core *core, const struct session *session)
{
	struct remembered record = {.key_a = session->request_id,
		.key_b = session->attempt,
		.expires_ns = session->expires_ns,
		.status = session->outcome};

	memory_put(core, &core->ended_tx, &record);
}

static void remember_rx(struct kvfi_core *core, const struct session *session)
{
	struct remembered record = {.key_a = session->epoch, .status = session->outcome};

	memory_put(core, &core->ended_rx, &record);
}

static void release_or_quarantine(struct kvfi_core *core, struct session *session)
{
	session_try_release(core, session);
	if (!session->released_told)
		quarantine_enter(core, session);
}

void session_fail(
	struct kvfi_core *core, struct session *session, enum kvf_status status, const char *format, ...)
{
	va_list args;

	if (session->outcome_told)
		return;
	if (status ==
		KVF_OK) /* a peer's word, and it makes no sense: a failure that says "ok" would be one to nobody */
		status = KVF_PROTOCOL;
	va_start(args, format);
	(void)vsnprintf(session->error, sizeof(session->error), format, args);
	va_end(args);
	session_state(core, session, status == KVF_CANCELLED ? KVF_STATE_CANCELLED : KVF_STATE_ERROR);
	tell_outcome(core, session, status);
	if (session->kind == SESSION_TX)
		remember_tx(core, session);
	else
		remember_rx(core, session);
	session->ending = true;
	kvfi_list_for_each_safe (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);

		if (link->kind == LINK_RX)
			rx_link_end(core, link);
		else
			tx_link_fail(core, link, status, session->error);
	}
	session->ending = false;
	release_or_quarantine(core, session);
}

void session_complete(struct kvfi_core *core, struct session *session)
{
	/* One that had nothing to move was never advertised: a cancel that came first wins here too, as its caller was told. */
	if (session->outcome_told || !session_advertise(core, session))
		return;
	tell_outcome(core, session, KVF_OK);
	if (session->kind == SESSION_RX)
		remember_rx(core, session);
	release_or_quarantine(core, session);
}

static void end_grant(struct kvfi_core *core, struct link *link)
{
	if (!link->granted)
		return;
	link->granted = false;
	flight_granted(core, false);
	core->sink.release(core->sink.self, link_index(core, link), link->peer);
}

static void release_rx(struct kvfi_core *core, struct session *session)
{
	if (session->outcome != KVF_OK && session->n_links == 0) /* nobody was asked */
		session->stats.proofs[KVF_PROOF_NEVER_ADVERTISED]++;
	kvfi_list_for_each_safe (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);

		session->stats.proofs[link->proof]++;
		end_grant(core, link);
		arrival_free(core, link);
		link_detach_session(core, link);
		if (!link->cancelling)
			rx_link_over(core, link);
	}
}

static void release_tx(struct kvfi_core *core, struct session *session)
{
	enum kvf_proof proof = session->outcome == KVF_OK ? KVF_PROOF_COMPLETED
	                       : session->advertised      ? KVF_PROOF_LOCAL_IDLE
	                                                  : KVF_PROOF_NEVER_ADVERTISED;

	tx_unhash(core, session);
	session->stats.proofs[proof] += session->expected > 0 ? session->expected : 1;
	kvfi_list_for_each_safe (at, &session->links) {
		struct link *link = kvfi_container_of(at, struct link, in_session);

		link_detach_session(core, link);
		if (link->counted)
			tx_link_over(core, link);
	}
}

void session_try_release(struct kvfi_core *core, struct session *session)
{
	if (!session->outcome_told || session->released_told || session->ending)
		return;
	if (session->kind == SESSION_TX && session->posts_open > 0)
		return;
	if (session->kind == SESSION_RX && (session->proven < session->n_links || session->sums_open > 0))
		return;
	quarantine_leave(core, session);
	session->released_told = true;
	session->stats.released_ns = core->now_ns;
	if (session->kind == SESSION_RX)
		release_rx(core, session);
	else
		release_tx(core, session);
	session_tell(core, session, KVF_EVENT_RELEASED, session->outcome, 0);
}

void session_close(struct kvfi_core *core, uint32_t slot)
{
	struct session *session = &core->sessions[slot];

	KVFI_ASSERT(session->kind != SESSION_FREE && session->released_told && session->n_links == 0);
	wake_never(core, &session->wake);
	kvfi_list_remove(&session->node);
	session->kind = SESSION_FREE;
}

/* ---- rx: proofs ---- */

void rx_prove(struct kvfi_core *core, struct link *link, enum kvf_proof proof)
{
	struct session *session = link_session(core, link);

	if (link->proof != KVF_PROOF_NONE)
		return;
	link->proof = proof;
	if (session == NULL)
		return;
	session->proven++;
	session_try_release(core, session);
}

static void ask_to_stop(struct kvfi_core *core, struct link *link)
{
	link->cancelling = true;
	link->backoff_ns = 0;
	rx_wake(core, link);
}

/* The session has failed: take back the permission of this peer, and ask it to stop. Where this agent's own reads write the blocks, only
 * they can prove quiet; where the peer's workers do, its last or failed RESULT says that they have left. */
void rx_link_end(struct kvfi_core *core, struct link *link)
{
	bool aux_to_come = link->proof == KVF_PROOF_COMPLETED && link->aux == AUX_OWED;

	wake_never(core, &link->wake);
	if (aux_to_come && !link->peer_gone)
		ask_to_stop(core, link);
	if (link->proof != KVF_PROOF_NONE)
		return;
	if (link->granted && !link->revoked) {
		link->revoked = true;
		core->sink.revoke(core->sink.self, link_index(core, link), link->peer);
	}
	if (link->requested && !link->peer_gone && !link->arrived)
		ask_to_stop(core, link);
	if (!link->granted)
		rx_prove(core, link, KVF_PROOF_NEVER_ADVERTISED);
	else if (link->arrived && !link->receiver_applied)
		rx_prove(core, link, KVF_PROOF_WRITER_QUIET);
}

/* The transport knows that no store of a revoked grant is in flight, and why. */
void rx_proof(struct kvfi_core *core, const struct kvfi_in_proof *proof)
{
	struct link *link = &core->links[proof->link];

	if (link->kind != LINK_RX || !link->revoked)
		return;
	if (proof->proof == KVF_PROOF_FENCED)
		ladder_fenced(core, link);
	rx_prove(core, link, proof->proof);
}

void rx_link_over(struct kvfi_core *core, struct link *link)
{
	if (link->session != KVFI_NONE)
		return;
	end_grant(core, link);
	link_free(core, link);
}
