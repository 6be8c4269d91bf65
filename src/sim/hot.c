/* hot.c - control messages that ride over a transport's own connection: in order, never lost while it lasts, told from poll().
 *
 * Some pairs of a cluster have it, as shm has; the others do not, as tcp and loop. Beside the control channel it makes a second way, on which
 * messages of one kind overtake those of another.
 */
#include "sim/transport.h"

#include <stdlib.h>
#include <string.h>
#include "wire/codec.h"

#define HOT_MAX       64u
#define LOOK_AGAIN_NS (UINT64_C(20) * KVFI_NS_PER_MS)

struct sim_hot_frame {
	struct sim_hot_frame *next;
	uint64_t at_ns;
	size_t len_bytes;
	unsigned char bytes[];
};

/* The receiving end may have something: it is asked to poll. */
static void arrive(struct sim_world *world, struct sim_event *event)
{
	struct sim_link *link = event->payload;
	const struct sim_end *end = &link->ends[event->a];

	if (end->transport == NULL || link->broken)
		return;
	if (link->personality != SIM_LEASED && sim_is_cut(world, link->ends[0].node, link->ends[1].node)) {
		struct sim_event *again = sim_at(world, world->now_ns + LOOK_AGAIN_NS, arrive);

		again->payload = link;
		again->a = event->a;
		return;
	}
	link->hot[event->a].ready_ns = world->now_ns;
	sim_wake(end->transport->node, 500);
}

static void trace_frame(struct sim_transport *self, uint32_t to, const struct sim_hot_frame *frame)
{
	struct sim_world *world = self->node->world;
	struct kvfi_msg msg;
	char text[160];

	if (kvfi_msg_decode(frame->bytes, frame->len_bytes, &msg) != KVF_OK)
		return; /* no memory */
	sim_describe_message(&msg, text, sizeof(text));
	kvfi_msg_fini(&msg);
	if (msg.header.type == KVFI_MSG_REQUEST && msg.u.request.dp_index != KVF_DP_UNKNOWN)
		sim_advertises(self->node, msg.header.request_id, msg.header.attempt, "a REQUEST");
	sim_trace(world, self->node->index, "-> %s: %s, over the data path", world->nodes[to].name, text);
}

bool sim_hot_send(struct kvfi_transport *transport, uint32_t peer, const void *bytes, size_t len_bytes)
{
	struct sim_transport *self = sim_transport_of(transport);
	struct sim_world *world = self->node->world;
	struct sim_link *link = self->peers[peer].link;
	struct sim_hot_frame *frame;
	struct sim_event *event;
	struct sim_hot *hot;
	uint32_t to;

	if (link == NULL || link->broken || !link->has_leases || !self->node->alive)
		return false;
	to = 1 - (uint32_t)self->peers[peer].side;
	hot = &link->hot[to];
	if (!sim_path_of(world, link->ends[0].node, link->ends[1].node)->hot || hot->n >= HOT_MAX)
		return false;
	frame = sim_new(sizeof(*frame) + len_bytes);
	memcpy(frame->bytes, bytes, len_bytes);
	frame->len_bytes = len_bytes;
	frame->at_ns = world->now_ns + sim_data_delay(world, link->ends[0].node, link->ends[1].node);
	if (frame->at_ns <= hot->last_ns)
		frame->at_ns = hot->last_ns + 1;
	hot->last_ns = frame->at_ns;
	if (hot->tail == NULL)
		hot->tail = &hot->head;
	*hot->tail = frame;
	hot->tail = &frame->next;
	hot->n++;
	world->counts.messages++;
	trace_frame(self, link->ends[to].node, frame);
	event = sim_at(world, frame->at_ns, arrive);
	event->payload = link;
	event->a = to;
	return true;
}

static void take_first(struct sim_hot *hot)
{
	struct sim_hot_frame *frame = hot->head;

	hot->head = frame->next;
	if (hot->head == NULL)
		hot->tail = &hot->head;
	hot->n--;
	free(frame);
}

static void tell_all(struct sim_transport *self, uint32_t peer)
{
	struct sim_link *link = self->peers[peer].link;
	uint32_t side = (uint32_t)self->peers[peer].side;

	/* A message may end the connection. */
	while (self->peers[peer].link == link && !link->broken) {
		struct sim_hot *hot = &link->hot[side];
		struct sim_hot_frame *frame = hot->head;
		struct kvfi_done done = {.kind = KVFI_DONE_FRAME, .peer = peer};

		if (frame == NULL || frame->at_ns > hot->ready_ns)
			return;
		done.frame = frame->bytes;
		done.frame_bytes = (uint32_t)frame->len_bytes;
		hot->head = frame->next;
		if (hot->head == NULL)
			hot->tail = &hot->head;
		hot->n--;
		self->env.notify(self->env.self, &done);
		free(frame);
	}
}

void sim_hot_poll(struct kvfi_transport *transport)
{
	struct sim_transport *self = sim_transport_of(transport);

	sim_turn_is_here(self->node);
	for (uint32_t i = 0; i < self->env.max_peers; i++)
		if (self->peers[i].link != NULL)
			tell_all(self, i);
}

void sim_hot_fini(struct sim_link *link)
{
	for (int side = 0; side < 2; side++)
		while (link->hot[side].head != NULL)
			take_first(&link->hot[side]);
}
