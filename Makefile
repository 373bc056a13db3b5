# Each target stands alone on a fresh machine with Python 3.11 or later: it makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help venv demo test torture slow laws lint parity tour matrix bench clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

venv: $(STAMP)  ## make .venv with ft_jax and everything it needs

demo: $(STAMP)  ## fine-tune MiniLM for sentiment by a composition of methods and write the report
	$(BIN)/python -m experiments.demo

test: $(STAMP) lint  ## run the tests in under 20 minutes: of those that take long, what changed and a share in turn
	$(BIN)/pytest -n 2 --dist loadscope --in-turn

torture: $(STAMP)  ## kill runs, malform inputs and flip bits by the hundreds; the counts go to docs/results
	cd tests && JAX_PLATFORMS=cpu PYTHONPATH=$(CURDIR) ../$(BIN)/python -m faults.torture $(ARGS)

slow: $(STAMP)  ## run every test, the slow ones too, and measure which of them take long
	$(BIN)/pytest -m slow
	$(BIN)/pytest -n 2 --dist loadscope --measure

laws: $(STAMP)  ## run every law by itself over every method as it is now, where it has not, and many triples
	$(BIN)/pytest -n 2 -m laws --unseen

lint: $(STAMP)  ## check style and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

parity: $(STAMP)  ## record every reference again with live libraries (installs torch) and compare
	$(PYTHON) -m venv $(VENV)-parity
	$(VENV)-parity/bin/pip install --quiet --disable-pip-version-check 'torch==2.13.0' transformers peft trl sentence-transformers -e '.[tfds]'
	JAX_PLATFORMS=cpu $(VENV)-parity/bin/python tests/golden/parity.py

tour: $(STAMP)  ## run one experiment per family on real data, check the outcomes and write one report
	$(BIN)/python -m experiments.tour

matrix: $(STAMP)  ## train every pair of methods that has changed since it was recorded; draw docs/matrix.svg
	JAX_PLATFORMS=cpu $(BIN)/python -m ft_jax.testing.matrix $(ARGS)

bench: $(STAMP)  ## run benchmarks: make bench ARGS="throughput --size minilm"; alone it lists them
	$(BIN)/ft-jax bench $(ARGS)

clean:  ## remove the virtual environments and runs
	rm -rf $(VENV) $(VENV)-parity runs build *.egg-info
