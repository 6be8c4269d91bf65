/* executor_rig.c - see executor_rig.h. */
#include "executor_rig.h"

uint64_t rig_now_ns = 1000 * RIG_S;

static uint64_t id_of(kvf_session session)
{
	return (session.bits - 1) / 16;
}

static int fake_poll(void *self, struct kvf_event *events, int n)
{
	struct rig *rig = self;
	int taken = 0;

	if (rig->poll_status != KVF_OK)
		return rig->poll_status;
	while (taken < n && rig->n > 0) {
		events[taken++] = rig->events[rig->head];
		rig->head = (rig->head + 1) % RIG_MAX_EVENTS;
		rig->n--;
	}
	return taken;
}

static enum kvf_status fake_state(void *self, kvf_session session, enum kvf_session_state *state_out)
{
	*state_out = ((struct rig *)self)->states[id_of(session) % RIG_MAX_IDS];
	return KVF_OK;
}

static enum kvf_cancel_result fake_cancel(void *self, kvf_session session, const char *reason)
{
	struct rig *rig = self;

	assert_non_null(reason);
	rig->cancels[id_of(session) % RIG_MAX_IDS]++;
	return KVF_CANCEL_REQUESTED_IN_FLIGHT;
}

/* The agent's own rule: no session is closed before its RELEASED. */
static enum kvf_status fake_close(void *self, kvf_session session)
{
	struct rig *rig = self;
	const uint64_t id = id_of(session) % RIG_MAX_IDS;

	if (rig->refuse_closes > 0) {
		rig->refuse_closes--;
		return KVF_EFULL;
	}
	assert_true(rig->released[id]);
	rig->closes[id]++;
	return KVF_OK;
}

static enum kvf_status fake_health(void *self, struct kvf_health *health_out)
{
	*health_out = ((struct rig *)self)->health;
	return KVF_OK;
}

static enum kvf_status fake_wait(void *self, uint64_t timeout_ns)
{
	struct rig *rig = self;

	rig->waits++;
	rig_now_ns += timeout_ns;
	if (rig->on_wait != NULL)
		rig->on_wait(rig);
	return KVF_TIMED_OUT;
}

static uint64_t fake_now_ns(void *self)
{
	(void)self;
	return rig_now_ns;
}

/* Nothing is freed twice, nor before it is quiet. */
static void on_free(void *self, uint64_t request_id, uint32_t attempt, void *user)
{
	struct rig *rig = self;

	for (uint32_t i = 0; i < rig->n_freed; i++)
		assert_false(rig->freed[i].request_id == request_id && rig->freed[i].attempt == attempt);
	assert_true(rig->n_freed < RIG_MAX_RESULTS);
	assert_int_equal(kvf_guard_can_terminate(rig->guard, request_id, attempt), 1);
	rig->freed[rig->n_freed++] = (struct rig_freed){request_id, attempt, user};
	if (rig->on_free != NULL)
		rig->on_free(rig);
}

struct kvf_guard_options rig_options(struct rig *rig)
{
	struct kvf_guard_options options;

	kvf_guard_options_init(&options);
	options.max_requests = 64;
	options.free_request = on_free;
	options.self = rig;
	return options;
}

void rig_open(struct rig *rig, const struct kvf_guard_options *options)
{
	const struct kvfi_guard_agent agent = {.self = rig,
		.poll = fake_poll,
		.state = fake_state,
		.cancel = fake_cancel,
		.close = fake_close,
		.health = fake_health,
		.wait = fake_wait,
		.now_ns = fake_now_ns};

	memset(rig, 0, sizeof(*rig));
	rig->health.healthy = 1;
	rig->health.progress_timeout_ns = 60 * RIG_S;
	RIG_WORKS(kvfi_guard_open_on(&agent, options, &rig->guard));
}

void rig_open_plain(struct rig *rig)
{
	const struct kvf_guard_options options = rig_options(rig);

	rig_open(rig, &options);
}

void rig_close(struct rig *rig)
{
	kvf_guard_close(rig->guard, NULL);
	rig->guard = NULL;
}

kvf_session rig_session(uint64_t request_id, uint32_t attempt)
{
	return (kvf_session){request_id * 16 + attempt + 1};
}

void rig_add_with(struct rig *rig, uint64_t request_id, uint64_t timeout_ns, uint64_t transfer_timeout_ns)
{
	const struct kvf_guard_request request = {.request_id = request_id,
		.session = rig_session(request_id, 0),
		.timeout_ns = timeout_ns,
		.transfer_timeout_ns = transfer_timeout_ns,
		.user = (void *)(uintptr_t)request_id};

	rig->states[request_id % RIG_MAX_IDS] = KVF_STATE_INIT;
	rig->released[request_id % RIG_MAX_IDS] = false;
	RIG_WORKS(kvf_guard_add(rig->guard, &request));
}

void rig_add(struct rig *rig, uint64_t request_id)
{
	rig_add_with(rig, request_id, 0, 0);
}

void rig_event(struct rig *rig, enum kvf_event_type type, uint64_t request_id, enum kvf_status status)
{
	assert_true(rig->n < RIG_MAX_EVENTS);
	rig->events[(rig->head + rig->n++) % RIG_MAX_EVENTS] = (struct kvf_event){.type = type,
		.status = status,
		.session = type == KVF_EVENT_PEER ? (kvf_session){0} : rig_session(request_id, 0),
		.request_id = request_id};
	if (type == KVF_EVENT_RELEASED)
		rig->released[request_id % RIG_MAX_IDS] = true;
}

void rig_outcome(struct rig *rig, uint64_t request_id, enum kvf_status status)
{
	rig_event(rig, KVF_EVENT_OUTCOME, request_id, status);
}

void rig_release(struct rig *rig, uint64_t request_id)
{
	rig_event(rig, KVF_EVENT_RELEASED, request_id, KVF_OK);
}

void rig_end(struct rig *rig, uint64_t request_id, enum kvf_status status)
{
	rig_outcome(rig, request_id, status);
	rig_release(rig, request_id);
}

void rig_terminate(struct rig *rig, uint64_t request_id)
{
	RIG_WORKS(kvf_guard_terminate(rig->guard, request_id, 0));
}

void rig_tick(struct rig *rig)
{
	const int n = kvf_guard_tick(rig->guard, 0);

	assert_true(n >= 0 && rig->n_results + (uint32_t)n <= RIG_MAX_RESULTS);
	assert_int_equal(kvf_guard_poll(rig->guard, rig->results + rig->n_results,
				 (int)RIG_MAX_RESULTS - (int)rig->n_results),
		n);
	rig->n_results += (uint32_t)n;
}

struct kvf_guard_result rig_take(struct rig *rig)
{
	const struct kvf_guard_result result = rig->results[0];

	if (rig->n_results == 0)
		fail_msg("there is no result");
	memmove(rig->results, rig->results + 1, --rig->n_results * sizeof(rig->results[0]));
	return result;
}

void rig_expect(struct rig *rig, enum kvf_guard_kind kind, uint64_t request_id, enum kvf_status status)
{
	const struct kvf_guard_result result = rig_take(rig);

	if (result.kind != kind || result.request_id != request_id || result.status != status)
		fail_msg("request %llu: kind %d, %s, not request %llu: kind %d, %s",
			(unsigned long long)result.request_id, result.kind, kvf_status_name(result.status),
			(unsigned long long)request_id, kind, kvf_status_name(status));
	assert_true(result.user == (void *)(uintptr_t)request_id);
}

void rig_expect_nothing(struct rig *rig)
{
	if (rig->n_results > 0)
		fail_msg("request %llu: kind %d, %s, and nothing was to be told",
			(unsigned long long)rig->results[0].request_id, rig->results[0].kind,
			kvf_status_name(rig->results[0].status));
}

bool rig_was_freed(const struct rig *rig, uint64_t request_id)
{
	for (uint32_t i = 0; i < rig->n_freed; i++)
		if (rig->freed[i].request_id == request_id) {
			assert_true(rig->freed[i].user == (void *)(uintptr_t)request_id);
			return true;
		}
	return false;
}

void rig_works(enum kvf_status status, const char *call, const char *file, int line)
{
	if (status != KVF_OK)
		fail_msg("%s:%d: %s: %s: %s", file, line, call, kvf_status_name(status), kvf_error());
}

void rig_refuses(enum kvf_status wanted, enum kvf_status got, const char *word, const char *call, int line)
{
	if (got != wanted)
		fail_msg(
			"line %d: %s: %s, not %s", line, call, kvf_status_name(got), kvf_status_name(wanted));
	if (strstr(kvf_error(), word) == NULL)
		fail_msg("line %d: %s: \"%s\" does not name \"%s\"", line, call, kvf_error(), word);
}
