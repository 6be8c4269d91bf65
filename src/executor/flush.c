/* flush.c - answers wait here for the point of the iteration that every rank reaches.
 *
 * With attention-DP the engine's flush is a collective of all data-parallel ranks, and answers come from transfers that end at other times on each of them. So
 * it is entered always: whether a rank has something to send must not decide whether it takes part. The thread that ticks.
 */
#include "executor/guard.h"

enum kvf_status kvf_guard_respond(kvf_guard *guard, const struct kvf_guard_response *response)
{
	if (guard == NULL || response == NULL)
		return kvf_fail(KVF_EINVAL, "guard and response must not be NULL");
	if (guard->busy)
		return kvf_fail(KVF_EBUSY, "the guard was called by a function that it runs itself");
	if (guard->n_responses == guard->options.max_responses)
		return kvf_fail(KVF_EFULL, "max_responses: all %u wait for a flush", guard->n_responses);
	guard->responses[guard->n_responses++] = *response;
	return KVF_OK;
}

enum kvf_status kvf_guard_flush(kvf_guard *guard, kvf_guard_flush_function flush, void *self)
{
	enum kvf_status status = KVF_OK;

	if (flush == NULL)
		return kvf_fail(KVF_EINVAL, "flush must not be NULL");
	status = kvfi_guard_enter(guard);
	if (status != KVF_OK)
		return status;
	if (guard->n_responses > 0 || guard->options.attention_dp != 0)
		status = flush(self, guard->responses, guard->n_responses);
	if (status == KVF_OK)
		guard->n_responses = 0;
	guard->busy = false;
	return status;
}
