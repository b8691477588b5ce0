# The two commands of the README (`make quickstart`, `make test`) and what developers run beside them.
# A virtual environment is made in .venv; VENV=path uses another, PYTHON=python3.12 another Python.

PYTHON ?= python3
VENV ?= .venv
DATASET ?= toystore
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help quickstart test test-all lint format bench constraints clean
.DEFAULT_GOAL := help

help: ## What this Makefile does
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'
	@echo
	@echo '  make quickstart DATASET=toystore | movielens_100k (downloads) | PATH/TO/A/FOLDER'

quickstart: $(VENV)/.runtime ## Raw logs to a trained model and its report, under 10 minutes on 2 cores
	PATH="$(abspath $(BIN)):$$PATH" bash launch/quickstart.sh "$(DATASET)"

test: $(VENV)/.developer ## The test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 -m "not long"

test-all: $(VENV)/.developer ## The test suite and the long tests (a hundred kills, every documented command)
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

lint: $(VENV)/.developer ## Linter, formatter check, type check, shell scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/shellcheck --external-sources --source-path=. launch/*.sh benchmarks/*.sh .ci/run

bench: $(VENV)/.developer ## Every CPU benchmark, under 20 minutes on 2 quiet cores, and docs/performance.md from them
	status=0; $(BIN)/python -m benchmarks.cpu_suite || status=$$?; \
	  $(BIN)/python -m benchmarks.plots && exit $$status

format: $(VENV)/.developer ## Formats the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(VENV)/.developer ## Writes constraints.txt from what is installed
	(head -n 1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable --disable-pip-version-check \
	  | grep -v '@') > constraints.new && mv constraints.new constraints.txt

clean: ## Removes the virtual environment and caches; never data or runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo 'Installing genrec_jax and what it needs (no TensorFlow) into $(VENV) ...'
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.developer: $(VENV)/bin/python pyproject.toml constraints.txt requirements.txt
	@echo 'Installing everything that developers need into $(VENV) ...'
	$(PIP) -r requirements.txt
	@touch $@ $(VENV)/.runtime
