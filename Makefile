# Two commands on a fresh machine with Python 3.11, make and a C compiler: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := toolchains/constraints-py311.txt
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-arm test-full bench bench-arm check clean

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[test]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/edgellm build --target android-arm64 --out build/demo
	$(BIN)/edgellm run build/demo "The lighthouse keeper climbs the stairs every evening."
	$(BIN)/edgellm bench build/demo --tokens 16,128

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not full and not arm" --durations 25 --durations-min 5

# Emulated Arm CPUs: a real model on two of them. Needs a cross compiler, which is installed where root may do so.
test-arm: $(VENV)/.installed
	toolchains/emulator/ensure-compiler
	$(BIN)/edgellm device setup emulator
	$(BIN)/python -m pytest -m "arm and not full"

test-full: $(VENV)/.installed
	toolchains/emulator/ensure-compiler
	$(BIN)/edgellm device setup emulator
	$(BIN)/python -m pytest

bench: $(VENV)/.installed
	$(BIN)/python -m tests.figures

bench-arm: $(VENV)/.installed
	$(BIN)/python -m tests.figures.arm
	$(BIN)/python -m tests.figures.runner

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build
