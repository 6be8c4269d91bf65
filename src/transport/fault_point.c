/* fault_point.c - see fault_point.h.
 *
 * Guarantees: nothing happens unless the environment names a page that can be mapped. The mapping lives as long as the process. Written once, before
 * the first copy worker of the process runs; any thread.
 */
#include "transport/fault_point.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE_BYTES 4096u

_Atomic uint32_t *kvfi_fault_word;

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void look(void)
{
	const char *where = secure_getenv("KVFERRY_FAULT_POINT");
	char *end;
	long fd;
	unsigned long long offset;
	void *page;

	if (where == NULL)
		return;
	fd = strtol(where, &end, 10);
	if (end == where || *end != ':' || fd < 0 || fd > INT32_MAX)
		return;
	offset = strtoull(end + 1, NULL, 10);
	page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, (off_t)offset);
	if (page != MAP_FAILED)
		kvfi_fault_word = page;
}

void kvfi_fault_point_init(void)
{
	(void)pthread_once(&once, look);
}

void kvfi_fault_fire(void)
{
	uint32_t word = atomic_load(kvfi_fault_word);

	if ((word != KVFI_FAULT_STOP && word != KVFI_FAULT_KILL) ||
		!atomic_compare_exchange_strong(kvfi_fault_word, &word, KVFI_FAULT_FIRED))
		return;
	(void)raise(word == KVFI_FAULT_STOP ? SIGSTOP : SIGKILL);
}
