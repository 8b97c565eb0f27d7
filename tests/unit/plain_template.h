/* SPDX-License-Identifier: MIT */
/* plain_template.h - a machine that no engine captured, for tests of the store */
#ifndef SBX_TESTS_PLAIN_TEMPLATE_H
#define SBX_TESTS_PLAIN_TEMPLATE_H

#include <stdio.h>

#include "snap/layer.h"
#include "snap/template.h"
#include "tests/unit/unit.h"

/* The descriptors become its own. */
static inline struct template *plain_template(struct layer *disk, int ram_fd, uint64_t ram_size, int state_fd)
{
	struct template *template = template_new();

	CHECK(template && ram_fd >= 0 && state_fd >= 0);
	snprintf(template->engine, sizeof(template->engine), "test");
	template->shape = (struct shape){ ram_size, ram_size, 1, 4, "" };
	template->ram_fd = ram_fd;
	template->ram_size = ram_size;
	template->state_fd = state_fd;
	template->disk = layer_ref(disk);
	return template;
}

#endif
