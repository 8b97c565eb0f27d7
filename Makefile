# sbxfs: a filesystem of microVM sandboxes
#
#   make            build everything, the guest's kernel, initramfs and base image too
#   make demo       the tour: create, snapshot, fork ten, through files only
#   make check      the tests (docs/testing.md)
#   make check-lab  all of them with the engine kvm in the lab; hours
#   make bench      measure; prints a table, writes build/bench.json
#   make bench-fs   a sandbox's fs/ beside sshfs and bindfs
#   make bench-lab  the same as bench with the engine kvm in the lab, into build/bench-lab
#   make install    to PREFIX (default /usr/local), below DESTDIR
#   make deb        the Debian package, into build/deb
#   make lint       layers, clang-format, clang-tidy, cppcheck, man pages and the width of the docs
#   make lab CMD=.. run a command in a virtual machine that has hardware virtualization
#   make clean
#
# SAN=address,undefined builds with sanitizers, into build/san. V=1 shows the commands.

SAN ?=
B := build$(if $(SAN),/san)
PREFIX ?= /usr/local
Q := $(if $(V),,@)
CC := gcc
CLANG := clang

PKGS := fuse3 liblz4 libxxhash libcjson libseccomp libarchive ext2fs com_err nettle
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wvla \
	-Wwrite-strings -Wpointer-arith -Wformat=2 -Wundef -fno-common -Werror
CFLAGS ?= -O2 -g
BASE_CFLAGS := -std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I. -Ibuild $(WARN) $(CFLAGS) -pthread
HARDEN := -fstack-protector-strong -fPIE $(if $(SAN),,-D_FORTIFY_SOURCE=2)
SANFLAGS := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
PKG_CFLAGS = $(shell pkg-config --cflags $(PKGS))
PKG_LIBS = $(shell pkg-config --libs $(PKGS))
PIE := -pie
LINK = $(CC) $(PIE) -pthread -Wl,-z,relro,-z,now,--as-needed $(SANFLAGS) -o $@ $^ $(PKG_LIBS) -lm

# Every program is one file with a main() and what it needs of the library.
MAINS := fs/main.c cli/sbx.c vm/vmm/main.c vm/net/main.c vm/agent/browse/main.c vm/agent/guest/main.c \
	vm/agent/guest/program/main.c vm/qemu/preload/track_main.c
sources = $(filter-out $(MAINS),$(sort $(shell find $(1) -name '*.c')))
LIB_SRC := $(call sources,util snap vm)
FS_SRC := $(call sources,fs)
CLI_SRC := $(call sources,cli)
AGENT_SRC := $(wildcard vm/agent/guest/*.c) vm/agent/proto.c snap/image_config.c util/buf.c util/err.c util/program.c
GUEST_SRC := vm/agent/guest/program/main.c vm/agent/proto.c util/buf.c util/err.c util/program.c
UNIT := $(patsubst tests/unit/%.c,$(B)/unit/%,$(wildcard tests/unit/test_*.c))
FUZZ := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
obj = $(patsubst %.c,$(B)/obj/%.o,$(1))

all: $(B)/sbxfs $(B)/mount.fuse.sbxfs $(B)/sbx $(B)/sbx-vmm $(B)/sbx-browse $(B)/sbx-net $(B)/sbx-track.so guest

# ---- what the build needs of Debian

DEPS := build/.deps
$(DEPS): tools/deps
	$(Q)tools/deps build
	@mkdir -p build && touch $@

# ---- programs

$(B)/obj/%.o: %.c | $(DEPS)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC    $<")
	$(Q)$(CC) $(BASE_CFLAGS) $(HARDEN) $(SANFLAGS) $(PKG_CFLAGS) -MMD -MP -c -o $@ $<

# The guest's ACPI devices, as a C array; sanitized or not, it is the same.
build/vm/vmm/dsdt.hex: vm/vmm/dsdt.asl | $(DEPS)
	@mkdir -p $(@D)
	$(Q)iasl -ve -tc -p $(basename $@) $< >/dev/null

$(call obj,vm/vmm/acpi.c): build/vm/vmm/dsdt.hex

$(B)/libsbx.a: $(call obj,$(LIB_SRC))
	$(Q)rm -f $@ && ar qcs $@ $^

$(B)/sbxfs: $(call obj,fs/main.c $(FS_SRC)) $(B)/libsbx.a
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(LINK)

# The same by the name that mount(8) calls it by
$(B)/mount.fuse.sbxfs: | $(B)/sbxfs
	$(Q)ln -sf sbxfs $@

$(B)/sbx: $(call obj,cli/sbx.c $(CLI_SRC)) $(B)/libsbx.a
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(LINK)

# What runs in a jail of its own is static, so that it needs no other file there. Sanitizers have no static run-time.
ifeq ($(SAN),)
$(B)/sbx-vmm $(B)/sbx-browse: PIE := -static-pie
$(B)/sbx-vmm $(B)/sbx-browse: PKG_LIBS = $(shell pkg-config --libs --static libseccomp ext2fs com_err)
endif

$(B)/sbx-vmm: $(call obj,vm/vmm/main.c) $(B)/libsbx.a
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(LINK)

$(B)/sbx-browse: $(call obj,vm/agent/browse/main.c) $(B)/libsbx.a
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(LINK)

# libslirp has no use but here; Debian's pkg-config file for it asks for glib's headers, which it does not need.
$(B)/sbx-net: $(call obj,vm/net/main.c) $(B)/libsbx.a
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(LINK) -lslirp

# The loader puts it into QEMU, which is never sanitized.
$(B)/sbx-track.so: vm/qemu/preload/track_main.c vm/qemu/track.h util/err.h | $(DEPS)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(CC) $(BASE_CFLAGS) -fstack-protector-strong -fPIC -shared -Wl,-z,relro,-z,now,--as-needed -o $@ $<

# ---- the guest: never sanitized, it runs as PID 1 of another kernel

build/guest/sbx-agent: $(AGENT_SRC) $(wildcard vm/agent/*.h vm/agent/guest/*.h util/*.h) snap/image_config.h | $(DEPS)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC    $@")
	$(Q)$(CC) $(BASE_CFLAGS) -static -o $@ $(AGENT_SRC) && strip $@

# What a sandbox's programs ask for themselves with; in every guest's memory, so it is small
build/guest/sbx-guest: $(GUEST_SRC) $(wildcard vm/agent/*.h vm/agent/guest/*.h util/*.h) | $(DEPS)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC    $@")
	$(Q)$(CC) $(BASE_CFLAGS) -Os -ffunction-sections -Wl,--gc-sections -static -o $@ $(GUEST_SRC) && strip $@

build/guest/vmlinuz: vm/agent/guest/mkkernel | $(DEPS)
	$(Q)vm/agent/guest/mkkernel build/guest

build/guest/initramfs: vm/agent/guest/mkinitramfs build/guest/sbx-agent build/guest/sbx-guest build/guest/vmlinuz
	$(Q)vm/agent/guest/mkinitramfs build/guest $@

build/guest/modules.pack: vm/agent/guest/mkmodules build/guest/vmlinuz
	$(Q)vm/agent/guest/mkmodules build/guest $@

guest: build/guest/initramfs build/guest/modules.pack
.PHONY: all guest

# ---- tests

# In unit programs system calls, and all of malloc(3), can be made to fail (tests/unit/failing.h).
FAILING := open64 openat64 mmap64 memfd_create socketpair pipe2 epoll_create1 epoll_ctl eventfd ftruncate64 \
	fork clone pthread_create

$(B)/unit/%: $(B)/obj/tests/unit/%.o $(call obj,tests/unit/failing.c $(FS_SRC) $(CLI_SRC)) $(B)/libsbx.a
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(LINK) $(FAILING:%=-Wl,--wrap=%)

# What stands in for a VMM that a guest has taken over; static, so that its jail holds nothing else.
$(B)/hostile/%: tests/hostile/%.c | $(DEPS)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC    $@")
	$(Q)$(CC) $(BASE_CFLAGS) -static -o $@ $<

$(B)/unit/test_jail $(B)/unit/test_waits: | $(B)/hostile/vmm
$(B)/unit/test_track: | $(B)/sbx-track.so

unit: $(UNIT)

# Drivers for trying one part by hand; each says at its top what it wants.
$(B)/manual/%: $(B)/obj/tests/manual/%.o $(B)/libsbx.a
	@mkdir -p $(@D)
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(LINK)

# Forks of a hand-made guest, which any /dev/kvm can run (docs/kvm.md)
$(B)/bench_kvm: $(call obj,tests/bench_kvm.c) $(B)/libsbx.a
	$(if $(V),,@echo "  LD    $@")
	$(Q)$(LINK)

# The library once more, instrumented for libFuzzer.
FUZZ_CC = $(CLANG) $(BASE_CFLAGS) $(PKG_CFLAGS) -fsanitize=address,undefined -fno-sanitize-recover=undefined

build/fuzz/obj/%.o: %.c | $(DEPS)
	@mkdir -p $(@D)
	$(Q)$(FUZZ_CC) -fsanitize=fuzzer-no-link -MMD -MP -c -o $@ $<

build/fuzz/obj/vm/vmm/acpi.o: build/vm/vmm/dsdt.hex

build/fuzz/libsbx.a: $(patsubst %.c,build/fuzz/obj/%.o,$(LIB_SRC) $(FS_SRC))
	$(Q)rm -f $@ && ar qcs $@ $^

build/fuzz/%: build/fuzz/obj/tests/fuzz/%.o build/fuzz/libsbx.a
	$(if $(V),,@echo "  FUZZ  $@")
	$(Q)$(FUZZ_CC) -fsanitize=fuzzer -o $@ $^ $(PKG_LIBS) -lm

fuzz: $(FUZZ)

check: all unit $(B)/bench_kvm
	$(Q)tests/check

demo: all
	$(Q)examples/demo/run

bench: all $(B)/manual/ramimage $(B)/bench_kvm
	$(Q)tests/bench

bench-fs: all | $(DEPS)
	$(Q)tools/deps bench
	$(Q)tests/bench_fs.py

# The engine kvm where there is none, beside what else runs there: ratios are what it is good for
bench-lab: all $(B)/manual/ramimage $(B)/bench_kvm
	-$(Q)tests/bench_msb.py
	$(Q)tests/lab/lab -t 3600 -o $(B)/bench-lab tests/bench --engine kvm -n 50 --output /out/bench.json

# The whole suite with the engine kvm in the lab: hours. `make check` runs what depends on the engine.
check-lab: all unit
	$(Q)tests/lab/suite -t 14400 tests/e2e --engine kvm --durations=15

lab:
	$(Q)tests/lab/lab sh -c '$(CMD)'

lint: | $(DEPS)
	$(Q)tools/lint

.PHONY: unit fuzz check check-lab demo bench bench-fs bench-lab lab lint

# ---- installation

# What is in /etc/sbxfs.conf stays. mount(8) looks for mount.fuse.sbxfs in /sbin alone, which with PREFIX=/usr is where
# it goes.
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/libexec/sbxfs \
		$(DESTDIR)$(PREFIX)/lib/sbxfs $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)/etc \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions $(foreach s,1 5 8,$(DESTDIR)$(PREFIX)/share/man/man$(s))
	sed 's#@PREFIX@#$(PREFIX)#' contrib/sbxfs.service.in > $(DESTDIR)$(PREFIX)/lib/systemd/system/sbxfs.service
	[ -e $(DESTDIR)/etc/sbxfs.conf ] || install -m 644 contrib/sbxfs.conf $(DESTDIR)/etc
	install $(B)/sbxfs $(B)/sbx $(DESTDIR)$(PREFIX)/bin
	ln -sf ../bin/sbxfs $(DESTDIR)$(PREFIX)/sbin/mount.fuse.sbxfs
	install $(B)/sbx-vmm $(B)/sbx-browse $(B)/sbx-net $(DESTDIR)$(PREFIX)/libexec/sbxfs
	install -m 644 $(B)/sbx-track.so $(DESTDIR)$(PREFIX)/libexec/sbxfs
	install -m 644 contrib/sbx.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/sbx
	install -m 644 build/guest/vmlinuz build/guest/initramfs build/guest/modules.pack $(DESTDIR)$(PREFIX)/lib/sbxfs
	$(foreach s,1 5 8,install -m 644 man/*.$(s) $(DESTDIR)$(PREFIX)/share/man/man$(s) &&) :
	ln -sf sbxfs.8 $(DESTDIR)$(PREFIX)/share/man/man8/mount.fuse.sbxfs.8

deb: | $(DEPS)
	$(Q)tools/deps deb
	$(Q)tools/mkdeb

clean:
	rm -rf build
.PHONY: install deb clean

# Objects are kept, also those only a test needs.
.SECONDARY:

-include $(shell find $(B)/obj build/fuzz/obj -name '*.d' 2>/dev/null)
