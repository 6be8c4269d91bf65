/* requests.c - the requests of a guard, from kvf_guard_add to the last that is needed of them.
 *
 * Two facts, as everywhere: what has become of a request is *decided* once and told once; its blocks are *freed* once, when the engine has terminated it
 * and its memory is quiet, whatever was decided and also before anything is. An entry goes when it is decided, freed, its session closed, and no result
 * of it waits: so a result never names what is gone. Ids are (request id, attempt), in full. Nothing is kept of what is gone, so a
 * cancel that comes late can hit no later request of the same id.
 *
 * The thread that ticks.
 */
#include "executor/guard.h"

#include <stdlib.h>
#include <string.h>

/* ---- table ---- */

static uint32_t hash(uint64_t request_id, uint32_t attempt)
{
	uint64_t x = request_id + UINT64_C(0x9e3779b97f4a7c15) * (attempt + UINT64_C(1));

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9); /* splitmix64 */
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (uint32_t)(x ^ (x >> 31));
}

bool kvfi_guard_requests_init(kvf_guard *guard)
{
	const uint32_t max = guard->options.max_requests;
	uint32_t heads = 16;

	while (heads < max)
		heads *= 2;
	guard->entries = calloc(max, sizeof(*guard->entries));
	guard->heads = malloc(heads * sizeof(*guard->heads));
	guard->told_max = 3 * max; /* READY, EXPIRED and the end of each */
	guard->told = calloc(guard->told_max, sizeof(*guard->told));
	if (guard->entries == NULL || guard->heads == NULL || guard->told == NULL)
		return false;
	guard->head_mask = heads - 1;
	for (uint32_t i = 0; i < heads; i++)
		guard->heads[i] = KVFI_GUARD_NONE;
	for (uint32_t i = 0; i < max; i++)
		guard->entries[i].chain = i + 1 < max ? i + 1 : KVFI_GUARD_NONE;
	guard->first = guard->last = KVFI_GUARD_NONE;
	guard->next_deadline_ns = KVFI_GUARD_NEVER;
	return true;
}

void kvfi_guard_requests_fini(kvf_guard *guard)
{
	free(guard->told);
	free(guard->heads);
	free(guard->entries);
}

struct guard_entry *kvfi_guard_find(const kvf_guard *guard, uint64_t request_id, uint32_t attempt)
{
	uint32_t at = guard->heads[hash(request_id, attempt) & guard->head_mask];

	for (; at != KVFI_GUARD_NONE; at = guard->entries[at].chain) {
		struct guard_entry *entry = &guard->entries[at];

		if (entry->request_id == request_id && entry->attempt == attempt)
			return entry;
	}
	return NULL;
}

/* An entry with its id, last in the order; its room is there. */
static struct guard_entry *take(kvf_guard *guard, uint64_t request_id, uint32_t attempt)
{
	const uint32_t at = guard->free_entry;
	struct guard_entry *entry = &guard->entries[at];
	uint32_t *head = &guard->heads[hash(request_id, attempt) & guard->head_mask];

	guard->free_entry = entry->chain;
	memset(entry, 0, sizeof(*entry));
	entry->request_id = request_id;
	entry->attempt = attempt;
	entry->chain = *head;
	*head = at;
	entry->next = KVFI_GUARD_NONE;
	entry->prev = guard->last;
	if (guard->last == KVFI_GUARD_NONE)
		guard->first = at;
	else
		guard->entries[guard->last].next = at;
	guard->last = at;
	guard->n_entries++;
	guard->n_undecided++;
	return entry;
}

static void give(kvf_guard *guard, struct guard_entry *entry)
{
	const uint32_t at = (uint32_t)(entry - guard->entries);
	uint32_t *link = &guard->heads[hash(entry->request_id, entry->attempt) & guard->head_mask];

	while (*link != at)
		link = &guard->entries[*link].chain;
	*link = entry->chain;
	if (entry->prev == KVFI_GUARD_NONE)
		guard->first = entry->next;
	else
		guard->entries[entry->prev].next = entry->next;
	if (entry->next == KVFI_GUARD_NONE)
		guard->last = entry->prev;
	else
		guard->entries[entry->next].prev = entry->prev;
	entry->chain = guard->free_entry;
	guard->free_entry = at;
	guard->n_entries--;
}

/* ---- the engine's calls ---- */

static uint64_t after(uint64_t now_ns, uint64_t timeout_ns)
{
	return timeout_ns == 0 || timeout_ns >= KVFI_GUARD_NEVER - now_ns ? KVFI_GUARD_NEVER
	                                                                  : now_ns + timeout_ns;
}

static enum kvf_status check_request(kvf_guard *guard, const struct kvf_guard_request *request)
{
	if (request->session.bits == 0 && request->refused == KVF_OK)
		return kvf_fail(KVF_EINVAL, "request %llu: neither a session nor why there is none",
			(unsigned long long)request->request_id);
	if (kvfi_guard_find(guard, request->request_id, request->attempt) != NULL)
		return kvf_fail(KVF_DUPLICATE, "request %llu attempt %u is not freed yet",
			(unsigned long long)request->request_id, request->attempt);
	if (guard->free_entry == KVFI_GUARD_NONE)
		return kvf_fail(KVF_EFULL, "max_requests: all %u are in use", guard->options.max_requests);
	return KVF_OK;
}

enum kvf_status kvf_guard_add(kvf_guard *guard, const struct kvf_guard_request *request)
{
	struct guard_entry *entry;
	enum kvf_status status;

	if (guard == NULL || request == NULL)
		return kvf_fail(KVF_EINVAL, "guard and request must not be NULL");
	if (guard->busy)
		return kvf_fail(KVF_EBUSY, "the guard was called by a function that it runs itself");
	status = check_request(guard, request);
	if (status != KVF_OK)
		return status;
	entry = take(guard, request->request_id, request->attempt);
	entry->session = request->session;
	entry->user = request->user;
	entry->deadline_ns = after(guard->agent.now_ns(guard->agent.self), request->timeout_ns);
	entry->transfer_timeout_ns = request->transfer_timeout_ns;
	guard->n_clocks += request->transfer_timeout_ns != 0;
	if (entry->deadline_ns < guard->next_deadline_ns)
		guard->next_deadline_ns = entry->deadline_ns;
	if (request->session.bits == 0) { /* nothing was ever in flight */
		guard->dirty = true;
		entry->bits = GUARD_FAILED | GUARD_RELEASED;
		entry->status = request->refused;
		entry->outcome_seen = true;
	}
	return KVF_OK;
}

static enum kvf_cancel_result stop(kvf_guard *guard, const struct guard_entry *entry, const char *reason)
{
	if (entry->session.bits == 0)
		return KVF_CANCEL_ALREADY_COMPLETE;
	return guard->agent.cancel(guard->agent.self, entry->session, reason);
}

enum kvf_cancel_result kvf_guard_cancel(
	kvf_guard *guard, uint64_t request_id, uint32_t attempt, const char *reason)
{
	struct guard_entry *entry;

	if (guard == NULL || guard->busy)
		return KVF_CANCEL_NOT_CANCELLABLE;
	entry = kvfi_guard_find(guard, request_id, attempt);
	if (entry == NULL)
		return KVF_CANCEL_NOT_FOUND;
	if (!entry->decided)
		entry->bits |= GUARD_CANCELLED;
	guard->dirty = true;
	return stop(guard, entry, reason);
}

int kvf_guard_can_terminate(kvf_guard *guard, uint64_t request_id, uint32_t attempt)
{
	const struct guard_entry *entry = guard == NULL ? NULL : kvfi_guard_find(guard, request_id, attempt);

	return entry == NULL || (entry->bits & GUARD_RELEASED) != 0;
}

/* Results that were not polled are not told any more: the engine may have dropped what they would name. */
static void mute(kvf_guard *guard, const struct guard_entry *entry)
{
	guard->n_results -= entry->waiting;
}

enum kvf_status kvf_guard_terminate(kvf_guard *guard, uint64_t request_id, uint32_t attempt)
{
	enum kvf_status status = kvfi_guard_enter(guard);
	struct guard_entry *entry;

	if (status != KVF_OK)
		return status;
	entry = kvfi_guard_find(guard, request_id, attempt);
	if (entry == NULL) {
		status = kvf_fail(KVF_ENOTFOUND, "request %llu attempt %u is not known",
			(unsigned long long)request_id, attempt);
	} else if ((entry->bits & GUARD_TERMINATED) == 0) {
		mute(guard, entry);
		entry->bits |= GUARD_TERMINATED;
		guard->dirty = true;
		guard->n_deferred++;
		if ((entry->bits & GUARD_RELEASED) != 0 && guard->options.free_together == 0)
			kvfi_guard_free_blocks(guard, entry);
	}
	guard->busy = false;
	return status;
}

/* ---- results ---- */

void kvfi_guard_tell(
	kvf_guard *guard, struct guard_entry *entry, enum kvf_guard_kind kind, enum kvf_status status)
{
	struct guard_told *told;

	if ((entry->bits & GUARD_TERMINATED) != 0)
		return;
	/* Three for each entry, and an entry stays as long as one waits: there is room. */
	told = &guard->told[(guard->told_head + guard->told_n++) % guard->told_max];
	*told = (struct guard_told){(uint32_t)(entry - guard->entries), kind, status};
	entry->waiting++;
	guard->n_results++;
}

void kvfi_guard_decide(kvf_guard *guard, struct guard_entry *entry, uint32_t bits, enum kvf_status status)
{
	const enum kvf_guard_kind kind = (bits & GUARD_CANCELLED) != 0 ? KVF_GUARD_CANCELLED
	                                 : (bits & GUARD_FAILED) != 0  ? KVF_GUARD_FAILED
	                                                               : KVF_GUARD_COMPLETED;

	entry->decided = true;
	guard->dirty = true;
	guard->n_undecided--;
	if (kind == KVF_GUARD_CANCELLED)
		status = KVF_CANCELLED;
	else if (kind == KVF_GUARD_COMPLETED)
		status = KVF_OK;
	kvfi_guard_tell(guard, entry, kind, status);
	if (kind != KVF_GUARD_COMPLETED && (entry->bits & GUARD_RELEASED) == 0)
		(void)stop(guard, entry,
			kind == KVF_GUARD_CANCELLED ? "cancelled" : "failed on another rank, or timed out");
}

static void fill(
	const struct guard_entry *entry, const struct guard_told *told, struct kvf_guard_result *result)
{
	*result = (struct kvf_guard_result){.kind = told->kind,
		.status = told->status,
		.request_id = entry->request_id,
		.attempt = entry->attempt,
		.answered = entry->expired && told->kind != KVF_GUARD_EXPIRED,
		.session = entry->session,
		.user = entry->user};
}

int kvf_guard_poll(kvf_guard *guard, struct kvf_guard_result *results, int n)
{
	int taken = 0;

	if (guard == NULL || n < 0 || (n > 0 && results == NULL))
		return kvf_fail(KVF_EINVAL, "guard and results must not be NULL, n not negative");
	if (guard->busy)
		return kvf_fail(KVF_EBUSY, "the guard was called by a function that it runs itself");
	while (taken < n && guard->told_n > 0) {
		const struct guard_told *told = &guard->told[guard->told_head];
		struct guard_entry *entry = &guard->entries[told->entry];

		entry->waiting--;
		guard->dirty = true;
		if ((entry->bits & GUARD_TERMINATED) == 0) {
			fill(entry, told, &results[taken++]);
			guard->n_results--;
		}
		guard->told_head = (guard->told_head + 1) % guard->told_max;
		guard->told_n--;
	}
	return taken;
}

/* ---- the end ---- */

void kvfi_guard_free_blocks(kvf_guard *guard, struct guard_entry *entry)
{
	entry->freed = true;
	guard->dirty = true;
	guard->n_deferred--;
	guard->options.free_request(guard->options.self, entry->request_id, entry->attempt, entry->user);
}

/* What an engine may still ask about a failed session keeps it open until it has done with the request. */
static void close_session(kvf_guard *guard, struct guard_entry *entry)
{
	const bool good =
		(entry->bits & GUARD_ENDED) == GUARD_COMPLETED && entry->decided && entry->waiting == 0;

	if (entry->session.bits == 0 || (entry->bits & GUARD_RELEASED) == 0 || (!good && !entry->freed))
		return;
	if (guard->agent.close(guard->agent.self, entry->session) != KVF_EFULL)
		entry->session.bits = 0;
	else
		guard->dirty = true; /* the next sweep asks again */
}

/* Results of a terminated request are told to nobody: they need not be polled for their places to come back. */
static void drop_muted(kvf_guard *guard)
{
	while (guard->told_n > 0) {
		struct guard_entry *entry = &guard->entries[guard->told[guard->told_head].entry];

		if ((entry->bits & GUARD_TERMINATED) == 0)
			return;
		entry->waiting--;
		guard->told_head = (guard->told_head + 1) % guard->told_max;
		guard->told_n--;
	}
}

void kvfi_guard_sweep(kvf_guard *guard)
{
	const uint32_t may_free = GUARD_TERMINATED | GUARD_RELEASED;
	uint32_t next;

	if (!guard->dirty)
		return;
	guard->dirty = false;
	drop_muted(guard);
	for (uint32_t at = guard->first; at != KVFI_GUARD_NONE; at = next) {
		struct guard_entry *entry = &guard->entries[at];

		next = entry->next;
		if (!entry->freed && guard->options.free_together == 0 &&
			(entry->bits & may_free) == may_free)
			kvfi_guard_free_blocks(guard, entry);
		close_session(guard, entry);
		if (entry->freed && entry->decided && entry->session.bits == 0 && entry->waiting == 0)
			give(guard, entry);
	}
}
