# Each target makes what it needs: the virtual environment in .venv, once, and then its own job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COMPAT := .venv-compat
LOWEST := .venv-lowest
DOCS := .venv-docs
DIST := .venv-dist
# The lowest that is supported.
LOWEST_PYTHON ?= python3.10

.PHONY: demo stubs test test-slow test-compat test-lowest lint bench gpu soak docs dist clean

# Threads that wait for each other sleep: where other programs run, they take a fifth of the time.
demo: $(INSTALLED)  ## train on handwritten digits and log the maps
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python examples/first_run.py

test: $(INSTALLED) lint  ## linters, types, and every test but the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED)  ## the slow tests: large networks, several processes
	$(BIN)/python -m pytest -m slow

test-compat: $(COMPAT)/.installed  ## modules, loggers and weights of other packages, which are large
	$(COMPAT)/bin/python -m pytest -o filterwarnings=default tests/compat/other_*.py \
		tests/compat/photographs.py tests/compat/watermark.py tests/compat/attn_lrp_networks.py

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

docs: $(DOCS)/.installed  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "Open site/index.html; to search in it: $(DOCS)/bin/mkdocs serve"

dist: $(INSTALLED) $(DIST)/.installed stubs  ## a wheel and an sdist, in dist/, that are tried
	rm -rf dist build/try_wheel
	$(DIST)/bin/python -m build --outdir dist .
	$(DIST)/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv build/try_wheel
	build/try_wheel/bin/python -m pip install --quiet dist/*.whl
	cd build && try_wheel/bin/python ../tests/try_wheel.py ../dist

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

# The reference is read from the source, so the package itself need not be installed.
$(DOCS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --upgrade pip
	$(DOCS)/bin/python -m pip install --quiet --group docs
	touch $@

$(DIST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DIST)
	$(DIST)/bin/python -m pip install --quiet --upgrade pip
	$(DIST)/bin/python -m pip install --quiet --group dist
	touch $@

clean:
	rm -rf $(VENV) $(COMPAT) $(LOWEST) $(DOCS) $(DIST) runs site dist build
