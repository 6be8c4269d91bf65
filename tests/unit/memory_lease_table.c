/* memory_lease_table.c - slots, generations, and what a worker that never leaves costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "memory/lease_table.h"

static void every_slot_is_granted_once_and_then_the_table_is_full(void **state)
{
	struct kvfi_lease_table table;
	uint32_t slot = 0, generation = 0, seen = 0;

	(void)state;
	assert_int_equal(kvfi_lease_table_init(&table, 4, false), KVF_OK);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(kvfi_lease_table_take(&table, &slot, &generation), KVF_OK);
		assert_int_equal(generation, 1);
		seen |= 1u << slot;
		assert_true(kvfi_lease_enter(&table.words[slot], generation));
		kvfi_lease_leave(&table.words[slot], generation);
		assert_int_equal(kvfi_lease_chunks(&table.words[slot]), 1);
	}
	assert_int_equal(seen, 15);
	assert_int_equal(kvfi_lease_table_take(&table, &slot, &generation), KVF_EFULL);
	kvfi_lease_table_fini(&table);
}

static void a_slot_given_back_comes_with_a_new_generation(void **state)
{
	struct kvfi_lease_table table;
	uint32_t slot, generation;

	(void)state;
	assert_int_equal(kvfi_lease_table_init(&table, 1, false), KVF_OK);
	for (uint32_t i = 1; i < 1000; i++) {
		assert_int_equal(kvfi_lease_table_take(&table, &slot, &generation), KVF_OK);
		assert_int_equal(generation, i);
		assert_false(kvfi_lease_enter(&table.words[slot], i - 1));
		kvfi_lease_table_put(&table, slot);
		assert_false(kvfi_lease_enter(&table.words[slot], i));
		assert_true(kvfi_lease_quiet(&table.words[slot]));
	}
	kvfi_lease_table_fini(&table);
}

static void a_slot_with_a_worker_inside_is_skipped_until_it_left(void **state)
{
	struct kvfi_lease_table table;
	uint32_t slot, generation, other, ignored;

	(void)state;
	assert_int_equal(kvfi_lease_table_init(&table, 2, false), KVF_OK);
	assert_int_equal(kvfi_lease_table_take(&table, &slot, &generation), KVF_OK);
	assert_true(kvfi_lease_enter(&table.words[slot], generation));
	kvfi_lease_table_put(&table, slot);
	assert_false(kvfi_lease_quiet(&table.words[slot]));
	assert_int_equal(kvfi_lease_table_take(&table, &other, &ignored), KVF_OK);
	assert_int_not_equal(other, slot);
	assert_int_equal(kvfi_lease_table_take(&table, &ignored, &ignored), KVF_EFULL);
	kvfi_lease_leave(&table.words[slot], generation);
	assert_int_equal(kvfi_lease_table_take(&table, &other, &ignored), KVF_OK);
	assert_int_equal(other, slot);
	assert_int_equal(ignored, generation + 1);
	kvfi_lease_table_fini(&table);
}

static void a_slot_whose_generations_are_spent_is_retired(void **state)
{
	struct kvfi_lease_table table;
	uint32_t slot, generation;

	(void)state;
	assert_int_equal(kvfi_lease_table_init(&table, 2, false), KVF_OK);
	table.slots[0].generation = UINT32_MAX - 1;
	assert_int_equal(kvfi_lease_table_take(&table, &slot, &generation), KVF_OK);
	assert_int_equal(slot, 0);
	assert_int_equal(generation, UINT32_MAX);
	kvfi_lease_table_put(&table, slot);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(kvfi_lease_table_take(&table, &slot, &generation), KVF_OK);
		assert_int_equal(slot, 1);
		kvfi_lease_table_put(&table, slot);
	}
	kvfi_lease_table_fini(&table);
}

static void shared_words_are_sealed_and_seen_through_another_mapping(void **state)
{
	struct kvfi_lease_table table;
	struct kvfi_lease *other;
	uint32_t slot, generation;
	int seals;

	(void)state;
	assert_int_equal(kvfi_lease_table_init(&table, 1000, true), KVF_OK);
	assert_int_equal(table.mapped_bytes, 8192);
	seals = fcntl(table.fd, F_GET_SEALS);
	assert_int_equal(seals & (F_SEAL_SHRINK | F_SEAL_GROW), F_SEAL_SHRINK | F_SEAL_GROW);
	other = mmap(NULL, table.mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, table.fd, 0);
	assert_true(other != MAP_FAILED);
	assert_int_equal(kvfi_lease_table_take(&table, &slot, &generation), KVF_OK);
	assert_true(kvfi_lease_enter(&other[slot], generation));
	kvfi_lease_revoke(&table.words[slot]);
	assert_false(kvfi_lease_quiet(&table.words[slot]));
	assert_true(kvfi_lease_revoked(&other[slot], generation));
	kvfi_lease_leave(&other[slot], generation);
	assert_true(kvfi_lease_quiet(&table.words[slot]));
	assert_int_equal(munmap(other, table.mapped_bytes), 0);
	kvfi_lease_table_fini(&table);
}

static void senseless_sizes_are_refused(void **state)
{
	struct kvfi_lease_table table;

	(void)state;
	assert_int_equal(kvfi_lease_table_init(&table, 0, false), KVF_EINVAL);
	assert_int_equal(kvfi_lease_table_init(&table, UINT32_MAX, true), KVF_EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_slot_is_granted_once_and_then_the_table_is_full),
		cmocka_unit_test(a_slot_given_back_comes_with_a_new_generation),
		cmocka_unit_test(a_slot_with_a_worker_inside_is_skipped_until_it_left),
		cmocka_unit_test(a_slot_whose_generations_are_spent_is_retired),
		cmocka_unit_test(shared_words_are_sealed_and_seen_through_another_mapping),
		cmocka_unit_test(senseless_sizes_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
