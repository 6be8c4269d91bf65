/* arrival.c - RESULTs in: what has arrived, judged.
 *
 * RESULTs of one sender are taken in order; a later one is not answered and comes again. One that names bytes waits until those bytes are in the
 * blocks (receiver-applied paths: the stream's own word; one-sided: the RESULT is sent after the writers have left), and, with sums, until the
 * content was summed here too. Then its ranges are bound to the own plan and block ids: bytes, tiling and the total of the plan must agree,
 * else the session fails by name. An ACK goes only after that.
 */
#include "session/state.h"

#include <stdio.h>
#include <string.h>
#include "base/assert.h"
#include "base/clock.h"

/* ---- ACK ---- */

static void ack(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg, enum kvfi_verdict verdict,
	enum kvf_status status)
{
	struct kvfi_msg reply = {.header = msg->header};

	reply.header.type = KVFI_MSG_ACK;
	reply.u.ack.kind = msg->u.result.kind;
	reply.u.ack.slice = msg->u.result.slice;
	reply.u.ack.verdict = verdict;
	reply.u.ack.status = status;
	core->sink.send(core->sink.self, peer, &reply);
}

static void ack_link(struct kvfi_core *core, struct link *link, enum kvfi_result_kind kind, uint32_t slice,
	enum kvf_status status)
{
	struct kvfi_msg reply = {0};

	msg_init(&reply, KVFI_MSG_ACK, link);
	reply.u.ack.kind = kind;
	reply.u.ack.slice = slice;
	reply.u.ack.verdict = status == KVF_OK ? KVFI_VERDICT_APPLIED : KVFI_VERDICT_FAILED;
	reply.u.ack.status = status;
	send_msg(core, link, &reply);
}

/* ---- what is good when a session fails ---- */

void rx_good_ends(const struct kvfi_core *core, const struct session *session, uint64_t *good_end_out)
{
	for (uint32_t g = 0; g < KVF_MAX_GROUPS; g++)
		good_end_out[g] = session->expected == 0 ? 0 : KVFI_NEVER;
	kvfi_list_for_each (at, &session->links) {
		const struct link *link = kvfi_container_of(at, struct link, in_session);
		const kvf_plan *plan =
			link->granted ? core->peers[link->peer].info.plans[session->replica] : NULL;

		for (uint32_t g = 0; g < KVF_MAX_GROUPS; g++) {
			const uint32_t *layers;

			if (plan != NULL && kvf_plan_layers(plan, g, &layers) == 0)
				continue; /* it owes nothing there */
			if (good_end_out[g] > link->cover[g].good_end)
				good_end_out[g] = link->cover[g].good_end;
		}
	}
}

/* ---- coverage ---- */

struct tile {
	uint64_t start, end, bytes;
};

/* What a slice brings of one group joins what came before: a tile of tokens above all earlier ones, or the next layers of the same tile.
 * Inside a tile there may be holes, where one side has no page; they are the same in all its layers. */
static bool cover_add(struct cover *cover, const struct kvfi_bound *bound, const struct tile *tile)
{
	bool same = cover->any && tile->start >= cover->tile_start && tile->end <= cover->tile_end;

	if (same ? bound->layer_start < cover->layer_end : cover->any && tile->start < cover->tile_end)
		return false;
	if (!same) {
		cover->tile_start = tile->start;
		cover->tile_end = tile->end;
	}
	cover->any = true;
	cover->layer_end = bound->layer_end;
	cover->got_bytes += tile->bytes;
	return true;
}

static uint32_t layers_end_of(const kvf_plan *plan, uint32_t group)
{
	const uint32_t *layers;
	uint32_t n = kvf_plan_layers(plan, group, &layers);

	return n > 0 ? layers[n - 1] + 1 : 0;
}

static bool cover_all(struct link *link, const kvf_plan *plan, const struct kvfi_bound *bound)
{
	for (uint32_t i = 0, next; i < bound->n_ranges; i = next) {
		uint32_t group = bound->ranges[i].range.group;
		struct cover *cover = &link->cover[group];
		struct tile tile = {.start = bound->ranges[i].range.token_first};

		for (next = i; next < bound->n_ranges && bound->ranges[next].range.group == group; next++) {
			tile.end = bound->ranges[next].range.token_end;
			tile.bytes += bound->ranges[next].bytes;
		}
		if (tile.bytes == 0)
			continue;
		if (!cover_add(cover, bound, &tile))
			return false;
		if (cover->layer_end < layers_end_of(plan, group))
			continue;
		cover->end = cover->tile_end;
		if (link->dropped_tokens == 0)
			cover->good_end = cover->end;
	}
	return true;
}

/* After the last slice: is everything here that the plan owes?  The source of a windowed group may keep less or more of the past than
 * this side does: there it must reach the end of the prompt. */
static bool complete(
	struct kvfi_core *core, struct link *link, struct kvfi_bound *room, char *why, size_t why_bytes)
{
	const struct session *session = link_session(core, link);
	const kvf_plan *plan = core->peers[link->peer].info.plans[session->replica];
	uint64_t want[KVF_MAX_GROUPS] = {0}, want_end[KVF_MAX_GROUPS] = {0},
		 token_bytes[KVF_MAX_GROUPS] = {0};
	uint64_t dropped =
		link->dropped_tokens; /* what the source says it has no page for explains that much, and no more */

	if (kvfi_expected_ranges(plan, session->prompt_len, session->lists, room) != KVF_OK) {
		(void)snprintf(why, why_bytes, "%s", kvf_error());
		return false;
	}
	for (uint32_t i = 0; i < room->n_ranges; i++) {
		want[room->ranges[i].range.group] += room->ranges[i].bytes;
		want_end[room->ranges[i].range.group] = room->ranges[i].range.token_end;
		token_bytes[room->ranges[i].range.group] = room->ranges[i].bytes_per_token;
	}
	for (uint32_t g = 0; g < core->self.layout->n_groups; g++) {
		uint64_t got = link->cover[g].got_bytes;
		bool window = core->self.layout->groups[g].kind == KVF_WINDOW;
		uint64_t missing = got < want[g] ? (want[g] - got + token_bytes[g] - 1) / token_bytes[g] : 0;

		if (got == want[g] || (window && link->cover[g].end >= want_end[g]))
			continue;
		if (missing > 0 && missing <= dropped) {
			dropped -= missing;
			continue;
		}
		(void)snprintf(why, why_bytes, "group %u: %llu bytes came, the plan has %llu", g,
			(unsigned long long)got, (unsigned long long)want[g]);
		return false;
	}
	return true;
}

/* ---- KV ---- */

void arrival_free(struct kvfi_core *core, struct link *link)
{
	if (link->arrival == KVFI_NONE)
		return;
	core->arrivals[link->arrival].next_free = core->free_arrival;
	core->free_arrival = link->arrival;
	link->arrival = KVFI_NONE;
}

static void reject(struct kvfi_core *core, struct link *link, enum kvf_status status, const char *why)
{
	struct session *session = link_session(core, link);
	uint32_t slice = core->arrivals[link->arrival].result.slice;

	if (!core->arrivals[link->arrival].summing) /* else the sum still reads its bound */
		arrival_free(core, link);
	ack_link(core, link, KVFI_RESULT_KV, slice, status);
	session_fail(core, session, status, "slice %u from prefill rank %u: %s", slice, link->rank, why);
}

static void try_complete(struct kvfi_core *core, struct session *session)
{
	if (session->arrived < session->expected)
		return;
	session_state(core, session, KVF_STATE_KV_TRANSFERRED);
	if (session->aux_slot != KVF_NO_AUX && session->aux_in < session->expected)
		return;
	session_state(core, session, KVF_STATE_FULLY_TRANSFERRED);
	session_complete(core, session);
}

static void accept_kv(struct kvfi_core *core, struct link *link)
{
	struct session *session = link_session(core, link);
	struct arrival *arrival = &core->arrivals[link->arrival];
	const struct kvfi_msg_result *result = &arrival->result;
	bool last = result->last != 0;
	uint32_t slice = result->slice;
	char why[128];

	link->dropped_tokens += result->dropped_tokens;
	if (!cover_all(link, core->peers[link->peer].info.plans[session->replica], &arrival->bound)) {
		reject(core, link, KVF_COVERAGE, "it repeats or overlaps an earlier slice");
		return;
	}
	if (last && !complete(core, link, &arrival->bound, why, sizeof(why))) {
		reject(core, link, KVF_COVERAGE, why);
		return;
	}
	session->stats.bytes += result->bytes;
	session->stats.runs += result->runs;
	session->stats.slices++;
	session->stats.last_byte_ns = core->now_ns;
	link->applied[slice % KVFI_WINDOW].known = false;
	link->next_result++;
	arrival_free(core, link);
	deadline_accepted(core, session, link);
	ack_link(core, link, KVFI_RESULT_KV, slice, KVF_OK);
	if (last) {
		link->arrived = true;
		session->arrived++;
		rx_prove(core, link, KVF_PROOF_COMPLETED);
	}
	try_complete(core, session);
}

static void judge_sum(struct kvfi_core *core, struct link *link, uint64_t sum)
{
	const struct kvfi_msg_result *result = &core->arrivals[link->arrival].result;
	char why[96];

	if (core->config.verify == KVF_VERIFY_SUM && result->bytes > 0 && sum != result->sum) {
		(void)snprintf(why, sizeof(why), "sum: the sender has %016llx, here it is %016llx",
			(unsigned long long)result->sum, (unsigned long long)sum);
		reject(core, link, KVF_SUM_MISMATCH, why);
		return;
	}
	accept_kv(core, link);
}

/* The RESULT in link->arrival may be ready to be judged. */
static void try_accept(struct kvfi_core *core, struct link *link)
{
	struct arrival *arrival = &core->arrivals[link->arrival];
	const struct kvfi_msg_result *result = &arrival->result;
	const struct applied *applied = &link->applied[result->slice % KVFI_WINDOW];
	struct session *session = link_session(core, link);

	if (result->bytes == 0) {
		accept_kv(core, link);
		return;
	}
	if (!link->receiver_applied) {
		if (core->config.verify != KVF_VERIFY_SUM) {
			accept_kv(core, link);
		} else if (!arrival->summing) {
			arrival->summing = true;
			session->sums_open++;
			core->sink.sum(core->sink.self, link_index(core, link), &arrival->bound);
		}
		return;
	}
	if (!applied->known || applied->slice != result->slice)
		return; /* its bytes are still on their way */
	if (applied->status != KVF_OK)
		reject(core, link, applied->status, kvf_status_text(applied->status));
	else if (applied->bytes != result->bytes ||
		 applied->ranges_hash != kvfi_ranges_hash(result->layer_start, result->layer_end,
						 result->ranges, result->n_ranges))
		reject(core, link, KVF_COVERAGE, "the data stream and the result name different ranges");
	else
		judge_sum(core, link, applied->sum);
}

static bool take_arrival(struct kvfi_core *core, struct link *link, const struct kvfi_msg_result *result)
{
	struct arrival *arrival;

	if (core->free_arrival == KVFI_NONE)
		return false;
	link->arrival = core->free_arrival;
	arrival = &core->arrivals[link->arrival];
	core->free_arrival = arrival->next_free;
	arrival->result = *result;
	arrival->result.aux = NULL;
	arrival->result.aux_bytes = 0;
	arrival->summing = false;
	return true;
}

static void on_kv(struct kvfi_core *core, struct link *link, const struct kvfi_msg *msg)
{
	const struct kvfi_msg_result *result = &msg->u.result;
	struct session *session = link_session(core, link);
	struct arrival *arrival;
	enum kvf_status status;

	if (result->slice < link->next_result) {
		core->counters.duplicate_results++;
		ack_link(core, link, KVFI_RESULT_KV, result->slice, KVF_OK);
		return;
	}
	if (result->status != KVF_OK) {
		link->arrived = true;
		ack_link(core, link, KVFI_RESULT_KV, result->slice, KVF_OK);
		session_fail(
			core, session, result->status, "prefill rank %u: %s", link->rank, result->reason);
		return;
	}
	if (link->arrived) {
		ack_link(core, link, KVFI_RESULT_KV, result->slice, KVF_COVERAGE);
		session_fail(core, session, KVF_COVERAGE,
			"slice %u from prefill rank %u comes after the last one", result->slice, link->rank);
		return;
	}
	if (result->slice > link->next_result || link->arrival != KVFI_NONE ||
		!take_arrival(core, link, result))
		return; /* it comes again */
	deadline_waits(
		core, session); /* its transfer ends here; its bytes or its sum may be some time behind */
	arrival = &core->arrivals[link->arrival];
	status = kvfi_bind_ranges(core->peers[link->peer].info.plans[session->replica], session->prompt_len,
		result->layer_start, result->layer_end, result->ranges, result->n_ranges, session->lists,
		&arrival->bound);
	if (status != KVF_OK) {
		reject(core, link, status, kvf_error());
		return;
	}
	if (arrival->bound.bytes != result->bytes) {
		char why[96];

		(void)snprintf(why, sizeof(why), "the result names %llu bytes, its ranges hold %llu",
			(unsigned long long)result->bytes, (unsigned long long)arrival->bound.bytes);
		reject(core, link, KVF_COVERAGE, why);
		return;
	}
	try_accept(core, link);
}

/* ---- aux ---- */

static enum kvf_status judge_aux(
	struct kvfi_core *core, const struct link *link, const struct kvfi_msg_result *result)
{
	const struct session *session = &core->sessions[link->session];

	if (result->status != KVF_OK)
		return result->status;
	if ((result->aux_bytes > 0 && !link->owes_aux) ||
		result->aux_bytes > core->self.layout->aux_bytes[session->aux_slot])
		return KVF_AUX_REFUSED;
	return KVF_OK;
}

static void on_aux(struct kvfi_core *core, struct link *link, const struct kvfi_msg *msg)
{
	const struct kvfi_msg_result *result = &msg->u.result;
	struct session *session = link_session(core, link);
	enum kvf_status status;

	if (link->aux != AUX_OWED) {
		core->counters.duplicate_results++;
		ack_link(core, link, KVFI_RESULT_AUX, result->slice, KVF_OK);
		return;
	}
	status = judge_aux(core, link, result);
	if (status == KVF_OK && result->aux_bytes > 0)
		core->sink.store_aux(core->sink.self, session->aux_slot, result->aux, result->aux_bytes);
	link->aux = AUX_DONE;
	ack_link(core, link, KVFI_RESULT_AUX, result->slice, status);
	if (status != KVF_OK) {
		session_fail(core, session, status, "aux of prefill rank %u: %s", link->rank,
			result->reason[0] != '\0' ? result->reason : kvf_status_text(status));
		return;
	}
	session->aux_in++;
	deadline_waits(core, session);
	try_complete(core, session);
}

/* ---- inputs ---- */

/* The epoch has ended here: say how, as often as it is asked. */
static void on_ended(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	const struct remembered *record = memory_find(&core->ended_rx, msg->header.epoch, 0);

	if (record == NULL) {
		core->counters.unknown_results++;
		ack(core, peer, msg, KVFI_VERDICT_UNKNOWN, KVF_UNCONFIRMED);
		return;
	}
	core->counters.duplicate_results++;
	ack(core, peer, msg, record->status == KVF_OK ? KVFI_VERDICT_APPLIED : KVFI_VERDICT_FAILED,
		record->status);
}

static void first_byte(struct kvfi_core *core, struct session *session, uint64_t at_ns)
{
	if (session->stats.first_byte_ns != 0) {
		/* A RESULT may overtake the word of the stream whose bytes came before it. */
		if (at_ns != 0 && at_ns < session->stats.first_byte_ns)
			session->stats.first_byte_ns = at_ns;
		return;
	}
	session->stats.first_byte_ns = at_ns != 0 ? at_ns : core->now_ns;
	session_state(core, session, KVF_STATE_TRANSFERRING);
}

/* Aux data in the place of KV or the other way round, a failure that is not the last. */
static bool contradicts_itself(const struct kvfi_msg_result *result)
{
	bool aux = result->kind == KVFI_RESULT_AUX;

	return aux != (result->slice == KVFI_AUX_SLICE) || (aux && (result->bytes > 0 || !result->last)) ||
	       (result->status != KVF_OK && !result->last);
}

/* On its way: it is said again. */
static bool is_damaged(const struct kvfi_msg *msg)
{
	const struct kvfi_msg_result *result = &msg->u.result;

	return result->seal != kvfi_msg_seal(msg) ||
	       (result->aux_bytes > 0 && result->sum != kvfi_msg_aux_sum(result->aux, result->aux_bytes));
}

void on_result(struct kvfi_core *core, uint32_t peer, const struct kvfi_msg *msg)
{
	const struct kvfi_msg_result *result = &msg->u.result;
	struct link *link = rx_find(core, peer, &msg->header);
	struct session *session = link != NULL ? link_session(core, link) : NULL;

	if (is_damaged(msg) || contradicts_itself(result)) {
		core->counters.unexpected_messages++;
		return;
	}
	if (link == NULL) {
		on_ended(core, peer, msg);
		return;
	}
	if (session == NULL || session->outcome_told) {
		on_ended(core, peer, msg);
		/* A good one proves nothing here, for its bytes are looked at no more; QUIET will. */
		if (result->kind == KVFI_RESULT_KV && result->status != KVF_OK && !link->arrived) {
			link->arrived = true;
			rx_link_quiet(core, link);
		}
		return;
	}
	rx_answered(core, link);
	if (result->status == KVF_OK && !link->granted) {
		core->counters.unexpected_messages++; /* data without permission: it is not there */
		return;
	}
	if (result->kind == KVFI_RESULT_AUX) {
		on_aux(core, link, msg);
		return;
	}
	if (result->bytes > 0)
		first_byte(core, session, 0);
	on_kv(core, link, msg);
}

void rx_done(struct kvfi_core *core, const struct kvfi_in_done *done)
{
	struct link *link = &core->links[done->id];
	struct session *session = link->kind == LINK_RX ? link_session(core, link) : NULL;
	struct applied *applied = &link->applied[done->slice % KVFI_WINDOW];

	if (session == NULL || session->outcome_told || !link->granted || link->epoch != done->epoch)
		return;
	first_byte(core, session, done->first_ns);
	if (done->slice < link->next_result || done->slice - link->next_result >= KVFI_WINDOW ||
		applied->known) {
		session_fail(core, session, KVF_COVERAGE,
			"slice %u from prefill rank %u came twice or out of order", done->slice, link->rank);
		return;
	}
	*applied = (struct applied){.known = true,
		.slice = done->slice,
		.status = done->status,
		.bytes = done->bytes,
		.sum = done->sum,
		.ranges_hash = done->ranges_hash};
	deadline_bytes(core, session, link, done->first_ns);
	if (done->status != KVF_OK && done->status != KVF_CANCELLED) {
		session_fail(core, session, done->status, "slice %u from prefill rank %u: %s", done->slice,
			link->rank,
			done->reason != NULL && done->reason[0] != '\0' ? done->reason
									: kvf_status_text(done->status));
		return;
	}
	if (link->arrival != KVFI_NONE && core->arrivals[link->arrival].result.slice == done->slice)
		try_accept(core, link);
}

void rx_summed(struct kvfi_core *core, uint32_t index, uint64_t sum)
{
	struct link *link = &core->links[index];
	struct session *session = link_session(core, link);

	/* A session is not released while a sum is open, so both are still there. */
	KVFI_ASSERT(session != NULL && session->sums_open > 0 && link->arrival != KVFI_NONE);
	session->sums_open--;
	core->arrivals[link->arrival].summing = false;
	if (session->outcome_told) {
		arrival_free(core, link);
		session_try_release(core, session);
		return;
	}
	judge_sum(core, link, sum);
}
