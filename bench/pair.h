/* pair.h - one prefill agent and one decode agent, in two processes when the control channel can cross them, else in two threads.
 *
 * The driver (this process) owns the decode agent and gives orders to the sender over a socket; each order has one answer. Both use
 * CLOCK_MONOTONIC, which is one for the host.
 */
#ifndef KVFB_PAIR_H
#define KVFB_PAIR_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>
#include "bench/measure.h"
#include "bench/shape.h"

struct pair_spec {
	const char *transport; /* shm, tcp */
	uint32_t workers;
	struct shape shape;
	bool roof; /* memory for roofs is needed */
};

enum order_kind {
	ORDER_END = 1,
	ORDER_FILL,   /* the source pool, with salt */
	ORDER_SEND,   /* request: when the receiver has asked */
	ORDER_EARLY,  /* request: send now; answers twice: sent, over */
	ORDER_SERVE,  /* n requests from request on, window at once */
	ORDER_COPY,   /* roof: the runs by memcpy */
	ORDER_STREAM, /* roof: the source pool as one stream */
	ORDER_ECHO,   /* roof: n round trips over the order socket's twin */
	ORDER_QUEUE,  /* roof: n round trips over a ZeroMQ socket */
	ORDER_CPU     /* how much this side has used */
};

struct order {
	enum order_kind kind;
	uint32_t n, window;
	uint64_t request, salt;
};

struct answer {
	uint64_t begin_ns, end_ns, cpu_ns, plan_ns;
};

/* One side's agent. */
struct rank {
	enum kvf_role role;
	kvf_agent *agent;
	kvf_region region;
	struct shape_layout layout;
	struct kvf_instance *instance;
	unsigned char *pool;
	struct kvf_event events[64]; /* polled, not taken yet */
	int n_events, at_event;
};

struct pair {
	struct pair_spec spec;
	char directory[64];
	bool own_process;
	pid_t child;
	pthread_t thread;
	int orders[2], echo[2]; /* driver's end, sender's end */
	int stream[2];
	struct rank rank; /* the driver's, decode */
	uint64_t next_request;
};

void pair_open(struct pair *pair, const struct pair_spec *spec);
void pair_close(struct pair *pair);

void pair_order(struct pair *pair, const struct order *order);
struct answer pair_answer(struct pair *pair);

/* Ask for a request into the driver's pool, and take its events. */
kvf_session pair_receive(struct pair *pair, uint64_t request);
/* Waits for OUTCOME; returns when it was seen. */
uint64_t pair_outcome(struct pair *pair, kvf_session session);
/* Waits for RELEASED, then closes the session. */
void pair_release(struct pair *pair, kvf_session session);

/* One transfer with the request there before it is sent; seconds from send to OUTCOME at the receiver. answer_out may be NULL. */
double pair_transfer(struct pair *pair, struct answer *answer_out);
/* One transfer into a pool full of other bytes; ends the program if a byte is wrong. */
void pair_verify(struct pair *pair);

/* sender.c */
void sender_run(struct pair *pair);

/* rank.c */
void rank_open(struct rank *rank, const struct pair *pair, enum kvf_role role);
void rank_close(struct rank *rank);
void rank_lists(const struct shape *shape, enum kvf_role role, int32_t *ids, struct kvf_blocks *list_out);
/* Takes one event; sleeps for it, at most 30 s. */
struct kvf_event rank_event(struct rank *rank);

#endif
