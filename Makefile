# Two commands matter: `make run` and `make test`. The rest is for those who change or rebuild things.
PYTHON ?= python3
VENV   := .venv
PIP    := --disable-pip-version-check --no-input --quiet
ARGS   ?=
KILLS  ?= 50
CASES  ?= 10000
ITEMS  ?= 1000000
TRAINING := training
BUNDLE ?= models/bundles/momo-mini
BUNDLES ?= models/bundles/momo-mini $(TRAINING)/concept-bridge

.DEFAULT_GOAL := help
.PHONY: help run test test-crash test-milvus fuzz lint format check gallery data features features-pixels train-momo bundle-momo eval \
        bench bench-api bench-crash soak bench-index bench-peers bench-parts bench-explanation bench-ablations bench-adaptation bundle-concept-bridge calibrate requirements \
        test-image api-doc clean
.DELETE_ON_ERROR:

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/run.stamp  ## start the service with the sample gallery (ARGS="--port 9000" adds flags)
	$(VENV)/bin/momoseek serve --gallery $(ARGS)

test: lint  ## lint, types and the whole test suite (ARGS="-k word" narrows the tests)
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/dev.stamp  ## ruff and mypy, changing nothing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/dev.stamp  ## let ruff rewrite what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

test-crash: $(VENV)/dev.stamp  ## kill -9, as often as you like: make test-crash KILLS=300
	KILLS=$(KILLS) $(VENV)/bin/python -m tests.crash

test-milvus: $(VENV)/milvus.stamp $(VENV)-milvus/stamp  ## the Milvus engine on Milvus Lite and on a real server, 5 minutes
	MILVUS_SERVER=$(CURDIR)/$(VENV)-milvus/bin/milvus-server $(VENV)/bin/python -m pytest tests/test_milvus*.py tests/test_mirror.py $(ARGS)

fuzz: $(VENV)/dev.stamp $(VENV)-fuzz/stamp  ## requests and pictures that nobody would send, against the whole API (CASES=10000)
	$(VENV)/bin/python -m bench.fuzz --cases $(CASES) --schemathesis $(VENV)-fuzz/bin/schemathesis $(ARGS)

check: $(VENV)-audit/stamp  ## known vulnerabilities in the pinned packages (asks a network service, fails without)
	$(VENV)-audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/dev.txt

gallery: $(VENV)/dev.stamp  ## rebuild the sample gallery from Debian and npm packages
	$(VENV)/bin/python -m service.gallery.build $(ARGS)

eval: $(VENV)/train.stamp  ## one table of every quality number, docs/evaluation.md (BUNDLES="DIR DIR")
	$(VENV)/bin/python -m bench.evaluation $(addprefix --bundle ,$(BUNDLES)) --out docs/evaluation $(ARGS)

api-doc: $(VENV)/dev.stamp  ## write docs/api.md anew from what the API says of itself
	$(VENV)/bin/python -m service.reference docs/api.md

bench: $(VENV)/dev.stamp  ## latency and memory of the running parts, as ratios to the bare calls
	$(VENV)/bin/python -m bench.latency $(ARGS)

calibrate: $(VENV)/train.stamp  ## fit what cosines say of relevance to a bundle, a minute or two (BUNDLE=DIR)
	$(VENV)/bin/python -m bench.relevance --bundle $(BUNDLE) --write --plot docs/relevance.png $(ARGS)

bench-explanation: $(VENV)/dev.stamp  ## do explanations point at the right things? (BUNDLE=DIR)
	$(VENV)/bin/python -m bench.explanation --bundle $(BUNDLE) $(ARGS)

bench-api: $(VENV)/dev.stamp  ## the API under load, as ratios to the bare calls (ARGS="--only embed"; ends with JSON)
	$(VENV)/bin/python -m bench.api $(ARGS)

bench-crash: $(VENV)/dev.stamp  ## 20,000 pictures in bulk while API and worker are killed ten times
	$(VENV)/bin/python -m bench.bulk_crash $(ARGS)

soak: $(VENV)/dev.stamp  ## half an hour of mixed load: memory stays flat and nothing fails (ARGS="--minutes 8")
	$(VENV)/bin/python -m bench.soak $(ARGS)

bundle-momo: $(VENV)/train.stamp  ## make a bundle of what `make train-momo` trained
	rm -rf models/bundles/momo-mini/*.onnx
	$(VENV)/bin/python -m models.export $(TRAINING)/runs/momo-mini/stage-3/weights.pt \
	  --folder $(TRAINING) --out models/bundles/momo-mini $(ARGS)

bench-index: $(VENV)/bench.stamp  ## what the index promises, measured (ITEMS=200000 takes 5 minutes instead of 40)
	$(VENV)/bin/python -m bench.index --items $(ITEMS) --embeddings build/embeddings.npz $(ARGS)

bench-peers: $(VENV)/bench.stamp  ## recall against speed beside other libraries (ITEMS=200000)
	$(VENV)/bin/python -m bench.peers --items $(ITEMS) $(ARGS)

bench-parts: $(VENV)/train.stamp  ## speed of the encoder beside its parts (needs `make bundle-concept-bridge`)
	$(VENV)/bin/python -m bench.parts --bundle models/bundles/momo-mini --bridge $(TRAINING)/concept-bridge $(ARGS)

bundle-concept-bridge: $(VENV)/train.stamp  ## the baseline without training, from its published parts
	$(VENV)/bin/python -m bench.concept_bridge build --out $(TRAINING)/concept-bridge $(ARGS)

data: $(VENV)/train.stamp  ## draw the training pictures into training/ (npm, and Debian packages named in docs/training.md)
	mkdir -p $(TRAINING) && cp models/data/sources/package.json $(TRAINING)/
	npm install --prefix $(TRAINING) --no-audit --no-fund --silent
	$(VENV)/bin/momoseek data build --out $(TRAINING) --npm $(TRAINING)/node_modules $(ARGS)

features: $(VENV)/train.stamp  ## what the stem sees of every training picture, once (needs `make data`)
	$(VENV)/bin/python -m models.stem --out $(TRAINING)/stem.onnx
	$(VENV)/bin/python -m models.training.features --folder $(TRAINING) --stem $(TRAINING)/stem.onnx

features-pixels: $(VENV)/train.stamp  ## the same pictures as small squares, for the ablation without a stem
	$(VENV)/bin/python -m models.training.features --folder $(TRAINING) --pixels

train-momo: $(VENV)/train.stamp  ## the three stages of momo-mini, resumed where they were cut (needs `make features`)
	for stage in 1 2 3; do $(VENV)/bin/momoseek train --stage $$stage --folder $(TRAINING) $(ARGS) || exit 1; done

bench-adaptation: $(VENV)/dev.stamp  ## what adapters learn from so many labelled pictures, 5 minutes (needs the sets in ../shared)
	$(VENV)/bin/python -m bench.adaptation --out bench/results/adaptation.json $(ARGS)

bench-ablations: $(VENV)/train.stamp  ## what each part of the training is worth: hours (needs `make features`)
	$(VENV)/bin/python -m bench.ablations run --folder $(TRAINING) $(ARGS)
	$(VENV)/bin/python -m bench.ablations report

requirements: $(VENV)-uv/stamp  ## pin everything anew, with hashes, for the supported Pythons
	$(VENV)-uv/bin/uv lock --upgrade
	for set in "cpu --extra cpu" "gpu --extra gpu" "dev --extra cpu --extra postgres --extra jwt --extra otel --extra dev" "fuzz --only-group fuzz"; do set -- $$set; name=$$1; shift; \
	  $(VENV)-uv/bin/uv export --quiet --format requirements-txt --no-emit-project --no-header --no-annotate \
	    "$$@" --output-file requirements/$$name.txt >/dev/null || exit 1; done

test-image:  ## build the cpu image without a container engine and search in it (root, Debian)
	deploy/test-image.sh

clean:  ## remove environments, caches and build leftovers; the data folder stays
	rm -rf $(VENV) $(VENV)-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .image
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment for all: `run` puts in what serving needs, `test` adds tools and torch, training the parts.
$(VENV)/run.stamp: requirements/cpu.txt pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install $(PIP) --require-hashes -r requirements/cpu.txt
	$(VENV)/bin/python -m pip install $(PIP) --no-deps --config-settings editable_mode=compat -e .
	@touch $@

# torch comes first and alone, so that an index that offers a CPU build of it can win.
$(VENV)/dev.stamp: requirements/dev.txt requirements/torch.txt $(VENV)/run.stamp
	$(VENV)/bin/python -m pip install $(PIP) torch==2.13.0
	$(VENV)/bin/python -m pip install $(PIP) --no-deps -r requirements/torch.txt
	$(VENV)/bin/python -m pip install $(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

# Debian splits ensurepip from its python3: without it a virtual environment has no pip.
$(VENV)/bin/python $(VENV)-uv/bin/python $(VENV)-audit/bin/python $(VENV)-milvus/bin/python $(VENV)-fuzz/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "momoseek needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments. On Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(patsubst %/bin/python,%,$@)

$(VENV)/train.stamp: requirements/train.txt $(VENV)/dev.stamp
	$(VENV)/bin/python -m pip install $(PIP) --no-deps -r requirements/train.txt
	@touch $@

$(VENV)/milvus.stamp: requirements/milvus.txt $(VENV)/dev.stamp
	$(VENV)/bin/python -m pip install $(PIP) -r requirements/milvus.txt
	@touch $@

$(VENV)-milvus/stamp: requirements/milvus-server.txt | $(VENV)-milvus/bin/python
	$(VENV)-milvus/bin/python -m pip install $(PIP) -r requirements/milvus-server.txt
	@touch $@

$(VENV)/bench.stamp: requirements/bench.txt $(VENV)/dev.stamp
	$(VENV)/bin/python -m pip install $(PIP) -r requirements/bench.txt
	@mkdir -p build
	@touch $@

$(VENV)-uv/stamp: | $(VENV)-uv/bin/python
	$(VENV)-uv/bin/python -m pip install $(PIP) uv
	@touch $@

$(VENV)-fuzz/stamp: requirements/fuzz.txt | $(VENV)-fuzz/bin/python
	$(VENV)-fuzz/bin/python -m pip install $(PIP) --require-hashes -r requirements/fuzz.txt
	@touch $@

$(VENV)-audit/stamp: | $(VENV)-audit/bin/python
	$(VENV)-audit/bin/python -m pip install $(PIP) pip-audit
	@touch $@
