# Two commands: `make run` for the demonstration, `make test` for everything that is tested.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# The distribution's own first, for that is what a director runs; then python3 as the shell finds it, or a newer one
# beside it; one with the venv module if any has.
NEW_ENOUGH := $(foreach name,/usr/bin/python3 python3 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null))
PYTHON ?= $(firstword $(foreach name,$(NEW_ENOUGH),$(shell \
	$(name) -c 'import ensurepip; print("$(name)")' 2>/dev/null)) $(NEW_ENOUGH))
PIP := $(BIN)/python -m pip --disable-pip-version-check --require-virtualenv install -qq --constraint constraints.txt
AS_ROOT := [ "$$(id -u)" = 0 ] || { echo "the lab needs root, to make network namespaces" >&2; exit 3; }
# More arguments for pytest: make test PYTEST="-k cookie -x"
PYTEST :=

NO_PYTHON := Python 3.11 or newer is missing; on Debian 12, Ubuntu 24.04 or newer: apt-get install python3 python3-venv
NO_VENV = the venv module of $(PYTHON) is missing; on Debian and Ubuntu: apt-get install python3-venv
# The environment holds this folder's path and links to the Python that made it; it is made anew when either is gone.
STALE := $(shell [ "$$(cat $(VENV)/.installed 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -c '' 2>/dev/null || echo stale)

# Where the compiled package is put together, and tested; the wheel made of it is in dist.
COMPILED := build/compiled
NO_COMPILER = gcc or Python.h is missing; on Debian and Ubuntu: apt-get install gcc python3-dev

.PHONY: help run test check unit compiled cluster verify clean stale

help: ## this list
	@sed -nE 's/^([a-z]+):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 15

run: $(VENV)/.installed ## install into .venv, then start the demonstration (Ctrl-C ends it)
	@exec $(BIN)/pybalancer demo

test: ## install all that the tests need (as root: system packages too), then check and test everything
	@tests/provision.sh
	@$(MAKE) check
	@$(MAKE) compiled
	@tests/run.sh $(BIN)/python $(PYTEST)

check: $(VENV)/.installed-test ## ruff, mypy --strict and the import layers
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >$(VENV)/layers.txt || { cat $(VENV)/layers.txt; exit 1; }
	@echo "check: ruff, mypy and the import layers find nothing"

unit: $(VENV)/.installed-test ## the tests that need no server of another project
	@$(BIN)/python -m pytest --ignore=tests/e2e --ignore=tests/system $(PYTEST)

compiled: $(COMPILED)/.made ## a wheel in dist/ with the hot path compiled: less CPU for each request; needs gcc, python3-dev

cluster: ## as root: the whole cluster in network namespaces of this machine, until Ctrl-C
	@$(AS_ROOT)
	@tests/provision.sh
	@$(MAKE) $(VENV)/.installed
	@exec $(BIN)/python -m tests.lab

verify: ## as root: the cluster, and the eight steps by which it shows that it works
	@$(AS_ROOT)
	@tests/provision.sh
	@$(MAKE) $(VENV)/.installed
	@$(BIN)/python -m tests.lab verify

clean: ## remove what was made here, .venv included
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt $(STALE)
	$(if $(PYTHON),,$(error $(NO_PYTHON)))
	$(if $(shell $(PYTHON) -c 'import ensurepip' 2>&1),$(error $(NO_VENV)))
	@echo "installing into $(VENV)"
	@$(if $(STALE),rm -rf $(VENV) && $(PYTHON) -m venv $(VENV))
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable .
	@echo "$(CURDIR)" >$@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) --no-build-isolation --editable '.[test]'
	@touch $@

$(COMPILED)/.made: setup.py pyproject.toml constraints.txt $(wildcard balancer/*.py balancer/*/*.py) | $(VENV)/.installed
	$(if $(shell echo '#include <Python.h>' | gcc -E $$($(BIN)/python -c \
		'import sysconfig; print("-I" + sysconfig.get_path("include"))') - 2>&1 >/dev/null),$(error $(NO_COMPILER)))
	@echo "compiling the hot path into $(COMPILED)"
	@$(PIP) mypy types-PyYAML
	@rm -rf $(COMPILED) dist
	@mkdir -p build
	@PYBALANCER_COMPILE=1 $(BIN)/python setup.py -q build --build-lib $(COMPILED) bdist_wheel >build/log.txt 2>&1 || \
		{ cat build/log.txt; exit 1; }
	@touch $@

stale:
