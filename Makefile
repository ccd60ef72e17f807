# `make run` and `make test` are all that a fresh machine needs beside Python >= 3.11, git and make.
#
#   PYTHON=python3.12   the interpreter; a named one gets an environment of its own, so that two never mix
#   VENV=folder         where the environment goes
#   PROMPT="..." N=64   what `make run` asks, and how many tokens it writes
#   ARGS="-k writer"    more arguments for pytest

PYTHON ?=
VENV ?= .venv$(if $(PYTHON),-$(notdir $(PYTHON)))
PROMPT ?= It was a cold evening in November, and the old house
N ?= 64
ARGS ?=

CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
# What the native library is made of; where a compiler is missing, everything runs without it (see CONTRIBUTING.md).
KERNELS := $(wildcard gguf_jax/ops/native/CMakeLists.txt gguf_jax/ops/native/src/*) tools/build_native.py
BUILD = $(VENV)/bin/python tools/build_native.py

RUNS := import sys, venv, ensurepip; assert sys.version_info >= (3, 11)

MAKEFLAGS += --no-builtin-rules
export PROMPT
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test native lint types clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*  ## /\1\t/p' Makefile | expand -t 8

run: $(VENV)/.for-run $(VENV)/.native  ## let the bundled model go on from PROMPT
	@$(VENV)/bin/gguf-jax run -p "$$PROMPT" -n $(N)

# A worker imports JAX (300 MB), and XLA has threads of its own: more than four workers cost memory and gain little.
test: $(VENV)/.for-test $(VENV)/.native  ## run the tests
	@$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

native: $(VENV)/.for-run  ## build the native library anew
	@GGUF_JAX_NATIVE=require $(BUILD)
	@touch $(VENV)/.native

lint: $(VENV)/.for-dev  ## ruff: lint and format
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

# pyright would otherwise ask the network whether it is the newest.
types: $(VENV)/.for-dev  ## pyright
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

clean:  ## remove the environments, the caches and what builds leave
	rm -rf .venv* .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	rm -f gguf_jax/ops/native/*.so
	find gguf_jax tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# An interpreter that is on the PATH need not run (a pyenv shim) nor have venv (Debian splits it off): each is tried.
$(VENV)/.made:
	@if [ -e $(VENV) ] && [ ! -e $(VENV)/pyvenv.cfg ]; then \
	  echo "error: $(VENV) exists and is not a Python environment" >&2; exit 1; \
	fi; \
	for python in $(CANDIDATES); do \
	  if $$python -c '$(RUNS)' >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$($$python --version)"; \
	    rm -rf $(VENV) && $$python -m venv $(VENV) && touch $@; exit; \
	  fi; \
	done; \
	echo "error: no Python >= 3.11 with venv and ensurepip runs; tried: $(CANDIDATES)" >&2; exit 1

extras-run := [native]
extras-test := [native,test]
extras-dev := [native,dev]

# The library is built here and not by pip, which would compile all of it anew for each extra.
$(VENV)/.native: $(KERNELS)
	@echo "building the native kernels (a minute, the first time)"
	@$(BUILD)
	@touch $@

# While pip works the stamp .made lies aside, so an environment left half made is made anew. mv keeps the stamp's time.
$(VENV)/.for-%: pyproject.toml $(VENV)/.made
	@echo "installing gguf_jax$(extras-$*) into $(VENV) (a minute or two, the first time)"
	@mv $(VENV)/.made $(VENV)/.busy
	@GGUF_JAX_NATIVE=off $(VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-input --editable ".$(extras-$*)"
	@mv $(VENV)/.busy $(VENV)/.made
	@touch $@
