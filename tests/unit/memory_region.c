/* memory_region.c - regions: what is refused, handles that go stale, wire addresses, and memory that leaves no trace. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "memory/region.h"

static struct kvfi_regions regions;

static int open_table(void **state)
{
	(void)state;
	return kvfi_regions_init(&regions, 3) == KVF_OK ? 0 : -1;
}

static int close_table(void **state)
{
	(void)state;
	kvfi_regions_fini(&regions);
	return 0;
}

static void allocated_memory_is_zero_aligned_sealed_and_writable(void **state)
{
	const unsigned char *memory;
	struct stat info;
	uint32_t index;

	(void)state;
	assert_int_equal(kvfi_regions_alloc(&regions, 10000, &index), KVF_OK);
	memory = regions.table[index].memory;
	assert_int_equal((uintptr_t)memory % 4096, 0);
	assert_int_equal(regions.table[index].len_bytes, 12288);
	for (int i = 0; i < 12288; i++)
		assert_int_equal(memory[i], 0);
	memset(regions.table[index].memory, 0xff, 12288);
	assert_int_equal(fstat(regions.table[index].fd, &info), 0);
	assert_int_equal(info.st_size, 12288);
	assert_int_equal(info.st_blocks * 512, 12288); /* populated */
	assert_int_not_equal(ftruncate(regions.table[index].fd, 4096), 0);
	assert_int_not_equal(ftruncate(regions.table[index].fd, 20480), 0);
	assert_true((fcntl(regions.table[index].fd, F_GETFD) & FD_CLOEXEC) != 0);
}

static int entries_of(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	if (dir == NULL)
		return 0;
	while (readdir(dir) != NULL)
		n++;
	(void)closedir(dir);
	return n;
}

static void nothing_is_left_in_dev_shm(void **state)
{
	int before = entries_of("/dev/shm");
	uint32_t index;

	(void)state;
	assert_int_equal(kvfi_regions_alloc(&regions, 1 << 20, &index), KVF_OK);
	assert_int_equal(entries_of("/dev/shm"), before);
}

static void t_p49_a_forked_child_does_not_keep_the_memory(void **state)
{
	uint32_t index;
	pid_t child;
	int status;

	(void)state;
	assert_int_equal(kvfi_regions_alloc(&regions, 4096, &index), KVF_OK);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		volatile unsigned char *memory = regions.table[index].memory;

		(void)signal(SIGSEGV, SIG_DFL);
		memory[0] = 1; /* not mapped here */
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
	assert_int_equal(regions.table[index].memory[0], 0);
}

static void a_full_table_and_senseless_sizes_are_refused(void **state)
{
	unsigned char own[64];
	uint32_t index = 99;

	(void)state;
	assert_int_equal(kvfi_regions_alloc(&regions, 0, &index), KVF_EINVAL);
	assert_int_equal(kvfi_regions_alloc(&regions, UINT64_MAX, &index), KVF_EINVAL);
	assert_int_equal(kvfi_regions_alloc(&regions, UINT64_C(1) << 48, &index), KVF_EINVAL);
	assert_int_equal(kvfi_regions_register(&regions, NULL, 64, &index), KVF_EINVAL);
	assert_int_equal(kvfi_regions_register(&regions, own, 0, &index), KVF_EINVAL);
	assert_int_equal(kvfi_regions_register(&regions, own, UINT64_MAX, &index), KVF_EINVAL);
	assert_int_equal(kvfi_regions_register(&regions, (void *)(UINTPTR_MAX - 10), 64, &index), KVF_EINVAL);
	assert_int_equal(index, 99);
	assert_int_equal(kvfi_regions_register(&regions, own, 32, &index), KVF_OK);
	assert_int_equal(kvfi_regions_register(&regions, own + 31, 33, &index), KVF_EINVAL);
	assert_non_null(strstr(kvf_error(), "overlap region 0"));
	assert_int_equal(kvfi_regions_register(&regions, own + 32, 32, &index), KVF_OK);
	assert_int_equal(kvfi_regions_alloc(&regions, 4096, &index), KVF_OK);
	assert_int_equal(kvfi_regions_alloc(&regions, 4096, &index), KVF_EFULL);
	assert_int_equal(index, 2);
}

static void memory_that_the_machine_does_not_have_is_an_error(void **state)
{
	uint32_t index;

	(void)state;
	/* 128 TiB less a bit: more than any address space here has left. */
	assert_int_equal(kvfi_regions_alloc(&regions, (UINT64_C(1) << 47) - 4096, &index), KVF_ENOMEM);
	assert_int_equal(kvfi_regions_alloc(&regions, 4096, &index), KVF_OK);
	assert_int_equal(index, 0);
}

static void a_stale_handle_never_names_the_next_region(void **state)
{
	kvf_region first, second;
	uint32_t index;

	(void)state;
	assert_int_equal(kvfi_regions_alloc(&regions, 4096, &index), KVF_OK);
	first = kvfi_region_handle(&regions, index);
	assert_true(first.bits != 0);
	assert_int_equal(kvfi_region_find(&regions, first, &index), KVF_OK);
	assert_int_equal(kvfi_regions_remove(&regions, index), KVF_OK);
	assert_int_equal(kvfi_regions_remove(&regions, index), KVF_ESTALE);
	assert_int_equal(kvfi_region_find(&regions, first, &index), KVF_ESTALE);
	assert_int_equal(kvfi_regions_alloc(&regions, 4096, &index), KVF_OK);
	second = kvfi_region_handle(&regions, index);
	assert_int_equal(index, 0);
	assert_true(second.bits != first.bits);
	assert_int_equal(kvfi_region_find(&regions, first, &index), KVF_ESTALE);
	assert_int_equal(kvfi_region_find(&regions, (kvf_region){0}, &index), KVF_ESTALE);
	assert_int_equal(kvfi_region_find(&regions, (kvf_region){UINT64_MAX}, &index), KVF_ESTALE);
}

static void a_region_in_use_stays(void **state)
{
	uint32_t index;

	(void)state;
	assert_int_equal(kvfi_regions_alloc(&regions, 4096, &index), KVF_OK);
	regions.table[index].users = 2;
	assert_int_equal(kvfi_regions_remove(&regions, index), KVF_EBUSY);
	regions.table[index].users = 0;
	assert_int_equal(kvfi_regions_remove(&regions, index), KVF_OK);
}

static void wire_addresses_name_region_and_offset(void **state)
{
	unsigned char own[64];
	uint32_t first, second;
	uint64_t wire = 7;
	uint64_t address = (uint64_t)(uintptr_t)own;

	(void)state;
	assert_int_equal(kvfi_regions_alloc(&regions, 4096, &first), KVF_OK);
	assert_int_equal(kvfi_regions_register(&regions, own, 64, &second), KVF_OK);
	assert_int_equal(kvfi_regions_to_wire(&regions, address + 10, 54, &wire), KVF_OK);
	assert_int_equal(wire, (uint64_t)second << 48 | 10);
	assert_int_equal(
		kvfi_regions_to_wire(&regions, (uint64_t)(uintptr_t)regions.table[first].memory, 4096, &wire),
		KVF_OK);
	assert_int_equal(wire, 0);
	wire = 7;
	assert_int_equal(kvfi_regions_to_wire(&regions, address + 10, 55, &wire), KVF_EINVAL);
	assert_int_equal(kvfi_regions_to_wire(&regions, address + 64, 0, &wire), KVF_EINVAL);
	assert_int_equal(kvfi_regions_to_wire(&regions, address, UINT64_MAX, &wire), KVF_EINVAL);
	assert_int_equal(wire, 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			allocated_memory_is_zero_aligned_sealed_and_writable, open_table, close_table),
		cmocka_unit_test_setup_teardown(nothing_is_left_in_dev_shm, open_table, close_table),
		cmocka_unit_test_setup_teardown(
			t_p49_a_forked_child_does_not_keep_the_memory, open_table, close_table),
		cmocka_unit_test_setup_teardown(
			a_full_table_and_senseless_sizes_are_refused, open_table, close_table),
		cmocka_unit_test_setup_teardown(
			memory_that_the_machine_does_not_have_is_an_error, open_table, close_table),
		cmocka_unit_test_setup_teardown(
			a_stale_handle_never_names_the_next_region, open_table, close_table),
		cmocka_unit_test_setup_teardown(a_region_in_use_stays, open_table, close_table),
		cmocka_unit_test_setup_teardown(
			wire_addresses_name_region_and_offset, open_table, close_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
