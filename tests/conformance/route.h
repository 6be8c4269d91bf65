/* route.h - KV memory on both sides of a link, a plan between them, and what must be where afterwards.
 *
 * Expectations come from the address formula of the two layouts, cell by cell, not from the plan.
 */
#ifndef TESTS_CONFORMANCE_ROUTE_H
#define TESTS_CONFORMANCE_ROUTE_H

#include "harness.h"

struct shape_of_side {
	uint32_t tp, rank;
	enum kvf_memory_order order;
	uint32_t tokens_per_block;
};

struct route_options {
	uint32_t layers, heads;
	uint64_t row_bytes;
	struct shape_of_side src, dst;
	uint64_t prompt_len;
	uint32_t
		id_step; /* distance between the block ids of neighbours: 1 merges runs, more fragments them; 0 = 1 */
};

struct route {
	struct bench *bench;
	struct side *prefill, *decode;
	uint32_t slot;
	struct route_options options;
	uint32_t src_region, dst_region;
	struct kvf_instance *src_instance, *dst_instance;
	struct kvf_layout *src, *dst_wire, *dst_mapped, *dst_local;
	uint64_t dst_bytes;
	kvf_plan *tx_plan, *rx_plan;
	int32_t *src_ids, *dst_ids;
	struct kvfi_ids src_lists[1], dst_lists[1];
	struct kvfi_bound bound; /* the whole prompt, sender's side */
	unsigned char *want;     /* the destination region as it must be */
	uint64_t want_sum;
	bool granted[MAX_GRANTS];
};

/* Regions are made, filled and told; the link comes up; plans on both sides. */
void route_init(struct route *route, struct bench *bench, struct side *decode, uint32_t slot,
	const struct route_options *options);
/* Ends the grants that are left: what is applied in the background must not outlive the plan. */
void route_fini(struct route *route);

/* Grant `id` and a post of the whole prompt under it. */
struct kvfi_tx_post route_grant(struct route *route, uint32_t id, bool sum);
/* The grant ends; before that, if the receiving side may still be storing under it, it has to be quiet. */
void route_release(struct route *route, uint32_t id);
void route_post(struct route *route, const struct kvfi_tx_post *post);
/* Fill the destination with its canary again. */
void route_blank(struct route *route);
bool route_is_blank(const struct route *route);
bool route_has_arrived(const struct route *route);
void route_check(const struct route *route);
/* True once a byte of the destination has changed. */
bool route_has_begun(const struct route *route);

#endif
