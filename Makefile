# Each target makes what it needs: the virtual environment in .venv, once, and then its own job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow lint bench clean

demo: $(INSTALLED)  ## train on handwritten digits and log the maps
	$(BIN)/python examples/first_run.py

test: $(INSTALLED) lint  ## linters, types, and every test but the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED)  ## the slow tests: large networks, several processes
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## measure what the callback and the methods cost
	$(BIN)/python tests/performance/bench.py

# Made again only when the dependencies change.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs
