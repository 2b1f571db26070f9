# The suite's commands. They share one environment, .venv, made on first use and again when pyproject.toml changes.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

SCALE ?= smoke
PYTHON := .venv/bin/python
REPRO := $(PYTHON) -m repro
OPTIONS = --scale $(SCALE) $(if $(WORKERS),--workers $(WORKERS)) $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)
STAMP := .venv/pyproject.toml

.PHONY: help all test bench status lint clean environment contest distillation identification ptq size_latency

help: ## this list
	@echo "make table1 .. table4, figure2, figure4, contest, identification, ptq, distillation, size_latency"
	@echo "                                 run what has no record at a scale, and show published, committed and own values"
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1|\2/p' Makefile | while IFS='|' read -r name what; do printf '%-33s%s\n' "$$name" "$$what"; done
	@echo "Variables: SCALE=smoke|cpu|gpu|paper, WORKERS=n, SEEDS=n, ARGS='any other option', as in: make table1 SCALE=cpu WORKERS=2"

table% figure%: environment
	@$(REPRO) $@ $(OPTIONS)

contest distillation identification ptq size_latency: environment
	@$(REPRO) $@ $(OPTIONS)

all: environment ## the same for every target
	@$(REPRO) all $(OPTIONS)

status: environment ## where every claim stands
	@$(REPRO) status $(ARGS)

test: environment ## all tests; ARGS='-k name' for some
	@$(PYTHON) -m pytest -q -n $(or $(WORKERS),auto) --dist worksteal $(ARGS)

bench: environment ## the benchmarks, in one process; updates benchmarks/ (half an hour)
	@$(PYTHON) -m pytest -q --benchmark-only --benchmark-quiet tests/benchmarks $(ARGS)

lint: environment ## style, types, and which package may import which
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

clean: ## remove caches; records, renders and .venv stay
	@rm -rf .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The stamp is a copy of the pyproject.toml that was installed, written last: an interrupted installation is repeated.
environment:
	@if $(PYTHON) -c '' 2>/dev/null && cmp -s pyproject.toml $(STAMP); then exit 0; fi; \
	for python in python3.11 python3; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then echo "make: Python 3.11 or newer is needed, as python3.11 or python3" >&2; exit 3; fi; \
	echo "Installing into .venv; the first time takes some minutes and, on Linux, about 6 GB" >&2; \
	$(PYTHON) -m pip --version >/dev/null 2>&1 || $$found -m venv --clear .venv; \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	cp pyproject.toml $(STAMP).new; \
	mv $(STAMP).new $(STAMP)
