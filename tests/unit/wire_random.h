/* wire_random.h - messages of every type with random but legal contents, from a seed, and their comparison.
 *
 * What a message points to lives in its random_message; free it with random_message_fini.
 */
#ifndef TESTS_UNIT_WIRE_RANDOM_H
#define TESTS_UNIT_WIRE_RANDOM_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/hash.h"
#include "wire/codec.h"
#include "wire/messages.h"

struct random_message {
	uint64_t state;
	uint32_t n_owned;
	void *owned[16384];
	struct kvfi_msg msg;
};

static inline uint64_t random_u64(struct random_message *random)
{
	return kvfi_mix64(random->state++);
}

static inline uint32_t random_below(struct random_message *random, uint32_t n)
{
	return (uint32_t)(random_u64(random) % n);
}

static inline void *random_alloc(struct random_message *random, size_t n, size_t size)
{
	void *memory = calloc(n == 0 ? 1 : n, size);

	assert_non_null(memory);
	assert_true(random->n_owned < sizeof(random->owned) / sizeof(random->owned[0]));
	random->owned[random->n_owned++] = memory;
	return memory;
}

/* 0 .. max_bytes-1 characters, any byte but NUL. */
static inline void random_text(struct random_message *random, char *text, size_t max_bytes)
{
	const uint32_t len = random_below(random, (uint32_t)max_bytes);

	memset(text, 0, max_bytes);
	for (uint32_t i = 0; i < len; i++)
		text[i] = (char)(1 + random_below(random, 255));
}

static inline const char *random_string(struct random_message *random, size_t max_bytes)
{
	char *text = random_alloc(random, max_bytes, 1);

	random_text(random, text, max_bytes);
	return text;
}

static inline enum kvf_status random_status(struct random_message *random)
{
	static const enum kvf_status all[] = {
#define KVF_STATUS(name, number, scope, text) KVF_##name,
#include "kvferry/status.def"
#undef KVF_STATUS
	};

	return all[random_below(random, sizeof(all) / sizeof(all[0]))];
}

static inline const uint32_t *random_layers(struct random_message *random, uint32_t *n_out)
{
	const uint32_t n = random_below(random, 9);
	const uint32_t step = 1 + random_below(random, 100);
	uint32_t *layers = random_alloc(random, n, sizeof(*layers));
	uint32_t next = random_below(random, 100);

	for (uint32_t i = 0; i < n; i++, next += 1 + random_below(random, step))
		layers[i] = next;
	*n_out = n;
	return layers;
}

static inline void random_rank(struct random_message *random, uint32_t n_groups, struct kvf_rank *rank)
{
	struct kvf_rank_group *groups = random_alloc(random, n_groups, sizeof(*groups));

	rank->tp = random_below(random, KVF_MAX_RANKS);
	rank->pp = random_below(random, KVF_MAX_RANKS);
	rank->cp = random_below(random, KVF_MAX_RANKS);
	rank->endpoint = random_string(random, 100);
	rank->groups = groups;
	for (uint32_t g = 0; g < n_groups; g++) {
		const uint32_t n_parts = random_below(random, KVF_MAX_PARTS + 1);

		groups[g].layers = random_layers(random, &groups[g].n_layers);
		for (uint32_t p = 0; p < n_parts; p++) {
			groups[g].head_start[p] = random_below(random, 128);
			groups[g].head_count[p] = random_below(random, 128);
		}
	}
}

static inline struct kvf_instance *random_instance(struct random_message *random)
{
	struct kvf_instance *instance = random_alloc(random, 1, sizeof(*instance));
	struct kvf_rank *ranks;

	instance->id = random_u64(random);
	instance->role = random_below(random, 2) ? KVF_PREFILL : KVF_DECODE;
	instance->tp = 1 + random_below(random, 4);
	instance->pp = 1 + random_below(random, 4);
	instance->cp = 1 + random_below(random, 2);
	instance->dp = 1 + random_below(random, instance->tp);
	instance->n_groups = 1 + random_below(random, KVF_MAX_GROUPS);
	instance->n_ranks = instance->tp * instance->pp * instance->cp;
	ranks = random_alloc(random, instance->n_ranks, sizeof(*ranks));
	for (uint32_t r = 0; r < instance->n_ranks; r++)
		random_rank(random, instance->n_groups, &ranks[r]);
	instance->ranks = ranks;
	return instance;
}

static inline void random_group(struct random_message *random, struct kvf_group *group)
{
	uint64_t *bases;

	group->kind = (enum kvf_group_kind)(1 + random_below(random, 4));
	group->dtype = (enum kvf_dtype)(1 + random_below(random, 6));
	group->tokens_per_block = 1 + random_below(random, 1024);
	group->window_tokens = (uint32_t)random_u64(random);
	group->blocks = random_below(random, INT32_MAX);
	group->layers = random_layers(random, &group->n_layers);
	group->n_parts = 1 + random_below(random, KVF_MAX_PARTS);
	for (uint32_t p = 0; p < group->n_parts; p++) {
		struct kvf_part *part = &group->parts[p];

		part->heads = (uint32_t)random_u64(random);
		part->head_start = (uint32_t)random_u64(random);
		part->head_count = (uint32_t)random_u64(random);
		part->row_bytes = random_u64(random);
		part->block_stride = random_u64(random);
		part->head_stride = random_u64(random);
		part->token_stride = random_u64(random);
	}
	bases = random_alloc(random, group->n_layers * group->n_parts, sizeof(*bases));
	for (uint32_t i = 0; i < group->n_layers * group->n_parts; i++)
		bases[i] = random_u64(random);
	group->bases = bases;
}

static inline struct kvf_layout *random_layout(struct random_message *random)
{
	struct kvf_layout *layout = random_alloc(random, 1, sizeof(*layout));
	struct kvf_group *groups;
	uint32_t *aux_bytes;

	layout->model = random_string(random, 80);
	layout->revision = random_string(random, 40);
	layout->rank = random_below(random, KVF_MAX_RANKS);
	layout->n_groups = 1 + random_below(random, KVF_MAX_GROUPS);
	groups = random_alloc(random, layout->n_groups, sizeof(*groups));
	for (uint32_t g = 0; g < layout->n_groups; g++)
		random_group(random, &groups[g]);
	layout->groups = groups;
	layout->n_aux = random_below(random, 20);
	aux_bytes = random_alloc(random, layout->n_aux, sizeof(*aux_bytes));
	for (uint32_t i = 0; i < layout->n_aux; i++)
		aux_bytes[i] = random_below(random, KVF_MAX_AUX_BYTES + 1);
	layout->aux_bytes = aux_bytes;
	layout->aux_bases =
		random_alloc(random, layout->n_aux, sizeof(uint64_t)); /* zeros: they do not travel */
	return layout;
}

static inline void random_hello(struct random_message *random, struct kvfi_msg_hello *hello)
{
	hello->version = KVFI_WIRE_VERSION;
	hello->features = random_u64(random);
	random_text(random, hello->name, sizeof(hello->name));
	hello->instance = random_instance(random);
	hello->layout = random_layout(random);
	hello->n_transports = random_below(random, KVFI_MAX_TRANSPORTS + 1);
	for (uint32_t i = 0; i < hello->n_transports; i++) {
		struct kvfi_transport_address *transport = &hello->transports[i];

		random_text(random, transport->name, sizeof(transport->name));
		transport->len_bytes = random_below(random, sizeof(transport->bytes) + 1);
		for (uint32_t b = 0; b < transport->len_bytes; b++)
			transport->bytes[b] = (unsigned char)random_u64(random);
	}
}

static inline void random_request(struct random_message *random, struct kvfi_msg_request *request)
{
	request->prompt_len = random_u64(random) % (KVF_MAX_TOKENS + 1);
	request->dp_index = random_below(random, 2) ? KVF_DP_UNKNOWN : random_below(random, KVF_MAX_RANKS);
	request->dp_rank = random_below(random, KVF_MAX_RANKS);
	request->replica = random_below(random, 2) ? KVF_REPLICA_STRIPE : KVF_REPLICA_ELECT;
	request->aux_slot = random_below(random, 2) ? KVF_NO_AUX : random_below(random, 1000);
	request->aux_bytes = random_below(random, KVF_MAX_AUX_BYTES + 1);
	request->lease_slot = (uint32_t)random_u64(random);
	request->lease_generation = (uint32_t)random_u64(random);
	request->time_left_ns = random_u64(random);
	request->digest = random_u64(random);
	request->seal = random_u64(random);
	request->verify = random_below(random, 2);
	request->n_groups = random_below(random, KVF_MAX_GROUPS + 1);
	for (uint32_t g = 0; g < request->n_groups; g++) {
		struct kvfi_request_group *group = &request->groups[g];

		group->group = g;
		group->tokens_per_block = 1 + random_below(random, 128);
		group->n_runs = random_below(random, 40);
		group->runs = random_alloc(random, group->n_runs, sizeof(*group->runs));
		for (uint32_t i = 0; i < group->n_runs; i++) {
			struct kvfi_id_run *run = &group->runs[i];

			run->start = random_below(random, 8) ? (int32_t)random_below(random, 1u << 30) : -1;
			run->count = 1 + random_below(random, 1000);
			group->n_ids += run->count;
		}
	}
}

static inline void random_result(struct random_message *random, struct kvfi_msg_result *result)
{
	unsigned char *aux;

	result->kind = random_below(random, 2) ? KVFI_RESULT_KV : KVFI_RESULT_AUX;
	result->slice = (uint32_t)random_u64(random);
	result->rx_slice = (uint32_t)random_u64(random);
	result->last = random_below(random, 2);
	result->status = random_status(random);
	result->bytes = random_u64(random);
	result->runs = random_u64(random);
	result->sum = random_u64(random);
	result->seal = random_u64(random);
	result->dropped_tokens = random_u64(random);
	result->layer_start = random_below(random, KVF_MAX_LAYERS);
	result->layer_end =
		result->layer_start + random_below(random, KVF_MAX_LAYERS - result->layer_start + 1);
	result->n_ranges = random_below(random, KVFI_MAX_RANGES + 1);
	for (uint32_t i = 0; i < result->n_ranges; i++) {
		struct kvfi_range *range = &result->ranges[i];

		range->group = random_below(random, KVF_MAX_GROUPS);
		range->token_first = random_u64(random) % KVF_MAX_TOKENS;
		range->token_end =
			range->token_first + 1 + random_u64(random) % (KVF_MAX_TOKENS - range->token_first);
	}
	result->aux_bytes = random_below(random, 3) ? random_below(random, 300)
	                                            : random_below(random, KVF_MAX_AUX_BYTES + 1);
	aux = random_alloc(random, result->aux_bytes, 1);
	for (uint32_t i = 0; i < result->aux_bytes; i++)
		aux[i] = (unsigned char)random_u64(random);
	result->aux = aux;
	random_text(random, result->reason, sizeof(result->reason));
}

static inline void random_said(struct random_message *random, struct kvfi_msg_group *group)
{
	unsigned char *bytes;

	group->group = random_u64(random);
	group->round = random_u64(random);
	group->members = 1 + random_below(random, KVF_GROUP_MAX_RANKS);
	group->rank = random_below(random, group->members);
	group->flags = random_below(random, (KVFI_GROUP_WANTED | KVFI_GROUP_LEAVING) + 1);
	group->len_bytes = random_below(random, 3) ? random_below(random, 300)
	                                           : random_below(random, KVF_GROUP_MAX_BYTES / 16 + 1);
	bytes = random_alloc(random, group->len_bytes, 1);
	for (uint32_t i = 0; i < group->len_bytes; i++)
		bytes[i] = (unsigned char)random_u64(random);
	group->bytes = bytes;
	group->seal = random_u64(random);
}

static inline void random_body(struct random_message *random, struct kvfi_msg *msg)
{
	switch (msg->header.type) {
	case KVFI_MSG_HELLO:
	case KVFI_MSG_HELLO_OK:
		random_hello(random, &msg->u.hello);
		break;
	case KVFI_MSG_REFUSE:
		msg->u.refuse.status = random_status(random);
		random_text(random, msg->u.refuse.refusal.field, sizeof(msg->u.refuse.refusal.field));
		random_text(random, msg->u.refuse.refusal.prefill, sizeof(msg->u.refuse.refusal.prefill));
		random_text(random, msg->u.refuse.refusal.decode, sizeof(msg->u.refuse.refusal.decode));
		random_text(random, msg->u.refuse.reason, sizeof(msg->u.refuse.reason));
		break;
	case KVFI_MSG_REQUEST:
		random_request(random, &msg->u.request);
		break;
	case KVFI_MSG_REQUEST_OK:
	case KVFI_MSG_HOLD_OK:
		msg->u.request_ok.known = random_below(random, 2);
		break;
	case KVFI_MSG_CLAIM:
		msg->u.claim.dp_index = random_below(random, KVF_MAX_RANKS);
		break;
	case KVFI_MSG_GO:
		msg->u.go.dp_index = random_below(random, KVF_MAX_RANKS);
		msg->u.go.lease_slot = (uint32_t)random_u64(random);
		msg->u.go.lease_generation = (uint32_t)random_u64(random);
		msg->u.go.seal = random_u64(random);
		break;
	case KVFI_MSG_RESULT:
		random_result(random, &msg->u.result);
		break;
	case KVFI_MSG_ACK:
		msg->u.ack.kind = random_below(random, 2) ? KVFI_RESULT_KV : KVFI_RESULT_AUX;
		msg->u.ack.slice = (uint32_t)random_u64(random);
		msg->u.ack.verdict = (enum kvfi_verdict)random_below(random, 3);
		msg->u.ack.status = random_status(random);
		break;
	case KVFI_MSG_CANCEL:
		msg->u.cancel.status = random_status(random);
		random_text(random, msg->u.cancel.reason, sizeof(msg->u.cancel.reason));
		break;
	case KVFI_MSG_PING:
	case KVFI_MSG_PONG:
		msg->u.ping.sequence = random_u64(random);
		break;
	case KVFI_MSG_GROUP:
		random_said(random, &msg->u.group);
		break;
	case KVFI_MSG_QUIET:
	case KVFI_MSG_BYE:
	case KVFI_MSG_HOLD:
		break;
	}
}

static inline struct random_message *random_message_new(uint64_t seed, enum kvfi_msg_type type)
{
	struct random_message *random = calloc(1, sizeof(*random));

	assert_non_null(random);
	random->state = kvfi_hash_u64(seed, type);
	random->msg.header = (struct kvfi_msg_header){
		.type = type,
		.from = random_u64(random),
		.to = random_u64(random),
		.link = random_u64(random),
		.instance_id = random_u64(random),
		.request_id = random_u64(random),
		.attempt = (uint32_t)random_u64(random),
		.epoch = random_u64(random),
	};
	random_body(random, &random->msg);
	return random;
}

static inline void random_message_free(struct random_message *random)
{
	for (uint32_t i = 0; i < random->n_owned; i++)
		free(random->owned[i]);
	free(random);
}

static inline void assert_instances_equal(const struct kvf_instance *a, const struct kvf_instance *b)
{
	assert_true(a->id == b->id && a->role == b->role && a->tp == b->tp && a->pp == b->pp &&
		    a->cp == b->cp && a->dp == b->dp);
	assert_int_equal(a->n_groups, b->n_groups);
	assert_int_equal(a->n_ranks, b->n_ranks);
	for (uint32_t r = 0; r < a->n_ranks; r++) {
		const struct kvf_rank *x = &a->ranks[r], *y = &b->ranks[r];

		assert_true(x->tp == y->tp && x->pp == y->pp && x->cp == y->cp);
		assert_string_equal(x->endpoint, y->endpoint);
		for (uint32_t g = 0; g < a->n_groups; g++) {
			const struct kvf_rank_group *v = &x->groups[g], *w = &y->groups[g];

			assert_int_equal(v->n_layers, w->n_layers);
			if (v->n_layers > 0)
				assert_memory_equal(v->layers, w->layers, v->n_layers * sizeof(uint32_t));
			assert_memory_equal(v->head_start, w->head_start, sizeof(v->head_start));
			assert_memory_equal(v->head_count, w->head_count, sizeof(v->head_count));
		}
	}
}

static inline void assert_groups_equal(const struct kvf_group *a, const struct kvf_group *b)
{
	assert_true(a->kind == b->kind && a->dtype == b->dtype &&
		    a->tokens_per_block == b->tokens_per_block && a->window_tokens == b->window_tokens &&
		    a->blocks == b->blocks);
	assert_int_equal(a->n_layers, b->n_layers);
	assert_int_equal(a->n_parts, b->n_parts);
	if (a->n_layers > 0) {
		assert_memory_equal(a->layers, b->layers, a->n_layers * sizeof(uint32_t));
		assert_memory_equal(a->bases, b->bases, a->n_layers * a->n_parts * sizeof(uint64_t));
	}
	for (uint32_t p = 0; p < a->n_parts; p++) {
		const struct kvf_part *x = &a->parts[p], *y = &b->parts[p];

		assert_true(x->heads == y->heads && x->head_start == y->head_start &&
			    x->head_count == y->head_count);
		assert_true(x->row_bytes == y->row_bytes && x->block_stride == y->block_stride &&
			    x->head_stride == y->head_stride && x->token_stride == y->token_stride);
	}
}

static inline void assert_layouts_equal(const struct kvf_layout *a, const struct kvf_layout *b)
{
	assert_string_equal(a->model, b->model);
	assert_string_equal(a->revision, b->revision);
	assert_int_equal(a->rank, b->rank);
	assert_int_equal(a->n_groups, b->n_groups);
	for (uint32_t g = 0; g < a->n_groups; g++)
		assert_groups_equal(&a->groups[g], &b->groups[g]);
	assert_int_equal(a->n_aux, b->n_aux);
	for (uint32_t i = 0; i < a->n_aux; i++)
		assert_int_equal(a->aux_bytes[i], b->aux_bytes[i]);
}

static inline void assert_hellos_equal(const struct kvfi_msg_hello *a, const struct kvfi_msg_hello *b)
{
	assert_int_equal(a->version, b->version);
	assert_true(a->features == b->features);
	assert_string_equal(a->name, b->name);
	assert_instances_equal(a->instance, b->instance);
	assert_layouts_equal(a->layout, b->layout);
	assert_int_equal(a->n_transports, b->n_transports);
	for (uint32_t i = 0; i < a->n_transports; i++) {
		assert_string_equal(a->transports[i].name, b->transports[i].name);
		assert_int_equal(a->transports[i].len_bytes, b->transports[i].len_bytes);
		assert_memory_equal(
			a->transports[i].bytes, b->transports[i].bytes, a->transports[i].len_bytes);
	}
}

static inline void assert_requests_equal(const struct kvfi_msg_request *a, const struct kvfi_msg_request *b)
{
	assert_true(a->prompt_len == b->prompt_len && a->dp_index == b->dp_index && a->dp_rank == b->dp_rank);
	assert_true(a->replica == b->replica && a->aux_slot == b->aux_slot && a->aux_bytes == b->aux_bytes);
	assert_true(a->lease_slot == b->lease_slot && a->lease_generation == b->lease_generation);
	assert_true(a->time_left_ns == b->time_left_ns && a->digest == b->digest && a->verify == b->verify);
	assert_true(a->seal == b->seal);
	assert_int_equal(a->n_groups, b->n_groups);
	for (uint32_t g = 0; g < a->n_groups; g++) {
		const struct kvfi_request_group *x = &a->groups[g], *y = &b->groups[g];

		assert_true(x->group == y->group && x->n_ids == y->n_ids &&
			    x->tokens_per_block == y->tokens_per_block && x->n_runs == y->n_runs);
		if (x->n_runs > 0)
			assert_memory_equal(x->runs, y->runs, x->n_runs * sizeof(*x->runs));
	}
}

static inline void assert_results_equal(const struct kvfi_msg_result *a, const struct kvfi_msg_result *b)
{
	assert_true(a->kind == b->kind && a->slice == b->slice && a->rx_slice == b->rx_slice &&
		    a->last == b->last && a->seal == b->seal);
	assert_true(a->status == b->status && a->bytes == b->bytes && a->runs == b->runs &&
		    a->sum == b->sum && a->dropped_tokens == b->dropped_tokens);
	assert_true(a->layer_start == b->layer_start && a->layer_end == b->layer_end);
	assert_int_equal(a->n_ranges, b->n_ranges);
	for (uint32_t i = 0; i < a->n_ranges; i++)
		assert_true(a->ranges[i].group == b->ranges[i].group &&
			    a->ranges[i].token_first == b->ranges[i].token_first &&
			    a->ranges[i].token_end == b->ranges[i].token_end);
	assert_int_equal(a->aux_bytes, b->aux_bytes);
	if (a->aux_bytes > 0)
		assert_memory_equal(a->aux, b->aux, a->aux_bytes);
	assert_string_equal(a->reason, b->reason);
}

static inline void assert_said_equal(const struct kvfi_msg_group *a, const struct kvfi_msg_group *b)
{
	assert_true(a->group == b->group && a->round == b->round);
	assert_true(a->rank == b->rank && a->members == b->members && a->flags == b->flags);
	assert_true(a->seal == b->seal);
	assert_int_equal(a->len_bytes, b->len_bytes);
	if (a->len_bytes > 0)
		assert_memory_equal(a->bytes, b->bytes, a->len_bytes);
}

static inline void assert_messages_equal(const struct kvfi_msg *a, const struct kvfi_msg *b)
{
	const struct kvfi_msg_header *x = &a->header, *y = &b->header;

	assert_int_equal(x->type, y->type);
	assert_true(x->from == y->from && x->to == y->to && x->link == y->link &&
		    x->instance_id == y->instance_id);
	assert_true(x->request_id == y->request_id && x->attempt == y->attempt && x->epoch == y->epoch);
	switch (x->type) {
	case KVFI_MSG_HELLO:
	case KVFI_MSG_HELLO_OK:
		assert_hellos_equal(&a->u.hello, &b->u.hello);
		break;
	case KVFI_MSG_REFUSE:
		assert_int_equal(a->u.refuse.status, b->u.refuse.status);
		assert_string_equal(a->u.refuse.refusal.field, b->u.refuse.refusal.field);
		assert_string_equal(a->u.refuse.refusal.prefill, b->u.refuse.refusal.prefill);
		assert_string_equal(a->u.refuse.refusal.decode, b->u.refuse.refusal.decode);
		assert_string_equal(a->u.refuse.reason, b->u.refuse.reason);
		break;
	case KVFI_MSG_REQUEST:
		assert_requests_equal(&a->u.request, &b->u.request);
		break;
	case KVFI_MSG_REQUEST_OK:
	case KVFI_MSG_HOLD_OK:
		assert_int_equal(a->u.request_ok.known, b->u.request_ok.known);
		break;
	case KVFI_MSG_CLAIM:
		assert_int_equal(a->u.claim.dp_index, b->u.claim.dp_index);
		break;
	case KVFI_MSG_GO:
		assert_memory_equal(&a->u.go, &b->u.go, sizeof(a->u.go));
		break;
	case KVFI_MSG_RESULT:
		assert_results_equal(&a->u.result, &b->u.result);
		break;
	case KVFI_MSG_ACK:
		assert_memory_equal(&a->u.ack, &b->u.ack, sizeof(a->u.ack));
		break;
	case KVFI_MSG_CANCEL:
		assert_int_equal(a->u.cancel.status, b->u.cancel.status);
		assert_string_equal(a->u.cancel.reason, b->u.cancel.reason);
		break;
	case KVFI_MSG_PING:
	case KVFI_MSG_PONG:
		assert_true(a->u.ping.sequence == b->u.ping.sequence);
		break;
	case KVFI_MSG_GROUP:
		assert_said_equal(&a->u.group, &b->u.group);
		break;
	case KVFI_MSG_QUIET:
	case KVFI_MSG_BYE:
	case KVFI_MSG_HOLD:
		break;
	}
}

#endif
