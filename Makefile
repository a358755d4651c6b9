# Everything happens in .venv/, made by the first target that needs it and renewed when what it was made from changes.
PYTHON = python3
BIN = .venv/bin
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

BUILT_FROM = pyproject.toml constraints.txt CMakeLists.txt $(wildcard cpp/*)
PARALLEL = -n auto --maxprocesses 8 --dist worksteal
# Bytecode is kept, whatever the shell says: the tests start hundreds of processes that import the package.
unexport PYTHONDONTWRITEBYTECODE
CHECKED = $(wildcard src tests examples benchmarks docs)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/dev.stamp ## Make .venv/ with the package (editable) and all that tests need

demo: .venv/core.stamp ## Watch trimtab treat a network that does not learn
	$(BIN)/trimtab treat examples/deep_sigmoid.py

test: lint ## Lint, check types, and run all tests
	$(BIN)/python -m pytest $(PARALLEL)

slow: .venv/dev.stamp ## The proofs that take long: every technique in every way on every kind of model
	$(BIN)/python -m pytest $(PARALLEL) -m slow tests

peers: .venv/dev.stamp ## Our modules and optimizers under all that torch tests of its own
	$(BIN)/python -m pytest $(PARALLEL) -m peers tests/peers

coverage: .venv/dev.stamp ## All tests with their coverage, which takes a third longer
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term-missing:skip-covered

lint: .venv/dev.stamp ## Only the checks that run nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell $(CHECKED) $(wildcard *.md)
	$(BIN)/mypy

bench: .venv/dev.stamp ## Run every benchmark in benchmarks/
	@set -e; for file in $(sort $(filter-out benchmarks/alone.py,$(wildcard benchmarks/*.py))); do echo "== $$file"; $(BIN)/python $$file; done

clean: ## Remove .venv/ and everything else that was made here
	rm -rf .venv build dist .coverage .coverage.* htmlcov .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .trimtab -type d -prune -exec rm -rf {} +

# torch comes first and alone, at the version of constraints.txt (which says why).
.venv/torch.stamp: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    f"trimtab needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)"
	@touch $@

# The package and what the examples need: enough for the demo.
.venv/core.stamp: .venv/torch.stamp $(BUILT_FROM)
	$(PIP_INSTALL) -e ".[examples]"
	@touch $@

# Contains core, so the demo has nothing left to install after it.
.venv/dev.stamp: .venv/torch.stamp $(BUILT_FROM)
	$(PIP_INSTALL) -e ".[dev]"
	@touch .venv/core.stamp $@

.PHONY: help install demo test slow peers coverage lint bench clean
.DEFAULT_GOAL = help
