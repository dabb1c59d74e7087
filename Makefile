# The two commands of this project: `make run` and `make test`. Each works alone on a fresh clone.
PYTHON ?= python3
ifneq ($(origin AS),command line)
# Make has a variable of this name by itself, the assembler: only `make run AS=bob` counts.
AS := alice
endif
# `make test-all` has a virtual environment for each Python.
VENV ?= .venv
BIN := $(VENV)/bin
# Nothing is executed whose hash is not in a lock: packages come built, as what would build one is in no lock.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all:
RESOLVE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
BUILD := $(BIN)/python -m hatchling build --directory
VERSION = $(shell $(BIN)/python -m hatchling version)
PYTHONS ?= 3.11 3.12 3.13 3.14
SEEDS ?= 10000
FROM ?= 0

.PHONY: help install run test test-slow test-all test-ends check release simulate bench pictures docs lock

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' Makefile

install: $(VENV)/installed ## make .venv with Safelight in it

run: $(VENV)/installed ## start three nodes and open alice's REPL (AS=bob for another user)
	@$(BIN)/safelight run --user "$(AS)"

test: $(VENV)/installed-dev ## run the tests, but for those that take long (under six minutes on two cores)
	$(BIN)/python -m pytest -n 3 -m "not slow"

test-slow: $(VENV)/installed-dev ## run the others: random kills, awkward file systems, overload
	$(BIN)/python -m pytest -n 3 -m slow

test-all: $(VENV)/installed-lock ## run the tests on each of PYTHONS that this machine has or can download
	$(BIN)/python -m tools.test_all $(PYTHONS)

test-ends: $(VENV)/installed-lock ## run the tests on the oldest and the newest of them
	$(BIN)/python -m tools.test_all --ends $(PYTHONS)

# Their tests need no process and no network, and so measure nothing but the code.
CORE := election encryption wire decoding imagetypes names sizes
CORE_TESTS := tests/election tests/encryption $(wildcard tests/wire) \
	$(wildcard $(patsubst %,tests/test_%.py,$(CORE) tickets))
check: $(VENV)/installed-dev ## format check, lint, types, and the coverage of the core by its own fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 $(CORE_TESTS) -m "not slow" -k "not simulation and not exploration and not memory" \
		$(patsubst %,--cov=safelight.%,$(CORE)) --cov-report=term:skip-covered

release: export SOURCE_DATE_EPOCH = $(shell git log -1 --format=%ct)
release: check $(VENV)/installed-release ## print the version's changes; build sdist, wheel and SBOM in dist/, and check them
	@git diff --quiet HEAD || { echo "commit first: a release is built from a commit"; exit 1; }
	@$(BIN)/python -m tools.release_notes $(VERSION)
	@rm -rf dist
	$(BUILD) dist
	$(BUILD) dist/check/again
	cmp dist/*.tar.gz dist/check/again/*.tar.gz
	cmp dist/*.whl dist/check/again/*.whl
	$(BIN)/python -m venv --without-pip dist/check/venv
	PIP_PYTHON=dist/check/venv/bin/python $(PIP) -r requirements.lock
	PIP_PYTHON=dist/check/venv/bin/python $(BIN)/pip install --quiet --no-index --no-deps dist/*.whl
	PIP_PYTHON=dist/check/venv/bin/python $(BIN)/pip check
	dist/check/venv/bin/safelight --version
	@sed 's/^dynamic = .*/version = "$(VERSION)"/' pyproject.toml > dist/check/pyproject.toml
	$(BIN)/cyclonedx-py environment dist/check/venv/bin/python --pyproject dist/check/pyproject.toml \
		--output-reproducible --output-file dist/safelight-$(VERSION).cdx.json
	@rm -rf dist/check
	@ls -l dist

simulate: $(VENV)/installed-dev ## run SEEDS elections through a simulated, hostile network (FROM=K: from seed K)
	$(BIN)/python -m tests.election.simulate --seeds $(SEEDS) --from $(FROM)

bench: $(VENV)/installed-dev ## measure speed beside peers, balance and a crowd, into bench/RESULTS.md (some ten minutes)
	$(BIN)/python -m bench $(OPTIONS)
	$(BIN)/python -m bench.balance
	$(BIN)/python -m bench.overload

pictures: $(VENV)/installed-dev ## draw the pictures in docs/ and bench/ again (they need no measurement)
	$(BIN)/python -m tools.draw_pictures

docs: $(VENV)/installed-docs ## build the documentation into site/; a broken link is an error
	$(BIN)/mkdocs build --strict --quiet

lock: $(VENV)/installed-lock ## resolve requirements*.lock again from pyproject.toml
	$(RESOLVE) pyproject.toml --all-extras -o requirements.lock
	$(RESOLVE) pyproject.toml --all-extras --group dev -o requirements-dev.lock
	$(RESOLVE) --group build -o requirements-build.lock
	$(RESOLVE) --group lock -o requirements-lock.lock
	$(RESOLVE) --group docs --constraint requirements-dev.lock -o requirements-docs.lock
	$(RESOLVE) --group release --constraint requirements-dev.lock -o requirements-release.lock

$(VENV)/installed: pyproject.toml requirements.lock requirements-build.lock
	@$(PYTHON) -c 'import sys; sys.exit("Safelight needs Python 3.11 or newer: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	@echo "Installing Safelight into $(VENV): once, for about a minute ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements.lock -r requirements-build.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-index --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.lock
	@echo "Installing the test tools into $(VENV) (once) ..."
	@$(PIP) -r requirements-dev.lock
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed requirements-docs.lock
	@echo "Installing the documentation tools into $(VENV) (once) ..."
	@$(PIP) -r requirements-docs.lock
	@touch $@

$(VENV)/installed-lock: $(VENV)/installed requirements-lock.lock
	@echo "Installing uv into $(VENV) (once) ..."
	@$(PIP) -r requirements-lock.lock
	@touch $@

$(VENV)/installed-release: $(VENV)/installed requirements-release.lock
	@echo "Installing the release tools into $(VENV) (once) ..."
	@$(PIP) -r requirements-release.lock
	@touch $@
