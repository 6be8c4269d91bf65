/* trace.c - what the trace reader accepts and refuses, and that the generator keeps its promises. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "cli/trace.h"

/* A file with this text; unlinked and freed by remove_file. */
static char *make_file(const char *text)
{
	char *path = strdup("/tmp/kvferry-trace-XXXXXX");
	int fd = path ? mkstemp(path) : -1;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	return path;
}

static void remove_file(char *path)
{
	unlink(path);
	free(path);
}

static void a_good_file_is_read_twice(void **state)
{
	char *path = make_file(
		"{\"timestamp\": 0, \"input_length\": 513, \"output_length\": 5, \"hash_ids\": [0, 1]}\n"
		"{\"hash_ids\": [], \"output_length\": 0, \"input_length\": 9000, \"timestamp\": 3000, "
		"\"extra\": {\"x\": [1]}}");
	struct trace_source *source;
	struct trace_request request;
	struct reason why;

	(void)state;
	assert_true(trace_open_file(path, &source, &why));
	for (int round = 0; round < 2; round++) {
		assert_int_equal(trace_next(source, &request, &why), TRACE_REQUEST);
		assert_int_equal(request.input_length, 513);
		assert_int_equal(request.n_hashes, 2);
		assert_int_equal(request.hash_ids[1], 1);
		assert_int_equal(trace_next(source, &request, &why), TRACE_REQUEST);
		assert_int_equal(request.timestamp_ms, 3000);
		assert_int_equal(request.n_hashes, 0);
		assert_int_equal(trace_next(source, &request, &why), TRACE_END);
		assert_true(trace_rewind(source, &why));
	}
	trace_close(source);
	remove_file(path);
}

#define GOOD_LINE "{\"timestamp\": 3000, \"input_length\": 1, \"output_length\": 5, \"hash_ids\": [0]}\n"

static void bad_lines_are_named(void **state)
{
	static const struct {
		const char *line, *says;
	} bad[] = {
		{"{\"timestamp\": 3000, \"input_length\": 1, \"output_length\": 5, \"hash_ids\": [0",
			"the text ends too early"},
		{"{\"timestamp\": 3000, \"input_length\": 1, \"output_len\n",
			"column 51: the text ends too early"},
		{"\n", "it is empty"},
		{"garbage\n", "not a JSON value"},
		{"[1]\n", "an array, not an object"},
		{"{\"input_length\": 1, \"output_length\": 5, \"hash_ids\": [0]}\n",
			"field 'timestamp' is missing"},
		{"{\"timestamp\": 3000, \"input_length\": 1, \"output_length\": 5}\n",
			"field 'hash_ids' is missing"},
		{"{\"timestamp\": 3000, \"timestamp\": 3000, \"input_length\": 1, \"output_length\": 5, "
		 "\"hash_ids\": [0]}\n",
			"field 'timestamp' is there twice"},
		{"{\"timestamp\": 2999, \"input_length\": 1, \"output_length\": 5, \"hash_ids\": [0]}\n",
			"before the 3000"},
		{"{\"timestamp\": 3000, \"input_length\": 0, \"output_length\": 5, \"hash_ids\": []}\n",
			"field 'input_length' is 0"},
		{"{\"timestamp\": 3000, \"input_length\": -1, \"output_length\": 5, \"hash_ids\": [0]}\n",
			"field 'input_length' is -1"},
		{"{\"timestamp\": 3000, \"input_length\": 1.5, \"output_length\": 5, \"hash_ids\": [0]}\n",
			"field 'input_length' is 1.5"},
		{"{\"timestamp\": 3000, \"input_length\": 99999999999, \"output_length\": 5, \"hash_ids\": "
		 "[0]}\n",
			"allowed: whole numbers"},
		{"{\"timestamp\": 3000, \"input_length\": \"1\", \"output_length\": 5, \"hash_ids\": [0]}\n",
			"a string, not a number"},
		{"{\"timestamp\": 3000, \"input_length\": 513, \"output_length\": 5, \"hash_ids\": [0]}\n",
			"has 1 entries, but input_length 513 has 2 blocks"},
		{"{\"timestamp\": 3000, \"input_length\": 512, \"output_length\": 5, \"hash_ids\": [0, 1]}\n",
			"has 2 entries"},
		{"{\"timestamp\": 3000, \"input_length\": 1, \"output_length\": 5, \"hash_ids\": [-4]}\n",
			"'hash_ids': entry 0"},
		{"{\"timestamp\": 3000, \"input_length\": 1, \"output_length\": 5, \"hash_ids\": 7}\n",
			"a number, not an array"},
		{GOOD_LINE "x", NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		char text[1024], prefix[128];
		struct trace_source *source;
		struct trace_request request;
		struct reason why;
		char *path;

		(void)snprintf(
			text, sizeof text, "%s%s%s", GOOD_LINE, bad[i].says ? "" : GOOD_LINE, bad[i].line);
		path = make_file(text);
		assert_true(trace_open_file(path, &source, &why));
		assert_int_equal(trace_next(source, &request, &why), TRACE_REQUEST);
		for (int k = 0; !bad[i].says && k < 2; k++)
			assert_int_equal(trace_next(source, &request, &why), TRACE_REQUEST);
		assert_int_equal(trace_next(source, &request, &why), TRACE_WRONG);
		(void)snprintf(prefix, sizeof prefix, "%s: line %d: ", path, bad[i].says ? 2 : 4);
		assert_memory_equal(why.text, prefix, strlen(prefix));
		if (bad[i].says && !strstr(why.text, bad[i].says))
			fail_msg("'%s' does not say '%s'", why.text, bad[i].says);
		trace_close(source);
		remove_file(path);
	}
}

static void a_missing_file_is_named(void **state)
{
	struct trace_source *source;
	struct reason why;

	(void)state;
	assert_false(trace_open_file("/nonexistent/trace.jsonl", &source, &why));
	assert_non_null(strstr(why.text, "/nonexistent/trace.jsonl"));
}

/* The published trace, where it lies beside the source tree. */
static void the_published_trace_is_read_whole(void **state)
{
	const char *root = getenv("SOURCE_ROOT");
	struct trace_source *source;
	struct trace_request request;
	struct reason why;
	enum trace_next next;
	uint64_t n = 0, tokens = 0;
	char path[4096];

	(void)state;
	(void)snprintf(path, sizeof path, "%s/../shared/data/conversation_trace.jsonl", root ? root : ".");
	if (access(path, R_OK) != 0) {
		print_message("skipped: %s is not here\n", path);
		skip();
	}
	assert_true(trace_open_file(path, &source, &why));
	while ((next = trace_next(source, &request, &why)) == TRACE_REQUEST) {
		n++;
		tokens += request.input_length;
	}
	trace_close(source);
	assert_int_equal(next, TRACE_END);
	assert_int_equal(n, 12031);
	assert_int_equal(tokens / n, 12035);
}

static int compare_lengths(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void the_generator_has_the_shape_of_the_published_trace(void **state)
{
	enum {
		N = 20000
	};
	static uint64_t lengths[N];
	struct trace_generator_options options = {.seed = 5};
	struct trace_source *source;
	struct trace_request request;
	struct reason why;
	uint64_t last_ms = 0, next_new = 0, references = 0, repeats = 0;

	(void)state;
	assert_true(trace_open_generator(&options, &source, &why));
	for (int i = 0; i < N; i++) {
		assert_int_equal(trace_next(source, &request, &why), TRACE_REQUEST);
		assert_true(request.timestamp_ms >= last_ms && request.timestamp_ms % 3000 == 0);
		assert_int_equal(request.n_hashes, (request.input_length + 511) / 512);
		for (uint32_t k = 0; k < request.n_hashes; k++) {
			references++;
			repeats += request.hash_ids[k] < next_new;
			next_new = request.hash_ids[k] >= next_new ? request.hash_ids[k] + 1 : next_new;
		}
		last_ms = request.timestamp_ms;
		lengths[i] = request.input_length;
	}
	trace_close(source);
	qsort(lengths, N, sizeof lengths[0], compare_lengths);
	assert_in_range(lengths[N / 2], 6909 * 95 / 100, 6909 * 105 / 100);
	assert_in_range(lengths[N * 9 / 10], 27367 * 93 / 100, 27367 * 107 / 100);
	assert_in_range(repeats * 100 / references, 30, 42);
	assert_in_range((uint64_t)N * 3000 * 10 / last_ms, 92, 112); /* 10.2 a bucket */
}

static void the_same_seed_gives_the_same_requests_below_the_cut(void **state)
{
	static const uint64_t cuts[] = {1, 16, 600, 8192};

	(void)state;
	for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
		struct trace_generator_options options = {.seed = 9, .max_tokens = cuts[i]};
		uint64_t sums[2] = {0, 0};
		struct trace_source *source;
		struct trace_request request;
		struct reason why;

		assert_true(trace_open_generator(&options, &source, &why));
		for (int round = 0; round < 2; round++) {
			for (int k = 0; k < 300; k++) {
				assert_int_equal(trace_next(source, &request, &why), TRACE_REQUEST);
				assert_in_range(request.input_length, 1, cuts[i]);
				sums[round] = sums[round] * 31 + request.input_length * 7 +
				              request.timestamp_ms + request.hash_ids[request.n_hashes - 1];
			}
			assert_true(trace_rewind(source, &why));
		}
		assert_true(sums[0] == sums[1]);
		trace_close(source);
	}
}

/* A block is shared only behind equal predecessors, and a partly filled last block never is. */
static void shared_blocks_are_prefixes(void **state)
{
	enum {
		MOST = 200000
	};
	static uint64_t parents[MOST], fills[MOST];
	struct trace_generator_options options = {.seed = 3, .max_tokens = 20000};
	struct trace_source *source;
	struct trace_request request;
	struct reason why;

	(void)state;
	memset(fills, 0, sizeof fills);
	assert_true(trace_open_generator(&options, &source, &why));
	for (int i = 0; i < 3000; i++) {
		assert_int_equal(trace_next(source, &request, &why), TRACE_REQUEST);
		for (uint32_t k = 0; k < request.n_hashes; k++) {
			uint64_t id = request.hash_ids[k], parent = k ? request.hash_ids[k - 1] : MOST;
			uint64_t fill =
				request.input_length - k * 512 < 512 ? request.input_length - k * 512 : 512;

			assert_in_range(id, 0, MOST - 1);
			if (fills[id])
				assert_true(parents[id] == parent && fills[id] == 512 && fill == 512);
			parents[id] = parent;
			fills[id] = fill;
		}
	}
	trace_close(source);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_good_file_is_read_twice),
		cmocka_unit_test(bad_lines_are_named),
		cmocka_unit_test(a_missing_file_is_named),
		cmocka_unit_test(the_published_trace_is_read_whole),
		cmocka_unit_test(the_generator_has_the_shape_of_the_published_trace),
		cmocka_unit_test(the_same_seed_gives_the_same_requests_below_the_cut),
		cmocka_unit_test(shared_blocks_are_prefixes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
