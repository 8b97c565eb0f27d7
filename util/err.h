/* SPDX-License-Identifier: MIT */
/*
 * err.h - an errno together with the sentence that explains it
 *
 * Functions that can fail in a way a user sees take a `struct err *` and return 0 or a negative errno. The
 * sentence is made where the failure happens, because only that place knows the file, number or name
 * involved. A NULL err is allowed everywhere: the sentence is then dropped. Whatever is printed into it, it is one line
 * that no terminal obeys.
 */
#ifndef SBX_UTIL_ERR_H
#define SBX_UTIL_ERR_H

#include <errno.h>
#include <stdbool.h>

#define ERR_TEXT_MAX 256

struct err {
	int code; /* 0 or a negative errno */
	char text[ERR_TEXT_MAX];
};

/* What is called when something asynchronous is done: err->code == 0 is success. err is the callee's to read,
 * during the call. */
typedef void (*done_fn)(void *arg, const struct err *err);

/*
 * Record `code` (a negative errno) and a sentence without newline. Yields code, so that `return err_set(...)`
 * reads well; a macro, so that compilers and analyzers see that it does.
 */
#define err_set(err, code, ...)                                                                              \
	({                                                                                                   \
		const int err_code_ = (code);                                                                \
		err_record(err, err_code_, __VA_ARGS__);                                                     \
		err_code_;                                                                                   \
	})

/* The same, with ": " and strerror(-code) appended: for a failed system call. */
#define err_sys(err, code, ...)                                                                              \
	({                                                                                                   \
		const int err_code_ = (code);                                                                \
		err_record(err, err_code_, __VA_ARGS__);                                                     \
		err_explain(err, err_code_);                                                                 \
		err_code_;                                                                                   \
	})

void err_record(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void err_explain(struct err *err, int code); /* appends ": " and strerror(-code) */

/* Whether the host is short of memory or descriptors, which says nothing about what was looked at: it is not
 * missing, and not damaged. */
static inline bool err_shortage(int code)
{
	return code == -ENOMEM || code == -EMFILE || code == -ENFILE;
}

/* Put "prefix: " before the sentence already in err; its code stays. */
void err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
