# make run: everything from a fresh clone to a report. Needs python3 (3.11 or newer) and make.
PYTHON ?= python3
STUDY ?= experiments/smoke.yaml
# another index for torch alone, e.g. one with builds for a processor only: make setup TORCH_INDEX=ADDRESS
TORCH_INDEX ?=
# of the MLflow UI
PORT ?= 5000
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c requirements.lock

export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: run test check ui lab docs vllm setup

run: .venv/ready
	$(BIN)/python scripts/run_all.py $(STUDY)

test: .venv/ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3

check: .venv/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

ui: .venv/ready
	@$(BIN)/python -m nanolab ui --port $(PORT)

lab: .venv/ready
	@$(BIN)/python -m nanolab lab

# the API reference, from the docstrings
docs: .venv/ready-docs
	$(BIN)/python -W ignore -m pdoc -o build/api nanolab '!nanolab.__main__' '!nanolab.export.lm_eval_adapter'

# vLLM's build for processors, as an engine for models from outside
vllm: .venv/ready-vllm

# also repairs an install that was interrupted or lost a package
setup:
	@rm -f .venv/ready
	@$(MAKE) --no-print-directory .venv/ready

# the stamps: installed once, and again when the pinned packages change
.venv/ready: pyproject.toml requirements.lock
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -c 'import sys; v = sys.version_info[:2]; v < (3, 11) and \
	    sys.exit("error: nanolab needs Python 3.11 or newer, $(PYTHON) is %d.%d: name a newer one, make PYTHON=python3.11" % v)'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(if $(TORCH_INDEX),$(PIP) torch --index-url $(TORCH_INDEX))
	$(PIP) -e '.[lab,hf]'
	touch $@

.venv/ready-test: .venv/ready
	$(PIP) -e '.[lab,hf,lm-eval,team,docs,test]'
	touch $@

.venv/ready-docs: .venv/ready
	$(PIP) -e '.[lab,docs]'
	touch $@

# no dependency is followed: they would replace torch, and bring packages for images and sound
.venv/ready-vllm: .venv/ready requirements-vllm.lock
	$(PIP) -e '.[hf]'
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -r requirements-vllm.lock
	touch $@
