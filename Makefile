# Everything runs from a fresh clone with Python 3.11+ and make; the environment is .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint types contracts doctest check bench clean

help:           ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(VENV)/base  ## set up, then: fedemb simulate --dataset inaturalist --epsilon 2
	$(BIN)/fedemb simulate --dataset inaturalist --epsilon 2

test: $(VENV)/dev   ## set up, then run the default tests
	$(BIN)/python -m pytest -n 2

test-slow: $(VENV)/dev  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

contracts: $(VENV)/dev
	$(BIN)/lint-imports

doctest: $(VENV)/dev
	$(BIN)/python -m pytest --doctest-modules accounting fedemb model_zoo simulations

check: lint types contracts doctest test  ## everything that must pass before a change

bench: $(VENV)/dev  ## speed, as ratios in one run
	$(BIN)/python -m benchmarks

$(VENV)/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/dev: $(VENV)/base
	$(PIP) -e '.[dev]'
	touch $@

clean:          ## remove the environment and caches, never runs or data
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
