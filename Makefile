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
PIP_AUDIT := pip-audit==2.10.1
# More arguments for pytest: make test PYTEST="-k cookie -x"
PYTEST :=
# The same for bench/: make bench BENCH=--quick, make bench-check BENCH=--keep
BENCH :=

NO_PYTHON := Python 3.11 or newer is missing; on Debian 12, Ubuntu 24.04 or newer: apt-get install python3 python3-venv
NO_VENV = the venv module of $(PYTHON) is missing; on Debian and Ubuntu: apt-get install python3-venv
# The environment holds this folder's path and links to the Python that made it; it is made anew when either is gone.
STALE := $(shell [ "$$(cat $(VENV)/.installed 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -c '' 2>/dev/null || echo stale)

# Where the compiled package is put together, and tested; the wheel made of it is in dist.
COMPILED := build/compiled
NO_PYTHON_H = $(shell echo '#include <Python.h>' | gcc -E $$($(BIN)/python -c \
	'import sysconfig; print("-I" + sysconfig.get_path("include"))') - 2>&1 >/dev/null)
# What `wheel` makes.
WHEEL = $(if $(NO_PYTHON_H),build/plain,dist)/*.whl
IS_DEBIANS = $(shell $(PYTHON) -c 'import sys; sys.base_prefix == "/usr" and print("yes")')
NOT_DEBIANS = $(PYTHON) is not the Python of this Debian: apt-get install python3 python3-venv; make clean; make deb
NO_COMPILER = gcc or Python.h is missing; on Debian and Ubuntu: apt-get install gcc python3-dev

.PHONY: help run test check unit compiled cluster verify vm-test bench measured bench-micro vm-bench bench-check audit wheel install deb uninstall purge clean stale

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

run: $(VENV)/.installed ## install into .venv, then start the demonstration (Ctrl-C ends it)
	@exec $(BIN)/pybalancer demo

test: ## install all that the tests need (as root: system packages too), then check and test everything
	@tests/provision.sh
	@$(MAKE) check
	@tests/run.sh $(BIN)/python $(PYTEST)

check: $(VENV)/.installed-test ## ruff, mypy --strict and the import layers
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >$(VENV)/layers.txt || { cat $(VENV)/layers.txt; exit 1; }
	@echo "check: ruff, mypy and the import layers find nothing"

audit: ## pip-audit: whether a flaw is known in the pinned versions; needs an index that knows of them, as PyPI does
	@[ -x build/audit/bin/pip-audit ] || { rm -rf build/audit && $(PYTHON) -m venv build/audit && \
		build/audit/bin/python -m pip --disable-pip-version-check install -qq $(PIP_AUDIT); }
	@build/audit/bin/pip-audit --strict --progress-spinner=off --no-deps --disable-pip --requirement constraints.txt

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

vm-test: $(VENV)/.installed ## as root: installed, run, broken and removed on Debian systems under systemd; a quarter of an hour
	@$(AS_ROOT)
	@tests/provision.sh debootstrap systemd-container
	@$(BIN)/python -m tests.vm

bench: ## as root: pybalancer beside HAProxy, nginx, dnsdist and IPVS, a report in bench/results; 40 minutes (BENCH=--quick: 5)
	@$(AS_ROOT)
	@tests/provision.sh dnsdist wrk nghttp2-client libnginx-mod-stream ipvsadm
	@$(MAKE) measured

# What can be compiled is known when there is a Python in .venv.
measured: $(VENV)/.installed-bench
	@$(if $(NO_PYTHON_H),echo "not compiled: $(NO_COMPILER)",$(MAKE) compiled)
	@$(BIN)/python bench/run.py $(if $(NO_PYTHON_H),,--package $(COMPILED)) $(BENCH)

bench-micro: $(VENV)/.installed-bench ## what the hot functions take, interpreted and compiled; ten minutes (BENCH=--fast: two)
	@$(BIN)/python bench/micro.py $(BENCH)
	@$(if $(NO_PYTHON_H),echo "not compiled: $(NO_COMPILER)",$(MAKE) compiled && \
		PYTHONPATH=$(COMPILED) $(BIN)/python bench/micro.py $(BENCH))

vm-bench: $(VENV)/.installed-test ## as root: what the kernel carries beside IPVS, in a Debian 12 that is emulated; a quarter of an hour
	@$(AS_ROOT)
	@tests/provision.sh debootstrap systemd-container qemu-system-x86 e2fsprogs
	@$(BIN)/python bench/vm.py $(BENCH)

bench-check: $(VENV)/.installed ## whether a request costs over 10 % more than when bench/history.jsonl was written; ten minutes
	@$(BIN)/python bench/check.py $(BENCH)

install: wheel ## as root: a service of this machine, compiled where gcc and python3-dev are there (PREFIX=/usr/local)
	@systemd/install.sh install $(WHEEL) $(PYTHON)

deb: wheel ## a Debian package in build/, compiled likewise, for this version of Debian and kind of machine
	$(if $(IS_DEBIANS),,$(error $(NOT_DEBIANS)))
	@systemd/package.sh $(WHEEL) $(PYTHON) build

wheel: $(VENV)/.installed
	@$(if $(NO_PYTHON_H),echo "not compiled: $(NO_COMPILER)" && rm -rf build/plain && \
		$(BIN)/python -m pip -q wheel --no-deps --no-build-isolation --wheel-dir build/plain .,$(MAKE) compiled)

uninstall: ## as root: take it away; what was configured stays
	@systemd/install.sh uninstall

purge: ## as root: take that away as well
	@systemd/install.sh purge

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

$(VENV)/.installed-bench: $(VENV)/.installed
	@$(PIP) --no-build-isolation --editable '.[bench]'
	@touch $@

$(COMPILED)/.made: setup.py pyproject.toml constraints.txt $(wildcard balancer/*.py balancer/*/*.py) | $(VENV)/.installed
	$(if $(NO_PYTHON_H),$(error $(NO_COMPILER)))
	@echo "compiling the hot path into $(COMPILED)"
	@$(PIP) mypy types-PyYAML
	@rm -rf $(COMPILED) dist
	@mkdir -p build
	@PYBALANCER_COMPILE=1 $(BIN)/python setup.py -q build --build-lib $(COMPILED) bdist_wheel >build/log.txt 2>&1 || \
		{ cat build/log.txt; exit 1; }
	@touch $@

stale:
