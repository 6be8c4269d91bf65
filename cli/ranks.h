/* ranks.h - rank specs: how one side splits the model over its ranks and lays out its memory.
 *
 *	tp=4,pp=2,cp=1,dp=2,attention-dp,stages=3:2,layout=block-major|hnd|nhd,block=B,order=pp:cp:tp
 *
 * Every key is optional, in any order, once. Counts are 1 unless given. attention-dp alone means dp=tp; dp >
 *1 without attention-dp is a mistake; dp divides tp; cp > 1 is refused on prefill; stages has pp entries that
 *sum to the model's layers (recurrent ones included), none of them 0.
 */
#ifndef KVFERRY_CLI_RANKS_H
#define KVFERRY_CLI_RANKS_H

#include "cli/model.h"
#include "cli/reason.h"
#include "kvferry/kvferry.h"

/* Points into itself: do not copy or move it. */
struct ranks {
	enum kvf_role role;
	struct kvf_parallel parallel;
	uint32_t stages[KVF_MAX_LAYERS];
	char order[16];
	enum kvf_memory_order memory_order;
	uint32_t tokens_per_block;
	uint32_t n; /* ranks of the instance */
};

/* ranks_parse - text of --prefill or --decode; block_tokens: what --block-tokens says. */
bool ranks_parse(const char *text, enum kvf_role role, const struct model *model, uint32_t block_tokens,
	struct ranks *ranks, struct reason *why);
/* "tp=4 pp=1, block-major, 32 tokens a block" for people. */
void ranks_describe(const struct ranks *ranks, char *buffer, size_t size);
const char *ranks_order_name(enum kvf_memory_order order); /* "block-major", "hnd", "nhd" */

#endif
