# The same commands for people and for CI. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests start hundreds of Python processes, and without byte code each compiles its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup programs compiler demo test test-random test-fresh test-python test-ui test-profile test-ollama test-helm test-slurm test-hostile test-clients test-stores test-image manifests lock ollama builds check lint format docs bench clean help

help:
	@echo "make demo    the whole job once, end to end, in a few minutes"
	@echo "make test    lint, types and all tests"
	@echo "make test-random   all tests in random order"
	@echo "make test-python   a core part of the tests with each supported Python that is at hand"
	@echo "make test-fresh    make demo, make test and the wheel on a minimal Debian that has never seen Joulebench (root, mmdebstrap)"
	@echo "make test-ui draw and read the dashboards with Grafana's own libraries (Node, Chromium)"
	@echo "make test-profile  build llama-cpp-python and time the layers of a real small model"
	@echo "make test-ollama   build a real Ollama from its Go module and measure it on the CPU"
	@echo "make test-hostile   attack the proxy, the exporter and the push library over loopback"
	@echo "make test-clients   real client packages through the proxy to the demo's model: their own reports beside ours"
	@echo "make test-stores  build Thanos, Cortex and Prometheus 3 and export one run through each store"
	@echo "make test-helm   render the Helm chart and check its objects against Kubernetes' schemas"
	@echo "make test-image  build the image and run it as docker-compose.yml does; Docker Compose's own reading of that file (root)"
	@echo "make test-slurm  measure a job array in a real Slurm"
	@echo "make manifests   the chart's objects as plain YAML: dist/joulebench.yaml (VALUES=FILE, IMAGE=REPOSITORY)"
	@echo "make lock    pin the packages of the image by hash: exporter/requirements.lock, exporter/build.lock (uv)"
	@echo "make ollama  that build alone: .build/ollama/ollama"
	@echo "make setup   the environment alone: $(BIN)/joulebench"
	@echo "make check   lint and types only"
	@echo "make docs    regenerate METRICS.md and the dashboards"
	@echo "make bench   print the benchmarks"

# uv where it is there: it installs the same packages in a fraction of the time.
UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
NEW_VENV := $(PYTHON) -m venv $(VENV)
else
INSTALL := uv pip install --python $(BIN)/python
NEW_VENV := uv venv --quiet --seed --allow-existing --python "$$(command -v $(PYTHON))" $(VENV)
endif

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' || { echo "Joulebench needs Python 3.10 to 3.13; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(NEW_VENV) || { echo "cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }

# What the demo needs and nothing else: no linters, no test tools.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "installing Joulebench and a small model server into $(VENV) (about 100 MB) ..."
	@$(INSTALL) -e '.[demo]'
	@touch $@

# What the tests need. Of the public benchmark only the checkers and simulators are used: its requirements are the clients of
# every vendor that it ranks, so it comes without them.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing Joulebench and what its tests need into $(VENV) (about 250 MB) ..."
	@$(INSTALL) --quiet -e '.[demo,dev]'
	@$(INSTALL) --quiet --no-deps bfcl-eval==2026.3.23 mpmath==1.4.1
	@touch $@

# Prometheus, promtool, Pushgateway, Alertmanager and the model, downloaded into the user's cache where they are missing. A test
# whose program is not to be had is skipped with the reason.
programs: $(VENV)/.installed
	@$(BIN)/joulebench stack fetch --model || echo "some programs are missing; the tests that need them are skipped" >&2
	@$(BIN)/joulebench stack fetch victoriametrics || echo "no victoria-metrics; the tests that need it are skipped" >&2

# The fake NVML of the tests is built from C. Where the machine has no compiler, a package brings one.
compiler: $(VENV)/.installed
	@command -v cc >/dev/null || $(BIN)/python -c 'import ziglang' 2>/dev/null || $(INSTALL) --quiet ziglang==0.17.0 || echo "no C compiler; the tests that need it are skipped" >&2

setup: programs
	@echo "ready: $(BIN)/joulebench"

demo: $(VENV)/.demo
	@$(BIN)/joulebench demo $(DEMO_FLAGS)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two runs: tests that compute, on two workers, then tests that play scripts in seconds with real programs: one after the other
# while the scene of the first worker passes, then two at a time.
WORKERS ?= 2
COMPUTE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not ollama and not timed"
PLAY := -n 2 --dist loadfile --no-loadscope-reorder -m "timed and not ollama"
# Exit status 5: none of the files named in TESTS is of this kind.
test: check programs compiler
	@status=0; \
	for kind in '$(COMPUTE)' '$(PLAY)'; do \
	    echo "pytest $$kind"; \
	    eval "$(BIN)/pytest $$kind" --ignore=tests/hostile $(TESTS) || [ $$? = 5 ] || status=1; \
	done; exit $$status

# Attacks over loopback on proxy, exporter and push library; they keep every core busy.
test-hostile: programs compiler
	$(BIN)/pytest tests/hostile

# Each client's own report beside the results, then the examples and instrumented clients with the real packages.
test-clients: programs
	@tests/clients/install.sh
	$(BIN)/pytest tests/clients/check_clients.py
	@test ! -e .build/clients/libraries/.installed || .build/clients/libraries/bin/python -m pytest tests/unit/integrations tests/examples

# In random order, every order another one: no test may depend on the one before it.
test-random: programs compiler
	$(BIN)/pytest -p randomly -m "not ollama" $(TESTS)

# A new user's machine: a minimal Debian in a folder. Needs root and mmdebstrap; skipped with the reason without.
test-fresh:
	@$(PYTHON) -m tests.fresh_machine

# A core part of the tests with each Python that is promised and at hand.
test-python:
	@scripts/test_python_versions.sh

test-ui: setup
	@tests/dashboards_ui/install.sh
	$(BIN)/pytest tests/dashboards_ui/check_dashboards.py tests/report_ui/check_report.py

test-profile: $(VENV)/.installed
	$(INSTALL) --quiet -e '.[profile]'
	$(BIN)/pytest -m profile

ollama: $(VENV)/.installed
	@scripts/build_ollama.sh

# Without Go or a way to its modules the tier says why it is skipped; a build that fails for another reason fails here.
test-ollama: setup
	@scripts/build_ollama.sh || [ $$? = 3 ]
	$(BIN)/pytest -m ollama

test-helm: $(VENV)/.installed
	@tests/helm/install.sh
	$(BIN)/pytest tests/helm/check_chart.py

# The image by buildah and podman, which are installed by apt-get where they are missing, and docker-compose.yml by Docker Compose.
test-image: $(VENV)/.installed compiler
	@tests/image/install.sh
	$(BIN)/pytest tests/image/check_compose.py tests/image/check_image.py

# A real Slurm from Debian's packages, unpacked and not installed.
test-slurm: setup compiler
	@tests/slurm/install.sh
	$(BIN)/pytest tests/slurm/check_slurm.py

# All that the tiers compile, some 15 minutes of two cores.
builds: $(VENV)/.installed
	@scripts/build_ollama.sh || [ $$? = 3 ]
	@tests/stores/install.sh
	@tests/image/install.sh

# Packages of the image with their hashes; needs uv.
LOCK := uv pip compile --quiet --generate-hashes --universal --python-version 3.12 --no-header --no-annotate --no-emit-index-url --upgrade
lock:
	$(LOCK) --extra proxy --extra basic-auth -o exporter/requirements.lock pyproject.toml
	grep -o '"hatchling==[^"]*"' pyproject.toml | tr -d '"' | $(LOCK) -o exporter/build.lock -

# Without Go or a way to its modules the tier says why it is skipped.
test-stores: programs compiler
	@tests/stores/install.sh
	$(BIN)/pytest tests/stores/check_stores.py

VALUES ?= deploy/helm/joulebench/values.yaml
IMAGE ?= joulebench
manifests: $(VENV)/.installed
	@tests/helm/install.sh
	@mkdir -p dist
	.build/helm/helm template joulebench deploy/helm/joulebench --namespace metering -f $(VALUES) --set image.repository=$(IMAGE) > dist/joulebench.yaml
	@echo "wrote dist/joulebench.yaml"

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed
	$(BIN)/python scripts/render_metrics_doc.py
	$(BIN)/python scripts/render_results_doc.py
	$(BIN)/python scripts/render_cards_doc.py
	$(BIN)/python scripts/build_dashboards.py

bench: setup compiler
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) .build
