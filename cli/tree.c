/* SPDX-License-Identifier: MIT */
/* tree.c - sbx tree: what was copied from what, as text or for dot(1) */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/sbx.h"
#include "cli/tree_files.h"

enum { OPT_DOT = PROGRAM_LONG, DEEP = 256 };

const struct program tree_program = {
	.name = "sbx tree",
	.forms = "[--dot]",
	.about = "Show sandboxes and snapshots below what they are copies of.\n"
		 "A snapshot stands below the sandbox it was taken of, if that is there. Each has the bytes\n"
		 "that are stored for it, those of them that others have, too, and those of its own; a\n"
		 "sandbox with a machine has what is stored for its disk, and the same of its memory. What\n"
		 "begins with something that is gone says so.\n",
	.options =
		(const struct program_option[]){
			{ OPT_DOT, "dot", NULL, "a graph for dot(1) of Graphviz" },
			{ 0 },
		},
};

static const struct thing *parent_of(const struct things *things, const struct thing *thing)
{
	const struct thing *parent = *thing->parent ? thing_find(things, thing->parent) : NULL;

	return parent == thing ? NULL : parent;
}

static void put_line(const struct things *things, const struct thing *thing)
{
	char stored[16], shared[16], own[16];

	printf("%s  %s%s", thing->id, thing->is_snapshot ? "snapshot, " : "", thing->status);
	if (thing->stored || thing->own) {
		size_text(thing->stored, stored);
		size_text(thing->shared, shared);
		size_text(thing->own, own);
		printf(", %s stored, %s%s shared, %s of its own", stored, thing->resident ? "memory " : "",
		       shared, own);
	}
	if (*thing->parent && !parent_of(things, thing))
		printf(", of %s, which is gone", thing->parent);
	putchar('\n');
}

/* The children of `of` (NULL: what has no parent), each with what is below it. */
static void put_below(const struct things *things, const struct thing *of, char *indent, unsigned deep)
{
	const struct thing *thing, *last = NULL;
	const size_t n = strlen(indent);

	for (thing = things->thing; thing < things->thing + things->n; thing++)
		if (parent_of(things, thing) == of)
			last = thing;
	for (thing = things->thing; last && thing <= last; thing++) {
		if (parent_of(things, thing) != of)
			continue;
		if (of)
			printf("%s%s", indent, thing == last ? "`-- " : "|-- ");
		put_line(things, thing);
		if (deep == DEEP)
			continue; /* no more than that is a circle */
		if (of)
			memcpy(indent + n, thing == last ? "    " : "|   ", 5); /* there is room for DEEP */
		put_below(things, thing, indent, deep + 1);
		indent[n] = '\0';
	}
}

static void put_dot(const struct things *things)
{
	const struct thing *thing;

	printf("digraph sbxfs {\n\trankdir=LR;\n");
	for (thing = things->thing; thing < things->thing + things->n; thing++)
		printf("\t\"%s\" [shape=%s, label=\"%s\\n%s\"];\n", thing->id,
		       thing->is_snapshot ? "box" : "ellipse", thing->id, thing->status);
	for (thing = things->thing; thing < things->thing + things->n; thing++)
		if (parent_of(things, thing))
			printf("\t\"%s\" -> \"%s\";\n", thing->parent, thing->id);
	printf("}\n");
}

int cmd_tree(int argc, char **argv)
{
	static char indent[4 * (DEEP + 2)];
	struct things things;
	bool dot = false;
	int opt, status;

	while ((opt = program_next(&tree_program, argc, argv, &status)) == OPT_DOT)
		dot = true;
	if (opt == PROGRAM_EXIT)
		return status;
	if (optind < argc)
		return program_refuse_form(&tree_program, 0);
	if (things_read(&things, dot ? THINGS_SNAPSHOTS : THINGS_SNAPSHOTS | THINGS_STATS))
		return SBX_FAILED;
	if (dot)
		put_dot(&things);
	else
		put_below(&things, NULL, indent, 0);
	things_release(&things);
	return 0;
}
