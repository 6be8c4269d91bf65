/* main.c - runs the suite for one transport: conformance NAME. */
#include "tests.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "transport/fault.h"
#include "transport/shm.h"
#include "transport/tcp_frame.h"

static int dial_shm(const void *address, size_t len_bytes)
{
	int fd = -1;

	(void)len_bytes;
	return kvfi_shm_dial(address, &fd) == KVF_OK ? fd : -1;
}

static int dial_tcp(const void *address, size_t len_bytes)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	struct kvfi_tcp_address parsed;
	int fd;

	if (kvfi_tcp_get_address(address, len_bytes, &parsed) != KVF_OK || parsed.family != 4)
		return -1;
	to.sin_port = htons(parsed.port);
	memcpy(&to.sin_addr, parsed.ip, sizeof(to.sin_addr));
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
		(void)close(fd);
		return -1;
	}
	return fd;
}

static const struct subject subjects[] = {
	{&kvfi_transport_loop, NULL},
	{&kvfi_transport_shm, dial_shm},
	{&kvfi_transport_tcp, dial_tcp},
};

static const struct CMUnitTest tests[] = {
	CONFORMANCE_TEST(every_byte_arrives_in_every_pairing_of_layouts),
	CONFORMANCE_TEST(unequal_blocks_and_heads_arrive),
	CONFORMANCE_TEST(sums_are_the_same_on_both_sides),
	CONFORMANCE_TEST(a_post_of_nothing_completes),
	CONFORMANCE_TEST(many_posts_at_once_complete_once_each),
	CONFORMANCE_TEST(a_full_table_of_posts_is_an_error_at_the_call),
	CONFORMANCE_TEST(two_peers_are_served_at_once),
	CONFORMANCE_TEST(t_p37_a_hundred_thousand_short_runs_arrive),
	CONFORMANCE_TEST(t_p45_completion_never_comes_before_the_data),
	CONFORMANCE_TEST(a_post_cancelled_before_it_began_stores_nothing),
	CONFORMANCE_TEST(a_post_cancelled_midway_ends_once_and_stores_nothing_more),
	CONFORMANCE_TEST(after_revoke_and_quiet_nothing_is_stored),
	CONFORMANCE_TEST(a_stale_grant_is_not_written_under),
	CONFORMANCE_TEST(a_grant_can_be_made_again_after_release),
	CONFORMANCE_TEST(t_p36_memory_is_ours_again_once_quiet),
	CONFORMANCE_TEST(t_p04_quiet_is_not_claimed_before_revoke),
	CONFORMANCE_TEST(numbers_change_while_bytes_move),
	CONFORMANCE_TEST(neither_cancel_nor_revoke_is_a_proof),
	CONFORMANCE_TEST(a_grant_is_provable_after_its_peer_was_disconnected),
	CONFORMANCE_TEST(a_fence_leaves_other_writers_alone),
	CONFORMANCE_TEST(frames_go_both_ways),
	CONFORMANCE_TEST(frames_that_find_the_socket_full_come_in_order),
	CONFORMANCE_TEST(a_connection_to_another_incarnation_is_refused),
	CONFORMANCE_TEST(a_connection_on_another_link_is_refused),
	CONFORMANCE_TEST(a_peer_that_nobody_expects_is_refused),
	CONFORMANCE_TEST(addresses_that_are_damaged_are_refused),
	CONFORMANCE_TEST(garbage_from_a_stranger_disturbs_nobody),
	CONFORMANCE_TEST(a_layout_that_leaves_its_region_is_refused),
	CONFORMANCE_TEST(memory_that_was_withdrawn_is_not_stored_into),
	CONFORMANCE_TEST(the_sender_learns_that_its_peer_has_closed),
	CONFORMANCE_TEST(the_receiver_learns_that_its_peer_has_closed),
	CONFORMANCE_TEST(disconnect_ends_the_posts_of_that_peer_alone),
	CONFORMANCE_TEST(close_completes_what_is_open),
	CONFORMANCE_TEST(a_peer_connects_again_under_a_new_link),
	CONFORMANCE_TEST(t_p49_a_forked_child_keeps_no_connection_alive),
};

/* "fault-shm": shm, wrapped, with every rate 0. */
static const char *wrapped_name(const char *name)
{
	return strncmp(name, "fault-", 6) == 0 ? name + 6 : NULL;
}

int main(int argc, char **argv)
{
	const char *wrapped = argc >= 2 ? wrapped_name(argv[1]) : NULL;
	static struct subject over;

	for (size_t i = 0; wrapped != NULL && i < sizeof(subjects) / sizeof(*subjects); i++) {
		if (strcmp(wrapped, subjects[i].ops->name) != 0)
			continue;
		over = (struct subject){kvfi_fault_over(subjects[i].ops), subjects[i].dial};
		subject = &over;
	}
	for (size_t i = 0; argc >= 2 && i < sizeof(subjects) / sizeof(*subjects); i++) {
		if (strcmp(argv[1], subjects[i].ops->name) == 0)
			subject = &subjects[i];
	}
	if (subject == NULL) {
		(void)fprintf(stderr, "usage: conformance [fault-]TRANSPORT [PATTERN]\n");
		return 2;
	}
	if (argc >= 3)
		cmocka_set_test_filter(argv[2]);
	return _cmocka_run_group_tests(subject->ops->name, tests, sizeof(tests) / sizeof(*tests), NULL, NULL);
}
