/* transport_shm_path.c - the socket of an shm agent: where it lies, who may reach it, and what dead agents have left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "transport/shm.h"

static struct kvfi_regions regions;
static struct kvfi_transport *transport;
static char runtime_dir[64];

static void notify(void *self, const struct kvfi_done *done)
{
	(void)self;
	(void)done;
}

static void submit(void *self, struct kvfi_job *job)
{
	(void)self;
	(void)job;
}

static void open_transport(void)
{
	struct kvfi_transport_env env = {.notify = notify,
		.submit = submit,
		.workers = 1,
		.regions = &regions,
		.incarnation = 500,
		.max_peers = 2,
		.max_grants = 4,
		.max_posts = 4,
		.name = "prefill",
		.runtime_dir = runtime_dir,
		.listens = true};

	assert_int_equal(kvfi_transport_shm.open(&env, &transport), KVF_OK);
}

static int setup(void **state)
{
	(void)state;
	(void)snprintf(runtime_dir, sizeof(runtime_dir), "/tmp/kvf-shm-path-XXXXXX");
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

static void the_socket_is_ours_alone_and_gone_after_close(void **state)
{
	struct stat info;
	char path[SHM_PATH_BYTES];

	(void)state;
	memcpy(path, kvfi_shm_self(transport)->path, sizeof(path));
	assert_int_equal(lstat(path, &info), 0);
	assert_true(S_ISSOCK(info.st_mode));
	assert_int_equal(info.st_mode & 0777, 0600);
	assert_int_equal(entries_of(runtime_dir), 3);
	kvfi_transport_shm.close(transport);
	assert_int_not_equal(lstat(path, &info), 0);
	open_transport();
}

static int bind_path(const char *format, int number)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	(void)snprintf(name.sun_path, sizeof(name.sun_path), format, runtime_dir, number);
	assert_int_equal(bind(fd, (const struct sockaddr *)&name, sizeof(name)), 0);
	return fd;
}

static void sockets_of_dead_agents_are_removed_and_others_are_not(void **state)
{
	int dead, alive, half, foreign, file;
	char path[SHM_PATH_BYTES];

	(void)state;
	kvfi_transport_shm.close(transport);
	dead = bind_path("%s/kvf-%d-00000000000000aa.shm", 1);
	(void)close(dead);
	alive = bind_path("%s/kvf-%d-00000000000000bb.shm", 1);
	assert_int_equal(listen(alive, 1), 0);
	half = bind_path(
		"%s/kvf-%d-00000000000000cc.new", getpid()); /* of a live process, before it listens */
	foreign = bind_path("%s/other-%d.shm", 1);
	(void)close(foreign);
	(void)snprintf(path, sizeof(path), "%s/kvf-1-dd.shm", runtime_dir);
	file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600); /* not a socket */
	assert_true(file >= 0);
	(void)close(file);
	open_transport();
	assert_int_equal(entries_of(runtime_dir), 2 + 4 + 1);
	(void)snprintf(path, sizeof(path), "%s/kvf-1-00000000000000aa.shm", runtime_dir);
	assert_int_not_equal(access(path, F_OK), 0);
	(void)close(alive);
	(void)close(half);
	for (uint32_t i = 0; i < 4; i++) {
		static const char *const left[] = {
			"%s/kvf-1-00000000000000bb.shm", "%s/other-1.shm", "%s/kvf-1-dd.shm"};

		if (i < 3)
			(void)snprintf(path, sizeof(path), left[i], runtime_dir);
		else
			(void)snprintf(path, sizeof(path), "%s/kvf-%d-00000000000000cc.new", runtime_dir,
				(int)getpid());
		assert_int_equal(unlink(path), 0);
	}
}

static void a_runtime_directory_that_cannot_serve_is_named(void **state)
{
	struct kvfi_transport_env env = kvfi_shm_self(transport)->env;
	struct kvfi_transport *other = NULL;
	char deep[200];

	(void)state;
	env.runtime_dir = "/nonexistent/kvferry";
	assert_int_equal(kvfi_transport_shm.open(&env, &other), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "/nonexistent/kvferry"));
	env.runtime_dir = NULL;
	assert_int_equal(kvfi_transport_shm.open(&env, &other), KVF_EINVAL);
	memset(deep, '/', sizeof(deep)); /* the root directory, with too long a name */
	deep[sizeof(deep) - 1] = 0;
	env.runtime_dir = deep;
	assert_int_equal(kvfi_transport_shm.open(&env, &other), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "runtime_dir"));
	assert_null(other);
}

static void another_host_user_or_a_socket_that_is_gone_is_told_apart(void **state)
{
	unsigned char address[KVFI_ADDRESS_MAX_BYTES], changed[KVFI_ADDRESS_MAX_BYTES];
	size_t len = kvfi_transport_shm.address(transport, address);

	(void)state;
	assert_int_equal(kvfi_transport_shm.reachable(transport, address, len), KVF_OK);
	memcpy(changed, address, len);
	changed[12] ^= 1; /* boot id */
	assert_int_equal(kvfi_transport_shm.reachable(transport, changed, len), KVF_NO_TRANSPORT);
	assert_string_equal(kvf_error(), "another host");
	memcpy(changed, address, len);
	changed[8] ^= 1; /* uid */
	assert_int_equal(kvfi_transport_shm.reachable(transport, changed, len), KVF_NO_TRANSPORT);
	assert_non_null(strstr(kvf_error(), "another user"));
	kvfi_transport_shm.close(transport);
	open_transport();
	assert_int_equal(unlink(kvfi_shm_self(transport)->path), 0);
	assert_int_equal(kvfi_transport_shm.reachable(transport, address, len), KVF_NO_TRANSPORT);
	assert_non_null(strstr(kvf_error(), "is gone"));
}

#define PATH_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PATH_TEST(the_socket_is_ours_alone_and_gone_after_close),
		PATH_TEST(sockets_of_dead_agents_are_removed_and_others_are_not),
		PATH_TEST(a_runtime_directory_that_cannot_serve_is_named),
		PATH_TEST(another_host_user_or_a_socket_that_is_gone_is_told_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
