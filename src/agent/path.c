/* path.c - the data path of a peer: which transport, whose addresses, which plans.
 *
 * Decode tries the transports that both sides have, in its own order of preference, and connects; prefill admits whichever of them comes. When the path
 * works, plans are made from the two layouts with addresses of this process; they live until the core names the peer no more.
 */
#include "agent/agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/clock.h"
#include "base/status.h"

static bool is_decode(const kvf_agent *agent)
{
	return agent->instance->role == KVF_DECODE;
}

/* ---- does it fit? ---- */

/* All ranks of one instance must tell the same map. The same rank may tell another one: then it has restarted. */
enum kvf_status kvfi_path_judge_map(const kvf_agent *agent, const struct kvfi_msg_hello *hello)
{
	uint64_t told = kvfi_instance_hash(hello->instance);

	for (uint32_t i = 0; i < agent->options.max_peers; i++) {
		const struct agent_peer *peer = &agent->peers[i];
		bool same = (peer->state == PEER_UP || peer->state == PEER_CONNECTING) &&
		            peer->hello.instance != NULL && peer->hello.instance->id == hello->instance->id &&
		            peer->hello.layout->rank != hello->layout->rank;

		if (same && kvfi_instance_hash(peer->hello.instance) != told)
			return kvfi_fail(KVF_INCOMPATIBLE,
				"instance map: rank %u of instance %llu tells %016llx, rank %u tells %016llx",
				peer->hello.layout->rank, (unsigned long long)hello->instance->id,
				(unsigned long long)kvfi_instance_hash(peer->hello.instance),
				hello->layout->rank, (unsigned long long)told);
	}
	return KVF_OK;
}

static enum kvf_status plan_of(const kvf_agent *agent, const struct kvf_instance *instance,
	const struct kvf_layout *own, const struct kvf_layout *theirs, enum kvf_replica replica,
	kvf_plan **plan_out)
{
	if (is_decode(agent))
		return kvf_plan_new(instance, theirs, agent->instance, own, replica, plan_out);
	return kvf_plan_new(agent->instance, own, instance, theirs, replica, plan_out);
}

enum kvf_status kvfi_path_judge(
	const kvf_agent *agent, const struct kvfi_msg_hello *hello, struct kvf_refusal *refusal_out)
{
	enum kvf_status status;
	kvf_plan *plan = NULL;

	if (hello->instance->role == agent->instance->role)
		return kvfi_fail(
			KVF_INCOMPATIBLE, "role: both sides are %s", is_decode(agent) ? "decode" : "prefill");
	status = is_decode(agent) ? kvf_layout_compatible(hello->layout, agent->wire_layout, refusal_out)
	                          : kvf_layout_compatible(agent->wire_layout, hello->layout, refusal_out);
	if (status != KVF_OK)
		return status;
	memset(refusal_out, 0, sizeof(*refusal_out));
	status = plan_of(agent, hello->instance, agent->wire_layout, hello->layout, KVF_REPLICA_ELECT, &plan);
	kvf_plan_free(plan);
	return status;
}

/* ---- decode: trying transports ---- */

static bool layout_is_shared(const kvf_agent *agent)
{
	for (uint32_t g = 0; g < agent->wire_layout->n_groups; g++) {
		const struct kvf_group *group = &agent->wire_layout->groups[g];

		for (uint32_t i = 0; i < group->n_layers * group->n_parts; i++)
			if (agent->regions.table[group->bases[i] >> KVFI_REGION_SHIFT].fd < 0)
				return false;
	}
	return true;
}

static const struct kvfi_transport_address *address_of(const struct agent_peer *peer, const char *name)
{
	for (uint32_t i = 0; i < peer->hello.n_transports; i++)
		if (strcmp(peer->hello.transports[i].name, name) == 0)
			return &peer->hello.transports[i];
	return NULL;
}

static void add_reason(struct agent_peer *peer, const char *name, const char *why)
{
	size_t used = strlen(peer->reason);

	(void)snprintf(peer->reason + used, sizeof(peer->reason) - used, "%s%s: %s", used > 0 ? "; " : "",
		name, why);
}

static enum kvf_status try_transport(kvf_agent *agent, uint32_t slot, uint32_t index)
{
	struct agent_peer *peer = &agent->peers[slot];
	const struct agent_transport *transport = &agent->transports[index];
	const struct kvfi_transport_address *address = address_of(peer, transport->ops->name);
	enum kvf_status status;

	if (address == NULL)
		return kvfi_fail(KVF_NO_TRANSPORT, "the other side has none");
	if (transport->ops->needs_shared && !layout_is_shared(agent))
		return kvfi_fail(KVF_NO_TRANSPORT, "the blocks are not in memory from kvf_alloc");
	status = transport->ops->reachable(transport->self, address->bytes, address->len_bytes);
	if (status != KVF_OK)
		return status;
	return transport->ops->connect(
		transport->self, slot, peer->incarnation, peer->link, address->bytes, address->len_bytes);
}

void kvfi_path_start(kvf_agent *agent, uint32_t slot)
{
	struct agent_peer *peer = &agent->peers[slot];
	char reasons[256];

	for (uint32_t i = 0; i < agent->n_transports; i++) {
		if ((peer->tried & (1u << i)) != 0)
			continue;
		peer->tried |= 1u << i;
		peer->transport = i;
		if (try_transport(agent, slot, i) == KVF_OK) {
			peer->attempted = true;
			return;
		}
		add_reason(peer, agent->transports[i].ops->name, kvf_error());
	}
	(void)snprintf(reasons, sizeof(reasons), "%s", peer->reason);
	/* Where a transport should work and did not, it may the next time; where none can, waiting does not help. */
	kvfi_peer_lost(agent, slot, peer->attempted ? KVF_UNREACHABLE : KVF_NO_TRANSPORT, reasons);
}

/* ---- prefill ---- */

void kvfi_path_expect(kvf_agent *agent, uint32_t slot)
{
	struct agent_peer *peer = &agent->peers[slot];

	for (uint32_t i = 0; i < agent->n_transports; i++) {
		const struct agent_transport *transport = &agent->transports[i];

		if (transport->ops->expect(transport->self, slot, peer->incarnation, peer->link) == KVF_OK)
			peer->tried |= 1u << i;
	}
}

/* ---- plans ---- */

enum kvf_status kvfi_path_pairs(kvf_agent *agent, struct agent_peer *peer)
{
	bool decode = is_decode(agent);
	const struct kvf_instance *prefill = decode ? peer->hello.instance : agent->instance;
	const struct kvf_instance *other = decode ? agent->instance : peer->hello.instance;
	uint32_t own_dp = kvfi_rank_dp(agent->instance, agent->rank);
	uint32_t room = prefill->n_ranks * other->n_ranks;
	struct kvf_pair *all;
	uint32_t n_kept = 0;

	kvfi_path_free(peer); /* of an earlier answer */
	peer->n_dps = peer->hello.instance->dp;
	peer->by_dp = calloc(peer->n_dps, sizeof(struct kvfi_pair_list));
	peer->pairs = calloc((size_t)peer->n_dps * peer->hello.instance->n_ranks, sizeof(struct kvf_pair));
	all = calloc(room, sizeof(struct kvf_pair));
	if (peer->by_dp == NULL || peer->pairs == NULL || all == NULL) {
		free(all);
		return kvfi_fail(KVF_ENOMEM, "no memory for the pairs");
	}
	for (uint32_t dp = 0; dp < peer->n_dps; dp++) {
		uint32_t n = 0;
		enum kvf_status status =
			kvf_pairs(prefill, other, decode ? dp : own_dp, decode ? own_dp : dp, all, room, &n);

		if (status != KVF_OK) {
			free(all);
			return status;
		}
		KVFI_ASSERT(n <= room);
		peer->by_dp[dp].pairs = &peer->pairs[n_kept];
		for (uint32_t i = 0; i < n; i++)
			if ((decode ? all[i].dst : all[i].src) == agent->rank)
				peer->pairs[n_kept++] = all[i];
		peer->by_dp[dp].n = (uint32_t)(&peer->pairs[n_kept] - peer->by_dp[dp].pairs);
	}
	free(all);
	return KVF_OK;
}

static enum kvf_status make_plans(
	kvf_agent *agent, struct agent_peer *peer, uint32_t transport, uint32_t slot)
{
	const struct kvf_layout *theirs = peer->hello.layout;
	enum kvf_status status = KVF_OK;

	if (!is_decode(agent)) {
		peer->mapped = kvfi_layout_copy(theirs);
		if (peer->mapped == NULL)
			return kvfi_fail(KVF_ENOMEM, "no memory for the peer's layout");
		status = agent->transports[transport].ops->map_layout(
			agent->transports[transport].self, slot, peer->mapped);
		theirs = peer->mapped;
	}
	for (int replica = KVF_REPLICA_ELECT; replica <= KVF_REPLICA_STRIPE && status == KVF_OK; replica++) {
		const struct kvf_instance *instance = peer->hello.instance;

		status = plan_of(agent, instance, agent->layout, theirs, (enum kvf_replica)replica,
			&peer->plans[replica]);
		peer->digests[replica] =
			is_decode(agent) ? kvfi_pair_digest(instance, peer->hello.layout, agent->instance,
						   agent->wire_layout, (enum kvf_replica)replica)
					 : kvfi_pair_digest(agent->instance, agent->wire_layout, instance,
						   peer->hello.layout, (enum kvf_replica)replica);
	}
	return status;
}

void kvfi_path_free(struct agent_peer *peer)
{
	kvf_plan_free(peer->plans[0]);
	kvf_plan_free(peer->plans[1]);
	kvf_layout_free(peer->mapped);
	free(peer->by_dp);
	free(peer->pairs);
	peer->plans[0] = peer->plans[1] = NULL;
	peer->mapped = NULL;
	peer->by_dp = NULL;
	peer->pairs = NULL;
}

/* ---- up and broken ---- */

/* So that a request that has no room is refused at the call. */
static void publish(kvf_agent *agent, uint32_t slot)
{
	const struct agent_peer *peer = &agent->peers[slot];
	struct known_instance *known = &agent->known[slot];
	uint32_t most = 0, all = 0;

	for (uint32_t dp = 0; dp < peer->n_dps; dp++) {
		most = peer->by_dp[dp].n > most ? peer->by_dp[dp].n : most;
		all += peer->by_dp[dp].n;
	}
	atomic_store(&known->id, 0);
	atomic_store(&known->links, most);
	atomic_store(&known->links_unknown_dp, all);
	atomic_store(&known->id, peer->hello.instance->id);
}

void kvfi_path_up(kvf_agent *agent, uint32_t transport, uint32_t slot)
{
	struct agent_peer *peer = &agent->peers[slot];
	struct kvfi_input input = {.kind = KVFI_IN_PEER_UP, .peer = slot};
	enum kvf_status status;
	char why[96];

	if (peer->state != PEER_CONNECTING)
		return;
	peer->transport = transport;
	status = make_plans(agent, peer, transport, slot);
	if (status != KVF_OK) {
		char reason[256];

		(void)snprintf(reason, sizeof(reason), "%s", kvf_error());
		kvfi_peer_lost(agent, slot, status, reason);
		return;
	}
	input.u.peer_up = (struct kvfi_peer_up){.instance = peer->hello.instance,
		.layout = peer->hello.layout,
		.rank = peer->hello.layout->rank,
		.receiver_applied = agent->transports[transport].ops->receiver_applied,
		.plans = {peer->plans[0], peer->plans[1]},
		.digests = {peer->digests[0], peer->digests[1]},
		.n_dps = peer->n_dps,
		.by_dp = peer->by_dp};
	peer->state = PEER_UP;
	peer->in_core = peer->was_up = true;
	peer->deadline_ns = KVFI_NEVER;
	(void)snprintf(why, sizeof(why), "chosen by %s", is_decode(agent) ? "this side" : "the decode side");
	add_reason(peer, agent->transports[transport].ops->name, why);
	publish(agent, slot);
	kvfi_liveness_begin(agent, slot);
	kvfi_peer_status(agent, slot, KVF_OK, peer->reason);
	kvfi_owner_step(agent, &input);
}

void kvfi_path_broken(
	kvf_agent *agent, uint32_t transport, uint32_t slot, enum kvf_status status, const char *reason)
{
	struct agent_peer *peer = &agent->peers[slot];

	if (peer->transport != transport && peer->state != PEER_CONNECTING)
		return;
	if (peer->state == PEER_UP) {
		kvfi_peer_lost(agent, slot, status == KVF_PROTOCOL ? status : KVF_PEER_LOST, reason);
	} else if (peer->state == PEER_CONNECTING && is_decode(agent) && peer->transport == transport) {
		add_reason(peer, agent->transports[transport].ops->name, reason);
		agent->transports[transport].ops->disconnect(agent->transports[transport].self, slot);
		kvfi_path_start(agent, slot);
	}
}
