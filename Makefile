# The one door. `make help` lists what it opens.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
CARGO := cargo
CARGO_DENY_VERSION := 0.20.2
ROTEL_VERSION := 0.0.1a15
PSUTIL_VERSION := 7.2.2
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# Named outright, although it is the host's: flags for the target then leave procedural macros alone.
STATIC_TARGET := $(shell uname -m)-unknown-linux-gnu
# The crate getrandom would look for the C library's function by name at run time, which a static binary does not find.
STATIC_FLAGS := -C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"

FAST_AGENT := $(TARGET_DIR)/fast/vms-agent
CARGO_DENY := $(TARGET_DIR)/tools/bin/cargo-deny
ROTEL := .venv/bin/rotel-agent
PSUTIL := .venv/psutil-$(PSUTIL_VERSION)
SOAK_MINUTES ?= 30
BENCH_TOOLS := netstat:net-tools lsof:lsof prometheus-node-exporter:prometheus-node-exporter collectd:collectd-core

.PHONY: help run test check bench hostile fuzz soak package clean
.PHONY: toolchain

help: ## Lists these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: toolchain ## Builds, then shows a receiver and an agent that watches its own link to it; Ctrl-C ends both
	$(CARGO) build --locked --profile fast --package vms-agent
	@deploy/quickstart.sh $(FAST_AGENT)

test: toolchain $(ROTEL) ## Runs every test; as root, or those that need network namespaces say that they were skipped
	@deploy/need.sh ip:iproute2 tc:iproute2 nft:nftables setpriv:util-linux strace:strace openssl:openssl valgrind:valgrind mkfs.ext4:e2fsprogs faketime:faketime curl:curl podman:podman runc:runc catatonit:catatonit $(if $(CI),promtool:prometheus) || $(if $(CI),false,true)
	$(CARGO) build --locked --profile fast --package vms-agent --package vms-bench --bin vms-agent --bin vms-steady
	VMS_AGENT_BIN='$(abspath $(FAST_AGENT))' VMS_STEADY_BIN='$(abspath $(TARGET_DIR)/fast/vms-steady)' ROTEL_AGENT='$(abspath $(ROTEL))' VMS_TESTS_FAIL_ON_SKIP=$(if $(CI),1) \
		$(CARGO) test --locked --workspace

check: toolchain $(CARGO_DENY) ## Checks format, lints, dependencies and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	$(CARGO_DENY) --locked check --deny warnings bans licenses sources
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --locked --workspace --no-deps

bench: toolchain ## Prints what the agent costs beside other tools, and writes docs/benchmark.md (quick: BENCH_FLAGS=--quick)
	@deploy/need.sh ip:iproute2 unshare:util-linux
	@# What cannot be had is told as not installed.
	@for tool in $(BENCH_TOOLS); do deploy/need.sh $$tool || true; done
	@$(MAKE) --no-print-directory $(PSUTIL) || true
	$(CARGO) build --locked --release --package vms-agent --package vms-bench
	@$(TARGET_DIR)/release/vms-bench --agent $(TARGET_DIR)/release/vms-agent --python .venv/bin/python $(BENCH_FLAGS)

hostile: toolchain ## Sets 100,000 connections, 800,000 files and 20,000 processes upon an agent, and prints what it took; as root
	@deploy/need.sh ip:iproute2
	$(CARGO) build --locked --profile fast --package vms-agent --bin vms-agent
	VMS_AGENT_BIN='$(abspath $(FAST_AGENT))' VMS_HOSTILE_FULL=1 VMS_TESTS_FAIL_ON_SKIP=1 \
		$(CARGO) test --locked --package vms-agent-tests --test hostile -- --nocapture

soak: toolchain ## Watches an agent for SOAK_MINUTES among churn, faults, reloads and kills, and writes docs/soak.md
	@deploy/need.sh ip:iproute2 unshare:util-linux
	$(CARGO) build --locked --profile fast --package vms-agent --bin vms-agent
	$(CARGO) build --locked --package vms-soak --package vms-agent-tests --bins
	@VMS_AGENT_BIN='$(abspath $(FAST_AGENT))' $(TARGET_DIR)/debug/vms-soak --minutes $(SOAK_MINUTES) --output docs $(SOAK_FLAGS)

fuzz: toolchain ## Feeds each decoder for FUZZ_SECONDS (60) with what may be hard on it (one alone: FUZZ_TARGETS=tcp_info)
	@deploy/need.sh g++:g++
	@FUZZ_SECONDS='$(or $(FUZZ_SECONDS),60)' FUZZ_RUNS='$(or $(FUZZ_RUNS),-1)' tests/fuzz/run.sh $(abspath $(TARGET_DIR)) $(FUZZ_TARGETS)

package: toolchain ## Makes a static binary, an archive of it and, with podman, buildah or docker, an image
	@deploy/need.sh update-ca-certificates:ca-certificates
	RUSTFLAGS='$(STATIC_FLAGS)' \
		$(CARGO) build --locked --release --target $(STATIC_TARGET) --package vms-agent
	@deploy/package.sh $(TARGET_DIR)/$(STATIC_TARGET)/release/vms-agent $(VERSION) $(STATIC_TARGET) $(TARGET_DIR)/package

clean: ## Removes all that was built or installed here
	$(CARGO) clean
	rm -rf .venv

toolchain:
	@deploy/need.sh gcc:gcc
	@command -v $(CARGO) >/dev/null || { echo 'cargo is missing: install Rust with rustup, then open a new shell' >&2; exit 1; }

# Unoptimized: it builds in half the time and runs for two seconds.
$(CARGO_DENY):
	$(CARGO) install cargo-deny --version $(CARGO_DENY_VERSION) --locked --no-default-features --debug \
		--root $(TARGET_DIR)/tools

# A collector that this project did not write, for the whole-agent tests.
$(ROTEL): | .venv/bin/pip
	.venv/bin/pip install --quiet rotel==$(ROTEL_VERSION)
	ln -sf "$$(realpath .venv/lib/python3*/site-packages/rotel/rotel-agent)" $@

# What many monitoring scripts are made of, for the benchmark.
$(PSUTIL): | .venv/bin/pip
	.venv/bin/pip install --quiet psutil==$(PSUTIL_VERSION)
	touch $@

.venv/bin/pip:
	@deploy/need.sh python3:python3
	@python3 -c 'import ensurepip' 2>/dev/null || deploy/need.sh ensurepip:python3-venv
	python3 -m venv .venv
