# `make demo` and `make test` set up all they need in .venv on their first call; the next calls reuse it.
# Needs Python 3.11 or newer, pip and a C compiler. PYTHON=/path/to/python3 chooses the interpreter.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow soak lint upgrade clean

# Threads that wait by spinning take the cores from those with work, several times slower where other programs run too.
export OMP_WAIT_POLICY ?= PASSIVE

# Processes of tests, each of which computes on one core.
JOBS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.anomalib-ckaad-installed
EXTRAS := dev,medical,offline,openvino
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --editable '.[$(EXTRAS)]'
# The first interpreter that is new enough.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$python; break; fi; done)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP) ## make .venv and install the package, editable, with all its extras in the versions of constraints.txt

# An environment that is there already is used; new requirements, versions or start-up files are installed into it.
$(STAMP): pyproject.toml constraints.txt anomalib_ckaad_startup.pth anomalib_ckaad_startup.start
	@if [ ! -x $(BIN)/python ]; then \
		if [ -z "$(PYTHON)" ]; then \
			echo "No Python 3.11 or newer found. Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
		"$(PYTHON)" -m venv $(VENV) || { \
			"$(PYTHON)" -m venv --clear --without-pip $(VENV) && \
			"$(PYTHON)" -m pip --python $(BIN)/python install pip; }; \
	fi
	$(PIP_INSTALL) --constraint constraints.txt
	@touch $@

demo: $(STAMP) ## train and test on the built-in textures; DATA=folder uses your images instead
	$(BIN)/anomalib-ckaad demo $(if $(DATA),--data "$(DATA)")

test: $(STAMP) ## run the fast tests
	$(PYTEST) -m 'not slow'

test-slow: $(STAMP) ## run the slow tests
	$(PYTEST) -m 'slow and not soak'

soak: $(STAMP) ## run the tests that take too long for a check of every change
	$(PYTEST) -m soak

lint: $(STAMP) ## check style, types, and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

# Use the oldest Python that the package supports: newer ones take versions that it cannot install. What torch pins for
# one system (CUDA, Triton) is left to torch.
upgrade: $(STAMP) ## install the newest versions that pyproject.toml allows, and write them into constraints.txt
	$(PIP_INSTALL) --upgrade --upgrade-strategy eager
	{ sed '/^[^#]/,$$d' constraints.txt; \
		$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip --exclude wheel | \
		sed -E '/^(#|cuda-|nvidia-|triton)/d; s/\+[a-z0-9.]+$$//'; } >constraints.part
	mv constraints.part constraints.txt

clean: ## remove caches and builds, not .venv nor results
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +
