/* wire_codec.c - every message there and back; cut, flipped, lying and foreign bytes are refused by name. */
#include "wire_random.h"

#include "wire/frame.h"

#define SEEDS 40u

struct bytes {
	unsigned char *at;
	size_t len;
};

static bool is_fixed(int type)
{
	return type > KVFI_MSG_REQUEST;
}

/* Without msgpack only fixed frames have bytes. */
static int first_type(void)
{
#ifdef KVFI_WITH_ZMQ
	return KVFI_MSG_HELLO;
#else
	return KVFI_MSG_REQUEST_OK;
#endif
}

static struct bytes encode(const struct kvfi_msg *msg)
{
	struct bytes bytes = {.len = 0};
	const size_t bound = kvfi_msg_bound(msg);

	bytes.at = malloc(bound);
	assert_non_null(bytes.at);
	if (kvfi_msg_encode(msg, bytes.at, bound, &bytes.len) != KVF_OK)
		fail_msg("encode: %s", kvf_error());
	assert_true(bytes.len <= bound);
	return bytes;
}

/* From a heap block of exactly that size, so that a sanitizer sees a read beyond its end. */
static enum kvf_status decode_exact(const unsigned char *bytes, size_t len)
{
	unsigned char *exact = malloc(len == 0 ? 1 : len);
	struct kvfi_msg msg;
	enum kvf_status status;

	assert_non_null(exact);
	if (len > 0)
		memcpy(exact, bytes, len);
	status = kvfi_msg_decode(exact, len, &msg);
	free(exact);
	if (status == KVF_OK)
		kvfi_msg_fini(&msg);
	return status;
}

static void store_length(struct bytes *bytes, size_t len)
{
	kvfi_store_le(bytes->at + 8, len, 4);
}

static void every_message_survives_the_round_trip(void **state)
{
	(void)state;
	for (int type = first_type(); type <= KVFI_MSG_LAST; type++) {
		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			struct random_message *random = random_message_new(seed, (enum kvfi_msg_type)type);
			struct bytes bytes = encode(&random->msg);
			struct kvfi_msg after;

			if (kvfi_msg_decode(bytes.at, bytes.len, &after) != KVF_OK)
				fail_msg("seed %llu, %s: %s", (unsigned long long)seed,
					kvfi_msg_name((enum kvfi_msg_type)type), kvf_error());
			free(bytes.at);
			assert_messages_equal(&random->msg, &after);
			kvfi_msg_fini(&after);
			random_message_free(random);
		}
	}
}

static void copies_are_deep(void **state)
{
	(void)state;
	for (int type = KVFI_MSG_HELLO; type <= KVFI_MSG_LAST; type++) {
		struct random_message *random = random_message_new(5, (enum kvfi_msg_type)type);
		struct random_message *again = random_message_new(5, (enum kvfi_msg_type)type);
		struct kvfi_msg copy;

		assert_int_equal(kvfi_msg_dup(&random->msg, &copy), KVF_OK);
		random_message_free(random);
		assert_messages_equal(&again->msg, &copy);
		kvfi_msg_fini(&copy);
		kvfi_msg_fini(&copy);
		random_message_free(again);
	}
}

static void every_truncation_is_refused(void **state)
{
	(void)state;
	for (int type = first_type(); type <= KVFI_MSG_LAST; type++) {
		struct random_message *random = random_message_new(3, (enum kvfi_msg_type)type);
		struct bytes bytes = encode(&random->msg);
		const size_t step = bytes.len / 3000 + 1;

		for (size_t cut = 0; cut < bytes.len; cut += step) {
			struct bytes lying = {.at = malloc(bytes.len), .len = cut};

			assert_non_null(lying.at);
			memcpy(lying.at, bytes.at, bytes.len);
			assert_int_equal(decode_exact(lying.at, cut), KVF_PROTOCOL);
			if (cut >= 64) { /* and when the header agrees with the cut */
				store_length(&lying, cut);
				assert_int_equal(decode_exact(lying.at, cut), KVF_PROTOCOL);
			}
			free(lying.at);
		}
		free(bytes.at);
		random_message_free(random);
	}
}

static void extra_bytes_are_refused(void **state)
{
	(void)state;
	for (int type = first_type(); type <= KVFI_MSG_LAST; type++) {
		struct random_message *random = random_message_new(4, (enum kvfi_msg_type)type);
		struct bytes bytes = encode(&random->msg);

		bytes.at = realloc(bytes.at, bytes.len + 1);
		assert_non_null(bytes.at);
		bytes.at[bytes.len] = 0;
		assert_int_equal(decode_exact(bytes.at, bytes.len + 1), KVF_PROTOCOL);
		store_length(&bytes, bytes.len + 1);
		assert_int_equal(decode_exact(bytes.at, bytes.len + 1), KVF_PROTOCOL);
		free(bytes.at);
		random_message_free(random);
	}
}

/* A flipped message may still be a message; then it can be encoded again. It never crashes and never leaks. */
static void flipped_bits_never_crash(void **state)
{
	(void)state;
	for (int type = first_type(); type <= KVFI_MSG_LAST; type++) {
		struct random_message *random = random_message_new(9, (enum kvfi_msg_type)type);
		struct bytes bytes = encode(&random->msg);
		const size_t bits = bytes.len * 8, step = bits / 5000 + 1;

		for (size_t bit = 0; bit < bits; bit += step) {
			struct kvfi_msg msg;

			bytes.at[bit / 8] ^= (unsigned char)(1u << (bit % 8));
			if (kvfi_msg_decode(bytes.at, bytes.len, &msg) == KVF_OK) {
				struct bytes again = encode(&msg);

				free(again.at);
				kvfi_msg_fini(&msg);
			}
			bytes.at[bit / 8] ^= (unsigned char)(1u << (bit % 8));
		}
		free(bytes.at);
		random_message_free(random);
	}
}

static void another_version_is_named_and_another_magic_is_garbage(void **state)
{
	struct random_message *random = random_message_new(1, KVFI_MSG_PING);
	struct bytes bytes = encode(&random->msg);

	(void)state;
	bytes.at[4] = 9;
	assert_int_equal(decode_exact(bytes.at, bytes.len), KVF_PEER_VERSION);
	assert_non_null(strstr(kvf_error(), "9"));
	assert_non_null(strstr(kvf_error(), "we speak 1"));
	assert_int_equal(decode_exact(bytes.at, 6), KVF_PEER_VERSION);
	bytes.at[4] = 1;
	bytes.at[0] ^= 1;
	assert_int_equal(decode_exact(bytes.at, bytes.len), KVF_PROTOCOL);
	assert_non_null(strstr(kvf_error(), "magic"));
	bytes.at[0] ^= 1;
	bytes.at[6] = KVFI_MSG_LAST + 1; /* the first number that is none */
	assert_int_equal(decode_exact(bytes.at, bytes.len), KVF_PROTOCOL);
	assert_non_null(strstr(kvf_error(), "type: "));
	assert_null(strstr(kvf_error(), "version"));
	bytes.at[6] = 0;
	assert_int_equal(decode_exact(bytes.at, bytes.len), KVF_PROTOCOL);
	free(bytes.at);
	random_message_free(random);
}

/* A result that failed is the result that did not, but for what it says. */
static void t_p15_success_and_failure_are_the_same_frame(void **state)
{
	struct random_message *random = random_message_new(2, KVFI_MSG_RESULT);
	struct bytes good, bad;
	unsigned differ = 0;

	(void)state;
	random->msg.u.result.status = KVF_OK;
	good = encode(&random->msg);
	random->msg.u.result.status = KVF_BLOCK_LIST;
	bad = encode(&random->msg);
	assert_int_equal(good.len, bad.len);
	for (size_t i = 0; i < good.len; i++) {
		if (good.at[i] != bad.at[i]) {
			assert_in_range(i, 80, 83); /* the status */
			differ++;
		}
	}
	assert_true(differ > 0);
	assert_int_equal(decode_exact(good.at, good.len), KVF_OK);
	assert_int_equal(decode_exact(bad.at, bad.len), KVF_OK);
	free(good.at);
	free(bad.at);
	random_message_free(random);
}

static void t_p43_ids_survive_with_all_64_bits(void **state)
{
	static const uint64_t ids[] = {
		UINT64_MAX, UINT64_C(1) << 63, UINT64_C(0x1000), UINT64_C(0x8000000000001000)};

	(void)state;
	for (int type = first_type(); type <= KVFI_MSG_LAST; type++) {
		struct random_message *random = random_message_new(6, (enum kvfi_msg_type)type);

		for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
			struct kvfi_msg after;
			struct bytes bytes;

			random->msg.header.request_id = ids[i];
			random->msg.header.instance_id = ~ids[i];
			random->msg.header.from = ids[i] ^ 1;
			random->msg.header.to = ids[i] ^ 2;
			random->msg.header.link = ids[i] ^ 4;
			random->msg.header.epoch = ids[i] ^ 8;
			random->msg.header.attempt = UINT32_MAX;
			bytes = encode(&random->msg);
			assert_int_equal(kvfi_msg_decode(bytes.at, bytes.len, &after), KVF_OK);
			assert_messages_equal(&random->msg, &after);
			kvfi_msg_fini(&after);
			free(bytes.at);
		}
		random_message_free(random);
	}
}

static void a_buffer_that_is_too_small_is_full(void **state)
{
	(void)state;
	for (int type = first_type(); type <= KVFI_MSG_LAST; type++) {
		struct random_message *random = random_message_new(8, (enum kvfi_msg_type)type);
		struct bytes bytes = encode(&random->msg);
		const size_t step = bytes.len / 100 + 1;
		size_t len = 4711;

		for (size_t room = 0; room < bytes.len; room += step) {
			unsigned char *small = malloc(room == 0 ? 1 : room);

			assert_non_null(small);
			assert_int_equal(kvfi_msg_encode(&random->msg, small, room, &len), KVF_EFULL);
			free(small);
		}
		assert_int_equal(len, 4711);
		free(bytes.at);
		random_message_free(random);
	}
}

/* Counts and enums of fixed frames, each claimed wrong at its offset. */
static void fixed_fields_out_of_range_are_named(void **state)
{
	static const struct {
		enum kvfi_msg_type type;
		size_t offset;
		uint32_t value;
		const char *names;
	} wrongs[] = {
		{KVFI_MSG_REQUEST_OK, 64, 2, "REQUEST_OK: known: 2"},
		{KVFI_MSG_CLAIM, 64, KVF_MAX_RANKS, "CLAIM: dp: 4096"},
		{KVFI_MSG_GO, 64, UINT32_MAX, "GO: dp"},
		{KVFI_MSG_RESULT, 64, 0, "RESULT: kind: 0"},
		{KVFI_MSG_RESULT, 64, 3, "RESULT: kind: 3"},
		{KVFI_MSG_RESULT, 76, 2, "RESULT: last: 2"},
		{KVFI_MSG_RESULT, 80, 1, "RESULT: status: 1"},
		{KVFI_MSG_RESULT, 80, (uint32_t)-1000, "RESULT: status: -1000"},
		{KVFI_MSG_RESULT, 84, KVFI_MAX_RANGES + 1, "RESULT: ranges: 65"},
		{KVFI_MSG_RESULT, 84, UINT32_MAX, "RESULT: ranges"},
		{KVFI_MSG_RESULT, 120, KVF_MAX_LAYERS + 1, "RESULT: layer_start"},
		{KVFI_MSG_RESULT, 124, KVF_MAX_LAYERS + 1, "RESULT: layer_end"},
		{KVFI_MSG_RESULT, 128, UINT32_MAX, "RESULT: length"},
		{KVFI_MSG_ACK, 64, 9, "ACK: kind: 9"},
		{KVFI_MSG_ACK, 72, 3, "ACK: verdict: 3"},
		{KVFI_MSG_ACK, 76, 5, "ACK: status: 5"},
		{KVFI_MSG_CANCEL, 64, 77, "CANCEL: status: 77"},
		{KVFI_MSG_GROUP, 80, UINT32_MAX, "GROUP: rank: 4294967295"},
		{KVFI_MSG_GROUP, 84, 0, "GROUP: members: 0"},
		{KVFI_MSG_GROUP, 84, KVF_GROUP_MAX_RANKS + 1, "GROUP: members: 65"},
		{KVFI_MSG_GROUP, 88, 4, "GROUP: flags: 4"},
		{KVFI_MSG_GROUP, 92, UINT32_MAX, "GROUP: length"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		struct random_message *random = random_message_new(10, wrongs[i].type);
		struct bytes bytes = encode(&random->msg);

		kvfi_store_le(bytes.at + wrongs[i].offset, wrongs[i].value, 4);
		assert_int_equal(decode_exact(bytes.at, bytes.len), KVF_PROTOCOL);
		if (strstr(kvf_error(), wrongs[i].names) == NULL)
			fail_msg("'%s' does not say '%s'", kvf_error(), wrongs[i].names);
		free(bytes.at);
		random_message_free(random);
	}
}

static void texts_of_fixed_frames_are_bounded_and_without_nul(void **state)
{
	struct kvfi_msg msg = {.header = {.type = KVFI_MSG_CANCEL}};
	struct bytes bytes;

	(void)state;
	memset(msg.u.cancel.reason, 'x', sizeof(msg.u.cancel.reason) - 1);
	bytes = encode(&msg);
	assert_int_equal(decode_exact(bytes.at, bytes.len), KVF_OK);
	bytes.at[70 + 100] = 0;
	assert_int_equal(decode_exact(bytes.at, bytes.len), KVF_PROTOCOL);
	assert_non_null(strstr(kvf_error(), "CANCEL: reason: a NUL inside"));
	bytes.at[70 + 100] = 'x';
	bytes.at = realloc(bytes.at, bytes.len + 1);
	assert_non_null(bytes.at);
	bytes.at[bytes.len++] = 'x';
	store_length(&bytes, bytes.len);
	kvfi_store_le(bytes.at + 68, KVFI_REASON_BYTES, 2);
	assert_int_equal(decode_exact(bytes.at, bytes.len), KVF_PROTOCOL);
	assert_non_null(strstr(kvf_error(), "160 bytes, at most 159"));
	free(bytes.at);
}

/* What a peer would refuse is not sent. */
static void a_message_of_ours_that_is_wrong_is_refused_when_encoded(void **state)
{
	unsigned char buffer[8192];
	struct random_message *random = random_message_new(11, KVFI_MSG_RESULT);
	struct kvfi_msg unterminated = {.header = {.type = KVFI_MSG_CANCEL}};
	struct kvfi_msg unknown = {.header = {.type = (enum kvfi_msg_type)99}};
	size_t len;

	(void)state;
	random->msg.u.result.aux_bytes = 0;
	random->msg.u.result.n_ranges = 1;
	random->msg.u.result.ranges[0] = (struct kvfi_range){.group = 0, .token_first = 4, .token_end = 4};
	assert_int_equal(kvfi_msg_encode(&random->msg, buffer, sizeof(buffer), &len), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "RESULT: range end: 4, must be 5"));
	random->msg.u.result.n_ranges = KVFI_MAX_RANGES + 1;
	assert_int_equal(kvfi_msg_encode(&random->msg, buffer, sizeof(buffer), &len), KVF_EINVAL);
	random->msg.u.result.n_ranges = 0;
	random->msg.u.result.aux_bytes = KVF_MAX_AUX_BYTES + 1;
	assert_int_equal(kvfi_msg_encode(&random->msg, buffer, sizeof(buffer), &len), KVF_EINVAL);
	assert_int_equal(kvfi_msg_bound(&random->msg), 64);
	memset(unterminated.u.cancel.reason, 'x', sizeof(unterminated.u.cancel.reason));
	assert_int_equal(kvfi_msg_encode(&unterminated, buffer, sizeof(buffer), &len), KVF_EINVAL);
	assert_int_equal(kvfi_msg_encode(&unknown, buffer, sizeof(buffer), &len), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "99"));
	assert_string_equal(kvfi_msg_name((enum kvfi_msg_type)99), "UNKNOWN");
	random_message_free(random);
}

/* One field of a frame as docs/wire.md places it. */
static void assert_at(const struct bytes *bytes, size_t offset, unsigned width, uint64_t value)
{
	const uint64_t found = kvfi_load_le(bytes->at + offset, width);

	if (found != value)
		fail_msg("offset %zu: 0x%llx, not 0x%llx", offset, (unsigned long long)found,
			(unsigned long long)value);
}

static void fields_lie_where_the_documentation_says(void **state)
{
	struct random_message *random = random_message_new(13, KVFI_MSG_RESULT);
	const struct kvfi_msg_header *header = &random->msg.header;
	struct kvfi_msg_result *result = &random->msg.u.result;
	struct bytes bytes;

	(void)state;
	result->n_ranges = 1;
	result->ranges[0] =
		(struct kvfi_range){.group = 2, .token_first = 16, .token_end = UINT64_C(1) << 32};
	result->aux_bytes = 3;
	result->aux = (const unsigned char *)"aux";
	(void)snprintf(result->reason, sizeof(result->reason), "why");
	bytes = encode(&random->msg);
	assert_int_equal(bytes.len, 142 + 20 + 3 + 3);
	assert_memory_equal(bytes.at, "KVF1", 4);
	assert_at(&bytes, 4, 2, 1);
	assert_at(&bytes, 6, 2, 8);
	assert_at(&bytes, 8, 4, bytes.len);
	assert_at(&bytes, 12, 4, header->attempt);
	assert_at(&bytes, 16, 8, header->from);
	assert_at(&bytes, 24, 8, header->to);
	assert_at(&bytes, 32, 8, header->link);
	assert_at(&bytes, 40, 8, header->instance_id);
	assert_at(&bytes, 48, 8, header->request_id);
	assert_at(&bytes, 56, 8, header->epoch);
	assert_at(&bytes, 64, 4, result->kind);
	assert_at(&bytes, 68, 4, result->slice);
	assert_at(&bytes, 72, 4, result->rx_slice);
	assert_at(&bytes, 76, 4, result->last);
	assert_at(&bytes, 80, 4, (uint32_t)result->status);
	assert_at(&bytes, 84, 4, 1);
	assert_at(&bytes, 88, 8, result->bytes);
	assert_at(&bytes, 96, 8, result->runs);
	assert_at(&bytes, 104, 8, result->sum);
	assert_at(&bytes, 112, 8, result->dropped_tokens);
	assert_at(&bytes, 120, 4, result->layer_start);
	assert_at(&bytes, 124, 4, result->layer_end);
	assert_at(&bytes, 128, 4, 3);
	assert_at(&bytes, 132, 4, 2);
	assert_at(&bytes, 136, 8, 16);
	assert_at(&bytes, 144, 8, UINT64_C(1) << 32);
	assert_at(&bytes, 152, 2, 3);
	assert_memory_equal(bytes.at + 154, "whyaux", 6);
	assert_at(&bytes, 160, 8, result->seal);
	free(bytes.at);
	random_message_free(random);
}

static void results_stay_compact(void **state)
{
	struct kvfi_msg msg = {.header = {.type = KVFI_MSG_RESULT}};

	(void)state;
	msg.u.result.kind = KVFI_RESULT_KV;
	assert_int_equal(kvfi_msg_bound(&msg), 64 + 68 + 2 + 8);
	msg.u.result.n_ranges = 2;
	msg.u.result.ranges[0] = msg.u.result.ranges[1] = (struct kvfi_range){.group = 1, .token_end = 16};
	assert_int_equal(kvfi_msg_bound(&msg), 64 + 68 + 2 * 20 + 2 + 8);
	for (int type = KVFI_MSG_REQUEST_OK; type <= KVFI_MSG_QUIET; type++)
		assert_true(is_fixed(type) && kvfi_msg_is_hot((enum kvfi_msg_type)type));
	assert_false(kvfi_msg_is_hot(KVFI_MSG_HELLO) || kvfi_msg_is_hot(KVFI_MSG_REQUEST) ||
		     kvfi_msg_is_hot(KVFI_MSG_BYE));
	assert_true(kvfi_msg_may_ride(KVFI_MSG_REQUEST) && kvfi_msg_may_ride(KVFI_MSG_RESULT));
	assert_false(kvfi_msg_may_ride(KVFI_MSG_HELLO) || kvfi_msg_may_ride(KVFI_MSG_BYE));
}

static void cold_messages_need_msgpack(void **state)
{
	(void)state;
#ifdef KVFI_WITH_ZMQ
	print_message("skipped: built with msgpack\n");
	skip();
#else
	unsigned char bytes[128] = {0};
	struct random_message *ping = random_message_new(12, KVFI_MSG_PING);

	for (int type = KVFI_MSG_HELLO; type <= KVFI_MSG_REQUEST; type++) {
		struct random_message *random = random_message_new(12, (enum kvfi_msg_type)type);
		size_t len;

		assert_int_equal(kvfi_msg_encode(&random->msg, bytes, sizeof(bytes), &len), KVF_EUNSUPPORTED);
		assert_int_equal(kvfi_msg_encode(&ping->msg, bytes, sizeof(bytes), &len), KVF_OK);
		bytes[6] = (unsigned char)type;
		assert_int_equal(decode_exact(bytes, len), KVF_EUNSUPPORTED);
		random_message_free(random);
	}
	random_message_free(ping);
#endif
}

static void a_group_frame_is_as_the_page_says(void **state)
{
	struct random_message *random = random_message_new(2, KVFI_MSG_GROUP);
	const struct kvfi_msg_group *group = &random->msg.u.group;
	struct bytes bytes = encode(&random->msg);

	(void)state;
	assert_at(&bytes, 6, 2, 17);
	assert_at(&bytes, 64, 8, group->group);
	assert_at(&bytes, 72, 8, group->round);
	assert_at(&bytes, 80, 4, group->rank);
	assert_at(&bytes, 84, 4, group->members);
	assert_at(&bytes, 88, 4, group->flags);
	assert_at(&bytes, 92, 4, group->len_bytes);
	assert_at(&bytes, 96, 8, group->seal);
	assert_int_equal(bytes.len, 104 + group->len_bytes);
	assert_memory_equal(bytes.at + 104, group->bytes, group->len_bytes);
	free(bytes.at);
	random_message_free(random);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_message_survives_the_round_trip),
		cmocka_unit_test(copies_are_deep),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(extra_bytes_are_refused),
		cmocka_unit_test(flipped_bits_never_crash),
		cmocka_unit_test(another_version_is_named_and_another_magic_is_garbage),
		cmocka_unit_test(a_group_frame_is_as_the_page_says),
		cmocka_unit_test(t_p15_success_and_failure_are_the_same_frame),
		cmocka_unit_test(t_p43_ids_survive_with_all_64_bits),
		cmocka_unit_test(a_buffer_that_is_too_small_is_full),
		cmocka_unit_test(fixed_fields_out_of_range_are_named),
		cmocka_unit_test(texts_of_fixed_frames_are_bounded_and_without_nul),
		cmocka_unit_test(a_message_of_ours_that_is_wrong_is_refused_when_encoded),
		cmocka_unit_test(fields_lie_where_the_documentation_says),
		cmocka_unit_test(results_stay_compact),
		cmocka_unit_test(cold_messages_need_msgpack),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
