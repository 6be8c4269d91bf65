/* record_tap.c - a sink that sees every call: what was asked for, as a hash, and what was returned.
 *
 * Hashes are of values alone: what a pointer points to is hashed, or left out where it is an address of this process. Both the recorder and the
 * player use these functions, so equal decisions have equal hashes.
 */
#include "session/record.h"

#include <stdlib.h>
#include <string.h>
#include "base/hash.h"
#include "base/status.h"
#include "wire/codec.h"

uint32_t kvfi_call_returns(enum kvfi_call_kind kind)
{
	switch (kind) {
	case KVFI_CALL_GRANT:
		return 3;
	case KVFI_CALL_POST:
	case KVFI_CALL_STAMP:
	case KVFI_CALL_ADVERTISE:
	case KVFI_CALL_POST_MOVED:
	case KVFI_CALL_GRANT_MOVED:
		return 1;
	default:
		return 0;
	}
}

const char *kvfi_call_name(enum kvfi_call_kind kind)
{
	static const char *const names[] = {NULL, "send", "post", "post_cancel", "grant", "revoke", "release",
		"sum", "store_aux", "event", "state", "stamp", "advertise", "post_moved", "grant_moved",
		"fence", "drop"};

	return kind >= KVFI_CALL_SEND && kind <= KVFI_CALL_DROP ? names[kind] : "unknown";
}

const char *kvfi_input_name(enum kvfi_input_kind kind)
{
	static const char *const names[] = {NULL, "TICK", "SELF", "TX_OPEN", "TX_SEND", "TX_AUX", "RX_OPEN",
		"SESSION_CLOSE", "PEER_UP", "PEER_DOWN", "MESSAGE", "TX_DONE", "RX_DONE", "SUMMED", "PROOF",
		"END_ALL", "CANCEL", "HOLD"};

	return kind >= KVFI_IN_TICK && kind <= KVFI_IN_HOLD ? names[kind] : "unknown";
}

/* ---- hashes ---- */

static uint64_t hash_text(uint64_t hash, const char *text)
{
	return kvfi_hash_bytes(kvfi_hash_u64(hash, strlen(text)), text, strlen(text));
}

static uint64_t hash_range(uint64_t hash, const struct kvfi_range *range)
{
	hash = kvfi_hash_u64(hash, range->group);
	hash = kvfi_hash_u64(hash, range->token_first);
	return kvfi_hash_u64(hash, range->token_end);
}

static uint64_t hash_bound(uint64_t hash, const struct kvfi_bound *bound)
{
	hash = kvfi_hash_u64(hash, bound->layer_start);
	hash = kvfi_hash_u64(hash, bound->layer_end);
	hash = kvfi_hash_u64(hash, bound->bytes);
	hash = kvfi_hash_u64(hash, bound->dropped_tokens);
	for (uint32_t i = 0; i < bound->n_ranges; i++)
		hash = hash_range(kvfi_hash_u64(hash, bound->ranges[i].bytes), &bound->ranges[i].range);
	return hash;
}

static uint64_t hash_header(uint64_t hash, const struct kvfi_msg_header *header)
{
	hash = kvfi_hash_u64(hash, header->type);
	hash = kvfi_hash_u64(hash, header->instance_id);
	hash = kvfi_hash_u64(hash, header->request_id);
	hash = kvfi_hash_u64(hash, header->attempt);
	return kvfi_hash_u64(hash, header->epoch);
}

/* As its bytes on the wire; from, to and link are the sink's to fill. */
static uint64_t hash_msg(const struct kvfi_msg *msg)
{
	uint64_t hash = hash_header(0, &msg->header);
	struct kvfi_msg copy = *msg;
	unsigned char small[KVF_MAX_GROUPS * 64];
	unsigned char *bytes = small;
	size_t bound, len = 0;

	copy.header.from = copy.header.to = copy.header.link = 1;
	bound = kvfi_msg_bound(&copy);
	if (bound > sizeof(small))
		bytes = malloc(bound);
	if (bytes != NULL && kvfi_msg_encode(&copy, bytes, bound, &len) == KVF_OK)
		hash = kvfi_hash_bytes(hash, bytes, len);
	if (bytes != small)
		free(bytes);
	return hash;
}

static uint64_t hash_post(const struct kvfi_core_post *post)
{
	uint64_t hash = kvfi_hash_u64(post->delivery, post->peer);

	hash = kvfi_hash_u64(hash, post->request_id);
	hash = kvfi_hash_u64(hash, post->attempt);
	hash = kvfi_hash_u64(hash, post->epoch);
	hash = kvfi_hash_u64(hash, post->slice);
	hash = kvfi_hash_u64(hash, post->lease_slot);
	hash = kvfi_hash_u64(hash, post->lease_generation);
	return hash_bound(kvfi_hash_u64(hash, post->sum), post->bound);
}

static uint64_t hash_grant(const struct kvfi_core_grant *grant)
{
	uint64_t hash = kvfi_hash_u64(grant->link, grant->peer);

	hash = kvfi_hash_u64(hash, grant->request_id);
	hash = kvfi_hash_u64(hash, grant->attempt);
	hash = kvfi_hash_u64(hash, grant->epoch);
	hash = kvfi_hash_u64(hash, grant->prompt_len);
	return kvfi_hash_u64(hash, grant->sum);
}

static uint64_t hash_stats(uint64_t hash, const struct kvf_session_stats *stats)
{
	const uint64_t values[] = {stats->open_ns, stats->ready_ns, stats->first_byte_ns, stats->last_byte_ns,
		stats->outcome_ns, stats->released_ns, stats->bytes, stats->runs, stats->slices, stats->peers,
		stats->plan_ns};

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		hash = kvfi_hash_u64(hash, values[i]);
	for (size_t i = 0; i < sizeof(stats->proofs) / sizeof(stats->proofs[0]); i++)
		hash = kvfi_hash_u64(hash, stats->proofs[i]);
	return hash;
}

static uint64_t hash_event(const struct kvfi_core_event *event)
{
	uint64_t hash = kvfi_hash_u64(event->type, (uint64_t)(int64_t)event->status);

	hash = kvfi_hash_u64(hash, event->session);
	hash = kvfi_hash_u64(hash, event->slice);
	hash = kvfi_hash_u64(hash, (uint64_t)(int64_t)event->state);
	for (uint32_t g = 0; g < KVF_MAX_GROUPS; g++)
		hash = kvfi_hash_u64(hash, event->good_end[g]);
	return hash_text(hash_stats(hash, event->stats), event->error);
}

/* ---- the sink ---- */

static void tell(struct kvfi_tap *tap, struct kvfi_call *call)
{
	if (call->error == NULL)
		call->error = "";
	tap->told(tap->self, call);
}

static void tell_two(struct kvfi_tap *tap, enum kvfi_call_kind kind, uint32_t about, uint32_t detail)
{
	struct kvfi_call call = {
		.kind = kind, .about = about, .detail = detail, .hash = kvfi_hash_u64(about, detail)};

	tell(tap, &call);
}

static void tap_send(void *self, uint32_t peer, struct kvfi_msg *msg)
{
	struct kvfi_tap *tap = self;
	struct kvfi_call call = {.kind = KVFI_CALL_SEND,
		.about = peer,
		.detail = msg->header.type,
		.hash = kvfi_hash_u64(hash_msg(msg), peer)};

	if (tap->real != NULL)
		tap->real->send(tap->real->self, peer, msg);
	tell(tap, &call);
}

/* The words of a failure are part of what the core says next. */
static enum kvf_status returned(struct kvfi_tap *tap, struct kvfi_call *call)
{
	enum kvf_status status;

	if (tap->real != NULL && (int)(int64_t)call->returns[0] != KVF_OK)
		call->error = kvf_error();
	tell(tap, call);
	status = (enum kvf_status)(int64_t)call->returns[0];
	return status == KVF_OK || tap->real != NULL ? status : kvfi_fail(status, "%s", call->error);
}

static enum kvf_status tap_post(void *self, const struct kvfi_core_post *post)
{
	struct kvfi_tap *tap = self;
	struct kvfi_call call = {.kind = KVFI_CALL_POST,
		.about = post->delivery,
		.detail = post->peer,
		.hash = hash_post(post)};

	if (tap->real != NULL)
		call.returns[0] = (uint64_t)(int64_t)tap->real->post(tap->real->self, post);
	return returned(tap, &call);
}

static void tap_post_cancel(void *self, uint32_t delivery, uint32_t peer)
{
	struct kvfi_tap *tap = self;

	if (tap->real != NULL)
		tap->real->post_cancel(tap->real->self, delivery, peer);
	tell_two(tap, KVFI_CALL_POST_CANCEL, delivery, peer);
}

static enum kvf_status tap_grant(void *self, const struct kvfi_core_grant *grant, uint32_t *lease_slot_out,
	uint32_t *lease_generation_out)
{
	struct kvfi_tap *tap = self;
	struct kvfi_call call = {.kind = KVFI_CALL_GRANT,
		.about = grant->link,
		.detail = grant->peer,
		.hash = hash_grant(grant)};
	uint32_t slot = 0, generation = 0;
	enum kvf_status status;

	if (tap->real != NULL) {
		status = tap->real->grant(tap->real->self, grant, &slot, &generation);
		call.returns[0] = (uint64_t)(int64_t)status;
		call.returns[1] = slot;
		call.returns[2] = generation;
	}
	status = returned(tap, &call);
	if (status != KVF_OK)
		return status;
	*lease_slot_out = (uint32_t)call.returns[1];
	*lease_generation_out = (uint32_t)call.returns[2];
	return KVF_OK;
}

static void tap_revoke(void *self, uint32_t link, uint32_t peer)
{
	struct kvfi_tap *tap = self;

	if (tap->real != NULL)
		tap->real->revoke(tap->real->self, link, peer);
	tell_two(tap, KVFI_CALL_REVOKE, link, peer);
}

static void tap_release(void *self, uint32_t link, uint32_t peer)
{
	struct kvfi_tap *tap = self;

	if (tap->real != NULL)
		tap->real->release(tap->real->self, link, peer);
	tell_two(tap, KVFI_CALL_RELEASE, link, peer);
}

static void tap_sum(void *self, uint32_t link, const struct kvfi_bound *bound)
{
	struct kvfi_tap *tap = self;
	struct kvfi_call call = {.kind = KVFI_CALL_SUM, .about = link, .hash = hash_bound(link, bound)};

	if (tap->real != NULL)
		tap->real->sum(tap->real->self, link, bound);
	tell(tap, &call);
}

static void tap_store_aux(void *self, uint32_t aux_slot, const void *data, uint32_t len_bytes)
{
	struct kvfi_tap *tap = self;
	struct kvfi_call call = {.kind = KVFI_CALL_STORE_AUX,
		.about = aux_slot,
		.detail = len_bytes,
		.hash = kvfi_hash_bytes(kvfi_hash_u64(aux_slot, len_bytes), data, len_bytes)};

	if (tap->real != NULL)
		tap->real->store_aux(tap->real->self, aux_slot, data, len_bytes);
	tell(tap, &call);
}

static void tap_event(void *self, const struct kvfi_core_event *event)
{
	struct kvfi_tap *tap = self;
	struct kvfi_call call = {.kind = KVFI_CALL_EVENT,
		.about = event->session,
		.detail = event->type,
		.hash = hash_event(event)};

	if (tap->real != NULL)
		tap->real->event(tap->real->self, event);
	tell(tap, &call);
}

static void tap_state(void *self, uint32_t session, enum kvf_session_state state)
{
	struct kvfi_tap *tap = self;

	if (tap->real != NULL)
		tap->real->state(tap->real->self, session, state);
	tell_two(tap, KVFI_CALL_STATE, session, (uint32_t)state);
}

static uint64_t tap_stamp(void *self)
{
	struct kvfi_tap *tap = self;
	struct kvfi_call call = {.kind = KVFI_CALL_STAMP};

	if (tap->real != NULL)
		call.returns[0] = tap->real->stamp(tap->real->self);
	tell(tap, &call);
	return call.returns[0];
}

static bool tap_advertise(void *self, uint32_t session)
{
	struct kvfi_tap *tap = self;
	struct kvfi_call call = {.kind = KVFI_CALL_ADVERTISE, .about = session, .hash = session};

	if (tap->real != NULL)
		call.returns[0] = tap->real->advertise(tap->real->self, session);
	tell(tap, &call);
	return call.returns[0] != 0;
}

static uint64_t tap_post_moved(void *self, uint32_t delivery, uint32_t peer)
{
	struct kvfi_tap *tap = self;
	struct kvfi_call call = {.kind = KVFI_CALL_POST_MOVED,
		.about = delivery,
		.detail = peer,
		.hash = kvfi_hash_u64(delivery, peer)};

	if (tap->real != NULL)
		call.returns[0] = tap->real->post_moved(tap->real->self, delivery, peer);
	tell(tap, &call);
	return call.returns[0];
}

static uint64_t tap_grant_moved(void *self, uint32_t link, uint32_t peer)
{
	struct kvfi_tap *tap = self;
	struct kvfi_call call = {.kind = KVFI_CALL_GRANT_MOVED,
		.about = link,
		.detail = peer,
		.hash = kvfi_hash_u64(link, peer)};

	if (tap->real != NULL)
		call.returns[0] = tap->real->grant_moved(tap->real->self, link, peer);
	tell(tap, &call);
	return call.returns[0];
}

static void tap_fence(void *self, uint32_t peer)
{
	struct kvfi_tap *tap = self;

	if (tap->real != NULL)
		tap->real->fence(tap->real->self, peer);
	tell_two(tap, KVFI_CALL_FENCE, peer, 0);
}

static void tap_drop(void *self, uint32_t peer, const char *reason)
{
	struct kvfi_tap *tap = self;
	struct kvfi_call call = {.kind = KVFI_CALL_DROP, .about = peer, .hash = hash_text(peer, reason)};

	if (tap->real != NULL)
		tap->real->drop(tap->real->self, peer, reason);
	tell(tap, &call);
}

void kvfi_tap_sink(struct kvfi_tap *tap, struct kvfi_sink *sink_out)
{
	*sink_out = (struct kvfi_sink){.self = tap,
		.send = tap_send,
		.post = tap_post,
		.post_cancel = tap_post_cancel,
		.grant = tap_grant,
		.revoke = tap_revoke,
		.release = tap_release,
		.sum = tap_sum,
		.store_aux = tap_store_aux,
		.event = tap_event,
		.state = tap_state,
		.stamp = tap_stamp,
		.advertise = tap_advertise,
		.post_moved = tap_post_moved,
		.grant_moved = tap_grant_moved,
		.fence = tap_fence,
		.drop = tap_drop};
}
