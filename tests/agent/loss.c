/* loss.c - agents that leave: closed, killed in the middle of a transfer, started again in the same place. What they leave behind ends with
 * a clear status, memory is released with a proof or counted, and new requests work without restarting anyone else. The killed ones are processes
 * of their own: this program again, with a role. Arguments: the transport, the control channel. */
#include "attempt.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "solo.h"

#define PREFILL_ID 71u
#define BIG_BLOCKS 512u /* of 128 KiB: 64 MiB */
#define BIG_TOKENS (BIG_BLOCKS * 8u)

static const char *transport = "loop", *control = "inproc", *self_path;
static struct solo prefill, decode;

static bool zmq(void)
{
	return strcmp(control, "zmq") == 0;
}

static void open_prefill(void)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, control, transport);

	spec.listen = solo_endpoint(control, "prefill");
	solo_open(&prefill, &spec);
}

static int open_pair(void **state)
{
	(void)state;
	solo_open_pair(control, transport, &prefill, &decode);
	return 0;
}

static int close_pair(void **state)
{
	(void)state;
	solo_close_pair(&prefill, &decode);
	return 0;
}

/* ---- closed ---- */

static void t_a_prefill_agent_closes_while_requests_wait(void **state)
{
	struct solo *all[] = {&decode, &prefill};
	kvf_session waiting = solo_rx(&decode, PREFILL_ID, 1, 64, 0);
	kvf_session begun = solo_rx(&decode, PREFILL_ID, 2, 64, 8), from;
	struct kvf_session_stats stats;
	char text[256];

	(void)state;
	from = solo_tx_open(&prefill, 2, 64);
	solo_send(&prefill, from, 0, 32, 64, 0);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_SLICE, from); /* half of it is there */
	solo_close(&prefill);
	assert_int_equal(solo_next(all, 1, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_PEER_LOST);
	WORKS(kvf_session_stats(decode.agent, begun, &stats));
	assert_int_not_equal(solo_finish(all, 1, &decode, begun, text), KVF_OK);
	assert_int_not_equal(text[0], '\0');
	assert_int_equal(solo_finish(all, 1, &decode, waiting, text), KVF_PEER_LOST);
	open_prefill(); /* the same place, another incarnation: found without being told */
	assert_int_equal(solo_next(all, 2, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	solo_move(all, 2, &prefill, &decode, 1);
}

static void t_a_request_opened_while_the_peer_is_away_waits_for_it(void **state)
{
	struct solo *all[] = {&decode, &prefill};
	kvf_session to, from;

	(void)state;
	solo_close(&prefill);
	assert_int_equal(solo_next(all, 1, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_PEER_LOST);
	to = solo_rx(&decode, PREFILL_ID, 9, 64, 0);
	open_prefill();
	from = solo_tx(&prefill, 9, 64, 0);
	assert_int_equal(solo_finish(all, 2, &decode, to, NULL), KVF_OK);
	assert_int_equal(solo_finish(all, 2, &prefill, from, NULL), KVF_OK);
}

static void t_a_decode_agent_closes_while_a_session_is_sent(void **state)
{
	struct solo_spec spec = solo_spec(KVF_DECODE, control, transport);
	struct solo *all[] = {&prefill, &decode};
	kvf_session from = solo_tx_open(&prefill, 3, 64), to = solo_rx(&decode, PREFILL_ID, 3, 64, 0);
	char text[256];

	(void)state;
	solo_send(&prefill, from, 0, 32, 64, 0);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_SLICE, from);
	(void)to;
	solo_close(&decode);
	assert_int_not_equal(solo_finish(all, 1, &prefill, from, text), KVF_OK);
	assert_int_not_equal(text[0], '\0');
	solo_open(&decode, &spec);
	assert_int_equal(solo_connect(all, 2, &decode, prefill.endpoint, NULL), KVF_OK);
	solo_move(all, 2, &prefill, &decode, 30); /* a request that has ended is not asked for again */
}

/* ---- which blocks are good ---- */

static void t_bad_blocks_are_those_not_known_to_be_good(void **state)
{
	struct solo *all[] = {&decode, &prefill};
	kvf_session to = solo_rx(&decode, PREFILL_ID, 4, 64, 4), from = solo_tx_open(&prefill, 4, 64);
	int32_t bad[16];
	uint32_t n;

	(void)state;
	REFUSES(KVF_EAGAIN, kvf_session_bad_blocks(decode.agent, to, 0, bad, 16, &n), "outcome");
	solo_send(&prefill, from, 0, 24, 64, 0);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_SLICE, from); /* acknowledged: three blocks */
	solo_send(&prefill, from, 24, 40, 64, 0);
	(void)solo_next(all, 2, &prefill, KVF_EVENT_SLICE, from); /* and two */
	solo_close(&prefill);
	(void)solo_next(all, 1, &decode, KVF_EVENT_OUTCOME, to);
	WORKS(kvf_session_bad_blocks(decode.agent, to, 0, bad, 16, &n));
	assert_int_equal(n, 3);
	for (int32_t i = 0; i < 3; i++)
		assert_int_equal(bad[i], 4 + 5 + i);
	WORKS(kvf_session_bad_blocks(decode.agent, to, 0, bad, 1, &n));
	assert_int_equal(n, 3);
	assert_int_equal(bad[0], 9);
	REFUSES(KVF_EINVAL, kvf_session_bad_blocks(decode.agent, to, 1, bad, 16, &n), "group");
	(void)solo_next(all, 1, &decode, KVF_EVENT_RELEASED, to);
	WORKS(kvf_session_close(decode.agent, to));
	open_prefill();
}

/* A slice that ends inside a block: that block is not whole. Leading blocks are cached; one is no page. */
static void t_bad_blocks_of_a_suffix_with_holes(void **state)
{
	static const int32_t ids[] = {3, -1, 7, 9, 2};
	struct kvf_blocks list = {0, 5, ids};
	struct kvf_rx_params params = {.instance_id = PREFILL_ID,
		.request_id = 6,
		.prompt_len = 60,
		.aux_slot = KVF_NO_AUX,
		.n_lists = 1,
		.lists = &list};
	struct solo *all[] = {&decode, &prefill};
	kvf_session to, from = solo_tx_open(&prefill, 6, 60);
	int32_t bad[16];
	uint32_t n;

	(void)state;
	WORKS(kvf_rx_open(decode.agent, &params, &to)); /* blocks 3..7 of the prompt */
	{
		static const int32_t source[] = {0, 1, 2, 3, 4};
		struct kvf_blocks sent = {0, 5, source};
		struct kvf_slice slice = {.token_end = 44, .n_lists = 1, .lists = &sent};

		WORKS(kvf_tx_send(prefill.agent, from, &slice, NULL));
	}
	(void)solo_next(all, 2, &prefill, KVF_EVENT_SLICE, from);
	solo_close(&prefill);
	(void)solo_next(all, 1, &decode, KVF_EVENT_OUTCOME, to);
	WORKS(kvf_session_bad_blocks(decode.agent, to, 0, bad, 16, &n));
	/* 40 tokens came whole: blocks 3 and 4. Not known to be good: 5, 6, 7. */
	assert_int_equal(n, 3);
	assert_int_equal(bad[0], 7);
	assert_int_equal(bad[1], 9);
	assert_int_equal(bad[2], 2);
	(void)solo_next(all, 1, &decode, KVF_EVENT_RELEASED, to);
	WORKS(kvf_session_close(decode.agent, to));
	open_prefill();
}

/* ---- killed ---- */

static struct solo_spec big_spec(enum kvf_role role)
{
	struct solo_spec spec = solo_spec(role, control, transport);

	spec.layout.blocks = BIG_BLOCKS;
	spec.listen = role == KVF_PREFILL ? solo_endpoint(control, "victim") : NULL;
	return spec;
}

static void roomy(struct kvf_options *options)
{
	options->workers = 1;
}

/* The child: serves requests 1 and 2 until it is killed; says so by one byte. As decode it asks for both. */
_Noreturn static void be_victim(const char *role)
{
	bool sends = strcmp(role, "prefill") == 0;
	struct solo_spec spec = big_spec(sends ? KVF_PREFILL : KVF_DECODE);
	struct solo solo;
	struct solo *all[] = {&solo};

	spec.tune = roomy;
	solo_open(&solo, &spec);
	if (sends) {
		memset(solo.memory, 0x3c, solo.memory_bytes);
		(void)solo_tx(&solo, 1, BIG_TOKENS, 0);
		(void)solo_tx(&solo, 2, 64, 0);
	} else {
		assert_int_equal(
			solo_connect(all, 1, &solo, solo_endpoint(control, "prefill-of-victim"), NULL),
			KVF_OK);
		(void)solo_rx(&solo, PREFILL_ID, 1, BIG_TOKENS, 0);
		(void)solo_rx(&solo, PREFILL_ID, 2, 64, 0);
	}
	(void)!write(STDOUT_FILENO, "!", 1);
	for (;;) {
		solo_poll(&solo);
		attempt_breathe();
	}
}

struct victim {
	pid_t pid;
	int said;
};

static void start(struct victim *victim, const char *role)
{
	int ends[2];
	char byte;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	victim->pid = fork();
	if (victim->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)dup2(ends[1], STDOUT_FILENO);
		(void)execl(self_path, self_path, transport, control, role, solo_directory(), (char *)NULL);
		_exit(127);
	}
	close(ends[1]);
	victim->said = ends[0];
	assert_int_equal(read(victim->said, &byte, 1), 1);
}

static void stop(struct victim *victim, int how)
{
	int status;

	assert_int_equal(kill(victim->pid, how), 0);
	assert_int_equal(waitpid(victim->pid, &status, 0), victim->pid);
	close(victim->said);
}

/* Does it come back as released, or does close count it?  Both are right: what is not right is neither, or a store afterwards. */
static void t_a_prefill_process_is_killed_while_it_copies(void **state)
{
	struct solo_spec spec = big_spec(KVF_DECODE);
	struct kvf_close_report report = {0, 0};
	struct solo *all[] = {&decode};
	struct victim victim;
	uint64_t end_ns = attempt_now_ns() + UINT64_C(20000000000);
	kvf_session to, small;
	bool released = false;
	char text[256];

	(void)state;
	if (!zmq())
		skip(); /* in-process control serves one process */
	solo_open(&decode, &spec);
	start(&victim, "prefill");
	assert_int_equal(solo_connect(all, 1, &decode, solo_endpoint(control, "victim"), NULL), KVF_OK);
	to = solo_rx(&decode, PREFILL_ID, 1, BIG_TOKENS, 0);
	while (((volatile unsigned char *)decode.memory)[1 << 20] != 0x3c)
		assert_true(attempt_now_ns() < end_ns);
	stop(&victim, SIGKILL);
	{
		struct kvf_event outcome = solo_next(all, 1, &decode, KVF_EVENT_OUTCOME, to);
		kvf_session none = {0};

		if (outcome.status == KVF_OK) { /* it was quicker than the signal */
			released = true;
			(void)solo_next(all, 1, &decode, KVF_EVENT_RELEASED, to);
		} else {
			WORKS(kvf_session_error(decode.agent, to, text, sizeof(text)));
			assert_int_not_equal(text[0], '\0');
		}
		assert_int_equal(solo_next(all, 1, &decode, KVF_EVENT_PEER, none).status, KVF_PEER_LOST);
	}
	/* Another process in the same place serves the same agent. */
	start(&victim, "prefill");
	assert_int_equal(solo_next(all, 1, &decode, KVF_EVENT_PEER, (kvf_session){0}).status, KVF_OK);
	small = solo_rx(&decode, PREFILL_ID, 2, 64, 100);
	assert_int_equal(solo_finish(all, 1, &decode, small, text), KVF_OK);
	stop(&victim, SIGKILL);
	for (uint32_t i = 0; i < decode.n_log; i++)
		released = released || (decode.log[i].type == KVF_EVENT_RELEASED &&
					       decode.log[i].session.bits == to.bits);
	kvf_agent_close(decode.agent, 100000000, &report);
	kvf_layout_free(decode.layout);
	kvf_instance_free(decode.instance);
	assert_int_equal(report.unreleased_sessions, released ? 0 : 1);
	assert_int_equal(report.unreleased_bytes, released ? 0 : (uint64_t)BIG_BLOCKS << 17);
	if (!released) /* still mapped */
		assert_int_equal(((volatile unsigned char *)decode.memory)[1 << 20], 0x3c);
	solo_directory_clear(); /* the killed one cleaned nothing up */
}

static void t_a_decode_process_is_killed_while_it_is_written(void **state)
{
	struct solo_spec spec = big_spec(KVF_PREFILL);
	struct solo *all[] = {&prefill};
	struct victim victim;
	struct kvf_session_stats stats;
	kvf_session from;
	char text[256];

	(void)state;
	if (!zmq())
		skip();
	spec.listen = solo_endpoint(control, "prefill-of-victim");
	solo_open(&prefill, &spec);
	start(&victim, "decode");
	from = solo_tx_open(&prefill, 1, BIG_TOKENS);
	solo_send(&prefill, from, 0, BIG_TOKENS / 2, BIG_TOKENS, 0);
	(void)solo_next(all, 1, &prefill, KVF_EVENT_READY, from);
	stop(&victim, SIGKILL);
	assert_int_not_equal(solo_next(all, 1, &prefill, KVF_EVENT_OUTCOME, from).status, KVF_OK);
	(void)solo_next(all, 1, &prefill, KVF_EVENT_RELEASED, from); /* the source is free again */
	WORKS(kvf_session_error(prefill.agent, from, text, sizeof(text)));
	assert_int_not_equal(text[0], '\0');
	WORKS(kvf_session_stats(prefill.agent, from, &stats));
	assert_int_equal(stats.proofs[KVF_PROOF_LOCAL_IDLE], 1);
	WORKS(kvf_session_close(prefill.agent, from));
	start(&victim,
		"decode"); /* it comes back; the request that has ended is refused, the other one served */
	from = solo_tx(&prefill, 2, 64, 0);
	assert_int_equal(solo_finish(all, 1, &prefill, from, text), KVF_OK);
	stop(&victim, SIGKILL);
	solo_close(&prefill);
	solo_directory_clear();
}

int main(int argc, char **argv)
{
#define BESIDE(test) cmocka_unit_test_setup_teardown(test, open_pair, close_pair)
	const struct CMUnitTest tests[] = {
		BESIDE(t_a_prefill_agent_closes_while_requests_wait),
		BESIDE(t_a_request_opened_while_the_peer_is_away_waits_for_it),
		BESIDE(t_a_decode_agent_closes_while_a_session_is_sent),
		BESIDE(t_bad_blocks_are_those_not_known_to_be_good),
		BESIDE(t_bad_blocks_of_a_suffix_with_holes),
		cmocka_unit_test(t_a_prefill_process_is_killed_while_it_copies),
		cmocka_unit_test(t_a_decode_process_is_killed_while_it_is_written),
	};

	self_path = argv[0];
	if (argc > 1)
		transport = argv[1];
	if (argc > 2)
		control = argv[2];
	if (argc > 4) {
		solo_directory_use(argv[4]);
		be_victim(argv[3]);
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
