/* cold_hello.c - HELLO and HELLO_OK: who a rank is, its instance map and its layout.
 *
 * Lists of numbers travel as bins of little-endian integers: an instance of 4096 ranks is read without an object per
 * layer. The addresses of aux slots stay at home (aux data travel inside RESULT and are applied by the receiver): they
 * come back as zeros. What is read lives in the map's zone and is as well-formed as the getters here demand; limits of
 * values are check.c's. Pure; any thread.
 */
#include "wire/cold.h"

static void put_heads(struct kvfi_packer *packer, const struct kvf_rank_group *group)
{
	uint32_t n = KVF_MAX_PARTS;

	while (n > 0 && group->head_start[n - 1] == 0 && group->head_count[n - 1] == 0)
		n--;
	kvfi_pack_bin_at(packer, "heads", (size_t)n * 8);
	for (uint32_t p = 0; p < n; p++) {
		kvfi_put_u32(packer->writer, group->head_start[p]);
		kvfi_put_u32(packer->writer, group->head_count[p]);
	}
}

static void put_rank(struct kvfi_packer *packer, const struct kvf_rank *rank, uint32_t n_groups)
{
	kvfi_pack_map(packer, 5);
	kvfi_pack_uint_at(packer, "tp", rank->tp);
	kvfi_pack_uint_at(packer, "pp", rank->pp);
	kvfi_pack_uint_at(packer, "cp", rank->cp);
	kvfi_pack_text_at(packer, "endpoint", rank->endpoint);
	kvfi_pack_array_at(packer, "groups", n_groups);
	for (uint32_t g = 0; g < n_groups; g++) {
		kvfi_pack_map(packer, 2);
		kvfi_pack_layers_at(packer, "layers", rank->groups[g].layers, rank->groups[g].n_layers);
		put_heads(packer, &rank->groups[g]);
	}
}

static void put_instance(struct kvfi_packer *packer, const struct kvf_instance *instance)
{
	kvfi_pack_map_at(packer, "instance", 8);
	kvfi_pack_uint_at(packer, "id", instance->id);
	kvfi_pack_uint_at(packer, "role", instance->role);
	kvfi_pack_uint_at(packer, "tp", instance->tp);
	kvfi_pack_uint_at(packer, "pp", instance->pp);
	kvfi_pack_uint_at(packer, "cp", instance->cp);
	kvfi_pack_uint_at(packer, "dp", instance->dp);
	kvfi_pack_uint_at(packer, "groups", instance->n_groups);
	kvfi_pack_array_at(packer, "ranks", instance->n_ranks);
	for (uint32_t r = 0; r < instance->n_ranks; r++)
		put_rank(packer, &instance->ranks[r], instance->n_groups);
}

static void get_rank_group(const struct kvfi_map *map, struct kvf_rank_group *group)
{
	struct kvfi_reader heads;
	uint32_t n_parts;

	group->layers = kvfi_map_layers(map, "layers", &group->n_layers);
	heads = kvfi_map_bin(map, "heads", 8, KVF_MAX_PARTS, &n_parts);
	for (uint32_t p = 0; p < n_parts; p++) {
		group->head_start[p] = kvfi_get_u32(&heads);
		group->head_count[p] = kvfi_get_u32(&heads);
	}
}

static void get_rank(const struct kvfi_map *map, uint32_t n_groups, struct kvf_rank *rank)
{
	const struct kvfi_map_array array = kvfi_map_array(map, "groups", KVF_MAX_GROUPS);
	struct kvf_rank_group *groups = kvfi_map_alloc(map, array.n, sizeof(*groups));

	rank->tp = kvfi_map_u32(map, "tp");
	rank->pp = kvfi_map_u32(map, "pp");
	rank->cp = kvfi_map_u32(map, "cp");
	rank->endpoint = kvfi_map_string(map, "endpoint");
	rank->groups = groups;
	if (array.n != n_groups)
		kvfi_map_wrong(map, "groups", "not as many as the instance has");
	for (uint32_t g = 0; *map->status == KVF_OK && g < array.n; g++) {
		const struct kvfi_map group = kvfi_map_element(&array, g);

		get_rank_group(&group, &groups[g]);
	}
}

static struct kvf_instance *get_instance(const struct kvfi_map *map)
{
	const struct kvfi_map_array array = kvfi_map_array(map, "ranks", KVF_MAX_RANKS);
	struct kvf_instance *instance = kvfi_map_alloc(map, 1, sizeof(*instance));
	struct kvf_rank *ranks = kvfi_map_alloc(map, array.n, sizeof(*ranks));

	if (instance == NULL || ranks == NULL)
		return NULL;
	instance->id = kvfi_map_uint(map, "id", UINT64_MAX);
	instance->role = (enum kvf_role)kvfi_map_u32(map, "role");
	instance->tp = kvfi_map_u32(map, "tp");
	instance->pp = kvfi_map_u32(map, "pp");
	instance->cp = kvfi_map_u32(map, "cp");
	instance->dp = kvfi_map_u32(map, "dp");
	instance->n_groups = kvfi_map_u32(map, "groups");
	instance->n_ranks = array.n;
	instance->ranks = ranks;
	for (uint32_t r = 0; *map->status == KVF_OK && r < array.n; r++) {
		const struct kvfi_map rank = kvfi_map_element(&array, r);

		get_rank(&rank, instance->n_groups, &ranks[r]);
	}
	return instance;
}

static void put_part(struct kvfi_packer *packer, const struct kvf_part *part)
{
	kvfi_pack_map(packer, 7);
	kvfi_pack_uint_at(packer, "heads", part->heads);
	kvfi_pack_uint_at(packer, "start", part->head_start);
	kvfi_pack_uint_at(packer, "count", part->head_count);
	kvfi_pack_uint_at(packer, "row", part->row_bytes);
	kvfi_pack_uint_at(packer, "block", part->block_stride);
	kvfi_pack_uint_at(packer, "head", part->head_stride);
	kvfi_pack_uint_at(packer, "token", part->token_stride);
}

static void put_group(struct kvfi_packer *packer, const struct kvf_group *group)
{
	const uint32_t n_bases = group->n_layers * group->n_parts;

	kvfi_pack_map(packer, 8);
	kvfi_pack_uint_at(packer, "kind", group->kind);
	kvfi_pack_uint_at(packer, "dtype", group->dtype);
	kvfi_pack_uint_at(packer, "tpb", group->tokens_per_block);
	kvfi_pack_uint_at(packer, "window", group->window_tokens);
	kvfi_pack_uint_at(packer, "blocks", group->blocks);
	kvfi_pack_layers_at(packer, "layers", group->layers, group->n_layers);
	kvfi_pack_array_at(packer, "parts", group->n_parts);
	for (uint32_t p = 0; p < group->n_parts; p++)
		put_part(packer, &group->parts[p]);
	kvfi_pack_bin_at(packer, "bases", (size_t)n_bases * 8);
	for (uint32_t i = 0; i < n_bases; i++)
		kvfi_put_u64(packer->writer, group->bases[i]);
}

static void put_layout(struct kvfi_packer *packer, const struct kvf_layout *layout)
{
	kvfi_pack_map_at(packer, "layout", 5);
	kvfi_pack_text_at(packer, "model", layout->model);
	kvfi_pack_text_at(packer, "revision", layout->revision);
	kvfi_pack_uint_at(packer, "rank", layout->rank);
	kvfi_pack_bin_at(packer, "aux", (size_t)layout->n_aux * 4);
	for (uint32_t i = 0; i < layout->n_aux; i++)
		kvfi_put_u32(packer->writer, layout->aux_bytes[i]);
	kvfi_pack_array_at(packer, "groups", layout->n_groups);
	for (uint32_t g = 0; g < layout->n_groups; g++)
		put_group(packer, &layout->groups[g]);
}

static void get_part(const struct kvfi_map *map, struct kvf_part *part)
{
	part->heads = kvfi_map_u32(map, "heads");
	part->head_start = kvfi_map_u32(map, "start");
	part->head_count = kvfi_map_u32(map, "count");
	part->row_bytes = kvfi_map_uint(map, "row", UINT64_MAX);
	part->block_stride = kvfi_map_uint(map, "block", UINT64_MAX);
	part->head_stride = kvfi_map_uint(map, "head", UINT64_MAX);
	part->token_stride = kvfi_map_uint(map, "token", UINT64_MAX);
}

static void get_bases(const struct kvfi_map *map, struct kvf_group *group)
{
	uint32_t n_bases;
	struct kvfi_reader reader = kvfi_map_bin(map, "bases", 8, KVF_MAX_LAYERS * KVF_MAX_PARTS, &n_bases);
	uint64_t *bases = kvfi_map_alloc(map, n_bases, sizeof(*bases));

	if (n_bases != group->n_layers * group->n_parts)
		kvfi_map_wrong(map, "bases", "not as many as layers times parts");
	for (uint32_t i = 0; bases != NULL && i < n_bases; i++)
		bases[i] = kvfi_get_u64(&reader);
	group->bases = bases;
}

static void get_group(const struct kvfi_map *map, struct kvf_group *group)
{
	const struct kvfi_map_array parts = kvfi_map_array(map, "parts", KVF_MAX_PARTS);

	group->kind = (enum kvf_group_kind)kvfi_map_u32(map, "kind");
	group->dtype = (enum kvf_dtype)kvfi_map_u32(map, "dtype");
	group->tokens_per_block = kvfi_map_u32(map, "tpb");
	group->window_tokens = kvfi_map_u32(map, "window");
	group->blocks = kvfi_map_u32(map, "blocks");
	group->layers = kvfi_map_layers(map, "layers", &group->n_layers);
	group->n_parts = parts.n;
	for (uint32_t p = 0; *map->status == KVF_OK && p < parts.n; p++) {
		const struct kvfi_map part = kvfi_map_element(&parts, p);

		get_part(&part, &group->parts[p]);
	}
	get_bases(map, group);
}

static void get_aux(const struct kvfi_map *map, struct kvf_layout *layout)
{
	struct kvfi_reader reader = kvfi_map_bin(map, "aux", 4, KVFI_MAX_AUX, &layout->n_aux);
	uint32_t *aux_bytes = kvfi_map_alloc(map, layout->n_aux, sizeof(*aux_bytes));
	uint64_t *aux_bases = kvfi_map_alloc(map, layout->n_aux, sizeof(*aux_bases));
	uint64_t at = KVFI_AUX_NOWHERE;

	for (uint32_t i = 0; aux_bytes != NULL && aux_bases != NULL && i < layout->n_aux; i++) {
		aux_bytes[i] = kvfi_get_u32(&reader);
		aux_bases[i] = at;
		at += aux_bytes[i] <= KVF_MAX_AUX_BYTES ? aux_bytes[i] : 0;
	}
	layout->aux_bytes = aux_bytes;
	layout->aux_bases = aux_bases;
}

static struct kvf_layout *get_layout(const struct kvfi_map *map)
{
	const struct kvfi_map_array array = kvfi_map_array(map, "groups", KVF_MAX_GROUPS);
	struct kvf_layout *layout = kvfi_map_alloc(map, 1, sizeof(*layout));
	struct kvf_group *groups = kvfi_map_alloc(map, array.n, sizeof(*groups));

	if (layout == NULL || groups == NULL)
		return NULL;
	layout->model = kvfi_map_string(map, "model");
	layout->revision = kvfi_map_string(map, "revision");
	layout->rank = kvfi_map_u32(map, "rank");
	layout->n_groups = array.n;
	layout->groups = groups;
	for (uint32_t g = 0; *map->status == KVF_OK && g < array.n; g++) {
		const struct kvfi_map group = kvfi_map_element(&array, g);

		get_group(&group, &groups[g]);
	}
	get_aux(map, layout);
	return layout;
}

void kvfi_hello_put(struct kvfi_packer *packer, const struct kvfi_msg_hello *hello)
{
	kvfi_pack_map(packer, 6);
	kvfi_pack_uint_at(packer, "version", hello->version);
	kvfi_pack_uint_at(packer, "features", hello->features);
	kvfi_pack_text_at(packer, "name", hello->name);
	put_instance(packer, hello->instance);
	put_layout(packer, hello->layout);
	kvfi_pack_array_at(packer, "transports", hello->n_transports);
	for (uint32_t i = 0; i < hello->n_transports; i++) {
		const struct kvfi_transport_address *transport = &hello->transports[i];

		kvfi_pack_map(packer, 2);
		kvfi_pack_text_at(packer, "name", transport->name);
		kvfi_pack_bin_at(packer, "address", transport->len_bytes);
		kvfi_put_bytes(packer->writer, transport->bytes, transport->len_bytes);
	}
}

static void get_transport(const struct kvfi_map *map, struct kvfi_transport_address *transport)
{
	struct kvfi_reader address;

	kvfi_map_text(map, "name", transport->name, sizeof(transport->name));
	address = kvfi_map_bin(map, "address", 1, sizeof(transport->bytes), &transport->len_bytes);
	if (transport->len_bytes > 0)
		memcpy(transport->bytes, address.bytes, transport->len_bytes);
}

void kvfi_hello_get(const struct kvfi_map *map, struct kvfi_msg_hello *hello)
{
	const struct kvfi_map instance = kvfi_map_child(map, "instance");
	const struct kvfi_map layout = kvfi_map_child(map, "layout");
	const struct kvfi_map_array transports = kvfi_map_array(map, "transports", KVFI_MAX_TRANSPORTS);

	hello->version = kvfi_map_u32(map, "version");
	hello->features = kvfi_map_uint(map, "features", UINT64_MAX);
	kvfi_map_text(map, "name", hello->name, sizeof(hello->name));
	hello->instance = get_instance(&instance);
	hello->layout = get_layout(&layout);
	hello->n_transports = transports.n;
	for (uint32_t i = 0; *map->status == KVF_OK && i < transports.n; i++) {
		const struct kvfi_map transport = kvfi_map_element(&transports, i);

		get_transport(&transport, &hello->transports[i]);
	}
}
