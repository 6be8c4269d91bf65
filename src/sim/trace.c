/* trace.c - what happened: a line for a person who asked for it, and a hash of all lines for everybody. */
#include "sim/sim.h"

#include <stdarg.h>
#include <string.h>
#include "base/hash.h"

#define LINE_BYTES 320

void sim_trace(struct sim_world *world, uint32_t node, const char *format, ...)
{
	char line[LINE_BYTES];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (n < 0)
		return;
	n = n < LINE_BYTES ? n : LINE_BYTES - 1;
	world->hash = kvfi_hash_bytes(kvfi_hash_u64(world->hash, world->now_ns ^ node), line, (size_t)n);
	if (world->trace != NULL)
		(void)fprintf(world->trace, "%12.6f  %-3s %s\n", (double)(world->now_ns - SIM_START_NS) / 1e6,
			node == SIM_NONE ? "" : world->nodes[node].name, line);
}

void sim_fail(struct sim_world *world, const char *format, ...)
{
	char text[900];
	va_list args;

	if (world->failed)
		return;
	va_start(args, format);
	(void)vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	world->failed = true;
	(void)snprintf(world->failure, sizeof(world->failure), "at %.6f ms: %s",
		(double)(world->now_ns - SIM_START_NS) / 1e6, text);
	sim_trace(world, world->current != NULL ? world->current->index : SIM_NONE, "FAILURE: %s", text);
	if (world->trace != NULL)
		(void)fflush(world->trace);
}
