/* transport_shm_process.c - real writers that are stopped or killed inside a lease, with half a run written.
 *
 * The fault point stops or kills the writer at exactly that place, so nothing here depends on time. After a proof the memory is filled with a
 * canary; the writer goes on, and not a byte of it may change.
 */
#include "shm_writer.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LARGE 512u /* blocks of 16 KiB: copy workers store them */
#define SMALL 2u   /* the writer's owner stores them itself */

static struct stage stage;

static int setup_of(uint32_t blocks, uint32_t n_writers)
{
	stage_init(&stage, blocks, n_writers, false);
	stage_open(&stage);
	stage_share(&stage);
	return 0;
}

static int setup(void **state)
{
	(void)state;
	return setup_of(LARGE, 1);
}

static int setup_small(void **state)
{
	(void)state;
	return setup_of(SMALL, 1);
}

static int setup_two(void **state)
{
	(void)state;
	return setup_of(LARGE, 2);
}

static int teardown(void **state)
{
	(void)state;
	if (stage.transport != NULL)
		stage_close(&stage);
	stage_fini(&stage);
	return 0;
}

static int descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	assert_non_null(dir);
	while (readdir(dir) != NULL)
		n++;
	(void)closedir(dir);
	return n;
}

/* Writer 0 stands still inside the lease of grant 0, and the grant is revoked. */
static void stop_inside(void)
{
	atomic_store(stage.writers[0].fault, KVFI_FAULT_STOP);
	stage_post(&stage, 0, 0);
	writer_until_stopped(&stage.writers[0]);
	stage_turn(&stage, 0);                /* what it said before */
	assert_false(stage_is_blank(&stage)); /* half a run is there */
	kvfi_transport_shm.revoke(stage.transport, 0);
	assert_int_equal(kvfi_transport_shm.proof(stage.transport, 0), KVF_PROOF_NONE);
}

static void fence(void)
{
	enum kvf_status status = kvfi_transport_shm.fence(stage.transport, 0);

	skip_unless(status != KVF_EUNSUPPORTED, kvf_error());
	assert_int_equal(status, KVF_OK);
	assert_int_equal(kvfi_transport_shm.fence(stage.transport, 0), KVF_OK); /* again: nothing more */
	assert_int_equal(kvfi_transport_shm.proof(stage.transport, 0), KVF_PROOF_NONE); /* begun, not done */
	assert_int_equal(stage_until_proven(&stage, 0), KVF_PROOF_FENCED);
}

/* Continued: its post fails, it finds its connection gone, and not a byte has changed. */
static void goes_on_and_harms_nobody(void)
{
	struct report what;

	stage_blank(&stage);
	assert_int_equal(kill(stage.writers[0].pid, SIGCONT), 0);
	what = writer_await(&stage, 0, KVFI_DONE_TX);
	assert_int_equal(what.status, KVF_PEER_LOST);
	assert_true(stage_is_blank(&stage));
}

/* The same writer, which was never restarted, serves again under a new link. */
static void is_admitted_again(uint64_t link)
{
	stage_connect(&stage, 0, link);
	stage_post(&stage, 0, 1);
	assert_int_equal(writer_await(&stage, 0, KVFI_DONE_TX).status, KVF_OK);
	assert_true(stage_has_arrived(&stage, 0));
	kvfi_transport_shm.revoke(stage.transport, 1);
	assert_int_equal(stage_until_proven(&stage, 1), KVF_PROOF_LEASE);
	kvfi_transport_shm.release(stage.transport, 1);
}

static void a_writer_stopped_inside_a_lease_is_fenced_and_comes_back(void **state)
{
	struct kvfi_done done;

	(void)state;
	stage_connect(&stage, 0, 1);
	stop_inside();
	fence();
	done = stage_await(&stage, KVFI_DONE_BROKEN, 0);
	assert_int_equal(done.status, KVF_PEER_LOST);
	goes_on_and_harms_nobody();
	assert_true(stage_until_proven(&stage, 0) != KVF_PROOF_NONE); /* still */
	kvfi_transport_shm.release(stage.transport, 0);
	is_admitted_again(2);
}

static void a_fence_holds_over_disconnect(void **state)
{
	(void)state;
	stage_connect(&stage, 0, 1);
	stop_inside();
	kvfi_transport_shm.disconnect(stage.transport, 0);
	assert_int_equal(kvfi_transport_shm.proof(stage.transport, 0), KVF_PROOF_NONE);
	fence();
	kvfi_transport_shm.release(stage.transport, 0);
	goes_on_and_harms_nobody();
	is_admitted_again(2);
	assert_int_equal(stage.n_events, 0); /* of a peer that was disconnected nothing was told */
}

/* By a writer whose receiver is not here (any more). */
static void until_reported(enum kvfi_done_kind kind)
{
	struct report what = {.kind = 0};

	while (what.kind != kind)
		assert_int_equal(recv(stage.writers[0].fd, &what, sizeof(what), 0), sizeof(what));
}

static void a_fence_holds_over_close(void **state)
{
	struct kvfi_regions regions;

	(void)state;
	stage_connect(&stage, 0, 1);
	stop_inside();
	fence();
	kvfi_transport_shm.close(stage.transport);
	stage.transport = NULL;
	regions = stage.regions;
	stage_blank(&stage);
	assert_int_equal(kill(stage.writers[0].pid, SIGCONT), 0);
	until_reported(KVFI_DONE_TX);
	assert_true(stage_is_blank(&stage));
	kvfi_regions_fini(&regions);
	kvf_plan_free(stage.plan);
	kvf_layout_free(stage.dst_local);
}

static void a_page_that_was_never_touched_is_fenced_too(void **state)
{
	(void)state;
	stage_connect(&stage, 0, 1);
	stage_share(&stage); /* after the handshake: nobody populates it over there */
	stop_inside();
	fence();
	goes_on_and_harms_nobody();
	kvfi_transport_shm.release(stage.transport, 0);
	is_admitted_again(2);
}

static void other_writers_of_the_same_memory_go_on(void **state)
{
	(void)state;
	stage_connect(&stage, 0, 1);
	stage_connect(&stage, 1, 1);
	stop_inside();
	fence();
	stage_blank(&stage);
	stage_post(&stage, 1, 3);
	assert_int_equal(writer_await(&stage, 1, KVFI_DONE_TX).status, KVF_OK);
	assert_true(stage_has_arrived(&stage, 1));
	assert_int_equal(kill(stage.writers[0].pid, SIGCONT), 0);
	assert_int_equal(writer_await(&stage, 0, KVFI_DONE_TX).status, KVF_PEER_LOST);
	assert_true(stage_has_arrived(&stage, 1));
	stage_post(&stage, 1, 4); /* on the connection that it had */
	assert_int_equal(writer_await(&stage, 1, KVFI_DONE_TX).status, KVF_OK);
}

static void fencing_again_and_again_costs_no_descriptors(void **state)
{
	int before = 0;

	(void)state;
	for (uint64_t i = 0; i < 10; i++) {
		stage_connect(&stage, 0, 10 * i + 1);
		stop_inside();
		fence();
		goes_on_and_harms_nobody();
		kvfi_transport_shm.release(stage.transport, 0);
		is_admitted_again(10 * i + 2);
		kvfi_transport_shm.disconnect(stage.transport, 0);
		writer_order(&stage.writers[0], &(struct order){.what = WRITER_DISCONNECT});
		(void)writer_await(&stage, 0, 0);
		stage.n_events = 0;
		kvfi_shm_fence_sweep(kvfi_shm_self(stage.transport), false); /* as the timer does */
		assert_null(kvfi_shm_self(stage.transport)->fenced);
		if (i == 0)
			before = descriptors();
	}
	assert_int_equal(descriptors(), before);
}

/* ---- the end of a process */

static void kill_inside(void)
{
	atomic_store(stage.writers[0].fault, KVFI_FAULT_KILL);
	stage_post(&stage, 0, 0);
	(void)stage_await(&stage, KVFI_DONE_BROKEN, 0);
	assert_int_equal(atomic_load(stage.writers[0].fault), KVFI_FAULT_FIRED);
	kvfi_transport_shm.revoke(stage.transport, 0);
	assert_int_equal(stage_until_proven(&stage, 0), KVF_PROOF_PROCESS_EXIT);
}

static void a_killed_writer_is_noticed_and_its_end_is_a_proof(void **state)
{
	(void)state;
	stage_connect(&stage, 0, 1);
	kill_inside();
	kvfi_transport_shm.disconnect(stage.transport, 0);
	assert_int_equal(kvfi_transport_shm.proof(stage.transport, 0), KVF_PROOF_PROCESS_EXIT);
	kvfi_transport_shm.release(stage.transport, 0);
}

static void the_end_of_a_process_is_a_proof_after_disconnect(void **state)
{
	(void)state;
	stage_connect(&stage, 0, 1);
	stop_inside();
	kvfi_transport_shm.disconnect(stage.transport, 0);
	assert_int_equal(kill(stage.writers[0].pid, SIGKILL), 0);
	assert_int_equal(stage_until_proven(&stage, 0), KVF_PROOF_PROCESS_EXIT);
}

/* The child has every descriptor of the writer, so no socket is closed by its death; but none of its mappings. */
static void t_p49_a_forked_child_neither_hides_the_end_nor_can_it_store(void **state)
{
	struct report child;

	(void)state;
	stage_connect(&stage, 0, 1);
	writer_order(&stage.writers[0], &(struct order){.what = WRITER_FORK});
	child = writer_await(&stage, 0, 0);
	assert_int_equal(child.id, 0);
	skip_unless(kvfi_shm_self(stage.transport)->peers[0]->process_fd >= 0, "the kernel has no pidfd");
	kill_inside();
}

/* The other way round: the receiver dies, and a child of it holds its end of the connection. */
static void t_p49_a_forked_child_of_the_receiver_hides_nothing_either(void **state)
{
	int hold[2], status;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(hold), 0);
	stage_init(&stage, LARGE, 1, false);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)close(hold[1]);
		stage_open(&stage);
		stage_share(&stage);
		stage_connect(&stage, 0, 1);
		if (fork() == 0) {
			(void)!read(hold[0], &status, 1);
			_exit(0);
		}
		(void)raise(SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	until_reported(KVFI_DONE_BROKEN);
	(void)close(hold[0]);
	(void)close(hold[1]);
	stage_fini(&stage);
}

static void without_a_pidfd_a_closed_connection_proves_nothing(void **state)
{
	struct shm_link *link;

	(void)state;
	stage_connect(&stage, 0, 1);
	link = kvfi_shm_self(stage.transport)->peers[0];
	kvfi_shm_leave_process(link);
	(void)close(link->process_fd);
	link->process_fd = -1;
	atomic_store(stage.writers[0].fault, KVFI_FAULT_KILL);
	stage_post(&stage, 0, 0);
	(void)stage_await(&stage, KVFI_DONE_BROKEN, 0);
	kvfi_transport_shm.revoke(stage.transport, 0);
	for (int i = 0; i < 20; i++) {
		stage_turn(&stage, 1);
		assert_int_equal(kvfi_transport_shm.proof(stage.transport, 0), KVF_PROOF_NONE);
	}
}

/* Writer and receiver in name spaces of their own: neither has a number for the other. */
static void the_end_of_a_process_is_seen_between_pid_name_spaces(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	skip_unless(geteuid() == 0, "only root may make a pid name space");
	stage_init(&stage, LARGE, 1, true);
	pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
	assert_true(pid >= 0);
	if (pid == 0) {
		stage_open(&stage);
		stage_share(&stage);
		stage_connect(&stage, 0, 1);
		kill_inside();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	stage.transport = NULL;
	stage_fini(&stage);
}

#define PROCESS_TEST(function, set) cmocka_unit_test_setup_teardown(function, set, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PROCESS_TEST(a_writer_stopped_inside_a_lease_is_fenced_and_comes_back, setup),
		{"an_owner_stopped_inside_a_lease_is_fenced_and_comes_back",
			a_writer_stopped_inside_a_lease_is_fenced_and_comes_back, setup_small, teardown,
			NULL},
		PROCESS_TEST(a_fence_holds_over_disconnect, setup),
		PROCESS_TEST(a_fence_holds_over_close, setup),
		PROCESS_TEST(a_page_that_was_never_touched_is_fenced_too, setup),
		PROCESS_TEST(other_writers_of_the_same_memory_go_on, setup_two),
		PROCESS_TEST(fencing_again_and_again_costs_no_descriptors, setup),
		PROCESS_TEST(a_killed_writer_is_noticed_and_its_end_is_a_proof, setup),
		PROCESS_TEST(the_end_of_a_process_is_a_proof_after_disconnect, setup),
		PROCESS_TEST(t_p49_a_forked_child_neither_hides_the_end_nor_can_it_store, setup),
		cmocka_unit_test(t_p49_a_forked_child_of_the_receiver_hides_nothing_either),
		PROCESS_TEST(without_a_pidfd_a_closed_connection_proves_nothing, setup),
		cmocka_unit_test(the_end_of_a_process_is_seen_between_pid_name_spaces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
