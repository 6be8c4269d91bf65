/* loop.c - agents of one process: the sender copies into the receiver's memory, inside its own poll().
 *
 * One-sided, without threads and deterministic: poll() copies a bounded number of chunks of the oldest post, then turns to the next one.
 * Every chunk goes through a lease word of the receiver (in private memory), so revoke, quiet and stale generations are what they
 * are over shm.
 *
 * Links. expect() puts a link into the process-wide list `expected`; connect() takes it out and attaches the other end. Both ends, their
 * posts and grants hold a reference; the list does not: who expects takes its link out before it lets go. An end is touched under the
 * link's lock only, and a chunk is copied under it: whoever has detached (disconnect, close) can be sure that no poll of the other agent
 * reads its regions or calls its notify any more; it waits for one chunk at most. Lock order: expected, link, whatever notify takes.
 *
 * All else belongs to the owner thread of its transport.
 */
#include "transport/loop.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"

#define LOOP_MAGIC UINT64_C(0x31706f6f6c66766b) /* "kvfloop1" */

struct loop_address {
	uint64_t magic, process, incarnation;
};

static pthread_mutex_t expected_lock = PTHREAD_MUTEX_INITIALIZER;
static struct loop_link *expected;

/* ---- links */

void kvfi_loop_link_put(struct loop_link *link)
{
	if (link == NULL || atomic_fetch_sub(&link->references, 1) != 1)
		return;
	if (link->has_leases)
		kvfi_lease_table_fini(&link->leases);
	free(link->windows.table);
	(void)pthread_mutex_destroy(&link->lock);
	free(link);
}

static void notify_simple(
	const struct loop_end *end, enum kvfi_done_kind kind, enum kvf_status status, const char *reason)
{
	struct kvfi_done done = {.kind = kind, .status = status, .peer = end->peer};

	(void)strncpy(done.reason, reason, sizeof(done.reason) - 1);
	end->transport->env.notify(end->transport->env.self, &done);
}

static void unexpect(struct loop_link *link)
{
	struct loop_link **at;

	(void)pthread_mutex_lock(&expected_lock);
	for (at = &expected; *at != NULL; at = &(*at)->next) {
		if (*at == link) {
			*at = link->next;
			break;
		}
	}
	(void)pthread_mutex_unlock(&expected_lock);
}

/* From here on nobody calls our notify or touches our memory because of this link. */
static void detach(struct loop_link *link, enum kvfi_loop_side side)
{
	struct loop_end *other = &link->ends[1 - side];

	(void)pthread_mutex_lock(&link->lock);
	link->ends[side].transport = NULL;
	if (other->transport != NULL && link->has_leases)
		notify_simple(other, KVFI_DONE_BROKEN, KVF_PEER_LOST, "the peer has closed its end");
	(void)pthread_mutex_unlock(&link->lock);
}

static struct loop_link *link_new(uint64_t sender, uint64_t receiver, uint64_t number)
{
	struct loop_link *link = calloc(1, sizeof(*link));

	if (link == NULL)
		return NULL;
	atomic_init(&link->references, 1);
	link->sender_incarnation = sender;
	link->receiver_incarnation = receiver;
	link->number = number;
	(void)pthread_mutex_init(&link->lock, NULL);
	return link;
}

/* ---- open, close, addresses */

static void loop_close(struct kvfi_transport *transport);

/* From the thread that changed the table, or told by it. */
static void tell_window(struct loop_transport *self, uint32_t region)
{
	const struct kvfi_region *entry = &self->env.regions->table[region];
	uint64_t start = (uint64_t)(uintptr_t)entry->memory;

	self->told[region] = (struct kvfi_window){region, start, start + entry->len_bytes};
}

static enum kvf_status loop_open(const struct kvfi_transport_env *env, struct kvfi_transport **transport_out)
{
	struct loop_transport *self = calloc(1, sizeof(*self));

	if (self == NULL)
		return kvfi_fail(KVF_ENOMEM, "loop: out of memory");
	self->base.ops = &kvfi_transport_loop;
	self->env = *env;
	self->queue_last = &self->queue_first;
	self->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	self->peers = calloc(env->max_peers, sizeof(*self->peers));
	self->grants = calloc(env->max_grants, sizeof(*self->grants));
	self->posts = calloc(env->max_posts, sizeof(*self->posts));
	self->told = calloc(env->regions->max, sizeof(*self->told));
	if (self->event_fd < 0 || self->peers == NULL || self->grants == NULL || self->posts == NULL ||
		self->told == NULL) {
		loop_close((struct kvfi_transport *)self);
		return kvfi_fail(KVF_ENOMEM, "loop: out of memory for %u peers, %u grants, %u posts",
			env->max_peers, env->max_grants, env->max_posts);
	}
	for (uint32_t i = 0; i < env->regions->max; i++) {
		if (env->regions->table[i].in_use)
			tell_window(self, i);
	}
	for (uint32_t i = 0; i < env->max_posts; i++) {
		self->posts[i].next = self->free_posts;
		self->free_posts = &self->posts[i];
	}
	*transport_out = (struct kvfi_transport *)self;
	return KVF_OK;
}

/* The same for all agents of a process, and for no other process of this or another host. */
static uint64_t process_number(void)
{
	static uint64_t drawn;
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	uint64_t number;

	(void)pthread_mutex_lock(&lock);
	if (drawn == 0)
		drawn = kvfi_mix64(kvfi_clock_ns() ^ kvfi_mix64(kvfi_unix_ns())) | 1;
	number = drawn ^ (uint64_t)getpid(); /* a forked child is another process */
	(void)pthread_mutex_unlock(&lock);
	return number;
}

static size_t loop_address(struct kvfi_transport *transport, void *buffer)
{
	struct loop_address address = {
		LOOP_MAGIC, process_number(), kvfi_loop_self(transport)->env.incarnation};

	memcpy(buffer, &address, sizeof(address));
	return sizeof(address);
}

static enum kvf_status loop_reachable(struct kvfi_transport *transport, const void *bytes, size_t len_bytes)
{
	struct loop_address address;

	(void)transport;
	if (len_bytes != sizeof(address))
		return kvfi_fail(
			KVF_PROTOCOL, "loop: an address of %zu bytes, not %zu", len_bytes, sizeof(address));
	memcpy(&address, bytes, sizeof(address));
	if (address.magic != LOOP_MAGIC)
		return kvfi_fail(KVF_PROTOCOL, "loop: this is no loop address");
	if (address.process != process_number())
		return kvfi_fail(KVF_NO_TRANSPORT, "another process");
	return KVF_OK;
}

/* ---- regions */

static void set_window(struct loop_link *link, uint32_t region, uint64_t start, uint64_t end)
{
	(void)pthread_mutex_lock(&link->lock);
	link->windows.table[region] = (struct kvfi_window){region, start, end};
	(void)pthread_mutex_unlock(&link->lock);
}

static void set_all_windows(struct loop_transport *self, uint32_t region, uint64_t start, uint64_t end)
{
	for (uint32_t i = 0; i < self->env.max_peers; i++) {
		struct loop_peer *peer = &self->peers[i];

		if (peer->link != NULL && peer->side == LOOP_RECEIVER)
			set_window(peer->link, region, start, end);
	}
}

static enum kvf_status loop_region_added(struct kvfi_transport *transport, uint32_t region)
{
	struct loop_transport *self = kvfi_loop_self(transport);

	tell_window(self, region);
	set_all_windows(self, region, self->told[region].start, self->told[region].end);
	return KVF_OK;
}

static void loop_region_removed(struct kvfi_transport *transport, uint32_t region)
{
	struct loop_transport *self = kvfi_loop_self(transport);

	self->told[region] = (struct kvfi_window){region, 0, 0};
	set_all_windows(self, region, 0, 0);
}

static enum kvf_status make_windows(const struct loop_transport *self, struct kvfi_windows *windows)
{
	uint32_t n = self->env.regions->max;

	windows->table = calloc(n, sizeof(*windows->table));
	if (windows->table == NULL)
		return kvfi_fail(KVF_ENOMEM, "loop: out of memory for %u windows", n);
	memcpy(windows->table, self->told, n * sizeof(*windows->table));
	atomic_store(&windows->n, n);
	return KVF_OK;
}

/* ---- connecting */

static void loop_disconnect(struct kvfi_transport *transport, uint32_t peer);

static enum kvf_status loop_expect(
	struct kvfi_transport *transport, uint32_t peer, uint64_t peer_incarnation, uint64_t link_number)
{
	struct loop_transport *self = kvfi_loop_self(transport);
	struct loop_link *link;

	KVFI_ASSERT(peer < self->env.max_peers);
	link = self->peers[peer].link;
	if (link != NULL && link->receiver_incarnation == peer_incarnation && link->number == link_number)
		return KVF_OK;
	loop_disconnect(transport, peer);
	link = link_new(self->env.incarnation, peer_incarnation, link_number);
	if (link == NULL)
		return kvfi_fail(KVF_ENOMEM, "loop: out of memory for a link");
	link->ends[LOOP_SENDER] = (struct loop_end){self, peer};
	self->peers[peer] = (struct loop_peer){link, LOOP_SENDER};
	(void)pthread_mutex_lock(&expected_lock);
	link->next = expected;
	expected = link;
	(void)pthread_mutex_unlock(&expected_lock);
	return KVF_OK;
}

/* The expected link, out of the list, with a reference. */
static struct loop_link *take_expected(uint64_t sender, uint64_t receiver, uint64_t number)
{
	struct loop_link **at, *link;

	(void)pthread_mutex_lock(&expected_lock);
	for (at = &expected; *at != NULL; at = &(*at)->next) {
		if ((*at)->sender_incarnation == sender && (*at)->receiver_incarnation == receiver &&
			(*at)->number == number)
			break;
	}
	link = *at;
	if (link != NULL)
		*at = kvfi_loop_link_get(link)->next;
	(void)pthread_mutex_unlock(&expected_lock);
	return link;
}

/* Both ends learn it, unless the other one has left meanwhile. */
static void attach(struct loop_link *link, struct loop_transport *self, uint32_t peer)
{
	(void)pthread_mutex_lock(&link->lock);
	link->ends[LOOP_RECEIVER] = (struct loop_end){self, peer};
	link->has_leases = true;
	if (link->ends[LOOP_SENDER].transport != NULL) {
		notify_simple(&link->ends[LOOP_SENDER], KVFI_DONE_UP, KVF_OK, "");
		notify_simple(&link->ends[LOOP_RECEIVER], KVFI_DONE_UP, KVF_OK, "");
	} else {
		notify_simple(&link->ends[LOOP_RECEIVER], KVFI_DONE_BROKEN, KVF_PEER_LOST,
			"the peer has closed its end");
	}
	(void)pthread_mutex_unlock(&link->lock);
}

static enum kvf_status loop_connect(struct kvfi_transport *transport, uint32_t peer,
	uint64_t peer_incarnation, uint64_t link_number, const void *address, size_t len_bytes)
{
	struct loop_transport *self = kvfi_loop_self(transport);
	enum kvf_status status = loop_reachable(transport, address, len_bytes);
	struct loop_link *link;

	if (status != KVF_OK)
		return status;
	KVFI_ASSERT(peer < self->env.max_peers);
	loop_disconnect(transport, peer);
	link = take_expected(peer_incarnation, self->env.incarnation, link_number);
	if (link == NULL) {
		struct loop_end end = {self, peer};

		notify_simple(&end, KVFI_DONE_BROKEN, KVF_REFUSED,
			"no agent of this process expects this connection");
		return KVF_OK;
	}
	status = kvfi_lease_table_init(&link->leases, self->env.max_grants, false);
	if (status == KVF_OK) {
		status = make_windows(self, &link->windows);
		if (status != KVF_OK)
			kvfi_lease_table_fini(&link->leases);
	}
	if (status != KVF_OK) {
		kvfi_loop_link_put(link);
		return status;
	}
	self->peers[peer] = (struct loop_peer){link, LOOP_RECEIVER};
	attach(link, self, peer);
	return KVF_OK;
}

static void loop_disconnect(struct kvfi_transport *transport, uint32_t peer)
{
	struct loop_transport *self = kvfi_loop_self(transport);
	struct loop_link *link;

	KVFI_ASSERT(peer < self->env.max_peers);
	link = self->peers[peer].link;
	if (link == NULL)
		return;
	if (self->peers[peer].side == LOOP_SENDER)
		unexpect(link);
	detach(link, self->peers[peer].side);
	kvfi_loop_finish_posts(self, link, KVF_PEER_LOST);
	self->peers[peer].link = NULL;
	kvfi_loop_link_put(link);
}

/* ---- the rest */

static enum kvf_status loop_map_layout(
	struct kvfi_transport *transport, uint32_t peer, struct kvf_layout *layout)
{
	struct loop_transport *self = kvfi_loop_self(transport);
	struct loop_link *link;
	enum kvf_status status;

	KVFI_ASSERT(peer < self->env.max_peers);
	link = self->peers[peer].link;
	if (link == NULL || self->peers[peer].side != LOOP_SENDER)
		return kvfi_fail(KVF_PEER_LOST, "loop: the peer is not connected");
	(void)pthread_mutex_lock(&link->lock);
	status = kvfi_windows_map(&link->windows, layout);
	(void)pthread_mutex_unlock(&link->lock);
	return status;
}

static int loop_fd(struct kvfi_transport *transport)
{
	return kvfi_loop_self(transport)->event_fd;
}

static void loop_close(struct kvfi_transport *transport)
{
	struct loop_transport *self = kvfi_loop_self(transport);

	if (self == NULL)
		return;
	for (uint32_t i = 0; self->peers != NULL && i < self->env.max_peers; i++)
		loop_disconnect(transport, i);
	for (uint32_t i = 0; self->grants != NULL && i < self->env.max_grants; i++)
		kvfi_loop_release(transport, i);
	if (self->event_fd >= 0)
		(void)close(self->event_fd);
	free(self->peers);
	free(self->grants);
	free(self->posts);
	free(self->told);
	free(self);
}

const struct kvfi_transport_ops kvfi_transport_loop = {
	.name = "loop",
	.receiver_applied = false,
	.needs_shared = false,
	.open = loop_open,
	.close = loop_close,
	.address = loop_address,
	.reachable = loop_reachable,
	.region_added = loop_region_added,
	.region_removed = loop_region_removed,
	.connect = loop_connect,
	.expect = loop_expect,
	.disconnect = loop_disconnect,
	.map_layout = loop_map_layout,
	.post = kvfi_loop_post,
	.cancel = kvfi_loop_cancel,
	.grant = kvfi_loop_grant,
	.revoke = kvfi_loop_revoke,
	.proof = kvfi_loop_proof,
	.release = kvfi_loop_release,
	.fence = kvfi_loop_fence,
	.post_moved = kvfi_loop_post_moved,
	.grant_moved = kvfi_loop_grant_moved,
	.send_frame =
		NULL, /* a frame is told by the receiver's own poll(); the in-process channel is as fast */
	.fd = loop_fd,
	.poll = kvfi_loop_poll,
};
