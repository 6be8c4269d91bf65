/* fault.c - a control channel that wraps another one and does harm by seed: messages are lost, come twice, late, or with a bit turned.
 *
 * Within the contract of control.h, which allows all of it: so it only happens more often. A message whose damage the codec notices is lost, as one
 * that comes as garbage would be; what the codec cannot notice arrives. Late messages wait in a short list until recv or send is called after they
 * are due; when it is full they go in time. Owner thread.
 */
#include "control/control.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/status.h"
#include "wire/codec.h"

#define LATE_MAX      64u
#define DAMAGED_BYTES 65536u /* larger messages stay whole */

struct late {
	uint64_t due_ns;
	uint32_t way;
	struct kvfi_msg msg;
};

struct fault_channel {
	struct kvfi_control_base base;
	const struct kvfi_control_ops *inner_ops;
	struct kvfi_control *inner;
	struct kvfi_dice dice;
	struct late lates[LATE_MAX];
	uint32_t n_lates;
	unsigned char bytes[DAMAGED_BYTES];
};

static struct fault_channel *self_of(struct kvfi_control *control)
{
	return (struct fault_channel *)(void *)control;
}

/* ---- late ---- */

static bool send_later(struct fault_channel *self, uint32_t way, const struct kvfi_msg *msg)
{
	struct late *late = &self->lates[self->n_lates];

	if (self->n_lates == LATE_MAX || kvfi_msg_dup(msg, &late->msg) != KVF_OK)
		return false;
	late->due_ns = kvfi_dice_due_ns(&self->dice, kvfi_clock_ns());
	late->way = way;
	self->n_lates++;
	return true;
}

static void send_due(struct fault_channel *self)
{
	uint64_t now_ns = self->n_lates > 0 ? kvfi_clock_ns() : 0;

	for (uint32_t i = self->n_lates; i-- > 0;) {
		if (self->lates[i].due_ns > now_ns)
			continue;
		(void)self->inner_ops->send(self->inner, self->lates[i].way, &self->lates[i].msg);
		kvfi_msg_fini(&self->lates[i].msg);
		self->lates[i] = self->lates[--self->n_lates];
	}
}

static void forget_late(struct fault_channel *self, uint32_t way)
{
	for (uint32_t i = self->n_lates; i-- > 0;) {
		if (self->lates[i].way != way)
			continue;
		kvfi_msg_fini(&self->lates[i].msg);
		self->lates[i] = self->lates[--self->n_lates];
	}
}

/* ---- sending ---- */

/* Turns a bit of its bytes. False: it is whole still, for it has no bytes in this build, or too many. */
static bool send_damaged(struct fault_channel *self, uint32_t way, const struct kvfi_msg *msg)
{
	struct kvfi_msg damaged;
	uint64_t bit;
	size_t len;

	if (kvfi_msg_encode(msg, self->bytes, sizeof(self->bytes), &len) != KVF_OK || len == 0)
		return false;
	bit = kvfi_dice_draw(&self->dice) % (len * 8);
	self->bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
	if (kvfi_msg_decode(self->bytes, len, &damaged) != KVF_OK)
		return true;
	(void)self->inner_ops->send(self->inner, way, &damaged);
	kvfi_msg_fini(&damaged);
	return true;
}

static bool fault_send(struct kvfi_control *control, uint32_t way, const struct kvfi_msg *msg)
{
	struct fault_channel *self = self_of(control);

	send_due(self);
	if (kvfi_dice_strike(&self->dice, KVFI_HARM_DROP))
		return true;
	if (kvfi_dice_strike(&self->dice, KVFI_HARM_DAMAGE) && send_damaged(self, way, msg))
		return true;
	if (kvfi_dice_strike(&self->dice, KVFI_HARM_REPEAT))
		(void)self->inner_ops->send(self->inner, way, msg);
	if (kvfi_dice_strike(&self->dice, KVFI_HARM_LATE) && send_later(self, way, msg))
		return true;
	return self->inner_ops->send(self->inner, way, msg);
}

static enum kvfi_control_kind fault_recv(struct kvfi_control *control, struct kvfi_received *received_out)
{
	struct fault_channel *self = self_of(control);

	send_due(self);
	return self->inner_ops->recv(self->inner, received_out);
}

/* ---- life ---- */

static enum kvf_status open_over(const struct kvfi_control_ops *ops, const struct kvfi_control_ops *inner,
	const struct kvfi_control_env *env, struct kvfi_control **control_out)
{
	struct fault_channel *self = calloc(1, sizeof(*self));
	enum kvf_status status;

	if (self == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for faults");
	self->base.ops = ops;
	self->inner_ops = inner;
	self->dice = (struct kvfi_dice){.faults = *env->faults, .salt = ~env->incarnation};
	status = inner->open(env, &self->inner);
	if (status != KVF_OK) {
		free(self);
		return status;
	}
	*control_out = (struct kvfi_control *)(void *)self;
	return KVF_OK;
}

static void fault_close(struct kvfi_control *control)
{
	struct fault_channel *self = self_of(control);

	if (self == NULL)
		return;
	while (self->n_lates > 0)
		kvfi_msg_fini(&self->lates[--self->n_lates].msg);
	self->inner_ops->close(self->inner);
	free(self);
}

static const char *fault_endpoint(struct kvfi_control *control)
{
	return self_of(control)->inner_ops->endpoint(self_of(control)->inner);
}

static enum kvf_status fault_connect(struct kvfi_control *control, const char *endpoint, uint32_t *way_out)
{
	return self_of(control)->inner_ops->connect(self_of(control)->inner, endpoint, way_out);
}

static void fault_forget(struct kvfi_control *control, uint32_t way)
{
	forget_late(self_of(control), way);
	self_of(control)->inner_ops->forget(self_of(control)->inner, way);
}

static int fault_fd(struct kvfi_control *control)
{
	return self_of(control)->inner_ops->fd(self_of(control)->inner);
}

static void fault_adopt(struct kvfi_control *control)
{
	self_of(control)->inner_ops->adopt(self_of(control)->inner);
}

static enum kvf_status open_inproc(const struct kvfi_control_env *env, struct kvfi_control **control_out);

static const struct kvfi_control_ops over_inproc = {.name = "inproc",
	.open = open_inproc,
	.close = fault_close,
	.endpoint = fault_endpoint,
	.connect = fault_connect,
	.forget = fault_forget,
	.send = fault_send,
	.recv = fault_recv,
	.fd = fault_fd,
	.adopt = fault_adopt};

static enum kvf_status open_inproc(const struct kvfi_control_env *env, struct kvfi_control **control_out)
{
	return open_over(&over_inproc, &kvfi_control_inproc, env, control_out);
}

#ifdef KVFI_WITH_ZMQ
static enum kvf_status open_zmq(const struct kvfi_control_env *env, struct kvfi_control **control_out);

static const struct kvfi_control_ops over_zmq = {.name = "zmq",
	.open = open_zmq,
	.close = fault_close,
	.endpoint = fault_endpoint,
	.connect = fault_connect,
	.forget = fault_forget,
	.send = fault_send,
	.recv = fault_recv,
	.fd = fault_fd,
	.adopt = fault_adopt};

static enum kvf_status open_zmq(const struct kvfi_control_env *env, struct kvfi_control **control_out)
{
	return open_over(&over_zmq, &kvfi_control_zmq, env, control_out);
}
#endif

const struct kvfi_control_ops *kvfi_control_fault_over(const struct kvfi_control_ops *inner)
{
#ifdef KVFI_WITH_ZMQ
	if (inner == &kvfi_control_zmq)
		return &over_zmq;
#endif
	return inner == &kvfi_control_inproc ? &over_inproc : NULL;
}
