/* health.c - kvf_health: how the agent is, told to any thread without waiting.
 *
 * The owner writes a snapshot at the end of every turn, and takes a turn at least every 100 ms while anything is in flight or quarantined. There
 * are two places, written in turn; each has a sequence number that is odd while it is written. A reader copies the place that was finished last,
 * and copies again only if the owner came round twice meanwhile: an owner that is stopped in the middle of a snapshot holds nobody up. All
 * words are atomics, so no order is left to the compiler, and the race detector sees what it is.
 */
#include "agent/agent.h"

#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "base/status.h"

#define REFRESH_NS (UINT64_C(100) * KVFI_NS_PER_MS)

/* ---- the snapshot ---- */

union packed {
	struct kvf_health health;
	uint64_t words[KVFI_HEALTH_WORDS];
};

_Static_assert(sizeof(union packed) == KVFI_HEALTH_WORDS * sizeof(uint64_t), "the words hold the health");

static void publish(struct published_health *to, const struct kvf_health *health)
{
	const uint32_t next = 1 - atomic_load_explicit(&to->current, memory_order_relaxed);
	struct health_place *place = &to->places[next];
	uint64_t sequence = atomic_load_explicit(&place->sequence, memory_order_relaxed);
	union packed packed;

	memset(&packed, 0, sizeof(packed));
	packed.health = *health;
	atomic_store_explicit(&place->sequence, sequence + 1, memory_order_relaxed);
	for (uint32_t i = 0; i < KVFI_HEALTH_WORDS;
		i++) /* release: nobody sees a word and not the odd number */
		atomic_store_explicit(&place->words[i], packed.words[i], memory_order_release);
	atomic_store_explicit(&place->sequence, sequence + 2, memory_order_release);
	atomic_store_explicit(&to->current, next, memory_order_release);
}

static bool take(struct published_health *from, union packed *packed)
{
	struct health_place *place =
		&from->places[atomic_load_explicit(&from->current, memory_order_acquire)];
	uint64_t sequence = atomic_load_explicit(&place->sequence, memory_order_acquire);

	for (uint32_t i = 0; i < KVFI_HEALTH_WORDS; i++)
		packed->words[i] = atomic_load_explicit(&place->words[i], memory_order_acquire);
	return (sequence & 1) == 0 &&
	       atomic_load_explicit(&place->sequence, memory_order_relaxed) == sequence;
}

/* ---- owner ---- */

static bool is_lost(const struct agent_peer *peer)
{
	if (!peer->was_up || peer->state == PEER_FREE || peer->state == PEER_UP)
		return false;
	return peer->state != PEER_DOWN ? peer->endpoint[0] != '\0' : peer->recall;
}

/* All peers are looked at only when one of them has changed, or when a proof came that a barred link may have waited for. */
static void count_peers(kvf_agent *agent, uint32_t quarantined)
{
	if (!agent->peers_changed && (agent->barred_links == 0 || quarantined == agent->counted_quarantined))
		return;
	agent->peers_changed = false;
	agent->counted_quarantined = quarantined;
	agent->lost_peers = agent->barred_links = 0;
	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		const struct agent_peer *peer = &agent->peers[i];

		agent->lost_peers += is_lost(peer);
		agent->barred_links +=
			peer->state == PEER_DOWN && peer->barred && !kvfi_core_peer_free(agent->core, i);
	}
}

void kvfi_health_refresh(kvf_agent *agent)
{
	const uint64_t now_ns = kvfi_clock_ns();
	struct kvf_health health;

	kvfi_core_health(agent->core, now_ns, &health);
	count_peers(agent, health.quarantined);
	health.lost_peers = agent->lost_peers;
	health.barred_links = agent->barred_links;
	health.peer_losses = agent->peer_losses;
	agent->health_due_ns = health.in_flight + health.quarantined > 0 ? now_ns + REFRESH_NS : KVFI_NEVER;
	atomic_store(&agent->healthy, health.healthy != 0);
	publish(&agent->health, &health);
}

/* ---- any thread ---- */

/* A snapshot that is old is no excuse: an owner that takes no turn moves nothing, and cannot say so. */
static void add_age(struct kvf_health *health, uint64_t now_ns)
{
	const uint64_t age_ns = now_ns > health->snapshot_ns ? now_ns - health->snapshot_ns : 0;

	if (health->in_flight > 0)
		health->since_progress_ns += age_ns;
	if (health->quarantined > 0)
		health->oldest_quarantine_ns += age_ns;
	if (health->healthy == 0 || health->in_flight == 0 || health->progress_timeout_ns == 0 ||
		health->since_progress_ns < health->progress_timeout_ns)
		return;
	health->healthy = 0;
	health->reason = KVF_HEALTH_WEDGED;
	(void)snprintf(health->text, sizeof(health->text),
		"%u in flight and nothing moved for %llu s (deadline %llu s); the agent's last turn was %llu "
		"ms ago",
		health->in_flight, (unsigned long long)(health->since_progress_ns / KVFI_NS_PER_S),
		(unsigned long long)(health->progress_timeout_ns / KVFI_NS_PER_S),
		(unsigned long long)(age_ns / KVFI_NS_PER_MS));
}

enum kvf_status kvf_health(kvf_agent *agent, struct kvf_health *health_out)
{
	union packed packed;

	if (agent == NULL || health_out == NULL)
		return kvfi_fail(KVF_EINVAL, "agent and health_out must not be NULL");
	while (!take(&agent->health, &packed))
		;
	add_age(&packed.health, kvfi_clock_ns());
	*health_out = packed.health;
	return KVF_OK;
}
