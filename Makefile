# `make demo` and `make test` set up all they need in .venv on their first call; the next calls reuse it.
# Needs Python 3.11 or newer, pip and a C compiler. PYTHON=/path/to/python3 chooses the interpreter.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint clean

# Threads that wait by spinning take the cores from those with work, several times slower where other programs run too.
export OMP_WAIT_POLICY ?= PASSIVE

# Processes of tests, each of which computes on one core.
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.anomalib-ckaad-installed
# The first interpreter that is new enough.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$python; break; fi; done)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP) ## make the virtual environment .venv and install the package with all its extras, editable

# An environment that is there already is used; new requirements or start-up files are installed into it.
$(STAMP): pyproject.toml anomalib_ckaad_startup.pth anomalib_ckaad_startup.start
	@if [ ! -x $(BIN)/python ]; then \
		if [ -z "$(PYTHON)" ]; then \
			echo "Expected Python 3.11 or newer, found none. Do install one, or give it as PYTHON=..." >&2; exit 1; fi; \
		"$(PYTHON)" -m venv $(VENV) || { \
			"$(PYTHON)" -m venv --clear --without-pip $(VENV) && \
			"$(PYTHON)" -m pip --python $(BIN)/python install pip; }; \
	fi
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev,medical,offline,openvino]'
	@touch $@

demo: $(STAMP) ## train and test on the built-in textures; DATA=folder uses your images instead
	$(BIN)/anomalib-ckaad demo $(if $(DATA),--data "$(DATA)")

test: $(STAMP) ## run the fast tests
	$(BIN)/python -m pytest -m 'not slow' -n $(JOBS) --dist loadfile

test-slow: $(STAMP) ## run the slow tests
	$(BIN)/python -m pytest -m slow -n $(JOBS) --dist loadfile

lint: $(STAMP) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove caches and builds, not .venv nor results
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +
