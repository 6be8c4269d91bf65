/* record.c - a recorded run, again: each input through a core of its own, each decision against what was decided then.
 *
 * The core's inputs and what its sink returned are all that it depends on, so the same library repeats the run bit for bit; another one, or a
 * defect that is not deterministic, differs somewhere, and the first place is told. Nothing here touches an agent, a network or a clock.
 */
#include "session/record.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/status.h"
#include "kvferry/sim.h"

struct replay {
	struct kvfi_player *player;
	struct kvfi_core *core;
	struct kvfi_tap tap;
	struct kvf_sim_replay_report *report;
	int trace_fd;
	bool over;  /* the file has ended, or makes no sense */
	bool ended; /* the file's step has */
	struct kvfi_input input;
	uint64_t now_ns;
	char error[256]; /* of the last call that failed then */
};

static void say(const struct replay *replay, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(const struct replay *replay, const char *format, ...)
{
	char line[256];
	va_list args;
	int len;

	if (replay->trace_fd < 0)
		return;
	va_start(args, format);
	len = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (len > 0 && write(replay->trace_fd, line, strnlen(line, sizeof(line))) < 0)
		return; /* a reader who has seen enough */
}

/* ---- naming things ---- */

static void name_input(const struct kvfi_input *input, char *text, size_t len_bytes)
{
	const char *name = kvfi_input_name(input->kind);

	switch (input->kind) {
	case KVFI_IN_MESSAGE:
		(void)snprintf(text, len_bytes, "%s %s of peer %u, request %" PRIu64 ", epoch %" PRIu64, name,
			kvfi_msg_name(input->u.msg->header.type), input->peer,
			input->u.msg->header.request_id, input->u.msg->header.epoch);
		return;
	case KVFI_IN_PEER_UP:
	case KVFI_IN_PEER_DOWN:
		(void)snprintf(text, len_bytes, "%s peer %u", name, input->peer);
		return;
	case KVFI_IN_TX_DONE:
	case KVFI_IN_RX_DONE:
		(void)snprintf(text, len_bytes, "%s %u, slice %u: %s", name, input->u.done.id,
			input->u.done.slice, kvf_status_name(input->u.done.status));
		return;
	case KVFI_IN_PROOF:
		(void)snprintf(text, len_bytes, "%s link %u", name, input->u.proof.link);
		return;
	case KVFI_IN_TICK:
	case KVFI_IN_SELF:
	case KVFI_IN_END_ALL:
	case KVFI_IN_HOLD:
		(void)snprintf(text, len_bytes, "%s", name);
		return;
	default:
		(void)snprintf(text, len_bytes, "%s session %u", name, input->session);
	}
}

static void name_call(const struct kvfi_call *call, char *text, size_t len_bytes)
{
	if (call->kind == KVFI_CALL_SEND)
		(void)snprintf(text, len_bytes, "send %s to peer %u",
			kvfi_msg_name((enum kvfi_msg_type)call->detail), call->about);
	else
		(void)snprintf(
			text, len_bytes, "%s %u, %u", kvfi_call_name(call->kind), call->about, call->detail);
}

static void differ(struct replay *replay, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void differ(struct replay *replay, const char *format, ...)
{
	struct kvf_sim_replay_report *report = replay->report;
	char input[160], what[256];
	va_list args;

	if (report->differs)
		return;
	report->differs = 1;
	va_start(args, format);
	(void)vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	name_input(&replay->input, input, sizeof(input));
	(void)snprintf(report->difference, sizeof(report->difference), "step %" PRIu64 ", %.6f s, %s: %s",
		report->steps, (double)(replay->now_ns - report->first_ns) / 1e9, input, what);
}

/* ---- calls ---- */

/* What a core gets that asks for something else than it did then: nothing works any more, and the replay ends after this step. */
static void refuse(struct kvfi_call *call)
{
	if (call->kind == KVFI_CALL_POST || call->kind == KVFI_CALL_GRANT)
		call->returns[0] = (uint64_t)(int64_t)KVF_EFULL;
	call->error = "";
}

static void on_call(void *self, struct kvfi_call *call)
{
	struct replay *replay = self;
	struct kvfi_call then;
	enum kvfi_record_next next;
	char text[96];

	name_call(call, text, sizeof(text));
	refuse(call);
	if (replay->report->differs || replay->over || replay->ended) {
		if (!replay->over)
			differ(replay, "now it calls %s, then it called nothing more", text);
		return;
	}
	next = kvfi_player_next(replay->player, NULL, NULL, &then);
	replay->over = next != KVFI_RECORD_CALL && next != KVFI_RECORD_END;
	replay->ended = next == KVFI_RECORD_END;
	replay->report->cut = replay->report->cut || next == KVFI_RECORD_CUT;
	if (replay->over)
		return;
	if (replay->ended) {
		differ(replay, "now it calls %s, then it called nothing more", text);
		return;
	}
	say(replay, "    %s\n", text);
	replay->report->calls++;
	if (then.kind != call->kind)
		differ(replay, "now it calls %s, then it called %s", text, kvfi_call_name(then.kind));
	else if (then.hash != call->hash)
		differ(replay, "it calls %s with other arguments than then", text);
	memcpy(call->returns, then.returns, sizeof(call->returns));
	(void)snprintf(replay->error, sizeof(replay->error), "%s", then.error);
	call->error = replay->error;
}

/* ---- steps ---- */

/* After the core's last call of a step: then there was none more either. */
static void end_step(struct replay *replay)
{
	struct kvfi_call then;
	enum kvfi_record_next next;

	if (replay->over || replay->ended || replay->report->differs)
		return;
	next = kvfi_player_next(replay->player, NULL, NULL, &then);
	if (next == KVFI_RECORD_CALL)
		differ(replay, "then it called %s, now it calls nothing more", kvfi_call_name(then.kind));
	replay->report->cut = replay->report->cut || next == KVFI_RECORD_CUT;
	replay->over = next != KVFI_RECORD_CALL && next != KVFI_RECORD_END;
}

static void step(struct replay *replay)
{
	struct kvf_sim_replay_report *report = replay->report;
	char text[160];

	if (report->steps == 0)
		report->first_ns = replay->now_ns;
	report->last_ns = replay->now_ns;
	report->steps++;
	name_input(&replay->input, text, sizeof(text));
	if (replay->input.kind != KVFI_IN_TICK)
		say(replay, "%" PRIu64 " +%.6f s %s\n", report->steps,
			(double)(replay->now_ns - report->first_ns) / 1e9, text);
	replay->ended = false;
	kvfi_core_step(replay->core, &replay->input, replay->now_ns);
	end_step(replay);
}

static enum kvf_status run(struct replay *replay)
{
	struct kvfi_call call;

	while (!replay->over && !replay->report->differs) {
		enum kvfi_record_next next =
			kvfi_player_next(replay->player, &replay->input, &replay->now_ns, &call);

		if (next == KVFI_RECORD_BAD)
			return KVF_EINVAL;
		replay->report->cut = replay->report->cut || next == KVFI_RECORD_CUT;
		if (next != KVFI_RECORD_INPUT)
			return KVF_OK;
		step(replay);
	}
	return KVF_OK;
}

enum kvf_status kvf_sim_replay(const char *path, int trace_fd, struct kvf_sim_replay_report *report_out)
{
	struct kvf_sim_replay_report report = {0};
	struct replay replay = {.report = &report, .trace_fd = trace_fd};
	struct kvfi_record_head head;
	struct kvfi_sink sink;
	enum kvf_status status;

	if (path == NULL || report_out == NULL)
		return kvfi_fail(KVF_EINVAL, "%s is NULL", path == NULL ? "path" : "report_out");
	status = kvfi_player_open(path, &head, &replay.player);
	if (status != KVF_OK)
		return status;
	memcpy(report.library, head.library, sizeof(report.library));
	replay.tap = (struct kvfi_tap){.real = NULL, .self = &replay, .told = on_call};
	kvfi_tap_sink(&replay.tap, &sink);
	status = kvfi_core_open(&head.config, &sink, &replay.core);
	if (status == KVF_OK)
		status = run(&replay);
	kvfi_core_close(replay.core);
	kvfi_player_close(replay.player);
	if (status == KVF_OK)
		*report_out = report;
	return status;
}
