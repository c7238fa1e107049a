# Everything that a fresh Debian machine with Python 3.11+, git and make needs. `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Some tests install packages (Slurm, Chromium) or mount a file system; they are skipped without this.
MAY_CHANGE := [ "$$(id -u)" != 0 ] || export STITCHING_TESTS_MAY_CHANGE_MACHINE=1
# A file's tests share what they have trained; the long files begin first (tests/conftest.py).
SPREAD := -n 2 --dist loadfile --no-loadscope-reorder
export PYTHONUNBUFFERED := 1

.PHONY: help install demo test test-slow coverage benchmarks lint slurm slurm-stop clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

install: $(INSTALLED)  ## make .venv with everything in it

$(INSTALLED): pyproject.toml
	@echo "Installing into .venv: PyTorch's CUDA build is about 5.7 GB, which takes a minute or more."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version); try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv >/dev/null 2>&1 || { \
	  echo "Debian keeps venv in a package of its own; installing python3-venv."; rm -rf .venv; \
	  { [ "$$(id -u)" = 0 ] || { echo "Run as root: apt-get install python3-venv"; exit 1; }; } && \
	  apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv .venv; }
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## stitch two small networks that know digits: a table, a figure and a report
	@rm -rf experiments/demo
	@echo "1/2  stitching a ResNet and a ViT that have learned scikit-learn's handwritten digits, in every direction"
	@$(BIN)/stitching submit across-scales/digits.yml --cluster local --pack 32 --jobs 2
	@echo "2/2  the results"
	@$(BIN)/stitching results experiments/demo/digits --figure experiments/demo/accuracy-by-gap.png
	@$(BIN)/stitching report experiments/demo/digits -o experiments/demo/report.html

lint: $(INSTALLED)  ## style, types, the order of the rooms, and how long files and functions may be
	@$(BIN)/ruff check stitching tests
	@$(BIN)/ruff format --check -q stitching tests
	@$(BIN)/mypy
	@$(BIN)/lint-imports >/dev/null || $(BIN)/lint-imports
	@$(BIN)/python tests/layout_limits.py

test: $(INSTALLED)  ## all tests but the slow ones; those on a real Slurm, which mostly wait, beside the others
	@export OMP_NUM_THREADS=1; $(MAY_CHANGE); log=$$(mktemp); forks=$$(mktemp -d); \
	export STITCHING_TESTS_FORK_SERVER=$$$$:$$forks; trap 'rm -rf $$forks' EXIT; \
	env --default-signal=INT $(BIN)/pytest -q -m "not slow" tests/slurm >$$log 2>&1 & on_slurm=$$!; \
	trap 'wait $$on_slurm; cat $$log; rm -f $$log; exit 130' INT; \
	$(BIN)/pytest -q -m "not slow" $(SPREAD) --ignore=tests/slurm; others=$$?; \
	echo "waiting for the tests on a real Slurm"; wait $$on_slurm; slurm=$$?; cat $$log; rm -f $$log; \
	[ $$others = 0 ] && [ $$slurm = 0 ]

test-slow: $(INSTALLED)  ## what is marked slow: every architecture family, and more kills
	@$(MAY_CHANGE); $(BIN)/pytest -q -m slow

coverage: $(INSTALLED)  ## which lines the tests of `make test` run, but for those that need a Slurm
	@export OMP_NUM_THREADS=1; $(MAY_CHANGE); $(BIN)/pytest -q -m "not slow" $(SPREAD) --ignore=tests/slurm \
	  --cov --cov-report=term:skip-covered

benchmarks: $(INSTALLED)  ## how long plan, submit, status and collect take for 10,000 runs
	@$(BIN)/pytest -q -m slow tests/benchmarks

slurm:  ## a real Slurm on this machine to play with (Debian, as root); then: source .slurm/environment
	@$(PYTHON) tests/slurm/cluster.py start .slurm

slurm-stop:  ## stop it
	@$(PYTHON) tests/slurm/cluster.py stop .slurm
	@rm -rf .slurm

clean:  ## remove what installing and running left
	rm -rf .venv .coverage .mypy_cache .pytest_cache .ruff_cache *.egg-info experiments/demo
