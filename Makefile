# The two commands of this project: `make run` and `make test`. Each works alone on a fresh clone.
PYTHON ?= python3
ifneq ($(origin AS),command line)
# Make has a variable of this name by itself, the assembler: only `make run AS=bob` counts.
AS := alice
endif
BIN := .venv/bin
# Nothing is executed whose hash is not in a lock: packages come built, as what would build one is in no lock.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all:
RESOLVE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
SEEDS ?= 10000
FROM ?= 0

.PHONY: help install run test test-slow check simulate bench pictures docs lock

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' Makefile

install: .venv/installed ## make .venv with Safelight in it

run: .venv/installed ## start three nodes and open alice's REPL (AS=bob for another user)
	@$(BIN)/safelight run --user "$(AS)"

test: .venv/installed-dev ## run the tests, but for those that take long (under six minutes on two cores)
	$(BIN)/python -m pytest -n 3 -m "not slow"

test-slow: .venv/installed-dev ## run the others: random kills, awkward file systems, overload
	$(BIN)/python -m pytest -n 3 -m slow

check: .venv/installed-dev ## format check, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

simulate: .venv/installed-dev ## run SEEDS elections through a simulated, hostile network (FROM=K: from seed K)
	$(BIN)/python -m tests.election.simulate --seeds $(SEEDS) --from $(FROM)

bench: .venv/installed-dev ## measure speed beside peers, balance and a crowd, into bench/RESULTS.md (some ten minutes)
	$(BIN)/python -m bench $(OPTIONS)
	$(BIN)/python -m bench.balance
	$(BIN)/python -m bench.overload

pictures: .venv/installed-dev ## draw the pictures in docs/ and bench/ again (they need no measurement)
	$(BIN)/python -m tools.draw_pictures

docs: .venv/installed-docs ## build the documentation into site/; a broken link is an error
	$(BIN)/mkdocs build --strict --quiet

lock: .venv/installed-dev ## resolve requirements*.lock again from pyproject.toml
	$(PIP) -r requirements-lock.lock
	$(RESOLVE) pyproject.toml --all-extras -o requirements.lock
	$(RESOLVE) pyproject.toml --all-extras --group dev -o requirements-dev.lock
	$(RESOLVE) --group build -o requirements-build.lock
	$(RESOLVE) --group lock -o requirements-lock.lock
	$(RESOLVE) --group docs --constraint requirements-dev.lock -o requirements-docs.lock

.venv/installed: pyproject.toml requirements.lock requirements-build.lock
	@$(PYTHON) -c 'import sys; sys.exit("Safelight needs Python 3.11 or newer: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	@echo "Installing Safelight into .venv: once, for about a minute ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) -r requirements.lock -r requirements-build.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-index --no-build-isolation --no-deps --editable .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	@echo "Installing the test tools into .venv (once) ..."
	@$(PIP) -r requirements-dev.lock
	@touch $@

.venv/installed-docs: .venv/installed requirements-docs.lock
	@echo "Installing the documentation tools into .venv (once) ..."
	@$(PIP) -r requirements-docs.lock
	@touch $@
