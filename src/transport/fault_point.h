/* fault_point.h - a place where a test can stop or kill this process: inside a lease, with half a run written.
 *
 * For tests alone. KVFERRY_FAULT_POINT=FD:OFFSET names a page of shared memory that the process inherited; its first 32 bits are a word of
 * enum kvfi_fault. Whoever started the process arms it; the worker that comes by first says FIRED and does it. Without the variable, and in
 * a program that runs with more rights than its user, there is none.
 */
#ifndef KVFI_TRANSPORT_FAULT_POINT_H
#define KVFI_TRANSPORT_FAULT_POINT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kvfi_fault {
	KVFI_FAULT_NONE = 0,
	KVFI_FAULT_STOP = 1, /* SIGSTOP */
	KVFI_FAULT_KILL = 2, /* SIGKILL */
	KVFI_FAULT_FIRED = 3
};

extern _Atomic uint32_t *kvfi_fault_word; /* NULL: none */

/* Looks at the environment, once per process. Any thread. */
void kvfi_fault_point_init(void);
/* Does what the word says, once. */
void kvfi_fault_fire(void);

static inline bool kvfi_fault_armed(void)
{
	if (kvfi_fault_word == NULL)
		return false;
	uint32_t word = atomic_load_explicit(kvfi_fault_word, memory_order_relaxed);
	return word == KVFI_FAULT_STOP || word == KVFI_FAULT_KILL;
}

#endif
