/* alloc.c - see alloc.h. Any thread.
 *
 * Counting is off until it is asked for, so that the counter is no shared cache line of a running agent.
 */
#include "base/alloc.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
char *__wrap_strdup(const char *text);

static _Atomic bool counting;
static _Atomic uint64_t count, fail_at;

void kvfi_alloc_fail_at(uint64_t n)
{
	atomic_store(&fail_at, n);
	atomic_store(&count, 0);
	atomic_store(&counting, n > 0);
}

uint64_t kvfi_alloc_count(void)
{
	return atomic_load(&count);
}

void *kvfi_alloc_always(void *memory, size_t bytes)
{
	return __real_realloc(memory, bytes);
}

static bool fails(void)
{
	if (!atomic_load_explicit(&counting, memory_order_relaxed))
		return false;
	if (atomic_fetch_add(&count, 1) + 1 != atomic_load(&fail_at))
		return false;
	errno = ENOMEM;
	return true;
}

void *__wrap_malloc(size_t bytes)
{
	return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
	return fails() ? NULL : __real_calloc(n, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
	return fails() ? NULL : __real_realloc(memory, bytes);
}

char *__wrap_strdup(const char *text)
{
	return fails() ? NULL : __real_strdup(text);
}
