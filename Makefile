# The words that people and CI share. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test chaos soak check bench services services-stop need-build

# What building librdkafka takes.
BUILD_NEEDS := cc c++ make pkg-config openssl-headers zlib-headers

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: need-build ## everything in one process: embedded Kafka, stub services, traffic, the API (ARGS="--help" for what it takes)
	@cargo run --locked -- dev $(ARGS)

# One failing test binary must not hide what the others have to say.
test: need-build ## all tests, against KAFKA_BROKERS and REDIS_URL if both are set, else against servers of their own
	@if [ -n "$${KAFKA_BROKERS:-}" ] && [ -n "$${REDIS_URL:-}" ]; then \
	  cargo test --locked --no-fail-fast $(ARGS); \
	else \
	  scripts/services exec -- cargo test --locked --no-fail-fast $(ARGS); \
	fi

# One scenario at a time: each has two cores' worth of processes. SEED= repeats a run's chance, SECONDS= is how long its faults go on.
chaos: need-build ## faults against a cluster of its own, for minutes: kills, rebalances, brokers, network (ARGS="network" SEED=7 SECONDS=120)
	@CHAOS_SEED=$(SEED) CHAOS_SECONDS=$(SECONDS) scripts/services exec --brokers 3 -- \
	  cargo test --locked --test chaos -- --ignored --nocapture --test-threads 1 --skip soak $(ARGS)

soak: need-build ## one instance under load and faults; fails if memory, files, threads, lag or in-flight drift (SECONDS=3600 ARGS=--release)
	@CHAOS_SEED=$(SEED) CHAOS_SECONDS=$(SECONDS) scripts/services exec -- \
	  cargo test --locked $(ARGS) --test chaos -- --ignored --nocapture soak

check: need-build ## format, lints, docs, shell scripts, alert rules, licences and sources of dependencies
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null; then \
	  echo cargo deny; cargo fetch --locked --quiet; cargo deny --locked --offline check bans licenses sources; \
	else \
	  echo "skipped: licences and sources of dependencies; cargo-deny is missing: cargo install cargo-deny --locked"; \
	fi
	@if command -v shellcheck >/dev/null; then \
	  echo shellcheck; shellcheck scripts/* deploy/healthcheck .ci/run tests/resilience4j/record; \
	else \
	  echo "skipped: shell scripts; shellcheck is missing: apt-get install shellcheck"; \
	fi
	@if command -v promtool >/dev/null; then \
	  promtool check rules deploy/prometheus/alerts.yml && promtool test rules deploy/prometheus/alerts_test.yml; \
	else \
	  echo "skipped: alert rules; promtool is missing: apt-get install prometheus"; \
	fi

bench: need-build ## benchmarks, against servers of their own
	@scripts/services exec -- cargo bench --locked $(ARGS)

services: ## start a Kafka and a Redis, leave them running, print where they listen: set -a; eval "$(make -s services)"; set +a
	@scripts/services start

services-stop: ## stop them, delete their data
	@scripts/services stop

need-build:
	@command -v cargo >/dev/null || { echo "missing: cargo; install Rust from https://rustup.rs"; exit 1; }
	@scripts/need $(BUILD_NEEDS)
