/* record_read.c - a record, read back: inputs whose pointers live as long as a core may use them.
 *
 * The file is mapped and never trusted further than its own bytes go: every count is held against what is left, every index against the
 * configuration. What a session's inputs point to is freed when the session was closed, a message after its step, peers at the end.
 */
#include "session/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/status.h"
#include "session/record_format.h"
#include "wire/bytes.h"
#include "wire/codec.h"

/* One allocation that lives for a while. */
struct keep {
	struct keep *next;
	void *memory;
};

struct side {
	struct side *next;
	struct kvf_instance *instance;
	struct kvf_layout *layout;
	kvf_plan *plans[2];
};

struct kvfi_player {
	struct kvfi_core_config config;
	void *mapped;
	size_t mapped_bytes;
	struct kvfi_reader reader;
	bool in_step, failed;
	struct keep **sessions, *always, *step;
	uint32_t closed; /* slot whose session the last step has closed */
	struct side *sides;
	const struct side *self;
	struct kvfi_msg *msg; /* of the last input; NULL: it had none */
};

/* ---- memory ---- */

static void drop(struct keep **chain)
{
	while (*chain != NULL) {
		struct keep *keep = *chain;

		*chain = keep->next;
		free(keep->memory);
		free(keep);
	}
}

static void *take(struct kvfi_player *player, struct keep **chain, size_t n, size_t each_bytes)
{
	struct keep *keep = malloc(sizeof(*keep));

	if (keep == NULL || (keep->memory = calloc(n > 0 ? n : 1, each_bytes)) == NULL) {
		free(keep);
		player->failed = true;
		return NULL;
	}
	keep->next = *chain;
	*chain = keep;
	return keep->memory;
}

static void drop_msg(struct kvfi_player *player)
{
	if (player->msg != NULL)
		kvfi_msg_fini(player->msg);
	free(player->msg);
	player->msg = NULL;
}

/* ---- bytes ---- */

static uint8_t get_u8(struct kvfi_player *player)
{
	return (uint8_t)kvfi_get_le(&player->reader, 1);
}

static uint32_t get_u32(struct kvfi_player *player)
{
	return kvfi_get_u32(&player->reader);
}

static uint64_t get_u64(struct kvfi_player *player)
{
	return kvfi_get_u64(&player->reader);
}

static enum kvf_status get_status(struct kvfi_player *player)
{
	return (enum kvf_status)(int32_t)get_u32(player);
}

/* An index into a table of max entries. */
static uint32_t get_index(struct kvfi_player *player, uint32_t max)
{
	uint32_t index = get_u32(player);

	player->failed = player->failed || index >= max;
	return index;
}

static const char *get_text(struct kvfi_player *player, struct keep **chain)
{
	uint32_t len = get_u32(player);
	const unsigned char *at;
	char *text;

	if (len == UINT32_MAX)
		return NULL;
	at = kvfi_get_span(&player->reader, len);
	text = at == NULL ? NULL : take(player, chain, (size_t)len + 1, 1);
	if (text == NULL)
		return "";
	memcpy(text, at, len);
	return text;
}

static struct kvfi_msg *get_msg(struct kvfi_player *player)
{
	uint32_t len = get_u32(player);
	const unsigned char *at = kvfi_get_span(&player->reader, len);
	struct kvfi_msg *msg = at == NULL ? NULL : malloc(sizeof(*msg));

	if (msg == NULL || kvfi_msg_decode(at, len, msg) != KVF_OK) {
		free(msg);
		player->failed = true;
		return NULL;
	}
	return msg;
}

static struct side *get_side(struct kvfi_player *player)
{
	struct kvfi_msg *msg = get_msg(player);
	struct side *side = NULL;

	if (msg != NULL && msg->header.type == KVFI_MSG_HELLO)
		side = calloc(1, sizeof(*side));
	if (side != NULL) {
		side->instance = msg->u.hello.instance;
		side->layout = msg->u.hello.layout;
		msg->u.hello.instance = NULL;
		msg->u.hello.layout = NULL;
		side->next = player->sides;
		player->sides = side;
	}
	player->failed = player->failed || side == NULL;
	if (msg != NULL)
		kvfi_msg_fini(msg);
	free(msg);
	return side;
}

static void get_lists(struct kvfi_player *player, struct keep **chain, struct kvfi_ids *lists)
{
	for (uint32_t g = get_u32(player); g != KVFI_NONE && !player->reader.failed; g = get_u32(player)) {
		uint32_t n = get_u32(player);
		int32_t *ids;

		if (g >= KVF_MAX_GROUPS || n > kvfi_reader_left(&player->reader) / 4) {
			player->reader.failed = true; /* it names more than there is */
			return;
		}
		ids = take(player, chain, n, sizeof(int32_t));
		if (ids == NULL)
			return;
		for (uint32_t i = 0; i < n; i++)
			ids[i] = (int32_t)get_u32(player);
		lists[g] = (struct kvfi_ids){ids, n};
	}
}

/* ---- inputs ---- */

static void get_self(struct kvfi_player *player, struct kvfi_in_self *self)
{
	struct side *side = get_side(player);

	self->rank = get_u32(player);
	if (side == NULL)
		return;
	player->self = side;
	self->instance = side->instance;
	self->layout = side->layout;
	player->failed = player->failed || self->rank >= side->instance->n_ranks;
}

static void make_plans(struct kvfi_player *player, struct side *peer)
{
	const struct side *own = player->self;
	bool decode = own->instance->role == KVF_DECODE;
	const struct side *src = decode ? peer : own, *dst = decode ? own : peer;

	for (int replica = KVF_REPLICA_ELECT; replica <= KVF_REPLICA_STRIPE; replica++)
		if (kvf_plan_new(src->instance, src->layout, dst->instance, dst->layout,
			    (enum kvf_replica)replica, &peer->plans[replica]) != KVF_OK)
			player->failed = true;
}

static void get_pairs(struct kvfi_player *player, struct kvfi_pair_list *list)
{
	struct kvf_pair *pairs;

	list->n = get_u32(player);
	if (list->n > kvfi_reader_left(&player->reader) / 10) {
		player->reader.failed = true; /* it names more than there is */
		return;
	}
	pairs = take(player, &player->always, list->n, sizeof(*pairs));
	if (pairs == NULL)
		return;
	for (uint32_t i = 0; i < list->n; i++) {
		pairs[i].src = get_u32(player);
		pairs[i].dst = get_u32(player);
		pairs[i].kv = get_u8(player);
		pairs[i].aux = get_u8(player);
	}
	list->pairs = pairs;
}

static void get_peer_up(struct kvfi_player *player, struct kvfi_peer_up *up)
{
	struct side *side = get_side(player);
	struct kvfi_pair_list *by_dp;

	if (side == NULL || player->self == NULL) {
		player->failed = true;
		return;
	}
	make_plans(player, side);
	up->instance = side->instance;
	up->layout = side->layout;
	up->plans[0] = side->plans[0];
	up->plans[1] = side->plans[1];
	up->rank = get_u32(player);
	up->receiver_applied = get_u8(player) != 0;
	up->digests[0] = get_u64(player);
	up->digests[1] = get_u64(player);
	up->n_dps = get_u32(player);
	if (up->n_dps > kvfi_reader_left(&player->reader) / 4) {
		player->reader.failed = true; /* it names more than there is */
		return;
	}
	by_dp = take(player, &player->always, up->n_dps, sizeof(*by_dp));
	for (uint32_t dp = 0; dp < up->n_dps && by_dp != NULL && !player->failed; dp++)
		get_pairs(player, &by_dp[dp]);
	up->by_dp = by_dp;
}

static struct kvfi_tx_slice *get_slice(struct kvfi_player *player, struct keep **chain)
{
	struct kvfi_tx_slice *slice = take(player, chain, 1, sizeof(*slice));

	if (slice == NULL)
		return NULL;
	slice->shape.prompt_len = get_u64(player);
	slice->shape.token_start = get_u64(player);
	slice->shape.token_end = get_u64(player);
	slice->shape.layer_start = get_u32(player);
	slice->shape.layer_end = get_u32(player);
	slice->shape.first = get_u8(player) != 0;
	slice->shape.last = get_u8(player) != 0;
	slice->number = get_u32(player);
	slice->last = get_u8(player) != 0;
	get_lists(player, chain, slice->lists);
	return slice;
}

static void get_aux(struct kvfi_player *player, struct keep **chain, struct kvfi_in_aux *aux)
{
	const unsigned char *at;
	unsigned char *copy;

	aux->len_bytes = get_u32(player);
	at = kvfi_get_span(&player->reader, aux->len_bytes);
	copy = at == NULL ? NULL : take(player, chain, aux->len_bytes, 1);
	if (copy != NULL)
		memcpy(copy, at, aux->len_bytes);
	aux->data = copy;
}

static void get_rx_open(struct kvfi_player *player, struct keep **chain, struct kvfi_in_rx_open *open)
{
	open->instance_id = get_u64(player);
	open->request_id = get_u64(player);
	open->attempt = get_u32(player);
	open->dp_index = get_u32(player);
	open->prompt_len = get_u64(player);
	open->aux_slot = get_u32(player);
	open->replica = (enum kvf_replica)get_index(player, KVF_REPLICA_STRIPE + 1);
	get_lists(player, chain, open->lists);
}

static void get_done(struct kvfi_player *player, struct kvfi_in_done *done, uint32_t max)
{
	done->id = get_index(player, max);
	done->epoch = get_u64(player);
	done->status = get_status(player);
	done->slice = get_u32(player);
	done->bytes = get_u64(player);
	done->runs = get_u64(player);
	done->sum = get_u64(player);
	done->first_ns = get_u64(player);
	done->last_ns = get_u64(player);
	done->ranges_hash = get_u64(player);
	done->reason = get_text(player, &player->step);
}

static void get_peer_down(struct kvfi_player *player, struct kvfi_in_peer_down *down)
{
	down->status = get_status(player);
	down->instance_id = get_u64(player);
	down->rank = get_u32(player);
	down->again = get_u8(player) != 0;
	down->reason = get_text(player, &player->step);
}

static void get_hold(struct kvfi_player *player, struct kvfi_in_hold *hold)
{
	hold->instance_id = get_u64(player);
	hold->request_id = get_u64(player);
	hold->attempt = get_u32(player);
	hold->dp_index = get_u32(player);
	hold->expires_ns = get_u64(player);
}

static void get_payload(struct kvfi_player *player, struct kvfi_input *input, struct keep **chain)
{
	switch (input->kind) {
	case KVFI_IN_TICK:
		return;
	case KVFI_IN_SESSION_CLOSE:
		player->closed = input->session;
		return;
	case KVFI_IN_SELF:
		get_self(player, &input->u.self);
		return;
	case KVFI_IN_TX_OPEN:
		input->u.tx_open.request_id = get_u64(player);
		input->u.tx_open.attempt = get_u32(player);
		input->u.tx_open.prompt_len = get_u64(player);
		input->u.tx_open.expires_ns = get_u64(player);
		return;
	case KVFI_IN_TX_SEND:
		input->u.slice = get_slice(player, chain);
		return;
	case KVFI_IN_TX_AUX:
		get_aux(player, chain, &input->u.aux);
		return;
	case KVFI_IN_RX_OPEN:
		get_rx_open(player, chain, &input->u.rx_open);
		return;
	case KVFI_IN_PEER_UP:
		get_peer_up(player, &input->u.peer_up);
		return;
	case KVFI_IN_PEER_DOWN:
		get_peer_down(player, &input->u.peer_down);
		return;
	case KVFI_IN_MESSAGE:
		input->u.msg = player->msg = get_msg(player);
		return;
	case KVFI_IN_TX_DONE:
		get_done(player, &input->u.done, player->config.max_deliveries);
		return;
	case KVFI_IN_RX_DONE:
		get_done(player, &input->u.done, player->config.max_links);
		return;
	case KVFI_IN_SUMMED:
		input->u.summed.link = get_index(player, player->config.max_links);
		input->u.summed.sum = get_u64(player);
		return;
	case KVFI_IN_PROOF:
		input->u.proof.link = get_index(player, player->config.max_links);
		input->u.proof.proof = (enum kvf_proof)get_u32(player);
		return;
	case KVFI_IN_END_ALL:
		input->u.end_status = get_status(player);
		return;
	case KVFI_IN_CANCEL:
		input->u.cancel.status = get_status(player);
		input->u.cancel.reason = get_text(player, &player->step);
		return;
	case KVFI_IN_HOLD:
		get_hold(player, &input->u.hold);
		return;
	default:
		player->failed = true;
	}
}

/* ---- what comes next ---- */

static enum kvfi_record_next ended(struct kvfi_player *player)
{
	if (player->reader.failed)
		return KVFI_RECORD_CUT;
	(void)kvfi_fail(KVF_EINVAL, "the record makes no sense before byte %zu", player->reader.used_bytes);
	return KVFI_RECORD_BAD;
}

static enum kvfi_record_next next_input(
	struct kvfi_player *player, struct kvfi_input *input, uint64_t *now_ns_out)
{
	drop(&player->step);
	drop_msg(player);
	if (player->closed != KVFI_NONE)
		drop(&player->sessions[player->closed]);
	player->closed = KVFI_NONE;
	memset(input, 0, sizeof(*input));
	input->kind = (enum kvfi_input_kind)get_u8(player);
	*now_ns_out = get_u64(player);
	input->session = get_index(player, player->config.max_sessions);
	input->peer = get_index(player, player->config.max_peers);
	if (!player->failed && !player->reader.failed)
		get_payload(player, input, &player->sessions[input->session]);
	if (player->failed || player->reader.failed)
		return ended(player);
	player->in_step = true;
	return KVFI_RECORD_INPUT;
}

static enum kvfi_record_next next_call(struct kvfi_player *player, struct kvfi_call *call)
{
	const char *error = NULL;

	memset(call, 0, sizeof(*call));
	call->kind = (enum kvfi_call_kind)get_u8(player);
	call->hash = get_u64(player);
	for (uint32_t i = 0; i < kvfi_call_returns(call->kind); i++)
		call->returns[i] = get_u64(player);
	if (call->kind == KVFI_CALL_POST || call->kind == KVFI_CALL_GRANT)
		error = get_text(player, &player->step);
	call->error = error == NULL ? "" : error;
	return player->failed || player->reader.failed ? ended(player) : KVFI_RECORD_CALL;
}

enum kvfi_record_next kvfi_player_next(struct kvfi_player *player, struct kvfi_input *input_out,
	uint64_t *now_ns_out, struct kvfi_call *call_out)
{
	uint8_t tag;

	if (kvfi_reader_left(&player->reader) == 0)
		return player->in_step ? KVFI_RECORD_CUT : KVFI_RECORD_OVER;
	tag = get_u8(player);
	if (tag == KVFI_RECORD_TAG_INPUT && !player->in_step)
		return next_input(player, input_out, now_ns_out);
	if (tag == KVFI_RECORD_TAG_CALL && player->in_step)
		return next_call(player, call_out);
	if (tag != KVFI_RECORD_TAG_END || !player->in_step)
		return ended(player);
	(void)get_u32(player);
	player->in_step = false;
	return player->reader.failed ? KVFI_RECORD_CUT : KVFI_RECORD_END;
}

/* ---- open and close ---- */

static enum kvf_status get_head(struct kvfi_player *player, const char *path, struct kvfi_record_head *head)
{
	struct kvfi_core_config *config = &head->config;
	const unsigned char *magic = kvfi_get_span(&player->reader, KVFI_RECORD_MAGIC_BYTES);
	const unsigned char *library;
	uint32_t version = get_u32(player);

	if (magic == NULL || memcmp(magic, KVFI_RECORD_MAGIC, KVFI_RECORD_MAGIC_BYTES) != 0)
		return kvfi_fail(KVF_EINVAL, "%s is no record", path);
	if (version != KVFI_RECORD_VERSION)
		return kvfi_fail(KVF_EINVAL, "%s: format %u, this library reads %u", path, version,
			KVFI_RECORD_VERSION);
	library = kvfi_get_span(&player->reader, KVFI_RECORD_LIBRARY_BYTES);
	if (library != NULL)
		memcpy(head->library, library, sizeof(head->library) - 1);
	head->incarnation = get_u64(player);
	config->max_peers = get_u32(player);
	config->max_sessions = get_u32(player);
	config->max_links = get_u32(player);
	config->max_deliveries = get_u32(player);
	config->max_block_ids = get_u64(player);
	config->verify = (enum kvf_verify)get_u32(player);
	config->connect_timeout_ns = get_u64(player);
	config->queue_timeout_ns = get_u64(player);
	config->transfer_timeout_ns = get_u64(player);
	config->stall_timeout_ns = get_u64(player);
	config->quiet_timeout_ns = get_u64(player);
	config->progress_timeout_ns = get_u64(player);
	config->stuck_budget = get_u32(player);
	if (player->reader.failed)
		return kvfi_fail(KVF_EINVAL, "%s ends before its configuration", path);
	/* The limits of kvf_agent_open. */
	if (config->max_peers - 1 >= 65536u || config->max_sessions - 1 >= 1u << 20 ||
		config->max_links - 1 >= 1u << 22 || config->max_deliveries - 1 >= 1u << 25 ||
		config->max_block_ids - 1 >= 1u << 30)
		return kvfi_fail(KVF_EINVAL, "%s: no agent has tables of these sizes", path);
	return KVF_OK;
}

static enum kvf_status map_file(struct kvfi_player *player, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat info;
	enum kvf_status status = KVF_OK;

	if (fd < 0)
		return kvfi_fail_errno(KVF_EINVAL, errno, "%s", path);
	if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size <= 0) {
		status = kvfi_fail(KVF_EINVAL, "%s is no record", path);
	} else {
		player->mapped_bytes = (size_t)info.st_size;
		player->mapped = mmap(NULL, player->mapped_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
		if (player->mapped == MAP_FAILED) {
			player->mapped = NULL;
			status = kvfi_fail_errno(KVF_ENOMEM, errno, "%s", path);
		}
	}
	(void)close(fd);
	player->reader = kvfi_reader_on(player->mapped, player->mapped_bytes);
	return status;
}

enum kvf_status kvfi_player_open(
	const char *path, struct kvfi_record_head *head_out, struct kvfi_player **player_out)
{
	struct kvfi_player *player = calloc(1, sizeof(*player));
	struct kvfi_record_head head = {0};
	enum kvf_status status;

	if (player == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory to read a record");
	player->closed = KVFI_NONE;
	status = map_file(player, path);
	if (status == KVF_OK)
		status = get_head(player, path, &head);
	if (status == KVF_OK) {
		player->config = head.config;
		player->sessions = calloc(head.config.max_sessions, sizeof(struct keep *));
		if (player->sessions == NULL)
			status = kvfi_fail(KVF_ENOMEM, "no memory to read a record");
	}
	if (status != KVF_OK) {
		kvfi_player_close(player);
		return status;
	}
	*head_out = head;
	*player_out = player;
	return KVF_OK;
}

void kvfi_player_close(struct kvfi_player *player)
{
	if (player == NULL)
		return;
	drop_msg(player);
	drop(&player->step);
	drop(&player->always);
	for (uint32_t i = 0; player->sessions != NULL && i < player->config.max_sessions; i++)
		drop(&player->sessions[i]);
	while (player->sides != NULL) {
		struct side *side = player->sides;

		player->sides = side->next;
		kvf_plan_free(side->plans[0]);
		kvf_plan_free(side->plans[1]);
		kvf_layout_free(side->layout);
		kvf_instance_free(side->instance);
		free(side);
	}
	if (player->mapped != NULL)
		(void)munmap(player->mapped, player->mapped_bytes);
	free(player->sessions);
	free(player);
}
