/* peers.c - peers that do not fit, and peers that are none: told by name, and nobody else notices. Arguments: the transport, the control channel. */
#include "attempt.h"

#include <stdlib.h>
#include <unistd.h>
#include "solo.h"

static const char *transport = "loop", *control = "inproc";

static bool zmq(void)
{
	return strcmp(control, "zmq") == 0;
}

static struct solo_spec spec_of(enum kvf_role role)
{
	return solo_spec(role, control, transport);
}

/* One pair that fits, and goes on whatever happens beside it. */
static struct solo prefill, decode;

static int open_pair(void **state)
{
	struct solo_spec spec = spec_of(KVF_PREFILL);
	struct solo *all[] = {&prefill, &decode};

	(void)state;
	spec.listen = solo_endpoint(control, "prefill");
	solo_open(&prefill, &spec);
	spec = spec_of(KVF_DECODE);
	solo_open(&decode, &spec);
	assert_int_equal(solo_connect(all, 2, &decode, prefill.endpoint, NULL), KVF_OK);
	return 0;
}

static int close_pair(void **state)
{
	struct solo *all[] = {&prefill, &decode};

	(void)state;
	solo_move(all, 2, &prefill, &decode, 1000);
	solo_close(&decode);
	solo_close(&prefill);
	solo_directory_remove();
	return 0;
}

/* ---- incompatible ---- */

/* A decode agent of that shape is refused with a sentence that has the field and both values; its requests fail at once, and again. */
static void refused(const struct solo_spec *spec, const char *const words[3])
{
	struct solo other;
	struct solo *all[] = {&prefill, &other, &decode};
	uint64_t start_ns;
	char text[256];

	solo_open(&other, spec);
	assert_int_equal(solo_connect(all, 3, &other, prefill.endpoint, text), KVF_INCOMPATIBLE);
	for (int i = 0; i < 3; i++)
		if (strstr(text, words[i]) == NULL)
			fail_msg("\"%s\" does not name \"%s\"", text, words[i]);
	start_ns = attempt_now_ns();
	for (uint64_t id = 1; id <= 2; id++) {
		kvf_session session = solo_rx(&other, prefill.instance->id, id, 8, 0);

		assert_int_equal(solo_finish(all, 3, &other, session, text), KVF_INCOMPATIBLE);
		assert_non_null(strstr(text, words[0]));
	}
	assert_true(
		attempt_now_ns() - start_ns < UINT64_C(5000000000)); /* not by the connect timeout of 10 s */
	solo_close(&other);
}

static void t_every_field_that_must_agree_is_named(void **state)
{
	static const uint32_t four[] = {0, 1, 2, 3}, two[] = {0, 1}, other_two[] = {2, 3};
	struct solo_spec spec = spec_of(KVF_DECODE);
	const struct kvf_group_spec same = *spec.model.groups;
	struct kvf_group_spec group = same, groups[2];

	(void)state;
	spec.instance_id = 73; /* beside the good one */
#define TRY(...) refused(&spec, (const char *const[]){__VA_ARGS__})
	spec.model.name = "other";
	TRY("model", "toy", "other");
	spec.model.name = "toy";
	spec.model.revision = "2";
	TRY("revision", "\"1\"", "\"2\"");
	spec.model.revision = "1";
	spec.model.groups = &group;
	group.dtype = KVF_INT8;
	TRY("dtype", "fp32", "int8");
	group = same;
	group.kind = KVF_WINDOW;
	group.window_tokens = 64;
	TRY("kind", "paged", "window");
	group = same;
	group.kind = KVF_REPLICATED;
	TRY("kind", "paged", "replicated");
	group = same;
	group.n_parts = 1;
	TRY("parts", "2", "1");
	group = same;
	group.parts[1].heads = 8;
	TRY("parts[1].heads", "4", "8");
	group = same;
	group.parts[0].row_bytes = 256;
	TRY("parts[0].row_bytes", "512", "256");
	groups[0] = groups[1] = same;
	groups[0].n_layers = groups[1].n_layers = 2;
	groups[0].layers = two;
	groups[1].layers = other_two;
	spec.model.groups = groups;
	spec.model.n_groups = 2;
	TRY("groups", "1", "2");
	spec.model.groups = &same;
	spec.model.n_groups = 1;
	spec.parallel.cp = 2;
	spec.layout.tokens_per_block = 16;
	TRY("tokens_per_block", "8", "16");
#undef TRY
	(void)four;
}

static void t_windows_of_two_sizes(void **state)
{
	struct solo_spec spec = spec_of(KVF_PREFILL);
	struct kvf_group_spec group = *spec.model.groups;
	struct solo small, big;
	struct solo *all[] = {&small, &big};
	char text[256];

	(void)state;
	group.kind = KVF_WINDOW;
	group.window_tokens = 32;
	spec.model.groups = &group;
	spec.listen = solo_endpoint(control, "window");
	solo_open(&small, &spec);
	spec = spec_of(KVF_DECODE);
	group.window_tokens = 64;
	spec.model.groups = &group;
	solo_open(&big, &spec);
	assert_int_equal(solo_connect(all, 2, &big, small.endpoint, text), KVF_INCOMPATIBLE);
	assert_non_null(strstr(text, "window_tokens: prefill has 32, decode has 64"));
	solo_close(&big);
	solo_close(&small);
}

/* Two decode ranks of one instance: the second tells another map. */
static void t_ranks_that_disagree_about_their_instance(void **state)
{
	struct solo_spec spec = spec_of(KVF_DECODE);
	struct solo first, second;
	struct solo *all[] = {&prefill, &decode, &first, &second};
	char text[256];

	(void)state;
	spec.instance_id = 80;
	spec.parallel.tp = 2;
	solo_open(&first, &spec);
	spec.parallel.tp = 4;
	spec.rank = 1;
	solo_open(&second, &spec);
	assert_int_equal(solo_connect(all, 4, &first, prefill.endpoint, text), KVF_OK);
	assert_int_equal(solo_connect(all, 4, &second, prefill.endpoint, text), KVF_INCOMPATIBLE);
	assert_non_null(strstr(text, "instance map"));
	solo_close(&second);
	solo_close(&first);
}

/* It says that it is a rank that is here already, and does not fit: the one that is here stays. */
static void t_an_impostor_that_does_not_fit_displaces_nobody(void **state)
{
	struct solo_spec spec = spec_of(KVF_DECODE);
	struct solo other;
	struct solo *all[] = {&prefill, &decode, &other};
	kvf_session from, to;

	(void)state;
	to = solo_rx(&decode, prefill.instance->id, 5, 32, 0);
	spec.instance_id = decode.instance->id;
	spec.model.revision = "2";
	solo_open(&other, &spec);
	assert_int_equal(solo_connect(all, 3, &other, prefill.endpoint, NULL), KVF_INCOMPATIBLE);
	from = solo_tx(&prefill, 5, 32, 0);
	assert_int_equal(solo_finish(all, 3, &decode, to, NULL), KVF_OK);
	assert_int_equal(solo_finish(all, 3, &prefill, from, NULL), KVF_OK);
	solo_close(&other);
}

static void t_two_of_the_same_role_do_not_talk(void **state)
{
	struct solo *all[] = {&prefill, &decode};
	struct solo_spec spec = spec_of(KVF_DECODE);
	struct solo listener, caller;
	struct solo *both[] = {&listener, &caller};

	(void)state;
	(void)all;
	spec.listen = solo_endpoint(control, "decode");
	spec.instance_id = 90;
	spec.tune = NULL;
	solo_open(&listener, &spec);
	spec.listen = NULL;
	spec.instance_id = 91;
	solo_open(&caller, &spec);
	WORKS(kvf_connect(caller.agent, listener.endpoint));
	{
		struct kvf_event event = solo_next(both, 2, &caller, KVF_EVENT_PEER, (kvf_session){0});
		struct kvf_peer_info info;

		assert_int_equal(event.status, KVF_INCOMPATIBLE);
		WORKS(kvf_peer_info(caller.agent, event.peer, &info));
		assert_non_null(strstr(info.reason, "role"));
	}
	solo_close(&caller);
	solo_close(&listener);
}

/* ---- where a peer is ---- */

static void t_endpoints_that_are_none(void **state)
{
	static const char *const bad[] = {"", "nowhere", "ipc://relative", "tcp://127.0.0.1",
		"tcp://127.0.0.1:0", "tcp://127.0.0.1:70000", "inproc://", "udp://127.0.0.1:1"};
	char longest[300];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		REFUSES(KVF_EINVAL, kvf_connect(decode.agent, bad[i]), "endpoint");
	memset(longest, 'a', sizeof(longest));
	memcpy(longest, solo_endpoint(control, ""), strlen(solo_endpoint(control, "")));
	longest[sizeof(longest) - 1] = '\0';
	REFUSES(KVF_EINVAL, kvf_connect(decode.agent, longest), "endpoint");
}

static void short_patience(struct kvf_options *options)
{
	options->connect_timeout_ns = 200000000;
}

static void t_nobody_there_is_told_in_time_and_found_when_it_comes(void **state)
{
	struct solo_spec spec = spec_of(KVF_DECODE);
	struct solo caller, late;
	struct solo *all[] = {&caller, &late};
	char endpoint[200], text[256];
	kvf_session session;

	(void)state;
	memset(&late, 0, sizeof(late));
	(void)snprintf(endpoint, sizeof(endpoint), "%s", solo_endpoint(control, "late"));
	spec.tune = short_patience;
	spec.instance_id = 92;
	solo_open(&caller, &spec);
	assert_int_equal(solo_connect(all, 1, &caller, endpoint, text), KVF_UNREACHABLE);
	assert_non_null(strstr(text, endpoint));
	session = solo_rx(&caller, 93, 1, 8, 0);
	assert_int_equal(solo_finish(all, 1, &caller, session, text), KVF_UNREACHABLE);
	spec = spec_of(KVF_PREFILL);
	spec.instance_id = 93;
	spec.listen = endpoint;
	solo_open(&late, &spec);
	assert_int_equal(solo_next(all, 2, &caller, KVF_EVENT_PEER, (kvf_session){0}).status,
		KVF_OK); /* it went on calling */
	solo_move(all, 2, &late, &caller, 7);
	solo_close(&caller);
	solo_close(&late);
}

/* The map says one name of the peer, the user another: it is one peer all the same, and stays connected. */
static void t_one_peer_by_two_names(void **state)
{
	struct solo_spec spec = spec_of(KVF_PREFILL);
	struct solo ranks[2], caller;
	struct solo *all[] = {&ranks[0], &ranks[1], &caller};
	char endpoints[2][200], other_name[256];
	const char *names[] = {endpoints[0], endpoints[1]};
	struct kvf_event event;
	kvf_session from[2], to;

	(void)state;
	if (!zmq())
		skip(); /* names are compared as they are */
	for (int i = 0; i < 2; i++)
		(void)snprintf(endpoints[i], sizeof(endpoints[i]), "ipc://%s/n%d", solo_directory(), i);
	(void)snprintf(other_name, sizeof(other_name), "ipc://%s/./n0", solo_directory());
	spec.parallel.tp = 2;
	spec.instance_id = 94;
	spec.endpoints = names;
	for (uint32_t r = 0; r < 2; r++) {
		spec.rank = r;
		spec.listen = endpoints[r];
		solo_open(&ranks[r], &spec);
	}
	spec = spec_of(KVF_DECODE);
	spec.instance_id = 95;
	solo_open(&caller, &spec);
	assert_int_equal(solo_connect(all, 3, &caller, other_name, NULL), KVF_OK);
	assert_int_equal(solo_next(all, 3, &caller, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	to = solo_rx(&caller, 94, 1, 32, 0);
	for (int i = 0; i < 2; i++)
		from[i] = solo_tx(&ranks[i], 1, 32, 0);
	assert_int_equal(solo_finish(all, 3, &caller, to, NULL), KVF_OK);
	for (int i = 0; i < 2; i++)
		assert_int_equal(solo_finish(all, 3, &ranks[i], from[i], NULL), KVF_OK);
	assert_int_equal(caller.n_log, 0); /* no other peer came or went */
	/* Asked for by both names, the last one stays. */
	WORKS(kvf_connect(caller.agent, endpoints[0]));
	for (int went = 0; went < 1;) {
		event = solo_next(all, 3, &caller, KVF_EVENT_PEER, (kvf_session){0});
		went += event.status == KVF_OK;
	}
	to = solo_rx(&caller, 94, 2, 32, 0);
	for (int i = 0; i < 2; i++)
		from[i] = solo_tx(&ranks[i], 2, 32, 0);
	(void)solo_finish(all, 3, &caller, to, NULL);
	for (int i = 0; i < 2; i++)
		(void)solo_finish(all, 3, &ranks[i], from[i], NULL);
	solo_close(&caller);
	solo_close(&ranks[0]);
	solo_close(&ranks[1]);
}

/* Every rank says where it listens itself; the map it was given names nobody. */
static void t_ranks_that_know_their_own_endpoint_alone_agree(void **state)
{
	struct solo_spec spec = spec_of(KVF_PREFILL);
	struct solo ranks[2], caller;
	struct solo *all[] = {&ranks[0], &ranks[1], &caller};
	char names[2][200];

	(void)state;
	spec.parallel.tp = 2;
	spec.instance_id = 96;
	for (uint32_t r = 0; r < 2; r++) {
		(void)snprintf(
			names[r], sizeof(names[r]), "%s", solo_endpoint(control, r == 0 ? "own0" : "own1"));
		spec.rank = r;
		spec.listen = names[r];
		solo_open(&ranks[r], &spec);
	}
	spec = spec_of(KVF_DECODE);
	spec.instance_id = 97;
	solo_open(&caller, &spec);
	for (int r = 0; r < 2; r++)
		assert_int_equal(solo_connect(all, 3, &caller, names[r], NULL), KVF_OK);
	solo_close(&caller);
	solo_close(&ranks[0]);
	solo_close(&ranks[1]);
}

/* ---- full ---- */

static void one_peer(struct kvf_options *options)
{
	options->max_peers = 1;
}

static void t_a_full_table_of_peers(void **state)
{
	struct solo_spec spec = spec_of(KVF_PREFILL);
	struct solo narrow, first, second;
	struct solo *all[] = {&narrow, &first, &second};
	char text[256];

	(void)state;
	spec.tune = one_peer;
	spec.listen = solo_endpoint(control, "narrow");
	spec.instance_id = 101;
	solo_open(&narrow, &spec);
	spec = spec_of(KVF_DECODE);
	spec.instance_id = 102;
	spec.tune = one_peer;
	solo_open(&first, &spec);
	spec.instance_id = 103;
	solo_open(&second, &spec);
	assert_int_equal(solo_connect(all, 3, &first, narrow.endpoint, NULL), KVF_OK);
	REFUSES(KVF_EFULL, kvf_connect(first.agent, solo_endpoint(control, "more")), "max_peers");
	assert_int_equal(solo_connect(all, 3, &second, narrow.endpoint, text), KVF_REFUSED);
	assert_non_null(strstr(text, "max_peers"));
	solo_move(all, 3, &narrow, &first, 3);
	solo_close(&first); /* makes room */
	memset(&first, 0, sizeof(first));
	assert_int_equal(solo_next(all, 3, &second, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	solo_move(all, 3, &narrow, &second, 4);
	solo_close(&second);
	solo_close(&narrow);
}

/* Prefill instances come and go for ever; those that are gone do not fill the table. */
static void t_peers_that_are_gone_make_room(void **state)
{
	struct solo_spec spec = spec_of(KVF_DECODE);
	struct solo caller, fleeting;
	struct solo *all[] = {&caller, &fleeting};

	(void)state;
	spec.tune = one_peer;
	spec.instance_id = 104;
	solo_open(&caller, &spec);
	for (uint64_t i = 0; i < 4; i++) {
		char name[16];

		(void)snprintf(name, sizeof(name), "f%u", (unsigned)i);
		spec = spec_of(KVF_PREFILL);
		spec.listen = solo_endpoint(control, name);
		spec.instance_id = 110 + i;
		solo_open(&fleeting, &spec);
		assert_int_equal(solo_connect(all, 2, &caller, fleeting.endpoint, NULL), KVF_OK);
		solo_move(all, 2, &fleeting, &caller, i + 1);
		solo_close(&fleeting);
		assert_int_equal(
			solo_next(all, 1, &caller, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_PEER_LOST);
	}
	solo_close(&caller);
}

int main(int argc, char **argv)
{
#define BESIDE(test) cmocka_unit_test_setup_teardown(test, open_pair, close_pair)
	const struct CMUnitTest tests[] = {
		BESIDE(t_every_field_that_must_agree_is_named),
		BESIDE(t_windows_of_two_sizes),
		BESIDE(t_ranks_that_disagree_about_their_instance),
		BESIDE(t_an_impostor_that_does_not_fit_displaces_nobody),
		BESIDE(t_two_of_the_same_role_do_not_talk),
		BESIDE(t_endpoints_that_are_none),
		BESIDE(t_nobody_there_is_told_in_time_and_found_when_it_comes),
		BESIDE(t_one_peer_by_two_names),
		BESIDE(t_ranks_that_know_their_own_endpoint_alone_agree),
		BESIDE(t_a_full_table_of_peers),
		BESIDE(t_peers_that_are_gone_make_room),
	};

	if (argc > 1)
		transport = argv[1];
	if (argc > 2)
		control = argv[2];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
