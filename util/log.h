/* SPDX-License-Identifier: MIT */
/*
 * log.h - one line per event on stderr, "<N>" prefixed when stderr is the journal
 *
 * Libraries below fs/ return errors instead of logging them; they log only what has no caller to return to.
 */
#ifndef SBX_UTIL_LOG_H
#define SBX_UTIL_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Messages above this level are dropped; LOG_INFO at start. At LOG_DEBUG each line has the seconds since the first. */
extern enum log_level log_threshold;

/* Is the story of each request told (sbxfs -v)? What is only worked out for it asks first. */
#define log_verbose() (log_threshold >= LOG_DEBUG)

void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_msg(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_msg(LOG_INFO, __VA_ARGS__)
#define log_debug(...) (log_verbose() ? log_msg(LOG_DEBUG, __VA_ARGS__) : (void)0)

#endif
