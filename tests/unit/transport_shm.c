/* transport_shm.c - a prefill agent against peers that lie over shm.
 *
 * A liar is a raw socket that speaks packets through kvfi_shm_send. After each the prefill agent must have told what the contract
 * says, must hold no descriptor and no mapping of the liar's, and must serve the next peer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "base/clock.h"
#include "transport/shm.h"

#define DEADLINE_NS  (30 * KVFI_NS_PER_S)
#define OURS         UINT64_C(500)
#define THEIRS       UINT64_C(600)
#define LINK         UINT64_C(7)
#define LEASE_WORDS  8u
#define REGION_BYTES 8192u

static struct kvfi_regions regions;
static struct kvfi_transport *transport;
static char runtime_dir[64];
static struct kvfi_job *jobs, **last_job = &jobs;
static struct kvfi_done events[64];
static uint32_t n_events;

static void notify(void *self, const struct kvfi_done *done)
{
	(void)self;
	assert_true(n_events < 64);
	events[n_events++] = *done;
}

static void submit(void *self, struct kvfi_job *job)
{
	(void)self;
	job->next = NULL;
	*last_job = job;
	last_job = &job->next;
}

static void run_jobs(void)
{
	while (jobs != NULL) {
		struct kvfi_job *job = jobs;

		jobs = job->next;
		if (jobs == NULL)
			last_job = &jobs;
		job->run(job);
	}
}

static void open_transport(void)
{
	struct kvfi_transport_env env = {.notify = notify,
		.submit = submit,
		.workers = 1,
		.regions = &regions,
		.incarnation = OURS,
		.max_peers = 2,
		.max_grants = LEASE_WORDS,
		.max_posts = 4,
		.name = "prefill",
		.runtime_dir = runtime_dir,
		.listens = true};

	assert_int_equal(kvfi_transport_shm.open(&env, &transport), KVF_OK);
}

static int setup(void **state)
{
	(void)state;
	n_events = 0;
	(void)snprintf(runtime_dir, sizeof(runtime_dir), "/tmp/kvf-shm-test-XXXXXX");
	assert_non_null(mkdtemp(runtime_dir));
	assert_int_equal(kvfi_regions_init(&regions, 4), KVF_OK);
	open_transport();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kvfi_transport_shm.close(transport);
	kvfi_regions_fini(&regions);
	assert_int_equal(rmdir(runtime_dir), 0);
	return 0;
}

static int entries_of(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	assert_non_null(dir);
	while (readdir(dir) != NULL)
		n++;
	(void)closedir(dir);
	return n;
}

static int mappings(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	char line[512];
	int n = 0;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file) != NULL)
		n += strstr(line, "memfd:liar") != NULL;
	(void)fclose(file);
	return n;
}

/* ---- a liar's tools */

static int dial(void)
{
	unsigned char address[KVFI_ADDRESS_MAX_BYTES];
	int fd = -1;

	(void)kvfi_transport_shm.address(transport, address);
	assert_int_equal(kvfi_shm_dial(address, &fd), KVF_OK);
	return fd;
}

static int memory_of(uint64_t len_bytes, int seals)
{
	int fd = memfd_create("liar", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)len_bytes), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

#define GOOD_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

/* Sends and closes what was passed. */
static void tell(int fd, enum shm_packet_type type, const void *body, size_t len_bytes, int passed)
{
	struct shm_fds fds = {.n = passed >= 0, .fd = {passed}};

	assert_int_equal(kvfi_shm_send(fd, type, body, len_bytes, &fds), SHM_IO_OK);
	if (passed >= 0)
		(void)close(passed);
}

static void say_hello(int fd)
{
	struct shm_hello hello = {.from = THEIRS, .to = OURS, .link = LINK, .lease_words = LEASE_WORDS};

	tell(fd, SHM_HELLO, &hello, sizeof(hello), memory_of((LEASE_WORDS + 1) * 8, GOOD_SEALS));
}

static void show_region(int fd, uint32_t index, uint64_t claimed_bytes)
{
	struct shm_region region = {.index = index, .generation = 1, .len_bytes = claimed_bytes};

	tell(fd, SHM_REGION, &region, sizeof(region), memory_of(REGION_BYTES, GOOD_SEALS));
}

static void turn(void)
{
	struct pollfd ready = {.fd = kvfi_transport_shm.fd(transport), .events = POLLIN};

	run_jobs();
	while (poll(&ready, 1, 0) == 1) {
		kvfi_transport_shm.poll(transport);
		run_jobs();
	}
}

/* What the prefill agent answers last; SHM_FRAME (never sent here) when it just hangs up. */
static enum shm_packet_type answer(int fd, enum kvf_status *status_out)
{
	uint64_t deadline_ns = kvfi_clock_ns() + DEADLINE_NS;
	enum shm_packet_type last = SHM_FRAME;

	for (;;) {
		struct shm_packet packet;
		enum kvf_status ignored = KVF_OK;
		enum shm_io io = kvfi_shm_recv(fd, &packet, &ignored);

		assert_true(kvfi_clock_ns() < deadline_ns);
		if (io == SHM_IO_CLOSED)
			return last;
		if (io == SHM_IO_AGAIN) {
			if (last == SHM_WELCOME)
				return last;
			turn();
			continue;
		}
		assert_int_equal(io, SHM_IO_OK);
		kvfi_shm_close_fds(&packet);
		last = (enum shm_packet_type)packet.header.type;
		*status_out = (enum kvf_status)packet.body.refuse.status;
	}
}

static void expect(void)
{
	assert_int_equal(kvfi_transport_shm.expect(transport, 0, THEIRS, LINK), KVF_OK);
}

/* The honest way in, to show that a liar has harmed nobody. */
static void honest_peer_gets_in(void)
{
	enum kvf_status status = KVF_OK;
	int fd = dial();

	expect();
	say_hello(fd);
	show_region(fd, 3, REGION_BYTES);
	tell(fd, SHM_READY, NULL, 0, -1);
	assert_int_equal(answer(fd, &status), SHM_WELCOME);
	assert_true(n_events >= 1);
	assert_int_equal(events[n_events - 1].kind, KVFI_DONE_UP);
	(void)close(fd);
	turn();
	assert_int_equal(events[n_events - 1].kind, KVFI_DONE_BROKEN);
	assert_int_equal(events[n_events - 1].status, KVF_PEER_LOST);
	kvfi_transport_shm.disconnect(transport, 0);
	assert_int_equal(mappings(), 0);
	n_events = 0;
}

/* ---- liars */

static void the_first_packet_must_be_a_hello_that_is_expected(void **state)
{
	static const struct {
		struct shm_hello hello;
		enum kvf_status status;
	} lies[] = {
		{{.from = THEIRS, .to = OURS + 1, .link = LINK, .lease_words = LEASE_WORDS}, KVF_REFUSED},
		{{.from = THEIRS + 1, .to = OURS, .link = LINK, .lease_words = LEASE_WORDS}, KVF_REFUSED},
		{{.from = THEIRS, .to = OURS, .link = LINK + 1, .lease_words = LEASE_WORDS}, KVF_REFUSED},
		{{.from = THEIRS, .to = OURS, .link = LINK, .lease_words = 0}, KVF_PROTOCOL},
		{{.from = THEIRS, .to = OURS, .link = LINK, .lease_words = UINT32_MAX}, KVF_PROTOCOL},
		{{.from = THEIRS, .to = OURS, .link = LINK, .lease_words = LEASE_WORDS + 1},
			KVF_OUT_OF_RANGE},
	};
	int before = entries_of("/proc/self/fd");

	(void)state;
	expect();
	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++) {
		enum kvf_status status = KVF_OK;
		int fd = dial();

		tell(fd, SHM_HELLO, &lies[i].hello, sizeof(lies[i].hello),
			memory_of(LEASE_WORDS * 8, GOOD_SEALS));
		assert_int_equal(answer(fd, &status), SHM_REFUSE);
		assert_int_equal(status, lies[i].status);
		(void)close(fd);
		assert_int_equal(n_events, 0);
		assert_int_equal(mappings(), 0);
		assert_int_equal(entries_of("/proc/self/fd"), before);
	}
	honest_peer_gets_in();
}

static void another_version_is_refused_as_such(void **state)
{
	struct shm_header header = {.magic = SHM_MAGIC, .version = SHM_VERSION + 1, .type = SHM_HELLO};
	enum kvf_status status = KVF_OK;
	int fd = dial();

	(void)state;
	expect();
	assert_int_equal(send(fd, &header, sizeof(header), 0), sizeof(header));
	assert_int_equal(answer(fd, &status), SHM_REFUSE);
	assert_int_equal(status, KVF_PEER_VERSION);
	(void)close(fd);
	honest_peer_gets_in();
}

/* After a good HELLO, one bad thing: the connection ends and the agent is told why. */
static void after_hello(void (*lie)(int fd), enum kvf_status want)
{
	int before = entries_of("/proc/self/fd"), fd = dial();
	enum kvf_status ignored = KVF_OK;

	expect();
	say_hello(fd);
	turn();
	lie(fd);
	(void)answer(fd, &ignored);
	turn();
	assert_int_equal(n_events, 1);
	assert_int_equal(events[0].kind, KVFI_DONE_BROKEN);
	assert_int_equal(events[0].status, want);
	assert_true(events[0].reason[0] != 0);
	kvfi_transport_shm.disconnect(transport, 0);
	(void)close(fd);
	assert_int_equal(mappings(), 0);
	assert_int_equal(entries_of("/proc/self/fd"), before);
	n_events = 0;
	honest_peer_gets_in();
}

static void lie_unsealed(int fd)
{
	struct shm_region region = {.len_bytes = REGION_BYTES};

	tell(fd, SHM_REGION, &region, sizeof(region), memory_of(REGION_BYTES, F_SEAL_GROW));
}

static void lie_no_memfd(int fd)
{
	struct shm_region region = {.len_bytes = REGION_BYTES};

	tell(fd, SHM_REGION, &region, sizeof(region), open("/dev/zero", O_RDWR | O_CLOEXEC));
}

static void lie_short(int fd)
{
	show_region(fd, 0, REGION_BYTES + 1);
}

static void lie_empty(int fd)
{
	show_region(fd, 0, 0);
}

static void lie_huge(int fd)
{
	show_region(fd, 0, UINT64_MAX);
}

static void lie_index(int fd)
{
	show_region(fd, 65536, REGION_BYTES);
}

static void lie_twice(int fd)
{
	show_region(fd, 1, REGION_BYTES);
	show_region(fd, 1, REGION_BYTES);
}

static void lie_too_many(int fd)
{
	for (uint32_t i = 0; i <= SHM_MAX_REGIONS; i++) {
		show_region(fd, i, REGION_BYTES);
		turn();
	}
}

static void lie_gone(int fd)
{
	struct shm_gone gone = {.index = 9, .generation = 1};

	tell(fd, SHM_GONE, &gone, sizeof(gone), -1);
}

static void lie_frame(int fd)
{
	tell(fd, SHM_FRAME, "early", 5, -1);
}

static void lie_hello(int fd)
{
	say_hello(fd);
}

static void lie_welcome(int fd)
{
	struct shm_hello hello = {.from = THEIRS};

	tell(fd, SHM_WELCOME, &hello, sizeof(hello), -1);
}

static void lie_ready_twice(int fd)
{
	tell(fd, SHM_READY, NULL, 0, -1);
	tell(fd, SHM_READY, NULL, 0, -1);
}

static void lie_length(int fd)
{
	tell(fd, SHM_READY, "x", 1, -1);
}

static void lie_type(int fd)
{
	tell(fd, (enum shm_packet_type)99, NULL, 0, -1);
}

static void lie_passes_too_much(int fd)
{
	tell(fd, SHM_READY, NULL, 0, memory_of(4096, GOOD_SEALS));
}

static void lie_passes_nothing(int fd)
{
	struct shm_region region = {.len_bytes = REGION_BYTES};

	tell(fd, SHM_REGION, &region, sizeof(region), -1);
}

static void lie_mapped(int fd)
{
	struct shm_mapped mapped = {.len_bytes = REGION_BYTES};

	tell(fd, SHM_MAPPED, &mapped, sizeof(mapped), -1);
}

static void lie_noise(int fd)
{
	assert_int_equal(send(fd, "nonsense", 8, 0), 8);
}

static void a_hello_whose_flags_are_not_ours_is_refused(void **state)
{
	static const uint32_t flags[] = {SHM_HAS_PROCESS, SHM_HAS_FENCE, 4, UINT32_MAX};

	(void)state;
	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		struct shm_hello hello = {.from = THEIRS,
			.to = OURS,
			.link = LINK,
			.lease_words = LEASE_WORDS,
			.flags = flags[i]};
		enum kvf_status status = KVF_OK;
		int fd = dial();

		expect();
		/* one descriptor, whatever the flags say */
		tell(fd, SHM_HELLO, &hello, sizeof(hello), memory_of((LEASE_WORDS + 1) * 8, GOOD_SEALS));
		assert_int_equal(answer(fd, &status), SHM_REFUSE);
		assert_int_equal(status, KVF_PROTOCOL);
		(void)close(fd);
	}
	honest_peer_gets_in();
}

static void lease_words_without_room_for_the_gate_are_refused(void **state)
{
	struct shm_hello hello = {.from = THEIRS, .to = OURS, .link = LINK, .lease_words = LEASE_WORDS};
	enum kvf_status status = KVF_OK;
	int fd = dial();

	(void)state;
	expect();
	tell(fd, SHM_HELLO, &hello, sizeof(hello), memory_of(LEASE_WORDS * 8, GOOD_SEALS));
	assert_int_equal(answer(fd, &status), SHM_REFUSE);
	assert_int_equal(status, KVF_OUT_OF_RANGE);
	(void)close(fd);
	honest_peer_gets_in();
}

static void whatever_is_out_of_place_ends_that_connection_alone(void **state)
{
	static const struct {
		void (*lie)(int fd);
		enum kvf_status status;
	} lies[] = {{lie_unsealed, KVF_PROTOCOL}, {lie_no_memfd, KVF_PROTOCOL}, {lie_short, KVF_OUT_OF_RANGE},
		{lie_empty, KVF_OUT_OF_RANGE}, {lie_huge, KVF_PROTOCOL}, {lie_index, KVF_PROTOCOL},
		{lie_twice, KVF_PROTOCOL}, {lie_too_many, KVF_EFULL}, {lie_gone, KVF_PROTOCOL},
		{lie_frame, KVF_PROTOCOL}, {lie_hello, KVF_PROTOCOL}, {lie_welcome, KVF_PROTOCOL},
		{lie_ready_twice, KVF_PROTOCOL}, {lie_length, KVF_PROTOCOL}, {lie_type, KVF_PROTOCOL},
		{lie_passes_too_much, KVF_PROTOCOL}, {lie_passes_nothing, KVF_PROTOCOL},
		{lie_mapped, KVF_PROTOCOL}, {lie_noise, KVF_PROTOCOL}};

	(void)state;
	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++)
		after_hello(lies[i].lie, lies[i].status);
}

static void strangers_are_bounded_and_do_not_keep_others_out_for_ever(void **state)
{
	enum {
		MANY = 40
	};
	int fds[MANY], refused = 0;

	(void)state;
	for (int i = 0; i < MANY; i++) {
		fds[i] = dial();
		turn();
	}
	assert_int_equal(kvfi_shm_self(transport)->n_strangers, kvfi_shm_self(transport)->max_strangers);
	for (int i = 0; i < MANY; i++) {
		unsigned char ignored[256];

		refused += recv(fds[i], ignored, sizeof(ignored), MSG_DONTWAIT) > 0;
		(void)close(fds[i]);
	}
	assert_int_equal(refused, MANY - (int)kvfi_shm_self(transport)->max_strangers);
	turn();
	assert_int_equal(kvfi_shm_self(transport)->n_strangers, 0);
	honest_peer_gets_in();
}

static void a_hello_that_waited_while_we_slept_is_heard(void **state)
{
	struct itimerspec now = {.it_value.tv_nsec = 1};
	struct shm_transport *self = kvfi_shm_self(transport);
	enum kvf_status ignored = KVF_OK;
	struct pollfd ticked = {.fd = self->timer_fd, .events = POLLIN};
	int fd = dial(), silent = dial();

	(void)state;
	expect();
	turn();
	assert_int_equal(self->n_strangers, 2);
	self->strangers[0].deadline_ns = self->strangers[1].deadline_ns = 0;
	assert_int_equal(timerfd_settime(self->timer_fd, 0, &now, NULL), 0);
	assert_int_equal(poll(&ticked, 1, -1), 1); /* so that the tick is seen before the HELLO */
	say_hello(fd);
	tell(fd, SHM_READY, NULL, 0, -1);
	assert_int_equal(answer(fd, &ignored), SHM_WELCOME);
	while (self->n_strangers != 0)
		turn();
	assert_int_equal(answer(silent, &ignored), SHM_FRAME); /* hung up on */
	(void)close(fd);
	(void)close(silent);
	turn();
}

static void a_withdrawn_region_is_unmapped_and_its_index_may_come_again(void **state)
{
	struct shm_gone gone = {.index = 2, .generation = 1};
	enum kvf_status ignored = KVF_OK;
	int fd = dial();

	(void)state;
	expect();
	say_hello(fd);
	show_region(fd, 2, REGION_BYTES);
	tell(fd, SHM_READY, NULL, 0, -1);
	assert_int_equal(answer(fd, &ignored), SHM_WELCOME);
	assert_int_equal(mappings(), 2); /* and the lease words */
	for (int i = 0; i < 3 * (int)SHM_MAX_REGIONS; i++) {
		tell(fd, SHM_GONE, &gone, sizeof(gone), -1);
		turn();
		assert_int_equal(mappings(), 1);
		show_region(fd, 2, REGION_BYTES);
		turn();
	}
	assert_int_equal(mappings(), 2);
	assert_int_equal(n_events, 1);
	(void)close(fd);
	turn();
}

#define SHM_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SHM_TEST(the_first_packet_must_be_a_hello_that_is_expected),
		SHM_TEST(another_version_is_refused_as_such),
		SHM_TEST(a_hello_whose_flags_are_not_ours_is_refused),
		SHM_TEST(lease_words_without_room_for_the_gate_are_refused),
		SHM_TEST(whatever_is_out_of_place_ends_that_connection_alone),
		SHM_TEST(strangers_are_bounded_and_do_not_keep_others_out_for_ever),
		SHM_TEST(a_hello_that_waited_while_we_slept_is_heard),
		SHM_TEST(a_withdrawn_region_is_unmapped_and_its_index_may_come_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
