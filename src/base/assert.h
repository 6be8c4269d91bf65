/* assert.h - memory-safety invariants; on in every build. */
#ifndef KVFI_BASE_ASSERT_H
#define KVFI_BASE_ASSERT_H

_Noreturn void kvfi_assert_failed(const char *expression, const char *file, int line);

#define KVFI_ASSERT(expression) ((expression) ? (void)0 : kvfi_assert_failed(#expression, __FILE__, __LINE__))

#endif
