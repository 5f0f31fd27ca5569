# Pigment: `make studio` opens the page, `make test` runs the suite. Both make .venv once; the second call
# starts in seconds. Another interpreter: `make studio PYTHON=python3.12`.

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p) 2>/dev/null)))
VENV   ?= .venv
ARGS   ?=
# Two workers of one thread each finish sooner than one worker of two threads: the models in the tests are
# too small to share among threads.
WORKERS ?= 2

BIN       := $(VENV)/bin
INSTALL   := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
INSTALLED := $(VENV)/.installed
TESTABLE  := $(VENV)/.testable
INPUTS    := pyproject.toml constraints.txt

.PHONY: studio test test-page test-build test-long test-faults bench-methods evidence lint audit demo conformance clean install
.DEFAULT_GOAL := studio

studio: $(INSTALLED)
	@$(BIN)/python app.py $(ARGS)

test: $(TESTABLE)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1 GRADIO_ANALYTICS_ENABLED=False \
		$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# The page in a real browser: some ten minutes, and so not within `make test`. .ci/run runs it first.
test-page: $(TESTABLE)
	PIGMENT_PAGE=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 GRADIO_ANALYTICS_ENABLED=False \
		$(BIN)/python -m pytest --timeout 1200 tests/e2e $(ARGS)

# The embedded base's recipe from nothing, taken up again, and trained on.
test-build: $(TESTABLE)
	PIGMENT_LONG=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --timeout 900 \
		tests/trainers/base/test_build.py $(ARGS)

# What takes gigabytes or minutes; the suite runs a shorter form of each.
test-long: $(TESTABLE)
	PIGMENT_LONG=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --timeout 1800 \
		tests/bench/test_loading_memory.py tests/studio/test_real_jobs.py tests/studio/test_commands.py $(ARGS)

# Every kind of harm in its full number, and again with each safeguard taken away: hours. The suite runs a short
# form; ARGS="kills access" some suites, ARGS="--share 0.1" a tenth.
test-faults: $(TESTABLE)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 GRADIO_ANALYTICS_ENABLED=False $(BIN)/python -m tests.faults $(ARGS)

# Every way to train, on the embedded base; ARGS="--methods lora dora --steps 20" for a part.
bench-methods: $(INSTALLED)
	@$(BIN)/pigment bench methods $(ARGS)

# Whether recommended steps are the best ones, and rules find what they are for; CI runs ARGS=--short.
evidence: $(TESTABLE)
	$(BIN)/pigment bench evidence $(ARGS)
	$(BIN)/pigment bench faults $(ARGS)

lint: $(TESTABLE)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

# Known security advisories against the pinned libraries: reported, never fatal. pip-audit has its own environment.
audit: | $(BIN)/python
	-@test -x $(VENV)/audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)/audit && \
		$(VENV)/audit/bin/python -m pip install --disable-pip-version-check --quiet "pip-audit>=2.9"; }
	-@$(VENV)/audit/bin/python .ci/advisories.py

demo: $(INSTALLED)
	@$(BIN)/pigment demo $(ARGS)

# Every form, family and method, loaded by other libraries; the suite walks a shorter table.
conformance: $(TESTABLE)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.bench.conformance $(ARGS)

install: $(INSTALLED)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no python3 found; install Python 3.11 or newer, or say PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is too old; Pigment needs Python 3.11 or newer: make studio PYTHON=/path/to/python" >&2; exit 2; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

# The stamp comes last, so that an interrupted install is taken up again.
$(INSTALLED): $(INPUTS) | $(BIN)/python
	@echo "installing Pigment into $(VENV) (once; a few minutes on a slow line)"
	@$(INSTALL) -e .
	@touch $@

$(TESTABLE): $(INSTALLED)
	@echo "installing what the tests need into $(VENV)"
	@$(INSTALL) -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
