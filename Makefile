# cellrt: make demo, make test. Each sets up what it needs in .venv; nothing outside this folder is written.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
# A failed download must not look like a build error, and pip's own update notice helps nobody.
PIP := $(BIN)/pip --disable-pip-version-check --quiet install --constraint constraints.txt
NATIVE := setup.py pyproject.toml $(wildcard csrc/include/*.h csrc/src/*.hpp csrc/src/*.cpp csrc/bindings/*)

.PHONY: demo test minimal lint format library sanitize bench build wheel clean help

help: ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# Build tools first: the package is built in place, without an isolated environment, so that rebuilds are quick.
$(STAMPS)/build: $(STAMPS)/venv constraints.txt $(NATIVE)
	$(PIP) setuptools cython pybind11
	$(PIP) --no-build-isolation --editable ".[cpu,io]"
	@touch $@

$(STAMPS)/demo: $(STAMPS)/build
	$(PIP) scikit-image
	@touch $@

$(STAMPS)/test: $(STAMPS)/demo
	$(PIP) torch cmake
	$(PIP) --no-build-isolation --editable ".[cpu,io,screen,export,train,test]" mypy ruff
	@touch $@

build: $(STAMPS)/build ## build the package in place

demo: $(STAMPS)/demo ## segment a real micrograph with a bundled model
	$(BIN)/python examples/demo.py

test: $(STAMPS)/test library sanitize ## run all tests, the C tests under sanitizers among them
	$(BIN)/python -m pytest

minimal: $(STAMPS)/build ## the quick tests that gate a wheel
	$(PIP) pytest
	$(BIN)/python -m pytest --noconftest tests/test_minimal.py

library: $(STAMPS)/test ## the C library and its tests, without Python
	$(BIN)/cmake -S csrc -B build/library -DCMAKE_BUILD_TYPE=Release
	$(BIN)/cmake --build build/library --parallel 2
	$(BIN)/ctest --test-dir build/library --output-on-failure

sanitize: $(STAMPS)/test ## the C tests under address and undefined-behaviour sanitizers
	$(BIN)/cmake -S csrc -B build/sanitize -DCMAKE_BUILD_TYPE=Debug -DCELLRT_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize --parallel 2
	$(BIN)/ctest --test-dir build/sanitize --output-on-failure

lint: $(STAMPS)/test ## ruff and strict mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMPS)/test ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMPS)/test ## compare with the originals, side by side (makes their environments: 6 GB)
	$(BIN)/python benchmarks/run.py

wheel: $(STAMPS)/venv ## build an sdist, and a wheel from it
	$(PIP) build
	$(BIN)/python -m build --outdir dist

clean: ## remove everything that make made
	rm -rf $(VENV) $(STAMPS) build dist demo runtime/*.egg-info runtime/cellrt/*.so csrc/bindings/_kernels.cpp
