/* json_read.h - a strict, bounded JSON reader for small documents: configuration files and lines of a trace.
 *
 * RFC 8259 and nothing else: no comments, no trailing commas, no leading zeros, valid UTF-8, exactly one
 * value. The document becomes a flat array of nodes in document order; children follow their parent, an
 * object's children are key, value, key, value. Limits on length, depth and nodes are checked before anything
 * is stored.
 */
#ifndef KVFERRY_CLI_JSON_READ_H
#define KVFERRY_CLI_JSON_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "cli/reason.h"

#define JSON_READ_MAX_BYTES (16u << 20)
#define JSON_READ_MAX_DEPTH 32u
#define JSON_READ_MAX_NODES (4u << 20)

enum json_type {
	JSON_NULL,
	JSON_FALSE,
	JSON_TRUE,
	JSON_NUMBER,
	JSON_STRING,
	JSON_ARRAY,
	JSON_OBJECT
};

struct json_node {
	enum json_type type;
	uint32_t start, end; /* bytes in the text; strings without their quotes */
	uint32_t n;          /* members or elements */
	uint32_t next;       /* index of the first node after this one and all it contains */
};

/* Owns its nodes, points into the caller's text. Zero-initialise; may be used for one text after another. */
struct json_doc {
	const char *text;
	size_t len;
	struct json_node *nodes;
	uint32_t n_nodes, capacity;
};

/* json_doc_read - false: why says what is wrong and where ("line 3, column 14: ..."; a text of one line: "column 14: ..."). Node 0 is the outermost
 * value. */
bool json_doc_read(struct json_doc *doc, const char *text, size_t len, struct reason *why);
void json_doc_fini(struct json_doc *doc);

#define JSON_NONE UINT32_MAX
/* Value of the member `key` of object `object`; JSON_NONE if there is none. A name that is there twice: the
 * last. */
uint32_t json_doc_member(const struct json_doc *doc, uint32_t object, const char *key);
/* How often the name is there. */
uint32_t json_doc_count(const struct json_doc *doc, uint32_t object, const char *key);
const char *json_type_name(enum json_type type); /* "a number" */
/* False if the node is not a whole, non-negative number that fits. */
bool json_doc_u64(const struct json_doc *doc, uint32_t node, uint64_t *out);
/* Unescaped copy; false if not a string or longer than size - 1 bytes. */
bool json_doc_string(const struct json_doc *doc, uint32_t node, char *buffer, size_t size);

#endif
