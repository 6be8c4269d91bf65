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

/* How many of n drawn cases are enough there: what a sanitizer finds lies in the code that they run, and all of it runs with an eighth; the
 * search for rare cases is that of the plain build. */
#define CASES(n) (SANITIZED ? (n) / 8 : (n))

#endif
