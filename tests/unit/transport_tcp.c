/* transport_tcp.c - the tcp transport between two agents that keep to the rules: bytes, order, cancel, revoke, sums, many peers. */
#include "tcp_rig.h"

#include <string.h>
#include "transport/tcp.h"

#define OPS kvfi_transport_tcp

static struct kvfi_done move(struct rig *rig, const struct rig_slice *slice, struct kvfi_done *rx_out)
{
	struct kvfi_rx_grant grant = rig_grant(slice, 2, 0);
	uint32_t slot, generation;
	struct kvfi_tx_post post;
	struct kvfi_done tx;

	assert_int_equal(OPS.grant(rig->decode.transport, &grant, &slot, &generation), KVF_OK);
	post = rig_post(slice, 900, 0, slot, generation);
	assert_int_equal(OPS.post(rig->prefill.transport, &post), KVF_OK);
	tx = rig_take(&rig->prefill, KVFI_DONE_TX);
	*rx_out = rig_take(&rig->decode, KVFI_DONE_RX);
	OPS.release(rig->decode.transport, 2);
	return tx;
}

static void check_moved(uint64_t row_bytes, uint64_t tokens)
{
	struct rig_slice slice;
	struct kvfi_done tx, rx;
	struct rig rig;

	rig_init(&rig);
	rig_slice_init(&slice, row_bytes, tokens);
	tx = move(&rig, &slice, &rx);
	assert_int_equal(tx.status, KVF_OK);
	assert_int_equal(rx.status, KVF_OK);
	assert_int_equal(tx.id, 900);
	assert_int_equal(rx.id, 2);
	assert_int_equal(rx.slice, 3);
	assert_int_equal(tx.bytes, slice.bound.bytes);
	assert_int_equal(rx.bytes, slice.bound.bytes);
	assert_int_equal(tx.runs, slice.bound.bytes / row_bytes);
	assert_int_equal(rx.runs, slice.bound.bytes / row_bytes);
	assert_true(tx.sum == rx.sum && tx.sum != 0);
	assert_true(tx.first_ns != 0 && tx.first_ns <= tx.last_ns && rx.first_ns <= rx.last_ns);
	assert_int_equal(rx.layer_start, slice.bound.layer_start);
	assert_int_equal(rx.layer_end, slice.bound.layer_end);
	assert_int_equal(rx.n_ranges, slice.bound.n_ranges);
	assert_memory_equal(&rx.ranges[0], &slice.bound.ranges[0].range, sizeof(rx.ranges[0]));
	rig_slice_check(&slice);
	rig_slice_fini(&slice);
	rig_fini(&rig);
}

static void short_runs_arrive(void **state)
{
	(void)state;
	check_moved(512, 16);
	check_moved(512, 4096);
	check_moved(48, 1008);
}

static void long_runs_arrive(void **state)
{
	(void)state;
	check_moved(4096, 1024);
	check_moved(65536, 32);
}

static void runs_that_frames_cut_arrive(void **state)
{
	(void)state;
	check_moved(5000, 160);
	check_moved(262148, 16);
	check_moved(333, 3200);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(short_runs_arrive),
		cmocka_unit_test(long_runs_arrive),
		cmocka_unit_test(runs_that_frames_cut_arrive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
