/* session_losses.c - one message is lost: each kind, and of each kind each one in turn, in every kind of story. Nothing hangs, nothing fails that would
 * have completed, and no table keeps anything of it. */
#include "session_scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "base/clock.h"

#define SECOND KVFI_NS_PER_S

struct one_loss {
	enum kvfi_msg_type type;
	uint32_t n, seen;
};

static bool lose_nth(struct rig *rig, uint32_t from, uint32_t to, const struct kvfi_msg *msg)
{
	struct one_loss *loss = rig->drop_argument;

	(void)from;
	(void)to;
	return msg->header.type == loss->type && loss->seen++ == loss->n;
}

struct story {
	const char *name;
	struct scene scene;
	void (*tell)(struct rig *rig, const struct rig_ask *ask);
	enum kvf_status status; /* of every session */
	bool aux;
	uint32_t dp_index;
};

/* ---- stories ---- */

static void complete(struct rig *rig, const struct rig_ask *ask)
{
	scene_open_rx(rig, 0, ask);
	scene_open_tx(rig, 0, ask);
	scene_send_tx(rig, 0);
}

static void complete_tx_first(struct rig *rig, const struct rig_ask *ask)
{
	scene_open_tx(rig, 0, ask);
	scene_send_tx(rig, 0);
	rig_run_for(rig, SECOND);
	scene_open_rx(rig, 0, ask);
}

/* Two DP groups are invited, the first one has the request. */
static void claim(struct rig *rig, const struct rig_ask *ask)
{
	scene_open_rx(rig, 0, ask);
	rig_run_for(rig, SECOND);
	rig_tx_open(rig, 0, 0, ask);
	rig_tx_send(rig, 0, 0);
}

static void begin(struct rig *rig, const struct rig_ask *ask)
{
	rig->hold_posts = true;
	rig->hold_after = 200;
	scene_open_rx(rig, 0, ask);
	scene_open_tx(rig, 0, ask);
	scene_send_tx(rig, 0);
	rig_run_for(rig, SECOND);
}

static void cancel_by_decode(struct rig *rig, const struct rig_ask *ask)
{
	begin(rig, ask);
	rig_cancel(rig, rig->n_prefill, 0, "not wanted");
}

static void cancel_by_prefill(struct rig *rig, const struct rig_ask *ask)
{
	begin(rig, ask);
	rig_cancel(rig, 0, 0, "not wanted");
}

/* Its tx comes when nobody wants it any more. */
static void cancel_while_parked(struct rig *rig, const struct rig_ask *ask)
{
	scene_open_rx(rig, 0, ask);
	rig_run_for(rig, 3 * SECOND);
	rig_cancel(rig, rig->n_prefill, 0, "not wanted");
	rig_run_for(rig, 3 * SECOND);
	scene_open_tx(rig, 0, ask);
	scene_send_tx(rig, 0);
}

/* Asked for when its tx is over. */
static void ask_too_late(struct rig *rig, const struct rig_ask *ask)
{
	scene_open_tx(rig, 0, ask);
	for (uint32_t n = 0; n < rig->n_prefill; n++)
		rig_cancel(rig, n, 0, "not wanted");
	scene_open_rx(rig, 0, ask);
}

static void hold_then_complete(struct rig *rig, const struct rig_ask *ask)
{
	scene_open_tx(rig, 0, ask);
	rig_run_for(rig, 5 * SECOND);
	rig_hold(rig, rig->n_prefill, ask, 600 * SECOND);
	rig_run_for(rig, 30 * SECOND); /* three queue deadlines */
	scene_open_rx(rig, 0, ask);
	scene_send_tx(rig, 0);
}

static const struct story stories[] = {
	{"complete", {.prefill_tp = 2}, complete, KVF_OK, true, 0},
	{"complete, streams", {.prefill_tp = 2, .decode_tp = 2, .receiver_applied = true}, complete, KVF_OK,
		true, 0},
	{"tx first", {.decode_tp = 2}, complete_tx_first, KVF_OK, true, 0},
	{"claim", {.prefill_tp = 2, .prefill_dp = 2}, claim, KVF_OK, false, KVF_DP_UNKNOWN},
	{"cancel by decode", {.prefill_tp = 2}, cancel_by_decode, KVF_CANCELLED, true, 0},
	{"cancel by prefill", {.prefill_tp = 2, .decode_tp = 2}, cancel_by_prefill, KVF_CANCELLED, true, 0},
	{"cancel while parked", {0}, cancel_while_parked, KVF_CANCELLED, false, 0},
	{"ask too late", {.prefill_tp = 2}, ask_too_late, KVF_CANCELLED, false, 0},
	{"hold", {.prefill_tp = 2}, hold_then_complete, KVF_OK, false, 0},
};

/* ---- the check ---- */

static void expect_end(struct rig *rig, const struct story *story, const struct one_loss *loss)
{
	for (uint32_t n = 0; n < rig->n_nodes; n++) {
		const struct rig_session *session = scene_session(rig, n, 0);
		/* One of two pairs is not told of what the other one does, and goes on. */
		bool apart = story->tell == cancel_by_prefill && n % 2 == 1;

		if (!session->open || apart)
			continue;
		if (!session->released || session->status != story->status)
			fail_msg("%s, %s %u lost: node %u: outcome %d %s (%s), released %d", story->name,
				kvfi_msg_name(loss->type), loss->n, n, session->outcome,
				kvf_status_name(session->status), session->error, session->released);
	}
}

/* True: there was an n-th message of that kind. */
static bool tell_story(const struct story *story, struct one_loss *loss)
{
	struct scene scene = story->scene;
	struct rig_ask ask = scene_ask();
	struct rig rig;

	scene.config = rig_config();
	scene.config.queue_timeout_ns = 10 * SECOND;
	scene.config.quiet_timeout_ns = 5 * SECOND;
	scene_open(&rig, &scene);
	rig.drop = lose_nth;
	rig.drop_argument = loss;
	ask.chunks = 3;
	ask.aux = story->aux;
	ask.dp_index = story->dp_index;
	story->tell(&rig, &ask);
	rig_run_for(&rig, 5 * SECOND);
	expect_end(&rig, story, loss);
	rig.hold_posts = false;
	rig_run_for(&rig, 5 * SECOND);
	rig.drop = NULL;
	rig_check_canaries(&rig);
	rig_close_all_released(&rig);
	for (uint32_t n = 0; n < rig.n_nodes; n++)
		rig_check_empty(&rig, n);
	rig_close(&rig);
	return loss->seen > loss->n;
}

static void t_p07_one_lost_message_of_any_kind_hangs_nothing(void **state)
{
	static const enum kvfi_msg_type types[] = {KVFI_MSG_REQUEST, KVFI_MSG_REQUEST_OK, KVFI_MSG_CLAIM,
		KVFI_MSG_GO, KVFI_MSG_RESULT, KVFI_MSG_ACK, KVFI_MSG_CANCEL, KVFI_MSG_QUIET, KVFI_MSG_HOLD,
		KVFI_MSG_HOLD_OK};

	(void)state;
	for (uint32_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
		uint32_t lost = 0;

		for (uint32_t s = 0; s < sizeof(stories) / sizeof(stories[0]); s++)
			for (uint32_t n = 0;; n++, lost++)
				if (!tell_story(&stories[s], &(struct one_loss){.type = types[t], .n = n}))
					break;
		if (lost == 0)
			fail_msg("no story has a %s", kvfi_msg_name(types[t]));
		print_message("%s: %u lost\n", kvfi_msg_name(types[t]), lost);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_p07_one_lost_message_of_any_kind_hangs_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
