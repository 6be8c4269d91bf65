/* trace.h - requests: read from a Mooncake-format JSONL file, or drawn from a seeded generator. One at a
 * time, bounded memory.
 *
 * A line: {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}; other
 * members are skipped. hash_ids names the 512-token blocks of the prompt: exactly ceil(input_length / 512) of
 * them, or none when nothing of the prompt may be shared. Equal ids at the same place mean equal content.
 * Refused, with file, line and field: anything that is not one JSON object, a missing or repeated member, a
 * number that is negative, fractional or too large, an input_length of 0, a wrong number of hash_ids, a
 * timestamp before that of the line above, an empty line.
 */
#ifndef KVFERRY_CLI_TRACE_H
#define KVFERRY_CLI_TRACE_H

#include <stdint.h>
#include <stdio.h>
#include "cli/reason.h"

#define TRACE_HASH_TOKENS 512u
#define TRACE_MAX_TOKENS  (UINT64_C(1) << 30) /* of one request, and of its answer */

struct trace_request {
	uint64_t timestamp_ms;
	uint64_t input_length;
	uint64_t output_length;
	uint32_t n_hashes;
	const uint64_t *hash_ids; /* belongs to the source; valid until its next call */
};

struct trace_generator_options {
	uint64_t seed;
	uint64_t max_tokens; /* of one prompt; lengths are drawn from the part of the distribution up to it. 0
				= 1,048,576 */
};

struct trace_source;

enum trace_next {
	TRACE_REQUEST,
	TRACE_END, /* files only; a generator never ends */
	TRACE_WRONG
};

/* path "-" is standard input. */
bool trace_open_file(const char *path, struct trace_source **source_out, struct reason *why);
/* The same options give the same requests. */
bool trace_open_generator(
	const struct trace_generator_options *options, struct trace_source **source_out, struct reason *why);
enum trace_next trace_next(
	struct trace_source *source, struct trace_request *request_out, struct reason *why);
/* trace_rewind - begin again. False for a pipe. */
bool trace_rewind(struct trace_source *source, struct reason *why);
void trace_close(struct trace_source *source);

/* One line of the format, newline included. */
void trace_write(FILE *out, const struct trace_request *request);

#endif
