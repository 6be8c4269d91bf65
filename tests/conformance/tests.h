/* tests.h - the suite: each file gives its tests to main.c, which runs them all for every transport of its table. */
#ifndef TESTS_CONFORMANCE_TESTS_H
#define TESTS_CONFORMANCE_TESTS_H

#include "harness.h"

#define CONFORMANCE_TEST(function) cmocka_unit_test_setup_teardown(function, bench_setup, bench_teardown)

/* move.c */
void every_byte_arrives_in_every_pairing_of_layouts(void **state);
void unequal_blocks_and_heads_arrive(void **state);
void sums_are_the_same_on_both_sides(void **state);
void a_post_of_nothing_completes(void **state);
void many_posts_at_once_complete_once_each(void **state);
void a_full_table_of_posts_is_an_error_at_the_call(void **state);
void two_peers_are_served_at_once(void **state);
void t_p37_a_hundred_thousand_short_runs_arrive(void **state);
void t_p45_completion_never_comes_before_the_data(void **state);

/* stop.c */
void a_post_cancelled_before_it_began_stores_nothing(void **state);
void a_post_cancelled_midway_ends_once_and_stores_nothing_more(void **state);
void after_revoke_and_quiet_nothing_is_stored(void **state);
void a_stale_grant_is_not_written_under(void **state);
void a_grant_can_be_made_again_after_release(void **state);
void t_p36_memory_is_ours_again_once_quiet(void **state);
void t_p04_quiet_is_not_claimed_before_revoke(void **state);

/* proof.c */
void numbers_change_while_bytes_move(void **state);
void neither_cancel_nor_revoke_is_a_proof(void **state);
void a_grant_is_provable_after_its_peer_was_disconnected(void **state);
void a_fence_leaves_other_writers_alone(void **state);

/* peers.c */
void frames_go_both_ways(void **state);
void frames_that_find_the_socket_full_come_in_order(void **state);
void a_connection_to_another_incarnation_is_refused(void **state);
void a_connection_on_another_link_is_refused(void **state);
void a_peer_that_nobody_expects_is_refused(void **state);
void addresses_that_are_damaged_are_refused(void **state);
void garbage_from_a_stranger_disturbs_nobody(void **state);
void a_layout_that_leaves_its_region_is_refused(void **state);
void memory_that_was_withdrawn_is_not_stored_into(void **state);
void the_sender_learns_that_its_peer_has_closed(void **state);
void the_receiver_learns_that_its_peer_has_closed(void **state);
void disconnect_ends_the_posts_of_that_peer_alone(void **state);
void close_completes_what_is_open(void **state);
void a_peer_connects_again_under_a_new_link(void **state);
void t_p49_a_forked_child_keeps_no_connection_alive(void **state);

#endif
