/* driver.c - runs a fuzz target without a fuzzer: stored inputs, the target's own seeds, and mutations of both.
 *
 * usage: fuzz_NAME [--rounds N] [--seed S] [--write FOLDER] [FILE or FOLDER]...
 *
 * Deterministic: the same arguments run the same inputs. An input that ends the process is written to crash-input.bin in
 * the current folder first; give that file as the only argument with --rounds 0 to see it again. --write stores the seeds
 * as files, a corpus for libFuzzer to start from.
 */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/hash.h"

#define MAX_INPUTS      4096u
#define MAX_INPUT_BYTES (UINT32_C(1) << 18)
#define CRASH_FILE      "crash-input.bin"

struct input {
	uint8_t *bytes;
	size_t len;
};

static struct input inputs[MAX_INPUTS];
static uint32_t n_inputs;
static uint64_t random_state;
static struct input current; /* what runs now, for the crash file */

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void save_current(void)
{
	static const char text[] = "fuzz: the input is in " CRASH_FILE "\n";
	const int fd = open(CRASH_FILE, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);

	if (fd < 0 || write(fd, current.bytes, current.len) < 0 ||
		write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		return;
	close(fd);
}

static void on_signal(int number)
{
	save_current();
	(void)signal(number, SIG_DFL);
	(void)raise(number);
}

static _Noreturn void die(const char *what, const char *name)
{
	(void)fprintf(stderr, "fuzz: %s %s: %s\n", what, name, strerror(errno));
	exit(2);
}

static uint64_t next_random(uint64_t below)
{
	return kvfi_mix64(random_state++) % below;
}

/* From a heap block of exactly that size, so that a sanitizer sees a read beyond its end. */
static void run(const uint8_t *bytes, size_t len)
{
	current = (struct input){malloc(len == 0 ? 1 : len), len};
	if (current.bytes == NULL)
		die("copying", "an input");
	memcpy(current.bytes, bytes, len);
	(void)LLVMFuzzerTestOneInput(current.bytes, len);
	free(current.bytes);
	current = (struct input){NULL, 0};
}

static void add_input(const uint8_t *bytes, size_t len)
{
	struct input *input = &inputs[n_inputs];

	if (n_inputs == MAX_INPUTS || len > MAX_INPUT_BYTES) {
		(void)fprintf(stderr, "fuzz: an input is too much: at most %u of %u bytes\n", MAX_INPUTS,
			MAX_INPUT_BYTES);
		exit(2);
	}
	input->bytes = malloc(len == 0 ? 1 : len);
	if (input->bytes == NULL)
		die("storing", "an input");
	memcpy(input->bytes, bytes, len);
	input->len = len;
	n_inputs++;
}

static void add_file(const char *name)
{
	static uint8_t bytes[MAX_INPUT_BYTES + 1];
	FILE *file = fopen(name, "rbe");
	size_t len;

	if (file == NULL)
		die("opening", name);
	len = fread(bytes, 1, sizeof(bytes), file);
	(void)fclose(file);
	add_input(bytes, len);
}

static int compare_names(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void add_path(const char *path)
{
	struct dirent **entries;
	struct stat info;
	int n;

	if (stat(path, &info) != 0)
		die("looking at", path);
	if (!S_ISDIR(info.st_mode)) {
		add_file(path);
		return;
	}
	n = scandir(path, &entries, NULL, compare_names);
	if (n < 0)
		die("reading", path);
	for (int i = 0; i < n; i++) {
		char name[4096];

		(void)snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
		if (entries[i]->d_name[0] != '.')
			add_file(name);
		free(entries[i]);
	}
	free(entries);
}

static void add_seeds(const char *folder)
{
	static uint8_t bytes[MAX_INPUT_BYTES];
	size_t len;

	for (uint32_t n = 0; (len = fuzz_seed(n, bytes, sizeof(bytes))) > 0; n++) {
		char name[4096];
		FILE *file;

		add_input(bytes, len);
		if (folder == NULL)
			continue;
		(void)snprintf(name, sizeof(name), "%s/seed-%u", folder, n);
		file = fopen(name, "wbe");
		if (file == NULL || fwrite(bytes, 1, len, file) != len || fclose(file) != 0)
			die("writing", name);
	}
}

/* One change in place; the length after it. There is room for max bytes. */
static size_t mutate(uint8_t *bytes, size_t len, size_t max)
{
	static const uint64_t values[] = {0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000,
		0xffffffff, UINT64_C(0x7fffffffffffffff), UINT64_MAX};
	const struct input *other = &inputs[next_random(n_inputs)];
	const uint64_t value = values[next_random(sizeof(values) / sizeof(values[0]))];
	size_t at, n;

	if (len == 0)
		return 0;
	at = next_random(len);
	switch (next_random(6)) {
	case 0:
		bytes[at] ^= (uint8_t)(1u << next_random(8));
		return len;
	case 1:
		bytes[at] = (uint8_t)next_random(256);
		return len;
	case 2: /* a count or a length, in either byte order */
		n = (size_t)1 << next_random(4);
		for (size_t i = 0; i < n && at + i < len; i++)
			bytes[at + i] = (uint8_t)(value >> (8 * (next_random(2) ? i : n - 1 - i)));
		return len;
	case 3:
		return at;
	case 4: /* bytes in between */
		n = 1 + next_random(16);
		if (len + n > max)
			return len;
		memmove(bytes + at + n, bytes + at, len - at);
		return len + n;
	default: /* the head of this, the tail of another */
		n = other->len > at ? other->len - at : 0;
		n = n > max - at ? max - at : n;
		memcpy(bytes + at, other->bytes + (other->len - n), n);
		return at + n;
	}
}

static void run_mutations(uint64_t rounds)
{
	uint8_t *bytes = malloc(2 * MAX_INPUT_BYTES);

	if (bytes == NULL)
		die("starting", "mutations");
	for (uint64_t round = 0; round < rounds && n_inputs > 0; round++) {
		const struct input *input = &inputs[next_random(n_inputs)];
		size_t len = input->len;

		memcpy(bytes, input->bytes, len);
		for (uint64_t n = 1 + next_random(4); n > 0; n--)
			len = mutate(bytes, len, 2 * MAX_INPUT_BYTES);
		run(bytes, len);
	}
	free(bytes);
}

static void catch_crashes(void)
{
	if (__sanitizer_set_death_callback != NULL) {
		__sanitizer_set_death_callback(save_current);
		return;
	}
	(void)signal(SIGABRT, on_signal);
	(void)signal(SIGSEGV, on_signal);
	(void)signal(SIGBUS, on_signal);
	(void)signal(SIGFPE, on_signal);
}

int main(int argc, char **argv)
{
	const char *folder = NULL;
	uint64_t rounds = 20000;

	random_state = 1;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
			rounds = strtoull(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
			random_state = kvfi_mix64(strtoull(argv[++i], NULL, 10));
		else if (strcmp(argv[i], "--write") == 0 && i + 1 < argc)
			folder = argv[++i];
		else
			add_path(argv[i]);
	}
	add_seeds(folder);
	catch_crashes();
	for (uint32_t i = 0; i < n_inputs; i++)
		run(inputs[i].bytes, inputs[i].len);
	run_mutations(rounds);
	(void)printf("fuzz: %u inputs, %llu mutations\n", n_inputs, (unsigned long long)rounds);
	for (uint32_t i = 0; i < n_inputs; i++)
		free(inputs[i].bytes);
	return 0;
}
