# `make run` and `make test` do all the set-up on a machine that has Python and make; `make help` lists the rest.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
SCENARIO ?= scenarios/noniid.yaml
# -qq keeps pip's errors and drops its warnings about index locations that a machine's own configuration may name.
PIP := $(PY) -m pip install -qq --disable-pip-version-check

supported := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
candidates := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
# Prints the first usable one; a pyenv shim may be on PATH and still not run.
find_python := for name in $(candidates); do "$$name" -c '$(supported)' 2>/dev/null && echo "$$name" && break; done
again = make $(or $(MAKECMDGOALS),run)
failed = { echo "$(1) was not installed: pip says why above. It needs a network or an index; to try again: $(again)" >&2; exit 1; }

.PHONY: run test test-all lint clean help

run: $(STAMP) ## set up if needed, then run SCENARIO (scenarios/noniid.yaml); ARGS="--set rounds=5" is passed on
	$(VENV)/bin/fedapt run $(SCENARIO) $(ARGS)

test: lint ## set up if needed, lint, then the fast tests
	$(PY) -m pytest

test-all: lint ## the same with the slow tests: real processes, kills, whole runs
	$(PY) -m pytest -m ""

lint: $(STAMP) ## ruff and mypy on everything
	$(PY) -m ruff check --quiet
	$(PY) -m ruff format --check --quiet
	$(PY) -m mypy

clean: ## remove .venv and everything that tools have written; run folders stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@echo "make [target] [PYTHON=python3.12, used when .venv is made]"
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1 # /p' $(firstword $(MAKEFILE_LIST)) | awk -F ' # ' '{printf "%-12s%s\n", $$1, $$2}'

# The stamp comes last, so that an interrupted set-up is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@python=$$($(find_python)); \
	if [ -z "$$python" ]; then \
	  for name in $(candidates); do version=$$("$$name" --version 2>/dev/null) && found="$$found; $$name is $$version"; done; \
	  echo "fedapt needs Python 3.11 to 3.14$${found:-; $(firstword $(candidates)) does not run}." >&2; \
	  echo "Install one, or name it: $(again) PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$python cannot make virtual environments: its modules venv and ensurepip are missing." >&2; \
	  echo "Install them (Debian, Ubuntu: apt install python3-venv), or name another: $(again) PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	wanted=$$($(if $(PYTHON),"$$python",$(PY)) --version 2>/dev/null); \
	if ! $(PY) -m pip --version >/dev/null 2>&1 || [ "$$($(PY) --version)" != "$$wanted" ]; then "$$python" -m venv --clear $(VENV); fi
	@echo "Setting up $(VENV) with $$($(PY) --version): one to three minutes the first time"
	@echo "  1/2 PyTorch"
	@$(PIP) --no-deps $$(grep '^torch==' constraints.txt) || $(call failed,PyTorch)
	@echo "  2/2 fedapt and everything else"
	@$(PIP) --constraint constraints.txt --editable '.[dev]' || $(call failed,fedapt)
	@touch $@
