/* workers.h - the bounded pool of copy workers of one agent. */
#ifndef KVFI_AGENT_WORKERS_H
#define KVFI_AGENT_WORKERS_H

#include "transport/transport.h"

struct kvfi_workers;

KVF_MUST_CHECK enum kvf_status kvfi_workers_open(
	uint32_t n, const char *name, struct kvfi_workers **workers_out);
/* No threads: jobs go to submit. */
KVF_MUST_CHECK enum kvf_status kvfi_workers_open_with(
	void (*submit)(void *self, struct kvfi_job *job), void *self, struct kvfi_workers **workers_out);
/* Runs what was submitted, then joins. */
void kvfi_workers_close(struct kvfi_workers *workers);
/* Any thread. */
void kvfi_workers_submit(struct kvfi_workers *workers, struct kvfi_job *job);

#endif
