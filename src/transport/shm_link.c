/* shm_link.c - one connection between a decode and a prefill agent: the handshake on both sides, then frames and changes of regions.
 *
 * Decode dials, says HELLO with its lease memfd, shows its regions, says READY and is up when WELCOME comes. Prefill admits whom it
 * expects, by incarnation and link, maps what it is shown, has the pages touched by a copy worker, then answers WELCOME and is up.
 * What decode has to tell is kept as a state per region, not as a queue: a full socket costs nothing but a later turn.
 * Anything out of place ends the connection: KVFI_DONE_BROKEN once, posts of the link end at their next chunk, mappings stay until they
 * have. Owner thread.
 */
#include "transport/shm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/status.h"

#define PACKETS_PER_EVENT 16
#define LATE_BYTES        (256u * 1024) /* frames that wait for room: about a thousand */

static void notify(struct shm_transport *self, uint32_t peer, enum kvfi_done_kind kind,
	enum kvf_status status, const char *reason)
{
	struct kvfi_done done = {.kind = kind, .status = status, .peer = peer};

	(void)strncpy(done.reason, reason, sizeof(done.reason) - 1);
	self->env.notify(self->env.self, &done);
}

/* ---- life of a link */

struct shm_link *kvfi_shm_link_get(struct shm_link *link)
{
	(void)atomic_fetch_add(&link->references, 1);
	return link;
}

void kvfi_shm_link_put(struct shm_link *link)
{
	if (atomic_fetch_sub(&link->references, 1) != 1)
		return;
	KVFI_ASSERT(link->fd < 0 && atomic_load(&link->posts) == 0);
	kvfi_shm_unmap_all(link);
	if (link->has_leases)
		kvfi_lease_table_fini(&link->leases);
	free(link->windows.table);
	free(link->announce);
	free(link->told);
	free(link->late);
	free(link);
}

static struct shm_link *link_new(
	struct shm_transport *self, uint32_t peer, uint64_t peer_incarnation, uint64_t number)
{
	struct shm_link *link = calloc(1, sizeof(*link));

	if (link == NULL)
		return NULL;
	atomic_init(&link->references, 1);
	link->transport = self;
	link->peer = peer;
	link->peer_incarnation = peer_incarnation;
	link->number = number;
	link->fd = -1;
	link->windows.table = calloc(SHM_MAX_REGIONS, sizeof(*link->windows.table));
	link->announce = calloc(self->max_regions, sizeof(*link->announce));
	link->told = calloc(self->max_regions, sizeof(*link->told));
	if (link->windows.table == NULL || link->announce == NULL || link->told == NULL) {
		kvfi_shm_link_put(link);
		return NULL;
	}
	return link;
}

static void hang_up(struct shm_link *link)
{
	atomic_store(&link->stop, true);
	if (link->fd >= 0)
		(void)close(link->fd); /* leaves the epoll set with its last descriptor */
	link->fd = -1;
}

void kvfi_shm_link_broken(struct shm_link *link, enum kvf_status status, const char *reason)
{
	if (link->state == SHM_BROKEN)
		return;
	hang_up(link);
	link->state = SHM_BROKEN;
	notify(link->transport, link->peer, KVFI_DONE_BROKEN, status, reason);
}

void kvfi_shm_disconnect(struct kvfi_transport *transport, uint32_t peer)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	struct shm_link *link;

	KVFI_ASSERT(peer < self->env.max_peers);
	link = self->peers[peer];
	if (link == NULL)
		return;
	self->peers[peer] = NULL;
	hang_up(link);
	kvfi_shm_link_put(link);
}

/* ---- sending */

static void watch_room(struct shm_link *link, bool on)
{
	struct epoll_event event = {.events = EPOLLIN | (on ? EPOLLOUT : 0u),
		.data.u64 = (uint64_t)SHM_EVENT_PEER << 32 | link->peer};

	if (link->waits_for_room != on)
		(void)epoll_ctl(link->transport->epoll_fd, EPOLL_CTL_MOD, link->fd, &event);
	link->waits_for_room = on;
}

/* False: not now, or never again. A closed socket is left to the reader: the peer may have said why. */
static bool send_packet(
	struct shm_link *link, enum shm_packet_type type, const void *body, size_t len_bytes, int fd)
{
	enum shm_io io = kvfi_shm_send(link->fd, type, body, len_bytes, fd);

	if (io == SHM_IO_AGAIN)
		watch_room(link, true);
	return io == SHM_IO_OK;
}

static bool say_hello(struct shm_link *link)
{
	struct shm_hello hello = {.from = link->transport->env.incarnation,
		.to = link->peer_incarnation,
		.link = link->number,
		.lease_words = link->leases.n};

	if (!link->said_hello)
		link->said_hello = send_packet(link, SHM_HELLO, &hello, sizeof(hello), link->leases.fd);
	return link->said_hello;
}

static bool tell_region(struct shm_link *link, uint32_t index)
{
	const struct kvfi_region *entry = &link->transport->env.regions->table[index];
	struct shm_region region = {
		.index = index, .generation = entry->generation, .len_bytes = entry->len_bytes};

	if (!send_packet(link, SHM_REGION, &region, sizeof(region), entry->fd))
		return false;
	link->announce[index] = SHM_TOLD;
	link->told[index] = region.generation;
	return true;
}

static bool withdraw_region(struct shm_link *link, uint32_t index)
{
	struct shm_gone gone = {.index = index, .generation = link->told[index]};

	if (!send_packet(link, SHM_GONE, &gone, sizeof(gone), -1))
		return false;
	link->announce[index] = SHM_UNKNOWN;
	return true;
}

static bool has_late(const struct shm_link *link)
{
	return link->late_end > link->late_start;
}

void kvfi_shm_tell(struct shm_link *link)
{
	if (link->sender || link->fd < 0 || !say_hello(link))
		return;
	for (uint32_t i = 0; i < link->transport->max_regions; i++) {
		if (link->announce[i] == SHM_TO_WITHDRAW && !withdraw_region(link, i))
			return;
		if (link->announce[i] == SHM_TO_TELL && !tell_region(link, i))
			return;
	}
	if (!link->said_ready)
		link->said_ready = send_packet(link, SHM_READY, NULL, 0, -1);
	if (link->said_ready)
		watch_room(link, has_late(link));
}

/* ---- frames */

/* Keeps a frame until the socket has room. */
static bool keep_late(struct shm_link *link, const void *frame, uint32_t len_bytes)
{
	uint32_t used = link->late_end - link->late_start;

	if (link->late == NULL)
		link->late = malloc(LATE_BYTES);
	if (link->late == NULL || used + sizeof(len_bytes) + len_bytes > LATE_BYTES)
		return false;
	if (link->late_end + sizeof(len_bytes) + len_bytes > LATE_BYTES) {
		memmove(link->late, link->late + link->late_start, used);
		link->late_start = 0;
		link->late_end = used;
	}
	memcpy(link->late + link->late_end, &len_bytes, sizeof(len_bytes));
	memcpy(link->late + link->late_end + sizeof(len_bytes), frame, len_bytes);
	link->late_end += (uint32_t)sizeof(len_bytes) + len_bytes;
	watch_room(link, true);
	return true;
}

bool kvfi_shm_frame(struct shm_link *link, const void *frame, uint32_t len_bytes)
{
	enum shm_io io;

	if (has_late(link))
		return keep_late(link, frame, len_bytes); /* behind those that wait */
	io = kvfi_shm_send(link->fd, SHM_FRAME, frame, len_bytes, -1);
	return io == SHM_IO_OK || (io == SHM_IO_AGAIN && keep_late(link, frame, len_bytes));
}

static void send_late(struct shm_link *link)
{
	while (has_late(link)) {
		const unsigned char *at = link->late + link->late_start;
		uint32_t len_bytes;

		memcpy(&len_bytes, at, sizeof(len_bytes));
		if (kvfi_shm_send(link->fd, SHM_FRAME, at + sizeof(len_bytes), len_bytes, -1) != SHM_IO_OK)
			break; /* full again; or closed, which the reader finds out */
		link->late_start += (uint32_t)sizeof(len_bytes) + len_bytes;
	}
	if (!has_late(link))
		link->late_start = link->late_end = 0;
	watch_room(link, has_late(link));
}

/* ---- decode: connecting */

static enum kvf_status fill_receiver(struct shm_link *link)
{
	struct shm_transport *self = link->transport;
	enum kvf_status status = kvfi_lease_table_init(&link->leases, self->env.max_grants, true);

	if (status != KVF_OK)
		return status;
	link->has_leases = true;
	for (uint32_t i = 0; i < self->max_regions; i++)
		link->announce[i] = self->shared[i] ? SHM_TO_TELL : SHM_UNKNOWN;
	return KVF_OK;
}

enum kvf_status kvfi_shm_connect(struct kvfi_transport *transport, uint32_t peer, uint64_t peer_incarnation,
	uint64_t number, const void *address, size_t len_bytes)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	enum kvf_status status = kvfi_shm_reachable(transport, address, len_bytes);
	struct shm_link *link;

	KVFI_ASSERT(peer < self->env.max_peers);
	if (status != KVF_OK)
		return status;
	kvfi_shm_disconnect(transport, peer);
	link = link_new(self, peer, peer_incarnation, number);
	if (link == NULL)
		return kvfi_fail(KVF_ENOMEM, "shm: out of memory for a link");
	link->state = SHM_GREETING;
	status = fill_receiver(link);
	if (status != KVF_OK) {
		kvfi_shm_link_put(link);
		return status;
	}
	self->peers[peer] = link;
	status = kvfi_shm_dial(address, &link->fd);
	if (status != KVF_OK)
		kvfi_shm_link_broken(link, status, kvf_error());
	else if (!kvfi_shm_watch(self, link->fd, SHM_EVENT_PEER, peer))
		kvfi_shm_link_broken(link, KVF_EIO, "shm: epoll refuses the socket");
	else
		kvfi_shm_tell(link);
	return KVF_OK;
}

/* ---- prefill: expecting and admitting */

enum kvf_status kvfi_shm_expect(
	struct kvfi_transport *transport, uint32_t peer, uint64_t peer_incarnation, uint64_t number)
{
	struct shm_transport *self = kvfi_shm_self(transport);
	struct shm_link *link;

	KVFI_ASSERT(peer < self->env.max_peers);
	link = self->peers[peer];
	if (link != NULL && link->sender && link->peer_incarnation == peer_incarnation &&
		link->number == number && link->state != SHM_BROKEN)
		return KVF_OK;
	link = link_new(self, peer, peer_incarnation, number);
	if (link == NULL)
		return kvfi_fail(KVF_ENOMEM, "shm: out of memory for a link");
	kvfi_shm_disconnect(transport, peer);
	link->sender = true;
	link->state = SHM_EXPECTED;
	self->peers[peer] = link;
	return KVF_OK;
}

void kvfi_shm_refuse(int socket_fd, enum kvf_status status, const char *reason)
{
	struct shm_refuse refuse = {.status = status};

	(void)strncpy(refuse.reason, reason, sizeof(refuse.reason) - 1);
	(void)kvfi_shm_send(socket_fd, SHM_REFUSE, &refuse, sizeof(refuse), -1);
}

static struct shm_link *find_expected(struct shm_transport *self, const struct shm_hello *hello)
{
	for (uint32_t i = 0; i < self->env.max_peers; i++) {
		struct shm_link *link = self->peers[i];

		if (link != NULL && link->sender && link->state == SHM_EXPECTED &&
			link->peer_incarnation == hello->from && link->number == hello->link)
			return link;
	}
	return NULL;
}

static enum kvf_status map_leases(struct shm_link *link, uint32_t n, int fd)
{
	void *words = NULL;
	enum kvf_status status;

	if (n == 0 || n > SHM_MAX_LEASES) {
		(void)close(fd);
		return kvfi_fail(KVF_PROTOCOL, "shm: %u lease words, not in 1..%u", n, SHM_MAX_LEASES);
	}
	status = kvfi_shm_map(fd, n * sizeof(struct kvfi_lease), &words);
	if (status != KVF_OK)
		return status;
	link->words = words;
	link->n_words = n;
	link->words_bytes = n * sizeof(struct kvfi_lease);
	return KVF_OK;
}

/* The link that this HELLO belongs to, with its lease words mapped. Takes fd over. */
static enum kvf_status accept_hello(
	struct shm_transport *self, const struct shm_packet *packet, int fd, struct shm_link **link_out)
{
	const struct shm_hello *hello = &packet->body.hello;
	enum kvf_status status;

	if (packet->header.type != SHM_HELLO)
		status = kvfi_fail(KVF_PROTOCOL, "shm: a connection begins with packet type %u, not HELLO",
			packet->header.type);
	else if (hello->to != self->env.incarnation)
		status = kvfi_fail(KVF_REFUSED, "shm: incarnation %#llx is asked for, this is %#llx",
			(unsigned long long)hello->to, (unsigned long long)self->env.incarnation);
	else if ((*link_out = find_expected(self, hello)) == NULL)
		status = kvfi_fail(KVF_REFUSED, "shm: incarnation %#llx on link %llu is not expected",
			(unsigned long long)hello->from, (unsigned long long)hello->link);
	else
		return map_leases(*link_out, hello->lease_words, fd);
	if (fd >= 0)
		(void)close(fd);
	return status;
}

void kvfi_shm_admit(struct shm_transport *self, int socket_fd, const struct shm_packet *packet, int fd)
{
	struct shm_link *link = NULL;
	enum kvf_status status = accept_hello(self, packet, fd, &link);
	struct epoll_event event;

	if (status != KVF_OK) {
		kvfi_shm_refuse(socket_fd, status, kvf_error());
		(void)close(socket_fd);
		return;
	}
	link->fd = socket_fd;
	link->state = SHM_RECEIVING;
	event = (struct epoll_event){
		.events = EPOLLIN, .data.u64 = (uint64_t)SHM_EVENT_PEER << 32 | link->peer};
	if (epoll_ctl(self->epoll_fd, EPOLL_CTL_MOD, socket_fd, &event) != 0)
		kvfi_shm_link_broken(link, KVF_EIO, "shm: epoll refuses the socket");
}

static void welcome(struct shm_link *link)
{
	struct shm_hello hello = {
		.from = link->transport->env.incarnation, .to = link->peer_incarnation, .link = link->number};

	if (!send_packet(link, SHM_WELCOME, &hello, sizeof(hello), -1))
		return;
	watch_room(link, false);
	link->state = SHM_UP;
	notify(link->transport, link->peer, KVFI_DONE_UP, KVF_OK, "");
}

void kvfi_shm_link_turn(struct shm_link *link)
{
	if (!link->sender || link->fd < 0)
		return;
	if (link->state == SHM_POPULATING && atomic_load(&link->populated))
		welcome(link);
	if (link->state == SHM_UP)
		kvfi_shm_sweep(link);
}

/* ---- packets */

static void give_frame(struct shm_link *link, const struct shm_packet *packet)
{
	struct kvfi_done done = {.kind = KVFI_DONE_FRAME,
		.peer = link->peer,
		.frame = packet->body.frame,
		.frame_bytes = packet->header.len_bytes};

	link->transport->env.notify(link->transport->env.self, &done);
}

static enum kvf_status out_of_place(const struct shm_packet *packet, int fd)
{
	if (fd >= 0)
		(void)close(fd);
	return kvfi_fail(KVF_PROTOCOL, "shm: packet type %u is out of place", packet->header.type);
}

static enum kvf_status take_as_sender(struct shm_link *link, const struct shm_packet *packet, int fd)
{
	bool up = link->state == SHM_UP;

	switch (packet->header.type) {
	case SHM_REGION:
		return kvfi_shm_map_region(link, &packet->body.region, fd);
	case SHM_GONE:
		return kvfi_shm_withdraw(link, &packet->body.gone);
	case SHM_READY:
		if (link->state != SHM_RECEIVING)
			return out_of_place(packet, fd);
		kvfi_shm_populate(link);
		return KVF_OK;
	case SHM_FRAME:
		if (!up)
			return out_of_place(packet, fd);
		give_frame(link, packet);
		return KVF_OK;
	default:
		return out_of_place(packet, fd);
	}
}

/* Why we were refused, in the peer's words. */
static enum kvf_status refused(const struct shm_refuse *refuse)
{
	enum kvf_status status = refuse->status < 0 ? (enum kvf_status)refuse->status : KVF_REFUSED;

	if (strcmp(kvf_status_name(status), "UNKNOWN") == 0)
		status = KVF_REFUSED;
	return kvfi_fail(status, "%.*s", (int)sizeof(refuse->reason) - 1, refuse->reason);
}

static enum kvf_status take_as_receiver(struct shm_link *link, const struct shm_packet *packet, int fd)
{
	const struct shm_hello *hello = &packet->body.hello;

	switch (packet->header.type) {
	case SHM_REFUSE:
		return link->state == SHM_GREETING ? refused(&packet->body.refuse) : out_of_place(packet, fd);
	case SHM_WELCOME:
		if (link->state != SHM_GREETING || !link->said_ready ||
			hello->from != link->peer_incarnation ||
			hello->to != link->transport->env.incarnation || hello->link != link->number)
			return out_of_place(packet, fd);
		link->state = SHM_UP;
		notify(link->transport, link->peer, KVFI_DONE_UP, KVF_OK, "");
		return KVF_OK;
	case SHM_FRAME:
		if (link->state != SHM_UP)
			return out_of_place(packet, fd);
		give_frame(link, packet);
		return KVF_OK;
	default:
		return out_of_place(packet, fd);
	}
}

/* False: nothing more for now. */
static bool take_one(struct shm_link *link)
{
	enum kvf_status status = KVF_OK;
	struct shm_packet packet;
	int fd = -1;

	switch (kvfi_shm_recv(link->fd, &packet, &fd, &status)) {
	case SHM_IO_AGAIN:
		return false;
	case SHM_IO_CLOSED:
		kvfi_shm_link_broken(link, KVF_PEER_LOST, "the peer has closed the connection");
		return false;
	case SHM_IO_BAD:
		kvfi_shm_link_broken(link, status, kvf_error());
		return false;
	case SHM_IO_OK:
		break;
	}
	status = link->sender ? take_as_sender(link, &packet, fd) : take_as_receiver(link, &packet, fd);
	if (status != KVF_OK)
		kvfi_shm_link_broken(link, status, kvf_error());
	return status == KVF_OK;
}

void kvfi_shm_link_event(struct shm_link *link, bool readable)
{
	for (int i = 0; readable && link->fd >= 0 && i < PACKETS_PER_EVENT; i++) {
		if (!take_one(link))
			break;
	}
	if (link->fd >= 0 && link->waits_for_room) {
		kvfi_shm_tell(link);
		kvfi_shm_link_turn(link);
	}
	if (link->fd >= 0 && has_late(link))
		send_late(link);
}
