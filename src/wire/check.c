/* check.c - the limits of every message, the same for what we send and for what we are sent.
 *
 * A message that passes here can be encoded, and nothing in it can make a table index, an allocation or an enum switch go
 * wrong further up. Whether maps and layouts make sense as a whole is geometry's to judge. Pure; any thread.
 */
#include <inttypes.h>
#include <string.h>
#include "base/status.h"
#include "wire/frame.h"

/* One message being checked: its name and the status to fail with. */
struct check {
	const char *name;
	enum kvf_status wrong;
};

static enum kvf_status check_most(
	const struct check *check, const char *field, uint64_t value, uint64_t least, uint64_t most)
{
	if (value >= least && value <= most)
		return KVF_OK;
	return kvfi_fail(check->wrong, "%s: %s: %" PRIu64 ", must be %" PRIu64 " to %" PRIu64, check->name,
		field, value, least, most);
}

static enum kvf_status check_text(
	const struct check *check, const char *field, const char *text, size_t max_bytes)
{
	if (strnlen(text, max_bytes) < max_bytes)
		return KVF_OK;
	return kvfi_fail(check->wrong, "%s: %s: longer than %zu bytes", check->name, field, max_bytes - 1);
}

static enum kvf_status check_status(const struct check *check, enum kvf_status status)
{
	if (strcmp(kvf_status_name(status), "UNKNOWN") != 0)
		return KVF_OK;
	return kvfi_fail(check->wrong, "%s: status: %d is none", check->name, (int)status);
}

static enum kvf_status check_dp(const struct check *check, const char *field, uint32_t dp)
{
	return dp == KVF_DP_UNKNOWN ? KVF_OK : check_most(check, field, dp, 0, KVF_MAX_RANKS - 1);
}

#define TRY(call)                                                                                            \
	do {                                                                                                 \
		const enum kvf_status tried = (call);                                                        \
		if (tried != KVF_OK)                                                                         \
			return tried;                                                                        \
	} while (0)

static enum kvf_status check_layers(
	const struct check *check, const char *field, const uint32_t *layers, uint32_t n_layers)
{
	TRY(check_most(check, field, n_layers, 0, KVF_MAX_LAYERS));
	for (uint32_t i = 0; i < n_layers; i++)
		TRY(check_most(check, field, layers[i], 0, KVF_MAX_LAYERS - 1));
	return KVF_OK;
}

static enum kvf_status check_rank(const struct check *check, const struct kvf_rank *rank, uint32_t n_groups)
{
	TRY(check_most(check, "tp", rank->tp, 0, KVF_MAX_RANKS - 1));
	TRY(check_most(check, "pp", rank->pp, 0, KVF_MAX_RANKS - 1));
	TRY(check_most(check, "cp", rank->cp, 0, KVF_MAX_RANKS - 1));
	TRY(check_text(check, "endpoint", rank->endpoint, KVFI_MAX_NAME_BYTES));
	for (uint32_t g = 0; g < n_groups; g++)
		TRY(check_layers(check, "layers", rank->groups[g].layers, rank->groups[g].n_layers));
	return KVF_OK;
}

static enum kvf_status check_instance(const struct check *check, const struct kvf_instance *instance)
{
	TRY(check_most(check, "instance: role", instance->role, KVF_PREFILL, KVF_DECODE));
	TRY(check_most(check, "instance: tp", instance->tp, 1, KVF_MAX_RANKS));
	TRY(check_most(check, "instance: pp", instance->pp, 1, KVF_MAX_RANKS));
	TRY(check_most(check, "instance: cp", instance->cp, 1, KVF_MAX_RANKS));
	TRY(check_most(check, "instance: dp", instance->dp, 1, KVF_MAX_RANKS));
	TRY(check_most(check, "instance: groups", instance->n_groups, 1, KVF_MAX_GROUPS));
	TRY(check_most(check, "instance: ranks", instance->n_ranks, 1, KVF_MAX_RANKS));
	for (uint32_t r = 0; r < instance->n_ranks; r++) {
		if (check_rank(check, &instance->ranks[r], instance->n_groups) != KVF_OK)
			return kvfi_fail_prefix(check->wrong, "instance: rank %u", r);
	}
	return KVF_OK;
}

static enum kvf_status check_group(const struct check *check, const struct kvf_group *group)
{
	TRY(check_most(check, "kind", group->kind, KVF_PAGED, KVF_REPLICATED));
	TRY(check_most(check, "dtype", group->dtype, KVF_FP32, KVF_INT4));
	TRY(check_most(check, "tpb", group->tokens_per_block, 1, UINT32_MAX));
	TRY(check_most(check, "blocks", group->blocks, 0, KVFI_MAX_BLOCKS));
	TRY(check_most(check, "parts", group->n_parts, 1, KVF_MAX_PARTS));
	return check_layers(check, "layers", group->layers, group->n_layers);
}

static enum kvf_status check_layout(const struct check *check, const struct kvf_layout *layout)
{
	TRY(check_text(check, "layout: model", layout->model, KVFI_MAX_NAME_BYTES));
	TRY(check_text(check, "layout: revision", layout->revision, KVFI_MAX_NAME_BYTES));
	TRY(check_most(check, "layout: rank", layout->rank, 0, KVF_MAX_RANKS - 1));
	TRY(check_most(check, "layout: groups", layout->n_groups, 1, KVF_MAX_GROUPS));
	TRY(check_most(check, "layout: aux slots", layout->n_aux, 0, KVFI_MAX_AUX));
	for (uint32_t i = 0; i < layout->n_aux; i++)
		TRY(check_most(check, "layout: aux", layout->aux_bytes[i], 0, KVF_MAX_AUX_BYTES));
	for (uint32_t g = 0; g < layout->n_groups; g++) {
		if (check_group(check, &layout->groups[g]) != KVF_OK)
			return kvfi_fail_prefix(check->wrong, "layout: group %u", g);
	}
	return KVF_OK;
}

static enum kvf_status check_hello(const struct check *check, const struct kvfi_msg_hello *hello)
{
	TRY(check_text(check, "name", hello->name, sizeof(hello->name)));
	TRY(check_most(check, "transports", hello->n_transports, 0, KVFI_MAX_TRANSPORTS));
	for (uint32_t i = 0; i < hello->n_transports; i++) {
		const struct kvfi_transport_address *transport = &hello->transports[i];

		TRY(check_text(check, "transport name", transport->name, sizeof(transport->name)));
		TRY(check_most(
			check, "transport address", transport->len_bytes, 0, sizeof(transport->bytes)));
	}
	if (hello->instance == NULL || hello->layout == NULL)
		return kvfi_fail(check->wrong, "%s: %s: none", check->name,
			hello->instance == NULL ? "instance" : "layout");
	TRY(check_instance(check, hello->instance));
	return check_layout(check, hello->layout);
}

static enum kvf_status check_refuse(const struct check *check, const struct kvfi_msg_refuse *refuse)
{
	TRY(check_status(check, refuse->status));
	TRY(check_text(check, "field", refuse->refusal.field, sizeof(refuse->refusal.field)));
	TRY(check_text(check, "prefill", refuse->refusal.prefill, sizeof(refuse->refusal.prefill)));
	TRY(check_text(check, "decode", refuse->refusal.decode, sizeof(refuse->refusal.decode)));
	return check_text(check, "reason", refuse->reason, sizeof(refuse->reason));
}

/* Ids of a run are start, start+1, ...; of a negative one all are "no page". */
static enum kvf_status check_runs(const struct check *check, const struct kvfi_request_group *group)
{
	uint64_t n_ids = 0;

	for (uint32_t i = 0; i < group->n_runs; i++) {
		const struct kvfi_id_run *run = &group->runs[i];

		n_ids += run->count;
		TRY(check_most(check, "run count", run->count, 1, KVFI_MAX_BLOCKS));
		if (run->start >= 0)
			TRY(check_most(
				check, "run end", (uint64_t)run->start + run->count, 1, KVFI_MAX_BLOCKS));
	}
	if (n_ids != group->n_ids)
		return kvfi_fail(check->wrong, "%s: group %u: ids: %u, its runs have %" PRIu64, check->name,
			group->group, group->n_ids, n_ids);
	return KVF_OK;
}

static enum kvf_status check_request(const struct check *check, const struct kvfi_msg_request *request)
{
	uint32_t seen = 0;

	TRY(check_most(check, "prompt", request->prompt_len, 0, KVF_MAX_TOKENS));
	TRY(check_dp(check, "dp", request->dp_index));
	TRY(check_most(check, "dp_rank", request->dp_rank, 0, KVF_MAX_RANKS - 1));
	TRY(check_most(check, "replica", request->replica, KVF_REPLICA_ELECT, KVF_REPLICA_STRIPE));
	TRY(check_most(check, "aux_bytes", request->aux_bytes, 0, KVF_MAX_AUX_BYTES));
	TRY(check_most(check, "verify", request->verify, KVF_VERIFY_NONE, KVF_VERIFY_SUM));
	TRY(check_most(check, "groups", request->n_groups, 0, KVF_MAX_GROUPS));
	for (uint32_t i = 0; i < request->n_groups; i++) {
		const struct kvfi_request_group *group = &request->groups[i];

		TRY(check_most(check, "group", group->group, 0, KVF_MAX_GROUPS - 1));
		TRY(check_most(check, "tpb", group->tokens_per_block, 1, UINT32_MAX));
		if (seen & (1u << group->group))
			return kvfi_fail(
				check->wrong, "%s: group: %u is named twice", check->name, group->group);
		seen |= 1u << group->group;
		TRY(check_runs(check, group));
	}
	return KVF_OK;
}

static enum kvf_status check_range(const struct check *check, const struct kvfi_range *range)
{
	TRY(check_most(check, "range group", range->group, 0, KVF_MAX_GROUPS - 1));
	TRY(check_most(check, "range first", range->token_first, 0, KVF_MAX_TOKENS - 1));
	return check_most(check, "range end", range->token_end, range->token_first + 1, KVF_MAX_TOKENS);
}

static enum kvf_status check_result(const struct check *check, const struct kvfi_msg_result *result)
{
	TRY(check_most(check, "kind", result->kind, KVFI_RESULT_KV, KVFI_RESULT_AUX));
	TRY(check_most(check, "last", result->last, 0, 1));
	TRY(check_status(check, result->status));
	TRY(check_most(check, "layer_start", result->layer_start, 0, KVF_MAX_LAYERS));
	TRY(check_most(check, "layer_end", result->layer_end, result->layer_start, KVF_MAX_LAYERS));
	TRY(check_most(check, "ranges", result->n_ranges, 0, KVFI_MAX_RANGES));
	for (uint32_t i = 0; i < result->n_ranges; i++)
		TRY(check_range(check, &result->ranges[i]));
	TRY(check_most(check, "aux_bytes", result->aux_bytes, 0, KVF_MAX_AUX_BYTES));
	return check_text(check, "reason", result->reason, sizeof(result->reason));
}

static enum kvf_status check_ack(const struct check *check, const struct kvfi_msg_ack *ack)
{
	TRY(check_most(check, "kind", ack->kind, KVFI_RESULT_KV, KVFI_RESULT_AUX));
	TRY(check_most(check, "verdict", ack->verdict, KVFI_VERDICT_APPLIED, KVFI_VERDICT_UNKNOWN));
	return check_status(check, ack->status);
}

static enum kvf_status check_group_word(const struct check *check, const struct kvfi_msg_group *group)
{
	TRY(check_most(check, "members", group->members, 1, KVF_GROUP_MAX_RANKS));
	TRY(check_most(check, "rank", group->rank, 0, group->members - 1));
	TRY(check_most(check, "flags", group->flags, 0, KVFI_GROUP_WANTED | KVFI_GROUP_LEAVING));
	return check_most(check, "len_bytes", group->len_bytes, 0, KVF_GROUP_MAX_BYTES);
}

enum kvf_status kvfi_msg_check(const struct kvfi_msg *msg, enum kvf_status wrong)
{
	const struct check check = {kvfi_msg_name(msg->header.type), wrong};

	switch (msg->header.type) {
	case KVFI_MSG_HELLO:
	case KVFI_MSG_HELLO_OK:
		return check_hello(&check, &msg->u.hello);
	case KVFI_MSG_REFUSE:
		return check_refuse(&check, &msg->u.refuse);
	case KVFI_MSG_REQUEST:
		return check_request(&check, &msg->u.request);
	case KVFI_MSG_REQUEST_OK:
	case KVFI_MSG_HOLD_OK:
		return check_most(&check, "known", msg->u.request_ok.known, 0, 1);
	case KVFI_MSG_CLAIM:
		return check_most(&check, "dp", msg->u.claim.dp_index, 0, KVF_MAX_RANKS - 1);
	case KVFI_MSG_GO:
		return check_most(&check, "dp", msg->u.go.dp_index, 0, KVF_MAX_RANKS - 1);
	case KVFI_MSG_RESULT:
		return check_result(&check, &msg->u.result);
	case KVFI_MSG_ACK:
		return check_ack(&check, &msg->u.ack);
	case KVFI_MSG_CANCEL:
		TRY(check_status(&check, msg->u.cancel.status));
		return check_text(&check, "reason", msg->u.cancel.reason, sizeof(msg->u.cancel.reason));
	case KVFI_MSG_GROUP:
		return check_group_word(&check, &msg->u.group);
	case KVFI_MSG_QUIET:
	case KVFI_MSG_PING:
	case KVFI_MSG_PONG:
	case KVFI_MSG_BYE:
	case KVFI_MSG_HOLD:
		return KVF_OK;
	}
	return kvfi_fail(wrong, "message: type: %u is none", (unsigned)msg->header.type);
}
