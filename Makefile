# Everything runs from a virtual environment in .venv, built from requirements-dev.lock (pinned, hashed);
# requirements.lock is the part of it that the image runs with, requirements-build.lock what its wheel is built with.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SETUP  := $(VENV)/.set-up
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header
export DAGSTER_DISABLE_TELEMETRY := yes

.PHONY: help setup run dev test test-browser lint types contracts validate check bench image-check lock clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(SETUP) ## Build the virtual environment (once; again only when the lock changes)

$(SETUP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}: say make PYTHON=python3.11")'
	@echo "Setting up $(VENV) from requirements-dev.lock: a minute or two, once."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(SETUP)

run: setup ## Start the embedded stack, take and publish every roster, show the results
	$(BIN)/runway-pipelines demo

dev: setup ## Keep the embedded stack running with the Dagster UI and daemon
	$(BIN)/runway-pipelines dev

test: setup ## Run the tests, with coverage
	$(BIN)/python -m pytest

test-browser: setup ## Look at the UI in headless Chromium (needs Debian's package chromium)
	$(BIN)/python -m pytest -n 0 --no-cov --timeout 600 tests/browser

lint: setup ## Check style and formatting, the Dockerfile and the CloudFormation templates
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile
	$(BIN)/cfn-lint $(filter-out %/dagster.yaml %/workspace.yaml,$(wildcard deploy/ecs/*.yaml))

types: setup ## Check types (strict on the pure modules)
	$(BIN)/mypy

contracts: setup ## Check the layering rules
	$(BIN)/lint-imports

validate: setup ## Load the code location as Dagster does
	@mkdir -p $(VENV)/dagster_home # an empty one: the checkout's dagster.yaml names a database that need not be there
	DAGSTER_HOME=$(CURDIR)/$(VENV)/dagster_home $(BIN)/dagster definitions validate -m runway_pipelines.definitions

check: lint types contracts validate test ## lint, types, contracts, validate and test

bench: setup ## Run the benchmarks, each beside a peer or a floor
	$(BIN)/python -m benchmarks

image-check: ## Build the image without Docker and try it (needs root, and Debian's buildah and mmdebstrap)
	deploy/image_check.sh

lock: setup ## Compile the locks anew from pyproject.toml
	$(COMPILE) --extra api --extra mongo --extra redis pyproject.toml --output-file requirements.lock
	$(COMPILE) --all-extras --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock
	echo hatchling | $(COMPILE) --constraint requirements-dev.lock - --output-file requirements-build.lock

clean: ## Remove the virtual environment and the embedded stack's state
	rm -rf $(VENV) .runway
