/* transport_shm_welcome.c - a decode agent against prefill agents that lie: in what they hand over with WELCOME, and where they say they have mapped.
 *
 * The liar is a raw socket that listens where a prefill agent would. Whatever it says, the agent claims no proof that it has not got, holds no
 * descriptor of the liar's afterwards, and is told why the connection ended.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/clock.h"
#include "transport/shm.h"

#define DEADLINE_NS  (30 * KVFI_NS_PER_S)
#define OURS         UINT64_C(500)
#define THEIRS       UINT64_C(600)
#define LINK         UINT64_C(7)
#define PATH_AT      30 /* in an address */
#define PATH_LEN_AT  28
#define REGION_BYTES 8192u

static struct kvfi_regions regions;
static struct kvfi_transport *transport;
static char runtime_dir[64];
static struct kvfi_job *jobs;
static struct kvfi_done events[16];
static uint32_t n_events, region;
static int listener, liar; /* the connection */
static int fds_before;

static void notify(void *self, const struct kvfi_done *done)
{
	(void)self;
	assert_true(n_events < 16);
	events[n_events++] = *done;
}

static void submit(void *self, struct kvfi_job *job)
{
	(void)self;
	job->next = jobs;
	jobs = job;
}

static int descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	assert_non_null(dir);
	while (readdir(dir) != NULL)
		n++;
	(void)closedir(dir);
	return n;
}

static void turn(void)
{
	struct pollfd ready = {.fd = kvfi_transport_shm.fd(transport), .events = POLLIN};

	while (poll(&ready, 1, 0) == 1)
		kvfi_transport_shm.poll(transport);
	while (jobs != NULL) {
		struct kvfi_job *job = jobs;

		jobs = job->next;
		job->run(job);
	}
}

static int setup(void **state)
{
	struct kvfi_transport_env env = {.notify = notify,
		.submit = submit,
		.workers = 1,
		.regions = &regions,
		.incarnation = OURS,
		.max_peers = 2,
		.max_grants = 4,
		.max_posts = 4,
		.name = "decode",
		.runtime_dir = runtime_dir};

	(void)state;
	n_events = 0;
	(void)snprintf(runtime_dir, sizeof(runtime_dir), "/tmp/kvf-welcome-XXXXXX");
	assert_non_null(mkdtemp(runtime_dir));
	assert_int_equal(kvfi_regions_init(&regions, 4), KVF_OK);
	assert_int_equal(kvfi_regions_alloc(&regions, REGION_BYTES, &region), KVF_OK);
	assert_int_equal(kvfi_transport_shm.open(&env, &transport), KVF_OK);
	fds_before = descriptors();
	return 0;
}

/* An address of this host, with the liar's path in it. */
static size_t liar_address(unsigned char *address, const char *path)
{
	size_t len = kvfi_transport_shm.address(transport, address);
	uint16_t path_bytes = (uint16_t)strlen(path);

	memcpy(address + PATH_LEN_AT, &path_bytes, sizeof(path_bytes));
	memcpy(address + PATH_AT, path, path_bytes);
	return len;
}

/* Listens, is called, and has heard everything up to READY. */
static void be_called(void)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	unsigned char address[KVFI_ADDRESS_MAX_BYTES];
	struct shm_packet packet = {.header = {.type = SHM_HELLO}};
	enum kvf_status ignored;
	size_t len;

	(void)snprintf(name.sun_path, sizeof(name.sun_path), "%s/liar", runtime_dir);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_true(listener >= 0);
	assert_int_equal(bind(listener, (const struct sockaddr *)&name, sizeof(name)), 0);
	assert_int_equal(listen(listener, 1), 0);
	len = liar_address(address, name.sun_path);
	assert_int_equal(kvfi_transport_shm.connect(transport, 0, THEIRS, LINK, address, len), KVF_OK);
	liar = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(liar >= 0);
	while (packet.header.type != SHM_READY) {
		assert_int_equal(kvfi_shm_recv(liar, &packet, &ignored), SHM_IO_OK);
		kvfi_shm_close_fds(&packet);
	}
}

static int teardown(void **state)
{
	char path[SHM_PATH_BYTES];

	(void)state;
	(void)close(liar);
	(void)close(listener);
	(void)snprintf(path, sizeof(path), "%s/liar", runtime_dir);
	(void)unlink(path);
	kvfi_transport_shm.disconnect(transport, 0);
	kvfi_shm_fence_sweep(kvfi_shm_self(transport), true);
	assert_int_equal(descriptors(), fds_before);
	kvfi_transport_shm.close(transport);
	kvfi_regions_fini(&regions);
	assert_int_equal(rmdir(runtime_dir), 0);
	return 0;
}

static void say(enum shm_packet_type type, const void *body, size_t len_bytes, const struct shm_fds *fds)
{
	assert_int_equal(kvfi_shm_send(liar, type, body, len_bytes, fds), SHM_IO_OK);
	turn();
}

static void say_mapped(uint32_t index, uint32_t generation, uint64_t address, uint64_t len_bytes)
{
	struct shm_mapped mapped = {index, generation, address, len_bytes};

	say(SHM_MAPPED, &mapped, sizeof(mapped), NULL);
}

static void say_welcome(uint32_t flags, const struct shm_fds *fds)
{
	struct shm_hello hello = {.from = THEIRS, .to = OURS, .link = LINK, .flags = flags};

	say(SHM_WELCOME, &hello, sizeof(hello), fds);
}

static void must_be(enum kvfi_done_kind kind, enum kvf_status status)
{
	assert_int_equal(n_events, 1);
	assert_int_equal(events[0].kind, kind);
	assert_int_equal(events[0].status, status);
	n_events = 0;
}

/* A grant, revoked, whose word says that a worker is inside. */
static void grant_that_is_never_left(void)
{
	struct kvfi_rx_grant grant = {.id = 1, .peer = 0};
	uint32_t slot, generation;

	assert_int_equal(kvfi_transport_shm.grant(transport, &grant, &slot, &generation), KVF_OK);
	assert_true(kvfi_lease_enter(&kvfi_shm_self(transport)->peers[0]->leases.words[slot], generation));
	kvfi_transport_shm.revoke(transport, 1);
	assert_int_equal(kvfi_transport_shm.proof(transport, 1), KVF_PROOF_NONE);
}

/* Closes what it hands over. */
static void hand_over(uint32_t flags, int first, int second)
{
	struct shm_fds fds = {.n = second >= 0 ? 2 : first >= 0 ? 1 : 0, .fd = {first, second}};

	say_welcome(flags, &fds);
	for (uint32_t i = 0; i < fds.n; i++)
		(void)close(fds.fd[i]);
}

static void descriptors_that_are_not_what_they_should_be_prove_nothing(void **state)
{
	(void)state;
	be_called();
	/* The kernel's word for who is connected goes before what is passed: take it away, as an old kernel would. */
	kvfi_shm_leave_process(kvfi_shm_self(transport)->peers[0]);
	if (kvfi_shm_self(transport)->peers[0]->process_fd >= 0)
		(void)close(kvfi_shm_self(transport)->peers[0]->process_fd);
	kvfi_shm_self(transport)->peers[0]->process_fd = -1;
	say_mapped(region, 1, 0x10000, REGION_BYTES);
	hand_over(SHM_HAS_PROCESS | SHM_HAS_FENCE, eventfd(1, EFD_CLOEXEC),
		open("/dev/null", O_RDWR | O_CLOEXEC));
	must_be(KVFI_DONE_UP, KVF_OK);
	grant_that_is_never_left();
	assert_int_equal(kvfi_transport_shm.fence(transport, 0), KVF_OK); /* begun */
	turn();
	must_be(KVFI_DONE_BROKEN, KVF_PEER_LOST);
	assert_int_equal(kvfi_transport_shm.proof(transport, 1), KVF_PROOF_NONE);
	assert_int_equal(kvfi_transport_shm.fence(transport, 0), KVF_EUNSUPPORTED);
	kvfi_transport_shm.release(transport, 1);
	/* A fence that failed half way may protect something: until the writer leaves, its descriptor stays open. Here nobody is. */
	(void)close(kvfi_shm_self(transport)->fenced->fence_fd);
	kvfi_shm_self(transport)->fenced->fence_fd = -1;
}

static void without_descriptors_a_fence_is_refused_and_changes_nothing(void **state)
{
	(void)state;
	be_called();
	say_mapped(region, 1, 0x10000, REGION_BYTES);
	hand_over(0, -1, -1);
	must_be(KVFI_DONE_UP, KVF_OK);
	grant_that_is_never_left();
	assert_int_equal(kvfi_transport_shm.fence(transport, 0), KVF_EUNSUPPORTED);
	assert_non_null(strstr(kvf_error(), "userfaultfd"));
	assert_int_equal(n_events, 0); /* the connection goes on */
	kvfi_transport_shm.release(transport, 1);
}

static void a_region_whose_place_is_not_known_is_not_fenced(void **state)
{
	(void)state;
	be_called();
	say_mapped(region, 2, 0x10000, REGION_BYTES); /* of another generation: not this one */
	hand_over(SHM_HAS_FENCE, open("/dev/null", O_RDWR | O_CLOEXEC), -1);
	must_be(KVFI_DONE_UP, KVF_OK);
	grant_that_is_never_left();
	assert_int_equal(kvfi_transport_shm.fence(transport, 0), KVF_EUNSUPPORTED);
	assert_int_equal(n_events, 0);
	kvfi_transport_shm.release(transport, 1);
}

static void flags_and_descriptors_must_agree(void **state)
{
	(void)state;
	be_called();
	hand_over(SHM_HAS_PROCESS, -1, -1);
	must_be(KVFI_DONE_BROKEN, KVF_PROTOCOL);
}

static void unknown_flags_end_the_connection(void **state)
{
	(void)state;
	be_called();
	hand_over(4, -1, -1);
	must_be(KVFI_DONE_BROKEN, KVF_PROTOCOL);
}

static void a_place_of_what_is_no_region_of_ours_ends_the_connection(void **state)
{
	(void)state;
	be_called();
	say_mapped(4711, 1, 0x10000, REGION_BYTES);
	must_be(KVFI_DONE_BROKEN, KVF_PROTOCOL);
}

#define WELCOME_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WELCOME_TEST(descriptors_that_are_not_what_they_should_be_prove_nothing),
		WELCOME_TEST(without_descriptors_a_fence_is_refused_and_changes_nothing),
		WELCOME_TEST(a_region_whose_place_is_not_known_is_not_fenced),
		WELCOME_TEST(flags_and_descriptors_must_agree),
		WELCOME_TEST(unknown_flags_end_the_connection),
		WELCOME_TEST(a_place_of_what_is_no_region_of_ours_ends_the_connection),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
