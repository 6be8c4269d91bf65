/* reason.h - why something was refused: one sentence that names the option or field, the value, and what is
 * allowed.
 *
 * Functions that can refuse return bool and take a struct reason last; it is written only when they return
 * false.
 */
#ifndef KVFERRY_CLI_REASON_H
#define KVFERRY_CLI_REASON_H

#include <stdbool.h>
#include <stddef.h>

struct reason {
	char text[768];
};

/* Writes the sentence and returns false, so that `return reason_set(why, ...)` refuses. */
bool reason_set(struct reason *why, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts "prefix: " before what is there; returns false. */
bool reason_prefix(struct reason *why, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The static analyser cannot look into another file: tell it what comes back. */
#ifdef __clang_analyzer__
#define reason_set(...)    ((void)(reason_set)(__VA_ARGS__), false)
#define reason_prefix(...) ((void)(reason_prefix)(__VA_ARGS__), false)
#endif

/* reason_nearest - the candidate that a mistyped word most likely meant; NULL when none is near. candidates:
 * n strings. */
const char *reason_nearest(const char *word, const char *const *candidates, size_t n);

#endif
