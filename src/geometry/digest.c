/* digest.c - hashes of instance maps and layouts. Equal content, equal hash, on every machine; not for
 * secrets.
 *
 * Pure; allocates nothing; any thread.
 */
#include <string.h>
#include "base/hash.h"
#include "geometry/geometry.h"

static uint64_t hash_text(uint64_t hash, const char *text)
{
	return kvfi_hash_bytes(hash, text, strlen(text));
}

/* Of a list alone, so that it can be remembered. */
static uint64_t hash_layers(const uint32_t *layers, uint32_t n)
{
	uint64_t hash = n;

	for (uint32_t i = 0; i < n; i++)
		hash = kvfi_hash_u64(hash, layers[i]);
	return hash;
}

static uint64_t hash_pair(uint64_t hash, uint32_t high, uint32_t low)
{
	return kvfi_hash_u64(hash, (uint64_t)high << 32 | low);
}

/* The hash of a group's layers, of the rank that was hashed last: neighbours mostly hold the same. */
struct memo {
	const struct kvf_rank_group *group;
	uint64_t hash;
};

static uint64_t hash_held_layers(const struct kvf_rank_group *group, struct memo *memo)
{
	if (!memo->group || memo->group->n_layers != group->n_layers ||
		(group->n_layers != 0 && memcmp(memo->group->layers, group->layers,
						 group->n_layers * sizeof(*group->layers)) != 0))
		memo->hash = hash_layers(group->layers, group->n_layers);
	memo->group = group;
	return memo->hash;
}

static uint64_t hash_rank(uint64_t hash, const struct kvf_rank *rank, uint32_t n_groups, struct memo *memos)
{
	hash = hash_pair(hash, rank->tp, rank->pp);
	hash = kvfi_hash_u64(hash, rank->cp);
	for (uint32_t g = 0; g < n_groups; g++) {
		const struct kvf_rank_group *group = &rank->groups[g];

		hash = kvfi_hash_u64(hash, hash_held_layers(group, &memos[g]));
		for (uint32_t p = 0; p < KVF_MAX_PARTS; p++)
			hash = hash_pair(hash, group->head_start[p], group->head_count[p]);
	}
	return hash;
}

uint64_t kvfi_instance_hash(const struct kvf_instance *instance)
{
	uint64_t hash = kvfi_hash_u64(instance->id, (uint64_t)instance->role);
	struct memo memos[KVF_MAX_GROUPS] = {{0}};

	hash = hash_pair(hash, instance->tp, instance->pp);
	hash = hash_pair(hash, instance->cp, instance->dp);
	hash = hash_pair(hash, instance->n_groups, instance->n_ranks);
	for (uint32_t i = 0; i < instance->n_ranks; i++)
		hash = hash_rank(hash, &instance->ranks[i], instance->n_groups, memos);
	return hash;
}

static uint64_t hash_part(uint64_t hash, const struct kvf_part *part)
{
	hash = hash_pair(hash, part->heads, part->head_start);
	hash = kvfi_hash_u64(hash, part->head_count);
	hash = kvfi_hash_u64(hash, part->row_bytes);
	hash = kvfi_hash_u64(hash, part->block_stride);
	hash = kvfi_hash_u64(hash, part->head_stride);
	return kvfi_hash_u64(hash, part->token_stride);
}

static uint64_t hash_group(uint64_t hash, const struct kvf_group *group)
{
	hash = hash_pair(hash, (uint32_t)group->kind, (uint32_t)group->dtype);
	hash = hash_pair(hash, group->tokens_per_block, group->window_tokens);
	hash = hash_pair(hash, group->blocks, group->n_parts);
	hash = kvfi_hash_u64(hash, hash_layers(group->layers, group->n_layers));
	for (uint32_t p = 0; p < group->n_parts; p++)
		hash = hash_part(hash, &group->parts[p]);
	for (size_t i = 0; i < (size_t)group->n_layers * group->n_parts; i++)
		hash = kvfi_hash_u64(hash, group->bases[i]);
	return hash;
}

/* Aux slots are no part of a plan and are left out. */
static uint64_t hash_layout(uint64_t hash, const struct kvf_layout *layout)
{
	hash = hash_text(hash, layout->model);
	hash = hash_text(hash, layout->revision);
	hash = hash_pair(hash, layout->rank, layout->n_groups);
	for (uint32_t g = 0; g < layout->n_groups; g++)
		hash = hash_group(hash, &layout->groups[g]);
	return hash;
}

uint64_t kvfi_pair_digest(const struct kvf_instance *prefill, const struct kvf_layout *src,
	const struct kvf_instance *decode, const struct kvf_layout *dst, enum kvf_replica replica)
{
	uint64_t hash = kvfi_hash_u64(KVFI_PLAN_VERSION, (uint64_t)replica);

	hash = kvfi_hash_u64(hash, kvfi_instance_hash(prefill));
	hash = hash_layout(hash, src);
	hash = kvfi_hash_u64(hash, kvfi_instance_hash(decode));
	return hash_layout(hash, dst);
}
