# Holdpoint. `make help` says what can be made; README.md says how long it takes.

GUEST_TARGET := aarch64-unknown-none-softfloat
TOOLCHAIN    ?= auto

# Everything that is fetched lies outside the tree, in the cache.
ifeq ($(HOLDPOINT_CACHE),)
HOLDPOINT_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/holdpoint
endif
ifneq ($(words $(HOLDPOINT_CACHE) x)$(words $(CURDIR) x),22)
$(error neither the cache ($(HOLDPOINT_CACHE)) nor this folder may have a blank in its path; HOLDPOINT_CACHE=FOLDER moves the cache)
endif
override HOLDPOINT_CACHE := $(abspath $(HOLDPOINT_CACHE))
export HOLDPOINT_CACHE

# A caller's own settings of these would take the place of the ones below, or move what the rules look for.
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
FORCE:
.PHONY: FORCE

# ---- Setting up ----
#
# Before anything is made, tools/setup.sh sees that all is there that the goals need (a fraction of a second, where it is), and
# tools/toolchain.sh says which compiler it is. make reads that file, and reads it again only if it has changed.

GOALS := $(or $(MAKECMDGOALS),$(.DEFAULT_GOAL))
# Where arm64 KVM is at hand nothing runs in the lab.
LAB := $(if $(and $(filter aarch64,$(shell uname -m)),$(wildcard /dev/kvm)),,lab)
# `make demo` and then `make test` are one set-up, so that they are one command to type where make may not install.
PURPOSES := build $(if $(filter lab,$(GOALS)),lab) $(if $(filter images,$(GOALS)),guests) $(if $(filter kernels,$(GOALS)),compile kernels) \
            $(if $(filter install,$(GOALS)),$(LAB)) $(if $(filter bench,$(GOALS)),$(LAB) guests compile kernels bench) \
            $(if $(filter demo test soak,$(GOALS)),$(LAB) guests compile kernels test) \
            $(if $(filter doc-pictures,$(GOALS)),$(LAB) test) \
            $(if $(filter kernel-nbcon soak,$(GOALS)),compile kernel-nbcon) $(if $(filter soak,$(GOALS)),soak) $(if $(filter lint,$(GOALS)),lint)

TC := target/toolchain.mk
ifneq ($(filter-out help clean uninstall $(if $(SUDO_UID),install),$(GOALS)),)
ifeq ($(findstring n,$(firstword -$(MAKEFLAGS))),)
$(TC): FORCE
	@tools/setup.sh $(GUEST_TARGET) $(TOOLCHAIN) $(sort $(PURPOSES))
	@mkdir -p target
	@tools/toolchain.sh $(GUEST_TARGET) $(TOOLCHAIN) > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
endif
include $(TC)
endif

# ---- Cargo's environment ----

TRIPLE := $(shell echo $(TC_VMM_TARGET) | tr a-z- A-Z_)
# Where Debian's compiler has its arm64 library from the cache, that is a sysroot of its own, for the arm64 target alone: what runs on
# this machine (build scripts, procedural macros) keeps the compiler's. The variable takes the place of .cargo/config.toml's rustflags.
ENV := $(if $(TC_RUSTUP_TOOLCHAIN),RUSTUP_TOOLCHAIN=$(TC_RUSTUP_TOOLCHAIN)) \
       CARGO_TARGET_$(TRIPLE)_LINKER=$(TC_LINKER) \
       CARGO_TARGET_$(TRIPLE)_RUSTFLAGS="$(if $(TC_SYSROOT),--sysroot $(TC_SYSROOT) )-C target-feature=+crt-static"
# The payload has a target directory of its own: RUSTC_BOOTSTRAP is part of the fingerprint of the crates that both builds share.
comma       := ,
GUEST_ENV   := $(ENV) $(if $(TC_BUILD_STD),RUSTC_BOOTSTRAP=1)
GUEST_FLAGS := --target-dir target/guest --target $(GUEST_TARGET) $(if $(TC_BUILD_STD),-Zbuild-std=core$(comma)alloc)

# $(call cargo,ARGUMENTS) and $(call guest_cargo,ARGUMENTS) show the command without its long environment.
cargo       = @echo 'cargo $(1)' && $(ENV) cargo $(1)
guest_cargo = @echo 'cargo $(1)' && $(GUEST_ENV) cargo $(1)

HOST_VMM  := target/release/vmm
ARM64_VMM := target/$(TC_VMM_TARGET)/release/vmm
CARGO_FUZZ := $(HOLDPOINT_CACHE)/tools/cargo-fuzz-0.13.1/bin/cargo-fuzz
INIT      := target/$(TC_VMM_TARGET)/release/init
PREFIX    ?= /usr/local
RUNS      ?= 5
COMPLETIONS := $(addprefix target/completions/,bash fish zsh)
PAYLOAD   := target/guest/$(GUEST_TARGET)/release/guest

# ---- What can be made ----

.PHONY: help
help: ## this text
	@echo 'make TARGET, where TARGET is one of'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'What is missing is set up first: as root on Debian it is installed, otherwise the one command to type is printed.'
	@echo 'Variables:'
	@echo '  HOLDPOINT_CACHE=FOLDER             where fetched packages and tools lie (now $(HOLDPOINT_CACHE));'
	@echo '                                     remove the folder to fetch the newest ones again'
	@echo '  PREFIX=FOLDER                      where make install puts things (now $(PREFIX)); DESTDIR=FOLDER goes before it'
	@echo '  TOOLCHAIN=auto|path|debian         which Rust toolchain: the one in PATH if it has the targets, or Debian'"'"'s'

.PHONY: all
all: vmm guest init ## everything that is compiled

.PHONY: vmm
vmm: $(HOST_VMM) $(ARM64_VMM) ## the command: target/release/vmm, and static for arm64

.PHONY: guest
guest: $(PAYLOAD) ## the bare-metal payload

.PHONY: init
init: $(INIT) ## PID 1 of the Linux guests, static for arm64

.PHONY: images
images: target/images/guest.cpio target/guests ## the initramfs of the Linux guests

.PHONY: kernels
kernels: target/guests ## the Linux guests that are built from Debian's source, one a stop protocol
	@tools/kernels.sh kernel-source

.PHONY: kernel-nbcon
kernel-nbcon: target/guests ## the Linux guests whose console is nbcon, built from the source of a newer suite of Debian's
	@tools/kernels.sh kernel-source-nbcon

.PHONY: lab
lab: target/lab/vmlinuz target/lab/initrd.cpio ## the lab: an arm64 machine with KVM, for hosts that are none

.PHONY: demo
demo: $(HOST_VMM) $(PAYLOAD) images kernels $(LAB) ## boot a stock Debian kernel on KVM, and show the seed's fault and its cure
	@echo '== The payload'
	$(HOST_VMM) boot --kernel $(PAYLOAD)
	@echo '== Linux, as Debian ships it'
	$(HOST_VMM) boot --kernel target/guests/debian-6.12/vmlinuz --initrd target/images/guest.cpio \
	    --cmdline 'console=ttyAMA0 panic=-1 init.run="uname -a"'
	@echo '== A CPU held in the middle of a console record while another one panics, under each stop protocol'
	$(HOST_VMM) run console-locked
	@echo '== The same done to Linux: what came of the record that the CPU was in'
	$(HOST_VMM) run console-locked --subject linux:nmi-only --quiet
	$(HOST_VMM) run console-locked --subject linux:irq-then-nmi --quiet

.PHONY: test
test: $(HOST_VMM) $(PAYLOAD) images kernels target/kunit target/checkers $(LAB) ## all tests: units on this machine, end to end on KVM
	$(call cargo,test --locked --workspace --exclude e2e)
	$(call cargo,test --locked -p vmm --features shuttle --lib conductor::gate)
	$(call cargo,test --locked -p e2e --tests)

.PHONY: soak
soak: $(HOST_VMM) $(PAYLOAD) images kernels kernel-nbcon target/kunit target/checkers $(LAB) ## the tests that take long, and half an hour of fuzzing each target
	$(call cargo,test --locked -p e2e --tests -- --ignored)
	$(MAKE) fuzz FUZZ_SECONDS=1800

# The code under test is safe Rust: a sanitizer would find nothing that its own checks don't, and needs a nightly compiler.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## fuzz every target of fuzz/ for FUZZ_SECONDS (60)
	@set -e; for target in $(FUZZ_TARGETS); do \
	    echo "cargo fuzz run --sanitizer none $$target -- -max_total_time=$(FUZZ_SECONDS)"; \
	    $(ENV) $(CARGO_FUZZ) run --sanitizer none $$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=1024 -verbosity=0 -print_funcs=0 -print_final_stats=1; \
	done

.PHONY: bench
bench: $(HOST_VMM) $(PAYLOAD) images kernels target/bench/qemu $(LAB) ## figures for docs/measurements.md, next to QEMU's (RUNS=5), and how long the model takes
	@echo "## $$(date -u +%F), $$(git describe --always --dirty)"
	@echo
	@echo "$(RUNS) runs, $$(nproc) processors ($$(uname -m))$(if $(LAB),$(comma) in the lab)$(comma) load $$(cut -d ' ' -f 1 /proc/loadavg) before."
	@echo
	@$(HOST_VMM) bench all --linux target/guests/debian-6.12/vmlinuz --built target/guests/irq-then-nmi/Image --initrd target/images/guest.cpio --payload $(PAYLOAD) \
	    --peer target/bench/qemu --runs $(RUNS)
	@echo
	@echo "Load $$(cut -d ' ' -f 1 /proc/loadavg) after. The model explores its default set in:"
	@bash -c 'time for scenario in tests/scenarios/any-*.toml; do \
	    $(HOST_VMM) explore $$(basename $$scenario .toml) -q > /dev/null || exit; done'
	@echo
	@echo "The matrix, with its lab's start:"
	@bash -c 'for options in "--filter subject=payload --jobs 1" "--filter subject=payload --jobs 2" ""; do \
	    TIMEFORMAT="vmm matrix $$options: %R s"; time $(HOST_VMM) matrix $$options -q > /dev/null || exit; done'

# Strict, so that there is something to look at: the first of the cells that are told at length is opened.

.PHONY: doc-pictures
doc-pictures: $(HOST_VMM) $(PAYLOAD) $(LAB) ## the pictures in docs/pictures, of a report that is made for them
	@rm -rf target/pictures && mkdir -p target/pictures docs/pictures
	$(HOST_VMM) matrix --filter payload --filter scenario=console-locked,scenario=console-nbcon,scenario=idle-plain \
	    --strict --quiet --report target/pictures/report.html > target/pictures/summary; [ $$? -eq 1 ]
	/usr/bin/python3 tests/readers/browser.py target/pictures/report.html target/pictures > target/pictures/seen.json
	cp target/pictures/first-1280-light.png docs/pictures/report.png
	cp target/pictures/opened-1280-light.png docs/pictures/story.png
	cp target/pictures/opened-360-dark.png docs/pictures/narrow.png

.PHONY: man
man: target/man/vmm.1 ## the manual pages: target/man

# Under sudo nothing is built: root has another cache, and would leave files of its own here.
.PHONY: install
install: $(if $(SUDO_UID),,$(HOST_VMM) $(PAYLOAD) man $(COMPLETIONS) $(LAB)) ## put vmm, its lab, its payload, its pages and completions below PREFIX
	tools/install.sh put $(DESTDIR)$(PREFIX)

.PHONY: uninstall
uninstall: ## take them away again
	tools/install.sh remove $(DESTDIR)$(PREFIX)

.PHONY: lint
lint: ## format, clippy on every target, licences
	$(call cargo,fmt --all --check)
	$(call cargo,clippy --locked --workspace --all-targets -- -D warnings)
	$(call cargo,clippy --locked -p vmm -p init --target $(TC_VMM_TARGET) --all-targets -- -D warnings)
	$(call guest_cargo,clippy --locked -p guest $(GUEST_FLAGS) -- -D warnings)
	@echo 'cargo deny check licenses bans' && $(ENV) $(HOLDPOINT_CACHE)/tools/cargo-deny-*/bin/cargo-deny --log-level warn --locked check --hide-inclusion-graph licenses bans

.PHONY: toolchain
toolchain: ## say which Rust toolchain is used
	@cat $(TC)

.PHONY: clean
clean: ## remove what was built, not the cache
	rm -rf target

# ---- How ----

# cargo knows whether there is anything to do; a file that it leaves alone makes nothing else to be remade.
$(HOST_VMM): FORCE
	$(call cargo,build --locked --release -p vmm)

$(ARM64_VMM) $(INIT): FORCE
	$(call cargo,build --locked --release -p $(@F) --target $(TC_VMM_TARGET))

$(PAYLOAD): FORCE
	$(call guest_cargo,build --locked --release -p guest $(GUEST_FLAGS))

target/bench/qemu: $(HOLDPOINT_CACHE)/trees/qemu/usr/bin/qemu-system-aarch64 tools/peer.sh
	@mkdir -p $(@D)
	tools/peer.sh $@ $(HOLDPOINT_CACHE)/trees/qemu qemu-system-aarch64

# cargo touches what it has built again, so a page is never older than its text.
target/man/vmm.1: $(HOST_VMM)
	rm -rf $(@D)
	$(HOST_VMM) man $(@D)

$(COMPLETIONS): $(HOST_VMM)
	@mkdir -p $(@D)
	$(HOST_VMM) completions $(@F) > $@

# What the cache holds, where tests and people find it: links, remade when the cache has moved.
target/guests: FORCE
	@[ "$$(readlink $@)" = $(HOLDPOINT_CACHE)/$(@F) ] || { rm -rf $@; ln -s $(HOLDPOINT_CACHE)/$(@F) $@; }

target/checkers: FORCE
	@[ "$$(readlink $@)" = $(HOLDPOINT_CACHE)/tools/$(@F) ] || { rm -rf $@; ln -s $(HOLDPOINT_CACHE)/tools/$(@F) $@; }

# The kernel's own parser of KTAP, by which the tests read what vmm matrix prints.
target/kunit: $(wildcard $(HOLDPOINT_CACHE)/parts/kernel-source/usr/src/linux-source-*.tar.xz)
	@rm -rf $@ $@.new && mkdir -p $@.new
	tar -xJf $< -C $@.new --strip-components=4 --wildcards '*/tools/testing/kunit/kunit_parser.py' '*/tools/testing/kunit/kunit_printer.py'
	@touch $@.new && mv $@.new $@

BUSYBOX := $(HOLDPOINT_CACHE)/parts/busybox/busybox

target/images/guest.cpio: $(INIT) images/applets tools/initramfs.sh $(BUSYBOX)
	tools/initramfs.sh $@ $(INIT) $(BUSYBOX)

target/lab/initrd.cpio: $(ARM64_VMM) images/applets tools/initramfs.sh $(BUSYBOX)
	tools/initramfs.sh $@ $(ARM64_VMM) $(BUSYBOX)

target/lab/vmlinuz: $(HOLDPOINT_CACHE)/parts/lab-kernel/vmlinuz
	@mkdir -p $(@D)
	ln -sf $(HOLDPOINT_CACHE)/parts/lab-kernel/vmlinuz $@

$(CARGO_FUZZ):
	@echo 'cargo install cargo-fuzz' && rm -rf $(@D) && \
	    $(ENV) CARGO_TARGET_DIR=target/cargo-fuzz cargo install --quiet --locked --root $(abspath $(@D)/..) cargo-fuzz@0.13.1
