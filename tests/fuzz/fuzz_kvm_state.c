/* SPDX-License-Identifier: MIT */
/*
 * fuzz_kvm_state.c - a saved machine of the kvm engine, as loading one sees it
 *
 * Random bytes seldom get past the magic number. So an input is a list of changes to a state that this
 * program saves itself at the start: u16 offset, u8 value, and an offset past the end cuts the state there.
 * Where there is no /dev/kvm the parts that need none are tried, on the bare input.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/vmm/cpuid.h"
#include "vm/vmm/state.h"
#include "vm/vmm/vmm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
	struct vmm *vmm; /* NULL: no /dev/kvm */
	struct vmm_stats stats;
	struct buf saved;
	uint8_t *state; /* what is loaded */
} fuzz;

static void on_ended(void *arg, bool clean, const char *why)
{
	(void)arg;
	(void)clean;
	(void)why;
}

static void set_up(void)
{
	const struct vmm_config config = { .memory = 1 << 20,
					   .cpus = 1,
					   .agent_fd = -1,
					   .net_fd = -1,
					   .console_fd = -1,
					   .stats = &fuzz.stats,
					   .ended = on_ended };
	struct loop *loop = loop_new();
	struct vmm *vmm;
	struct err err;

	if (!loop || vmm_create(loop, &config, &vmm, &err))
		return;
	if (guest_memory_map_zero(&vmm->memory, &err) || vmm_stop(vmm, &err) ||
	    state_save(vmm, &fuzz.saved, &err)) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	fuzz.state = malloc(fuzz.saved.len);
	if (!fuzz.state)
		abort();
	fuzz.vmm = vmm;
}

static void try_parts(const uint8_t *data, size_t size)
{
	struct reader reader = reader_init(data, size);
	const struct kvm_cpuid2 none = { .nent = 0 };
	struct kvm_cpuid2 *cpuid;
	struct irqchip irqchip;
	struct serial serial;

	irq_init(&irqchip, -1);
	irq_load(&irqchip, &reader, NULL);
	reader = reader_init(data, size);
	if (!serial_init(&serial, NULL, &irqchip, SERIAL_IRQ, -1, NULL)) {
		if (!serial_load(&serial, &reader, NULL))
			serial_kick(&serial);
		serial_release(&serial);
	}
	reader = reader_init(data, size);
	if (!cpuid_load(&reader, &none, &cpuid, NULL))
		free(cpuid);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool ready;
	struct reader changes = reader_init(data, size), reader;
	size_t len;

	if (!ready)
		set_up();
	ready = true;
	try_parts(data, size);
	if (!fuzz.vmm)
		return 0;
	len = fuzz.saved.len;
	memcpy(fuzz.state, buf_bytes(&fuzz.saved), len);
	while (reader_left(&changes) >= 3) {
		const uint16_t offset = get_u16(&changes);
		const uint8_t value = get_u8(&changes);

		if (offset < len)
			fuzz.state[offset] = value;
		else
			len = value < len ? len - value : 0;
	}
	reader = reader_init(fuzz.state, len);
	pthread_mutex_lock(&fuzz.vmm->lock);
	state_parse(fuzz.vmm, &reader, NULL);
	pthread_mutex_unlock(&fuzz.vmm->lock);
	return 0;
}
