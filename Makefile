# The commands of the README. `make` alone lists them.
#
#   PYTHON         the interpreter that the environment is made with (default python3; 3.11 or newer, as the pinned set needs it)
#   VENV           where the environment lies (default .venv)
#   TORCH_OPTIONS  further options of pip for torch, for example another index

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
TORCH_OPTIONS ?=
STAMP := $(VENV)/.complete

# The environment's programs come first (DVC's stages call `python`). Nothing is fetched from a model hub, and every
# process computes on one thread, so that results do not depend on how many cores there are.
CALLER_PATH := $(PATH)
export PATH := $(abspath $(VENV))/bin:$(PATH)
export HF_HUB_OFFLINE := 1
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false
export MPLBACKEND := Agg
export PYTHONHASHSEED := 0
unexport PYTHONHOME PYTHONPATH

.PHONY: help reproduce full study designs paper test bench bench-gpu bench-negatives keywords lab export check-export clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# An installation that was killed half-way left `.installing` behind and is begun afresh; one that is only out of date is
# brought up to date in place. The interpreter is looked up outside the environment, which may be about to be removed.
$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@base=$$(PATH="$(CALLER_PATH)" "$(PYTHON)" -c 'import sys; assert sys.version_info >= (3, 11); print(sys._base_executable)' 2>/dev/null) || \
		{ echo "the pinned set (constraints.txt) needs Python 3.11 or newer, and '$(PYTHON)' is none; name one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }; \
	"$$base" -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$$base cannot make environments; install its venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }; \
	if [ -f "$(VENV)/.installing" ] || ! "$(VENV)/bin/python" -m pip --version >/dev/null 2>&1; then "$$base" -m venv --clear "$(VENV)"; fi
	@echo "installing the environment into $(VENV) (two to four minutes, once)"
	@touch "$(VENV)/.installing"
	@"$(VENV)/bin/python" -m pip install -qq --disable-pip-version-check -c constraints.txt $(TORCH_OPTIONS) torch
	@"$(VENV)/bin/python" -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@mv "$(VENV)/.installing" "$@"

# The stages behind Table 1 and the figures beside it. The report shows the other tables as they were committed; `make full`
# computes those too.
HEADLINE := scores figure1 entropy curves code

reproduce: $(STAMP)  ## environment, data, the headline's stages; then its table and where the figures and the report are (30 minutes)
	dvc pull --quiet data.dvc
	dvc repro $(HEADLINE)
	dvc repro --single-item report
	@echo; cat results/table1.md; echo
	@find results -type f \( -name '*.png' -o -name '*.pdf' -o -name '*.html' \) | LC_ALL=C sort

full: $(STAMP)  ## the whole reproduction, every table and figure: what plain `dvc repro` does (an hour on 2 cores)
	dvc pull --quiet data.dvc
	dvc repro
	@echo; cat results/verdict.md; echo
	@find results -type f \( -name '*.png' -o -name '*.pdf' -o -name '*.html' \) | LC_ALL=C sort

designs: $(STAMP)  ## when does the image term matter: five kinds of data on fresh bases, into results/designs.* (40 minutes on 2 cores)
	dvc pull --quiet data.dvc
	dvc repro studies/designs/dvc.yaml
	@cat results/designs.md

study: $(STAMP)  ## does it help to balance text and image: fresh bases and seeds, into results/balance.* (40 minutes on 2 cores)
	dvc pull --quiet data.dvc
	dvc repro studies/balance/dvc.yaml
	@cat results/balance.md

paper: $(STAMP)  ## the paper's size: a given model, published preferences, photographs; settings in studies/paper/params.yaml (a GPU, days)
	dvc repro studies/paper/dvc.yaml
	@cat results/paper/table1.md results/paper/benchmarks.md results/paper/verdict.md

test: check-export  ## environment, export check; then all notebooks and tests
	python -m pytest -n 2 --dist loadfile

bench: $(STAMP)  ## time and memory of a training step on this machine, into results/benchmark.* (12 minutes on 2 cores, 12 GB)
	python tools/run_stage.py nbs/experiments/benchmark.ipynb build/executed/benchmark.ipynb
	@cat results/benchmark.md

bench-gpu: $(STAMP)  ## the same on a GPU at LLaVA-1.5-7B's true shape: pairs a second, memory, MFU, largest batch
	python tools/run_stage.py nbs/experiments/benchmark.ipynb build/executed/benchmark-gpu.ipynb -p device cuda -p size llava-1.5-7b \
		-p shapes '[{"image_side": 24, "answer": 120, "variants": "all"}]' -p batch 2 -p rounds 3 -p capacity_limit 64 -p out results/benchmark-gpu
	@cat results/benchmark-gpu.md

bench-negatives: $(STAMP)  ## rows a second a core beside decoding and encoding alone, and memory, into results/throughput.* (10 minutes)
	python tools/run_stage.py nbs/experiments/throughput.ipynb build/executed/throughput.ipynb
	@cat results/throughput.md

keywords: $(STAMP)  ## keywords against plain counting on real answers, into results/keywords.* (5 minutes; MFPO_BENCHMARKS names POPE's folder)
	python tools/run_stage.py nbs/experiments/keywords.ipynb build/executed/keywords.ipynb
	@cat results/keywords.md

lab: $(STAMP)  ## open the notebooks in JupyterLab
	jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) nbs

export: $(STAMP)  ## after editing notebooks: clean them, write mfpo/, tests/ and README.md from them
	nbdev_clean
	nbdev_export
	python tools/export_tests.py
	python tools/make_readme.py

# `git add` is enough to pass: what is compared is the index.
check-export: $(STAMP)
	nbdev_export
	python tools/export_tests.py
	python tools/make_readme.py
	@if ! git rev-parse --is-inside-work-tree >/dev/null 2>&1; then echo "not a git checkout: export not compared"; exit 0; fi; \
	git diff --exit-code --stat -- mfpo tests README.md || \
		{ echo "The files above were not what the notebooks export. They are now: look at them, 'git add' them, run again." >&2; exit 1; }; \
	new=$$(git ls-files --others --exclude-standard -- mfpo tests README.md); \
	if [ -n "$$new" ]; then echo "Not in git yet: 'git add' them, or remove them if their notebook is gone:" $$new >&2; exit 1; fi

clean:  ## remove what running leaves behind (kept: the environment, DVC's cache, results)
	rm -rf build dist _docs _proc .pytest_cache
	find . \( -path "./$(VENV)" -o -path ./.git -o -path ./.dvc \) -prune -o \
		-type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -print0 | xargs -0 -r rm -rf
	@echo "also removable: $(VENV) (make test remakes it), .dvc/cache (make reproduce recomputes everything)"
