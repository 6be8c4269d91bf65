/* allocations.c - the n-th allocation fails, for every n, in the whole life of two agents: open, declare, connect, send, receive, cancel, hold, close.
 *
 * A call that fails says KVF_ENOMEM and why; a session that fails says why; every session is released; nothing hangs, and the agents close. Leaks are
 * for the address sanitizer's row to find. Arguments: the transport, the control channel. */
#include "attempt.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"

#define PREFILL_ID 71u
#define LIMIT_NS   UINT64_C(5000000000)
#define MAX_N      3000u
#define PARTS      8u

static const char *transport = "loop", *control = "inproc";
static char directory[64];
static uint32_t part; /* this process takes the part-th, and each PARTS-th after it */

struct side {
	kvf_agent *agent;
	struct kvf_instance *instance;
	struct kvf_layout *layout;
	char endpoint[256];
};

struct life {
	struct side prefill, decode;
	kvf_session sessions[4]; /* rx, tx of a request that completes; of one that is cancelled */
	bool open[4], outcome[4], released[4];
	enum kvf_status status[4];
	uint32_t peers_up;
	bool declared;
};

static const enum kvf_role roles[4] = {KVF_DECODE, KVF_PREFILL, KVF_DECODE, KVF_PREFILL};

static struct side *side_of(struct life *life, uint32_t i)
{
	return roles[i] == KVF_DECODE ? &life->decode : &life->prefill;
}

/* A call may fail for want of memory alone, and says so. */
static bool worked(enum kvf_status status, const char *call)
{
	if (status == KVF_OK)
		return true;
	if (status != KVF_ENOMEM || kvf_error()[0] == '\0')
		fail_msg("%s: %s: %s", call, kvf_status_name(status), kvf_error());
	return false;
}
#define TRY(call)                                                                                            \
	do {                                                                                                 \
		if (!worked((call), #call))                                                                  \
			return false;                                                                        \
	} while (0)

/* ---- time: over loop nothing else runs, so it is ours ---- */

static uint64_t virtual_ns = 1000000000;

static uint64_t read_virtual(void *self)
{
	return *(uint64_t *)self;
}

static const struct kvfi_clock_source virtual_clock = {&virtual_ns, read_virtual, read_virtual};

static bool time_is_ours(void)
{
	return strcmp(transport, "loop") == 0;
}

static uint64_t now_ns(void)
{
	return time_is_ours() ? virtual_ns : attempt_now_ns();
}

static void pass_time(void)
{
	if (time_is_ours())
		virtual_ns += 1000000;
	else
		attempt_breathe();
}

/* ---- the life ---- */

static bool open_agent(struct side *side, enum kvf_role role)
{
	struct kvf_options options;
	char listen[200];

	(void)snprintf(listen, sizeof(listen),
		strcmp(control, "zmq") == 0 ? "ipc://%s/allocations" : "inproc://%s/allocations", directory);
	kvf_options_init(&options);
	options.control = control;
	options.transports = transport;
	options.listen = role == KVF_PREFILL ? listen : NULL;
	options.runtime_dir = directory;
	options.progress_thread = !time_is_ours();
	options.max_sessions = 8;
	options.max_peers = 4;
	options.max_links = 16;
	options.max_slices = 16;
	options.max_block_ids = 256;
	options.connect_timeout_ns = 500000000;
	options.queue_timeout_ns = 1000000000; /* of the one whose other side could not be opened */
	options.transfer_timeout_ns = options.stall_timeout_ns = 1000000000;
	TRY(kvf_agent_open(&options, &side->agent));
	TRY(kvf_endpoint(side->agent, side->endpoint, sizeof(side->endpoint)));
	return true;
}

static bool declare(struct side *side, enum kvf_role role)
{
	struct kvf_group_spec group;
	struct cluster_spec spec = attempt_spec(&group);
	void *memory = NULL;
	kvf_region region;
	uint64_t bytes;
	static unsigned char aux[64];

	TRY(kvf_instance_new(&spec.model, &spec.prefill.parallel, role, role == KVF_PREFILL ? PREFILL_ID : 72,
		&side->instance));
	if (role == KVF_PREFILL)
		TRY(kvf_instance_set_endpoint(side->instance, 0, side->endpoint));
	TRY(kvf_layout_new(&spec.model, side->instance, 0, &spec.prefill.layout, &side->layout, &bytes));
	TRY(kvf_alloc(side->agent, (bytes + 4095) & ~UINT64_C(4095), &memory, &region));
	kvf_layout_move(side->layout, (uint64_t)(uintptr_t)memory);
	if (role == KVF_DECODE)
		TRY(kvf_layout_set_aux(side->layout, 1, sizeof(aux), (uint64_t)(uintptr_t)aux));
	TRY(kvf_declare(side->agent, side->instance, 0, side->layout));
	return true;
}

static void take(struct life *life, struct side *side)
{
	struct kvf_event events[8];
	int n = kvf_poll(side->agent, events, 8);

	assert_true(n >= 0);
	for (int i = 0; i < n; i++) {
		if (events[i].type == KVF_EVENT_PEER)
			life->peers_up += side == &life->decode && events[i].status == KVF_OK;
		for (uint32_t s = 0; s < 4; s++) {
			if (!life->open[s] || side_of(life, s) != side ||
				events[i].session.bits != life->sessions[s].bits)
				continue;
			if (events[i].type == KVF_EVENT_OUTCOME) {
				assert_false(life->outcome[s]);
				life->outcome[s] = true;
				life->status[s] = events[i].status;
			} else if (events[i].type == KVF_EVENT_RELEASED) {
				assert_true(life->outcome[s] && !life->released[s]);
				life->released[s] = true;
			}
		}
	}
}

static bool all_released(const struct life *life)
{
	for (uint32_t s = 0; s < 4; s++)
		if (life->open[s] && !life->released[s])
			return false;
	return true;
}

static bool is_up(const struct life *life)
{
	return life->peers_up > 0;
}

static const char *how_far(const struct life *life, uint32_t s)
{
	return !life->open[s] ? "none" : life->released[s] ? "released" : life->outcome[s] ? "told" : "open";
}

static void until(struct life *life, bool (*done)(const struct life *life), uint32_t n)
{
	uint64_t end_ns = now_ns() + LIMIT_NS;

	while (!done(life)) {
		take(life, &life->prefill);
		take(life, &life->decode);
		pass_time();
		if (now_ns() > end_ns)
			fail_msg("allocation %u failed, and nothing goes on: peers up %u; sessions %s %s %s "
				 "%s",
				n, life->peers_up, how_far(life, 0), how_far(life, 1), how_far(life, 2),
				how_far(life, 3));
	}
}

static bool open_tx(struct life *life, uint32_t s, uint64_t id)
{
	static const int32_t ids[] = {0, 1};
	const struct kvf_tx_params params = {.request_id = id, .prompt_len = 16};
	const struct kvf_blocks list = {0, 2, ids};
	const struct kvf_slice slice = {.token_end = 16, .last = 1, .n_lists = 1, .lists = &list};

	TRY(kvf_tx_open(life->prefill.agent, &params, &life->sessions[s]));
	life->open[s] = true;
	TRY(kvf_tx_send(life->prefill.agent, life->sessions[s], &slice, NULL));
	TRY(kvf_tx_send_aux(life->prefill.agent, life->sessions[s], "aux", 4));
	return true;
}

static bool open_rx(struct life *life, uint32_t s, uint64_t id)
{
	static const int32_t ids[] = {2, 3};
	const struct kvf_blocks list = {0, 2, ids};
	const struct kvf_rx_params params = {
		.instance_id = PREFILL_ID, .request_id = id, .prompt_len = 16, .n_lists = 1, .lists = &list};

	TRY(kvf_rx_open(life->decode.agent, &params, &life->sessions[s]));
	life->open[s] = true;
	return true;
}

static bool hold(struct life *life)
{
	const struct kvf_tx_params params = {.request_id = 9, .prompt_len = 16};
	unsigned char ticket[KVF_TICKET_MAX_BYTES];
	size_t len;

	TRY(kvf_ticket_new(life->prefill.agent, &params, ticket, sizeof(ticket), &len));
	TRY(kvf_hold(life->decode.agent, ticket, len));
	TRY(kvf_hold_drop(life->decode.agent, ticket, len));
	return true;
}

/* True: to its end, and everything worked. */
static bool live(struct life *life, uint32_t n)
{
	if (!open_agent(&life->prefill, KVF_PREFILL) || !open_agent(&life->decode, KVF_DECODE) ||
		!declare(&life->prefill, KVF_PREFILL) || !declare(&life->decode, KVF_DECODE))
		return false;
	life->declared = true;
	TRY(kvf_connect(life->decode.agent, life->prefill.endpoint));
	until(life, is_up, n);
	if (!hold(life) || !open_rx(life, 0, 1) || !open_tx(life, 1, 1) || !open_rx(life, 2, 2))
		return false;
	(void)kvf_cancel(life->decode.agent, life->sessions[2], "for the sweep");
	if (!open_tx(life, 3, 2))
		return false;
	(void)kvf_cancel_request(life->prefill.agent, 2, 0, "for the sweep");
	until(life, all_released, n);
	return true;
}

/* Whatever was opened is cancelled, released and closed; what failed says why. */
static void die(struct life *life, uint32_t n)
{
	for (uint32_t s = 0; s < 4; s++)
		if (life->open[s] && !life->released[s])
			(void)kvf_cancel(side_of(life, s)->agent, life->sessions[s], "the life is over");
	if (life->declared)
		until(life, all_released, n);
	for (uint32_t s = 0; s < 4; s++) {
		char text[256] = "";

		if (!life->open[s])
			continue;
		WORKS(kvf_session_error(side_of(life, s)->agent, life->sessions[s], text, sizeof(text)));
		assert_int_equal(life->status[s] != KVF_OK, text[0] != '\0');
		WORKS(kvf_session_close(side_of(life, s)->agent, life->sessions[s]));
	}
	for (uint32_t i = 0; i < 2; i++) {
		struct side *side = i == 0 ? &life->decode : &life->prefill;
		struct kvf_close_report report = {0};

		kvf_agent_close(side->agent, 1000000000, &report);
		assert_int_equal(report.unreleased_sessions, 0);
		kvf_layout_free(side->layout);
		kvf_instance_free(side->instance);
	}
}

static bool live_once(uint32_t n)
{
	struct life life;
	bool passed;

	memset(&life, 0, sizeof(life));
	kvfi_alloc_fail_at(n);
	passed = live(&life, n);
	die(&life, n);
	passed = passed && (n == 0 || kvfi_alloc_count() < n);
	kvfi_alloc_fail_at(0);
	if (passed)
		assert_int_equal(life.status[0] == KVF_OK && life.status[1] == KVF_OK, 1);
	return passed;
}

static void t_the_nth_allocation_fails(void **state)
{
	uint32_t n = getenv("KVFT_FIRST") != NULL ? (uint32_t)atoi(getenv("KVFT_FIRST")) : part;

	(void)state;
	assert_true(live_once(0));
	for (; !live_once(n); n += PARTS)
		assert_true(n < MAX_N);
	print_message("all of %u, %u, ... up to %u\n", part, part + PARTS, n);
	assert_true(n > 100);
}

/* Most of a life is waiting for deadlines of the other side, so several are lived at a time, in processes: the allocator's seam is one per process. */
static int run_part(const struct CMUnitTest *tests, size_t n_tests)
{
	int failed;

	(void)strcpy(directory, "/tmp/kvft-XXXXXX");
	if (mkdtemp(directory) == NULL)
		return 1;
	kvfi_clock_set(time_is_ours() ? &virtual_clock : NULL);
	failed = _cmocka_run_group_tests("allocations", tests, n_tests, NULL, NULL);
	(void)rmdir(directory);
	return failed;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_the_nth_allocation_fails),
	};
	pid_t children[PARTS + 1];
	int failed = 0;

	if (argc > 1)
		transport = argv[1];
	if (argc > 2)
		control = argv[2];
	for (part = 1; part <= PARTS; part++) {
		children[part] = fork();
		if (children[part] == 0)
			exit(run_part(tests, sizeof(tests) / sizeof(tests[0])));
	}
	for (uint32_t i = 1; i <= PARTS; i++) {
		int status = 1;

		if (children[i] < 0 || waitpid(children[i], &status, 0) != children[i] || status != 0)
			failed = 1;
	}
	return failed;
}
