/* sum.c - content sums of what arrived over a one-sided path, computed by the copy workers.
 *
 * One job per link at most; the core keeps blocks, plan and bound until SUMMED has come back.
 */
#include "agent/agent.h"

#include <stdlib.h>
#include "base/assert.h"
#include "base/status.h"
#include "device/host.h"

struct sum_job {
	struct kvfi_job job;
	kvf_agent *agent;
	uint32_t link;
	const struct kvfi_bound *bound;
};

enum kvf_status kvfi_sums_init(kvf_agent *agent)
{
	if (agent->options.verify != KVF_VERIFY_SUM)
		return KVF_OK;
	agent->sums = calloc(agent->options.max_links, sizeof(struct sum_job));
	return agent->sums != NULL ? KVF_OK : kvfi_fail(KVF_ENOMEM, "no memory for the sums");
}

static void run(struct kvfi_job *job)
{
	struct sum_job *sum = (struct sum_job *)(void *)job;
	struct item item = {.kind = ITEM_SUMMED, .u.summed.link = sum->link};
	struct kvfi_walk walk;
	struct kvfi_strip strip;

	kvfi_walk_init(&walk, sum->bound, KVFI_WALK_DST, 0, sum->bound->units);
	while (kvfi_walk_next(&walk, KVFI_CHUNK_BYTES, &strip))
		for (uint64_t i = 0; i < strip.count; i++)
			item.u.summed.sum += kvfi_host_sum(
				(const void *)(uintptr_t)(strip.dst + i * (uint64_t)strip.dst_stride),
				strip.len, strip.pos + i * (uint64_t)strip.pos_stride);
	/* Bounded by max_links: `keep` holds the room. */
	KVFI_ASSERT(kvfi_inbox_push(&sum->agent->inbox, &item, 0) || atomic_load(&sum->agent->stop));
}

void kvfi_sum_start(kvf_agent *agent, uint32_t link, const struct kvfi_bound *bound)
{
	struct sum_job *sum = &agent->sums[link];

	*sum = (struct sum_job){.job = {.run = run}, .agent = agent, .link = link, .bound = bound};
	kvfi_workers_submit(agent->workers, &sum->job);
}
