/* record.h - everything that a core was told and everything that it decided, in a file, and again out of it.
 *
 * A recorder stands between an agent, its core and its sink: each input goes into the file before the core sees it, each call of the sink
 * after it was made, with what the sink returned. The core reads no clock and no memory but its own, so the inputs and these returns are all that it
 * depends on: stepping them through another core of the same version repeats the run bit for bit. Arguments of sink calls are kept as hashes, by
 * which the first difference is found.
 *
 * The file, little-endian: magic, format version, the library's version, configuration, incarnation; then for each step
 *   IN, kind, time, payload   { CALL, kind, hash, returns, error text of a failure }...   END, number of calls
 * It is written through one buffer of fixed size, at the latest with every tick. A write that fails ends the record, never the agent.
 * It holds block ids, layouts and aux data of requests, no KV.
 * Needs the wire's cold messages: KVF_EUNSUPPORTED in a build without msgpack. One thread: the owner of the core.
 */
#ifndef KVFI_SESSION_RECORD_H
#define KVFI_SESSION_RECORD_H

#include <stddef.h>
#include "session/core.h"

#define KVFI_RECORD_VERSION 1u

enum kvfi_call_kind {
	KVFI_CALL_SEND = 1,
	KVFI_CALL_POST = 2,
	KVFI_CALL_POST_CANCEL = 3,
	KVFI_CALL_GRANT = 4,
	KVFI_CALL_REVOKE = 5,
	KVFI_CALL_RELEASE = 6,
	KVFI_CALL_SUM = 7,
	KVFI_CALL_STORE_AUX = 8,
	KVFI_CALL_EVENT = 9,
	KVFI_CALL_STATE = 10,
	KVFI_CALL_STAMP = 11,
	KVFI_CALL_ADVERTISE = 12,
	KVFI_CALL_POST_MOVED = 13,
	KVFI_CALL_GRANT_MOVED = 14,
	KVFI_CALL_FENCE = 15,
	KVFI_CALL_DROP = 16
};

/* One call of the sink. */
struct kvfi_call {
	enum kvfi_call_kind kind;
	uint32_t about;      /* delivery, link, peer or session: for people */
	uint32_t detail;     /* message type, event type, state: for people */
	uint64_t hash;       /* of all arguments */
	uint64_t returns[3]; /* the first kvfi_call_returns(kind) of them */
	const char *error;   /* with a status that is a failure; else "" */
};

uint32_t kvfi_call_returns(enum kvfi_call_kind kind);
const char *kvfi_call_name(enum kvfi_call_kind kind);
const char *kvfi_input_name(enum kvfi_input_kind kind);

/* A sink that sees every call. With `real` the call is made and then told; without, whoever is told fills in what it returns. */
struct kvfi_tap {
	const struct kvfi_sink *real;
	void *self;
	void (*told)(void *self, struct kvfi_call *call);
};
/* The tap stays in place as long as the sink is used. */
void kvfi_tap_sink(struct kvfi_tap *tap, struct kvfi_sink *sink_out);

struct kvfi_recorder;
/* path: made anew, mode 0600. KVF_EINVAL names it and why, KVF_EUNSUPPORTED, KVF_ENOMEM. */
KVF_MUST_CHECK enum kvf_status kvfi_recorder_open(const char *path, const struct kvfi_core_config *config,
	uint64_t incarnation, const struct kvfi_sink *real, struct kvfi_recorder **recorder_out);
/* The sink for the core that is recorded. */
void kvfi_recorder_sink(struct kvfi_recorder *recorder, struct kvfi_sink *sink_out);
/* kvfi_core_step, recorded. */
void kvfi_recorder_step(struct kvfi_recorder *recorder, struct kvfi_core *core,
	const struct kvfi_input *input, uint64_t now_ns);
void kvfi_recorder_close(struct kvfi_recorder *recorder); /* NULL is fine */

struct kvfi_record_head {
	struct kvfi_core_config config;
	uint64_t incarnation;
	char library[32];
};

/* What comes next in a record. */
enum kvfi_record_next {
	KVFI_RECORD_INPUT = 1,
	KVFI_RECORD_CALL = 2,
	KVFI_RECORD_END = 3,  /* of a step */
	KVFI_RECORD_OVER = 4, /* of the file, between two steps */
	KVFI_RECORD_CUT = 5,  /* the file ends inside a step: the process did */
	KVFI_RECORD_BAD = 6   /* kvf_error() says why */
};

struct kvfi_player;
/* Reads a whole record. What inputs point to lives as long as the core may use it. KVF_EINVAL names the file and why, KVF_ENOMEM. */
KVF_MUST_CHECK enum kvf_status kvfi_player_open(
	const char *path, struct kvfi_record_head *head_out, struct kvfi_player **player_out);
void kvfi_player_close(struct kvfi_player *player); /* NULL is fine */
/* Fills what it returns: input and time, or a call. call_out->error is valid until the next one. */
enum kvfi_record_next kvfi_player_next(struct kvfi_player *player, struct kvfi_input *input_out,
	uint64_t *now_ns_out, struct kvfi_call *call_out);

#endif
