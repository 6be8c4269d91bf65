/* health.c - what the core knows of its health: what is in flight, when a byte moved last, what could not be released.
 *
 * In flight is a session whose outcome is not told and of which a byte is to move now: on the sending side, a receiver with permission has slices
 * or aux data to come; on the receiving side, bytes have come that no RESULT has named yet. Waiting for the other side to begin is not in flight.
 * Movement is whatever ends a piece of work (a post, a slice, an acknowledgement), and, while there is none of it, the transports' own
 * numbers, looked at on a timer: slow but moving is healthy. The time of the last movement is set anew when the first session comes into flight.
 */
#include "session/state.h"

#include <stdio.h>
#include <string.h>
#include "base/clock.h"

#define LOOK_MAX_NS (UINT64_C(1) * KVFI_NS_PER_S)
#define LOOKS       8u /* in one progress deadline */

/* ---- in flight ---- */

static bool tx_link_flies(const struct link *link)
{
	return link->authority && !link->cancelled && !link->peer_gone && link->failing == KVF_OK &&
	       (link->next_slice != NULL || link->open > 0 || link->aux_delivery != KVFI_NONE);
}

static bool rx_link_flies(const struct link *link)
{
	return link->granted && !link->arrived && (link->began_ns != 0 || link->arrival != KVFI_NONE);
}

static bool flies(const struct session *session)
{
	if (session->outcome_told)
		return false;
	kvfi_list_for_each (at, &session->links) {
		const struct link *link = kvfi_container_of(at, const struct link, in_session);

		if (link->kind == LINK_TX ? tx_link_flies(link) : rx_link_flies(link))
			return true;
	}
	return false;
}

static void arm(struct kvfi_core *core)
{
	uint64_t every_ns = core->config.progress_timeout_ns / LOOKS;

	if (core->n_in_flight + core->n_granted == 0 || every_ns == 0)
		wake_never(core, &core->flight_wake);
	else if (core->flight_wake.timer.place == 0)
		wake_at(core, &core->flight_wake,
			core->now_ns + (every_ns < LOOK_MAX_NS ? every_ns : LOOK_MAX_NS));
}

void flight_moved(struct kvfi_core *core)
{
	core->moved_ns = core->now_ns;
}

void flight_look(struct kvfi_core *core, struct session *session)
{
	bool now = flies(session);

	if (now == session->in_flight)
		return;
	session->in_flight = now;
	if (!now)
		core->n_in_flight--;
	else if (core->n_in_flight++ == 0)
		flight_moved(core);
	arm(core);
}

void flight_granted(struct kvfi_core *core, bool granted)
{
	if (granted)
		core->n_granted++;
	else
		core->n_granted--;
	arm(core);
}

/* ---- movement ---- */

/* What the deadlines see of every session, also when all of them are off. */
void flight_wake(struct kvfi_core *core)
{
	kvfi_list_for_each (at, &core->live) {
		struct session *session = kvfi_container_of(at, struct session, node);

		if (session->outcome_told)
			continue;
		deadline_look(core, session);
		flight_look(core, session);
	}
	arm(core);
}

/* ---- what kvf_health tells ---- */

/* The peer that a sentence is about: the first that owes something. */
static void name_peer(const struct session *session, char *text, size_t len_bytes)
{
	text[0] = '\0';
	kvfi_list_for_each (at, &session->links) {
		const struct link *link = kvfi_container_of(at, const struct link, in_session);
		bool owes = link->kind == LINK_TX ? link->posted > 0 || tx_link_flies(link)
		                                  : link->proof == KVF_PROOF_NONE;

		if (!owes)
			continue;
		(void)snprintf(text, len_bytes, "%s rank %u", link->kind == LINK_TX ? "decode" : "prefill",
			link->rank);
		return;
	}
}

static void tell_wedged(const struct kvfi_core *core, struct kvf_health *health)
{
	char who[40] = "";
	uint64_t request_id = 0;

	kvfi_list_for_each (at, &core->live) {
		const struct session *session = kvfi_container_of(at, const struct session, node);

		if (!session->in_flight)
			continue;
		request_id = session->request_id;
		name_peer(session, who, sizeof(who));
		break;
	}
	(void)snprintf(health->text, sizeof(health->text),
		"%u in flight and nothing moved for %llu s (deadline %llu s); request %llu with %s",
		health->in_flight, (unsigned long long)(health->since_progress_ns / KVFI_NS_PER_S),
		(unsigned long long)(health->progress_timeout_ns / KVFI_NS_PER_S),
		(unsigned long long)request_id, who);
}

static void tell_stuck(const struct kvfi_core *core, struct kvf_health *health)
{
	const struct session *oldest =
		kvfi_container_of(core->quarantine.next, const struct session, in_quarantine);
	char who[40];

	name_peer(oldest, who, sizeof(who));
	(void)snprintf(health->text, sizeof(health->text),
		"%u sessions are stuck, the budget is %u; request %llu has no proof from %s for %llu s",
		health->stuck, health->stuck_budget, (unsigned long long)oldest->request_id, who,
		(unsigned long long)(health->oldest_quarantine_ns / KVFI_NS_PER_S));
}

void kvfi_core_health(const struct kvfi_core *core, uint64_t now_ns, struct kvf_health *health_out)
{
	struct kvf_health health = {.in_flight = core->n_in_flight,
		.quarantined = core->n_quarantined,
		.stuck = core->n_stuck,
		.stuck_budget = core->config.stuck_budget,
		.quarantined_bytes = core->quarantined_bytes,
		.progress_timeout_ns = core->config.progress_timeout_ns,
		.ladder_quiet = core->ladder_counts[LADDER_QUIET],
		.ladder_fence = core->ladder_counts[LADDER_FENCE],
		.ladder_drop = core->ladder_counts[LADDER_DROP],
		.ladder_stuck = core->ladder_counts[LADDER_STUCK],
		.recovered = core->recovered,
		.snapshot_ns = now_ns};

	if (health.in_flight > 0 && now_ns > core->moved_ns)
		health.since_progress_ns = now_ns - core->moved_ns;
	if (health.quarantined > 0)
		health.oldest_quarantine_ns =
			now_ns - kvfi_container_of(core->quarantine.next, const struct session, in_quarantine)
					 ->stats.outcome_ns;
	if (health.in_flight > 0 && health.progress_timeout_ns > 0 &&
		health.since_progress_ns >= health.progress_timeout_ns) {
		health.reason = KVF_HEALTH_WEDGED;
		tell_wedged(core, &health);
	} else if (health.stuck > health.stuck_budget) {
		health.reason = KVF_HEALTH_STUCK;
		tell_stuck(core, &health);
	}
	health.healthy = health.reason == KVF_HEALTH_OK;
	*health_out = health;
}
