/* harness.c - see harness.h. */
#include "harness.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "base/clock.h"

const struct subject *subject;

/* ---- env */

static void notify(void *context, const struct kvfi_done *done)
{
	struct side *side = context;
	struct event *event = calloc(1, sizeof(*event));

	if (event == NULL)
		abort();
	event->done = *done;
	if (done->kind == KVFI_DONE_FRAME) {
		memcpy(event->bytes, done->frame, done->frame_bytes);
		event->done.frame = event->bytes;
	}
	(void)pthread_mutex_lock(&side->lock);
	if (side->spy != NULL)
		side->spy(side->spy_context, done);
	*side->last = event;
	side->last = &event->next;
	(void)pthread_mutex_unlock(&side->lock);
	(void)eventfd_write(side->event_fd, 1);
}

static void submit(void *context, struct kvfi_job *job)
{
	struct side *side = context;

	job->next = NULL;
	(void)pthread_mutex_lock(&side->lock);
	*side->last_job = job;
	side->last_job = &job->next;
	(void)pthread_cond_signal(&side->work);
	(void)pthread_mutex_unlock(&side->lock);
}

static void *work(void *context)
{
	struct side *side = context;

	(void)pthread_mutex_lock(&side->lock);
	for (;;) {
		struct kvfi_job *job = side->jobs;

		if (job == NULL && side->stopping)
			break;
		if (job == NULL || side->allowance == 0) {
			(void)pthread_cond_wait(&side->work, &side->lock);
			continue;
		}
		if (side->allowance != UINT64_MAX)
			side->allowance--;
		side->jobs = job->next;
		if (side->jobs == NULL)
			side->last_job = &side->jobs;
		(void)pthread_mutex_unlock(&side->lock);
		job->run(job);
		(void)pthread_mutex_lock(&side->lock);
	}
	(void)pthread_mutex_unlock(&side->lock);
	return NULL;
}

void side_spy(struct side *side, void (*spy)(void *context, const struct kvfi_done *done), void *context)
{
	(void)pthread_mutex_lock(&side->lock);
	side->spy = spy;
	side->spy_context = context;
	(void)pthread_mutex_unlock(&side->lock);
}

void side_allow(struct side *side, uint64_t jobs)
{
	(void)pthread_mutex_lock(&side->lock);
	side->allowance = jobs;
	(void)pthread_cond_broadcast(&side->work);
	(void)pthread_mutex_unlock(&side->lock);
}

/* ---- sides */

static const struct kvfi_faults no_faults = {.seed = 1, .within_ns = KVFI_NS_PER_MS};

static void side_open(
	struct side *side, const char *name, uint64_t incarnation, const char *runtime_dir, bool listens)
{
	side->name = name;
	side->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(side->event_fd >= 0);
	(void)pthread_mutex_init(&side->lock, NULL);
	(void)pthread_cond_init(&side->work, NULL);
	side->last = &side->first;
	side->last_job = &side->jobs;
	side->allowance = UINT64_MAX;
	for (int i = 0; i < WORKERS; i++)
		assert_int_equal(pthread_create(&side->workers[i], NULL, work, side), 0);
	assert_int_equal(kvfi_regions_init(&side->regions, MAX_REGIONS), KVF_OK);
	side->env = (struct kvfi_transport_env){.self = side,
		.notify = notify,
		.submit = submit,
		.workers = WORKERS,
		.regions = &side->regions,
		.incarnation = incarnation,
		.max_peers = MAX_PEERS,
		.max_grants = MAX_GRANTS,
		.max_posts = MAX_POSTS,
		.name = name,
		.data_listen = "127.0.0.1:0",
		.runtime_dir = runtime_dir,
		.listens = listens,
		.faults = &no_faults};
	assert_int_equal(subject->ops->open(&side->env, &side->transport), KVF_OK);
}

void side_close(struct side *side)
{
	side_allow(side, UINT64_MAX);
	subject->ops->close(side->transport);
	side->transport = NULL;
}

static void side_destroy(struct side *side)
{
	side_close(side);
	(void)pthread_mutex_lock(&side->lock);
	side->stopping = true;
	(void)pthread_cond_broadcast(&side->work);
	(void)pthread_mutex_unlock(&side->lock);
	for (int i = 0; i < WORKERS; i++)
		(void)pthread_join(side->workers[i], NULL);
	kvfi_regions_fini(&side->regions);
	for (struct event *event = side->first, *next; event != NULL; event = next) {
		next = event->next;
		free(event);
	}
	(void)close(side->event_fd);
	(void)pthread_cond_destroy(&side->work);
	(void)pthread_mutex_destroy(&side->lock);
}

uint32_t side_region(struct side *side, uint64_t len_bytes)
{
	uint32_t index;

	assert_int_equal(kvfi_regions_alloc(&side->regions, len_bytes, &index), KVF_OK);
	assert_int_equal(subject->ops->region_added(side->transport, index), KVF_OK);
	return index;
}

unsigned char *side_memory(struct side *side, uint32_t region)
{
	return side->regions.table[region].memory;
}

/* ---- events */

bool take(struct side *side, enum kvfi_done_kind kind, uint64_t id, struct kvfi_done *done_out,
	unsigned char *bytes_out)
{
	struct event **at, *event;

	(void)pthread_mutex_lock(&side->lock);
	for (at = &side->first; *at != NULL; at = &(*at)->next) {
		if ((*at)->done.kind == kind && (id == ANY_ID || (*at)->done.id == id))
			break;
	}
	event = *at;
	if (event != NULL) {
		*at = event->next;
		if (*at == NULL)
			side->last = at;
	}
	(void)pthread_mutex_unlock(&side->lock);
	if (event == NULL)
		return false;
	*done_out = event->done;
	if (bytes_out != NULL)
		memcpy(bytes_out, event->bytes, event->done.frame_bytes);
	free(event);
	return true;
}

uint32_t count(struct side *side, enum kvfi_done_kind kind)
{
	uint32_t n = 0;

	(void)pthread_mutex_lock(&side->lock);
	for (const struct event *event = side->first; event != NULL; event = event->next)
		n += event->done.kind == kind;
	(void)pthread_mutex_unlock(&side->lock);
	return n;
}

void bench_turn(struct bench *bench, int timeout_ms)
{
	struct pollfd fds[6];
	nfds_t n = 0;

	for (uint32_t i = 0; i < bench->n; i++) {
		struct side *side = &bench->sides[i];
		eventfd_t ignored;

		(void)eventfd_read(side->event_fd, &ignored);
		fds[n++] = (struct pollfd){.fd = side->event_fd, .events = POLLIN};
		if (side->transport == NULL)
			continue;
		fds[n++] = (struct pollfd){.fd = subject->ops->fd(side->transport), .events = POLLIN};
		subject->ops->poll(side->transport);
	}
	(void)poll(fds, n, timeout_ms);
}

struct kvfi_done await(struct bench *bench, struct side *side, enum kvfi_done_kind kind, uint64_t id)
{
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S;
	struct kvfi_done done;

	while (!take(side, kind, id, &done, NULL)) {
		if (kvfi_clock_ns() > deadline_ns)
			fail_msg("%s: no event of kind %d came", side->name, (int)kind);
		/* A turn may have queued it before poll() looks; the next wait is then cut short by its eventfd. */
		bench_turn(bench, 100);
	}
	return done;
}

/* ---- connections */

void link_up(struct bench *bench, struct side *decode, uint32_t slot, uint64_t number)
{
	struct side *prefill = &bench->sides[0];
	unsigned char address[KVFI_ADDRESS_MAX_BYTES];
	size_t len = subject->ops->address(prefill->transport, address);
	struct kvfi_done done;

	assert_int_equal(subject->ops->reachable(decode->transport, address, len), KVF_OK);
	assert_int_equal(
		subject->ops->expect(prefill->transport, slot, decode->env.incarnation, number), KVF_OK);
	assert_int_equal(subject->ops->connect(
				 decode->transport, slot, prefill->env.incarnation, number, address, len),
		KVF_OK);
	done = await(bench, decode, KVFI_DONE_UP, ANY_ID);
	assert_int_equal(done.peer, slot);
	done = await(bench, prefill, KVFI_DONE_UP, ANY_ID);
	assert_int_equal(done.peer, slot);
}

void settle(struct bench *bench, struct side *decode, uint32_t slot)
{
	static const char note[] = "settle";
	struct side *prefill = &bench->sides[0];

	if (!subject->ops->send_frame ||
		!subject->ops->send_frame(decode->transport, slot, note, sizeof(note)))
		return;
	(void)await(bench, prefill, KVFI_DONE_FRAME, ANY_ID);
	assert_true(subject->ops->send_frame(prefill->transport, slot, note, sizeof(note)));
	(void)await(bench, decode, KVFI_DONE_FRAME, ANY_ID);
}

int bench_setup(void **state)
{
	static uint64_t incarnation = 1000;
	struct bench *bench = calloc(1, sizeof(*bench));

	assert_non_null(bench);
	(void)snprintf(bench->runtime_dir, sizeof(bench->runtime_dir), "/tmp/kvf-conformance-XXXXXX");
	assert_non_null(mkdtemp(bench->runtime_dir));
	bench->n = 3;
	side_open(&bench->sides[0], "prefill", incarnation++, bench->runtime_dir, true);
	side_open(&bench->sides[1], "decode", incarnation++, bench->runtime_dir, false);
	side_open(&bench->sides[2], "other decode", incarnation++, bench->runtime_dir, false);
	*state = bench;
	return 0;
}

int bench_teardown(void **state)
{
	struct bench *bench = *state;

	for (uint32_t i = 0; i < bench->n; i++)
		side_destroy(&bench->sides[i]);
	assert_int_equal(rmdir(bench->runtime_dir), 0); /* a socket left behind would keep it */
	free(bench);
	return 0;
}
