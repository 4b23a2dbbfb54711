# `make demo` and `make test` set up the environment by themselves; a second run does not redo it.
PYTHON ?= python3
SET_UP := $(PYTHON) tools/set_up/set_up.py
# Processes of `make test`: `auto` is by cores and memory (tests/conftest.py), 0 starts no others.
WORKERS ?= auto
# The environment's python: .venv's, or that of the virtual environment that is active.
RUN = "$$($(SET_UP) --which)"

.PHONY: help env demo study docs test test-slow test-processors lint clean-env
.DEFAULT_GOAL := help

help:
	@echo 'make demo       train and evaluate in the miniature world (sets up first if need be)'
	@echo 'make study      train every arm of configs/study with its seeds: hours; a report (go on by the same command)'
	@echo 'make docs       the documentation as a site, docs/_build/index.html'
	@echo 'make test       the test suite, in WORKERS=auto processes (sets up first if need be)'
	@echo 'make test-slow  the tests marked slow, and a table of what was tried and what survived'
	@echo 'make test-processors  the tests that compare numbers, as on other processors: a table'
	@echo 'make lint       ruff, codespell and mypy'
	@echo 'make env        only the set-up: .venv/ here, or the virtual environment that is active'
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
