/* SPDX-License-Identifier: MIT */
/*
 * kernel_user.c - a static program the tests put into guests: it uses what the kernel has in modules
 *
 *   kernel_user tun      makes a network device by way of /dev/net/tun
 *   kernel_user tables   asks nf_tables for its tables, as `nft list tables` does; prints the errno of the answer
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int use_tun(void)
{
	struct ifreq ifr = { .ifr_name = "tun0", .ifr_flags = IFF_TUN | IFF_NO_PI };
	const int fd = open("/dev/net/tun", O_RDWR);

	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0) {
		perror("/dev/net/tun");
		return 1;
	}
	printf("%s\n", ifr.ifr_name);
	close(fd);
	return 0;
}

/* A list without entries ends with NLMSG_DONE; a kernel without nf_tables says NLMSG_ERROR. */
static int use_tables(void)
{
	struct {
		struct nlmsghdr header;
		struct nfgenmsg gen;
	} ask = { { sizeof(ask), NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, NLM_F_REQUEST | NLM_F_DUMP, 1,
		    0 },
		  { AF_UNSPEC, NFNETLINK_V0, 0 } };
	union {
		struct nlmsghdr header;
		char bytes[8192];
	} answer;
	const int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);

	if (fd < 0 || send(fd, &ask, sizeof(ask), 0) < 0 || recv(fd, &answer, sizeof(answer), 0) <= 0) {
		perror("nf_tables");
		return 1;
	}
	printf("message %u\n", answer.header.nlmsg_type);
	close(fd);
	return answer.header.nlmsg_type == NLMSG_ERROR;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "tun"))
		return use_tun();
	if (argc == 2 && !strcmp(argv[1], "tables"))
		return use_tables();
	fprintf(stderr, "usage: kernel_user tun|tables\n");
	return 2;
}
