/* shm_admit.c - the prefill side of a connection until it is up: whom it expects, what it maps, what it hands over.
 *
 * Only a HELLO that names an expected incarnation and link gets in. It brings the lease words; the regions follow. When READY came and a copy
 * worker has touched the pages, the decode side is told where its regions were mapped and gets the descriptors it may need later to be
 * sure of us: of our process, and of the fence over these mappings. Then WELCOME, and the link is up. Owner thread.
 */
#include "transport/shm.h"

#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/status.h"

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
	link = kvfi_shm_link_new(self, peer, peer_incarnation, number);
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
	(void)kvfi_shm_send(socket_fd, SHM_REFUSE, &refuse, sizeof(refuse), NULL);
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
	status = kvfi_shm_map(fd, kvfi_lease_table_bytes(n), &words);
	if (status != KVF_OK)
		return status;
	link->words = words;
	link->n_words = n;
	link->words_bytes = kvfi_lease_table_bytes(n);
	return KVF_OK;
}

/* The link that this HELLO belongs to, with its lease words mapped. */
static enum kvf_status accept_hello(
	struct shm_transport *self, struct shm_packet *packet, struct shm_link **link_out)
{
	const struct shm_hello *hello = &packet->body.hello;

	if (packet->header.type != SHM_HELLO)
		return kvfi_fail(KVF_PROTOCOL, "shm: a connection begins with packet type %u, not HELLO",
			packet->header.type);
	if (hello->to != self->env.incarnation)
		return kvfi_fail(KVF_REFUSED, "shm: incarnation %#llx is asked for, this is %#llx",
			(unsigned long long)hello->to, (unsigned long long)self->env.incarnation);
	*link_out = find_expected(self, hello);
	if (*link_out == NULL)
		return kvfi_fail(KVF_REFUSED, "shm: incarnation %#llx on link %llu is not expected",
			(unsigned long long)hello->from, (unsigned long long)hello->link);
	return map_leases(*link_out, hello->lease_words, kvfi_shm_take_fd(packet));
}

void kvfi_shm_admit(struct shm_transport *self, int socket_fd, struct shm_packet *packet)
{
	struct shm_link *link = NULL;
	enum kvf_status status = accept_hello(self, packet, &link);
	struct epoll_event event;

	if (status != KVF_OK) {
		kvfi_shm_refuse(socket_fd, status, kvf_error());
		kvfi_shm_hang_up(self, socket_fd);
		return;
	}
	link->fd = socket_fd;
	link->state = SHM_RECEIVING;
	link->fence_fd = kvfi_shm_fence_new();
	event = (struct epoll_event){
		.events = EPOLLIN, .data.u64 = (uint64_t)SHM_EVENT_PEER << 32 | link->peer};
	if (epoll_ctl(self->epoll_fd, EPOLL_CTL_MOD, socket_fd, &event) != 0) {
		kvfi_shm_link_broken(link, KVF_EIO, "shm: epoll refuses the socket");
		return;
	}
	kvfi_shm_meet_process(link, kvfi_shm_take_fd(packet));
}

/* What WELCOME carries. A fence that nobody here would notice is not given away. */
static uint32_t collect(struct shm_link *link, struct shm_fds *fds)
{
	uint32_t flags = 0;

	if (link->transport->own_process_fd >= 0) {
		fds->fd[fds->n++] = link->transport->own_process_fd;
		flags |= SHM_HAS_PROCESS;
	}
	if (link->fence_fd >= 0 && (link->watched || kvfi_shm_sink_watch(link))) {
		fds->fd[fds->n++] = link->fence_fd;
		flags |= SHM_HAS_FENCE;
	}
	return flags;
}

static void welcome(struct shm_link *link)
{
	struct shm_hello hello = {
		.from = link->transport->env.incarnation, .to = link->peer_incarnation, .link = link->number};
	struct shm_fds fds = {.n = 0};

	hello.flags = collect(link, &fds);
	if (!kvfi_shm_place(link) || !kvfi_shm_packet(link, SHM_WELCOME, &hello, sizeof(hello), &fds))
		return;
	kvfi_shm_watch_room(link, false);
	kvfi_shm_link_up(link);
}

void kvfi_shm_admit_turn(struct shm_link *link)
{
	if (!link->sender || link->fd < 0)
		return;
	if (link->state == SHM_POPULATING && atomic_load(&link->populated))
		welcome(link);
	if (link->state != SHM_UP)
		return;
	if (kvfi_shm_place(link))
		kvfi_shm_watch_room(link, kvfi_shm_has_late(link));
	kvfi_shm_sweep(link);
}
