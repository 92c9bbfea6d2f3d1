# What a developer types. `make` builds, `make test` checks everything, `make demo` shows it.
#
#   make               release build: target/release/rvm
#   make deps          installs the Debian packages that are missing (with sudo, unless root)
#   make test          everything: format, lints, unit and command line tests, end-to-end tests
#   make fmt lint unit parts of it that take no virtual machine
#   make fuzz          fuzzes [TARGET='block net …', default all] for [SECONDS=300] each
#   make bench         measures the hypervisor beside QEMU [BENCH_VMM='…' and others] and prints a table
#   make demo          brings up and provisions the example project, step by step
#   make lab CMD='…'   runs a command on an emulated host that has a real /dev/kvm;
#                      without CMD: a shell there
#   make clean         removes what was built here; `make distclean` also the test boxes

SHELL := /bin/bash
CARGO ?= cargo
CMD ?=
TARGET ?=
SECONDS ?= 300

.PHONY: build deps test fmt lint unit fuzz bench demo lab clean distclean
build:
	$(CARGO) build --release --locked

deps:
	@scripts/deps.sh

test: deps
	@tests/run.sh

fmt:
	$(CARGO) fmt --check
	rustfmt --check --edition 2024 guest/agent/main.rs guest/relay/main.rs

lint:
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --test e2e_kvm --test e2e_qemu -- -D warnings

unit:
	$(CARGO) test --locked

fuzz: deps
	@scripts/fuzz.sh -s $(SECONDS) $(TARGET)

bench: deps build
	@benches/run.sh

demo: deps
	@scripts/demo.sh

lab:
	@$(if $(CMD),lab/lab.sh -- bash -c '$(subst ','\'',$(CMD))',lab/lab.sh --shell)

clean:
	$(CARGO) clean
	rm -rf fuzz/target

distclean: clean
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/rvm-test" "$${XDG_CACHE_HOME:-$$HOME/.cache}/rvm/lab"
