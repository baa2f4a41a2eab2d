# flctl. `make` alone prints what there is; each target works from a clean clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Two processes: the suite waits for sockets and disks more than it computes.
PYTEST_ARGS ?= -n 2
INSTALL_ARGS ?= --durations 0
HOSTS_ARGS ?= -s -x --durations 0
CONTAINER_ARGS ?= -s --durations 5
WEB_ARGS ?= --durations 5
FAULTS_ARGS ?= -n 3 --no-loadscope-reorder
SEED ?= 1
FUZZ_S ?= 30
DOCS_PORT ?= 8000
BENCH_ARGS ?= --agents 3 --model-mb 1.72

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo docs docs-links docs-serve test test-web pictures test-containers test-hosts test-rollout test-install test-arm test-faults check lint-playbooks collection audit lock fuzz format bench compare images images-all image-arm64 coordinator-arm64 release clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Make .venv with flctl and everything that developing it needs

demo: $(VENV)/.installed-demo ## Train on the ECG data that ship with flctl, over four local agents, into demo/
	$(BIN)/flctl demo --out demo

test: install ## Run the tests (no Docker, no network)
	$(BIN)/pytest $(PYTEST_ARGS)

test-containers: install ## Run the tests of the images and of compose.yaml (needs Docker)
	$(BIN)/pytest tests/containers $(CONTAINER_ARGS)

test-web: install ## Drive the web page with Debian's Chromium (apt-get install chromium)
	$(PIP) install --quiet -e '.[browser]'
	$(BIN)/pytest tests/browser $(WEB_ARGS)

pictures: install ## Make the pictures of README and docs again (apt-get install chromium)
	$(PIP) install --quiet -e '.[browser]'
	$(BIN)/python tests/browser/pictures.py docs/pictures

test-hosts: install $(VENV)/.installed-lint ## Run the playbooks against containers that play fresh Pis (needs Docker)
	$(BIN)/pytest tests/hosts/test_archive.py tests/hosts/test_preflight.py tests/hosts/test_send.py tests/hosts/test_container.py tests/hosts/test_hosts.py $(HOSTS_ARGS)

test-rollout: install $(VENV)/.installed-lint ## Run the playbooks that change a fleet on toy hosts, with no Docker
	$(BIN)/pytest tests/hosts/test_rollout.py $(ROLLOUT_ARGS)

test-install: install ## Try every install line of README in an empty environment (needs the network)
	$(BIN)/pytest tests/install $(INSTALL_ARGS)

test-arm: install $(VENV)/.installed-lint image-arm64 ## The same against a whole emulated ARM computer (slow)
	$(BIN)/pytest tests/hosts/test_arm.py $(HOSTS_ARGS)

test-faults: install ## Break a fleet in every way that we know (half an hour); SEED=2 breaks it elsewhere
	FAULTS_SEED=$(SEED) $(BIN)/pytest -m 'faults or smoke' $(FAULTS_ARGS) tests/faults

check: install lint-playbooks ## What CI runs: lint, format, types, import rule, audit, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/audit.py
	$(BIN)/pytest $(PYTEST_ARGS)
	@$(if $(filter file,$(origin PYTEST_ARGS)),$(WITNESS))

# What make release asks for: all of the above has passed on this commit, unchanged.
WITNESS = mkdir -p dist && { [ -n "$$(git status --porcelain)" ] || git rev-parse HEAD >dist/checked || true; }

release: install ## Check and build a release into dist/VERSION: make release VERSION=0.2.0 RELEASE_ARGS=--no-images
	$(PIP) install --quiet -e '.[release]'
	$(BIN)/python scripts/release.py $(VERSION) $(RELEASE_ARGS)

lint-playbooks: $(VENV)/.installed-lint
	cd ansible && for play in *.yml; do \
		ANSIBLE_HOST_PATTERN_MISMATCH=ignore ../$(BIN)/ansible-playbook --syntax-check -i example/inventory.yml $$play >/dev/null || exit 1; done
	PATH="$(abspath $(BIN)):$$PATH" ANSIBLE_ACTION_PLUGINS=ansible/action_plugins ANSIBLE_LIBRARY=ansible/library ANSIBLE_MODULE_UTILS=ansible/module_utils $(BIN)/ansible-lint --offline --profile production -q ansible

collection: install ## Build the playbooks as the Ansible collection flctl.fleet, into dist/
	mkdir -p dist
	$(BIN)/python scripts/collection.py

audit: install ## Ask the advisory database about every package, installed or in the images (needs the network)
	$(PIP) install --quiet -e '.[audit]'
	scripts/advisories $(BIN) || \
		{ echo "make audit: findings above, or no way to the advisory database; make check does what needs no network"; exit 1; }

lock: install ## Renew the versions and hashes of what the images hold, scripts/image/lock.txt (needs the network)
	$(PIP) install --quiet -e '.[audit]'
	$(BIN)/python scripts/image/lock.py

fuzz: install ## Search for bytes that no decoder expects, FUZZ_S seconds on each; keeps what is new
	$(PIP) install --quiet -e '.[fuzz]'
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(FUZZ_S)

format: install ## Put the code into the form that check asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## Measure a round against the two floors; BENCH_ARGS='--agents 10 --model-mb 44'
	$(BIN)/python benchmarks/round_overhead.py $(BENCH_ARGS)

docs: $(VENV)/.installed-docs ## Build the documentation as a site, docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -b html -E -W --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-serve: docs ## The same, on http://127.0.0.1:$(DOCS_PORT) (DOCS_PORT=8001)
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory docs/_build/html $(DOCS_PORT)

docs-links: $(VENV)/.installed-docs ## Ask whether the links to elsewhere answer (needs the network)
	$(BIN)/python -m sphinx -b linkcheck -E -q docs docs/_build/links

compare: install ## Compare flctl with other systems and write docs/explanation/comparison.md (two hours); SYSTEMS='flctl plain' JOBS=lr MNIST=folder
	$(BIN)/python benchmarks/compare/run.py --systems $(SYSTEMS) --jobs $(JOBS) $(if $(MNIST),--mnist $(MNIST))
	$(if $(JOBS),,$(BIN)/python benchmarks/compare/fleet.py $(SYSTEMS) $(if $(MNIST),--mnist $(MNIST)))
	$(BIN)/python benchmarks/compare/render.py

images: ## Build the images of the agent and the coordinator for this machine (needs Docker)
	scripts/image/build agent coordinator

images-all: ## Those for this machine and those for a Raspberry Pi, with one command
	scripts/image/build all

image-arm64: ## Build the agent's image for a Raspberry Pi, through qemu where this is no ARM
	scripts/image/build agent-arm64

coordinator-arm64: ## The same for the coordinator, where it runs on a Pi too
	scripts/image/build coordinator-arm64

clean: ## Remove .venv, caches and the demo's output
	rm -rf $(VENV) demo dist docs/_build docs/reference/commands .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second call instant; a changed pyproject.toml reinstalls.
$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(PIP) install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed-demo $(VENV)/.installed-docs

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/pip
	$(PIP) install --quiet -e '.[train,plot]'
	@touch $@

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/pip
	$(PIP) install --quiet -e '.[docs]'
	@touch $@

# Apart from the others: only the playbooks need it.
$(VENV)/.installed-lint: pyproject.toml | $(VENV)/.installed
	$(PIP) install --quiet -e '.[lint]'
	@touch $@

# Debian keeps ensurepip in a package of its own (python3-venv): without it the pip that
# is there puts one into the environment.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "flctl needs Python 3.11 or newer; name one with make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null && $(PYTHON) -m venv $(VENV) || { \
		$(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
