# `make demo` and `make test` set up .venv by themselves; when it is there and pyproject.toml and constraints.txt are
# unchanged, set-up takes no time.
PYTHON ?= python3
TESTERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all test-browser test-slurm check

demo: $(READY)
	$(BIN)/unsay demo

test: $(READY)
	$(BIN)/python -m pytest -m "not slow" -n $(TESTERS) --dist loadfile

test-all: $(READY)
	$(BIN)/python -m pytest

# Debian's browser where there is none yet; installing it wants root.
test-browser: $(READY)
	command -v chromium >/dev/null || apt-get install -y --no-install-recommends chromium
	$(BIN)/python -m pytest -m browser

# Debian's Slurm where there is none yet; installing it and starting it wants root.
test-slurm: $(READY)
	command -v slurmctld >/dev/null || apt-get install -y --no-install-recommends slurmctld slurmd munge slurm-client
	$(BIN)/python -m pytest -m slurm

check: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
