/* sanitized.h - is this test built with AddressSanitizer or ThreadSanitizer?  They make it many times slower and keep freed memory for a while. */
#ifndef KVFT_SANITIZED_H
#define KVFT_SANITIZED_H

#if defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* How many of n drawn cases are tried there. A sanitizer looks at the code that runs, and of the lines of src/session and src/geometry that all cases
 * reach an eighth reaches nearly all: 4,286 of 4,296, counted with -Db_coverage; three of the others no other test of these layers reaches. The search
 * for rare cases is that of the plain build. */
#define CASES(n) (SANITIZED ? (n) / 8 : (n))

#endif
