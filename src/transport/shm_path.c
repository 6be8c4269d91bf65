/* shm_path.c - the unix socket of a listening agent: its path, its address blob, and who may reach it.
 *
 * Guarantees: the socket is mode 0600 in a directory of ours, never in the abstract name space (which has no permissions); it is bound
 * under a temporary name and renamed once it listens, so that a path with the final name that refuses connections is surely left over
 * from a dead process. Such paths are removed at open; our own at close. Both ends check that the other one runs as the same user.
 *
 * Address: magic "KVSA" u32, version u32, uid u32, 16 bytes of boot id (which host, since which boot), length u16 and the path.
 * Owner thread.
 */
#include "transport/shm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/status.h"

#define ADDRESS_MAGIC    UINT32_C(0x4153564b) /* "KVSA" */
#define ADDRESS_VERSION  1u
#define PREFIX           "kvf-"
#define FINAL_SUFFIX     ".shm"
#define TEMPORARY_SUFFIX ".new"

struct address {
	uint32_t magic, version, uid;
	unsigned char boot_id[16];
	uint16_t path_bytes; /* 0: it does not listen */
	char path[SHM_PATH_BYTES];
};

_Static_assert(sizeof(struct address) <= KVFI_ADDRESS_MAX_BYTES, "an address blob fits");

bool kvfi_shm_same_user(int socket_fd)
{
	struct ucred credentials;
	socklen_t len = sizeof(credentials);

	return getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &len) == 0 &&
	       credentials.uid == geteuid();
}

/* "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" to 16 bytes; all 0 where there is none. */
static void read_boot_id(unsigned char *id)
{
	char text[64] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	uint32_t nibble = 0;

	memset(id, 0, 16);
	if (fd < 0)
		return;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	(void)close(fd);
	for (const char *at = text; *at != 0 && nibble < 32; at++) {
		uint32_t digit = *at >= '0' && *at <= '9'   ? (uint32_t)(*at - '0')
		                 : *at >= 'a' && *at <= 'f' ? (uint32_t)(*at - 'a') + 10
		                                            : 16;

		if (digit == 16)
			continue;
		id[nibble / 2] = (unsigned char)(id[nibble / 2] | digit << (nibble % 2 == 0 ? 4 : 0));
		nibble++;
	}
}

/* ---- listening */

static enum kvf_status make_path(
	const struct shm_transport *self, const char *suffix, struct sockaddr_un *name_out)
{
	int len;

	*name_out = (struct sockaddr_un){.sun_family = AF_UNIX};
	len = snprintf(name_out->sun_path, sizeof(name_out->sun_path), "%s/" PREFIX "%d-%016llx%s",
		self->env.runtime_dir, (int)getpid(), (unsigned long long)self->env.incarnation, suffix);
	if (len < 0 || (size_t)len >= sizeof(name_out->sun_path))
		return kvfi_fail(KVF_EINVAL,
			"runtime_dir: \"%s\" makes socket paths of %d bytes, more than %zu",
			self->env.runtime_dir, len, sizeof(name_out->sun_path) - 1);
	return KVF_OK;
}

/* Does nobody listen there? */
static bool refuses(const struct sockaddr_un *name)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool refused;

	if (fd < 0)
		return false;
	refused = connect(fd, (const struct sockaddr *)name, sizeof(*name)) != 0 && errno == ECONNREFUSED;
	(void)close(fd);
	return refused;
}

static bool process_is_gone(const char *file)
{
	long pid = strtol(file + strlen(PREFIX), NULL, 10);

	return pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

/* A path that a killed process has left. A temporary one refuses also in a live process, before it listens. */
static void remove_if_stale(const char *dir, const char *file)
{
	size_t len = strlen(file);
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	struct stat info;
	bool temporary;

	if (strncmp(file, PREFIX, strlen(PREFIX)) != 0 || len < strlen(FINAL_SUFFIX))
		return;
	temporary = strcmp(file + len - strlen(TEMPORARY_SUFFIX), TEMPORARY_SUFFIX) == 0;
	if (!temporary && strcmp(file + len - strlen(FINAL_SUFFIX), FINAL_SUFFIX) != 0)
		return;
	if ((size_t)snprintf(name.sun_path, sizeof(name.sun_path), "%s/%s", dir, file) >=
		sizeof(name.sun_path))
		return;
	if (lstat(name.sun_path, &info) != 0 || !S_ISSOCK(info.st_mode) || info.st_uid != geteuid())
		return;
	if ((!temporary || process_is_gone(file)) && refuses(&name))
		(void)unlink(name.sun_path);
}

static void remove_stale_paths(const char *dir)
{
	DIR *entries = opendir(dir);
	const struct dirent *entry;

	if (entries == NULL)
		return;
	while ((entry = readdir(entries)) != NULL)
		remove_if_stale(dir, entry->d_name);
	(void)closedir(entries);
}

static enum kvf_status check_directory(const char *dir)
{
	struct stat info;

	if (dir == NULL)
		return kvfi_fail(KVF_EINVAL, "runtime_dir: is not set");
	if (stat(dir, &info) != 0)
		return kvfi_fail_errno(KVF_EINVAL, errno, "runtime_dir: \"%s\"", dir);
	if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid())
		return kvfi_fail(KVF_EINVAL, "runtime_dir: \"%s\" is not a directory of user %u", dir,
			(unsigned)geteuid());
	return KVF_OK;
}

static enum kvf_status bind_and_listen(
	struct shm_transport *self, const struct sockaddr_un *temporary, const struct sockaddr_un *final)
{
	int saved_errno;

	self->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (self->listen_fd < 0)
		return kvfi_fail_errno(KVF_EIO, errno, "shm: socket");
	(void)unlink(temporary->sun_path);
	if (bind(self->listen_fd, (const struct sockaddr *)temporary, sizeof(*temporary)) != 0)
		return kvfi_fail_errno(KVF_EADDRINUSE, errno, "shm: binding \"%s\"", temporary->sun_path);
	if (chmod(temporary->sun_path, 0600) == 0 && listen(self->listen_fd, SOMAXCONN) == 0 &&
		rename(temporary->sun_path, final->sun_path) == 0)
		return KVF_OK;
	saved_errno = errno;
	(void)unlink(temporary->sun_path);
	return kvfi_fail_errno(KVF_EIO, saved_errno, "shm: listening at \"%s\"", final->sun_path);
}

enum kvf_status kvfi_shm_listen(struct shm_transport *self)
{
	struct sockaddr_un temporary, final;
	enum kvf_status status = check_directory(self->env.runtime_dir);

	if (status == KVF_OK)
		status = make_path(self, TEMPORARY_SUFFIX, &temporary);
	if (status == KVF_OK)
		status = make_path(self, FINAL_SUFFIX, &final);
	if (status != KVF_OK)
		return status;
	remove_stale_paths(self->env.runtime_dir);
	status = bind_and_listen(self, &temporary, &final);
	if (status != KVF_OK)
		return status;
	memcpy(self->path, final.sun_path, sizeof(self->path));
	if (!kvfi_shm_watch(self, self->listen_fd, SHM_EVENT_LISTENER, 0))
		return kvfi_fail_errno(KVF_EIO, errno, "shm: watching the listener");
	return KVF_OK;
}

void kvfi_shm_unlisten(struct shm_transport *self)
{
	if (self->path[0] != 0)
		(void)unlink(self->path);
	if (self->listen_fd >= 0)
		kvfi_shm_hang_up(self, self->listen_fd);
	self->listen_fd = -1;
	self->path[0] = 0;
}

/* ---- addresses */

size_t kvfi_shm_address(struct kvfi_transport *transport, void *buffer)
{
	const struct shm_transport *self = kvfi_shm_self(transport);
	struct address address;

	memset(&address, 0, sizeof(address));
	address.magic = ADDRESS_MAGIC;
	address.version = ADDRESS_VERSION;
	address.uid = geteuid();
	read_boot_id(address.boot_id);
	address.path_bytes = (uint16_t)strlen(self->path);
	memcpy(address.path, self->path, address.path_bytes);
	memcpy(buffer, &address, sizeof(address));
	return sizeof(address);
}

static enum kvf_status parse(const void *bytes, size_t len_bytes, struct address *address_out)
{
	if (len_bytes != sizeof(*address_out))
		return kvfi_fail(KVF_PROTOCOL, "shm: an address of %zu bytes, not %zu", len_bytes,
			sizeof(*address_out));
	memcpy(address_out, bytes, sizeof(*address_out));
	if (address_out->magic != ADDRESS_MAGIC || address_out->version != ADDRESS_VERSION)
		return kvfi_fail(KVF_PROTOCOL, "shm: this is no shm address of version %u", ADDRESS_VERSION);
	if (address_out->path_bytes >= sizeof(address_out->path) ||
		address_out->path[address_out->path_bytes] != 0 ||
		strlen(address_out->path) != address_out->path_bytes)
		return kvfi_fail(KVF_PROTOCOL, "shm: the path of an address is damaged");
	return KVF_OK;
}

enum kvf_status kvfi_shm_reachable(struct kvfi_transport *transport, const void *bytes, size_t len_bytes)
{
	unsigned char boot_id[16];
	struct address address;
	struct stat info;
	enum kvf_status status = parse(bytes, len_bytes, &address);

	(void)transport;
	if (status != KVF_OK)
		return status;
	read_boot_id(boot_id);
	if (memcmp(boot_id, address.boot_id, sizeof(boot_id)) != 0)
		return kvfi_fail(KVF_NO_TRANSPORT, "another host");
	if (address.uid != geteuid())
		return kvfi_fail(
			KVF_NO_TRANSPORT, "another user: %u, we are %u", address.uid, (unsigned)geteuid());
	if (address.path_bytes == 0)
		return KVF_OK; /* it does not listen: it will come to us */
	if (stat(address.path, &info) != 0 || !S_ISSOCK(info.st_mode) || info.st_uid != geteuid())
		return kvfi_fail(KVF_NO_TRANSPORT,
			"the socket \"%s\" is gone, or in another mount name space", address.path);
	return KVF_OK;
}

enum kvf_status kvfi_shm_dial(const void *bytes, int *fd_out)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	struct address address;
	int fd;

	memcpy(&address, bytes, sizeof(address));
	if (address.path_bytes == 0) /* an empty path would name an abstract socket */
		return kvfi_fail(KVF_UNREACHABLE, "shm: the peer does not listen");
	memcpy(name.sun_path, address.path, sizeof(name.sun_path));
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return kvfi_fail_errno(KVF_EIO, errno, "shm: socket");
	if (connect(fd, (const struct sockaddr *)&name, sizeof(name)) != 0) {
		int saved_errno = errno;

		(void)close(fd);
		return kvfi_fail_errno(
			KVF_UNREACHABLE, saved_errno, "shm: connecting to \"%s\"", address.path);
	}
	if (!kvfi_shm_same_user(fd)) {
		(void)close(fd);
		return kvfi_fail(KVF_REFUSED, "shm: \"%s\" is served by another user", address.path);
	}
	*fd_out = fd;
	return KVF_OK;
}
