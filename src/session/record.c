/* record.c - writing a record: inputs, calls, and the buffer before the file.
 *
 * One buffer of fixed size, taken at open; what does not fit is written out in pieces. Every tick writes what is there, and an agent ticks in each
 * turn, so a process that dies loses one turn at most. When a write fails (a full disk) the record ends there, and the agent goes on.
 */
#include "session/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/status.h"
#include "session/record_format.h"
#include "wire/bytes.h"
#include "wire/codec.h"

#define BUFFER_BYTES (UINT32_C(256) * 1024)

struct kvfi_recorder {
	int fd;
	bool failed;
	uint32_t n_calls; /* of this step */
	struct kvfi_sink real;
	struct kvfi_tap tap;
	size_t used_bytes;
	unsigned char buffer[BUFFER_BYTES];
};

/* ---- bytes ---- */

static void write_out(struct kvfi_recorder *recorder)
{
	size_t at = 0;

	while (!recorder->failed && at < recorder->used_bytes) {
		ssize_t n = write(recorder->fd, recorder->buffer + at, recorder->used_bytes - at);

		if (n > 0)
			at += (size_t)n;
		else if (n == 0 || errno != EINTR)
			recorder->failed = true;
	}
	recorder->used_bytes = 0;
}

static void put(struct kvfi_recorder *recorder, const void *bytes, size_t len_bytes)
{
	const unsigned char *at = bytes;

	while (len_bytes > 0) {
		size_t room = BUFFER_BYTES - recorder->used_bytes;
		size_t n = len_bytes < room ? len_bytes : room;

		memcpy(recorder->buffer + recorder->used_bytes, at, n);
		recorder->used_bytes += n;
		at += n;
		len_bytes -= n;
		if (recorder->used_bytes == BUFFER_BYTES)
			write_out(recorder);
	}
}

static void put_le(struct kvfi_recorder *recorder, uint64_t value, unsigned len_bytes)
{
	unsigned char bytes[8];

	kvfi_store_le(bytes, value, len_bytes);
	put(recorder, bytes, len_bytes);
}

static void put_u8(struct kvfi_recorder *recorder, uint8_t value)
{
	put_le(recorder, value, 1);
}

static void put_u32(struct kvfi_recorder *recorder, uint32_t value)
{
	put_le(recorder, value, 4);
}

static void put_u64(struct kvfi_recorder *recorder, uint64_t value)
{
	put_le(recorder, value, 8);
}

static void put_status(struct kvfi_recorder *recorder, enum kvf_status status)
{
	put_u32(recorder, (uint32_t)(int32_t)status);
}

/* NULL and "" are told apart. */
static void put_text(struct kvfi_recorder *recorder, const char *text)
{
	size_t len = text == NULL ? 0 : strlen(text);

	put_u32(recorder, text == NULL ? UINT32_MAX : (uint32_t)len);
	put(recorder, text, len);
}

/* ---- parts of inputs ---- */

static void put_msg(struct kvfi_recorder *recorder, const struct kvfi_msg *msg)
{
	size_t bound = kvfi_msg_bound(msg), len = 0;
	unsigned char *bytes = malloc(bound);

	if (bytes == NULL || kvfi_msg_encode(msg, bytes, bound, &len) != KVF_OK)
		recorder->failed = true; /* without it nothing that follows makes sense */
	put_u32(recorder, (uint32_t)len);
	put(recorder, bytes, len);
	free(bytes);
}

/* As a HELLO carries them. */
static void put_side(
	struct kvfi_recorder *recorder, const struct kvf_instance *instance, const struct kvf_layout *layout)
{
	struct kvfi_msg *msg = calloc(1, sizeof(*msg));
	struct kvf_instance *lent = NULL;

	if (msg == NULL || layout == NULL) {
		recorder->failed = true;
		free(msg);
		return;
	}
	memcpy(&lent, &instance, sizeof(lent)); /* encoding only reads */
	msg->header.type = KVFI_MSG_HELLO;
	msg->header.from = msg->header.link = 1;
	msg->header.instance_id = instance->id;
	msg->u.hello.version = KVFI_WIRE_VERSION;
	msg->u.hello.instance = lent;
	memcpy(&msg->u.hello.layout, &layout, sizeof(layout));
	put_msg(recorder, msg);
	free(msg);
}

static void put_lists(struct kvfi_recorder *recorder, const struct kvfi_ids *lists)
{
	for (uint32_t g = 0; g < KVF_MAX_GROUPS; g++) {
		if (lists[g].n == 0)
			continue;
		put_u32(recorder, g);
		put_u32(recorder, lists[g].n);
		for (uint32_t i = 0; i < lists[g].n; i++)
			put_u32(recorder, (uint32_t)lists[g].ids[i]);
	}
	put_u32(recorder, KVFI_NONE);
}

static void put_peer_up(struct kvfi_recorder *recorder, const struct kvfi_peer_up *up)
{
	put_side(recorder, up->instance, up->layout);
	put_u32(recorder, up->rank);
	put_u8(recorder, up->receiver_applied);
	put_u64(recorder, up->digests[0]);
	put_u64(recorder, up->digests[1]);
	put_u32(recorder, up->n_dps);
	for (uint32_t dp = 0; dp < up->n_dps; dp++) {
		put_u32(recorder, up->by_dp[dp].n);
		for (uint32_t i = 0; i < up->by_dp[dp].n; i++) {
			put_u32(recorder, up->by_dp[dp].pairs[i].src);
			put_u32(recorder, up->by_dp[dp].pairs[i].dst);
			put_u8(recorder, up->by_dp[dp].pairs[i].kv);
			put_u8(recorder, up->by_dp[dp].pairs[i].aux);
		}
	}
}

static void put_slice(struct kvfi_recorder *recorder, const struct kvfi_tx_slice *slice)
{
	put_u64(recorder, slice->shape.prompt_len);
	put_u64(recorder, slice->shape.token_start);
	put_u64(recorder, slice->shape.token_end);
	put_u32(recorder, slice->shape.layer_start);
	put_u32(recorder, slice->shape.layer_end);
	put_u8(recorder, slice->shape.first);
	put_u8(recorder, slice->shape.last);
	put_u32(recorder, slice->number);
	put_u8(recorder, slice->last);
	put_lists(recorder, slice->lists);
}

static void put_rx_open(struct kvfi_recorder *recorder, const struct kvfi_in_rx_open *open)
{
	put_u64(recorder, open->instance_id);
	put_u64(recorder, open->request_id);
	put_u32(recorder, open->attempt);
	put_u32(recorder, open->dp_index);
	put_u64(recorder, open->prompt_len);
	put_u32(recorder, open->aux_slot);
	put_u32(recorder, (uint32_t)open->replica);
	put_lists(recorder, open->lists);
}

static void put_done(struct kvfi_recorder *recorder, const struct kvfi_in_done *done)
{
	put_u32(recorder, done->id);
	put_u64(recorder, done->epoch);
	put_status(recorder, done->status);
	put_u32(recorder, done->slice);
	put_u64(recorder, done->bytes);
	put_u64(recorder, done->runs);
	put_u64(recorder, done->sum);
	put_u64(recorder, done->first_ns);
	put_u64(recorder, done->last_ns);
	put_u64(recorder, done->ranges_hash);
	put_text(recorder, done->reason);
}

static void put_peer_down(struct kvfi_recorder *recorder, const struct kvfi_in_peer_down *down)
{
	put_status(recorder, down->status);
	put_u64(recorder, down->instance_id);
	put_u32(recorder, down->rank);
	put_u8(recorder, down->again);
	put_text(recorder, down->reason);
}

/* What only some inputs have. */
static void put_payload(struct kvfi_recorder *recorder, const struct kvfi_input *input)
{
	switch (input->kind) {
	case KVFI_IN_TICK:
	case KVFI_IN_SESSION_CLOSE:
		return;
	case KVFI_IN_SELF:
		put_side(recorder, input->u.self.instance, input->u.self.layout);
		put_u32(recorder, input->u.self.rank);
		return;
	case KVFI_IN_TX_OPEN:
		put_u64(recorder, input->u.tx_open.request_id);
		put_u32(recorder, input->u.tx_open.attempt);
		put_u64(recorder, input->u.tx_open.prompt_len);
		put_u64(recorder, input->u.tx_open.expires_ns);
		return;
	case KVFI_IN_TX_SEND:
		put_slice(recorder, input->u.slice);
		return;
	case KVFI_IN_TX_AUX:
		put_u32(recorder, input->u.aux.len_bytes);
		put(recorder, input->u.aux.data, input->u.aux.len_bytes);
		return;
	case KVFI_IN_RX_OPEN:
		put_rx_open(recorder, &input->u.rx_open);
		return;
	case KVFI_IN_PEER_UP:
		put_peer_up(recorder, &input->u.peer_up);
		return;
	case KVFI_IN_PEER_DOWN:
		put_peer_down(recorder, &input->u.peer_down);
		return;
	case KVFI_IN_MESSAGE:
		put_msg(recorder, input->u.msg);
		return;
	case KVFI_IN_TX_DONE:
	case KVFI_IN_RX_DONE:
		put_done(recorder, &input->u.done);
		return;
	case KVFI_IN_SUMMED:
		put_u32(recorder, input->u.summed.link);
		put_u64(recorder, input->u.summed.sum);
		return;
	case KVFI_IN_PROOF:
		put_u32(recorder, input->u.proof.link);
		put_u32(recorder, (uint32_t)input->u.proof.proof);
		return;
	case KVFI_IN_END_ALL:
		put_status(recorder, input->u.end_status);
		return;
	case KVFI_IN_CANCEL:
		put_status(recorder, input->u.cancel.status);
		put_text(recorder, input->u.cancel.reason);
		return;
	case KVFI_IN_HOLD:
		put_u64(recorder, input->u.hold.instance_id);
		put_u64(recorder, input->u.hold.request_id);
		put_u32(recorder, input->u.hold.attempt);
		put_u32(recorder, input->u.hold.dp_index);
		put_u64(recorder, input->u.hold.expires_ns);
		return;
	}
}

/* ---- calls ---- */

static void on_call(void *self, struct kvfi_call *call)
{
	struct kvfi_recorder *recorder = self;
	uint32_t n = kvfi_call_returns(call->kind);

	if (recorder->failed)
		return;
	recorder->n_calls++;
	put_u8(recorder, KVFI_RECORD_TAG_CALL);
	put_u8(recorder, (uint8_t)call->kind);
	put_u64(recorder, call->hash);
	for (uint32_t i = 0; i < n; i++)
		put_u64(recorder, call->returns[i]);
	if (call->kind == KVFI_CALL_POST || call->kind == KVFI_CALL_GRANT)
		put_text(recorder, call->error);
}

void kvfi_recorder_step(struct kvfi_recorder *recorder, struct kvfi_core *core,
	const struct kvfi_input *input, uint64_t now_ns)
{
	if (!recorder->failed) {
		recorder->n_calls = 0;
		put_u8(recorder, KVFI_RECORD_TAG_INPUT);
		put_u8(recorder, (uint8_t)input->kind);
		put_u64(recorder, now_ns);
		put_u32(recorder, input->session);
		put_u32(recorder, input->peer);
		put_payload(recorder, input);
	}
	kvfi_core_step(core, input, now_ns);
	if (recorder->failed)
		return;
	put_u8(recorder, KVFI_RECORD_TAG_END);
	put_u32(recorder, recorder->n_calls);
	if (input->kind == KVFI_IN_TICK)
		write_out(recorder);
}

/* ---- open and close ---- */

static void put_head(
	struct kvfi_recorder *recorder, const struct kvfi_core_config *config, uint64_t incarnation)
{
	char library[KVFI_RECORD_LIBRARY_BYTES] = KVF_VERSION;

	put(recorder, KVFI_RECORD_MAGIC, KVFI_RECORD_MAGIC_BYTES);
	put_u32(recorder, KVFI_RECORD_VERSION);
	put(recorder, library, sizeof(library));
	put_u64(recorder, incarnation);
	put_u32(recorder, config->max_peers);
	put_u32(recorder, config->max_sessions);
	put_u32(recorder, config->max_links);
	put_u32(recorder, config->max_deliveries);
	put_u64(recorder, config->max_block_ids);
	put_u32(recorder, (uint32_t)config->verify);
	put_u64(recorder, config->connect_timeout_ns);
	put_u64(recorder, config->queue_timeout_ns);
	put_u64(recorder, config->transfer_timeout_ns);
	put_u64(recorder, config->stall_timeout_ns);
	put_u64(recorder, config->quiet_timeout_ns);
	put_u64(recorder, config->progress_timeout_ns);
	put_u32(recorder, config->stuck_budget);
}

enum kvf_status kvfi_recorder_open(const char *path, const struct kvfi_core_config *config,
	uint64_t incarnation, const struct kvfi_sink *real, struct kvfi_recorder **recorder_out)
{
	struct kvfi_recorder *recorder;

#ifndef KVFI_WITH_ZMQ
	return kvfi_fail(
		KVF_EUNSUPPORTED, "options: record: this build has no msgpack, and a record needs it");
#endif
	recorder = calloc(1, sizeof(*recorder));
	if (recorder == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for a recorder");
	recorder->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (recorder->fd < 0) {
		free(recorder);
		return kvfi_fail_errno(KVF_EINVAL, errno, "options: record: %s", path);
	}
	recorder->real = *real;
	recorder->tap = (struct kvfi_tap){.real = &recorder->real, .self = recorder, .told = on_call};
	put_head(recorder, config, incarnation);
	write_out(recorder);
	*recorder_out = recorder;
	return KVF_OK;
}

void kvfi_recorder_sink(struct kvfi_recorder *recorder, struct kvfi_sink *sink_out)
{
	kvfi_tap_sink(&recorder->tap, sink_out);
}

void kvfi_recorder_close(struct kvfi_recorder *recorder)
{
	if (recorder == NULL)
		return;
	write_out(recorder);
	(void)close(recorder->fd);
	free(recorder);
}
