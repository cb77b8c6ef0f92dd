# make demo and make test need python3 (3.11 or newer) and nothing else: each makes what it lacks.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/mini

.PHONY: demo test test-slow test-plan lint clean

demo: $(VENV)/installed
	$(BIN)/python -m s1jax.distill --config=configs/mini.py --workdir=$(WORKDIR)
	$(BIN)/python -m s1jax.curate --config=configs/mini.py --workdir=$(WORKDIR)
	JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(BIN)/python -m s1jax.train --config=configs/mini.py \
		--workdir=$(WORKDIR) --config.data.path=$(WORKDIR)/curated.jsonl
	JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(BIN)/python -m s1jax.convert --from=$(WORKDIR) \
		--to=$(WORKDIR)/exported
	JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(BIN)/python -m s1jax.evaluate --config=configs/mini.py \
		--workdir=$(WORKDIR)
	@echo "training set: $(WORKDIR)/curated.jsonl    its card: $(WORKDIR)/README.md    funnel: $(WORKDIR)/funnel.png"
	@echo "fine-tuned model: $(WORKDIR)/exported    loss: $(WORKDIR)/loss.png    log: $(WORKDIR)/metrics.jsonl"
	@echo "evaluation: $(WORKDIR)/report.md    scaling: $(WORKDIR)/scaling.png    samples: $(WORKDIR)/samples.html"
	@echo "ask it: $(BIN)/python -m s1jax.generate --config=configs/mini.py --model=$(WORKDIR)"

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

# With XLA's compilers for machines that are not here, in an environment of its own: JAX tells on
# every start that the CUDA plugin found no GPU.
test-plan:
	$(PYTHON) -m venv .venv-plan
	.venv-plan/bin/python -m pip install --quiet --editable '.[dev,plan-gpu]'
	.venv-plan/bin/python -m pytest -m '' tests/test_plan.py tests/test_flops.py \
		tests/test_collectives.py tests/test_kernels.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(VENV)/installed $@

clean:
	rm -rf $(VENV) .venv-plan runs
