/* SPDX-License-Identifier: MIT */
/* list.h - intrusive circular doubly linked list, as in the kernel; an empty head points at itself */
#ifndef SBX_UTIL_LIST_H
#define SBX_UTIL_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *prev, *next;
};

#define LIST_INIT(head)                                                                                      \
	{                                                                                                    \
		&(head), &(head)                                                                             \
	}

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static inline void list_init(struct list *head)
{
	head->prev = head->next = head;
}

static inline bool list_empty(const struct list *head)
{
	return head->next == head;
}

static inline void list_insert(struct list *prev, struct list *next, struct list *item)
{
	item->prev = prev;
	item->next = next;
	prev->next = item;
	next->prev = item;
}

/* Add at the end, that is, before head. */
static inline void list_add(struct list *head, struct list *item)
{
	list_insert(head->prev, head, item);
}

/* Unlink; the item is left empty, so that deleting it twice is harmless. */
static inline void list_del(struct list *item)
{
	item->prev->next = item->next;
	item->next->prev = item->prev;
	list_init(item);
}

#define list_entry(ptr, type, member) container_of(ptr, type, member)

#define list_first(head, type, member) (list_empty(head) ? NULL : list_entry((head)->next, type, member))

#define list_for_each(pos, head, member)                                                                     \
	for ((pos) = list_entry((head)->next, __typeof__(*(pos)), member); &(pos)->member != (head);         \
	     (pos) = list_entry((pos)->member.next, __typeof__(*(pos)), member))

/* The current item may be unlinked and freed in the body, no other. */
#define list_for_each_safe(pos, tmp, head, member)                                                           \
	for ((pos) = list_entry((head)->next, __typeof__(*(pos)), member),                                   \
	    (tmp) = list_entry((pos)->member.next, __typeof__(*(pos)), member);                              \
	     &(pos)->member != (head);                                                                       \
	     (pos) = (tmp), (tmp) = list_entry((tmp)->member.next, __typeof__(*(tmp)), member))

#endif
