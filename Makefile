# make run: everything from a fresh clone to a report. Needs python3 (3.11 or newer) and make.
PYTHON ?= python3
STUDY ?= experiments/smoke.yaml
# another index for torch alone, e.g. one with builds for a processor only: make setup TORCH_INDEX=ADDRESS
TORCH_INDEX ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c requirements.lock

export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: run test check ui lab setup

run: .venv/ready
	$(BIN)/python scripts/run_all.py $(STUDY)

test: .venv/ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: .venv/ready-test
	$(BIN)/ruff check .

ui: .venv/ready
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db --host 127.0.0.1 --workers 1

lab: .venv/ready
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

setup: .venv/ready

# the stamps: installed once, and again when the pinned packages change
.venv/ready: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) torch --index-url $(TORCH_INDEX))
	$(PIP) -e '.[lab]'
	touch $@

.venv/ready-test: .venv/ready
	$(PIP) -e '.[lab,hf,lm-eval,test]'
	touch $@
