/* inbox.c - the queue into an agent's owner thread.
 *
 * A ring under a mutex that is held for one copy, with an eventfd that is written once between two drains. Pushers that produce without
 * bound (a stream's I/O thread) wait for room, which slows the stream down; pushers whose number is bounded by tables leave `keep` at 0 and
 * always find room.
 */
#include "base/inbox.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "base/status.h"

enum kvf_status kvfi_inbox_init(struct kvfi_inbox *inbox, uint32_t max, uint32_t item_bytes)
{
	memset(inbox, 0, sizeof(*inbox));
	inbox->items = calloc(max, item_bytes);
	if (inbox->items == NULL)
		return kvfi_fail(KVF_ENOMEM, "no memory for an inbox of %u items", max);
	inbox->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (inbox->event_fd < 0) {
		free(inbox->items);
		inbox->items = NULL;
		return kvfi_fail_errno(KVF_EIO, errno, "eventfd");
	}
	inbox->max = max;
	inbox->item_bytes = item_bytes;
	(void)pthread_mutex_init(&inbox->lock, NULL);
	(void)pthread_cond_init(&inbox->room, NULL);
	return KVF_OK;
}

void kvfi_inbox_fini(struct kvfi_inbox *inbox)
{
	if (inbox->items == NULL)
		return;
	(void)close(inbox->event_fd);
	(void)pthread_cond_destroy(&inbox->room);
	(void)pthread_mutex_destroy(&inbox->lock);
	free(inbox->items);
	inbox->items = NULL;
}

/* Under the lock. */
static void signal_drainer(struct kvfi_inbox *inbox)
{
	uint64_t one = 1;

	if (inbox->signalled)
		return;
	inbox->signalled = true;
	(void)!write(inbox->event_fd, &one, sizeof(one));
}

static void put(struct kvfi_inbox *inbox, const void *item)
{
	uint32_t at = (inbox->head + inbox->n) % inbox->max;

	memcpy(inbox->items + (size_t)at * inbox->item_bytes, item, inbox->item_bytes);
	inbox->n++;
}

bool kvfi_inbox_push(struct kvfi_inbox *inbox, const void *item, uint32_t keep)
{
	bool room;

	(void)pthread_mutex_lock(&inbox->lock);
	room = !inbox->closed && inbox->n + keep < inbox->max;
	if (room) {
		put(inbox, item);
		signal_drainer(inbox);
	}
	(void)pthread_mutex_unlock(&inbox->lock);
	return room;
}

bool kvfi_inbox_push_own(struct kvfi_inbox *inbox, const void *item)
{
	bool room;

	(void)pthread_mutex_lock(&inbox->lock);
	room = !inbox->closed && inbox->n < inbox->max;
	if (room)
		put(inbox, item);
	(void)pthread_mutex_unlock(&inbox->lock);
	return room;
}

bool kvfi_inbox_any(struct kvfi_inbox *inbox)
{
	bool any;

	(void)pthread_mutex_lock(&inbox->lock);
	any = inbox->n > 0;
	(void)pthread_mutex_unlock(&inbox->lock);
	return any;
}

bool kvfi_inbox_push_wait(struct kvfi_inbox *inbox, const void *item, uint32_t keep)
{
	bool open;

	(void)pthread_mutex_lock(&inbox->lock);
	while (!inbox->closed && inbox->n + keep >= inbox->max)
		(void)pthread_cond_wait(&inbox->room, &inbox->lock);
	open = !inbox->closed;
	if (open) {
		put(inbox, item);
		signal_drainer(inbox);
	}
	(void)pthread_mutex_unlock(&inbox->lock);
	return open;
}

void kvfi_inbox_wake(struct kvfi_inbox *inbox)
{
	(void)pthread_mutex_lock(&inbox->lock);
	signal_drainer(inbox);
	(void)pthread_mutex_unlock(&inbox->lock);
}

void kvfi_inbox_nudge(struct kvfi_inbox *inbox)
{
	uint64_t one = 1;

	if (!atomic_exchange(&inbox->nudged, true))
		(void)!write(inbox->event_fd, &one, sizeof(one));
}

bool kvfi_inbox_pop(struct kvfi_inbox *inbox, void *item_out)
{
	bool any;

	(void)pthread_mutex_lock(&inbox->lock);
	any = inbox->n > 0;
	if (any) {
		memcpy(item_out, inbox->items + (size_t)inbox->head * inbox->item_bytes, inbox->item_bytes);
		inbox->head = (inbox->head + 1) % inbox->max;
		inbox->n--;
		(void)pthread_cond_broadcast(&inbox->room);
	}
	(void)pthread_mutex_unlock(&inbox->lock);
	return any;
}

void kvfi_inbox_rearm(struct kvfi_inbox *inbox)
{
	uint64_t count = 0;

	(void)pthread_mutex_lock(&inbox->lock);
	inbox->owed += atomic_exchange(&inbox->nudged, false);
	/* A nudge sets its flag before it writes, and may be stopped in between: what was not there yet is read the next time, for a descriptor
	 * that stayed readable would let the drainer spin. */
	if (inbox->signalled || inbox->owed > 0) {
		if (read(inbox->event_fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
			count = 0;
		inbox->owed -= (int64_t)count - inbox->signalled;
	}
	inbox->signalled = false;
	(void)pthread_mutex_unlock(&inbox->lock);
}

void kvfi_inbox_shut(struct kvfi_inbox *inbox)
{
	(void)pthread_mutex_lock(&inbox->lock);
	inbox->closed = true;
	(void)pthread_cond_broadcast(&inbox->room);
	(void)pthread_mutex_unlock(&inbox->lock);
}
