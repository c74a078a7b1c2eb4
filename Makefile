# Each target makes what it needs: the virtual environment in .venv, once, and then its own job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COMPAT := .venv-compat
LOWEST := .venv-lowest
# The lowest that is supported.
LOWEST_PYTHON ?= python3.10

.PHONY: demo stubs test test-slow test-compat test-lowest lint bench gpu soak clean

demo: $(INSTALLED)  ## train on handwritten digits and log the maps
	$(BIN)/python examples/first_run.py

test: $(INSTALLED) lint  ## linters, types, and every test but the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED)  ## the slow tests: large networks, several processes
	$(BIN)/python -m pytest -m slow

test-compat: $(COMPAT)/.installed  ## modules of other packages, which are large
	$(COMPAT)/bin/python -m pytest -o filterwarnings=default tests/compat/other_packages.py tests/compat/other_targets.py

test-lowest: $(LOWEST)/.installed  ## every test but the slow ones, on the lowest versions
	$(LOWEST)/bin/python -m pytest -m "not slow"

stubs: $(INSTALLED)  ## the named callbacks, spelled out for editors and type checkers
	$(BIN)/python -c "from lightning_saliency.callbacks.named import write_stub; write_stub()"

lint: stubs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## measure what the callback and the methods cost
	$(BIN)/python tests/performance/bench.py

gpu: $(INSTALLED)  ## on a machine with a GPU: maps, prices, memory, waits
	$(BIN)/python tests/performance/gpu.py

soak: $(INSTALLED)  ## train for 500 epochs with all callbacks, and look for what grows
	$(BIN)/python tests/performance/soak.py

# Made again only when the dependencies change.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

$(COMPAT)/.installed: pyproject.toml
	$(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install --quiet --upgrade pip
	$(COMPAT)/bin/python -m pip install --quiet --editable ".[compat]"
	touch $@

$(LOWEST)/.installed: pyproject.toml tests/lowest.txt
	$(LOWEST_PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python -m pip install --quiet --constraint tests/lowest.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(COMPAT) $(LOWEST) runs
