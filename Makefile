# Each target does all its own set-up: a .venv here, then pip. Nothing else is needed but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
# With a busy core, spinning OpenMP threads make a small model's step up to 200 times slower.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo mulcon-demo tour notebooks test test-slow test-gpu test-minimum test-upstream fuzz soak audit lint bench bench-gpu clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch and torchvision must come from one index in one command, or torchvision does not import.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: .venv/installed  ## generate pictures, train a small model, test it: a few minutes on two CPU cores
	$(BIN)/mlcl fit --config configs/demo.yaml

mulcon-demo: .venv/installed  ## both stages of MulCon on generated pictures, in a width for them
	$(BIN)/mlcl fit --config configs/demo.yaml --config configs/methods/mulcon_stage1.yaml \
		--model.network.head.dim 128 --model.lr_mult "{head: 0.2}" --trainer.max_epochs 8
	$(BIN)/mlcl fit --config configs/demo.yaml --config configs/methods/mulcon.yaml \
		--model.network.head.dim 128 --model.embedding_loss.projection 64 --trainer.max_epochs 4 \
		--model.init_from runs/demo_mulcon_stage1

# A command, and how long it took.
step = @echo; echo "$$ mlcl $(1)"; bash -c 'TIMEFORMAT="[%0R s]"; time $(BIN)/mlcl $(1)'
TOUR := runs/tour_bce/version_0/checkpoints

tour: .venv/installed  ## every verb once, two methods compared: ten minutes on two CPU cores
	rm -rf runs/tour runs/tour_bce runs/tour_asl
	$(call step,fit --config configs/demo.yaml --name tour_bce)
	$(call step,calibrate --ckpt_path runs/tour_bce)
	$(call step,test --ckpt_path $(TOUR)/calibrated.ckpt)
	$(call step,predict --ckpt_path $(TOUR)/calibrated.ckpt --images data/demo/val2014 --output runs/tour/predictions.csv)
	$(call step,export --ckpt_path $(TOUR)/calibrated.ckpt --format onnx --output runs/tour/model.onnx)
	$(call step,export --ckpt_path $(TOUR)/calibrated.ckpt --format torch_export --output runs/tour/model.pt2)
	$(BIN)/python tests/real/agreement.py $(TOUR)/calibrated.ckpt runs/tour/model.onnx runs/tour/model.pt2 data/demo/val2014
	$(call step,report runs/tour_bce/version_0/test_0)
	$(call step,fit --config configs/demo.yaml --config configs/methods/asl.yaml --name tour_asl)
	$(call step,compare runs/tour_bce runs/tour_asl --output runs/tour/compare)

# Warns of a notebook that takes more than 120 s; fails at a cell that takes 240 s, which a busy machine does not reach.
notebooks: .venv/installed  ## execute all notebooks, each in a fresh kernel, and say how long each takes
	$(BIN)/python tests/support/run_notebooks.py notebooks/*.ipynb

test: .venv/installed  ## every test that needs neither GPU nor minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: .venv/installed  ## minutes of training on real pictures, where they are there
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -m slow --timeout 3600

test-gpu: .venv/installed  ## what needs CUDA
	$(BIN)/python -m pytest -q -m gpu --timeout 3600

# Old packages beside new ones warn of each other; matplotlib 3.8 logs those of pyparsing, below pytest's summary.
test-minimum:  ## the suite on the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv-minimum
	$(PYTHON) tests/support/minimum.py > .venv-minimum/constraints.txt
	.venv-minimum/bin/python -m pip install --quiet --constraint .venv-minimum/constraints.txt --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-minimum/bin/python -m pytest -q -W default -W ignore::DeprecationWarning --disable-warnings --numprocesses 2 --dist loadfile --no-loadscope-reorder

fuzz: .venv/installed  ## broken pictures, annotations, tables and configs, for ten minutes
	$(BIN)/python tests/stress/fuzz.py --seconds 600

soak: .venv/installed  ## two hours of training in two processes: does anything grow?
	OMP_NUM_THREADS=1 $(BIN)/python tests/stress/soak.py --minutes 120 --output runs/soak.svg

audit: .venv/installed  ## known vulnerabilities of what is installed; asks PyPI
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --path $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")

test-upstream: .venv/installed  ## are the traps of our dependencies, which we work around, still there?
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m upstream

lint: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mlcl

# A heading, then a benchmark; one thread wobbles least. A training step takes all cores, as a user's does.
benchmark = @echo; echo "== $(1)"; $(2) $(BIN)/python tests/benchmarks/$(1).py

bench: .venv/installed  ## ratios against reference formulations, in one run: twenty minutes on two CPU cores
	$(call benchmark,startup)
	$(call benchmark,pipeline,OMP_NUM_THREADS=1)
	$(call benchmark,losses,OMP_NUM_THREADS=1)
	$(call benchmark,heads,OMP_NUM_THREADS=1)
	$(call benchmark,step)
	$(call benchmark,curve,OMP_NUM_THREADS=1)
	$(call benchmark,metrics,OMP_NUM_THREADS=1)

bench-gpu: .venv/installed  ## training steps on CUDA: throughput, memory, share of the peak, compiling, DDP
	$(call benchmark,gpu)

clean:  ## remove the environment and all caches; runs/ and data/ stay
	rm -rf .venv .venv-audit .venv-minimum build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
