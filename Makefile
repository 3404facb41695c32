# Each target does all its own set-up: a .venv here, then pip. Nothing else is needed but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
# With a busy core, spinning OpenMP threads make a small model's step up to 200 times slower.
export OMP_WAIT_POLICY := PASSIVE
# pip spends a third of its CPU time on compiling every module there is; so what is imported is compiled then, and kept.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo mulcon-demo tour notebooks test clean lint pictures bench bench-gpu
.PHONY: test-slow test-gpu test-minimum test-upstream fuzz soak audit

help:  # what there is, in the groups below
	@awk -F ':.*## ' '/^##@ / {print substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch and torchvision must come from one index in one command, or torchvision does not import.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	@touch $@

##@ For users
demo: .venv/installed  ## generate pictures, train a small model, test it: a few minutes on two CPU cores
	$(BIN)/mlcl fit --config configs/demo.yaml

mulcon-demo: .venv/installed  ## both stages of MulCon on generated pictures, with smaller layers
	$(BIN)/mlcl fit --config configs/demo.yaml --config configs/methods/mulcon_stage1.yaml \
		--model.network.head.dim 128 --model.lr_mult "{head: 0.2}" --trainer.max_epochs 8
	$(BIN)/mlcl fit --config configs/demo.yaml --config configs/methods/mulcon.yaml \
		--model.network.head.dim 128 --model.embedding_loss.projection 64 --trainer.max_epochs 4 \
		--model.init_from runs/demo_mulcon_stage1

# A command, and how long it took.
step = @echo; echo "$$ mlcl $(1)"; bash -c 'TIMEFORMAT="[%0R s]"; time $(BIN)/mlcl $(1)'
TOUR := runs/tour_bce/version_0/checkpoints

tour: .venv/installed  ## every command once, and two methods compared: ten minutes on two CPU cores
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
notebooks: .venv/installed  ## execute all notebooks and print how long each takes
	$(BIN)/python tests/support/run_notebooks.py notebooks/*.ipynb

# On two cores: a third worker computes while the others wait for processes and servers, 424 s in place of 464 (one run each).
test: .venv/installed  ## the test suite, without GPU and long trainings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 3 --dist loadfile --no-loadscope-reorder

clean:  ## remove the environment and all caches; runs/ and data/ stay
	rm -rf .venv .venv-audit .venv-minimum build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ For maintainers
lint: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mlcl

test-slow: .venv/installed  ## tests that train for minutes on real pictures, if there are any
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -m slow --timeout 3600

test-gpu: .venv/installed  ## tests that need CUDA
	$(BIN)/python -m pytest -q -m gpu --timeout 3600

# Old packages beside new ones warn of each other; matplotlib 3.8 logs those of pyparsing, below pytest's summary.
test-minimum:  ## the suite on the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv-minimum
	$(PYTHON) tests/support/minimum.py > .venv-minimum/constraints.txt
	.venv-minimum/bin/python -m pip install --quiet --no-compile --constraint .venv-minimum/constraints.txt --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-minimum/bin/python -m pytest -q -W default -W ignore::DeprecationWarning --disable-warnings --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-upstream: .venv/installed  ## tests of the dependencies' faults and private parts that we rely on
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m upstream

fuzz: .venv/installed  ## ten minutes of broken pictures, annotations, tables and configs
	$(BIN)/python tests/stress/fuzz.py --seconds 600

soak: .venv/installed  ## two hours of training in two processes, to see whether memory grows
	OMP_NUM_THREADS=1 $(BIN)/python tests/stress/soak.py --minutes 120 --output runs/soak.svg

audit: .venv/installed  ## known vulnerabilities of the installed packages; asks PyPI
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --path $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")

pictures: .venv/installed  ## draw docs/pictures from two trainings of the demo: ten minutes on two CPU cores
	$(BIN)/python docs/make_pictures.py

# A heading, then a benchmark; one thread wobbles least. A training step takes all cores, as a user's does.
benchmark = @echo; echo "== $(1)"; $(2) $(BIN)/python tests/benchmarks/$(1).py

bench: .venv/installed  ## speed as ratios to reference code: an hour on two CPU cores
	$(call benchmark,startup)
	$(call benchmark,pipeline,OMP_NUM_THREADS=1)
	$(call benchmark,losses,OMP_NUM_THREADS=1)
	$(call benchmark,heads,OMP_NUM_THREADS=1)
	$(call benchmark,step)
	$(call benchmark,features)
	$(call benchmark,packing,OMP_NUM_THREADS=1)
	$(call benchmark,coverage,OMP_NUM_THREADS=1)
	$(call benchmark,localise,OMP_NUM_THREADS=1)
	$(call benchmark,curve,OMP_NUM_THREADS=1)
	$(call benchmark,metrics,OMP_NUM_THREADS=1)
	$(call benchmark,stream,OMP_NUM_THREADS=1)

bench-gpu: .venv/installed  ## training steps on CUDA: throughput, memory, compiling, DDP
	$(call benchmark,gpu)
