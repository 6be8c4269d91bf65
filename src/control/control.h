/* control.h - the channel for messages between agents: the vtable and its contract.
 *
 * All calls come from the agent's owner thread: it opens, uses and closes the sockets (a ZeroMQ socket belongs to one thread).
 * Messages may be lost, repeated and (over a reconnect) reordered; never torn. send() never blocks: a full queue drops the message (counted),
 * the session layer repeats it. A *way* names where an answer goes: one per connect() (decode to a prefill endpoint), or made by the first
 * message of an incarnation that came in (prefill to a decode agent). Ways of one channel are small integers, reused after forget().
 * Bad bytes from a way: dropped, counted, told once by KVFI_CONTROL_GARBAGE with the reason; a peer of another version likewise.
 */
#ifndef KVFI_CONTROL_CONTROL_H
#define KVFI_CONTROL_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/faults.h"
#include "wire/messages.h"

#define KVFI_NO_WAY UINT32_MAX

struct kvfi_control_env {
	const char *name;   /* of the agent */
	const char *listen; /* NULL: does not listen */
	uint64_t incarnation;
	uint32_t max_ways;
	/* any thread: inproc tells the receiving agent's owner that recv() has something */
	void (*wake)(void *self);
	void *self;
	void *seam;                       /* of struct kvfi_agent_seams; NULL in a real agent */
	const struct kvfi_faults *faults; /* of fault.c alone */
};

enum kvfi_control_kind {
	KVFI_CONTROL_NONE = 0,
	KVFI_CONTROL_MESSAGE = 1, /* msg_out is filled; the caller frees it with kvfi_msg_fini */
	KVFI_CONTROL_GARBAGE = 2  /* status and reason tell; way may be KVFI_NO_WAY */
};

struct kvfi_received {
	enum kvfi_control_kind kind;
	uint32_t way;
	enum kvf_status status;
	char reason[KVFI_REASON_BYTES];
	struct kvfi_msg msg;
};

struct kvfi_control;

struct kvfi_control_ops {
	const char *name;
	/* KVF_EADDRINUSE when the endpoint is taken (also by a live agent on the same ipc path); KVF_EINVAL when it is malformed, or binds
	 * to something else than loopback without the user having named that address. */
	enum kvf_status (*open)(const struct kvfi_control_env *env, struct kvfi_control **control_out);
	void (*close)(struct kvfi_control *control);
	/* The endpoint with its real port. */
	const char *(*endpoint)(struct kvfi_control *control);
	/* A way to that endpoint; returns at once, reconnects by itself. */
	enum kvf_status (*connect)(struct kvfi_control *control, const char *endpoint, uint32_t *way_out);
	void (*forget)(struct kvfi_control *control, uint32_t way);
	/* Encodes or copies the message; false: dropped. */
	bool (*send)(struct kvfi_control *control, uint32_t way, const struct kvfi_msg *msg);
	/* One message or nothing; never blocks. */
	enum kvfi_control_kind (*recv)(struct kvfi_control *control, struct kvfi_received *received_out);
	/* Readable (edge-triggered for zmq: call recv until it gives KVFI_CONTROL_NONE after every send and every wake-up). -1: never. */
	int (*fd)(struct kvfi_control *control);
	/* The calling thread is the owner from now on: an agent without a progress thread may be polled by another thread than before, after a
	 * hand-over that orders memory. */
	void (*adopt)(struct kvfi_control *control);
};

struct kvfi_control_base {
	const struct kvfi_control_ops *ops;
};

/* The functions of `inner` with the faults of env->faults (fault.c). NULL: that channel has none. */
const struct kvfi_control_ops *kvfi_control_fault_over(const struct kvfi_control_ops *inner);

extern const struct kvfi_control_ops kvfi_control_inproc;
#ifdef KVFI_WITH_ZMQ
extern const struct kvfi_control_ops kvfi_control_zmq;
#endif

#endif
