# What a person types: `make` lists it. A target sets up what it needs in .venv, and does something today or is not here.
# Plain sh and nothing newer than GNU make 3.81, which macOS still ships.

VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
PYTEST := $(PY) -m pytest
PIP    := $(PY) -m pip --disable-pip-version-check --no-input

# Which Python makes .venv: the first of these that is 3.11 to 3.13, or yours: make setup PYTHON=/path/to/python
PYTHON ?= python3.11 python3.12 python3.13 python3 python
SUITS  := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PIP_USER := 0
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo deploy test check unit integration crash pipeline test-proxy test-ui bench bench-quick lock clean

help: ## list what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## install everything into .venv; the command is then .venv/bin/i2v

demo: $(READY) ## let sample photographs land in a bucket and become videos, for free; KEEP=1 leaves it up to be looked at
	@KEEP='$(KEEP)' $(PY) -m sandbox.demo

deploy: $(READY) ## put it on the Prefect server that PREFECT_API_URL names; NOTIFY=slack-webhook/alerts sends alerts
	@$(PY) -m deployments.setup $(if $(NOTIFY),--notify '$(NOTIFY)')

test: check unit integration crash pipeline ## lint, types and all tests

check: $(READY) ## lint and types alone
	@printf '\n== lint ==\n'
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@printf '\n== imports ==\n'
	@PYTHONPATH=. $(VENV)/bin/lint-imports --no-logo
	@printf '\n== types ==\n'
	@$(PY) -m mypy

unit: $(READY) ## the tests that take milliseconds
	$(call tier,$@)

integration: $(READY) ## the tests against the sandbox, over real sockets
	$(call tier,$@,-n 4 --dist loadfile)

crash: $(READY) ## processes killed at every request they make; I2V_CRASH_ROUNDS=50 tries each more often
	$(call tier,$@,-n 8)

pipeline: $(READY) ## the tests with Prefect's own test server
	$(call tier,$@,-n 2 --dist loadfile)

test-proxy: $(READY) ## the door behind a real nginx, which root gets by apt; without nginx, make test skips this
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; command -v nginx >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq -y install --no-install-recommends nginx >/dev/null; } || \
	  { echo 'There is no nginx. On Debian and Ubuntu: sudo apt install nginx' >&2; exit 1; }
	$(call tier,pipeline/doors/test_nginx.py)

test-ui: $(READY) ## look at Prefect's UI and the gallery with a real browser; SCREENSHOTS=docs/images keeps what it sees
	@for name in $${CHROMIUM:-chromium chromium-browser google-chrome}; do \
	  command -v "$$name" >/dev/null && exit 0; \
	done; \
	if [ -n "$$CHROMIUM" ] || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo 'It needs Chromium. On Debian: sudo apt install chromium; elsewhere: CHROMIUM=/path/to/yours make test-ui' >&2; \
	  exit 1; \
	fi; \
	echo 'Installing chromium, once'; \
	apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null
	$(call tier,ui)

bench: $(READY) ## measure, into docs/benchmarks.md: an hour; ONLY=steps,makespan some of it; Linux alone
	@$(PY) -m benchmarks $(if $(ONLY),--only $(ONLY))

bench-quick: $(READY) ## the same, small and fast, and only printed: two minutes
	@$(PY) -m benchmarks --quick $(if $(ONLY),--only $(ONLY))

# One tier, in a Prefect home of its own. pytest fails a tier in which it finds no test.
define tier
@printf '\n== %s tests ==\n' $(1)
@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT INT TERM && PREFECT_HOME="$$home" $(PYTEST) tests/$(1) $(2) $(ARGS)
endef

lock: $(READY) ## write requirements.txt anew from pyproject.toml; UPGRADE=1 takes the newest versions
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT INT TERM && \
	  $(PY) -m venv "$$dir" && "$$dir/bin/python" -m pip install -q --disable-pip-version-check uv && \
	  "$$dir/bin/uv" pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --system-certs $(if $(UPGRADE),--upgrade) --quiet --output-file requirements.txt
	@echo 'requirements.txt is written; see what changed with: git diff requirements.txt'

clean: ## remove .venv, the sandbox's data and every cache
	rm -rf $(VENV) .sandbox .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last, so that a set-up that was broken off is made again from nothing. The lock holds all there is, so
# pip resolves nothing.
$(READY): requirements.txt pyproject.toml
	@found=; bare=; \
	for python in $(PYTHON); do \
	  "$$python" -c '$(SUITS)' >/dev/null 2>&1 || continue; \
	  "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || { bare=$$python; continue; }; \
	  found=$$python; break; \
	done; \
	if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	  echo "$$bare cannot make virtual environments. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; \
	elif [ -z "$$found" ]; then \
	  echo 'i2v needs Python 3.11, 3.12 or 3.13, and none was found as: $(PYTHON)' >&2; \
	  echo 'Install one, or name yours: make setup PYTHON=/path/to/python3.12' >&2; exit 1; \
	fi; \
	if [ ! -e $@ ] || ! $(PY) -c '$(SUITS)' >/dev/null 2>&1; then \
	  echo "Making .venv with $$($$found --version): a minute or two, once"; \
	  "$$found" -m venv --clear $(VENV) || exit 1; \
	else \
	  echo 'Bringing .venv up to date'; \
	fi; \
	rm -f $@
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
