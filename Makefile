# make help lists what there is. Everything happens in .venv, which is made on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What make soak is told: make soak MINUTES=5 BACKEND=asyncio TRANSPORT=websocket SEED=7
SOAK = --minutes $(or $(MINUTES),15) --backend $(or $(BACKEND),trio) --transport $(or $(TRANSPORT),grpc) \
  $(if $(SEED),--seed $(SEED))

# How often make trials does what make test does a few times.
TRIALS = ENSYNC_KILLS=200 ENSYNC_INTERRUPTS=50 ENSYNC_RECONNECTS=1000 ENSYNC_FUZZ_FRAMES=100000

.DEFAULT_GOAL := help
.PHONY: help demo test lint types pytest soak trials proto bench clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 12

demo: $(VENV)/.runtime ## Watch events flow through a local engine
	$(BIN)/ensync demo

test: lint types pytest ## Check everything that a change must pass

lint: $(VENV)/.dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types, with mypy and with pyright
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

pytest: $(VENV)/.dev ## Run the test suite
	$(BIN)/pytest --numprocesses auto --dist worksteal

soak: $(VENV)/.dev ## Work while everything fails, for MINUTES (15), with a SEED, BACKEND and TRANSPORT
	$(BIN)/python -m tests.faults.soak $(SOAK)

trials: $(VENV)/.dev ## Kill, interrupt, reconnect and throw garbage as often as make test has no time for
	$(TRIALS) $(BIN)/pytest --capture=no $(addprefix tests/faults/test_,kill_engine.py interrupts.py census.py fuzzed_doors.py)

proto: $(VENV)/.dev ## Generate src/ensync/proto from proto/ensync.proto
	$(BIN)/python scripts/generate_proto.py src/ensync/proto

bench: $(VENV)/.dev ## Compare speed with other clients, and a file of a million events with an empty one
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.starting
	$(BIN)/python -m benchmarks.million

clean: ## Remove what was made, .venv too
	rm -rf .venv .venv-* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; \
	sys.version_info >= (3, 11) or sys.exit("ensync needs Python 3.11 or later, but $(PYTHON) is " + v + ": try make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv $(VENV)

# The stamps: an installation happens once, and again when pyproject.toml has changed.
$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[trio,cli]'
	touch $@

# Older versions of pip do not know dependency groups.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -qq --disable-pip-version-check 'pip>=25.1'
	$(BIN)/python -m pip install -qq --editable '.[trio,cli,pydantic]' --group dev
	touch $@ $(VENV)/.runtime
