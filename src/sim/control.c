/* control.c - the control channel of a simulated node: encoded messages through the simulated network.
 *
 * As over ZeroMQ: a connected way goes to whoever listens at that endpoint when the message arrives, an answer only to the process that asked.
 * Messages are encoded when they are sent and decoded when they are received, so that corruption meets the real decoder. A changed message
 * that still decodes is dropped: the channels that the library really uses carry check sums of their own. (In a build without msgpack the cold
 * messages travel as copies, and corruption makes them garbage.)
 */
#include "sim/sim.h"

#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/status.h"
#include "wire/codec.h"

#define QUEUE_MAX 1024u

struct address {
	uint32_t node, life, way;
	uint64_t serial;
};

struct envelope {
	struct envelope *next;
	struct address from, to; /* to.serial 0: whoever is there */
	bool corrupted;
	bool has_msg;
	struct kvfi_msg msg; /* when it could not be encoded */
	size_t len_bytes;
	unsigned char bytes[];
};

enum way_kind {
	WAY_FREE = 0,
	WAY_CONNECTED = 1,
	WAY_ACCEPTED = 2
};

struct way {
	enum way_kind kind;
	uint64_t serial;
	struct address peer; /* connected: only its node is known */
};

struct sim_control {
	struct kvfi_control_base base;
	struct sim_node *node;
	char endpoint[32];
	uint32_t max_ways;
	uint64_t next_serial;
	struct way *ways;
	struct envelope *head, **tail;
	uint32_t queued;
};

static struct sim_control *self_of(struct kvfi_control *control)
{
	return (struct sim_control *)(void *)control;
}

static void envelope_free(struct envelope *envelope)
{
	if (envelope->has_msg)
		kvfi_msg_fini(&envelope->msg);
	free(envelope);
}

static enum kvf_status control_open(const struct kvfi_control_env *env, struct kvfi_control **control_out)
{
	struct sim_control *self = calloc(1, sizeof(*self));
	struct way *ways = calloc(env->max_ways, sizeof(*ways));

	if (self == NULL || ways == NULL) {
		free(self);
		free(ways);
		return kvfi_fail(KVF_ENOMEM, "no memory for a control channel");
	}
	self->base.ops = &sim_control_ops;
	self->node = env->seam;
	self->max_ways = env->max_ways;
	self->ways = ways;
	self->tail = &self->head;
	self->next_serial = 1;
	if (env->listen != NULL)
		(void)snprintf(self->endpoint, sizeof(self->endpoint), "%s", env->listen);
	self->node->control = self;
	*control_out = (struct kvfi_control *)self;
	return KVF_OK;
}

static void control_close(struct kvfi_control *control)
{
	struct sim_control *self = self_of(control);

	while (self->head != NULL) {
		struct envelope *next = self->head->next;

		envelope_free(self->head);
		self->head = next;
	}
	self->node->control = NULL;
	free(self->ways);
	free(self);
}

static const char *control_endpoint(struct kvfi_control *control)
{
	return self_of(control)->endpoint;
}

static struct way *take_way(struct sim_control *self, enum way_kind kind)
{
	for (uint32_t i = 0; i < self->max_ways; i++) {
		if (self->ways[i].kind != WAY_FREE)
			continue;
		self->ways[i] = (struct way){.kind = kind, .serial = self->next_serial++};
		return &self->ways[i];
	}
	return NULL;
}

static enum kvf_status control_connect(struct kvfi_control *control, const char *endpoint, uint32_t *way_out)
{
	struct sim_control *self = self_of(control);
	unsigned long node = strncmp(endpoint, "sim://", 6) == 0 ? strtoul(endpoint + 6, NULL, 10) : SIM_NONE;
	struct way *way;

	if (node >= self->node->world->n_nodes)
		return kvfi_fail(KVF_EINVAL, "endpoint '%s': nobody can be there", endpoint);
	way = take_way(self, WAY_CONNECTED);
	if (way == NULL)
		return kvfi_fail(KVF_EFULL, "connecting to '%s': all ways are in use", endpoint);
	way->peer.node = (uint32_t)node;
	*way_out = (uint32_t)(way - self->ways);
	return KVF_OK;
}

static void control_forget(struct kvfi_control *control, uint32_t number)
{
	struct sim_control *self = self_of(control);

	if (number < self->max_ways)
		self->ways[number].kind = WAY_FREE;
}

/* ---- sending ---- */

static void arrive(struct sim_world *world, struct sim_event *event)
{
	struct envelope *envelope = event->payload;
	struct sim_node *to = &world->nodes[envelope->to.node];
	struct sim_control *self = to->control;

	if (!to->alive || self == NULL || self->queued >= QUEUE_MAX ||
		(envelope->to.serial != 0 && envelope->to.life != to->life)) {
		envelope_free(envelope);
		return;
	}
	*self->tail = envelope;
	self->tail = &envelope->next;
	self->queued++;
	sim_wake(to, 1000 + sim_below(&world->net, 20000));
}

static void drop_arrival(struct sim_event *event)
{
	envelope_free(event->payload);
}

static struct envelope *envelope_new(const struct kvfi_msg *msg)
{
	size_t bound = kvfi_msg_bound(msg), len = 0;
	struct envelope *envelope = malloc(sizeof(*envelope) + bound);
	enum kvf_status status;

	if (envelope == NULL)
		return NULL;
	memset(envelope, 0, sizeof(*envelope));
	status = kvfi_msg_encode(msg, envelope->bytes, bound, &len);
	envelope->len_bytes = len;
	if (status == KVF_EUNSUPPORTED) {
		status = kvfi_msg_dup(msg, &envelope->msg);
		envelope->has_msg = status == KVF_OK;
	}
	if (status == KVF_OK)
		return envelope;
	free(envelope);
	return NULL;
}

static void corrupt(struct sim_world *world, struct envelope *envelope)
{
	uint64_t n = 1 + sim_below(&world->net, 4);

	envelope->corrupted = true;
	sim_count(world, KVF_SIM_CORRUPT);
	for (uint64_t i = 0; i < n && envelope->len_bytes > 0; i++)
		envelope->bytes[sim_below(&world->net, envelope->len_bytes)] ^=
			(unsigned char)(1 + sim_below(&world->net, 255));
}

void sim_describe_message(const struct kvfi_msg *msg, char *text, size_t len_bytes)
{
	const struct kvfi_msg_header *h = &msg->header;
	int n = snprintf(text, len_bytes, "%s", kvfi_msg_name(h->type));

	if (h->request_id != 0)
		n += snprintf(text + n, len_bytes - (size_t)n, " request %llu.%u epoch %llu",
			(unsigned long long)h->request_id, h->attempt, (unsigned long long)h->epoch);
	if (h->type == KVFI_MSG_RESULT)
		(void)snprintf(text + n, len_bytes - (size_t)n, " %s slice %u%s %s, %llu bytes",
			msg->u.result.kind == KVFI_RESULT_AUX ? "aux" : "kv", msg->u.result.slice,
			msg->u.result.last ? " last" : "", kvf_status_name(msg->u.result.status),
			(unsigned long long)msg->u.result.bytes);
	else if (h->type == KVFI_MSG_ACK)
		(void)snprintf(text + n, len_bytes - (size_t)n, " %s slice %u %s",
			msg->u.ack.kind == KVFI_RESULT_AUX ? "aux" : "kv", msg->u.ack.slice,
			msg->u.ack.verdict == KVFI_VERDICT_APPLIED  ? "applied"
			: msg->u.ack.verdict == KVFI_VERDICT_FAILED ? "failed"
								    : "unknown");
	else if (h->type == KVFI_MSG_CANCEL)
		(void)snprintf(text + n, len_bytes - (size_t)n, " (%.60s)", msg->u.cancel.reason);
	else if (h->type == KVFI_MSG_REFUSE)
		(void)snprintf(text + n, len_bytes - (size_t)n, " (%.60s)", msg->u.refuse.reason);
}

static void post_copy(struct sim_control *self, const struct way *way, const struct kvfi_msg *msg,
	const struct sim_passage *passage, uint32_t copy)
{
	struct sim_world *world = self->node->world;
	struct envelope *envelope = envelope_new(msg);
	struct sim_event *event;

	if (envelope == NULL)
		return; /* no memory: lost */
	envelope->from = (struct address){.node = self->node->index,
		.life = self->node->life,
		.way = (uint32_t)(way - self->ways),
		.serial = way->serial};
	envelope->to = way->peer;
	if (passage->corrupt && copy == 0)
		corrupt(world, envelope);
	event = sim_at(world, world->now_ns + passage->delay_ns[copy], arrive);
	event->payload = envelope;
	event->drop = drop_arrival;
}

static bool control_send(struct kvfi_control *control, uint32_t number, const struct kvfi_msg *msg)
{
	struct sim_control *self = self_of(control);
	struct sim_world *world = self->node->world;
	struct sim_passage passage;
	const struct way *way;
	char text[160];

	if (number >= self->max_ways || self->ways[number].kind == WAY_FREE || !self->node->alive)
		return false;
	way = &self->ways[number];
	sim_turn_is_here(self->node);
	if (msg->header.type == KVFI_MSG_REQUEST && msg->u.request.dp_index != KVF_DP_UNKNOWN)
		sim_advertises(self->node, msg->header.request_id, msg->header.attempt, "a REQUEST");
	world->counts.messages++;
	sim_passage(world, self->node->index, way->peer.node, &passage);
	sim_describe_message(msg, text, sizeof(text));
	sim_trace(world, self->node->index, "-> %s: %s%s%s", world->nodes[way->peer.node].name, text,
		passage.copies == 0   ? " (lost)"
		: passage.copies == 2 ? " (twice)"
				      : "",
		passage.copies > 0 && passage.corrupt ? " (corrupted)" : "");
	for (uint32_t i = 0; i < passage.copies; i++)
		post_copy(self, way, msg, &passage, i);
	return passage.copies > 0;
}

/* ---- receiving ---- */

static struct way *way_of(struct sim_control *self, const struct envelope *envelope)
{
	const struct address *from = &envelope->from;
	struct way *way;

	if (envelope->to.serial != 0) {
		way = &self->ways[envelope->to.way];
		return way->kind == WAY_CONNECTED && way->serial == envelope->to.serial ? way : NULL;
	}
	for (uint32_t i = 0; i < self->max_ways; i++) {
		way = &self->ways[i];
		if (way->kind == WAY_ACCEPTED && way->peer.node == from->node &&
			way->peer.life == from->life && way->peer.serial == from->serial)
			return way;
	}
	way = take_way(self, WAY_ACCEPTED);
	if (way != NULL)
		way->peer = *from;
	return way;
}

static bool fill(struct sim_control *self, struct envelope *envelope, struct kvfi_received *received_out)
{
	const struct way *way = way_of(self, envelope);
	enum kvf_status status = KVF_OK;

	if (way == NULL)
		return false;
	memset(received_out, 0, offsetof(struct kvfi_received, msg));
	received_out->way = (uint32_t)(way - self->ways);
	received_out->kind = KVFI_CONTROL_MESSAGE;
	if (envelope->has_msg && envelope->corrupted)
		status = kvfi_fail(KVF_PROTOCOL, "message: its bytes were changed");
	else if (envelope->has_msg)
		status = kvfi_msg_dup(&envelope->msg, &received_out->msg);
	else
		status = kvfi_msg_decode(envelope->bytes, envelope->len_bytes, &received_out->msg);
	if (status == KVF_OK && envelope->corrupted) {
		kvfi_msg_fini(&received_out->msg);
		return false;
	}
	if (status == KVF_OK)
		return true;
	if (status == KVF_ENOMEM)
		return false;
	received_out->kind = KVFI_CONTROL_GARBAGE;
	received_out->status = status;
	(void)snprintf(received_out->reason, sizeof(received_out->reason), "%.150s", kvf_error());
	return true;
}

static enum kvfi_control_kind control_recv(struct kvfi_control *control, struct kvfi_received *received_out)
{
	struct sim_control *self = self_of(control);
	bool filled = false;

	sim_turn_is_here(self->node);
	while (self->head != NULL && !filled) {
		struct envelope *envelope = self->head;

		self->head = envelope->next;
		if (self->head == NULL)
			self->tail = &self->head;
		self->queued--;
		filled = fill(self, envelope, received_out);
		if (filled && received_out->kind == KVFI_CONTROL_GARBAGE)
			sim_trace(self->node->world, self->node->index, "garbage from %s: %s",
				self->node->world->nodes[envelope->from.node].name, received_out->reason);
		envelope_free(envelope);
	}
	return filled ? received_out->kind : KVFI_CONTROL_NONE;
}

static int control_fd(struct kvfi_control *control)
{
	(void)control;
	return -1;
}

static void control_adopt(struct kvfi_control *control)
{
	(void)control;
}

const struct kvfi_control_ops sim_control_ops = {
	.name = "sim",
	.open = control_open,
	.close = control_close,
	.endpoint = control_endpoint,
	.connect = control_connect,
	.forget = control_forget,
	.send = control_send,
	.recv = control_recv,
	.fd = control_fd,
	.adopt = control_adopt,
};
