/* random.h - numbers that nobody can guess: incarnations, links, nonces. The one place that asks the kernel for them. */
#ifndef KVFI_BASE_RANDOM_H
#define KVFI_BASE_RANDOM_H

#include <stdbool.h>
#include <stddef.h>

/* Never waits for entropy to gather once the system is up. False: nothing was drawn; errno says why. */
bool kvfi_random(void *buffer, size_t len_bytes);

/* What kvfi_random draws from instead, for a process that must repeat itself. NULL: the kernel. As kvfi_clock_set. */
struct kvfi_random_source {
	void *self;
	void (*draw)(void *self, void *buffer, size_t len_bytes);
};
void kvfi_random_set(const struct kvfi_random_source *source);

#endif
