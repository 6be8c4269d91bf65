/* messages.c - names, deep copies and the end of messages, apart from any encoding.
 *
 * A message owns its block (id runs of a REQUEST, aux bytes of a RESULT, bytes of a GROUP) and, in HELLO and HELLO_OK, its instance and
 * layout. A message built by hand may point to memory of its maker: it has no block, and fini is not called on it.
 * Pure; any thread.
 */
#include "wire/messages.h"

#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/hash.h"
#include "base/status.h"
#include "wire/codec.h"

const char *kvfi_msg_name(enum kvfi_msg_type type)
{
	switch (type) {
	case KVFI_MSG_HELLO:
		return "HELLO";
	case KVFI_MSG_HELLO_OK:
		return "HELLO_OK";
	case KVFI_MSG_REFUSE:
		return "REFUSE";
	case KVFI_MSG_REQUEST:
		return "REQUEST";
	case KVFI_MSG_REQUEST_OK:
		return "REQUEST_OK";
	case KVFI_MSG_CLAIM:
		return "CLAIM";
	case KVFI_MSG_GO:
		return "GO";
	case KVFI_MSG_RESULT:
		return "RESULT";
	case KVFI_MSG_ACK:
		return "ACK";
	case KVFI_MSG_CANCEL:
		return "CANCEL";
	case KVFI_MSG_QUIET:
		return "QUIET";
	case KVFI_MSG_PING:
		return "PING";
	case KVFI_MSG_PONG:
		return "PONG";
	case KVFI_MSG_BYE:
		return "BYE";
	case KVFI_MSG_HOLD:
		return "HOLD";
	case KVFI_MSG_HOLD_OK:
		return "HOLD_OK";
	case KVFI_MSG_GROUP:
		return "GROUP";
	}
	return "UNKNOWN";
}

bool kvfi_msg_is_hot(enum kvfi_msg_type type)
{
	switch (type) {
	case KVFI_MSG_REQUEST_OK:
	case KVFI_MSG_CLAIM:
	case KVFI_MSG_GO:
	case KVFI_MSG_RESULT:
	case KVFI_MSG_ACK:
	case KVFI_MSG_CANCEL:
	case KVFI_MSG_QUIET:
		return true;
	case KVFI_MSG_HELLO:
	case KVFI_MSG_HELLO_OK:
	case KVFI_MSG_REFUSE:
	case KVFI_MSG_REQUEST:
	case KVFI_MSG_PING:
	case KVFI_MSG_PONG:
	case KVFI_MSG_BYE:
	case KVFI_MSG_HOLD:
	case KVFI_MSG_HOLD_OK:
	case KVFI_MSG_GROUP:
		return false;
	}
	return false;
}

bool kvfi_msg_may_ride(enum kvfi_msg_type type)
{
	return type == KVFI_MSG_REQUEST || kvfi_msg_is_hot(type);
}

static uint64_t seal_pair(uint64_t seal, uint32_t high, uint32_t low)
{
	return kvfi_hash_u64(seal, (uint64_t)high << 32 | low);
}

static uint64_t seal_lists(uint64_t seal, const struct kvfi_msg_request *request)
{
	seal = kvfi_hash_u64(seal, request->n_groups);
	for (uint32_t i = 0; i < request->n_groups; i++) {
		const struct kvfi_request_group *group = &request->groups[i];

		seal = seal_pair(seal, group->group, group->n_ids);
		seal = seal_pair(seal, group->tokens_per_block, group->n_runs);
		for (uint32_t r = 0; r < group->n_runs; r++)
			seal = seal_pair(seal, (uint32_t)group->runs[r].start, group->runs[r].count);
	}
	return seal;
}

static uint64_t seal_request(uint64_t seal, const struct kvfi_msg_request *request)
{
	seal = kvfi_hash_u64(seal, request->prompt_len);
	seal = seal_pair(seal, request->dp_index, request->dp_rank);
	seal = seal_pair(seal, (uint32_t)request->replica, request->verify);
	seal = seal_pair(seal, request->aux_slot, request->aux_bytes);
	seal = seal_pair(seal, request->lease_slot, request->lease_generation);
	seal = kvfi_hash_u64(seal, request->time_left_ns);
	return seal_lists(kvfi_hash_u64(seal, request->digest), request);
}

/* Aux data are in the sum. */
static uint64_t seal_result(uint64_t seal, const struct kvfi_msg_result *result)
{
	seal = seal_pair(seal, (uint32_t)result->kind, result->slice);
	seal = seal_pair(seal, result->rx_slice, result->last);
	seal = seal_pair(seal, (uint32_t)result->status, result->n_ranges);
	seal = kvfi_hash_u64(seal, result->bytes);
	seal = kvfi_hash_u64(seal, result->runs);
	seal = kvfi_hash_u64(seal, result->sum);
	seal = kvfi_hash_u64(seal, result->dropped_tokens);
	seal = seal_pair(seal, result->layer_start, result->layer_end);
	seal = kvfi_hash_u64(seal, result->aux_bytes);
	for (uint32_t i = 0; i < result->n_ranges; i++) {
		seal = kvfi_hash_u64(seal, result->ranges[i].group);
		seal = kvfi_hash_u64(seal, result->ranges[i].token_first);
		seal = kvfi_hash_u64(seal, result->ranges[i].token_end);
	}
	return seal;
}

/* A member is known by its incarnation alone. */
static uint64_t seal_group(uint64_t seal, const struct kvfi_msg *msg)
{
	const struct kvfi_msg_group *group = &msg->u.group;

	seal = kvfi_hash_u64(seal, msg->header.from);
	seal = kvfi_hash_u64(seal, msg->header.to);
	seal = kvfi_hash_u64(seal, group->group);
	seal = kvfi_hash_u64(seal, group->round);
	seal = seal_pair(seal, group->rank, group->members);
	seal = seal_pair(seal, group->flags, group->len_bytes);
	return group->len_bytes == 0 ? seal : kvfi_hash_bytes(seal, group->bytes, group->len_bytes);
}

uint64_t kvfi_msg_seal(const struct kvfi_msg *msg)
{
	uint64_t seal = kvfi_hash_u64((uint64_t)msg->header.type, msg->header.instance_id);

	seal = kvfi_hash_u64(seal, msg->header.request_id);
	seal = kvfi_hash_u64(seal, msg->header.attempt);
	seal = kvfi_hash_u64(seal, msg->header.epoch);
	if (msg->header.type == KVFI_MSG_REQUEST)
		return seal_request(seal, &msg->u.request);
	if (msg->header.type == KVFI_MSG_RESULT)
		return seal_result(seal, &msg->u.result);
	if (msg->header.type == KVFI_MSG_GROUP)
		return seal_group(seal, msg);
	if (msg->header.type != KVFI_MSG_GO)
		return 0;
	seal = kvfi_hash_u64(seal, msg->u.go.dp_index);
	return seal_pair(seal, msg->u.go.lease_slot, msg->u.go.lease_generation);
}

uint64_t kvfi_msg_aux_sum(const void *aux, uint32_t len_bytes)
{
	return kvfi_hash_bytes(0, aux, len_bytes);
}

void kvfi_msg_fini(struct kvfi_msg *msg)
{
	if (msg == NULL)
		return;
	if (msg->header.type == KVFI_MSG_HELLO || msg->header.type == KVFI_MSG_HELLO_OK) {
		kvf_instance_free(msg->u.hello.instance);
		kvf_layout_free(msg->u.hello.layout);
		msg->u.hello.instance = NULL;
		msg->u.hello.layout = NULL;
	}
	free(msg->block);
	msg->block = NULL;
}

/* The copy still points to the original's instance and layout; on failure the caller throws it away. */
static enum kvf_status own_hello(struct kvfi_msg_hello *hello)
{
	struct kvf_instance *instance = NULL;
	struct kvf_layout *layout = NULL;

	if (hello->instance != NULL) {
		instance = kvfi_instance_copy(hello->instance);
		if (instance == NULL)
			return kvfi_fail(KVF_ENOMEM, "copying the instance map of a HELLO");
	}
	if (hello->layout != NULL) {
		layout = kvfi_layout_copy(hello->layout);
		if (layout == NULL) {
			kvf_instance_free(instance);
			return kvfi_fail(KVF_ENOMEM, "copying the layout of a HELLO");
		}
	}
	hello->instance = instance;
	hello->layout = layout;
	return KVF_OK;
}

static enum kvf_status own_runs(struct kvfi_msg *copy)
{
	struct kvfi_msg_request *request = &copy->u.request;
	struct kvfi_id_run *block;
	size_t n_runs = 0;

	KVFI_ASSERT(request->n_groups <= KVF_MAX_GROUPS);
	for (uint32_t i = 0; i < request->n_groups; i++)
		n_runs += request->groups[i].n_runs;
	if (n_runs == 0)
		return KVF_OK;
	block = calloc(n_runs, sizeof(*block));
	if (block == NULL)
		return kvfi_fail(KVF_ENOMEM, "copying %zu id runs of a REQUEST", n_runs);
	copy->block = block;
	for (uint32_t i = 0; i < request->n_groups; i++) {
		struct kvfi_request_group *group = &request->groups[i];

		if (group->n_runs > 0)
			memcpy(block, group->runs, group->n_runs * sizeof(*block));
		group->runs = block;
		block += group->n_runs;
	}
	return KVF_OK;
}

static enum kvf_status own_aux(struct kvfi_msg *copy)
{
	struct kvfi_msg_result *result = &copy->u.result;

	if (result->aux_bytes == 0) {
		result->aux = NULL;
		return KVF_OK;
	}
	copy->block = malloc(result->aux_bytes);
	if (copy->block == NULL)
		return kvfi_fail(KVF_ENOMEM, "copying %u aux bytes of a RESULT", result->aux_bytes);
	memcpy(copy->block, result->aux, result->aux_bytes);
	result->aux = copy->block;
	return KVF_OK;
}

static enum kvf_status own_group(struct kvfi_msg *copy)
{
	struct kvfi_msg_group *group = &copy->u.group;

	if (group->len_bytes == 0) {
		group->bytes = NULL;
		return KVF_OK;
	}
	copy->block = malloc(group->len_bytes);
	if (copy->block == NULL)
		return kvfi_fail(KVF_ENOMEM, "copying %u bytes of a GROUP", group->len_bytes);
	memcpy(copy->block, group->bytes, group->len_bytes);
	group->bytes = copy->block;
	return KVF_OK;
}

enum kvf_status kvfi_msg_dup(const struct kvfi_msg *msg, struct kvfi_msg *copy_out)
{
	struct kvfi_msg copy = *msg;
	enum kvf_status status = KVF_OK;

	copy.block = NULL;
	switch (msg->header.type) {
	case KVFI_MSG_HELLO:
	case KVFI_MSG_HELLO_OK:
		status = own_hello(&copy.u.hello);
		break;
	case KVFI_MSG_REQUEST:
		status = own_runs(&copy);
		break;
	case KVFI_MSG_RESULT:
		status = own_aux(&copy);
		break;
	case KVFI_MSG_GROUP:
		status = own_group(&copy);
		break;
	case KVFI_MSG_REFUSE:
	case KVFI_MSG_REQUEST_OK:
	case KVFI_MSG_CLAIM:
	case KVFI_MSG_GO:
	case KVFI_MSG_ACK:
	case KVFI_MSG_CANCEL:
	case KVFI_MSG_QUIET:
	case KVFI_MSG_PING:
	case KVFI_MSG_PONG:
	case KVFI_MSG_BYE:
	case KVFI_MSG_HOLD:
	case KVFI_MSG_HOLD_OK:
		break;
	}
	if (status == KVF_OK)
		*copy_out = copy;
	return status;
}
