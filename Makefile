# jext4: `make help` lists what there is. Everything here can be said by hand too: docs/TESTING.md says how.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

SWIFT ?= swift
# Passed to every swift build. Warnings are errors by Package.swift.
SWIFT_FLAGS ?=
CC ?= cc
CFLAGS ?= -O2 -g
CHECKED_CFLAGS := -std=gnu11 -Wall -Wextra -Werror $(CFLAGS)

# Where things go.
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
# mount(8) looks for its helpers in /sbin and nowhere else, whatever the prefix.
SBINDIR ?= /sbin
# What suites find as dmsetup when they are to mark our logs: docs/RECORDING.md.
LIBEXECDIR ?= $(PREFIX)/libexec/jext4
DESTDIR ?=

# What `make mount` mounts.
IMAGE ?= demo.img
DIR ?= mnt
DEMO_BYTES ?= 1G
OPTIONS ?=

RELEASE := .build/release
TOOLS := .build/tools
# Not := for these three, as `setup` may install what they look for: a recipe's variables are read when it runs.
# The installed command must run where there is no Swift: link the runtime into it where the toolchain can.
STATIC_RUNTIME = $(shell test -d "$$(dirname "$$(readlink -f "$$(command -v $(SWIFT))")")/../lib/swift_static" \
	&& echo --static-swift-stdlib -Xswiftc -use-ld=lld)
# And jext4-replay, which is over before its libraries would be read, needs none where all are there as archives. glibc
# crashes at the start of a static executable that has a search path for libraries.
STATIC_REPLAY = $(if $(STATIC_RUNTIME),$(shell for name in rcrt1.o libc.a libstdc++.a libxxhash.a; do \
	test -e "$$($(CC) -print-file-name=$$name)" || exit 0; done; echo JEXT4_STATIC_REPLAY=1))
STATIC = $(STATIC_RUNTIME) $(if $(STATIC_REPLAY),--disable-local-rpath)

.PHONY: help setup build tools mount umount test unit-test mount-test soak mutants bench lint format install uninstall
.PHONY: clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
	    while IFS=$$'\t' read -r target text; do printf '  make %-12s %s\n' "$$target" "$$text"; done
	@echo '  Variables: IMAGE, DIR, OPTIONS (make mount), PREFIX, DESTDIR (make install), MINUTES (make soak),'
	@echo '  BENCH_ONLY, BENCH_QUICK, BENCH_RUNS (make bench), ONLY (make mount-test).'

setup: ## install the Debian packages that are missing
	@scripts/setup.sh build run

build: setup ## jext4 and jext4-replay, release
	$(STATIC_REPLAY) $(SWIFT) build -c release $(STATIC) $(SWIFT_FLAGS)
	@$(RELEASE)/jext4-replay --version > /dev/null

mount: build ## make a demo image if IMAGE= is not given, and mount it at DIR= (./mnt)
	@scripts/mount-demo.sh "$(RELEASE)/jext4" "$(IMAGE)" "$(DIR)" "$(DEMO_BYTES)" "$(OPTIONS)"

umount: ## take down what make mount put up; returns when all is on the image
	@$(RELEASE)/jext4 umount "$(DIR)"

test: ## set up, then all tests: units, crash states, and a live mount
	@scripts/setup.sh build run test
	@$(MAKE) --no-print-directory unit-test
	@$(MAKE) --no-print-directory mount-test

# Optimised, as the commands are that people use: a third of the time, and more crash states in a minute. In a place of
# its own, as it is linked in another way.
TEST_BUILD := -c release --scratch-path .build/tests
unit-test: ## the tests of the modules, and the crash states
	$(SWIFT) build $(TEST_BUILD) --build-tests $(SWIFT_FLAGS)
	$(SWIFT) test $(TEST_BUILD) --skip-build --disable-xctest $(SWIFT_FLAGS)

mount-test: build tools ## programs on live mounts, and the checks after them
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory $(TOOLS)/sqlite3-batches || echo 'without SQLite on batches' >&2
	python3 Tests/Mount/run.py --jext4 "$(RELEASE)/jext4" $(addprefix --only ,$(ONLY))

MINUTES ?= 10
soak: build tools ## the long forms: MINUTES=10 of new crash states, MINUTES=10 of stress-ng, a million files
	@scripts/setup.sh test
	$(SWIFT) build $(TEST_BUILD) --build-tests $(SWIFT_FLAGS)
	JEXT4_SOAK_MINUTES="$(MINUTES)" $(SWIFT) test $(TEST_BUILD) --skip-build --disable-xctest \
	    --filter 'SoakTests|DeviceErrorTests|ReplayEqualityTests|MappingModelTests'
	python3 Tests/Mount/run.py --jext4 "$(RELEASE)/jext4" --length soak --minutes "$(MINUTES)" $(addprefix --only ,$(ONLY))

mutants: ## deliberate faults in commit, checkpoint and recovery: do the tests catch each of them?
	@scripts/setup.sh build run test
	python3 scripts/mutants.py

bench: build tools ## jext4 beside the kernel, fuse2fs and an empty FUSE server, in one run, as ratios
	@scripts/setup.sh bench
	python3 Benchmarks/bench.py --jext4 "$(RELEASE)/jext4"

# The C programs that tests and benchmarks run.
TEST_TOOLS := $(patsubst Tests/Mount/%.c,$(TOOLS)/%,$(wildcard Tests/Mount/*.c))
BENCH_TOOLS := $(TOOLS)/bench_meta $(TOOLS)/emptyfs
tools: $(TEST_TOOLS) $(BENCH_TOOLS)

# Kept from build to build: it takes most of a minute.
$(TOOLS)/sqlite3-batches: scripts/build-sqlite.sh
	scripts/build-sqlite.sh $@

$(TOOLS)/%: Tests/Mount/%.c
	@mkdir -p $(TOOLS)
	$(CC) $(CHECKED_CFLAGS) -o $@ $< -pthread

$(TOOLS)/bench_meta: Benchmarks/bench_meta.c
	@mkdir -p $(TOOLS)
	$(CC) $(CHECKED_CFLAGS) -o $@ $< -pthread

$(TOOLS)/emptyfs: Benchmarks/empty/emptyfs.c
	@mkdir -p $(TOOLS)
	$(CC) $(CHECKED_CFLAGS) -o $@ $< $$(pkg-config --cflags --libs fuse3) -pthread

lint: ## format, widths, lengths, ASCII
	$(SWIFT) format lint --strict --recursive --parallel Package.swift Sources Tests
	python3 scripts/lint.py

format: ## let the formatter rewrite the Swift sources
	$(SWIFT) format --in-place --recursive --parallel Package.swift Sources Tests

install: ## jext4, jext4-replay, mount.jext4 and the manual pages, under DESTDIR and PREFIX
	@test -x $(RELEASE)/jext4 && test -x $(RELEASE)/jext4-replay || { echo 'run make build first' >&2; exit 1; }
	install -d "$(DESTDIR)$(BINDIR)" "$(DESTDIR)$(SBINDIR)"
	install -m 755 $(RELEASE)/jext4 $(RELEASE)/jext4-replay "$(DESTDIR)$(BINDIR)"
	ln -sfn "$(BINDIR)/jext4" "$(DESTDIR)$(SBINDIR)/mount.jext4"
	install -d "$(DESTDIR)$(LIBEXECDIR)"
	install -m 755 scripts/dmsetup-marks "$(DESTDIR)$(LIBEXECDIR)/dmsetup"
	@for page in docs/man/*.[1-8]; do \
	    test -e "$$page" || continue; \
	    section="$${page##*.}"; \
	    install -d "$(DESTDIR)$(MANDIR)/man$$section"; \
	    install -m 644 "$$page" "$(DESTDIR)$(MANDIR)/man$$section"; \
	done

uninstall: ## take away what make install put there
	rm -f "$(DESTDIR)$(BINDIR)/jext4" "$(DESTDIR)$(BINDIR)/jext4-replay" "$(DESTDIR)$(SBINDIR)/mount.jext4"
	rm -f "$(DESTDIR)$(LIBEXECDIR)/dmsetup"
	@for page in docs/man/*.[1-8]; do \
	    test -e "$$page" || continue; \
	    rm -f "$(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/}"; \
	done

clean: ## take away all that was built
	rm -rf .build
