/* SPDX-License-Identifier: MIT */
/*
 * proto.h - what the host and sbx-agent say to each other over the agent channel
 *
 * The channel is a byte stream (a virtio-console port named "sbx.agent" in the guest). Everything on it is a
 * frame: a 16-byte header, at most PROTO_PAYLOAD_MAX bytes of payload and a 4-byte trailer, all numbers
 * little-endian, strings and byte runs with a u32 length before them (util/buf.h). Neither side trusts the
 * other's lengths.
 *
 * Capture and the channel. A machine is captured with the channel empty: the host sends QUIESCE, the guest
 * answers QUIESCED and then says nothing until the host speaks again, so that no frame is cut in two by the
 * capture. A guest that does not answer in time is captured all the same; then the stream may be cut
 * anywhere, and the host sends a preamble of PROTO_RESYNC zero bytes first: they complete a frame that was
 * cut, and the trailer, which is then zero, tells that it is not to be believed. In the other direction the
 * new host may see the end of a frame whose beginning an old one got, and skips it. Either way the host opens
 * the channel of a resumed or forked machine with ATTACH, which carries a new generation, and drops every
 * frame of an older one.
 *
 * Flow control is per job and absolute: a side may send stream bytes up to the offset the other granted (as
 * QUIC's MAX_STREAM_DATA). The guest grants stdin as the command reads it; the host grants stdout and stderr
 * only while someone reads them. Output nobody has asked for therefore stays in the guest, and every fork
 *  * still has it.
 *
 * A record that does not fit a frame (a command with its environment) comes in pieces: F_JOB_PART frames, and
 * the frame it is meant for with the rest. One is under way at a time in each direction; a part with another id
 * begins the next, and what was begun under another generation is forgotten.
 */
#ifndef SBX_VM_AGENT_PROTO_H
#define SBX_VM_AGENT_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/buf.h"

enum {
	PROTO_VERSION = 5,
	PROTO_MAGIC = 0x31584253,         /* "SBX1" */
	PROTO_TRAILER_MAGIC = 0x30584253, /* "SBX0" */
	PROTO_HEADER = 16,
	PROTO_TRAILER = 4,
	PROTO_PAYLOAD_MAX = 64 * 1024,
	PROTO_RESYNC = PROTO_HEADER + PROTO_PAYLOAD_MAX + PROTO_TRAILER,
	/* an encoded job_spec: the 2 MiB that Linux gives a program's arguments and environment, and change */
	PROTO_SPEC_MAX = (2 << 20) + (64 << 10),
	PROTO_RECORD_MAX = PROTO_SPEC_MAX + 1024, /* a job_info: what it adds to a spec fits */
	PROTO_DATA_MAX = 32 * 1024,               /* stream or file bytes in one frame */
	/* What is best read of a file at once: with what is around it, it is one write to a virtio port, which takes
	 * 32 KiB, and is busy until the host has taken those. */
	PROTO_READ_BEST = 28 * 1024,
	PROTO_NAME_MAX = 64,
};

#define PROTO_PORT "sbx.agent"

/* The header: u32 magic, u16 type, u16 generation (low 16 bits of ATTACH's), u32 id, u32 payload length. */
struct frame {
	uint16_t type;
	uint16_t generation;
	uint32_t id; /* the job's number, or the tag of a request and of its reply */
	uint32_t len;
	const uint8_t *payload; /* in the parser's buffer; valid until the next call */
};

/*
 * H: from the host. G: from the guest. id is 0 where nothing is said of it. Job frames with an id the host
 * does not know (of a fork, before JOB_LIST was answered) say nothing that JOB_INFO does not say again.
 */
enum frame_type {
	/* The channel */
	F_READY = 1, /* G: u32 version. The agent runs and waits for ATTACH; after a boot */
	F_ATTACH,    /* H: u32 version, u32 generation, u8 kind (enum attach_kind), identity (see below) */
	F_ATTACHED,  /* G: i32 errno, str reason. Identity is applied, hooks ran: commands may come */
	F_QUIESCE,   /* H: u8 why (enum quiesce_why) */
	/* G: id is echoed; i32 errno, str reason. The last frame until F_ATTACH or F_UNQUIESCE; but with an errno hooks
	 * refuse the capture, and nothing has changed */
	F_QUIESCED,
	F_UNQUIESCE, /* H: u64 wall clock. Go on in the same generation (after a pause, or a capture) */
	F_PING,      /* H: id is echoed */
	F_PONG,      /* G */
	F_POWEROFF,  /* H: hooks, TERM to all, sync, power off */
	F_HOOKS,     /* G: id of the F_QUIESCE; hooks run first, and F_QUIESCED comes when they have ended */

	/* Jobs; id is the job's number, chosen by the host, unique in the machine's whole history */
	F_JOB_START = 32, /* H: struct job_spec as job_spec_put writes it */
	/* G: i32 errno, str reason, u32 pid, u8 what a shell's $? would be where it did not start */
	F_JOB_STARTED,
	F_JOB_STDIN,     /* H: bytes, the rest of the payload */
	F_JOB_STDIN_EOF, /* H */
	/* G: u64 offset up to which stdin may be sent; UINT64_MAX: nobody reads it any more (EPIPE) */
	F_JOB_STDIN_MAX,
	F_JOB_STDOUT,     /* G: bytes, the rest of the payload; an empty one is end of file */
	F_JOB_STDERR,     /* G: likewise */
	F_JOB_STDOUT_MAX, /* H: u64 offset up to which stdout is wanted */
	F_JOB_STDERR_MAX, /* H: likewise */
	/* G: u8 how (0 exited, 1 signaled), u32 code, u64 and u64: how much of stdout and stderr there was then.
	 * They may go on: a child may hold them */
	F_JOB_EXIT,
	F_JOB_KILL,   /* H: u32 signal, to the job's process group */
	F_JOB_RESIZE, /* H: u16 rows, u16 columns */
	F_JOB_FORGET, /* H: kill its command; what an ended one left behind goes on, its output goes nowhere */
	F_JOB_LIST,   /* H: tag in id; asked after ATTACH of a fork */
	F_JOB_INFO,   /* G: tag in id; struct job_info as job_info_put writes it, one for each job */
	F_JOB_LIST_END, /* G: tag in id */
	F_JOB_PART, /* H, G: bytes of a record; with the id of the F_JOB_START or F_JOB_INFO that has the last */

	/* The guest's files; id is a tag, every request has one reply with the same tag */
	F_FS = 64,  /* H: u8 op (enum fs_op), arguments (see enum fs_op) */
	F_FS_REPLY, /* G: i32 errno (0 or positive Linux errno), results */

	/* The machine */
	F_RESIZE = 80, /* H: u32 cpus, u64 memory in bytes the guest should have */
	F_RESIZED,     /* G: i32 errno, str reason, u32 cpus, u64 memory now */
	F_CLOCK,   /* H: u64 wall clock (ns since 1970), to which the guest's is put forward, never back */
	F_CLOCKED, /* G: tag in id */

	/*
	 * The kernel's modules that an image does not have, read from the host's file of them (vm/agent/modules.h) for
	 * whoever loads one. A guest asks for one piece at a time, and asks again after F_ATTACH.
	 */
	F_MODULES = 112, /* G: u64 offset, u32 wanted (<= PROTO_READ_BEST); id is echoed */
	/* H: i32 errno, u64 which file it is, then what is there, rest of the payload; nothing behind its end */
	F_MODULES_DATA,

	/*
	 * What a program in the guest asks of its own sandbox, one at a time; id is the guest's number for it. One that
	 * was not begun when the machine became another (F_ATTACH) is asked anew there, under the same number.
	 */
	F_GUEST_ASK = 96, /* G: u8 verb (enum guest_verb), u32 number, str name */
	F_GUEST_BEGUN,    /* H: a capture follows for it: who is copied from that is no longer who asked */
	F_GUEST_DONE,     /* H: i32 errno, str reason */
};

/* "ATTACH"; "an unknown frame" where the list has none. */
const char *frame_name(uint16_t type);

enum attach_kind {
	ATTACH_BOOT, /* first ever: apply all of the identity */
	/* a new machine that began as a copy: new identity, open files of the old host's are closed */
	ATTACH_FORK,
	ATTACH_RESUME,   /* the same machine goes on: identity is as it was, but for its name, which users
			    may have changed, and the clock */
	ATTACH_REHEARSE, /* a machine that will be a fork goes through the motions of ATTACH_FORK: fresh
			    entropy and the clock, but no name changes and no hook runs */
	ATTACH_RETURN, /* as ATTACH_FORK, of a sandbox whose machine goes back to what it was: after a rollback */
	/* the same machine goes on in another process, after it was stored: as ATTACH_RESUME, with fresh entropy
	 * and without the connections that left it */
	ATTACH_WAKE,
	ATTACH_WAKE_ANEW, /* the same, and the host knows of nothing: open files of the old host's are closed */
};

enum quiesce_why { QUIESCE_PAUSE, QUIESCE_CAPTURE /* hooks run before it, and may refuse it */ };

enum guest_verb { GUEST_FORK = 1, GUEST_CHECKPOINT, GUEST_SUSPEND };
/* "fork"; NULL where there is no such verb. */
const char *guest_verb_name(uint8_t verb);

enum { IDENTITY_ENTROPY = 64, IDENTITY_MACHINE_ID = 16, IDENTITY_ENV_MAX = 16384 };

/*
 * Who the machine is, in F_ATTACH: str name (hostname, SBX_NAME), u64 wall clock (ns since 1970), bytes
 * entropy (credited to the kernel's generator, which is then reseeded), bytes machine id, u32 count and that
 * many str "K=V" (added to the environment of commands from now on), u32 copy: which of the copies it is that a
 * program in the guest asked for (F_GUEST_ASK), from 1 on; 0: none of them.
 */

/*
 * F_FS operations.
 *
 * A FILE is: u32 handle of an open one, or 0; str path; u8 checked; id. Without a handle it is what the path
 * names: absolute in the guest, without "." and "..", at most PATH_MAX - 1 bytes; symbolic links in it are
 * not followed at the last component. `checked`: only if that is the file `id`; another one, or none there,
 * is answered with PROTO_STALE. A NAME is: FILE, a directory; str, a name in it.
 *
 * id is what a file is known by under any name: u64 dev, u64 ino, u64 gen, the last to tell a file from one
 * that had the number before. attr is: id, u32 mode, u32 nlink, u32 uid, u32 gid, u64 rdev, u64 size, u64
 * blocks, atime, mtime, ctime (each u64 seconds since 1970, two's complement, u32 nanoseconds), u32 flags
 * (enum fs_attr_flags); a symbolic link's is followed by str target. A MAKER is: u32 mode, u32 umask, which holds
 * where the directory has no default ACL, u32 uid, u32 gid. `other`: who asks is not root, so set-user-ID and
 * set-group-ID bits go as they do when such a user writes to a file. Operations that make, remove
 * or rename a name end their results with attr of each directory they did so in, if the guest can tell. Operations
 * never block on a FIFO or a
 * device: only regular files can be opened (EACCES otherwise... ENXIO for a FIFO without peer is not seen).
 */
enum fs_op {
	FS_GETATTR = 1, /* FILE -> attr */
	FS_SETATTR,     /* FILE, u32 valid (enum fs_valid; 0: just ask), attr -> attr */
	FS_READDIR,     /* FILE, u64 cookie -> u8 more, u32 count, then count of: u64 next cookie, str name,
			   attr; "." and ".." are left out */
	FS_READLINK,    /* FILE -> str target */
	/* With FS_OPEN_DATA the content of one of up to PROTO_READ_BEST bytes may follow, rest of the payload. */
	FS_OPEN,   /* FILE, u32 flags (O_ACCMODE|O_TRUNC|O_APPEND), u8 other -> u32 handle, attr */
	FS_CREATE, /* NAME, u32 flags, MAKER, u8 other -> u32 handle, attr */
	FS_READ,  /* u32 handle, u64 offset, u32 size (<= PROTO_DATA_MAX) -> the bytes, rest of the payload */
	FS_WRITE, /* u32 handle, u64 offset, u8 other, then the bytes, rest of the payload -> u32 written */
	FS_CLOSE, /* u32 handle */
	FS_FSYNC, /* u32 handle */
	FS_MKDIR, /* NAME, MAKER -> attr */
	FS_UNLINK,  /* NAME */
	FS_RMDIR,   /* NAME */
	FS_RENAME,  /* NAME from, NAME to, u32 flags (renameat2) */
	FS_SYMLINK, /* NAME, str target, u32 uid, u32 gid -> attr */
	FS_LINK,    /* FILE existing, NAME -> attr */
	FS_MKNOD,   /* NAME, u64 rdev, MAKER -> attr */
	/* FILE -> u64 bsize, u64 blocks, u64 bfree, u64 bavail, u64 files, u64 ffree, u32 namemax */
	FS_STATFS,
	FS_SYNC,   /* what was written to the root filesystem reaches the disk */
	FS_LOOKUP, /* NAME -> attr */
	/* FILE -> u32 handle (0: the directory is to be read by its path), then as READDIR for cookie 0 */
	FS_OPENDIR,
	FS_SEEK,      /* u32 handle, u64 offset, u32 whence (SEEK_DATA or SEEK_HOLE) -> u64 offset */
	FS_FALLOCATE, /* u32 handle, u32 mode (of fallocate(2)), u64 offset, u64 length, u8 other */
	/* FILE, str name ("": the names of all there are, each with a NUL behind it), u32 offset, u32 wanted
	 * (<= PROTO_DATA_MAX) -> u64 hash of the value, u32 its size, then as much of it, rest of the payload */
	FS_GETXATTR,
	/* FILE, str name, u32 flags (of setxattr(2)), u32 token, then the value, rest of the payload */
	FS_SETXATTR,
	FS_REMOVEXATTR, /* FILE, str name */
	/* u32 token, not 0, then the beginning, rest of the payload, of the value in the FS_SETXATTR with this token,
	 * which is the next */
	FS_XATTR_PART,
};

enum { FS_OPEN_DATA = 1 << 30 /* of the flags of FS_OPEN: it will be read */ };

/* "getattr" */
const char *fs_op_name(enum fs_op op);

enum fs_valid {
	FSV_MODE = 1,
	FSV_UID = 2,
	FSV_GID = 4,
	FSV_SIZE = 8,
	FSV_ATIME = 16,
	FSV_MTIME = 32,
	FSV_OTHER = 64 /* `other`, of a size */
};

enum fs_attr_flags { FSA_NO_XATTR = 1 /* it has no extended attributes */ };

/* What Linux allows of a value, and of a list of names. */
enum { FS_XATTR_MAX = 65536 };

/* Above every errno of Linux, so that no file of a guest can say it. */
enum { PROTO_STALE = 4096 };

struct fs_id {
	uint64_t dev, ino, gen;
};

struct fs_time {
	int64_t sec;
	uint32_t nsec;
};

struct fs_attr {
	struct fs_id id;
	uint32_t mode, nlink, uid, gid;
	uint64_t rdev, size, blocks;
	struct fs_time atime, mtime, ctime;
	uint32_t flags;
};

static inline bool fs_id_same(const struct fs_id *a, const struct fs_id *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->gen == b->gen;
}

/* FNV-1a. */
uint64_t fs_hash(const uint8_t *p, size_t n);

/* A FILE. id: NULL where it is not checked. */
void fs_file_put(struct buf *buf, uint32_t handle, const char *path, const struct fs_id *id);
void fs_id_get(struct reader *r, struct fs_id *id);
void fs_attr_put(struct buf *buf, const struct fs_attr *attr);
void fs_attr_get(struct reader *r, struct fs_attr *attr);
/* The answer to a GETXATTR: of a value, or list, of n bytes, those from offset on, and not more than wanted. */
void fs_xattr_put(struct buf *buf, const uint8_t *value, size_t n, uint32_t offset, uint32_t wanted);

/* What a job is. Strings and arrays are owned; job_spec_release frees them. */
struct job_spec {
	char name[PROTO_NAME_MAX + 1]; /* exec/NAME; "" for the anonymous job of `run` */
	char *cmd;                     /* a shell line for /bin/sh -c, or argv separated by NULs */
	size_t cmd_len;
	int is_argv;      /* cmd holds at least one NUL: an argv */
	char *cwd, *user; /* NULL: what the image says, else the user's home (or /) and root */
	char **env;       /* "K=V", NULL-terminated; added to the machine's; may be NULL */
	int tty;          /* one terminal instead of three pipes: stderr is then empty */
	uint16_t rows, cols;
	int merge;      /* stderr goes to stdout (`run`) */
	int stdin_open; /* 0: /dev/null */
};
void job_spec_put(struct buf *buf, const struct job_spec *spec);
/* 0, -EBADMSG, -E2BIG (above PROTO_SPEC_MAX) or -ENOMEM; on success spec owns what it points at. */
int job_spec_get(struct reader *r, struct job_spec *spec);
void job_spec_release(struct job_spec *spec);

/* What shells say of a command that did not run. */
enum { EXIT_NOT_BEGUN = 125, EXIT_NOT_EXECUTABLE = 126, EXIT_NOT_FOUND = 127 };

enum job_state { JOB_RUNNING, JOB_EXITED, JOB_SIGNALED, JOB_FAILED };

/* A job that a fork inherited. Offsets are stream bytes since the job's start. */
struct job_info {
	uint32_t id;
	struct job_spec spec;
	uint8_t state; /* enum job_state */
	uint32_t code; /* exit status, signal or errno */
	uint8_t shell; /* JOB_FAILED: what a shell's $? would be, EXIT_NOT_FOUND and its like */
	uint64_t stdin_at, stdin_max;              /* received; granted */
	uint64_t stdout_at, stderr_at;             /* sent */
	uint8_t stdin_eof, stdout_eof, stderr_eof; /* that end was sent */
};
void job_info_put(struct buf *buf, const struct job_info *info);
int job_info_get(struct reader *r, struct job_info *info);

/* Append a whole frame to buf. len <= PROTO_PAYLOAD_MAX. */
void frame_put(struct buf *buf, uint16_t type, uint16_t generation, uint32_t id, const void *payload,
	       size_t len);

/* A record that comes in parts. Zero-initialised is none. */
struct record {
	uint32_t id;
	struct buf buf;
	bool overlong;
	bool failed; /* no memory */
};
/* An F_JOB_PART came. */
void record_part(struct record *record, const struct frame *frame);
/*
 * The frame with the rest of it, or with all: *ret reads the whole record, until record_clear or the next
 * frame. 0, -E2BIG (above PROTO_RECORD_MAX) or -ENOMEM.
 */
int record_end(struct record *record, const struct frame *frame, struct reader *ret);
void record_clear(struct record *record);
/* Append the frames of a record of up to PROTO_RECORD_MAX bytes to buf. */
void record_put(struct buf *buf, uint16_t type, uint16_t generation, uint32_t id, const void *data,
		size_t len);

/*
 * Cut a byte stream into frames. Bytes that cannot start a frame are skipped up to the next magic, which is
 * how either side finds its feet after a cut stream.
 */
struct frame_parser {
	struct buf buf;
	size_t pending;   /* bytes of the frame returned last, dropped at the next call */
	uint64_t skipped; /* bytes thrown away so far */
};
void frame_parser_release(struct frame_parser *parser);
/* Add received bytes; -ENOMEM or 0. */
int frame_parser_feed(struct frame_parser *parser, const void *data, size_t n);
/* The same without a copy: where up to n bytes can be received, of which frame_parser_fed adds as many as came. NULL: no
 * memory. A frame's payload is not there any more. */
void *frame_parser_room(struct frame_parser *parser, size_t n);
void frame_parser_fed(struct frame_parser *parser, size_t n);
/* 1: *frame is set; 0: more bytes are needed. */
int frame_parser_next(struct frame_parser *parser, struct frame *frame);

#endif
