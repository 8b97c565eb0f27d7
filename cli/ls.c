/* SPDX-License-Identifier: MIT */
/* ls.c - sbx ls: the sandboxes there are, one a line */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/sbx.h"
#include "cli/tree_files.h"

enum { OPT_JSON = PROGRAM_LONG };

const struct program ls_program = {
	.name = "sbx ls",
	.forms = "[--json]",
	.about = "List the sandboxes: state, image, memory, CPUs and what each is a copy of.\n",
	.options =
		(const struct program_option[]){
			{ OPT_JSON, "json", NULL, "an array of objects, with sizes in bytes" },
			{ 0 },
		},
};

static int put_json(const struct things *things)
{
	cJSON *array = cJSON_CreateArray(), *object;
	const struct thing *thing;
	char *text;

	for (thing = things->thing; thing < things->thing + things->n; thing++) {
		object = cJSON_CreateObject();
		cJSON_AddStringToObject(object, "name", thing->id);
		cJSON_AddStringToObject(object, "state", thing->status);
		cJSON_AddStringToObject(object, "image", thing->image);
		cJSON_AddNumberToObject(object, "memory", (double)thing->memory);
		cJSON_AddNumberToObject(object, "cpus", (double)thing->cpus);
		cJSON_AddStringToObject(object, "parent", thing->parent);
		cJSON_AddItemToArray(array, object);
	}
	text = cJSON_Print(array);
	cJSON_Delete(array);
	if (!text)
		return SBX_FAILED;
	puts(text);
	free(text);
	return 0;
}

int cmd_ls(int argc, char **argv)
{
	const struct thing *thing;
	struct things things;
	bool json = false;
	char memory[16];
	int opt, status;

	while ((opt = program_next(&ls_program, argc, argv, &status)) == OPT_JSON)
		json = true;
	if (opt == PROGRAM_EXIT)
		return status;
	if (optind < argc)
		return program_refuse_form(&ls_program, 0);
	if (things_read(&things, 0))
		return SBX_FAILED;
	if (json) {
		status = put_json(&things);
	} else {
		printf("%-20s %-9s %-16s %7s %4s  %s\n", "NAME", "STATE", "IMAGE", "MEMORY", "CPUS",
		       "PARENT");
		for (thing = things.thing; thing < things.thing + things.n; thing++) {
			size_text(thing->memory, memory);
			printf("%-20s %-9s %-16s %7s %4u  %s\n", thing->id, thing->status, thing->image,
			       memory, (unsigned)thing->cpus, thing->parent);
		}
		status = 0;
	}
	things_release(&things);
	return status;
}
