# Everything runs in .venv, which the first target that needs it makes. Only python3 (3.11 or
# newer) must be there; choose another with `make PYTHON=python3.12 test`.

PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=
export PYTHON

VENV := .venv/bin
# One thread a worker: the test workers share the cores.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help demo test lint docs pytest format clean install install-dev
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

install: ## make .venv with the package alone
	@sh .ci/venv.sh

install-dev: ## make .venv with the package and all that the checks need
	@sh .ci/venv.sh test,docs,dev

demo: install ## identify the bundled river record; model, metrics and report go to demo-out
	$(VENV)/statewise demo --out demo-out

test: ## lint beside building the documentation, then run the whole test suite
	@$(MAKE) --no-print-directory -j 2 lint docs
	@$(MAKE) --no-print-directory pytest

lint: install-dev ## check format, style and types
	$(VENV)/python -m ruff format --check .
	$(VENV)/python -m ruff check .
	$(VENV)/python -m pyright --pythonpath .venv/bin/python

docs: install-dev ## build the documentation into docs/_build/html, warnings are errors
	$(VENV)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

# A worker goes through files in order and takes from the other's end when it is done: two workers
# then seldom wait for, or compile, the same kernel at the same time.
pytest: install-dev ## run the test suite
	$(THREADS) $(VENV)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

format: install-dev ## rewrite the code in the project's format
	$(VENV)/python -m ruff format .
	$(VENV)/python -m ruff check --fix .

clean: ## remove the virtual environment and everything that was built
	rm -rf .venv build dist demo-out .pytest_cache .ruff_cache .hypothesis
	rm -rf docs/_build docs/papers docs/measured
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
