/* cold.c - REFUSE and REQUEST, and the way of every cold message through msgpack.
 *
 * The block ids of a REQUEST travel as one bin of (start, count) pairs per group: a list of 100,000 scattered blocks is
 * 800 kB, read without an object per id. Reading scans the bytes (pack_scan.c), unpacks them into a zone, and leaves the
 * message pointing into that zone until kvfi_cold_free. Pure; any thread.
 */
#include "wire/cold.h"

#include <stdlib.h>
#include "base/status.h"

static void put_refuse(struct kvfi_packer *packer, const struct kvfi_msg_refuse *refuse)
{
	kvfi_pack_map(packer, 5);
	kvfi_pack_int_at(packer, "status", refuse->status);
	kvfi_pack_text_at(packer, "field", refuse->refusal.field);
	kvfi_pack_text_at(packer, "prefill", refuse->refusal.prefill);
	kvfi_pack_text_at(packer, "decode", refuse->refusal.decode);
	kvfi_pack_text_at(packer, "reason", refuse->reason);
}

static void get_refuse(const struct kvfi_map *map, struct kvfi_msg_refuse *refuse)
{
	struct kvf_refusal *refusal = &refuse->refusal;

	refuse->status = (enum kvf_status)kvfi_map_int(map, "status");
	kvfi_map_text(map, "field", refusal->field, sizeof(refusal->field));
	kvfi_map_text(map, "prefill", refusal->prefill, sizeof(refusal->prefill));
	kvfi_map_text(map, "decode", refusal->decode, sizeof(refusal->decode));
	kvfi_map_text(map, "reason", refuse->reason, sizeof(refuse->reason));
}

static void put_request_group(struct kvfi_packer *packer, const struct kvfi_request_group *group)
{
	kvfi_pack_map(packer, 4);
	kvfi_pack_uint_at(packer, "group", group->group);
	kvfi_pack_uint_at(packer, "ids", group->n_ids);
	kvfi_pack_uint_at(packer, "tpb", group->tokens_per_block);
	kvfi_pack_bin_at(packer, "runs", (size_t)group->n_runs * 8);
	for (uint32_t i = 0; i < group->n_runs; i++) {
		kvfi_put_u32(packer->writer, (uint32_t)group->runs[i].start);
		kvfi_put_u32(packer->writer, group->runs[i].count);
	}
}

static void put_request(struct kvfi_packer *packer, const struct kvfi_msg_request *request)
{
	kvfi_pack_map(packer, 13);
	kvfi_pack_uint_at(packer, "prompt", request->prompt_len);
	kvfi_pack_uint_at(packer, "dp", request->dp_index);
	kvfi_pack_uint_at(packer, "dp_rank", request->dp_rank);
	kvfi_pack_uint_at(packer, "replica", request->replica);
	kvfi_pack_uint_at(packer, "aux_slot", request->aux_slot);
	kvfi_pack_uint_at(packer, "aux_bytes", request->aux_bytes);
	kvfi_pack_uint_at(packer, "lease_slot", request->lease_slot);
	kvfi_pack_uint_at(packer, "lease_gen", request->lease_generation);
	kvfi_pack_uint_at(packer, "time_left", request->time_left_ns);
	kvfi_pack_uint_at(packer, "digest", request->digest);
	kvfi_pack_uint_at(packer, "verify", request->verify);
	kvfi_pack_uint_at(packer, "seal", request->seal);
	kvfi_pack_array_at(packer, "groups", request->n_groups);
	for (uint32_t g = 0; g < request->n_groups; g++)
		put_request_group(packer, &request->groups[g]);
}

static void get_request_group(const struct kvfi_map *map, struct kvfi_request_group *group)
{
	const size_t max_runs = KVFI_WIRE_MAX_BYTES / sizeof(struct kvfi_id_run);
	struct kvfi_reader reader = kvfi_map_bin(map, "runs", 8, max_runs, &group->n_runs);

	group->group = kvfi_map_u32(map, "group");
	group->n_ids = kvfi_map_u32(map, "ids");
	group->tokens_per_block = kvfi_map_u32(map, "tpb");
	group->runs = kvfi_map_alloc(map, group->n_runs, sizeof(*group->runs));
	for (uint32_t i = 0; group->runs != NULL && i < group->n_runs; i++) {
		group->runs[i].start = (int32_t)kvfi_get_u32(&reader);
		group->runs[i].count = kvfi_get_u32(&reader);
	}
}

static void get_request(const struct kvfi_map *map, struct kvfi_msg_request *request)
{
	const struct kvfi_map_array groups = kvfi_map_array(map, "groups", KVF_MAX_GROUPS);

	request->prompt_len = kvfi_map_uint(map, "prompt", UINT64_MAX);
	request->dp_index = kvfi_map_u32(map, "dp");
	request->dp_rank = kvfi_map_u32(map, "dp_rank");
	request->replica = (enum kvf_replica)kvfi_map_u32(map, "replica");
	request->aux_slot = kvfi_map_u32(map, "aux_slot");
	request->aux_bytes = kvfi_map_u32(map, "aux_bytes");
	request->lease_slot = kvfi_map_u32(map, "lease_slot");
	request->lease_generation = kvfi_map_u32(map, "lease_gen");
	request->time_left_ns = kvfi_map_uint(map, "time_left", UINT64_MAX);
	request->digest = kvfi_map_uint(map, "digest", UINT64_MAX);
	request->verify = kvfi_map_u32(map, "verify");
	request->seal = kvfi_map_uint(map, "seal", UINT64_MAX);
	request->n_groups = groups.n;
	for (uint32_t g = 0; *map->status == KVF_OK && g < groups.n; g++) {
		const struct kvfi_map group = kvfi_map_element(&groups, g);

		get_request_group(&group, &request->groups[g]);
	}
}

enum kvf_status kvfi_cold_put(struct kvfi_writer *writer, const struct kvfi_msg *msg)
{
	struct kvfi_packer packer;

	kvfi_packer_init(&packer, writer);
	if (msg->header.type == KVFI_MSG_REFUSE)
		put_refuse(&packer, &msg->u.refuse);
	else if (msg->header.type == KVFI_MSG_REQUEST)
		put_request(&packer, &msg->u.request);
	else
		kvfi_hello_put(&packer, &msg->u.hello);
	return KVF_OK;
}

enum kvf_status kvfi_cold_get(struct kvfi_reader *reader, struct kvfi_msg *msg, void **arena_out)
{
	const char *name = kvfi_msg_name(msg->header.type);
	const size_t len_bytes = kvfi_reader_left(reader);
	const char *bytes = (const char *)kvfi_get_span(reader, len_bytes);
	enum kvf_status status = kvfi_pack_scan((const unsigned char *)bytes, len_bytes);
	msgpack_unpacked *unpacked;
	msgpack_unpack_return unpack;
	struct kvfi_map map;

	if (status != KVF_OK)
		return kvfi_fail_prefix(status, "%s", name);
	unpacked = malloc(sizeof(*unpacked));
	if (unpacked == NULL)
		return kvfi_fail(KVF_ENOMEM, "reading a %s", name);
	msgpack_unpacked_init(unpacked);
	*arena_out = unpacked;
	unpack = msgpack_unpack_next(unpacked, bytes, len_bytes, NULL);
	if (unpack == MSGPACK_UNPACK_NOMEM_ERROR)
		return kvfi_fail(KVF_ENOMEM, "reading a %s", name);
	if (unpack != MSGPACK_UNPACK_SUCCESS)
		return kvfi_fail(KVF_PROTOCOL, "%s: msgpack: not understood (%d)", name, (int)unpack);
	map = kvfi_map_root(name, &unpacked->data, unpacked->zone, &status);
	if (msg->header.type == KVFI_MSG_REFUSE)
		get_refuse(&map, &msg->u.refuse);
	else if (msg->header.type == KVFI_MSG_REQUEST)
		get_request(&map, &msg->u.request);
	else
		kvfi_hello_get(&map, &msg->u.hello);
	return status;
}

void kvfi_cold_free(void *arena)
{
	if (arena == NULL)
		return;
	msgpack_unpacked_destroy(arena);
	free(arena);
}
