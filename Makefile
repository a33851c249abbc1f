# The index of commands. `make help` prints it; heavy work lives in the scripts and binaries called here.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(BESSEMER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bessemer)
export BESSEMER_CACHE := $(CACHE)
export CARGO_TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CACHE)/target)
export LIBTORCH := $(CACHE)/libtorch-2.11.0
export LIBTORCH_BYPASS_VERSION_CHECK := 1
export LD_LIBRARY_PATH := $(LIBTORCH)/lib$(if $(LD_LIBRARY_PATH),:$(LD_LIBRARY_PATH))
export PATH := $(CACHE)/bin:$(PATH)
SEEDS ?= 10000
CARGO := cargo
BIN := $(CARGO_TARGET_DIR)/release

.PHONY: help
help: ## print this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | column -t -s "$$(printf '\t')"

.PHONY: setup
setup: ## install what the build needs (Debian packages, libtorch) if it is missing
	@.ci/setup

.PHONY: build
build: setup ## build all binaries in the one profile that everything shares
	$(CARGO) build --release --workspace --locked

.PHONY: quickstart
quickstart: build ## from text on this machine to a served model, on the embedded control plane
	@examples/quickstart/run "$(BIN)"

.PHONY: test
test: setup ## everything that needs no cluster
	$(CARGO) build --release --workspace --locked
	$(CARGO) test --release --workspace --locked

.PHONY: lint
lint: setup ## format, clippy, file sizes, generated files, licences and bans, unused dependencies
	.ci/lint

.PHONY: generate
generate: setup ## write generated files (CRD YAML, status page) from their sources
	.ci/generate

.PHONY: simulate
simulate: build ## run the simulation: SEEDS=n, FROM=first seed, LIMIT=seconds, LOG=1
	$(BIN)/simulate --seeds $(SEEDS) $(if $(FROM),--from $(FROM)) $(if $(LIMIT),--limit $(LIMIT)) $(if $(filter 10000,$(SEEDS)),--complete) $(if $(LOG),--log)

.PHONY: e2e
e2e: setup ## end-to-end tests on the embedded control plane, kubectl included
	.ci/e2e

.PHONY: charts
charts: ## lint, render and check the Helm charts, their rules and wrong values (no cluster; needs Go)
	charts/test

.PHONY: charts-install
charts-install: ## install, upgrade and uninstall both charts on a real API server; audit the operator's rights (no nodes; needs Go)
	charts/install "$(BIN)"

.PHONY: cluster-up
cluster-up: ## start a real one-node Kubernetes with an S3 server in namespaces of its own (root; needs Go)
	@e2e/cluster/up

.PHONY: cluster-down
cluster-down: ## end that cluster and leave nothing behind
	@e2e/cluster/down

.PHONY: e2e-cluster
e2e-cluster: build ## the chain and the quickstart in restricted pods of that cluster
	e2e/cluster/test "$(BIN)"

.PHONY: e2e-chaos
e2e-chaos: build ## chains on that cluster under faults at seeded moments: SEED=n, ROUNDS=n for each fault
	e2e/cluster/chaos "$(BIN)"

.PHONY: e2e-store
e2e-store: build ## the worker on an S3 server that is not ours, versitygw (needs Go)
	e2e/cluster/store "$(BIN)"

.PHONY: images-binaries
images-binaries: setup
	$(CARGO) build --release --locked -p bessemer-operator -p bessemer-worker

.PHONY: images
images: images-binaries images-check ## build both images from scratch as OCI layouts below the cache, and check them

.PHONY: images-check
images-check: setup ## build images of the binaries that are there, and check them
	trainer-image/test-images --bin "$(BIN)"

.PHONY: e2e-kill
e2e-kill: build ## kill processes at random moments: KILL=quickstart for that alone, BESSEMER_ROUNDS=n, BESSEMER_SEED=n
	examples/quickstart/data "$(BIN)"
	$(CARGO) test --release --workspace --locked --test local -- --ignored --nocapture --test-threads 1 kill::$(KILL)

.PHONY: parity
parity: setup ## tests against the peers and the real data of ../shared/data
	.ci/parity

.PHONY: bench
bench: setup ## print the figures of docs/benchmarks.md
	.ci/bench

.PHONY: bench-scale
bench-scale: build ## OBJECTS=n objects on a real API server with kwok's nodes and pods: apply to children, requests, memory, rest (needs Go)
	AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any $(BIN)/scale_cluster --objects $(or $(OBJECTS),1000) --operator $(BIN)/bessemer-operator

.PHONY: kernels
kernels: setup ## compile the CUDA kernels with nvcc from its wheel
	kernels/build.sh

.PHONY: env
env: ## print the environment for plain cargo: eval "$(make -s env)"
	@for name in CARGO_TARGET_DIR LIBTORCH LIBTORCH_BYPASS_VERSION_CHECK LD_LIBRARY_PATH PATH; do printf 'export %s=%q\n' "$$name" "$${!name}"; done
