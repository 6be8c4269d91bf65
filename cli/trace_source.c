/* trace_source.c - one face for traces from a file and from the generator, and the writer of the format. */
#include "cli/trace_source.h"

#include <inttypes.h>

enum trace_next trace_next(struct trace_source *source, struct trace_request *request_out, struct reason *why)
{
	return source->file ? trace_file_next(source->file, request_out, why)
	                    : trace_generator_next(source->generator, request_out, why);
}

bool trace_rewind(struct trace_source *source, struct reason *why)
{
	if (source->file)
		return trace_file_rewind(source->file, why);
	trace_generator_rewind(source->generator);
	return true;
}

void trace_close(struct trace_source *source)
{
	if (!source)
		return;
	trace_file_free(source->file);
	trace_generator_free(source->generator);
	free(source);
}

void trace_write(FILE *out, const struct trace_request *request)
{
	fprintf(out,
		"{\"timestamp\": %" PRIu64 ", \"input_length\": %" PRIu64 ", \"output_length\": %" PRIu64
		", \"hash_ids\": [",
		request->timestamp_ms, request->input_length, request->output_length);
	for (uint32_t i = 0; i < request->n_hashes; i++)
		fprintf(out, "%s%" PRIu64, i ? ", " : "", request->hash_ids[i]);
	fputs("]}\n", out);
}
