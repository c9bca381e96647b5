# make demo: installs everything and computes a real study. make test: the tests of every rule; make test-all: also all
# combinations. Needs only Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# Modules are compiled on first import: most are never imported, and compiling them all takes half of the install time.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Otherwise every process compiles them again where an image turns bytecode off.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-all check audit lock format generated gallery vendor bench bench-gpu test-gpu ui clean

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Prunescope needs Python >= 3.11; run make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@# Three packages come as source only. setuptools, which builds them, is installed first, also from the lock.
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > .venv/setuptools.lock
	$(INSTALL) --require-hashes --no-deps -r .venv/setuptools.lock
	$(INSTALL) --require-hashes --no-deps --no-build-isolation -r requirements.lock
	@# This installs the one missing package, torch, whose builds differ by machine.
	$(INSTALL) --no-build-isolation -e .
	@touch $(READY)

# Triton interprets and compiles the kernels of GPUs in tests, from a folder of its own: beside torch it would be imported
# by every process. Its wheels, of 300 MB, are for Linux; a CUDA build of torch has it already.
TRITON := $(if $(filter Linux-x86_64 Linux-aarch64,$(shell uname -sm | tr ' ' -)),.venv/triton/ready)
.venv/triton/ready: tests/triton.lock $(READY)
	$(BIN)/python -c 'import triton' 2>/dev/null || $(INSTALL) --require-hashes --no-deps --upgrade --target .venv/triton -r tests/triton.lock
	@mkdir -p .venv/triton && touch $@

demo: $(READY)
	$(BIN)/prunescope run demo

# `logical`: one process more than there are cores (tests/conftest.py). The tests of a file stay together, because they
# share fixtures.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder

# The tests that prove every rule. If a system package is missing, a skipped test says how to install it.
test: $(READY) $(TRITON)
	$(PYTEST) -m "not exhaustive"

test-all: $(READY) $(TRITON)
	$(PYTEST)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --processes 2 sql
	$(BIN)/python -m pytest --quiet tests/test_generated.py

# Known vulnerabilities of the locked packages. Fails with a message where the advisory database cannot be reached.
audit: $(READY)
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock --requirement tests/triton.lock

# Keeps the locked versions unless pyproject.toml requires others; needs uv (pip install uv).
lock:
	uv pip compile --quiet pyproject.toml --output-file requirements.lock
	uv pip compile --quiet --no-config --group triton --no-deps --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock" --output-file tests/triton.lock

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# All files that are derived from code alone. `make check` and the tests compare them with it.
generated: $(READY)
	$(BIN)/python -m tests.generated

# The figures in pipelines/reporting/charts/gallery, from the warehouse (run make demo first). `python -m tests.gallery`
# accepts several warehouses.
gallery: $(READY)
	$(BIN)/python -m tests.gallery

# Third-party scripts of the pages: Vega from vl-convert, and the packages in package.json; needs npm.
vendor: $(READY)
	$(BIN)/python -c "import vl_convert; print(vl_convert.javascript_bundle(), end='')" > pipelines/reporting/charts/vendor/vega.js
	cd pipelines/reporting/explorer/vendor && npm install --package-lock-only --ignore-scripts && npm ci --ignore-scripts && node collect.mjs && rm -rf node_modules

bench: demo
	$(BIN)/python -m tests.benchmarks.engine
	$(BIN)/python -m tests.benchmarks.texts
	$(BIN)/python -m tests.benchmarks.generation
	$(BIN)/python -m tests.benchmarks.tasks
	$(BIN)/python -m tests.benchmarks.pruning
	$(BIN)/python -m tests.benchmarks.orchestration
	$(BIN)/python -m tests.benchmarks.streaming
	$(BIN)/python -m tests.benchmarks.report warehouse/data
	$(BIN)/python -m tests.benchmarks.commands warehouse/data
	$(BIN)/python -m tests.benchmarks.warehouse 1e6 1e7 1e8

# Kernels, and a study, on a machine with an NVIDIA GPU beside its CPU; writes one JSON.
bench-gpu: $(READY)
	$(BIN)/python -m tests.benchmarks.gpu

# The pipelines on this machine's NVIDIA GPU instead of the test device: their tables are held against the CPU's.
test-gpu: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cuda tests/pipelines/test_on_cuda.py

ui: $(READY)
	$(BIN)/prunescope ui

clean:
	rm -rf .venv build dist
