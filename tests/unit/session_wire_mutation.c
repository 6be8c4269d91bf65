/* session_wire_mutation.c - one field of one message is damaged on its way between two cores: is it noticed?
 *
 * Every field of every message of a session, in several scenes, takes the values 0, one more, one less, its top bit turned, and all ones, in the first,
 * a middle and the last message of its kind: one run each. In every run the rig checks what it always checks (no byte stored after RELEASED, no
 * session that completed without its bytes), every session ends, and a sender completes only with its receiver. And the damage is seen: the
 * wire refuses it, a core counts it, or a session says that it failed. The fields whose damage nobody needs to see are listed with the reason,
 * and a field that is listed for nothing fails the test too.
 *
 * Fixed frames are damaged as bytes, by the offsets of docs/wire.md; a REQUEST as the structure that its map becomes, for builds without msgpack.
 * The incarnations and the link in the header are the agent's: it looks at them before a core does, and has its own tests.
 */
#include "session_scene.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"
#include "wire/codec.h"
#include "wire/frame.h"

#define SECOND     KVFI_NS_PER_S
#define N_REQUESTS 3
#define N_VALUES   5
#define N_TYPES    (KVFI_MSG_LAST + 1)

/* ---- fields ---- */

enum place {
	IN_HEADER, /* of every fixed frame */
	IN_FRAME,
	AFTER_RANGES, /* of a RESULT: offset counts from there */
	FROM_END,
	IN_STRUCT, /* of a REQUEST */
	IN_RUN     /* the first run of its first list */
};

struct field {
	enum kvfi_msg_type type; /* 0: all but REQUEST */
	enum place place;
	const char *name;
	size_t offset, size;
	const char *harmless; /* why its damage may go unseen; NULL: it must not */
};

#define REQUEST(member)                                                                                      \
	KVFI_MSG_REQUEST, IN_STRUCT, #member, offsetof(struct kvfi_msg, u.request.member),                   \
		sizeof(((struct kvfi_msg *)0)->u.request.member)
#define REQUEST_HEADER(member)                                                                               \
	KVFI_MSG_REQUEST, IN_STRUCT, "header " #member, offsetof(struct kvfi_msg, header.member),            \
		sizeof(((struct kvfi_msg *)0)->header.member)

static const struct field fields[] = {
	{0, IN_HEADER, "magic", 0, 4, NULL},
	{0, IN_HEADER, "version", 4, 2, NULL},
	{0, IN_HEADER, "type", 6, 2, "REQUEST_OK and CLAIM look alike, and each answers a REQUEST"},
	{0, IN_HEADER, "length", 8, 4, NULL},
	{0, IN_HEADER, "attempt", 12, 4, NULL},
	{0, IN_HEADER, "instance_id", 40, 8, NULL},
	{0, IN_HEADER, "request_id", 48, 8, NULL},
	{0, IN_HEADER, "epoch", 56, 8, NULL},

	{REQUEST_HEADER(instance_id), NULL},
	{REQUEST_HEADER(request_id), NULL},
	{REQUEST_HEADER(attempt), NULL},
	{REQUEST_HEADER(epoch), NULL},
	{REQUEST(prompt_len), NULL},
	{REQUEST(dp_index), NULL},
	{REQUEST(dp_rank), NULL},
	{REQUEST(replica), NULL},
	{REQUEST(aux_slot), NULL},
	{REQUEST(aux_bytes), NULL},
	{REQUEST(lease_slot), NULL},
	{REQUEST(lease_generation), NULL},
	{REQUEST(time_left_ns), NULL},
	{REQUEST(digest), NULL},
	{REQUEST(verify), NULL},
	{REQUEST(seal), NULL},
	{REQUEST(n_groups), NULL},
	{REQUEST(groups[0].group), NULL},
	{REQUEST(groups[0].n_ids), NULL},
	{REQUEST(groups[0].tokens_per_block), NULL},
	{KVFI_MSG_REQUEST, IN_RUN, "run start", offsetof(struct kvfi_id_run, start), 4, NULL},
	{KVFI_MSG_REQUEST, IN_RUN, "run count", offsetof(struct kvfi_id_run, count), 4, NULL},

	{KVFI_MSG_REQUEST_OK, IN_FRAME, "known", 64, 4, "nobody decides by it"},
	{KVFI_MSG_CLAIM, IN_FRAME, "dp", 64, 4, NULL},
	{KVFI_MSG_GO, IN_FRAME, "dp", 64, 4, NULL},
	{KVFI_MSG_GO, IN_FRAME, "lease_slot", 68, 4, NULL},
	{KVFI_MSG_GO, IN_FRAME, "lease_generation", 72, 4, NULL},
	{KVFI_MSG_GO, IN_FRAME, "seal", 76, 8, NULL},

	{KVFI_MSG_RESULT, IN_FRAME, "kind", 64, 4, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "slice", 68, 4, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "rx_slice", 72, 4, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "last", 76, 4, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "status", 80, 4, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "n_ranges", 84, 4, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "bytes", 88, 8, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "runs", 96, 8, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "sum", 104, 8, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "dropped_tokens", 112, 8, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "layer_start", 120, 4, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "layer_end", 124, 4, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "aux_bytes", 128, 4, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "range group", 132, 4, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "range first", 136, 8, NULL},
	{KVFI_MSG_RESULT, IN_FRAME, "range end", 144, 8, NULL},
	{KVFI_MSG_RESULT, AFTER_RANGES, "reason length", 0, 2, NULL},
	{KVFI_MSG_RESULT, FROM_END, "last byte of aux", 9, 1, NULL},
	{KVFI_MSG_RESULT, FROM_END, "seal", 8, 8, NULL},

	{KVFI_MSG_ACK, IN_FRAME, "kind", 64, 4, NULL},
	{KVFI_MSG_ACK, IN_FRAME, "slice", 68, 4, NULL},
	{KVFI_MSG_ACK, IN_FRAME, "verdict", 72, 4, "a failed RESULT was heard, whatever the verdict"},
	{KVFI_MSG_ACK, IN_FRAME, "status", 76, 4, NULL},

	{KVFI_MSG_CANCEL, IN_FRAME, "status", 64, 4, "it says why; what follows is the same"},
	{KVFI_MSG_CANCEL, IN_FRAME, "reason length", 68, 2, NULL},
};
#define N_FIELDS (sizeof(fields) / sizeof(fields[0]))

static uint64_t load(const unsigned char *at, size_t size)
{
	uint64_t value = 0;

	for (size_t i = 0; i < size; i++)
		value |= (uint64_t)at[i] << (8 * i);
	return value;
}

/* False: the value is the one that is there. */
static bool damage(unsigned char *at, size_t size, uint32_t which)
{
	uint64_t old = load(at, size), ones = size == 8 ? UINT64_MAX : (UINT64_C(1) << (8 * size)) - 1;
	const uint64_t values[N_VALUES] = {0, old + 1, old - 1, old ^ (ones / 2 + 1), ones};
	uint64_t value = values[which] & ones;

	for (size_t i = 0; i < size; i++)
		at[i] = (unsigned char)(value >> (8 * i));
	return value != old;
}

/* ---- one run ---- */

struct scenario {
	const char *name;
	struct scene scene;
	bool verify, aux, unknown_dp;
	bool end_rx, end_tx; /* that side gives up in the middle */
};

struct mutation {
	const struct field *field; /* NULL: none */
	enum kvfi_msg_type type;
	uint32_t value, nth;    /* of the messages of that type */
	uint32_t seen[N_TYPES]; /* messages of each type */
	bool done, refused;
};

static bool concerns(const struct field *field, enum kvfi_msg_type type)
{
	return field->type == type || (field->type == 0 && type != KVFI_MSG_REQUEST);
}

/* Where the field is in the frame of this message; 0: it has none. */
static size_t place_in(const struct field *field, const struct kvfi_msg *msg, size_t len_bytes)
{
	const struct kvfi_msg_result *result = &msg->u.result;

	if (field->place == AFTER_RANGES)
		return 132 + 20 * (size_t)result->n_ranges + field->offset;
	if (field->place == FROM_END)
		return field->size > 1 || result->aux_bytes > 0 ? len_bytes - field->offset : 0;
	if (msg->header.type == KVFI_MSG_RESULT && field->offset >= 132 && result->n_ranges == 0)
		return 0;
	return field->offset;
}

static bool change_frame(struct mutation *mutation, struct kvfi_msg *msg)
{
	const struct field *field = mutation->field;
	unsigned char frame[4096];
	struct kvfi_msg changed;
	size_t len_bytes, at;

	assert_int_equal(kvfi_msg_encode(msg, frame, sizeof(frame), &len_bytes), KVF_OK);
	at = place_in(field, msg, len_bytes);
	if (at == 0 && field->offset != 0)
		return true;
	mutation->done = damage(frame + at, field->size, mutation->value);
	if (kvfi_msg_decode(frame, len_bytes, &changed) != KVF_OK)
		return false;
	kvfi_msg_fini(msg);
	*msg = changed;
	return true;
}

static bool change_request(struct mutation *mutation, struct kvfi_msg *msg)
{
	const struct field *field = mutation->field;
	void *base = field->place == IN_RUN ? (void *)msg->u.request.groups[0].runs : (void *)msg;

	mutation->done = damage((unsigned char *)base + field->offset, field->size, mutation->value);
	return kvfi_msg_check(msg, KVF_PROTOCOL) == KVF_OK;
}

static bool change(struct rig *rig, struct kvfi_msg *msg)
{
	struct mutation *mutation = rig->change_argument;
	enum kvfi_msg_type type = msg->header.type;
	bool passes;

	if (mutation->seen[type]++ != mutation->nth || mutation->field == NULL || type != mutation->type)
		return true;
	passes = type == KVFI_MSG_REQUEST ? change_request(mutation, msg) : change_frame(mutation, msg);
	mutation->refused = mutation->refused || !passes;
	return passes;
}

/* What can be seen of a run from outside. */
struct witness {
	enum kvf_status status[RIG_MAX_NODES][N_REQUESTS];
	struct kvfi_core_counters counters[RIG_MAX_NODES];
};

static void open_requests(struct rig *rig, const struct scenario *scenario)
{
	for (uint32_t i = 0; i < N_REQUESTS; i++) {
		struct rig_ask ask = {
			.request_id = 100 + i, .prompt_len = 24, .chunks = 2, .aux = scenario->aux};

		ask.dp_index = scenario->unknown_dp ? KVF_DP_UNKNOWN : 0;
		scene_open_rx(rig, i, &ask);
		for (uint32_t n = 0; n < rig->n_prefill; n++) {
			if (scenario->unknown_dp && n != i % rig->n_prefill)
				continue;
			rig_tx_open(rig, n, i, &ask);
			rig_tx_send(rig, n, i);
		}
		rig_run_for(rig, 30000);
	}
}

/* Of one sender and one receiver, when nobody breaks the connection or gives up, both complete or none. */
static void check_together(struct rig *rig, uint32_t request)
{
	bool sent = false, received = true;

	for (uint32_t n = 0; n < rig->n_nodes; n++) {
		const struct rig_session *session = scene_session(rig, n, request);

		if (session->open && rig->nodes[n].decode)
			received = received && session->status == KVF_OK;
		else if (session->open)
			sent = sent || session->status == KVF_OK;
	}
	if (sent && !received)
		fail_msg("request %u: a sender completed, a receiver did not", request);
}

static void check_ends(struct rig *rig, const struct scenario *scenario, const struct mutation *mutation)
{
	for (uint32_t i = 0; i < N_REQUESTS; i++) {
		for (uint32_t n = 0; n < rig->n_nodes; n++) {
			const struct rig_session *session = scene_session(rig, n, i);

			if (session->open && (!session->outcome || !session->released))
				fail_msg("node %u request %u: outcome %d, released %d", n, i,
					session->outcome, session->released);
		}
		if (rig->n_nodes == 2 && !mutation->refused && !scenario->end_rx)
			check_together(rig, i);
	}
}

static void run(const struct scenario *scenario, struct mutation *mutation, struct witness *witness)
{
	struct scene scene = scenario->scene;
	struct rig rig;

	memset(witness, 0, sizeof(*witness));
	scene.config = rig_config();
	scene.config.queue_timeout_ns = 20 * KVFI_NS_PER_S;
	scene.config.verify = scenario->verify ? KVF_VERIFY_SUM : KVF_VERIFY_NONE;
	scene_open(&rig, &scene);
	rig.change = change;
	rig.change_argument = mutation;
	open_requests(&rig, scenario);
	for (uint32_t n = 0; n < rig.n_nodes; n++)
		if (rig.nodes[n].decode ? scenario->end_rx : scenario->end_tx)
			rig_end_all(&rig, n);
	rig_run_for(&rig, 200 * SECOND);
	for (uint32_t n = 0; n < rig.n_prefill; n++) /* a tx that nobody has asked for */
		rig_end_all(&rig, n);
	rig_run_for(&rig, 10 * SECOND);
	check_ends(&rig, scenario, mutation);
	for (uint32_t n = 0; n < rig.n_nodes; n++) {
		witness->counters[n] = *kvfi_core_counters(rig.nodes[n].core);
		for (uint32_t i = 0; i < N_REQUESTS; i++)
			witness->status[n][i] = scene_session(&rig, n, i)->status;
	}
	rig.change = NULL;
	scene_close(&rig);
}

/* ---- all of them ---- */

static struct {
	uint32_t runs, refused, seen, unseen, wrong;
	bool passed_unseen[N_FIELDS];
	char now[160];
} tally;

static void judge(const struct scenario *scenario, const struct field *field, const struct mutation *made,
	const struct witness *witness)
{
	struct mutation mutation = *made;
	struct witness damaged;

	(void)snprintf(tally.now, sizeof(tally.now), "%s: %s of %s %u, value %u", scenario->name, field->name,
		kvfi_msg_name(made->type), made->nth, made->value);
	run(scenario, &mutation, &damaged);
	if (!mutation.done)
		return;
	tally.runs++;
	if (mutation.refused) {
		tally.refused++;
	} else if (memcmp(&damaged, witness, sizeof(damaged)) != 0) {
		tally.seen++;
	} else {
		tally.unseen++;
		tally.passed_unseen[field - fields] = true;
		if (field->harmless == NULL) {
			print_error("%s: nobody has seen it\n", tally.now);
			tally.wrong++;
		}
	}
}

/* The first, a middle and the last message. */
static void mutate_type(const struct scenario *scenario, const struct field *field, enum kvfi_msg_type type,
	const struct mutation *plain, const struct witness *witness)
{
	uint32_t n = plain->seen[type];
	const uint32_t nth[3] = {0, n / 2, n - 1};

	for (uint32_t i = 0; n > 0 && i < 3; i++) {
		for (uint32_t value = 0; value < N_VALUES && (i == 0 || nth[i] != nth[i - 1]); value++) {
			struct mutation mutation = {
				.field = field, .type = type, .value = value, .nth = nth[i]};

			judge(scenario, field, &mutation, witness);
		}
	}
}

static const struct scenario scenarios[] = {
	{"one-sided", {0}, .aux = true},
	{"receiver-applied", {.receiver_applied = true}, .aux = true},
	{"one-sided, sums", {0}, .verify = true},
	{"receiver-applied, sums", {.receiver_applied = true}, .verify = true},
	{"two senders", {.prefill_tp = 2}, .aux = true},
	{"two receivers", {.decode_tp = 2}, .aux = true},
	{"unknown DP index", {.prefill_tp = 2, .prefill_dp = 2}, .unknown_dp = true},
	{"given up by the receiver", {.prefill_tp = 2}, .end_rx = true},
	{"given up by the receiver, receiver-applied", {.receiver_applied = true}, .end_rx = true},
	{"given up by the sender", {.decode_tp = 2}, .end_tx = true},
};

static int tell_run(void **state)
{
	(void)state;
	if (tally.now[0] != '\0')
		print_error("failing run: %s\n", tally.now);
	return 0;
}

static void one_damaged_field_never_passes_unseen_where_it_matters(void **state)
{
	(void)state;
	for (size_t s = 0; s < sizeof(scenarios) / sizeof(scenarios[0]); s++) {
		struct mutation plain = {0};
		struct witness witness;

		run(&scenarios[s], &plain, &witness);
		for (size_t f = 0; f < N_FIELDS; f++)
			for (uint32_t type = 1; type < N_TYPES; type++)
				if (concerns(&fields[f], (enum kvfi_msg_type)type))
					mutate_type(&scenarios[s], &fields[f], (enum kvfi_msg_type)type,
						&plain, &witness);
	}
	for (size_t f = 0; f < N_FIELDS; f++)
		if (fields[f].harmless != NULL && !tally.passed_unseen[f])
			fail_msg("%s of %s: listed as harmless, and always seen", fields[f].name,
				kvfi_msg_name(fields[f].type));
	tally.now[0] = '\0';
	assert_int_equal(tally.wrong, 0);
	print_message("%u runs: %u refused by the wire, %u seen, %u harmless\n", tally.runs, tally.refused,
		tally.seen, tally.unseen);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(one_damaged_field_never_passes_unseen_where_it_matters, tell_run),
	};

	(void)mallopt(
		M_MMAP_THRESHOLD, 64 << 20); /* thousands of small worlds: let them have the same pages */
	(void)mallopt(M_TRIM_THRESHOLD, 256 << 20);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
