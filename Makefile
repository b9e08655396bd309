# Every goal makes the .venv that it works in.  PYTHON picks the interpreter it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Bytecode is kept also where the environment says otherwise: the tests alone start hundreds of processes.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test check bench bench-lab bench-peers bench-smoke conformance interop clean

demo: $(STAMP)
	$(BIN)/iser demo

test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadgroup

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Ten minutes on the embedded RNIC, in two processes; writes docs/benchmarks/.  Leave the machine alone meanwhile.
BENCH := docs/benchmarks
BENCH_SECONDS := 480
bench: $(STAMP)
	$(BIN)/iser bench mr --output $(BENCH)/mr.json
	$(BIN)/iser bench unaligned --embedded --time $(BENCH_SECONDS) --repeats 15 --output $(BENCH)/result.json --report $(BENCH)

# Against tgt and plain sockets, growth and fairness: ten minutes; writes docs/performance.md and docs/benchmarks/.
# Installs tgt and libiscsi-bin, as root.  Leave the machine alone meanwhile.
bench-peers: $(STAMP)
	$(BIN)/python -m tests.benchmark

# A minute of it: fails if a row is less than half as good as the committed one.
bench-smoke: $(STAMP)
	$(BIN)/python -m tests.benchmark --smoke

# Our target against tgt on rxe, with the kernel's initiator, in a virtual machine: three minutes; writes
# docs/benchmarks/peers-lab.json, which bench-peers puts into its table.  Needs root.
bench-lab: $(STAMP)
	$(BIN)/python -m tests.interop.rxe_benchmark

# libiscsi's tests on our target over TCP, a minute; writes docs/conformance.md.  Needs Debian's libiscsi-bin.
conformance: $(STAMP)
	$(BIN)/python -m tests.conformance

# Against LIO, tgt, the kernel's initiator and others, in a virtual machine; writes docs/interop.md.  Needs root.
interop: $(STAMP)
	$(BIN)/python -m tests.interop

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "installing python3-venv (missing on this machine)"; \
	    $$(test "$$(id -u)" = 0 || echo sudo) sh -c 'apt-get update -qq && apt-get install -y -qq python3-venv'; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e '.[dev,bench]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
