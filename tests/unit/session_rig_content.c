/* session_rig_content.c - what the memory of a node holds: a function of (request, group, layer, part, head, token), or a canary. */
#include "session_rig_private.h"

#include "base/hash.h"

#define CANARY 0xc7

const char rig_aux_text[RIG_AUX_BYTES] = "first token 42";

struct row_id {
	uint64_t request;
	uint32_t group, layer, part, head;
	uint64_t token;
};

static uint64_t row_seed(const struct row_id *row)
{
	uint64_t hash = kvfi_hash_u64(row->request, (row->group * 64 + row->layer) * 16 + row->part);

	return kvfi_hash_u64(hash, row->token * 64 + row->head);
}

static bool do_row(unsigned char *bytes, uint64_t n, const struct row_id *row, enum rig_content what)
{
	uint64_t seed = row_seed(row);

	for (uint64_t i = 0; i < n; i++) {
		bool canary = what == RIG_CANARY || what == RIG_CHECK_CANARY;
		unsigned char is = canary ? CANARY : (unsigned char)(kvfi_mix64(seed + i / 8) >> (i % 8 * 8));

		if (what == RIG_FILL || what == RIG_CANARY)
			bytes[i] = is;
		else if (bytes[i] != is)
			return false;
	}
	return true;
}

/* All rows of one block of one layer and part. */
static bool do_block(const struct kvf_group *group, uint64_t base, const struct kvf_part *part,
	struct row_id row, enum rig_content what)
{
	uint32_t tpb = group->kind == KVF_STATE ? 1 : RIG_TPB;
	uint64_t first = row.token;

	for (uint32_t i = 0; i < part->head_count * tpb; i++) {
		uint64_t address = base + i / tpb * part->head_stride + i % tpb * part->token_stride;

		row.head = part->head_start + i / tpb;
		row.token = first + i % tpb;
		if (!do_row((unsigned char *)(uintptr_t)address, part->row_bytes, &row, what))
			return false;
	}
	return true;
}

static bool do_entry(struct rig_node *node, const struct rig_session *session, uint32_t g, uint32_t entry,
	enum rig_content what)
{
	const struct kvf_group *group = &node->layout->groups[g];
	const struct rig_ids *list = &session->groups[g];
	struct row_id row = {.group = g,
		.request = kvfi_hash_u64(session->ask.request_id, session->ask.attempt),
		.token = (uint64_t)(list->first_block + entry) * RIG_TPB};

	if (list->ids[entry] < 0)
		return true;
	for (uint32_t l = 0; l < group->n_layers; l++) {
		for (uint32_t p = 0; p < group->n_parts; p++) {
			uint64_t base = group->bases[l * group->n_parts + p] +
			                (uint64_t)list->ids[entry] * group->parts[p].block_stride;

			row.layer = group->layers[l];
			row.part = p;
			if (!do_block(group, base, &group->parts[p], row, what))
				return false;
		}
	}
	return true;
}

bool rig_rows(struct rig_node *node, const struct rig_session *session, enum rig_content what, uint32_t only)
{
	for (uint32_t g = 0; g < node->layout->n_groups; g++)
		for (uint32_t e = 0; e < session->groups[g].n; e++)
			if ((only == KVFI_NONE || (g == 0 && e == only)) &&
				!do_entry(node, session, g, e, what))
				return false;
	return true;
}

bool rig_block_is_good(struct rig *rig, uint32_t node, uint32_t slot, uint32_t index)
{
	return rig_rows(&rig->nodes[node], &rig->nodes[node].sessions[slot], RIG_CHECK, index);
}
