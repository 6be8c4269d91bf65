/* json_read.c - the strict JSON reader.
 *
 * One pass, recursive to JSON_READ_MAX_DEPTH, over a text of at most JSON_READ_MAX_BYTES. Every byte is looked at once; no byte
 * behind text + len is. The nodes belong to the document and are reused for the next text. One thread.
 */
#include "cli/json_read.h"

#include <stdlib.h>
#include <string.h>

struct reader {
	struct json_doc *doc;
	const char *text;
	uint32_t at, len;
	struct reason *why;
};

static bool fail_at(const struct reader *reader, uint32_t at, const char *what)
{
	uint32_t line = 1, column = 1;

	for (uint32_t i = 0; i < at && i < reader->len; i++) {
		column++;
		if (reader->text[i] == '\n') {
			line++;
			column = 1;
		}
	}
	/* A text without a newline is a line of something larger, which knows its number. */
	if (!memchr(reader->text, '\n', reader->len))
		return reason_set(reader->why, "column %u: %s", column, what);
	return reason_set(reader->why, "line %u, column %u: %s", line, column, what);
}

static bool fail(const struct reader *reader, const char *what)
{
	return fail_at(reader, reader->at, reader->at >= reader->len ? "the text ends too early" : what);
}

/* The byte at the cursor; '\0', which is valid nowhere, at the end. */
static char peek(const struct reader *reader)
{
	return reader->at < reader->len ? reader->text[reader->at] : '\0';
}

static void skip_space(struct reader *reader)
{
	while (reader->at < reader->len && memchr(" \t\r\n", reader->text[reader->at], 4))
		reader->at++;
}

static bool push(struct reader *reader, enum json_type type, uint32_t *index_out)
{
	struct json_doc *doc = reader->doc;

	if (doc->n_nodes == doc->capacity) {
		uint32_t capacity = doc->capacity ? doc->capacity * 2 : 64;
		struct json_node *nodes;

		if (capacity > JSON_READ_MAX_NODES)
			return fail_at(reader, reader->at, "too many values");
		nodes = realloc(doc->nodes, capacity * sizeof *nodes);
		if (!nodes)
			return fail_at(reader, reader->at, "out of memory");
		doc->nodes = nodes;
		doc->capacity = capacity;
	}
	*index_out = doc->n_nodes++;
	doc->nodes[*index_out] = (struct json_node){.type = type, .start = reader->at};
	return true;
}

static void finish(struct reader *reader, uint32_t index)
{
	reader->doc->nodes[index].end = reader->at;
	reader->doc->nodes[index].next = reader->doc->n_nodes;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
	                              : -1;
}

/* Four hex digits at `at`; negative if they are not. */
static int32_t hex4(const char *text, uint32_t at, uint32_t len)
{
	int32_t value = 0;

	if (at + 4 > len)
		return -1;
	for (uint32_t i = 0; i < 4; i++) {
		int digit = hex_digit(text[at + i]);

		if (digit < 0)
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

/* The escape whose backslash is at the cursor. */
static bool skip_escape(struct reader *reader)
{
	char kind = reader->at + 1 < reader->len ? reader->text[reader->at + 1] : '\0';
	int32_t code;

	if (kind && strchr("\"\\/bfnrt", kind)) {
		reader->at += 2;
		return true;
	}
	code = kind == 'u' ? hex4(reader->text, reader->at + 2, reader->len) : -1;
	if (code < 0)
		return fail(reader, "not an escape sequence");
	if (code >= 0xd800 && code < 0xe000) {
		bool pair = code < 0xdc00 && reader->at + 8 <= reader->len &&
		            reader->text[reader->at + 6] == '\\' && reader->text[reader->at + 7] == 'u';
		int32_t low = pair ? hex4(reader->text, reader->at + 8, reader->len) : -1;

		if (low < 0xdc00 || low > 0xdfff)
			return fail(reader, "half of a surrogate pair");
		reader->at += 6;
	}
	reader->at += 6;
	return true;
}

static bool skip_utf8(struct reader *reader)
{
	const unsigned char *text = (const unsigned char *)reader->text + reader->at;
	uint32_t left = reader->len - reader->at;
	uint32_t n = text[0] >= 0xf5   ? 0
	             : text[0] >= 0xf0 ? 4
	             : text[0] >= 0xe0 ? 3
	             : text[0] >= 0xc2 ? 2
	                               : 0;

	if (n == 0 || n > left)
		return fail(reader, "not valid UTF-8");
	for (uint32_t i = 1; i < n; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return fail(reader, "not valid UTF-8");
	}
	if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
		(text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f))
		return fail(reader, "not valid UTF-8");
	reader->at += n;
	return true;
}

static bool read_string(struct reader *reader)
{
	uint32_t index = 0;

	reader->at++;
	if (!push(reader, JSON_STRING, &index))
		return false;
	while (reader->at < reader->len && reader->text[reader->at] != '"') {
		unsigned char c = (unsigned char)reader->text[reader->at];

		if (c < 0x20)
			return fail(reader, "a control character inside a string");
		if (c == '\\' && !skip_escape(reader))
			return false;
		else if (c >= 0x80 && !skip_utf8(reader))
			return false;
		else if (c != '\\' && c < 0x80)
			reader->at++;
	}
	if (reader->at >= reader->len)
		return fail(reader, "");
	finish(reader, index);
	reader->at++;
	return true;
}

static bool skip_digits(struct reader *reader)
{
	uint32_t first = reader->at;

	while (peek(reader) >= '0' && peek(reader) <= '9')
		reader->at++;
	return reader->at > first || fail(reader, "a digit is missing");
}

static bool read_number(struct reader *reader)
{
	uint32_t index = 0;

	if (!push(reader, JSON_NUMBER, &index))
		return false;
	if (peek(reader) == '-')
		reader->at++;
	if (peek(reader) == '0')
		reader->at++;
	else if (!skip_digits(reader))
		return false;
	if (peek(reader) >= '0' && peek(reader) <= '9')
		return fail(reader, "a number with a leading zero");
	if (peek(reader) == '.') {
		reader->at++;
		if (!skip_digits(reader))
			return false;
	}
	if (peek(reader) == 'e' || peek(reader) == 'E') {
		reader->at++;
		if (peek(reader) == '+' || peek(reader) == '-')
			reader->at++;
		if (!skip_digits(reader))
			return false;
	}
	finish(reader, index);
	return true;
}

static bool read_word(struct reader *reader, const char *word, enum json_type type)
{
	uint32_t index = 0, len = (uint32_t)strlen(word);

	if (reader->len - reader->at < len || memcmp(reader->text + reader->at, word, len) != 0)
		return fail(reader, "not a JSON value");
	if (!push(reader, type, &index))
		return false;
	reader->at += len;
	finish(reader, index);
	return true;
}

static bool read_value(struct reader *reader, uint32_t depth);

static bool read_member(struct reader *reader, uint32_t depth)
{
	if (peek(reader) != '"')
		return fail(reader, "a member's name in quotes is missing");
	if (!read_string(reader))
		return false;
	skip_space(reader);
	if (peek(reader) != ':')
		return fail(reader, "':' is missing");
	reader->at++;
	skip_space(reader);
	return read_value(reader, depth);
}

/* An array or an object, from its opening to its closing bracket. */
static bool read_container(struct reader *reader, uint32_t depth, bool is_object)
{
	char closing = is_object ? '}' : ']';
	uint32_t index, n = 0;

	if (depth >= JSON_READ_MAX_DEPTH)
		return fail(reader, "nested too deeply");
	if (!push(reader, is_object ? JSON_OBJECT : JSON_ARRAY, &index))
		return false;
	reader->at++;
	skip_space(reader);
	while (n > 0 || peek(reader) != closing) {
		if (!(is_object ? read_member(reader, depth + 1) : read_value(reader, depth + 1)))
			return false;
		n++;
		skip_space(reader);
		if (peek(reader) == closing)
			break;
		if (peek(reader) != ',')
			return fail(reader, is_object ? "',' or '}' is missing" : "',' or ']' is missing");
		reader->at++;
		skip_space(reader);
	}
	reader->at++;
	reader->doc->nodes[index].n = n;
	finish(reader, index);
	return true;
}

static bool read_value(struct reader *reader, uint32_t depth)
{
	char c = peek(reader);

	if (c == '{' || c == '[')
		return read_container(reader, depth, c == '{');
	if (c == '"')
		return read_string(reader);
	if (c == '-' || (c >= '0' && c <= '9'))
		return read_number(reader);
	if (c == 't')
		return read_word(reader, "true", JSON_TRUE);
	if (c == 'f')
		return read_word(reader, "false", JSON_FALSE);
	if (c == 'n')
		return read_word(reader, "null", JSON_NULL);
	return fail(reader, "not a JSON value");
}

bool json_doc_read(struct json_doc *doc, const char *text, size_t len, struct reason *why)
{
	struct reader reader = {.doc = doc, .text = text, .why = why};

	if (len > JSON_READ_MAX_BYTES)
		return reason_set(why, "longer than %u bytes", JSON_READ_MAX_BYTES);
	reader.len = (uint32_t)len;
	doc->text = text;
	doc->len = len;
	doc->n_nodes = 0;
	skip_space(&reader);
	if (!read_value(&reader, 0))
		return false;
	skip_space(&reader);
	return reader.at == reader.len || fail(&reader, "something follows the value");
}

void json_doc_fini(struct json_doc *doc)
{
	free(doc->nodes);
	*doc = (struct json_doc){0};
}

const char *json_type_name(enum json_type type)
{
	static const char *const names[] = {
		"null", "false", "true", "a number", "a string", "an array", "an object"};

	return names[type];
}

static uint32_t put_utf8(uint32_t code, char *out)
{
	if (code < 0x80) {
		out[0] = (char)code;
		return 1;
	}
	if (code < 0x800) {
		out[0] = (char)(0xc0 | code >> 6);
		out[1] = (char)(0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000) {
		out[0] = (char)(0xe0 | code >> 12);
		out[1] = (char)(0x80 | (code >> 6 & 0x3f));
		out[2] = (char)(0x80 | (code & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | code >> 18);
	out[1] = (char)(0x80 | (code >> 12 & 0x3f));
	out[2] = (char)(0x80 | (code >> 6 & 0x3f));
	out[3] = (char)(0x80 | (code & 0x3f));
	return 4;
}

/* The escape at text[at], which the reader has found valid; *at moves behind it. Returns the code point. */
static uint32_t unescape(const char *text, uint32_t *at, uint32_t end)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	uint32_t code;

	if (text[*at + 1] != 'u') {
		code = (uint32_t)to[strchr(from, text[*at + 1]) - from];
		*at += 2;
		return code;
	}
	code = (uint32_t)hex4(text, *at + 2, end);
	*at += 6;
	if (code >= 0xd800 && code < 0xdc00) {
		code = 0x10000 + ((code - 0xd800) << 10) + ((uint32_t)hex4(text, *at + 2, end) - 0xdc00);
		*at += 6;
	}
	return code;
}

bool json_doc_string(const struct json_doc *doc, uint32_t node, char *buffer, size_t size)
{
	const struct json_node *string;
	size_t used = 0;

	if (node >= doc->n_nodes || doc->nodes[node].type != JSON_STRING)
		return false;
	string = &doc->nodes[node];
	for (uint32_t at = string->start; at < string->end;) {
		char bytes[4];
		uint32_t n = 1;

		bytes[0] = doc->text[at];
		if (bytes[0] == '\\')
			n = put_utf8(unescape(doc->text, &at, string->end), bytes);
		else
			at++;
		if (used + n >= size)
			return false;
		memcpy(buffer + used, bytes, n);
		used += n;
	}
	buffer[used] = '\0';
	return true;
}

/* Calls for every member with this name; the last one is kept. */
static uint32_t scan_members(const struct json_doc *doc, uint32_t object, const char *key, uint32_t *count)
{
	uint32_t found = JSON_NONE, at = object + 1;
	char name[128];

	*count = 0;
	if (object >= doc->n_nodes || doc->nodes[object].type != JSON_OBJECT)
		return JSON_NONE;
	for (uint32_t i = 0; i < doc->nodes[object].n; i++) {
		if (json_doc_string(doc, at, name, sizeof name) && !strcmp(name, key)) {
			found = at + 1;
			(*count)++;
		}
		at = doc->nodes[at + 1].next;
	}
	return found;
}

uint32_t json_doc_member(const struct json_doc *doc, uint32_t object, const char *key)
{
	uint32_t count;

	return scan_members(doc, object, key, &count);
}

uint32_t json_doc_count(const struct json_doc *doc, uint32_t object, const char *key)
{
	uint32_t count;

	(void)scan_members(doc, object, key, &count);
	return count;
}

bool json_doc_u64(const struct json_doc *doc, uint32_t node, uint64_t *out)
{
	const struct json_node *number;
	uint64_t value = 0;

	if (node >= doc->n_nodes || doc->nodes[node].type != JSON_NUMBER)
		return false;
	number = &doc->nodes[node];
	for (uint32_t at = number->start; at < number->end; at++) {
		char c = doc->text[at];

		if (c < '0' || c > '9' || __builtin_mul_overflow(value, UINT64_C(10), &value) ||
			__builtin_add_overflow(value, (uint64_t)(c - '0'), &value))
			return false;
	}
	*out = value;
	return true;
}
