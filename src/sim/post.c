/* post.c - posts of the simulated transports, and the stores of the one-sided ones.
 *
 * leased: a worker enters the lease, its stores land one after the other, it leaves, and so on to the end. All of that is work of the sender's
 * process: it rests while that process is stopped, and ends with it, wherever it was. card: the process hands over pieces; each lands on its own,
 * late, in any order, whether the process runs or not. The post is over when all have landed (the flush).
 */
#include "sim/transport.h"

#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/status.h"
#include "device/host.h"

/* Runs of bytes on their way into somebody's memory. */
struct store {
	struct kvfi_list node; /* in its transport's list, or in none */
	struct sim_link *link;
	uint32_t sender, sender_life, post;
	uint64_t serial; /* of the post */
	uint32_t request;
	uint64_t epoch, generation;
	uint32_t lease_slot;
	struct kvfi_strip strip;
	bool landed;
	unsigned char data[]; /* card: as they were when they were handed over */
};

/* ---- posts ---- */

struct sim_event *sim_post_at(struct sim_transport *self, struct sim_post *post, uint64_t after_ns,
	void (*run)(struct sim_world *world, struct sim_event *event))
{
	struct sim_world *world = self->node->world;
	struct sim_event *event = sim_at(world, world->now_ns + after_ns, run);

	event->node = self->node->index;
	event->life = self->node->life;
	event->on_cpu = true;
	event->a = (uint64_t)self->personality << 32 | (uint64_t)(post - self->posts);
	event->b = post->serial;
	return event;
}

struct sim_post *sim_post_of(struct sim_world *world, const struct sim_event *event)
{
	struct sim_transport *self = world->nodes[event->node].transports[event->a >> 32];
	struct sim_post *post = &self->posts[(uint32_t)event->a];

	return post->used && post->serial == event->b ? post : NULL;
}

static struct sim_transport *transport_of_event(struct sim_world *world, const struct sim_event *event)
{
	return world->nodes[event->node].transports[event->a >> 32];
}

uint64_t sim_sum(const struct kvfi_bound *bound, enum kvfi_walk_mode mode)
{
	struct kvfi_walk walk;
	struct kvfi_strip strip;
	uint64_t sum = 0;

	kvfi_walk_init(&walk, bound, mode, 0, bound->units);
	while (kvfi_walk_next(&walk, KVFI_CHUNK_BYTES, &strip)) {
		uint64_t base = mode == KVFI_WALK_SRC ? strip.src : strip.dst;
		int64_t stride = mode == KVFI_WALK_SRC ? strip.src_stride : strip.dst_stride;

		for (uint64_t i = 0; i < strip.count; i++)
			sum += kvfi_host_sum((const void *)(uintptr_t)(base + i * (uint64_t)stride),
				strip.len, strip.pos + i * (uint64_t)strip.pos_stride);
	}
	return sum;
}

void sim_post_finish(struct sim_transport *self, struct sim_post *post, enum kvf_status status)
{
	struct kvfi_done done = {.kind = KVFI_DONE_TX,
		.status = status,
		.peer = post->tx.peer,
		.id = post->tx.id,
		.slice = post->tx.slice,
		.bytes = post->bytes,
		.runs = post->runs,
		.first_ns = post->first_ns,
		.last_ns = post->last_ns};

	KVFI_ASSERT(post->used && !post->inside && post->in_flight == 0);
	if (status == KVF_OK && post->tx.sum)
		done.sum = sim_sum(post->tx.bound, KVFI_WALK_SRC);
	(void)snprintf(done.reason, sizeof(done.reason), "%s", kvfi_store_reason(status));
	post->used = false;
	self->env.notify(self->env.self, &done);
	sim_wake(self->node, 1000);
}

static void step_leased(struct sim_world *world, struct sim_event *event);
static void step_card(struct sim_world *world, struct sim_event *event);

enum kvf_status sim_post(struct kvfi_transport *transport, const struct kvfi_tx_post *tx)
{
	struct sim_transport *self = sim_transport_of(transport);
	struct sim_link *link = self->peers[tx->peer].link;
	struct sim_post *post = NULL;

	sim_advertises(self->node, tx->request_id, tx->attempt, "a post");
	sim_turn_is_here(self->node);
	if (link == NULL || link->broken || self->peers[tx->peer].side != SIM_SENDER || !link->has_leases)
		return kvfi_fail(KVF_PEER_LOST, "the peer is not connected");
	if (tx->lease_slot >= link->leases.n)
		return kvfi_fail(KVF_PROTOCOL, "lease slot %u of %u", tx->lease_slot, link->leases.n);
	for (uint32_t i = 0; i < self->env.max_posts && post == NULL; i++)
		if (!self->posts[i].used)
			post = &self->posts[i];
	if (post == NULL)
		return kvfi_fail(KVF_EFULL, "all posts are open");
	*post = (struct sim_post){.used = true, .serial = self->next_serial++, .tx = *tx, .link = link};
	if (tx->bound->bytes == 0) {
		sim_post_finish(self, post, KVF_OK);
		return KVF_OK;
	}
	if (self->personality == SIM_APPLIED) {
		kvfi_walk_init(&post->walk, tx->bound, KVFI_WALK_SRC, 0, tx->bound->units);
		(void)sim_post_at(
			self, post, 1000 + sim_below(&self->node->world->store, 20000), sim_stream_step);
		return KVF_OK;
	}
	kvfi_walk_init(&post->walk, tx->bound, KVFI_WALK_BOTH, 0, tx->bound->units);
	(void)sim_post_at(self, post, 1000 + sim_below(&self->node->world->store, 20000),
		self->personality == SIM_LEASED ? step_leased : step_card);
	return KVF_OK;
}

void sim_post_cancel(struct kvfi_transport *transport, uint64_t post_id)
{
	struct sim_transport *self = sim_transport_of(transport);

	for (uint32_t i = 0; i < self->env.max_posts; i++) {
		struct sim_post *post = &self->posts[i];

		if (!post->used || post->tx.id != post_id || post->stopping)
			continue;
		post->stopping = true;
		post->why = KVF_CANCELLED;
	}
}

uint64_t sim_post_moved(struct kvfi_transport *transport, uint64_t post_id)
{
	const struct sim_transport *self = sim_transport_of(transport);

	for (uint32_t i = 0; i < self->env.max_posts; i++)
		if (self->posts[i].used && self->posts[i].tx.id == post_id)
			return self->posts[i].bytes;
	return 0;
}

void sim_posts_stop(struct sim_transport *self, const struct sim_link *link, enum kvf_status status)
{
	for (uint32_t i = 0; i < self->env.max_posts; i++) {
		struct sim_post *post = &self->posts[i];

		if (!post->used || (link != NULL && post->link != link) || post->stopping)
			continue;
		post->stopping = true;
		post->why = status;
	}
}

/* ---- stores ---- */

static void store_free(struct store *store)
{
	kvfi_list_remove(&store->node);
	free(store);
}

static void drop_store(struct sim_event *event)
{
	store_free(event->payload);
}

/* The post is still there for the process that made it. */
static struct sim_post *post_of_store(const struct store *store)
{
	struct sim_node *node = &store->link->world->nodes[store->sender];
	struct sim_transport *self = node->transports[store->link->personality];
	struct sim_post *post;

	if (!node->alive || node->life != store->sender_life || self == NULL)
		return NULL;
	post = &self->posts[store->post];
	return post->used && post->serial == store->serial ? post : NULL;
}

static void note_moved(const struct store *store, struct sim_node *to)
{
	struct sim_transport *there = to->transports[store->link->personality];

	if (there == NULL)
		return;
	for (uint32_t i = 0; i < there->env.max_grants; i++)
		if (there->grants[i].used && there->grants[i].link == store->link &&
			there->grants[i].rx.epoch == store->epoch)
			there->grants[i].moved++;
}

/* The bytes reach their destination, if it is still there. */
static void land(struct store *store)
{
	struct sim_link *link = store->link;
	struct sim_world *world = link->world;
	const struct sim_end *end = &link->ends[SIM_RECEIVER];
	struct sim_node *from = &world->nodes[store->sender], *to = &world->nodes[end->node];
	const struct kvfi_strip *strip = &store->strip;
	struct sim_post *post = post_of_store(store);

	store->landed = true;
	if (post != NULL) {
		post->in_flight--;
		post->last_ns = world->now_ns + from->clock_offset_ns;
	}
	if (!to->alive || to->life != end->life || (link->fenced && link->personality == SIM_LEASED))
		return;
	world->counts.stores++;
	note_moved(store, to);
	for (uint64_t i = 0; i < strip->count && !world->failed; i++) {
		uint64_t dst = strip->dst + i * (uint64_t)strip->dst_stride;
		uint64_t src = strip->src + i * (uint64_t)strip->src_stride;

		if (!sim_pool_may_store(to, dst, strip->len, store->request, store->epoch, from->name))
			return;
		if (link->personality == SIM_CARD) {
			memcpy((void *)(uintptr_t)dst, store->data + i * strip->len, strip->len);
			continue;
		}
		if (!sim_pool_may_read(from, src, strip->len, store->request))
			return;
		memcpy((void *)(uintptr_t)dst, (const void *)(uintptr_t)src, strip->len);
	}
}

static void landing(struct sim_world *world, struct sim_event *event)
{
	struct store *store = event->payload;
	const struct sim_link *link = store->link;
	struct sim_post *post;

	/* A card tries again until the network lets it. */
	if (link->personality == SIM_CARD && !store->landed &&
		sim_is_cut(world, link->ends[0].node, link->ends[1].node)) {
		struct sim_event *again = sim_at(world, world->now_ns + 20 * KVFI_NS_PER_MS, landing);

		again->payload = store;
		again->drop = drop_store;
		return;
	}
	if (!store->landed)
		land(store);
	post = post_of_store(store);
	if (post != NULL && link->personality == SIM_CARD && post->in_flight == 0)
		(void)sim_post_at(world->nodes[store->sender].transports[SIM_CARD], post,
			500 + sim_below(&world->store, 5000), step_card);
	store_free(store);
}

/* The next piece of a post is on its way. False: there is none. */
static bool issue(struct sim_transport *self, struct sim_post *post, uint64_t after_ns)
{
	struct sim_world *world = self->node->world;
	bool card = self->personality == SIM_CARD;
	uint64_t max_bytes = SIM_CELL_BYTES * (1 + sim_skewed(&world->store, 0, 63));
	struct kvfi_strip strip;
	struct sim_event *event;
	struct store *store;

	if (post->ended || !kvfi_walk_next(&post->walk, max_bytes, &strip)) {
		post->ended = true;
		return false;
	}
	store = sim_new(sizeof(*store) + (card ? strip.len * strip.count : 0));
	*store = (struct store){.link = post->link,
		.sender = self->node->index,
		.sender_life = self->node->life,
		.post = (uint32_t)(post - self->posts),
		.serial = post->serial,
		.request = sim_request_find(world, post->tx.request_id, post->tx.attempt),
		.epoch = post->tx.epoch,
		.strip = strip};
	kvfi_list_append(&self->stores, &store->node);
	for (uint64_t i = 0; card && i < strip.count; i++) {
		uint64_t src = strip.src + i * (uint64_t)strip.src_stride;

		if (sim_pool_may_read(self->node, src, strip.len, store->request))
			memcpy(store->data + i * strip.len, (const void *)(uintptr_t)src, strip.len);
	}
	post->bytes += strip.len * strip.count;
	post->runs += strip.count;
	post->in_flight++;
	if (post->first_ns == 0)
		post->first_ns = world->now_ns + self->node->clock_offset_ns;
	event = sim_at(world, world->now_ns + after_ns, landing);
	event->payload = store;
	event->drop = drop_store;
	if (!card) { /* the worker's own work */
		event->node = self->node->index;
		event->life = self->node->life;
		event->on_cpu = true;
	}
	return true;
}

/* ---- leased ---- */

static struct kvfi_lease *lease_of(const struct sim_post *post)
{
	return &post->link->leases.words[post->tx.lease_slot];
}

static void leave_leased(struct sim_world *world, struct sim_event *event)
{
	struct sim_post *post = sim_post_of(world, event);

	KVFI_ASSERT(post != NULL && post->inside);
	if (post->in_flight > 0) { /* it was stopped for a while, and what it was to store comes first */
		(void)sim_post_at(transport_of_event(world, event), post, 1000, leave_leased);
		return;
	}
	kvfi_lease_leave(lease_of(post), post->tx.lease_generation);
	post->inside = false;
	(void)sim_post_at(
		transport_of_event(world, event), post, 100 + sim_below(&world->store, 3000), step_leased);
}

static void step_leased(struct sim_world *world, struct sim_event *event)
{
	struct sim_transport *self = transport_of_event(world, event);
	struct sim_post *post = sim_post_of(world, event);
	uint64_t after_ns = 0, n = 1 + sim_skewed(&world->store, 0, 15);

	if (post == NULL)
		return;
	if (post->ended || post->stopping) {
		bool stored = post->ended && !post->link->fenced;

		sim_post_finish(self, post, stored ? KVF_OK : post->stopping ? post->why : KVF_PEER_LOST);
		return;
	}
	if (!kvfi_lease_enter(lease_of(post), post->tx.lease_generation)) {
		sim_post_finish(self, post, KVF_CANCELLED);
		return;
	}
	post->inside = true;
	for (uint64_t i = 0; i < n; i++) {
		after_ns += 200 + sim_below(&world->store, 4000);
		if (sim_chance(&world->store, 20) && !world->calm)
			after_ns +=
				sim_below(&world->store, world->rates.data_extra_ns + world->rates.delay_ns);
		if (!issue(self, post, after_ns))
			break;
	}
	(void)sim_post_at(self, post, after_ns + 100 + sim_below(&world->store, 3000), leave_leased);
	sim_strike_inside(self->node);
}

/* ---- card ---- */

static void step_card(struct sim_world *world, struct sim_event *event)
{
	struct sim_transport *self = transport_of_event(world, event);
	struct sim_post *post = sim_post_of(world, event);
	uint64_t n = 1 + sim_skewed(&world->store, 0, 31);
	const struct sim_end *ends;

	if (post == NULL || post->in_flight > 0)
		return; /* comes again with the last of them */
	if (post->ended || post->stopping) {
		bool stored = post->ended && !post->link->fenced;

		sim_post_finish(self, post, stored ? KVF_OK : post->stopping ? post->why : KVF_PEER_LOST);
		return;
	}
	ends = post->link->ends;
	for (uint64_t i = 0; i < n; i++)
		if (!issue(self, post, sim_data_delay(world, ends[0].node, ends[1].node)))
			break;
	if (post->in_flight == 0)
		(void)sim_post_at(self, post, 100, step_card);
}

/* ---- the end of a process ---- */

void sim_posts_close(struct sim_transport *self)
{
	bool dead = !self->node->alive;

	kvfi_list_for_each_safe (at, &self->stores) {
		struct store *store = kvfi_container_of(at, struct store, node);

		if (!dead && !store->landed)
			land(store);
		kvfi_list_remove(&store->node);
	}
	for (uint32_t i = 0; i < self->env.max_posts; i++) {
		struct sim_post *post = &self->posts[i];

		if (!post->used)
			continue;
		if (post->inside && !dead)
			kvfi_lease_leave(lease_of(post), post->tx.lease_generation);
		post->inside = false;
		post->in_flight = 0;
		sim_post_finish(self, post, KVF_CANCELLED);
	}
}
