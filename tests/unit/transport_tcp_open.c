/* transport_tcp_open.c - where the tcp transport listens, and which addresses it takes for reachable. */
#include "tcp_rig.h"

#include <stdio.h>
#include <string.h>
#include "transport/tcp_frame.h"

#define OPS kvfi_transport_tcp

static enum kvf_status open_on(struct rig_side *side, const char *data_listen)
{
	rig_side_init(side, RIG_PREFILL, true);
	side->env.data_listen = data_listen;
	return OPS.open(&side->env, &side->transport);
}

static struct kvfi_tcp_address address_of(struct rig_side *side)
{
	unsigned char bytes[KVFI_ADDRESS_MAX_BYTES];
	size_t length = OPS.address(side->transport, bytes);
	struct kvfi_tcp_address address;

	assert_int_equal(kvfi_tcp_get_address(bytes, length, &address), KVF_OK);
	return address;
}

static void t_p41_it_listens_on_loopback_by_default(void **state)
{
	struct rig_side side;
	struct kvfi_tcp_address address;

	(void)state;
	assert_int_equal(open_on(&side, NULL), KVF_OK);
	address = address_of(&side);
	assert_true(kvfi_tcp_is_loopback(&address));
	assert_int_not_equal(address.port, 0);
	rig_side_close(&side);
}

static void t_p41_all_interfaces_must_be_named(void **state)
{
	static const char *const texts[] = {"0.0.0.0:0", "[::]:0"};
	struct rig_side side;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(open_on(&side, texts[i]), KVF_EINVAL);
		assert_non_null(strstr(kvf_error(), "data_listen"));
		assert_non_null(strstr(kvf_error(), texts[i]));
	}
}

static void a_malformed_address_is_refused_by_name(void **state)
{
	static const char *const texts[] = {"nonsense", "localhost:80", "127.0.0.1:99999", "192.0.2.1:0"};
	struct rig_side side;

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		assert_int_equal(open_on(&side, texts[i]), KVF_EINVAL);
		assert_non_null(strstr(kvf_error(), "data_listen"));
		assert_non_null(strstr(kvf_error(), texts[i]));
	}
}

static void a_port_in_use_is_told(void **state)
{
	struct rig_side first, second;
	struct kvfi_tcp_address address;
	char text[KVFI_TCP_TEXT_BYTES];

	(void)state;
	assert_int_equal(open_on(&first, "127.0.0.1:0"), KVF_OK);
	address = address_of(&first);
	kvfi_tcp_format_address(&address, text);
	assert_int_equal(open_on(&second, text), KVF_EADDRINUSE);
	assert_non_null(strstr(kvf_error(), text));
	rig_side_close(&first);
	assert_int_equal(open_on(&second, text), KVF_OK); /* and is free again */
	rig_side_close(&second);
}

static void it_speaks_ipv6(void **state)
{
	struct rig_side prefill, decode;

	(void)state;
	if (open_on(&prefill, "[::1]:0") != KVF_OK) {
		print_message("skipped: %s\n", kvf_error());
		skip();
	}
	rig_side_init(&decode, RIG_DECODE, false);
	rig_side_open(&decode);
	rig_connect(&prefill, 0, &decode, 0, RIG_LINK);
	rig_side_close(&decode);
	rig_side_close(&prefill);
}

static enum kvf_status reachable(struct rig_side *side, struct kvfi_tcp_address address)
{
	unsigned char bytes[KVFI_TCP_ADDRESS_BYTES];

	kvfi_tcp_put_address(bytes, &address);
	return OPS.reachable(side->transport, bytes, sizeof(bytes));
}

static void loopback_of_another_host_is_out_of_reach(void **state)
{
	struct rig_side prefill, decode;
	struct kvfi_tcp_address address, other;

	(void)state;
	assert_int_equal(open_on(&prefill, NULL), KVF_OK);
	rig_side_init(&decode, RIG_DECODE, false);
	rig_side_open(&decode);
	address = address_of(&prefill);
	assert_int_equal(reachable(&decode, address), KVF_OK);
	assert_int_equal(reachable(&prefill, address_of(&decode)), KVF_OK);
	address.host++;
	assert_int_equal(reachable(&decode, address), KVF_NO_TRANSPORT);
	assert_non_null(strstr(kvf_error(), "another host"));
	address.ip[0] = 10;
	assert_int_equal(reachable(&decode, address), KVF_OK);
	other = address_of(&decode); /* it does not listen, and we do on loopback alone */
	other.host++;
	assert_int_equal(reachable(&prefill, other), KVF_NO_TRANSPORT);
	assert_int_equal(reachable(&decode, address_of(&decode)), KVF_NO_TRANSPORT);
	rig_side_close(&decode);
	rig_side_close(&prefill);
}

static void a_side_that_does_not_listen_expects_nobody(void **state)
{
	struct rig_side decode;
	unsigned char bytes[KVFI_ADDRESS_MAX_BYTES];
	size_t length;

	(void)state;
	rig_side_init(&decode, RIG_DECODE, false);
	rig_side_open(&decode);
	assert_int_equal(OPS.expect(decode.transport, 0, 1, 1), KVF_EUNSUPPORTED);
	length = OPS.address(decode.transport, bytes);
	assert_int_equal(OPS.connect(decode.transport, 0, 1, 1, bytes, length), KVF_NO_TRANSPORT);
	rig_side_close(&decode);
}

static void nobody_at_the_other_end_is_told(void **state)
{
	struct rig_side prefill, decode;
	unsigned char bytes[KVFI_ADDRESS_MAX_BYTES];
	size_t length;
	struct kvfi_done done;

	(void)state;
	assert_int_equal(open_on(&prefill, NULL), KVF_OK);
	length = OPS.address(prefill.transport, bytes);
	rig_side_close(&prefill);
	rig_side_init(&decode, RIG_DECODE, false);
	rig_side_open(&decode);
	assert_int_equal(OPS.connect(decode.transport, 3, RIG_PREFILL, RIG_LINK, bytes, length), KVF_OK);
	done = rig_take(&decode, KVFI_DONE_BROKEN);
	assert_int_equal(done.status, KVF_UNREACHABLE);
	assert_int_equal(done.peer, 3);
	assert_true(done.reason[0] != '\0');
	rig_side_close(&decode);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_p41_it_listens_on_loopback_by_default),
		cmocka_unit_test(t_p41_all_interfaces_must_be_named),
		cmocka_unit_test(a_malformed_address_is_refused_by_name),
		cmocka_unit_test(a_port_in_use_is_told),
		cmocka_unit_test(it_speaks_ipv6),
		cmocka_unit_test(loopback_of_another_host_is_out_of_reach),
		cmocka_unit_test(a_side_that_does_not_listen_expects_nobody),
		cmocka_unit_test(nobody_at_the_other_end_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
