/* wire_cold.c - cold messages that others wrote: other order, other widths, unknown keys; missing, mistyped and wild values.
 *
 * A message of ours is unpacked and written again with one change; a walk over all its maps makes that change at every
 * place in turn.
 */
#include "wire_random.h"

#ifdef KVFI_WITH_ZMQ

#include <msgpack.h>
#include "wire/frame.h"

enum change {
	SAME = 0,
	REVERSED,     /* maps from the last key to the first */
	UNKNOWN_KEYS, /* three more keys in every map */
	TWICE,        /* every key once more, with nil, at the end */
	WIDE,         /* every integer in 64 bits, positive ones as int64 */
	DROP,         /* the nth key and its value */
	RETYPE,       /* the nth value: something that no key has */
	EMPTY,        /* the nth bin, str or array: nothing in it */
	WILD,         /* the nth integer: as large as can be */
	ODD           /* the nth bin: one byte longer */
};

struct rewrite {
	enum change change;
	uint32_t n, at; /* the nth place; how many came by */
	char key[64];   /* of the place that was changed */
	uint32_t retype;
	msgpack_packer *packer;
};

static bool is_place(struct rewrite *rewrite, enum change change)
{
	return rewrite->change == change && rewrite->at++ == rewrite->n;
}

static void write_object(struct rewrite *rewrite, const msgpack_object *object);

static void write_text(struct rewrite *rewrite, const char *text)
{
	msgpack_pack_str(rewrite->packer, strlen(text));
	msgpack_pack_str_body(rewrite->packer, text, strlen(text));
}

static void write_unknown(struct rewrite *rewrite)
{
	msgpack_packer *packer = rewrite->packer;

	write_text(rewrite, "of a later version");
	msgpack_pack_array(packer, 2);
	msgpack_pack_map(packer, 1);
	msgpack_pack_double(packer, 0.5);
	msgpack_pack_nil(packer);
	msgpack_pack_ext(packer, 3, 7);
	msgpack_pack_ext_body(packer, "ext", 3);
	msgpack_pack_int(packer, -3); /* a key that is no str */
	msgpack_pack_true(packer);
	write_text(rewrite, ""); /* an empty key */
	msgpack_pack_float(packer, 1.0f);
}

static void write_other_type(struct rewrite *rewrite)
{
	msgpack_packer *packer = rewrite->packer;

	switch (rewrite->retype) {
	case 0:
		msgpack_pack_nil(packer);
		break;
	case 1:
		msgpack_pack_double(packer, 1.0);
		break;
	case 2:
		msgpack_pack_ext(packer, 1, -1);
		msgpack_pack_ext_body(packer, "x", 1);
		break;
	default:
		msgpack_pack_true(packer);
		break;
	}
}

static bool has_extent(const msgpack_object *value)
{
	return value->type == MSGPACK_OBJECT_BIN || value->type == MSGPACK_OBJECT_STR ||
	       value->type == MSGPACK_OBJECT_ARRAY;
}

static void write_empty(struct rewrite *rewrite, const msgpack_object *value)
{
	if (value->type == MSGPACK_OBJECT_BIN)
		msgpack_pack_bin(rewrite->packer, 0);
	else if (value->type == MSGPACK_OBJECT_STR)
		msgpack_pack_str(rewrite->packer, 0);
	else
		msgpack_pack_array(rewrite->packer, 0);
}

static void write_longer(struct rewrite *rewrite, const msgpack_object *value)
{
	msgpack_pack_bin(rewrite->packer, value->via.bin.size + 1u);
	msgpack_pack_bin_body(rewrite->packer, value->via.bin.ptr, value->via.bin.size);
	msgpack_pack_bin_body(rewrite->packer, "x", 1);
}

/* True: the value was written, changed. */
static bool write_changed(struct rewrite *rewrite, const msgpack_object *value)
{
	if (is_place(rewrite, RETYPE)) {
		write_other_type(rewrite);
		return true;
	}
	if (has_extent(value) && is_place(rewrite, EMPTY)) {
		write_empty(rewrite, value);
		return true;
	}
	if (value->type == MSGPACK_OBJECT_POSITIVE_INTEGER && is_place(rewrite, WILD)) {
		msgpack_pack_uint64(rewrite->packer, UINT64_MAX);
		return true;
	}
	if (value->type == MSGPACK_OBJECT_BIN && is_place(rewrite, ODD)) {
		write_longer(rewrite, value);
		return true;
	}
	return false;
}

static void write_pair(struct rewrite *rewrite, const msgpack_object_kv *pair)
{
	write_object(rewrite, &pair->key);
	if (!write_changed(rewrite, &pair->val)) {
		write_object(rewrite, &pair->val);
		return;
	}
	(void)snprintf(rewrite->key, sizeof(rewrite->key), "%.*s", (int)pair->key.via.str.size,
		pair->key.via.str.ptr);
}

static uint32_t map_size(struct rewrite *rewrite, const msgpack_object_map *map)
{
	switch (rewrite->change) {
	case UNKNOWN_KEYS:
		return map->size + 3;
	case TWICE:
		return map->size * 2;
	case DROP:
		return map->size - (rewrite->n >= rewrite->at && rewrite->n - rewrite->at < map->size);
	default:
		return map->size;
	}
}

/* DROP counts the keys of one map before it goes down into them: a place is found without looking ahead. */
static void write_map(struct rewrite *rewrite, const msgpack_object_map *map)
{
	const uint32_t size = map_size(rewrite, map);
	const uint32_t dropped = size < map->size ? rewrite->n - rewrite->at : UINT32_MAX;

	msgpack_pack_map(rewrite->packer, size);
	if (rewrite->change == DROP)
		rewrite->at += map->size;
	if (rewrite->change == UNKNOWN_KEYS)
		write_unknown(rewrite);
	for (uint32_t i = 0; i < map->size; i++) {
		const msgpack_object_kv *pair =
			&map->ptr[rewrite->change == REVERSED ? map->size - 1 - i : i];

		if (i != dropped)
			write_pair(rewrite, pair);
		else
			(void)snprintf(rewrite->key, sizeof(rewrite->key), "%.*s",
				(int)pair->key.via.str.size, pair->key.via.str.ptr);
	}
	for (uint32_t i = 0; rewrite->change == TWICE && i < map->size; i++) {
		write_object(rewrite, &map->ptr[i].key);
		msgpack_pack_nil(rewrite->packer);
	}
}

static void write_wide(struct rewrite *rewrite, uint64_t bits, bool is_signed)
{
	char bytes[9] = {is_signed ? (char)0xd3 : (char)0xcf};

	for (unsigned i = 0; i < 8; i++)
		bytes[1 + i] = (char)(bits >> (56 - 8 * i));
	/* The packer has no call for a wide integer of small value; its sink takes bytes as they are. */
	assert_int_equal(msgpack_sbuffer_write(rewrite->packer->data, bytes, sizeof(bytes)), 0);
}

static void write_object(struct rewrite *rewrite, const msgpack_object *object)
{
	if (object->type == MSGPACK_OBJECT_MAP) {
		write_map(rewrite, &object->via.map);
	} else if (object->type == MSGPACK_OBJECT_ARRAY) {
		msgpack_pack_array(rewrite->packer, object->via.array.size);
		for (uint32_t i = 0; i < object->via.array.size; i++)
			write_object(rewrite, &object->via.array.ptr[i]);
	} else if (object->type == MSGPACK_OBJECT_POSITIVE_INTEGER && rewrite->change == WIDE) {
		write_wide(rewrite, object->via.u64, object->via.u64 <= INT64_MAX);
	} else if (object->type == MSGPACK_OBJECT_NEGATIVE_INTEGER && rewrite->change == WIDE) {
		write_wide(rewrite, (uint64_t)object->via.i64, true);
	} else {
		msgpack_pack_object(rewrite->packer, *object);
	}
}

/* The bytes of a message, rewritten, decoded. */
static enum kvf_status decode_rewritten(
	const struct kvfi_msg *msg, struct rewrite *rewrite, struct kvfi_msg *after)
{
	const size_t room = kvfi_msg_bound(msg);
	unsigned char *bytes = malloc(room);
	msgpack_packer packer;
	msgpack_unpacked unpacked;
	msgpack_sbuffer sink;
	enum kvf_status status;
	size_t len;

	assert_non_null(bytes);
	assert_int_equal(kvfi_msg_encode(msg, bytes, room, &len), KVF_OK);
	msgpack_unpacked_init(&unpacked);
	assert_int_equal(
		msgpack_unpack_next(&unpacked, (char *)bytes + 64, len - 64, NULL), MSGPACK_UNPACK_SUCCESS);
	msgpack_sbuffer_init(&sink);
	assert_int_equal(msgpack_sbuffer_write(&sink, (char *)bytes, 64), 0);
	msgpack_packer_init(&packer, &sink, msgpack_sbuffer_write);
	rewrite->packer = &packer;
	rewrite->at = 0;
	rewrite->key[0] = '\0';
	write_object(rewrite, &unpacked.data);
	kvfi_store_le((unsigned char *)sink.data + 8, sink.size, 4);
	status = kvfi_msg_decode(sink.data, sink.size, after);
	msgpack_sbuffer_destroy(&sink);
	msgpack_unpacked_destroy(&unpacked);
	free(bytes);
	return status;
}

static void the_same_in_other_words_is_the_same(void **state)
{
	static const enum change changes[] = {SAME, REVERSED, UNKNOWN_KEYS, TWICE, WIDE};

	(void)state;
	for (int type = KVFI_MSG_HELLO; type <= KVFI_MSG_REQUEST; type++) {
		for (uint64_t seed = 0; seed < 5; seed++) {
			struct random_message *random = random_message_new(seed, (enum kvfi_msg_type)type);

			for (size_t c = 0; c < sizeof(changes) / sizeof(changes[0]); c++) {
				struct rewrite rewrite = {.change = changes[c]};
				struct kvfi_msg after;

				if (decode_rewritten(&random->msg, &rewrite, &after) != KVF_OK)
					fail_msg("%s, change %d: %s", kvfi_msg_name((enum kvfi_msg_type)type),
						(int)changes[c], kvf_error());
				assert_messages_equal(&random->msg, &after);
				kvfi_msg_fini(&after);
			}
			random_message_free(random);
		}
	}
}

/* Makes one change at every place in turn; says how many places there were. */
static uint32_t at_every_place(
	int type, enum change change, uint32_t retype, bool must_fail, const char *says)
{
	struct random_message *random = random_message_new(21, (enum kvfi_msg_type)type);
	uint32_t places = 0;

	for (;; places++) {
		struct rewrite rewrite = {.change = change, .n = places, .retype = retype};
		struct kvfi_msg after;
		char expected[128];
		const enum kvf_status status = decode_rewritten(&random->msg, &rewrite, &after);

		if (status == KVF_OK)
			kvfi_msg_fini(&after);
		if (rewrite.key[0] == '\0')
			break;
		if (!must_fail)
			continue;
		(void)snprintf(expected, sizeof(expected), "%s: %s", rewrite.key, says);
		if (status != KVF_PROTOCOL || strstr(kvf_error(), expected) == NULL)
			fail_msg("%s, place %u: status %d, '%s' does not say '%s'",
				kvfi_msg_name((enum kvfi_msg_type)type), places, (int)status, kvf_error(),
				expected);
	}
	random_message_free(random);
	return places;
}

static void a_missing_key_is_named_wherever_it_is(void **state)
{
	(void)state;
	assert_int_equal(at_every_place(KVFI_MSG_REFUSE, DROP, 0, true, "missing"), 5);
	assert_true(at_every_place(KVFI_MSG_REQUEST, DROP, 0, true, "missing") >= 12);
	assert_true(at_every_place(KVFI_MSG_HELLO, DROP, 0, true, "missing") > 30);
	assert_true(at_every_place(KVFI_MSG_HELLO_OK, DROP, 0, true, "missing") > 30);
}

static void a_value_of_another_type_is_named_wherever_it_is(void **state)
{
	(void)state;
	for (uint32_t retype = 0; retype < 4; retype++) {
		assert_int_equal(at_every_place(KVFI_MSG_REFUSE, RETYPE, retype, true, ""), 5);
		assert_true(at_every_place(KVFI_MSG_REQUEST, RETYPE, retype, true, "of another type") >= 12);
		assert_true(at_every_place(KVFI_MSG_HELLO, RETYPE, retype, true, "of another type") > 30);
	}
}

/* Emptied, oversized and odd values: refused or harmless, never a crash. */
static void wild_values_are_survived(void **state)
{
	(void)state;
	for (int type = KVFI_MSG_HELLO; type <= KVFI_MSG_REQUEST; type++) {
		assert_true(at_every_place(type, EMPTY, 0, false, "") > 0);
		if (type != KVFI_MSG_REFUSE)
			assert_true(at_every_place(type, WILD, 0, false, "") > 0);
	}
	assert_true(at_every_place(KVFI_MSG_HELLO, ODD, 0, false, "") > 0);
	assert_true(at_every_place(KVFI_MSG_REQUEST, ODD, 0, false, "") > 0);
}

/* A message whose body is these bytes. */
static enum kvf_status decode_body(enum kvfi_msg_type type, const void *body, size_t len)
{
	struct kvfi_msg ping = {.header = {.type = KVFI_MSG_PING}};
	unsigned char *bytes = malloc(128 + len);
	struct kvfi_msg msg;
	enum kvf_status status;
	size_t head;

	assert_non_null(bytes);
	assert_int_equal(kvfi_msg_encode(&ping, bytes, 128, &head), KVF_OK);
	memcpy(bytes + 64, body, len);
	kvfi_store_le(bytes + 6, (uint64_t)type, 2);
	kvfi_store_le(bytes + 8, 64 + len, 4);
	status = kvfi_msg_decode(bytes, 64 + len, &msg);
	free(bytes);
	if (status == KVF_OK)
		kvfi_msg_fini(&msg);
	return status;
}

/* Five bytes that ask for a hundred gigabytes. */
static void a_few_bytes_cannot_ask_for_much(void **state)
{
	(void)state;
	assert_int_equal(decode_body(KVFI_MSG_HELLO, "\xdf\xff\xff\xff\xff", 5), KVF_PROTOCOL);
	assert_non_null(strstr(kvf_error(), "HELLO: msgpack"));
	assert_int_equal(decode_body(KVFI_MSG_HELLO, "\xdd\xff\xff\xff\xff", 5), KVF_PROTOCOL);
	assert_int_equal(decode_body(KVFI_MSG_REQUEST, "", 0), KVF_PROTOCOL);
	assert_int_equal(decode_body(KVFI_MSG_REQUEST, "\x05", 1), KVF_PROTOCOL);
	assert_non_null(strstr(kvf_error(), "not a map"));
	assert_int_equal(decode_body(KVFI_MSG_REQUEST, "\x80", 1), KVF_PROTOCOL);
}

static void limits_of_a_request_are_named(void **state)
{
	struct kvfi_id_run runs[2] = {{.start = 0, .count = 3}, {.start = 7, .count = 2}};
	struct kvfi_msg msg = {.header = {.type = KVFI_MSG_REQUEST}};
	struct kvfi_msg_request *request = &msg.u.request;
	unsigned char bytes[1024];
	size_t len;

	(void)state;
	request->n_groups = 1;
	request->groups[0] =
		(struct kvfi_request_group){.n_ids = 5, .tokens_per_block = 8, .n_runs = 2, .runs = runs};
	assert_int_equal(kvfi_msg_encode(&msg, bytes, sizeof(bytes), &len), KVF_OK);
	request->groups[0].n_ids = 6;
	assert_int_equal(kvfi_msg_encode(&msg, bytes, sizeof(bytes), &len), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "group 0: ids: 6, its runs have 5"));
	runs[0] = (struct kvfi_id_run){.start = INT32_MAX, .count = 4};
	assert_int_equal(kvfi_msg_encode(&msg, bytes, sizeof(bytes), &len), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "run end"));
	runs[0] = (struct kvfi_id_run){.start = INT32_MIN, .count = 4}; /* four blocks without a page */
	assert_int_equal(kvfi_msg_encode(&msg, bytes, sizeof(bytes), &len), KVF_OK);
	runs[1].count = 0;
	assert_int_equal(kvfi_msg_encode(&msg, bytes, sizeof(bytes), &len), KVF_EINVAL);
	runs[1].count = 2;
	request->n_groups = 2;
	request->groups[1] = request->groups[0];
	assert_int_equal(kvfi_msg_encode(&msg, bytes, sizeof(bytes), &len), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "twice"));
	request->n_groups = KVF_MAX_GROUPS + 1;
	assert_int_equal(kvfi_msg_encode(&msg, bytes, sizeof(bytes), &len), KVF_EINVAL);
	request->n_groups = 1;
	request->prompt_len = KVF_MAX_TOKENS + 1;
	assert_int_equal(kvfi_msg_encode(&msg, bytes, sizeof(bytes), &len), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "REQUEST: prompt: 4294967297"));
}

static void limits_of_a_hello_are_named(void **state)
{
	struct random_message *random = random_message_new(3, KVFI_MSG_HELLO);
	struct kvf_instance *instance = random->msg.u.hello.instance;
	struct kvf_layout *layout = random->msg.u.hello.layout;
	unsigned char *bytes = malloc(1 << 20);
	char name[300];
	size_t len;

	(void)state;
	assert_non_null(bytes);
	random->msg.u.hello.layout = NULL;
	assert_int_equal(kvfi_msg_encode(&random->msg, bytes, 1 << 20, &len), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "layout: none"));
	random->msg.u.hello.layout = layout;
	instance->dp = 0;
	assert_int_equal(kvfi_msg_encode(&random->msg, bytes, 1 << 20, &len), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "instance: dp: 0"));
	instance->dp = 1;
	memset(name, 'n', sizeof(name));
	name[256] = '\0';
	layout->model = name;
	assert_int_equal(kvfi_msg_encode(&random->msg, bytes, 1 << 20, &len), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "layout: model"));
	name[255] = '\0';
	assert_int_equal(kvfi_msg_encode(&random->msg, bytes, 1 << 20, &len), KVF_OK);
	layout->rank = KVF_MAX_RANKS;
	assert_int_equal(kvfi_msg_encode(&random->msg, bytes, 1 << 20, &len), KVF_EINVAL);
	layout->rank = 0;
	((struct kvf_group *)(uintptr_t)layout->groups)[0].tokens_per_block = 0;
	assert_int_equal(kvfi_msg_encode(&random->msg, bytes, 1 << 20, &len), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "layout: group 0: HELLO: tpb: 0"));
	free(bytes);
	random_message_free(random);
}

/* 4096 ranks, 64 layers each: the largest instance there is fits, with room to spare. */
static void the_largest_instance_travels(void **state)
{
	struct random_message *random = random_message_new(4, KVFI_MSG_HELLO);
	struct kvf_instance *instance = random->msg.u.hello.instance;
	struct kvf_rank *ranks = calloc(KVF_MAX_RANKS, sizeof(*ranks));
	struct kvf_rank_group group = {.n_layers = 64, .head_count = {1, 1}};
	uint32_t layers[64];
	struct kvfi_msg after;
	unsigned char *bytes;
	size_t room, len;

	(void)state;
	assert_non_null(ranks);
	for (uint32_t i = 0; i < 64; i++)
		layers[i] = i;
	group.layers = layers;
	for (uint32_t r = 0; r < KVF_MAX_RANKS; r++)
		ranks[r] = (struct kvf_rank){.tp = r, .endpoint = "tcp://127.0.0.1:40000", .groups = &group};
	instance->tp = KVF_MAX_RANKS;
	instance->pp = instance->cp = instance->dp = instance->n_groups = 1;
	instance->n_ranks = KVF_MAX_RANKS;
	instance->ranks = ranks;
	room = kvfi_msg_bound(&random->msg);
	assert_true(room < KVFI_WIRE_MAX_BYTES / 16);
	bytes = malloc(room);
	assert_non_null(bytes);
	assert_int_equal(kvfi_msg_encode(&random->msg, bytes, room, &len), KVF_OK);
	if (kvfi_msg_decode(bytes, len, &after) != KVF_OK)
		fail_msg("%s", kvf_error());
	assert_messages_equal(&random->msg, &after);
	kvfi_msg_fini(&after);
	free(bytes);
	free(ranks);
	random_message_free(random);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_same_in_other_words_is_the_same),
		cmocka_unit_test(a_missing_key_is_named_wherever_it_is),
		cmocka_unit_test(a_value_of_another_type_is_named_wherever_it_is),
		cmocka_unit_test(wild_values_are_survived),
		cmocka_unit_test(a_few_bytes_cannot_ask_for_much),
		cmocka_unit_test(limits_of_a_request_are_named),
		cmocka_unit_test(limits_of_a_hello_are_named),
		cmocka_unit_test(the_largest_instance_travels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

static void cold_messages_are_not_built_in(void **state)
{
	(void)state;
	print_message("skipped: built without msgpack\n");
	skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(cold_messages_are_not_built_in)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
