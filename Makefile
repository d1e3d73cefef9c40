# The one command surface: people and CI use the same targets.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
FEAST_TESTS ?=
FEAST_VENV := $(VENV)/feast-universal

.PHONY: help install demo test quick check lock clean feast-universal

help:  ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 17

install: $(VENV)/.installed  ## Make .venv with everything a developer needs.

$(VENV)/.installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; name it with make PYTHON=…"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: install  ## Run the whole job on the flights (ARGS=--once exits after the predictions).
	@$(BIN)/punctual demo $(ARGS)

test: install  ## Run the tests (ARGS are pytest's).
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder $(ARGS)

# The parts that most changes can break, each tested without a server or a long history.
QUICK := test_architecture.py test_declarations.py test_reference.py test_column_types.py \
	pipelines/test_clean.py pipelines/test_windows.py stores/test_table.py stores/test_packed.py \
	training/test_split_and_gate.py training/test_recipe.py

quick: install  ## Run the tests for daily work, under three minutes (ARGS are pytest's).
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder \
		$(addprefix tests/,$(QUICK)) $(ARGS)

check: install  ## Run ruff, mypy and the architecture test.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

feast-universal:  ## Run Feast's own universal tests (FEAST_TESTS=…/feast/sdk/python/tests).
	@test -n "$(FEAST_TESTS)" || { echo "Name Feast's tests: make feast-universal FEAST_TESTS=…/feast/sdk/python/tests (docs/feast-universal-tests.md)."; exit 2; }
	@$(MAKE) --no-print-directory $(FEAST_VENV)/.installed
	@$(FEAST_VENV)/bin/python tests/feast_universal "$(FEAST_TESTS)" $(ARGS)

# On top of .venv, so that what is in it stays as it is locked.
$(FEAST_VENV)/.installed: tests/feast_universal/requirements.txt $(VENV)/.installed
	$(BIN)/python -m venv --without-pip $(FEAST_VENV)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(' + repr(sysconfig.get_path('purelib')) + ')')" \
		> "$$(echo $(FEAST_VENV)/lib/python*/site-packages)/base.pth"
	$(BIN)/python -m pip --python $(FEAST_VENV)/bin/python install --disable-pip-version-check --quiet --requirement tests/feast_universal/requirements.txt
	@touch $@

lock: install  ## Compile requirements.lock from pyproject.toml with uv; no index address goes into it.
	$(BIN)/python -m pip install --disable-pip-version-check --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-emit-find-links --quiet --output-file requirements.lock

clean:  ## Remove what was made: environment, caches, the data folder.
	rm -rf $(VENV) data .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
