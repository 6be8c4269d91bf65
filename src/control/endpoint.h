/* endpoint.h - control endpoints as text, and the claim on an ipc path. */
#ifndef KVFI_CONTROL_ENDPOINT_H
#define KVFI_CONTROL_ENDPOINT_H

#include <stdbool.h>
#include <sys/types.h>
#include "kvferry/kvferry.h"

#define KVFI_IPC_PATH_BYTES 108u /* sun_path, with its NUL */

enum kvfi_endpoint_kind {
	KVFI_ENDPOINT_TCP = 1, /* tcp://ADDRESS:PORT, a numeric address; [ADDRESS] if IPv6 */
	KVFI_ENDPOINT_IPC = 2  /* ipc:///absolute/path */
};

enum kvfi_endpoint_use {
	KVFI_ENDPOINT_LISTEN = 1, /* port 0 or *: any */
	KVFI_ENDPOINT_CONNECT = 2
};

struct kvfi_endpoint {
	enum kvfi_endpoint_kind kind;
	bool ipv6;
	char path[KVFI_IPC_PATH_BYTES]; /* ipc */
};

/* KVF_EINVAL names what is wrong. Host names are refused: looking one up can block the thread that moves all messages.
 * Wildcards for the address too: who wants every interface says 0.0.0.0. */
KVF_MUST_CHECK enum kvf_status kvfi_endpoint_parse(
	const char *text, enum kvfi_endpoint_use use, struct kvfi_endpoint *endpoint_out);

/* A path that is ours, with a listening socket on it. */
struct kvfi_ipc_claim {
	char path[KVFI_IPC_PATH_BYTES];
	int lock_fd; /* of path.lock, flock()ed; -1: no claim */
	dev_t device;
	ino_t inode;
};

/* kvfi_ipc_claim - take the path and listen there, mode 0600. The file of a process that died is replaced.
 * listener_out: a non-blocking listening socket, the caller's to close; the files go with kvfi_ipc_unclaim.
 * KVF_EADDRINUSE when somebody alive has it; KVF_EINVAL when something else than a socket is there, or when others may
 * rename files in its directory.
 */
KVF_MUST_CHECK enum kvf_status kvfi_ipc_claim(
	const char *path, struct kvfi_ipc_claim *claim_out, int *listener_out);
void kvfi_ipc_unclaim(struct kvfi_ipc_claim *claim);

#endif
