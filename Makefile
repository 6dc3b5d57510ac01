# `make demo` and `make test` do all their set-up themselves; `make` alone lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The first Python >= 3.11 that can make virtual environments; else the first Python >= 3.11, which says what is missing.
CANDIDATES = python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3
PYTHON ?= $(shell for need in "import ensurepip" "pass"; do for p in $(CANDIDATES); do \
    $$p -c "import sys; assert sys.version_info >= (3, 11); $$need" >/dev/null 2>&1 && echo $$p && exit; done; done)
BIN := .venv/bin
SETUP_FROM := setup.py settings.ini pyproject.toml constraints.txt tools/setup_venv.py

# Two notebooks at a time, one thread each: threads that fight for cores are six times slower.
QUIET := OMP_NUM_THREADS=1 TQDM_MININTERVAL=10 PLOTLY_RENDERER=plotly_mimetype
# Threads that sleep while they wait: on a busy machine torch is eight times faster for it.
PATIENT := OMP_WAIT_POLICY=PASSIVE
TIMEOUT := $(shell command -v timeout >/dev/null && echo timeout)
LIMIT = $(if $(TIMEOUT),$(TIMEOUT) $(1))

.NOTPARALLEL:
.PHONY: python help demo test check notebooks lessons slides pytest experiments benchmark lab voila docs figures readme export clean-notebooks hooks dist clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1|/' | awk -F'|' '{printf "  make %-16s %s\n", $$1, $$2}'

python:
	@[ -n "$(PYTHON)" ] || { echo "No Python >= 3.11 found; run: sudo apt-get install -y python3 python3-venv" >&2; exit 1; }

.venv/.ready: $(SETUP_FROM) | python
	@$(PYTHON) tools/setup_venv.py
	@touch $@

.venv/.ready-%: $(SETUP_FROM) | python
	@$(PYTHON) tools/setup_venv.py $*
	@touch $@ .venv/.ready

demo: .venv/.ready  ## simulate an archive, run the main job on it, say where the report lies
	$(BIN)/max-nb simulate --cores 18 --per-core 30 --labels-per-core 8 --out demo/scans.parquet --labels demo/laboratory.csv
	$(PATIENT) $(BIN)/max-nb quantify demo/scans.parquet demo/laboratory.csv --targets CaCO3,TOC --out demo/report --quick
	@echo && echo "The report: file://$(CURDIR)/demo/report/report.html"

# All parts run even if one fails. tests/test_project.py includes what `make check` checks.
test: .venv/.ready-dev  ## every chapter and every test
	@failed=; for part in notebooks pytest; do $(MAKE) --no-print-directory $$part || failed="$$failed $$part"; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

check: .venv/.ready-dev  ## modules as exported, notebooks clean, README and lessons as rendered
	$(BIN)/python tools/export.py --check
	$(BIN)/python tools/clean_notebooks.py --check
	$(BIN)/python tools/readme.py --check
	$(BIN)/python tools/lessons.py --check

# All three run even if one fails: chapters, lessons as students get them, lessons with solutions (where a wrong one is an error).
notebooks: .venv/.ready-dev  ## run every chapter and every lesson as a test
	@failed=; for tree in nbs nbs/tutorials nbs/tutorials/solutions; do \
	[ $$tree = nbs/tutorials/solutions ] && strict=1 || strict=0; [ $$tree = nbs ] && quick=0 || quick=1; \
	$(QUIET) MAX_NB_QUICK=$$quick MAX_NB_STRICT=$$strict $(call LIMIT,1200) $(BIN)/nbdev_test --path $$tree --n_workers 2 --do_print --timing || failed="$$failed $$tree"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

pytest: .venv/.ready-dev  ## run tests/
	$(QUIET) $(call LIMIT,900) $(BIN)/python -m pytest --durations=10 tests

experiments: .venv/.ready  ## label efficiency, accuracy and transfer against all rivals: one table, three figures (about two hours; goes on where it stopped; needs ../shared/real)
	$(PATIENT) OMP_NUM_THREADS=1 $(BIN)/python experiments/evaluation.py --jobs 2
	@echo && echo "The table: $(CURDIR)/experiments/out/evaluation/evaluation.md; figures beside it"

benchmark: .venv/.ready  ## speed of reading and of simulating, and pre-training within a limit on memory (some minutes)
	$(BIN)/python benchmarks/read_speed.py
	$(BIN)/python benchmarks/streaming.py
	$(BIN)/python benchmarks/simulate_speed.py
	$(PATIENT) $(BIN)/python benchmarks/pretrain_speed.py

lab: .venv/.ready-lab  ## open JupyterLab on the chapters
	$(BIN)/jupyter lab --notebook-dir nbs

voila: .venv/.ready-lab  ## serve the downcore explorer as a page without code: make voila PREDICTIONS=results/predictions.csv SCANS=scans.parquet
	PREDICTIONS=$(if $(PREDICTIONS),$(abspath $(PREDICTIONS))) SCANS=$(if $(SCANS),$(abspath $(SCANS))) $(PATIENT) $(BIN)/voila nbs/apps/downcore.ipynb

docs: .venv/.ready-docs  ## the documentation site, in _docs/
	$(BIN)/python tools/docs.py

export: .venv/.ready-dev  ## write max_nb/ from the notebooks
	$(BIN)/python tools/export.py

clean-notebooks: .venv/.ready-dev  ## strip what does not belong into version control
	$(BIN)/python tools/clean_notebooks.py

lessons: .venv/.ready-dev  ## write the students' lessons from those with solutions
	$(BIN)/python tools/lessons.py

slides: .venv/.ready-dev  ## slides of the lessons, in _slides/
	$(BIN)/python tools/slides.py

readme: .venv/.ready-dev  ## write README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

figures: .venv/.ready-dev  ## run the chapters and keep their outputs, figures as PNG (needs Chromium)
	OMP_NUM_THREADS=1 $(BIN)/python tools/figures.py $(CHAPTERS)

hooks: .venv/.ready-dev  ## let git export, clean and render before each commit
	$(BIN)/python tools/install_hooks.py

dist: .venv/.ready-dev  ## sdist and wheel, checked
	rm -rf dist && $(BIN)/python -m build && $(BIN)/twine check --strict dist/*

.PHONY: try-wheel links colab
try-wheel: | python  ## build, install into a fresh environment with what a user gets, and use it there
	$(PYTHON) tools/try_wheel.py $(TRY)

links: | python  ## every link and heading of README, notebooks and pages (EXTERNAL=--external asks the web, too)
	$(PYTHON) tools/links.py $(EXTERNAL)

colab: | python  ## chapters and lessons in an environment like Colab's (half an hour, 6 GB)
	$(PYTHON) tools/colab_env.py $(NOTEBOOKS)

clean:  ## remove what make has made, the environment too
	rm -rf .venv build dist demo _docs _slides _proc *.egg-info .pytest_cache .hypothesis
	find max_nb nbs tests tools -name __pycache__ -prune -exec rm -rf {} +
