# Every target makes its own environment in .venv first; `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
# Without a GPU a pinned version, which an index of CPU builds has too: TORCH="torch --index-url URL" names one.
TORCH ?= $(shell nvidia-smi >/dev/null 2>&1 && echo torch || echo torch==2.13.0)
# Arguments for pytest, for instance ARGS="-k template -x".
ARGS ?=
# Processes that run the tests, whole files each.
JOBS ?= 2
# Budget of each fuzz target.
FUZZ_SECONDS ?= 60

AGENTSFT_CACHE ?= $(CURDIR)/.cache
export AGENTSFT_CACHE
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP = $(BIN)/python -m pip install $$(test -t 2 || echo --quiet)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow fuzz lint format examples docs docs-cli picture ci clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## Make .venv and install the project, its tests' and its linters' needs.

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'agentsft needs Python 3.11 or newer: make setup PYTHON=python3.12' >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
		{ echo '$(PYTHON) cannot make environments: install its venv module (Debian: apt install python3-venv),' \
		'or name another Python: make setup PYTHON=...' >&2; exit 1; }
	@echo 'Installing into $(VENV): minutes the first time, seconds later'
	$(PIP) --upgrade 'pip>=25.1'
	$(PIP) $(TORCH)
	$(PIP) --editable '.[gguf,report,tensorboard,wandb,trackio,qlora,fp8]' --group test --group lint
	@touch $@

demo: $(READY) ## Fine-tune SmolLM2-135M on the example conversations and compare its answers.
	$(BIN)/agentsft demo --output outputs/demo

test: $(READY) ## Run the tests.
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-slow: $(READY) ## Run the tests that take minutes.
	$(PIP) --group serve --group kernels
	$(BIN)/python -m pytest -m slow $(ARGS)

fuzz: $(READY) ## Search for inputs that crash readers, renderer and matchers; FUZZ_SECONDS for each target.
	$(PIP) --group fuzz
	$(BIN)/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS) $(ARGS)

lint: $(READY) ## Check style, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Format the code and mend what can be mended.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

examples: $(READY) ## Write examples/data anew.
	$(BIN)/python examples/make_data.py --out examples/data

docs: $(READY) ## Build the documentation as a site in dist/site.
	$(PIP) --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

docs-cli: $(READY) ## Write docs/cli.md anew.
	$(BIN)/python docs/site/reference.py

picture: $(READY) ## Draw docs/preview.svg anew.
	$(BIN)/agentsft smollm2 models/smollm2
	$(BIN)/python docs/site/picture.py models/smollm2

ci: ## Do what the continuous integration does.
	bash .ci/run

clean: ## Remove the environment and all caches.
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
