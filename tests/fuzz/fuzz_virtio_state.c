/* SPDX-License-Identifier: MIT */
/*
 * fuzz_virtio_state.c - load damaged device state, and go on with it
 *
 * The input is a list of patches to a state that was really saved, or the whole state. What loads must save
 * to as many bytes again, which load as well, and survive notifications over rings of any content.
 */
#include "tests/fuzz/virtio_devices.h"

static void make_state(struct reader *r, unsigned kind, struct buf *state)
{
	const uint8_t mode = get_u8(r);
	struct machine_with_device m;
	size_t n, i;

	if (mode & 0x80) {
		n = reader_left(r) < 300 ? reader_left(r) : 300;
		for (i = 0; i < n; i++)
			buf_put_u8(state, get_u8(r));
		return;
	}
	machine_make(&m, kind);
	if (mode & 0x40)
		machine_start(&m, UINT32_MAX);
	virtio_mmio_save(&m.mmio, state);
	machine_free(&m);
	for (i = mode & 0x1f; i; i--) {
		n = get_u8(r);
		if (n < state->len)
			buf_bytes(state)[n] = get_u8(r);
	}
}

static void check_save(struct machine_with_device *m, size_t used)
{
	struct buf again = { 0 };
	struct reader r;

	virtio_mmio_save(&m->mmio, &again);
	if (again.failed || again.len != used)
		abort();
	r = reader_init(buf_bytes(&again), again.len);
	if (virtio_mmio_load(&m->mmio, &r, NULL) || reader_left(&r))
		abort();
	buf_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader r = reader_init(data, size), s;
	const unsigned kind = get_u8(&r);
	struct machine_with_device m;
	struct buf state = { 0 };
	unsigned i;

	make_state(&r, kind, &state);
	machine_make(&m, kind);
	for (i = 0; i < RAM_SIZE && reader_left(&r); i++)
		m.ram.host[i] = get_u8(&r);
	s = reader_init(state.len ? buf_bytes(&state) : data, state.len);
	if (!virtio_mmio_load(&m.mmio, &s, NULL)) {
		check_save(&m, state.len - reader_left(&s));
		virtio_loaded(m.mmio.dev);
		if (m.peer >= 0)
			(void)!write(m.peer, "bytes", 5);
		for (i = 0; i < 4; i++) {
			loop_once(m.loop, 0);
			set_reg(&m, VIRTIO_MMIO_QUEUE_NOTIFY, i);
			if (m.disk)
				virtio_blk_drain(m.mmio.dev);
		}
	}
	machine_free(&m);
	buf_release(&state);
	return 0;
}
