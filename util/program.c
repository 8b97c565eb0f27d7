/* SPDX-License-Identifier: MIT */
/* program.c - a program's command line: one table for its options, their parser, --help and --version */
#include "util/program.h"

#include <ctype.h>
#include <getopt.h>
#include <stdarg.h>
#include <string.h>

enum { OPTIONS_MAX = 64, VERSION_KEY = PROGRAM_LONG - 1 };

static const struct program_option common[] = {
	{ 'h', "help", NULL, "show this text" },
	{ VERSION_KEY, "version", NULL, "show the version" },
	{ 0 },
};

/* ---- help */

static void put_lines(FILE *out, const char *text, int indent)
{
	const char *end;

	while ((end = strchr(text, '\n'))) {
		fprintf(out, "%.*s\n%*s", (int)(end - text), text, indent, "");
		text = end + 1;
	}
	fprintf(out, "%s\n", text);
}

static bool has_letter(const struct program_option *option)
{
	return option->key < VERSION_KEY;
}

/* "-h, --help", "--state DIR". Returns how long it is. */
static int form(const struct program_option *option, char *ret, size_t size)
{
	char letter[3] = "";

	if (has_letter(option))
		snprintf(letter, sizeof(letter), "-%c", option->key);
	return snprintf(ret, size, "%s%s%s%s%s%s", letter, *letter && option->name ? ", " : "",
			option->name ? "--" : "", option->name ? option->name : "", option->arg ? " " : "",
			option->arg ? option->arg : "");
}

static int widest(const struct program_option *options)
{
	char text[64];
	int width = 0, n;

	for (; options && options->key; options++) {
		n = form(options, text, sizeof(text));
		width = n > width ? n : width;
	}
	return width;
}

static void put_options(FILE *out, const struct program_option *options, int width)
{
	char text[64];

	for (; options && options->key; options++) {
		form(options, text, sizeof(text));
		fprintf(out, "  %-*s  ", width, text);
		put_lines(out, options->help, width + 4);
	}
}

static void put_forms(FILE *out, const struct program *program)
{
	const char *form = program->forms, *lead = "usage:";

	for (;; lead = "      ") {
		const int len = (int)strcspn(form, "\n");

		fprintf(out, "%s %s %.*s\n", lead, program->name, len, form);
		if (!form[len])
			return;
		form += len + 1;
	}
}

void program_help(const struct program *program, FILE *out)
{
	int own = widest(program->options), every = widest(common), width = own > every ? own : every;

	put_forms(out, program);
	fprintf(out, "\n%s\n", program->about);
	if (program->topics) {
		program->topics(out);
		fprintf(out, "\n");
	}
	put_options(out, program->options, width);
	put_options(out, common, width);
	if (program->notes)
		fprintf(out, "\n%s", program->notes);
}

void program_version(const struct program *program, FILE *out)
{
	fprintf(out, "%.*s %s\n", (int)strcspn(program->name, " "), program->name, SBX_VERSION);
}

/* ---- parsing */

int program_refuse(const struct program *program, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", program->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; see %s --help\n", program->name);
	return PROGRAM_USAGE;
}

int program_refuse_form(const struct program *program, unsigned form)
{
	const char *text = program->forms;

	while (form--)
		text = strchr(text, '\n') + 1;
	return program_refuse(program, "the form is: %s %.*s", program->name, (int)strcspn(text, "\n"), text);
}

static const struct program_option *find(const struct program_option *options, int key)
{
	for (; options && options->key; options++)
		if (options->key == key)
			return options;
	return NULL;
}

static const struct program_option *find_any(const struct program *program, int key)
{
	const struct program_option *own = find(program->options, key);

	return own ? own : find(common, key);
}

/* An option's own name for a message: the long one, as that is what help shows. */
static const char *shown(const struct program_option *option, char ret[64])
{
	if (option->name)
		snprintf(ret, 64, "--%s", option->name);
	else
		snprintf(ret, 64, "-%c", option->key);
	return ret;
}

static int refuse_option(const struct program *program, int c, char **argv)
{
	const struct program_option *option = find_any(program, optopt);
	char name[64];

	if (c == ':')
		return program_refuse(program, "%s needs a value, %s", shown(option, name), option->arg);
	if (option)
		return program_refuse(program, "%s takes no value", shown(option, name));
	if (optopt && isprint(optopt))
		return program_refuse(program, "there is no option -%c", optopt);
	return program_refuse(program, "there is no option %s", argv[optind - 1]);
}

static size_t add_options(const struct program_option *from, struct option *longs, size_t n, char **letters,
			  const char *last)
{
	for (; from && from->key && n < OPTIONS_MAX && *letters < last; from++) {
		if (has_letter(from)) {
			*(*letters)++ = (char)from->key;
			if (from->arg)
				*(*letters)++ = ':';
		}
		if (from->name)
			longs[n++] = (struct option){ from->name, from->arg ? required_argument : no_argument,
						      NULL, from->key };
	}
	return n;
}

int program_next(const struct program *program, int argc, char **argv, int *status)
{
	struct option longs[OPTIONS_MAX + 1] = { { 0 } };
	char letters[2 * OPTIONS_MAX], *end = letters;
	const char *last = letters + sizeof(letters) - 3; /* a letter, a colon and the end fit */
	size_t n;
	int c;

	if (program->stop_at_operand)
		*end++ = '+';
	*end++ = ':'; /* tell a missing value from an unknown option */
	n = add_options(program->options, longs, 0, &end, last);
	add_options(common, longs, n, &end, last);
	*end = '\0';
	opterr = 0;
	c = getopt_long(argc, argv, letters, longs, NULL);
	if (c == '?' || c == ':') {
		*status = refuse_option(program, c, argv);
		return PROGRAM_EXIT;
	}
	if (c != 'h' && c != VERSION_KEY)
		return c;
	if (c == 'h')
		program_help(program, stdout);
	else
		program_version(program, stdout);
	*status = 0;
	return PROGRAM_EXIT;
}
