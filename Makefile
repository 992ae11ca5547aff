# Everything runs in .venv, which is made here and made again when pyproject.toml changes.
# Another interpreter: make PYTHON=/path/to/python3.12 check

SHELL := /bin/sh
BIN := $(CURDIR)/.venv/bin
STAMP := .venv/installed
# Tests and measurements find git-annex and git-annex-remote-swarm as git does: on PATH.
WITH_PATH := PATH="$(BIN):$$PATH"
JOBS ?= 2

.PHONY: help demo test check bench clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    a grid of six directories, built, broken and repaired before your eyes'
	@echo 'make test    the tests'
	@echo 'make check   format, lint, types, import layers, then the tests: what has to pass'
	@echo 'make bench   the measurements of docs/performance.md (takes a while, and 5 GiB of /dev/shm)'
	@echo 'make clean   remove what these made'

demo: $(STAMP)
	@$(WITH_PATH) "$(BIN)/git-annex-remote-swarm" demo

# What cannot be installed is named, and the tests that want it are skipped; in CI they fail.
test: $(STAMP)
	-contrib/servers/install
	$(WITH_PATH) "$(BIN)/pytest" -n $(JOBS) --dist worksteal

check: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory test

bench: $(STAMP)
	$(WITH_PATH) contrib/bench/run

clean:
	rm -rf .venv .venv-tahoe .servers build dist *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find annex_remote tests contrib -name __pycache__ -type d -prune -exec rm -rf {} +

# python3 when it is new enough, else the newest that is; PYTHON overrides the search.
$(STAMP): pyproject.toml
	@new_enough='import sys; sys.exit(sys.version_info < (3, 11))'; \
	for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	    "$$python" -c "$$new_enough" 2>/dev/null && break; python=; \
	done; \
	if [ -z "$$python" ]; then \
	    echo 'Python 3.11 or newer is needed (looked for: $(or $(PYTHON),python3, python3.11 to python3.14)).' >&2; \
	    echo 'Install one, or name it: make PYTHON=/path/to/python3' >&2; \
	    exit 1; \
	fi; \
	if ! "$(BIN)/python" -c "$$new_enough" 2>/dev/null; then \
	    echo "making .venv with $$python"; \
	    "$$python" -m venv --clear .venv || { rm -rf .venv; exit 1; }; \
	fi
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check \
	    --upgrade --upgrade-strategy eager --editable '.[test,check]'
	@touch $@
