/* SPDX-License-Identifier: MIT */
/* template.c - a captured machine, from which forks are made */
#include "snap/template.h"

#include <stdlib.h>
#include <unistd.h>

#include "snap/layer.h"

struct template *template_new(void)
{
	struct template *template = calloc(1, sizeof(*template));

	if (!template)
		return NULL;
	template->refs = 1;
	template->ram_fd = -1;
	template->state_fd = -1;
	return template;
}

struct template *template_ref(struct template *template)
{
	template->refs++;
	return template;
}

void template_unref(struct template *template)
{
	if (!template || --template->refs)
		return;
	if (template->ram_fd >= 0)
		close(template->ram_fd);
	if (template->state_fd >= 0)
		close(template->state_fd);
	layer_unref(template->disk);
	free(template);
}
