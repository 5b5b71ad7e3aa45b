# Every recipe of the project. `make help` lists them.
CARGO ?= cargo
PYTHON ?= python3
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.PHONY: all sample run test check fmt fuzz parity bench help clean

all: ## build the release binary as ./sota-mesh
	$(CARGO) build --release --bin sota-mesh
	install -m 755 $(TARGET_DIR)/release/sota-mesh sota-mesh

sample: ## build the demo programs into cmd/sample
	$(CARGO) build --release -p sota-samples
	install -m 755 $(TARGET_DIR)/release/httpserver $(TARGET_DIR)/release/zmqclient cmd/sample

run: all sample ## the proxy on conf/simple.yaml and its two demo servers, until Ctrl-C
	@bash cmd/run-demo.sh

test: ## fetch what the tests need and run every test
	@CARGO='$(CARGO)' $(PYTHON) tests/run.py

check: ## formatter, lints, dependency rules, and the tree's own rules
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	  $(CARGO) deny check bans licenses sources; \
	else \
	  echo 'cargo-deny is not installed: bans, licenses and sources are not checked (cargo install --locked cargo-deny)'; \
	fi
	$(PYTHON) tests/tidy.py

fmt: ## format every source file
	$(CARGO) fmt --all
	cd fuzz && $(CARGO) fmt

fuzz: ## a short run of each fuzz target (SECONDS_EACH=20, TARGETS="fuzz_yaml ...")
	@CARGO='$(CARGO)' $(PYTHON) fuzz/run.py --seconds $(or $(SECONDS_EACH),20) $(TARGETS)

parity: ## the same bootstrap on Envoy 1.40 and on ours, compared (CASES="routing ...")
	$(CARGO) build --bin sota-mesh
	@$(PYTHON) tests/run.py --prepare-only
	@.venv/bin/python tests/parity/run.py --sota $(TARGET_DIR)/debug/sota-mesh $(CASES)

bench: all ## Envoy, nginx, HAProxy and ours, one worker on one core each (BENCH="--rounds 9")
	@$(PYTHON) tests/run.py --prepare-only
	@.venv/bin/python benches/run.py --sota ./sota-mesh $(BENCH)
	$(CARGO) bench -q -p sota-proxy --bench recorder
	@.venv/bin/python benches/zeromq.py --sota ./sota-mesh

clean: ## remove what was built
	$(CARGO) clean
	rm -f sota-mesh cmd/sample/httpserver cmd/sample/zmqclient

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10
