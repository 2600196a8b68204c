# Every command of the project: `make` lists them. A target installs what it needs into .venv first.
# Plain sh, and nothing newer than GNU make 3.81, which macOS ships.

VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
TOOLS  := $(VENV)/infrastructure
PIP    := $(PY) -m pip --disable-pip-version-check --no-input

# .venv is made with the first of these that is Python 3.11 to 3.13; choose one with: make setup PYTHON=/path/to/python
PYTHON ?= python3.11 python3.12 python3.13 python3 python
COMMA  := ,
SUITS  := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PIP_USER := 0
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

# $(call debian-packages,PROGRAMS,PACKAGES): root installs what is missing; others read what to install. While apt runs,
# policy-rc.d keeps it from starting the services.
define debian-packages
PATH="$$PATH:/usr/sbin:/usr/local/sbin:$$(echo /usr/lib/postgresql/*/bin | tr ' ' ':')"; missing=; \
for program in $(1); do command -v "$$program" >/dev/null || missing=1; done; \
[ -n "$$missing" ] || exit 0; \
if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
  echo 'Not installed: one of $(1). On Debian and Ubuntu: sudo apt install $(2)' >&2; exit 1; \
fi; \
echo 'Installing $(2)'; policy=/usr/sbin/policy-rc.d; \
if [ ! -e "$$policy" ]; then \
  trap 'rm -f "$$policy"' EXIT INT TERM; printf '#!/bin/sh\nexit 101\n' >"$$policy"; chmod +x "$$policy"; \
fi; \
apt-get -qq update && apt-get -qq -y install --no-install-recommends $(2) >/dev/null
endef

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo cluster deploy image secrets test check unit integration crash pipeline simulate \
  test-proxy test-ceph test-cluster test-image test-metrics test-ui test-deployments bench bench-quick lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## install everything into .venv; the command line is .venv/bin/i2v
	@echo 'Ready. Next, either see it work for free, without an account:  make demo'
	@echo 'or set APIXO_API_KEY, I2V_BUCKET and your AWS credentials, and check them:  .venv/bin/i2v doctor'

demo: $(READY) ## upload sample photos to a local bucket and watch them become videos, free; KEEP=1 keeps everything running
	@KEEP='$(KEEP)' exec $(PY) -m sandbox.demo

cluster: $(READY) ## run all services of deployments/compose.yaml on this machine, with the sandbox or the settings in ENV=file; SCALE='worker=4'
	@$(call debian-packages,nginx redis-server postgres,nginx redis-server postgresql)
	@ENV='$(ENV)' SCALE='$(SCALE)' exec $(PY) -m sandbox.cluster

deploy: $(READY) ## deploy to the Prefect server at PREFECT_API_URL; NOTIFY=slack-webhook/alerts sends alerts to that block; IMAGE=registry/i2v:tag for containers
	@$(PY) -m deployments.setup $(if $(NOTIFY),--notify '$(NOTIFY)') \
	  $(if $(IMAGE),--image '$(IMAGE)') $(if $(BUILD),--build) $(if $(STEPS),--steps '$(STEPS)')

# BUILDER=buildah chooses one; docker counts only if its daemon answers.
image: ## build the container image i2v with docker, podman or buildah; BASE=image and PIP_CONFIG=file are optional
	@builder='$(BUILDER)'; \
	if [ -z "$$builder" ]; then \
	  if docker info >/dev/null 2>&1; then builder=docker; \
	  elif command -v podman >/dev/null; then builder=podman; \
	  elif command -v buildah >/dev/null; then builder=buildah; \
	  else echo 'Install docker, podman or buildah; docker needs a running daemon' >&2; exit 1; fi; \
	fi; \
	[ "$$builder" = docker ] || set -- --format docker; \
	"$$builder" build "$$@" --tag i2v $(if $(BASE),--build-arg BASE='$(BASE)') \
	  $(if $(PIP_CONFIG),--secret 'id=pip$(COMMA)src=$(PIP_CONFIG)') .

secrets: ## create the files of deployments/secrets that compose.yaml needs; it never changes one that exists
	@mkdir -p -m 700 deployments/secrets; cd deployments/secrets; umask 077; \
	key=$$(head -c 32 /dev/urandom | base64 | tr '+/' '-_'); password=$$(head -c 24 /dev/urandom | base64 | tr '+/' '-_'); \
	for name in APIXO_API_KEY AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY I2V_CALLBACK_SECRET I2V_DOOR_TOKEN \
	  I2V_GALLERY_TOKEN PREFECT_API_AUTH_STRING PREFECT_SERVER_ENCRYPTION_KEY="$$key" PGPASSWORD="$$password"; do \
	  file=$${name%%=*}; [ -e "$$file" ] || { value=$${name#$$file}; printf %s "$${value#=}" >"$$file"; chmod 644 "$$file"; }; \
	done; \
	echo 'Fill in what you use; an empty file sets nothing:'; wc -c *

test: check ## lint, types and all tests
	@printf '\n== tests ==\n'
	@$(PY) -m tests $(ARGS)

check: $(READY) ## lint, import rules and types
	@printf '\n== lint ==\n'
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@printf '\n== imports ==\n'
	@PYTHONPATH=. $(VENV)/bin/lint-imports --no-logo
	@printf '\n== types ==\n'
	@$(PY) -m mypy

unit: $(READY) ## fast tests without servers; one test: make unit ARGS='-k ratio'
	@$(PY) -m tests $@ $(ARGS)

integration: $(READY) ## tests against the sandbox, over real sockets
	@$(PY) -m tests $@ $(ARGS)

crash: $(READY) ## kill processes at every request they make; I2V_CRASH_ROUNDS=50 repeats each kill more often
	@$(PY) -m tests $@ $(ARGS)

pipeline: $(READY) ## tests with a real Prefect server
	@$(PY) -m tests $@ $(ARGS)

simulate: $(READY) ## run random scenarios of failures and crashes in virtual time; SEEDS=10000 as many, SEED=7 prints its event log
	@$(PY) -m tests.simulator $(if $(SEED),--seed $(SEED),$(SEEDS))

test-proxy: $(READY) ## test the door behind a real nginx; root installs it with apt; without nginx, make test skips these
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; command -v nginx >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq -y install --no-install-recommends nginx >/dev/null; } || \
	  { echo 'nginx is not installed. On Debian and Ubuntu: sudo apt install nginx' >&2; exit 1; }
	@$(PY) -m tests pipeline/doors/test_nginx.py $(ARGS)

test-metrics: $(READY) ## test metrics and alerts with a real Prometheus; root installs it with apt; without it, make test skips these
	@$(call debian-packages,prometheus promtool,prometheus)
	@$(PY) -m tests unit/deployments/test_dashboard_and_alerts.py tests/pipeline/doors/test_prometheus.py $(ARGS)

test-ceph: $(READY) ## test S3 on Ceph's gateway; root installs it with apt; without it, make test skips these
	@command -v radosgw >/dev/null && command -v ceph-osd >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get -qq update && \
	    apt-get -qq -y install --no-install-recommends ceph-common ceph-mon ceph-osd radosgw >/dev/null; } || \
	  { echo 'Ceph is not installed. On Debian: sudo apt install ceph-common ceph-mon ceph-osd radosgw' >&2; exit 1; }
	@TEST_CEPH=1 $(PY) -m tests integration/s3/test_ceph.py tests/integration/s3/test_storage.py -k ceph $(ARGS)

test-cluster: $(READY) ## run all services, kill each of them and count what was paid; runs the commands of docs/production.md (20 minutes)
	@$(call debian-packages,nginx redis-server postgres,nginx redis-server postgresql)
	@$(PY) -m tests cluster $(ARGS)

test-image: $(READY) ## build the container image on a base made by debootstrap, and run its worker and door; Debian, as root
	@[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || \
	  { echo 'make test-image needs Debian or Ubuntu, and root: sudo make test-image' >&2; exit 1; }
	@$(call debian-packages,buildah debootstrap,buildah debootstrap)
	@$(PY) -m tests image $(ARGS)

test-ui: $(READY) ## test the gallery and Prefect's UI in a real browser; SCREENSHOTS=docs/images saves screenshots there
	@for name in $${CHROMIUM:-chromium chromium-browser google-chrome}; do \
	  command -v "$$name" >/dev/null && exit 0; \
	done; \
	if [ -n "$$CHROMIUM" ] || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo 'Chromium is not installed. On Debian: sudo apt install chromium; elsewhere: CHROMIUM=/path/to/chromium make test-ui' >&2; \
	  exit 1; \
	fi; \
	echo 'Installing Chromium'; \
	apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null
	@$(PY) -m tests ui $(ARGS)

test-deployments: $(TOOLS)/.ready ## check the files for AWS, Kubernetes and ECS, and run i2v with the AWS policies alone
	@TEST_DEPLOYMENTS=1 PYTHONPATH="$(CURDIR)/$(TOOLS)" PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(PY) -m tests \
	  integration/deployments tests/pipeline/deployments/test_container_deployments.py $(ARGS)

# Their own folder: Prefect would load its plugins for Docker and Kubernetes in every process.
$(TOOLS)/.ready: requirements-infrastructure.txt | $(READY)
	@rm -rf $(TOOLS)
	@$(PIP) install --quiet --no-deps --require-hashes --target $(TOOLS) -r requirements-infrastructure.txt
	@touch $@

bench: $(READY) ## run all benchmarks and update benchmarks/README.md (an hour, Linux only); ONLY=steps,makespan selects some
	@$(PY) -m benchmarks $(if $(ONLY),--only $(ONLY))

bench-quick: $(READY) ## run small benchmarks and print the results (two minutes)
	@$(PY) -m benchmarks --quick $(if $(ONLY),--only $(ONLY))

lock: $(READY) ## regenerate the requirements files from pyproject.toml; UPGRADE=1 upgrades to the newest versions
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT INT TERM && \
	  $(PY) -m venv "$$dir" && "$$dir/bin/python" -m pip install -q --disable-pip-version-check uv && \
	  lock() { "$$dir/bin/uv" pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --system-certs --quiet "$$@"; } && \
	  own() { lock pyproject.toml --extra export --extra otel --extra server "$$@"; } && \
	  own --group dev $(if $(UPGRADE),--upgrade) --output-file requirements.txt && \
	  own --group build --constraint requirements.txt --upgrade --output-file requirements-image.txt && \
	  lock --group infrastructure --constraint requirements.txt $(if $(UPGRADE),--upgrade) \
	    $$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' requirements.txt) \
	    --output-file requirements-infrastructure.txt
	@echo 'All requirements files are up to date; see what changed with: git diff requirements*.txt'

clean: ## remove .venv, the sandbox's data and all caches
	rm -rf $(VENV) .sandbox .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so that an interrupted set-up starts again. The lock lists every package, so pip resolves
# nothing.
$(READY): requirements.txt pyproject.toml
	@found=; bare=; \
	for python in $(PYTHON); do \
	  "$$python" -c '$(SUITS)' >/dev/null 2>&1 || continue; \
	  "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || { bare=$$python; continue; }; \
	  found=$$python; break; \
	done; \
	if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	  echo "$$bare cannot create virtual environments. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; \
	elif [ -z "$$found" ]; then \
	  echo 'i2v needs Python 3.11, 3.12 or 3.13, and found none of: $(PYTHON)' >&2; \
	  echo 'Install one, or choose one: make setup PYTHON=/path/to/python3.12' >&2; exit 1; \
	fi; \
	if [ ! -e $@ ] || ! $(PY) -c '$(SUITS)' >/dev/null 2>&1; then \
	  echo "Creating .venv with $$($$found --version), which takes a minute or two"; \
	  "$$found" -m venv --clear $(VENV) || exit 1; \
	else \
	  echo 'Updating .venv'; \
	fi; \
	rm -f $@
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
	@echo 'Installed: .venv/bin/i2v'
