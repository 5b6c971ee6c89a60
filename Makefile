# Each target works alone on a fresh machine that has Python 3.11 or newer and make; `make test` installs servers by apt
# and pip.
#
#   make demo    environment, install, and a small model trained on recordings that are streamed over HTTP
#   make test    environment, install, the servers that tests need, the tests
#   make check   all checks before a change lands: lint, deploy/, types, the tests with coverage
#   make fuzz    damaged input for every parser, for ten minutes or FUZZ_SECONDS=60
#   make demo DEMO=--kill-primary    the same, and the server dies halfway: a mirror takes over
#   make clean   remove the environment and the files of tools
#
# PYTHON=python3.12 chooses the interpreter, JOBS=4 the number of test processes, OPTIONS='-k cache' adds pytest options.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
# Debian installs nginx here, which is not on the PATH of every user.
export PATH := $(PATH):/usr/sbin
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OPTIONS ?=

.PHONY: demo test check fuzz lint lint-deploy types coverage services clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(BIN)/streaming demo $(DEMO)

test: $(VENV)/.dev services
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(OPTIONS)

check: lint lint-deploy types coverage

# Hypothesis keeps no examples: each run tries others. A failure names its parser, its seed and a file with the input.
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.security.fuzz $(or $(FUZZ_SECONDS),600)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# deploy/ with the tools of Docker, Prometheus, Alertmanager and Kubernetes.
lint-deploy: $(VENV)/.dev services
	PATH="$(abspath $(BIN)):$$PATH" deploy/lint.sh

types: $(VENV)/.dev
	$(BIN)/mypy

# The import graph and the language go first: they take seconds.
coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/test_import_graph.py tests/test_language.py
	@rm -f .coverage .coverage.*
	$(MAKE) test OPTIONS="$(OPTIONS) --cov --cov-report=term:skip-covered"

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is missing or older than 3.11; choose another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing into $(VENV); torch is large, so the first run takes minutes"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing into $(VENV); torch is large, so the first run takes minutes"
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.core

# Install missing servers for the tests with apt and pip; the tests start and stop them. If one cannot be installed, its
# tests are left out, and the last lines of the run say so.
services: $(VENV)/.made
	@tests/services/install.sh $(VENV)/services

clean:
	rm -rf $(VENV) .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build *.egg-info
