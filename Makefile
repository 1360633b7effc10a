# Two commands for everybody: `make demo` and `make test`. Each makes its own virtual environment.
# For developers: `make check` (all that must pass but for the next), `make test-cloud` (real servers;
# needs npm), `make test-frameworks` (PyTorch and others), `make check-oldest`, `make bench`
# (arraystore beside its peers; `make bench-full`, `make bench-imagenet`, `make bench-remote`,
# `make bench-growth`, `make bench-train`), `make soak` (hostile input and damage, for long).

PYTHON ?= python3
VENV ?= .venv
TRAIN_VENV ?= .venv-train
BIN = $(VENV)/bin
# On two cores the tests take half the time in two processes.
TEST_PROCESSES ?= 2
# Tests and benchmarks start many interpreters; compiling the sources again takes each half a second.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-cloud test-frameworks check lint types check-oldest soak clean
.PHONY: bench bench-full bench-imagenet bench-remote bench-growth bench-train

demo: $(VENV)/.core
	$(BIN)/arraystore demo demo

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES)

# SeaweedFS, Azurite, fake-gcs-server and rclone, each a process of its own on loopback.
test-cloud: $(VENV)/.test-cloud .node/.azurite
	$(BIN)/python -m pytest tests/cloud

# PyTorch, Lightning, grain, JAX and TensorFlow. Pass TORCH to choose a build without CUDA.
test-frameworks: .venv-frameworks/.test
	.venv-frameworks/bin/python -m pytest tests/frameworks

check: lint types test

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

# The oldest versions that pyproject.toml allows, on the oldest Python.
check-oldest: .venv-oldest/.test
	.venv-oldest/bin/python -m pytest --numprocesses $(TEST_PROCESSES)

ROUNDS ?= 3

# All formats side by side, from 1 GB of drawn images; takes 15 GB of disk. docs/benchmarks.md
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.suite benchmarks/data/small --json benchmarks/data/small.json $(BENCH)

# The same from 5 GB; takes 75 GB of disk, or less with BENCH="--peers arraystore lmdb".
bench-full: $(VENV)/.bench
	$(BIN)/python -m benchmarks.suite benchmarks/data/full --size full --rounds $(ROUNDS) \
		--json benchmarks/data/full.json $(BENCH)

# Conversion of archives of the true size (7 GB), which are made first, and kept for the next time.
SUBSET_LIST ?= $(error give SUBSET_LIST=path/to/1percent.txt)
bench-imagenet: $(VENV)/.test benchmarks/data/ILSVRC2012_img_val.tar
	$(BIN)/python -m benchmarks.bench_convert benchmarks/data --subset-list $(SUBSET_LIST) \
		--rounds $(ROUNDS) --verify

# Reading from a bucket, against other readers, at 0 and 30 ms a request.
bench-remote: $(VENV)/.test-cloud $(VENV)/.bench
	$(BIN)/python -m benchmarks.bench_remote benchmarks/data/remote --rounds $(ROUNDS)

# Batches for training beside other loaders. PyTorch alone takes 5.5 GB of disk. FFCV is measured if
# it is installed in the same environment: it is built from source, and needs OpenCV and TurboJPEG.
bench-train: $(TRAIN_VENV)/.bench-train
	$(TRAIN_VENV)/bin/python -m benchmarks.bench_train benchmarks/data/train --rounds $(ROUNDS) $(BENCH)

# At 10^4, 10^6 and 10^8 samples. The stores (4 GB) are made first, in about five minutes, and kept.
bench-growth: $(VENV)/.bench
	$(BIN)/python -m benchmarks.bench_growth benchmarks/data --plot docs/growth.png

# A round takes about a minute, 200 rounds of kills five; status 1 if anything was lost or wrong.
# The tests run once more, with every value of a parameter in both containers, more examples and all
# damages.
SOAK_ROUNDS ?= 10
KILL_ROUNDS ?= 200
soak: $(VENV)/.test
	$(BIN)/python -m scripts.soak --rounds $(SOAK_ROUNDS)
	ARRAYSTORE_SOAK=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES)
	$(BIN)/python -m benchmarks.kills --rounds $(KILL_ROUNDS)

benchmarks/data/ILSVRC2012_img_val.tar: | $(VENV)/.test
	$(BIN)/python -m benchmarks.imagenet_archives benchmarks/data --subset-list $(SUBSET_LIST)

$(VENV)/.core: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

$(VENV)/.test-cloud: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,test-cloud]'
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,bench]'
	touch $@

$(TRAIN_VENV)/.bench-train: pyproject.toml
	$(PYTHON) -m venv $(TRAIN_VENV)
	$(TRAIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		'tensorflow-cpu>=2.20,<3'
	$(TRAIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[opencv,bench-train,test-cloud]'
	touch $@

.node/.azurite: Makefile
	npm install --silent --prefix .node --no-audit --no-fund --ignore-scripts 'azurite@^3.35'
	touch $@

# TensorFlow comes first: the second line replaces its h5py, which reports a conflict, by a newer one.
TORCH ?= torch
.venv-frameworks/.test: pyproject.toml
	$(PYTHON) -m venv .venv-frameworks
	.venv-frameworks/bin/python -m pip install --quiet --disable-pip-version-check \
		'tensorflow-cpu>=2.20,<3'
	.venv-frameworks/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[test-frameworks]' '$(TORCH)'
	touch $@

.venv-oldest/.test: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python \
		--resolution lowest-direct --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-frameworks .venv-train .node demo benchmarks/data
