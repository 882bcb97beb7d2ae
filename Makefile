# make quickstart: environment, installation, and the whole story in minutes.
# make test: environment, installation with the test tools, and the tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup quickstart test bench bench-trl bench-ray parity parity-trl parity-verl parity-ray clean

help:
	@grep -E '^# make ' Makefile | sed 's/^# //'

define CHECK_PYTHON
@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "ngrpo needs Python 3.11 to 3.13, got %d.%d: make PYTHON=python3.11 ..." % v)'
endef

$(BIN)/python:
	$(CHECK_PYTHON)
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

# make bench: the machine's limits, sampling, evaluation, the update's loss, growth, two cores, advantages, grading, summaries.
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/roofline.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/loss.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/step.py --two-threads --settings tiny 39M
	$(BIN)/python benchmarks/advantages.py
	$(BIN)/python benchmarks/grading.py
	$(BIN)/python benchmarks/summary.py

# make bench-trl: a whole step, and the update's loss, against TRL's, in an environment of its own (optional).
bench-trl: .venv-trl/.installed
	.venv-trl/bin/python benchmarks/step.py
	.venv-trl/bin/python benchmarks/loss.py

# They want different versions of transformers, and none belongs beside the package's own dependencies. Torch
# alone brings what it depends on; the requirement files list all the rest.
.venv-%/.installed: tests/parity/requirements-%.txt pyproject.toml
	$(CHECK_PYTHON)
	@echo "installing into .venv-$* (a few minutes the first time)"
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' $<)"
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $< -e .
	@touch $@

# make parity: our numbers against TRL's, verl's and a Ray cluster's, in an environment of each (not part of make test).
parity: parity-trl parity-verl parity-ray

# make parity-trl: that of TRL alone.
parity-trl: .venv-trl/.installed
	.venv-trl/bin/python -m pytest tests/parity/test_parity_trl.py tests/parity/test_trl_*.py

# make parity-verl: that of verl; .ci/parity-verl does it in a clean copy.
parity-verl: .venv-verl/.installed
	.venv-verl/bin/python -m pytest tests/parity/test_parity_verl.py tests/parity/test_verl_*.py
	.venv-verl/bin/python benchmarks/advantages.py

# make parity-ray: that of Ray, and of somebody else's server.
parity-ray: .venv-ray/.installed
	.venv-ray/bin/python -m pytest tests/parity/test_ray_*.py tests/parity/test_server_transformers.py

# make bench-ray: an evaluation by one Ray worker and by two (optional).
bench-ray: .venv-ray/.installed
	.venv-ray/bin/python benchmarks/ray_scaling.py

clean:
	rm -rf $(VENV) .venv-trl .venv-verl .venv-ray build dist *.egg-info
