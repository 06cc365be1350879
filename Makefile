# make run    the quickstart study, report included       make test   the whole test suite
# make lint   ruff          make types  mypy              make wheel  a wheel in dist/
# make deepmimo   the original generators in .venv-deepmimo: `make test` then compares ours with them
# Each target sets up what it needs in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint types wheel clean deepmimo

run: $(VENV)/.installed
	$(BIN)/study run spaces/quickstart.yaml --cluster cluster/local.yaml

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m build --wheel --no-isolation

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,trace]'
	@touch $@

deepmimo: .venv-deepmimo/.installed

# The original generators, for the tests that compare ours with theirs; GPL, and never installed beside this project.
.venv-deepmimo/.installed: | $(BIN)/python
	$(PYTHON) -m venv .venv-deepmimo
	.venv-deepmimo/bin/python -m pip install --quiet deepmimo==4.0.5 DeepMIMOv3==0.2.9
	@touch $@

clean:
	rm -rf $(VENV) .venv-deepmimo build dist .pytest_cache .mypy_cache .ruff_cache
