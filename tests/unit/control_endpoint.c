/* control_endpoint.c - endpoints as text, and who owns an ipc path. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "control/endpoint.h"

static char folder[64];
static char path[KVFI_IPC_PATH_BYTES];
static char lock_name[KVFI_IPC_PATH_BYTES + 8];

static int make_folder(void **state)
{
	(void)state;
	(void)snprintf(folder, sizeof(folder), "/tmp/kvferry-test-XXXXXX");
	if (mkdtemp(folder) == NULL)
		return -1;
	(void)snprintf(path, sizeof(path), "%s/prefill", folder);
	(void)snprintf(lock_name, sizeof(lock_name), "%s.lock", path);
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	return rmdir(folder);
}

static bool exists(const char *name)
{
	struct stat info;

	return lstat(name, &info) == 0;
}

static struct sockaddr_un address_of(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", name);
	return address;
}

/* A listening socket on the path that knows nothing of locks. */
static int listen_plainly(void)
{
	const struct sockaddr_un address = address_of(path);
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static bool can_connect(void)
{
	const struct sockaddr_un address = address_of(path);
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool connected;

	assert_true(fd >= 0);
	connected = connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0;
	close(fd);
	return connected;
}

static void tcp_endpoints_are_numeric(void **state)
{
	static const char *const good[] = {"tcp://127.0.0.1:1", "tcp://127.0.0.1:65535", "tcp://0.0.0.0:80",
		"tcp://[::1]:9", "tcp://[::]:9", "tcp://192.168.0.7:40000"};
	static const char *const bad[] = {"tcp://", "tcp://127.0.0.1",
		"tcp://127.0.0.1:", "tcp://127.0.0.1:65536", "tcp://127.0.0.1:-1", "tcp://127.0.0.1: 1",
		"tcp://127.0.0.1:1x", "tcp://127.0.0.1:000001", "tcp://localhost:1", "tcp://eth0:1",
		"tcp://:1", "tcp://*:1", "tcp://[127.0.0.1]:1", "tcp://::1:1", "tcp://[::1:1",
		"tcp://127.0.0.1;10.0.0.1:1", "tcp://127.1:1", "TCP://127.0.0.1:1", " tcp://127.0.0.1:1",
		"tcp://[1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc]:1", "epgm://127.0.0.1:1",
		""};
	struct kvfi_endpoint endpoint;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(kvfi_endpoint_parse(good[i], KVFI_ENDPOINT_CONNECT, &endpoint), KVF_OK);
		assert_int_equal(endpoint.kind, KVFI_ENDPOINT_TCP);
		assert_int_equal(endpoint.ipv6, strchr(good[i], '[') != NULL);
		assert_int_equal(kvfi_endpoint_parse(good[i], KVFI_ENDPOINT_LISTEN, &endpoint), KVF_OK);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(kvfi_endpoint_parse(bad[i], KVFI_ENDPOINT_CONNECT, &endpoint), KVF_EINVAL);
		assert_int_equal(kvfi_endpoint_parse(bad[i], KVFI_ENDPOINT_LISTEN, &endpoint), KVF_EINVAL);
		assert_non_null(strstr(kvf_error(), bad[i]));
	}
}

static void any_port_is_for_listeners(void **state)
{
	struct kvfi_endpoint endpoint;

	(void)state;
	assert_int_equal(kvfi_endpoint_parse("tcp://127.0.0.1:0", KVFI_ENDPOINT_LISTEN, &endpoint), KVF_OK);
	assert_int_equal(kvfi_endpoint_parse("tcp://127.0.0.1:*", KVFI_ENDPOINT_LISTEN, &endpoint), KVF_OK);
	assert_int_equal(
		kvfi_endpoint_parse("tcp://127.0.0.1:0", KVFI_ENDPOINT_CONNECT, &endpoint), KVF_EINVAL);
	assert_int_equal(
		kvfi_endpoint_parse("tcp://127.0.0.1:*", KVFI_ENDPOINT_CONNECT, &endpoint), KVF_EINVAL);
}

static void ipc_endpoints_are_absolute_and_fit(void **state)
{
	struct kvfi_endpoint endpoint;
	char longest[128] = "ipc:///";

	(void)state;
	assert_int_equal(kvfi_endpoint_parse("ipc:///run/x", KVFI_ENDPOINT_LISTEN, &endpoint), KVF_OK);
	assert_int_equal(endpoint.kind, KVFI_ENDPOINT_IPC);
	assert_string_equal(endpoint.path, "/run/x");
	assert_int_equal(kvfi_endpoint_parse("ipc://relative", KVFI_ENDPOINT_LISTEN, &endpoint), KVF_EINVAL);
	assert_int_equal(kvfi_endpoint_parse("ipc://@abstract", KVFI_ENDPOINT_LISTEN, &endpoint), KVF_EINVAL);
	assert_int_equal(kvfi_endpoint_parse("ipc://*", KVFI_ENDPOINT_LISTEN, &endpoint), KVF_EINVAL);
	assert_int_equal(kvfi_endpoint_parse("ipc:///", KVFI_ENDPOINT_LISTEN, &endpoint), KVF_EINVAL);
	memset(longest + 7, 'x', 101); /* a path of 102: with ".lock" and a NUL, 108 */
	assert_int_equal(kvfi_endpoint_parse(longest, KVFI_ENDPOINT_LISTEN, &endpoint), KVF_OK);
	longest[108] = 'x';
	assert_int_equal(kvfi_endpoint_parse(longest, KVFI_ENDPOINT_LISTEN, &endpoint), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "103 bytes, at most 102"));
}

static void a_claimed_path_is_private_and_leaves_nothing(void **state)
{
	const mode_t before = umask(0);
	struct kvfi_ipc_claim claim;
	struct stat info;
	int fd;

	(void)state;
	assert_int_equal(kvfi_ipc_claim(path, &claim, &fd), KVF_OK);
	(void)umask(before);
	assert_int_equal(stat(path, &info), 0);
	assert_int_equal(info.st_mode & 07777, 0600);
	assert_int_equal(stat(lock_name, &info), 0);
	assert_int_equal(info.st_mode & 07777, 0600);
	assert_true(can_connect());
	close(fd);
	kvfi_ipc_unclaim(&claim);
	assert_false(exists(path) || exists(lock_name));
	kvfi_ipc_unclaim(&claim);
}

static void a_live_claim_is_respected(void **state)
{
	struct kvfi_ipc_claim claim, other;
	int fd, other_fd = -1;

	(void)state;
	assert_int_equal(kvfi_ipc_claim(path, &claim, &fd), KVF_OK);
	assert_int_equal(kvfi_ipc_claim(path, &other, &other_fd), KVF_EADDRINUSE);
	assert_int_equal(other_fd, -1);
	assert_true(can_connect());
	close(fd); /* it does not listen any more, but it still has the lock */
	assert_int_equal(kvfi_ipc_claim(path, &other, &other_fd), KVF_EADDRINUSE);
	kvfi_ipc_unclaim(&claim);
}

static void a_listener_without_a_lock_is_respected(void **state)
{
	const int plain = listen_plainly();
	struct kvfi_ipc_claim claim;
	int fd;

	(void)state;
	assert_int_equal(kvfi_ipc_claim(path, &claim, &fd), KVF_EADDRINUSE);
	assert_true(can_connect());
	assert_false(exists(lock_name));
	close(plain);
	assert_int_equal(unlink(path), 0);
}

static void files_of_a_killed_process_are_replaced(void **state)
{
	struct kvfi_ipc_claim claim;
	int fd, status, ready[2];
	char byte;
	pid_t child;

	(void)state;
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		byte = kvfi_ipc_claim(path, &claim, &fd) == KVF_OK;
		if (write(ready[1], &byte, 1) == 1)
			(void)pause();
		_exit(1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(byte, 1);
	assert_int_equal(kvfi_ipc_claim(path, &claim, &fd), KVF_EADDRINUSE);
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	close(ready[0]);
	close(ready[1]);
	assert_true(exists(path) && exists(lock_name));
	assert_int_equal(kvfi_ipc_claim(path, &claim, &fd), KVF_OK);
	assert_true(can_connect());
	close(fd);
	kvfi_ipc_unclaim(&claim);
	assert_false(exists(path) || exists(lock_name));
}

static void a_file_that_is_no_socket_is_left_alone(void **state)
{
	const int file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	struct kvfi_ipc_claim claim;
	int fd;

	(void)state;
	assert_true(file >= 0);
	close(file);
	assert_int_equal(kvfi_ipc_claim(path, &claim, &fd), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "no socket"));
	assert_true(exists(path));
	assert_false(exists(lock_name));
	assert_int_equal(unlink(path), 0);
}

static void what_somebody_else_put_there_is_not_removed(void **state)
{
	struct kvfi_ipc_claim claim;
	int fd, plain;

	(void)state;
	assert_int_equal(kvfi_ipc_claim(path, &claim, &fd), KVF_OK);
	assert_int_equal(unlink(path), 0);
	plain = listen_plainly();
	close(fd);
	kvfi_ipc_unclaim(&claim);
	assert_true(can_connect());
	close(plain);
	assert_int_equal(unlink(path), 0);
}

static void the_directory_must_be_safe_and_there(void **state)
{
	char inside[KVFI_IPC_PATH_BYTES];
	struct kvfi_ipc_claim claim;
	int fd;

	(void)state;
	(void)snprintf(inside, sizeof(inside), "%s/none/x", folder);
	assert_int_equal(kvfi_ipc_claim(inside, &claim, &fd), KVF_EINVAL);
	(void)snprintf(inside, sizeof(inside), "%s/none", folder);
	assert_int_equal(mkdir(inside, 0700), 0);
	assert_int_equal(chmod(inside, 0777), 0);
	(void)snprintf(inside, sizeof(inside), "%s/none/x", folder);
	assert_int_equal(kvfi_ipc_claim(inside, &claim, &fd), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "0777"));
	(void)snprintf(inside, sizeof(inside), "%s/none", folder);
	assert_int_equal(chmod(inside, 01777), 0);
	(void)snprintf(inside, sizeof(inside), "%s/none/x", folder);
	assert_int_equal(kvfi_ipc_claim(inside, &claim, &fd), KVF_OK);
	close(fd);
	kvfi_ipc_unclaim(&claim);
	(void)snprintf(inside, sizeof(inside), "%s/none", folder);
	assert_int_equal(rmdir(inside), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tcp_endpoints_are_numeric),
		cmocka_unit_test(any_port_is_for_listeners),
		cmocka_unit_test(ipc_endpoints_are_absolute_and_fit),
		cmocka_unit_test(a_claimed_path_is_private_and_leaves_nothing),
		cmocka_unit_test(a_live_claim_is_respected),
		cmocka_unit_test(a_listener_without_a_lock_is_respected),
		cmocka_unit_test(files_of_a_killed_process_are_replaced),
		cmocka_unit_test(a_file_that_is_no_socket_is_left_alone),
		cmocka_unit_test(what_somebody_else_put_there_is_not_removed),
		cmocka_unit_test(the_directory_must_be_safe_and_there),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
