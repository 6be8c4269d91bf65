/* inproc.c - the control channel between agents of one process: typed deep copies, no bytes.
 *
 * Every channel is a *node*. All nodes are in one process-wide list under one mutex, and so are their queues; the mutex
 * is held for a look-up and a few pointer writes (copies are made outside), and over env->wake(), which must therefore
 * neither block nor call back. A node leaves the list under the mutex, so after close() no other thread can find it or
 * is still inside its wake(): either side may close at any time from its own thread.
 *
 * A message names its sender by node number and way, never by pointer; numbers are not reused. An answer to a node or
 * way that is gone is dropped, as is everything for a name that nobody listens on (yet), or for a full queue.
 * The ways of a node are touched by its owner thread alone.
 */
#include "control/control.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/status.h"

#define PREFIX          "inproc://"
#define PREFIX_BYTES    (sizeof(PREFIX) - 1)
#define NAME_MAX_BYTES  200u
#define QUEUE_MAX       4096u
#define QUEUE_MAX_BYTES (UINT64_C(256) << 20)

/* One end of a way, as the other side names it. serial tells a reused way number from the one that was forgotten. */
struct address {
	uint64_t node; /* 0: none */
	uint64_t serial;
	uint32_t way;
};

struct envelope {
	struct envelope *next;
	struct address from; /* the sender's end */
	uint64_t serial;     /* of the receiver's way it answers to; 0: the receiver makes one */
	uint32_t way;
	uint64_t weight_bytes;
	struct kvfi_msg msg;
};

enum way_kind {
	WAY_FREE = 0,
	WAY_CONNECTED = 1, /* by connect(): its name is resolved at every send */
	WAY_ACCEPTED = 2   /* made by a message that came in */
};

struct way {
	enum way_kind kind;
	uint64_t serial;
	struct address peer; /* WAY_ACCEPTED */
	char *name;          /* WAY_CONNECTED */
};

struct kvfi_control {
	struct kvfi_control_base base;
	struct kvfi_control *next; /* in the list of nodes */
	uint64_t number;
	char *endpoint; /* "" when it does not listen */
	void (*wake)(void *self);
	void *self;

	struct envelope *head, **tail; /* under the mutex */
	uint32_t queued;
	uint64_t queued_bytes;

	uint32_t max_ways; /* the rest: owner thread alone */
	uint64_t next_serial;
	bool told_full;
	struct way *ways;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct kvfi_control *nodes;
static uint64_t next_number = 1;

static void lock(void)
{
	const int error = pthread_mutex_lock(&mutex);

	KVFI_ASSERT(error == 0);
}

static void unlock(void)
{
	const int error = pthread_mutex_unlock(&mutex);

	KVFI_ASSERT(error == 0);
}

static struct kvfi_control *find_number(uint64_t number)
{
	struct kvfi_control *node = nodes;

	while (node != NULL && node->number != number)
		node = node->next;
	return node;
}

static struct kvfi_control *find_endpoint(const char *endpoint)
{
	struct kvfi_control *node = nodes;

	while (node != NULL && strcmp(node->endpoint, endpoint) != 0)
		node = node->next;
	return node;
}

static enum kvf_status check_endpoint(const char *endpoint)
{
	if (strncmp(endpoint, PREFIX, PREFIX_BYTES) != 0)
		return kvfi_fail(
			KVF_EINVAL, "endpoint '%.200s': in-process control takes inproc://name", endpoint);
	if (endpoint[PREFIX_BYTES] == '\0')
		return kvfi_fail(KVF_EINVAL, "endpoint '%s': the name is empty", endpoint);
	if (strnlen(endpoint, NAME_MAX_BYTES + 1) > NAME_MAX_BYTES)
		return kvfi_fail(
			KVF_EINVAL, "endpoint '%.40s...': longer than %u bytes", endpoint, NAME_MAX_BYTES);
	return KVF_OK;
}

static void free_envelopes(struct envelope *envelope)
{
	while (envelope != NULL) {
		struct envelope *next = envelope->next;

		kvfi_msg_fini(&envelope->msg);
		free(envelope);
		envelope = next;
	}
}

static void free_node(struct kvfi_control *node)
{
	free_envelopes(node->head);
	for (uint32_t i = 0; node->ways != NULL && i < node->max_ways; i++)
		free(node->ways[i].name);
	free(node->ways);
	free(node->endpoint);
	free(node);
}

static struct kvfi_control *new_node(const struct kvfi_control_env *env)
{
	struct kvfi_control *node = calloc(1, sizeof(*node));

	if (node == NULL)
		return NULL;
	node->base.ops = &kvfi_control_inproc;
	node->endpoint = strdup(env->listen == NULL ? "" : env->listen);
	node->wake = env->wake;
	node->self = env->self;
	node->tail = &node->head;
	node->max_ways = env->max_ways;
	node->next_serial = 1;
	node->ways = calloc(env->max_ways, sizeof(*node->ways));
	if (node->endpoint == NULL || node->ways == NULL) {
		free_node(node);
		return NULL;
	}
	return node;
}

static enum kvf_status inproc_open(const struct kvfi_control_env *env, struct kvfi_control **control_out)
{
	struct kvfi_control *node;

	if (env->max_ways == 0)
		return kvfi_fail(KVF_EINVAL, "max_ways: 0");
	if (env->listen != NULL) {
		enum kvf_status status = check_endpoint(env->listen);

		if (status != KVF_OK)
			return status;
	}
	node = new_node(env);
	if (node == NULL)
		return kvfi_fail(
			KVF_ENOMEM, "opening an in-process control channel with %u ways", env->max_ways);
	lock();
	if (env->listen != NULL && find_endpoint(env->listen) != NULL) {
		unlock();
		free_node(node);
		return kvfi_fail(
			KVF_EADDRINUSE, "endpoint '%s': another agent of this process has it", env->listen);
	}
	node->number = next_number++;
	node->next = nodes;
	nodes = node;
	unlock();
	*control_out = node;
	return KVF_OK;
}

static void inproc_close(struct kvfi_control *node)
{
	struct kvfi_control **at = &nodes;

	if (node == NULL)
		return;
	lock();
	while (*at != node)
		at = &(*at)->next;
	*at = node->next;
	unlock();
	free_node(node);
}

static const char *inproc_endpoint(struct kvfi_control *node)
{
	return node->endpoint;
}

static struct way *take_way(struct kvfi_control *node, enum way_kind kind)
{
	for (uint32_t i = 0; i < node->max_ways; i++) {
		struct way *way = &node->ways[i];

		if (way->kind != WAY_FREE)
			continue;
		memset(way, 0, sizeof(*way));
		way->kind = kind;
		way->serial = node->next_serial++;
		return way;
	}
	return NULL;
}

static enum kvf_status inproc_connect(struct kvfi_control *node, const char *endpoint, uint32_t *way_out)
{
	enum kvf_status status = check_endpoint(endpoint);
	struct way *way;
	char *name;

	if (status != KVF_OK)
		return status;
	name = strdup(endpoint);
	if (name == NULL)
		return kvfi_fail(KVF_ENOMEM, "connecting to '%s'", endpoint);
	way = take_way(node, WAY_CONNECTED);
	if (way == NULL) {
		free(name);
		return kvfi_fail(
			KVF_EFULL, "connecting to '%s': all %u ways are in use", endpoint, node->max_ways);
	}
	way->name = name;
	*way_out = (uint32_t)(way - node->ways);
	return KVF_OK;
}

static void inproc_forget(struct kvfi_control *node, uint32_t number)
{
	struct way *way;

	if (number >= node->max_ways)
		return;
	way = &node->ways[number];
	free(way->name);
	memset(way, 0, sizeof(*way));
	node->told_full = false;
}

/* What a queued message holds, roughly: the bound of a queue is in bytes too. */
static uint64_t weigh(const struct kvfi_msg *msg)
{
	uint64_t bytes = sizeof(struct envelope);

	if (msg->header.type == KVFI_MSG_REQUEST) {
		for (uint32_t i = 0; i < msg->u.request.n_groups; i++)
			bytes += msg->u.request.groups[i].n_runs * sizeof(struct kvfi_id_run);
	} else if (msg->header.type == KVFI_MSG_RESULT) {
		bytes += msg->u.result.aux_bytes;
	} else if (msg->header.type == KVFI_MSG_GROUP) {
		bytes += msg->u.group.len_bytes;
	} else if (msg->header.type == KVFI_MSG_HELLO || msg->header.type == KVFI_MSG_HELLO_OK) {
		const struct kvf_instance *instance = msg->u.hello.instance;

		if (instance != NULL)
			bytes += instance->n_ranks *
			         (sizeof(struct kvf_rank) +
					 instance->n_groups * sizeof(struct kvf_rank_group));
	}
	return bytes;
}

/* Takes the envelope when it returns true. The mutex is held. */
static bool enqueue(struct kvfi_control *node, struct envelope *envelope)
{
	if (node->queued >= QUEUE_MAX || node->queued_bytes + envelope->weight_bytes > QUEUE_MAX_BYTES)
		return false;
	*node->tail = envelope;
	node->tail = &envelope->next;
	node->queued++;
	node->queued_bytes += envelope->weight_bytes;
	if (node->wake != NULL)
		node->wake(node->self);
	return true;
}

static bool inproc_send(struct kvfi_control *node, uint32_t number, const struct kvfi_msg *msg)
{
	struct kvfi_control *target;
	struct envelope *envelope;
	struct way *way;
	bool sent;

	if (number >= node->max_ways || node->ways[number].kind == WAY_FREE)
		return false;
	way = &node->ways[number];
	envelope = calloc(1, sizeof(*envelope));
	if (envelope == NULL)
		return false;
	if (kvfi_msg_dup(msg, &envelope->msg) != KVF_OK) {
		free(envelope);
		return false;
	}
	envelope->from = (struct address){.node = node->number, .serial = way->serial, .way = number};
	envelope->serial = way->peer.serial;
	envelope->way = way->peer.way;
	envelope->weight_bytes = weigh(msg);
	lock();
	target = way->kind == WAY_CONNECTED ? find_endpoint(way->name) : find_number(way->peer.node);
	sent = target != NULL && enqueue(target, envelope);
	unlock();
	if (!sent)
		free_envelopes(envelope);
	return sent;
}

static struct envelope *dequeue(struct kvfi_control *node)
{
	struct envelope *envelope;

	lock();
	envelope = node->head;
	if (envelope != NULL) {
		node->head = envelope->next;
		if (node->head == NULL)
			node->tail = &node->head;
		node->queued--;
		node->queued_bytes -= envelope->weight_bytes;
		envelope->next = NULL;
	}
	unlock();
	return envelope;
}

static struct way *find_accepted(struct kvfi_control *node, const struct address *from)
{
	for (uint32_t i = 0; i < node->max_ways; i++) {
		struct way *way = &node->ways[i];

		if (way->kind == WAY_ACCEPTED && way->peer.node == from->node &&
			way->peer.serial == from->serial)
			return way;
	}
	return NULL;
}

/* The way an envelope came by. NULL: it answers to a way that was forgotten; *full: there is no room for a new one. */
static struct way *way_of(struct kvfi_control *node, const struct envelope *envelope, bool *full)
{
	struct way *way;

	if (envelope->serial != 0) {
		way = envelope->way < node->max_ways ? &node->ways[envelope->way] : NULL;
		return way != NULL && way->kind == WAY_CONNECTED && way->serial == envelope->serial ? way
		                                                                                    : NULL;
	}
	way = find_accepted(node, &envelope->from);
	if (way == NULL) {
		way = take_way(node, WAY_ACCEPTED);
		*full = way == NULL;
	}
	if (way != NULL)
		way->peer = envelope->from;
	return way;
}

static enum kvfi_control_kind tell_full(struct kvfi_control *node, struct kvfi_received *received_out)
{
	node->told_full = true;
	memset(received_out, 0, offsetof(struct kvfi_received, msg));
	received_out->kind = KVFI_CONTROL_GARBAGE;
	received_out->way = KVFI_NO_WAY;
	received_out->status = KVF_EFULL;
	(void)snprintf(received_out->reason, sizeof(received_out->reason),
		"a message of a new peer was dropped: all %u ways are in use", node->max_ways);
	return KVFI_CONTROL_GARBAGE;
}

static enum kvfi_control_kind inproc_recv(struct kvfi_control *node, struct kvfi_received *received_out)
{
	struct envelope *envelope;

	while ((envelope = dequeue(node)) != NULL) {
		bool full = false;
		const struct way *way = way_of(node, envelope, &full);

		if (way != NULL) {
			memset(received_out, 0, offsetof(struct kvfi_received, msg));
			received_out->kind = KVFI_CONTROL_MESSAGE;
			received_out->way = (uint32_t)(way - node->ways);
			received_out->msg = envelope->msg;
			free(envelope);
			return KVFI_CONTROL_MESSAGE;
		}
		free_envelopes(envelope);
		if (full && !node->told_full)
			return tell_full(node, received_out);
	}
	return KVFI_CONTROL_NONE;
}

static int inproc_fd(struct kvfi_control *node)
{
	(void)node;
	return -1;
}

static void inproc_adopt(struct kvfi_control *node)
{
	(void)node; /* has no thread of its own to remember */
}

const struct kvfi_control_ops kvfi_control_inproc = {
	.name = "inproc",
	.open = inproc_open,
	.close = inproc_close,
	.endpoint = inproc_endpoint,
	.connect = inproc_connect,
	.forget = inproc_forget,
	.send = inproc_send,
	.recv = inproc_recv,
	.fd = inproc_fd,
	.adopt = inproc_adopt,
};
