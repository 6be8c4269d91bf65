/* json.c - the JSON writer. Values go straight to the stream; the stream's error flag tells of a full disk. One thread per writer. */
#include "cli/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void json_init(struct json *json, FILE *out)
{
	*json = (struct json){.out = out};
}

/* Length of the valid UTF-8 sequence at text, 0 if there is none (overlong forms and surrogates count as none). */
static uint32_t utf8_length(const unsigned char *text)
{
	uint32_t n = text[0] < 0x80 ? 1 : text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : text[0] >= 0xc2 ? 2 : 0;

	if (text[0] > 0xf4)
		return 0;
	for (uint32_t i = 1; i < n; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	}
	if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
		(text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f))
		return 0;
	return n;
}

static void write_string(FILE *out, const char *value)
{
	static const char escapes[] = "\"\"\\\\\nn\tt\rr\bb\ff";
	const unsigned char *at = (const unsigned char *)value;

	fputc('"', out);
	while (*at) {
		const char *escape = NULL;
		uint32_t n = utf8_length(at);

		for (size_t i = 0; i + 1 < sizeof escapes && !escape; i += 2)
			escape = (unsigned char)escapes[i] == *at ? &escapes[i + 1] : NULL;
		if (escape)
			fprintf(out, "\\%c", *escape);
		else if (n == 0)
			fputs("\xef\xbf\xbd", out);
		else if (*at < 0x20 || *at == 0x7f)
			fprintf(out, "\\u%04x", *at);
		else
			fwrite(at, 1, n, out);
		at += n ? n : 1;
	}
	fputc('"', out);
}

static void before_value(struct json *json, const char *key)
{
	uint32_t bit = 1u << json->depth;

	if (json->depth && (json->not_first & bit))
		fputs(", ", json->out);
	json->not_first |= bit;
	if (json->depth && !(json->is_array & bit)) {
		write_string(json->out, key);
		fputs(": ", json->out);
	}
}

static void after_value(const struct json *json)
{
	if (json->depth == 0)
		fputc('\n', json->out);
}

static void open_level(struct json *json, const char *key, bool is_array)
{
	before_value(json, key);
	if (json->depth + 1 >= JSON_MAX_DEPTH)
		abort(); /* a fixed shape of ours, never data, decides the depth */
	json->depth++;
	json->not_first &= ~(1u << json->depth);
	json->is_array &= ~(1u << json->depth);
	json->is_array |= (uint32_t)is_array << json->depth;
	fputc(is_array ? '[' : '{', json->out);
}

void json_object(struct json *json, const char *key)
{
	open_level(json, key, false);
}

void json_array(struct json *json, const char *key)
{
	open_level(json, key, true);
}

void json_end(struct json *json)
{
	fputc(json->is_array & (1u << json->depth) ? ']' : '}', json->out);
	json->depth--;
	after_value(json);
}

void json_u64(struct json *json, const char *key, uint64_t value)
{
	before_value(json, key);
	fprintf(json->out, "%" PRIu64, value);
	after_value(json);
}

void json_i64(struct json *json, const char *key, int64_t value)
{
	before_value(json, key);
	fprintf(json->out, "%" PRId64, value);
	after_value(json);
}

/* Whatever a locale takes for its decimal point becomes '.'. */
static void write_number(struct json *json, const char *key, char *text)
{
	for (char *at = text; *at; at++) {
		if (!strchr("0123456789+-eE.", *at))
			*at = '.';
	}
	before_value(json, key);
	fputs(text, json->out);
	after_value(json);
}

void json_double(struct json *json, const char *key, double value)
{
	char text[40];

	if (!isfinite(value)) {
		json_null(json, key);
		return;
	}
	for (int digits = 15; digits <= 17; digits++) {
		(void)snprintf(text, sizeof text, "%.*g", digits, value);
		if (strtod(text, NULL) == value)
			break;
	}
	write_number(json, key, text);
}

void json_fixed(struct json *json, const char *key, double value, uint32_t decimals)
{
	char text[352]; /* the longest double has 309 digits before the point */

	if (!isfinite(value)) {
		json_null(json, key);
		return;
	}
	(void)snprintf(text, sizeof text, "%.*f", (int)(decimals > 17 ? 17 : decimals), value);
	write_number(json, key, text);
}

void json_bool(struct json *json, const char *key, bool value)
{
	before_value(json, key);
	fputs(value ? "true" : "false", json->out);
	after_value(json);
}

void json_string(struct json *json, const char *key, const char *value)
{
	before_value(json, key);
	write_string(json->out, value);
	after_value(json);
}

void json_null(struct json *json, const char *key)
{
	before_value(json, key);
	fputs("null", json->out);
	after_value(json);
}
