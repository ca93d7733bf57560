# Two commands do all set-up on a machine that has only Python (3.11 or newer) and make:
#   make learn    learn a forecaster from a real stream
#   make test     lint, types, documentation and tests (make test-all: with every pair of cell and algorithm)
# All keep what they install in .venv and are fast the second time.

PYTHON  ?= python3
WORKERS ?= 2
OUT     ?= runs/pedestrians

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet

.PHONY: help learn test test-all test-oldest test-spark lint types docs tests tests-all bench-compare format clean

help:
	@sed -n '1,4s/^# //p' Makefile

learn: .venv/.learn
	$(BIN)/streamgrad learn pedestrians --beside adam frozen --out $(OUT) --overwrite

test: lint types docs tests

test-all: lint types docs tests-all

lint: .venv/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.all
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: .venv/.all
	PYTHONPATH=docs $(BIN)/zensical build --strict

tests: .venv/.all
	$(BIN)/python -m pytest -n $(WORKERS) -m "not full"

tests-all: .venv/.all
	$(BIN)/python -m pytest -n $(WORKERS)

BASE ?= HEAD~1
ROWS ?=

bench-compare: .venv/.all
	$(BIN)/python benchmarks/compare_commits.py $(BASE) $(ROWS)

# The oldest versions that pyproject.toml allows, in an environment of their own. Their own deprecations are no errors.
test-oldest: .venv-oldest/.installed
	.venv-oldest/bin/python -m pytest -n $(WORKERS) -m "not full" -W ignore::DeprecationWarning

.venv-oldest/.installed: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip --disable-pip-version-check --no-input install --quiet --editable '.[test,tables]' --constraint tests/oldest.txt
	@touch $@

# Spark is 500 MB and needs Java 17: a job of its own.
test-spark: .venv/.spark
	$(BIN)/python -m pytest -n 0 tests/fleet/test_fleet_spark.py

format: .venv/.all
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-oldest site runs .pytest_cache .ruff_cache

# A stamp is written only when its installation ended well.
.venv/.learn: EXTRAS = cli
.venv/.all: EXTRAS = all
.venv/.spark: EXTRAS = test,spark
.venv/.learn .venv/.all .venv/.spark: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    f"streamgrad needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@
