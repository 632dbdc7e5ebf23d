PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python

.PHONY: install birds paper beliefs record record-paper record-cost record-beliefs record-prediction test test-slow check bench lock

install: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --require-hashes -r requirements.lock
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

birds: install            ## everything from a fresh clone to the page
	$(PY) -m bayesgen +exp=birds

paper: install            ## every published experiment, and runs/page/paper-*/report.html
	$(PY) -m bayesgen goal=paper

beliefs: install          ## the verdict over all sweeps in runs/sweep, and runs/page/beliefs-*/report.html
	$(PY) -m bayesgen goal=infer

record: install           ## put a result on its experiment's page: make record EXP=birds PAGE=runs/page/birds-91fecfc1
	cp $(PAGE)/result.md $(wildcard $(foreach f,effect_by_topic by_context by_rows meaning onset study detection,$(PAGE)/$(f).png)) experiments/$(EXP)/
	$(PY) -m bayesgen.report.causes experiments

record-paper:             ## the table of all contrasts: make record-paper PAGE=runs/page/paper-d70b150a
	cp $(PAGE)/paper.md $(PAGE)/overview.png experiments/

record-cost: install            ## costs of an experiment: make record-cost AS=birds PAGE=runs/page/birds-91fecfc1
	mkdir -p experiments/cost/$(AS)
	cp $(PAGE)/cost.md $(wildcard $(PAGE)/cost_*.png) experiments/cost/$(AS)/
	$(PY) -m bayesgen.report.side_by_side experiments/cost

record-beliefs:           ## a verdict: make record-beliefs PAGE=runs/page/beliefs-91fecfc1
	cp $(PAGE)/beliefs.md $(PAGE)/belief_*.png experiments/beliefs/

record-prediction:        ## what was foretold, and came: make record-prediction EXP=cities PAGE=runs/page/prediction-cities-91fecfc1
	cp $(PAGE)/prediction.md experiments/beliefs/$(EXP).md
	cp $(PAGE)/foreseen.png experiments/beliefs/$(EXP).png

test: install             ## everything from a fresh clone to green
	$(PY) -m pytest -n 2 -m "not slow"

test-slow: install        ## kill tests and whole pipelines
	$(PY) -m pytest -n 2 -m slow

check: install            ## style, types, direction of imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports

bench: install            ## ratios measured in one run on this machine
	$(PY) -m tests.benchmarks

lock:                     ## rewrite requirements.lock: hashes, no addresses
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --extra test --extra dev pyproject.toml requirements-build.in -o requirements.lock
