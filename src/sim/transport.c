/* transport.c - the simulated transports: links, connecting, grants and their proofs. Three personalities, one code.
 *
 * applied  as tcp: the sender hands frames to a stream, the receiver stores them, re-checking its own grant before every store.
 * leased   as shm: the sender's workers store, a chunk at a time under a lease word; they can stop, or die, inside. A fence sinks what
 *          a stopped worker would still store; the end of a process is known where the kernel tells.
 * card     as one-sided RDMA: what was posted lands when it lands, also after its process has died; nothing but the writer's flush
 *          proves anything, so proof() never names one.
 *
 * A link is made by expect(), found by connect(), and kept by the world. Every end is told of the other's end by an event, never from inside.
 */
#include "sim/transport.h"

#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/status.h"

#define DIAL_AGAIN_NS (UINT64_C(20) * KVFI_NS_PER_MS)

/* ---- telling ---- */

void sim_end_tell(const struct sim_end *end, const struct kvfi_done *done)
{
	struct kvfi_done copy = *done;

	if (end->transport == NULL || !end->transport->node->alive)
		return;
	copy.peer = end->peer;
	end->transport->env.notify(end->transport->env.self, &copy);
	sim_wake(end->transport->node, 1000);
}

static void tell(
	const struct sim_end *end, enum kvfi_done_kind kind, enum kvf_status status, const char *reason)
{
	struct kvfi_done done = {.kind = kind, .status = status};

	(void)snprintf(done.reason, sizeof(done.reason), "%s", reason);
	sim_end_tell(end, &done);
}

void sim_link_break(struct sim_link *link, enum kvf_status status, const char *reason)
{
	if (link->broken)
		return;
	link->broken = true;
	sim_trace(link->world, link->ends[SIM_SENDER].node, "data path with %s is broken: %s",
		link->world->nodes[link->ends[SIM_RECEIVER].node].name, reason);
	sim_stream_end(link, KVF_STREAM_BROKEN, reason);
	if (link->ends[SIM_SENDER].transport != NULL)
		sim_posts_stop(link->ends[SIM_SENDER].transport, link, KVF_PEER_LOST);
	tell(&link->ends[SIM_SENDER], KVFI_DONE_BROKEN, status, reason);
	tell(&link->ends[SIM_RECEIVER], KVFI_DONE_BROKEN, status, reason);
}

/* The other end hears of it when the network lets it. */
static void other_left(struct sim_world *world, struct sim_event *event)
{
	struct sim_link *link = event->payload;

	if (link->personality != SIM_LEASED && sim_is_cut(world, link->ends[0].node, link->ends[1].node)) {
		sim_at(world, world->now_ns + DIAL_AGAIN_NS, other_left)->payload = link;
		return;
	}
	sim_link_break(link, KVF_PEER_LOST, "the peer has closed its end");
}

static void detach(struct sim_link *link, enum sim_side side)
{
	struct sim_world *world = link->world;

	if (link->ends[side].transport == NULL)
		return;
	if (side == SIM_RECEIVER)
		sim_stream_end(link, KVF_CANCELLED, "the connection was closed here");
	link->ends[side].transport = NULL;
	link->expected = false;
	if (link->ends[1 - side].transport != NULL && link->has_leases)
		sim_at(world, world->now_ns + sim_data_delay(world, link->ends[0].node, link->ends[1].node),
			other_left)
			->payload = link;
}

void sim_links_crashed(struct sim_node *node)
{
	for (struct sim_link *link = node->world->links; link != NULL; link = link->next)
		for (int side = 0; side < 2; side++)
			if (link->ends[side].transport != NULL && link->ends[side].node == node->index)
				detach(link, (enum sim_side)side);
}

/* ---- open, close ---- */

static const struct kvfi_transport_ops *const all_ops[] = {
	[SIM_APPLIED] = &sim_applied_ops, [SIM_LEASED] = &sim_leased_ops, [SIM_CARD] = &sim_card_ops};

const struct kvfi_transport_ops *sim_transport_ops(enum sim_personality personality)
{
	return all_ops[personality];
}

const char *sim_personality_name(enum sim_personality personality)
{
	return all_ops[personality]->name;
}

static void transport_close(struct kvfi_transport *transport);

static enum kvf_status open_as(const struct kvfi_transport_env *env, enum sim_personality personality,
	struct kvfi_transport **transport_out)
{
	struct sim_transport *self = calloc(1, sizeof(*self));

	if (self == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for a transport");
	self->base.ops = all_ops[personality];
	self->env = *env;
	self->node = env->seam;
	self->personality = personality;
	self->next_serial = 1;
	kvfi_list_init(&self->stores);
	self->peers = calloc(env->max_peers, sizeof(*self->peers));
	self->grants = calloc(env->max_grants, sizeof(*self->grants));
	self->posts = calloc(env->max_posts, sizeof(*self->posts));
	if (self->peers == NULL || self->grants == NULL || self->posts == NULL) {
		transport_close((struct kvfi_transport *)self);
		return kvfi_fail(KVF_ENOMEM, "no memory for a transport");
	}
	self->node->transports[personality] = self;
	*transport_out = (struct kvfi_transport *)self;
	return KVF_OK;
}

static enum kvf_status open_applied(const struct kvfi_transport_env *env, struct kvfi_transport **out)
{
	return open_as(env, SIM_APPLIED, out);
}

static enum kvf_status open_leased(const struct kvfi_transport_env *env, struct kvfi_transport **out)
{
	return open_as(env, SIM_LEASED, out);
}

static enum kvf_status open_card(const struct kvfi_transport_env *env, struct kvfi_transport **out)
{
	return open_as(env, SIM_CARD, out);
}

static void transport_disconnect(struct kvfi_transport *transport, uint32_t peer);

static void transport_close(struct kvfi_transport *transport)
{
	struct sim_transport *self = sim_transport_of(transport);

	if (self == NULL)
		return;
	if (self->posts != NULL)
		sim_posts_close(self);
	for (uint32_t i = 0; self->peers != NULL && i < self->env.max_peers; i++)
		transport_disconnect(transport, i);
	self->node->transports[self->personality] = NULL;
	free(self->peers);
	free(self->grants);
	free(self->posts);
	free(self);
}

/* ---- addresses, regions ---- */

struct sim_address {
	uint32_t node, life;
};

static size_t transport_address(struct kvfi_transport *transport, void *buffer)
{
	const struct sim_node *node = sim_transport_of(transport)->node;
	struct sim_address address = {node->index, node->life};

	memcpy(buffer, &address, sizeof(address));
	return sizeof(address);
}

/* Each pair of nodes has one personality. */
static enum kvf_status transport_reachable(
	struct kvfi_transport *transport, const void *bytes, size_t len_bytes)
{
	const struct sim_transport *self = sim_transport_of(transport);
	struct sim_address address;

	if (len_bytes != sizeof(address))
		return kvfi_fail(KVF_PROTOCOL, "an address of %zu bytes", len_bytes);
	memcpy(&address, bytes, sizeof(address));
	if (address.node >= self->node->world->n_prefill)
		return kvfi_fail(KVF_PROTOCOL, "an address of node %u", address.node);
	if (sim_path_of(self->node->world, address.node, self->node->index)->personality != self->personality)
		return kvfi_fail(KVF_NO_TRANSPORT, "not between these two");
	return KVF_OK;
}

static enum kvf_status transport_region_added(struct kvfi_transport *transport, uint32_t region)
{
	struct sim_transport *self = sim_transport_of(transport);
	const struct kvfi_region *entry = &self->env.regions->table[region];
	uint64_t start = (uint64_t)(uintptr_t)entry->memory;

	self->window = (struct kvfi_window){region, start, start + entry->len_bytes};
	return KVF_OK;
}

static void transport_region_removed(struct kvfi_transport *transport, uint32_t region)
{
	sim_transport_of(transport)->window = (struct kvfi_window){region, 0, 0};
}

/* ---- connecting ---- */

static enum kvf_status transport_expect(
	struct kvfi_transport *transport, uint32_t peer, uint64_t peer_incarnation, uint64_t number)
{
	struct sim_transport *self = sim_transport_of(transport);
	struct sim_link *link = self->peers[peer].link;

	if (link != NULL && link->incarnations[SIM_RECEIVER] == peer_incarnation && link->number == number)
		return KVF_OK;
	transport_disconnect(transport, peer);
	link = sim_new(sizeof(*link));
	link->world = self->node->world;
	link->personality = self->personality;
	link->number = number;
	link->incarnations[SIM_SENDER] = self->env.incarnation;
	link->incarnations[SIM_RECEIVER] = peer_incarnation;
	link->ends[SIM_SENDER] = (struct sim_end){self, peer, self->node->index, self->node->life};
	link->expected = true;
	sim_stream_init(&link->stream);
	link->next = link->world->links;
	link->world->links = link;
	self->peers[peer] = (struct sim_peer){.link = link, .side = SIM_SENDER};
	return KVF_OK;
}

struct dial {
	uint32_t node, peer;
	uint64_t attempt, sender, number;
	enum sim_personality personality;
	uint32_t to;
};

static void free_dial(struct sim_event *event)
{
	free(event->payload);
}

static struct sim_link *find_expected(struct sim_world *world, const struct dial *dial, uint64_t receiver)
{
	struct sim_link *link = world->links;

	while (link != NULL &&
		!(link->expected && link->personality == dial->personality &&
			link->incarnations[SIM_SENDER] == dial->sender &&
			link->incarnations[SIM_RECEIVER] == receiver && link->number == dial->number))
		link = link->next;
	return link;
}

static void attach(struct sim_transport *self, uint32_t peer, struct sim_link *link)
{
	struct sim_world *world = link->world;

	KVFI_ASSERT(kvfi_lease_table_init(&link->leases, self->env.max_grants, false) == KVF_OK);
	link->has_leases = true;
	link->expected = false;
	link->windows.table = sim_new(sizeof(struct kvfi_window));
	link->windows.table[0] = self->window;
	atomic_store(&link->windows.n, 1);
	link->ends[SIM_RECEIVER] = (struct sim_end){self, peer, self->node->index, self->node->life};
	self->peers[peer] = (struct sim_peer){.link = link, .side = SIM_RECEIVER};
	sim_trace(world, self->node->index, "data path with %s: %s",
		world->nodes[link->ends[SIM_SENDER].node].name, sim_personality_name(link->personality));
	tell(&link->ends[SIM_RECEIVER], KVFI_DONE_UP, KVF_OK, "");
	tell(&link->ends[SIM_SENDER], KVFI_DONE_UP, KVF_OK, "");
}

static void dialed(struct sim_world *world, struct sim_event *event)
{
	struct dial *dial = event->payload;
	struct sim_transport *self = world->nodes[dial->node].transports[dial->personality];
	struct sim_link *link;

	if (self == NULL || self->peers[dial->peer].dialing != dial->attempt) {
		free(dial);
		return;
	}
	if (sim_is_cut(world, dial->node, dial->to)) {
		struct sim_event *again = sim_at(world, world->now_ns + DIAL_AGAIN_NS, dialed);

		again->payload = dial;
		again->node = event->node;
		again->life = event->life;
		again->drop = free_dial;
		return;
	}
	self->peers[dial->peer].dialing = 0;
	link = find_expected(world, dial, self->env.incarnation);
	if (link != NULL) {
		attach(self, dial->peer, link);
	} else {
		struct sim_end end = {self, dial->peer, dial->node, event->life};

		tell(&end, KVFI_DONE_BROKEN, KVF_REFUSED, "nobody expects this connection");
	}
	free(dial);
}

static enum kvf_status transport_connect(struct kvfi_transport *transport, uint32_t peer,
	uint64_t peer_incarnation, uint64_t number, const void *bytes, size_t len_bytes)
{
	struct sim_transport *self = sim_transport_of(transport);
	struct sim_world *world = self->node->world;
	struct sim_address address;
	struct sim_event *event;
	struct dial *dial;

	KVFI_ASSERT(len_bytes == sizeof(address));
	memcpy(&address, bytes, sizeof(address));
	transport_disconnect(transport, peer);
	dial = sim_new(sizeof(*dial));
	*dial = (struct dial){.node = self->node->index,
		.peer = peer,
		.attempt = self->next_serial++,
		.sender = peer_incarnation,
		.number = number,
		.personality = self->personality,
		.to = address.node};
	self->peers[peer].dialing = dial->attempt;
	event = sim_at(
		world, world->now_ns + 2 * sim_data_delay(world, address.node, self->node->index), dialed);
	event->payload = dial;
	event->node = self->node->index;
	event->life = self->node->life;
	event->drop = free_dial;
	return KVF_OK;
}

static void transport_disconnect(struct kvfi_transport *transport, uint32_t peer)
{
	struct sim_transport *self = sim_transport_of(transport);
	struct sim_link *link = self->peers[peer].link;

	self->peers[peer].dialing = 0;
	if (link == NULL)
		return;
	detach(link, self->peers[peer].side);
	if (self->peers[peer].side == SIM_SENDER)
		sim_posts_stop(self, link, KVF_PEER_LOST);
	self->peers[peer].link = NULL;
}

static enum kvf_status transport_map_layout(
	struct kvfi_transport *transport, uint32_t peer, struct kvf_layout *layout)
{
	struct sim_transport *self = sim_transport_of(transport);
	const struct sim_link *link = self->peers[peer].link;

	if (link == NULL || !link->has_leases)
		return kvfi_fail(KVF_PEER_LOST, "the peer is not connected");
	if (self->personality == SIM_APPLIED)
		return KVF_OK;
	return kvfi_windows_map(&link->windows, layout);
}

/* ---- the rest ---- */

static int transport_fd(struct kvfi_transport *transport)
{
	(void)transport;
	return -1;
}

void sim_links_fini(struct sim_world *world)
{
	while (world->links != NULL) {
		struct sim_link *link = world->links;

		world->links = link->next;
		sim_stream_fini(link);
		sim_hot_fini(link);
		if (link->has_leases)
			kvfi_lease_table_fini(&link->leases);
		free(link->windows.table);
		free(link);
	}
}

#define SIM_TRANSPORT_FUNCTIONS                                                                              \
	.close = transport_close, .address = transport_address, .reachable = transport_reachable,            \
	.region_added = transport_region_added, .region_removed = transport_region_removed,                  \
	.connect = transport_connect, .expect = transport_expect, .disconnect = transport_disconnect,        \
	.map_layout = transport_map_layout, .post = sim_post, .cancel = sim_post_cancel,                     \
	.grant = sim_grant_open, .revoke = sim_grant_revoke, .proof = sim_grant_proof,                       \
	.release = sim_grant_release, .fence = sim_fence, .post_moved = sim_post_moved,                      \
	.grant_moved = sim_grant_moved, .send_frame = sim_hot_send, .fd = transport_fd, .poll = sim_hot_poll

const struct kvfi_transport_ops sim_applied_ops = {
	.name = "applied", .receiver_applied = true, .open = open_applied, SIM_TRANSPORT_FUNCTIONS};
const struct kvfi_transport_ops sim_leased_ops = {
	.name = "leased", .open = open_leased, SIM_TRANSPORT_FUNCTIONS};
const struct kvfi_transport_ops sim_card_ops = {.name = "card", .open = open_card, SIM_TRANSPORT_FUNCTIONS};
