/* shm_writer.c - see shm_writer.h. */
#include "shm_writer.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/hash.h"

#define DEADLINE_S        30
#define WORKERS           2
#define TOKENS_PER_BLOCK  16u
#define ROW_BYTES         1024u
#define MAX_GRANTS        8u
#define WRITER_GOES_IN_MS 20000 /* if the test forgets it */

static uint64_t word_of(uint32_t writer, uint64_t offset)
{
	return kvfi_mix64(offset ^ (uint64_t)(writer + 1) << 56);
}

/* ---- the shape, the same for all */

static struct kvf_layout *side_of(const struct kvf_model *model, enum kvf_role role, uint32_t blocks,
	struct kvf_instance **instance_out, uint64_t *bytes_out)
{
	struct kvf_parallel parallel = {.tp = 1, .pp = 1, .cp = 1, .dp = 1};
	struct kvf_layout_options options = {
		.order = KVF_LAYER_NHD, .tokens_per_block = TOKENS_PER_BLOCK, .blocks = blocks};
	struct kvf_layout *layout = NULL;

	assert_int_equal(kvf_instance_new(model, &parallel, role, role, instance_out), KVF_OK);
	assert_int_equal(kvf_layout_new(model, *instance_out, 0, &options, &layout, bytes_out), KVF_OK);
	return layout;
}

static void shape_init(struct shape *shape, uint32_t blocks)
{
	uint32_t layer = 0;
	struct kvf_group_spec group = {.kind = KVF_PAGED,
		.dtype = KVF_BF16,
		.n_layers = 1,
		.layers = &layer,
		.n_parts = 1,
		.parts = {{1, ROW_BYTES}}};
	struct kvf_model model = {.name = "fence", .revision = "", .n_groups = 1, .groups = &group};
	int32_t *ids = calloc(blocks, sizeof(*ids));

	assert_non_null(ids);
	for (uint32_t i = 0; i < blocks; i++)
		ids[i] = (int32_t)i;
	shape->src = side_of(&model, KVF_PREFILL, blocks, &shape->prefill, &shape->bytes);
	shape->dst = side_of(&model, KVF_DECODE, blocks, &shape->decode, &shape->bytes);
	shape->prompt_len = blocks * TOKENS_PER_BLOCK;
	shape->ids[0] = (struct kvfi_ids){ids, blocks};
}

static struct kvf_layout *moved(const struct kvf_layout *layout, uint64_t delta)
{
	struct kvf_layout *copy = kvfi_layout_copy(layout);

	assert_non_null(copy);
	kvf_layout_move(copy, delta);
	return copy;
}

/* ---- the writer's process */

struct writer_process {
	const struct stage *stage;
	uint32_t number;
	int fd;
	struct kvfi_transport *transport;
	struct kvf_layout *src;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct kvfi_job *jobs, **last_job;
	/* of the last post */
	struct kvfi_bound bound;
	kvf_plan *plan;
};

static void report(struct writer_process *process, const struct report *what)
{
	if (send(process->fd, what, sizeof(*what), MSG_NOSIGNAL) != (ssize_t)sizeof(*what))
		_exit(3);
}

static void writer_notify(void *self, const struct kvfi_done *done)
{
	struct report what = {
		.kind = done->kind, .status = done->status, .id = done->id, .bytes = done->bytes};

	report(self, &what);
}

static void writer_submit(void *self, struct kvfi_job *job)
{
	struct writer_process *process = self;

	job->next = NULL;
	(void)pthread_mutex_lock(&process->lock);
	*process->last_job = job;
	process->last_job = &job->next;
	(void)pthread_cond_signal(&process->work);
	(void)pthread_mutex_unlock(&process->lock);
}

static void *writer_work(void *self)
{
	struct writer_process *process = self;

	for (;;) {
		struct kvfi_job *job;

		(void)pthread_mutex_lock(&process->lock);
		while (process->jobs == NULL)
			(void)pthread_cond_wait(&process->work, &process->lock);
		job = process->jobs;
		process->jobs = job->next;
		if (process->jobs == NULL)
			process->last_job = &process->jobs;
		(void)pthread_mutex_unlock(&process->lock);
		job->run(job);
	}
	return NULL;
}

static enum kvf_status writer_post(struct writer_process *process, const struct order *order)
{
	const struct shape *shape = &process->stage->shape;
	struct kvf_layout *dst = moved(shape->dst, (uint64_t)order->region << KVFI_REGION_SHIFT);
	struct kvfi_shape bind = {
		.prompt_len = shape->prompt_len, .token_end = shape->prompt_len, .first = true, .last = true};
	struct kvfi_tx_post post = {.id = order->a,
		.request_id = 5000,
		.attempt = 1,
		.epoch = 9000,
		.lease_slot = (uint32_t)order->b,
		.lease_generation = (uint32_t)order->c,
		.bound = &process->bound};
	enum kvf_status status = kvfi_transport_shm.map_layout(process->transport, 0, dst);

	kvf_plan_free(process->plan);
	process->plan = NULL;
	if (status == KVF_OK)
		status = kvf_plan_new(
			shape->prefill, process->src, shape->decode, dst, KVF_REPLICA_ELECT, &process->plan);
	if (status == KVF_OK)
		status = kvfi_bind(process->plan, &bind, shape->ids, shape->ids, &process->bound);
	if (status == KVF_OK)
		status = kvfi_transport_shm.post(process->transport, &post);
	kvf_layout_free(dst);
	return status;
}

/* How many mappings of a peer's memory this process has. */
static uint64_t mappings_of_peers(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	char line[512];
	uint64_t n = 0;

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		n += strstr(line, "memfd:kvferry") != NULL;
	if (file != NULL)
		(void)fclose(file);
	return n;
}

/* The child inherits every descriptor, the connections too, and outlives its parent. */
static void fork_child(struct writer_process *process, int hold_fd)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct pollfd held = {.fd = hold_fd};
		struct report what = {.kind = 0, .id = mappings_of_peers()};

		report(process, &what);
		(void)poll(&held, 1, WRITER_GOES_IN_MS);
		_exit(0);
	}
}

static void carry_out(struct writer_process *process, const struct order *order, int hold_fd)
{
	struct report what = {.kind = 0};

	switch ((enum writer_does)order->what) {
	case WRITER_EXPECT:
		what.status = kvfi_transport_shm.expect(process->transport, 0, order->a, order->b);
		break;
	case WRITER_POST:
		what.status = writer_post(process, order);
		break;
	case WRITER_DISCONNECT:
		kvfi_transport_shm.disconnect(process->transport, 0);
		break;
	case WRITER_FORK:
		fork_child(process, hold_fd);
		return; /* the child reports */
	case WRITER_LEAVE:
		kvfi_transport_shm.close(process->transport);
		report(process, &what);
		_exit(0);
	}
	report(process, &what);
}

static void writer_open(struct writer_process *process, struct kvfi_regions *regions)
{
	const struct stage *stage = process->stage;
	struct kvfi_transport_env env = {.self = process,
		.notify = writer_notify,
		.submit = writer_submit,
		.workers = WORKERS,
		.regions = regions,
		.incarnation = stage->writers[process->number].incarnation,
		.max_peers = 2,
		.max_grants = MAX_GRANTS,
		.max_posts = 4,
		.name = "writer",
		.runtime_dir = stage->runtime_dir,
		.listens = true};
	unsigned char *memory = malloc(stage->shape.bytes);
	unsigned char address[KVFI_ADDRESS_MAX_BYTES];
	pthread_t thread;

	if (memory == NULL || kvfi_regions_init(regions, 4) != KVF_OK ||
		kvfi_transport_shm.open(&env, &process->transport) != KVF_OK)
		_exit(4);
	for (uint64_t i = 0; i < stage->shape.bytes; i += 8) {
		uint64_t word = word_of(process->number, i);

		memcpy(memory + i, &word, 8);
	}
	process->src = moved(stage->shape.src, (uint64_t)(uintptr_t)memory);
	for (int i = 0; i < WORKERS; i++)
		(void)pthread_create(&thread, NULL, writer_work, process);
	if (send(process->fd, address, kvfi_transport_shm.address(process->transport, address),
		    MSG_NOSIGNAL) < 0)
		_exit(5);
}

static void run_writer(const struct stage *stage, uint32_t number, int fd, int hold_fd)
{
	struct writer_process process = {.stage = stage, .number = number, .fd = fd};
	struct kvfi_regions regions;

	process.last_job = &process.jobs;
	(void)pthread_mutex_init(&process.lock, NULL);
	(void)pthread_cond_init(&process.work, NULL);
	kvfi_fault_word = stage->writers[number].fault;
	writer_open(&process, &regions);
	for (;;) {
		struct pollfd fds[2] = {{.fd = fd, .events = POLLIN},
			{.fd = kvfi_transport_shm.fd(process.transport), .events = POLLIN}};
		struct order order;
		ssize_t n;

		(void)poll(fds, 2, -1);
		kvfi_transport_shm.poll(process.transport);
		if ((fds[0].revents & (POLLIN | POLLHUP)) == 0)
			continue;
		n = recv(fd, &order, sizeof(order), MSG_DONTWAIT);
		if (n == 0)
			_exit(0); /* the test is over */
		if (n == (ssize_t)sizeof(order))
			carry_out(&process, &order, hold_fd);
	}
}

/* As process 1 of a new name space nobody could be stopped or killed by itself; so that one only waits. */
static void be_init(const struct stage *stage, uint32_t number, int fd, int hold_fd)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		run_writer(stage, number, fd, hold_fd);
	(void)close(fd);
	(void)waitpid(pid, &status, 0);
	_exit(0);
}

static void start_writer(struct stage *stage, uint32_t number, bool pid_namespace)
{
	struct writer *writer = &stage->writers[number];
	int pair[2], hold[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(pipe2(hold, O_CLOEXEC), 0);
	writer->fd = pair[0];
	writer->hold_fd = hold[1];
	writer->incarnation = 100 + number;
	writer->fault = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(writer->fault != MAP_FAILED);
	writer->pid = pid_namespace ? (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0) : fork();
	assert_true(writer->pid >= 0);
	if (writer->pid == 0) {
		for (uint32_t i = 0; i <= number; i++) {
			(void)close(stage->writers[i].fd);
			(void)close(stage->writers[i].hold_fd);
		}
		if (pid_namespace)
			be_init(stage, number, pair[1], hold[0]);
		run_writer(stage, number, pair[1], hold[0]);
	}
	(void)close(pair[1]);
	(void)close(hold[0]);
	writer->address_bytes = (size_t)recv(writer->fd, writer->address, sizeof(writer->address), 0);
	assert_in_range(writer->address_bytes, 1, sizeof(writer->address));
}

void writer_order(struct writer *writer, const struct order *order)
{
	assert_int_equal(send(writer->fd, order, sizeof(*order), MSG_NOSIGNAL), sizeof(*order));
}

struct report writer_await(struct stage *stage, uint32_t i, uint32_t kind)
{
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S;
	struct report what;

	for (;;) {
		if (recv(stage->writers[i].fd, &what, sizeof(what), MSG_DONTWAIT) == (ssize_t)sizeof(what) &&
			what.kind == kind)
			return what;
		assert_true(kvfi_clock_ns() < deadline_ns);
		stage_turn(stage, 1);
	}
}

void writer_until_stopped(struct writer *writer)
{
	int status;

	assert_int_equal(waitpid(writer->pid, &status, WUNTRACED), writer->pid);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(atomic_load(writer->fault), KVFI_FAULT_FIRED);
}

/* ---- the receiver */

static void stage_notify(void *self, const struct kvfi_done *done)
{
	struct stage *stage = self;

	assert_true(stage->n_events < 64);
	stage->events[stage->n_events++] = *done;
}

static void stage_submit(void *self, struct kvfi_job *job)
{
	struct stage *stage = self;

	job->next = NULL;
	*stage->last_job = job;
	stage->last_job = &job->next;
}

void stage_turn(struct stage *stage, int timeout_ms)
{
	struct pollfd ready = {.fd = kvfi_transport_shm.fd(stage->transport), .events = POLLIN};

	while (stage->jobs != NULL) {
		struct kvfi_job *job = stage->jobs;

		stage->jobs = job->next;
		if (stage->jobs == NULL)
			stage->last_job = &stage->jobs;
		job->run(job);
	}
	(void)poll(&ready, 1, timeout_ms);
	kvfi_transport_shm.poll(stage->transport);
}

struct kvfi_done stage_await(struct stage *stage, enum kvfi_done_kind kind, uint32_t peer)
{
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S;

	for (;;) {
		for (uint32_t i = 0; i < stage->n_events; i++) {
			struct kvfi_done done = stage->events[i];

			if (done.kind != kind || done.peer != peer)
				continue;
			stage->n_events--;
			memmove(&stage->events[i], &stage->events[i + 1],
				(stage->n_events - i) * sizeof(done));
			return done;
		}
		if (kvfi_clock_ns() > deadline_ns)
			fail_msg("no event of kind %d came", (int)kind);
		stage_turn(stage, 100);
	}
}

void stage_init(struct stage *stage, uint32_t blocks, uint32_t n_writers, bool pid_namespace)
{
	memset(stage, 0, sizeof(*stage));
	stage->last_job = &stage->jobs;
	shape_init(&stage->shape, blocks);
	(void)snprintf(stage->runtime_dir, sizeof(stage->runtime_dir), "/tmp/kvf-fence-XXXXXX");
	assert_non_null(mkdtemp(stage->runtime_dir));
	stage->n_writers = n_writers;
	for (uint32_t i = 0; i < n_writers; i++)
		start_writer(stage, i, pid_namespace);
}

void stage_open(struct stage *stage)
{
	struct kvfi_transport_env env = {.self = stage,
		.notify = stage_notify,
		.submit = stage_submit,
		.workers = 1,
		.regions = &stage->regions,
		.incarnation = 99,
		.max_peers = MAX_WRITERS,
		.max_grants = MAX_GRANTS,
		.max_posts = 4,
		.name = "receiver",
		.runtime_dir = stage->runtime_dir};

	assert_int_equal(kvfi_regions_init(&stage->regions, 4), KVF_OK);
	assert_int_equal(kvfi_transport_shm.open(&env, &stage->transport), KVF_OK);
}

void stage_share(struct stage *stage)
{
	assert_int_equal(kvfi_regions_alloc(&stage->regions, stage->shape.bytes, &stage->region), KVF_OK);
	assert_int_equal(kvfi_transport_shm.region_added(stage->transport, stage->region), KVF_OK);
	kvf_layout_free(stage->dst_local);
	kvf_plan_free(stage->plan);
	stage->dst_local =
		moved(stage->shape.dst, (uint64_t)(uintptr_t)stage->regions.table[stage->region].memory);
	assert_int_equal(kvf_plan_new(stage->shape.prefill, stage->shape.src, stage->shape.decode,
				 stage->dst_local, KVF_REPLICA_ELECT, &stage->plan),
		KVF_OK);
	stage_blank(stage);
}

void stage_close(struct stage *stage)
{
	stage_turn(stage, 0); /* jobs that are left: close() would wait for them */
	kvfi_transport_shm.close(stage->transport);
	kvfi_regions_fini(&stage->regions);
	kvf_plan_free(stage->plan);
	kvf_layout_free(stage->dst_local);
	stage->plan = NULL;
	stage->dst_local = NULL;
}

/* Whatever became of the writers. */
void stage_fini(struct stage *stage)
{
	char line[128];
	int status;

	for (uint32_t i = 0; i < stage->n_writers; i++) {
		struct writer *writer = &stage->writers[i];

		(void)close(writer->hold_fd);
		(void)close(writer->fd);
		(void)kill(writer->pid, SIGKILL);
		(void)waitpid(writer->pid, &status, 0);
		(void)munmap((void *)writer->fault, 4096);
	}
	free((void *)(uintptr_t)stage->shape.ids[0].ids);
	kvf_layout_free(stage->shape.src);
	kvf_layout_free(stage->shape.dst);
	kvf_instance_free(stage->shape.prefill);
	kvf_instance_free(stage->shape.decode);
	(void)snprintf(line, sizeof(line), "rm -rf %s", stage->runtime_dir);
	assert_int_equal(system(line), 0); /* a killed writer leaves its socket */
}

void stage_connect(struct stage *stage, uint32_t i, uint64_t link)
{
	struct writer *writer = &stage->writers[i];

	writer_order(writer, &(struct order){.what = WRITER_EXPECT, .a = 99, .b = link});
	assert_int_equal(writer_await(stage, i, 0).status, KVF_OK);
	assert_int_equal(kvfi_transport_shm.connect(stage->transport, i, writer->incarnation, link,
				 writer->address, writer->address_bytes),
		KVF_OK);
	(void)stage_await(stage, KVFI_DONE_UP, i);
	(void)writer_await(stage, i, KVFI_DONE_UP);
}

void stage_post(struct stage *stage, uint32_t i, uint32_t id)
{
	struct kvfi_rx_grant grant = {.id = id,
		.peer = i,
		.request_id = 5000,
		.attempt = 1,
		.epoch = 9000,
		.prompt_len = stage->shape.prompt_len,
		.plan = stage->plan,
		.dst = stage->shape.ids};
	uint32_t slot, generation;

	assert_int_equal(kvfi_transport_shm.grant(stage->transport, &grant, &slot, &generation), KVF_OK);
	writer_order(&stage->writers[i],
		&(struct order){
			.what = WRITER_POST, .region = stage->region, .a = id, .b = slot, .c = generation});
}

enum kvf_proof stage_until_proven(struct stage *stage, uint32_t id)
{
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_S * KVFI_NS_PER_S;
	enum kvf_proof proof;

	while ((proof = kvfi_transport_shm.proof(stage->transport, id)) == KVF_PROOF_NONE) {
		assert_true(kvfi_clock_ns() < deadline_ns);
		stage_turn(stage, 1);
	}
	return proof;
}

/* ---- memory */

void stage_blank(struct stage *stage)
{
	memset(stage->regions.table[stage->region].memory, CANARY, stage->shape.bytes);
}

bool stage_is_blank(const struct stage *stage)
{
	const unsigned char *memory = stage->regions.table[stage->region].memory;

	/* Equal to itself shifted by one, and the first is right: all are. */
	return memory[0] == CANARY && memcmp(memory, memory + 1, stage->shape.bytes - 1) == 0;
}

bool stage_has_arrived(const struct stage *stage, uint32_t i)
{
	const unsigned char *memory = stage->regions.table[stage->region].memory;

	for (uint64_t offset = 0; offset < stage->shape.bytes; offset += 8) {
		uint64_t word = word_of(i, offset);

		if (memcmp(memory + offset, &word, 8) != 0)
			return false;
	}
	return true;
}
