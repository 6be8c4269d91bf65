/* hygiene.c - what an agent leaves behind: no descriptor, no thread, no file; and which transport it chooses. */
#include "attempt.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "../sanitized.h"
#include "solo.h"

static const char *transport = "loop", *control = "inproc";

static unsigned entries(const char *path, const char *prefix)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	unsigned n = 0;

	if (dir == NULL)
		return 0;
	while ((entry = readdir(dir)) != NULL)
		n += entry->d_name[0] != '.' && strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
	(void)closedir(dir);
	return n;
}

static uint64_t resident_pages(void)
{
	unsigned long long size = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%llu %llu", &size, &resident), 2);
	(void)fclose(file);
	return resident;
}

static void live_once(uint64_t id)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, control, transport);
	struct solo prefill, decode;
	struct solo *all[] = {&prefill, &decode};

	spec.listen = solo_endpoint(control, "a");
	solo_open(&prefill, &spec);
	spec = solo_spec(KVF_DECODE, control, transport);
	solo_open(&decode, &spec);
	assert_int_equal(solo_connect(all, 2, &decode, prefill.endpoint, NULL), KVF_OK);
	solo_move(all, 2, &prefill, &decode, id);
	if (id % 2 == 0) {
		solo_close(&decode);
		solo_close(&prefill);
	} else { /* the other way round, with a session open */
		(void)solo_rx(&decode, prefill.instance->id, id + 1000, 64, 0);
		solo_close(&prefill);
		solo_close(&decode);
	}
}

static void t_nothing_is_left_after_many_lives(void **state)
{
	unsigned fds, threads, shm;
	uint64_t pages;

	(void)state;
	for (uint64_t i = 0; i < 5; i++)
		live_once(i);
	fds = entries("/proc/self/fd", "");
	threads = entries("/proc/self/task", "");
	shm = entries("/dev/shm", "");
	pages = resident_pages();
	for (uint64_t i = 0; i < 100; i++)
		live_once(i);
	assert_int_equal(entries("/proc/self/fd", ""), fds);
	assert_int_equal(entries("/proc/self/task", ""), threads);
	assert_true(entries("/dev/shm", "kvf") == 0);
	(void)shm;
	assert_int_equal(entries(solo_directory(), ""), 0);
	if (!SANITIZED)                                       /* those keep freed memory for a while */
		assert_true(resident_pages() < pages + 4096); /* 16 MiB: each life touches more than 4 */
	solo_directory_remove();
}

static void t_an_open_that_fails_leaves_nothing(void **state)
{
	unsigned fds, threads;
	struct kvf_options options;
	kvf_agent *agent, *first;

	(void)state;
	kvf_options_init(&options);
	options.control = "inproc";
	options.runtime_dir = solo_directory();
	options.listen = "inproc://kvft-hygiene";
	WORKS(kvf_agent_open(&options, &first));
	fds = entries("/proc/self/fd", "");
	threads = entries("/proc/self/task", "");
	for (int i = 0; i < 20; i++)
		REFUSES(KVF_EADDRINUSE, kvf_agent_open(&options, &agent), "hygiene");
	options.listen = "inproc://kvft-hygiene-2";
	options.data_listen = "nonsense";
	for (int i = 0; i < 20; i++)
		REFUSES(KVF_EINVAL, kvf_agent_open(&options, &agent), "data_listen");
	assert_int_equal(entries("/proc/self/fd", ""), fds);
	assert_int_equal(entries("/proc/self/task", ""), threads);
	kvf_agent_close(first, 0, NULL);
	solo_directory_remove();
}

/* ---- auto ---- */

static void chosen(
	bool plain_memory, const char *of_prefill, const char *of_decode, struct kvf_peer_info *info)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, control, of_prefill);
	struct solo prefill, decode;
	struct solo *all[] = {&prefill, &decode};
	struct kvf_event event;

	spec.listen = solo_endpoint(control, "auto");
	spec.own_thread = true;
	solo_open(&prefill, &spec);
	spec = solo_spec(KVF_DECODE, control, of_decode);
	spec.own_thread = spec.plain_memory = true;
	spec.plain_memory = plain_memory;
	solo_open(&decode, &spec);
	WORKS(kvf_connect(decode.agent, prefill.endpoint));
	event = solo_next(all, 2, &decode, KVF_EVENT_PEER, (kvf_session){0});
	WORKS(kvf_peer_info(decode.agent, event.peer, info));
	if (event.status == KVF_OK)
		solo_move(all, 2, &prefill, &decode, 1);
	assert_int_equal(event.status, info->status);
	solo_close(&decode);
	solo_close(&prefill);
}

static void t_auto_prefers_shared_memory(void **state)
{
	struct kvf_peer_info info;

	(void)state;
	chosen(false, "auto", "auto", &info);
	assert_string_equal(info.transport, "shm");
	assert_non_null(strstr(info.reason, "shm"));
	solo_directory_remove();
}

static void t_auto_takes_tcp_for_memory_that_cannot_be_shared(void **state)
{
	struct kvf_peer_info info;

	(void)state;
	chosen(true, "auto", "auto", &info);
	assert_string_equal(info.transport, "tcp");
	assert_non_null(strstr(info.reason, "shm: the blocks are not in memory from kvf_alloc"));
	assert_non_null(strstr(info.reason, "tcp"));
	solo_directory_remove();
}

static void t_the_other_side_decides_with(void **state)
{
	struct kvf_peer_info info;

	(void)state;
	chosen(false, "tcp", "auto", &info);
	assert_string_equal(info.transport, "tcp");
	assert_non_null(strstr(info.reason, "shm: the other side has none"));
	chosen(false, "tcp,shm", "shm,tcp", &info); /* decode's order */
	assert_string_equal(info.transport, "shm");
	chosen(false, "shm", "tcp", &info);
	assert_int_equal(info.status, KVF_NO_TRANSPORT);
	assert_non_null(strstr(info.reason, "tcp"));
	solo_directory_remove();
}

/* Somebody has taken the unix socket away. */
static void t_auto_falls_back_when_the_shm_socket_is_gone(void **state)
{
	struct solo_spec spec = solo_spec(KVF_PREFILL, control, "auto");
	struct solo prefill, decode;
	struct solo *all[] = {&prefill, &decode};
	struct kvf_peer_info info;
	struct kvf_event event;
	struct dirent *entry;
	DIR *dir;

	(void)state;
	spec.listen = "inproc://kvft-fallback";
	spec.control = "inproc";
	spec.own_thread = true;
	solo_open(&prefill, &spec);
	dir = opendir(solo_directory());
	assert_non_null(dir);
	while ((entry = readdir(dir)) != NULL)
		(void)unlinkat(dirfd(dir), entry->d_name, 0);
	(void)closedir(dir);
	spec = solo_spec(KVF_DECODE, "inproc", "auto");
	spec.own_thread = true;
	solo_open(&decode, &spec);
	WORKS(kvf_connect(decode.agent, prefill.endpoint));
	event = solo_next(all, 2, &decode, KVF_EVENT_PEER, (kvf_session){0});
	WORKS(kvf_peer_info(decode.agent, event.peer, &info));
	assert_int_equal(event.status, KVF_OK);
	assert_string_equal(info.transport, "tcp");
	assert_non_null(strstr(info.reason, "shm: "));
	solo_move(all, 2, &prefill, &decode, 1);
	solo_close(&decode);
	solo_close(&prefill);
	solo_directory_remove();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t_nothing_is_left_after_many_lives),
		cmocka_unit_test(t_an_open_that_fails_leaves_nothing),
		cmocka_unit_test(t_auto_prefers_shared_memory),
		cmocka_unit_test(t_auto_takes_tcp_for_memory_that_cannot_be_shared),
		cmocka_unit_test(t_the_other_side_decides_with),
		cmocka_unit_test(t_auto_falls_back_when_the_shm_socket_is_gone),
	};

	if (argc > 1)
		transport = argv[1];
	if (argc > 2)
		control = argv[2];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
