/* json.h - a small JSON writer onto a stream: commas, escapes and nesting done right; one line, newline at
 * the end of the outermost value.
 *
 * key is the member's name inside an object and NULL inside an array (and for the outermost value).
 * Bytes of strings that are not UTF-8 are written as U+FFFD. NaN and infinities are written as null.
 */
#ifndef KVFERRY_CLI_JSON_H
#define KVFERRY_CLI_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define JSON_MAX_DEPTH 32u

/* Plain memory; no clean-up. */
struct json {
	FILE *out;
	uint32_t depth;
	uint32_t not_first; /* bit per depth */
	uint32_t is_array;  /* bit per depth */
};

void json_init(struct json *json, FILE *out);
void json_object(struct json *json, const char *key); /* close with json_end */
void json_array(struct json *json, const char *key);  /* close with json_end */
void json_end(struct json *json);
void json_u64(struct json *json, const char *key, uint64_t value);
void json_i64(struct json *json, const char *key, int64_t value);
void json_double(
	struct json *json, const char *key, double value); /* shortest form that reads back the same */
void json_fixed(struct json *json, const char *key, double value, uint32_t decimals);
void json_bool(struct json *json, const char *key, bool value);
void json_string(struct json *json, const char *key, const char *value);
void json_null(struct json *json, const char *key);

#endif
