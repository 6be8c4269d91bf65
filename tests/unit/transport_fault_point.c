/* transport_fault_point.c - the fault point fires once, in the process whose word was armed, and nowhere without the variable.
 *
 * Children do the firing: the first ends itself, the second stops itself and is continued.
 */
#include "transport/fault_point.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static int memory_fd;
static _Atomic uint32_t *word;

static int setup(void **state)
{
	char where[32];
	(void)state;
	memory_fd = memfd_create("fault-point", MFD_CLOEXEC);
	if (memory_fd < 0 || ftruncate(memory_fd, 8192) != 0)
		return -1;
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 4096);
	if (page == MAP_FAILED)
		return -1;
	word = page;
	(void)snprintf(where, sizeof(where), "%d:4096", memory_fd);
	return setenv("KVFERRY_FAULT_POINT", where, 1);
}

/* The child passes the point twice; 0: it went on behind it. */
static pid_t pass_in_child(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		kvfi_fault_point_init();
		for (int i = 0; i < 2; i++) {
			if (kvfi_fault_armed())
				kvfi_fault_fire();
		}
		_exit(0);
	}
	return pid;
}

static void armed_to_kill_it_kills_once(void **state)
{
	int status;
	(void)state;
	atomic_store(word, KVFI_FAULT_KILL);
	pid_t pid = pass_in_child();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(atomic_load(word), KVFI_FAULT_FIRED);

	pid = pass_in_child();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void armed_to_stop_it_stops_and_goes_on_when_continued(void **state)
{
	int status;
	(void)state;
	atomic_store(word, KVFI_FAULT_STOP);
	pid_t pid = pass_in_child();
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(atomic_load(word), KVFI_FAULT_FIRED);
	assert_int_equal(kill(pid, SIGCONT), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void without_the_variable_there_is_none(void **state)
{
	int status;
	(void)state;
	assert_int_equal(unsetenv("KVFERRY_FAULT_POINT"), 0);
	atomic_store(word, KVFI_FAULT_KILL);
	pid_t pid = pass_in_child();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_int_equal(atomic_load(word), KVFI_FAULT_KILL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(armed_to_kill_it_kills_once),
		cmocka_unit_test(armed_to_stop_it_stops_and_goes_on_when_continued),
		cmocka_unit_test(without_the_variable_there_is_none),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
