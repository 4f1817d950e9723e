# `make demo` and `make test` do all of their own set-up. `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 4
ARGS ?=

BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
FAST := $(addprefix tests/,unit store services api cli backends/local/test_contract.py backends/noop/test_contract.py)
RUNTIME := $(VENV)/.runtime-stamp
DEV := $(VENV)/.dev-stamp
# What is used is compiled when it is first imported.
PIP_INSTALL := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check --no-input
LOCKS := requirements/build.txt requirements/runtime.txt
DEV_LOCKS := requirements/backends.txt requirements/dev.txt
export PYTHONUNBUFFERED := 1
# Hundreds of processes import the same modules: they are compiled once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo check test test-slow test-old-servers lab bench soak chaos fuzz lint format docs lock clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

demo: $(RUNTIME) ## run the demo pipeline, from nothing; ARGS="--keep" leaves the service up
	@$(BIN)/ccat-wm demo $(ARGS)

check: $(DEV) lint ## the fast lane before a commit: lint, unit, store, services, API, commands, contract of two backends
	@$(PYTEST) $(FAST) -m "not slow and not whole" $(ARGS)

test: $(DEV) ## all tests but the slow ones; ARGS="tests/flow -k name" runs some
	@$(PYTEST) $(ARGS)

test-slow: $(DEV) ## the tests that vary what `make test` proves; nightly, with `make chaos`
	@$(PYTEST) -m slow $(ARGS)

lab: ## install the real parts that tests use (Debian, as root)
	@deploy/lab/install.sh

bench: $(DEV) ## measure; prints a table
	@$(BIN)/python -m tests.bench $(ARGS)

test-old-servers: $(DEV) ## the store, the services and whole runs on PostgreSQL and Redis of the distribution
	@$(BIN)/python -m tests.old_servers $(ARGS)

soak: $(DEV) ## hostile and honest pipelines together for 30 minutes; ARGS="--minutes 5 --site slurm"
	@$(BIN)/python -m tests.chaos.soak $(ARGS)

chaos: $(DEV) ## kill everything everywhere (10 minutes); writes the table of docs/reliability.md
	@$(BIN)/python -m tests.chaos $(ARGS)

fuzz: $(DEV) ## broken texts for parsers, requests for the API; ARGS="--minutes 1 yaml api", else ten minutes for each
	@$(BIN)/python -m tests.fuzz $(ARGS)

lint: $(DEV) ## style, types, who imports what
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(DEV) ## put the code into shape
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

docs: $(DEV) ## write the generated pages of docs/
	@$(BIN)/python docs/generate.py

.PHONY: release-check
release-check: $(DEV) ## everything a release needs, except publishing it
	@$(BIN)/python deploy/release_check.py

.PHONY: screenshots
screenshots: $(DEV) ## photograph the dashboard for README and docs; ARGS=DIRECTORY takes every page, to compare with the design
	@$(BIN)/python docs/screenshots.py $(ARGS)

# The lock files hold names, versions and hashes only, for every Python from 3.11.0 on: Debian 12 has 3.11.2.
# They keep what they have; ARGS=--upgrade takes the newest.
lock: $(DEV) ## bring the lock files in line with requirements/*.in
	@for name in build runtime backends radical dev generator; do \
	  echo "requirements/$$name.txt"; \
	  alone=; [ $$name != generator ] || alone=--no-deps; \
	  $(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 $$alone --custom-compile-command "make lock" $(ARGS) \
	    --output-file requirements/$$name.txt requirements/$$name.in || exit 1; \
	done

clean: ## remove everything that was made here, the environment included
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up: done again only when a lock file or pyproject.toml has changed ------------------------------------------

$(BIN)/python:
	@echo "set-up: making $(VENV)"
	@deploy/venv.sh $(VENV) $(PYTHON)

$(RUNTIME): $(LOCKS) pyproject.toml | $(BIN)/python
	@echo "set-up: installing what the service needs"
	@$(PIP_INSTALL) --require-hashes $(LOCKS:%=-r %)
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(DEV_LOCKS) requirements/generator.txt requirements/radical.txt $(RUNTIME)
	@echo "set-up: installing what the tests need"
	@$(PIP_INSTALL) --require-hashes $(LOCKS:%=-r %) $(DEV_LOCKS:%=-r %)
	@$(PIP_INSTALL) --require-hashes --no-deps -r requirements/generator.txt
	@$(PIP_INSTALL) --require-hashes --no-deps -r requirements/radical.txt 2>$(VENV)/radical.log || \
	  { tail -n 1 $(VENV)/radical.log; echo "set-up: without RADICAL-Pilot, which needs a C compiler and the headers of Python"; }
	@touch $@
