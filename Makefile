# One command is the truth: CI runs `make check`; a new user runs `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GPU_STAMP := $(VENV)/.installed-gpu-checks

.PHONY: run test check check-gpu-path lint types imports kernels clean help

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "inspectd needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[calibrate,dev]'
	touch $@

$(GPU_STAMP): $(STAMP)
	$(BIN)/python -m pip install --editable '.[gpu-checks]'
	touch $@

run: $(STAMP)  ## install, then calibrate and run the simulated capacitor line
	$(BIN)/inspectd demo

test: $(STAMP)  ## install, then run the tests
	$(BIN)/python -m pytest

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy strict
	$(BIN)/mypy

imports: $(STAMP)  ## who may import whom
	$(BIN)/lint-imports

check: lint types imports test  ## everything that CI checks

check-gpu-path: $(GPU_STAMP)  ## what CI checks of the GPU path, on a machine without a GPU: typed graphs, RTX ahead-of-time builds
	$(BIN)/python -m pytest -m gpu_path

kernels: $(STAMP)  ## compile the CUDA kernels for all GPUs, for the next wheel (needs nvcc, no GPU)
	$(BIN)/python tools/build_kernels.py

clean:  ## remove the virtual environment and what the demo made
	rm -rf $(VENV) demo work
