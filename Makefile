# hermod. `make` alone lists what there is.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/hermod-im/hermod/cmd/internal/cli.version=$(VERSION)

# What is expensive to make is kept between checkouts: the Consul agent, MySQL 9, an empty MariaDB.
HERMOD_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hermod
export HERMOD_CACHE
CONSUL_VERSION := 1.13.9
CONSUL         := $(HERMOD_CACHE)/bin/consul-$(CONSUL_VERSION)

# PKG narrows test, TESTFLAGS adds to it: make test PKG=./naming/... TESTFLAGS='-run Restart -v'
PKG          ?= ./...
TESTFLAGS    ?=
TEST_TIMEOUT ?= 12m
FUZZTIME     ?= 10s
FAULTSFLAGS  ?=
BENCHFLAGS   ?=
# The mix of faults has the machine for itself, and is no part of what is narrowed. The race detector watches its nodes.
MIX          := $(if $(filter ./...,$(PKG)),'^TestMix$$')

# Built, not `go run`: that would not pass a SIGTERM on.
WITH_COMPONENTS = go build -o bin/ ./test/cmd/with-components && bin/with-components

GO_FILES = find . -name '*.go' ! -name '*.pb.go' ! -path '*/node_modules/*'

.DEFAULT_GOAL := help

##@ Run
.PHONY: run
run: ## Everything in one process, data in ./data
	go run ./cmd/hermod standalone

.PHONY: cluster
cluster: install consul ## 2 gateways, 2 logic nodes and a router on local MariaDB, Redis and Consul
	go run ./test/cmd/cluster

.PHONY: build
build: ## The binaries, into bin/
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

##@ Test
.PHONY: test
test: install consul ## All tests with the race detector, on real MariaDB, Redis and Consul
	export HERMOD_TEST_RACE=1; $(WITH_COMPONENTS) go test -race -timeout $(TEST_TIMEOUT) $(if $(MIX),-skip $(MIX)) $(TESTFLAGS) $(PKG)
	$(if $(MIX),HERMOD_TEST_RACE=1 go test -v -count=1 -timeout $(TEST_TIMEOUT) -run $(MIX) $(TESTFLAGS) ./test/faults)

.PHONY: test-short
test-short: ## The tests that need nothing but Go
	go test -short $(TESTFLAGS) $(PKG)

.PHONY: test-mysql
test-mysql: install mysql9-root ## The storage contract on a real MySQL 9 (root only)
	$(WITH_COMPONENTS) -only mysql -mysql9 go test -race -count=1 -timeout $(TEST_TIMEOUT) -skip '^(TestSQLite|TestMariaDB)$$' $(TESTFLAGS) ./storage/sql/...

.PHONY: faults
faults: install consul ## Every fault for a minute, under load; FAULTSFLAGS='-run links' for some of them
	go build -o bin/ ./test/cmd/faults && bin/faults $(FAULTSFLAGS)

.PHONY: bench
bench: install consul ## What messages and connections cost, with tables and plots; BENCHFLAGS='-run talk' for some, -quick for a glance
	go build -o bin/ ./test/cmd/bench && bin/bench -docs docs/bench.md $(BENCHFLAGS)

.PHONY: fuzz
fuzz: ## Every fuzz test for FUZZTIME (10s, or a number of inputs: 10000x)
	@test/fuzz.sh $(FUZZTIME)

##@ Check
# Tests that hold something to what it costs, see test/cost.
COSTS = $(sort $(dir $(shell grep -rl --include='*_test.go' '^func TestCost' .)))

.PHONY: guard
guard: ## Allocations and bytes of what is hot, or there for every connection, are what they were
	go test -count=1 -run '^TestCost' $(COSTS)

# Twice, before and after a change, and compared: make gobench OUT=old; make gobench OUT=new; make benchstat
BENCHPKG   ?= ./wire/... ./transport/... ./container ./gateway ./logic ./limit
BENCHCOUNT ?= 10
OUT        ?= new

.PHONY: gobench
gobench: ## Go benchmarks of BENCHPKG, BENCHCOUNT times, into bin/OUT.bench (old or new)
	@mkdir -p bin
	go test -run '^$$' -bench . -benchmem -count $(BENCHCOUNT) $(BENCHPKG) | tee bin/$(OUT).bench

.PHONY: benchstat
benchstat: ## Compares bin/old.bench with bin/new.bench
	@go tool -modfile=tools/benchstat.mod benchstat bin/old.bench bin/new.bench

# Packages with files for Linux only that others are built with elsewhere.
PORTABLE = ./transport/... ./bench/... ./client/... ./storage/sql/... ./test/cluster ./test/component

.PHONY: lint
lint: ## gofumpt, go vet, staticcheck
	@unformatted=$$($(GO_FILES) | xargs go tool -modfile=tools/gofumpt.mod gofumpt -l); \
	if [[ -n $$unformatted ]]; then echo "not gofumpt'ed (make fmt):"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	GOOS=darwin go vet $(PORTABLE)
	go tool -modfile=tools/staticcheck.mod staticcheck ./...

.PHONY: fmt
fmt: ## Formats the source
	@$(GO_FILES) | xargs go tool -modfile=tools/gofumpt.mod gofumpt -w

.PHONY: generate
generate: install ## Go code from wire/proto
	@tools/protoc.sh .

.PHONY: check-generated
check-generated: install ## Fails if the generated code is not current
	@tools/check-generated.sh

##@ Prepare
.PHONY: install
install:
	@test/install.sh

.PHONY: consul
consul: ## The Consul agent for tests, into the cache, unless there is one on PATH
	@if [[ -n "$${HERMOD_CONSUL:-}" ]] || command -v consul >/dev/null || [[ -x $(CONSUL) ]]; then exit 0; fi; \
	echo "building consul $(CONSUL_VERSION) (about 3 minutes, once)"; \
	mkdir -p $(dir $(CONSUL)); \
	cd test/tools/consul && CGO_ENABLED=0 go build -ldflags=-checklinkname=0 -o $(CONSUL).part github.com/hashicorp/consul; \
	mv $(CONSUL).part $(CONSUL)

.PHONY: mysql9-root
mysql9-root: ## MySQL 9 of Debian unstable, into the cache (root only)
	@[[ -x $(HERMOD_CACHE)/mysql9/usr/sbin/mysqld ]] || test/install.sh mysql9
	@test/mysql9-root.sh $(HERMOD_CACHE)

.PHONY: clean
clean: ## Removes bin/, ./data and bench-results/; the cache stays
	rm -rf bin data bench-results

.PHONY: help
help:
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST) | sed 1d
