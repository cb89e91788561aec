# setup: virtual environment; demo: train, evaluate, predict; docs: site; test and lint: what CI runs
# hostile: all bad inputs; mutation: what the tests notice
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo docs test hostile mutation lint

setup: .venv/installed

# torch goes first and alone: that way pip takes a CPU build where there is one, and nothing pulls in CUDA
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
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

test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q

# thousands of bad inputs, half an hour on two cores
hostile: setup
	PYTHONPATH=tests $(BIN)/python -m hostile.run --workers 2 --json runs/hostile.json
	PYTHONPATH=tests $(BIN)/python -m hostile.run --real 60

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell src benchmarks bundle configs docs examples *.md
	$(BIN)/mypy

# takes hours; what is known is kept, see docs/reliability.md
mutation: setup
	OMP_NUM_THREADS=1 nice $(BIN)/python benchmarks/mutation.py --journal runs/mutation/journal.jsonl
