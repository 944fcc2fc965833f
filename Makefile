# One front door. Every target brings what it needs; see README.md.
VENV    := .venv
BIN     := $(VENV)/bin
PYTHON  ?= python3
SAY     := @printf '\033[1m==> %s\033[0m\n'

# System packages that tests drive as independent parties; installed only when we are root and apt is there.
PARTIES := sip-tester tshark baresip-core espeak-ng prometheus stunnel4 openssl
# What the long suite adds: an edge proxy and registrar, name servers, loss in a network namespace, scanners.
EDGES   := kamailio kamailio-tls-modules dnsmasq-base nftables iproute2 sipvicious
RIVALS  := rtpengine-daemon kamailio

.PHONY: help setup build check test unit parties edges conformance bench demo lock clean

help:
	@echo "make demo         build, and place real calls through the bridge on loopback"
	@echo "make test         build, check and run every test (under ten minutes)"
	@echo "make check        formatting, linting, types, import layers, stubs"
	@echo "make conformance  the whole conformance suite, long loads included"
	@echo "make bench        benchmarks beside rtpengine, sippy and Kamailio where installable"
	@echo "make setup build  the virtual environment and the Rust relay"
	@echo "make lock         renew requirements.lock and Cargo.lock"

$(BIN)/python:
	$(SAY) "virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock | $(BIN)/python
	$(SAY) "Python packages from requirements.lock"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

setup: $(VENV)/.installed

RUST := Cargo.toml Cargo.lock $(shell find bridge/native -type f -not -path '*/target/*')

$(VENV)/.built: $(VENV)/.installed $(RUST) pyproject.toml
	@command -v cargo >/dev/null || { echo "Rust (cargo) is needed: https://rustup.rs" >&2; exit 1; }
	$(SAY) "Rust relay (release)"
	@. $(BIN)/activate && { said=$$(maturin develop --release --locked --quiet 2>&1) || { echo "$$said" >&2; exit 1; }; }
	@touch $@

build: $(VENV)/.built

parties: WANTED := $(PARTIES)
edges: WANTED := $(EDGES)

parties edges:
	@missing=; for package in $(WANTED); do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    printf '\033[1m==> %s\033[0m\n' "independent parties:$$missing"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null || echo "could not install:$$missing (tests against them will be skipped)" >&2; \
	  else echo "not installed:$$missing (tests against them will be skipped; as root: apt-get install$$missing)" >&2; fi; \
	fi

check: build
	$(SAY) "formatting and linting"
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@cargo fmt --check
	@cargo clippy --quiet --release --locked --all-targets -- -D warnings
	@cargo clippy --quiet --release --locked --features python -- -D warnings
	$(SAY) "types, stubs and import layers"
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python -m mypy.stubtest bridge._native
	@$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache
	$(SAY) "requirements and threats, and the tests that prove them"
	@$(BIN)/python -m tests.rows

unit: build
	$(SAY) "Rust tests"
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --release --locked --no-fail-fast --status-level fail; else cargo test --release --locked --quiet; fi
	$(SAY) "Python tests"
	@$(BIN)/pytest -rs --durations=5

test: parties check unit

conformance: build parties edges
	@$(BIN)/trunkbridge conformance

bench: build
	@missing=; for package in $(RIVALS) sip-tester; do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null || true; fi
	@$(BIN)/trunkbridge bench --install-peers

demo: build
	@$(BIN)/trunkbridge demo

lock: | $(BIN)/python
	@$(BIN)/python -m pip install --quiet pip-tools
	@$(BIN)/pip-compile --quiet --strip-extras --allow-unsafe --generate-hashes --no-emit-find-links --no-emit-index-url --extra dev -o requirements.lock pyproject.toml
	@cargo generate-lockfile

clean:
	rm -rf $(VENV) target .mypy_cache .ruff_cache .pytest_cache .hypothesis bridge/_native*.so
