/* stream.c - the receiver-applied transport: frames in order, stored by the receiver itself.
 *
 * The sender hands frames over and is done. They arrive in order, late, and wait while the receiver is stopped or the network is cut. The receiver
 * looks at its own grant before it begins to store a frame; storing takes a while, in which the grant may be revoked: then it is finished, and
 * proof() waits for it. What is not granted any more goes into a sink.
 */
#include "sim/transport.h"

#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/status.h"

#define LOOK_AGAIN_NS (UINT64_C(20) * KVFI_NS_PER_MS)

enum frame_kind {
	FRAME_SLICE = 1,
	FRAME_DATA = 2,
	FRAME_ABORT = 3
};

struct sim_frame {
	struct sim_frame *next;
	enum frame_kind kind;
	uint64_t at_ns;
	/* SLICE */
	uint64_t epoch, total;
	uint32_t slice, lease_slot, lease_generation, layer_start, layer_end, n_ranges;
	struct kvfi_range ranges[KVFI_MAX_RANGES];
	uint64_t request_id;
	uint32_t attempt;
	/* DATA */
	uint64_t len_bytes;
	unsigned char data[];
};

void sim_stream_init(struct sim_stream *stream)
{
	stream->tail = &stream->head;
}

void sim_stream_fini(struct sim_link *link)
{
	while (link->stream.head != NULL) {
		struct sim_frame *next = link->stream.head->next;

		free(link->stream.head);
		link->stream.head = next;
	}
}

/* ---- receiving ---- */

static struct sim_transport *receiver_of(const struct sim_link *link)
{
	const struct sim_end *end = &link->ends[SIM_RECEIVER];
	const struct sim_node *node = &link->world->nodes[end->node];

	return node->alive && node->life == end->life ? node->transports[SIM_APPLIED] : NULL;
}

/* Is this still the grant that the open slice was begun under? */
static struct sim_grant *grant_of(const struct sim_link *link)
{
	struct sim_transport *self = receiver_of(link);
	struct sim_grant *grant = self != NULL ? &self->grants[link->stream.grant] : NULL;

	return grant != NULL && grant->used && grant->link == link &&
	                       grant->generation == link->stream.generation
	               ? grant
	               : NULL;
}

static void finish_slice(struct sim_link *link, enum kvf_status status, const char *reason)
{
	struct sim_stream *stream = &link->stream;
	struct sim_transport *self = receiver_of(link);

	stream->sink = true;
	if (!stream->begun)
		return;
	stream->begun = false;
	if (self == NULL)
		return;
	stream->done.status = status;
	stream->done.bytes = stream->received;
	stream->done.last_ns = link->world->now_ns + self->node->clock_offset_ns;
	(void)snprintf(stream->done.reason, sizeof(stream->done.reason), "%s", reason);
	self->env.notify(self->env.self, &stream->done);
	sim_wake(self->node, 1000);
}

void sim_stream_end(struct sim_link *link, enum kvf_status status, const char *reason)
{
	finish_slice(link, status, reason);
	link->stream.open = false;
}

void sim_stream_revoked(struct sim_link *link, uint32_t grant)
{
	if (link->stream.begun && link->stream.grant == grant)
		finish_slice(link, KVF_CANCELLED, "the grant was revoked");
}

static void begin_slice(struct sim_link *link, struct sim_transport *self, const struct sim_frame *frame)
{
	struct sim_stream *stream = &link->stream;
	const struct sim_grant *grant;
	enum kvf_status status;

	stream->open = stream->sink = true;
	stream->begun = false;
	stream->received = 0;
	if (frame->lease_slot >= self->env.max_grants)
		return;
	grant = &self->grants[frame->lease_slot];
	if (!grant->used || grant->revoked || grant->link != link || grant->rx.epoch != frame->epoch ||
		grant->generation != frame->lease_generation)
		return;
	stream->begun = true;
	stream->grant = frame->lease_slot;
	stream->generation = grant->generation;
	stream->done = (struct kvfi_done){.kind = KVFI_DONE_RX,
		.peer = grant->rx.peer,
		.id = grant->rx.id,
		.epoch = grant->rx.epoch,
		.slice = frame->slice,
		.first_ns = link->world->now_ns + self->node->clock_offset_ns,
		.layer_start = frame->layer_start,
		.layer_end = frame->layer_end,
		.n_ranges = frame->n_ranges};
	memcpy(stream->done.ranges, frame->ranges, frame->n_ranges * sizeof(frame->ranges[0]));
	status = kvfi_bind_ranges(grant->rx.plan, grant->rx.prompt_len, frame->layer_start, frame->layer_end,
		frame->ranges, frame->n_ranges, grant->rx.dst, &stream->bound);
	if (status == KVF_OK && stream->bound.bytes != frame->total)
		status = kvfi_fail(KVF_COVERAGE, "the sender has %llu bytes, the plan %llu",
			(unsigned long long)frame->total, (unsigned long long)stream->bound.bytes);
	stream->sink = status != KVF_OK;
	if (status == KVF_OK)
		kvfi_walk_init(&stream->walk, &stream->bound, KVFI_WALK_DST, 0, stream->bound.units);
	else
		finish_slice(link, status, kvf_error());
}

static void store_bytes(struct sim_link *link, struct sim_transport *self, const struct sim_grant *grant,
	const struct sim_frame *frame)
{
	struct sim_world *world = link->world;
	struct sim_stream *stream = &link->stream;
	uint32_t request = sim_request_find(world, grant->rx.request_id, grant->rx.attempt);
	const char *writer = world->nodes[link->ends[SIM_SENDER].node].name;
	const unsigned char *from = frame->data;
	struct kvfi_strip strip;

	while (from < frame->data + frame->len_bytes &&
		kvfi_walk_next(&stream->walk, (uint64_t)(frame->data + frame->len_bytes - from), &strip)) {
		world->counts.stores++;
		for (uint64_t i = 0; i < strip.count; i++, from += strip.len) {
			uint64_t dst = strip.dst + i * (uint64_t)strip.dst_stride;

			if (!sim_pool_may_store(self->node, dst, strip.len, request, grant->rx.epoch, writer))
				return;
			memcpy((void *)(uintptr_t)dst, from, strip.len);
		}
	}
}

static void read_next(struct sim_world *world, struct sim_event *event);

static void read_at(struct sim_link *link, uint64_t at_ns)
{
	const struct sim_end *end = &link->ends[SIM_RECEIVER];
	struct sim_event *event = sim_at(link->world, at_ns, read_next);

	event->payload = link;
	event->node = end->node;
	event->life = end->life;
	event->on_cpu = true;
	link->stream.reading = true;
}

static void take_next(struct sim_link *link)
{
	struct sim_stream *stream = &link->stream;
	struct sim_frame *frame = stream->head;

	stream->head = frame->next;
	if (stream->head == NULL)
		stream->tail = &stream->head;
	free(frame);
	stream->reading = false;
	if (stream->head != NULL && !link->broken)
		read_at(link, stream->head->at_ns);
}

/* The bytes of the first frame are in. */
static void stored(struct sim_world *world, struct sim_event *event)
{
	struct sim_link *link = event->payload;
	struct sim_stream *stream = &link->stream;
	struct sim_transport *self = receiver_of(link);
	struct sim_grant *grant = self != NULL ? &self->grants[event->a] : NULL;

	KVFI_ASSERT(grant != NULL && grant->used && grant->storing && grant->rx.epoch == event->b);
	store_bytes(link, self, grant, stream->head);
	grant->storing = false;
	grant->moved++;
	if (stream->begun) {
		stream->received += stream->head->len_bytes;
		if (stream->received == stream->bound.bytes) {
			if (grant->rx.sum)
				stream->done.sum = sim_sum(&stream->bound, KVFI_WALK_DST);
			finish_slice(link, KVF_OK, "");
		}
	}
	sim_wake(self->node, 1000);
	(void)world;
	take_next(link);
}

static void read_next(struct sim_world *world, struct sim_event *event)
{
	struct sim_link *link = event->payload;
	struct sim_stream *stream = &link->stream;
	struct sim_transport *self = receiver_of(link);
	struct sim_grant *grant;

	stream->reading = false;
	if (self == NULL || link->broken || link->ends[SIM_RECEIVER].transport == NULL)
		return;
	if (sim_is_cut(world, link->ends[0].node, link->ends[1].node)) {
		read_at(link, world->now_ns + LOOK_AGAIN_NS);
		return;
	}
	if (stream->head->kind == FRAME_DATA && stream->begun && !stream->sink) {
		struct sim_event *then;

		grant = grant_of(link);
		KVFI_ASSERT(grant != NULL && !grant->revoked);
		grant->storing = true;
		stream->reading = true;
		then = sim_at(world, world->now_ns + 500 + sim_below(&world->store, 15000), stored);
		then->payload = link;
		then->node = event->node;
		then->life = event->life;
		then->on_cpu = true;
		then->a = stream->grant;
		then->b = grant->rx.epoch;
		return;
	}
	if (stream->head->kind == FRAME_SLICE)
		begin_slice(link, self, stream->head);
	else if (stream->head->kind == FRAME_ABORT)
		finish_slice(link, KVF_STREAM_BROKEN, "the sender has stopped");
	take_next(link);
}

/* ---- sending ---- */

static void push(struct sim_link *link, struct sim_frame *frame)
{
	struct sim_world *world = link->world;
	struct sim_stream *stream = &link->stream;
	uint64_t at_ns = world->now_ns + sim_data_delay(world, link->ends[0].node, link->ends[1].node);

	stream->last_ns = at_ns > stream->last_ns ? at_ns : stream->last_ns + 1;
	frame->at_ns = stream->last_ns;
	*stream->tail = frame;
	stream->tail = &frame->next;
	if (!stream->reading)
		read_at(link, stream->head->at_ns);
}

static struct sim_frame *slice_frame(const struct sim_post *post)
{
	const struct kvfi_bound *bound = post->tx.bound;
	struct sim_frame *frame = sim_new(sizeof(*frame));

	frame->kind = FRAME_SLICE;
	frame->epoch = post->tx.epoch;
	frame->total = bound->bytes;
	frame->slice = post->tx.slice;
	frame->lease_slot = post->tx.lease_slot;
	frame->lease_generation = post->tx.lease_generation;
	frame->layer_start = bound->layer_start;
	frame->layer_end = bound->layer_end;
	frame->n_ranges = bound->n_ranges;
	for (uint32_t i = 0; i < bound->n_ranges; i++)
		frame->ranges[i] = bound->ranges[i].range;
	return frame;
}

/* The next bytes of the post; NULL: there are none. */
static struct sim_frame *data_frame(struct sim_transport *self, struct sim_post *post)
{
	struct sim_world *world = self->node->world;
	uint64_t max_bytes = SIM_CELL_BYTES * (4 + sim_skewed(&world->store, 0, 124));
	uint32_t request = sim_request_find(world, post->tx.request_id, post->tx.attempt);
	struct sim_frame *frame = sim_new(sizeof(*frame) + max_bytes);
	struct kvfi_strip strip;

	frame->kind = FRAME_DATA;
	while (frame->len_bytes < max_bytes &&
		kvfi_walk_next(&post->walk, max_bytes - frame->len_bytes, &strip)) {
		for (uint64_t i = 0; i < strip.count; i++) {
			uint64_t src = strip.src + i * (uint64_t)strip.src_stride;

			if (sim_pool_may_read(self->node, src, strip.len, request))
				memcpy(frame->data + frame->len_bytes, (const void *)(uintptr_t)src,
					strip.len);
			frame->len_bytes += strip.len;
		}
		post->runs += strip.count;
	}
	post->bytes += frame->len_bytes;
	if (frame->len_bytes > 0)
		return frame;
	free(frame);
	return NULL;
}

void sim_stream_step(struct sim_world *world, struct sim_event *event)
{
	struct sim_transport *self = world->nodes[event->node].transports[SIM_APPLIED];
	struct sim_post *post = sim_post_of(world, event);
	struct sim_frame *frame;
	bool lost;

	if (post == NULL)
		return;
	lost = post->link->broken || post->link->ends[SIM_SENDER].transport == NULL;
	if (post->stopping || lost) {
		if (post->frame > 0)
			post->link->stream.writer = 0;
		if (post->frame > 0 && !lost) {
			frame = sim_new(sizeof(*frame));
			frame->kind = FRAME_ABORT;
			push(post->link, frame);
		}
		sim_post_finish(self, post, post->stopping ? post->why : KVF_PEER_LOST);
		return;
	}
	if (post->frame == 0 && post->link->stream.writer != 0) {
		(void)sim_post_at(self, post, 2000, sim_stream_step);
		return;
	}
	post->link->stream.writer = post->serial;
	if (post->first_ns == 0)
		post->first_ns = world->now_ns + self->node->clock_offset_ns;
	frame = post->frame++ == 0 ? slice_frame(post) : data_frame(self, post);
	if (frame != NULL)
		push(post->link, frame);
	post->last_ns = world->now_ns + self->node->clock_offset_ns;
	if (frame == NULL || post->bytes == post->tx.bound->bytes) {
		post->link->stream.writer = 0;
		sim_post_finish(self, post, KVF_OK);
		return;
	}
	(void)sim_post_at(self, post, 500 + sim_below(&world->store, 10000), sim_stream_step);
}
