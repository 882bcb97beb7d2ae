# make quickstart: environment, installation, and the whole story in minutes.
# make test: environment, installation with the test tools, and the tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup quickstart test bench clean

help:
	@grep -E '^# make ' Makefile | sed 's/^# //'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "ngrpo needs Python 3.11 to 3.13, got %d.%d: make PYTHON=python3.11 ..." % v)'
	@$(PYTHON) -m venv $(VENV)

# torch first and by its pinned version: left to the resolver it may bring gigabytes of another build.
$(VENV)/.installed: constraints.txt pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(INSTALL) "$$(grep '^torch==' constraints.txt)"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(INSTALL) -e '.[dev]'
	@touch $@

# make setup: the environment with everything the tests need.
setup: $(VENV)/.installed-dev

quickstart: $(VENV)/.installed
	$(BIN)/ngrpo quickstart

test: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests examples benchmarks
	$(BIN)/ruff format --check src tests examples benchmarks
	$(BIN)/python -m pytest -n 2

# make bench: sampling against transformers.generate, side by side.
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/sampling.py

clean:
	rm -rf $(VENV) build dist *.egg-info
