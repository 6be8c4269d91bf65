/* list.h - intrusive doubly linked list. One thread. */
#ifndef KVFI_BASE_LIST_H
#define KVFI_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct kvfi_list {
	struct kvfi_list *prev, *next;
};

#define kvfi_container_of(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#define kvfi_list_for_each(at, head) for (struct kvfi_list *at = (head)->next; at != (head); at = at->next)
/* The body may take `at` out. */
#define kvfi_list_for_each_safe(at, head)                                                                    \
	for (struct kvfi_list *at = (head)->next, *at##_next = at->next; at != (head);                       \
		at = at##_next, at##_next = at->next)

static inline void kvfi_list_init(struct kvfi_list *node)
{
	node->prev = node;
	node->next = node;
}

static inline bool kvfi_list_empty(const struct kvfi_list *head)
{
	return head->next == head;
}

static inline void kvfi_list_append(struct kvfi_list *head, struct kvfi_list *node)
{
	node->prev = head->prev;
	node->next = head;
	head->prev->next = node;
	head->prev = node;
}

/* Safe on a node that is in no list but was initialised. */
static inline void kvfi_list_remove(struct kvfi_list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	kvfi_list_init(node);
}

#endif
