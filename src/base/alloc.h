/* alloc.h - the n-th allocation of the library can be made to fail.
 *
 * The library is linked with --wrap for malloc, calloc, realloc and strdup (src/meson.build), so that no allocation can forget the seam; the
 * wrappers are in alloc.c. Programs that link the library's archive count their own allocations too.
 */
#ifndef KVFI_BASE_ALLOC_H
#define KVFI_BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

/* kvfi_alloc_fail_at - of the allocations from now on, of all threads, the n-th fails (1: the next one), and no other; 0: none. */
void kvfi_alloc_fail_at(uint64_t n);
/* How many there were since. */
uint64_t kvfi_alloc_count(void);
/* realloc() that is never made to fail and not counted: for who arranges the failures. NULL when there is no memory. */
void *kvfi_alloc_always(void *memory, size_t bytes);

#endif
