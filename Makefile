# Two commands do all: `make demo` shows what this is, `make test` runs what CI runs. Both set themselves up.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint unit fuzz soak bench clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.test lint unit

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

fuzz: $(VENV)/.test
	$(BIN)/python -m pytest --hypothesis-profile=fuzz --timeout=0 tests/hostile/test_fuzz.py

soak: $(VENV)/.test
	$(BIN)/python -m tests.faults.soak $(SOAK_ARGS)

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

$(VENV)/.demo $(VENV)/.test $(VENV)/.bench: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(patsubst .%,%,$(notdir $@))]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
