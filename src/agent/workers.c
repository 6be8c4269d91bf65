/* workers.c - copy workers.
 *
 * A list of embedded jobs under a mutex; the owner of a job bounds their number, so the list needs no limit of its own. Workers sleep on a
 * condition variable, block every signal, and never touch the core.
 */
#include "agent/workers.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include "base/status.h"

struct kvfi_workers {
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct kvfi_job *first, *last;
	bool stop;
	void (*submit)(void *self, struct kvfi_job *job); /* NULL: threads */
	void *self;
	uint32_t n;
	char name[16];
	pthread_t threads[];
};

static void *work(void *argument)
{
	struct kvfi_workers *workers = argument;

	(void)pthread_setname_np(pthread_self(), workers->name);
	(void)pthread_mutex_lock(&workers->lock);
	for (;;) {
		struct kvfi_job *job = workers->first;

		if (job == NULL) {
			if (workers->stop)
				break;
			(void)pthread_cond_wait(&workers->work, &workers->lock);
			continue;
		}
		workers->first = job->next;
		if (workers->first == NULL)
			workers->last = NULL;
		(void)pthread_mutex_unlock(&workers->lock);
		job->run(job);
		(void)pthread_mutex_lock(&workers->lock);
	}
	(void)pthread_mutex_unlock(&workers->lock);
	return NULL;
}

static bool start_threads(struct kvfi_workers *workers, uint32_t n)
{
	sigset_t all, old;
	bool ok = true;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	while (ok && workers->n < n) {
		ok = pthread_create(&workers->threads[workers->n], NULL, work, workers) == 0;
		workers->n += ok;
	}
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ok;
}

enum kvf_status kvfi_workers_open(uint32_t n, const char *name, struct kvfi_workers **workers_out)
{
	struct kvfi_workers *workers = calloc(1, sizeof(*workers) + n * sizeof(pthread_t));

	if (workers == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for %u copy workers", n);
	(void)snprintf(workers->name, sizeof(workers->name), "copy %.9s", name);
	(void)pthread_mutex_init(&workers->lock, NULL);
	(void)pthread_cond_init(&workers->work, NULL);
	if (!start_threads(workers, n)) {
		kvfi_workers_close(workers);
		return kvfi_fail(KVF_ENOMEM, "workers: %u threads could not be started", n);
	}
	*workers_out = workers;
	return KVF_OK;
}

enum kvf_status kvfi_workers_open_with(
	void (*submit)(void *self, struct kvfi_job *job), void *self, struct kvfi_workers **workers_out)
{
	enum kvf_status status = kvfi_workers_open(0, "", workers_out);

	if (status != KVF_OK)
		return status;
	(*workers_out)->submit = submit;
	(*workers_out)->self = self;
	return KVF_OK;
}

void kvfi_workers_close(struct kvfi_workers *workers)
{
	if (workers == NULL)
		return;
	(void)pthread_mutex_lock(&workers->lock);
	workers->stop = true;
	(void)pthread_cond_broadcast(&workers->work);
	(void)pthread_mutex_unlock(&workers->lock);
	for (uint32_t i = 0; i < workers->n; i++)
		(void)pthread_join(workers->threads[i], NULL);
	(void)pthread_cond_destroy(&workers->work);
	(void)pthread_mutex_destroy(&workers->lock);
	free(workers);
}

void kvfi_workers_submit(struct kvfi_workers *workers, struct kvfi_job *job)
{
	if (workers->submit != NULL) {
		workers->submit(workers->self, job);
		return;
	}
	job->next = NULL;
	(void)pthread_mutex_lock(&workers->lock);
	if (workers->last != NULL)
		workers->last->next = job;
	else
		workers->first = job;
	workers->last = job;
	(void)pthread_cond_signal(&workers->work);
	(void)pthread_mutex_unlock(&workers->lock);
}
