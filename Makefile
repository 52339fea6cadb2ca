# make demo   sets up .venv, trains on two Horovod ranks, exports, writes a report
# make test   sets up .venv, checks the style, runs the tests
# Both do only what is missing, so the second time is quick.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name))))
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
RANKS ?= 2

.PHONY: demo test lint torch setup clean

demo: setup
	sh tools/demo.sh $(RUN) $(RANKS)

test: setup lint
	$(BIN)/python -m pytest -q -rs -n 2 --dist loadfile $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Comparisons with PyTorch are skipped without it. Where pip offers CUDA builds only (several GB),
# give it an index of CPU builds: make torch PIP_ARGS="--index-url https://download.pytorch.org/whl/cpu"
torch: setup
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -e '.[torch]'

setup: $(VENV)/.installed $(VENV)/.horovod

$(VENV)/.installed: setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: no python3 on PATH" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "Python 3.11 or 3.12 is needed. Received: $$($(PYTHON) --version), $(PYTHON)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the package and what it needs into $(VENV) (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet -e '.[compression,test]'
	@touch $@

# Without a compiler the set-up goes on: training on one process works, Horovod's tests are skipped.
$(VENV)/.horovod: $(VENV)/.installed tools/install_horovod.py
	@$(BIN)/python tools/install_horovod.py; status=$$?; \
	  if [ $$status -eq 3 ]; then echo "going on without Horovod" >&2; \
	  elif [ $$status -ne 0 ]; then exit $$status; else touch $@; fi

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
