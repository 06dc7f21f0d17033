# Everything here sets itself up: `make demo` and `make test` work from a fresh clone.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Arguments for the commands below: make demo ARGS="--seconds 30", make test ARGS="-k records -x"
ARGS ?=

# make chaos SECONDS=600 SEED=7
SECONDS ?= 600
EVERY ?= 5
SEED ?=

.PHONY: help setup demo test chaos lint format types bench orange-juice online-retail calibration intent clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

setup: $(VENV)/.installed ## .venv in this checkout, with the command nowcart in it

# Done again only when the dependencies change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "nowcart needs Python 3.11 or later: none found; name one with make PYTHON=/path/to/python3" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nowcart needs Python 3.11 or later; $(PYTHON) is $$("$(PYTHON)" --version 2>&1): name another with make PYTHON=/path/to/python3" >&2; exit 2; }
	[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local,bench,dev]'
	@touch $@

demo: setup ## a simulated shop and its live forecasts in this terminal; Ctrl-C ends it
	$(BIN)/nowcart demo $(ARGS)

test: setup ## every test; those that need a real Kafka or the real shops' files say so when they are skipped
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: setup ## processes and brokers killed for SECONDS=600 (one every EVERY=5), drawn from SEED; says whether anything was lost
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --every $(EVERY) $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## ruff: mend what can be mended
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: setup ## mypy --strict
	$(BIN)/mypy

bench: setup ## throughput and latency on this machine, beside the limit measured in the same run
	$(BIN)/nowcart bench $(ARGS)

# The real shops' files: in NOWCART_TEST_DATA, else in ../shared/data. Hours with every method: make orange-juice ARGS="--models nowcart,lightgbm".
orange-juice: setup ## backtest on 83 stores x 11 brands of orange juice, beside the published figures
	$(BIN)/python -m benchmarks.orange_juice $(ARGS)

online-retail: setup ## backtest on a gift shop's days, 46 % of them zero
	$(BIN)/python -m benchmarks.online_retail $(ARGS)

calibration: setup ## are the quantiles kept on both, by velocity and horizon, and after demand has doubled?
	$(BIN)/python -m benchmarks.calibration $(ARGS)

intent: setup ## purchase intent: a simulated shop beside its oracle, before and after it changes, and a real shop's morning
	$(BIN)/python -m benchmarks.intent $(ARGS)

clean: ## what tools left behind; .venv and the demo's state as well
	rm -rf $(VENV) .nowcart .kafka .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
