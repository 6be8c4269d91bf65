/* shm_link.c - one connection between a decode and a prefill agent: its life, the decode side of the handshake, then frames and changes of regions.
 *
 * Decode dials, says HELLO with its lease memfd, shows its regions, says READY and is up when WELCOME comes. shm_admit.c has the other side.
 * What decode has to tell is kept as a state per region, not as a queue: a full socket costs nothing but a later turn.
 * Anything out of place ends the connection: KVFI_DONE_BROKEN once, posts of the link end at their next chunk, mappings stay until they
 * have. A connection is shut down before it is closed, and taken out of the epoll set: a child that the program has forked may hold its
 * descriptor for ever. Owner thread.
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
	kvfi_shm_unmap_all(link, !link->sender || kvfi_shm_sink_shut(link));
	if (link->has_leases)
		kvfi_lease_table_fini(&link->leases);
	if (link->process_fd >= 0)
		(void)close(link->process_fd);
	if (link->fence_fd >= 0)
		(void)close(link->fence_fd);
	free(link->places);
	free(link->windows.table);
	free(link->announce);
	free(link->told);
	free(link->late);
	free(link);
}

struct shm_link *kvfi_shm_link_new(
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
	link->fd = link->process_fd = link->fence_fd = -1;
	link->windows.table = calloc(SHM_MAX_REGIONS, sizeof(*link->windows.table));
	link->announce = calloc(self->max_regions, sizeof(*link->announce));
	link->told = calloc(self->max_regions, sizeof(*link->told));
	link->places = calloc(self->max_regions, sizeof(*link->places));
	if (link->windows.table == NULL || link->announce == NULL || link->told == NULL ||
		link->places == NULL) {
		kvfi_shm_link_put(link);
		return NULL;
	}
	return link;
}

static void hang_up(struct shm_link *link)
{
	atomic_store(&link->stop, true);
	kvfi_shm_leave_process(link);
	if (link->fd >= 0)
		kvfi_shm_hang_up(link->transport, link->fd);
	link->fd = -1;
}

void kvfi_shm_link_up(struct shm_link *link)
{
	link->state = SHM_UP;
	notify(link->transport, link->peer, KVFI_DONE_UP, KVF_OK, "");
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
	link->state = SHM_BROKEN; /* whatever becomes of it, nothing is told any more */
	kvfi_shm_link_put(link);
}

/* ---- sending */

void kvfi_shm_watch_room(struct shm_link *link, bool on)
{
	struct epoll_event event = {.events = EPOLLIN | (on ? EPOLLOUT : 0u),
		.data.u64 = (uint64_t)SHM_EVENT_PEER << 32 | link->peer};

	if (link->waits_for_room != on)
		(void)epoll_ctl(link->transport->epoll_fd, EPOLL_CTL_MOD, link->fd, &event);
	link->waits_for_room = on;
}

bool kvfi_shm_packet(struct shm_link *link, enum shm_packet_type type, const void *body, size_t len_bytes,
	const struct shm_fds *fds)
{
	enum shm_io io = kvfi_shm_send(link->fd, type, body, len_bytes, fds);

	if (io == SHM_IO_AGAIN)
		kvfi_shm_watch_room(link, true);
	return io == SHM_IO_OK;
}

static bool say_hello(struct shm_link *link)
{
	struct shm_hello hello = {.from = link->transport->env.incarnation,
		.to = link->peer_incarnation,
		.link = link->number,
		.lease_words = link->leases.n};
	struct shm_fds fds = {.n = 1, .fd = {link->leases.fd}};

	if (link->said_hello)
		return true;
	if (link->transport->own_process_fd >= 0) {
		hello.flags = SHM_HAS_PROCESS;
		fds.fd[fds.n++] = link->transport->own_process_fd;
	}
	link->said_hello = kvfi_shm_packet(link, SHM_HELLO, &hello, sizeof(hello), &fds);
	return link->said_hello;
}

static bool tell_region(struct shm_link *link, uint32_t index)
{
	const struct kvfi_region *entry = &link->transport->env.regions->table[index];
	struct shm_region region = {
		.index = index, .generation = entry->generation, .len_bytes = entry->len_bytes};
	struct shm_fds fds = {.n = 1, .fd = {entry->fd}};

	link->places[index] = (struct shm_place){0, 0};
	if (!kvfi_shm_packet(link, SHM_REGION, &region, sizeof(region), &fds))
		return false;
	link->announce[index] = SHM_TOLD;
	link->told[index] = region.generation;
	return true;
}

static bool withdraw_region(struct shm_link *link, uint32_t index)
{
	struct shm_gone gone = {.index = index, .generation = link->told[index]};

	if (!kvfi_shm_packet(link, SHM_GONE, &gone, sizeof(gone), NULL))
		return false;
	link->announce[index] = SHM_UNKNOWN;
	return true;
}

bool kvfi_shm_has_late(const struct shm_link *link)
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
		link->said_ready = kvfi_shm_packet(link, SHM_READY, NULL, 0, NULL);
	if (link->said_ready)
		kvfi_shm_watch_room(link, kvfi_shm_has_late(link));
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
	kvfi_shm_watch_room(link, true);
	return true;
}

bool kvfi_shm_frame(struct shm_link *link, const void *frame, uint32_t len_bytes)
{
	enum shm_io io;

	if (kvfi_shm_has_late(link))
		return keep_late(link, frame, len_bytes); /* behind those that wait */
	io = kvfi_shm_send(link->fd, SHM_FRAME, frame, len_bytes, NULL);
	return io == SHM_IO_OK || (io == SHM_IO_AGAIN && keep_late(link, frame, len_bytes));
}

static void send_late(struct shm_link *link)
{
	while (kvfi_shm_has_late(link)) {
		const unsigned char *at = link->late + link->late_start;
		uint32_t len_bytes;

		memcpy(&len_bytes, at, sizeof(len_bytes));
		if (kvfi_shm_send(link->fd, SHM_FRAME, at + sizeof(len_bytes), len_bytes, NULL) != SHM_IO_OK)
			break; /* full again; or closed, which the reader finds out */
		link->late_start += (uint32_t)sizeof(len_bytes) + len_bytes;
	}
	if (!kvfi_shm_has_late(link))
		link->late_start = link->late_end = 0;
	kvfi_shm_watch_room(link, kvfi_shm_has_late(link));
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
	link = kvfi_shm_link_new(self, peer, peer_incarnation, number);
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
		kvfi_shm_meet_process(link, -1);
	if (link->fd >= 0)
		kvfi_shm_tell(link);
	return KVF_OK;
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

static enum kvf_status out_of_place(const struct shm_packet *packet)
{
	return kvfi_fail(KVF_PROTOCOL, "shm: packet type %u is out of place", packet->header.type);
}

static enum kvf_status take_region(struct shm_link *link, struct shm_packet *packet)
{
	enum kvf_status status = kvfi_shm_map_region(link, &packet->body.region, kvfi_shm_take_fd(packet));

	if (status == KVF_OK)
		kvfi_shm_admit_turn(link);
	return status;
}

static enum kvf_status take_as_sender(struct shm_link *link, struct shm_packet *packet)
{
	bool up = link->state == SHM_UP;

	switch (packet->header.type) {
	case SHM_REGION:
		return take_region(link, packet);
	case SHM_GONE:
		return kvfi_shm_withdraw(link, &packet->body.gone);
	case SHM_READY:
		if (link->state != SHM_RECEIVING)
			return out_of_place(packet);
		kvfi_shm_populate(link);
		return KVF_OK;
	case SHM_FRAME:
		if (!up)
			return out_of_place(packet);
		give_frame(link, packet);
		return KVF_OK;
	default:
		return out_of_place(packet);
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

/* What makes us sure of the writer comes with the answer that makes it one. */
static enum kvf_status take_welcome(struct shm_link *link, struct shm_packet *packet)
{
	const struct shm_hello *hello = &packet->body.hello;

	if (link->state != SHM_GREETING || !link->said_ready || hello->from != link->peer_incarnation ||
		hello->to != link->transport->env.incarnation || hello->link != link->number)
		return out_of_place(packet);
	if ((hello->flags & SHM_HAS_PROCESS) != 0)
		kvfi_shm_meet_process(link, kvfi_shm_take_fd(packet));
	if ((hello->flags & SHM_HAS_FENCE) != 0)
		link->fence_fd = kvfi_shm_take_fd(packet);
	kvfi_shm_link_up(link);
	return KVF_OK;
}

static enum kvf_status take_as_receiver(struct shm_link *link, struct shm_packet *packet)
{

	switch (packet->header.type) {
	case SHM_REFUSE:
		return link->state == SHM_GREETING ? refused(&packet->body.refuse) : out_of_place(packet);
	case SHM_WELCOME:
		return take_welcome(link, packet);
	case SHM_MAPPED:
		return link->said_ready ? kvfi_shm_placed(link, &packet->body.mapped) : out_of_place(packet);
	case SHM_FRAME:
		if (link->state != SHM_UP)
			return out_of_place(packet);
		give_frame(link, packet);
		return KVF_OK;
	default:
		return out_of_place(packet);
	}
}

/* False: nothing more for now. */
static bool take_one(struct shm_link *link)
{
	enum kvf_status status = KVF_OK;
	struct shm_packet packet;

	switch (kvfi_shm_recv(link->fd, &packet, &status)) {
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
	status = link->sender ? take_as_sender(link, &packet) : take_as_receiver(link, &packet);
	kvfi_shm_close_fds(&packet);
	if (status != KVF_OK)
		kvfi_shm_link_broken(link, status, kvf_error());
	return status == KVF_OK;
}

void kvfi_shm_link_ended(struct shm_link *link)
{
	while (link->fd >= 0 && take_one(link))
		;
	kvfi_shm_link_broken(link, KVF_PEER_LOST, "the peer's process has ended");
}

void kvfi_shm_link_event(struct shm_link *link, bool readable)
{
	for (int i = 0; readable && link->fd >= 0 && i < PACKETS_PER_EVENT; i++) {
		if (!take_one(link))
			break;
	}
	if (link->fd >= 0 && link->waits_for_room) {
		kvfi_shm_tell(link);
		kvfi_shm_admit_turn(link);
	}
	if (link->fd >= 0 && kvfi_shm_has_late(link))
		send_late(link);
}
