/* status.c - names, texts and scopes of statuses, and the sentence of the last failure.
 *
 * The tables come from status.def alone. The sentence is kept per thread: a call that fails stores it, a call that
 * succeeds leaves it as it was. Safe from any thread.
 */
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"

/* Macros for the static analyser. */
#undef kvfi_fail
#undef kvfi_fail_errno
#undef kvfi_fail_prefix

static _Thread_local char last_error[512];

const char *kvf_status_name(enum kvf_status status)
{
	switch (status) {
#define KVF_STATUS(name, number, scope, text)                                                                \
	case KVF_##name:                                                                                     \
		return #name;
#include "kvferry/status.def"
#undef KVF_STATUS
	}
	return "UNKNOWN";
}

const char *kvf_status_text(enum kvf_status status)
{
	switch (status) {
#define KVF_STATUS(name, number, scope, text)                                                                \
	case KVF_##name:                                                                                     \
		return text;
#include "kvferry/status.def"
#undef KVF_STATUS
	}
	return "unknown status";
}

enum kvf_scope kvf_status_scope(enum kvf_status status)
{
	switch (status) {
#define KVF_STATUS(name, number, scope, text)                                                                \
	case KVF_##name:                                                                                     \
		return KVF_SCOPE_##scope;
#include "kvferry/status.def"
#undef KVF_STATUS
	}
	return KVF_SCOPE_OP;
}

const char *kvf_error(void)
{
	return last_error;
}

static void say(const char *format, va_list args) __attribute__((format(printf, 1, 0)));

static void say(const char *format, va_list args)
{
	(void)vsnprintf(last_error, sizeof(last_error), format, args);
}

enum kvf_status kvf_fail(enum kvf_status status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
	return status;
}

enum kvf_status kvfi_fail(enum kvf_status status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
	return status;
}

enum kvf_status kvfi_fail_errno(enum kvf_status status, int saved_errno, const char *format, ...)
{
	char text[128];
	size_t used;
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
	used = strlen(last_error);
	(void)snprintf(last_error + used, sizeof(last_error) - used, ": %s",
		strerror_r(saved_errno, text, sizeof(text)));
	return status;
}

enum kvf_status kvfi_fail_prefix(enum kvf_status status, const char *format, ...)
{
	char sentence[sizeof(last_error)];
	size_t used;
	va_list args;

	memcpy(sentence, last_error, sizeof(sentence));
	va_start(args, format);
	say(format, args);
	va_end(args);
	used = strlen(last_error);
	(void)snprintf(last_error + used, sizeof(last_error) - used, ": %.*s",
		(int)(sizeof(last_error) - used - 3), sentence);
	return status;
}

void kvfi_assert_failed(const char *expression, const char *file, int line)
{
	(void)fprintf(stderr, "kvferry: invariant does not hold: %s (%s:%d)\n", expression, file, line);
	abort();
}
