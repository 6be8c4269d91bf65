/* endpoint.c - reading control endpoints, and owning an ipc path.
 *
 * A path belongs to the process that holds the flock on path.lock; the kernel gives it back when that process dies,
 * however it dies. Under the lock a socket left by a dead owner is replaced, but not before a plain connect has shown
 * that nobody, of whatever kind, listens on it. So a second agent on a live path is told, and never steals it.
 * The socket gets its mode before it gets its name: there is no moment at which another user could connect.
 * No state; any thread.
 */
#include "control/endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/status.h"

#define LISTEN_BACKLOG 128
#define LOCK_SUFFIX    ".lock"
#define LOCK_TRIES     16

static enum kvf_status parse_port(const char *text, const char *port, enum kvfi_endpoint_use use)
{
	char *end;
	long number;

	if (use == KVFI_ENDPOINT_LISTEN && strcmp(port, "*") == 0)
		return KVF_OK;
	if (port[0] < '0' || port[0] > '9' || strlen(port) > 5)
		return kvfi_fail(KVF_EINVAL, "endpoint '%s': port '%.20s': not a number", text, port);
	number = strtol(port, &end, 10);
	if (*end != '\0' || number > UINT16_MAX || (number == 0 && use == KVFI_ENDPOINT_CONNECT))
		return kvfi_fail(KVF_EINVAL, "endpoint '%s': port '%s': must be %d to 65535", text, port,
			use == KVFI_ENDPOINT_CONNECT);
	return KVF_OK;
}

static enum kvf_status parse_tcp(const char *text, enum kvfi_endpoint_use use, struct kvfi_endpoint *endpoint)
{
	const char *host = text + strlen("tcp://");
	const char *colon = strrchr(host, ':');
	char address[INET6_ADDRSTRLEN + 2];
	unsigned char binary[sizeof(struct in6_addr)];
	size_t len;

	if (colon == NULL)
		return kvfi_fail(KVF_EINVAL, "endpoint '%s': no port; tcp://ADDRESS:PORT", text);
	len = (size_t)(colon - host);
	if (len >= sizeof(address))
		return kvfi_fail(KVF_EINVAL, "endpoint '%s': not a numeric address", text);
	memcpy(address, host, len);
	address[len] = '\0';
	if (strcmp(address, "*") == 0)
		return kvfi_fail(KVF_EINVAL,
			"endpoint '%s': name the address; 0.0.0.0 listens on every interface", text);
	endpoint->ipv6 = len > 2 && address[0] == '[' && address[len - 1] == ']';
	if (endpoint->ipv6) {
		memmove(address, address + 1, len - 2);
		address[len - 2] = '\0';
	}
	if (inet_pton(endpoint->ipv6 ? AF_INET6 : AF_INET, address, binary) != 1)
		return kvfi_fail(
			KVF_EINVAL, "endpoint '%s': not a numeric address; 127.0.0.1, or [::1]", text);
	return parse_port(text, colon + 1, use);
}

static enum kvf_status parse_ipc(const char *text, struct kvfi_endpoint *endpoint)
{
	const char *path = text + strlen("ipc://");
	const size_t room = sizeof(endpoint->path) - strlen(LOCK_SUFFIX);

	if (path[0] != '/' || path[1] == '\0')
		return kvfi_fail(KVF_EINVAL, "endpoint '%s': not an absolute path", text);
	if (strlen(path) >= room)
		return kvfi_fail(KVF_EINVAL, "endpoint '%s': its path has %zu bytes, at most %zu", text,
			strlen(path), room - 1);
	(void)snprintf(endpoint->path, sizeof(endpoint->path), "%s", path);
	return KVF_OK;
}

enum kvf_status kvfi_endpoint_parse(
	const char *text, enum kvfi_endpoint_use use, struct kvfi_endpoint *endpoint_out)
{
	struct kvfi_endpoint endpoint = {.kind = KVFI_ENDPOINT_TCP};
	enum kvf_status status;

	if (strnlen(text, 256) >= 256)
		return kvfi_fail(KVF_EINVAL, "endpoint '%.40s...': longer than 255 bytes", text);
	if (strncmp(text, "tcp://", 6) == 0) {
		status = parse_tcp(text, use, &endpoint);
	} else if (strncmp(text, "ipc://", 6) == 0) {
		endpoint.kind = KVFI_ENDPOINT_IPC;
		status = parse_ipc(text, &endpoint);
	} else {
		status = kvfi_fail(
			KVF_EINVAL, "endpoint '%s': neither tcp://ADDRESS:PORT nor ipc:///PATH", text);
	}
	if (status == KVF_OK)
		*endpoint_out = endpoint;
	return status;
}

/* Where anybody may rename files, anybody may put his socket in the place of ours. Sticky directories (/tmp) forbid it. */
static enum kvf_status check_directory(const char *path)
{
	char directory[KVFI_IPC_PATH_BYTES];
	struct stat info;
	char *slash;

	(void)snprintf(directory, sizeof(directory), "%s", path);
	slash = strrchr(directory, '/');
	slash[slash == directory] = '\0';
	if (stat(directory, &info) != 0)
		return kvfi_fail_errno(
			KVF_EINVAL, errno, "endpoint 'ipc://%s': directory '%s'", path, directory);
	if (!S_ISDIR(info.st_mode))
		return kvfi_fail(KVF_EINVAL, "endpoint 'ipc://%s': '%s' is no directory", path, directory);
	if ((info.st_mode & S_IWOTH) && !(info.st_mode & S_ISVTX))
		return kvfi_fail(KVF_EINVAL,
			"endpoint 'ipc://%s': anybody may rename files in '%s' (mode %04o)", path, directory,
			(unsigned)info.st_mode & 07777);
	return KVF_OK;
}

static void lock_path(const char *path, char *text, size_t max_bytes)
{
	(void)snprintf(text, max_bytes, "%.*s" LOCK_SUFFIX, (int)KVFI_IPC_PATH_BYTES, path);
}

/* Is the file that fd has open still the one of that name? Its owner removes it, and then a lock on it is worth nothing. */
static bool is_named(int fd, const char *name)
{
	struct stat opened, named;

	return fstat(fd, &opened) == 0 && lstat(name, &named) == 0 && opened.st_ino == named.st_ino &&
	       opened.st_dev == named.st_dev;
}

static enum kvf_status take_lock(const char *path, int *fd_out)
{
	char name[KVFI_IPC_PATH_BYTES + sizeof(LOCK_SUFFIX)];

	lock_path(path, name, sizeof(name));
	for (int i = 0; i < LOCK_TRIES; i++) {
		const int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

		if (fd < 0)
			return kvfi_fail_errno(
				KVF_EINVAL, errno, "endpoint 'ipc://%s': opening '%s'", path, name);
		if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
			close(fd);
			return kvfi_fail(
				KVF_EADDRINUSE, "endpoint 'ipc://%s': another agent listens there", path);
		}
		if (is_named(fd, name)) {
			*fd_out = fd;
			return KVF_OK;
		}
		close(fd);
	}
	return kvfi_fail(KVF_EADDRINUSE, "endpoint 'ipc://%s': other agents come and go there", path);
}

static void drop_lock(const char *path, int fd)
{
	char name[KVFI_IPC_PATH_BYTES + sizeof(LOCK_SUFFIX)];

	lock_path(path, name, sizeof(name));
	(void)unlink(name);
	close(fd);
}

static struct sockaddr_un unix_address(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	_Static_assert(sizeof(address.sun_path) == KVFI_IPC_PATH_BYTES, "a path that fits here fits there");
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	return address;
}

/* Nothing listens on what is there; only then it is removed. */
static enum kvf_status clear_path(const char *path)
{
	const struct sockaddr_un address = unix_address(path);
	struct stat info;
	int fd, error;

	if (lstat(path, &info) != 0)
		return errno == ENOENT ? KVF_OK
		                       : kvfi_fail_errno(KVF_EINVAL, errno, "endpoint 'ipc://%s'", path);
	if (!S_ISSOCK(info.st_mode))
		return kvfi_fail(KVF_EINVAL, "endpoint 'ipc://%s': there is a file that is no socket", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return kvfi_fail_errno(KVF_EIO, errno, "endpoint 'ipc://%s': socket", path);
	error = connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 ? 0 : errno;
	close(fd);
	if (error == ENOENT)
		return KVF_OK;
	if (error != ECONNREFUSED)
		return kvfi_fail(KVF_EADDRINUSE, "endpoint 'ipc://%s': another process listens there", path);
	if (unlink(path) != 0 && errno != ENOENT)
		return kvfi_fail_errno(
			KVF_EADDRINUSE, errno, "endpoint 'ipc://%s': removing a dead socket", path);
	return KVF_OK;
}

static enum kvf_status listen_on(const char *path, struct kvfi_ipc_claim *claim, int *listener_out)
{
	const struct sockaddr_un address = unix_address(path);
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	enum kvf_status status;
	struct stat info;

	if (fd < 0)
		return kvfi_fail_errno(KVF_EIO, errno, "endpoint 'ipc://%s': socket", path);
	/* On Linux the mode of a socket becomes the mode of the name that bind gives it. */
	if (fchmod(fd, 0600) != 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
		status = kvfi_fail_errno(errno == EADDRINUSE ? KVF_EADDRINUSE : KVF_EINVAL, errno,
			"endpoint 'ipc://%s'", path);
		close(fd);
		return status;
	}
	if (listen(fd, LISTEN_BACKLOG) != 0 || lstat(path, &info) != 0) {
		status = kvfi_fail_errno(KVF_EIO, errno, "endpoint 'ipc://%s': listen", claim->path);
		(void)unlink(path);
		close(fd);
		return status;
	}
	claim->device = info.st_dev;
	claim->inode = info.st_ino;
	*listener_out = fd;
	return KVF_OK;
}

enum kvf_status kvfi_ipc_claim(const char *path, struct kvfi_ipc_claim *claim_out, int *listener_out)
{
	struct kvfi_ipc_claim claim = {.lock_fd = -1};
	enum kvf_status status = check_directory(path);

	(void)snprintf(claim.path, sizeof(claim.path), "%s", path);
	if (status == KVF_OK)
		status = take_lock(path, &claim.lock_fd);
	if (status != KVF_OK)
		return status;
	status = clear_path(path);
	if (status == KVF_OK)
		status = listen_on(path, &claim, listener_out);
	if (status != KVF_OK) {
		drop_lock(path, claim.lock_fd);
		return status;
	}
	*claim_out = claim;
	return KVF_OK;
}

void kvfi_ipc_unclaim(struct kvfi_ipc_claim *claim)
{
	struct stat info;

	if (claim->lock_fd < 0)
		return;
	if (lstat(claim->path, &info) == 0 && info.st_dev == claim->device && info.st_ino == claim->inode)
		(void)unlink(claim->path);
	drop_lock(claim->path, claim->lock_fd);
	claim->lock_fd = -1;
}
