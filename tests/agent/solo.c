/* solo.c - see solo.h. */
#include "solo.h"

#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>
#include "attempt.h"

#define LIMIT_NS  UINT64_C(20000000000)
#define MAX_IDS   4096
#define TPB(solo) ((solo)->layout->groups[0].tokens_per_block)

static char directory[64];

const char *solo_directory(void)
{
	if (directory[0] == '\0') {
		(void)strcpy(directory, "/tmp/kvft-XXXXXX");
		assert_non_null(mkdtemp(directory));
	}
	return directory;
}

const char *solo_endpoint(const char *control, const char *name)
{
	static char texts[4][200];
	static unsigned turn;
	char *text = texts[turn++ % 4];

	if (strcmp(control, "zmq") == 0)
		(void)snprintf(text, sizeof(texts[0]), "ipc://%s/%s", solo_directory(), name);
	else
		(void)snprintf(text, sizeof(texts[0]), "inproc://kvft-%s", name);
	return text;
}

void solo_directory_remove(void)
{
	if (directory[0] != '\0' && rmdir(directory) != 0)
		fail_msg("%s is not empty", directory);
	directory[0] = '\0';
}

void solo_directory_clear(void)
{
	DIR *dir = opendir(directory);
	struct dirent *entry;

	while (dir != NULL && (entry = readdir(dir)) != NULL)
		(void)unlinkat(dirfd(dir), entry->d_name, 0); /* . and .. stay */
	if (dir != NULL)
		(void)closedir(dir);
	solo_directory_remove();
}

void solo_directory_use(const char *path)
{
	(void)snprintf(directory, sizeof(directory), "%s", path);
}

struct solo_spec solo_spec(enum kvf_role role, const char *control, const char *transports)
{
	static const uint32_t layers[] = {0, 1, 2, 3};
	static const struct kvf_group_spec group = {.kind = KVF_PAGED,
		.dtype = KVF_FP32,
		.n_layers = 4,
		.layers = layers,
		.n_parts = 2,
		.parts = {{4, 512}, {4, 512}}};

	return (struct solo_spec){.role = role,
		.model = {"toy", "1", 1, &group},
		.parallel = {1, 1, 1, 1, NULL, NULL},
		.instance_id = role == KVF_PREFILL ? 71 : 72,
		.layout = {KVF_BLOCK_MAJOR, 8, 16, 4},
		.control = control,
		.transports = transports,
		.own_thread = transports != NULL && strcmp(transports, "loop") != 0};
}

static void take_memory(struct solo *solo, uint64_t len_bytes)
{
	void *memory = NULL;

	solo->memory_bytes = (len_bytes + 4095) & ~UINT64_C(4095);
	if (solo->plain) {
		memory = aligned_alloc(4096, solo->memory_bytes);
		assert_non_null(memory);
		WORKS(kvf_register(solo->agent, memory, solo->memory_bytes, &solo->region));
	} else {
		WORKS(kvf_alloc(solo->agent, solo->memory_bytes, &memory, &solo->region));
	}
	solo->memory = memory;
	memset(memory, 0xa5, solo->memory_bytes);
	kvf_layout_move(solo->layout, (uint64_t)(uintptr_t)memory);
}

static void name_endpoints(struct solo *solo, const struct solo_spec *spec)
{
	if (spec->listen == NULL)
		return;
	WORKS(kvf_endpoint(solo->agent, solo->endpoint, sizeof(solo->endpoint)));
	for (uint32_t r = 0; spec->endpoints != NULL && r < solo->instance->n_ranks; r++)
		WORKS(kvf_instance_set_endpoint(solo->instance, r, spec->endpoints[r]));
	if (spec->endpoints == NULL)
		WORKS(kvf_instance_set_endpoint(solo->instance, spec->rank, solo->endpoint));
}

void solo_open_undeclared(struct solo *solo, const struct solo_spec *spec)
{
	struct kvf_options options;
	uint64_t bytes;

	memset(solo, 0, sizeof(*solo));
	kvf_options_init(&options);
	options.control = spec->control != NULL ? spec->control : "inproc";
	options.transports = spec->transports != NULL ? spec->transports : "loop";
	options.listen = spec->listen;
	options.runtime_dir = solo_directory();
	options.progress_thread = spec->own_thread;
	options.max_sessions = 64;
	options.max_links = 256;
	options.max_slices = 256;
	options.max_block_ids = 65536;
	if (spec->tune != NULL)
		spec->tune(&options);
	WORKS((spec->open != NULL ? spec->open : kvf_agent_open)(&options, &solo->agent));
	WORKS(kvf_instance_new(
		&spec->model, &spec->parallel, spec->role, spec->instance_id, &solo->instance));
	WORKS(kvf_layout_new(&spec->model, solo->instance, spec->rank, &spec->layout, &solo->layout, &bytes));
	solo->plain = spec->plain_memory;
	take_memory(solo, bytes);
	name_endpoints(solo, spec);
	if (spec->n_aux > 0)
		WORKS(kvf_layout_set_aux(
			solo->layout, spec->n_aux, sizeof(solo->aux[0]), (uint64_t)(uintptr_t)solo->aux));
}

void solo_open(struct solo *solo, const struct solo_spec *spec)
{
	solo_open_undeclared(solo, spec);
	WORKS(kvf_declare(solo->agent, solo->instance, spec->rank, solo->layout));
}

void solo_close(struct solo *solo)
{
	kvf_agent_close(solo->agent, 1000000000, NULL);
	solo->agent = NULL;
	kvf_layout_free(solo->layout);
	kvf_instance_free(solo->instance);
	if (solo->plain)
		free(solo->memory);
}

void solo_open_pair(const char *control, const char *transports, struct solo *prefill, struct solo *decode)
{
	struct solo_spec from = solo_spec(KVF_PREFILL, control, transports);
	struct solo_spec to = solo_spec(KVF_DECODE, control, transports);
	struct solo *all[] = {prefill, decode};

	from.listen = solo_endpoint(control, "prefill");
	solo_open(prefill, &from);
	solo_open(decode, &to);
	assert_int_equal(solo_connect(all, 2, decode, prefill->endpoint, NULL), KVF_OK);
}

void solo_close_pair(struct solo *prefill, struct solo *decode)
{
	solo_close(decode);
	solo_close(prefill);
	solo_directory_remove();
}

struct kvf_health solo_health(const struct solo *solo)
{
	struct kvf_health health;

	WORKS(kvf_health(solo->agent, &health));
	return health;
}

void solo_poll(struct solo *solo)
{
	struct kvf_event events[8];
	int n = solo->agent != NULL ? kvf_poll(solo->agent, events, 8) : 0;

	assert_true(n >= 0);
	for (int i = 0; i < n; i++) {
		if (solo->n_log == SOLO_MAX_LOG)
			memmove(solo->log, solo->log + 1, --solo->n_log * sizeof(struct kvf_event));
		solo->log[solo->n_log++] = events[i];
	}
}

static bool take(struct solo *solo, enum kvf_event_type type, kvf_session session, struct kvf_event *out)
{
	for (uint32_t i = 0; i < solo->n_log; i++) {
		if (solo->log[i].type != type || solo->log[i].session.bits != session.bits)
			continue;
		*out = solo->log[i];
		solo->n_log--;
		memmove(solo->log + i, solo->log + i + 1, (solo->n_log - i) * sizeof(struct kvf_event));
		return true;
	}
	return false;
}

struct kvf_event solo_next(
	struct solo *const *all, uint32_t n, struct solo *who, enum kvf_event_type type, kvf_session session)
{
	uint64_t end_ns = attempt_now_ns() + LIMIT_NS;
	struct kvf_event event;

	while (!take(who, type, session, &event)) {
		for (uint32_t i = 0; i < n; i++)
			solo_poll(all[i]);
		if (attempt_now_ns() > end_ns)
			fail_msg("no event of type %d in 20 s", (int)type);
		attempt_breathe();
	}
	return event;
}

/* ---- requests ---- */

static uint32_t fill_ids(int32_t *ids, uint64_t tokens, uint32_t tpb, int32_t first)
{
	uint32_t n = (uint32_t)((tokens + tpb - 1) / tpb);

	assert_true(n <= MAX_IDS);
	for (uint32_t i = 0; i < n; i++)
		ids[i] = first + (int32_t)i;
	return n;
}

kvf_session solo_tx_open(struct solo *solo, uint64_t id, uint64_t prompt_len)
{
	struct kvf_tx_params params = {.request_id = id, .prompt_len = prompt_len};
	kvf_session session = {0};

	WORKS(kvf_tx_open(solo->agent, &params, &session));
	return session;
}

void solo_send(struct solo *solo, kvf_session session, uint64_t start, uint64_t end, uint64_t prompt_len,
	int32_t first)
{
	static int32_t ids[MAX_IDS];
	uint32_t n = fill_ids(ids, end - start, TPB(solo), first + (int32_t)(start / TPB(solo)));
	struct kvf_blocks list = {0, n, ids};
	struct kvf_slice slice = {.token_start = start,
		.token_end = end,
		.last = end == prompt_len,
		.n_lists = 1,
		.lists = &list};

	WORKS(kvf_tx_send(solo->agent, session, &slice, NULL));
}

kvf_session solo_tx(struct solo *solo, uint64_t id, uint64_t prompt_len, int32_t first)
{
	kvf_session session = solo_tx_open(solo, id, prompt_len);

	solo_send(solo, session, 0, prompt_len, prompt_len, first);
	return session;
}

static kvf_session open_rx(
	struct solo *solo, struct kvf_rx_params *params, uint64_t prompt_len, int32_t first)
{
	static int32_t ids[MAX_IDS];
	struct kvf_blocks list = {0, fill_ids(ids, prompt_len, TPB(solo), first), ids};
	kvf_session session = {0};

	params->aux_slot = KVF_NO_AUX;
	params->n_lists = 1;
	params->lists = &list;
	WORKS(kvf_rx_open(solo->agent, params, &session));
	return session;
}

kvf_session solo_rx(struct solo *solo, uint64_t instance_id, uint64_t id, uint64_t prompt_len, int32_t first)
{
	struct kvf_rx_params params = {
		.instance_id = instance_id, .request_id = id, .prompt_len = prompt_len};

	return open_rx(solo, &params, prompt_len, first);
}

kvf_session solo_rx_ticket(
	struct solo *solo, const void *ticket, size_t len, uint64_t prompt_len, int32_t first)
{
	struct kvf_rx_params params = {.ticket = ticket, .ticket_bytes = len};

	return open_rx(solo, &params, prompt_len, first);
}

enum kvf_status solo_finish(
	struct solo *const *all, uint32_t n, struct solo *who, kvf_session session, char *text)
{
	struct kvf_event outcome = solo_next(all, n, who, KVF_EVENT_OUTCOME, session);

	(void)solo_next(all, n, who, KVF_EVENT_RELEASED, session);
	if (text != NULL)
		WORKS(kvf_session_error(who->agent, session, text, 256));
	WORKS(kvf_session_close(who->agent, session));
	return outcome.status;
}

enum kvf_status solo_connect(
	struct solo *const *all, uint32_t n, struct solo *decode, const char *endpoint, char *text)
{
	struct kvf_peer_info info;
	struct kvf_event event;

	WORKS(kvf_connect(decode->agent, endpoint));
	event = solo_next(all, n, decode, KVF_EVENT_PEER, (kvf_session){0});
	WORKS(kvf_peer_info(decode->agent, event.peer, &info));
	if (text != NULL)
		(void)snprintf(text, 256, "%s", info.reason);
	return event.status;
}

void solo_move(struct solo *const *all, uint32_t n, struct solo *prefill, struct solo *decode, uint64_t id)
{
	uint64_t block_bytes = prefill->memory_bytes / prefill->layout->groups[0].blocks;
	uint64_t prompt_len = 4 * TPB(prefill);
	char text[256] = "";
	kvf_session from, to;
	enum kvf_status status;

	for (uint64_t i = 0; i < 4 * block_bytes; i++)
		prefill->memory[i] = (unsigned char)(id + i * 31 + (i >> 8));
	memset(decode->memory, 0xa5, decode->memory_bytes);
	to = solo_rx(decode, prefill->instance->id, id, prompt_len, 5);
	from = solo_tx(prefill, id, prompt_len, 0);
	status = solo_finish(all, n, decode, to, text);
	if (status != KVF_OK)
		fail_msg("rx: %s: %s", kvf_status_name(status), text);
	status = solo_finish(all, n, prefill, from, text);
	if (status != KVF_OK)
		fail_msg("tx: %s: %s", kvf_status_name(status), text);
	assert_memory_equal(prefill->memory, decode->memory + 5 * block_bytes, 4 * block_bytes);
	for (uint64_t i = 0; i < decode->memory_bytes; i++)
		if (i / block_bytes < 5 || i / block_bytes >= 9)
			assert_int_equal(decode->memory[i], 0xa5);
}
