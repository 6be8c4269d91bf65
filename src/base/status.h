/* status.h - failing with a sentence. */
#ifndef KVFI_BASE_STATUS_H
#define KVFI_BASE_STATUS_H

#include <stdarg.h>
#include <stddef.h>
#include "kvferry/kvferry.h"

/* Stores the sentence for kvf_error() of this thread (cut to 511 bytes) and returns status. */
enum kvf_status kvfi_fail(enum kvf_status status, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* As kvfi_fail, with strerror(saved_errno) appended. */
enum kvf_status kvfi_fail_errno(enum kvf_status status, int saved_errno, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Put "prefix: " in front of the stored sentence; returns status. */
enum kvf_status kvfi_fail_prefix(enum kvf_status status, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* The static analyser cannot look into another file: tell it which status comes back. */
#ifdef __clang_analyzer__
#define kvfi_fail(status, ...)        ((void)(kvfi_fail)(status, __VA_ARGS__), (status))
#define kvfi_fail_errno(status, ...)  ((void)(kvfi_fail_errno)(status, __VA_ARGS__), (status))
#define kvfi_fail_prefix(status, ...) ((void)(kvfi_fail_prefix)(status, __VA_ARGS__), (status))
#endif

#endif
