# `make demo` and `make test` need Python 3.11 or newer and make; they set up all else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all test-numeric test-network test-network-long lint types format coverage bench bench-quick clean

demo: $(READY)
	$(BIN)/fedkt compare benchmarks/demo.toml

test: $(READY)
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

# The conformance suite at level full: every law on every strategy.
test-all: $(READY)
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder --fedkt-level full

# What compares up to rounding, with the kernels of other processors and one and two threads.
test-numeric: $(READY)
	set -e; for aten in '' default avx2; do for dnn in '' AVX2; do for threads in 1 2; do \
		set -- $${aten:+ATEN_CPU_CAPABILITY=$$aten} $${dnn:+ONEDNN_MAX_CPU_ISA=$$dnn}; \
		echo "OMP_NUM_THREADS=$$threads $$*"; \
		env "$$@" OMP_NUM_THREADS=$$threads $(BIN)/pytest -q -m numeric -n auto --dist loadfile; \
	done; done; done

# Federations of real processes on this machine, over TLS; two at a time, because nodes often wait.
NETWORK := FEDKT_TEST_FEDERATIONS=2 $(BIN)/pytest -n 2 --dist loadfile \
	--no-loadscope-reorder tests/network

test-network: $(READY)
	$(NETWORK) -m "network and not network_long"

# Those that take minutes, too.
test-network-long: $(READY)
	$(NETWORK) -m "network or network_long"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Types are checked on the built wheel: only there do the four folders form one package.
types: $(READY)
	rm -rf build && mkdir -p build/types
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/types .
	$(BIN)/python -m pip install --quiet --no-deps --target build/types/site build/types/*.whl
	cd build/types && MYPYPATH=site ../../$(BIN)/mypy --config-file ../../pyproject.toml -p fedkt

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(READY)
	$(BIN)/pytest --cov --cov-report=term-missing:skip-covered

# About two hours and a half; nothing else should run meanwhile.
bench: $(READY)
	$(BIN)/python benchmarks/speed/run.py

# Small sizes, about two minutes; fails where a CPU ratio is 25 % worse than in quick.json, also
# when it is measured again. After a change that makes one faster, results.json is the new one.
bench-quick: $(READY)
	$(BIN)/python benchmarks/speed/run.py --quick --out runs/speed-quick \
		--check benchmarks/speed/quick.json

clean:
	rm -rf $(VENV) build

# constraints.txt pins what was tested.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedkt needs Python 3.11 or newer; try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@
