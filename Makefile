# setup: virtual environment; demo: train, evaluate, predict; docs: site
# setup-dev: with all that tests need; test and lint: what CI runs; test-fast: without commands, browsers and trainings
# coverage: lines that these tests reach; hostile: all bad inputs; mutation: what the tests notice
# test-wheel: the built wheel alone, in an environment and a folder of its own
PYTHON ?= python3
BIN := .venv/bin
FAST := not (e2e or browser or cuda or slow)
COVERED := losses metrics transforms inference io

.PHONY: setup setup-dev demo docs test test-fast test-plain test-wheel coverage hostile mutation lint

setup: .venv/installed

# torch goes first and alone: that way pip takes a CPU build where there is one, and nothing pulls in CUDA
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt --editable .
	touch $@

setup-dev: .venv/installed-dev

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	rm -rf runs/demo
	$(BIN)/segbundle train --config configs/phantom.yaml --dataset_dir data_samples --output_dir runs/demo/training
	$(BIN)/segbundle evaluate --config configs/phantom.yaml --dataset_dir data_samples --data_list_key test \
		--ckpt_path runs/demo/training/model.pt --output_dir runs/demo
	$(BIN)/segbundle predict data_samples/imagesTs --config configs/phantom.yaml \
		--ckpt_path runs/demo/training/model.pt --output_dir runs/demo/predictions

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt --editable '.[docs]'
	touch $@

test: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q

test-fast: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q -m "$(FAST)"

# the same results without the code that depends on internals of PyTorch
test-plain: setup-dev
	SEGBUNDLE_ACCELERATION=off OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q -m "$(FAST)" --ignore tests/acceleration

test-wheel:
	rm -rf build/wheel && mkdir -p build/wheel/elsewhere
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	build/wheel/venv/bin/pip install --quiet -c constraints.txt torch==2.13.0
	build/wheel/venv/bin/pip install --quiet -c constraints.txt build/wheel/segbundle-*.whl
	cd build/wheel/elsewhere && PATH=$(CURDIR)/build/wheel/venv/bin:$$PATH sh -eux $(CURDIR)/tests/use_wheel.sh

coverage: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q -m "$(FAST)" $(foreach room,$(COVERED),--cov=src/segbundle/$(room)) \
		--cov-report=term-missing:skip-covered --cov-fail-under=95

# thousands of bad inputs, half an hour on two cores
hostile: setup-dev
	PYTHONPATH=tests $(BIN)/python -m hostile.run --workers 2 --json runs/hostile.json
	PYTHONPATH=tests $(BIN)/python -m hostile.run --real 60

lint: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell src benchmarks bundle configs docs examples *.md
	$(BIN)/mypy

# takes hours; what is known is kept, see docs/reliability.md
mutation: setup-dev
	OMP_NUM_THREADS=1 nice $(BIN)/python benchmarks/mutation.py --journal runs/mutation/journal.jsonl
