/* memory_lease.c - the lease word, and the gate of a connection, under every interleaving of their atomic steps.
 *
 * The functions of lease.h themselves are run, with their atomics replaced by steps of a small scheduler. An actor is a function whose
 * only input is what its steps return; so one more step of it is: run it from the start, feed it the recorded results, perform one
 * new step, jump out. A depth-first search over "whose step is next" then visits every reachable state once. An actor that is mortal may
 * also be gone at any of its steps: killed, or stopped for ever. What cannot matter to an actor any more is dropped from its record, so that
 * states that are the same are seen to be.
 *
 * Checked at every store: its generation was not proven quiet; no worker stores more than one chunk after the revoke. At every change of the
 * word: nobody enters what is revoked; a generation begins with nobody inside.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "base/hash.h"

static uint64_t step_load(const _Atomic uint64_t *word);
static bool step_exchange(_Atomic uint64_t *word, uint64_t *expected, uint64_t desired);
static bool step_retried(_Atomic uint64_t *word, uint64_t *expected, uint64_t desired);
static uint64_t step_or(_Atomic uint64_t *word, uint64_t bits);

#undef atomic_load
#undef atomic_compare_exchange_strong
#undef atomic_compare_exchange_weak
#undef atomic_fetch_or
#define atomic_load(word)                                       step_load(word)
#define atomic_compare_exchange_strong(word, expected, desired) step_exchange(word, expected, desired)
#define atomic_compare_exchange_weak(word, expected, desired)   step_retried(word, expected, desired)
#define atomic_fetch_or(word, bits)                             step_or(word, bits)
#include "memory/lease.h"

#define MAX_ACTORS 4
#define MAX_LOG    40

struct actor {
	uint32_t n_log, stage;
	bool done;
	int net; /* what it added to the count of workers inside */
	bool dead;
	uint32_t late; /* chunks stored since the last revoke */
	uint64_t log[MAX_LOG];
};

struct world {
	uint64_t word, gate;
	uint32_t quiet_generation; /* stores of this generation and older are forbidden from here on */
	uint32_t revoked;          /* the last generation that was */
	bool reused;               /* the writer's addresses lead elsewhere */
	uint32_t stores;
	struct actor actors[MAX_ACTORS];
};

static struct world world;
static struct kvfi_lease lease; /* its word is loaded from and saved to world.word */
static struct kvfi_gate gate;   /* likewise */
static struct actor *current;
static uint32_t replayed;
static bool may_step;
static jmp_buf stop;

/* True: the step is to be performed now. False: *result is what it gave. Jumps out when the step belongs to a later turn. */
static bool live(uint64_t *result)
{
	if (replayed < current->n_log) {
		*result = current->log[replayed++];
		return false;
	}
	if (!may_step)
		longjmp(stop, 1);
	may_step = false;
	return true;
}

static uint64_t record(uint64_t result)
{
	assert_true(current->n_log < MAX_LOG);
	current->log[current->n_log++] = result;
	replayed++;
	return result;
}

static uint64_t step_load(const _Atomic uint64_t *word)
{
	uint64_t result;

	return live(&result) ? record(*word) : result;
}

static void changed(uint64_t before, uint64_t after)
{
	int delta = (int)(after & KVFI_LEASE_INSIDE) - (int)(before & KVFI_LEASE_INSIDE);

	if (kvfi_lease_generation_of(before) != kvfi_lease_generation_of(after)) {
		assert_int_equal(before & KVFI_LEASE_INSIDE, 0); /* granted only when nobody is inside */
		assert_true((before & KVFI_LEASE_REVOKED) != 0);
		return;
	}
	assert_true(delta >= -1 && delta <= 1);
	if (delta > 0)
		assert_int_equal(before & KVFI_LEASE_REVOKED, 0); /* nobody enters what is revoked */
	current->net += delta;
	assert_true(current->net == 0 || current->net == 1);
}

static bool step_exchange(_Atomic uint64_t *word, uint64_t *expected, uint64_t desired)
{
	uint64_t seen;

	if (live(&seen)) {
		seen = record(*word);
		if (seen == *expected) {
			*word = desired;
			changed(seen, desired);
		}
	}
	if (seen == *expected)
		return true;
	*expected = seen;
	return false;
}

/* In a loop that began with a load: a failed attempt leaves its caller where a load of what it saw would have. */
static bool step_retried(_Atomic uint64_t *word, uint64_t *expected, uint64_t desired)
{
	uint64_t seen;

	if (replayed == current->n_log && may_step && *word != *expected) {
		may_step = false;
		*expected = current->log[current->n_log - 1] = *word;
		return false;
	}
	seen = *expected;
	return step_exchange(word, &seen, desired);
}

/* An actor between two things that have nothing to do with each other: what it saw before is forgotten. */
static bool at(uint32_t stage)
{
	return current->stage == stage;
}

static void next(void)
{
	current->stage++;
	current->n_log = replayed = 0;
}

static uint64_t step_or(_Atomic uint64_t *word, uint64_t bits)
{
	uint64_t seen;

	if (!live(&seen))
		return seen;
	seen = record(*word);
	*word = seen | bits;
	if (word == &lease.word) {
		world.revoked = kvfi_lease_generation_of(seen);
		for (int i = 0; i < MAX_ACTORS; i++)
			world.actors[i].late = 0;
	}
	return seen;
}

/* The bytes of a chunk hit memory. */
static void store(uint32_t generation)
{
	uint64_t ignored;

	if (!live(&ignored))
		return;
	assert_true(generation > world.quiet_generation);
	if (generation <= world.revoked)
		assert_int_equal(++current->late, 1);
	world.stores++;
	(void)record(0);
}

/* The receiver has its proof and hands the memory back. */
static void proven(uint32_t generation)
{
	uint64_t ignored;

	if (!live(&ignored))
		return;
	world.quiet_generation = generation;
	(void)record(0);
}

/* ---- actors */

static void writer(uint32_t generation, int chunks)
{
	for (int i = 0; i < chunks && kvfi_lease_enter(&lease, generation); i++) {
		store(generation);
		kvfi_lease_leave(&lease, generation);
	}
}

static void writer_of_1(void)
{
	writer(1, 1);
}

static void writer_of_1_twice(void)
{
	writer(1, 2);
}

static void writer_of_2(void)
{
	writer(2, 1);
}

static void stale_leaver(void)
{
	kvfi_lease_leave(&lease, 1);
	kvfi_lease_leave(&lease, 1);
}

static void receiver_takes_back(void)
{
	kvfi_lease_revoke(&lease);
	for (int i = 0; i < 2; i++) {
		if (kvfi_lease_quiet(&lease)) {
			proven(1);
			return;
		}
	}
}

static void receiver_takes_back_and_grants_again(void)
{
	kvfi_lease_revoke(&lease);
	if (kvfi_lease_grant(&lease, 2))
		proven(1); /* granted: nobody of the last generation is inside, none will enter */
}

static void receiver_revokes(void)
{
	kvfi_lease_revoke(&lease);
}

/* ---- the search */

static uint64_t *visited;
static size_t n_visited, visited_size;
static uint64_t n_ends;
static void (*const *cast)(void);
static int n_cast;
static uint32_t mortal; /* bits of cast */
static void (*at_end)(void);

static bool visit(void)
{
	uint64_t hash = kvfi_hash_bytes(1, &world, sizeof(world)) | 1;
	size_t i = (size_t)hash & (visited_size - 1);

	assert_true(n_visited < visited_size / 2);
	for (; visited[i] != 0; i = (i + 1) & (visited_size - 1)) {
		if (visited[i] == hash)
			return false;
	}
	visited[i] = hash;
	n_visited++;
	return true;
}

/* One more step of this actor; the first call after its last step marks it done. */
static void advance(int who)
{
	current = &world.actors[who];
	replayed = 0;
	may_step = true;
	lease.word = world.word;
	gate.word = world.gate;
	if (setjmp(stop) == 0) {
		cast[who]();
		current->done = true;
	}
	world.word = lease.word;
	world.gate = gate.word;
}

static void search(void)
{
	struct world here = world;
	bool any = false;

	if (!visit())
		return;
	for (int who = 0; who < n_cast; who++) {
		if (here.actors[who].done)
			continue;
		any = true;
		advance(who);
		search();
		world = here;
		if ((mortal >> who & 1) == 0)
			continue;
		world.actors[who].done = world.actors[who].dead = true;
		search();
		world = here;
	}
	if (!any) {
		n_ends++;
		at_end();
	}
}

static void explore(uint64_t word, void (*const *actors)(void), int n, void (*end)(void))
{
	visited_size = (size_t)1 << 23;
	visited = calloc(visited_size, sizeof(*visited));
	assert_non_null(visited);
	memset(&world, 0, sizeof(world));
	world.word = word;
	n_visited = 0;
	n_ends = 0;
	cast = actors;
	n_cast = n;
	at_end = end;
	search();
	print_message("%zu states, %llu ends\n", n_visited, (unsigned long long)n_ends);
	assert_true(n_ends > 0);
	free(visited);
}

static uint64_t inside(void)
{
	return world.word & KVFI_LEASE_INSIDE;
}

static void end_is_quiet(void)
{
	lease.word = world.word;
	assert_int_equal(inside(), 0);
	assert_true((world.word & KVFI_LEASE_REVOKED) != 0);
	assert_int_equal(world.word >> 48, world.stores);
}

static void no_store_after_quiet_was_seen(void **state)
{
	static void (*const actors[])(void) = {writer_of_1_twice, writer_of_1, receiver_takes_back};

	(void)state;
	explore(UINT64_C(1) << 16, actors, 3, end_is_quiet);
}

static void end_counts_the_second_generation(void)
{
	assert_int_equal(inside(), 0);
	if (kvfi_lease_generation_of(world.word) == 1)
		assert_true((world.word & KVFI_LEASE_REVOKED) !=
			    0); /* the writer was inside: not granted again */
	else
		assert_int_equal(world.word & KVFI_LEASE_REVOKED, 0);
}

static void no_store_of_an_old_generation_after_the_next_was_granted(void **state)
{
	static void (*const actors[])(void) = {
		writer_of_1_twice, writer_of_2, receiver_takes_back_and_grants_again};

	(void)state;
	explore(UINT64_C(1) << 16, actors, 3, end_counts_the_second_generation);
}

static void end_has_one_chunk(void)
{
	assert_int_equal(inside(), 0);
	assert_int_equal(world.actors[0].net, 0);
	assert_int_equal(world.word >> 48, world.stores);
}

static void leaving_a_stale_generation_changes_nothing(void **state)
{
	static void (*const actors[])(void) = {stale_leaver, writer_of_2, receiver_revokes};

	(void)state;
	explore(UINT64_C(2) << 16, actors, 3, end_has_one_chunk);
}

static void end_has_wrapped(void)
{
	assert_int_equal(inside(), 0);
	assert_int_equal(kvfi_lease_generation_of(world.word), 1);
	assert_true((world.word & KVFI_LEASE_REVOKED) != 0);
	assert_int_equal((uint16_t)(world.word >> 48), (uint16_t)(0xffff + world.stores));
}

static void the_chunk_count_wraps_and_carries_nowhere(void **state)
{
	static void (*const actors[])(void) = {writer_of_1_twice, writer_of_1, receiver_revokes};

	(void)state;
	explore(UINT64_C(0xffff) << 48 | UINT64_C(1) << 16, actors, 3, end_has_wrapped);
}

/* ---- two workers, two generations */

static void chunks_of_both(uint32_t each)
{
	for (uint32_t stage = 0; stage < 2 * each; stage++) {
		if (at(stage)) {
			writer(1 + stage / each, 1);
			next();
		}
	}
}

static void worker_of_both(void)
{
	chunks_of_both(1);
}

static void worker_of_both_twice(void)
{
	chunks_of_both(2);
}

/* Everything that a receiver does with one slot: takes it back, has its proof, grants it again, takes that back too. */
static void receiver_of_both(void)
{
	for (uint32_t generation = 1; generation <= 2; generation++) {
		if (at(2 * generation - 2)) {
			kvfi_lease_revoke(&lease);
			next();
		}
		if (at(2 * generation - 1)) {
			if (!kvfi_lease_quiet(&lease))
				return;
			proven(generation);
			if (generation == 1)
				assert_true(kvfi_lease_grant(&lease, 2)); /* what was quiet stays so */
			next();
		}
	}
}

/* Only the dead are still counted inside. */
static void end_counts_the_dead(void)
{
	uint64_t counted = 0;

	for (int i = 0; i < n_cast; i++)
		counted += world.actors[i].net == 1;
	for (int i = 0; i < n_cast; i++)
		assert_true(world.actors[i].net == 0 || world.actors[i].dead);
	assert_int_equal(inside(), counted);
	lease.word = world.word;
	if (counted != 0 && (world.word & KVFI_LEASE_REVOKED) != 0)
		assert_true(world.quiet_generation < kvfi_lease_generation_of(world.word));
}

static void two_workers_over_two_generations(void **state)
{
	static void (*const actors[])(void) = {worker_of_both_twice, worker_of_both, receiver_of_both};

	(void)state;
	explore(UINT64_C(1) << 16, actors, 3, end_counts_the_dead);
}

static void a_worker_that_dies_anywhere_never_makes_a_false_proof(void **state)
{
	static void (*const actors[])(void) = {worker_of_both, worker_of_both, receiver_of_both};

	(void)state;
	mortal = 3;
	explore(UINT64_C(1) << 16, actors, 3, end_counts_the_dead);
	mortal = 7; /* and a receiver that dies leaves no worker inside but the dead */
	explore(UINT64_C(1) << 16, actors, 3, end_counts_the_dead);
	mortal = 0;
}

/* ---- the gate */

static void touch_addresses(void)
{
	uint64_t ignored;

	if (!live(&ignored))
		return;
	assert_false(world.reused);
	(void)record(0);
}

static void receiver_fences(void)
{
	if ((kvfi_gate_say(&gate, KVFI_GATE_FENCING) & KVFI_GATE_SHUT) != 0)
		return;
	touch_addresses();
	touch_addresses();
	(void)kvfi_gate_say(&gate, KVFI_GATE_FENCED);
}

static void writer_shuts(void)
{
	uint64_t said = kvfi_gate_say(&gate, KVFI_GATE_SHUT), ignored;

	if ((said & KVFI_GATE_FENCING) != 0 && (said & KVFI_GATE_FENCED) == 0)
		return; /* keeps them */
	if (!live(&ignored))
		return;
	world.reused = true;
	(void)record(0);
}

static void end_of_gate(void)
{
	if (!world.actors[1].dead)
		assert_true((world.gate & KVFI_GATE_SHUT) != 0);
	if (!world.actors[0].dead && !world.actors[1].dead && (world.gate & KVFI_GATE_FENCING) == 0)
		assert_true(world.reused);
}

static void no_address_is_fenced_that_leads_elsewhere(void **state)
{
	static void (*const actors[])(void) = {receiver_fences, writer_shuts};

	(void)state;
	mortal = 3;
	explore(0, actors, 2, end_of_gate);
	mortal = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_store_after_quiet_was_seen),
		cmocka_unit_test(no_store_of_an_old_generation_after_the_next_was_granted),
		cmocka_unit_test(leaving_a_stale_generation_changes_nothing),
		cmocka_unit_test(the_chunk_count_wraps_and_carries_nowhere),
		cmocka_unit_test(two_workers_over_two_generations),
		cmocka_unit_test(a_worker_that_dies_anywhere_never_makes_a_false_proof),
		cmocka_unit_test(no_address_is_fenced_that_leads_elsewhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
