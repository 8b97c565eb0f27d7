/* SPDX-License-Identifier: MIT */
/* resolver.c - asks this host's resolvers what guests ask */
#include "vm/net/resolver.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { TRY_MS = 2000, TRIES_MAX = 4 };

void resolver_init(struct resolver *resolver)
{
	unsigned i;

	memset(resolver, 0, sizeof(*resolver));
	for (i = 0; i < QUERIES_MAX; i++)
		resolver->query[i].fd = -1;
}

static void query_end(struct query *query)
{
	close(query->fd);
	query->fd = -1;
}

/* Ask the next server; false: nobody is left. */
static bool ask_next(struct resolver *resolver, struct query *query, uint64_t now_ns)
{
	struct sockaddr_storage to;
	socklen_t size;
	unsigned at;

	while (resolver->nservers && query->tries < TRIES_MAX) {
		at = query->tries++ % resolver->nservers;
		if (query->fd >= 0)
			close(query->fd);
		query->fd = socket(resolver->server[at].addr.family,
				   SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		size = net_addr_socket(&resolver->server[at].addr, resolver->server[at].port, &to);
		query->until_ns = now_ns + TRY_MS * UINT64_C(1000000);
		if (getrandom(&query->id, sizeof(query->id), 0) != sizeof(query->id))
			continue;
		dns_set_id(query->msg, query->id);
		if (query->fd >= 0 && !connect(query->fd, (const struct sockaddr *)&to, size) &&
		    send(query->fd, query->msg, query->n, MSG_NOSIGNAL) == (ssize_t)query->n)
			return true;
	}
	return false;
}

static void give_up(struct filter *filter, struct query *query)
{
	if (query->fd >= 0)
		query_end(query);
	filter_no_answer(filter, &query->client);
}

void resolver_ask(struct resolver *resolver, struct filter *filter, const struct dns_client *client,
		  const uint8_t *msg, size_t n, uint64_t now_ns)
{
	struct query *query;

	for (query = resolver->query; query < resolver->query + QUERIES_MAX && query->fd >= 0; query++)
		;
	if (query == resolver->query + QUERIES_MAX || n > sizeof(query->msg))
		return;
	query->client = *client;
	query->tries = 0;
	query->n = n;
	memcpy(query->msg, msg, n);
	if (!ask_next(resolver, query, now_ns))
		give_up(filter, query);
}

unsigned resolver_poll(const struct resolver *resolver, struct pollfd *fds, int *timeout_ms, uint64_t now_ns)
{
	const struct query *query;
	unsigned n = 0;
	int left;

	for (query = resolver->query; query < resolver->query + QUERIES_MAX; query++) {
		if (query->fd < 0)
			continue;
		fds[n++] = (struct pollfd){ .fd = query->fd, .events = POLLIN };
		left = query->until_ns > now_ns ? (int)((query->until_ns - now_ns) / 1000000 + 1) : 0;
		if (*timeout_ms < 0 || left < *timeout_ms)
			*timeout_ms = left;
	}
	return n;
}

static void work(struct resolver *resolver, struct filter *filter, struct query *query, uint64_t now_ns)
{
	uint8_t msg[DNS_MESSAGE_MAX];
	const ssize_t n = recv(query->fd, msg, sizeof(msg), 0);
	const bool nothing = n < 0 && (errno == EAGAIN || errno == EINTR);

	if (n >= DNS_HEADER && msg[0] == query->msg[0] && msg[1] == query->msg[1] &&
	    dns_is_answer(msg, (size_t)n, &query->client.question)) {
		query_end(query);
		dns_set_id(msg, query->client.question.id);
		filter_answer(filter, &query->client, msg, (size_t)n, now_ns);
	} else if (((n < 0 && !nothing) || now_ns >= query->until_ns) && !ask_next(resolver, query, now_ns)) {
		/* Refused by who is asked (ICMP), or too late. A forged answer only waits on. */
		give_up(filter, query);
	}
}

void resolver_work(struct resolver *resolver, struct filter *filter, uint64_t now_ns)
{
	struct query *query;

	for (query = resolver->query; query < resolver->query + QUERIES_MAX; query++)
		if (query->fd >= 0)
			work(resolver, filter, query, now_ns);
}
