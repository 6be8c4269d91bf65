/* tcp_rig.c - see tcp_rig.h. */
#include "tcp_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "transport/tcp.h"

/* ---- sides */

static void keep(void *self, const struct kvfi_done *done)
{
	struct rig_side *side = self;

	(void)pthread_mutex_lock(&side->lock);
	while (side->hold && done->kind == KVFI_DONE_RX) {
		side->is_held = true;
		(void)pthread_cond_broadcast(&side->told);
		(void)pthread_cond_wait(&side->told, &side->lock);
	}
	if (side->n < RIG_DONES)
		side->dones[side->n++] = *done;
	(void)pthread_cond_broadcast(&side->told);
	(void)pthread_mutex_unlock(&side->lock);
}

static void set_hold(struct rig_side *side, bool hold)
{
	(void)pthread_mutex_lock(&side->lock);
	side->hold = hold;
	side->is_held = false;
	(void)pthread_cond_broadcast(&side->told);
	(void)pthread_mutex_unlock(&side->lock);
}

void rig_hold(struct rig_side *side)
{
	set_hold(side, true);
}

void rig_let_go(struct rig_side *side)
{
	set_hold(side, false);
}

void rig_until_held(struct rig_side *side)
{
	(void)pthread_mutex_lock(&side->lock);
	while (!side->is_held)
		(void)pthread_cond_wait(&side->told, &side->lock);
	(void)pthread_mutex_unlock(&side->lock);
}

void rig_side_init(struct rig_side *side, uint64_t incarnation, bool listens)
{
	memset(side, 0, sizeof(*side));
	(void)pthread_mutex_init(&side->lock, NULL);
	(void)pthread_cond_init(&side->told, NULL);
	side->env = (struct kvfi_transport_env){.self = side,
		.notify = keep,
		.workers = 1,
		.incarnation = incarnation,
		.max_peers = 4,
		.max_grants = 8,
		.max_posts = 16,
		.name = listens ? "prefill" : "decode",
		.listens = listens};
}

void rig_side_open(struct rig_side *side)
{
	assert_int_equal(kvfi_transport_tcp.open(&side->env, &side->transport), KVF_OK);
}

/* What it has told stays readable. */
void rig_side_close(struct rig_side *side)
{
	kvfi_transport_tcp.close(side->transport);
	side->transport = NULL;
}

static bool take(struct rig_side *side, enum kvfi_done_kind kind, struct kvfi_done *done_out)
{
	for (uint32_t i = 0; i < side->n; i++) {
		if (side->dones[i].kind != kind)
			continue;
		*done_out = side->dones[i];
		side->n--;
		memmove(&side->dones[i], &side->dones[i + 1], (side->n - i) * sizeof(side->dones[0]));
		return true;
	}
	return false;
}

struct kvfi_done rig_take(struct rig_side *side, enum kvfi_done_kind kind)
{
	struct kvfi_done done = {0};
	struct timespec until;
	bool found;
	int error = 0;

	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += RIG_PATIENCE;
	(void)pthread_mutex_lock(&side->lock);
	while (!(found = take(side, kind, &done)) && error != ETIMEDOUT)
		error = pthread_cond_timedwait(&side->told, &side->lock, &until);
	(void)pthread_mutex_unlock(&side->lock);
	if (!found)
		fail_msg("%s: nothing of kind %d was told", side->env.name, (int)kind);
	return done;
}

uint32_t rig_count(struct rig_side *side, enum kvfi_done_kind kind)
{
	uint32_t n = 0;

	(void)pthread_mutex_lock(&side->lock);
	for (uint32_t i = 0; i < side->n; i++)
		n += side->dones[i].kind == kind;
	(void)pthread_mutex_unlock(&side->lock);
	return n;
}

/* ---- slices */

#define TOKENS_PER_BLOCK 16u

/* Block ids in a scattered order: each id once. */
static int32_t *scattered_list(uint32_t n)
{
	int32_t *list = malloc(n * sizeof(*list));
	uint32_t step = 7;

	assert_non_null(list);
	while (n % step == 0)
		step += 2;
	for (uint32_t i = 0; i < n; i++)
		list[i] = (int32_t)(i * step % n);
	return list;
}

void rig_slice_init(struct rig_slice *slice, uint64_t row_bytes, uint64_t tokens)
{
	uint32_t blocks = (uint32_t)(tokens / TOKENS_PER_BLOCK);
	struct side_options src = {.parallel = {.tp = 2, .pp = 1, .cp = 1, .dp = 1},
		.layout = {KVF_LAYER_NHD, TOKENS_PER_BLOCK, blocks, 1}};
	struct side_options dst = {.parallel = {.tp = 3, .pp = 1, .cp = 1, .dp = 1},
		.layout = {KVF_LAYER_NHD, TOKENS_PER_BLOCK, blocks, 1},
		.rank = 1};
	struct kvfi_shape shape = {.prompt_len = tokens, .token_end = tokens, .first = true, .last = true};

	memset(slice, 0, sizeof(*slice));
	/* Six heads: the source holds 0 to 2, the destination 2 and 3, so head 2 moves and is a neighbour of others on both sides. */
	simple_model_init(&slice->model, 2, 6, row_bytes, 2);
	rank_pair_init(&slice->pair, &slice->model.model, &src, &dst, KVF_REPLICA_ELECT);
	slice->src = aligned_alloc(4096, (slice->pair.src_bytes + 4095) & ~UINT64_C(4095));
	slice->dst = aligned_alloc(4096, (slice->pair.dst_bytes + 4095) & ~UINT64_C(4095));
	assert_true(slice->src != NULL && slice->dst != NULL);
	for (uint64_t i = 0; i < slice->pair.src_bytes; i++)
		slice->src[i] = (unsigned char)(i * 2654435761u >> 13);
	memset(slice->dst, 0xee, slice->pair.dst_bytes);
	kvf_layout_move(slice->pair.src, (uint64_t)(uintptr_t)slice->src);
	kvf_layout_move(slice->pair.dst, (uint64_t)(uintptr_t)slice->dst);
	kvf_plan_free(slice->pair.plan);
	assert_int_equal(kvf_plan_new(slice->pair.prefill, slice->pair.src, slice->pair.decode,
				 slice->pair.dst, KVF_REPLICA_ELECT, &slice->pair.plan),
		KVF_OK);
	slice->tokens = tokens;
	slice->src_list = scattered_list(blocks);
	slice->dst_list = scattered_list(blocks);
	slice->src_ids = (struct kvfi_ids){slice->src_list, blocks};
	slice->dst_ids = (struct kvfi_ids){slice->dst_list, blocks};
	for (uint32_t i = 0; i < blocks / 2; i++) { /* the other way round */
		int32_t id = slice->dst_list[i];

		slice->dst_list[i] = slice->dst_list[blocks - 1 - i];
		slice->dst_list[blocks - 1 - i] = id;
	}
	assert_int_equal(
		kvfi_bind(slice->pair.plan, &shape, &slice->src_ids, &slice->dst_ids, &slice->bound), KVF_OK);
	assert_int_equal(slice->bound.bytes, tokens * 2 * 2 * row_bytes);
}

void rig_slice_fini(struct rig_slice *slice)
{
	rank_pair_fini(&slice->pair);
	free(slice->src);
	free(slice->dst);
	free(slice->src_list);
	free(slice->dst_list);
}

void rig_slice_check(const struct rig_slice *slice)
{
	unsigned char *expected = malloc(slice->pair.dst_bytes);
	struct kvfi_strip strip;
	struct kvfi_walk walk;

	assert_non_null(expected);
	memset(expected, 0xee, slice->pair.dst_bytes);
	kvfi_walk_init(&walk, &slice->bound, KVFI_WALK_BOTH, 0, slice->bound.units);
	while (kvfi_walk_next(&walk, UINT64_MAX, &strip)) {
		for (uint64_t i = 0; i < strip.count; i++) {
			uint64_t src = strip.src + i * (uint64_t)strip.src_stride;
			uint64_t dst = strip.dst + i * (uint64_t)strip.dst_stride;

			memcpy(expected + (dst - (uint64_t)(uintptr_t)slice->dst), (void *)(uintptr_t)src,
				strip.len);
		}
	}
	assert_true(memcmp(expected, slice->dst, slice->pair.dst_bytes) == 0);
	free(expected);
}

void rig_slice_check_untouched(const struct rig_slice *slice)
{
	for (uint64_t i = 0; i < slice->pair.dst_bytes; i++) {
		if (slice->dst[i] != 0xee)
			fail_msg("byte %llu of the destination was written", (unsigned long long)i);
	}
}

struct kvfi_tx_post rig_post(const struct rig_slice *slice, uint64_t id, uint32_t peer, uint32_t lease_slot,
	uint32_t lease_generation)
{
	return (struct kvfi_tx_post){.id = id,
		.peer = peer,
		.request_id = 77,
		.attempt = 1,
		.epoch = 5,
		.slice = 3,
		.lease_slot = lease_slot,
		.lease_generation = lease_generation,
		.sum = true,
		.bound = &slice->bound};
}

struct kvfi_rx_grant rig_grant(const struct rig_slice *slice, uint32_t id, uint32_t peer)
{
	return (struct kvfi_rx_grant){.id = id,
		.peer = peer,
		.request_id = 77,
		.attempt = 1,
		.epoch = 5,
		.prompt_len = slice->tokens,
		.plan = slice->pair.plan,
		.dst = &slice->dst_ids,
		.sum = true};
}

/* ---- connected pairs */

void rig_connect(struct rig_side *prefill, uint32_t prefill_peer, struct rig_side *decode,
	uint32_t decode_peer, uint64_t link)
{
	unsigned char address[KVFI_ADDRESS_MAX_BYTES];
	size_t length = kvfi_transport_tcp.address(prefill->transport, address);

	assert_int_equal(kvfi_transport_tcp.reachable(decode->transport, address, length), KVF_OK);
	assert_int_equal(
		kvfi_transport_tcp.expect(prefill->transport, prefill_peer, decode->env.incarnation, link),
		KVF_OK);
	assert_int_equal(kvfi_transport_tcp.connect(decode->transport, decode_peer, prefill->env.incarnation,
				 link, address, length),
		KVF_OK);
	assert_int_equal(rig_take(prefill, KVFI_DONE_UP).peer, prefill_peer);
	assert_int_equal(rig_take(decode, KVFI_DONE_UP).peer, decode_peer);
}

void rig_init(struct rig *rig)
{
	rig_side_init(&rig->prefill, RIG_PREFILL, true);
	rig_side_init(&rig->decode, RIG_DECODE, false);
	rig_side_open(&rig->prefill);
	rig_side_open(&rig->decode);
	rig_connect(&rig->prefill, 0, &rig->decode, 0, RIG_LINK);
}

void rig_fini(struct rig *rig)
{
	rig_side_close(&rig->decode);
	rig_side_close(&rig->prefill);
}
