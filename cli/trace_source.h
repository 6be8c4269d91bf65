/* trace_source.h - what the file reader and the generator share. */
#ifndef KVFERRY_CLI_TRACE_SOURCE_H
#define KVFERRY_CLI_TRACE_SOURCE_H

#include <stdlib.h>

#include "cli/trace.h"

struct trace_file;
struct trace_generator;

/* Exactly one of the two is set. */
struct trace_source {
	struct trace_file *file;
	struct trace_generator *generator;
};

enum trace_next trace_file_next(
	struct trace_file *file, struct trace_request *request_out, struct reason *why);
bool trace_file_rewind(struct trace_file *file, struct reason *why);
void trace_file_free(struct trace_file *file);

enum trace_next trace_generator_next(
	struct trace_generator *generator, struct trace_request *request_out, struct reason *why);
void trace_generator_rewind(struct trace_generator *generator);
void trace_generator_free(struct trace_generator *generator);

#endif
