# Everything runs from a virtual environment in .venv, built from pinned, hashed locks: requirements-run.lock for `run` and
# `dev`, requirements-dev.lock on top of it for everything else. requirements.lock is what the image runs with,
# requirements-build.lock what its wheel is built with, requirements-uv.lock the installer.
.DEFAULT_GOAL := help
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STATE   := .runway
TO_RUN  := $(VENV)/.set-up-to-run
SETUP   := $(VENV)/.set-up
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header
export DAGSTER_DISABLE_TELEMETRY := yes
# Some containers forbid bytecode. Then every process compiles Dagster anew (2.0 CPU-seconds where importing takes 0.7), and
# each of pytest's workers all tests (25 CPU-seconds, where collecting takes 8).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup run dev test test-browser test-anywhere coverage lint types contracts validate check bench image-check \
	lock clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(SETUP) ## Install what the tests and checks need (once; again only when a lock changes)

$(TO_RUN): requirements-run.lock requirements-uv.lock pyproject.toml
	@PYTHON="$(PYTHON)" sh deploy/install.sh $(VENV) requirements-run.lock
	@touch $(TO_RUN)

$(SETUP): $(TO_RUN) requirements-dev.lock
	@PYTHON="$(PYTHON)" sh deploy/install.sh $(VENV) requirements-dev.lock
	@touch $(SETUP)

run: $(TO_RUN) ## Start the embedded stack, take and publish every roster, show the results
	@$(BIN)/python -m runway_pipelines.cli --state $(STATE) demo

dev: $(TO_RUN) ## Keep the embedded stack running with the Dagster UI and daemon
	@$(BIN)/python -m runway_pipelines.cli --state $(STATE) dev

test: $(SETUP) ## Run the fast tests against real servers (3 minutes)
	$(BIN)/python -m pytest -m "not slow"

check: lint types contracts validate ## Everything that CI checks: lint, types, layers, definitions, all tests (20 minutes)
	$(BIN)/python -m pytest

coverage: $(SETUP) ## Run all tests with branch coverage
	$(BIN)/python -m pytest --cov runway_pipelines --cov-report term:skip-covered

test-browser: $(SETUP) ## Look at the UI in headless Chromium (needs Debian's package chromium)
	$(BIN)/python -m pytest -n 0 --timeout 600 tests/browser

test-anywhere: ## Clone into awkward places and run the commands there (Linux, as root)
	sh tests/anywhere.sh

lint: $(SETUP) ## Check style and formatting, the Dockerfile and the CloudFormation templates
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile
	$(BIN)/cfn-lint $(filter-out %/dagster.yaml %/workspace.yaml,$(wildcard deploy/ecs/*.yaml))

types: $(SETUP) ## Check types (strict)
	$(BIN)/mypy

contracts: $(SETUP) ## Check the layers
	$(BIN)/lint-imports

validate: $(SETUP) ## Load the code location as Dagster does
	@mkdir -p $(VENV)/dagster_home # one of its own: the checkout's dagster.yaml names a database that may not be there
	@echo 'telemetry: {enabled: false}' >$(VENV)/dagster_home/dagster.yaml
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" DAGSTER_HOME="$(CURDIR)/$(VENV)/dagster_home" $(BIN)/dg check defs

bench: $(SETUP) ## Run the benchmarks, each beside a peer or a floor
	$(BIN)/python -m benchmarks

image-check: ## Build the image without Docker and try it (needs root, and Debian's buildah and mmdebstrap)
	deploy/image_check.sh

lock: $(SETUP) ## Compile the locks from pyproject.toml
	$(COMPILE) --extra api --extra mongo --extra redis pyproject.toml --output-file requirements.lock
	$(COMPILE) --all-extras --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock
	$(COMPILE) --extra api --extra local --constraint requirements-dev.lock pyproject.toml --output-file requirements-run.lock
	echo uv | $(COMPILE) --constraint requirements-dev.lock - --output-file requirements-uv.lock
	echo hatchling | $(COMPILE) --constraint requirements-dev.lock - --output-file requirements-build.lock

clean: ## Remove the virtual environment and the embedded stack's state
	@$(PYTHON) runway_pipelines/local/clean.py $(STATE) $(VENV)
