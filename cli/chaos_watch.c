/* chaos_watch.c - reads /proc.
 *
 * Guarantees: no allocation, no descriptor kept. One thread: the coordinator's.
 */
#include "cli/chaos_watch.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

static int64_t count_descriptors(pid_t pid)
{
	char path[64];
	int64_t n = 0;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *directory = opendir(path);
	if (!directory)
		return -1;
	while (readdir(directory))
		n++;
	closedir(directory);
	return n - 2; /* "." and ".." */
}

/* Shared mappings: own pools, and those of peers. */
static int64_t shared_bytes(pid_t pid)
{
	char path[64], line[512];
	int64_t bytes = 0;
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		unsigned long long start, end;
		if (strstr(line, "/memfd:") && sscanf(line, "%llx-%llx ", &start, &end) == 2)
			bytes += (int64_t)(end - start);
	}
	fclose(file);
	return bytes;
}

bool chaos_watch_process(pid_t pid, struct chaos_footprint *out)
{
	char path[64], line[256];
	long long kib;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return false;
	*out = (struct chaos_footprint){
		.descriptors = count_descriptors(pid), .mapped_bytes = shared_bytes(pid)};
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "RssAnon: %lld kB", &kib) == 1)
			out->private_bytes = kib * 1024;
	}
	fclose(file);
	return out->descriptors >= 0 && out->mapped_bytes >= 0;
}

uint32_t chaos_watch_runnable(void)
{
	unsigned running = 0;
	FILE *file = fopen("/proc/loadavg", "re");
	if (!file)
		return 0;
	if (fscanf(file, "%*f %*f %*f %u/", &running) != 1)
		running = 0;
	fclose(file);
	return running;
}
