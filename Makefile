# `make help` lists the targets. Everything is installed into .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
VIDEOS ?= videos
MODEL ?= mft
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev check test demo download extract run clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	  { echo "Python 3.11 to 3.14 is needed: PyTorch and Ray have no release for others; name one: make PYTHON=python3.13 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(RUN)
	@echo "installing into $(VENV): about 6.5 GB, some minutes"
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

check: setup-dev ## lint, types, walls between rooms
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: setup-dev ## the tests
	$(RUN) -m pytest -n 2 --dist worksteal

demo: setup ## the whole way once, on a small generated corpus (MODEL=mcn: with MCN)
	$(RUN) -m pipeline.demo --model $(MODEL)

download: setup ## fetch what MANIFEST=... lists into VIDEOS (default: videos)
	@test -n "$(MANIFEST)" || { echo "name the list: make $@ MANIFEST=manifests/howto100m.parquet"; exit 2; }
	$(RUN) -m pipeline.download $(MANIFEST) --videos $(VIDEOS) $(ARGS)

extract: setup ## features of the downloaded videos of MANIFEST=... into shards/<name>
	@test -n "$(MANIFEST)" || { echo "name the list: make $@ MANIFEST=manifests/howto100m.parquet"; exit 2; }
	$(RUN) -m pipeline.extract $(MANIFEST) --videos $(VIDEOS) $(ARGS)

run: setup ## download, extract and delete MANIFEST=... in one go (ARGS='--disk-gigabytes 50')
	@test -n "$(MANIFEST)" || { echo "name the list: make $@ MANIFEST=manifests/howto100m.parquet"; exit 2; }
	$(RUN) -m pipeline.run $(MANIFEST) --videos $(VIDEOS) $(ARGS)

clean: ## remove the demo's data and results
	rm -rf corpus videos/demo shards/demo runs/demo runs/demo-mcn manifests/demo.parquet manifests/demo.ledger
