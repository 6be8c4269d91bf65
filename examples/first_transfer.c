/* first_transfer.c - the KV cache of one request moves from a prefill agent to a decode agent, both in this process.
 *
 * Two layers, 4 heads; prefill keeps its blocks block-major in blocks of 16 tokens, decode per layer and token-major in blocks of 32. In real
 * use each rank has a process of its own; then the endpoints are ipc:// or tcp:// and everything else stays as it is.
 *
 *   cc first_transfer.c $(pkg-config --cflags --libs kvferry) && ./a.out
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <kvferry/kvferry.h>

#define PROMPT_TOKENS 100u
#define ENDPOINT      "inproc://first-transfer"

static void must(enum kvf_status status, const char *what)
{
	if (status == KVF_OK)
		return;
	(void)fprintf(stderr, "%s: %s: %s\n", what, kvf_status_name(status), kvf_error());
	exit(1);
}

struct side {
	kvf_agent *agent;
	struct kvf_instance *instance;
	struct kvf_layout *layout;
	void *memory;
	uint64_t memory_bytes;
	kvf_region region;
};

static const uint32_t layers[] = {0, 1};
static const struct kvf_group_spec group = {KVF_PAGED, KVF_BF16, 0, 2, layers, 2, {{4, 256}, {4, 256}}};
static const struct kvf_model model = {"toy", "1", 1, &group};

/* An agent says once who it is: its rank in its instance, and where its blocks lie. */
static struct side open_side(enum kvf_role role, struct kvf_layout_options layout)
{
	const struct kvf_parallel parallel = {1, 1, 1, 1, NULL, NULL};
	struct kvf_options options;
	struct side side;

	kvf_options_init(&options);
	options.name = role == KVF_PREFILL ? "prefill" : "decode";
	options.control = "inproc";
	options.listen = role == KVF_PREFILL ? ENDPOINT : NULL;
	must(kvf_agent_open(&options, &side.agent), "kvf_agent_open");
	must(kvf_instance_new(&model, &parallel, role, (uint64_t)role, &side.instance), "kvf_instance_new");
	must(kvf_layout_new(&model, side.instance, 0, &layout, &side.layout, &side.memory_bytes),
		"kvf_layout_new");
	must(kvf_alloc(side.agent, side.memory_bytes, &side.memory, &side.region), "kvf_alloc");
	kvf_layout_move(side.layout, (uint64_t)(uintptr_t)side.memory);
	must(kvf_declare(side.agent, side.instance, 0, side.layout), "kvf_declare");
	return side;
}

static void close_side(struct side *side)
{
	kvf_agent_close(side->agent, 1000000000u, NULL);
	kvf_layout_free(side->layout);
	kvf_instance_free(side->instance);
}

/* Takes events until this side's session is released, and says what they mean. */
static void follow(struct side *side, const char *name)
{
	struct kvf_event event = {.type = KVF_EVENT_PEER};

	while (event.type != KVF_EVENT_RELEASED) {
		must(kvf_wait(side->agent, 5000000000u), name);
		if (kvf_poll(side->agent, &event, 1) != 1)
			continue;
		if (event.type == KVF_EVENT_OUTCOME)
			(void)printf("%-7s outcome: %s\n", name, kvf_status_text(event.status));
		if (event.type == KVF_EVENT_RELEASED)
			(void)printf("%-7s released: the blocks are ours again\n", name);
	}
	must(kvf_session_close(side->agent, event.session), "kvf_session_close");
}

int main(void)
{
	struct side prefill = open_side(KVF_PREFILL, (struct kvf_layout_options){KVF_BLOCK_MAJOR, 16, 8, 0});
	struct side decode = open_side(KVF_DECODE, (struct kvf_layout_options){KVF_LAYER_NHD, 32, 4, 0});
	const int32_t source_ids[] = {6, 2, 3, 0, 1, 7, 5}; /* 7 blocks of 16 tokens hold 100 */
	const int32_t target_ids[] = {3, 1, 0, 2};          /* so do 4 blocks of 32 */
	const struct kvf_blocks from = {0, 7, source_ids}, to = {0, 4, target_ids};
	const struct kvf_tx_params request = {.request_id = 42, .prompt_len = PROMPT_TOKENS};
	const struct kvf_slice slice = {.token_end = PROMPT_TOKENS, .last = 1, .n_lists = 1, .lists = &from};
	struct kvf_rx_params ask = {.aux_slot = KVF_NO_AUX, .n_lists = 1, .lists = &to};
	unsigned char ticket[KVF_TICKET_MAX_BYTES];
	kvf_session tx, rx;
	int wrong;

	/* The prefill side has computed the prompt: it hands its blocks over, and gives the router a ticket. */
	memset(prefill.memory, 7, prefill.memory_bytes);
	must(kvf_tx_open(prefill.agent, &request, &tx), "kvf_tx_open");
	must(kvf_tx_send(prefill.agent, tx, &slice, NULL), "kvf_tx_send");
	must(kvf_ticket_new(prefill.agent, &request, ticket, sizeof(ticket), &ask.ticket_bytes),
		"kvf_ticket_new");

	/* The decode side has the ticket from the router: it asks, and connects by itself. */
	ask.ticket = ticket;
	must(kvf_rx_open(decode.agent, &ask, &rx), "kvf_rx_open");
	follow(&decode, "decode");
	follow(&prefill, "prefill");

	wrong = memchr(decode.memory, 7, decode.memory_bytes) == NULL;
	close_side(&decode);
	close_side(&prefill);
	return wrong;
}
