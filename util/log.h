/* SPDX-License-Identifier: MIT */
/*
 * log.h - one line per event on stderr, "<N>" prefixed when stderr is the journal
 *
 * Libraries below fs/ return errors instead of logging them; they log only what has no caller to return to.
 */
#ifndef SBX_UTIL_LOG_H
#define SBX_UTIL_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Messages above this level are dropped; LOG_INFO at start. */
extern enum log_level log_threshold;

void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_DEBUG, __VA_ARGS__)

#endif
