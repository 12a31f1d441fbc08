# Everything a developer or a build server runs. `make` lists it.
#
#   make PYTHON=python3.12 test       another interpreter for the virtual environment
#   make VENV=/path/to/venv test      the virtual environment elsewhere
#   make DENOISE_EXT_CUDA=0 build     settings of setup.py are passed on (see there)
#
# pip takes packages from wherever its own configuration says; versions are in constraints.txt.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
BENCH_ARGS ?=
MINUTES ?= 5
SEED ?=
ONLY ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILT := $(VENV)/.built
SETTINGS := $(VENV)/.settings
BENCH := $(VENV)/.bench
DOCS := $(VENV)/.docs

NATIVE_FILES := $(shell find csrc -name '*.h' -o -name '*.inl' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
NATIVE_TESTS := $(shell find tests benchmarks -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
BUILD_SETTINGS := CXX=$(CXX) CXXFLAGS=$(CXXFLAGS) DENOISE_EXT_CUDA=$(DENOISE_EXT_CUDA) \
	TORCH_CUDA_ARCH_LIST=$(TORCH_CUDA_ARCH_LIST) CUDA_HOME=$(CUDA_HOME)

# Tests start hundreds of programs: each would compile the package's modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv build demo test fuzz sanitize docs lint format bench cuda-report cuda-coverage wheel sdist clean distclean FORCE
.DELETE_ON_ERROR:

help:  ## what there is
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*  ## /  \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

venv: $(INSTALLED)  ## virtual environment with the pinned dependencies
build: $(BUILT)  ## venv, then the native library compiled and the package installed in place

demo: $(BUILT)  ## build, then denoise the bundled photograph
	$(BIN)/denoise-ext demo --overwrite

# A process per core and one more; PYTEST_ARGS comes last, so that "-n 0" there wins. numpy's threads wait by spinning,
# which takes the cores from the other processes.
test: $(BUILT)  ## build, then the whole test suite (PYTEST_ARGS="-k conv2d" for a part, --all for every variant)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup --benchmark-disable $(PYTEST_ARGS)

fuzz: $(BUILT)  ## build, then random cases of everything that reads from outside (MINUTES=30 SEED=1 ONLY=images)
	$(BIN)/python tests/fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

sanitize: $(BUILT)  ## operators' tests and fuzzers with AddressSanitizer and UBSan (MINUTES=30 SEED=1)
	$(BIN)/python tests/sanitize --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

bench: $(BUILT) $(BENCH)  ## build, install the competitors, then the CPU benchmarks (BENCH_ARGS="--only nets")
	$(BIN)/python benchmarks/cpu.py $(BENCH_ARGS)

docs: $(BUILT) $(DOCS)  ## build, install Sphinx, then the documentation site in build/docs
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . build/docs
	@echo "open build/docs/index.html"

cuda-report: $(INSTALLED)  ## registers, shared memory and instructions of every CUDA kernel (needs nvcc)
	@$(BIN)/python tests/support/cuda_report.py

cuda-coverage: $(BUILT)  ## lines of csrc/cuda that no emulated test runs (needs the toolkit's headers)
	$(BIN)/python tests/cuda_emulator/coverage.py

lint: $(INSTALLED)  ## check style and types: ruff, clang-format, mypy, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(NATIVE_FILES) $(NATIVE_TESTS)
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python tests/support/type_completeness.py

format: $(INSTALLED)  ## rewrite files to that style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE_FILES) $(NATIVE_TESTS)

# build/lib* keeps modules that have since been deleted or renamed, and they would get into the wheel.
wheel: $(INSTALLED)  ## dist/*.whl
	rm -rf build/lib* build/bdist*
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

sdist: $(INSTALLED)  ## dist/*.tar.gz
	$(BIN)/python -m build --sdist --no-isolation --outdir dist .

clean:  ## remove what was built, keep the virtual environment
	rm -rf build dist *.egg-info denoise_ext/_native*.so .pytest_cache .ruff_cache .mypy_cache .benchmarks
	rm -f $(BUILT)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove the virtual environment
	rm -rf $(VENV)

# One line for what a machine lacks, before anything is downloaded.
define CHECK_MACHINE
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: there is no $(PYTHON); install Python 3.11 or newer, or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $$($(PYTHON) --version) is too old, 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) lacks venv (on Debian and Ubuntu: apt-get install python3-venv)"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null || { \
	  echo "error: $(PYTHON) lacks Python.h (on Debian and Ubuntu: apt-get install python3-dev)"; exit 1; }
	@command -v $(firstword $(CXX)) >/dev/null || { \
	  echo "error: there is no C++ compiler $(firstword $(CXX)) (on Debian and Ubuntu: apt-get install g++)"; exit 1; }
endef

$(INSTALLED): constraints.txt
	$(CHECK_MACHINE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --requirement constraints.txt
	@touch $@

$(BENCH): $(INSTALLED) benchmarks/constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --requirement benchmarks/constraints.txt \
	  --constraint constraints.txt
	@touch $@

$(DOCS): $(INSTALLED) docs/constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --requirement docs/constraints.txt \
	  --constraint constraints.txt
	@touch $@

# An editable install: Python files are used where they lie, so only native and packaging files count.
$(BUILT): $(INSTALLED) $(SETTINGS) setup.py pyproject.toml $(NATIVE_FILES)
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

# Rewritten only when a setting changes, so that `make DENOISE_EXT_CUDA=0 build` rebuilds.
$(SETTINGS): $(INSTALLED) FORCE
	@echo '$(BUILD_SETTINGS)' | cmp -s - $@ || echo '$(BUILD_SETTINGS)' > $@
