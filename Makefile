# `make demo` and `make test` set up the environment automatically; a second run skips it.
PYTHON ?= python3
SET_UP := $(PYTHON) tools/set_up/set_up.py
# Processes for `make test`: `auto` depends on cores and memory (tests/conftest.py), 0 starts none.
WORKERS ?= auto
# The environment's python: that of .venv, or of the active virtual environment.
RUN = "$$($(SET_UP) --which)"

.PHONY: help env demo study docs test test-slow test-processors lint clean-env
.DEFAULT_GOAL := help

help:
	@echo 'make demo       train and evaluate on toy data (sets up first if necessary)'
	@echo 'make study      train every arm of configs/study with its seeds, then report (hours; run again to resume)'
	@echo 'make docs       the documentation as a site, docs/_build/index.html'
	@echo 'make test       the test suite, in WORKERS=auto processes (sets up first if necessary)'
	@echo 'make test-slow  the slow tests, and a table of what was tried and what passed'
	@echo 'make test-processors  the numerical tests under the settings of other processors: a table'
	@echo 'make lint       ruff, codespell and mypy'
	@echo 'make env        only the set-up: .venv/ here, or the active virtual environment'
	@echo 'make clean-env  delete .venv/ (built mmcv wheels stay in the user cache)'

env:
	@$(SET_UP)

demo: env
	@$(RUN) tools/demo.py

study: env
	@$(RUN) tools/analysis_tools/run_study.py

docs: env
	@$(RUN) -m sphinx -qW --keep-going docs docs/_build

test: env
	@$(RUN) -m pytest -q -n $(WORKERS) --dist worksteal

test-slow: env
	@$(RUN) -m pytest -q -m 'slow or promise'

# TESTS=tests runs the whole suite under each setting.
test-processors: env
	@$(RUN) tests/processors.py $(TESTS)

lint: env
	@$(RUN) -m ruff check .
	@$(RUN) -m codespell_lib
	@$(RUN) -m mypy

clean-env:
	rm -rf .venv .venv.log .set_up.lock
