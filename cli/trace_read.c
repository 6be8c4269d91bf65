/* trace_read.c - the strict reader of Mooncake-format traces, one line at a time.
 *
 * Holds one line (at most JSON_READ_MAX_BYTES), its nodes and its hash ids; memory does not grow with the file. What is refused is
 * listed in trace.h; every refusal names file, line and field. One thread per source.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json_read.h"
#include "cli/trace_source.h"

struct trace_file {
	char *path;
	FILE *stream;
	char *line;
	size_t line_capacity;
	uint64_t line_number;
	uint64_t last_timestamp_ms;
	struct json_doc doc;
	uint64_t *hash_ids;
	uint32_t hash_capacity;
};

bool trace_open_file(const char *path, struct trace_source **source_out, struct reason *why)
{
	struct trace_source *source = calloc(1, sizeof *source);
	struct trace_file *file = calloc(1, sizeof *file);

	if (!source || !file)
		goto memory;
	file->path = strdup(strcmp(path, "-") ? path : "standard input");
	if (!file->path)
		goto memory;
	file->stream = strcmp(path, "-") ? fopen(path, "re") : stdin;
	if (!file->stream) {
		reason_set(why, "%s: cannot open it: %s", path, strerror(errno));
		goto out;
	}
	source->file = file;
	*source_out = source;
	return true;
memory:
	reason_set(why, "out of memory");
out:
	trace_file_free(file);
	free(source);
	return false;
}

void trace_file_free(struct trace_file *file)
{
	if (!file)
		return;
	if (file->stream && file->stream != stdin)
		fclose(file->stream);
	json_doc_fini(&file->doc);
	free(file->hash_ids);
	free(file->line);
	free(file->path);
	free(file);
}

bool trace_file_rewind(struct trace_file *file, struct reason *why)
{
	if (fseek(file->stream, 0, SEEK_SET) != 0)
		return reason_set(why, "%s: cannot be read twice: %s", file->path, strerror(errno));
	file->line_number = 0;
	file->last_timestamp_ms = 0;
	return true;
}

/* The member's value, present exactly once. */
static bool get_member(
	const struct trace_file *file, const char *field, uint32_t *node_out, struct reason *why)
{
	uint32_t count = json_doc_count(&file->doc, 0, field);

	if (count != 1)
		return reason_set(why, "field '%s' is %s", field, count ? "there twice" : "missing");
	*node_out = json_doc_member(&file->doc, 0, field);
	return true;
}

static bool get_number(
	const struct trace_file *file, const char *field, uint64_t max, uint64_t *out, struct reason *why)
{
	const struct json_node *value;
	uint32_t node = 0;

	if (!get_member(file, field, &node, why))
		return false;
	value = &file->doc.nodes[node];
	if (value->type != JSON_NUMBER)
		return reason_set(why, "field '%s' is %s, not a number", field, json_type_name(value->type));
	if (!json_doc_u64(&file->doc, node, out) || *out > max)
		return reason_set(why, "field '%s' is %.*s; allowed: whole numbers from 0 to %" PRIu64, field,
			(int)(value->end - value->start < 40 ? value->end - value->start : 40),
			file->doc.text + value->start, max);
	return true;
}

static bool reserve_hashes(struct trace_file *file, uint32_t n, struct reason *why)
{
	uint64_t *ids;

	if (n <= file->hash_capacity)
		return true;
	ids = realloc(file->hash_ids, n * sizeof *ids);
	if (!ids)
		return reason_set(why, "out of memory");
	file->hash_ids = ids;
	file->hash_capacity = n;
	return true;
}

static bool get_hashes(struct trace_file *file, struct trace_request *request, struct reason *why)
{
	uint64_t expected = (request->input_length + TRACE_HASH_TOKENS - 1) / TRACE_HASH_TOKENS;
	const struct json_node *list;
	uint32_t node = 0;

	if (!get_member(file, "hash_ids", &node, why))
		return false;
	list = &file->doc.nodes[node];
	if (list->type != JSON_ARRAY)
		return reason_set(why, "field 'hash_ids' is %s, not an array", json_type_name(list->type));
	if (list->n != 0 && list->n != expected)
		return reason_set(why,
			"field 'hash_ids' has %u entries, but input_length %" PRIu64 " has %" PRIu64
			" blocks of %u tokens",
			list->n, request->input_length, expected, TRACE_HASH_TOKENS);
	if (!reserve_hashes(file, list->n, why))
		return false;
	for (uint32_t i = 0; i < list->n; i++) {
		node++;
		if (!json_doc_u64(&file->doc, node, &file->hash_ids[i]))
			return reason_set(
				why, "field 'hash_ids': entry %u is no whole number from 0 to 2^64 - 1", i);
	}
	request->n_hashes = list->n;
	request->hash_ids = file->hash_ids;
	return true;
}

static bool parse_line(struct trace_file *file, size_t len, struct trace_request *request, struct reason *why)
{
	if (!json_doc_read(&file->doc, file->line, len, why))
		return false;
	if (file->doc.nodes[0].type != JSON_OBJECT)
		return reason_set(why, "it holds %s, not an object", json_type_name(file->doc.nodes[0].type));
	if (!get_number(file, "timestamp", UINT64_C(1) << 53, &request->timestamp_ms, why) ||
		!get_number(file, "input_length", TRACE_MAX_TOKENS, &request->input_length, why) ||
		!get_number(file, "output_length", TRACE_MAX_TOKENS, &request->output_length, why))
		return false;
	if (request->input_length == 0)
		return reason_set(why, "field 'input_length' is 0; allowed: 1 and more");
	if (request->timestamp_ms < file->last_timestamp_ms)
		return reason_set(why,
			"field 'timestamp' is %" PRIu64 ", before the %" PRIu64 " of the line above",
			request->timestamp_ms, file->last_timestamp_ms);
	return get_hashes(file, request, why);
}

/* Reads up to the newline, bounded (getline is not). False at the end of the file or on an error; *error_out tells which. */
static bool read_line(struct trace_file *file, size_t *len_out, const char **error_out)
{
	size_t len = 0;
	int c;

	*error_out = NULL;
	flockfile(file->stream);
	while ((c = getc_unlocked(file->stream)) != EOF && c != '\n') {
		if (len == JSON_READ_MAX_BYTES) {
			*error_out = "the line is too long";
			break;
		}
		if (len == file->line_capacity) {
			size_t capacity = file->line_capacity ? file->line_capacity * 2 : 4096;
			char *line = realloc(file->line, capacity);

			if (!line) {
				*error_out = "out of memory";
				break;
			}
			file->line = line;
			file->line_capacity = capacity;
		}
		file->line[len++] = (char)c;
	}
	funlockfile(file->stream);
	if (!*error_out && ferror(file->stream))
		*error_out = strerror(errno);
	*len_out = len;
	return !*error_out && (c == '\n' || len > 0);
}

enum trace_next trace_file_next(
	struct trace_file *file, struct trace_request *request_out, struct reason *why)
{
	struct trace_request request = {0};
	const char *error;
	size_t len;

	file->line_number++;
	if (!read_line(file, &len, &error)) {
		if (!error)
			return TRACE_END;
		reason_set(why, "%s: line %" PRIu64 ": %s", file->path, file->line_number, error);
		return TRACE_WRONG;
	}
	if (len == 0)
		reason_set(why, "it is empty");
	if (len == 0 || !parse_line(file, len, &request, why)) {
		reason_prefix(why, "%s: line %" PRIu64, file->path, file->line_number);
		return TRACE_WRONG;
	}
	file->last_timestamp_ms = request.timestamp_ms;
	*request_out = request;
	return TRACE_REQUEST;
}
