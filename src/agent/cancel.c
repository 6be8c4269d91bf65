/* cancel.c - kvf_cancel: the race between a cancel and the first byte, decided by one word.
 *
 * Each session slot has an atomic word {generation of the handle, phase}. The owner moves QUEUED to ADVERTISED before the first permission (rx) or the
 * first byte (tx) leaves this agent; a cancel moves QUEUED to CANCELLED. Both compare the whole word, so exactly one of them wins, and a handle of an
 * earlier session in the slot touches nothing. What is ADVERTISED is marked as wanted; the owner tells the core, and the proofs take their time.
 *
 *   QUEUED --advertise--> ADVERTISED --outcome--> FINAL --+
 *      +------cancel----> CANCELLED ----------------------+--released--> RELEASED --front takes the slot--> QUEUED
 *
 * Never lost: what is wanted stands in the word itself and in a bit per slot, which needs no room in the inbox. Never blocks: no lock is taken; the
 * reason is copied into one of a bounded number of buffers, which travels by its number in the same compare-and-swap. When all buffers are on their
 * way a cancel goes without its reason.
 */
#include "agent/agent.h"

#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/status.h"

#define PHASE_MASK   UINT64_C(0xf)
#define WANTED       UINT64_C(0x10)
#define REASON_SHIFT 8
#define REASON_MASK  (UINT64_C(0xffff) << REASON_SHIFT) /* number of the buffer, from 1 */
#define MAX_REASONS  1024u

#define ENDED_VALID (UINT64_C(1) << 32)

enum phase {
	PHASE_RELEASED = 0, /* or the slot is free */
	PHASE_QUEUED = 1,
	PHASE_ADVERTISED = 2,
	PHASE_CANCELLED = 3,
	PHASE_FINAL = 4
};

static enum phase phase_of(uint64_t word)
{
	return (enum phase)(word & PHASE_MASK);
}

static uint32_t generation_of(uint64_t word)
{
	return (uint32_t)(word >> 32);
}

/* ---- life ---- */

enum kvf_status kvfi_cancels_init(struct kvfi_cancels *cancels, uint32_t max_sessions)
{
	uint32_t max_reasons = max_sessions < MAX_REASONS ? max_sessions : MAX_REASONS;

	cancels->n = max_sessions;
	cancels->n_wanted = (max_sessions + 63) / 64;
	cancels->n_reason_words = (max_reasons + 63) / 64;
	cancels->slots = calloc(max_sessions, sizeof(*cancels->slots));
	cancels->wanted = calloc(cancels->n_wanted, sizeof(*cancels->wanted));
	cancels->reasons = calloc((size_t)cancels->n_reason_words * 64, sizeof(*cancels->reasons));
	cancels->reasons_used = calloc(cancels->n_reason_words, sizeof(*cancels->reasons_used));
	cancels->ended = calloc(max_sessions, sizeof(*cancels->ended));
	if (cancels->slots == NULL || cancels->wanted == NULL || cancels->reasons == NULL ||
		cancels->reasons_used == NULL || cancels->ended == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory to cancel %u sessions", max_sessions);
	return KVF_OK;
}

void kvfi_cancels_fini(struct kvfi_cancels *cancels)
{
	free(cancels->ended);
	free(cancels->reasons_used);
	free(cancels->reasons);
	free(cancels->wanted);
	free(cancels->slots);
}

/* ---- reasons ---- */

/* The number of a buffer with the reason in it; 0: none, or all are on their way. */
static uint32_t keep_reason(struct kvfi_cancels *cancels, const char *reason)
{
	if (reason == NULL || reason[0] == '\0')
		return 0;
	for (uint32_t w = 0; w < cancels->n_reason_words; w++) {
		uint64_t used = atomic_load(&cancels->reasons_used[w]);

		while (used != UINT64_MAX) {
			uint32_t bit = (uint32_t)__builtin_ctzll(~used);
			char *buffer = cancels->reasons[w * 64 + bit];
			size_t len;

			if (!atomic_compare_exchange_weak(
				    &cancels->reasons_used[w], &used, used | UINT64_C(1) << bit))
				continue;
			len = strnlen(reason, KVFI_CANCEL_REASON_BYTES - 1);
			memcpy(buffer, reason, len);
			buffer[len] = '\0';
			return w * 64 + bit + 1;
		}
	}
	return 0;
}

static void give_reason(struct kvfi_cancels *cancels, uint32_t number)
{
	if (number != 0)
		(void)atomic_fetch_and(
			&cancels->reasons_used[(number - 1) / 64], ~(UINT64_C(1) << ((number - 1) % 64)));
}

static uint32_t reason_of(uint64_t word)
{
	return (uint32_t)((word & REASON_MASK) >> REASON_SHIFT);
}

/* ---- front ---- */

void kvfi_cancels_take(struct kvfi_cancels *cancels, uint32_t slot, uint32_t generation, uint64_t request_id,
	uint32_t attempt)
{
	/* The word says RELEASED until it names the new generation: nobody takes the ids for those of the session before. */
	atomic_store(&cancels->slots[slot].request_id, request_id);
	atomic_store(&cancels->slots[slot].attempt, attempt);
	atomic_store(&cancels->slots[slot].word, (uint64_t)generation << 32 | PHASE_QUEUED);
}

void kvfi_cancels_give(struct kvfi_cancels *cancels, uint32_t slot, uint32_t generation, bool remember)
{
	struct kvfi_cancel_slot *from = &cancels->slots[slot];
	struct kvfi_cancel_ended *to = &cancels->ended[cancels->next_ended];
	uint64_t word = atomic_exchange(&from->word, (uint64_t)generation << 32 | PHASE_RELEASED);

	give_reason(cancels, reason_of(word));
	if (!remember)
		return;
	cancels->next_ended = (cancels->next_ended + 1) % cancels->n;
	atomic_store(&to->attempt, 0);
	atomic_store(&to->request_id, atomic_load(&from->request_id));
	atomic_store(&to->attempt, ENDED_VALID | atomic_load(&from->attempt));
}

/* ---- owner ---- */

static void tell_core(kvf_agent *agent, uint32_t slot)
{
	struct kvfi_cancels *cancels = &agent->cancels;
	struct kvfi_cancel_slot *at = &cancels->slots[slot];
	struct kvfi_input input = {.kind = KVFI_IN_CANCEL, .session = slot, .u.cancel.status = KVF_CANCELLED};
	uint64_t word = atomic_load(&at->word);

	do {
		/* Not the session that the core has: it is closed, or its opening is on its way, which looks again. */
		if ((word & WANTED) == 0 || generation_of(word) != at->in_core)
			return;
	} while (!atomic_compare_exchange_weak(&at->word, &word, word & ~(WANTED | REASON_MASK)));
	input.u.cancel.reason = reason_of(word) != 0 ? cancels->reasons[reason_of(word) - 1] : "";
	kvfi_owner_step(agent, &input);
	give_reason(cancels, reason_of(word));
}

/* Before the core has it: it may end in that very step, and the front may have given its slot to the next session when the step is over. */
void kvfi_cancels_opening(kvf_agent *agent, uint32_t slot)
{
	struct kvfi_cancel_slot *at = &agent->cancels.slots[slot];

	at->in_core = generation_of(atomic_load(&at->word));
}

void kvfi_cancels_opened(kvf_agent *agent, uint32_t slot)
{
	tell_core(agent, slot);
}

void kvfi_cancels_closed(kvf_agent *agent, uint32_t slot)
{
	agent->cancels.slots[slot].in_core = 0;
}

bool kvfi_cancels_advertise(struct kvfi_cancels *cancels, uint32_t slot)
{
	_Atomic uint64_t *at = &cancels->slots[slot].word;
	uint64_t word = atomic_load(at);

	while (phase_of(word) == PHASE_QUEUED)
		if (atomic_compare_exchange_weak(at, &word, (word & ~PHASE_MASK) | PHASE_ADVERTISED))
			return true;
	return phase_of(word) == PHASE_ADVERTISED;
}

/* What never left QUEUED goes to RELEASED in the same step: until then its memory is safe, whoever asks. */
void kvfi_cancels_outcome(struct kvfi_cancels *cancels, uint32_t slot)
{
	_Atomic uint64_t *at = &cancels->slots[slot].word;
	uint64_t word = atomic_load(at);

	while (phase_of(word) == PHASE_ADVERTISED &&
		!atomic_compare_exchange_weak(at, &word, (word & ~PHASE_MASK) | PHASE_FINAL))
		;
}

void kvfi_cancels_released(struct kvfi_cancels *cancels, uint32_t slot)
{
	_Atomic uint64_t *at = &cancels->slots[slot].word;
	uint64_t word = atomic_load(at);

	while (!atomic_compare_exchange_weak(at, &word, (uint64_t)generation_of(word) << 32 | PHASE_RELEASED))
		;
	give_reason(cancels, reason_of(word));
}

void kvfi_cancels_look(kvf_agent *agent)
{
	struct kvfi_cancels *cancels = &agent->cancels;

	if (!atomic_exchange(&cancels->any, false))
		return;
	for (uint32_t w = 0; w < cancels->n_wanted; w++) {
		uint64_t bits = atomic_load_explicit(&cancels->wanted[w], memory_order_relaxed) != 0
		                        ? atomic_exchange(&cancels->wanted[w], 0)
		                        : 0;

		for (; bits != 0; bits &= bits - 1)
			tell_core(agent, w * 64 + (uint32_t)__builtin_ctzll(bits));
	}
}

bool kvfi_cancels_any(const struct kvfi_cancels *cancels)
{
	return atomic_load(&cancels->any);
}

/* ---- any thread ---- */

static void want(kvf_agent *agent, uint32_t slot)
{
	(void)atomic_fetch_or(&agent->cancels.wanted[slot / 64], UINT64_C(1) << (slot % 64));
	atomic_store(&agent->cancels.any, true);
	kvfi_inbox_nudge(&agent->inbox);
}

static enum kvf_cancel_result in_flight(const kvf_agent *agent)
{
	return atomic_load(&agent->healthy) ? KVF_CANCEL_REQUESTED_IN_FLIGHT : KVF_CANCEL_BACKEND_UNHEALTHY;
}

/* What a word says to a handle of that generation, and the word that a cancel leaves behind; the same one where nothing is to be done. */
static enum kvf_cancel_result judge(
	const kvf_agent *agent, uint64_t word, uint32_t generation, uint64_t *after_out)
{
	int32_t behind = (int32_t)(generation_of(word) - generation);

	*after_out = word;
	if (behind != 0)
		return behind > 0 ? KVF_CANCEL_ALREADY_COMPLETE : KVF_CANCEL_NOT_CANCELLABLE;
	switch (phase_of(word)) {
	case PHASE_QUEUED:
		*after_out = (word & ~PHASE_MASK) | PHASE_CANCELLED | WANTED;
		return KVF_CANCEL_BEFORE_ADVERTISE;
	case PHASE_CANCELLED:
		return KVF_CANCEL_BEFORE_ADVERTISE;
	case PHASE_ADVERTISED:
		*after_out = word | WANTED;
		return in_flight(agent);
	case PHASE_FINAL:
		return in_flight(agent);
	default:
		return KVF_CANCEL_ALREADY_COMPLETE;
	}
}

static enum kvf_cancel_result cancel_slot(
	kvf_agent *agent, uint32_t slot, uint32_t generation, const char *reason)
{
	_Atomic uint64_t *at = &agent->cancels.slots[slot].word;
	uint64_t word = atomic_load(at), after;
	enum kvf_cancel_result result;
	uint32_t kept = 0;

	for (;;) {
		result = judge(agent, word, generation, &after);
		if (after == word)
			break;
		if (kept == 0)
			kept = keep_reason(&agent->cancels, reason);
		if (atomic_compare_exchange_weak(at, &word, after | (uint64_t)kept << REASON_SHIFT)) {
			want(agent, slot);
			return result;
		}
	}
	give_reason(&agent->cancels, kept);
	return result;
}

enum kvf_cancel_result kvf_cancel(kvf_agent *agent, kvf_session session, const char *reason)
{
	uint32_t slot = (uint32_t)session.bits - 1, generation = (uint32_t)(session.bits >> 32);

	if (agent == NULL || (uint32_t)session.bits == 0 || slot >= agent->cancels.n || generation % 2 == 0)
		return KVF_CANCEL_NOT_CANCELLABLE;
	return cancel_slot(agent, slot, generation, reason);
}

/* How much an engine must fear a result: the sum of several is the highest. */
static int fear(enum kvf_cancel_result result)
{
	switch (result) {
	case KVF_CANCEL_BACKEND_UNHEALTHY:
		return 5;
	case KVF_CANCEL_REQUESTED_IN_FLIGHT:
		return 4;
	case KVF_CANCEL_BEFORE_ADVERTISE:
		return 3;
	case KVF_CANCEL_ALREADY_COMPLETE:
		return 2;
	default:
		return 1;
	}
}

static bool has_ended(const struct kvfi_cancels *cancels, uint64_t request_id, uint32_t attempt)
{
	for (uint32_t i = 0; i < cancels->n; i++) {
		const struct kvfi_cancel_ended *ended = &cancels->ended[i];
		uint64_t before = atomic_load(&ended->attempt);
		uint64_t id = atomic_load(&ended->request_id);

		if (before == (ENDED_VALID | attempt) && id == request_id &&
			atomic_load(&ended->attempt) == before)
			return true;
	}
	return false;
}

enum kvf_cancel_result kvf_cancel_request(
	kvf_agent *agent, uint64_t request_id, uint32_t attempt, const char *reason)
{
	enum kvf_cancel_result worst = KVF_CANCEL_NOT_FOUND;

	if (agent == NULL)
		return KVF_CANCEL_NOT_CANCELLABLE;
	for (uint32_t i = 0; i < agent->cancels.n; i++) {
		const struct kvfi_cancel_slot *slot = &agent->cancels.slots[i];
		uint32_t generation = generation_of(atomic_load(&slot->word));
		enum kvf_cancel_result result;

		/* The ids are of that generation if it is still there after they were read. */
		if (generation % 2 == 0 || atomic_load(&slot->request_id) != request_id ||
			atomic_load(&slot->attempt) != attempt ||
			generation_of(atomic_load(&slot->word)) != generation)
			continue;
		result = cancel_slot(agent, i, generation, reason);
		if (fear(result) > fear(worst))
			worst = result;
	}
	if (worst == KVF_CANCEL_NOT_FOUND && has_ended(&agent->cancels, request_id, attempt))
		return KVF_CANCEL_ALREADY_COMPLETE;
	return worst;
}

int kvf_cancel_is_safe(enum kvf_cancel_result result)
{
	return result == KVF_CANCEL_BEFORE_ADVERTISE || result == KVF_CANCEL_ALREADY_COMPLETE ||
	       result == KVF_CANCEL_NOT_FOUND;
}

const char *kvf_cancel_result_name(enum kvf_cancel_result result)
{
	switch (result) {
	case KVF_CANCEL_NOT_CANCELLABLE:
		return "not-cancellable";
	case KVF_CANCEL_BEFORE_ADVERTISE:
		return "before-advertise";
	case KVF_CANCEL_ALREADY_COMPLETE:
		return "already-complete";
	case KVF_CANCEL_REQUESTED_IN_FLIGHT:
		return "requested-in-flight";
	case KVF_CANCEL_BACKEND_UNHEALTHY:
		return "backend-unhealthy";
	case KVF_CANCEL_NOT_FOUND:
		return "not-found";
	}
	return "unknown";
}
